//! How far a data set has come, and waiting for it to come further.
//!
//! # Why this way
//! `progress.json` is read again and again: that works on every file system and needs nothing of the receiver. A data set
//! whose receiver died may have lost it in a power cut; then the segments say what there is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use ronchi_pipeline::format::{Page0, Progress};
use ronchi_pipeline::{FrameFlag, FrameIndex, SECTOR_BYTES};

use super::runs;
use super::{Condition, Reader, ReaderTile};
use crate::storage::chunk_log::ChunkLog;
use crate::storage::error::StorageError;

/// How far a tile has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Frames below this are final: there, or not there for good.
    pub end: FrameIndex,
    /// What the data set is doing: only while [`Condition::Running`] may there be more.
    pub condition: Condition,
}

impl Reader {
    /// Looks how far a tile has come: what is published while a receiver writes, all frames when it has finished, and what can
    /// be proven when it died. A tile that has not begun has no frames.
    pub fn extent(&mut self, tile: u32) -> Result<Extent, StorageError> {
        self.refresh()?;
        let condition = self.condition;
        let end = match self.tiles.iter().find(|known| known.id == tile) {
            None if self.manifest.detector.tiles.iter().any(|known| known.id == tile) => 0,
            None => return Err(StorageError::NoTile { tile, path: self.root.clone() }),
            Some(tile) if condition.is_finished() => tile.array.frame_count,
            // Written anew with each publication: there is none until the first.
            Some(tile) if condition == Condition::Running => match tile.progress() {
                Ok(progress) => progress.visible_frames,
                Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            },
            Some(tile) => {
                runs::check_sizes(&tile.array.layout, tile.array.frame_count)?;
                let visible = self.left_progress(tile).map_or(0, |progress| progress.visible_frames);
                let proven = proven_end(tile);
                visible.max(proven).max(table_end(tile, proven)).min(tile.array.frame_count)
            }
        };
        Ok(Extent { end, condition })
    }

    /// Waits until a tile has come further than `beyond`, nothing more can come, or `deadline` is over; looks about
    /// every `poll_interval`.
    pub fn follow(
        &mut self,
        tile: u32,
        beyond: FrameIndex,
        poll_interval: Duration,
        deadline: Instant,
    ) -> Result<Extent, StorageError> {
        loop {
            let extent = self.extent(tile)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if extent.end > beyond || extent.condition != Condition::Running || left.is_zero() {
                return Ok(extent);
            }
            std::thread::sleep(poll_interval.min(left));
        }
    }

    /// Frames below this were promised to survive a power cut.
    pub(super) fn durable_frames(&self, tile: u32) -> FrameIndex {
        let tile = self.tiles.iter().find(|known| known.id == tile);
        tile.and_then(|tile| self.left_progress(tile)).map_or(0, |progress| progress.durable_frames)
    }

    /// The progress that a dead receiver left, if it is whole and of this data set.
    fn left_progress(&self, tile: &ReaderTile) -> Option<Progress> {
        tile.progress().ok().filter(|progress| (&progress.uuid, progress.tile) == (&self.manifest.uuid, tile.id))
    }
}

/// One more than the last frame from `first` on that is there by the frame table, in the segments that may be open then.
fn table_end(tile: &ReaderTile, first: FrameIndex) -> FrameIndex {
    let open = 2 * tile.array.layout.frames_per_segment();
    let count = tile.array.frame_count.saturating_sub(first).min(open);
    let mut rows = vec![FrameFlag::Missing as u8; count as usize];
    // Rows that cannot be read tell of no frame.
    let _ = tile.read_rows(first, "flags", 1, &mut rows);
    rows.iter().rposition(|&row| row == FrameFlag::Ok as u8).map_or(first, |last| first + last as u64 + 1)
}

/// One more than the last frame of the last chunk that has a checksum, by page 0 of the segments or by the log.
fn proven_end(tile: &ReaderTile) -> FrameIndex {
    let layout = tile.array.layout;
    let log = ChunkLog::read(tile, &tile.base_dir().join("chunks.log")).unwrap_or_default();
    let last_chunk = |number: u64| {
        let mut bytes = [0; SECTOR_BYTES];
        let read = File::open(tile.segment_path(number)).and_then(|file| file.read_exact_at(&mut bytes, 0));
        let page = read.ok().and_then(|()| Page0::decode(&bytes, layout.frame_bytes).ok());
        let in_page = |chunk: u32| {
            let entry = page.as_ref().and_then(|page| page.chunks.get(chunk as usize).copied().flatten());
            entry.is_some_and(|crc| crc != 0)
        };
        let in_log = |chunk: u32| log.chunk(number, chunk).is_some_and(|(_, crc)| crc != 0);
        (0..layout.chunks_per_segment).rev().find(|&chunk| in_page(chunk) || in_log(chunk))
    };
    let segments = tile.segments().unwrap_or_default();
    let last = segments.into_iter().rev().find_map(|number| Some((number, last_chunk(number)?)));
    last.map_or(0, |(number, chunk)| {
        let chunks = number.saturating_mul(u64::from(layout.chunks_per_segment)).saturating_add(u64::from(chunk) + 1);
        chunks.saturating_mul(u64::from(layout.frames_per_chunk))
    })
}
