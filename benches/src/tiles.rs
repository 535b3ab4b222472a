//! Tile streams: frames as pixels and compressed, through the socket, the receiver and onto the disk, by turns.
//!
//! The sender has its frames ready, 256 different ones in turn, so that compressing them is no part of any figure. Of
//! compressed frames it sends four times as many, because they are through sooner.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi::simulate::tiles::{TileSender, TileStream};
use ronchi_pipeline::format::bslz4;
use ronchi_pipeline::{Encoding, NavShape, SigShape};
use serde_json::{Value, json};

use crate::children::{free_port, record};
use crate::e2e::median;

/// Throughput of tile streams, raw and compressed.
#[derive(Debug, clap::Args)]
pub(crate) struct Tiles {
    /// Directory for the recordings, on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs per case; figures are medians.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Pixels per run, GiB; four times as many where they are sent compressed.
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// Square detectors, px.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 512])]
    detectors: Vec<u32>,
    /// Mean electrons per frame.
    #[arg(long, default_value_t = 20_000.0)]
    dose: f64,
}

/// What is sent and what becomes of it.
struct Case {
    name: &'static str,
    encoding: Encoding,
    is_recorded: bool,
    compress: Option<&'static str>,
    reduces: bool,
}

const fn case(name: &'static str, encoding: Encoding, is_recorded: bool) -> Case {
    Case { name, encoding, is_recorded, compress: None, reduces: false }
}

const CASES: [Case; 8] = [
    case("raw: receive", Encoding::Raw, false),
    case("raw: + record", Encoding::Raw, true),
    Case { compress: Some("lz4"), ..case("raw: + record, compressed by us", Encoding::Raw, true) },
    Case { reduces: true, ..case("raw: + record + 4 virtual + com + sum", Encoding::Raw, true) },
    case("bslz4: receive", Encoding::Bslz4, false),
    case("bslz4: + record", Encoding::Bslz4, true),
    Case { compress: Some("none"), ..case("bslz4: + record as pixels", Encoding::Bslz4, true) },
    Case { reduces: true, ..case("bslz4: + record + 4 virtual + com + sum", Encoding::Bslz4, true) },
];

/// Frames ready to be sent, in both forms.
struct Frames {
    detector: u32,
    /// Frames of a raw series.
    raw_count: u64,
    raw: Vec<Vec<u8>>,
    compressed: Vec<Vec<u8>>,
}

impl Tiles {
    pub(crate) fn run(self) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the recordings")?;
        for &detector in &self.detectors {
            let frames = Frames::new(detector, self.dose, (self.gib * f64::from(1 << 30)) as u64)?;
            let mut found: Vec<Vec<Value>> = CASES.iter().map(|_| Vec::new()).collect();
            for _ in 0..self.runs {
                for (case, values) in CASES.iter().zip(&mut found) {
                    values.push(run_case(case, &frames, scratch.path())?);
                }
            }
            for (case, values) in CASES.iter().zip(&found) {
                println!("{}", report(case, &frames, values));
            }
        }
        Ok(())
    }
}

impl Frames {
    fn new(side: u32, dose: f64, bytes: u64) -> Result<Self> {
        let detector = SigShape { height: side, width: side };
        let scan = NavShape { height: 16, width: 16 };
        let synthesis = Synthesis::new(SynthPlan { scan, detector, dose, specimen: Specimen::Crystal, seed: 7 })?;
        let (mut counts, mut compressor) = (vec![0; detector.pixel_count() as usize], bslz4::Compressor::default());
        let (mut raw, mut compressed) = (Vec::new(), Vec::new());
        for frame in 0..scan.position_count() {
            synthesis.draw(frame, &mut counts);
            let pixels = counts.iter().flat_map(|&count| (count.min(65_535) as u16).to_le_bytes()).collect::<Vec<_>>();
            let mut short = Vec::new();
            compressor.compress(&pixels, 2, &mut short);
            raw.push(pixels);
            compressed.push(short);
        }
        let rows = (bytes / (2 * detector.pixel_count()) / 256).max(1);
        Ok(Self { detector: side, raw_count: 256 * rows, raw, compressed })
    }

    fn of(&self, encoding: Encoding) -> &[Vec<u8>] {
        match encoding {
            Encoding::Raw => &self.raw,
            Encoding::Bslz4 => &self.compressed,
        }
    }

    /// Frames of a series, a multiple of 256.
    fn count(&self, encoding: Encoding) -> u64 {
        match encoding {
            Encoding::Raw => self.raw_count,
            Encoding::Bslz4 => 4 * self.raw_count,
        }
    }

    fn pixel_bytes(&self, encoding: Encoding) -> u64 {
        self.count(encoding) * self.raw[0].len() as u64
    }

