//! The page that `ronchi watch` draws: figures in words, one line each.

use std::fmt::Write;
use std::time::{Duration, Instant};

use ronchi_pipeline::GapReason;
use ronchi_sinks::live::{AcquisitionStatus, LinkStatus, State, Status};

/// Columns when the output is not a terminal.
pub(super) const WIDTH: usize = 80;

/// A status, and when it came.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) status: Status,
    pub(super) at: Instant,
}

impl Reading {
    pub(super) fn new(status: Status, at: Instant) -> Self {
        Self { status, at }
    }
}

/// What changed per second between the oldest and the newest reading.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    frames: f64,
    bytes: f64,
    written: f64,
    /// Part of the time that receive threads waited for room.
    waiting: f64,
}

impl Rates {
    fn of(readings: &[Reading]) -> Option<Self> {
        let [first, .., last] = readings else { return None };
        let seconds = last.status.uptime_ns.saturating_sub(first.status.uptime_ns) as f64 / 1e9;
        if seconds <= 0.0 {
            return None;
        }
        let links = |status: &Status, name: &str| status.links.iter().map(|link| link.counter(name)).sum::<u64>();
        let rate = |name| links(&last.status, name).saturating_sub(links(&first.status, name)) as f64 / seconds;
        let link_count = last.status.links.len().max(1) as f64;
        Some(Self {
            frames: rate("frames"),
            bytes: rate("bytes"),
            written: rate("written_bytes"),
            waiting: (rate("waited_ns") / 1e9 / link_count).min(1.0),
        })
    }
}

/// The page for these readings, oldest first; at least one.
pub(super) fn page(readings: &[Reading], columns: usize) -> String {
    let Some(Reading { status, .. }) = readings.last() else { return String::new() };
    let rates = Rates::of(readings);
    let mut lines = vec![title(status)];
    match status.acquisitions.first() {
        Some(acquisition) => {
            lines.push(progress(acquisition, rates, columns));
            lines.push(lost(acquisition, &status.links));
        }
        None => lines.push("no acquisition yet: waiting for the detector to start one".to_owned()),
    }
    lines.push(match rates {
        Some(rates) => format!("in        {:.0} frames/s, {}/s", rates.frames, bytes(rates.bytes)),
        None => "in        measuring".to_owned(),
    });
    lines.push(backlog(status, rates));
    lines.push(disk(status, rates));
    lines.extend(status.links.iter().enumerate().map(|(number, link)| link_line(readings, number, link)));
    let mut page = String::new();
    for line in lines {
        let _ = writeln!(page, "{}", plain(&line)); // Writing to a String cannot fail.
    }
    page
}

/// Without control characters: names come from elsewhere and must not steer the terminal.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn title(status: &Status) -> String {
    let Some(acquisition) = status.acquisitions.first() else {
        return format!("ronchi {}, up {}", status.version, time(status.uptime_ns as f64 / 1e9));
    };
    let mark = match acquisition.state {
        State::Waiting => "o",
        State::Running => ">",
        State::Complete => "=",
        State::Interrupted => "!",
        State::Failed => "X",
    };
    let recording = if acquisition.recording { "recording" } else { "NOT RECORDING" };
    let shape = acquisition.scan.map_or(String::new(), |[y, x]| format!(", scan {y} x {x}"));
    format!("{mark} {}  {}, {recording}{shape}", acquisition.name, acquisition.state.word())
}

fn progress(acquisition: &AcquisitionStatus, rates: Option<Rates>, columns: usize) -> String {
    let done = acquisition.visible.max(acquisition.durable);
    let Some(total) = acquisition.frame_count.filter(|&total| total > 0) else {
        return format!("progress  {done} frames, open-ended");
    };
    let part = (done as f64 / total as f64).min(1.0);
    let left = rates.filter(|rates| rates.frames > 0.0 && acquisition.state == State::Running);
    let left = left
        .map_or(String::new(), |rates| format!(", {} left", time(total.saturating_sub(done) as f64 / rates.frames)));
    let text = format!(" {:.0} %, {done} of {total} frames{left}", (part * 100.0).floor());
    let width = columns.saturating_sub("progress  []".len() + text.len() + 1).clamp(4, 40);
    let filled = (part * width as f64) as usize;
    format!("progress  [{}{}]{text}", "#".repeat(filled), ".".repeat(width - filled))
}

fn reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::NeverArrived => "never arrived",
        GapReason::IncompleteTiles => "incomplete",
        GapReason::Rejected => "arrived broken",
        GapReason::DroppedBackpressure => "dropped here for lack of room",
        GapReason::WriteFailed => "refused by the disk",
        GapReason::LostInCrash => "lost in a crash",
        GapReason::Damaged => "damaged",
        GapReason::Unknown => "missing, nobody knows why",
    }
}

fn lost(acquisition: &AcquisitionStatus, links: &[LinkStatus]) -> String {
    // Reasons are counted at the end; what the disk refuses is missing at once.
    let total = acquisition.gaps.values().sum::<u64>().max(acquisition.missing);
    let mut text = format!("lost      {total} frames");
    let parts = acquisition.gaps.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(&why, count)| format!("{count} {}", reason(why))).collect();
    if !parts.is_empty() {
        let _ = write!(text, ": {}", parts.join(", ")); // Writing to a String cannot fail.
    }
    let total = |name: &str| links.iter().map(|link| link.counter(name)).sum::<u64>();
    let waiting = total("live_skipped_frames").saturating_sub(total("backfilled_frames"));
    if waiting > 0 {
        let _ = write!(text, "; {waiting} not yet in the images");
    }
    text
}

