//! A ZMQ PULL socket, with every limit libzmq offers, and a count of connected peers.
//!
//! # Limits
//! One part at most `part_bytes` long (libzmq closes the connection of a peer that announces more, before it
//! allocates), at most [`QUEUE_MESSAGES`] messages waiting per peer, handshakes at most [`HANDSHAKE`] long.

use std::io;
use std::time::{Duration, Instant};

use zmq::{Context, DONTWAIT, Message, PollItem, Socket, SocketType};

use crate::source::SourceError;

/// Messages that libzmq keeps per peer before it stops reading from it.
const QUEUE_MESSAGES: i32 = 64;
/// Longest time a peer may take to speak ZMQ: scanners and browsers are gone after it.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A socket that connects and has been alone for so long connects anew: libzmq tries again after a lost connection, but not after
/// one that it ended itself, because of a message that is too long or is none.
const ALONE: Duration = Duration::from_secs(3);
/// Socket events of `zmq.h`; each carries the file descriptor of its connection.
const CONNECTED: u16 = 0x0001;
const ACCEPTED: u16 = 0x0020;
const DISCONNECTED: u16 = 0x0200;
/// Most connections that are told apart.
const PEERS_MAX: usize = 1024;
const MONITOR: &str = "inproc://monitor";

/// Most parts of a message.
const PARTS_MAX: usize = 9;

/// Where messages come from, and how long they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// ZMQ endpoint, e.g. `tcp://127.0.0.1:7001`.
    pub(crate) address: String,
    /// Listen there (`true`) or connect to it.
    pub(crate) bind: bool,
    /// Most bytes of a part.
    pub(crate) part_bytes: u64,
    /// Most parts of a message, at most nine. Where messages have one part, those that come together are taken one by one.
    pub(crate) parts_max: usize,
}

/// A part of a message.
pub(crate) type Part = Message;

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing before the deadline.
    Nothing,
    /// A message, now in [`PullSocket::message`].
    Message,
    /// More parts than there may be; they are gone.
    Overlong,
}

/// The open socket. The context goes last: it waits for its sockets.
pub(super) struct PullSocket {
    pull: Socket,
    monitor: Socket,
    address: String,
    /// Where it connects to; `None` when it listens.
    connects_to: Option<String>,
    /// Since when it has no peer.
    alone: Instant,
    peers: Vec<u32>,
    lost_count: u64,
    /// Those of the newest message come first.
    parts: [Message; PARTS_MAX],
    part_count: usize,
    parts_max: usize,
    _context: Context,
}

impl PullSocket {
    /// Listens at or connects to its address.
    pub(super) fn open(endpoint: &Endpoint) -> Result<Self, SourceError> {
        let Endpoint { address: ref endpoint, bind, part_bytes, parts_max } = *endpoint;
        let open = || -> zmq::Result<Self> {
            let context = Context::new();
            let pull = context.socket(SocketType::PULL)?;
            pull.set_linger(0)?;
            pull.set_ipv6(endpoint.contains('['))?;
            pull.set_rcvhwm(QUEUE_MESSAGES)?;
            pull.set_maxmsgsize(i64::try_from(part_bytes).unwrap_or(i64::MAX))?;
            pull.set_handshake_ivl(HANDSHAKE.as_millis() as i32)?;
            pull.set_reconnect_ivl(100)?;
            pull.set_reconnect_ivl_max(2000)?;
            pull.monitor(MONITOR, i32::from(CONNECTED | ACCEPTED | DISCONNECTED))?;
            let monitor = context.socket(SocketType::PAIR)?;
            monitor.set_linger(0)?;
            monitor.connect(MONITOR)?;
            if bind {
                pull.bind(endpoint)?
            } else {
                pull.connect(endpoint)?
            }
            let address = pull.get_last_endpoint()?.unwrap_or_else(|_| endpoint.clone());
            let parts = std::array::from_fn(|_| Message::new());
            let parts_max = parts_max.clamp(1, PARTS_MAX);
            Ok(Self {
                pull,
                monitor,
                address,
                connects_to: (!bind).then(|| endpoint.clone()),
                alone: Instant::now(),
                peers: Vec::new(),
                lost_count: 0,
                parts,
                part_count: 0,
                parts_max,
                _context: context,
            })
        };
        open().map_err(|e| SourceError::Connect {
            address: endpoint.clone(),
            source: io::Error::from_raw_os_error(e.to_raw()),
        })
    }

