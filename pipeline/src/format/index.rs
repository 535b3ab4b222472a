//! Page 0 of a segment: the Zarr shard index, our chunk checksums and the trailer, in one 4 KiB page.
//!
//! ```text
//! 0      16*n   index: n x { u64 offset, u64 nbytes }; absent chunks: both 2^64-1
//! 16*n   4      crc32c of the index
//! 16*n+4 4*n    crc32c of each chunk's bytes; 0 = not known (yet)
//! ...           zero
//! 4032   64     trailer: magic[8] uuid[16] tile flags segment first_frame frames_written k n crc32c
//! ```
//! In a packed segment chunks are compressed: they lie where the index says, and flag 4 of the trailer is set.
//!
//! # Invariants
//! - I1: a present chunk lies at `8192 + i*k*F` and is `k*F` long; nothing else is accepted. In a packed segment it begins
//!   on a sector at 8192 or later, and is no longer than a chunk can get.
//! - I2: the index and the trailer each carry their own checksum, so a torn page is recognised.

use super::{FormatError, array_at, blosc, field, u32_at, u64_at};
use crate::crc::crc32c;
use crate::layout::{CHUNKS_MAX, DATA_OFFSET, SECTOR_BYTES};

const MAGIC: [u8; 8] = *b"RONCHIB1";
const TRAILER_OFFSET: usize = 4032;
const ABSENT: u64 = u64::MAX;
const FLAG_SEALED: u32 = 1;
const FLAG_GAPS: u32 = 2;
const FLAG_PACKED: u32 = 4;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// The 64 bytes at 4032: which part of which data set this file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Identity of the acquisition.
    pub uuid: [u8; 16],
    /// Tile id; 0 for an untiled detector.
    pub tile: u32,
    /// The segment is final.
    pub is_sealed: bool,
    /// Some frame before the last written one is not there.
    pub has_gaps: bool,
    /// Number of the segment in its array.
    pub segment: u64,
    /// Frame index of the segment's first place.
    pub first_frame: u64,
    /// Frames that are present.
    pub frames_written: u32,
    /// k.
    pub frames_per_chunk: u32,
}

/// Page 0: the trailer and, for every chunk, its checksum if it is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page0 {
    /// Identity and counts.
    pub trailer: Trailer,
    /// One entry per chunk: `None` = absent (fill), `Some(0)` = present but without checksum, else its crc32c.
    pub chunks: Vec<Option<u32>>,
}

impl Page0 {
    /// The page's bytes, for frames of `frame_bytes`.
    ///
    /// # Panics
    /// When there are more than [`CHUNKS_MAX`] chunks: `Layout` never has more.
    pub fn encode(&self, frame_bytes: u64) -> Box<[u8; SECTOR_BYTES]> {
        let chunk_bytes = u64::from(self.trailer.frames_per_chunk) * frame_bytes;
        let entry = |(i, chunk): (usize, &Option<u32>)| {
            chunk.map(|crc32c| (DATA_OFFSET + i as u64 * chunk_bytes, chunk_bytes, crc32c))
        };
        encode_page(&self.trailer, 0, self.chunks.iter().enumerate().map(entry))
    }

    /// Reads page 0 of a segment with frames of `frame_bytes`, checking both checksums and every entry.
    pub fn decode(page: &[u8], frame_bytes: u64) -> Result<Self, FormatError> {
        let (trailer, entries) = decode_page(page, 0)?;
        let chunk_bytes = chunk_bytes(&trailer, frame_bytes)?;
        let entry = |(i, entry): (usize, Option<Entry>)| match entry {
            Some((offset, nbytes, _)) if (offset, nbytes) != (DATA_OFFSET + i as u64 * chunk_bytes, chunk_bytes) => {
                Err(field("index entry", format!("{offset}+{nbytes}"), "its fixed place, or absent")) // I1
            }
            entry => Ok(entry.map(|(.., crc32c)| crc32c)),
        };
        let chunks = entries.enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { trailer, chunks })
    }
}

/// Where a compressed chunk lies in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedChunk {
    /// Byte offset in the file, a multiple of a sector.
    pub offset: u64,
    /// Bytes of the compressed chunk.
    pub stored_bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
}

