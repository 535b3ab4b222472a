//! Patterns: what is accumulated over frames for every pixel of one tile: sum, squares, maximum, minimum; and a histogram.

use super::custom::Tally;
use super::events::Window;
use super::exact::{ADDITIONS_MAX, DIGITS, Exact, INFINITE, MINUS_INFINITE, NAN, carry_of, split_f32, split_f64};
use super::extremes::{ExtremePattern, Extremes};
use super::partial::MergeError;
use super::plan::ReducePlan;
use crate::{PixelKind, Region};

/// Something accumulated over frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Accumulator {
    /// Sum per pixel.
    Sum,
    /// Sum and sum of squares per pixel: what a variance needs.
    Moments,
    /// Largest value per pixel.
    Max,
    /// Smallest value per pixel.
    Min,
    /// Events of single electrons per pixel.
    Events(Window),
    /// How often which values occur in all pixels.
    Histogram(Bins),
}

/// Bins of equal width over `[from, to)`; what lies outside is counted in the first or last bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bins {
    pub(super) count: u32,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Bins {
    /// The bin of a value; `None` for NaN.
    #[inline(always)]
    pub(super) fn of(&self, value: f64) -> Option<usize> {
        let place = (value - self.from) * (f64::from(self.count) / (self.to - self.from));
        (!place.is_nan()).then(|| (place.max(0.0) as usize).min(self.count as usize - 1))
    }
}

/// What was accumulated over some frames of one tile; merging adds, and is associative and commutative (variances of
/// floating point pixels: up to rounding).
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns {
    region: Region,
    /// Changes of the list of reductions that the plan of these frames knew, ascending.
    epochs: Vec<u32>,
    pub(super) frame_count: u64,
    pub(super) nan_count: u64,
    /// Frames in which a pixel had no data, where there may be such pixels.
    nodata: Option<Vec<u64>>,
    pub(super) sum: Option<SumPattern>,
    pub(super) squares: Option<SquaresPattern>,
    pub(super) max: Option<ExtremePattern>,
    pub(super) min: Option<ExtremePattern>,
    pub(super) events: Option<(Window, Vec<u64>)>,
    pub(super) histogram: Option<(Bins, Vec<u64>)>,
    pub(super) customs: Vec<Tally>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum SumPattern {
    Integer(Vec<u64>),
    Float(Box<FloatSums>),
}

/// Sums of squares of integers, which are exact; mean and sum of squared differences from it of floating point numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SquaresPattern {
    U64(Vec<u64>),
    U128(Vec<u128>),
    Float(Spread),
}

/// Welford's mean and sum of squared differences, per pixel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spread {
    pub(super) frame_count: u64,
    pub(super) mean: Vec<f64>,
    pub(super) m2: Vec<f64>,
}

impl Patterns {
    /// Patterns of no frame, as the plan wants them.
    pub fn new(plan: &ReducePlan) -> Self {
        let corrected = plan.corrected.as_ref().map(|corrected| &corrected.plan);
        let kinds = [plan.pixel.kind, plan.pattern_kind];
        let more = corrected.map_or(&[][..], |plan| &plan.accumulators);
        let zero = Self::zero(plan.region, kinds, &[&plan.accumulators[..], more].concat(), plan.nodata.is_some());
        Self { epochs: plan.part.epochs.clone(), customs: plan.customs.over_frames(), ..zero }
    }

    /// Takes away what is made of corrected frames: events, and where pixels are corrected all but the sum.
    pub(super) fn take_corrected(&mut self, is_corrected: bool) -> Self {
        let (region, epochs, events) = (self.region, Vec::new(), self.events.take());
        if !is_corrected {
            return Self { events, ..Self::zero(region, [PixelKind::U8; 2], &[], false) };
        }
        let (squares, max, min, histogram) =
            (self.squares.take(), self.max.take(), self.min.take(), self.histogram.take());
        let (frame_count, nan_count, nodata, sum, customs) = (0, 0, None, None, Vec::new());
        Self { region, epochs, frame_count, nan_count, nodata, sum, squares, max, min, events, histogram, customs }
    }

