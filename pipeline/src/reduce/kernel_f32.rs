//! The kernel for floating point pixels.
//!
//! # Why this way
//! Weighted sums have their own kernel ([`super::dot_float`]). Squares and patterns are exact ([`super::exact`]), so that they do
//! not depend on order: about two integer additions per pixel.

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

/// Scratch of one reducer for `f32` pixels.
#[derive(Debug)]
pub(super) struct Floats {
    row: Vec<f32>,
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
        Self { row, squares: Vec::new(), counts: Vec::new(), dots: FloatDots::new() }
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
            ByteOrder::Little => self.dots.multiply::<f32, false>(vector, &plan.floats, &stack),
            ByteOrder::Big => self.dots.multiply::<f32, true>(vector, &plan.floats, &stack),
        }
        if !plan.accumulators.is_empty() || !plan.segments.is_empty() {
            self.reduce_rows(plan, frames, taken, patterns);
        }
    }

    /// Everything that is not a weighted sum.
    #[inline(always)]
    fn reduce_rows(&mut self, plan: &ReducePlan, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        let (height, row_bytes) = (plan.region.height as usize, plan.region.width as usize * 4);
        for (frame, &position) in taken.iter().enumerate() {
            if let Some(SquaresPattern::Float(spread)) = &mut patterns.squares {
                spread.frame_count += 1;
            }
            let bytes = &frames.bytes[position * height * row_bytes..][..height * row_bytes];
            for (y, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                decode(bytes, plan.pixel.order, &mut self.row);
                for segment in plan.segments.row(y) {
                    self.add_extras(plan, frame, segment);
                }
                add_to_patterns(&self.row, y, patterns);
            }
            if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
                sum.added_frame();
            }
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

fn decode(bytes: &[u8], order: ByteOrder, row: &mut [f32]) {
    for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *pixel = match order {
            ByteOrder::Little => f32::from_le_bytes(*bytes),
            ByteOrder::Big => f32::from_be_bytes(*bytes),
        };
    }
}

fn add_to_patterns(row: &[f32], y: usize, patterns: &mut Patterns) {
    patterns.nan_count += row.iter().filter(|pixel| pixel.is_nan()).count() as u64;
    let at = y * row.len();
    if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
        sum.add(at, row);
    }
    if let Some(SquaresPattern::Float(spread)) = &mut patterns.squares {
        let frame_count = spread.frame_count as f64; // This one included.
        for ((mean, m2), &pixel) in spread.mean[at..].iter_mut().zip(&mut spread.m2[at..]).zip(row) {
            let pixel = f64::from(pixel);
            let distance = pixel - *mean;
            *mean += distance / frame_count;
            *m2 += distance * (pixel - *mean);
        }
    }
    if let Some(ExtremePattern::F32(max)) = &mut patterns.max {
        max[at..].iter_mut().zip(row).for_each(|(max, &pixel)| *max = (*max).max(key_of(pixel)));
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
