//! Page 1 of a packed segment: a chunked dataset, whose chunks are the Blosc frames that page 0 names.
//!
//! HDF5 reads them with filter 32001 (Blosc), a plug-in. Absent chunks have no address and read as zeros.
//!
//! ```text
//! 0    48   superblock version 2
//! 48   147  object header of the root group, as in any segment
//! 195  268  object header of the dataset: dataspace, datatype, fill value, filter, layout, padding
//! 463  28   chunk index, a fixed array: its head
//! 491  14   its elements: signature, version, kind, address of the head
//! 505  ...  n x { u64 address, bytes of the chunk in 2 to 5 bytes, u32 filters left out: none }, checksum
//! ```
//! While the segment is open only the elements change: a reader that opens it between two versions of the page finds a
//! wrong checksum of theirs, and reports an error.

use super::chunks::{self, BLOCK_HEAD_BYTES, HEAD_BYTES, Place, element_bytes, length_bytes};
use super::{
    BASE, DATASET_OFFSET, FormatError, ROOT_OFFSET, UNDEFINED, dataset, described, message, page_with, u64_at,
};
use crate::format::PackedChunk;
use crate::layout::{CHUNKS_MAX, DATA_OFFSET, SECTOR_BYTES};
use crate::{Layout, PixelType, SigShape};

/// Registered number of the Blosc filter.
const FILTER: u16 = 32_001;
const FILTER_NAME: &[u8; 6] = b"blosc\0";
const INDEX_OFFSET: usize = DATASET_OFFSET + 268;
const ELEMENTS_OFFSET: usize = INDEX_OFFSET + HEAD_BYTES;
const LARGEST_ELEMENT_BYTES: usize = 8 + 5 + 4;

const _: () = assert!(CHUNKS_MAX as usize <= chunks::PAGE_ELEMENTS);
const _: () =
    assert!(ELEMENTS_OFFSET + BLOCK_HEAD_BYTES + CHUNKS_MAX as usize * LARGEST_ELEMENT_BYTES + 4 <= SECTOR_BYTES);

/// The 4096 bytes at file offset 4096 of a packed segment, for frames of `shape`, with these chunks. The file that HDF5 sees
/// ends behind the last of them when the segment is sealed, and at its full length before.
///
/// # Panics
/// When a chunk is longer than a configured block can be (256 MiB), or there are more than [`CHUNKS_MAX`].
pub fn packed_page1(
    layout: &Layout,
    (shape, pixel): (SigShape, PixelType),
    chunks: &[Option<PackedChunk>],
    is_sealed: bool,
) -> Box<[u8; SECTOR_BYTES]> {
    let end = chunks.iter().flatten().map(PackedChunk::end).max().unwrap_or(DATA_OFFSET);
    let end = if is_sealed { end } else { end.max(layout.segment_bytes()) };
    let places: Vec<Place> = chunks.iter().map(|chunk| chunk.map(|chunk| (chunk.offset, chunk.stored_bytes))).collect();
    page(layout.frames_per_chunk, (shape, pixel), &places, end)
}

/// Frames, shape and pixel type of a packed segment by its page 1, which must be as [`packed_page1`] makes it for some
/// chunks, byte for byte.
pub fn read_packed_page1(found: &[u8]) -> Result<(u64, SigShape, PixelType), FormatError> {
    let (frames, shape, pixel) = described(found)?;
    let other = || FormatError::Magic { what: "page 1" };
    let count = u64_at(found, INDEX_OFFSET + 8);
    let is_count = (1..=u64::from(CHUNKS_MAX)).contains(&count) && frames.is_multiple_of(count);
    let frames_per_chunk = u32::try_from(frames / count.max(1)).ok().filter(|&k| is_count && k > 0);
    let frames_per_chunk = frames_per_chunk.ok_or_else(other)?;
    let chunk_bytes = (shape.pixel_count() * pixel.bytes() as u64).checked_mul(frames_per_chunk.into());
    let length_bytes = length_bytes(chunk_bytes.ok_or_else(other)?);
    if element_bytes(length_bytes) > LARGEST_ELEMENT_BYTES {
        return Err(other());
    }
    let places: Vec<Place> = (0..count as usize).map(|i| read_element(found, i, length_bytes)).collect();
    let end = u64_at(found, ROOT_OFFSET - 20);
    match found[..SECTOR_BYTES] == page(frames_per_chunk, (shape, pixel), &places, end)[..] {
        true => Ok((frames, shape, pixel)),
        false => Err(other()),
    }
}

/// Places are offsets in the file.
fn page(k: u32, (shape, pixel): (SigShape, PixelType), places: &[Place], end: u64) -> Box<[u8; SECTOR_BYTES]> {
    let chunk_bytes = u64::from(k) * shape.pixel_count() * pixel.bytes() as u64;
    let frames = u64::from(k) * places.len() as u64;
    page_with(end, 0, |out| {
        dataset(out, frames, shape, pixel, |out| {
            message(out, 0x05, 1, 2); // fill value: version; zero, space allocated and filled as needed
            out.extend([3, 0x0b]);
            // Version of the plug-in and of the frames, items, decoded bytes (far below 4 GiB), level 5, bit-transposed, LZ4.
            let values = [2, 2, pixel.bytes() as u32, chunk_bytes as u32, 5, 2, 1];
            chunks::filter(out, FILTER, FILTER_NAME, &values);
            chunks::chunked(out, &[k, shape.height, shape.width, pixel.bytes() as u32], INDEX_OFFSET as u64);
        });
        index(out, places, length_bytes(chunk_bytes));
    })
}

