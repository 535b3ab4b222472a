//! Rate of the reduction kernels, from memory, as shares of what memory and processor allow in the same rounds.
//!
//! Frames lie in more memory than the caches hold, in blocks as a running receiver has them. Every round measures the
//! limits and then every case, so that whatever else the machine does meets all of them alike; shares are medians over
//! rounds of the rate of a case by the limit of its round.

pub(crate) mod cases;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ronchi_pipeline::format::packed12;
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer};
use ronchi_pipeline::{ByteOrder, PixelType, Pool, SigShape, Slot};
use serde_json::json;

use crate::processor;
use cases::{Case, Limit};

/// Bytes reduced at a time, as in a running receiver.
const BLOCK_BYTES: usize = 4 << 20;
/// Pixels are at most this, so that sums are like those of counts.
const COUNTS_MAX: u32 = 32;

/// Rate of the reduction kernels.
#[derive(Debug, clap::Args)]
pub(crate) struct Reduce {
    /// Rows and columns of the detector.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1024))]
    side: u32,
    /// Rounds; each measures everything once.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// MiB of frames; more than the caches hold.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=8192))]
    mib: u32,
    /// Threads, each with its own part of the frames.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Pixel types.
    #[arg(long, value_delimiter = ',', default_values_t = ["<u2".to_owned(), ">u2".into(), "|u1".into(), "<f4".into()])]
    pixels: Vec<String>,
    /// Only cases whose name has this in it.
    #[arg(long)]
    only: Option<String>,
    /// One short round of everything, to see that it works.
    #[arg(long)]
    quick: bool,
}

/// What one thread can do at most, beside as many others.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bytes per second of all threads together.
    read: f64,
    /// Multiply-and-adds per second of all threads together, single precision.
    single: f64,
    double: f64,
}

/// One case on so many threads, with what its rounds gave.
struct Measured<'a> {
    case: &'a Case,
    threads: usize,
    /// Bytes per second and share of the limit.
    rounds: Vec<(f64, f64)>,
}

impl Reduce {
    pub(crate) fn run(&self) -> Result<()> {
        let mib = if self.quick { 32 } else { self.mib as usize };
        let mut blocks = Blocks::new((mib << 20) / BLOCK_BYTES)?;
        eprintln!("| pixel | case | threads | GB/s, best | share, median | share, least | target |");
        eprintln!("|---|---|---|---|---|---|---|");
        for name in &self.pixels {
            let pixel = PixelType::from_numpy_name(name).with_context(|| format!("pixel type {name}"))?;
            blocks.fill(pixel);
            let mut cases = cases::all(self.side, pixel)?;
            cases.retain(|case| self.only.as_ref().is_none_or(|part| case.name.contains(part.as_str())));
            self.measure(&cases, &blocks);
        }
        Ok(())
    }

    fn measure(&self, cases: &[Case], blocks: &Blocks) {
        let mut limits = Vec::new();
        let mut measured: Vec<Measured<'_>> = Vec::new();
        for &threads in &self.threads {
            measured.extend(cases.iter().map(|case| Measured { case, threads, rounds: Vec::new() }));
        }
        for _ in 0..if self.quick { 1 } else { self.rounds.max(1) } {
            for &threads in &self.threads {
                let limit = measure_limits(&blocks.blocks, threads);
                limits.push((threads, limit));
                for one in measured.iter_mut().filter(|one| one.threads == threads) {
                    let rate = together(&blocks.blocks, threads, |part| one.case.seconds(part));
                    let rate = rate * one.case.share_of_bytes();
                    one.rounds.push((rate, rate / one.case.limit(&limit)));
                }
            }
        }
        report(&limits, &measured);
    }
}

/// Bytes per second of all threads together, each over its own part of the blocks; `seconds` says how long it took one.
fn together(blocks: &[Slot], threads: usize, seconds: impl Fn(&[Slot]) -> f64 + Sync) -> f64 {
    let parts = blocks.chunks(blocks.len().div_ceil(threads.max(1)));
    let rates = std::thread::scope(|scope| {
        let running: Vec<_> = parts
            .map(|part| {
                let seconds = &seconds;
                scope.spawn(move || (part.len() * BLOCK_BYTES) as f64 / seconds(part))
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<f64>>()
    });
    rates.into_iter().sum()
}

fn measure_limits(blocks: &[Slot], threads: usize) -> Limits {
    let read = together(blocks, threads, |part| {
        let started = processor::seconds();
        let sum = part.iter().map(|block| processor::read(&block.bytes()[..BLOCK_BYTES])).fold(0, u64::wrapping_add);
        std::hint::black_box(sum);
        processor::seconds() - started
    });
    let [single, double] = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(processor::multiply_adds)).collect();
        let rates = running.into_iter().filter_map(|thread| thread.join().ok());
        rates.fold([0.0, 0.0], |[single, double], rate| [single + rate[0], double + rate[1]])
    });
    Limits { read, single, double }
}

