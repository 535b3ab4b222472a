//! Exact sums of floating point numbers: add in any order, in any grouping, round once.
//!
//! # Why this way
//! Floating point addition is not associative, so results would depend on tiling, block order and thread count. A
//! fixed-point number wide enough for every `f32` times every coordinate makes addition associative again, and costs
//! two integer additions per pixel. Compensated sums only make the differences smaller.
//!
//! # Limits
//! One unit is 2^-192; magnitudes stay below 2^191: `f32` (< 2^128) x coordinate (< 2^16) x pixels (< 2^32).

use std::ops::AddAssign;

/// Digits of a sum: digit `i` counts units of 2^(32 i - 192).
pub(super) const DIGITS: usize = 12;
/// Exponent of the lowest unit.
pub(super) const UNIT: i32 = -192;
/// Additions a digit takes between two [`Exact::settle`]: each adds less than 2^32.
pub(super) const ADDITIONS_MAX: u64 = 1 << 30;

pub(super) const NAN: u8 = 1;
pub(super) const INFINITE: u8 = 2;
pub(super) const MINUS_INFINITE: u8 = 4;

/// A sum of floating point numbers without rounding; NaN and infinities are remembered as IEEE 754 would sum them.
///
/// ```
/// use ronchi_pipeline::reduce::Exact;
/// let mut sum = Exact::default();
/// for value in [1e30, 1.0, -1e30] {
///     sum.add_f32(value);
/// }
/// assert_eq!(sum.to_f64(), 1.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exact {
    digits: [i64; DIGITS],
    flags: u8,
}

impl Exact {
    /// Adds one number; at most 2^30 of them between two calls of [`Self::settle`].
    #[inline(always)]
    pub fn add_f32(&mut self, value: f32) {
        match split_f32(value) {
            Ok((digit, low, high)) => {
                self.digits[digit] += low;
                self.digits[digit + 1] += high;
            }
            Err(flag) => self.flags |= flag,
        }
    }

    /// Adds a number below 2^190 in magnitude; digits below 2^-192 are cut off. Limits as [`Self::add_f32`].
    pub fn add_f64(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as i32;
        if exponent == 0x7ff {
            self.flags |= flag_of(value);
            return;
        }
        let (first, pieces) = split_f64(value);
        for (digit, piece) in self.digits[first..].iter_mut().zip(pieces) {
            *digit += piece;
        }
    }

    /// One number below 2^190 in magnitude; what is below 2^-192 of it is cut off.
    pub(super) fn of(value: f64) -> Self {
        let mut sum = Self::default();
        sum.add_f64(value);
        sum.settle();
        sum
    }

    /// Adds `value * 2^exponent`, exactly; `exponent >= -192`, and the product stays below 2^160.
    pub fn add_integer(&mut self, value: i128, exponent: i32) {
        let place = (exponent - UNIT).max(0) as usize;
        let sign = if value < 0 { -1 } else { 1 };
        // In 32-bit pieces, so that shifting by a part of a digit loses nothing; the sign goes with each, as there is no room above.
        for piece in 0..4 {
            let bits = value.unsigned_abs() >> (32 * piece) & 0xffff_ffff;
            let digit = place / 32 + piece;
            if bits != 0 && digit + 1 < DIGITS {
                let shifted = bits << (place % 32);
                self.digits[digit] += sign * (shifted & 0xffff_ffff) as i64;
                self.digits[digit + 1] += sign * (shifted >> 32) as i64;
            }
        }
    }

    /// Brings the digits into their one normal form, each in `[-2^31, 2^31)` except the highest: equal sums are then
    /// equal values.
    pub fn settle(&mut self) {
        for digit in 0..DIGITS - 1 {
            let carry = carry_of(self.digits[digit]);
            self.digits[digit] -= carry << 32;
            self.digits[digit + 1] += carry;
        }
    }

    pub(super) fn from_digits(digits: [i64; DIGITS], flags: u8) -> Self {
        Self { digits, flags }
    }

    /// The sum, rounded once, to nearest, ties to even.
    pub fn to_f64(&self) -> f64 {
        match self.flags {
            0 => {}
            INFINITE => return f64::INFINITY,
            MINUS_INFINITE => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let mut sum = *self;
        sum.settle();
        let negative = sum.digits.iter().rev().find(|&&digit| digit != 0).is_some_and(|&digit| digit < 0);
        if negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
        }
        let magnitude = sum.magnitude();
        if negative { -magnitude } else { magnitude }
    }

    /// Value of a sum that is not negative.
    fn magnitude(mut self) -> f64 {
        for digit in 0..DIGITS - 1 {
            let carry = self.digits[digit] >> 32;
            self.digits[digit] -= carry << 32;
            self.digits[digit + 1] += carry;
        }
        let Some(top) = self.digits.iter().rposition(|&digit| digit != 0) else { return 0.0 };
        let bottom = top.saturating_sub(2);
        let mut bits = (bottom..=top).rev().fold(0_u128, |bits, digit| bits << 32 | self.digits[digit] as u128);
        // With three digits there are more than 64 bits, so one sticky bit decides every tie as the rest would.
        bits |= u128::from(self.digits[..bottom].iter().any(|&digit| digit != 0));
        scale(bits as f64, 32 * bottom as i32 + UNIT)
    }
}

impl AddAssign<&Exact> for Exact {
    fn add_assign(&mut self, other: &Exact) {
        for (digit, &more) in self.digits.iter_mut().zip(&other.digits) {
            *digit += more;
        }
        self.flags |= other.flags;
        self.settle();
    }
}

