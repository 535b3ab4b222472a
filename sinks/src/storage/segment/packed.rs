//! What a packed segment has beside its frames' states: chunks on their way through compression, and where they lie.
//!
//! # Invariants
//! - I1: nothing is overwritten. A chunk that gets more frames after it was written is compressed again as a whole, with
//!   a new place behind all others; the old one is named until the new one is synced, and is dead space then. So page 0
//!   never names a place that a power cut may empty in place of one that is durable.
//! - I2: a chunk has one version on its way at a time, so that the newest that was written is the one that counts.
//! - I3: chunks that come in pieces are put together in memory. They are written when whole, at the second data sync
//!   that finds them incomplete and at each one after it, and when later ones push them out; then no more frames are taken.
//!
//! - I4: a frame that came compressed and does not decode is in no version and no page; it is failed, its
//!   row calls it corrupt, and its tile hears of it.
//!
//! # Limits
//! [`ASSEMBLIES_MAX`] chunks in pieces, and [`WAITING_MAX`] blocks that came while their chunk was being compressed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use ronchi_pipeline::format::{PackedChunk, PackedPage0, Trailer, packed_page1};
use ronchi_pipeline::{Announcement, Block, DATA_OFFSET, Encoding, Layout, PixelType, SECTOR_BYTES, SigShape};

use super::{News, Segment, Settled};
use crate::storage::disk::{Bytes, Op, Purpose};
use crate::storage::packer::{ASSEMBLIES_MAX, Assembled, Content, PackDone, PackJob, PackKey, Packer};

/// Blocks that wait for a chunk while it is being compressed. `Limits::slot_count` counts on it.
const WAITING_MAX: usize = 4;

/// Frames of a block with the number of their part in the segment.
struct Piece {
    part: u32,
    block: Block,
    run: Range<usize>,
}

/// A chunk some of whose frames have come.
struct Assembly {
    /// The frames; `None` while they are being compressed.
    content: Option<Assembled>,
    filled: usize,
    waiting: Vec<Piece>,
    /// A data sync has found it incomplete.
    is_old: bool,
}

#[derive(Default)]
struct Chunk {
    place: Option<PackedChunk>,
    /// A block that is the whole chunk.
    whole: Option<Block>,
    /// Parts that no version holds yet.
    parts: Vec<u32>,
    is_on_its_way: bool,
    is_closed: bool,
}

/// A compressed chunk on its way to the disk.
struct Version {
    chunk: usize,
    parts: Vec<u32>,
    place: Option<PackedChunk>,
}

/// What has become of a version.
pub(super) enum Fate {
    /// These parts are written, or refused.
    Settled(Vec<u32>),
    /// It is written, and waits for a sync.
    Waits,
}

/// The chunks of one segment.
pub(in crate::storage) struct Packed {
    packer: Arc<Packer>,
    key: PackKey,
    layout: Layout,
    encoding: Encoding,
    shape: SigShape,
    pixel: PixelType,
    cursor: u64,
    chunks: Vec<Chunk>,
    assemblies: BTreeMap<usize, Assembly>,
    versions: HashMap<u32, Version>,
    next_version: u32,
    /// Versions that are written and wait for a sync before they take the place of others (I1); the first `syncing` of
    /// them were written before a sync that is on its way.
    unsynced: Vec<Version>,
    syncing: usize,
    /// Chunks to be compressed as soon as there is a buffer.
    due: BTreeSet<usize>,
    /// Chunks whose next version a flush waits for.
    flush: BTreeSet<usize>,
}

impl Packed {
    pub(in crate::storage) fn new(
        packer: Arc<Packer>,
        (tile, segment): (u64, u64),
        layout: Layout,
        announced: &Announcement,
    ) -> Self {
        let region = announced.region;
        let chunks = (0..layout.chunks_per_segment).map(|_| Chunk::default()).collect();
        let key = PackKey { tile, segment, version: 0 };
        let (assemblies, versions, next_version, unsynced, syncing, due, flush) = Default::default();
        let cursor = DATA_OFFSET;
        Self {
            packer,
            key,
            layout,
            encoding: announced.encoding,
            shape: SigShape { height: region.height, width: region.width },
            pixel: announced.pixel,
            cursor,
            chunks,
            assemblies,
            versions,
            next_version,
            unsynced,
            syncing,
            due,
            flush,
        }
    }

    fn frames_per_chunk(&self) -> usize {
        self.layout.frames_per_chunk as usize
    }

