//! Footprint: the memory and the room on disk that results take, known before the first frame.

use std::sync::Arc;

use super::conditions::Conditions;
use super::custom::Planned;
use super::error::PlanError;
use super::exact::Exact;
use super::kinds::Reduction;
use super::output::{Made, Output, Over};
use super::patterns::Accumulator;
use super::spec::{Column, ColumnKind, Spec, Wanted};
use crate::{PixelKind, PixelType, SigShape};

/// What a list of reductions takes, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of memory while results grow.
    pub memory_bytes: u64,
    /// Bytes of the results as they are stored.
    pub stored_bytes: u64,
}

impl Footprint {
    /// Of reductions over so many scan positions and all pixels of a detector, read out as one tile or several.
    /// Errors: as [`super::ReducePlan::compile`].
    pub fn of(
        reductions: &[Reduction],
        detector: SigShape,
        pixel: PixelType,
        positions: u64,
        tile_count: usize,
    ) -> Result<Self, PlanError> {
        Self::with_conditions(reductions, detector, pixel, positions, tile_count, &Conditions::default())
    }

    /// As [`Self::of`], under some conditions.
    pub fn with_conditions(
        reductions: &[Reduction],
        detector: SigShape,
        pixel: PixelType,
        positions: u64,
        tile_count: usize,
        conditions: &Conditions,
    ) -> Result<Self, PlanError> {
        let spec = Spec::new(reductions, detector, pixel, conditions)?;
        let column_bytes = |column: &Column| match column.kind {
            ColumnKind::U64 => 8,
            ColumnKind::U128 => 16,
            ColumnKind::Exact if tile_count == 1 => 8,
            ColumnKind::Exact => size_of::<Exact>() as u64,
        };
        let pixels = detector.pixel_count();
        let count_bytes = if conditions.can_lack_data() { 8 * pixels } else { 0 }; // Pixels without data.
        let pattern_bytes = |wanted: &Wanted| match wanted.accumulator {
            Accumulator::Histogram(bins) => u64::from(bins.count) * 8,
            Accumulator::Max | Accumulator::Min => 4 * pixels,
            Accumulator::Events(_) => 8 * pixels,
            // Digits of exact sums: few are used, but all can be.
            Accumulator::Sum if pixel.kind == PixelKind::F32 => size_of::<Exact>() as u64 * pixels,
            Accumulator::Sum => 12 * pixels,
            Accumulator::Moments => 28 * pixels,
        };
        let numbers = |output: &Output| {
            let places = match output.over {
                Over::Scan => positions,
                Over::Detector => pixels,
                Over::All => 1,
            };
            places.saturating_mul(output.tail_count() as u64)
        };
        let custom_bytes = |custom: &Arc<Planned>| {
            // Over the scan kept for every tile, else by the images and by every reducer: twice as patterns are.
            let times = if custom.is_per_frame() { positions.saturating_mul(tile_count as u64) } else { 2 };
            times.saturating_mul(8 * custom.description.empty.len() as u64)
        };
        let whole = |output: &&Output| matches!(output.made, Made::Whole { .. } | Made::Custom(_));
        let stored_bytes =
            spec.results.iter().map(|output| numbers(output).saturating_mul(8)).fold(positions, u64::saturating_add);
        let columns = spec.columns.iter().map(|column| column_bytes(column).saturating_mul(positions));
        // Patterns are kept by the images and by every reducer: twice is what one of each takes.
        let patterns = spec.patterns.iter().map(|wanted| 2 * (pattern_bytes(wanted) + count_bytes));
        let derived = spec.results.iter().filter(whole).map(|output| numbers(output).saturating_mul(8));
        let customs = spec.customs.iter().map(custom_bytes);
        let memory_bytes =
            columns.chain(patterns).chain(customs).chain(derived).fold(spec.weights_bytes(), u64::saturating_add);
        Ok(Self { memory_bytes, stored_bytes })
    }
}
