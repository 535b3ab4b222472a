//! The kernel for floating point pixels: every sum is exact ([`super::exact`]), so results do not depend on order.
//!
//! # Why this way
//! Exactness first: about two integer additions per pixel and sum. A vectorised path for pixels that share an exponent
//! range can come behind the same face.

use super::exact::{Exact, scale};
use super::frames::Frames;
use super::partial::Values;
use super::patterns::{MaxPattern, Patterns, SumPattern, key_of};
use super::plan::{ReducePlan, Slot};
use crate::ByteOrder;

/// Scratch of one reducer for `f32` pixels.
#[derive(Debug)]
pub(super) struct Floats {
    row: Vec<f32>,
    /// Per frame of the block: sums by slot, moments (y, x), sums by real mask.
    sums: Vec<Exact>,
    moments: Vec<[Exact; 2]>,
    real: Vec<Exact>,
}

impl Floats {
    pub(super) fn new(plan: &ReducePlan) -> Self {
        let row = vec![0.0; plan.region.width as usize];
        Self { row, sums: Vec::new(), moments: Vec::new(), real: Vec::new() }
    }

    pub(super) fn reduce(&mut self, plan: &ReducePlan, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        let zeros = |values: &mut Vec<Exact>, count: usize| {
            values.clear();
            values.resize(count, Exact::default());
        };
        zeros(&mut self.sums, taken.len() * plan.slot_count);
        zeros(&mut self.real, taken.len() * plan.real.len());
        self.moments.clear();
        self.moments.resize(if plan.moments { taken.len() } else { 0 }, Default::default());
        let (height, row_bytes) = (plan.region.height as usize, plan.region.width as usize * 4);
        for (frame, &position) in taken.iter().enumerate() {
            let bytes = &frames.bytes[position * height * row_bytes..][..height * row_bytes];
            for (y, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                decode(bytes, plan.pixel.order, &mut self.row);
                self.sum_row(plan, frame, y);
                raise_row(&self.row, y, patterns);
            }
            if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
                sum.added_frame();
            }
        }
    }

    fn sum_row(&mut self, plan: &ReducePlan, frame: usize, y: usize) {
        let mut row_sum = Exact::default();
        for segment in plan.segments.row(y) {
            let mut sum = Exact::default();
            self.row[segment.x0 as usize..segment.x1 as usize].iter().for_each(|&pixel| sum.add_f32(pixel));
            sum.settle();
            row_sum += &sum;
            for &slot in plan.segments.members(segment) {
                self.sums[frame * plan.slot_count + slot as usize] += &sum;
            }
        }
        if plan.moments {
            let [moment_y, moment_x] = &mut self.moments[frame];
            moment_y.add_multiple(&row_sum, plan.region.y + y as u32);
            for (column, &pixel) in (plan.region.x..).zip(&self.row) {
                moment_x.add_f64(f64::from(column) * f64::from(pixel)); // Exact: 16 + 24 bits.
            }
            moment_x.settle();
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

    /// Appends the values of all frames of the last block to a column.
    pub(super) fn append(&self, plan: &ReducePlan, slot: Slot, frame_count: usize, out: &mut Values) {
        for frame in 0..frame_count {
            out.push_exact(match slot {
                Slot::Segments(slot) => self.sums[frame * plan.slot_count + slot],
                Slot::Real(mask) => self.real[frame * plan.real.len() + mask],
                Slot::MomentY => self.moments[frame][0],
                Slot::MomentX => self.moments[frame][1],
            });
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

fn raise_row(row: &[f32], y: usize, patterns: &mut Patterns) {
    patterns.nan_count += row.iter().filter(|pixel| pixel.is_nan()).count() as u64;
    if let Some(SumPattern::Float(sum)) = &mut patterns.sum {
        sum.add(y * row.len(), row);
    }
    if let Some(MaxPattern::F32(max)) = &mut patterns.max {
        let max = &mut max[y * row.len()..][..row.len()];
        max.iter_mut().zip(row).for_each(|(max, &pixel)| *max = (*max).max(key_of(pixel)));
    }
}
