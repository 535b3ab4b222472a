//! What a stopped subscriber costs: the ingest rate without one and with one, alternating in one run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::children::{Simulator, Stream, free_port, record};
use crate::e2e::median;

/// Ingest rate with and without a subscriber that does not read.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// Directory for the recordings.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Pairs of runs; figures are medians.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Payload per run, GiB.
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
}

impl Subscribers {
    pub(crate) fn run(self) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir)?;
        let stream = Stream::of_bytes(256, (self.gib * f64::from(1 << 30)) as u64);
        let simulator = Simulator::start(&stream)?;
        let endpoint = format!("tcp://127.0.0.1:{}", free_port()?);
        let out = scratch.path().join("bench.ronchi");
        let arguments: Vec<String> =
            [&simulator.url(), "--scan", &stream.scan_text(), "--out", &out.display().to_string()]
                .into_iter()
                .chain(["--total", "--com", "--sum", "--http", "off", "--live-zmq", &endpoint])
                .map(String::from)
                .collect();
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            without.push(run_once(&arguments, &stream, &out)?);
            with.push(with_stopped_subscribers(&endpoint, || run_once(&arguments, &stream, &out))?);
        }
        let pairs: Vec<f64> = without.iter().zip(&with).map(|(a, b)| b / a).collect();
        println!(
            "{}",
            json!({
                "case": "stopped subscribers", "runs": self.runs,
                "gb_per_s_without": median(&without), "gb_per_s_with": median(&with),
                "ratio": median(&with) / median(&without), "ratio_of_pairs": median(&pairs),
            })
        );
        Ok(())
    }
}

fn run_once(arguments: &[String], stream: &Stream, out: &std::path::Path) -> Result<f64> {
    let summary = record(arguments)?;
    std::fs::remove_dir_all(out)?;
    let seconds = summary["seconds"].as_f64().with_context(|| format!("seconds in {summary}"))?;
    anyhow::ensure!(summary["frames"]["missing"] == 0, "frames are missing: {summary}");
    Ok(stream.payload_bytes() as f64 / seconds / 1e9)
}

/// Runs `work` while eight subscribers are connected and none of them reads.
fn with_stopped_subscribers<T>(endpoint: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let context = zmq::Context::new();
    let sockets = (0..8)
        .map(|_| {
            let socket = context.socket(zmq::SUB)?;
            socket.set_rcvhwm(1)?;
            socket.set_reconnect_ivl(5)?;
            socket.set_subscribe(b"v1/")?;
            socket.connect(endpoint)?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let result = work();
    drop(sockets);
    result
}
