//! What can go wrong with files, in words for the operator.

use std::io;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::FormatError;

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The name cannot be a directory of ours.
    #[error(
        "{name:?} is no name for a data set or result: use letters, digits and . _ - (at most 128), not first . _ -"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// A data set of this name is there already.
    #[error("{path} exists already")]
    Exists {
        /// Its directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {source}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A series does not fit beside the reserve.
    #[error(
        "no room for {}: {need_bytes} bytes needed, {}; {}",
        series(*.frame_count),
        free(*.free_bytes, *.reserve_bytes),
        fitting(*.frames_fit, *.rows_fit)
    )]
    NoRoom {
        /// Announced frames; `None` for an open-ended run.
        frame_count: Option<u64>,
        /// What the series takes; an open-ended run, to begin with.
        need_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What of it stays free.
        reserve_bytes: u64,
        /// So many announced frames would fit.
        frames_fit: u64,
        /// So many scan rows would fit; `None` without a scan.
        rows_fit: Option<u64>,
    },
    /// A segment would leave less than the reserve.
    #[error("the disk is full: {need_bytes} bytes needed for a segment, {}", free(*.free_bytes, *.reserve_bytes))]
    Reserve {
        /// What the segment and what describes it take.
        need_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What of it stays free.
        reserve_bytes: u64,
    },
    /// Frames come compressed, and the writer was started for pixels.
    #[error("frames that come compressed cannot be stored: this receiver was started to store pixels")]
    Encoding,
    /// No volume takes segments any more.
    #[error("all {count} volumes have failed")]
    NoVolume {
        /// How many there are.
        count: usize,
    },
    /// A packed segment whose page 1 is empty.
    #[error("{path} has no HDF5 face, as an early receiver made it: `ronchi repair` gives it one")]
    NoFace {
        /// Which file.
        path: PathBuf,
    },
    /// The link of a segment does not lead to it: nothing is read or written there.
    #[error("{path} is a link to {target}, which is no segment of this data set: it must lead to <volume>/{expected}")]
    Elsewhere {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
        /// Where it must, below the directory of a volume.
        expected: PathBuf,
    },
    /// A segment that must be written does not say that it belongs to the data set whose link leads there.
    #[error(
        "{path} is a link to {target}, whose page 0 does not say that it is of this data set: nothing is written there; \
         put a copy of the file in place of the link to have it repaired all the same"
    )]
    Unidentified {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The link of a segment leads nowhere.
    #[error(
        "{path} is a link to {target}, which is not there: is its disk mounted? Remove the link to give up its frames"
    )]
    Unmounted {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// There is a link where a data set has none.
    #[error("{path} is a link: a data set has links only to segments, and nothing is written through any other")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A size does not agree with the shape.
    #[error("result {name} has {got_bytes} bytes, its shape needs {want_bytes}")]
    ResultSize {
        /// Name of the result.
        name: String,
        /// As given.
        got_bytes: u64,
        /// By shape and type.
        want_bytes: u64,
    },
    /// There is neither a manifest nor a segment.
    #[error("{path} is not a data set: it has neither a manifest nor frames")]
    NoDataSet {
        /// The directory.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{path} is being written by another process")]
    InUse {
        /// The data set.
        path: PathBuf,
    },
    /// The data set has no such tile.
    #[error("tile {tile} is not in {path}")]
    NoTile {
        /// As asked for.
        tile: u32,
        /// The data set.
        path: PathBuf,
    },
    /// Pixels that are there cannot be read, or are not what was written.
    #[error("{path}: chunk {chunk} (frames {first} to {last}): {reason}")]
    Chunk {
        /// The segment file.
        path: PathBuf,
        /// Chunk in the segment.
        chunk: u32,
        /// First frame of the chunk.
        first: u64,
        /// Last frame of it.
        last: u64,
        /// What is wrong.
        reason: String,
    },
    /// More was asked for than the data set holds or one call gives.
    #[error("frames {first}..{end} asked for, {allowed} may be read at once")]
    Range {
        /// First frame.
        first: u64,
        /// End of the range.
        end: u64,
        /// What is allowed.
        allowed: String,
    },
}

impl StorageError {
    /// Whether the disk works and has no room.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Reserve { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

fn series(frame_count: Option<u64>) -> String {
    frame_count.map_or("the first segment of an open-ended run".to_owned(), |count| format!("{count} frames"))
}

fn free(free_bytes: u64, reserve_bytes: u64) -> String {
    let of_them = if reserve_bytes <= free_bytes { " of them" } else { "" };
    format!("{free_bytes} free, {reserve_bytes}{of_them} kept in reserve")
}

fn fitting(frames: u64, rows: Option<u64>) -> String {
    let rows = rows.map(|rows| format!(" ({rows} scan rows)")).unwrap_or_default();
    format!("{frames} frames{rows} would fit")
}

/// Adds action and path to an I/O error.
pub(super) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::Io { action, path: path.to_owned(), source: source.into() })
    }
}
