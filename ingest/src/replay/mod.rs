//! Replay: recorded frames of one link as a source like any other.
//!
//! # Place in the path
//! Where a detector would be. A [`Recording`] gives runs of frames, from disk or wherever they are; [`ReplaySource`] puts
//! them into blocks, at a given rate or as fast as they are taken. This crate knows no files: who starts a receiver brings
//! the recording.
//!
//! # Invariants
//! - I1: a frame keeps its number, its counter and its time stamp. A frame that is not there is not delivered: it becomes a
//!   gap again. One that was flagged corrupt or truncated is rejected with that flag.
//! - I2: the recording is played once; then the source waits for a series that never begins.
//!
//! # Why this way
//! Pixels are copied once, from the run into the block: recorded chunks and the blocks of another receiver have different
//! limits, and a run that comes from a mapping has no place of its own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ronchi_pipeline::{Announcement, EndReason, FrameFlag, FrameIndex, LinkCounters};

use crate::filling::{Filling, Place};
use crate::source::{Begin, Fill, Source, SourceError};

/// Recorded frames of one link.
pub trait Recording: Send {
    /// Where the frames come from, for messages.
    fn name(&self) -> String;

    /// What to announce, or `None` while the series has not begun; waits for it until `deadline`.
    fn announcement(&mut self, deadline: Instant) -> Result<Option<Announcement>, RecordingError>;

    /// Makes the frames that follow the current ones current, waiting for them until `deadline`.
    fn advance(&mut self, deadline: Instant) -> Result<Advance, RecordingError>;

    /// The current frames.
    fn current(&self) -> Recorded<'_>;
}

/// The recording cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecordingError(pub String);

/// What came of asking for more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// There are new current frames.
    Frames,
    /// None yet.
    Waiting,
    /// There will be no more.
    End(EndReason),
}

/// Consecutive recorded frames.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// Index of the first one.
    pub first: FrameIndex,
    /// One per frame.
    pub flags: &'a [FrameFlag],
    /// The detector's own numbers, one per frame.
    pub counters: &'a [u64],
    /// Time stamps in ns since the Unix epoch, one per frame.
    pub times_ns: &'a [u64],
    /// Pixels of all frames, dense; may be empty when none is there.
    pub bytes: &'a [u8],
}

/// Plays a recording.
pub struct ReplaySource {
    recording: Box<dyn Recording>,
    interval: Option<Duration>,
    frame_bytes: usize,
    /// Frames of the current ones that were delivered, or skipped.
    done: usize,
    has_begun: bool,
    /// When the first frame was due, and which it was.
    start: Option<(Instant, FrameIndex)>,
}

impl ReplaySource {
    /// Plays `recording`, one frame every `interval`, or as fast as frames are taken.
    pub fn new(recording: Box<dyn Recording>, interval: Option<Duration>) -> Self {
        Self { recording, interval, frame_bytes: 0, done: 0, has_begun: false, start: None }
    }

    fn failed(&self, error: RecordingError) -> SourceError {
        SourceError::Recording { name: self.recording.name(), reason: error.0 }
    }

    /// When a frame is due: gaps take their time too.
    fn due(&mut self, frame: FrameIndex) -> Option<Instant> {
        let interval = self.interval?;
        let (start, first) = *self.start.get_or_insert_with(|| (Instant::now(), frame));
        let ns = interval.as_nanos() * u128::from(frame.saturating_sub(first));
        start.checked_add(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    /// Delivers one of the current frames, or says why the block must change first.
    fn deliver(&mut self, filling: &mut Filling<'_>) -> Option<Fill> {
        let Recorded { first, flags, counters, times_ns, bytes } = self.recording.current();
        let (frame, flag) = (first + self.done as u64, flags[self.done]);
        let place = if flag == FrameFlag::Missing { Place::Nowhere } else { filling.place(frame) };
        match (place, flag) {
            (_, FrameFlag::Missing) => {} // I1: what does not come becomes a gap.
            (Place::Elsewhere, _) => return Some(Fill::Elsewhere(frame)),
            (Place::Here(position), FrameFlag::Ok) => {
                let pixels = &bytes[self.done * self.frame_bytes..][..self.frame_bytes];
                filling.put(position, pixels, counters[self.done], times_ns[self.done]);
                LinkCounters::add(&filling.counters.bytes, pixels.len() as u64);
            }
            (Place::Here(_), flag) => filling.reject(frame, flag),
            (place, _) => filling.skip(place),
        }
        self.done += 1;
        filling.block.is_full().then_some(Fill::Full)
    }
}

impl Source for ReplaySource {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        if self.has_begun {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now())); // I2
            return Ok(Begin::Waiting);
        }
        match self.recording.announcement(deadline).map_err(|error| self.failed(error))? {
            None => Ok(Begin::Waiting),
            Some(announced) => {
                self.has_begun = true;
                self.frame_bytes = announced.region.pixel_count() as usize * announced.pixel.bytes();
                Ok(Begin::Series(Box::new(announced)))
            }
        }
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        filling.counters.connected.store(1, Ordering::Relaxed);
        loop {
            let current = self.recording.current();
            if self.done >= current.flags.len() {
                match self.recording.advance(deadline).map_err(|error| self.failed(error))? {
                    Advance::Frames => self.done = 0,
                    Advance::Waiting => return Ok(Fill::Paused),
                    Advance::End(reason) => {
                        filling.counters.connected.store(0, Ordering::Relaxed);
                        return Ok(Fill::End(reason));
                    }
                }
                continue;
            }
            let next = current.first + self.done as u64;
            if let Some(due) = self.due(next) {
                std::thread::sleep(due.min(deadline).saturating_duration_since(Instant::now()));
                if due > Instant::now() {
                    return Ok(Fill::Paused);
                }
            } // Flat out, a block is soon full: sealing it early would only cost shared sectors.
            if let Some(fill) = self.deliver(filling) {
                return Ok(fill);
            }
        }
    }
}

#[cfg(test)]
mod tests;
