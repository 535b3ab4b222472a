//! The kernel for floating point pixels.
//!
//! # Why this way
//! Weighted sums have their own kernel ([`super::dot_float`]). Squares and sums over frames are exact ([`super::exact`]), so that they do
//! not depend on order. Sums over a few frames nearly always fit double precision without rounding: they are made there, what
//! rounding would have cut off is looked for with every addition (Knuth's TwoSum), and where nothing was they go to the exact sums
//! all at once. Otherwise the frames are added one by one.

use pulp::NullaryFnOnce;

use super::dot::Stack;
use super::dot_float::FloatDots;
use super::exact::Exact;
use super::extremes::{ExtremePattern, NO_KEY, key_of};
use super::frames::Frames;
use super::partial::Values;
use super::patterns::{Patterns, SquaresPattern, SumPattern};
use super::plan::{Place, ReducePlan};
use super::segments::Segment;
use super::vector::{Machine, Multiply};
use crate::ByteOrder;

/// Larger squares count as infinite: exact sums have no room for them.
const SQUARE_MAX: f64 = 7.3e47; // 2^159

/// Pixels whose patterns stay in the first-level cache while some frames are added to them.
const NEAR_PIXELS: usize = 512;
/// Frames added in double precision before their sums are added exactly.
const FRAMES: usize = 16;

/// Scratch of one reducer for `f32` pixels.
#[derive(Debug)]
pub(super) struct Floats {
    row: Vec<f32>,
    sums: Sums,
    /// Per frame of the block: squares and counts by number.
    squares: Vec<Exact>,
    counts: Vec<u64>,
    dots: FloatDots,
}

/// One pass over a block: a type, because only this can be forced into the function that has the vector instructions.
struct Pass<'a, V> {
    kernel: &'a mut Floats,
    vector: V,
    plan: &'a ReducePlan,
    frames: &'a Frames<'a>,
    taken: &'a [usize],
    patterns: &'a mut Patterns,
}

impl<V: Multiply> NullaryFnOnce for Pass<'_, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.kernel.reduce(self.vector, self.plan, self.frames, self.taken, self.patterns);
    }
}

impl Floats {
    pub(super) fn new(plan: &ReducePlan) -> Self {
        let row = vec![0.0; plan.region.width as usize];
        let (sums, squares, counts) = (Sums::default(), Vec::new(), Vec::new());
        Self { row, sums, squares, counts, dots: FloatDots::new() }
    }

    /// Reduces the frames at positions `taken` with what the processor can do: patterns go to `patterns`, values stay for
    /// [`Self::append`].
    pub(super) fn run(
        &mut self,
        machine: Machine,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        let kernel = self;
        match machine {
            Machine::Plain(vector) => vector.run(Pass { kernel, vector, plan, frames, taken, patterns }),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(vector) => vector.run(Pass { kernel, vector, plan, frames, taken, patterns }),
            #[cfg(target_arch = "x86_64")]
            Machine::Vnni(vector) => vector.run(Pass { kernel, vector, plan, frames, taken, patterns }),
        }
    }

    #[inline(always)]
    fn reduce(
        &mut self,
        vector: impl Multiply,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        self.squares.clear();
        self.squares.resize(taken.len() * plan.extras.squares.count, Exact::default());
        self.counts.clear();
        self.counts.resize(taken.len() * plan.extras.at_least.count, 0);
        let stack = Stack { bytes: frames.bytes, frame_bytes: frames.frame_bytes(), positions: taken };
        self.dots.clear(&plan.floats);
        match plan.pixel.order {
            ByteOrder::Little => self.dots.multiply::<f32, false>(vector, &plan.floats, &stack, true),
            ByteOrder::Big => self.dots.multiply::<f32, true>(vector, &plan.floats, &stack, true),
        }
        if !plan.accumulators.is_empty() || !plan.segments.is_empty() {
            self.reduce_rows(plan, frames, taken, patterns);
        }
    }

