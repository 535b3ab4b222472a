//! The two sockets: accepting clients, reading requests, noticing that a client has left.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::MerlinSimulation;
use super::control::REQUEST_BYTES_MAX;
use super::desk::Desk;
use super::format::PREFIX_BYTES;
use super::sender::{Outcome, Sender};
use super::supply::Supply;
use crate::simulate::tally::Tally;

const CONTROL_CLIENTS_MAX: usize = 16;

/// Everything the threads of a simulator share.
pub(super) struct Server {
    pub(super) plan: MerlinSimulation,
    pub(super) supply: Supply,
    pub(super) desk: Desk,
    pub(super) tally: Tally,
}

impl Server {
    /// Serves data clients, one after the other, until the end.
    pub(super) fn serve_data(&self, listener: &TcpListener) {
        // Sleeps end on time instead of up to 50 us late; where the kernel refuses, pacing is a little coarser.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        while let Some(stream) = self.accept(listener) {
            if let Err(error) = self.serve_data_client(&stream) {
                tracing::warn!(%error, "data client");
            }
            // The client may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.desk.end();
    }

    fn serve_data_client(&self, stream: &TcpStream) -> io::Result<()> {
        let Some(id) = self.desk.watch_stream(stream.try_clone()?) else { return Ok(()) };
        self.desk.set_client(true);
        let peer = stream.try_clone()?;
        let served = thread::scope(|scope| {
            let watch = thread::Builder::new().name("merlin-sim-peer".to_owned());
            watch.spawn_scoped(scope, move || {
                watch_peer(&peer);
                self.desk.set_client(false);
            })?;
            let served = self.serve_acquisitions(stream.try_clone()?);
            // Wakes the watching thread; what is on its way is still delivered.
            let _ = stream.shutdown(Shutdown::Both);
            served
        });
        self.desk.unwatch_stream(id);
        served
    }

    fn serve_acquisitions(&self, stream: TcpStream) -> io::Result<()> {
        let mut sender = Sender::new(&self.plan, &self.supply, &self.desk, &self.tally, stream)?;
        if self.plan.garbage_on_connect_bytes > 0 {
            let mut garbage = vec![0; self.plan.garbage_on_connect_bytes];
            StdRng::seed_from_u64(self.plan.seed).fill_bytes(&mut garbage);
            sender.send_garbage(&garbage)?;
        }
        while let Some(order) = self.desk.next_order() {
            let number = self.tally.begin();
            let outcome = sender.acquire(&order, number);
            self.desk.finish();
            if number + 1 == self.plan.runs {
                self.desk.end();
            }
            if outcome == Outcome::Lost {
                break;
            }
            if !self.plan.pause.is_zero() {
                self.desk.pause(self.plan.pause);
            }
        }
        Ok(())
    }

    /// Serves control clients, each on its own thread, until the end.
    pub(super) fn serve_control(&self, listener: &TcpListener) {
        let connected = AtomicUsize::new(0);
        thread::scope(|scope| {
            while let Some(stream) = self.accept(listener) {
                if connected.load(Ordering::Acquire) >= CONTROL_CLIENTS_MAX {
                    tracing::warn!("refused a control client: {CONTROL_CLIENTS_MAX} are connected");
                    continue;
                }
                connected.fetch_add(1, Ordering::AcqRel);
                let connected = &connected;
                let client = thread::Builder::new().name("merlin-sim-peer".to_owned());
                let spawned = client.spawn_scoped(scope, move || {
                    if let Err(error) = self.serve_control_client(&stream) {
                        tracing::debug!(%error, "control client");
                    }
                    connected.fetch_sub(1, Ordering::AcqRel);
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for a control client");
                    connected.fetch_sub(1, Ordering::AcqRel);
                }
            }
        });
    }

    fn serve_control_client(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(id) = self.desk.watch_stream(stream.try_clone()?) else { return Ok(()) };
        let served = self.converse(stream);
        self.desk.unwatch_stream(id);
        served
    }

    fn converse(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut head = [0; PREFIX_BYTES];
        loop {
            if let Err(error) = stream.read_exact(&mut head) {
                return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) };
            }
            let body_bytes =
                body_bytes(&head).ok_or_else(|| io::Error::other("a request begins with MPX,<length>,"))?;
            let mut body = vec![0; body_bytes];
            stream.read_exact(&mut body)?;
            stream.write_all(&self.desk.answer(&body, self.plan.short_response_lengths))?;
        }
    }

    /// The next client, or `None` at the end.
    fn accept(&self, listener: &TcpListener) -> Option<TcpStream> {
        loop {
            let accepted = listener.accept();
            if self.desk.is_ending() {
                return None;
            }
            match accepted {
                Ok((stream, _)) => return Some(stream),
                // Out of descriptors, or the client left while it waited: try again, but not in a tight loop.
                Err(error) => {
                    tracing::warn!(%error, "accepting a client failed");
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

/// Bytes that follow the prefix of a request, if it is one and not too long.
fn body_bytes(head: &[u8; PREFIX_BYTES]) -> Option<usize> {
    let length = head.strip_prefix(b"MPX,")?.strip_suffix(b",")?;
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    length.checked_sub(1).filter(|&bytes| bytes <= REQUEST_BYTES_MAX)
}

/// Reads and forgets what a data client sends, which should be nothing, until it leaves.
fn watch_peer(mut peer: &TcpStream) {
    let mut sink = [0; 4096];
    while let Ok(bytes) = peer.read(&mut sink) {
        if bytes == 0 {
            return;
        }
    }
}
