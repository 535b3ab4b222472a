use super::*;
use proptest::prelude::*;

fn single(depth: Depth) -> RawFormat {
    RawFormat { depth, layout: ChipLayout::Single { rows: 1 } }
}

fn hex(text: &str) -> Vec<u8> {
    text.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect()
}

/// Decodes words at the start of a row; the rest of the row is zero.
fn pixels(depth: Depth, text: &str) -> Vec<u32> {
    let format = single(depth);
    let mut payload = hex(text);
    payload.resize(format.payload_bytes(), 0);
    let mut frame = vec![0xee; format.frame_bytes()];
    format.decode(&payload, &mut frame);
    let pixels = frame.chunks_exact(format.pixel().bytes());
    pixels.map(|pixel| pixel.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))).collect()
}

fn set(pixels: &[u32]) -> Vec<usize> {
    (0..pixels.len()).filter(|&i| pixels[i] == 1).collect()
}

/// The worked examples of the vendor format at 1 bit.
#[test]
fn examples_1_bit() {
    assert_eq!(set(&pixels(Depth::Bits1, "00 00 00 00 00 00 00 01")), [0]);
    assert_eq!(set(&pixels(Depth::Bits1, "80 00 00 00 00 00 00 00")), [63]);
    assert_eq!(set(&pixels(Depth::Bits1, "01 02 04 08 10 20 40 80")), [7, 14, 21, 28, 35, 42, 49, 56]);
    let two_words = "80 00 00 00 00 00 00 FF 00 00 00 00 00 00 00 F0";
    assert_eq!(set(&pixels(Depth::Bits1, two_words)), [0, 1, 2, 3, 4, 5, 6, 7, 63, 68, 69, 70, 71]);
    let mut frame = vec![0; 256];
    for pixel in [0, 1, 8] {
        frame[pixel] = 1;
    }
    let mut payload = vec![0; 32];
    single(Depth::Bits1).encode(&frame, &mut payload);
    assert_eq!(payload[..8], hex("00 00 00 00 00 00 01 03"));
}

/// The worked examples at 6 and 12 bit.
#[test]
fn examples_6_and_12_bit() {
    let decoded = pixels(Depth::Bits6, "07 06 05 04 03 02 01 00 3F 3E 00 00 00 00 00 2A");
    assert_eq!(decoded[..16], [0, 1, 2, 3, 4, 5, 6, 7, 42, 0, 0, 0, 0, 0, 62, 63]);
    assert_eq!(pixels(Depth::Bits12, "0A BC 00 01 00 02 0F FF")[..4], [4095, 2, 1, 2748]);
    let decoded = pixels(Depth::Bits12, "00 04 00 03 00 02 00 01 00 08 00 07 00 06 00 05");
    assert_eq!(decoded[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut frame = vec![0; 256];
    frame[..8].copy_from_slice(&[10, 11, 12, 13, 14, 15, 16, 63]);
    let mut payload = vec![0; 256];
    single(Depth::Bits6).encode(&frame, &mut payload);
    assert_eq!(payload[..8], hex("3F 10 0F 0E 0D 0C 0B 0A"));
    let frame: Vec<u8> = [1_u16, 256, 4095, 2730].iter().flat_map(|p| p.to_le_bytes()).chain([0; 504]).collect();
    let mut payload = vec![0; 512];
    single(Depth::Bits12).encode(&frame, &mut payload);
    assert_eq!(payload[..8], hex("0A AA 0F FF 01 00 00 01"));
}

/// The worked example at 24 bit: high half frame first.
#[test]
fn example_24_bit() {
    let mut text = "00 01 00 00 00 00 0A BC".to_string();
    text.push_str(&" 00".repeat(504));
    text.push_str(" 0F FF 00 00 00 01 01 23");
    assert_eq!(pixels(Depth::Bits24, &text)[..4], [0x00ab_c123, 1, 0, 0x1fff]);
}

/// Pixel of an assembled quad, looked up one by one from the definition.
fn quad_pixel(format: &RawFormat, payload: &[u8], y: usize, x: usize) -> u32 {
    let gap = if format.layout == ChipLayout::QuadGap { 2 } else { 0 };
    if (256..256 + gap).contains(&y) || (256..256 + gap).contains(&x) {
        return 0;
    }
    let (y, x) = (if y < 256 { y } else { y - gap }, if x < 256 { x } else { x - gap });
    let (row, slot, j) = match (y < 256, x < 256) {
        (true, true) => (y, 3, x),
        (true, false) => (y, 2, x - 256),
        (false, true) => (511 - y, 1, 255 - x),
        (false, false) => (511 - y, 0, 511 - x),
    };
    let (row_bytes, bits) = match format.depth {
        Depth::Bits1 => (32, 1),
        Depth::Bits6 => (256, 8),
        _ => (512, 16),
    };
    let chip_row = &payload[(row * 4 + slot) * row_bytes..][..row_bytes];
    let per_word = 64 / bits;
    let word = u64::from_be_bytes(*chip_row[j / per_word * 8..].first_chunk().expect("a word"));
    (word >> (j % per_word * bits) & ((1 << bits) - 1)) as u32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Quads of any content, against the definition pixel by pixel; encoding gives the payload back.
    #[test]
    fn quads(depth in 0_usize..3, has_gap in any::<bool>(), seed in any::<u64>()) {
        let depth = [Depth::Bits1, Depth::Bits6, Depth::Bits12][depth];
        let format = RawFormat { depth, layout: if has_gap { ChipLayout::QuadGap } else { ChipLayout::Quad } };
        let mask = [0xff, 0x3f, 0xff][depth as usize];
        let byte = |i: usize| (seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8 & mask;
        let mut payload: Vec<u8> = (0..format.payload_bytes()).map(byte).collect();
        if depth == Depth::Bits12 {
            payload.iter_mut().step_by(2).for_each(|high| *high &= 0x0f);
        }
        let mut frame = vec![0xee; format.frame_bytes()];
        format.decode(&payload, &mut frame);
        let side = format.shape().width as usize;
        let bytes = format.pixel().bytes();
        for (i, pixel) in frame.chunks_exact(bytes).enumerate() {
            let value = pixel.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            prop_assert_eq!(value, quad_pixel(&format, &payload, i / side, i % side), "at {} {}", i / side, i % side);
        }
        let mut again = vec![0; payload.len()];
        format.encode(&frame, &mut again);
        prop_assert!(again == payload);
    }

    /// Encoding and decoding a single chip changes nothing but bits beyond the depth.
    #[test]
    fn singles_round_trip(depth in 0_usize..4, rows in 1_u32..5, seed in any::<u64>()) {
        let depth = [Depth::Bits1, Depth::Bits6, Depth::Bits12, Depth::Bits24][depth];
        let format = RawFormat { depth, layout: ChipLayout::Single { rows } };
        let masks: &[u8] = match depth {
            Depth::Bits1 => &[1],
            Depth::Bits6 => &[63],
            Depth::Bits12 => &[0xff, 0x0f],
            Depth::Bits24 => &[0xff, 0xff, 0xff, 0],
        };
        let byte = |i: usize| (seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8;
        let frame: Vec<u8> = (0..format.frame_bytes()).map(byte).collect();
        let mut payload = vec![0; format.payload_bytes()];
        format.encode(&frame, &mut payload);
        let mut again = vec![0xee; frame.len()];
        format.decode(&payload, &mut again);
        let masked: Vec<u8> = frame.iter().enumerate().map(|(i, byte)| byte & masks[i % masks.len()]).collect();
        prop_assert!(again == masked);
    }
}
