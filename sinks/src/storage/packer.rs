//! Threads that compress chunks, or join frames that came compressed, beside the writer thread and behind it.
//!
//! # Place in the path
//! The writer hands in a chunk with a buffer for the result, and writes what comes back. A chunk for which no thread is
//! free in time is done by the writer: pixels are stored as they are, in the same kind of frame, compressed frames are joined
//! all the same. Compression takes spare cores, never the detector's time.
//!
//! # Invariants
//! - I1: every frame of a chunk that comes back decodes. One that does not is left out and named ([`PackDone::damaged`]).
//!
//! # Limits
//! All buffers are taken at start: one per chunk being compressed, queued or written, and some in which chunks that come in
//! pieces are put together. The queue holds two chunks per thread. Compressed frames that do not go together in one chunk
//! are decoded into memory of their thread, which is reserved at start and counted.
//!
//! # Errors
//! Compression cannot fail. When a thread dies of a bug the writer hears of it and dies as well.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::format::blosc;
use ronchi_pipeline::format::bslz4::Bslz4;
use ronchi_pipeline::{Block, CompressedFrames, Encoding, Layout, Payload, Pool, SECTOR_BYTES, Slot, crc32c};

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
    /// Compress pixels, too; else only frames that come compressed are packed.
    pub takes_pixels: bool,
    /// Called first on every thread, e.g. to lower its priority.
    pub on_start: Arc<dyn Fn() + Send + Sync>,
}

impl PackPlan {
    /// Bytes of all buffers, for `depth` writes in flight.
    pub fn buffer_bytes(&self, depth: u32) -> u64 {
        let workshops = u64::from(self.threads + 1) * self.chunk_bytes_max;
        (self.output_count(depth) + self.assembly_count()) as u64 * self.slot_bytes() as u64 + workshops
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

/// Frames of a whole chunk, in the form of their series.
pub(super) enum Content {
    Block(Block),
    Assembly(Assembled),
}

impl Content {
    fn payload(&self, layout: &Layout) -> Payload<'_> {
        match self {
            Self::Block(block) => block.payload(),
            Self::Assembly(assembled) => assembled.payload(layout),
        }
    }
}

/// Frames of a chunk that came in pieces; missing ones are zeros, or without length.
pub(super) struct Assembled {
    slot: Slot,
    /// Of compressed frames: bytes of each, 0 for one that is not there.
    lengths: Option<Vec<u32>>,
}

impl Assembled {
    /// A chunk without frames.
    pub(super) fn new(mut slot: Slot, encoding: Encoding, layout: &Layout) -> Self {
        let lengths = match encoding {
            Encoding::Raw => {
                slot.bytes_mut()[..layout.chunk_bytes() as usize].fill(0);
                None
            }
            Encoding::Bslz4 => Some(vec![0; layout.frames_per_chunk as usize]),
        };
        Self { slot, lengths }
    }

    /// Takes frames `run` of a block as those from `to` on.
    pub(super) fn put(&mut self, to: usize, block: &Block, run: Range<usize>, layout: &Layout) {
        let frame_bytes = layout.frame_bytes as usize;
        match (block.payload(), &mut self.lengths) {
            (Payload::Pixels(pixels), None) => {
                let pixels = &pixels[run.start * frame_bytes..run.end * frame_bytes];
                self.slot.bytes_mut()[to * frame_bytes..][..pixels.len()].copy_from_slice(pixels);
            }
            (Payload::Bslz4(frames), Some(lengths)) => {
                let place_bytes = Encoding::Bslz4.place_bytes(layout.frame_bytes) as usize;
                for (place, frame) in (to..).zip(run.map(|position| frames.frame(position).unwrap_or_default())) {
                    self.slot.bytes_mut()[place * place_bytes..][..frame.len()].copy_from_slice(frame);
                    lengths[place] = frame.len() as u32; // A place is part of a slot: far below 4 GiB.
                }
            }
            _ => unreachable!("all blocks of a series have one encoding"),
        }
    }

    /// Frames of the chunk are not there after all.
    pub(super) fn forget(&mut self, frames: Range<usize>, layout: &Layout) {
        let frame_bytes = layout.frame_bytes as usize;
        match &mut self.lengths {
            None => self.slot.bytes_mut()[frames.start * frame_bytes..frames.end * frame_bytes].fill(0),
            Some(lengths) => lengths[frames].fill(0),
        }
    }

    fn payload(&self, layout: &Layout) -> Payload<'_> {
        match &self.lengths {
            None => Payload::Pixels(&self.slot.bytes()[..layout.chunk_bytes() as usize]),
            Some(lengths) => {
                let place_bytes = Encoding::Bslz4.place_bytes(layout.frame_bytes) as usize;
                Payload::Bslz4(CompressedFrames::new(self.slot.bytes(), place_bytes, lengths))
            }
        }
    }
}

/// A chunk to compress.
pub(super) struct PackJob {
    pub(super) key: PackKey,
    pub(super) content: Content,
    pub(super) layout: Layout,
    pub(super) item_bytes: usize,
    pub(super) out: Slot,
}

/// A compressed chunk: the first `stored_bytes` of `out`, zeros to a whole sector behind them.
pub(super) struct PackDone {
    pub(super) key: PackKey,
    pub(super) content: Content,
    pub(super) out: Slot,
    /// Length of the chunk; 0 when none of its frames decodes.
    pub(super) stored_bytes: usize,
    pub(super) crc32c: u32,
    /// Frames of the chunk that do not decode, by their place in it.
    pub(super) damaged: Vec<usize>,
}

