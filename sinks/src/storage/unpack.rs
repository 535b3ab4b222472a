//! Reads chunks of packed segments: from the bytes as stored to frames.
//!
//! # Invariants
//! - I1: page 0 is believed when both its checksums hold, a chunk when its checksum does; sizes were checked with page 0.
//! - I2: a chunk is never overwritten: what a page 0 of any age names stays where it is. Only page 0 may be torn while its
//!   segment grows, and the page cache may lag behind direct writes; both pass, so that reads are repeated.
//!
//! # Limits
//! One chunk as stored (at most twice as long as decoded), one decoded, and one block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use ronchi_pipeline::format::{ChunkRecord, FormatError, FramesArray, PackedChunk, PackedPage0, blosc};
use ronchi_pipeline::{DATA_OFFSET, FrameIndex, SECTOR_BYTES, crc32c};

use super::error::{Context as _, StorageError};

/// Times something is read again that does not hold together, and the time in between (I2).
const READS_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes of a compressed chunk that tell its length.
const HEADER_BYTES: usize = 16;

/// Memory that is reused from chunk to chunk.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    stored: Vec<u8>,
    block: Vec<u8>,
    chunk: Vec<u8>,
}

impl Unpacker {
    /// Reads a chunk as stored; returns the checksum of its bytes. Beyond the end of a file that was cut there are zeros.
    pub(super) fn load(&mut self, file: &File, chunk: &PackedChunk) -> io::Result<u32> {
        self.stored.clear();
        self.stored.resize(chunk.stored_bytes as usize, 0); // I1: bounded by `PackedPage0::decode`.
        let bytes = file.metadata()?.len().saturating_sub(chunk.offset).min(chunk.stored_bytes);
        file.read_exact_at(&mut self.stored[..bytes as usize], chunk.offset)?;
        Ok(crc32c(&self.stored))
    }

    /// Decodes the chunk that was loaded last, into memory of the decoded length.
    pub(super) fn decode(&mut self, out: &mut [u8]) -> Result<(), FormatError> {
        blosc::decode(&self.stored, &mut self.block, out)
    }

    /// Reads frames of one segment, dense, into `out`; those of absent chunks are left as they are.
    pub(super) fn read_frames(
        &mut self,
        (file, path): (&File, &Path),
        array: &FramesArray,
        frames: Range<FrameIndex>,
        out: &mut [u8],
    ) -> Result<(), StorageError> {
        let layout = array.layout;
        let chunks = read_page(file, path, layout.frame_bytes)?.chunks;
        let (k, base) =
            (u64::from(layout.frames_per_chunk), layout.segment_of(frames.start) * layout.frames_per_segment());
        let mut rest = out;
        let mut frame = frames.start;
        while frame < frames.end {
            let number = (frame - base) / k;
            let first = base + number * k;
            let end = (first + k).min(frames.end);
            let (part, after) = rest.split_at_mut(((end - frame) * layout.frame_bytes) as usize);
            if let Some(chunk) = chunks.get(number as usize).copied().flatten() {
                self.load_checked(file, path, &chunk)?;
                let skip = ((frame - first) * layout.frame_bytes) as usize;
                self.decode_part(layout.chunk_bytes() as usize, skip, part)
                    .map_err(|source| StorageError::Format { path: path.to_owned(), source })?;
            }
            (rest, frame) = (after, end);
        }
        Ok(())
    }

    fn decode_part(&mut self, chunk_bytes: usize, skip: usize, part: &mut [u8]) -> Result<(), FormatError> {
        if part.len() == chunk_bytes {
            return self.decode(part);
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(chunk_bytes, 0);
        let result = self.decode(&mut chunk);
        part.copy_from_slice(&chunk[skip..skip + part.len()]);
        self.chunk = chunk;
        result
    }

    /// Reads and decodes a whole chunk.
    pub(super) fn unpack(
        &mut self,
        (file, path): (&File, &Path),
        chunk: &PackedChunk,
        out: &mut [u8],
    ) -> Result<(), StorageError> {
        self.load_checked(file, path, chunk)?;
        self.decode(out).map_err(|source| StorageError::Format { path: path.to_owned(), source })
    }

    fn load_checked(&mut self, file: &File, path: &Path, chunk: &PackedChunk) -> Result<(), StorageError> {
        repeat(|| {
            let want = self.load(file, chunk).context("read", path)?;
            if want == chunk.crc32c {
                return Ok(Ok(()));
            }
            Ok(Err(FormatError::Checksum { what: "compressed chunk", got: chunk.crc32c, want }))
        })?
        .map_err(|source| StorageError::Format { path: path.to_owned(), source })
    }
}

/// The place that a record of the log names; its length is in the chunk itself.
pub(super) fn logged_place(file: &File, record: &ChunkRecord) -> Option<PackedChunk> {
    let offset = u64::from(record.sector) * SECTOR_BYTES as u64;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, offset).ok()?;
    let stored_bytes = u64::from(blosc::stored_bytes(&header)?);
    (offset >= DATA_OFFSET && stored_bytes > 0).then_some(PackedChunk { offset, stored_bytes, crc32c: record.crc32c })
}

/// The newest version of a chunk in the log that is as it was written, with the number of its frames. Versions that cannot
/// expand to `chunk_bytes` are passed over.
pub(super) fn newest_logged(
    file: &File,
    records: &[ChunkRecord],
    chunk_bytes: u64,
    unpacker: &mut Unpacker,
) -> Option<(PackedChunk, u32)> {
    let most = blosc::bytes_max(chunk_bytes as usize, blosc::BLOCK_BYTES_MIN) as u64;
    records.iter().rev().find_map(|record| {
        let place = logged_place(file, record).filter(|place| place.stored_bytes <= most)?;
        (unpacker.load(file, &place).ok()? == place.crc32c).then_some((place, record.frames))
    })
}

/// Page 0 of a packed segment with frames of `frame_bytes`.
fn read_page(file: &File, path: &Path, frame_bytes: u64) -> Result<PackedPage0, StorageError> {
    let mut page = [0; SECTOR_BYTES];
    repeat(|| {
        file.read_exact_at(&mut page, 0).context("read", path)?;
        Ok(PackedPage0::decode(&page, frame_bytes))
    })?
    .map_err(|source| StorageError::Format { path: path.to_owned(), source })
}

/// Reads until what was read holds together, a bounded number of times.
fn repeat<T>(
    mut read: impl FnMut() -> Result<Result<T, FormatError>, StorageError>,
) -> Result<Result<T, FormatError>, StorageError> {
    for _ in 1..READS_MAX {
        let result = read()?;
        if result.is_ok() {
            return Ok(result);
        }
        std::thread::sleep(PAUSE);
    }
    read()
}
