//! Shapes, regions and pixel types: what a frame is before anybody has seen one.
//!
//! # Units
//! Signal coordinates are detector pixels `(y, x)`, navigation coordinates are scan pixels `(y, x)`; slow axis first,
//! index `(0, 0)` is the first pixel sent, ranges are half-open.

use serde::{Deserialize, Serialize};

/// Order of a frame in its acquisition: dense from 0, never shifted when a frame is lost.
pub type FrameIndex = u64;

/// Largest extent of a signal or navigation axis that is accepted from anywhere, in pixels.
pub const AXIS_MAX: u32 = 65_536;

/// Signal shape of a whole detector, in pixels: order of a frame is `(height, width)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SigShape {
    /// Pixels along the slow axis `y`.
    pub height: u32,
    /// Pixels along the fast axis `x`.
    pub width: u32,
}

impl SigShape {
    /// Number of pixels of one frame.
    pub fn pixel_count(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// The region that covers the whole detector: the only tile of an untiled detector.
    pub fn region(self) -> Region {
        Region { y: 0, x: 0, height: self.height, width: self.width }
    }
}

/// Navigation shape of a scan, in scan positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NavShape {
    /// Number of scan rows (slow axis `y`).
    pub height: u32,
    /// Number of positions per scan row (fast axis `x`).
    pub width: u32,
}

impl NavShape {
    /// Number of scan positions.
    pub fn position_count(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }
}

/// Rectangle on the signal axes, half-open, in detector pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Region {
    /// First row.
    pub y: u32,
    /// First column.
    pub x: u32,
    /// Number of rows.
    pub height: u32,
    /// Number of columns.
    pub width: u32,
}

impl Region {
    /// Number of pixels inside the region.
    pub fn pixel_count(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// Whether the region is not empty and lies inside a detector of this shape.
    pub fn fits(self, shape: SigShape) -> bool {
        let inside =
            |first: u32, count: u32, end: u32| count > 0 && u64::from(first) + u64::from(count) <= u64::from(end);
        inside(self.y, self.height, shape.height) && inside(self.x, self.width, shape.width)
    }
}

/// How one pixel is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PixelKind {
    /// Unsigned 8 bit.
    U8,
    /// Unsigned 16 bit.
    U16,
    /// Unsigned 32 bit.
    U32,
    /// IEEE 754 single precision.
    F32,
}

/// Byte order of a multi-byte pixel, on the wire and on disk alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first, as Merlin sends it.
    Big,
}

/// Pixel type as received: frames are stored in this form, untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PixelType {
    /// Kind and width.
    pub kind: PixelKind,
    /// Byte order; `Little` for one-byte kinds.
    pub order: ByteOrder,
}

impl PixelType {
    /// A pixel type; the byte order of one-byte kinds is normalised to `Little`.
    pub fn new(kind: PixelKind, order: ByteOrder) -> Self {
        let order = if kind == PixelKind::U8 { ByteOrder::Little } else { order };
        Self { kind, order }
    }

    /// Bytes per pixel.
    pub fn bytes(self) -> usize {
        match self.kind {
            PixelKind::U8 => 1,
            PixelKind::U16 => 2,
            PixelKind::U32 | PixelKind::F32 => 4,
        }
    }

