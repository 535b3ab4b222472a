//! Recorded acquisitions: just as much of `.mib` and `.hdr` as a replay needs.
//!
//! # Limits
//! Headers of at most 64 KiB and frames of at most 256 MiB are accepted; an incomplete last frame is left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ronchi_pipeline::SigShape;

use super::format::{ChipLayout, FrameFormat, MerlinPixels};

const HEADER_BYTES_MAX: usize = 65_536;
const FRAME_BYTES_MAX: u64 = 256 << 20;

/// What the first header of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) sequence: u64,
    pub(super) header_bytes: usize,
    pub(super) payload_bytes: usize,
    pub(super) counter_depth: u64,
    pub(super) is_raw: bool,
    pub(super) layout: String,
    wire_y: u32,
    wire_x: u32,
}

impl Recorded {
    /// Reads the fields of one frame header.
    pub(super) fn parse(start: &[u8]) -> Result<Self> {
        ensure!(start.starts_with(b"MQ1,"), "it does not begin with a frame header (MQ1)");
        let header_bytes: usize = ascii(start, 11, 5)?.parse().context("data offset")?;
        ensure!((64..=HEADER_BYTES_MAX).contains(&header_bytes), "data offset {header_bytes}");
        let header = start.get(..header_bytes).context("the header is cut off")?;
        let text = String::from_utf8_lossy(header);
        let fields: Vec<&str> = text.split(',').collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default().trim();
        let (wire_x, wire_y): (u32, u32) = (field(4).parse().context("X")?, field(5).parse().context("Y")?);
        let extension = fields.iter().position(|&f| f == "MQ1A").and_then(|at| fields.get(at + 3)?.parse::<u64>().ok());
        let is_raw = field(6) == "R64";
        let (bits, depth) = match (field(6), extension) {
            ("U08", depth) => (8, depth.unwrap_or(6)),
            ("U16", depth) => (16, depth.unwrap_or(12)),
            ("U32", depth) => (32, depth.unwrap_or(24)),
            ("R64", Some(1)) => (1, 1),
            ("R64", Some(6)) => (8, 6),
            // X of a 24-bit raw frame counts both halves.
            ("R64", Some(depth @ (12 | 24))) => (16, depth),
            (pixels, depth) => bail!("pixel format {pixels} with counter depth {depth:?} is not supported"),
        };
        let payload = u64::from(wire_x) * u64::from(wire_y) * bits / 8;
        ensure!((1..=FRAME_BYTES_MAX).contains(&payload), "{wire_x}x{wire_y} pixels of {bits} bits");
        Ok(Self {
            sequence: field(1).parse().context("sequence")?,
            header_bytes,
            payload_bytes: payload as usize,
            counter_depth: depth,
            is_raw,
            layout: field(7).to_owned(),
            wire_y,
            wire_x,
        })
    }

    /// Bytes of header and pixels.
    pub(super) fn frame_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }

    /// Shape of the decoded image.
    pub(super) fn shape(&self) -> SigShape {
        let as_sent = SigShape { height: self.wire_y, width: self.wire_x };
        match (self.is_raw, self.layout.parse()) {
            (true, Ok(layout @ (ChipLayout::Quad | ChipLayout::QuadGap))) => layout.full_shape(),
            _ if self.is_raw && self.counter_depth == 24 => SigShape { width: self.wire_x / 2, ..as_sent },
            _ => as_sent,
        }
    }

    /// The format as the simulator would write it, for a set without `.hdr`.
    pub(super) fn format(&self) -> Result<FrameFormat> {
        let pixels = match (self.is_raw, self.counter_depth) {
            (true, 1) => MerlinPixels::Raw1,
            (true, 6) => MerlinPixels::Raw6,
            (true, 12) => MerlinPixels::Raw12,
            (true, _) => MerlinPixels::Raw24,
            (false, 12) => MerlinPixels::U16,
            (false, 24) => MerlinPixels::U32,
            (false, _) => MerlinPixels::U8,
        };
        let layout: ChipLayout = self.layout.parse().map_err(anyhow::Error::msg)?;
        FrameFormat::new(pixels, layout, self.shape())
    }
}

fn ascii(bytes: &[u8], at: usize, width: usize) -> Result<&str> {
    let field = bytes.get(at..at + width).context("the header is cut off")?;
    std::str::from_utf8(field).context("the header is not text")
}

/// The frames of one or more files, in the order of their sequence numbers.
pub(super) struct MibSet {
    pub(super) recorded: Recorded,
    pub(super) header: Option<Vec<u8>>,
    files: Vec<(File, u64)>,
}

impl MibSet {
    /// Opens the files and the `.hdr` beside the first.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut found = Vec::new();
        for path in paths {
            let (file, count, recorded) =
                open_one(path).with_context(|| format!("cannot replay {}", path.display()))?;
            found.push((file, count, recorded, path));
        }
        found.sort_by_key(|(_, _, recorded, _)| recorded.sequence);
        let recorded = found.first().map(|found| found.2.clone()).context("no .mib file was given")?;
        for (_, _, other, path) in &found {
            ensure!(
                other.frame_bytes() == recorded.frame_bytes() && other.header_bytes == recorded.header_bytes,
                "the files of a set have frames of one size; {} differs",
                path.display()
            );
        }
        let header = paths.iter().find_map(|path| header_beside(path));
        Ok(Self { recorded, header, files: found.into_iter().map(|(file, count, ..)| (file, count)).collect() })
    }

    /// Number of complete frames.
    pub(super) fn frame_count(&self) -> u64 {
        self.files.iter().map(|&(_, count)| count).sum()
    }

    /// Reads header and pixels of one frame.
    pub(super) fn read(&self, mut frame: u64, out: &mut [u8]) -> std::io::Result<()> {
        for (file, count) in &self.files {
            if frame < *count {
                return file.read_exact_at(out, frame * self.recorded.frame_bytes() as u64);
            }
            frame -= count;
        }
        Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
    }
}

fn open_one(path: &Path) -> Result<(File, u64, Recorded)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut start = vec![0; size.min(HEADER_BYTES_MAX as u64) as usize];
    file.read_exact_at(&mut start, 0)?;
    let recorded = Recorded::parse(&start)?;
    let count = size / recorded.frame_bytes() as u64;
    ensure!(count > 0, "it holds no complete frame");
    Ok((file, count, recorded))
}

/// `NAME.hdr` for `NAME.mib`, or for `NAME<digits>.mib`.
fn header_beside(path: &Path) -> Option<Vec<u8>> {
    let stem = path.file_stem()?.to_str()?;
    [stem, stem.trim_end_matches(|c: char| c.is_ascii_digit())].iter().find_map(|name| {
        let candidate = path.with_file_name(format!("{name}.hdr"));
        let is_small = candidate.metadata().is_ok_and(|m| m.is_file() && m.len() <= HEADER_BYTES_MAX as u64);
        is_small.then(|| std::fs::read(&candidate).ok()).flatten()
    })
}
