//! Reducer threads: from the live queue into the live images, at low priority.
//!
//! # Place in the path
//! Second hop of the live branch. A reducer owns one [`Reducer`] per running link; per-frame values are merged into the
//! board after every block, patterns every [`PATTERN_INTERVAL`] and whenever the queue runs dry.
//!
//! # Invariants
//! - I1: when every thread has answered a [`Flush`], all blocks that were in the queue before it are merged, and no
//!   thread holds anything of that acquisition. Each thread reduces as many blocks as the queue held when it saw the
//!   flush, or until the queue is empty; a block taken by another thread is merged before that thread answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::reduce::{Decoder, Partial, Patterns, Reducer};
use ronchi_pipeline::{Block, LinkCounters, Series};
use ronchi_sinks::live::Board;
use ronchi_sinks::priority::stand_back;

use crate::acquisitions::Acquisitions;
use crate::pictures::Images;
use crate::process;

/// Longest time a sum or maximum pattern stays in a busy reducer.
const PATTERN_INTERVAL: Duration = Duration::from_millis(100);
/// A queue without blocks for this long lets a reducer hand its patterns over.
const IDLE: Duration = Duration::from_millis(10);

/// Asks a reducer to hand over everything of an acquisition.
struct Flush {
    acquisition: [u8; 16],
    done: Sender<()>,
}

/// What reducers share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Where to find reduce plans.
    pub acquisitions: Arc<Acquisitions>,
    /// Where results go.
    pub board: Arc<Board>,
    /// Whether frames can be recorded at the same time.
    pub(crate) is_recording: bool,
    /// Counters of each link.
    pub counters: Vec<Arc<LinkCounters>>,
}

/// The reducer threads of a receiver; they end when the live queue is closed and empty.
pub(crate) struct Reducers {
    flush: Flusher,
    threads: Vec<JoinHandle<()>>,
}

/// Asks all reducers to hand over what they have. They live for as long as somebody could ask.
#[derive(Clone)]
pub(crate) struct Flusher(Vec<Sender<Flush>>);

impl Flusher {
    /// Waits until every block queued so far is merged and no reducer holds anything of this acquisition.
    pub(crate) fn flush(&self, acquisition: [u8; 16]) {
        let (done, answers) = bounded(self.0.len());
        for worker in &self.0 {
            let _ = worker.send(Flush { acquisition, done: done.clone() }); // A thread that has ended holds nothing.
        }
        drop(done);
        while answers.recv().is_ok() {}
    }
}

impl Reducers {
    /// Starts `count` threads on one queue.
    pub(crate) fn start(count: u32, live: &Receiver<Block>, shared: &Shared) -> std::io::Result<Self> {
        let (mut flush, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (sender, flushes) = bounded(4);
            let worker = Worker { live: live.clone(), flushes, shared: shared.clone(), reducers: HashMap::new() };
            flush.push(sender);
            let guard = shared.board.watch("reducer");
            let thread = std::thread::Builder::new().name(format!("reduce-{number}"));
            threads.push(thread.spawn(move || {
                let _guard = guard;
                worker.run();
            })?);
        }
        Ok(Self { flush: Flusher(flush), threads })
    }

    /// What waits for them.
    pub(crate) fn flusher(&self) -> &Flusher {
        &self.flush
    }

    /// Waits for the threads to end; the live queue must be closed.
    pub(crate) fn join(self) {
        drop(self.flush); // No more flushes: a thread whose queue is closed may end.
        for thread in self.threads {
            let _ = thread.join(); // The board knows of a panic.
        }
    }
}

impl Shared {
    /// Frames came compressed and do not decode. Of a recording the writer counts them, which looks at every frame.
    fn note_damaged(&self, series: &Series, counters: &LinkCounters, count: u64) {
        if count == 0 || series.is_recorded {
            return;
        }
        let before = counters.damaged_frames.fetch_add(count, Ordering::Relaxed);
        if (before + 1).next_power_of_two() <= before + count {
            let (name, link) = (&series.name, series.link);
            tracing::error!(name, link, count = before + count, "frames do not decode, and are not reduced");
        }
    }
}

struct Running {
    reducer: Reducer,
    decoder: Decoder,
    patterns_since: Option<Instant>,
    /// Changes of the list of reductions that its plan knows.
    changes: u64,
}

