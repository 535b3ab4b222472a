//! The writer thread: takes blocks off the raw queue and brings them to disk, one thread for all
//! links and volumes.
//!
//! # Place in the path
//! receive loop -> raw queue -> **writer** -> `Disk`. A block's handle is dropped with its last completed write.
//!
//! # Invariants
//! - I1: data writes in flight never exceed the depth of the plan, for each volume; while they are that many, and those that
//!   wait more than the plan's `stripe_blocks` (none with one disk), no event is taken, so the raw queue fills and the
//!   detector feels it.
//! - I2: every completion is checked for its length; a short write goes on with its rest.
//! - I3: segments and documents are created, named and replaced by the clerk. What the thread does itself, with its
//!   syncs, and blocks on: the arrays and the log of a tile, once per series, and the three files of the frame table,
//!   every 65,536 frames.
//!
//! # Errors
//! A refused write makes gaps `write_failed` and the rest goes on, and so does a segment for which there is no room beside
//! the reserve; see `tile.rs` for syncs. Every failure is logged once
//! and ends up in [`TileEnd::error`]. When the clerk has died the thread panics: without it nothing could ever be
//! finished, and [`Writer::join`] tells.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::format::{DataSetState, Law};
use ronchi_pipeline::{Block, Encoding, End, EndReason, Event, GapReason, Gaps, Series};

use super::clerk::{Answer, Clerk, Dead};
use super::data_set::{DataSet, TileOutcome};
use super::disk::{Action, Bytes, Disk, Done, Op, Purpose};
use super::error::{Context as _, StorageError};
use super::file_system::Creation;
use super::packer::{PackDone, PackPlan, Packer};
use super::plan::{WriterPlan, WriterReport};
use super::tile::{Goal, Tile, TilePlan};

/// Times an operation goes on after a short write or an interruption.
const RETRIES_MAX: u8 = 8;
/// Times a refused write of table rows or log records is tried again.
const SMALL_RETRIES_MAX: u8 = 3;
/// Longest wait for an event while writes are in flight: bounds how long a written block keeps its slot.
const GLANCE: Duration = Duration::from_micros(300);
/// Longest wait for an event while files are being prepared or finished.
const PEEK: Duration = Duration::from_millis(2);

/// How one link's part of a data set ended on disk.
#[derive(Debug, Clone)]
pub struct TileEnd {
    /// Which.
    pub series: Arc<Series>,
    /// How the series ended.
    pub reason: EndReason,
    /// State for the manifest.
    pub state: DataSetState,
    /// Frames of the series.
    pub frame_count: u64,
    /// Frames whose writes all ended well.
    pub written_count: u64,
    /// Frames that are durable, counted by the syncs that covered them.
    pub durable_count: u64,
    /// Frames that are not there: the receiver's gaps and `write_failed`.
    pub gaps: Gaps,
    /// Whether every frame is accounted for.
    pub law: Law,
    /// The first failure, for the operator.
    pub error: Option<String>,
}

impl TileEnd {
    /// What the manifest needs of it.
    pub fn outcome(&self) -> TileOutcome {
        let (gaps, law) = (self.gaps.clone(), self.law.clone());
        TileOutcome { tile: self.series.link, frame_count: self.frame_count, gaps, law }
    }
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    report: WriterReport,
}

/// Gives the data set of a series: asked once per link when its series begins.
pub type OpenDataSet = Box<dyn FnMut(&Arc<Series>) -> Result<Arc<DataSet>, StorageError> + Send>;
/// Gives the next event, waiting up to so long for it.
pub type NextEvent<'a> = dyn FnMut(Duration) -> Result<Event, RecvTimeoutError> + 'a;
/// Hears how each link's part ended.
pub type OnTileEnd = Box<dyn FnMut(TileEnd) + Send>;

