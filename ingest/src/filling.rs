//! The block being filled together with what has arrived before: decides where a frame goes.

use ronchi_pipeline::{BlockMut, FrameFlag, FrameIndex, GapReason, Gaps, LinkCounters};

/// Frames seen so far: everything at or above `next` is new; below it a frame is new only if it is a gap.
#[derive(Debug, Default)]
pub struct Arrivals {
    next: FrameIndex,
    received_count: u64,
    announced: Option<u64>,
    /// Frames that the sender of an open-ended run says it has sent.
    sent_count: u64,
    gaps: Gaps,
}

/// Largest forward jump believed in an open-ended run: a larger one is a broken header, not a gap.
const JUMP_FRAMES_MAX: u64 = 1 << 20;

/// Oldest frame, counted back from the newest, that may still fill its gap: its segment is then still open.
const LATE_FRAMES_MAX: u64 = 64;

/// A broken frame this far ahead of the newest is believed to carry that number; beyond, the number is broken too.
const BROKEN_AHEAD_MAX: u64 = 64;

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into this position of the block.
    Here(usize),
    /// Into another block: return `Fill::Elsewhere`.
    Elsewhere,
    /// Nowhere: it is here already. Skip its payload.
    Duplicate,
    /// Nowhere: it is too old, or beyond the announced number. Skip its payload.
    Nowhere,
}

impl Arrivals {
    /// Nothing seen of a series of `announced` frames.
    pub fn new(announced: Option<u64>) -> Self {
        Self { announced, ..Self::default() }
    }

    /// Whether `frame` has not been seen and may still come.
    fn is_open(&self, frame: FrameIndex) -> bool {
        if frame >= self.next {
            return match self.announced {
                Some(count) => frame < count,
                None => frame - self.next < JUMP_FRAMES_MAX,
            };
        }
        frame + LATE_FRAMES_MAX >= self.next && self.gaps.contains(frame)
    }

    fn is_seen(&self, frame: FrameIndex) -> bool {
        frame < self.next && !self.gaps.contains(frame)
    }

    fn arrive(&mut self, frame: FrameIndex) {
        if frame >= self.next {
            self.gaps.insert(self.next..frame, GapReason::NeverArrived);
            self.next = frame + 1;
        } else {
            self.gaps.remove(frame);
        }
        self.received_count += 1;
    }

    fn reject(&mut self, frame: FrameIndex) {
        if frame >= self.next && self.is_open(frame) {
            self.gaps.insert(self.next..frame, GapReason::NeverArrived);
            self.gaps.insert(frame..frame + 1, GapReason::Rejected);
            self.next = frame + 1;
        }
    }

    /// Whether frames that have not been seen would come too late after `frame`.
    fn leaves_behind(&self, frame: FrameIndex) -> bool {
        let oldest = |next: FrameIndex| next.saturating_sub(LATE_FRAMES_MAX);
        let mut left = oldest(self.next)..oldest(frame.saturating_add(1));
        left.any(|frame| frame >= self.next || self.gaps.contains(frame))
    }

    /// First frame after the newest seen.
    pub fn next(&self) -> FrameIndex {
        self.next
    }

    /// Frames received whole.
    pub fn received_count(&self) -> u64 {
        self.received_count
    }

    /// Whether every announced frame has been received.
    pub fn is_complete(&self) -> bool {
        Some(self.received_count) == self.announced
    }

    /// Whether the last announced frame has been seen or given up: the detector will send no more new ones.
    pub fn is_past_end(&self) -> bool {
        self.announced.is_some_and(|count| self.next >= count)
    }

    /// The sender of an open-ended run says how many frames it has sent: those that are still missing after the newest
    /// when the series closes are gaps. Frames that come late are taken as before.
    pub fn end_at(&mut self, sent_count: u64) {
        self.sent_count = self.sent_count.max(sent_count);
    }

    /// Closes the series: frames of it, and what of them did not come.
    pub fn finish(mut self) -> (u64, u64, Gaps) {
        // A number that no gap can explain is not believed.
        let is_believed = self.sent_count.saturating_sub(self.next) < JUMP_FRAMES_MAX;
        let seen_or_sent = if is_believed { self.next.max(self.sent_count) } else { self.next };
        let frame_count = self.announced.unwrap_or(seen_or_sent);
        self.gaps.insert(self.next..frame_count, GapReason::NeverArrived);
        (frame_count, self.received_count, self.gaps)
    }
}

/// A block being filled, as a source sees it.
#[derive(Debug)]
pub struct Filling<'a> {
    /// The block.
    pub block: &'a mut BlockMut,
    /// What arrived before.
    pub arrivals: &'a mut Arrivals,
    /// The link's counters: a source counts `bytes`, `garbage_messages`, `connected` and `reconnects` itself.
    pub counters: &'a LinkCounters,
}

impl Filling<'_> {
    /// Where `frame` goes.
    pub fn place(&self, frame: FrameIndex) -> Place {
        if self.arrivals.is_seen(frame) {
            Place::Duplicate
        } else if !self.arrivals.is_open(frame) {
            Place::Nowhere
        } else {
            self.block.position(frame).map_or(Place::Elsewhere, Place::Here)
        }
    }

    /// Whether `frame` lies so far ahead that others, which have not been seen, should come first: behind this block, or so far that
    /// they would come too late.
    pub fn is_ahead(&self, frame: FrameIndex) -> bool {
        frame >= self.block.frames().end || self.arrivals.leaves_behind(frame)
    }

    /// Number of consecutive frames from `frame` on that this block can take: what may be read ahead into their places.
    pub fn run(&self, frame: FrameIndex) -> usize {
        let Some(position) = self.block.position(frame) else { return 0 };
        let end = self.block.frames().end;
        let in_block = (end - frame) as usize;
        debug_assert!(position + in_block == (end - self.block.frames().start) as usize);
        (0..in_block).take_while(|&i| matches!(self.place(frame + i as u64), Place::Here(_))).count()
    }

    /// The frame is whole in its place: takes its checksum and counts it.
    pub fn commit(&mut self, position: usize, counter: u64, time_ns: u64) {
        let frame = self.block.frames().start + position as u64;
        self.block.commit(position, counter, time_ns);
        self.arrivals.arrive(frame);
        LinkCounters::add(&self.counters.frames, 1);
    }

    /// The frame is whole and lies elsewhere: copies it to its place, in the form that the series has, and counts it.
    /// Conditions as for [`BlockMut::put`].
    pub fn put(&mut self, position: usize, frame: &[u8], counter: u64, time_ns: u64) {
        self.block.put(position, frame, counter, time_ns);
        self.arrivals.arrive(self.block.frames().start + position as u64);
        LinkCounters::add(&self.counters.frames, 1);
    }

    /// The frame came, but broken: it becomes a gap with reason `rejected`, unless its number is too far ahead of the
    /// newest frame to be believed.
    pub fn reject(&mut self, frame: FrameIndex, flag: FrameFlag) {
        if let Some(position) = self.block.position(frame) {
            self.block.reject(position, flag);
        }
        if frame < self.arrivals.next().saturating_add(BROKEN_AHEAD_MAX) {
            self.arrivals.reject(frame);
        }
        LinkCounters::add(&self.counters.rejected_frames, 1);
    }

    /// The frame came, but is not wanted: counts it as `place` said.
    pub fn skip(&mut self, place: Place) {
        let counter =
            if place == Place::Duplicate { &self.counters.duplicate_frames } else { &self.counters.unplaced_frames };
        LinkCounters::add(counter, 1);
    }
}