struct Worker {
    live: Receiver<Block>,
    flushes: Receiver<Flush>,
    shared: Shared,
    reducers: HashMap<([u8; 16], u32), Running>,
}

impl Worker {
    fn run(mut self) {
        if self.shared.is_recording {
            process::run_when_idle();
        } else {
            stand_back(); // Nothing is reduced later: the receive thread waits for what is starved here.
        }
        let (live, flushes) = (self.live.clone(), self.flushes.clone());
        loop {
            select! {
                recv(live) -> block => match block {
                    Ok(block) => self.reduce(block),
                    Err(_) => break,
                },
                recv(flushes) -> flush => if let Ok(flush) = flush { self.flush(&flush) },
                default(IDLE) => self.hand_over_patterns(Duration::ZERO),
            }
        }
        // The queue is closed; flushes may still come until the receiver lets go of us.
        for flush in flushes {
            self.flush(&flush);
        }
        self.hand_over_patterns(Duration::ZERO);
    }

    fn reduce(&mut self, block: Block) {
        fault::pass(Stage::Reduce);
        let series = Arc::clone(block.series());
        let key = (series.acquisition, series.link);
        let frame_count = u64::from(block.present_count());
        if let Some(running) = self.running(key) {
            let Running { reducer, decoder, .. } = running;
            let damaged_count = decoder.each(&block, |frames| {
                reducer.reduce(frames);
            });
            running.patterns_since.get_or_insert_with(Instant::now);
            let partial = running.reducer.take();
            drop(block); // The slot goes home before the merge.
            merge(&self.shared.board, key, &partial);
            if let Some(counters) = self.shared.counters.get(key.1 as usize) {
                LinkCounters::add(&counters.reduced_frames, frame_count - damaged_count);
                self.shared.note_damaged(&series, counters, damaged_count);
            }
        }
        self.hand_over_patterns(PATTERN_INTERVAL);
    }

    /// The reducer of a link, by the plan in force.
    fn running(&mut self, key: ([u8; 16], u32)) -> Option<&mut Running> {
        let changes = self.shared.acquisitions.changes();
        let is_known = self.reducers.get(&key).is_some_and(|running| running.changes == changes);
        if !is_known {
            let plan = self.shared.acquisitions.find(&key.0)?.reduce_plan(key.1)?;
            if let Some(mut before) = self.reducers.remove(&key) {
                merge_patterns(&self.shared.board, key, &before.reducer.take_patterns());
            }
            let (reducer, decoder) = (Reducer::new(plan), Decoder::default());
            self.reducers.insert(key, Running { reducer, decoder, patterns_since: None, changes });
        }
        self.reducers.get_mut(&key)
    }

    /// Merges patterns that have been held for at least `age`.
    fn hand_over_patterns(&mut self, age: Duration) {
        let board = Arc::clone(&self.shared.board);
        for (key, running) in &mut self.reducers {
            if running.patterns_since.is_some_and(|since| since.elapsed() >= age) {
                running.patterns_since = None;
                merge_patterns(&board, *key, &running.reducer.take_patterns());
            }
        }
    }

    fn flush(&mut self, flush: &Flush) {
        for _ in 0..self.live.len() {
            let Ok(block) = self.live.try_recv() else { break };
            self.reduce(block);
        }
        self.hand_over_patterns(Duration::ZERO);
        self.reducers.retain(|key, _| key.0 != flush.acquisition); // I1
        let _ = flush.done.send(());
    }
}

/// Merges a partial into the live images on the board.
pub(crate) fn merge(board: &Board, (acquisition, link): ([u8; 16], u32), partial: &Partial) {
    board.update_id(&acquisition, |shown| {
        if let Some(images) = shown.pictures_mut::<Images>() {
            images.merge(link, partial);
        }
        if let (false, Some(&last)) = (shown.recording, partial.frames().last()) {
            shown.watermarks.get(link as usize).into_iter().for_each(|tile| tile.raise_visible(last + 1));
        }
    });
}

/// Merges patterns into the live images on the board.
pub(crate) fn merge_patterns(board: &Board, (acquisition, link): ([u8; 16], u32), patterns: &Patterns) {
    board.update_id(&acquisition, |shown| {
        if let Some(images) = shown.pictures_mut::<Images>() {
            images.merge_patterns(link, patterns);
        }
    });
}
