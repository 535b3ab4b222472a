//! Receiving frames into blocks: scatter reads while all goes well, message by message where it does not.
//!
//! # Place in the path
//! Called by the receive loop through [`crate::Source::fill`]; one hop from the wire.
//!
//! A scatter read asks for the rest of the message under way and the next few, on the guess that they are the next
//! frames in order: heads go to scratch, payloads to their places.
//!
//! ```text
//! stream   | head 7 | payload 7 | head 8 | payload 8 | head 9 | payl...
//! goes to    head     place 7     heads    place 8     heads    place 9
//! ```
//!
//! # Invariants
//! - F1: a frame is committed only when its whole payload lies in its place and its head fits the series.
//! - F2: where the guess was wrong, all bytes from the first unexpected head on are copied back and read again one
//!   message at a time, so no byte is lost or used twice.
//! - F3: a place that is not committed may hold anything: sealing clears it.
//!
//! # Limits
//! No allocation, lock or log line per frame; one clock read per system call.

use std::io::{self, IoSliceMut};
use std::time::Instant;

use ronchi_pipeline::{EndReason, FrameFlag, FrameIndex, LinkCounters};

use super::header::{MessageHead, MessageKind, PREFIX_BYTES, Progress, frame_sequence, read_progress};
use super::link::Received;
use super::source::{Heard, Incoming, MerlinSource, Running, Stage};
use crate::{Fill, Filling, Place, SourceError};

/// Most frames of one scatter read: two places each, held on the stack.
pub(super) const FRAMES_PER_READ_MAX: usize = 64;

/// How far ahead of the newest frame a broken header's sequence is believed: what it rejects counts as seen, so a
/// wrong number would turn all frames up to it into gaps.
const BROKEN_AHEAD_MAX: u64 = 64;

/// What one step led to.
enum Step {
    Heard(Heard),
    /// An acquisition header came where a frame was expected.
    Rearmed,
    /// Bytes that begin no message; so many are in the head.
    OutOfSync(usize),
}

/// Where the frames of one scatter read go.
struct Guess {
    /// Frame of the message under way, or the one expected next.
    first: FrameIndex,
    /// Its position in the block.
    position: usize,
    /// Frames asked for.
    count: usize,
}

impl MerlinSource {
    /// `fill`, with the part of a frame that has come kept out of the block when it returns (I2 of `source.rs`).
    pub(super) fn fill_until(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        let Some(mut running) = self.running.take() else { return Ok(Fill::End(EndReason::Disconnected)) };
        let result = self.fill_running(&mut running, filling, deadline);
        if let Stage::Payload(incoming) = self.stage {
            if running.format.raw.is_none()
                && let Some(position) = filling.block.position(incoming.frame)
            {
                let part = &filling.block.frame_mut(position)[..incoming.filled];
                running.scratch[..incoming.filled].copy_from_slice(part);
            }
            self.stage = Stage::Pending(incoming);
        }
        if self.inlet.is_open() {
            self.running = Some(running);
        }
        result
    }

    fn fill_running(
        &mut self,
        running: &mut Running,
        filling: &mut Filling<'_>,
        deadline: Instant,
    ) -> Result<Fill, SourceError> {
        // End of the frames that can be read ahead; found again whenever a frame came out of order.
        let mut run_end = None;
        loop {
            if let Stage::Pending(incoming) = self.stage
                && let Some(fill) = self.place(running, filling, incoming)
            {
                return Ok(fill);
            }
            if filling.arrivals.is_complete() {
                return Ok(Fill::End(EndReason::Complete));
            }
            if filling.block.is_full() {
                return Ok(Fill::Full);
            }
            let until = self.patience(running, filling, deadline);
            let step = match self.guess(running, filling, &mut run_end) {
                Some(guess) => self.scatter(running, filling, &guess, until).map(Step::Heard),
                None => {
                    run_end = None;
                    self.step(running, filling, until)
                }
            };
            let fill = match step {
                Ok(Step::Heard(Heard::Held)) => None,
                Ok(Step::Heard(Heard::Bytes)) => {
                    let now = Instant::now();
                    running.heard = now;
                    is_over(running, now).or((now >= deadline).then_some(Fill::Paused))
                }
                Ok(Step::Heard(Heard::Nothing)) => self.nothing_came(running, filling, deadline),
                Ok(Step::Heard(Heard::End)) => Some(self.stream_ended(filling)),
                Ok(Step::Rearmed) => Some(ended(filling, EndReason::Stopped)),
                Ok(Step::OutOfSync(have)) => Some(self.sync_lost(filling, have)?),
                Err(error) => {
                    self.reject_partial(filling);
                    return Err(self.lost(error));
                }
            };
            if let Some(fill) = fill {
                return Ok(fill);
            }
        }
    }

