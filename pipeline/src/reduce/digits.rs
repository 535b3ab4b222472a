//! Weights as fixed-point numbers in small digits, so that weighted sums of integer pixels are exact.
//!
//! A real weight, divided by the power of two above the largest of its mask, is a fraction of 118 bits; coordinates are
//! integers. Both are written in balanced digits of 10 bits, from -511 to 512. A digit times a pixel, summed over a
//! chunk of a frame, stays inside 32 bits, and every digit of a mask is one row for [`super::dot`].
//!
//! # Limits
//! Weights at least 2^-65 times the largest are exact; smaller ones are rounded to 2^-118 times the power of two above it.
//! Where a mask is given in single precision, three digits are kept: weights are rounded to 2^-28 times that power, as
//! long as this loses no more of their sum than single precision itself.
//!
//! # Why this way
//! Processors multiply 16-bit integers four times as fast as they multiply numbers in double precision, and exactly.
//! Three digits are three of these where one double would do, and still faster.

use super::exact::{Exact, scale};
use super::mask::Mask;
use super::rows::Rows;

const DIGIT_BITS: u32 = 10;
/// Digits of a number.
const DIGITS: usize = 12;
/// Digits of a weight in single precision.
const SINGLE_DIGITS: usize = 3;
/// Bits of a fraction: two less than there are digits for, so that balancing them never carries out of the highest.
const FRACTION_BITS: i32 = 118;
/// The largest digit; the smallest is `1 - DIGIT_MAX`.
const DIGIT_MAX: u16 = 512;
/// What makes every digit of a sum of it and a number positive.
const BALANCE: i128 = {
    let (mut balance, mut digit) = (0, 0);
    while digit < DIGITS {
        balance |= (DIGIT_MAX as i128 - 1) << (digit as u32 * DIGIT_BITS);
        digit += 1;
    }
    balance
};

