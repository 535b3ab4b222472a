//! Any bytes as a data stream, received by the whole source in pieces the input chooses.
#![no_main]

#[path = "../../ingest/tests/merlin/driver.rs"]
#[allow(dead_code, unreachable_pub)]
mod driver;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use driver::{Driver, Manner, Part, ScriptDial};
use libfuzzer_sys::fuzz_target;
use ronchi_ingest::merlin::{MerlinOptions, MerlinSource};
use ronchi_pipeline::{LinkCounters, Pool};

const BLOCK_BYTES: u64 = 16 << 10;
static POOL: LazyLock<Pool> = LazyLock::new(|| Driver::pool(BLOCK_BYTES));

/// Pieces of one connection; what is left behind them comes at once.
const PART_COUNT_MAX: usize = 200;

/// The first bytes choose how the rest is cut: byte 0 seeds the loop, bytes 1 to 4 are lengths of pieces (0 = a pause).
fn parts(cuts: &[u8; 4], stream: &[u8]) -> Vec<Part> {
    let (mut parts, mut rest) = (Vec::new(), stream);
    for turn in 0.. {
        if rest.is_empty() {
            break;
        }
        let length = if turn < PART_COUNT_MAX { usize::from(cuts[turn % 4]).pow(2) / 4 } else { rest.len() };
        let (part, tail) = rest.split_at(length.min(rest.len()));
        parts.push(if part.is_empty() { Part::Nothing } else { Part::Bytes(part.to_vec()) });
        rest = tail;
    }
    parts
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[seed, a, b, c, d], stream)) = bytes.split_first_chunk() else { return };
    let counters = Arc::new(LinkCounters::default());
    let options = MerlinOptions {
        message_bytes: 256 << 10,
        silence: if seed & 1 == 0 { Duration::ZERO } else { Duration::from_secs(3600) },
        linger: if seed & 2 == 0 { Duration::ZERO } else { Duration::from_secs(3600) },
        read_bytes: if seed & 4 == 0 { 1 << 20 } else { 1500 },
        backoff: Duration::ZERO,
    };
    let (first, second) = stream.split_at(if seed & 8 == 0 { stream.len() } else { stream.len() / 2 });
    let cuts = [a, b, c, d];
    let dial = ScriptDial::boxed([parts(&cuts, first), parts(&cuts, second)]);
    let mut source = MerlinSource::over(dial, options, Arc::clone(&counters));
    let manner = Manner { block_bytes: BLOCK_BYTES, seed: u64::from(seed), wait_count_max: 1000, ..Manner::default() };
    let mut driver = Driver::new(&mut source, &POOL, Arc::clone(&counters), manner);
    for run in driver.play(1000) {
        assert_eq!(run.frame_count, run.received_count + run.gaps.frame_count(), "every frame is accounted for");
        assert_eq!(run.frames.len() as u64, run.received_count);
    }
    let received = LinkCounters::read(&counters.bytes);
    assert!(received <= stream.len() as u64);
});
