//! A Quantum Detectors Merlin in software: control and data socket, byte for byte.
//!
//! # Place in the path
//! ```text
//!   control client --6341--> [merlin-sim-ctl]  --arm, trigger, stop-->  Desk
//!   data client    --6342--> [merlin-sim-data] <--order, trigger------  Desk
//!                            HDR, then MQ1 frames from the Supply
//! ```
//! One data client is served at a time; a second waits in the kernel's queue until the first leaves. Its leaving ends
//! the acquisition. Any number of control clients (at most 16 at once) share the variables.
//!
//! # Invariants
//! - I1: equal plans send equal bytes, time stamps and the date in the acquisition header aside.
//! - I2: all threads end when [`Running::stop`] is called or the last run is over, and are joined by [`Running::wait`].
//!
//! # Units
//! Rates are frames per second; sizes are bytes; scan and detector shapes are `(y, x)`.
//!
//! # Why this way
//! Formats are written from the vendor's description, apart from the receiver's decoders, so that a mistake on either
//! side shows. What the description leaves open is decided as follows: an acquisition that is armed without a data
//! client waits for one; one soft trigger releases all frames, however many `NUMFRAMESPERTRIGGER` says; stop and abort
//! both end after the frame on the wire; a command that comes at the wrong moment is answered with error 1.

mod control;
mod desk;
mod encode;
mod format;
mod header;
mod mib;
mod sender;
mod serve;
mod stamp;
mod supply;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};

pub use encode::encode;
pub use format::{ChipLayout, FrameFormat, MerlinPixels};
pub use header::{Announced, acquisition_header, frame_header, prefix};

use control::Variables;
use desk::Desk;
use serve::Server;
use supply::Supply;

use crate::simulate::fault::{Fault, FaultKind};
use crate::simulate::synth::SynthPlan;
use crate::simulate::tally::{SimulatorReport, Tally};

/// What can go wrong with a Merlin.
pub const FAULTS: [FaultKind; 7] = [
    FaultKind::Lose,
    FaultKind::Repeat,
    FaultKind::Swap,
    FaultKind::Truncate,
    FaultKind::Stall,
    FaultKind::Disconnect,
    FaultKind::Garbage,
];

/// Port of the control socket of a real Merlin.
pub const CONTROL_PORT: u16 = 6341;
/// Port of the data socket of a real Merlin.
pub const DATA_PORT: u16 = 6342;

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameSource {
    /// Recorded `.mib` files of one set, sent as they are; the `.hdr` beside them is used where there is one.
    Files(Vec<PathBuf>),
    /// A synthetic scan; the detector shape of the plan is that of the decoded image.
    Synthetic {
        /// Scan, dose, specimen, seed.
        plan: SynthPlan,
        /// Pixel format on the wire.
        pixels: MerlinPixels,
        /// Chip layout.
        layout: ChipLayout,
    },
}

/// What starts an acquisition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerMode {
    /// Control commands arm and trigger, as on a real detector.
    Wait,
    /// A data client gets acquisitions back to back as soon as it connects, until a control client stops them.
    Now,
}

/// A plan for [`MerlinSimulator::start`].
#[derive(Debug, Clone, PartialEq)]
pub struct MerlinSimulation {
    /// What is sent.
    pub frames: FrameSource,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port of the data socket, 0 for any free one.
    pub data_port: u16,
    /// Port of the control socket, 0 for any free one.
    pub control_port: u16,
    /// What starts an acquisition.
    pub trigger: TriggerMode,
    /// With `TRIGGERSTART` 1 to 4: how long after arming the hardware trigger comes; `None` waits for
    /// [`Running::trigger`].
    pub external_trigger_after: Option<Duration>,
    /// Frames per second, 0 for as fast as the link goes.
    pub rate_hz: f64,
    /// Ends by itself after this many acquisitions, cut ones included; 0 for never.
    pub runs: u64,
    /// Time between two acquisitions that follow by themselves.
    pub pause: Duration,
    /// Seed of the faults.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How long a stall lasts.
    pub stall: Duration,
    /// Random bytes sent to every data client before anything else, as old software leaves them behind.
    pub garbage_on_connect_bytes: usize,
    /// Leaves the comma out of the length of control responses, as another simulator does.
    pub short_response_lengths: bool,
    /// Gives recorded frames new sequence numbers and time stamps.
    pub restamp: bool,
    /// Most memory for prepared frames, in bytes.
    pub memory_max_bytes: usize,
}

