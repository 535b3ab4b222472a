//! Blocks: consecutive frames of one region in one pool slot; filled by one thread, then sealed and shared.
//!
//! # Place in the path
//! Sources write payloads into [`BlockMut`]; sealing makes a [`Block`], which goes to the writer and to the reducers.
//!
//! # Invariants
//! - I1: a block never crosses a chunk boundary.
//! - I2: byte `i` of the slot lies on disk at a multiple-of-a-sector offset plus `i`: [`Block::lead_bytes`] is the
//!   distance of the first frame from a sector boundary both in memory and in the segment file.
//!   Blocks of compressed frames lie nowhere on disk as they are: their lead is 0.
//! - I3: a sealed block never changes; missing frames inside it are zero and say so in their record.
//! - I4: what a block holds has a type of its own: nobody takes compressed frames for pixels ([`Payload`]).
//!
//! # Why this way
//! Compressed frames have places of equal size as pixels do, of the most bytes a frame may have: any order is as good as
//! another, and no frame that a place was promised to is without one. Of the memory only what they fill is touched.

use std::ops::Range;
use std::sync::Arc;

use crate::crc::crc32c;
use crate::layout::SECTOR_BYTES;
use crate::pool::Slot;
use crate::series::{Encoding, Series};
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
    /// CRC-32C of the frame's pixels; 0 in a series that is not recorded, or comes compressed.
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
    /// Bytes from one frame's place to the next one's.
    place_bytes: usize,
    records: Vec<FrameRecord>,
    /// Bytes of every compressed frame, 0 where there is none; empty with pixels.
    lengths: Vec<u32>,
    present_count: u32,
}

/// What a block holds of all frames it covers.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Pixels, dense, in order; zeros where a frame is missing.
    Pixels(&'a [u8]),
    /// Compressed frames.
    Bslz4(CompressedFrames<'a>),
}

/// Consecutive compressed frames, each at its place.
#[derive(Debug, Clone, Copy)]
pub struct CompressedFrames<'a> {
    bytes: &'a [u8],
    place_bytes: usize,
    lengths: &'a [u32],
}

impl<'a> CompressedFrames<'a> {
    /// Frames of so many bytes each, 0 for one that is not there, in places of `place_bytes`.
    ///
    /// # Panics
    /// When a frame is longer than its place, or there are fewer places than frames.
    pub fn new(bytes: &'a [u8], place_bytes: usize, lengths: &'a [u32]) -> Self {
        assert!(
            lengths.iter().all(|&length| length as usize <= place_bytes),
            "a frame longer than {place_bytes} bytes"
        );
        assert!(lengths.len() * place_bytes <= bytes.len(), "{} places in {} bytes", lengths.len(), bytes.len());
        Self { bytes, place_bytes, lengths }
    }

    /// Frames, missing ones included.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The frame at `position`, if it is there.
    pub fn frame(&self, position: usize) -> Option<&'a [u8]> {
        let length = *self.lengths.get(position).filter(|&&length| length > 0)? as usize;
        Some(&self.bytes[position * self.place_bytes..][..length])
    }
}