    /// Everything that is not a weighted sum.
    #[inline(always)]
    fn reduce_rows(&mut self, plan: &ReducePlan, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        let (height, width) = (plan.region.height as usize, plan.region.width as usize);
        let row = |position: usize, y: usize| &frames.bytes[(position * height + y) * width * 4..][..width * 4];
        let order = plan.pixel.order;
        let some = (NEAR_PIXELS / width).max(1);
        for start in (0..height).step_by(some) {
            let lines = start..height.min(start + some);
            for (group, positions) in taken.chunks(FRAMES).enumerate() {
                self.sums.begin(lines.len() * width);
                for (number, &position) in positions.iter().enumerate() {
                    for y in lines.clone() {
                        decode(row(position, y), order, &mut self.row);
                        for segment in plan.segments.row(y) {
                            self.add_extras(plan, group * FRAMES + number, segment);
                        }
                        add_to_patterns(&self.row, y, group * FRAMES + number, patterns);
                        if patterns.sum.is_some() {
                            self.sums.add((y - start) * width, &self.row);
                        }
                    }
                }
                let Some(SumPattern::Float(sum)) = &mut patterns.sum else { continue };
                if self.sums.are_exact() {
                    sum.add_sums(start * width, &self.sums.sums);
                    continue;
                }
                for (&position, y) in positions.iter().flat_map(|position| lines.clone().map(move |y| (position, y))) {
                    decode(row(position, y), order, &mut self.row);
                    sum.add(y * width, &self.row);
                }
            }
        }
        if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
            sum.added_frames(taken.len() as u64);
        }
        if let Some(SquaresPattern::Float(spread)) = &mut patterns.squares {
            spread.frame_count += taken.len() as u64;
        }
    }

    fn add_extras(&mut self, plan: &ReducePlan, frame: usize, segment: &Segment) {
        let pixels = &self.row[segment.x0 as usize..segment.x1 as usize];
        let members = plan.segments.members(segment);
        if segment.extra.squares {
            let mut squares = Exact::default();
            for &pixel in pixels {
                let square = f64::from(pixel) * f64::from(pixel); // Exact: 48 bits.
                squares.add_f64(if square < SQUARE_MAX { square } else { square * f64::INFINITY });
            }
            squares.settle();
            for number in members.iter().filter_map(|&slot| plan.extras.squares.of(slot)) {
                self.squares[frame * plan.extras.squares.count + number] += &squares;
            }
        }
        if segment.extra.at_least {
            for number in members.iter().filter_map(|&slot| plan.extras.at_least.of(slot)) {
                let least = plan.extras.thresholds[number];
                let count = pixels.iter().filter(|&&pixel| f64::from(pixel) >= least).count();
                self.counts[frame * plan.extras.at_least.count + number] += count as u64;
            }
        }
    }

    /// Appends the values of all frames of the last block to a column.
    pub(super) fn append(&self, plan: &ReducePlan, place: Place, frame_count: usize, out: &mut Values) {
        let extras = &plan.extras;
        for frame in 0..frame_count {
            match place {
                Place::FloatDot(number) => out.push_exact(self.dots.total(frame, number)),
                Place::Dot(_) => {} // Only of integer pixels.
                Place::Squares(number) => out.push_exact(self.squares[frame * extras.squares.count + number]),
                Place::AtLeast(number) => {
                    out.push_integer(u128::from(self.counts[frame * extras.at_least.count + number]));
                }
            }
        }
    }
}

/// Sums of some pixels over a few frames.
#[derive(Debug, Default)]
struct Sums {
    sums: Vec<f64>,
    /// Bits of all that rounding has cut off.
    lost: u64,
}

impl Sums {
    fn begin(&mut self, pixel_count: usize) {
        self.sums.clear();
        self.sums.resize(pixel_count, 0.0);
        self.lost = 0;
    }

    /// Adds a row that begins at pixel `at`.
    #[inline(always)]
    fn add(&mut self, at: usize, row: &[f32]) {
        let mut lost = 0;
        for (own, &pixel) in self.sums[at..].iter_mut().zip(row) {
            // D. E. Knuth, The Art of Computer Programming 2, section 4.2.2, theorem B.
            let (a, b) = (*own, f64::from(pixel));
            let sum = a + b;
            let of_b = sum - a;
            lost |= ((a - (sum - of_b)) + (b - of_b)).abs().to_bits();
            *own = sum;
        }
        self.lost |= lost;
    }

