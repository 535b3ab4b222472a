//! How far counts are spread around a centre: the width of a spot, or how much a specimen scatters.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{Selection, centre_or_middle, named, wrong};
use crate::reduce::error::PlanError;
use crate::reduce::mask::Mask;
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, Of, Sum};

/// `sqrt(sum r^2 I / sum I)` of the selected pixels, in detector pixels; `r` is the distance from the centre.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RmsRadius {
    centre: Option<[f64; 2]>,
    inner: Option<f64>,
    outer: Option<f64>,
}

impl Kind for RmsRadius {
    const WORD: &'static str = "rms_radius";
    const ABOUT: &'static str = "root mean square distance of counts from a centre, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let detector = needs.detector();
        let [cy, cx] = centre_or_middle(self.centre, detector);
        if !cy.is_finite() || !cx.is_finite() {
            return Err(wrong(name, "centre", format!("[{cy}, {cx}]"), "two finite numbers"));
        }
        let selected = Selection { inner: self.inner, outer: self.outer }.mask(name, [cy, cx], detector)?;
        let width = detector.width as usize;
        let square = |(pixel, weight): (usize, f64)| {
            let (dy, dx) = ((pixel / width) as f64 - cy, (pixel % width) as f64 - cx);
            weight * (dy * dy + dx * dx)
        };
        let squares = selected.to_image().into_iter().enumerate().map(square).collect();
        let squares: Sum = needs.sum(Mask::of_weights(detector, squares).map_err(named(name))?);
        let total = needs.over(selected, Of::Pixels);
        Ok(vec![Output::per_place(name, "px", vec![], &[squares, total], move |at, out| {
            let sum = at.sum(total);
            out[0] = if sum > 0.0 { (at.sum(squares) / sum).sqrt() } else { f64::NAN };
        })])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::reduce::{Frames, LiveImages, Reducer, Reduction};
    use crate::{PixelType, SigShape};

    fn radius(parameters: &serde_json::Value) -> Result<f64, String> {
        let detector = SigShape { height: 3, width: 4 };
        let (region, pixel) = (detector.region(), PixelType::from_numpy_name("|u1").ok_or("pixel")?);
        let parameters = parameters.as_object().cloned().unwrap_or_default();
        let list = [Reduction::parse("rms_radius", None, parameters).map_err(|error| error.to_string())?];
        let images = LiveImages::new(&list, None, Some(1), detector, pixel, &[region]);
        let mut images = images.map_err(|error| error.to_string())?;
        let mut reducer = Reducer::new(Arc::new(images.plan(0).map_err(|error| error.to_string())?));
        let frame = [0, 1, 0, 0, 0, 5, 2, 0, 0, 0, 0, 0];
        reducer.reduce(&Frames::new(0, &frame, pixel, region).map_err(|error| error.to_string())?);
        images.merge(0, &reducer.take());
        Ok(images.image("rms_radius").ok_or("result")?.row_values(0..1)[0])
    }

    /// Around (1, 2) one count lies at r^2 = 2, five at 1, two at 0; without a selected count there is none; a disk of the centre
    /// alone has no distance to measure.
    #[test]
    fn one_frame() {
        assert_eq!(radius(&serde_json::json!({})), Ok((7.0_f64 / 8.0).sqrt()));
        assert_eq!(radius(&serde_json::json!({ "centre": [1.0, 2.0], "outer": 1.0 })), Ok((5.0_f64 / 7.0).sqrt()));
        assert!(radius(&serde_json::json!({ "inner": 1.5, "outer": 2.0 })).is_ok_and(f64::is_nan));
        assert!(radius(&serde_json::json!({ "outer": 0.5 })).is_err());
    }
}