impl PackJob {
    /// `is_hurried`: only what must be done is done.
    fn perform(mut self, workshop: &mut Workshop, is_hurried: bool) -> PackDone {
        let (layout, item_bytes) = (self.layout, self.item_bytes);
        let out = self.out.bytes_mut();
        let (stored_bytes, damaged) = match self.content.payload(&layout) {
            Payload::Pixels(pixels) => (workshop.pack(pixels, item_bytes, is_hurried, out), Vec::new()),
            Payload::Bslz4(frames) => workshop.join(&frames, (&layout, item_bytes), is_hurried, out),
        };
        let sectors = stored_bytes.next_multiple_of(SECTOR_BYTES);
        out[stored_bytes..sectors].fill(0);
        let crc32c = crc32c(&out[..stored_bytes]);
        PackDone { key: self.key, content: self.content, out: self.out, stored_bytes, crc32c, damaged }
    }
}

/// What a thread keeps between two chunks.
#[derive(Default)]
struct Workshop {
    compressor: blosc::Compressor,
    scratch: Vec<u8>,
    /// Room for the pixels of a chunk.
    pixels: Vec<u8>,
}

impl Workshop {
    /// Reserves memory, of which none is touched until it is needed.
    fn new(chunk_bytes_max: u64) -> Self {
        Self { pixels: Vec::with_capacity(chunk_bytes_max as usize), ..Self::default() }
    }

    fn pack(&mut self, pixels: &[u8], item_bytes: usize, is_hurried: bool, out: &mut [u8]) -> usize {
        match is_hurried {
            true => blosc::store(pixels, item_bytes, out),
            false => self.compressor.compress(pixels, item_bytes, out),
        }
    }

    /// Makes a chunk of compressed frames, without compressing them again where their blocks go together; returns its length
    /// and which frames do not decode (I1).
    fn join(
        &mut self,
        frames: &CompressedFrames<'_>,
        (layout, item_bytes): (&Layout, usize),
        is_hurried: bool,
        out: &mut [u8],
    ) -> (usize, Vec<usize>) {
        let mut damaged = Vec::new();
        let mut sound = |position: usize| {
            let frame = Bslz4::parse(frames.frame(position)?, layout.frame_bytes as usize, item_bytes);
            let frame = frame.and_then(|frame| frame.check(&mut self.scratch).map(|()| frame));
            frame.map_err(|_| damaged.push(position)).ok()
        };
        let parsed: Vec<_> = (0..layout.frames_per_chunk as usize).map(&mut sound).collect();
        if parsed.iter().all(Option::is_none) {
            return (0, damaged);
        }
        let length = match blosc::reframe(&parsed, out) {
            Ok(made) => made.stored_bytes,
            Err(_) => self.pack_decoded(&parsed, (layout, item_bytes), is_hurried, out),
        };
        (length, damaged)
    }

    /// Makes a chunk of frames whose blocks do not go together.
    fn pack_decoded(
        &mut self,
        frames: &[Option<Bslz4<'_>>],
        (layout, item_bytes): (&Layout, usize),
        is_hurried: bool,
        out: &mut [u8],
    ) -> usize {
        let mut pixels = std::mem::take(&mut self.pixels);
        pixels.clear();
        pixels.resize(layout.chunk_bytes() as usize, 0);
        for (frame, place) in frames.iter().zip(pixels.chunks_exact_mut(layout.frame_bytes as usize)) {
            let decoded = frame.map(|frame| frame.decode(&mut self.scratch, place));
            assert!(decoded.is_none_or(|decoded| decoded.is_ok()), "a frame that was checked does not decode");
        }
        let length = self.pack(&pixels, item_bytes, is_hurried, out);
        self.pixels = pixels;
        length
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
    /// The writer's own.
    workshop: Mutex<Workshop>,
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
            let chunk_bytes_max = plan.chunk_bytes_max;
            let work = move || {
                let _alarm = Alarm(answer.clone());
                on_start();
                let mut workshop = Workshop::new(chunk_bytes_max);
                for job in queue {
                    fault::pass(Stage::Pack);
                    let done = job.perform(&mut workshop, false);
                    if answer.send(Some(done)).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name(format!("pack-{number}")).spawn(work)
        };
        let threads = (0..plan.threads).map(work).collect::<io::Result<_>>()?;
        let workshop = Mutex::new(Workshop::new(plan.chunk_bytes_max));
        let (out_count, packed_count, seen_count) = Default::default();
        Ok(Self {
            jobs: Some(jobs),
            queue,
            done,
            outputs,
            assemblies,
            threads,
            out_count,
            workshop,
            packed_count,
            seen_count,
        })
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

    fn perform(&self, job: PackJob, is_hurried: bool) -> PackDone {
        let mut workshop = self.workshop.lock().unwrap_or_else(PoisonError::into_inner);
        job.perform(&mut workshop, is_hurried)
    }

    /// Hands a chunk to the threads; where their queue is full it comes back at once, pixels stored as they are.
    pub(super) fn submit(&self, job: PackJob) -> Option<PackDone> {
        let Some(jobs) = &self.jobs else { return None };
        if self.threads.is_empty() {
            return Some(self.perform(job, false));
        }
        match jobs.try_send(job) {
            Ok(()) => {
                self.out_count.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(self.perform(job, true)),
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

    /// When the threads have finished nothing since the last look, takes back what waits for them, done in a hurry: other
    /// work has all processors, and frames must become durable.
    pub(super) fn take_overdue(&self) -> Vec<PackDone> {
        let count = self.packed_count.load(Ordering::Relaxed);
        if self.seen_count.swap(count, Ordering::Relaxed) != count {
            return Vec::new();
        }
        let jobs: Vec<PackJob> = self.queue.try_iter().collect();
        self.out_count.fetch_sub(jobs.len(), Ordering::Relaxed);
        jobs.into_iter().map(|job| self.perform(job, true)).collect()
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
