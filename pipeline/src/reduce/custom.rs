//! Reductions of a lab's own: whatever a lab computes from the pixels of whole frames, beside the fused kernel.
//!
//! # How to write one
//! 1. A struct of parameters (`serde`, unknown keys refused) that implements [`Custom`].
//! 2. A program that tells ronchi of it before anything is read: [`CustomKind::of`], then `ronchi::main_with`.
//!
//! `docs/plugins.md` has it step by step, `examples/own-reduction` is one that builds.
//!
//! # Place in the path
//! Every reducer has a copy of its own and gives it frame by frame, after the kernel has seen the block. Partials merge in
//! `LiveImages`; `finish` runs beside the path, on copies.
//!
//! # Errors
//! I1: what fails ends its own result and nothing else: an `Err`, a number of the wrong length, also a panic. From then on
//! it is not called any more and its result is NaN; `LiveImages::endings` has the reason.

mod finish;
mod kept;
mod planned;
mod workers;

pub(super) use kept::Kept;
pub(super) use planned::{Planned, Tally};
pub(super) use workers::{CustomPart, Workers};

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionFile;
use super::error::PlanError;
use super::kinds::{Kind, Registered};
use super::output::{Axis, Made, Output, Over};
use super::spec::{COLUMNS_MAX, Needs};
use crate::{FrameIndex, Region, SigShape};

/// Most axes of a result, those of the scan not counted.
const AXES_MAX: usize = 3;
/// Longest name of an axis, and longest unit.
const WORDS_BYTES_MAX: usize = 64;
/// Most numbers of one partial of a reduction that is not over the scan.
pub const PARTIAL_NUMBERS_MAX: usize = 1 << 23;

/// A kind of reduction that a lab writes itself; an instance holds its parameters, and whatever `describe` prepares.
///
/// A *partial* is a row of numbers: what is known from some frames, or from some tiles of one frame. Over the scan every
/// frame has its own, otherwise there is one for all frames. `reduce` adds a frame to a partial, `merge` adds two partials,
/// `finish` makes the numbers of the result of one. `merge` must be associative and commutative: frames come in any order,
/// on several threads. Every thread has a clone of its own, so that an instance may keep scratch.
///
/// ```
/// use ronchi_pipeline::reduce::{Custom, Description, Over, TileFrame};
/// use ronchi_pipeline::SigShape;
/// use serde::{Deserialize, Serialize};
///
/// /// Brightest pixel of every frame.
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Brightest {}
///
/// impl Custom for Brightest {
///     const WORD: &'static str = "brightest";
///     const ABOUT: &'static str = "largest pixel, per frame";
///
///     fn describe(&mut self, _detector: SigShape) -> Result<Description, String> {
///         Ok(Description { over: Over::Scan, axes: vec![], unit: "counts".into(), empty: vec![f64::NEG_INFINITY] })
///     }
///
///     fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
///         partial[0] = frame.pixels.iter().copied().fold(partial[0], f64::max);
///         Ok(())
///     }
///
///     fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
///         partial[0] = partial[0].max(other[0]);
///         Ok(())
///     }
/// }
/// ```
pub trait Custom: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is called in configurations: lower case, no name of another kind.
    const WORD: &'static str;
    /// What it computes, in half a line.
    const ABOUT: &'static str;

    /// What it makes on this detector; called once before all else, and copies are made afterwards. Errors: parameters
    /// that do not fit, in words; the list of reductions is then refused.
    fn describe(&mut self, detector: SigShape) -> Result<Description, String>;

    /// The file that it was read from, where it was: results name it.
    fn file(&self) -> Option<ConditionFile> {
        None
    }

    /// Adds a frame, or the part of one that a tile has, to a partial.
    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String>;

    /// Adds another partial. Called while results are locked: it should take microseconds.
    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String>;

    /// Makes the numbers of the result (C order, all NaN before) of a partial that is not empty; where it is not written,
    /// they are those of the partial.
    fn finish(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        if partial.len() != result.len() {
            return Err(format!("a partial of {} numbers for a result of {}", partial.len(), result.len()));
        }
        result.copy_from_slice(partial);
        Ok(())
    }
}

/// What a custom reduction makes on a detector.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What its result has numbers for.
    pub over: Over,
    /// Name and length of the axes of the result behind those of the scan (`[]` = one number per position), or of a result
    /// for the whole acquisition (at least one). None over the detector.
    pub axes: Vec<(Cow<'static, str>, usize)>,
    /// Unit of the numbers of the result.
    pub unit: Cow<'static, str>,
    /// The partial of no frame, which changes nothing when it is merged; all partials have its length.
    pub empty: Vec<f64>,
}

