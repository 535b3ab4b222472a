//! STREAM2: messages of one part, a CBOR map each (`docs/detectors/dectris.md`).
//!
//! # Limits
//! Values nested up to [`DEPTH_MAX`]; names of channels up to [`NAME_BYTES_MAX`]; at most eight channels.

use minicbor::Decoder;
use minicbor::data::Type;
use minicbor::decode::Error;
use ronchi_pipeline::{ByteOrder, PixelKind, PixelType};
use serde_json::{Map, Value};

use super::picture::{self, CHANNELS_MAX, Codec, Coded, Picture, Pictures, Place};
use super::tables::Tables;
use super::{Image, Message, Refusal, Start, cut, frames_of};

/// Most levels of a start message that are kept as text.
const DEPTH_MAX: usize = 8;
/// Most values of a start message that are kept as text.
const VALUES_MAX: usize = 4096;
/// Longest text that is kept, in bytes; what is longer does not keep a series from being recorded.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest name of a channel or a series, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Tag of compressed bytes: algorithm, modifier, bytes.
const COMPRESSED: u64 = 56500;

/// What of any message is used.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    number: Option<u64>,
    name: Option<&'a str>,
    frame: Option<u64>,
    start_ns: u64,
    image_count: Option<u64>,
    /// Rows and columns of a channel.
    size: [Option<u64>; 2],
    tables: Tables<'a>,
    channels: Vec<&'a str>,
    pictures: Pictures<'a>,
    /// The first picture that cannot be used.
    unusable: Option<Refusal>,
}

/// What a message says. An error names what was not as expected.
pub(super) fn parse(bytes: &[u8]) -> Result<Message<'_>, Refusal> {
    let fields = Fields::read(bytes).map_err(|error| syntax(&error))?;
    let number = fields.number.ok_or(Refusal::Missing { what: "series_id" })?;
    let name = fields.name;
    if let Some(name) = name.filter(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Refusal::Long { what: "series_unique_id", bytes: name.len(), max_bytes: NAME_BYTES_MAX });
    }
    match fields.kind.ok_or(Refusal::Missing { what: "type" })? {
        "start" => {
            let (frame_count, scan) = frames_of(fields.image_count, Some(1));
            let name = name.map_or_else(|| number.to_string(), str::to_owned);
            let channels = fields.channels.iter().map(|&channel| channel.to_owned()).collect();
            let vendor_header = text_of(bytes).map_err(|error| syntax(&error))?;
            let [rows, columns] = fields.size;
            let detector = rows.zip(columns).and_then(|(rows, columns)| picture::shape(rows, columns));
            let tables = Box::new(Tables { detector, ..fields.tables });
            Ok(Message::Start(Start { number, name, frame_count, scan, channels, vendor_header }, tables))
        }
        "image" => {
            let frame = fields.frame.ok_or(Refusal::Missing { what: "image_id" })?;
            let pictures = match fields.unusable {
                Some(refusal) => Err(refusal),
                None if fields.pictures.len() == 0 => Err(Refusal::Missing { what: "data" }),
                None => Ok(fields.pictures),
            };
            Ok(Message::Image(Image { number, name, frame, time_ns: fields.start_ns, pictures }))
        }
        "end" => Ok(Message::End { number, name }),
        other => Err(Refusal::Kind { got: cut(other) }),
    }
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut decoder = Decoder::new(bytes);
        let mut fields = Self::default();
        untag(&mut decoder)?;
        each_entry(&mut decoder, |key, decoder| fields.read_value(key, decoder))?;
        Ok(fields)
    }

    fn read_value(&mut self, key: &str, decoder: &mut Decoder<'a>) -> Result<(), Error> {
        untag(decoder)?;
        if decoder.datatype()? == Type::Null {
            return decoder.skip();
        }
        match key {
            "type" => self.kind = Some(decoder.str()?),
            "series_id" => self.number = Some(decoder.u64()?),
            "series_unique_id" => self.name = Some(decoder.str()?),
            "image_id" => self.frame = Some(decoder.u64()?),
            "number_of_images" => self.image_count = Some(decoder.u64()?),
            "start_time" => self.start_ns = seconds_in_ns(decoder)?,
            "channels" => each(decoder, |_, decoder| {
                let channel = decoder.str()?;
                self.channels.push(channel);
                if self.channels.len() > CHANNELS_MAX { Err(Error::message("more than 8 channels")) } else { Ok(()) }
            })?,
            "image_size_y" => self.size[0] = Some(decoder.u64()?),
            "image_size_x" => self.size[1] = Some(decoder.u64()?),
            "mask_to_zero" => self.tables.applied.to_zero = flag(decoder)?,
            "pixel_mask_enabled" => self.tables.applied.pixel_mask = flag(decoder)?,
            "flatfield_enabled" => self.tables.applied.flatfield = flag(decoder)?,
            "pixel_mask" => pixel_tables(decoder, PixelKind::U32, &mut self.tables.pixel_mask)?,
            "flatfield" => pixel_tables(decoder, PixelKind::F32, &mut self.tables.flatfield)?,
            "data" => each_entry(decoder, |channel, decoder| self.read_picture(channel, decoder))?,
            _ => decoder.skip()?,
        }
        Ok(())
    }

    fn read_picture(&mut self, channel: &'a str, decoder: &mut Decoder<'a>) -> Result<(), Error> {
        let has_room = match picture(channel, decoder)? {
            Ok(Picture { coded, .. }) if coded.pixel.kind == PixelKind::F32 => {
                self.unusable = Some(Refusal::Pixel { got: "float32".to_owned() });
                true
            }
            Ok(picture) => channel.len() <= NAME_BYTES_MAX && self.pictures.push(picture),
            Err(refusal) => {
                self.unusable = Some(refusal);
                true
            }
        };
        if has_room {
            Ok(())
        } else {
            Err(Error::message("more than 8 channels, or one with a name of over 128 bytes"))
        }
    }
}

