//! The threads of `ronchi reprocess`: each reads its own share of the frames and reduces it.
//!
//! # Invariants
//! - I1: every frame of the work goes to one thread. What comes out does not depend on which: sums are exact, and merging
//!   is order-free.
//! - I2: a frame is in the patterns if and only if its values are in the images, also when the work is stopped or fails.
//!
//! # Limits
//! Per thread and tile: what a reader holds (69 MiB where it reads around the page cache), one set of patterns, and the
//! values of [`MERGE_FRAMES`] frames and a chunk.
//!
//! # Why this way
//! One reader that feeds the others would hand every pixel from one core's cache to another's; shares cost a lock each.
//! They are small and taken in order, so that all threads read near the same place, which disks and the kernel's
//! reading ahead like better than many.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use indicatif::ProgressBar;
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer};
use ronchi_pipeline::{FrameFlag, FrameIndex, Layout};
use ronchi_sinks::storage::{Access, ReadPlan, Reader, Run, Runs};

use crate::pictures::{Ending, Images};
use crate::process;

/// Largest share of the work, in bytes: as much as a reader has in flight; while one thread begins a share, the reads of
/// the others keep the disk busy.
const SHARE_BYTES_MAX: u64 = 64 << 20;
/// Smallest one, when little is left: that much is reduced in about a millisecond.
const SHARE_BYTES_MIN: u64 = 8 << 20;
/// Values of so many frames are merged at once.
const MERGE_FRAMES: u64 = 4096;
/// Most messages about damaged frames that are kept.
const ERRORS_MAX: usize = 20;

/// One tile that is reduced.
pub(super) struct Tile {
    /// Its id in the data set.
    pub id: u32,
    /// Its number among the regions of the images.
    pub link: u32,
    /// How its frames are reduced.
    pub plan: Arc<ReducePlan>,
}

/// Consecutive frames of one tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Number of the tile in the list of tiles.
    pub tile: usize,
    /// Which frames.
    pub frames: Range<FrameIndex>,
}

/// How the work is done.
pub(super) struct WorkPlan {
    /// Most threads.
    pub threads: usize,
    /// How pixels come from the disk.
    pub access: Access,
    /// Compare checksums.
    pub verify: bool,
    /// Stand back behind a receiver that writes what is read here.
    pub is_idle: bool,
    /// Set from outside: end soon.
    pub stop: Arc<AtomicBool>,
}

/// What came of the frames of all tiles; a frame of several tiles counts once for each.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Not there: lost when they were recorded, or without pixels.
    pub missing: AtomicU64,
    /// Were there, and cannot be read, or are not what was written.
    pub damaged: AtomicU64,
    /// Whose checksum was compared.
    pub verified: AtomicU64,
    /// Of pixels that were read.
    pub bytes: AtomicU64,
}

/// Reduces frames on several threads.
pub(super) struct Workers {
    tiles: Vec<Tile>,
    hands: Vec<Hand>,
    shared: Shared,
}

/// What the threads share.
struct Shared {
    plan: WorkPlan,
    images: Mutex<Images>,
    counts: Counts,
    errors: Mutex<Vec<String>>,
    bar: ProgressBar,
    has_failed: AtomicBool,
}

/// What one thread keeps from share to share: a reader and a reducer per tile.
#[derive(Default)]
struct Hand {
    open: Vec<Option<Open>>,
}

struct Open {
    runs: Runs,
    reducer: Reducer,
    /// Frames whose values have not been merged.
    held: u64,
}

/// Work that no thread has taken.
struct Left {
    pieces: VecDeque<(Work, Layout)>,
    threads: u64,
}

impl Workers {
    /// Threads that have not begun; results go to `images`, bytes to `bar`.
    pub(super) fn new(tiles: Vec<Tile>, images: Images, plan: WorkPlan, bar: ProgressBar) -> Self {
        let hands = (0..plan.threads.max(1)).map(|_| Hand { open: tiles.iter().map(|_| None).collect() }).collect();
        let shared = Shared {
            plan,
            images: Mutex::new(images),
            counts: Counts::default(),
            errors: Mutex::default(),
            bar,
            has_failed: AtomicBool::new(false),
        };
        Self { tiles, hands, shared }
    }

    /// Tiles that are reduced.
    pub(super) fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// What came of the frames so far.
    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Tells the progress bar how much there is: frames from `first` up to the end of each tile.
    pub(super) fn expect(&self, reader: &Reader, ends: &[FrameIndex], first: FrameIndex) {
        let bytes = |(tile, &end): (&Tile, &FrameIndex)| {
            let array = &reader.tile(tile.id).ok()?.array;
            Some((end.max(first) - first) * array.layout.frame_bytes)
        };
        self.shared.bar.set_length(self.tiles.iter().zip(ends).filter_map(bytes).sum());
    }

    /// How pixels come from the disk, in words; empty before the first work.
    pub(super) fn describe(&self) -> String {
        let opened = self.hands.iter().flat_map(|hand| &hand.open).flatten().next();
        opened.map_or_else(String::new, |open| open.runs.describe())
    }

