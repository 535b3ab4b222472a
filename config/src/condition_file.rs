//! Corrections of a detector, chosen scan positions and shifts of masks, from `.npy` files.
//!
//! # Limits
//! Those of masks: files up to 512 MiB, axes up to 65 536.

use std::path::{Path, PathBuf};

use ronchi_pipeline::format::npy;
use ronchi_pipeline::reduce::{
    ConditionFile, Correction, CorrectionError, Descan, Flaws, LIST_FRAMES_MAX, Positions, Roi, VirtualDetector,
};
use ronchi_pipeline::{AXIS_MAX, NavShape, SigShape, crc32c};

use crate::mask_file::{self, MaskError};

/// The number that says of a frame that it has no position, and the largest one.
const MAX_INDEX: f64 = u32::MAX as f64;

/// Files that describe how pixels are corrected; each `(height, width)` of the whole detector, C order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorrectionFiles {
    /// Counts without a beam.
    pub dark: Option<PathBuf>,
    /// What counts minus dark counts are multiplied by; 0 and NaN make a pixel bad.
    pub gain: Option<PathBuf>,
    /// Not 0 where a pixel is bad.
    pub bad: Option<PathBuf>,
}

/// Why files describe no correction, or no choice of positions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// A file is no array.
    #[error(transparent)]
    File(#[from] MaskError),
    /// Two of them are of different detectors.
    #[error("{}: shape ({}, {}), another file has ({}, {})", path.display(), got.height, got.width, other.height, other.width)]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Its shape.
        got: SigShape,
        /// That of a file before.
        other: SigShape,
    },
    /// A shift that is none.
    #[error(
        "{}: shift ({}, {}) at row {y}, column {x}, expected whole numbers from -{AXIS_MAX} to {AXIS_MAX}",
        path.display(), shift[0], shift[1]
    )]
    Shift {
        /// Which file.
        path: PathBuf,
        /// Scan row.
        y: u32,
        /// Position in it.
        x: u32,
        /// The shift.
        shift: [f64; 2],
    },
    /// No position.
    #[error("{}: {text:?} for frame {frame}, expected a whole number (below 0: none), or two numbers y x", path.display())]
    Position {
        /// Which file.
        path: PathBuf,
        /// The frame.
        frame: usize,
        /// What is there, cut to its first characters.
        text: String,
    },
    /// A list that is too long.
    #[error("{}: positions of more than {LIST_FRAMES_MAX} frames", path.display())]
    Frames {
        /// Which file.
        path: PathBuf,
    },
    /// What they say cannot be done.
    #[error(transparent)]
    Correction(#[from] CorrectionError),
}

impl ConditionError {
    /// Which of the files is at fault: `dark`, `gain` or `bad`; the last one where it is all of them together.
    pub(crate) fn key(&self, files: &CorrectionFiles) -> &'static str {
        let path = match self {
            Self::File(error) => Some(error.path()),
            Self::Shape { path, .. }
            | Self::Shift { path, .. }
            | Self::Position { path, .. }
            | Self::Frames { path } => Some(path.as_path()),
            Self::Correction(_) => None,
        };
        let named = [("bad", &files.bad), ("gain", &files.gain), ("dark", &files.dark)];
        let mut named = named.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)));
        named.find(|&(_, file)| path.is_none_or(|path| path == file)).map_or("dark", |(key, _)| key)
    }
}

/// Reads what corrects a detector, and which files say so; `None` when no file is named.
pub fn correction(files: &CorrectionFiles) -> Result<Option<(Correction, Vec<ConditionFile>)>, ConditionError> {
    let (mut shape, mut marks) = (None, Vec::new());
    let mut read = |what: &'static str, path: &Option<PathBuf>| -> Result<Option<Vec<f64>>, ConditionError> {
        let Some(path) = path else { return Ok(None) };
        let (got, numbers, mark) = numbers(what, path)?;
        marks.push(mark);
        match *shape.get_or_insert(got) {
            other if other == got => Ok(Some(numbers)),
            other => Err(ConditionError::Shape { path: path.clone(), got, other }),
        }
    };
    let (dark, gain) = (read("dark", &files.dark)?, read("gain", &files.gain)?);
    let bad = read("bad", &files.bad)?;
    let bad = bad.map(|numbers| numbers.into_iter().map(|number| number != 0.0).collect());
    let Some(shape) = shape else { return Ok(None) };
    Ok(Some((Correction::new(shape, Flaws { dark, gain, bad })?, marks)))
}

