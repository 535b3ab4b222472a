//! Recorded data sets as sources: what `replay:PATH` means, and the frames of one tile for the replay.
//!
//! # Place in the path
//! Between the reader of `sinks` and the replay of `ingest`, which do not know each other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ronchi_config::{LinkPlan, Plan, ScanPlan, SourcePlan};
use ronchi_ingest::replay::{Advance, Recorded, Recording, RecordingError};
use ronchi_pipeline::format::Manifest;
use ronchi_pipeline::{Announcement, Encoding, EndReason, NavShape, PixelType, Region, Scan, SigShape};
use ronchi_sinks::storage::{Access, Condition, Extent, ReadPlan, Reader, Runs, StorageError};

/// How often a growing data set is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Fills in what a plan leaves to the data set that it replays: a link for every tile, their places on the detector, and the
/// scan with its order.
pub(crate) fn complete(plan: &mut Plan) -> Result<()> {
    let [LinkPlan { source: SourcePlan::Replay { path, interval, tile }, region }] = plan.links.as_slice() else {
        return Ok(());
    };
    let reader = Reader::open(path).with_context(|| format!("replay {}", path.display()))?;
    let manifest = reader.manifest();
    if plan.scan == ScanPlan::default()
        && let Some(info) = manifest.scan
    {
        plan.scan = ScanPlan::from(Scan::from(info));
    }
    if tile.is_some() || region.is_some() || manifest.detector.tiles.len() <= 1 {
        return Ok(());
    }
    let link = |tile: &ronchi_pipeline::format::TileInfo| {
        let ([y, x], [height, width]) = (tile.origin, tile.shape);
        let source = SourcePlan::Replay { path: path.clone(), interval: *interval, tile: Some(tile.id) };
        LinkPlan { source, region: Some(Region { y, x, height, width }) }
    };
    let links = manifest.detector.tiles.iter().map(link).collect();
    plan.detector = plan.detector.or(Some(detector(manifest)));
    plan.links = links;
    plan.check()?;
    Ok(())
}

fn detector(manifest: &Manifest) -> SigShape {
    let [height, width] = manifest.detector.shape;
    SigShape { height, width }
}

/// One tile of a recorded data set.
pub(crate) struct RecordedTile {
    path: PathBuf,
    reader: Reader,
    tile: u32,
    runs: Option<Runs>,
    extent: Extent,
    /// Frames that were told of.
    end: u64,
    counters: Vec<u64>,
    times_ns: Vec<u64>,
}

impl RecordedTile {
    /// Opens tile `tile` of a data set, or its only one.
    pub(crate) fn open(path: &std::path::Path, tile: Option<u32>) -> Result<Self> {
        let reader = Reader::open(path).with_context(|| format!("replay {}", path.display()))?;
        let tiles = &reader.manifest().detector.tiles;
        ensure!(tile.is_some() || tiles.len() == 1, "{} has {} tiles: name one", path.display(), tiles.len());
        let tile = tile.unwrap_or_else(|| tiles.first().map_or(0, |tile| tile.id));
        ensure!(tiles.iter().any(|known| known.id == tile), "{} has no tile {tile}", path.display());
        let extent = Extent { end: 0, condition: reader.condition() };
        let (counters, times_ns) = (Vec::new(), Vec::new());
        Ok(Self { path: path.to_owned(), reader, tile, runs: None, extent, end: 0, counters, times_ns })
    }

    fn announced(&self) -> Result<Option<Announcement>, StorageError> {
        let manifest = self.reader.manifest();
        let Some(info) = manifest.detector.tiles.iter().find(|info| info.id == self.tile) else { return Ok(None) };
        let ([y, x], [height, width]) = (info.origin, info.shape);
        let region = Region { y, x, height, width };
        let pixel = match self.reader.tile(self.tile) {
            Ok(tile) => Some(tile.array.pixel),
            // A link that never came: its frames are gaps.
            Err(_) if self.extent.condition != Condition::Running => {
                PixelType::from_numpy_name(&manifest.detector.pixel)
            }
            Err(_) => None,
        };
        let Some(pixel) = pixel else { return Ok(None) };
        let left = (self.extent.condition == Condition::Died).then_some(self.extent.end);
        Ok(Some(Announcement {
            series_id: format!("replay of {}", manifest.uuid),
            frame_count: manifest.frame_count.or(left),
            scan: manifest.scan.map(|scan| NavShape { height: scan.shape[0], width: scan.shape[1] }),
            detector: detector(manifest),
            region,
            pixel,
            encoding: Encoding::Raw,
            vendor_header: manifest.vendor_header.clone(),
            sensor: self.reader.sensor()?,
        }))
    }

    fn next(&mut self, deadline: Instant) -> Result<Advance, StorageError> {
        loop {
            if let Some(runs) = &mut self.runs
                && let Some(run) = runs.next_run()?
            {
                if let Some(error) = &run.error {
                    tracing::error!(%error, "recorded frames are damaged: they are played as gaps");
                }
                let frames = run.frames.clone();
                self.counters = self.reader.counters(self.tile, frames.clone())?;
                self.times_ns = self.reader.times_ns(self.tile, frames)?;
                return Ok(Advance::Frames);
            }
            if self.extent.condition != Condition::Running && self.end >= self.extent.end {
                return Ok(Advance::End(match self.extent.condition {
                    Condition::Complete => EndReason::Complete,
                    _ => EndReason::Stopped,
                }));
            }
            self.extent = self.reader.follow(self.tile, self.end, POLL, deadline)?;
            if self.extent.end > self.end {
                self.extend()?;
            } else if self.extent.condition == Condition::Running {
                return Ok(Advance::Waiting);
            }
        }
    }

    fn extend(&mut self) -> Result<(), StorageError> {
        let end = self.extent.end;
        match &mut self.runs {
            Some(runs) => runs.extend(&self.reader, end)?,
            None if self.reader.tile(self.tile).is_ok() => {
                let access = if self.extent.condition == Condition::Running { Access::Direct } else { Access::Auto };
                let plan = ReadPlan { access, ..ReadPlan::default() };
                self.runs = Some(self.reader.runs(self.tile, self.end..end, &plan)?);
            }
            None => {}
        }
        self.end = end;
        Ok(())
    }
}

impl Recording for RecordedTile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn announcement(&mut self, deadline: Instant) -> Result<Option<Announcement>, RecordingError> {
        loop {
            self.extent = self.reader.extent(self.tile).map_err(told)?;
            let announced = self.announced().map_err(told)?;
            if announced.is_some() || Instant::now() >= deadline {
                return Ok(announced);
            }
            std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    fn advance(&mut self, deadline: Instant) -> Result<Advance, RecordingError> {
        self.next(deadline).map_err(told)
    }

    fn current(&self) -> Recorded<'_> {
        let run = self.runs.as_ref().and_then(Runs::current_run);
        let (first, flags, bytes) = run.map_or((0, &[][..], &[][..]), |run| (run.frames.start, run.flags, run.bytes));
        Recorded { first, flags, counters: &self.counters, times_ns: &self.times_ns, bytes }
    }
}

fn told(error: StorageError) -> RecordingError {
    RecordingError(error.to_string())
}
