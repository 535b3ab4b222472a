//! Masks: which detector pixels a virtual detector adds up, and with what weight.
//!
//! # Units
//! Detector pixels, `(y, x)`; pixel centres lie at integer coordinates. Definitions: `docs/reductions.md`.
//!
//! # Limits
//! Detectors up to [`DETECTOR_PIXELS_MAX`] pixels, polygons up to [`VERTICES_MAX`] vertices.

use super::VirtualDetector;
use super::exact::scale;
use crate::{Region, SigShape};

/// Most pixels of a detector for which masks and patterns are made.
pub const DETECTOR_PIXELS_MAX: u64 = 1 << 28;
/// Most vertices of a polygon.
pub const VERTICES_MAX: usize = 4096;

/// Weights over a part of the detector: binary ones as runs per row, real ones as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    region: Region,
    weights: Weights,
}

#[derive(Debug, Clone, PartialEq)]
enum Weights {
    /// Half-open runs `[x0, x1)` of row `y` are `runs[starts[y]..starts[y + 1]]`; ascending, never touching.
    Binary { starts: Vec<usize>, runs: Vec<(u32, u32)> },
    /// All weights of the whole mask are smaller in magnitude than `2^exponent`.
    /// What all tiles of it must agree on is found once, when it is made.
    Real { weights: Vec<f64>, exponent: i32, is_single: bool },
}

/// Why a virtual detector has no mask.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// A coordinate, radius or angle is NaN or infinite.
    #[error("{what} is {value}, must be a finite number")]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// Radii out of order.
    #[error("radii must satisfy 0 <= inner < outer, got inner = {inner}, outer = {outer}")]
    Radii {
        /// Inner radius, px.
        inner: f64,
        /// Outer radius, px.
        outer: f64,
    },
    /// A negative radius.
    #[error("radius must not be negative, got {radius}")]
    Radius {
        /// Radius, px.
        radius: f64,
    },
    /// Angles out of order.
    #[error("angles must satisfy from < to, got from = {from_deg}, to = {to_deg} degrees")]
    Angles {
        /// First angle.
        from_deg: f64,
        /// Angle after the last.
        to_deg: f64,
    },
    /// The rectangle is empty or reaches beyond the detector.
    #[error("rectangle rows {y0}..{y1}, columns {x0}..{x1} is empty or not inside {height} x {width} pixels")]
    Rectangle {
        /// First row.
        y0: u32,
        /// First column.
        x0: u32,
        /// Row after the last.
        y1: u32,
        /// Column after the last.
        x1: u32,
        /// Detector rows.
        height: u32,
        /// Detector columns.
        width: u32,
    },
    /// Too few or too many vertices.
    #[error("polygon has {count} vertices, must have 3 to {VERTICES_MAX}")]
    Vertices {
        /// How many.
        count: usize,
    },
    /// The image is not as large as the detector, or does not hold as many weights as it says.
    #[error(
        "mask image of {height} x {width} with {count} weights for a detector of {detector_height} x {detector_width}"
    )]
    Image {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Weights.
        count: usize,
        /// Detector rows.
        detector_height: u32,
        /// Detector columns.
        detector_width: u32,
    },
    /// A weight is NaN or infinite.
    #[error("weight at row {y}, column {x} is {value}, must be a finite number")]
    Weight {
        /// Row.
        y: u32,
        /// Column.
        x: u32,
        /// The weight.
        value: f64,
    },
    /// No pixel of the detector is selected.
    #[error("selects no pixel of a detector of {height} x {width}")]
    Empty {
        /// Detector rows.
        height: u32,
        /// Detector columns.
        width: u32,
    },
    /// The detector is larger than masks are made for.
    #[error("detector of {height} x {width} has more than {DETECTOR_PIXELS_MAX} pixels")]
    DetectorTooLarge {
        /// Detector rows.
        height: u32,
        /// Detector columns.
        width: u32,
    },
}

