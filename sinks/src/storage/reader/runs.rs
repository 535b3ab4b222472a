//! Frames in order, run by run: pixels, which of them are there, and whether they are what was written.
//!
//! # Place in the path
//! Behind the disk: back-fill, replay and whatever else goes through recorded frames asks [`Runs::next_run`] until it ends.
//!
//! # Invariants
//! - I1: the runs of a range cover it once, in order; no run crosses a chunk.
//! - I2: pixels of a frame that is there are those that were written, as far as a checksum tells: where it says
//!   otherwise, the frame (or, where frames have no checksum of their own, its chunk) is a gap, the run says why, and
//!   the next run comes all the same.
//! - I3: what describes a chunk is read before its pixels, so a chunk that has a checksum has all its pixels.
//! - I4: no size read from a file takes memory before it was compared with a limit.
//!
//! # Limits
//! [`SPAN_BYTES`] per read, or one chunk where that is larger; see `fetch.rs` for how many.

mod judge;

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ronchi_pipeline::{FrameFlag, FrameIndex, Gaps, Layout, Slot, crc32c};

use super::access::Access;
use super::fetch::{Fetcher, PixelFile};
use super::map::Map;
use super::proof::{Entries, Entry, ListedGaps, Promise, RunGap, Verdict};
use super::{Condition, Reader, ReaderTile};
use crate::storage::chunk_log::ChunkLog;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::unpack::Unpacker;

/// Chunks that lie together are read together up to so many bytes.
const SPAN_BYTES: u64 = 4 << 20;
/// Largest chunk that is read: the largest block a receiver can be configured for.
pub(in crate::storage) const CHUNK_BYTES_MAX: u64 = 256 << 20;
/// Most frames of a chunk that is read: writers choose 16,384 at most.
pub(in crate::storage) const FRAMES_PER_CHUNK_MAX: u32 = 65_536;
/// Largest frame number that is looked at: rows and bytes of later ones could not be numbered.
pub(in crate::storage) const FRAME_MAX: u64 = u64::MAX / 16;

/// How to read frames.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// How pixels come from the disk.
    pub access: Access,
    /// Compare pixels with checksums: of chunks that are wanted whole, else of frames.
    pub verify: bool,
    /// Gaps that the caller knows, all of them: the frame table and the manifest are not asked.
    pub gaps: Option<Gaps>,
}

impl Default for ReadPlan {
    fn default() -> Self {
        Self { access: Access::Auto, verify: true, gaps: None }
    }
}

/// Consecutive frames of one chunk.
#[derive(Debug)]
pub struct Run<'a> {
    /// Which.
    pub frames: Range<FrameIndex>,
    /// Their pixels as stored, dense, C order; empty when no frame is there. In the place of a frame that is not there
    /// lies nothing to be relied on.
    pub bytes: &'a [u8],
    /// One per frame; only those with [`FrameFlag::Ok`] are there.
    pub flags: &'a [FrameFlag],
    /// Frames that are not there.
    pub gaps: &'a [RunGap],
    /// The pixels are as their checksum says.
    pub is_verified: bool,
    /// Why frames that should be there are not: the pixels cannot be read, or are not what was written.
    pub error: Option<StorageError>,
}

/// Frames of one tile in order; see [`Reader::runs`].
pub struct Runs {
    source: Source,
    access: Access,
    fetcher: Option<Fetcher>,
    view: Option<View>,
    planned: VecDeque<Span>,
    current: Option<Span>,
    /// First frame that is not planned.
    next: FrameIndex,
    end: FrameIndex,
    found: Found,
}

/// What came of the frames of a run, and where in its span their pixels are.
#[derive(Default)]
struct Found {
    frames: Range<FrameIndex>,
    place: Option<Range<usize>>,
    is_verified: bool,
    flags: Vec<FrameFlag>,
    gaps: Vec<RunGap>,
    verdicts: Vec<Verdict>,
}

