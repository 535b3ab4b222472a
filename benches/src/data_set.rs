//! Makes a data set from a file of raw frames, for comparisons with programs that read such files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ronchi_benches::Recording;
use ronchi_pipeline::{PixelType, SigShape};
use serde_json::json;

/// Records a file of raw frames.
#[derive(Debug, clap::Args)]
pub(crate) struct DataSetOf {
    /// The file: frames and nothing else.
    file: PathBuf,
    /// Directory for the data set.
    dir: PathBuf,
    /// Rows and columns of the detector.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1024))]
    side: u32,
    /// Type of a pixel.
    #[arg(long, default_value = "<u2")]
    pixel: String,
}

impl DataSetOf {
    pub(crate) fn run(&self) -> Result<()> {
        let pixel = PixelType::from_numpy_name(&self.pixel).with_context(|| format!("pixel type {}", self.pixel))?;
        let detector = SigShape { height: self.side, width: self.side };
        let file = File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        let frame_bytes = detector.pixel_count() * pixel.bytes() as u64;
        let frame_count = file.metadata()?.len() / frame_bytes;
        ensure!(frame_count > 0, "{} is shorter than one frame of {frame_bytes} bytes", self.file.display());
        let recording = Recording { detector, pixel, frame_count, has_checksums: true };
        let recorded =
            recording.make(&self.dir, |first, pixels| Ok(file.read_exact_at(pixels, first * frame_bytes)?))?;
        println!("{}", json!({ "data_set": recorded.path, "frames": frame_count, "seconds": recorded.seconds }));
        Ok(())
    }
}
