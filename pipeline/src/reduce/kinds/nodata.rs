//! How many pixels of a frame have no data.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::wrong;
use crate::reduce::error::PlanError;
use crate::reduce::mask::Mask;
use crate::reduce::output::Output;
use crate::reduce::spec::Needs;

/// Pixels that carry the value by which the detector says so, or that it masks, but bad ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoData {}

impl Kind for NoData {
    const WORD: &'static str = "nodata";
    const ABOUT: &'static str = "how many pixels have no data, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let whole = Mask::whole(needs.detector());
        let count = needs.nodata(&whole);
        let expected = "used where `nodata` of `[correct]` is given, or announced by the detector";
        let count = count.ok_or_else(|| wrong(name, "kind", Self::WORD, expected))?;
        Ok(vec![Output { unit: "pixels".into(), ..Output::count(name, count) }])
    }
}
