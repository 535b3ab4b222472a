//! Blocks: consecutive frames of one region in one pool slot; filled by one thread, then sealed and shared.
//!
//! # Place in the path
//! Sources write payloads into [`BlockMut`]; sealing makes a [`Block`], which goes to the writer and to the reducers.
//!
//! # Invariants
//! - I1: a block never crosses a chunk boundary.
//! - I2: byte `i` of the slot lies on disk at a multiple-of-a-sector offset plus `i`: [`Block::lead_bytes`] is the
//!   distance of the first frame from a sector boundary both in memory and in the segment file.
//! - I3: a sealed block never changes; missing frames inside it are zero and say so in their record.

use std::ops::Range;
use std::sync::Arc;

use crate::crc::crc32c;
use crate::layout::SECTOR_BYTES;
use crate::pool::Slot;
use crate::series::Series;
use crate::{FrameFlag, FrameIndex};

/// What is known of one frame beside its pixels: a row of the frame table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord {
    /// The detector's own frame number, as it sent it; 0 when the frame is missing.
    pub counter: u64,
    /// The detector's time stamp in ns since the Unix epoch; 0 when it sent none.
    pub time_ns: u64,
    /// Present, or why not.
    pub flag: FrameFlag,
    /// CRC-32C of the frame's bytes as stored; 0 in a series that is not recorded.
    pub crc32c: u32,
}

impl FrameRecord {
    const MISSING: Self = Self { counter: 0, time_ns: 0, flag: FrameFlag::Missing, crc32c: 0 };
}

/// A block being filled, owned by one thread.
#[derive(Debug)]
pub struct BlockMut {
    slot: Slot,
    series: Arc<Series>,
    first: FrameIndex,
    lead_bytes: usize,
    records: Vec<FrameRecord>,
    present_count: u32,
}

impl BlockMut {
    /// An empty block whose first frame is `first` and which reaches to the end of that chunk.
    ///
    /// # Panics
    /// When the slot is too small for a chunk of this series: the receive loop checks that when a series begins.
    pub fn new(slot: Slot, series: Arc<Series>, first: FrameIndex) -> Self {
        let layout = &series.layout;
        let capacity = (layout.chunk_end(first) - first) as usize;
        let lead_bytes = (layout.offset_of(first) % SECTOR_BYTES as u64) as usize;
        let needed = lead_bytes + capacity * layout.frame_bytes as usize;
        assert!(needed <= slot.bytes().len(), "block of {needed} bytes in a slot of {}", slot.bytes().len());
        Self { slot, first, lead_bytes, records: vec![FrameRecord::MISSING; capacity], present_count: 0, series }
    }

    /// The series this block belongs to.
    pub fn series(&self) -> &Arc<Series> {
        &self.series
    }

    /// Frames this block can hold: `first .. end of chunk`.
    pub fn frames(&self) -> Range<FrameIndex> {
        self.first..self.first + self.records.len() as u64
    }

    /// Position of `frame` in this block, if it lies here.
    pub fn position(&self, frame: FrameIndex) -> Option<usize> {
        self.frames().contains(&frame).then(|| (frame - self.first) as usize)
    }

    /// Whether the frame at `position` has been committed.
    pub fn is_present(&self, position: usize) -> bool {
        self.records[position].flag == FrameFlag::Ok
    }

    /// Committed frames.
    pub fn present_count(&self) -> u32 {
        self.present_count
    }

    /// Whether every frame of the block has been committed.
    pub fn is_full(&self) -> bool {
        self.present_count as usize == self.records.len()
    }

    /// Place of the payloads from `position` to the end of the block: whole frames, dense.
    pub fn payload_mut(&mut self, position: usize) -> &mut [u8] {
        let frame_bytes = self.series.layout.frame_bytes as usize;
        let end = self.lead_bytes + self.records.len() * frame_bytes;
        &mut self.slot.bytes_mut()[self.lead_bytes + position * frame_bytes..end]
    }

    /// Place of one frame.
    pub fn frame_mut(&mut self, position: usize) -> &mut [u8] {
        let frame_bytes = self.series.layout.frame_bytes as usize;
        &mut self.payload_mut(position)[..frame_bytes]
    }

    /// Declares the frame at `position` complete and, if it will be recorded, takes its checksum while its bytes are hot.
    ///
    /// # Panics
    /// When the frame was committed before: the caller decides about duplicates first.
    pub fn commit(&mut self, position: usize, counter: u64, time_ns: u64) {
        assert!(!self.is_present(position), "frame {} committed twice", self.first + position as u64);
        let crc32c = if self.series.is_recorded { crc32c(self.frame_mut(position)) } else { 0 };
        self.records[position] = FrameRecord { counter, time_ns, flag: FrameFlag::Ok, crc32c };
        self.present_count += 1;
    }

