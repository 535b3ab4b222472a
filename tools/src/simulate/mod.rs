//! Detector simulators: the real protocol on real sockets, with a plausible specimen behind it.
//!
//! # Place in the path
//! Stands where the detector stands. `ronchi simulate`, `ronchi demo`, whole-system tests and benchmarks start one and
//! point a receiver at it; nothing of the receiver is shared, so that one side can check the other.
//!
//! - [`merlin`] speaks the protocol of a Quantum Detectors Merlin, [`dectris`] those of DECTRIS detectors.
//! - [`fault`] says what can go wrong.
//! - [`synth`] computes a 4D-STEM scan electron by electron.

mod args;
pub mod dectris;
mod dectris_args;
pub mod fault;
pub mod merlin;
mod pace;
mod push;
pub mod synth;
mod tally;
pub mod tiles;
mod tiles_args;

pub use args::SimulateMerlinArgs;
pub use dectris_args::SimulateDectrisArgs;
pub use tally::SimulatorReport;
pub use tiles_args::SimulateTilesArgs;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Options of `ronchi simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    #[command(subcommand)]
    detector: Detector,
}

#[derive(Debug, Subcommand)]
enum Detector {
    /// A Quantum Detectors Merlin, on its control and data sockets
    Merlin(Box<SimulateMerlinArgs>),
    /// A DECTRIS detector, on its streams and its REST interface
    Dectris(Box<SimulateDectrisArgs>),
    /// One readout computer of a tiled detector (docs/tile-stream.md)
    Tiles(SimulateTilesArgs),
}

impl SimulateArgs {
    /// Runs the simulator until it has sent what it should, or is stopped.
    pub fn run(self) -> Result<()> {
        match self.detector {
            Detector::Merlin(args) => args.run(),
            Detector::Dectris(args) => args.run(),
            Detector::Tiles(args) => args.run(),
        }
    }
}
