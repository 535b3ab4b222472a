//! What must be true of an image, by a count of its own: which frame was handed over when, and what the world was told.
//!
//! Frames and flags are looked up in the bytes of the image by position, and page 0 is taken apart here, without help of
//! the code that is tested.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ronchi_pipeline::crc32c;
use ronchi_pipeline::format::blosc;

use super::super::rig::pixels;
use super::crash::{Entry, Image};
use super::record::{NEVER, Word};
use super::scripts::{K, Run, SEGMENT};

/// One tile's frames.
struct Tile {
    base: PathBuf,
    array: PathBuf,
    frame_bytes: usize,
    is_packed: bool,
    /// The right content of every frame.
    pixels: Vec<Vec<u8>>,
    /// From which step on a frame must be there.
    claimed: Vec<usize>,
    rows_per_file: u64,
}

/// All claims of a run.
pub(crate) struct Ledger {
    tiles: Vec<Tile>,
    uuid: String,
}

impl Ledger {
    pub(crate) fn new(run: &Run, is_packed: bool) -> Self {
        let tiles = run.series.iter().map(|series| {
            let link = series.link;
            let root = Path::new("scan.ronchi");
            let base = if run.series.len() > 1 { root.join("tiles").join(link.to_string()) } else { root.to_owned() };
            let array = if run.series.len() > 1 { base.clone() } else { base.join("frames") };
            let claimed = claims(run, link);
            let frame_bytes = series.layout.frame_bytes;
            let pixels = (0..claimed.len() as u64).map(|frame| pixels(link, frame, frame_bytes)).collect();
            let rows_per_file = series.announced.frame_count.unwrap_or(65_536);
            Tile { base, array, frame_bytes: frame_bytes as usize, is_packed, pixels, claimed, rows_per_file }
        });
        let uuid = ronchi_pipeline::format::uuid_text(&run.series[0].acquisition);
        Self { tiles: tiles.collect(), uuid }
    }

    /// Whether anything was promised before this step.
    pub(crate) fn claims_any(&self, at: usize) -> bool {
        self.tiles.iter().any(|tile| tile.claimed.iter().any(|&since| since <= at))
    }

    /// P1: every frame that was called durable before step `at` is there, and, where the disk took the frame table, with
    /// its flag.
    pub(crate) fn check_promises(&self, image: &Image, at: usize, has_flags: bool) -> Result<(), String> {
        for (number, tile) in self.tiles.iter().enumerate() {
            for (frame, _) in tile.claimed.iter().enumerate().filter(|(_, since)| **since <= at) {
                if tile.frame(image, frame).as_deref() != Some(&tile.pixels[frame][..]) {
                    return Err(format!("frame {frame} of tile {number} was durable and is not there"));
                }
                if has_flags && tile.flag(image, frame) != Some(0) {
                    let flag = tile.flag(image, frame);
                    return Err(format!("frame {frame} of tile {number} was durable and has the flag {flag:?}"));
                }
            }
        }
        Ok(())
    }

    /// P2: no frame that progress and flag of the image call durable is wrong.
    pub(crate) fn check_claims(&self, image: &Image) -> Result<(), String> {
        for (number, tile) in self.tiles.iter().enumerate() {
            let durable = tile.durable(image, &self.uuid, number).unwrap_or(0);
            for frame in (0..tile.claimed.len().min(durable)).filter(|&frame| tile.flag(image, frame) == Some(0)) {
                if tile.frame(image, frame).as_deref() != Some(&tile.pixels[frame][..]) {
                    return Err(format!("frame {frame} of tile {number} is claimed, below {durable}, and wrong"));
                }
            }
        }
        Ok(())
    }

    /// Chunks that page 0 gives a checksum, and whose frames are not what was handed over or do not match it.
    pub(crate) fn wrong_chunks(&self, image: &Image) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, tile) in self.tiles.iter().enumerate() {
            for segment in 0..tile.claimed.len().div_ceil(SEGMENT as usize) {
                let Some(bytes) = tile.segment(image, segment) else { continue };
                for (chunk, range, crc) in entries(bytes) {
                    let found = bytes.get(range).map(crc32c);
                    if crc != 0 && found != Some(crc) {
                        wrong.push(format!("chunk {chunk} of segment {segment} of tile {number}"));
                    }
                }
            }
        }
        wrong
    }

    /// Frames that a reader is told to be there below `progress`, and that are wrong although no chunk without checksum
    /// excuses them.
    pub(crate) fn lies(&self, image: &Image) -> Option<String> {
        for (number, tile) in self.tiles.iter().enumerate() {
            let durable = tile.durable(image, &self.uuid, number).unwrap_or(0);
            for frame in (0..tile.claimed.len().min(durable)).filter(|&frame| tile.flag(image, frame) == Some(0)) {
                let is_right = tile.frame(image, frame).as_deref() == Some(&tile.pixels[frame][..]);
                let chunk = frame % SEGMENT as usize / K as usize;
                let page = tile.segment(image, frame / SEGMENT as usize).map(entries).unwrap_or_default();
                if !is_right && page.iter().any(|(number, _, crc)| *number == chunk && *crc != 0) {
                    return Some(format!("frame {frame} of tile {number}"));
                }
            }
        }
        None
    }

    /// Frames handed over, per tile.
    pub(crate) fn frame_counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.tiles.iter().map(|tile| tile.claimed.len() as u64)
    }
}

