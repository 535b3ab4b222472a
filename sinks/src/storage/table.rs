//! The frame table: counter, time stamp, flag and checksum of every frame, as small Zarr arrays written by position.
//!
//! # Invariants
//! - I1: a chunk file has its full length and its fill values before it gets its name.
//! - I2: rows are buffered and handed out once per publication; two rows of one frame never in the same batch, because
//!   operations of a batch are not ordered.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ronchi_pipeline::format::{FormatError, PlainArray};
use ronchi_pipeline::{FrameFlag, FrameRecord};
use serde_json::{Value, json};

use super::disk::{Action, Bytes, Disk, DiskFile, Op, Tag};
use super::error::{Context as _, StorageError};
use super::file_system::FileSystem;
use super::files;

/// Most frames in a chunk file.
pub(super) const ROWS_MAX: u64 = 65_536;
/// Chunk files kept open.
const OPEN_MAX: usize = 4;

/// Arrays of the table.
pub(super) const COLUMNS: usize = 4;
/// Name, Zarr type, bytes per row and fill byte of each array.
pub(super) const ARRAYS: [(&str, &str, u64, u8); COLUMNS] = [
    ("counter", "uint64", 8, 0),
    ("time_ns", "uint64", 8, 0),
    ("flags", "uint8", 1, FrameFlag::Missing as u8),
    (CHECKSUMS, "uint32", 4, 0),
];
/// The array of checksums, the last one. Tiles whose frames came compressed have none, nor have data sets of early receivers.
pub(super) const CHECKSUMS: &str = "crc32c";

/// Arrays of a table with or without checksums.
pub(super) const fn columns(has_checksums: bool) -> usize {
    if has_checksums { COLUMNS } else { COLUMNS - 1 }
}

/// Consecutive rows that wait to be written, one byte string per array.
struct Run {
    first: u64,
    columns: [Vec<u8>; COLUMNS],
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.columns[2].len() as u64
    }
}

/// The table of one tile.
pub(super) struct FrameTable {
    system: Arc<dyn FileSystem>,
    dir: PathBuf,
    rows_per_file: u64,
    /// Arrays that there are: the first so many.
    columns: usize,
    runs: Vec<Run>,
    files: BTreeMap<u64, Vec<DiskFile>>,
    unsynced: Vec<DiskFile>,
}

/// Frames of one chunk file for a series of this announced length.
pub(super) fn rows_per_file(announced: Option<u64>) -> u64 {
    announced.map_or(ROWS_MAX, |count| count.clamp(1, ROWS_MAX))
}

/// Name and metadata of every array, for `frame_count` frames.
pub(super) fn metadata(frame_count: u64, rows_per_file: u64) -> impl Iterator<Item = (&'static str, Value)> {
    ARRAYS.into_iter().map(move |(name, data_type, _, fill)| {
        let attributes = match name {
            "flags" => json!({ "meaning": { "0": "ok", "1": "missing", "2": "corrupt", "3": "truncated" } }),
            "time_ns" => json!({ "unit": "ns", "epoch": "1970-01-01T00:00:00Z" }),
            CHECKSUMS => json!({ "of": "the bytes of the frame as stored; 0 where it is missing" }),
            _ => json!({}),
        };
        let array = PlainArray {
            shape: vec![frame_count],
            chunk_shape: vec![rows_per_file],
            data_type: data_type.to_owned(),
            fill_value: json!(fill),
            dimension_names: vec!["frame".to_owned()],
            attributes,
        };
        (name, array.to_json())
    })
}

/// Creates or replaces the metadata of the first `columns` arrays, for `frame_count` frames.
pub(super) fn write_metadata(
    system: &dyn FileSystem,
    dir: &Path,
    frame_count: u64,
    (rows_per_file, columns): (u64, usize),
) -> Result<(), StorageError> {
    for (name, json) in metadata(frame_count, rows_per_file).take(columns) {
        let dir = dir.join(name);
        files::create_dirs(system, &dir.join("c"))?;
        files::replace_json(system, &dir.join("zarr.json"), &json)?;
    }
    Ok(())
}

/// Frames per chunk file, from the metadata of the table in `dir`.
pub(super) fn read_rows_per_file(dir: &Path) -> Result<u64, StorageError> {
    let path = dir.join("flags").join("zarr.json");
    let text = files::read_text(&path)?;
    let json: Option<Value> = serde_json::from_str(&text).ok();
    let rows = json.and_then(|json| json.pointer("/chunk_grid/configuration/chunk_shape/0")?.as_u64());
    rows.filter(|rows| (1..=ROWS_MAX).contains(rows)).ok_or_else(|| {
        let allowed = "1 to 65536 frames per chunk file";
        let source = FormatError::Field { field: "chunk_shape", got: format!("{rows:?}"), allowed };
        StorageError::Format { path, source }
    })
}

