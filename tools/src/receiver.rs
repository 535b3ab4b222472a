//! The wiring of a receiver, all of it: pool, queues, threads and who hears from whom.
//!
//! # Place in the path
//! Beside it: this file connects the stages and starts their threads; no frame passes through it.
//!
//! # Limits
//! Every queue is bounded by the plan; [`Receiver::describe`] prints them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver as Queue, Sender, bounded};
use nix::sys::signal::{SigSet, Signal};
use ronchi_config::{Compress, Limits, LinkPlan, Plan, SourcePlan};
use ronchi_ingest::dectris::{DectrisSettings, DectrisSource, DriveSettings, DrivenSource};
use ronchi_ingest::merlin::{MerlinOptions, MerlinSource};
use ronchi_ingest::replay::ReplaySource;
use ronchi_ingest::tiles::{TileSettings, TileSource};
use ronchi_ingest::{Link, ReceiveError, Source, receive};
use ronchi_pipeline::{Block, Event, FanOut, Layout, LinkCounters, Pool, Series};
use ronchi_sinks::http::{Control, HttpLimits, HttpServer};
use ronchi_sinks::live::{self, Board, Form, Publisher, StreamPlan, Wiring};
use ronchi_sinks::storage::{Disk, PackPlan, Space, StorageError, Writer, WriterPlan, WriterReport};

use crate::acquisitions::{Acquisition, Acquisitions, IMAGES_BYTES_MAX};
use crate::catch_up::{CatchUp, CatchUpThread};
use crate::descriptors;
use crate::finisher::Finisher;
use crate::panics;
use crate::process;
use crate::recorded::{self, RecordedTile};
use crate::reducers::{Reducers, Shared};
use crate::summary::Summary;

/// Acquisitions that may wait for the finisher; far more than can be running.
const FINISHING_MAX: usize = 1024;
/// Memory beside pool and images: code, stacks, open segments, socket buffers; generous, because it is a promise.
const OVERHEAD_BYTES: u64 = 256 << 20;

/// How a receiver is run.
pub struct Options {
    /// End after so many series per link.
    pub series_max: Option<u64>,
    /// The data set must be called exactly as planned and must not exist.
    pub exact_name: bool,
    /// Set to drain, seal and end.
    pub stop: Arc<AtomicBool>,
}

/// A running receiver.
pub struct Receiver {
    plan: Plan,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    summaries: Queue<Summary>,
    /// The live stream, and those in other forms.
    publisher: Option<Publisher>,
    adapters: Vec<Publisher>,
    http: Option<HttpServer>,
    /// Waits for the receive loops, then ends the stages behind them in order.
    main: JoinHandle<Result<()>>,
}

impl Receiver {
    /// Takes all memory, binds all ports and starts all threads.
    pub fn start(mut plan: Plan, options: Options) -> Result<Self> {
        panics::arm_from_environment()?;
        recorded::complete(&mut plan)?;
        if plan.data.record {
            refuse_existing(&plan, options.exact_name)?;
            prepare_disk(&mut plan)?;
        }
        let http_limits = HttpLimits::sharing(descriptors::share_out(&mut plan)?, plan.limits.subscriber_count);
        let pool = Pool::new(plan.slot_count(), Layout::slot_bytes(plan.limits.block_bytes) as usize)
            .context("take memory for the pool")?;
        let counters: Vec<Arc<LinkCounters>> = plan.links.iter().map(|_| Arc::default()).collect();
        let sources = open_sources(&plan, &counters)?;
        let queues = Queues::new(&plan);
        let writer_plan = plan.data.record.then(|| writer_plan(&plan, &pool, &counters));
        let disk = writer_plan.as_ref().map(WriterPlan::choose_disk).transpose()?;
        let write_method = disk.as_ref().map_or("nothing is recorded".into(), |(_, report)| told(report));
        let board = Board::new(wiring(&plan, &pool, &counters, &queues, write_method));
        let (finish, finishing) = bounded(FINISHING_MAX);
        let acquisitions =
            Arc::new(Acquisitions::new(plan.clone(), options.exact_name, Arc::clone(&board), counters.clone(), finish));
        let writer = match writer_plan.zip(disk) {
            Some((writer_plan, disk)) => {
                Some(start_writer(writer_plan, disk, &queues.raw, &acquisitions, &options.stop)?)
            }
            None => None,
        };
        let (summaries_in, summaries) = bounded(FINISHING_MAX);
        let ends = (finishing, summaries_in, Arc::clone(&options.stop));
        let finisher = start_finisher(&plan, &queues.live, &acquisitions, &board, &counters, ends)?;
        let publisher = start_publisher(&plan, &board)?;
        let adapters = start_adapters(&plan, &board)?;
        let http = plan
            .live
            .http
            .map(|address| {
                let control = Arc::clone(&acquisitions) as Arc<dyn Control>;
                HttpServer::spawn(Arc::clone(&board), Some(control), address, &plan.live, http_limits)
            })
            .transpose()?;
        let links = Links { plan: &plan, pool, counters, queues, acquisitions: &acquisitions, options: &options };
        let receivers = links.start(sources)?;
        let acquisitions = Arc::clone(&acquisitions);
        let main = named("main", move || run(receivers, writer, &acquisitions, finisher))?;
        Ok(Self { plan, board, stop: options.stop, summaries, publisher, adapters, http, main })
    }

