//! The trailer of a segment against what is there.

use std::path::Path;

use ronchi_pipeline::format::Trailer;

use super::Audit;
use super::segment::Segment;
use crate::storage::reader::Condition;

impl Audit<'_> {
    /// Counts and flags of the trailer against the frame table.
    pub(super) fn check_trailer(&mut self, segment: &Segment<'_>, name: &Path) {
        let Trailer { is_sealed, has_gaps, frames_written, first_frame, .. } = segment.page.trailer;
        let n = segment.subject.tile.array.layout.frames_per_segment();
        let (found, present) = (u64::from(frames_written), segment.present);
        if !self.condition.is_finished() || !is_sealed || !segment.is_settled {
            if found < present || found > n {
                let expected = format_args!("{present} (by their flags) to {n}");
                self.report.flaw(name, "frames present in the trailer", found, expected);
            }
            self.check_complete_chunks(segment, name);
            let is_empty = segment.page.chunks.iter().all(Option::is_none);
            let may_be_open = !self.condition.is_finished() || self.condition == Condition::Failed;
            if !is_sealed && !is_empty && !may_be_open {
                self.report.flaw(name, "flags of the trailer", "not sealed", "sealed: the data set is finished");
            }
            return;
        }
        if found != present {
            let expected = format_args!("{present}, by their flags");
            self.report.flaw(name, "frames present in the trailer", found, expected);
        }
        let is_holed = present < segment.present_end.saturating_sub(first_frame);
        if has_gaps != is_holed {
            self.report.flaw(name, "flag of gaps in the trailer", has_gaps, format_args!("{is_holed}, by their flags"));
        }
    }

    /// In an unsealed segment a checksum means that all frames of its chunk are there: the trailer counts them.
    fn check_complete_chunks(&mut self, segment: &Segment<'_>, name: &Path) {
        let Trailer { is_sealed, frames_written, frames_per_chunk, .. } = segment.page.trailer;
        let frames =
            segment.page.chunks.iter().flatten().map(|&crc| if crc == 0 { 1 } else { u64::from(frames_per_chunk) });
        let least: u64 = frames.sum();
        if !is_sealed && segment.places.is_none() && u64::from(frames_written) < least {
            let expected = format_args!("{least} at least, as chunks have checksums");
            self.report.flaw(name, "frames present in the trailer", frames_written, expected);
        }
    }
}
