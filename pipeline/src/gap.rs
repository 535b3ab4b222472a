//! Gaps: which announced frames are not there, and why; and the law that accounts for every one.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::FrameIndex;

/// State of one frame in the frame table; the numbers are the file format (`docs/format.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum FrameFlag {
    /// Present.
    Ok = 0,
    /// Never arrived.
    Missing = 1,
    /// Arrived with a header or size that cannot be trusted.
    Corrupt = 2,
    /// Arrived cut short.
    Truncated = 3,
}

impl FrameFlag {
    /// The flag that a row of the table holds; a number that is none calls its frame corrupt.
    pub fn from_row(row: u8) -> Self {
        match row {
            0 => Self::Ok,
            1 => Self::Missing,
            3 => Self::Truncated,
            _ => Self::Corrupt,
        }
    }
}

/// Why a frame is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The detector never sent it, or the link lost it.
    NeverArrived,
    /// Some tiles of it are missing.
    IncompleteTiles,
    /// It arrived broken: bad header, wrong size, wrong type.
    Rejected,
    /// The receiver had no room for it.
    DroppedBackpressure,
    /// The disk refused it.
    WriteFailed,
    /// The receiver died before it was durable; it may not have arrived at all.
    LostInCrash,
    /// Its bytes have changed since it was durable, or it came whole in a compressed form that does not decode.
    Damaged,
    /// The receiver knew, and died before it could say.
    Unknown,
}

/// Ranges of frames that are not there, each with its reason; ranges never overlap or touch with the same reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps(BTreeMap<FrameIndex, (FrameIndex, GapReason)>);

/// One gap, as stored in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First frame that is not there.
    pub first: FrameIndex,
    /// Number of consecutive frames that are not there.
    pub count: u64,
    /// Why.
    pub reason: GapReason,
}

impl Gaps {
    /// Adds frames that are not there; frames already listed keep their first reason.
    pub fn insert(&mut self, frames: Range<FrameIndex>, reason: GapReason) {
        let mut from = frames.start;
        while from < frames.end {
            let covering = self.0.range(..=from).next_back().map(|(_, &(end, _))| end).filter(|&end| end > from);
            if let Some(end) = covering {
                from = end;
                continue;
            }
            let until = self.0.range(from..).next().map_or(frames.end, |(&next, _)| next.min(frames.end));
            self.insert_free(from..until, reason);
            from = until;
        }
    }

    fn insert_free(&mut self, frames: Range<FrameIndex>, reason: GapReason) {
        let mut frames = frames;
        if let Some((&start, &(end, same))) = self.0.range(..frames.start).next_back()
            && end == frames.start
            && same == reason
        {
            frames.start = start;
        }
        if let Some(&(end, same)) = self.0.get(&frames.end)
            && same == reason
        {
            self.0.remove(&frames.end);
            frames.end = end;
        }
        self.0.insert(frames.start, (frames.end, reason));
    }

    /// Removes a frame that came after all.
    pub fn remove(&mut self, frame: FrameIndex) {
        let Some((&start, &(end, reason))) = self.0.range(..=frame).next_back() else { return };
        if frame >= end {
            return;
        }
        self.0.remove(&start);
        if start < frame {
            self.0.insert(start, (frame, reason));
        }
        if frame + 1 < end {
            self.0.insert(frame + 1, (end, reason));
        }
    }

    /// All gaps in order.
    pub fn iter(&self) -> impl Iterator<Item = Gap> + '_ {
        self.0.iter().map(|(&first, &(end, reason))| Gap { first, count: end - first, reason })
    }

    /// Gaps that have frames in `frames`, in order, cut to these.
    pub fn within(&self, frames: Range<FrameIndex>) -> impl Iterator<Item = Gap> + '_ {
        let before = self.0.range(..frames.start).next_back().filter(|(_, (end, _))| *end > frames.start);
        let inside = self.0.range(frames.start..frames.end.max(frames.start));
        before.into_iter().chain(inside).map(move |(&first, &(end, reason))| {
            let first = first.max(frames.start);
            Gap { first, count: end.min(frames.end) - first, reason }
        })
    }

    /// Number of frames that are not there.
    pub fn frame_count(&self) -> u64 {
        self.iter().map(|gap| gap.count).sum()
    }

    /// Number of frames that are not there, by reason.
    pub fn by_reason(&self) -> BTreeMap<GapReason, u64> {
        let mut sums = BTreeMap::new();
        for gap in self.iter() {
            *sums.entry(gap.reason).or_default() += gap.count;
        }
        sums
    }

    /// Whether this frame is listed.
    pub fn contains(&self, frame: FrameIndex) -> bool {
        self.0.range(..=frame).next_back().is_some_and(|(_, &(end, _))| frame < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain map of frames: same members, first reason wins, ranges are as long as they can be.
        #[test]
        fn gaps_like_a_map(
            steps in proptest::collection::vec((0_u64..40, 0_u64..8, 0_u8..3), 0..40), start in 0_u64..50, len in 0_u64..20,
        ) {
            let reasons = [GapReason::NeverArrived, GapReason::Rejected];
            let mut gaps = Gaps::default();
            let mut model = BTreeMap::new();
            for (first, count, action) in steps {
                if let Some(&reason) = reasons.get(usize::from(action)) {
                    gaps.insert(first..first + count, reason);
                    for frame in first..first + count { model.entry(frame).or_insert(reason); }
                } else {
                    gaps.remove(first);
                    model.remove(&first);
                }
            }
            let listed: BTreeMap<_, _> = gaps.iter().flat_map(|g| (g.first..g.first + g.count).map(move |f| (f, g.reason))).collect();
            prop_assert_eq!(&listed, &model);
            prop_assert_eq!(gaps.frame_count(), model.len() as u64);
            let all: Vec<Gap> = gaps.iter().collect();
            prop_assert!(all.windows(2).all(|w| w[0].reason != w[1].reason || w[0].first + w[0].count < w[1].first));
            prop_assert!((0..50).all(|f| gaps.contains(f) == model.contains_key(&f)));
            let within: BTreeMap<_, _> =
                gaps.within(start..start + len).flat_map(|g| (g.first..g.first + g.count).map(move |f| (f, g.reason))).collect();
            let expected: BTreeMap<_, _> = model.range(start..start + len).map(|(&f, &reason)| (f, reason)).collect();
            prop_assert_eq!(within, expected);
        }
    }
}
