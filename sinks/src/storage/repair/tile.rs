//! One tile: its segments one after the other, then everything that only describes them.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{
    ChunkRecord, DataSetState, FramesArray, Manifest, Page0, Progress, TileInfo, Trailer, group_json, uuid_text,
};
use ronchi_pipeline::{Gap, GapReason, Gaps, Layout, PixelType, SECTOR_BYTES, SigShape};
use serde_json::json;

use super::packed::decode_page;
use super::rows::{Row, Table};
use super::{Job, Tile};
use crate::storage::chunk_log::ChunkLog;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::file_system::FileSystem as _;
use crate::storage::reader::{Condition, ReaderTile};
use crate::storage::verify::FRAME_MAX;
use crate::storage::{files, table};

/// What stands at the place of a segment.
enum Place {
    /// A segment of this tile, or one that does not say whose it is.
    Own,
    /// One that says that it is another's.
    Stranger,
    /// A link that leads where no segment of this data set may be.
    Elsewhere,
    /// A link to a segment that is not there any more, in a volume that is.
    Gone,
}

/// What is known of a tile while it is judged.
pub(super) struct TileRepair {
    pub(super) id: u32,
    pub(super) uuid: [u8; 16],
    pub(super) layout: Layout,
    pub(super) shape: SigShape,
    pub(super) pixel: PixelType,
    pub(super) is_packed: bool,
    pub(super) log: ChunkLog,
    pub(super) table: Table,
    /// Frames of the series, where it was known before the end.
    pub(super) announced: Option<u64>,
    /// Watermarks that its receiver left.
    pub(super) durable: u64,
    visible: u64,
    reader: ReaderTile,
    rows_per_file: u64,
    /// Segments that are put aside, or would be.
    aside: BTreeSet<u64>,
    /// Gaps that a finished data set lists, sorted.
    listed: Vec<Gap>,
    gaps: Gaps,
    /// Frames that were looked at.
    judged: Vec<Range<u64>>,
    pub(super) present: u64,
    /// One after the last frame that left a trace.
    pub(super) end: u64,
}

