//! Any bytes as an `.npy` file; the weights read can be written and read again, to the bit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_pipeline::format::npy;
use ronchi_pipeline::reduce::VirtualDetector;

fuzz_target!(|bytes: &[u8]| {
    let Ok(detector) = npy::read_mask(bytes) else { return };
    let (shape, weights) = image(detector);
    assert_eq!(weights.len(), shape[0] * shape[1]);
    assert!(weights.len() <= bytes.len(), "every weight takes at least one byte of the file");
    let data: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let (shape_again, again) = image(npy::read_mask(&npy::write("<f8", &shape, &data)).expect("a file of ours"));
    assert_eq!(shape_again, shape);
    assert!(again.iter().zip(&weights).all(|(a, b)| a.to_bits() == b.to_bits()));
});

fn image(detector: VirtualDetector) -> ([usize; 2], Vec<f64>) {
    match detector {
        VirtualDetector::Image { height, width, weights } => ([height as usize, width as usize], weights),
        other => panic!("not an image: {other:?}"),
    }
}
