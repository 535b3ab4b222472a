//! One link's part of a data set while it is written: its open segments, its publishing cycle, its watermarks.
//!
//! # Invariants
//! - I1: one cycle at a time: flush shared sectors -> table, log and page 0 -> (sync). Only what a cycle has named is
//!   synced, and only what was complete before the sync was submitted becomes durable.
//! - I2: segments are sealed in order; the newest two stay open for late frames.
//! - I3: a failed sync is final for its segment: what was not durable is lost, and later frames of it are refused.
//! - I4: the durable watermark passes a frame that was lost only when its row says so durably: it may have said otherwise.
//! - I5: table and log only describe: when the disk refuses them, the tile ends as failed, but pixels are recorded on.
//! - I6: from then on the durable watermark stands still until the end: after a power cut nothing might prove such a frame
//!   before its segment is sealed. For the same reason such frames count as durable only when their segment is closed.

mod marks;
mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use ronchi_pipeline::{Block, End, EndReason, FrameFlag, FrameRecord, GapReason, Gaps, LinkCounters, Series};

use super::clerk::{Job, NewSegment, Prepared};
use super::clock::Clock;
use super::data_set::TileFiles;
use super::disk::{Action, Bytes, Disk, DiskFile, Op, Purpose, Tag};
use super::error::StorageError;
use super::packer::{PackDone, Packer};
use super::segment::{FrameState, Packed, Segment};
use super::space;
use super::table::FrameTable;
use rows::Untold;

/// Failed rewrites of page 0 in a row after which the segment is given up.
const PAGE_FAILURES_MAX: u8 = 3;

/// How far a cycle goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Goal {
    Publish,
    Sync,
    Seal,
}

enum Phase {
    Flush,
    Publish { left: usize, page_ok: bool, small_ok: bool, frames: Vec<Range<usize>> },
    Sync { left: usize, error: Option<String>, frames: Vec<Range<usize>> },
}

/// A cycle of one segment, or of table and log alone.
struct Cycle {
    segment: Option<u64>,
    goal: Goal,
    phase: Phase,
}

/// What of the plan a tile needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct TilePlan {
    pub(super) piece_bytes: usize,
    pub(super) late_frames: u64,
    pub(super) reserve_bytes: u64,
    pub(super) is_direct: bool,
}

/// One link's part of a data set.
pub(super) struct Tile {
    key: u64,
    plan: TilePlan,
    pub(super) series: Arc<Series>,
    files: Arc<TileFiles>,
    counters: Arc<LinkCounters>,
    clock: Arc<dyn Clock>,
    /// Compresses the chunks, if they are to be.
    pub(super) packer: Option<Arc<Packer>>,
    open: BTreeMap<u64, Segment>,
    newest: Option<u64>,
    next_frame: u64,
    asked: BTreeSet<u64>,
    ready: BTreeMap<u64, Result<Prepared, StorageError>>,
    table: FrameTable,
    log: DiskFile,
    log_bytes: u64,
    is_small_broken: bool,
    /// The newest segment could not be made: the next one that cannot is no news.
    is_refused: bool,
    /// A file of the table could not be made: its rows are dropped from there on.
    is_table_broken: bool,
    cycle: Option<Cycle>,
    due: VecDeque<(Option<u64>, Goal)>,
    visible: u64,
    durable: u64,
    missing: u64,
    /// Frames that count as missing until they are durable: they came after the visible watermark had passed them. Where
    /// the durable one had, too, rows wait until then: they would claim frames that a power cut may still take.
    late: BTreeMap<u64, Option<FrameRecord>>,
    /// Frames whose rows may still say the contrary of what is; the rows of the first `telling` of them are on their way.
    untold: Vec<Untold>,
    telling: usize,
    written_count: u64,
    durable_count: u64,
    durable_runs: Vec<Range<u64>>,
    /// Frames that came compressed and do not decode.
    damaged: Gaps,
    sealed_count: u64,
    end: Option<(Option<Arc<End>>, EndReason)>,
    error: Option<String>,
    is_finishing: bool,
    pub(super) jobs: Vec<Job>,
}

