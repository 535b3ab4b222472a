//! The receive loop, once for all protocols: series after series, block after block.
//!
//! # Place in the path
//! One thread per link runs [`receive`]. It takes slots from the pool, lets the [`Source`] fill them, seals blocks and
//! hands them to the [`FanOut`]. One hop from the wire to the writer, one to the reducers.
//!
//! # Invariants
//! - I1: every frame of a series is, at its end, received once or listed in exactly one gap.
//! - I2: at most one slot per link is being filled.
//! - I3: a block with frames in it is sealed when full, at the next pause after `seal_after`, when a frame belongs
//!   elsewhere, and at the end of the series.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::{
    Announcement, BlockMut, End, EndReason, FanOut, FrameIndex, GapReason, LinkCounters, Pool, Series, Slot, WriterGone,
};

use crate::filling::{Arrivals, Filling};
use crate::source::{Begin, Fill, Source, SourceError};

/// How often a waiting loop looks at the stop flag.
const POLL: Duration = Duration::from_millis(50);

/// What the loop needs beside its source.
pub struct Link<'a> {
    /// Number of the link, from 0.
    pub id: u32,
    /// Where buffers come from; shared with other links.
    pub pool: Pool,
    /// Where sealed blocks go.
    pub fan_out: FanOut,
    /// A block with frames is not kept longer than this.
    pub seal_after: Duration,
    /// Set to end the running series and return.
    pub stop: &'a AtomicBool,
}

/// Gives a series its identity and hears of its end; shared by all links.
pub trait Register: Sync {
    /// A source announced a series: the data set it belongs to, and the sizes in force. An error refuses the series.
    fn begin(&self, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused>;

    /// The series has ended on this link: all its blocks were handed on.
    fn end(&self, link: u32, end: Arc<End>);

    /// Whether this series is to end now, while the loop goes on. Asked once per block.
    fn is_cut(&self, _series: &Series) -> bool {
        false
    }

    /// Whether the source is to be left alone for now: no series is waited for.
    fn is_resting(&self, _link: u32) -> bool {
        false
    }
}

/// Why a series cannot be received.
#[derive(Debug, thiserror::Error)]
#[error("series refused: {reason}")]
pub struct Refused {
    /// What does not fit, with both values.
    pub reason: String,
    /// Where it should go is taken: by an earlier data set, or by another receiver that writes there now.
    pub is_taken: bool,
}

/// Why the loop ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// A series cannot be received.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nothing more can be recorded.
    #[error(transparent)]
    WriterGone(#[from] WriterGone),
    /// The detector will not do what is asked of it.
    #[error(transparent)]
    Detector(SourceError),
}

/// Receives series until `stop` is set or `series_max` have ended; returns how many did. A refused series, or a detector that
/// refuses what is asked of it, ends the loop when a number of series is waited for; otherwise it is logged and skipped.
///
/// A lost connection ends the series and is not an error: the source connects again.
pub fn receive(
    source: &mut dyn Source,
    link: &Link<'_>,
    register: &dyn Register,
    series_max: Option<u64>,
) -> Result<u64, ReceiveError> {
    let mut series_count = 0;
    let mut last_error = String::new();
    while !link.is_stopped() && series_max.is_none_or(|max| series_count < max) {
        if register.is_resting(link.id) {
            std::thread::sleep(POLL);
            continue;
        }
        match source.begin(Instant::now() + POLL) {
            Ok(Begin::Waiting) => {}
            Ok(Begin::Series(announced)) => {
                last_error.clear();
                let series = match register.begin(link.id, *announced) {
                    Ok(series) => series,
                    Err(refused) if series_max.is_none() => {
                        // The source skips its frames when it is asked to begin again; later series are welcome.
                        tracing::error!(link = link.id, "{refused}");
                        continue;
                    }
                    Err(refused) => return Err(refused.into()),
                };
                LinkCounters::add(&link.fan_out.counters.series, 1);
                let end = receive_series(source, link, register, series)?;
                let is_cut = register.is_cut(&end.series);
                register.end(link.id, end);
                if is_cut {
                    stop(source, link.id);
                }
                series_count += 1;
            }
            Err(error) if series_max.is_some() && error.is_refusal() => return Err(ReceiveError::Detector(error)),
            Err(error) => {
                let message = error.to_string();
                if message != last_error {
                    tracing::warn!(link = link.id, "{message}; trying again"); // Once per outage, not per attempt.
                    last_error = message;
                }
                std::thread::sleep(POLL);
            }
        }
    }
    if link.is_stopped() {
        stop(source, link.id);
    }
    Ok(series_count)
}

/// Tells a detector that was started from here to stop.
fn stop(source: &mut dyn Source, link: u32) {
    if let Err(error) = source.stop() {
        tracing::warn!(link, "{error}; the detector may still be acquiring");
    }
}

impl Link<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A free slot; waits for one as long as it takes, since raw data may wait but not be dropped.
    fn slot(&self) -> Slot {
        if let Some(slot) = self.pool.take(Duration::ZERO) {
            return slot;
        }
        let started = Instant::now();
        loop {
            if let Some(slot) = self.pool.take(POLL) {
                self.count_wait(started);
                return slot;
            }
        }
    }

