//! How fast one thread reduces: `cargo run --release -p ronchi-pipeline --example reduce_speed [numpy type]`.
//!
//! Frames of 256 x 256 pixels in blocks of 4 MiB, four rings, centre of mass, total and sum pattern; prints GB/s for
//! blocks that stay in the cache (as when just received) and for blocks that come from memory.

use std::sync::Arc;

use ronchi_pipeline::reduce::{Frames, Patterns, ReducePlan, Reducer, Reduction, VirtualDetector};
use ronchi_pipeline::{PixelType, SigShape};

const DETECTOR: SigShape = SigShape { height: 256, width: 256 };
const BYTES_PER_CASE: usize = 1 << 30;

fn rings(count: u32) -> Vec<Reduction> {
    let ring = |i: u32| VirtualDetector::Ring {
        cy: 127.3,
        cx: 128.9,
        inner: f64::from(i) * 30.0,
        outer: f64::from(i + 1) * 30.0,
    };
    (0..count).map(|i| Reduction::virtual_detector(&format!("ring{i}"), ring(i))).collect()
}

fn weights() -> Reduction {
    let weights = (0..65_536).map(|i| f64::from(i).sqrt() / 3.0).collect();
    let detector = VirtualDetector::Image { height: 256, width: 256, weights };
    Reduction::virtual_detector("weights", detector)
}

/// Time this thread has computed, in s: other processes on the machine do not count.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// GB/s over `BYTES_PER_CASE` of blocks that walk through `data`, per core.
fn measure(reductions: &[Reduction], pixel: PixelType, data: &[u8], block_bytes: usize) -> f64 {
    let plan = ReducePlan::compile(reductions, DETECTOR, DETECTOR.region(), pixel).expect("a valid plan");
    let mut reducer = Reducer::new(Arc::new(plan));
    let mut patterns = Patterns::new(reducer.plan());
    let frames_per_block = (block_bytes / (65_536 * pixel.bytes())) as u64;
    let (mut bytes, mut first) = (0, 0);
    let start = cpu_seconds();
    while bytes < BYTES_PER_CASE {
        for block in data.chunks_exact(block_bytes) {
            reducer.reduce(&Frames::new(first, block, pixel, DETECTOR.region()).expect("whole frames"));
            std::hint::black_box(reducer.take());
            first += frames_per_block;
            bytes += block_bytes;
        }
        reducer.swap_patterns(&mut patterns);
    }
    bytes as f64 / 1e9 / (cpu_seconds() - start)
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_else(|| ">u2".into());
    let pixel = PixelType::from_numpy_name(&name).expect("one of |u1 <u2 >u2 <u4 >u4 <f4 >f4");
    let (four_mib, mut state) = (4 << 20, 1_u32);
    let data: Vec<u8> = (0..64 << 20)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Floating point pixels of moderate size; integers of any.
            if name.ends_with("f4") && i % 4 == (if name.starts_with('>') { 0 } else { 3 }) {
                0x42
            } else {
                (state >> 24) as u8
            }
        })
        .collect();
    let com = [Reduction::centre_of_mass(), Reduction::total()];
    let usual = [rings(4), com.to_vec(), vec![Reduction::sum()]].concat();
    let cases = [
        ("4 rings, com, total, sum", usual.clone()),
        ("the same and max", [usual.clone(), vec![Reduction::max()]].concat()),
        ("4 rings", rings(4)),
        ("com, total", com.to_vec()),
        ("sum", vec![Reduction::sum()]),
        ("one real mask", vec![weights()]),
    ];
    for (what, reductions) in cases {
        let hot = measure(&reductions, pixel, &data[..four_mib], four_mib);
        let cold = measure(&reductions, pixel, &data, four_mib);
        println!("{name} {what:26} {hot:6.2} GB/s in cache {cold:6.2} GB/s from memory");
    }
}
