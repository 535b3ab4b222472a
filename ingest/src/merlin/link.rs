//! The byte stream of the data socket, and how to get one.
//!
//! # Why this way
//! The source sees two small traits, so that tests and fuzzers play any stream without a socket. The socket does not
//! block: while data keeps coming a receive is one system call; only when there is none does a second one wait, to
//! the microsecond, which `SO_RCVTIMEO` (whole scheduler ticks) would not.

use std::io::{self, IoSliceMut, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use crate::SourceError;

/// Receive buffer asked of the kernel, in bytes: some milliseconds of the fastest link.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// A connection attempt that takes longer has failed.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Idle time after which the kernel asks whether the peer is alive; three questions unanswered close the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing until the deadline.
    Nothing,
    /// The peer closed the stream.
    End,
}

/// A stream of bytes from the detector.
pub trait Wire: Send {
    /// Receives into `places`, one after the other, waiting until `deadline` for the first byte.
    fn receive(&mut self, places: &mut [IoSliceMut<'_>], deadline: Instant) -> io::Result<Received>;
}

/// Opens streams to one detector.
pub trait Dial: Send {
    /// Where to, for messages.
    fn address(&self) -> &str;

    /// Connects, or goes on connecting, until `deadline`; `None` when that takes longer.
    fn dial(&mut self, deadline: Instant) -> Result<Option<Box<dyn Wire>>, SourceError>;
}

/// Opens TCP connections to a host and port.
#[derive(Debug)]
pub struct TcpDial {
    host: String,
    port: u16,
    address: String,
    attempt: Option<Attempt>,
}

/// A connection that is being made.
#[derive(Debug)]
struct Attempt {
    socket: OwnedFd,
    since: Instant,
    /// Further addresses of the host, tried when this one fails: `localhost` may be two, of which one listens.
    rest: std::vec::IntoIter<SocketAddr>,
}

impl Attempt {
    /// Begins to connect to the first of these addresses that does not fail at once.
    fn start(mut addresses: std::vec::IntoIter<SocketAddr>) -> io::Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "host name has no address");
        while let Some(address) = addresses.next() {
            match open_socket(address) {
                Ok(socket) => return Ok(Self { socket, since: Instant::now(), rest: addresses }),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Waits for the connection; gives the attempt back when it needs more time.
    fn go_on(mut self, deadline: Instant) -> io::Result<Result<TcpStream, Self>> {
        loop {
            let failure = match self.outcome(deadline) {
                Ok(true) => return Ok(Ok(TcpStream::from(self.socket))),
                Ok(false) => return Ok(Err(self)),
                Err(error) => error,
            };
            if self.rest.as_slice().is_empty() {
                return Err(failure);
            }
            self = Self::start(self.rest)?;
        }
    }

    /// Whether the connection stands by the deadline.
    fn outcome(&self, deadline: Instant) -> io::Result<bool> {
        if wait_for(&self.socket, PollFlags::OUT, deadline)? {
            sockopt::socket_error(&self.socket)??;
            return Ok(true);
        }
        if self.since.elapsed() > CONNECT_TIME_MAX { Err(io::ErrorKind::TimedOut.into()) } else { Ok(false) }
    }
}

/// A socket that has begun to connect.
fn open_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    enlarge_receive_buffer(&socket); // Before connecting: the window scale is agreed there.
    keep_alive(&socket)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

impl TcpDial {
    /// Will connect to this host name or address.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port, address: format!("{host}:{port}"), attempt: None }
    }

    fn error(&self, source: io::Error) -> SourceError {
        SourceError::Connect { address: self.address.clone(), source }
    }

    fn start(&self) -> io::Result<Attempt> {
        let addresses: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        Attempt::start(addresses.into_iter())
    }
}

impl Dial for TcpDial {
    fn address(&self) -> &str {
        &self.address
    }

    fn dial(&mut self, deadline: Instant) -> Result<Option<Box<dyn Wire>>, SourceError> {
        let attempt = match self.attempt.take() {
            Some(attempt) => attempt,
            None => self.start().map_err(|e| self.error(e))?,
        };
        match attempt.go_on(deadline).map_err(|e| self.error(e))? {
            Ok(stream) => Ok(Some(Box::new(stream))),
            Err(attempt) => {
                self.attempt = Some(attempt);
                Ok(None)
            }
        }
    }
}

impl Wire for TcpStream {
    fn receive(&mut self, places: &mut [IoSliceMut<'_>], deadline: Instant) -> io::Result<Received> {
        loop {
            match self.read_vectored(places) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait_for(&*self, PollFlags::IN, deadline)? {
                        return Ok(Received::Nothing);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until the socket is ready or the deadline passes; an interruption counts as ready, the caller tries again.
fn wait_for(socket: &impl std::os::fd::AsFd, what: PollFlags, deadline: Instant) -> io::Result<bool> {
    let patience = deadline.saturating_duration_since(Instant::now());
    // A duration too long for the kernel means no time limit.
    let patience = Timespec::try_from(patience).ok();
    match poll(&mut [PollFd::new(socket, what)], patience.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(what == PollFlags::IN),
        Err(error) => Err(error.into()),
    }
}

/// Asks for a large receive buffer where that enlarges it: a plain request is cut at `rmem_max` and at the same time
/// ends the kernel's own enlarging, so it is made only when that limit allows the whole.
fn enlarge_receive_buffer(socket: &OwnedFd) {
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES).is_ok() {
        return;
    }
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
    if limit.and_then(|text| text.trim().parse::<usize>().ok()).is_some_and(|bytes| bytes >= RECEIVE_BUFFER_BYTES) {
        let _ = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER_BYTES); // Refused: the default stays.
    }
}

/// Makes the kernel notice a peer that died without a word, also between acquisitions.
fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_IDLE / 2)?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

/// Pause between attempts, to connect or to arm: doubles while they fail.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    next: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Pauses double up to this many times the first.
    const GROWTH_MAX: u32 = 32;

    pub(super) fn new(first: Duration) -> Self {
        Self { first, next: first, until: None }
    }

    /// The link works: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
        self.until = None;
    }

    /// The link failed: a pause begins.
    pub(super) fn fail(&mut self) {
        self.until = Some(Instant::now() + self.next);
        self.next = (self.next * 2).min(self.first * Self::GROWTH_MAX);
    }

    /// Sleeps the pause, at most until `deadline`; whether it is over.
    pub(super) fn wait(&mut self, deadline: Instant) -> bool {
        let Some(until) = self.until else { return true };
        let now = Instant::now();
        if now < until {
            std::thread::sleep(until.min(deadline).saturating_duration_since(now));
        }
        self.is_over()
    }

    /// Whether the pause is over.
    pub(super) fn is_over(&mut self) -> bool {
        self.until = self.until.filter(|&until| Instant::now() < until);
        self.until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// A host with several addresses is reached when only the last one listens, and refused when none does.
    #[test]
    fn all_addresses_are_tried() {
        let (closed, closed_address) = listener();
        drop(closed);
        let (_open, open_address) = listener();
        let deadline = Instant::now() + Duration::from_secs(60);
        let connect = |addresses: Vec<SocketAddr>| Attempt::start(addresses.into_iter())?.go_on(deadline);
        let stream = connect(vec![closed_address, open_address]).expect("one listens").expect("in time");
        assert_eq!(stream.peer_addr().expect("connected"), open_address);
        let error = connect(vec![closed_address]).expect_err("none listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// Nothing to read is no error, and does not outlast the deadline by much.
    #[test]
    fn a_receive_ends_at_its_deadline() {
        let (_listener, address) = listener();
        let deadline = Instant::now() + Duration::from_secs(60);
        let attempt = Attempt::start(vec![address].into_iter()).expect("started");
        let mut stream = attempt.go_on(deadline).expect("listens").expect("in time");
        let mut byte = [0];
        let received = stream.receive(&mut [IoSliceMut::new(&mut byte)], Instant::now()).expect("quiet");
        assert_eq!(received, Received::Nothing);
    }
}
