//! Simulators on loopback: Merlin seen by a slow and simple client, DECTRIS by a plain socket and by the receiver.

mod client;
mod control;
mod dectris;
mod faults;
mod replay;
mod stream;
