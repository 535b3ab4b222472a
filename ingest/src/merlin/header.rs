//! Merlin's text headers as pure functions on bytes: MPX prefix, acquisition header (`HDR`), frame header (`MQ1`).
//!
//! # Place in the path
//! [`super::MerlinSource`] reads heads with [`read_progress`], parses the first of a series with [`FrameHeader`] and
//! compares all later ones with it through [`Signature`]; `.mib` files use the same functions.
//!
//! # Invariants
//! - I1: nothing behind `data_offset` is ever looked at: pixels follow there.
//! - I2: fields are found by commas, never by a fixed place, because a sequence above 999999 shifts all of them.
//! - I3: the hot path ([`Signature::check`]) allocates nothing.
//!
//! # Units
//! Lengths in bytes, times in ns since the Unix epoch (UTC), shapes in pixels.

use ronchi_pipeline::{AXIS_MAX, NavShape};

/// Bytes of the prefix `MPX,NNNNNNNNNN,` before every message.
pub const PREFIX_BYTES: usize = 15;
/// Largest frame header accepted, in bytes: 256 + 128 per chip, with ample room.
pub const FRAME_HEADER_BYTES_MAX: usize = 16 << 10;
/// Most bytes of an acquisition header that are kept; what is beyond is skipped.
pub const ACQUISITION_HEADER_BYTES_MAX: usize = 64 << 10;

/// Smallest data offset believed: `MQ1`, the sequence and the offset itself take that much.
const DATA_OFFSET_MIN: usize = 32;
/// Largest number of frames believed in an acquisition header.
const FRAME_COUNT_MAX: u64 = 1 << 40;

/// Value of a run of decimal digits; `None` when empty, too long or not all digits.
pub(crate) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// The prefix of a message with a body of `body_bytes`: the comma behind the length counts.
///
/// # Panics
/// When the body is longer than ten digits can say.
pub fn mpx_prefix(body_bytes: u64) -> [u8; PREFIX_BYTES] {
    let text = format!("MPX,{:010},", body_bytes + 1);
    text.as_bytes().try_into().expect("lengths below 10^10 fill the prefix exactly")
}

/// Length of the body that follows this prefix, or `None` when it is not an MPX prefix.
pub fn mpx_body_bytes(prefix: &[u8; PREFIX_BYTES]) -> Option<u64> {
    if &prefix[..4] != b"MPX," || prefix[14] != b',' {
        return None;
    }
    digits(&prefix[4..14])?.checked_sub(1)
}

/// What is known after some bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not enough: read until the head is this long, then ask again.
    More(usize),
    /// These bytes do not begin a message, or one of a size out of limits.
    OutOfSync,
    /// The head is whole.
    Head(MessageHead),
}

/// A message of which the head (prefix, and header where it has one) is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHead {
    /// What it is.
    pub kind: MessageKind,
    /// Bytes of the head, prefix included.
    pub head_bytes: usize,
    /// Bytes that follow the head.
    pub rest_bytes: u64,
}

/// Kinds of messages on the data socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// `HDR`; the head holds the text (of a very long one its beginning).
    Acquisition,
    /// `MQ1`; the head holds the frame header, pixels follow.
    Frame,
    /// `MQ1` whose data offset makes no sense.
    BrokenFrame,
    /// Anything else, e.g. `PR1`: to be skipped by its length.
    Other,
}