/// `value * 2^exponent`, in steps that do not overflow on the way.
pub(super) fn scale(value: f64, exponent: i32) -> f64 {
    let (mut value, mut rest) = (value, exponent);
    while rest != 0 && value != 0.0 && value.is_finite() {
        let step = rest.clamp(-500, 500);
        value *= 2.0_f64.powi(step);
        rest -= step;
    }
    value
}

/// What moves from a digit to the next so that it lands in `[-2^31, 2^31)`.
#[inline(always)]
pub(super) fn carry_of(digit: i64) -> i64 {
    (digit + (1 << 31)) >> 32
}

/// First of two neighbouring digits and what the number adds to each, or its flag when it is not finite.
#[inline(always)]
pub(super) fn split_f32(value: f32) -> Result<(usize, i64, i64), u8> {
    let bits = value.to_bits();
    let exponent = bits >> 23 & 0xff;
    if exponent == 0xff {
        return Err(flag_of(f64::from(value)));
    }
    let mantissa = i64::from(bits & 0x7f_ffff | (u32::from(exponent != 0) << 23));
    let place = exponent.max(1) + 42; // 2^-150 is the unit of exponent 0 in IEEE 754: 192 - 150.
    let shifted = mantissa << (place % 32);
    let signed = if bits >> 31 == 1 { -shifted } else { shifted };
    Ok(((place / 32) as usize, signed & 0xffff_ffff, signed >> 32))
}

/// First of three neighbouring digits and what a finite number below 2^190 in magnitude adds to each; what is below 2^-192 is cut off.
#[inline(always)]
pub(super) fn split_f64(value: f64) -> (usize, [i64; 3]) {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let mantissa = (bits & ((1 << 52) - 1)) | (u64::from(exponent != 0) << 52);
    let place = exponent.max(1) - 1075 - UNIT;
    let mantissa = if place >= 0 { mantissa } else { mantissa.checked_shr(place.unsigned_abs()).unwrap_or(0) };
    let place = place.clamp(0, 329) as usize; // The bound of the doc line.
    let shifted = u128::from(mantissa) << (place % 32);
    let sign = if value < 0.0 { -1 } else { 1 };
    (place / 32, [0, 32, 64].map(|shift| sign * (shifted >> shift & 0xffff_ffff) as i64))
}

fn flag_of(value: f64) -> u8 {
    if value.is_nan() {
        NAN
    } else if value > 0.0 {
        INFINITE
    } else {
        MINUS_INFINITE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sums of few numbers whose exact value is known.
    #[test]
    fn known_sums() {
        let sum = |values: &[f32]| {
            let mut sum = Exact::default();
            values.iter().for_each(|&value| sum.add_f32(value));
            sum.to_f64()
        };
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[f32::MAX, 1e-45, -f32::MAX]), f64::from(1e-45_f32));
        assert_eq!(sum(&[-1.0, 0.25]), -0.75);
        assert_eq!(sum(&[f32::MAX; 4]), 4.0 * f64::from(f32::MAX));
        assert_eq!(sum(&[f32::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f32::INFINITY, f32::NEG_INFINITY]).is_nan());
        // Ties: 2^53 + 1 rounds to even, a little more rounds up.
        assert_eq!(sum(&[9_007_199_254_740_992.0, 1.0]), 9_007_199_254_740_992.0);
        assert_eq!(sum(&[9_007_199_254_740_992.0, 1.0, 1e-40]), 9_007_199_254_740_994.0);
    }

    proptest! {
        /// One finite number survives, whatever its size and sign, through each way in.
        #[test]
        fn one_number(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let (mut single, mut double) = (Exact::default(), Exact::default());
            single.add_f32(value);
            double.add_f64(f64::from(value));
            single.settle();
            double.settle();
            prop_assert_eq!(single, double);
            prop_assert_eq!(single, Exact::of(f64::from(value)));
            prop_assert!(single.to_f64() == f64::from(value) || value.is_nan());
        }

        /// Any order and grouping gives the same digits, and integers give what i128 gives.
        #[test]
        fn order_does_not_matter(
            values in proptest::collection::vec(-1_000_000_000_000_i64..1_000_000_000_000, 0..40),
            cut in 0_usize..40,
        ) {
            let (mut forward, mut left, mut right) = (Exact::default(), Exact::default(), Exact::default());
            let cut = cut.min(values.len());
            values.iter().for_each(|&v| forward.add_f64(v as f64 * 2.0_f64.powi(-60)));
            values[..cut].iter().rev().for_each(|&v| left.add_integer(i128::from(v), -60));
            values[cut..].iter().for_each(|&v| right.add_integer(i128::from(v), -60));
            right += &left;
            forward.settle();
            prop_assert_eq!(forward, right);
            let sum: i128 = values.iter().map(|&v| i128::from(v)).sum();
            prop_assert_eq!(forward.to_f64(), sum as f64 * 2.0_f64.powi(-60));
        }

        /// Large integers at any place are rounded once.
        #[test]
        fn large_integers(value in any::<i128>(), cut in 4_i32..127, exponent in -150_i32..100) {
            let (value, exponent) = (value >> cut, exponent.min(16 + cut));
            let mut sum = Exact::default();
            sum.add_integer(value, exponent);
            prop_assert_eq!(sum.to_f64(), scale(value as f64, exponent));
        }
    }
}
