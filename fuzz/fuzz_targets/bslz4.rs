//! Any bytes as a detector's compressed frame and as a chunk of a compressed segment, with the header put right so that
//! blocks are reached. A frame that decodes is the same picture as the chunk made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_pipeline::format::blosc;
use ronchi_pipeline::format::bslz4::Bslz4;

fuzz_target!(|bytes: &[u8]| {
    // The input is items per frame, bytes per item, and the frame or chunk.
    let Some((&[low, high, item_bytes], body)) = bytes.split_first_chunk() else { return };
    let item_bytes = usize::from(item_bytes % 9);
    let frame_bytes = usize::from(u16::from_le_bytes([low, high])) * item_bytes;
    check_frame(body, frame_bytes, item_bytes);
    check_chunk(body, frame_bytes);
    let mut sound = body.to_vec();
    if let Some(header) = sound.first_chunk_mut::<12>() {
        header[..8].copy_from_slice(&(frame_bytes as u64).to_be_bytes());
        check_frame(&sound, frame_bytes, item_bytes);
    }
    let end = body.len() as u32;
    if let Some(header) = sound.first_chunk_mut::<16>() {
        header[..4].copy_from_slice(&[2, 1, 0x34, item_bytes as u8]);
        header[4..8].copy_from_slice(&(frame_bytes as u32).to_le_bytes());
        header[8..12].copy_from_slice(&body[8..12]);
        header[12..].copy_from_slice(&end.to_le_bytes());
        check_chunk(&sound, frame_bytes);
    }
});

fn check_frame(bytes: &[u8], frame_bytes: usize, item_bytes: usize) {
    let Ok(frame) = Bslz4::parse(bytes, frame_bytes, item_bytes) else { return };
    let mut pixels = vec![0; frame_bytes];
    let is_sound = frame.decode(&mut Vec::new(), &mut pixels).is_ok();
    assert_eq!(frame.check(&mut Vec::new()).is_ok(), is_sound);
    let mut chunk = vec![0; blosc::bytes_max(frame_bytes, frame.block_bytes())];
    let reframed = blosc::reframe(&[Some(frame)], &mut chunk);
    if frame_bytes == 0 || !is_sound {
        return;
    }
    chunk.truncate(reframed.expect("sound frames become chunks").stored_bytes);
    let mut again = vec![0; frame_bytes];
    blosc::decode(&chunk, &mut Vec::new(), &mut again).expect("a chunk of ours");
    assert!(again == pixels);
}

fn check_chunk(bytes: &[u8], chunk_bytes: usize) {
    let _ = blosc::decode(bytes, &mut Vec::new(), &mut vec![0; chunk_bytes]);
}
