//! `ReducePlan`: the reductions of one link, compiled for its region and pixel type.

use std::sync::Arc;

use super::conditions::Conditions;
use super::corrected::Corrected;
use super::custom::CustomPart;
use super::descan::{Descan, Moved};
use super::digits::{Factor, FixedMasks, Weighted};
use super::dot::magnitude_max;
use super::dot_float::FloatRows;
use super::error::PlanError;
use super::frame_map::FrameMap;
use super::kinds::Reduction;
use super::mask::Mask;
use super::nodata::NoDataPlan;
use super::patterns::Accumulator;
use super::segments::{Extra, Segments};
use super::spec::{Column, ColumnKind, Of, Source, Spec};
use crate::{ByteOrder, FrameIndex, PixelKind, PixelType, Region, Scan, SigShape};

/// Everything a [`super::Reducer`] needs to know, immutable, shared by all reducers of a link.
#[derive(Debug, Clone)]
pub struct ReducePlan {
    pub(super) region: Region,
    pub(super) pixel: PixelType,
    pub(super) part: Arc<Part>,
    /// Binary masks of which more is wanted than weighted sums, by slot.
    pub(super) segments: Segments,
    /// What is wanted of some slots.
    pub(super) extras: Extras,
    /// Weighted sums in integers: of integer pixels under binary masks.
    pub(super) fixed: FixedMasks,
    /// All others.
    pub(super) floats: FloatRows,
    /// For every column of the kernel, where that leaves its value; `None` for those beside it.
    pub(super) places: Vec<Option<Place>>,
    /// For every column, where its values come from.
    pub(super) homes: Vec<Home>,
    pub(super) accumulators: Vec<Accumulator>,
    /// What is computed of corrected frames.
    pub(super) corrected: Option<Box<Corrected>>,
    /// What a lab computes itself.
    pub(super) customs: CustomPart,
    /// What is computed of moved frames.
    pub(super) moved: Option<Box<Moved>>,
    /// What becomes of pixels without data, if there can be any.
    pub(super) nodata: Option<Box<NoDataPlan>>,
    /// Pixels of patterns but sums.
    pub(super) pattern_kind: PixelKind,
    /// Whether pixels are corrected at all: what is counted needs whole frames in any case.
    pub(super) is_corrected: bool,
    /// For every row, the columns `[x0, x1)` that a kernel needs.
    columns_of_row: Vec<(u32, u32)>,
    map: Option<FrameMap>,
    descan: Option<Arc<Descan>>,
}

/// Which columns of a list of reductions a plan computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Changes of the list whose columns and patterns are all computed, ascending.
    pub(super) epochs: Vec<u32>,
    /// Identity and kind of every column.
    pub(super) columns: Vec<(u64, ColumnKind)>,
}

impl Part {
    fn of(epochs: &[u32], columns: &[&Column]) -> Self {
        Self { epochs: epochs.to_vec(), columns: columns.iter().map(|column| (column.id, column.kind)).collect() }
    }
}

/// For every slot, its number among those of which something is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Extras {
    pub(super) squares: Numbered,
    /// With the lowest value that counts.
    pub(super) at_least: Numbered,
    pub(super) thresholds: Vec<f64>,
}

/// Slots numbered in the order they were asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbered {
    of_slot: Vec<u32>,
    pub(super) count: usize,
}

impl Numbered {
    const NONE: u32 = u32::MAX;

    /// Number of a slot.
    #[inline(always)]
    pub(super) fn of(&self, slot: u32) -> Option<usize> {
        let number = self.of_slot.get(slot as usize).copied().unwrap_or(Self::NONE);
        (number != Self::NONE).then_some(number as usize)
    }

    fn number(&mut self, slot: usize) -> usize {
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, Self::NONE);
        }
        if self.of_slot[slot] == Self::NONE {
            self.of_slot[slot] = self.count as u32;
            self.count += 1;
        }
        self.of_slot[slot] as usize
    }
}

/// Where a kernel leaves the value of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Weighted sum in integers, by number.
    Dot(usize),
    /// Weighted sum in floating point, by number.
    FloatDot(usize),
    /// Sum of squares, by number.
    Squares(usize),
    /// Count, by number.
    AtLeast(usize),
}

/// Where the values of a column come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// The kernel leaves them there.
    Kernel(Place),
    /// The next column of the corrected frames.
    Corrected,
    /// The next column of the moved frames.
    Moved,
    /// The next column of the pixels without data.
    NoData,
}