impl BlockMut {
    /// An empty block whose first frame is `first` and which reaches to the end of that chunk.
    ///
    /// # Panics
    /// When the slot is too small for a chunk of this series: the receive loop checks that when a series begins.
    pub fn new(slot: Slot, series: Arc<Series>, first: FrameIndex) -> Self {
        let layout = &series.layout;
        let capacity = (layout.chunk_end(first) - first) as usize;
        let encoding = series.announced.encoding;
        let (lead_bytes, lengths) = match encoding {
            Encoding::Raw => ((layout.offset_of(first) % SECTOR_BYTES as u64) as usize, Vec::new()),
            Encoding::Bslz4 => (0, vec![0; capacity]),
        };
        let place_bytes = encoding.place_bytes(layout.frame_bytes) as usize;
        let needed = lead_bytes + capacity * place_bytes;
        assert!(needed <= slot.bytes().len(), "block of {needed} bytes in a slot of {}", slot.bytes().len());
        let records = vec![FrameRecord::MISSING; capacity];
        Self { slot, first, lead_bytes, place_bytes, records, lengths, present_count: 0, series }
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

    /// Place of the pixels from `position` to the end of the block: whole frames, dense.
    ///
    /// # Panics
    /// When the frames of the series come compressed: a source knows what it has announced.
    pub fn payload_mut(&mut self, position: usize) -> &mut [u8] {
        assert_eq!(self.encoding(), Encoding::Raw, "pixels in a block of compressed frames");
        let end = self.lead_bytes + self.records.len() * self.place_bytes;
        &mut self.slot.bytes_mut()[self.lead_bytes + position * self.place_bytes..end]
    }

    /// Place of the pixels of one frame; panics as [`Self::payload_mut`].
    pub fn frame_mut(&mut self, position: usize) -> &mut [u8] {
        let frame_bytes = self.place_bytes;
        &mut self.payload_mut(position)[..frame_bytes]
    }

    fn encoding(&self) -> Encoding {
        self.series.announced.encoding
    }

    /// Declares the pixels of the frame at `position` complete and, if it will be recorded, takes their checksum while they
    /// are hot.
    ///
    /// # Panics
    /// When the frame was committed before: the caller decides about duplicates first. As [`Self::payload_mut`].
    pub fn commit(&mut self, position: usize, counter: u64, time_ns: u64) {
        let crc32c = if self.series.is_recorded { crc32c(self.frame_mut(position)) } else { 0 };
        self.note(position, FrameRecord { counter, time_ns, flag: FrameFlag::Ok, crc32c });
    }

    /// Copies a frame to its place, in the form that the series has, and declares it complete.
    ///
    /// # Panics
    /// When pixels are not those of one frame, a compressed frame is empty or longer than its place, or the frame was
    /// committed before: the source has checked all that.
    pub fn put(&mut self, position: usize, frame: &[u8], counter: u64, time_ns: u64) {
        match self.encoding() {
            Encoding::Raw => {
                self.frame_mut(position).copy_from_slice(frame);
                self.commit(position, counter, time_ns);
            }
            Encoding::Bslz4 => {
                let is_right = (1..=self.place_bytes).contains(&frame.len());
                assert!(is_right, "{} bytes for a place of {}", frame.len(), self.place_bytes);
                self.slot.bytes_mut()[position * self.place_bytes..][..frame.len()].copy_from_slice(frame);
                self.lengths[position] = frame.len() as u32; // A place is part of a slot: far below 4 GiB.
                self.note(position, FrameRecord { counter, time_ns, flag: FrameFlag::Ok, crc32c: 0 });
            }
        }
    }

    fn note(&mut self, position: usize, record: FrameRecord) {
        assert!(!self.is_present(position), "frame {} committed twice", self.first + position as u64);
        self.records[position] = record;
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
        self.lengths.truncate(count);
        if self.encoding() == Encoding::Raw {
            for position in 0..count {
                if !self.is_present(position) {
                    self.frame_mut(position).fill(0); // I3
                }
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

    /// All covered frames, in the form that the series has.
    pub fn payload(&self) -> Payload<'_> {
        let bytes = &self.0.slot.bytes()[self.0.lead_bytes..];
        match self.0.encoding() {
            Encoding::Raw => Payload::Pixels(&bytes[..self.0.records.len() * self.0.place_bytes]),
            Encoding::Bslz4 => Payload::Bslz4(CompressedFrames::new(bytes, self.0.place_bytes, &self.0.lengths)),
        }
    }

    /// Pixels of all covered frames, dense, in order; `None` when they are compressed.
    pub fn pixels(&self) -> Option<&[u8]> {
        match self.payload() {
            Payload::Pixels(pixels) => Some(pixels),
            Payload::Bslz4(_) => None,
        }
    }

    /// Bytes between the sector boundary before the first frame and the first frame (I2).
    pub fn lead_bytes(&self) -> usize {
        self.0.lead_bytes
    }

    /// The whole slot: starts on a sector boundary in memory, [`Self::lead_bytes`] before the first frame. Only the
    /// bytes of [`Self::payload`] are this block's.
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
        assert_eq!(block.pixels(), Some(&[[0; 10], [3; 10]].concat()[..]));
        assert_eq!(block.records()[0].flag, FrameFlag::Missing);
        assert_eq!(block.records()[1].crc32c, crc32c(&[3; 10]));
        assert_eq!(block.lead_bytes(), (8192 + 50) % 4096);
        drop(block);
        assert_eq!(pool.free_count(), 1);
    }

    /// Compressed frames keep their lengths, in any order; nothing takes them for pixels.
    #[test]
    fn compressed_frames_have_places() {
        let mut series = (*series(100, 4, 8)).clone();
        series.announced.encoding = Encoding::Bslz4;
        let pool = Pool::new(1, 8192).expect("pool");
        let mut block = BlockMut::new(pool.take(Duration::ZERO).expect("slot"), Arc::new(series), 4);
        for (position, length) in [(2, 167), (0, 1)] {
            block.put(position, &vec![position as u8 + 1; length], 7, 8);
        }
        let block = block.seal().expect("two frames");
        assert_eq!((block.frames(), block.present_count(), block.lead_bytes()), (4..7, 2, 0));
        assert_eq!(block.pixels(), None);
        let Payload::Bslz4(frames) = block.payload() else { panic!("compressed") };
        let found: Vec<_> = (0..4).map(|position| frames.frame(position)).collect();
        assert_eq!(found, [Some(&[1][..]), None, Some(&[3; 167][..]), None]);
        assert_eq!(block.records().iter().map(|record| record.crc32c).sum::<u32>(), 0);
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
