//! DECTRIS detectors: STREAM and STREAM2 over ZeroMQ (`docs/detectors/dectris.md`).
//!
//! # Place in the path
//! `DectrisSource` is a [`Source`]: what a message means is said here, everything else in `messages`. `DrivenSource` is the same
//! with a detector that ronchi drives over its REST interface.
//!
//! # Invariants
//! - I1: a series is opened by its first image, which alone says for certain what pixels are; its start must have come before.
//!   Images of series whose start never came are left alone: they are the rest of an earlier run.
//! - I2: an image is taken only if its shape, pixel type and channels are those of the series, and what is compressed expands to
//!   exactly its pixels, or, kept compressed, has lengths that add up.
//!
//! # Limits
//! A part is at most as long as a message may be (`limits.message_mib`), an image at most as long as a block.
//!
//! # Several channels
//! Thresholds come as images of their own. They are stored below each other, in the order in which the detector names them:
//! `n` channels of `h` x `w` pixels are frames of `n h` x `w`.

mod control;
mod driven;
mod picture;
pub mod simplon;
mod stream1;
mod stream2;
mod tables;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ronchi_config::{Compress, DectrisStream, LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::format::{FormatError, bslz4::Bslz4};
use ronchi_pipeline::{Announcement, Encoding, FrameFlag, FrameIndex, NavShape, PixelType, SigShape};

use crate::filling::Filling;
use crate::messages::{
    Endpoint, FrameHead, Judged, Known, Meaning, MessageSource, Part, Protocol, Running, Step, Turn,
};
use crate::source::{Begin, Fill, Source, SourceError};

pub use control::DriveSettings;
pub use driven::DrivenSource;
use picture::{CHANNELS_MAX, Codec, Coded, Picture, Pictures};
use stream1::Stream1;
use tables::{KeptTables, Tables};

/// Detectors have no endless mode: a series announced as long as this goes on until it is aborted.
const ENDLESS_FRAMES: u64 = 1_000_000_000;
/// Parts of the longest message: a header with all tables and a text of the user's.
const PARTS_MAX: usize = 9;

/// How a DECTRIS stream is received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DectrisSettings {
    /// Which of both.
    pub stream: DectrisStream,
    /// ZMQ endpoint of the detector, e.g. `tcp://10.0.0.2:31001`.
    pub endpoint: String,
    /// How many sockets connect to it and share its messages.
    pub sockets: usize,
    /// The only detector shape that is accepted, where the user named one.
    pub detector: Option<SigShape>,
    /// Longest part of a message, in bytes.
    pub message_bytes: u64,
    /// Longest frame, in bytes.
    pub frame_bytes: u64,
    /// Compressed frames become pixels when they arrive: the user wants pixels stored.
    pub is_decoding: bool,
}

impl DectrisSettings {
    /// The settings of one link; `None` when it is not a DECTRIS stream.
    pub fn from_plan(plan: &Plan, link: &LinkPlan) -> Option<Self> {
        let SourcePlan::Dectris { stream, endpoint, sockets, .. } = &link.source else { return None };
        Some(Self {
            stream: *stream,
            endpoint: endpoint.clone(),
            sockets: *sockets as usize,
            detector: plan.detector,
            message_bytes: plan.limits.message_bytes,
            frame_bytes: plan.limits.block_bytes,
            is_decoding: plan.data.record && plan.limits.compress == Compress::None,
        })
    }
}

/// A DECTRIS stream as a [`Source`].
pub struct DectrisSource(MessageSource<DectrisProtocol>);

impl DectrisSource {
    /// A source that connects when it is first used.
    pub fn new(settings: DectrisSettings) -> Self {
        Self(MessageSource::new(DectrisProtocol::new(settings)))
    }

    /// Connects now: a detector sends a series' start at once when it is armed, and to nobody if nobody is there.
    pub fn open(&mut self) -> Result<String, SourceError> {
        self.0.open()
    }
}

impl Source for DectrisSource {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        self.0.begin(deadline)
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.0.fill(filling, deadline)
    }
}

