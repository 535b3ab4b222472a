//! `ronchi simulate tiles`: one readout computer that sends its part of a synthetic detector as a tile stream.

use crate::output::{note_line, say_line};
use anyhow::{Context, Result, ensure};
use clap::Args;
use ronchi_pipeline::{Encoding, NavShape, Region, SigShape};

use super::args::parse_shape;
use super::pace::Pacer;
use super::synth::{Specimen, SynthPlan, Synthesis};
use super::tiles::{TileFaults, TileSender, TileStream};

/// Options of `ronchi simulate tiles`.
#[derive(Debug, Args)]
pub struct SimulateTilesArgs {
    /// Endpoint of the receiver, e.g. tcp://127.0.0.1:7001
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Listen at the endpoint instead of connecting to it
    #[arg(long)]
    bind: bool,
    /// Name of the run; the same for all senders of one detector
    #[arg(long, default_value = "simulated")]
    series: String,
    /// Shape of the whole detector
    #[arg(long, value_name = "HxW", default_value = "256x256", value_parser = parse_shape)]
    detector: (u32, u32),
    /// The part that is sent, in detector pixels; default is all of it
    #[arg(long, value_name = "Y,X,H,W", value_delimiter = ',')]
    region: Vec<u32>,
    /// Scan shape
    #[arg(long, value_name = "NYxNX", default_value = "64x64", value_parser = parse_shape)]
    scan: (u32, u32),
    /// Frames per second
    #[arg(long, value_name = "FRAMES_PER_S", default_value_t = 1000.0)]
    rate: f64,
    /// Mean electrons per frame
    #[arg(long, value_name = "ELECTRONS", default_value_t = 1500.0)]
    dose: f64,
    /// Seed of specimen and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Probability per frame of not being sent
    #[arg(long, default_value_t = 0.0)]
    lose: f64,
    /// Form of the frames: raw, or bslz4, bit-shuffled LZ4 as detectors compress
    #[arg(long, default_value = "raw", value_parser = parse_encoding)]
    encoding: Encoding,
    /// Probability per frame of being sent so that it does not decode, with bslz4
    #[arg(long, default_value_t = 0.0)]
    spoil: f64,
}

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    Encoding::from_name(text).ok_or_else(|| "expected raw or bslz4".to_owned())
}

impl SimulateTilesArgs {
    /// Sends one series and says what was sent.
    pub fn run(self) -> Result<()> {
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate {}: expected more than 0", self.rate);
        let detector = SigShape { height: self.detector.0, width: self.detector.1 };
        let region = match *self.region.as_slice() {
            [] => detector.region(),
            [y, x, height, width] => Region { y, x, height, width },
            _ => anyhow::bail!("--region takes four numbers: Y,X,H,W"),
        };
        ensure!(region.fits(detector), "--region {region:?} is not inside the detector {detector:?}");
        let scan = NavShape { height: self.scan.0, width: self.scan.1 };
        let plan = SynthPlan { scan, detector, dose: self.dose, specimen: Specimen::Crystal, seed: self.seed };
        let synthesis = Synthesis::new(plan)?;
        let open = if self.bind { TileSender::bind } else { TileSender::connect };
        let sender = open(&self.endpoint)?;
        let whole = TileStream::whole(&self.series, scan.position_count(), detector.height, detector.width);
        let stream = TileStream { region, scan: Some(scan), encoding: self.encoding, ..whole };
        note_line!("sending {} frames of {region:?} to {}", stream.frame_count, sender.endpoint());
        let mut counts = vec![0; usize::try_from(detector.pixel_count()).context("detector size")?];
        let paint = |frame, pixels: &mut [u8]| {
            synthesis.draw(frame, &mut counts);
            cut(&counts, detector, region, pixels);
        };
        ensure!(self.spoil == 0.0 || self.encoding == Encoding::Bslz4, "--spoil: only compressed frames can be spoilt");
        let faults = TileFaults { seed: self.seed, lose: self.lose, spoil: self.spoil, ..TileFaults::default() };
        let sent = sender.run(&stream, &faults, paint, pace(self.rate))?;
        say_line!("{} frames sent, {} left out", sent.frames, sent.lost.len());
        Ok(())
    }
}

/// Waits before each frame until its time has come; never stops the stream.
fn pace(rate_hz: f64) -> impl FnMut() -> bool {
    let pacer = Pacer::start(rate_hz);
    let mut frame = 0;
    move || {
        pacer.wait_for(frame, || false);
        frame += 1;
        false
    }
}

/// The pixels of one region as little-endian u16, counts above its range cut off.
fn cut(counts: &[u32], detector: SigShape, region: Region, pixels: &mut [u8]) {
    let rows = counts.chunks_exact(detector.width as usize).skip(region.y as usize).take(region.height as usize);
    let wanted = rows.flat_map(|row| &row[region.x as usize..(region.x + region.width) as usize]);
    for (pixel, &count) in pixels.as_chunks_mut().0.iter_mut().zip(wanted) {
        *pixel = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
    }
}
