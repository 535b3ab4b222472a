//! A packed segment: chunks are compressed as wholes, so each is there as one of its versions was, or not at all.
//!
//! # Why this way
//! A version is proved by the checksum of its bytes as stored. Frames that are not in it are zeros; nothing is zeroed, and
//! no chunk is compressed again. Versions are never overwritten, so an older one is there when the newest is torn.

use std::fs::File;

use ronchi_pipeline::format::{ChunkRecord, PackedChunk, PackedPage0, Page0, blosc};
use ronchi_pipeline::{CrcJoin, SECTOR_BYTES, crc32c};

use super::Job;
use super::rows::Row;
use super::segment::{Segment, is_zero, read_at};
use super::tile::TileRepair;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::unpack::Unpacker;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// Bytes of a compressed chunk that tell its length.
const HEADER_BYTES: usize = 16;

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
        let is_full = version.is_some_and(|(_, frames)| frames == Some(layout.frames_per_chunk));
        let checksums: Vec<u32> = segment.pixels.chunks_exact(layout.frame_bytes as usize).map(crc32c).collect();
        let zeros = CrcJoin::new(layout.frame_bytes).zeros();
        let first = segment.number * layout.frames_per_segment() + u64::from(chunk) * k;
        let mut count = 0;
        for (place, frame) in (first..first + k).enumerate() {
            let row = tile.table.row(self, frame)?;
            let has_checksums = tile.table.has_checksums(self, frame)?;
            let is_ours = version.is_some() && tile.announced.is_none_or(|count| frame < count);
            let is_written = is_full || !is_zero(&segment.pixels, place, layout.frame_bytes);
            // A dark frame is zeros as well: its row says that it is one, and not one of an older version.
            let is_dark = |row: Row| row.is_ok() && (!has_checksums || row.crc32c == zeros);
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
            places.kept[chunk as usize] = version.map(|(place, _)| place).filter(|_| count > 0);
        }
        Ok(())
    }

    /// Length, empty page 1, and page 0 with the places that are kept.
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
        self.put_pages(segment, &[0; SECTOR_BYTES], &page0.encode())
    }
}

impl TileRepair {
    /// The newest version of a chunk whose bytes are what was written, decoded into `segment.pixels`, with the number of
    /// its frames where the log has it.
    fn newest(&self, segment: &mut Segment, chunk: u32) -> Option<(PackedChunk, Option<u32>)> {
        let places = segment.packed.as_mut()?;
        let logged = self.log.versions(segment.number, chunk).iter().rev();
        let logged = logged.filter_map(|record| Some((logged_place(&segment.file, record)?, Some(record.frames))));
        let named = places.found.as_ref().and_then(|found| found[chunk as usize]).map(|place| (place, None));
        let most = blosc::bytes_max(segment.pixels.len(), blosc::BLOCK_BYTES_MIN) as u64;
        logged.chain(named).filter(|(place, _)| place.stored_bytes <= most).find(|(place, _)| {
            places.unpacker.load(&segment.file, place).is_ok_and(|found| found == place.crc32c)
                && places.unpacker.decode(&mut segment.pixels).is_ok()
        })
    }
}

/// The place that a record names; its length is in the chunk itself.
fn logged_place(file: &File, record: &ChunkRecord) -> Option<PackedChunk> {
    let offset = u64::from(record.sector) * SECTOR;
    let mut header = [0; HEADER_BYTES];
    read_at(file, &mut header, offset).ok()?;
    let stored_bytes = u64::from(blosc::stored_bytes(&header)?);
    (offset >= 2 * SECTOR && stored_bytes > 0).then_some(PackedChunk { offset, stored_bytes, crc32c: record.crc32c })
}
