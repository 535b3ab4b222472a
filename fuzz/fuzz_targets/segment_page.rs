//! Any bytes as page 0 of a segment and as `chunks.log`: as they are, and with the checksums put right, so that the
//! fields behind them are reached. What is read can be written and read again. And any bytes as page 1 of a packed segment,
//! whose fields are read before its checksums are compared.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_pipeline::crc32c;
use ronchi_pipeline::format::{CHUNK_RECORD_BYTES, ChunkRecord, PackedPage0, Page0, read_packed_page1};
use ronchi_pipeline::{CHUNKS_MAX, SECTOR_BYTES};

const TRAILER: std::ops::Range<usize> = 4032..4096;

fuzz_target!(|bytes: &[u8]| {
    log(bytes);
    // The input is the frame size, the trailer and the beginning of the page; the rest of the page is zero.
    let Some((frame_bytes, rest)) = bytes.split_first_chunk() else { return };
    let Some((trailer, head)) = rest.split_first_chunk::<64>() else { return };
    let frame_bytes = u64::from_le_bytes(*frame_bytes);
    let mut page = [0; SECTOR_BYTES];
    let count = head.len().min(TRAILER.start);
    page[..count].copy_from_slice(&head[..count]);
    let _ = read_packed_page1(&page); // Refused, or as it would be written: it is compared byte for byte.
    page[TRAILER].copy_from_slice(trailer);
    check_page(&page, frame_bytes);
    seal(&mut page[TRAILER], 60);
    let chunk_count = u32::from_le_bytes([trailer[56], trailer[57], trailer[58], trailer[59]]).min(CHUNKS_MAX);
    seal(&mut page, 16 * chunk_count as usize);
    check_page(&page, frame_bytes);
});

/// Writes the checksum of the first `count` bytes behind them.
fn seal(bytes: &mut [u8], count: usize) {
    let crc = crc32c(&bytes[..count]);
    bytes[count..count + 4].copy_from_slice(&crc.to_le_bytes());
}

fn check_page(bytes: &[u8], frame_bytes: u64) {
    if let Ok(page) = PackedPage0::decode(bytes, frame_bytes) {
        assert!((1..=CHUNKS_MAX as usize).contains(&page.chunks.len()));
        assert_eq!(PackedPage0::decode(&page.encode()[..], frame_bytes), Ok(page));
        return;
    }
    let Ok(page) = Page0::decode(bytes, frame_bytes) else { return };
    assert!((1..=CHUNKS_MAX as usize).contains(&page.chunks.len()));
    assert_eq!(Page0::decode(&page.encode(frame_bytes)[..], frame_bytes), Ok(page));
}

fn log(bytes: &[u8]) {
    check_log(bytes);
    let mut sealed = bytes.to_vec();
    for record in sealed.chunks_exact_mut(CHUNK_RECORD_BYTES) {
        seal(record, CHUNK_RECORD_BYTES - 4);
    }
    check_log(&sealed);
}

/// Every byte of a record means something: the records read are the log's beginning, to the bit.
fn check_log(bytes: &[u8]) {
    for (record, written) in ChunkRecord::decode_all(bytes).zip(bytes.chunks(CHUNK_RECORD_BYTES)) {
        assert_eq!(record.encode(), written);
    }
}
