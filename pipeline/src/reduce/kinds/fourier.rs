//! Radial Fourier: how strongly each ring is n-fold symmetric, per frame.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{named, wrong};
use super::radial::Rings;
use crate::reduce::error::PlanError;
use crate::reduce::mask::{Mask, ring_aa};
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, Sum};

/// Highest order.
const ORDER_MAX: u32 = 64;

/// Sums of pixels times `ring_aa * exp(i n phi)`, `phi = atan2(y - cy, x - cx)`, for n = 0 to `orders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fourier {
    centre: Option<[f64; 2]>,
    #[serde(default)]
    inner: f64,
    outer: Option<f64>,
    #[serde(default = "one")]
    bins: u32,
    #[serde(default = "eight")]
    orders: u32,
    /// Also real and imaginary parts, as `NAME_complex`.
    #[serde(default)]
    complex: bool,
}

fn one() -> u32 {
    1
}

fn eight() -> u32 {
    8
}

impl Kind for Fourier {
    const WORD: &'static str = "fourier";
    const ABOUT: &'static str = "strength of n-fold symmetry in rings, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        if self.orders > ORDER_MAX {
            return Err(wrong(name, "orders", self.orders, format!("0 to {ORDER_MAX}")));
        }
        let detector = needs.detector();
        let rings = Rings::new(name, detector, self.centre, (self.inner, self.outer), Some(self.bins))?;
        needs.check_real(rings.count * (2 * self.orders as usize + 1))?;
        let width = detector.width as usize;
        let angle = |pixel: usize| {
            let [cy, cx] = rings.centre;
            ((pixel / width) as f64 - cy).atan2((pixel % width) as f64 - cx)
        };
        let mut pairs: Vec<[Option<Sum>; 2]> = Vec::new();
        for ring in 0..rings.count {
            let ring = ring_aa(detector, rings.centre, rings.radii(ring));
            for order in 0..=self.orders {
                let mut part = |wave: fn(f64) -> f64| -> Result<Option<Sum>, PlanError> {
                    let turned = |(pixel, weight): (usize, &f64)| weight * wave(f64::from(order) * angle(pixel));
                    let weights: Vec<f64> = ring.iter().enumerate().map(turned).collect();
                    if weights.iter().all(|&weight| weight == 0.0) {
                        return Ok(None); // The imaginary part of order 0, and rings between pixels.
                    }
                    Ok(Some(needs.sum(Mask::of_weights(detector, weights).map_err(named(name))?)))
                };
                pairs.push([part(f64::cos)?, part(f64::sin)?]);
            }
        }
        let columns: Vec<Sum> = pairs.iter().flatten().copied().flatten().collect();
        let axes = vec![("radius".into(), rings.count), ("order".into(), self.orders as usize + 1)];
        let complex_axes = [axes.clone(), vec![("re_im".into(), 2)]].concat();
        let magnitudes = pairs.clone();
        let mut outputs = vec![Output::per_place(name, "counts", axes, &columns, move |at, out| {
            for (out, pair) in out.iter_mut().zip(&magnitudes) {
                let [re, im] = pair.map(|sum| sum.map_or(0.0, |sum| at.sum(sum)));
                *out = re.hypot(im);
            }
        })];
        if self.complex {
            let name = format!("{name}_complex");
            outputs.push(Output::per_place(&name, "counts", complex_axes, &columns, move |at, out| {
                for (out, sum) in out.iter_mut().zip(pairs.iter().flatten()) {
                    *out = sum.map_or(0.0, |sum| at.sum(sum));
                }
            }));
        }
        Ok(outputs)
    }
}