impl Tile {
    fn segment<'a>(&self, image: &'a Image, number: usize) -> Option<&'a [u8]> {
        file(image, &self.array.join("c").join(number.to_string()).join("0/0"))
    }

    fn frame<'a>(&self, image: &'a Image, frame: usize) -> Option<Cow<'a, [u8]>> {
        let segment = self.segment(image, frame / SEGMENT as usize)?;
        if self.is_packed {
            return self.packed_frame(image, segment, frame).map(Cow::Owned);
        }
        let start = 8192 + frame % SEGMENT as usize * self.frame_bytes;
        segment.get(start..start + self.frame_bytes).map(Cow::Borrowed)
    }

    /// A frame of the chunk that page 0 names; where page 0 is torn, of the newest one in the log that is as it says.
    fn packed_frame(&self, image: &Image, segment: &[u8], frame: usize) -> Option<Vec<u8>> {
        let number = frame % SEGMENT as usize / K as usize;
        let stored = match is_whole(segment) {
            true => {
                let (_, range, crc) = entries(segment).into_iter().find(|entry| entry.0 == number)?;
                segment.get(range).filter(|bytes| crc32c(bytes) == crc)?
            }
            false => self.logged(image, segment, frame / SEGMENT as usize, number)?,
        };
        let mut chunk = vec![0; K as usize * self.frame_bytes];
        blosc::decode(stored, &mut Vec::new(), &mut chunk).ok()?;
        Some(chunk.chunks(self.frame_bytes).nth(frame % K as usize)?.to_vec())
    }

    fn logged<'a>(&self, image: &Image, segment: &'a [u8], number: usize, chunk: usize) -> Option<&'a [u8]> {
        let log = file(image, &self.base.join("chunks.log"))?;
        let records = log.chunks_exact(32).take_while(|record| word(record, 28) == crc32c(&record[..28]));
        let ours: Vec<_> = records.filter(|r| (word(r, 0), word(r, 8)) == (number as u32, chunk as u32)).collect();
        ours.into_iter().rev().find_map(|record| {
            let start = word(record, 24) as usize * 4096;
            let bytes = segment.get(start..start + word(segment, start + 12) as usize)?;
            (start > 0 && crc32c(bytes) == word(record, 16)).then_some(bytes)
        })
    }

    fn flag(&self, image: &Image, frame: usize) -> Option<u8> {
        let number = frame as u64 / self.rows_per_file;
        let path = self.base.join("frame_table/flags/c").join(number.to_string());
        file(image, &path)?.get(frame % self.rows_per_file as usize).copied()
    }

    fn durable(&self, image: &Image, uuid: &str, number: usize) -> Option<usize> {
        let json: serde_json::Value = serde_json::from_slice(file(image, &self.base.join("progress.json"))?).ok()?;
        let is_ours = json["uuid"] == uuid && json["tile"] == number;
        json["durable_frames"].as_u64().filter(|_| is_ours).map(|durable| durable as usize)
    }
}

fn file<'a>(image: &'a Image, path: &Path) -> Option<&'a [u8]> {
    match image.get(path)? {
        Entry::File(bytes) => Some(bytes),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Whether both checksums of page 0 match.
fn is_whole(segment: &[u8]) -> bool {
    let index_bytes = 16 * (SEGMENT / K) as usize;
    segment.len() >= 4096
        && word(segment, index_bytes) == crc32c(&segment[..index_bytes])
        && word(segment, 4092) == crc32c(&segment[4032..4092])
}

/// Present chunks of a whole page 0, with their places and checksums; none of any other.
fn entries(segment: &[u8]) -> Vec<(usize, Range<usize>, u32)> {
    let chunks = (SEGMENT / K) as usize;
    let is_there = |&chunk: &usize| is_whole(segment) && segment[16 * chunk..16 * chunk + 16] != [0xff; 16];
    let entry = |chunk: usize| {
        let (start, bytes) = (word(segment, 16 * chunk) as usize, word(segment, 16 * chunk + 8) as usize);
        (chunk, start..start + bytes, word(segment, 16 * chunks + 4 + 4 * chunk))
    };
    (0..chunks).filter(is_there).map(entry).collect()
}

/// From which step on every frame of a tile must be there: since a watermark passed it that was raised after it had been
/// handed over, or since the tile ended without calling it a gap. Frames that ended as gaps were never promised.
fn claims(run: &Run, link: u32) -> Vec<usize> {
    let end = run.ends.iter().find(|end| end.series.link == link).map(|end| end.frame_count);
    let count = end.or(run.series[link as usize].announced.frame_count).unwrap_or(0) as usize;
    let (mut fed, mut claimed, mut mark) = (vec![false; count], vec![NEVER; count], 0);
    for (at, word) in &run.record.words {
        match word {
            Word::Fed(tile, frames) if *tile == link => frames.iter().for_each(|&frame| fed[frame as usize] = true),
            Word::Durable(tile, durable) if *tile == link => {
                let durable = (*durable as usize).min(count);
                for frame in (mark..durable.max(mark)).filter(|&frame| fed[frame]) {
                    claimed[frame] = *at;
                }
                mark = mark.max(durable);
            }
            Word::Ended(tile, gaps) if *tile == link => {
                for (frame, claimed) in (0..).zip(&mut claimed) {
                    *claimed = if gaps.contains(&frame) { NEVER } else { (*claimed).min(*at) };
                }
            }
            _ => {}
        }
    }
    claimed
}