/// What is known of the tile.
struct Source {
    tile: ReaderTile,
    uuid: String,
    condition: Condition,
    listed: ListedGaps,
    /// The list is the caller's: nothing else is asked.
    is_told: bool,
    promise: Promise,
    verify: bool,
    /// The frame table has the checksum of every frame.
    has_checksums: bool,
}

/// The segment that is being planned.
struct View {
    number: u64,
    path: PathBuf,
    /// `None`: the segment is not there. An error: it cannot be opened.
    file: Result<Option<Files>, String>,
    entries: Entries,
}

/// A segment's file, opened for what describes it, and for its pixels.
#[derive(Clone)]
struct Files {
    pages: Arc<File>,
    pixels: Pixels,
}

#[derive(Clone)]
enum Pixels {
    Mapped(Arc<Map>),
    Read(PixelFile),
}

/// Consecutive chunks of a segment that are read together.
struct Span {
    path: PathBuf,
    chunks: VecDeque<ChunkSpan>,
    /// Frames whose pixels are held, and their flags in the table.
    held: Range<FrameIndex>,
    flags: Vec<FrameFlag>,
    files: Option<Files>,
    hold: Hold,
}

struct ChunkSpan {
    number: u32,
    /// Frames that are wanted.
    frames: Range<FrameIndex>,
    /// Frames of the chunk.
    all: Range<FrameIndex>,
    entry: Entry,
}

/// Where the pixels of a span are.
enum Hold {
    /// Nowhere: there are none.
    Nothing,
    Refused(String),
    Coming,
    Mapped(Arc<Map>, Range<usize>),
    Slot(Slot, Range<usize>),
    /// A chunk that was compressed.
    Unpacked(Vec<u8>),
    /// The read failed; chunk by chunk more may be had.
    Broken(Slot),
}

impl Runs {
    pub(super) fn new(
        reader: &Reader,
        tile: u32,
        frames: Range<FrameIndex>,
        plan: &ReadPlan,
    ) -> Result<Self, StorageError> {
        let tile = reader.tile(tile)?.clone();
        let layout = tile.array.layout;
        check_sizes(&layout, frames.end)?;
        let bytes = frames.end.saturating_sub(frames.start).saturating_mul(layout.frame_bytes);
        let segments = layout.segment_of(frames.start)..=layout.segment_of(frames.end.max(frames.start + 1) - 1);
        let access = match tile.array.is_packed {
            true => Access::Plain, // Chunks are decompressed into memory, one by one.
            false => plan.access.choose(&tile, bytes, segments),
        };
        let source = Source::new(reader, tile, plan);
        Ok(Self {
            source,
            access,
            fetcher: None,
            view: None,
            planned: VecDeque::new(),
            current: None,
            next: frames.start,
            end: frames.end.max(frames.start),
            found: Found::default(),
        })
    }

    /// How pixels come from the disk: what was chosen if that was left open.
    pub fn access(&self) -> Access {
        self.access
    }

    /// How pixels come from the disk, in words.
    pub fn describe(&self) -> String {
        match (self.access, &self.fetcher) {
            (Access::Mapped, _) => "mapped".to_owned(),
            (access, Some(fetcher)) => format!("{access:?}: {}", fetcher.describe()).to_lowercase(),
            (access, None) => format!("{access:?}").to_lowercase(),
        }
    }

    /// First frame after those of the last run.
    pub fn position(&self) -> FrameIndex {
        let current = self.current.iter().chain(&self.planned).find_map(|span| span.chunks.front());
        current.map_or(self.next, |chunk| chunk.frames.start)
    }

    /// Goes on with another range, with the same memory; what is left of the last one is let go.
    pub fn restart(&mut self, frames: Range<FrameIndex>) {
        (self.current, self.view) = (None, None);
        self.planned.clear();
        while self.fetcher.as_mut().and_then(Fetcher::next).is_some() {}
        self.next = frames.start.min(FRAME_MAX);
        self.end = frames.end.clamp(self.next, FRAME_MAX);
    }

