//! What this process has used so far, as the kernel counts it.

use serde::Serialize;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// What the receiver said at start it would use at most.
    pub ceiling_bytes: u64,
    /// Largest resident size so far.
    pub resident_max_bytes: u64,
}

/// CPU seconds of all threads, user and system; 0 where `/proc` is missing.
pub(crate) fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc_pid_stat(5): the name may hold spaces, so fields count from the last parenthesis; utime and stime are
    // fields 14 and 15, in clock ticks.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Largest resident size so far, in bytes; 0 where `/proc` is missing.
pub(crate) fn resident_max_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Puts the calling thread behind everything else that wants the processor: `SCHED_IDLE`, because the scheduler then
/// counts its processor as free when a receive or writer thread wakes up. For work that can be done later.
pub(crate) fn run_when_idle() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let result = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = result {
        tracing::warn!("a background thread keeps normal priority: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A busy process has used some CPU and some memory.
    #[test]
    fn the_kernel_counts_us() {
        let busy: Vec<u64> = (0..2_000_000).collect();
        assert!(busy.iter().sum::<u64>() > 0);
        assert!(resident_max_bytes() > 16_000_000 && resident_max_bytes() < 1 << 40);
        assert!(cpu_s() < 1e6);
    }
}
