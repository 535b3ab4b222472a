//! How a DECTRIS detector is driven: what is set before it is armed, and what starts its images (`docs/detectors/dectris.md`).
//!
//! Files and command lines give the same keys; both are read from the same JSON values here.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::plan::{Plan, ScanPlan};
use crate::problem::{ValueError, quoted};

/// Port of the REST interface unless told otherwise.
pub(crate) const REST_PORT: u16 = 80;
/// Keys of `[link.control]` after a DECTRIS link.
pub(crate) const KEYS: [&str; 12] = [
    "port",
    "trigger",
    "trigger_per",
    "ntrigger",
    "nimages",
    "count_time_s",
    "frame_time_s",
    "bit_depth",
    "roi",
    "compression",
    "header_detail",
    "detector",
];
/// Keys of the detector that have a key of their own here.
const NAMED: [(&str, &str); 8] = [
    ("trigger_mode", "trigger"),
    ("ntrigger", "ntrigger"),
    ("nimages", "nimages"),
    ("count_time", "count_time_s"),
    ("frame_time", "frame_time_s"),
    ("roi_bit_depth", "bit_depth"),
    ("roi_mode", "roi"),
    ("compression", "compression"),
];
/// Most triggers, and most images of a trigger, that detectors allow.
const COUNT: RangeInclusive<u64> = 1..=2_000_000_000;
/// Exposures, in seconds.
const TIMES: RangeInclusive<f64> = 1e-8..=86_400.0;
const BIT_DEPTHS: [u64; 3] = [8, 16, 32];
const WORD_CHARS_MAX: usize = 64;

/// A key and what is wrong with it.
pub(crate) type Finding = (String, String);

/// How to drive a DECTRIS detector over its REST interface (SIMPLON). What is `None` stays as the detector has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DectrisControlPlan {
    /// Port of the REST interface on the host of the stream, 80 unless told.
    pub port: u16,
    /// `trigger_mode`.
    pub trigger: Option<DectrisTrigger>,
    /// What one trigger starts; `ntrigger` and `nimages` then follow from the scan.
    pub trigger_per: Option<TriggerPer>,
    /// `ntrigger`: triggers of a series.
    pub ntrigger: Option<u64>,
    /// `nimages`: images of a trigger.
    pub nimages: Option<u64>,
    /// `count_time`: exposure of an image.
    pub count_time: Option<Duration>,
    /// `frame_time`: from one image to the next.
    pub frame_time: Option<Duration>,
    /// `roi_bit_depth`: bits of a pixel, 8, 16 or 32.
    pub bit_depth: Option<u8>,
    /// `roi_mode`: region of interest or binning, a word of the detector's.
    pub roi: Option<String>,
    /// `compression`.
    pub compression: Option<DectrisCompression>,
    /// `header_detail` of the stream.
    pub header_detail: Option<HeaderDetail>,
    /// Further keys of the detector's configuration, as the vendor names them, with numbers, booleans or texts.
    pub detector: Map<String, Value>,
}

impl Default for DectrisControlPlan {
    fn default() -> Self {
        Self {
            port: REST_PORT,
            trigger: None,
            trigger_per: None,
            ntrigger: None,
            nimages: None,
            count_time: None,
            frame_time: None,
            bit_depth: None,
            roi: None,
            compression: None,
            header_detail: None,
            detector: Map::new(),
        }
    }
}

/// What starts images, in the vendor's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DectrisTrigger {
    /// A command starts one image.
    Inte,
    /// A command starts `nimages` images.
    Ints,
    /// A pulse starts one image, which lasts as long as the pulse.
    Exte,
    /// A pulse starts `nimages` images.
    Exts,
}

impl DectrisTrigger {
    const WORDS: [(&'static str, Self); 4] =
        [("inte", Self::Inte), ("ints", Self::Ints), ("exte", Self::Exte), ("exts", Self::Exts)];

    /// The word for it; `None` for gated modes, which have no number of triggers that could agree with a scan.
    pub fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|&(_, trigger)| trigger)
    }

    /// The vendor's word.
    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }

    /// Whether a trigger starts one image, whatever `nimages` says.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Inte | Self::Exte)
    }

    /// Whether triggers are commands.
    pub fn is_software(self) -> bool {
        matches!(self, Self::Inte | Self::Ints)
    }
}

/// What one trigger starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerPer {
    /// One frame.
    Frame,
    /// The frames of one scan row, flyback included.
    Line,
    /// The frames of one pass over the scan.
    Scan,
}

