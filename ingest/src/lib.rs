//! Detector protocols behind one [`Source`], and the one receive loop.

pub mod dectris;
mod filling;
pub mod merlin;
mod messages;
mod receive;
pub mod replay;
mod source;
pub mod tiles;

pub use filling::{Arrivals, Filling, Place};
pub use receive::{Link, ReceiveError, Refused, Register, receive};
pub use source::{Begin, Fill, Source, SourceError};
