//! Headers: the `MPX` prefix, the acquisition header (`HDR`) and the frame header (`MQ1`), written and re-stamped.
//!
//! ```text
//! MPX,NNNNNNNNNN,                                                     prefix, N = 1 + bytes of the body
//! MQ1,ssssss,ooooo,cc,wwww,hhhh,ttt,llllll,hh,<26-byte stamp>,...     frame header, padded with NUL to `ooooo`
//!     4      11    17 20   25   30  34     41 44
//! ... ,MQ1A,<30-byte UTC stamp>,<shutter>ns,<depth>,                  its extension, behind the DAC blocks
//! ```
//!
//! # Limits
//! The sequence field has six digits; from frame 1 000 000 on it grows and shifts the rest to the right, so that a
//! receiver must split at commas, as the protocol page demands.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use ronchi_pipeline::NavShape;

use super::format::{FrameFormat, PREFIX_BYTES};
use super::stamp::{LOCAL_BYTES, Stamps, UTC_BYTES, digits};

/// Bytes of an acquisition header, padding included.
pub(super) const ACQUISITION_HEADER_BYTES: usize = 2048;

const SEQUENCE_AT: usize = 4;
const SEQUENCE_DIGITS: usize = 6;
const FRAMES_KEY: &str = "Frames in Acquisition (Number)";
const DEPTH_KEY: &str = "Counter Depth (number)";
const PER_TRIGGER_KEY: &str = "Frames per Trigger (Number)";
/// Eight thresholds, seventeen bias currents and voltages, two test pulse references: what a tuned chip looks like.
const DACS: &str =
    "027,511,000,000,000,000,000,000,120,015,190,125,100,100,085,100,095,030,128,004,255,130,128,185,177,511,511";
const THRESHOLDS: &str =
    "4.000000E+1,5.110000E+2,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0";

/// The `MPX` prefix of a message with this many bytes of body; the comma behind the length counts as part of it.
pub fn prefix(body_bytes: usize) -> [u8; PREFIX_BYTES] {
    let mut out = *b"MPX,0000000000,";
    digits(&mut out[4..14], body_bytes as u64 + 1);
    out
}

/// What an acquisition header announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Frames to come, 0 for endless.
    pub frames: u64,
    /// Frames per trigger.
    pub frames_per_trigger: u64,
    /// Scan rows and positions per row, where known.
    pub scan: Option<NavShape>,
    /// `TRIGGERSTART`.
    pub trigger_start: u32,
    /// When the acquisition was armed, ns since 1970.
    pub unix_ns: u64,
}

/// Writes the acquisition header of a frame format: 2048 bytes, keys in the order of software 1.5.
pub fn acquisition_header(format: &FrameFormat, announced: &Announced) -> Vec<u8> {
    let chips = format.layout().chip_count();
    let per_chip = |text: &str, between: &str, empty: &str| {
        let parts: Vec<&str> = (0..4).map(|chip| if chip < chips { text } else { empty }).collect();
        parts.join(between)
    };
    let trigger = match announced.trigger_start {
        1 | 3 => "Positive",
        2 | 4 => "Negative",
        5 => "Soft",
        _ => "Internal",
    };
    let lines = [
        ("Time and Date Stamp (day, mnth, yr, hr, min, s)", Stamps::at(announced.unix_ns).header_text()),
        ("Chip ID", per_chip("SIM_0", ",", " - ")),
        ("Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)", "Medipix 3RX".to_owned()),
        ("Assembly Size (NX1, 2X2)", format!("{:>6}", format.layout().name())),
        ("Chip Mode  (SPM, CSM, CM, CSCM)", "SPM".to_owned()),
        (DEPTH_KEY, format.pixels().counter_depth().to_string()),
        ("Gain", "SLGM".to_owned()),
        ("Active Counters", "Counter 0".to_owned()),
        ("Thresholds (keV)", THRESHOLDS.to_owned()),
        ("DACs", per_chip(DACS, "; ", "")),
        ("bpc File", per_chip("none", ",", "")),
        ("DAC File", per_chip("none", ",", "")),
        ("Gap Fill Mode", "None".to_owned()),
        ("Flat Field File", "None".to_owned()),
        ("Dead Time File", "None".to_owned()),
        ("Acquisition Type (Normal, Th_scan, Config)", "Normal".to_owned()),
        (FRAMES_KEY, announced.frames.to_string()),
        (PER_TRIGGER_KEY, announced.frames_per_trigger.to_string()),
        ("Trigger Start (Positive, Negative, Internal)", trigger.to_owned()),
        ("Trigger Stop (Positive, Negative, Internal)", "Internal".to_owned()),
        ("Sensor Bias (V)", "120 V".to_owned()),
        ("Sensor Polarity (Positive, Negative)", "Positive".to_owned()),
        ("Temperature (C)", "Board Temp 41.500000 Deg C".to_owned()),
        ("Humidity (%)", "Board Humidity 12.000000 ".to_owned()),
        ("Medipix Clock (MHz)", "120MHz".to_owned()),
        ("Readout System", "Merlin Quad".to_owned()),
        ("Software Version", "ronchi simulator".to_owned()),
    ];
    let mut text = String::from("HDR,\t\r\n");
    for (key, value) in lines {
        // Writing to a String cannot fail.
        let _ = write!(text, "{key}:\t{value}\r\n");
    }
    if let Some(scan) = announced.scan {
        let _ = write!(text, "ScanX:\t{}\r\nScanY:\t{}\r\n", scan.width, scan.height);
    }
    text.push_str("End\t");
    let mut bytes = text.into_bytes();
    bytes.resize(ACQUISITION_HEADER_BYTES.max(bytes.len()), b' ');
    bytes
}