impl Writer {
    /// Chooses the disk access the system allows and starts the thread. It ends when all senders of `events` are gone
    /// and everything is sealed.
    pub fn spawn(plan: WriterPlan, events: Receiver<Event>, open: OpenDataSet, ended: OnTileEnd) -> io::Result<Self> {
        let (disk, report) = plan.choose_disk()?;
        Self::spawn_on(disk, report, plan, events, open, ended)
    }

    /// As [`Self::spawn`], on this disk.
    pub fn spawn_on(
        disk: Box<dyn Disk>,
        report: WriterReport,
        plan: WriterPlan,
        events: Receiver<Event>,
        open: OpenDataSet,
        ended: OnTileEnd,
    ) -> io::Result<Self> {
        Self::spawn_with(Clerk::spawn()?, disk, report, plan, events, open, ended)
    }

    fn spawn_with(
        clerk: Clerk,
        disk: Box<dyn Disk>,
        report: WriterReport,
        plan: WriterPlan,
        events: Receiver<Event>,
        open: OpenDataSet,
        ended: OnTileEnd,
    ) -> io::Result<Self> {
        let packer = plan.pack.as_ref().map(|pack| Packer::start(pack, plan.depth)).transpose()?;
        let session = Session::new(clerk, packer, disk, report.is_direct, plan, open, ended);
        let work = move || session.run(&mut |patience| events.recv_timeout(patience));
        let thread = std::thread::Builder::new().name("ronchi-writer".to_owned()).spawn(work)?;
        Ok(Self { thread, report })
    }

    /// Does everything in the calling thread, one thing after the other: for simulations, in which every step must be
    /// the same each time. Returns when `next` says that all senders are gone and everything is sealed. Errors: the system
    /// refuses memory to compress.
    pub fn run_on(
        disk: Box<dyn Disk>,
        is_direct: bool,
        plan: WriterPlan,
        next: &mut NextEvent<'_>,
        open: OpenDataSet,
        ended: OnTileEnd,
    ) -> io::Result<()> {
        let pack = plan.pack.clone().map(|pack| PackPlan { threads: 0, ..pack });
        let packer = pack.map(|pack| Packer::start(&pack, plan.depth)).transpose()?;
        Session::new(Clerk::inline(), packer, disk, is_direct, plan, open, ended).run(next);
        Ok(())
    }

    /// How it writes.
    pub fn report(&self) -> &WriterReport {
        &self.report
    }

    /// Waits for the end of the thread. Errors: it panicked.
    pub fn join(self) -> Result<(), String> {
        self.thread.join().map_err(|_| "the writer thread panicked".to_owned())
    }
}

/// Writes of pixels to one volume.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Op>,
    in_flight: usize,
}

struct Session {
    plan: WriterPlan,
    tile_plan: TilePlan,
    depth: usize,
    disk: Box<dyn Disk>,
    clerk: Clerk,
    packer: Option<Arc<Packer>>,
    open: OpenDataSet,
    ended: OnTileEnd,
    tiles: BTreeMap<u64, Tile>,
    /// Key of the tile that takes a link's blocks.
    current: HashMap<u32, u64>,
    /// Links whose series could not be opened, with the reason.
    refused: HashMap<u32, String>,
    next_key: u64,
    /// One per volume, or one in all.
    lanes: Vec<Lane>,
    small: VecDeque<Op>,
    next_publish: Instant,
    next_sync: Instant,
}

impl Session {
    fn new(
        clerk: Clerk,
        packer: Option<Packer>,
        disk: Box<dyn Disk>,
        is_direct: bool,
        plan: WriterPlan,
        open: OpenDataSet,
        ended: OnTileEnd,
    ) -> Self {
        let tile_plan = TilePlan {
            piece_bytes: plan.piece_bytes,
            late_frames: plan.late_frames,
            reserve_bytes: plan.reserve_bytes,
            is_direct,
        };
        let now = plan.clock.now();
        Self {
            depth: plan.depth.max(1) as usize,
            tile_plan,
            disk,
            clerk,
            packer: packer.map(Arc::new),
            open,
            ended,
            tiles: BTreeMap::new(),
            current: HashMap::new(),
            refused: HashMap::new(),
            next_key: 0,
            lanes: (0..plan.volume_count.max(1)).map(|_| Lane::default()).collect(),
            small: VecDeque::new(),
            next_publish: now + plan.publish_interval,
            next_sync: now + plan.sync_interval,
            plan,
        }
    }