    fn open(&self, series: &Arc<Series>, first: FrameIndex) -> BlockMut {
        BlockMut::new(self.slot(), Arc::clone(series), first)
    }

    /// Where blocks of this series go: without recording, the writer is left out.
    fn fan_out_of(&self, series: &Series) -> FanOut {
        let raw = self.fan_out.raw.clone().filter(|_| series.is_recorded);
        FanOut { raw, ..self.fan_out.clone() }
    }

    fn hand_on(&self, fan_out: &FanOut, block: BlockMut) -> Result<(), WriterGone> {
        let Some(block) = block.seal() else { return Ok(()) };
        fault::pass(Stage::Receive);
        let started = Instant::now();
        let result = fan_out.block(block);
        self.count_wait(started);
        result
    }

    fn count_wait(&self, started: Instant) {
        LinkCounters::add(&self.fan_out.counters.waited_ns, started.elapsed().as_nanos() as u64);
    }
}

fn receive_series(
    source: &mut dyn Source,
    link: &Link<'_>,
    register: &dyn Register,
    series: Arc<Series>,
) -> Result<Arc<End>, WriterGone> {
    let fan_out = link.fan_out_of(&series);
    fan_out.begin(&series)?;
    let counters = Arc::clone(&link.fan_out.counters);
    let mut arrivals = Arrivals::new(series.announced.frame_count);
    let mut block = link.open(&series, 0);
    let reason = loop {
        let deadline = Instant::now() + link.seal_after;
        let mut filling = Filling { block: &mut block, arrivals: &mut arrivals, counters: &counters };
        let next = match source.fill(&mut filling, deadline) {
            Ok(Fill::End(reason)) => break reason,
            Ok(_) if link.is_stopped() || register.is_cut(&series) => break EndReason::Interrupted,
            Ok(Fill::Paused) if block.present_count() == 0 => continue,
            Ok(Fill::Paused | Fill::Full) => arrivals.next(),
            Ok(Fill::Elsewhere(frame)) => frame,
            Err(error) => {
                tracing::error!(link = link.id, series = series.name, "{error}; the series ends here");
                break EndReason::Disconnected;
            }
        };
        link.hand_on(&fan_out, block)?;
        block = link.open(&series, next);
    };
    link.hand_on(&fan_out, block)?;
    let end = Arc::new(finish(series, reason, arrivals, &counters));
    fan_out.end(&end)?;
    Ok(end)
}

fn finish(series: Arc<Series>, reason: EndReason, arrivals: Arrivals, counters: &LinkCounters) -> End {
    let (frame_count, received_count, gaps) = arrivals.finish();
    assert_eq!(frame_count, received_count + gaps.frame_count(), "I1: every frame is received or a gap");
    let missing = gaps.by_reason().get(&GapReason::NeverArrived).copied().unwrap_or(0);
    LinkCounters::add(&counters.missing_frames, missing);
    if gaps.frame_count() > 0 && reason != EndReason::Interrupted {
        tracing::error!(series = series.name, gaps = gaps.frame_count(), of = frame_count, "frames are missing");
    }
    End { series, reason, frame_count, received_count, gaps }
}

#[cfg(test)]
mod tests;
