//! What a check found: counts, and flaws that name file, finding and expectation.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use ronchi_pipeline::GapReason;
use serde::Serialize;

use crate::storage::error::StorageError;
use crate::storage::reader::Condition;

/// Most flaws that are kept; [`Verification::flaw_count`] counts all.
pub const FLAWS_LISTED_MAX: usize = 100;

/// Something that is not as the format promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// Which file, relative to the data set.
    pub file: PathBuf,
    /// What of it.
    pub what: String,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
}

impl Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, what, found, expected } = self;
        write!(f, "{}: {what}: {found}, expected {expected}", file.display())
    }
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// Name of the data set, as its manifest has it.
    pub name: String,
    /// Identity of the acquisition.
    pub uuid: String,
    /// Finished, growing or left behind.
    pub condition: Condition,
    /// Pixels were not read.
    pub is_quick: bool,
    /// Frames of the acquisition; `None` while an open-ended run goes on.
    pub announced: Option<u64>,
    /// Tiles that have begun.
    pub tiles: u64,
    /// Frames of all tiles that were checked: all of them, or as far as progress promised.
    pub frames_promised: u64,
    /// Of these, frames that are there.
    pub frames_present: u64,
    /// Of these, frames that are not.
    pub frames_missing: u64,
    /// Frames that are not there by reason, as far as the manifest lists them; of all tiles.
    pub gaps: BTreeMap<GapReason, u64>,
    /// Segment files.
    pub segments: u64,
    /// Of these, sealed.
    pub segments_sealed: u64,
    /// Chunks whose checksum matches; with `is_quick`, chunks that have one.
    pub good: u64,
    /// Chunks that are present, but carry no promise that could be checked.
    pub unknown: u64,
    /// Chunks whose checksum does not match, but that were never durable: a receiver died, or a sync was refused.
    pub doubtful: u64,
    /// Tiles whose progress was lost together with their receiver: of them nothing is known to have been durable.
    pub progress_lost: u64,
    /// Bytes read from segments.
    pub bytes: u64,
    /// Flaws in all.
    pub flaw_count: u64,
    /// The first [`FLAWS_LISTED_MAX`] of them.
    pub flaws: Vec<Flaw>,
}

impl Verification {
    pub(super) fn new(condition: Condition) -> Self {
        Self {
            name: String::new(),
            uuid: String::new(),
            condition,
            is_quick: false,
            announced: None,
            tiles: 0,
            frames_promised: 0,
            frames_present: 0,
            frames_missing: 0,
            gaps: BTreeMap::new(),
            segments: 0,
            segments_sealed: 0,
            good: 0,
            unknown: 0,
            doubtful: 0,
            progress_lost: 0,
            bytes: 0,
            flaw_count: 0,
            flaws: Vec::new(),
        }
    }

    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.flaw_count == 0
    }

    /// Adds frames that were checked, and those of them that are not there.
    pub(super) fn count_frames(&mut self, promised: u64, missing: u64) {
        self.frames_promised = self.frames_promised.saturating_add(promised);
        self.frames_missing = self.frames_missing.saturating_add(missing);
    }

    /// Notes a flaw; `file` is relative to the data set.
    pub(super) fn flaw(&mut self, file: &Path, what: impl Display, found: impl Display, expected: impl Display) {
        self.flaw_count += 1;
        if self.flaws.len() < FLAWS_LISTED_MAX {
            let (what, found, expected) = (what.to_string(), found.to_string(), expected.to_string());
            self.flaws.push(Flaw { file: file.to_owned(), what, found, expected });
        }
    }

    /// Notes an error as a flaw of the file it names.
    pub(super) fn refused(&mut self, root: &Path, error: &StorageError, expected: impl Display) {
        match error {
            StorageError::Io { action, path, source } => {
                self.flaw(relative(root, path), format_args!("cannot {action}"), source, expected);
            }
            StorageError::Format { path, source } => self.flaw(relative(root, path), "content", source, expected),
            StorageError::Elsewhere { path, target, expected } => {
                let expected = format_args!("a link to <volume>/{}", expected.display());
                self.flaw(relative(root, path), "link", target.display(), expected);
            }
            other => self.flaw(Path::new("."), "content", other, expected),
        }
    }

    /// The value, or a flaw.
    pub(super) fn tell<T>(
        &mut self,
        root: &Path,
        result: Result<T, StorageError>,
        expected: impl Display,
    ) -> Option<T> {
        result.map_err(|error| self.refused(root, &error, expected)).ok()
    }
}

/// `path` as seen from the data set.
pub(super) fn relative<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(path)
}
