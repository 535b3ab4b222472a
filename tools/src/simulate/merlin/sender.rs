//! The data side of one client: acquisition header, then frames in batches, on time or as fast as the link goes.
//!
//! # Place in the path
//! One thread. Frames come from [`Supply`], go out with one vectored write per batch; per frame the processor copies a
//! header of 384 or 768 bytes and writes about 60 digits, nothing else while frames are held in memory.
//!
//! # Invariants
//! - I1: a frame is sent whole or not at all, unless the connection ends (a fault, or the end of the simulator).
//! - I2: the time stamp of a frame is read right before the write that carries it; frames of one batch share it.
//! - I3: when paced, frame `k` is sent at `start + k / rate`, never earlier; delays do not add up, the time table is
//!   absolute and late frames follow at once.
//!
//! # Limits
//! At most 256 frames and about 2 MiB per batch. When the client does not read, the write waits (TCP) and the stop flag
//! is looked at every 50 ms.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::desk::{Desk, Order};
use super::header::prefix;
use super::stamp::Stamps;
use super::supply::{Slot, Supply};
use super::{MerlinSimulation, format::PREFIX_BYTES};
use crate::simulate::fault::{FaultKind, Script, Step};
use crate::simulate::pace::{Pacer, unix_ns_now};
use crate::simulate::tally::Tally;

const BATCH_FRAMES_MAX: usize = 256;
const BATCH_BYTES: usize = 2 << 20;
/// How long a write may wait before the stop flag is looked at.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(50);

/// Why sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All frames were sent, or the acquisition was stopped; the connection is good for the next.
    Done,
    /// The connection is no longer usable.
    Lost,
}

