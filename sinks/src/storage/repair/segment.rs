//! One segment: which of its frames are proved, and pages that say so.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{ChunkRecord, Page0, Trailer, page1};
use ronchi_pipeline::{CrcJoin, DATA_OFFSET, FrameFlag, SECTOR_BYTES, crc32c};
use rustix::fs::{Advice, fadvise};

use super::Job;
use super::packed::{Places, decode_page};
use super::rows::Row;
use super::tile::TileRepair;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::file_system::FileSystem as _;
use crate::storage::files;
use crate::storage::reader::Condition;

const SECTOR: usize = SECTOR_BYTES;

/// How the frames of a chunk are told to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The chunk is as it was when all of its frames were there.
    Whole,
    /// The chunk is as it was when some of them were: the flags say which.
    Flags,
    /// Nothing is known of the chunk: every frame speaks for itself.
    Frames,
}

/// A segment being judged.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Page 0 as it was found, if it holds together.
    pub(super) page: Option<Page0>,
    /// Places of chunks, of a packed segment: as they were found, and as they will be named.
    pub(super) packed: Option<Places>,
    chunks: Vec<Option<u32>>,
    pub(super) counts: Vec<u32>,
    pub(super) present: u64,
    pub(super) present_end: u64,
    /// The chunk being judged, and whether the disk gave it.
    pub(super) pixels: Vec<u8>,
    is_readable: bool,
}

/// What came of a segment.
pub(super) struct Judged {
    /// Records for the log, of epoch 0.
    pub(super) records: Vec<ChunkRecord>,
    pub(super) present: u64,
}

