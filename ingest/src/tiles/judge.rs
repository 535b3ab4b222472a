//! What a message means, given what is known: the checks that stand before every copy.

use ronchi_pipeline::format::FormatError;
use ronchi_pipeline::format::bslz4::Bslz4;
use ronchi_pipeline::{Announcement, Encoding, FrameFlag, FrameIndex, PixelType, Region, Sensor};

use super::TileSettings;
use super::header::{BeginHeader, EndHeader, Header, HeaderError, TileHeader, parse_header};
use crate::messages::{FrameHead, Judged, Known, Meaning, Part};

/// Decides what a message means, given what is known.
pub(super) struct Judge<'a> {
    pub(super) settings: &'a TileSettings,
    /// The form of a series is the one in which its frames are sent.
    pub(super) known: &'a Known<'a, Encoding>,
}

/// Why a message was refused; put into words only when it is logged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error("{0}")]
    Header(HeaderError),
    #[error("tile of frame {frame}: region {got:?}, expected {want:?}")]
    Region { frame: FrameIndex, got: Region, want: Region },
    #[error("tile of frame {frame}: pixel type {got}, expected {want}", got = got.numpy_name(), want = want.numpy_name())]
    Pixel { frame: FrameIndex, got: PixelType, want: PixelType },
    #[error("tile of frame {frame}: {got:?} bytes of pixels, expected {want}")]
    Payload { frame: FrameIndex, got: Option<u64>, want: u64 },
    #[error("tile of frame {frame}: encoding {got}, expected {want}", got = got.name(), want = want.name())]
    Encoding { frame: FrameIndex, got: Encoding, want: Encoding },
    #[error("tile of frame {frame}: {bytes} bytes compressed, expected at most {max_bytes}")]
    Long { frame: FrameIndex, bytes: u64, max_bytes: u64 },
    #[error("tile of frame {frame}: {error}")]
    Compressed { frame: FrameIndex, error: FormatError },
    #[error("series {series:?}: {what} {got}, but the receiver is configured for {want}")]
    Configured { series: String, what: &'static str, got: String, want: String },
    #[error("series {series:?}: frames of up to {bytes} bytes, the limit is {max_bytes}")]
    TooLarge { series: String, bytes: u64, max_bytes: u64 },
    #[error("a tile of series {series:?}, which has not begun and says no detector shape")]
    Unknown { series: String },
    #[error("the end of series {series:?}, which is not running")]
    NotRunning { series: String },
}

