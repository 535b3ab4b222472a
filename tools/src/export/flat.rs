//! Formats that are one dense array in one file: HDF5, NumPy, raw.

use std::path::Path;

use anyhow::{Context, Result};
use ronchi_pipeline::Scan;
use ronchi_pipeline::format::hdf5::Written;
use ronchi_pipeline::format::{Manifest, npy};
use ronchi_sinks::storage::Description;
use serde_json::json;

use super::Target;
use super::frames::Piece;
use super::part::{PartFile, with_suffix};

/// Flags of all frames, one byte each.
pub(super) struct Flags {
    file: PartFile,
    at: u64,
}

impl Flags {
    /// `NAME.flags.npy`.
    pub(super) fn beside(path: &Path, frame_count: u64) -> Result<Self> {
        let header = npy::header("|u1", &[frame_count as usize]);
        let at = header.len() as u64;
        let file = PartFile::create(&with_suffix(path, ".flags.npy"), at + frame_count)?;
        file.write(0, &header)?;
        Ok(Self { file, at })
    }

    pub(super) fn put(&self, piece: &Piece<'_>) -> Result<()> {
        self.file.write(self.at + piece.frames.start, piece.flags)
    }

    /// Keeps the file if it says something.
    pub(super) fn finish(self, has_gaps: bool) -> Result<()> {
        if has_gaps { self.file.finish() } else { Ok(()) }
    }
}

/// Where flags go.
enum FlagPlace {
    Beside(Flags),
    /// In the same file, from this offset on.
    Within(u64),
}

/// One file of frames.
pub(super) struct Flat {
    file: PartFile,
    /// Offset of the first frame.
    at: u64,
    frame_bytes: u64,
    /// Frames lie by position instead of number.
    scan: Option<Scan>,
    flags: FlagPlace,
    /// A document beside it, written at the end.
    sidecar: Option<(PartFile, serde_json::Value)>,
}

/// A self-contained HDF5 file: pixels and flags lie behind the metadata.
pub(super) fn hdf5(path: &Path, about: &Description, head: Written) -> Result<Flat> {
    let [at, flags_at] = head.behind[..] else { anyhow::bail!("the head has no place for pixels") };
    let file = PartFile::create(path, head.file_bytes)?;
    file.write(0, &head.bytes)?;
    let flags = FlagPlace::Within(flags_at);
    Ok(Flat { file, at, frame_bytes: frame_bytes(about), scan: None, flags, sidecar: None })
}

/// One NumPy array.
pub(super) fn npy(path: &Path, about: &Description, scan: Option<Scan>, shape: &[u64]) -> Result<Flat> {
    let extents: Vec<usize> = shape.iter().map(|&extent| extent as usize).collect();
    let header = npy::header(about.pixel().numpy_name(), &extents);
    let at = header.len() as u64;
    let flat = Flat::create(path, about, scan, shape, at)?;
    flat.file.write(0, &header)?;
    Ok(flat)
}

/// Pixels alone, and a document that says what they are.
pub(super) fn raw(
    path: &Path,
    about: &Description,
    scan: Option<Scan>,
    shape: &[u64],
    manifest: &Manifest,
) -> Result<Flat> {
    let mut flat = Flat::create(path, about, scan, shape, 0)?;
    let axes: &[&str] = if scan.is_some() { &["scan_y", "scan_x", "y", "x"] } else { &["frame", "y", "x"] };
    let document = json!({
        "shape": shape,
        "axes": axes,
        "dtype": about.pixel().numpy_name(),
        "offset": 0,
        "ronchi": manifest,
    });
    flat.sidecar = Some((PartFile::create(&with_suffix(path, ".json"), 0)?, document));
    Ok(flat)
}

pub(super) fn frame_bytes(about: &Description) -> u64 {
    about.detector().pixel_count() * about.pixel().bytes() as u64
}

impl Flat {
    fn create(path: &Path, about: &Description, scan: Option<Scan>, shape: &[u64], at: u64) -> Result<Self> {
        let bytes = shape.iter().product::<u64>() * about.pixel().bytes() as u64; // `open` saw that it is a number.
        let file = PartFile::create(path, at + bytes)?;
        let flags = FlagPlace::Beside(Flags::beside(path, about.frame_count())?);
        Ok(Self { file, at, frame_bytes: frame_bytes(about), scan, flags, sidecar: None })
    }

    /// Place of a frame in the array; `None` if it belongs to no position.
    fn place(&self, frame: u64) -> Option<u64> {
        let Some(scan) = &self.scan else { return Some(frame) };
        let position = scan.position(frame)?;
        Some(u64::from(position.y) * u64::from(scan.shape.width) + u64::from(position.x))
    }
}

impl Target for Flat {
    fn put(&mut self, piece: &Piece<'_>) -> Result<()> {
        let frames = &piece.frames;
        let mut first = frames.start;
        while first < frames.end {
            let Some(place) = self.place(first) else {
                first += 1;
                continue;
            };
            // Neighbours that stay neighbours are written together.
            let follows = |&frame: &u64| self.place(frame) == Some(place + (frame - first));
            let end = (first + 1..frames.end).take_while(follows).last().map_or(first + 1, |last| last + 1);
            let part = ((first - frames.start) * self.frame_bytes) as usize
                ..((end - frames.start) * self.frame_bytes) as usize;
            self.file.write(self.at + place * self.frame_bytes, &piece.pixels[part])?;
            first = end;
        }
        match &self.flags {
            FlagPlace::Beside(flags) => flags.put(piece),
            FlagPlace::Within(at) => self.file.write(at + frames.start, piece.flags),
        }
    }

    fn finish(self: Box<Self>, has_gaps: bool) -> Result<()> {
        if let FlagPlace::Beside(flags) = self.flags {
            flags.finish(has_gaps)?;
        }
        if let Some((file, document)) = self.sidecar {
            file.write(0, format!("{document:#}\n").as_bytes())?;
            file.finish().context("sidecar")?;
        }
        self.file.finish()
    }
}