/// Says how far the head of a message is, given its first bytes. `body_bytes_max` limits the message.
pub fn read_progress(head: &[u8], body_bytes_max: u64) -> Progress {
    let magic_bytes = head.len().min(4);
    if head[..magic_bytes] != b"MPX,"[..magic_bytes] {
        return Progress::OutOfSync;
    }
    let Some(prefix) = head.first_chunk::<PREFIX_BYTES>() else { return Progress::More(PREFIX_BYTES) };
    let body_bytes = match mpx_body_bytes(prefix) {
        Some(bytes) if (4..=body_bytes_max).contains(&bytes) => bytes,
        _ => return Progress::OutOfSync,
    };
    let first_bytes = PREFIX_BYTES + body_bytes.min(DATA_OFFSET_MIN as u64) as usize;
    if head.len() < first_bytes {
        return Progress::More(first_bytes);
    }
    let (kind, inside_bytes) = kind_of(&head[PREFIX_BYTES..first_bytes], body_bytes);
    if head.len() < PREFIX_BYTES + inside_bytes {
        return Progress::More(PREFIX_BYTES + inside_bytes);
    }
    let rest_bytes = body_bytes - inside_bytes as u64;
    Progress::Head(MessageHead { kind, head_bytes: PREFIX_BYTES + inside_bytes, rest_bytes })
}

/// Kind of a message and how many bytes of its body belong to the head.
fn kind_of(first: &[u8], body_bytes: u64) -> (MessageKind, usize) {
    match &first[..3] {
        b"HDR" => (MessageKind::Acquisition, body_bytes.min(ACQUISITION_HEADER_BYTES_MAX as u64) as usize),
        b"MQ1" => {
            let glance = Glance::of(first);
            let usable = |g: &Glance| {
                (DATA_OFFSET_MIN..=FRAME_HEADER_BYTES_MAX).contains(&g.data_offset)
                    && g.data_offset as u64 <= body_bytes
            };
            match glance.as_ref().filter(|g| usable(g)) {
                Some(glance) => (MessageKind::Frame, glance.data_offset),
                None => (MessageKind::BrokenFrame, first.len()),
            }
        }
        _ => (MessageKind::Other, first.len()),
    }
}

/// The sequence in a frame header, broken or not.
pub fn frame_sequence(header: &[u8]) -> Option<u64> {
    let sequence = digits(header.split(|&byte| byte == b',').nth(1)?)?;
    (sequence > 0).then_some(sequence)
}

/// The fields of a frame header that are read for every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Glance {
    sequence: u64,
    data_offset: usize,
    /// Where the field behind the data offset begins.
    rest_at: usize,
}

impl Glance {
    fn of(header: &[u8]) -> Option<Self> {
        let rest = header.strip_prefix(b"MQ1,")?;
        let comma = rest.iter().take(21).position(|&byte| byte == b',')?;
        let (sequence, rest) = (digits(&rest[..comma])?, &rest[comma + 1..]);
        let width = rest.iter().take(11).position(|&byte| byte == b',')?;
        let data_offset = usize::try_from(digits(&rest[..width])?).ok()?;
        (sequence > 0).then_some(Self { sequence, data_offset, rest_at: 4 + comma + 1 + width + 1 })
    }
}

/// The text of an acquisition header and the values in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquisitionHeader {
    text: String,
}

impl AcquisitionHeader {
    /// Takes the body of an `HDR` message, or the content of a `.hdr` file: Latin-1, any length, anything.
    pub fn parse(body: &[u8]) -> Self {
        Self { text: body.iter().map(|&byte| char::from(byte)).collect() }
    }

    /// The header as received, padding included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Value of the first line with this key. Lines end at LF, key and value part at the first colon.
    pub fn value(&self, key: &str) -> Option<&str> {
        let lines = self.text.split('\n').map(str::trim).take_while(|line| *line != "End");
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
    }

    fn number(&self, key: &str) -> Option<u64> {
        digits(self.value(key)?.as_bytes())
    }

    /// Number of frames announced; `None` when the acquisition is endless (0) or the header does not say.
    pub fn frame_count(&self) -> Option<u64> {
        self.number("Frames in Acquisition (Number)").filter(|count| (1..=FRAME_COUNT_MAX).contains(count))
    }

