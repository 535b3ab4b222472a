//! What a list of reductions asks for, checked: masks, the columns of numbers and the patterns they need, and the results
//! that are made of them.
//!
//! # Invariants
//! - I1: columns and their kinds follow from reductions, detector and pixel type alone, never from a tile, so that
//!   partials of all tiles of a detector fit together.
//! - I2: a column is computed once, however many results need it, and keeps its identity and epoch for as long as any
//!   result of a later list needs it.

use std::sync::Arc;

use super::conditions::Conditions;
use super::correction::Correction;
use super::custom::Planned;
use super::error::PlanError;
use super::events::Window;
use super::kinds::Reduction;
use super::mask::{DETECTOR_PIXELS_MAX, Mask};
use super::output::Output;
use super::patterns::Accumulator;
use crate::{PixelKind, PixelType, SigShape};

/// Names that virtual detectors may not have: they belong to other results.
pub const RESERVED_NAMES: [&str; 5] = ["total", "com", "sum", "max", "valid"];
/// Longest name of a result, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most results of one list, and most epochs alive at once.
pub(super) const RESULTS_MAX: usize = 256;
/// Most numbers per scan position that one list of reductions may keep.
pub(super) const COLUMNS_MAX: usize = 4096;
/// Most bytes of real masks of one list.
pub(super) const MASKS_BYTES_MAX: u64 = 1 << 30;

/// How the numbers of a column are kept until they are finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// Proven to stay below 2^63.
    U64,
    /// Integers that may be larger.
    U128,
    /// Sums of floating point numbers.
    Exact,
}

/// What is added up over a binary mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Of {
    /// Pixels.
    Pixels,
    /// Row of the detector times pixel.
    MomentY,
    /// Column of the detector times pixel.
    MomentX,
    /// Squares of pixels.
    Squares,
    /// 1 for every pixel at or above this value.
    AtLeast(f64),
}

/// What one column counts, per frame; masks by number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// Sum over a binary mask.
    Binary(usize, Of),
    /// Weighted sum over a real mask.
    Real(usize),
    /// Events of single electrons.
    Events(Window),
    /// Weights under pixels without data.
    NoData(usize),
}

/// One number per frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    pub(super) source: Source,
    pub(super) kind: ColumnKind,
    /// The value is the column times two to this power,
    pub(super) exponent: i32,
    /// minus this: dark counts under a folded mask.
    pub(super) offset: f64,
    /// The same for as long as a result needs the column, never used again after.
    pub(super) id: u64,
    /// Which change of the list brought it.
    pub(super) epoch: u32,
}

/// An accumulator per detector pixel (or per bin), and which change of the list brought it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    pub(super) accumulator: Accumulator,
    pub(super) epoch: u32,
}

/// A list of reductions, checked against a detector.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) detector: SigShape,
    pub(super) pixel: PixelType,
    pub(super) conditions: Conditions,
    /// Number of changes of the list so far.
    pub(super) generation: u32,
    pub(super) masks: Vec<Arc<Mask>>,
    pub(super) columns: Vec<Column>,
    pub(super) patterns: Vec<Wanted>,
    pub(super) customs: Vec<Arc<Planned>>,
    pub(super) results: Vec<Output>,
    pub(super) next_id: u64,
}

impl Spec {
    pub(super) fn new(
        reductions: &[Reduction],
        detector: SigShape,
        pixel: PixelType,
        conditions: &Conditions,
    ) -> Result<Self, PlanError> {
        if let Some(correction) = conditions.correction.as_ref().filter(|known| known.detector() != detector) {
            return Err(PlanError::Correction { correction: correction.detector(), detector });
        }
        if detector.pixel_count() > DETECTOR_PIXELS_MAX {
            return Err(PlanError::DetectorTooLarge { detector });
        }
        conditions.check_nodata(detector, pixel.kind)?;
        let empty = Self {
            detector,
            pixel,
            conditions: conditions.clone(),
            generation: 0,
            masks: Vec::new(),
            columns: Vec::new(),
            patterns: Vec::new(),
            customs: Vec::new(),
            results: Vec::new(),
            next_id: 0,
        };
        empty.filled(reductions, None)
    }

    /// The same detector with another list: what both lists need keeps its identity and its epoch.
    pub(super) fn changed(&self, reductions: &[Reduction]) -> Result<Self, PlanError> {
        let empty = Self {
            masks: Vec::new(),
            columns: Vec::new(),
            patterns: Vec::new(),
            customs: Vec::new(),
            results: Vec::new(),
            generation: self.generation + 1,
            ..self.clone()
        };
        empty.filled(reductions, Some(self))
    }