impl Job<'_> {
    /// Judges every frame of a segment that is there, zeroes what is not proved, and leaves it sealed.
    pub(super) fn repair_segment(&mut self, tile: &mut TileRepair, number: u64) -> Result<Judged, StorageError> {
        let path = tile.segment_path(number);
        let file = tile.open_segment(number, !self.plan.is_dry)?;
        let mut bytes = [0; SECTOR];
        let read = read_at(&file, &mut bytes, 0).ok();
        let page = read.and_then(|()| decode_page(&bytes, tile.is_packed, tile.layout.frame_bytes));
        let (page, places) = page.map_or((None, None), |(page, places)| (Some(page), places));
        let n = tile.layout.chunks_per_segment as usize;
        let mut segment = Segment {
            number,
            path,
            file,
            page: page.filter(|page| page.chunks.len() == n),
            packed: tile.is_packed.then(|| Places::new(places.filter(|places| places.len() == n), n)),
            chunks: vec![None; n],
            counts: vec![0; n],
            present: 0,
            present_end: 0,
            pixels: vec![0; tile.layout.chunk_bytes() as usize], // Checked against a limit with the array (I5).
            is_readable: true,
        };
        for chunk in 0..tile.layout.chunks_per_segment {
            match segment.packed.is_some() {
                true => self.judge_packed(tile, &mut segment, chunk)?,
                false => self.judge_chunk(tile, &mut segment, chunk)?,
            }
            self.report.bytes += tile.layout.chunk_bytes();
            self.tick();
        }
        self.report.segments += 1;
        match &segment.packed {
            Some(places) => self.seal_packed(tile, &segment, places)?,
            None => self.seal(tile, &segment)?,
        }
        let _ = fadvise(&segment.file, 0, None, Advice::DontNeed); // Only advice: others' pages are worth more.
        Ok(segment.judged())
    }

    fn judge_chunk(&mut self, tile: &mut TileRepair, segment: &mut Segment, chunk: u32) -> Result<(), StorageError> {
        let layout = tile.layout;
        let k = u64::from(layout.frames_per_chunk);
        let first = segment.number * layout.frames_per_segment() + u64::from(chunk) * k;
        let offset = DATA_OFFSET + u64::from(chunk) * layout.chunk_bytes();
        segment.is_readable = match read_at(&segment.file, &mut segment.pixels, offset) {
            Ok(()) => true,
            Err(error) => {
                self.change(&segment.path, format_args!("chunk {chunk} cannot be read ({error}): zeroed"));
                segment.pixels.fill(0);
                false
            }
        };
        let join = CrcJoin::new(layout.frame_bytes);
        let mut crcs: Vec<u32> = segment.pixels.chunks_exact(layout.frame_bytes as usize).map(crc32c).collect();
        let proof = tile.proof(segment, chunk, join.join_all(crcs.iter().copied()));
        let (mut count, mut lost, mut unproved) = (0, 0, Vec::new());
        for (place, frame) in (first..first + k).enumerate() {
            let row = tile.table.row(self, frame)?;
            let is_there = tile.is_proved(self, segment, (chunk, place), frame, row, proof, crcs[place])?;
            if is_there {
                count += 1;
                segment.present_end = frame + 1;
            } else {
                lost += u64::from(row.is_some_and(|row| row.is_ok()));
                crcs[place] = join.zeros();
                unproved.push(place);
            }
            let row = tile.note(frame, row, is_there.then_some(crcs[place]), self.report.before);
            tile.table.set(self, frame, row)?;
        }
        self.report.lost += lost;
        segment.counts[chunk as usize] = count;
        segment.present += u64::from(count);
        let found = segment.page.as_ref().map(|page| page.chunks[chunk as usize]);
        // In a finished data set the disk may have refused frames in the middle: their bytes were never promised.
        let refused = found.filter(|entry| {
            self.report.before.is_finished() && lost == 0 && matches!((entry, count), (None, 0) | (Some(0), 1..))
        });
        if let Some(entry) = refused {
            segment.chunks[chunk as usize] = entry;
            return Ok(());
        }
        segment.chunks[chunk as usize] = (count > 0).then(|| join.join_all(crcs));
        self.clear_all(tile, segment, chunk, &unproved)
    }

    /// Frames that are not there read as zeros: those of these places that do not are cleared, neighbours together.
    fn clear_all(
        &mut self,
        tile: &TileRepair,
        segment: &Segment,
        chunk: u32,
        unproved: &[usize],
    ) -> Result<(), StorageError> {
        let frame_bytes = tile.layout.frame_bytes;
        let is_dirty = |place: &usize| !segment.is_readable || !is_zero(&segment.pixels, *place, frame_bytes);
        let dirty: Vec<usize> = unproved.iter().copied().filter(is_dirty).collect();
        dirty.chunk_by(|a, b| a + 1 == *b).try_for_each(|run| {
            let places = run[0]..run[0] + run.len(); // No run is empty.
            self.clear(tile, segment, chunk, places)
        })
    }

    /// Zeroes frames; what was there is kept when asked for.
    fn clear(
        &mut self,
        tile: &TileRepair,
        segment: &Segment,
        chunk: u32,
        places: Range<usize>,
    ) -> Result<(), StorageError> {
        let layout = tile.layout;
        let frame_bytes = layout.frame_bytes as usize;
        let chunk_first =
            segment.number * layout.frames_per_segment() + u64::from(chunk) * u64::from(layout.frames_per_chunk);
        let (first, last) = (chunk_first + places.start as u64, chunk_first + places.end as u64 - 1);
        let frames = if first == last { format!("frame {first}") } else { format!("frames {first} to {last}") };
        if !self.change(&segment.path, format_args!("{frames} cannot be proved: zeroed")) {
            return Ok(());
        }
        let range = places.start * frame_bytes..places.end * frame_bytes;
        if self.plan.keeps_torn {
            let directory = self.root.join("torn").join(tile.id.to_string());
            files::create_dirs(&self.system, &directory)?;
            for (frame, pixels) in (first..).zip(segment.pixels[range.clone()].chunks_exact(frame_bytes)) {
                files::replace(&self.system, &directory.join(format!("{frame}.bin")), pixels, true)?;
            }
        }
        let offset = DATA_OFFSET + u64::from(chunk) * layout.chunk_bytes() + range.start as u64;
        self.system.write(&segment.file, offset, &vec![0; range.len()]).context("write", &segment.path)
    }

    /// Length, both pages and padding as they are in a sealed segment.
    fn seal(&mut self, tile: &TileRepair, segment: &Segment) -> Result<(), StorageError> {
        let layout = tile.layout;
        let found_bytes = segment.file.metadata().context("read", &segment.path)?.len();
        if found_bytes != layout.segment_bytes() {
            let what = format_args!("{found_bytes} bytes long, now {}", layout.segment_bytes());
            if self.change(&segment.path, what) {
                segment.file.set_len(layout.segment_bytes()).context("resize", &segment.path)?;
            }
        }
        let data_end = DATA_OFFSET + layout.frames_per_segment() * layout.frame_bytes;
        let zeros = vec![0; (layout.segment_bytes() - data_end) as usize];
        self.put_bytes(segment, data_end, &zeros, "padding zeroed")?;
        let page = page1(layout.frames_per_segment(), tile.shape, tile.pixel);
        let page0 = Page0 { trailer: segment.trailer(tile), chunks: segment.chunks.clone() };
        self.put_pages(segment, &page, &page0.encode(layout.frame_bytes))
    }

    /// Both pages; what page 0 names is durable before it does (I4).
    pub(super) fn put_pages(
        &mut self,
        segment: &Segment,
        page1: &[u8; SECTOR],
        page0: &[u8; SECTOR],
    ) -> Result<(), StorageError> {
        self.put_bytes(segment, SECTOR as u64, page1, "page 1 written anew")?;
        if !self.plan.is_dry {
            self.system.sync(&segment.file).context("sync", &segment.path)?;
        }
        if self.put_bytes(segment, 0, page0, "page 0 written anew")? {
            self.system.sync(&segment.file).context("sync", &segment.path)?;
        }
        Ok(())
    }

    /// Makes a part of the segment hold these bytes; whether it was written.
    fn put_bytes(&mut self, segment: &Segment, offset: u64, bytes: &[u8], what: &str) -> Result<bool, StorageError> {
        let mut found = vec![0; bytes.len()];
        read_at(&segment.file, &mut found, offset).context("read", &segment.path)?;
        if found == bytes || !self.change(&segment.path, what) {
            return Ok(false);
        }
        self.system.write(&segment.file, offset, bytes).context("write", &segment.path)?;
        Ok(true)
    }

    /// Takes a segment out of the way that says it belongs elsewhere: its frames are none of this tile's. Of a link, the
    /// link.
    pub(super) fn move_stranger(
        &mut self,
        path: &Path,
        (tile, number): (u32, u64),
        why: &str,
    ) -> Result<(), StorageError> {
        if !self.change(path, format_args!("moved to orphans/: {why}")) {
            return Ok(());
        }
        let target = self.root.join("orphans").join(format!("{tile}-{number}"));
        files::create_dirs(&self.system, target.parent().unwrap_or(self.root))?;
        if target.symlink_metadata().is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists)).context("move to", &target);
        }
        self.system.rename(path, &target).context("move", path)?;
        files::sync_dir(&self.system, target.parent().unwrap_or(self.root))?;
        path.parent().map_or(Ok(()), |parent| files::sync_dir(&self.system, parent))
    }
}