    /// Notes that the frame at `position` arrived but cannot be used.
    pub fn reject(&mut self, position: usize, flag: FrameFlag) {
        if !self.is_present(position) {
            self.records[position].flag = flag;
        }
    }

    /// Seals the block up to its last committed frame; `None`, giving the slot back, when it has none.
    pub fn seal(mut self) -> Option<Block> {
        let count = self.records.iter().rposition(|r| r.flag == FrameFlag::Ok)? + 1;
        self.records.truncate(count);
        for position in 0..count {
            if !self.is_present(position) {
                self.frame_mut(position).fill(0); // I3
            }
        }
        Some(Block(Arc::new(self)))
    }
}

/// Sealed frames, shared by count; the slot returns to its pool with the last clone.
#[derive(Debug, Clone)]
pub struct Block(Arc<BlockMut>);

impl Block {
    /// The series this block belongs to.
    pub fn series(&self) -> &Arc<Series> {
        &self.0.series
    }

    /// Frames the block covers, missing ones inside it included.
    pub fn frames(&self) -> Range<FrameIndex> {
        self.0.frames()
    }

    /// Records of all covered frames, in order.
    pub fn records(&self) -> &[FrameRecord] {
        &self.0.records
    }

    /// Frames that are present.
    pub fn present_count(&self) -> u32 {
        self.0.present_count
    }

    /// Payload of all covered frames, dense, in order.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.0.records.len() * self.0.series.layout.frame_bytes as usize;
        &self.0.slot.bytes()[self.0.lead_bytes..self.0.lead_bytes + bytes]
    }

    /// Bytes between the sector boundary before the first frame and the first frame (I2).
    pub fn lead_bytes(&self) -> usize {
        self.0.lead_bytes
    }

    /// The whole slot: starts on a sector boundary in memory, [`Self::lead_bytes`] before the first frame. Only the
    /// bytes of [`Self::bytes`] are this block's.
    pub fn slot_bytes(&self) -> &[u8] {
        self.0.slot.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use crate::series::tests::series;
    use std::time::Duration;

    /// A sealed block is dense, zero where frames are missing, checksummed where not, and gives its slot back.
    #[test]
    fn seal_zeroes_missing_frames() {
        let series = series(10, 4, 8); // frames of 10 bytes, 4 per chunk
        let pool = Pool::new(1, 64).expect("pool");
        let mut slot = pool.take(Duration::ZERO).expect("slot");
        slot.bytes_mut().fill(0xee);
        let mut block = BlockMut::new(slot, series, 5);
        assert_eq!(block.frames(), 5..8);
        block.frame_mut(1).fill(3);
        block.commit(1, 7, 99);
        assert_eq!(block.position(7), Some(2));
        let block = block.seal().expect("one frame");
        assert_eq!(block.frames(), 5..7);
        assert_eq!(block.bytes(), [[0; 10], [3; 10]].concat());
        assert_eq!(block.records()[0].flag, FrameFlag::Missing);
        assert_eq!(block.records()[1].crc32c, crc32c(&[3; 10]));
        assert_eq!(block.lead_bytes(), (8192 + 50) % 4096);
        drop(block);
        assert_eq!(pool.free_count(), 1);
    }

    /// Without recording no checksum is taken.
    #[test]
    fn a_preview_takes_no_checksums() {
        let mut series = (*series(10, 4, 8)).clone();
        series.is_recorded = false;
        let pool = Pool::new(1, 8192).expect("pool");
        let mut block = BlockMut::new(pool.take(Duration::ZERO).expect("slot"), Arc::new(series), 0);
        block.frame_mut(0).fill(3);
        block.commit(0, 1, 0);
        let block = block.seal().expect("one frame");
        assert_eq!((block.records()[0].crc32c, block.records()[0].flag), (0, FrameFlag::Ok));
    }

    /// An empty block seals to nothing and does not leak its slot.
    #[test]
    fn empty_block_returns_its_slot() {
        let pool = Pool::new(1, 64).expect("pool");
        let block = BlockMut::new(pool.take(Duration::ZERO).expect("slot"), series(10, 4, 8), 0);
        assert!(block.seal().is_none());
        assert_eq!(pool.free_count(), 1);
    }
}
