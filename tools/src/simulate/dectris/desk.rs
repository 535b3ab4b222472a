//! What the REST interface, the sender and the owner of a simulator share: settings, series, triggers, the end.
//!
//! ```text
//!   na --initialize--> idle --arm--> ready --trigger--> acquire --> ready, or idle when all triggers were given
//!                        disarm, cancel and abort lead back to idle from everywhere, initialize too
//! ```
//!
//! # Invariants
//! - I1: one series at a time; its settings are those of the moment it was armed.
//! - I2: `halt` is set whenever the sender should look at the state: stop or end. It is all the sender reads between images.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use humantime::format_rfc3339_millis;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ronchi_pipeline::SigShape;
use serde_json::Value;

use super::images::{ImageForm, Images};
use super::keys::{self, READOUT_S, wavelength_angstrom};
use super::series::{HeaderDetail, Series, TICK_NS};
use super::settings::{SettingError, Settings};
use super::{DectrisSimulation, StreamFormat};

/// Parts of a control unit that have settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    Detector,
    Stream,
    Monitor,
    Filewriter,
    System,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not initialised.
    Na,
    Idle,
    /// Armed; the header is sent, or on its way.
    Ready,
    Acquire,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Na => "na",
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Acquire => "acquire",
        }
    }

    fn is_armed(self) -> bool {
        matches!(self, Self::Ready | Self::Acquire)
    }
}

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DeskError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("the detector is {state}: {hint}")]
    NotNow { state: &'static str, hint: &'static str },
}

struct State {
    phase: Phase,
    detector: Settings,
    stream: Settings,
    monitor: Settings,
    filewriter: Settings,
    /// Number and name of the newest series.
    number: u64,
    name: String,
    /// A series that is armed, until the sender takes it.
    order: Option<Series>,
    is_triggered: bool,
    triggers_given: u64,
    triggers_done: u64,
    /// Exposure time of the trigger given last, where it came with one.
    count_ns: Option<u64>,
    is_stopped: bool,
    is_ending: bool,
}

/// The shared state; see the module.
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    halt: AtomicBool,
    /// Messages of the newest series that nobody took.
    dropped: AtomicU64,
    shape: SigShape,
    form: ImageForm,
    /// The streams of series that follow by themselves.
    format: Option<StreamFormat>,
    rate_hz: f64,
    seed: u64,
}