    fn sent_bytes(&self, encoding: Encoding) -> u64 {
        self.of(encoding).iter().map(|frame| frame.len() as u64).sum::<u64>() * (self.count(encoding) / 256)
    }
}

fn run_case(case: &Case, frames: &Frames, scratch: &Path) -> Result<Value> {
    let (port, out) = (free_port()?, scratch.join("bench.ronchi"));
    let mut arguments: Vec<String> = vec![format!("tiles+bind://127.0.0.1:{port}")];
    arguments.extend(["--out".into(), out.display().to_string(), "--http".into(), "off".into()]);
    arguments.extend(["--live-zmq".into(), "off".into(), "--reserve-gib".into(), "0".into()]);
    if !case.is_recorded {
        arguments.push("--no-record".into());
    }
    arguments.extend(case.compress.iter().flat_map(|codec| ["--compress".to_owned(), (*codec).to_owned()]));
    if case.reduces {
        let (centre, radius) = (frames.detector / 2, f64::from(frames.detector / 2));
        for (index, (inner, outer)) in [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)].into_iter().enumerate() {
            let ring = format!("v{index}=ring:{centre},{centre},{},{}", inner * radius, outer * radius);
            arguments.extend(["--virtual".into(), ring]);
        }
        arguments.extend(["--com".into(), "--sum".into()]);
    }
    let summary = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(case.encoding, frames, port));
        let summary = record(&arguments)?;
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok::<_, anyhow::Error>(summary)
    })?;
    let stored = if out.exists() { stored_bytes(&out)? } else { 0 };
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let number =
        |pointer: &str| summary.pointer(pointer).and_then(Value::as_f64).context(format!("{pointer} in {summary}"));
    ensure!(number("/frames/received")? as u64 == frames.count(case.encoding), "frames are missing: {summary}");
    Ok(json!({
        "seconds": number("/seconds")?,
        "cpu_s": number("/cpu_s")?,
        "finish_s": number("/finish_s")?,
        "live_skipped_share": number("/frames/live_skipped")? / number("/frames/received")?,
        "missing": number("/frames/missing")?,
        "resident_max_bytes": number("/memory/resident_max_bytes")?,
        "stored_bytes": stored,
    }))
}

fn send(encoding: Encoding, frames: &Frames, port: u16) -> Result<()> {
    let sender = TileSender::connect(&format!("tcp://127.0.0.1:{port}"))?;
    let count = frames.count(encoding);
    let whole = TileStream::whole("bench", count, frames.detector, frames.detector);
    let scan = NavShape { height: (count / 256) as u32, width: 256 };
    let stream = TileStream { encoding, scan: Some(scan), ..whole };
    sender.begin(&stream)?;
    for (frame, payload) in (0..count).zip(frames.of(encoding).iter().cycle()) {
        sender.tile(&stream, frame, payload)?;
    }
    sender.end(&stream, Some(count))?;
    Ok(())
}

/// Bytes on disk of the segments.
fn stored_bytes(data_set: &Path) -> Result<u64> {
    let mut bytes = 0;
    for segment in std::fs::read_dir(data_set.join("frames/c"))? {
        bytes += std::fs::metadata(segment?.path().join("0/0"))?.len();
    }
    Ok(bytes)
}

fn report(case: &Case, frames: &Frames, values: &[Value]) -> Value {
    let all = |key: &str| values.iter().filter_map(|value| value[key].as_f64()).collect::<Vec<_>>();
    let (pixel_bytes, seconds) = (frames.pixel_bytes(case.encoding) as f64, median(&all("seconds")));
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let rates: Vec<f64> = all("seconds").iter().map(|seconds| rounded(pixel_bytes / seconds / 1e9)).collect();
    json!({
        "case": case.name,
        "detector": [frames.detector, frames.detector],
        "frames": frames.count(case.encoding),
        "pixels_gb_per_s": rounded(pixel_bytes / seconds / 1e9),
        "pixels_gb_per_s_all": rates,
        "sent_gb_per_s": rounded(frames.sent_bytes(case.encoding) as f64 / seconds / 1e9),
        "frames_per_s": (frames.count(case.encoding) as f64 / seconds).round(),
        "stored_share": rounded(median(&all("stored_bytes")) / pixel_bytes),
        "cpu_s_per_gb": rounded(median(&all("cpu_s")) / (pixel_bytes / 1e9)),
        "live_skipped_share": rounded(median(&all("live_skipped_share"))),
        "finish_s": rounded(median(&all("finish_s"))),
        "missing": all("missing").iter().sum::<f64>(),
        "resident_max_mib": (all("resident_max_bytes").into_iter().fold(0.0, f64::max) / 1_048_576.0).round(),
    })
}
