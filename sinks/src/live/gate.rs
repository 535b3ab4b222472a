//! The gate of the ZMQ socket: counts its connections and turns new ones away when there are too many.
//!
//! # Place in the path
//! Owned by the publisher thread, which calls [`Gate::step`] in every round. libzmq itself has no such limit; it asks
//! here before it lets a peer in (its authentication protocol, ZAP, RFC 27) and reports connections that come and go.
//!
//! # Invariants
//! - I1: `open` holds the sockets of all connections that libzmq has accepted and not closed, handshakes included.
//! - I2: a peer is let in only while `open`, itself included, is not larger than the limit.
//!
//! # Limits
//! Peers that are turned away, or never finish their handshake, hold no queue; libzmq closes them after 2 s, and counts
//! until then. The limit is one of connections: a storm of them keeps newcomers out, never those that are in.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::board::StreamCounters;

const ZAP_ENDPOINT: &str = "inproc://zeromq.zap.01";
const MONITOR_ENDPOINT: &str = "inproc://live-monitor";

/// Decides who may connect.
pub(super) struct Gate {
    zap: zmq::Socket,
    monitor: zmq::Socket,
    open: HashSet<i32>,
    connections_max: usize,
    /// Connections that the gauge of the stream counts for this gate: several have a part in it.
    told: u64,
}

impl Gate {
    /// Puts a gate before `socket`, which must not be bound yet.
    pub(super) fn new(
        context: &zmq::Context,
        socket: &zmq::Socket,
        connections_max: usize,
    ) -> Result<Self, zmq::Error> {
        let zap = context.socket(zmq::REP)?;
        zap.set_linger(0)?;
        zap.bind(ZAP_ENDPOINT)?;
        socket.set_zap_domain("ronchi")?; // Without a domain, libzmq does not ask.
        let events = zmq::SocketEvent::ACCEPTED.to_raw() | zmq::SocketEvent::DISCONNECTED.to_raw();
        socket.monitor(MONITOR_ENDPOINT, i32::from(events))?;
        let monitor = context.socket(zmq::PAIR)?;
        monitor.set_linger(0)?;
        monitor.connect(MONITOR_ENDPOINT)?;
        Ok(Self { zap, monitor, open: HashSet::new(), connections_max, told: 0 })
    }

    /// Takes note of connections, answers who waits, and keeps the counters: subscribers now, and those turned away.
    pub(super) fn step(&mut self, stream: &StreamCounters) {
        stream.subscribers_refused.fetch_add(self.answer(), Ordering::Relaxed);
        let open = self.open.len() as u64;
        stream.subscribers.fetch_add(open.wrapping_sub(self.told), Ordering::Relaxed); // Wraps where there are fewer.
        self.told = open;
    }

    /// Connections at this moment.
    pub(super) fn connection_count(&self) -> usize {
        self.open.len()
    }

    /// The number of those turned away.
    fn answer(&mut self) -> u64 {
        let mut refused = 0;
        loop {
            // Before each answer, so that a connection is counted before it is judged (I2).
            while let Ok(event) = self.monitor.recv_multipart(zmq::DONTWAIT) {
                self.note(&event);
            }
            let Ok(request) = self.zap.recv_multipart(zmq::DONTWAIT) else { return refused };
            let is_welcome = self.open.len() <= self.connections_max;
            refused += u64::from(!is_welcome);
            let id = request.get(1).map_or(&[][..], Vec::as_slice);
            // 300 is a temporary refusal: libzmq lets the handshake run out, and the peer tries again by itself.
            let (code, text): (&[u8], &[u8]) =
                if is_welcome { (b"200", b"OK") } else { (b"300", b"too many subscribers") };
            // The asker is libzmq in this process: when it is gone, nobody is left to be told.
            let _ = self.zap.send_multipart([b"1.0", id, code, text, b"", b""], zmq::DONTWAIT);
        }
    }

    #[expect(clippy::host_endian_bytes, reason = "libzmq reports its events in the byte order of the host")]
    fn note(&mut self, event: &[Vec<u8>]) {
        let Some((&[a, b], value)) = event.first().and_then(|part| part.split_first_chunk::<2>()) else { return };
        let Ok(value) = <[u8; 4]>::try_from(value) else { return };
        let descriptor = i32::from_ne_bytes(value);
        match zmq::SocketEvent::from_raw(u16::from_ne_bytes([a, b])) {
            zmq::SocketEvent::ACCEPTED => drop(self.open.insert(descriptor)),
            zmq::SocketEvent::DISCONNECTED => drop(self.open.remove(&descriptor)),
            _ => {}
        }
    }
}
