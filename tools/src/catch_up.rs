//! Catching up: what the live path leaves for later, from disk and beside the board.
//!
//! # Place in the path
//! Its own thread, at the lowest priority, while acquisitions run: reduces frames from disk that some result has not seen
//! (after a change of the list of reductions, or because the live queue skipped them), and computes results that need
//! whole other results. The finisher does the same once more at the end, by the same functions.
//!
//! # Invariants
//! - I1: no frame enters a pattern twice. Frames are taken from disk below the visible watermark as it was *before* the
//!   reducers answered a flush: a block is offered to the live queue before it can be written, so by then each of these
//!   frames was reduced live and merged, or is a hole. `Acquisition::filling` keeps the finisher out meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer};
use ronchi_pipeline::{FrameIndex, Gaps, LinkCounters, Series};
use ronchi_sinks::live::Board;
use ronchi_sinks::storage::{Access, ReadPlan, Reader, Runs};

use crate::acquisitions::{Acquisition, Acquisitions};
use crate::pictures::{Ending, Images};
use crate::process;
use crate::reducers::{Flusher, merge, merge_patterns};

/// How often running acquisitions are looked through.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time between two passes over an acquisition whose list of reductions has not changed: a pass costs a flush.
const PAUSE: Duration = Duration::from_secs(1);
/// Frames that the live queue skipped are caught up with when so many more are missing.
const SKIPPED_MIN: u64 = 4096;

/// Where frames and results are.
#[derive(Clone)]
pub(crate) struct CatchUp {
    /// Which acquisitions run.
    pub acquisitions: Arc<Acquisitions>,
    /// Where results go.
    pub board: Arc<Board>,
    /// Counters of each link.
    pub counters: Vec<Arc<LinkCounters>>,
}

/// The running thread; dropping it ends it after the run of frames that it is at.
pub(crate) struct CatchUpThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CatchUpThread {
    /// Starts it.
    pub(crate) fn start(catch_up: CatchUp, flusher: Flusher) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let guard = catch_up.board.watch("catch-up");
        let run = move || {
            let _guard = guard;
            process::run_when_idle();
            catch_up.run(&flusher, &stopped);
        };
        let thread = std::thread::Builder::new().name("catch-up".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for CatchUpThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join(); // The board knows of a panic; results are completed at the end all the same.
        }
    }
}

/// How an acquisition was after the last pass over it.
#[derive(Clone, Copy)]
struct Pass {
    generation: u32,
    missing: u64,
    when: Instant,
}

