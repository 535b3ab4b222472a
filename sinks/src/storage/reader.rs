//! Reads a data set, also one that grows: frames, flags, progress, and whether somebody still writes it.
//!
//! # Place in the path
//! Behind the disk. [`Reader::runs`] goes through frames in order and checks them (`reader/runs.rs`), by mappings or by direct
//! I/O (`reader/access.rs`); [`Reader::follow`] waits for more; [`Reader::read_frames`] takes some frames as they are.
//!
//! # Invariants
//! - I1: sizes come from metadata that was checked; a caller's range is compared with limits before memory is taken.
//! - I2: frames that are not there read as zeros; the flags say so.
//! - I3: nothing is ever repaired to be read: what a dead receiver left is read by what it proves (`reader/proof.rs`).

mod access;
mod direct;
pub(super) mod fetch;
mod follow;
mod map;
mod proof;
pub(super) mod runs;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{DataSetState, FramesArray, Manifest, Progress, TileInfo};
use ronchi_pipeline::{FrameFlag, FrameIndex, Region, Sensor, SigShape};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::error::{Context as _, StorageError};
use super::unpack::Unpacker;
use super::volumes::Home;
use super::{files, sensor, table};
pub use access::Access;
pub use follow::Extent;
#[doc(hidden)]
pub use map::Map;
use proof::ListedGaps;
pub use proof::RunGap;
pub use runs::{ReadPlan, Run, Runs};

/// Most bytes that one call reads.
const READ_BYTES_MAX: u64 = 1 << 32;

/// An open data set.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    manifest: Manifest,
    condition: Condition,
    tiles: Vec<ReaderTile>,
}

/// One tile of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderTile {
    /// Tile id.
    pub id: u32,
    /// Its place on the detector.
    pub region: Region,
    /// Shape, pixel type and layout; `frame_count` grows in an open-ended run, see [`Reader::refresh`].
    pub array: FramesArray,
    array_dir: PathBuf,
    base_dir: PathBuf,
    rows_per_file: u64,
    home: Home,
}

/// What a data set is doing: its manifest and its lock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A receiver is writing it.
    Running,
    /// The manifest says `running`, but nobody holds the lock: the receiver died.
    Died,
    /// All announced frames were seen.
    Complete,
    /// Ended early.
    Interrupted,
    /// A stage failed; what is durable is good.
    Failed,
}

impl Condition {
    /// The word that stands for it in texts and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Died => "died",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }

    /// Whether the manifest is final.
    pub fn is_finished(self) -> bool {
        !matches!(self, Self::Running | Self::Died)
    }
}

