//! `Source`: the one face every detector protocol shows to the receive loop.
//!
//! # Place in the path
//! The receive loop asks a source to [`Source::begin`] a series, then to [`Source::fill`] block after block until the
//! series ends. A source reads payloads straight into the block; it knows nothing of queues, disks or reductions.
//!
//! # Errors
//! [`SourceError`] means the link is unusable: the loop ends the series as disconnected and asks the source to begin
//! again, which reconnects. Bad *frames* are never errors: they are rejected, counted, and the stream goes on.

use std::io;
use std::time::Instant;

use ronchi_pipeline::{Announcement, EndReason, FrameIndex};

use crate::dectris::simplon::RestError;
use crate::filling::Filling;

/// A detector link.
pub trait Source: Send {
    /// Waits for the next series until `deadline`, connecting first when necessary. Frames follow through `fill`.
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError>;

    /// Receives frames into the block until one of [`Fill`] happens. Must return [`Fill::Paused`] soon after
    /// `deadline`, also while data keeps coming: one clock read per system call is enough.
    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError>;

    /// The receiver stops before the detector does: tells a detector that this source has started, if any, to stop.
    fn stop(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// What came of waiting for a series.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// Nothing yet.
    Waiting,
    /// A series begins; its first frame is known but not yet placed.
    Series(Box<Announcement>),
}

/// Why `fill` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The block has no free place left.
    Full,
    /// The deadline passed.
    Paused,
    /// The next frame lies outside this block: give one that holds it. The source keeps that frame pending.
    Elsewhere(FrameIndex),
    /// The series has ended; what is in the block belongs to it.
    End(EndReason),
}

/// The link is unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Connecting failed.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("connection to {address} lost: {source}")]
    Lost {
        /// Whose.
        address: String,
        /// How.
        source: io::Error,
    },
    /// The peer sends what cannot be understood; the connection is closed and opened anew.
    #[error("{address} sent {got}, expected {expected}")]
    Protocol {
        /// Who.
        address: String,
        /// What came, escaped.
        got: String,
        /// What should have come.
        expected: String,
    },
    /// A recording cannot be read on.
    #[error("replay of {name}: {reason}")]
    Recording {
        /// Of what.
        name: String,
        /// Why.
        reason: String,
    },
    /// A detector's REST interface did not do what was asked.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The detector cannot take what is asked of it as it is now.
    #[error("{address}: {reason}")]
    Unfit {
        /// Who.
        address: String,
        /// Why not, and what helps.
        reason: String,
    },
    /// The detector refused a control request.
    #[error("{address} answered {request} with error {code}")]
    Control {
        /// Who.
        address: String,
        /// What was asked.
        request: String,
        /// The detector's error number.
        code: i64,
    },
}

impl SourceError {
    /// Whether the detector answered that it will not do what is asked: asking again does not help.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Rest(error) => error.is_refusal(),
            Self::Unfit { .. } => true,
            _ => false,
        }
    }
}
