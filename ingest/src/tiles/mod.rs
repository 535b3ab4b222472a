//! Tile stream: any readout that can push ZMQ messages becomes a detector link (`docs/tile-stream.md`).
//!
//! # Place in the path
//! `TileSource` is a [`Source`]: libzmq's thread reads the socket, the receive thread takes a message, checks its header
//! and copies its payload once, into the frame's place in the block. No hop in between.
//!
//! # Invariants
//! - I1: a payload is copied only if series, region, pixel type, encoding and length are those of the series that is open.
//!   A compressed one has any length up to that of its place, and all lengths inside it add up; it is not decoded here.
//! - I2: a message is handled once: it is placed, kept pending for another block, or counted as refused.
//!
//! # Limits
//! Those of `socket.rs` and `header.rs`; the last `ENDED_MAX` series are remembered to tell stale tiles from strangers.
//!
//! # Errors
//! Bad messages end here, counted; only a socket that cannot be opened or fails leaves as [`SourceError`].
//!
//! # Why this way
//! libzmq and not a ZMQ reader of our own: it limits message sizes before it allocates, reconnects, and is what senders
//! use. Its price is one copy per payload.

mod header;
mod judge;
mod socket;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ronchi_config::{Compress, LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::format::bslz4::Bslz4;
use ronchi_pipeline::{Announcement, Encoding, EndReason, FrameFlag, FrameIndex, LinkCounters, Region, SigShape};

use crate::filling::{Filling, Place};
use crate::source::{Begin, Fill, Source, SourceError};

pub use header::{
    BEGIN_BYTES_MAX, BeginHeader, EndHeader, FRAMES_MAX, Header, HeaderError, SERIES_BYTES_MAX, TILE_BYTES_MAX,
    TileHeader, VERSION, parse_header,
};
use judge::{Judge, Reason, frame_bytes};
use socket::{Received, TileSocket};

/// How long late tiles may follow an `end` message or the last frame: several senders are not ordered among themselves.
const LINGER: Duration = Duration::from_millis(250);
/// A series whose senders are all gone waits this long for them to come back.
const RECONNECT_GRACE: Duration = Duration::from_secs(2);
/// Ended series that are remembered.
const ENDED_MAX: usize = 16;

/// How a tile stream is received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileSettings {
    /// ZMQ endpoint, e.g. `tcp://127.0.0.1:7001`.
    pub endpoint: String,
    /// Listen there (`true`) or connect to it.
    pub bind: bool,
    /// The only region that is accepted, where the user named one.
    pub region: Option<Region>,
    /// The only detector shape that is accepted, where the user named one.
    pub detector: Option<SigShape>,
    /// Largest payload, in bytes.
    pub message_bytes: u64,
    /// A series without frames for this long has ended (after its first frame).
    pub silence: Duration,
    /// Compressed frames become pixels when they arrive: the user wants pixels stored.
    pub is_decoding: bool,
}

impl TileSettings {
    /// The settings of one link; `None` when it is not a tile stream.
    pub fn from_plan(plan: &Plan, link: &LinkPlan) -> Option<Self> {
        let SourcePlan::Tiles { endpoint, bind } = &link.source else { return None };
        Some(Self {
            endpoint: endpoint.clone(),
            bind: *bind,
            region: link.region,
            detector: plan.detector,
            message_bytes: plan.limits.message_bytes.min(plan.limits.block_bytes),
            silence: plan.limits.silence,
            is_decoding: plan.data.record && plan.limits.compress == Compress::None,
        })
    }
}

/// A tile stream as a [`Source`].
pub struct TileSource {
    settings: TileSettings,
    socket: Option<TileSocket>,
    running: Option<Running>,
    pending: Pending,
    ended: VecDeque<String>,
    strays: Strays,
    refusal_count: u64,
    lost_count: u64,
    /// For decoding.
    scratch: Vec<u8>,
}

/// The series that is open.
#[derive(Debug)]
struct Running {
    series: String,
    announced: Announcement,
    /// The form in which its frames are sent.
    sent_as: Encoding,
    /// IP address of the peer that opened it.
    owner: Option<String>,
    /// When it began, then when its newest frame came.
    newest: Instant,
    /// Whether a frame has come.
    has_frames: bool,
    /// When an `end` message or the last frame came: late tiles are waited for from then on.
    ending: Option<Instant>,
    /// Frames sent, from the `end` message; the outer `None` before that message.
    sent: Option<Option<u64>>,
}

/// What has been received but not yet handed over.
#[derive(Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    /// A frame of the open series, whole and checked; its payload is still in the socket's message.
    Frame(FrameHead),
    /// Another series: what it announced, and the frame that announced it, if a frame did.
    Series(Box<Running>, Option<FrameHead>),
}

