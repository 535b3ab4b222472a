//! DECTRIS STREAM2: sparse images compressed by the detector, through the socket, the receiver, the reducers and onto the
//! disk, beside what the same machine could do at best.
//!
//! The sender is the simulator of `ronchi simulate dectris`, within this process; its images were compressed before, 16 MiB
//! of different ones in turn. The discarding reader uses the same library as the receiver.
//!
//! # The bound
//! Every stage that a case needs is measured alone in the same run, by the processor time it takes per frame: sending and
//! discarding through the socket, checking and joining frames into chunks, decoding and reducing them. All cores together cannot
//! do more frames per second than cores / (sum of these times), the socket not more than it discards, the disk not more than
//! direct writes of the same bytes. The least of the three is the bound. What is not in it (headers, accounts, the index, the
//! kernel's work for the disk, and that the work does not divide evenly among cores) is what a ratio below 1 pays for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ronchi::simulate::dectris::{Compression, DectrisSimulation, DectrisSimulator, Dtype, ImageForm, Running};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi_config::{parse_reduction, parse_virtual};
use ronchi_pipeline::format::blosc;
use ronchi_pipeline::format::bslz4::{self, Bslz4, Compressor};
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer, Reduction};
use ronchi_pipeline::{ByteOrder, NavShape, PixelKind, PixelType, SECTOR_BYTES, SigShape, crc32c};
use serde_json::{Map, Value, json};

use crate::children::record;
use crate::e2e::median;
use crate::{limits, processor};

/// Memory for different images.
const IMAGES_BYTES: usize = 16 << 20;
/// Frames that are decoded from memory in turn, and that make a block of the reducer.
const FRAMES_IN_MEMORY: usize = 64;
/// Times they are gone through.
const ROUNDS: u64 = 256;
/// How `ronchi record` writes, unless told otherwise.
const BLOCK_BYTES: usize = 4 << 20;
const WRITE_DEPTH: u32 = 16;

/// Throughput of a DECTRIS stream.
#[derive(Debug, clap::Args)]
pub(crate) struct Dectris {
    /// Directory for the recordings, on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs per case; figures of the last lines are medians.
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

/// What the machine allows, measured in one run: rates in frames per second, times in us of processor time per frame.
struct Limits {
    discarded: f64,
    sent_us: f64,
    disk: f64,
    joined_us: f64,
    decoded_us: f64,
    masked_us: f64,
    reduced_us: f64,
}

impl Limits {
    fn measure(plan: &SynthPlan, frames: &InMemory, dir: &Path) -> Result<Self> {
        let side = plan.detector.width;
        let (discarded, sent_us) = discard(plan)?;
        let ring = ring(side, "adf", 0.25, 0.7)?;
        Ok(Self {
            discarded,
            sent_us,
            disk: frames.disk_frames_per_s(plan.scan.position_count(), dir)?,
            joined_us: frames.joined_us()?,
            decoded_us: frames.decoded_us(None)?,
            masked_us: frames.decoded_us(Some(&[ring]))?,
            reduced_us: frames.decoded_us(Some(&reductions(side)?))?,
        })
    }

    /// Frames per second that the case can reach at most.
    fn bound(&self, case: Case) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let reduced_us = if case == Case::Reduce { self.reduced_us } else { 0.0 };
        let computed = cores * 1e6 / (self.sent_us + self.joined_us + reduced_us);
        computed.min(self.discarded).min(self.disk)
    }

    fn to_json(&self) -> Value {
        json!({
            "case": "limits",
            "discarded_frames_per_s": self.discarded,
            "disk_frames_per_s": self.disk,
            "sent_and_discarded_cpu_us": self.sent_us,
            "checked_and_joined_cpu_us": self.joined_us,
            "decoded_cpu_us": self.decoded_us,
            "decoded_and_one_mask_cpu_us": self.masked_us,
            "decoded_and_4_virtual_com_cpu_us": self.reduced_us,
            "one_mask_of_decoded": self.decoded_us / self.masked_us,
            "bound_record_frames_per_s": self.bound(Case::Record),
            "bound_reduce_frames_per_s": self.bound(Case::Reduce),
        })
    }
}

