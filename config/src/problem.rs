//! What is wrong with a configuration: one line per problem, in the order of the file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Longest piece of the user's text that is repeated in a message, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// One problem, shown as `FILE:LINE: KEY = VALUE: what is allowed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file as the user gave it; empty when the plan came from the command line.
    pub file: String,
    /// Line, from 1; 0 when the plan came from the command line.
    pub line: usize,
    /// The key, e.g. `scan.shape` or `link[0].region`.
    pub key: String,
    /// The value that came, escaped and cut; `None` when a key is missing or unknown.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        match (&self.value, self.key.is_empty()) {
            (Some(value), _) => write!(f, "{} = {value}: {}", self.key, self.message),
            (None, true) => write!(f, "{}", self.message),
            (None, false) => write!(f, "{}: {}", self.key, self.message),
        }
    }
}

/// Everything that is wrong with one plan, one line each; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// All problems, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let line_end = if i == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{}: {bytes} bytes, a configuration has at most {max_bytes}", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What is accepted.
        max_bytes: u64,
    },
    /// Keys or values are wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// A value given on the command line is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value}: {expected}")]
pub struct ValueError {
    /// What came, escaped and cut.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub expected: String,
}

impl ValueError {
    pub(crate) fn new(value: &str, expected: impl Into<String>) -> Self {
        Self { value: quoted(value), expected: expected.into() }
    }
}

/// The user's text, safe to print: control characters escaped, cut to a readable length.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.trim().chars().take(QUOTED_CHARS_MAX).flat_map(escaped).collect();
    if text.trim().chars().count() > QUOTED_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let plain = (!c.is_control()).then_some(c);
    let escape = c.is_control().then(|| c.escape_default()).into_iter().flatten();
    plain.into_iter().chain(escape)
}
