//! Arrays in chunks: what their headers say of it, and the index of where the chunks lie, a *fixed array*.
//!
//! ```text
//! 0   28   head: signature, version, kind, bytes of an element, page bits, u64 elements, u64 address of the block, checksum
//! 28  14   block: signature, version, kind, u64 address of the head
//! ..       up to 1024 elements: the elements, checksum of the block
//!          more: one bit for each page, checksum; then pages of 1024 elements, each with a checksum
//! ```
//! An element is the address of a chunk, its length as stored, and which filters were left out: none.

use super::{UNDEFINED, checksum, message};

/// Binary logarithm of the elements of a page.
const PAGE_BITS: u8 = 10;
/// Most elements of an index that is not cut into pages.
pub(super) const PAGE_ELEMENTS: usize = 1 << PAGE_BITS;
pub(super) const HEAD_BYTES: usize = 28;
/// Bytes of a block before its elements or its bits.
pub(super) const BLOCK_HEAD_BYTES: usize = 14;
/// Registered number of the filter for bit-transposed LZ4, and its name.
const BITSHUFFLE: u16 = 32_008;
const BITSHUFFLE_NAME: &[u8] = b"bitshuffle; see https://github.com/kiyo-masui/bitshuffle\0";

/// Address and length of a chunk; `None` where it is absent.
pub(super) type Place = Option<(u64, u64)>;

/// Where the chunks of an array ([`Storage::Chunks`](super::Storage::Chunks)) lie.
#[derive(Debug)]
pub struct ChunkIndex {
    at: u64,
    length_bytes: usize,
    places: Vec<Place>,
}

impl ChunkIndex {
    /// The index at offset `at` of its file, of no chunks yet; each will decode to `chunk_bytes`.
    pub fn new(at: u64, chunk_bytes: u64) -> Self {
        Self { at, length_bytes: length_bytes(chunk_bytes), places: Vec::new() }
    }

    /// Adds a chunk by its offset in the file and its length as stored, in bytes; `None` is one that is not there, and reads
    /// as zeros.
    pub fn push(&mut self, place: Option<(u64, u64)>) {
        self.places.push(place);
    }

    /// Its bytes: as many as the file keeps for it once every chunk was added.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        fixed_array(&mut out, self.at, &self.places, self.length_bytes);
        out
    }
}

/// Section IV.A.2.l, version 2: one filter, which may be missing until a chunk is read, with its name and values.
pub(super) fn filter(out: &mut Vec<u8>, number: u16, name: &[u8], values: &[u32]) {
    message(out, 0x0b, 1, (10 + name.len() + 4 * values.len()) as u16);
    out.extend([2, 1]); // version, number of filters
    for number in [number, name.len() as u16, 1, values.len() as u16] {
        out.extend(number.to_le_bytes()); // number, length of the name, optional, number of values
    }
    out.extend(name);
    values.iter().for_each(|value| out.extend(value.to_le_bytes()));
}

/// The filter of frames in bit-transposed LZ4.
pub(super) fn bitshuffle_filter(out: &mut Vec<u8>, item_bytes: u32) {
    // Version of the plug-in (0.4), items, blocks of the usual size, LZ4.
    filter(out, BITSHUFFLE, BITSHUFFLE_NAME, &[0, 4, item_bytes, 0, 2]);
}

/// Section IV.A.2.i, version 4: extents of a chunk and of an element, each in as many bytes as the largest needs, and the
/// address of the index, which are the last eight bytes.
pub(super) fn chunked(out: &mut Vec<u8>, extents: &[u32], index: u64) {
    let bytes = extents.iter().map(|extent| (32 - extent.leading_zeros()).div_ceil(8)).max().unwrap_or(1) as u8;
    let size = 15 + extents.len() * usize::from(bytes);
    message(out, 0x08, 1, size as u16);
    out.extend([4, 2, 0, extents.len() as u8, bytes]); // version, chunked, flags, dimensions, bytes of an extent
    extents.iter().for_each(|extent| out.extend(&extent.to_le_bytes()[..usize::from(bytes)]));
    out.extend([3, PAGE_BITS]); // fixed array
    out.extend(index.to_le_bytes());
}

/// Bytes that hold the length of a filtered chunk: one more than the unfiltered one needs.
pub(super) fn length_bytes(chunk_bytes: u64) -> usize {
    1 + (chunk_bytes.max(1).ilog2() as usize + 8) / 8
}

/// Bytes of an element.
pub(super) fn element_bytes(length_bytes: usize) -> usize {
    8 + length_bytes + 4
}

/// Bytes of the index of so many chunks that decode to `chunk_bytes`.
pub(super) fn fixed_array_bytes(count: u64, chunk_bytes: u64) -> u64 {
    let pages = count.div_ceil(PAGE_ELEMENTS as u64);
    let bits = if pages > 1 { pages.div_ceil(8) + 4 } else { 0 };
    let elements = count * element_bytes(length_bytes(chunk_bytes)) as u64;
    (HEAD_BYTES + BLOCK_HEAD_BYTES) as u64 + bits + elements + 4 * pages.max(1)
}