impl Dectris {
    pub(crate) fn run(mut self) -> Result<()> {
        if self.quick {
            (self.runs, self.kiloframes) = (1, 8);
        }
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the recordings")?;
        for &side in &self.detectors {
            let plan = self.plan(side);
            let frames = InMemory::draw(&plan)?;
            let runs: Vec<Vec<Value>> =
                (0..self.runs).map(|run| measure(&plan, &frames, scratch.path(), run)).collect::<Result<_>>()?;
            for row in 0..runs.first().map_or(0, Vec::len) {
                let row: Vec<&Value> = runs.iter().map(|rows| &rows[row]).collect();
                println!("{}", medians(&row));
            }
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

/// The limits and every case once; each is printed as it ends.
fn measure(plan: &SynthPlan, frames: &InMemory, scratch: &Path, run: usize) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut show = |mut row: Value| {
        row["detector"] = json!([plan.detector.height, plan.detector.width]);
        row["frames"] = json!(plan.scan.position_count());
        row["run"] = json!(run);
        println!("{}", rounded(&row));
        rows.push(row);
    };
    let limits = Limits::measure(plan, frames, scratch)?;
    show(limits.to_json());
    for case in Case::ALL {
        show(run_case(case, plan, &limits, scratch)?);
    }
    Ok(rows)
}

/// The same row of all runs: medians of its numbers, and all rates.
fn medians(rows: &[&Value]) -> Value {
    let mut out = Map::new();
    for (key, first) in rows[0].as_object().into_iter().flatten().filter(|(key, _)| *key != "run") {
        let numbers: Vec<f64> = rows.iter().filter_map(|row| row[key].as_f64()).collect();
        let value = if numbers.is_empty() { first.clone() } else { json!(median(&numbers)) };
        out.insert(key.clone(), value);
        if key.ends_with("frames_per_s") {
            out.insert(format!("{key}_all"), json!(numbers.iter().map(|rate| rate.round()).collect::<Vec<f64>>()));
        }
    }
    out.insert("median_of_runs".to_owned(), json!(rows.len()));
    rounded(&Value::Object(out))
}

/// Numbers with as many digits as they are worth.
fn rounded(row: &Value) -> Value {
    let round = |value: &Value| match value.as_f64() {
        Some(number) if number.abs() < 100.0 => json!((number * 1000.0).round() / 1000.0),
        Some(number) => json!(number.round()),
        None => value.clone(),
    };
    row.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), round(value))).collect()
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

/// Frames per second of a socket that reads and forgets, and the processor time that both ends take per frame, us.
fn discard(plan: &SynthPlan) -> Result<(f64, f64)> {
    let (running, endpoint) = detector(plan)?;
    let pull = zmq::Context::new().socket(zmq::PULL)?;
    pull.set_rcvhwm(1000)?;
    pull.set_rcvtimeo(30_000)?;
    pull.connect(&endpoint)?;
    let mut message = zmq::Message::new();
    pull.recv(&mut message, 0)?; // The start.
    let (started, before_s) = (Instant::now(), processor::process_seconds());
    let frames = plan.scan.position_count();
    for _ in 0..frames {
        pull.recv(&mut message, 0)?;
    }
    let cpu_us = (processor::process_seconds() - before_s) * 1e6 / frames as f64;
    let rate = frames as f64 / started.elapsed().as_secs_f64();
    pull.recv(&mut message, 0)?; // The end.
    running.wait();
    Ok((rate, cpu_us))
}

/// Compressed frames in memory, for what is measured of one core without a socket.
struct InMemory {
    detector: SigShape,
    pixel: PixelType,
    frame_bytes: usize,
    payloads: Vec<Vec<u8>>,
}

impl InMemory {
    fn draw(plan: &SynthPlan) -> Result<Self> {
        let (synthesis, detector) = (Synthesis::new(*plan)?, plan.detector);
        let frame_bytes = 2 * detector.pixel_count() as usize;
        let (mut counts, mut compressor) = (vec![0; frame_bytes / 2], Compressor::default());
        let payloads = (0..FRAMES_IN_MEMORY as u64).map(|frame| {
            synthesis.draw(frame, &mut counts);
            let pixels: Vec<u8> = counts.iter().flat_map(|&n| (n.min(65_535) as u16).to_le_bytes()).collect();
            let mut payload = Vec::new();
            compressor.compress(&pixels, 2, &mut payload);
            payload
        });
        let pixel = PixelType::new(PixelKind::U16, ByteOrder::Little);
        Ok(Self { detector, pixel, frame_bytes, payloads: payloads.collect() })
    }

    /// Frames that share a chunk.
    fn frames_per_chunk(&self) -> usize {
        if bslz4::is_usually_joint(self.frame_bytes as u64, 2) { FRAMES_IN_MEMORY } else { 1 }
    }

    /// Frames per second that direct writes of as many bytes reach.
    fn disk_frames_per_s(&self, frames: u64, dir: &Path) -> Result<f64> {
        let mean = self.payloads.iter().map(Vec::len).sum::<usize>() as f64 / FRAMES_IN_MEMORY as f64;
        let chunk_bytes = (mean * self.frames_per_chunk() as f64) as usize;
        let frame_bytes = chunk_bytes.next_multiple_of(SECTOR_BYTES) as f64 / self.frames_per_chunk() as f64;
        let total_bytes = ((frames as f64 * frame_bytes) as u64).max(32 * BLOCK_BYTES as u64);
        Ok(limits::disk(dir, total_bytes, BLOCK_BYTES, WRITE_DEPTH)? / frame_bytes)
    }

    /// Processor time per frame of something done to all of them several times, us.
    fn us_per_frame(&self, mut work: impl FnMut(u64) -> Result<()>) -> Result<f64> {
        let started_s = processor::seconds();
        (0..ROUNDS).try_for_each(&mut work)?;
        Ok((processor::seconds() - started_s) * 1e6 / (ROUNDS * FRAMES_IN_MEMORY as u64) as f64)
    }