    /// Goes on to a later end, with what `reader` knows by now of the same tile.
    pub fn extend(&mut self, reader: &Reader, end: FrameIndex) -> Result<(), StorageError> {
        let tile = reader.tile(self.source.tile.id)?.clone();
        let plan = ReadPlan {
            access: self.access,
            verify: self.source.verify,
            gaps: self.source.is_told.then(|| self.source.listed.gaps.clone()),
        };
        self.source = Source::new(reader, tile, &plan);
        self.view = None;
        self.end = self.end.max(end.min(FRAME_MAX));
        Ok(())
    }

    /// The next run; `None` at the end of the range. Errors: no memory to read into. What is wrong with pixels does not end
    /// it: see [`Run::error`].
    pub fn next_run(&mut self) -> Result<Option<Run<'_>>, StorageError> {
        self.plan()?;
        if self.current.as_ref().is_none_or(|span| span.chunks.is_empty()) {
            self.current = None; // Its slot goes back before the next one is awaited.
            let Some(mut span) = self.planned.pop_front() else { return Ok(None) };
            if matches!(span.hold, Hold::Coming) {
                span.hold = match self.fetcher.as_mut().and_then(Fetcher::next) {
                    Some(fetched) if fetched.result.is_ok() => Hold::Slot(fetched.slot, fetched.place),
                    Some(fetched) => Hold::Broken(fetched.slot),
                    None => Hold::Refused("the read was lost".to_owned()), // Every range that was asked for comes.
                };
            }
            self.current = Some(span);
            self.plan()?;
        }
        let Some(span) = &mut self.current else { return Ok(None) };
        let Some(chunk) = span.chunks.pop_front() else { return Ok(None) };
        let error = self.source.settle_chunk(span, &chunk, &mut self.found);
        Ok(self.current_run().map(|run| Run { error, ..run }))
    }

    /// The last run once more, without its error; `None` before the first and after the last.
    pub fn current_run(&self) -> Option<Run<'_>> {
        let hold = &self.current.as_ref()?.hold;
        let Found { frames, place, is_verified, flags, gaps, .. } = &self.found;
        let bytes = place.clone().map_or(&[][..], |place| hold.bytes(place));
        Some(Run { frames: frames.clone(), bytes, flags, gaps, is_verified: *is_verified, error: None })
    }

    /// Plans spans, and asks for their pixels, as far as there is room.
    fn plan(&mut self) -> Result<(), StorageError> {
        while self.next < self.end {
            let has_room = self.fetcher.as_ref().is_none_or(Fetcher::has_room);
            let spans_max = if self.source.tile.array.is_packed { 1 } else { 16 };
            if !has_room || self.planned.len() >= spans_max {
                break;
            }
            let span = self.plan_span();
            if let (Hold::Coming, Some(Files { pixels: Pixels::Read(file), .. })) = (&span.hold, &span.files) {
                let file = file.clone();
                let range = self.source.file_range(&span.held);
                self.fetcher()?.ask(&file, range);
            }
            self.next = span.chunks.back().map_or(self.end, |chunk| chunk.frames.end);
            self.planned.push_back(span);
        }
        Ok(())
    }

    fn fetcher(&mut self) -> Result<&mut Fetcher, StorageError> {
        if self.fetcher.is_none() {
            let range_bytes = SPAN_BYTES.max(self.source.tile.array.layout.chunk_bytes());
            let is_ahead = self.access == Access::Direct;
            let fetcher =
                Fetcher::new(range_bytes, is_ahead).context("take memory for", self.source.tile.array_dir())?;
            self.fetcher = Some(fetcher);
        }
        Ok(self.fetcher.as_mut().expect("made above"))
    }

    /// Chunks from the next frame on that lie in one segment, are all there or all not, and fit a read.
    fn plan_span(&mut self) -> Span {
        let layout = self.source.tile.array.layout;
        let number = layout.segment_of(self.next);
        let is_current = self.view.as_ref().is_some_and(|view| view.number == number && view.entries.is_final);
        if !is_current {
            self.view = Some(self.source.view(number, self.access));
        }
        let view = self.view.as_ref().expect("made above");
        let has_pixels = |entry: Entry| entry != Entry::Absent && matches!(view.file, Ok(Some(_)));
        let mut chunks = VecDeque::new();
        let mut frame = self.next;
        let segment_end = (number + 1) * layout.frames_per_segment();
        let mut bytes = 0;
        while frame < self.end.min(segment_end) {
            let all = layout.chunk_end(frame) - u64::from(layout.frames_per_chunk)..layout.chunk_end(frame);
            let chunk = ((all.start % layout.frames_per_segment()) / u64::from(layout.frames_per_chunk)) as u32;
            let entry = view.entries.chunks.get(chunk as usize).copied().unwrap_or(Entry::Unknown);
            bytes += layout.chunk_bytes();
            let first: Option<&ChunkSpan> = chunks.front();
            if first.is_some() && self.source.tile.array.is_packed {
                break;
            }
            if first.is_some_and(|first| bytes > SPAN_BYTES || has_pixels(first.entry) != has_pixels(entry)) {
                break;
            }
            let frames = frame..all.end.min(self.end);
            frame = frames.end;
            chunks.push_back(ChunkSpan { number: chunk, frames, all, entry });
        }
        let is_there = chunks.front().is_some_and(|chunk| has_pixels(chunk.entry));
        self.source.span(view, chunks, is_there)
    }
}

