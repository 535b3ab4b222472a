//! The status of a receiver as one document: what `/api/v1/status` answers and `ronchi watch` reads.
//!
//! The schema is `docs/http-api.md`. Fields are only ever added. All counters are totals since the receiver started, so
//! that any two readings give a rate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use ronchi_pipeline::{GapReason, LinkCounters};
use serde::{Deserialize, Serialize};

use super::board::{Acquisition, Board, State};
use super::picture::{Quality, row_length};
use crate::time::epoch_ns;

/// The whole receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this schema.
    pub v: u32,
    /// Version of the program.
    pub version: String,
    /// Wall clock of this reading, ns since the Unix epoch, UTC.
    pub time_ns: u64,
    /// Age of the receiver, in ns, by the monotonic clock.
    pub uptime_ns: u64,
    /// How frames are written, in words.
    pub write_method: String,
    /// The block pool.
    pub pool: PoolStatus,
    /// The block queues.
    pub queues: Vec<QueueStatus>,
    /// Where data sets go.
    pub disk: DiskStatus,
    /// Detector links in order of their number.
    pub links: Vec<LinkStatus>,
    /// Totals of the live stream.
    pub stream: StreamStatus,
    /// Stages that panicked: the receiver ends as soon as no frame is lost by it. Empty unless there is a bug.
    #[serde(default)]
    pub fallen: Vec<String>,
    /// Acquisitions, newest first; the first is the current one.
    pub acquisitions: Vec<AcquisitionStatus>,
}

/// The block pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Slots nobody holds.
    pub free: u64,
    /// All slots.
    pub total: u64,
    /// Bytes of one slot.
    pub slot_bytes: u64,
}

/// A bounded queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// Blocks in it.
    pub depth: u64,
    /// Most blocks it holds.
    pub capacity: u64,
}

/// Where data sets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Directory; `None` when nothing is recorded.
    pub directory: Option<String>,
    /// Bytes an ordinary user may still write there; `None` when that is not known.
    pub free_bytes: Option<u64>,
    /// Where the segments go, if not there.
    #[serde(default)]
    pub volumes: Vec<VolumeStatus>,
}

/// A directory on another disk that receives segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Directory.
    pub directory: String,
    /// Bytes an ordinary user may still write there; `None` when that is not known, e.g. because it is not mounted.
    pub free_bytes: Option<u64>,
}

/// One detector link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name for people.
    pub name: String,
    /// Whether it is connected to the detector.
    pub connected: bool,
    /// Counters by name, as in `LinkCounters`.
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
}

impl LinkStatus {
    /// One counter; 0 when the receiver does not know it.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

/// Totals of the live stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Messages handed to the transport.
    pub messages: u64,
    /// Messages a transport had no room for.
    pub discarded: u64,
    /// Subscribers connected now.
    #[serde(default)]
    pub subscribers: u64,
    /// Clients over WebSocket now.
    #[serde(default)]
    pub web_clients: u64,
}

/// One acquisition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcquisitionStatus {
    /// UUID.
    pub id: String,
    /// Name of the data set.
    pub name: String,
    /// Directory of the data set; `None` when nothing is recorded.
    pub path: Option<String>,
    /// Where it stands.
    pub state: State,
    /// Whether frames are written.
    pub recording: bool,
    /// Scan shape `[y, x]`.
    pub scan: Option<[u32; 2]>,
    /// Announced number of frames; `None` when the run is open-ended.
    pub frame_count: Option<u64>,
    /// Bytes of one whole frame.
    pub frame_bytes: u64,
    /// Every frame below this one can be read from disk (without recording: was reduced), or is known to be missing.
    pub visible: u64,
    /// Every frame below this one is durable, or is known to be missing.
    pub durable: u64,
    /// Frames of the slowest tile that are durable, wherever they lie: with `missing` beside `durable`, what is really kept.
    #[serde(default)]
    pub durable_count: u64,
    /// Frames below `visible` that are known to be missing, also those that the disk refused: of the tile that lacks most.
    #[serde(default)]
    pub missing: u64,
    /// Frames that are not there, by reason.
    pub gaps: BTreeMap<GapReason, u64>,
    /// What the live images lack.
    pub quality: Quality,
    /// Wall clock at the beginning, ns since the Unix epoch, UTC.
    pub started_ns: u64,
    /// Wall clock at the end.
    pub ended_ns: Option<u64>,
    /// The live images.
    pub results: Vec<ResultStatus>,
}

/// One live image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultStatus {
    /// Its name.
    pub name: String,
    /// Its shape, slow axis first.
    pub shape: Vec<usize>,
    /// Names of its axes.
    pub axes: Vec<String>,
    /// Grows with every change.
    pub version: u64,
    /// Frames it covers, half-open.
    pub frames: [u64; 2],
}