impl Desk {
    pub(super) fn new(plan: &DectrisSimulation, images: &Images) -> Self {
        let (shape, form) = (images.shape(), images.form().clone());
        let state = State {
            phase: if plan.rest.is_some() { Phase::Na } else { Phase::Idle },
            detector: keys::detector(plan, shape, &form),
            stream: keys::stream(plan),
            monitor: keys::monitor(),
            filewriter: keys::filewriter(),
            number: 0,
            name: String::new(),
            order: None,
            is_triggered: false,
            triggers_given: 0,
            triggers_done: 0,
            count_ns: None,
            is_stopped: false,
            is_ending: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            halt: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            shape,
            form,
            format: plan.rest.is_none().then_some(plan.format),
            rate_hz: plan.rate_hz,
            seed: plan.images.seed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panics while holding the lock leaves plain values behind: all of them stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Shape of the images.
    pub(super) fn shape(&self) -> SigShape {
        self.shape
    }

    /// Names of the settings of a module.
    pub(super) fn names(&self, module: Module) -> Vec<&'static str> {
        self.lock().settings(module).map_or_else(Vec::new, |settings| settings.names())
    }

    /// A setting as a client gets it.
    pub(super) fn describe(&self, module: Module, name: &str) -> Option<Value> {
        self.lock().settings(module)?.describe(name)
    }

    /// What the state of a module is, as far as clients get it.
    pub(super) fn status(&self, module: Module) -> Settings {
        let state = self.lock();
        let mut status = match module {
            Module::Detector => keys::detector_status(),
            Module::Stream => keys::stream_status(),
            Module::Monitor | Module::Filewriter => keys::idle_status(),
            Module::System => Settings::default(),
        };
        match module {
            Module::Detector => {
                status.follow("state", state.phase.name());
                status.follow("series_unique_id", state.name.as_str());
                status.follow("time", format_rfc3339_millis(SystemTime::now()).to_string());
            }
            Module::Stream => {
                let is_enabled = state.stream.text("mode") == "enabled";
                status.follow(
                    "state",
                    match state.phase {
                        _ if !is_enabled => "disabled",
                        Phase::Acquire => "acquire",
                        _ => "ready",
                    },
                );
                status.follow("dropped", self.dropped.load(Ordering::Relaxed));
            }
            _ => {}
        }
        status
    }

    /// Changes settings, all or none; returns the names of those that changed. Those of the detector stay as they are while it
    /// is armed; others may change, as LiberTEM-live does it, and count from the next series on.
    pub(super) fn change(&self, module: Module, changes: &[(String, Value)]) -> Result<Vec<String>, DeskError> {
        let mut state = self.lock();
        match state.phase {
            Phase::Na if module == Module::Detector => return state.not_now("initialize it first"),
            Phase::Ready | Phase::Acquire if module == Module::Detector => return state.not_now("disarm it first"),
            _ => {}
        }
        let unknown = |name: &str| SettingError::Unknown { name: name.to_owned() };
        let mut settings = state.settings(module).cloned().unwrap_or_default();
        let mut changed = Vec::new();
        for (name, value) in changes {
            if module == Module::System {
                return Err(unknown(name).into());
            }
            settings.change(name, value.clone())?;
            changed.push(name.clone());
            if module == Module::Detector {
                follow(&mut settings, name, &mut changed);
            }
        }
        if let Some(held) = state.settings_mut(module) {
            *held = settings;
        }
        Ok(changed)
    }

    /// `initialize` of the detector: settings and numbers of series begin anew.
    pub(super) fn initialize(&self) {
        self.stop();
        let mut state = self.lock();
        state.detector.reset();
        (state.phase, state.number) = (Phase::Idle, 0);
    }

    /// `initialize` of another module. The stream is disabled by it.
    pub(super) fn initialize_module(&self, module: Module) -> Result<(), DeskError> {
        let mut state = self.lock();
        if state.phase.is_armed() {
            return state.not_now("disarm it first");
        }
        if let Some(settings) = state.settings_mut(module) {
            settings.reset();
            settings.follow("mode", "disabled");
        }
        Ok(())
    }

    /// `restart` of the whole unit.
    pub(super) fn restart(&self) {
        self.initialize();
        let mut state = self.lock();
        state.phase = Phase::Na;
        [Module::Stream, Module::Monitor, Module::Filewriter].into_iter().for_each(|module| {
            if let Some(settings) = state.settings_mut(module) {
                settings.reset();
            }
        });
    }

    /// `arm`: returns the number of the series. Its header may wait for a receiver, of which some connect only now.
    pub(super) fn arm(&self) -> Result<u64, DeskError> {
        let mut state = self.lock();
        match state.phase {
            Phase::Idle => {}
            Phase::Na => return state.not_now("initialize it first"),
            _ => return state.not_now("it is armed already"),
        }
        let series = self.next(&mut state);
        let number = series.number;
        state.order = Some(series);
        self.changed.notify_all();
        Ok(number)
    }

    /// `trigger`, with an exposure time if it comes with one: returns when its images have been sent.
    pub(super) fn trigger(&self, count_s: Option<f64>) -> Result<(), DeskError> {
        let mut state = self.lock();
        if state.phase != Phase::Ready {
            return state.not_now("only one that is ready takes triggers: arm it first");
        }
        if !state.is_triggered {
            return state.not_now("its triggers come from outside, as trigger_mode says");
        }
        state.triggers_given += 1;
        state.count_ns = count_s.map(in_ticks_ns);
        let (number, given) = (state.number, state.triggers_given);
        self.changed.notify_all();
        let is_waiting =
            |state: &State| state.number == number && state.phase.is_armed() && state.triggers_done < given;
        while is_waiting(&state) && !state.is_ending {
            state = self.wait(state);
        }
        Ok(())
    }

    /// `disarm`, `cancel` and `abort`: returns the number of the newest series when its end has been sent.
    pub(super) fn stop(&self) -> u64 {
        let mut state = self.lock();
        let number = state.number;
        if state.phase.is_armed() {
            state.is_stopped = true;
            self.halt.store(true, Ordering::Release);
            self.changed.notify_all();
            while state.phase.is_armed() && state.number == number && !state.is_ending {
                state = self.wait(state);
            }
        }
        number
    }

    /// Makes the next series of the present settings.
    fn next(&self, state: &mut State) -> Series {
        state.number += 1;
        let armed = SystemTime::now();
        state.name = unique_name(armed, self.seed ^ state.number);
        state.detector.follow("data_collection_date", format_rfc3339_millis(armed).to_string());
        let detector = &state.detector;
        let mode = detector.text("trigger_mode");
        let is_triggered = matches!(mode, "ints" | "inte");
        let is_single = matches!(mode, "inte" | "exte");
        let frame_s =
            if is_triggered || self.rate_hz == 0.0 { detector.float("frame_time") } else { 1.0 / self.rate_hz };
        let frame_ns = in_ticks_ns(frame_s).max(TICK_NS);
        let detail = HeaderDetail::ALL.into_iter().find(|detail| detail.name() == state.stream.text("header_detail"));
        let series = Series {
            number: state.number,
            name: state.name.clone(),
            armed,
            shape: self.shape,
            form: self.form.clone(),
            format: self.format.or_else(|| state.format()),
            triggers: detector.uint("ntrigger"),
            images_per_trigger: if is_single { 1 } else { detector.uint("nimages") },
            is_triggered,
            count_ns: in_ticks_ns(detector.float("count_time")).min(frame_ns),
            frame_ns,
            detail: detail.unwrap_or(HeaderDetail::Basic),
            header_appendix: state.stream.get("header_appendix").clone(),
            image_appendix: state.stream.get("image_appendix").clone(),
            configuration: detector.flat(),
        };
        state.phase = Phase::Ready;
        (state.is_stopped, state.is_triggered) = (false, is_triggered);
        (state.triggers_given, state.triggers_done, state.count_ns) = (0, 0, None);
        self.dropped.store(0, Ordering::Relaxed);
        self.halt.store(state.is_ending, Ordering::Release);
        series
    }

    /// Waits for a series to be armed, or makes one if series follow by themselves; `None` at the end.
    pub(super) fn next_series(&self, is_free: bool) -> Option<Series> {
        let mut state = self.lock();
        loop {
            if state.is_ending {
                return None;
            }
            if is_free {
                return Some(self.next(&mut state));
            }
            if let Some(series) = state.order.take() {
                return Some(series);
            }
            state = self.wait(state);
        }
    }

    /// Waits for the next trigger of a series: the exposure time it came with, if any. `None` when all have been given or
    /// the series was stopped.
    pub(super) fn next_trigger(&self, series: &Series) -> Option<Option<u64>> {
        let mut state = self.lock();
        loop {
            if state.is_ending || state.is_stopped || state.triggers_done >= series.triggers {
                return None;
            }
            if !series.is_triggered || state.triggers_given > state.triggers_done {
                state.phase = Phase::Acquire;
                return Some(state.count_ns);
            }
            state = self.wait(state);
        }
    }

    /// Images of so many triggers have been sent.
    pub(super) fn exposed(&self, triggers: u64) {
        let mut state = self.lock();
        state.triggers_done += triggers;
        state.phase = Phase::Ready;
        self.changed.notify_all();
    }

    /// The end of the series has been sent.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle;
        self.halt.store(state.is_ending, Ordering::Release);
        self.changed.notify_all();
    }