    /// Whether this block can be taken now. Where a buffer is missing, makes one free if it can (I3).
    pub(super) fn is_ready_for(&mut self, block: &Block) -> bool {
        if !self.due.is_empty() {
            return false;
        }
        let chunk = (block.frames().start % self.layout.frames_per_segment()) as usize / self.frames_per_chunk();
        if let Some(assembly) = self.assemblies.get(&chunk) {
            return assembly.waiting.len() < WAITING_MAX;
        }
        if block.present_count() == self.layout.frames_per_chunk || self.chunks[chunk].is_closed {
            return true;
        }
        if self.assemblies.len() >= ASSEMBLIES_MAX {
            let oldest = self.assemblies.keys().next().copied();
            oldest.into_iter().for_each(|oldest| self.close(oldest));
            return false;
        }
        self.packer.has_assembly()
    }

    /// Whether a frame of this chunk is too late.
    pub(super) fn is_closed(&self, place: usize) -> bool {
        self.chunks[place / self.frames_per_chunk()].is_closed
    }

    /// Takes a run of frames of a block that go to `place` of the segment; whether there was room.
    pub(super) fn take(&mut self, part: u32, block: &Block, run: Range<usize>, place: usize) -> bool {
        let (k, number) = (self.frames_per_chunk(), place / self.frames_per_chunk());
        let chunk = &mut self.chunks[number];
        if run.len() == k {
            (chunk.whole, chunk.is_closed) = (Some(block.clone()), true);
            chunk.parts.push(part);
            self.due.insert(number);
            return true;
        }
        if !self.assemblies.contains_key(&number) {
            let Some(slot) = self.packer.take_assembly() else { return false };
            let content = Some(Assembled::new(slot, self.encoding, &self.layout));
            self.assemblies.insert(number, Assembly { content, filled: 0, waiting: Vec::new(), is_old: false });
        }
        self.put(number, Piece { part, block: block.clone(), run });
        true
    }

    /// Copies frames into their chunk, or keeps them until it comes back.
    fn put(&mut self, number: usize, piece: Piece) {
        let Some(assembly) = self.assemblies.get_mut(&number) else { return };
        let Some(content) = &mut assembly.content else {
            assembly.waiting.push(piece);
            return;
        };
        let k = u64::from(self.layout.frames_per_chunk);
        let Piece { part, block, run } = piece;
        let to = (block.frames().start % k) as usize + run.start;
        assembly.filled += run.len();
        content.put(to, &block, run, &self.layout);
        self.chunks[number].parts.push(part);
        if assembly.filled as u64 == k {
            self.close(number);
        }
    }

    /// No more frames for this chunk: it is written for the last time, if it has news.
    fn close(&mut self, number: usize) {
        self.chunks[number].is_closed = true;
        let is_idle = self.chunks[number].parts.is_empty();
        let is_here = self.assemblies.get(&number).is_some_and(|assembly| assembly.content.is_some());
        if !is_idle {
            self.due.insert(number);
        } else if is_here {
            self.assemblies.remove(&number);
        }
    }

    /// Whether frames wait to be part of a version.
    pub(super) fn has_news(&self) -> bool {
        self.has_unsynced() || self.assemblies.keys().any(|&number| !self.chunks[number].parts.is_empty())
    }

    /// Whether versions wait for a sync before page 0 may name them.
    pub(super) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// A sync begins: it covers what is written now.
    pub(super) fn start_sync(&mut self) {
        self.syncing = self.unsynced.len();
    }

    /// The sync has ended well: what it covers takes the place of earlier versions. Returns its parts.
    pub(super) fn synced(&mut self) -> Vec<u32> {
        let mut parts = Vec::new();
        for version in self.unsynced.drain(..std::mem::take(&mut self.syncing)) {
            self.chunks[version.chunk].place = version.place;
            self.chunks[version.chunk].is_on_its_way = false;
            parts.extend(version.parts);
        }
        parts
    }

    fn waits_for_sync(&self, number: usize) -> bool {
        self.unsynced.iter().any(|version| version.chunk == number)
    }

    /// Begins to write what there is of every chunk in pieces; with `is_last`, for the last time.
    pub(super) fn start_flush(&mut self, is_last: bool) {
        for number in self.assemblies.keys().copied().collect::<Vec<_>>() {
            if is_last {
                self.close(number);
            }
            let is_old = self.assemblies.get_mut(&number).is_some_and(|it| std::mem::replace(&mut it.is_old, true));
            if (is_old || is_last) && !self.chunks[number].parts.is_empty() {
                self.due.insert(number);
                self.flush.insert(number);
            }
        }
    }

