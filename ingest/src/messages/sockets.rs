//! Several sockets for the messages of one sender, taken as one: which message is next.
//!
//! # Place in the path
//! Between `socket.rs` and the state machine, in the receive thread. With one socket a message is next when it comes. A sender
//! that has several peers deals its messages out to them: each socket brings its share in the sender's order, but nothing is
//! known of the order between two, and begin and end of a series come by one of them each.
//!
//! # Invariants
//! - I1: a message that needs nothing before it is handed over when it comes. One that does is held, and its socket is not read,
//!   until it is its turn: every other socket holds a later one, or has been silent for [`SOCKETS_LINGER`].
//! - I2: one message per socket is held. What comes after it waits in libzmq's queue and in TCP, which are bounded.
//!
//! # Why this way
//! One I/O thread of libzmq reads about as fast as it can copy; each socket has a context, and so a thread, of its own. A
//! second receive thread would need the state machine twice, or a queue of messages.

use std::time::{Duration, Instant};

use super::socket::{self, Endpoint, Part, PullSocket};
use crate::source::SourceError;

/// How long a message waits for earlier ones that may come by a socket from which nothing is heard.
pub(super) const SOCKETS_LINGER: Duration = Duration::from_secs(1);

/// Where a message stands in the order in which its sender made them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Turn {
    /// Number of its series: later ones have larger numbers.
    pub(crate) series: u64,
    pub(crate) step: Step,
}

/// What a message is in its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Step {
    #[default]
    Begin,
    Frame(u64),
    End,
}

/// Why a message is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Messages before it may change what it means.
    Order,
    /// Frames of its series before it may come, and would come too late if it were taken. A socket for which a message waited in
    /// vain is not waited for again until something comes by it, or after all were silent: an idle one must not slow the others.
    Ahead,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing before the deadline.
    Nothing,
    /// A message, now in [`Sockets::message`]: just come, or held before; and whether it is its turn, so that it must be taken.
    Message { is_new: bool, is_turn: bool },
    /// More parts than there may be; they are gone.
    Overlong,
}

/// One socket and what is known of it.
struct Inlet {
    socket: PullSocket,
    held: Option<Held>,
    /// When its newest message came.
    heard: Instant,
    /// A message by another socket has waited for it in vain since then.
    is_idle: bool,
}

struct Held {
    turn: Turn,
    hold: Hold,
    /// Something has changed since it was judged.
    is_due: bool,
}

/// The open sockets, at least one.
pub(super) struct Sockets {
    inlets: Vec<Inlet>,
    /// The socket of the newest message.
    current: usize,
    /// When a message was handed over last.
    busy: Instant,
}

impl Sockets {
    /// Opens `count` sockets, each in a context of its own. Several only make sense where they connect: the sender deals out.
    pub(super) fn open(endpoint: &Endpoint, count: usize) -> Result<Self, SourceError> {
        let heard = Instant::now();
        let inlet = |_| Ok(Inlet { socket: PullSocket::open(endpoint)?, held: None, heard, is_idle: false });
        Ok(Self { inlets: (0..count.max(1)).map(inlet).collect::<Result<_, SourceError>>()?, current: 0, busy: heard })
    }

    pub(super) fn are_several(&self) -> bool {
        self.inlets.len() > 1
    }

    /// Where the sockets listen or connect to, with the port that the system chose.
    pub(super) fn address(&self) -> &str {
        self.inlets[0].socket.address()
    }

    /// As [`PullSocket::peers`], of all sockets.
    pub(super) fn peers(&mut self) -> (usize, u64) {
        let each = self.inlets.iter_mut().map(|inlet| inlet.socket.peers());
        each.fold((0, 0), |(open, lost), (its_open, its_lost)| (open + its_open, lost + its_lost))
    }

    /// As [`PullSocket::sender`].
    pub(super) fn sender(&mut self) -> Option<String> {
        self.inlets[self.current].socket.sender()
    }

