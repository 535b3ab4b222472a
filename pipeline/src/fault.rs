//! Panics on purpose: a stage that is told to ends in a panic, so that what becomes of the others can be tried with the
//! real program.
//!
//! # Place in the path
//! Every stage calls [`pass`] once per block, file, chunk, look or acquisition, never per frame. Only `ronchi` arms it, and
//! only when `RONCHI_PANIC` is set (`docs/testing.md`).
//!
//! # Invariants
//! - I1: armed once at most, before any stage starts; at most one panic.
//! - I2: while it is not armed a pass is one load and one branch that is never taken.
//!
//! # Why this way
//! A feature of the build would leave nothing at all in the program that is shipped, but then what is tried would be
//! another program. See `docs/decisions/0016-panics.md`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stage that can be told to panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A receive thread, with a block that it hands on.
    Receive,
    /// The writer's thread, with a block that it takes.
    Write,
    /// The writer's helper, with something to do with files.
    Clerk,
    /// A thread that compresses, with a chunk.
    Pack,
    /// A reducer, with a block.
    Reduce,
    /// The publisher of the live stream, at a look at the board.
    Publish,
    /// The HTTP server's thread, with a connection.
    Http,
    /// The finisher, with an acquisition.
    Finish,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Receive, Self::Write, Self::Clerk, Self::Pack, Self::Reduce, Self::Publish, Self::Http, Self::Finish];

    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Write => "write",
            Self::Clerk => "clerk",
            Self::Pack => "pack",
            Self::Reduce => "reduce",
            Self::Publish => "publish",
            Self::Http => "http",
            Self::Finish => "finish",
        }
    }
}

struct Armed {
    stage: Stage,
    left: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// From now on this stage panics at its `number`-th pass, counted from 1; `false` when something is armed already.
pub fn arm(stage: Stage, number: u64) -> bool {
    ARMED.set(Armed { stage, left: AtomicU64::new(number) }).is_ok()
}

/// A stage begins with the next thing.
///
/// # Panics
/// When this is what it was armed for.
#[inline]
pub fn pass(stage: Stage) {
    if let Some(armed) = ARMED.get() {
        armed.pass(stage);
    }
}

impl Armed {
    #[cold]
    fn pass(&self, stage: Stage) {
        let count = |left: u64| left.checked_sub(1);
        if stage == self.stage && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1) {
            panic!("RONCHI_PANIC asks for this panic of stage {}", stage.word());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stage that is armed panics at the pass that was asked for, once; the others never do.
    #[test]
    fn one_panic_of_one_stage() {
        let armed = Armed { stage: Stage::Pack, left: AtomicU64::new(3) };
        let has_panicked =
            |stage| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| armed.pass(stage))).is_err();
        let passes = [Stage::Pack, Stage::Clerk, Stage::Pack, Stage::Pack, Stage::Pack, Stage::Reduce];
        assert_eq!(passes.map(has_panicked), [false, false, false, true, false, false]);
        pass(Stage::Pack);
        assert!(Stage::ALL.iter().all(|stage| !stage.word().is_empty()));
    }
}
