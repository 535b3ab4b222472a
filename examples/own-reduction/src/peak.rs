//! Where a frame is brightest: one partial, and one result, for every frame.

use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{Custom, Description, Over, TileFrame};
use serde::{Deserialize, Serialize};

/// Row, column and counts of the brightest pixel of a frame; of several equal ones the first in C order. NaN where none is
/// above `above`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peak {
    /// Counts that are not a peak yet.
    #[serde(default)]
    above: f64,
    /// Counts at which a pixel is saturated: a frame with one has no peak that means anything, and the result ends there.
    saturated: Option<f64>,
}

impl Custom for Peak {
    const WORD: &'static str = "peak";
    const ABOUT: &'static str = "row, column and counts of the brightest pixel, per frame";

    fn describe(&mut self, _detector: SigShape) -> Result<Description, String> {
        if !self.above.is_finite() {
            return Err(format!("`above` is {}, must be a finite number", self.above));
        }
        // A partial: row, column, counts. That of no frame loses against every pixel.
        let empty = vec![f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY];
        Ok(Description { over: Over::Scan, axes: vec![("peak".into(), 3)], unit: "px, px, counts".into(), empty })
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        let region = frame.region;
        let rows = frame.pixels.chunks_exact(region.width as usize);
        for (y, row) in (region.y..).zip(rows) {
            for (x, &counts) in (region.x..).zip(row) {
                if self.saturated.is_some_and(|saturated| counts >= saturated) {
                    return Err(format!("pixel ({y}, {x}) is saturated, with {counts} counts"));
                }
                if counts > partial[2] {
                    partial.copy_from_slice(&[f64::from(y), f64::from(x), counts]);
                }
            }
        }
        Ok(())
    }

    /// Two tiles of one frame, in any order: the brighter one, else the one that comes first on the detector.
    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        let is_first = (other[0], other[1]) < (partial[0], partial[1]);
        if other[2] > partial[2] || other[2] == partial[2] && is_first {
            partial.copy_from_slice(other);
        }
        Ok(())
    }

    fn finish(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        if partial[2] > self.above {
            result.copy_from_slice(partial);
        } // Else it stays NaN.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ronchi_pipeline::Region;

    use super::*;

    /// A frame as two tiles, merged in either order, is the frame as one; ties go to the first pixel.
    #[test]
    fn tiles_are_the_frame() {
        let detector = SigShape { height: 2, width: 4 };
        let pixels = [[1.0, 5.0, 2.0, 9.0], [9.0, 0.0, 9.0, 3.0]];
        let mut peak = Peak { above: 0.0, saturated: None };
        let empty = peak.describe(detector).expect("valid").empty;
        let mut of = |columns: std::ops::Range<usize>| {
            let tile: Vec<f64> = pixels.iter().flat_map(|row| &row[columns.clone()]).copied().collect();
            let region = Region { y: 0, x: columns.start as u32, height: 2, width: columns.len() as u32 };
            let mut partial = empty.clone();
            peak.reduce(&TileFrame { index: 0, region, pixels: &tile }, &mut partial).expect("reduced");
            partial
        };
        let (whole, left, right) = (of(0..4), of(0..2), of(2..4));
        assert_eq!(whole, [0.0, 3.0, 9.0]);
        for (mut one, other) in [(left.clone(), &right), (right.clone(), &left), (empty.clone(), &whole)] {
            peak.merge(&mut one, other).expect("merged");
            assert_eq!(one, whole);
        }
        let mut result = [f64::NAN; 3];
        Peak { above: 9.0, saturated: None }.finish(&whole, &mut result).expect("finished");
        assert!(result.iter().all(|number| number.is_nan()), "not above 9");
        let frame = TileFrame { index: 0, region: detector.region(), pixels: &pixels.concat() };
        let refused = Peak { above: 0.0, saturated: Some(9.0) }.reduce(&frame, &mut empty.clone());
        assert_eq!(refused, Err("pixel (0, 3) is saturated, with 9 counts".into()));
    }
}
