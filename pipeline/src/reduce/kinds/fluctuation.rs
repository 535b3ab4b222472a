//! Fluctuation electron microscopy: how much the pixels of a ring differ within one frame.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{Selection, centre_or_middle};
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, Of, Sum};

/// Standard deviation over the pixels of a ring, per frame (population, as LiberTEM's FEM).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fluctuation {
    centre: Option<[f64; 2]>,
    inner: Option<f64>,
    outer: Option<f64>,
    /// Also `<I^2> / <I>^2 - 1`, as `NAME_normalised`.
    normalised: bool,
}

impl Kind for Fluctuation {
    const WORD: &'static str = "fluctuation";
    const ABOUT: &'static str = "standard deviation over the pixels of a ring, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let centre = centre_or_middle(self.centre, needs.detector());
        let mask = Selection { inner: self.inner, outer: self.outer }.mask(name, centre, needs.detector())?;
        let count = mask.pixel_count();
        let nodata = needs.nodata(&mask);
        let (sum, squares) = (needs.over(mask.clone(), Of::Pixels), needs.over(mask, Of::Squares));
        let columns: Vec<Sum> = [sum, squares].into_iter().chain(nodata).collect();
        let std = move |at: &crate::reduce::output::At<'_>, out: &mut [f64]| {
            let pixels = at.pixels(count, nodata);
            out[0] = at.spread(sum, squares, pixels).sqrt() / (pixels as f64 / at.slots.len() as f64);
        };
        let mut outputs = vec![Output::per_place(name, "counts", vec![], &columns, std)];
        if self.normalised {
            let name = format!("{name}_normalised");
            outputs.push(Output::per_place(&name, "1", vec![], &columns, move |at, out| {
                let total = at.sum(sum);
                out[0] = at.spread(sum, squares, at.pixels(count, nodata)) / (total * total);
            }));
        }
        Ok(outputs)
    }
}