    /// Whether the flush has done what it can before a sync.
    pub(super) fn is_flushed(&self) -> bool {
        self.flush.iter().all(|&number| self.waits_for_sync(number))
    }

    /// Whether nothing is on its way, or could be before a sync.
    pub(super) fn is_quiet(&self) -> bool {
        self.versions.is_empty() && self.due.iter().all(|&number| self.waits_for_sync(number))
    }

    /// Hands chunks that are due to the threads, as far as there are buffers; returns those that were stored at once.
    pub(super) fn pump(&mut self) -> Vec<PackDone> {
        let mut done = Vec::new();
        for number in self.due.iter().copied().collect::<Vec<_>>() {
            let chunk = &mut self.chunks[number];
            if chunk.is_on_its_way {
                continue; // I2
            }
            let Some(out) = self.packer.take_output() else { break };
            let mut assembled = || self.assemblies.get_mut(&number).and_then(|assembly| assembly.content.take());
            let content = chunk.whole.take().map(Content::Block).or_else(|| assembled().map(Content::Assembly));
            self.due.remove(&number);
            if chunk.is_closed {
                self.assemblies.remove(&number);
            }
            let Some(content) = content else { continue };
            chunk.is_on_its_way = true;
            let version = self.next_version;
            self.next_version = self.next_version.wrapping_add(1);
            let parts = std::mem::take(&mut chunk.parts);
            self.versions.insert(version, Version { chunk: number, parts, place: None });
            let (key, layout, item_bytes) = (PackKey { version, ..self.key }, self.layout, self.pixel.bytes());
            done.extend(self.packer.submit(PackJob { key, content, layout, item_bytes, out }));
        }
        done
    }

    /// The chunk of a version, as the place of its first frame in the segment.
    fn first_place(&self, version: u32) -> Option<usize> {
        self.versions.get(&version).map(|version| version.chunk * self.frames_per_chunk())
    }

    /// A chunk came back compressed: gives it a place, and returns what to write there; nothing when no frame decodes.
    pub(super) fn packed(&mut self, done: PackDone) -> Option<(u64, Bytes)> {
        let version = self.versions.get_mut(&done.key.version)?;
        let number = version.chunk;
        if done.stored_bytes == 0 {
            self.give_back(number, done.content);
            return None;
        }
        let place = PackedChunk { offset: self.cursor, stored_bytes: done.stored_bytes as u64, crc32c: done.crc32c };
        version.place = Some(place);
        self.cursor = place.end();
        self.give_back(number, done.content);
        let sectors = done.stored_bytes.next_multiple_of(SECTOR_BYTES);
        Some((place.offset, Bytes::Packed(done.out, 0..sectors)))
    }

    /// The frames of a chunk in pieces come back from compression.
    fn give_back(&mut self, number: usize, content: Content) {
        let Content::Assembly(assembled) = content else { return };
        let Some(assembly) = self.assemblies.get_mut(&number) else { return };
        assembly.content = Some(assembled);
        for piece in std::mem::take(&mut assembly.waiting) {
            self.put(number, piece);
        }
        let chunk = &self.chunks[number];
        if chunk.is_closed && chunk.parts.is_empty() {
            self.assemblies.remove(&number);
        }
    }

    /// The write of a version has ended. Frames of one that was refused become zeros again.
    pub(super) fn finish(&mut self, version: u32, is_ok: bool, lost: impl Fn(u32) -> Option<Range<usize>>) -> Fate {
        let Some(version) = self.versions.remove(&version) else { return Fate::Settled(Vec::new()) };
        let k = self.frames_per_chunk();
        let chunk = &mut self.chunks[version.chunk];
        self.flush.remove(&version.chunk);
        if is_ok && version.place.is_none() {
            chunk.is_on_its_way = false; // None of its frames decodes: there is nothing to write, or to replace.
            return Fate::Settled(version.parts);
        }
        if is_ok && chunk.place.is_some() {
            self.unsynced.push(version);
            return Fate::Waits;
        }
        chunk.is_on_its_way = false;
        if is_ok {
            chunk.place = version.place;
        } else if let Some(content) = self.assemblies.get_mut(&version.chunk).and_then(|it| it.content.as_mut()) {
            for frames in version.parts.iter().filter_map(|&part| lost(part)) {
                let first = frames.start % k;
                content.forget(first..first + frames.len(), &self.layout);
            }
        }
        Fate::Settled(version.parts)
    }

