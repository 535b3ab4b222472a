//! `ronchi serve` and `ronchi check-config`: a receiver as a configuration file describes it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::output::{note_line, say, say_line};
use anyhow::Result;
use clap::Args;
use ronchi_config::Plan;

use crate::receiver::{Options, Receiver};
use crate::stop;

/// Options of `ronchi serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration (see examples/ and docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON line per series instead of text
    #[arg(long)]
    json: bool,
}

/// Options of `ronchi check-config`.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// Configuration to check
    file: PathBuf,
}

impl ServeArgs {
    /// Receives until SIGINT or SIGTERM; exit code 1 if a series was not whole.
    pub fn run(self) -> Result<ExitCode> {
        let plan = Plan::from_file(&self.config)?;
        let receiver =
            Receiver::start(plan, Options { series_max: None, exact_name: false, stop: stop::on_signals()? })?;
        note_line!("{}", receiver.describe());
        let mut whole = true;
        for summary in receiver.summaries() {
            whole &= summary.is_whole();
            if self.json {
                say_line!("{}", serde_json::json!(summary));
            } else {
                say!("{summary}");
            }
        }
        receiver.join()?;
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl CheckConfigArgs {
    /// Says what is wrong, or what the receiver would do; touches nothing.
    pub fn run(self) -> Result<ExitCode> {
        let plan = Plan::from_file(&self.file)?;
        say_line!("{}: good", self.file.display());
        say_line!("{}", plan.describe());
        Ok(ExitCode::SUCCESS)
    }
}
