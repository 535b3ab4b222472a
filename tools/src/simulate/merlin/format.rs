//! How a simulated Merlin lays out its frames: pixel format, chip layout, sizes.
//!
//! # Units
//! Shapes are `(height, width)` in detector pixels; sizes are bytes; a message is the 15-byte `MPX` prefix, the `MQ1`
//! header and the pixels.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, ensure};
use ronchi_pipeline::SigShape;

/// Bytes of `MPX,NNNNNNNNNN,` in front of every message.
pub(super) const PREFIX_BYTES: usize = 15;

/// Pixels along one edge of a Medipix3 chip.
pub(super) const CHIP_PX: u32 = 256;

/// Pixel format on the data socket: `U08`, `U16`, `U32` (processed) or `R64` (raw) with its counter depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MerlinPixels {
    /// Processed, one byte per pixel, counter depth 6.
    U8,
    /// Processed, two bytes big-endian, counter depth 12.
    U16,
    /// Processed, four bytes big-endian, counter depth 24.
    U32,
    /// Raw, 64 pixels per word.
    Raw1,
    /// Raw, 8 pixels per word.
    Raw6,
    /// Raw, 4 pixels per word.
    Raw12,
    /// Raw, two half frames of 12 bits, high half first.
    Raw24,
}

const PIXEL_NAMES: [(&str, MerlinPixels); 7] = [
    ("u8", MerlinPixels::U8),
    ("u16", MerlinPixels::U16),
    ("u32", MerlinPixels::U32),
    ("r64-1", MerlinPixels::Raw1),
    ("r64-6", MerlinPixels::Raw6),
    ("r64-12", MerlinPixels::Raw12),
    ("r64-24", MerlinPixels::Raw24),
];

impl MerlinPixels {
    /// Counter depth in bits, as announced in the headers.
    pub fn counter_depth(self) -> u32 {
        match self {
            Self::Raw1 => 1,
            Self::U8 | Self::Raw6 => 6,
            Self::U16 | Self::Raw12 => 12,
            Self::U32 | Self::Raw24 => 24,
        }
    }

    /// Largest count a pixel can hold; the counter stops there.
    pub fn count_max(self) -> u32 {
        (1 << self.counter_depth()) - 1
    }

    /// Whether pixels are sent as the chips deliver them.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Raw1 | Self::Raw6 | Self::Raw12 | Self::Raw24)
    }

    /// The pixel depth field of the frame header.
    pub fn field(self) -> &'static str {
        match self {
            Self::U8 => "U08",
            Self::U16 => "U16",
            Self::U32 => "U32",
            _ => "R64",
        }
    }

    /// Bits one pixel takes on the wire.
    pub fn wire_bits(self) -> u64 {
        match self {
            Self::Raw1 => 1,
            Self::U8 | Self::Raw6 => 8,
            Self::U16 | Self::Raw12 => 16,
            Self::U32 | Self::Raw24 => 32,
        }
    }
}

impl FromStr for MerlinPixels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = PIXEL_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|&(_, pixels)| pixels).ok_or_else(|| {
            let names: Vec<&str> = PIXEL_NAMES.iter().map(|&(name, _)| name).collect();
            format!("`{text}` is not one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for MerlinPixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PIXEL_NAMES.iter().find(|(_, pixels)| pixels == self).map_or("?", |&(name, _)| name);
        f.write_str(name)
    }
}

/// How chips are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChipLayout {
    /// One chip.
    Single,
    /// Four chips, no gap.
    Quad,
    /// Four chips with two gap rows and columns between them.
    QuadGap,
}

impl ChipLayout {
    /// Number of chips.
    pub fn chip_count(self) -> usize {
        if self == Self::Single { 1 } else { 4 }
    }

    /// Name in the headers, without padding.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "1x1",
            Self::Quad => "2x2",
            Self::QuadGap => "2x2G",
        }
    }

    /// Shape of a whole detector of this layout.
    pub fn full_shape(self) -> SigShape {
        let edge = match self {
            Self::Single => CHIP_PX,
            Self::Quad => 2 * CHIP_PX,
            Self::QuadGap => 2 * CHIP_PX + 2,
        };
        SigShape { height: edge, width: edge }
    }
}

impl FromStr for ChipLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "1x1" => Ok(Self::Single),
            "2x2" => Ok(Self::Quad),
            "2x2g" => Ok(Self::QuadGap),
            _ => Err(format!("`{text}` is not one of 1x1, 2x2, 2x2G")),
        }
    }
}

/// A pixel format, a layout and a shape that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameFormat {
    pixels: MerlinPixels,
    layout: ChipLayout,
    shape: SigShape,
}

