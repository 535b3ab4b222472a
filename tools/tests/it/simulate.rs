//! The Merlin simulator on loopback, seen by a slow and simple client.

mod client;
mod control;
mod faults;
mod replay;
mod stream;
