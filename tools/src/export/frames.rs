//! Whole frames in order, put together from tiles, each chunk compared with its checksum.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ronchi_pipeline::format::Page0;
use ronchi_pipeline::{FrameFlag, Region, SECTOR_BYTES, SigShape, crc32c};
use ronchi_sinks::storage::{Description, Reader, ReaderTile};

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
pub(super) struct WholeFrames<'a> {
    reader: &'a Reader,
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

/// One chunk of one tile.
struct Cursor {
    tile: ReaderTile,
    /// Directory of the tile's array.
    array: PathBuf,
    /// Segment whose page 0 is held; `None` in it when there is no such file.
    page: Option<(u64, Option<Page0>)>,
    frames: Range<u64>,
    pixels: Vec<u8>,
    flags: Vec<u8>,
    is_verified: bool,
}

impl<'a> WholeFrames<'a> {
    /// Frames from the first on. `keep_going`: damaged frames count as not there instead of being an error.
    pub(super) fn new(reader: &'a Reader, about: &Description, keep_going: bool) -> Result<Self> {
        let detector = about.detector();
        let mut tiles = Vec::new();
        let promised = &reader.manifest().detector.tiles;
        for tile in reader.tiles() {
            let layout = tile.array.layout;
            ensure!(layout.chunk_bytes() <= CHUNK_BYTES_MAX, "chunks of {} bytes are too large", layout.chunk_bytes());
            ensure!(tile.array.pixel == about.pixel(), "tile {} has other pixels than the manifest says", tile.id);
            let is_right = tile.region.fits(detector) && tile.array.shape == shape(tile.region);
            ensure!(is_right, "tile {} is not a part of the detector", tile.id);
            let array = if promised.len() <= 1 { PathBuf::from("frames") } else { format!("tiles/{}", tile.id).into() };
            tiles.push(Cursor {
                tile: tile.clone(),
                array: reader.path().join(array),
                page: None,
                frames: 0..0,
                pixels: Vec::new(),
                flags: Vec::new(),
                is_verified: false,
            });
        }
        Ok(Self {
            reader,
            is_partial: tiles.len() < promised.len(),
            tiles,
            detector,
            pixel_bytes: about.pixel().bytes(),
            keep_going,
            next: 0,
            end: about.frame_count(),
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
                cursor.load(self.reader, first, self.end, self.keep_going)?;
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
            for (flag, &tile) in self.flags.iter_mut().zip(&cursor.flags[at..]) {
                *flag = (*flag).max(tile);
            }
            let place = Place { detector: self.detector, region: cursor.tile.region, pixel_bytes: self.pixel_bytes };
            place.copy(&cursor.pixels[at * place.tile_bytes()..], &mut self.pixels);
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
    /// Reads the rest of the chunk that holds `first`.
    fn load(&mut self, reader: &Reader, first: u64, end: u64, keep_going: bool) -> Result<()> {
        let layout = self.tile.array.layout;
        let end = layout.chunk_end(first).min(end);
        reader.read_frames(self.tile.id, first..end, &mut self.pixels)?;
        self.flags = reader.flags(self.tile.id, first..end)?;
        self.frames = first..end;
        if self.tile.array.is_packed {
            self.is_verified = true; // Compressed chunks are compared with their checksums as they are read.
            return Ok(());
        }
        let sum = self.checksum(first)?;
        let chunk_start = layout.chunk_end(first) - u64::from(layout.frames_per_chunk);
        let is_whole = first == chunk_start;
        self.is_verified = sum.is_some() && is_whole;
        let Some(sum) = sum.filter(|_| is_whole) else { return Ok(()) };
        // The places of a chunk behind the last frame are zeros.
        let rest = layout.chunk_bytes() as usize - self.pixels.len();
        let mut found = crc32c(&self.pixels);
        if rest > 0 {
            let mut whole = self.pixels.clone();
            whole.resize(layout.chunk_bytes() as usize, 0);
            found = crc32c(&whole);
        }
        if found == sum {
            return Ok(());
        }
        let (segment, id) = (layout.segment_of(first), self.tile.id);
        if !keep_going {
            bail!(
                "frames {first} to {end} of tile {id} (segment {segment}) are damaged: their checksum is {found:08x}, not {sum:08x}"
            );
        }
        self.is_verified = false;
        self.flags
            .iter_mut()
            .filter(|flag| **flag == FrameFlag::Ok as u8)
            .for_each(|flag| *flag = FrameFlag::Corrupt as u8);
        Ok(())
    }

    /// The checksum of the chunk that holds a frame, where it is known.
    fn checksum(&mut self, frame: u64) -> Result<Option<u32>> {
        let layout = self.tile.array.layout;
        let segment = layout.segment_of(frame);
        if self.page.as_ref().is_none_or(|(held, _)| *held != segment) {
            let path = self.array.join(format!("c/{segment}/0/0"));
            let what = || format!("cannot read {}", path.display());
            let page = if path.exists() {
                let mut bytes = vec![0; SECTOR_BYTES];
                let file = std::fs::File::open(&path).with_context(what)?;
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).with_context(what)?;
                Some(Page0::decode(&bytes, layout.frame_bytes).with_context(what)?)
            } else {
                None
            };
            self.page = Some((segment, page));
        }
        let page = self.page.as_ref().and_then(|(_, page)| page.as_ref());
        let chunk = frame % layout.frames_per_segment() / u64::from(layout.frames_per_chunk);
        Ok(page.and_then(|page| page.chunks.get(chunk as usize).copied().flatten()).filter(|&sum| sum != 0))
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
