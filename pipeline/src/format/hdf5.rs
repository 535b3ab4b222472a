//! HDF5 as byte functions: page 1 of a segment, packed ([`packed_page1`]) or not, and whole files of metadata
//! ([`FileWriter`]).
//!
//! Page 1 is the HDF5 face of a segment, a superblock and two object headers, written field by field.
//! HDF5 looks for its superblock at 0, 512, 1024, 2048, 4096, ...: page 0 is what it calls the user block. The file it
//! sees has one contiguous dataset `/data` of shape (N, H, W) whose first byte is byte 8192 of the file.
//!
//! ```text
//! 0    48   superblock version 2
//! 48   147  object header of the root group: link info, group info, link "data", padding
//! 195  268  object header of the dataset: dataspace, datatype, fill value, layout, padding
//! ```
//! Section numbers below are those of the HDF5 File Format Specification, version 3.0.

mod chunks;
mod file;
mod packed;
mod space;

pub use chunks::ChunkIndex;
pub use file::{Array, Element, FileWriter, Object, Storage, Value, Written};
pub use packed::{packed_page1, read_packed_page1};
pub use space::{Mapping, Slab};

use super::{FormatError, u32_at, u64_at};
use crate::layout::{DATA_OFFSET, SECTOR_BYTES};
use crate::{AXIS_MAX, ByteOrder, PixelKind, PixelType, SigShape};

const UNDEFINED: u64 = u64::MAX;
const BASE: u64 = SECTOR_BYTES as u64;
const ROOT_OFFSET: usize = 48;
const DATASET_OFFSET: usize = 195;
const ROOT_MESSAGES_BYTES: u8 = 120;
const DATASET_MESSAGES_BYTES: u16 = 256;

/// The 4096 bytes at file offset 4096, for `frames` frames of `shape`.
pub fn page1(frames: u64, shape: SigShape, pixel: PixelType) -> Box<[u8; SECTOR_BYTES]> {
    page1_at(frames, shape, pixel, 0)
}

/// Frames, shape and pixel type of a segment by its page 1, which must be as [`page1`] makes it, byte for byte.
pub fn read_page1(page: &[u8]) -> Result<(u64, SigShape, PixelType), FormatError> {
    let (frames, shape, pixel) = described(page)?;
    let is_small = frames.checked_mul(shape.pixel_count() * pixel.bytes() as u64).is_some_and(|bytes| bytes < 1 << 62);
    if !is_small || page[..SECTOR_BYTES] != page1(frames, shape, pixel)[..] {
        return Err(FormatError::Magic { what: "page 1" });
    }
    Ok((frames, shape, pixel))
}

/// What the object header of the dataset says: frames, shape and pixel type.
fn described(page: &[u8]) -> Result<(u64, SigShape, PixelType), FormatError> {
    if page.len() < SECTOR_BYTES {
        return Err(FormatError::Short { what: "page 1", got_bytes: page.len(), want_bytes: SECTOR_BYTES });
    }
    // Behind the header's first 8 bytes: a dataspace of 4 + 52 bytes, whose sizes begin at its byte 4, then the datatype.
    let dataspace = DATASET_OFFSET + 8 + 4;
    let datatype = dataspace + 52 + 4;
    let axis = |at: usize| u32::try_from(u64_at(page, at)).ok().filter(|pixels| (1..=AXIS_MAX).contains(pixels));
    let frames = u64_at(page, dataspace + 4);
    let kind = match (page[datatype], page[datatype + 4]) {
        (0x10, 1) => Some(PixelKind::U8),
        (0x10, 2) => Some(PixelKind::U16),
        (0x10, 4) => Some(PixelKind::U32),
        (0x11, 4) => Some(PixelKind::F32),
        _ => None,
    };
    let order = if page[datatype + 1] & 1 == 1 { ByteOrder::Big } else { ByteOrder::Little };
    let (Some(kind), Some(height), Some(width)) = (kind, axis(dataspace + 12), axis(dataspace + 20)) else {
        return Err(FormatError::Magic { what: "page 1" });
    };
    Ok((frames, SigShape { height, width }, PixelType::new(kind, order)))
}

/// As [`page1`], with the four time stamps of the root group: fixed at zero, so that segments are reproducible.
fn page1_at(frames: u64, shape: SigShape, pixel: PixelType, time_s: u32) -> Box<[u8; SECTOR_BYTES]> {
    let data_bytes = frames * shape.pixel_count() * pixel.bytes() as u64;
    page_with(DATA_OFFSET + data_bytes, time_s, |out| {
        dataset(out, frames, shape, pixel, |out| {
            message(out, 0x05, 1, 2); // fill value: version; space allocated early, fill never written
            out.extend([3, 0x05]);
            message(out, 0x08, 1, 18); // layout: version, contiguous, address relative to the base, bytes
            out.extend([3, 1]);
            out.extend((DATA_OFFSET - BASE).to_le_bytes());
            out.extend(data_bytes.to_le_bytes());
        });
    })
}

