//! Differential phase contrast from four quadrants.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{Orientation, Selection, centre_or_middle, named};
use crate::reduce::error::PlanError;
use crate::reduce::mask::Mask;
use crate::reduce::output::Output;
use crate::reduce::spec::Needs;

/// `D_y = (bottom - top) / (bottom + top)`, `D_x = (right - left) / (right + left)` as `(y, x)`, turned as asked.
///
/// With `dy, dx` from the centre: top `dy < 0, |dy| >= |dx|`, bottom likewise below, left and right `|dx| > |dy|`; the
/// pixel at the centre is in none. Where both of a pair are dark there is no value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dpc {
    centre: Option<[f64; 2]>,
    inner: Option<f64>,
    outer: Option<f64>,
    flip_y: bool,
    rotation_deg: f64,
}

impl Kind for Dpc {
    const WORD: &'static str = "dpc";
    const ABOUT: &'static str = "differential phase contrast (y, x) from four quadrants, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let detector = needs.detector();
        let [cy, cx] = centre_or_middle(self.centre, detector);
        let selected = Selection { inner: self.inner, outer: self.outer }.mask(name, [cy, cx], detector)?.to_image();
        let mut quadrant = |belongs: fn(f64, f64) -> bool| {
            let width = detector.width as usize;
            let weight = |(pixel, &weight): (usize, &f64)| {
                let (dy, dx) = ((pixel / width) as f64 - cy, (pixel % width) as f64 - cx);
                if belongs(dy, dx) { weight } else { 0.0 }
            };
            let weights = selected.iter().enumerate().map(weight).collect();
            Ok(needs.sum(Mask::of_weights(detector, weights).map_err(named(name))?))
        };
        let top = quadrant(|dy, dx| dy < 0.0 && dy.abs() >= dx.abs())?;
        let bottom = quadrant(|dy, dx| dy > 0.0 && dy.abs() >= dx.abs())?;
        let left = quadrant(|dy, dx| dx < 0.0 && dx.abs() > dy.abs())?;
        let right = quadrant(|dy, dx| dx > 0.0 && dx.abs() > dy.abs())?;
        let orientation = Orientation { flip_y: self.flip_y, rotation_deg: self.rotation_deg };
        let columns = [top, bottom, left, right];
        Ok(vec![Output::per_place(name, "1", vec![("component".into(), 2)], &columns, move |at, out| {
            let [top, bottom, left, right] = columns.map(|sum| at.sum(sum));
            let difference = [(bottom - top) / (bottom + top), (right - left) / (right + left)];
            out.copy_from_slice(&orientation.turn(difference));
        })])
    }
}
