//! The nouns, the maths and the formats of ronchi: frames, blocks, the buffer pool, scan geometry, reductions, and the
//! segment format as pure byte functions.
//!
//! This crate never opens a file or a socket, reads a clock or starts a thread; everything points at it.
//!
//! ```
//! use ronchi_pipeline::{Layout, PixelType, SigShape};
//!
//! let shape = SigShape { height: 256, width: 256 };
//! let pixel = PixelType::from_numpy_name(">u2").ok_or("pixel type")?;
//! let layout = Layout::choose(shape.pixel_count() * pixel.bytes() as u64, 4 << 20, Some(256), None).ok_or("too large")?;
//! assert_eq!(layout.frames_per_chunk, 32);
//! # Ok::<(), &str>(())
//! ```

mod block;
mod crc;
mod fanout;
pub mod fault;
pub mod format;
mod gap;
mod layout;
mod pool;
pub mod reduce;
mod scan;
mod sensor;
mod series;
mod shape;

pub use block::{Block, BlockMut, CompressedFrames, FrameRecord, Payload};
pub use crc::{CrcJoin, crc32c};
pub use fanout::{FanOut, WriterGone};
pub use gap::{FrameFlag, Gap, GapReason, Gaps};
pub use layout::{CHUNKS_MAX, DATA_OFFSET, Layout, SECTOR_BYTES};
pub use pool::{Pool, Slot};
pub use scan::{Repeats, Scan, ScanOrder, ScanPos, ScanRun};
pub use sensor::{PixelTable, Sensor};
pub use series::{Announcement, Encoding, End, EndReason, Event, LinkCounters, Series, Watermarks};
pub use shape::{AXIS_MAX, ByteOrder, FrameIndex, NavShape, PixelKind, PixelType, Region, SigShape};
