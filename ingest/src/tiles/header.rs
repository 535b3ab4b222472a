//! Headers of the tile stream (`docs/tile-stream.md`): JSON or CBOR, the same keys, read without allocation.
//!
//! # Limits
//! `begin` up to [`BEGIN_BYTES_MAX`], `tile` and `end` up to [`TILE_BYTES_MAX`]; every number is checked before use.
//!
//! # Errors
//! [`HeaderError`] says what is wrong with one header; the stream goes on after it.

use std::borrow::Cow;
use std::fmt;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use ronchi_pipeline::{AXIS_MAX, Encoding, FrameIndex, NavShape, PixelType, Region, SigShape};

use crate::messages::Text;

/// Longest header of a `begin` message, in bytes.
pub const BEGIN_BYTES_MAX: usize = 64 << 10;
/// Longest header of a `tile` or `end` message, in bytes.
pub const TILE_BYTES_MAX: usize = 1 << 10;
/// Longest series id, in bytes.
pub const SERIES_BYTES_MAX: usize = 128;
/// Most frames of a series, also the first frame number that is refused.
pub const FRAMES_MAX: u64 = 1 << 40;
/// The version of the protocol spoken here.
pub const VERSION: u64 = 1;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Header<'a> {
    /// A series begins.
    Begin(BeginHeader<'a>),
    /// One tile of one frame; its pixels are the second part of the message.
    Tile(TileHeader<'a>),
    /// No more tiles of a series will be sent.
    End(EndHeader<'a>),
}

/// What a sender says of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct BeginHeader<'a> {
    /// Name of the run.
    pub series: Cow<'a, str>,
    /// Number of frames, when the sender knows it.
    pub frame_count: Option<u64>,
    /// Shape of the whole detector, in pixels.
    pub detector: SigShape,
    /// The part of it that this stream delivers.
    pub region: Region,
    /// Pixel type of the payloads.
    pub pixel: PixelType,
    /// The form of the payloads, one for the whole series.
    pub encoding: Encoding,
    /// Scan shape, when the sender knows it.
    pub scan: Option<NavShape>,
    /// Text worth keeping.
    pub metadata: Option<Cow<'a, str>>,
}

/// What a sender says of a tile.
#[derive(Debug, Clone, PartialEq)]
pub struct TileHeader<'a> {
    /// Name of the run.
    pub series: Cow<'a, str>,
    /// Number of the frame in its series, from 0.
    pub frame: FrameIndex,
    /// The part of the detector.
    pub region: Region,
    /// Pixel type of the payload.
    pub pixel: PixelType,
    /// Its form.
    pub encoding: Encoding,
    /// Shape of the whole detector: a tile that says it can open a series by itself.
    pub detector: Option<SigShape>,
    /// The readout's own frame number; the frame number when absent.
    pub counter: Option<u64>,
    /// Time stamp, ns since the Unix epoch.
    pub time_ns: Option<u64>,
}

/// What a sender says at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct EndHeader<'a> {
    /// Name of the run.
    pub series: Cow<'a, str>,
    /// Number of frames it sent.
    pub frame_count: Option<u64>,
}

/// Why a header was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Neither JSON nor CBOR.
    #[error("a header begins with byte {first:#04x}, expected a JSON object or a CBOR map")]
    Form {
        /// First byte; 0 for an empty header.
        first: u8,
    },
    /// Too many bytes.
    #[error("a header of {bytes} bytes, expected at most {max_bytes}")]
    TooLong {
        /// What came.
        bytes: usize,
        /// What is accepted for this type of message.
        max_bytes: usize,
    },
    /// Malformed.
    #[error("a broken header: {reason}")]
    Syntax {
        /// What the parser said, cut to 200 characters.
        reason: String,
    },
    /// A key is missing.
    #[error("a header without `{key}`")]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// A value is not allowed.
    #[error("`{key}` is {got}, expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What came, escaped.
        got: String,
        /// What is accepted.
        expected: &'static str,
    },
}

/// Reads one header.
pub fn parse_header(bytes: &[u8]) -> Result<Header<'_>, HeaderError> {
    if bytes.len() > BEGIN_BYTES_MAX {
        return Err(HeaderError::TooLong { bytes: bytes.len(), max_bytes: BEGIN_BYTES_MAX });
    }
    let raw = match bytes.first() {
        Some(b'{') => serde_json::from_slice(bytes).map_err(|e: serde_json::Error| syntax(&e))?,
        Some(0xa0..=0xbf) => RawHeader::from_cbor(bytes).map_err(|e| syntax(&e))?,
        first => return Err(HeaderError::Form { first: first.copied().unwrap_or(0) }),
    };
    let header = raw.check()?;
    if bytes.len() > TILE_BYTES_MAX && !matches!(header, Header::Begin(_)) {
        return Err(HeaderError::TooLong { bytes: bytes.len(), max_bytes: TILE_BYTES_MAX });
    }
    Ok(header)
}