    /// A message of the series was not taken by anybody.
    pub(super) fn add_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for a time, or less when something should end.
    pub(super) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = self.lock();
        while !self.is_halted() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the sender should stop after the image on its way (I2).
    pub(super) fn is_halted(&self) -> bool {
        self.halt.load(Ordering::Acquire)
    }

    /// Whether the simulator ends.
    pub(super) fn is_ending(&self) -> bool {
        self.lock().is_ending
    }

    /// Ends everything: waiting threads wake up.
    pub(super) fn end(&self) {
        self.lock().is_ending = true;
        self.halt.store(true, Ordering::Release);
        self.changed.notify_all();
    }
}

impl State {
    fn settings(&self, module: Module) -> Option<&Settings> {
        match module {
            Module::Detector => Some(&self.detector),
            Module::Stream => Some(&self.stream),
            Module::Monitor => Some(&self.monitor),
            Module::Filewriter => Some(&self.filewriter),
            Module::System => None,
        }
    }

    fn settings_mut(&mut self, module: Module) -> Option<&mut Settings> {
        match module {
            Module::Detector => Some(&mut self.detector),
            Module::Stream => Some(&mut self.stream),
            Module::Monitor => Some(&mut self.monitor),
            Module::Filewriter => Some(&mut self.filewriter),
            Module::System => None,
        }
    }

