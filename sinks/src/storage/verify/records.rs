//! `chunks.log` and `progress.json`: what was written down before, and after, page 0 was.

use ronchi_pipeline::format::{CHUNK_RECORD_BYTES, DataSetState, Progress};

use super::report::relative;
use super::rows::Counts;
use super::{Audit, Subject};
use crate::storage::chunk_log::ChunkLog;
use crate::storage::error::StorageError;
use crate::storage::files;
use crate::storage::reader::{Condition, ReaderTile};

impl Audit<'_> {
    /// Reads the log of a tile; one that has only just begun may have none.
    pub(super) fn read_log(&mut self, tile: &ReaderTile, has_progress: bool) -> ChunkLog {
        let path = tile.base_dir().join("chunks.log");
        if !self.condition.is_finished() && !has_progress && !path.exists() {
            return ChunkLog::default();
        }
        self.report.tell(self.root, ChunkLog::read(tile, &path), "the log of the tile").unwrap_or_default()
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

    /// Progress of a tile before its arrays are opened (I2); `None` when there is none or it is not readable. A power
    /// cut may leave an earlier one, or none; of early receivers, which named it without a sync, one without its content.
    pub(super) fn read_progress(&mut self, tile: u32) -> Option<Progress> {
        let is_alone = self.manifest.detector.tiles.len() <= 1;
        let base = if is_alone { self.root.to_owned() } else { self.root.join("tiles").join(tile.to_string()) };
        let path = base.join("progress.json");
        let has_begun = base.join("chunks.log").metadata().is_ok_and(|log| log.len() > 0);
        if !path.exists() && (!has_begun || self.condition == Condition::Running) {
            return None; // Whether there must be one is decided where the tile is opened.
        }
        let progress = files::read_text(&path)
            .and_then(|text| Progress::from_json(&text).map_err(|source| StorageError::Format { path, source }));
        if progress.is_err() && self.condition == Condition::Died {
            self.report.progress_lost += 1;
            return None;
        }
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
