//! Judges the pixels of a chunk: whether they can be had, and whether they are what was written.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use ronchi_pipeline::{FrameFlag, FrameIndex, GapReason, crc32c};

use super::{ChunkSpan, Files, Found, Hold, Source, Span};
use crate::storage::error::StorageError;
use crate::storage::reader::Condition;
use crate::storage::reader::proof::{Entry, PAGE_PAUSE, RunGap, Verdict, settle};
use crate::storage::table;

impl Source {
    /// Finds out what is there of a chunk whose span has come; why not, if it should be.
    pub(super) fn settle_chunk(&self, span: &mut Span, chunk: &ChunkSpan, found: &mut Found) -> Option<StorageError> {
        let frame_bytes = self.tile.array.layout.frame_bytes as usize;
        let held = chunk.all.start.max(span.held.start)..chunk.all.end.min(span.held.end);
        let at = |frame: FrameIndex| (frame - span.held.start) as usize;
        found.flags.clear();
        found.flags.extend_from_slice(&span.flags[at(chunk.frames.start)..at(chunk.frames.end)]);
        let bytes_at = at(held.start) * frame_bytes..at(held.end) * frame_bytes;
        let skip = (chunk.frames.start - held.start) as usize;
        let place = self.pixels(&mut span.hold, &span.files, (&held, bytes_at));
        let (place, wrong) = match place {
            Ok(None) => (None, None),
            Ok(Some(place)) => {
                let wrong = self.judge(span, chunk, (&held, &place), found);
                found.verdicts.drain(..skip);
                (Some(place), wrong)
            }
            Err(reason) => (None, Some(reason)),
        };
        if place.is_none() {
            found.verdicts.clear();
        }
        let missing = if wrong.is_some() { Verdict::Bad } else { Verdict::Unknown };
        found.verdicts.resize(found.flags.len(), missing);
        let Found { flags, gaps, verdicts, .. } = &mut *found;
        let is_complete = matches!(chunk.entry, Entry::Known { is_complete: true, .. });
        settle((&chunk.frames, flags), &self.listed, self.promise, (verdicts, is_complete), gaps);
        if place.is_none() {
            leave_none(&chunk.frames, flags, gaps);
        }
        let is_there = flags.contains(&FrameFlag::Ok);
        let is_lost = |(frame, &verdict)| verdict == Verdict::Bad && !self.listed.gaps.contains(frame);
        let wrong = wrong.filter(|_| chunk.frames.clone().zip(&*verdicts).any(is_lost));
        let mut there = flags.iter().zip(&*verdicts).filter(|(flag, _)| **flag == FrameFlag::Ok);
        let is_verified = is_there && there.all(|(_, verdict)| *verdict == Verdict::Good);
        let place = place.filter(|_| is_there).map(|place| {
            let start = place.start + skip * frame_bytes;
            start..start + flags.len() * frame_bytes
        });
        (found.frames, found.place, found.is_verified) = (chunk.frames.clone(), place, is_verified);
        wrong.map(|reason| StorageError::Chunk {
            path: span.path.clone(),
            chunk: chunk.number,
            first: chunk.all.start,
            last: chunk.all.end - 1,
            reason,
        })
    }

    /// Where in the hold the pixels of `held` are; `None` when there are none.
    fn pixels(
        &self,
        hold: &mut Hold,
        files: &Option<Files>,
        (held, bytes_at): (&Range<FrameIndex>, Range<usize>),
    ) -> Result<Option<Range<usize>>, String> {
        match hold {
            Hold::Nothing | Hold::Coming => Ok(None),
            Hold::Refused(reason) => Err(reason.clone()),
            Hold::Unpacked(_) => Ok(Some(bytes_at)),
            Hold::Slot(_, place) => Ok(Some(place.start + bytes_at.start..place.start + bytes_at.end)),
            Hold::Mapped(map, place) => {
                let place = place.start + bytes_at.start..place.start + bytes_at.end;
                map.bring(place.clone()).map(|()| Some(place)).map_err(|error| error.to_string())
            }
            Hold::Broken(slot) => {
                let Some(files) = files else { return Ok(None) };
                let bytes = bytes_at.end - bytes_at.start;
                let read = files.pages.read_exact_at(&mut slot.bytes_mut()[..bytes], self.file_range(held).start);
                read.map(|()| Some(0..bytes)).map_err(|error| error.to_string())
            }
        }
    }

