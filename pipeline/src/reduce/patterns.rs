//! Patterns: sum and maximum over frames, per pixel of one tile.

use super::exact::{ADDITIONS_MAX, DIGITS, Exact, INFINITE, MINUS_INFINITE, NAN, carry_of, split_f32};
use super::partial::MergeError;
use super::plan::ReducePlan;
use crate::{PixelKind, Region};

/// Sum and maximum pattern of some frames of one tile; merging adds, and is associative and commutative.
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns {
    region: Region,
    pub(super) frame_count: u64,
    pub(super) nan_count: u64,
    pub(super) sum: Option<SumPattern>,
    pub(super) max: Option<MaxPattern>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum SumPattern {
    Integer(Vec<u64>),
    Float(Box<FloatSums>),
}

/// Native pixels; floating point ones as integers of the same order ([`key_of`]).
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MaxPattern {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    F32(Vec<i32>),
}

impl Patterns {
    /// Patterns of no frame, as the plan wants them.
    pub fn new(plan: &ReducePlan) -> Self {
        Self::zero(plan.region, plan.pixel.kind, plan.sum, plan.max)
    }

    pub(super) fn zero(region: Region, kind: PixelKind, sum: bool, max: bool) -> Self {
        let count = region.pixel_count() as usize;
        let sum = sum.then(|| match kind {
            PixelKind::F32 => SumPattern::Float(Box::new(FloatSums::new(count))),
            _ => SumPattern::Integer(vec![0; count]),
        });
        let max = max.then(|| match kind {
            PixelKind::U8 => MaxPattern::U8(vec![0; count]),
            PixelKind::U16 => MaxPattern::U16(vec![0; count]),
            PixelKind::U32 => MaxPattern::U32(vec![0; count]),
            PixelKind::F32 => MaxPattern::F32(vec![NO_KEY; count]),
        });
        Self { region, frame_count: 0, nan_count: 0, sum, max }
    }

    /// The tile they belong to.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Frames in them.
    pub fn frame_count(&self) -> u64 {
        self.frame_count
    }

    /// NaN pixels seen, which the maximum ignores.
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
        match &mut self.max {
            Some(MaxPattern::U8(max)) => max.fill(0),
            Some(MaxPattern::U16(max)) => max.fill(0),
            Some(MaxPattern::U32(max)) => max.fill(0),
            Some(MaxPattern::F32(max)) => max.fill(NO_KEY),
            None => {}
        }
    }

    /// Adds the frames of `other`; each frame must be in one of them only.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.region != other.region {
            return Err(MergeError::Region { own: self.region, other: other.region });
        }
        if !self.is_like(other) {
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
        match (&mut self.max, &other.max) {
            (Some(MaxPattern::U8(own)), Some(MaxPattern::U8(other))) => raise(own, other),
            (Some(MaxPattern::U16(own)), Some(MaxPattern::U16(other))) => raise(own, other),
            (Some(MaxPattern::U32(own)), Some(MaxPattern::U32(other))) => raise(own, other),
            (Some(MaxPattern::F32(own)), Some(MaxPattern::F32(other))) => raise(own, other),
            _ => {}
        }
        Ok(())
    }

    /// Whether both are of the same tile and made alike.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.region == other.region
            && self.sum.as_ref().map(std::mem::discriminant) == other.sum.as_ref().map(std::mem::discriminant)
            && self.max.as_ref().map(std::mem::discriminant) == other.max.as_ref().map(std::mem::discriminant)
    }
}

/// The larger of each pair.
#[inline(always)]
pub(super) fn raise<T: Ord + Copy>(own: &mut [T], other: &[T]) {
    own.iter_mut().zip(other).for_each(|(own, &other)| *own = (*own).max(other));
}

/// The key of no number: smaller than that of any.
pub(super) const NO_KEY: i32 = i32::MIN;

/// An integer whose order is that of the numbers (-0 below +0); NaN is no number.
#[inline(always)]
pub(super) fn key_of(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    let key = bits ^ ((bits >> 31) as u32 >> 1) as i32;
    if value.is_nan() { NO_KEY } else { key }
}

/// The number of a key; NaN for none.
pub(super) fn number_of(key: i32) -> f32 {
    if key == NO_KEY { f32::NAN } else { f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32) }
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

    /// Adds a row of pixels that begins at pixel `at`; every pixel once between two calls of [`Self::added_frame`].
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

    /// One frame more has been added.
    pub(super) fn added_frame(&mut self) {
        self.additions += 1;
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
        /// Keys order as numbers do and give them back.
        #[test]
        fn keys(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(number_of(key_of(a)).to_bits(), a.to_bits());
            prop_assert_eq!(key_of(a).cmp(&key_of(b)), a.total_cmp(&b));
        }

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
    }

    /// NaN is no number: below minus infinity.
    #[test]
    fn nan_is_no_number() {
        assert_eq!(key_of(f32::NAN), NO_KEY);
        assert!(key_of(f32::NEG_INFINITY) > NO_KEY && number_of(NO_KEY).is_nan());
    }
}
