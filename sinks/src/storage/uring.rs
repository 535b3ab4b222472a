//! Operations by io_uring: one ring, owned and driven by the writer thread.
//!
//! # Safety model
//! - I1: an operation in flight is owned by `flying`; its bytes live behind a `Block` (shared, read-only), a `Slot`,
//!   a `Box` or a `Vec`, none of which moves its bytes or is touched until the completion is seen.
//! - I2: its file descriptor stays open, because the operation owns an `Arc` of the file.
//! - I3: dropping the ring first waits until nothing is in flight; if the kernel never answers, what is in flight is
//!   leaked rather than freed.
//! - I4: registered memory belongs to a pool that this ring keeps alive, so an address inside it always means the pages
//!   that were registered.
#![expect(unsafe_code, reason = "hands addresses of owned buffers to the kernel")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use ronchi_pipeline::Pool;

use super::disk::{Action, Disk, DiskFile, Done, Op};

const FILES_MAX: u32 = 64;
/// The kernel's limit for one registered buffer.
const REGISTERED_BYTES_MAX: usize = 1 << 30;
const PATIENCE_AT_DROP: Duration = Duration::from_secs(60);

/// The ring.
pub(super) struct Uring {
    ring: IoUring,
    flying: Vec<Option<Op>>,
    free: Vec<usize>,
    file_slots: Vec<u32>,
    memory: Option<Registered>,
    note: String,
}

/// Memory of the pool as the kernel knows it: regions of `REGISTERED_BYTES_MAX`, the last one shorter.
struct Registered {
    start: usize,
    bytes: usize,
    _pool: Pool, // I4
}

impl Registered {
    /// Number of the registered region that holds all these bytes.
    fn region(&self, bytes: &[u8]) -> Option<u16> {
        let first = (bytes.as_ptr() as usize).checked_sub(self.start)?;
        let last = first + bytes.len().checked_sub(1)?;
        let region = first / REGISTERED_BYTES_MAX;
        let is_inside = last < self.bytes && last / REGISTERED_BYTES_MAX == region;
        u16::try_from(region).ok().filter(|_| is_inside)
    }
}

impl Uring {
    /// A ring for `capacity` operations; registers the pool's memory if one is given and the limits allow it.
    pub(super) fn new(capacity: usize, pool: Option<&Pool>) -> io::Result<Self> {
        let entries = capacity.next_power_of_two().min(4096) as u32;
        let ring = open(entries, &[opcode::Write::CODE, opcode::WriteFixed::CODE, opcode::Fsync::CODE])?;
        let file_slots = match ring.submitter().register_files_sparse(FILES_MAX) {
            Ok(()) => (0..FILES_MAX).collect(),
            Err(_) => Vec::new(),
        };
        let (memory, note) = match pool.map(|pool| register(&ring, pool)) {
            None => (None, "unregistered buffers".to_owned()),
            Some(Ok(memory)) => (Some(memory), "registered buffers".to_owned()),
            Some(Err(error)) => (None, format!("unregistered buffers ({error}: raise LimitMEMLOCK to register them)")),
        };
        let flying = (0..capacity).map(|_| None).collect();
        Ok(Self { ring, flying, free: (0..capacity).rev().collect(), file_slots, memory, note })
    }

    fn entry(&self, op: &Op, number: usize) -> squeue::Entry {
        let plain = Fd(op.file.file.as_raw_fd());
        let entry = match &op.action {
            Action::Sync => match op.file.slot {
                Some(slot) => opcode::Fsync::new(Fixed(slot)).flags(FsyncFlags::DATASYNC).build(),
                None => opcode::Fsync::new(plain).flags(FsyncFlags::DATASYNC).build(),
            },
            Action::Write(offset, bytes) => {
                let bytes = bytes.as_slice();
                let (address, len) = (bytes.as_ptr(), bytes.len().min(1 << 30) as u32);
                let region = self.memory.as_ref().and_then(|memory| memory.region(bytes));
                match (op.file.slot, region) {
                    (Some(slot), Some(region)) => {
                        opcode::WriteFixed::new(Fixed(slot), address, len, region).offset(*offset).build()
                    }
                    (Some(slot), None) => opcode::Write::new(Fixed(slot), address, len).offset(*offset).build(),
                    (None, Some(region)) => {
                        opcode::WriteFixed::new(plain, address, len, region).offset(*offset).build()
                    }
                    (None, None) => opcode::Write::new(plain, address, len).offset(*offset).build(),
                }
            }
        };
        entry.user_data(number as u64)
    }

