//! The data side: header, images on time or as fast as they are taken, and end, by one stream or both.
//!
//! # Place in the path
//! One thread. Images come from [`Images`](super::images::Images); per image the processor copies its bytes into a message
//! and writes what stands around them, nothing else.
//!
//! # Invariants
//! - I1: when paced, image `k` of a trigger is sent at `trigger + k * frame_time`, never earlier; delays do not add up.
//! - I2: an end follows every header, unless a fault or the end of the simulator keeps it back.

use std::time::{Duration, Instant};

use super::series::{Exposure, Series, SeriesId};
use super::stream1::Parts;
use super::{Server, StreamFormat, stream1, stream2};
use crate::simulate::fault::{FaultKind, Script, Step};
use crate::simulate::pace::{Pacer, unix_ns_now};
use crate::simulate::push::{Push, SEND_PATIENCE, SendError};

/// How long a look for room may wait before it is seen whether to go on.
const ROOM_WAIT: Duration = Duration::from_millis(50);
/// Images of an older series that come before a series with stale messages.
const STALE_IMAGES: u64 = 2;

/// Something to be sent.
#[derive(Clone, Copy)]
enum Message<'a> {
    Header { is_split: bool },
    Image(&'a Exposure<'a>),
    End(SeriesId<'a>),
    Garbage(&'a [u8]),
}

/// One open stream.
struct Stream {
    format: StreamFormat,
    push: Push,
    /// Whether a message may wait: the one before it was taken.
    is_patient: bool,
    /// Whether it carries the present series.
    is_used: bool,
}

/// Sends series.
pub(super) struct Sender<'a> {
    server: &'a Server,
    streams: Vec<Stream>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(server: &'a Server, stream1: Option<Push>, stream2: Option<Push>) -> Self {
        let open = |(format, push)| Stream { format, push, is_patient: true, is_used: true };
        let pushes = [(StreamFormat::Legacy, stream1), (StreamFormat::Cbor, stream2)];
        let streams = pushes.into_iter().filter_map(|(format, push)| Some(open((format, push?)))).collect();
        Self { server, streams }
    }

    /// Sends series until the end.
    pub(super) fn run(mut self) {
        // Sleeps end on time instead of up to 50 us late; where the kernel refuses, pacing is a little coarser.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        if let Err(error) = self.serve() {
            tracing::error!(%error, "the simulator ends");
        }
    }

    fn serve(&mut self) -> Result<(), SendError> {
        let Server { plan, desk, tally, .. } = self.server;
        let is_free = plan.rest.is_none();
        if is_free && !self.wait_for_receivers()? {
            return Ok(());
        }
        while let Some(series) = desk.next_series(is_free) {
            let number = tally.begin();
            self.acquire(&series, number)?;
            desk.finish();
            if number + 1 == plan.runs {
                return Ok(());
            }
            if !plan.pause.is_zero() {
                desk.pause(plan.pause);
            }
        }
        Ok(())
    }

    /// Waits until every stream has somebody to send to; `false` when the simulator ends.
    fn wait_for_receivers(&self) -> Result<bool, SendError> {
        for stream in &self.streams {
            while !stream.push.has_room(ROOM_WAIT)? {
                if self.server.desk.is_ending() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn acquire(&mut self, series: &Series, number: u64) -> Result<(), SendError> {
        let Server { plan, desk, tally, .. } = self.server;
        for stream in &mut self.streams {
            stream.is_used = series.format == Some(stream.format) || series.format == Some(StreamFormat::Both);
        }
        let mut script = Script::new(&plan.faults, plan.images.seed, number, Some(series.frame_count()));
        if script.has(FaultKind::Stale) {
            self.send_stale(series)?;
        }
        self.send(series, Message::Header { is_split: script.has(FaultKind::SplitHeader) })?;
        let started = Instant::now();
        let mut frames_done = 0;
        while let Some(count_ns) = desk.next_trigger(series) {
            let triggers = if series.is_triggered { 1 } else { series.triggers };
            let first = frames_done;
            frames_done += triggers * series.images_per_trigger;
            self.expose(series, &mut script, first..frames_done, (started, count_ns))?;
            desk.exposed(triggers);
            if script.has(FaultKind::Abort) && script.peek().is_none() {
                break;
            }
        }
        tally.add_sending(started.elapsed());
        self.send_end(series, &script)?;
        tally.add_faults(script.take_counts());
        Ok(())
    }

    /// Sends the images of a trigger.
    fn expose(
        &mut self,
        series: &Series,
        script: &mut Script,
        frames: std::ops::Range<u64>,
        (started, count_ns): (Instant, Option<u64>),
    ) -> Result<(), SendError> {
        let desk = &self.server.desk;
        // Images that come by themselves begin with the series; others when they were asked for.
        let elapsed_ns = if series.is_triggered { started.elapsed().as_nanos() as u64 } else { 0 };
        let begun_ns = elapsed_ns.next_multiple_of(super::series::TICK_NS);
        let pacer = Pacer::start(if self.server.plan.rate_hz > 0.0 { 1e9 / series.frame_ns as f64 } else { 0.0 });
        while let Some(step) = script.peek().filter(|step| step.tick < frames.end) {
            pacer.wait_for(step.tick.saturating_sub(frames.start), || desk.is_halted());
            if desk.is_halted() {
                break;
            }
            script.advance();
            let start_ns = begun_ns + step.frame.saturating_sub(frames.start) * series.frame_ns;
            self.send_step(series, step, script, (start_ns, count_ns.unwrap_or(series.count_ns)))?;
        }
        Ok(())
    }

    fn send_step(
        &mut self,
        series: &Series,
        step: Step,
        script: &mut Script,
        (start_ns, count_ns): (u64, u64),
    ) -> Result<(), SendError> {
        let Server { images, desk, plan, tally, .. } = self.server;
        let mut image = images.get(step.frame);
        let other_name = format!("{}-OTHER", series.name);
        let mut id = series.id();
        let changed;
        match step.fault {
            None => {}
            Some(FaultKind::Garbage) => drop(self.send(series, Message::Garbage(&script.garbage()))?),
            Some(FaultKind::Stall) => desk.pause(plan.stall),
            Some(FaultKind::WrongSeries) => id = SeriesId { number: series.number + 1000, name: &other_name },
            Some(kind) => {
                changed = match kind {
                    FaultKind::BigEndian => images.big_endian(step.frame).unwrap_or_else(|| image.clone()),
                    _ => spoilt(image.clone(), kind),
                };
                image = &changed;
            }
        }
        let exposure = Exposure { id, frame: step.frame, start_ns, count_ns, image };
        let bytes = self.send(series, Message::Image(&exposure))?;
        if bytes > 0 {
            tally.add_sent(1, bytes as u64, unix_ns_now());
        }
        Ok(())
    }

    fn send_stale(&mut self, series: &Series) -> Result<(), SendError> {
        let name = format!("{}-OLDER", series.name);
        let id = SeriesId { number: series.number - 1, name: &name };
        for frame in 0..STALE_IMAGES {
            let (start_ns, count_ns) = (frame * series.frame_ns, series.count_ns);
            let exposure = Exposure { id, frame, start_ns, count_ns, image: self.server.images.get(frame) };
            self.send(series, Message::Image(&exposure))?;
        }
        self.send(series, Message::End(id)).map(drop)
    }

    fn send_end(&mut self, series: &Series, script: &Script) -> Result<(), SendError> {
        let Server { desk, plan, .. } = self.server;
        if script.has(FaultKind::NoEnd) || desk.is_ending() {
            return Ok(());
        }
        if script.has(FaultKind::LateEnd) {
            desk.pause(plan.stall);
        }
        self.send(series, Message::End(series.id()))?;
        if script.has(FaultKind::SecondEnd) {
            self.send(series, Message::End(series.id()))?;
        }
        Ok(())
    }

    /// Sends a message by every stream of the series; bytes that were taken.
    fn send(&mut self, series: &Series, message: Message<'_>) -> Result<usize, SendError> {
        let mut bytes = 0;
        for stream in self.streams.iter_mut().filter(|stream| stream.is_used) {
            for parts in parts_of(stream.format, series, message) {
                bytes += stream.send(parts, self.server, matches!(message, Message::Image(_)))?;
            }
        }
        Ok(bytes)
    }
}

impl Stream {
    /// Sends one message when there is room for it; its bytes, 0 when it was dropped.
    fn send(&mut self, parts: Parts, server: &Server, is_image: bool) -> Result<usize, SendError> {
        let begun = Instant::now();
        let mut wait = Duration::ZERO;
        while !self.push.has_room(wait)? {
            let is_over = server.desk.is_ending() || (is_image && server.desk.is_halted());
            if !self.is_patient || is_over || begun.elapsed() > SEND_PATIENCE {
                self.is_patient = false;
                server.desk.add_dropped();
                server.tally.add_dropped();
                return Ok(0);
            }
            wait = ROOM_WAIT;
        }
        self.is_patient = true;
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.push.send(parts)?;
        Ok(bytes)
    }
}

/// The messages of a stream that say something.
fn parts_of(format: StreamFormat, series: &Series, message: Message<'_>) -> Vec<Parts> {
    let one = |bytes: Vec<u8>| vec![zmq::Message::from(bytes)];
    match (format, message) {
        (_, Message::Garbage(bytes)) => vec![vec![bytes.into()]],
        (StreamFormat::Legacy, Message::Header { is_split }) => stream1::header(series, is_split),
        (StreamFormat::Legacy, Message::Image(exposure)) => vec![stream1::image(series, exposure)],
        (StreamFormat::Legacy, Message::End(id)) => vec![stream1::end(id)],
        (_, Message::Header { .. }) => vec![one(stream2::start(series))],
        (_, Message::Image(exposure)) => vec![one(stream2::image(series, exposure))],
        (_, Message::End(id)) => vec![one(stream2::end(id))],
    }
}

/// An image with something wrong.
fn spoilt(mut image: super::images::Image, kind: FaultKind) -> super::images::Image {
    match kind {
        FaultKind::Truncate => image.change(|payload| payload.truncate(payload.len() / 2)),
        FaultKind::ZeroHeader => image.change(|payload| payload.iter_mut().take(12).for_each(|byte| *byte = 0)),
        FaultKind::WrongHash => image.hash = "0".repeat(32),
        _ => {}
    }
    image
}
