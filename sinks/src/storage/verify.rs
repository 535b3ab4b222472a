//! Checks everything the format promises of a data set, and changes nothing: `docs/format.md` says what that is.
//!
//! # Place in the path
//! Beside it: for `ronchi verify` and for tests, on finished data sets, on one that grows, and on one whose receiver died.
//!
//! # Invariants
//! - I1: a finished data set is checked whole. One that is still being written is checked as far as its progress says:
//!   below `visible_frames` while it grows, below `durable_frames` when its receiver died.
//! - I2: of one that grows, what promises is read before what was promised: progress, log, table, then page 0 and pixels.
//! - I3: a flaw never ends the check. Only a directory that is no data set of ours, or of a newer version, is refused.
//! - I4: no length, count or shape read from a file sizes memory or a loop before it was compared with a limit.
//!
//! # Limits
//! Chunks that are read ahead (tens of MiB in all, or two chunks of [`CHUNK_BYTES_MAX`] at most), one file of the frame table
//! (at most 65,536 rows), 8 bytes per chunk of the segments of one tile, and [`FLAWS_LISTED_MAX`] flaws.
//!
//! # Why this way
//! It derives from flags, gaps and metadata what every byte must be, instead of asking the writer's code, and takes from
//! that only the pure functions that encode a page. What carries no promise is left alone: chunks without a checksum in
//! unsealed segments, and frames whose write was refused. Pixels are read around the page cache, so that checking a large
//! data set pushes nothing out of it.

mod ahead;
pub(super) mod folder;
mod records;
mod report;
mod rows;
mod segment;
mod trailer;

use std::ops::Range;
use std::path::Path;

use ronchi_pipeline::format::{Manifest, Progress, TileGaps};
use ronchi_pipeline::{Gap, GapReason};

use super::chunk_log::ChunkLog;
use super::error::StorageError;
pub(super) use super::reader::runs::{CHUNK_BYTES_MAX, FRAME_MAX, FRAMES_PER_CHUNK_MAX};
use super::reader::{Condition, ReaderTile, look_at};
pub use report::{FLAWS_LISTED_MAX, Flaw, Verification};

/// Most tiles of a detector, and lists of gaps, that are looked at.
pub(super) const TILES_MAX: usize = 4096;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything but the pixels.
    Quick,
    /// Everything.
    Full,
}

/// Checks a data set. `watch` hears now and then how many bytes of how many have been looked at.
///
/// # Errors
/// The directory is not a data set of this or an older version: everything else that is wrong is a [`Flaw`].
pub fn verify(root: &Path, depth: Depth, watch: &mut dyn FnMut(u64, u64)) -> Result<Verification, StorageError> {
    let (manifest, condition) = look_at(root)?;
    let report = Verification {
        name: manifest.name.clone(),
        uuid: manifest.uuid.clone(),
        condition,
        is_quick: depth == Depth::Quick,
        announced: manifest.frame_count,
        ..Verification::new(condition)
    };
    let mut audit = Audit {
        root,
        manifest: &manifest,
        condition,
        depth,
        report,
        watch,
        done_bytes: 0,
        total_bytes: 0,
        has_whole: false,
    };
    audit.run();
    Ok(audit.report)
}

/// A check that goes on.
struct Audit<'a> {
    root: &'a Path,
    manifest: &'a Manifest,
    condition: Condition,
    depth: Depth,
    report: Verification,
    watch: &'a mut dyn FnMut(u64, u64),
    done_bytes: u64,
    total_bytes: u64,
    /// The tiles cover the detector as a regular grid: there is an array of whole frames, made of links.
    has_whole: bool,
}

/// What is known of the tile being checked before its segments are looked at.
struct Subject {
    tile: ReaderTile,
    gaps: GapList,
    log: ChunkLog,
    segments: Vec<u64>,
    /// Rows of the frame table, and chunks that end there, must be right below this frame.
    promised: u64,
    sealed_count: u64,
}

