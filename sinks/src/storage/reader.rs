//! Reads a data set, also one that grows: frames, flags, progress, and the checksums of all chunks.
//!
//! # Invariants
//! - I1: sizes come from metadata that was checked; a caller's range is compared with limits before memory is taken.
//! - I2: frames that are not there read as zeros; the flags say so.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{FormatError, FramesArray, Manifest, Page0, Progress};
use ronchi_pipeline::{DATA_OFFSET, FrameFlag, FrameIndex, Region, SECTOR_BYTES, crc32c};

use super::error::{Context as _, StorageError};
use super::{files, table};

/// Most bytes that one call reads.
const READ_BYTES_MAX: u64 = 1 << 32;

/// An open data set.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    manifest: Manifest,
    tiles: Vec<ReaderTile>,
}

/// One tile of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderTile {
    /// Tile id.
    pub id: u32,
    /// Its place on the detector.
    pub region: Region,
    /// Shape, pixel type and layout; `frame_count` grows in an open-ended run, see [`Reader::refresh`].
    pub array: FramesArray,
    array_dir: PathBuf,
    base_dir: PathBuf,
    rows_per_file: u64,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Chunks whose checksum matches.
    pub good: u64,
    /// Chunks that are present, but have no checksum (yet).
    pub unknown: u64,
    /// What is wrong.
    pub flaws: Vec<Flaw>,
}

/// Something wrong in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Tile id.
    pub tile: u32,
    /// Segment number.
    pub segment: u64,
    /// Chunk in it; `None` when the segment's own page is unreadable.
    pub chunk: Option<u32>,
    /// What.
    pub message: String,
}

