//! What is said of a series and its images, whichever stream says it.

use std::time::SystemTime;

use ronchi_pipeline::SigShape;
use serde_json::{Map, Value};

use super::StreamFormat;
use super::images::{Image, ImageForm};

/// Unit of the detector's clock, in ns: times of both streams are whole multiples of it.
pub(super) const TICK_NS: u64 = 20;

/// How much a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HeaderDetail {
    /// That a series begins; in STREAM2 the same as `basic`.
    None,
    /// The configuration too.
    Basic,
    /// Flat field, pixel mask and count rate table too.
    All,
}

impl HeaderDetail {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Basic, Self::All];

    /// Name in messages and settings.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::All => "all",
        }
    }
}

/// A series that has been armed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) number: u64,
    /// Its unique name, 26 letters and digits.
    pub(super) name: String,
    pub(super) armed: SystemTime,
    pub(super) shape: SigShape,
    pub(super) form: ImageForm,
    /// The streams that carry it; `None` for none.
    pub(super) format: Option<StreamFormat>,
    /// Triggers, and images of each.
    pub(super) triggers: u64,
    pub(super) images_per_trigger: u64,
    /// Whether triggers are commands; else they come by themselves.
    pub(super) is_triggered: bool,
    /// Exposure time, and time from one image to the next, in ns.
    pub(super) count_ns: u64,
    pub(super) frame_ns: u64,
    pub(super) detail: HeaderDetail,
    /// Sent with the header; `null` for nothing.
    pub(super) header_appendix: Value,
    /// Sent with every image; `null` for nothing.
    pub(super) image_appendix: Value,
    /// The settings of the detector.
    pub(super) configuration: Map<String, Value>,
}

impl Series {
    pub(super) fn frame_count(&self) -> u64 {
        self.triggers.saturating_mul(self.images_per_trigger)
    }

    /// A setting that is a number; 0 where there is none.
    pub(super) fn number_of(&self, key: &str) -> f64 {
        self.configuration.get(key).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// A setting that is text.
    pub(super) fn text_of(&self, key: &str) -> &str {
        self.configuration.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Its number and name, as messages carry them.
    pub(super) fn id(&self) -> SeriesId<'_> {
        SeriesId { number: self.number, name: &self.name }
    }
}

/// What tells series apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeriesId<'a> {
    pub(super) number: u64,
    pub(super) name: &'a str,
}

/// One image about to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exposure<'a> {
    /// The series it is said to belong to.
    pub(super) id: SeriesId<'a>,
    pub(super) frame: u64,
    /// When it began, after the start of the series, and how long it took, in ns.
    pub(super) start_ns: u64,
    pub(super) count_ns: u64,
    pub(super) image: &'a Image,
}

/// Pairs of raw and corrected count rates of the count rate correction, which corrects nothing here.
pub(super) fn count_rate_table() -> impl ExactSizeIterator<Item = [f32; 2]> {
    (0_u16..1001).map(|step| [f32::from(step) * 1000.0; 2])
}

/// Text with an appendix: a string as it is, any other value as JSON; `None` for `null`.
pub(super) fn appendix_text(appendix: &Value) -> Option<String> {
    match appendix {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
