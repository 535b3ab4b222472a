//! Rate of the reduction kernels on one core, from memory and from the caches, against the rate of reading memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer, Reduction, VirtualDetector};
use ronchi_pipeline::{PixelType, Pool, SigShape, Slot};
use serde_json::json;

use crate::limits;

/// Bytes reduced at a time, as in a running receiver.
const BLOCK_BYTES: usize = 4 << 20;
/// Blocks in memory: far more than the caches hold.
const BLOCK_COUNT: u32 = 64;
/// Pixels are at most this, so that sums are like those of counts.
const COUNTS_MAX: u8 = 32;

/// Rate of the reduction kernels on one core.
#[derive(Debug, clap::Args)]
pub(crate) struct Reduce {
    /// Rows and columns of the detector.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1024))]
    side: u32,
    /// Passes over the frames; the best counts.
    #[arg(long, default_value_t = 5)]
    passes: u32,
}

impl Reduce {
    pub(crate) fn run(&self) -> Result<()> {
        let memory = limits::memory_read()?;
        let blocks = blocks()?;
        for name in ["|u1", "<u2", ">u2", ">u4", "<f4"] {
            let pixel = PixelType::from_numpy_name(name).ok_or_else(|| anyhow::anyhow!("pixel type {name}"))?;
            for (case, reductions) in cases(self.side) {
                let plan = Arc::new(self.plan(&reductions, pixel)?);
                let [from_memory, from_cache] = [&blocks[..], &blocks[..1]].map(|part| self.rate(&plan, part));
                let line = json!({
                    "bench": "reduce", "pixel": name, "side": self.side, "case": case,
                    "gb_per_s": gigabytes(from_memory), "cached_gb_per_s": gigabytes(from_cache),
                    "memory_gb_per_s": gigabytes(memory), "of_memory": (from_memory / memory * 1e3).round() / 1e3,
                });
                println!("{line}");
            }
        }
        Ok(())
    }

    fn plan(&self, reductions: &[Reduction], pixel: PixelType) -> Result<ReducePlan> {
        let detector = SigShape { height: self.side, width: self.side };
        Ok(ReducePlan::compile(reductions, detector, detector.region(), pixel)?)
    }

    /// Bytes per second over so many blocks, a few rounds a pass; the best pass.
    fn rate(&self, plan: &Arc<ReducePlan>, blocks: &[Slot]) -> f64 {
        let mut reducer = Reducer::new(Arc::clone(plan));
        let frame_bytes = (self.side * self.side) as usize * plan.pixel().bytes();
        let block_bytes = BLOCK_BYTES / frame_bytes * frame_bytes;
        let rounds = BLOCK_COUNT as usize / blocks.len();
        let mut best = 0.0_f64;
        for _ in 0..self.passes {
            let started = Instant::now();
            for block in (0..rounds).flat_map(|_| blocks) {
                if let Ok(frames) = Frames::new(0, &block.bytes()[..block_bytes], plan.pixel(), plan.region()) {
                    reducer.reduce(&frames);
                    std::hint::black_box(reducer.take());
                }
            }
            best = best.max((rounds * blocks.len() * block_bytes) as f64 / started.elapsed().as_secs_f64());
        }
        best
    }
}

fn cases(side: u32) -> Vec<(&'static str, Vec<Reduction>)> {
    let centre = f64::from(side) / 2.0;
    let ring = |name: &str, inner: f64, outer: f64| {
        let radius = |part: f64| part * f64::from(side);
        let detector = VirtualDetector::Ring { cy: centre, cx: centre, inner: radius(inner), outer: radius(outer) };
        Reduction::virtual_detector(name, detector)
    };
    let four = [("a", 0.0, 0.1), ("b", 0.1, 0.2), ("c", 0.2, 0.3), ("d", 0.3, 0.45)];
    let four: Vec<Reduction> = four.iter().map(|&(name, inner, outer)| ring(name, inner, outer)).collect();
    vec![
        ("total", vec![Reduction::total()]),
        ("1 ring", vec![ring("adf", 0.15, 0.35)]),
        ("4 rings", four.clone()),
        ("centre of mass", vec![Reduction::centre_of_mass()]),
        ("sum", vec![Reduction::sum()]),
        ("max", vec![Reduction::max()]),
        ("4 rings + centre of mass + sum", [four, vec![Reduction::centre_of_mass(), Reduction::sum()]].concat()),
    ]
}

/// Blocks as a running receiver has them, on its kind of memory, with bytes that look like counts in every pixel type:
/// small numbers, the same on every run.
fn blocks() -> Result<Vec<Slot>> {
    let pool = Pool::new(BLOCK_COUNT, BLOCK_BYTES)?;
    let mut blocks: Vec<Slot> = (0..BLOCK_COUNT).filter_map(|_| pool.take(Duration::ZERO)).collect();
    let mut state = 1_u64;
    for byte in blocks.iter_mut().flat_map(|block| block.bytes_mut()) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 58) as u8 % COUNTS_MAX;
    }
    Ok(blocks)
}

fn gigabytes(bytes_per_s: f64) -> f64 {
    (bytes_per_s / 1e7).round() / 100.0
}
