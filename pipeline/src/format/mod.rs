//! The segment format as pure byte functions: page 0 and page 1 of a segment, Zarr metadata, manifest, progress, log.
//!
//! # Place in the path
//! The storage sink and the readers call these; nothing here opens a file. `docs/format.md` draws every byte.
//!
//! # Units
//! Bytes and frames; ranges are half-open; everything of ours on disk is little-endian, pixels are as received.
//!
//! # Errors
//! Decoders return [`FormatError`] on any bytes that are not ours and never panic or allocate by a length they read
//! before it is compared with a limit.

mod bitshuffle;
pub mod blosc;
pub mod bslz4;
mod chunk_log;
pub mod hdf5;
mod index;
pub mod lz4;
mod manifest;
pub mod npy;
pub mod packed12;
mod zarr;

pub use chunk_log::{CHUNK_RECORD_BYTES, ChunkRecord};
pub use hdf5::{packed_page1, page1, read_packed_page1, read_page1};
pub use index::{PackedChunk, PackedPage0, Page0, Trailer};
pub use manifest::{
    BlockSizes, DataSetState, DetectorInfo, GAPS_LISTED_MAX, LAYOUT_VERSION, Law, Manifest, Progress, RepairNote,
    ScanInfo, TileGaps, TileInfo, uuid_text,
};
pub use zarr::{FramesArray, PlainArray, group_json};

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Too few bytes.
    #[error("{what} has {got_bytes} bytes, needs {want_bytes}")]
    Short {
        /// Of what.
        what: &'static str,
        /// Found.
        got_bytes: usize,
        /// Needed.
        want_bytes: usize,
    },
    /// The magic is another.
    #[error("{what} does not start with the magic of this format")]
    Magic {
        /// Of what.
        what: &'static str,
    },
    /// A checksum does not match.
    #[error("{what} has checksum {got:08x}, computed {want:08x}")]
    Checksum {
        /// Of what.
        what: &'static str,
        /// Stored.
        got: u32,
        /// Computed from the bytes.
        want: u32,
    },
    /// A field holds a value that this format does not allow.
    #[error("{field} is {got}, allowed: {allowed}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it holds.
        got: String,
        /// What it may hold.
        allowed: &'static str,
    },
    /// Not JSON, or not of the expected structure.
    #[error("{what}: {message}")]
    Json {
        /// Which document.
        what: &'static str,
        /// The parser's words.
        message: String,
    },
    /// Written by a newer version.
    #[error("layout version {got}: this program reads versions up to {}", LAYOUT_VERSION)]
    Newer {
        /// Version found.
        got: u32,
    },
}

fn field(field: &'static str, got: impl ToString, allowed: &'static str) -> FormatError {
    FormatError::Field { field, got: got.to_string(), allowed }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes at `at`; zeros beyond the end, so that no offset can panic. Callers check lengths first.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
