//! A DECTRIS detector in software: STREAM, STREAM2 and the REST interface of its control unit (`docs/detectors/dectris.md`).
//!
//! # Place in the path
//! ```text
//!   client  --HTTP--> [dectris-sim-rest]  --arm, trigger, stop-->  Desk
//!   receiver <-ZMQ--- [dectris-sim-send]  <--series, triggers----  Desk
//!                     start, images from Images, end
//! ```
//! Without a REST interface a series begins as soon as every stream has a receiver.
//!
//! # Invariants
//! - I1: equal plans send equal images and faults; dates and the unique names of series differ.
//! - I2: all threads end when [`Running::stop`] is called or the last series is over, and are joined by [`Running::wait`].
//!
//! # Units
//! Rates are images per second; sizes are bytes; scan and detector shapes are `(y, x)`.
//!
//! # Limits
//! [`QUEUE_MESSAGES`] messages wait in each stream; then sending waits, up to ten seconds. A message that nobody takes by
//! then is dropped and counted, as are those after it until somebody takes one.
//!
//! # Why this way
//! Messages are written from their description, apart from the receiver's parsers, so that a mistake on either side shows.
//! A real control unit drops images when its own memory is full; one that waits a while lets a test of a slow receiver
//! tell losses from slowness.

mod desk;
mod images;
mod keys;
mod rest;
mod sender;
mod series;
mod settings;
mod stream1;
mod stream2;
mod supply;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use serde_json::Value;
use tokio::sync::Notify;

pub use images::{Compression, Dtype, ImageForm};
pub use series::HeaderDetail;

use crate::simulate::fault::{Fault, FaultKind};
use crate::simulate::push::Push;
use crate::simulate::synth::{SynthPlan, Synthesis};
use crate::simulate::tally::{SimulatorReport, Tally};
use desk::Desk;
use images::Images;
use sender::Sender;
use supply::{Recording, Supply};

/// Port of STREAM of a real control unit.
pub const STREAM1_PORT: u16 = 9999;
/// Port of STREAM2 of a real control unit.
pub const STREAM2_PORT: u16 = 31001;
/// Messages a stream keeps before it waits for its receiver.
pub const QUEUE_MESSAGES: i32 = 1000;

/// What can go wrong with a DECTRIS detector.
pub const FAULTS: [FaultKind; 16] = [
    FaultKind::Lose,
    FaultKind::Repeat,
    FaultKind::Swap,
    FaultKind::Truncate,
    FaultKind::Stall,
    FaultKind::Garbage,
    FaultKind::WrongSeries,
    FaultKind::BigEndian,
    FaultKind::WrongHash,
    FaultKind::ZeroHeader,
    FaultKind::Stale,
    FaultKind::SplitHeader,
    FaultKind::Abort,
    FaultKind::LateEnd,
    FaultKind::NoEnd,
    FaultKind::SecondEnd,
];

/// Which streams carry a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StreamFormat {
    /// STREAM.
    Legacy,
    /// STREAM2.
    Cbor,
    /// Both, the same images.
    Both,
}

/// A plan for [`DectrisSimulator::start`].
#[derive(Debug, Clone, PartialEq)]
pub struct DectrisSimulation {
    /// Scan, detector, dose, specimen and seed; the seed is that of the faults too.
    pub images: SynthPlan,
    /// What images are.
    pub form: ImageForm,
    /// Send the frames of this data set instead of drawn ones; see [`Self::replaying`].
    pub replay: Option<PathBuf>,
    /// Which streams are used; with a REST interface, until a client changes it.
    pub format: StreamFormat,
    /// Where STREAM listens; port 0 for any free one.
    pub stream1: SocketAddr,
    /// Where STREAM2 listens; port 0 for any free one.
    pub stream2: SocketAddr,
    /// Where the REST interface listens, port 0 for any free one; without one, series follow each other by themselves.
    pub rest: Option<SocketAddr>,
    /// How much headers say; with a REST interface, until a client changes it.
    pub header_detail: HeaderDetail,
    /// Sent with headers, `null` for nothing.
    pub header_appendix: Value,
    /// Sent with images, `null` for nothing.
    pub image_appendix: Value,
    /// Images per second of series that trigger themselves or are triggered from outside; 0 sends all as fast as they are
    /// taken.
    pub rate_hz: f64,
    /// Ends by itself after this many series; 0 for never.
    pub runs: u64,
    /// Time between two series that follow by themselves.
    pub pause: Duration,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How long a stall lasts, and how late a late end is.
    pub stall: Duration,
    /// Most memory for prepared images, in bytes.
    pub memory_max_bytes: usize,
}