impl Tile {
    pub(super) fn new(
        key: u64,
        plan: TilePlan,
        series: Arc<Series>,
        files: TileFiles,
        counters: Arc<LinkCounters>,
        log: DiskFile,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let rows = super::table::rows_per_file(series.announced.frame_count);
        let columns = super::table::columns(files.has_checksums);
        let table = FrameTable::new(Arc::clone(&files.system), files.base.join("frame_table"), (rows, columns));
        let mut tile = Self {
            key,
            plan,
            series,
            files: Arc::new(files),
            counters,
            clock,
            packer: None,
            open: BTreeMap::new(),
            newest: None,
            next_frame: 0,
            asked: BTreeSet::new(),
            ready: BTreeMap::new(),
            table,
            log,
            log_bytes: 0,
            is_small_broken: false,
            is_refused: false,
            is_table_broken: false,
            cycle: None,
            due: VecDeque::new(),
            visible: 0,
            durable: 0,
            missing: 0,
            late: BTreeMap::new(),
            untold: Vec::new(),
            telling: 0,
            written_count: 0,
            durable_count: 0,
            durable_runs: Vec::new(),
            damaged: Gaps::default(),
            sealed_count: 0,
            end: None,
            error: None,
            is_finishing: false,
            jobs: Vec::new(),
        };
        tile.ask(0);
        tile.publish_progress();
        tile
    }

    fn tag(&self, segment: u64, purpose: Purpose) -> Tag {
        Tag { tile: self.key, segment, purpose, retries: 0, volume: 0 }
    }

    /// Asks for a segment file, once, if the series has frames for it.
    fn ask(&mut self, number: u64) {
        let layout = self.series.layout;
        let exists = self.series.announced.frame_count.is_none_or(|count| number * layout.frames_per_segment() < count);
        if (exists || number == 0) && self.asked.insert(number) {
            let region = self.series.announced.region;
            self.jobs.push(Job::Prepare(Box::new(NewSegment {
                tile_key: self.key,
                files: Arc::clone(&self.files),
                number,
                uuid: self.series.acquisition,
                tile: self.series.link,
                layout,
                shape: ronchi_pipeline::SigShape { height: region.height, width: region.width },
                pixel: self.series.announced.pixel,
                need_bytes: space::segment_need_bytes(&layout, self.series.announced.frame_count),
                reserve_bytes: self.plan.reserve_bytes,
                is_direct: self.plan.is_direct,
            })));
        }
    }

    /// A segment file is there, or could not be made.
    pub(super) fn prepared(&mut self, number: u64, file: Result<Prepared, StorageError>) {
        if self.asked.contains(&number) && !self.open.contains_key(&number) {
            self.ready.insert(number, file);
        }
    }

    /// Whether a block can be accepted without waiting for its segment file; asks for the file if need be.
    pub(super) fn is_ready_for(&mut self, block: &Block) -> bool {
        let number = self.series.layout.segment_of(block.frames().start);
        if let Some(segment) = self.open.get_mut(&number) {
            return segment.is_sealing || segment.is_ready_for(block);
        }
        if self.is_closed(number) || self.ready.contains_key(&number) {
            return self.packer.as_ref().is_none_or(|packer| packer.has_assembly());
        }
        self.ask(number);
        !self.asked.contains(&number) // Beyond the announced frames: never prepared.
    }

    /// Whether a segment takes no more frames (I2).
    fn is_closed(&self, number: u64) -> bool {
        let is_open = self.open.get(&number).is_some_and(|segment| !segment.is_sealing);
        !is_open && self.newest.is_some_and(|newest| number + 1 < newest || self.open.contains_key(&number))
    }