/// Bytes an ordinary user may still write on the file system of `path`.
pub fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Counters of a link with their names, in the order of the struct; `connected` is not among them.
pub fn link_counters(counters: &LinkCounters) -> [(&'static str, u64); 19] {
    let read = LinkCounters::read;
    [
        ("reconnects", read(&counters.reconnects)),
        ("series", read(&counters.series)),
        ("frames", read(&counters.frames)),
        ("bytes", read(&counters.bytes)),
        ("blocks", read(&counters.blocks)),
        ("missing_frames", read(&counters.missing_frames)),
        ("dropped_frames", read(&counters.dropped_frames)),
        ("rejected_frames", read(&counters.rejected_frames)),
        ("damaged_frames", read(&counters.damaged_frames)),
        ("duplicate_frames", read(&counters.duplicate_frames)),
        ("unplaced_frames", read(&counters.unplaced_frames)),
        ("garbage_messages", read(&counters.garbage_messages)),
        ("live_skipped_frames", read(&counters.live_skipped_frames)),
        ("backfilled_frames", read(&counters.backfilled_frames)),
        ("reduced_frames", read(&counters.reduced_frames)),
        ("written_frames", read(&counters.written_frames)),
        ("durable_frames", read(&counters.durable_frames)),
        ("written_bytes", read(&counters.written_bytes)),
        ("waited_ns", read(&counters.waited_ns)),
    ]
}

impl AcquisitionStatus {
    /// What the board says of this acquisition.
    pub fn of(acquisition: &Acquisition) -> Self {
        Self { results: results(acquisition), ..Self::summary(acquisition) }
    }

    /// The same without its images.
    pub fn summary(acquisition: &Acquisition) -> Self {
        Self {
            id: acquisition.id_text(),
            name: acquisition.name.clone(),
            path: acquisition.path.as_ref().map(|path| path.display().to_string()),
            state: acquisition.state,
            recording: acquisition.recording,
            scan: acquisition.scan.map(|scan| [scan.height, scan.width]),
            frame_count: acquisition.frame_count,
            frame_bytes: acquisition.frame_bytes,
            visible: acquisition.visible(),
            durable: acquisition.durable(),
            durable_count: acquisition.durable_count(),
            missing: acquisition.missing(),
            gaps: acquisition.gaps.clone(),
            quality: acquisition.quality,
            started_ns: epoch_ns(acquisition.started),
            ended_ns: acquisition.ended.map(epoch_ns),
            results: Vec::new(),
        }
    }
}

fn results(acquisition: &Acquisition) -> Vec<ResultStatus> {
    let pictures = (0..acquisition.pictures.count()).map(|index| acquisition.pictures.picture(index));
    let result = |picture: Box<dyn super::Picture + '_>| ResultStatus {
        name: picture.name().to_owned(),
        shape: picture.shape(),
        axes: picture.axes().into_iter().map(|axis| axis.name).collect(),
        version: picture.version(),
        frames: [picture.frames().start, picture.frames().end],
    };
    pictures.map(result).collect()
}

impl ResultStatus {
    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.shape.first().map_or(0, |rows| rows * row_length(&self.shape))
    }
}

impl Status {
    /// Reads the whole board; `time` is the wall clock.
    pub fn of(board: &Board, time: SystemTime) -> Self {
        let wiring = &board.wiring;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            v: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time_ns: epoch_ns(time),
            uptime_ns: u64::try_from(board.age().as_nanos()).unwrap_or(u64::MAX),
            write_method: wiring.write_method.clone(),
            pool: PoolStatus {
                free: wiring.pool_free.as_ref().map_or(0, |free| free()),
                total: wiring.pool_slots,
                slot_bytes: wiring.slot_bytes,
            },
            queues: wiring
                .queues
                .iter()
                .map(|q| QueueStatus { name: q.name.clone(), depth: (q.depth)(), capacity: q.capacity })
                .collect(),
            disk: DiskStatus {
                directory: wiring.directory.as_ref().map(|path| path.display().to_string()),
                free_bytes: wiring.directory.as_deref().and_then(disk_free_bytes),
                volumes: wiring.volumes.iter().map(|volume| volume_status(volume)).collect(),
            },
            links: wiring.links.iter().map(link_status).collect(),
            stream: StreamStatus {
                messages: load(&board.stream.messages),
                discarded: load(&board.stream.discarded),
                subscribers: load(&board.stream.subscribers),
                web_clients: load(&board.stream.web_clients),
            },
            fallen: board.fallen().into_iter().map(str::to_owned).collect(),
            acquisitions: board.look(|all| all.iter().rev().map(AcquisitionStatus::of).collect()),
        }
    }
}

fn volume_status(directory: &Path) -> VolumeStatus {
    VolumeStatus { directory: directory.display().to_string(), free_bytes: disk_free_bytes(directory) }
}

fn link_status(link: &super::Link) -> LinkStatus {
    LinkStatus {
        name: link.name.clone(),
        connected: LinkCounters::read(&link.counters.connected) != 0,
        counters: link_counters(&link.counters).into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}
