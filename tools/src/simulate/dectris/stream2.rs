//! Messages of STREAM2: one CBOR map each.

use std::convert::Infallible;

use humantime::format_rfc3339_millis;
use minicbor::Encoder;
use minicbor::data::Tag;
use minicbor::encode::Error;
use ronchi_pipeline::ByteOrder;
use serde_json::Value;

use super::images::{Compression, Dtype};
use super::series::{Exposure, HeaderDetail, Series, SeriesId, TICK_NS, count_rate_table};

type Out = Encoder<Vec<u8>>;
type Written<'a> = Result<&'a mut Out, Error<Infallible>>;

/// Self-described CBOR, with which messages begin.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];
const DATE: Tag = Tag::new(0);
/// Dimensions and elements, rows first.
const ARRAY: Tag = Tag::new(40);
/// Algorithm, modifier and bytes.
const COMPRESSED: Tag = Tag::new(56500);
/// Arrays of u32 and f32, little-endian (RFC 8746).
const U32_ARRAY: Tag = Tag::new(70);
const F32_ARRAY: Tag = Tag::new(85);
/// Ticks of the detector's clock in a second.
const TICKS_PER_S: u64 = 1_000_000_000 / TICK_NS;

/// A map whose entries are counted while they are written.
struct Entries {
    out: Out,
    count: u64,
}

impl Entries {
    fn of(kind: &str, id: SeriesId<'_>) -> Self {
        let mut entries = Self { out: Encoder::new(Vec::new()), count: 0 };
        entries.add("type", |out| out.str(kind));
        entries.add("series_id", |out| out.u64(id.number));
        entries.add("series_unique_id", |out| out.str(id.name));
        entries
    }

    fn add(&mut self, key: &str, write: impl FnOnce(&mut Out) -> Written<'_>) {
        let written = self.out.str(key).and_then(write);
        written.expect("memory takes everything");
        self.count += 1;
    }

    fn message(self) -> Vec<u8> {
        let mut head = Encoder::new(SELF_DESCRIBED.to_vec());
        head.map(self.count).expect("memory takes everything");
        [head.into_writer(), self.out.into_writer()].concat()
    }
}

/// The start of a series.
pub(super) fn start(series: &Series) -> Vec<u8> {
    let shape = series.shape;
    let channels = &series.form.channels;
    let mut entries = Entries::of("start", series.id());
    entries.add("arm_date", |out| date(out, series));
    float(&mut entries, "beam_center_x", series.number_of("beam_center_x"));
    float(&mut entries, "beam_center_y", series.number_of("beam_center_y"));
    entries.add("channels", |out| {
        channels.iter().try_fold(out.array(channels.len() as u64)?, |out, channel| out.str(channel))
    });
    float(&mut entries, "count_time", series.count_ns as f64 * 1e-9);
    entries.add("countrate_correction_enabled", |out| out.bool(true));
    if series.detail == HeaderDetail::All {
        let table: Vec<u8> = count_rate_table().flatten().flat_map(f32::to_le_bytes).collect();
        entries.add("countrate_correction_lookup_table", |out| out.tag(F32_ARRAY)?.bytes(&table));
    }
    entries.add("detector_description", |out| out.str(series.text_of("description")));
    entries.add("detector_serial_number", |out| out.str(series.text_of("detector_number")));
    entries.add("detector_translation", |out| out.array(3)?.f64(0.0)?.f64(0.0)?.f64(0.0));
    if series.detail == HeaderDetail::All {
        let ones: Vec<u8> = (0..shape.pixel_count()).flat_map(|_| 1_f32.to_le_bytes()).collect();
        entries.add("flatfield", |out| tables(out, series, F32_ARRAY, &ones));
    }
    entries.add("flatfield_enabled", |out| out.bool(true));
    float(&mut entries, "frame_time", series.frame_ns as f64 * 1e-9);
    entries.add("goniometer", goniometer);
    entries.add("image_dtype", |out| out.str(series.form.dtype.name()));
    entries.add("image_size_x", |out| out.u32(shape.width));
    entries.add("image_size_y", |out| out.u32(shape.height));
    float(&mut entries, "incident_energy", series.number_of("incident_energy"));
    float(&mut entries, "incident_wavelength", series.number_of("wavelength"));
    entries.add("number_of_images", |out| out.u64(series.frame_count()));
    if series.detail == HeaderDetail::All {
        let zeros = vec![0; 4 * shape.pixel_count() as usize];
        entries.add("pixel_mask", |out| tables(out, series, U32_ARRAY, &zeros));
    }
    entries.add("pixel_mask_enabled", |out| out.bool(true));
    float(&mut entries, "pixel_size_x", series.number_of("x_pixel_size"));
    float(&mut entries, "pixel_size_y", series.number_of("y_pixel_size"));
    entries.add("saturation_value", |out| out.u32(series.form.dtype.max() - 1));
    entries.add("sensor_material", |out| out.str(series.text_of("sensor_material")));
    float(&mut entries, "sensor_thickness", series.number_of("sensor_thickness"));
    entries.add("threshold_energy", |out| {
        let energy = series.number_of("threshold_energy");
        let thresholds = [("threshold_1", energy), ("threshold_2", 2.0 * energy)];
        thresholds.iter().try_fold(out.map(2)?, |out, (channel, energy)| out.str(channel)?.f64(*energy))
    });
    if !series.header_appendix.is_null() {
        entries.add("user_data", |out| value(out, &series.header_appendix));
    }
    entries.add("virtual_pixel_interpolation_enabled", |out| out.bool(true));
    entries.message()
}

