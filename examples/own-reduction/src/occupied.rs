//! How often a detector pixel is lit: one partial for all frames, as large as the detector.

use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{Custom, Description, Over, TileFrame};
use serde::{Deserialize, Serialize};

/// Share of frames in which a pixel has at least `least` counts, per detector pixel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Occupied {
    /// Counts of a lit pixel.
    #[serde(default = "one")]
    least: f64,
    /// Pixels of a detector row, known once it is described.
    #[serde(skip)]
    width: usize,
}

fn one() -> f64 {
    1.0
}

impl Custom for Occupied {
    const WORD: &'static str = "occupied";
    const ABOUT: &'static str = "share of frames in which a pixel is lit, per detector pixel";

    fn describe(&mut self, detector: SigShape) -> Result<Description, String> {
        self.width = detector.width as usize;
        // A partial: for every pixel, in how many frames it was lit, and in how many it was seen.
        let empty = vec![0.0; 2 * detector.pixel_count() as usize];
        Ok(Description { over: Over::Detector, axes: vec![], unit: "1".into(), empty })
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        let region = frame.region;
        for (y, row) in (region.y as usize..).zip(frame.pixels.chunks_exact(region.width as usize)) {
            let first = 2 * (y * self.width + region.x as usize);
            for (counts, &pixel) in partial[first..].chunks_exact_mut(2).zip(row) {
                counts[0] += f64::from(u8::from(pixel >= self.least));
                counts[1] += 1.0;
            }
        }
        Ok(())
    }

    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        partial.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        Ok(())
    }

    fn finish(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        for (share, counts) in result.iter_mut().zip(partial.chunks_exact(2)) {
            *share = counts[0] / counts[1]; // 0 / 0 where a tile never came: NaN.
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ronchi_pipeline::Region;

    use super::*;

    /// Counts land at the place of their tile on the detector; what was never seen is NaN.
    #[test]
    fn a_tile_knows_its_place() {
        let mut occupied = Occupied { least: 2.0, width: 0 };
        let mut partial = occupied.describe(SigShape { height: 2, width: 3 }).expect("valid").empty;
        let region = Region { y: 0, x: 1, height: 2, width: 2 };
        for pixels in [[2.0, 0.0, 5.0, 1.0], [2.0, 3.0, 0.0, 1.0]] {
            occupied.reduce(&TileFrame { index: 0, region, pixels: &pixels }, &mut partial).expect("reduced");
        }
        let mut result = [f64::NAN; 6];
        occupied.finish(&partial, &mut result).expect("finished");
        assert_eq!([result[1], result[2], result[4], result[5]], [1.0, 0.5, 0.5, 0.0]);
        assert!(result[0].is_nan() && result[3].is_nan());
    }
}
