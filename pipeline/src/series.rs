//! What travels in-band along the path: the beginning of a series, its blocks, and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::format::bslz4;
use crate::gap::Gaps;
use crate::layout::Layout;
use crate::{FrameIndex, NavShape, PixelType, Region, Sensor, SigShape};

/// The form in which the frames of a series come and travel; one for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// Pixels, as [`PixelType`] says.
    #[default]
    Raw,
    /// Every frame for itself in bit-transposed LZ4 blocks, framed as HDF5 filter 32008 does it (`format::bslz4`).
    Bslz4,
}

impl Encoding {
    /// The word for it in the tile stream.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Bslz4 => "bslz4",
        }
    }

    /// The encoding that this word stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Raw, Self::Bslz4].into_iter().find(|encoding| encoding.name() == name)
    }

    /// Most bytes that a frame of `frame_bytes` of pixels may have in this form, which are also those of its place in a
    /// block. LZ4 makes noise longer, by a part in 42 in blocks of 1 KiB and less in longer ones: one in 32 is granted.
    pub fn place_bytes(self, frame_bytes: u64) -> u64 {
        match self {
            Self::Raw => frame_bytes,
            Self::Bslz4 => frame_bytes.saturating_add(frame_bytes / 32).saturating_add(64),
        }
    }

    /// As [`Layout::choose`], for frames that come in this form: as many in a chunk as have their place in a block, and
    /// one where blocks of compressed frames cannot lie together in a chunk.
    pub fn layout(
        self,
        frame_bytes: u64,
        pixel: PixelType,
        block_bytes_max: u64,
        row: Option<u32>,
        announced: Option<u64>,
    ) -> Option<Layout> {
        let fit = block_bytes_max / self.place_bytes(frame_bytes).max(1);
        let is_joint = match self {
            Self::Raw => return Layout::choose(frame_bytes, block_bytes_max, row, announced),
            Self::Bslz4 => bslz4::is_usually_joint(frame_bytes, pixel.bytes()),
        };
        let fit = if is_joint { fit } else { fit.min(1) };
        Layout::choose(frame_bytes, fit * frame_bytes, row, announced)
    }
}

/// What a source says of a series before its first frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// The detector's name of the run; links of one detector that send the same id belong together.
    pub series_id: String,
    /// Number of frames announced; `None` when the run is open-ended.
    pub frame_count: Option<u64>,
    /// Scan shape, where the detector knows it.
    pub scan: Option<NavShape>,
    /// Shape of the whole detector.
    pub detector: SigShape,
    /// The part of it this source delivers.
    pub region: Region,
    /// Pixel type as stored.
    pub pixel: PixelType,
    /// The form in which its frames come.
    pub encoding: Encoding,
    /// The vendor's header or other text worth keeping, as received.
    pub vendor_header: String,
    /// What the detector says of its pixels.
    pub sensor: Sensor,
}

/// One link's part of one acquisition: immutable, shared by every block of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Identity of the acquisition (UUID, big-endian bytes); the same for all its links.
    pub acquisition: [u8; 16],
    /// Name of the data set, without `.ronchi`.
    pub name: String,
    /// Number of this link, from 0: the tile id on disk.
    pub link: u32,
    /// Number of links of the acquisition.
    pub link_count: u32,
    /// What the source announced.
    pub announced: Announcement,
    /// Scan shape in force: the user's, else the detector's, else none.
    pub scan: Option<NavShape>,
    /// Sizes of frames, chunks and segments.
    pub layout: Layout,
    /// Whether frames go to disk; only then are their checksums taken.
    pub is_recorded: bool,
}

/// How a series ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// All announced frames were seen.
    Complete,
    /// The detector was stopped, or armed anew, before all announced frames came.
    Stopped,
    /// The connection ended or failed.
    Disconnected,
    /// The operator stopped the receiver.
    Interrupted,
    /// A stage of the receiver failed.
    Failed,
}

/// The end of one link's part: what was seen, and what was not.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The series that ended.
    pub series: Arc<Series>,
    /// How.
    pub reason: EndReason,
    /// Frames in the series: the announced number, or for an open-ended run one more than the last frame seen.
    pub frame_count: u64,
    /// Frames received whole, each counted once.
    pub received_count: u64,
    /// Frames that did not come, with reasons; `frame_count = received_count + gaps`.
    pub gaps: Gaps,
}

/// What the receive loop sends to writers and reducers, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A series begins on this link.
    Begin(Arc<Series>),
    /// Frames of it.
    Block(Block),
    /// It has ended; no more blocks of it follow.
    End(Arc<End>),
}

