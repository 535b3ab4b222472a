//! Any bytes as a detector's LZ4 frame, bare and with framing, the latter also with its total put right so that blocks are
//! reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_pipeline::format::lz4;

fuzz_target!(|bytes: &[u8]| {
    // The input is bytes per frame, and the frame.
    let Some((&length, body)) = bytes.split_first_chunk() else { return };
    let mut frame = vec![0; u16::from_le_bytes(length).into()];
    let _ = lz4::decode_block(body, &mut frame);
    let _ = lz4::decode_framed(body, &mut frame);
    let mut sound = body.to_vec();
    if let Some(total) = sound.first_chunk_mut() {
        *total = (frame.len() as u64).to_be_bytes();
        let _ = lz4::decode_framed(&sound, &mut frame);
    }
});