/// A frame that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    frame: FrameIndex,
    counter: u64,
    time_ns: u64,
}

/// Counts from the time between two series, when there are no counters at hand.
#[derive(Debug, Default)]
struct Strays {
    bytes: u64,
    garbage: u64,
    unplaced: u64,
}

/// What one message means.
#[derive(Debug)]
enum Meaning {
    /// A frame of the open series that passed every check.
    Frame(FrameHead),
    /// A frame of the open series that cannot be used.
    Broken(FrameIndex, FrameFlag),
    /// Another series.
    Opens(Box<Running>, Option<FrameHead>),
    /// The open series has been sent.
    Ended(Option<u64>),
    /// A tile of a series that has ended.
    Stale,
    /// Allowed, and without meaning now.
    Nothing,
    /// Anything else.
    Garbage,
}

impl TileSource {
    /// A source that opens its socket when it is first used.
    pub fn new(settings: TileSettings) -> Self {
        Self {
            settings,
            socket: None,
            running: None,
            pending: Pending::Nothing,
            ended: VecDeque::with_capacity(ENDED_MAX + 1),
            strays: Strays::default(),
            refusal_count: 0,
            lost_count: 0,
            scratch: Vec::new(),
        }
    }

    /// Opens the socket now, and says where: with the port that the system chose when the endpoint ends in `:*`.
    pub fn open(&mut self) -> Result<String, SourceError> {
        self.opened().map(|socket| socket.address().to_owned())
    }

    fn opened(&mut self) -> Result<&mut TileSocket, SourceError> {
        if self.socket.is_none() {
            let limit = self.settings.message_bytes.max(BEGIN_BYTES_MAX as u64);
            self.socket = Some(TileSocket::open(&self.settings.endpoint, self.settings.bind, limit)?);
        }
        Ok(self.socket.as_mut().expect("opened above"))
    }

