//! The summary of an acquisition: what `ronchi record` prints at the end, as text or JSON.

use std::fmt::{self, Display};
use std::path::PathBuf;

use ronchi_pipeline::format::Law;
use ronchi_pipeline::{Gap, GapReason, LinkCounters};
use serde::Serialize;

pub use crate::pictures::Ending;
use crate::process::Memory;

/// How an acquisition went.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Directory of the data set; none for a preview.
    pub dataset: Option<PathBuf>,
    /// Its name.
    pub name: String,
    /// `complete`, `interrupted` or `failed`.
    pub state: &'static str,
    /// Every frame, accounted for.
    pub frames: Frames,
    /// Frames that are not there, with reasons.
    pub gaps: Vec<Gap>,
    /// Whether every frame of every tile is accounted for; empty for a preview.
    pub law: Vec<TileLaw>,
    /// Some law is violated: a bug of the receiver, and no number here is to be believed.
    pub unsound: bool,
    /// Speed from the first frame until the last one was durable.
    pub rates: Rates,
    /// That time.
    pub seconds: f64,
    /// Time after it for reducing what was skipped and storing results.
    pub finish_s: f64,
    /// CPU time of the receiver since its start.
    pub cpu_s: f64,
    /// Memory of the receiver.
    pub memory: Memory,
    /// How frames were written.
    pub writer: String,
    /// Results of a lab's own that have ended before the acquisition did; the others and the recording are not affected.
    pub ended_results: Vec<Ending>,
    /// What went wrong, in words.
    pub errors: Vec<String>,
}

/// The conservation law of one tile.
#[derive(Debug, Clone, Serialize)]
pub struct TileLaw {
    /// Tile id: the number of its link.
    pub tile: u32,
    /// Terms and verdict.
    #[serde(flatten)]
    pub law: Law,
}

/// Frame counts; `announced = durable + missing` when recording.
#[derive(Debug, Clone, Serialize)]
pub struct Frames {
    /// Announced by the detector, or seen, when it announced none.
    pub announced: u64,
    /// Received whole.
    pub received: u64,
    /// Durable on disk.
    pub durable: u64,
    /// Not there: the sum of all gaps.
    pub missing: u64,
    /// Of these, dropped by the detector because nobody fetched them in time, where it tells that.
    pub dropped: u64,
    /// Arrived broken.
    pub rejected: u64,
    /// Arrived whole in compressed form, and do not decode; of a preview, as far as anything is reduced.
    pub damaged: u64,
    /// Arrived again.
    pub duplicate: u64,
    /// Arrived too late or beyond the announced number.
    pub unplaced: u64,
    /// Skipped by the live path.
    pub live_skipped: u64,
    /// Of these, reduced later from disk.
    pub backfilled: u64,
}

/// Totals of a receiver that a summary reports as differences.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Frames that the detector dropped.
    pub dropped: u64,
    /// Frames that arrived broken.
    pub rejected: u64,
    /// Frames of a preview that do not decode.
    pub damaged: u64,
    /// Frames that arrived again.
    pub duplicate: u64,
    /// Frames that could not be placed.
    pub unplaced: u64,
    /// Frames the live path skipped.
    pub live_skipped: u64,
}

impl Counts {
    /// The counters of a link at this moment.
    pub fn of(counters: &LinkCounters) -> Self {
        let read = LinkCounters::read;
        Self {
            dropped: read(&counters.dropped_frames),
            rejected: read(&counters.rejected_frames),
            damaged: read(&counters.damaged_frames),
            duplicate: read(&counters.duplicate_frames),
            unplaced: read(&counters.unplaced_frames),
            live_skipped: read(&counters.live_skipped_frames),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            dropped: self.dropped + other.dropped,
            rejected: self.rejected + other.rejected,
            damaged: self.damaged + other.damaged,
            duplicate: self.duplicate + other.duplicate,
            unplaced: self.unplaced + other.unplaced,
            live_skipped: self.live_skipped + other.live_skipped,
        }
    }