    fn run(mut self, next: &mut NextEvent<'_>) {
        loop {
            self.turn(Duration::ZERO);
            if self.is_backlogged() {
                self.turn(PEEK); // I1
                continue;
            }
            match next(self.patience()) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for tile in self.tiles.values_mut().filter(|tile| !tile.is_ended()) {
            tile.end(None);
        }
        while !self.tiles.is_empty() {
            self.turn(PEEK);
        }
    }

    fn patience(&self) -> Duration {
        let until_tick = self.next_publish.saturating_duration_since(self.plan.clock.now());
        let longest = match (self.disk.in_flight() > 0 || self.is_packing(), self.tiles.values().any(Tile::is_ended)) {
            (true, _) => GLANCE,
            (_, true) => PEEK,
            _ => Duration::from_millis(20),
        };
        until_tick.min(longest)
    }

    /// Whether chunks are being compressed.
    fn is_packing(&self) -> bool {
        self.packer.as_ref().is_some_and(|packer| packer.is_busy())
    }

    /// Takes chunks that are compressed, waiting up to `patience` for one.
    fn take_packed(&mut self, patience: Duration) {
        let Some(packer) = self.packer.clone() else { return };
        let first = packer.next_done(patience);
        let rest = std::iter::from_fn(|| packer.next_done(Duration::ZERO));
        first.into_iter().chain(rest).for_each(|done| self.packed(done));
    }

    fn packed(&mut self, done: PackDone) {
        let mut out = Vec::new();
        if let Some(tile) = self.tiles.get_mut(&done.key.tile) {
            tile.packed(done, &mut out);
        }
        self.queue(out);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begin(series) => self.begin(&series),
            Event::Block(block) => self.accept(&block),
            Event::End(end) => self.end(end),
        }
    }

    fn begin(&mut self, series: &Arc<Series>) {
        if let Some(tile) = self.current.remove(&series.link).and_then(|key| self.tiles.get_mut(&key))
            && !tile.is_ended()
        {
            tile.end(None);
        }
        self.refused.remove(&series.link);
        let key = self.next_key;
        self.next_key += 1;
        match self.create_tile(key, series) {
            Ok(tile) => {
                self.tiles.insert(key, tile);
                self.current.insert(series.link, key);
            }
            Err(error) => {
                tracing::error!(%error, name = series.name, link = series.link, "frames of this series are not recorded");
                self.refused.insert(series.link, error.to_string());
            }
        }
        self.collect_jobs();
    }

    fn create_tile(&mut self, key: u64, series: &Arc<Series>) -> Result<Tile, StorageError> {
        let data_set = (self.open)(series)?;
        let packer = self.packer_of(series)?;
        let files = data_set.create_tile(series, packer.is_some())?;
        let path = files.base.join("chunks.log");
        let log = files.system.create(&path, Creation::New).context("create", &path)?;
        super::files::sync_dir(&*files.system, &files.base)?;
        let log = self.disk.attach_plain(log);
        let counters = self.plan.counters.get(series.link as usize).cloned().unwrap_or_default();
        let clock = Arc::clone(&self.plan.clock);
        let mut tile = Tile::new(key, self.tile_plan, Arc::clone(series), files, counters, log, clock);
        tile.packer = packer;
        Ok(tile)
    }