/// What a column of numbers sums over a mask.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weighted<'a> {
    /// The weights of a real mask.
    Real(&'a Mask),
    /// Pixels of a binary mask.
    Pixels(&'a Mask),
    /// Pixels of a binary mask times their row, in coordinates of the whole detector.
    Rows(&'a Mask),
    /// Pixels of a binary mask times their column, in coordinates of the whole detector.
    Columns(&'a Mask),
}

/// Digits of one column: rows from `first` on, lowest digit first.
#[derive(Debug, Clone, Copy)]
struct Digits {
    first: usize,
    lowest: usize,
    count: usize,
}

/// Columns of weights, compiled to rows of digits.
#[derive(Debug, Clone)]
pub(super) struct FixedMasks {
    rows: Rows,
    columns: Vec<Digits>,
}

impl FixedMasks {
    /// Of masks of one tile, for pixels of magnitude up to `pixel_max`.
    pub(super) fn new(weighted: &[Weighted<'_>], pixel_max: u32) -> Self {
        let (mut columns, mut of_row, mut largest) = (Vec::new(), Vec::new(), Vec::new());
        for &one in weighted {
            let (lowest, count, digit_max) = one.digits();
            columns.push(Digits { first: of_row.len(), lowest, count });
            of_row.extend((lowest..lowest + count).map(|digit| (one, digit)));
            largest.extend(std::iter::repeat_n(digit_max, count));
        }
        let pixel_count = weighted.first().map_or(0, |one| one.mask().region().pixel_count() as usize);
        let rows = Rows::new(pixel_count, pixel_max, &largest, |row, first, block| {
            let (one, digit) = of_row[row];
            one.write_digits(digit, first, block);
        });
        Self { rows, columns }
    }

    /// Rows of digits, to be multiplied with frames.
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Value of a column of integers, from the sums of all rows.
    pub(super) fn integer(&self, column: usize, totals: &[i128]) -> i128 {
        self.digits(column, totals).map(|(digit, total)| total << (digit as u32 * DIGIT_BITS)).sum()
    }

    /// Value of a column of real weights, as a multiple of two to the power of the mask's exponent.
    pub(super) fn real(&self, column: usize, totals: &[i128]) -> Exact {
        let mut sum = Exact::default();
        for (digit, total) in self.digits(column, totals) {
            sum.add_integer(total, (digit as u32 * DIGIT_BITS) as i32 - FRACTION_BITS);
        }
        sum.settle();
        sum
    }

    fn digits<'a>(&self, column: usize, totals: &'a [i128]) -> impl Iterator<Item = (usize, i128)> + 'a {
        let Digits { first, lowest, count } = self.columns[column];
        (lowest..).zip(totals[first..first + count].iter().copied())
    }
}

impl<'a> Weighted<'a> {
    fn mask(self) -> &'a Mask {
        match self {
            Self::Real(mask) | Self::Pixels(mask) | Self::Rows(mask) | Self::Columns(mask) => mask,
        }
    }

    /// The lowest digit in use, how many there are, and a bound of their magnitude.
    fn digits(self) -> (usize, usize, u16) {
        let region = self.mask().region();
        let coordinate_max = match self {
            Self::Real(mask) => {
                let numbers =
                    mask.weights().unwrap_or_default().iter().map(|&weight| fraction(weight, mask.exponent()));
                let lowest = numbers.filter(|&number| number != 0).map(i128::trailing_zeros).min();
                let lowest = lowest.map_or(DIGITS - 1, |bit| (bit / DIGIT_BITS) as usize);
                // Leaving out digits below rounds to nearest, because digits are balanced.
                let lowest = if mask.is_single() { lowest.max(DIGITS - SINGLE_DIGITS) } else { lowest };
                return (lowest, DIGITS - lowest, DIGIT_MAX);
            }
            Self::Pixels(_) => 1,
            Self::Rows(_) => region.y + region.height - 1,
            Self::Columns(_) => region.x + region.width - 1,
        };
        let highest = (0..DIGITS).rev().find(|&at| digit(i128::from(coordinate_max), at) != 0).unwrap_or(0);
        let bound = if highest == 0 { coordinate_max.max(1) as u16 } else { DIGIT_MAX };
        (0, highest + 1, bound)
    }

    /// Writes a digit of the weights of the pixels from `first` on, as far as the tile reaches.
    fn write_digits(self, at: usize, first: usize, block: &mut [i16]) {
        let of_real = |weight: f64, exponent: i32| digit(fraction(weight, exponent), at);
        self.write(first, block, of_real, |number| digit(i128::from(number), at));
    }

    /// Writes the weights of the pixels from `first` on, as far as the tile reaches; real ones as multiples of two to the
    /// power of their mask's exponent.
    pub(super) fn write_numbers(self, first: usize, block: &mut [f64]) {
        self.write(first, block, |weight, exponent| scale(weight, -exponent), f64::from);
    }

    fn write<T: Copy>(
        self,
        first: usize,
        block: &mut [T],
        of_real: impl Fn(f64, i32) -> T,
        of_integer: impl Fn(u32) -> T,
    ) {
        let mask = self.mask();
        let (region, width) = (mask.region(), mask.region().width as usize);
        let end = (first + block.len()).min(region.pixel_count() as usize);
        let mut from = first;
        while from < end {
            let (y, x) = (from / width, from % width);
            let count = (width - x).min(end - from);
            let part = &mut block[from - first..][..count];
            match self {
                Self::Real(mask) => {
                    let weights = &mask.weights().unwrap_or_default()[from..][..count];
                    part.iter_mut().zip(weights).for_each(|(part, &weight)| *part = of_real(weight, mask.exponent()));
                }
                Self::Pixels(_) => write_runs(mask, y, x, part, |_| of_integer(1)),
                Self::Rows(_) => write_runs(mask, y, x, part, |_| of_integer(region.y + y as u32)),
                Self::Columns(_) => write_runs(mask, y, x, part, |x| of_integer(region.x + x as u32)),
            }
            from += count;
        }
    }
}

/// Writes to the pixels from column `x0` of row `y` on that a binary mask selects.
fn write_runs<T>(mask: &Mask, y: usize, x0: usize, part: &mut [T], weight_of: impl Fn(usize) -> T) {
    for &(from, to) in mask.runs(y as u32) {
        let (from, to) = ((from as usize).max(x0), (to as usize).min(x0 + part.len()));
        for x in from..to {
            part[x - x0] = weight_of(x);
        }
    }
}

/// A balanced digit of a number of magnitude below 2^118.
fn digit(number: i128, at: usize) -> i16 {
    ((number + BALANCE) >> (at as u32 * DIGIT_BITS) & ((1 << DIGIT_BITS) - 1)) as i16 - (DIGIT_MAX as i16 - 1)
}

/// `weight / 2^exponent` in units of 2^-118, rounded to nearest, ties to even; its magnitude is below 2^118.
fn fraction(weight: f64, exponent: i32) -> i128 {
    let bits = weight.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    let mantissa = i128::from(bits & ((1 << 52) - 1) | u64::from(biased != 0) << 52);
    let shift = biased.max(1) - 1075 - exponent + FRACTION_BITS;
    let magnitude = match shift {
        0.. => mantissa << shift.min(FRACTION_BITS),
        -63..0 => {
            let half = 1_i128 << (-shift - 1);
            let floor = mantissa >> -shift;
            let rest = mantissa - (floor << -shift);
            floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
        }
        _ => 0,
    };
    if weight < 0.0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Digits joined again give the number they came from, down to 2^-65 of the largest, and stay in their range.
        #[test]
        fn digits_are_exact(mantissa in -1.0_f64..1.0, exponent in -64_i32..0, scaled in -900_i32..900) {
            let weight = scale(mantissa, exponent + scaled);
            prop_assume!(mantissa == 0.0 || scale(mantissa, exponent).abs() >= scale(1.0, -65));
            let digits = std::array::from_fn::<_, DIGITS, _>(|at| i128::from(digit(fraction(weight, scaled), at)));
            prop_assert!(digits.iter().all(|&digit| (-511..=512).contains(&digit)));
            let columns = vec![Digits { first: 0, lowest: 0, count: DIGITS }];
            let masks = FixedMasks { rows: Rows::new(0, 1, &[], |_, _, _| {}), columns };
            prop_assert_eq!(masks.real(0, &digits).to_f64(), scale(mantissa, exponent));
            prop_assert_eq!(masks.integer(0, &digits), fraction(weight, scaled));
        }
    }

    /// Rounding to the lowest unit is to nearest, ties to even; far below there is nothing.
    #[test]
    fn small_fractions() {
        let units = |value: f64| fraction(scale(value, -FRACTION_BITS), 0);
        assert_eq!([0.5, 0.75, 1.5, 2.5, -1.5, -0.25].map(units), [0, 1, 2, 2, -2, 0]);
        assert_eq!(fraction(1e-300, 0), 0);
        assert_eq!(fraction(f64::from_bits(1), -1073), 1 << (FRACTION_BITS - 1));
    }
}