    /// Takes a block; its segment is ready.
    pub(super) fn accept(&mut self, block: &Block, disk: &mut dyn Disk, out: &mut Vec<Op>) {
        let number = self.series.layout.segment_of(block.frames().start);
        let first_new = self.next_frame;
        self.next_frame = self.next_frame.max(block.frames().end);
        if self.is_closed(number) {
            return; // Too late for its segment: the frames end as gaps `write_failed`.
        }
        if !self.open.contains_key(&number) {
            self.open_segment(number, disk);
        }
        let Some(segment) = self.open.get_mut(&number) else { return };
        for (frame, record) in block.frames().zip(block.records()) {
            let state = segment.state((frame - segment.first_frame()) as usize);
            if record.flag != FrameFlag::Ok && record.flag != FrameFlag::Missing && state == FrameState::Absent {
                self.table.push(frame, std::slice::from_ref(record));
            }
            if record.flag == FrameFlag::Ok && state == FrameState::Absent && frame < self.visible && frame < first_new
            {
                self.late.insert(frame, None);
            }
        }
        let refused = segment.accept(block, self.plan.piece_bytes, out);
        if !refused.is_empty() && self.error.is_none() {
            self.error = segment.poison.clone().or_else(|| Some(segment.too_late().to_owned()));
        }
        self.settle(number, refused);
        self.hear(number);
    }

    fn open_segment(&mut self, number: u64, disk: &mut dyn Disk) {
        let file = match self.ready.remove(&number) {
            Some(Ok(Prepared { file, volume })) => Ok((disk.attach(file), volume)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no frames were announced for this segment".to_owned()),
        };
        self.note_refusal(number, file.as_ref().err());
        let (layout, announced) = (self.series.layout, &self.series.announced);
        let packed = self.packer.as_ref().map(|it| Packed::new(Arc::clone(it), (self.key, number), layout, announced));
        let segment = Segment::new(self.key, number, layout, file, packed);
        self.open.insert(number, segment);
        let newest = self.newest.map_or(number, |newest| newest.max(number));
        self.newest = Some(newest);
        for (_, old) in self.open.range_mut(..newest.saturating_sub(1)) {
            old.is_sealing = true;
        }
        let stale: Vec<u64> = self.ready.range(..newest.saturating_sub(1)).map(|(&stale, _)| stale).collect();
        for stale in stale {
            self.ready.remove(&stale);
            self.jobs.push(Job::Discard(Arc::clone(&self.files), stale));
        }
        self.ask(newest + 1);
        if self.series.announced.frame_count.is_none() {
            let frame_count = (newest + 1) * self.series.layout.frames_per_segment();
            self.jobs.push(Job::Resize(Arc::clone(&self.files), frame_count));
        }
    }

    /// Says once that frames are no longer recorded, and once that they are again: a full disk stays full for long.
    fn note_refusal(&mut self, number: u64, reason: Option<&String>) {
        let first_frame = number * self.series.layout.frames_per_segment();
        match reason {
            Some(reason) if !self.is_refused => {
                let name = &self.series.name;
                tracing::error!(
                    name,
                    link = self.series.link,
                    first_frame,
                    reason,
                    "frames are not recorded from here"
                );
                self.error.get_or_insert_with(|| reason.clone());
            }
            None if self.is_refused => {
                tracing::warn!(name = self.series.name, link = self.series.link, first_frame, "recording goes on");
            }
            _ => {}
        }
        self.is_refused = reason.is_some();
    }

    /// A chunk is compressed.
    pub(super) fn packed(&mut self, done: PackDone, out: &mut Vec<Op>) {
        let number = done.key.segment;
        if let Some(segment) = self.open.get_mut(&number) {
            segment.packed(done, out);
            self.hear(number);
        }
    }

    /// Takes what has happened in a packed segment before anything was written.
    fn hear(&mut self, number: u64) {
        let Some(segment) = self.open.get_mut(&number) else { return };
        let (first, news) = (segment.first_frame(), segment.take_news());
        for frame in news.damaged.into_iter().map(|place| first + place as u64) {
            self.damaged.insert(frame..frame + 1, GapReason::Damaged);
            self.late.remove(&frame); // It counts as missing, and stays so.
            let count = self.counters.damaged_frames.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                let (name, link) = (&self.series.name, self.series.link);
                tracing::error!(name, link, frame, count, "a frame came compressed and does not decode: it is a gap");
            }
        }
        self.settle(number, news.settled);
    }

