//! `ronchi reprocess` as its users start it: from the page cache beside the same reductions of memory, and from the disk
//! beside fio, by turns in one run.
//!
//! From the disk it runs in a control group whose memory, page cache included, is far smaller than the data set, so that
//! nothing of it is found again. Shares of memory are of processor time, which other work on the machine hardly changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ronchi_benches::cases::{self, Case};
use ronchi_benches::{Blocks, Recording, SEGMENT_BYTES, ronchi, segment_files};
use ronchi_pipeline::{PixelType, SigShape};
use serde_json::{Value, json};

use crate::e2e::median;
use crate::limits::{self, MemoryGroup};
use crate::reduce::seconds;

const DETECTOR: SigShape = SigShape { height: 256, width: 256 };
/// Blocks that are reduced in memory.
const BLOCKS: usize = 128;

/// Rate of `ronchi reprocess`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reprocess {
    /// Directory on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds; each runs every case once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Segments of 256 MiB in the data set.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    segments: u32,
    /// Threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Pixel type.
    #[arg(long, default_value = "<u2")]
    pixel: String,
    /// Cases: those whose name begins with one of these.
    #[arg(long, value_delimiter = ',', default_values_t = ["one ring".to_owned(), "centre".into(), "16 rings".into()])]
    only: Vec<String>,
    /// Memory of the control group in which it reads from the disk, MiB.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
}

/// Where pixels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    PageCache,
    Disk,
}

/// One case, from one place, on so many threads.
struct Measured<'a> {
    case: &'a Case,
    from: From,
    threads: usize,
    runs: Vec<Run>,
}

/// One run of the program.
struct Run {
    /// Bytes per second of the whole process, and as it says itself.
    whole: f64,
    own: f64,
    cpu_s_per_gb: f64,
    access: String,
    /// What it is compared with, in the same round: fio, bytes/s, or memory, s/GB.
    limit: Option<f64>,
}

impl Reprocess {
    pub(crate) fn run(&self) -> Result<()> {
        let pixel = PixelType::from_numpy_name(&self.pixel).with_context(|| format!("pixel type {}", self.pixel))?;
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the data set")?;
        let blocks = Blocks::counts(BLOCKS, pixel)?;
        let recording = Recording::of_segments(DETECTOR, pixel, self.segments);
        let mut counts = blocks.as_slice().iter().cycle();
        let data_set = recording.make(scratch.path(), |_, pixels| {
            let block = counts.next().context("a block")?;
            pixels.copy_from_slice(&block.bytes()[..pixels.len()]);
            Ok(())
        })?;
        let mut cases = cases::all(DETECTOR.width, pixel)?;
        let is_asked = |case: &Case| self.only.iter().any(|name| case.name.starts_with(name.as_str()));
        cases.retain(|case| !case.is_packed && is_asked(case));
        ensure!(!cases.is_empty(), "there is no case of that name");
        let group = MemoryGroup::new(self.memory_mib << 20);
        if group.is_none() {
            println!("{}", json!({ "bench": "reprocess", "skipped": "a control group for memory: none can be made" }));
        }
        let mut measured = Vec::new();
        for from in [From::PageCache, From::Disk] {
            for case in &cases {
                measured.extend(self.threads.iter().map(|&threads| Measured { case, from, threads, runs: Vec::new() }));
            }
        }
        let bench = Bench { data_set: &data_set.path, masks: scratch.path(), segments: self.segments, group };
        for _ in 0..self.rounds.max(1) {
            for one in &mut measured {
                let limit = match one.from {
                    From::Disk => bench.fio(&self.dir)?,
                    From::PageCache => {
                        bench.reprocess(one)?; // Brings what was pushed out of the cache meanwhile.
                        Some(memory(one.case, &blocks))
                    }
                };
                let run = bench.reprocess(one)?;
                one.runs.push(Run { limit, ..run });
            }
        }
        measured.iter().for_each(|one| println!("{}", one.line()));
        Ok(())
    }
}

/// Processor time of reducing memory, s/GB.
fn memory(case: &Case, blocks: &Blocks) -> f64 {
    seconds(case, blocks.as_slice()) / (blocks.as_slice().len() * case.block_bytes()) as f64 * 1e9
}

/// What all runs share.
struct Bench<'a> {
    data_set: &'a Path,
    masks: &'a Path,
    segments: u32,
    group: Option<MemoryGroup>,
}

impl Bench<'_> {
    /// Reads the segments as fio does; `None` where it is not installed.
    fn fio(&self, dir: &Path) -> Result<Option<f64>> {
        let files = limits::fio_files(&segment_files(self.data_set, self.segments));
        let rate = || limits::fio(dir, &["--rw=read", "--readonly", &files], self.segments);
        limits::has_fio().then(rate).transpose()
    }

    fn reprocess(&self, one: &Measured<'_>) -> Result<Run> {
        let program = ronchi()?;
        let (mut command, read) = match (one.from, &self.group) {
            (From::PageCache, _) => (Command::new(program), "mapped"),
            (From::Disk, Some(group)) => (group.command(&program), "direct"),
            (From::Disk, None) => (Command::new(program), "direct"),
        };
        command.arg("reprocess").arg(self.data_set).args(one.case.arguments(self.masks)?);
        command.args(["--threads", &one.threads.to_string(), "--read", read, "--json"]);
        let started = Instant::now();
        let output = command.output().context("start ronchi reprocess")?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(output.status.success(), "ronchi reprocess: {}", String::from_utf8_lossy(&output.stderr));
        let outcome: Value = serde_json::from_slice(&output.stdout).context("what ronchi reprocess prints")?;
        let number = |key: &str| outcome[key].as_f64().with_context(|| format!("{key} in {outcome}"));
        let bytes = u64::from(self.segments) * SEGMENT_BYTES;
        ensure!(number("bytes")? == bytes as f64, "{bytes} bytes were recorded, not those of {outcome}");
        Ok(Run {
            whole: bytes as f64 / seconds,
            own: number("bytes_per_second")?,
            cpu_s_per_gb: number("cpu_s")? / bytes as f64 * 1e9,
            access: outcome["access"].as_str().unwrap_or_default().to_owned(),
            limit: None,
        })
    }
}

impl Measured<'_> {
    fn line(&self) -> Value {
        let of = |part: fn(&Run) -> f64| median(&self.runs.iter().map(part).collect::<Vec<_>>());
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let ratio = |run: &Run| match self.from {
            From::Disk => Some(run.own / run.limit?),
            From::PageCache => Some(run.limit? / run.cpu_s_per_gb),
        };
        let ratios: Vec<f64> = self.runs.iter().filter_map(ratio).map(round).collect();
        json!({
            "bench": "reprocess", "case": self.case.name, "pixel": self.case.pixel, "threads": self.threads,
            "from": match self.from { From::PageCache => "page cache", From::Disk => "disk" },
            "of": match self.from { From::PageCache => "processor time of the same from memory", From::Disk => "fio" },
            "access": self.runs.first().map(|run| run.access.as_str()),
            "gb_per_s_whole": round(of(|run| run.whole / 1e9)), "gb_per_s": round(of(|run| run.own / 1e9)),
            "cpu_s_per_gb": round(of(|run| run.cpu_s_per_gb)),
            "ratio": (!ratios.is_empty()).then(|| round(median(&ratios))), "ratios": ratios,
        })
    }
}
