//! Radial profile: mean over rings of equal width, per frame.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{centre_or_middle, named, wrong};
use crate::SigShape;
use crate::reduce::error::PlanError;
use crate::reduce::mask::{Mask, ring_aa};
use crate::reduce::output::{At, Output};
use crate::reduce::spec::{COLUMNS_MAX, MASKS_BYTES_MAX, Needs, Sum};

/// `bins` anti-aliased rings from `inner` to `outer`: a pixel between two rings belongs to both by its distance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Radial {
    centre: Option<[f64; 2]>,
    #[serde(default)]
    inner: f64,
    /// To the edge that is nearest to the centre where not given.
    outer: Option<f64>,
    /// One for every pixel of radius where not given.
    bins: Option<u32>,
    /// Weights of the centre pixel as LiberTEM has them, where those of all rings do not add up to 1.
    #[serde(default)]
    libertem: bool,
    /// Also sums instead of means, as `NAME_sum`.
    #[serde(default)]
    sum: bool,
}

/// A smaller share of the weights of a ring is what rounding leaves.
const AREA_MIN: f64 = 1e-9;

/// Rings of equal width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rings {
    pub(super) centre: [f64; 2],
    inner: f64,
    width: f64,
    pub(super) count: usize,
}

impl Rings {
    /// Checks parameters that several kinds share.
    pub(super) fn new(
        name: &str,
        detector: SigShape,
        centre: Option<[f64; 2]>,
        (inner, outer): (f64, Option<f64>),
        bins: Option<u32>,
    ) -> Result<Self, PlanError> {
        let centre = centre_or_middle(centre, detector);
        let edge = |at: f64, length: u32| (at + 0.5).min(f64::from(length) - 0.5 - at);
        let outer = outer.unwrap_or_else(|| edge(centre[0], detector.height).min(edge(centre[1], detector.width)));
        if !(0.0..outer).contains(&inner) || !outer.is_finite() {
            return Err(wrong(name, "outer", outer, format!("finite and above `inner`, which is {inner}")));
        }
        let count = bins.map_or(((outer - inner).ceil()) as usize, |bins| bins as usize);
        if !(1..=COLUMNS_MAX).contains(&count) {
            return Err(wrong(name, "bins", count, format!("1 to {COLUMNS_MAX}")));
        }
        let masks_max = MASKS_BYTES_MAX / (8 * detector.pixel_count()).max(1);
        if count as u64 > masks_max {
            return Err(wrong(name, "bins", count, format!("at most {masks_max} on a detector of this size")));
        }
        Ok(Self { centre, inner, width: (outer - inner) / count as f64, count })
    }

    /// Inner and outer radius of a ring.
    pub(super) fn radii(&self, ring: usize) -> (f64, f64) {
        let inner = self.inner + ring as f64 * self.width;
        (inner, inner + self.width)
    }

    /// Weights of every ring over the detector. The pixel at the centre gets, in the first ring, what the others leave.
    fn weights(&self, detector: SigShape, libertem: bool) -> Vec<Vec<f64>> {
        let ring = |ring| ring_aa(detector, self.centre, self.radii(ring));
        let mut rings: Vec<Vec<f64>> = (0..self.count).map(ring).collect();
        if let (false, Some(at)) =
            (libertem || self.inner >= 0.5, crate::reduce::mask::centre_pixel(detector, self.centre))
        {
            let others: f64 = rings[1..].iter().map(|ring| ring[at]).sum();
            rings[0][at] = (1.0 - self.inner - others).max(0.0);
        }
        rings
    }
}

/// What is known of one ring.
#[derive(Debug, Clone)]
struct RingSum {
    counts: Sum,
    /// Sum of its weights, and of those under pixels without data.
    area: f64,
    nodata: Option<Sum>,
}

impl RingSum {
    /// Weights of pixels that have data; NaN where none has.
    fn area(&self, at: &At<'_>) -> f64 {
        let area = self.area - at.nodata(self.nodata);
        if area > self.area * AREA_MIN { area } else { f64::NAN }
    }
}

impl Kind for Radial {
    const WORD: &'static str = "radial";
    const ABOUT: &'static str = "mean over rings of equal width, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let detector = needs.detector();
        let rings = Rings::new(name, detector, self.centre, (self.inner, self.outer), self.bins)?;
        needs.check_real(rings.count)?;
        let mut sums: Vec<Option<RingSum>> = Vec::new();
        for weights in rings.weights(detector, self.libertem) {
            let area: f64 = weights.iter().sum();
            // A ring narrower than a pixel may hold no pixel centre: it has no mean.
            sums.push(if area > 0.0 {
                let mask = Mask::of_weights(detector, weights).map_err(named(name))?;
                let nodata = needs.nodata(&mask);
                Some(RingSum { counts: needs.sum(mask), area, nodata })
            } else {
                None
            });
        }
        let columns: Vec<Sum> =
            sums.iter().flatten().flat_map(|ring| [Some(ring.counts), ring.nodata]).flatten().collect();
        if columns.is_empty() {
            return Err(wrong(
                name,
                "outer",
                rings.radii(rings.count - 1).1,
                "large enough for one pixel of the detector",
            ));
        }
        let axes = vec![("radius".into(), rings.count)];
        let mut outputs = Vec::new();
        let of = |is_mean: bool, name: &str| {
            let sums = sums.clone();
            Output::per_place(name, "counts", axes.clone(), &columns, move |at, out| {
                for (out, ring) in out.iter_mut().zip(&sums) {
                    let value = |ring: &RingSum| at.sum(ring.counts) / if is_mean { ring.area(at) } else { 1.0 };
                    *out = ring.as_ref().map_or(f64::NAN, value);
                }
            })
        };
        outputs.push(of(true, name));
        if self.sum {
            outputs.push(of(false, &format!("{name}_sum")));
        }
        Ok(outputs)
    }
}
