//! Rows of the frame table: when a frame may be told to be there, and when that must be taken back.

use std::ops::Range;

use ronchi_pipeline::{FrameFlag, FrameRecord, LinkCounters};

use super::Tile;
use crate::storage::segment::Settled;

/// Frames of which the frame table is still to tell durably.
pub(super) struct Untold {
    pub(super) frames: Range<u64>,
    /// Lost by a failed sync (I4); else they came after all.
    pub(super) is_lost: bool,
}

impl Tile {
    pub(super) fn settle(&mut self, number: u64, settled: Vec<Settled>) {
        let first = number * self.series.layout.frames_per_segment();
        for Settled { frames, records, is_failed } in settled {
            if !is_failed {
                self.push_rows(first + frames.start as u64, &records);
                let count = records.iter().filter(|record| record.flag == FrameFlag::Ok).count() as u64;
                self.written_count += count;
                LinkCounters::add(&self.counters.written_frames, count);
            }
        }
    }

    fn push_rows(&mut self, first: u64, records: &[FrameRecord]) {
        if self.late.is_empty() || first >= self.durable {
            return self.table.push(first, records);
        }
        for (frame, record) in (first..).zip(records) {
            match self.late.get_mut(&frame).filter(|_| frame < self.durable) {
                Some(waiting) => *waiting = Some(*record),
                None => self.table.push(frame, std::slice::from_ref(record)),
            }
        }
    }

    /// Late frames are durable now: they no longer count as missing, once rows of them that waited are durable, too.
    pub(super) fn welcome_late(&mut self, first: u64, frames: &[Range<usize>]) {
        if self.late.is_empty() {
            return;
        }
        for frame in frames.iter().cloned().flatten().map(|place| first + place as u64) {
            match self.late.remove(&frame) {
                None => {}
                Some(None) => self.missing -= 1,
                Some(Some(record)) => {
                    self.table.push(frame, &[record]);
                    self.untold.push(Untold { frames: frame..frame + 1, is_lost: false });
                }
            }
        }
    }

    pub(super) fn poison(&mut self, number: u64, reason: String) {
        let first = number * self.series.layout.frames_per_segment();
        let Some(segment) = self.open.get_mut(&number) else { return };
        self.error.get_or_insert_with(|| reason.clone());
        for range in segment.poison_with(reason) {
            let passed =
                (first + range.start as u64..first + range.end as u64).take_while(|frame| *frame < self.visible);
            self.missing += passed.filter(|frame| self.late.remove(frame).is_none()).count() as u64;
            self.table.push_missing(first + range.start as u64, range.len() as u64);
            let frames = first + range.start as u64..first + range.end as u64;
            self.untold.push(Untold { frames, is_lost: true });
        }
    }
}
