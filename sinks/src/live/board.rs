//! The board: what the receiver knows at this moment, written by the reducers and read by every publisher.
//!
//! # Place in the path
//! Right of `Partial`. Reducers merge their partials directly, under the lock, with [`Board::update_id`]; publishers wait
//! with [`Board::wait`] and copy what they need with [`Board::look`]. There is no queue: a reader that is late sees the
//! newest state, never the ones between.
//!
//! # Invariants
//! - I1: nothing on the raw path takes the lock per block: counters and watermarks are atomics shared by `Arc`. Once per
//!   series, with [`Board::begin`], the receive thread does.
//! - I2: the lock is held for merging one partial or for copying rows, never over a send, a write or an encoding.
//! - I3: a version of the board that a waiter has seen is never reported to it as new.
//!
//! # Limits
//! Beginning an acquisition forgets the oldest finished ones, with their images, until [`ACQUISITIONS_MAX`] are left.
//! Unfinished ones stay, up to [`UNFINISHED_MAX`]: beyond that the oldest goes whatever its state.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ronchi_pipeline::{EndReason, FrameIndex, GapReason, LinkCounters, NavShape, Watermarks};
use serde::{Deserialize, Serialize};

use super::picture::{NoPictures, Pictures, Quality};
use super::stages::Stages;

/// Acquisitions the board remembers, the running one included.
pub const ACQUISITIONS_MAX: usize = 4;
/// Acquisitions the board remembers when more than [`ACQUISITIONS_MAX`] are unfinished.
pub const UNFINISHED_MAX: usize = 16;

/// Where an acquisition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Armed; no frame yet.
    Waiting,
    /// Frames arrive.
    Running,
    /// Every announced frame was seen.
    Complete,
    /// It ended before all announced frames came.
    Interrupted,
    /// A stage of the receiver failed.
    Failed,
}

impl State {
    /// Whether no more frames will come.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Complete | Self::Interrupted | Self::Failed)
    }

    /// The word used in messages and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl From<EndReason> for State {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Complete => Self::Complete,
            EndReason::Failed => Self::Failed,
            EndReason::Stopped | EndReason::Disconnected | EndReason::Interrupted => Self::Interrupted,
        }
    }
}

/// One acquisition on the board.
pub struct Acquisition {
    /// Its UUID, big-endian bytes.
    pub id: [u8; 16],
    /// Name of the data set.
    pub name: String,
    /// Directory of the data set; `None` when nothing is recorded.
    pub path: Option<PathBuf>,
    /// Whether frames are written.
    pub recording: bool,
    /// Where it stands.
    pub state: State,
    /// Scan shape in force.
    pub scan: Option<NavShape>,
    /// Announced number of frames.
    pub frame_count: Option<u64>,
    /// Bytes of one whole frame, all links together.
    pub frame_bytes: u64,
    /// Frames that are not there, by reason.
    pub gaps: BTreeMap<GapReason, u64>,
    /// Live quality: what the images lack at this moment.
    pub quality: Quality,
    /// Progress of every tile; the acquisition's is the smallest.
    pub watermarks: Vec<Arc<Watermarks>>,
    /// Wall clock at the beginning.
    pub started: SystemTime,
    /// Wall clock at the end.
    pub ended: Option<SystemTime>,
    /// The live images: set before [`Board::begin`], then only changed.
    pub pictures: Box<dyn Pictures>,
}

impl Acquisition {
    /// A waiting acquisition without images, path or frames.
    pub fn new(id: [u8; 16], name: impl Into<String>, started: SystemTime) -> Self {
        Self {
            id,
            name: name.into(),
            path: None,
            recording: false,
            state: State::Waiting,
            scan: None,
            frame_count: None,
            frame_bytes: 0,
            gaps: BTreeMap::new(),
            quality: Quality::default(),
            watermarks: vec![Arc::default()],
            started,
            ended: None,
            pictures: Box::new(NoPictures),
        }
    }

    /// Every frame below this one can be read from disk (without recording: was reduced), or is known to be missing.
    pub fn visible(&self) -> FrameIndex {
        self.watermarks.iter().map(|tile| tile.visible()).min().unwrap_or(0)
    }

    /// Frames of the slowest tile that are durable, wherever they lie.
    pub fn durable_count(&self) -> u64 {
        self.watermarks.iter().map(|tile| tile.durable_count()).min().unwrap_or(0)
    }

    /// Frames below [`Self::visible`] that are known to be missing: of the tile that lacks most.
    pub fn missing(&self) -> u64 {
        self.watermarks.iter().map(|tile| tile.missing()).max().unwrap_or(0)
    }

    /// Every frame below this one is durable, or is known to be missing.
    pub fn durable(&self) -> FrameIndex {
        self.watermarks.iter().map(|tile| tile.durable()).min().unwrap_or(0)
    }

    /// The UUID as text, e.g. `0c7b1b2e-...`.
    pub fn id_text(&self) -> String {
        ronchi_pipeline::format::uuid_text(&self.id)
    }

