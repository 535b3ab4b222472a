//! The frame table against gaps and segments: which frames are there, told twice, must be told alike.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ronchi_pipeline::FrameFlag;
use ronchi_pipeline::format::PlainArray;
use serde_json::{Value, json};

use super::report::relative;
use super::{Audit, Subject};
use crate::storage::files;
use crate::storage::reader::{Condition, ReaderTile};

const OK: u8 = FrameFlag::Ok as u8;
const MISSING: u8 = FrameFlag::Missing as u8;
const FLAG_MAX: u8 = FrameFlag::Truncated as u8;

/// Frames by what their flags say, below the promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ok: u64,
    pub(super) missing: u64,
}

/// Rows of one file of the table, with the buffers they are read into.
#[derive(Default)]
struct Rows {
    flags: Vec<u8>,
    counters: Vec<u8>,
    times: Vec<u8>,
}

impl Audit<'_> {
    /// Checks metadata, files and flags of the table.
    pub(super) fn check_rows(&mut self, subject: &Subject) -> Counts {
        self.check_row_metadata(&subject.tile);
        let mut counts = Counts::default();
        let mut rows = Rows::default();
        let mut end = 0;
        for number in self.row_files(subject) {
            let per_file = subject.tile.rows_per_file();
            let first = number.saturating_mul(per_file);
            if first >= subject.tile.array.frame_count {
                if self.condition.is_finished() {
                    let path = row_path(&subject.tile, "flags", number);
                    let expected = format_args!("none beyond frame {}", subject.tile.array.frame_count);
                    self.report.flaw(relative(self.root, &path), "file", "there", expected);
                }
                break; // Nothing is promised there, and the numbers only grow.
            }
            self.check_missing(subject, end.min(subject.promised)..first.min(subject.promised), &mut counts);
            self.check_file(subject, first, &mut rows, &mut counts);
            end = first + per_file;
        }
        self.check_missing(subject, end.min(subject.promised)..subject.promised, &mut counts);
        counts
    }

    /// Every array of the table is what its name says, as long as the frames.
    fn check_row_metadata(&mut self, tile: &ReaderTile) {
        for (name, data_type, _, fill) in tile.columns() {
            let path = tile.base_dir().join("frame_table").join(name).join("zarr.json");
            let text = files::read_text(&path);
            let Some(text) = self.report.tell(self.root, text, "metadata of the frame table") else { continue };
            let found: Value = serde_json::from_str(&text).unwrap_or_default();
            let expected = PlainArray {
                shape: vec![tile.array.frame_count],
                chunk_shape: vec![tile.rows_per_file()],
                data_type: data_type.to_owned(),
                fill_value: json!(fill),
                dimension_names: vec!["frame".to_owned()],
                attributes: Value::Null,
            };
            let is_growing = !self.condition.is_finished();
            for (key, expected) in expected.to_json().as_object().into_iter().flatten() {
                let may_differ = key == "attributes" || key == "shape" && is_growing;
                if !may_differ && found.get(key) != Some(expected) {
                    let found = found.get(key).map_or("nothing".to_owned(), Value::to_string);
                    self.report.flaw(relative(self.root, &path), key, found, expected);
                }
            }
        }
    }

    /// Numbers of the files that any of the arrays has; each is there once per array, with its full length.
    fn row_files(&mut self, subject: &Subject) -> BTreeSet<u64> {
        let tile = &subject.tile;
        let mut numbers = BTreeSet::new();
        for (name, ..) in tile.columns() {
            let listed = files::numbered(&tile.base_dir().join("frame_table").join(name).join("c"));
            numbers.extend(self.report.tell(self.root, listed, "a directory of rows").unwrap_or_default());
        }
        for &number in &numbers {
            // While it grows, a file may get its name between two listings.
            let first = number.saturating_mul(tile.rows_per_file());
            if !self.condition.is_finished() && first >= subject.promised {
                continue;
            }
            for (name, _, row_bytes, _) in tile.columns() {
                let path = row_path(tile, name, number);
                let expected = tile.rows_per_file() * row_bytes;
                let found = match fs::metadata(&path) {
                    Ok(metadata) if !metadata.is_file() => "not a file".to_owned(),
                    Ok(metadata) if metadata.len() == expected => continue,
                    Ok(metadata) => format!("{} bytes", metadata.len()),
                    Err(error) => error.to_string(),
                };
                self.report.flaw(relative(self.root, &path), "length", found, format_args!("{expected} bytes"));
            }
        }
        numbers
    }

    /// Rows of one file, from frame `first` on.
    fn check_file(&mut self, subject: &Subject, first: u64, rows: &mut Rows, counts: &mut Counts) {
        let tile = &subject.tile;
        let per_file = tile.rows_per_file();
        let end = (first + per_file).min(subject.promised).max(first);
        let path = row_path(tile, "flags", first / per_file);
        let is_finished = self.condition.is_finished();
        let all = if is_finished { per_file } else { end - first } as usize;
        let Rows { flags, counters, times } = rows;
        let columns = [(flags, "flags", 1, MISSING), (counters, "counter", 8, 0), (times, "time_ns", 8, 0)];
        for (column, name, row_bytes, fill) in columns {
            column.clear();
            column.resize(all * row_bytes, fill);
            // A file that is short or missing has its flaw already; what it does not hold counts as fill.
            let _ = tile.read_rows(first, name, row_bytes as u64, column);
        }
        let promised = (end - first) as usize;
        if let Some(at) = rows.flags.iter().position(|&flag| flag > FLAG_MAX) {
            let what = format!("flag of frame {}", first + at as u64);
            self.report.flaw(relative(self.root, &path), what, rows.flags[at], "0 to 3");
        }
        if let Some(at) = rows.flags[promised..].iter().position(|&flag| flag != MISSING) {
            let what = format!("flag of frame {}", end + at as u64);
            self.report.flaw(relative(self.root, &path), what, rows.flags[promised + at], "1: it is beyond the end");
        }
        if is_finished && self.condition != Condition::Failed {
            // A disk that refuses a row may have taken the columns before.
            self.check_fill(tile, first, rows);
        }
        let mut at = 0;
        while at < promised {
            let is_ok = rows.flags[at] == OK;
            let rest = &rows.flags[at..promised];
            let until = at + rest.iter().position(|&flag| (flag == OK) != is_ok).unwrap_or(rest.len());
            let frames = first + at as u64..first + until as u64;
            match is_ok {
                true => self.check_present(subject, &path, frames, counts),
                false => self.check_missing(subject, frames, counts),
            }
            at = until;
        }
    }

    /// Frames that are missing have no counter and no time.
    fn check_fill(&mut self, tile: &ReaderTile, first: u64, rows: &Rows) {
        for (name, column) in [("counter", &rows.counters), ("time_ns", &rows.times)] {
            let values = rows.flags.iter().zip(column.as_chunks::<8>().0);
            let is_wrong = |(flag, value): (&u8, &[u8; 8])| *flag == MISSING && *value != [0; 8];
            if let Some(at) = values.clone().position(is_wrong) {
                let path = row_path(tile, name, first / tile.rows_per_file());
                let value = column.as_chunks::<8>().0.get(at).map_or(0, |&bytes| u64::from_le_bytes(bytes));
                let what = format!("row of frame {}, which is missing", first + at as u64);
                self.report.flaw(relative(self.root, &path), what, value, 0);
            }
        }
    }

    /// Frames whose flags say they are there: in no gap, and their segment exists.
    fn check_present(&mut self, subject: &Subject, path: &Path, frames: Range<u64>, counts: &mut Counts) {
        counts.ok += frames.end - frames.start;
        if self.condition.is_finished()
            && let Some(frame) = subject.gaps.first_listed(&frames)
        {
            let expected = format_args!("not 0: zarr.json lists it as missing in tile {}", subject.tile.id);
            self.report.flaw(relative(self.root, path), format_args!("flag of frame {frame}"), OK, expected);
        }
        let layout = &subject.tile.array.layout;
        for number in layout.segment_of(frames.start)..=layout.segment_of(frames.end - 1) {
            if subject.segments.binary_search(&number).is_err() {
                let path = subject.tile.segment_path(number);
                let first = frames.start.max(number * layout.frames_per_segment());
                let expected = format_args!("a segment: frame {first} is present by its flag");
                self.report.flaw(relative(self.root, &path), "file", "not there", expected);
            }
        }
    }

    /// Frames whose flags say they are missing: all of them in gaps, once the data set is finished.
    fn check_missing(&mut self, subject: &Subject, frames: Range<u64>, counts: &mut Counts) {
        if frames.is_empty() {
            return;
        }
        counts.missing += frames.end - frames.start;
        if self.condition.is_finished()
            && let Some(frame) = subject.gaps.first_unlisted(&frames)
        {
            let what = format!("gaps of tile {}", subject.tile.id);
            let expected = format_args!("a gap: its flag says it is not there");
            self.report.flaw(Path::new("zarr.json"), what, format_args!("none at frame {frame}"), expected);
        }
    }
}

/// Where rows of the frame table lie.
pub(super) fn row_path(tile: &ReaderTile, name: &str, number: u64) -> PathBuf {
    tile.base_dir().join("frame_table").join(name).join("c").join(number.to_string())
}