impl Reader {
    /// Opens the data set in this directory.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        let path = root.join("zarr.json");
        let format = |source| StorageError::Format { path: path.clone(), source };
        let manifest = Manifest::from_json(&files::read_text(&path)?).map_err(format)?;
        let mut reader = Self { root: root.to_owned(), manifest, tiles: Vec::new() };
        reader.refresh()?;
        Ok(reader)
    }

    /// Reads metadata again: a tile may have begun, an open-ended run grown, the manifest become final.
    pub fn refresh(&mut self) -> Result<(), StorageError> {
        let path = self.root.join("zarr.json");
        let format = |source| StorageError::Format { path: path.clone(), source };
        self.manifest = Manifest::from_json(&files::read_text(&path)?).map_err(format)?;
        let is_alone = self.manifest.detector.tiles.len() <= 1;
        let mut tiles = Vec::new();
        for tile in &self.manifest.detector.tiles {
            let base = if is_alone { self.root.clone() } else { self.root.join("tiles").join(tile.id.to_string()) };
            let array_dir = if is_alone { self.root.join("frames") } else { base.clone() };
            let path = array_dir.join("zarr.json");
            if !path.exists() {
                continue; // This link has not begun.
            }
            let array = FramesArray::from_json(&files::read_text(&path)?)
                .map_err(|source| StorageError::Format { path: path.clone(), source })?;
            let ([y, x], [height, width]) = (tile.origin, tile.shape);
            let region = Region { y, x, height, width };
            let rows_per_file = table::read_rows_per_file(&base.join("frame_table"))?;
            tiles.push(ReaderTile { id: tile.id, region, array, array_dir, base_dir: base, rows_per_file });
        }
        self.tiles = tiles;
        Ok(())
    }

    /// The manifest; `gaps` are listed once the data set is finished.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Tiles that have begun.
    pub fn tiles(&self) -> &[ReaderTile] {
        &self.tiles
    }

    /// One tile by its id.
    pub fn tile(&self, id: u32) -> Result<&ReaderTile, StorageError> {
        let tile = self.tiles.iter().find(|tile| tile.id == id);
        tile.ok_or_else(|| StorageError::NoTile { tile: id, path: self.root.clone() })
    }

    /// Progress of a tile: frames below `visible_frames` are final.
    pub fn progress(&self, tile: u32) -> Result<Progress, StorageError> {
        let path = self.tile(tile)?.base_dir.join("progress.json");
        let text = files::read_text(&path)?;
        Progress::from_json(&text).map_err(|source| StorageError::Format { path, source })
    }

    /// Reads frames as stored (`frames x height x width`, dense, C order) into `out`, which is resized to fit.
    pub fn read_frames(&self, tile: u32, frames: Range<FrameIndex>, out: &mut Vec<u8>) -> Result<(), StorageError> {
        let tile = self.tile(tile)?;
        let layout = tile.array.layout;
        let count = frames.end.saturating_sub(frames.start);
        let bytes = count.checked_mul(layout.frame_bytes).filter(|&bytes| bytes <= READ_BYTES_MAX);
        let Some(bytes) = bytes.filter(|_| frames.end < u64::MAX / layout.frame_bytes.max(1)) else {
            let allowed = format!("{} frames", READ_BYTES_MAX / layout.frame_bytes.max(1));
            return Err(StorageError::Range { first: frames.start, end: frames.end, allowed });
        };
        out.clear();
        out.resize(bytes as usize, 0);
        let mut rest = out.as_mut_slice();
        let mut frame = frames.start;
        while !rest.is_empty() {
            let segment = layout.segment_of(frame);
            let end = ((segment + 1) * layout.frames_per_segment()).min(frames.end);
            let (part, after) = rest.split_at_mut(((end - frame) * layout.frame_bytes) as usize);
            let path = tile.segment_path(segment);
            if let Some(file) = open_if_there(&path)? {
                file.read_exact_at(part, layout.offset_of(frame)).context("read", &path)?;
            } // I2: an absent segment is all zeros.
            (rest, frame) = (after, end);
        }
        Ok(())
    }

    /// Flags of frames, one byte each as in [`FrameFlag`]; frames without a row are missing.
    pub fn flags(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u8>, StorageError> {
        self.column(tile, frames, "flags", 1, FrameFlag::Missing as u8)
    }

    /// The detector's own frame numbers; 0 for missing frames.
    pub fn counters(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u64>, StorageError> {
        self.column(tile, frames, "counter", 8, 0).map(numbers)
    }

    /// The detector's time stamps in ns since the Unix epoch; 0 for missing frames.
    pub fn times_ns(&self, tile: u32, frames: Range<FrameIndex>) -> Result<Vec<u64>, StorageError> {
        self.column(tile, frames, "time_ns", 8, 0).map(numbers)
    }

    fn column(
        &self,
        tile: u32,
        frames: Range<FrameIndex>,
        name: &str,
        row_bytes: u64,
        fill: u8,
    ) -> Result<Vec<u8>, StorageError> {
        let tile = self.tile(tile)?;
        let count = frames.end.saturating_sub(frames.start);
        let bytes = count.checked_mul(row_bytes).filter(|&bytes| bytes <= READ_BYTES_MAX);
        let Some(bytes) = bytes.filter(|_| frames.end < u64::MAX / 16) else {
            let allowed = format!("{} rows", READ_BYTES_MAX / row_bytes);
            return Err(StorageError::Range { first: frames.start, end: frames.end, allowed });
        };
        let mut out = vec![fill; bytes as usize];
        let rows = tile.rows_per_file;
        let mut frame = frames.start;
        while frame < frames.end {
            let end = ((frame / rows + 1) * rows).min(frames.end);
            let path = tile.base_dir.join("frame_table").join(name).join("c").join((frame / rows).to_string());
            if let Some(file) = open_if_there(&path)? {
                let range = (frame - frames.start) * row_bytes..(end - frames.start) * row_bytes;
                let part = &mut out[range.start as usize..range.end as usize];
                file.read_exact_at(part, (frame % rows) * row_bytes).context("read", &path)?;
            }
            frame = end;
        }
        Ok(out)
    }
}

impl Reader {
    /// Reads every present chunk of every tile and compares its checksum.
    pub fn verify(&self) -> Result<Verification, StorageError> {
        let mut found = Verification::default();
        for tile in &self.tiles {
            for segment in tile.segments()? {
                let mut flaw = |chunk, message: String| Flaw { tile: tile.id, segment, chunk, message };
                match self.page0(tile, segment) {
                    Ok((file, page)) => verify_chunks(tile, &file, &page, &mut found, &mut flaw)?,
                    Err(StorageError::Format { source, .. }) => found.flaws.push(flaw(None, source.to_string())),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// Page 0 of a segment, checked for what it says and for whose it is.
    fn page0(&self, tile: &ReaderTile, segment: u64) -> Result<(File, Page0), StorageError> {
        let path = tile.segment_path(segment);
        let file = File::open(&path).context("open", &path)?;
        let mut bytes = [0; SECTOR_BYTES];
        file.read_exact_at(&mut bytes, 0).context("read", &path)?;
        let layout = tile.array.layout;
        let format = |source| StorageError::Format { path: path.clone(), source };
        let page = Page0::decode(&bytes, layout.frame_bytes).map_err(format)?;
        let trailer = &page.trailer;
        let uuid = ronchi_pipeline::format::uuid_text(&trailer.uuid);
        let is_ours = uuid == self.manifest.uuid
            && (trailer.tile, trailer.segment) == (tile.id, segment)
            && trailer.frames_per_chunk == layout.frames_per_chunk
            && page.chunks.len() == layout.chunks_per_segment as usize;
        if !is_ours {
            let got = format!("segment {} of tile {} of {uuid}", trailer.segment, trailer.tile);
            let allowed = "the place and data set it was found in";
            return Err(format(FormatError::Field { field: "segment trailer", got, allowed }));
        }
        Ok((file, page))
    }
}

fn verify_chunks(
    tile: &ReaderTile,
    file: &File,
    page: &Page0,
    found: &mut Verification,
    flaw: &mut dyn FnMut(Option<u32>, String) -> Flaw,
) -> Result<(), StorageError> {
    let chunk_bytes = tile.array.layout.chunk_bytes();
    let mut bytes = vec![0; chunk_bytes.min(READ_BYTES_MAX) as usize];
    for (chunk, want) in (0_u32..).zip(&page.chunks) {
        match *want {
            None => {}
            Some(0) => found.unknown += 1,
            Some(want) => match file.read_exact_at(&mut bytes, DATA_OFFSET + u64::from(chunk) * chunk_bytes) {
                Ok(()) if crc32c(&bytes) == want => found.good += 1,
                Ok(()) => found.flaws.push(flaw(Some(chunk), format!("checksum is not {want:08x}"))),
                Err(error) => found.flaws.push(flaw(Some(chunk), error.to_string())),
            },
        }
    }
    Ok(())
}

impl ReaderTile {
    fn segment_path(&self, segment: u64) -> PathBuf {
        self.array_dir.join("c").join(segment.to_string()).join("0").join("0")
    }

    /// Numbers of the segment files that are there, in order.
    fn segments(&self) -> Result<Vec<u64>, StorageError> {
        let path = self.array_dir.join("c");
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&path).context("list", &path)? {
            let name = entry.context("list", &path)?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            numbers.extend(number.filter(|&number| self.segment_path(number).exists()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn open_if_there(path: &Path) -> Result<Option<File>, StorageError> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).context("open", path),
    }
}

fn numbers(bytes: Vec<u8>) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
}