impl TriggerPer {
    const WORDS: [(&'static str, Self); 3] = [("frame", Self::Frame), ("line", Self::Line), ("scan", Self::Scan)];
}

/// How the detector compresses pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DectrisCompression {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Bit-transposed, then LZ4.
    Bslz4,
}

impl DectrisCompression {
    const WORDS: [(&'static str, Self); 3] = [("none", Self::None), ("lz4", Self::Lz4), ("bslz4", Self::Bslz4)];

    /// The vendor's word.
    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
}

/// How much the start of a series tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderDetail {
    /// Next to nothing.
    None,
    /// The configuration.
    Basic,
    /// The configuration and all tables.
    All,
}

impl HeaderDetail {
    const WORDS: [(&'static str, Self); 3] = [("none", Self::None), ("basic", Self::Basic), ("all", Self::All)];

    /// The vendor's word.
    pub fn word(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
}

fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

/// Reads how a DECTRIS detector is driven from `KEY=VALUE` pairs: the keys of `[link.control]`, and `detector.KEY` for others of
/// the detector's.
///
/// ```
/// let control = ronchi_config::parse_control(&["trigger=exts", "trigger_per=line", "detector.roi_y_size=128"])?;
/// assert_eq!((control.trigger, control.port), (Some(ronchi_config::DectrisTrigger::Exts), 80));
/// assert!(ronchi_config::parse_control(&["trigger=soft"]).is_err());
/// # Ok::<(), ronchi_config::ValueError>(())
/// ```
pub fn parse_control(pairs: &[impl AsRef<str>]) -> Result<DectrisControlPlan, ValueError> {
    let mut map = Map::new();
    for pair in pairs.iter().map(AsRef::as_ref) {
        let wrong = |expected: String| ValueError::new(pair, expected);
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE".into()))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        let twice = match key.split_once('.') {
            Some(("detector", key)) => {
                let detector = map.entry("detector").or_insert_with(|| Map::new().into());
                detector.as_object_mut().and_then(|detector| detector.insert(key.into(), value))
            }
            _ if KEYS.contains(&key) => map.insert(key.into(), value),
            _ => return Err(wrong(format!("expected one of {}, or detector.KEY", KEYS[..KEYS.len() - 1].join(", ")))),
        };
        if twice.is_some() {
            return Err(wrong(format!("`{key}` is there twice")));
        }
    }
    DectrisControlPlan::parse(&map).map_err(|found| {
        let (key, message) = found.into_iter().next().unwrap_or_default();
        let pair = pairs.iter().map(AsRef::as_ref).find(|pair| pair.split('=').next() == Some(&key));
        ValueError::new(pair.unwrap_or(&key), message)
    })
}

impl DectrisControlPlan {
    /// Reads the values of [`KEYS`]; everything that is wrong with them.
    pub(crate) fn parse(map: &Map<String, Value>) -> Result<Self, Vec<Finding>> {
        let keys = Keys { map, found: RefCell::default() };
        let plan = Self {
            port: keys.count("port", 1..=u64::from(u16::MAX)).map_or(REST_PORT, |port| port as u16),
            trigger: keys.word("trigger", &DectrisTrigger::WORDS),
            trigger_per: keys.word("trigger_per", &TriggerPer::WORDS),
            ntrigger: keys.count("ntrigger", COUNT),
            nimages: keys.count("nimages", COUNT),
            count_time: keys.time("count_time_s"),
            frame_time: keys.time("frame_time_s"),
            bit_depth: keys.get(
                "bit_depth",
                || "expected 8, 16 or 32".into(),
                |value| value.as_u64().filter(|bits| BIT_DEPTHS.contains(bits)).map(|bits| bits as u8),
            ),
            roi: keys.get("roi", || "expected a word of the detector's, such as \"lines\"".into(), word),
            compression: keys.word("compression", &DectrisCompression::WORDS),
            header_detail: keys.word("header_detail", &HeaderDetail::WORDS),
            detector: keys.detector(),
        };
        let mut found = keys.found.into_inner();
        plan.check(&mut found);
        if found.is_empty() { Ok(plan) } else { Err(found) }
    }

    /// What must hold between the keys.
    fn check(&self, found: &mut Vec<Finding>) {
        let mut say = |key: &str, message: String| found.push((key.to_owned(), message));
        if let (Some(count), Some(frame)) = (self.count_time, self.frame_time)
            && frame < count
        {
            let (count, frame) = (count.as_secs_f64(), frame.as_secs_f64());
            say(
                "frame_time_s",
                format!("{frame} s from image to image is less than the exposure, count_time_s = {count}"),
            );
        }
        if self.trigger_per.is_some() && (self.ntrigger.is_some() || self.nimages.is_some()) {
            say("trigger_per", "`ntrigger` and `nimages` then follow from the scan; leave them out".into());
        }
        let Some(trigger) = self.trigger.filter(|trigger| trigger.is_single()) else { return };
        let many = format!("in trigger mode {} each trigger starts one image; for several take", trigger.word());
        let other = if trigger.is_software() { "ints" } else { "exts" };
        if self.nimages.is_some_and(|count| count > 1) {
            say("nimages", format!("{many} {other}"));
        }
        if self.trigger_per.is_some_and(|per| per != TriggerPer::Frame) {
            say("trigger_per", format!("{many} {other}"));
        }
    }

    /// `ntrigger` and `nimages` as they are set for a scan; `None` leaves the detector's.
    pub fn counts(&self, scan: &ScanPlan, frame_count: Option<u64>) -> (Option<u64>, Option<u64>) {
        let Some(per) = self.trigger_per else { return (self.ntrigger, self.nimages) };
        let row_frames = scan.scan(None).map(|scan| scan.row_frames());
        let passes = u64::from(scan.passes.max(1));
        let nimages = match per {
            TriggerPer::Frame => Some(1),
            TriggerPer::Line => row_frames,
            TriggerPer::Scan => frame_count.map(|frames| frames / passes),
        };
        let ntrigger = frame_count.zip(nimages).map(|(frames, nimages)| frames / nimages.max(1));
        (ntrigger, nimages)
    }

    /// What does not agree between this and a plan's scan, if anything.
    pub(crate) fn scan_finding(&self, plan: &Plan) -> Option<Finding> {
        let frame_count = plan.scan.frame_count(&plan.conditions);
        let found = |key: &str, message: String| Some((key.to_owned(), message));
        if let Some(per) = self.trigger_per {
            let is_known = if per == TriggerPer::Line { plan.scan.shape.is_some() } else { frame_count.is_some() };
            if !is_known {
                return found("trigger_per", "needs the shape of the scan".into());
            }
        }
        let (ntrigger, nimages) = self.counts(&plan.scan, frame_count);
        let too_many = |count: &Option<u64>| count.filter(|count| !COUNT.contains(count));
        if let Some(count) = [ntrigger, nimages].iter().find_map(too_many) {
            return found("trigger_per", format!("{count} are more than a detector allows, {}", COUNT.end()));
        }
        let nimages = if self.trigger.is_some_and(DectrisTrigger::is_single) { Some(1) } else { nimages };
        let (ntrigger, nimages, frames) = (ntrigger?, nimages?, frame_count?);
        let images = ntrigger.saturating_mul(nimages);
        if images == frames || plan.scan.sync_offset != 0 {
            return None;
        }
        found("ntrigger", format!("{ntrigger} triggers of {nimages} images are {images}, the scan has {frames} frames"))
    }
}

/// Reads the keys of one table and remembers what is wrong.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    found: RefCell<Vec<Finding>>,
}

impl Keys<'_> {
    fn fail(&self, key: &str, message: impl Into<String>) {
        self.found.borrow_mut().push((key.to_owned(), message.into()));
    }

