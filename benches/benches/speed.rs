//! `cargo bench -p ronchi-benches`: the reduction kernels over memory, and `ronchi reprocess` over a data set in the page
//! cache, with criterion's statistics. The cases are those of `ronchi-benches reduce`, which also measures the limits.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use criterion::{Criterion, Throughput};
use ronchi_benches::{BLOCK_BYTES, Blocks, Recording, SEGMENT_BYTES, cases, ronchi};
use ronchi_pipeline::{PixelType, SigShape};

const SIDE: u32 = 256;
/// Blocks of frames: 64 MiB, more than most caches hold.
const BLOCKS: usize = 16;
const SEGMENTS: u32 = 2;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for name in ["<u2", "<f4"] {
        let pixel = PixelType::from_numpy_name(name).context("a pixel type")?;
        kernels(&mut criterion, pixel)?;
        reprocess(&mut criterion, pixel)?;
    }
    criterion.final_summary();
    Ok(())
}

fn kernels(criterion: &mut Criterion, pixel: PixelType) -> Result<()> {
    let blocks = Blocks::counts(BLOCKS, pixel)?;
    let mut group = criterion.benchmark_group(format!("reduce {}", pixel.numpy_name()));
    group.throughput(Throughput::Bytes((BLOCKS * BLOCK_BYTES) as u64));
    for case in cases::all(SIDE, pixel)? {
        let mut pass = case.pass();
        group.bench_function(case.name, |bencher| bencher.iter(|| pass.over(blocks.as_slice())));
    }
    group.finish();
    Ok(())
}

/// Whole processes, from their start to their end.
fn reprocess(criterion: &mut Criterion, pixel: PixelType) -> Result<()> {
    let Ok(program) = ronchi() else {
        eprintln!("skipped: ronchi reprocess, because `cargo build --release -p ronchi` has not been run");
        return Ok(());
    };
    let scratch = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).context("a folder for the data set")?;
    let blocks = Blocks::counts(1, pixel)?;
    let detector = SigShape { height: SIDE, width: SIDE };
    let recorded = Recording::of_segments(detector, pixel, SEGMENTS).make(scratch.path(), |_, pixels| {
        pixels.copy_from_slice(&blocks.as_slice()[0].bytes()[..pixels.len()]);
        Ok(())
    })?;
    let mut group = criterion.benchmark_group(format!("ronchi reprocess {}", pixel.numpy_name()));
    group.throughput(Throughput::Bytes(u64::from(SEGMENTS) * SEGMENT_BYTES));
    for case in cases::all(SIDE, pixel)?.into_iter().filter(|case| !case.is_packed) {
        let arguments = case.arguments(scratch.path())?;
        let run = || -> Result<()> {
            let mut command = Command::new(&program);
            let status =
                command.arg("reprocess").arg(&recorded.path).args(&arguments).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "ronchi reprocess ended with {status}");
            Ok(())
        };
        run()?;
        group.bench_function(case.name, |bencher| bencher.iter(|| run().expect("it ran before")));
    }
    group.finish();
    Ok(())
}
