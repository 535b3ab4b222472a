//! Corrections of a detector: dark counts, gain, bad pixels.
//!
//! # Definition
//! `x' = (x - dark) * gain` for every pixel; then a bad pixel is the mean of its corrected, not bad neighbours, of the
//! eight around it inside the frame. A pixel is bad where it is listed, where its gain is 0 or NaN, or its dark NaN.
//!
//! # Why this way
//! Sums over masks are linear, so no frame is corrected for them: `sum W x' = sum W' x - offset`, with the weights of bad
//! pixels spread over their neighbours and times the gain (`W'`), and `offset = sum W' dark`, once. This also holds
//! across the borders of tiles. What is not linear (maximum, variance) needs corrected frames, and those look at
//! neighbours in the same tile only.

use crate::{ByteOrder, PixelKind, PixelType, Region, SigShape};

/// How the pixels of a detector are corrected; checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    detector: SigShape,
    dark: Vec<f64>,
    /// 0 where a pixel is bad.
    gain: Vec<f64>,
    /// Bad pixels, ascending; for each the good ones around it.
    bad: Vec<(usize, Vec<usize>)>,
}

/// What makes up a correction: numbers of every detector pixel, C order; what is missing corrects nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flaws {
    /// Counts of a pixel that no beam hits.
    pub dark: Option<Vec<f64>>,
    /// What its counts are multiplied by.
    pub gain: Option<Vec<f64>>,
    /// Whether its counts mean nothing.
    pub bad: Option<Vec<bool>>,
}

/// Why a detector cannot be corrected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CorrectionError {
    /// Numbers of another detector.
    #[error("{what} has {count} numbers, the detector of {height} x {width} needs one per pixel")]
    Count {
        /// Which of them.
        what: &'static str,
        /// Numbers there.
        count: usize,
        /// Detector rows.
        height: u32,
        /// Detector columns.
        width: u32,
    },
    /// Infinite dark counts or gain.
    #[error("{what} of the pixel at row {y}, column {x} is infinite")]
    Infinite {
        /// Which of them.
        what: &'static str,
        /// Row.
        y: u32,
        /// Column.
        x: u32,
    },
    /// A bad pixel among bad ones.
    #[error(
        "the bad pixel at row {y}, column {x} has no good pixel around it: leave it out of every reduction instead"
    )]
    NoNeighbour {
        /// Row.
        y: u32,
        /// Column.
        x: u32,
    },
}

impl Correction {
    /// Of what is known of a detector. Errors: as [`CorrectionError`].
    pub fn new(detector: SigShape, flaws: Flaws) -> Result<Self, CorrectionError> {
        let SigShape { height, width } = detector;
        let pixels = detector.pixel_count() as usize;
        let checked = |what, numbers: Option<Vec<f64>>, otherwise| {
            let numbers = numbers.unwrap_or_else(|| vec![otherwise; pixels]);
            if numbers.len() != pixels {
                return Err(CorrectionError::Count { what, count: numbers.len(), height, width });
            }
            match numbers.iter().position(|number| number.is_infinite()) {
                Some(at) => Err(CorrectionError::Infinite { what, y: at as u32 / width, x: at as u32 % width }),
                None => Ok(numbers),
            }
        };
        let mut dark = checked("dark", flaws.dark, 0.0)?;
        let mut gain = checked("gain", flaws.gain, 1.0)?;
        let listed = flaws.bad.unwrap_or_else(|| vec![false; pixels]);
        if listed.len() != pixels {
            return Err(CorrectionError::Count { what: "bad", count: listed.len(), height, width });
        }
        for ((dark, gain), listed) in dark.iter_mut().zip(&mut gain).zip(listed) {
            if listed || dark.is_nan() || gain.is_nan() {
                (*dark, *gain) = (0.0, 0.0);
            }
        }
        let mut made = Self { detector, dark, gain, bad: Vec::new() };
        for at in (0..pixels).filter(|&at| made.gain[at] == 0.0) {
            let good: Vec<usize> = around(detector.region(), at).filter(|&other| made.gain[other] != 0.0).collect();
            if good.is_empty() {
                return Err(CorrectionError::NoNeighbour { y: at as u32 / width, x: at as u32 % width });
            }
            made.bad.push((at, good));
        }
        Ok(made)
    }