    /// Reduces frames, as far as nobody asks to stop. Each must come once in the life of these workers.
    ///
    /// # Errors
    /// No memory, no such tile. Frames that cannot be read are counted instead.
    pub(super) fn reduce(&mut self, reader: &Reader, work: &[Work]) -> Result<()> {
        let mut pieces = VecDeque::new();
        for piece in work.iter().filter(|piece| !piece.frames.is_empty()) {
            pieces.push_back((piece.clone(), reader.tile(self.tiles[piece.tile].id)?.array.layout));
        }
        let mut left = Left { pieces, threads: self.hands.len() as u64 };
        let useful = left.bytes().div_ceil(SHARE_BYTES_MIN).clamp(1, self.hands.len() as u64) as usize;
        let access = self.access(reader, work)?;
        left.threads = useful as u64;
        let left = Mutex::new(left);
        let Self { tiles, hands, shared } = self;
        let ends = work.iter().map(|piece| (piece.tile, piece.frames.clone())).collect::<Vec<_>>();
        let task = Task { reader, tiles, whole: &ends, access, left: &left, shared };
        std::thread::scope(|scope| {
            let task = &task;
            let threads: Vec<_> = (0_u32..)
                .zip(hands.iter_mut().take(useful))
                .map(|(number, hand)| {
                    let thread = std::thread::Builder::new().name(format!("reduce-{number}"));
                    thread.spawn_scoped(scope, move || task.run(hand)).context("start a thread")
                })
                .collect();
            let mut result = Ok(());
            for thread in threads {
                let ended =
                    thread.and_then(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))));
                result = result.and(ended);
            }
            result
        })
    }

    /// How the pixels of this work come from the disk: chosen once for all of it, as every thread sees only a part.
    fn access(&self, reader: &Reader, work: &[Work]) -> Result<Vec<Access>> {
        let mut access = vec![self.shared.plan.access; self.tiles.len()];
        for Work { tile, frames } in work {
            access[*tile] = match self.hands[0].open[*tile].as_ref() {
                Some(open) => open.runs.access(),
                None => {
                    reader.runs(self.tiles[*tile].id, frames.clone(), &self.shared.read_plan(access[*tile]))?.access()
                }
            };
        }
        Ok(access)
    }

    /// Brings what the threads still hold into the images, makes what needs whole ones, and hands all over, with what was
    /// damaged.
    pub(super) fn finish(self) -> (Images, Vec<String>) {
        let Self { tiles, hands, shared } = self;
        shared.bar.finish_and_clear();
        let mut images = shared.images.into_inner().unwrap_or_else(PoisonError::into_inner);
        for hand in hands {
            for (tile, open) in tiles.iter().zip(hand.open) {
                let Some(mut open) = open else { continue };
                images.merge(tile.link, &open.reducer.take());
                images.merge_patterns(tile.link, &open.reducer.take_patterns());
            }
        }
        images.derive_all();
        let mut errors = shared.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
        let told = |ending: Ending| format!("result {} has ended: {}", ending.name, ending.reason);
        errors.extend(images.endings().into_iter().map(told));
        (images, errors)
    }
}

impl Left {
    fn bytes(&self) -> u64 {
        let bytes =
            |(work, layout): &(Work, Layout)| (work.frames.end - work.frames.start).saturating_mul(layout.frame_bytes);
        self.pieces.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The next share: whole chunks of one tile.
    fn take(&mut self) -> Option<Work> {
        let share_bytes = (self.bytes() / (2 * self.threads.max(1))).clamp(SHARE_BYTES_MIN, SHARE_BYTES_MAX);
        let (work, layout) = self.pieces.front_mut()?;
        let start = work.frames.start;
        let last = start + (share_bytes / layout.frame_bytes.max(1)).max(1) - 1;
        let end = layout.chunk_end(last.min(work.frames.end - 1)).min(work.frames.end);
        work.frames.start = end;
        let taken = Work { tile: work.tile, frames: start..end };
        if work.frames.is_empty() {
            self.pieces.pop_front();
        }
        Some(taken)
    }
}

/// One call of [`Workers::reduce`], as its threads see it.
struct Task<'a> {
    reader: &'a Reader,
    tiles: &'a [Tile],
    whole: &'a [(usize, Range<FrameIndex>)],
    access: Vec<Access>,
    left: &'a Mutex<Left>,
    shared: &'a Shared,
}