impl PackedChunk {
    /// Offset of the first sector behind the chunk.
    pub fn end(&self) -> u64 {
        self.offset + self.stored_bytes.next_multiple_of(SECTOR)
    }
}

/// Page 0 of a packed segment: the trailer and the place of every chunk that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPage0 {
    /// Identity and counts.
    pub trailer: Trailer,
    /// One entry per chunk: `None` = absent (fill).
    pub chunks: Vec<Option<PackedChunk>>,
}

impl PackedPage0 {
    /// Whether this page has the trailer of a packed segment, whatever else is wrong with it.
    pub fn is_one(page: &[u8]) -> bool {
        let trailer = page.get(TRAILER_OFFSET..SECTOR_BYTES).and_then(|bytes| Trailer::decode(bytes).ok());
        trailer.is_some_and(|(_, flags, _)| flags & FLAG_PACKED != 0)
    }

    /// The page's bytes.
    ///
    /// # Panics
    /// When there are more than [`CHUNKS_MAX`] chunks: `Layout` never has more.
    pub fn encode(&self) -> Box<[u8; SECTOR_BYTES]> {
        let entry = |chunk: &Option<PackedChunk>| chunk.map(|chunk| (chunk.offset, chunk.stored_bytes, chunk.crc32c));
        encode_page(&self.trailer, FLAG_PACKED, self.chunks.iter().map(entry))
    }

    /// Reads page 0 of a packed segment with frames of `frame_bytes`, checking both checksums and every entry.
    pub fn decode(page: &[u8], frame_bytes: u64) -> Result<Self, FormatError> {
        let (trailer, entries) = decode_page(page, FLAG_PACKED)?;
        let chunk_bytes = chunk_bytes(&trailer, frame_bytes)?;
        let most = usize::try_from(chunk_bytes)
            .map_or(u64::MAX, |bytes| blosc::bytes_max(bytes, blosc::BLOCK_BYTES_MIN) as u64);
        let entry = |entry: Option<Entry>| {
            let Some((offset, stored_bytes, crc32c)) = entry else { return Ok(None) };
            let is_placed =
                offset >= DATA_OFFSET && offset.is_multiple_of(SECTOR) && offset / SECTOR <= u32::MAX.into();
            if !is_placed || stored_bytes == 0 || stored_bytes > most {
                let allowed = "whole sectors from 8192, not longer than a chunk can get, or absent";
                return Err(field("index entry", format!("{offset}+{stored_bytes}"), allowed)); // I1
            }
            Ok(Some(PackedChunk { offset, stored_bytes, crc32c }))
        };
        let chunks = entries.map(entry).collect::<Result<_, _>>()?;
        Ok(Self { trailer, chunks })
    }
}

/// Offset, bytes and checksum of a chunk.
type Entry = (u64, u64, u32);

fn encode_page(
    trailer: &Trailer,
    flags: u32,
    entries: impl ExactSizeIterator<Item = Option<Entry>>,
) -> Box<[u8; SECTOR_BYTES]> {
    let n = entries.len();
    assert!(n <= CHUNKS_MAX as usize, "{n} chunks in a segment");
    let mut page = Box::new([0; SECTOR_BYTES]);
    for (i, entry) in entries.enumerate() {
        let (offset, nbytes, crc32c) = entry.unwrap_or((ABSENT, ABSENT, 0));
        page[16 * i..16 * i + 8].copy_from_slice(&offset.to_le_bytes());
        page[16 * i + 8..16 * i + 16].copy_from_slice(&nbytes.to_le_bytes());
        let at = 16 * n + 4 + 4 * i;
        page[at..at + 4].copy_from_slice(&crc32c.to_le_bytes());
    }
    let index_crc = crc32c(&page[..16 * n]);
    page[16 * n..16 * n + 4].copy_from_slice(&index_crc.to_le_bytes());
    page[TRAILER_OFFSET..].copy_from_slice(&trailer.encode(n as u32, flags));
    page
}

