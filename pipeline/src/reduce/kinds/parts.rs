//! What several kinds have in common: centres, the disk or ring that selects pixels, the orientation of the scan.

use crate::SigShape;
use crate::reduce::error::PlanError;
use crate::reduce::mask::Mask;
use crate::reduce::{MaskError, VirtualDetector};

/// `(y, x)` in detector pixels; `floor(n / 2)` where none is given.
pub(super) fn centre_or_middle(centre: Option<[f64; 2]>, detector: SigShape) -> [f64; 2] {
    centre.unwrap_or([f64::from(detector.height / 2), f64::from(detector.width / 2)])
}

/// Adds the name of a result to what is wrong with its mask.
pub(super) fn named(name: &str) -> impl Fn(MaskError) -> PlanError + '_ {
    |source| PlanError::Mask { name: name.into(), source }
}

/// A parameter that is not what it must be.
pub(super) fn wrong(name: &str, key: &'static str, value: impl ToString, expected: impl Into<String>) -> PlanError {
    PlanError::Parameter { name: name.into(), key, value: value.to_string(), expected: expected.into() }
}

/// The pixels that count: of a disk `r^2 <= outer^2`, of a ring `inner^2 < r^2 <= outer^2`, without radii all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    pub(super) inner: Option<f64>,
    pub(super) outer: Option<f64>,
}

impl Selection {
    /// Its mask; every pixel where there is no radius.
    pub(super) fn mask(self, name: &str, [cy, cx]: [f64; 2], detector: SigShape) -> Result<Mask, PlanError> {
        let shape = match (self.inner, self.outer) {
            (None, None) => return Ok(Mask::whole(detector)),
            (None, Some(radius)) => VirtualDetector::Disk { cy, cx, radius },
            (Some(inner), Some(outer)) => VirtualDetector::Ring { cy, cx, inner, outer },
            (Some(_), None) => return Err(wrong(name, "outer", "missing", "given where `inner` is")),
        };
        shape.mask(detector).map_err(named(name))
    }
}

/// How the axes of the detector lie to those of the scan: vectors are flipped first, then turned.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Orientation {
    pub(super) flip_y: bool,
    /// Clockwise on screen is positive.
    pub(super) rotation_deg: f64,
}

impl Orientation {
    /// `flip_y: (y, x) -> (-y, x)`; then `y' = y cos t + x sin t`, `x' = -y sin t + x cos t`.
    pub(super) fn turn(self, [y, x]: [f64; 2]) -> [f64; 2] {
        let y = if self.flip_y { -y } else { y };
        let (sin, cos) = self.rotation_deg.to_radians().sin_cos();
        [y * cos + x * sin, -y * sin + x * cos]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quarter turn maps (y, x) to (x, -y); flipping comes first.
    #[test]
    fn quarter_turn() {
        let close = |[a, b]: [f64; 2], [c, d]: [f64; 2]| (a - c).abs() < 1e-15 && (b - d).abs() < 1e-15;
        let turned = |flip_y| Orientation { flip_y, rotation_deg: 90.0 }.turn([-0.125, -0.75]);
        assert!(close(turned(false), [-0.75, 0.125]));
        assert!(close(turned(true), [-0.75, -0.125]));
    }
}
