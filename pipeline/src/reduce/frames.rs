//! `Frames`: consecutive frames of one region as a reduction sees them, from a live block or read back from disk.
//!
//! # Place in the path
//! Reductions see pixels only. A block of compressed frames comes to them by way of a [`Decoder`], piece by piece, so that
//! pixels are reduced while they are in the cache.
//!
//! # Errors
//! A frame that does not decode is not there: it is counted and left out, and the others of its block are reduced.

use crate::block::{CompressedFrames, Payload};
use crate::format::bslz4::Bslz4;
use crate::{Block, FrameFlag, FrameIndex, FrameRecord, PixelType, Region};

/// Pixels that are decoded in one go, unless a frame has more, in bytes: they stay in the second cache.
const PIECE_BYTES: usize = 256 << 10;

/// Which of the frames hold pixels.
#[derive(Debug, Clone, Copy)]
enum Present<'a> {
    All,
    Records(&'a [FrameRecord]),
    Flags(&'a [FrameFlag]),
}

/// Consecutive frames of one region: `count` frames of `height x width` pixels, dense, C order, as received.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// Index of the first frame.
    pub first: FrameIndex,
    /// Number of frames, missing ones included.
    pub count: usize,
    /// Pixels of all of them.
    pub bytes: &'a [u8],
    /// How a pixel is stored.
    pub pixel: PixelType,
    /// Their part of the detector.
    pub region: Region,
    present: Present<'a>,
}

/// Bytes that are not whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramesError {
    /// The length is not a multiple of one frame.
    #[error("{got_bytes} bytes are not whole frames of {frame_bytes} bytes")]
    Length {
        /// Bytes given.
        got_bytes: usize,
        /// Bytes of one frame.
        frame_bytes: u64,
    },
    /// There are fewer or more states than frames.
    #[error("{got} frame states for {expected} frames")]
    States {
        /// States given.
        got: usize,
        /// Frames.
        expected: usize,
    },
}

impl<'a> Frames<'a> {
    /// The frames of a live block of pixels; `None` when they are compressed: see [`Decoder`].
    pub fn of_block(block: &'a Block) -> Option<Self> {
        let announced = &block.series().announced;
        Some(Self {
            first: block.frames().start,
            count: block.records().len(),
            bytes: block.pixels()?,
            pixel: announced.pixel,
            region: announced.region,
            present: Present::Records(block.records()),
        })
    }

    /// Frames from elsewhere, all present.
    pub fn new(first: FrameIndex, bytes: &'a [u8], pixel: PixelType, region: Region) -> Result<Self, FramesError> {
        let frame_bytes = region.pixel_count() * pixel.bytes() as u64;
        if frame_bytes == 0 || !(bytes.len() as u64).is_multiple_of(frame_bytes) {
            return Err(FramesError::Length { got_bytes: bytes.len(), frame_bytes });
        }
        let count = (bytes.len() as u64 / frame_bytes) as usize;
        Ok(Self { first, count, bytes, pixel, region, present: Present::All })
    }

    /// The same frames, of which only those with [`FrameFlag::Ok`] are present: one state per frame.
    pub fn with_flags(self, flags: &'a [FrameFlag]) -> Result<Self, FramesError> {
        if flags.len() != self.count {
            return Err(FramesError::States { got: flags.len(), expected: self.count });
        }
        Ok(Self { present: Present::Flags(flags), ..self })
    }

    /// The frames at these positions, all present: the caller knows which are.
    pub(super) fn part(&self, positions: std::ops::Range<usize>) -> Self {
        let frame_bytes = self.frame_bytes();
        let bytes = &self.bytes[positions.start * frame_bytes..positions.end * frame_bytes];
        Self {
            first: self.first + positions.start as u64,
            count: positions.len(),
            bytes,
            present: Present::All,
            ..*self
        }
    }

    /// The same frames with other pixels.
    pub(super) fn with_bytes(self, bytes: &'a [u8]) -> Self {
        Self { bytes, ..self }
    }

    /// Whether the frame at `position` (from 0) holds pixels.
    pub fn is_present(&self, position: usize) -> bool {
        let flag = match self.present {
            Present::All => return position < self.count,
            Present::Records(records) => records.get(position).map(|record| record.flag),
            Present::Flags(flags) => flags.get(position).copied(),
        };
        flag == Some(FrameFlag::Ok)
    }

    /// Bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.region.pixel_count() as usize * self.pixel.bytes()
    }
}

/// Turns blocks into frames of pixels, whatever form they came in; keeps its memory between them.
///
/// # Limits
/// 256 KiB of pixels, or those of one frame where that is more, and as much scratch as a compressed block expands to, at most
/// another frame.
#[derive(Debug, Default)]
pub struct Decoder {
    pixels: Vec<u8>,
    flags: Vec<FrameFlag>,
    scratch: Vec<u8>,
}

impl Decoder {
    /// Gives all frames of a block to `take`, in order, in one or several pieces; returns how many of those that were
    /// received do not decode.
    pub fn each(&mut self, block: &Block, mut take: impl FnMut(&Frames<'_>)) -> u64 {
        match block.payload() {
            Payload::Pixels(_) => {
                Frames::of_block(block).iter().for_each(take);
                0
            }
            Payload::Bslz4(frames) => self.each_piece(block, &frames, &mut take),
        }
    }

    fn each_piece(
        &mut self,
        block: &Block,
        compressed: &CompressedFrames<'_>,
        take: &mut dyn FnMut(&Frames<'_>),
    ) -> u64 {
        let announced = &block.series().announced;
        let (pixel, region, first) = (announced.pixel, announced.region, block.frames().start);
        let frame_bytes = block.series().layout.frame_bytes as usize;
        let per_piece = (PIECE_BYTES / frame_bytes.max(1)).max(1);
        let mut damaged_count = 0;
        for start in (0..compressed.count()).step_by(per_piece) {
            let positions = start..compressed.count().min(start + per_piece);
            self.pixels.resize(positions.len() * frame_bytes, 0);
            self.flags.clear();
            for (position, pixels) in positions.zip(self.pixels.chunks_exact_mut(frame_bytes)) {
                let is_decoded = compressed.frame(position).map(|frame| {
                    let frame = Bslz4::parse(frame, frame_bytes, pixel.bytes());
                    frame.is_ok_and(|frame| frame.decode(&mut self.scratch, pixels).is_ok())
                });
                damaged_count += u64::from(is_decoded == Some(false));
                self.flags.push(match is_decoded {
                    Some(true) => FrameFlag::Ok,
                    Some(false) => FrameFlag::Corrupt,
                    None => block.records()[position].flag,
                });
            }
            let (count, present) = (self.flags.len(), Present::Flags(&self.flags));
            let first = first + start as u64;
            take(&Frames { first, count, bytes: &self.pixels, pixel, region, present });
        }
        damaged_count
    }
}
