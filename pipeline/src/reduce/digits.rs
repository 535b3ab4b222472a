//! Weights that are integers, in small digits, so that weighted sums of integer pixels are exact.
//!
//! A binary mask weighs its pixels with 1 or with a coordinate. Coordinates are written in balanced digits of 10 bits, from
//! -511 to 512: a digit times a pixel, summed over a chunk of a frame, stays inside 32 bits, and every digit of a mask is one
//! row for [`super::dot`].
//!
//! # Why this way
//! Processors multiply 16-bit integers four times as fast as they multiply numbers in double precision, and exactly.

use super::mask::Mask;
use super::partition::Partition;
use super::rows::Rows;

const DIGIT_BITS: u32 = 10;
/// So few rows are faster row by row than as a partition.
const FEW_ROWS: usize = 4;
/// Digits of a coordinate.
const DIGITS: usize = 2;
/// The largest digit; the smallest is `1 - DIGIT_MAX`.
const DIGIT_MAX: u16 = 512;
/// What makes every digit of a sum of it and a number positive.
const BALANCE: u32 = (DIGIT_MAX as u32 - 1) << DIGIT_BITS | (DIGIT_MAX as u32 - 1);

/// What a pixel of a binary mask is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    One,
    /// Its row, in coordinates of the whole detector.
    Row,
    /// Its column, in coordinates of the whole detector.
    Column,
}

/// What a column of numbers sums: pixels under a binary mask times a factor, or times the weights of a real one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighted<'a> {
    pub(super) mask: &'a Mask,
    /// `None` for a real mask.
    pub(super) factor: Option<Factor>,
}

/// Digits of one column: rows from `first` on, lowest digit first.
#[derive(Debug, Clone, Copy)]
struct Digits {
    first: usize,
    count: usize,
}

/// Columns of integer weights, compiled to rows of digits.
#[derive(Debug, Clone)]
pub(super) struct FixedMasks {
    rows: Rows,
    columns: Vec<Digits>,
    partition: Option<Partition>,
}

impl FixedMasks {
    /// Of binary masks of one tile, for pixels of magnitude up to `pixel_max`; `is_staged` says whether sixteen frames are brought side
    /// by side anyway.
    pub(super) fn new(masks: &[(&Mask, Factor)], pixel_max: u32, is_staged: bool) -> Self {
        let (mut columns, mut of_row, mut largest) = (Vec::new(), Vec::new(), Vec::new());
        for &(mask, factor) in masks {
            let (count, digit_max) = digits_of(mask, factor);
            columns.push(Digits { first: of_row.len(), count });
            of_row.extend((0..count).map(|digit| (mask, factor, digit)));
            largest.extend(std::iter::repeat_n(digit_max, count));
        }
        let pixel_count = masks.first().map_or(0, |(mask, _)| mask.region().pixel_count() as usize);
        let rows = Rows::new(pixel_count, pixel_max, &largest, |row, first, block| {
            let (mask, factor, at) = of_row[row];
            let weighted = Weighted { mask, factor: Some(factor) };
            weighted.write(first, block, |_, _| 0, |number| digit(number, at));
        });
        let is_worth_it = is_staged || rows.len() > FEW_ROWS;
        Self { rows, columns, partition: is_worth_it.then(|| Partition::new(masks)).flatten() }
    }

    /// Rows of digits, to be multiplied with frames.
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The same columns as a partition, where there is one.
    pub(super) fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// Number of columns.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Value of a column, from the sums of all rows.
    pub(super) fn integer(&self, column: usize, totals: &[i128]) -> i128 {
        let Digits { first, count } = self.columns[column];
        (0..).zip(&totals[first..first + count]).map(|(digit, total)| total << (digit * DIGIT_BITS)).sum()
    }
}

/// How many digits a column has, and a bound of their magnitude.
fn digits_of(mask: &Mask, factor: Factor) -> (usize, u16) {
    let region = mask.region();
    let largest = match factor {
        Factor::One => 1,
        Factor::Row => region.y + region.height - 1,
        Factor::Column => region.x + region.width - 1,
    };
    if largest <= u32::from(DIGIT_MAX) { (1, largest.max(1) as u16) } else { (DIGITS, DIGIT_MAX) }
}

impl Weighted<'_> {
    /// Whether all weights are numbers of single precision, given as such.
    pub(super) fn is_single(self) -> bool {
        self.mask.is_single()
    }

    /// Writes the weights of the pixels from `first` on, as far as the tile reaches; real ones as multiples of two to the
    /// power of their mask's exponent.
    pub(super) fn write_numbers(self, first: usize, block: &mut [f64]) {
        self.write(first, block, |weight, exponent| super::exact::scale(weight, -exponent), f64::from);
    }

    fn write<T: Copy>(
        self,
        first: usize,
        block: &mut [T],
        of_real: impl Fn(f64, i32) -> T,
        of_integer: impl Fn(u32) -> T,
    ) {
        let mask = self.mask;
        let (region, width) = (mask.region(), mask.region().width as usize);
        let end = (first + block.len()).min(region.pixel_count() as usize);
        let mut from = first;
        while from < end {
            let (y, x) = (from / width, from % width);
            let count = (width - x).min(end - from);
            let part = &mut block[from - first..][..count];
            match self.factor {
                None => {
                    let weights = mask.weights().into_iter().flat_map(|weights| &weights[from..][..count]);
                    part.iter_mut().zip(weights).for_each(|(part, &weight)| *part = of_real(weight, mask.exponent()));
                }
                Some(Factor::One) => write_runs(mask, y, x, part, |_| of_integer(1)),
                Some(Factor::Row) => write_runs(mask, y, x, part, |_| of_integer(region.y + y as u32)),
                Some(Factor::Column) => write_runs(mask, y, x, part, |x| of_integer(region.x + x as u32)),
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

/// A balanced digit of a number below 2^19.
fn digit(number: u32, at: usize) -> i16 {
    ((number + BALANCE) >> (at as u32 * DIGIT_BITS) & ((1 << DIGIT_BITS) - 1)) as i16 - (DIGIT_MAX as i16 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits joined again give the number they came from, and stay in their range.
    #[test]
    fn digits_are_exact() {
        let columns = vec![Digits { first: 0, count: DIGITS }];
        let masks = FixedMasks { rows: Rows::new(0, 1, &[], |_, _, _| {}), columns, partition: None };
        for number in (0..1 << 16).chain([(1 << 19) - 1]) {
            let digits: [i128; DIGITS] = std::array::from_fn(|at| i128::from(digit(number, at)));
            assert!(digits.iter().all(|digit| (-511..=512).contains(digit)), "{number}: {digits:?}");
            assert_eq!(masks.integer(0, &digits), i128::from(number));
            assert!(number > 512 || digits[1] == 0, "{number}: {digits:?}");
        }
    }
}