/// Head and elements, by addresses.
fn index(out: &mut Vec<u8>, places: &[Place], length_bytes: usize) {
    assert_eq!(out.len(), INDEX_OFFSET);
    assert!(element_bytes(length_bytes) <= LARGEST_ELEMENT_BYTES && places.len() <= CHUNKS_MAX as usize);
    let address = |place: &Place| place.map(|(offset, length)| (offset.wrapping_sub(BASE), length));
    let places: Vec<Place> = places.iter().map(address).collect();
    chunks::fixed_array(out, INDEX_OFFSET as u64, &places, length_bytes);
}

fn read_element(page: &[u8], i: usize, length_bytes: usize) -> Place {
    let at = ELEMENTS_OFFSET + BLOCK_HEAD_BYTES + i * element_bytes(length_bytes);
    let mut length = [0; 8];
    length[..length_bytes].copy_from_slice(&page[at + 8..at + 8 + length_bytes]);
    let address = u64_at(page, at);
    (address != UNDEFINED).then(|| (address.wrapping_add(BASE), u64::from_le_bytes(length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::u32_at;
    use crate::{ByteOrder, PixelKind};

    const SHAPE: SigShape = SigShape { height: 67, width: 65 };

    fn layout(frame_bytes: u64, frames_per_chunk: u32, chunks_per_segment: u32) -> Layout {
        Layout { frame_bytes, frames_per_chunk, chunks_per_segment }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Messages and index as h5py 3.16 (HDF5 2.0, hdf5plugin 7.1) wrote them for chunks of (4, 67, 65) big-endian u16,
    /// compressed with `Blosc(cname="lz4", clevel=5, shuffle=BITSHUFFLE)`; only addresses and lengths are ours.
    #[test]
    fn golden_bytes_of_h5py() {
        let big = PixelType::new(PixelKind::U16, ByteOrder::Big);
        let chunk = |offset, stored_bytes| Some(PackedChunk { offset, stored_bytes, crc32c: 0 });
        let chunks = [chunk(8192, 0x5ac9), None, chunk(32_768, 0x0bc)];
        let page = packed_page1(&layout(8710, 4, 3), (SHAPE, big), &chunks, true);
        let header = "4f4844520201000101340000020301010c0000000000000043000000000000004100000000000000\
                      0c000000000000004300000000000000410000000000000003\
                      0c00011001000002000000000010000502000103\
                      0b0b2c00010201017d060001000700626c6f73630002000000020000000200000018880000050000000200000001000000\
                      0813000104020004010443410203 0acf01000000000000"
            .replace(' ', "");
        assert_eq!(hex(&page[195..195 + header.len() / 2]), header);
        assert_eq!(hex(&page[463..487]), "4641484400010f0a0300000000000000eb01000000000000");
        let elements = "464144420001cf01000000000000\
                        0010000000000000c95a0000000000ffffffffffffffff000000000000000070000000000000bc000000000000";
        assert_eq!(hex(&page[491..491 + elements.len() / 2]), elements);
        assert_eq!((u64_at(&page[..], 28), &page[554..]), (36_864, &[0; SECTOR_BYTES - 554][..]));
        assert_ne!(u32_at(&page[..], 550), 0);
    }

    proptest! {
        /// A page tells its shape for any chunks, and no page with a flipped bit is believed.
        #[test]
        fn pages_are_read_back(
            places in proptest::collection::vec(proptest::option::of((2_u64..1 << 32, 1_u64..1 << 20)), 1..=200),
            k in 1_u32..500,
            (height, width) in (1_u32..600, 1_u32..600),
            is_sealed: bool,
            flip in 0..8 * SECTOR_BYTES,
        ) {
            let pixel = PixelType::new(PixelKind::U8, ByteOrder::Little);
            let shape = SigShape { height, width };
            let chunk = |(sector, stored_bytes)| PackedChunk { offset: sector * 4096, stored_bytes, crc32c: 1 };
            let chunks: Vec<_> = places.into_iter().map(|place| place.map(chunk)).collect();
            let layout = layout(shape.pixel_count(), k, chunks.len() as u32);
            let mut page = packed_page1(&layout, (shape, pixel), &chunks, is_sealed);
            prop_assert_eq!(read_packed_page1(&page[..]), Ok((layout.frames_per_segment(), shape, pixel)));
            prop_assert!(super::super::read_page1(&page[..]).is_err());
            page[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(read_packed_page1(&page[..]).is_err());
        }

        /// Whatever a file holds there, reading it ends with an answer.
        #[test]
        fn nonsense_is_refused(bytes in proptest::collection::vec(any::<u8>(), SECTOR_BYTES..=SECTOR_BYTES), at in 0..SECTOR_BYTES) {
            prop_assert!(read_packed_page1(&bytes).is_err());
            let pixel = PixelType::new(PixelKind::F32, ByteOrder::Little);
            let mut page = packed_page1(&layout(4 * SHAPE.pixel_count(), 4, 200), (SHAPE, pixel), &[None; 200], false);
            page[at..].copy_from_slice(&bytes[at..]);
            prop_assert!(read_packed_page1(&page[..]).is_err() || at == SECTOR_BYTES);
        }
    }
}
