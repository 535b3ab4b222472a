//! How often which pixel values occur, over all frames and pixels.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::wrong;
use crate::PixelKind;
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::patterns::{Accumulator, Bins};
use crate::reduce::spec::Needs;

/// Most bins.
const BINS_MAX: u32 = 65_536;

/// Bins of equal width over `[from, to)`; what lies outside is in the first or last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Histogram {
    bins: u32,
    from: f64,
    /// One above the largest pixel where not given.
    to: Option<f64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: 256, from: 0.0, to: None }
    }
}

impl Kind for Histogram {
    const WORD: &'static str = "histogram";
    const ABOUT: &'static str = "how often which pixel values occur";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        if !(1..=BINS_MAX).contains(&self.bins) {
            return Err(wrong(name, "bins", self.bins, format!("1 to {BINS_MAX}")));
        }
        let whole_range = match needs.pixel().kind {
            PixelKind::U8 => Some(256.0),
            PixelKind::U16 => Some(65_536.0),
            PixelKind::U32 => Some(4_294_967_296.0),
            PixelKind::F32 => None,
        };
        let Some(to) = self.to.or(whole_range) else {
            return Err(wrong(name, "to", "missing", "given for floating point pixels"));
        };
        if !self.from.is_finite() || !to.is_finite() || self.from >= to {
            return Err(wrong(name, "to", to, format!("above `from`, which is {}", self.from)));
        }
        let bins = Bins { count: self.bins, from: self.from, to };
        let accumulator = needs.pattern(Accumulator::Histogram(bins));
        Ok(vec![Output::histogram(name, accumulator, self.bins as usize)])
    }
}
