//! Chunks against a frame that c-blosc wrote, against pixels, and against any bytes.

use super::super::bslz4::tests::{encode, pixels};
use super::*;
use proptest::prelude::*;

fn decoded(chunk: &[u8], chunk_bytes: usize) -> Result<Vec<u8>, FormatError> {
    let mut out = vec![0xee; chunk_bytes];
    decode(chunk, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn compressed(pixels: &[u8], item_bytes: usize) -> Vec<u8> {
    let mut out = vec![0xee; bytes_max(pixels.len(), BLOCK_BYTES)];
    let length = Compressor::default().compress(pixels, item_bytes, &mut out);
    out.truncate(length);
    out
}

/// Frames of a chunk, `None` where the pixels are zeros because the frame is missing.
fn reframed(frames: &[Option<Vec<u8>>], frame_bytes: usize, item_bytes: usize) -> Result<Vec<u8>, FormatError> {
    let frames: Result<Vec<_>, _> = frames
        .iter()
        .map(|frame| frame.as_ref().map(|bytes| Bslz4::parse(bytes, frame_bytes, item_bytes)).transpose())
        .collect();
    let most = frames.as_ref().map_or(0, |frames| frames.len() * (3 * frame_bytes + 64));
    let mut out = vec![0xee; most];
    let frames = frames?;
    let length = reframe(&frames, &mut out)?.stored_bytes;
    assert_eq!(stored_bytes(&out), Some(length as u32));
    let mut exact = vec![0xee; length];
    assert!(reframe(&frames, &mut exact[..length - 1]).is_err(), "a byte too few");
    assert_eq!(reframe(&frames, &mut exact).map(|made| made.stored_bytes), Ok(length));
    assert!(exact == out[..length]);
    Ok(exact)
}

/// What c-blosc 1.21 (numcodecs 0.16.6, lz4, level 5, bitshuffle, blocks of 256 bytes) made of 200 items 7i of two bytes.
#[test]
fn golden_chunk_of_c_blosc() {
    let want: Vec<u8> = (0..200_u16).flat_map(|i| (7 * i).to_le_bytes()).collect();
    let hex = GOLDEN;
    let chunk: Vec<u8> =
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
    assert_eq!(decoded(&chunk, 400), Ok(want));
}

const GOLDEN: &str = "\
    020134029001000000010000fa00000018000000980000007c0000001baa01001b6601001b1e01002a54ab0200c0983367cc\
    983367cc983367cc0c00f233e0c3870f1f3c78f0e0c3870f1f3c78f000fc07f01fc07f00ff03f80fe03f80ff0000f8ff1f00\
    80ffff0300f0ff3f000000000000e0ffffffff03000000c0ffff000014009500fcffffffffffff0011000f02003e50000000\
    00005e00000014aa010014660100141e01002354ab0200f430983367cc983367cc98e0c3870f1f3c78f0e000fc07f01fc07f\
    00ffffff0700e0ff7f0000ffff0700000080ffffffff070000000000000000f8ffffffffffff0f000f02000d500000000000";

/// Pixels that do not compress take 16 bytes more than they are; those that do, less.
#[test]
fn chunks_are_never_long() {
    let noise = pixels(5, 100_000, 16);
    let chunk = compressed(&noise, 2);
    assert_eq!((chunk.len(), chunk[2]), (100_016, 0x36));
    assert_eq!(decoded(&chunk, 100_000), Ok(noise));
    let sparse = pixels(5, 100_000, 1);
    let chunk = compressed(&sparse, 2);
    assert!(chunk.len() < 60_000 && chunk[2] == 0x34, "{}", chunk.len());
    let mut out = vec![0; 100_016];
    assert_eq!(store(&sparse, 2, &mut out), 100_016);
    assert_eq!(decoded(&out, 100_000), Ok(sparse));
}

/// Several frames in a chunk need whole blocks, alike in all of them, and one frame at least.
#[test]
fn frames_that_do_not_go_together() {
    let frame = |seed, bytes, block| Some(encode(&pixels(seed, bytes, 2), 2, block));
    assert!(reframed(&[frame(1, 512, 256), None, frame(2, 512, 256)], 512, 2).is_ok());
    assert!(reframed(&[frame(1, 512, 256), frame(2, 512, 128)], 512, 2).is_err());
    assert!(reframed(&[frame(1, 520, 256), frame(2, 520, 256)], 520, 2).is_err());
    assert!(reframed(&[None, None], 512, 2).is_err());
    // A frame that is shorter than its blocks is one block.
    assert!(reframed(&[frame(1, 512, 8192), None, frame(2, 512, 512)], 512, 2).is_ok());
    assert!(reframed(&[frame(1, 514, 8192), frame(2, 514, 8192)], 514, 2).is_err());
    assert!(reframed(&[], 512, 2).is_err());
}

/// LZ4 blocks are copied, not made again: only those without gain, and odd ends, are decoded.
#[test]
fn blocks_are_copied() {
    let mut out = vec![0; 40_000];
    let sparse = encode(&pixels(1, 8192 * 3, 1), 2, 8192);
    let parsed = Bslz4::parse(&sparse, 8192 * 3, 2).expect("whole");
    assert_eq!(reframe(&[Some(parsed)], &mut out).map(|made| made.stored_blocks), Ok(0));
    for block in parsed.blocks() {
        assert!(out.windows(block.payload.len()).any(|window| window == block.payload));
    }
    let noisy = [pixels(1, 8192, 16), pixels(2, 4096 + 6, 1)].concat();
    let noisy = encode(&noisy, 2, 8192);
    let parsed = Bslz4::parse(&noisy, 8192 + 4096 + 6, 2).expect("whole");
    assert_eq!(reframe(&[Some(parsed)], &mut out).map(|made| made.stored_blocks), Ok(2));
}

proptest! {
    /// Pixels of any content and length survive compression.
    #[test]
    fn compression_round_trip(seed in any::<u64>(), count in 1_usize..20_000, exponent in 0_u32..4, noise in 0_u64..=16) {
        let item_bytes = 1 << exponent;
        let want = pixels(seed, count * item_bytes, noise);
        let chunk = compressed(&want, item_bytes);
        prop_assert!(chunk.len() <= want.len() + HEADER_BYTES);
        prop_assert_eq!(decoded(&chunk, want.len()), Ok(want));
    }

    /// One frame of any length, with any block size, is the same picture after it was framed anew.
    #[test]
    fn one_frame(seed in any::<u64>(), count in 1_usize..3000, exponent in 0_u32..4, groups in 1_usize..200, noise in 0_u64..=16) {
        let item_bytes = 1 << exponent;
        let want = pixels(seed, count * item_bytes, noise);
        let block_bytes = groups * 8 * item_bytes;
        let chunk = reframed(&[Some(encode(&want, item_bytes, block_bytes))], want.len(), item_bytes);
        let chunk = chunk.expect("whole");
        prop_assert!(chunk.len() <= bytes_max(want.len(), block_bytes));
        prop_assert_eq!(decoded(&chunk, want.len()), Ok(want));
    }

    /// Several frames of whole blocks in one chunk; missing ones are zeros.
    #[test]
    fn several_frames(
        seed in any::<u64>(), present in proptest::collection::vec(any::<bool>(), 1..6), blocks in 1_usize..4,
        groups in 1_usize..40, exponent in 0_u32..3, noise in 0_u64..=16,
    ) {
        let item_bytes = 1 << exponent;
        let block_bytes = groups * 8 * item_bytes;
        let frame_bytes = blocks * block_bytes;
        let all: Vec<_> = (0..present.len() as u64).map(|i| pixels(seed ^ i << 20, frame_bytes, noise)).collect();
        let frames: Vec<_> =
            all.iter().zip(&present).map(|(p, &is_there)| is_there.then(|| encode(p, item_bytes, block_bytes))).collect();
        let want: Vec<u8> =
            all.iter().zip(&present).flat_map(|(p, &is_there)| if is_there { p.clone() } else { vec![0; p.len()] }).collect();
        match reframed(&frames, frame_bytes, item_bytes) {
            Ok(chunk) => prop_assert_eq!(decoded(&chunk, want.len()), Ok(want)),
            Err(_) => prop_assert!(!present.contains(&true)),
        }
    }

    /// Cut off anywhere a chunk is refused; with any bytes changed, or any bytes at all, nothing panics.
    #[test]
    fn damage(
        seed in any::<u64>(), count in 1_usize..9000, cut in any::<proptest::sample::Index>(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..4),
        mut junk in proptest::collection::vec(any::<u8>(), 0..200), item_bytes in 0_u8..10, chunk_bytes in 0_usize..5000,
    ) {
        let good = compressed(&pixels(seed, 2 * count, 4), 2);
        prop_assert!(decoded(&good[..cut.index(good.len())], 2 * count).is_err());
        let mut bad = good.clone();
        flips.iter().for_each(|(at, flip)| bad[at.index(good.len())] ^= flip);
        let _ = decoded(&bad, 2 * count);
        let _ = decoded(&junk, chunk_bytes);
        if junk.len() >= HEADER_BYTES {
            let end = junk.len();
            junk[..4].copy_from_slice(&[2, 1, 0x34, item_bytes]);
            put(&mut junk, 4, chunk_bytes);
            put(&mut junk, 12, end);
            let _ = decoded(&junk, chunk_bytes);
        }
    }
}