    /// Nothing more is written.
    pub(super) fn poison(&mut self) {
        self.due.clear();
        self.flush.clear();
        self.assemblies.clear();
        self.unsynced.clear();
        self.syncing = 0;
        for chunk in &mut self.chunks {
            (chunk.whole, chunk.is_closed) = (None, true);
            chunk.parts.clear();
        }
    }

    /// Where a chunk lies on disk.
    pub(super) fn place(&self, number: usize) -> Option<PackedChunk> {
        self.chunks[number].place
    }

    /// Pages 0 and 1 with every chunk that is on disk.
    pub(super) fn pages(&self, trailer: Trailer) -> [Box<[u8; SECTOR_BYTES]>; 2] {
        let page0 = PackedPage0 { trailer, chunks: self.chunks.iter().map(|chunk| chunk.place).collect() };
        let page1 = packed_page1(&self.layout, (self.shape, self.pixel), &page0.chunks, trailer.is_sealed);
        [page0.encode(), page1]
    }

    /// Bytes of the file that are in use.
    pub(super) fn end(&self) -> u64 {
        self.cursor
    }
}

/// What a segment does otherwise when it is packed.
impl Segment {
    /// Whether a block can be taken without waiting for buffers.
    pub(in crate::storage) fn is_ready_for(&mut self, block: &Block) -> bool {
        self.poison.is_some() || self.packed.as_mut().is_none_or(|packed| packed.is_ready_for(block))
    }

    /// Why a frame that is refused came too late.
    pub(in crate::storage) fn too_late(&self) -> &'static str {
        match self.packed {
            Some(_) => "frames came too late for their chunk",
            None => "frames came too late for their shared sectors",
        }
    }

    /// Bytes of the file that are in use, where what is behind them may go: page 1 of a sealed segment needs no more.
    pub(in crate::storage) fn packed_end(&self) -> Option<u64> {
        self.packed.as_ref().filter(|_| self.poison.is_none()).map(Packed::end)
    }

    /// Hands chunks that are due to compression, as far as there is room.
    pub(in crate::storage) fn pump(&mut self, out: &mut Vec<Op>) {
        let stored = self.packed.as_mut().map(Packed::pump).unwrap_or_default();
        for done in stored {
            self.packed(done, out);
        }
    }

    /// A chunk is compressed and goes to the disk. What is settled by that is heard with [`Self::take_news`].
    pub(in crate::storage) fn packed(&mut self, done: PackDone, out: &mut Vec<Op>) {
        let version = done.key.version;
        if self.poison.is_some() {
            let settled = self.finish_version(version, false);
            self.news.settled.extend(settled);
            return;
        }
        let Some(packed) = &mut self.packed else { return };
        if let Some(first) = packed.first_place(version) {
            for place in done.damaged.iter().map(|at| first + at) {
                if self.damaged.insert(place) {
                    self.news.damaged.push(place);
                }
            }
        }
        match packed.packed(done) {
            Some((offset, bytes)) => self.push_write(offset, bytes, Purpose::Part(version), out),
            None => {
                let settled = self.finish_version(version, true);
                self.news.settled.extend(settled);
            }
        }
    }

    /// What has happened since the last call beside the results of writes.
    pub(in crate::storage) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub(super) fn finish_version(&mut self, version: u32, is_ok: bool) -> Vec<Settled> {
        let Self { packed: Some(packed), parts, .. } = self else { return Vec::new() };
        match packed.finish(version, is_ok, |part| parts.get(&part).map(|part| part.frames.clone())) {
            Fate::Settled(parts) => parts.into_iter().filter_map(|part| self.finish_part(part, is_ok)).collect(),
            Fate::Waits => Vec::new(),
        }
    }

    /// Whether page 0 must wait for a sync before it is final.
    pub(in crate::storage) fn has_unsynced(&self) -> bool {
        self.packed.as_ref().is_some_and(Packed::has_unsynced)
    }

    /// The sync has ended well that was begun with [`Self::take_published`]: page 0 may name what it covers.
    pub(in crate::storage) fn synced(&mut self) -> Vec<Settled> {
        let parts = self.packed.as_mut().map(Packed::synced).unwrap_or_default();
        parts.into_iter().filter_map(|part| self.finish_part(part, true)).collect()
    }
}
