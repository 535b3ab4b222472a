//! `ronchi reprocess`: computes results from frames that were recorded earlier, or are still being recorded.
//!
//! # Place in the path
//! Beside it: reads a data set and reduces it with the code that serves live images, on all cores, so that the numbers are
//! the same bit for bit. Results go into the data set, into files, or both.
//!
//! # Invariants
//! - I1: frames and what describes them are only read.
//! - I2: results in the data set are replaced all at once, by results of all frames that were asked for, and never while a
//!   receiver writes it: that stores its own at its end.
//! - I3: a frame that is damaged is in no result; it is counted, and the exit code says so.
//!
//! # Limits
//! `IMAGES_BYTES_MAX` of results; a reader of at most 69 MiB, or of one chunk where that is larger, per thread.

mod keep;
mod outcome;
mod workers;

use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crate::output::{note_line, say, say_line};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use ronchi_config::Recipe;
use ronchi_pipeline::format::{Manifest, ScanInfo};
use ronchi_pipeline::reduce::{Conditions, Footprint, LiveImages, Reduction};
use ronchi_pipeline::{FrameIndex, PixelType, Region, Scan, SigShape};
use ronchi_sinks::storage::{Access, Condition, Reader};
use serde_json::json;

use crate::asked::{ReductionArgs, ScanArgs};
use crate::condition_args::ConditionArgs;
use crate::export::results::ResultFormat;
use crate::pictures::Images;
use crate::{process, progress, stop};
use keep::Keep;
use outcome::{Frames, Outcome};
use workers::{Tile, Work, WorkPlan, Workers};

/// Most memory for results, in bytes.
const IMAGES_BYTES_MAX: u64 = 16 << 30;
/// How often a growing data set is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Options of `ronchi reprocess`.
#[derive(Debug, Args)]
#[command(after_help = "\
Results replace those of the same names in the data set, all at once; others stay. With --out they go into files as well,
or only there if the data set cannot be written or is still being recorded. `valid` says which frames are in the results;
a result made of other frames than those beside it has a NAME.valid of its own.
Exit codes: 0 done; 1 stopped, or frames are damaged and left out; 2 refused, or results could not be kept; 3 a receiver is
writing the data set, and there is no --out.")]
pub struct ReprocessArgs {
    /// Data set, NAME.ronchi
    dataset: PathBuf,
    /// Take [[virtual]], [reduce], [[reduction]] and [scan] from a configuration file; options add to it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    reductions: ReductionArgs,
    #[command(flatten)]
    scan: ScanArgs,
    #[command(flatten)]
    conditions: ConditionArgs,
    /// Only these frames: from A on, up to but without B
    #[arg(long, value_name = "A..B")]
    frames: Option<FrameRange>,
    /// Go on until the receiver that writes the data set has ended
    #[arg(long)]
    follow: bool,
    /// Write results as files into this directory as well
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Formats of these files: npy, tif (32 or 64 bit, for ImageJ), png (grey from minimum to maximum)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMAT,...", default_value = "npy")]
    format: Vec<ResultFormat>,
    /// Do not store results in the data set
    #[arg(long, requires = "out")]
    no_store: bool,
    /// Compare pixels with their checksums
    #[arg(long)]
    verify: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How pixels are read: mapped from the page cache, around it, or whatever suits size and free memory
    #[arg(long, value_enum, default_value_t = ReadBy::Auto)]
    read: ReadBy,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// How pixels come from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadBy {
    Auto,
    Mapped,
    Direct,
    Plain,
}

/// Frames `first..end`; without an end, all from the first on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameRange {
    first: FrameIndex,
    end: Option<FrameIndex>,
}

impl FromStr for FrameRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "expected A..B, A.. or ..B with A below B";
        let (first, end) = text.split_once("..").ok_or(RULE)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| RULE);
        let first = if first.is_empty() { 0 } else { number(first)? };
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        if end.is_some_and(|end| end <= first) { Err(RULE) } else { Ok(Self { first, end }) }
    }
}

/// What is to be computed.
struct Wanted {
    reductions: Vec<Reduction>,
    scan: Option<Scan>,
    conditions: Conditions,
    detector: SigShape,
    pixel: PixelType,
    regions: Vec<Region>,
}

