//! A 4D-STEM scan of a specimen that does not exist, electron by electron.
//!
//! # Place in the path
//! `specimen` says what the beam meets at every scan position; `pattern` draws the electrons of one frame from the
//! distribution that follows. Detector protocols encode the counts; the live images of a receiver show the specimen.
//!
//! # Invariants
//! - I1: a frame depends on the plan and its position only: equal seeds give equal frames in any order, on any thread.
//! - I2: the mean pattern moves *up* the gradient of the projected potential, for electrons are drawn to the nuclei.
//! - I3: a scan position inside an atomic column sends more electrons to high angles the heavier the column is.
//!
//! # Units
//! Positions are scan pixels `(y, x)` from the first position; patterns are detector pixels `(y, x)`; dose is
//! electrons per frame.
//!
//! # Limits
//! At most 4 194 304 scan positions are kept in memory (20 bytes each); a dose of at most 10 million per frame.
//!
//! # Why this way
//! A multislice calculation takes a Fourier transform per position, seconds to minutes in total. Drawing a few
//! thousand electrons from a mixture of disks and tails takes tens of microseconds and has the right noise for free.

mod pattern;
mod specimen;

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ronchi_pipeline::{NavShape, SigShape};

use pattern::Optics;
use specimen::Scene;

const POSITIONS_MAX: u64 = 4 << 20;
const DOSE_MAX: f64 = 1e7;

/// What lies under the beam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Specimen {
    /// Two grains of a crystal with heavy and light columns, a grain boundary, vacancies, dopants and an edge.
    #[default]
    Crystal,
    /// Heavy nanoparticles on an amorphous film.
    Particles,
}

impl FromStr for Specimen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "crystal" => Ok(Self::Crystal),
            "particles" => Ok(Self::Particles),
            _ => Err(format!("`{text}` is not one of crystal, particles")),
        }
    }
}

impl fmt::Display for Specimen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crystal => "crystal",
            Self::Particles => "particles",
        })
    }
}

/// What to synthesise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SynthPlan {
    /// Scan rows and positions per row.
    pub scan: NavShape,
    /// Detector shape of the image before encoding.
    pub detector: SigShape,
    /// Mean number of electrons per frame; those scattered past the detector's edge count too.
    pub dose: f64,
    /// What lies under the beam.
    pub specimen: Specimen,
    /// Equal seeds give equal scans.
    pub seed: u64,
}

/// A scan that can be asked for any of its frames.
pub struct Synthesis {
    plan: SynthPlan,
    scene: Scene,
    optics: Optics,
}

impl Synthesis {
    /// Builds the specimen; frames are drawn later, one by one.
    pub fn new(plan: SynthPlan) -> Result<Self> {
        let SynthPlan { scan, detector, dose, .. } = plan;
        let positions = scan.position_count();
        ensure!(
            (1..=POSITIONS_MAX).contains(&positions),
            "scan of {}x{} positions: the simulator takes 1 to {POSITIONS_MAX}",
            scan.height,
            scan.width
        );
        ensure!(detector.pixel_count() > 0, "detector {}x{} has no pixels", detector.height, detector.width);
        ensure!(
            dose.is_finite() && (0.0..=DOSE_MAX).contains(&dose),
            "{dose} electrons per frame: allowed are 0 to {DOSE_MAX}"
        );
        let scene = match plan.specimen {
            Specimen::Crystal => specimen::crystal(scan, plan.seed),
            Specimen::Particles => specimen::particles(scan, plan.seed),
        };
        Ok(Self { plan, scene, optics: Optics::new(detector) })
    }

    /// The plan this scan was made from.
    pub fn plan(&self) -> &SynthPlan {
        &self.plan
    }

    /// Number of frames of the scan.
    pub fn frame_count(&self) -> u64 {
        self.plan.scan.position_count()
    }

    /// Radius of the bright-field disk, in detector pixels; its centre is that of the detector.
    pub fn disk_radius_px(&self) -> f64 {
        f64::from(self.optics.radius_px())
    }

    /// Gradient of the projected potential at a position, `(y, x)`, in units of the steepest slope of the specimen.
    pub fn gradient(&self, position: u64) -> (f64, f64) {
        let spot = self.scene.spot(position % self.frame_count());
        (f64::from(spot.slope_y), f64::from(spot.slope_x))
    }

    /// Draws the frame of a position (modulo the scan) into `counts`, row-major `(y, x)`; returns the electrons caught.
    pub fn draw(&self, position: u64, counts: &mut [u32]) -> u64 {
        assert_eq!(counts.len() as u64, self.plan.detector.pixel_count(), "counts are one image");
        counts.fill(0);
        let position = position % self.frame_count();
        // I1: one generator per position.
        let mut rng = StdRng::seed_from_u64(self.plan.seed ^ (position + 1).wrapping_mul(0xD1B5_4A32_D192_ED03));
        let beam = self.scene.beam(position);
        self.optics.draw(&beam, self.plan.dose, &mut rng, counts)
    }
}

#[cfg(test)]
mod tests;
