//! Makes a data set whole again that a crash or damage left behind: decides of every frame whether it is there, and
//! rebuilds everything else from that decision.
//!
//! # Place in the path
//! Beside it: for `ronchi repair`. Reading what is durable never needs it; what it leaves passes [`super::verify()`].
//!
//! # Invariants
//! - I1: a frame is there when its bytes are proved: by the checksum of its chunk (page 0 or `chunks.log`) or by its own
//!   (frame table). What is not proved becomes a gap, and reads as zeros: nothing absent is listed as present.
//! - I2: bytes of a frame that is there are never written.
//! - I3: one writer: it holds the data set's lock, and leaves records of a later epoch than its receiver's.
//! - I4: it may be cut off anywhere and begun again: proofs are never removed before what they prove is written down.
//! - I5: no length, count or shape read from a file sizes memory or a loop before it was compared with a limit.
//! - I6: nothing outside the data set is touched, whatever its links say, but its own segments in volumes: these are known by
//!   name and place (`volumes.rs`) and by page 0 before anything is written to them. Any other link is an error or replaced.
//!
//! # Limits
//! One chunk, one file of the frame table, and 32 bytes per chunk of a tile in memory.

mod metadata;
mod packed;
mod rows;
mod segment;
mod tile;

use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::Gaps;
use ronchi_pipeline::format::{DataSetState, Law, Manifest, RepairNote, TileGaps};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde_json::Value;

use super::data_set::listed_gaps;
use super::error::{Context as _, StorageError};
use super::file_system::{FileSystem, RealFiles};
use super::reader::Condition;
use super::{companion, files};

/// Most changes that are listed; [`Repair::change_count`] counts all.
const CHANGES_LISTED_MAX: usize = 200;

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct RepairPlan {
    /// Say what would be done, and change nothing.
    pub is_dry: bool,
    /// Keep the bytes of frames that cannot be proved, in `torn/`, before they are zeroed.
    pub keeps_torn: bool,
    /// Wall time, RFC 3339, UTC.
    pub time: String,
    /// Program and version.
    pub software: String,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// What the data set was doing before.
    pub before: Condition,
    /// Frames of all tiles.
    pub frames: u64,
    /// Of these, frames that are there, and proved.
    pub present: u64,
    /// Frames that had been called present and could not be proved: gaps now.
    pub lost: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of pixels read.
    pub bytes: u64,
    /// Changes in all; 0 = there was nothing to repair.
    pub change_count: u64,
    /// The first of them.
    pub changes: Vec<Change>,
}

/// Something that was written, moved or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which file, relative to the data set.
    pub file: PathBuf,
    /// What was done.
    pub what: String,
}

/// Repairs the data set in this directory. `watch` hears now and then how many bytes of how many have been read.
///
/// # Errors
/// Somebody writes it; it holds neither a manifest nor a segment of ours; it is of a newer version; the disk refuses.
pub fn repair(root: &Path, plan: &RepairPlan, watch: &mut dyn FnMut(u64, u64)) -> Result<Repair, StorageError> {
    let _lock = lock(root, plan.is_dry)?;
    let mut job = Job { root, plan, system: RealFiles, report: Repair::new(), watch, total_bytes: 0, epoch: 0 };
    job.clear_way(root)?;
    let manifest = job.manifest()?;
    job.report.before = condition(manifest.state);
    job.total_bytes = job.pixel_bytes(&manifest);
    let mut tiles = Vec::new();
    for info in &manifest.detector.tiles {
        tiles.push(job.repair_tile(&manifest, info)?);
    }
    job.finish(manifest, tiles)?;
    if !plan.is_dry {
        companion::refresh(&job.system, root, false);
    }
    Ok(job.report)
}

/// Whether there may be a link at this place of a data set: at those of segments, which are looked at before they are
/// opened, and wherever nothing is ever written, or only by replacing what is there.
fn may_be_link(place: &Path) -> bool {
    let parts: Vec<_> = place.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["frames", "c", _, _, _] | ["tiles", _, "c", _, _, _] | ["frames4d", "c", _, _] => true,
        ["frames" | "tiles" | "frames4d" | "frame_table" | "results" | "detector" | "torn" | "orphans", ..]
        | [".lock"] => false,
        _ => parts.len() == 1,
    }
}

/// Takes the data set's lock (I3).
fn lock(root: &Path, is_dry: bool) -> Result<File, StorageError> {
    let path = root.join(".lock");
    // Creating the lock file in a directory that is none of ours would leave traces there.
    let has_ours = ["zarr.json", "frames", "tiles"].iter().any(|name| root.join(name).exists());
    if !has_ours {
        return Err(StorageError::NoDataSet { path: root.to_owned() });
    }
    let mut options = File::options();
    options.read(true).write(!is_dry).create(!is_dry).custom_flags(libc::O_NOFOLLOW);
    let file = match options.open(&path) {
        Err(error) if is_dry && error.kind() == std::io::ErrorKind::NotFound => File::open(root),
        result => result,
    };
    let file = file.context("open", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StorageError::InUse { path: root.to_owned() }),
        result => result.context("lock", &path).map(|()| file),
    }
}

/// What a manifest says when nobody holds the lock.
fn condition(state: DataSetState) -> Condition {
    match state {
        DataSetState::Running => Condition::Died,
        DataSetState::Complete => Condition::Complete,
        DataSetState::Interrupted => Condition::Interrupted,
        DataSetState::Failed => Condition::Failed,
    }
}

