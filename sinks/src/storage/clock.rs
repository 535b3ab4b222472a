//! `Clock`: what time it is, passed in, so that a jump of it is a unit test.

use std::fmt::Debug;
use std::time::{Instant, SystemTime};

/// Two clocks that nobody may confuse.
pub trait Clock: Debug + Send + Sync {
    /// The monotonic clock: every interval comes from here.
    fn now(&self) -> Instant;

    /// Wall time, which may jump: written down, never compared.
    fn wall(&self) -> SystemTime;
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
