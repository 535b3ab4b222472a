//! The source alone, on a recording in memory: every frame keeps its number, whatever the runs, pauses and gaps are.

use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::{BlockMut, ByteOrder, GapReason, Layout, PixelKind, PixelType, Pool, Sensor, Series, SigShape};

use super::*;
use crate::filling::Arrivals;

const DETECTOR: SigShape = SigShape { height: 2, width: 3 };

struct Memory {
    flags: Vec<FrameFlag>,
    /// Ends of runs; a run that ends where it begins is a pause.
    runs: std::vec::IntoIter<usize>,
    current: std::ops::Range<usize>,
    counters: Vec<u64>,
    times_ns: Vec<u64>,
    bytes: Vec<u8>,
}

fn announced(frame_count: u64) -> Announcement {
    Announcement {
        series_id: "memory".into(),
        frame_count: Some(frame_count),
        scan: None,
        detector: DETECTOR,
        region: DETECTOR.region(),
        pixel: PixelType::new(PixelKind::U8, ByteOrder::Little),
        encoding: ronchi_pipeline::Encoding::Raw,
        vendor_header: String::new(),
        sensor: Sensor::default(),
    }
}

impl Recording for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn announcement(&mut self, _: Instant) -> Result<Option<Announcement>, RecordingError> {
        Ok(Some(announced(self.flags.len() as u64)))
    }

    fn advance(&mut self, _: Instant) -> Result<Advance, RecordingError> {
        let Some(end) = self.runs.next() else { return Ok(Advance::End(EndReason::Complete)) };
        if end == self.current.end {
            return Ok(Advance::Waiting);
        }
        self.current = self.current.end..end;
        Ok(Advance::Frames)
    }

    fn current(&self) -> Recorded<'_> {
        let range = self.current.clone();
        Recorded {
            first: range.start as u64,
            flags: &self.flags[range.clone()],
            counters: &self.counters[range.clone()],
            times_ns: &self.times_ns[range.clone()],
            bytes: &self.bytes[range.start * 6..range.end * 6],
        }
    }
}

proptest! {
    /// Whatever was recorded, in runs of any length and with pauses: frames that were there come with their pixels, counters
    /// and times; broken ones are rejected; missing ones are gaps.
    #[test]
    fn plays_what_was_recorded(
        states in proptest::collection::vec(0_u8..6, 1..60), cuts in any::<u64>(), k in 1_u32..9, is_paced in any::<bool>(),
    ) {
        let flags: Vec<FrameFlag> = states.iter().map(|&state| FrameFlag::from_row(state.saturating_sub(2))).collect();
        let count = flags.len();
        let cut = |i: &usize| *i == count || cuts >> (i % 64) & 1 == 1;
        let with_pauses = |end| if end % 3 == 0 { vec![end, end] } else { vec![end] };
        let runs: Vec<usize> = (1..=count).filter(cut).flat_map(with_pauses).collect();
        let recording = Memory {
            flags: flags.clone(),
            runs: runs.into_iter(),
            current: 0..0,
            counters: (0..count as u64).map(|i| i * 3 + 1).collect(),
            times_ns: (0..count as u64).map(|i| i + 70).collect(),
            bytes: (0..count * 6).map(|i| i as u8).collect(),
        };
        let mut source = ReplaySource::new(Box::new(recording), is_paced.then_some(Duration::from_nanos(1)));
        let later = || Instant::now() + Duration::from_secs(10);
        let begun = source.begin(later()).expect("begins");
        prop_assert_eq!(begun, Begin::Series(Box::new(announced(count as u64))));
        let layout = Layout { frame_bytes: 6, frames_per_chunk: k, chunks_per_segment: 4 };
        let series = Arc::new(Series {
            acquisition: [0; 16], name: "replay".into(), link: 0, link_count: 1, announced: announced(count as u64), scan: None,
            layout, is_recorded: true,
        });
        let pool = Pool::new(1, Layout::slot_bytes(layout.chunk_bytes()) as usize).expect("pool");
        let counters = LinkCounters::default();
        let mut arrivals = Arrivals::new(Some(count as u64));
        let mut next = 0;
        let mut seen = Vec::new();
        loop {
            let slot = pool.take(Duration::ZERO).expect("given back");
            let mut block = BlockMut::new(slot, Arc::clone(&series), next);
            let mut filling = Filling { block: &mut block, arrivals: &mut arrivals, counters: &counters };
            let fill = source.fill(&mut filling, later()).expect("plays");
            if let Some(block) = block.seal() {
                let records = block.frames().zip(block.records()).zip(block.pixels().expect("pixels").chunks(6));
                seen.extend(records.filter(|((_, record), _)| record.flag == FrameFlag::Ok).map(|((frame, record), pixels)| {
                    (frame, record.counter, record.time_ns, pixels.to_vec())
                }));
            }
            match fill {
                Fill::End(reason) => {
                    prop_assert_eq!(reason, EndReason::Complete);
                    break;
                }
                Fill::Elsewhere(frame) => next = frame,
                Fill::Full | Fill::Paused => next = arrivals.next(),
            }
            if next >= count as u64 { next = count as u64 - 1 }
        }
        let there = (0..count).filter(|&i| flags[i] == FrameFlag::Ok);
        let expected: Vec<_> = there.map(|i| {
            (i as u64, i as u64 * 3 + 1, i as u64 + 70, (i * 6..i * 6 + 6).map(|i| i as u8).collect::<Vec<_>>())
        }).collect();
        prop_assert_eq!(seen, expected);
        let (_, _, gaps) = arrivals.finish();
        for (frame, &flag) in flags.iter().enumerate() {
            let found = gaps.iter().find(|gap| (gap.first..gap.first + gap.count).contains(&(frame as u64))).map(|gap| gap.reason);
            let expected = match flag {
                FrameFlag::Ok => None,
                FrameFlag::Missing => Some(GapReason::NeverArrived),
                _ => Some(GapReason::Rejected),
            };
            prop_assert_eq!(found, expected, "frame {}", frame);
        }
        prop_assert_eq!(source.begin(Instant::now()).expect("waits"), Begin::Waiting);
    }
}
