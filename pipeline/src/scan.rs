//! Scan geometry: the only place that turns a frame index into a scan position.
//!
//! # Units
//! Positions are navigation pixels `(y, x)`, slow axis first. The order of frames is the order of acquisition.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::format::hdf5::Slab;
use crate::{FrameIndex, NavShape};

/// A scan position, in navigation pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScanPos {
    /// Scan row.
    pub y: u32,
    /// Position in the row.
    pub x: u32,
}

/// Evenly spaced frames and the positions that they fill, in the same order: those of the first row first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanRun {
    /// Frames.
    pub frames: Slab,
    /// Scan rows.
    pub y: Slab,
    /// Positions in every one of these rows.
    pub x: Slab,
}

/// Direction of the scan rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanOrder {
    /// Every row from left to right.
    #[default]
    Raster,
    /// Odd rows from right to left.
    Serpentine,
}

/// A raster or serpentine scan with flyback and synchronisation offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Scan rows and positions per row.
    pub shape: NavShape,
    /// Direction of the rows.
    pub order: ScanOrder,
    /// Frames after each row that belong to no position.
    pub flyback: u32,
    /// LiberTEM's sign: `o > 0` skips the first `o` frames, `o < 0` leaves the first `|o|` positions empty.
    pub sync_offset: i64,
}

impl Scan {
    /// A plain raster scan.
    pub fn raster(shape: NavShape) -> Self {
        Self { shape, order: ScanOrder::Raster, flyback: 0, sync_offset: 0 }
    }

    /// Frames a whole scan takes, flyback included.
    pub fn frame_count(&self) -> u64 {
        u64::from(self.shape.height) * (u64::from(self.shape.width) + u64::from(self.flyback))
    }

    /// Position of a frame, or `None` when it belongs to none: flyback, skipped, or beyond the scan.
    pub fn position(&self, frame: FrameIndex) -> Option<ScanPos> {
        let shifted = i128::from(frame) - i128::from(self.sync_offset);
        let shifted = u64::try_from(shifted).ok()?;
        let row_frames = u64::from(self.shape.width) + u64::from(self.flyback);
        if row_frames == 0 || shifted >= self.frame_count() {
            return None;
        }
        let y = (shifted / row_frames) as u32;
        let x = u32::try_from(shifted % row_frames).ok().filter(|&x| x < self.shape.width)?;
        let reversed = self.order == ScanOrder::Serpentine && y % 2 == 1;
        Some(ScanPos { y, x: if reversed { self.shape.width - 1 - x } else { x } })
    }

    /// How many frames below `frame` belong to a position.
    pub fn placed_before(&self, frame: FrameIndex) -> u64 {
        let row_frames = u64::from(self.shape.width) + u64::from(self.flyback);
        let steps = i128::from(frame) - i128::from(self.sync_offset);
        let steps = steps.clamp(0, i128::from(self.frame_count())) as u64;
        let (rows, rest) = (steps / row_frames.max(1), steps % row_frames.max(1));
        rows * u64::from(self.shape.width) + rest.min(u64::from(self.shape.width))
    }

    /// The frames of `frames` that belong to positions, as few runs as can be: whole rows together, rows that are cut
    /// alone. Strides are positive, so what runs backwards is told frame by frame, in whole rows column by column.
    pub fn runs(&self, frames: Range<FrameIndex>) -> Vec<ScanRun> {
        let (row_frames, count) = (u64::from(self.shape.width) + u64::from(self.flyback), self.frame_count());
        let steps = |frame: u64| (i128::from(frame) - i128::from(self.sync_offset)).clamp(0, i128::from(count)) as u64;
        let (first, end) = (steps(frames.start), steps(frames.end));
        let mut runs = Vec::new();
        if first >= end {
            return runs;
        }
        let (first_row, end_row) = (first / row_frames, end / row_frames);
        let whole = first.div_ceil(row_frames)..end_row;
        if whole.start > first_row {
            let in_row = end.min(whole.start * row_frames) - first_row * row_frames;
            self.piece(first_row, first % row_frames..in_row, &mut runs);
        }
        if !whole.is_empty() {
            self.rows(&whole, &mut runs);
        }
        if end_row >= whole.start {
            self.piece(end_row, 0..end % row_frames, &mut runs);
        }
        runs
    }

    /// The frame at this step of the scan; steps are frames that are neither skipped nor missing at the beginning.
    fn frame_at(&self, row: u64, step: u64) -> FrameIndex {
        let row_frames = u64::from(self.shape.width) + u64::from(self.flyback);
        (row * row_frames + step).saturating_add_signed(self.sync_offset)
    }

    /// Part of a row.
    fn piece(&self, row: u64, steps: Range<u64>, runs: &mut Vec<ScanRun>) {
        let width = u64::from(self.shape.width);
        let steps = steps.start..steps.end.min(width);
        if steps.is_empty() {
            return;
        }
        let y = Slab::run(row, 1);
        if self.order == ScanOrder::Serpentine && row % 2 == 1 {
            let single =
                |step| ScanRun { frames: Slab::run(self.frame_at(row, step), 1), y, x: Slab::run(width - 1 - step, 1) };
            runs.extend(steps.map(single));
        } else {
            let count = steps.end - steps.start;
            let frames = Slab::run(self.frame_at(row, steps.start), count);
            runs.push(ScanRun { frames, y, x: Slab::run(steps.start, count) });
        }
    }