fn float(entries: &mut Entries, key: &str, number: f64) {
    entries.add(key, |out| out.f64(number));
}

fn date<'a>(out: &'a mut Out, series: &Series) -> Written<'a> {
    out.tag(DATE)?.str(&format_rfc3339_millis(series.armed).to_string())
}

/// The same table for every channel.
fn tables<'a>(out: &'a mut Out, series: &Series, tag: Tag, bytes: &[u8]) -> Written<'a> {
    let channels = &series.form.channels;
    channels.iter().try_fold(out.map(channels.len() as u64)?, |out, channel| {
        dimensions(out.str(channel)?, series)?.tag(tag)?.bytes(bytes)
    })
}

/// What stands before the elements of an image.
fn dimensions<'a>(out: &'a mut Out, series: &Series) -> Written<'a> {
    out.tag(ARRAY)?.array(2)?.array(2)?.u32(series.shape.height)?.u32(series.shape.width)
}

fn goniometer(out: &mut Out) -> Written<'_> {
    ["chi", "kappa", "omega", "phi", "two_theta"]
        .iter()
        .try_fold(out.map(5)?, |out, axis| out.str(axis)?.map(2)?.str("increment")?.f64(0.0)?.str("start")?.f64(0.0))
}

/// An image.
pub(super) fn image(series: &Series, exposure: &Exposure<'_>) -> Vec<u8> {
    let written = write_image(series, exposure);
    written.expect("memory takes everything").into_writer()
}

fn write_image(series: &Series, exposure: &Exposure<'_>) -> Result<Out, Error<Infallible>> {
    let &Exposure { id, frame, start_ns, count_ns, image } = exposure;
    let (form, payloads) = (&series.form, image.channels());
    let payload_bytes: usize = payloads.iter().map(Vec::len).sum();
    let mut bytes = Vec::with_capacity(payload_bytes + 512 + 64 * payloads.len());
    bytes.extend(SELF_DESCRIBED);
    let mut encoder = Encoder::new(bytes);
    let has_appendix = !series.image_appendix.is_null();
    let out = encoder.map(if has_appendix { 10 } else { 9 })?;
    out.str("type")?.str("image")?;
    out.str("series_id")?.u64(id.number)?.str("series_unique_id")?.str(id.name)?;
    out.str("image_id")?.u64(frame)?;
    ticks(out.str("real_time")?, count_ns)?;
    date(out.str("series_date")?, series)?;
    ticks(out.str("start_time")?, start_ns)?;
    ticks(out.str("stop_time")?, start_ns + count_ns)?;
    if has_appendix {
        value(out.str("user_data")?, &series.image_appendix)?;
    }
    out.str("data")?.map(payloads.len() as u64)?;
    for (channel, payload) in form.channels.iter().zip(payloads) {
        dimensions(out.str(channel)?, series)?.tag(pixel_tag(form.dtype, image.order))?;
        match form.compression {
            Compression::None => out.bytes(payload)?,
            Compression::Lz4 => out.tag(COMPRESSED)?.array(3)?.str("lz4")?.u8(0)?.bytes(payload)?,
            Compression::Bslz4 => {
                out.tag(COMPRESSED)?.array(3)?.str("bslz4")?.u8(form.dtype.bytes() as u8)?.bytes(payload)?
            }
        };
    }
    Ok(encoder)
}

/// Tag of a typed array (RFC 8746).
fn pixel_tag(dtype: Dtype, order: ByteOrder) -> Tag {
    Tag::new(match (dtype, order) {
        (Dtype::U8, _) => 64,
        (Dtype::U16, ByteOrder::Little) => 69,
        (Dtype::U32, ByteOrder::Little) => 70,
        (Dtype::U16, ByteOrder::Big) => 65,
        (Dtype::U32, ByteOrder::Big) => 66,
    })
}

/// A time as a fraction of seconds.
fn ticks(out: &mut Out, ns: u64) -> Written<'_> {
    out.array(2)?.u64(ns / TICK_NS)?.u64(TICKS_PER_S)
}

/// The end of a series.
pub(super) fn end(id: SeriesId<'_>) -> Vec<u8> {
    Entries::of("end", id).message()
}

/// Any JSON value.
fn value<'a>(out: &'a mut Out, json: &Value) -> Written<'a> {
    match json {
        Value::Null => out.null(),
        Value::Bool(is) => out.bool(*is),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => out.u64(number),
            (None, Some(number)) => out.i64(number),
            (None, None) => out.f64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => out.str(text),
        Value::Array(list) => list.iter().try_fold(out.array(list.len() as u64)?, value),
        Value::Object(map) => {
            map.iter().try_fold(out.map(map.len() as u64)?, |out, (key, json)| value(out.str(key)?, json))
        }
    }
}