fn backlog(status: &Status, rates: Option<Rates>) -> String {
    let used = status.pool.total.saturating_sub(status.pool.free);
    let queues: Vec<String> =
        status.queues.iter().map(|queue| format!("{} {}/{}", queue.name, queue.depth, queue.capacity)).collect();
    let blocks: u64 = status.queues.iter().map(|queue| queue.depth).sum();
    let mut text = format!("backlog   {blocks} blocks");
    if let Some(rates) = rates.filter(|rates| rates.bytes > 0.0) {
        let ms = (blocks * status.pool.slot_bytes) as f64 / rates.bytes * 1e3;
        let _ = write!(text, ", at most {ms:.0} ms"); // Writing to a String cannot fail.
    }
    let _ = write!(text, " ({}; pool {used}/{})", queues.join(", "), status.pool.total);
    if let Some(rates) = rates.filter(|rates| rates.waiting > 0.01) {
        let _ = write!(text, "; receiver waits {:.0} % of the time", rates.waiting * 100.0);
    }
    text
}

fn disk(status: &Status, rates: Option<Rates>) -> String {
    if !status.disk.volumes.is_empty() {
        return volumes(status);
    }
    let Some(free) = status.disk.free_bytes else { return "disk      free space unknown".to_owned() };
    let left = rates.filter(|rates| rates.written > 0.0).map_or(String::new(), |rates| {
        format!(", {} at {}/s", time(free as f64 / rates.written), bytes(rates.written))
    });
    format!("disk      {} free{left}", bytes(free as f64))
}

/// Volumes may share a disk, so nothing is added up.
fn volumes(status: &Status) -> String {
    let volumes = &status.disk.volumes;
    let known: Vec<u64> = volumes.iter().filter_map(|volume| volume.free_bytes).collect();
    let away = volumes.len() - known.len();
    let away = if away > 0 { format!(", {away} NOT THERE") } else { String::new() };
    let least = known.into_iter().min().map_or("nothing".to_owned(), |least| bytes(least as f64));
    format!("disk      {least} free on the fullest of {} volumes{away}", volumes.len())
}

fn link_line(readings: &[Reading], number: usize, link: &LinkStatus) -> String {
    let state = if link.connected { "connected" } else { "NOT CONNECTED" };
    let one_link = |reading: &Reading| {
        let mut reading = reading.clone();
        reading.status.links = reading.status.links.get(number).cloned().into_iter().collect();
        reading
    };
    let rates = Rates::of(&readings.iter().map(one_link).collect::<Vec<_>>()).unwrap_or_default();
    let mut text =
        format!("link {number}    {}  {state}, {:.0} frames/s, {}/s", link.name, rates.frames, bytes(rates.bytes));
    for (name, word) in [
        ("missing_frames", "missing"),
        ("dropped_frames", "dropped by the detector"),
        ("rejected_frames", "broken"),
        ("damaged_frames", "undecodable"),
        ("duplicate_frames", "twice"),
        ("unplaced_frames", "misplaced"),
        ("garbage_messages", "garbage"),
        ("reconnects", "reconnects"),
    ] {
        let count = link.counter(name);
        if count > 0 {
            let _ = write!(text, ", {count} {word}"); // Writing to a String cannot fail.
        }
    }
    text
}

/// The page when no status comes.
pub(super) fn unreachable(url: &str, error: &anyhow::Error, last: Option<&Reading>, now: Instant) -> String {
    let mut page = match last {
        Some(last) => {
            let age = now.saturating_duration_since(last.at).max(Duration::ZERO).as_secs_f64();
            let name = last.status.acquisitions.first().map_or("the receiver", |acquisition| acquisition.name.as_str());
            format!("X no answer for {}; the last known state of {name} may be old\n", time(age))
        }
        None => "X no answer\n".to_owned(),
    };
    let why = plain(&format!("{error:#}"));
    let _ = writeln!(page, "  {url}: {why}"); // Writing to a String cannot fail.
    page.push_str("  Is the receiver running, on this machine and with this [live] http address? Try: ronchi serve\n");
    page
}

/// A duration in two units at most.
fn time(seconds: f64) -> String {
    let s = seconds.clamp(0.0, 1e9) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..172_800 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} days", s / 86_400),
    }
}

/// Bytes in powers of 1000, as disks and networks count.
fn bytes(count: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let step = if count < 1.0 { 0 } else { ((count.log10() / 3.0) as usize).min(units.len() - 1) };
    let value = count / 1000_f64.powi(step as i32);
    let digits = if step == 0 { 0 } else { 2 };
    format!("{value:.digits$} {}", units[step])
}

/// At most `rows` lines of at most `columns` visible characters; colour sequences take no room.
pub(super) fn fit(page: &str, rows: usize, columns: usize) -> String {
    let mut out = String::with_capacity(page.len());
    for line in page.lines().take(rows) {
        let (mut visible, mut in_escape) = (0, false);
        for c in line.chars() {
            let is_mark = c == '\x1b' || in_escape;
            if !is_mark && visible == columns {
                continue;
            }
            visible += usize::from(!is_mark);
            in_escape = is_mark && (c == '\x1b' || !c.is_ascii_alphabetic());
            out.push(c);
        }
        out.push('\n');
    }
    out
}

/// Terminal text that draws a page over the last one, which had `drawn_rows` lines.
pub(super) fn over(page: &str, drawn_rows: usize) -> String {
    let up = if drawn_rows > 0 { format!("\x1b[{drawn_rows}A") } else { String::new() };
    let lines: String = page.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("{up}\r{lines}\x1b[J")
}
