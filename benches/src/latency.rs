//! Latency: from a frame leaving the detector to the update that shows it at a ZMQ subscriber.
//!
//! The simulator stamps each frame with the wall-clock time right before it sends it; the recording keeps that stamp
//! in its frame table. A frame's latency is the arrival of the first update of `v1/*/total` whose rows hold it, minus
//! its stamp. The time its bytes take on the wire (some 30 us per 100 KiB) is included.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ronchi_benches::ronchi;
use serde_json::{Value, json};

use crate::children::{Simulator, Stream, free_port};

/// Frames slower than this are named in the report, in ms.
const SLOW_MS: f64 = 25.0;

/// Distribution of the time from wire to subscriber.
#[derive(Debug, clap::Args)]
pub(crate) struct Latency {
    /// Directory for the recording.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Frames per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Square detector, px.
    #[arg(long, default_value_t = 256)]
    detector: u32,
    /// Scan rows of 128 positions.
    #[arg(long, default_value_t = 128)]
    rows: u32,
}

impl Latency {
    pub(crate) fn run(self) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir)?;
        let out = scratch.path().join("latency.ronchi");
        let stream = Stream { detector: self.detector, scan: (self.rows, 128), rate: self.rate };
        let endpoint = format!("tcp://127.0.0.1:{}", free_port()?);
        let updates = std::thread::scope(|scope| {
            let subscriber = scope.spawn(|| subscribe(&endpoint));
            let recorder = run_recorder(&stream, &endpoint, &out);
            let updates = subscriber.join().map_err(|_| anyhow::anyhow!("the subscriber panicked"))?;
            recorder.and(updates)
        })?;
        let sent = frame_times(&out, stream.frame_count())?;
        let latencies = latencies(&updates, &sent);
        let slow: Vec<u64> = latencies.iter().filter(|&&(_, ms)| ms > SLOW_MS).map(|&(frame, _)| frame).collect();
        let mut latencies_ms: Vec<f64> = latencies.iter().map(|&(_, ms)| ms).collect();
        ensure!(!latencies_ms.is_empty(), "no update named a frame");
        latencies_ms.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let index = ((latencies_ms.len() - 1) as f64 * q).round() as usize;
            (latencies_ms[index] * 100.0).round() / 100.0
        };
        println!(
            "{}",
            json!({
                "case": "latency", "rate": self.rate, "detector": [self.detector, self.detector],
                "frames": latencies_ms.len(), "of": stream.frame_count(), "updates": updates.len(),
                "ms": { "p10": at(0.1), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "max": at(1.0) },
                "slow": { "over_ms": SLOW_MS, "frames": slow.len(), "first": slow.first(), "last": slow.last() },
            })
        );
        Ok(())
    }
}

fn run_recorder(stream: &Stream, endpoint: &str, out: &Path) -> Result<()> {
    let simulator = Simulator::start(stream)?;
    let status = Command::new(ronchi()?)
        .args(["record", &simulator.url(), "--scan", &stream.scan_text(), "--total", "--json", "--http", "off"])
        .args(["--live-zmq", endpoint, "--out"])
        .arg(out)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "ronchi record ended with {status}");
    Ok(())
}

/// One update: when it came, and the half-open range of frames it brought.
struct Update {
    arrived_ns: u64,
    frames: std::ops::Range<u64>,
}

fn subscribe(endpoint: &str) -> Result<Vec<Update>> {
    let socket = zmq::Context::new().socket(zmq::SUB)?;
    socket.set_rcvtimeo(Duration::from_secs(20).as_millis() as i32)?;
    socket.set_reconnect_ivl(5)?;
    socket.set_subscribe(b"v1/")?;
    socket.connect(endpoint)?;
    let mut updates = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(600) {
        let parts = socket.recv_multipart(0).context("waiting for an update")?;
        let arrived_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let header: Value = serde_json::from_slice(parts.get(1).context("header part")?)?;
        if header["type"] == "end" {
            break;
        }
        if header["result"] == "total" {
            let frame = |key: &str| header[key].as_u64().context(format!("{key} in {header}"));
            updates.push(Update { arrived_ns, frames: frame("frame_from")?..frame("frame_to")? });
        }
    }
    Ok(updates)
}

/// Time stamps of all frames, from the frame table on disk: little-endian u64, chunks in order.
fn frame_times(out: &Path, frame_count: u64) -> Result<Vec<u64>> {
    let folder = out.join("frame_table/time_ns/c");
    let mut times = Vec::new();
    for chunk in 0.. {
        let path = folder.join(chunk.to_string());
        if times.len() as u64 >= frame_count || !path.exists() {
            break;
        }
        let bytes = std::fs::read(path)?;
        times.extend(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
    }
    times.truncate(frame_count as usize);
    Ok(times)
}

/// Every frame that an update brought, with its latency in ms.
fn latencies(updates: &[Update], sent_ns: &[u64]) -> Vec<(u64, f64)> {
    let mut next = 0;
    let mut all = Vec::new();
    for update in updates {
        for frame in next.max(update.frames.start)..update.frames.end.min(sent_ns.len() as u64) {
            all.push((frame, update.arrived_ns.saturating_sub(sent_ns[frame as usize]) as f64 / 1e6));
        }
        next = next.max(update.frames.end);
    }
    all
}
