//! Drives a detector through one series: sets it, arms it, triggers it, and disarms it when the stream has ended.
//!
//! # Place in the path
//! Beside it: a [`Round`] is a thread of its own, because commands take as long as the exposures they start. The receive thread
//! hears of it through a queue and never waits for an answer of the detector, except when it gives a series up.
//!
//! # Invariants
//! - I1: a detector that was armed here is disarmed or aborted here, whatever goes wrong; what cannot be reached is logged.
//! - I2: nothing is armed after its round was given up: both are decided under one lock.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ronchi_config::{DectrisControlPlan, DectrisStream, DectrisTrigger, LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::LinkCounters;
use serde_json::Value;

use super::ENDLESS_FRAMES;
use super::simplon::{Command, Module, RestError, Simplon, State, Task};
use crate::source::SourceError;

/// Reports of one round.
const REPORTS_MAX: usize = 4;
/// What a trigger may take beyond its exposures.
const TRIGGER_SLACK: Duration = Duration::from_secs(60);
/// What a trigger may take whose exposures are not known.
const TRIGGER_TIME_MAX: Duration = Duration::from_secs(86_400);
/// Times that differ by less, relatively, are the same.
const SAME: f64 = 1e-6;

/// How a detector is driven, and what for.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveSettings {
    /// Where its REST interface is: a name, an address, or an IPv6 address in brackets.
    pub host: String,
    /// What is set.
    pub control: DectrisControlPlan,
    /// The stream that is received.
    pub stream: DectrisStream,
    /// `ntrigger` and `nimages` for the scan; `None` leaves the detector's.
    pub counts: (Option<u64>, Option<u64>),
    /// Images that a series must have; `None` takes any number.
    pub frame_count: Option<u64>,
}

impl DriveSettings {
    /// The settings of one link; `None` when its detector is not driven.
    pub fn from_plan(plan: &Plan, link: &LinkPlan) -> Option<Self> {
        let SourcePlan::Dectris { stream, endpoint, control: Some(control), .. } = &link.source else { return None };
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        let frame_count = plan.scan.frame_count(&plan.conditions);
        let counts = control.counts(&plan.scan, frame_count);
        // With an offset the scan begins before the first frame, or after it: any number may be meant.
        let frame_count = frame_count.filter(|_| plan.scan.sync_offset == 0);
        Some(Self { host, control: control.clone(), stream: *stream, counts, frame_count })
    }

    /// Keys of the detector with what they are set to, in this order: regions reset times, and exposures reset frame times.
    fn values(&self) -> Vec<(&str, Value)> {
        let control = &self.control;
        let seconds = |time: Option<Duration>| time.map(|time| Value::from(time.as_secs_f64()));
        let of_region = |key: &str| key.starts_with("roi_");
        let own = |wanted: bool| control.detector.iter().filter(move |(key, _)| of_region(key) == wanted);
        let own = |wanted| own(wanted).map(|(key, value)| (key.as_str(), Some(value.clone())));
        let region = [("roi_mode", control.roi.clone().map(Value::from))];
        let last = [
            ("roi_bit_depth", control.bit_depth.map(Value::from)),
            ("count_time", seconds(control.count_time)),
            ("frame_time", seconds(control.frame_time)),
            ("compression", control.compression.map(|compression| compression.word().into())),
            ("trigger_mode", control.trigger.map(|trigger| trigger.word().into())),
            ("ntrigger", self.counts.0.map(Value::from)),
            ("nimages", self.counts.1.map(Value::from)),
        ];
        let (bits, last) = last.split_at(1);
        let all = region.into_iter().chain(own(true)).chain(bits.iter().cloned()).chain(own(false));
        all.chain(last.iter().cloned()).filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// What the thread of a round tells.
#[derive(Debug)]
pub(super) enum Report {
    /// The detector is armed; the number it gives the series, where it says one.
    Armed(Option<u64>),
    /// It has told what it dropped, which is counted.
    Closed,
    /// It cannot be driven on; it is not armed, as far as it can be reached.
    Failed(SourceError),
}

/// How far a round is, and what it is asked to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The detector is being set; it has not been armed.
    Preparing,
    /// It is armed, or about to be.
    Armed,
    /// The stream has ended.
    Ended,
    /// Nobody is interested any more.
    GivenUp,
}

/// What both threads share.
#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    simplon: OnceLock<Simplon>,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on to `to` if `from` is where it is; where it was.
    fn advance(&self, from: Progress, to: Progress) -> Progress {
        let mut progress = self.progress();
        let before = *progress;
        if before == from {
            *progress = to;
            self.changed.notify_all();
        }
        before
    }

