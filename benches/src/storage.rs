//! The disk alone: our writer and readers beside `fio` and beside a plain sum over memory, by turns in one run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ronchi_benches::{Recording, SEGMENT_BYTES, segment_files};
use ronchi_pipeline::{FrameFlag, PixelType, SigShape};
use ronchi_sinks::storage::{Access, Map, ReadPlan, Reader};
use serde_json::{Value, json};

use crate::e2e::median;
use crate::limits;

const DETECTOR: SigShape = SigShape { height: 256, width: 256 };

/// Rates of writing and reading, against fio with the same sizes and against a plain sum over memory.
#[derive(Debug, clap::Args)]
pub(crate) struct Storage {
    /// Directory on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs per case, by turns; figures are medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Segments of 256 MiB per run.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    segments: u32,
    /// Writes only: more rounds in the same time, where the disk varies.
    #[arg(long)]
    writes_only: bool,
}

/// Rates of one case, bytes/s.
#[derive(Debug)]
struct Case {
    name: &'static str,
    rates: Vec<f64>,
}

/// What the cases are compared with, and how much of it is asked for.
const BOUNDS: [(&str, &[&str], f64); 5] = [
    ("write", &["fio write", "fio write, huge pages"], 0.95),
    ("read direct", &["fio read", "fio read, huge pages"], 0.95),
    ("read direct, verified", &["fio read", "fio read, huge pages"], 0.95),
    ("read mapped", &["sum of a mapping"], 0.9),
    ("read mapped, verified", &["sum of a mapping"], 0.0),
];

impl Storage {
    pub(crate) fn run(&self) -> Result<()> {
        let has_fio = limits::has_fio();
        if !has_fio {
            println!(
                "{}",
                json!({ "bench": "storage", "skipped": "fio is not installed: nothing to compare the disk with" })
            );
        }
        let has_huge = has_fio && self.fio(&["--rw=write", "--iomem=mmaphuge"], 1).is_ok();
        if has_fio && !has_huge {
            println!(
                "{}",
                json!({ "bench": "storage", "skipped": "fio on huge pages: none are reserved (vm.nr_hugepages)" })
            );
        }
        let mut cases = Vec::new();
        for number in 0..self.runs {
            self.round(number, &mut cases, has_fio, has_huge)?;
        }
        for case in &cases {
            println!("{}", self.line(case, &cases));
        }
        Ok(())
    }

