//! Writes the seeds of the fuzz targets: `cargo test -p ronchi-ingest --test merlin seeds -- --ignored`.

use std::path::Path;

use crate::stream::{Kind, acquisition, message};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    std::fs::create_dir_all(&folder).expect("writable");
    std::fs::write(folder.join(name), bytes).expect("writable");
}

/// Small, valid inputs of every kind, from which a fuzzer finds its way.
#[test]
#[ignore = "writes into fuzz/seeds"]
fn seeds() {
    write("merlin_header", "acquisition", &acquisition(12, "ScanX:\t4\r\nScanY:\t3\r\n")[15..]);
    write("merlin_header", "acquisition_message", &acquisition(12, "Frames per Trigger (Number):\t4\r\n"));
    for (name, kind) in [("u16", Kind::U16), ("raw1", Kind::RAW1), ("raw12", Kind::RAW12)] {
        write("merlin_header", &format!("frame_{name}"), &kind.message(1, 1));
        write("merlin_header", &format!("mib_{name}"), &[kind.header(1), kind.payload(1).0].concat());
        let frames = |sequences: &[u64]| sequences.iter().flat_map(|&n| kind.message(n, n)).collect::<Vec<u8>>();
        let cuts = [7, 80, 0, 3, 200];
        let stream = |count: u64, sequences: &[u64]| [&cuts[..], &acquisition(count, ""), &frames(sequences)].concat();
        let oversized = [&cuts[..], b"MPX,0000999999,HDR,", &acquisition(4, ""), &frames(&[1])].concat();
        write("merlin_stream", &format!("oversized_{name}"), &oversized);
        write("merlin_stream", &format!("whole_{name}"), &stream(4, &[1, 2, 3, 4]));
        write("merlin_stream", &format!("faults_{name}"), &stream(6, &[1, 3, 2, 2, 6]));
        let tail = [message(b"PR1,0001"), acquisition(0, ""), frames(&[1, 2])].concat();
        write("merlin_stream", &format!("rearmed_{name}"), &[stream(9, &[1, 2]), tail].concat());
        let header = &kind.header(2)[..300];
        write("merlin_stream", &format!("short_{name}"), &[stream(9, &[1]), message(header), frames(&[3])].concat());
    }
    write(
        "merlin_control",
        "answers",
        b"MPX,0000000017,GET,IMAGEX,256,0MPX,0000000011,SET,GAIN,0MPX,0000000023,CMD,STARTACQUISITION,0",
    );
    write("merlin_control", "short_lengths", b"MPX,0000000016,GET,IMAGEX,256,0MPX,0000000010,SET,GAIN,3");
    for depth in 0..4_u8 {
        let content: Vec<u8> = (0..128_u32).map(|i| ((i * 37) >> 2) as u8 & 0x0f).collect();
        write("r64", &format!("single_{depth}"), &[&[depth, 3][..], &content].concat());
        // The target takes four chips only when the checksum says so.
        let mut tails = (0..=u16::MAX).map(|tail| [&content[..], &tail.to_le_bytes()].concat());
        let content = tails.find(|content| ronchi_pipeline::crc32c(content).is_multiple_of(1024)).expect("one in 1024");
        write("r64", &format!("quad_{depth}"), &[&[depth, 1][..], &content].concat());
    }
}
