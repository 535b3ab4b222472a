//! End to end: the detector simulator, the socket, `ronchi record`, the disk; beside what each part could do alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::children::{Simulator, Stream, record};
use crate::limits;

/// Block size and writes in flight of `ronchi record` unless told otherwise; the disk is measured with the same.
const BLOCK_BYTES: usize = 4 << 20;
const WRITE_DEPTH: u32 = 16;

/// Throughput of the whole path at several detector sizes.
#[derive(Debug, clap::Args)]
pub(crate) struct E2e {
    /// Directory for the recordings, on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs per case; figures are medians.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Payload per run, GiB.
    #[arg(long, default_value_t = 4.0)]
    gib: f64,
    /// Square detectors, px.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 256, 512])]
    detectors: Vec<u32>,
    /// Cases: those whose name has this in it, e.g. `16 virtual`.
    #[arg(long)]
    only: Option<String>,
    /// One short run of everything, to see that it works.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    Receive,
    Record,
    Reduce,
    Everything,
}

impl Case {
    const ALL: [Self; 4] = [Self::Receive, Self::Record, Self::Reduce, Self::Everything];

    fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Record => "receive+record",
            Self::Reduce => "receive+record+4 virtual+com+sum",
            Self::Everything => "receive+record+16 virtual+com+radial+sum+max+min+std",
        }
    }

    fn arguments(self, stream: &Stream, url: &str, out: &Path) -> Vec<String> {
        let mut all: Vec<String> = vec![url.into(), "--out".into(), out.display().to_string()];
        all.extend([
            "--scan".into(),
            stream.scan_text(),
            "--http".into(),
            "off".into(),
            "--live-zmq".into(),
            "off".into(),
        ]);
        if self == Self::Receive {
            all.push("--no-record".into());
        }
        all.extend(match self {
            Self::Receive | Self::Record => vec![],
            Self::Reduce => [rings(stream.detector, 4), words(&["--com", "--sum"])].concat(),
            Self::Everything => {
                let statistics = ["--com", "--sum", "--max", "--reduce", "min", "--reduce", "std"];
                [rings(stream.detector, 16), words(&statistics), words(&["--reduce", "radial:bins=64"])].concat()
            }
        });
        all
    }
}

/// So many adjacent rings from the middle of a square detector to its edge.
fn rings(detector: u32, count: u32) -> Vec<String> {
    let centre = detector / 2;
    let radius = |ring: u32| f64::from(centre) * f64::from(ring) / f64::from(count);
    let ring = |ring: u32| format!("v{ring}=ring:{centre},{centre},{},{}", radius(ring), radius(ring + 1));
    (0..count).flat_map(|number| ["--virtual".into(), ring(number)]).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.into()).collect()
}

impl E2e {
    pub(crate) fn run(mut self) -> Result<()> {
        if self.quick {
            (self.runs, self.gib, self.detectors) = (1, 0.25, vec![256]);
        }
        let scratch = tempfile::tempdir_in(&self.dir).context("a folder for the recordings")?;
        println!("{}", json!({ "machine": machine(), "block_bytes": BLOCK_BYTES, "write_depth": WRITE_DEPTH }));
        let memory = limits::memory_read()?;
        for &detector in &self.detectors {
            let stream = Stream::of_bytes(detector, (self.gib * f64::from(1 << 30)) as u64);
            self.detector(&stream, scratch.path(), memory)?;
        }
        Ok(())
    }

