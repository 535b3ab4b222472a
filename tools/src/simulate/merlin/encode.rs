//! Pixel encoders: from counts in image order to the bytes a Merlin sends.
//!
//! # Units
//! Counts are row-major `(height, width)`, row 0 first. Values above the counter's maximum stop there, as the
//! counters of the chip do.
//!
//! # Why this way
//! Written from the protocol page alone, not from the receiver's decoders: the two check each other in tests.

use super::format::{CHIP_PX, ChipLayout, FrameFormat, MerlinPixels};

const CHIP: usize = CHIP_PX as usize;

/// Encodes one image into `payload`; `counts` and `payload` must have the sizes of `format`.
pub fn encode(format: &FrameFormat, counts: &[u32], payload: &mut [u8]) {
    assert_eq!(counts.len() as u64, format.shape().pixel_count(), "counts are one image");
    assert_eq!(payload.len(), format.payload_bytes(), "payload has the size of the format");
    let max = format.pixels().count_max();
    match format.pixels() {
        MerlinPixels::U8 => {
            for (byte, &count) in payload.iter_mut().zip(counts) {
                *byte = count.min(max) as u8;
            }
        }
        MerlinPixels::U16 => {
            for (bytes, &count) in payload.as_chunks_mut::<2>().0.iter_mut().zip(counts) {
                *bytes = (count.min(max) as u16).to_be_bytes();
            }
        }
        MerlinPixels::U32 => {
            for (bytes, &count) in payload.as_chunks_mut::<4>().0.iter_mut().zip(counts) {
                *bytes = count.min(max).to_be_bytes();
            }
        }
        MerlinPixels::Raw24 => encode_halves(counts, payload),
        MerlinPixels::Raw1 | MerlinPixels::Raw6 | MerlinPixels::Raw12 => match format.layout() {
            ChipLayout::Single => encode_words(format.pixels(), counts, payload),
            ChipLayout::Quad | ChipLayout::QuadGap => encode_quad(format, counts, payload),
        },
    }
}

/// Packs pixels into 64-bit big-endian words, the first pixel in the least significant bits.
fn encode_words(pixels: MerlinPixels, counts: &[u32], out: &mut [u8]) {
    let bits = pixels.wire_bits() as usize;
    let max = pixels.count_max();
    for (bytes, group) in out.as_chunks_mut::<8>().0.iter_mut().zip(counts.chunks_exact(64 / bits)) {
        let word =
            group.iter().enumerate().fold(0_u64, |word, (p, &count)| word | u64::from(count.min(max)) << (p * bits));
        *bytes = word.to_be_bytes();
    }
}

/// 24 bit: the upper 12 bits of the whole image, then the lower 12 bits, each like a 12-bit frame.
fn encode_halves(counts: &[u32], out: &mut [u8]) {
    let (high, low) = out.split_at_mut(out.len() / 2);
    let max = MerlinPixels::Raw24.count_max();
    for (half, shift) in [(high, 12), (low, 0)] {
        for (bytes, group) in half.as_chunks_mut::<8>().0.iter_mut().zip(counts.as_chunks::<4>().0) {
            let part = |p: usize| u64::from((group[p].min(max) >> shift) & 0xFFF) << (16 * p);
            *bytes = (part(0) | part(1) | part(2) | part(3)).to_be_bytes();
        }
    }
}

/// Quad: transmitted row `r` is four chip rows, Q4 Q3 Q2 Q1; the lower two chips are turned by 180 degrees.
fn encode_quad(format: &FrameFormat, counts: &[u32], out: &mut [u8]) {
    let width = format.shape().width as usize;
    let gap = width - 2 * CHIP; // 2 for a layout with gap, else 0: gap pixels are not transmitted
    let row_bytes = CHIP * format.pixels().wire_bits() as usize / 8;
    let mut turned = [0_u32; CHIP];
    for (slot, bytes) in out.chunks_exact_mut(row_bytes).enumerate() {
        let r = slot / 4;
        let right = slot % 2 == 0; // Q4 and Q2 are on the right
        let first = if right { CHIP + gap } else { 0 };
        if slot % 4 < 2 {
            let y = 2 * CHIP + gap - 1 - r;
            let row = &counts[y * width + first..][..CHIP];
            turned.iter_mut().zip(row.iter().rev()).for_each(|(to, &from)| *to = from);
            encode_words(format.pixels(), &turned, bytes);
        } else {
            encode_words(format.pixels(), &counts[r * width + first..][..CHIP], bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::SigShape;

    /// The worked examples of the protocol page, section 7.
    #[test]
    fn worked_examples() {
        let mut out = [0_u8; 8];
        let mut bits = [0_u32; 64];
        for p in [0, 1, 8] {
            bits[p] = 1;
        }
        encode_words(MerlinPixels::Raw1, &bits, &mut out);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 1, 3]);
        encode_words(MerlinPixels::Raw6, &[10, 11, 12, 13, 14, 15, 16, 63], &mut out);
        assert_eq!(out, [0x3F, 0x10, 0x0F, 0x0E, 0x0D, 0x0C, 0x0B, 0x0A]);
        encode_words(MerlinPixels::Raw12, &[1, 256, 4095, 2730], &mut out);
        assert_eq!(out, [0x0A, 0xAA, 0x0F, 0xFF, 0x01, 0x00, 0x00, 0x01]);
        let mut both = [0_u8; 16];
        encode_halves(&[0x00AB_C123, 1, 0, 0x1FFF], &mut both);
        assert_eq!(both, [0, 1, 0, 0, 0, 0, 0x0A, 0xBC, 0x0F, 0xFF, 0, 0, 0, 1, 1, 0x23]);
    }

    /// Every pixel of a raw quad, with and without gap, is found where the inverse rule of section 7.2 says.
    #[test]
    fn quad_pixels_are_where_the_rule_says() {
        for (layout, edge) in [(ChipLayout::Quad, 512_usize), (ChipLayout::QuadGap, 514)] {
            let shape = SigShape { height: edge as u32, width: edge as u32 };
            let format = FrameFormat::new(MerlinPixels::Raw6, layout, shape).expect("real format");
            let counts: Vec<u32> = (0..edge * edge).map(|i| (i % edge * 7 + i / edge * 13) as u32 % 64).collect();
            let mut payload = vec![0; format.payload_bytes()];
            encode(&format, &counts, &mut payload);
            for y in 0..512 {
                for x in 0..512 {
                    let (row, slot, j) = match (y < 256, x < 256) {
                        (true, true) => (y, 3, x),
                        (true, false) => (y, 2, x - 256),
                        (false, true) => (511 - y, 1, 255 - x),
                        (false, false) => (511 - y, 0, 511 - x),
                    };
                    let byte = payload[(row * 4 + slot) * 256 + j / 8 * 8 + 7 - j % 8];
                    let skip = |v: usize| if v >= 256 { v + edge - 512 } else { v };
                    assert_eq!(u32::from(byte), counts[skip(y) * edge + skip(x)], "pixel {y},{x}");
                }
            }
        }
    }

    /// Counters stop at their maximum instead of wrapping.
    #[test]
    fn counters_stop_at_their_maximum() {
        let shape = SigShape { height: 1, width: 2 };
        let format = FrameFormat::new(MerlinPixels::U16, ChipLayout::Single, shape).expect("real format");
        let mut payload = [0; 4];
        encode(&format, &[5000, 258], &mut payload);
        assert_eq!(payload, [0x0F, 0xFF, 0x01, 0x02]);
    }
}
