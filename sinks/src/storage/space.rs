//! Room for data sets: what a series takes, what is free, and when to say no.
//!
//! # Place in the path
//! Beside it: asked when a series begins ([`Space::admit`]), and by the clerk before every segment.
//!
//! # Invariants
//! - I1: a series that was admitted gets all its segments, as long as nobody else fills the disk.
//! - I2: no segment is created that would leave less than the reserve free.
//!
//! # Units
//! Bytes as the file system counts them, for ordinary users; frames of the series.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::{Layout, SECTOR_BYTES};

use super::error::StorageError;
use super::table;
use crate::live::disk_free_bytes;

/// Directories a segment brings: two of its own, and two of its link into the array of whole frames.
const SEGMENT_DIRS: u64 = 4;
/// Manifest, metadata, progress and the directories they lie in; every document is there twice while it is replaced.
const DOCUMENTS_BYTES: u64 = 128 << 10;
/// Records of `chunks.log` that a chunk gets, on average: it is named whenever it has grown.
const RECORDS_PER_CHUNK: u64 = 4;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// Free space of a file system, and how much of it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes an ordinary user may still write.
    pub free_bytes: u64,
    /// Bytes of these that stay free.
    pub reserve_bytes: u64,
}

/// What a series is going to need.
pub struct Wanted<'a> {
    /// Announced frames; `None` when the run is open-ended.
    pub frame_count: Option<u64>,
    /// Frames of a scan row, flyback included.
    pub row_frames: Option<u64>,
    /// Bytes that a series of so many frames takes on disk; of an open-ended run, to begin with.
    pub bytes_of: &'a dyn Fn(Option<u64>) -> u64,
}

impl Space {
    /// The space of the file system of `directory`; `None` when the system does not tell.
    pub fn of(directory: &Path, reserve_bytes: u64) -> Option<Self> {
        disk_free_bytes(directory).map(|free_bytes| Self { free_bytes, reserve_bytes })
    }

    /// The space of several directories together, each of which keeps the reserve; those on one disk count once. `None` when
    /// the system does not tell of one.
    pub fn over(directories: &[PathBuf], reserve_bytes: u64) -> Option<Self> {
        let mut disks = BTreeMap::new();
        for directory in directories {
            let disk = std::fs::metadata(directory).ok()?.dev();
            disks.insert(disk, Self::of(directory, reserve_bytes)?);
        }
        // Of a disk that holds less than its reserve nothing may be taken, and nothing more is missing there.
        let free_bytes = disks.values().map(|space| space.free_bytes.max(reserve_bytes)).fold(0, u64::saturating_add);
        let reserve_bytes = reserve_bytes.saturating_mul(disks.len() as u64);
        match disks.len() {
            1 => disks.into_values().next(),
            _ => Some(Self { free_bytes, reserve_bytes }),
        }
    }

    /// Bytes of the whole file system of `directory`, used ones included.
    pub fn disk_bytes(directory: &Path) -> Option<u64> {
        let stat = rustix::fs::statvfs(directory).ok()?;
        stat.f_blocks.checked_mul(stat.f_frsize)
    }

    /// Whether so many bytes can be written without touching the reserve.
    pub fn holds(&self, bytes: u64) -> bool {
        bytes <= self.free_bytes.saturating_sub(self.reserve_bytes)
    }

    /// Refuses a series that does not fit, and says what would: every number is right at this moment.
    pub fn admit(&self, wanted: &Wanted<'_>) -> Result<(), StorageError> {
        let need_bytes = (wanted.bytes_of)(wanted.frame_count);
        if self.holds(need_bytes) {
            return Ok(());
        }
        let fits = |frames: u64| self.holds((wanted.bytes_of)(Some(frames)));
        let most = wanted.frame_count.unwrap_or(u64::from(u32::MAX));
        let row_frames = wanted.row_frames.filter(|&frames| frames > 0);
        Err(StorageError::NoRoom {
            frame_count: wanted.frame_count,
            need_bytes,
            free_bytes: self.free_bytes,
            reserve_bytes: self.reserve_bytes,
            frames_fit: largest(most, fits),
            rows_fit: row_frames.map(|frames| largest(most / frames, |rows| fits(rows * frames))),
        })
    }

