//! The finisher: what happens between the last block of an acquisition and its summary.
//!
//! # Place in the path
//! Behind it, in its own thread at the lowest priority: waits for the reducers, reduces from disk what the live queue
//! skipped, stores the results, closes the data set and says how it went.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::format::{DataSetState, Law};
use ronchi_pipeline::{EndReason, Gap, GapReason, Gaps, LinkCounters};
use ronchi_sinks::live::{Board, State};
use ronchi_sinks::storage::TileOutcome;

use crate::acquisitions::{Acquisition, Acquisitions, Part};
use crate::catch_up::{CatchUp, CatchUpThread};
use crate::pictures::{Ending, Images};
use crate::process;
use crate::receiver::StopOnPanic;
use crate::reducers::Reducers;
use crate::summary::{Counts, Frames as FrameCounts, Summary, TileLaw};

/// How often acquisitions are looked through for links that will not come.
const STALE_INTERVAL: Duration = Duration::from_secs(1);

/// What the finisher needs.
pub(crate) struct Finisher {
    /// Where acquisitions are forgotten.
    pub acquisitions: Arc<Acquisitions>,
    /// Where results and the end are shown.
    pub board: Arc<Board>,
    /// The reducer threads; they end with the finisher.
    pub reducers: Reducers,
    /// What is filled in, and how.
    pub catch_up: CatchUp,
    /// Does the same while acquisitions run; ends before the reducers.
    pub catching_up: CatchUpThread,
    /// Most bytes the receiver said it would use.
    pub ceiling_bytes: u64,
    /// Where summaries go.
    pub summaries: Sender<Summary>,
    /// Set to end the receiver.
    pub stop: Arc<AtomicBool>,
}