    /// The stream that clients have chosen; `None` when it is switched off.
    fn format(&self) -> Option<StreamFormat> {
        let is_legacy = self.stream.text("format") == "legacy";
        let format = if is_legacy { StreamFormat::Legacy } else { StreamFormat::Cbor };
        (self.stream.text("mode") == "enabled").then_some(format)
    }

    fn not_now<T>(&self, hint: &'static str) -> Result<T, DeskError> {
        Err(DeskError::NotNow { state: self.phase.name(), hint })
    }
}

/// Settings of the detector that follow from one that has changed.
fn follow(settings: &mut Settings, name: &str, changed: &mut Vec<String>) {
    let mut set = |settings: &mut Settings, other: &str, value: f64| {
        if settings.float(other) != value {
            settings.follow(other, value);
            changed.push(other.to_owned());
        }
    };
    let (count_s, frame_s) = (settings.float("count_time"), settings.float("frame_time"));
    let shortest_s = count_s + READOUT_S;
    let is_short = frame_s < shortest_s - 1e-12;
    match name {
        "count_time" => {
            set(settings, "frame_count_time", count_s);
            if is_short {
                set(settings, "frame_time", shortest_s);
            }
        }
        "frame_time" if is_short => {
            let longest_s = frame_s - READOUT_S;
            set(settings, "count_time", longest_s);
            set(settings, "frame_count_time", longest_s);
        }
        "incident_energy" | "photon_energy" => {
            let energy_ev = settings.float(name);
            for other in ["incident_energy", "photon_energy"] {
                set(settings, other, energy_ev);
            }
            set(settings, "wavelength", wavelength_angstrom(energy_ev));
        }
        "threshold_energy" | "threshold/1/energy" => {
            let energy_ev = settings.float(name);
            for other in ["threshold_energy", "threshold/1/energy"] {
                set(settings, other, energy_ev);
            }
        }
        _ => {}
    }
}

/// A time in whole ticks of the detector's clock, in ns.
fn in_ticks_ns(time_s: f64) -> u64 {
    (time_s * 1e9 / TICK_NS as f64).round() as u64 * TICK_NS
}

/// 26 letters and digits of Crockford's alphabet: 48 bits of time, then 80 random ones (ULID specification).
fn unique_name(time: SystemTime, seed: u64) -> String {
    let since_1970_ms = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let mut rng = StdRng::seed_from_u64(seed);
    let random = (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())) >> 48;
    let bits = (since_1970_ms & 0xffff_ffff_ffff) << 80 | random;
    let letter = |place: u32| char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(bits >> (5 * place) & 31) as usize]);
    (0..26).rev().map(letter).collect()
}