/// Whether the trailer of an unsealed page counts as many frames as the index calls whole. A power cut may leave a newer
/// index, which counts missing frames as zeros when it is the final one, beside an older trailer: each half has a checksum
/// of its own.
fn is_of_one_write(page: &Page0) -> bool {
    let k = u64::from(page.trailer.frames_per_chunk);
    let named: u64 = page.chunks.iter().flatten().map(|&crc| if crc == 0 { 1 } else { k }).sum();
    !page.trailer.is_sealed && named <= u64::from(page.trailer.frames_written)
}

impl TileRepair {
    /// How the chunk's checksum compares with what is written of it (I1).
    fn proof(&self, segment: &Segment, chunk: u32, crc: u32) -> Proof {
        let is_full = |count: u32| count == self.layout.frames_per_chunk;
        let logged = self.log.chunk(segment.number, chunk).filter(|&(_, stored)| stored == crc && crc != 0);
        let page = segment.page.as_ref().filter(|page| page.chunks[chunk as usize] == Some(crc) && crc != 0);
        match (page, logged) {
            (_, Some((count, _))) if is_full(count) => Proof::Whole,
            (Some(page), _) if is_of_one_write(page) => Proof::Whole,
            (None, None) => Proof::Frames,
            _ => Proof::Flags,
        }
    }

    /// Whether a frame is there (I1).
    #[expect(clippy::too_many_arguments, reason = "each is another witness")]
    fn is_proved(
        &mut self,
        job: &mut Job<'_>,
        segment: &Segment,
        (chunk, place): (u32, usize),
        frame: u64,
        row: Option<Row>,
        proof: Proof,
        crc: u32,
    ) -> Result<bool, StorageError> {
        if self.announced.is_some_and(|count| frame >= count) {
            return Ok(false);
        }
        Ok(match (proof, row) {
            (Proof::Whole, _) => true,
            // What is not there was zero when the checksum was taken, so a frame that is not is there: its row was lost.
            (Proof::Flags, Some(row)) => {
                let is_told = row.is_rejected() || self.listed_reason(frame).is_some();
                row.is_ok() || !is_told && !is_zero(&segment.pixels, place, self.layout.frame_bytes)
            }
            (Proof::Flags, None) => segment.is_counted(frame, place, self.layout.frame_bytes),
            (Proof::Frames, Some(row)) if !row.is_ok() => false,
            (Proof::Frames, Some(row)) if self.table.has_checksums(job, frame)? => row.crc32c == crc,
            (Proof::Frames, Some(_)) => self.is_trusted(segment, chunk, frame, job.report.before),
            (Proof::Frames, None) => false,
        })
    }

