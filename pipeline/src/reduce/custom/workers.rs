//! What one reducer does for custom reductions: pixels of a frame as numbers, and one copy of each reduction.

use std::sync::Arc;

use super::planned::AnyCustom;
use super::{Planned, Tally, TileFrame};
use crate::reduce::correction::TileCorrection;
use crate::reduce::frames::Frames;
use crate::reduce::partial::Partial;
use crate::reduce::patterns::Patterns;
use crate::reduce::spec::Spec;
use crate::{ByteOrder, PixelKind, PixelType, Region};

/// Custom reductions of a plan.
#[derive(Debug, Clone, Default)]
pub(in crate::reduce) struct CustomPart {
    planned: Vec<Arc<Planned>>,
    correction: Option<TileCorrection>,
}

impl CustomPart {
    /// Those that these changes of the list brought.
    pub(in crate::reduce) fn of(spec: &Spec, region: Region, epochs: &[u32]) -> Self {
        let planned: Vec<_> = spec.customs.iter().filter(|planned| epochs.contains(&planned.epoch)).cloned().collect();
        let correction = spec.conditions.correction.as_ref().filter(|_| !planned.is_empty());
        Self { planned, correction: correction.map(|correction| correction.of_tile(region, spec.pixel)) }
    }

    /// Partials of no frame, of those with one for each.
    pub(in crate::reduce) fn per_frame(&self) -> Vec<Tally> {
        self.planned.iter().filter(|planned| planned.is_per_frame()).map(Tally::new).collect()
    }

    /// Partials of no frame, of those with one for all.
    pub(in crate::reduce) fn over_frames(&self) -> Vec<Tally> {
        self.planned.iter().filter(|planned| !planned.is_per_frame()).map(Tally::new).collect()
    }
}

/// The copies of one reducer, and the pixels they see.
#[derive(Debug)]
pub(in crate::reduce) struct Workers {
    copies: Vec<Box<dyn AnyCustom>>,
    pixels: Vec<f64>,
    corrected: Vec<f32>,
    /// Partials of the frames of the last block.
    tallies: Vec<Tally>,
}

impl Workers {
    /// For one reducer.
    pub(in crate::reduce) fn new(part: &CustomPart) -> Self {
        let copies = part.planned.iter().map(|planned| planned.worker()).collect();
        Self { copies, pixels: Vec::new(), corrected: Vec::new(), tallies: Vec::new() }
    }

    /// Reduces the frames at positions `taken`; partials over all frames go to `patterns`, the others stay here.
    pub(in crate::reduce) fn reduce(
        &mut self,
        part: &CustomPart,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        self.tallies = part.per_frame();
        if part.planned.iter().all(|planned| planned.ended().is_some()) {
            for tally in &mut self.tallies {
                tally.push_empty(taken.len());
            }
            return; // Nobody looks at pixels.
        }
        for &position in taken {
            let bytes = &frames.bytes[position * frames.frame_bytes()..][..frames.frame_bytes()];
            self.read_pixels(part, bytes, frames.pixel);
            let index = frames.first + position as u64;
            let frame = TileFrame { index, region: frames.region, pixels: &self.pixels };
            let (mut per_frame, mut over_frames) = (self.tallies.iter_mut(), patterns.customs.iter_mut());
            for (planned, copy) in part.planned.iter().zip(&mut self.copies) {
                let tally = if planned.is_per_frame() { per_frame.next() } else { over_frames.next() };
                let Some(tally) = tally else { continue }; // There is one for each: both come from this part.
                let partial = if planned.is_per_frame() { tally.push_empty(1) } else { &mut tally.numbers };
                planned.reduce(copy.as_mut(), &frame, partial);
            }
        }
    }

    /// Appends the partials of the last block.
    pub(in crate::reduce) fn append(&self, into: &mut Partial) {
        for (into, from) in into.customs.iter_mut().zip(&self.tallies) {
            into.numbers.extend_from_slice(&from.numbers);
        }
    }

    fn read_pixels(&mut self, part: &CustomPart, bytes: &[u8], pixel: PixelType) {
        self.pixels.clear();
        if let Some(correction) = &part.correction {
            correction.frame(bytes, &mut self.corrected);
            self.pixels.extend(self.corrected.iter().map(|&value| f64::from(value)));
            return;
        }
        let big = pixel.order == ByteOrder::Big;
        match pixel.kind {
            PixelKind::U8 => self.pixels.extend(bytes.iter().map(|&value| f64::from(value))),
            PixelKind::U16 => {
                let value = |&b: &[u8; 2]| f64::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) });
                self.pixels.extend(bytes.as_chunks().0.iter().map(value));
            }
            PixelKind::U32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) });
                self.pixels.extend(bytes.as_chunks().0.iter().map(value));
            }
            PixelKind::F32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { f32::from_be_bytes(b) } else { f32::from_le_bytes(b) });
                self.pixels.extend(bytes.as_chunks().0.iter().map(value));
            }
        }
    }
}

impl Tally {
    /// Appends partials of no frame; returns them.
    fn push_empty(&mut self, frame_count: usize) -> &mut [f64] {
        let start = self.numbers.len();
        for _ in 0..frame_count {
            self.numbers.extend_from_slice(&self.of.description.empty);
        }
        &mut self.numbers[start..]
    }
}
