//! [`MerlinSource`]: waits for an acquisition; `fill.rs` receives its frames.
//!
//! # Place in the path
//! The receive loop calls `begin` until an `HDR` and the head of a first frame have come, then `fill`. The connection
//! stays open across acquisitions.
//!
//! # Invariants
//! - I1: the message under way is described by `stage` alone; `head[..have]` belongs to `Stage::Head` and `Stage::Hunt`.
//! - I2: between two calls no byte of the message under way lies in a block: the loop may seal it.
//! - I3: a lost connection leaves `Stage::Head` with nothing read and nothing held.
//!
//! # Limits
//! Messages above `message_bytes` are loss of sync. Buffers are sized once per series, from limits checked before.
//!
//! # Errors
//! Loss of sync in a series is an error, because pixels would be looked at for a header. Before a series nothing can
//! be lost: the source looks for the next `HDR` and counts what it skips as one garbage message.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ronchi_config::{Limits, MerlinControlPlan, MerlinTrigger};
use ronchi_pipeline::{Announcement, Encoding, FrameIndex, LinkCounters, Sensor};

use super::control::MerlinControl;
use super::format::FrameFormat;
use super::header::{
    ACQUISITION_HEADER_BYTES_MAX, AcquisitionHeader, FrameHeader, HeaderError, MessageHead, MessageKind, PREFIX_BYTES,
    Progress, Signature, read_progress,
};
use super::inlet::Inlet;
use super::link::{Backoff, Dial, Received, TcpDial};
use crate::{Begin, Fill, Filling, Source, SourceError};

/// Bytes before a source that has lost sync gives up looking for the next `HDR` on a connection.
const HUNT_BYTES_MAX: u64 = 256 << 20;
/// `MPX,NNNNNNNNNN,HDR`.
const HUNTED_BYTES: usize = PREFIX_BYTES + 3;
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(1);

/// Numbers a [`MerlinSource`] works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerlinOptions {
    /// Largest message accepted, in bytes behind the prefix.
    pub message_bytes: u64,
    /// A series without data for this long has ended.
    pub silence: Duration,
    /// How long late frames are waited for once the last announced frame has been seen.
    pub linger: Duration,
    /// Bytes asked of one system call: few enough that they are still in the cache when the checksum is taken.
    pub read_bytes: usize,
    /// First pause after a failed connection.
    pub backoff: Duration,
}

impl MerlinOptions {
    /// The options that follow from a plan's limits.
    pub fn of(limits: &Limits) -> Self {
        Self { message_bytes: limits.message_bytes, silence: limits.silence, ..Self::default() }
    }
}

impl Default for MerlinOptions {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            message_bytes: limits.message_bytes,
            silence: limits.silence,
            linger: Duration::from_millis(250),
            read_bytes: 384 << 10,
            backoff: Duration::from_millis(100),
        }
    }
}

/// Frame whose head has been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    pub(super) frame: FrameIndex,
    pub(super) time_ns: u64,
    /// Payload bytes received so far.
    pub(super) filled: usize,
}

/// The message under way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// Its head is being read into `head`.
    Head { have: usize },
    /// There is none: the stream is searched for the next `HDR`.
    Hunt { have: usize, seen_bytes: u64 },
    /// A frame without a place in a block yet; the payload so far is in `scratch`.
    Pending(Incoming),
    /// A frame whose payload goes to its place (decoded formats: to `scratch`).
    Payload(Incoming),
    /// The rest of a message nobody wants.
    Skip { left: u64 },
}

/// What a series needs while it lasts.
pub(super) struct Running {
    pub(super) format: FrameFormat,
    pub(super) signature: Signature,
    /// Heads read ahead of the first, each `signature.head_bytes()` long.
    pub(super) heads: Vec<u8>,
    /// Payloads of formats that are decoded; otherwise one payload, to carry a part of it from block to block.
    pub(super) scratch: Vec<u8>,
    pub(super) frames_per_read: usize,
    pub(super) is_open_ended: bool,
    pub(super) linger_until: Option<Instant>,
    /// When the last byte came.
    pub(super) heard: Instant,
}

