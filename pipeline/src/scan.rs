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

/// What becomes of the frames of one position, where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// Their sums are added up before anything is divided.
    #[default]
    Sum,
    /// As the sum, divided by the number of frames that are in.
    Mean,
    /// The last frame that is in counts.
    Last,
    /// All are kept, along an axis `repeat` behind those of the scan.
    Stack,
}

impl Repeats {
    /// The word used in configurations and manifests.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Stack => "stack",
        }
    }
}

/// A raster or serpentine scan with flyback, synchronisation offset and repeats.
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
    /// Frames that the detector takes at each position before the beam moves on; 0 is as 1.
    pub frames_per_position: u32,
    /// How often the whole scan is run, flyback included; 0 is as 1.
    pub passes: u32,
    /// What becomes of the frames of one position.
    pub repeats: Repeats,
}

impl Scan {
    /// A plain raster scan.
    pub fn raster(shape: NavShape) -> Self {
        Self {
            shape,
            order: ScanOrder::Raster,
            flyback: 0,
            sync_offset: 0,
            frames_per_position: 1,
            passes: 1,
            repeats: Repeats::Sum,
        }
    }

    /// Frames of one row, without its flyback.
    fn row_placed(&self) -> u64 {
        u64::from(self.shape.width) * u64::from(self.frames_per_position.max(1))
    }

    /// Frames of one row, flyback included.
    pub fn row_frames(&self) -> u64 {
        self.row_placed().saturating_add(self.flyback.into())
    }

    /// Frames of one pass, flyback included.
    fn pass_frames(&self) -> u64 {
        u64::from(self.shape.height).saturating_mul(self.row_frames())
    }

    /// Frames a whole scan takes, all passes, flyback included.
    pub fn frame_count(&self) -> u64 {
        self.pass_frames().saturating_mul(self.passes.max(1).into())
    }

    /// Frames of each position.
    pub fn repeat_count(&self) -> u64 {
        u64::from(self.frames_per_position.max(1)) * u64::from(self.passes.max(1))
    }

    /// Frames that belong to a position: positions times the frames of each.
    pub fn placed_count(&self) -> u64 {
        self.shape.position_count().saturating_mul(self.repeat_count())
    }

    /// Position of a frame, or `None` when it belongs to none: flyback, skipped, or beyond the scan.
    pub fn position(&self, frame: FrameIndex) -> Option<ScanPos> {
        self.place(frame).map(|(position, _)| position)
    }

    /// As [`Self::position`], and which frame of its position it is, from 0 in the order of acquisition.
    pub fn place(&self, frame: FrameIndex) -> Option<(ScanPos, u64)> {
        let shifted = i128::from(frame) - i128::from(self.sync_offset);
        let shifted = u64::try_from(shifted).ok().filter(|&shifted| shifted < self.frame_count())?;
        // Nothing here is 0: the scan has frames.
        let (pass, in_pass) = (shifted / self.pass_frames(), shifted % self.pass_frames());
        let (y, step) = ((in_pass / self.row_frames()) as u32, in_pass % self.row_frames());
        if step >= self.row_placed() {
            return None;
        }
        let each = u64::from(self.frames_per_position.max(1));
        let (x, repeat) = ((step / each) as u32, step % each);
        Some((ScanPos { y, x: self.column(y, x) }, pass * each + repeat))
    }

    /// The first frame of a position in the first pass; `None` outside the scan, and where a negative offset leaves the
    /// position empty. The inverse of [`Self::place`].
    pub fn first_frame(&self, position: ScanPos) -> Option<FrameIndex> {
        if position.y >= self.shape.height || position.x >= self.shape.width {
            return None;
        }
        let step = u64::from(self.column(position.y, position.x)); // Turning a row round undoes itself.
        let shifted = u64::from(position.y)
            .checked_mul(self.row_frames())?
            .checked_add(step * u64::from(self.frames_per_position.max(1)))?;
        u64::try_from(i128::from(shifted) + i128::from(self.sync_offset)).ok()
    }

    /// Column of a row that its step `step` shows, from 0.
    pub(crate) fn column(&self, row: u32, step: u32) -> u32 {
        let reversed = self.order == ScanOrder::Serpentine && row % 2 == 1;
        if reversed { self.shape.width - 1 - step } else { step }
    }

    /// Whole rows of all passes before `frame`, and frames that belong to a position in the row after them. Counted from
    /// the first step of the scan, which lies before frame 0 where the offset is negative.
    pub(crate) fn rows_before(&self, frame: FrameIndex) -> (u64, u64) {
        let row_frames = self.row_frames().max(1);
        let steps = i128::from(frame) - i128::from(self.sync_offset);
        let steps = steps.clamp(0, i128::from(self.frame_count())) as u64;
        (steps / row_frames, (steps % row_frames).min(self.row_placed()))
    }

    /// How many frames below `frame` belong to a position.
    pub fn placed_before(&self, frame: FrameIndex) -> u64 {
        let placed = |frame| {
            let (rows, in_row) = self.rows_before(frame);
            rows * self.row_placed() + in_row
        };
        placed(frame) - placed(0) // A negative offset: positions before frame 0 have none.
    }

