//! Options for scans that come to every position several times.

use clap::Args;
use ronchi_pipeline::{Repeats, Scan};

/// How often every position is measured, and what becomes of its frames; what is not said stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(crate) struct RepeatArgs {
    /// Frames that the detector takes at each position before the beam moves on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    frames_per_position: Option<u32>,
    /// How often the whole scan is run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    passes: Option<u32>,
    /// What becomes of the frames of one position: their sum unless told
    #[arg(long, value_enum, value_name = "POLICY")]
    repeats: Option<Policy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// Add them up
    Sum,
    /// Their mean
    Mean,
    /// The last one counts
    Last,
    /// Keep all, along an axis of their own
    Stack,
}

impl RepeatArgs {
    /// The same scan with these repeats.
    pub(crate) fn apply(self, scan: Scan) -> Scan {
        let repeats = self.repeats.map(|policy| match policy {
            Policy::Sum => Repeats::Sum,
            Policy::Mean => Repeats::Mean,
            Policy::Last => Repeats::Last,
            Policy::Stack => Repeats::Stack,
        });
        Scan {
            frames_per_position: self.frames_per_position.unwrap_or(scan.frames_per_position),
            passes: self.passes.unwrap_or(scan.passes),
            repeats: repeats.unwrap_or(scan.repeats),
            ..scan
        }
    }
}
