//! One number per frame: the sum over a virtual detector, or over all pixels.

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::reduce::VirtualDetector;
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, RESERVED_NAMES};

/// Sum of weight times pixel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Virtual(pub(super) VirtualDetector);

impl Kind for Virtual {
    const WORD: &'static str = "virtual";
    const ABOUT: &'static str = "sum over a virtual detector, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        if RESERVED_NAMES.contains(&name) {
            return Err(PlanError::Reserved { name: name.into() });
        }
        let mask = self.0.mask(needs.detector());
        let mask = mask.map_err(|source| PlanError::Mask { name: name.into(), source })?;
        Ok(vec![Output::count(name, needs.sum(mask))])
    }
}

/// Sum of all pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Total {}

impl Kind for Total {
    const WORD: &'static str = "total";
    const ABOUT: &'static str = "sum of all pixels, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let total = needs.total();
        Ok(vec![Output::count(name, total)])
    }
}
