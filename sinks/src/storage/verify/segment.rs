//! Segments: identity, both pages, length, every chunk, and zeros where nothing was written.

mod packed;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use ronchi_pipeline::format::{FormatError, PackedChunk, Page0, Trailer, page1, uuid_text};
use ronchi_pipeline::{CrcJoin, DATA_OFFSET, FrameFlag, SECTOR_BYTES, crc32c};
use rustix::fs::{Advice, fadvise};

use super::ahead::Ahead;
use super::report::relative;
use super::rows::row_path;
use super::{Audit, Depth, FRAME_MAX, Subject};
use crate::storage::error::Context as _;
use crate::storage::reader::Condition;
use crate::storage::table;
use crate::storage::unpack::Unpacker;
use packed::{PageAndPlaces, decode_page0};

/// Pages 0 and 1.
pub(super) const PAGES_BYTES: u64 = 2 * SECTOR_BYTES as u64;
/// Page 0 of a growing segment is replaced in place: so often it is read again when it does not hold together.
const PAGE_READS_MAX: u32 = 20;
/// Time between two of these reads: a writer replaces the page every 100 ms at most, in far less than this.
const PAGE_PAUSE: Duration = Duration::from_millis(2);
const SECTOR: usize = SECTOR_BYTES;

type Page = [u8; SECTOR_BYTES];

/// A segment while it is checked.
pub(super) struct Segment<'a> {
    pub(super) subject: &'a Subject,
    file: File,
    number: u64,
    pub(super) page: Page0,
    /// Where its chunks lie, if it is a packed one.
    pub(super) places: Option<Vec<Option<PackedChunk>>>,
    /// Its frames, clipped to what the flags can say for sure.
    frames: Range<u64>,
    /// Frames present by their flags, and one after the last of them.
    pub(super) present: u64,
    pub(super) present_end: u64,
    /// Chunks of a finished data set keep their checksums even where the disk refused frames of them.
    pub(super) is_settled: bool,
    join: CrcJoin,
}

/// Memory for chunks, the checksums of the frames of one as they are, and what the frame table says of them.
struct Buffers {
    ahead: Ahead,
    /// Of a packed segment: the chunk that is looked at.
    unpacker: Unpacker,
    unpacked: Vec<u8>,
    checksums: Vec<u32>,
    flags: Vec<u8>,
    rows: Vec<u8>,
}

impl Buffers {
    /// Checksums of the frames by their bytes; returns that of the chunk.
    fn take_checksums(&mut self, segment: &Segment<'_>) -> u32 {
        self.checksums.clear();
        let frame_bytes = segment.subject.tile.array.layout.frame_bytes as usize;
        let pixels = if segment.places.is_some() { &self.unpacked[..] } else { self.ahead.pixels() };
        self.checksums.extend(pixels.chunks_exact(frame_bytes).map(crc32c));
        segment.join.join_all(self.checksums.iter().copied())
    }

    /// The chunk that was read last.
    fn pixels(&self, segment: &Segment<'_>) -> &[u8] {
        if segment.places.is_some() { &self.unpacked } else { self.ahead.pixels() }
    }
}

