//! Ranges of the sizes that are fixed at start.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::plan::Limits;

const MIB: u64 = 1 << 20;
/// Most virtual detectors: each costs time on every frame.
pub(crate) const VIRTUAL_MAX: usize = 64;

/// One size: its key in `[limits]`, its range in the key's unit, and how to get and set it.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) key: &'static str,
    min: u64,
    max: u64,
    pub(crate) read: fn(&Limits) -> u64,
    pub(crate) write: fn(&mut Limits, u64),
}

impl Limit {
    pub(crate) fn range(&self) -> RangeInclusive<u64> {
        self.min..=self.max
    }
}

/// Largest reserve that can be asked for, in GiB: 1 PiB.
const RESERVE_GIB_MAX: f64 = 1_048_576.0;
/// What `data.reserve_gib` expects.
pub(crate) const RESERVE_RULE: &str = "GiB of free space to leave alone, a number from 0 to 1048576";

/// Reads `data.reserve_gib`; in bytes.
pub(crate) fn reserve_bytes(gib: f64) -> Result<u64, String> {
    match (0.0..=RESERVE_GIB_MAX).contains(&gib) {
        true => Ok((gib * (1_u64 << 30) as f64) as u64),
        false => Err(format!("expected {RESERVE_RULE}")),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Every limit a user may set. Counts fit 32 bits by their range.
pub(crate) const LIMITS: [Limit; 11] = [
    Limit {
        key: "block_mib",
        min: 1,
        max: 256,
        read: |l| l.block_bytes.div_ceil(MIB),
        write: |l, n| l.block_bytes = n * MIB,
    },
    Limit {
        key: "seal_after_ms",
        min: 1,
        max: 10_000,
        read: |l| ms(l.seal_after),
        write: |l, n| l.seal_after = Duration::from_millis(n),
    },
    Limit {
        key: "raw_queue_blocks",
        min: 1,
        max: 4096,
        read: |l| l.raw_queue_blocks.into(),
        write: |l, n| l.raw_queue_blocks = n as u32,
    },
    Limit {
        key: "write_depth",
        min: 1,
        max: 256,
        read: |l| l.write_depth.into(),
        write: |l, n| l.write_depth = n as u32,
    },
    Limit {
        key: "live_queue_blocks",
        min: 1,
        max: 256,
        read: |l| l.live_queue_blocks.into(),
        write: |l, n| l.live_queue_blocks = n as u32,
    },
    Limit {
        key: "reducers",
        min: 1,
        max: 256,
        read: |l| l.reducer_count.into(),
        write: |l, n| l.reducer_count = n as u32,
    },
    Limit {
        key: "packers",
        min: 1,
        max: 256,
        read: |l| l.packer_count.into(),
        write: |l, n| l.packer_count = n as u32,
    },
    Limit {
        key: "silence_s",
        min: 1,
        max: 86_400,
        read: |l| ms(l.silence).div_ceil(1000),
        write: |l, n| l.silence = Duration::from_secs(n),
    },
    Limit {
        key: "sync_interval_ms",
        min: 10,
        max: 60_000,
        read: |l| ms(l.sync_interval),
        write: |l, n| l.sync_interval = Duration::from_millis(n),
    },
    Limit {
        key: "message_mib",
        min: 1,
        max: 1024,
        read: |l| l.message_bytes.div_ceil(MIB),
        write: |l, n| l.message_bytes = n * MIB,
    },
    Limit {
        key: "subscribers",
        min: 1,
        max: 65_536,
        read: |l| l.subscriber_count.into(),
        write: |l, n| l.subscriber_count = n as u32,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/configuration.md` names every limit with its range; defaults lie inside, and what is set is what is read.
    #[test]
    fn limits_are_documented() {
        let page = include_str!("../../docs/configuration.md");
        for limit in &LIMITS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", limit.key))).expect(limit.key);
            assert!(row.contains(&format!("| {} to {} |", limit.min, limit.max)), "{row}");
            let mut limits = Limits::default();
            let default = (limit.read)(&limits);
            assert!(limit.range().contains(&default), "{}", limit.key);
            assert!(matches!(limit.key, "reducers" | "packers") || row.ends_with(&format!("| {default} |")), "{row}");
            for count in [limit.min, limit.max] {
                (limit.write)(&mut limits, count);
                assert_eq!((limit.read)(&limits), count, "{}", limit.key);
            }
        }
    }
}
