//! A packed segment: chunks are compressed as wholes, so each is there as one of its versions was, or not at all.
//!
//! # Why this way
//! A version is proved by the checksum of its bytes as stored. Frames that are not in it are zeros; nothing is zeroed, and
//! no chunk is compressed again. Versions are never overwritten, so an older one is there when the newest is torn.

use ronchi_pipeline::format::{PackedChunk, PackedPage0, Page0, blosc, packed_page1};
use ronchi_pipeline::{CrcJoin, SECTOR_BYTES, crc32c};

use super::Job;
use super::rows::Row;
use super::segment::{Segment, is_zero};
use super::tile::TileRepair;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::unpack::{Unpacker, logged_place};

const SECTOR: u64 = SECTOR_BYTES as u64;

/// Where the chunks of a packed segment lie.
pub(super) struct Places {
    /// As page 0 names them, if it holds together.
    found: Option<Vec<Option<PackedChunk>>>,
    /// As the repaired page names them.
    pub(super) kept: Vec<Option<PackedChunk>>,
    unpacker: Unpacker,
}

impl Places {
    pub(super) fn new(found: Option<Vec<Option<PackedChunk>>>, chunk_count: usize) -> Self {
        Self { found, kept: vec![None; chunk_count], unpacker: Unpacker::default() }
    }
}

/// Page 0 of a segment, with the places of chunks if the array is packed; `None` when it does not hold together.
pub(super) fn decode_page(
    bytes: &[u8],
    is_packed: bool,
    frame_bytes: u64,
) -> Option<(Page0, Option<Vec<Option<PackedChunk>>>)> {
    if !is_packed {
        return Page0::decode(bytes, frame_bytes).ok().map(|page| (page, None));
    }
    let PackedPage0 { trailer, chunks } = PackedPage0::decode(bytes, frame_bytes).ok()?;
    let checksums = chunks.iter().map(|chunk| chunk.map(|chunk| chunk.crc32c)).collect();
    Some((Page0 { trailer, chunks: checksums }, Some(chunks)))
}

impl Job<'_> {
    /// Judges the frames of one chunk by the newest of its versions that is as it was written.
    pub(super) fn judge_packed(
        &mut self,
        tile: &mut TileRepair,
        segment: &mut Segment,
        chunk: u32,
    ) -> Result<(), StorageError> {
        let layout = tile.layout;
        let version = tile.newest(segment, chunk);
        if version.is_none() {
            segment.pixels.fill(0);
        }
        let k = u64::from(layout.frames_per_chunk);
        let is_full = version.is_some_and(|version| version.frames == Some(layout.frames_per_chunk));
        let is_latest = version.is_some_and(|version| version.is_latest);
        let checksums: Vec<u32> = segment.pixels.chunks_exact(layout.frame_bytes as usize).map(crc32c).collect();
        let zeros = CrcJoin::new(layout.frame_bytes).zeros();
        let first = segment.number * layout.frames_per_segment() + u64::from(chunk) * k;
        let mut count = 0;
        for (place, frame) in (first..first + k).enumerate() {
            let row = tile.table.row(self, frame)?;
            let has_checksums = tile.table.has_checksums(self, frame)?;
            let is_ours = version.is_some() && tile.announced.is_none_or(|count| frame < count);
            let is_written = is_full || !is_zero(&segment.pixels, place, layout.frame_bytes);
            // A dark frame is zeros as well: its row says that it is one, and not one of a version that is lost. Where rows
            // have no checksums, that is sure of the latest version only: rows are written after it.
            let is_dark = |row: Row| row.is_ok() && if has_checksums { row.crc32c == zeros } else { is_latest };
            let is_there = is_ours
                && match row {
                    Some(row) if row.is_ok() => is_written || is_dark(row),
                    // In a finished data set the table has the last word: the disk may have refused what is there.
                    Some(_) => is_written && !self.report.before.is_finished(),
                    None => is_written,
                };
            if is_there {
                count += 1;
                segment.present_end = frame + 1;
            } else {
                self.report.lost += u64::from(row.is_some_and(|row| row.is_ok()));
            }
            let row = tile.note(frame, row, is_there.then_some(checksums[place]), self.report.before);
            tile.table.set(self, frame, row)?;
        }
        segment.counts[chunk as usize] = count;
        segment.present += u64::from(count);
        if let Some(places) = &mut segment.packed {
            places.kept[chunk as usize] = version.map(|version| version.place).filter(|_| count > 0);
        }
        Ok(())
    }

    /// Length, and pages 0 and 1 with the places that are kept.
    pub(super) fn seal_packed(
        &mut self,
        tile: &TileRepair,
        segment: &Segment,
        places: &Places,
    ) -> Result<(), StorageError> {
        let end = places.kept.iter().flatten().map(PackedChunk::end).max().unwrap_or(2 * SECTOR);
        let found_bytes = segment.file.metadata().context("read", &segment.path)?.len();
        if found_bytes < end && self.change(&segment.path, format_args!("{found_bytes} bytes long, now {end}")) {
            segment.file.set_len(end).context("resize", &segment.path)?;
        }
        let page0 = PackedPage0 { trailer: segment.trailer(tile), chunks: places.kept.clone() };
        let page1 = packed_page1(&tile.layout, (tile.shape, tile.pixel), &places.kept, true);
        self.put_pages(segment, &page1, &page0.encode())
    }
}

impl TileRepair {
    /// The newest version of a chunk whose bytes are what was written, decoded into `segment.pixels`.
    fn newest(&self, segment: &mut Segment, chunk: u32) -> Option<Version> {
        let places = segment.packed.as_mut()?;
        let logged = self.log.versions(segment.number, chunk).iter();
        let logged = logged.filter_map(|record| Some((logged_place(&segment.file, record)?, Some(record.frames))));
        let mut versions: Vec<(PackedChunk, Option<u32>)> = logged.collect();
        // Page 0 may name a version whose record was lost.
        let named = places.found.as_ref().and_then(|found| found[chunk as usize]);
        versions
            .extend(named.filter(|named| versions.iter().all(|(place, _)| place != named)).map(|place| (place, None)));
        versions.sort_by_key(|(place, _)| std::cmp::Reverse(place.offset)); // Each lies behind those before it.
        let most = blosc::bytes_max(segment.pixels.len(), blosc::BLOCK_BYTES_MIN) as u64;
        let age = versions.iter().position(|(place, _)| {
            place.stored_bytes <= most
                && places.unpacker.load(&segment.file, place).is_ok_and(|found| found == place.crc32c)
                && places.unpacker.decode(&mut segment.pixels).is_ok()
        })?;
        let (place, frames) = versions[age];
        Some(Version { place, frames, is_latest: age == 0 })
    }
}

/// A version of a chunk.
#[derive(Debug, Clone, Copy)]
struct Version {
    place: PackedChunk,
    /// Its frames, where the log has their number.
    frames: Option<u32>,
    /// No later one is known.
    is_latest: bool,
}