impl ReducePlan {
    /// Compiles `reductions`, given in coordinates of the whole detector, for the tile `region` of it.
    ///
    /// Sums use 64 bits where `largest pixel * pixels * largest weight` of a whole frame is below 2^63, and 128 bits
    /// where it is not. Errors: bad names, parameters, masks or regions.
    pub fn compile(
        reductions: &[Reduction],
        detector: SigShape,
        region: Region,
        pixel: PixelType,
    ) -> Result<Self, PlanError> {
        let spec = Spec::new(reductions, detector, pixel, &Conditions::default())?;
        let epochs = spec.epochs();
        Self::of(&spec, region, &epochs, None)
    }

    /// The plan for what these epochs of a list need of the frames of a scan.
    pub(super) fn of(spec: &Spec, region: Region, epochs: &[u32], map: Option<FrameMap>) -> Result<Self, PlanError> {
        let detector = spec.detector;
        if !region.fits(detector) {
            return Err(PlanError::Region { region, detector });
        }
        let columns: Vec<&Column> = spec.columns.iter().filter(|column| epochs.contains(&column.epoch)).collect();
        let accumulators: Vec<Accumulator> = epochs.iter().flat_map(|&epoch| spec.accumulators(epoch)).collect();
        let shape = map.as_ref().map(|map| map.scan.shape);
        let descan = spec.conditions.descan.as_ref().zip(shape);
        let reach = descan.map_or(region, |(descan, shape)| descan.reach(shape, region, detector));
        let nodata = NoDataPlan::new(spec, region, reach, &columns, &accumulators);
        let (moved, still): (Vec<&Column>, Vec<&Column>) = columns.iter().partition(|column| spec.moves_column(column));
        let (corrected_columns, own): (Vec<&Column>, Vec<&Column>) =
            still.into_iter().partition(|column| spec.corrects_column(column));
        let (corrected_patterns, patterns): (Vec<_>, Vec<_>) =
            accumulators.into_iter().partition(|&a| spec.corrects_pattern(a));
        let mut plan = Self::of_frames(spec, region, spec.pixel, &own, patterns)?;
        let is_needed = !corrected_columns.is_empty() || !corrected_patterns.is_empty();
        if is_needed {
            let pixel = PixelType::new(PixelKind::F32, ByteOrder::Little);
            let of_corrected = Self::of_frames(spec, region, pixel, &corrected_columns, corrected_patterns)?;
            let correction = spec.correction().of_tile(region, spec.pixel);
            plan.corrected = Some(Box::new(Corrected::new(of_corrected, correction, &corrected_columns)));
        }
        let mut places = plan.places.iter();
        let home = |column: &&Column| match column {
            column if spec.moves_column(column) => Home::Moved,
            column if spec.corrects_column(column) => Home::Corrected,
            _ => places.next().copied().flatten().map_or(Home::NoData, Home::Kernel),
        };
        plan.homes = columns.iter().map(home).collect();
        plan.nodata = nodata.map(Box::new);
        if !moved.is_empty() {
            plan.moved = Some(Box::new(Moved::new(spec, region, reach, &moved)?));
        }
        plan.part = Arc::new(Part::of(epochs, &columns));
        plan.pattern_kind = spec.pattern_kind();
        plan.is_corrected = spec.conditions.correction.is_some();
        plan.descan.clone_from(&spec.conditions.descan);
        plan.map = map;
        plan.customs = CustomPart::of(spec, region, epochs);
        Ok(plan)
    }

