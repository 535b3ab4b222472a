//! Detectors that send ZeroMQ messages, whatever the messages say: one state machine for all of them.
//!
//! # Place in the path
//! `MessageSource` is a [`Source`]: libzmq's thread reads the socket, the receive thread takes a message, lets the
//! [`Protocol`] judge it, and the protocol copies or decodes its pixels once, into the frame's place in the block.
//!
//! # Invariants
//! - I1: a message is handled once: it is placed, kept pending for another block, or counted as refused.
//! - I2: pixels are written only after the protocol has judged the message that holds them.
//!
//! # Several sockets
//! The messages of one sender may come by several sockets (`sockets.rs`): what is judged [`Meaning::Early`], and frames that would
//! leave others behind, wait there for their turn.
//!
//! # Limits
//! Those of `socket.rs` and of the protocol; the last [`ENDED_MAX`] series are remembered to tell stale frames from strangers.
//!
//! # Errors
//! Bad messages end here, counted; only a socket that cannot be opened or fails leaves as [`SourceError`].
//!
//! # Why this way
//! libzmq and not a ZMQ reader of our own: it limits message sizes before it allocates, reconnects, and is what senders
//! use. Its price is one copy per payload.

mod socket;
mod sockets;
mod text;

use std::collections::VecDeque;
use std::fmt::{Debug, Display};
use std::time::{Duration, Instant};

use ronchi_pipeline::{Announcement, EndReason, FrameFlag, FrameIndex, LinkCounters};

use crate::filling::{Filling, Place};
use crate::source::{Begin, Fill, Source, SourceError};

pub(crate) use socket::{Endpoint, Part};
use sockets::{Hold, Received, SOCKETS_LINGER, Sockets};
pub(crate) use sockets::{Step, Turn};
pub(crate) use text::Text;

/// How long late frames may follow the end or the last frame: several senders are not ordered among themselves.
const LINGER: Duration = Duration::from_millis(250);
/// A series whose senders are all gone waits this long for them to come back.
const RECONNECT_GRACE: Duration = Duration::from_secs(2);
/// Ended series that are remembered.
const ENDED_MAX: usize = 16;

/// What a detector's messages mean.
pub(crate) trait Protocol: Send {
    /// What it remembers of a series while it runs.
    type Form: Debug + Send;
    /// Why a message was refused; put into words only when it is logged.
    type Reason: Display;
    /// What the messages are called in logs.
    const NAME: &'static str;

    /// Whose messages, and how long they may be.
    fn endpoint(&self) -> &Endpoint;

    /// How many sockets share its messages.
    fn socket_count(&self) -> usize {
        1
    }

    /// Where a message stands in the order of its sender; asked of messages that were early, or whose frame was.
    fn turn(&mut self, _message: &[Part]) -> Turn {
        Turn::default()
    }

    /// A series without frames for this long has ended, after its first frame; `None` = it waits for its end.
    fn silence(&self) -> Option<Duration>;

    /// What a message means, given what is known.
    fn judge(&mut self, message: &[Part], known: &Known<'_, Self::Form>) -> Judged<Self::Form, Self::Reason>;

    /// Writes the pixels of the frame that the newest message holds to `position` of the block, and commits them.
    /// An error means that nothing was committed.
    fn place(
        &mut self,
        message: &[Part],
        series: &Running<Self::Form>,
        filling: &mut Filling<'_>,
        at: (FrameHead, usize),
    ) -> Result<(), (FrameFlag, Self::Reason)>;
}

/// The meaning of a message, and what was wrong with it if something was.
pub(crate) type Judged<F, R> = (Meaning<F>, Option<R>);

/// What a message is judged by.
#[derive(Debug)]
pub(crate) struct Known<'a, F> {
    /// The series that is open.
    pub(crate) running: Option<&'a Running<F>>,
    /// Nothing that was sent before this message is still to come.
    pub(crate) is_turn: bool,
    ended: &'a VecDeque<String>,
}