/// What a message says.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one judgement; a box would be an allocation per image"
)]
enum Message<'a> {
    Start(Start, Box<Tables<'a>>),
    Image(Image<'a>),
    /// No more images of a series will be sent.
    End {
        number: u64,
        name: Option<&'a str>,
    },
    /// The first half of a start.
    Nothing,
}

/// What a start says of its series.
#[derive(Debug, Clone, Default, PartialEq)]
struct Start {
    number: u64,
    /// The number of the series, or its unique name where it has one.
    name: String,
    frame_count: Option<u64>,
    scan: Option<NavShape>,
    /// Names of channels, in order; empty when it says none.
    channels: Vec<String>,
    vendor_header: String,
}

/// A series that was started and has no image yet.
#[derive(Debug)]
struct Started {
    start: Start,
    tables: KeptTables,
}

/// What an image says.
#[derive(Debug)]
struct Image<'a> {
    /// The number of its series, and its unique name where it has one.
    number: u64,
    name: Option<&'a str>,
    frame: FrameIndex,
    /// When its exposure began, in ns of a clock of the detector.
    time_ns: u64,
    /// Its pixels, or why they cannot be used.
    pictures: Result<Pictures<'a>, Refusal>,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("a message of kind {got}, expected a start, an image or an end")]
    Kind { got: String },
    #[error("a message without {what}")]
    Missing { what: &'static str },
    #[error("{what} that cannot be read: {reason}")]
    Syntax { what: &'static str, reason: String },
    #[error("{what} of {bytes} bytes, expected at most {max_bytes}")]
    Long { what: &'static str, bytes: usize, max_bytes: usize },
    #[error("an image of {got} parts, expected at least {want}")]
    Parts { got: usize, want: usize },
    #[error("an image of {rows} rows and {columns} columns, expected 1 to 65536")]
    Shape { rows: u64, columns: u64 },
    #[error("an image of pixel type {got}, expected uint8, uint16 or uint32")]
    Pixel { got: String },
    #[error(
        "an image coded as {got}, {count} of them so far, which ronchi cannot read: set the detector's `compression` to bslz4 \
         (or lz4, none)"
    )]
    Encoding { got: String, count: u64 },
    #[error("image {frame}: {what} {got}, the series has {want}")]
    Other { frame: FrameIndex, what: &'static str, got: String, want: String },
    #[error("image {frame}: {error}")]
    Pixels { frame: FrameIndex, error: FormatError },
    #[error("series {series}: detector {got}, but the receiver is configured for {want}")]
    Configured { series: String, got: String, want: String },
    #[error("series {series}: frames of up to {bytes} bytes, the limit is {max_bytes}")]
    TooLarge { series: String, bytes: u64, max_bytes: u64 },
    #[error("a {what} that is not used: {reason}")]
    Table { what: &'static str, reason: String },
    #[error(
        "an image of series {series}, whose start has not come: the rest of an earlier run, or ronchi came too late"
    )]
    NotStarted { series: String },
}

/// What is remembered of a series while it runs.
#[derive(Debug)]
struct Form {
    /// Names of channels, in the order in which they are stored.
    channels: Vec<String>,
    /// Of one channel.
    shape: SigShape,
    pixel: PixelType,
    /// What is added to times of the detector's clock to get times since 1970, in ns: its zero is unknown, so that the first image
    /// is taken to be as old as its arrival.
    since_1970_ns: i128,
}

/// What the messages of a stream mean.
struct DectrisProtocol {
    settings: DectrisSettings,
    endpoint: Endpoint,
    stream1: Stream1,
    /// The series that was started last and has no image yet.
    started: Option<Started>,
    /// The coding that was refused last, and how many images in a row of refused ones had it.
    unread: (String, u64),
    /// The series whose start was waited for in vain.
    given_up: Option<String>,
    /// Of the newest image of the open series: its channels, in the order of the series.
    newest: [Option<(Coded, picture::Place)>; CHANNELS_MAX],
    /// For decoding.
    scratch: Vec<u8>,
}

impl Protocol for DectrisProtocol {
    type Form = Form;
    type Reason = Refusal;
    const NAME: &'static str = "DECTRIS stream";

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A detector may wait for its next trigger as long as it likes.
    fn silence(&self) -> Option<Duration> {
        None
    }

    fn socket_count(&self) -> usize {
        self.settings.sockets
    }

    fn turn(&mut self, message: &[Part]) -> Turn {
        let mut parts = [&[][..]; PARTS_MAX];
        let (series, step) = match self.parse(parts_of(message, &mut parts)) {
            Ok(Message::Start(start, _)) => (start.number, Step::Begin),
            Ok(Message::Image(image)) => (image.number, Step::Frame(image.frame)),
            Ok(Message::End { number, .. }) => (number, Step::End),
            Ok(Message::Nothing) | Err(_) => return Turn::default(), // Never held.
        };
        Turn { series, step }
    }

    fn judge(&mut self, message: &[Part], known: &Known<'_, Form>) -> Judged<Form, Refusal> {
        let mut parts = [&[][..]; PARTS_MAX];
        let parts = parts_of(message, &mut parts);
        match self.parse(parts) {
            Ok(message) if !known.is_turn && self.is_early(&message, known) => (Meaning::Early, None),
            Ok(Message::Start(start, tables)) => self.start(start, &tables, parts, known),
            Ok(Message::Image(mut image)) => {
                self.count_unread(&mut image);
                self.image(&image, known)
            }
            Ok(Message::End { number, name }) => {
                let is_meant = |series: &str| is_series(series, number, name);
                if known.running(is_meant).is_some() {
                    return (Meaning::Ended(None), None);
                }
                self.started.take_if(|started| is_meant(&started.start.name)); // Stopped before its first image.
                (Meaning::Nothing, None)
            }
            Ok(Message::Nothing) => (Meaning::Nothing, None),
            Err(refusal) => (Meaning::Garbage, Some(refusal)),
        }
    }

    fn place(
        &mut self,
        message: &[Part],
        series: &Running<Form>,
        filling: &mut Filling<'_>,
        (head, position): (FrameHead, usize),
    ) -> Result<(), (FrameFlag, Refusal)> {
        let bytes_of = |place: picture::Place| {
            message.get(place.part).and_then(|part| part.get(place.start..place.end)).unwrap_or_default()
        };
        let refuse = |error| {
            let is_short = matches!(error, FormatError::Short { .. });
            let flag = if is_short { FrameFlag::Truncated } else { FrameFlag::Corrupt };
            (flag, Refusal::Pixels { frame: head.frame, error })
        };
        let channels = self.newest.iter().flatten();
        if series.announced.encoding == Encoding::Bslz4 {
            for &(coded, place) in channels {
                check_kept(&coded, bytes_of(place)).map_err(refuse)?;
                filling.put(position, bytes_of(place), head.counter, head.time_ns);
            }
            return Ok(());
        }
        let frame = filling.block.frame_mut(position);
        let channel_bytes = frame.len() / series.form.channels.len();
        for (&(coded, place), part) in channels.zip(frame.chunks_mut(channel_bytes)) {
            coded.decode(bytes_of(place), &mut self.scratch, part).map_err(refuse)?;
        }
        filling.commit(position, head.counter, head.time_ns);
        Ok(())
    }
}

impl DectrisProtocol {
    fn new(settings: DectrisSettings) -> Self {
        let parts_max = match settings.stream {
            DectrisStream::Legacy => PARTS_MAX,
            DectrisStream::Cbor => 1, // What comes as several parts are several messages, as a simulator sends them.
        };
        let (address, part_bytes) = (settings.endpoint.clone(), settings.message_bytes);
        Self {
            settings,
            endpoint: Endpoint { address, bind: false, part_bytes, parts_max },
            stream1: Stream1::default(),
            started: None,
            unread: (String::new(), 0),
            given_up: None,
            newest: [None; CHANNELS_MAX],
            scratch: Vec::new(),
        }
    }

    fn parse<'a>(&mut self, parts: &[&'a [u8]]) -> Result<Message<'a>, Refusal> {
        match self.settings.stream {
            DectrisStream::Legacy => self.stream1.parse(parts),
            DectrisStream::Cbor => stream2::parse(parts.first().copied().unwrap_or_default()),
        }
    }

    /// Whether messages that were sent before this one must be judged first, as they may come by another socket: starts and ends
    /// divide series, an image of another series ends the open one, and one of an unknown series may have its start behind it.
    fn is_early(&self, message: &Message<'_>, known: &Known<'_, Form>) -> bool {
        let is_started =
            |is_meant: &dyn Fn(&str) -> bool| self.started.as_ref().is_some_and(|it| is_meant(&it.start.name));
        match message {
            Message::Start(start, _) => {
                known.running.is_some() || self.started.as_ref().is_some_and(|other| other.start.name != start.name)
            }
            Message::Image(image) => {
                let is_meant = |series: &str| is_series(series, image.number, image.name);
                if known.running(is_meant).is_some() {
                    return false;
                }
                if is_started(&is_meant) {
                    return known.running.is_some();
                }
                !known.has_ended(is_meant) && !self.given_up.as_deref().is_some_and(is_meant)
            }
            &Message::End { number, name } => !known.has_ended(|series| is_series(series, number, name)),
            Message::Nothing => false,
        }
    }

    fn start(
        &mut self,
        start: Start,
        tables: &Tables<'_>,
        parts: &[&[u8]],
        known: &Known<'_, Form>,
    ) -> Judged<Form, Refusal> {
        let is_another = known.running.is_some_and(|running| running.announced.series_id != start.name);
        let mut unusable = None;
        if known.running.is_none() || is_another {
            let (tables, refusal) = tables.keep(parts, self.settings.frame_bytes);
            unusable = refusal;
            self.started = Some(Started { start, tables });
        }
        (if is_another { Meaning::Ended(None) } else { Meaning::Nothing }, unusable)
    }

    /// Says of an image whose coding is unknown how many there were.
    fn count_unread(&mut self, image: &mut Image<'_>) {
        if let Err(Refusal::Encoding { got, count }) = &mut image.pictures {
            if self.unread.0 != *got {
                self.unread = (got.clone(), 0);
            }
            self.unread.1 += 1;
            *count = self.unread.1;
        }
    }

    fn image(&mut self, image: &Image<'_>, known: &Known<'_, Form>) -> Judged<Form, Refusal> {
        let is_meant = |series: &str| is_series(series, image.number, image.name);
        if let Some(running) = known.running(is_meant) {
            let taken = image.pictures.clone().and_then(|pictures| self.take(image.frame, &pictures, running));
            return match taken {
                Ok(()) => (Meaning::Frame(head_of(image, &running.form)), None),
                Err(refusal) => (Meaning::Broken(image.frame, FrameFlag::Corrupt), Some(refusal)),
            };
        }
        if let Some(started) = self.started.as_ref().filter(|started| is_meant(&started.start.name)) {
            return match image.pictures.clone().and_then(|pictures| self.opening(started, image, &pictures)) {
                Ok((announced, form, unusable)) => {
                    self.started = None;
                    let head = head_of(image, &form);
                    self.remember(&form, image.pictures.as_ref().unwrap_or(&Pictures::default()));
                    (Meaning::opens(announced, form, Some(head)), unusable)
                }
                Err(refusal) => (Meaning::Garbage, Some(refusal)),
            };
        }
        if known.has_ended(is_meant) {
            return (Meaning::Stale, None);
        }
        let series = image.name.map_or_else(|| image.number.to_string(), str::to_owned);
        self.given_up = Some(series.clone());
        (Meaning::Stale, Some(Refusal::NotStarted { series }))
    }

    /// Checks that an image is one of its series, and remembers where its channels lie.
    fn take(&mut self, frame: FrameIndex, pictures: &Pictures<'_>, series: &Running<Form>) -> Result<(), Refusal> {
        let form = &series.form;
        let other = |what, got: String, want: String| Err(Refusal::Other { frame, what, got, want });
        if pictures.len() != form.channels.len() {
            return other("channels", pictures.len().to_string(), form.channels.len().to_string());
        }
        for picture in pictures.iter() {
            let Coded { shape, pixel, codec } = picture.coded;
            if shape != form.shape {
                return other("shape", shape_text(shape), shape_text(form.shape));
            }
            if pixel != form.pixel {
                return other("pixel type", pixel.numpy_name().to_string(), form.pixel.numpy_name().to_string());
            }
            if !form.channels.iter().any(|channel| channel == picture.channel) {
                return other("channel", cut(picture.channel), form.channels.join(", "));
            }
            let kept = Codec::Bslz4 { item_bytes: pixel.bytes() };
            if series.announced.encoding == Encoding::Bslz4 && codec != kept {
                return other("coding", format!("{codec:?}"), format!("{kept:?}"));
            }
        }
        if !self.remember(form, pictures) {
            return other("channels", "one twice".to_owned(), form.channels.join(", "));
        }
        Ok(())
    }

    /// Keeps where the channels of an image lie, in the order of the series; `false` when one is missing.
    fn remember(&mut self, form: &Form, pictures: &Pictures<'_>) -> bool {
        self.newest = [None; CHANNELS_MAX];
        for (place, channel) in self.newest.iter_mut().zip(&form.channels) {
            *place = pictures.iter().find(|it| it.channel == channel).map(|it| (it.coded, it.place));
        }
        self.newest.iter().flatten().count() == form.channels.len()
    }

    /// A series that was started, by its first image, and what of its start does not fit that.
    fn opening(
        &self,
        Started { start, tables }: &Started,
        image: &Image<'_>,
        pictures: &Pictures<'_>,
    ) -> Result<(Announcement, Form, Option<Refusal>), Refusal> {
        let mut ordered: Vec<&Picture<'_>> = pictures.iter().collect();
        let rank = |picture: &Picture<'_>| start.channels.iter().position(|channel| channel == picture.channel);
        ordered.sort_by_key(|picture| rank(picture).unwrap_or(CHANNELS_MAX)); // Those it did not name stay in their order.
        let Some(&&Picture { coded, .. }) = ordered.first() else { return Err(Refusal::Missing { what: "data" }) };
        let is_other = |it: &&Picture<'_>| (it.coded.shape, it.coded.pixel) != (coded.shape, coded.pixel);
        if let Some(other) = ordered.iter().copied().find(is_other) {
            let text = |it: Coded| format!("{} of {}", shape_text(it.shape), it.pixel.numpy_name());
            let (got, want) = (text(other.coded), text(coded));
            return Err(Refusal::Other { frame: image.frame, what: "a channel of", got, want });
        }
        let (rows, columns) = (u64::from(coded.shape.height) * ordered.len() as u64, coded.shape.width.into());
        let detector = picture::shape(rows, columns).ok_or(Refusal::Shape { rows, columns })?;
        let series = || start.name.clone();
        if let Some(want) = self.settings.detector.filter(|&want| want != detector) {
            let (got, want) = (shape_text(detector), shape_text(want));
            return Err(Refusal::Configured { series: series(), got, want });
        }
        let is_kept = !self.settings.is_decoding
            && ordered.len() == 1
            && coded.codec == Codec::Bslz4 { item_bytes: coded.pixel.bytes() };
        let encoding = if is_kept { Encoding::Bslz4 } else { Encoding::Raw };
        let (bytes, max_bytes) =
            (encoding.place_bytes(coded.frame_bytes() * ordered.len() as u64), self.settings.frame_bytes);
        if bytes > max_bytes {
            return Err(Refusal::TooLarge { series: series(), bytes, max_bytes });
        }
        let names: Vec<&str> = ordered.iter().map(|picture| picture.channel).collect();
        let (sensor, unusable) = tables.sensor(&names, coded.shape, detector);
        let announced = Announcement {
            series_id: series(),
            frame_count: start.frame_count,
            scan: start.scan,
            detector,
            region: detector.region(),
            pixel: coded.pixel,
            encoding,
            vendor_header: start.vendor_header.clone(),
            sensor,
        };
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        let channels = names.into_iter().map(str::to_owned).collect();
        let since_1970_ns = now_ns - i128::from(image.time_ns);
        Ok((announced, Form { channels, shape: coded.shape, pixel: coded.pixel, since_1970_ns }, unusable))
    }
}

