//! Threads that compress chunks, beside the writer thread and behind it.
//!
//! # Place in the path
//! The writer hands in a chunk with a buffer for the result, and writes what comes back. A chunk for which no thread is
//! free in time is stored as it is, in the same kind of frame: compression takes spare cores, never the detector's time.
//!
//! # Limits
//! All buffers are taken at start: one per chunk being compressed, queued or written, and some in which chunks that come in
//! pieces are put together. The queue holds two chunks per thread.
//!
//! # Errors
//! Compression cannot fail. When a thread dies of a bug the writer hears of it and dies as well.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::format::blosc;
use ronchi_pipeline::{Block, Pool, SECTOR_BYTES, Slot, crc32c};

/// Chunks that wait for each thread. `Limits::slot_count` counts on it.
const QUEUE_PER_THREAD: usize = 2;
/// Chunks in pieces that a segment may hold.
pub(super) const ASSEMBLIES_MAX: usize = 2;
/// Open segments of a link, two series of it at once.
const SEGMENTS_PER_LINK: usize = 6;

/// How to compress.
#[derive(Clone)]
pub struct PackPlan {
    /// Threads; 0 compresses in the writer's own.
    pub threads: u32,
    /// Largest chunk, in bytes: the largest block.
    pub chunk_bytes_max: u64,
    /// Links whose series may be written at once.
    pub link_count: u32,
    /// Called first on every thread, e.g. to lower its priority.
    pub on_start: Arc<dyn Fn() + Send + Sync>,
}

impl PackPlan {
    /// Bytes of all buffers, for `depth` writes in flight.
    pub fn buffer_bytes(&self, depth: u32) -> u64 {
        (self.output_count(depth) + self.assembly_count()) as u64 * self.slot_bytes() as u64
    }

    fn output_count(&self, depth: u32) -> usize {
        self.threads.max(1) as usize * (QUEUE_PER_THREAD + 1) + depth.max(1) as usize + 1
    }

    fn assembly_count(&self) -> usize {
        let in_pieces = self.link_count.max(1) as usize * SEGMENTS_PER_LINK * ASSEMBLIES_MAX;
        in_pieces + self.threads.max(1) as usize * (QUEUE_PER_THREAD + 1)
    }

    fn slot_bytes(&self) -> usize {
        blosc::bytes_max(self.chunk_bytes_max as usize, blosc::BLOCK_BYTES).next_multiple_of(SECTOR_BYTES)
    }
}

impl std::fmt::Debug for PackPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackPlan({} threads)", self.threads)
    }
}

/// Whose chunk it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackKey {
    pub(super) tile: u64,
    pub(super) segment: u64,
    pub(super) version: u32,
}

/// Pixels of a whole chunk; missing frames are zeros.
pub(super) enum Pixels {
    Block(Block),
    Assembly(Slot),
}

/// A chunk to compress.
pub(super) struct PackJob {
    pub(super) key: PackKey,
    pub(super) pixels: Pixels,
    pub(super) chunk_bytes: usize,
    pub(super) item_bytes: usize,
    pub(super) out: Slot,
}

/// A compressed chunk: the first `stored_bytes` of `out`, zeros to a whole sector behind them.
pub(super) struct PackDone {
    pub(super) key: PackKey,
    pub(super) pixels: Pixels,
    pub(super) out: Slot,
    pub(super) stored_bytes: usize,
    pub(super) crc32c: u32,
}

impl PackJob {
    fn perform(mut self, compress: impl FnOnce(&[u8], usize, &mut [u8]) -> usize) -> PackDone {
        let pixels = match &self.pixels {
            Pixels::Block(block) => block.bytes(),
            Pixels::Assembly(slot) => &slot.bytes()[..self.chunk_bytes],
        };
        let stored_bytes = compress(pixels, self.item_bytes, self.out.bytes_mut());
        let sectors = stored_bytes.next_multiple_of(SECTOR_BYTES);
        self.out.bytes_mut()[stored_bytes..sectors].fill(0);
        let crc32c = crc32c(&self.out.bytes()[..stored_bytes]);
        PackDone { key: self.key, pixels: self.pixels, out: self.out, stored_bytes, crc32c }
    }
}

