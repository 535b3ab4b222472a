//! A DECTRIS stream whose detector is driven: armed for every series, disarmed behind it.
//!
//! # Place in the path
//! `DrivenSource` is a [`Source`] around the stream's: the stream is connected before the detector is armed, and no command is
//! waited for while frames come.
//!
//! # Invariants
//! - I1: one round of the control thread for each series, and none begins before the last one has disarmed the detector.
//! - I2: the end of a series is handed on when the detector has told what it dropped, or does not tell it in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use ronchi_pipeline::{Announcement, EndReason, LinkCounters};

use super::DectrisSource;
use super::control::{DriveSettings, Report, Round};
use crate::filling::Filling;
use crate::source::{Begin, Fill, Source, SourceError};

/// How long the end of a series waits for the number of dropped images.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(6);
/// How often the control thread is heard while the stream is silent.
const POLL: Duration = Duration::from_millis(20);
/// Pause after a detector could not be armed.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A DECTRIS stream with the detector that sends it, as a [`Source`].
pub struct DrivenSource {
    source: DectrisSource,
    settings: Arc<DriveSettings>,
    counters: Arc<LinkCounters>,
    stage: Stage,
    /// The newest round; it may still be disarming.
    round: Option<Round>,
    /// The numbers that the detector and its stream give the series.
    numbers: (Option<u64>, Option<u64>),
}

/// Where a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is none; the next one may be armed from this moment on.
    Idle { from: Instant },
    /// The detector is being armed, or waits for its first trigger.
    Armed,
    /// Frames come.
    Running,
    /// The stream has ended for this reason.
    Closing { reason: EndReason, until: Instant },
}

impl DrivenSource {
    /// A stream and how its detector is driven; connect the stream before it is armed.
    pub fn new(source: DectrisSource, settings: DriveSettings, counters: Arc<LinkCounters>) -> Self {
        let (settings, stage) = (Arc::new(settings), Stage::Idle { from: Instant::now() });
        Self { source, settings, counters, stage, round: None, numbers: (None, None) }
    }

    /// Begins a round, as soon as the last one is over.
    fn arm(&mut self) -> Result<(), SourceError> {
        let Stage::Idle { from } = self.stage else { return Ok(()) };
        if let Some(round) = &self.round {
            match round.report(Instant::now()) {
                Err(RecvTimeoutError::Disconnected) => self.round = None,
                Err(RecvTimeoutError::Timeout) | Ok(_) => return Ok(()),
            }
        }
        if Instant::now() < from {
            return Ok(());
        }
        self.source.open()?;
        let round = Round::start(Arc::clone(&self.settings), Arc::clone(&self.counters));
        self.round = Some(round.map_err(|source| self.lost(source))?);
        (self.stage, self.numbers) = (Stage::Armed, (None, None));
        Ok(())
    }

    /// Hears what the round has to tell; an error ends it while no frames come.
    fn hear(&mut self) -> Result<(), SourceError> {
        let Some(round) = self.round.as_ref().filter(|_| matches!(self.stage, Stage::Armed | Stage::Running)) else {
            return Ok(());
        };
        let error = match round.report(Instant::now()) {
            Ok(Report::Armed(number)) => {
                self.numbers.0 = number;
                self.compare_numbers();
                return Ok(());
            }
            Ok(Report::Closed) | Err(RecvTimeoutError::Timeout) => return Ok(()),
            Ok(Report::Failed(error)) => error,
            Err(RecvTimeoutError::Disconnected) if self.stage == Stage::Running => return Ok(()), // Told before.
            Err(RecvTimeoutError::Disconnected) => self.lost(std::io::Error::other("the control thread has ended")),
        };
        if self.stage == Stage::Running {
            tracing::error!("{error}; the stream tells what was taken");
            return Ok(());
        }
        self.stage = Stage::Idle { from: Instant::now() + RETRY_PAUSE };
        Err(error)
    }

    fn lost(&self, source: std::io::Error) -> SourceError {
        SourceError::Lost { address: self.settings.host.clone(), source }
    }

    /// A series whose detector was armed for it; one that came before is the rest of an earlier run, and is left alone.
    fn begun(&mut self, announced: &Announcement) -> bool {
        let is_ours = self.stage == Stage::Armed && self.round.as_ref().is_some_and(Round::may_have_begun);
        if is_ours {
            self.stage = Stage::Running;
            self.numbers.1 = number_of(announced);
            self.compare_numbers();
        } else {
            tracing::warn!(series = announced.series_id, "a series that nobody armed here is left alone");
        }
        is_ours
    }

    /// Some simulators answer with a number that is not the series'.
    fn compare_numbers(&mut self) {
        if let (Some(armed), Some(streamed)) = self.numbers
            && armed != streamed
        {
            tracing::warn!("the detector was armed for series {armed}, its stream brings series {streamed}");
        }
    }

    /// The end of a series, once the detector has told what it dropped (I2).
    fn close(&mut self, reason: EndReason, until: Instant, deadline: Instant) -> Fill {
        let Some(round) = &self.round else { return self.closed(reason) };
        match round.report(deadline.min(until)) {
            Ok(Report::Armed(_)) => Fill::Paused, // The series was shorter than its own arming.
            Err(RecvTimeoutError::Timeout) if Instant::now() < until => Fill::Paused,
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the detector does not answer: how many images it dropped is not known");
                self.closed(reason)
            }
            Ok(Report::Failed(error)) => {
                tracing::error!("{error}");
                self.closed(reason)
            }
            Ok(Report::Closed) | Err(RecvTimeoutError::Disconnected) => self.closed(reason),
        }
    }

    fn closed(&mut self, reason: EndReason) -> Fill {
        self.stage = Stage::Idle { from: Instant::now() };
        Fill::End(reason)
    }

    /// Leaves the detector disarmed.
    fn release(&mut self) -> Result<(), SourceError> {
        self.stage = Stage::Idle { from: Instant::now() };
        self.round.take().map_or(Ok(()), |round| round.give_up())
    }
}

impl Source for DrivenSource {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        if !matches!(self.stage, Stage::Idle { .. } | Stage::Armed) {
            self.release()?; // The loop gave its series up.
        }
        loop {
            self.arm()?;
            self.hear()?;
            match self.source.begin(deadline.min(Instant::now() + POLL))? {
                Begin::Series(announced) if self.begun(&announced) => return Ok(Begin::Series(announced)),
                _ if Instant::now() >= deadline => return Ok(Begin::Waiting),
                _ => {}
            }
        }
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        if let Stage::Closing { reason, until } = self.stage {
            return Ok(self.close(reason, until, deadline));
        }
        self.hear()?;
        match self.source.fill(filling, deadline)? {
            Fill::End(reason) => {
                self.round.iter().for_each(Round::end);
                let until = Instant::now() + CLOSING_TIME_MAX;
                self.stage = Stage::Closing { reason, until };
                Ok(self.close(reason, until, deadline))
            }
            fill => Ok(fill),
        }
    }

    fn stop(&mut self) -> Result<(), SourceError> {
        self.release()
    }
}

impl Drop for DrivenSource {
    /// Also when the receive loop fails or panics.
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!("{error}; the detector may still be armed");
        }
    }
}

/// The number of a series whose name is another; STREAM2 tells it in its start.
fn number_of(announced: &Announcement) -> Option<u64> {
    let named = || serde_json::from_str::<serde_json::Value>(&announced.vendor_header).ok()?.get("series_id")?.as_u64();
    announced.series_id.parse().ok().or_else(named)
}