/// The trailer and what the entries say, with both checksums and the kind of segment checked.
fn decode_page(page: &[u8], kind: u32) -> Result<(Trailer, impl Iterator<Item = Option<Entry>> + '_), FormatError> {
    if page.len() < SECTOR_BYTES {
        return Err(FormatError::Short { what: "page 0", got_bytes: page.len(), want_bytes: SECTOR_BYTES });
    }
    let (trailer, flags, n) = Trailer::decode(&page[TRAILER_OFFSET..SECTOR_BYTES])?;
    if flags & FLAG_PACKED != kind {
        return Err(field("kind of segment", format!("flags {flags}"), "that of its array: packed or not"));
    }
    let n = n as usize;
    let (got, want) = (u32_at(page, 16 * n), crc32c(&page[..16 * n]));
    if got != want {
        return Err(FormatError::Checksum { what: "segment index", got, want });
    }
    let entry = move |i: usize| {
        let (offset, nbytes) = (u64_at(page, 16 * i), u64_at(page, 16 * i + 8));
        let is_there = (offset, nbytes) != (ABSENT, ABSENT);
        is_there.then(|| (offset, nbytes, u32_at(page, 16 * n + 4 + 4 * i)))
    };
    Ok((trailer, (0..n).map(entry)))
}

/// k*F, for which offsets of all chunks can be computed.
fn chunk_bytes(trailer: &Trailer, frame_bytes: u64) -> Result<u64, FormatError> {
    u64::from(trailer.frames_per_chunk)
        .checked_mul(frame_bytes)
        .filter(|bytes| bytes.checked_mul(u64::from(CHUNKS_MAX) + 1).is_some())
        .ok_or_else(|| field("frames per chunk", trailer.frames_per_chunk, "a chunk of sensible size"))
}

