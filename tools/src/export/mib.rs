//! Merlin's `.mib`: a header of 384 bytes before every frame, integers big-endian; and the `.hdr` beside it.
//!
//! The header of the acquisition is the one that came with the frames where there was one. Headers of frames say what is
//! known (number, size, type, time); what is not known is zero.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ronchi_pipeline::{ByteOrder, PixelKind, SigShape};
use ronchi_sinks::storage::{Description, Reader};

use super::Target;
use super::flat::{Flags, frame_bytes};
use super::frames::Piece;
use super::part::PartFile;

const HEADER_BYTES: usize = 384;
/// Fields of the header have room for so many pixels along an axis.
const AXIS_MAX: u32 = 9999;

/// The two files.
pub(super) struct Mib {
    file: PartFile,
    acquisition: PartFile,
    flags: Flags,
    shape: SigShape,
    field: &'static str,
    depth: u32,
    pixel_bytes: usize,
    is_swapped: bool,
    frame_bytes: usize,
    /// One piece with its headers.
    buffer: Vec<u8>,
}

impl Mib {
    pub(super) fn create(path: &Path, about: &Description, reader: &Reader) -> Result<Self> {
        let pixel = about.pixel();
        let (field, depth) = match pixel.kind {
            PixelKind::U8 => ("U08", 6),
            PixelKind::U16 => ("U16", 12),
            PixelKind::U32 => ("U32", 24),
            PixelKind::F32 => bail!(".mib holds no floating point numbers"),
        };
        let shape = about.detector();
        ensure!(shape.height.max(shape.width) <= AXIS_MAX, ".mib holds frames of at most {AXIS_MAX} pixels per axis");
        let frame_bytes = frame_bytes(about) as usize;
        let bytes = about.frame_count().checked_mul((HEADER_BYTES + frame_bytes) as u64).context("too large")?;
        let acquisition = PartFile::create(&path.with_extension("hdr"), 0)?;
        acquisition.write(0, acquisition_header(reader, about, depth).as_bytes())?;
        Ok(Self {
            file: PartFile::create(path, bytes)?,
            acquisition,
            flags: Flags::beside(path, about.frame_count())?,
            shape,
            field,
            depth,
            pixel_bytes: pixel.bytes(),
            is_swapped: pixel.order == ByteOrder::Little && pixel.kind != PixelKind::U8,
            frame_bytes,
            buffer: Vec::new(),
        })
    }

    fn frame_header(&self, frame: u64) -> [u8; HEADER_BYTES] {
        let mut text = String::new();
        let SigShape { height, width } = self.shape;
        // Writing to a String cannot fail.
        let _ = write!(text, "MQ1,{:06},{HEADER_BYTES:05},01,{width:04},{height:04},", frame + 1);
        let _ = write!(text, "{},   1x1,01,1970-01-01 00:00:00.000000,0.000000,0,0,0,", self.field);
        let _ = write!(text, "{}", "0.000000E+0,".repeat(8));
        let _ = write!(text, "MQ1A,1970-01-01T00:00:00.000000000Z,0ns,{},", self.depth);
        let mut header = [0; HEADER_BYTES];
        header[..text.len()].copy_from_slice(text.as_bytes());
        header
    }
}

/// What the detector sent, or the lines that readers need.
fn acquisition_header(reader: &Reader, about: &Description, depth: u32) -> String {
    let sent = &reader.manifest().vendor_header;
    if sent.starts_with("HDR") {
        return sent.clone();
    }
    let count = about.frame_count();
    let per_row = about.scan().map_or(count, |scan| scan.row_frames());
    format!(
        "HDR,\t\r\nAssembly Size (NX1, 2X2):\t   1x1\r\nCounter Depth (number):\t{depth}\r\n\
         Frames in Acquisition (Number):\t{count}\r\nFrames per Trigger (Number):\t{per_row}\r\nEnd\t"
    )
}

impl Target for Mib {
    fn put(&mut self, piece: &Piece<'_>) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for (frame, pixels) in piece.frames.clone().zip(piece.pixels.chunks_exact(self.frame_bytes)) {
            buffer.extend(self.frame_header(frame));
            let at = buffer.len();
            buffer.extend_from_slice(pixels);
            if self.is_swapped {
                buffer[at..].chunks_exact_mut(self.pixel_bytes).for_each(<[u8]>::reverse);
            }
        }
        self.file.write(piece.frames.start * (HEADER_BYTES + self.frame_bytes) as u64, &buffer)?;
        self.buffer = buffer;
        self.flags.put(piece)
    }

    fn finish(self: Box<Self>, has_gaps: bool) -> Result<()> {
        self.flags.finish(has_gaps)?;
        self.acquisition.finish()?;
        self.file.finish()
    }
}
