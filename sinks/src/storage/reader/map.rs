//! Read-only mappings of segment files: pixels straight from the page cache.
//!
//! # Safety model
//! A mapping is a promise about other processes: that they neither shorten the file (touching what is gone is a SIGBUS)
//! nor change the bytes that are looked at.
//! - I1: only segments that are final are mapped: sealed ones, or those of a data set that nobody writes. `ronchi` writes
//!   to no such file, and never shortens a segment: it has its full length before it has its name. A file that is
//!   removed keeps its bytes for as long as it is mapped.
//! - I2: a mapping is no longer than the file was when it was opened.
//! - I3: bytes are given out after the kernel has said that they lie in the page cache, or has brought them into memory
//!   for this mapping: what the disk refuses is an error here, not a signal. Left over is the moment in which memory is
//!   so short that pages are dropped at once and the disk fails right then, or another program shortens the file; such a
//!   reader ends by SIGBUS. Where that must not happen (the receiver) files are read, not mapped.
//! - I4: the kernel is given two structures of its own layout that live until it returns.
#![expect(unsafe_code, reason = "maps files, and asks the kernel what of them is in memory")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, Mmap, MmapOptions};

const PAGE_BYTES: usize = 4096;

/// Number of the system call `cachestat` (Linux 6.5), the same on all our architectures.
const CACHESTAT: libc::c_long = 451;

/// A mapped segment. Public for benchmarks; whoever makes one keeps I1.
#[derive(Debug)]
pub struct Map {
    map: Mmap,
    file: File,
    /// Pages may lie in the cache that are still being read: only bringing them tells whether that goes well.
    is_being_read: AtomicBool,
}

impl Map {
    /// Maps the first `bytes` of a final segment. What is not in the page cache will be brought in huge pages where the
    /// file system can: they are found again with one fault per 2 MiB instead of one per 64 KiB, by everybody.
    /// Errors: the file is shorter, or the system refuses.
    pub fn of_final(file: &File, bytes: u64) -> io::Result<Self> {
        if file.metadata()?.len() < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the caller maps final segments only (I1), and the length was checked (I2).
        let map = unsafe { MmapOptions::new().len(bytes).map(file)? };
        let _ = map.advise(Advice::HugePage); // Advice may be refused.
        Ok(Self { map, file: file.try_clone()?, is_being_read: AtomicBool::new(false) })
    }

    /// Brings bytes of the file into memory (I3), and lets the kernel begin to read those after them. Asking costs far less
    /// than bringing: for that the kernel looks at every page, of which a plain touch maps sixteen at once.
    pub fn bring(&self, range: Range<usize>) -> io::Result<()> {
        if range.end > self.map.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = range.start - range.start % PAGE_BYTES;
        let pages = (range.end - start).div_ceil(PAGE_BYTES) as u64;
        let may_ask = !self.is_being_read.load(Ordering::Relaxed);
        if may_ask && self.cached_pages(start as u64, (range.end - start) as u64) == Some(pages) {
            return Ok(());
        }
        self.is_being_read.store(true, Ordering::Relaxed);
        self.map.advise_range(Advice::PopulateRead, start, range.end - start)
    }

    /// Pages of a part of the file that lie in the page cache; `None` where the kernel does not tell.
    fn cached_pages(&self, offset: u64, bytes: u64) -> Option<u64> {
        let part = [offset, bytes];
        let mut counts = [0_u64; 5]; // Cached, dirty, being written, evicted, evicted a moment ago.
        // SAFETY: both arrays have the layout and the size of the structures that the call reads and writes (I4).
        let result = unsafe {
            libc::syscall(CACHESTAT, self.file.as_raw_fd(), part.as_ptr(), counts.as_mut_ptr(), 0 as libc::c_uint)
        };
        (result == 0).then_some(counts[0])
    }

    /// Bytes of the file that were brought in before; none when they lie beyond it.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.map.get(range).unwrap_or(&[])
    }
}
