//! From a frame header to what is stored: shape, pixel type, payload size and, for raw frames, the decoder.
//!
//! Processed frames (`U08`, `U16`, `U32`) are stored as they come, big-endian. Raw frames (`R64`) are decoded.

use ronchi_pipeline::{ByteOrder, PixelKind, PixelType, SigShape};

use super::header::{FrameHeader, HeaderError};
use super::r64::{ChipLayout, Depth, RawFormat};

/// How the frames of a series are sent and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFormat {
    /// Shape of a stored frame, in pixels.
    pub shape: SigShape,
    /// Pixel type of a stored frame.
    pub pixel: PixelType,
    /// Bytes of a frame on the wire, header excluded.
    pub payload_bytes: usize,
    /// The decoder, for raw frames.
    pub raw: Option<RawFormat>,
}

impl FrameFormat {
    /// The format a header describes. Errors name the first field that is not supported.
    pub fn of(header: &FrameHeader<'_>) -> Result<Self, HeaderError> {
        let kind = match header.pixel_code {
            "U08" => PixelKind::U8,
            "U16" => PixelKind::U16,
            "U32" => PixelKind::U32,
            "R64" => return Self::raw(header),
            other => return Err(HeaderError::new("pixel depth", other, "U08, U16, U32, R64")),
        };
        let shape = SigShape { height: header.height, width: header.width };
        let pixel = PixelType::new(kind, ByteOrder::Big);
        let payload_bytes = shape.pixel_count() * pixel.bytes() as u64;
        let payload_bytes = usize::try_from(payload_bytes)
            .map_err(|_| HeaderError::new("width", header.width.to_string(), "frames that fit into memory"))?;
        Ok(Self { shape, pixel, payload_bytes, raw: None })
    }

    fn raw(header: &FrameHeader<'_>) -> Result<Self, HeaderError> {
        let depth = match header.depth {
            Some(1) => Depth::Bits1,
            Some(6) => Depth::Bits6,
            Some(12) => Depth::Bits12,
            Some(24) => Depth::Bits24,
            Some(other) => return Err(HeaderError::new("counter depth", other.to_string(), "1, 6, 12, 24")),
            None => return Err(HeaderError::new("counter depth", "absent", "1, 6, 12, 24 in the MQ1A extension")),
        };
        let layout = match (header.layout, header.chip_count) {
            ("1x1", 1) => ChipLayout::Single { rows: header.height },
            ("2x2", 4) => ChipLayout::Quad,
            ("2x2G", 4) => ChipLayout::QuadGap,
            (other, count) => {
                let value = format!("{other} of {count} chips");
                return Err(HeaderError::new("layout of raw frames", value, "1x1 of 1 chip, 2x2 or 2x2G of 4 chips"));
            }
        };
        let raw = RawFormat { depth, layout };
        if raw.sent_width_height() != Some((header.width, header.height)) {
            let value = format!("{} x {} for {} at {depth}", header.width, header.height, header.layout);
            return Err(HeaderError::new("width x height of raw frames", value, RawFormat::ALLOWED));
        }
        Ok(Self { shape: raw.shape(), pixel: raw.pixel(), payload_bytes: raw.payload_bytes(), raw: Some(raw) })
    }

    /// Bytes of a stored frame.
    pub fn frame_bytes(&self) -> usize {
        self.shape.pixel_count() as usize * self.pixel.bytes()
    }
}
