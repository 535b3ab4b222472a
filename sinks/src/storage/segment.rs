//! One open segment in memory: which frames are where on their way to the disk, and the sectors that blocks share.
//!
//! # Place in the path
//! The writer hands blocks in, submits the operations that come out, and reports their results back.
//!
//! # Invariants
//! - I1: only frames that are present and not here yet are written; places of missing frames stay unwritten and read
//!   as zeros. So no byte is written by two blocks, and a late frame can come whenever it likes.
//! - I2: a sector that a run of frames covers only in part is a *seam*: it is assembled in memory, written from a copy,
//!   never read back, and never twice in flight.
//! - I3: a frame is complete when every write that holds a byte of it has ended with its full length.
//!
//! # Limits
//! At most [`SEAMS_MAX`] seams wait for their missing bytes; beyond, the oldest is written as it is and a frame that
//! would need it afterwards is refused.

mod packed;
mod publication;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use ronchi_pipeline::{Block, DATA_OFFSET, FrameFlag, FrameRecord, Layout, Payload, SECTOR_BYTES};

use super::disk::{Action, Bytes, DiskFile, Op, Page, Purpose, Tag};
use super::tile::Goal;
pub(super) use packed::Packed;

/// Most seams in memory per segment: 16 MiB.
const SEAMS_MAX: usize = 4096;
/// Times a shared sector is written again after a failure, to restore what it held before.
const SEAM_RETRIES_MAX: u8 = 3;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// State of a frame, in the order in which it passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FrameState {
    /// Not seen.
    Absent,
    /// Writes are on their way.
    Pending,
    /// All bytes are written.
    Complete,
    /// Named by page 0.
    Published,
    /// Synced.
    Durable,
    /// The disk refused it, or it does not decode: a gap.
    Failed,
}

/// Consecutive frames whose writes end together.
struct Part {
    frames: Range<usize>,
    records: Vec<FrameRecord>,
    pending: u32,
    is_failed: bool,
}

/// A shared sector.
struct Seam {
    page: Box<Page>,
    filled_bytes: usize,
    want_bytes: usize,
    /// Parts with bytes here that no write in flight holds.
    waiting: Vec<u32>,
    /// Parts whose bytes the write in flight holds.
    flying: Vec<u32>,
    version: u32,
    is_in_flight: bool,
    is_dirty: bool,
    failures: u8,
}

/// Frames that became complete, or failed, by one completion.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) frames: Range<usize>,
    pub(super) records: Vec<FrameRecord>,
    pub(super) is_failed: bool,
}

/// What happened in a packed segment before anything was written.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) settled: Vec<Settled>,
    /// Places of frames that do not decode.
    pub(super) damaged: Vec<usize>,
}

/// What page 0 is to say, with the log records that go before it.
pub(super) struct Publication {
    /// Pages with their offsets in the file: page 0, and of a packed segment page 1, which names the same chunks.
    pub(super) pages: Vec<(u64, Box<Page>)>,
    pub(super) log: Vec<u8>,
    pub(super) frames: Vec<Range<usize>>,
}

/// An open segment.
pub(super) struct Segment {
    pub(super) number: u64,
    tile: u64,
    layout: Layout,
    file: Option<DiskFile>,
    /// Which volume holds it; at most 16 are configured.
    pub(super) volume: usize,
    frames: Vec<FrameState>,
    /// Frames that are durable and not yet counted as such by the tile.
    pub(super) uncounted: u64,
    crcs: Vec<u32>,
    chunks: Vec<Option<u32>>,
    dirty_chunks: Vec<bool>,
    seams: BTreeMap<u64, Seam>,
    seam_floor: u64,
    parts: HashMap<u32, Part>,
    next_part: u32,
    /// Data and seam operations handed out and not reported back.
    pub(super) ops_out: usize,
    completed: Vec<Range<usize>>,
    published: Vec<Range<usize>>,
    /// Seams, with the version that must be on disk before the cycle goes on.
    flush: BTreeMap<u64, u32>,
    /// No more blocks; waits to be sealed.
    pub(super) is_sealing: bool,
    /// Why nothing is written here any more.
    pub(super) poison: Option<String>,
    /// Failed rewrites of page 0 in a row.
    pub(super) page_failures: u8,
    /// Chunks of a packed segment, which are compressed instead of having fixed places.
    packed: Option<Packed>,
    /// Places of frames that came compressed and do not decode.
    damaged: BTreeSet<usize>,
    news: News,
}