    /// Until when to wait for bytes; starts lingering when the last announced frame has been seen.
    fn patience(&self, running: &mut Running, filling: &Filling<'_>, deadline: Instant) -> Instant {
        if filling.arrivals.is_past_end() && running.linger_until.is_none() {
            running.linger_until = Some(Instant::now() + self.options.linger);
        }
        let silence = running.heard.checked_add(self.options.silence).unwrap_or(deadline);
        deadline.min(silence).min(running.linger_until.unwrap_or(deadline))
    }

    fn nothing_came(&mut self, running: &Running, filling: &mut Filling<'_>, deadline: Instant) -> Option<Fill> {
        let now = Instant::now();
        if let Some(fill) = is_over(running, now) {
            return Some(fill);
        }
        if now.saturating_duration_since(running.heard) >= self.options.silence {
            self.reject_partial(filling);
            if running.is_open_ended {
                return Some(Fill::End(EndReason::Stopped)); // It was told to stop; the connection is good.
            }
            self.disconnect();
            return Some(Fill::End(EndReason::Disconnected));
        }
        (now >= deadline).then_some(Fill::Paused)
    }

    fn stream_ended(&mut self, filling: &mut Filling<'_>) -> Fill {
        // A head that says it is shorter than those of this series is whole, although it was waited on.
        if let Stage::Head { have } = self.stage
            && let Progress::Head(message) = read_progress(&self.head[..have], self.options.message_bytes)
            && matches!(message.kind, MessageKind::Frame | MessageKind::BrokenFrame)
        {
            self.broken(filling, &message);
        }
        let fill = ended(filling, EndReason::Disconnected); // Before the frame under way counts as given up.
        self.reject_partial(filling);
        self.disconnect();
        fill
    }

    fn sync_lost(&mut self, filling: &Filling<'_>, have: usize) -> Result<Fill, SourceError> {
        if filling.arrivals.is_past_end() {
            return Ok(Fill::End(EndReason::Complete)); // `begin` looks for the next acquisition.
        }
        Err(self.out_of_sync(have))
    }

    /// The frame under way will not be whole.
    fn reject_partial(&mut self, filling: &mut Filling<'_>) {
        if let Stage::Payload(incoming) = self.stage {
            filling.reject(incoming.frame, FrameFlag::Truncated);
        }
    }

    /// Finds the place of a frame whose head has come; `Some` when this block has none for it.
    fn place(&mut self, running: &Running, filling: &mut Filling<'_>, incoming: Incoming) -> Option<Fill> {
        match filling.place(incoming.frame) {
            Place::Here(position) => {
                if running.format.raw.is_none() {
                    let part = &running.scratch[..incoming.filled];
                    filling.block.frame_mut(position)[..incoming.filled].copy_from_slice(part);
                }
                self.stage = Stage::Payload(incoming);
                None
            }
            Place::Elsewhere => Some(Fill::Elsewhere(incoming.frame)),
            place @ (Place::Duplicate | Place::Nowhere) => {
                filling.skip(place);
                self.skip((running.format.payload_bytes - incoming.filled) as u64);
                None
            }
        }
    }

    /// What a scatter read may ask for; `None` when the next bytes must be looked at first.
    fn guess(&self, running: &Running, filling: &Filling<'_>, run_end: &mut Option<FrameIndex>) -> Option<Guess> {
        if self.inlet.is_held() {
            return None;
        }
        let first = match self.stage {
            Stage::Payload(incoming) => incoming.frame,
            Stage::Head { have }
                if have < running.signature.head_bytes() && running.signature.begins(&self.head[..have]) =>
            {
                filling.arrivals.next()
            }
            _ => return None,
        };
        let end = *run_end.get_or_insert_with(|| first + filling.run(first) as u64);
        let count = usize::try_from(end.checked_sub(first)?).ok()?.min(running.frames_per_read);
        let position = filling.block.position(first)?;
        (count > 0).then_some(Guess { first, position, count })
    }