/// Arms the detector over its control port.
struct Arming {
    host: String,
    plan: MerlinControlPlan,
    control: Option<MerlinControl>,
    is_armed: bool,
    /// While it lasts the detector is only listened to: whoever armed it may have gone, as a receiver that was killed, and what
    /// it sends is worth as much.
    backoff: Backoff,
}

/// A Merlin data socket as a [`Source`].
pub struct MerlinSource {
    pub(super) dial: Box<dyn Dial>,
    pub(super) options: MerlinOptions,
    pub(super) counters: Arc<LinkCounters>,
    pub(super) inlet: Inlet,
    pub(super) head: Box<[u8]>,
    pub(super) stage: Stage,
    /// An `HDR` whose first frame has not come.
    pub(super) acquisition: Option<AcquisitionHeader>,
    pub(super) running: Option<Running>,
    arming: Option<Arming>,
    backoff: Backoff,
    series_count: u64,
    was_connected: bool,
}

/// What one receive of `begin` or `fill` led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Bytes that were held: no time has passed.
    Held,
    /// Bytes from the stream.
    Bytes,
    /// Nothing until the deadline.
    Nothing,
    /// The end of the stream.
    End,
}

impl MerlinSource {
    /// A source that connects to a Merlin, and arms it when a control plan is given.
    pub fn new(
        host: &str,
        data_port: u16,
        control: Option<MerlinControlPlan>,
        options: MerlinOptions,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let mut source = Self::over(Box::new(TcpDial::new(host, data_port)), options, counters);
        let backoff = Backoff::new(source.options.backoff);
        source.arming = control.map(|plan| Arming { host: host.into(), plan, control: None, is_armed: false, backoff });
        source
    }

    /// A source over any byte stream.
    pub fn over(dial: Box<dyn Dial>, options: MerlinOptions, counters: Arc<LinkCounters>) -> Self {
        Self {
            dial,
            inlet: Inlet::new(Arc::clone(&counters)),
            counters,
            head: vec![0; PREFIX_BYTES + ACQUISITION_HEADER_BYTES_MAX].into_boxed_slice(),
            stage: Stage::Head { have: 0 },
            acquisition: None,
            running: None,
            arming: None,
            backoff: Backoff::new(options.backoff),
            series_count: 0,
            was_connected: false,
            options,
        }
    }

    /// Connects when necessary; `false` when that takes beyond the deadline.
    fn connect(&mut self, deadline: Instant) -> Result<bool, SourceError> {
        if self.inlet.is_open() {
            return Ok(true);
        }
        match self.dial.dial(deadline) {
            Ok(Some(wire)) => {
                self.inlet.open(wire);
                self.was_connected = true;
                self.counters.connected.store(1, Ordering::Relaxed);
                tracing::info!(address = self.dial.address(), "connected");
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                self.backoff.fail();
                if self.was_connected {
                    LinkCounters::add(&self.counters.reconnects, 1);
                }
                Err(error)
            }
        }
    }

    /// The connection is gone or useless (I3).
    pub(super) fn disconnect(&mut self) {
        self.inlet.close();
        self.stage = Stage::Head { have: 0 };
        self.acquisition = None;
        self.running = None;
        self.backoff.fail();
        self.counters.connected.store(0, Ordering::Relaxed);
        LinkCounters::add(&self.counters.reconnects, 1);
        if let Some(arming) = &mut self.arming {
            arming.is_armed = false;
        }
    }

    pub(super) fn lost(&mut self, source: io::Error) -> SourceError {
        self.disconnect();
        SourceError::Lost { address: self.dial.address().into(), source }
    }

    /// The error for bytes that begin no message; closes the connection.
    pub(super) fn out_of_sync(&mut self, have: usize) -> SourceError {
        let got = self.head[..have.min(PREFIX_BYTES)].escape_ascii().to_string();
        let expected = format!("MPX,<length of 5 to {} bytes>,", self.options.message_bytes + 1);
        self.disconnect();
        SourceError::Protocol { address: self.dial.address().into(), got, expected }
    }