    /// Where the socket listens or connects to, with the port that the system chose.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Open connections, and connections lost so far; reads what libzmq has reported since the last call. A connection
    /// that does not speak ZMQ counts until its handshake fails.
    pub(super) fn peers(&mut self) -> (usize, u64) {
        while let Ok(event) = self.monitor.recv_msg(DONTWAIT) {
            let _ = self.monitor.recv_msg(DONTWAIT); // The second part is the address.
            let Some((number, connection)) = monitor_event(&event) else { continue };
            let known = self.peers.iter().position(|&peer| peer == connection);
            match (number, known) {
                (CONNECTED | ACCEPTED, None) if self.peers.len() < PEERS_MAX => self.peers.push(connection),
                (DISCONNECTED, Some(i)) => {
                    self.peers.swap_remove(i);
                    self.lost_count += 1;
                }
                _ => {}
            }
        }
        (self.peers.len(), self.lost_count)
    }

    /// IP address of the peer that sent the newest message, where libzmq knows it.
    pub(super) fn sender(&mut self) -> Option<String> {
        self.parts[0].gets("Peer-Address").map(str::to_owned)
    }

    /// The parts of the newest message.
    pub(super) fn message(&self) -> &[Message] {
        &self.parts[..self.part_count]
    }

    /// Receives the next message, waiting until `deadline` when none is there.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Received, SourceError> {
        let result = self.try_receive(deadline);
        result.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: zmq::Error) -> SourceError {
        SourceError::Lost { address: self.address.clone(), source: io::Error::from_raw_os_error(error.to_raw()) }
    }

    /// Hears who came and went, without which libzmq stops after some 1000 of them, and connects anew after it has been alone for
    /// [`ALONE`]. Only when nothing is waiting: what is would be lost.
    fn keep_company(&mut self) -> zmq::Result<()> {
        let now = Instant::now();
        if self.peers().0 > 0 {
            self.alone = now;
        } else if let Some(endpoint) = self.connects_to.as_deref().filter(|_| now >= self.alone + ALONE) {
            self.alone = now;
            let _ = self.pull.disconnect(endpoint); // Unknown where libzmq has given it up.
            self.pull.connect(endpoint)?;
        }
        Ok(())
    }

    fn try_receive(&mut self, deadline: Instant) -> zmq::Result<Received> {
        self.part_count = 0;
        match self.pull.recv(&mut self.parts[0], DONTWAIT) {
            Ok(()) => {}
            Err(zmq::Error::EAGAIN) => {
                self.keep_company()?;
                let patience = deadline.saturating_duration_since(Instant::now());
                if patience.is_zero() {
                    return Ok(Received::Nothing);
                }
                self.pull.set_rcvtimeo(milliseconds(patience))?;
                match self.pull.recv(&mut self.parts[0], 0) {
                    Ok(()) => {}
                    Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => return Ok(Received::Nothing),
                    Err(e) => return Err(e),
                }
            }
            Err(zmq::Error::EINTR) => return Ok(Received::Nothing),
            Err(e) => return Err(e),
        }
        let mut last = 0;
        while self.parts_max > 1 && self.parts[last].get_more() {
            if last + 1 == self.parts_max {
                self.drain(last)?;
                return Ok(Received::Overlong);
            }
            last += 1;
            self.receive_part(last)?;
        }
        self.part_count = last + 1;
        Ok(Received::Message)
    }

    /// Takes what is left of a message, part by part into the same place.
    fn drain(&mut self, place: usize) -> zmq::Result<()> {
        while self.parts[place].get_more() {
            self.receive_part(place)?;
        }
        Ok(())
    }

    /// The next part of a message; libzmq hands messages over whole, so it is there already.
    fn receive_part(&mut self, place: usize) -> zmq::Result<()> {
        loop {
            match self.pull.recv(&mut self.parts[place], DONTWAIT) {
                Err(zmq::Error::EINTR) => {}
                result => return result,
            }
        }
    }
}

/// Waits until one of these sockets has a message, at most until `deadline`.
pub(super) fn wait(sockets: &[&PullSocket], deadline: Instant) -> Result<(), SourceError> {
    let mut items: Vec<PollItem<'_>> = sockets.iter().map(|socket| socket.pull.as_poll_item(zmq::POLLIN)).collect();
    let patience = deadline.saturating_duration_since(Instant::now());
    match (zmq::poll(&mut items, milliseconds(patience).into()), sockets) {
        (Err(error), [first, ..]) if error != zmq::Error::EINTR => Err(first.lost(error)),
        _ => Ok(()),
    }
}

/// Rounded up, so that a deadline less than a millisecond away does not become a busy loop.
fn milliseconds(patience: Duration) -> i32 {
    i32::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// Number and value of a monitor event.
#[expect(clippy::host_endian_bytes, reason = "libzmq hands events over in the byte order of this process")]
fn monitor_event(event: &[u8]) -> Option<(u16, u32)> {
    let (number, rest) = event.split_first_chunk::<2>()?;
    Some((u16::from_ne_bytes(*number), u32::from_ne_bytes(*rest.first_chunk()?)))
}