impl ReprocessArgs {
    /// Computes; exit code 1 when it was stopped or frames are damaged. Errors: refused, or results could not be kept.
    pub fn run(self) -> Result<ExitCode> {
        // The error says its own cause.
        let reader = Reader::open(&self.dataset).map_err(|error| anyhow!("{}: {error}", self.dataset.display()))?;
        let wanted = self.wanted(&reader)?;
        let images = wanted.images(reader.manifest())?;
        let mut formats = self.format.clone();
        formats.sort_by_key(|format| format.extension());
        formats.dedup();
        let mut keep = Keep {
            store: (!self.no_store).then(|| self.dataset.clone()),
            unstored: None,
            out: self.out.clone(),
            formats,
        };
        keep.check(&images.names().collect::<Vec<_>>(), reader.condition(), self.follow)?;
        if let Some(reason) = keep.unstored.as_ref().filter(|_| !self.json) {
            note_line!("ronchi: results are not stored in the data set: {reason}");
        }
        let stop = stop::on_signals()?;
        let begin = Instant::now();
        let workers = self.workers(&reader, images, &stop)?;
        let threads = self.thread_count();
        let (mut outcome, images) = self.reduce(reader, workers, &stop)?;
        outcome.threads = threads;
        (outcome.seconds, outcome.cpu_s) = (begin.elapsed().as_secs_f64(), process::cpu_s());
        let about = json!({
            "frames": [outcome.first, outcome.end],
            "scan": wanted.scan.filter(|_| wanted.conditions.positions.is_none()).map(ScanInfo::from),
            "software": concat!("ronchi ", env!("CARGO_PKG_VERSION")),
        });
        let results = images.stored();
        outcome.results = results.iter().map(|result| result.name.clone()).collect();
        let kept = keep.keep(results, &about, !outcome.is_stopped)?;
        (outcome.is_stored, outcome.files, outcome.left_out) = (kept.is_stored, kept.files, kept.left_out);
        outcome.unstored = keep.unstored.or_else(|| outcome.is_stopped.then(|| "stopped before the end".to_owned()));
        if self.json {
            say_line!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            say!("{outcome}");
        }
        Ok(if outcome.is_stopped || outcome.frames.damaged > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// What configuration and options ask for, of this data set.
    fn wanted(&self, reader: &Reader) -> Result<Wanted> {
        let manifest = reader.manifest();
        let [height, width] = manifest.detector.shape;
        let detector = SigShape { height, width };
        let pixel = PixelType::from_numpy_name(&manifest.detector.pixel);
        let pixel = pixel.with_context(|| format!("pixels of type {:?} cannot be reduced", manifest.detector.pixel))?;
        let recipe = self.config.as_ref().map(|path| Recipe::from_file(path, detector)).transpose()?;
        let mut reductions = recipe.as_ref().map_or_else(Vec::new, |recipe| recipe.reductions.clone());
        for reduction in self.reductions.clone().reductions() {
            if !reductions.contains(&reduction) {
                reductions.push(reduction);
            }
        }
        ensure!(
            !reductions.is_empty(),
            "nothing to compute: --virtual NAME=KIND:..., --total, --com, --sum, --max, --reduce or --config FILE say what"
        );
        let conditions = recipe.as_ref().map_or_else(Conditions::default, |recipe| recipe.conditions.clone());
        let conditions = self.conditions.clone().read_over(conditions)?.with_sensor(&reader.sensor()?, pixel.kind);
        let recorded: Option<Scan> = manifest.scan.map(Into::into);
        let recorded = match recipe.and_then(|recipe| recipe.scan) {
            Some(plan) => plan.scan(recorded.map(|scan| scan.shape)),
            None => recorded,
        };
        let scan = self.scan.instead_of(recorded).map_err(|error| anyhow!(error))?;
        let scan = conditions.scan_of(scan)?;
        let regions = manifest.detector.tiles.iter().map(|tile| {
            let ([y, x], [height, width]) = (tile.origin, tile.shape);
            Region { y, x, height, width }
        });
        Ok(Wanted { reductions, scan, conditions, detector, pixel, regions: regions.collect() })
    }

    fn workers(&self, reader: &Reader, images: Images, stop: &Arc<AtomicBool>) -> Result<Workers> {
        let mut tiles = Vec::new();
        for (link, info) in (0..).zip(&reader.manifest().detector.tiles) {
            tiles.push(Tile { id: info.id, link, plan: Arc::new(images.plan(link)?) });
        }
        let is_running = reader.condition() == Condition::Running;
        let access = match self.read {
            // What was written a moment ago around the page cache is not in it.
            ReadBy::Auto if is_running => Access::Direct,
            ReadBy::Auto => Access::Auto,
            ReadBy::Mapped => Access::Mapped,
            ReadBy::Direct => Access::Direct,
            ReadBy::Plain => Access::Plain,
        };
        let plan = WorkPlan {
            threads: self.thread_count(),
            access,
            verify: self.verify,
            is_idle: is_running,
            stop: Arc::clone(stop),
        };
        let bar = progress::of_bytes("reprocess", !self.json && std::io::stderr().is_terminal());
        Ok(Workers::new(tiles, images, plan, bar))
    }

    fn thread_count(&self) -> usize {
        self.threads.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// Reduces all that there is, and with `--follow` what comes; what came of it, and the results.
    fn reduce(&self, mut reader: Reader, mut workers: Workers, stop: &AtomicBool) -> Result<(Outcome, Images)> {
        let asked = self.frames.unwrap_or(FrameRange { first: 0, end: None });
        let mut done = vec![asked.first; workers.tiles().len()];
        let condition = loop {
            // Asked before how far the tiles have come: those of a data set that was final then are all there.
            reader.refresh()?;
            let condition = reader.condition();
            let mut work = Vec::new();
            for (tile, done) in done.iter_mut().enumerate() {
                let extent = reader.extent(workers.tiles()[tile].id)?;
                let end = extent.end.min(asked.end.unwrap_or(u64::MAX));
                work.extend((end > *done).then_some(Work { tile, frames: *done..end }));
                *done = end.max(*done);
            }
            check_pixels(&reader, workers.tiles())?;
            if !work.is_empty() {
                workers.expect(&reader, &done, asked.first);
                workers.reduce(&reader, &work)?;
            }
            let is_all = asked.end.is_some_and(|end| done.iter().all(|&done| done >= end));
            if stop.load(Ordering::SeqCst) || condition != Condition::Running || is_all || !self.follow {
                break condition;
            }
            if work.is_empty() {
                std::thread::sleep(POLL);
            }
        };
        let end = done.iter().copied().max().unwrap_or(asked.first);
        self.outcome(condition, workers, asked.first..end, stop.load(Ordering::SeqCst))
    }

    /// What came of frames; `condition` is that of the data set when it was last asked how far it has come.
    fn outcome(
        &self,
        condition: Condition,
        workers: Workers,
        frames: Range<FrameIndex>,
        is_stopped: bool,
    ) -> Result<(Outcome, Images)> {
        let access = workers.describe();
        let counts = workers.counts();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (missing, damaged) = (read(&counts.missing), read(&counts.damaged));
        let (verified, bytes) = (read(&counts.verified), read(&counts.bytes));
        if frames.is_empty() && !is_stopped {
            bail!("no frame is there from {} on", frames.start);
        }
        let (images, errors) = workers.finish();
        let outcome = Outcome {
            dataset: self.dataset.clone(),
            condition: condition.word(),
            first: frames.start,
            end: frames.end,
            frames: Frames { reduced: images.complete_count(), missing, damaged, verified },
            bytes,
            access,
            is_stopped,
            errors,
            ..Outcome::default()
        };
        Ok((outcome, images))
    }
}

impl Wanted {
    /// Empty results. Errors: names, masks or sizes that cannot be.
    fn images(&self, manifest: &Manifest) -> Result<Images> {
        let count = manifest.frame_count;
        let positions = self.scan.map_or(count.unwrap_or(0), |scan| scan.placed_count());
        let Self { reductions, scan, conditions, detector, pixel, regions } = self;
        let tiles = regions.len();
        let bytes =
            Footprint::with_conditions(reductions, *detector, *pixel, positions, tiles, conditions)?.memory_bytes;
        ensure!(
            bytes <= IMAGES_BYTES_MAX,
            "{} results over {positions} scan positions need {bytes} bytes, at most {IMAGES_BYTES_MAX} are kept",
            reductions.len()
        );
        let images = LiveImages::with_conditions(reductions, *scan, count, *detector, *pixel, regions, conditions);
        Ok(Images::new(images?))
    }
}

/// Every tile that has begun has pixels of the type of the data set, and the shape of its region.
fn check_pixels(reader: &Reader, tiles: &[Tile]) -> Result<()> {
    for tile in tiles {
        let Ok(found) = reader.tile(tile.id) else { continue };
        let shape = SigShape { height: tile.plan.region().height, width: tile.plan.region().width };
        let is_same = (found.array.pixel, found.array.tile) == (tile.plan.pixel(), shape);
        ensure!(is_same, "tile {}: its frames are others than the data set says", tile.id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends, one of them, none; nothing empty, backwards or signed.
    #[test]
    fn ranges_of_frames() {
        let range = |first, end| Ok(FrameRange { first, end });
        assert_eq!("3..7".parse(), range(3, Some(7)));
        assert_eq!("3..".parse(), range(3, None));
        assert_eq!("..7".parse(), range(0, Some(7)));
        assert_eq!("..".parse(), range(0, None));
        for wrong in ["", "3", "7..3", "3..3", "-1..3", "a..b", "1..2..3", "..99999999999999999999"] {
            assert!(wrong.parse::<FrameRange>().is_err(), "{wrong}");
        }
    }
}
