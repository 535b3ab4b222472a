//! Whole frames in order, put together from tiles, each chunk compared with its checksum.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use ronchi_pipeline::{FrameFlag, Region, SigShape};
use ronchi_sinks::storage::{Description, ReadPlan, Reader, Runs};

/// Largest chunk that is read: the largest block a receiver can be configured for.
const CHUNK_BYTES_MAX: u64 = 256 << 20;

/// Consecutive whole frames.
pub(super) struct Piece<'a> {
    /// Which.
    pub(super) frames: Range<u64>,
    /// Their pixels, dense, C order; zeros where a frame is not there.
    pub(super) pixels: &'a [u8],
    /// One byte per frame, as [`FrameFlag`].
    pub(super) flags: &'a [u8],
}

/// How many frames were what.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) missing: u64,
    /// Damaged: their checksum says something else.
    pub(super) corrupt: u64,
    /// Frames all of whose tiles were compared with a checksum.
    pub(super) verified: u64,
}

/// All frames of a data set.
pub(super) struct WholeFrames {
    tiles: Vec<Cursor>,
    detector: SigShape,
    pixel_bytes: usize,
    /// Some tile has not begun: no frame is whole.
    is_partial: bool,
    keep_going: bool,
    next: u64,
    end: u64,
    pixels: Vec<u8>,
    flags: Vec<u8>,
    counts: Counts,
}

/// The current run of one tile.
struct Cursor {
    region: Region,
    runs: Runs,
    frames: Range<u64>,
    is_verified: bool,
}

impl WholeFrames {
    /// Frames from the first on. `keep_going`: damaged frames count as not there instead of being an error.
    pub(super) fn new(reader: &Reader, about: &Description, keep_going: bool) -> Result<Self> {
        let (detector, end) = (about.detector(), about.frame_count());
        let mut tiles = Vec::new();
        for tile in reader.tiles() {
            let layout = tile.array.layout;
            ensure!(layout.chunk_bytes() <= CHUNK_BYTES_MAX, "chunks of {} bytes are too large", layout.chunk_bytes());
            ensure!(tile.array.pixel == about.pixel(), "tile {} has other pixels than the manifest says", tile.id);
            let is_right = tile.region.fits(detector) && tile.array.shape == shape(tile.region);
            ensure!(is_right, "tile {} is not a part of the detector", tile.id);
            let runs = reader.runs(tile.id, 0..end, &ReadPlan::default())?;
            tiles.push(Cursor { region: tile.region, runs, frames: 0..0, is_verified: false });
        }
        Ok(Self {
            is_partial: tiles.len() < reader.manifest().detector.tiles.len(),
            tiles,
            detector,
            pixel_bytes: about.pixel().bytes(),
            keep_going,
            next: 0,
            end,
            pixels: Vec::new(),
            flags: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Bytes of a whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.detector.pixel_count() * self.pixel_bytes as u64
    }

    /// What was found so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The next frames: up to the end of the chunk that ends first.
    pub(super) fn next_piece(&mut self) -> Result<Option<Piece<'_>>> {
        if self.next >= self.end {
            return Ok(None);
        }
        let first = self.next;
        // Without any tile there is nothing but gaps; chunks are limited, whole frames of tiles may be larger.
        let most = (CHUNK_BYTES_MAX / self.frame_bytes().max(1)).max(1);
        let mut end = self.end.min(first + most);
        for cursor in &mut self.tiles {
            if cursor.frames.end <= first {
                cursor.advance(self.keep_going)?;
            }
            end = end.min(cursor.frames.end);
        }
        let count = (end - first) as usize;
        self.flags.clear();
        self.flags.resize(count, if self.is_partial { FrameFlag::Missing } else { FrameFlag::Ok } as u8);
        self.pixels.clear();
        self.pixels.resize(count * self.frame_bytes() as usize, 0);
        for cursor in &self.tiles {
            let at = (first - cursor.frames.start) as usize;
            let Some(run) = cursor.runs.current_run() else { continue }; // `advance` has seen to it.
            for (flag, &tile) in self.flags.iter_mut().zip(&run.flags[at..]) {
                *flag = (*flag).max(tile as u8);
            }
            let place = Place { detector: self.detector, region: cursor.region, pixel_bytes: self.pixel_bytes };
            if !run.bytes.is_empty() {
                place.copy(&run.bytes[at * place.tile_bytes()..], &mut self.pixels);
            }
        }
        self.settle(first..end);
        self.next = end;
        Ok(Some(Piece { frames: first..end, pixels: &self.pixels, flags: &self.flags }))
    }

    /// Counts, and makes frames that are not there zeros.
    fn settle(&mut self, frames: Range<u64>) {
        let is_verified = self.tiles.iter().all(|cursor| cursor.is_verified);
        let frame_bytes = self.frame_bytes() as usize;
        for (flag, pixels) in self.flags.iter().zip(self.pixels.chunks_exact_mut(frame_bytes)) {
            match *flag {
                flag if flag == FrameFlag::Ok as u8 => self.counts.verified += u64::from(is_verified),
                flag => {
                    pixels.fill(0);
                    let count = if flag == FrameFlag::Corrupt as u8 {
                        &mut self.counts.corrupt
                    } else {
                        &mut self.counts.missing
                    };
                    *count += 1;
                }
            }
        }
        debug_assert_eq!(frames.end - frames.start, self.flags.len() as u64);
    }
}

impl Cursor {
    /// Goes on to the next run. Errors: frames that should be there are not, unless `keep_going`.
    fn advance(&mut self, keep_going: bool) -> Result<()> {
        let at = self.runs.position();
        let run = self.runs.next_run()?;
        let run = run.with_context(|| format!("the frames end before frame {at}"))?;
        if let Some(error) = run.error
            && !keep_going
        {
            return Err(error).context("damaged frames; --keep-going leaves them out");
        }
        (self.frames, self.is_verified) = (run.frames, run.is_verified);
        Ok(())
    }
}

fn shape(region: Region) -> SigShape {
    SigShape { height: region.height, width: region.width }
}

/// Where the pixels of a tile go in whole frames.
struct Place {
    detector: SigShape,
    region: Region,
    pixel_bytes: usize,
}

impl Place {
    fn tile_bytes(&self) -> usize {
        self.region.pixel_count() as usize * self.pixel_bytes
    }

    fn copy(&self, tile: &[u8], whole: &mut [u8]) {
        let frame_bytes = self.detector.pixel_count() as usize * self.pixel_bytes;
        let row_bytes = self.region.width as usize * self.pixel_bytes;
        let line_bytes = self.detector.width as usize * self.pixel_bytes;
        let first = self.region.y as usize * line_bytes + self.region.x as usize * self.pixel_bytes;
        for (from, to) in tile.chunks_exact(self.tile_bytes()).zip(whole.chunks_exact_mut(frame_bytes)) {
            if row_bytes == line_bytes {
                to[first..first + from.len()].copy_from_slice(from);
                continue;
            }
            for (row, pixels) in from.chunks_exact(row_bytes).enumerate() {
                let at = first + row * line_bytes;
                to[at..at + row_bytes].copy_from_slice(pixels);
            }
        }
    }
}