/// The keys as they came; unknown keys are ignored, `null` is the same as absent.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct RawHeader<'a> {
    v: Option<u64>,
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    series: Option<Text<'a>>,
    frames: Option<u64>,
    frame: Option<u64>,
    detector: Option<[u32; 2]>,
    region: Option<[u32; 4]>,
    #[serde(borrow)]
    dtype: Option<Text<'a>>,
    #[serde(borrow)]
    encoding: Option<Text<'a>>,
    scan: Option<[u32; 2]>,
    counter: Option<u64>,
    time_ns: Option<u64>,
    #[serde(borrow)]
    metadata: Option<Text<'a>>,
}

type CborError = minicbor::decode::Error;

impl<'a> RawHeader<'a> {
    fn from_cbor(bytes: &'a [u8]) -> Result<Self, CborError> {
        let mut decoder = Decoder::new(bytes);
        let mut raw = Self::default();
        let mut left = decoder.map()?;
        loop {
            match left {
                Some(0) => break,
                Some(count) => left = Some(count - 1),
                None if decoder.datatype()? == Type::Break => {
                    decoder.skip()?;
                    break;
                }
                None => {}
            }
            let key = decoder.str()?;
            raw.read_value(key, &mut decoder)?;
        }
        match decoder.position() == bytes.len() {
            true => Ok(raw),
            false => Err(CborError::message("bytes after the map")),
        }
    }

    fn read_value(&mut self, key: &str, decoder: &mut Decoder<'a>) -> Result<(), CborError> {
        if decoder.datatype()? == Type::Null {
            return decoder.skip();
        }
        let text = |d: &mut Decoder<'a>| d.str().map(|text| Text(Cow::Borrowed(text)));
        match key {
            "v" => once(&mut self.v, decoder.u64()?),
            "type" => once(&mut self.kind, text(decoder)?),
            "series" => once(&mut self.series, text(decoder)?),
            "frames" => once(&mut self.frames, decoder.u64()?),
            "frame" => once(&mut self.frame, decoder.u64()?),
            "detector" => once(&mut self.detector, numbers(decoder)?),
            "region" => once(&mut self.region, numbers(decoder)?),
            "dtype" => once(&mut self.dtype, text(decoder)?),
            "encoding" => once(&mut self.encoding, text(decoder)?),
            "scan" => once(&mut self.scan, numbers(decoder)?),
            "counter" => once(&mut self.counter, decoder.u64()?),
            "time_ns" => once(&mut self.time_ns, decoder.u64()?),
            "metadata" => once(&mut self.metadata, text(decoder)?),
            _ => decoder.skip(),
        }
    }

    fn check(self) -> Result<Header<'a>, HeaderError> {
        match self.v {
            Some(VERSION) => {}
            Some(other) => return Err(wrong("v", other, "1")),
            None => return Err(HeaderError::Missing { key: "v" }),
        }
        let kind = need("type", self.kind.as_ref())?;
        match kind.0.as_ref() {
            "begin" => self.begin().map(Header::Begin),
            "tile" => self.tile().map(Header::Tile),
            "end" => self.end().map(Header::End),
            other => Err(wrong("type", format!("{:?}", cut(other)), "\"begin\", \"tile\" or \"end\"")),
        }
    }

    fn begin(self) -> Result<BeginHeader<'a>, HeaderError> {
        let detector = detector(need("detector", self.detector)?)?;
        Ok(BeginHeader {
            series: series(self.series)?,
            frame_count: self.frames.map(frame_count).transpose()?,
            detector,
            region: region(need("region", self.region)?, Some(detector))?,
            pixel: pixel(self.dtype)?,
            encoding: encoding(self.encoding)?,
            scan: self.scan.map(scan).transpose()?,
            metadata: self.metadata.map(|text| text.0),
        })
    }

    fn tile(self) -> Result<TileHeader<'a>, HeaderError> {
        let frame = need("frame", self.frame)?;
        if frame >= FRAMES_MAX {
            return Err(wrong("frame", frame, "a number below 2^40"));
        }
        let detector = self.detector.map(detector).transpose()?;
        Ok(TileHeader {
            series: series(self.series)?,
            frame,
            region: region(need("region", self.region)?, detector)?,
            pixel: pixel(self.dtype)?,
            encoding: encoding(self.encoding)?,
            detector,
            counter: self.counter,
            time_ns: self.time_ns,
        })
    }

    fn end(self) -> Result<EndHeader<'a>, HeaderError> {
        Ok(EndHeader { series: series(self.series)?, frame_count: self.frames })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), CborError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CborError::message("a key came twice")),
    }
}

