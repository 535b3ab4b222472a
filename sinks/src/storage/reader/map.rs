//! Read-only mappings of segment files: pixels straight from the page cache.
//!
//! # Safety model
//! A mapping is a promise about other processes: that they neither shorten the file (touching what is gone is a SIGBUS)
//! nor change the bytes that are looked at.
//! - I1: only segments that are final are mapped: sealed ones, or those of a data set that nobody writes. `ronchi` writes
//!   to no such file, and never shortens a segment: it has its full length before it has its name. A file that is
//!   removed keeps its bytes for as long as it is mapped.
//! - I2: a mapping is no longer than the file was when it was opened.
//! - I3: bytes are given out after the kernel has brought them into memory for this mapping: what the disk refuses is
//!   an error here, not a signal. Left over is the moment in which memory is so short that pages are dropped at once
//!   and the disk fails right then, or another program shortens the file; such a reader ends by SIGBUS. Where that must
//!   not happen (the receiver) files are read, not mapped.
#![expect(unsafe_code, reason = "maps files")]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, Mmap, MmapOptions};

const PAGE_BYTES: usize = 4096;

/// A mapped segment. Public for benchmarks; whoever makes one keeps I1.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    /// Maps the first `bytes` of a final segment. Errors: the file is shorter, or the system refuses.
    pub fn of_final(file: &File, bytes: u64) -> io::Result<Self> {
        if file.metadata()?.len() < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the caller maps final segments only (I1), and the length was checked (I2).
        let map = unsafe { MmapOptions::new().len(bytes).map(file)? };
        Ok(Self(map))
    }

    /// Brings bytes of the file into memory (I3).
    pub fn bring(&self, range: Range<usize>) -> io::Result<()> {
        if range.end > self.0.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = range.start - range.start % PAGE_BYTES;
        self.0.advise_range(Advice::PopulateRead, start, range.end - start)
    }

    /// Lets the kernel begin to read bytes that will be wanted.
    pub fn announce(&self, range: Range<usize>) {
        let start = range.start - range.start % PAGE_BYTES;
        let _ = self.0.advise_range(Advice::WillNeed, start, range.end - start); // Advice may be refused.
    }

    /// Bytes of the file that were brought in before; none when they lie beyond it.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or(&[])
    }
}