    /// Every case once. Who goes first changes from round to round: the disk may be slower or faster for the first.
    fn round(&self, number: usize, cases: &mut Vec<Case>, has_fio: bool, has_huge: bool) -> Result<()> {
        let mut note = |name: &'static str, rate: f64| match cases.iter_mut().find(|case| case.name == name) {
            Some(case) => case.rates.push(rate),
            None => cases.push(Case { name, rates: vec![rate] }),
        };
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the data set")?;
        let mut path = PathBuf::new();
        for turn in turns(4, number) {
            match turn {
                0 if has_fio => note("fio write", self.fio(&["--rw=write"], self.segments)?),
                1 if has_huge => {
                    note("fio write, huge pages", self.fio(&["--rw=write", "--iomem=mmaphuge"], self.segments)?);
                }
                2 => {
                    let bare = tempfile::tempdir_in(&self.dir).context("a folder for the data set")?;
                    note("write, without checksums", self.write(bare.path(), false)?.1);
                    bare.close()?;
                }
                3 => {
                    let (written, rate, rate_handed) = self.write(scratch.path(), true)?;
                    note("write", rate);
                    note("write, until the last block is handed over", rate_handed);
                    path = written;
                }
                _ => {}
            }
        }
        if self.writes_only {
            return Ok(());
        }
        let files = limits::fio_files(&segment_files(&path, self.segments));
        for turn in turns(4, number) {
            match turn {
                0 if has_fio => note("fio read", self.fio(&["--rw=read", "--readonly", &files], self.segments)?),
                1 if has_huge => {
                    let arguments = ["--rw=read", "--readonly", "--iomem=mmaphuge", &files];
                    note("fio read, huge pages", self.fio(&arguments, self.segments)?);
                }
                2 => note("read direct", self.read(&path, Access::Direct, false)?),
                3 => note("read direct, verified", self.read(&path, Access::Direct, true)?),
                _ => {}
            }
        }
        let mut bytes = Vec::new();
        for file in segment_files(&path, self.segments) {
            bytes.clear();
            std::io::Read::read_to_end(&mut File::open(file)?, &mut bytes)?; // Into the page cache.
        }
        drop(bytes);
        for turn in turns(3, number) {
            match turn {
                0 => {
                    let [anew, again] = self.sum_mapping(&path)?;
                    note("sum of a mapping", anew);
                    note("sum of a mapping, again", again);
                }
                1 => note("read mapped", self.read(&path, Access::Mapped, false)?),
                _ => note("read mapped, verified", self.read(&path, Access::Mapped, true)?),
            }
        }
        Ok(())
    }

    fn line(&self, case: &Case, cases: &[Case]) -> Value {
        let rate = |name: &str| cases.iter().find(|case| case.name == name).map(|case| median(&case.rates));
        let gb = |rate: f64| (rate / 1e7).round() / 100.0;
        let mut line = json!({
            "bench": "storage", "case": case.name, "gb_per_s": gb(median(&case.rates)),
            "gb_per_s_all": case.rates.iter().map(|&rate| gb(rate)).collect::<Vec<_>>(),
        });
        if let Some((_, others, least)) = BOUNDS.iter().find(|(name, ..)| *name == case.name) {
            let best = others.iter().filter_map(|other| rate(other)).fold(0.0, f64::max);
            let ratio = (best > 0.0).then(|| (median(&case.rates) / best * 1e3).round() / 1e3);
            line["of"] = json!(others);
            line["ratio"] = json!(ratio);
            line["ratio_within_rounds"] = json!(within_rounds(case, others, cases));
            line["asked"] = json!(least);
        }
        line
    }

    fn total_bytes(&self) -> u64 {
        u64::from(self.segments) * SEGMENT_BYTES
    }

    fn recording(&self) -> Result<Recording> {
        let pixel = PixelType::from_numpy_name("<u2").context("a pixel type")?;
        Ok(Recording::of_segments(DETECTOR, pixel, self.segments))
    }

    fn fio(&self, arguments: &[&str], segments: u32) -> Result<f64> {
        limits::fio(&self.dir, arguments, segments)
    }

    /// Records frames that lie in memory, with checksums, as always, or to compare without: bytes/s until the last one is
    /// durable, and until the last block was handed to the writer.
    fn write(&self, directory: &Path, has_checksums: bool) -> Result<(PathBuf, f64, f64)> {
        let recorded = Recording { has_checksums, ..self.recording()? }.make(directory, |_, _| Ok(()))?;
        let total_bytes = self.total_bytes() as f64;
        Ok((recorded.path, total_bytes / recorded.seconds, total_bytes / recorded.handed_s))
    }

    /// Goes through all frames; mapped ones are summed, so that their bytes are looked at.
    fn read(&self, data_set: &Path, access: Access, verify: bool) -> Result<f64> {
        let reader = Reader::open(data_set)?;
        let started = Instant::now();
        let mut runs = reader.runs(0, 0..self.recording()?.frame_count, &ReadPlan { access, verify, gaps: None })?;
        let (mut bytes, mut total) = (0, 0);
        while let Some(run) = runs.next_run()? {
            ensure!(run.flags.iter().all(|&flag| flag == FrameFlag::Ok), "{:?}", run.error);
            bytes += run.bytes.len() as u64;
            if access == Access::Mapped {
                total ^= sum(run.bytes);
            }
        }
        std::hint::black_box(total);
        let seconds = started.elapsed().as_secs_f64();
        ensure!(bytes == self.total_bytes(), "{bytes} bytes came");
        Ok(bytes as f64 / seconds)
    }

    /// Maps all segments and sums them, twice over the same mappings: with the faults of the first touch, and without.
    fn sum_mapping(&self, data_set: &Path) -> Result<[f64; 2]> {
        let files: Vec<File> =
            segment_files(data_set, self.segments).iter().map(File::open).collect::<std::io::Result<_>>()?;
        let started = Instant::now();
        let maps = files.iter().map(|file| Map::of_final(file, SEGMENT_BYTES)).collect::<std::io::Result<Vec<_>>>()?;
        let pass = |started: Instant| {
            let total = maps.iter().fold(0, |total, map| total ^ sum(map.bytes(0..SEGMENT_BYTES as usize)));
            std::hint::black_box(total);
            self.total_bytes() as f64 / started.elapsed().as_secs_f64()
        };
        Ok([pass(started), pass(Instant::now())])
    }
}

/// Median over the rounds of the case's rate by the best of `others` in the same round: what a disk that is faster in one
/// minute than in another does to both counts for neither.
fn within_rounds(case: &Case, others: &[&str], cases: &[Case]) -> Option<f64> {
    let others: Vec<&Case> = cases.iter().filter(|other| others.contains(&other.name)).collect();
    let best = |round: usize| others.iter().filter_map(|other| other.rates.get(round)).copied().fold(0.0, f64::max);
    let ratios: Vec<f64> = case.rates.iter().enumerate().map(|(round, rate)| rate / best(round)).collect();
    ratios.iter().all(|ratio| ratio.is_finite()).then(|| (median(&ratios) * 1e3).round() / 1e3)
}

/// The numbers below `count` in order, from another one on in every round.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

/// A plain sum over bytes, as fast as memory gives them.
fn sum(bytes: &[u8]) -> u64 {
    let lanes = bytes.as_chunks::<64>().0.iter().fold([0_u64; 8], |mut lanes, block| {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
        lanes
    });
    lanes.into_iter().fold(0, u64::wrapping_add)
}
