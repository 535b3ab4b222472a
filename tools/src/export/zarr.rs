//! A Zarr v3 directory without links: whole frames in plain chunks of about 64 MB, flags, and the manifest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ronchi_pipeline::SigShape;
use ronchi_pipeline::format::PlainArray;
use ronchi_sinks::storage::{Description, Reader};
use serde_json::json;

use super::Target;
use super::flat::frame_bytes;
use super::frames::Piece;
use super::part::{PartFile, with_suffix};

const CHUNK_BYTES: u64 = 64 << 20;
const FLAGS_PER_CHUNK: u64 = 1 << 20;

/// The directory, called `NAME.part` until it is complete.
pub(super) struct Zarr {
    root: PathBuf,
    part: PathBuf,
    frame_bytes: u64,
    frames_per_chunk: u64,
    frame_count: u64,
    /// Chunk files of frames and flags that are being written, with their numbers.
    frames: Option<(u64, PartFile)>,
    flags: Option<(u64, PartFile)>,
    is_done: bool,
}

impl Zarr {
    pub(super) fn create(path: &Path, about: &Description, reader: &Reader) -> Result<Self> {
        let part = with_suffix(path, ".part");
        fs::create_dir(&part).with_context(|| format!("cannot create {}", part.display()))?;
        let frame_bytes = frame_bytes(about);
        let frame_count = about.frame_count();
        let frames_per_chunk = (CHUNK_BYTES / frame_bytes).clamp(1, frame_count);
        let new = Self {
            root: path.to_owned(),
            part,
            frame_bytes,
            frames_per_chunk,
            frame_count,
            frames: None,
            flags: None,
            is_done: false,
        };
        new.write_metadata(about, reader)?;
        Ok(new)
    }

    fn write_metadata(&self, about: &Description, reader: &Reader) -> Result<()> {
        self.document("zarr.json", &reader.manifest().to_json())?;
        let SigShape { height, width } = about.detector();
        let endian = about.pixel().zarr_endian().map(|endian| json!({ "endian": endian }));
        let codec = match endian {
            Some(configuration) => json!({ "name": "bytes", "configuration": configuration }),
            None => json!({ "name": "bytes" }),
        };
        let mut frames = PlainArray {
            shape: vec![self.frame_count, height.into(), width.into()],
            chunk_shape: vec![self.frames_per_chunk, height.into(), width.into()],
            data_type: about.pixel().zarr_name().to_owned(),
            fill_value: json!(0),
            dimension_names: ["frame", "y", "x"].map(str::to_owned).to_vec(),
            attributes: json!({}),
        }
        .to_json();
        frames["codecs"] = json!([codec]);
        self.document("frames/zarr.json", &frames)?;
        let flags = PlainArray {
            shape: vec![self.frame_count],
            chunk_shape: vec![FLAGS_PER_CHUNK],
            data_type: "uint8".to_owned(),
            fill_value: json!(1),
            dimension_names: vec!["frame".to_owned()],
            attributes: json!({ "meaning": "0 ok, 1 missing, 2 corrupt, 3 truncated" }),
        };
        self.document("flags/zarr.json", &flags.to_json())
    }

    fn document(&self, name: &str, document: &serde_json::Value) -> Result<()> {
        let path = self.part.join(name);
        let what = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(&self.part)).with_context(what)?;
        fs::write(&path, format!("{document:#}\n")).with_context(what)
    }
}

/// Writes at an offset into a chunk file, which is opened when it is the next one.
fn write(
    open: &mut Option<(u64, PartFile)>,
    (number, path, bytes): (u64, PathBuf, u64),
    at: u64,
    data: &[u8],
) -> Result<()> {
    if open.as_ref().is_none_or(|(current, _)| *current != number) {
        if let Some((_, file)) = open.take() {
            file.finish()?;
        }
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        *open = Some((number, PartFile::create(&path, bytes)?));
    }
    let (_, file) = open.as_ref().context("no chunk is open")?;
    file.write(at, data)
}

/// Pieces of `frames` that lie in one chunk of so many.
fn cut(frames: std::ops::Range<u64>, per_chunk: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    let end = frames.end;
    std::iter::successors(Some(frames.start), move |first| Some((first / per_chunk + 1) * per_chunk))
        .take_while(move |first| *first < end)
        .map(move |first| first..((first / per_chunk + 1) * per_chunk).min(end))
}

impl Target for Zarr {
    fn put(&mut self, piece: &Piece<'_>) -> Result<()> {
        let start = piece.frames.start;
        let (per_chunk, size) = (self.frames_per_chunk, self.frame_bytes);
        for part in cut(piece.frames.clone(), per_chunk) {
            let number = part.start / per_chunk;
            let path = self.part.join(format!("frames/c/{number}/0/0"));
            let data = &piece.pixels[((part.start - start) * size) as usize..((part.end - start) * size) as usize];
            write(&mut self.frames, (number, path, per_chunk * size), part.start % per_chunk * size, data)?;
        }
        for part in cut(piece.frames.clone(), FLAGS_PER_CHUNK) {
            let number = part.start / FLAGS_PER_CHUNK;
            let path = self.part.join(format!("flags/c/{number}"));
            let data = &piece.flags[(part.start - start) as usize..(part.end - start) as usize];
            write(&mut self.flags, (number, path, FLAGS_PER_CHUNK), part.start % FLAGS_PER_CHUNK, data)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, _: bool) -> Result<()> {
        for (_, file) in [self.frames.take(), self.flags.take()].into_iter().flatten() {
            file.finish()?;
        }
        ensure!(!self.root.exists(), "{} exists already", self.root.display());
        fs::rename(&self.part, &self.root).with_context(|| format!("cannot name {}", self.root.display()))?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Zarr {
    fn drop(&mut self) {
        if !self.is_done {
            (self.frames, self.flags) = (None, None);
            let _ = fs::remove_dir_all(&self.part); // Best effort: its name says what it is.
        }
    }
}
