//! `Output`: one result of a reduction: what it is laid over, in which unit, and how its numbers are made at the very end.
//!
//! # Why this way
//! Sums merge; quotients, roots and derivatives do not. So kernels and merges know sums only, and every result has one
//! function that divides, once, when somebody looks.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::custom::Planned;
use super::live::LiveImages;
use super::patterns::{Accumulator, Patterns};
use super::spec::Sum;
use super::whole::WholeFn;
use crate::Repeats;

/// An axis behind those of the scan, or one of a result that is laid over nothing: its name and its length.
pub(super) type Axis = (Cow<'static, str>, usize);

/// What a result has numbers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Every scan position.
    Scan,
    /// Every detector pixel.
    Detector,
    /// The whole acquisition.
    All,
}

/// One result.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) over: Over,
    /// Axes behind those of `over`.
    pub(super) axes: Vec<Axis>,
    pub(super) unit: Cow<'static, str>,
    pub(super) made: Made,
    /// Columns it is made of.
    pub(super) columns: Vec<usize>,
    /// Accumulators it is made of.
    pub(super) accumulators: Vec<Accumulator>,
}

type PlaceFn = dyn Fn(&At<'_>, &mut [f64]) + Send + Sync;
type PixelFn = dyn Fn(&PixelAt<'_>) -> f64 + Send + Sync;

/// How numbers are made.
#[derive(Clone)]
pub(super) enum Made {
    /// One column, as it is.
    Count(Sum),
    /// The numbers of one scan position, from columns at that position.
    Place(Arc<PlaceFn>),
    /// A pattern, as it is accumulated.
    Pattern(Accumulator),
    /// The number of one detector pixel, from what was accumulated there.
    Pixel(Arc<PixelFn>),
    /// Counts of a histogram.
    Histogram,
    /// Everything at once, from whole results of this list (by number) over a scan of `[ny, nx]`. Costly: made beside
    /// the path, from copies.
    Whole { inputs: Vec<usize>, make: Arc<WholeFn> },
    /// By a reduction of a lab's own, from its partials; beside the path as well.
    Custom(Arc<Planned>),
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Count(_) => "Count",
            Self::Place(_) => "Place",
            Self::Pattern(_) => "Pattern",
            Self::Pixel(_) => "Pixel",
            Self::Histogram => "Histogram",
            Self::Whole { .. } => "Whole",
            Self::Custom(_) => "Custom",
        };
        f.write_str(word)
    }
}

impl Output {
    /// A column, one number per scan position.
    pub(super) fn count(name: &str, column: Sum) -> Self {
        Self::over_scan(name, "counts", vec![], &[column], Made::Count(column))
    }

    /// Numbers made for each scan position of some columns there; `axes` are those behind the scan.
    pub(super) fn per_place(
        name: &str,
        unit: &'static str,
        axes: Vec<Axis>,
        columns: &[Sum],
        make: impl Fn(&At<'_>, &mut [f64]) + Send + Sync + 'static,
    ) -> Self {
        Self::over_scan(name, unit, axes, columns, Made::Place(Arc::new(make)))
    }

    /// A pattern as it is accumulated.
    pub(super) fn pattern(name: &str, accumulator: Accumulator) -> Self {
        Self::over_detector(name, "counts", &[accumulator], Made::Pattern(accumulator))
    }

    /// A number made for each detector pixel.
    pub(super) fn per_pixel(
        name: &str,
        unit: &'static str,
        accumulators: &[Accumulator],
        make: impl Fn(&PixelAt<'_>) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self::over_detector(name, unit, accumulators, Made::Pixel(Arc::new(make)))
    }

    /// A histogram of `bins` bins.
    pub(super) fn histogram(name: &str, accumulator: Accumulator, bins: usize) -> Self {
        Self {
            name: name.into(),
            over: Over::All,
            axes: vec![("bin".into(), bins)],
            unit: "pixels".into(),
            made: Made::Histogram,
            columns: vec![],
            accumulators: vec![accumulator],
        }
    }

    /// Made of whole results (their numbers), laid over the scan or over nothing; `make` gets their numbers in C order
    /// (NaN = not measured) and the scan shape `[ny, nx]`, and returns as many as this result has.
    pub(super) fn whole(
        name: &str,
        unit: &'static str,
        (over, axes): (Over, Vec<Axis>),
        inputs: Vec<(usize, &Self)>,
        make: impl Fn(&[&[f64]], [usize; 2]) -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        let columns = inputs.iter().flat_map(|(_, output)| output.columns.iter().copied()).collect();
        let inputs = inputs.iter().map(|&(number, _)| number).collect();
        let made = Made::Whole { inputs, make: Arc::new(make) };
        Self { name: name.into(), over, axes, unit: unit.into(), made, columns, accumulators: vec![] }
    }

    fn over_scan(name: &str, unit: &'static str, axes: Vec<Axis>, columns: &[Sum], made: Made) -> Self {
        let columns = columns.iter().map(|&Sum(column)| column).collect();
        Self { name: name.into(), over: Over::Scan, axes, unit: unit.into(), made, columns, accumulators: vec![] }
    }

    fn over_detector(name: &str, unit: &'static str, accumulators: &[Accumulator], made: Made) -> Self {
        let accumulators = accumulators.to_vec();
        let unit = unit.into();
        Self { name: name.into(), over: Over::Detector, axes: vec![], unit, made, columns: vec![], accumulators }
    }

    /// The reduction of a lab's own that makes it.
    pub(super) fn custom(&self) -> Option<&Arc<Planned>> {
        if let Made::Custom(planned) = &self.made { Some(planned) } else { None }
    }

    /// Numbers along the axes behind those of the scan or the detector.
    pub(super) fn tail_count(&self) -> usize {
        self.axes.iter().map(|(_, length)| length).product()
    }
}

/// Sums at one measured scan position, over those of its frames that count: at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) images: &'a LiveImages,
    pub(super) slots: &'a [usize],
}

impl At<'_> {
    /// The sum, rounded once; over several frames their sum or their mean.
    pub(super) fn sum(&self, Sum(column): Sum) -> f64 {
        self.images.value(column, self.slots)
    }