    /// Refuses a segment that needs so many bytes when the reserve would suffer.
    pub(super) fn spare(&self, need_bytes: u64) -> Result<(), StorageError> {
        match self.holds(need_bytes) {
            true => Ok(()),
            false => Err(StorageError::Reserve {
                need_bytes,
                free_bytes: self.free_bytes,
                reserve_bytes: self.reserve_bytes,
            }),
        }
    }
}

/// Bytes one tile takes on disk: whole segments, as they are preallocated, table, log and documents. Of an open-ended
/// run, what it needs to begin.
pub fn tile_bytes(layout: &Layout, frame_count: Option<u64>) -> u64 {
    let segments = frame_count.map_or(1, |count| count.div_ceil(layout.frames_per_segment())).max(1);
    let records = segments.saturating_mul(u64::from(layout.chunks_per_segment)).saturating_mul(RECORDS_PER_CHUNK);
    let log_bytes = records.saturating_mul(ronchi_pipeline::format::CHUNK_RECORD_BYTES as u64);
    let tables = frame_count.map_or(1, |count| count.div_ceil(table::rows_per_file(frame_count))).max(1);
    let segment_bytes = layout.segment_bytes() + SEGMENT_DIRS * SECTOR;
    segments
        .saturating_mul(segment_bytes)
        .saturating_add(tables.saturating_mul(table_bytes(frame_count)))
        .saturating_add(log_bytes.div_ceil(SECTOR).saturating_mul(SECTOR))
        .saturating_add(margin_bytes(frame_count))
}

/// Bytes that must be free for one more segment: the segment, and what describes it.
pub(super) fn segment_need_bytes(layout: &Layout, frame_count: Option<u64>) -> u64 {
    layout.segment_bytes() + SEGMENT_DIRS * SECTOR + margin_bytes(frame_count)
}

/// Room for documents, and for the table files that the next rows may ask for.
fn margin_bytes(frame_count: Option<u64>) -> u64 {
    DOCUMENTS_BYTES + table_bytes(frame_count)
}

/// The chunk files of the frame table that hold the same rows.
fn table_bytes(frame_count: Option<u64>) -> u64 {
    let rows = table::rows_per_file(frame_count);
    table::ARRAYS.iter().map(|(_, _, row_bytes, _)| (rows * row_bytes).next_multiple_of(SECTOR)).sum()
}