impl<'a, F> Known<'a, F> {
    /// The open series, if it is the one that is meant.
    pub(crate) fn running(&self, is_meant: impl Fn(&str) -> bool) -> Option<&'a Running<F>> {
        self.running.filter(|running| is_meant(&running.announced.series_id))
    }

    /// Whether the series that is meant has ended here.
    pub(crate) fn has_ended(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        self.ended.iter().any(|ended| is_meant(ended))
    }
}

/// The series that is open.
#[derive(Debug)]
pub(crate) struct Running<F> {
    pub(crate) announced: Announcement,
    /// What the protocol remembers of it.
    pub(crate) form: F,
    /// IP address of the peer that opened it.
    owner: Option<String>,
    /// When it began, then when its newest frame came.
    newest: Instant,
    /// Whether a frame has come.
    has_frames: bool,
    /// When its end or the last frame came: late frames are waited for from then on.
    ending: Option<Instant>,
    /// Frames sent, from the message that ended it; the outer `None` before that message.
    sent: Option<Option<u64>>,
}

/// What has been received but not yet handed over.
#[derive(Debug)]
enum Pending<F> {
    Nothing,
    /// A frame of the open series, checked; its pixels are still in the socket's message.
    Frame(FrameHead),
    /// Another series: what it announced, and the frame that announced it, if a frame did.
    Series(Box<Running<F>>, Option<FrameHead>),
}

/// A frame that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) frame: FrameIndex,
    pub(crate) counter: u64,
    pub(crate) time_ns: u64,
}

/// What one message means.
#[derive(Debug)]
pub(crate) enum Meaning<F> {
    /// A frame of the open series that passed every check.
    Frame(FrameHead),
    /// A frame of the open series that cannot be used.
    Broken(FrameIndex, FrameFlag),
    /// Another series, and the frame that announced it, if a frame did.
    Opens(Box<Running<F>>, Option<FrameHead>),
    /// The open series has been sent: so many frames, where the sender says it.
    Ended(Option<u64>),
    /// A frame of a series that has ended.
    Stale,
    /// Messages that were sent before it must be judged first; only of messages whose turn it is not.
    Early,
    /// Allowed, and without meaning now.
    Nothing,
    /// Anything else.
    Garbage,
}

impl<F> Meaning<F> {
    /// A series that was just announced, and the frame that came with it.
    pub(crate) fn opens(announced: Announcement, form: F, head: Option<FrameHead>) -> Self {
        let newest = Instant::now();
        let running = Running { announced, form, owner: None, newest, has_frames: false, ending: None, sent: None };
        Self::Opens(Box::new(running), head)
    }
}

/// Counts from the time between two series, when there are no counters at hand.
#[derive(Debug, Default)]
struct Strays {
    bytes: u64,
    garbage: u64,
    unplaced: u64,
}

/// A detector that sends messages, as a [`Source`].
pub(crate) struct MessageSource<P: Protocol> {
    protocol: P,
    sockets: Option<Sockets>,
    running: Option<Running<P::Form>>,
    pending: Pending<P::Form>,
    /// Whether the newest message was judged in its turn.
    is_turn: bool,
    ended: VecDeque<String>,
    strays: Strays,
    refusal_count: u64,
    lost_count: u64,
}

impl<P: Protocol> MessageSource<P> {
    /// A source that opens its socket when it is first used.
    pub(crate) fn new(protocol: P) -> Self {
        Self {
            protocol,
            sockets: None,
            running: None,
            pending: Pending::Nothing,
            is_turn: false,
            ended: VecDeque::with_capacity(ENDED_MAX + 1),
            strays: Strays::default(),
            refusal_count: 0,
            lost_count: 0,
        }
    }

    /// Opens the socket now, and says where: with the port that the system chose when the endpoint ends in `:*`.
    pub(crate) fn open(&mut self) -> Result<String, SourceError> {
        self.opened().map(|sockets| sockets.address().to_owned())
    }

