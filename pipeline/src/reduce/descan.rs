//! Descan: masks that follow a beam which wanders over the detector while it scans.
//!
//! # Definition
//! Where the shift is `(dy, dx)`, the weight of pixel `(y, x)` is `W[y - dy, x - dx]`; what leaves the detector counts as 0, as in
//! LiberTEM's `process_frame_shifted`. Shifts are whole pixels.
//!
//! # Why this way
//! That is the mask where it was, over a frame moved by `(-dy, -dx)`. A moved frame costs a copy; a moved mask would be one
//! more mask for every shift. A tile's pixels may come to lie under the mask of another tile, so they are moved into as much
//! of the detector as they can reach; sums of tiles still add up.
//!
//! # Limits
//! Some frames at a time, of at most the whole detector.

use std::sync::Arc;

use super::correction::TileCorrection;
use super::error::PlanError;
use super::frames::Frames;
use super::partial::Values;
use super::plan::ReducePlan;
use super::reducer::Reducer;
use super::spec::{Column, Spec};
use crate::{ByteOrder, NavShape, PixelKind, PixelType, Region, ScanPos, SigShape};

/// Bytes of moved frames that are reduced in one go, unless eight frames have more.
const PIECE_BYTES: usize = 256 << 10;
/// Frames that a kernel multiplies at once.
const FRAMES_MIN: usize = 8;

/// How far masks are moved at every scan position.
#[derive(Debug, Clone, PartialEq)]
pub struct Descan {
    law: Law,
}

#[derive(Debug, Clone, PartialEq)]
enum Law {
    Linear { offset: [f64; 2], per_row: [f64; 2], per_column: [f64; 2] },
    Table { shape: NavShape, shifts: Vec<[i32; 2]> },
}

impl Descan {
    /// `(dy, dx) = offset + row * per_row + column * per_column`, rounded, halves away from 0; all `(y, x)` in detector
    /// pixels. `None` when a number is not finite.
    pub fn linear(offset: [f64; 2], per_row: [f64; 2], per_column: [f64; 2]) -> Option<Self> {
        let is_finite = [offset, per_row, per_column].as_flattened().iter().all(|number| number.is_finite());
        is_finite.then_some(Self { law: Law::Linear { offset, per_row, per_column } })
    }

    /// `(dy, dx)` of every position, C order; `None` when there are more or fewer than positions.
    pub fn table(shape: NavShape, shifts: Vec<[i32; 2]>) -> Option<Self> {
        (shifts.len() as u64 == shape.position_count()).then_some(Self { law: Law::Table { shape, shifts } })
    }

    /// The scan it is for, if it is for one only.
    pub fn shape(&self) -> Option<NavShape> {
        if let Law::Table { shape, .. } = self.law { Some(shape) } else { None }
    }

    /// Offset, change from row to row, and from column to column, if that is its law.
    pub fn as_linear(&self) -> Option<[[f64; 2]; 3]> {
        match self.law {
            Law::Linear { offset, per_row, per_column } => Some([offset, per_row, per_column]),
            Law::Table { .. } => None,
        }
    }

    /// `(dy, dx)` at a position of the scan, in detector pixels.
    pub fn shift(&self, position: ScanPos) -> [i32; 2] {
        match &self.law {
            Law::Linear { offset, per_row, per_column } => {
                let (row, column) = (f64::from(position.y), f64::from(position.x));
                [0, 1].map(|axis| (offset[axis] + row * per_row[axis] + column * per_column[axis]).round() as i32)
            }
            Law::Table { shape, shifts } => shifts[position.y as usize * shape.width as usize + position.x as usize],
        }
    }

    /// Least and largest shift in a scan.
    fn bounds(&self, scan: NavShape) -> [[i32; 2]; 2] {
        let (bottom, right) = (scan.height.saturating_sub(1), scan.width.saturating_sub(1));
        let corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)];
        let shifts: Vec<[i32; 2]> = match &self.law {
            Law::Linear { .. } => corners.map(|(y, x)| self.shift(ScanPos { y, x })).to_vec(), // Rounding keeps the order.
            Law::Table { shifts, .. } => shifts.clone(),
        };
        let extreme = |axis: usize, best: fn(i32, i32) -> i32| shifts.iter().map(|shift| shift[axis]).reduce(best);
        [i32::min, i32::max].map(|best| [0, 1].map(|axis| extreme(axis, best).unwrap_or(0)))
    }

    /// The part of a detector that the pixels of a tile can come to lie on.
    pub(super) fn reach(&self, scan: NavShape, tile: Region, detector: SigShape) -> Region {
        let [least, most] = self.bounds(scan);
        let axis = |first: u32, length: u32, axis: usize, end: u32| {
            let from = (i64::from(first) - i64::from(most[axis])).clamp(0, i64::from(end) - 1);
            let to = (i64::from(first) + i64::from(length) - i64::from(least[axis])).clamp(from + 1, i64::from(end));
            (from as u32, (to - from) as u32) // One pixel at least, which nothing reaches.
        };
        let (y, height) = axis(tile.y, tile.height, 0, detector.height);
        let (x, width) = axis(tile.x, tile.width, 1, detector.width);
        Region { y, x, height, width }
    }
}

