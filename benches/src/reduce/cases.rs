//! What is measured, and what each case may cost.

use std::sync::Arc;

use anyhow::Result;
use ronchi_pipeline::PixelType;
use ronchi_pipeline::reduce::{ReducePlan, Reduction, VirtualDetector};
use serde_json::{Map, json};

use super::plan;

/// Bins of the radial profile.
const BINS: u32 = 64;

/// The case whose pixels have 12 bits.
const UNPACKED: &str = "one ring, from 12 bits";

/// What bounds a case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Reading memory.
    Read,
    /// Reading memory or so many multiply-and-adds per pixel in single precision, whichever is slower.
    MultiplyAdds(f64),
}

/// Reductions of one pixel type.
#[derive(Debug)]
pub(crate) struct Case {
    pub(super) pixel: String,
    pub(crate) name: &'static str,
    pub(crate) plan: Arc<ReducePlan>,
    pub(super) limit: Limit,
    /// Whether pixels of 12 bits are unpacked first; rates are then of unpacked ones.
    pub(crate) is_packed: bool,
    /// Share of the limit that is asked for.
    pub(super) target: Option<f64>,
}

/// All cases of a pixel type.
pub(crate) fn all(side: u32, pixel: PixelType) -> Result<Vec<Case>> {
    let is_u16 = pixel.numpy_name().ends_with("u2");
    let rings: Vec<Reduction> =
        (0..16).map(|at| ring(side, at, f64::from(at) * 0.02, f64::from(at) * 0.02 + 0.15)).collect();
    let real: Vec<Reduction> = (0..8).map(|at| weights(side, at)).collect();
    let radial = Reduction::parse("radial", None, Map::from_iter([("bins".to_owned(), json!(BINS))]))?;
    let variance = Reduction::parse("variance", None, Map::new())?;
    let com = vec![Reduction::total(), Reduction::centre_of_mass()];
    let patterns = vec![Reduction::sum(), Reduction::max()];
    let cases = [
        ("one ring", vec![ring(side, 0, 0.15, 0.35)], Limit::Read, Some(0.85)),
        (
            "16 rings + centre of mass + sum + maximum",
            [rings, com.clone(), patterns.clone()].concat(),
            Limit::Read,
            Some(0.5),
        ),
        ("8 real masks", real, Limit::MultiplyAdds(8.0), Some(0.5)),
        ("radial profile, 64 bins", vec![radial], Limit::Read, Some(0.4)),
        ("variance + sum + maximum", [patterns.clone(), vec![variance]].concat(), Limit::Read, Some(0.5)),
        (UNPACKED, vec![ring(side, 0, 0.15, 0.35)], Limit::Read, None),
        ("centre of mass", com, Limit::Read, None),
        ("sum + maximum", patterns, Limit::Read, None),
    ];
    let case = |(name, reductions, limit, target): (_, Vec<_>, _, Option<f64>)| {
        let plan = plan(&reductions, side, pixel)?;
        Ok(Case {
            pixel: pixel.numpy_name().to_string(),
            name,
            plan,
            limit,
            is_packed: name == UNPACKED,
            target: target.filter(|_| is_u16),
        })
    };
    let packs = |name: &str| name != UNPACKED || pixel.numpy_name() == "<u2";
    cases.into_iter().filter(|(name, ..)| packs(name)).map(case).collect()
}

fn ring(side: u32, number: u32, inner: f64, outer: f64) -> Reduction {
    let side = f64::from(side);
    let (cy, cx) = (side / 2.0 - 0.7, side / 2.0 + 0.4);
    let detector = VirtualDetector::Ring { cy, cx, inner: inner * side, outer: outer * side };
    Reduction::virtual_detector(&format!("ring{number}"), detector)
}

/// A mask whose weights are single precision numbers, none of them 0.
fn weights(side: u32, number: u32) -> Reduction {
    let weight = |at: u32| (f64::from((at * 7919 + number * 104_729) % 65_521) / 65_521.0 - 0.4) as f32;
    image(format!("real{number}"), side, |y, x| f64::from(weight(y * side + x)))
}

fn image(name: String, side: u32, weight: impl Fn(u32, u32) -> f64) -> Reduction {
    let weights = (0..side * side).map(|at| weight(at / side, at % side)).collect();
    Reduction::virtual_detector(&name, VirtualDetector::Image { height: side, width: side, weights })
}