    /// Reads ahead into the places of the guess and commits the frames that came whole.
    fn scatter(
        &mut self,
        running: &mut Running,
        filling: &mut Filling<'_>,
        guess: &Guess,
        until: Instant,
    ) -> io::Result<Heard> {
        let head_bytes = running.signature.head_bytes();
        let (mut have, mut under_way) = match self.stage {
            Stage::Head { have } => (have, None),
            Stage::Payload(incoming) => (head_bytes, Some(incoming)),
            _ => (0, None),
        };
        let filled = under_way.map_or(0, |incoming| incoming.filled);
        let mut left = match self.receive_scattered(running, filling, guess, (have, filled), until)? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(Heard::Nothing),
            Received::End => return Ok(Heard::End),
        };
        self.stage = Stage::Head { have: 0 };
        for index in 0..guess.count {
            let taken = left.min(head_bytes - have);
            (have, left) = (have + taken, left - taken);
            if have < head_bytes {
                self.keep_head(running, index, have);
                break;
            }
            let frame = guess.first + index as u64;
            let incoming = under_way.take().or_else(|| self.expected(running, index, frame));
            let Some(mut incoming) = incoming else {
                self.give_back(running, filling, guess, index, left);
                break;
            };
            let taken = left.min(running.format.payload_bytes - incoming.filled);
            (incoming.filled, left) = (incoming.filled + taken, left - taken);
            if incoming.filled < running.format.payload_bytes {
                self.keep_payload(running, index, incoming);
                break;
            }
            commit(running, filling, guess.position + index, index, incoming);
            have = 0;
        }
        Ok(Heard::Bytes)
    }

    /// The system call of a scatter read: `have` bytes of the first head and `filled` of its payload are there already.
    fn receive_scattered(
        &mut self,
        running: &mut Running,
        filling: &mut Filling<'_>,
        guess: &Guess,
        (mut have, mut filled): (usize, usize),
        until: Instant,
    ) -> io::Result<Received> {
        let head_bytes = running.signature.head_bytes();
        let payloads = match running.format.raw {
            Some(_) => running.scratch.as_mut_slice(),
            None => filling.block.payload_mut(guess.position),
        };
        let heads = std::iter::once(&mut self.head[..head_bytes]).chain(running.heads.chunks_exact_mut(head_bytes));
        let payloads = payloads.chunks_exact_mut(running.format.payload_bytes);
        let mut places: [IoSliceMut<'_>; 2 * FRAMES_PER_READ_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut place_count = 0;
        for (head, payload) in heads.zip(payloads).take(guess.count) {
            if have < head_bytes {
                places[place_count] = IoSliceMut::new(&mut head[have..]);
                place_count += 1;
            }
            places[place_count] = IoSliceMut::new(&mut payload[filled..]);
            place_count += 1;
            (have, filled) = (0, 0);
        }
        self.inlet.receive_scattered(&mut places[..place_count], until)
    }

    fn head_at<'a>(&'a self, running: &'a Running, index: usize) -> &'a [u8] {
        let head_bytes = running.signature.head_bytes();
        match index {
            0 => &self.head[..head_bytes],
            _ => &running.heads[(index - 1) * head_bytes..index * head_bytes],
        }
    }

    /// The frame whose head was read to `index`, if it is the one guessed.
    fn expected(&self, running: &Running, index: usize, frame: FrameIndex) -> Option<Incoming> {
        let arrival = running.signature.check(self.head_at(running, index))?;
        (arrival.sequence - 1 == frame).then_some(Incoming { frame, time_ns: arrival.time_ns, filled: 0 })
    }

    /// A head that came in part moves to the front. If it cannot become that of a frame, `guess` sees it at once: the
    /// message may be shorter than a head and the next one far away.
    fn keep_head(&mut self, running: &Running, index: usize, have: usize) {
        if index > 0 {
            let at = (index - 1) * running.signature.head_bytes();
            self.head[..have].copy_from_slice(&running.heads[at..at + have]);
        }
        self.stage = Stage::Head { have };
    }

    /// A payload that came in part stays in its place in the block, or moves to the front of the scratch.
    fn keep_payload(&mut self, running: &mut Running, index: usize, incoming: Incoming) {
        if running.format.raw.is_some() && index > 0 {
            let at = index * running.format.payload_bytes;
            running.scratch.copy_within(at..at + incoming.filled, 0);
        }
        self.stage = Stage::Payload(incoming);
    }

    /// The guess was wrong from the head at `index` on: that head and the `left` bytes behind it are read again (F2).
    fn give_back(
        &mut self,
        running: &mut Running,
        filling: &mut Filling<'_>,
        guess: &Guess,
        index: usize,
        left: usize,
    ) {
        let (head_bytes, payload_bytes) = (running.signature.head_bytes(), running.format.payload_bytes);
        let mut left = left + head_bytes;
        for index in index..guess.count {
            let taken = left.min(head_bytes);
            let head = match index {
                0 => &self.head[..taken],
                _ => &running.heads[(index - 1) * head_bytes..][..taken],
            };
            self.inlet.push_back(head);
            left -= taken;
            let taken = left.min(payload_bytes);
            let payload = match running.format.raw {
                Some(_) => &running.scratch[index * payload_bytes..][..taken],
                None => &filling.block.frame_mut(guess.position + index)[..taken],
            };
            self.inlet.push_back(payload);
            left -= taken;
            if left == 0 {
                break;
            }
        }
    }

    /// One receive for the message under way, without a guess about what follows.
    fn step(&mut self, running: &mut Running, filling: &mut Filling<'_>, until: Instant) -> io::Result<Step> {
        match self.stage {
            Stage::Skip { left } => self.receive_skipped(left, until).map(Step::Heard),
            Stage::Payload(incoming) => self.step_payload(running, filling, incoming, until).map(Step::Heard),
            Stage::Pending(_) => Ok(Step::Heard(Heard::Held)), // `place` comes first.
            Stage::Hunt { have, .. } => Ok(Step::OutOfSync(have)),
            Stage::Head { have } => match read_progress(&self.head[..have], self.options.message_bytes) {
                Progress::OutOfSync => Ok(Step::OutOfSync(have)),
                Progress::Head(message) => Ok(self.message(running, filling, &message, have)),
                Progress::More(wanted) => {
                    let (heard, count) = self.receive_head(have, wanted, until)?;
                    self.stage = Stage::Head { have: have + count };
                    Ok(Step::Heard(heard))
                }
            },
        }
    }

    fn step_payload(
        &mut self,
        running: &mut Running,
        filling: &mut Filling<'_>,
        mut incoming: Incoming,
        until: Instant,
    ) -> io::Result<Heard> {
        let is_held = self.inlet.is_held();
        let position = filling.block.position(incoming.frame);
        let place = match (running.format.raw, position) {
            (None, Some(position)) => &mut filling.block.frame_mut(position)[incoming.filled..],
            _ => &mut running.scratch[incoming.filled..running.format.payload_bytes],
        };
        match self.inlet.receive(place, until)? {
            Received::Bytes(count) => incoming.filled += count,
            Received::Nothing => return Ok(Heard::Nothing),
            Received::End => return Ok(Heard::End),
        }
        self.stage = Stage::Payload(incoming);
        if incoming.filled == running.format.payload_bytes {
            self.stage = Stage::Head { have: 0 };
            if let Some(position) = position {
                commit(running, filling, position, 0, incoming);
            }
        }
        Ok(if is_held { Heard::Held } else { Heard::Bytes })
    }

    /// A whole head has come: decides what its message is.
    fn message(&mut self, running: &Running, filling: &mut Filling<'_>, message: &MessageHead, have: usize) -> Step {
        self.settle_head(message, have);
        match message.kind {
            MessageKind::Acquisition => {
                self.take_acquisition(message);
                return Step::Rearmed;
            }
            MessageKind::Frame => match running.signature.check(&self.head[..message.head_bytes]) {
                Some(arrival) => {
                    let frame = arrival.sequence - 1; // The vendor counts frames from 1.
                    self.stage = Stage::Pending(Incoming { frame, time_ns: arrival.time_ns, filled: 0 });
                }
                None => self.broken(filling, message),
            },
            MessageKind::BrokenFrame => self.broken(filling, message),
            MessageKind::Other => LinkCounters::add(&self.counters.garbage_messages, 1),
        }
        Step::Heard(Heard::Held)
    }

    /// A frame that does not belong to the series as it began, or makes no sense.
    fn broken(&self, filling: &mut Filling<'_>, message: &MessageHead) {
        let frame = frame_sequence(&self.head[PREFIX_BYTES..message.head_bytes]).map(|sequence| sequence - 1);
        match frame.filter(|&frame| frame < filling.arrivals.next() + BROKEN_AHEAD_MAX) {
            Some(frame) => filling.reject(frame, FrameFlag::Corrupt),
            None => LinkCounters::add(&self.counters.garbage_messages, 1),
        }
    }
}

/// The frame is whole: decodes it where needed, and counts it. The detector's counter is its sequence, from 1.
fn commit(running: &Running, filling: &mut Filling<'_>, position: usize, slot: usize, incoming: Incoming) {
    if let Some(raw) = running.format.raw {
        let payload = &running.scratch[slot * running.format.payload_bytes..][..running.format.payload_bytes];
        raw.decode(payload, filling.block.frame_mut(position));
    }
    filling.commit(position, incoming.frame + 1, incoming.time_ns);
}

/// Whether late frames have been waited for long enough.
fn is_over(running: &Running, now: Instant) -> Option<Fill> {
    running.linger_until.is_some_and(|until| now >= until).then_some(Fill::End(EndReason::Complete))
}

/// The end of a series that some event cut off, unless the last announced frame was there already.
fn ended(filling: &Filling<'_>, reason: EndReason) -> Fill {
    Fill::End(if filling.arrivals.is_past_end() { EndReason::Complete } else { reason })
}
