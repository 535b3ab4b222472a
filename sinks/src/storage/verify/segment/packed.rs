//! What is different in packed segments: places of chunks, and chunks that are compressed.

use std::ops::Range;
use std::path::Path;

use ronchi_pipeline::DATA_OFFSET;
use ronchi_pipeline::format::{FormatError, FramesArray, PackedChunk, PackedPage0, Page0};

use super::{Audit, Buffers, Page, Segment, chunk_name};

/// Page 0 with the checksums of chunks, and their places if they have no fixed ones.
pub(super) type PageAndPlaces = (Page0, Option<Vec<Option<PackedChunk>>>);

impl Audit<'_> {
    /// Chunks of a packed segment lie inside the file and apart from each other.
    pub(super) fn check_places(&mut self, places: &[Option<PackedChunk>], bytes: u64, name: &Path) {
        let mut sorted: Vec<&PackedChunk> = places.iter().flatten().collect();
        sorted.sort_unstable_by_key(|chunk| chunk.offset);
        let mut from = DATA_OFFSET;
        // Page 0 may name a chunk before its file is so long, and may be all that a power cut left of it.
        let bytes = if self.condition.is_finished() { bytes } else { u64::MAX };
        for chunk in sorted {
            if chunk.offset < from || chunk.end() > bytes {
                let found = format_args!("{} bytes at {}", chunk.stored_bytes, chunk.offset);
                self.report.flaw(name, "place of a chunk", found, format_args!("from {from} on, before {bytes}"));
                return;
            }
            from = chunk.end();
        }
    }

    /// Reads a compressed chunk and takes the checksums of its frames; returns that of its bytes as stored. Where that is
    /// not what it should be no frame is looked at.
    pub(super) fn read_packed(
        &mut self,
        segment: &Segment<'_>,
        (chunk, frames): (u32, &Range<u64>),
        place: &PackedChunk,
        buffers: &mut Buffers,
        name: &Path,
    ) -> Option<u32> {
        let chunk_bytes = segment.subject.tile.array.layout.chunk_bytes();
        self.report.bytes += place.stored_bytes;
        buffers.unpacked.resize(chunk_bytes as usize, 0);
        let loaded = buffers.unpacker.load(&segment.file, place);
        let found = loaded
            .map_err(|error| {
                let expected = format_args!("{} bytes", place.stored_bytes);
                self.report.flaw(name, chunk_name(chunk, frames), error, expected);
            })
            .ok()?;
        if found != place.crc32c {
            buffers.unpacked.clear();
        } else if let Err(error) = buffers.unpacker.decode(&mut buffers.unpacked) {
            self.report.flaw(name, chunk_name(chunk, frames), error, format_args!("{chunk_bytes} bytes, compressed"));
            return None;
        }
        buffers.take_checksums(segment);
        Some(found)
    }
}

/// What page 0 says, with the places of chunks if the array is packed, and what it must then be byte for byte.
pub(super) fn decode_page0(bytes: &Page, array: &FramesArray) -> Result<(PageAndPlaces, Box<Page>), FormatError> {
    let frame_bytes = array.layout.frame_bytes;
    if !array.is_packed {
        let page = Page0::decode(bytes, frame_bytes)?;
        let expected = page.encode(frame_bytes);
        return Ok(((page, None), expected));
    }
    let packed = PackedPage0::decode(bytes, frame_bytes)?;
    let expected = packed.encode();
    let chunks = packed.chunks.iter().map(|chunk| chunk.map(|chunk| chunk.crc32c)).collect();
    Ok(((Page0 { trailer: packed.trailer, chunks }, Some(packed.chunks)), expected))
}
