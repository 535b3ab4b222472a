//! The buffer pool: one mapping on 2 MiB pages, cut into equal slots, taken at start and never grown.
//!
//! # Place in the path
//! The receive loop takes a [`Slot`], fills it through `BlockMut`, seals it into a `Block`; the slot returns here when
//! the last clone of that block is dropped, by whichever thread drops it.
//!
//! # Why this way
//! The slot returned last is lent first: its bytes are the likeliest to lie in the caches still, so that a path that
//! keeps up uses a few slots over and over instead of all the memory. A lock and a condition variable guard the list,
//! taken twice per block of some MiB, never per frame; no queue that is free of locks gives that order and waits.
//!
//! # Safety model
//! - I1: a slot index is in the free list or owned by exactly one [`Slot`], never both: only `Slot::drop` returns it.
//! - I2: slots are disjoint, lie inside the mapping, and start on a sector.
//! - I3: a `Slot` gives out `&mut` only through `&mut self`, so sealed (shared) slots are read-only.
//! - I4: the mapping outlives every slot, because each slot holds an `Arc` of its owner.
#![expect(unsafe_code, reason = "maps memory and hands out disjoint slices of it")]

use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::layout::SECTOR_BYTES;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The whole mapping; unmapped when the pool and every slot are gone.
#[derive(Debug)]
struct Mapping {
    mapped: NonNull<u8>,
    mapped_bytes: usize,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory; access is governed by I1 and I3.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is read-only (I3).
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let mapped_bytes = bytes + HUGE_PAGE_BYTES;
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches no existing memory.
        let address = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapped_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let mapped = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = mapped.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `skip < HUGE_PAGE_BYTES`, so base and base + bytes stay inside the mapping (I2).
        let base = unsafe { mapped.add(skip) };
        let mapping = Self { mapped, mapped_bytes, base, bytes };
        // SAFETY: the range lies inside our own mapping; both advices keep its contents. Refusals are harmless:
        // without huge pages direct I/O is slower, without population the first use of each page faults.
        unsafe {
            let _ = madvise(base.as_ptr().cast(), bytes, Advice::LinuxHugepage);
            let _ = madvise(base.as_ptr().cast(), bytes, Advice::LinuxPopulateWrite);
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of our own mmap, and no slot is left (I4).
        let _ = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// What a pool and its slots share: the memory, and which of it is free.
#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    slot_bytes: usize,
    slot_count: u32,
    free: Mutex<Vec<u32>>,
    returned: Condvar,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner) // A list of numbers is never left half changed.
    }
}

/// A fixed number of equal buffers; cloning shares the pool.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

impl Pool {
    /// Maps `slot_count` slots of at least `slot_bytes` each (rounded up to whole sectors), on 2 MiB pages where the
    /// system grants them. Errors: the kernel refuses the memory, or the size overflows.
    pub fn new(slot_count: u32, slot_bytes: usize) -> io::Result<Self> {
        let slot_bytes = slot_bytes.max(1).next_multiple_of(SECTOR_BYTES);
        let bytes = slot_bytes.checked_mul(slot_count as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::new(bytes.max(1).next_multiple_of(HUGE_PAGE_BYTES))?;
        let free = Mutex::new((0..slot_count).rev().collect());
        Ok(Self(Arc::new(Shared { mapping, slot_bytes, slot_count, free, returned: Condvar::new() })))
    }

    /// The free slot that was returned last, waiting up to `patience` for one; `None` when all stay taken.
    pub fn take(&self, patience: Duration) -> Option<Slot> {
        let waited = self.0.returned.wait_timeout_while(self.0.free(), patience, |free| free.is_empty());
        let (mut free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let index = free.pop()?;
        Some(Slot { shared: Arc::clone(&self.0), index })
    }

    /// Slots that nobody holds at this moment.
    pub fn free_count(&self) -> usize {
        self.0.free().len()
    }

    /// All slots.
    pub fn slot_count(&self) -> usize {
        self.0.slot_count as usize
    }

    /// Bytes of one slot.
    pub fn slot_bytes(&self) -> usize {
        self.0.slot_bytes
    }

    /// Address and length of the memory behind all slots, for registration with io_uring.
    pub fn memory(&self) -> (*const u8, usize) {
        (self.0.mapping.base.as_ptr(), self.0.mapping.bytes)
    }
}

/// One buffer, owned; returns to its pool on drop.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    index: u32,
}

impl Slot {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: index < slot_count, so the slot lies inside the mapping (I2).
        unsafe { self.shared.mapping.base.add(self.index as usize * self.shared.slot_bytes) }
    }

    /// The buffer; contents are whatever the last user left.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds (I2), initialised (anonymous mappings are zeroed), not written while shared (I1, I3).
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.shared.slot_bytes) }
    }

    /// The buffer, for its one owner.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: in bounds (I2), initialised, and `&mut self` proves unique access (I1, I3).
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.shared.slot_bytes) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.free().push(self.index); // Within capacity: the list was made with every index (I1).
        self.shared.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots are disjoint, aligned, come back on drop, and the pool refuses rather than grows.
    #[test]
    fn slots_are_lent_and_returned() {
        let pool = Pool::new(3, 5000).expect("small mapping");
        assert_eq!(pool.slot_bytes(), 8192);
        let mut slots: Vec<Slot> = (0..3).map(|_| pool.take(Duration::ZERO).expect("free slot")).collect();
        assert!(pool.take(Duration::ZERO).is_none());
        for (i, slot) in slots.iter_mut().enumerate() {
            slot.bytes_mut().fill(i as u8 + 1);
        }
        for (i, slot) in slots.iter().enumerate() {
            assert_eq!(slot.bytes().as_ptr() as usize % SECTOR_BYTES, 0);
            assert!(slot.bytes().iter().all(|&b| b == i as u8 + 1));
        }
        let returned = slots.remove(1).bytes().as_ptr();
        assert_eq!(pool.free_count(), 1);
        slots.remove(0);
        let returned_last = slots.pop().expect("one left").bytes().as_ptr();
        assert_eq!(pool.take(Duration::ZERO).expect("free slot").bytes().as_ptr(), returned_last);
        assert_ne!(returned, returned_last);
        assert_eq!(pool.free_count(), pool.slot_count());
    }

    /// A slot that outlives its pool keeps the memory mapped.
    #[test]
    fn a_slot_outlives_its_pool() {
        let pool = Pool::new(1, 4096).expect("small mapping");
        let mut slot = pool.take(Duration::ZERO).expect("free slot");
        drop(pool);
        slot.bytes_mut()[4095] = 7;
        assert_eq!(slot.bytes()[4095], 7);
    }
}
