//! What the control side, the data side and the owner of a simulator share: variables, arming, triggers, the end.
//!
//! ```text
//!   Idle --STARTACQUISITION--> Armed --data side takes it--> Taken --trigger, frames--> Idle
//!                              STOPACQUISITION and ABORT lead back to Idle from everywhere
//! ```
//!
//! # Invariants
//! - I1: one acquisition at a time; a second start is answered with "busy".
//! - I2: `halt` is set whenever the sender should look at the state: stop, client gone, end. It is all the sender reads
//!   between system calls.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::TriggerMode;
use super::control::{BUSY, Command, DONE, Detector, Variables};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Armed,
    Taken,
}

struct State {
    variables: Variables,
    phase: Phase,
    is_triggered: bool,
    is_stopped: bool,
    is_free_running: bool,
    is_client_gone: bool,
    is_ending: bool,
    /// Everything that must be shut down to wake the threads that wait on it.
    streams: Vec<(u64, TcpStream)>,
    listeners: Vec<TcpListener>,
}

/// The shared state; see the module.
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    halt: AtomicBool,
    next_stream: AtomicU64,
}

/// An acquisition to carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// `NUMFRAMESTOACQUIRE`, 0 for endless.
    pub(super) frames: u64,
    /// `NUMFRAMESPERTRIGGER`.
    pub(super) per_trigger: u64,
    /// `TRIGGERSTART`.
    pub(super) trigger_start: u32,
    is_free_running: bool,
}

impl Order {
    /// Frames to send, `None` for endless.
    pub(super) fn limit(&self) -> Option<u64> {
        (self.frames > 0).then_some(self.frames)
    }
}

impl Desk {
    pub(super) fn new(variables: Variables, trigger: TriggerMode) -> Self {
        let state = State {
            variables,
            phase: Phase::Idle,
            is_triggered: false,
            is_stopped: false,
            is_free_running: trigger == TriggerMode::Now,
            is_client_gone: true,
            is_ending: false,
            streams: Vec::new(),
            listeners: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            halt: AtomicBool::new(false),
            next_stream: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panics while holding the lock leaves plain values behind: all of them stay usable.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Option<Duration>) -> MutexGuard<'a, State> {
        match timeout {
            None => self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            Some(timeout) => {
                self.changed.wait_timeout(state, timeout).unwrap_or_else(std::sync::PoisonError::into_inner).0
            }
        }
    }

    /// Answers one control request.
    pub(super) fn answer(&self, body: &[u8], short_length: bool) -> Vec<u8> {
        let mut locked = Locked { desk: self, state: self.lock() };
        super::control::answer(body, &mut locked, short_length)
    }

    /// The hardware trigger line: starts an acquisition that waits for it.
    pub(super) fn trigger(&self) -> bool {
        let mut state = self.lock();
        let is_waiting = state.phase != Phase::Idle;
        state.is_triggered |= is_waiting;
        self.changed.notify_all();
        is_waiting
    }

    /// A data client is there, or has left.
    pub(super) fn set_client(&self, is_here: bool) {
        let mut state = self.lock();
        state.is_client_gone = !is_here;
        self.halt.store(!is_here || state.is_ending, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits for an acquisition to carry out; `None` when the client has left or the end has come.
    pub(super) fn next_order(&self) -> Option<Order> {
        let mut state = self.lock();
        loop {
            if state.is_ending || state.is_client_gone {
                return None;
            }
            if state.is_free_running || state.phase == Phase::Armed {
                let is_free_running = state.phase != Phase::Armed;
                state.phase = Phase::Taken;
                state.is_stopped = false;
                self.halt.store(false, Ordering::Release);
                return Some(Order {
                    frames: state.variables.whole("NUMFRAMESTOACQUIRE"),
                    per_trigger: state.variables.whole("NUMFRAMESPERTRIGGER"),
                    trigger_start: state.variables.whole("TRIGGERSTART") as u32,
                    is_free_running,
                });
            }
            state = self.wait(state, None);
        }
    }

    /// Waits for the trigger of an order; `false` when it was stopped instead.
    pub(super) fn wait_for_trigger(&self, order: &Order, external_after: Option<Duration>) -> bool {
        if order.is_free_running || order.trigger_start == 0 {
            return !self.is_halted();
        }
        let external = external_after.filter(|_| order.trigger_start != 5).map(|after| Instant::now() + after);
        let mut state = self.lock();
        loop {
            if state.is_ending || state.is_client_gone || state.is_stopped {
                return false;
            }
            let left = external.map(|at| at.saturating_duration_since(Instant::now()));
            if state.is_triggered || left == Some(Duration::ZERO) {
                return true;
            }
            state = self.wait(state, left);
        }
    }

    /// Waits for a time, or less when something should end.
    pub(super) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = self.lock();
        while !self.is_halted() && !state.is_ending && !state.is_client_gone {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, Some(left));
        }
    }

