//! What a data set says of its chunks and frames beside their pixels, and what that proves.
//!
//! # Why this way
//! In a finished data set the manifest's gaps are exact, and the frame table tells the same once more. While it is
//! written, flags below `visible_frames` are final. When its receiver died, only what is below `durable_frames` was
//! promised; a frame beyond counts as there if its pixels are as a checksum says, its own in the frame table or that of its
//! chunk, and as lost if not. Where a chunk is damaged, the frames' own checksums tell which of them are.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use ronchi_pipeline::format::{PackedChunk, PackedPage0, Page0, TileGaps};
use ronchi_pipeline::{FrameFlag, FrameIndex, GapReason, Gaps, SECTOR_BYTES};

use super::{Condition, ReaderTile};
use crate::storage::chunk_log::ChunkLog;
use crate::storage::unpack::{Unpacker, newest_logged};

/// Page 0 of a growing segment is replaced in place: so often it is read again when it does not hold together.
const PAGE_READS_MAX: u32 = 20;
/// Time between two of these reads: a writer replaces the page every 100 ms at most, in far less than this.
pub(super) const PAGE_PAUSE: Duration = Duration::from_millis(2);

/// What is known of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// No frame of it is there.
    Absent,
    /// Frames of it are there, or may be.
    Unknown,
    /// Its checksum, and whether it says that all frames are there.
    Known { crc32c: u32, is_complete: bool },
}

/// What is known of the chunks of a segment.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) chunks: Vec<Entry>,
    /// Where compressed chunks lie; empty if they are not, or nobody knows.
    pub(super) places: Vec<Option<PackedChunk>>,
    /// Nothing of the segment changes any more.
    pub(super) is_final: bool,
}

impl Entries {
    /// Reads page 0; `log` is asked where that says nothing, or is not to be had.
    pub(super) fn read(
        file: &File,
        (tile, uuid, number): (&ReaderTile, &str, u64),
        condition: Condition,
        log: impl Fn() -> Option<ChunkLog>,
    ) -> Self {
        let is_growing = condition == Condition::Running;
        let (page, places) = read_page(file, tile, uuid, number, is_growing).unzip();
        let mut places = places.unwrap_or_default();
        let n = u64::from(tile.array.layout.chunks_per_segment);
        let is_sealed = page.as_ref().is_some_and(|page| page.trailer.is_sealed);
        let mut chunks: Vec<Entry> = match &page {
            Some(page) => {
                let all = tile.array.layout.frames_per_segment();
                let is_full = u64::from(page.trailer.frames_written) == all;
                // A compressed chunk has its checksum from the first, complete or not.
                let is_complete = is_full || !is_sealed && !tile.array.is_packed;
                page.chunks.iter().map(|&crc| entry(crc, is_complete)).collect()
            }
            None => vec![Entry::Unknown; n as usize],
        };
        let is_final = !is_growing || is_sealed;
        if !(is_sealed || is_growing || tile.array.is_packed)
            && let Some(log) = log()
        {
            for (chunk, entry) in (0..).zip(&mut chunks) {
                *entry = match (*entry, log.chunk(number, chunk)) {
                    (Entry::Absent | Entry::Unknown, Some((frames, crc32c))) if crc32c != 0 => {
                        Entry::Known { crc32c, is_complete: frames == tile.array.layout.frames_per_chunk }
                    }
                    (Entry::Absent, Some(_)) => Entry::Unknown,
                    (entry, _) => entry,
                };
            }
        }
        if page.is_none()
            && tile.array.is_packed
            && let Some(log) = log()
        {
            // The log names every version that page 0 ever named. Of a finished data set the last one counts; else the newest
            // that is whole, as rows of the frame table are written after it.
            let (layout, mut unpacker) = (tile.array.layout, Unpacker::default());
            places = vec![None; n as usize];
            for (number_of_chunk, (entry, place)) in (0..).zip(chunks.iter_mut().zip(&mut places)) {
                let records = log.versions(number, number_of_chunk);
                let from = if condition.is_finished() { records.len().saturating_sub(1) } else { 0 };
                let newest = newest_logged(file, &records[from..], layout.chunk_bytes(), &mut unpacker);
                *place = newest.map(|(place, _)| place);
                *entry = match newest {
                    Some((place, frames)) => {
                        Entry::Known { crc32c: place.crc32c, is_complete: frames == layout.frames_per_chunk }
                    }
                    None if records.is_empty() => Entry::Absent,
                    None => Entry::Unknown,
                };
            }
        }
        Self { chunks, places, is_final }
    }
}

fn entry(crc: Option<u32>, is_complete: bool) -> Entry {
    match crc {
        None => Entry::Absent,
        Some(0) => Entry::Unknown,
        Some(crc32c) => Entry::Known { crc32c, is_complete },
    }
}

