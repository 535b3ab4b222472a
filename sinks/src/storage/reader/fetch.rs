//! Byte ranges of segment files, in the order in which they were asked for, some of them read ahead.
//!
//! # Invariants
//! - I1: ranges come back in the order of asking, each once, whatever the order in which the disk answers.
//!
//! # Limits
//! [`AHEAD_BYTES`] of ranges are on their way at once, but at least one, and [`DEPTH_MAX`] at most; one more slot holds what is
//! being looked at.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ronchi_pipeline::{Pool, SECTOR_BYTES, Slot};
use rustix::fs::{Advice, fadvise};

use super::direct::{Read, Ring};

/// Bytes that are read ahead: sixteen full slots of the usual 4 MiB, which is what brings an NVMe to its rate.
const AHEAD_BYTES: usize = 65 << 20;
/// Most ranges that are read ahead.
const DEPTH_MAX: usize = 16;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// A segment file opened for its pixels.
#[derive(Debug, Clone)]
pub(in crate::storage) struct PixelFile {
    file: Arc<File>,
    /// Around the page cache.
    is_direct: bool,
}

impl PixelFile {
    /// Opens a file around the page cache if that is wanted and the file system can.
    pub(in crate::storage) fn open(path: &Path, is_direct: bool) -> io::Result<Self> {
        if is_direct {
            match File::options().read(true).custom_flags(libc::O_DIRECT).open(path) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return Ok(Self { file: Arc::new(result?), is_direct: true }),
            }
        }
        Ok(Self { file: Arc::new(File::open(path)?), is_direct: false })
    }

    /// Lets the kernel drop what was read from the page cache, or begin to read it.
    fn advise(&self, offset: u64, bytes: usize, advice: Advice) {
        if !self.is_direct {
            let _ = fadvise(&self.file, offset, NonZeroU64::new(bytes as u64), advice); // Advice may be refused.
        }
    }
}

/// A range on its way.
struct Ask {
    number: u64,
    file: PixelFile,
    /// Whole sectors around the range.
    offset: u64,
    bytes: usize,
    /// The range in the slot.
    place: Range<usize>,
    state: State,
}

enum State {
    Queued(Slot),
    Flying,
    Ended(Slot, io::Result<()>),
}

/// What was asked for.
#[derive(Debug)]
pub(in crate::storage) struct Fetched {
    /// Where the bytes are, or would be.
    pub(in crate::storage) slot: Slot,
    /// The range in the slot.
    pub(in crate::storage) place: Range<usize>,
    /// How it went.
    pub(in crate::storage) result: io::Result<()>,
}

/// Reads ranges in order.
pub(in crate::storage) struct Fetcher {
    pool: Pool,
    ring: Option<Ring>,
    depth: usize,
    asked: VecDeque<Ask>,
    next_number: u64,
}

impl Fetcher {
    /// For ranges of at most `range_bytes`; with io_uring if `is_ahead` and the system has it. Errors: no memory.
    pub(in crate::storage) fn new(range_bytes: u64, is_ahead: bool) -> io::Result<Self> {
        let slot_bytes = usize::try_from(range_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let slot_bytes = slot_bytes.next_multiple_of(SECTOR_BYTES) + SECTOR_BYTES;
        let wanted = (AHEAD_BYTES / slot_bytes.max(1)).clamp(1, DEPTH_MAX);
        let ring = if is_ahead { Ring::new(wanted).ok() } else { None };
        let depth = if is_ahead { wanted } else { 1 };
        let pool = Pool::new(depth as u32 + 1, slot_bytes)?;
        Ok(Self { pool, ring, depth, asked: VecDeque::new(), next_number: 0 })
    }

    /// Whether another range may be asked for now.
    pub(in crate::storage) fn has_room(&self) -> bool {
        self.asked.len() < self.depth
    }

    /// Asks for a range; the caller asks [`Self::has_room`] first and holds one [`Fetched`] at most.
    pub(in crate::storage) fn ask(&mut self, file: &PixelFile, range: Range<u64>) {
        let slot = self.pool.take(Duration::ZERO).expect("a slot for every range in flight and one that is looked at");
        let offset = range.start - range.start % SECTOR;
        let bytes = (range.end.next_multiple_of(SECTOR) - offset) as usize;
        let start = (range.start - offset) as usize;
        let place = start..start + (range.end - range.start) as usize;
        let (number, file) = (self.next_number, file.clone());
        self.next_number += 1;
        let state = match &mut self.ring {
            Some(ring) => {
                ring.submit(Read { number, file: Arc::clone(&file.file), offset, bytes, slot });
                State::Flying
            }
            None => {
                file.advise(offset, bytes, Advice::WillNeed);
                State::Queued(slot)
            }
        };
        self.asked.push_back(Ask { number, file, offset, bytes, place, state });
    }

    /// The range that was asked for first, waiting for it. `None` when none is on its way.
    pub(in crate::storage) fn next(&mut self) -> Option<Fetched> {
        let Ask { number, file, offset, bytes, place, state } = self.asked.pop_front()?;
        let (slot, result) = match state {
            State::Ended(slot, result) => (slot, result),
            State::Queued(mut slot) => {
                let result = file.file.read_exact_at(&mut slot.bytes_mut()[..bytes], offset);
                (slot, result)
            }
            State::Flying => self.wait_for(number)?,
        };
        file.advise(offset, bytes, Advice::DontNeed);
        Some(Fetched { slot, place, result })
    }

    /// Waits for one read; others that end before it are kept (I1).
    fn wait_for(&mut self, number: u64) -> Option<(Slot, io::Result<()>)> {
        loop {
            let (read, result) = self.ring.as_mut()?.wait()?;
            if read.number == number {
                return Some((read.slot, result));
            }
            if let Some(ask) = self.asked.iter_mut().find(|ask| ask.number == read.number) {
                ask.state = State::Ended(read.slot, result);
            }
        }
    }

    /// How ranges are read, in words.
    pub(in crate::storage) fn describe(&self) -> String {
        match &self.ring {
            Some(_) => format!("io_uring, depth {}", self.depth),
            None => "plain reads".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges of any place and length come in order with their own bytes, on every kind of access; one that reaches
    /// beyond the file is an error and spoils no other.
    #[test]
    fn ranges_in_order() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("folder");
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..50_u32 * 4096).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&path, &content).expect("file");
        for (is_direct, is_ahead) in [(true, true), (true, false), (false, true), (false, false)] {
            let file = PixelFile::open(&path, is_direct).expect("file");
            let mut fetcher = Fetcher::new(21_000, is_ahead).expect("memory");
            let ranges: Vec<Range<u64>> = (0..42).map(|i| i * 4700 + i % 3..i * 4700 + i % 3 + 1 + i * 500).collect();
            let mut left = ranges.iter();
            let mut next = left.next();
            for range in &ranges {
                while let Some(asked) = next.filter(|_| fetcher.has_room()) {
                    fetcher.ask(&file, asked.clone());
                    next = left.next();
                }
                let fetched = fetcher.next().expect("was asked for");
                let expected = &content[range.start as usize..(range.end as usize).min(content.len())];
                let is_inside = range.end <= content.len() as u64;
                assert_eq!(fetched.result.is_ok(), is_inside, "{range:?}");
                assert!(!is_inside || fetched.slot.bytes()[fetched.place] == *expected, "{range:?}");
            }
            assert!(fetcher.next().is_none());
        }
    }
}
