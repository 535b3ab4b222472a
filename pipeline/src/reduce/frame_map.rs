//! Which frame belongs to which scan position: by the scan, or by a list where the scan is no raster.
//!
//! # Limits
//! Lists of at most [`LIST_FRAMES_MAX`] frames, 16 bytes for each while results grow.

use std::sync::Arc;

use super::conditions::{Conditions, Roi};
use super::error::PlanError;
use crate::{FrameIndex, NavShape, Scan, ScanPos};

/// Most frames of a list.
pub const LIST_FRAMES_MAX: usize = 1 << 24;

/// Where every frame belongs, from frame 0 on; later frames belong to no position.
#[derive(Debug, Clone, PartialEq)]
pub struct Positions(Vec<Option<At>>);

/// A place in a scan.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    /// Number of the position, C order.
    Index(u64),
    /// `(y, x)` in scan pixels: that of the nearest position, if one is less than half a pixel away.
    Point([f64; 2]),
}

impl Positions {
    /// Of the number of each frame's position, C order; `None` = none. `None` when there are more than [`LIST_FRAMES_MAX`].
    pub fn of_indices(indices: Vec<Option<u64>>) -> Option<Self> {
        let is_short = indices.len() <= LIST_FRAMES_MAX;
        is_short.then(|| Self(indices.into_iter().map(|index| index.map(At::Index)).collect()))
    }

    /// Of the place of each frame, `(y, x)` in scan pixels; halves go to the larger number. What lies beyond the scan, or is
    /// no number, is none. `None` when there are more than [`LIST_FRAMES_MAX`].
    pub fn of_points(points: Vec<[f64; 2]>) -> Option<Self> {
        (points.len() <= LIST_FRAMES_MAX)
            .then(|| Self(points.into_iter().map(|point| Some(At::Point(point))).collect()))
    }

    /// Frames in the list.
    pub fn frame_count(&self) -> u64 {
        self.0.len() as u64
    }

    fn index(&self, frame: usize, shape: NavShape) -> Result<Option<u32>, PlanError> {
        let positions = shape.position_count();
        match self.0[frame] {
            None => Ok(None),
            Some(At::Index(index)) if index < positions => Ok(Some(index as u32)), // A scan has at most 2^26 positions.
            Some(At::Index(index)) => Err(PlanError::Position { frame: frame as u64, index, positions }),
            Some(At::Point([y, x])) => {
                let (y, x) = ((y + 0.5).floor(), (x + 0.5).floor());
                let is_inside =
                    (0.0..f64::from(shape.height)).contains(&y) && (0.0..f64::from(shape.width)).contains(&x);
                Ok(is_inside.then(|| y as u32 * shape.width + x as u32))
            }
        }
    }
}

/// A list brought to a scan.
#[derive(Debug)]
struct Placed {
    /// Position of each frame and which frame of it that is, in the order of acquisition.
    of_frame: Vec<Option<(u32, u32)>>,
    /// Frames of each position.
    counts: Vec<u32>,
    /// Frames before each frame that have a position, and all.
    before: Vec<u32>,
}

impl Placed {
    fn new(list: &Positions, shape: NavShape, roi: Option<&Roi>) -> Result<Self, PlanError> {
        let mut made = Self {
            of_frame: Vec::with_capacity(list.0.len()),
            counts: vec![0; shape.position_count() as usize],
            before: vec![0],
        };
        let position = |index: u32| ScanPos { y: index / shape.width, x: index % shape.width };
        for frame in 0..list.0.len() {
            let index = list.index(frame, shape)?;
            let index = index.filter(|&index| roi.is_none_or(|roi| roi.contains(position(index))));
            made.of_frame.push(index.map(|index| {
                let count = &mut made.counts[index as usize];
                *count += 1;
                (index, *count - 1)
            }));
            made.before.push(made.before[frame] + u32::from(index.is_some()));
        }
        Ok(made)
    }
}

/// Which frame belongs where; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct FrameMap {
    pub(super) scan: Scan,
    roi: Option<Arc<Roi>>,
    placed: Option<Arc<Placed>>,
}

impl FrameMap {
    /// Of a scan, and what conditions say of it. A list gives every position room for as many frames as the fullest has, and
    /// takes nothing of the scan but its shape and what becomes of repeats.
    pub(super) fn new(scan: Scan, conditions: &Conditions) -> Result<Self, PlanError> {
        let roi = conditions.roi.clone();
        let Some(list) = &conditions.positions else { return Ok(Self { scan, roi, placed: None }) };
        let positions = scan.shape.position_count();
        if positions > super::SCAN_POSITIONS_MAX {
            return Err(PlanError::ScanTooLarge { positions, positions_max: super::SCAN_POSITIONS_MAX });
        }
        let placed = Placed::new(list, scan.shape, roi.as_deref())?;
        let frames_per_position = placed.counts.iter().copied().max().unwrap_or(0).max(1);
        let scan = Scan { frames_per_position, repeats: scan.repeats, ..Scan::raster(scan.shape) };
        Ok(Self { scan, roi, placed: Some(Arc::new(placed)) })
    }

    /// A scan alone.
    pub(super) fn of_scan(scan: Scan) -> Self {
        Self { scan, roi: None, placed: None }
    }

    /// Position of a frame, if it has one that is chosen, and which frame of it that is.
    pub(super) fn place(&self, frame: FrameIndex) -> Option<(ScanPos, u64)> {
        let (position, repeat) = match &self.placed {
            None => self.scan.place(frame)?,
            Some(placed) => {
                let (index, repeat) = (*placed.of_frame.get(usize::try_from(frame).ok()?)?)?;
                let width = self.scan.shape.width;
                (ScanPos { y: index / width, x: index % width }, repeat.into())
            }
        };
        self.roi.as_ref().is_none_or(|roi| roi.contains(position)).then_some((position, repeat))
    }

    /// How many frames below `frame` have a position that is chosen.
    pub(super) fn placed_before(&self, frame: FrameIndex) -> u64 {
        match (&self.placed, &self.roi) {
            (Some(placed), _) => {
                let last = placed.before.len() - 1;
                placed.before[usize::try_from(frame).unwrap_or(last).min(last)].into()
            }
            (None, Some(roi)) => roi.placed_before(&self.scan, frame),
            (None, None) => self.scan.placed_before(frame),
        }
    }

    /// Frame after the last one that can have a position.
    pub(super) fn end(&self) -> FrameIndex {
        if let Some(placed) = &self.placed {
            return placed.of_frame.len() as u64;
        }
        let last = i128::from(self.scan.frame_count()) + i128::from(self.scan.sync_offset);
        u64::try_from(last.max(0)).unwrap_or(u64::MAX)
    }

    /// Whether a frame comes for a slot: not all positions of a list have as many frames as they have room for.
    pub(super) fn is_used(&self, slot: usize) -> bool {
        let Some(placed) = &self.placed else { return true };
        let room = self.scan.repeat_count() as usize;
        slot % room < placed.counts[slot / room] as usize
    }
}