    /// The images as the type that computes them, for the reducer that merges; `None` when they are of another type.
    pub fn pictures_mut<P: Pictures>(&mut self) -> Option<&mut P> {
        let any: &mut dyn Any = self.pictures.as_mut();
        any.downcast_mut()
    }

    /// Ends the acquisition.
    pub fn end(&mut self, state: State, ended: SystemTime) {
        self.state = state;
        self.ended = Some(ended);
    }
}

/// A number that is read when somebody asks.
pub type Gauge = Box<dyn Fn() -> u64 + Send + Sync>;

/// One bounded queue.
pub struct Queue {
    /// Name, e.g. `raw` or `live`.
    pub name: String,
    /// Blocks in it now.
    pub depth: Gauge,
    /// Most blocks it holds.
    pub capacity: u64,
}

/// One detector link.
pub struct Link {
    /// Name for people, e.g. `merlin 127.0.0.1:6342`.
    pub name: String,
    /// Its counters.
    pub counters: Arc<LinkCounters>,
}

/// What the wiring of a receiver connects to the board once, at start.
#[derive(Default)]
pub struct Wiring {
    /// Detector links, in order of their number.
    pub links: Vec<Link>,
    /// The block queues.
    pub queues: Vec<Queue>,
    /// Free slots of the pool.
    pub pool_free: Option<Gauge>,
    /// All slots of the pool.
    pub pool_slots: u64,
    /// Bytes of one slot.
    pub slot_bytes: u64,
    /// Directory that receives data sets; its file system's free space is reported.
    pub directory: Option<PathBuf>,
    /// Directories on other disks that receive the segments, in their turn; none: they lie in `directory`.
    pub volumes: Vec<PathBuf>,
    /// Bytes of it, and of every volume, that recording leaves free.
    pub reserve_bytes: u64,
    /// How frames are written, in words, e.g. `io_uring, O_DIRECT`.
    pub write_method: String,
}

/// Totals of the live stream since start.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Messages handed to the transport.
    pub messages: AtomicU64,
    /// Bytes of these messages.
    pub bytes: AtomicU64,
    /// Messages a transport had no room for.
    pub discarded: AtomicU64,
    /// Subscriptions received.
    pub subscriptions: AtomicU64,
    /// Connections of subscribers now: a gauge.
    pub subscribers: AtomicU64,
    /// Subscribers turned away because there were too many.
    pub subscribers_refused: AtomicU64,
    /// Messages sent to clients over WebSocket.
    pub web_messages: AtomicU64,
    /// Bytes of these messages.
    pub web_bytes: AtomicU64,
    /// Clients over WebSocket now: a gauge.
    pub web_clients: AtomicU64,
    /// Clients over WebSocket turned away because there were too many.
    pub web_refused: AtomicU64,
    /// HTTP requests answered.
    pub http_requests: AtomicU64,
    /// HTTP requests and connections refused.
    pub http_refused: AtomicU64,
    /// Those among them that came without a right token.
    pub http_strangers: AtomicU64,
    /// Whether other machines reach the HTTP server unencrypted: a gauge, 0 or 1.
    pub insecure_listens: AtomicU64,
}

struct Inner {
    version: u64,
    closed: bool,
    /// Oldest first; the last is the current one.
    acquisitions: VecDeque<Acquisition>,
}

/// The shared state of a receiver; see the module's documentation.
pub struct Board {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// What was connected at start.
    pub wiring: Wiring,
    /// Totals of the live stream.
    pub stream: StreamCounters,
    /// Tiles whose frames were not all accounted for, since start: anything but 0 is a bug.
    pub violated_laws: AtomicU64,
    pub(super) stages: Stages,
    started: Instant,
}

/// What came of waiting for the board to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The board is now at this version.
    Changed(u64),
    /// Nothing happened in time.
    Unchanged,
    /// The receiver ends.
    Closed,
}

