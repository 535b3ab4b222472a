//! Frames on time: a time table that is absolute, so that delays do not add up.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest sleep between two looks at what may halt a sender.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Nanoseconds since 1970 now; 0 if the clock is set before that.
pub(super) fn unix_ns_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The time table of a paced acquisition: tick `k` is due at `start + k / rate`.
pub(super) struct Pacer {
    started: Instant,
    interval_ns: Option<f64>,
}

impl Pacer {
    /// Starts now; a rate of 0 makes every tick due at once.
    pub(super) fn start(rate_hz: f64) -> Self {
        Self { started: Instant::now(), interval_ns: (rate_hz > 0.0).then(|| 1e9 / rate_hz) }
    }

    /// Sleeps until a tick is due, or the sender is halted.
    pub(super) fn wait_for(&self, tick: u64, is_halted: impl Fn() -> bool) {
        let Some(interval_ns) = self.interval_ns else { return };
        let due = Duration::from_nanos((tick as f64 * interval_ns) as u64);
        while !is_halted() {
            let left = due.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(SLEEP_MAX));
        }
    }

    /// Number of ticks whose time has come.
    pub(super) fn ticks_due(&self) -> u64 {
        let elapsed_ns = self.started.elapsed().as_nanos() as f64;
        self.interval_ns.map_or(u64::MAX, |interval_ns| (elapsed_ns / interval_ns) as u64 + 1)
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
