//! Any text as the JSON documents of a data set; what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_pipeline::format::{FramesArray, Manifest, Progress};

fuzz_target!(|text: &str| {
    if let Ok(array) = FramesArray::from_json(text) {
        assert_eq!(array.layout.frame_bytes, array.tile.pixel_count() * array.pixel.bytes() as u64);
        // What a reader computes from it: no number may overflow.
        let _ = (array.layout.segment_bytes(), array.layout.segment_of(array.frame_count));
        let _ = array.layout.offset_of(array.frame_count);
        assert_eq!(FramesArray::from_json(&array.to_json().to_string()).as_ref(), Ok(&array));
    }
    if let Ok(manifest) = Manifest::from_json(text) {
        assert_eq!(Manifest::from_json(&manifest.to_json().to_string()).as_ref(), Ok(&manifest));
    }
    if let Ok(progress) = Progress::from_json(text) {
        let again = serde_json::to_string(&progress).expect("numbers and text");
        assert_eq!(Progress::from_json(&again), Ok(progress));
    }
});