    /// The acquisition taken last is over.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle;
        state.is_triggered = false;
        if !state.is_client_gone && !state.is_ending {
            self.halt.store(false, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Whether the sender should stop after the frame on the wire (I2).
    pub(super) fn is_halted(&self) -> bool {
        self.halt.load(Ordering::Acquire)
    }

    /// Whether the connection should be left as it is, in the middle of a frame or not.
    pub(super) fn is_ending(&self) -> bool {
        self.lock().is_ending
    }

    /// Whether the data client is still connected and wanted.
    pub(super) fn is_client_here(&self) -> bool {
        let state = self.lock();
        !state.is_client_gone && !state.is_ending
    }

    /// Remembers a listener to be woken at the end.
    pub(super) fn watch_listener(&self, listener: TcpListener) {
        self.lock().listeners.push(listener);
    }

    /// Remembers a connection to be shut down at the end; `None` when the end has already come.
    pub(super) fn watch_stream(&self, stream: TcpStream) -> Option<u64> {
        let mut state = self.lock();
        if state.is_ending {
            return None;
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        state.streams.push((id, stream));
        Some(id)
    }

    /// Forgets a connection.
    pub(super) fn unwatch_stream(&self, id: u64) {
        self.lock().streams.retain(|(other, _)| *other != id);
    }

    /// Ends everything: no new connections, waiting threads wake up, what the kernel holds is still delivered.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_ending = true;
        self.halt.store(true, Ordering::Release);
        for (_, stream) in &state.streams {
            // A connection that is gone already cannot be shut down, which is what we want.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for listener in &state.listeners {
            // On Linux this makes a blocked `accept` return.
            let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

struct Locked<'a> {
    desk: &'a Desk,
    state: MutexGuard<'a, State>,
}

impl Locked<'_> {
    fn stop(&mut self) {
        self.state.is_free_running = false;
        match self.state.phase {
            Phase::Idle => {}
            Phase::Armed => self.state.phase = Phase::Idle,
            Phase::Taken => {
                self.state.is_stopped = true;
                self.desk.halt.store(true, Ordering::Release);
            }
        }
    }
}

impl Detector for Locked<'_> {
    fn command(&mut self, command: Command) -> u8 {
        match command {
            Command::Start if self.state.phase != Phase::Idle => return BUSY,
            Command::Start => {
                self.state.phase = Phase::Armed;
                self.state.is_triggered = false;
            }
            Command::SoftTrigger => {
                if self.state.phase == Phase::Idle || self.state.variables.whole("TRIGGERSTART") != 5 {
                    return BUSY;
                }
                self.state.is_triggered = true;
            }
            Command::Stop | Command::Abort => self.stop(),
            Command::Reset => {
                self.stop();
                self.state.variables.reset();
            }
        }
        self.desk.changed.notify_all();
        DONE
    }

    fn is_busy(&self) -> bool {
        self.state.phase != Phase::Idle
    }

    fn variables(&mut self) -> &mut Variables {
        &mut self.state.variables
    }
}
