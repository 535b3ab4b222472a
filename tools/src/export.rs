//! `ronchi export`: one self-contained file of a data set, in the format that some other program wants.
//!
//! # Place in the path
//! Beside it: reads a finished data set (or one that grows, as far as it has come), verifies what it reads, and writes
//! elsewhere. Most programs need no export, because the segments and the companions open as they are.
//!
//! # Invariants
//! - I1: nothing is overwritten; what is not complete is called `*.part`.
//! - I2: frames that are not there are zeros, and counted; flags beside the pixels say which they are.
//! - I3: pixels whose checksum does not match are never exported: the export stops, or they count as not there.
//!
//! # Limits
//! The memory of `Runs` per tile, and one chunk of whole frames.

mod chunked;
mod flat;
mod frames;
mod mib;
mod part;
pub(crate) mod results;
mod zarr;

use std::fmt;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use crate::output::{note_line, say_line};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use ronchi_sinks::storage::{Description, Reader, Space, look_at, write_companions};
use serde::Serialize;

use crate::ls::human_bytes;
use frames::{Piece, WholeFrames};
use results::ResultFormat;

/// Options of `ronchi export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Formats of frames:
  nexus  .nxs .h5 .hdf5  HDF5 with frames, the 4-D view, flags and metadata, as scan.nxs has them
  emd    .emd            EMD 1.0 for py4DSTEM; needs a scan
  zarr   .zarr           Zarr v3 directory: frames, flags, metadata
  npy    .npy            one NumPy array
  raw    .raw .bin       pixels alone; shape and type in NAME.json
  mib    .mib            Merlin's file format, with NAME.hdr; unsigned integers only
Formats of results (--result NAME): npy; tiff (.tif .tiff), 32 or 64 bit, for ImageJ; png, grey from minimum to maximum.

Frames that are not there are zeros. HDF5 and Zarr hold flags; beside other files lies NAME.flags.npy if there is a gap.
Exit codes: 0 done, 1 stopped or with damaged frames left out, 2 refused before anything was written.")]
pub struct ExportArgs {
    /// Data set, NAME.ronchi
    dataset: PathBuf,
    /// File to make; must not exist
    #[arg(long, value_name = "FILE", required_unless_present = "companions")]
    to: Option<PathBuf>,
    /// Format; default is what the name of the file says
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Export this result instead of the frames
    #[arg(long, value_name = "NAME")]
    result: Option<String>,
    /// Order of frames in npy and raw: by scan position (4-D, default with a scan), or as they came (3-D)
    #[arg(long, value_enum)]
    order: Option<Order>,
    /// Compress the frames of an HDF5 file (nexus, emd) as detectors do: bitshuffle-LZ4, filter 32008, a chunk each
    #[arg(long)]
    compress: bool,
    /// Leave out frames whose pixels are damaged (zeros, flagged as corrupt) instead of stopping there
    #[arg(long)]
    keep_going: bool,
    /// Write scan.nxs, scan.emd and frames4d into the data set again, and nothing else
    #[arg(long, conflicts_with_all = ["to", "format", "result", "order", "compress", "keep_going"])]
    companions: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// Format of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Nexus,
    Emd,
    Zarr,
    Npy,
    Raw,
    Mib,
    Tiff,
    Png,
}

impl Format {
    /// The format as one of results, if it is one.
    fn of_results(self) -> Option<ResultFormat> {
        match self {
            Self::Npy => Some(ResultFormat::Npy),
            Self::Tiff => Some(ResultFormat::Tif),
            Self::Png => Some(ResultFormat::Png),
            _ => None,
        }
    }
}

/// Order of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// By scan position, `(ny, nx, y, x)`.
    Scan,
    /// As they came, `(frame, y, x)`.
    Frames,
}