impl VirtualDetector {
    /// The mask over a whole detector. Errors: numbers out of range, or nothing selected.
    pub fn mask(&self, detector: SigShape) -> Result<Mask, MaskError> {
        let SigShape { height, width } = detector;
        if detector.pixel_count() > DETECTOR_PIXELS_MAX {
            return Err(MaskError::DetectorTooLarge { height, width });
        }
        let mask = match self {
            &Self::Disk { cy, cx, radius } => disk(detector, [cy, cx], radius)?,
            &Self::Ring { cy, cx, inner, outer } => {
                check_ring([cy, cx], inner, outer)?;
                Mask::where_true(detector, |y, x| in_ring(y - cy, x - cx, inner, outer))
            }
            &Self::Sector { cy, cx, inner, outer, from_deg, to_deg } => {
                check_ring([cy, cx], inner, outer)?;
                let angles = Angles::new(from_deg, to_deg)?;
                Mask::where_true(detector, |y, x| {
                    in_ring(y - cy, x - cx, inner, outer) && angles.contain(y - cy, x - cx)
                })
            }
            &Self::Rectangle { y0, x0, y1, x1 } => {
                if y0 >= y1 || x0 >= x1 || y1 > height || x1 > width {
                    return Err(MaskError::Rectangle { y0, x0, y1, x1, height, width });
                }
                Mask::from_rows(detector, |y, runs| {
                    if (y0..y1).contains(&y) {
                        runs.push((x0, x1));
                    }
                })
            }
            Self::Polygon { vertices } => polygon(detector, vertices)?,
            &Self::DiskAa { cy, cx, radius } => {
                check_ring([cy, cx], 0.0, radius)?;
                Mask::of_weights(detector, ring_aa(detector, [cy, cx], (0.0, radius)))?
            }
            &Self::RingAa { cy, cx, inner, outer } => {
                check_ring([cy, cx], inner, outer)?;
                Mask::of_weights(detector, ring_aa(detector, [cy, cx], (inner, outer)))?
            }
            Self::Image { height, width, weights } => image(detector, (*height, *width), weights)?,
        };
        if mask.pixel_count() == 0 {
            return Err(MaskError::Empty { height, width });
        }
        Ok(mask)
    }
}

impl Mask {
    /// The mask that selects every pixel of a detector.
    pub(super) fn whole(detector: SigShape) -> Self {
        Self::from_rows(detector, |_, runs| runs.push((0, detector.width)))
    }

    /// The part of the detector this mask covers; the whole detector unless cropped.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Whether all weights are 0 or 1.
    pub fn is_binary(&self) -> bool {
        matches!(self.weights, Weights::Binary { .. })
    }

    /// Runs `[x0, x1)` of selected pixels of a row, relative to the region, ascending; none for a real mask.
    pub fn runs(&self, row: u32) -> &[(u32, u32)] {
        match &self.weights {
            Weights::Binary { starts, runs } => &runs[starts[row as usize]..starts[row as usize + 1]],
            Weights::Real { .. } => &[],
        }
    }

    /// Weights of a real mask, C order over the region; `None` for a binary one.
    pub fn weights(&self) -> Option<&[f64]> {
        match &self.weights {
            Weights::Binary { .. } => None,
            Weights::Real { weights, .. } => Some(weights),
        }
    }

    /// Every weight of the whole mask is smaller in magnitude than two to this power; the same for all its tiles.
    pub(super) fn exponent(&self) -> i32 {
        match self.weights {
            Weights::Binary { .. } => 1,
            Weights::Real { exponent, .. } => exponent,
        }
    }