    fn enter(&mut self, patience: Duration) {
        enter(&self.ring, patience);
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        for completion in self.ring.completion() {
            let number = completion.user_data() as usize;
            let Some(op) = self.flying.get_mut(number).and_then(Option::take) else { continue };
            self.free.push(number);
            let result = match completion.result() {
                count if count >= 0 => Ok(count as usize),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
            done.push(Done { op, result });
        }
    }
}

/// A ring for so many entries, on which these operations work. Errors: the system has no io_uring, or forbids it.
pub(super) fn open(entries: u32, operations: &[u8]) -> io::Result<IoUring> {
    let ring = IoUring::new(entries)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match operations.iter().all(|&operation| probe.is_supported(operation)) {
        true => Ok(ring),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Hands queued entries to the kernel and waits up to `patience` for one completion. Refusals for lack of resources or by a
/// signal are answered by the next call.
pub(super) fn enter(ring: &IoUring, patience: Duration) {
    let limit = Timespec::from(patience);
    let result = match patience.is_zero() {
        true => ring.submitter().submit(),
        false => ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit)),
    };
    if let Err(error) = result
        && !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
    {
        tracing::error!(%error, "io_uring refuses to work");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn register(ring: &IoUring, pool: &Pool) -> io::Result<Registered> {
    let (start, bytes) = pool.memory();
    let regions: Vec<libc::iovec> = (0..bytes)
        .step_by(REGISTERED_BYTES_MAX)
        .map(|at| libc::iovec {
            iov_base: start.wrapping_add(at).cast_mut().cast(),
            iov_len: (bytes - at).min(REGISTERED_BYTES_MAX),
        })
        .collect();
    // SAFETY: the regions are the pool's own mapping, which stays mapped while `_pool` lives (I4).
    unsafe { ring.submitter().register_buffers(&regions)? };
    Ok(Registered { start: start as usize, bytes, _pool: pool.clone() })
}

impl Disk for Uring {
    fn describe(&self) -> String {
        format!("io_uring, {}", self.note)
    }

    fn capacity(&self) -> usize {
        self.flying.len()
    }

    fn in_flight(&self) -> usize {
        self.flying.len() - self.free.len()
    }

    fn attach(&mut self, file: File) -> DiskFile {
        let slot = self.file_slots.pop().filter(|&slot| {
            self.ring.submitter().register_files_update(slot, &[file.as_raw_fd()]).is_ok_and(|count| count == 1)
        });
        DiskFile { file: Arc::new(file), slot }
    }

    fn detach(&mut self, file: DiskFile) {
        if let Some(slot) = file.slot
            && self.ring.submitter().register_files_update(slot, &[-1]).is_ok()
        {
            self.file_slots.push(slot);
        }
    }

    fn submit(&mut self, op: Op) {
        let number = self.free.pop().expect("the writer keeps within capacity");
        let entry = self.entry(&op, number);
        self.flying[number] = Some(op);
        loop {
            // SAFETY: buffer and file are owned by `flying` until the completion is seen (I1, I2).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter(Duration::ZERO);
        }
    }

    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        let before = done.len();
        if !self.ring.submission().is_empty() {
            self.enter(Duration::ZERO);
        }
        self.collect(done);
        if done.len() == before && self.in_flight() > 0 && !patience.is_zero() {
            self.enter(patience);
            self.collect(done);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let limit = Instant::now() + PATIENCE_AT_DROP;
        let mut done = Vec::new();
        while self.in_flight() > 0 && Instant::now() < limit {
            self.reap(Duration::from_millis(100), &mut done);
            done.clear();
        }
        for op in self.flying.drain(..).flatten() {
            std::mem::forget(op); // I3
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::Pool;

    /// Only bytes wholly inside one registered region are written as registered.
    #[test]
    fn regions_hold_whole_ranges() {
        let pool = Pool::new(1, 8192).expect("pool");
        let (start, bytes) = pool.memory();
        let memory = Registered { start: start as usize, bytes: 8192, _pool: pool.clone() };
        let slot = pool.take(Duration::ZERO).expect("slot");
        assert!(bytes >= 8192);
        assert_eq!(memory.region(&slot.bytes()[4096..8192]), Some(0));
        assert_eq!(memory.region(&slot.bytes()[..0]), None);
        assert_eq!(memory.region(&[0; 16]), None);
    }
}