impl Trailer {
    /// The bytes, with these flags beside its own.
    fn encode(&self, n: u32, flags: u32) -> [u8; 64] {
        let flags = flags | if self.is_sealed { FLAG_SEALED } else { 0 } | if self.has_gaps { FLAG_GAPS } else { 0 };
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(&self.uuid);
        bytes[24..28].copy_from_slice(&self.tile.to_le_bytes());
        bytes[28..32].copy_from_slice(&flags.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_frame.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.frames_written.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.frames_per_chunk.to_le_bytes());
        bytes[56..60].copy_from_slice(&n.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The trailer of page 0, whatever the index in front of it says: to whom a segment belongs.
    pub fn of_page(page: &[u8]) -> Result<Self, FormatError> {
        let short = FormatError::Short { what: "page 0", got_bytes: page.len(), want_bytes: SECTOR_BYTES };
        let bytes = page.get(TRAILER_OFFSET..SECTOR_BYTES).ok_or(short)?;
        Self::decode(bytes).map(|(trailer, ..)| trailer)
    }

    /// The trailer, its flags and n, checked.
    fn decode(bytes: &[u8]) -> Result<(Self, u32, u32), FormatError> {
        if bytes[..8] != MAGIC {
            return Err(FormatError::Magic { what: "segment trailer" });
        }
        let (got, want) = (u32_at(bytes, 60), crc32c(&bytes[..60]));
        if got != want {
            return Err(FormatError::Checksum { what: "segment trailer", got, want });
        }
        let (k, n, flags) = (u32_at(bytes, 52), u32_at(bytes, 56), u32_at(bytes, 28));
        if n == 0 || n > CHUNKS_MAX {
            return Err(field("chunks per segment", n, "1 to 200"));
        }
        if k == 0 {
            return Err(field("frames per chunk", k, "1 or more"));
        }
        let trailer = Self {
            uuid: array_at(bytes, 8),
            tile: u32_at(bytes, 24),
            is_sealed: flags & FLAG_SEALED != 0,
            has_gaps: flags & FLAG_GAPS != 0,
            segment: u64_at(bytes, 32),
            first_frame: u64_at(bytes, 40),
            frames_written: u32_at(bytes, 48),
            frames_per_chunk: k,
        };
        Ok((trailer, flags, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(chunks: Vec<Option<u32>>) -> Page0 {
        let trailer = Trailer {
            uuid: *b"0123456789abcdef",
            tile: 3,
            is_sealed: true,
            has_gaps: false,
            segment: 5,
            first_frame: 40,
            frames_written: 7,
            frames_per_chunk: 4,
        };
        Page0 { trailer, chunks }
    }

    /// A page written down by hand: two chunks of 4 frames of 10 bytes, the second absent.
    #[test]
    fn golden_page() {
        let bytes = page(vec![Some(0x1122_3344), None]).encode(10);
        let mut index = [0xff_u8; 32];
        index[..16].copy_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[..32], index);
        assert_eq!(bytes[32..36], crc32c(&index).to_le_bytes());
        assert_eq!(bytes[36..44], [0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]);
        assert!(bytes[44..4032].iter().all(|&b| b == 0));
        assert_eq!(&bytes[4032..4056], b"RONCHIB10123456789abcdef");
        let numbers =
            [3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2];
        assert_eq!(bytes[4056..4089], numbers);
    }

    /// Every single-bit flip inside the protected bytes is detected.
    #[test]
    fn one_bit_flips_are_detected() {
        let good = page(vec![Some(9), None, Some(10)]).encode(10);
        for byte in (0..52).chain(4032..4096) {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(Page0::decode(&bad[..], 10).is_err(), "byte {byte} bit {bit}");
            }
        }
    }

    /// Where a compressed chunk may lie: whole sectors behind the two pages, no longer than 4 frames of 10 bytes can get.
    #[test]
    fn places_of_packed_chunks() {
        let decoded = |offset, stored_bytes| {
            let chunks = vec![Some(PackedChunk { offset, stored_bytes, crc32c: 7 })];
            PackedPage0::decode(&PackedPage0 { trailer: page(vec![]).trailer, chunks }.encode()[..], 10)
        };
        assert!(decoded(8192, 40 + 16 + 8 * 5).is_ok());
        assert!(decoded(8192, 40 + 16 + 8 * 5 + 1).is_err());
        assert!(decoded(8192, 0).is_err());
        assert!(decoded(4096, 40).is_err());
        assert!(decoded(8192 + 16, 40).is_err());
        assert!(decoded(1 << 44, 40).is_err());
    }

    proptest! {
        /// Decoding what was encoded gives it back.
        #[test]
        fn round_trip(chunks in proptest::collection::vec(proptest::option::of(any::<u32>()), 1..=200), frame_bytes in 1_u64..1 << 34) {
            let page = page(chunks);
            prop_assert_eq!(Page0::decode(&page.encode(frame_bytes)[..], frame_bytes), Ok(page));
        }

        /// Arbitrary bytes, also behind a valid trailer, never panic.
        #[test]
        fn arbitrary_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            frame_bytes in any::<u64>(),
            n in 0_u32..300,
            patch in any::<bool>(),
            packed in any::<bool>(),
        ) {
            if patch && bytes.len() >= 4096 {
                bytes[4032..4096].copy_from_slice(&page(vec![]).trailer.encode(n, if packed { FLAG_PACKED } else { 0 }));
            }
            let _ = Page0::decode(&bytes, frame_bytes);
            let _ = PackedPage0::decode(&bytes, frame_bytes);
        }

        /// Places of compressed chunks survive; neither kind of page is taken for the other.
        #[test]
        fn packed_round_trip(
            places in proptest::collection::vec(proptest::option::of((2_u64..1 << 30, 1_u64..=8016, any::<u32>())), 1..=200),
        ) {
            let chunk = |(sector, stored_bytes, crc32c)| PackedChunk { offset: sector * 4096, stored_bytes, crc32c };
            let chunks = places.into_iter().map(|place| place.map(chunk)).collect();
            let packed = PackedPage0 { trailer: page(vec![]).trailer, chunks };
            let bytes = packed.encode();
            prop_assert!(Page0::decode(&bytes[..], 1000).is_err());
            prop_assert_eq!(PackedPage0::decode(&bytes[..], 1000), Ok(packed));
            prop_assert!(PackedPage0::decode(&page(vec![None]).encode(1000)[..], 1000).is_err());
        }
    }
}
