//! Threads that serve viewers stand back behind those that receive and write.

/// What a thread that stands back adds to its nice value.
const STAND_BACK_NICE: i32 = 10;

/// Puts the calling thread behind receive and writer threads without starving it: about a tenth of a contended processor
/// is left to it. Where the system refuses, a warning says so.
pub fn stand_back() {
    if let Err(error) = rustix::process::nice(STAND_BACK_NICE) {
        tracing::warn!("a thread for viewers keeps normal priority: {error}");
    }
}