impl Audit<'_> {
    fn run(&mut self) {
        self.check_lock();
        let manifest = self.manifest;
        let mut tiles: Vec<_> = manifest.detector.tiles.clone();
        let listed = tiles.len();
        tiles.sort_unstable_by_key(|tile| tile.id);
        tiles.dedup_by_key(|tile| tile.id);
        if tiles.len() != listed || tiles.is_empty() || tiles.len().max(manifest.gaps.len()) > TILES_MAX {
            let expected = format_args!("1 to {TILES_MAX}, each once: nothing else is read");
            self.report.flaw(Path::new("zarr.json"), "tiles, or their gaps", listed, expected);
            return;
        }
        self.has_whole = folder::is_grid(&manifest.detector);
        self.check_gap_entries();
        let mut opened = Vec::new();
        for info in &tiles {
            // I2: an array is at least as long as the progress that was read before it.
            let progress = self.read_progress(info.id);
            match ReaderTile::open(self.root, manifest, info) {
                Ok(Some(tile)) => opened.push((tile, progress)),
                Ok(None) => self.check_unbegun(info.id, progress.as_ref()),
                Err(error) => self.report.refused(self.root, &error, "metadata of frames and frame table"),
            }
        }
        let per_segment = |tile: &ReaderTile| match self.depth {
            Depth::Quick => segment::PAGES_BYTES,
            Depth::Full => tile.array.layout.segment_bytes(),
        };
        let bytes = |tile: &ReaderTile| per_segment(tile).saturating_mul(tile.segments().map_or(0, |s| s.len() as u64));
        self.total_bytes = opened.iter().map(|(tile, _)| bytes(tile)).fold(0, u64::saturating_add);
        self.check_whole(&opened.iter().map(|(tile, _)| tile).collect::<Vec<_>>());
        for (tile, progress) in opened {
            self.check_tile(tile, progress);
        }
        self.check_groups();
        self.check_results();
        self.done_bytes = self.total_bytes;
        self.tick();
    }

    /// Tells how far it has come; what grows may have more than was counted at first.
    fn tick(&mut self) {
        self.total_bytes = self.total_bytes.max(self.done_bytes);
        (self.watch)(self.done_bytes, self.total_bytes);
    }

    fn check_tile(&mut self, tile: ReaderTile, progress: Option<Progress>) {
        let (is_readable, frame_count) = (self.check_array(&tile), tile.array.frame_count);
        if frame_count > FRAME_MAX {
            let expected = format_args!("{FRAME_MAX} at most: the tile is not read");
            self.report.flaw(Path::new("zarr.json"), format_args!("frames of tile {}", tile.id), frame_count, expected);
            return;
        }
        let log = self.read_log(&tile, progress.is_some());
        let segments = tile.segments();
        let segments = self.report.tell(self.root, segments, "a directory of segments").unwrap_or_default();
        let promised = match (&progress, self.condition) {
            (_, condition) if condition.is_finished() => frame_count,
            (Some(progress), Condition::Running) => progress.visible_frames.min(frame_count),
            (Some(progress), _) => progress.durable_frames.min(frame_count),
            (None, _) => 0,
        };
        let gaps = self.gap_list(tile.id, frame_count);
        let mut subject = Subject { tile, gaps, log, segments, promised, sealed_count: 0 };
        let present = self.check_rows(&subject);
        self.check_log(&subject);
        if is_readable {
            self.check_segments(&mut subject);
        }
        if let Some(progress) = &progress {
            self.check_progress(&subject, progress, &present);
        }
        self.check_law(&subject, &present);
    }

    /// `frame_count = present + gaps`, for a tile that is finished.
    fn check_law(&mut self, subject: &Subject, present: &rows::Counts) {
        let frame_count = subject.tile.array.frame_count;
        self.report.frames_present += present.ok;
        if !self.condition.is_finished() {
            self.report.count_frames(subject.promised, present.missing);
            return;
        }
        self.report.count_frames(frame_count, subject.gaps.frame_count);
        if present.ok.checked_add(subject.gaps.frame_count) != Some(frame_count) {
            let found = format!("{} present and {} in gaps", present.ok, subject.gaps.frame_count);
            let file = Path::new("zarr.json");
            let what = format!("frames of tile {}", subject.tile.id);
            self.report.flaw(file, what, found, format_args!("{frame_count} in all"));
        }
    }
}