/// The part of one frame that one tile has; the whole frame, where the detector is one tile.
#[derive(Debug, Clone, Copy)]
pub struct TileFrame<'a> {
    /// Number of the frame in its series.
    pub index: FrameIndex,
    /// Where on the detector these pixels lie.
    pub region: Region,
    /// `region.height * region.width` pixels, C order: counts as they came, all of them exact; where a correction is asked
    /// for corrected ones, in single precision (bad pixels at the border of a tile know that tile only).
    pub pixels: &'a [f64],
}

/// A kind of reduction to be made known: see [`super::Reduction::register`].
#[derive(Debug, Clone, Copy)]
pub struct CustomKind(pub(super) Registered);

impl CustomKind {
    /// The kind of this type.
    pub const fn of<C: Custom>() -> Self {
        Self(Registered::of::<Own<C>>())
    }
}

impl Description {
    /// Numbers of the result for one position, for all pixels, or of the whole acquisition.
    pub(super) fn result_count(&self, detector: SigShape) -> usize {
        match self.over {
            Over::Detector => detector.pixel_count() as usize,
            Over::Scan | Over::All => self.axes.iter().map(|(_, length)| length).product(),
        }
    }

    /// Whether partials and results can be kept, and named in files. Errors: what is wrong, and what is expected.
    pub fn check(&self) -> Result<(), String> {
        let numbers_max = if self.over == Over::Scan { COLUMNS_MAX } else { PARTIAL_NUMBERS_MAX };
        if !(1..=numbers_max).contains(&self.empty.len()) {
            return Err(format!("its partials have {} numbers, must have 1 to {numbers_max}", self.empty.len()));
        }
        self.check_words()?;
        let wanted = match self.over {
            Over::Scan => 0..=AXES_MAX,
            Over::Detector => 0..=0,
            Over::All => 1..=AXES_MAX,
        };
        if !wanted.contains(&self.axes.len()) {
            let count = self.axes.len();
            return Err(format!("its result has {count} axes, must have {} to {}", wanted.start(), wanted.end()));
        }
        let length = self.axes.iter().try_fold(1_usize, |all, (_, length)| all.checked_mul(*length));
        match length.filter(|length| (1..=numbers_max).contains(length)) {
            Some(_) => Ok(()),
            None => Err(format!("the lengths of its axes {:?} must have a product of 1 to {numbers_max}", self.axes)),
        }
    }

    fn check_words(&self) -> Result<(), String> {
        let is_axis = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let fits = |words: &str| words.len() <= WORDS_BYTES_MAX;
        if let Some((name, _)) = self.axes.iter().find(|(name, _)| name.is_empty() || !fits(name) || !is_axis(name)) {
            let name: String = name.chars().take(WORDS_BYTES_MAX).collect();
            return Err(format!("an axis is called {name:?}, must be 1 to {WORDS_BYTES_MAX} letters, digits or '_'"));
        }
        if !fits(&self.unit) || self.unit.chars().any(char::is_control) {
            return Err(format!("its unit must be a text of at most {WORDS_BYTES_MAX} bytes on one line"));
        }
        Ok(())
    }
}

/// A custom kind as one of the kinds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub(super) struct Own<C: Custom>(pub(super) C);

impl<C: Custom> Kind for Own<C> {
    const WORD: &'static str = C::WORD;
    const ABOUT: &'static str = C::ABOUT;

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let planned = needs.custom(name, &self.0)?;
        let Description { over, axes, unit, .. } = &planned.description;
        let (over, unit, axes): (Over, _, Vec<Axis>) = (*over, unit.clone(), axes.clone());
        let (columns, accumulators) = (vec![], vec![]);
        Ok(vec![Output { name: name.into(), over, axes, unit, made: Made::Custom(planned), columns, accumulators }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths that are no lengths are found before anything is made of them.
    #[test]
    fn descriptions_are_checked() {
        let good =
            Description { over: Over::Scan, axes: vec![("peak".into(), 3)], unit: "px".into(), empty: vec![0.0; 2] };
        assert_eq!(good.check(), Ok(()));
        for wrong in [
            Description { empty: vec![], ..good.clone() },
            Description { empty: vec![0.0; COLUMNS_MAX + 1], ..good.clone() },
            Description { axes: vec![("a".into(), 0)], ..good.clone() },
            Description { axes: vec![("a".into(), usize::MAX), ("b".into(), 2)], ..good.clone() },
            Description { over: Over::All, axes: vec![], ..good.clone() },
            Description { axes: vec![("a b".into(), 1)], ..good.clone() },
            Description { axes: vec![("a".repeat(65).into(), 1)], ..good.clone() },
            Description { unit: "px\npx".into(), ..good.clone() },
            Description { over: Over::Detector, ..good },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