/// The threads, their queue and their buffers.
pub(super) struct Packer {
    jobs: Option<Sender<PackJob>>,
    queue: Receiver<PackJob>,
    done: Receiver<Option<PackDone>>,
    outputs: Pool,
    assemblies: Pool,
    threads: Vec<JoinHandle<()>>,
    out_count: AtomicUsize,
    /// Chunks that were compressed, and how many there were at the last look.
    packed_count: AtomicUsize,
    seen_count: AtomicUsize,
}

/// Tells the writer that its thread has died.
struct Alarm(Sender<Option<PackDone>>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(None); // Nobody listens: nobody waits.
        }
    }
}

impl Packer {
    /// Takes the buffers and starts the threads. Errors: the system refuses memory or threads.
    pub(super) fn start(plan: &PackPlan, depth: u32) -> io::Result<Self> {
        let outputs = Pool::new(plan.output_count(depth) as u32, plan.slot_bytes())?;
        let assemblies = Pool::new(plan.assembly_count() as u32, plan.slot_bytes())?;
        let (jobs, queue) = bounded::<PackJob>(plan.threads.max(1) as usize * QUEUE_PER_THREAD);
        let (answer, done) = unbounded(); // At most one per output buffer.
        let work = |number: u32| {
            let (queue, answer, on_start) = (queue.clone(), answer.clone(), Arc::clone(&plan.on_start));
            let work = move || {
                let _alarm = Alarm(answer.clone());
                on_start();
                let mut compressor = blosc::Compressor::default();
                for job in queue {
                    fault::pass(Stage::Pack);
                    let done = job.perform(|pixels, item_bytes, out| compressor.compress(pixels, item_bytes, out));
                    if answer.send(Some(done)).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name(format!("pack-{number}")).spawn(work)
        };
        let threads = (0..plan.threads).map(work).collect::<io::Result<_>>()?;
        let (out_count, packed_count, seen_count) = Default::default();
        Ok(Self { jobs: Some(jobs), queue, done, outputs, assemblies, threads, out_count, packed_count, seen_count })
    }

    /// A buffer for a result; `None` while all wait to be written.
    pub(super) fn take_output(&self) -> Option<Slot> {
        self.outputs.take(Duration::ZERO)
    }

    /// A buffer to put a chunk together in.
    pub(super) fn take_assembly(&self) -> Option<Slot> {
        self.assemblies.take(Duration::ZERO)
    }

    /// Whether there is a buffer to put a chunk together in.
    pub(super) fn has_assembly(&self) -> bool {
        self.assemblies.free_count() > 0
    }

    /// Hands a chunk to the threads; where their queue is full it comes back at once, stored as it is.
    pub(super) fn submit(&self, job: PackJob) -> Option<PackDone> {
        let Some(jobs) = &self.jobs else { return None };
        if self.threads.is_empty() {
            let mut compressor = blosc::Compressor::default();
            return Some(job.perform(|pixels, item_bytes, out| compressor.compress(pixels, item_bytes, out)));
        }
        match jobs.try_send(job) {
            Ok(()) => {
                self.out_count.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job.perform(blosc::store)),
        }
    }

    /// Whether chunks are with the threads.
    pub(super) fn is_busy(&self) -> bool {
        self.out_count.load(Ordering::Relaxed) > 0
    }

    /// The next chunk that is done, waiting up to `patience` for it.
    ///
    /// # Panics
    /// When a thread has died: its chunk would never be written.
    pub(super) fn next_done(&self, patience: Duration) -> Option<PackDone> {
        let done = self.done.recv_timeout(patience).ok()?;
        self.out_count.fetch_sub(1, Ordering::Relaxed);
        self.packed_count.fetch_add(1, Ordering::Relaxed);
        Some(done.expect("a thread that compresses has died"))
    }

    /// When the threads have finished nothing since the last look, takes back what waits for them, stored as it is: other
    /// work has all processors, and frames must become durable.
    pub(super) fn take_overdue(&self) -> Vec<PackDone> {
        let count = self.packed_count.load(Ordering::Relaxed);
        if self.seen_count.swap(count, Ordering::Relaxed) != count {
            return Vec::new();
        }
        let jobs: Vec<PackJob> = self.queue.try_iter().collect();
        self.out_count.fetch_sub(jobs.len(), Ordering::Relaxed);
        jobs.into_iter().map(|job| job.perform(blosc::store)).collect()
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // Its panic was reported by the alarm.
        }
    }
}
