//! `Disk`: the few operations the writer needs of the system, so that a failing disk is a unit test.
//!
//! # Invariants
//! - I1: an operation is moved in and comes back whole with its completion: no borrow crosses a submission.
//! - I2: a disk does not order operations; the writer never has two for the same bytes in flight.
//! - I3: dropping a disk waits for what is in flight.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ronchi_pipeline::{Block, SECTOR_BYTES, Slot};

/// One sector of memory, on a sector boundary.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; SECTOR_BYTES]);

const _: () = assert!(size_of::<Page>() == SECTOR_BYTES && align_of::<Page>() == SECTOR_BYTES);

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

/// Bytes to write; owned, so that they outlive the operation.
#[derive(Debug)]
pub enum Bytes {
    /// A range of a block's slot, in bytes.
    Block(Block, Range<usize>),
    /// A range of a slot that holds a compressed chunk, in bytes: whole sectors.
    Packed(Slot, Range<usize>),
    /// One sector.
    Page(Box<Page>),
    /// Small things of any length, for files without O_DIRECT.
    Small(Vec<u8>),
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Block(block, range) => &block.slot_bytes()[range.clone()],
            Self::Packed(slot, range) => &slot.bytes()[range.clone()],
            Self::Page(page) => &page.0,
            Self::Small(bytes) => bytes,
        }
    }

    /// Drops bytes that are written, of the first `count`; returns how many. The rest is still whole sectors where
    /// the file needs that.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        match self {
            Self::Block(_, range) | Self::Packed(_, range) => {
                let sectors = count - count % SECTOR_BYTES;
                range.start += sectors;
                sectors
            }
            Self::Page(_) => 0,
            Self::Small(bytes) => bytes.drain(..count).count(),
        }
    }
}

/// An open file, with its number among the registered ones if it has one.
#[derive(Debug, Clone)]
pub struct DiskFile {
    /// The file.
    pub file: Arc<File>,
    /// Its place in the table of registered files.
    pub slot: Option<u32>,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Write all bytes at this offset, in bytes.
    Write(u64, Bytes),
    /// `fdatasync`.
    Sync,
}

/// An operation and what it is for.
#[derive(Debug)]
pub struct Op {
    /// On which file.
    pub file: DiskFile,
    /// What.
    pub action: Action,
    /// Whose, for the writer.
    pub tag: Tag,
}

impl Op {
    /// Bytes to write.
    pub fn bytes_len(&self) -> usize {
        match &self.action {
            Action::Write(_, bytes) => bytes.as_slice().len(),
            Action::Sync => 0,
        }
    }
}

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Key of the tile in the writer.
    pub tile: u64,
    /// Segment number.
    pub segment: u64,
    /// Part of it.
    pub purpose: Purpose,
    /// Times it was tried again.
    pub retries: u8,
    /// Which volume takes it: pixels wait for their own disk only.
    pub volume: u8,
}

/// What an operation is for, within a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pixels of the part with this number.
    Part(u32),
    /// The shared sector at this offset, in this version.
    Seam(u64, u32),
    /// Page 0.
    Page,
    /// Rows of the frame table, records of the log.
    Small,
    /// Data sync of the segment.
    Sync,
    /// Data sync of table and log.
    SyncSmall,
}

/// A finished operation: bytes written, 0 for a sync, or the error.
#[derive(Debug)]
pub struct Done {
    /// The operation, back.
    pub op: Op,
    /// Its result.
    pub result: io::Result<usize>,
}

/// Where operations go.
pub trait Disk: Send {
    /// One line for the operator, e.g. `io_uring, registered buffers`.
    fn describe(&self) -> String;

    /// Most operations in flight.
    fn capacity(&self) -> usize;

    /// Operations in flight.
    fn in_flight(&self) -> usize;

    /// Makes a file known; registers it where that is possible.
    fn attach(&mut self, file: File) -> DiskFile;

    /// Makes a small file known without registering it.
    fn attach_plain(&mut self, file: File) -> DiskFile {
        DiskFile { file: Arc::new(file), slot: None }
    }

    /// Forgets a file that has no operation in flight.
    fn detach(&mut self, file: DiskFile);

    /// Takes an operation. The caller keeps within [`Self::capacity`].
    fn submit(&mut self, op: Op);

    /// Collects finished operations, waiting up to `patience` for the first if any is in flight.
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>);
}