    /// Receives one message and says what it means; `None` when none came before the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Meaning>, SourceError> {
        let received = match self.opened()?.receive(deadline) {
            Ok(received) => received,
            Err(error) => {
                self.socket = None;
                self.pending = Pending::Nothing;
                return Err(error);
            }
        };
        let has_blob = match received {
            Received::Nothing => return Ok(None),
            Received::Overlong => {
                self.note_refusal(|| "a message of more than two parts".to_owned());
                return Ok(Some(Meaning::Garbage));
            }
            Received::Message { has_blob } => has_blob,
        };
        let socket = self.socket.as_mut().expect("a message came from it");
        let blob = has_blob.then_some(&*socket.blob);
        self.strays.bytes += (socket.header.len() + blob.map_or(0, <[u8]>::len)) as u64;
        let judge = Judge { settings: &self.settings, running: self.running.as_ref(), ended: &self.ended };
        let (mut meaning, reason) = match parse_header(&socket.header) {
            Ok(header) => judge.meaning(&header, blob),
            Err(error) => (Meaning::Garbage, Some(Reason::Header(error))),
        };
        if let Meaning::Opens(next, _) = &mut meaning {
            next.owner = socket.sender();
            let is_foreign = self.running.as_ref().is_some_and(|running| running.owner != next.owner);
            if is_foreign {
                self.note_refusal(|| "the begin of a series from another peer while one is running".to_owned());
                return Ok(Some(Meaning::Garbage));
            }
        }
        if let Some(reason) = reason {
            self.note_refusal(|| reason.to_string());
        }
        Ok(Some(meaning))
    }

    /// Logs the 1st, 2nd, 4th, 8th, ... refused message: enough to find the mistake, too little to fill a disk.
    fn note_refusal(&mut self, reason: impl FnOnce() -> String) {
        self.refusal_count += 1;
        if self.refusal_count.is_power_of_two() {
            let (endpoint, count) = (&self.settings.endpoint, self.refusal_count);
            tracing::error!(%endpoint, count, "tile stream: refused {}", reason());
        }
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
        let Some(socket) = &mut self.socket else { return 0 };
        let (peer_count, lost_count) = socket.peers();
        counters.connected.store(u64::from(peer_count > 0), std::sync::atomic::Ordering::Relaxed);
        LinkCounters::add(&counters.reconnects, lost_count - self.lost_count);
        self.lost_count = lost_count;
        peer_count
    }

    /// Puts the pending frame where it belongs; `Some` when the block is not the right one.
    fn place_pending(&mut self, filling: &mut Filling<'_>, now: Instant) -> Option<Fill> {
        let Pending::Frame(head) = self.pending else { return None };
        let place = filling.place(head.frame);
        match place {
            Place::Elsewhere => return Some(Fill::Elsewhere(head.frame)),
            Place::Here(position) => self.take_frame(filling, head, position, now),
            _ => filling.skip(place),
        }
        self.pending = Pending::Nothing;
        None
    }

    fn take_frame(&mut self, filling: &mut Filling<'_>, head: FrameHead, position: usize, now: Instant) {
        let (Some(socket), Some(running)) = (&self.socket, &mut self.running) else { return };
        running.newest = now;
        running.has_frames = true;
        running.ending = running.ending.map(|_| now);
        if running.sent_as == running.announced.encoding {
            filling.put(position, &socket.blob, head.counter, head.time_ns); // The lengths are right: I1.
            return;
        }
        let (frame_bytes, pixel) = (frame_bytes(&running.announced) as usize, running.announced.pixel);
        let frame = Bslz4::parse(&socket.blob, frame_bytes, pixel.bytes());
        let pixels = filling.block.frame_mut(position);
        match frame.and_then(|frame| frame.decode(&mut self.scratch, pixels)) {
            Ok(()) => filling.commit(position, head.counter, head.time_ns),
            Err(error) => {
                filling.reject(head.frame, FrameFlag::Corrupt);
                self.note_refusal(|| Reason::Compressed { frame: head.frame, error }.to_string());
            }
        }
    }

    fn close(&mut self, reason: EndReason) -> Fill {
        if let Some(running) = self.running.take() {
            self.remember(running.series);
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

    fn start(&mut self, next: Box<Running>, head: Option<FrameHead>) -> Begin {
        self.ended.retain(|ended| *ended != next.series);
        let announced = Box::new(next.announced.clone());
        self.running = Some(*next);
        self.pending = head.map_or(Pending::Nothing, Pending::Frame);
        Begin::Series(announced)
    }
}

impl Running {
    /// Why the series has ended, as far as the clock decides; asked when no message is waiting.
    fn timed_end(&self, now: Instant, peer_count: usize, settings: &TileSettings) -> Option<EndReason> {
        if self.ending.is_some_and(|since| now >= since + LINGER) {
            return Some(self.final_reason());
        }
        let patience = now.saturating_duration_since(self.newest);
        if peer_count == 0 {
            return (patience >= settings.silence.min(RECONNECT_GRACE)).then_some(EndReason::Disconnected);
        }
        (self.has_frames && patience >= settings.silence).then_some(EndReason::Stopped)
    }

    /// The next moment after `now` at which [`Self::timed_end`] may change its mind, at most `deadline`.
    fn next_check(&self, now: Instant, deadline: Instant, settings: &TileSettings) -> Instant {
        let linger = self.ending.map(|since| since + LINGER);
        let silence = [self.newest + settings.silence.min(RECONNECT_GRACE), self.newest + settings.silence];
        linger.into_iter().chain(silence).filter(|&check| check > now).min().unwrap_or(deadline).min(deadline)
    }

    /// The reason once the sender has said `end`, or sent its last frame, or begun another series.
    fn final_reason(&self) -> EndReason {
        let announced = self.announced.frame_count;
        match (self.sent, announced) {
            (Some(Some(sent)), Some(announced)) if sent < announced => EndReason::Stopped,
            (Some(None), Some(_)) => EndReason::Stopped,
            _ => EndReason::Complete,
        }
    }
}

impl Source for TileSource {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        if let Some(running) = self.running.take() {
            self.remember(running.series); // The loop ended it: its other tiles are stale.
        }
        loop {
            match std::mem::take(&mut self.pending) {
                Pending::Series(next, head) => return Ok(self.start(next, head)),
                Pending::Frame(_) => self.strays.unplaced += 1,
                Pending::Nothing => {}
            }
            match self.receive(deadline)? {
                None => return Ok(Begin::Waiting),
                Some(Meaning::Opens(next, head)) => self.pending = Pending::Series(next, head),
                Some(Meaning::Stale) => self.strays.unplaced += 1,
                Some(Meaning::Nothing) => {}
                Some(_) => self.strays.garbage += 1,
            }
            if matches!(self.pending, Pending::Nothing) && Instant::now() >= deadline {
                return Ok(Begin::Waiting);
            }
        }
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.note_peers(filling.counters);
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
            let until = running.next_check(now, deadline, &self.settings);
            match self.receive(until) {
                Ok(Some(meaning)) => self.act(meaning, filling, now),
                Ok(None) => {
                    let peer_count = self.note_peers(filling.counters);
                    let running = self.running.as_ref().expect("checked above");
                    if let Some(reason) = running.timed_end(Instant::now(), peer_count, &self.settings) {
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

impl TileSource {
    /// Does what a message of a running series asks for.
    fn act(&mut self, meaning: Meaning, filling: &mut Filling<'_>, now: Instant) {
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
            Meaning::Nothing => {}
            Meaning::Garbage => LinkCounters::add(&filling.counters.garbage_messages, 1),
        }
    }
}
