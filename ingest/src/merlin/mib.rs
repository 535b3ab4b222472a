//! `.mib` files: frame headers and payloads back to back, as on the wire but without MPX prefixes.
//!
//! # Limits
//! A file is held in memory and may have at most [`MIB_BYTES_MAX`] bytes.

use std::io;
use std::path::Path;

use super::format::FrameFormat;
use super::header::{FrameHeader, HeaderError};

/// Largest file opened, in bytes.
pub const MIB_BYTES_MAX: u64 = 8 << 30;

/// A `.mib` file in memory; an incomplete last frame is ignored.
#[derive(Debug, Clone)]
pub struct MibFile {
    bytes: Vec<u8>,
    header_bytes: usize,
    format: FrameFormat,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MibError {
    /// Reading failed.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is larger than memory should hold.
    #[error("{path} has {bytes} bytes, allowed: at most {bytes_max}")]
    TooLarge {
        /// Which file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The first header is not one of a supported frame.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl MibFile {
    /// Reads a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MibError> {
        let shown = || path.as_ref().display().to_string();
        let read_error = |source| MibError::Read { path: shown(), source };
        let bytes = std::fs::metadata(&path).map_err(read_error)?.len();
        if bytes > MIB_BYTES_MAX {
            return Err(MibError::TooLarge { path: shown(), bytes, bytes_max: MIB_BYTES_MAX });
        }
        Ok(Self::from_bytes(std::fs::read(&path).map_err(read_error)?)?)
    }

    /// Takes the content of a file: the format of all frames is that of the first.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, HeaderError> {
        let header = FrameHeader::parse(&bytes)?;
        let (header_bytes, format) = (header.data_offset, FrameFormat::of(&header)?);
        Ok(Self { bytes, header_bytes, format })
    }

    /// How frames are stored in the file and decoded.
    pub fn format(&self) -> &FrameFormat {
        &self.format
    }

    /// Bytes of header and payload of one frame.
    pub fn stride_bytes(&self) -> usize {
        self.header_bytes + self.format.payload_bytes
    }

    /// Whole frames in the file.
    pub fn frame_count(&self) -> usize {
        self.bytes.len() / self.stride_bytes()
    }

    /// Header and payload of frame `index`: the body of its message on the wire.
    ///
    /// # Panics
    /// When `index` is not below [`Self::frame_count`]; the same holds for the functions below.
    pub fn message(&self, index: usize) -> &[u8] {
        assert!(index < self.frame_count(), "frame {index} of {}", self.frame_count());
        &self.bytes[index * self.stride_bytes()..][..self.stride_bytes()]
    }

    /// Header of frame `index`.
    pub fn header(&self, index: usize) -> &[u8] {
        &self.message(index)[..self.header_bytes]
    }

    /// Payload of frame `index`, as sent.
    pub fn payload(&self, index: usize) -> &[u8] {
        &self.message(index)[self.header_bytes..]
    }

    /// Pixels of frame `index`, row by row, as numbers.
    pub fn decode(&self, index: usize) -> Vec<u32> {
        let payload = self.payload(index);
        let Some(raw) = self.format.raw else {
            let pixels = payload.chunks_exact(self.format.pixel.bytes());
            return pixels.map(|pixel| pixel.iter().fold(0, |value, &byte| value << 8 | u32::from(byte))).collect();
        };
        let mut frame = vec![0; raw.frame_bytes()];
        raw.decode(payload, &mut frame);
        let pixels = frame.chunks_exact(self.format.pixel.bytes());
        pixels.map(|pixel| pixel.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))).collect()
    }
}
