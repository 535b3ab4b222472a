//! What is measured, and what each case may cost.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ronchi_config::{parse_reduction, parse_virtual};
use ronchi_pipeline::format::{npy, packed12};
use ronchi_pipeline::reduce::{Frames, ReducePlan, Reducer, Reduction, VirtualDetector};
use ronchi_pipeline::{PixelType, SigShape, Slot};

use crate::BLOCK_BYTES;

/// The case whose pixels have 12 bits.
const UNPACKED: &str = "one ring, from 12 bits";

/// What bounds a case.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Reading memory.
    Read,
    /// Reading memory or so many multiply-and-adds per pixel in single precision, whichever is slower.
    MultiplyAdds(f64),
}

/// Reductions of one pixel type.
#[derive(Debug)]
pub struct Case {
    /// Type of a pixel, as NumPy has it.
    pub pixel: String,
    /// What is computed, in words.
    pub name: &'static str,
    /// How.
    pub plan: Arc<ReducePlan>,
    /// What bounds it.
    pub limit: Limit,
    /// Whether pixels of 12 bits are unpacked first; rates are then of unpacked ones.
    pub is_packed: bool,
    /// Share of the limit that is asked for.
    pub target: Option<f64>,
    side: u32,
    asked: Vec<Asked>,
}

/// One reduction.
#[derive(Debug, Clone)]
enum Asked {
    /// A virtual detector, as the command line has it.
    Virtual(String),
    /// Any other kind.
    Kind(&'static str),
    /// The mask of this number whose weights are single precision numbers, none of them 0.
    Weights(u32),
}

/// All cases of a square detector and a pixel type.
pub fn all(side: u32, pixel: PixelType) -> Result<Vec<Case>> {
    let is_u16 = pixel.numpy_name().ends_with("u2");
    let rings: Vec<Asked> =
        (0..16).map(|at| ring(side, at, f64::from(at) * 0.02, f64::from(at) * 0.02 + 0.15)).collect();
    let com = vec![Asked::Kind("total"), Asked::Kind("com")];
    let patterns = vec![Asked::Kind("sum"), Asked::Kind("max")];
    let one_ring = vec![ring(side, 0, 0.15, 0.35)];
    let cases = [
        ("one ring", one_ring.clone(), Limit::Read, Some(0.85)),
        (
            "16 rings + centre of mass + sum + maximum",
            [rings, com.clone(), patterns.clone()].concat(),
            Limit::Read,
            Some(0.5),
        ),
        ("8 real masks", (0..8).map(Asked::Weights).collect(), Limit::MultiplyAdds(8.0), Some(0.5)),
        ("radial profile, 64 bins", vec![Asked::Kind("radial:bins=64")], Limit::Read, Some(0.4)),
        (
            "variance + sum + maximum",
            [patterns.clone(), vec![Asked::Kind("variance")]].concat(),
            Limit::Read,
            Some(0.5),
        ),
        (UNPACKED, one_ring, Limit::Read, None),
        ("centre of mass", com, Limit::Read, None),
        ("sum + maximum", patterns, Limit::Read, None),
    ];
    let case = |(name, asked, limit, target): (_, Vec<Asked>, _, Option<f64>)| {
        let reductions = asked.iter().map(|asked| asked.reduction(side)).collect::<Result<Vec<_>>>()?;
        let detector = SigShape { height: side, width: side };
        let plan = ReducePlan::compile(&reductions, detector, detector.region(), pixel)?;
        Ok(Case {
            pixel: pixel.numpy_name().to_string(),
            name,
            plan: Arc::new(plan),
            limit,
            is_packed: name == UNPACKED,
            target: target.filter(|_| is_u16),
            side,
            asked,
        })
    };
    let packs = |name: &str| name != UNPACKED || pixel.numpy_name() == "<u2";
    cases.into_iter().filter(|(name, ..)| packs(name)).map(case).collect()
}

impl Case {
    /// What asks `ronchi reprocess` for the same; masks are written into a folder. Errors: they cannot be.
    pub fn arguments(&self, folder: &Path) -> Result<Vec<String>> {
        let arguments = self.asked.iter().map(|asked| asked.arguments(self.side, folder));
        Ok(arguments.collect::<Result<Vec<_>>>()?.concat())
    }