/// Where exported frames go.
trait Target {
    /// Takes the next frames.
    fn put(&mut self, piece: &Piece<'_>) -> Result<()>;

    /// Gives the file its name. `has_gaps`: some frame is not there.
    fn finish(self: Box<Self>, has_gaps: bool) -> Result<()>;
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    dataset: PathBuf,
    to: PathBuf,
    format: Format,
    /// Extent of every axis, slow first.
    shape: Vec<u64>,
    /// NumPy name.
    pixel: String,
    /// The data set is finished: there will be no more frames.
    is_finished: bool,
    frames: u64,
    /// Frames that are not there: zeros.
    missing: u64,
    /// Frames left out because their pixels are damaged.
    corrupt: u64,
    /// Frames whose checksum was compared.
    verified: u64,
    bytes: u64,
    seconds: f64,
}

impl ExportArgs {
    /// Exports; exit code 1 when it stops halfway or leaves out damaged frames. Errors: refused before it began.
    pub fn run(self) -> Result<ExitCode> {
        if self.companions {
            return companions(&self.dataset, self.json);
        }
        let to = self.to.as_deref().context("--to FILE is missing")?;
        let format = self.format.or_else(|| by_name(to)).with_context(|| {
            format!("{}: the name says no format; give one with --format, see --help", to.display())
        })?;
        ensure!(!to.exists(), "{} exists already", to.display());
        let is_hdf5 = self.result.is_none() && matches!(format, Format::Nexus | Format::Emd);
        ensure!(is_hdf5 || !self.compress, "--compress is for frames in HDF5: nexus or emd");
        if let Some(name) = &self.result {
            let format = format.of_results().context("a result is exported as npy, tiff or png")?;
            results::export(&self.dataset, name, to, format)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (_, condition) = look_at(&self.dataset)?;
        let reader = Reader::open(&self.dataset)
            .map_err(|error| anyhow!("{} cannot be exported: {error}", self.dataset.display()))?; // It says its own cause.
        let about = Description::of(&reader).context("nobody knows yet how many frames there will be")?;
        let order = match (self.order, about.scan()) {
            (Some(Order::Scan), None) => bail!("--order scan: the data set has no scan"),
            (Some(Order::Scan), Some(scan)) if scan.repeat_count() > 1 => {
                bail!("--order scan: every position has {} frames, the array only room for one", scan.repeat_count())
            }
            (None, Some(scan)) if scan.repeat_count() > 1 => Order::Frames,
            (None | Some(Order::Scan), Some(_)) => Order::Scan,
            _ => Order::Frames,
        };
        let frames = WholeFrames::new(&reader, &about, self.keep_going)?;
        let (target, shape) = open(to, (format, self.compress), order, &reader, &about)?;
        let mut summary = Summary {
            dataset: self.dataset.clone(),
            to: to.to_owned(),
            format,
            shape,
            pixel: about.pixel().numpy_name().to_owned(),
            is_finished: condition.is_finished(),
            frames: about.frame_count(),
            missing: 0,
            corrupt: 0,
            verified: 0,
            bytes: 0,
            seconds: 0.0,
        };
        if let Err(error) = copy(frames, target, &mut summary, !self.json) {
            note_line!("ronchi: {error:#}");
            return Ok(ExitCode::FAILURE);
        }
        if self.json {
            say_line!("{}", serde_json::to_string_pretty(&summary)?);
        } else {
            say_line!("{summary}");
        }
        Ok(if summary.corrupt > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Makes the companions again.
fn companions(dataset: &Path, is_json: bool) -> Result<ExitCode> {
    let made = write_companions(dataset)?;
    let all = [("scan.nxs", made.nexus), ("scan.emd", made.emd), ("frames4d", made.zarr4d)];
    let names: Vec<&str> = all.iter().filter(|(_, is_made)| *is_made).map(|(name, _)| *name).collect();
    if is_json {
        say_line!("{}", serde_json::json!({ "dataset": dataset, "companions": names }));
    } else if names.is_empty() {
        say_line!("{}: no companion can be made", dataset.display());
    } else {
        say_line!("{}: wrote {}", dataset.display(), names.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn by_name(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "nxs" | "h5" | "hdf5" => Some(Format::Nexus),
        "emd" => Some(Format::Emd),
        "zarr" => Some(Format::Zarr),
        "npy" => Some(Format::Npy),
        "raw" | "bin" => Some(Format::Raw),
        "mib" => Some(Format::Mib),
        "tif" | "tiff" => Some(Format::Tiff),
        "png" => Some(Format::Png),
        _ => None,
    }
}

/// Opens the target, after a look at the free space; also the shape of the array that it will hold.
fn open(
    to: &Path,
    (format, is_compressed): (Format, bool),
    order: Order,
    reader: &Reader,
    about: &Description,
) -> Result<(Box<dyn Target>, Vec<u64>)> {
    let (detector, count) = (about.detector(), about.frame_count());
    let signal = [u64::from(detector.height), u64::from(detector.width)];
    let scan = about.scan().filter(|_| order == Order::Scan && matches!(format, Format::Npy | Format::Raw));
    let shape = match scan {
        Some(scan) => [&[scan.shape.height.into(), scan.shape.width.into()][..], &signal].concat(),
        None => [&[count][..], &signal].concat(),
    };
    let bytes = shape.iter().try_fold(about.pixel().bytes() as u64, |bytes, &extent| bytes.checked_mul(extent));
    let bytes = bytes.with_context(|| format!("an array of shape {shape:?} is too large"))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(parent.is_dir(), "{} is no directory", parent.display());
    if let Some(space) = Space::of(parent, 0)
        && !is_compressed // Nobody knows how much that needs.
        && !space.holds(bytes)
    {
        let (need, free) = (human_bytes(bytes), human_bytes(space.free_bytes));
        bail!("no room in {}: {need} needed, {free} are free", parent.display());
    }
    let target: Box<dyn Target> = match format {
        Format::Nexus | Format::Emd => {
            let head = match format {
                Format::Nexus => about.nexus(is_compressed).context("too many segments")?,
                _ => about.emd(is_compressed).context("EMD needs a scan")?,
            };
            match is_compressed {
                true => Box::new(chunked::Chunked::create(to, about, head)?),
                false => Box::new(flat::hdf5(to, about, head)?),
            }
        }
        Format::Npy => Box::new(flat::npy(to, about, scan, &shape)?),
        Format::Raw => Box::new(flat::raw(to, about, scan, &shape, reader.manifest())?),
        Format::Mib => Box::new(mib::Mib::create(to, about, reader)?),
        Format::Zarr => Box::new(zarr::Zarr::create(to, about, reader)?),
        Format::Tiff | Format::Png => bail!("{format:?} is a format of results: name one with --result"),
    };
    Ok((target, shape))
}

fn copy(mut frames: WholeFrames, mut target: Box<dyn Target>, summary: &mut Summary, is_shown: bool) -> Result<()> {
    let begin = Instant::now();
    let bar = crate::progress::of_bytes("export", is_shown && std::io::stderr().is_terminal());
    bar.set_length(summary.frames * frames.frame_bytes());
    while let Some(piece) = frames.next_piece()? {
        target.put(&piece)?;
        bar.inc(piece.pixels.len() as u64);
        summary.bytes += piece.pixels.len() as u64;
    }
    let counts = frames.counts();
    (summary.missing, summary.corrupt, summary.verified) = (counts.missing, counts.corrupt, counts.verified);
    target.finish(counts.missing + counts.corrupt > 0)?;
    bar.finish_and_clear();
    summary.seconds = begin.elapsed().as_secs_f64();
    Ok(())
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let (bytes, rate) = (human_bytes(self.bytes), self.bytes as f64 / 1e9 / self.seconds.max(1e-9));
        write!(f, "{}: {} of {}", self.to.display(), shape.join("x"), self.pixel)?;
        write!(f, ", {} frames, {bytes} in {:.1} s ({rate:.2} GB/s)", self.frames, self.seconds)?;
        if self.missing > 0 {
            write!(f, "\n  {} frames are not there: zeros, and flagged so", self.missing)?;
        }
        if self.corrupt > 0 {
            write!(f, "\n  {} FRAMES ARE DAMAGED and were left out", self.corrupt)?;
        }
        if self.verified < self.frames - self.missing - self.corrupt {
            write!(f, "\n  {} frames had a checksum to compare", self.verified)?;
        }
        if !self.is_finished {
            write!(f, "\n  the data set is not finished: exported as far as it has come")?;
        }
        Ok(())
    }
}
