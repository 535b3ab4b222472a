//! HDF5 with compressed frames: each is one chunk, as filter 32008 (bit-transposed LZ4) has it and detectors send it.
//!
//! # Place in the path
//! Chunks are put behind metadata and flags as they come, around the library and its filter; the index, for which room was
//! kept, and the length of the file follow at the end.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use ronchi_pipeline::FrameFlag;
use ronchi_pipeline::format::bslz4::Compressor;
use ronchi_pipeline::format::hdf5::{ChunkIndex, Written};
use ronchi_sinks::storage::Description;

use super::Target;
use super::flat::frame_bytes;
use super::frames::Piece;
use super::part::PartFile;

/// Most frames: their index takes 20 bytes each, in memory too.
const FRAMES_MAX: u64 = 1 << 24;

/// One HDF5 file whose frames are compressed.
pub(super) struct Chunked {
    file: PartFile,
    head: Written,
    /// Where the next chunk goes.
    end: u64,
    index_at: u64,
    index: ChunkIndex,
    flags_at: u64,
    frame_bytes: u64,
    item_bytes: usize,
    compressor: Compressor,
    chunk: Vec<u8>,
}

impl Chunked {
    pub(super) fn create(path: &Path, about: &Description, head: Written) -> Result<Self> {
        let frames = about.frame_count();
        ensure!(frames <= FRAMES_MAX, "{frames} frames: in compressed form at most {FRAMES_MAX} are exported");
        let [index_at, flags_at] = head.behind[..] else { bail!("the head has no place for an index") };
        let file = PartFile::create(path, head.file_bytes)?;
        Ok(Self {
            file,
            end: head.file_bytes,
            head,
            index_at,
            index: ChunkIndex::new(index_at, frame_bytes(about)),
            flags_at,
            frame_bytes: frame_bytes(about),
            item_bytes: about.pixel().bytes(),
            compressor: Compressor::default(),
            chunk: Vec::new(),
        })
    }
}

impl Target for Chunked {
    fn put(&mut self, piece: &Piece<'_>) -> Result<()> {
        for (&flag, pixels) in piece.flags.iter().zip(piece.pixels.chunks_exact(self.frame_bytes as usize)) {
            if flag != FrameFlag::Ok as u8 {
                self.index.push(None);
                continue;
            }
            self.compressor.compress(pixels, self.item_bytes, &mut self.chunk);
            self.file.write(self.end, &self.chunk)?;
            self.index.push(Some((self.end, self.chunk.len() as u64)));
            self.end += self.chunk.len() as u64;
        }
        self.file.write(self.flags_at + piece.frames.start, piece.flags)
    }

    fn finish(mut self: Box<Self>, _: bool) -> Result<()> {
        self.head.extend(self.end);
        self.file.write(self.index_at, &self.index.encode())?;
        self.file.write(0, &self.head.bytes)?;
        self.file.finish()
    }
}
