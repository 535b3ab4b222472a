//! Reductions: from blocks of frames to live images.
//!
//! # Place in the path
//! [`ReducePlan`] (compiled once per link) -> [`Reducer`] (one per thread, blocks in) -> [`Partial`] and [`Patterns`]
//! (merge in any order) -> [`LiveImages`] (all links together) -> [`LiveImage`] (pictures and files). The same code
//! serves live blocks and frames read back from disk: both are [`Frames`].
//!
//! # Invariants
//! - I1: integers add as integers, floating point numbers in fixed point ([`Exact`]): nothing rounds where frames,
//!   threads and tiles are put together. Only the sum of one frame of one tile under real weights, or of floating point
//!   pixels, rounds, always in the same order. So finished results are bit-identical for any order and number of
//!   threads, and sums of integers for any tiling.
//!
//! # Units
//! Detector pixels `(y, x)` of the whole detector, also inside a tile. Definitions: `docs/reductions.md`.

mod conditions;
mod corrected;
mod correction;
mod custom;
mod descan;
mod digits;
mod dot;
mod dot_float;
mod epoch;
mod error;
mod events;
mod exact;
mod extremes;
mod footprint;
mod frame_map;
mod frames;
mod image;
mod kernel;
mod kernel_f32;
mod kinds;
mod lanes;
mod live;
mod mask;
mod nodata;
mod output;
mod partial;
mod partition;
mod pattern_sums;
mod patterns;
mod plan;
mod reducer;
mod rows;
mod segments;
mod spec;
mod stage;
mod store;
mod vector;
mod versions;
mod whole;

pub use conditions::{ConditionFile, Conditions, Roi};
pub use correction::{Correction, CorrectionError, Flaws};
pub use custom::{Custom, CustomKind, Description, PARTIAL_NUMBERS_MAX, TileFrame};
pub use descan::Descan;
pub use error::PlanError;
pub use exact::Exact;
pub use footprint::Footprint;
pub use frame_map::{LIST_FRAMES_MAX, Positions};
pub use frames::{Decoder, Frames, FramesError};
pub use image::{LiveImage, Stored};
pub use kinds::{ParameterError, Reduction, RegisterError};
pub use live::{Hole, LINE_FRAMES_MAX, LiveImages, MergeCounts, SCAN_POSITIONS_MAX};
pub use mask::{DETECTOR_PIXELS_MAX, Mask, MaskError, VERTICES_MAX};
pub use nodata::NoData;
pub use output::Over;
pub use partial::{MergeError, Partial};
pub use patterns::Patterns;
pub use plan::ReducePlan;
pub use reducer::Reducer;
pub use spec::{NAME_BYTES_MAX, RESERVED_NAMES};
pub use whole::{Derivation, Derived};

use serde::{Deserialize, Serialize};

/// Shape of a virtual detector; definitions are those of `docs/reductions.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VirtualDetector {
    /// 1 where `r^2 <= radius^2`.
    Disk {
        /// Centre row, px.
        cy: f64,
        /// Centre column, px.
        cx: f64,
        /// Radius, px.
        radius: f64,
    },
    /// 1 where `inner^2 < r^2 <= outer^2`.
    Ring {
        /// Centre row, px.
        cy: f64,
        /// Centre column, px.
        cx: f64,
        /// Inner radius, px.
        inner: f64,
        /// Outer radius, px.
        outer: f64,
    },
    /// A disk whose edge is a ramp of one pixel.
    DiskAa {
        /// Centre row, px.
        cy: f64,
        /// Centre column, px.
        cx: f64,
        /// Radius, px.
        radius: f64,
    },
    /// A ring whose edges are ramps of one pixel: weights of adjacent rings add up to 1.
    RingAa {
        /// Centre row, px.
        cy: f64,
        /// Centre column, px.
        cx: f64,
        /// Inner radius, px.
        inner: f64,
        /// Outer radius, px.
        outer: f64,
    },
    /// 1 inside the half-open rectangle `[y0, y1) x [x0, x1)`.
    Rectangle {
        /// First row.
        y0: u32,
        /// First column.
        x0: u32,
        /// Row after the last.
        y1: u32,
        /// Column after the last.
        x1: u32,
    },
    /// A ring cut to the angles `[from_deg, to_deg)`, `atan2(y - cy, x - cx)` in degrees, clockwise on screen.
    Sector {
        /// Centre row, px.
        cy: f64,
        /// Centre column, px.
        cx: f64,
        /// Inner radius, px.
        inner: f64,
        /// Outer radius, px.
        outer: f64,
        /// First angle.
        from_deg: f64,
        /// Angle after the last; may exceed 360 to cross the seam.
        to_deg: f64,
    },
    /// 1 where the pixel centre lies inside the polygon (even-odd rule); vertices are `[y, x]`.
    Polygon {
        /// At least three vertices.
        vertices: Vec<[f64; 2]>,
    },
    /// Weights for every detector pixel, C order; binary when all are 0 or 1. NaN and infinities are refused.
    Image {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// height * width weights.
        weights: Vec<f64>,
    },
}