    /// Puts back what was taken away.
    pub(super) fn put_corrected(&mut self, corrected: Self) {
        self.events = corrected.events;
        self.squares = corrected.squares.or(self.squares.take());
        self.max = corrected.max.or(self.max.take());
        self.min = corrected.min.or(self.min.take());
        self.histogram = corrected.histogram.or(self.histogram.take());
    }

    /// Whether the frames were reduced by a plan that knew this change.
    pub(super) fn knows(&self, epoch: u32) -> bool {
        self.epochs.contains(&epoch)
    }

    /// Patterns of no frame; `kinds` are the pixels of sums, and those of all else. `lacks` says whether pixels may have no
    /// data.
    pub(super) fn zero(region: Region, kinds: [PixelKind; 2], wanted: &[Accumulator], lacks: bool) -> Self {
        let [sum_kind, kind] = kinds;
        let count = region.pixel_count() as usize;
        let has = |accumulator| wanted.contains(&accumulator);
        let needs_sum = has(Accumulator::Sum) || has(Accumulator::Moments) && kind != PixelKind::F32;
        let bins = wanted.iter().find_map(|wanted| match wanted {
            Accumulator::Histogram(bins) => Some(*bins),
            _ => None,
        });
        Self {
            region,
            epochs: Vec::new(),
            frame_count: 0,
            nan_count: 0,
            nodata: (lacks && !wanted.is_empty()).then(|| vec![0; count]),
            sum: needs_sum.then(|| match sum_kind {
                PixelKind::F32 => SumPattern::Float(Box::new(FloatSums::new(count))),
                _ => SumPattern::Integer(vec![0; count]),
            }),
            squares: has(Accumulator::Moments).then(|| SquaresPattern::zero(kind, count)),
            max: has(Accumulator::Max).then(|| ExtremePattern::none(kind, count, false)),
            min: has(Accumulator::Min).then(|| ExtremePattern::none(kind, count, true)),
            events: wanted.iter().find_map(|wanted| match wanted {
                Accumulator::Events(window) => Some((*window, vec![0; count])),
                _ => None,
            }),
            histogram: bins.map(|bins| (bins, vec![0; bins.count as usize])),
            customs: Vec::new(),
        }
    }

    /// The tile they belong to.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Frames in them.
    pub fn frame_count(&self) -> u64 {
        self.frame_count
    }

    /// Whether anything is accumulated pixel by pixel.
    pub(super) fn has_pixels(&self) -> bool {
        self.sum.is_some() || self.squares.is_some() || self.max.is_some() || self.min.is_some()
    }

    /// NaN pixels seen, which maximum and minimum ignore.
    pub fn nan_count(&self) -> u64 {
        self.nan_count
    }

    /// Back to patterns of no frame, keeping the memory.
    pub fn clear(&mut self) {
        self.frame_count = 0;
        self.nan_count = 0;
        match &mut self.sum {
            Some(SumPattern::Integer(sum)) => sum.fill(0),
            Some(SumPattern::Float(sum)) => **sum = FloatSums::new(sum.count),
            None => {}
        }
        self.squares.iter_mut().for_each(SquaresPattern::clear);
        self.max.iter_mut().for_each(|max| max.clear(false));
        self.min.iter_mut().for_each(|min| min.clear(true));
        let counts = self.histogram.iter_mut().map(|(_, counts)| counts);
        let counts = counts.chain(self.events.iter_mut().map(|(_, counts)| counts)).chain(&mut self.nodata);
        counts.for_each(|counts| counts.fill(0));
        self.customs.iter_mut().for_each(Tally::clear);
    }

    /// Frames in which a pixel had data.
    pub(super) fn count_at(&self, pixel: usize) -> u64 {
        self.frame_count - self.nodata.as_ref().map_or(0, |counts| counts[pixel])
    }

    /// Extremes of some pixels.
    pub(super) fn extremes_at(&self, places: &[u32], out: &mut Extremes) {
        let of = |pattern: &Option<ExtremePattern>| pattern.as_ref().map(|pattern| pattern.at(places));
        (out.max, out.min) = (of(&self.max), of(&self.min));
    }