/// What a plan computes of moved frames.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    /// For all that the tile can reach.
    plan: Arc<ReducePlan>,
    tile: Region,
    /// Frames are corrected before they are moved.
    correction: Option<TileCorrection>,
}

impl Moved {
    /// A plan for these columns of a tile that can reach this region.
    pub(super) fn new(spec: &Spec, tile: Region, reach: Region, columns: &[&Column]) -> Result<Self, PlanError> {
        let is_corrected = spec.conditions.correction.is_some();
        let pixel = if is_corrected { PixelType::new(PixelKind::F32, ByteOrder::Little) } else { spec.pixel };
        let plan = Arc::new(ReducePlan::of_frames(spec, reach, pixel, columns, vec![])?.of_kernel());
        let correction = is_corrected.then(|| spec.correction().of_tile(tile, spec.pixel));
        Ok(Self { plan, tile, correction })
    }

    /// Copies a frame of the tile to where it is moved by minus `shift`; the rest stays 0.
    fn put(&self, frame: &[u8], [dy, dx]: [i32; 2], out: &mut [u8]) {
        let (tile, reach, bytes) = (self.tile, self.plan.region(), self.plan.pixel().bytes());
        let rows = overlap(tile.y, tile.height, dy, reach.y, reach.height);
        let columns = overlap(tile.x, tile.width, dx, reach.x, reach.width);
        for step in 0..rows.count {
            let from = ((rows.from + step) * tile.width as usize + columns.from) * bytes;
            let to = ((rows.to + step) * reach.width as usize + columns.to) * bytes;
            let length = columns.count * bytes;
            out[to..to + length].copy_from_slice(&frame[from..from + length]);
        }
    }
}

/// Pixels of one axis that are copied.
struct Overlap {
    from: usize,
    to: usize,
    count: usize,
}

/// What of `[first, first + length)`, moved by minus `shift`, lies in `[other, other + other_length)`; places in either.
fn overlap(first: u32, length: u32, shift: i32, other: u32, other_length: u32) -> Overlap {
    let moved = i64::from(first) - i64::from(shift);
    let start = moved.max(other.into());
    let end = (moved + i64::from(length)).min(i64::from(other) + i64::from(other_length));
    let count = (end - start).max(0) as usize;
    if count == 0 {
        return Overlap { from: 0, to: 0, count };
    }
    Overlap { from: (start - moved) as usize, to: (start - i64::from(other)) as usize, count }
}

/// Scratch of one reducer for moved frames.
#[derive(Debug)]
pub(super) struct MovedFrames {
    reducer: Reducer,
    bytes: Vec<u8>,
    corrected: Vec<f32>,
    /// Values of the last frames.
    pub(super) columns: Vec<Values>,
}

impl MovedFrames {
    pub(super) fn new(of: &Moved) -> Self {
        let reducer = Reducer::new(Arc::clone(&of.plan));
        Self { reducer, bytes: Vec::new(), corrected: Vec::new(), columns: Vec::new() }
    }

    /// Moves and reduces the frames at positions `taken`; `shift` is that of a frame.
    pub(super) fn reduce(&mut self, of: &Moved, frames: &Frames<'_>, taken: &[usize], shift: impl Fn(u64) -> [i32; 2]) {
        let (region, pixel) = (of.plan.region(), of.plan.pixel());
        let moved_bytes = region.pixel_count() as usize * pixel.bytes();
        let at_once = (PIECE_BYTES / moved_bytes.max(1)).max(FRAMES_MIN);
        for (piece, taken) in taken.chunks(at_once).enumerate() {
            self.bytes.clear();
            self.bytes.resize(taken.len() * moved_bytes, 0);
            for (&position, out) in taken.iter().zip(self.bytes.chunks_exact_mut(moved_bytes)) {
                let frame = &frames.bytes[position * frames.frame_bytes()..][..frames.frame_bytes()];
                let shift = shift(frames.first + position as u64);
                match &of.correction {
                    Some(correction) => {
                        correction.frame(frame, &mut self.corrected);
                        let frame: Vec<u8> = self.corrected.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
                        of.put(&frame, shift, out);
                    }
                    None => of.put(frame, shift, out),
                }
            }
            let first = (piece * at_once) as u64;
            let moved = Frames::new(first, &self.bytes, pixel, region).expect("whole frames");
            self.reducer.reduce(&moved);
        }
        self.columns = self.reducer.take().columns;
    }
}
