//! What `ronchi reprocess` has done, for people and for scripts.

use std::fmt;
use std::path::PathBuf;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::ls::{human_bytes, printable};

/// What came of the frames; of a detector of several tiles, each tile of a frame counts, except in `reduced`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Frames {
    /// In the results, with all tiles.
    pub reduced: u64,
    /// Not there.
    pub missing: u64,
    /// Left out because they cannot be read or are not what was written.
    pub damaged: u64,
    /// Whose checksum was compared.
    pub verified: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The data set.
    pub dataset: PathBuf,
    /// What it was doing at the end.
    pub condition: &'static str,
    /// First frame that was looked at.
    pub first: u64,
    /// Frame after the last.
    pub end: u64,
    /// What came of them.
    pub frames: Frames,
    /// Of pixels that were read.
    pub bytes: u64,
    /// Until the results were there.
    pub seconds: f64,
    /// CPU seconds of all threads until then, user and system.
    pub cpu_s: f64,
    /// Threads.
    pub threads: usize,
    /// How pixels came from the disk.
    pub access: String,
    /// Names of results.
    pub results: Vec<String>,
    /// They are in the data set.
    pub is_stored: bool,
    /// Why they are not, though they should be.
    pub unstored: Option<String>,
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// Files that were not, because the format cannot hold the result.
    pub left_out: Vec<String>,
    /// A signal ended it.
    pub is_stopped: bool,
    /// What is wrong with damaged frames, the first of them.
    pub errors: Vec<String>,
}

impl Outcome {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(1e-9)
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("dataset", &self.dataset)?;
        map.serialize_entry("condition", self.condition)?;
        map.serialize_entry("range", &[self.first, self.end])?;
        map.serialize_entry("frames", &self.frames)?;
        map.serialize_entry("bytes", &self.bytes)?;
        map.serialize_entry("seconds", &self.seconds)?;
        map.serialize_entry("cpu_s", &self.cpu_s)?;
        map.serialize_entry("bytes_per_second", &self.per_second(self.bytes))?;
        map.serialize_entry("frames_per_second", &self.per_second(self.end - self.first))?;
        map.serialize_entry("threads", &self.threads)?;
        map.serialize_entry("access", &self.access)?;
        map.serialize_entry("results", &self.results)?;
        map.serialize_entry("stored", &self.is_stored)?;
        map.serialize_entry("not_stored_because", &self.unstored)?;
        map.serialize_entry("files", &self.files)?;
        map.serialize_entry("left_out", &self.left_out)?;
        map.serialize_entry("stopped", &self.is_stopped)?;
        map.serialize_entry("errors", &self.errors)?;
        map.end()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frames { reduced, missing, damaged, .. } = self.frames;
        let (bytes, rate) = (human_bytes(self.bytes), self.per_second(self.bytes) / 1e9);
        let name = printable(&self.dataset.display().to_string());
        writeln!(f, "{name}: {reduced} frames reduced, {bytes} in {:.2} s ({rate:.2} GB/s)", self.seconds)?;
        writeln!(f, "  frames {}..{}, {} threads, {}", self.first, self.end, self.threads, self.access)?;
        if missing > 0 {
            writeln!(f, "  {missing} are not there")?;
        }
        if damaged > 0 {
            writeln!(f, "  {damaged} ARE DAMAGED and were left out")?;
        }
        for error in &self.errors {
            writeln!(f, "    {}", printable(error))?;
        }
        if self.condition == "running" {
            writeln!(f, "  the data set is not finished: reduced as far as it had come")?;
        }
        let names = self.results.join(", ");
        match &self.unstored {
            _ if self.is_stored => writeln!(f, "  stored: {names}")?,
            Some(reason) => writeln!(f, "  not stored in the data set: {}", printable(reason))?,
            None => {}
        }
        for path in &self.files {
            writeln!(f, "  wrote {}", printable(&path.display().to_string()))?;
        }
        if !self.left_out.is_empty() {
            writeln!(f, "  no file can hold: {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}