impl Audit<'_> {
    /// Checks every segment file of a tile whose array is as it should be.
    pub(super) fn check_segments(&mut self, subject: &mut Subject) {
        let layout = subject.tile.array.layout;
        let ahead = Ahead::new(layout.chunk_bytes());
        let (unpacker, unpacked, checksums, flags, rows) = Default::default();
        let mut buffers = Buffers { ahead, unpacker, unpacked, checksums, flags, rows };
        let mut sealed_count = 0;
        for &number in &subject.segments {
            let done = match self.depth {
                Depth::Quick => PAGES_BYTES,
                Depth::Full => layout.segment_bytes(),
            };
            let before = self.done_bytes;
            sealed_count += u64::from(self.check_segment(subject, number, &mut buffers));
            self.report.segments += 1;
            self.done_bytes = before + done;
            self.tick();
        }
        self.report.segments_sealed += sealed_count;
        subject.sealed_count = sealed_count;
    }

    /// Whether the segment is sealed.
    fn check_segment(&mut self, subject: &Subject, number: u64, buffers: &mut Buffers) -> bool {
        let layout = subject.tile.array.layout;
        let path = subject.tile.segment_path(number);
        let name = relative(self.root, &path).to_owned();
        let n = layout.frames_per_segment();
        let Some(end) = number.checked_add(1).and_then(|next| next.checked_mul(n)).filter(|&end| end < FRAME_MAX)
        else {
            self.report.flaw(&name, "number", number, "a segment of this array");
            return false;
        };
        let Some((bytes, file)) = self.open_segment(subject, number, &name) else { return false };
        if !subject.tile.array.is_packed {
            self.check_page1(subject, &file, &name);
            self.check_length(subject, &file, bytes, &name);
        }
        let Some((page, places)) = self.read_page0(subject, &file, &name, number) else { return false };
        if let Some(places) = &places {
            self.check_places(places, bytes, &name);
            self.check_packed_page1(subject, &file, (&page, places), &name);
        }
        let is_sealed = page.trailer.is_sealed;
        let limit = if self.condition.is_finished() { subject.tile.array.frame_count } else { subject.promised };
        let frames = end - n..end.min(limit).max(end - n);
        let join = CrcJoin::new(layout.frame_bytes);
        let mut segment = Segment {
            subject,
            file,
            number,
            page,
            places,
            frames,
            present: 0,
            present_end: 0,
            is_settled: false,
            join,
        };
        segment.is_settled = segment.settled();
        self.check_link(subject, number, segment.page.chunks.iter().any(Option::is_some));
        if self.depth == Depth::Full && segment.places.is_none() {
            let is_finished = self.condition.is_finished();
            let wanted = (0..).zip(&segment.page.chunks).filter(|(_, entry)| is_finished || entry.is_some());
            let begun = buffers.ahead.begin(&path, wanted.map(|(chunk, _)| chunk));
            self.report.tell(self.root, begun.context("read", &path), "a segment");
        }
        for chunk in 0..layout.chunks_per_segment {
            self.check_chunk(&mut segment, chunk, buffers, &name);
            if self.depth == Depth::Full {
                self.done_bytes += layout.chunk_bytes();
                self.tick();
            }
        }
        self.check_trailer(&segment, &name);
        if self.depth == Depth::Full && segment.places.is_some() {
            let _ = fadvise(&segment.file, 0, None, Advice::DontNeed); // Only advice: packed chunks are read plainly.
        }
        is_sealed
    }

    /// Opens a segment, where it is or where its link may lead; with its length.
    fn open_segment(&mut self, subject: &Subject, number: u64, name: &Path) -> Option<(u64, File)> {
        let path = match subject.tile.segment_file(number) {
            Ok(path) => path,
            Err(error) => {
                self.report.refused(self.root, &error, "a segment, or a link to one in a volume");
                return None;
            }
        };
        let opened = fs::metadata(&path).and_then(|metadata| match metadata.is_file() {
            true => Ok((metadata.len(), File::open(&path)?)),
            false => Err(io::Error::other("not a regular file")),
        });
        match opened {
            Ok(opened) => return Some(opened),
            // A segment prepared ahead and not used is removed when the series ends.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.condition == Condition::Running => {}
            Err(error) => self.report.flaw(name, "file", error, "a segment"),
        }
        None
    }

    /// The HDF5 face follows from the array's metadata, byte for byte.
    fn check_page1(&mut self, subject: &Subject, file: &File, name: &Path) {
        let array = &subject.tile.array;
        let mut found: Page = [0; SECTOR];
        if let Err(error) = file.read_exact_at(&mut found, SECTOR as u64) {
            self.report.flaw(name, "page 1", error, "4096 bytes");
            return;
        }
        self.report.bytes += SECTOR as u64;
        let expected = page1(array.layout.frames_per_segment(), array.tile, array.pixel);
        if let Some(at) = first_difference(&found, &expected) {
            let what = format!("page 1, byte {}", SECTOR + at);
            self.report.flaw(name, what, found[at], format_args!("{}, as the shape says", expected[at]));
        }
    }

    /// A segment has its full length; behind the last frame there are zeros to a whole sector.
    fn check_length(&mut self, subject: &Subject, file: &File, bytes: u64, name: &Path) {
        let layout = subject.tile.array.layout;
        if bytes != layout.segment_bytes() {
            let expected = format_args!("{} bytes", layout.segment_bytes());
            self.report.flaw(name, "length", format_args!("{bytes} bytes"), expected);
        }
        let data_end = DATA_OFFSET + layout.frames_per_segment() * layout.frame_bytes;
        let mut page: Page = [0; SECTOR];
        let padding = &mut page[..(layout.segment_bytes() - data_end) as usize];
        if let Err(error) = file.read_exact_at(padding, data_end) {
            self.report.flaw(name, "padding", error, format_args!("{} zeros", padding.len()));
        } else if let Some(at) = padding.iter().position(|&byte| byte != 0) {
            self.report.flaw(name, format_args!("padding, byte {}", data_end + at as u64), padding[at], 0);
        }
    }

    /// Page 0, checked for what it says, for whose it is, and for every byte between its fields.
    fn read_page0(&mut self, subject: &Subject, file: &File, name: &Path, number: u64) -> Option<PageAndPlaces> {
        let layout = subject.tile.array.layout;
        let reads = if self.condition == Condition::Running { PAGE_READS_MAX } else { 1 };
        let mut bytes: Page = [0; SECTOR];
        let mut decoded = Err(FormatError::Short { what: "page 0", got_bytes: 0, want_bytes: SECTOR });
        for read in 0..reads {
            if read > 0 {
                std::thread::sleep(PAGE_PAUSE);
            }
            if let Err(error) = file.read_exact_at(&mut bytes, 0) {
                self.report.flaw(name, "page 0", error, "4096 bytes");
                return None;
            }
            decoded = decode_page0(&bytes, &subject.tile.array);
            if decoded.as_ref().is_ok_and(|(.., expected)| first_difference(&bytes, expected).is_none()) {
                break;
            }
        }
        self.report.bytes += SECTOR as u64;
        let (page, expected) = match decoded {
            Ok((page, expected)) => (page, expected),
            Err(error) => {
                let known = (0..layout.chunks_per_segment).filter(|&c| subject.log.chunk(number, c).is_some()).count();
                let expected = format_args!("index and trailer; chunks.log knows {known} chunks of this segment");
                self.report.flaw(name, "page 0", error, expected);
                return None;
            }
        };
        if let Some(at) = first_difference(&bytes, &expected) {
            self.report.flaw(name, format_args!("page 0, byte {at}"), bytes[at], expected[at]);
        }
        self.check_place(subject, &page.0, name, number).then_some(page)
    }

    /// Whether the trailer says that the segment belongs where it was found.
    fn check_place(&mut self, subject: &Subject, page: &Page0, name: &Path, number: u64) -> bool {
        let layout = subject.tile.array.layout;
        let Trailer { uuid, tile, segment, first_frame, frames_per_chunk, .. } = page.trailer;
        let place = |uuid: &str, tile: u32, segment: u64, first: u64, k: u32, n: u64| {
            format!("segment {segment} of tile {tile} of {uuid}, from frame {first}, {n} chunks of {k} frames")
        };
        let chunks = page.chunks.len() as u64;
        let found = place(&uuid_text(&uuid), tile, segment, first_frame, frames_per_chunk, chunks);
        let first = number * layout.frames_per_segment();
        let (k, n) = (layout.frames_per_chunk, u64::from(layout.chunks_per_segment));
        let expected = place(&self.manifest.uuid, subject.tile.id, number, first, k, n);
        if found != expected {
            self.report.flaw(name, "trailer", &found, &expected);
        }
        found == expected
    }

    fn check_chunk(&mut self, segment: &mut Segment<'_>, chunk: u32, buffers: &mut Buffers, name: &Path) {
        let layout = segment.subject.tile.array.layout;
        let k = u64::from(layout.frames_per_chunk);
        let first = segment.number * layout.frames_per_segment() + u64::from(chunk) * k;
        let frames = first..first + k;
        let present = segment.count_present(&frames, &mut buffers.flags);
        match segment.page.chunks[chunk as usize] {
            None if present > 0 => {
                let expected = format_args!("present: {present} of its frames are there by their flags");
                self.report.flaw(name, chunk_name(chunk, &frames), "absent", expected);
            }
            None => self.check_absent(segment, chunk, &frames, buffers, name),
            Some(crc) => {
                self.check_record(segment, chunk, &frames, (present, crc), name);
                self.check_pixels(segment, chunk, &frames, (present, crc), buffers, name);
            }
        }
    }

    /// An absent chunk was never written: it reads as zeros, also for those who do not know of chunks.
    fn check_absent(
        &mut self,
        segment: &Segment<'_>,
        chunk: u32,
        frames: &Range<u64>,
        buffers: &mut Buffers,
        name: &Path,
    ) {
        if !self.condition.is_finished() || segment.subject.gaps.may_be_refused(frames) {
            return; // Its frames may be on their way, or may have been refused in the middle.
        }
        if let Some((count, crc)) = segment.subject.log.chunk(segment.number, chunk) {
            let found = format_args!("absent, while chunks.log has {count} frames with checksum {crc:08x}");
            self.report.flaw(name, chunk_name(chunk, frames), found, "the same in both");
        }
        let is_read = self.depth == Depth::Full && segment.places.is_none();
        if is_read && self.read_chunk(segment, chunk, frames, buffers, name).is_some() {
            self.check_zeros(buffers.pixels(segment), chunk, frames, name);
        }
    }

    fn check_zeros(&mut self, pixels: &[u8], chunk: u32, frames: &Range<u64>, name: &Path) {
        if let Some(at) = pixels.iter().position(|&byte| byte != 0) {
            let what = format!("{}, byte {at} of it", chunk_name(chunk, frames));
            self.report.flaw(name, what, pixels[at], "0: nothing was written there");
        }
    }

    /// The log has what page 0 says.
    fn check_record(
        &mut self,
        segment: &Segment<'_>,
        chunk: u32,
        frames: &Range<u64>,
        (present, crc): (u64, u32),
        name: &Path,
    ) {
        let is_final = self.condition.is_finished() && segment.page.trailer.is_sealed;
        let what = chunk_name(chunk, frames);
        match segment.subject.log.chunk(segment.number, chunk) {
            None if is_final || frames.end <= segment.subject.promised => {
                self.report.flaw(name, what, "not in chunks.log", "a record of it");
            }
            None => {}
            // While frames come in, either may be ahead of the other by one publication, or one version of the chunk.
            Some((_, logged)) if logged != crc && (is_final || segment.places.is_none() && logged != 0 && crc != 0) => {
                let expected = format_args!("{logged:08x} as in chunks.log");
                self.report.flaw(name, what, format_args!("checksum {crc:08x} in page 0"), expected);
            }
            // Of a chunk with refused frames the log may know an earlier number.
            Some((count, _)) if is_final && segment.is_settled && crc != 0 && u64::from(count) != present => {
                let found = format_args!("{count} frames in chunks.log");
                self.report.flaw(name, what, found, format_args!("{present}, by their flags"));
            }
            Some(_) => {}
        }
    }

    fn check_pixels(
        &mut self,
        segment: &Segment<'_>,
        chunk: u32,
        frames: &Range<u64>,
        (present, crc): (u64, u32),
        buffers: &mut Buffers,
        name: &Path,
    ) {
        let is_sealed = segment.page.trailer.is_sealed;
        let is_finished = self.condition.is_finished();
        let may_be_refused = is_finished && segment.subject.gaps.may_be_refused(frames);
        if self.depth == Depth::Quick {
            *(if crc == 0 { &mut self.report.unknown } else { &mut self.report.good }) += 1;
            return;
        }
        let Some(mut found) = self.read_chunk(segment, chunk, frames, buffers, name) else { return };
        if found != crc && self.condition == Condition::Running {
            // Without direct I/O the page cache may hold a sector as it was before a block beside it came in.
            std::thread::sleep(PAGE_PAUSE);
            found = match segment.places {
                Some(_) => self.read_chunk(segment, chunk, frames, buffers, name).unwrap_or(found),
                None => {
                    let _ = buffers.ahead.bring_again(chunk, &segment.file);
                    buffers.take_checksums(segment)
                }
            };
        }
        // Which chunks are known by a checksum, and of which the checksum is a promise.
        let is_known = crc != 0 || is_sealed && is_finished && !may_be_refused;
        let is_promised = match self.condition {
            Condition::Running => true,
            // Frames that were lost, or on their way, may be named here already: their rows come later.
            Condition::Died => frames.end <= segment.subject.promised && present == frames.end - frames.start,
            _ => segment.is_settled || !may_be_refused,
        };
        match (found == crc, is_known, is_promised) {
            (true, _, _) => self.report.good += 1,
            (false, false, _) => self.report.unknown += 1,
            (false, true, false) => self.report.doubtful += 1,
            (false, true, true) => {
                let what = format!("checksum of {}", chunk_name(chunk, frames));
                let frame =
                    self.bad_frame(segment, frames, buffers).map(|(frame, ..)| format!("; frame {frame} is bad"));
                let found = format!("{found:08x} by its bytes{}", frame.unwrap_or_default());
                self.report.flaw(name, what, found, format_args!("{crc:08x}"));
                return;
            }
        }
        self.check_frames(segment, frames, buffers, if found == crc { None } else { Some(name) });
        if is_finished && is_sealed && !may_be_refused {
            self.check_missing_pixels(segment, chunk, frames, buffers, name);
        }
    }

    /// The first frame that is there by its flag and not what the frame table says of its bytes, with its checksum by
    /// its bytes and by the table.
    fn bad_frame(&self, segment: &Segment<'_>, frames: &Range<u64>, buffers: &mut Buffers) -> Option<(u64, u32, u32)> {
        let tile = &segment.subject.tile;
        if !tile.has_checksums() {
            return None;
        }
        buffers.rows.clear();
        buffers.rows.resize(4 * buffers.flags.len(), 0);
        // What cannot be read has its flaw from the check of the table.
        let _ = tile.read_rows(frames.start, table::CHECKSUMS, 4, &mut buffers.rows);
        let stored = buffers.rows.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        // A disk that refuses a row may have taken the flag before, and so may one whose power went.
        let may_lack = matches!(self.condition, Condition::Failed | Condition::Died);
        let rows = frames.clone().zip(buffers.flags.iter().zip(buffers.checksums.iter().zip(stored)));
        rows.filter(|(_, (flag, _))| **flag == FrameFlag::Ok as u8)
            .map(|(frame, (_, (&found, stored)))| (frame, found, stored))
            .find(|&(_, found, stored)| found != stored && !(may_lack && stored == 0))
    }

    /// Frames that are there are what the frame table says of their bytes. Where the whole chunk is as its checksum
    /// says, it is the table that is wrong; else it is `segment`.
    fn check_frames(&mut self, of: &Segment<'_>, frames: &Range<u64>, buffers: &mut Buffers, segment: Option<&Path>) {
        if let Some((frame, found, stored)) = self.bad_frame(of, frames, buffers) {
            let tile = &of.subject.tile;
            let path = row_path(tile, table::CHECKSUMS, frame / tile.rows_per_file());
            let name = segment.unwrap_or_else(|| relative(self.root, &path));
            let (found, expected) = (format!("{found:08x} by its bytes"), format!("{stored:08x} by the frame table"));
            self.report.flaw(name, format_args!("checksum of frame {frame}"), found, expected);
        }
    }

    /// Frames that are not there are zeros inside a chunk that is.
    fn check_missing_pixels(
        &mut self,
        segment: &Segment<'_>,
        chunk: u32,
        frames: &Range<u64>,
        buffers: &Buffers,
        name: &Path,
    ) {
        let frame_bytes = segment.subject.tile.array.layout.frame_bytes as usize;
        let pixels = buffers.pixels(segment).chunks_exact(frame_bytes);
        let all = frames.clone().zip(buffers.flags.iter().zip(pixels));
        for (frame, (_, pixels)) in all.filter(|(_, (flag, _))| **flag != FrameFlag::Ok as u8) {
            if let Some(at) = pixels.iter().position(|&byte| byte != 0) {
                let what = format!("byte {at} of frame {frame}, which is missing, in chunk {chunk}");
                self.report.flaw(name, what, pixels[at], "0: nothing was written there");
                return; // One tells enough of a chunk.
            }
        }
    }

    /// Reads a chunk and takes its checksums; its size was checked with the array (I4). Returns the checksum of its bytes as
    /// stored. Of a compressed chunk that is not what its checksum says no frame is looked at.
    fn read_chunk(
        &mut self,
        segment: &Segment<'_>,
        chunk: u32,
        frames: &Range<u64>,
        buffers: &mut Buffers,
        name: &Path,
    ) -> Option<u32> {
        let chunk_bytes = segment.subject.tile.array.layout.chunk_bytes();
        if let Some(place) = segment.places.as_ref().and_then(|places| places.get(chunk as usize).copied().flatten()) {
            return self.read_packed(segment, (chunk, frames), &place, buffers, name);
        }
        self.report.bytes += chunk_bytes;
        let brought = buffers.ahead.bring(chunk);
        brought
            .map_err(|error| {
                self.report.flaw(name, chunk_name(chunk, frames), error, format_args!("{chunk_bytes} bytes"))
            })
            .ok()?;
        Some(buffers.take_checksums(segment))
    }
}

