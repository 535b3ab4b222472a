//! STREAM, the older of both: messages of several parts, JSON and pixels (`docs/detectors/dectris.md`).
//!
//! # Limits
//! Every JSON part up to [`JSON_BYTES_MAX`].

use std::fmt;

use ronchi_pipeline::{ByteOrder, PixelKind, PixelType};
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::picture::{self, Codec, Coded, Picture, Pictures, Place};
use super::tables::{Applied, Tables};
use super::{Image, Message, Refusal, Start, cut, frames_of};
use crate::messages::Text;

/// Longest JSON part, in bytes.
pub(super) const JSON_BYTES_MAX: usize = 1 << 20;

/// The first part of any message.
#[derive(Debug, serde::Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    htype: Option<Text<'a>>,
    series: Option<u64>,
    frame: Option<u64>,
    #[serde(borrow)]
    header_detail: Option<Text<'a>>,
}

/// What of a detector's configuration is used.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Configuration<'a> {
    nimages: Option<u64>,
    ntrigger: Option<u64>,
    #[serde(borrow)]
    trigger_mode: Option<Text<'a>>,
    x_pixels_in_detector: Option<u64>,
    y_pixels_in_detector: Option<u64>,
    mask_to_zero: Flag,
    pixel_mask_applied: Flag,
    flatfield_correction_applied: Flag,
}

/// A yes or no, which older detectors write as a number; anything else says nothing.
#[derive(Debug, Default)]
struct Flag(Option<bool>);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(value.as_bool().or_else(|| value.as_u64().map(|number| number != 0))))
    }
}

/// What the part before a table says of it.
#[derive(Debug, serde::Deserialize)]
struct TableForm<'a> {
    #[serde(borrow)]
    htype: Text<'a>,
    /// Columns, then rows.
    shape: Axes,
}

#[derive(Debug, serde::Deserialize)]
struct ImageForm<'a> {
    /// Columns, then rows.
    shape: Axes,
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    encoding: Text<'a>,
}

/// The first two numbers of a list.
#[derive(Debug)]
struct Axes([u64; 2]);

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AxesVisitor)
    }
}

struct AxesVisitor;

impl<'de> Visitor<'de> for AxesVisitor {
    type Value = Axes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Axes, A::Error> {
        let mut axes = [0; 2]; // An axis of no pixels is refused later.
        for axis in &mut axes {
            *axis = list.next_element()?.unwrap_or(0);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Axes(axes))
    }
}

#[derive(Debug, Default, serde::Deserialize)]
struct ImageTimes {
    start_time: Option<u64>,
}

/// Reads messages; a header may come in two of them.
#[derive(Debug, Default)]
pub(super) struct Stream1 {
    /// A series whose header has come, and whose configuration comes with the next message.
    unconfigured: Option<u64>,
}

impl Stream1 {
    /// What the parts of a message say. An error names what was not as expected.
    pub(super) fn parse<'a>(&mut self, parts: &[&'a [u8]]) -> Result<Message<'a>, Refusal> {
        let first = parts.first().copied().unwrap_or_default();
        let head: Head<'_> = json("the first part", first)?;
        let unconfigured = self.unconfigured.take();
        let Some(kind) = head.htype else {
            let Some(series) = unconfigured else { return Err(Refusal::Kind { got: "no `htype`".into() }) };
            return start(series, Some(first), &[]);
        };
        let series = || head.series.ok_or(Refusal::Missing { what: "series" });
        match kind.0.as_ref() {
            "dheader-1.0" => {
                let detail = head.header_detail.as_ref().map(|detail| detail.0.as_ref());
                let is_none = detail == Some("none");
                if parts.len() == 1 && !is_none {
                    self.unconfigured = Some(series()?);
                    return Ok(Message::Nothing);
                }
                let tables = if detail == Some("all") { parts } else { &[] };
                start(series()?, if is_none { None } else { parts.get(1).copied() }, tables)
            }
            "dimage-1.0" => {
                let frame = head.frame.ok_or(Refusal::Missing { what: "frame" })?;
                let (number, name) = (series()?, None);
                let (pictures, time_ns) = match image(parts) {
                    Ok((pictures, time_ns)) => (Ok(pictures), time_ns),
                    Err(refusal) => (Err(refusal), 0),
                };
                Ok(Message::Image(Image { number, name, frame, time_ns, pictures }))
            }
            "dseries_end-1.0" | "deseries_end-1.0" => Ok(Message::End { number: series()?, name: None }),
            other => Err(Refusal::Kind { got: cut(other) }),
        }
    }
}

