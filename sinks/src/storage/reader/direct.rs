//! Reads in flight: one io_uring that fills pool slots, owned and driven by the thread that reads.
//!
//! # Safety model
//! - I1: a read in flight is owned by `flying`; its slot is in nobody else's hands until the completion is seen, and the
//!   slot's memory does not move with it.
//! - I2: its file descriptor stays open, because the read owns an `Arc` of the file.
//! - I3: dropping the ring first waits until nothing is in flight; if the kernel never answers, what is in flight is
//!   leaked rather than freed.
#![expect(unsafe_code, reason = "hands addresses of owned buffers to the kernel")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use ronchi_pipeline::{SECTOR_BYTES, Slot};

use crate::storage::uring;

/// Times a read goes on after a short read or an interruption.
const RETRIES_MAX: u8 = 16;
const PATIENCE_AT_DROP: Duration = Duration::from_secs(60);

/// A read of `bytes` bytes at `offset` into the beginning of a slot.
#[derive(Debug)]
pub(super) struct Read {
    /// Comes back with the completion.
    pub(super) number: u64,
    /// From which file.
    pub(super) file: Arc<File>,
    /// Where in it, in bytes; on a sector for direct I/O.
    pub(super) offset: u64,
    /// How many.
    pub(super) bytes: usize,
    /// Where to.
    pub(super) slot: Slot,
}

struct Flying {
    read: Read,
    done_bytes: usize,
    retries: u8,
}

/// The ring.
pub(super) struct Ring {
    ring: IoUring,
    flying: Vec<Option<Flying>>,
    free: Vec<usize>,
}

impl Ring {
    /// A ring for `capacity` reads in flight. Errors: the system has no io_uring, or forbids it.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let ring = uring::open(capacity.next_power_of_two() as u32, &[opcode::Read::CODE])?;
        Ok(Self { ring, flying: (0..capacity).map(|_| None).collect(), free: (0..capacity).rev().collect() })
    }

    /// Starts a read; the caller keeps within the capacity.
    pub(super) fn submit(&mut self, read: Read) {
        assert!(read.bytes <= read.slot.bytes().len(), "a read of {} bytes into a smaller slot", read.bytes);
        let number = self.free.pop().expect("the caller keeps within capacity");
        self.push(number, Flying { read, done_bytes: 0, retries: 0 });
    }

    fn push(&mut self, number: usize, mut flying: Flying) {
        let Read { file, offset, bytes, slot, .. } = &mut flying.read;
        let rest = &mut slot.bytes_mut()[flying.done_bytes..*bytes];
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), rest.as_mut_ptr(), rest.len() as u32)
            .offset(*offset + flying.done_bytes as u64)
            .build()
            .user_data(number as u64);
        self.flying[number] = Some(flying);
        // SAFETY: buffer and file are owned by `flying` until the completion is seen (I1, I2).
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enter(Duration::ZERO);
        }
        self.enter(Duration::ZERO);
    }

    fn enter(&mut self, patience: Duration) {
        uring::enter(&self.ring, patience);
    }

    /// Waits for a read to end: the read with its slot, and how that went. `None` when nothing is in flight.
    pub(super) fn wait(&mut self) -> Option<(Read, io::Result<()>)> {
        while self.free.len() < self.flying.len() {
            let completion = self.ring.completion().next();
            match completion {
                Some(completion) => {
                    let number = completion.user_data() as usize;
                    let Some(flying) = self.flying.get_mut(number).and_then(Option::take) else { continue };
                    if let Some(ended) = self.settle(number, flying, completion.result()) {
                        return Some(ended);
                    }
                }
                None => self.enter(Duration::from_millis(100)),
            }
        }
        None
    }

    /// A read that has ended, or goes on with its rest.
    fn settle(&mut self, number: usize, mut flying: Flying, result: i32) -> Option<(Read, io::Result<()>)> {
        let want_bytes = flying.read.bytes;
        let outcome = match usize::try_from(result) {
            Ok(count) if flying.done_bytes + count >= want_bytes => Ok(()),
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) if flying.retries < RETRIES_MAX => {
                let done = flying.done_bytes + count;
                flying.done_bytes = done - done % SECTOR_BYTES; // Direct reads go on at a sector.
                flying.retries += 1;
                self.push(number, flying);
                return None;
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) && flying.retries < RETRIES_MAX => {
                flying.retries += 1;
                self.push(number, flying);
                return None;
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        self.free.push(number);
        Some((flying.read, outcome))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let limit = Instant::now() + PATIENCE_AT_DROP;
        while self.free.len() < self.flying.len() && Instant::now() < limit {
            self.enter(Duration::from_millis(100));
            for completion in self.ring.completion() {
                let number = completion.user_data() as usize;
                if self.flying.get_mut(number).and_then(Option::take).is_some() {
                    self.free.push(number);
                }
            }
        }
        for flying in self.flying.drain(..).flatten() {
            std::mem::forget(flying); // I3
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::Pool;

    /// Reads come back whole with their own bytes, in whatever order; one beyond the end of the file is an error; a ring
    /// that is dropped gives its slots back.
    #[test]
    fn reads_come_back() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..100_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        std::fs::write(&path, &content).expect("file");
        let file = Arc::new(File::open(&path).expect("file"));
        let pool = Pool::new(4, 32 << 10).expect("pool");
        let Ok(mut ring) = Ring::new(4) else {
            eprintln!("skipped: no io_uring here");
            return;
        };
        let read = |number: u64, offset: u64| {
            let slot = pool.take(Duration::ZERO).expect("slot");
            Read { number, file: Arc::clone(&file), offset, bytes: 20_000, slot }
        };
        (0..4).for_each(|i| ring.submit(read(i, i * 30_000)));
        let mut seen = 0;
        while let Some((read, result)) = ring.wait() {
            seen += 1;
            let at = read.offset as usize;
            match read.number {
                3 => assert_eq!(result.expect_err("beyond the end").kind(), io::ErrorKind::UnexpectedEof),
                _ => assert!(result.is_ok() && read.slot.bytes()[..20_000] == content[at..at + 20_000]),
            }
        }
        assert_eq!((seen, pool.free_count()), (4, 4));
        ring.submit(read(0, 0));
        drop(ring);
        assert_eq!(pool.free_count(), 4);
    }
}
