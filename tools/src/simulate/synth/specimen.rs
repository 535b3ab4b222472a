//! What the beam meets at each scan position: slope of the potential, scattering strength, thickness, grain.
//!
//! # Units
//! Lengths are scan pixels. Slope and strength are relative: 1 is the steepest slope, and the strength of a full column
//! of the heavy kind.

use std::f32::consts::{PI, TAU};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ronchi_pipeline::NavShape;

/// One scan position of a specimen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spot {
    /// Slope of the projected potential along `y`.
    pub(super) slope_y: f32,
    /// Slope of the projected potential along `x`.
    pub(super) slope_x: f32,
    /// How much goes to high angles.
    pub(super) strength: f32,
    /// Amount of material, 0 in vacuum, about 1 inside.
    pub(super) thickness: f32,
    /// Index of the grain, 0 for none.
    grain: u16,
}

/// A crystal grain: a square lattice.
#[derive(Debug, Clone, Copy)]
struct Grain {
    angle: f32,
    origin_y: f32,
    origin_x: f32,
    period: f32,
    /// How strongly it diffracts; particles lie far from or close to a zone axis.
    diffraction: f32,
}

/// What the beam sees at one position, lattice included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beam {
    /// The specimen there.
    pub(super) spot: Spot,
    /// Direction of the first lattice vector, radians from `x` towards `y`.
    pub(super) angle: f32,
    /// Phases of the beam in the unit cell along both lattice vectors, radians.
    pub(super) phases: [f32; 2],
    /// How strongly the lattice diffracts, 0 for none.
    pub(super) diffraction: f32,
}

/// A specimen seen through a scan.
pub(super) struct Scene {
    width: u64,
    spots: Vec<Spot>,
    grains: Vec<Grain>,
}

impl Scene {
    pub(super) fn spot(&self, position: u64) -> &Spot {
        // Positions are below 2^22 and taken modulo the scan by the caller.
        &self.spots[position as usize]
    }

    pub(super) fn beam(&self, position: u64) -> Beam {
        let spot = *self.spot(position);
        let Some(grain) = spot.grain.checked_sub(1).and_then(|index| self.grains.get(usize::from(index))) else {
            return Beam { spot, angle: 0.0, phases: [0.0; 2], diffraction: 0.0 };
        };
        let (y, x) = ((position / self.width) as f32 - grain.origin_y, (position % self.width) as f32 - grain.origin_x);
        let (sin, cos) = grain.angle.sin_cos();
        let phase = |along: f32| TAU * along / grain.period;
        let phases = [phase(x * cos + y * sin), phase(y * cos - x * sin)];
        Beam { spot, angle: grain.angle, phases, diffraction: grain.diffraction }
    }
}

/// Maps over the scan while a specimen is put together.
struct Canvas {
    height: usize,
    width: usize,
    potential: Vec<f32>,
    strength: Vec<f32>,
    thickness: Vec<f32>,
    grain: Vec<u16>,
}

impl Canvas {
    fn new(scan: NavShape) -> Self {
        let (height, width) = (scan.height as usize, scan.width as usize);
        let zeros = vec![0.0; height * width];
        Self {
            height,
            width,
            potential: zeros.clone(),
            strength: zeros.clone(),
            thickness: zeros,
            grain: vec![0; height * width],
        }
    }

    /// Adds a round column: a Gaussian of the potential, and a narrower one of the strength.
    fn add_column(&mut self, y: f32, x: f32, sigma: f32, potential: f32, strength: f32) {
        let reach = 3.5 * sigma;
        let rows = span(y, reach, self.height);
        let columns = span(x, reach, self.width);
        for row in rows {
            for column in columns.clone() {
                let square = (row as f32 - y).powi(2) + (column as f32 - x).powi(2);
                let at = row * self.width + column;
                self.potential[at] += potential * (-square / (2.0 * sigma * sigma)).exp();
                self.strength[at] += strength * (-square / (1.4 * sigma * sigma)).exp();
            }
        }
    }

    /// Sets every position from its coordinates.
    fn paint(&mut self, mut value: impl FnMut(f32, f32) -> (f32, u16)) {
        for row in 0..self.height {
            for column in 0..self.width {
                let at = row * self.width + column;
                (self.thickness[at], self.grain[at]) = value(row as f32, column as f32);
            }
        }
    }