    /// The plan, every limit as a number, and where to look.
    pub fn describe(&self) -> String {
        let mut text = self.plan.describe();
        text.push_str(&format!("writing   {}\n", self.board.wiring.write_method));
        text.push_str(&format!("memory    at most {} MiB\n", ceiling_bytes(&self.plan) >> 20));
        text
    }

    /// Shared state, for progress.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Summaries of acquisitions, as they are finished; ends with the receiver.
    pub fn summaries(&self) -> impl Iterator<Item = Summary> + '_ {
        self.summaries.iter()
    }

    /// Asks the receiver to drain, seal and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Address of the HTTP server.
    pub fn http_address(&self) -> Option<std::net::SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// Endpoint of the live stream.
    pub fn stream_endpoint(&self) -> Option<&str> {
        self.publisher.as_ref().map(Publisher::endpoint)
    }

    /// Waits for everything to end; an error when a series was refused or the writer is gone.
    pub fn join(self) -> Result<()> {
        let result = self.main.join().map_err(|_| anyhow::anyhow!("a thread of the receiver panicked"))?;
        self.board.close();
        drop((self.publisher, self.adapters, self.http)); // They send the end of the last acquisition, then stop.
        let fallen = self.board.fallen();
        result.and_then(|()| match fallen.is_empty() {
            true => Ok(()),
            false => bail!("a bug: these stages panicked: {}", fallen.join(", ")),
        })
    }
}

/// Most memory a receiver with this plan uses, in bytes.
pub fn ceiling_bytes(plan: &Plan) -> u64 {
    let images = IMAGES_BYTES_MAX * live::ACQUISITIONS_MAX as u64;
    let packing = pack_plan(plan).map_or(0, |pack| pack.buffer_bytes(plan.limits.write_depth));
    let guests: u64 = adapters(plan).map(|adapter| adapter.guest_bytes()).sum();
    let pages = plan.live.http.map_or(0, |_| {
        let subscribers = plan.limits.subscriber_count;
        HttpLimits { live_clients: subscribers, ..HttpLimits::default() }.memory_bytes()
    });
    plan.pool_bytes() + packing + images + guests + pages + OVERHEAD_BYTES
}

/// How chunks are compressed, if they are; by threads that stand back like reducers.
fn pack_plan(plan: &Plan) -> Option<PackPlan> {
    let Limits { block_bytes, packer_count, compress, .. } = plan.limits;
    plan.is_packing().then(|| PackPlan {
        takes_pixels: compress == Compress::Lz4,
        threads: packer_count,
        chunk_bytes_max: block_bytes,
        link_count: plan.links.len() as u32,
        on_start: Arc::new(process::run_when_idle),
    })
}

/// Refuses a data set that is there already, before a detector or a file is touched. Of two receivers that start at the
/// same time, the one that makes the directory first has it.
fn refuse_existing(plan: &Plan, exact_name: bool) -> Result<()> {
    let path = plan.data.directory.join(format!("{}.ronchi", plan.data.name));
    if exact_name && path.symlink_metadata().is_ok() {
        return Err(StorageError::Exists { path }.into());
    }
    Ok(())
}

