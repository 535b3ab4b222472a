//! The pixels of one image as both streams carry them: where they lie in the message, and how they are coded.

use ronchi_pipeline::format::{FormatError, bslz4::Bslz4, lz4};
use ronchi_pipeline::{AXIS_MAX, PixelType, SigShape};

/// Most channels of an image: thresholds, and differences of them.
pub(super) const CHANNELS_MAX: usize = 8;

/// How pixels are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// As they are.
    None,
    /// One LZ4 block.
    Lz4,
    /// LZ4 blocks with the framing of HDF5 filter 32004.
    FramedLz4,
    /// Bit-transposed LZ4 blocks with the framing of HDF5 filter 32008; bits were transposed in items of so many bytes.
    Bslz4 {
        /// 1, 2 or 4.
        item_bytes: usize,
    },
}

/// The pixels of one channel of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture<'a> {
    /// Name of the channel; empty where the stream has but one.
    pub(super) channel: &'a str,
    pub(super) coded: Coded,
    pub(super) place: Place,
}

/// Where coded pixels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// In which part of the message.
    pub(super) part: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The pictures of an image, in their order; kept without allocation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pictures<'a> {
    pictures: [Option<Picture<'a>>; CHANNELS_MAX],
    count: usize,
}

impl<'a> Pictures<'a> {
    /// Adds a picture; `false` when there are too many.
    pub(super) fn push(&mut self, picture: Picture<'a>) -> bool {
        let Some(place) = self.pictures.get_mut(self.count) else { return false };
        *place = Some(picture);
        self.count += 1;
        true
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Picture<'a>> {
        self.pictures.iter().flatten()
    }
}

/// What coded pixels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coded {
    pub(super) shape: SigShape,
    pub(super) pixel: PixelType,
    pub(super) codec: Codec,
}

impl Coded {
    /// Bytes of the decoded pixels.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.shape.region().pixel_count() * self.pixel.bytes() as u64
    }

    /// Decodes into `frame`, which is as long as the decoded pixels.
    pub(super) fn decode(&self, bytes: &[u8], scratch: &mut Vec<u8>, frame: &mut [u8]) -> Result<(), FormatError> {
        match self.codec {
            Codec::None if bytes.len() == frame.len() => {
                frame.copy_from_slice(bytes);
                Ok(())
            }
            Codec::None => {
                Err(FormatError::Short { what: "an image", got_bytes: bytes.len(), want_bytes: frame.len() })
            }
            Codec::Lz4 => lz4::decode_block(bytes, frame),
            Codec::FramedLz4 => lz4::decode_framed(bytes, frame),
            Codec::Bslz4 { item_bytes } => Bslz4::parse(bytes, frame.len(), item_bytes)?.decode(scratch, frame),
        }
    }
}

/// The shape of an image of so many rows and columns; `None` when it has no pixels or too many.
pub(super) fn shape(rows: u64, columns: u64) -> Option<SigShape> {
    let axis = |pixels: u64| u32::try_from(pixels).ok().filter(|&pixels| (1..=AXIS_MAX).contains(&pixels));
    Some(SigShape { height: axis(rows)?, width: axis(columns)? })
}