    /// All cases of one detector, interleaved with the limits so that drift of the machine hits all alike.
    fn detector(&self, stream: &Stream, scratch: &Path, memory: f64) -> Result<()> {
        let simulator = Simulator::start(stream)?;
        let mut loopback = Vec::new();
        let mut disk = Vec::new();
        let is_asked = |case: &Case| self.only.as_ref().is_none_or(|part| case.name().contains(part.as_str()));
        let mut ours: Vec<(Case, Vec<Value>)> =
            Case::ALL.into_iter().filter(is_asked).map(|case| (case, Vec::new())).collect();
        ensure!(!ours.is_empty(), "there is no case of that name");
        for _ in 0..self.runs {
            loopback.push(limits::loopback(&simulator, stream.payload_bytes())?);
            disk.push(limits::disk(scratch, stream.payload_bytes(), BLOCK_BYTES, WRITE_DEPTH)?);
            for (case, values) in &mut ours {
                values.push(run_case(*case, stream, &simulator, scratch)?);
            }
        }
        let limit = median(&loopback).min(median(&disk));
        for (case, values) in &ours {
            let rates: Vec<f64> = values.iter().filter_map(|v| v["bytes_per_s"].as_f64()).collect();
            let of = if *case == Case::Receive { median(&loopback) } else { limit };
            println!("{}", report(stream, *case, values, &rates, of, [median(&loopback), median(&disk), memory]));
        }
        Ok(())
    }
}

fn report(stream: &Stream, case: Case, values: &[Value], rates: &[f64], of: f64, limits: [f64; 3]) -> Value {
    let median_of = |key: &str| median(&values.iter().filter_map(|v| v[key].as_f64()).collect::<Vec<_>>());
    let gb = |rate: f64| (rate / 1e7).round() / 100.0;
    json!({
        "case": case.name(),
        "detector": [stream.detector, stream.detector],
        "frames": stream.frame_count(),
        "gb_per_s": gb(median(rates)),
        "gb_per_s_all": rates.iter().map(|&r| gb(r)).collect::<Vec<_>>(),
        "of_limit": (median(rates) / of * 1000.0).round() / 1000.0,
        "limits_gb_per_s": { "loopback": gb(limits[0]), "disk": gb(limits[1]), "memory_read": gb(limits[2]) },
        "cpu_s_per_gb": (median_of("cpu_s_per_gb") * 1000.0).round() / 1000.0,
        "live_skipped_share": (median_of("live_skipped_share") * 1000.0).round() / 1000.0,
        "backfilled_share": (median_of("backfilled_share") * 1000.0).round() / 1000.0,
        "finish_s": median_of("finish_s"),
        "gaps": values.iter().filter_map(|v| v["gaps"].as_u64()).sum::<u64>(),
        "resident_max_mib": values.iter().filter_map(|v| v["resident_max_bytes"].as_u64()).max().unwrap_or(0) >> 20,
        "ceiling_mib": values.iter().filter_map(|v| v["ceiling_bytes"].as_u64()).max().unwrap_or(0) >> 20,
    })
}

fn run_case(case: Case, stream: &Stream, simulator: &Simulator, scratch: &Path) -> Result<Value> {
    let out = scratch.join("bench.ronchi");
    let summary = record(&case.arguments(stream, &simulator.url(), &out))?;
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let number =
        |pointer: &str| summary.pointer(pointer).and_then(Value::as_f64).context(format!("{pointer} in {summary}"));
    let frames = number("/frames/received")?;
    ensure!(frames as u64 == stream.frame_count(), "{} of {} frames came: {summary}", frames, stream.frame_count());
    let gigabytes = stream.payload_bytes() as f64 / 1e9;
    Ok(json!({
        "bytes_per_s": stream.payload_bytes() as f64 / number("/seconds")?,
        "cpu_s_per_gb": number("/cpu_s")? / gigabytes,
        "gaps": number("/frames/missing")? as u64,
        "live_skipped_share": number("/frames/live_skipped")? / frames,
        "backfilled_share": number("/frames/backfilled")? / frames,
        "finish_s": number("/finish_s")?,
        "resident_max_bytes": number("/memory/resident_max_bytes")? as u64,
        "ceiling_bytes": number("/memory/ceiling_bytes")? as u64,
    }))
}

/// Middle value; the lower of the two middle ones for an even count; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Processor, cores and kernel, as the system names them.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