/// The report in one line; a warning where the system does not allow the best way to write.
fn told(report: &WriterReport) -> String {
    if !report.is_best() {
        tracing::warn!("frames are written in a slower way than this machine could: {report}");
    }
    report.to_string()
}

/// Makes the directory, fixes how much of its file system stays free, and lets writes fail where they would kill.
fn prepare_disk(plan: &mut Plan) -> Result<()> {
    let directory = &plan.data.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for volume in &plan.data.volumes {
        ensure!(volume.is_dir(), "volume {} is not there: is its disk mounted?", volume.display());
    }
    let disk_bytes = Space::disk_bytes(directory);
    if disk_bytes.is_none() {
        tracing::warn!("the file system of {} does not tell how full it is: no reserve is kept", directory.display());
    }
    plan.limits.reserve_bytes = Some(plan.limits.reserve_on(disk_bytes.unwrap_or(0)));
    // A write beyond RLIMIT_FSIZE raises SIGXFSZ in the writing thread, which ends the process. Blocked here, before any
    // thread that writes is started and inherits the mask, it leaves the error EFBIG: a refused write like any other.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().context("block SIGXFSZ")
}

/// The sending ends of both queues; the queues close with the last receive thread.
struct Senders {
    raw: Sender<Event>,
    live: Sender<Block>,
}

/// Only the writer and the reducers hold receiving ends for long: when they die, senders must notice.
struct Queues {
    senders: Arc<Senders>,
    raw: Queue<Event>,
    live: Queue<Block>,
}

impl Queues {
    fn new(plan: &Plan) -> Self {
        let (raw_in, raw) = bounded(plan.limits.raw_queue_blocks as usize);
        let (live_in, live) = bounded(plan.limits.live_queue_blocks as usize);
        Self { senders: Arc::new(Senders { raw: raw_in, live: live_in }), raw, live }
    }
}

fn open_sources(plan: &Plan, counters: &[Arc<LinkCounters>]) -> Result<Vec<Box<dyn Source>>> {
    plan.links.iter().zip(counters).map(|(link, counters)| open_source(plan, link, counters)).collect()
}

/// The source of one link. A new detector protocol gets an arm here.
fn open_source(plan: &Plan, link: &LinkPlan, counters: &Arc<LinkCounters>) -> Result<Box<dyn Source>> {
    Ok(match &link.source {
        SourcePlan::Merlin { host, data_port, control } => {
            let options = MerlinOptions::of(&plan.limits);
            Box::new(MerlinSource::new(host, *data_port, control.clone(), options, Arc::clone(counters)))
        }
        SourcePlan::Dectris { .. } => {
            let settings = DectrisSettings::from_plan(plan, link).context("a DECTRIS stream")?;
            let mut source = DectrisSource::new(settings);
            source.open()?; // Connects before anybody arms the detector.
            match DriveSettings::from_plan(plan, link) {
                Some(drive) => Box::new(DrivenSource::new(source, drive, Arc::clone(counters))),
                None => Box::new(source),
            }
        }
        SourcePlan::Tiles { .. } => {
            let settings = TileSettings::from_plan(plan, link).context("a tile stream")?;
            let mut source = TileSource::new(settings);
            source.open()?; // Binds at start: a taken port is an error now, not later.
            Box::new(source)
        }
        SourcePlan::Replay { path, interval, tile } => {
            Box::new(ReplaySource::new(Box::new(RecordedTile::open(path, *tile)?), *interval))
        }
    })
}

fn wiring(plan: &Plan, pool: &Pool, counters: &[Arc<LinkCounters>], queues: &Queues, write_method: String) -> Wiring {
    let links = plan.links.iter().zip(counters);
    let links = links.map(|(link, counters)| live::Link { name: link_name(link), counters: Arc::clone(counters) });
    let (raw, live_queue) = (Arc::downgrade(&queues.senders), Arc::downgrade(&queues.senders));
    let free = pool.clone();
    let queue = |name: &str, depth: live::Gauge, capacity: u32| live::Queue {
        name: name.into(),
        depth,
        capacity: u64::from(capacity),
    };
    Wiring {
        links: links.collect(),
        queues: vec![
            queue(
                "raw",
                Box::new(move || raw.upgrade().map_or(0, |senders| senders.raw.len() as u64)),
                plan.limits.raw_queue_blocks,
            ),
            queue(
                "live",
                Box::new(move || live_queue.upgrade().map_or(0, |senders| senders.live.len() as u64)),
                plan.limits.live_queue_blocks,
            ),
        ],
        pool_free: Some(Box::new(move || free.free_count() as u64)),
        pool_slots: pool.slot_count() as u64,
        slot_bytes: pool.slot_bytes() as u64,
        directory: plan.data.record.then(|| plan.data.directory.clone()),
        volumes: if plan.data.record { plan.data.volumes.clone() } else { Vec::new() },
        reserve_bytes: plan.limits.reserve_bytes.unwrap_or(0),
        write_method,
    }
}

