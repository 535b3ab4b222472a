//! `ronchi ls`: the data sets of a directory, one line each, from their small files alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::output::{note_line, say, say_line};
use anyhow::Result;
use clap::Args;
use ronchi_sinks::storage::{Facts, data_sets_in, is_data_set};
use serde::Serialize;

/// Options of `ronchi ls`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0, or 1 when a data set cannot be read, 2 when the directory cannot.\n\
    States: running, complete, interrupted (ended early), failed, died (its receiver did).\n\
    `ronchi verify` checks what is on disk; this only reads what was written about it.")]
pub struct LsArgs {
    /// Directory of data sets, or one data set
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// One data set.
#[derive(Debug, Serialize)]
struct Entry {
    path: PathBuf,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    DataSet(Facts),
    Broken { error: String },
}

impl LsArgs {
    /// Lists; exit code 1 if a data set could not be read. Errors: the directory cannot be listed.
    pub fn run(self) -> Result<ExitCode> {
        let entries = list(&self.dir)?;
        if self.json {
            say_line!("{}", serde_json::to_string_pretty(&entries)?);
        } else if entries.is_empty() {
            note_line!("No data sets (NAME.ronchi) in {}.", self.dir.display());
        } else {
            say!("{}", page(&entries));
        }
        let is_broken = entries.iter().any(|entry| matches!(entry.content, Content::Broken { .. }));
        Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn list(dir: &Path) -> Result<Vec<Entry>> {
    let mut paths = if is_data_set(dir) { vec![dir.to_owned()] } else { data_sets_in(dir)? };
    paths.sort();
    let entry = |path: PathBuf| {
        let content = match Facts::of(&path) {
            Ok(facts) => Content::DataSet(facts),
            Err(error) => Content::Broken { error: error.to_string() }, // It says its own cause.
        };
        Entry { path, content }
    };
    Ok(paths.into_iter().map(entry).collect())
}

const HEAD: [&str; 9] = ["NAME", "STATE", "SCAN", "DETECTOR", "TYPE", "DURABLE/FRAMES", "MISSING", "SIZE", "CREATED"];
/// Columns of numbers stand right.
const IS_RIGHT: [bool; 9] = [false, false, true, true, false, true, true, true, false];

/// Aligned columns; a data set that cannot be read has its reason instead.
fn page(entries: &[Entry]) -> String {
    let rows: Vec<(String, Result<[String; 8], String>)> = entries.iter().map(row).collect();
    let mut widths = HEAD.map(|head| head.len());
    for (name, cells) in &rows {
        widths[0] = widths[0].max(name.chars().count());
        for (width, cell) in widths[1..].iter_mut().zip(cells.iter().flatten()) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for ((cell, &width), is_right) in cells.iter().zip(&widths).zip(IS_RIGHT) {
            // Writing to a string cannot fail.
            let _ = if is_right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut page = line(&HEAD);
    for (name, cells) in &rows {
        page += &match cells {
            Ok(cells) => {
                let cells: Vec<&str> = std::iter::once(name).chain(cells).map(String::as_str).collect();
                line(&cells)
            }
            Err(error) => line(&[name, &format!("CANNOT BE READ: {error}")]),
        };
    }
    page
}

fn row(entry: &Entry) -> (String, Result<[String; 8], String>) {
    let file_name = entry.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name = printable(file_name.trim_end_matches(".ronchi"));
    let facts = match &entry.content {
        Content::DataSet(facts) => facts,
        Content::Broken { error } => {
            let directory = entry.path.display().to_string() + "/";
            return (name, Err(printable(&error.replace(&directory, ""))));
        }
    };
    let shape = |[height, width]: [u32; 2]| format!("{height}x{width}");
    let announced = facts.announced.map_or("?".to_owned(), |count| count.to_string());
    let created: String = facts.created.chars().take(19).collect();
    let cells = [
        facts.state.word().to_owned(),
        facts.scan.map_or("-".to_owned(), shape),
        shape(facts.detector),
        printable(&facts.pixel),
        format!("{}/{announced}", facts.durable),
        facts.missing.to_string(),
        human_bytes(facts.bytes),
        printable(&created.replace('T', " ")),
    ];
    (name, Ok(cells))
}

/// Text from a file or a name, without what could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Three figures and a decimal unit, e.g. `8.59 GB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_sinks::storage::Condition;

    /// Sizes keep three figures, also where rounding reaches the next unit.
    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (12_345, "12.3 kB"),
        ];
        let large = [(999_600, "1.00 MB"), (8_589_934_592, "8.59 GB"), (u64::MAX, "18.4 EB"), (123_456_789, "123 MB")];
        for (bytes, text) in cases.into_iter().chain(large) {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    /// A reason stands where the columns would be; columns are as wide as their widest cell.
    #[test]
    fn a_broken_data_set_does_not_spoil_the_columns() {
        let facts = Facts {
            name: "a".into(),
            uuid: "0c7b1b2e-0000-4000-8000-000000000000".into(),
            state: Condition::Complete,
            scan: Some([256, 256]),
            detector: [512, 512],
            pixel: ">u2".into(),
            tiles: 1,
            durable: 65_536,
            announced: Some(65_536),
            missing: 0,
            bytes: 34_359_738_368,
            created: "2026-07-01T12:00:00Z".into(),
        };
        let broken = Content::Broken { error: "cannot read d/b\u{1b}.ronchi/zarr.json: gone".into() };
        let entries = [
            Entry { path: "d/a.ronchi".into(), content: Content::DataSet(facts) },
            Entry { path: "d/b\u{1b}.ronchi".into(), content: broken },
        ];
        let expected = "\
NAME  STATE        SCAN  DETECTOR  TYPE  DURABLE/FRAMES  MISSING     SIZE  CREATED
a     complete  256x256   512x512  >u2      65536/65536        0  34.4 GB  2026-07-01 12:00:00
b\u{fffd}    CANNOT BE READ: cannot read zarr.json: gone
";
        assert_eq!(page(&entries), expected);
    }
}
