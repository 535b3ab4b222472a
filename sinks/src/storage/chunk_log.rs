//! Reads `chunks.log`: what page 0 was about to say, as far as the log is valid.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use ronchi_pipeline::format::{CHUNK_RECORD_BYTES, ChunkRecord};

use super::error::{Context as _, StorageError};
use super::reader::ReaderTile;

/// The last valid record of each chunk: frames present (0 = no record) and checksum, for segments that are there.
#[derive(Debug, Default)]
pub(super) struct ChunkLog {
    chunks: BTreeMap<u64, Vec<(u32, u32)>>,
    /// Every record of the chunks of packed segments, oldest first: each names a place of its own.
    versions: BTreeMap<(u64, u32), Vec<ChunkRecord>>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// The first record of a segment that is not there, or that cannot be of this layout, and how many follow.
    pub(super) strays: Option<(ChunkRecord, u64)>,
    pub(super) is_there: bool,
    /// The latest writing session that left a record; 0 without records.
    pub(super) epoch: u32,
}

impl ChunkLog {
    /// Frames and checksum of a chunk.
    pub(super) fn chunk(&self, segment: u64, chunk: u32) -> Option<(u32, u32)> {
        let chunks = self.chunks.get(&segment)?;
        chunks.get(chunk as usize).copied().filter(|&(frames, _)| frames > 0)
    }

    /// All records of a chunk of a packed segment, oldest first: what any of them names is never overwritten.
    pub(super) fn versions(&self, segment: u64, chunk: u32) -> &[ChunkRecord] {
        self.versions.get(&(segment, chunk)).map_or(&[], Vec::as_slice)
    }

    /// Whether every byte of it is a record of a chunk that can be.
    pub(super) fn is_valid(&self) -> bool {
        self.records.checked_mul(CHUNK_RECORD_BYTES as u64) == Some(self.bytes) && self.strays.is_none()
    }

    /// Chunks that have a record.
    pub(super) fn chunk_count(&self) -> u64 {
        self.chunks.values().flatten().filter(|(frames, _)| *frames > 0).count() as u64
    }

    /// Reads the valid prefix. Memory is taken per segment file that is there.
    pub(super) fn read(tile: &ReaderTile, path: &Path) -> Result<Self, StorageError> {
        let metadata = std::fs::metadata(path).context("read", path)?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file")).context("read", path);
        }
        let mut log = Self { bytes: metadata.len(), is_there: true, ..Self::default() };
        let layout = tile.array.layout;
        let mut file = BufReader::new(File::open(path).context("read", path)?);
        let mut bytes = [0; CHUNK_RECORD_BYTES];
        let mut is_known = (u64::MAX, false); // Records of a segment come together: its file is looked for once.
        while file.read_exact(&mut bytes).is_ok() {
            let Some(record) = ChunkRecord::decode(&bytes) else { break };
            log.records += 1;
            let ChunkRecord { segment, chunk, frames, crc32c, epoch, sector } = record;
            log.epoch = log.epoch.max(epoch);
            if is_known.0 != segment {
                is_known = (segment, log.chunks.contains_key(&segment) || tile.segment_path(segment).exists());
            }
            let is_possible = chunk < layout.chunks_per_segment
                && (1..=layout.frames_per_chunk).contains(&frames)
                && is_known.1
                && (sector != 0) == tile.array.is_packed;
            if !is_possible {
                log.strays = Some(log.strays.map_or((record, 1), |(first, count)| (first, count + 1)));
                continue;
            }
            if tile.array.is_packed {
                log.versions.entry((segment, chunk)).or_default().push(record);
            }
            let new = || vec![(0, 0); layout.chunks_per_segment as usize];
            log.chunks.entry(segment).or_insert_with(new)[chunk as usize] = (frames, crc32c);
        }
        Ok(log)
    }
}