/// Sends acquisitions to one client.
pub(super) struct Sender<'a> {
    plan: &'a MerlinSimulation,
    supply: &'a Supply,
    desk: &'a Desk,
    tally: &'a Tally,
    stream: TcpStream,
    slots: Vec<Slot>,
    frames: Vec<u64>,
    stamps: Stamps,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        plan: &'a MerlinSimulation,
        supply: &'a Supply,
        desk: &'a Desk,
        tally: &'a Tally,
        stream: TcpStream,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let message_bytes = PREFIX_BYTES + supply.frame_bytes;
        let batch = (BATCH_BYTES / message_bytes).clamp(1, BATCH_FRAMES_MAX);
        let slots = (0..batch).map(|_| supply.slot()).collect();
        let frames = Vec::with_capacity(batch);
        Ok(Self { plan, supply, desk, tally, stream, slots, frames, stamps: Stamps::at(0) })
    }

    /// Sends bytes that belong to no acquisition.
    pub(super) fn send_garbage(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(&mut [IoSlice::new(bytes)], bytes.len()).map(drop)
    }

    /// Carries out one acquisition; `number` counts them from 0.
    pub(super) fn acquire(&mut self, order: &Order, number: u64) -> Outcome {
        let header = self.supply.acquisition_header(order.frames, order.per_trigger, order.trigger_start);
        let head = prefix(header.len());
        let length = head.len() + header.len();
        if self.write(&mut [IoSlice::new(&head), IoSlice::new(&header)], length).is_err() {
            return Outcome::Lost;
        }
        if !self.desk.wait_for_trigger(order, self.plan.external_trigger_after) {
            return if self.desk.is_client_here() { Outcome::Done } else { Outcome::Lost };
        }
        let mut script = Script::new(&self.plan.faults, self.plan.seed, number, order.limit());
        let pacer = Pacer::start(self.plan.rate_hz);
        let sent = self.send_all(&mut script, &pacer);
        self.tally.add_faults(script.take_counts());
        self.tally.add_sending(pacer.elapsed());
        match sent {
            Ok(outcome) => outcome,
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                    tracing::warn!(%error, "sending frames failed");
                }
                Outcome::Lost
            }
        }
    }

    fn send_all(&mut self, script: &mut Script, pacer: &Pacer) -> io::Result<Outcome> {
        while let Some(first) = script.peek() {
            // Prepared before its time comes, so that drawing a frame does not make it late.
            self.supply.load(first.frame, &mut self.slots[0])?;
            pacer.wait_for(first.tick, || self.desk.is_halted());
            if self.desk.is_halted() {
                break;
            }
            if let Some(fault) = first.fault {
                script.advance();
                self.tally.add_faults(script.take_counts());
                if !self.send_faulty(first, fault, script)? {
                    return Ok(Outcome::Lost);
                }
                continue;
            }
            self.gather(script, pacer.ticks_due().max(first.tick + 1))?;
            if !self.send_batch()? {
                break;
            }
        }
        Ok(if self.desk.is_client_here() { Outcome::Done } else { Outcome::Lost })
    }

    /// Takes steps as long as they are plain, due and fit; the first is loaded already.
    fn gather(&mut self, script: &mut Script, due: u64) -> io::Result<()> {
        self.frames.clear();
        while self.frames.len() < self.slots.len() {
            let Some(step) = script.peek().filter(|step| step.fault.is_none() && step.tick < due) else { break };
            if !self.frames.is_empty() {
                self.supply.load(step.frame, &mut self.slots[self.frames.len()])?;
            }
            self.frames.push(step.frame);
            script.advance();
        }
        Ok(())
    }

    /// Stamps and writes the gathered frames; `false` when halted on the way.
    fn send_batch(&mut self) -> io::Result<bool> {
        let message_bytes = PREFIX_BYTES + self.supply.frame_bytes;
        let now = unix_ns_now(); // I2
        self.stamps.set(now);
        for (&frame, slot) in self.frames.iter().zip(&mut self.slots) {
            self.supply.stamp(frame, slot, &self.stamps)?;
        }
        let mut pieces = [IoSlice::new(&[]); 2 * BATCH_FRAMES_MAX];
        for ((pair, &frame), slot) in pieces.chunks_exact_mut(2).zip(&self.frames).zip(&self.slots) {
            let (head, pixels) = self.supply.parts(frame, slot);
            pair.copy_from_slice(&[IoSlice::new(head), IoSlice::new(pixels)]);
        }
        let count = self.frames.len();
        let sent = write_messages(&self.stream, self.desk, &mut pieces[..2 * count], message_bytes)?;
        self.tally.add_sent((sent / message_bytes) as u64, sent as u64, now);
        Ok(sent == count * message_bytes)
    }

    /// Sends one frame that something happens to; `false` when the connection has ended.
    fn send_faulty(&mut self, step: Step, fault: FaultKind, script: &mut Script) -> io::Result<bool> {
        let now = unix_ns_now();
        match fault {
            FaultKind::Garbage => self.send_garbage(&script.garbage())?,
            FaultKind::Stall => self.desk.pause(self.plan.stall),
            _ => {}
        }
        self.stamps.set(unix_ns_now());
        self.supply.stamp(step.frame, &mut self.slots[0], &self.stamps)?;
        let (head, pixels) = self.supply.parts(step.frame, &self.slots[0]);
        let half = &pixels[..pixels.len() / 2];
        let (start, header) = head.split_at(PREFIX_BYTES);
        let sent = match fault {
            FaultKind::Truncate => {
                let start = prefix(header.len() + half.len());
                let mut pieces = [IoSlice::new(&start), IoSlice::new(header), IoSlice::new(half)];
                self.write(&mut pieces, start.len() + header.len() + half.len())?
            }
            FaultKind::Disconnect => {
                let mut pieces = [IoSlice::new(start), IoSlice::new(header), IoSlice::new(half)];
                let sent = self.write(&mut pieces, head.len() + half.len())?;
                self.tally.add_sent(0, sent as u64, now);
                return Ok(false);
            }
            _ => {
                let mut pieces = [IoSlice::new(head), IoSlice::new(pixels)];
                self.write(&mut pieces, head.len() + pixels.len())?
            }
        };
        self.tally.add_sent(1, sent as u64, now);
        Ok(true)
    }

    /// Writes one message.
    fn write(&self, pieces: &mut [IoSlice<'_>], message_bytes: usize) -> io::Result<usize> {
        write_messages(&self.stream, self.desk, pieces, message_bytes)
    }
}

/// Writes messages of equal length, each in the same number of pieces; when halted, only the one on the wire is
/// finished (I1). Returns the bytes written.
fn write_messages(
    mut stream: &TcpStream,
    desk: &Desk,
    pieces: &mut [IoSlice<'_>],
    message_bytes: usize,
) -> io::Result<usize> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let per_message = pieces.len() / (total / message_bytes).max(1);
    let (mut sent, mut end, mut is_cut) = (0, total, false);
    let mut rest = pieces;
    while sent < end {
        if !is_cut && desk.is_halted() {
            if desk.is_ending() {
                return Ok(sent);
            }
            is_cut = true;
            end = sent.next_multiple_of(message_bytes);
            let unsent_messages = (total - end) / message_bytes;
            let kept = rest.len() - unsent_messages * per_message;
            rest = &mut rest[..kept];
            continue;
        }
        match stream.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => {
                sent += bytes;
                IoSlice::advance_slices(&mut rest, bytes);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut if desk.is_client_here() => {}
                ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(sent)
}
