//! `ronchi repair`: makes a data set whole again that a crash or damage left behind.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use crate::output::{note_line, say, say_line};
use anyhow::{Result, anyhow};
use clap::Args;
use ronchi_sinks::storage::{Condition, Depth, Repair, RepairPlan, StorageError, Verification, repair, verify};
use serde_json::json;

use crate::ls::{human_bytes, printable};
use crate::progress::bytes_bar;

/// Exit code when somebody writes the data set.
const IN_USE: u8 = 3;

/// Options of `ronchi repair`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every frame whose checksum proves it stays as it is; every other one becomes a gap and reads as zeros.\n\
    Reading what is durable never needs a repair; it makes the data set finished, and complete for `ronchi verify`.\n\
    Exit codes: 0 nothing is wrong now, 1 something could not be repaired, 2 not a data set, or wrong arguments,\n\
    3 a receiver is writing it."
)]
pub struct RepairArgs {
    /// Data set to repair, NAME.ronchi
    dataset: PathBuf,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep the bytes of frames that cannot be proved, as torn/TILE/FRAME.bin in the data set
    #[arg(long)]
    keep_torn: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

impl RepairArgs {
    /// Repairs, then checks what came of it. Errors: it is no data set, or the disk refuses.
    pub fn run(self) -> Result<ExitCode> {
        let plan = RepairPlan {
            is_dry: self.dry_run,
            keeps_torn: self.keep_torn,
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            software: concat!("ronchi ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let bar = bytes_bar("repair", self.json);
        let started = Instant::now();
        let mut watch = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let done = repair(&self.dataset, &plan, &mut watch);
        bar.finish_and_clear();
        let done = match done {
            Err(error @ StorageError::InUse { .. }) => {
                note_line!("ronchi: {error}");
                return Ok(ExitCode::from(IN_USE));
            }
            // The error says its own cause.
            done => done.map_err(|error| anyhow!("{} cannot be repaired: {error}", self.dataset.display()))?,
        };
        let left = (!self.dry_run).then(|| verify(&self.dataset, Depth::Quick, &mut |_, _| {})).transpose()?;
        let seconds = started.elapsed().as_secs_f64();
        if self.json {
            let mut document = serde_json::to_value(&done)?;
            document["dry_run"] = self.dry_run.into();
            document["seconds"] = seconds.into();
            document["flaws"] = json!(left.as_ref().map_or(&[][..], |left| &left.flaws));
            say_line!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            let report =
                Report { path: &self.dataset, done: &done, left: left.as_ref(), is_dry: self.dry_run, seconds };
            say!("{report}");
        }
        let is_whole = left.is_none_or(|left| left.is_intact());
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What was done, as text.
struct Report<'a> {
    path: &'a Path,
    done: &'a Repair,
    left: Option<&'a Verification>,
    is_dry: bool,
    seconds: f64,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repair { before, frames, present, lost, segments, bytes, change_count, ref changes } = *self.done;
        let verdict = match (change_count, self.is_dry) {
            (0, _) => "nothing to repair".to_owned(),
            (count, true) => format!("{count} changes would be made"),
            (count, false) => format!("repaired, {count} changes"),
        };
        writeln!(f, "{}: {verdict}", printable(&self.path.display().to_string()))?;
        if before == Condition::Died {
            writeln!(f, "  its receiver had died")?;
        }
        writeln!(f, "  {frames} frames: {present} there and proved, {} missing", frames - present)?;
        if lost > 0 {
            writeln!(f, "  {lost} FRAMES that had been there could not be proved")?;
        }
        let rate = bytes as f64 / 1e9 / self.seconds.max(1e-9);
        let (read, seconds) = (human_bytes(bytes), self.seconds);
        writeln!(f, "  {read} in {segments} segments read in {seconds:.1} s ({rate:.2} GB/s)")?;
        for change in changes {
            let what = if self.is_dry { "would be changed" } else { "changed" };
            writeln!(f, "  {what}: {}: {}", printable(&change.file.display().to_string()), printable(&change.what))?;
        }
        match change_count - changes.len() as u64 {
            0 => {}
            more => writeln!(f, "  and {more} more")?,
        }
        for flaw in self.left.iter().flat_map(|left| &left.flaws) {
            writeln!(f, "  LEFT: {}", printable(&flaw.to_string()))?;
        }
        Ok(())
    }
}
