//! Quantum Detectors Merlin (Medipix3): data stream, control port, raw decoder and `.mib` files.
//!
//! # Place in the path
//! [`MerlinSource`] is a [`crate::Source`]: it reads payloads from the data socket straight into blocks; raw (`R64`)
//! frames are decoded on the way. The rest are pure functions, shared with simulators and file readers.
//!
//! # Units
//! Shapes are `(y, x)` in pixels, first row sent is row 0 (never flipped), lengths in bytes, times in ns since the Unix
//! epoch. Frames count from 0 here, from 1 on the wire.
//!
//! `docs/detectors/merlin.md` says what is supported and how faults show.

pub mod control;
mod fill;
pub mod format;
pub mod header;
mod inlet;
mod link;
pub mod mib;
pub mod r64;
mod source;

pub use control::MerlinControl;
pub use format::FrameFormat;
pub use header::{AcquisitionHeader, FrameHeader, HeaderError, mpx_prefix};
pub use link::{Dial, Received, TcpDial, Wire};
pub use mib::{MibError, MibFile};
pub use r64::{ChipLayout, Depth, RawFormat};
pub use source::{MerlinOptions, MerlinSource};