    /// Puts back extremes of some pixels.
    pub(super) fn put_extremes(&mut self, places: &[u32], known: &Extremes) {
        let each = [(&mut self.max, &known.max), (&mut self.min, &known.min)];
        for (pattern, known) in each {
            if let (Some(pattern), Some(known)) = (pattern, known) {
                pattern.put(places, known);
            }
        }
    }

    /// Takes note of pixels without data that kernels have seen as 0: once for every frame.
    pub(super) fn count_nodata(&mut self, places: &[u32]) {
        if let Some(counts) = &mut self.nodata {
            places.iter().for_each(|&place| counts[place as usize] += 1);
        }
        if let Some((bins, counts)) = &mut self.histogram
            && let Some(bin) = bins.of(0.0)
        {
            counts[bin] -= places.len() as u64;
        }
    }

    /// Adds the frames of `other`; each frame must be in one of them only.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.region == other.region && !self.is_like(other) {
            return Err(MergeError::Reductions);
        }
        self.merge_part(other)
    }

    /// As [`Self::merge`], of an `other` that may hold more than this one.
    pub(super) fn merge_part(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.region != other.region {
            return Err(MergeError::Region { own: self.region, other: other.region });
        }
        if !self.is_part_of(other) {
            return Err(MergeError::Reductions);
        }
        self.frame_count += other.frame_count;
        self.nan_count += other.nan_count;
        match (&mut self.sum, &other.sum) {
            (Some(SumPattern::Integer(own)), Some(SumPattern::Integer(other))) => {
                own.iter_mut().zip(other).for_each(|(own, &other)| *own = own.wrapping_add(other));
            }
            (Some(SumPattern::Float(own)), Some(SumPattern::Float(other))) => own.merge(other),
            _ => {}
        }
        if let (Some(own), Some(other)) = (&mut self.nodata, &other.nodata) {
            own.iter_mut().zip(other).for_each(|(own, &other)| *own += other);
        }
        if let (Some(own), Some(other)) = (&mut self.squares, &other.squares) {
            own.merge(other);
        }
        if let (Some(own), Some(other)) = (&mut self.max, &other.max) {
            own.merge(other, Ord::max, Ord::max, Ord::max, Ord::max);
        }
        if let (Some(own), Some(other)) = (&mut self.min, &other.min) {
            own.merge(other, Ord::min, Ord::min, Ord::min, Ord::min);
        }
        if let (Some((_, own)), Some((_, other))) = (&mut self.events, &other.events) {
            own.iter_mut().zip(other).for_each(|(own, &other)| *own += other);
        }
        if let (Some((_, own)), Some((_, other))) = (&mut self.histogram, &other.histogram) {
            own.iter_mut().zip(other).for_each(|(own, &other)| *own += other);
        }
        for own in &mut self.customs {
            own.find(&other.customs).into_iter().for_each(|other| own.merge(other));
        }
        Ok(())
    }

    /// Whether both are of the same tile and made alike.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.region == other.region && self.is_part_of(other) && other.is_part_of(self)
    }

    /// Whether the other has all that this one has.
    fn is_part_of(&self, other: &Self) -> bool {
        fn has<T>(own: Option<&T>, other: Option<&T>) -> bool {
            own.is_none_or(|own| {
                other.is_some_and(|other| std::mem::discriminant(own) == std::mem::discriminant(other))
            })
        }
        has(self.sum.as_ref(), other.sum.as_ref())
            && has(self.nodata.as_ref(), other.nodata.as_ref())
            && has(self.squares.as_ref(), other.squares.as_ref())
            && has(self.max.as_ref(), other.max.as_ref())
            && has(self.min.as_ref(), other.min.as_ref())
            && self.events.as_ref().is_none_or(|(window, _)| other.events.as_ref().is_some_and(|(w, _)| w == window))
            && self.customs.iter().all(|own| own.find(&other.customs).is_some())
            && self.histogram.as_ref().is_none_or(|(bins, _)| other.histogram.as_ref().is_some_and(|(b, _)| b == bins))
    }

    /// Sum of one pixel, rounded once.
    pub(super) fn sum_at(&self, pixel: usize) -> Option<f64> {
        match self.sum.as_ref()? {
            SumPattern::Integer(sums) => Some(sums[pixel] as f64),
            SumPattern::Float(sums) => Some(sums.value(pixel)),
        }
    }

    /// Population variance of one pixel over the frames in which it had data: of integers exact, then rounded.
    pub(super) fn variance_at(&self, pixel: usize) -> Option<f64> {
        let n = self.count_at(pixel);
        let squares = match self.squares.as_ref()? {
            SquaresPattern::U64(squares) => u128::from(squares[pixel]),
            SquaresPattern::U128(squares) => squares[pixel],
            SquaresPattern::Float(spread) => {
                return Some(spread.variance(pixel, spread.frame_count - (self.frame_count - n)));
            }
        };
        let Some(SumPattern::Integer(sums)) = &self.sum else { return None };
        let sum = u128::from(sums[pixel]);
        // n s2 - s1^2 <= n^2 (2^32)^2 / 4 < 2^128 for less than 2^33 frames, so that wrapping on the way does no harm.
        let spread = u128::from(n).wrapping_mul(squares).wrapping_sub(sum.wrapping_mul(sum));
        Some(spread as f64 / (n as f64 * n as f64))
    }
}