    /// The plan for some columns and patterns of frames of this pixel type, corrected or as they come.
    pub(super) fn of_frames(
        spec: &Spec,
        region: Region,
        pixel: PixelType,
        columns: &[&Column],
        accumulators: Vec<Accumulator>,
    ) -> Result<Self, PlanError> {
        let detector = spec.detector;
        // Cannot fail: the mask covers the detector, and the region fits it.
        let cropped = |mask: usize| spec.masks[mask].crop(region).ok_or(PlanError::Region { region, detector });
        let (mut masks, mut fixed, mut floats) = (Masks::default(), Vec::new(), Vec::new());
        let mut extras = Extras::default();
        let mut places = Vec::new();
        for column in columns {
            let (mask, of) = match column.source {
                Source::Real(mask) => (mask, None),
                Source::Binary(mask, of) => (mask, Some(of)),
                Source::Events(_) | Source::NoData(_) => {
                    places.push(None); // Counted beside the kernel.
                    continue;
                }
            };
            places.push(Some(match of {
                Some(of @ (Of::Squares | Of::AtLeast(_))) => {
                    let threshold = if let Of::AtLeast(value) = of { Some(value.to_bits()) } else { None };
                    extras.place(masks.slot(mask, threshold, || cropped(mask))?, threshold.map(f64::from_bits))
                }
                of => match of.map(factor).filter(|_| pixel.is_integer()) {
                    Some(factor) => {
                        fixed.push((cropped(mask)?, factor));
                        Place::Dot(fixed.len() - 1)
                    }
                    None => {
                        floats.push((cropped(mask)?, of.map(factor)));
                        Place::FloatDot(floats.len() - 1)
                    }
                },
            }));
        }
        let extra_of = |slot: u32| Extra {
            squares: extras.squares.of(slot).is_some(),
            at_least: extras.at_least.of(slot).is_some(),
        };
        let segments = Segments::new(&masks.binary, region, extra_of);
        let fixed: Vec<_> = fixed.iter().map(|(mask, factor)| (mask, *factor)).collect();
        let floats: Vec<_> = floats.iter().map(|(mask, factor)| Weighted { mask, factor: *factor }).collect();
        let needs_all = !accumulators.is_empty();
        let columns_of = |y| if needs_all { (0, region.width) } else { segments.span(y) };
        Ok(Self {
            region,
            pixel,
            part: Arc::new(Part::of(&[], columns)),
            columns_of_row: (0..region.height as usize).map(columns_of).collect(),
            segments,
            extras,
            fixed: FixedMasks::new(&fixed, magnitude_max(pixel.kind), needs_all),
            floats: FloatRows::of(&floats, region),
            places,
            homes: Vec::new(),
            accumulators,
            corrected: None,
            customs: CustomPart::default(),
            moved: None,
            nodata: None,
            pattern_kind: pixel.kind,
            is_corrected: false,
            map: None,
            descan: None,
        })
    }

    /// A plan of frames alone: the kernel has all columns.
    pub(super) fn of_kernel(mut self) -> Self {
        self.homes = self.places.iter().flatten().copied().map(Home::Kernel).collect();
        self
    }

    /// The same plan for a scan: frames that belong to no position (flyback, skipped, beyond the scan) are not reduced,
    /// so that they do not enter sum and max patterns.
    pub fn for_scan(self, scan: Option<Scan>) -> Self {
        Self { map: scan.map(FrameMap::of_scan), ..self }
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

    /// How far masks are moved over a frame.
    pub(super) fn shift(&self, frame: FrameIndex) -> [i32; 2] {
        let shift = || Some(self.descan.as_ref()?.shift(self.map.as_ref()?.place(frame)?.0));
        shift().unwrap_or([0, 0])
    }

    /// Whether a frame is to be reduced.
    pub(super) fn wants(&self, frame: FrameIndex) -> bool {
        self.map.as_ref().is_none_or(|map| map.place(frame).is_some())
    }
}

/// Masks of a plan while it is made: a binary mask of which several things are wanted has one slot, and one more for every
/// further threshold.
#[derive(Debug, Default)]
struct Masks {
    binary: Vec<Mask>,
    /// Number in the list and threshold, if it is used, of each slot.
    slots: Vec<(usize, Option<u64>)>,
}

impl Masks {
    fn slot(
        &mut self,
        number: usize,
        threshold: Option<u64>,
        mask: impl FnOnce() -> Result<Mask, PlanError>,
    ) -> Result<usize, PlanError> {
        let fits = |&(other, used): &(usize, Option<u64>)| {
            other == number && (threshold.is_none() || used.is_none() || used == threshold)
        };
        let slot = match self.slots.iter().position(fits) {
            Some(slot) => slot,
            None => {
                self.binary.push(mask()?);
                self.slots.push((number, None));
                self.slots.len() - 1
            }
        };
        self.slots[slot].1 = self.slots[slot].1.or(threshold);
        Ok(slot)
    }
}

impl Extras {
    /// Of a slot, its squares, or how many pixels reach a threshold.
    fn place(&mut self, slot: usize, threshold: Option<f64>) -> Place {
        let Some(threshold) = threshold else { return Place::Squares(self.squares.number(slot)) };
        let number = self.at_least.number(slot);
        if number == self.thresholds.len() {
            self.thresholds.push(threshold);
        }
        Place::AtLeast(number)
    }
}

/// What pixels of a binary mask are multiplied with.
fn factor(of: Of) -> Factor {
    match of {
        Of::MomentY => Factor::Row,
        Of::MomentX => Factor::Column,
        _ => Factor::One,
    }
}
