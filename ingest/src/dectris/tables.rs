//! Tables that come with a series' start (`header_detail` `all`): pixel masks and flat fields, one for each channel.
//!
//! # Limits
//! All tables of a kind together have at most as many pixels as a frame may have bytes. That, and that they are of the detector
//! which the start announces, is checked before they are decoded.

use ronchi_pipeline::format::FormatError;
use ronchi_pipeline::reduce::NoData;
use ronchi_pipeline::{ByteOrder, PixelTable, Sensor, SigShape};

use super::picture::{Picture, Pictures};
use super::{Refusal, shape_text};

/// Where the tables of a start lie, and what it says of them.
#[derive(Debug, Default)]
pub(super) struct Tables<'a> {
    pub(super) pixel_mask: Pictures<'a>,
    pub(super) flatfield: Pictures<'a>,
    /// Shape of a channel, where the start tells it.
    pub(super) detector: Option<SigShape>,
    pub(super) applied: Applied,
}

/// What the detector does by itself, as far as it says so.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Applied {
    /// Masked pixels are sent as 0, not as the largest value.
    pub(super) to_zero: Option<bool>,
    pub(super) pixel_mask: Option<bool>,
    pub(super) flatfield: Option<bool>,
}

/// The tables of a series that has no image yet.
#[derive(Debug, Default)]
pub(super) struct KeptTables {
    pixel_mask: Vec<Kept<u32>>,
    flatfield: Vec<Kept<f32>>,
    applied: Applied,
}

/// One number for every pixel of a channel.
#[derive(Debug)]
struct Kept<T> {
    channel: String,
    shape: SigShape,
    values: Vec<T>,
}

impl Tables<'_> {
    /// Decodes the tables of a message; what cannot be used is left out, and the first reason why is told.
    pub(super) fn keep(&self, parts: &[&[u8]], frame_bytes: u64) -> (KeptTables, Option<Refusal>) {
        let (pixel_mask, bad_mask) = self.decode("pixel mask", &self.pixel_mask, (parts, frame_bytes), u32_of);
        let (flatfield, bad_flatfield) = self.decode("flat field", &self.flatfield, (parts, frame_bytes), f32_of);
        (KeptTables { pixel_mask, flatfield, applied: self.applied }, bad_mask.or(bad_flatfield))
    }

    fn decode<T>(
        &self,
        what: &'static str,
        tables: &Pictures<'_>,
        (parts, frame_bytes): (&[&[u8]], u64),
        number: fn([u8; 4], ByteOrder) -> T,
    ) -> (Vec<Kept<T>>, Option<Refusal>) {
        let pixels: u64 = tables.iter().map(|table| table.coded.shape.pixel_count()).sum();
        if pixels > frame_bytes {
            let reason = format!("{pixels} pixels, expected at most {frame_bytes}");
            return (Vec::new(), Some(Refusal::Table { what, reason }));
        }
        let (mut kept, mut bad) = (Vec::new(), None);
        for table in tables.iter() {
            match self.decode_one(table, parts, number) {
                Ok(table) => kept.push(table),
                Err(reason) => bad = bad.or(Some(Refusal::Table { what, reason })),
            }
        }
        (kept, bad)
    }

    fn decode_one<T>(
        &self,
        &Picture { channel, coded, place }: &Picture<'_>,
        parts: &[&[u8]],
        number: fn([u8; 4], ByteOrder) -> T,
    ) -> Result<Kept<T>, String> {
        if let Some(detector) = self.detector.filter(|&detector| detector != coded.shape) {
            return Err(format!("of {}, the detector has {}", shape_text(coded.shape), shape_text(detector)));
        }
        let bytes = parts.get(place.part).and_then(|part| part.get(place.start..place.end)).unwrap_or_default();
        let mut decoded = vec![0; coded.frame_bytes() as usize];
        coded.decode(bytes, &mut Vec::new(), &mut decoded).map_err(|error: FormatError| error.to_string())?;
        let values = decoded.as_chunks().0.iter().map(|&bytes| number(bytes, coded.pixel.order)).collect();
        Ok(Kept { channel: channel.to_owned(), shape: coded.shape, values })
    }
}

fn u32_of(bytes: [u8; 4], order: ByteOrder) -> u32 {
    match order {
        ByteOrder::Little => u32::from_le_bytes(bytes),
        ByteOrder::Big => u32::from_be_bytes(bytes),
    }
}

fn f32_of(bytes: [u8; 4], order: ByteOrder) -> f32 {
    f32::from_bits(u32_of(bytes, order))
}

impl KeptTables {
    /// What is known of the pixels of a series whose frames are these channels below each other, and what does not fit it.
    pub(super) fn sensor(&self, channels: &[&str], channel: SigShape, frame: SigShape) -> (Sensor, Option<Refusal>) {
        let Applied { to_zero, pixel_mask, flatfield } = self.applied;
        let (mask, bad_mask) = joined("pixel mask", &self.pixel_mask, (channels, channel), 0);
        let (factors, bad_flatfield) = joined("flat field", &self.flatfield, (channels, channel), 1.0);
        let sensor = Sensor {
            nodata: (to_zero != Some(true)).then_some(NoData::Max),
            pixel_mask: mask.and_then(|values| PixelTable::new(frame, values, pixel_mask)),
            flatfield: factors.and_then(|values| PixelTable::new(frame, values, flatfield)),
        };
        (sensor, bad_mask.or(bad_flatfield))
    }
}

/// The tables of channels below each other, `blank` where a channel has none; nothing when no channel has one.
fn joined<T: Copy>(
    what: &'static str,
    tables: &[Kept<T>],
    (channels, shape): (&[&str], SigShape),
    blank: T,
) -> (Option<Vec<T>>, Option<Refusal>) {
    if let Some(other) = tables.iter().find(|table| table.shape != shape) {
        let reason = format!("of {}, images have {}", shape_text(other.shape), shape_text(shape));
        return (None, Some(Refusal::Table { what, reason }));
    }
    let table = |channel: &str| tables.iter().find(|table| table.channel == channel);
    if channels.iter().all(|&channel| table(channel).is_none()) {
        return (None, None);
    }
    let blanks = || vec![blank; shape.pixel_count() as usize];
    let values = channels.iter().flat_map(|&channel| table(channel).map_or_else(blanks, |table| table.values.clone()));
    (Some(values.collect()), None)
}
