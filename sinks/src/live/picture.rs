//! What the publishers need to know of a live image, whoever computes it.
//!
//! # Units
//! Images are C order, slow axis first; axis 0 is the axis of *rows* (scan rows for a virtual image, detector rows for a
//! sum of frames). NaN means not measured, never zero. Row and frame ranges are half-open.

use std::any::Any;
use std::ops::Range;

use ronchi_pipeline::FrameIndex;
use serde::{Deserialize, Serialize};

/// One axis of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// Name, e.g. `scan_y`; `component` for the `(y, x)` pair of a vector result, which is always the last axis.
    pub name: String,
    /// Unit of `scale` and `offset`, e.g. `px`.
    pub unit: String,
    /// Step per pixel, in `unit`.
    pub scale: f64,
    /// Coordinate of pixel 0, in `unit`.
    pub offset: f64,
}

impl Axis {
    /// An axis counted in pixels from 0.
    pub fn pixels(name: &str) -> Self {
        Self { name: name.to_owned(), unit: "px".to_owned(), scale: 1.0, offset: 0.0 }
    }
}

/// How values are sent, always little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Precision {
    /// 64 bit, exact for every sum up to 2^53.
    #[default]
    #[serde(rename = "<f8")]
    Double,
    /// 32 bit, exact for counts up to 2^24.
    #[serde(rename = "<f4")]
    Single,
}

impl Precision {
    /// Bytes per value.
    pub fn bytes(self) -> usize {
        match self {
            Self::Double => 8,
            Self::Single => 4,
        }
    }

    /// NumPy type string.
    pub fn numpy_name(self) -> &'static str {
        match self {
            Self::Double => "<f8",
            Self::Single => "<f4",
        }
    }

    /// The values as little-endian bytes.
    pub fn encode(self, values: &[f64]) -> Vec<u8> {
        match self {
            Self::Double => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Single => values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect(),
        }
    }

    /// The values of a blob; a last incomplete value is ignored.
    pub fn decode(self, blob: &[u8]) -> Vec<f64> {
        match self {
            Self::Double => blob.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
            Self::Single => blob.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
        }
    }
}

/// Frames that an image should contain but does not, as known when the message was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Frames that are not there for any other reason than `dropped`.
    pub missing: u64,
    /// Frames that the live path skipped and that will be filled in later.
    pub dropped: u64,
}

/// A live image: finished values, and what changed since when.
pub trait Picture {
    /// Name of the result, unique within its acquisition; letters, digits, `.`, `_` and `-`.
    fn name(&self) -> &str;

    /// Extent of every axis, slow axis first, at least one axis.
    fn shape(&self) -> Vec<usize>;

    /// One entry per axis of `shape`.
    fn axes(&self) -> Vec<Axis>;

    /// Grows with every change of any value; 0 before the first.
    fn version(&self) -> u64;

    /// Rows that may differ from what they were at `version`: ascending, not overlapping.
    fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>>;

    /// Finished values of these rows, C order; NaN where nothing was measured.
    fn row_values(&self, rows: Range<usize>) -> Vec<f64>;

    /// Frames the image covers: from the first to behind the last frame in it.
    fn frames(&self) -> Range<FrameIndex>;

    /// How values are sent.
    fn precision(&self) -> Precision {
        Precision::Double
    }

    /// Generation of the detector geometry that made the image; grows when it changes.
    fn config(&self) -> u32 {
        0
    }

    /// What made the image: detector kind, centre, radii. Null when there is nothing to say.
    fn params(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// All live images of one acquisition; names differ, and number and names change only with the list of reductions.
pub trait Pictures: Any + Send {
    /// Number of images.
    fn count(&self) -> usize;

    /// Image number `index`, counted from 0, below `count`.
    fn picture(&self, index: usize) -> Box<dyn Picture + '_>;
}

/// The image of this name.
pub fn picture_named<'a>(pictures: &'a dyn Pictures, name: &str) -> Option<Box<dyn Picture + 'a>> {
    (0..pictures.count()).map(|index| pictures.picture(index)).find(|picture| picture.name() == name)
}

/// Values per row of an image of this shape.
pub fn row_length(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

/// No images: an acquisition without reductions.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPictures;

impl Pictures for NoPictures {
    fn count(&self) -> usize {
        0
    }

    fn picture(&self, index: usize) -> Box<dyn Picture + '_> {
        unreachable!("image {index} asked of an acquisition without images")
    }
}
