//! One number per detector pixel, over frames.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::patterns::Accumulator;
use crate::reduce::spec::Needs;

macro_rules! pattern {
    ($kind:ident, $word:literal, $about:literal, |$name:ident, $needs:ident| $output:expr) => {
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $kind {}

        impl Kind for $kind {
            const WORD: &'static str = $word;
            const ABOUT: &'static str = $about;

            fn plan(&self, $name: &str, $needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
                Ok(vec![$output])
            }
        }
    };
}

pattern!(Sum, "sum", "sum over frames, per detector pixel", |name, needs| {
    Output::pattern(name, needs.pattern(Accumulator::Sum))
});
pattern!(Max, "max", "largest value over frames, per detector pixel", |name, needs| {
    Output::pattern(name, needs.pattern(Accumulator::Max))
});
pattern!(Min, "min", "smallest value over frames, per detector pixel", |name, needs| {
    Output::pattern(name, needs.pattern(Accumulator::Min))
});
pattern!(Mean, "mean", "mean over frames, per detector pixel", |name, needs| {
    Output::per_pixel(name, "counts", &[needs.pattern(Accumulator::Sum)], |at| at.mean())
});
pattern!(Variance, "variance", "population variance over frames, per detector pixel", |name, needs| {
    Output::per_pixel(name, "counts^2", &[needs.pattern(Accumulator::Moments)], |at| at.variance())
});
pattern!(Std, "std", "standard deviation over frames, per detector pixel", |name, needs| {
    Output::per_pixel(name, "counts", &[needs.pattern(Accumulator::Moments)], |at| at.variance().sqrt())
});
pattern!(
    NormalisedVariance,
    "normalised_variance",
    "variance over squared mean of frames, per detector pixel",
    |name, needs| {
        let moments = needs.pattern(Accumulator::Moments);
        let sum = needs.pattern(Accumulator::Sum);
        Output::per_pixel(name, "1", &[moments, sum], |at| at.variance() / (at.mean() * at.mean()))
    }
);
