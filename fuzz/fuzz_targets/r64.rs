//! Any payload in any raw format: decoding then encoding gives back the bits the depth has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_ingest::merlin::{ChipLayout, Depth, RawFormat};
use ronchi_pipeline::crc32c;

/// One row, seldom two, and once in a while four chips, which cost as much as a thousand rows. The checksum decides, so
/// that inputs with four chips do not breed their like.
fn layout(choice: u8, depth: Depth, content: &[u8]) -> ChipLayout {
    match choice {
        0..=1 if depth != Depth::Bits24 && crc32c(content).is_multiple_of(1024) => {
            [ChipLayout::Quad, ChipLayout::QuadGap][usize::from(choice)]
        }
        rows => ChipLayout::Single { rows: if rows % 8 == 3 { 2 } else { 1 } },
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [depth, choice, content @ ..] = bytes else { return };
    let depth = [Depth::Bits1, Depth::Bits6, Depth::Bits12, Depth::Bits24][usize::from(depth % 4)];
    let layout = layout(*choice, depth, content);
    let format = RawFormat { depth, layout };
    assert!(format.sent_width_height().is_some());
    let mut payload = vec![0; format.payload_bytes()];
    let count = content.len().min(payload.len());
    payload[..count].copy_from_slice(&content[..count]);
    let mut frame = vec![0xee; format.frame_bytes()];
    format.decode(&payload, &mut frame);
    let (mut sent, mut again) = (vec![0; payload.len()], vec![0xee; frame.len()]);
    format.encode(&frame, &mut sent);
    format.decode(&sent, &mut again);
    let mask: u16 = match depth {
        Depth::Bits1 => 0xffff,
        Depth::Bits6 => 0x3f3f,
        Depth::Bits12 | Depth::Bits24 => 0x0fff,
    };
    if depth != Depth::Bits24 {
        // At 24 bit surplus bits of the halves are added up, so only valid payloads survive.
        for pair in payload.as_chunks_mut().0 {
            *pair = (u16::from_be_bytes(*pair) & mask).to_be_bytes();
        }
        assert_eq!(payload, sent);
    }
    let mut third = vec![0; sent.len()];
    format.encode(&again, &mut third);
    assert_eq!(sent, third);
});
