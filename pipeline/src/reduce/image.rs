//! `LiveImage`: one result as pictures and files want it.

use std::ops::Range;

use super::conditions::ConditionFile;
use super::correction::Correction;
use super::epoch::Epoch;
use super::live::LiveImages;
use super::output::{At, Made, Output, Over, PixelAt, within};
use super::patterns::{Accumulator, Patterns, SumPattern};
use super::spec::Sum;
use super::store::Store;
use super::versions::RowVersions;
use crate::{PixelKind, Region, Repeats};

/// A result for files: exact numbers, C order, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// NumPy type string, e.g. `<u8`.
    pub numpy: &'static str,
    /// Data type in Zarr v3 metadata, e.g. `uint64`.
    pub zarr: &'static str,
    /// Extent along each axis.
    pub shape: Vec<usize>,
    /// The numbers.
    pub bytes: Vec<u8>,
}

/// A view of one result. Rows are steps along its first axis.
#[derive(Debug, Clone)]
pub struct LiveImage<'a> {
    images: &'a LiveImages,
    number: usize,
    output: &'a Output,
    epochs: Vec<&'a Epoch>,
}

impl<'a> LiveImage<'a> {
    pub(super) fn new(images: &'a LiveImages, number: usize) -> Self {
        let output = &images.spec.results[number];
        Self { images, number, output, epochs: images.epochs_of(output) }
    }

