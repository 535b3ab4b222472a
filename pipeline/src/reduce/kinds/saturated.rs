//! How many pixels of a frame reach a value: the largest of their type, or the limit of the detector.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::wrong;
use crate::PixelKind;
use crate::reduce::error::PlanError;
use crate::reduce::mask::Mask;
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, Of};

/// Pixels at or above `value`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Saturated {
    /// The largest value of an integer pixel where not given.
    value: Option<f64>,
}

impl Kind for Saturated {
    const WORD: &'static str = "saturated";
    const ABOUT: &'static str = "how many pixels reach a value, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let largest = match needs.pixel().kind {
            PixelKind::U8 => Some(f64::from(u8::MAX)),
            PixelKind::U16 => Some(f64::from(u16::MAX)),
            PixelKind::U32 => Some(f64::from(u32::MAX)),
            PixelKind::F32 => None,
        };
        let Some(value) = self.value.or(largest) else {
            return Err(wrong(name, "value", "missing", "given for floating point pixels"));
        };
        if !value.is_finite() {
            return Err(wrong(name, "value", value, "a finite number"));
        }
        let whole = Mask::whole(needs.detector());
        let count = needs.over(whole, Of::AtLeast(value));
        Ok(vec![Output { unit: "pixels".into(), ..Output::count(name, count) }])
    }
}
