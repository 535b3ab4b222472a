//! Images as a subscriber wants to see them: not larger than its screen, not more exact than it needs.
//!
//! # Units
//! A lens bins the first two axes by the same whole number `k`: a pixel is the mean of `k x k` pixels (fewer at the far
//! edges), and not measured if one of them is not, so that no hole is averaged away. Axes say so by their scale.

use std::ops::Range;

use ronchi_pipeline::FrameIndex;

use super::picture::{Axis, Picture, Precision, row_length};

/// How images are shown; the default shows them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lens {
    /// Most pixels along the first two axes.
    pub extent_max_px: Option<usize>,
    /// How values are sent.
    pub precision: Option<Precision>,
}

impl Lens {
    /// The picture through this lens.
    pub(super) fn view<'a>(self, picture: Box<dyn Picture + 'a>) -> Box<dyn Picture + 'a> {
        if self == Self::default() {
            return picture;
        }
        let extent = picture.shape().iter().take(2).copied().max().unwrap_or(0);
        let bin = extent.div_ceil(self.extent_max_px.unwrap_or(extent).max(1)).max(1);
        Box::new(Seen { picture, bin, precision: self.precision })
    }
}

/// A picture through a lens.
struct Seen<'a> {
    picture: Box<dyn Picture + 'a>,
    bin: usize,
    precision: Option<Precision>,
}

impl Seen<'_> {
    /// Rows of the picture behind these rows.
    fn behind(&self, rows: Range<usize>) -> Range<usize> {
        let height = self.picture.shape().first().copied().unwrap_or(0);
        (rows.start * self.bin).min(height)..(rows.end * self.bin).min(height)
    }
}

impl Picture for Seen<'_> {
    fn name(&self) -> &str {
        self.picture.name()
    }

    fn shape(&self) -> Vec<usize> {
        let mut shape = self.picture.shape();
        shape.iter_mut().take(2).filter(|_| self.bin > 1).for_each(|extent| *extent = extent.div_ceil(self.bin));
        shape
    }

    fn axes(&self) -> Vec<Axis> {
        let mut axes = self.picture.axes();
        for axis in axes.iter_mut().take(2) {
            axis.offset += axis.scale * (self.bin - 1) as f64 / 2.0;
            axis.scale *= self.bin as f64;
        }
        axes
    }

    fn version(&self) -> u64 {
        self.picture.version()
    }

    fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>> {
        let changed = self.picture.rows_changed_since(version).into_iter();
        let changed = changed.filter(|rows| !rows.is_empty());
        changed.fold(Vec::new(), |mut out: Vec<Range<usize>>, rows| {
            let rows = rows.start / self.bin..rows.end.div_ceil(self.bin);
            match out.last_mut() {
                Some(last) if last.end > rows.start => last.end = last.end.max(rows.end),
                _ => out.push(rows),
            }
            out
        })
    }

    fn row_values(&self, rows: Range<usize>) -> Vec<f64> {
        if self.bin == 1 {
            return self.picture.row_values(rows);
        }
        rows.flat_map(|row| {
            let behind = self.behind(row..row + 1);
            binned(&self.picture.row_values(behind.clone()), behind.len(), &self.picture.shape(), self.bin)
        })
        .collect()
    }

    fn frames(&self) -> Range<FrameIndex> {
        self.picture.frames()
    }

    fn precision(&self) -> Precision {
        self.precision.unwrap_or_else(|| self.picture.precision())
    }

    fn config(&self) -> u32 {
        self.picture.config()
    }

    fn params(&self) -> serde_json::Value {
        self.picture.params()
    }
}

/// One row of means of these `height` rows of an image of this shape.
fn binned(values: &[f64], height: usize, shape: &[usize], bin: usize) -> Vec<f64> {
    let width = shape.get(1).copied().unwrap_or(1);
    // What follows the second axis, such as components, stays as it is.
    let depth = row_length(shape) / width.max(1);
    let column_count = if shape.len() > 1 { width.div_ceil(bin) } else { 1 };
    let mut out = vec![0.0; column_count * depth];
    for (at, value) in values.iter().enumerate() {
        let (x, part) = (at / depth.max(1) % width.max(1), at % depth.max(1));
        out[x / bin * depth + part] += value; // NaN stays NaN.
    }
    for (at, sum) in out.iter_mut().enumerate() {
        let x = at / depth.max(1) * bin;
        *sum /= (height * bin.min(width.saturating_sub(x)).max(1)) as f64;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::live::testing::{FakePicture, same};

    fn lens(extent_max_px: usize) -> Lens {
        Lens { extent_max_px: Some(extent_max_px), precision: None }
    }

    /// The mean over whatever of `k x k` pixels lies inside, by a loop over output pixels.
    fn reference(values: &[f64], shape: [usize; 3], bin: usize) -> Vec<f64> {
        let [height, width, depth] = shape;
        let mut out = Vec::new();
        for (y, x) in (0..height.div_ceil(bin)).flat_map(|y| (0..width.div_ceil(bin)).map(move |x| (y, x))) {
            for part in 0..depth {
                let rows = y * bin..((y + 1) * bin).min(height);
                let inside = rows.flat_map(|r| (x * bin..((x + 1) * bin).min(width)).map(move |c| (r, c)));
                let inside: Vec<f64> = inside.map(|(r, c)| values[(r * width + c) * depth + part]).collect();
                out.push(inside.iter().sum::<f64>() / inside.len() as f64);
            }
        }
        out
    }

    proptest! {
        /// Any image through any lens is the mean over its bins, with every hole in it, and is not larger than asked for;
        /// rows that changed behind it are among those that it says have changed.
        #[test]
        fn binned_as_by_hand(
            (height, width, depth) in (1_usize..20, 1_usize..20, 1_usize..3),
            extent in 1_usize..24,
            hole in any::<prop::sample::Index>(),
        ) {
            let mut picture = FakePicture::new("a", &[height, width, depth]);
            let values: Vec<f64> = (0..height * width * depth).map(|i| (i * i % 97) as f64).collect();
            picture.values = values;
            let at = hole.index(picture.values.len());
            picture.values[at] = f64::NAN;
            let bin = height.max(width).div_ceil(extent);
            let (whole, changed_row) = (picture.values.clone(), at / (width * depth));
            let version = picture.version();
            picture.touch_row(changed_row);
            let seen = lens(extent).view(Box::new(picture));
            let shape = seen.shape();
            prop_assert!(shape[0] <= extent && shape[1] <= extent && shape[2] == depth);
            prop_assert!(same(&seen.row_values(0..shape[0]), &reference(&whole, [height, width, depth], bin)));
            let changed = seen.rows_changed_since(version);
            prop_assert!(changed.iter().any(|rows| rows.contains(&(changed_row / bin))));
            prop_assert!(changed.iter().all(|rows| rows.end <= shape[0]));
        }
    }

    /// Axes keep their place: the centre of a bin lies between the pixels it was made of.
    #[test]
    fn axes_tell_of_bins() {
        let seen = lens(5).view(Box::new(FakePicture::new("a", &[10, 4])));
        let axis = &seen.axes()[0];
        assert_eq!((seen.shape(), axis.scale, axis.offset), (vec![5, 2], 2.0, 0.5));
        let line = lens(5).view(Box::new(FakePicture::new("line", &[10])));
        assert_eq!((line.shape(), line.row_values(0..5).len()), (vec![5], 5));
    }
}