/// I4: the sizes of chunks, and how far frames are numbered.
pub(super) fn check_sizes(layout: &Layout, end: FrameIndex) -> Result<(), StorageError> {
    let is_sane = layout.chunk_bytes() <= CHUNK_BYTES_MAX && layout.frames_per_chunk <= FRAMES_PER_CHUNK_MAX;
    if is_sane && end <= FRAME_MAX {
        return Ok(());
    }
    let allowed = format!("frames below {FRAME_MAX} in chunks of {CHUNK_BYTES_MAX} bytes");
    Err(StorageError::Range { first: 0, end, allowed })
}

impl Source {
    fn new(reader: &Reader, tile: ReaderTile, plan: &ReadPlan) -> Self {
        let listed = match &plan.gaps {
            Some(gaps) => ListedGaps::whole(gaps.clone()),
            None => reader.listed_gaps(&tile),
        };
        let proven_from = if reader.condition() == Condition::Died { reader.durable_frames(tile.id) } else { u64::MAX };
        Self {
            uuid: reader.manifest().uuid.clone(),
            condition: reader.condition(),
            listed,
            is_told: plan.gaps.is_some(),
            promise: Promise { proven_from },
            verify: plan.verify,
            has_checksums: tile.has_checksums(),
            tile,
        }
    }

    /// Opens a segment and reads what is known of its chunks.
    fn view(&self, number: u64, access: Access) -> View {
        let path = self.tile.segment_path(number);
        let pages = match self.tile.segment_file(number).and_then(|_| super::open_if_there(&path)) {
            Ok(file) => file,
            Err(error) => return View::refused(number, path, error.to_string()),
        };
        let Some(pages) = pages else {
            return View {
                number,
                path,
                file: Ok(None),
                entries: Entries { chunks: Vec::new(), places: Vec::new(), is_final: false },
            };
        };
        let log = || ChunkLog::read(&self.tile, &self.tile.base_dir().join("chunks.log")).ok();
        let entries = Entries::read(&pages, (&self.tile, &self.uuid, number), self.condition, log);
        let bytes = self.tile.array.layout.segment_bytes();
        let map = (access == Access::Mapped && entries.is_final).then(|| Map::of_final(&pages, bytes).ok()).flatten();
        let pixels = match map {
            Some(map) => Pixels::Mapped(Arc::new(map)),
            None => match PixelFile::open(&path, access == Access::Direct) {
                Ok(file) => Pixels::Read(file),
                Err(error) => return View::refused(number, path, error.to_string()),
            },
        };
        View { number, path, file: Ok(Some(Files { pages: Arc::new(pages), pixels })), entries }
    }