impl Segment {
    /// A segment on this file; without one every frame of it fails.
    pub(super) fn new(
        tile: u64,
        number: u64,
        layout: Layout,
        file: Result<(DiskFile, usize), String>,
        packed: Option<Packed>,
    ) -> Self {
        let (frames, chunks) = (layout.frames_per_segment() as usize, layout.chunks_per_segment as usize);
        let (file, volume, poison) = match file {
            Ok((file, volume)) => (Some(file), volume, None),
            Err(reason) => (None, 0, Some(reason)),
        };
        Self {
            number,
            tile,
            layout,
            file,
            volume,
            frames: vec![FrameState::Absent; frames],
            uncounted: 0,
            crcs: vec![0; frames],
            chunks: vec![None; chunks],
            dirty_chunks: vec![false; chunks],
            seams: BTreeMap::new(),
            seam_floor: 0,
            parts: HashMap::new(),
            next_part: 0,
            ops_out: 0,
            completed: Vec::new(),
            published: Vec::new(),
            flush: BTreeMap::new(),
            is_sealing: false,
            poison,
            page_failures: 0,
            packed,
            damaged: BTreeSet::new(),
            news: News::default(),
        }
    }

    pub(super) fn first_frame(&self) -> u64 {
        self.number * self.layout.frames_per_segment()
    }

    pub(super) fn state(&self, place: usize) -> FrameState {
        self.frames[place]
    }

    pub(super) fn states(&self) -> &[FrameState] {
        &self.frames
    }

    pub(super) fn file(&self) -> Option<&DiskFile> {
        self.file.as_ref()
    }

    pub(super) fn into_file(self) -> Option<DiskFile> {
        self.file
    }

    fn tag(&self, purpose: Purpose) -> Tag {
        Tag { tile: self.tile, segment: self.number, purpose, retries: 0, volume: self.volume as u8 }
    }

    /// Takes the frames of a block that are present and not here yet. Returns frames that are refused.
    pub(super) fn accept(&mut self, block: &Block, piece_bytes: usize, out: &mut Vec<Op>) -> Vec<Settled> {
        let first = (block.frames().start - self.first_frame()) as usize;
        let records = block.records();
        let mut refused = Vec::new();
        let mut from = 0;
        while from < records.len() {
            let is_new = |i: &usize| records[*i].flag == FrameFlag::Ok && self.frames[first + i] == FrameState::Absent;
            let start = (from..records.len()).find(is_new).unwrap_or(records.len());
            let end = (start..records.len()).find(|i| !is_new(i)).unwrap_or(records.len());
            if start < end {
                refused.extend(self.accept_run(block, start..end, piece_bytes, out));
            }
            from = end;
        }
        refused
    }