impl SquaresPattern {
    fn zero(kind: PixelKind, count: usize) -> Self {
        match kind {
            PixelKind::U8 | PixelKind::U16 => Self::U64(vec![0; count]), // 2^32 * 2^32 frames.
            PixelKind::U32 => Self::U128(vec![0; count]),
            PixelKind::F32 => Self::Float(Spread { frame_count: 0, mean: vec![0.0; count], m2: vec![0.0; count] }),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::U64(squares) => squares.fill(0),
            Self::U128(squares) => squares.fill(0),
            Self::Float(spread) => {
                spread.frame_count = 0;
                spread.mean.fill(0.0);
                spread.m2.fill(0.0);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::U64(own), Self::U64(other)) => own.iter_mut().zip(other).for_each(|(own, &other)| *own += other),
            (Self::U128(own), Self::U128(other)) => own.iter_mut().zip(other).for_each(|(own, &other)| *own += other),
            (Self::Float(own), Self::Float(other)) => own.merge(other),
            _ => debug_assert!(false, "squares of different pixel types"), // Checked by the caller.
        }
    }
}

impl Spread {
    /// Population variance of one pixel over `count` frames; the others were 0, and are taken out again.
    fn variance(&self, pixel: usize, count: u64) -> f64 {
        let (all, count, m2) = (self.frame_count as f64, count as f64, self.m2[pixel]);
        if count == all {
            return m2 / count;
        }
        let mean = self.mean[pixel] * (all / count);
        // Chan, Golub and LeVeque's merge, backwards: the part taken out has mean and spread 0.
        (m2 - mean * mean * (count * (all - count) / all)).max(0.0) / count
    }

    /// Chan, Golub and LeVeque's merge.
    fn merge(&mut self, other: &Self) {
        let (own_count, other_count) = (self.frame_count as f64, other.frame_count as f64);
        self.frame_count += other.frame_count;
        if other.frame_count == 0 {
            return;
        }
        let count = own_count + other_count;
        let own = self.mean.iter_mut().zip(&mut self.m2);
        for ((mean, m2), (&other_mean, &other_m2)) in own.zip(other.mean.iter().zip(&other.m2)) {
            let distance = other_mean - *mean;
            *mean += distance * (other_count / count);
            *m2 += other_m2 + distance * distance * (own_count * other_count / count);
        }
    }
}

/// Exact sums of floating point numbers, one per pixel, digit by digit: detectors use few of the twelve digits, and
/// those never used take no memory.
#[derive(Debug, Clone)]
pub(super) struct FloatSums {
    count: usize,
    digits: [Vec<i64>; DIGITS],
    flags: Vec<u8>,
    /// Additions to one digit since digits were last settled.
    additions: u64,
}

impl FloatSums {
    fn new(count: usize) -> Self {
        Self { count, digits: Default::default(), flags: Vec::new(), additions: 0 }
    }

    /// Adds a row of pixels that begins at pixel `at`; every pixel once per frame of [`Self::added_frames`].
    pub(super) fn add(&mut self, at: usize, row: &[f32]) {
        for (pixel, &value) in (at..).zip(row) {
            match split_f32(value) {
                Ok((digit, low, high)) => {
                    if low != 0 || high != 0 {
                        self.digit(digit)[pixel] += low;
                        self.digit(digit + 1)[pixel] += high;
                    }
                }
                Err(flag) => self.set_flag(pixel, flag),
            }
        }
    }