/// Superblock, for a file that ends at `end`, root group, and a dataset at [`DATASET_OFFSET`].
fn page_with(end: u64, time_s: u32, dataset: impl FnOnce(&mut Vec<u8>)) -> Box<[u8; SECTOR_BYTES]> {
    let mut out = Vec::with_capacity(SECTOR_BYTES);
    superblock(&mut out, BASE, end, ROOT_OFFSET as u64);
    assert_eq!(out.len(), ROOT_OFFSET);
    root_group(&mut out, time_s);
    assert_eq!(out.len(), DATASET_OFFSET);
    dataset(&mut out);
    let mut page = Box::new([0; SECTOR_BYTES]);
    page[..out.len()].copy_from_slice(&out);
    page
}

/// Section II.A, version 2: base address, end of file (absolute), root group (relative to the base).
fn superblock(out: &mut Vec<u8>, base: u64, end: u64, root: u64) {
    out.extend(b"\x89HDF\r\n\x1a\n");
    out.extend([2, 8, 8, 0]); // version, bytes of an offset, bytes of a length, consistency flags
    out.extend(base.to_le_bytes());
    out.extend(UNDEFINED.to_le_bytes()); // no superblock extension
    out.extend(end.to_le_bytes());
    out.extend(root.to_le_bytes());
    checksum(out, 0);
}

/// Section IV.A.1.b with the messages of a group in compact form.
fn root_group(out: &mut Vec<u8>, time_s: u32) {
    let start = out.len();
    out.extend(b"OHDR");
    out.extend([2, 0x20]); // version; times are stored, one byte holds the size of the messages
    for _ in 0..4 {
        out.extend(time_s.to_le_bytes()); // access, modification, change, birth
    }
    out.push(ROOT_MESSAGES_BYTES);
    let messages = out.len();
    message(out, 0x02, 0, 18); // link info: version, flags, fractal heap, name index
    out.extend([0, 0]);
    out.extend(UNDEFINED.to_le_bytes());
    out.extend(UNDEFINED.to_le_bytes());
    message(out, 0x0a, 1, 2); // group info: version, flags
    out.extend([0, 0]);
    message(out, 0x06, 0, 15); // hard link: version, flags, length of the name, name, address
    out.extend([1, 0, 4]);
    out.extend(b"data");
    out.extend((DATASET_OFFSET as u64).to_le_bytes());
    padding(out, messages + usize::from(ROOT_MESSAGES_BYTES));
    checksum(out, start);
}

/// Section IV.A.1.b with the messages of a dataset; `rest` adds fill value and layout.
fn dataset(out: &mut Vec<u8>, frames: u64, shape: SigShape, pixel: PixelType, rest: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(b"OHDR");
    out.extend([2, 0x01]); // version; no times, two bytes hold the size of the messages
    out.extend(DATASET_MESSAGES_BYTES.to_le_bytes());
    let messages = out.len();
    message(out, 0x01, 0, 52); // dataspace: version, rank, maximum sizes present, simple
    out.extend([2, 3, 1, 1]);
    for _ in 0..2 {
        out.extend(frames.to_le_bytes());
        out.extend(u64::from(shape.height).to_le_bytes());
        out.extend(u64::from(shape.width).to_le_bytes());
    }
    datatype(out, pixel);
    rest(out);
    padding(out, messages + usize::from(DATASET_MESSAGES_BYTES));
    checksum(out, start);
}

/// Section IV.A.2.d: class and version, byte order, size, bit offset and precision, and for floats the IEEE fields.
fn datatype(out: &mut Vec<u8>, pixel: PixelType) {
    let order = u8::from(pixel.order == ByteOrder::Big);
    let bytes = pixel.bytes() as u8;
    if pixel.kind == PixelKind::F32 {
        message(out, 0x03, 1, 20);
        out.extend([0x11, 0x20 | order, 31, 0, bytes, 0, 0, 0]); // 0x20: leading mantissa bit implied; 31: sign bit
        out.extend([0, 0, 32, 0, 23, 8, 0, 23]); // exponent of 8 bits at 23, mantissa of 23 bits at 0
        out.extend(127_u32.to_le_bytes()); // exponent bias
    } else {
        message(out, 0x03, 1, 12);
        out.extend([0x10, order, 0, 0, bytes, 0, 0, 0]);
        out.extend([0, 0, 8 * bytes, 0]);
    }
}