    fn accept_run(
        &mut self,
        block: &Block,
        run: Range<usize>,
        piece_bytes: usize,
        out: &mut Vec<Op>,
    ) -> Option<Settled> {
        let frame_bytes = self.layout.frame_bytes;
        let block_offset = self.layout.offset_of(block.frames().start);
        let slot_offset = block_offset - block.lead_bytes() as u64; // Where byte 0 of the slot lies on disk.
        let disk = block_offset + run.start as u64 * frame_bytes..block_offset + run.end as u64 * frame_bytes;
        let first = (block.frames().start - self.first_frame()) as usize;
        let frames = first + run.start..first + run.end;
        let (records, places) = (block.records()[run.clone()].to_vec(), run);
        let is_behind = match (&self.packed, block.payload()) {
            (Some(packed), _) => packed.is_closed(frames.start),
            (None, Payload::Bslz4(_)) => true, // There is no place for them: `Writer` makes packed segments for them.
            (None, Payload::Pixels(_)) => {
                disk.start < self.seam_floor && disk.start % SECTOR != 0
                    || disk.end < self.seam_floor && disk.end % SECTOR != 0
            }
        };
        if self.poison.is_some() || is_behind {
            self.frames[frames.clone()].fill(FrameState::Failed);
            return Some(Settled { frames, records, is_failed: true });
        }
        self.frames[frames.clone()].fill(FrameState::Pending);
        for (place, record) in frames.clone().zip(&records) {
            self.crcs[place] = record.crc32c;
        }
        let number = self.next_part;
        self.next_part = self.next_part.wrapping_add(1);
        if let Some(packed) = &mut self.packed {
            if !packed.take(number, block, places, frames.start) {
                self.frames[frames.clone()].fill(FrameState::Failed); // `is_ready_for` saw to it that there is room.
                return Some(Settled { frames, records, is_failed: true });
            }
            self.parts.insert(number, Part { frames, records, pending: 1, is_failed: false });
            self.pump(out);
            return None;
        }
        self.parts.insert(number, Part { frames, records, pending: 0, is_failed: false });
        let bytes = |range: Range<u64>| &block.slot_bytes()[to_slot(&range, slot_offset)];
        let whole = disk.start.next_multiple_of(SECTOR)..disk.end - disk.end % SECTOR;
        if whole.start > whole.end {
            self.fill_seam(number, disk.clone(), bytes(disk), out);
            return None;
        }
        if disk.start < whole.start {
            self.fill_seam(number, disk.start..whole.start, bytes(disk.start..whole.start), out);
        }
        let mut at = whole.start;
        while at < whole.end {
            let end = (at + piece_bytes as u64).min(whole.end);
            let bytes = Bytes::Block(block.clone(), to_slot(&(at..end), slot_offset));
            self.push_write(at, bytes, Purpose::Part(number), out);
            self.part(number).pending += 1;
            at = end;
        }
        if whole.end < disk.end {
            self.fill_seam(number, whole.end..disk.end, bytes(whole.end..disk.end), out);
        }
        None
    }

    fn part(&mut self, number: u32) -> &mut Part {
        self.parts.get_mut(&number).expect("a part lives until its last write is reported")
    }

    fn push_write(&mut self, offset: u64, bytes: Bytes, purpose: Purpose, out: &mut Vec<Op>) {
        let Some(file) = self.file.clone() else { return };
        self.ops_out += 1;
        out.push(Op { file, action: Action::Write(offset, bytes), tag: self.tag(purpose) });
    }

    /// Copies bytes of one part into their shared sector and writes it when it is whole (I2).
    fn fill_seam(&mut self, part: u32, disk: Range<u64>, bytes: &[u8], out: &mut Vec<Op>) {
        let sector = disk.start - disk.start % SECTOR;
        let data_end = DATA_OFFSET + self.layout.frames_per_segment() * self.layout.frame_bytes;
        let want_bytes = (data_end - sector).min(SECTOR) as usize;
        let seam = self.seams.entry(sector).or_insert_with(|| Seam {
            page: Box::new(Page([0; SECTOR_BYTES])),
            filled_bytes: 0,
            want_bytes,
            waiting: Vec::new(),
            flying: Vec::new(),
            version: 0,
            is_in_flight: false,
            is_dirty: false,
            failures: 0,
        });
        let start = (disk.start - sector) as usize;
        seam.page.0[start..start + bytes.len()].copy_from_slice(bytes);
        seam.filled_bytes += bytes.len();
        seam.version += 1;
        seam.is_dirty = true;
        seam.waiting.push(part);
        let is_whole = seam.filled_bytes == seam.want_bytes;
        self.part(part).pending += 1;
        if is_whole {
            self.write_seam(sector, out);
        }
        self.limit_seams(out);
    }

