//! Which threads of the receiver have panicked: told by the threads themselves, read by whoever ends the receiver or
//! answers for it.

use std::sync::{Arc, Mutex, PoisonError};

use super::board::Board;

/// Names of threads that panicked, in order; a handful at most, as each can only once.
#[derive(Debug, Default)]
pub(super) struct Stages(Mutex<Vec<&'static str>>);

/// Kept by a thread while it runs.
#[derive(Debug)]
pub struct StageGuard {
    board: Arc<Board>,
    stage: &'static str,
}

impl Drop for StageGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (stage, stages) = (self.stage, &self.board.stages.0);
            tracing::error!(stage, "this stage panicked: the receiver ends as soon as it may");
            stages.lock().unwrap_or_else(PoisonError::into_inner).push(stage);
        }
    }
}

impl Board {
    /// For a thread to keep as long as it runs: should it panic, [`Self::fallen`] names it.
    pub fn watch(self: &Arc<Self>, stage: &'static str) -> StageGuard {
        StageGuard { board: Arc::clone(self), stage }
    }

    /// Stages that panicked; empty unless there is a bug.
    pub fn fallen(&self) -> Vec<&'static str> {
        self.stages.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Wiring;

    /// A thread that panics is named, one that ends well is not.
    #[test]
    fn who_panics_is_named() {
        let board = Board::new(Wiring::default());
        let run = |stage: &'static str, has_panic: bool| {
            let guard = board.watch(stage);
            let thread = std::thread::spawn(move || {
                let _guard = guard;
                assert!(!has_panic, "on purpose");
            });
            assert_eq!(thread.join().is_err(), has_panic);
        };
        run("a", false);
        run("b", true);
        assert_eq!(board.fallen(), ["b"]);
    }
}