    /// What makes the chunks of a series, if they are to be packed.
    fn packer_of(&self, series: &Series) -> Result<Option<Arc<Packer>>, StorageError> {
        let takes_pixels = self.plan.pack.as_ref().is_some_and(|pack| pack.takes_pixels);
        match (series.announced.encoding, &self.packer) {
            (Encoding::Raw, packer) => Ok(packer.clone().filter(|_| takes_pixels)),
            (Encoding::Bslz4, Some(packer)) => Ok(Some(Arc::clone(packer))),
            (Encoding::Bslz4, None) => Err(StorageError::Encoding),
        }
    }

    fn accept(&mut self, block: &Block) {
        fault::pass(Stage::Write);
        let Some(&key) = self.current.get(&block.series().link) else { return };
        loop {
            let Some(tile) = self.tiles.get_mut(&key) else { return };
            if !Arc::ptr_eq(&tile.series, block.series()) {
                return;
            }
            if tile.is_ready_for(block) {
                break;
            }
            self.collect_jobs();
            if self.is_packing() || self.packer.is_some() && self.disk.in_flight() > 0 {
                self.turn(GLANCE);
            } else {
                self.turn(Duration::ZERO);
                self.hear_clerk(PEEK);
            }
        }
        let mut out = Vec::new();
        if let Some(tile) = self.tiles.get_mut(&key) {
            tile.accept(block, &mut *self.disk, &mut out);
        }
        self.queue(out);
        self.collect_jobs();
    }

    fn end(&mut self, end: Arc<End>) {
        let link = end.series.link;
        if let Some(error) = self.refused.remove(&link) {
            let mut gaps = end.gaps.clone();
            gaps.insert(0..end.frame_count, GapReason::WriteFailed);
            (self.ended)(TileEnd {
                series: Arc::clone(&end.series),
                reason: end.reason,
                state: DataSetState::Failed,
                frame_count: end.frame_count,
                written_count: 0,
                durable_count: 0,
                law: Law::check(end.frame_count, Some(end.received_count), 0, &gaps),
                gaps,
                error: Some(error),
            });
        } else if let Some(tile) = self.current.remove(&link).and_then(|key| self.tiles.get_mut(&key)) {
            tile.end(Some(end));
        }
    }

    /// One round of everything that is due; waits up to `patience` for a completion.
    fn turn(&mut self, patience: Duration) {
        while self.hear_clerk(Duration::ZERO) {}
        self.take_packed(Duration::ZERO);
        self.tick();
        self.advance();
        let mut done = Vec::new();
        if self.disk.in_flight() > 0 {
            self.disk.reap(patience, &mut done);
        } else if self.is_packing() {
            self.take_packed(patience.min(GLANCE));
        } else if !patience.is_zero() {
            self.hear_clerk(PEEK);
        }
        if !done.is_empty() {
            done.into_iter().for_each(|done| self.settle(done));
            self.advance();
        }
    }

    /// Moves every tile on, and what comes of it to the disk.
    fn advance(&mut self) {
        let mut out = Vec::new();
        for tile in self.tiles.values_mut() {
            tile.advance(&mut *self.disk, &mut out);
        }
        self.queue(out);
        self.collect_jobs();
        self.pump();
    }