/// A start; `parts` are those of a header with tables.
fn start<'a>(series: u64, configuration: Option<&'a [u8]>, parts: &[&'a [u8]]) -> Result<Message<'a>, Refusal> {
    let name = series.to_string();
    let Some(bytes) = configuration else {
        return Ok(Message::Start(Start { number: series, name, ..Start::default() }, Box::default()));
    };
    let used: Configuration<'_> = json("the configuration", bytes)?;
    let text = str::from_utf8(bytes).unwrap_or_default(); // JSON that was read is text.
    // Every trigger makes one image in the modes in which the trigger says how long it is exposed.
    let is_single = matches!(used.trigger_mode.as_ref().map(|mode| mode.0.as_ref()), Some("inte" | "exte" | "extg"));
    let per_trigger = if is_single { Some(1) } else { used.nimages };
    let (frame_count, scan) = frames_of(used.ntrigger, per_trigger);
    let detector = used.y_pixels_in_detector.zip(used.x_pixels_in_detector);
    let tables = Tables {
        detector: detector.and_then(|(rows, columns)| picture::shape(rows, columns)),
        applied: Applied {
            to_zero: used.mask_to_zero.0,
            pixel_mask: used.pixel_mask_applied.0,
            flatfield: used.flatfield_correction_applied.0,
        },
        ..tables(parts)
    };
    let vendor_header = text.to_owned();
    let start = Start { number: series, name, frame_count, scan, channels: Vec::new(), vendor_header };
    Ok(Message::Start(start, Box::new(tables)))
}

/// The tables of a header: what one is in the part before it. Those of another kind, and empty ones, are passed over.
fn tables<'a>(parts: &[&'a [u8]]) -> Tables<'a> {
    let mut tables = Tables::default();
    for (at, pair) in parts.chunks_exact(2).enumerate().skip(1) {
        let &[form, bytes] = pair else { continue };
        let Ok(TableForm { htype, shape: Axes([columns, rows]) }) = json("a table's form", form) else { continue };
        let (kind, into) = match htype.0.as_ref() {
            "dflatfield-1.0" | "flatfield-1.0" => (PixelKind::F32, &mut tables.flatfield),
            "dpixelmask-1.0" => (PixelKind::U32, &mut tables.pixel_mask),
            _ => continue,
        };
        let Some(shape) = picture::shape(rows, columns).filter(|_| !bytes.is_empty()) else { continue };
        let coded = Coded { shape, pixel: PixelType::new(kind, ByteOrder::Little), codec: Codec::None };
        into.push(Picture { channel: "", coded, place: Place { part: 2 * at + 1, start: 0, end: bytes.len() } });
    }
    tables
}

/// The picture of an image, in the third part, and when it began, in ns of the detector's clock.
fn image<'a>(parts: &[&'a [u8]]) -> Result<(Pictures<'a>, u64), Refusal> {
    let &[_, form, pixels, ..] = parts else { return Err(Refusal::Parts { got: parts.len(), want: 3 }) };
    let form: ImageForm<'_> = json("the second part", form)?;
    let Axes([columns, rows]) = form.shape;
    let shape = picture::shape(rows, columns).ok_or(Refusal::Shape { rows, columns })?;
    let pixel = pixel(&form.kind.0).ok_or_else(|| Refusal::Pixel { got: cut(&form.kind.0) })?;
    let codec = codec(&form.encoding.0).ok_or_else(|| Refusal::Encoding { got: cut(&form.encoding.0), count: 1 })?;
    let times: ImageTimes =
        parts.get(3).map_or_else(|| Ok(ImageTimes::default()), |part| json("the fourth part", part))?;
    let place = Place { part: 2, start: 0, end: pixels.len() };
    let mut pictures = Pictures::default();
    pictures.push(Picture { channel: "", coded: Coded { shape, pixel, codec }, place });
    Ok((pictures, times.start_time.unwrap_or(0)))
}

fn pixel(name: &str) -> Option<PixelType> {
    let kind = match name {
        "uint8" => PixelKind::U8,
        "uint16" => PixelKind::U16,
        "uint32" => PixelKind::U32,
        _ => return None,
    };
    Some(PixelType::new(kind, ByteOrder::Little))
}

/// `[bs<bits>][-][lz4]<`; what is only transposed, or big-endian, is not known to be sent by anything.
fn codec(encoding: &str) -> Option<Codec> {
    let body = encoding.strip_suffix('<')?;
    match body {
        "" => Some(Codec::None),
        "lz4" => Some(Codec::Lz4),
        _ => match body.strip_prefix("bs")?.strip_suffix("-lz4")? {
            "8" => Some(Codec::Bslz4 { item_bytes: 1 }),
            "16" => Some(Codec::Bslz4 { item_bytes: 2 }),
            "32" => Some(Codec::Bslz4 { item_bytes: 4 }),
            _ => None,
        },
    }
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Refusal> {
    if bytes.len() > JSON_BYTES_MAX {
        return Err(Refusal::Long { what, bytes: bytes.len(), max_bytes: JSON_BYTES_MAX });
    }
    serde_json::from_slice(bytes).map_err(|error| Refusal::Syntax { what, reason: cut(&error.to_string()) })
}
