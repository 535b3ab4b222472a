//! `chunks.log` and `progress.json`: what was written down before, and after, page 0 was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use ronchi_pipeline::format::{CHUNK_RECORD_BYTES, ChunkRecord, DataSetState, Progress};

use super::report::relative;
use super::rows::Counts;
use super::{Audit, Subject};
use crate::storage::error::{Context as _, StorageError};
use crate::storage::files;
use crate::storage::reader::{Condition, ReaderTile};

/// The last valid record of each chunk: frames present (0 = no record) and checksum, for segments that are there.
#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: BTreeMap<u64, Vec<(u32, u32)>>,
    pub(super) records: u64,
    bytes: u64,
    /// The first record of a segment that is not there, or that cannot be of this layout, and how many follow.
    strays: Option<(ChunkRecord, u64)>,
    is_there: bool,
}

impl Log {
    /// Frames and checksum of a chunk.
    pub(super) fn chunk(&self, segment: u64, chunk: u32) -> Option<(u32, u32)> {
        let chunks = self.chunks.get(&segment)?;
        chunks.get(chunk as usize).copied().filter(|&(frames, _)| frames > 0)
    }

    /// Reads the valid prefix. Memory is taken per segment file that is there (I4).
    fn read(tile: &ReaderTile, path: &Path) -> Result<Self, StorageError> {
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
            let ChunkRecord { segment, chunk, frames, crc32c, .. } = record;
            if is_known.0 != segment {
                is_known = (segment, log.chunks.contains_key(&segment) || tile.segment_path(segment).exists());
            }
            let is_possible =
                chunk < layout.chunks_per_segment && (1..=layout.frames_per_chunk).contains(&frames) && is_known.1;
            if !is_possible {
                log.strays = Some(log.strays.map_or((record, 1), |(first, count)| (first, count + 1)));
                continue;
            }
            let new = || vec![(0, 0); layout.chunks_per_segment as usize];
            log.chunks.entry(segment).or_insert_with(new)[chunk as usize] = (frames, crc32c);
        }
        Ok(log)
    }
}

impl Audit<'_> {
    /// Reads the log of a tile; one that has only just begun may have none.
    pub(super) fn read_log(&mut self, tile: &ReaderTile, has_progress: bool) -> Log {
        let path = tile.base_dir().join("chunks.log");
        if !self.condition.is_finished() && !has_progress && !path.exists() {
            return Log::default();
        }
        self.report.tell(self.root, Log::read(tile, &path), "the log of the tile").unwrap_or_default()
    }

    /// The whole log is valid once the data set is finished, and it names nothing that cannot be.
    pub(super) fn check_log(&mut self, subject: &Subject) {
        let (log, tile) = (&subject.log, &subject.tile);
        let path = tile.base_dir().join("chunks.log");
        let path = relative(self.root, &path);
        let valid = log.records * CHUNK_RECORD_BYTES as u64;
        if log.is_there && self.condition.is_finished() && valid != log.bytes {
            let what = format!("record at byte {valid}");
            self.report.flaw(path, what, "torn or damaged", format_args!("valid records, {} bytes", log.bytes));
        }
        if let Some((first, count)) = log.strays {
            let what = format!("{count} records, first of segment {} chunk {}", first.segment, first.chunk);
            let found = format!("{} frames of a segment file that is not there, or of another layout", first.frames);
            let expected =
                format!("chunks of segments that are there, 1 to {} frames", tile.array.layout.frames_per_chunk);
            self.report.flaw(path, what, found, expected);
        }
    }

    /// Progress of a tile before its arrays are opened (I2); `None` when there is none or it is not readable.
    pub(super) fn read_progress(&mut self, tile: u32) -> Option<Progress> {
        let is_alone = self.manifest.detector.tiles.len() <= 1;
        let base = if is_alone { self.root.to_owned() } else { self.root.join("tiles").join(tile.to_string()) };
        let path = base.join("progress.json");
        let has_begun = base.join("chunks.log").metadata().is_ok_and(|log| log.len() > 0);
        if !path.exists() && (!has_begun || self.condition == Condition::Running) {
            return None; // Whether there must be one is decided where the tile is opened.
        }
        let text = files::read_text(&path);
        let text = self.report.tell(self.root, text, "the progress of the tile")?;
        let progress = Progress::from_json(&text).map_err(|source| StorageError::Format { path, source });
        self.report.tell(self.root, progress, "the progress of the tile")
    }

    /// Progress against what was found.
    pub(super) fn check_progress(&mut self, subject: &Subject, progress: &Progress, present: &Counts) {
        let path = subject.tile.base_dir().join("progress.json");
        let (file, manifest) = (relative(self.root, &path), self.manifest);
        if progress.uuid != manifest.uuid {
            self.report.flaw(file, "uuid", &progress.uuid, &manifest.uuid);
        }
        let tile = subject.tile.id;
        let frame_count = subject.tile.array.frame_count;
        let mut exact = vec![("tile", u64::from(progress.tile), u64::from(tile))];
        let mut most = vec![
            ("durable_frames", progress.durable_frames, progress.visible_frames),
            ("visible_frames", progress.visible_frames, frame_count),
            ("durable_count", progress.durable_count, progress.written_count),
            ("written_count", progress.written_count, frame_count),
            ("missing", progress.missing, progress.visible_frames),
        ];
        if self.condition.is_finished() {
            exact.extend([
                ("visible_frames", progress.visible_frames, frame_count),
                ("durable_frames", progress.durable_frames, frame_count),
                ("durable_count", progress.durable_count, present.ok),
                ("missing", progress.missing, subject.gaps.frame_count),
            ]);
            if progress.state == DataSetState::Failed {
                // A segment whose last sync was refused says that it is sealed, and is not counted.
                most.push(("segments_sealed", progress.segments_sealed, subject.sealed_count));
            } else {
                exact.push(("segments_sealed", progress.segments_sealed, subject.sealed_count));
                exact.push(("written_count", progress.written_count, progress.durable_count));
            }
        } else if self.condition == Condition::Died {
            most.push(("frames missing below durable_frames", present.missing, progress.missing));
        }
        for (what, found, expected) in exact {
            if found != expected {
                self.report.flaw(file, what, found, expected);
            }
        }
        for (what, found, expected) in most {
            if found > expected {
                self.report.flaw(file, what, found, format_args!("{expected} at most"));
            }
        }
        let is_worse = match self.condition {
            Condition::Complete => progress.state != DataSetState::Complete,
            condition => condition.is_finished() && progress.state == DataSetState::Running,
        };
        if is_worse {
            let expected = format!("as the manifest says: {}", self.condition.word());
            self.report.flaw(file, "state", format!("{:?}", progress.state).to_lowercase(), expected);
        }
    }
}
