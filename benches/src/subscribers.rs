//! What stopped subscribers cost: the ingest rate of one running receiver, with and without them, by turns.
//!
//! One preview of series after series runs as fast as its simulator sends; every window of a second is with or without subscribers that
//! never read, in the order A B B A, so that slow changes of the machine meet both alike. Each turn of two windows gives
//! one ratio; their spread says how much the figure can be trusted. Far less noisy is the processor time of the threads
//! that publish: where all processors are busy, ingest cannot lose a larger share than they take.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ronchi_benches::ronchi;
use serde_json::json;

use crate::children::{Simulator, Stream, free_port, get};
use crate::e2e::median;

/// After subscribers have come or gone, this long passes before a window begins: their connections have filled up by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Scan rows of a series, of 256 positions each: several windows long.
const ROWS: u32 = 1024;
/// More series than any run of this benchmark takes.
const SERIES: &str = "1000000";

/// Ingest rate with and without subscribers that do not read.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// Pairs of windows.
    #[arg(long, default_value_t = 60)]
    pairs: usize,
    /// Length of a window, s.
    #[arg(long, default_value_t = 1.5)]
    window_s: f64,
    /// Subscribers that never read.
    #[arg(long, default_value_t = 8)]
    count: usize,
}

impl Subscribers {
    pub(crate) fn run(self) -> Result<()> {
        let stream = Stream { detector: 256, scan: (ROWS, 256), rate: 0 };
        let simulator = Simulator::start(&stream)?;
        let receiver = Receiver::start(&simulator, &stream)?;
        let mut ratios = Vec::new();
        let (mut without, mut with): (Vec<Window>, Vec<Window>) = (Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            let (a, b);
            if pair % 2 == 0 {
                a = self.window(&receiver, false)?;
                b = self.window(&receiver, true)?;
            } else {
                b = self.window(&receiver, true)?;
                a = self.window(&receiver, false)?;
            }
            ratios.push(b.rate / a.rate);
            without.push(a);
            with.push(b);
        }
        ratios.sort_by(f64::total_cmp);
        let (low, high) = median_interval(&ratios);
        let rate = |windows: &[Window]| median(&windows.iter().map(|window| window.rate).collect::<Vec<_>>());
        let gb_per_s = |windows: &[Window]| rate(windows) * stream.frame_bytes() as f64 / 1e9;
        let cpus = std::thread::available_parallelism()?.get() as f64;
        let publishing = |windows: &[Window]| {
            windows.iter().map(|window| window.publishing).sum::<f64>() / windows.len() as f64 / cpus
        };
        println!(
            "{}",
            json!({
                "case": "stopped subscribers", "count": self.count, "pairs": self.pairs, "window_s": self.window_s,
                "gb_per_s_without": gb_per_s(&without), "gb_per_s_with": gb_per_s(&with),
                "ratio_of_pairs": median(&ratios), "interval_95": [low, high],
                "publishing_share_without": publishing(&without), "publishing_share_with": publishing(&with),
            })
        );
        Ok(())
    }

    /// What one window shows.
    fn window(&self, receiver: &Receiver, is_with: bool) -> Result<Window> {
        let subscribers = if is_with { stopped_subscribers(&receiver.stream, self.count)? } else { Vec::new() };
        std::thread::sleep(SETTLE);
        let (started, frames, cpu_s) = (Instant::now(), receiver.frames()?, receiver.publishing_cpu_s()?);
        std::thread::sleep(Duration::from_secs_f64(self.window_s));
        let (frames, cpu_s) = (receiver.frames()? - frames, receiver.publishing_cpu_s()? - cpu_s);
        let seconds = started.elapsed().as_secs_f64();
        drop(subscribers);
        ensure!(frames > 0.0, "no frames were received in a window");
        Ok(Window { rate: frames / seconds, publishing: cpu_s / seconds })
    }
}

/// What was seen between its ends.
struct Window {
    /// Frames received per second.
    rate: f64,
    /// Processors that publishing took.
    publishing: f64,
}

/// A preview that runs until it is killed, on drop.
struct Receiver {
    child: Child,
    http: SocketAddr,
    stream: String,
}

impl Receiver {
    fn start(simulator: &Simulator, stream: &Stream) -> Result<Self> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let endpoint = format!("tcp://127.0.0.1:{}", free_port()?);
        let child = Command::new(ronchi()?)
            .args(["record", &simulator.url(), "--no-record", "--series", SERIES, "--scan", &stream.scan_text()])
            .args(["--total", "--com", "--sum", "--http", &http.to_string(), "--live-zmq", &endpoint])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the receiver")?;
        let receiver = Self { child, http, stream: endpoint };
        let started = Instant::now();
        while receiver.frames().unwrap_or(0.0) == 0.0 {
            ensure!(started.elapsed() < Duration::from_secs(60), "the receiver does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(receiver)
    }

    /// Frames received so far.
    fn frames(&self) -> Result<f64> {
        let metrics = get(self.http, "/metrics")?;
        let line = metrics.lines().find(|line| line.starts_with("ronchi_frames_total"));
        let value = line.and_then(|line| line.rsplit_once(' ')).context("ronchi_frames_total in /metrics")?.1;
        Ok(value.parse()?)
    }
}

impl Receiver {
    /// CPU seconds so far of the threads that publish: the receiver's own and libzmq's.
    fn publishing_cpu_s(&self) -> Result<f64> {
        let mut ticks = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue }; // It has just ended.
            // proc_pid_stat(5): the name stands in parentheses; utime and stime are fields 14 and 15, in clock ticks.
            let (name, fields) = stat.rsplit_once(')').context("a name in stat")?;
            if name.ends_with("(live-zmq") || name.contains("(ZMQbg") {
                ticks += fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
            }
        }
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Subscribers that take everything and never read.
fn stopped_subscribers(endpoint: &str, count: usize) -> Result<Vec<zmq::Socket>> {
    let context = zmq::Context::new();
    (0..count)
        .map(|_| {
            let socket = context.socket(zmq::SUB)?;
            socket.set_rcvhwm(1)?;
            socket.set_linger(0)?;
            socket.set_subscribe(b"v1/")?;
            socket.connect(endpoint)?;
            Ok(socket)
        })
        .collect()
}

/// The 95 % confidence interval of the median, from order statistics (normal approximation of the binomial).
fn median_interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len() as f64;
    let half = 1.96 * count.sqrt() / 2.0;
    let at = |rank: f64| sorted[(rank.max(0.0) as usize).min(sorted.len() - 1)];
    (at((count / 2.0 - half).floor()), at((count / 2.0 + half).ceil()))
}
