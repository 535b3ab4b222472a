//! Smaller patterns: every frame cropped and binned.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::{named, wrong};
use crate::AXIS_MAX;
use crate::reduce::VirtualDetector;
use crate::reduce::error::PlanError;
use crate::reduce::output::Output;
use crate::reduce::spec::{COLUMNS_MAX, Needs, Sum};

/// Sums over `factor x factor` pixels of the rectangle `[from, to)`; a remainder at its end is cut off. A coordinate `y`
/// becomes `(y - y0 - (factor - 1) / 2) / factor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Binned {
    factor: u32,
    #[serde(default)]
    from: [u32; 2],
    /// The end of the detector where not given.
    to: Option<[u32; 2]>,
}

impl Kind for Binned {
    const WORD: &'static str = "binned";
    const ABOUT: &'static str = "every frame cropped and binned";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        let detector = needs.detector();
        let [y0, x0] = self.from;
        let [y1, x1] = self.to.unwrap_or([detector.height, detector.width]);
        if y1 > detector.height || x1 > detector.width || y0 >= y1 || x0 >= x1 {
            let expected = format!("behind `from` and at most [{}, {}]", detector.height, detector.width);
            return Err(wrong(name, "to", format!("[{y1}, {x1}]"), expected));
        }
        let factor = self.factor;
        if !(1..=AXIS_MAX).contains(&factor) || factor > (y1 - y0).min(x1 - x0) {
            return Err(wrong(name, "factor", factor, "at least 1 and not larger than the rectangle"));
        }
        let (height, width) = ((y1 - y0) / factor, (x1 - x0) / factor);
        let count = u64::from(height) * u64::from(width);
        if count > COLUMNS_MAX as u64 {
            let expected = format!("so large that at most {COLUMNS_MAX} binned pixels are left");
            return Err(wrong(name, "factor", factor, expected));
        }
        needs.check_binary(count as usize)?;
        let mut columns: Vec<Sum> = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (y0, x0) = (y0 + y * factor, x0 + x * factor);
                let bin = VirtualDetector::Rectangle { y0, x0, y1: y0 + factor, x1: x0 + factor };
                columns.push(needs.sum(bin.mask(detector).map_err(named(name))?));
            }
        }
        let axes = vec![("sig_y".into(), height as usize), ("sig_x".into(), width as usize)];
        let sums = columns.clone();
        Ok(vec![Output::per_place(name, "counts", axes, &columns, move |at, out| {
            out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = at.sum(sum));
        })])
    }
}