    /// Whole rows.
    fn rows(&self, rows: &Range<u64>, runs: &mut Vec<ScanRun>) {
        let (width, count) = (u64::from(self.shape.width), rows.end - rows.start);
        let row_frames = width + u64::from(self.flyback);
        let x = Slab::run(0, width);
        if self.order == ScanOrder::Raster {
            let start = self.frame_at(rows.start, 0);
            let frames = match self.flyback {
                0 => Slab::run(start, count * width),
                _ => Slab { start, stride: row_frames, count, block: width },
            };
            runs.push(ScanRun { frames, y: Slab::run(rows.start, count), x });
            return;
        }
        for parity in 0..2 {
            let row = rows.start + (rows.start + parity) % 2;
            let count = (rows.end.saturating_sub(row)).div_ceil(2);
            let (y, stride) = (Slab::every(row, 2, count), 2 * row_frames);
            match (count, parity) {
                (0, _) => {}
                (_, 0) => {
                    let frames = Slab { start: self.frame_at(row, 0), stride, count, block: width };
                    runs.push(ScanRun { frames, y, x });
                }
                _ => runs.extend((0..width).map(|step| {
                    let frames = Slab::every(self.frame_at(row, step), stride, count);
                    ScanRun { frames, y, x: Slab::run(width - 1 - step, 1) }
                })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(scan: &Scan, frame_count: u64) -> Vec<i64> {
        let index = |p: ScanPos| i64::from(p.y) * i64::from(scan.shape.width) + i64::from(p.x);
        (0..frame_count).map(|frame| scan.position(frame).map_or(-1, index)).collect()
    }

    /// Small scans whose maps can be read: raster, serpentine, flyback, and both signs of the offset.
    #[test]
    fn small_maps() {
        let raster = Scan::raster(NavShape { height: 2, width: 3 });
        assert_eq!(map(&raster, 8), [0, 1, 2, 3, 4, 5, -1, -1]);
        assert_eq!(map(&Scan { order: ScanOrder::Serpentine, ..raster }, 6), [0, 1, 2, 5, 4, 3]);
        assert_eq!(map(&Scan { flyback: 1, ..raster }, 8), [0, 1, 2, -1, 3, 4, 5, -1]);
        assert_eq!(map(&Scan { sync_offset: 2, ..raster }, 8), [-1, -1, 0, 1, 2, 3, 4, 5]);
        assert_eq!(map(&Scan { sync_offset: -2, ..raster }, 6), [2, 3, 4, 5, -1, -1]);
        assert_eq!(map(&Scan::raster(NavShape { height: 0, width: 0 }), 2), [-1, -1]);
    }

    proptest! {
        /// Every position is reached by at most one frame, and by exactly one when no offset cuts frames off.
        #[test]
        fn positions_are_hit_once(
            height in 0_u32..6, width in 0_u32..6, flyback in 0_u32..4, sync_offset in -50_i64..50, serpentine in any::<bool>()
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let scan = Scan { shape: NavShape { height, width }, order, flyback, sync_offset };
            let mut hits = vec![0; (height * width) as usize];
            for index in map(&scan, scan.frame_count() + 60) {
                if let Ok(index) = usize::try_from(index) {
                    hits[index] += 1;
                }
            }
            prop_assert!(hits.iter().all(|&hit| hit == 1 || sync_offset < 0 && hit == 0));
        }

        /// Runs say the same as positions, for any part of a series.
        #[test]
        fn runs_like_positions(
            height in 0_u32..7, width in 0_u32..6, flyback in 0_u32..4, sync_offset in -50_i64..50,
            serpentine in any::<bool>(), first in 0_u64..60, count in 0_u64..80
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let scan = Scan { shape: NavShape { height, width }, order, flyback, sync_offset };
            let mut told = Vec::new();
            for run in scan.runs(first..first + count) {
                let places = run.y.elements().flat_map(|y| run.x.elements().map(move |x| (y as u32, x as u32)));
                let frames: Vec<_> = run.frames.elements().collect();
                let places: Vec<_> = places.collect();
                prop_assert_eq!(frames.len(), places.len());
                prop_assert!(run.frames.count == 1 || run.frames.stride >= run.frames.block);
                told.extend(frames.into_iter().zip(places));
            }
            told.sort_unstable();
            let position = |frame| scan.position(frame).map(|position| (frame, (position.y, position.x)));
            prop_assert_eq!(told, (first..first + count).filter_map(position).collect::<Vec<_>>());
        }

        /// Extreme frames and offsets do not overflow.
        #[test]
        fn extremes(frame in any::<u64>(), sync_offset in any::<i64>(), flyback in any::<u32>()) {
            let shape = NavShape { height: u32::MAX, width: 3 };
            let _ = Scan { shape, order: ScanOrder::Raster, flyback, sync_offset }.position(frame);
        }
    }
}
