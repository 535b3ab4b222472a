//! Any bytes as prefix, acquisition header, frame header and `.mib` file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_ingest::merlin::header::{Progress, Signature, frame_sequence, read_progress, utc_ns};
use ronchi_ingest::merlin::{AcquisitionHeader, FrameFormat, FrameHeader, MibFile};

const MESSAGE_BYTES_MAX: u64 = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    match read_progress(bytes, MESSAGE_BYTES_MAX) {
        Progress::More(wanted) => assert!(wanted > bytes.len() && wanted as u64 <= MESSAGE_BYTES_MAX + 15),
        Progress::Head(head) => {
            assert!(head.head_bytes <= bytes.len());
            assert!(head.head_bytes as u64 + head.rest_bytes <= MESSAGE_BYTES_MAX + 15);
        }
        Progress::OutOfSync => {}
    }
    let acquisition = AcquisitionHeader::parse(bytes);
    let _ = (acquisition.frame_count(), acquisition.scan(), acquisition.time_stamp());
    let _ = (utc_ns(bytes), frame_sequence(bytes));
    if let Ok(header) = FrameHeader::parse(bytes) {
        assert!(header.data_offset <= bytes.len() && header.sequence > 0);
        let _ = FrameFormat::of(&header);
    }
    if let Some(signature) = Signature::of(bytes) {
        // The first frame of a series is a frame of that series.
        assert!(signature.check(bytes).is_some());
    }
    if let Ok(file) = MibFile::from_bytes(bytes.to_vec())
        && file.frame_count() > 0
    {
        let pixels = file.decode(file.frame_count() - 1);
        assert_eq!(pixels.len() as u64, file.format().shape.pixel_count());
    }
});
