//! Conditions: what holds for a whole acquisition beside its list of reductions: how pixels are corrected, and which
//! scan positions count.

use std::sync::Arc;

use super::correction::Correction;
use super::nodata::NoData;
use crate::{FrameIndex, NavShape, Scan, ScanPos};

/// What holds for a whole acquisition; nothing of it unless told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// How pixels are corrected before anything is computed of them.
    pub correction: Option<Arc<Correction>>,
    /// How a pixel says that it has no data; all have where not given.
    pub nodata: Option<NoData>,
    /// The scan positions that are reduced; all where not given.
    pub roi: Option<Arc<Roi>>,
}

/// Scan positions that are reduced; frames of others enter no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roi {
    shape: NavShape,
    chosen: Vec<bool>,
    /// Chosen positions in the rows before each row, and in all.
    before: Vec<u64>,
}

impl Roi {
    /// Of one flag per position, C order; `None` when there are more or fewer than positions.
    pub fn new(shape: NavShape, chosen: Vec<bool>) -> Option<Self> {
        if chosen.len() as u64 != shape.position_count() {
            return None;
        }
        let mut before = vec![0];
        let mut count = 0;
        for row in chosen.chunks(shape.width.max(1) as usize) {
            count += row.iter().filter(|&&is_chosen| is_chosen).count() as u64;
            before.push(count);
        }
        Some(Self { shape, chosen, before })
    }

    /// The scan it is for.
    pub fn shape(&self) -> NavShape {
        self.shape
    }

    /// How many positions are chosen.
    pub fn position_count(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    /// Whether a position is reduced.
    pub fn contains(&self, position: ScanPos) -> bool {
        let inside = position.y < self.shape.height && position.x < self.shape.width;
        inside && self.chosen[position.y as usize * self.shape.width as usize + position.x as usize]
    }

    /// How many frames below `frame` belong to a chosen position.
    pub(super) fn placed_before(&self, scan: &Scan, frame: FrameIndex) -> u64 {
        self.placed(scan, frame) - self.placed(scan, 0)
    }

    /// As [`Self::placed_before`], from the first step of the scan on, which may lie before frame 0.
    fn placed(&self, scan: &Scan, frame: FrameIndex) -> u64 {
        let each = u64::from(scan.frames_per_position.max(1));
        let (rows, in_row) = scan.rows_before(frame);
        let height = u64::from(self.shape.height).max(1);
        let (passes, row) = (rows / height, (rows % height) as usize);
        let whole = passes * self.position_count() + self.before.get(row).copied().unwrap_or(0);
        let width = u64::from(self.shape.width);
        let count = |step: u64| {
            let x = scan.column(row as u32, step as u32);
            let is_chosen = self.contains(ScanPos { y: row as u32, x });
            if is_chosen { each.min(in_row - step * each) } else { 0 }
        };
        whole * each + (0..in_row.div_ceil(each).min(width)).map(count).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScanOrder;
    use proptest::prelude::*;

    proptest! {
        /// Counting frames of chosen positions is as good as looking at each.
        #[test]
        fn counts(
            chosen in prop::collection::vec(any::<bool>(), 12), flyback in 0_u32..3, sync_offset in -30_i64..30,
            serpentine in any::<bool>(), frames_per_position in 1_u32..4, passes in 1_u32..4
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let plain = Scan::raster(NavShape { height: 3, width: 4 });
            let scan = Scan { order, flyback, sync_offset, frames_per_position, passes, ..plain };
            let roi = Roi::new(scan.shape, chosen.clone()).expect("one flag per position");
            let mut count = 0;
            for frame in 0..scan.frame_count() + 40 {
                prop_assert_eq!(roi.placed_before(&scan, frame), count);
                count += u64::from(scan.position(frame).is_some_and(|position| roi.contains(position)));
            }
            prop_assert_eq!(roi.position_count(), chosen.iter().filter(|&&chosen| chosen).count() as u64);
            prop_assert_eq!(Roi::new(scan.shape, chosen[1..].to_vec()), None);
        }
    }
}