    /// Notes the result of an operation.
    pub(super) fn finish(&mut self, tag: Tag, bytes: u64, error: Option<&str>, out: &mut Vec<Op>) {
        LinkCounters::add(&self.counters.written_bytes, bytes);
        if let Some(error) = error {
            tracing::error!(segment = tag.segment, purpose = ?tag.purpose, error, "the disk refused an operation");
            if matches!(tag.purpose, Purpose::Part(_) | Purpose::Seam(..) | Purpose::Page | Purpose::Sync) {
                self.files.volumes.fail(self.open.get(&tag.segment).map_or(0, |segment| segment.volume));
            }
            self.error.get_or_insert_with(|| error.to_owned());
        }
        if matches!(tag.purpose, Purpose::Part(_) | Purpose::Seam(..)) {
            let Some(segment) = self.open.get_mut(&tag.segment) else { return };
            let settled = segment.finish(tag.purpose, error.is_none(), out);
            self.settle(tag.segment, settled);
            return;
        }
        match (self.cycle.as_mut().map(|cycle| &mut cycle.phase), tag.purpose) {
            (Some(Phase::Publish { left, page_ok, .. }), Purpose::Page) => {
                *left -= 1;
                *page_ok &= error.is_none();
            }
            (Some(Phase::Publish { left, small_ok, .. }), _) => {
                *left -= 1;
                *small_ok &= error.is_none();
            }
            (Some(Phase::Sync { left, error: first, .. }), Purpose::Sync) => {
                *left -= 1;
                *first = error.map(str::to_owned);
            }
            (Some(Phase::Sync { left, .. }), _) => {
                *left -= 1;
                self.is_small_broken |= error.is_some();
            }
            _ => {}
        }
    }

    /// Time to publish what is complete, and with `Goal::Sync` to make it durable.
    pub(super) fn tick(&mut self, goal: Goal) {
        for &number in self.open.keys() {
            match self.due.iter_mut().find(|(segment, _)| *segment == Some(number)) {
                Some((_, known)) => *known = goal.max(*known),
                None => self.due.push_back((Some(number), goal)),
            }
        }
        if !self.untold.is_empty() && !self.due.contains(&(None, Goal::Sync)) {
            self.due.push_back((None, Goal::Sync));
        }
    }

    /// Goes on with the cycle as far as it can without waiting, then with the next one.
    pub(super) fn advance(&mut self, disk: &mut dyn Disk, out: &mut Vec<Op>) {
        for number in self.open.keys().copied().collect::<Vec<_>>() {
            self.open.get_mut(&number).into_iter().for_each(|segment| segment.pump(out));
            self.hear(number);
        }
        loop {
            let Some(cycle) = self.cycle.take() else {
                if self.start_cycle(disk, out) {
                    continue;
                }
                break;
            };
            let goes_on = match &cycle.phase {
                Phase::Flush => self.is_flushed(&cycle),
                Phase::Publish { left, .. } | Phase::Sync { left, .. } => *left == 0,
            };
            if !goes_on {
                self.cycle = Some(cycle);
                break;
            }
            match cycle.phase {
                Phase::Flush => self.publish(cycle, disk, out),
                Phase::Publish { page_ok, small_ok, frames, .. } => {
                    self.after_publish((cycle.segment, cycle.goal), page_ok, small_ok, frames, out);
                }
                Phase::Sync { error, frames, .. } => {
                    self.after_sync((cycle.segment, cycle.goal), error, frames, disk);
                }
            }
        }
        if self.end.is_some() && self.open.is_empty() && self.cycle.is_none() && !self.is_finishing {
            self.finish_files();
        }
    }