/// Reads which scan positions are reduced: those whose number is not 0, `(rows, positions per row)`.
pub fn roi(path: &Path) -> Result<(Roi, ConditionFile), ConditionError> {
    let (SigShape { height, width }, numbers, mark) = numbers("roi", path)?;
    let chosen = numbers.into_iter().map(|number| number != 0.0).collect();
    let roi = Roi::new(NavShape { height, width }, chosen).expect("a file has as many numbers as its shape says");
    Ok((roi, mark))
}

/// Reads how far masks are moved at every scan position: whole numbers, `(rows, positions per row, 2)`, the last axis `(dy, dx)`
/// in detector pixels.
pub fn descan(path: &Path) -> Result<(Descan, ConditionFile), ConditionError> {
    let bytes = mask_file::read_bytes(path)?;
    let vectors = npy::read_vectors(&bytes);
    let (height, width, vectors) = vectors.map_err(|source| MaskError::Content { path: path.to_owned(), source })?;
    let is_shift = |number: &f64| number.fract() == 0.0 && number.abs() <= f64::from(AXIS_MAX); // Of NaN neither.
    if let Some(at) = vectors.iter().position(|shift| !shift.iter().all(is_shift)) {
        let (y, x) = (at as u32 / width, at as u32 % width);
        return Err(ConditionError::Shift { path: path.to_owned(), y, x, shift: vectors[at] });
    }
    let shifts = vectors.into_iter().map(|shift| shift.map(|number| number as i32)).collect();
    let descan =
        Descan::table(NavShape { height, width }, shifts).expect("a file has as many numbers as its shape says");
    Ok((descan, mark("descan", path, &bytes)))
}

/// Reads where every frame belongs: the number of its position in C order, below 0 or 2^32 - 1 for none; or the place of the
/// beam `(y, x)` in scan pixels. A NumPy file `(frames)` or `(frames, 2)`, or a text with a line for every frame.
pub fn positions(path: &Path) -> Result<(Positions, ConditionFile), ConditionError> {
    let bytes = mask_file::read_bytes(path)?;
    let (each, numbers) = match path.extension().is_some_and(|extension| extension == "npy") {
        true => npy::read_list(&bytes).map_err(|source| MaskError::Content { path: path.to_owned(), source })?,
        false => lines(path, &bytes)?,
    };
    let positions = match each {
        1 => {
            let wrong =
                |frame| ConditionError::Position { path: path.to_owned(), frame, text: numbers[frame].to_string() };
            let index = |(frame, &number): (usize, &f64)| match number {
                number if number.fract() != 0.0 || number.abs() > MAX_INDEX => Err(wrong(frame)), // NaN, too.
                number if number < 0.0 || number == MAX_INDEX => Ok(None),
                number => Ok(Some(number as u64)),
            };
            Positions::of_indices(numbers.iter().enumerate().map(index).collect::<Result<_, _>>()?)
        }
        _ => Positions::of_points(numbers.as_chunks().0.to_vec()),
    };
    let positions = positions.ok_or_else(|| ConditionError::Frames { path: path.to_owned() })?;
    Ok((positions, mark("positions", path, &bytes)))
}

/// Numbers of a text, one or two in every line, the same in all; blank lines and what follows `#` do not count.
fn lines(path: &Path, bytes: &[u8]) -> Result<(usize, Vec<f64>), ConditionError> {
    let (mut each, mut numbers) = (0, Vec::new());
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    for (frame, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        let words = line.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let row: Option<Vec<f64>> = words.map(|word| word.parse().ok()).collect();
        let row = row.filter(|row| (1..=2).contains(&row.len()) && (frame == 0 || row.len() == each));
        let Some(row) = row else {
            let text = line.chars().take(40).collect();
            return Err(ConditionError::Position { path: path.to_owned(), frame, text });
        };
        if frame == LIST_FRAMES_MAX {
            return Err(ConditionError::Frames { path: path.to_owned() });
        }
        each = row.len();
        numbers.extend(row);
    }
    Ok((each.max(1), numbers))
}

