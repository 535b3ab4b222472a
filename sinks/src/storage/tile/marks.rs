//! How far a tile has come, and how it ended: watermarks, progress, gaps, the report.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ronchi_pipeline::format::{DataSetState, Law, Progress, uuid_text};
use ronchi_pipeline::{End, EndReason, GapReason, Gaps};

use super::Tile;
use crate::storage::clerk::Job;
use crate::storage::error::StorageError;
use crate::storage::segment::FrameState;
use crate::storage::writer::TileEnd;
use crate::time::epoch_ns;

impl Tile {
    /// State of a frame as the watermarks see it, `None` when it may still come.
    fn final_state(&self, frame: u64) -> Option<FrameState> {
        let layout = &self.series.layout;
        let number = layout.segment_of(frame);
        let segment = self.open.get(&number);
        let state = segment.map_or(FrameState::Absent, |s| s.state((frame - s.first_frame()) as usize));
        let is_late = frame + self.plan.late_frames < self.next_frame;
        let is_over = self.end.is_some() || is_late || segment.map_or(self.is_closed(number), |s| s.is_sealing);
        (state != FrameState::Absent || is_over).then_some(state)
    }

    /// Moves both watermarks over frames that are published (durable) or final gaps.
    pub(super) fn advance_marks(&mut self) {
        use FrameState::{Absent, Durable, Failed, Published};
        while self.visible < self.next_frame {
            match self.final_state(self.visible) {
                Some(Absent | Failed) => self.missing += 1,
                Some(Published | Durable) => {}
                _ => break,
            }
            self.visible += 1;
        }
        if self.is_small_broken || self.is_table_broken {
            return; // I6
        }
        let lost = self.untold.iter().filter(|untold| untold.is_lost).map(|untold| untold.frames.start);
        let limit = self.visible.min(lost.min().unwrap_or(u64::MAX)); // I4
        while self.durable < limit {
            match self.final_state(self.durable) {
                Some(Absent | Failed | Durable) => self.durable += 1,
                _ => break,
            }
        }
    }

    fn progress(&self, state: DataSetState) -> Vec<u8> {
        let progress = Progress {
            uuid: uuid_text(&self.series.acquisition),
            tile: self.series.link,
            visible_frames: self.visible,
            durable_frames: self.durable,
            written_count: self.written_count,
            durable_count: self.durable_count,
            segments_sealed: self.sealed_count,
            missing: self.missing,
            time_ns: epoch_ns(self.clock.wall()),
            state,
        };
        serde_json::to_vec_pretty(&progress).unwrap_or_default() // Plain numbers and text always serialise.
    }

    pub(super) fn publish_progress(&mut self) {
        self.advance_marks();
        self.raise_watermarks();
        let bytes = self.progress(DataSetState::Running);
        let number = self.files.progress_count.fetch_add(1, Ordering::Relaxed) + 1;
        self.jobs.push(Job::Progress(Arc::clone(&self.files), number, bytes));
    }

    fn raise_watermarks(&self) {
        self.files.watermarks.raise_visible(self.visible);
        self.files.watermarks.raise_durable(self.durable);
        self.files.watermarks.count(self.missing, self.durable_count);
    }

    /// No more blocks: seals everything. Without an `End` the series was cut off by the receiver itself.
    pub(in crate::storage) fn end(&mut self, end: Option<Arc<End>>) {
        let reason = end.as_ref().map_or(EndReason::Interrupted, |end| end.reason);
        self.end = Some((end, reason));
        for segment in self.open.values_mut() {
            segment.is_sealing = true;
        }
        self.due.clear();
    }

    pub(in crate::storage) fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    fn frame_count(&self) -> u64 {
        let end = self.end.as_ref().and_then(|(end, _)| end.as_ref());
        end.map_or(self.series.announced.frame_count.unwrap_or(self.next_frame), |end| end.frame_count)
    }

    /// Everything is sealed: leaves the files as they will stay.
    pub(super) fn finish_files(&mut self) {
        self.is_finishing = true;
        let frame_count = self.frame_count();
        let n = self.series.layout.frames_per_segment();
        if self.series.announced.frame_count.is_none() {
            self.jobs.push(Job::Resize(Arc::clone(&self.files), frame_count));
        }
        for &number in self.asked.iter().filter(|&&number| self.newest.is_none_or(|newest| number > newest)) {
            self.jobs.push(Job::Discard(Arc::clone(&self.files), number));
        }
        debug_assert!(self.newest.is_none_or(|newest| newest * n < frame_count || frame_count == 0));
        let gaps = self.gaps(frame_count);
        (self.visible, self.durable, self.missing) = (frame_count, frame_count, gaps.frame_count());
        self.raise_watermarks();
        let bytes = self.progress(self.state());
        self.jobs.push(Job::Finish(self.key, Arc::clone(&self.files), self.files.base.join("progress.json"), bytes));
    }

    fn state(&self) -> DataSetState {
        match self.end.as_ref().map(|(_, reason)| *reason) {
            _ if self.error.is_some() => DataSetState::Failed,
            Some(EndReason::Complete) => DataSetState::Complete,
            Some(EndReason::Failed) => DataSetState::Failed,
            _ => DataSetState::Interrupted,
        }
    }

    /// Frames that are not durable: with the receiver's reasons where it gave one, else the disk's.
    fn gaps(&self, frame_count: u64) -> Gaps {
        let mut runs = self.durable_runs.clone();
        runs.sort_by_key(|run| run.start);
        let end = self.end.as_ref().and_then(|(end, _)| end.as_ref());
        let rest = if end.is_some() { GapReason::WriteFailed } else { GapReason::NeverArrived };
        let known: Vec<_> = end.map(|end| end.gaps.iter().collect()).unwrap_or_default();
        let mut known = known.into_iter().peekable();
        let mut gaps = self.damaged.clone();
        let mut from = 0;
        for run in runs.into_iter().chain(std::iter::once(frame_count..frame_count)) {
            let hole = from..run.start.min(frame_count);
            while let Some(gap) = known.next_if(|gap| gap.first + gap.count <= hole.end) {
                gaps.insert(gap.first.max(hole.start)..gap.first + gap.count, gap.reason);
            }
            if let Some(gap) = known.peek().filter(|gap| gap.first < hole.end) {
                gaps.insert(gap.first.max(hole.start)..hole.end, gap.reason);
            }
            gaps.insert(hole, rest);
            from = run.end;
        }
        gaps
    }

    /// The report to the caller.
    pub(in crate::storage) fn outcome(&mut self, finished: Result<(), StorageError>) -> TileEnd {
        let frame_count = self.frame_count();
        let gaps = self.gaps(frame_count);
        let reason = self.end.as_ref().map_or(EndReason::Interrupted, |(_, reason)| *reason);
        if let Err(error) = finished {
            self.error.get_or_insert_with(|| error.to_string());
        }
        let received = self.end.as_ref().and_then(|(end, _)| end.as_ref()).map(|end| end.received_count);
        let law = Law::check(frame_count, received, self.durable_count, &gaps);
        if !law.holds {
            tracing::error!(name = self.series.name, link = self.series.link, "unsound: {law}");
            let earlier = self.error.take().map(|error| format!("; before that: {error}")).unwrap_or_default();
            self.error = Some(format!("unsound: {law}{earlier}"));
        }
        TileEnd {
            series: Arc::clone(&self.series),
            reason,
            state: self.state(),
            frame_count,
            written_count: self.written_count,
            durable_count: self.durable_count,
            gaps,
            law,
            error: self.error.clone(),
        }
    }
}