    /// Corrects nothing.
    pub(super) fn none(detector: SigShape) -> Self {
        let pixels = detector.pixel_count() as usize;
        Self { detector, dark: vec![0.0; pixels], gain: vec![1.0; pixels], bad: Vec::new() }
    }

    /// The detector that it corrects.
    pub fn detector(&self) -> SigShape {
        self.detector
    }

    /// Pixels that are replaced by their neighbours.
    pub fn bad_count(&self) -> usize {
        self.bad.len()
    }

    /// Weights that give of frames as they come, less an offset, what `weights` give of corrected ones.
    pub(super) fn fold(&self, weights: &[f64]) -> (Vec<f64>, f64) {
        let mut folded = weights.to_vec();
        for (at, good) in self.bad.iter().filter(|(at, _)| weights[*at] != 0.0) {
            let share = weights[*at] / good.len() as f64;
            good.iter().for_each(|&other| folded[other] += share);
        }
        folded.iter_mut().zip(&self.gain).for_each(|(weight, gain)| *weight *= gain);
        let offset = folded.iter().zip(&self.dark).map(|(weight, dark)| weight * dark).sum();
        (folded, offset)
    }

    /// Whether any pixel counts something without a beam.
    pub(super) fn has_dark(&self) -> bool {
        self.dark.iter().any(|&dark| dark != 0.0)
    }

    /// For every pixel of a tile, C order, whether it is good.
    pub(super) fn good_of_tile(&self, region: Region) -> Vec<bool> {
        let width = self.detector.width as usize;
        let rows = (region.y..region.y + region.height).map(|y| y as usize * width + region.x as usize);
        rows.flat_map(|at| &self.gain[at..at + region.width as usize]).map(|&gain| gain != 0.0).collect()
    }

    /// Good pixels around a bad one; `None` for a good one.
    pub(super) fn neighbours(&self, pixel: usize) -> Option<&[usize]> {
        let at = self.bad.binary_search_by_key(&pixel, |&(at, _)| at).ok()?;
        Some(&self.bad[at].1)
    }

    /// A good pixel's corrected sum over some frames.
    pub(super) fn sum(&self, pixel: usize, sum: f64, frame_count: u64) -> f64 {
        (sum - frame_count as f64 * self.dark[pixel]) * self.gain[pixel]
    }

    /// What corrects frames of one tile.
    pub(super) fn of_tile(&self, region: Region, pixel: PixelType) -> TileCorrection {
        let width = self.detector.width as usize;
        let rows = (region.y..region.y + region.height).map(|y| y as usize * width + region.x as usize);
        let cut = |numbers: &[f64]| -> Vec<f64> {
            rows.clone().flat_map(|at| &numbers[at..at + region.width as usize]).copied().collect()
        };
        let (dark, gain) = (cut(&self.dark), cut(&self.gain));
        let good_around = |at| around(region, at).filter(|&other| gain[other] != 0.0).collect();
        let bad = (0..gain.len()).filter(|&at| gain[at] == 0.0).map(|at| (at, good_around(at))).collect();
        TileCorrection { pixel, dark, gain, bad }
    }
}

/// The pixels around one, inside a rectangle; both by their place in it, C order.
fn around(region: Region, at: usize) -> impl Iterator<Item = usize> {
    let (height, width) = (region.height as usize, region.width as usize);
    let (y, x) = (at / width, at % width);
    let rows = y.saturating_sub(1)..(y + 2).min(height);
    let places = rows.flat_map(move |y| (x.saturating_sub(1)..(x + 2).min(width)).map(move |x| y * width + x));
    places.filter(move |&other| other != at)
}

/// Corrects whole frames of one tile, for what is not linear.
#[derive(Debug, Clone)]
pub(super) struct TileCorrection {
    pixel: PixelType,
    dark: Vec<f64>,
    gain: Vec<f64>,
    bad: Vec<(usize, Vec<usize>)>,
}

