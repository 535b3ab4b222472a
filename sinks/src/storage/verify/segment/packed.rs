//! What is different in packed segments: places of chunks, and chunks that are compressed.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ronchi_pipeline::DATA_OFFSET;
use ronchi_pipeline::format::{
    FormatError, FramesArray, PackedChunk, PackedPage0, Page0, packed_page1, read_packed_page1,
};

use super::{
    Audit, Buffers, Condition, PAGE_PAUSE, PAGE_READS_MAX, Page, SECTOR, Segment, Subject, chunk_name, first_difference,
};

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

    /// The HDF5 face of a packed segment has the shape of the array, and of a segment that is final the chunks of page 0.
    pub(super) fn check_packed_page1(
        &mut self,
        subject: &Subject,
        file: &File,
        (page0, places): (&Page0, &[Option<PackedChunk>]),
        name: &Path,
    ) {
        if self.condition == Condition::Died {
            return; // A power cut may leave half of it; it proves nothing, and `repair` writes it anew.
        }
        let Some(found) = self.read_packed_page1(file, name) else { return };
        let FramesArray { layout, tile, pixel, .. } = subject.tile.array;
        let (first, n) = (page0.trailer.first_frame, layout.frames_per_segment());
        let is_settled = page0.trailer.is_sealed && !subject.gaps.may_be_refused(&(first..first + n));
        if self.condition.is_finished() && is_settled {
            let expected = packed_page1(&layout, (tile, pixel), places, true);
            if let Some(at) = first_difference(&found, &expected) {
                let expected = format_args!("{}, as the shape and page 0 say", expected[at]);
                self.report.flaw(name, format_args!("page 1, byte {}", SECTOR + at), found[at], expected);
            }
            return;
        }
        // Both pages are written with each publication: one of them may be ahead of the other.
        match read_packed_page1(&found) {
            Ok(told) if told == (n, tile, pixel) => {}
            Ok((frames, ..)) => {
                let found = format_args!("a dataset of {frames} frames");
                self.report.flaw(name, "page 1", found, format_args!("{n} frames of shape and type of the array"));
            }
            Err(error) => self.report.flaw(name, "page 1", error, "headers and chunk index"),
        }
    }

    /// Page 1, as soon as it holds together if it is being written; `None` where an early receiver left it empty.
    fn read_packed_page1(&mut self, file: &File, name: &Path) -> Option<Page> {
        let mut found: Page = [0; SECTOR];
        let reads = if self.condition == Condition::Running { PAGE_READS_MAX } else { 1 };
        for read in 0..reads {
            if read > 0 {
                std::thread::sleep(PAGE_PAUSE);
            }
            if let Err(error) = file.read_exact_at(&mut found, SECTOR as u64) {
                self.report.flaw(name, "page 1", error, "4096 bytes");
                return None;
            }
            if found == [0; SECTOR] || read_packed_page1(&found).is_ok() {
                break;
            }
        }
        self.report.bytes += SECTOR as u64;
        (found != [0; SECTOR]).then_some(found)
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