    /// The announced scan: `ScanY` x `ScanX`, else rows of "Frames per Trigger" frames where that divides the total
    /// and is neither 1 nor the total; otherwise unknown.
    pub fn scan(&self) -> Option<NavShape> {
        let shape = |height: u64, width: u64| {
            let axis = |n: u64| u32::try_from(n).ok().filter(|n| (1..=AXIS_MAX).contains(n));
            Some(NavShape { height: axis(height)?, width: axis(width)? })
        };
        if let (Some(width), Some(height)) = (self.number("ScanX"), self.number("ScanY")) {
            return shape(height, width);
        }
        let total = self.frame_count()?;
        let row = self.number("Frames per Trigger (Number)").filter(|&n| n > 1 && n != total)?;
        if total % row == 0 { shape(total / row, row) } else { None }
    }

    /// The time stamp of arming, as text: its format depends on version and locale.
    pub fn time_stamp(&self) -> Option<&str> {
        self.value("Time and Date Stamp (day, mnth, yr, hr, min, s)")
    }
}

/// A field of a frame header that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame header field {field:?} is {value:?}, allowed: {allowed}")]
pub struct HeaderError {
    /// Which field.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub allowed: &'static str,
}

impl HeaderError {
    /// A field whose value is not among those allowed.
    pub fn new(field: &'static str, value: impl Into<String>, allowed: &'static str) -> Self {
        Self { field, value: value.into(), allowed }
    }
}

/// A whole frame header: what the first frame of a series is parsed into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader<'a> {
    /// Number of the frame, from 1.
    pub sequence: u64,
    /// Length of the header: pixels start there.
    pub data_offset: usize,
    /// Number of chips.
    pub chip_count: u32,
    /// Width as transmitted, in pixels (raw quads: 1024).
    pub width: u32,
    /// Height as transmitted, in pixels.
    pub height: u32,
    /// `U08`, `U16`, `U32`, `R64`, ...
    pub pixel_code: &'a str,
    /// Chip layout without padding: `1x1`, `2x2`, `2x2G`, ...
    pub layout: &'a str,
    /// UTC time stamp of the extension, absent in old software.
    pub time_ns: Option<u64>,
    /// Shutter time of the extension, in ns.
    pub shutter_ns: Option<u64>,
    /// Counter depth of the extension, in bit.
    pub depth: Option<u32>,
}

impl<'a> FrameHeader<'a> {
    /// Parses a header that starts at `MQ1`; bytes at and behind its data offset are ignored.
    pub fn parse(header: &'a [u8]) -> Result<Self, HeaderError> {
        let shown = || String::from_utf8_lossy(&header[..header.len().min(DATA_OFFSET_MIN)]).into_owned();
        let glance = Glance::of(header)
            .filter(|g| (DATA_OFFSET_MIN..=FRAME_HEADER_BYTES_MAX.min(header.len())).contains(&g.data_offset))
            .ok_or_else(|| HeaderError::new("MQ1 and data offset", shown(), "MQ1,<sequence>,<32 to 16384>,"))?;
        let fields: Vec<&[u8]> = text_of(&header[..glance.data_offset]).split(|&byte| byte == b',').collect();
        let field = |index: usize| fields.get(index).and_then(|f| std::str::from_utf8(f).ok()).map_or("", str::trim);
        let number = |index: usize, name: &'static str| {
            let axis = digits(field(index).as_bytes()).filter(|n| (1..=u64::from(AXIS_MAX)).contains(n));
            axis.map(|n| n as u32).ok_or_else(|| HeaderError::new(name, field(index), "1 to 65536"))
        };
        let extension = fields.iter().position(|f| *f == b"MQ1A");
        let extended = |offset: usize| extension.map(|at| field(at + offset));
        Ok(Self {
            sequence: glance.sequence,
            data_offset: glance.data_offset,
            chip_count: number(3, "number of chips")?,
            width: number(4, "width")?,
            height: number(5, "height")?,
            pixel_code: field(6),
            layout: field(7),
            time_ns: extended(1).and_then(|text| utc_ns(text.as_bytes())),
            shutter_ns: extended(2).and_then(|text| digits(text.strip_suffix("ns")?.as_bytes())),
            depth: extended(3).and_then(|text| digits(text.as_bytes())).and_then(|n| u32::try_from(n).ok()),
        })
    }
}