/// Page 0, if it holds together and belongs where it was found.
fn read_page(
    file: &File,
    tile: &ReaderTile,
    uuid: &str,
    number: u64,
    is_growing: bool,
) -> Option<(Page0, Vec<Option<PackedChunk>>)> {
    let layout = tile.array.layout;
    for read in 0..if is_growing { PAGE_READS_MAX } else { 1 } {
        if read > 0 {
            std::thread::sleep(PAGE_PAUSE);
        }
        let mut bytes = [0; SECTOR_BYTES];
        let read = file.read_exact_at(&mut bytes, 0).ok();
        let page = match tile.array.is_packed {
            false => read.and_then(|()| Some((Page0::decode(&bytes, layout.frame_bytes).ok()?, Vec::new()))),
            true => read.and_then(|()| {
                let PackedPage0 { trailer, chunks: places } = PackedPage0::decode(&bytes, layout.frame_bytes).ok()?;
                let chunks = places.iter().map(|place| place.map(|place| place.crc32c)).collect();
                Some((Page0 { trailer, chunks }, places))
            }),
        };
        if let Some((page, places)) = page {
            let trailer = &page.trailer;
            let is_ours = ronchi_pipeline::format::uuid_text(&trailer.uuid) == uuid
                && (trailer.tile, trailer.segment) == (tile.id, number)
                && trailer.frames_per_chunk == layout.frames_per_chunk
                && page.chunks.len() == layout.chunks_per_segment as usize;
            return is_ours.then_some((page, places));
        }
    }
    None
}

/// Gaps of a tile with their reasons, as far as somebody lists them.
#[derive(Debug, Clone, Default)]
pub(super) struct ListedGaps {
    pub(super) gaps: Gaps,
    /// Frames below this one that are not listed are there.
    pub(super) end: FrameIndex,
}

impl ListedGaps {
    /// The list of a finished data set, for a tile of so many frames.
    pub(super) fn of_manifest(listed: &TileGaps, frame_count: u64) -> Self {
        let mut gaps = Gaps::default();
        let mut last = 0;
        for gap in &listed.ranges {
            let end = gap.first.saturating_add(gap.count);
            gaps.insert(gap.first..end, gap.reason);
            last = end.max(last);
        }
        Self { gaps, end: if listed.is_cut { last.min(frame_count) } else { frame_count } }
    }

    /// A list that is known to be whole.
    pub(super) fn whole(gaps: Gaps) -> Self {
        Self { gaps, end: FrameIndex::MAX }
    }

    /// Whether the disk refused, or may have refused, a frame of `frames`: their chunk's checksum is then no promise.
    pub(super) fn may_be_refused(&self, frames: &Range<FrameIndex>) -> bool {
        let refused = |reason| matches!(reason, GapReason::WriteFailed | GapReason::LostInCrash);
        self.gaps.within(frames.clone()).any(|gap| refused(gap.reason))
    }
}

/// What pixels say to a checksum: of their chunk, or of a frame alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not compared, or there is nothing to compare with.
    Unknown,
    /// They agree.
    Good,
    /// They do not.
    Bad,
}

/// What decides whether a frame is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// Frames from here on must prove themselves: the receiver died before it promised anything of them.
    pub(super) proven_from: FrameIndex,
}

/// Frames that are not there, of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunGap {
    /// Which.
    pub frames: Range<FrameIndex>,
    /// What the reader makes of them; never [`FrameFlag::Ok`].
    pub flag: FrameFlag,
    /// Why, where that is known.
    pub reason: Option<GapReason>,
}