    /// Adds sums over some frames of the pixels from `at` on; they are finite, and no finer than a pixel can be.
    pub(super) fn add_sums(&mut self, at: usize, sums: &[f64]) {
        for (pixel, &sum) in (at..).zip(sums) {
            let (first, pieces) = split_f64(sum);
            for (digit, piece) in (first..).zip(pieces).filter(|&(_, piece)| piece != 0) {
                self.digit(digit)[pixel] += piece;
            }
        }
    }

    /// So many frames more have been added, at most 2^30 at a time.
    pub(super) fn added_frames(&mut self, count: u64) {
        self.additions += count;
        if self.additions >= ADDITIONS_MAX {
            self.settle();
        }
    }

    #[inline(always)]
    fn digit(&mut self, digit: usize) -> &mut [i64] {
        let digits = &mut self.digits[digit];
        if digits.is_empty() {
            digits.resize(self.count, 0);
        }
        digits
    }

    #[cold]
    fn set_flag(&mut self, pixel: usize, flag: u8) {
        if self.flags.is_empty() {
            self.flags.resize(self.count, 0);
        }
        self.flags[pixel] |= flag & (NAN | INFINITE | MINUS_INFINITE);
    }

    fn settle(&mut self) {
        for digit in 0..DIGITS - 1 {
            if self.digits[digit].is_empty() {
                continue;
            }
            for pixel in 0..self.count {
                let carry = carry_of(self.digits[digit][pixel]);
                if carry != 0 {
                    self.digits[digit][pixel] -= carry << 32;
                    self.digit(digit + 1)[pixel] += carry;
                }
            }
        }
        self.additions = 1;
    }

    fn merge(&mut self, other: &Self) {
        if self.additions + other.additions > ADDITIONS_MAX {
            self.settle();
        }
        for digit in 0..DIGITS {
            if !other.digits[digit].is_empty() {
                self.digit(digit).iter_mut().zip(&other.digits[digit]).for_each(|(own, &other)| *own += other);
            }
        }
        for (pixel, &flag) in other.flags.iter().enumerate().filter(|&(_, &flag)| flag != 0) {
            self.set_flag(pixel, flag);
        }
        self.additions += other.additions;
    }

    fn sum(&self, pixel: usize) -> Exact {
        let digits = std::array::from_fn(|digit| self.digits[digit].get(pixel).copied().unwrap_or(0));
        let mut sum = Exact::from_digits(digits, self.flags.get(pixel).copied().unwrap_or(0));
        sum.settle();
        sum
    }

    /// The sum of one pixel, rounded once.
    pub(super) fn value(&self, pixel: usize) -> f64 {
        self.sum(pixel).to_f64()
    }
}

impl PartialEq for FloatSums {
    /// Equal sums, however their digits are written.
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && (0..self.count).all(|pixel| self.sum(pixel) == other.sum(pixel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Settling digits does not change a sum, also where signs mix.
        #[test]
        fn settling(values in proptest::collection::vec(any::<f32>(), 1..50)) {
            let (mut settled, mut plain) = (FloatSums::new(1), FloatSums::new(1));
            for &value in &values {
                settled.add(0, &[value]);
                settled.settle();
                plain.add(0, &[value]);
            }
            prop_assert_eq!(&settled, &plain);
        }

        /// Pixels of some frames give the same one by one and as their sum.
        #[test]
        fn sums_of_frames(counts in proptest::collection::vec(-1000_i16..1000, 1..16), gain in -140_i32..110) {
            let gain = 2.0_f32.powi(gain);
            let (mut together, mut one_by_one) = (FloatSums::new(2), FloatSums::new(2));
            let values: Vec<f32> = counts.iter().map(|&count| f32::from(count) * gain).collect();
            values.iter().for_each(|&value| one_by_one.add(1, &[value]));
            together.add_sums(1, &[values.iter().map(|&value| f64::from(value)).sum()]);
            prop_assert_eq!(&together, &one_by_one);
        }
    }
}