/// A yes or no; anything else says nothing.
fn flag(decoder: &mut Decoder<'_>) -> Result<Option<bool>, Error> {
    if decoder.datatype()? == Type::Bool { decoder.bool().map(Some) } else { decoder.skip().map(|()| None) }
}

/// Tables of numbers of pixels, by channel; those that are none, of other numbers, or too many, are passed over.
fn pixel_tables<'a>(decoder: &mut Decoder<'a>, kind: PixelKind, into: &mut Pictures<'a>) -> Result<(), Error> {
    if !matches!(decoder.datatype()?, Type::Map | Type::MapIndef) {
        return decoder.skip();
    }
    each_entry(decoder, |channel, decoder| {
        untag(decoder)?;
        if !matches!(decoder.datatype()?, Type::Array | Type::ArrayIndef) {
            return decoder.skip();
        }
        let table = picture(channel, decoder)?.ok();
        if let Some(table) = table.filter(|it| it.coded.pixel.kind == kind && channel.len() <= NAME_BYTES_MAX) {
            into.push(table);
        }
        Ok(())
    })
}

/// `[[rows, columns], typed bytes]`, usually with tag 40. The outer error says that the rest of the message cannot be read.
fn picture<'a>(channel: &'a str, decoder: &mut Decoder<'a>) -> Result<Result<Picture<'a>, Refusal>, Error> {
    let (mut dimensions, mut typed) = (None, None);
    untag(decoder)?;
    each(decoder, |place, decoder| {
        match place {
            0 => {
                untag(decoder)?;
                dimensions = pair(decoder)?;
            }
            1 => typed = Some(typed_bytes(decoder)?),
            _ => decoder.skip()?,
        }
        Ok(())
    })?;
    Ok(checked(channel, dimensions, typed))
}

fn checked<'a>(
    channel: &'a str,
    dimensions: Option<[u64; 2]>,
    typed: Option<Typed<'a>>,
) -> Result<Picture<'a>, Refusal> {
    let [rows, columns] = dimensions.ok_or(Refusal::Missing { what: "two dimensions of an image" })?;
    let Typed { pixel: tag, algorithm, modifier, place } =
        typed.ok_or(Refusal::Missing { what: "pixels of an image" })?;
    let shape = picture::shape(rows, columns).ok_or(Refusal::Shape { rows, columns })?;
    let pixel = pixel(tag).ok_or_else(|| Refusal::Pixel { got: format!("tag {tag}") })?;
    let codec = match (algorithm, modifier) {
        (None, _) => Codec::None,
        (Some("lz4"), _) => Codec::FramedLz4,
        (Some("bslz4"), 1 | 2 | 4) => Codec::Bslz4 { item_bytes: modifier as usize },
        (Some(other), _) => return Err(Refusal::Encoding { got: cut(&format!("{other} of {modifier}")), count: 1 }),
    };
    Ok(Picture { channel, coded: Coded { shape, pixel, codec }, place })
}

/// Bytes with the tag of their type.
struct Typed<'a> {
    pixel: u64,
    /// How they are compressed, if they are.
    algorithm: Option<&'a str>,
    modifier: u64,
    place: Place,
}

fn typed_bytes<'a>(decoder: &mut Decoder<'a>) -> Result<Typed<'a>, Error> {
    let (mut pixel, mut is_compressed) = (0, false);
    while decoder.datatype()? == Type::Tag {
        match decoder.tag()?.as_u64() {
            COMPRESSED => is_compressed = true,
            tag => pixel = tag,
        }
    }
    if !is_compressed {
        return Ok(Typed { pixel, algorithm: None, modifier: 0, place: place_of_bytes(decoder)? });
    }
    let mut typed = Typed { pixel, algorithm: None, modifier: 0, place: Place::default() };
    each(decoder, |place, decoder| {
        untag(decoder)?;
        match place {
            0 => typed.algorithm = Some(decoder.str()?),
            1 => typed.modifier = decoder.u64()?,
            2 => typed.place = place_of_bytes(decoder)?,
            _ => decoder.skip()?,
        }
        Ok(())
    })?;
    Ok(typed)
}

