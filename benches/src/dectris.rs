//! DECTRIS STREAM2: sparse images compressed by the detector, through the socket, the receiver, the reducers and onto the
//! disk, beside a socket that discards them and beside decoding them from memory.
//!
//! The sender is the simulator of `ronchi simulate dectris`, within this process; its images were compressed before, 16 MiB
//! of different ones in turn. The discarding reader uses the same library as the receiver.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ronchi::simulate::dectris::{Compression, DectrisSimulation, DectrisSimulator, Dtype, ImageForm, Running};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi_config::parse_virtual;
use ronchi_pipeline::format::bslz4::{Bslz4, Compressor};
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer};
use ronchi_pipeline::{ByteOrder, NavShape, PixelKind, PixelType, SigShape};
use serde_json::{Value, json};

use crate::children::record;
use crate::e2e::median;

/// Memory for different images.
const IMAGES_BYTES: usize = 16 << 20;
/// Frames that are decoded from memory in turn, and that make a block of the reducer.
const DECODED_FRAMES: u64 = 64;

/// Throughput of a DECTRIS stream.
#[derive(Debug, clap::Args)]
pub(crate) struct Dectris {
    /// Directory for the recordings, on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs per case; figures are medians.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Frames per run, in thousands.
    #[arg(long, default_value_t = 512)]
    kiloframes: u32,
    /// Square detectors, px.
    #[arg(long, value_delimiter = ',', default_values_t = [192, 96])]
    detectors: Vec<u32>,
    /// Mean electrons per pixel.
    #[arg(long, default_value_t = 0.5)]
    counts: f64,
    /// One short run of everything, to see that it works.
    #[arg(long)]
    quick: bool,
}

/// What becomes of the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    Record,
    Reduce,
}

impl Case {
    const ALL: [Self; 2] = [Self::Record, Self::Reduce];

    fn name(self) -> &'static str {
        match self {
            Self::Record => "receive+record",
            Self::Reduce => "receive+record+4 virtual+com",
        }
    }
}

/// Rates of one detector, frames/s, one number per run.
#[derive(Default)]
struct Rates {
    discarded: Vec<f64>,
    decoded: Vec<f64>,
    masked: Vec<f64>,
    cases: [Vec<Value>; 2],
}

impl Dectris {
    pub(crate) fn run(mut self) -> Result<()> {
        if self.quick {
            (self.runs, self.kiloframes) = (1, 8);
        }
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the recordings")?;
        for &side in &self.detectors {
            let plan = self.plan(side);
            let mut rates = Rates::default();
            for _ in 0..self.runs {
                rates.discarded.push(discard(&plan)?);
                rates.decoded.push(decode(&plan, false)?);
                rates.masked.push(decode(&plan, true)?);
                for (case, values) in Case::ALL.into_iter().zip(&mut rates.cases) {
                    values.push(run_case(case, &plan, scratch.path())?);
                }
            }
            print(&plan, &rates);
        }
        Ok(())
    }

    fn plan(&self, side: u32) -> SynthPlan {
        let scan = NavShape { height: (self.kiloframes * 1024 / 256).max(1), width: 256 };
        let detector = SigShape { height: side, width: side };
        let dose = self.counts * detector.pixel_count() as f64;
        SynthPlan { scan, detector, dose, specimen: Specimen::Crystal, seed: 7 }
    }
}

/// A detector that sends one series as soon as somebody connects, as fast as it is taken.
fn detector(plan: &SynthPlan) -> Result<(Running, String)> {
    let form =
        ImageForm { dtype: Dtype::U16, compression: Compression::Bslz4, channels: vec!["threshold_1".to_owned()] };
    let simulation = DectrisSimulation { memory_max_bytes: IMAGES_BYTES, ..DectrisSimulation::new(*plan, form) };
    let running = DectrisSimulator::start(simulation)?;
    let endpoint = running.stream2.clone().context("STREAM2 is used")?;
    Ok((running, endpoint))
}

/// Frames per second of a socket that reads and forgets.
fn discard(plan: &SynthPlan) -> Result<f64> {
    let (running, endpoint) = detector(plan)?;
    let pull = zmq::Context::new().socket(zmq::PULL)?;
    pull.set_rcvhwm(1000)?;
    pull.set_rcvtimeo(30_000)?;
    pull.connect(&endpoint)?;
    let mut message = zmq::Message::new();
    pull.recv(&mut message, 0)?; // The start.
    let started = Instant::now();
    let frames = plan.scan.position_count();
    for _ in 0..frames {
        pull.recv(&mut message, 0)?;
    }
    let rate = frames as f64 / started.elapsed().as_secs_f64();
    pull.recv(&mut message, 0)?; // The end.
    running.wait();
    Ok(rate)
}