/// The announced frame count and frames per trigger of an acquisition header, where it states them.
pub(super) fn announced_counts(header: &[u8]) -> (Option<u64>, Option<u64>) {
    let number =
        |key| value_range(header, key).and_then(|range| std::str::from_utf8(&header[range]).ok()?.parse().ok());
    (number(FRAMES_KEY), number(PER_TRIGGER_KEY))
}

/// Replaces the announced counts in a recorded header, keeping its length where the padding allows.
pub(super) fn announce(header: &mut Vec<u8>, frames: u64, frames_per_trigger: u64) {
    replace(header, FRAMES_KEY, frames);
    replace(header, PER_TRIGGER_KEY, frames_per_trigger);
}

/// Replaces the announced counter depth, keeping the length of the header where the padding allows.
pub(super) fn announce_depth(header: &mut Vec<u8>, counter_depth: u64) {
    replace(header, DEPTH_KEY, counter_depth);
}

fn replace(header: &mut Vec<u8>, key: &str, value: u64) {
    let length = header.len();
    if let Some(range) = value_range(header, key) {
        header.splice(range, value.to_string().into_bytes());
    }
    while header.len() > length && header.last() == Some(&b' ') {
        header.pop();
    }
    header.resize(header.len().max(length), b' ');
}

/// Where the trimmed value of a key stands.
fn value_range(header: &[u8], key: &str) -> Option<std::ops::Range<usize>> {
    let key_at = header.windows(key.len() + 1).position(|window| {
        let (name, colon) = window.split_at(key.len());
        name == key.as_bytes() && colon == b":"
    })?;
    let after = key_at + key.len() + 1;
    let line = header[after..].split(|&byte| byte == b'\n').next()?;
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(line.len());
    let value = line[start..].trim_ascii_end();
    Some(after + start..after + start + value.len())
}

/// Writes a frame header of `format`, padded with NUL to the data offset.
pub fn frame_header(format: &FrameFormat, sequence: u64, shutter_ns: u64, unix_ns: u64) -> Vec<u8> {
    let chips = format.layout().chip_count();
    let shape = format.wire_shape();
    let stamps = Stamps::at(unix_ns);
    let (mut local, mut utc) = ([0; LOCAL_BYTES], [0; UTC_BYTES]);
    stamps.write_local(&mut local);
    stamps.write_utc(&mut utc);
    let mut text = format!(
        "MQ1,{sequence:06},{offset:05},{chips:02},{x:04},{y:04},{field},{layout:>6},{select:02X},{local},\
         {shutter:.6},0,0,0,{THRESHOLDS},",
        offset = format.header_bytes(),
        x = shape.width,
        y = shape.height,
        field = format.pixels().field(),
        layout = format.layout().name(),
        select = (1_u32 << chips) - 1,
        local = String::from_utf8_lossy(&local),
        shutter = shutter_ns as f64 * 1e-9,
    );
    for _ in 0..chips {
        let _ = write!(text, "3RX,{DACS},");
    }
    let depth = format.pixels().counter_depth();
    let _ = write!(text, "MQ1A,{},{shutter_ns}ns,{depth},", String::from_utf8_lossy(&utc));
    let mut bytes = text.into_bytes();
    debug_assert!(bytes.len() < format.header_bytes(), "the text of a header fits its data offset");
    bytes.resize(format.header_bytes(), 0);
    bytes
}

/// Where the fields lie that change from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    local_at: usize,
    utc_at: Option<usize>,
    text_end: usize,
}