impl DectrisSimulation {
    /// A faultless detector on ephemeral ports of this machine that sends one series by STREAM2, as fast as it is taken.
    pub fn new(images: SynthPlan, form: ImageForm) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            images,
            form,
            replay: None,
            format: StreamFormat::Cbor,
            stream1: any,
            stream2: any,
            rest: None,
            header_detail: HeaderDetail::Basic,
            header_appendix: Value::Null,
            image_appendix: Value::Null,
            rate_hz: 0.0,
            runs: 1,
            pause: Duration::ZERO,
            faults: Vec::new(),
            stall: Duration::from_millis(500),
            memory_max_bytes: 256 << 20,
        }
    }

    /// Sends the frames of a recorded data set instead of drawn ones, in their order; scan, detector and type of pixels become its
    /// own. Errors: it cannot be read, has several tiles or floating-point pixels, or frames are missing.
    pub fn replaying(mut self, dataset: &Path) -> Result<Self> {
        let recording = Recording::open(dataset)?;
        (self.images.scan, self.images.detector) = (recording.scan, recording.detector);
        self.form.dtype = recording.dtype;
        self.replay = Some(dataset.to_owned());
        Ok(self)
    }

    fn supply(&self) -> Result<Supply> {
        Ok(match &self.replay {
            Some(dataset) => Supply::Recorded(Box::new(Recording::open(dataset)?)),
            None => Supply::Drawn(Synthesis::new(self.images)?),
        })
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.rate_hz.is_finite() && (0.0..=1e6).contains(&self.rate_hz),
            "a rate of {} images per second: allowed are 0 (no limit) to 1e6",
            self.rate_hz
        );
        ensure!(
            self.rest.is_none() || self.format != StreamFormat::Both,
            "both streams at once: with a REST interface its client chooses one"
        );
        self.faults.iter().try_for_each(|fault| fault.check(&FAULTS)).map_err(Error::msg)?;
        for kind in self.faults.iter().map(|fault| fault.kind) {
            let is_possible = match kind {
                FaultKind::BigEndian => self.form.dtype != Dtype::U8 && self.replay.is_none(),
                FaultKind::ZeroHeader => self.form.compression == Compression::Bslz4,
                FaultKind::WrongHash | FaultKind::SplitHeader => {
                    self.format != StreamFormat::Cbor || self.rest.is_some()
                }
                _ => true,
            };
            if !is_possible {
                bail!("fault {kind}: images of this type, compression and stream cannot have it");
            }
        }
        Ok(())
    }

    fn uses(&self, stream: StreamFormat) -> bool {
        self.rest.is_some() || self.format == stream || self.format == StreamFormat::Both
    }
}

/// Everything the threads of a simulator share.
struct Server {
    plan: DectrisSimulation,
    images: Images,
    desk: Desk,
    tally: Tally,
    /// Wakes the REST interface at the end.
    ended: Notify,
}

impl Server {
    fn end(&self) {
        self.desk.end();
        self.ended.notify_one();
    }
}

/// Starts simulators.
pub struct DectrisSimulator;

impl DectrisSimulator {
    /// Prepares the images, listens, and returns; receivers and clients may connect at once.
    pub fn start(plan: DectrisSimulation) -> Result<Running> {
        plan.check()?;
        let bind = |stream, address: SocketAddr| -> Result<Option<Push>> {
            let push = plan.uses(stream).then(|| Push::bind(&format!("tcp://{address}"), QUEUE_MESSAGES));
            Ok(push.transpose()?)
        };
        let stream1 = bind(StreamFormat::Legacy, plan.stream1)?;
        let stream2 = bind(StreamFormat::Cbor, plan.stream2)?;
        let listener =
            plan.rest.map(|address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}")));
        let listener = listener.transpose()?;
        let images = Images::prepare(plan.supply()?, plan.form.clone(), plan.memory_max_bytes)?;
        let endpoint = |push: &Option<Push>| push.as_ref().map(|push| push.endpoint().to_owned());
        let mut running = Running {
            stream1: endpoint(&stream1),
            stream2: endpoint(&stream2),
            rest: listener.as_ref().map(TcpListener::local_addr).transpose()?,
            server: Arc::new(Server {
                desk: Desk::new(&plan, &images),
                plan,
                images,
                tally: Tally::default(),
                ended: Notify::new(),
            }),
            threads: Vec::new(),
        };
        running.spawn("dectris-sim-send", move |server| {
            Sender::new(server, stream1, stream2).run();
            server.end();
        })?;
        if let Some(listener) = listener {
            let server = Arc::clone(&running.server);
            let runtime = rest::runtime()?;
            running.spawn("dectris-sim-rest", move |_| rest::serve(runtime, listener, server))?;
        }
        Ok(running)
    }
}

/// A simulator at work; dropping it stops it.
pub struct Running {
    /// Endpoint of STREAM, where it is used.
    pub stream1: Option<String>,
    /// Endpoint of STREAM2, where it is used.
    pub stream2: Option<String>,
    /// Address of the REST interface.
    pub rest: Option<SocketAddr>,
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

    /// Images of one scan.
    pub fn frame_count(&self) -> u64 {
        self.server.images.frame_count()
    }

    /// Different images before they repeat; fewer than [`Running::frame_count`] if they do not fit into memory.
    pub fn distinct_frame_count(&self) -> u64 {
        self.server.images.distinct_count()
    }

    /// Mean bytes of a compressed image.
    pub fn image_bytes(&self) -> f64 {
        self.server.images.mean_bytes()
    }

    /// What has been sent so far.
    pub fn report(&self) -> SimulatorReport {
        self.server.tally.report()
    }

    /// Ends series and connections; returns at once.
    pub fn stop(&self) {
        self.server.end();
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
                self.server.end();
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

#[cfg(test)]
mod tests;
