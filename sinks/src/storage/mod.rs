//! The data set on disk: writer, reader, and the directory they share. `docs/format.md` draws every byte.
//!
//! # Place in the path
//! [`Writer`] takes blocks off the raw queue; [`DataSet`] is the directory it writes into; [`Reader`] opens one, also
//! while it grows, for back-fill and tests; [`verify()`] checks everything the format promises.
//!
//! # Invariants
//! - I1: raw bytes are never copied between the pool and the disk, except sectors that blocks share.
//! - I2: nothing is called durable before a sync that was submitted after its writes, and after the page 0 and the table
//!   rows that name it, has ended well.
//! - I3: a failure makes gaps, never wrong pixels, and never stops the rest.
//!
//! # Limits
//! Writes in flight, open segments (two per link, and those being sealed), shared sectors (16 MiB per segment).

mod chunk_log;
mod clerk;
mod clock;
mod companion;
mod data_set;
mod disk;
mod error;
mod facts;
mod file_system;
mod files;
mod packer;
mod plan;
mod pwrite;
mod reader;
mod repair;
mod results;
mod segment;
mod sensor;
mod space;
mod table;
mod tile;
mod unpack;
mod uring;
mod verify;
mod volumes;
mod writer;

pub use clock::{Clock, RealClock};
pub use companion::{Companions, Description, MAPPINGS_MAX, write_companions};
pub use data_set::{DataSet, NewDataSet, ResultArray, TileOutcome};
pub use disk::{Action, Bytes, Disk, DiskFile, Done, Op, Page, Purpose, Tag};
pub use error::StorageError;
pub use facts::{Facts, data_sets_in, is_data_set};
pub use file_system::{Creation, FileSystem, RealFiles};
pub use packer::PackPlan;
pub use plan::{DiskChoice, WriterPlan, WriterReport};
#[doc(hidden)]
pub use reader::Map;
pub use reader::{Access, Condition, Extent, ReadPlan, Reader, ReaderTile, Run, RunGap, Runs, look_at};
pub use repair::{Change, Repair, RepairPlan, repair};
pub use results::StoredResults;
pub use space::{Space, Wanted, tile_bytes};
pub use verify::{Depth, FLAWS_LISTED_MAX, Flaw, Verification, verify};
pub use writer::{NextEvent, OnTileEnd, OpenDataSet, TileEnd, Writer};
