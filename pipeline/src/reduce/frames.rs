//! `Frames`: consecutive frames of one region as a reduction sees them, from a live block or read back from disk.

use crate::{Block, FrameFlag, FrameIndex, FrameRecord, PixelType, Region};

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
    /// The frames of a live block.
    pub fn of_block(block: &'a Block) -> Self {
        let announced = &block.series().announced;
        Self {
            first: block.frames().start,
            count: block.records().len(),
            bytes: block.bytes(),
            pixel: announced.pixel,
            region: announced.region,
            present: Present::Records(block.records()),
        }
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