    fn filled(mut self, reductions: &[Reduction], before: Option<&Self>) -> Result<Self, PlanError> {
        for reduction in reductions {
            let made = reduction.plan(&mut Needs { spec: &mut self, before })?;
            self.check_real(0)?;
            for output in made {
                check_name(&output.name)?;
                if self.results.iter().any(|other| other.name == output.name) {
                    return Err(PlanError::Duplicate { name: output.name });
                }
                self.results.push(output);
            }
        }
        let count =
            |of: fn(&Accumulator) -> bool| self.patterns.iter().filter(|wanted| of(&wanted.accumulator)).count();
        if count(|accumulator| matches!(accumulator, Accumulator::Histogram(_))) > 1 {
            return Err(PlanError::OneOnly { what: "histograms" });
        }
        if count(|accumulator| matches!(accumulator, Accumulator::Events(_))) > 1 {
            return Err(PlanError::OneOnly { what: "counts of electrons" });
        }
        if self.results.len() > RESULTS_MAX {
            return Err(PlanError::TooManyResults { count: self.results.len() });
        }
        let per_frame = self.customs.iter().filter(|custom| custom.is_per_frame());
        let numbers = per_frame.map(|custom| custom.description.empty.len()).sum::<usize>();
        match self.columns.len() + numbers {
            count if count > COLUMNS_MAX => Err(PlanError::TooManyColumns { count }),
            _ => Ok(self),
        }
    }

    /// Whether something is computed of corrected frames, because it is not linear in pixels.
    pub(super) fn corrects(&self, of: Of) -> bool {
        let is_linear = of != Of::Squares && self.conditions.descan.is_none();
        self.conditions.correction.is_some() && !is_linear && !matches!(of, Of::AtLeast(_))
    }

    /// Whether a column is computed of moved frames.
    pub(super) fn moves_column(&self, column: &Column) -> bool {
        let is_masked = match column.source {
            Source::Binary(_, of) => !matches!(of, Of::AtLeast(_)),
            Source::Real(_) => true,
            Source::Events(_) | Source::NoData(_) => false,
        };
        self.conditions.descan.is_some() && is_masked
    }

    /// What folds into masks: a correction, unless masks move over it.
    fn folds(&self) -> Option<&Correction> {
        self.conditions.correction.as_deref().filter(|_| self.conditions.descan.is_none())
    }

    /// Bytes of real masks, if there were so many more.
    fn real_bytes(&self, more: u64) -> u64 {
        let count = self.masks.iter().filter(|mask| !mask.is_binary()).count() as u64 + more;
        count.saturating_mul(8 * self.detector.pixel_count())
    }

    /// Bytes that kernels, masks and making them take for real weights.
    pub(super) fn weights_bytes(&self) -> u64 {
        3 * self.real_bytes(0) // The weights, the digits of the kernels (four of 16 bits), and a copy while a plan is made.
    }

