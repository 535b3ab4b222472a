//! `ronchi watch`: a running receiver in the terminal.
//!
//! Polls the status over HTTP, four times per second, and redraws in place; rates are differences of two readings of the
//! receiver's own counters and clock, so a slow terminal or network does not falsify them.
//!
//! # Errors
//! A receiver that cannot be reached is shown as such, and asked again; `--once` and `--json` end with an error instead.

mod picture;
mod screen;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use ronchi_sinks::live::Status;

use screen::Reading;

/// Time between two readings.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Rates are taken over at most this many readings: smooth enough to read, fresh enough to believe.
const READINGS: usize = 5;
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest status accepted, in bytes.
const STATUS_BYTES_MAX: u64 = 4 << 20;
/// Largest image accepted, in bytes.
const IMAGE_BYTES_MAX: u64 = 512 << 20;

/// Shows a running receiver: progress, rates, backlog, losses, disk.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Address of the receiver.
    #[arg(default_value = "http://127.0.0.1:8600")]
    pub url: String,
    /// Draw this result, e.g. the name of a virtual detector, below the figures.
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Print once, as plain text, and end.
    #[arg(long)]
    pub once: bool,
    /// Print the status as JSON, once, and end.
    #[arg(long, conflicts_with = "image")]
    pub json: bool,
}

impl Watch {
    /// Runs until interrupted; with `--once` or `--json`, or when the output is not a terminal, for one reading.
    pub fn run(&self) -> Result<()> {
        let receiver = Receiver::new(&self.url)?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &receiver.status()?)?;
            return Ok(writeln!(out)?);
        }
        if self.once || !out.is_terminal() {
            return self.print_once(&receiver, &mut out);
        }
        self.redraw(&receiver, &mut out)
    }

    /// Two readings, so that there are rates; then one page of text.
    fn print_once(&self, receiver: &Receiver, out: &mut impl Write) -> Result<()> {
        let mut readings = vec![Reading::new(receiver.status()?, Instant::now())];
        std::thread::sleep(POLL_INTERVAL);
        readings.push(Reading::new(receiver.status()?, Instant::now()));
        out.write_all(screen::page(&readings, screen::WIDTH).as_bytes())?;
        if let Some(name) = &self.image {
            out.write_all(picture::draw(&receiver.image(name)?, (40, 80))?.as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// Draws page over page. The cursor stays visible below and colours end with each page, so that an interruption at
    /// any moment leaves the terminal as it was.
    fn redraw(&self, receiver: &Receiver, out: &mut impl Write) -> Result<()> {
        let mut readings: Vec<Reading> = Vec::with_capacity(READINGS);
        let mut drawn_rows = 0;
        loop {
            let (rows, columns) = terminal_size();
            let page = match receiver.status() {
                Ok(status) => {
                    if readings.last().is_some_and(|last| status.uptime_ns < last.status.uptime_ns) {
                        readings.clear(); // Another receiver: its counters start anew.
                    }
                    if readings.len() == READINGS {
                        readings.remove(0);
                    }
                    readings.push(Reading::new(status, Instant::now()));
                    self.page(receiver, &readings, (rows, columns))
                }
                Err(error) => screen::unreachable(&self.url, &error, readings.last(), Instant::now()),
            };
            let page = screen::fit(&page, rows.saturating_sub(1), columns);
            out.write_all(screen::over(&page, drawn_rows).as_bytes())?;
            out.flush()?;
            drawn_rows = page.lines().count();
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn page(&self, receiver: &Receiver, readings: &[Reading], (rows, columns): (usize, usize)) -> String {
        let mut page = screen::page(readings, columns);
        if let Some(name) = &self.image {
            let room = (rows.saturating_sub(page.lines().count() + 2), columns);
            let drawn = receiver.image(name).and_then(|image| picture::draw(&image, room));
            page.push_str(&drawn.unwrap_or_else(|error| format!("no picture of {name}: {error:#}\n")));
        }
        page
    }
}

/// Rows and columns; 24 by 80 when nobody knows.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (usize::from(size.ws_row), usize::from(size.ws_col)),
        _ => (24, 80),
    }
}

/// The receiver's HTTP face.
#[derive(Debug)]
struct Receiver {
    agent: ureq::Agent,
    url: String,
    /// From `RONCHI_TOKEN`, for a receiver that asks for one.
    token: Option<String>,
}

impl Receiver {
    fn new(url: &str) -> Result<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        if !url.starts_with("http://") {
            bail!("{url} is not an http:// address: the receiver speaks plain HTTP on its own machine");
        }
        let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_TIMEOUT)).proxy(None).build();
        let token = std::env::var("RONCHI_TOKEN").ok();
        Ok(Self { agent: config.into(), url: url.trim_end_matches('/').to_owned(), token })
    }

    fn get(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.agent.get(format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn status(&self) -> Result<Status> {
        let mut answer = self.get("/api/v1/status").call().context("no status")?;
        let text = answer.body_mut().with_config().limit(STATUS_BYTES_MAX).read_to_vec().context("no status")?;
        serde_json::from_slice(&text).context("this is not a ronchi receiver, or one of another version")
    }

    fn image(&self, name: &str) -> Result<Vec<u8>> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !name.chars().all(allowed) {
            bail!("names of results have only letters, digits, '.', '_' and '-'");
        }
        let answer =
            self.get(&format!("/api/v1/acq/latest/result/{name}")).header("accept", "application/octet-stream").call();
        let mut answer = match answer {
            Err(ureq::Error::StatusCode(404)) => bail!("no such result now; see --json for the names"),
            answer => answer.context("no image")?,
        };
        answer.body_mut().with_config().limit(IMAGE_BYTES_MAX).read_to_vec().context("no image")
    }
}

#[cfg(test)]
mod tests;