impl Segment<'_> {
    /// Whether no frame was lost after page 0 had named it, as happens when the last sync is refused: by the gaps, or by
    /// as many flags as the sealed trailer counts.
    fn settled(&self) -> bool {
        let layout = self.subject.tile.array.layout;
        let first = self.page.trailer.first_frame;
        if !self.subject.gaps.may_be_refused(&(first..first + layout.frames_per_segment())) {
            return true;
        }
        let mut flags = vec![FrameFlag::Missing as u8; layout.frames_per_chunk as usize];
        let mut present = 0;
        for chunk in 0..u64::from(layout.chunks_per_segment) {
            flags.fill(FrameFlag::Missing as u8);
            // What cannot be read has its flaw from the check of the table, and counts as missing.
            let _ = self.subject.tile.read_rows(first + chunk * flags.len() as u64, "flags", 1, &mut flags);
            present += flags.iter().filter(|&&flag| flag == FrameFlag::Ok as u8).count();
        }
        self.page.trailer.is_sealed && present as u64 == u64::from(self.page.trailer.frames_written)
    }

    /// Reads the flags of a chunk's frames, those beyond what is known as missing, and counts the present ones.
    fn count_present(&mut self, frames: &Range<u64>, flags: &mut Vec<u8>) -> u64 {
        flags.clear();
        flags.resize((frames.end - frames.start) as usize, FrameFlag::Missing as u8);
        let known = self.frames.end.clamp(frames.start, frames.end) - frames.start;
        // What cannot be read has its flaw from the check of the table, and counts as missing.
        let _ = self.subject.tile.read_rows(frames.start, "flags", 1, &mut flags[..known as usize]);
        let is_ok = |flag: &&u8| **flag == FrameFlag::Ok as u8;
        let present = flags.iter().filter(is_ok).count() as u64;
        if let Some(last) = flags.iter().rposition(|flag| is_ok(&flag)) {
            self.present_end = frames.start + last as u64 + 1;
        }
        self.present += present;
        present
    }
}

fn first_difference(found: &Page, expected: &Page) -> Option<usize> {
    found.iter().zip(expected).position(|(found, expected)| found != expected)
}

fn chunk_name(chunk: u32, frames: &Range<u64>) -> String {
    format!("chunk {chunk} (frames {} to {})", frames.start, frames.end - 1)
}