/// The gaps of one tile as the manifest lists them: sorted, not empty, apart from each other.
#[derive(Debug, Default)]
struct GapList {
    ranges: Vec<Gap>,
    frame_count: u64,
    /// Frames from here on may be missing without being listed.
    listed_end: u64,
}

impl GapList {
    fn new(gaps: &TileGaps) -> Self {
        let end = gaps.ranges.last().map_or(0, |last| last.first.saturating_add(last.count));
        let listed_end = if gaps.is_cut { end } else { u64::MAX };
        Self { ranges: gaps.ranges.clone(), frame_count: gaps.frame_count, listed_end }
    }

    /// The first range that ends after `frame`.
    fn next(&self, frame: u64) -> Option<&Gap> {
        let at = self.ranges.partition_point(|gap| gap.first.saturating_add(gap.count) <= frame);
        self.ranges.get(at)
    }

    /// The first frame of `frames` that is listed.
    fn first_listed(&self, frames: &Range<u64>) -> Option<u64> {
        self.next(frames.start).map(|gap| gap.first.max(frames.start)).filter(|&first| first < frames.end)
    }

    /// The first frame of `frames` that should be listed and is not.
    fn first_unlisted(&self, frames: &Range<u64>) -> Option<u64> {
        let mut frame = frames.start;
        let end = frames.end.min(self.listed_end);
        while frame < end {
            match self.next(frame) {
                Some(gap) if gap.first <= frame => frame = gap.first.saturating_add(gap.count),
                _ => return Some(frame),
            }
        }
        None
    }

    /// Whether the disk refused, or may have refused, a frame of `frames`: its bytes are then not promised.
    fn may_be_refused(&self, frames: &Range<u64>) -> bool {
        if frames.end > self.listed_end {
            return true;
        }
        let mut frame = frames.start;
        while let Some(gap) = self.next(frame).filter(|gap| gap.first < frames.end) {
            if gap.reason == GapReason::WriteFailed {
                return true;
            }
            frame = gap.first.saturating_add(gap.count);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ronchi_pipeline::Gaps;

    proptest! {
        /// Against a walk over single frames, with whole lists and cut ones, whatever their ranges are.
        #[test]
        fn gap_lists_like_a_walk(
            inserted in proptest::collection::vec((0_u64..60, 1_u64..6, any::<bool>()), 0..12),
            kept in 0_usize..8, start in 0_u64..70, count in 1_u64..20,
        ) {
            let mut gaps = Gaps::default();
            for (first, count, is_refused) in inserted {
                let reason = if is_refused { GapReason::WriteFailed } else { GapReason::NeverArrived };
                gaps.insert(first..first + count, reason);
            }
            let is_cut = gaps.iter().count() > kept;
            let ranges: Vec<Gap> = gaps.iter().take(kept).collect();
            let list = GapList::new(&TileGaps { tile: 0, frame_count: gaps.frame_count(), ranges: ranges.clone(), is_cut, law: None });
            let listed = |frame: u64| ranges.iter().find(|gap| (gap.first..gap.first + gap.count).contains(&frame));
            let end = ranges.last().filter(|_| is_cut).map_or(if is_cut { 0 } else { u64::MAX }, |gap| gap.first + gap.count);
            let frames = start..start + count;
            prop_assert_eq!(list.first_listed(&frames), frames.clone().find(|&frame| listed(frame).is_some()));
            let unlisted = frames.clone().find(|&frame| frame < end && listed(frame).is_none());
            prop_assert_eq!(list.first_unlisted(&frames), unlisted);
            let is_refused = |frame: u64| listed(frame).is_some_and(|gap| gap.reason == GapReason::WriteFailed);
            let may_be = frames.end > end || frames.clone().any(is_refused);
            prop_assert_eq!(list.may_be_refused(&frames), may_be);
        }
    }
}
