//! Rate of the reduction kernels, from memory, as shares of what memory and processor allow in the same rounds.
//!
//! Frames lie in more memory than the caches hold, in blocks as a running receiver has them. Every round measures the
//! limits and then every case, so that whatever else the machine does meets all of them alike; shares are medians over
//! rounds of the rate of a case by the limit of its round.

use anyhow::{Context, Result};
use ronchi_benches::cases::{self, Case, Limit};
use ronchi_benches::{BLOCK_BYTES, Blocks};
use ronchi_pipeline::{PixelType, Slot};
use serde_json::json;

use crate::processor;

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
        eprintln!("| pixel | case | threads | GB/s, best | share, median | share, least | target |");
        eprintln!("|---|---|---|---|---|---|---|");
        for name in &self.pixels {
            let pixel = PixelType::from_numpy_name(name).with_context(|| format!("pixel type {name}"))?;
            let blocks = Blocks::counts((mib << 20) / BLOCK_BYTES, pixel)?;
            let mut cases = cases::all(self.side, pixel)?;
            cases.retain(|case| self.only.as_ref().is_none_or(|part| case.name.contains(part.as_str())));
            self.measure(&cases, blocks.as_slice());
        }
        Ok(())
    }

    fn measure(&self, cases: &[Case], blocks: &[Slot]) {
        let mut limits = Vec::new();
        let mut measured: Vec<Measured<'_>> = Vec::new();
        for &threads in &self.threads {
            measured.extend(cases.iter().map(|case| Measured { case, threads, rounds: Vec::new() }));
        }
        for _ in 0..if self.quick { 1 } else { self.rounds.max(1) } {
            for &threads in &self.threads {
                let now = measure_limits(blocks, threads);
                limits.push((threads, now));
                for one in measured.iter_mut().filter(|one| one.threads == threads) {
                    let rate = together(blocks, threads, |part| seconds(one.case, part));
                    let rate = rate * one.case.block_bytes() as f64 / BLOCK_BYTES as f64;
                    one.rounds.push((rate, rate / limit(one.case, &now)));
                }
            }
        }
        report(&limits, &measured);
    }
}

/// Bytes per second of all threads together, each over its own part of the blocks; `seconds` says how long it took one.
pub(crate) fn together(blocks: &[Slot], threads: usize, seconds: impl Fn(&[Slot]) -> f64 + Sync) -> f64 {
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

/// Time that one thread computes to reduce so many blocks.
pub(crate) fn seconds(case: &Case, blocks: &[Slot]) -> f64 {
    let mut pass = case.pass();
    let started = processor::seconds();
    pass.over(blocks);
    processor::seconds() - started
}

/// Bytes per second that the machine allows.
fn limit(case: &Case, limits: &Limits) -> f64 {
    match case.limit {
        Limit::Read => limits.read,
        Limit::MultiplyAdds(per_pixel) => limits.read.min(limits.single / per_pixel * case.plan.pixel().bytes() as f64),
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

fn hundredths(value: f64) -> f64 {
    (value * 1e2).round() / 1e2
}

fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