    /// What recording costs: every block expanded once, to see that it does, blocks copied into chunks, and their checksums.
    fn joined_us(&self) -> Result<f64> {
        let count = self.frames_per_chunk();
        let mut out = vec![0; blosc::bytes_max(count * self.frame_bytes, blosc::BLOCK_BYTES)];
        let mut scratch = Vec::new();
        self.us_per_frame(|_| {
            for payloads in self.payloads.chunks(count) {
                let mut frames = Vec::with_capacity(count);
                for payload in payloads {
                    let frame = Bslz4::parse(payload, self.frame_bytes, 2)?;
                    frame.check(&mut scratch)?;
                    frames.push(Some(frame));
                }
                let chunk = blosc::reframe(&frames, &mut out)?;
                std::hint::black_box(crc32c(&out[..chunk.stored_bytes]));
            }
            Ok(())
        })
    }

    /// What decoding costs, and reducing if something is asked for.
    fn decoded_us(&self, reductions: Option<&[Reduction]>) -> Result<f64> {
        let (region, mut scratch) = (self.detector.region(), Vec::new());
        let plan = reductions.map(|asked| ReducePlan::compile(asked, self.detector, region, self.pixel)).transpose()?;
        let mut reducer = plan.map(|plan| Reducer::new(Arc::new(plan)));
        let mut block = vec![0; self.frame_bytes * FRAMES_IN_MEMORY];
        self.us_per_frame(|round| {
            for (payload, frame) in self.payloads.iter().zip(block.chunks_mut(self.frame_bytes)) {
                Bslz4::parse(payload, self.frame_bytes, 2)?.decode(&mut scratch, frame)?;
            }
            if let Some(reducer) = &mut reducer {
                reducer.reduce(&Frames::new(round * FRAMES_IN_MEMORY as u64, &block, self.pixel, region)?);
                std::hint::black_box(reducer.take());
            }
            std::hint::black_box(&block);
            Ok(())
        })
    }
}

/// A ring around the middle, by shares of half the detector.
fn ring_text(side: u32, name: &str, inner: f64, outer: f64) -> String {
    let (centre, radius) = (side / 2, f64::from(side / 2));
    format!("{name}=ring:{centre},{centre},{},{}", inner * radius, outer * radius)
}

fn ring(side: u32, name: &str, inner: f64, outer: f64) -> Result<Reduction> {
    Ok(parse_virtual(&ring_text(side, name, inner, outer))?)
}

/// The four rings that the case asks for.
fn ring_texts(side: u32) -> impl Iterator<Item = String> {
    (0..4).map(move |at| ring_text(side, &format!("v{at}"), f64::from(at) / 4.0, f64::from(at + 1) / 4.0))
}

/// Everything that the case asks for.
fn reductions(side: u32) -> Result<Vec<Reduction>> {
    let rings = ring_texts(side).map(|text| Ok(parse_virtual(&text)?));
    rings.chain([Ok(parse_reduction("com")?)]).collect()
}

fn run_case(case: Case, plan: &SynthPlan, limits: &Limits, scratch: &Path) -> Result<Value> {
    let (running, endpoint) = detector(plan)?;
    let (out, frames) = (scratch.join("bench.ronchi"), plan.scan.position_count());
    let mut arguments: Vec<String> =
        vec![endpoint.replace("tcp", "dectris2"), "--out".into(), out.display().to_string()];
    let scan = format!("{}x{}", plan.scan.height, plan.scan.width);
    let options = ["--scan", &scan, "--http", "off", "--live-zmq", "off", "--reserve-gib", "0"];
    arguments.extend(options.map(str::to_owned));
    if case == Case::Reduce {
        arguments.extend(ring_texts(plan.detector.width).flat_map(|text| ["--virtual".into(), text]));
        arguments.push("--com".into());
    }
    let summary = record(&arguments)?;
    running.wait();
    std::fs::remove_dir_all(&out)?;
    let number =
        |pointer: &str| summary.pointer(pointer).and_then(Value::as_f64).context(format!("{pointer} in {summary}"));
    ensure!(number("/frames/received")? as u64 == frames, "frames are missing: {summary}");
    let (seconds, finish_s) = (number("/seconds")?, number("/finish_s")?);
    // Frames that were not reduced live are reduced behind the end: only then is everything done that the bound counts.
    let done_s = if case == Case::Reduce { seconds + finish_s } else { seconds };
    let (durable, done) = (frames as f64 / seconds, frames as f64 / done_s);
    Ok(json!({
        "case": case.name(),
        "frames_per_s": durable,
        "done_frames_per_s": done,
        "bound_frames_per_s": limits.bound(case),
        "done_of_bound": done / limits.bound(case),
        "recorded_of_bound": durable / limits.bound(Case::Record),
        "of_discarded": durable / limits.discarded,
        "cpu_us_per_frame": number("/cpu_s")? * 1e6 / frames as f64,
        "live_skipped_share": number("/frames/live_skipped")? / frames as f64,
        "finish_s": finish_s,
        "missing": number("/frames/missing")?,
    }))
}
