//! The bytes that come next: first those pushed back, then the stream's.
//!
//! # Limits
//! What is pushed back was read by one scatter read, so the buffer never holds more than that.

use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use ronchi_pipeline::LinkCounters;

use super::link::{Received, Wire};

/// The stream of one connection and the bytes read from it too early.
pub(super) struct Inlet {
    wire: Option<Box<dyn Wire>>,
    held: Vec<u8>,
    taken: usize,
    counters: Arc<LinkCounters>,
}

impl Inlet {
    pub(super) fn new(counters: Arc<LinkCounters>) -> Self {
        Self { wire: None, held: Vec::new(), taken: 0, counters }
    }

    pub(super) fn is_open(&self) -> bool {
        self.wire.is_some()
    }

    pub(super) fn open(&mut self, wire: Box<dyn Wire>) {
        self.wire = Some(wire);
        self.forget_held();
    }

    pub(super) fn close(&mut self) {
        self.wire = None;
        self.forget_held();
    }

    fn forget_held(&mut self) {
        self.held.clear();
        self.taken = 0;
    }

    /// Makes room for what one scatter read may have to push back.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.held.reserve(bytes);
    }

    /// Whether bytes are held.
    pub(super) fn is_held(&self) -> bool {
        self.taken < self.held.len()
    }

    /// Appends to the bytes held; to be followed by nothing read from the stream before them.
    pub(super) fn push_back(&mut self, bytes: &[u8]) {
        if !self.is_held() {
            self.forget_held();
        }
        self.held.extend_from_slice(bytes);
    }

    /// Puts bytes before those held.
    pub(super) fn push_front(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.splice(..0, bytes.iter().copied());
    }

    /// Takes bytes that are held, else waits for the stream; a closed inlet is at its end.
    pub(super) fn receive(&mut self, place: &mut [u8], deadline: Instant) -> io::Result<Received> {
        if self.is_held() {
            let count = place.len().min(self.held.len() - self.taken);
            place[..count].copy_from_slice(&self.held[self.taken..][..count]);
            self.taken += count;
            return Ok(Received::Bytes(count));
        }
        self.receive_scattered(&mut [IoSliceMut::new(place)], deadline)
    }

    /// Receives from the stream; nothing may be held.
    pub(super) fn receive_scattered(
        &mut self,
        places: &mut [IoSliceMut<'_>],
        deadline: Instant,
    ) -> io::Result<Received> {
        debug_assert!(!self.is_held());
        let Some(wire) = &mut self.wire else { return Ok(Received::End) };
        let received = wire.receive(places, deadline)?;
        if let Received::Bytes(count) = received {
            LinkCounters::add(&self.counters.bytes, count as u64);
        }
        Ok(received)
    }
}