    /// A reducer of this case.
    pub fn pass(&self) -> Pass<'_> {
        let reducer = Reducer::new(Arc::clone(&self.plan));
        Pass { case: self, reducer, unpacked: vec![0; if self.is_packed { self.block_bytes() } else { 0 }] }
    }

    /// Bytes of a block that are whole frames.
    pub fn block_bytes(&self) -> usize {
        let frame_bytes = self.plan.region().pixel_count() as usize * self.plan.pixel().bytes();
        BLOCK_BYTES / frame_bytes * frame_bytes
    }
}

/// Reduces blocks as one thread does.
#[derive(Debug)]
pub struct Pass<'a> {
    case: &'a Case,
    reducer: Reducer,
    unpacked: Vec<u8>,
}

impl Pass<'_> {
    /// Reduces the whole frames of these blocks.
    pub fn over(&mut self, blocks: &[Slot]) {
        let Self { case, reducer, unpacked } = self;
        let (plan, block_bytes) = (&case.plan, case.block_bytes());
        let frame_count = block_bytes as u64 / (plan.region().pixel_count() * plan.pixel().bytes() as u64);
        for (number, block) in (0..).zip(blocks) {
            let mut bytes = &block.bytes()[..block_bytes];
            if case.is_packed {
                // Any bytes are 12-bit pixels: the first three fourths of a block are.
                let packed = packed12::packed_bytes(block_bytes / 2);
                if packed12::unpack(&bytes[..packed], unpacked).is_ok() {
                    bytes = unpacked;
                }
            }
            if let Ok(frames) = Frames::new(number * frame_count, bytes, plan.pixel(), plan.region()) {
                reducer.reduce(&frames);
                std::hint::black_box(reducer.take());
            }
        }
    }
}

impl Asked {
    fn reduction(&self, side: u32) -> Result<Reduction> {
        Ok(match self {
            Self::Virtual(text) => parse_virtual(text)?,
            Self::Kind(text) => parse_reduction(text)?,
            Self::Weights(number) => {
                let weights = weights(side, *number).map(f64::from).collect();
                let detector = VirtualDetector::Image { height: side, width: side, weights };
                Reduction::virtual_detector(&format!("real{number}"), detector)
            }
        })
    }

    fn arguments(&self, side: u32, folder: &Path) -> Result<Vec<String>> {
        let (option, text) = match self {
            Self::Virtual(text) => ("--virtual", text.clone()),
            Self::Kind(text) => ("--reduce", (*text).to_owned()),
            Self::Weights(number) => {
                let path = folder.join(format!("real{number}.npy"));
                let data: Vec<u8> = weights(side, *number).flat_map(f32::to_le_bytes).collect();
                std::fs::write(&path, npy::write("<f4", &[side as usize, side as usize], &data))?;
                ("--virtual", format!("real{number}=npy:{}", path.display()))
            }
        };
        Ok(vec![option.to_owned(), text])
    }
}

fn ring(side: u32, number: u32, inner: f64, outer: f64) -> Asked {
    let side = f64::from(side);
    let (cy, cx) = (side / 2.0 - 0.7, side / 2.0 + 0.4);
    Asked::Virtual(format!("ring{number}=ring:{cy},{cx},{},{}", inner * side, outer * side))
}

fn weights(side: u32, number: u32) -> impl Iterator<Item = f32> {
    (0..side * side).map(move |at| (f64::from((at * 7919 + number * 104_729) % 65_521) / 65_521.0 - 0.4) as f32)
}
