//! `ronchi demo`: a simulated detector, a receiver and live images, nothing to configure.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::output::{note_line, say, say_line};
use anyhow::{Context, Result};
use clap::Args;
use ronchi_config::{DataPlan, Limits, LinkPlan, LivePlan, Plan, ScanPlan, SourcePlan};
use ronchi_pipeline::reduce::{Reduction, VirtualDetector};
use ronchi_pipeline::{NavShape, SigShape};

use crate::live_ports::{LiveArgs, Wanted};
use crate::receiver::{Options, Receiver};
use crate::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, TriggerMode};
use crate::simulate::synth::{Specimen, SynthPlan};
use crate::{progress, stop};

/// Dose of the simulated scan: a quick look at a robust specimen.
const ELECTRONS_PER_FRAME: f64 = 2000.0;
/// Radius of the simulated bright-field disk, as a share of the detector's width.
const DISK_RADIUS: f64 = 0.17;
/// Time between two scans.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `ronchi demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Frames per second of the simulated detector
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Positions along each side of the scan
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=1024))]
    scan: u32,
    /// Pixels along each side of the detector
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(16..=512))]
    detector: u32,
    /// Keep the recorded data sets in this directory (default: a temporary one, removed at the end)
    #[arg(long)]
    keep: Option<PathBuf>,
    #[command(flatten)]
    live: LiveArgs,
}

impl DemoArgs {
    /// Runs the demonstration; exit code 0 if no frame was lost.
    pub fn run(self) -> Result<ExitCode> {
        let temporary = tempfile::tempdir().context("make a temporary directory")?;
        let directory = self.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
        note_line!("Preparing a simulated specimen ...");
        let simulator = MerlinSimulator::start(self.simulation())?;
        let plan = self.plan(directory, &simulator.data_address, &self.live.wanted()?);
        let stop = stop::on_signals()?;
        let receiver = Receiver::start(plan, Options { series_max: None, exact_name: false, stop: Arc::clone(&stop) })?;
        self.introduce(&receiver);
        let bar = progress::show(receiver.board(), true);
        let timer = stop_after(Duration::from_secs(self.seconds), Arc::clone(&stop))?;
        let mut lost = 0;
        for summary in receiver.summaries() {
            // The last scan is cut short by the end of the demonstration: what did not come of it is not lost.
            lost += if summary.state == "complete" { summary.frames.missing } else { 0 };
            bar.suspend(|| say!("{summary}"));
        }
        bar.finish();
        let result = receiver.join();
        let _ = timer.join(); // It only sets a flag.
        simulator.stop();
        result?;
        say_line!("{}", if lost == 0 { "No frame was lost.".into() } else { format!("{lost} FRAMES WERE LOST.") });
        if let Some(directory) = &self.keep {
            say_line!("The data sets are in {}.", directory.display());
        }
        Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn introduce(&self, receiver: &Receiver) {
        note_line!("{}", receiver.describe());
        if let Some(address) = receiver.http_address() {
            note_line!("Look:    http://{address}/");
            note_line!("  or:    ronchi watch http://{address} --image adf");
        }
        if let Some(endpoint) = receiver.stream_endpoint() {
            note_line!("Listen:  {endpoint} (ZMQ SUB, see docs/live-stream.md)");
        }
        note_line!("Ends after {} s, or with Ctrl-C.\n", self.seconds);
    }

    fn simulation(&self) -> MerlinSimulation {
        let plan = SynthPlan {
            scan: NavShape { height: self.scan, width: self.scan },
            detector: SigShape { height: self.detector, width: self.detector },
            dose: ELECTRONS_PER_FRAME,
            specimen: Specimen::Particles,
            seed: 1,
        };
        let frames = FrameSource::Synthetic { plan, pixels: MerlinPixels::U16, layout: ChipLayout::Single };
        MerlinSimulation {
            trigger: TriggerMode::Now,
            rate_hz: f64::from(self.rate),
            pause: PAUSE,
            ..MerlinSimulation::new(frames)
        }
    }

    fn plan(&self, directory: PathBuf, data: &std::net::SocketAddr, live: &Wanted) -> Plan {
        let host = data.ip().to_string();
        let source = SourcePlan::Merlin { host, data_port: data.port(), control: None };
        Plan {
            data: DataPlan { directory, volumes: Vec::new(), name: "demo".into(), record: true },
            links: vec![LinkPlan { source, region: None }],
            detector: None,
            scan: ScanPlan::default(),
            conditions: ronchi_pipeline::reduce::Conditions::default(),
            reductions: self.reductions(),
            live: LivePlan { zmq: live.zmq.clone(), http: live.http, ..LivePlan::default() },
            limits: Limits::default(),
        }
    }

    /// Bright field, annular dark field, centre of mass and the mean pattern of the simulated specimen.
    fn reductions(&self) -> Vec<Reduction> {
        let centre = f64::from(self.detector / 2);
        let disk = DISK_RADIUS * f64::from(self.detector);
        let named = |name: &str, detector| Reduction::virtual_detector(name, detector);
        vec![
            named("bf", VirtualDetector::Disk { cy: centre, cx: centre, radius: disk }),
            named("adf", VirtualDetector::Ring { cy: centre, cx: centre, inner: disk * 1.5, outer: centre }),
            Reduction::total(),
            Reduction::centre_of_mass(),
            Reduction::sum(),
        ]
    }
}

fn stop_after(time: Duration, stop: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>> {
    let started = Instant::now();
    let timer = std::thread::Builder::new().name("timer".into());
    Ok(timer.spawn(move || {
        while started.elapsed() < time && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::SeqCst);
    })?)
}