    /// Whether nothing was lost, and everything was a number.
    fn are_exact(&self) -> bool {
        self.lost == 0
    }
}

#[inline(always)]
fn decode(bytes: &[u8], order: ByteOrder, row: &mut [f32]) {
    for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *pixel = match order {
            ByteOrder::Little => f32::from_le_bytes(*bytes),
            ByteOrder::Big => f32::from_be_bytes(*bytes),
        };
    }
}

/// Adds row `y` of the `number`-th frame of a block.
#[inline(always)]
fn add_to_patterns(row: &[f32], y: usize, number: usize, patterns: &mut Patterns) {
    patterns.nan_count += u64::from(row.iter().fold(0_u32, |count, pixel| count + u32::from(pixel.is_nan())));
    let at = y * row.len();
    if let Some(SquaresPattern::Float(spread)) = &mut patterns.squares {
        let frame_count = (spread.frame_count + number as u64 + 1) as f64; // This one included.
        for ((mean, m2), &pixel) in spread.mean[at..].iter_mut().zip(&mut spread.m2[at..]).zip(row) {
            let pixel = f64::from(pixel);
            let distance = pixel - *mean;
            *mean += distance / frame_count;
            *m2 += distance * (pixel - *mean);
        }
    }
    if let Some(ExtremePattern::F32(max)) = &mut patterns.max {
        for (max, &pixel) in max[at..].iter_mut().zip(row) {
            *max = (*max).max(key_of(pixel));
        }
    }
    if let Some(ExtremePattern::F32(min)) = &mut patterns.min {
        for (min, key) in min[at..].iter_mut().zip(row.iter().map(|&pixel| key_of(pixel))) {
            *min = if key == NO_KEY { *min } else { (*min).min(key) };
        }
    }
    if let Some((bins, counts)) = &mut patterns.histogram {
        row.iter().filter_map(|&pixel| bins.of(f64::from(pixel))).for_each(|bin| counts[bin] += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What counts as exact is the exact sum, whatever the numbers are.
        #[test]
        fn sums_that_lost_nothing(
            bits in proptest::collection::vec(any::<u32>(), 1..=FRAMES),
            spread in 0_u32..=32,
            first in any::<u32>(),
        ) {
            let (mut sums, mut want) = (Sums::default(), Exact::default());
            sums.begin(1);
            // Numbers that agree in their highest bits are of one size.
            for value in bits.iter().map(|bits| f32::from_bits(first ^ bits.unbounded_shr(32 - spread))) {
                sums.add(0, &[value]);
                want.add_f32(value);
            }
            want.settle();
            if sums.are_exact() {
                prop_assert_eq!(Exact::of(sums.sums[0]), want);
            }
        }

        /// Counts are exact, after a gain too.
        #[test]
        fn sums_of_counts(counts in proptest::collection::vec(0_u16.., 1..=FRAMES), gain in -90_i32..90) {
            let gain = 2.0_f32.powi(gain);
            let (mut sums, mut total) = (Sums::default(), 0.0);
            sums.begin(1);
            for count in counts {
                sums.add(0, &[f32::from(count) * gain]);
                total += f64::from(count);
            }
            prop_assert!(sums.are_exact());
            prop_assert_eq!(sums.sums[0], total * f64::from(gain));
        }
    }

    /// Rounding is noticed, and what is not a number.
    #[test]
    fn losses() {
        for values in [[1e30, 1e-30], [1.0, f32::NAN], [f32::INFINITY, 1.0], [f32::INFINITY, f32::NEG_INFINITY]] {
            let mut sums = Sums::default();
            sums.begin(1);
            values.iter().for_each(|&value| sums.add(0, &[value]));
            assert!(!sums.are_exact(), "{values:?}");
        }
    }
}
