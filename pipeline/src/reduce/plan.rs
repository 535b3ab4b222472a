//! `ReducePlan`: the reductions of one link, compiled for its region and pixel type.

use super::Reduction;
use super::mask::Mask;
use super::segments::Segments;
use super::spec::{Column, Made, PlanError, Source, Spec};
use super::weights::FixedMask;
use crate::{FrameIndex, PixelType, Region, Scan, SigShape};

/// Everything a [`super::Reducer`] needs to know, immutable, shared by all reducers of a link.
#[derive(Debug, Clone)]
pub struct ReducePlan {
    pub(super) region: Region,
    pub(super) pixel: PixelType,
    pub(super) columns: Vec<Column>,
    /// Binary masks and total, by slot.
    pub(super) segments: Segments,
    pub(super) slot_count: usize,
    /// Real masks for integer pixels (`fixed`) and for floating point pixels (`real`), by slot; one of them is empty.
    pub(super) fixed: Vec<FixedMask>,
    pub(super) real: Vec<Mask>,
    /// For every column, where its value comes from.
    pub(super) slots: Vec<Slot>,
    pub(super) moments: bool,
    pub(super) sum: bool,
    pub(super) max: bool,
    /// For every row, the columns `[x0, x1)` that a kernel needs.
    columns_of_row: Vec<(u32, u32)>,
    scan: Option<Scan>,
}

/// Where a kernel leaves the value of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Slot of the segments.
    Segments(usize),
    /// Number of a real mask.
    Real(usize),
    MomentY,
    MomentX,
}

impl ReducePlan {
    /// Compiles `reductions`, given in coordinates of the whole detector, for the tile `region` of it.
    ///
    /// Sums use 64 bits where `largest pixel * pixels * largest weight` of a whole frame is below 2^63, and 128 bits
    /// where it is not. Errors: bad names, masks or regions.
    pub fn compile(
        reductions: &[Reduction],
        detector: SigShape,
        region: Region,
        pixel: PixelType,
    ) -> Result<Self, PlanError> {
        if !region.fits(detector) {
            return Err(PlanError::Region { region, detector });
        }
        let spec = Spec::new(reductions, detector, pixel)?;
        let cropped = |index: usize| {
            // Cannot fail: the mask covers the detector, and the region fits it.
            spec.masks[index].crop(region).ok_or(PlanError::Region { region, detector })
        };
        let mut binary = Vec::new();
        let mut real = Vec::new();
        let mut slots = Vec::new();
        for column in &spec.columns {
            slots.push(match column.source {
                Source::Binary(index) => push(&mut binary, cropped(index)?, Slot::Segments),
                Source::Real(index) => push(&mut real, cropped(index)?, Slot::Real),
                Source::Total => Slot::Segments(usize::MAX), // Known below.
                Source::MomentY => Slot::MomentY,
                Source::MomentX => Slot::MomentX,
            });
        }
        let total = slots.iter_mut().find(|slot| **slot == Slot::Segments(usize::MAX));
        let whole = total.map(|slot| {
            *slot = Slot::Segments(binary.len());
            binary.len() as u32
        });
        let fixed =
            if pixel.is_integer() { real.drain(..).map(|mask| FixedMask::new(&mask)).collect() } else { vec![] };
        let segments = Segments::new(&binary, region, whole);
        let needs_all = spec.makes(Made::Sum) || spec.makes(Made::Max) || !real.is_empty() || !fixed.is_empty();
        let columns_of = |y| if needs_all { (0, region.width) } else { segments.span(y) };
        Ok(Self {
            region,
            pixel,
            columns_of_row: (0..region.height as usize).map(columns_of).collect(),
            segments,
            slot_count: binary.len() + usize::from(whole.is_some()),
            fixed,
            real,
            moments: slots.contains(&Slot::MomentY),
            slots,
            sum: spec.makes(Made::Sum),
            max: spec.makes(Made::Max),
            columns: spec.columns,
            scan: None,
        })
    }

    /// The same plan for a scan: frames that belong to no position (flyback, skipped, beyond the scan) are not reduced,
    /// so that they do not enter sum and max patterns.
    pub fn for_scan(self, scan: Option<Scan>) -> Self {
        Self { scan, ..self }
    }

    /// The tile this plan is for.
    pub fn region(&self) -> Region {
        self.region
    }

    /// The pixel type this plan is for.
    pub fn pixel(&self) -> PixelType {
        self.pixel
    }

    /// Columns of row `y` of the tile that count.
    #[inline(always)]
    pub(super) fn columns_of_row(&self, y: usize) -> std::ops::Range<usize> {
        let (x0, x1) = self.columns_of_row[y];
        x0 as usize..x1 as usize
    }

    /// Whether a frame is to be reduced.
    pub(super) fn wants(&self, frame: FrameIndex) -> bool {
        self.scan.as_ref().is_none_or(|scan| scan.position(frame).is_some())
    }
}

fn push(masks: &mut Vec<Mask>, mask: Mask, slot: fn(usize) -> Slot) -> Slot {
    masks.push(mask);
    slot(masks.len() - 1)
}
