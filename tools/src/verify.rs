//! `ronchi verify`: checks everything the format promises of a data set, and changes nothing.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use crate::output::{say, say_line};
use anyhow::{Result, anyhow};
use clap::Args;
use ronchi_pipeline::GapReason;
use ronchi_sinks::storage::{Condition, Depth, Verification, verify};

use crate::ls::{human_bytes, printable};
use crate::progress::bytes_bar;

/// Options of `ronchi verify`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 intact, 1 flaws found, 2 not a data set of this version, or wrong arguments.\n\
    A data set that is still being written is checked as far as it has come.")]
pub struct VerifyArgs {
    /// Data set to check, NAME.ronchi
    dataset: PathBuf,
    /// Check everything but the pixels
    #[arg(long)]
    quick: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    /// Checks; exit code 0 if nothing is wrong, 1 if something is. Errors: it is no data set.
    pub fn run(self) -> Result<ExitCode> {
        let depth = if self.quick { Depth::Quick } else { Depth::Full };
        let bar = bytes_bar("verify", self.json);
        let started = Instant::now();
        let mut watch = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let found = verify(&self.dataset, depth, &mut watch);
        bar.finish_and_clear();
        // The error says its own cause.
        let found = found.map_err(|error| anyhow!("{} cannot be checked: {error}", self.dataset.display()))?;
        let seconds = started.elapsed().as_secs_f64();
        if self.json {
            say_line!("{}", json(&found, seconds)?);
        } else {
            say!("{}", Report { path: &self.dataset, found: &found, seconds });
        }
        Ok(if found.is_intact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn json(found: &Verification, seconds: f64) -> Result<String> {
    let mut json = serde_json::to_value(found)?;
    json["intact"] = found.is_intact().into();
    json["seconds"] = seconds.into();
    Ok(serde_json::to_string_pretty(&json)?)
}

/// What was found, as text.
struct Report<'a> {
    path: &'a Path,
    found: &'a Verification,
    seconds: f64,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found;
        let verdict = match found.flaw_count {
            0 => "intact".to_owned(),
            1 => "1 FLAW".to_owned(),
            count => format!("{count} FLAWS"),
        };
        writeln!(f, "{}: {verdict}", printable(&self.path.display().to_string()))?;
        writeln!(f, "  {}", condition(found))?;
        let tiles = if found.tiles > 1 { format!(" of {} tiles", found.tiles) } else { String::new() };
        let Verification { frames_promised, frames_present, frames_missing, .. } = *found;
        writeln!(f, "  {frames_promised} frames{tiles}: {frames_present} there, {frames_missing} missing")?;
        for (reason, count) in &found.gaps {
            writeln!(f, "    {count} {}", word(*reason))?;
        }
        let Verification { segments, segments_sealed, good, unknown, doubtful, .. } = *found;
        let matches = if found.is_quick { "with a checksum" } else { "with the right checksum" };
        let (s, c) = (plural(segments, "segment"), plural(good, "chunk"));
        write!(f, "  {s} ({segments_sealed} sealed), {c} {matches}")?;
        if unknown > 0 {
            write!(f, ", {unknown} without one")?;
        }
        if doubtful > 0 {
            write!(f, ", {doubtful} were never durable and do not match")?;
        }
        let rate = found.bytes as f64 / 1e9 / self.seconds.max(1e-9);
        write!(f, "\n  {} read in {:.1} s", human_bytes(found.bytes), self.seconds)?;
        if found.is_quick {
            writeln!(f, ", pixels were not")?
        } else {
            writeln!(f, " ({rate:.2} GB/s)")?
        }
        if found.progress_lost > 0 {
            let tiles = plural(found.progress_lost, "tile");
            writeln!(f, "  how far {tiles} had come was lost in a power cut: what has a checksum was checked by it")?;
        }
        for flaw in &found.flaws {
            writeln!(f, "  FLAW: {}", printable(&flaw.to_string()))?;
        }
        match found.flaw_count - found.flaws.len() as u64 {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

fn plural(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn condition(found: &Verification) -> String {
    let announced = found.announced.map_or_else(|| "an open-ended run".to_owned(), |count| format!("{count} frames"));
    match found.condition {
        Condition::Running => format!("still being written, {announced}: checked as far as it has come"),
        Condition::Died => format!("its receiver died, {announced}: checked as far as it was durable"),
        Condition::Complete => format!("complete, {announced}"),
        Condition::Interrupted => format!("ended early, {announced}"),
        Condition::Failed => format!("failed while it was recorded, {announced}"),
    }
}

fn word(reason: GapReason) -> &'static str {
    match reason {
        GapReason::NeverArrived => "never arrived",
        GapReason::IncompleteTiles => "lack a tile",
        GapReason::Rejected => "arrived broken",
        GapReason::DroppedBackpressure => "dropped: there was no room for them",
        GapReason::WriteFailed => "refused by the disk",
        GapReason::LostInCrash => "lost in a crash",
        GapReason::Damaged => "damaged",
        GapReason::Unknown => "missing, and their receiver died before it could say why",
    }
}
