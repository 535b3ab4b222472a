//! Wall clock times as the numbers that documents and messages carry.

use std::time::SystemTime;

/// ns since the Unix epoch, UTC; 0 for times before it.
pub(crate) fn epoch_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
