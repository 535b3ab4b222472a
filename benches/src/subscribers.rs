//! What viewers cost: the ingest rate and the memory of one running receiver, with and without them, by turns.
//!
//! One preview of series after series runs as fast as its simulator sends; every window of a second is with or without a
//! crowd of subscribers, in the order A B B A, so that slow changes of the machine meet both alike. Each turn of two windows
//! gives one ratio; their spread says how much the figure can be trusted. Far less noisy is the processor time of the
//! threads that publish: where all processors are busy, ingest cannot lose a larger share than they take. A crowd stays for
//! one window, which must be shorter than the 30 s after which a client that says nothing is disconnected.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ronchi_benches::ronchi;
use serde_json::json;

use crate::children::{Simulator, Stream, free_port, get};
use crate::crowd::{Crowd, CrowdSize};
use crate::e2e::median;

/// After subscribers have come or gone, this long passes before a window begins: their connections have filled up by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Scan rows of a series, of 256 positions each: several windows long.
const ROWS: u32 = 1024;
/// More series than any run of this benchmark takes.
const SERIES: &str = "1000000";

/// Longest time for a crowd to be let in.
const GATHERING: Duration = Duration::from_secs(30);

/// Ingest rate and memory with and without viewers.
#[derive(Debug, clap::Args)]
pub(crate) struct Subscribers {
    /// Pairs of windows.
    #[arg(long, default_value_t = 60)]
    pairs: usize,
    /// Length of a window, s.
    #[arg(long, default_value_t = 1.5)]
    window_s: f64,
    #[command(flatten)]
    crowd: CrowdSize,
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
        let CrowdSize { zmq, web, zmq_reading, web_reading } = self.crowd;
        let viewers = |windows: &[Window]| {
            windows.iter().map(|window| window.viewers).fold([0, 0], |a, b| [0, 1].map(|i| a[i].max(b[i])))
        };
        let read = with.iter().map(|window| window.read).sum::<f64>() / with.len() as f64;
        let threads = with.iter().chain(&without).map(|window| window.threads).max();
        println!(
            "{}",
            json!({
                "case": "viewers", "pairs": self.pairs, "window_s": self.window_s,
                "zmq": { "count": zmq, "reading": zmq_reading, "let_in": viewers(&with)[0] },
                "web": { "count": web, "reading": web_reading, "let_in": viewers(&with)[1] },
                "bytes_per_second_of_a_reader": read / (zmq_reading + web_reading).max(1) as f64,
                "gb_per_s_without": gb_per_s(&without), "gb_per_s_with": gb_per_s(&with),
                "ratio_of_pairs": median(&ratios), "interval_95": [low, high],
                "publishing_share_without": publishing(&without), "publishing_share_with": publishing(&with),
                "resident_max_mib": receiver.resident_max_mib()?, "ceiling_mib": receiver.ceiling_mib()?,
                "threads": threads, "descriptors_max": with.iter().map(|window| window.descriptors).max(),
            })
        );
        Ok(())
    }

    /// What one window shows.
    fn window(&self, receiver: &Receiver, is_with: bool) -> Result<Window> {
        let crowd = match is_with {
            true => Crowd::gather(self.crowd, &receiver.stream, receiver.http)?,
            false => Crowd::nobody(),
        };
        let wanted = if is_with { (self.crowd.zmq + self.crowd.web) as f64 } else { 0.0 };
        let gathering = Instant::now();
        while gathering.elapsed() < GATHERING && receiver.viewers()?.iter().sum::<f64>() != wanted {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(SETTLE);
        let (started, frames, cpu_s, bytes) =
            (Instant::now(), receiver.frames()?, receiver.publishing_cpu_s()?, crowd.bytes());
        std::thread::sleep(Duration::from_secs_f64(self.window_s));
        let seconds = started.elapsed().as_secs_f64();
        let frames = receiver.frames()? - frames;
        ensure!(frames > 0.0, "no frames were received in a window");
        Ok(Window {
            rate: frames / seconds,
            publishing: (receiver.publishing_cpu_s()? - cpu_s) / seconds,
            read: (crowd.bytes() - bytes) as f64 / seconds,
            viewers: receiver.viewers()?.map(|count| count as u64),
            threads: receiver.entries("task")?,
            descriptors: receiver.entries("fd")?,
        })
    }
}