    fn opened(&mut self) -> Result<&mut Sockets, SourceError> {
        if self.sockets.is_none() {
            self.sockets = Some(Sockets::open(self.protocol.endpoint(), self.protocol.socket_count())?);
        }
        Ok(self.sockets.as_mut().expect("opened above"))
    }

    /// Receives one message and says what it means; `None` when none came before the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Meaning<P::Form>>, SourceError> {
        loop {
            match self.opened()?.receive(deadline) {
                Ok(Received::Nothing) => return Ok(None),
                Ok(Received::Overlong) => {
                    let most = self.protocol.endpoint().parts_max;
                    self.note_refusal(|| format!("a message of more than {most} parts"));
                    return Ok(Some(Meaning::Garbage));
                }
                Ok(Received::Message { is_new, is_turn }) => {
                    self.is_turn = is_turn;
                    if let Some(meaning) = self.judge(is_new) {
                        return Ok(Some(meaning));
                    }
                }
                Err(error) => {
                    self.sockets = None;
                    self.pending = Pending::Nothing;
                    return Err(error);
                }
            }
        }
    }

    /// What the newest message means; `None` when it waits for its turn.
    fn judge(&mut self, is_new: bool) -> Option<Meaning<P::Form>> {
        let sockets = self.sockets.as_mut().expect("a message came from them");
        if is_new {
            self.strays.bytes += sockets.message().iter().map(|part| part.len() as u64).sum::<u64>();
        }
        let known = Known { running: self.running.as_ref(), is_turn: self.is_turn, ended: &self.ended };
        let (mut meaning, reason) = self.protocol.judge(sockets.message(), &known);
        let hold = match &meaning {
            Meaning::Early => Some(Hold::Order),
            Meaning::Broken(..) if !self.is_turn => Some(Hold::Ahead), // Its number may be far ahead.
            _ => None,
        };
        if let Some(hold) = hold {
            let turn = self.protocol.turn(sockets.message());
            sockets.hold(turn, hold);
            return None;
        }
        match &meaning {
            Meaning::Frame(_) => sockets.release(),
            _ => {
                sockets.release();
                sockets.recheck();
            }
        }
        if let Meaning::Opens(next, _) = &mut meaning {
            next.owner = sockets.sender();
            let is_foreign = self.running.as_ref().is_some_and(|running| running.owner != next.owner);
            if is_foreign {
                self.note_refusal(|| "the begin of a series from another peer while one is running".to_owned());
                return Some(Meaning::Garbage);
            }
        }
        if let Some(reason) = reason {
            self.note_refusal(|| reason.to_string());
        }
        Some(meaning)
    }

    /// Logs the 1st, 2nd, 4th, 8th, ... refused message: enough to find the mistake, too little to fill a disk.
    fn note_refusal(&mut self, reason: impl FnOnce() -> String) {
        self.refusal_count += 1;
        if self.refusal_count.is_power_of_two() {
            let (endpoint, count) = (&self.protocol.endpoint().address, self.refusal_count);
            tracing::error!(%endpoint, count, "{}: refused {}", P::NAME, reason());
        }
    }

    /// How long late frames may follow the end or the last frame.
    fn linger(&self) -> Duration {
        if self.sockets.as_ref().is_some_and(Sockets::are_several) { SOCKETS_LINGER } else { LINGER }
    }

    fn recheck(&mut self) {
        self.sockets.iter_mut().for_each(Sockets::recheck);
    }

    fn flush_strays(&mut self, counters: &LinkCounters) {
        let strays = std::mem::take(&mut self.strays);
        for (counter, count) in [
            (&counters.bytes, strays.bytes),
            (&counters.garbage_messages, strays.garbage),
            (&counters.unplaced_frames, strays.unplaced),
        ] {
            if count > 0 {
                LinkCounters::add(counter, count);
            }
        }
    }

    /// Updates the counters of connections; returns how many are open.
    fn note_peers(&mut self, counters: &LinkCounters) -> usize {
        let Some(sockets) = &mut self.sockets else { return 0 };
        let (peer_count, lost_count) = sockets.peers();
        counters.connected.store(u64::from(peer_count > 0), std::sync::atomic::Ordering::Relaxed);
        LinkCounters::add(&counters.reconnects, lost_count - self.lost_count);
        self.lost_count = lost_count;
        peer_count
    }

    /// Puts the pending frame where it belongs; `Some` when the block is not the right one.
    fn place_pending(&mut self, filling: &mut Filling<'_>, now: Instant) -> Option<Fill> {
        let Pending::Frame(head) = self.pending else { return None };
        let place = filling.place(head.frame);
        let is_wanted = matches!(place, Place::Here(_) | Place::Elsewhere);
        let waits = is_wanted && !self.is_turn && filling.is_ahead(head.frame);
        if let Some(sockets) = self.sockets.as_mut().filter(|_| waits) {
            let turn = self.protocol.turn(sockets.message());
            sockets.hold(turn, Hold::Ahead);
            self.pending = Pending::Nothing;
            return None;
        }
        match place {
            Place::Elsewhere => return Some(Fill::Elsewhere(head.frame)),
            Place::Here(position) => self.take_frame(filling, head, position, now),
            _ => filling.skip(place),
        }
        self.pending = Pending::Nothing;
        None
    }

    fn take_frame(&mut self, filling: &mut Filling<'_>, head: FrameHead, position: usize, now: Instant) {
        let (Some(sockets), Some(running)) = (&self.sockets, &mut self.running) else { return };
        running.newest = now;
        running.has_frames = true;
        running.ending = running.ending.map(|_| now);
        if let Err((flag, reason)) = self.protocol.place(sockets.message(), running, filling, (head, position)) {
            filling.reject(head.frame, flag);
            self.note_refusal(|| reason.to_string());
        }
    }

    fn close(&mut self, reason: EndReason) -> Fill {
        if let Some(running) = self.running.take() {
            self.remember(running.announced.series_id);
        }
        if matches!(self.pending, Pending::Frame(_)) {
            self.pending = Pending::Nothing;
        }
        Fill::End(reason)
    }

    fn remember(&mut self, series: String) {
        self.ended.retain(|ended| *ended != series);
        self.ended.push_back(series);
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    fn start(&mut self, next: Running<P::Form>, head: Option<FrameHead>) -> Begin {
        self.ended.retain(|ended| *ended != next.announced.series_id);
        let announced = Box::new(next.announced.clone());
        self.running = Some(next);
        self.pending = head.map_or(Pending::Nothing, Pending::Frame);
        Begin::Series(announced)
    }

    /// Does what a message of a running series asks for.
    fn act(&mut self, meaning: Meaning<P::Form>, filling: &mut Filling<'_>, now: Instant) {
        match meaning {
            Meaning::Frame(head) => self.pending = Pending::Frame(head),
            Meaning::Broken(frame, flag) => filling.reject(frame, flag),
            Meaning::Opens(next, head) => self.pending = Pending::Series(next, head),
            Meaning::Ended(sent) => {
                sent.into_iter().for_each(|count| filling.arrivals.end_at(count));
                if let Some(running) = &mut self.running {
                    running.sent.get_or_insert(sent);
                    running.ending.get_or_insert(now);
                }
            }
            Meaning::Stale => filling.skip(Place::Nowhere),
            Meaning::Early | Meaning::Nothing => {}
            Meaning::Garbage => LinkCounters::add(&filling.counters.garbage_messages, 1),
        }
    }
}