    /// Drops the rest of a series that the loop does not want any more.
    fn abandon(&mut self) {
        if let Some(running) = self.running.take()
            && let Stage::Pending(incoming) | Stage::Payload(incoming) = self.stage
        {
            self.skip((running.format.payload_bytes - incoming.filled) as u64);
        }
    }

    /// Goes on with the message after `left` more bytes.
    pub(super) fn skip(&mut self, left: u64) {
        self.stage = if left == 0 { Stage::Head { have: 0 } } else { Stage::Skip { left } };
    }

    /// One receive into the head under way, up to `until` bytes.
    pub(super) fn receive_head(&mut self, have: usize, until: usize, deadline: Instant) -> io::Result<(Heard, usize)> {
        let is_held = self.inlet.is_held();
        Ok(match self.inlet.receive(&mut self.head[have..until], deadline)? {
            Received::Bytes(count) => (if is_held { Heard::Held } else { Heard::Bytes }, count),
            Received::Nothing => (Heard::Nothing, 0),
            Received::End => (Heard::End, 0),
        })
    }

    /// One receive that goes nowhere. The head's buffer serves as the bin: no head is under way (I1).
    pub(super) fn receive_skipped(&mut self, left: u64, deadline: Instant) -> io::Result<Heard> {
        let until = usize::try_from(left).map_or(self.head.len(), |left| left.min(self.head.len()));
        let (heard, count) = self.receive_head(0, until, deadline)?;
        self.skip(left - count as u64);
        Ok(heard)
    }

    /// Takes the whole head at the front of `head[..have]`; a surplus goes back where it came from.
    pub(super) fn settle_head(&mut self, message: &MessageHead, have: usize) {
        if have > message.head_bytes {
            self.inlet.push_front(&self.head[message.head_bytes..have]);
        }
        self.skip(message.rest_bytes);
    }

    /// An acquisition header has come: it replaces one that no frame followed.
    pub(super) fn take_acquisition(&mut self, message: &MessageHead) {
        self.backoff.reset();
        self.acquisition = Some(AcquisitionHeader::parse(&self.head[PREFIX_BYTES..message.head_bytes]));
    }

    fn begin_step(&mut self, deadline: Instant) -> Result<BeginStep, SourceError> {
        let heard = match self.stage {
            Stage::Skip { left } => self.receive_skipped(left, deadline),
            Stage::Hunt { have, seen_bytes } => return self.hunt(have, seen_bytes, deadline),
            Stage::Pending(_) | Stage::Payload(_) => {
                unreachable!("`abandon` ends frames under way before `begin` reads on")
            }
            Stage::Head { have } => match read_progress(&self.head[..have], self.options.message_bytes) {
                Progress::Head(message) => return self.begin_message(&message, have),
                Progress::OutOfSync => {
                    LinkCounters::add(&self.counters.garbage_messages, 1);
                    self.stage = Stage::Hunt { have, seen_bytes: 0 };
                    return Ok(BeginStep::Heard(Heard::Held));
                }
                Progress::More(until) => self.receive_head(have, until, deadline).map(|(heard, count)| {
                    self.stage = Stage::Head { have: have + count };
                    heard
                }),
            },
        };
        heard.map(BeginStep::Heard).map_err(|e| self.lost(e))
    }