    /// Whether so many more real masks may be made.
    fn check_real(&self, more: u64) -> Result<(), PlanError> {
        let (bytes, bytes_max) = (self.real_bytes(more), MASKS_BYTES_MAX);
        if bytes > bytes_max { Err(PlanError::MasksTooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    /// As [`Self::corrects`], of a column.
    pub(super) fn corrects_column(&self, column: &Column) -> bool {
        match column.source {
            Source::Binary(_, of) => self.corrects(of) && !self.moves_column(column),
            Source::Real(_) | Source::NoData(_) => false,
            Source::Events(_) => true,
        }
    }

    /// As [`Self::corrects`]; a sum over frames is corrected when somebody looks.
    pub(super) fn corrects_pattern(&self, accumulator: Accumulator) -> bool {
        let is_linear = accumulator == Accumulator::Sum;
        self.conditions.correction.is_some() && !is_linear || matches!(accumulator, Accumulator::Events(_))
    }

    /// The correction, which may change nothing.
    pub(super) fn correction(&self) -> Arc<Correction> {
        self.conditions.correction.clone().unwrap_or_else(|| Arc::new(Correction::none(self.detector)))
    }

    /// Pixels of patterns but sums.
    pub(super) fn pattern_kind(&self) -> PixelKind {
        if self.conditions.correction.is_some() { PixelKind::F32 } else { self.pixel.kind }
    }

    /// Epochs of columns and patterns, ascending.
    pub(super) fn epochs(&self) -> Vec<u32> {
        let columns = self.columns.iter().map(|column| column.epoch);
        let patterns = self.patterns.iter().map(|wanted| wanted.epoch);
        in_order(columns.chain(patterns).chain(self.customs.iter().map(|custom| custom.epoch)))
    }

    /// Epochs of what a result is made of, ascending.
    pub(super) fn epochs_of(&self, output: &Output) -> Vec<u32> {
        let columns = output.columns.iter().map(|&column| self.columns[column].epoch);
        let patterns = output.accumulators.iter();
        let patterns = patterns.filter_map(|&used| self.patterns.iter().find(|wanted| wanted.accumulator == used));
        in_order(columns.chain(patterns.map(|wanted| wanted.epoch)).chain(output.custom().map(|custom| custom.epoch)))
    }

    /// What is accumulated per pixel since this epoch began.
    pub(super) fn accumulators(&self, epoch: u32) -> Vec<Accumulator> {
        let wanted = self.patterns.iter().filter(|wanted| wanted.epoch == epoch);
        wanted.map(|wanted| wanted.accumulator).collect()
    }
}

/// Epochs, ascending, each once.
fn in_order(epochs: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut epochs: Vec<u32> = epochs.collect();
    epochs.sort_unstable();
    epochs.dedup();
    epochs
}

/// A column, as the finishing function of a result names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum(pub(super) usize);

/// What a reduction may ask to be computed from every frame.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    pub(super) spec: &'a mut Spec,
    pub(super) before: Option<&'a Spec>,
}

impl Needs<'_> {
    /// Shape of the whole detector.
    pub(super) fn detector(&self) -> SigShape {
        self.spec.detector
    }

    /// How pixels come.
    pub(super) fn pixel(&self) -> PixelType {
        self.spec.pixel
    }

    /// Whether so many sums over real masks may be asked for.
    pub(super) fn check_real(&self, count: usize) -> Result<(), PlanError> {
        self.spec.check_real(count as u64)
    }

    /// Whether so many sums over binary masks may be asked for: a gain makes them real.
    pub(super) fn check_binary(&self, count: usize) -> Result<(), PlanError> {
        if self.spec.folds().is_some() { self.check_real(count) } else { Ok(()) }
    }

    /// Sum over a mask: integers of binary masks stay integers.
    pub(super) fn sum(&mut self, mask: Mask) -> Sum {
        if mask.is_binary() {
            return self.over(mask, Of::Pixels);
        }
        let (mask, offset) = match self.spec.folds() {
            Some(correction) => {
                let (folded, offset) = correction.fold(mask.weights().unwrap_or_default());
                (Mask::real(self.spec.detector, folded), offset)
            }
            None => (mask, 0.0),
        };
        self.weighted(mask, offset)
    }

    /// Sum over a real mask, less an offset.
    fn weighted(&mut self, mask: Mask, offset: f64) -> Sum {
        let exponent = mask.exponent();
        let mask = self.mask(mask);
        self.column(Source::Real(mask), ColumnKind::Exact, exponent, offset)
    }

    /// What makes of pixels as they come a sum over corrected ones: a real mask, or none where the mask itself will do; and
    /// the offset.
    fn folded(&self, mask: &Mask, of: Of) -> (Option<Mask>, f64) {
        let Some(correction) = self.spec.folds() else { return (None, 0.0) };
        let width = self.spec.detector.width as usize;
        let coordinate = |pixel: usize| match of {
            Of::Pixels => 1.0,
            Of::MomentY => (pixel / width) as f64,
            Of::MomentX => (pixel % width) as f64,
            Of::Squares | Of::AtLeast(_) => 0.0,
        };
        let weights = mask.to_image().into_iter().enumerate().map(|(pixel, weight)| weight * coordinate(pixel));
        let weights: Vec<f64> = weights.collect();
        let (folded, offset) = correction.fold(&weights);
        let is_same = folded == weights;
        ((!is_same).then(|| Mask::real(self.spec.detector, folded)), offset)
    }

    /// Sum of something over a binary mask. Pixels, moments and squares are those of corrected pixels; what is counted by
    /// its value is counted as it comes.
    pub(super) fn over(&mut self, mask: Mask, of: Of) -> Sum {
        debug_assert!(mask.is_binary(), "moments and squares are taken over binary masks");
        let (folded, offset) = self.folded(&mask, of);
        if let Some(folded) = folded {
            return self.weighted(folded, offset);
        }
        let detector = self.spec.detector;
        let pixel_max = pixel_max(self.spec.pixel.kind).filter(|_| !self.spec.corrects(of));
        let kind = match (pixel_max, of) {
            (_, Of::AtLeast(_)) => ColumnKind::U64,
            (None, _) => ColumnKind::Exact,
            (Some(pixel_max), of) => {
                let weight_max = match of {
                    Of::MomentY => detector.height.saturating_sub(1),
                    Of::MomentX => detector.width.saturating_sub(1),
                    Of::Squares => pixel_max,
                    Of::Pixels | Of::AtLeast(_) => 1,
                };
                if fits_u64(pixel_max, detector, weight_max) { ColumnKind::U64 } else { ColumnKind::U128 }
            }
        };
        let mask = self.mask(mask);
        self.column(Source::Binary(mask, of), kind, 0, offset)
    }

    /// Sum of the weights of a mask under pixels without data; `None` where all have some.
    pub(super) fn nodata(&mut self, mask: &Mask) -> Option<Sum> {
        if !self.spec.conditions.can_lack_data() {
            return None;
        }
        let kind = if mask.is_binary() { ColumnKind::U64 } else { ColumnKind::Exact };
        let exponent = if mask.is_binary() { 0 } else { mask.exponent() };
        let mask = self.mask(mask.clone());
        Some(self.column(Source::NoData(mask), kind, exponent, 0.0))
    }

    /// Events of single electrons.
    pub(super) fn events(&mut self, window: Window) -> Sum {
        self.column(Source::Events(window), ColumnKind::U64, 0, 0.0)
    }

    /// What is accumulated per pixel so far.
    pub(super) fn patterns(&self) -> impl Iterator<Item = Accumulator> {
        self.spec.patterns.iter().map(|wanted| wanted.accumulator)
    }

    /// Sum over all pixels.
    pub(super) fn total(&mut self) -> Sum {
        let whole = Mask::whole(self.spec.detector);
        self.over(whole, Of::Pixels)
    }

    /// Something accumulated per detector pixel, over frames.
    pub(super) fn pattern(&mut self, accumulator: Accumulator) -> Accumulator {
        if !self.spec.patterns.iter().any(|wanted| wanted.accumulator == accumulator) {
            let same = |wanted: &&Wanted| wanted.accumulator == accumulator;
            let known = self.before.and_then(|before| before.patterns.iter().find(same));
            let epoch = known.map_or(self.spec.generation, |wanted| wanted.epoch);
            self.spec.patterns.push(Wanted { accumulator, epoch });
        }
        accumulator
    }

    /// Number that the first result gets which is planned now.
    pub(super) fn next_result(&self) -> usize {
        self.spec.results.len()
    }

    fn mask(&mut self, mask: Mask) -> usize {
        if let Some(known) = self.spec.masks.iter().position(|known| **known == mask) {
            return known;
        }
        let known = self.before.and_then(|before| before.masks.iter().find(|known| ***known == mask));
        self.spec.masks.push(known.map_or_else(|| Arc::new(mask), Arc::clone));
        self.spec.masks.len() - 1
    }

    fn column(&mut self, source: Source, kind: ColumnKind, exponent: i32, offset: f64) -> Sum {
        if let Some(known) = self.spec.columns.iter().position(|column| column.source == source) {
            return Sum(known);
        }
        let known = self.before.and_then(|before| {
            before.columns.iter().find(|column| self.is_same(before, column.source, source)) // I2
        });
        let (id, epoch) = match known {
            Some(column) => (column.id, column.epoch),
            None => (self.spec.next_id, self.spec.generation),
        };
        self.spec.next_id += u64::from(known.is_none());
        self.spec.columns.push(Column { source, kind, exponent, offset, id, epoch });
        Sum(self.spec.columns.len() - 1)
    }

    /// Whether a source of the list before is the same as one of this list; equal masks are one object by now.
    fn is_same(&self, before: &Spec, old: Source, new: Source) -> bool {
        let same_mask = |old: usize, new: usize| Arc::ptr_eq(&before.masks[old], &self.spec.masks[new]);
        match (old, new) {
            (Source::Binary(old, a), Source::Binary(new, b)) => a == b && same_mask(old, new),
            (Source::Real(old), Source::Real(new)) | (Source::NoData(old), Source::NoData(new)) => same_mask(old, new),
            (Source::Events(old), Source::Events(new)) => old == new,
            _ => false,
        }
    }
}

/// Largest value of an integer pixel.
pub(super) fn pixel_max(kind: PixelKind) -> Option<u32> {
    match kind {
        PixelKind::U8 => Some(u32::from(u8::MAX)),
        PixelKind::U16 => Some(u32::from(u16::MAX)),
        PixelKind::U32 => Some(u32::MAX),
        PixelKind::F32 => None,
    }
}

/// The overflow proof: a whole frame of the largest pixels under the largest weight stays below 2^63.
fn fits_u64(pixel_max: u32, detector: SigShape, weight_max: u32) -> bool {
    let largest = u128::from(pixel_max) * u128::from(detector.pixel_count()) * u128::from(weight_max);
    largest < 1 << 63
}

pub(super) fn check_name(name: &str) -> Result<(), PlanError> {
    let valid = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if valid { Ok(()) } else { Err(PlanError::Name { name: name.chars().take(NAME_BYTES_MAX).collect() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;
    use crate::reduce::VirtualDetector;

    fn disk(name: &str) -> Reduction {
        Reduction::virtual_detector(name, VirtualDetector::Disk { cy: 1.0, cx: 1.0, radius: 1.0 })
    }

    fn spec(reductions: &[Reduction], side: u32, kind: PixelKind) -> Result<Spec, PlanError> {
        Spec::new(
            reductions,
            SigShape { height: side, width: side },
            PixelType::new(kind, ByteOrder::Little),
            &Conditions::default(),
        )
    }

    /// Names are those of the rule, unique, and not those of other results.
    #[test]
    fn names() {
        for bad in ["", ".bf", "-bf", "b f", "b/f", "bé", &"a".repeat(129)] {
            assert!(matches!(spec(&[disk(bad)], 8, PixelKind::U16), Err(PlanError::Name { .. })), "{bad:?}");
        }
        for reserved in RESERVED_NAMES {
            assert!(matches!(spec(&[disk(reserved)], 8, PixelKind::U16), Err(PlanError::Reserved { .. })));
        }
        assert!(matches!(spec(&[disk("a"), disk("a")], 8, PixelKind::U16), Err(PlanError::Duplicate { .. })));
        let twice = [Reduction::sum(), Reduction::sum()];
        assert!(matches!(spec(&twice, 8, PixelKind::U16), Err(PlanError::Duplicate { .. })));
        assert!(spec(&[disk("0.B_f-2"), disk(&"a".repeat(128))], 8, PixelKind::U16).is_ok());
    }

    /// The proof allows 64 bits exactly where section 8 of the definitions does: u32 moments of 4096 x 4096 need more.
    #[test]
    fn overflow_proof() {
        let all = [Reduction::total(), Reduction::centre_of_mass()];
        let kinds = |side, kind| -> Vec<ColumnKind> {
            spec(&all, side, kind).expect("valid").columns.iter().map(|column| column.kind).collect()
        };
        assert_eq!(kinds(4096, PixelKind::U32), [ColumnKind::U64, ColumnKind::U128, ColumnKind::U128]);
        assert_eq!(kinds(1024, PixelKind::U32), [ColumnKind::U64; 3]);
        assert_eq!(kinds(16384, PixelKind::U16), [ColumnKind::U64; 3]);
        assert_eq!(kinds(16, PixelKind::F32), [ColumnKind::Exact; 3]);
        assert!(spec(&all, 16385, PixelKind::U8).is_err());
    }

    /// Of two histograms with other bins one would stand for both: they are refused; equal ones share their bins.
    #[test]
    fn one_histogram() {
        let histogram = |name: &str, bins: u32| {
            let parameters = serde_json::json!({ "bins": bins }).as_object().cloned().unwrap_or_default();
            Reduction::parse("histogram", Some(name), parameters).expect("parameters")
        };
        let two = spec(&[histogram("a", 16), histogram("b", 32)], 8, PixelKind::U16);
        assert_eq!(two.err(), Some(PlanError::OneOnly { what: "histograms" }));
        assert!(spec(&[histogram("a", 16), histogram("b", 16)], 8, PixelKind::U16).is_ok());
    }

    /// What two lists share keeps id and epoch; what comes anew begins a new epoch, also under an old name.
    #[test]
    fn changes_keep_what_stays() {
        let moved = VirtualDetector::Disk { cy: 2.0, cx: 1.0, radius: 1.0 };
        let before = spec(&[disk("a"), Reduction::total(), Reduction::sum()], 8, PixelKind::U16).expect("valid");
        let list = [Reduction::sum(), Reduction::virtual_detector("a", moved), Reduction::total(), Reduction::max()];
        let after = before.changed(&list).expect("valid");
        let columns: Vec<_> = after.columns.iter().map(|column| (column.id, column.epoch)).collect();
        assert_eq!(columns, [(2, 1), (1, 0)]);
        let patterns: Vec<_> = after.patterns.iter().map(|wanted| wanted.epoch).collect();
        assert_eq!((patterns, after.epochs()), (vec![0, 1], vec![0, 1]));
        assert_eq!(after.epochs_of(&after.results[1]), [1]);
        assert_eq!(after.epochs_of(&after.results[2]), [0]);
    }
}