fn link_name(link: &LinkPlan) -> String {
    match &link.source {
        SourcePlan::Merlin { host, data_port, .. } => format!("merlin {host}:{data_port}"),
        SourcePlan::Dectris { endpoint, .. } => format!("dectris {endpoint}"),
        SourcePlan::Tiles { endpoint, .. } => format!("tiles {endpoint}"),
        SourcePlan::Replay { path, tile, .. } => {
            format!("replay {}{}", path.display(), tile.map(|tile| format!(" tile {tile}")).unwrap_or_default())
        }
    }
}

fn writer_plan(plan: &Plan, pool: &Pool, counters: &[Arc<LinkCounters>]) -> WriterPlan {
    WriterPlan {
        depth: plan.limits.write_depth,
        volume_count: plan.data.volumes.len().max(1),
        stripe_blocks: plan.stripe_blocks() as usize,
        sync_interval: plan.limits.sync_interval,
        reserve_bytes: plan.limits.reserve_bytes.unwrap_or(0),
        pool: Some(pool.clone()),
        counters: counters.to_vec(),
        pack: pack_plan(plan),
        ..WriterPlan::new(plan.data.volumes.first().unwrap_or(&plan.data.directory).clone())
    }
}

fn start_writer(
    plan: WriterPlan,
    (disk, report): (Box<dyn Disk>, WriterReport),
    raw: &Queue<Event>,
    acquisitions: &Arc<Acquisitions>,
    stop: &Arc<AtomicBool>,
) -> Result<Writer> {
    let (lookup, stored) = (Arc::clone(acquisitions), Arc::clone(acquisitions));
    let guards = (StopOnPanic(Arc::clone(stop)), acquisitions.watch("writer"));
    let open = Box::new(move |series: &Arc<Series>| {
        let _live_with_the_writer = &guards;
        lookup.data_set_of(series)
    });
    let ended = Box::new(move |tile| stored.stored(tile));
    Ok(Writer::spawn_on(disk, report, plan, raw.clone(), open, ended)?)
}

fn start_finisher(
    plan: &Plan,
    live: &Queue<Block>,
    acquisitions: &Arc<Acquisitions>,
    board: &Arc<Board>,
    counters: &[Arc<LinkCounters>],
    (finishing, summaries, stop): (Queue<Arc<Acquisition>>, Sender<Summary>, Arc<AtomicBool>),
) -> Result<JoinHandle<()>> {
    let (acquisitions, board) = (Arc::clone(acquisitions), Arc::clone(board));
    let shared = Shared {
        acquisitions: Arc::clone(&acquisitions),
        board: Arc::clone(&board),
        is_recording: plan.data.record,
        counters: counters.to_vec(),
    };
    let reducers = Reducers::start(plan.limits.reducer_count, live, &shared)?;
    let catch_up =
        CatchUp { acquisitions: Arc::clone(&acquisitions), board: Arc::clone(&board), counters: counters.to_vec() };
    let catching_up = CatchUpThread::start(catch_up.clone(), reducers.flusher().clone())?;
    let finisher = Finisher {
        acquisitions,
        board,
        reducers,
        catch_up,
        catching_up,
        ceiling_bytes: ceiling_bytes(plan),
        summaries,
        stop,
    };
    named("finish", move || finisher.run(&finishing))
}

fn start_publisher(plan: &Plan, board: &Arc<Board>) -> Result<Option<Publisher>> {
    let endpoint = plan.live.zmq.as_deref();
    let stream = endpoint.map(|endpoint| stream_plan(plan, Form::Native, endpoint, plan.limits.subscriber_count));
    Ok(stream.map(|stream| Publisher::spawn(Arc::clone(board), &stream)).transpose()?)
}

