//! One diffraction pattern: a mixture of the direct disk, Bragg disks, diffuse scattering and a high-angle tail.
//!
//! ```text
//!        .  o  .          direct disk: shifted and tilted up the slope of the potential
//!      o  (   )  o        o Bragg disks of the grain: first and second order, overlapping the direct disk, where
//!        .  o  .            they interfere with the phase of the beam in the unit cell
//!    tail: out to the edge of the detector and beyond, ~ 1/q^4, grows with the strength of the column
//! ```
//!
//! # Units
//! Detector pixels for the detector; lengths inside the mixture are in disk radii.

use std::f32::consts::TAU;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Poisson};
use ronchi_pipeline::SigShape;

use super::specimen::Beam;

/// Length of the first-order reciprocal lattice vector: less than 2, so that disks overlap.
const BRAGG_RADII: f32 = 1.36;
/// Reciprocal lattice points in units of the first order, with their share of the diffracted electrons.
const BRAGG: [(f32, f32, f32); 12] = [
    (1.0, 0.0, 0.15),
    (-1.0, 0.0, 0.15),
    (0.0, 1.0, 0.15),
    (0.0, -1.0, 0.15),
    (1.0, 1.0, 0.065),
    (1.0, -1.0, 0.065),
    (-1.0, 1.0, 0.065),
    (-1.0, -1.0, 0.065),
    (2.0, 0.0, 0.035),
    (-2.0, 0.0, 0.035),
    (0.0, 2.0, 0.035),
    (0.0, -2.0, 0.035),
];
/// Rigid shift of all disks at the steepest slope.
const SHIFT_RADII: f32 = 0.09;
/// Tilt of the intensity inside the direct disk at the steepest slope.
const TILT: f32 = 0.45;
/// Depth of the interference where disks overlap.
const INTERFERENCE: f32 = 0.35;
/// Scale of the high-angle tail.
const TAIL_RADII: f32 = 1.5;

/// Shares of the electrons that go to each part, cumulative.
struct Shares {
    tail: f32,
    diffuse: f32,
    bragg: f32,
}

/// The microscope as the detector sees it.
pub(super) struct Optics {
    shape: SigShape,
    radius_px: f32,
    centre_y_px: f32,
    centre_x_px: f32,
}

impl Optics {
    /// A disk of 17 % of the shorter detector edge, in the middle.
    pub(super) fn new(shape: SigShape) -> Self {
        Self {
            shape,
            radius_px: (0.17 * shape.height.min(shape.width) as f32).max(0.5),
            centre_y_px: (shape.height as f32 - 1.0) / 2.0,
            centre_x_px: (shape.width as f32 - 1.0) / 2.0,
        }
    }

    pub(super) fn radius_px(&self) -> f32 {
        self.radius_px
    }

    /// Draws one frame into zeroed counts; returns the electrons that met the detector.
    pub(super) fn draw(&self, beam: &Beam, dose: f64, rng: &mut StdRng, counts: &mut [u32]) -> u64 {
        // A Poisson distribution needs a positive mean; `SynthPlan` bounds it above.
        let electrons = Poisson::new(dose).map_or(0, |poisson| poisson.sample(rng) as u64);
        let shares = shares(beam);
        let (sin, cos) = beam.angle.sin_cos();
        let (width, height) = (self.shape.width as f32, self.shape.height as f32);
        let blur_px = 0.35 + 0.012 * self.radius_px;
        let mut caught = 0;
        for _ in 0..electrons {
            let pick = rng.random::<f32>();
            let (y, x) = if pick < shares.tail {
                tail(rng)
            } else if pick < shares.diffuse {
                let (y, x) = bells(rng);
                (0.95 * y, 0.95 * x)
            } else if pick < shares.bragg {
                bragg_disk(rng, sin, cos)
            } else {
                direct_disk(rng, beam, sin, cos)
            };
            let y = y + SHIFT_RADII * beam.spot.slope_y;
            let x = x + SHIFT_RADII * beam.spot.slope_x;
            let (blur_y, blur_x) = bells(rng);
            let y_px = self.centre_y_px + self.radius_px * y + blur_px * blur_y + 0.5;
            let x_px = self.centre_x_px + self.radius_px * x + blur_px * blur_x + 0.5;
            if y_px >= 0.0 && x_px >= 0.0 && y_px < height && x_px < width {
                counts[y_px as usize * self.shape.width as usize + x_px as usize] += 1;
                caught += 1;
            }
        }
        caught
    }
}

