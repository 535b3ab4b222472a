//! Records of `chunks.log`: what page 0 is about to say, appended before it is rewritten in place.
//!
//! ```text
//! 0  u64 segment | 8 u32 chunk | 12 u32 frames | 16 u32 crc32c of the chunk, 0 = not known yet
//! 20 u32 epoch   | 24 u32 sector | 28 u32 crc32c of the 28 bytes before
//! ```
//! Sector: where a chunk of a packed segment begins, in units of 4096 bytes; 0 in others, where chunks have fixed places.
//! The last valid record of a chunk counts. A record whose checksum is wrong ends the log: it was torn.

use super::{u32_at, u64_at};
use crate::crc::crc32c;

/// Bytes of one record.
pub const CHUNK_RECORD_BYTES: usize = 32;

/// State of one chunk at the time of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Segment number.
    pub segment: u64,
    /// Chunk in the segment.
    pub chunk: u32,
    /// Frames of the chunk that are present.
    pub frames: u32,
    /// Checksum of the chunk's bytes; 0 = not known yet.
    pub crc32c: u32,
    /// Writing session, from 1.
    pub epoch: u32,
    /// First sector of the chunk in a packed segment; 0 in others.
    pub sector: u32,
}

impl ChunkRecord {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; CHUNK_RECORD_BYTES] {
        let mut bytes = [0; CHUNK_RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.frames.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc32c.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.sector.to_le_bytes());
        let crc = crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one record; `None` when it is short, torn or not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..CHUNK_RECORD_BYTES)?;
        let valid = u32_at(bytes, 28) == crc32c(&bytes[..28]) && u32_at(bytes, 20) > 0;
        valid.then(|| Self {
            segment: u64_at(bytes, 0),
            chunk: u32_at(bytes, 8),
            frames: u32_at(bytes, 12),
            crc32c: u32_at(bytes, 16),
            epoch: u32_at(bytes, 20),
            sector: u32_at(bytes, 24),
        })
    }

    /// All records up to the first invalid one.
    pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks(CHUNK_RECORD_BYTES).map_while(Self::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Records survive; a torn tail ends the log without losing what is before it; arbitrary bytes do not panic.
        #[test]
        fn records_round_trip(
            segment in any::<u64>(),
            chunk in any::<u32>(),
            crc in any::<u32>(),
            sector in any::<u32>(),
            cut in 0_usize..64,
            junk in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let record = ChunkRecord { segment, chunk, frames: 4, crc32c: crc, epoch: 1, sector };
            let bytes = [record.encode(), record.encode()].concat();
            let read: Vec<_> = ChunkRecord::decode_all(&bytes[..cut]).collect();
            prop_assert_eq!(read, vec![record; cut / CHUNK_RECORD_BYTES]);
            let _ = ChunkRecord::decode_all(&junk).count();
        }
    }

    /// A log of zeros (preallocated or lost space) holds no record.
    #[test]
    fn zeros_are_no_record() {
        assert_eq!(ChunkRecord::decode(&[0; 32]), None);
    }
}
