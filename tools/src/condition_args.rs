//! Options that hold for a whole acquisition: how pixels are corrected, how masks move, and which scan positions count.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use ronchi_config::condition_file::{self, CorrectionFiles};
use ronchi_config::{ValueError, parse_descan, parse_nodata, parse_rectangle};
use ronchi_pipeline::reduce::{ConditionFile, Conditions, Descan, NoData, Roi};

/// How pixels are corrected, and which positions count.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConditionArgs {
    /// NumPy file with the counts of every pixel without a beam
    #[arg(long, value_name = "FILE")]
    dark: Option<PathBuf>,
    /// NumPy file with what counts minus dark counts are multiplied by; 0 and NaN make a pixel bad
    #[arg(long, value_name = "FILE")]
    gain: Option<PathBuf>,
    /// NumPy file that is not 0 where a pixel is bad: the mean of its neighbours takes its place
    #[arg(long, value_name = "FILE")]
    bad: Option<PathBuf>,
    /// Pixels of this value have no data: max is the largest of their type; none: all have, whatever the detector says
    #[arg(long, value_name = "max|N|none", value_parser = nodata)]
    nodata: Option<NoData>,
    /// Positions that are reduced: NumPy file of the scan's shape that is not 0 there, or rows and columns without the last
    #[arg(long, value_name = "FILE|Y0..Y1,X0..X1")]
    roi: Option<PathBuf>,
    /// Position of every frame, for scans that are no raster: NumPy file or text of numbers (below 0: none), or of y and x in scan
    /// pixels; --scan is the raster that they are in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["serpentine", "flyback", "sync_offset"])]
    positions: Option<PathBuf>,
    /// How far masks are moved, in pixels: NumPy file (rows, positions per row, 2), or the shift at the first position, its
    /// change per row and per column
    #[arg(long, value_name = "FILE|OY,OX,RY,RX,CY,CX", allow_hyphen_values = true)]
    descan: Option<PathBuf>,
}

fn nodata(text: &str) -> Result<NoData, ValueError> {
    parse_nodata(text)
}

impl ConditionArgs {
    /// Reads the files. Errors: as [`condition_file`].
    pub(crate) fn read(self) -> Result<Conditions> {
        self.read_over(Conditions::default())
    }

    /// As [`Self::read`]; what nothing is said of stays as it is.
    pub(crate) fn read_over(self, mut conditions: Conditions) -> Result<Conditions> {
        let files = CorrectionFiles { dark: self.dark, gain: self.gain, bad: self.bad };
        if let Some((correction, files)) = condition_file::correction(&files)? {
            conditions.correction = Some(Arc::new(correction));
            conditions.files.retain(|file| !["dark", "gain", "bad"].contains(&file.what));
            conditions.files.extend(files);
        }
        conditions.nodata = self.nodata.or(conditions.nodata);
        if let Some(roi) = self.roi {
            conditions.files.retain(|file| file.what != "roi");
            conditions.roi = Some(Arc::new(read_roi(&roi, &mut conditions.files)?));
        }
        if let Some(path) = self.positions {
            let (positions, file) = condition_file::positions(&path)?;
            conditions.positions = Some(Arc::new(positions));
            conditions.files.retain(|file| file.what != "positions");
            conditions.files.push(file);
        }
        if let Some(descan) = self.descan {
            conditions.files.retain(|file| file.what != "descan");
            conditions.descan = Some(Arc::new(read_descan(&descan, &mut conditions.files)?));
        }
        Ok(conditions)
    }
}

fn read_roi(said: &Path, files: &mut Vec<ConditionFile>) -> Result<Roi> {
    if let Some((rows, columns)) = parse_rectangle(&said.to_string_lossy()) {
        return Roi::rectangle(rows, columns).with_context(|| format!("--roi {}: holds no position", said.display()));
    }
    let (roi, file) = condition_file::roi(said)?;
    files.push(file);
    Ok(roi)
}

fn read_descan(said: &Path, files: &mut Vec<ConditionFile>) -> Result<Descan> {
    if let Some(descan) = parse_descan(&said.to_string_lossy()) {
        return Ok(descan);
    }
    let (descan, file) = condition_file::descan(said)?;
    files.push(file);
    Ok(descan)
}