/// A repair that goes on.
struct Job<'a> {
    root: &'a Path,
    plan: &'a RepairPlan,
    system: RealFiles,
    report: Repair,
    watch: &'a mut dyn FnMut(u64, u64),
    total_bytes: u64,
    /// The latest writing session found in any log.
    epoch: u32,
}

/// What became of a tile.
struct Tile {
    id: u32,
    frame_count: u64,
    present: u64,
    gaps: Gaps,
    /// Whether it has an array of frames: a link that never began has none.
    has_begun: bool,
}

impl Repair {
    fn new() -> Self {
        let (before, changes) = (Condition::Died, Vec::new());
        Self { before, frames: 0, present: 0, lost: 0, segments: 0, bytes: 0, change_count: 0, changes }
    }
}

impl Job<'_> {
    /// Notes a change of this file; `false` when it is only to be told, not done.
    fn change(&mut self, path: &Path, what: impl Display) -> bool {
        self.report.change_count += 1;
        if self.report.changes.len() < CHANGES_LISTED_MAX {
            let file = path.strip_prefix(self.root).unwrap_or(path).to_owned();
            self.report.changes.push(Change { file, what: what.to_string() });
        }
        !self.plan.is_dry
    }

    /// Makes a metadata file say this, if it does not already.
    fn put_json(&mut self, path: &Path, json: &Value) -> Result<(), StorageError> {
        let found = files::read_text(path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if found.as_ref() == Some(json) {
            return Ok(());
        }
        let what = if path.exists() { "written anew" } else { "written: it was not there" };
        if self.change(path, what) {
            files::create_dirs(&self.system, path.parent().unwrap_or(self.root))?;
            files::replace_json(&self.system, path, json)?;
        }
        Ok(())
    }

    /// Makes a small file hold these bytes, if it does not already.
    fn put(&mut self, path: &Path, bytes: &[u8], what: &str) -> Result<(), StorageError> {
        let is_same = fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64)
            && fs::read(path).is_ok_and(|found| found == bytes);
        if !is_same && self.change(path, what) {
            files::create_dirs(&self.system, path.parent().unwrap_or(self.root))?;
            files::replace(&self.system, path, bytes, true)?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, what: &str) -> Result<(), StorageError> {
        if self.change(path, what) {
            self.system.remove(path).context("remove", path)?;
        }
        Ok(())
    }

    /// Removes temporary files that nobody will rename any more, and sees that no link leads writes elsewhere (I6).
    fn clear_way(&mut self, directory: &Path) -> Result<(), StorageError> {
        for entry in fs::read_dir(directory).context("list", directory)? {
            let entry = entry.context("list", directory)?;
            let (path, kind) = (entry.path(), entry.file_type().context("list", directory)?);
            if kind.is_dir() {
                self.clear_way(&path)?;
            } else if !kind.is_dir() && path.extension().is_some_and(|extension| extension == "part") {
                self.remove(&path, "removed: a file that was being written")?;
            } else if kind.is_symlink() && !may_be_link(path.strip_prefix(self.root).unwrap_or(&path)) {
                return Err(StorageError::Link { path });
            }
        }
        Ok(())
    }

    fn tick(&mut self) {
        (self.watch)(self.report.bytes, self.total_bytes.max(self.report.bytes));
    }

    /// The manifest, last: from then on the data set is finished.
    fn finish(&mut self, mut manifest: Manifest, mut tiles: Vec<Tile>) -> Result<(), StorageError> {
        let longest = tiles.iter().filter(|tile| tile.has_begun).map(|tile| tile.frame_count).max();
        let frame_count = longest.or(manifest.frame_count).unwrap_or(0);
        for tile in tiles.iter_mut().filter(|tile| !tile.has_begun) {
            tile.frame_count = frame_count;
            tile.gaps.insert(0..frame_count, self.absent());
        }
        self.restore_whole(&manifest, frame_count)?;
        if self.report.before == Condition::Died {
            self.remove_broken_results()?;
        }
        for tile in &tiles {
            self.report.frames += tile.frame_count;
            self.report.present += tile.present;
        }
        let before = manifest.clone();
        manifest.gaps = tiles.iter().map(|tile| self.gaps_of(&before, tile)).collect();
        manifest.unsound = manifest.gaps.iter().any(|gaps| gaps.law.as_ref().is_some_and(|law| !law.holds));
        manifest.frame_count = Some(frame_count);
        if manifest.state == DataSetState::Running {
            manifest.state = DataSetState::Interrupted;
        }
        let path = self.root.join("zarr.json");
        if self.report.change_count > 0 || manifest != before || files::read_text(&path).is_err() {
            let RepairPlan { time, software, .. } = self.plan.clone();
            let (epoch, present, lost) = (self.epoch.saturating_add(1), self.report.present, self.report.lost);
            manifest.repairs.push(RepairNote { time, software, epoch, present, lost });
            self.put_json(&path, &manifest.to_json())?;
        }
        Ok(())
    }

    fn gaps_of(&self, before: &Manifest, tile: &Tile) -> TileGaps {
        let known = before.gaps.iter().find(|gaps| gaps.tile == tile.id);
        let received = known.and_then(|gaps| gaps.law.as_ref()).and_then(|law| law.received);
        let law = match known {
            // A data set of an early receiver, in which nothing has changed.
            Some(TileGaps { law: None, .. }) if self.report.change_count == 0 => None,
            _ => Some(Law::check(tile.frame_count, received, tile.present, &tile.gaps)),
        };
        TileGaps { law, ..listed_gaps(tile.id, &tile.gaps) }
    }
}
