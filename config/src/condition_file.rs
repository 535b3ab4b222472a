//! Corrections of a detector and chosen scan positions, from `.npy` files.
//!
//! # Limits
//! Those of masks: files up to 512 MiB, axes up to 65 536.

use std::path::{Path, PathBuf};

use ronchi_pipeline::reduce::{Correction, CorrectionError, Flaws, Roi, VirtualDetector};
use ronchi_pipeline::{NavShape, SigShape};

use crate::mask_file::{self, MaskError};

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
    /// What they say cannot be done.
    #[error(transparent)]
    Correction(#[from] CorrectionError),
}

impl ConditionError {
    /// Which of the files is at fault: `dark`, `gain` or `bad`; the last one where it is all of them together.
    pub(crate) fn key(&self, files: &CorrectionFiles) -> &'static str {
        let path = match self {
            Self::File(error) => Some(error.path()),
            Self::Shape { path, .. } => Some(path.as_path()),
            Self::Correction(_) => None,
        };
        let named = [("bad", &files.bad), ("gain", &files.gain), ("dark", &files.dark)];
        let mut named = named.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)));
        named.find(|&(_, file)| path.is_none_or(|path| path == file)).map_or("dark", |(key, _)| key)
    }
}

/// Reads what corrects a detector; `None` when no file is named.
pub fn correction(files: &CorrectionFiles) -> Result<Option<Correction>, ConditionError> {
    let mut shape = None;
    let mut read = |path: &Option<PathBuf>| -> Result<Option<Vec<f64>>, ConditionError> {
        let Some(path) = path else { return Ok(None) };
        let (got, numbers) = numbers(path)?;
        match *shape.get_or_insert(got) {
            other if other == got => Ok(Some(numbers)),
            other => Err(ConditionError::Shape { path: path.clone(), got, other }),
        }
    };
    let (dark, gain, bad) = (read(&files.dark)?, read(&files.gain)?, read(&files.bad)?);
    let bad = bad.map(|numbers| numbers.into_iter().map(|number| number != 0.0).collect());
    let Some(shape) = shape else { return Ok(None) };
    Ok(Some(Correction::new(shape, Flaws { dark, gain, bad })?))
}

/// Reads which scan positions are reduced: those whose number is not 0, `(rows, positions per row)`.
pub fn roi(path: &Path) -> Result<Roi, ConditionError> {
    let (SigShape { height, width }, numbers) = numbers(path)?;
    let chosen = numbers.into_iter().map(|number| number != 0.0).collect();
    Ok(Roi::new(NavShape { height, width }, chosen).expect("a file has as many numbers as its shape says"))
}

fn numbers(path: &Path) -> Result<(SigShape, Vec<f64>), MaskError> {
    match mask_file::read(path)? {
        VirtualDetector::Image { height, width, weights } => Ok((SigShape { height, width }, weights)),
        _ => unreachable!("mask files are images"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::ScanPos;
    use ronchi_pipeline::format::npy;

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
        let made = correction(&files).expect("valid").expect("files");
        assert_eq!((made.detector(), made.bad_count()), (SigShape { height: 2, width: 2 }, 1));
        let gain = Some(write("gain.npy", &[1, 2], &[1; 2]));
        let error = correction(&CorrectionFiles { gain, ..files.clone() }).expect_err("two shapes").to_string();
        assert!(error.ends_with("gain.npy: shape (1, 2), another file has (2, 2)"), "{error}");
        let bad = Some(write("all.npy", &[2, 2], &[1; 4]));
        assert!(matches!(correction(&CorrectionFiles { bad, ..files }), Err(ConditionError::Correction(_))));
        assert!(correction(&CorrectionFiles::default()).expect("nothing to read").is_none());
        let chosen = roi(&write("roi.npy", &[1, 2], &[0, 1])).expect("flags");
        assert!(chosen.contains(ScanPos { y: 0, x: 1 }) && chosen.position_count() == 1);
    }
}