fn message(out: &mut Vec<u8>, kind: u8, flags: u8, bytes: u16) {
    out.push(kind);
    out.extend(bytes.to_le_bytes());
    out.push(flags);
}

/// A NIL message that fills the rest of a header.
fn padding(out: &mut Vec<u8>, end: usize) {
    let bytes = end - out.len() - 4;
    message(out, 0x00, 0, bytes as u16); // At most 256: see the sizes of the headers.
    out.resize(end, 0);
}

fn checksum(out: &mut Vec<u8>, start: usize) {
    let sum = lookup3(&out[start..]);
    out.extend(sum.to_le_bytes());
}

/// Bob Jenkins' `lookup3` hash (public domain, 2006) with start value 0, which HDF5 uses for its metadata.
fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12 {
        a = a.wrapping_add(u32_at(rest, 0));
        b = b.wrapping_add(u32_at(rest, 4));
        c = c.wrapping_add(u32_at(rest, 8));
        mix(&mut a, &mut b, &mut c);
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    let mut last = [0; 12];
    last[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(u32_at(&last, 0));
    b = b.wrapping_add(u32_at(&last, 4));
    c = c.wrapping_add(u32_at(&last, 8));
    finish(a, b, c)
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    for rotation in [[4, 6, 8], [16, 19, 4]] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(rotation[0]);
        *c = c.wrapping_add(*b);
        *b = b.wrapping_sub(*a) ^ a.rotate_left(rotation[1]);
        *a = a.wrapping_add(*c);
        *c = c.wrapping_sub(*b) ^ b.rotate_left(rotation[2]);
        *b = b.wrapping_add(*a);
    }
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u32 = 0x6b02_a8f9; // When the reference files below were made.

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The public test vector of lookup3.
    #[test]
    fn lookup3_vector() {
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    /// The bytes that h5py 3.16 (HDF5 2.0, libver v18, user block 4096) wrote for the same dataset.
    #[test]
    fn golden_bytes_of_h5py() {
        let shape = SigShape { height: 64, width: 48 };
        let big = page1_at(256, shape, PixelType::new(PixelKind::U16, ByteOrder::Big), TIME);
        let zeros = |bytes: usize| "00".repeat(bytes);
        let root = "894844460d0a1a0a020808000010000000000000ffffffffffffffff0020180000000000300000000000000087e804e8\
                    4f4844520220f9a8026bf9a8026bf9a8026bf9a8026b78021200000000ffffffffffffffffffffffffffffffff0a020001\
                    0000060f000001000464617461c300000000000000004500";
        assert_eq!(hex(&big[..195]), format!("{root}{}790843af", zeros(70)));
        let dims = "000100000000000040000000000000003000000000000000";
        let dataset = format!("4f484452020100010134000002030101{dims}{dims}030c000110010000020000000000100005020001");
        let layout = "030508120001030100100000000000000000180000000000009800";
        assert_eq!(hex(&big[195..463]), format!("{dataset}{layout}{}25854eb5", zeros(153)));
        assert!(big[463..].iter().all(|&b| b == 0));
    }

    /// Checksums of whole headers, from h5py, cover every other pixel type and sizes beyond 32 bits.
    #[test]
    fn golden_checksums_of_h5py() {
        let small = SigShape { height: 64, width: 48 };
        let cases = [
            (256, small, PixelKind::U16, ByteOrder::Little, "87e804e8", "ddd52509"),
            (256, small, PixelKind::U8, ByteOrder::Little, "1bb4364a", "858f2e1a"),
            (70_000, SigShape { height: 1030, width: 1065 }, PixelKind::U32, ByteOrder::Little, "2fcd035e", "46cde87b"),
            (256, small, PixelKind::U32, ByteOrder::Big, "c537d512", "ae29dc3f"),
            (256, small, PixelKind::F32, ByteOrder::Little, "c537d512", "62dc746a"),
            (256, small, PixelKind::F32, ByteOrder::Big, "c537d512", "ca0171a5"),
        ];
        for (frames, shape, kind, order, superblock, dataset) in cases {
            let page = page1(frames, shape, PixelType::new(kind, order));
            assert_eq!((hex(&page[44..48]).as_str(), hex(&page[459..463]).as_str()), (superblock, dataset), "{kind:?}");
            assert_eq!(page[54..70], [0; 16]); // reproducible: no times
            assert_eq!(read_page1(&page[..]), Ok((frames, shape, PixelType::new(kind, order))));
            for at in 0..463 {
                let mut bad = page.clone();
                bad[at] ^= 0x40;
                assert!(read_page1(&bad[..]).is_err(), "byte {at}");
            }
        }
    }
}