    /// The parts of the newest message.
    pub(super) fn message(&self) -> &[Part] {
        self.inlets[self.current].socket.message()
    }

    /// The newest message waits for its turn.
    pub(super) fn hold(&mut self, turn: Turn, hold: Hold) {
        self.inlets[self.current].held = Some(Held { turn, hold, is_due: false });
    }

    /// The newest message is taken.
    pub(super) fn release(&mut self) {
        self.inlets[self.current].held = None;
    }

    /// Messages that are held may mean something else now.
    pub(super) fn recheck(&mut self) {
        self.inlets.iter_mut().filter_map(|inlet| inlet.held.as_mut()).for_each(|held| held.is_due = true);
    }

    /// The next message: one that is held and due, one that comes, one whose turn it is.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Received, SourceError> {
        if let [only] = &mut self.inlets[..] {
            let received = only.socket.receive(deadline)?;
            return Ok(told(received, true));
        }
        loop {
            if let Some(due) = self.inlets.iter().position(|inlet| inlet.held.as_ref().is_some_and(|held| held.is_due))
            {
                self.current = due;
                return Ok(Received::Message { is_new: false, is_turn: false });
            }
            let now = Instant::now();
            let received = self.take(now)?;
            if received != Received::Nothing {
                return Ok(received);
            }
            let turn = self.next_turn();
            match turn {
                Some((next, at)) if at <= now => {
                    self.inlets.iter_mut().filter(|inlet| inlet.held.is_none()).for_each(|inlet| inlet.is_idle = true);
                    (self.current, self.busy) = (next, now);
                    return Ok(Received::Message { is_new: false, is_turn: true });
                }
                _ if now >= deadline => return Ok(Received::Nothing),
                _ => self.wait(turn.map_or(deadline, |(_, at)| at.min(deadline)))?,
            }
        }
    }

    /// A message of a socket that is read, the one after the newest first.
    fn take(&mut self, now: Instant) -> Result<Received, SourceError> {
        let count = self.inlets.len();
        let was_silent = now >= self.busy + SOCKETS_LINGER;
        for at in (1..=count).map(|step| (self.current + step) % count) {
            let inlet = &mut self.inlets[at];
            if inlet.held.is_some() {
                continue;
            }
            let received = told(inlet.socket.receive(now)?, false);
            if received != Received::Nothing {
                (inlet.heard, inlet.is_idle) = (now, false);
                self.inlets.iter_mut().for_each(|inlet| inlet.is_idle &= !was_silent);
                (self.current, self.busy) = (at, now);
                return Ok(received);
            }
        }
        Ok(Received::Nothing)
    }

    /// The first of the held messages, and when it is its turn if nothing comes.
    fn next_turn(&self) -> Option<(usize, Instant)> {
        let held = self.inlets.iter().enumerate().filter_map(|(at, inlet)| Some((inlet.held.as_ref()?, at)));
        let (first, at) = held.min_by_key(|(held, _)| held.turn)?;
        let came = self.inlets[at].heard;
        let waited_for = |inlet: &&Inlet| inlet.held.is_none() && !(first.hold == Hold::Ahead && inlet.is_idle);
        let silent = self.inlets.iter().filter(waited_for).map(|inlet| inlet.heard.max(came) + SOCKETS_LINGER).max();
        Some((at, silent.unwrap_or(came)))
    }

    /// Waits until a socket that is read has a message, at most until `deadline`.
    fn wait(&self, deadline: Instant) -> Result<(), SourceError> {
        let read = self.inlets.iter().filter(|inlet| inlet.held.is_none()).map(|inlet| &inlet.socket);
        socket::wait(&read.collect::<Vec<_>>(), deadline)
    }
}

fn told(received: socket::Received, is_turn: bool) -> Received {
    match received {
        socket::Received::Nothing => Received::Nothing,
        socket::Received::Message => Received::Message { is_new: true, is_turn },
        socket::Received::Overlong => Received::Overlong,
    }
}