    /// Looks for the next acquisition header in a stream that has lost sync.
    fn hunt(&mut self, have: usize, seen_bytes: u64, deadline: Instant) -> Result<BeginStep, SourceError> {
        // The length must be one that the head's reader accepts: else it would come straight back here.
        let found = self.head[..have].windows(HUNTED_BYTES).position(|window| {
            window.ends_with(b"HDR") && read_progress(window, self.options.message_bytes) != Progress::OutOfSync
        });
        if let Some(at) = found {
            self.inlet.push_front(&self.head[at..have]);
            self.stage = Stage::Head { have: 0 };
            return Ok(BeginStep::Heard(Heard::Held));
        }
        if seen_bytes > HUNT_BYTES_MAX {
            return Err(self.out_of_sync(have));
        }
        let kept = have.min(HUNTED_BYTES - 1);
        self.head.copy_within(have - kept..have, 0);
        let (heard, count) = self.receive_head(kept, self.head.len(), deadline).map_err(|e| self.lost(e))?;
        self.stage = Stage::Hunt { have: kept + count, seen_bytes: seen_bytes + count as u64 };
        Ok(BeginStep::Heard(heard))
    }

    fn begin_message(&mut self, message: &MessageHead, have: usize) -> Result<BeginStep, SourceError> {
        self.settle_head(message, have);
        match message.kind {
            MessageKind::Acquisition => {
                self.take_acquisition(message);
                self.trigger()?;
            }
            MessageKind::Frame if self.acquisition.is_none() => {
                LinkCounters::add(&self.counters.unplaced_frames, 1);
            }
            MessageKind::Frame => return self.begin_series(message),
            MessageKind::BrokenFrame | MessageKind::Other => {
                LinkCounters::add(&self.counters.garbage_messages, 1);
            }
        }
        Ok(BeginStep::Heard(Heard::Held))
    }

    /// The first frame after an acquisition header decides what the series looks like.
    fn begin_series(&mut self, message: &MessageHead) -> Result<BeginStep, SourceError> {
        let head = &self.head[..message.head_bytes];
        let header = FrameHeader::parse(&head[PREFIX_BYTES..]);
        let (Ok(header), Some(signature)) = (header, Signature::of(head)) else {
            LinkCounters::add(&self.counters.garbage_messages, 1);
            return Ok(BeginStep::Heard(Heard::Held));
        };
        let frame = header.sequence - 1; // The vendor counts frames from 1.
        let time_ns = header.time_ns.unwrap_or(0);
        let format = match usable_format(&header, message.rest_bytes) {
            Ok(format) => format,
            Err(error) => return Err(self.refuse(&error)),
        };
        let Some(acquisition) = self.acquisition.take() else { return Ok(BeginStep::Heard(Heard::Held)) };
        self.series_count += 1;
        if let Some(arming) = &mut self.arming {
            arming.is_armed = false;
        }
        let announcement = Announcement {
            series_id: format!("{} #{}", acquisition.time_stamp().unwrap_or("undated"), self.series_count),
            frame_count: acquisition.frame_count(),
            scan: acquisition.scan(),
            detector: format.shape,
            region: format.shape.region(),
            pixel: format.pixel,
            encoding: Encoding::Raw,
            vendor_header: acquisition.text().into(),
            sensor: Sensor::default(),
        };
        let is_open_ended = announcement.frame_count.is_none();
        self.running = Some(Running::new(format, signature, self.options.read_bytes, is_open_ended));
        self.inlet.reserve(self.running.as_ref().map_or(0, Running::read_ahead_bytes));
        self.stage = Stage::Pending(Incoming { frame, time_ns, filled: 0 });
        Ok(BeginStep::Series(Box::new(announcement)))
    }

    /// Frames of this acquisition cannot be used. The stream is still in sync: they are skipped one by one.
    fn refuse(&mut self, error: &HeaderError) -> SourceError {
        self.acquisition = None;
        SourceError::Protocol {
            address: self.dial.address().into(),
            got: format!("frames with {} {:?}", error.field, error.value),
            expected: error.allowed.into(),
        }
    }

    /// Arms the detector once per `begin` of a series, if the plan says so.
    fn arm(&mut self) -> Result<(), SourceError> {
        let Some(arming) = self.arming.as_mut().filter(|a| !a.is_armed && self.acquisition.is_none()) else {
            return Ok(());
        };
        if !arming.backoff.is_over() {
            return Ok(());
        }
        let plan = arming.plan.clone();
        arming.with_control(|control| control.arm(&plan)).inspect_err(|_| arming.backoff.fail())?;
        arming.backoff.reset();
        arming.is_armed = true;
        Ok(())
    }

