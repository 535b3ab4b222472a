//! Chunks of the segment that is checked, read around the page cache and ahead of the check.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ronchi_pipeline::DATA_OFFSET;

use crate::storage::reader::fetch::{Fetched, Fetcher, PixelFile};

/// The reads, and the chunk that is looked at.
pub(super) struct Ahead {
    fetcher: Option<Fetcher>,
    chunk_bytes: u64,
    file: Option<PixelFile>,
    /// Chunks that will be looked at, in order, and those of them that are on their way.
    wanted: VecDeque<u32>,
    asked: VecDeque<u32>,
    current: Option<Fetched>,
}

impl Ahead {
    /// For chunks of `chunk_bytes`, a size that was checked; takes no memory yet.
    pub(super) fn new(chunk_bytes: u64) -> Self {
        let (wanted, asked) = (VecDeque::new(), VecDeque::new());
        Self { fetcher: None, chunk_bytes, file: None, wanted, asked, current: None }
    }

    /// Begins with the chunks of another segment that may be looked at, in order. Errors: no memory, or no file.
    pub(super) fn begin(&mut self, path: &Path, chunks: impl Iterator<Item = u32>) -> io::Result<()> {
        self.current = None;
        let mut fetcher = match self.fetcher.take() {
            Some(fetcher) => fetcher,
            None => Fetcher::new(self.chunk_bytes, true)?,
        };
        while fetcher.next().is_some() {}
        self.fetcher = Some(fetcher);
        self.asked.clear();
        self.wanted = chunks.collect();
        self.file = Some(PixelFile::open(path, true)?);
        Ok(())
    }

    /// Brings a chunk, later than the last one; those before it are let go.
    pub(super) fn bring(&mut self, chunk: u32) -> io::Result<()> {
        self.current = None;
        loop {
            self.ask();
            let fetched = self.asked.pop_front().zip(self.fetcher.as_mut().and_then(Fetcher::next));
            let Some((number, fetched)) = fetched else { return Err(io::Error::other("not read ahead")) };
            if number == chunk {
                self.ask();
                let Fetched { slot, place, result } = fetched;
                self.current = Some(Fetched { slot, place, result: Ok(()) });
                return result;
            }
        }
    }

    fn ask(&mut self) {
        let (Some(file), Some(fetcher)) = (&self.file, &mut self.fetcher) else { return };
        while fetcher.has_room()
            && let Some(chunk) = self.wanted.pop_front()
        {
            fetcher.ask(file, range(chunk, self.chunk_bytes));
            self.asked.push_back(chunk);
        }
    }

    /// Reads the chunk that was brought once more, from the plain file.
    pub(super) fn bring_again(&mut self, chunk: u32, file: &File) -> io::Result<()> {
        let Some(Fetched { slot, place, .. }) = &mut self.current else { return Ok(()) };
        file.read_exact_at(&mut slot.bytes_mut()[place.clone()], range(chunk, self.chunk_bytes).start)
    }

    /// Pixels of the chunk that was brought.
    pub(super) fn pixels(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |fetched| &fetched.slot.bytes()[fetched.place.clone()])
    }
}

fn range(chunk: u32, chunk_bytes: u64) -> Range<u64> {
    let start = DATA_OFFSET + u64::from(chunk) * chunk_bytes;
    start..start + chunk_bytes
}