impl Finisher {
    /// Finishes acquisitions until no more can come.
    pub(crate) fn run(self, finishing: &Receiver<Arc<Acquisition>>) {
        process::run_when_idle();
        let _guard = self.board.watch("finisher");
        let _ends_all = StopOnPanic(Arc::clone(&self.stop));
        loop {
            self.end_wounded();
            let acquisition = match finishing.recv_timeout(STALE_INTERVAL) {
                Ok(acquisition) => acquisition,
                Err(RecvTimeoutError::Timeout) => {
                    self.acquisitions.finish_stale();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            fault::pass(Stage::Finish);
            let summary = self.finish(&acquisition);
            self.acquisitions.forget(&acquisition.id);
            let _ = self.summaries.send(summary); // A receiver that does not care for summaries has dropped the other end.
        }
        drop(self.catching_up); // It can flush the reducers, so it ends before them.
        self.reducers.join();
    }

    /// Ends the receiver when a stage has panicked that no recording needs, once none is running.
    fn end_wounded(&self) {
        if !self.board.fallen().is_empty() && self.acquisitions.is_idle() {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn finish(&self, acquisition: &Acquisition) -> Summary {
        let parts = acquisition.parts();
        self.reducers.flusher().flush(acquisition.id);
        let stored = parts.iter().filter_map(|part| part.stored).max().unwrap_or_else(Instant::now);
        let mut errors: Vec<String> = parts.iter().filter_map(|part| part.tile.as_ref()?.error.clone()).collect();
        let backfilled = self.backfill(acquisition, &parts).unwrap_or_else(|error| {
            errors.push(format!("reducing from disk failed: {error}"));
            0
        });
        let frame_count = frame_count(&parts);
        let gaps = gaps(&parts, acquisition.link_count(), frame_count);
        if let Err(error) = self.store_results(acquisition) {
            errors.push(format!("storing results failed: {error}"));
        }
        errors.extend(self.panics(&parts));
        let mut state = state(&parts, acquisition, &errors);
        if is_abandoned(acquisition, &parts) {
            errors
                .push("the writer died: what it left is as after a crash, and `ronchi repair` finishes it".to_owned());
        } else if let Err(error) = close(acquisition, &parts, state, frame_count) {
            errors.push(format!("closing the data set failed: {error}"));
            state = State::Failed;
        }
        let violated = parts.iter().filter(|part| part.tile.as_ref().is_some_and(|tile| !tile.law.holds)).count();
        LinkCounters::add(&self.board.violated_laws, violated as u64);
        self.board.update_id(&acquisition.id, |shown| {
            shown.gaps = gaps.by_reason();
            shown.quality.dropped = 0;
            shown.quality.missing = gaps.frame_count();
            shown.end(state, std::time::SystemTime::now());
        });
        let seconds = stored.duration_since(acquisition.began).as_secs_f64();
        self.summary(acquisition, &parts, state, (&gaps, backfilled), (seconds, stored.elapsed().as_secs_f64()), errors)
    }

    /// What panics mean for an acquisition.
    fn panics(&self, parts: &[Part]) -> Vec<String> {
        let mut errors = Vec::new();
        if self.board.fallen().contains(&"reducer") {
            errors
                .push("a reducer panicked: sums and maxima may lack frames; the recording is not affected".to_owned());
        }
        if let Some(part) = parts.iter().find(|part| part.end.is_none()) {
            errors.push(format!("the receive loop of link {} ended before the series did", part.series.link));
        }
        errors
    }

    /// Reduces frames that are on disk but not in the live images, then what needs whole images; returns how many frames.
    fn backfill(&self, acquisition: &Acquisition, parts: &[Part]) -> anyhow::Result<u64> {
        let _filling = acquisition.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for part in parts {
            let Some(tile) = &part.tile else { continue };
            count += self.catch_up.fill(acquisition, &part.series, tile.frame_count, Some(&tile.gaps), &|| false)?;
        }
        self.catch_up.derive(acquisition);
        Ok(count)
    }

    /// Frames that were received and do not decode; of a preview, as far as anything is reduced.
    fn not_decoded(&self, parts: &[Part]) -> u64 {
        let count = |part: &Part| match &part.tile {
            Some(tile) => tile.gaps.by_reason().get(&GapReason::Damaged).copied(),
            None => {
                let link = self.board.wiring.links.get(part.series.link as usize)?;
                Some(Counts::of(&link.counters).since(part.counts.0).damaged) // All blocks of it are reduced.
            }
        };
        parts.iter().filter_map(count).max().unwrap_or(0)
    }

    /// Results that have ended before the acquisition did.
    fn endings(&self, acquisition: &Acquisition) -> Vec<Ending> {
        let endings = |shown: &mut ronchi_sinks::live::Acquisition| {
            shown.pictures_mut().map(|images: &mut Images| images.endings()).unwrap_or_default()
        };
        self.board.update_id(&acquisition.id, endings).unwrap_or_default()
    }

    fn store_results(&self, acquisition: &Acquisition) -> anyhow::Result<()> {
        let Some(data_set) = &acquisition.data_set else { return Ok(()) };
        let results = self
            .board
            .update_id(&acquisition.id, |shown| shown.pictures_mut().map(|images: &mut Images| images.stored()));
        let results = results.flatten().context("the live images are gone: too many series began at once")?;
        Ok(data_set.write_results(results)?)
    }

    fn summary(
        &self,
        acquisition: &Acquisition,
        parts: &[Part],
        state: State,
        (gaps, backfilled): (&Gaps, u64),
        (seconds, finish_s): (f64, f64),
        errors: Vec<String>,
    ) -> Summary {
        let ends: Vec<_> = parts.iter().filter_map(|part| part.end.as_ref()).collect();
        let frame_count = frame_count(parts);
        let frame_bytes: u64 = parts.iter().map(|part| part.series.layout.frame_bytes).sum();
        let counts = parts.iter().filter_map(|part| Some(part.counts.1?.since(part.counts.0)));
        let counts = counts.fold(Counts::default(), Counts::plus);
        let is_whole = parts.len() == acquisition.link_count();
        let received = ends.iter().map(|end| end.received_count).min().filter(|_| is_whole).unwrap_or(0);
        let durable = parts
            .iter()
            .filter_map(|part| part.tile.as_ref())
            .map(|tile| tile.durable_count)
            .min()
            .filter(|_| is_whole);
        let laws = parts.iter().filter_map(|part| part.tile.as_ref());
        let laws: Vec<_> = laws.map(|end| TileLaw { tile: end.series.link, law: end.law.clone() }).collect();
        Summary {
            dataset: acquisition.data_set.as_ref().map(|data_set| data_set.path().to_owned()),
            name: acquisition.name.clone(),
            state: state.word(),
            frames: FrameCounts {
                announced: frame_count,
                received,
                durable: durable.unwrap_or(0),
                missing: gaps.frame_count(),
                dropped: counts.dropped,
                rejected: counts.rejected,
                damaged: self.not_decoded(parts),
                duplicate: counts.duplicate,
                unplaced: counts.unplaced,
                live_skipped: counts.live_skipped,
                backfilled,
            },
            gaps: gaps.iter().collect(),
            unsound: laws.iter().any(|tile| !tile.law.holds),
            law: laws,
            rates: crate::summary::Rates::new(received, received * frame_bytes, seconds),
            seconds,
            finish_s,
            cpu_s: process::cpu_s(),
            memory: process::Memory {
                ceiling_bytes: self.ceiling_bytes,
                resident_max_bytes: process::resident_max_bytes(),
            },
            writer: self.board.wiring.write_method.clone(),
            ended_results: self.endings(acquisition),
            errors,
        }
    }
}

fn stored_state(state: State) -> DataSetState {
    match state {
        State::Waiting | State::Running => DataSetState::Running,
        State::Complete => DataSetState::Complete,
        State::Interrupted => DataSetState::Interrupted,
        State::Failed => DataSetState::Failed,
    }
}

/// Whether the writer has died and left tiles of this acquisition as they were: nobody knows what of them is durable, and a
/// manifest that says so would take away what is.
fn is_abandoned(acquisition: &Acquisition, parts: &[Part]) -> bool {
    acquisition.data_set.is_some() && parts.iter().any(|part| part.tile.is_none())
}

/// Closes the manifest: every link has its entry, also one that never came.
fn close(acquisition: &Acquisition, parts: &[Part], state: State, frame_count: u64) -> anyhow::Result<()> {
    let Some(data_set) = &acquisition.data_set else { return Ok(()) };
    let outcome = |link: u32| {
        let tile = parts.iter().filter(|part| part.series.link == link).find_map(|part| part.tile.as_ref());
        tile.map_or_else(
            || {
                let mut gaps = Gaps::default();
                gaps.insert(0..frame_count, GapReason::NeverArrived);
                let law = Law::check(frame_count, Some(0), 0, &gaps);
                TileOutcome { tile: link, frame_count, gaps, law }
            },
            |tile| tile.outcome(),
        )
    };
    let outcomes: Vec<_> = (0..acquisition.link_count() as u32).map(outcome).collect();
    Ok(data_set.finish(stored_state(state), &outcomes)?)
}

/// Frames of the acquisition: of the longest part.
fn frame_count(parts: &[Part]) -> u64 {
    parts.iter().map(part_frame_count).max().unwrap_or(0)
}

fn part_frame_count(part: &Part) -> u64 {
    part.end.as_ref().map_or(0, |end| end.frame_count)
}

/// Gaps of the whole frames: with one link its own, with several every frame that lacks a tile.
fn gaps(parts: &[Part], link_count: usize, frame_count: u64) -> Gaps {
    let of = |part: &Part| match (&part.tile, &part.end) {
        (Some(tile), _) => tile.gaps.clone(),
        (None, Some(end)) => end.gaps.clone(),
        (None, None) => Gaps::default(),
    };
    if let ([part], 1) = (parts, link_count) {
        return of(part);
    }
    let mut all = Gaps::default();
    for part in parts {
        for Gap { first, count, .. } in of(part).iter() {
            all.insert(first..first + count, GapReason::IncompleteTiles);
        }
        all.insert(part_frame_count(part)..frame_count, GapReason::IncompleteTiles);
    }
    if parts.len() < link_count {
        all.insert(0..frame_count, GapReason::IncompleteTiles);
    }
    all
}

fn state(parts: &[Part], acquisition: &Acquisition, errors: &[String]) -> State {
    let reasons: Vec<EndReason> = parts.iter().filter_map(|part| part.end.as_ref()).map(|end| end.reason).collect();
    let unstored = acquisition.data_set.is_some() && parts.iter().any(|part| part.tile.is_none());
    if !errors.is_empty() || unstored || reasons.contains(&EndReason::Failed) {
        State::Failed
    } else if reasons.len() < acquisition.link_count() || reasons.iter().any(|&reason| reason != EndReason::Complete) {
        State::Interrupted
    } else {
        State::Complete
    }
}
