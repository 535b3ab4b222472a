//! Merlin messages written in our own words, for tests and fuzz seeds.

use ronchi_ingest::merlin::{ChipLayout, Depth, RawFormat, mpx_prefix};

/// Seconds of 2021-04-15T13:43:47Z since the Unix epoch.
pub const SECOND: u64 = 1_618_494_227;

/// How frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub chips: u32,
    pub width: u32,
    pub height: u32,
    pub code: &'static str,
    pub layout: &'static str,
    pub depth: u32,
}

impl Kind {
    pub const U16: Self = Self { chips: 1, width: 8, height: 4, code: "U16", layout: "1x1", depth: 12 };
    pub const U32: Self = Self { chips: 1, width: 4, height: 4, code: "U32", layout: "1x1", depth: 24 };
    pub const RAW1: Self = Self { chips: 1, width: 256, height: 2, code: "R64", layout: "1x1", depth: 1 };
    pub const RAW12: Self = Self { chips: 1, width: 256, height: 1, code: "R64", layout: "1x1", depth: 12 };
    pub const QUAD_GAP_1: Self = Self { chips: 4, width: 1024, height: 256, code: "R64", layout: "2x2G", depth: 1 };

    pub fn raw(&self) -> Option<RawFormat> {
        let depth = match self.depth {
            1 => Depth::Bits1,
            6 => Depth::Bits6,
            12 => Depth::Bits12,
            _ => Depth::Bits24,
        };
        let layout = match self.layout {
            "2x2" => ChipLayout::Quad,
            "2x2G" => ChipLayout::QuadGap,
            _ => ChipLayout::Single { rows: self.height },
        };
        (self.code == "R64").then_some(RawFormat { depth, layout })
    }

    /// Payload of a frame as sent and as stored, made from a seed.
    pub fn payload(&self, seed: u64) -> (Vec<u8>, Vec<u8>) {
        let byte = |i: usize| (seed.wrapping_add(i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
        let Some(raw) = self.raw() else {
            let bytes = (self.width * self.height) as usize * if self.code == "U32" { 4 } else { 2 };
            let pixels: Vec<u8> = (0..bytes).map(byte).collect();
            return (pixels.clone(), pixels);
        };
        let sent: Vec<u8> = (0..raw.payload_bytes()).map(byte).collect();
        let mut stored = vec![0; raw.frame_bytes()];
        raw.decode(&sent, &mut stored);
        (sent, stored)
    }

    /// The frame header, NUL-padded to its data offset.
    pub fn header(&self, sequence: u64) -> Vec<u8> {
        let data_offset = 256 + 128 * self.chips as usize;
        let mut text = format!(
            "MQ1,{sequence:06},{data_offset:05},{:02},{:04},{:04},{},{:>6},{:02X},2021-04-15 14:43:47.008505,0.001000,0,0,0,",
            self.chips,
            self.width,
            self.height,
            self.code,
            self.layout,
            (1_u32 << self.chips) - 1,
        );
        text.push_str("1.200000E+1,5.110000E+2,");
        text.push_str(&format!("MQ1A,2021-04-15T13:43:47.{:09}Z,1000000ns,{},", sequence * 1000 + 7, self.depth));
        let mut header = text.into_bytes();
        assert!(header.len() <= data_offset);
        header.resize(data_offset, 0);
        header
    }

    /// The whole message of a frame.
    pub fn message(&self, sequence: u64, seed: u64) -> Vec<u8> {
        message(&[self.header(sequence), self.payload(seed).0].concat())
    }
}

/// A body with its prefix.
pub fn message(body: &[u8]) -> Vec<u8> {
    [&mpx_prefix(body.len() as u64)[..], body].concat()
}

/// An acquisition header message that announces frames and further lines.
pub fn acquisition(frame_count: u64, lines: &str) -> Vec<u8> {
    let mut body = format!(
        "HDR,\t\r\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t15/04/2021 14:43:45\r\n\
         Frames in Acquisition (Number):\t{frame_count}\r\n{lines}End\t"
    )
    .into_bytes();
    body.resize(body.len().max(600), b' ');
    message(&body)
}