impl Case {
    /// Time that one thread computes to reduce so many blocks.
    fn seconds(&self, blocks: &[Slot]) -> f64 {
        let mut reducer = Reducer::new(Arc::clone(&self.plan));
        let frame_bytes = self.plan.region().pixel_count() as usize * self.plan.pixel().bytes();
        let block_bytes = BLOCK_BYTES / frame_bytes * frame_bytes;
        let frame_count = (block_bytes / frame_bytes) as u64;
        let mut unpacked = vec![0; if self.is_packed { block_bytes } else { 0 }];
        let started = processor::seconds();
        for (number, block) in (0..).zip(blocks) {
            let mut bytes = &block.bytes()[..block_bytes];
            if self.is_packed {
                // Any bytes are 12-bit pixels: the first three fourths of a block are.
                let packed = packed12::packed_bytes(block_bytes / 2);
                if packed12::unpack(&bytes[..packed], &mut unpacked).is_ok() {
                    bytes = &unpacked;
                }
            }
            if let Ok(frames) = Frames::new(number * frame_count, bytes, self.plan.pixel(), self.plan.region()) {
                reducer.reduce(&frames);
                std::hint::black_box(reducer.take());
            }
        }
        processor::seconds() - started
    }

    /// Part of a block that is whole frames.
    fn share_of_bytes(&self) -> f64 {
        let frame_bytes = self.plan.region().pixel_count() as usize * self.plan.pixel().bytes();
        (BLOCK_BYTES / frame_bytes * frame_bytes) as f64 / BLOCK_BYTES as f64
    }

    /// Bytes per second that the machine allows.
    fn limit(&self, limits: &Limits) -> f64 {
        match self.limit {
            Limit::Read => limits.read,
            Limit::MultiplyAdds(per_pixel) => {
                limits.read.min(limits.single / per_pixel * self.plan.pixel().bytes() as f64)
            }
        }
    }
}

fn report(limits: &[(usize, Limits)], measured: &[Measured<'_>]) {
    let best = |threads: usize, part: fn(&Limits) -> f64| {
        limits.iter().filter(|(count, _)| *count == threads).map(|(_, limits)| part(limits)).fold(0.0, f64::max)
    };
    for one in measured {
        let mut shares: Vec<f64> = one.rounds.iter().map(|&(_, share)| share).collect();
        shares.sort_by(f64::total_cmp);
        let rate = one.rounds.iter().map(|&(rate, _)| rate).fold(0.0, f64::max) / 1e9;
        let (median, least) = (shares[shares.len() / 2], shares[0]);
        let read = best(one.threads, |limits| limits.read) / 1e9;
        let line = json!({
            "bench": "reduce", "pixel": one.case.pixel, "case": one.case.name, "threads": one.threads,
            "gb_per_s": hundredths(rate), "share_median": thousandths(median), "share_least": thousandths(least),
            "target": one.case.target, "read_gb_per_s": hundredths(read),
            "single_gfma_per_s": hundredths(best(one.threads, |limits| limits.single) / 1e9),
            "double_gfma_per_s": hundredths(best(one.threads, |limits| limits.double) / 1e9),
        });
        println!("{line}");
        let target = one.case.target.map_or_else(String::new, |target| target.to_string());
        let (pixel, name, threads) = (&one.case.pixel, one.case.name, one.threads);
        eprintln!("| {pixel} | {name} | {threads} | {rate:.1} | {median:.2} | {least:.2} | {target} |");
    }
}

/// Blocks as a running receiver has them, on its kind of memory.
struct Blocks {
    blocks: Vec<Slot>,
}

impl Blocks {
    fn new(count: usize) -> Result<Self> {
        let pool = Pool::new(count as u32, BLOCK_BYTES)?;
        Ok(Self { blocks: (0..count).filter_map(|_| pool.take(Duration::ZERO)).collect() })
    }

    /// Pixels that look like counts: small numbers, the same on every run; floating point ones as after a correction.
    fn fill(&mut self, pixel: PixelType) {
        let mut state = 1_u64;
        let counts = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % COUNTS_MAX
        });
        let places = self.blocks.iter_mut().flat_map(|block| block.bytes_mut().chunks_exact_mut(pixel.bytes()));
        for (place, count) in places.zip(counts) {
            let number = if pixel.is_integer() { count } else { (count as f32 * 1.37 - 0.4).to_bits() };
            place.copy_from_slice(&number.to_le_bytes()[..place.len()]);
            if pixel.order == ByteOrder::Big {
                place.reverse();
            }
        }
    }
}

fn plan(reductions: &[ronchi_pipeline::reduce::Reduction], side: u32, pixel: PixelType) -> Result<Arc<ReducePlan>> {
    let detector = SigShape { height: side, width: side };
    Ok(Arc::new(ReducePlan::compile(reductions, detector, detector.region(), pixel)?))
}

fn hundredths(value: f64) -> f64 {
    (value * 1e2).round() / 1e2
}

fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