/// Frames per second that one core decodes from memory, and reduces by one mask.
fn decode(plan: &SynthPlan, is_masked: bool) -> Result<f64> {
    let (synthesis, side) = (Synthesis::new(*plan)?, plan.detector.width);
    let frame_bytes = 2 * plan.detector.pixel_count() as usize;
    let (mut counts, mut compressor) = (vec![0; frame_bytes / 2], Compressor::default());
    let compressed: Vec<Vec<u8>> = (0..DECODED_FRAMES)
        .map(|frame| {
            synthesis.draw(frame, &mut counts);
            let pixels: Vec<u8> = counts.iter().flat_map(|&n| (n.min(65_535) as u16).to_le_bytes()).collect();
            let mut payload = Vec::new();
            compressor.compress(&pixels, 2, &mut payload);
            payload
        })
        .collect();
    let (centre, pixel) = (side / 2, PixelType::new(PixelKind::U16, ByteOrder::Little));
    let ring = parse_virtual(&format!("adf=ring:{centre},{centre},{},{}", side / 8, side / 3))?;
    let reduce = Arc::new(ReducePlan::compile(&[ring], plan.detector, plan.detector.region(), pixel)?);
    let mut reducer = Reducer::new(Arc::clone(&reduce));
    let (mut scratch, mut block) = (Vec::new(), vec![0; frame_bytes * compressed.len()]);
    let rounds = (plan.scan.position_count() / DECODED_FRAMES).max(1);
    let started = Instant::now();
    for round in 0..rounds {
        for (payload, frame) in compressed.iter().zip(block.chunks_mut(frame_bytes)) {
            Bslz4::parse(payload, frame_bytes, 2)?.decode(&mut scratch, frame)?;
        }
        if is_masked {
            reducer.reduce(&Frames::new(round * DECODED_FRAMES, &block, pixel, plan.detector.region())?);
            std::hint::black_box(reducer.take());
        }
        std::hint::black_box(&block);
    }
    Ok((rounds * DECODED_FRAMES) as f64 / started.elapsed().as_secs_f64())
}

fn run_case(case: Case, plan: &SynthPlan, scratch: &Path) -> Result<Value> {
    let (running, endpoint) = detector(plan)?;
    let (out, frames) = (scratch.join("bench.ronchi"), plan.scan.position_count());
    let mut arguments: Vec<String> =
        vec![endpoint.replace("tcp", "dectris2"), "--out".into(), out.display().to_string()];
    let scan = format!("{}x{}", plan.scan.height, plan.scan.width);
    let options = ["--scan", &scan, "--http", "off", "--live-zmq", "off", "--reserve-gib", "0"];
    arguments.extend(options.map(str::to_owned));
    if case == Case::Reduce {
        let (centre, radius) = (plan.detector.width / 2, f64::from(plan.detector.width / 2));
        for ring in 0..4 {
            let edge = |ring: u32| radius * f64::from(ring) / 4.0;
            let text = format!("v{ring}=ring:{centre},{centre},{},{}", edge(ring), edge(ring + 1));
            arguments.extend(["--virtual".into(), text]);
        }
        arguments.push("--com".into());
    }
    let summary = record(&arguments)?;
    running.wait();
    std::fs::remove_dir_all(&out)?;
    let number =
        |pointer: &str| summary.pointer(pointer).and_then(Value::as_f64).context(format!("{pointer} in {summary}"));
    ensure!(number("/frames/received")? as u64 == frames, "frames are missing: {summary}");
    Ok(json!({
        "frames_per_s": frames as f64 / number("/seconds")?,
        "cpu_us_per_frame": number("/cpu_s")? * 1e6 / frames as f64,
        "live_skipped_share": number("/frames/live_skipped")? / frames as f64,
        "finish_s": number("/finish_s")?,
        "missing": number("/frames/missing")?,
    }))
}

/// One line for the limits, and one per case with its share of them.
fn print(plan: &SynthPlan, rates: &Rates) {
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let detector = [plan.detector.height, plan.detector.width];
    let [discarded, decoded, masked] = [&rates.discarded, &rates.decoded, &rates.masked].map(|rates| median(rates));
    println!(
        "{}",
        json!({
            "limits": "frames_per_s",
            "detector": detector,
            "discarded": discarded.round(),
            "decoded_on_one_core": decoded.round(),
            "decoded_and_masked_on_one_core": masked.round(),
        })
    );
    for (case, values) in Case::ALL.into_iter().zip(&rates.cases) {
        let all = |key: &str| values.iter().filter_map(|value| value[key].as_f64()).collect::<Vec<f64>>();
        let frames_per_s = median(&all("frames_per_s"));
        println!(
            "{}",
            json!({
                "case": case.name(),
                "detector": detector,
                "frames": plan.scan.position_count(),
                "frames_per_s": frames_per_s.round(),
                "frames_per_s_all": all("frames_per_s").iter().map(|rate| rate.round()).collect::<Vec<f64>>(),
                "of_discarded": rounded(frames_per_s / discarded),
                "of_decoded_and_masked_on_one_core": rounded(frames_per_s / masked),
                "cpu_us_per_frame": rounded(median(&all("cpu_us_per_frame"))),
                "live_skipped_share": rounded(median(&all("live_skipped_share"))),
                "finish_s": rounded(median(&all("finish_s"))),
                "missing": all("missing").iter().sum::<f64>(),
            })
        );
    }
}
