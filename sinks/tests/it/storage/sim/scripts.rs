//! Small runs that between them take every path of the writer, recorded step by step; the same seed gives the same steps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use ronchi_pipeline::{Event, Gap, GapReason, Pool, Region, Series, SigShape};
use ronchi_sinks::storage::{Clock, DataSet, FileSystem, TileEnd, Writer};

use super::super::rig::{Feed, Rig, block, cut, end};
use super::dice::Dice;
use super::disk::{Shared, SimClock, SimDisk, SimFiles, Trouble};
use super::record::{Record, Word};
use super::stage::memory_dir;

/// Frames per chunk, chunks per segment.
pub(crate) const K: u64 = 3;
const N: u64 = 4;
/// Frames of a segment.
pub(crate) const SEGMENT: u64 = K * N;

/// A run to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    /// Height and width of a tile; with two of them side by side the detector is twice as wide.
    shape: (u32, u32),
    tiles: u32,
    announced: Option<u64>,
    feeds: Vec<Feed>,
    pub(crate) trouble: Trouble,
    /// A frame so far behind is lost for the watermarks.
    late_frames: u64,
    /// Chunks are compressed.
    pub(crate) is_packed: bool,
    /// Frames come compressed.
    comes_compressed: bool,
    /// The series ends, and its data set is finished; else the receiver just stops.
    is_ended: bool,
}

fn script(name: &'static str, count: u64) -> Script {
    Script {
        name,
        shape: (6, 5),
        tiles: 1,
        announced: Some(count),
        feeds: cut(0, 0..count, K as u32, |_| false),
        trouble: Trouble::Nothing,
        late_frames: 128,
        is_packed: false,
        comes_compressed: false,
        is_ended: true,
    }
}

/// The same with compressed chunks.
fn packed(name: &'static str, script: &Script) -> Script {
    Script { name, is_packed: true, ..script.clone() }
}

/// The same with frames that come compressed, and can lie together in a chunk.
fn compressed(name: &'static str, script: &Script) -> Script {
    Script { comes_compressed: true, shape: (8, 8), ..packed(name, script) }
}

/// Every run there is.
pub(crate) fn scripts() -> Vec<Script> {
    let gaps = |feeds: &mut Vec<Feed>| feeds.iter_mut().for_each(|feed| feed.1.retain(|frame| frame % 7 != 4));
    let mut lossy = script("gaps", 40);
    gaps(&mut lossy.feeds);
    let mut late = script("late", 40);
    let mut after: Vec<Feed> = Vec::new();
    for feed in &mut late.feeds {
        after.extend(feed.1.iter().filter(|&&frame| frame % 5 == 2).map(|&frame| (0, vec![frame])));
        feed.1.retain(|frame| frame % 5 != 2);
    }
    for (at, feed) in after.into_iter().enumerate() {
        late.feeds.insert((at * 2 + 3 + at % 3 * 2).min(late.feeds.len()), feed);
    }
    let mut tiles = Script { tiles: 2, ..script("tiles", 30) };
    let right = cut(1, 0..27, K as u32, |frame| frame % 4 == 1);
    for (at, feed) in right.into_iter().enumerate() {
        tiles.feeds.insert((at * 2 + 1).min(tiles.feeds.len()), feed);
    }
    let one_by_one = cut(0, 0..30, K as u32, |_| true);
    let mut open_ended = Script { announced: None, ..script("open-ended", 31) };
    gaps(&mut open_ended.feeds);
    let packed = [
        packed("packed", &script("plain", 26)),
        packed("packed one by one", &Script { feeds: one_by_one.clone(), ..script("one by one", 30) }),
        packed("packed gaps", &lossy),
        packed("packed late", &late),
        packed("packed tiles", &tiles),
        packed("packed open-ended", &open_ended),
        packed("packed cut off", &Script { is_ended: false, feeds: one_by_one.clone(), ..script("cut off", 30) }),
        packed("packed failed sync", &Script { trouble: Trouble::Sync(4), ..late.clone() }),
        packed("packed failed write", &Script { trouble: Trouble::Write(7), ..late.clone() }),
        packed("packed failed page", &Script { trouble: Trouble::Page(3), ..late.clone() }),
        compressed("compressed one by one", &Script { feeds: one_by_one.clone(), ..script("one by one", 30) }),
        compressed("compressed late", &late),
        compressed("compressed cut off", &Script { is_ended: false, ..lossy.clone() }),
        compressed("compressed failed write", &Script { trouble: Trouble::Write(7), ..late.clone() }),
    ];
    let plain = vec![
        script("plain", 26),
        Script { feeds: one_by_one.clone(), ..script("seams", 30) },
        Script { shape: (9, 131), feeds: one_by_one, ..script("large seams", 30) },
        lossy,
        late.clone(),
        Script { name: "too late", late_frames: 4, ..late },
        tiles,
        open_ended,
        Script { is_ended: false, ..script("cut off", 40) },
        Script { trouble: Trouble::Sync(4), ..script("failed sync", 40) },
        Script { trouble: Trouble::Sync(2), feeds: cut(0, 0..40, 3, |_| true), ..script("early failed sync", 40) },
        Script { trouble: Trouble::SmallSync(9), ..script("failed sync of the table", 40) },
        Script { trouble: Trouble::Write(7), ..script("failed write", 40) },
        Script { trouble: Trouble::Page(3), ..script("failed page", 40) },
        Script { trouble: Trouble::Full(2), ..script("full disk", 40) },
    ];
    plain.into_iter().chain(packed).collect()
}

