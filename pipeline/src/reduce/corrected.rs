//! Corrected frames, for what is not linear: maxima, squares, histograms.
//!
//! # Place in the path
//! Beside the kernel of the pixel type: a [`super::Reducer`] hands every frame of a block to both. Nothing of this runs
//! unless a correction is asked for, and something that needs corrected frames.

use super::correction::TileCorrection;
use super::events::Window;
use super::frames::Frames;
use super::kernel_f32::Floats;
use super::partial::Values;
use super::patterns::{Accumulator, Patterns};
use super::plan::ReducePlan;
use super::spec::{Column, Source};
use super::vector::Machine;

/// What a plan computes of corrected frames.
#[derive(Debug, Clone)]
pub(super) struct Corrected {
    /// For frames in single precision.
    pub(super) plan: ReducePlan,
    correction: TileCorrection,
    /// Of the columns that count events: those that the plan has no place for.
    windows: Vec<Window>,
    /// Whether the plan has anything for the kernel.
    has_kernel: bool,
}

impl Corrected {
    /// A plan for these columns; those of events are left to us.
    pub(super) fn new(plan: ReducePlan, correction: TileCorrection, columns: &[&Column]) -> Self {
        let window = |column: &&Column| if let Source::Events(window) = column.source { Some(window) } else { None };
        let windows = columns.iter().filter_map(window).collect();
        let is_pattern = |accumulator: &Accumulator| !matches!(accumulator, Accumulator::Events(_));
        let has_kernel = plan.places.iter().any(Option::is_some) || plan.accumulators.iter().any(is_pattern);
        Self { plan, correction, windows, has_kernel }
    }
}

/// Scratch of one reducer for corrected frames.
#[derive(Debug)]
pub(super) struct CorrectedFrames {
    machine: Machine,
    kernel: Floats,
    frame: Vec<f32>,
    bytes: Vec<u8>,
    /// Values of the last block.
    pub(super) columns: Vec<Values>,
}

impl CorrectedFrames {
    pub(super) fn new(of: &Corrected) -> Self {
        Self {
            machine: Machine::best(),
            kernel: Floats::new(&of.plan),
            frame: Vec::new(),
            bytes: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// Corrects the frames at positions `taken` one by one; patterns go to `patterns`, values stay in `columns`.
    pub(super) fn reduce(&mut self, of: &Corrected, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        let plan = &of.plan;
        self.columns = plan.part.columns.iter().map(|&(_, kind)| Values::new(kind)).collect();
        let frame_bytes = frames.frame_bytes();
        for &position in taken {
            of.correction.frame(&frames.bytes[position * frame_bytes..][..frame_bytes], &mut self.frame);
            if of.has_kernel {
                self.bytes.clear();
                self.bytes.extend(self.frame.iter().flat_map(|pixel| pixel.to_le_bytes()));
                let one = Frames::new(0, &self.bytes, plan.pixel, plan.region).expect("one pixel for each of the tile");
                self.kernel.run(self.machine, plan, &one, &[0], patterns);
            }
            let width = plan.region.width as usize;
            let mut windows = of.windows.iter();
            for (place, column) in plan.places.iter().zip(&mut self.columns) {
                if let &Some(place) = place {
                    self.kernel.append(plan, place, 1, column);
                } else if let Some(window) = windows.next() {
                    let mut count = 0;
                    window.events(&self.frame, width, |_| count += 1);
                    column.push_integer(count);
                }
            }
            if let Some((window, counts)) = &mut patterns.events {
                window.events(&self.frame, width, |at| counts[at] += 1);
            }
        }
    }
}
