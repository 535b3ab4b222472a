//! Tile stream: any readout that can push ZMQ messages becomes a detector link (`docs/tile-stream.md`).
//!
//! # Place in the path
//! `TileSource` is a [`Source`]: what a message means is said here, everything else in `messages`.
//!
//! # Invariants
//! - I1: a payload is copied only if series, region, pixel type, encoding and length are those of the series that is open.
//!   A compressed one has any length up to that of its place, and all lengths inside it add up; it is not decoded here
//!   unless the user wants pixels stored.
//!
//! # Limits
//! Those of `messages` and `header.rs`.

mod header;
mod judge;

use std::time::{Duration, Instant};

use ronchi_config::{Compress, LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::format::bslz4::Bslz4;
use ronchi_pipeline::{Encoding, FrameFlag, Region, SigShape};

use crate::filling::Filling;
use crate::messages::{Endpoint, FrameHead, Judged, Known, MessageSource, Part, Protocol, Running};
use crate::source::{Begin, Fill, Source, SourceError};

pub use header::{
    BEGIN_BYTES_MAX, BeginHeader, EndHeader, FRAMES_MAX, Header, HeaderError, SERIES_BYTES_MAX, TILE_BYTES_MAX,
    TileHeader, VERSION, parse_header,
};
use judge::{Judge, Reason, frame_bytes};

/// How a tile stream is received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileSettings {
    /// ZMQ endpoint, e.g. `tcp://127.0.0.1:7001`.
    pub endpoint: String,
    /// Listen there (`true`) or connect to it.
    pub bind: bool,
    /// The only region that is accepted, where the user named one.
    pub region: Option<Region>,
    /// The only detector shape that is accepted, where the user named one.
    pub detector: Option<SigShape>,
    /// Largest payload, in bytes.
    pub message_bytes: u64,
    /// A series without frames for this long has ended (after its first frame).
    pub silence: Duration,
    /// Compressed frames become pixels when they arrive: the user wants pixels stored.
    pub is_decoding: bool,
}

impl TileSettings {
    /// The settings of one link; `None` when it is not a tile stream.
    pub fn from_plan(plan: &Plan, link: &LinkPlan) -> Option<Self> {
        let SourcePlan::Tiles { endpoint, bind } = &link.source else { return None };
        Some(Self {
            endpoint: endpoint.clone(),
            bind: *bind,
            region: link.region,
            detector: plan.detector,
            message_bytes: plan.limits.message_bytes.min(plan.limits.block_bytes),
            silence: plan.limits.silence,
            is_decoding: plan.data.record && plan.limits.compress == Compress::None,
        })
    }
}

/// A tile stream as a [`Source`].
pub struct TileSource(MessageSource<TileProtocol>);

impl TileSource {
    /// A source that opens its socket when it is first used.
    pub fn new(settings: TileSettings) -> Self {
        let endpoint = Endpoint {
            address: settings.endpoint.clone(),
            bind: settings.bind,
            part_bytes: settings.message_bytes.max(BEGIN_BYTES_MAX as u64),
            parts_max: 2,
        };
        Self(MessageSource::new(TileProtocol { settings, endpoint, scratch: Vec::new() }))
    }

    /// Opens the socket now, and says where: with the port that the system chose when the endpoint ends in `:*`.
    pub fn open(&mut self) -> Result<String, SourceError> {
        self.0.open()
    }
}

impl Source for TileSource {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        self.0.begin(deadline)
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.0.fill(filling, deadline)
    }
}

/// What the messages of a tile stream mean.
struct TileProtocol {
    settings: TileSettings,
    endpoint: Endpoint,
    /// For decoding.
    scratch: Vec<u8>,
}

impl Protocol for TileProtocol {
    /// The form in which the frames of a series are sent.
    type Form = Encoding;
    type Reason = Reason;
    const NAME: &'static str = "tile stream";

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn silence(&self) -> Option<Duration> {
        Some(self.settings.silence)
    }

    fn judge(&mut self, message: &[Part], known: &Known<'_, Encoding>) -> Judged<Encoding, Reason> {
        Judge { settings: &self.settings, known }.message(message)
    }

    fn place(
        &mut self,
        message: &[Part],
        series: &Running<Encoding>,
        filling: &mut Filling<'_>,
        (head, position): (FrameHead, usize),
    ) -> Result<(), (FrameFlag, Reason)> {
        let payload = message.get(1).map_or(&[][..], |part| part);
        if series.form == series.announced.encoding {
            filling.put(position, payload, head.counter, head.time_ns); // The lengths are right: I1.
            return Ok(());
        }
        let (frame_bytes, pixel) = (frame_bytes(&series.announced) as usize, series.announced.pixel);
        let decoded = Bslz4::parse(payload, frame_bytes, pixel.bytes())
            .and_then(|frame| frame.decode(&mut self.scratch, filling.block.frame_mut(position)));
        decoded.map_err(|error| (FrameFlag::Corrupt, Reason::Compressed { frame: head.frame, error }))?;
        filling.commit(position, head.counter, head.time_ns);
        Ok(())
    }
}