/// A recorded run and what was fed.
pub(crate) struct Run {
    pub(crate) record: Record,
    pub(crate) series: Vec<Arc<Series>>,
    pub(crate) ends: Vec<TileEnd>,
    /// It ended in the middle, because it was told to.
    pub(crate) is_cut_short: bool,
}

/// What the writer is handed, and when.
struct Feeder {
    record: Shared,
    clock: Arc<SimClock>,
    dice: Dice,
    rest: VecDeque<(Event, Option<Word>)>,
}

impl Feeder {
    fn next(&mut self, patience: Duration) -> Result<Event, RecvTimeoutError> {
        if self.rest.is_empty() {
            return Err(RecvTimeoutError::Disconnected);
        }
        if self.dice.below(3) > 0 {
            self.clock.advance(patience + Duration::from_micros(1));
            return Err(RecvTimeoutError::Timeout);
        }
        let (event, word) = self.rest.pop_front().expect("not empty");
        if let Some(word) = word {
            self.record.lock().say(word);
        }
        Ok(event)
    }
}

impl Script {
    fn rig(&self) -> Rig {
        let (height, width) = self.shape;
        let detector = SigShape { height, width: width * self.tiles };
        let mut rig = Rig::new_in(memory_dir(), detector, "<u2", K as u32, N as u32, self.announced);
        rig.regions = (0..self.tiles).map(|tile| Region { y: 0, x: tile * width, height, width }).collect();
        (rig.plan.is_direct, rig.plan.late_frames) = (false, self.late_frames);
        rig.pool = Pool::new(128, rig.pool.slot_bytes()).expect("pool"); // All blocks wait at once.
        rig.plan.pool = None;
        if self.comes_compressed {
            rig = rig.compressed(0, |_| 8192);
            rig.pool = Pool::new(128, rig.pool.slot_bytes()).expect("pool");
            rig.plan.pool = None;
        } else if self.is_packed {
            rig = rig.packed(0);
        }
        rig.plan.publish_interval = Duration::from_millis(2);
        rig.plan.sync_interval = Duration::from_millis(5);
        rig
    }

    fn events(&self, rig: &Rig, series: &[Arc<Series>]) -> VecDeque<(Event, Option<Word>)> {
        let begin = series.iter().map(|series| (Event::Begin(Arc::clone(series)), None));
        let blocks = self.feeds.iter().filter(|feed| !feed.1.is_empty()).map(|(link, frames)| {
            let block = block(&rig.pool, &series[*link as usize], frames, &rig.sending);
            (Event::Block(block), Some(Word::Fed(*link, frames.clone())))
        });
        let feeds: Vec<Feed> = self.feeds.iter().filter(|feed| !feed.1.is_empty()).cloned().collect();
        let ends = series
            .iter()
            .filter(|_| self.is_ended)
            .map(|series| (Event::End(Arc::new(end(series, self.announced, series.link, &feeds))), None));
        begin.chain(blocks).chain(ends).collect()
    }

    /// Whether the disk refuses table and log: frames are recorded on, without flags.
    pub(crate) fn is_undescribed(&self) -> bool {
        matches!(self.trouble, Trouble::SmallSync(_))
    }

