//! The framing against vectors written down in the format's description, against an encoder, and against any bytes.

use super::*;
use proptest::prelude::*;

/// A frame as a detector sends it: every block compressed, whether that helps or not.
pub(in crate::format) fn encode(pixels: &[u8], item_bytes: usize, block_bytes: usize) -> Vec<u8> {
    let mut out = [&(pixels.len() as u64).to_be_bytes()[..], &(block_bytes as u32).to_be_bytes()].concat();
    let (blocks, tail) = pixels.split_at(pixels.len() - pixels.len() % (8 * item_bytes));
    for block in blocks.chunks(block_bytes) {
        let mut rows = vec![0; block.len()];
        bitshuffle::shuffle(block, item_bytes, &mut rows);
        let payload = lz4::block::compress(&rows, None, false).expect("any bytes compress");
        out.extend((payload.len() as u32).to_be_bytes());
        out.extend(payload);
    }
    out.extend(tail);
    out
}

/// Counts as detectors see them: mostly small, some large.
pub(in crate::format) fn pixels(seed: u64, bytes: usize, noise: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes).map(|_| if next() % 16 < noise { next() as u8 } else { 0 }).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.chunks(2).map(pair).collect()
}

fn decoded(frame: &[u8], frame_bytes: usize, item_bytes: usize) -> Result<Vec<u8>, FormatError> {
    let mut out = vec![0xee; frame_bytes];
    Bslz4::parse(frame, frame_bytes, item_bytes)?.decode(&mut Vec::new(), &mut out)?;
    Ok(out)
}

/// Item i is 3i + 1, in items of this size.
fn ramp(count: usize, item_bytes: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (3 * i as u64 + 1).to_le_bytes().into_iter().take(item_bytes)).collect()
}

/// Frames made by HDF5 filter 32008: blocks with and without gain, tails, and nothing but a tail.
#[test]
fn golden_frames() {
    let cases = [
        (1, 8, "0000000000000008 00002000 00000009 80 55cc9618e0000000"),
        (1, 5, "0000000000000005 00002000 0104070a0d"),
        (1, 20, "0000000000000014 00002000 00000012 f001 5555cccc969618e7e00700f800000000 3134373a"),
        (2, 8, "0000000000000010 00002000 00000012 f001 55cc9618e00000000000000000000000"),
        (2, 20, "0000000000000028 00002000 00000016 da 5555cccc969618e7e00700f800 0100 50 0000000000 3100340037003a00"),
        (4, 8, "0000000000000020 00002000 00000010 6f 55cc9618e000 0100 02 50 0000000000"),
        (
            4,
            20,
            "0000000000000050 00002000 00000017 df5555cccc969618e7e00700f80001001b500000000000
             3100000034000000370000003a000000",
        ),
    ];
    for (item_bytes, count, hex) in cases {
        let want = ramp(count, item_bytes);
        assert_eq!(decoded(&bytes(hex), want.len(), item_bytes), Ok(want), "{count} items of {item_bytes}");
    }
}

/// Twelve zeros leave the lengths to the reader.
#[test]
fn a_header_of_zeros() {
    let want = pixels(3, 20_000, 1);
    let mut frame = encode(&want, 2, 8192);
    frame[..12].fill(0);
    assert_eq!(decoded(&frame, want.len(), 2), Ok(want));
}

/// What does not add up is refused before it is decoded.
#[test]
fn refusals() {
    let good = encode(&pixels(1, 1000, 3), 2, 256);
    let bad = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        decoded(&bad, 1000, 2)
    };
    assert!(bad(&|_| {}).is_ok());
    assert!(bad(&|b| b[7] ^= 1).is_err(), "another length");
    assert!(bad(&|b| b[11] = 8).is_err(), "half a block");
    assert!(bad(&|b| b[8..12].fill(0)).is_err(), "blocks of nothing");
    assert!(bad(&|b| b[12..16].fill(0xff)).is_err(), "a block beyond the end");
    assert!(bad(&|b| b.push(0)).is_err(), "a byte too many");
    assert!(Bslz4::parse(&good, 1000, 3).is_err(), "items of three bytes");
    assert!(Bslz4::parse(&good[..11], 1000, 2).is_err(), "half a header");
}

proptest! {
    /// What the encoder made comes back, whatever the frame's length and the size of blocks.
    #[test]
    fn round_trip(seed in any::<u64>(), count in 1_usize..3000, exponent in 0_u32..4, groups in 1_usize..200, noise in 0_u64..=16) {
        let item_bytes = 1 << exponent;
        let want = pixels(seed, count * item_bytes, noise);
        let frame = encode(&want, item_bytes, groups * 8 * item_bytes);
        prop_assert_eq!(decoded(&frame, want.len(), item_bytes), Ok(want.clone()));
        let mut frame = vec![0xee];
        Compressor::default().compress(&want, item_bytes, &mut frame);
        prop_assert_eq!(&frame, &encode(&want, item_bytes, 8192));
        prop_assert!(frame.len() as u64 <= crate::Encoding::Bslz4.place_bytes(want.len() as u64));
        let parsed = Bslz4::parse(&frame, want.len(), item_bytes);
        prop_assert!(parsed.is_ok_and(|frame| frame.check(&mut Vec::new()).is_ok()));
    }

    /// Cut off anywhere it is refused; with any bytes changed, or any bytes at all, nothing panics.
    #[test]
    fn damage(
        seed in any::<u64>(), count in 1_usize..600, cut in any::<proptest::sample::Index>(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..4),
        junk in proptest::collection::vec(any::<u8>(), 0..200), frame_bytes in 0_usize..5000, item_bytes in 0_usize..10,
    ) {
        let good = encode(&pixels(seed, 2 * count, 4), 2, 64);
        prop_assert!(decoded(&good[..cut.index(good.len())], 2 * count, 2).is_err());
        let mut bad = good.clone();
        flips.iter().for_each(|(at, flip)| bad[at.index(good.len())] ^= flip);
        let found = decoded(&bad, 2 * count, 2);
        if let Ok(parsed) = Bslz4::parse(&bad, 2 * count, 2) {
            prop_assert_eq!(parsed.check(&mut Vec::new()).is_ok(), found.is_ok());
        }
        let _ = decoded(&junk, frame_bytes, item_bytes);
    }
}
