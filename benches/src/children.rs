//! The product as its users start it: child processes of the `ronchi` binary.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ronchi_benches::ronchi;
use serde_json::Value;

/// What the simulator shall send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    /// Height and width of a square u16 detector, px.
    pub(crate) detector: u32,
    /// Scan rows and positions per row.
    pub(crate) scan: (u32, u32),
    /// Frames per second; 0 as fast as the link goes.
    pub(crate) rate: u32,
}

impl Stream {
    /// Square u16 frames of about `bytes` in all, in rows of 256.
    pub(crate) fn of_bytes(detector: u32, bytes: u64) -> Self {
        let rows = (bytes / (u64::from(detector) * u64::from(detector) * 2) / 256).max(1) as u32;
        Self { detector, scan: (rows, 256), rate: 0 }
    }

    pub(crate) fn frame_count(&self) -> u64 {
        u64::from(self.scan.0) * u64::from(self.scan.1)
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        u64::from(self.detector) * u64::from(self.detector) * 2
    }

    pub(crate) fn payload_bytes(&self) -> u64 {
        self.frame_count() * self.frame_bytes()
    }

    pub(crate) fn scan_text(&self) -> String {
        format!("{}x{}", self.scan.0, self.scan.1)
    }
}

/// A running detector simulator; killed on drop.
pub(crate) struct Simulator {
    child: Child,
    data_port: u16,
}

impl Simulator {
    /// Starts a simulator that sends the stream to each client that connects, again and again.
    pub(crate) fn start(stream: &Stream) -> Result<Self> {
        let (data_port, control_port) = (free_port()?, free_port()?);
        let child = Command::new(ronchi()?)
            .args(["simulate", "merlin", "--dtype", "u16", "--trigger", "now", "--runs", "0", "--seed", "7"])
            .args(["--data-port", &data_port.to_string(), "--control-port", &control_port.to_string()])
            .args(["--scan", &stream.scan_text(), "--rate", &stream.rate.to_string()])
            .args(["--detector", &format!("{0}x{0}", stream.detector)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the simulator")?;
        let simulator = Self { child, data_port };
        wait_for_listener(control_port)?;
        Ok(simulator)
    }

    pub(crate) fn data_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.data_port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("merlin://{}", self.data_address())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn wait_for_listener(port: u16) -> Result<()> {
    let started = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("the simulator does not listen on port {port}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs `ronchi record` to its end and returns the summary it printed.
pub(crate) fn record(arguments: &[String]) -> Result<Value> {
    let mut child = Command::new(ronchi()?)
        .arg("record")
        .args(arguments)
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ronchi record")?;
    let (mut text, mut errors) = (String::new(), String::new());
    child.stdout.take().context("piped")?.read_to_string(&mut text)?;
    child.stderr.take().context("piped")?.read_to_string(&mut errors)?;
    let status = child.wait()?;
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("`ronchi record` ended with {status}: {errors}"))
}

/// The body that a running receiver's HTTP server gives for a path.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.into())
}