impl FrameFormat {
    /// Checks that a Merlin could send this; `shape` is that of the decoded image.
    pub fn new(pixels: MerlinPixels, layout: ChipLayout, shape: SigShape) -> Result<Self> {
        let SigShape { height, width } = shape;
        ensure!(height > 0 && width > 0, "detector {height}x{width} has no pixels");
        ensure!(height <= 4096 && width <= 4096, "detector {height}x{width} is larger than 4096x4096");
        if pixels.is_raw() && layout == ChipLayout::Single {
            ensure!(
                width == CHIP_PX && height <= CHIP_PX,
                "raw frames of one chip are at most 256 rows of 256 pixels, not {height}x{width}"
            );
        }
        if pixels.is_raw() && layout != ChipLayout::Single {
            let full = layout.full_shape();
            ensure!(pixels != MerlinPixels::Raw24, "a quad does not send raw frames of 24 bit");
            ensure!(
                shape == full,
                "raw frames of layout {} decode to {}x{}, not {height}x{width}",
                layout.name(),
                full.height,
                full.width
            );
        }
        Ok(Self { pixels, layout, shape })
    }

    /// Pixel format.
    pub fn pixels(&self) -> MerlinPixels {
        self.pixels
    }

    /// Chip layout.
    pub fn layout(&self) -> ChipLayout {
        self.layout
    }

    /// Shape of the decoded image.
    pub fn shape(&self) -> SigShape {
        self.shape
    }

    /// Shape as the frame header states it, `(Y, X)`: raw frames as transmitted, processed ones as decoded.
    pub fn wire_shape(&self) -> SigShape {
        match (self.pixels.is_raw(), self.layout) {
            (true, ChipLayout::Single) if self.pixels == MerlinPixels::Raw24 => {
                SigShape { height: self.shape.height, width: 2 * CHIP_PX }
            }
            (true, ChipLayout::Quad | ChipLayout::QuadGap) => SigShape { height: CHIP_PX, width: 4 * CHIP_PX },
            _ => self.shape,
        }
    }

    /// Bytes of the `MQ1` header, which is also the offset of the pixels from its `M`.
    pub fn header_bytes(&self) -> usize {
        256 + 128 * self.layout.chip_count()
    }

    /// Bytes of the pixels.
    pub fn payload_bytes(&self) -> usize {
        let pixels = match (self.pixels.is_raw(), self.layout) {
            (true, ChipLayout::Quad | ChipLayout::QuadGap) => u64::from(4 * CHIP_PX * CHIP_PX),
            _ => self.shape.pixel_count(),
        };
        // `new` bounds both axes by 4096: at most 64 MiB.
        (pixels * self.pixels.wire_bits() / 8) as usize
    }

    /// Header and pixels: one frame of a `.mib` file, the body of one message.
    pub fn frame_bytes(&self) -> usize {
        self.header_bytes() + self.payload_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message lengths of the protocol page, section 1.1, come out for every format it lists.
    #[test]
    fn message_lengths_match_the_table() {
        use ChipLayout::{Quad, QuadGap, Single};
        use MerlinPixels::{Raw1, Raw6, Raw12, U8, U16, U32};
        let table = [
            (Single, U8, 65_921),
            (Single, U16, 131_457),
            (Single, U32, 262_529),
            (Single, Raw1, 8_577),
            (Single, Raw6, 65_921),
            (Single, Raw12, 131_457),
            (Quad, U8, 262_913),
            (Quad, U16, 525_057),
            (Quad, U32, 1_049_345),
            (QuadGap, U8, 264_965),
            (QuadGap, U16, 529_161),
            (Quad, Raw1, 33_537),
            (QuadGap, Raw6, 262_913),
            (QuadGap, Raw12, 525_057),
        ];
        for (layout, pixels, length) in table {
            let format = FrameFormat::new(pixels, layout, layout.full_shape()).expect("a real format");
            assert_eq!(format.frame_bytes() + 1, length, "{layout:?} {pixels}");
        }
    }

    /// Shapes no Merlin sends are refused; names survive a round trip.
    #[test]
    fn impossible_formats_are_refused() {
        let shape = SigShape { height: 128, width: 128 };
        assert!(FrameFormat::new(MerlinPixels::U16, ChipLayout::Single, shape).is_ok());
        assert!(FrameFormat::new(MerlinPixels::Raw12, ChipLayout::Single, shape).is_err());
        assert!(FrameFormat::new(MerlinPixels::Raw24, ChipLayout::Quad, ChipLayout::Quad.full_shape()).is_err());
        for (name, pixels) in PIXEL_NAMES {
            assert_eq!(name.parse(), Ok(pixels));
            assert_eq!(pixels.to_string(), name);
        }
        assert!("u12".parse::<MerlinPixels>().is_err());
    }
}
