//! `LiveImage`: one result as pictures and files want it.

use std::ops::Range;

use super::live::{LiveImages, Place, Store};
use super::patterns::{MaxPattern, SumPattern, number_of};
use super::spec::Made;
use crate::{PixelKind, Region};

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
#[derive(Debug, Clone, Copy)]
pub struct LiveImage<'a> {
    images: &'a LiveImages,
    name: &'a str,
    made: Made,
}

impl<'a> LiveImage<'a> {
    pub(super) fn new(images: &'a LiveImages, name: &'a str, made: Made) -> Self {
        Self { images, name, made }
    }

    /// Its name: that of the virtual detector, or `total`, `com`, `sum`, `max`.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Extent along each axis: `[ny, nx]` of the scan or `[frames]` without one, with a last axis of 2 for the centre
    /// of mass; `[sy, sx]` of the detector for patterns.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = match self.is_pattern() {
            true => vec![self.images.detector.height as usize, self.images.detector.width as usize],
            false => self.images.scan_shape(),
        };
        if matches!(self.made, Made::Com { .. }) {
            shape.push(2);
        }
        shape
    }

    /// Name of each axis: `scan_y`, `scan_x`, `frame`, `sig_y`, `sig_x`; `component` is `(y, x)`.
    pub fn axes(&self) -> &'static [&'static str] {
        match (self.made, self.images.place) {
            (Made::Sum | Made::Max, _) => &["sig_y", "sig_x"],
            (Made::Com { .. }, Place::Scan(_)) => &["scan_y", "scan_x", "component"],
            (Made::Com { .. }, Place::Line(_)) => &["frame", "component"],
            (Made::Value { .. }, Place::Scan(_)) => &["scan_y", "scan_x"],
            (Made::Value { .. }, Place::Line(_)) => &["frame"],
        }
    }

    /// Unit of the numbers: `px` (of the whole detector) for the centre of mass, otherwise `counts`, those of the pixels.
    pub fn unit(&self) -> &'static str {
        if matches!(self.made, Made::Com { .. }) { "px" } else { "counts" }
    }

    /// Whether it is an image over the detector rather than over the scan.
    pub fn is_pattern(&self) -> bool {
        matches!(self.made, Made::Sum | Made::Max)
    }

    /// Version of its newest row; 0 = nothing measured yet.
    pub fn version(&self) -> u64 {
        self.versions().newest()
    }

    fn versions(&self) -> &super::versions::RowVersions {
        if self.is_pattern() { &self.images.pattern_versions } else { &self.images.value_versions }
    }

    /// Rows that changed after `version`, ascending, not touching; rows that only grew incomplete count as changed.
    pub fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>> {
        self.versions().changed_since(version, self.row_count())
    }

    fn row_count(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }

    /// Numbers of some rows as pictures show them, C order: NaN where not all tiles are in, and for a centre of mass
    /// without signal (sum of the frame <= 0 or not finite). Rows beyond the last are left out.
    pub fn row_values(&self, rows: Range<usize>) -> Vec<f64> {
        let rows = rows.start.min(self.row_count())..rows.end.min(self.row_count());
        if self.is_pattern() {
            return self.pattern_rows(rows);
        }
        let places = rows.start * self.images.row_length()..rows.end * self.images.row_length();
        match self.made {
            Made::Com { total, y, x } => places.flat_map(|index| self.com(index, total, y, x)).collect(),
            Made::Value { column } => places.map(|index| self.value(index, column)).collect(),
            Made::Sum | Made::Max => Vec::new(),
        }
    }

    fn value(&self, index: usize, column: usize) -> f64 {
        if self.images.is_complete(index) { self.images.value(column, index) } else { f64::NAN }
    }

    fn com(&self, index: usize, total: usize, y: usize, x: usize) -> [f64; 2] {
        let sum = self.value(index, total);
        if sum > 0.0 && sum.is_finite() {
            [y, x].map(|moment| self.images.value(moment, index) / sum)
        } else {
            [f64::NAN; 2]
        }
    }

    /// Calls `row(columns of the detector, first pixel in the tile)` for each measured piece of detector row `y`.
    fn pieces(&self, y: usize, mut piece: impl FnMut(Range<usize>, usize, &super::patterns::Patterns)) {
        for tile in &self.images.tiles {
            let Region { y: y0, x, height, width } = tile.region;
            if tile.patterns.frame_count() > 0 && (y0..y0 + height).contains(&(y as u32)) {
                let first = (y - y0 as usize) * width as usize;
                piece(x as usize..(x + width) as usize, first, &tile.patterns);
            }
        }
    }

    fn pattern_rows(&self, rows: Range<usize>) -> Vec<f64> {
        let width = self.images.detector.width as usize;
        let mut values = vec![f64::NAN; rows.len() * width];
        for (y, row) in rows.zip(values.chunks_exact_mut(width)) {
            self.pieces(y, |columns, first, patterns| {
                for (value, pixel) in row[columns].iter_mut().zip(first..) {
                    *value = match (self.made, &patterns.sum, &patterns.max) {
                        (Made::Sum, Some(SumPattern::Integer(sum)), _) => sum[pixel] as f64,
                        (Made::Sum, Some(SumPattern::Float(sum)), _) => sum.value(pixel),
                        (Made::Max, _, Some(MaxPattern::U8(max))) => f64::from(max[pixel]),
                        (Made::Max, _, Some(MaxPattern::U16(max))) => f64::from(max[pixel]),
                        (Made::Max, _, Some(MaxPattern::U32(max))) => f64::from(max[pixel]),
                        (Made::Max, _, Some(MaxPattern::F32(max))) => f64::from(number_of(max[pixel])),
                        _ => f64::NAN,
                    };
                }
            });
        }
        values
    }

    /// NumPy and Zarr names of the type [`Self::stored`] uses.
    pub fn stored_type(&self) -> (&'static str, &'static str) {
        let integer = self.images.pixel.is_integer();
        match self.made {
            Made::Value { column } if matches!(self.images.stores[column], Store::U64(_)) => ("<u8", "uint64"),
            Made::Sum if integer => ("<u8", "uint64"),
            Made::Max => match self.images.pixel.kind {
                PixelKind::U8 => ("|u1", "uint8"),
                PixelKind::U16 => ("<u2", "uint16"),
                PixelKind::U32 => ("<u4", "uint32"),
                PixelKind::F32 => ("<f4", "float32"),
            },
            _ => ("<f8", "float64"),
        }
    }

    /// The whole result, exactly: `uint64` for sums of integers, the pixel type for the maximum, `float64` otherwise.
    /// Not measured is 0 in integers (see [`LiveImages::valid`]) and NaN in floating point.
    pub fn stored(&self) -> Stored {
        self.stored_rows(0..self.row_count())
    }

    /// Some rows of it; rows beyond the last are left out.
    pub fn stored_rows(&self, rows: Range<usize>) -> Stored {
        let rows = rows.start.min(self.row_count())..rows.end.min(self.row_count());
        let mut shape = self.shape();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let (numpy, zarr) = self.stored_type();
        let floats = || self.row_values(rows.clone()).into_iter();
        let bytes = match (self.made, numpy) {
            (Made::Value { column }, "<u8") => self.stored_integers(rows, column),
            (Made::Sum, "<u8") => self.stored_sums(rows),
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
        let Store::U64(values) = &self.images.stores[column] else { return Vec::new() };
        let places = rows.start * self.images.row_length()..rows.end * self.images.row_length();
        let value = |index| if self.images.is_complete(index) { values[index] } else { 0 };
        places.flat_map(|index| value(index).to_le_bytes()).collect()
    }

    fn stored_sums(&self, rows: Range<usize>) -> Vec<u8> {
        let width = self.images.detector.width as usize;
        let mut values = vec![0_u64; rows.len() * width];
        for (y, row) in rows.zip(values.chunks_exact_mut(width)) {
            self.pieces(y, |columns, first, patterns| {
                if let Some(SumPattern::Integer(sum)) = &patterns.sum {
                    let count = columns.len();
                    row[columns].copy_from_slice(&sum[first..first + count]);
                }
            });
        }
        values.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}
