//! Where a frame lies: the arithmetic of chunks, segments and sectors, used by memory and disk alike.
//!
//! # Invariants
//! - I1: frame `f` is frame `f % N` of segment `f / N` and starts there at byte `8192 + (f % N) * F`.
//! - I2: a block's buffer is congruent to its place on disk modulo one sector, so whole sectors are written from it
//!   without a copy.

use serde::{Deserialize, Serialize};

use crate::FrameIndex;

/// Unit of direct I/O: offsets, lengths and addresses are multiples of it, in bytes.
pub const SECTOR_BYTES: usize = 4096;
/// Byte offset of the first frame in a segment file (`docs/format.md`).
pub const DATA_OFFSET: u64 = 8192;
/// Most chunks in a segment: index, checksums and trailer must share one 4 KiB page.
pub const CHUNKS_MAX: u32 = 200;

/// Most frames in a chunk: bounds what is kept per frame of blocks and open segments.
const FRAMES_PER_CHUNK_MAX: u32 = 16_384;
const SEGMENT_BYTES_TARGET: u64 = 256 << 20;
const CHUNK_BYTES_MIN: u64 = 256 << 10;

/// Sizes of one region's frames, chunks and segments; fixed for an acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// F: bytes of one frame (of this region).
    pub frame_bytes: u64,
    /// k: frames per chunk; a full block is one chunk.
    pub frames_per_chunk: u32,
    /// n: chunks per segment, at most [`CHUNKS_MAX`].
    pub chunks_per_segment: u32,
}

impl Layout {
    /// Chooses k and n for frames of `frame_bytes` that arrive in blocks of at most `block_bytes_max`.
    ///
    /// k divides the scan row where that leaves a chunk of at least 256 KiB (so that a 4-D view over the same bytes is
    /// possible), otherwise k is the largest number of frames that fits. Segments aim at 256 MiB, hold whole scan
    /// rows where they can, and are not longer than the announced series. `None` if a frame is empty or does not fit.
    pub fn choose(frame_bytes: u64, block_bytes_max: u64, row: Option<u32>, announced: Option<u64>) -> Option<Self> {
        if frame_bytes == 0 || frame_bytes > block_bytes_max {
            return None;
        }
        let fit = (block_bytes_max / frame_bytes).min(u64::from(FRAMES_PER_CHUNK_MAX)) as u32;
        let fit = announced.map_or(fit, |n| fit.min(u32::try_from(n.max(1)).unwrap_or(u32::MAX)));
        let enough = |k: u32| u64::from(k) * frame_bytes >= CHUNK_BYTES_MIN;
        let divisor = row.filter(|&nx| nx > 0).and_then(|nx| (1..=fit.min(nx)).rev().find(|k| nx % k == 0));
        let k = divisor.filter(|&k| enough(k) || Some(k) == row).unwrap_or(fit);
        let chunk_bytes = u64::from(k) * frame_bytes;
        let wanted = (SEGMENT_BYTES_TARGET / chunk_bytes).clamp(1, u64::from(CHUNKS_MAX)) as u32;
        let per_row = row.filter(|nx| nx % k == 0).map_or(1, |nx| nx / k);
        let whole_rows = if per_row <= wanted { wanted - wanted % per_row } else { wanted };
        let needed = announced.map_or(whole_rows, |n| n.div_ceil(u64::from(k)).clamp(1, u64::from(CHUNKS_MAX)) as u32);
        Some(Self { frame_bytes, frames_per_chunk: k, chunks_per_segment: whole_rows.min(needed) })
    }

    /// The same with segments of at most `bytes_max` payload, but at least one chunk: whole scan rows are given up.
    #[must_use]
    pub fn in_segments_of(self, bytes_max: u64) -> Self {
        let chunks_max = u32::try_from(bytes_max / self.chunk_bytes().max(1)).unwrap_or(u32::MAX).max(1);
        Self { chunks_per_segment: self.chunks_per_segment.min(chunks_max), ..self }
    }

    /// k*F: bytes of one chunk, also the most payload of a block.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.frames_per_chunk) * self.frame_bytes
    }

    /// N: frames per segment.
    pub fn frames_per_segment(&self) -> u64 {
        u64::from(self.frames_per_chunk) * u64::from(self.chunks_per_segment)
    }

    /// Length of a segment file in bytes: data offset, frames, zero padding to a whole sector.
    pub fn segment_bytes(&self) -> u64 {
        DATA_OFFSET + (self.frames_per_segment() * self.frame_bytes).next_multiple_of(SECTOR_BYTES as u64)
    }

    /// Segment that holds frame `frame`.
    pub fn segment_of(&self, frame: FrameIndex) -> u64 {
        frame / self.frames_per_segment()
    }

    /// Byte offset of frame `frame` in its segment file.
    pub fn offset_of(&self, frame: FrameIndex) -> u64 {
        DATA_OFFSET + (frame % self.frames_per_segment()) * self.frame_bytes
    }

    /// First frame after the chunk that holds `frame`: a block that starts at `frame` may reach up to it.
    pub fn chunk_end(&self, frame: FrameIndex) -> FrameIndex {
        let k = u64::from(self.frames_per_chunk);
        (frame / k + 1) * k
    }

    /// Bytes of a pool slot that can hold any block of at most `block_bytes_max` payload, whatever its alignment.
    pub fn slot_bytes(block_bytes_max: u64) -> u64 {
        block_bytes_max.next_multiple_of(SECTOR_BYTES as u64) + SECTOR_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Typical detectors get chunks and segments inside the limits of the format.
    #[test]
    fn typical_layouts() {
        let block = 4 << 20;
        let merlin = Layout::choose(131_072, block, Some(256), Some(65_536)).expect("fits");
        assert_eq!((merlin.frames_per_chunk, merlin.chunks_per_segment), (32, 64));
        let odd = Layout::choose(514 * 514 * 2, block, Some(100), None).expect("fits");
        assert_eq!(odd.frames_per_chunk, 5);
        let tiny = Layout::choose(65_536, block, Some(2), Some(8)).expect("fits");
        assert!(tiny.frames_per_segment() >= 8 && tiny.segment_bytes() < 1 << 20);
        assert_eq!(Layout::choose(block + 1, block, None, None), None);
    }

    proptest! {
        /// Every layout keeps a chunk inside a block, the index inside its page, and neighbouring frames apart.
        #[test]
        fn layouts_hold(
            frame_bytes in 1_u64..5_000_000,
            row in proptest::option::of(1_u32..5000),
            announced in proptest::option::of(0_u64..1_000_000),
            frame in 0_u64..10_000_000,
        ) {
            let Some(l) = Layout::choose(frame_bytes, 4 << 20, row, announced) else { return Ok(()); };
            prop_assert!(l.chunk_bytes() <= 4 << 20);
            prop_assert!((1..=CHUNKS_MAX).contains(&l.chunks_per_segment));
            prop_assert!(l.offset_of(frame) + frame_bytes <= l.segment_bytes());
            prop_assert!(l.chunk_end(frame) > frame && l.segment_of(l.chunk_end(frame) - 1) == l.segment_of(frame));
        }
    }
}