    /// Records it. The seed says how fast frames come and in which order operations end.
    pub(crate) fn record(&self, seed: u64, is_jumping: bool) -> Run {
        let mut rig = self.rig();
        let mut dice = Dice::new(seed);
        let clock = Arc::new(SimClock::new(is_jumping));
        rig.plan.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let record = Shared::new(Record::new(rig.dir.path()));
        let files: Arc<dyn FileSystem> = Arc::new(SimFiles::new(record.clone(), self.trouble));
        let series: Vec<_> = (0..rig.regions.len()).map(|link| rig.series(link)).collect();
        let created = catch(|| DataSet::create_on(files, rig.dir.path(), &rig.new_data_set(&series)));
        let Some(Ok(data_set)) = created else {
            assert!(record.lock().hit.is_some(), "{}: {created:?}", self.name);
            return Run { record: record.take(), series, ends: Vec::new(), is_cut_short: true };
        };
        let data_set = Arc::new(data_set);
        record.lock().watch(data_set.watermarks());
        let disk = SimDisk::new(record.clone(), Arc::clone(&clock), Dice::new(dice.next()), self.trouble);
        let rest = self.events(&rig, &series);
        let mut feeder = Feeder { record: record.clone(), clock, dice: Dice::new(dice.next()), rest };
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (opened, ended, teller) = (Arc::clone(&data_set), Arc::clone(&ends), record.clone());
        let open = Box::new(move |_: &Arc<Series>| Ok(Arc::clone(&opened)));
        let hear = Box::new(move |end: TileEnd| {
            let gaps = (0..end.frame_count).filter(|&frame| end.gaps.contains(frame)).collect();
            teller.lock().say(Word::Ended(end.series.link, gaps));
            ended.lock().expect("not poisoned").push(end);
        });
        let plan = rig.plan.clone();
        let whole = catch(|| Writer::run_on(Box::new(disk), false, plan, &mut |wait| feeder.next(wait), open, hear));
        let mut ends = std::mem::take(&mut *ends.lock().expect("not poisoned"));
        ends.sort_by_key(|end: &TileEnd| end.series.link);
        let mut is_cut_short = whole.is_none();
        if self.is_ended && whole.is_some() {
            let state = ends.iter().map(|end| end.state).max_by_key(|state| *state as u8).expect("a tile");
            let outcomes: Vec<_> = ends.iter().map(TileEnd::outcome).collect();
            is_cut_short = !matches!(catch(|| data_set.finish(state, &outcomes)), Some(Ok(())));
        }
        self.check_ends(&ends);
        assert!(!is_cut_short || record.lock().hit.is_some(), "{}: cut short by itself", self.name);
        Run { record: record.take(), series, ends, is_cut_short }
    }

    /// Runs it with all its threads, and says whether the writer ended by itself. The steps differ from time to time.
    pub(crate) fn run_threads(&self) -> (Run, Result<(), String>) {
        let mut rig = self.rig();
        rig.plan.publish_interval = Duration::from_micros(50);
        rig.plan.sync_interval = Duration::from_micros(100);
        let record = Shared::new(Record::new(rig.dir.path()));
        let files: Arc<dyn FileSystem> = Arc::new(SimFiles::new(record.clone(), self.trouble));
        let series: Vec<_> = (0..rig.regions.len()).map(|link| rig.series(link)).collect();
        let data_set = DataSet::create_on(files, rig.dir.path(), &rig.new_data_set(&series)).expect("new");
        let data_set = Arc::new(data_set);
        record.lock().watch(data_set.watermarks());
        let disk = SimDisk::new(record.clone(), Arc::new(SimClock::new(false)), Dice::new(1), self.trouble);
        let (events, queue) = crossbeam_channel::bounded(4);
        let (ended, ends) = std::sync::mpsc::channel();
        let opened = Arc::clone(&data_set);
        let open = Box::new(move |_: &Arc<Series>| Ok(Arc::clone(&opened)));
        let hear = Box::new(move |end: TileEnd| ended.send(end).expect("test waits"));
        let (_, mut report) = rig.plan.choose_disk().expect("disk");
        report.is_direct = false;
        let plan = rig.plan.clone();
        let writer = Writer::spawn_on(Box::new(disk), report, plan, queue, open, hear).expect("writer");
        for (event, word) in self.events(&rig, &series) {
            word.into_iter().for_each(|word| record.lock().say(word));
            if events.send(event).is_err() {
                break; // As a receive loop ends.
            }
        }
        drop(events);
        let result = writer.join();
        record.lock().step();
        let is_cut_short = result.is_err();
        (Run { record: record.take(), series, ends: ends.try_iter().collect(), is_cut_short }, result)
    }

    fn check_ends(&self, ends: &[TileEnd]) {
        assert!(ends.iter().all(|end| end.law.holds), "{}: {ends:?}", self.name);
        let known = |gap: Gap| {
            gap.reason != GapReason::WriteFailed || self.trouble != Trouble::Nothing || self.late_frames < 128
        };
        assert!(ends.iter().all(|end| end.gaps.iter().all(known)), "{}: {ends:?}", self.name);
    }
}

/// `None` when it panicked, as it was told to.
fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}