    /// Takes an answer of the clerk, waiting up to `patience` for it; whether there was one.
    fn hear_clerk(&mut self, patience: Duration) -> bool {
        match self.clerk.answer(patience) {
            Ok(Some(answer)) => {
                self.answered(answer);
                true
            }
            Ok(None) => false,
            Err(Dead) => panic!("the clerk thread of the writer has died: no files can be made"),
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Prepared(key, number, file) => {
                if let Some(tile) = self.tiles.get_mut(&key) {
                    tile.prepared(number, file);
                }
            }
            Answer::Finished(key, result) => {
                if let Some(mut tile) = self.tiles.remove(&key) {
                    self.current.retain(|_, current| *current != key);
                    (self.ended)(tile.outcome(result));
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = self.plan.clock.now();
        if now < self.next_publish {
            return;
        }
        let goal = if now >= self.next_sync { Goal::Sync } else { Goal::Publish };
        self.next_publish = now + self.plan.publish_interval;
        if goal == Goal::Sync {
            self.next_sync = now + self.plan.sync_interval;
            let overdue = self.packer.as_ref().map(|packer| packer.take_overdue()).unwrap_or_default();
            overdue.into_iter().for_each(|done| self.packed(done));
        }
        for tile in self.tiles.values_mut() {
            tile.tick(goal);
        }
    }

    fn collect_jobs(&mut self) {
        for tile in self.tiles.values_mut() {
            tile.jobs.drain(..).for_each(|job| self.clerk.ask(job));
        }
    }

    fn queue(&mut self, ops: Vec<Op>) {
        for op in ops {
            if is_data(&op) { self.lane(&op).queue.push_back(op) } else { self.small.push_back(op) }
        }
    }

    /// Submits what there is room for: small operations first, so that publishing never waits behind data.
    fn pump(&mut self) {
        while self.disk.in_flight() < self.disk.capacity() {
            let Some(op) = self.small.pop_front().or_else(|| self.next_data()) else { return };
            self.disk.submit(op);
        }
    }

    /// The next write of pixels that its volume has room for.
    fn next_data(&mut self) -> Option<Op> {
        let depth = self.depth;
        let lane = self.lanes.iter_mut().find(|lane| lane.in_flight < depth && !lane.queue.is_empty())?;
        lane.in_flight += 1;
        lane.queue.pop_front()
    }

    /// Where the pixels of this operation wait. The plan has a lane for every volume there can be.
    fn lane(&mut self, op: &Op) -> &mut Lane {
        let last = self.lanes.len() - 1;
        &mut self.lanes[usize::from(op.tag.volume).min(last)]
    }

    /// Whether no event is to be taken (I1).
    fn is_backlogged(&self) -> bool {
        self.lanes.iter().map(|lane| lane.queue.len()).sum::<usize>() > self.plan.stripe_blocks
    }

    /// Checks a completion (I2) and tells its tile.
    fn settle(&mut self, done: Done) {
        let Done { mut op, result } = done;
        let is_data = is_data(&op);
        self.lane(&op).in_flight -= usize::from(is_data);
        let want = op.bytes_len();
        let mut written = 0;
        let error = match result {
            Ok(count) if count >= want => {
                written = want as u64;
                None
            }
            Ok(count) if count > 0 && op.tag.retries < RETRIES_MAX => {
                if let Action::Write(offset, bytes) = &mut op.action {
                    *offset += bytes.advance(count) as u64;
                }
                return self.again(op, is_data);
            }
            Ok(count) => Some(io::Error::new(io::ErrorKind::WriteZero, format!("{count} of {want} bytes written"))),
            Err(error) if op.tag.retries < retries_max(&error, op.tag.purpose) => return self.again(op, is_data),
            Err(error) => Some(error),
        };
        let tag = op.tag;
        drop(op); // The block's slot returns to the pool before anything else is done.
        let mut out = Vec::new();
        if let Some(tile) = self.tiles.get_mut(&tag.tile) {
            tile.finish(tag, written, error.map(|error| error.to_string()).as_deref(), &mut out);
        }
        self.queue(out);
    }

    fn again(&mut self, mut op: Op, is_data: bool) {
        op.tag.retries += 1;
        if is_data { self.lane(&op).queue.push_front(op) } else { self.small.push_front(op) }
    }
}

fn is_data(op: &Op) -> bool {
    matches!(&op.action, Action::Write(_, Bytes::Block(..) | Bytes::Packed(..)))
}

/// An interruption is no failure. Rows and records are not kept elsewhere, so they are tried again as they are; pages,
/// shared sectors and pixels have their own rules, and a failed sync is never repeated.
fn retries_max(error: &io::Error, purpose: Purpose) -> u8 {
    match error.raw_os_error() {
        Some(libc::EINTR | libc::EAGAIN) => RETRIES_MAX,
        _ if purpose == Purpose::Small => SMALL_RETRIES_MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
