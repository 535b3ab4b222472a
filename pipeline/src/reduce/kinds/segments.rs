//! Segmented detectors: rings cut into sectors of equal angle.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{centre_or_middle, named, wrong};
use crate::reduce::VirtualDetector;
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::spec::{Needs, Sum};

/// Most rings and sectors.
const EACH_MAX: usize = 64;

/// Sums over `rings x sectors` segments: ring `i` is `radii[i] < r <= radii[i + 1]`, sector `j` the angles
/// `[offset + j 360 / sectors, ...)`, clockwise on screen from `+x`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Segments {
    centre: Option<[f64; 2]>,
    radii: Vec<f64>,
    sectors: u32,
    #[serde(default)]
    offset_deg: f64,
}

impl Kind for Segments {
    const WORD: &'static str = "segments";
    const ABOUT: &'static str = "sums over rings cut into sectors, per frame";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let [cy, cx] = centre_or_middle(self.centre, needs.detector());
        let (ring_count, sectors) = (self.radii.len().saturating_sub(1), self.sectors as usize);
        if !(1..=EACH_MAX).contains(&ring_count) {
            return Err(wrong(name, "radii", format!("{:?}", self.radii), format!("2 to {} radii", EACH_MAX + 1)));
        }
        if !(1..=EACH_MAX).contains(&sectors) {
            return Err(wrong(name, "sectors", sectors, format!("1 to {EACH_MAX}")));
        }
        needs.check_binary(ring_count * sectors)?;
        let mut columns: Vec<Sum> = Vec::new();
        for ring in self.radii.windows(2) {
            for sector in 0..sectors {
                let at = |sector: usize| self.offset_deg + 360.0 * sector as f64 / sectors as f64;
                let (from_deg, to_deg) = (at(sector), at(sector + 1));
                let shape = VirtualDetector::Sector { cy, cx, inner: ring[0], outer: ring[1], from_deg, to_deg };
                columns.push(needs.sum(shape.mask(needs.detector()).map_err(named(name))?));
            }
        }
        let axes = vec![("ring".into(), ring_count), ("sector".into(), sectors)];
        let sums = columns.clone();
        Ok(vec![Output::per_place(name, "counts", axes, &columns, move |at, out| {
            out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = at.sum(sum));
        })])
    }
}