    /// Gives a round up that has not ended; where it was.
    fn give_up(&self) -> Progress {
        let mut progress = self.progress();
        let before = *progress;
        if before != Progress::Ended {
            *progress = Progress::GivenUp;
            self.changed.notify_all();
        }
        before
    }

    /// Waits until an armed round is asked for something else.
    fn wait(&self) -> Progress {
        let waited = self.changed.wait_while(self.progress(), |progress| *progress == Progress::Armed);
        *waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A detector that is being driven through one series.
#[derive(Debug)]
pub(super) struct Round {
    reports: Receiver<Report>,
    shared: Arc<Shared>,
}

impl Round {
    /// Begins to set and arm the detector; the stream must be connected already.
    pub(super) fn start(settings: Arc<DriveSettings>, counters: Arc<LinkCounters>) -> io::Result<Self> {
        let (sender, reports) = bounded(REPORTS_MAX);
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress::Preparing),
            changed: Condvar::new(),
            simplon: OnceLock::new(),
        });
        let worker = Worker { settings, counters, reports: sender, shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("control".into()).spawn(move || worker.run())?;
        Ok(Self { reports, shared })
    }

    /// Whether the detector may have begun a series: before, what the stream brings is of earlier runs.
    pub(super) fn may_have_begun(&self) -> bool {
        *self.shared.progress() != Progress::Preparing
    }

    /// What the thread has to tell, waiting until `until`. `Err(Disconnected)` when it has ended.
    pub(super) fn report(&self, until: Instant) -> Result<Report, RecvTimeoutError> {
        self.reports.recv_deadline(until)
    }

    /// The stream has ended: asks for what the detector dropped, then disarms it.
    pub(super) fn end(&self) {
        self.shared.advance(Progress::Armed, Progress::Ended);
    }

    /// Aborts what the detector was armed for, if it was, and waits until that, or disarming, is certain.
    pub(super) fn give_up(&self) -> Result<(), SourceError> {
        let before = self.shared.give_up();
        if let (Progress::Armed, Some(simplon)) = (before, self.shared.simplon.get()) {
            // A trigger that is being waited for is then answered. What is refused now may be done once it is armed.
            simplon.command(Command::Abort).map(drop).or_else(|e| if e.is_refusal() { Ok(()) } else { Err(e) })?;
        }
        if matches!(before, Progress::Armed | Progress::Ended) {
            let until = Instant::now() + Command::Arm.time_max();
            while self.report(until).is_ok() {}
        }
        Ok(())
    }
}

/// The thread of a round.
struct Worker {
    settings: Arc<DriveSettings>,
    counters: Arc<LinkCounters>,
    reports: Sender<Report>,
    shared: Arc<Shared>,
}

/// What the detector is set to, as far as it tells.
#[derive(Debug, Default)]
struct Taken {
    trigger: Option<DectrisTrigger>,
    ntrigger: Option<u64>,
    nimages: Option<u64>,
    frame_time: Option<Duration>,
}

impl Worker {
    fn run(&self) {
        let Err(error) = self.drive() else { return };
        if self.shared.advance(Progress::Armed, Progress::GivenUp) == Progress::Armed
            && let Some(simplon) = self.shared.simplon.get()
        {
            note(simplon.command(Command::Abort)); // I1
        }
        self.tell(Report::Failed(error));
    }

    /// Nobody may be listening any more.
    fn tell(&self, report: Report) {
        let _ = self.reports.try_send(report);
    }

    fn drive(&self) -> Result<(), SourceError> {
        let found = Simplon::discover(&self.settings.host, self.settings.control.port)?;
        let simplon = self.shared.simplon.get_or_init(|| found);
        self.make_idle(simplon)?;
        self.set_detector(simplon)?;
        self.set_stream(simplon)?;
        let taken = self.taken(simplon)?;
        self.check(simplon, &taken)?;
        if self.shared.advance(Progress::Preparing, Progress::Armed) != Progress::Preparing {
            return Ok(()); // I2
        }
        self.tell(Report::Armed(simplon.command(Command::Arm)?));
        let dropped_before = dropped(simplon);
        self.trigger(simplon, &taken)?;
        if self.shared.wait() == Progress::GivenUp {
            note(simplon.command(Command::Abort)); // Once more: the first may have come before the detector was armed.
            self.count_dropped(simplon, dropped_before);
            return Ok(());
        }
        self.count_dropped(simplon, dropped_before);
        self.tell(Report::Closed);
        note(simplon.command(Command::Disarm));
        Ok(())
    }