impl<F> Running<F> {
    /// Why the series has ended, as far as the clock decides; asked when no message is waiting.
    fn timed_end(
        &self,
        now: Instant,
        peer_count: usize,
        (linger, silence): (Duration, Option<Duration>),
    ) -> Option<EndReason> {
        if self.ending.is_some_and(|since| now >= since + linger) {
            return Some(self.final_reason());
        }
        let patience = now.saturating_duration_since(self.newest);
        if peer_count == 0 {
            return (patience >= grace(silence)).then_some(EndReason::Disconnected);
        }
        (self.has_frames && silence.is_some_and(|silence| patience >= silence)).then_some(EndReason::Stopped)
    }

    /// The next moment after `now` at which [`Self::timed_end`] may change its mind, at most `deadline`.
    fn next_check(&self, now: Instant, deadline: Instant, (linger, silence): (Duration, Option<Duration>)) -> Instant {
        let linger = self.ending.map(|since| since + linger);
        let silence = [Some(grace(silence)), silence].into_iter().flatten().map(|patience| self.newest + patience);
        linger.into_iter().chain(silence).filter(|&check| check > now).min().unwrap_or(deadline).min(deadline)
    }

    /// The reason once the sender has said that the series has ended, or sent its last frame, or begun another one.
    fn final_reason(&self) -> EndReason {
        let announced = self.announced.frame_count;
        match (self.sent, announced) {
            (Some(Some(sent)), Some(announced)) if sent < announced => EndReason::Stopped,
            (Some(None), Some(_)) => EndReason::Stopped,
            _ => EndReason::Complete,
        }
    }
}

