//! The validated plan of a receiver: every value is in range, every default is filled in, every limit is a number.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ronchi_pipeline::reduce::{Conditions, Reduction};
use ronchi_pipeline::{Layout, NavShape, Region, Repeats, Scan, ScanOrder, SigShape};

use crate::dectris::DectrisControlPlan;

/// Least reserve unless told otherwise, in bytes.
const RESERVE_BYTES_MIN: u64 = 2 << 30;
/// Unless told otherwise, one part in so many of the file system is the reserve,
const RESERVE_SHARE: u64 = 20;
/// and never more than one part in so many.
const RESERVE_SHARE_MAX: u64 = 4;
/// Segments of a data set on several volumes are not longer than this, in bytes, unless a chunk is.
const STRIPE_BYTES: u64 = 64 << 20;
/// Most volumes.
pub(crate) const VOLUMES_MAX: usize = 16;

/// Blocks that a thread which compresses has, or that wait for it.
const PACKING_PER_THREAD: u32 = 3;
/// Blocks of a link that may wait for chunks of theirs which are being compressed.
const WAITING_PER_LINK: u32 = 16;

/// Everything a receiver needs to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where data sets go and what they are called.
    pub data: DataPlan,
    /// One entry per detector link, at least one.
    pub links: Vec<LinkPlan>,
    /// Shape of the whole detector; needed with several links, otherwise learnt from the stream.
    pub detector: Option<SigShape>,
    /// How frames become scan positions.
    pub scan: ScanPlan,
    /// How pixels are corrected, and which positions count.
    pub conditions: Conditions,
    /// What to compute from every frame.
    pub reductions: Vec<Reduction>,
    /// Where results go.
    pub live: LivePlan,
    /// Sizes of pool and queues.
    pub limits: Limits,
}

/// Where data sets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlan {
    /// Directory that receives `<name>.ronchi`.
    pub directory: PathBuf,
    /// Directories on other disks over which the segments are spread; empty = they lie in the data set.
    pub volumes: Vec<PathBuf>,
    /// Name of the first data set; further ones of the same run get `_0001`, `_0002`, ...
    pub name: String,
    /// Whether frames are written at all; `false` is a live preview and says so everywhere.
    pub record: bool,
}

/// One detector link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// Which protocol, where.
    pub source: SourcePlan,
    /// The part of the detector it delivers; needed with several links.
    pub region: Option<Region>,
}

/// A detector protocol and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourcePlan {
    /// Quantum Detectors Merlin over TCP; we connect.
    Merlin {
        /// Host name or address.
        host: String,
        /// Data port, 6342 unless told.
        data_port: u16,
        /// Whether and how to arm the detector over its control port.
        control: Option<MerlinControlPlan>,
    },
    /// Tile stream over ZMQ PULL (`docs/tile-stream.md`).
    Tiles {
        /// ZMQ endpoint, e.g. `tcp://127.0.0.1:7001`.
        endpoint: String,
        /// Listen there (`true`) or connect to it.
        bind: bool,
    },
    /// DECTRIS STREAM or STREAM2 over ZMQ PULL (`docs/detectors/dectris.md`); we connect.
    Dectris {
        /// Which of both.
        stream: DectrisStream,
        /// ZMQ endpoint, e.g. `tcp://10.0.0.2:31001`.
        endpoint: String,
        /// Sockets that share its messages, 1 unless told.
        sockets: u32,
        /// Whether and how to drive the detector over its REST interface.
        control: Option<DectrisControlPlan>,
    },
    /// A recorded data set, also one that still grows.
    Replay {
        /// Its directory, `NAME.ronchi`.
        path: PathBuf,
        /// Time between two frames; `None` = as fast as they are taken.
        interval: Option<Duration>,
        /// The tile this link plays; `None` = the only one, or every tile on a link of its own.
        tile: Option<u32>,
    },
}

/// The streams of DECTRIS detectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DectrisStream {
    /// STREAM: JSON and pixels in messages of several parts.
    Legacy,
    /// STREAM2: CBOR.
    Cbor,
}

/// How to arm a Merlin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerlinControlPlan {
    /// Control port, 6341 unless told.
    pub port: u16,
    /// `NUMFRAMESTOACQUIRE`; `None` leaves the detector's setting.
    pub frame_count: Option<u64>,
    /// `TRIGGERSTART`.
    pub trigger: Option<MerlinTrigger>,
}

/// Merlin's start trigger: the numbers are those of `TRIGGERSTART`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MerlinTrigger {
    /// At once.
    Internal = 0,
    /// Rising edge, TTL.
    RisingTtl = 1,
    /// Falling edge, TTL.
    FallingTtl = 2,
    /// Rising edge, LVDS.
    RisingLvds = 3,
    /// Falling edge, LVDS.
    FallingLvds = 4,
    /// `SOFTTRIGGER`, which the receiver sends as soon as the detector is armed.
    Soft = 5,
}