/// Reads a message as a source does, and decodes the pictures of an image whose pixels have at most `max_bytes`, or the tables of
/// a start: bytes of pictures together, or what is wrong with the message. For fuzzers.
pub fn decode_message(stream: DectrisStream, parts: &[&[u8]], max_bytes: u64) -> Result<u64, String> {
    let message = match stream {
        DectrisStream::Legacy => Stream1::default().parse(parts),
        DectrisStream::Cbor => stream2::parse(parts.first().copied().unwrap_or_default()),
    };
    let image = match message.map_err(|refusal| refusal.to_string())? {
        Message::Image(image) => image,
        Message::Start(_, tables) => {
            return tables.keep(parts, max_bytes).1.map_or(Ok(0), |refusal| Err(refusal.to_string()));
        }
        Message::End { .. } | Message::Nothing => return Ok(0),
    };
    let (mut scratch, mut total) = (Vec::new(), 0);
    for picture in image.pictures.map_err(|refusal| refusal.to_string())?.iter() {
        let (coded, place) = (picture.coded, picture.place);
        if coded.frame_bytes() <= max_bytes {
            let mut frame = vec![0; coded.frame_bytes() as usize];
            let decoded = coded.decode(&parts[place.part][place.start..place.end], &mut scratch, &mut frame);
            decoded.map_err(|error| error.to_string())?;
            total += frame.len() as u64;
        }
    }
    Ok(total)
}