    /// Of so many pixels per frame, how many have data, over all frames; `nodata` counts those that have not.
    pub(super) fn pixels(&self, count: u64, nodata: Option<Sum>) -> u64 {
        let absent = nodata.and_then(|Sum(column)| self.images.integer(column, self.slots)).unwrap_or(0);
        count * self.slots.len() as u64 - absent as u64
    }

    /// Weight without data, on average over frames.
    pub(super) fn nodata(&self, nodata: Option<Sum>) -> f64 {
        let total = nodata.map_or(0.0, |sum| self.sum(sum));
        if self.images.repeats() == Repeats::Mean { total } else { total / self.slots.len() as f64 }
    }

    /// `n s2 - s1^2` of `n` pixels ([`Self::pixels`]) with sum `s1` and sum of squares `s2` over `k` frames: of integers
    /// exact, then rounded. Where the sum is their mean, the result is that of `n / k`, `s1 / k` and `s2 / k`.
    pub(super) fn spread(&self, Sum(sum): Sum, Sum(squares): Sum, pixels: u64) -> f64 {
        let frame_count = self.slots.len() as u64;
        let integers = || {
            let (sum, squares) = (self.images.integer(sum, self.slots)?, self.images.integer(squares, self.slots)?);
            // Of one frame below (n pixel_max)^2 < 2^(2 * (28 + 32)).
            let all = u128::from(pixels).checked_mul(squares)?;
            all.checked_sub(sum.checked_mul(sum)?).map(|spread| spread as f64)
        };
        let is_mean = self.images.repeats() == Repeats::Mean;
        let divisor = if is_mean { frame_count as f64 * frame_count as f64 } else { 1.0 };
        integers().map_or_else(
            || {
                let [sum, squares] = [sum, squares].map(|column| self.images.value(column, self.slots));
                let pixels = if is_mean { pixels as f64 / frame_count as f64 } else { pixels as f64 };
                (pixels * squares - sum * sum).max(0.0)
            },
            |spread| spread / divisor,
        )
    }
}

/// What was accumulated at one pixel of one tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct PixelAt<'a> {
    pub(super) patterns: &'a [&'a Patterns],
    pub(super) pixel: usize,
    /// Sum and number of frames, where sums are wanted.
    pub(super) sum: Option<(f64, u64)>,
}

impl PixelAt<'_> {
    fn of<T>(&self, value: impl Fn(&Patterns, usize) -> Option<T>) -> Option<T> {
        self.patterns.iter().find_map(|patterns| value(patterns, self.pixel))
    }

    /// Mean over frames.
    pub(super) fn mean(&self) -> f64 {
        self.sum.map_or(f64::NAN, |(sum, frame_count)| sum / frame_count as f64)
    }

    /// Population variance over frames; needs sums and squares.
    pub(super) fn variance(&self) -> f64 {
        // Both come from the same frames only if they have the same epoch.
        self.of(Patterns::variance_at).unwrap_or(f64::NAN)
    }
}

/// Rows `[start, end)` cut to those there are.
pub(super) fn within(rows: &Range<usize>, count: usize) -> Range<usize> {
    rows.start.min(count)..rows.end.min(count)
}
