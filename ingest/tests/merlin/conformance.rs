//! All sample files, decoded by `MibFile` and received through a loopback socket, against what other readers found.

use std::path::{Path, PathBuf};

use ronchi_ingest::merlin::{MibFile, mpx_prefix};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::loopback::{listen, receive, serve};
use crate::stream::message;

/// The folder of samples, if this machine has it.
fn samples() -> Option<PathBuf> {
    let shared = std::env::var_os("RONCHI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = shared.join("data/mib");
    if folder.join("expected.json").exists() {
        return Some(folder);
    }
    println!("skipped: no samples in {}; set RONCHI_SHARED", folder.display());
    None
}

fn for_all(mut check: impl FnMut(&Path, &MibFile, &Value)) {
    let Some(folder) = samples() else { return };
    let text = std::fs::read_to_string(folder.join("expected.json")).expect("readable");
    let Value::Object(files) = serde_json::from_str(&text).expect("JSON") else { panic!("not an object") };
    assert!(!files.is_empty());
    for (name, expected) in &files {
        let path = folder.join(name);
        let file = MibFile::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(&path, &file, expected);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Checks one frame, given as numbers.
fn check_frame(pixels: &[u32], expected: &Value, index: usize) {
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
    assert_eq!(sum, number(&expected["frame_sums"][index]), "sum of frame {index}");
    assert_eq!(pixels.iter().max().copied().map(u64::from), expected["frame_max"][index].as_u64());
    if index > 0 {
        return;
    }
    let width = number(&expected["decoded_shape"][1]) as usize;
    for (place, value) in expected["first_frame_pixels"].as_object().expect("pixels") {
        let (y, x) = place.split_once(',').expect("y,x");
        let at = y.parse::<usize>().expect("y") * width + x.parse::<usize>().expect("x");
        assert_eq!(u64::from(pixels[at]), number(value), "pixel {place}");
    }
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Some(digest.as_str()), expected["decoded_sha256_u32le_first"].as_str());
}

/// Every frame of every file decodes to what LiberTEM and others read.
#[test]
fn files_decode() {
    for_all(|path, file, expected| {
        println!("{}", path.display());
        assert_eq!(file.frame_count() as u64, number(&expected["frames"]));
        assert_eq!(file.header(0).len() as u64, number(&expected["header_bytes"]));
        assert_eq!(file.payload(0).len() as u64, number(&expected["payload_bytes"]));
        let prefix = mpx_prefix(file.message(0).len() as u64);
        assert_eq!(prefix[4..14], *format!("{:010}", number(&expected["mpx_length"])).as_bytes());
        let shape = [file.format().shape.height, file.format().shape.width].map(u64::from);
        assert_eq!(shape, [0, 1].map(|axis| number(&expected["decoded_shape"][axis])));
        for index in 0..file.frame_count() {
            check_frame(&file.decode(index), expected, index);
        }
    });
}

/// The same files as live streams: blocks hold the same pixels, in the announced type and shape.
#[test]
fn files_stream() {
    for_all(|path, file, expected| {
        println!("{}", path.display());
        let mut stream = message(&std::fs::read(path.with_extension("hdr")).expect("header file"));
        (0..file.frame_count()).for_each(|index| stream.extend(message(file.message(index))));
        let (listener, port) = listen();
        let detector = serve(listener, stream, 100_003);
        let (runs, _) = receive(port, None, 1, 4 << 20);
        detector.join().expect("detector");
        let run = &runs[0];
        let shape = run.announcement.detector;
        assert_eq!((shape, run.announcement.pixel), (file.format().shape, file.format().pixel));
        assert_eq!(run.announcement.frame_count, expected["frames"].as_u64());
        assert_eq!(run.received_count, number(&expected["frames"]));
        let name = run.announcement.pixel.numpy_name();
        for (frame, (bytes, record)) in &run.frames {
            let pixels: Vec<u32> = bytes
                .chunks_exact(run.announcement.pixel.bytes())
                .map(|pixel| {
                    let shift = |value: u32, &byte: &u8| value << 8 | u32::from(byte);
                    if name.starts_with('>') { pixel.iter().fold(0, shift) } else { pixel.iter().rev().fold(0, shift) }
                })
                .collect();
            check_frame(&pixels, expected, *frame as usize);
            assert!(record.time_ns > 1_500_000_000_000_000_000, "time stamp {}", record.time_ns);
        }
    });
}