    fn is_flushed(&self, cycle: &Cycle) -> bool {
        let segment = cycle.segment.and_then(|number| self.open.get(&number));
        segment.is_none_or(|segment| segment.is_flushed() && (cycle.goal < Goal::Seal || segment.is_quiet()))
    }

    /// Chooses the next cycle; `false` when there is nothing to do.
    fn start_cycle(&mut self, disk: &mut dyn Disk, out: &mut Vec<Op>) -> bool {
        if let Some((&number, segment)) = self.open.first_key_value()
            && segment.is_sealing
        {
            if segment.poison.is_some() {
                if segment.is_quiet() {
                    self.close_segment(number, disk);
                    return true;
                }
            } else {
                self.begin(Some(number), Goal::Seal, out);
                return true;
            }
        }
        while let Some((segment, goal)) = self.due.pop_front() {
            if segment.is_none() && self.has_untold() {
                self.begin(None, goal, out);
                return true;
            }
            let open = segment.and_then(|number| self.open.get(&number));
            if open.is_some_and(|s| !s.is_sealing && s.poison.is_none() && s.has_news(goal >= Goal::Sync)) {
                self.begin(segment, goal, out);
                return true;
            }
        }
        if self.end.is_some() && self.open.is_empty() && self.has_untold() {
            self.begin(None, Goal::Sync, out);
            return true;
        }
        false
    }

    /// Whether table and log have something to say on their own.
    fn has_untold(&self) -> bool {
        !self.is_small_broken && (self.table.has_rows() || !self.untold.is_empty())
    }

    fn begin(&mut self, segment: Option<u64>, goal: Goal, out: &mut Vec<Op>) {
        if let Some(segment) = segment.and_then(|number| self.open.get_mut(&number)) {
            segment.start_flush(goal, out);
        }
        self.cycle = Some(Cycle { segment, goal, phase: Phase::Flush });
    }

    /// Shared sectors are on disk: writes page 0, and what else tells of the frames that are complete now.
    fn publish(&mut self, mut cycle: Cycle, disk: &mut dyn Disk, out: &mut Vec<Op>) {
        if cycle.segment.and_then(|number| self.open.get(&number)).is_some_and(Segment::has_unsynced) {
            cycle.goal = cycle.goal.min(Goal::Sync); // The final page 0 names what must be synced before.
        }
        let number = cycle.segment.unwrap_or(0);
        self.hear(number);
        let (page_tag, small_tag) = (self.tag(number, Purpose::Page), self.tag(number, Purpose::Small));
        let before = out.len();
        let mut frames = Vec::new();
        if let Some(segment) = cycle.segment.and_then(|number| self.open.get_mut(&number)) {
            let Some(file) = segment.file().cloned() else { return };
            let is_final = cycle.goal == Goal::Seal;
            let publication = segment.publication(self.series.acquisition, self.series.link, is_final);
            frames = publication.frames;
            if !publication.log.is_empty() && !self.is_small_broken {
                let bytes = publication.log.len() as u64;
                let action = Action::Write(self.log_bytes, Bytes::Small(publication.log));
                self.log_bytes += bytes;
                out.push(Op { file: self.log.clone(), action, tag: small_tag });
            }
            let page = |(offset, page)| (file.clone(), Action::Write(offset, Bytes::Page(page)));
            let pages = publication.pages.into_iter().map(page);
            out.extend(pages.map(|(file, action)| Op { file, action, tag: page_tag }));
        }
        let mut small_ok = true;
        if self.is_table_broken {
            self.table.forget_rows();
        } else if let Err(error) = self.table.take_writes(disk, small_tag, out) {
            tracing::error!(%error, "the frame table cannot be written: it ends here");
            self.error.get_or_insert_with(|| error.to_string());
            (self.is_table_broken, small_ok) = (true, false);
        }
        if !self.table.has_rows() {
            self.telling = self.untold.len();
        }
        let phase = Phase::Publish { left: out.len() - before, page_ok: true, small_ok, frames };
        self.cycle = Some(Cycle { phase, ..cycle });
    }

