//! Real masks for integer pixels: weights as fixed-point numbers, so that weighted sums are exact too.
//!
//! A weight, divided by the power of two above the largest of its mask, is a fraction of 120 bits, kept as four digits
//! of 30 bits that each carry the sign. A digit times a 16-bit pixel, summed over a row, stays inside 64 bits.
//!
//! # Limits
//! Weights at least 2^-67 times the largest are exact; smaller ones are rounded to 2^-120 times it.

use super::exact::{Exact, scale};
use super::mask::Mask;

/// Digits of a weight.
pub(super) const LIMBS: usize = 4;
const LIMB_BITS: u32 = 30;

/// The weights of one row, between its first and its last weight that is not 0.
#[derive(Debug, Clone, Copy)]
struct Row {
    x0: u32,
    x1: u32,
    start: usize,
}

/// A real mask of one tile, prepared for integer pixels.
#[derive(Debug, Clone)]
pub(super) struct FixedMask {
    rows: Vec<Row>,
    /// Digits of each row: all pixels of the lowest used digit, then of the next.
    digits: Vec<i32>,
    /// Digits below this one are 0 everywhere.
    lowest: usize,
}

impl FixedMask {
    /// Of a real mask; for a binary one there is nothing to prepare.
    pub(super) fn new(mask: &Mask) -> Self {
        let weights = mask.weights().unwrap_or_default();
        let width = mask.region().width as usize;
        let exponent = mask.exponent();
        let digits_of = |&weight: &f64| limbs(scale(weight, -exponent));
        let lowest = weights.iter().flat_map(|weight| digits_of(weight).into_iter().position(|digit| digit != 0)).min();
        let lowest = lowest.unwrap_or(LIMBS - 1);
        let mut made = Self { rows: Vec::new(), digits: Vec::new(), lowest };
        for row in weights.chunks_exact(width) {
            let x0 = row.iter().position(|&weight| weight != 0.0).unwrap_or(0);
            let x1 = row.iter().rposition(|&weight| weight != 0.0).map_or(x0, |last| last + 1);
            made.rows.push(Row { x0: x0 as u32, x1: x1 as u32, start: made.digits.len() });
            for limb in lowest..LIMBS {
                made.digits.extend(row[x0..x1].iter().map(|weight| digits_of(weight)[limb]));
            }
        }
        made
    }

    /// Columns of row `y` that count, and for every digit in use (its number, one digit per column).
    #[inline(always)]
    pub(super) fn row(&self, y: usize) -> (std::ops::Range<usize>, impl Iterator<Item = (usize, &[i32])>) {
        let row = self.rows[y];
        let count = (row.x1 - row.x0) as usize;
        let digits = &self.digits[row.start..row.start + count * (LIMBS - self.lowest)];
        (row.x0 as usize..row.x1 as usize, (self.lowest..LIMBS).zip(digits.chunks_exact(count.max(1))))
    }
}

/// Sum over all digits, as a multiple of two to the power of the mask's exponent.
pub(super) fn join(limbs: &[i128]) -> Exact {
    let mut sum = Exact::default();
    for (limb, &value) in limbs.iter().enumerate() {
        sum.add_integer(value, (limb as u32 * LIMB_BITS) as i32 - (LIMBS as u32 * LIMB_BITS) as i32);
    }
    sum.settle();
    sum
}

/// Digits of a number below 1 in magnitude, lowest first.
fn limbs(fraction: f64) -> [i32; LIMBS] {
    let units = scale(fraction.abs(), (LIMBS as u32 * LIMB_BITS) as i32).round_ties_even() as u128;
    let sign = if fraction < 0.0 { -1 } else { 1 };
    std::array::from_fn(|limb| sign * (units >> (limb as u32 * LIMB_BITS) & ((1 << LIMB_BITS) - 1)) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Digits joined again give the number they came from, down to 2^-67 of the largest.
        #[test]
        fn digits_are_exact(mantissa in -1.0_f64..1.0, exponent in -66_i32..0) {
            let fraction = scale(mantissa, exponent);
            prop_assume!(fraction == 0.0 || fraction.abs() >= scale(1.0, -67));
            prop_assert_eq!(join(&limbs(fraction).map(i128::from)).to_f64(), fraction);
        }
    }
}
