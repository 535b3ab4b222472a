//! Text for people and scripts on standard output and standard error.
//!
//! `println!` and its kin panic when whoever reads them has gone (`ronchi serve | head`). A lost line must never end a
//! recording, so here it is only a lost line.

use std::fmt::Arguments;
use std::io::Write;

/// Prints to standard output what `print!` would.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::write(std::io::stdout().lock(), format_args!($($text)*), "") };
}

/// Prints a line to standard output.
macro_rules! say_line {
    ($($text:tt)*) => { $crate::output::write(std::io::stdout().lock(), format_args!($($text)*), "\n") };
}

/// Prints a line to standard error.
macro_rules! note_line {
    ($($text:tt)*) => { $crate::output::write(std::io::stderr().lock(), format_args!($($text)*), "\n") };
}

pub(crate) use {note_line, say, say_line};

/// Writes and flushes; an error is nobody's to handle.
pub(crate) fn write(mut to: impl Write, text: Arguments<'_>, end: &str) {
    let _ = write!(to, "{text}{end}").and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind, Write};

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(Error::from(ErrorKind::BrokenPipe))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(Error::from(ErrorKind::BrokenPipe))
        }
    }

    #[test]
    fn a_reader_that_has_gone_ends_nothing() {
        super::write(Gone, format_args!("{}", 1), "\n");
        let mut kept = Vec::new();
        super::write(&mut kept, format_args!("{} frames", 2), "\n");
        assert_eq!(kept, b"2 frames\n");
    }
}