fn place_of_bytes(decoder: &mut Decoder<'_>) -> Result<Place, Error> {
    let length = decoder.bytes()?.len();
    let end = decoder.position();
    Ok(Place { part: 0, start: end - length, end })
}

/// Type of the numbers of a typed array (RFC 8746), as far as detectors send it.
fn pixel(tag: u64) -> Option<PixelType> {
    let (kind, order) = match tag {
        64 | 68 => (PixelKind::U8, ByteOrder::Little),
        69 => (PixelKind::U16, ByteOrder::Little),
        70 => (PixelKind::U32, ByteOrder::Little),
        65 => (PixelKind::U16, ByteOrder::Big),
        66 => (PixelKind::U32, ByteOrder::Big),
        85 => (PixelKind::F32, ByteOrder::Little),
        81 => (PixelKind::F32, ByteOrder::Big),
        _ => return None,
    };
    Some(PixelType::new(kind, order))
}

/// A fraction of seconds, `[numerator, denominator]`, in whole ns; 0 when it is none.
fn seconds_in_ns(decoder: &mut Decoder<'_>) -> Result<u64, Error> {
    let [numerator, denominator] = pair(decoder)?.unwrap_or_default().map(u128::from);
    Ok((numerator * 1_000_000_000).checked_div(denominator).and_then(|ns| u64::try_from(ns).ok()).unwrap_or(0))
}

/// An array of two numbers; `None` when it has another length.
fn pair(decoder: &mut Decoder<'_>) -> Result<Option<[u64; 2]>, Error> {
    let (mut numbers, mut count) = ([0; 2], 0);
    each(decoder, |place, decoder| {
        count += 1;
        match numbers.get_mut(place) {
            Some(number) => *number = decoder.u64()?,
            None => decoder.skip()?,
        }
        Ok(())
    })?;
    Ok((count == 2).then_some(numbers))
}

fn untag(decoder: &mut Decoder<'_>) -> Result<(), Error> {
    while decoder.datatype()? == Type::Tag {
        decoder.tag()?;
    }
    Ok(())
}

/// Calls `read` for every entry of a map, definite or not.
fn each_entry<'a>(
    decoder: &mut Decoder<'a>,
    mut read: impl FnMut(&'a str, &mut Decoder<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let left = decoder.map()?;
    items(decoder, left, |_, decoder| {
        let key = decoder.str()?;
        read(key, decoder)
    })
}

/// Calls `read` for every item of an array, definite or not, with its number.
fn each<'a>(
    decoder: &mut Decoder<'a>,
    read: impl FnMut(usize, &mut Decoder<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let left = decoder.array()?;
    items(decoder, left, read)
}

fn items<'a>(
    decoder: &mut Decoder<'a>,
    mut left: Option<u64>,
    mut read: impl FnMut(usize, &mut Decoder<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    for number in 0.. {
        match left {
            Some(0) => break,
            Some(count) => left = Some(count - 1),
            None if decoder.datatype()? == Type::Break => return decoder.skip(),
            None => {}
        }
        read(number, decoder)?;
    }
    Ok(())
}

/// A start message as JSON text, byte strings as their lengths: what is worth keeping of it.
fn text_of(bytes: &[u8]) -> Result<String, Error> {
    let mut room = VALUES_MAX;
    let text = value(&mut Decoder::new(bytes), 0, &mut room)?.to_string();
    Ok(if text.len() <= TEXT_BYTES_MAX { text } else { Value::from_iter([("left_out_bytes", text.len())]).to_string() })
}

/// The next value; `null` when it is nested too deep or `room` for more values is used up.
fn value(decoder: &mut Decoder<'_>, depth: usize, room: &mut usize) -> Result<Value, Error> {
    untag(decoder)?;
    if depth > DEPTH_MAX || *room == 0 {
        decoder.skip()?;
        return Ok(Value::Null);
    }
    *room -= 1;
    Ok(match decoder.datatype()? {
        Type::Bool => decoder.bool()?.into(),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64()?.into(),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => decoder.i64()?.into(),
        Type::F32 | Type::F64 => decoder.f64()?.into(),
        Type::String => decoder.str()?.into(),
        Type::Bytes => Value::from_iter([("bytes", decoder.bytes()?.len())]),
        Type::Array | Type::ArrayIndef => {
            let mut values = Vec::new();
            each(decoder, |_, decoder| {
                let value = value(decoder, depth + 1, room)?;
                if *room > 0 {
                    values.push(value);
                }
                Ok(())
            })?;
            values.into()
        }
        Type::Map | Type::MapIndef => {
            let mut map = Map::new();
            each_entry(decoder, |key, decoder| {
                let value = value(decoder, depth + 1, room)?;
                if *room > 0 {
                    map.insert(key.to_owned(), value);
                }
                Ok(())
            })?;
            map.into()
        }
        _ => {
            decoder.skip()?;
            Value::Null
        }
    })
}

fn syntax(error: &Error) -> Refusal {
    Refusal::Syntax { what: "a message", reason: cut(&error.to_string()) }
}
