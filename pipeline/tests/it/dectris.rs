//! Compressed frames of real detectors and of reference encoders: decoded, and framed anew as chunks.

use std::fs;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::blosc;
use ronchi_pipeline::format::bslz4::Bslz4;
use serde_json::Value;

/// The reference folder, if this machine has it: `RONCHI_SHARED`, or `shared` beside the project.
fn folder() -> Option<PathBuf> {
    let shared = std::env::var_os("RONCHI_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let folder = shared.join("data/dectris");
    if folder.join("index.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: no reference frames at {}", folder.display());
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("JSON")
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// The frame's pixels, decoded; and again by way of a chunk.
fn decoded(bytes: &[u8], frame_bytes: usize, item_bytes: usize) -> Vec<u8> {
    let frame = Bslz4::parse(bytes, frame_bytes, item_bytes).expect("a sound frame");
    let (mut pixels, mut again) = (vec![0; frame_bytes], vec![0; frame_bytes]);
    let mut scratch = Vec::new();
    frame.decode(&mut scratch, &mut pixels).expect("sound blocks");
    let mut chunk = vec![0; blosc::bytes_max(frame_bytes, frame.block_bytes())];
    let made = blosc::reframe(&[Some(frame)], &mut chunk).expect("one frame is a chunk");
    blosc::decode(&chunk[..made.stored_bytes], &mut scratch, &mut again).expect("a chunk of ours");
    assert!(pixels == again, "decoded otherwise by way of a chunk");
    pixels
}

fn values(pixels: &[u8], item_bytes: usize) -> impl Iterator<Item = u64> + '_ {
    pixels.chunks_exact(item_bytes).map(|item| item.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Vectors of the reference encoder: their content follows from a formula.
#[test]
fn vectors() {
    let Some(folder) = folder() else { return };
    let mut count = 0;
    for vector in json(&folder.join("codec_vectors.json")).as_array().expect("a list") {
        let factor = match vector["formula"].as_str() {
            Some("7*i") => (7, 0),
            Some(text) if text.starts_with("(3*i+1)") => (3, 1),
            _ => continue,
        };
        if vector["codec"] != "bslz4" {
            continue;
        }
        let (items, item_bytes) = (number(vector, "n"), number(vector, "elem_size") as usize);
        let hex = vector["encoded_hex"].as_str().expect("hex");
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
        let want: Vec<u8> =
            (0..items).flat_map(|i| (factor.0 * i + factor.1).to_le_bytes().into_iter().take(item_bytes)).collect();
        assert_eq!(decoded(&bytes, want.len(), item_bytes), want, "{vector}");
        count += 1;
    }
    assert!(count >= 13, "{count} vectors");
}

/// Frames of whole series, one of them recorded from a detector of 4 million pixels: sum, smallest and largest value.
#[test]
fn series() {
    let Some(folder) = folder() else { return };
    let index = json(&folder.join("index.json"));
    let mut count = 0;
    for series in index["series"].as_array().expect("series").iter().filter(|series| series["stream"] == 1) {
        for frame in series["expected_frames"].as_array().expect("frames") {
            let encoding = frame["encoding"].as_str().expect("encoding");
            let Some(bits) = encoding.strip_prefix("bs").and_then(|rest| rest.strip_suffix("-lz4<")) else { continue };
            let item_bytes = bits.parse::<usize>().expect("bits of an item") / 8;
            let message = &series["messages"][number(frame, "message_index") as usize];
            let part = message
                .as_array()
                .expect("parts")
                .iter()
                .find_map(|part| part["file"].as_str().filter(|file| file.ends_with(".bin")));
            let bytes = fs::read(folder.join(part.expect("a data part"))).expect("readable");
            let pixel_count =
                frame["shape"].as_array().expect("shape").iter().filter_map(Value::as_u64).product::<u64>();
            let pixels = decoded(&bytes, pixel_count as usize * item_bytes, item_bytes);
            assert_eq!(values(&pixels, item_bytes).sum::<u64>(), number(frame, "sum"), "{series}");
            assert_eq!(values(&pixels, item_bytes).min(), Some(number(frame, "min")));
            assert_eq!(values(&pixels, item_bytes).max(), Some(number(frame, "max")));
            count += 1;
        }
    }
    assert!(count >= 10, "{count} frames");
}