    /// The numbers of stored pixels, in their order; a last incomplete pixel is left out.
    pub fn numbers(self, bytes: &[u8]) -> Vec<f64> {
        let big = self.order == ByteOrder::Big;
        match self.kind {
            PixelKind::U8 => bytes.iter().map(|&value| f64::from(value)).collect(),
            PixelKind::U16 => {
                let value = |&b: &[u8; 2]| f64::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) });
                bytes.as_chunks().0.iter().map(value).collect()
            }
            PixelKind::U32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) });
                bytes.as_chunks().0.iter().map(value).collect()
            }
            PixelKind::F32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { f32::from_be_bytes(b) } else { f32::from_le_bytes(b) });
                bytes.as_chunks().0.iter().map(value).collect()
            }
        }
    }

    /// Name of the data type in Zarr v3 metadata, e.g. `uint16`.
    pub fn zarr_name(self) -> &'static str {
        match self.kind {
            PixelKind::U8 => "uint8",
            PixelKind::U16 => "uint16",
            PixelKind::U32 => "uint32",
            PixelKind::F32 => "float32",
        }
    }

    /// `little` or `big`, or `None` for one-byte pixels, which have no byte order.
    pub fn zarr_endian(self) -> Option<&'static str> {
        match (self.kind, self.order) {
            (PixelKind::U8, _) => None,
            (_, ByteOrder::Little) => Some("little"),
            (_, ByteOrder::Big) => Some("big"),
        }
    }

    /// NumPy type string, e.g. `>u2`, `|u1`, `<f4`.
    pub fn numpy_name(self) -> &'static str {
        match (self.kind, self.order) {
            (PixelKind::U8, _) => "|u1",
            (PixelKind::U16, ByteOrder::Little) => "<u2",
            (PixelKind::U16, ByteOrder::Big) => ">u2",
            (PixelKind::U32, ByteOrder::Little) => "<u4",
            (PixelKind::U32, ByteOrder::Big) => ">u4",
            (PixelKind::F32, ByteOrder::Little) => "<f4",
            (PixelKind::F32, ByteOrder::Big) => ">f4",
        }
    }

    /// Reads a NumPy type string (`<u2`, `>u4`, `|u1`, `u1`, `<f4`); `None` when it is not one of ours.
    pub fn from_numpy_name(name: &str) -> Option<Self> {
        let (order, kind) = match name.as_bytes() {
            [b'<' | b'|', rest @ ..] => (ByteOrder::Little, rest),
            [b'>', rest @ ..] => (ByteOrder::Big, rest),
            rest => (ByteOrder::Little, rest),
        };
        let kind = match kind {
            b"u1" => PixelKind::U8,
            b"u2" => PixelKind::U16,
            b"u4" => PixelKind::U32,
            b"f4" => PixelKind::F32,
            _ => return None,
        };
        Some(Self::new(kind, order))
    }

    /// Whether pixels are integers, whose sums are exact.
    pub fn is_integer(self) -> bool {
        self.kind != PixelKind::F32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A region must be non-empty and inside, also where the sum of first and count would overflow 32 bits.
    #[test]
    fn region_fits() {
        let shape = SigShape { height: 4, width: 8 };
        assert!(shape.region().fits(shape));
        assert!(!Region { y: 0, x: 1, height: 4, width: 8 }.fits(shape));
        assert!(!Region { y: 0, x: 0, height: 0, width: 8 }.fits(shape));
        assert!(!Region { y: u32::MAX, x: 0, height: 2, width: 8 }.fits(shape));
    }

    /// Numbers of every kind and order, as their bytes say.
    #[test]
    fn stored_numbers() {
        let numbers = |name: &str, bytes: &[u8]| PixelType::from_numpy_name(name).expect("a pixel type").numbers(bytes);
        assert_eq!(numbers("|u1", &[0, 255]), [0.0, 255.0]);
        assert_eq!(numbers("<u2", &[1, 2, 3]), [513.0]);
        assert_eq!(numbers(">u2", &[1, 2, 0, 7]), [258.0, 7.0]);
        assert_eq!(numbers("<u4", &[0, 0, 0, 255]), [4_278_190_080.0]);
        assert_eq!(numbers(">u4", &[255, 0, 0, 1]), [4_278_190_081.0]);
        assert_eq!(numbers("<f4", &(-1.5_f32).to_le_bytes()), [-1.5]);
        assert_eq!(numbers(">f4", &(-1.5_f32).to_be_bytes()), [-1.5]);
    }

    /// NumPy names survive a round trip for every pixel type.
    #[test]
    fn numpy_names_round_trip() {
        for kind in [PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32] {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let pixel = PixelType::new(kind, order);
                assert_eq!(PixelType::from_numpy_name(pixel.numpy_name()), Some(pixel));
            }
        }
        assert_eq!(PixelType::from_numpy_name("<u8"), None);
    }
}