/// The bytes of a message's parts, without an allocation.
fn parts_of<'a, 'b>(message: &'a [Part], into: &'b mut [&'a [u8]; PARTS_MAX]) -> &'b [&'a [u8]] {
    into.iter_mut().zip(message).for_each(|(bytes, part)| *bytes = part);
    &into[..message.len().min(PARTS_MAX)]
}

/// Whether an image or an end with this number and name belongs to a series.
fn is_series(series: &str, number: u64, name: Option<&str>) -> bool {
    match name {
        Some(name) => series == name,
        None => series.parse() == Ok(number),
    }
}

fn head_of(image: &Image<'_>, form: &Form) -> FrameHead {
    let time_ns = u64::try_from(form.since_1970_ns + i128::from(image.time_ns)).unwrap_or(0);
    FrameHead { frame: image.frame, counter: image.frame, time_ns }
}

/// Whether a frame that is kept compressed has lengths that add up to its pixels, and fits into its place.
fn check_kept(coded: &Coded, bytes: &[u8]) -> Result<(), FormatError> {
    let frame_bytes = coded.frame_bytes();
    let max_bytes = Encoding::Bslz4.place_bytes(frame_bytes);
    if bytes.len() as u64 > max_bytes {
        let (got, allowed) = (bytes.len().to_string(), "as many as its place has");
        return Err(FormatError::Field { field: "bytes of a bslz4 frame", got, allowed });
    }
    Bslz4::parse(bytes, frame_bytes as usize, coded.pixel.bytes()).map(drop)
}

/// Number of frames of a series, and the shape of the scan if triggers mean its rows.
fn frames_of(triggers: Option<u64>, per_trigger: Option<u64>) -> (Option<u64>, Option<NavShape>) {
    let (Some(triggers), Some(per_trigger)) = (triggers, per_trigger) else { return (None, None) };
    let count = triggers.checked_mul(per_trigger).filter(|&count| (1..ENDLESS_FRAMES).contains(&count));
    let axis = |length: u64| u32::try_from(length).ok().filter(|&length| length > 1);
    let scan = axis(triggers).zip(axis(per_trigger)).map(|(height, width)| NavShape { height, width });
    (count, scan.filter(|_| count.is_some()))
}

fn shape_text(shape: SigShape) -> String {
    format!("{} x {}", shape.height, shape.width)
}

/// The beginning of a text that came, for logs.
fn cut(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