impl Task<'_> {
    fn run(&self, hand: &mut Hand) -> Result<()> {
        if self.shared.plan.is_idle {
            process::run_when_idle();
        }
        while let Some(Work { tile, frames }) = lock(self.left).take() {
            let result = self.share(hand, tile, frames);
            if result.is_err() {
                self.shared.has_failed.store(true, Ordering::Relaxed);
            }
            result?;
            if self.shared.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// Reads and reduces one share.
    fn share(&self, hand: &mut Hand, tile: usize, frames: Range<FrameIndex>) -> Result<()> {
        let about = &self.tiles[tile];
        let open = self.open(&mut hand.open[tile], tile)?;
        open.runs.restart(frames);
        while let Some(run) = open.runs.next_run()? {
            open.held += self.shared.reduce(&about.plan, &mut open.reducer, &run)?;
            if open.held >= MERGE_FRAMES {
                self.merge(about, open);
            }
            if self.shared.is_over() {
                break;
            }
        }
        self.merge(about, open);
        Ok(())
    }

    fn merge(&self, tile: &Tile, open: &mut Open) {
        lock(&self.shared.images).merge(tile.link, &open.reducer.take());
        open.held = 0;
    }

    /// A reader that knows how far the tile has come, and a reducer.
    fn open<'h>(&self, place: &'h mut Option<Open>, tile: usize) -> Result<&'h mut Open> {
        let end = |(other, frames): &(usize, Range<FrameIndex>)| (*other == tile).then_some(frames.end);
        let end = self.whole.iter().filter_map(end).max().unwrap_or(0);
        match place {
            Some(open) => {
                open.runs.extend(self.reader, end)?;
                Ok(open)
            }
            None => {
                let start = self.whole.iter().filter(|(other, _)| *other == tile).map(|(_, frames)| frames.start).min();
                let plan = self.shared.read_plan(self.access[tile]);
                let runs = self.reader.runs(self.tiles[tile].id, start.unwrap_or(0)..end, &plan)?;
                let reducer = Reducer::new(Arc::clone(&self.tiles[tile].plan));
                Ok(place.insert(Open { runs, reducer, held: 0 }))
            }
        }
    }
}

impl Shared {
    fn read_plan(&self, access: Access) -> ReadPlan {
        ReadPlan { access, verify: self.plan.verify, gaps: None }
    }

    fn is_over(&self) -> bool {
        self.plan.stop.load(Ordering::Relaxed) || self.has_failed.load(Ordering::Relaxed)
    }

    /// Reduces what is there of a run; returns of how many frames.
    fn reduce(&self, plan: &ReducePlan, reducer: &mut Reducer, run: &Run<'_>) -> Result<u64> {
        let count = |flag: fn(FrameFlag) -> bool| run.flags.iter().filter(|&&found| flag(found)).count() as u64;
        let absent = count(|flag| flag != FrameFlag::Ok);
        let damaged = if run.error.is_some() { count(|flag| flag == FrameFlag::Corrupt) } else { 0 };
        let verified = if run.is_verified { run.flags.len() as u64 - absent } else { 0 };
        let numbers = [
            (&self.counts.missing, absent - damaged),
            (&self.counts.damaged, damaged),
            (&self.counts.verified, verified),
            (&self.counts.bytes, run.bytes.len() as u64),
        ];
        for (counter, number) in numbers {
            counter.fetch_add(number, Ordering::Relaxed);
        }
        self.bar.inc(run.bytes.len() as u64);
        if let Some(error) = &run.error {
            let mut errors = lock(&self.errors);
            if errors.len() < ERRORS_MAX {
                errors.push(error.to_string());
            }
        }
        if run.bytes.is_empty() {
            return Ok(0);
        }
        let frames = Frames::new(run.frames.start, run.bytes, plan.pixel(), plan.region())?;
        Ok(reducer.reduce(&frames.with_flags(run.flags)?))
    }
}

/// What a thread that panicked held is still whole: it is merged in one go, or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares cover the work once, in order, end at chunks, and are smaller only towards the end.
    #[test]
    fn shares_cover_the_work() {
        let layout = Layout::choose(128 << 10, 4 << 20, Some(100), Some(40_000)).expect("layout");
        let chunk = u64::from(layout.frames_per_chunk);
        let work = [(0, 7..20_001), (1, 0..1), (2, 5..5 + 30 * chunk)];
        let pieces = work.iter().map(|(tile, frames)| (Work { tile: *tile, frames: frames.clone() }, layout));
        let mut left = Left { pieces: pieces.collect(), threads: 4 };
        let mut next = [7, 0, 5];
        let mut sizes = Vec::new();
        while let Some(Work { tile, frames }) = left.take() {
            assert_eq!(frames.start, next[tile]);
            assert!(frames.end % chunk == 0 || frames.end == work[tile].1.end, "{frames:?}");
            next[tile] = frames.end;
            sizes.push((frames.end - frames.start) * layout.frame_bytes);
        }
        assert_eq!(next, [20_001, 1, 5 + 30 * chunk]);
        let large = sizes.iter().take_while(|&&bytes| bytes > SHARE_BYTES_MAX - (4 << 20)).count();
        assert!(large > 30 && sizes.len() > large + 4, "{sizes:?}");
        assert!(sizes[large..sizes.len() - 3].iter().all(|&bytes| bytes < SHARE_BYTES_MAX), "{sizes:?}");
    }
}
