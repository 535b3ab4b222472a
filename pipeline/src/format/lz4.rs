//! Frames as detectors compress them without transposing bits: one LZ4 block, or blocks framed as HDF5 filter 32004 does it.
//!
//! ```text
//! 0   u64 BE  bytes of the decoded frame
//! 8   u32 BE  bytes of a decoded block
//! 12  blocks: u32 BE length, then as many bytes: the block itself where that is its own length, else one LZ4 block
//! ```
//!
//! # Errors
//! What does not expand to exactly the frame that is expected is refused. Nothing is allocated.

use super::bslz4::expand;
use super::{FormatError, field};

const HEADER_BYTES: usize = 12;

/// Expands one LZ4 block to exactly `frame`.
pub fn decode_block(bytes: &[u8], frame: &mut [u8]) -> Result<(), FormatError> {
    expand(bytes, frame)
}

/// Expands blocks with their framing to exactly `frame`.
pub fn decode_framed(bytes: &[u8], frame: &mut [u8]) -> Result<(), FormatError> {
    let short = |what, got_bytes, want_bytes| FormatError::Short { what, got_bytes, want_bytes };
    let Some((header, mut rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(short("header of an lz4 frame", bytes.len(), HEADER_BYTES));
    };
    let [a, b, c, d, e, f, g, h, block @ ..] = *header;
    let (total, block) = (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes(block) as usize);
    if total != frame.len() as u64 {
        return Err(field("bytes of an lz4 frame", total, "those of a frame of the series"));
    }
    if block == 0 && total > 0 {
        return Err(field("bytes of an lz4 block", block, "at least 1"));
    }
    for out in frame.chunks_mut(block.max(1)) {
        let split = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
        });
        let Some((payload, left)) = split else { return Err(short("block of an lz4 frame", rest.len(), out.len())) };
        rest = left;
        if payload.len() == out.len() {
            out.copy_from_slice(payload);
        } else {
            expand(payload, out)?;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(field("bytes after an lz4 frame", rest.len(), "none")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks of `block` bytes, stored where LZ4 does not help.
    fn framed(frame: &[u8], block: usize) -> Vec<u8> {
        let mut out = (frame.len() as u64).to_be_bytes().to_vec();
        out.extend((block as u32).to_be_bytes());
        for part in frame.chunks(block) {
            let packed = lz4::block::compress(part, None, false).expect("compressed");
            let payload = if packed.len() < part.len() { &packed[..] } else { part };
            out.extend((payload.len() as u32).to_be_bytes());
            out.extend(payload);
        }
        out
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
            .collect()
    }

    fn numbers(numbers: impl IntoIterator<Item = u16>) -> Vec<u8> {
        numbers.into_iter().flat_map(u16::to_le_bytes).collect()
    }

    /// As reference encoders write them: HDF5 filter 32004 (the first with stored blocks only), and the LZ4 library.
    #[test]
    fn known_frames() {
        let rising = numbers((0..20).map(|i| 3 * i + 1));
        let stored = hex("0000000000000028 00000010 00000010 0100040007000a000d00100013001600
             00000010 19001c001f002200250028002b002e00 00000008 3100340037003a00");
        let single = numbers((0..40).map(|i| if i == 3 { 7 } else { 0 }));
        let blocks = hex("0000000000000050 00000020 00000011 11000100110706000b0200500000000000
             0000000b 1f00010007500000000000 0000000a 16000100500000000000");
        for (want, bytes) in [(&rising, stored), (&single, blocks)] {
            let mut frame = vec![0xaa; want.len()];
            assert_eq!(decode_framed(&bytes, &mut frame), Ok(()));
            assert_eq!(&frame, want);
        }
        let mut frame = vec![0xaa; single.len()];
        assert_eq!(decode_block(&hex("11000100110706000f02002c500000000000"), &mut frame), Ok(()));
        assert_eq!(frame, single);
    }

    proptest! {
        #[test]
        fn framed_frames_come_back(frame in prop::collection::vec(0_u8..4, 0..600), block in 1_usize..200) {
            let bytes = framed(&frame, block);
            let mut decoded = vec![0xaa; frame.len()];
            prop_assert_eq!(decode_framed(&bytes, &mut decoded), Ok(()));
            prop_assert_eq!(&decoded, &frame);
            for cut in 0..bytes.len() {
                prop_assert!(decode_framed(&bytes[..cut], &mut decoded).is_err());
            }
            prop_assert!(decode_framed(&[&bytes[..], b"x"].concat(), &mut decoded).is_err());
            prop_assert!(decode_framed(&bytes, &mut vec![0; frame.len() + 1]).is_err());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64), length in 0_usize..64) {
            let mut frame = vec![0; length];
            let _ = decode_framed(&bytes, &mut frame);
            let _ = decode_block(&bytes, &mut frame);
        }
    }
}
