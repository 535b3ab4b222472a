//! What a simulator has sent so far; counters that any thread may read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

use super::fault::{FaultCounts, FaultKind};

/// What a simulator has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SimulatorReport {
    /// Acquisitions begun, those cut short included.
    pub acquisitions: u64,
    /// Frame messages sent whole or truncated; repeated frames count twice, lost ones do not.
    pub frames_sent: u64,
    /// Bytes of all messages with frames.
    pub bytes_sent: u64,
    /// Time spent sending frames, pauses between frames included, in seconds.
    pub sending_s: f64,
    /// When the last write with frames began, ns since 1970; 0 if none did.
    pub last_sent_unix_ns: u64,
    /// Messages that no client took in time; none where a client's connection carries them.
    pub messages_dropped: u64,
    /// How often each kind of fault has happened; kinds that have not are left out.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Counters behind the report.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acquisitions: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    sending_ns: AtomicU64,
    last_sent_unix_ns: AtomicU64,
    dropped: AtomicU64,
    faults: [AtomicU64; FaultKind::ALL.len()],
}

impl Tally {
    /// Counts an acquisition and returns its number, from 0.
    pub(super) fn begin(&self) -> u64 {
        self.acquisitions.fetch_add(1, Relaxed)
    }

    pub(super) fn add_sent(&self, frames: u64, bytes: u64, unix_ns: u64) {
        self.frames.fetch_add(frames, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.last_sent_unix_ns.store(unix_ns, Relaxed);
    }

    pub(super) fn add_dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn add_sending(&self, time: Duration) {
        self.sending_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn add_faults(&self, counts: FaultCounts) {
        for (total, count) in self.faults.iter().zip(counts) {
            total.fetch_add(count, Relaxed);
        }
    }

    pub(super) fn report(&self) -> SimulatorReport {
        let faults = FaultKind::ALL.iter().zip(&self.faults).map(|(kind, count)| (kind.name(), count.load(Relaxed)));
        SimulatorReport {
            acquisitions: self.acquisitions.load(Relaxed),
            frames_sent: self.frames.load(Relaxed),
            bytes_sent: self.bytes.load(Relaxed),
            sending_s: self.sending_ns.load(Relaxed) as f64 * 1e-9,
            last_sent_unix_ns: self.last_sent_unix_ns.load(Relaxed),
            messages_dropped: self.dropped.load(Relaxed),
            faults: faults.filter(|&(_, count)| count > 0).collect(),
        }
    }
}