    /// What has come since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            dropped: self.dropped - earlier.dropped,
            rejected: self.rejected - earlier.rejected,
            damaged: self.damaged - earlier.damaged,
            duplicate: self.duplicate - earlier.duplicate,
            unplaced: self.unplaced - earlier.unplaced,
            live_skipped: self.live_skipped - earlier.live_skipped,
        }
    }
}

/// Mean speed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rates {
    /// Frames per second.
    pub frames_per_s: f64,
    /// Payload in 10^9 bytes per second.
    pub gb_per_s: f64,
}

impl Rates {
    /// Rates of so many frames and payload bytes in this time.
    pub fn new(frames: u64, bytes: u64, seconds: f64) -> Self {
        let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self { frames_per_s: per_s(frames), gb_per_s: per_s(bytes) / 1e9 }
    }
}

impl Summary {
    /// Whether everything announced is durable.
    pub fn is_whole(&self) -> bool {
        let stored = self.dataset.is_none() || self.frames.durable == self.frames.announced;
        let is_clean = self.errors.is_empty() && !self.unsound && self.frames.damaged == 0;
        self.state == "complete" && stored && self.frames.missing == 0 && is_clean
    }

    /// The rest of a series that was stopped: frames that were never sent are missing, and not lost.
    fn tail(&self) -> Option<&Gap> {
        let last = self.gaps.last().filter(|_| self.state == "interrupted")?;
        let is_rest = last.reason == GapReason::NeverArrived && last.first + last.count == self.frames.announced;
        is_rest.then_some(last)
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, rates, .. } = self;
        writeln!(f, "{}: {}", self.name, self.state)?;
        writeln!(
            f,
            "  {} of {} frames in {:.2} s ({:.0} frames/s, {:.2} GB/s)",
            frames.received, frames.announced, self.seconds, rates.frames_per_s, rates.gb_per_s
        )?;
        match &self.dataset {
            Some(path) => writeln!(f, "  {} frames durable in {}", frames.durable, path.display())?,
            None => writeln!(f, "  nothing was recorded: this was a preview")?,
        }
        let tail = self.tail();
        match frames.missing.saturating_sub(tail.map_or(0, |tail| tail.count)) {
            0 => writeln!(f, "  no frame lost")?,
            lost => writeln!(f, "  {lost} FRAMES MISSING:")?,
        }
        let lost = self.gaps.len() - usize::from(tail.is_some());
        for gap in self.gaps[..lost].iter().take(10) {
            let last = gap.first + gap.count - 1;
            writeln!(f, "    frame {} to {last}: {}", gap.first, reason(gap))?;
        }
        if lost > 10 {
            writeln!(f, "    and {} more gaps, listed in zarr.json", lost - 10)?;
        }
        if let Some(tail) = tail {
            writeln!(f, "  ended early: the last {} frames were not taken", tail.count)?;
        }
        if frames.dropped > 0 {
            writeln!(f, "  THE DETECTOR DROPPED {} FRAMES BECAUSE NOBODY FETCHED THEM IN TIME", frames.dropped)?;
        }
        for TileLaw { tile, law } in &self.law {
            let verdict = if law.holds { "accounted for" } else { "UNSOUND" };
            let of = if self.law.len() > 1 { format!("tile {tile}: ") } else { String::new() };
            writeln!(f, "  {verdict}: {of}{law}")?;
        }
        if frames.duplicate + frames.rejected + frames.unplaced > 0 {
            let Frames { duplicate, rejected, unplaced, .. } = frames;
            writeln!(f, "  {duplicate} came twice, {rejected} came broken, {unplaced} could not be placed")?;
        }
        if frames.damaged > 0 {
            writeln!(f, "  {} FRAMES CAME COMPRESSED AND DO NOT DECODE", frames.damaged)?;
        }
        if frames.live_skipped > 0 {
            let (skipped, later) = (frames.live_skipped, frames.backfilled);
            writeln!(f, "  {skipped} frames skipped live, {later} of them reduced from disk afterwards")?;
        }
        for Ending { name, reason } in &self.ended_results {
            writeln!(f, "  RESULT {name} HAS ENDED: {reason}")?;
        }
        for error in &self.errors {
            writeln!(f, "  ERROR: {error}")?;
        }
        Ok(())
    }
}