    /// Compares pixels with checksums where that is wanted or needed: one verdict per held frame, and what is wrong.
    fn judge(
        &self,
        span: &mut Span,
        chunk: &ChunkSpan,
        (held, place): (&Range<FrameIndex>, &Range<usize>),
        found: &mut Found,
    ) -> Option<String> {
        found.verdicts.clear();
        found.verdicts.resize((held.end - held.start) as usize, Verdict::Unknown);
        let must_prove = chunk.all.end > self.promise.proven_from || found.flags.iter().any(|&f| f != FrameFlag::Ok);
        if !(self.verify || must_prove) {
            return None;
        }
        let wrong = self.compare(span.hold.bytes(place.clone()), chunk, held, &mut found.verdicts);
        if wrong.is_none() || self.condition != Condition::Running {
            return wrong;
        }
        // The page cache may hold a sector as it was before a block beside it came in.
        std::thread::sleep(PAGE_PAUSE);
        if let (Hold::Slot(slot, _) | Hold::Broken(slot), Some(files)) = (&mut span.hold, &span.files) {
            let _ = files.pages.read_exact_at(&mut slot.bytes_mut()[place.clone()], self.file_range(held).start);
        }
        self.compare(span.hold.bytes(place.clone()), chunk, held, &mut found.verdicts)
    }

    /// Compares pixels with the checksum of their chunk and, where that does not settle it, with those of their frames.
    fn compare(
        &self,
        pixels: &[u8],
        chunk: &ChunkSpan,
        held: &Range<FrameIndex>,
        verdicts: &mut [Verdict],
    ) -> Option<String> {
        let mut wrong = None;
        if let Entry::Known { crc32c: written, .. } = chunk.entry
            && *held == chunk.all
        {
            let found = crc32c(pixels);
            if found == written {
                verdicts.fill(Verdict::Good);
                return None;
            }
            // Unless the disk refused part of the chunk after its checksum was taken.
            if !self.listed.may_be_refused(&chunk.all) {
                wrong = Some(format!("checksum {found:08x} by its bytes, {written:08x} when written"));
            }
        }
        verdicts.fill(if wrong.is_some() { Verdict::Bad } else { Verdict::Unknown });
        if self.has_checksums && !self.is_told {
            self.compare_frames(pixels, held, verdicts, &mut wrong);
        }
        wrong.filter(|_| verdicts.contains(&Verdict::Bad))
    }

    fn compare_frames(
        &self,
        pixels: &[u8],
        held: &Range<FrameIndex>,
        verdicts: &mut [Verdict],
        wrong: &mut Option<String>,
    ) {
        let mut rows = vec![0; 4 * verdicts.len()];
        // Rows that cannot be read say nothing.
        let _ = self.tile.read_rows(held.start, table::CHECKSUMS, 4, &mut rows);
        let written = rows.as_chunks().0.iter().map(|row| u32::from_le_bytes(*row));
        let frames = pixels.chunks_exact(self.tile.array.layout.frame_bytes as usize);
        for ((frame, verdict), (pixels, written)) in held.clone().zip(verdicts).zip(frames.zip(written)) {
            if written == 0 {
                continue; // Missing, or not known.
            }
            let found = crc32c(pixels);
            *verdict = if found == written { Verdict::Good } else { Verdict::Bad };
            if found != written {
                wrong.get_or_insert_with(|| {
                    format!("checksum of frame {frame} is {found:08x} by its bytes, {written:08x} when written")
                });
            }
        }
    }
}

/// Frames without pixels are not there, whatever their flags say.
fn leave_none(frames: &Range<FrameIndex>, flags: &mut [FrameFlag], gaps: &mut Vec<RunGap>) {
    for (frame, flag) in frames.clone().zip(flags) {
        if *flag == FrameFlag::Ok {
            *flag = FrameFlag::Missing;
            gaps.push(RunGap { frames: frame..frame + 1, flag: *flag, reason: None::<GapReason> });
        }
    }
    gaps.sort_by_key(|gap| gap.frames.start);
    gaps.dedup_by(|next, last| {
        let is_same = (next.frames.start, next.flag, next.reason) == (last.frames.end, last.flag, last.reason);
        last.frames.end = if is_same { next.frames.end } else { last.frames.end };
        is_same
    });
}