fn shares(beam: &Beam) -> Shares {
    let spot = &beam.spot;
    let tail = (0.004 + 0.02 * spot.thickness + 0.30 * spot.strength).min(0.7);
    let diffuse = tail + (0.012 + 0.09 * spot.thickness).min(0.25);
    let bragg = diffuse + (0.075 * spot.thickness * beam.diffraction).min(0.13);
    Shares { tail, diffuse, bragg }
}

/// Three independent uniform variables in 0..1 with 21 bits each, from one draw: generators are most of the cost.
fn triple(rng: &mut StdRng) -> [f32; 3] {
    let bits = rng.next_u64();
    [0, 21, 42].map(|shift| ((bits >> shift) & 0x1F_FFFF) as f32 / (1 << 21) as f32)
}

/// A point of the unit disk.
fn disk(rng: &mut StdRng) -> (f32, f32) {
    loop {
        let [y, x, _] = triple(rng).map(|u| 2.0 * u - 1.0);
        if y * y + x * x < 1.0 {
            return (y, x);
        }
    }
}

/// Two independent bell-shaped variables of mean 0 and variance 1: sums of three uniform ones, never beyond 3.
fn bells(rng: &mut StdRng) -> (f32, f32) {
    let bits = rng.next_u64();
    let sum = |shift: u32| (0..3).map(|part| (bits >> (shift + 10 * part)) & 0x3FF).sum::<u64>() as f32;
    ((sum(0) + 1.5) / 512.0 - 3.0, (sum(30) + 1.5) / 512.0 - 3.0)
}

/// Thermal diffuse and Rutherford scattering: density 1/(r^2 + r0^2)^2, by inversion.
fn tail(rng: &mut StdRng) -> (f32, f32) {
    let [share, turn, _] = triple(rng);
    let radius = TAIL_RADII * (share / (1.0 - share).max(1e-6)).sqrt();
    let (sin, cos) = (TAU * turn).sin_cos();
    (radius * sin, radius * cos)
}

/// One of the Bragg disks of a lattice turned by the angle with this sine and cosine.
fn bragg_disk(rng: &mut StdRng, sin: f32, cos: f32) -> (f32, f32) {
    let mut pick = rng.random::<f32>();
    let mut order = BRAGG[0];
    for candidate in BRAGG {
        order = candidate;
        pick -= candidate.2;
        if pick < 0.0 {
            break;
        }
    }
    let (u, v) = (BRAGG_RADII * order.0, BRAGG_RADII * order.1);
    let (y, x) = disk(rng);
    (y + u * sin + v * cos, x + u * cos - v * sin)
}

/// The direct disk, tilted up the slope and modulated where the first-order disks overlap it.
fn direct_disk(rng: &mut StdRng, beam: &Beam, sin: f32, cos: f32) -> (f32, f32) {
    let (tilt_y, tilt_x) = (TILT * beam.spot.slope_y, TILT * beam.spot.slope_x);
    let depth = INTERFERENCE * (beam.spot.thickness * beam.diffraction).min(1.0);
    // Towards the column: the overlap on its side brightens, the opposite one darkens.
    let waves = [-depth * beam.phases[0].sin(), -depth * beam.phases[1].sin()];
    let ceiling = 1.0 + tilt_y.abs() + tilt_x.abs() + waves[0].abs() + waves[1].abs();
    loop {
        let [y, x, height] = triple(rng);
        let (y, x) = (2.0 * y - 1.0, 2.0 * x - 1.0);
        if y * y + x * x >= 1.0 {
            continue;
        }
        // Along the lattice vectors.
        let along = [x * cos + y * sin, y * cos - x * sin];
        let mut weight = 1.0 + tilt_y * y + tilt_x * x;
        for (axis, wave) in waves.into_iter().enumerate() {
            let across = along[1 - axis];
            let inside = |centre: f32| (along[axis] - centre).powi(2) + across * across < 1.0;
            if inside(BRAGG_RADII) {
                weight += wave;
            } else if inside(-BRAGG_RADII) {
                weight -= wave;
            }
        }
        if height * ceiling < weight {
            return (y, x);
        }
    }
}