    /// Whether the weights are given in single precision, and not short; the same for all tiles of a mask.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.weights, Weights::Real { is_single: true, .. })
    }

    /// Pixels whose weight is not 0.
    pub fn pixel_count(&self) -> u64 {
        match &self.weights {
            Weights::Binary { runs, .. } => runs.iter().map(|&(x0, x1)| u64::from(x1 - x0)).sum(),
            Weights::Real { weights, .. } => weights.iter().filter(|&&weight| weight != 0.0).count() as u64,
        }
    }

    /// All weights over the region, C order: the mask as a picture.
    pub fn to_image(&self) -> Vec<f64> {
        if let Some(weights) = self.weights() {
            return weights.to_vec();
        }
        let width = self.region.width as usize;
        let mut image = vec![0.0; self.region.height as usize * width];
        for y in 0..self.region.height {
            for &(x0, x1) in self.runs(y) {
                image[y as usize * width..][x0 as usize..x1 as usize].fill(1.0);
            }
        }
        image
    }

    /// The mask of one tile; `region` is in detector pixels. `None` when it is not inside this mask's region. A tile
    /// may hold no selected pixel.
    pub fn crop(&self, region: Region) -> Option<Self> {
        let (y, x) = (region.y.checked_sub(self.region.y)?, region.x.checked_sub(self.region.x)?);
        let local = Region { y, x, ..region };
        if !local.fits(SigShape { height: self.region.height, width: self.region.width }) {
            return None;
        }
        let end = x + region.width;
        let weights = match &self.weights {
            Weights::Binary { .. } => {
                let cut = |&(x0, x1): &(u32, u32)| (x0.max(x), x1.min(end));
                binary(region.height, |row, runs| {
                    let cut_runs = self.runs(y + row).iter().map(cut).filter(|(x0, x1)| x0 < x1);
                    runs.extend(cut_runs.map(|(x0, x1)| (x0 - x, x1 - x)));
                })
            }
            Weights::Real { weights, exponent, is_single } => {
                let rows = weights.chunks_exact(self.region.width as usize);
                let rows = rows.skip(y as usize).take(region.height as usize);
                let weights = rows.flat_map(|row| &row[x as usize..end as usize]).copied().collect();
                Weights::Real { weights, exponent: *exponent, is_single: *is_single }
            }
        };
        Some(Self { region, weights })
    }

    /// A mask of given weights, C order over the detector: binary when all are 0 or 1. Errors: as for an image.
    pub(super) fn of_weights(detector: SigShape, weights: Vec<f64>) -> Result<Self, MaskError> {
        let SigShape { height, width } = detector;
        let mask = image(detector, (height, width), &weights)?;
        if mask.pixel_count() == 0 { Err(MaskError::Empty { height, width }) } else { Ok(mask) }
    }

    /// A real mask of given weights in double precision, whatever they are; C order over the detector, finite.
    pub(super) fn real(detector: SigShape, weights: Vec<f64>) -> Self {
        let largest = weights.iter().fold(0.0_f64, |largest, weight| largest.max(weight.abs()));
        let exponent = if largest > 0.0 { exponent_above(largest) } else { 0 };
        Self { region: detector.region(), weights: Weights::Real { weights, exponent, is_single: false } }
    }

    fn from_rows(detector: SigShape, row: impl FnMut(u32, &mut Vec<(u32, u32)>)) -> Self {
        Self { region: detector.region(), weights: binary(detector.height, row) }
    }

    /// Binary mask of the pixels for whose centre `selected(y, x)` holds.
    fn where_true(detector: SigShape, selected: impl Fn(f64, f64) -> bool) -> Self {
        Self::from_rows(detector, |y, runs| {
            let mut start = None;
            for x in 0..detector.width {
                match (selected(f64::from(y), f64::from(x)), start) {
                    (true, None) => start = Some(x),
                    (false, Some(x0)) => {
                        runs.push((x0, x));
                        start = None;
                    }
                    _ => {}
                }
            }
            runs.extend(start.map(|x0| (x0, detector.width)));
        })
    }
}

fn binary(height: u32, mut row: impl FnMut(u32, &mut Vec<(u32, u32)>)) -> Weights {
    let mut runs = Vec::new();
    let mut starts = vec![0];
    for y in 0..height {
        row(y, &mut runs);
        starts.push(runs.len());
    }
    Weights::Binary { starts, runs }
}

