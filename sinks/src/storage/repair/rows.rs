//! The frame table while it is judged: one file of each column in memory, written back where it differs.

use std::fs;
use std::path::PathBuf;

use ronchi_pipeline::FrameFlag;

use super::Job;
use crate::storage::error::StorageError;
use crate::storage::table::{ARRAYS, COLUMNS, columns};

/// Columns, by their place in [`ARRAYS`].
const COUNTER: usize = 0;
const TIME: usize = 1;
const FLAG: usize = 2;
const CHECKSUM: usize = 3;

/// What the table says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) counter: u64,
    pub(super) time_ns: u64,
    pub(super) flag: u8,
    pub(super) crc32c: u32,
}

impl Row {
    pub(super) const MISSING: Self = Self { counter: 0, time_ns: 0, flag: FrameFlag::Missing as u8, crc32c: 0 };

    pub(super) fn is_ok(&self) -> bool {
        self.flag == FrameFlag::Ok as u8
    }

    /// Whether the frame came, and was refused for what it was.
    pub(super) fn is_rejected(&self) -> bool {
        self.flag == FrameFlag::Corrupt as u8 || self.flag == FrameFlag::Truncated as u8
    }
}

/// The table of one tile; frames are asked for in rising order.
pub(super) struct Table {
    dir: PathBuf,
    rows_per_file: u64,
    /// Checksums are kept: only tiles whose frames came compressed have none.
    keeps_checksums: bool,
    current: Option<RowFile>,
}

/// Rows of one file of each column.
struct RowFile {
    number: u64,
    columns: [Vec<u8>; COLUMNS],
    has_flags: bool,
    has_checksums: bool,
}

impl Table {
    /// The table in `dir`. Of a packed array without checksums, none are made: its frames came compressed.
    pub(super) fn new(dir: PathBuf, rows_per_file: u64, is_packed: bool) -> Self {
        let keeps_checksums = !is_packed || !dir.is_dir() || dir.join(ARRAYS[CHECKSUM].0).is_dir();
        Self { dir, rows_per_file, keeps_checksums, current: None }
    }

    /// Arrays of the table.
    pub(super) fn columns(&self) -> usize {
        columns(self.keeps_checksums)
    }

    fn path(&self, column: usize, number: u64) -> PathBuf {
        self.dir.join(ARRAYS[column].0).join("c").join(number.to_string())
    }

    /// Loads the file that holds `frame`, after writing back the one before.
    fn load(&mut self, job: &mut Job<'_>, frame: u64) -> Result<&mut RowFile, StorageError> {
        let number = frame / self.rows_per_file;
        if self.current.as_ref().is_none_or(|file| file.number != number) {
            self.flush(job)?;
            let read = |column: usize| {
                let (_, _, row_bytes, fill) = ARRAYS[column];
                let bytes = self.rows_per_file * row_bytes; // At most 65,536 rows.
                let found = fs::metadata(self.path(column, number)).is_ok_and(|file| file.len() == bytes);
                let rows = if found { fs::read(self.path(column, number)).ok() } else { None };
                let rows = rows.filter(|rows| rows.len() as u64 == bytes);
                (rows.is_some(), rows.unwrap_or_else(|| vec![fill; bytes as usize]))
            };
            let columns = [read(COUNTER), read(TIME), read(FLAG), read(CHECKSUM)];
            let (has_flags, has_checksums) = (columns[FLAG].0, columns[CHECKSUM].0);
            let columns = columns.map(|(_, rows)| rows);
            self.current = Some(RowFile { number, columns, has_flags, has_checksums });
        }
        Ok(self.current.as_mut().expect("loaded above"))
    }

    /// The row of a frame; `None` when the file of flags is lost, so that nothing is known.
    pub(super) fn row(&mut self, job: &mut Job<'_>, frame: u64) -> Result<Option<Row>, StorageError> {
        let at = (frame % self.rows_per_file) as usize;
        let file = self.load(job, frame)?;
        let long =
            |column: usize| file.columns[column].as_chunks::<8>().0.get(at).map_or(0, |b| u64::from_le_bytes(*b));
        let crc = file.columns[CHECKSUM].as_chunks::<4>().0.get(at).map_or(0, |b| u32::from_le_bytes(*b));
        let flag = file.columns[FLAG].get(at).copied().unwrap_or(FrameFlag::Missing as u8);
        let row = Row { counter: long(COUNTER), time_ns: long(TIME), flag, crc32c: crc };
        Ok(file.has_flags.then_some(row))
    }

    /// Whether the checksums of frames around `frame` are there.
    pub(super) fn has_checksums(&mut self, job: &mut Job<'_>, frame: u64) -> Result<bool, StorageError> {
        Ok(self.load(job, frame)?.has_checksums)
    }

    pub(super) fn set(&mut self, job: &mut Job<'_>, frame: u64, row: Row) -> Result<(), StorageError> {
        let at = (frame % self.rows_per_file) as usize;
        let columns = &mut self.load(job, frame)?.columns;
        columns[COUNTER][8 * at..8 * at + 8].copy_from_slice(&row.counter.to_le_bytes());
        columns[TIME][8 * at..8 * at + 8].copy_from_slice(&row.time_ns.to_le_bytes());
        columns[FLAG][at] = row.flag;
        columns[CHECKSUM][4 * at..4 * at + 4].copy_from_slice(&row.crc32c.to_le_bytes());
        Ok(())
    }

    /// Writes the rows in memory back where they differ. Rows of frames that are all missing need no file.
    pub(super) fn flush(&mut self, job: &mut Job<'_>) -> Result<(), StorageError> {
        let Some(file) = self.current.take() else { return Ok(()) };
        let is_empty = file.columns[FLAG].iter().all(|&flag| flag == FrameFlag::Missing as u8);
        let is_there = (0..self.columns()).any(|column| self.path(column, file.number).exists());
        if is_empty && !is_there {
            return Ok(());
        }
        // Flags last: what they promise is written down before they are.
        for column in [COUNTER, TIME, CHECKSUM, FLAG].into_iter().filter(|&column| column < self.columns()) {
            job.put(&self.path(column, file.number), &file.columns[column], "rows written anew")?;
        }
        Ok(())
    }
}