impl Job<'_> {
    /// Gap of frames of which nothing is left.
    pub(super) fn absent(&self) -> GapReason {
        if self.report.before.is_finished() { GapReason::Unknown } else { GapReason::LostInCrash }
    }

    /// Judges and rebuilds one tile.
    pub(super) fn repair_tile(&mut self, manifest: &Manifest, info: &TileInfo) -> Result<Tile, StorageError> {
        let Some(array) = self.array(manifest, info)? else {
            let (id, gaps) = (info.id, Gaps::default());
            return Ok(Tile { id, frame_count: 0, present: 0, gaps, has_begun: false });
        };
        let mut tile = self.open_tile(manifest, info, &array)?;
        let mut records: Vec<ChunkRecord> = Vec::new();
        let mut empty = Vec::new();
        let mut sealed_count = 0;
        let per_segment = tile.layout.frames_per_segment();
        for number in self.numbers(&mut tile)? {
            let frames = number * per_segment..(number + 1) * per_segment;
            let is_there = tile.segment_path(number).exists() && !tile.aside.contains(&number);
            let judged = match is_there {
                true => Some(self.repair_segment(&mut tile, number)?),
                false => self.judge_absent(&mut tile, frames.clone())?,
            };
            tile.judged.push(frames);
            let Some(judged) = judged else { continue };
            sealed_count += 1;
            if judged.present == 0 {
                empty.push(number);
            }
            records.extend(judged.records);
        }
        tile.table.flush(self)?;
        let frame_count = tile.frame_count(self.report.before, &array);
        sealed_count -= self.remove_unused(&tile, &empty, frame_count)?;
        tile.close_gaps(frame_count, self.absent());
        self.put_log(&mut tile, records)?;
        self.put_metadata(&tile, FramesArray { frame_count, ..array })?;
        self.put_progress(manifest, &tile, frame_count, sealed_count)?;
        Ok(Tile { id: tile.id, frame_count, present: tile.present, gaps: tile.gaps, has_begun: true })
    }

    fn open_tile(
        &mut self,
        manifest: &Manifest,
        info: &TileInfo,
        array: &FramesArray,
    ) -> Result<TileRepair, StorageError> {
        let rows_per_file = self.rows_per_file(manifest, info.id)?;
        let reader = ReaderTile::new(self.root, manifest, info, array.clone(), rows_per_file);
        let log_path = reader.base_dir().join("chunks.log");
        let log = if log_path.exists() { ChunkLog::read(&reader, &log_path)? } else { ChunkLog::default() };
        self.epoch = self.epoch.max(log.epoch);
        // Watermarks are only trusted for what nothing else can tell; a lost file says nothing.
        let text = files::read_text(&reader.base_dir().join("progress.json"));
        let progress = text.ok().and_then(|text| Progress::from_json(&text).ok());
        let (durable, visible) = progress.map_or((0, 0), |progress| (progress.durable_frames, progress.visible_frames));
        let announced = match self.report.before {
            Condition::Died | Condition::Running => manifest.frame_count,
            _ => Some(array.frame_count),
        };
        let listed = manifest.gaps.iter().find(|gaps| gaps.tile == info.id);
        Ok(TileRepair {
            id: info.id,
            uuid: super::metadata::uuid_bytes(&manifest.uuid),
            layout: array.layout,
            shape: array.tile,
            pixel: array.pixel,
            is_packed: array.is_packed,
            log,
            table: Table::new(reader.base_dir().join("frame_table"), rows_per_file, array.is_packed),
            announced,
            durable,
            visible,
            reader,
            rows_per_file,
            aside: BTreeSet::new(),
            listed: listed.map(|gaps| gaps.ranges.clone()).unwrap_or_default(),
            gaps: Gaps::default(),
            judged: Vec::new(),
            present: 0,
            end: 0,
        })
    }

    /// Segments to judge: those that are there and ours, and those that rows of the table speak of.
    fn numbers(&mut self, tile: &mut TileRepair) -> Result<BTreeSet<u64>, StorageError> {
        let per_segment = tile.layout.frames_per_segment();
        let most = FRAME_MAX / per_segment;
        let mut numbers: BTreeSet<u64> = BTreeSet::new();
        for number in tile.reader.segments()? {
            let path = tile.segment_path(number);
            let why = match tile.place(number)? {
                Place::Own if number < most => {
                    numbers.insert(number);
                    continue;
                }
                Place::Own | Place::Stranger => "it belongs to another data set or place",
                Place::Elsewhere => "a link that leads to no segment of this data set",
                Place::Gone => {
                    self.remove(&path, "removed: a link that led nowhere")?;
                    continue;
                }
            };
            tile.aside.insert(number);
            self.move_stranger(&path, (tile.id, number), why)?;
        }
        let flags = tile.reader.base_dir().join("frame_table/flags/c");
        let files = if flags.is_dir() { files::numbered(&flags)? } else { Vec::new() };
        for file in files {
            let first = file.saturating_mul(tile.rows_per_file);
            let last = first.saturating_add(tile.rows_per_file - 1);
            numbers.extend((first / per_segment..=last / per_segment).filter(|&number| number < most));
        }
        Ok(numbers)
    }

    /// Frames whose segment is not there: whatever their rows say, they are gaps.
    fn judge_absent(
        &mut self,
        tile: &mut TileRepair,
        frames: Range<u64>,
    ) -> Result<Option<super::segment::Judged>, StorageError> {
        for frame in frames {
            let row = tile.table.row(self, frame)?;
            self.report.lost += u64::from(row.is_some_and(|row| row.is_ok()));
            let row = tile.note(frame, row, None, self.report.before);
            tile.table.set(self, frame, row)?;
        }
        Ok(None)
    }

    /// Segments made ahead of the first frame that never came: removed; returns how many.
    fn remove_unused(&mut self, tile: &TileRepair, empty: &[u64], frame_count: u64) -> Result<u64, StorageError> {
        let last = tile.end.min(frame_count).saturating_sub(1) / tile.layout.frames_per_segment();
        let is_unused = |number: &u64| self.report.before == Condition::Died && (*number > last || tile.end == 0);
        let unused: Vec<u64> = empty.iter().copied().filter(is_unused).collect();
        for &number in &unused {
            let path = tile.segment_path(number);
            let file = tile.reader.segment_file(number)?;
            let what = "removed: it was made ahead and never used";
            if file != path {
                self.remove(&file, what)?; // First: a link that leads nowhere can be seen and removed later.
            }
            self.remove(&path, what)?;
            if let (false, Some(home)) = (file == path || self.plan.is_dry, file.parent()) {
                let _ = self.system.remove_dir(home); // Best effort: it goes with its last segment.
            }
            for directory in path.ancestors().skip(1).take(2).filter(|_| !self.plan.is_dry) {
                let _ = self.system.remove_dir(directory); // Best effort: an empty directory reads as fill.
            }
        }
        self.report.segments -= unused.len() as u64;
        Ok(unused.len() as u64)
    }

    /// Files of the table behind the last frame: made for frames that are not there.
    fn remove_rows_behind(&mut self, directory: &Path, file_count: u64) -> Result<(), StorageError> {
        if !directory.exists() {
            return Ok(());
        }
        for number in files::numbered(directory)?.into_iter().filter(|&number| number >= file_count) {
            self.remove(&directory.join(number.to_string()), "removed: it is behind the last frame")?;
        }
        Ok(())
    }

    /// The log names every chunk as page 0 does; it is written anew when it does not.
    fn put_log(&mut self, tile: &mut TileRepair, mut records: Vec<ChunkRecord>) -> Result<(), StorageError> {
        let path = tile.reader.base_dir().join("chunks.log");
        let log = &tile.log;
        let is_same = |record: &ChunkRecord| match log.versions(record.segment, record.chunk).last() {
            Some(last) => (last.frames, last.crc32c, last.sector) == (record.frames, record.crc32c, record.sector),
            None => log.chunk(record.segment, record.chunk) == Some((record.frames, record.crc32c)),
        };
        let is_whole = log.is_there && log.is_valid() && log.chunk_count() == records.len() as u64;
        if is_whole && records.iter().all(is_same) {
            return Ok(());
        }
        records.iter_mut().for_each(|record| record.epoch = self.epoch.saturating_add(1));
        let bytes: Vec<u8> = records.iter().flat_map(ChunkRecord::encode).collect();
        self.put(&path, &bytes, "records written anew")
    }

    fn put_metadata(&mut self, tile: &TileRepair, array: FramesArray) -> Result<(), StorageError> {
        self.put_json(&tile.reader.array_dir().join("zarr.json"), &array.to_json())?;
        let dir = tile.reader.base_dir().join("frame_table");
        for (name, json) in table::metadata(array.frame_count, tile.rows_per_file).take(tile.table.columns()) {
            self.put_json(&dir.join(name).join("zarr.json"), &json)?;
            if !self.plan.is_dry {
                files::create_dirs(&self.system, &dir.join(name).join("c"))?;
            }
            self.remove_rows_behind(&dir.join(name).join("c"), array.frame_count.div_ceil(tile.rows_per_file))?;
        }
        self.put_json(&dir.join("zarr.json"), &group_json(json!({})))
    }

    fn put_progress(
        &mut self,
        manifest: &Manifest,
        tile: &TileRepair,
        frame_count: u64,
        segments_sealed: u64,
    ) -> Result<(), StorageError> {
        let path = tile.reader.base_dir().join("progress.json");
        let found = files::read_text(&path).ok().and_then(|text| Progress::from_json(&text).ok());
        let state = match manifest.state {
            DataSetState::Running => DataSetState::Interrupted,
            state => found.as_ref().map(|found| found.state).filter(|&s| s != DataSetState::Running).unwrap_or(state),
        };
        let progress = Progress {
            uuid: uuid_text(&tile.uuid),
            tile: tile.id,
            visible_frames: frame_count,
            durable_frames: frame_count,
            written_count: tile.present,
            durable_count: tile.present,
            segments_sealed,
            missing: tile.gaps.frame_count(),
            time_ns: found.as_ref().map_or(0, |found| found.time_ns),
            state,
        };
        if found.as_ref() != Some(&progress) {
            let bytes = serde_json::to_vec_pretty(&progress).unwrap_or_default(); // Plain numbers and text serialise.
            self.put(&path, &bytes, "written anew")?;
        }
        Ok(())
    }
}