    /// Differentiates the potential and scales the steepest slope to 1.
    fn finish(self, grains: Vec<Grain>) -> Scene {
        let Self { height, width, potential, strength, thickness, grain } = self;
        let at = |row: usize, column: usize| potential[row.min(height - 1) * width + column.min(width - 1)];
        let mut spots = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                let index = row * width + column;
                spots.push(Spot {
                    slope_y: at(row + 1, column) - at(row.saturating_sub(1), column),
                    slope_x: at(row, column + 1) - at(row, column.saturating_sub(1)),
                    strength: strength[index],
                    thickness: thickness[index],
                    grain: grain[index],
                });
            }
        }
        let steepest = spots.iter().map(|s| s.slope_y.hypot(s.slope_x)).fold(0.0, f32::max);
        if steepest > 0.0 {
            for spot in &mut spots {
                spot.slope_y /= steepest;
                spot.slope_x /= steepest;
            }
        }
        Scene { width: width as u64, spots, grains }
    }
}

/// Grid indices within `reach` of `centre`, inside `0..end`.
fn span(centre: f32, reach: f32, end: usize) -> std::ops::Range<usize> {
    // Saturating float-to-integer casts clip at 0.
    let first = (centre - reach).ceil() as usize;
    first.min(end)..((centre + reach + 1.0).floor().max(0.0) as usize).min(end)
}

fn uniform(rng: &mut StdRng, from: f32, to: f32) -> f32 {
    from + (to - from) * rng.random::<f32>()
}

fn chance(rng: &mut StdRng, probability: f32) -> bool {
    rng.random::<f32>() < probability
}

/// Two grains with a boundary between them and an edge towards vacuum.
pub(super) fn crystal(scan: NavShape, seed: u64) -> Scene {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xC215_7A1E);
    let (height, width) = (scan.height as f32, scan.width as f32);
    let period = (height.min(width) / 13.0).clamp(5.0, 28.0);
    let phase = uniform(&mut rng, 0.0, TAU);
    let boundary = move |y: f32| width * (0.53 + 0.05 * (2.3 * y / height + phase).sin()) + 0.16 * (y - 0.5 * height);
    // Depth below the edge: a curved corner at the lower left is vacuum.
    let (edge_y, edge_x) = (1.12 * height, -0.12 * width);
    let edge_radius = 0.40 * height.min(width);
    let depth =
        move |y: f32, x: f32| (y - edge_y).hypot(x - edge_x) - edge_radius - 0.3 * period * (0.9 * x / period).sin();
    let thickness =
        move |y: f32, x: f32| (1.0 / (1.0 + (-4.0 * depth(y, x) / period).exp())) * (1.05 - 0.30 * y / height);
    let grains: Vec<Grain> = [0.14, -0.24]
        .into_iter()
        .map(|angle: f32| Grain {
            angle,
            origin_y: height / 2.0 + uniform(&mut rng, 0.0, period),
            origin_x: width / 2.0 + uniform(&mut rng, 0.0, period),
            period,
            diffraction: 1.0,
        })
        .collect();
    let mut canvas = Canvas::new(scan);
    let side = move |y: f32, x: f32| x - boundary(y);
    canvas.paint(|y, x| {
        let grain = if thickness(y, x) < 0.25 { 0 } else { 1 + u16::from(side(y, x) > 0.0) };
        (thickness(y, x), grain)
    });
    for (index, grain) in grains.iter().enumerate() {
        let is_here = |y: f32, x: f32| {
            let inside = if index == 0 { -side(y, x) } else { side(y, x) };
            inside > 0.22 * period && depth(y, x) > 0.0
        };
        fill_lattice(&mut canvas, grain, &mut rng, is_here, thickness);
    }
    let band = |y: f32, x: f32| depth(y, x) > -1.6 * period && depth(y, x) < 0.5 * period;
    let amorphous = (scan.position_count() as f32 / (0.12 * period * period)) as u32;
    for _ in 0..amorphous {
        let (y, x) = (uniform(&mut rng, 0.0, height), uniform(&mut rng, 0.0, width));
        if band(y, x) || chance(&mut rng, 0.15) {
            canvas.add_column(y, x, 0.16 * period, 0.05, 0.05);
        }
    }
    canvas.finish(grains)
}