    /// Without a checksum of frames: below the durable watermark of a receiver that died, and where a finished data set
    /// never knew the checksum of the chunk.
    fn is_trusted(&self, segment: &Segment, chunk: u32, frame: u64, before: Condition) -> bool {
        match before.is_finished() {
            true => segment.page.as_ref().is_some_and(|page| page.chunks[chunk as usize] == Some(0)),
            false => frame < self.durable,
        }
    }

    /// Notes what was found of a frame, and returns its row as it is to be. `crc`: of a frame that is there.
    pub(super) fn note(&mut self, frame: u64, row: Option<Row>, crc: Option<u32>, before: Condition) -> Row {
        let old = row.unwrap_or(Row::MISSING);
        if let Some(crc32c) = crc {
            self.end = frame + 1;
            self.present += 1;
            let (counter, time_ns) = if old.is_ok() { (old.counter, old.time_ns) } else { (0, 0) };
            return Row { counter, time_ns, flag: FrameFlag::Ok as u8, crc32c };
        }
        if old.is_rejected() {
            self.end = frame + 1;
            self.add_gap(frame..frame + 1, &old, before);
            return Row { crc32c: 0, ..old };
        }
        if self.announced.is_none_or(|count| frame < count) {
            self.add_gap(frame..frame + 1, &old, before);
        }
        match before.is_finished() && old.is_ok() {
            true => Row { flag: FrameFlag::Corrupt as u8, crc32c: 0, ..old },
            false => Row::MISSING,
        }
    }
}

impl Segment {
    /// The trailer of the segment as it is left: sealed.
    pub(super) fn trailer(&self, tile: &TileRepair) -> Trailer {
        let first_frame = self.number * tile.layout.frames_per_segment();
        Trailer {
            uuid: tile.uuid,
            tile: tile.id,
            is_sealed: true,
            has_gaps: self.present < self.present_end.saturating_sub(first_frame),
            segment: self.number,
            first_frame,
            frames_written: self.present as u32,
            frames_per_chunk: tile.layout.frames_per_chunk,
        }
    }

    /// Without flags: a sealed page without gaps counts its frames. Else a frame of zeros may be dark or missing, and
    /// reads the same.
    fn is_counted(&self, frame: u64, place: usize, frame_bytes: u64) -> bool {
        match self.page.as_ref().map(|page| page.trailer) {
            Some(Trailer { is_sealed: true, has_gaps: false, first_frame, frames_written, .. }) => {
                frame < first_frame.saturating_add(u64::from(frames_written))
            }
            _ => !is_zero(&self.pixels, place, frame_bytes),
        }
    }

    fn judged(&self) -> Judged {
        let place = |chunk: usize| self.packed.as_ref().and_then(|places| places.kept[chunk]);
        let entries = (0..).zip(self.chunks.iter().zip(&self.counts).enumerate());
        let records = entries.filter_map(|(chunk, (at, (entry, &frames)))| {
            let (crc32c, sector) = match place(at) {
                Some(place) => (place.crc32c, (place.offset / SECTOR as u64) as u32), // As `PackedPage0` has checked.
                None => ((*entry)?, 0),
            };
            Some(ChunkRecord { segment: self.number, chunk, frames, crc32c, epoch: 0, sector })
        });
        Judged { records: records.collect(), present: self.present }
    }
}

pub(super) fn is_zero(pixels: &[u8], place: usize, frame_bytes: u64) -> bool {
    pixels.chunks_exact(frame_bytes as usize).nth(place).is_none_or(|frame| frame.iter().all(|&byte| byte == 0))
}

/// Reads what is there; beyond the end of a file that was cut there are zeros.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut range: Range<usize> = 0..bytes.len();
    while !range.is_empty() {
        match file.read_at(&mut bytes[range.clone()], offset + range.start as u64) {
            Ok(0) => break,
            Ok(count) => range.start += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[range].fill(0);
    Ok(())
}