    fn span(&self, view: &View, mut chunks: VecDeque<ChunkSpan>, is_there: bool) -> Span {
        // What must prove itself is read whole.
        let is_packed = self.tile.array.is_packed;
        let is_whole = self.condition == Condition::Died || is_packed;
        let wanted = |chunk: &ChunkSpan| if is_whole { chunk.all.clone() } else { chunk.frames.clone() };
        let start = chunks.front().map_or(0, |chunk| wanted(chunk).start);
        let end = chunks.back().map_or(start, |chunk| wanted(chunk).end);
        let held = start..end;
        let (hold, files) = match &view.file {
            Err(reason) => (Hold::Refused(reason.clone()), None),
            Ok(Some(files)) if is_there && is_packed => (self.unpack(view, files, &mut chunks), None),
            Ok(Some(files)) if is_there => {
                let range = self.file_range(&held);
                let hold = match &files.pixels {
                    Pixels::Mapped(map) => Hold::Mapped(Arc::clone(map), range.start as usize..range.end as usize),
                    Pixels::Read(_) => Hold::Coming,
                };
                (hold, Some(files.clone()))
            }
            Ok(_) => (Hold::Nothing, None),
        };
        Span { path: view.path.clone(), chunks, flags: self.table_flags(&held), held, files, hold }
    }

    /// Reads and decompresses the one chunk of a span. From then on its checksum is that of its pixels: the stored one has
    /// been compared.
    fn unpack(&self, view: &View, files: &Files, chunks: &mut VecDeque<ChunkSpan>) -> Hold {
        let Some(chunk) = chunks.front_mut() else { return Hold::Nothing };
        let Some(place) = view.entries.places.get(chunk.number as usize).copied().flatten() else {
            return Hold::Refused("page 0 does not tell where the chunk lies".to_owned());
        };
        let mut pixels = vec![0; self.tile.array.layout.chunk_bytes() as usize]; // I4
        match Unpacker::default().unpack((&files.pages, &view.path), &place, &mut pixels) {
            Ok(()) => {
                if let Entry::Known { crc32c: stored, .. } = &mut chunk.entry {
                    *stored = crc32c(&pixels);
                }
                Hold::Unpacked(pixels)
            }
            Err(error) => Hold::Refused(error.to_string()),
        }
    }

    /// Flags of frames as the frame table has them.
    fn table_flags(&self, frames: &Range<FrameIndex>) -> Vec<FrameFlag> {
        let count = (frames.end - frames.start) as usize;
        if self.is_told {
            return vec![FrameFlag::Ok; count];
        }
        let mut rows = vec![FrameFlag::Missing as u8; count];
        // Rows that cannot be read are as good as lost: the manifest and the checksums may know better.
        let _ = self.tile.read_rows(frames.start, "flags", 1, &mut rows);
        rows.into_iter().map(FrameFlag::from_row).collect()
    }

    /// Where frames of one segment lie in its file.
    fn file_range(&self, frames: &Range<FrameIndex>) -> Range<u64> {
        let start = self.tile.array.layout.offset_of(frames.start);
        start..start + (frames.end - frames.start) * self.tile.array.layout.frame_bytes
    }
}

impl View {
    fn refused(number: u64, path: PathBuf, reason: String) -> Self {
        Self {
            number,
            path,
            file: Err(reason),
            entries: Entries { chunks: Vec::new(), places: Vec::new(), is_final: false },
        }
    }
}

impl Hold {
    fn bytes(&self, place: Range<usize>) -> &[u8] {
        match self {
            Self::Slot(slot, _) | Self::Broken(slot) => &slot.bytes()[place],
            Self::Mapped(map, _) => map.bytes(place),
            Self::Unpacked(pixels) => &pixels[place],
            _ => &[],
        }
    }
}