/// The text part of a header: up to the first NUL of its padding.
fn text_of(header: &[u8]) -> &[u8] {
    let end = header.iter().position(|&byte| byte == 0).unwrap_or(header.len());
    &header[..end]
}

/// Parses `yyyy-mm-ddThh:mm:ss[.fraction][Z]` into ns since the Unix epoch; `None` before 1970 or when malformed.
pub fn utc_ns(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    let (date, fraction) = text.split_at_checked(19)?;
    if [date[4], date[7], date[10], date[13], date[16]] != *b"--T::" {
        return None;
    }
    let part = |from: usize, to: usize| digits(&date[from..to]);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let fraction_ns = match fraction.split_first() {
        None => 0,
        Some((b'.', tail)) if tail.len() <= 9 => digits(tail)? * 10_u64.pow(9 - tail.len() as u32),
        Some(_) => return None,
    };
    let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

/// Days from 1970-01-01 in the Gregorian calendar; years run from March, so that the leap day comes last.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// What all frames of a series have in common, taken from the first: later heads are compared with it, not parsed.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Prefix and `MQ1`: equal exactly when the message has the same length.
    start: [u8; PREFIX_BYTES + 3],
    data_offset: usize,
    /// Chips, width, height, pixel code and layout, as text between commas.
    shape: Vec<u8>,
    /// Where `,MQ1A,` lay in the first header; only a hint. `None` when it had none.
    extension_at: Option<usize>,
}

/// What changes from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Number of the frame, from 1.
    pub sequence: u64,
    /// UTC time stamp; 0 when the header has none.
    pub time_ns: u64,
}

const EXTENSION: &[u8] = b",MQ1A,";

impl Signature {
    /// Takes the head (prefix and frame header) of the first frame of a series; `None` when it is not a frame's.
    pub fn of(head: &[u8]) -> Option<Self> {
        let start = *head.first_chunk()?;
        let header = head.get(PREFIX_BYTES..)?;
        let glance = Glance::of(header).filter(|g| g.data_offset <= header.len())?;
        let header = &header[..glance.data_offset];
        let shape_bytes =
            header.get(glance.rest_at..)?.split_inclusive(|&byte| byte == b',').take(5).map(<[u8]>::len).sum();
        let shape = header[glance.rest_at..].get(..shape_bytes)?.to_vec();
        Some(Self { start, data_offset: glance.data_offset, shape, extension_at: find(header, EXTENSION) })
    }

    /// Bytes of every head of this series: prefix and frame header.
    pub fn head_bytes(&self) -> usize {
        PREFIX_BYTES + self.data_offset
    }

    /// Whether the first bytes of a head may belong to a frame of this series.
    pub fn begins(&self, head: &[u8]) -> bool {
        let count = head.len().min(self.start.len());
        head[..count] == self.start[..count]
    }

    /// Reads a whole head; `None` when it is not that of a frame of this series (length, offset or shape differ).
    pub fn check(&self, head: &[u8]) -> Option<Arrival> {
        if head.len() < self.head_bytes() || !self.begins(head) {
            return None;
        }
        let header = &head[PREFIX_BYTES..self.head_bytes()];
        let glance = Glance::of(header)?;
        if glance.data_offset != self.data_offset || !header.get(glance.rest_at..)?.starts_with(&self.shape) {
            return None;
        }
        Some(Arrival { sequence: glance.sequence, time_ns: self.time_ns(header) })
    }

    fn time_ns(&self, header: &[u8]) -> u64 {
        let Some(hint) = self.extension_at else { return 0 };
        let is_there = header.get(hint..).is_some_and(|rest| rest.starts_with(EXTENSION));
        let Some(at) = is_there.then_some(hint).or_else(|| find(header, EXTENSION)) else { return 0 };
        let field = &header[at + EXTENSION.len()..];
        let end = field.iter().position(|&byte| byte == b',' || byte == 0).unwrap_or(field.len());
        utc_ns(&field[..end]).unwrap_or(0)
    }
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