/// Puts heavy columns on the corners and light ones in the centres of a grain's cells, with defects.
fn fill_lattice(
    canvas: &mut Canvas,
    grain: &Grain,
    rng: &mut StdRng,
    is_here: impl Fn(f32, f32) -> bool,
    thickness: impl Fn(f32, f32) -> f32,
) {
    let (sin, cos) = grain.angle.sin_cos();
    let reach = ((canvas.height.max(canvas.width) as f32 / grain.period) as i32) + 2;
    for i in -reach..=reach {
        for j in -reach..=reach {
            for is_light in [false, true] {
                let centre = if is_light { 0.5 } else { 0.0 };
                let (u, v) = ((i as f32 + centre) * grain.period, (j as f32 + centre) * grain.period);
                let y = grain.origin_y + u * sin + v * cos + 0.02 * grain.period * uniform(rng, -1.0, 1.0);
                let x = grain.origin_x + u * cos - v * sin + 0.02 * grain.period * uniform(rng, -1.0, 1.0);
                let is_vacant = chance(rng, if is_light { 0.035 } else { 0.012 });
                let is_dopant = is_light && chance(rng, 0.02);
                if is_vacant || !is_here(y, x) {
                    continue;
                }
                // Atomic numbers near 56, 30 and 79: potential grows with Z^0.8, high-angle strength with Z^1.7.
                let (potential, strength) = match (is_light, is_dopant) {
                    (false, _) => (1.0, 1.0),
                    (true, false) => (0.51, 0.34),
                    (true, true) => (1.3, 1.8),
                };
                let t = thickness(y, x);
                canvas.add_column(y, x, 0.175 * grain.period, potential * t, strength * t.powf(1.2));
            }
        }
    }
}

/// Nearly round particles of several sizes and orientations on an amorphous film.
pub(super) fn particles(scan: NavShape, seed: u64) -> Scene {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x9A27_1C1E);
    let (height, width) = (scan.height as f32, scan.width as f32);
    let extent = height.min(width);
    let mut canvas = Canvas::new(scan);
    canvas.paint(|_, _| (0.18, 0));
    let grain_size = (0.02 * extent).max(1.0);
    let lumps = (scan.position_count() as f32 / (grain_size * grain_size)) as u32;
    for _ in 0..lumps {
        let (y, x) = (uniform(&mut rng, 0.0, height), uniform(&mut rng, 0.0, width));
        canvas.add_column(y, x, grain_size, uniform(&mut rng, -0.06, 0.06), uniform(&mut rng, 0.0, 0.012));
    }
    let mut placed: Vec<(f32, f32, f32)> = Vec::new();
    let mut grains = Vec::new();
    for _ in 0..400 {
        let radius = extent * (0.025 + 0.105 * rng.random::<f32>().powi(2));
        let (y, x) = (uniform(&mut rng, 0.0, height), uniform(&mut rng, 0.0, width));
        let is_free = placed.iter().all(|&(py, px, pr)| (y - py).hypot(x - px) > 0.93 * (pr + radius));
        if !is_free || placed.len() >= 36 {
            continue;
        }
        placed.push((y, x, radius));
        grains.push(Grain {
            angle: uniform(&mut rng, 0.0, PI / 2.0),
            origin_y: y,
            origin_x: x,
            period: (0.035 * extent).max(3.0),
            diffraction: uniform(&mut rng, 0.1, 1.8),
        });
        add_particle(&mut canvas, y, x, radius, extent, grains.len() as u16, uniform(&mut rng, 0.0, TAU));
    }
    canvas.finish(grains)
}

/// Adds one particle: the height of a ball with flattened sides, softened at the rim.
fn add_particle(canvas: &mut Canvas, y: f32, x: f32, radius: f32, extent: f32, grain: u16, turn: f32) {
    let full = 0.13 * extent; // The largest radius: thickness 1.
    for row in span(y, 1.2 * radius, canvas.height) {
        for column in span(x, 1.2 * radius, canvas.width) {
            let (dy, dx) = (row as f32 - y, column as f32 - x);
            let facets = 1.0 + 0.045 * (6.0 * (dy.atan2(dx) + turn)).cos();
            let distance = dy.hypot(dx) / (radius * facets);
            let fall = 1.0 - distance * distance;
            // A hyperbola instead of the root keeps the slope finite at the rim.
            let softness = 0.12;
            let lift = (fall + (fall * fall + softness * softness).sqrt()) / 2.0;
            let thick = (lift.sqrt() - 0.2).max(0.0) * radius / full;
            if thick > 0.0 {
                let at = row * canvas.width + column;
                canvas.potential[at] += 3.0 * thick;
                canvas.strength[at] += 1.3 * thick.powf(1.1);
                canvas.thickness[at] += thick;
                canvas.grain[at] = grain;
            }
        }
    }
}