    fn after_publish(
        &mut self,
        (number, goal): (Option<u64>, Goal),
        page_ok: bool,
        small_ok: bool,
        frames: Vec<Range<usize>>,
        out: &mut Vec<Op>,
    ) {
        self.is_small_broken |= !small_ok;
        let mut file = None;
        if let Some(segment) = number.and_then(|number| self.open.get_mut(&number)) {
            segment.finish_publication(frames, page_ok);
            if segment.page_failures >= PAGE_FAILURES_MAX {
                self.poison(number.unwrap_or(0), "page 0 cannot be written".to_owned());
                return;
            }
            file = segment.file().cloned();
        }
        if page_ok {
            self.publish_progress();
        }
        if !page_ok || goal == Goal::Publish {
            return;
        }
        let tag = self.tag(number.unwrap_or(0), Purpose::Sync);
        let small_tag = Tag { purpose: Purpose::SyncSmall, ..tag };
        let before = out.len();
        out.extend(file.map(|file| Op { file, action: Action::Sync, tag }));
        let small = self.table.take_unsynced().into_iter().chain([self.log.clone()]);
        out.extend(small.map(|file| Op { file, action: Action::Sync, tag: small_tag }));
        let frames = number.and_then(|n| self.open.get_mut(&n)).map(Segment::take_published).unwrap_or_default();
        let phase = Phase::Sync { left: out.len() - before, error: None, frames };
        self.cycle = Some(Cycle { segment: number, goal, phase });
    }

    fn after_sync(
        &mut self,
        (number, goal): (Option<u64>, Goal),
        error: Option<String>,
        frames: Vec<Range<usize>>,
        disk: &mut dyn Disk,
    ) {
        if !self.is_small_broken {
            let told = self.untold.drain(..std::mem::take(&mut self.telling)).filter(|told| !told.is_lost);
            self.missing -= told.map(|told| told.frames.end - told.frames.start).sum::<u64>();
        }
        let Some(number) = number else { return self.publish_progress() };
        if let Some(reason) = error {
            self.poison(number, reason);
            return;
        }
        if let Some(segment) = self.open.get_mut(&number) {
            segment.uncounted += segment.make_durable(&frames);
            let first = segment.first_frame();
            self.welcome_late(first, &frames);
            if !self.is_small_broken && !self.is_table_broken {
                self.count_durable(number);
            }
        }
        let settled = self.open.get_mut(&number).map(Segment::synced).unwrap_or_default();
        self.settle(number, settled);
        if goal == Goal::Seal {
            self.sealed_count += 1;
            self.close_segment(number, disk);
        }
        self.publish_progress();
    }

    /// Counts the frames of a segment that were synced since the last call.
    fn count_durable(&mut self, number: u64) {
        let Some(segment) = self.open.get_mut(&number) else { return };
        let count = std::mem::take(&mut segment.uncounted);
        self.durable_count += count;
        LinkCounters::add(&self.counters.durable_frames, count);
    }

    /// Forgets a segment that is sealed or given up, and remembers which of its frames are durable.
    fn close_segment(&mut self, number: u64, disk: &mut dyn Disk) {
        self.count_durable(number);
        self.advance_marks();
        let Some(segment) = self.open.remove(&number) else { return };
        for (frame, state) in (segment.first_frame()..).zip(segment.states()) {
            match self.durable_runs.last_mut() {
                _ if *state != FrameState::Durable => {}
                Some(run) if run.end == frame => run.end += 1,
                _ => self.durable_runs.push(frame..frame + 1),
            }
        }
        if let Some((end, file)) = segment.packed_end().zip(segment.file()) {
            self.jobs.push(Job::Trim(Arc::clone(&self.files), Arc::clone(&file.file), end));
        }
        if let Some(file) = segment.into_file() {
            disk.detach(file);
        }
    }
}