impl MerlinSimulation {
    /// A faultless detector on ephemeral ports of this machine that waits for commands and sends at full speed.
    pub fn new(frames: FrameSource) -> Self {
        Self {
            frames,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            data_port: 0,
            control_port: 0,
            trigger: TriggerMode::Wait,
            external_trigger_after: None,
            rate_hz: 0.0,
            runs: 0,
            pause: Duration::ZERO,
            seed: 0,
            faults: Vec::new(),
            stall: Duration::from_millis(500),
            garbage_on_connect_bytes: 0,
            short_response_lengths: false,
            restamp: false,
            memory_max_bytes: 256 << 20,
        }
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.rate_hz.is_finite() && (0.0..=1e9).contains(&self.rate_hz),
            "a rate of {} frames per second: allowed are 0 (no limit) to 1e9",
            self.rate_hz
        );
        self.faults.iter().try_for_each(|fault| fault.check(&FAULTS)).map_err(Error::msg)?;
        ensure!(self.garbage_on_connect_bytes <= 64 << 20, "at most 64 MiB of garbage");
        Ok(())
    }
}

/// Starts simulators.
pub struct MerlinSimulator;

impl MerlinSimulator {
    /// Prepares the frames, listens, and returns; clients may connect at once.
    pub fn start(plan: MerlinSimulation) -> Result<Running> {
        plan.check()?;
        let supply = Supply::prepare(&plan)?;
        let listen = |port: u16| {
            TcpListener::bind((plan.host, port)).with_context(|| format!("cannot listen on {}:{port}", plan.host))
        };
        let (data, control) = (listen(plan.data_port)?, listen(plan.control_port)?);
        let (data_address, control_address) = (data.local_addr()?, control.local_addr()?);
        let desk = Desk::new(Variables::new(&supply.properties), plan.trigger);
        desk.watch_listener(data.try_clone()?);
        desk.watch_listener(control.try_clone()?);
        let server = Arc::new(Server { plan, supply, desk, tally: Tally::default() });
        let mut running = Running { data_address, control_address, server, threads: Vec::new() };
        running.spawn("merlin-sim-data", move |server| server.serve_data(&data))?;
        running.spawn("merlin-sim-ctl", move |server| server.serve_control(&control))?;
        Ok(running)
    }
}

/// A simulator at work; dropping it stops it.
pub struct Running {
    /// Where data clients connect.
    pub data_address: SocketAddr,
    /// Where control clients connect.
    pub control_address: SocketAddr,
    server: Arc<Server>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn spawn(&mut self, name: &str, work: impl FnOnce(&Server) + Send + 'static) -> Result<()> {
        let server = Arc::clone(&self.server);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&server))?;
        self.threads.push(thread);
        Ok(())
    }

    /// The hardware trigger line: starts an acquisition that is armed; `false` if none is.
    pub fn trigger(&self) -> bool {
        self.server.desk.trigger()
    }

    /// Frames of one whole acquisition, unless a client asks for another number.
    pub fn frame_count(&self) -> u64 {
        self.server.supply.frame_count
    }

    /// Different frames before they repeat; fewer than [`Running::frame_count`] if they do not fit into memory.
    pub fn distinct_frame_count(&self) -> u64 {
        self.server.supply.distinct_count()
    }

    /// Whether frames are drawn while they are sent.
    pub fn is_drawing(&self) -> bool {
        self.server.supply.is_drawn()
    }

    /// Bytes of one message with a frame, prefix included.
    pub fn message_bytes(&self) -> usize {
        format::PREFIX_BYTES + self.server.supply.frame_bytes
    }

    /// What has been sent so far.
    pub fn report(&self) -> SimulatorReport {
        self.server.tally.report()
    }

    /// Ends acquisitions and connections; returns at once.
    pub fn stop(&self) {
        self.server.desk.end();
    }

    /// Waits until the simulator has ended, by itself or by [`Running::stop`].
    pub fn wait(mut self) -> SimulatorReport {
        self.join();
        self.report()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                // The panic has been printed by its thread; the others must not wait for it.
                self.server.desk.end();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}
