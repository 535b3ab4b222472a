//! Recordings come out of the socket as they went into the file.

use std::path::{Path, PathBuf};

use ronchi::simulate::merlin::{
    ChipLayout, FrameFormat, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, TriggerMode, encode,
    frame_header,
};
use ronchi_pipeline::SigShape;

use super::client::{Control, Frame, connect, message};

fn replay(paths: Vec<PathBuf>) -> MerlinSimulation {
    let simulation = MerlinSimulation::new(FrameSource::Files(paths));
    MerlinSimulation { trigger: TriggerMode::Now, runs: 1, ..simulation }
}

/// Acquisition header and concatenated frames as received.
fn receive(plan: MerlinSimulation) -> (Vec<u8>, Vec<u8>) {
    let running = MerlinSimulator::start(plan).expect("start");
    let mut data = connect(running.data_address);
    let header = message(&mut data).expect("header");
    let frames = std::iter::from_fn(|| message(&mut data)).collect::<Vec<_>>().concat();
    (header, frames)
}

/// Frames `from..to` of a recording of 8x8 pixels.
fn recording(from: u64, to: u64) -> Vec<u8> {
    let shape = SigShape { height: 8, width: 8 };
    let format = FrameFormat::new(MerlinPixels::U8, ChipLayout::Single, shape).expect("format");
    let mut bytes = Vec::new();
    for frame in from..to {
        let mut payload = vec![0; format.payload_bytes()];
        encode(&format, &[frame as u32 % 60; 64], &mut payload);
        bytes.extend(frame_header(&format, frame + 1, 1_000_000, 1_700_000_000_000_000_000 + frame * 1000));
        bytes.extend(payload);
    }
    bytes
}

/// A set of two files, given in the wrong order, with a header beside them and a torn last frame; held and unheld.
#[test]
fn file_sets_in_order() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    let (first, second) = (recording(0, 5), recording(5, 9));
    std::fs::write(path("scan1.mib"), [&second[..], b"MQ1,000010"].concat()).expect("write");
    std::fs::write(path("scan2.mib"), &first).expect("write");
    std::fs::write(path("scan.hdr"), b"HDR,\t\r\nFrames in Acquisition (Number):\t9\r\nEnd\t   ").expect("write");
    let whole = [first, second].concat();
    for memory_max_bytes in [0, 1 << 20] {
        let plan = MerlinSimulation { memory_max_bytes, ..replay(vec![path("scan1.mib"), path("scan2.mib")]) };
        let (header, frames) = receive(plan);
        assert_eq!(header, std::fs::read(path("scan.hdr")).expect("header"));
        assert!(frames == whole, "memory {memory_max_bytes}");
    }
}

/// More frames than recorded: the sequence goes on, the announcement says so; stamps are renewed on request only.
#[test]
fn longer_than_the_recording() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("scan.mib");
    std::fs::write(&path, recording(0, 3)).expect("write");
    for (restamp, memory_max_bytes) in [(false, 0), (true, 0), (false, 1 << 20), (true, 1 << 20)] {
        let plan =
            MerlinSimulation { restamp, memory_max_bytes, trigger: TriggerMode::Wait, ..replay(vec![path.clone()]) };
        let running = MerlinSimulator::start(plan).expect("start");
        let mut control = Control::connect(running.control_address);
        control.ask("SET,NUMFRAMESTOACQUIRE,7");
        control.ask("CMD,STARTACQUISITION");
        let mut data = connect(running.data_address);
        let header = String::from_utf8(message(&mut data).expect("header")).expect("text");
        assert!(header.contains("Frames in Acquisition (Number):\t7\r\n") && header.len() == 2048);
        assert!(header.contains("Counter Depth (number):\t6\r\n"), "a header is made where none is recorded");
        for frame in 0..7 {
            let parsed = Frame::parse(&message(&mut data).expect("frame"));
            assert_eq!((parsed.sequence(), parsed.pixels[0]), (frame + 1, frame as u8 % 3));
            assert_eq!(parsed.fields[9].starts_with("2023-11-14 22:13:20.0000"), !restamp);
        }
    }
}

/// Files that are no recording, empty ones and mixed sizes are refused with their name.
#[test]
fn wrong_files() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("good.mib"), recording(0, 1)).expect("write");
    std::fs::write(path("text.mib"), b"hello, this is not a recording at all").expect("write");
    std::fs::write(path("cut.mib"), &recording(0, 1)[..200]).expect("write");
    std::fs::write(path("empty.mib"), b"").expect("write");
    for name in ["text.mib", "cut.mib", "empty.mib", "absent.mib"] {
        let error = MerlinSimulator::start(replay(vec![path(name)])).err().expect("refused");
        assert!(format!("{error:#}").contains(name), "{error:#}");
    }
    assert!(MerlinSimulator::start(replay(vec![])).is_err());
}

/// Every shared sample is replayed byte for byte, its header included.
#[test]
fn shared_samples() {
    let shared = std::env::var_os("RONCHI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let samples = shared.join("data/mib");
    let Ok(folders) = std::fs::read_dir(&samples) else {
        println!("skipped: {} is absent", samples.display());
        return;
    };
    let mut count = 0;
    for folder in folders.filter_map(|entry| entry.ok()).filter(|entry| entry.path().is_dir()) {
        for path in std::fs::read_dir(folder.path()).expect("folder").filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_none_or(|extension| extension != "mib") {
                continue;
            }
            let recorded = std::fs::read(&path).expect("sample");
            let (header, frames) = receive(replay(vec![path.clone()]));
            assert!(frames == recorded, "{}", path.display());
            assert!(header == std::fs::read(path.with_extension("hdr")).expect("header"), "{}", path.display());
            count += 1;
        }
    }
    println!("{count} samples replayed");
}