/// How frames become scan positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanPlan {
    /// Scan shape; `None` takes the detector's announcement.
    pub shape: Option<NavShape>,
    /// Direction of rows.
    pub order: ScanOrder,
    /// Frames after each row that belong to no position.
    pub flyback: u32,
    /// LiberTEM's sign.
    pub sync_offset: i64,
    /// Frames at each position before the beam moves on.
    pub frames_per_position: u32,
    /// How often the whole scan is run.
    pub passes: u32,
    /// What becomes of the frames of one position.
    pub repeats: Repeats,
}

impl Default for ScanPlan {
    fn default() -> Self {
        Self::of(None, Scan::raster(NavShape { height: 0, width: 0 }))
    }
}

impl ScanPlan {
    /// A plan for a scan as this one, of that shape or the announced one.
    fn of(shape: Option<NavShape>, scan: Scan) -> Self {
        let Scan { order, flyback, sync_offset, frames_per_position, passes, repeats, .. } = scan;
        Self { shape, order, flyback, sync_offset, frames_per_position, passes, repeats }
    }

    /// The scan in force for a series that announced `shape`.
    pub fn scan(&self, announced: Option<NavShape>) -> Option<Scan> {
        let shape = self.shape.or(announced)?;
        let Self { order, flyback, sync_offset, frames_per_position, passes, repeats, .. } = *self;
        Some(Scan { shape, order, flyback, sync_offset, frames_per_position, passes, repeats })
    }

    /// Frames of the whole scan, or of the list that places them; `None` when only the detector knows.
    pub fn frame_count(&self, conditions: &Conditions) -> Option<u64> {
        let listed = conditions.positions.as_ref().map(|list| list.frame_count());
        listed.or_else(|| self.scan(None).map(|scan| scan.frame_count()))
    }
}

impl From<Scan> for ScanPlan {
    fn from(scan: Scan) -> Self {
        Self::of(Some(scan.shape), scan)
    }
}

/// What is computed from frames that were recorded already: the part of a configuration that needs no detector.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// How frames become scan positions; `None` = as recorded.
    pub scan: Option<ScanPlan>,
    /// How pixels are corrected, and which positions count.
    pub conditions: Conditions,
    /// What to compute from every frame.
    pub reductions: Vec<Reduction>,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePlan {
    /// ZMQ XPUB endpoint; `None` = no stream.
    pub zmq: Option<String>,
    /// ZMQ endpoint for clients of karabo-bridge; `None` = none.
    pub karabo: Option<String>,
    /// ZMQ endpoint for viewers of odin-data; `None` = none.
    pub odin: Option<String>,
    /// HTTP listener; `None` = no HTTP.
    pub http: Option<SocketAddr>,
    /// Shortest time between two updates of one result.
    pub update_interval: Duration,
    /// Names in lower case by which this machine is reached, beside `localhost` and its addresses.
    pub hosts: Vec<String>,
    /// Who may do what over HTTP; `None` = whoever reaches the listener may do everything.
    pub auth: Option<AuthPlan>,
    /// Whether HTTP may listen to other machines, unencrypted.
    pub insecure_listen: bool,
}

/// Who may do what over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthPlan {
    /// File of tokens.
    pub tokens: PathBuf,
    /// Whether metrics are told to whoever asks.
    pub metrics_public: bool,
}

impl LivePlan {
    /// Whether HTTP may listen there: on this machine always.
    pub fn may_listen_on(&self, address: SocketAddr) -> bool {
        address.ip().is_loopback() || self.insecure_listen
    }

    /// Every ZMQ endpoint that is asked for, with its key.
    pub fn endpoints(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [("zmq", &self.zmq), ("karabo", &self.karabo), ("odin", &self.odin)];
        named.into_iter().filter_map(|(key, endpoint)| Some((key, endpoint.as_deref()?)))
    }
}

impl Default for LivePlan {
    fn default() -> Self {
        Self {
            zmq: None,
            karabo: None,
            odin: None,
            http: None,
            update_interval: Duration::from_millis(4),
            hosts: Vec::new(),
            auth: None,
            insecure_listen: false,
        }
    }
}

/// Whether chunks are compressed on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// As the detector does it: pixels are stored as they are, and compressed frames stay compressed.
    #[default]
    AsReceived,
    /// Pixels only: compressed frames are decoded when they arrive.
    None,
    /// Everything; frames that come compressed are not compressed again.
    Lz4,
}