    fn get<T>(&self, key: &str, expected: impl Fn() -> String, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let read = read(self.map.get(key)?);
        if read.is_none() {
            self.fail(key, expected());
        }
        read
    }

    fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let allowed = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        self.get(
            key,
            || format!("expected one of {}", allowed()),
            |value| words.iter().find(|(word, _)| value.as_str() == Some(word)).map(|&(_, meant)| meant),
        )
    }

    fn count(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
        self.get(key, expected, |value| value.as_u64().filter(|count| range.contains(count)))
    }

    fn time(&self, key: &str) -> Option<Duration> {
        let expected = || format!("expected seconds, a number from {:e} to {}", TIMES.start(), TIMES.end());
        let seconds = self.get(key, expected, |value| value.as_f64().filter(|seconds| TIMES.contains(seconds)));
        seconds.map(Duration::from_secs_f64)
    }

    /// The table of further keys, without what is wrong in it.
    fn detector(&self) -> Map<String, Value> {
        let expected = || "expected a table of keys of the detector's configuration".to_owned();
        let table = self.get("detector", expected, |value| value.as_object().cloned()).unwrap_or_default();
        table.into_iter().filter(|(key, value)| self.is_setting(key, value)).collect()
    }

    fn is_setting(&self, key: &str, value: &Value) -> bool {
        let shown = quoted(key);
        let problem = match NAMED.iter().find(|(named, _)| *named == key) {
            Some((_, own)) => format!("`{shown}` is set by `{own}`"),
            None if !is_key(key) => {
                format!("`{shown}` is no key; expected words like roi_y_size or threshold/1/energy")
            }
            None if !(value.is_number() || value.is_boolean() || value.as_str().is_some_and(is_text)) => {
                format!("`{shown}`: expected a number, true, false or a word")
            }
            None => return true,
        };
        self.fail("detector", problem);
        false
    }
}

/// Keys become part of an address: nothing else may.
fn is_key(key: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    key.len() <= WORD_CHARS_MAX && key.split('/').all(is_word)
}

fn is_text(text: &str) -> bool {
    text.chars().count() <= WORD_CHARS_MAX && !text.chars().any(char::is_control)
}

fn word(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty() && is_text(text)).map(str::to_owned)
}