    fn trigger(&mut self) -> Result<(), SourceError> {
        match &mut self.arming {
            Some(arming) if arming.plan.trigger == Some(MerlinTrigger::Soft) => {
                arming.with_control(|control| control.soft_trigger()).inspect_err(|_| {
                    arming.is_armed = false; // It waits for a trigger that did not come: arm it again.
                    self.acquisition = None;
                    arming.backoff.fail();
                })
            }
            _ => Ok(()),
        }
    }
}

enum BeginStep {
    Heard(Heard),
    Series(Box<Announcement>),
}

/// The format of the frames, when it is supported and agrees with the length of the message.
fn usable_format(header: &FrameHeader<'_>, payload_bytes: u64) -> Result<FrameFormat, HeaderError> {
    let format = FrameFormat::of(header)?;
    if format.payload_bytes as u64 != payload_bytes {
        let value = format!(
            "{payload_bytes} for {} x {} {} {}, which takes {}",
            header.width, header.height, header.pixel_code, header.layout, format.payload_bytes
        );
        return Err(HeaderError::new("payload bytes", value, "one whole frame per message"));
    }
    Ok(format)
}

impl Running {
    fn new(format: FrameFormat, signature: Signature, read_bytes: usize, is_open_ended: bool) -> Self {
        let head_bytes = signature.head_bytes();
        let message_bytes = head_bytes + format.payload_bytes;
        let frames_per_read = (read_bytes / message_bytes).clamp(1, super::fill::FRAMES_PER_READ_MAX);
        let scratch_frames = if format.raw.is_some() { frames_per_read } else { 1 };
        Self {
            heads: vec![0; (frames_per_read - 1) * head_bytes],
            scratch: vec![0; scratch_frames * format.payload_bytes],
            frames_per_read,
            is_open_ended,
            format,
            signature,
            linger_until: None,
            heard: Instant::now(),
        }
    }

    /// Most bytes that one scatter read brings.
    fn read_ahead_bytes(&self) -> usize {
        self.frames_per_read * (self.signature.head_bytes() + self.format.payload_bytes)
    }
}

impl Arming {
    /// Runs one exchange over the control connection, opening it first; a failed one is closed.
    fn with_control(
        &mut self,
        exchange: impl FnOnce(&mut MerlinControl) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut control = match self.control.take() {
            Some(control) => control,
            None => MerlinControl::connect(&self.host, self.plan.port, RESPONSE_TIME_MAX)?,
        };
        exchange(&mut control)?;
        self.control = Some(control);
        Ok(())
    }
}

impl Source for MerlinSource {
    /// A detector that refuses to be armed is listened to before that is told.
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        self.abandon();
        let mut refused = None;
        loop {
            if !self.backoff.wait(deadline) || !self.connect(deadline)? {
                return refused.map_or(Ok(Begin::Waiting), Err);
            }
            if refused.is_none() {
                refused = self.arm().err();
            }
            match self.begin_step(deadline)? {
                BeginStep::Series(announcement) => return Ok(Begin::Series(announcement)),
                BeginStep::Heard(Heard::End) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                BeginStep::Heard(Heard::Nothing) => return refused.map_or(Ok(Begin::Waiting), Err),
                BeginStep::Heard(Heard::Held) => {}
                BeginStep::Heard(Heard::Bytes) if Instant::now() >= deadline => {
                    return refused.map_or(Ok(Begin::Waiting), Err);
                }
                BeginStep::Heard(Heard::Bytes) => {}
            }
        }
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.fill_until(filling, deadline)
    }

    fn stop(&mut self) -> Result<(), SourceError> {
        let is_acquiring = self.running.is_some();
        match self.arming.as_mut().filter(|arming| arming.is_armed || is_acquiring) {
            Some(arming) => arming.with_control(|control| control.stop()),
            None => Ok(()),
        }
    }
}