/// Counters of one link: written by the thread that counts, read by metrics and status. All are totals since start.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// 1 while connected to the detector.
    pub connected: AtomicU64,
    /// Connections lost or refused after the first.
    pub reconnects: AtomicU64,
    /// Series begun.
    pub series: AtomicU64,
    /// Frames received whole.
    pub frames: AtomicU64,
    /// Bytes off the wire, headers included.
    pub bytes: AtomicU64,
    /// Blocks sealed.
    pub blocks: AtomicU64,
    /// Frames that never arrived.
    pub missing_frames: AtomicU64,
    /// Frames that the detector says it dropped because nobody fetched them in time.
    pub dropped_frames: AtomicU64,
    /// Frames that arrived broken.
    pub rejected_frames: AtomicU64,
    /// Frames that arrived whole in their compressed form, and cannot be decoded.
    pub damaged_frames: AtomicU64,
    /// Frames that arrived again.
    pub duplicate_frames: AtomicU64,
    /// Frames that arrived too late, or beyond the announced number, to be placed.
    pub unplaced_frames: AtomicU64,
    /// Messages that were not frames: garbage, unknown types.
    pub garbage_messages: AtomicU64,
    /// Frames the live queue skipped.
    pub live_skipped_frames: AtomicU64,
    /// Skipped frames that were reduced later from disk.
    pub backfilled_frames: AtomicU64,
    /// Frames reduced, live or later.
    pub reduced_frames: AtomicU64,
    /// Frames written.
    pub written_frames: AtomicU64,
    /// Frames durable.
    pub durable_frames: AtomicU64,
    /// Bytes handed to the disk, headers and rewritten sectors included.
    pub written_bytes: AtomicU64,
    /// Time the receive thread waited for room in the raw queue or pool, in ns: back-pressure on the detector.
    pub waited_ns: AtomicU64,
}

impl LinkCounters {
    /// Adds to one counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads one counter.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Two prefixes of one tile's frames: set by the stage that advances them, without a lock.
#[derive(Debug, Default)]
pub struct Watermarks {
    visible: AtomicU64,
    durable: AtomicU64,
    missing: AtomicU64,
    durable_count: AtomicU64,
}

impl Watermarks {
    /// Every frame below this one can be read (without recording: was reduced), or is known to be missing.
    pub fn visible(&self) -> FrameIndex {
        self.visible.load(Ordering::Relaxed)
    }

    /// Every frame below this one is durable on disk, or known to be missing.
    pub fn durable(&self) -> FrameIndex {
        self.durable.load(Ordering::Relaxed)
    }

    /// Frames below the visible watermark that are not there, as far as is known now.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Frames that are durable on disk, wherever they lie.
    pub fn durable_count(&self) -> u64 {
        self.durable_count.load(Ordering::Relaxed)
    }

    /// Says how many frames are missing, and how many durable.
    pub fn count(&self, missing: u64, durable_count: u64) {
        self.missing.store(missing, Ordering::Relaxed);
        self.durable_count.store(durable_count, Ordering::Relaxed);
    }

    /// Raises the visible watermark; a lower value changes nothing.
    pub fn raise_visible(&self, frame: FrameIndex) {
        self.visible.fetch_max(frame, Ordering::Relaxed);
    }

    /// Raises the durable watermark; a lower value changes nothing.
    pub fn raise_durable(&self, frame: FrameIndex) {
        self.durable.fetch_max(frame, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{ByteOrder, PixelKind};

    /// A series of one-row u8 frames for tests.
    pub(crate) fn series(frame_bytes: u32, frames_per_chunk: u32, chunks_per_segment: u32) -> Arc<Series> {
        let detector = SigShape { height: 1, width: frame_bytes };
        let announced = Announcement {
            series_id: "test".into(),
            frame_count: None,
            scan: None,
            detector,
            region: detector.region(),
            pixel: PixelType::new(PixelKind::U8, ByteOrder::Little),
            encoding: Encoding::Raw,
            vendor_header: String::new(),
            sensor: Sensor::default(),
        };
        let layout = Layout { frame_bytes: u64::from(frame_bytes), frames_per_chunk, chunks_per_segment };
        Arc::new(Series {
            acquisition: [1; 16],
            name: "test".into(),
            link: 0,
            link_count: 1,
            announced,
            scan: None,
            layout,
            is_recorded: true,
        })
    }
}