fn reason(gap: &Gap) -> String {
    serde_json::to_value(gap.reason).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " "))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ronchi_pipeline::Gaps;

    use super::*;

    fn summary(law: Law) -> Summary {
        Summary {
            dataset: Some("scan.ronchi".into()),
            name: "scan".into(),
            state: "complete",
            frames: Frames {
                announced: 10,
                received: 10,
                durable: 10,
                missing: 0,
                dropped: 0,
                rejected: 0,
                damaged: 0,
                duplicate: 0,
                unplaced: 0,
                live_skipped: 0,
                backfilled: 0,
            },
            gaps: Vec::new(),
            unsound: !law.holds,
            law: vec![TileLaw { tile: 0, law }],
            rates: Rates::new(10, 10, 1.0),
            seconds: 1.0,
            finish_s: 0.0,
            cpu_s: 0.0,
            memory: Memory { ceiling_bytes: 0, resident_max_bytes: 0 },
            writer: String::new(),
            ended_results: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The verdict is shown with its terms; a violated law is shouted and is reason enough for a bad exit code.
    #[test]
    fn the_law_is_shown() {
        let good = summary(Law::check(10, Some(10), 10, &Gaps::default()));
        assert!(good.is_whole() && good.to_string().contains("  accounted for: 10 frames = 10 durable\n"), "{good}");
        let mut gaps = Gaps::default();
        gaps.insert(0..1, GapReason::NeverArrived);
        let mut bad = summary(Law::check(10, Some(10), 10, &gaps));
        assert!(!bad.is_whole(), "{bad}");
        let line =
            "  UNSOUND: 10 frames != 10 durable + 1 never arrived, 10 received: 1 frames are accounted for twice\n";
        assert!(bad.to_string().contains(line), "{bad}");
        bad.law.push(TileLaw { tile: 1, law: good.law[0].law.clone() });
        assert!(bad.to_string().contains("  accounted for: tile 1: 10 frames"), "{bad}");
        let json = serde_json::json!(bad);
        assert_eq!((&json["unsound"], &json["law"][0]["tile"]), (&true.into(), &0.into()));
        assert_eq!(json["law"][0]["gaps"]["never_arrived"], 1);
        assert_eq!(json["law"][1]["holds"], true);
    }

    /// Frames of a series that was stopped before they were sent are not called lost; a hole before them is.
    #[test]
    fn the_rest_of_a_stopped_series_is_not_lost() {
        let mut stopped = summary(Law::check(10, Some(10), 10, &Gaps::default()));
        stopped.state = "interrupted";
        let gap = |first, count, reason| Gap { first, count, reason };
        (stopped.frames.missing, stopped.gaps) = (3, vec![gap(7, 3, GapReason::NeverArrived)]);
        let text = stopped.to_string();
        assert!(text.contains("  no frame lost\n  ended early: the last 3 frames were not taken\n"), "{text}");
        stopped.gaps.insert(0, gap(2, 1, GapReason::NeverArrived));
        stopped.frames.missing = 4;
        let text = stopped.to_string();
        assert!(text.contains("  1 FRAMES MISSING:\n    frame 2 to 2: never arrived\n  ended early"), "{text}");
        for (state, reason) in [("failed", GapReason::NeverArrived), ("interrupted", GapReason::WriteFailed)] {
            let rest = Summary { state, gaps: vec![gap(7, 3, reason)], ..stopped.clone() };
            assert!(rest.to_string().contains("FRAMES MISSING"), "{rest}");
        }
        assert!(!stopped.is_whole());
    }
}