impl FrameTable {
    /// The table below `dir`, whose metadata is there, of so many arrays.
    pub(super) fn new(system: Arc<dyn FileSystem>, dir: PathBuf, (rows_per_file, columns): (u64, usize)) -> Self {
        Self { system, dir, rows_per_file, columns, runs: Vec::new(), files: BTreeMap::new(), unsynced: Vec::new() }
    }

    /// Adds rows of consecutive frames.
    pub(super) fn push(&mut self, first: u64, records: &[FrameRecord]) {
        if self.runs.last().is_none_or(|run| run.end() != first) {
            self.runs.push(Run { first, columns: Default::default() });
        }
        let Some(run) = self.runs.last_mut() else { return };
        for record in records {
            run.columns[0].extend(record.counter.to_le_bytes());
            run.columns[1].extend(record.time_ns.to_le_bytes());
            run.columns[2].push(record.flag as u8);
            run.columns[3].extend(record.crc32c.to_le_bytes());
        }
    }

    /// Declares frames missing after all.
    pub(super) fn push_missing(&mut self, first: u64, count: u64) {
        let record = FrameRecord { counter: 0, time_ns: 0, flag: FrameFlag::Missing, crc32c: 0 };
        for frame in first..first + count {
            self.push(frame, &[record]);
        }
    }

    /// Whether rows wait.
    pub(super) fn has_rows(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Drops the rows that wait.
    pub(super) fn forget_rows(&mut self) {
        self.runs.clear();
    }

    /// Writes of the rows that wait (I2).
    pub(super) fn take_writes(&mut self, disk: &mut dyn Disk, tag: Tag, out: &mut Vec<Op>) -> Result<(), StorageError> {
        let runs = std::mem::take(&mut self.runs);
        let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
        let mut is_held = false;
        for run in runs {
            let overlaps = taken.range(..run.end()).next_back().is_some_and(|(_, &end)| end > run.first);
            is_held |= overlaps; // Rows after a held one are held too: they may be of the same frame.
            if is_held {
                self.runs.push(run);
                continue;
            }
            taken.insert(run.first, run.end());
            self.push_writes(&run, disk, tag, out)?;
        }
        Ok(())
    }

    fn push_writes(&mut self, run: &Run, disk: &mut dyn Disk, tag: Tag, out: &mut Vec<Op>) -> Result<(), StorageError> {
        let mut first = run.first;
        while first < run.end() {
            let number = first / self.rows_per_file;
            let end = ((number + 1) * self.rows_per_file).min(run.end());
            let files = self.open(number, disk)?;
            for ((file, column), (_, _, row_bytes, _)) in files.into_iter().zip(&run.columns).zip(ARRAYS) {
                let range = (first - run.first) * row_bytes..(end - run.first) * row_bytes;
                let bytes = Bytes::Small(column[range.start as usize..range.end as usize].to_vec());
                let offset = (first % self.rows_per_file) * row_bytes;
                out.push(Op { file, action: Action::Write(offset, bytes), tag });
            }
            first = end;
        }
        Ok(())
    }

    fn open(&mut self, number: u64, disk: &mut dyn Disk) -> Result<Vec<DiskFile>, StorageError> {
        if !self.files.contains_key(&number) {
            let mut create = |i: usize| -> Result<DiskFile, StorageError> {
                let (name, _, row_bytes, fill) = ARRAYS[i];
                create_file(
                    &*self.system,
                    &self.dir.join(name).join("c").join(number.to_string()),
                    self.rows_per_file * row_bytes,
                    fill,
                )
                .map(|file| disk.attach_plain(file))
            };
            let files = (0..self.columns).map(&mut create).collect::<Result<_, _>>()?;
            self.files.insert(number, files);
            if self.files.len() > OPEN_MAX {
                self.files.pop_first();
            }
        }
        let files = self.files[&number].clone();
        for file in &files {
            if !self.unsynced.iter().any(|known| Arc::ptr_eq(&known.file, &file.file)) {
                self.unsynced.push(file.clone());
            }
        }
        Ok(files)
    }

    /// Files written since the last call: a sync of them makes their rows durable.
    pub(super) fn take_unsynced(&mut self) -> Vec<DiskFile> {
        std::mem::take(&mut self.unsynced)
    }
}

/// Creates a chunk file with its fill values, or opens it if it is there (I1).
fn create_file(system: &dyn FileSystem, path: &Path, bytes: u64, fill: u8) -> Result<File, StorageError> {
    if !path.exists() {
        files::replace(system, path, &vec![fill; bytes as usize], true)?;
    }
    system.open(path).context("open", path)
}
