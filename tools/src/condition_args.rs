//! Options that hold for a whole acquisition: how pixels are corrected, and which scan positions count.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use ronchi_config::condition_file::{self, CorrectionFiles};
use ronchi_config::{ValueError, parse_nodata};
use ronchi_pipeline::reduce::{Conditions, NoData};

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
    /// Pixels of this value have no data: max is the largest of their type
    #[arg(long, value_name = "max|N", value_parser = nodata)]
    nodata: Option<NoData>,
    /// NumPy file of the scan's shape that is not 0 where positions are reduced
    #[arg(long, value_name = "FILE")]
    roi: Option<PathBuf>,
}

fn nodata(text: &str) -> Result<NoData, ValueError> {
    parse_nodata(text)
}

impl ConditionArgs {
    /// Reads the files. Errors: as [`condition_file`].
    pub(crate) fn read(self) -> Result<Conditions> {
        self.read_over(Conditions::default())
    }

    /// As [`Self::read`]; a correction, or a choice of positions, that no file is named for stays as it is.
    pub(crate) fn read_over(self, conditions: Conditions) -> Result<Conditions> {
        let files = CorrectionFiles { dark: self.dark, gain: self.gain, bad: self.bad };
        let correction = condition_file::correction(&files)?.map(Arc::new);
        let roi = self.roi.map(|path| condition_file::roi(&path)).transpose()?.map(Arc::new);
        Ok(Conditions {
            correction: correction.or(conditions.correction),
            nodata: self.nodata.or(conditions.nodata),
            roi: roi.or(conditions.roi),
        })
    }
}