/// The largest count up to `most` that fits, by halving; 0 always does. When larger counts may fit although smaller ones
/// do not, one that fits is found all the same.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// 64 frames of 8 KiB per segment.
    const LAYOUT: Layout = Layout { frame_bytes: 8192, frames_per_chunk: 4, chunks_per_segment: 16 };

    /// By hand: 3 segments of 8192 + 64 * 8192 bytes with four directories each, a table of 130 rows in four files of
    /// whole sectors, 192 records, and as much again as margin with 128 KiB for documents.
    #[test]
    fn a_series_by_hand() {
        let table = 4096 * 4;
        let log = 3 * 16 * 4 * 32_u64;
        let by_hand = 3 * (8192 + 64 * 8192 + 4 * 4096) + table + log.next_multiple_of(4096) + (128 << 10) + table;
        assert_eq!(tile_bytes(&LAYOUT, Some(130)), by_hand);
        assert_eq!(tile_bytes(&LAYOUT, Some(0)), tile_bytes(&LAYOUT, Some(1)), "the first segment is always made");
        let open = 8192 + 64 * 8192 + 4 * 4096 + 4096 + (128 << 10) + 2 * 65_536 * 21;
        assert_eq!(tile_bytes(&LAYOUT, None), open);
        assert_eq!(tile_bytes(&LAYOUT, Some(u64::MAX)), u64::MAX, "no overflow");
    }

    fn refusal(space: Space, frame_count: Option<u64>, row_frames: Option<u64>) -> (u64, u64, Option<u64>, String) {
        let bytes_of = |count| tile_bytes(&LAYOUT, count);
        let error = space.admit(&Wanted { frame_count, row_frames, bytes_of: &bytes_of }).expect_err("does not fit");
        let text = error.to_string();
        match error {
            StorageError::NoRoom { need_bytes, frames_fit, rows_fit, .. } => (need_bytes, frames_fit, rows_fit, text),
            other => panic!("{other}"),
        }
    }

    /// What does not fit is refused with what it needs, what there is, and what would fit: whole segments, whole rows.
    #[test]
    fn refusals() {
        let space = Space { free_bytes: 12 * MIB, reserve_bytes: 2 * MIB };
        let (need_bytes, frames, rows, text) = refusal(space, Some(4000), Some(50));
        assert_eq!((frames, rows), (18 * 64, Some(18 * 64 / 50)));
        assert_eq!(need_bytes, tile_bytes(&LAYOUT, Some(4000)));
        assert_eq!(
            text,
            format!(
                "no room for 4000 frames: {need_bytes} bytes needed, 12582912 free, 2097152 of them kept in reserve; \
                 1152 frames (23 scan rows) would fit"
            )
        );
        let full = Space { free_bytes: MIB, reserve_bytes: 2 * MIB };
        let (.., text) = refusal(full, None, None);
        assert!(text.starts_with("no room for the first segment of an open-ended run: "), "{text}");
        assert!(text.contains("1048576 free, 2097152 kept in reserve; 0 frames would fit"), "{text}");
    }

    /// An open-ended run begins whenever its first segment fits, and no sooner; a segment likewise.
    #[test]
    fn the_last_byte_decides() {
        let bytes_of = |count| tile_bytes(&LAYOUT, count);
        let open = Wanted { frame_count: None, row_frames: None, bytes_of: &bytes_of };
        let exact = Space { free_bytes: tile_bytes(&LAYOUT, None) + 7, reserve_bytes: 7 };
        assert!(exact.admit(&open).is_ok());
        assert!(Space { reserve_bytes: 8, ..exact }.admit(&open).is_err());
        assert!(exact.spare(exact.free_bytes - 7).is_ok());
        let error = exact.spare(exact.free_bytes - 6).expect_err("one byte too many");
        assert!(error.to_string().contains("7 of them kept in reserve"), "{error}");
    }

    proptest! {
        /// What is said to fit fits, one more frame or row does not, and an admitted series never lacks its last segment.
        #[test]
        fn what_fits(free in 0_u64..(200 * MIB), reserve in 0_u64..(100 * MIB), count in 1_u64..100_000, row in 1_u64..300) {
            let space = Space { free_bytes: free, reserve_bytes: reserve };
            let bytes_of = |count| tile_bytes(&LAYOUT, count);
            let fits = |frames| space.holds(bytes_of(Some(frames)));
            match space.admit(&Wanted { frame_count: Some(count), row_frames: Some(row), bytes_of: &bytes_of }) {
                Ok(()) => {
                    let segments = count.div_ceil(64) - 1;
                    let before = tile_bytes(&LAYOUT, Some(count)) - segment_need_bytes(&LAYOUT, Some(count));
                    prop_assert!(fits(count) && before >= segments * LAYOUT.segment_bytes());
                }
                Err(StorageError::NoRoom { frames_fit, rows_fit, .. }) => {
                    prop_assert!(!fits(count) && frames_fit < count && !fits(frames_fit + 1));
                    prop_assert!(frames_fit == 0 || fits(frames_fit));
                    prop_assert_eq!(rows_fit, Some(frames_fit / row));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