impl TileCorrection {
    /// The frame in single precision, C order, little-endian; a bad pixel without good ones around it in this tile is
    /// NaN.
    pub(super) fn frame(&self, bytes: &[u8], out: &mut Vec<f32>) {
        out.clear();
        let numbers = self.dark.iter().zip(&self.gain);
        let correct = |(value, (dark, gain)): (f64, (&f64, &f64))| ((value - dark) * gain) as f32;
        let big = self.pixel.order == ByteOrder::Big;
        match self.pixel.kind {
            PixelKind::U8 => out.extend(bytes.iter().map(|&value| f64::from(value)).zip(numbers).map(correct)),
            PixelKind::U16 => {
                let value = |&b: &[u8; 2]| f64::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) });
                out.extend(bytes.as_chunks().0.iter().map(value).zip(numbers).map(correct));
            }
            PixelKind::U32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) });
                out.extend(bytes.as_chunks().0.iter().map(value).zip(numbers).map(correct));
            }
            PixelKind::F32 => {
                let value = |&b: &[u8; 4]| f64::from(if big { f32::from_be_bytes(b) } else { f32::from_le_bytes(b) });
                out.extend(bytes.as_chunks().0.iter().map(value).zip(numbers).map(correct));
            }
        }
        for (at, good) in &self.bad {
            let sum: f64 = good.iter().map(|&other| f64::from(out[other])).sum();
            out[*at] = (sum / good.len() as f64) as f32; // 0 / 0 = NaN.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETECTOR: SigShape = SigShape { height: 2, width: 3 };
    const U8: PixelType = PixelType { kind: PixelKind::U8, order: ByteOrder::Little };

    fn flaws() -> Flaws {
        Flaws {
            dark: Some(vec![1.0, 0.0, 0.0, 0.0, 2.0, 0.0]),
            gain: Some(vec![2.0, 1.0, f64::NAN, 1.0, 1.0, 1.0]),
            bad: Some(vec![false, true, false, false, false, false]),
        }
    }

    /// A frame of 2 x 3: (x - dark) * gain, then two bad pixels from the good ones around them; weights give the same.
    #[test]
    fn small_frame() {
        let correction = Correction::new(DETECTOR, flaws()).expect("valid");
        let mut frame = Vec::new();
        correction.of_tile(DETECTOR.region(), U8).frame(&[5, 99, 99, 6, 7, 8], &mut frame);
        let [first, second] = [(8.0 + 6.0 + 5.0 + 8.0) / 4.0, (5.0 + 8.0) / 2.0];
        assert_eq!(frame, [8.0, first, second, 6.0, 5.0, 8.0]);
        let weights = [0.5, 3.0, -1.0, 0.0, 1.0, 0.0];
        let (folded, offset) = correction.fold(&weights);
        let raw = [5.0, 99.0, 99.0, 6.0, 7.0, 8.0];
        let got = folded.iter().zip(raw).map(|(w, x)| w * x).sum::<f64>() - offset;
        let want: f64 = weights.iter().zip(&frame).map(|(w, &x)| w * f64::from(x)).sum();
        assert!((got - want).abs() < 1e-12, "{got} is not {want}");
        // A tile that holds a bad pixel and none of the good ones around it.
        correction.of_tile(Region { y: 0, x: 1, height: 1, width: 2 }, U8).frame(&[1, 1], &mut frame);
        assert!(frame.iter().all(|pixel| pixel.is_nan()));
    }

    /// Numbers of another detector, infinities, and bad pixels among bad ones are refused.
    #[test]
    fn refused() {
        let made = |flaws| Correction::new(DETECTOR, flaws).expect_err("refused");
        let count = CorrectionError::Count { what: "bad", count: 1, height: 2, width: 3 };
        assert_eq!(made(Flaws { bad: Some(vec![true]), ..flaws() }), count);
        let gain = Some([vec![1.0; 4], vec![f64::INFINITY; 2]].concat());
        assert_eq!(made(Flaws { gain, ..flaws() }), CorrectionError::Infinite { what: "gain", y: 1, x: 1 });
        let bad = Some(vec![false, true, true, false, true, true]);
        assert_eq!(made(Flaws { bad, ..flaws() }), CorrectionError::NoNeighbour { y: 0, x: 2 });
    }
}