impl Judge<'_> {
    /// The first part is a header, the second one a payload.
    pub(super) fn message(&self, message: &[Part]) -> Judged<Encoding, Reason> {
        let blob = message.get(1).map(|part| &part[..]);
        match parse_header(message.first().map_or(&[][..], |part| part)) {
            Ok(Header::Begin(begin)) => self.begin(&begin),
            Ok(Header::Tile(tile)) => self.tile(&tile, blob),
            Ok(Header::End(end)) => self.end(&end),
            Err(error) => (Meaning::Garbage, Some(Reason::Header(error))),
        }
    }

    fn begin(&self, begin: &BeginHeader<'_>) -> Judged<Encoding, Reason> {
        let announced = Announcement {
            series_id: begin.series.to_string(),
            frame_count: begin.frame_count,
            scan: begin.scan,
            detector: begin.detector,
            region: begin.region,
            pixel: begin.pixel,
            encoding: self.kept_as(begin.encoding),
            vendor_header: begin.metadata.as_deref().unwrap_or_default().to_owned(),
            sensor: Sensor::default(),
        };
        let running = self.known.running(|series| series == begin.series);
        if running.is_some_and(|it| it.announced == announced && it.form == begin.encoding) {
            return (Meaning::Nothing, None);
        }
        self.opening(announced, begin.encoding, None)
    }

    /// The form in which frames go on that come in this one.
    fn kept_as(&self, encoding: Encoding) -> Encoding {
        if self.settings.is_decoding { Encoding::Raw } else { encoding }
    }

    fn opening(&self, announced: Announcement, sent_as: Encoding, head: Option<FrameHead>) -> Judged<Encoding, Reason> {
        let series = || announced.series_id.clone();
        let refuse =
            |what, got, want| (Meaning::Garbage, Some(Reason::Configured { series: series(), what, got, want }));
        if let Some(want) = self.settings.region.filter(|&want| want != announced.region) {
            return refuse("region", format!("{:?}", announced.region), format!("{want:?}"));
        }
        if let Some(want) = self.settings.detector.filter(|&want| want != announced.detector) {
            return refuse("detector", format!("{:?}", announced.detector), format!("{want:?}"));
        }
        let (bytes, max_bytes) = (sent_as.place_bytes(frame_bytes(&announced)), self.settings.message_bytes);
        if bytes > max_bytes {
            return (Meaning::Garbage, Some(Reason::TooLarge { series: series(), bytes, max_bytes }));
        }
        (Meaning::opens(announced, sent_as, head), None)
    }

    fn tile(&self, tile: &TileHeader<'_>, blob: Option<&[u8]>) -> Judged<Encoding, Reason> {
        let frame = tile.frame;
        let time_ns = tile.time_ns.unwrap_or(0);
        let head = FrameHead { frame, counter: tile.counter.unwrap_or(frame), time_ns };
        let Some(running) = self.known.running(|series| series == tile.series) else {
            return self.tile_of_another(tile, head, blob);
        };
        let want = &running.announced;
        let corrupt = |reason| (Meaning::Broken(frame, FrameFlag::Corrupt), Some(reason));
        if tile.region != want.region {
            return corrupt(Reason::Region { frame, got: tile.region, want: want.region });
        }
        if tile.pixel != want.pixel {
            return corrupt(Reason::Pixel { frame, got: tile.pixel, want: want.pixel });
        }
        if tile.encoding != running.form {
            return corrupt(Reason::Encoding { frame, got: tile.encoding, want: running.form });
        }
        match check_payload(tile, frame_bytes(want), blob) {
            Ok(()) => (Meaning::Frame(head), None),
            Err((flag, reason)) => (Meaning::Broken(frame, flag), Some(reason)),
        }
    }

    /// A tile of a series that is not running: stale, or the first of a series that has no `begin`.
    fn tile_of_another(&self, tile: &TileHeader<'_>, head: FrameHead, blob: Option<&[u8]>) -> Judged<Encoding, Reason> {
        if self.known.has_ended(|series| series == tile.series) {
            return (Meaning::Stale, None);
        }
        let Some(detector) = tile.detector else {
            return (Meaning::Garbage, Some(Reason::Unknown { series: tile.series.to_string() }));
        };
        let announced = Announcement {
            series_id: tile.series.to_string(),
            frame_count: None,
            scan: None,
            detector,
            region: tile.region,
            pixel: tile.pixel,
            encoding: self.kept_as(tile.encoding),
            vendor_header: String::new(),
            sensor: Sensor::default(),
        };
        match check_payload(tile, frame_bytes(&announced), blob) {
            Ok(()) => self.opening(announced, tile.encoding, Some(head)),
            Err((_, reason)) => (Meaning::Garbage, Some(reason)),
        }
    }

    fn end(&self, end: &EndHeader<'_>) -> Judged<Encoding, Reason> {
        if self.known.running(|series| series == end.series).is_some() {
            return (Meaning::Ended(end.frame_count), None);
        }
        if self.known.has_ended(|series| series == end.series) {
            return (Meaning::Nothing, None);
        }
        (Meaning::Garbage, Some(Reason::NotRunning { series: end.series.to_string() }))
    }
}

/// Whether a payload is a frame of `frame_bytes` of pixels in the form its header says; of a compressed one, whether its
/// lengths add up.
fn check_payload(tile: &TileHeader<'_>, frame_bytes: u64, blob: Option<&[u8]>) -> Result<(), (FrameFlag, Reason)> {
    let (frame, want) = (tile.frame, tile.encoding.place_bytes(frame_bytes));
    let bytes = blob.map(|blob| blob.len() as u64);
    match (tile.encoding, blob, bytes) {
        (Encoding::Raw, _, Some(bytes)) if bytes == want => Ok(()),
        (Encoding::Bslz4, Some(_), Some(bytes)) if bytes > want => {
            Err((FrameFlag::Corrupt, Reason::Long { frame, bytes, max_bytes: want }))
        }
        (Encoding::Bslz4, Some(blob), _) => {
            let parsed = Bslz4::parse(blob, frame_bytes as usize, tile.pixel.bytes());
            let flag = |error: &FormatError| match error {
                FormatError::Short { .. } => FrameFlag::Truncated,
                _ => FrameFlag::Corrupt,
            };
            parsed.map(drop).map_err(|error| (flag(&error), Reason::Compressed { frame, error }))
        }
        (_, _, got) => {
            let is_short = got.is_none_or(|bytes| bytes < want);
            let flag = if is_short { FrameFlag::Truncated } else { FrameFlag::Corrupt };
            Err((flag, Reason::Payload { frame, got, want }))
        }
    }
}

/// Bytes of one frame of the region; at most 2^34 because regions are checked.
pub(super) fn frame_bytes(announced: &Announcement) -> u64 {
    announced.region.pixel_count() * announced.pixel.bytes() as u64
}