    /// A detector that is busy is somebody's; one that is armed and waits may be left over.
    fn make_idle(&self, simplon: &Simplon) -> Result<(), SourceError> {
        match told(simplon.state())? {
            Some(State::Na) => {
                tracing::warn!("{} is being initialised, which takes up to four minutes", simplon.address());
                simplon.command(Command::Initialize)?;
            }
            Some(State::Ready) => {
                tracing::warn!("{} was armed already; it is disarmed", simplon.address());
                simplon.command(Command::Disarm)?;
            }
            Some(State::Acquire) => return Err(refused(simplon, "it is taking images; abort that first".into())),
            Some(State::Error) => return Err(refused(simplon, "its state is `error`; initialise it".into())),
            Some(State::Idle | State::Other(_)) | None => {}
        }
        Ok(())
    }

    fn set_detector(&self, simplon: &Simplon) -> Result<(), SourceError> {
        let values = self.settings.values();
        for (key, value) in &values {
            let changed = simplon.set(Module::Detector, key, value)?;
            tracing::debug!(key, %value, ?changed, "set");
        }
        // Later ones may change earlier ones: read when all are set.
        for (key, want) in &values {
            let got = told(simplon.value(Module::Detector, Task::Config, key))?;
            if let Some(got) = got.filter(|got| !is_same(got, want)) {
                tracing::warn!("{} has {key} = {got}, it was set to {want}", simplon.address());
            }
        }
        Ok(())
    }

    fn set_stream(&self, simplon: &Simplon) -> Result<(), SourceError> {
        let (legacy, format) = match self.settings.stream {
            DectrisStream::Legacy => (true, "legacy"),
            DectrisStream::Cbor => (false, "cbor"),
        };
        // Older control units have one stream only, and no such key.
        match simplon.value(Module::Stream, Task::Config, "format") {
            Err(error) if !(legacy && error.is_refusal()) => return Err(error.into()),
            Err(_) => {}
            Ok(_) => drop(simplon.set(Module::Stream, "format", &format.into())?),
        }
        if let Some(detail) = self.settings.control.header_detail {
            simplon.set(Module::Stream, "header_detail", &detail.word().into())?;
        }
        simplon.set(Module::Stream, "mode", &"enabled".into())?;
        Ok(())
    }

    fn taken(&self, simplon: &Simplon) -> Result<Taken, RestError> {
        let value = |key| told(simplon.value(Module::Detector, Task::Config, key));
        let seconds = value("frame_time")?.and_then(|value| value.as_f64());
        Ok(Taken {
            trigger: value("trigger_mode")?.and_then(|value| DectrisTrigger::of(value.as_str()?)),
            ntrigger: value("ntrigger")?.and_then(|value| value.as_u64()),
            nimages: value("nimages")?.and_then(|value| value.as_u64()),
            frame_time: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        })
    }

    /// Refuses to arm a detector that would send another number of images than the scan has.
    fn check(&self, simplon: &Simplon, taken: &Taken) -> Result<(), SourceError> {
        let nimages = if taken.trigger.is_some_and(DectrisTrigger::is_single) { Some(1) } else { taken.nimages };
        let (Some(ntrigger), Some(nimages)) = (taken.ntrigger, nimages) else { return Ok(()) };
        let images = ntrigger.saturating_mul(nimages);
        let is_endless = images >= ENDLESS_FRAMES;
        match self.settings.frame_count.filter(|&frames| frames != images && !is_endless) {
            Some(frames) => Err(refused(
                simplon,
                format!(
                    "its ntrigger = {ntrigger} times nimages = {nimages} are {images} images, the scan has {frames} frames: \
                     set `trigger_per`"
                ),
            )),
            None => {
                let mode = taken.trigger.map_or("triggers", DectrisTrigger::word);
                tracing::info!("{} is set: {mode}, {ntrigger} x {nimages} images", simplon.address());
                Ok(())
            }
        }
    }

