//! Centre of mass per frame, and what follows from it over the scan: field, divergence, curl, phase.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Kind;
use super::field::{Field, Integration};
use super::parts::{Orientation, Selection, centre_or_middle, wrong};
use crate::reduce::error::PlanError;
use crate::reduce::output::{At, Axis, Output, Over};
use crate::reduce::spec::{Needs, Of};

/// `(My / S, Mx / S)` of the selected pixels, in detector pixels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CentreOfMass {
    /// Where a beam that nothing deflects would be, `(y, x)`; also the middle of the selection.
    centre: Option<[f64; 2]>,
    inner: Option<f64>,
    outer: Option<f64>,
    /// Turns shifts into the axes of the scan: flipped first.
    flip_y: bool,
    /// Clockwise on screen.
    rotation_deg: f64,
    /// What is taken away from the field: 0 its mean, 1 the plane that fits best; nothing where not given.
    regression: Option<u8>,
    /// As LiberTEM: a frame without signal has its centre of mass at the centre, instead of none.
    fill_centre: bool,
    /// Further results, each called `NAME_word`.
    also: Vec<Also>,
    /// Phases: the scan is continued as in a mirror, instead of periodically.
    mirror: bool,
    /// Phases: spatial frequencies well below this one are left out, in cycles per scan pixel.
    high_pass: f64,
    /// Phases: rad per scan pixel of a shift of one detector pixel, `2 pi angle step / wavelength`.
    rad_per_px: Option<f64>,
}

/// What else to make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Also {
    /// Centre of mass minus centre, `(y, x)`.
    Shift,
    /// Shift, flipped, turned, minus the regression, `(y, x)`.
    Field,
    /// Length of the field.
    Magnitude,
    /// Direction of the field, `atan2(y, x)`, rad: clockwise from `+x` on screen.
    Direction,
    /// Divergence of the field, per scan pixel.
    Divergence,
    /// Curl of the field, per scan pixel.
    Curl,
    /// Coefficients of the regression: rows 1, d/dy, d/dx; columns `(y, x)`.
    Regression,
    /// For no flip and flip: the rotation in degrees with the least curl, and that curl (root mean square).
    Rotation,
    /// Phase whose gradient is the field.
    Phase,
}

const VECTOR: Axis = (Cow::Borrowed("component"), 2);

impl Kind for CentreOfMass {
    const WORD: &'static str = "com";
    const ABOUT: &'static str = "centre of mass (y, x) per frame; field, divergence, curl, phase over the scan";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        self.check(name)?;
        let centre = centre_or_middle(self.centre, needs.detector());
        let mask = Selection { inner: self.inner, outer: self.outer }.mask(name, centre, needs.detector())?;
        let total = needs.over(mask.clone(), Of::Pixels);
        let y = needs.over(mask.clone(), Of::MomentY);
        let x = needs.over(mask, Of::MomentX);
        let columns = [total, y, x];
        let dark = if self.fill_centre { centre } else { [f64::NAN; 2] };
        let com = move |at: &At<'_>| {
            let sum = at.sum(total);
            if sum > 0.0 && sum.is_finite() { [at.sum(y) / sum, at.sum(x) / sum] } else { dark }
        };
        let number = needs.next_result();
        let raw = Output::per_place(name, "px", vec![VECTOR], &columns, move |at, out| out.copy_from_slice(&com(at)));
        let mut outputs = Vec::new();
        for &also in &self.also {
            outputs.push(match also {
                Also::Shift => {
                    let name = format!("{name}_shift");
                    Output::per_place(&name, "px", vec![VECTOR], &columns, move |at, out| {
                        let [y, x] = com(at);
                        out.copy_from_slice(&[y - centre[0], x - centre[1]]);
                    })
                }
                _ => self.whole(also, name, centre, (number, &raw)),
            });
        }
        outputs.insert(0, raw);
        Ok(outputs)
    }
}

impl CentreOfMass {
    fn check(&self, name: &str) -> Result<(), PlanError> {
        if let Some(order) = self.regression.filter(|&order| order > 1) {
            return Err(wrong(name, "regression", order, "0 or 1"));
        }
        if !self.rotation_deg.is_finite() {
            return Err(wrong(name, "rotation_deg", self.rotation_deg, "a finite number"));
        }
        if !(0.0..=1.0).contains(&self.high_pass) {
            return Err(wrong(name, "high_pass", self.high_pass, "0 to 1 cycles per pixel"));
        }
        if self.rad_per_px.is_some_and(|scale| !scale.is_finite()) {
            return Err(wrong(name, "rad_per_px", format!("{:?}", self.rad_per_px), "a finite number"));
        }
        Ok(())
    }

    fn whole(&self, also: Also, name: &str, centre: [f64; 2], com: (usize, &Output)) -> Output {
        let orientation = Orientation { flip_y: self.flip_y, rotation_deg: self.rotation_deg };
        let regression = self.regression;
        let field = move |com: &[f64], nav| Field::of_com(com, nav, centre).turned(orientation).flattened(regression);
        let integration =
            Integration { scale: self.rad_per_px.unwrap_or(1.0), mirror: self.mirror, high_pass: self.high_pass };
        let per_scan = |axes: Vec<Axis>| (Over::Scan, axes);
        let (word, unit, place) = match also {
            Also::Shift | Also::Field => ("field", "px", per_scan(vec![VECTOR])),
            Also::Magnitude => ("magnitude", "px", per_scan(vec![])),
            Also::Direction => ("direction", "rad", per_scan(vec![])),
            Also::Divergence => ("divergence", "px/px", per_scan(vec![])),
            Also::Curl => ("curl", "px/px", per_scan(vec![])),
            Also::Regression => ("regression", "px", (Over::All, vec![("coefficient".into(), 3), VECTOR])),
            Also::Rotation => {
                ("rotation", "deg, px/px", (Over::All, vec![("flip_y".into(), 2), ("angle_curl".into(), 2)]))
            }
            Also::Phase if self.rad_per_px.is_some() => ("phase", "rad", per_scan(vec![])),
            Also::Phase => ("phase", "px px", per_scan(vec![])),
        };
        Output::whole(&format!("{name}_{word}"), unit, place, vec![com], move |inputs, nav| {
            let com = inputs.first().copied().unwrap_or_default();
            match also {
                Also::Shift | Also::Field => field(com, nav).interleaved(),
                Also::Magnitude => field(com, nav).magnitude(),
                Also::Direction => field(com, nav).direction(),
                Also::Divergence => field(com, nav).divergence(),
                Also::Curl => field(com, nav).curl(),
                Also::Regression => Field::of_com(com, nav, centre).turned(orientation).regression(regression).concat(),
                Also::Rotation => Field::of_com(com, nav, centre).least_curl().concat(),
                Also::Phase => field(com, nav).phase(integration),
            }
        })
    }
}
