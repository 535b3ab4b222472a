//! Reduction of a file of raw frames, as `ronchi` reads recordings: beside other programs on the same file.
//!
//! Threads take blocks of the file in turn, read them with one system call each and reduce them; time is that of the
//! whole, from opening the file to all values and patterns in one place. See `benches/peers/offline.py`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ronchi_pipeline::reduce::{Frames, Partial, Patterns, ReducePlan, Reducer};
use ronchi_pipeline::{PixelType, Pool};
use serde_json::json;

use crate::reduce::cases;

/// Bytes read at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// Rate of reducing a file of raw frames.
#[derive(Debug, clap::Args)]
pub(crate) struct FileBench {
    /// The file: frames and nothing else.
    path: PathBuf,
    /// Rows and columns of the detector.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1024))]
    side: u32,
    /// Type of a pixel.
    #[arg(long, default_value = "<u2")]
    pixel: String,
    /// Only the case of this name.
    #[arg(long)]
    case: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Passes over the file.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl FileBench {
    pub(crate) fn run(&self) -> Result<()> {
        let pixel = PixelType::from_numpy_name(&self.pixel).with_context(|| format!("pixel type {}", self.pixel))?;
        let mut cases = cases::all(self.side, pixel)?;
        cases.retain(|case| !case.is_packed && self.case.as_deref().is_none_or(|name| name == case.name));
        ensure!(!cases.is_empty(), "there is no case of that name");
        for case in &cases {
            let mut rates = Vec::new();
            for _ in 0..self.rounds.max(1) {
                let started = Instant::now();
                let bytes = reduce(&self.path, &case.plan, self.threads)?;
                rates.push(bytes as f64 / 1e9 / started.elapsed().as_secs_f64());
            }
            println!("{}", json!({ "bench": "file", "pixel": self.pixel, "case": case.name, "gb_per_s": rates }));
        }
        Ok(())
    }
}

/// Reduces all whole frames of a file; returns their bytes.
fn reduce(path: &Path, plan: &Arc<ReducePlan>, threads: usize) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let frame_bytes = plan.region().pixel_count() * plan.pixel().bytes() as u64;
    let block_frames = (BLOCK_BYTES as u64 / frame_bytes).max(1);
    let frame_count = file.metadata()?.len() / frame_bytes;
    let pool = Pool::new(threads as u32, (block_frames * frame_bytes) as usize)?;
    let next = AtomicU64::new(0);
    let work = || -> Result<(Partial, Patterns)> {
        let mut block = pool.take(Duration::ZERO).context("one block per thread")?;
        let mut reducer = Reducer::new(Arc::clone(plan));
        loop {
            let first = next.fetch_add(block_frames, Ordering::Relaxed);
            if first >= frame_count {
                return Ok((reducer.take(), reducer.take_patterns()));
            }
            let bytes = (block_frames.min(frame_count - first) * frame_bytes) as usize;
            let bytes = &mut block.bytes_mut()[..bytes];
            file.read_exact_at(bytes, first * frame_bytes)?;
            reducer.reduce(&Frames::new(first, bytes, plan.pixel(), plan.region())?);
        }
    };
    let done = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let (mut values, mut patterns) = (Partial::new(plan), Patterns::new(plan));
    for part in done {
        let (some, some_patterns) = part.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        values.merge(&some)?;
        patterns.merge(&some_patterns)?;
    }
    std::hint::black_box((values, patterns));
    Ok(frame_count * frame_bytes)
}