    /// The frames of `frames` that belong to positions, as few runs as can be: whole rows together, rows that are cut
    /// alone. Strides are positive, so what runs backwards is told frame by frame, in whole rows column by column.
    /// `None` where positions have several frames: runs fill every position once.
    pub fn runs(&self, frames: Range<FrameIndex>) -> Option<Vec<ScanRun>> {
        if self.repeat_count() > 1 {
            return None;
        }
        let (row_frames, count) = (self.row_frames(), self.frame_count());
        let steps = |frame: u64| (i128::from(frame) - i128::from(self.sync_offset)).clamp(0, i128::from(count)) as u64;
        let (first, end) = (steps(frames.start), steps(frames.end));
        let mut runs = Vec::new();
        if first >= end {
            return Some(runs);
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
        Some(runs)
    }

    /// The frame at this step of the scan; steps are frames that are neither skipped nor missing at the beginning.
    fn frame_at(&self, row: u64, step: u64) -> FrameIndex {
        (row * self.row_frames() + step).saturating_add_signed(self.sync_offset)
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
        let row_frames = self.row_frames();
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
        let each = Scan { frames_per_position: 2, flyback: 1, ..Scan::raster(NavShape { height: 2, width: 2 }) };
        assert_eq!(map(&each, 11), [0, 0, 1, 1, -1, 2, 2, 3, 3, -1, -1]);
        let passes = Scan { passes: 2, order: ScanOrder::Serpentine, ..Scan::raster(NavShape { height: 2, width: 2 }) };
        assert_eq!(map(&passes, 9), [0, 1, 3, 2, 0, 1, 3, 2, -1]);
        let both = Scan { frames_per_position: 2, ..passes };
        assert_eq!((both.frame_count(), both.repeat_count(), both.placed_count()), (16, 4, 16));
        let repeats: Vec<_> = (0..16).filter_map(|frame| Some(both.place(frame)?.1)).collect();
        assert_eq!(repeats, [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3]);
    }

    proptest! {
        /// The first frame of a position is the one of all frames that is placed there first; there is none exactly
        /// when no frame of the first pass is.
        #[test]
        fn first_frames(
            (height, width, flyback) in (1_u32..6, 1_u32..6, 0_u32..3),
            (sync_offset, frames_per_position, passes) in (-9_i64..9, 0_u32..3, 0_u32..3),
            is_serpentine in any::<bool>(),
        ) {
            let order = if is_serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let plain = Scan::raster(NavShape { height, width });
            let scan = Scan { order, flyback, sync_offset, frames_per_position, passes, ..plain };
            for (y, x) in (0..height + 1).flat_map(|y| (0..width + 1).map(move |x| (y, x))) {
                let position = ScanPos { y, x };
                let first = (0..scan.frame_count() + 10).find(|&frame| scan.place(frame) == Some((position, 0)));
                prop_assert_eq!(scan.first_frame(position), first);
            }
        }

        /// Every frame of every position is reached once at most, and exactly once when no offset cuts frames off; frames
        /// of a position come in order, and counting them is as good as looking at each.
        #[test]
        fn places_are_hit_once(
            height in 0_u32..6, width in 0_u32..6, flyback in 0_u32..4, sync_offset in -50_i64..50,
            serpentine in any::<bool>(), frames_per_position in 1_u32..4, passes in 1_u32..4
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let plain = Scan::raster(NavShape { height, width });
            let scan = Scan { order, flyback, sync_offset, frames_per_position, passes, ..plain };
            let mut seen = vec![Vec::new(); (height * width) as usize];
            let mut placed = 0;
            for frame in 0..scan.frame_count() + 60 {
                prop_assert_eq!(scan.placed_before(frame), placed);
                if let Some((position, repeat)) = scan.place(frame) {
                    seen[(position.y * width + position.x) as usize].push(repeat);
                    placed += 1;
                }
            }
            let all: Vec<u64> = (0..scan.repeat_count()).collect();
            prop_assert!(seen.iter().all(|seen| all.ends_with(seen) && (sync_offset < 0 || seen.len() == all.len())));
        }

        /// Runs say the same as positions, for any part of a series.
        #[test]
        fn runs_like_positions(
            height in 0_u32..7, width in 0_u32..6, flyback in 0_u32..4, sync_offset in -50_i64..50,
            serpentine in any::<bool>(), first in 0_u64..60, count in 0_u64..80
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let scan = Scan { order, flyback, sync_offset, ..Scan::raster(NavShape { height, width }) };
            let mut told = Vec::new();
            prop_assert_eq!(Scan { passes: 2, ..scan }.runs(0..9), None);
            for run in scan.runs(first..first + count).expect("no repeats") {
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
        fn extremes(
            frame in any::<u64>(), sync_offset in any::<i64>(), flyback in any::<u32>(),
            width in any::<u32>(), frames_per_position in any::<u32>(), passes in any::<u32>()
        ) {
            let plain = Scan::raster(NavShape { height: u32::MAX, width });
            let scan = Scan { flyback, sync_offset, frames_per_position, passes, ..plain };
            let _ = (scan.position(frame), scan.placed_before(frame), scan.placed_count(), scan.frame_count());
        }
    }
}