    /// Writes a seam as it is now, unless a write of it is in flight already.
    fn write_seam(&mut self, sector: u64, out: &mut Vec<Op>) {
        let Some(seam) = self.seams.get_mut(&sector) else { return };
        if seam.is_in_flight || !seam.is_dirty {
            return;
        }
        seam.is_in_flight = true;
        seam.is_dirty = false;
        seam.flying = std::mem::take(&mut seam.waiting);
        let (page, version) = (seam.page.clone(), seam.version);
        self.push_write(sector, Bytes::Page(page), Purpose::Seam(sector, version), out);
    }

    /// Keeps the number of seams bounded: the oldest is written as it is and forgotten once it is idle.
    fn limit_seams(&mut self, out: &mut Vec<Op>) {
        while self.seams.len() > SEAMS_MAX {
            let Some((&sector, seam)) = self.seams.first_key_value() else { return };
            self.seam_floor = self.seam_floor.max(sector + SECTOR);
            if seam.is_in_flight || seam.is_dirty {
                self.write_seam(sector, out);
                return; // Forgotten when its write is reported.
            }
            self.seams.remove(&sector);
        }
    }

    /// Notes the result of a write of pixels and returns the frames it settled.
    pub(super) fn finish(&mut self, purpose: Purpose, is_ok: bool, out: &mut Vec<Op>) -> Vec<Settled> {
        self.ops_out -= 1;
        match purpose {
            Purpose::Part(version) if self.packed.is_some() => self.finish_version(version, is_ok),
            Purpose::Part(number) => self.finish_part(number, is_ok).into_iter().collect(),
            Purpose::Seam(sector, version) => self.finish_seam(sector, version, is_ok, out),
            _ => unreachable!("only pixels are reported to a segment"),
        }
    }

    fn finish_seam(&mut self, sector: u64, version: u32, is_ok: bool, out: &mut Vec<Op>) -> Vec<Settled> {
        let Some(seam) = self.seams.get_mut(&sector) else { return Vec::new() };
        seam.is_in_flight = false;
        let parts = std::mem::take(&mut seam.flying);
        if !is_ok {
            // What the sector held before may be torn: write it again with the next flush.
            seam.failures += 1;
            seam.is_dirty |= seam.failures <= SEAM_RETRIES_MAX;
        }
        let is_whole = seam.filled_bytes == seam.want_bytes;
        let is_dirty = seam.is_dirty;
        let is_waited_for = self.flush.get(&sector).is_some_and(|&wanted| version < wanted);
        if !is_waited_for || !is_ok {
            self.flush.remove(&sector);
        }
        if is_dirty && is_ok && (is_whole || is_waited_for || sector < self.seam_floor) {
            self.write_seam(sector, out);
        } else if !is_dirty && (is_whole || sector < self.seam_floor) {
            self.seams.remove(&sector);
        }
        parts.into_iter().filter_map(|part| self.finish_part(part, is_ok)).collect()
    }

    fn finish_part(&mut self, number: u32, is_ok: bool) -> Option<Settled> {
        let part = self.part(number);
        part.pending -= 1;
        part.is_failed |= !is_ok;
        if part.pending > 0 {
            return None;
        }
        let Part { frames, mut records, mut is_failed, .. } = self.parts.remove(&number)?;
        is_failed |= self.poison.is_some();
        self.frames[frames.clone()].fill(if is_failed { FrameState::Failed } else { FrameState::Complete });
        for &place in self.damaged.range(frames.clone()) {
            self.frames[place] = FrameState::Failed;
            records[place - frames.start].flag = FrameFlag::Corrupt;
        }
        if !is_failed {
            self.completed.push(frames.clone());
        }
        self.touch(frames.clone());
        Some(Settled { frames, records, is_failed })
    }

