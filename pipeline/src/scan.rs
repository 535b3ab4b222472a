//! Scan geometry: the only place that turns a frame index into a scan position.
//!
//! # Units
//! Positions are navigation pixels `(y, x)`, slow axis first. The order of frames is the order of acquisition.

use serde::{Deserialize, Serialize};

use crate::{FrameIndex, NavShape};

/// A scan position, in navigation pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScanPos {
    /// Scan row.
    pub y: u32,
    /// Position in the row.
    pub x: u32,
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

        /// Extreme frames and offsets do not overflow.
        #[test]
        fn extremes(frame in any::<u64>(), sync_offset in any::<i64>(), flyback in any::<u32>()) {
            let shape = NavShape { height: u32::MAX, width: 3 };
            let _ = Scan { shape, order: ScanOrder::Raster, flyback, sync_offset }.position(frame);
        }
    }
}