    /// Sends the triggers of a detector that waits for commands, each when the one before is done.
    fn trigger(&self, simplon: &Simplon, taken: &Taken) -> Result<(), SourceError> {
        let Some(trigger) = taken.trigger.filter(|trigger| trigger.is_software()) else { return Ok(()) };
        let nimages = if trigger.is_single() { 1 } else { taken.nimages.unwrap_or(1) };
        let exposures = taken.frame_time.map(|time| time.as_secs_f64() * nimages as f64);
        let exposures = exposures.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let time_max =
            exposures.map_or(TRIGGER_TIME_MAX, |time| time.saturating_add(TRIGGER_SLACK).min(TRIGGER_TIME_MAX));
        for _ in 0..taken.ntrigger.unwrap_or(1) {
            if *self.shared.progress() != Progress::Armed {
                break;
            }
            match simplon.command(Command::Trigger(time_max)) {
                Ok(_) => {}
                Err(error) if error.is_silence() => {
                    tracing::warn!("{error}; whether it takes images, the stream will tell");
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn count_dropped(&self, simplon: &Simplon, before: Option<u64>) {
        let (Some(before), Some(now)) = (before, dropped(simplon)) else { return };
        // A control unit that counts from 0 again has counted only these.
        let count = now.checked_sub(before).unwrap_or(now);
        if count > 0 {
            LinkCounters::add(&self.counters.dropped_frames, count);
            tracing::error!("the detector dropped {count} images because nobody fetched them in time");
        }
    }
}

/// Images the stream has dropped, where the control unit tells.
fn dropped(simplon: &Simplon) -> Option<u64> {
    let dropped = simplon.value(Module::Stream, Task::Status, "dropped");
    let dropped = dropped.inspect_err(|error| tracing::debug!("{error}; how many images are dropped is not known"));
    dropped.ok()?.as_u64()
}

/// What a detector tells, if it tells that; an error if it cannot be asked.
fn told<T>(answer: Result<T, RestError>) -> Result<Option<T>, RestError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_refusal() => {
            tracing::debug!("{error}; left as it is");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Logs what failed where nothing more can be done.
fn note(result: Result<Option<u64>, RestError>) {
    if let Err(error) = result {
        tracing::warn!("{error}; the detector may still be armed");
    }
}

fn refused(simplon: &Simplon, reason: String) -> SourceError {
    SourceError::Unfit { address: simplon.address().to_owned(), reason }
}

/// Whether a detector took what was set; times come in steps, and numbers in other types.
fn is_same(got: &Value, want: &Value) -> bool {
    match (got.as_f64(), want.as_f64()) {
        (Some(got), Some(want)) => (got - want).abs() <= SAME * want.abs(),
        _ => got == want,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regions and bit depth first, then whatever else, then exposure before frame time, and triggers last.
    #[test]
    fn order_of_settings() {
        let pairs = [
            "nimages=4",
            "ntrigger=3",
            "trigger=exts",
            "compression=bslz4",
            "frame_time_s=0.0002",
            "count_time_s=1e-4",
            "bit_depth=8",
            "roi=lines",
            "detector.roi_y_size=128",
            "detector.auto_summation=false",
            "detector.threshold/1/energy=10000.5",
        ];
        let control = ronchi_config::parse_control(&pairs).expect("good");
        let counts = (control.ntrigger, control.nimages);
        let stream = DectrisStream::Cbor;
        let settings = DriveSettings { host: "h".into(), control, stream, counts, frame_count: None };
        let text: Vec<_> = settings.values().iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text.join(" "),
            "roi_mode=\"lines\" roi_y_size=128 roi_bit_depth=8 auto_summation=false threshold/1/energy=10000.5 \
             count_time=0.0001 frame_time=0.0002 compression=\"bslz4\" trigger_mode=\"exts\" ntrigger=3 nimages=4"
        );
    }

    /// Steps of a clock are the same time; other numbers and words are not.
    #[test]
    fn what_differs() {
        let same = |got: &str, want: &str| is_same(&got.parse().expect("json"), &want.parse().expect("json"));
        assert!(same("0.0001", "0.0001") && same("4", "4.0") && same("\"exts\"", "\"exts\"") && same("true", "true"));
        assert!(same("0.00010000000003", "0.0001"));
        assert!(!same("0.000102", "0.0001") && !same("\"lz4\"", "\"bslz4\"") && !same("5", "4") && !same("null", "0"));
    }
}