impl Board {
    /// An empty board.
    pub fn new(wiring: Wiring) -> Arc<Self> {
        let inner = Inner { version: 0, closed: false, acquisitions: VecDeque::with_capacity(ACQUISITIONS_MAX) };
        Arc::new(Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            wiring,
            stream: StreamCounters::default(),
            violated_laws: AtomicU64::new(0),
            stages: Stages::default(),
            started: Instant::now(),
        })
    }

    /// A panic while the lock was held leaves at worst an unfinished merge: publishers go on with it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new acquisition on the board and makes it the current one. When there are too many, finished ones go,
    /// oldest first; see the limits above.
    pub fn begin(&self, acquisition: Acquisition) {
        let forgotten = {
            let mut inner = self.lock();
            let forgotten = make_room(&mut inner.acquisitions);
            inner.acquisitions.push_back(acquisition);
            inner.version += 1;
            forgotten
        };
        self.changed.notify_all();
        drop(forgotten); // Outside the lock: freeing images takes time.
    }

    /// Changes the current acquisition and wakes the publishers; `None` when there is none.
    pub fn update<T>(&self, change: impl FnOnce(&mut Acquisition) -> T) -> Option<T> {
        self.change(|acquisitions| acquisitions.back_mut().map(change))
    }

    /// Changes the acquisition of this UUID, also after another has begun: a writer may finish late.
    pub fn update_id<T>(&self, id: &[u8; 16], change: impl FnOnce(&mut Acquisition) -> T) -> Option<T> {
        self.change(|acquisitions| acquisitions.iter_mut().find(|acquisition| acquisition.id == *id).map(change))
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Acquisition>) -> Option<T>) -> Option<T> {
        let result = {
            let mut inner = self.lock();
            let result = change(&mut inner.acquisitions)?;
            inner.version += 1;
            result
        };
        self.changed.notify_all();
        Some(result)
    }

    /// Reads all acquisitions, oldest first. Copy and leave: reducers wait meanwhile (I2).
    pub fn look<T>(&self, read: impl FnOnce(&VecDeque<Acquisition>) -> T) -> T {
        read(&self.lock().acquisitions)
    }

    /// Waits until the board is newer than `seen`, at most `patience`.
    pub fn wait(&self, seen: u64, patience: Duration) -> Waited {
        let waiting = |inner: &mut Inner| inner.version == seen && !inner.closed;
        let (inner, _) =
            self.changed.wait_timeout_while(self.lock(), patience, waiting).unwrap_or_else(PoisonError::into_inner);
        match &*inner {
            inner if inner.closed => Waited::Closed,
            inner if inner.version != seen => Waited::Changed(inner.version),
            _ => Waited::Unchanged,
        }
    }

    /// Tells every publisher that the receiver ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Time since the board was made: the age of the receiver.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Takes off what must go before another acquisition begins.
fn make_room(acquisitions: &mut VecDeque<Acquisition>) -> Vec<Acquisition> {
    let mut forgotten = Vec::new();
    while acquisitions.len() >= ACQUISITIONS_MAX {
        let finished = acquisitions.iter().position(|acquisition| acquisition.state.is_over());
        let oldest = (acquisitions.len() >= UNFINISHED_MAX).then_some(0);
        let Some(index) = finished.or(oldest) else { break };
        forgotten.extend(acquisitions.remove(index));
    }
    forgotten
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("links", &self.wiring.links.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A waiter sees each version once, wakes on a change from another thread, and learns of the end.
    #[test]
    fn waiting_sees_every_change_once() {
        let board = Board::new(Wiring::default());
        assert_eq!(board.wait(0, Duration::ZERO), Waited::Unchanged);
        assert_eq!(board.update(|_| ()), None);
        let writer = Arc::clone(&board);
        let thread = std::thread::spawn(move || writer.begin(Acquisition::new([7; 16], "a", SystemTime::UNIX_EPOCH)));
        assert_eq!(board.wait(0, Duration::from_secs(20)), Waited::Changed(1));
        thread.join().expect("writer");
        assert_eq!(board.wait(1, Duration::ZERO), Waited::Unchanged);
        assert_eq!(board.update(|acquisition| acquisition.name.clone()).as_deref(), Some("a"));
        board.close();
        assert_eq!(board.wait(2, Duration::from_secs(20)), Waited::Closed);
    }

    fn begin_all(board: &Board, ids: std::ops::Range<u8>) {
        for id in ids {
            board.begin(Acquisition::new([id; 16], id.to_string(), SystemTime::UNIX_EPOCH));
        }
    }

    fn finish(board: &Board, id: u8) {
        board.update_id(&[id; 16], |a| a.end(State::Complete, SystemTime::UNIX_EPOCH)).expect("on the board");
    }

    fn ids(board: &Board) -> Vec<u8> {
        board.look(|all| all.iter().map(|acquisition| acquisition.id[0]).collect())
    }

    /// The board forgets the oldest finished acquisition, keeps the rest in order, and finds one by its UUID.
    #[test]
    fn the_board_is_bounded() {
        let board = Board::new(Wiring::default());
        for id in 0..10 {
            begin_all(&board, id..id + 1);
            finish(&board, id);
        }
        assert_eq!(ids(&board), [6, 7, 8, 9]);
        assert!(board.update_id(&[7; 16], |_| ()).is_some());
        assert!(board.update_id(&[5; 16], |_| ()).is_none());
    }

    /// An unfinished acquisition stays while a finished one can go, and beyond the usual number up to the cap; when
    /// they have finished, the next beginning makes up for it.
    #[test]
    fn unfinished_acquisitions_stay() {
        let board = Board::new(Wiring::default());
        begin_all(&board, 0..4);
        finish(&board, 2);
        begin_all(&board, 4..5);
        assert_eq!(ids(&board), [0, 1, 3, 4]);
        begin_all(&board, 5..18);
        let kept: Vec<u8> = [1].into_iter().chain(3..18).collect();
        assert_eq!(kept.len(), UNFINISHED_MAX);
        assert_eq!(ids(&board), kept, "only 0 had to go");
        (8..16).for_each(|id| finish(&board, id));
        begin_all(&board, 18..19);
        assert_eq!(ids(&board), [1, 3, 4, 5, 6, 7, 16, 17, 18]);
        [1, 3, 4, 5, 6, 7, 16, 17].into_iter().for_each(|id| finish(&board, id));
        begin_all(&board, 19..20);
        assert_eq!(ids(&board), [16, 17, 18, 19]);
    }
}
