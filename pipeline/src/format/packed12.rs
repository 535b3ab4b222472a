//! Pixels of 12 bits, two in three bytes, as cameras send them that count to 4095.
//!
//! # Layout
//! ```text
//! byte    0          1                2
//!         p0[7:0]    p1[3:0] p0[11:8] p1[11:4]
//! ```
//! The first pixel has the low bits: the bytes, read as one little-endian number, are the pixels, lowest first. An odd
//! last pixel takes two bytes, of which the upper half of the second is 0 (and not looked at).
//!
//! # Why this way
//! Sixteen pixels are brought to their places in four words of 64 bits, in code that a compiler turns into vector code
//! where it can; processors with `pdep` do it in one instruction per word.

use pulp::{Arch, NullaryFnOnce};

/// Bytes and pixels of what is unpacked at a time.
const PACKED_BYTES: usize = 24;
const PIXEL_BYTES: usize = 32;
/// Places of the first and the second pixel of each pair.
const EVEN: u64 = 0x0000_0fff_0000_0fff;
const ODD: u64 = EVEN << 16;

/// Bytes that do not fit the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{packed_bytes} bytes of 12-bit pixels for {pixel_bytes} bytes of 16-bit ones, expected {expected_bytes}")]
pub struct Packed12Error {
    /// Bytes given.
    pub packed_bytes: usize,
    /// Bytes to be filled.
    pub pixel_bytes: usize,
    /// Bytes that would fill them.
    pub expected_bytes: usize,
}

/// Bytes that so many pixels of 12 bits take.
///
/// ```
/// assert_eq!(ronchi_pipeline::format::packed12::packed_bytes(5), 8);
/// ```
pub const fn packed_bytes(pixel_count: usize) -> usize {
    pixel_count / 2 * 3 + pixel_count % 2 * 2
}

/// Unpacks 12-bit pixels into 16-bit little-endian ones. Errors: lengths that do not fit; nothing is written then.
///
/// ```
/// let mut pixels = [0; 4];
/// ronchi_pipeline::format::packed12::unpack(&[0x21, 0x43, 0x65], &mut pixels)?;
/// assert_eq!(pixels, [0x21, 0x03, 0x54, 0x06]);
/// # Ok::<(), ronchi_pipeline::format::packed12::Packed12Error>(())
/// ```
pub fn unpack(packed: &[u8], pixels: &mut [u8]) -> Result<(), Packed12Error> {
    let expected_bytes = packed_bytes(pixels.len() / 2);
    if packed.len() != expected_bytes || !pixels.len().is_multiple_of(2) {
        return Err(Packed12Error { packed_bytes: packed.len(), pixel_bytes: pixels.len(), expected_bytes });
    }
    Arch::new().dispatch(Unpack { packed, pixels });
    Ok(())
}

/// Packs 16-bit little-endian pixels, of which the upper four bits are dropped.
///
/// ```
/// use ronchi_pipeline::format::packed12;
/// assert_eq!(packed12::pack(&[0x21, 0x03, 0x54, 0x06]), [0x21, 0x43, 0x65]);
/// ```
pub fn pack(pixels: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(packed_bytes(pixels.len() / 2));
    for pair in pixels.as_chunks::<2>().0.chunks(2) {
        let [first, second] = [pair.first(), pair.get(1)].map(|pixel| pixel.map(|&bytes| u16::from_le_bytes(bytes)));
        let first = first.unwrap_or_default();
        packed.extend([first as u8, (first >> 8 & 0xf) as u8 | (second.unwrap_or_default() << 4) as u8]);
        packed.extend(second.map(|second| (second >> 4) as u8));
    }
    packed
}

struct Unpack<'a> {
    packed: &'a [u8],
    pixels: &'a mut [u8],
}

impl NullaryFnOnce for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (packed, packed_rest) = self.packed.as_chunks::<PACKED_BYTES>();
        let (pixels, pixels_rest) = self.pixels.as_chunks_mut::<PIXEL_BYTES>();
        for (pixels, packed) in pixels.iter_mut().zip(packed) {
            unpack_sixteen(packed, pixels);
        }
        let (mut packed, mut pixels) = ([0; PACKED_BYTES], [0; PIXEL_BYTES]);
        packed[..packed_rest.len()].copy_from_slice(packed_rest);
        unpack_sixteen(&packed, &mut pixels);
        pixels_rest.copy_from_slice(&pixels[..pixels_rest.len()]);
    }
}

#[inline(always)]
fn unpack_sixteen(packed: &[u8; PACKED_BYTES], pixels: &mut [u8; PIXEL_BYTES]) {
    let words = packed.as_chunks::<8>().0;
    let [a, b, c] = std::array::from_fn(|word| u64::from_le_bytes(words[word]));
    let fours = [a, a >> 48 | b << 16, b >> 32 | c << 32, c >> 16];
    for (pixels, four) in pixels.as_chunks_mut::<8>().0.iter_mut().zip(fours) {
        // 48 bits: first in halves of 24 bits, then in fourths of 12.
        let halves = (four & 0xff_ffff) | (four << 8 & 0x00ff_ffff_0000_0000);
        *pixels = ((halves & EVEN) | (halves << 4 & ODD)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as the layout says.
    fn slowly(packed: &[u8], pixel_count: usize) -> Vec<u8> {
        let bit = |at: usize| u16::from(packed[at / 8] >> (at % 8) & 1);
        let pixel = |at: usize| (0..12).map(|place| bit(at * 12 + place) << place).sum::<u16>();
        (0..pixel_count).flat_map(|at| pixel(at).to_le_bytes()).collect()
    }

    proptest! {
        /// Any bytes, any number of pixels: what the layout says, and packed again what there was.
        #[test]
        fn as_bit_by_bit(bytes in proptest::collection::vec(any::<u8>(), 0..200), odd in any::<bool>()) {
            let pixel_count = bytes.len() / 3 * 2 - usize::from(odd && bytes.len() >= 3);
            let packed = &bytes[..packed_bytes(pixel_count)];
            let mut pixels = vec![0xff; pixel_count * 2];
            prop_assert_eq!(unpack(packed, &mut pixels), Ok(()));
            prop_assert_eq!(&pixels, &slowly(packed, pixel_count));
            let mut again = pack(&pixels);
            if let (1, Some(last)) = (pixel_count % 2, again.last_mut()) {
                *last |= packed[packed.len() - 1] & 0xf0;
            }
            prop_assert_eq!(&again, packed);
        }
    }

    /// One byte more or less, or half a pixel, is refused, and nothing is written.
    #[test]
    fn lengths() {
        for (packed_bytes, pixel_bytes, expected_bytes) in [(2, 4, 3), (4, 4, 3), (3, 5, 3), (0, 2, 2)] {
            let mut pixels = vec![0xff; pixel_bytes];
            let error = unpack(&[0; 4][..packed_bytes], &mut pixels);
            assert_eq!(error, Err(Packed12Error { packed_bytes, pixel_bytes, expected_bytes }));
            assert!(pixels.iter().all(|&byte| byte == 0xff));
        }
    }
}