fn finite(what: &'static str, value: f64) -> Result<(), MaskError> {
    if value.is_finite() { Ok(()) } else { Err(MaskError::NotFinite { what, value }) }
}

fn disk(detector: SigShape, [cy, cx]: [f64; 2], radius: f64) -> Result<Mask, MaskError> {
    finite("cy", cy)?;
    finite("cx", cx)?;
    finite("radius", radius)?;
    if radius < 0.0 {
        return Err(MaskError::Radius { radius });
    }
    Ok(Mask::where_true(detector, |y, x| square(y - cy, x - cx) <= radius * radius))
}

fn check_ring([cy, cx]: [f64; 2], inner: f64, outer: f64) -> Result<(), MaskError> {
    finite("cy", cy)?;
    finite("cx", cx)?;
    finite("inner", inner)?;
    finite("outer", outer)?;
    if inner < 0.0 || inner >= outer { Err(MaskError::Radii { inner, outer }) } else { Ok(()) }
}

fn square(dy: f64, dx: f64) -> f64 {
    dy * dy + dx * dx
}

/// Outer boundary included, inner one not, so that adjacent rings and the disk inside them share no pixel.
fn in_ring(dy: f64, dx: f64, inner: f64, outer: f64) -> bool {
    let square = square(dy, dx);
    inner * inner < square && square <= outer * outer
}

/// A half-open range of angles; both ends are brought to [0, 360) alike, so sectors that share an end share no pixel.
struct Angles {
    from: f64,
    to: f64,
    all: bool,
}

impl Angles {
    fn new(from_deg: f64, to_deg: f64) -> Result<Self, MaskError> {
        finite("from_deg", from_deg)?;
        finite("to_deg", to_deg)?;
        if from_deg >= to_deg {
            return Err(MaskError::Angles { from_deg, to_deg });
        }
        Ok(Self { from: turn(from_deg), to: turn(to_deg), all: to_deg - from_deg >= 360.0 })
    }

    fn contain(&self, dy: f64, dx: f64) -> bool {
        let angle = turn(dy.atan2(dx).to_degrees());
        match self.from < self.to {
            _ if self.all => true,
            true => self.from <= angle && angle < self.to,
            false => self.from <= angle || angle < self.to,
        }
    }
}

/// An angle in [0, 360) degrees.
fn turn(degrees: f64) -> f64 {
    let turned = degrees.rem_euclid(360.0);
    if turned < 360.0 { turned } else { 0.0 } // Rounding may give 360 for a tiny negative angle.
}

/// Even-odd rule, row by row: a pixel is inside when an odd number of edges crosses its row beyond its centre.
fn polygon(detector: SigShape, vertices: &[[f64; 2]]) -> Result<Mask, MaskError> {
    if !(3..=VERTICES_MAX).contains(&vertices.len()) {
        return Err(MaskError::Vertices { count: vertices.len() });
    }
    for &[y, x] in vertices {
        finite("vertex y", y)?;
        finite("vertex x", x)?;
    }
    let mut crossings: Vec<f64> = Vec::new();
    Ok(Mask::from_rows(detector, |row, runs| {
        let y = f64::from(row);
        crossings.clear();
        let before = vertices.iter().cycle().skip(vertices.len() - 1);
        for (&[y0, x0], &[y1, x1]) in before.zip(vertices) {
            if (y0 > y) != (y1 > y) {
                crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
            }
        }
        crossings.sort_by(f64::total_cmp);
        let first = runs.len();
        for pair in crossings.chunks_exact(2) {
            // Inside where pair[0] <= x < pair[1]: a left edge on a pixel centre counts, a right one does not.
            let [x0, x1] = [pair[0], pair[1]].map(|x| x.ceil().clamp(0.0, f64::from(detector.width)) as u32);
            if x0 >= x1 {
                continue;
            }
            match runs[first..].last_mut() {
                Some(last) if last.1 == x0 => last.1 = x1,
                _ => runs.push((x0, x1)),
            }
        }
    }))
}