    /// Its name, unique in the list of reductions.
    pub fn name(&self) -> &'a str {
        &self.output.name
    }

    /// Extent along each axis: `[ny, nx]` of the scan (and `repeat`, where repeats are stacked) or `[frames]` without one,
    /// `[sy, sx]` of the detector for patterns, nothing for what belongs to the acquisition; then its own axes, e.g. 2 for
    /// the components of a centre of mass.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = match self.output.over {
            Over::Scan => self.images.scan_shape(),
            Over::All if self.is_whole() => self.images.stacked().into_iter().collect(),
            Over::Detector => {
                let detector = self.images.spec.detector;
                vec![detector.height as usize, detector.width as usize]
            }
            Over::All => vec![],
        };
        shape.extend(self.output.axes.iter().map(|(_, length)| length));
        shape
    }

    /// Name of each axis: `scan_y`, `scan_x`, `repeat`, `frame`, `sig_y`, `sig_x`; `component` is `(y, x)`; `bin`, `order`, ...
    pub fn axes(&self) -> Vec<&'a str> {
        let mut axes = match self.output.over {
            Over::Detector => vec!["sig_y", "sig_x"],
            Over::Scan => self.images.scan_axes(),
            Over::All if self.is_whole() => self.images.stacked().map(|_| "repeat").into_iter().collect(),
            Over::All => vec![],
        };
        axes.extend(self.output.axes.iter().map(|(name, _)| name.as_ref()));
        axes
    }

    /// Unit of the numbers: `counts` are those of the pixels, `px` those of the whole detector.
    pub fn unit(&self) -> &'a str {
        &self.output.unit
    }

    /// Whether it is laid over the detector rather than over the scan.
    pub fn is_pattern(&self) -> bool {
        self.output.over == Over::Detector
    }

    /// Number of the change of the list of reductions that brought it (the newest of what it is made of).
    pub fn epoch(&self) -> u32 {
        self.epochs.iter().map(|epoch| epoch.number).max().unwrap_or(0)
    }

    /// Version of its newest row; 0 = nothing measured yet.
    pub fn version(&self) -> u64 {
        match self.output.made {
            Made::Whole { .. } | Made::Custom(_) => {
                self.images.derived[self.number].as_ref().map_or(0, |derived| derived.version)
            }
            _ => self.measured_version(),
        }
    }

    /// Version of the newest row of what it is made of.
    pub(super) fn measured_version(&self) -> u64 {
        self.versions().iter().map(|versions| versions.newest()).max().unwrap_or(0)
    }

    /// Why it has ended before the acquisition did, if it has: all its numbers are NaN.
    pub fn ended(&self) -> Option<&'a str> {
        self.output.custom().and_then(|custom| custom.ended())
    }

    /// The file that its reduction was read from: a plug-in.
    pub fn file(&self) -> Option<ConditionFile> {
        self.output.custom().and_then(|custom| custom.file())
    }

    fn versions(&self) -> Vec<&'a RowVersions> {
        let of = |epoch: &&'a Epoch| match self.output.over {
            Over::Scan => &epoch.value_versions,
            Over::Detector | Over::All => &epoch.pattern_versions,
        };
        self.epochs.iter().map(of).collect()
    }

    /// Rows that changed after `version`, ascending, not touching; rows that only grew incomplete count as changed.
    pub fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>> {
        if self.is_whole() || self.output.custom().is_some() || self.output.over == Over::All {
            let all = 0..self.row_count();
            return Some(all).filter(|_| self.version() > version).into_iter().collect();
        }
        RowVersions::changed_since(&self.versions(), version, self.row_count())
    }

    fn is_whole(&self) -> bool {
        matches!(self.output.made, Made::Whole { .. })
    }

    fn row_count(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }

    /// Numbers in one row.
    fn row_numbers(&self) -> usize {
        self.shape().iter().skip(1).product()
    }

    /// Numbers of some rows as pictures show them, C order: NaN where not all tiles are in, and where a result is not
    /// defined (a centre of mass without signal). Rows beyond the last are left out.
    pub fn row_values(&self, rows: Range<usize>) -> Vec<f64> {
        let rows = within(&rows, self.row_count());
        match &self.output.made {
            Made::Count(column) => self.place_values(&rows, |at, out| out[0] = at.sum(*column)),
            Made::Place(make) => self.place_values(&rows, |at, out| make(at, out)),
            Made::Pattern(Accumulator::Sum) => {
                self.pattern_rows(rows, |patterns, pixel, place| Some(self.sum_at(patterns, pixel, place)?.0))
            }
            Made::Pattern(accumulator) => {
                self.pattern_rows(rows, |patterns, pixel, _| value_of(*accumulator, patterns, pixel))
            }
            Made::Pixel(make) => {
                let has_sum = self.output.accumulators.contains(&Accumulator::Sum);
                self.pattern_rows(rows, |patterns, pixel, place| {
                    let sum = if has_sum { self.sum_at(patterns, pixel, place) } else { None };
                    Some(make(&PixelAt { patterns, pixel, sum }))
                })
            }
            Made::Histogram => self.counts()[rows].iter().map(|&count| count as f64).collect(),
            Made::Custom(custom) if custom.ended().is_some() => vec![f64::NAN; rows.len() * self.row_numbers()],
            Made::Whole { .. } | Made::Custom(_) => {
                let numbers = rows.start * self.row_numbers()..rows.end * self.row_numbers();
                let derived = self.images.derived[self.number].as_ref();
                let values = derived.and_then(|derived| derived.values.get(numbers.clone()));
                values.map_or_else(|| vec![f64::NAN; numbers.len()], <[f64]>::to_vec)
            }
        }
    }

    /// All numbers, as [`Self::row_values`].
    pub fn all_values(&self) -> Vec<f64> {
        self.row_values(0..self.row_count())
    }

    fn place_values(&self, rows: &Range<usize>, make: impl Fn(&At<'_>, &mut [f64])) -> Vec<f64> {
        let (length, tail) = (self.images.row_length(), self.output.tail_count());
        let first = rows.start * length;
        let mut values = vec![f64::NAN; rows.len() * length * tail];
        let mut slots = Vec::new();
        for (place, out) in (first..).zip(values.chunks_exact_mut(tail.max(1))) {
            self.find_slots(place, &mut slots);
            if !slots.is_empty() {
                make(&At { images: self.images, slots: &slots }, out);
            }
        }
        values
    }

    /// Those slots of a place that count.
    fn find_slots(&self, place: usize, slots: &mut Vec<usize>) {
        let is_complete = |slot: &usize| self.epochs.iter().all(|epoch| epoch.is_complete(*slot));
        slots.clear();
        slots.extend(self.images.slots_of(place).filter(is_complete));
        if self.images.repeats() == Repeats::Last {
            slots.drain(..slots.len().saturating_sub(1));
        }
    }

    /// Calls `piece(columns of the detector, first pixel in the tile, patterns)` for each measured piece of row `y`.
    fn pieces(&self, y: usize, mut piece: impl FnMut(Range<usize>, usize, &[&Patterns])) {
        for (tile, region) in self.images.regions.iter().enumerate() {
            let &Region { y: y0, x, height, width } = region;
            let patterns = self.epochs.iter().map(|epoch| &epoch.tiles[tile].patterns);
            let patterns: Vec<&Patterns> = patterns.filter(|patterns| patterns.frame_count() > 0).collect();
            if !patterns.is_empty() && (y0..y0 + height).contains(&(y as u32)) {
                piece(x as usize..(x + width) as usize, (y - y0 as usize) * width as usize, &patterns);
            }
        }
    }

    /// `value(patterns, pixel of the tile, pixel of the detector)` for each measured pixel of some rows.
    fn pattern_rows(&self, rows: Range<usize>, value: impl Fn(&[&Patterns], usize, usize) -> Option<f64>) -> Vec<f64> {
        let width = self.images.spec.detector.width as usize;
        let mut values = vec![f64::NAN; rows.len() * width];
        for (y, row) in rows.zip(values.chunks_exact_mut(width)) {
            self.pieces(y, |columns, first, patterns| {
                let places = y * width + columns.start..;
                for ((out, pixel), place) in row[columns].iter_mut().zip(first..).zip(places) {
                    *out = value(patterns, pixel, place).unwrap_or(f64::NAN);
                }
            });
        }
        values
    }

    /// Counts of a histogram, over all tiles.
    fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.output.tail_count()];
        let patterns = self.epochs.iter().flat_map(|epoch| &epoch.tiles).map(|tile| &tile.patterns);
        for (_, more) in patterns.filter_map(|patterns| patterns.histogram.as_ref()) {
            counts.iter_mut().zip(more).for_each(|(count, &more)| *count += more);
        }
        counts
    }

    /// NumPy and Zarr names of the type [`Self::stored`] uses.
    pub fn stored_type(&self) -> (&'static str, &'static str) {
        match self.output.made {
            Made::Count(_) if self.images.repeats() == Repeats::Mean => ("<f8", "float64"),
            Made::Count(Sum(column)) if self.is_stored_integer(column) => ("<u8", "uint64"),
            Made::Pattern(Accumulator::Sum) if self.correction().is_none() && self.images.spec.pixel.is_integer() => {
                ("<u8", "uint64")
            }
            Made::Pattern(Accumulator::Events(_)) | Made::Histogram => ("<u8", "uint64"),
            Made::Pattern(Accumulator::Max | Accumulator::Min) => match self.images.spec.pattern_kind() {
                PixelKind::U8 => ("|u1", "uint8"),
                PixelKind::U16 => ("<u2", "uint16"),
                PixelKind::U32 => ("<u4", "uint32"),
                PixelKind::F32 => ("<f4", "float32"),
            },
            _ => ("<f8", "float64"),
        }
    }

    fn is_stored_integer(&self, column: usize) -> bool {
        matches!(self.images.stores[column], Store::U64(_)) && self.images.spec.columns[column].offset == 0.0
    }

    fn correction(&self) -> Option<&'a Correction> {
        self.images.spec.conditions.correction.as_deref()
    }

    /// Sum over frames at a pixel of a tile, corrected where that is wanted, rounded at the end; and how many frames.
    fn sum_at(&self, patterns: &[&Patterns], pixel: usize, place: usize) -> Option<(f64, u64)> {
        let raw = patterns.iter().find_map(|patterns| Some((patterns.sum_at(pixel)?, patterns.count_at(pixel))));
        let Some(correction) = self.correction() else { return raw.filter(|&(_, frame_count)| frame_count > 0) };
        let (sum, frame_count) = raw?;
        let Some(neighbours) = correction.neighbours(place) else {
            return Some((correction.sum(place, sum, frame_count), frame_count)).filter(|_| frame_count > 0);
        };
        // Those in another tile may have seen other frames: their means count.
        let mean = |&at: &usize| {
            let (sum, frame_count) = self.raw_sum_at(at).filter(|&(_, frame_count)| frame_count > 0)?;
            Some(correction.sum(at, sum, frame_count) / frame_count as f64)
        };
        let means = neighbours.iter().filter_map(mean);
        let (total, count) = means.fold((0.0, 0), |(total, count), mean| (total + mean, count + 1));
        Some((total / f64::from(count) * frame_count as f64, frame_count))
    }

    /// As [`Self::sum_at`], of any pixel of the detector, as it came.
    fn raw_sum_at(&self, pixel: usize) -> Option<(f64, u64)> {
        let width = self.images.spec.detector.width as usize;
        let (y, x) = ((pixel / width) as u32, (pixel % width) as u32);
        let tile = self.images.regions.iter().position(|region| {
            (region.y..region.y + region.height).contains(&y) && (region.x..region.x + region.width).contains(&x)
        })?;
        let region = self.images.regions[tile];
        let at = (y - region.y) as usize * region.width as usize + (x - region.x) as usize;
        let patterns = self.epochs.iter().map(|epoch| &epoch.tiles[tile].patterns);
        let found = patterns.filter(|patterns| patterns.frame_count() > 0);
        found.filter_map(|patterns| Some((patterns.sum_at(at)?, patterns.count_at(at)))).next()
    }

    /// The whole result, exactly: `uint64` for sums of integers, the pixel type for extremes, `float64` otherwise.
    /// Not measured is 0 in integers (see [`LiveImages::valid`]) and NaN in floating point.
    pub fn stored(&self) -> Stored {
        self.stored_rows(0..self.row_count())
    }

    /// Some rows of it; rows beyond the last are left out.
    pub fn stored_rows(&self, rows: Range<usize>) -> Stored {
        let rows = within(&rows, self.row_count());
        let mut shape = self.shape();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let (numpy, zarr) = self.stored_type();
        let floats = || self.row_values(rows.clone()).into_iter();
        let bytes = match (&self.output.made, numpy) {
            (&Made::Count(Sum(column)), "<u8") => self.stored_integers(rows, column),
            (Made::Pattern(accumulator), "<u8") => self.stored_sums(rows, *accumulator),
            (Made::Histogram, _) => self.counts()[rows].iter().flat_map(|count| count.to_le_bytes()).collect(),
            // Native pixels pass through f64 unharmed; NaN, not measured, becomes 0 in integers.
            (_, "|u1") => floats().map(|value| value as u8).collect(),
            (_, "<u2") => floats().flat_map(|value| (value as u16).to_le_bytes()).collect(),
            (_, "<u4") => floats().flat_map(|value| (value as u32).to_le_bytes()).collect(),
            (_, "<f4") => floats().flat_map(|value| (value as f32).to_le_bytes()).collect(),
            _ => floats().flat_map(f64::to_le_bytes).collect(),
        };
        Stored { numpy, zarr, shape, bytes }
    }

    fn stored_integers(&self, rows: Range<usize>, column: usize) -> Vec<u8> {
        let places = rows.start * self.images.row_length()..rows.end * self.images.row_length();
        let mut slots = Vec::new();
        let value = |place| {
            self.find_slots(place, &mut slots);
            // The sum over many frames may be larger than any one of them can be.
            u64::try_from(self.images.integer(column, &slots).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        places.map(value).flat_map(u64::to_le_bytes).collect()
    }

    /// Sums of integers, or events.
    fn stored_sums(&self, rows: Range<usize>, of: Accumulator) -> Vec<u8> {
        let width = self.images.spec.detector.width as usize;
        let mut values = vec![0_u64; rows.len() * width];
        for (y, row) in rows.zip(values.chunks_exact_mut(width)) {
            self.pieces(y, |columns, first, patterns| {
                let sums = patterns.iter().find_map(|patterns| match (of, &patterns.sum, &patterns.events) {
                    (Accumulator::Events(_), _, Some((_, events))) => Some(events),
                    (Accumulator::Sum, Some(SumPattern::Integer(sums)), _) => Some(sums),
                    _ => None,
                });
                if let Some(sums) = sums {
                    let count = columns.len();
                    row[columns].copy_from_slice(&sums[first..first + count]);
                }
            });
        }
        values.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

/// What was accumulated at one pixel, as a number.
fn value_of(accumulator: Accumulator, patterns: &[&Patterns], pixel: usize) -> Option<f64> {
    let seen = patterns.iter().filter(|patterns| patterns.count_at(pixel) > 0);
    seen.into_iter().find_map(|patterns| match accumulator {
        Accumulator::Max => Some(patterns.max.as_ref()?.value(pixel)),
        Accumulator::Min => Some(patterns.min.as_ref()?.value(pixel)),
        Accumulator::Events(_) => Some(patterns.events.as_ref()?.1[pixel] as f64),
        Accumulator::Sum | Accumulator::Moments | Accumulator::Histogram(_) => None,
    })
}