    fn touch(&mut self, frames: Range<usize>) {
        let k = self.layout.frames_per_chunk as usize;
        self.dirty_chunks[frames.start / k..frames.end.div_ceil(k)].fill(true);
    }

    /// Whether something is to be published, flushed or, with `sync`, made durable.
    pub(super) fn has_news(&self, sync: bool) -> bool {
        !self.completed.is_empty()
            || self.seams.values().any(|seam| seam.is_dirty || seam.is_in_flight)
            || sync && !self.published.is_empty()
            || sync && self.packed.as_ref().is_some_and(Packed::has_news)
    }

    /// Begins to bring every shared sector to the disk as it is now, and before a sync every chunk in pieces.
    pub(super) fn start_flush(&mut self, goal: Goal, out: &mut Vec<Op>) {
        if let Some(packed) = self.packed.as_mut().filter(|_| goal >= Goal::Sync) {
            packed.start_flush(goal == Goal::Seal);
            self.pump(out);
        }
        let due: Vec<(u64, u32)> = self
            .seams
            .iter()
            .filter(|(_, seam)| seam.is_dirty || seam.is_in_flight)
            .map(|(&sector, seam)| (sector, seam.version))
            .collect();
        for (sector, version) in due {
            self.flush.insert(sector, version);
            self.write_seam(sector, out);
        }
    }

    /// Whether the flush has ended.
    pub(super) fn is_flushed(&self) -> bool {
        self.flush.is_empty() && self.packed.as_ref().is_none_or(Packed::is_flushed)
    }

    /// Whether no pixel is on its way: a sealing segment then has its final content.
    pub(super) fn is_quiet(&self) -> bool {
        self.ops_out == 0 && self.packed.as_ref().is_none_or(Packed::is_quiet)
    }

    /// Frames that a sync submitted now will make durable.
    pub(super) fn take_published(&mut self) -> Vec<Range<usize>> {
        if let Some(packed) = &mut self.packed {
            packed.start_sync();
        }
        std::mem::take(&mut self.published)
    }

    /// The sync that covers these frames has ended well. Returns their number.
    pub(super) fn make_durable(&mut self, frames: &[Range<usize>]) -> u64 {
        frames.iter().map(|range| self.advance(range.clone(), FrameState::Durable)).sum()
    }

    fn advance(&mut self, range: Range<usize>, state: FrameState) -> u64 {
        let mut count = 0;
        for frame in self.frames[range].iter_mut().filter(|frame| **frame != FrameState::Failed) {
            *frame = state;
            count += 1;
        }
        count
    }

    /// Nothing more is written here; every frame that is not durable is lost. Returns the ranges lost now.
    pub(super) fn poison_with(&mut self, reason: String) -> Vec<Range<usize>> {
        self.poison.get_or_insert(reason);
        self.completed.clear();
        self.published.clear();
        self.flush.clear();
        if let Some(packed) = &mut self.packed {
            packed.poison();
        }
        self.seams.retain(|_, seam| seam.is_in_flight);
        self.seams.values_mut().for_each(|seam| seam.is_dirty = false);
        for part in self.parts.values_mut() {
            part.is_failed = true;
        }
        let mut lost: Vec<Range<usize>> = Vec::new();
        for (place, state) in self.frames.iter_mut().enumerate() {
            if (FrameState::Pending..=FrameState::Published).contains(state) {
                *state = FrameState::Failed;
                match lost.last_mut() {
                    Some(range) if range.end == place => range.end += 1,
                    _ => lost.push(place..place + 1),
                }
            }
        }
        lost
    }
}

/// The part of a block's slot that lies at these bytes of the file.
fn to_slot(disk: &Range<u64>, slot_offset: u64) -> Range<usize> {
    (disk.start - slot_offset) as usize..(disk.end - slot_offset) as usize
}