/// What was seen between its ends.
struct Window {
    /// Frames received per second.
    rate: f64,
    /// Processors that publishing took.
    publishing: f64,
    /// Bytes per second that all readers together got.
    read: f64,
    /// Viewers at the end of it, over ZMQ and over WebSocket.
    viewers: [u64; 2],
    threads: usize,
    descriptors: usize,
}

/// A preview that runs until it is killed, on drop.
struct Receiver {
    child: Child,
    http: SocketAddr,
    stream: String,
    /// What it says at start.
    told: tempfile::NamedTempFile,
}

impl Receiver {
    fn start(simulator: &Simulator, stream: &Stream) -> Result<Self> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let endpoint = format!("tcp://127.0.0.1:{}", free_port()?);
        let told = tempfile::NamedTempFile::new()?;
        let child = Command::new(ronchi()?)
            .args(["record", &simulator.url(), "--no-record", "--series", SERIES, "--scan", &stream.scan_text()])
            .args(["--total", "--com", "--sum", "--http", &http.to_string(), "--live-zmq", &endpoint])
            .stdout(Stdio::null())
            .stderr(told.reopen()?)
            .spawn()
            .context("start the receiver")?;
        let receiver = Self { child, http, stream: endpoint, told };
        let started = Instant::now();
        while receiver.frames().unwrap_or(0.0) == 0.0 {
            ensure!(started.elapsed() < Duration::from_secs(60), "the receiver does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(receiver)
    }

    /// Frames received so far.
    fn frames(&self) -> Result<f64> {
        Ok(self.metrics(["ronchi_frames_total"])?[0])
    }

    /// Viewers now, over ZMQ and over WebSocket.
    fn viewers(&self) -> Result<[f64; 2]> {
        self.metrics(["ronchi_live_subscribers", "ronchi_live_web_clients"])
    }

    /// The first value of each of these metrics.
    fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let text = get(self.http, "/metrics")?;
        let mut values = [0.0; N];
        for (value, name) in values.iter_mut().zip(names) {
            let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
            let line = text.lines().find(of_it).and_then(|line| line.rsplit_once(' '));
            *value = line.with_context(|| format!("{name} in /metrics"))?.1.parse()?;
        }
        Ok(values)
    }

    /// A file of this process under `/proc`.
    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Number of its threads (`task`) or descriptors (`fd`).
    fn entries(&self, of: &str) -> Result<usize> {
        Ok(std::fs::read_dir(self.proc(of))?.count())
    }

    /// Largest resident size so far, in MiB.
    fn resident_max_mib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in status")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
    }

    /// The most it says it will use, in MiB.
    fn ceiling_mib(&self) -> Result<u64> {
        let told = std::fs::read_to_string(self.told.path())?;
        let number = told.lines().find_map(|line| line.strip_prefix("memory    at most ")?.strip_suffix(" MiB"));
        Ok(number.context("the memory ceiling, as it is printed at start")?.parse()?)
    }

    /// CPU seconds so far of the threads that publish: the receiver's own two and libzmq's.
    fn publishing_cpu_s(&self) -> Result<f64> {
        let mut ticks = 0;
        for task in std::fs::read_dir(self.proc("task"))? {
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue }; // It has just ended.
            // proc_pid_stat(5): the name stands in parentheses; utime and stime are fields 14 and 15, in clock ticks.
            let (name, fields) = stat.rsplit_once(')').context("a name in stat")?;
            if name.ends_with("(live-zmq") || name.ends_with("(http") || name.contains("(ZMQbg") {
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

/// The 95 % confidence interval of the median, from order statistics (normal approximation of the binomial).
fn median_interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len() as f64;
    let half = 1.96 * count.sqrt() / 2.0;
    let at = |rank: f64| sorted[(rank.max(0.0) as usize).min(sorted.len() - 1)];
    (at((count / 2.0 - half).floor()), at((count / 2.0 + half).ceil()))
}