/// Turns flags as the frame table holds them into what is true, and lists what is not there. One verdict per frame;
/// `is_complete`: if the chunk is as its checksum says, all its frames are there.
pub(super) fn settle(
    (frames, flags): (&Range<FrameIndex>, &mut [FrameFlag]),
    listed: &ListedGaps,
    promise: Promise,
    (verdicts, is_complete): (&[Verdict], bool),
    gaps: &mut Vec<RunGap>,
) {
    gaps.clear();
    let is_plain = flags.iter().all(|&flag| flag == FrameFlag::Ok)
        && !verdicts.contains(&Verdict::Bad)
        && (frames.end <= promise.proven_from || verdicts.iter().all(|&verdict| verdict == Verdict::Good))
        && listed.gaps.within(frames.clone()).next().is_none();
    if is_plain {
        return;
    }
    let mut reasons = listed.gaps.within(frames.clone()).peekable();
    for ((frame, flag), &verdict) in frames.clone().zip(flags).zip(verdicts) {
        while reasons.next_if(|gap| gap.first + gap.count <= frame).is_some() {}
        let reason = reasons.peek().filter(|gap| gap.first <= frame).map(|gap| gap.reason);
        let is_promised = frame < promise.proven_from;
        let found = match (*flag, reason) {
            (FrameFlag::Ok, Some(reason)) => Some((FrameFlag::Missing, Some(reason))),
            (flag, Some(reason)) => Some((flag, Some(reason))),
            (_, None) if verdict == Verdict::Bad => {
                Some((FrameFlag::Corrupt, (!is_promised).then_some(GapReason::LostInCrash)))
            }
            (FrameFlag::Ok, None) if is_promised || verdict == Verdict::Good => None,
            (FrameFlag::Ok, None) => Some((FrameFlag::Missing, Some(GapReason::LostInCrash))),
            // The table was lost, the frame was not: its chunk is whole, or the manifest knows of no gap.
            (_, None) if verdict == Verdict::Good && (is_complete || frame < listed.end) => None,
            (flag, None) => Some((flag, None)),
        };
        *flag = found.map_or(FrameFlag::Ok, |(flag, _)| flag);
        let Some((flag, reason)) = found else { continue };
        match gaps.last_mut() {
            Some(last) if (last.frames.end, last.flag, last.reason) == (frame, flag, reason) => last.frames.end += 1,
            _ => gaps.push(RunGap { frames: frame..frame + 1, flag, reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FrameFlag::{Corrupt, Missing, Ok, Truncated};
    use GapReason::{LostInCrash, NeverArrived, Rejected, WriteFailed};

    fn settled(
        mut flags: Vec<FrameFlag>,
        listed: &ListedGaps,
        proven_from: u64,
        verdict: Verdict,
        is_complete: bool,
    ) -> Vec<(u64, FrameFlag, Option<GapReason>)> {
        let mut gaps = Vec::new();
        let frames = 10..10 + flags.len() as u64;
        let verdicts = vec![verdict; flags.len()];
        settle((&frames, &mut flags), listed, Promise { proven_from }, (&verdicts, is_complete), &mut gaps);
        let listed: Vec<_> =
            gaps.iter().flat_map(|gap| gap.frames.clone().map(|frame| (frame, gap.flag, gap.reason))).collect();
        let by_flag: Vec<u64> = frames.zip(flags).filter(|(_, flag)| *flag != Ok).map(|(frame, _)| frame).collect();
        assert_eq!(by_flag, listed.iter().map(|gap| gap.0).collect::<Vec<_>>(), "flags and gaps agree");
        listed
    }

    /// Every source of truth in turn: the manifest's list, the checksum, the promise, the table.
    #[test]
    fn who_decides() {
        let none = ListedGaps::default();
        let mut gaps = Gaps::default();
        gaps.insert(0..11, NeverArrived);
        gaps.insert(12..13, WriteFailed);
        let listed = ListedGaps::whole(gaps);
        let all = u64::MAX;
        assert_eq!(settled(vec![Ok, Ok], &none, all, Verdict::Unknown, false), []);
        let by_list = [(10, Missing, Some(NeverArrived)), (12, Truncated, Some(WriteFailed))];
        assert_eq!(settled(vec![Missing, Ok, Truncated, Ok], &listed, all, Verdict::Good, false), by_list);
        assert_eq!(settled(vec![Ok, Ok, Truncated, Ok], &listed, all, Verdict::Unknown, false), by_list);
        // The list knows nothing of frame 11: lost in the table alone, if the checksum says so.
        assert_eq!(settled(vec![Ok, Missing], &listed, all, Verdict::Good, false).len(), 1);
        assert_eq!(settled(vec![Ok, Missing], &listed, all, Verdict::Unknown, false).len(), 2);
        assert_eq!(settled(vec![Missing], &none, all, Verdict::Good, false), [(10, Missing, None)]);
        assert_eq!(settled(vec![Missing], &none, all, Verdict::Good, true), []);
        let bad = [(10, Corrupt, None), (11, Corrupt, Some(LostInCrash))];
        assert_eq!(settled(vec![Ok, Ok], &none, 11, Verdict::Bad, true), bad);
        let lost = [(11, Missing, Some(LostInCrash))];
        assert_eq!(settled(vec![Ok, Ok], &none, 11, Verdict::Unknown, false), lost);
        assert_eq!(settled(vec![Ok, Ok], &none, 11, Verdict::Good, false), []);
        assert!(listed.may_be_refused(&(12..20)) && !listed.may_be_refused(&(0..12)));
    }

    /// A list that was cut says nothing of frames behind its end.
    #[test]
    fn a_cut_list() {
        let range = ronchi_pipeline::Gap { first: 10, count: 1, reason: Rejected };
        let cut = TileGaps { tile: 0, frame_count: 9, ranges: vec![range], is_cut: true, law: None };
        let gaps = settled(vec![Missing; 2], &ListedGaps::of_manifest(&cut, 20), u64::MAX, Verdict::Good, false);
        assert_eq!(gaps, [(10, Missing, Some(Rejected)), (11, Missing, None)]);
        let whole = TileGaps { is_cut: false, ..cut };
        let gaps = settled(vec![Missing; 3], &ListedGaps::of_manifest(&whole, 12), u64::MAX, Verdict::Good, false);
        assert_eq!(gaps, [(10, Missing, Some(Rejected)), (12, Missing, None)], "frame 12 lies beyond the end");
    }
}
