//! Corrected frames, for what is not linear: maxima, squares, histograms.
//!
//! # Place in the path
//! Beside the kernel of the pixel type: a [`super::Reducer`] hands every frame of a block to both. Nothing of this runs
//! unless a correction is asked for, and something that needs corrected frames.

use super::correction::TileCorrection;
use super::frames::Frames;
use super::kernel_f32::Floats;
use super::partial::Values;
use super::patterns::Patterns;
use super::plan::ReducePlan;

/// What a plan computes of corrected frames.
#[derive(Debug, Clone)]
pub(super) struct Corrected {
    /// For frames in single precision.
    pub(super) plan: ReducePlan,
    pub(super) correction: TileCorrection,
}

/// Scratch of one reducer for corrected frames.
#[derive(Debug)]
pub(super) struct CorrectedFrames {
    kernel: Floats,
    frame: Vec<f32>,
    bytes: Vec<u8>,
    /// Values of the last block.
    pub(super) columns: Vec<Values>,
}

impl CorrectedFrames {
    pub(super) fn new(of: &Corrected) -> Self {
        Self { kernel: Floats::new(&of.plan), frame: Vec::new(), bytes: Vec::new(), columns: Vec::new() }
    }

    /// Corrects the frames at positions `taken` one by one; patterns go to `patterns`, values stay in `columns`.
    pub(super) fn reduce(&mut self, of: &Corrected, frames: &Frames<'_>, taken: &[usize], patterns: &mut Patterns) {
        let plan = &of.plan;
        self.columns = plan.part.columns.iter().map(|&(_, kind)| Values::new(kind)).collect();
        let frame_bytes = frames.frame_bytes();
        for &position in taken {
            of.correction.frame(&frames.bytes[position * frame_bytes..][..frame_bytes], &mut self.frame);
            self.bytes.clear();
            self.bytes.extend(self.frame.iter().flat_map(|pixel| pixel.to_le_bytes()));
            let one = Frames::new(0, &self.bytes, plan.pixel, plan.region).expect("one pixel for each of the tile");
            self.kernel.reduce(plan, &one, &[0], patterns);
            for (place, column) in plan.places.iter().zip(&mut self.columns) {
                if let &Some(place) = place {
                    self.kernel.append(plan, place, 1, column);
                }
            }
        }
    }
}