impl TileRepair {
    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.reader.segment_path(number)
    }

    /// What stands at the place of a segment. Errors: it lies in a volume that is not mounted, or does not say there that it
    /// is of this data set.
    fn place(&self, number: u64) -> Result<Place, StorageError> {
        let path = self.segment_path(number);
        let target = match self.reader.segment_file(number) {
            Err(StorageError::Elsewhere { .. }) => return Ok(Place::Elsewhere),
            target => target?,
        };
        if !target.exists() {
            let is_mounted = target.parent().is_some_and(Path::is_dir);
            return if is_mounted { Ok(Place::Gone) } else { Err(StorageError::Unmounted { path, target }) };
        }
        let mut bytes = [0; SECTOR_BYTES];
        let read = open(&target, false)?.read_exact_at(&mut bytes, 0).ok();
        if path != target {
            // The whole page may be torn, its trailer may not: it never changes sector, and was there before the link was.
            return match Trailer::of_page(&bytes) {
                Ok(trailer) if self.is_own(&trailer, number) => Ok(Place::Own),
                Ok(_) => Ok(Place::Stranger),
                Err(_) => Err(StorageError::Unidentified { path, target }),
            };
        }
        let page = read.and_then(|()| decode_page(&bytes, self.is_packed, self.layout.frame_bytes));
        let is_own = |(page, _): (Page0, _)| {
            self.is_own(&page.trailer, number) && page.chunks.len() == self.layout.chunks_per_segment as usize
        };
        Ok(if page.is_none_or(is_own) { Place::Own } else { Place::Stranger })
    }

    /// Opens a segment where it lies.
    pub(super) fn open_segment(&self, number: u64, is_written: bool) -> Result<File, StorageError> {
        open(&self.reader.segment_file(number)?, is_written)
    }

    fn is_own(&self, trailer: &Trailer, number: u64) -> bool {
        (trailer.uuid, trailer.tile, trailer.segment) == (self.uuid, self.id, number)
            && trailer.first_frame == number.saturating_mul(self.layout.frames_per_segment())
            && trailer.frames_per_chunk == self.layout.frames_per_chunk
    }

    /// Lists missing frames, with the reason that is known, or what their row and the watermarks tell.
    pub(super) fn add_gap(&mut self, frames: Range<u64>, row: &Row, before: Condition) {
        let reason = match self.listed_reason(frames.start) {
            Some(reason) => reason,
            None if row.is_rejected() => GapReason::Rejected,
            None if row.is_ok() && before.is_finished() => GapReason::Damaged,
            None if before.is_finished() => GapReason::Unknown,
            None if frames.start < self.visible && !row.is_ok() => GapReason::Unknown,
            None => GapReason::LostInCrash,
        };
        self.gaps.insert(frames, reason);
    }

    pub(super) fn listed_reason(&self, frame: u64) -> Option<GapReason> {
        let at = self.listed.partition_point(|gap| gap.first.saturating_add(gap.count) <= frame);
        self.listed.get(at).filter(|gap| gap.first <= frame).map(|gap| gap.reason)
    }

    fn frame_count(&self, before: Condition, array: &FramesArray) -> u64 {
        match self.announced {
            Some(count) => count,
            None if before.is_finished() => array.frame_count,
            None => self.end,
        }
    }

    /// Frames that were in no segment and no row of the table, and none beyond the end.
    fn close_gaps(&mut self, frame_count: u64, absent: GapReason) {
        let judged = std::mem::take(&mut self.judged);
        let mut from = 0;
        for range in judged.iter().cloned().chain(std::iter::once(frame_count..frame_count)) {
            let hole = from..range.start.min(frame_count);
            for gap in &self.listed {
                let end = gap.first.saturating_add(gap.count).min(hole.end);
                self.gaps.insert(gap.first.max(hole.start)..end, gap.reason);
            }
            self.gaps.insert(hole.start..hole.end.min(self.visible), GapReason::Unknown);
            self.gaps.insert(hole, absent);
            from = range.end;
        }
        let beyond: Vec<Gap> = self.gaps.iter().filter(|gap| gap.first + gap.count > frame_count).collect();
        for frame in beyond.iter().flat_map(|gap| gap.first.max(frame_count)..gap.first + gap.count) {
            self.gaps.remove(frame);
        }
    }
}

/// Opens a file that is no link, to read it or to read and write it.
fn open(path: &Path, is_written: bool) -> Result<File, StorageError> {
    let mut options = File::options();
    options.read(true).write(is_written).custom_flags(libc::O_NOFOLLOW);
    options.open(path).context("open", path)
}