/// How long a series waits for senders that are gone.
fn grace(silence: Option<Duration>) -> Duration {
    silence.map_or(RECONNECT_GRACE, |silence| silence.min(RECONNECT_GRACE))
}

impl<P: Protocol> Source for MessageSource<P> {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        if let Some(running) = self.running.take() {
            self.remember(running.announced.series_id); // The loop ended it: its other frames are stale.
        }
        self.recheck();
        loop {
            match std::mem::replace(&mut self.pending, Pending::Nothing) {
                Pending::Series(next, head) => return Ok(self.start(*next, head)),
                Pending::Frame(_) => self.strays.unplaced += 1,
                Pending::Nothing => {}
            }
            match self.receive(deadline)? {
                None => return Ok(Begin::Waiting),
                Some(Meaning::Opens(next, head)) => self.pending = Pending::Series(next, head),
                Some(Meaning::Stale) => self.strays.unplaced += 1,
                Some(Meaning::Early | Meaning::Nothing) => {}
                Some(_) => self.strays.garbage += 1,
            }
            if matches!(self.pending, Pending::Nothing) && Instant::now() >= deadline {
                return Ok(Begin::Waiting);
            }
        }
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.note_peers(filling.counters);
        self.recheck();
        let result = loop {
            let now = Instant::now();
            if let Some(fill) = self.place_pending(filling, now) {
                break Ok(fill);
            }
            let Some(running) = &mut self.running else { break Ok(self.close(EndReason::Disconnected)) };
            if filling.arrivals.is_complete() {
                break Ok(self.close(EndReason::Complete));
            }
            if let Some(Some(sent)) = running.sent
                && filling.arrivals.received_count() >= sent
            {
                let reason = running.final_reason();
                break Ok(self.close(reason));
            }
            if let Pending::Series(..) = self.pending {
                let reason = if running.ending.is_some() { running.final_reason() } else { EndReason::Stopped };
                break Ok(self.close(reason));
            }
            if filling.arrivals.is_past_end() {
                running.ending.get_or_insert(now);
            }
            if filling.block.is_full() {
                break Ok(Fill::Full);
            }
            if now >= deadline {
                break Ok(Fill::Paused);
            }
            let patience = (self.linger(), self.protocol.silence());
            let Some(running) = &self.running else { continue };
            let until = running.next_check(now, deadline, patience);
            match self.receive(until) {
                Ok(Some(meaning)) => self.act(meaning, filling, now),
                Ok(None) => {
                    let peer_count = self.note_peers(filling.counters);
                    let running = self.running.as_ref().expect("checked above");
                    if let Some(reason) = running.timed_end(Instant::now(), peer_count, patience) {
                        break Ok(self.close(reason));
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.flush_strays(filling.counters);
        result
    }
}