impl CatchUp {
    fn run(&self, flusher: &Flusher, stop: &AtomicBool) {
        let mut passes: HashMap<[u8; 16], Pass> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            let running = self.acquisitions.all_running();
            passes.retain(|id, _| running.iter().any(|acquisition| acquisition.id == *id));
            for acquisition in running {
                self.derive(&acquisition);
                let before = passes.get(&acquisition.id).copied();
                if self.pass(&acquisition, before, flusher, stop) {
                    let (generation, missing) = self.missing(&acquisition);
                    passes.insert(acquisition.id, Pass { generation, missing, when: Instant::now() });
                }
            }
            std::thread::park_timeout(INTERVAL);
        }
    }

    /// Fills what is worth filling in a running acquisition; whether there was anything.
    fn pass(&self, acquisition: &Acquisition, before: Option<Pass>, flusher: &Flusher, stop: &AtomicBool) -> bool {
        let is_over = || acquisition.is_finishing() || stop.load(Ordering::Relaxed);
        let Some(data_set) = acquisition.data_set.as_ref().filter(|_| !is_over()) else { return false };
        let visible: Vec<FrameIndex> = data_set.watermarks().iter().map(|marks| marks.visible()).collect();
        let (generation, missing) = self.missing(acquisition);
        let (known, is_early, is_changed) = before.map_or((0, false, generation > 0), |pass| {
            (pass.missing, pass.when.elapsed() < PAUSE, pass.generation != generation)
        });
        let enough = if generation == 0 { known + SKIPPED_MIN } else { known + 1 };
        if missing == 0 || !is_changed && (is_early || missing < enough) {
            return false;
        }
        let _filling = acquisition.filling.lock().unwrap_or_else(PoisonError::into_inner);
        flusher.flush(acquisition.id); // I1
        for part in acquisition.parts() {
            let end = visible.get(part.series.link as usize).copied().unwrap_or(0);
            if let Err(error) = self.fill(acquisition, &part.series, end, None, &is_over) {
                tracing::warn!("catching up from disk is left to the end of the series: {error:#}");
            }
        }
        true
    }

    /// Changes of the list of reductions, and frames on disk that are missing in some result, of the link that lacks most.
    fn missing(&self, acquisition: &Acquisition) -> (u32, u64) {
        let Some(data_set) = &acquisition.data_set else { return (0, 0) };
        let visible: Vec<FrameIndex> = data_set.watermarks().iter().map(|marks| marks.visible()).collect();
        let links: Vec<u32> = acquisition.parts().iter().map(|part| part.series.link).collect();
        let looked = self.board.update_id(&acquisition.id, |shown| {
            let images = shown.pictures_mut::<Images>()?;
            let missing = |&link: &u32| images.missing_count(link, visible.get(link as usize).copied().unwrap_or(0));
            Some((images.generation(), links.iter().map(missing).max().unwrap_or(0)))
        });
        looked.flatten().unwrap_or((0, 0))
    }

    /// Reduces frames below `end` from disk that are missing in some results of a link; returns how many. `gaps` are
    /// frames known not to be there; without them the frame table is asked. Stops early when told.
    pub(crate) fn fill(
        &self,
        acquisition: &Acquisition,
        series: &Series,
        end: FrameIndex,
        gaps: Option<&Gaps>,
        is_over: &dyn Fn() -> bool,
    ) -> anyhow::Result<u64> {
        let Some(data_set) = &acquisition.data_set else { return Ok(0) };
        let holes = self.board.update_id(&acquisition.id, |shown| {
            shown.pictures_mut().map(|images: &mut Images| images.holes(series.link, end))
        });
        let holes = holes.flatten().context("the live images are gone")?;
        if holes.is_empty() {
            return Ok(0);
        }
        let reader = Reader::open(data_set.path())?;
        // Read around the page cache: nobody else has asked for these frames, and a mapping could end the receiver. The
        // checksums were taken by this process a moment ago.
        let plan = ReadPlan { access: Access::Direct, verify: false, gaps: gaps.cloned() };
        let mut runs = reader.runs(series.link, 0..0, &plan)?;
        let mut count = 0;
        for (ranges, plan) in holes {
            let mut reducer = Reducer::new(Arc::<ReducePlan>::new(plan));
            for range in ranges {
                if is_over() {
                    break;
                }
                runs.restart(range);
                count += self.reduce(acquisition, series, &mut runs, &mut reducer, is_over)?;
            }
            merge_patterns(&self.board, (acquisition.id, series.link), &reducer.take_patterns());
        }
        Ok(count)
    }

    fn reduce(
        &self,
        acquisition: &Acquisition,
        series: &Series,
        runs: &mut Runs,
        reducer: &mut Reducer,
        is_over: &dyn Fn() -> bool,
    ) -> anyhow::Result<u64> {
        let mut count = 0;
        while let Some(run) = runs.next_run()? {
            if let Some(error) = run.error {
                return Err(error.into());
            }
            if run.bytes.is_empty() {
                continue; // Nothing there to reduce.
            }
            let announced = &series.announced;
            let frames = Frames::new(run.frames.start, run.bytes, announced.pixel, announced.region)?;
            count += reducer.reduce(&frames.with_flags(run.flags)?);
            merge(&self.board, (acquisition.id, series.link), &reducer.take());
            if is_over() {
                break;
            }
        }
        if let Some(counters) = self.counters.get(series.link as usize) {
            LinkCounters::add(&counters.backfilled_frames, count);
            LinkCounters::add(&counters.reduced_frames, count);
        }
        Ok(count)
    }

    /// Computes what needs whole other results and is older than those, and tells of results that have ended.
    pub(crate) fn derive(&self, acquisition: &Acquisition) {
        let images = |shown: &mut ronchi_sinks::live::Acquisition| {
            shown.pictures_mut().map(|images: &mut Images| images.derivations()).unwrap_or_default()
        };
        for derivation in self.board.update_id(&acquisition.id, images).unwrap_or_default() {
            let derived = derivation.run();
            self.board.update_id(&acquisition.id, |shown| {
                if let Some(images) = shown.pictures_mut::<Images>() {
                    images.put(derived);
                }
            });
        }
        let endings = self.board.update_id(&acquisition.id, |shown| {
            shown.pictures_mut().map(|images: &mut Images| images.new_endings()).unwrap_or_default()
        });
        for Ending { name, reason } in endings.unwrap_or_default() {
            tracing::error!("result {name} of {} has ended: {reason}", acquisition.name);
        }
    }
}