/// Weights of an anti-aliased ring, C order: a ramp of one pixel at both radii, `clip(w / 2 + 0.5 - |r - r0|, 0, 1)` with
/// `w = outer - inner`, `r0 = (inner + outer) / 2`. The pixel at the centre has weight `1 - inner` where `inner < 0.5`.
pub(super) fn ring_aa(detector: SigShape, [cy, cx]: [f64; 2], (inner, outer): (f64, f64)) -> Vec<f64> {
    let (half, middle) = ((outer - inner) / 2.0, (inner + outer) / 2.0);
    let width = detector.width as usize;
    let weight = |pixel: usize| {
        let radius = ((pixel / width) as f64 - cy).hypot((pixel % width) as f64 - cx);
        (half + 0.5 - (radius - middle).abs()).clamp(0.0, 1.0)
    };
    let mut weights: Vec<f64> = (0..detector.pixel_count() as usize).map(weight).collect();
    if let Some(at) = centre_pixel(detector, [cy, cx]).filter(|_| inner < 0.5) {
        weights[at] = 1.0 - inner;
    }
    weights
}

/// The pixel nearest to a centre (of two, the even one), if the detector has it; its place in C order.
pub(super) fn centre_pixel(detector: SigShape, centre: [f64; 2]) -> Option<usize> {
    let [y, x] = centre.map(f64::round_ties_even);
    let inside = |at: f64, length: u32| (0.0..f64::from(length)).contains(&at);
    let is_inside = inside(y, detector.height) && inside(x, detector.width);
    is_inside.then(|| y as usize * detector.width as usize + x as usize)
}

fn image(detector: SigShape, (height, width): (u32, u32), weights: &[f64]) -> Result<Mask, MaskError> {
    if (height, width) != (detector.height, detector.width) || weights.len() as u64 != detector.pixel_count() {
        return Err(MaskError::Image {
            height,
            width,
            count: weights.len(),
            detector_height: detector.height,
            detector_width: detector.width,
        });
    }
    if let Some(at) = weights.iter().position(|weight| !weight.is_finite()) {
        let (y, x) = ((at / width as usize) as u32, (at % width as usize) as u32);
        return Err(MaskError::Weight { y, x, value: weights[at] });
    }
    if weights.iter().all(|&weight| weight == 0.0 || weight == 1.0) {
        let selected = |y: f64, x: f64| weights[y as usize * width as usize + x as usize] == 1.0;
        return Ok(Mask::where_true(detector, selected));
    }
    let mut mask = Mask::real(detector, weights.to_vec());
    if let Weights::Real { exponent, is_single: single, .. } = &mut mask.weights {
        *single = is_single(weights, *exponent);
    }
    Ok(mask)
}

/// Whether weights are best taken as numbers of single precision: they are such numbers, also when divided by `2^exponent`, and not
/// all so short that sums of integer pixels in double precision are exact.
fn is_single(weights: &[f64], exponent: i32) -> bool {
    let is_single = |weight: f64| f64::from(weight as f32) == weight;
    let is_short = |weight: f64| (scale(weight, 16 - exponent)).fract() == 0.0;
    let is_either = |&weight: &f64| is_single(weight) && is_single(scale(weight, -exponent));
    weights.iter().all(is_either) && !weights.iter().all(|&weight| is_short(weight))
}

/// Smallest exponent whose power of two exceeds a positive finite number.
fn exponent_above(value: f64) -> i32 {
    let biased = |value: f64| (value.to_bits() >> 52 & 0x7ff) as i32;
    match biased(value) {
        0 => biased(scale(value, 200)) - 200 - 1022,
        exponent => exponent - 1022,
    }
}
