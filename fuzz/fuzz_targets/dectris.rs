//! Any bytes as a message of either DECTRIS stream: parts are cut where the bytes say so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_config::DectrisStream;
use ronchi_ingest::dectris::decode_message;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let stream = if first & 1 == 0 { DectrisStream::Legacy } else { DectrisStream::Cbor };
    let mut parts = Vec::new();
    for _ in 0..first >> 1 & 7 {
        let Some((length, left)) = rest.split_first_chunk::<2>() else { break };
        let (part, left) = left.split_at(left.len().min(u16::from_le_bytes(*length).into()));
        parts.push(part);
        rest = left;
    }
    parts.push(rest);
    if let Err(text) = decode_message(stream, &parts, 1 << 20) {
        assert!(text.len() < 1000); // Messages go into logs: they repeat at most a piece of what came.
    }
});
