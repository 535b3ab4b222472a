//! Viewers of a running receiver: ZMQ subscribers and WebSocket clients, some of which read and some of which never do.
//!
//! Those that read stand back behind everything else on the machine, so that their own work is not mistaken for the
//! receiver's; what they are too late for, they miss.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Subscribers of one context of libzmq, which has room for about a thousand sockets.
const PER_CONTEXT: usize = 256;
/// Pause of readers after each round over all of their connections: a page looks 20 times a second.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// What a page asks for.
const ASK: &str = r#"{"op": "sub", "topics": ["v1/"], "max_hz": 20, "max_px": 1024, "dtype": "<f4"}"#;

/// How many look, and how many of them read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct CrowdSize {
    /// ZMQ subscribers.
    #[arg(long, default_value_t = 8)]
    pub(crate) zmq: usize,
    /// WebSocket clients that ask for what a page asks for.
    #[arg(long, default_value_t = 0)]
    pub(crate) web: usize,
    /// Of the subscribers, so many read.
    #[arg(long, default_value_t = 0)]
    pub(crate) zmq_reading: usize,
    /// Of the clients, so many read.
    #[arg(long, default_value_t = 0)]
    pub(crate) web_reading: usize,
}

/// Everybody who looks, until dropped.
pub(crate) struct Crowd {
    _stopped: (Vec<zmq::Socket>, Vec<TcpStream>),
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    readers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Nobody.
    pub(crate) fn nobody() -> Self {
        Self { _stopped: Default::default(), stop: Arc::default(), bytes: Arc::default(), readers: Vec::new() }
    }

    /// Connects all of them.
    pub(crate) fn gather(size: CrowdSize, zmq_endpoint: &str, http: SocketAddr) -> Result<Self> {
        ensure!(size.zmq_reading <= size.zmq && size.web_reading <= size.web, "more read than look");
        raise_descriptor_limit();
        let mut crowd = Self::nobody();
        let (mut sockets, mut streams) = (subscribers(zmq_endpoint, size.zmq)?, clients(http, size.web)?);
        let stopped = (sockets.split_off(size.zmq_reading), streams.split_off(size.web_reading));
        crowd._stopped = stopped;
        crowd.read(move || sockets.iter().map(drain_socket).sum::<u64>());
        let mut buffer = vec![0; 1 << 20];
        crowd.read(move || streams.iter().map(|stream| drain_stream(stream, &mut buffer)).sum::<u64>());
        Ok(crowd)
    }

    /// Reads in a thread, round after round, what a round says it read.
    fn read(&mut self, mut round: impl FnMut() -> u64 + Send + 'static) {
        let (stop, bytes) = (Arc::clone(&self.stop), Arc::clone(&self.bytes));
        self.readers.push(std::thread::spawn(move || {
            // Refused, it competes with the receiver: the rates then say too little for it.
            let _ = rustix::process::nice(19);
            while !stop.load(Ordering::Relaxed) {
                bytes.fetch_add(round(), Ordering::Relaxed);
                std::thread::sleep(READ_PAUSE);
            }
        }));
    }

    /// Bytes that were read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for reader in self.readers.drain(..) {
            let _ = reader.join(); // A panic there has been printed.
        }
    }
}

/// As far as is allowed: what then fails says so.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Subscribers of everything.
fn subscribers(endpoint: &str, count: usize) -> Result<Vec<zmq::Socket>> {
    let mut context = zmq::Context::new();
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        if number % PER_CONTEXT == 0 {
            context = zmq::Context::new();
        }
        let socket = context.socket(zmq::SUB)?;
        socket.set_rcvhwm(1)?;
        socket.set_linger(0)?;
        socket.set_subscribe(b"v1/")?;
        socket.connect(endpoint)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn drain_socket(socket: &zmq::Socket) -> u64 {
    let mut bytes = 0;
    while let Ok(parts) = socket.recv_multipart(zmq::DONTWAIT) {
        bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
    }
    bytes
}

/// Clients whose handshake is over and who have asked; their sockets do not block.
fn clients(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|_| client(address).context("connect over WebSocket")).collect()
}

fn client(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET /api/v1/live HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cm9uY2hpIHJvbmNoaSByb24=\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 4096, "no end of the answer's head");
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "refused: {}", String::from_utf8_lossy(&head));
    // One text frame of less than 126 bytes (RFC 6455, 5.2), masked with zeros.
    let length = u8::try_from(ASK.len()).ok().filter(|length| *length < 126).context("a short request")?;
    stream.write_all(&[&[0x81, 0x80 | length, 0, 0, 0, 0], ASK.as_bytes()].concat())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn drain_stream(mut stream: &TcpStream, buffer: &mut [u8]) -> u64 {
    let mut bytes = 0;
    loop {
        match stream.read(buffer) {
            Ok(0) => return bytes,
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return bytes, // Nothing there, or gone: the receiver's count of clients tells.
        }
    }
}