impl Fields {
    /// Finds the fields of a frame header, whatever blocks it has.
    pub(super) fn locate(header: &[u8]) -> Result<Self> {
        ensure!(header.starts_with(b"MQ1,"), "a frame header begins with MQ1");
        let text_end = header.iter().position(|&byte| byte == 0).unwrap_or(header.len());
        let mut at = 0;
        let (mut local_at, mut utc_at) = (None, None);
        for (index, field) in header[..text_end].split(|&byte| byte == b',').enumerate() {
            match index {
                1 => ensure!(field.len() == SEQUENCE_DIGITS, "the sequence field of a frame header has six digits"),
                9 if field.len() == LOCAL_BYTES => local_at = Some(at),
                _ if field == b"MQ1A" && at + 5 + UTC_BYTES <= text_end => utc_at = Some(at + 5),
                _ => {}
            }
            at += field.len() + 1;
        }
        Ok(Self { local_at: local_at.context("a frame header has a 26-byte time stamp")?, utc_at, text_end })
    }

    /// Writes a sequence number, and the time stamps where `stamps` are given, into a copy of the located header.
    pub(super) fn patch(&self, header: &mut [u8], sequence: u64, stamps: Option<&Stamps>) {
        if let Some(stamps) = stamps {
            stamps.write_local(&mut header[self.local_at..]);
            if let Some(at) = self.utc_at {
                stamps.write_utc(&mut header[at..]);
            }
        }
        let width = sequence.checked_ilog10().map_or(1, |log| log as usize + 1).max(SEQUENCE_DIGITS);
        let grown = width - SEQUENCE_DIGITS;
        if grown > 0 && self.text_end + grown <= header.len() {
            header.copy_within(SEQUENCE_AT + SEQUENCE_DIGITS..self.text_end, SEQUENCE_AT + width);
            digits(&mut header[SEQUENCE_AT..SEQUENCE_AT + width], sequence);
        } else {
            digits(&mut header[SEQUENCE_AT..SEQUENCE_AT + SEQUENCE_DIGITS], sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::merlin::format::{ChipLayout, MerlinPixels};

    fn format(layout: ChipLayout, pixels: MerlinPixels) -> FrameFormat {
        FrameFormat::new(pixels, layout, layout.full_shape()).expect("real format")
    }

    /// Field offsets are those of the protocol page, section 5, for one chip and for a quad.
    #[test]
    fn fields_stand_where_the_page_says() {
        for (layout, offset, extension) in [(ChipLayout::Single, "00384", 294), (ChipLayout::Quad, "00768", 630)] {
            let header = frame_header(&format(layout, MerlinPixels::U16), 7, 1_000_000, 1_618_494_227_008_505_401);
            let text = |at: usize, width: usize| String::from_utf8_lossy(&header[at..at + width]).into_owned();
            assert_eq!((text(0, 3).as_str(), text(4, 6).as_str()), ("MQ1", "000007"));
            assert_eq!(text(11, 5), offset);
            assert_eq!((text(30, 3).as_str(), text(44, 26).as_str()), ("U16", "2021-04-15 13:43:47.008505"));
            assert_eq!(text(71, 9), "0.001000,");
            assert_eq!(text(182, 4), "3RX,");
            assert_eq!(text(extension, 50), "MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,12,\0");
        }
    }

    /// Patching gives the same bytes as writing afresh, also when the sequence needs a seventh digit.
    #[test]
    fn patching_equals_writing() {
        let format = format(ChipLayout::Single, MerlinPixels::Raw6);
        let template = frame_header(&format, 1, 1_000_000, 0);
        let fields = Fields::locate(&template).expect("own header");
        for sequence in [1, 999_999, 1_000_000, 12_345_678] {
            let mut patched = template.clone();
            fields.patch(&mut patched, sequence, Some(&Stamps::at(1_700_000_000_123_456_789)));
            assert_eq!(patched, frame_header(&format, sequence, 1_000_000, 1_700_000_000_123_456_789));
        }
    }

    /// Recorded headers keep their length when counts of other widths are announced.
    #[test]
    fn announcing_keeps_the_length() {
        let scan = Some(NavShape { height: 2, width: 4 });
        let announced = Announced { frames: 8, frames_per_trigger: 4, scan, trigger_start: 0, unix_ns: 0 };
        let mut header = acquisition_header(&format(ChipLayout::Quad, MerlinPixels::U8), &announced);
        assert_eq!((header.len(), announced_counts(&header)), (ACQUISITION_HEADER_BYTES, (Some(8), Some(4))));
        let original = header.clone();
        announce(&mut header, 65_536, 256);
        assert_eq!((header.len(), announced_counts(&header)), (ACQUISITION_HEADER_BYTES, (Some(65_536), Some(256))));
        announce(&mut header, 8, 4);
        assert_eq!(header, original);
    }

    /// A quad's header text fits into 2048 bytes at its longest.
    #[test]
    fn longest_header_fits() {
        let announced =
            Announced { frames: u64::MAX, frames_per_trigger: u64::MAX, scan: None, trigger_start: 5, unix_ns: 0 };
        let header = acquisition_header(&format(ChipLayout::QuadGap, MerlinPixels::Raw12), &announced);
        assert_eq!(header.len(), ACQUISITION_HEADER_BYTES);
    }
}