fn numbers<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[u32; N], CborError> {
    if decoder.array()? != Some(N as u64) {
        return Err(CborError::message("an array of another length"));
    }
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = decoder.u32()?;
    }
    Ok(numbers)
}

fn need<T>(key: &'static str, value: Option<T>) -> Result<T, HeaderError> {
    value.ok_or(HeaderError::Missing { key })
}

fn wrong(key: &'static str, got: impl fmt::Display, expected: &'static str) -> HeaderError {
    HeaderError::Value { key, got: got.to_string(), expected }
}

/// The parser's words, cut: they may repeat a whole value.
fn syntax(error: &impl fmt::Display) -> HeaderError {
    HeaderError::Syntax { reason: first_chars(&error.to_string(), 200).to_owned() }
}

fn cut(text: &str) -> &str {
    first_chars(text, 40)
}

fn first_chars(text: &str, count: usize) -> &str {
    let end = text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn series(text: Option<Text<'_>>) -> Result<Cow<'_, str>, HeaderError> {
    let Text(id) = need("series", text)?;
    if id.is_empty() || id.len() > SERIES_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(wrong("series", format!("{:?}", cut(&id)), "1 to 128 bytes of text without control characters"));
    }
    Ok(id)
}

fn frame_count(count: u64) -> Result<u64, HeaderError> {
    match (1..=FRAMES_MAX).contains(&count) {
        true => Ok(count),
        false => Err(wrong("frames", count, "1 to 2^40")),
    }
}

fn axes(key: &'static str, [height, width]: [u32; 2]) -> Result<(u32, u32), HeaderError> {
    match (1..=AXIS_MAX).contains(&height) && (1..=AXIS_MAX).contains(&width) {
        true => Ok((height, width)),
        false => Err(wrong(key, format!("[{height}, {width}]"), "two numbers from 1 to 65536")),
    }
}

fn detector(numbers: [u32; 2]) -> Result<SigShape, HeaderError> {
    axes("detector", numbers).map(|(height, width)| SigShape { height, width })
}

fn scan(numbers: [u32; 2]) -> Result<NavShape, HeaderError> {
    axes("scan", numbers).map(|(height, width)| NavShape { height, width })
}

fn region(numbers: [u32; 4], detector: Option<SigShape>) -> Result<Region, HeaderError> {
    let [y, x, height, width] = numbers;
    let region = Region { y, x, height, width };
    match region.fits(detector.unwrap_or(SigShape { height: AXIS_MAX, width: AXIS_MAX })) {
        true => Ok(region),
        false => Err(wrong("region", format!("{numbers:?}"), "[y, x, height, width] inside the detector")),
    }
}

fn pixel(dtype: Option<Text<'_>>) -> Result<PixelType, HeaderError> {
    let Text(name) = need("dtype", dtype)?;
    PixelType::from_numpy_name(&name).ok_or_else(|| {
        wrong(
            "dtype",
            format!("{:?}", cut(&name)),
            "a NumPy name of an unsigned integer of 1, 2 or 4 bytes or of float32",
        )
    })
}

fn encoding(name: Option<Text<'_>>) -> Result<Encoding, HeaderError> {
    let Some(Text(name)) = name else { return Ok(Encoding::Raw) };
    let known = || wrong("encoding", format!("{:?}", cut(&name)), "\"raw\" or \"bslz4\"");
    Encoding::from_name(&name).ok_or_else(known)
}

/// One key and value of a header to be written.
enum Field<'a> {
    Number(u64),
    Numbers(&'a [u32]),
    Text(&'a str),
}

impl Header<'_> {
    /// The header as a JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let mut object = serde_json::Map::new();
        self.each_field(|key, field| {
            let value = match field {
                Field::Number(number) => number.into(),
                Field::Numbers(numbers) => numbers.into(),
                Field::Text(text) => text.into(),
            };
            object.insert(key.to_owned(), value);
        });
        serde_json::Value::Object(object).to_string().into_bytes()
    }

    /// The header as a CBOR map.
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut field_count = 0;
        self.each_field(|_, _| field_count += 1);
        let mut out = Encoder::new(Vec::new());
        let _ = out.map(field_count); // Writing to a vector cannot fail, here and below.
        self.each_field(|key, field| {
            let _ = out.str(key);
            match field {
                Field::Number(number) => drop(out.u64(number)),
                Field::Text(text) => drop(out.str(text)),
                Field::Numbers(numbers) => {
                    let _ = out.array(numbers.len() as u64);
                    numbers.iter().for_each(|&number| drop(out.u32(number)));
                }
            }
        });
        out.into_writer()
    }

    fn each_field(&self, mut put: impl FnMut(&str, Field<'_>)) {
        put("v", Field::Number(VERSION));
        let shape = |shape: &SigShape| [shape.height, shape.width];
        let region = |r: &Region| [r.y, r.x, r.height, r.width];
        match self {
            Self::Begin(begin) => {
                put("type", Field::Text("begin"));
                put("series", Field::Text(&begin.series));
                begin.frame_count.iter().for_each(|&count| put("frames", Field::Number(count)));
                put("detector", Field::Numbers(&shape(&begin.detector)));
                put("region", Field::Numbers(&region(&begin.region)));
                put("dtype", Field::Text(begin.pixel.numpy_name()));
                put("encoding", Field::Text(begin.encoding.name()));
                begin.scan.iter().for_each(|scan| put("scan", Field::Numbers(&[scan.height, scan.width])));
                begin.metadata.iter().for_each(|text| put("metadata", Field::Text(text)));
            }
            Self::Tile(tile) => {
                put("type", Field::Text("tile"));
                put("series", Field::Text(&tile.series));
                put("frame", Field::Number(tile.frame));
                put("region", Field::Numbers(&region(&tile.region)));
                put("dtype", Field::Text(tile.pixel.numpy_name()));
                put("encoding", Field::Text(tile.encoding.name()));
                tile.detector.iter().for_each(|detector| put("detector", Field::Numbers(&shape(detector))));
                tile.counter.iter().for_each(|&counter| put("counter", Field::Number(counter)));
                tile.time_ns.iter().for_each(|&time_ns| put("time_ns", Field::Number(time_ns)));
            }
            Self::End(end) => {
                put("type", Field::Text("end"));
                put("series", Field::Text(&end.series));
                end.frame_count.iter().for_each(|&count| put("frames", Field::Number(count)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ronchi_pipeline::{ByteOrder, PixelKind};

    fn id() -> impl Strategy<Value = Cow<'static, str>> {
        "[ -~äß€]{1,40}".prop_map(Cow::Owned)
    }

    fn pixel() -> impl Strategy<Value = PixelType> {
        let kinds = [PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32];
        let kind = prop::sample::select(kinds.to_vec());
        (kind, any::<bool>())
            .prop_map(|(k, big)| PixelType::new(k, if big { ByteOrder::Big } else { ByteOrder::Little }))
    }

    fn place() -> impl Strategy<Value = (SigShape, Region)> {
        (0_u32..999, 0_u32..999, 1_u32..999, 1_u32..999, 0_u32..99).prop_map(|(y, x, height, width, more)| {
            (SigShape { height: y + height + more, width: x + width }, Region { y, x, height, width })
        })
    }

    fn header() -> impl Strategy<Value = Header<'static>> {
        let scan = (1_u32..=AXIS_MAX, 1..=AXIS_MAX).prop_map(|(height, width)| NavShape { height, width });
        let text = prop::option::of("(?s).{0,200}".prop_map(Cow::Owned));
        let encoding = || prop::sample::select(vec![Encoding::Raw, Encoding::Bslz4]);
        let frames = prop::option::of(1..=FRAMES_MAX);
        let begin = (id(), frames, place(), pixel(), encoding(), prop::option::of(scan), text).prop_map(
            |(series, frame_count, (detector, region), pixel, encoding, scan, metadata)| {
                Header::Begin(BeginHeader { series, frame_count, detector, region, pixel, encoding, scan, metadata })
            },
        );
        let number = || prop::option::of(any::<u64>());
        let tile = (id(), 0..FRAMES_MAX, place(), pixel(), encoding(), any::<bool>(), number(), number()).prop_map(
            |(series, frame, (detector, region), pixel, encoding, opens, counter, time_ns)| {
                let detector = opens.then_some(detector);
                Header::Tile(TileHeader { series, frame, region, pixel, encoding, detector, counter, time_ns })
            },
        );
        let end = (id(), number()).prop_map(|(series, frame_count)| Header::End(EndHeader { series, frame_count }));
        prop_oneof![begin, tile, end]
    }

    proptest! {
        /// JSON and CBOR carry the same header, and a cut or changed one is refused or read, never a panic.
        #[test]
        fn json_and_cbor_are_equal(header in header(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
            for bytes in [header.to_json(), header.to_cbor()] {
                prop_assert_eq!(parse_header(&bytes), Ok(header.clone()));
                let at = cut.index(bytes.len());
                prop_assert!(parse_header(&bytes[..at]).is_err());
                let mut changed = bytes.clone();
                changed[at] = byte;
                let _ = parse_header(&changed);
            }
        }

        /// Any bytes are refused or read, never a panic.
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 1..300), first in prop::sample::select(b"{\xa1\xa5\xbf".to_vec())) {
            let _ = parse_header(&bytes);
            bytes[0] = first;
            let _ = parse_header(&bytes);
        }
    }

    /// Strings without escapes are borrowed from the message: no allocation per tile.
    #[test]
    fn tiles_borrow() {
        let json =
            br#"{"v":1,"type":"tile","series":"a b","frame":7,"region":[0,0,2,2],"dtype":"<u2","other":[{"x":1}]}"#;
        let Ok(Header::Tile(tile)) = parse_header(json) else { panic!("a tile") };
        assert!(matches!(tile.series, Cow::Borrowed("a b")));
        assert_eq!((tile.frame, tile.counter, tile.detector), (7, None, None));
    }

    /// The bytes drawn in `docs/tile-stream.md` are read, and written, as drawn there.
    #[test]
    fn documented_bytes() {
        let page = include_str!("../../../docs/tile-stream.md");
        let drawing =
            page.split_once("```text\na4 ").and_then(|(_, rest)| rest.split_once("```")).expect("a drawing").0;
        let is_byte = |word: &&str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let bytes = drawing.lines().flat_map(|line| line.split_whitespace().take_while(is_byte));
        let mut cbor = vec![0xa4];
        cbor.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).expect("hex")));
        let end = Header::End(EndHeader { series: "a".into(), frame_count: Some(3) });
        assert_eq!((parse_header(&cbor), cbor.len()), (Ok(end.clone()), 30));
        assert_eq!(end.to_cbor(), cbor);
        let json = page.split_once("part 1   ").and_then(|(_, rest)| rest.lines().next()).expect("a header");
        let Ok(Header::Tile(tile)) = parse_header(json.as_bytes()) else { panic!("a tile: {json}") };
        assert_eq!((tile.frame, tile.region.pixel_count(), tile.pixel.numpy_name()), (0, 4, ">u2"));
    }

    /// Each rule has its own message.
    #[test]
    fn refusals() {
        let refused = |text: &str| parse_header(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(refused(""), "a header begins with byte 0x00, expected a JSON object or a CBOR map");
        assert_eq!(refused("[1]"), "a header begins with byte 0x5b, expected a JSON object or a CBOR map");
        assert_eq!(refused("{}"), "a header without `v`");
        assert_eq!(refused(r#"{"v":2}"#), "`v` is 2, expected 1");
        assert_eq!(refused(r#"{"v":1,"type":"x\n"}"#), r#"`type` is "x\n", expected "begin", "tile" or "end""#);
        assert_eq!(refused(r#"{"v":1,"type":"end"}"#), "a header without `series`");
        assert!(refused(r#"{"v":1,"v":1}"#).contains("duplicate"));
        let tile = |change: &str| {
            format!(r#"{{"v":1,"type":"tile","series":"a","frame":1,"region":[0,0,2,2],"dtype":"<u2"{change}}}"#)
        };
        assert!(parse_header(tile("").as_bytes()).is_ok());
        assert!(parse_header(tile(r#","encoding":"bslz4""#).as_bytes()).is_ok());
        assert_eq!(refused(&tile(r#","encoding":"lz4""#)), r#"`encoding` is "lz4", expected "raw" or "bslz4""#);
        assert!(refused(&tile(r#","detector":[1,2]"#)).starts_with("`region` is [0, 0, 2, 2], expected"));
        assert!(refused(&tile(r#","detector":[0,2]"#)).starts_with("`detector` is [0, 2]"));
        assert!(refused(&tile(&format!(r#","pad":"{}""#, "x".repeat(1024)))).contains("expected at most 1024"));
        assert!(refused(&format!("{{{}", " ".repeat(BEGIN_BYTES_MAX))).contains("expected at most 65536"));
        assert!(refused(&"{\"a\":".repeat(500)).contains("broken header"));
        assert!(refused(&format!(r#"{{"v":"{}"}}"#, "ä".repeat(9000))).len() < 500);
    }
}