impl Reader {
    /// Opens the data set in this directory.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        let (manifest, condition) = look_at(root)?;
        let mut reader = Self { root: root.to_owned(), manifest, condition, tiles: Vec::new() };
        reader.refresh()?;
        Ok(reader)
    }

    /// Reads metadata again: a tile may have begun, an open-ended run grown, the manifest become final.
    pub fn refresh(&mut self) -> Result<(), StorageError> {
        (self.manifest, self.condition) = look_at(&self.root)?;
        let mut tiles = Vec::new();
        for tile in &self.manifest.detector.tiles {
            tiles.extend(ReaderTile::open(&self.root, &self.manifest, tile)?); // A link that has not begun is left out.
        }
        self.tiles = tiles;
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The manifest; `gaps` are listed once the data set is finished.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the detector said of its pixels. Errors: a table that cannot be read, or of another detector.
    pub fn sensor(&self) -> Result<Sensor, StorageError> {
        let [height, width] = self.manifest.detector.shape;
        let tables = sensor::read(&self.root, SigShape { height, width })?;
        Ok(Sensor { nodata: self.manifest.detector.nodata, ..tables })
    }

    /// What the data set was doing when it was opened or last looked at.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Tiles that have begun.
    pub fn tiles(&self) -> &[ReaderTile] {
        &self.tiles
    }

    /// One tile by its id.
    pub fn tile(&self, id: u32) -> Result<&ReaderTile, StorageError> {
        let tile = self.tiles.iter().find(|tile| tile.id == id);
        tile.ok_or_else(|| StorageError::NoTile { tile: id, path: self.root.clone() })
    }

    /// Progress of a tile: frames below `visible_frames` are final.
    pub fn progress(&self, tile: u32) -> Result<Progress, StorageError> {
        self.tile(tile)?.progress()
    }

    /// Goes through frames of a tile in order, chunk by chunk: pixels, what is not there and why, checked as `plan` says.
    /// Frames beyond those that are there come as gaps; see [`Self::extent`] for how far there is anything.
    ///
    /// # Errors
    /// No such tile, or a layout that no writer of ours chooses.
    pub fn runs(&self, tile: u32, frames: Range<FrameIndex>, plan: &ReadPlan) -> Result<Runs, StorageError> {
        Runs::new(self, tile, frames, plan)
    }

    /// Gaps of a tile as the manifest lists them; of a data set that is not finished, none.
    fn listed_gaps(&self, tile: &ReaderTile) -> ListedGaps {
        let listed = self.manifest.gaps.iter().find(|gaps| gaps.tile == tile.id);
        let listed = listed.filter(|_| self.condition.is_finished());
        listed.map_or_else(ListedGaps::default, |gaps| ListedGaps::of_manifest(gaps, tile.array.frame_count))
    }

    /// Reads frames (`frames x height x width`, dense, C order, bytes as received) into `out`, which is resized to fit.
    pub fn read_frames(&self, tile: u32, frames: Range<FrameIndex>, out: &mut Vec<u8>) -> Result<(), StorageError> {
        let tile = self.tile(tile)?;
        let layout = tile.array.layout;
        let count = frames.end.saturating_sub(frames.start);
        let bytes = count.checked_mul(layout.frame_bytes).filter(|&bytes| bytes <= READ_BYTES_MAX);
        let Some(bytes) = bytes.filter(|_| frames.end < u64::MAX / layout.frame_bytes.max(1)) else {
            let allowed = format!("{} frames", READ_BYTES_MAX / layout.frame_bytes.max(1));
            return Err(StorageError::Range { first: frames.start, end: frames.end, allowed });
        };
        out.clear();
        out.resize(bytes as usize, 0);
        let mut unpacker = Unpacker::default();
        let mut rest = out.as_mut_slice();
        let mut frame = frames.start;
        while !rest.is_empty() {
            let segment = layout.segment_of(frame);
            let end = ((segment + 1) * layout.frames_per_segment()).min(frames.end);
            let (part, after) = rest.split_at_mut(((end - frame) * layout.frame_bytes) as usize);
            let path = tile.segment_path(segment);
            tile.segment_file(segment)?;
            if let Some(file) = open_if_there(&path)? {
                match tile.array.is_packed {
                    true => unpacker.read_frames((&file, &path), &tile.array, frame..end, part)?,
                    false => file.read_exact_at(part, layout.offset_of(frame)).context("read", &path)?,
                }
            } // I2: an absent segment is all zeros.
            (rest, frame) = (after, end);
        }
        Ok(())
    }

    /// Flags of frames, one byte each as in [`FrameFlag`]; frames without a row are missing.
    pub fn flags(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u8>, StorageError> {
        self.column(tile, frames, "flags", 1, FrameFlag::Missing as u8)
    }

    /// The detector's own frame numbers; 0 for missing frames.
    pub fn counters(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u64>, StorageError> {
        self.column(tile, frames, "counter", 8, 0).map(numbers)
    }

    /// The detector's time stamps in ns since the Unix epoch; 0 for missing frames.
    pub fn times_ns(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u64>, StorageError> {
        self.column(tile, frames, "time_ns", 8, 0).map(numbers)
    }

    /// CRC-32C of every frame's bytes as stored; 0 for missing frames. Data sets of early receivers have zeros only.
    pub fn checksums(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u32>, StorageError> {
        let bytes = self.column(tile, frames, table::CHECKSUMS, 4, 0)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn column(
        &self,
        tile: u32,
        frames: Range<FrameIndex>,
        name: &str,
        row_bytes: u64,
        fill: u8,
    ) -> Result<Vec<u8>, StorageError> {
        let tile = self.tile(tile)?;
        let count = frames.end.saturating_sub(frames.start);
        let bytes = count.checked_mul(row_bytes).filter(|&bytes| bytes <= READ_BYTES_MAX);
        let Some(bytes) = bytes.filter(|_| frames.end < u64::MAX / 16) else {
            let allowed = format!("{} rows", READ_BYTES_MAX / row_bytes);
            return Err(StorageError::Range { first: frames.start, end: frames.end, allowed });
        };
        let mut out = vec![fill; bytes as usize];
        tile.read_rows(frames.start, name, row_bytes, &mut out)?;
        Ok(out)
    }
}

impl ReaderTile {
    /// Opens one tile of a data set; `None` when it has not begun.
    pub(super) fn open(root: &Path, manifest: &Manifest, tile: &TileInfo) -> Result<Option<Self>, StorageError> {
        let (array_dir, base_dir) = tile_dirs(root, manifest, tile.id);
        let path = array_dir.join("zarr.json");
        if !path.exists() {
            return Ok(None);
        }
        let array = FramesArray::from_json(&files::read_text(&path)?)
            .map_err(|source| StorageError::Format { path: path.clone(), source })?;
        let rows_per_file = table::read_rows_per_file(&base_dir.join("frame_table"))?;
        Ok(Some(Self::new(root, manifest, tile, array, rows_per_file)))
    }

    /// A tile whose metadata is known.
    pub(super) fn new(
        root: &Path,
        manifest: &Manifest,
        tile: &TileInfo,
        array: FramesArray,
        rows_per_file: u64,
    ) -> Self {
        let (array_dir, base_dir) = tile_dirs(root, manifest, tile.id);
        let ([y, x], [height, width]) = (tile.origin, tile.shape);
        let region = Region { y, x, height, width };
        let home = Home::new(&manifest.name, &manifest.uuid);
        Self { id: tile.id, region, array, array_dir, base_dir, rows_per_file, home }
    }

    /// Directory of `zarr.json` and `c/`.
    pub(super) fn array_dir(&self) -> &Path {
        &self.array_dir
    }

    /// Directory of `progress.json`, `chunks.log` and `frame_table/`.
    pub(super) fn base_dir(&self) -> &Path {
        &self.base_dir
    }

    /// Frames per chunk file of the frame table, 1 to 65,536.
    pub(super) fn rows_per_file(&self) -> u64 {
        self.rows_per_file
    }

    fn progress(&self) -> Result<Progress, StorageError> {
        let path = self.base_dir.join("progress.json");
        let text = files::read_text(&path)?;
        Progress::from_json(&text).map_err(|source| StorageError::Format { path, source })
    }

    /// The arrays of its frame table: name, Zarr type, bytes per row, fill byte. Early receivers kept no checksums.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, &'static str, u64, u8)> + use<> {
        let has_checksums = self.has_checksums();
        table::ARRAYS.into_iter().filter(move |(name, ..)| has_checksums || *name != table::CHECKSUMS)
    }

    /// Whether the frame table holds the checksum of every frame.
    pub(super) fn has_checksums(&self) -> bool {
        self.base_dir.join("frame_table").join(table::CHECKSUMS).is_dir()
    }

    /// Reads rows of one column of the frame table from frame `first` on; rows of files that are not there stay as
    /// they are in `out`.
    pub(super) fn read_rows(
        &self,
        first: FrameIndex,
        name: &str,
        row_bytes: u64,
        out: &mut [u8],
    ) -> Result<(), StorageError> {
        let rows = self.rows_per_file;
        let frames = first..first + out.len() as u64 / row_bytes;
        let mut frame = frames.start;
        while frame < frames.end {
            let end = ((frame / rows + 1) * rows).min(frames.end);
            let path = self.base_dir.join("frame_table").join(name).join("c").join((frame / rows).to_string());
            if let Some(file) = open_if_there(&path)? {
                let range = (frame - frames.start) * row_bytes..(end - frames.start) * row_bytes;
                let part = &mut out[range.start as usize..range.end as usize];
                file.read_exact_at(part, (frame % rows) * row_bytes).context("read", &path)?;
            }
            frame = end;
        }
        Ok(())
    }

    pub(super) fn segment_path(&self, segment: u64) -> PathBuf {
        self.array_dir.join("c").join(segment.to_string()).join("0").join("0")
    }

    /// The file of a segment, in this data set or in a volume. Errors: there is a link, and it leads elsewhere.
    pub(super) fn segment_file(&self, segment: u64) -> Result<PathBuf, StorageError> {
        self.home.locate(&self.segment_path(segment), self.id, segment)
    }

    /// Numbers of the segment files that are there, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>, StorageError> {
        let mut numbers = files::numbered(&self.array_dir.join("c"))?;
        // A link that leads nowhere is a segment whose disk is not mounted, not an absent one.
        numbers.retain(|&number| self.segment_path(number).symlink_metadata().is_ok());
        Ok(numbers)
    }
}

/// Directories of a tile's array, and of what describes it.
pub(super) fn tile_dirs(root: &Path, manifest: &Manifest, tile: u32) -> (PathBuf, PathBuf) {
    if manifest.detector.tiles.len() <= 1 {
        return (root.join("frames"), root.to_owned());
    }
    let dir = root.join("tiles").join(tile.to_string());
    (dir.clone(), dir)
}

fn read_manifest(root: &Path) -> Result<Manifest, StorageError> {
    let path = root.join("zarr.json");
    let text = files::read_text(&path)?;
    Manifest::from_json(&text).map_err(|source| StorageError::Format { path, source })
}

/// Reads the manifest and the lock of a data set, and nothing else: whether it is finished, grows, or was left behind.
/// A manifest that says `running` is read again when the lock is free: its receiver may just have finished it.
pub fn look_at(root: &Path) -> Result<(Manifest, Condition), StorageError> {
    let mut manifest = read_manifest(root)?;
    if manifest.state == DataSetState::Running {
        if is_locked(root)? {
            return Ok((manifest, Condition::Running));
        }
        manifest = read_manifest(root)?;
    }
    let condition = match manifest.state {
        DataSetState::Running => Condition::Died,
        DataSetState::Complete => Condition::Complete,
        DataSetState::Interrupted => Condition::Interrupted,
        DataSetState::Failed => Condition::Failed,
    };
    Ok((manifest, condition))
}

/// Whether somebody writes this data set. The lock is tried for shared use and given back at once; a receiver takes
/// it before there is a manifest, so it is never in the way of one that begins.
fn is_locked(root: &Path) -> Result<bool, StorageError> {
    let path = root.join(".lock");
    let Some(file) = open_if_there(&path)? else { return Ok(false) };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).context("lock", &path),
    }
}

/// Opens a file, if it is there. A link that leads nowhere is an error: the volume that it leads to is not mounted.
pub(super) fn open_if_there(path: &Path) -> Result<Option<File>, StorageError> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        result => result.map(Some).context("open", path),
    }
}

fn numbers(bytes: Vec<u8>) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
}
