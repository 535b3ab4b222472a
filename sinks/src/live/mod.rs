//! The live stream: the board that the reducers write, and what turns it into messages for programs.
//!
//! # Place in the path
//! `reducer -> Board -> Feed -> ZMQ XPUB`; a feed of its own for every WebSocket, and for every other form of stream that
//! is asked for; HTTP and metrics read the same board.
//! Wire to live image is one queue, left of here; from the board on there is none, only the newest state.
//!
//! # Limits
//! Images of [`ACQUISITIONS_MAX`] acquisitions, of at most [`UNFINISHED_MAX`] while more are unfinished; per subscriber,
//! four messages per topic in the transport.

mod board;
mod colour;
mod feed;
mod gate;
mod interest;
mod karabo;
mod lens;
mod message;
mod odin;
mod picture;
mod publisher;
mod snapshot;
mod stages;
mod status;
#[cfg(test)]
pub(crate) mod testing;

pub use board::{
    ACQUISITIONS_MAX, Acquisition, Board, Gauge, Link, Queue, State, StreamCounters, UNFINISHED_MAX, Waited, Wiring,
};
pub use colour::{ColourMap, Component, Plane, Stretch, is_vector};
pub use feed::{Collected, Feed, Pace};
pub use interest::Interest;
pub use lens::Lens;
pub use message::{Header, ImageHeader, ImageRegion, Kind, Message, VERSION, frame, npy, unframe};
pub use picture::{Axis, NoPictures, Picture, Pictures, Precision, Quality, picture_named, row_length};
pub use publisher::{Form, GUESTS_MAX, Publisher, StreamError, StreamPlan};
pub(crate) use snapshot::header;
pub use snapshot::{snapshot, snapshot_bytes};
pub use stages::StageGuard;
pub use status::{
    AcquisitionStatus, DiskStatus, LinkStatus, PoolStatus, QueueStatus, ResultStatus, Status, StreamStatus,
    VolumeStatus, disk_free_bytes, link_counters,
};