fn numbers(what: &'static str, path: &Path) -> Result<(SigShape, Vec<f64>, ConditionFile), MaskError> {
    let bytes = mask_file::read_bytes(path)?;
    match npy::read_mask(&bytes).map_err(|source| MaskError::Content { path: path.to_owned(), source })? {
        VirtualDetector::Image { height, width, weights } => {
            Ok((SigShape { height, width }, weights, mark(what, path, &bytes)))
        }
        _ => unreachable!("mask files are images"),
    }
}

fn mark(what: &'static str, path: &Path, bytes: &[u8]) -> ConditionFile {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ConditionFile { what, name, crc32c: crc32c(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::ScanPos;

    /// Corrections need files of one shape; a file of flags chooses positions.
    #[test]
    fn files() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, shape: &[usize], data: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, npy::write("|u1", shape, data)).expect("write");
            path
        };
        let (dark, bad) = (write("dark.npy", &[2, 2], &[1; 4]), write("bad.npy", &[2, 2], &[0, 1, 0, 0]));
        let files = CorrectionFiles { dark: Some(dark), bad: Some(bad), gain: None };
        let (made, marks) = correction(&files).expect("valid").expect("files");
        assert_eq!((made.detector(), made.bad_count()), (SigShape { height: 2, width: 2 }, 1));
        let names: Vec<_> = marks.iter().map(|mark| (mark.what, mark.name.as_str())).collect();
        assert_eq!(names, [("dark", "dark.npy"), ("bad", "bad.npy")]);
        assert_eq!(marks[0].crc32c, crc32c(&std::fs::read(folder.path().join("dark.npy")).expect("read")));
        let gain = Some(write("gain.npy", &[1, 2], &[1; 2]));
        let error = correction(&CorrectionFiles { gain, ..files.clone() }).expect_err("two shapes").to_string();
        assert!(error.ends_with("gain.npy: shape (1, 2), another file has (2, 2)"), "{error}");
        let bad = Some(write("all.npy", &[2, 2], &[1; 4]));
        assert!(matches!(correction(&CorrectionFiles { bad, ..files }), Err(ConditionError::Correction(_))));
        assert!(correction(&CorrectionFiles::default()).expect("nothing to read").is_none());
        let (chosen, _) = roi(&write("roi.npy", &[1, 2], &[0, 1])).expect("flags");
        assert!(chosen.contains(ScanPos { y: 0, x: 1 }) && chosen.position_count() == 1);
        let (moved, mark) = descan(&write("descan.npy", &[1, 2, 2], &[0, 1, 2, 3])).expect("shifts");
        assert_eq!((moved.shift(ScanPos { y: 0, x: 1 }), mark.what), ([2, 3], "descan"));
        let listed = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("write");
            positions(&folder.path().join(name)).map(|(positions, _)| positions)
        };
        let want = Positions::of_indices(vec![Some(3), None, Some(0)]).expect("short");
        assert_eq!(listed("a.txt", "# scan\n3\n\n-1 # flyback\n0\n").expect("a list"), want);
        let (npy, mark) = positions(&write("list.npy", &[3], &[3, 1, 0])).expect("a list");
        assert_eq!((npy.frame_count(), mark.what), (3, "positions"));
        let points = Positions::of_points(vec![[0.5, 1.0], [2.0, -3.0]]).expect("short");
        assert_eq!(listed("b.txt", "0.5 1\n2, -3\n").expect("points"), points);
        for (text, frame, said) in
            [("1\n2 3\n", 1, "2 3"), ("1\nx\n", 1, "x"), ("0.5\n", 0, "0.5"), ("nan\n", 0, "NaN")]
        {
            let error = listed("c.txt", text).expect_err("no list").to_string();
            assert!(error.contains(&format!("c.txt: {said:?} for frame {frame}, expected a whole number")), "{error}");
        }
        let half = folder.path().join("half.npy");
        std::fs::write(&half, npy::write("<f4", &[1, 1, 2], &[0, 0, 0, 63, 0, 0, 0, 0])).expect("write");
        let error = descan(&half).expect_err("half a pixel").to_string();
        assert!(error.contains("half.npy: shift (0.5, 0) at row 0, column 0, expected whole numbers"), "{error}");
    }
}