/// Sizes fixed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most payload bytes of a block; also the largest frame.
    pub block_bytes: u64,
    /// A block is sealed at this age even if it is not full.
    pub seal_after: Duration,
    /// Blocks the raw queue of the writer holds.
    pub raw_queue_blocks: u32,
    /// Writes in flight.
    pub write_depth: u32,
    /// Blocks the live queue holds.
    pub live_queue_blocks: u32,
    /// Reducer threads.
    pub reducer_count: u32,
    /// Threads that compress, if chunks are compressed.
    pub packer_count: u32,
    /// Whether chunks are compressed.
    pub compress: Compress,
    /// A series without frames for this long has ended (after its first frame).
    pub silence: Duration,
    /// Data sync at least this often while recording.
    pub sync_interval: Duration,
    /// Largest message accepted from a detector, in bytes.
    pub message_bytes: u64,
    /// Largest number of subscribers per live endpoint.
    pub subscriber_count: u32,
    /// Free space that recording leaves alone, in bytes; `None` = [`Limits::reserve_on`] chooses.
    pub reserve_bytes: Option<u64>,
}

impl Plan {
    /// Pool slots: the sum of all blocks that any stage may hold at once.
    pub fn slot_count(&self) -> u32 {
        let limits = &self.limits;
        let filling = self.links.len() as u32;
        let writing = limits.raw_queue_blocks + 1 + self.disk_count() * limits.write_depth + self.stripe_blocks();
        let reducing = limits.live_queue_blocks + limits.reducer_count;
        let packing = match self.is_packing() {
            true => PACKING_PER_THREAD * limits.packer_count + WAITING_PER_LINK * filling,
            false => 0,
        };
        filling + writing + packing + reducing + 1
    }

    /// Whether chunks are compressed, or may come compressed: that takes threads and memory.
    pub fn is_packing(&self) -> bool {
        let may_come = || {
            self.links.iter().any(|link| matches!(link.source, SourcePlan::Tiles { .. } | SourcePlan::Dectris { .. }))
        };
        match self.limits.compress {
            Compress::AsReceived => self.data.record && may_come(),
            Compress::None => false,
            Compress::Lz4 => self.data.record,
        }
    }

    /// Bytes of the pool.
    pub fn pool_bytes(&self) -> u64 {
        u64::from(self.slot_count()) * Layout::slot_bytes(self.limits.block_bytes)
    }

    /// Disks that take segments.
    fn disk_count(&self) -> u32 {
        (self.data.volumes.len() as u32).max(1)
    }

    /// Blocks that wait for one volume while the next ones take theirs: a segment for each but one.
    pub fn stripe_blocks(&self) -> u32 {
        (self.disk_count() - 1) * STRIPE_BYTES.div_ceil(self.limits.block_bytes.max(1)) as u32
    }

    /// Largest segment, in bytes: spread over several volumes they are short, so that all of them are kept busy.
    pub fn segment_bytes_max(&self) -> u64 {
        if self.disk_count() > 1 { STRIPE_BYTES } else { u64::MAX }
    }
}

impl Limits {
    /// Bytes that stay free on a file system of `disk_bytes`: as set, else the larger of 2 GiB and 5 %, but at most a
    /// quarter of it, so that small disks can be used at all.
    pub fn reserve_on(&self, disk_bytes: u64) -> u64 {
        let usual = (disk_bytes / RESERVE_SHARE).max(RESERVE_BYTES_MIN);
        self.reserve_bytes.unwrap_or(usual.min(disk_bytes / RESERVE_SHARE_MAX))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            block_bytes: 4 << 20,
            seal_after: Duration::from_millis(2),
            raw_queue_blocks: 16,
            write_depth: 16,
            live_queue_blocks: 16,
            reducer_count: half_of_the_cores(),
            packer_count: half_of_the_cores(),
            compress: Compress::default(),
            silence: Duration::from_secs(30),
            sync_interval: Duration::from_millis(500),
            message_bytes: 64 << 20,
            subscriber_count: 1024,
            reserve_bytes: None,
        }
    }
}

fn half_of_the_cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 % of a large disk, 2 GiB of a middling one, a quarter of a small one; what is set is taken as it is.
    #[test]
    fn the_usual_reserve() {
        const GIB: u64 = 1 << 30;
        let usual = |disk_bytes| Limits::default().reserve_on(disk_bytes);
        assert_eq!((usual(1000 * GIB), usual(40 * GIB)), (50 * GIB, 2 * GIB));
        assert_eq!((usual(8 * GIB), usual(4 * GIB), usual(12 << 20), usual(0)), (2 * GIB, GIB, 3 << 20, 0));
        for bytes in [0, 1, u64::MAX] {
            assert_eq!(Limits { reserve_bytes: Some(bytes), ..Limits::default() }.reserve_on(GIB), bytes);
        }
    }
}
