//! The kernel for floating point pixels: every sum is exact ([`super::exact`]), so results do not depend on order.
//!
//! # Why this way
//! Exactness first: about two integer additions per pixel and sum. A vectorised path for pixels that share an exponent
//! range can come behind the same face.

use super::exact::{Exact, scale};
use super::frames::Frames;
use super::partial::Values;
use super::patterns::{ExtremePattern, NO_KEY, Patterns, SquaresPattern, SumPattern, key_of};
use super::plan::{Place, ReducePlan};
use super::segments::Segment;
use crate::ByteOrder;

/// Larger squares count as infinite: exact sums have no room for them.
const SQUARE_MAX: f64 = 7.3e47; // 2^159

/// Scratch of one reducer for `f32` pixels.
#[derive(Debug)]
pub(super) struct Floats {
    row: Vec<f32>,
    /// Per frame of the block: sums by slot, moments (y, x) by number, squares, counts, sums by real mask.
    sums: Vec<Exact>,
    moments: Vec<[Exact; 2]>,
    squares: Vec<Exact>,
    counts: Vec<u64>,
    real: Vec<Exact>,
}

impl Floats {
    pub(super) fn new(plan: &ReducePlan) -> Self {
        let row = vec![0.0; plan.region.width as usize];
        let (sums, moments, squares, counts, real) = Default::default();
        Self { row, sums, moments, squares, counts, real }
    }

    pub(super) fn reduce(&mut self, plan: &ReducePlan, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        self.clear(plan, taken.len());
        let (height, row_bytes) = (plan.region.height as usize, plan.region.width as usize * 4);
        for (frame, &position) in taken.iter().enumerate() {
            if let Some(SquaresPattern::Float(spread)) = &mut patterns.squares {
                spread.frame_count += 1;
            }
            let bytes = &frames.bytes[position * height * row_bytes..][..height * row_bytes];
            for (y, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                decode(bytes, plan.pixel.order, &mut self.row);
                self.sum_row(plan, frame, y);
                add_to_patterns(&self.row, y, patterns);
            }
            if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
                sum.added_frame();
            }
        }
    }

    fn clear(&mut self, plan: &ReducePlan, frame_count: usize) {
        fn zeros<T: Default + Clone>(values: &mut Vec<T>, count: usize) {
            values.clear();
            values.resize(count, T::default());
        }
        zeros(&mut self.sums, frame_count * plan.slot_count);
        zeros(&mut self.moments, frame_count * plan.extras.moments.count);
        zeros(&mut self.squares, frame_count * plan.extras.squares.count);
        zeros(&mut self.counts, frame_count * plan.extras.at_least.count);
        zeros(&mut self.real, frame_count * plan.real.len());
    }

    fn sum_row(&mut self, plan: &ReducePlan, frame: usize, y: usize) {
        for segment in plan.segments.row(y) {
            let mut sum = Exact::default();
            self.row[segment.x0 as usize..segment.x1 as usize].iter().for_each(|&pixel| sum.add_f32(pixel));
            sum.settle();
            for &slot in plan.segments.members(segment) {
                self.sums[frame * plan.slot_count + slot as usize] += &sum;
            }
            self.add_moments(plan, frame, segment, &sum, y);
            self.add_extras(plan, frame, segment);
        }
        for (mask, sum) in plan.real.iter().zip(&mut self.real[frame * plan.real.len()..]) {
            let weights = mask.weights().unwrap_or_default();
            let weights = &weights[y * self.row.len()..][..self.row.len()];
            for (&weight, &pixel) in weights.iter().zip(&self.row).filter(|&(&weight, _)| weight != 0.0) {
                // Rounded once per pixel, the same in every tile; the sum of the products is exact.
                sum.add_f64(scale(weight, -mask.exponent()) * f64::from(pixel));
            }
            sum.settle();
        }
    }

    fn add_moments(&mut self, plan: &ReducePlan, frame: usize, segment: &Segment, sum: &Exact, y: usize) {
        let numbers = &plan.extras.moments;
        let wanted = |slot: &u32| numbers.of(*slot).is_some();
        if !plan.segments.members(segment).iter().any(wanted) {
            return;
        }
        let mut moment = Exact::default();
        for x in segment.x0..segment.x1 {
            // Exact: 16 + 24 bits.
            moment.add_f64(f64::from(plan.region.x + x) * f64::from(self.row[x as usize]));
        }
        moment.settle();
        for number in plan.segments.members(segment).iter().filter_map(|&slot| numbers.of(slot)) {
            let [moment_y, moment_x] = &mut self.moments[frame * numbers.count + number];
            moment_y.add_multiple(sum, plan.region.y + y as u32);
            *moment_x += &moment;
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
                Place::Sum(slot) => out.push_exact(self.sums[frame * plan.slot_count + slot]),
                Place::MomentY(number) => out.push_exact(self.moments[frame * extras.moments.count + number][0]),
                Place::MomentX(number) => out.push_exact(self.moments[frame * extras.moments.count + number][1]),
                Place::Squares(number) => out.push_exact(self.squares[frame * extras.squares.count + number]),
                Place::AtLeast(number) => {
                    out.push_integer(u128::from(self.counts[frame * extras.at_least.count + number]));
                }
                Place::Real(mask) => out.push_exact(self.real[frame * plan.real.len() + mask]),
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