/// Appendix C, the fixed array index at this address: head and elements.
pub(super) fn fixed_array(out: &mut Vec<u8>, at: u64, places: &[Place], length_bytes: usize) {
    let head = out.len();
    out.extend(b"FAHD");
    out.extend([0, 1, element_bytes(length_bytes) as u8, PAGE_BITS]); // version, chunks are filtered
    out.extend((places.len() as u64).to_le_bytes());
    out.extend((at + HEAD_BYTES as u64).to_le_bytes());
    checksum(out, head);
    let block = out.len();
    out.extend(b"FADB");
    out.extend([0, 1]); // version, chunks are filtered
    out.extend(at.to_le_bytes());
    if places.len() <= PAGE_ELEMENTS {
        elements(out, places, length_bytes);
        checksum(out, block);
        return;
    }
    let pages = places.len().div_ceil(PAGE_ELEMENTS);
    let bits = |byte: usize| 0xff_u8 << 8_usize.saturating_sub(pages - 8 * byte); // The first page is the highest bit.
    out.extend((0..pages.div_ceil(8)).map(bits));
    checksum(out, block);
    for page in places.chunks(PAGE_ELEMENTS) {
        let start = out.len();
        elements(out, page, length_bytes);
        checksum(out, start);
    }
}

fn elements(out: &mut Vec<u8>, places: &[Place], length_bytes: usize) {
    for place in places {
        let (address, length) = place.unwrap_or((UNDEFINED, 0));
        out.extend(address.to_le_bytes());
        out.extend(&length.to_le_bytes()[..length_bytes]);
        out.extend([0; 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::hdf5::lookup3;
    use crate::format::{u32_at, u64_at};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Messages and the heads of an index as h5py 3.16 (HDF5 2.0, hdf5plugin 7.1) wrote them for 2000 chunks of (1, 64, 48) u16
    /// with `Bitshuffle(cname="lz4")`; only addresses are ours.
    #[test]
    fn golden_bytes_of_h5py() {
        let mut out = Vec::new();
        bitshuffle_filter(&mut out, 2);
        let name = "62697473687566666c653b207365652068747470733a2f2f6769746875622e636f6d2f6b69796f2d6d617375692f62697473687566666c6500";
        let values = "0000000004000000020000000000000002000000";
        assert_eq!(hex(&out), format!("0b5700010201087d390001000500{name}{values}"));
        out.clear();
        chunked(&mut out, &[1, 64, 48, 2], 447);
        assert_eq!(hex(&out), "08130001040200040101403002030abf01000000000000");
        out.clear();
        fixed_array(&mut out, 4096, &[Some((0x800, 0x32)); 2000], length_bytes(6144));
        assert_eq!(hex(&out[..24]), "4641484400010f0ad0070000000000001c10000000000000");
        assert_eq!(hex(&out[28..43]), "4641444200010010000000000000c0");
        assert_eq!(hex(&out[47..62]), "000800000000000032000000000000");
    }

    /// As long as was kept for it, whatever the number of pages; every page has its checksum, absent chunks no address.
    #[test]
    fn pages_add_up() {
        for count in [1, 1024, 1025, 2048, 8 * 1024, 8 * 1024 + 1, 20_000] {
            let mut index = ChunkIndex::new(4096, 6144);
            (0..count).for_each(|i| index.push((i % 3 != 1).then_some((1_000_000 + i, i % 7000))));
            let bytes = index.encode();
            assert_eq!(bytes.len() as u64, fixed_array_bytes(count, 6144), "{count} chunks");
            let pages = count.div_ceil(1024) as usize;
            let first = if pages == 1 { 42 } else { 46 + pages.div_ceil(8) };
            for (page, elements) in bytes[first..].chunks(1024 * 15 + 4).enumerate() {
                let (elements, sum) = elements.split_at(elements.len() - 4);
                let want = if pages == 1 { lookup3(&bytes[28..bytes.len() - 4]) } else { lookup3(elements) };
                assert_eq!(u32_at(sum, 0), want, "page {page} of {count} chunks");
                for (i, element) in (1024 * page as u64..).zip(elements.chunks(15)) {
                    let want = if i % 3 == 1 { (UNDEFINED, 0) } else { (1_000_000 + i, i % 7000) };
                    assert_eq!((u64_at(element, 0), u64::from(u32_at(element, 8)) & 0xff_ffff), want);
                }
            }
            let bits: u32 =
                if pages == 1 { 0 } else { bytes[42..42 + pages.div_ceil(8)].iter().map(|b| b.count_ones()).sum() };
            assert_eq!(bits as usize, if pages == 1 { 0 } else { pages });
        }
    }
}