fn start_adapters(plan: &Plan, board: &Arc<Board>) -> Result<Vec<Publisher>> {
    adapters(plan).map(|stream| Ok(Publisher::spawn(Arc::clone(board), &stream)?)).collect()
}

/// The live stream in other forms.
fn adapters(plan: &Plan) -> impl Iterator<Item = StreamPlan> + '_ {
    let forms = [(Form::Karabo, &plan.live.karabo), (Form::Odin, &plan.live.odin)];
    let asked = forms.into_iter().filter_map(|(form, endpoint)| Some((form, endpoint.as_deref()?)));
    asked.map(|(form, endpoint)| stream_plan(plan, form, endpoint, live::GUESTS_MAX))
}

fn stream_plan(plan: &Plan, form: Form, endpoint: &str, subscriber_count: u32) -> StreamPlan {
    let pace = live::Pace { update_interval: plan.live.update_interval, ..live::Pace::default() };
    let result_count = plan.reductions.len() as u32;
    StreamPlan { form, endpoint: endpoint.to_owned(), pace, result_count, subscriber_count }
}

/// What every link gets.
struct Links<'a> {
    plan: &'a Plan,
    pool: Pool,
    counters: Vec<Arc<LinkCounters>>,
    queues: Queues,
    acquisitions: &'a Arc<Acquisitions>,
    options: &'a Options,
}

type ReceiveThread = JoinHandle<Result<(), ReceiveError>>;

impl Links<'_> {
    /// One receive thread per link; the queues close when all of them have ended.
    fn start(self, sources: Vec<Box<dyn Source>>) -> Result<Vec<ReceiveThread>> {
        let reducing = !self.plan.reductions.is_empty();
        let mut threads = Vec::new();
        for (id, mut source) in (0..).zip(sources) {
            let senders = Arc::clone(&self.queues.senders);
            let fan_out = FanOut {
                raw: self.plan.data.record.then(|| senders.raw.clone()),
                live: reducing.then(|| senders.live.clone()),
                counters: Arc::clone(&self.counters[id as usize]),
            };
            let (pool, stop) = (self.pool.clone(), Arc::clone(&self.options.stop));
            let (seal_after, series_max) = (self.plan.limits.seal_after, self.options.series_max);
            let acquisitions = Arc::clone(self.acquisitions);
            threads.push(named(&format!("receive-{id}"), move || {
                let _guard = acquisitions.watch("receive loop");
                let _senders = senders; // The gauges read the queues for as long as anybody can fill them.
                let mut on_failure = StopOthers { stop: &stop, is_armed: true };
                let link = Link { id, pool, fan_out, seal_after, stop: &stop };
                let result = receive(source.as_mut(), &link, acquisitions.as_ref(), series_max);
                on_failure.is_armed = result.is_err();
                result.map(|_| ())
            })?);
        }
        Ok(threads)
    }
}

/// Stops the other links when a receive loop fails or panics: half a detector is not worth a long recording.
struct StopOthers<'a> {
    stop: &'a AtomicBool,
    is_armed: bool,
}

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// Stops the links when a thread panics without which nothing can be recorded: while no frames come, they would not notice.
pub(crate) struct StopOnPanic(pub(crate) Arc<AtomicBool>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("nothing can be recorded any more");
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Waits for the receive loops; then each stage ends when the one before it has, whatever went wrong. The first error.
fn run(
    receivers: Vec<ReceiveThread>,
    writer: Option<Writer>,
    acquisitions: &Acquisitions,
    finisher: JoinHandle<()>,
) -> Result<()> {
    let mut results: Vec<Result<()>> = Vec::new();
    for receiver in receivers {
        let result = receiver.join().map_err(|_| anyhow::anyhow!("a receive loop panicked"));
        results.push(result.and_then(|result| Ok(result?)));
    }
    if let Some(writer) = writer {
        results.push(writer.join().map_err(anyhow::Error::msg));
    }
    acquisitions.finish_all();
    acquisitions.close();
    results.push(finisher.join().map_err(|_| anyhow::anyhow!("the finisher panicked")));
    results.into_iter().collect()
}

fn named<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(body).with_context(|| format!("start thread {name}"))
}
