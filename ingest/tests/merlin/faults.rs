//! Random faults, cuts and pauses against a slow reference that looks at whole messages, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use ronchi_ingest::SourceError;
use ronchi_ingest::merlin::{MerlinOptions, MerlinSource};
use ronchi_pipeline::{EndReason, GapReason, LinkCounters};

use crate::driver::{Driver, Manner, Part, Run, ScriptDial};
use crate::stream::{Kind, SECOND, acquisition, message};

/// One message of a script.
#[derive(Debug, Clone)]
enum Item {
    Arm(u64),
    Frame {
        sequence: u64,
        kind: Kind,
        seed: u64,
    },
    /// Sequence readable, data offset not.
    BrokenOffset(u64),
    BrokenSequence,
    /// As long as a frame of this kind, but its pixels begin earlier.
    OtherOffset(u64, Kind),
    Profile,
    WrongMagic,
}

impl Item {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Item::Arm(count) => acquisition(*count, ""),
            Item::Frame { sequence, kind, seed } => kind.message(*sequence, *seed),
            Item::BrokenOffset(sequence) => {
                message(format!("MQ1,{sequence:06},00007,01,0008,0004,U16,   1x1, and some more").as_bytes())
            }
            Item::BrokenSequence => message(b"MQ1,00x001,00384,01,0008,0004,U16,   1x1,"),
            Item::OtherOffset(sequence, kind) => {
                let mut body = [kind.header(*sequence), kind.payload(3).0].concat();
                body[11..16].copy_from_slice(b"00320");
                message(&body)
            }
            Item::Profile => message(b"PR1,0001"),
            Item::WrongMagic => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        }
    }

    /// Bytes after which its head is known.
    fn head_bytes(&self) -> usize {
        match self {
            Item::Frame { kind, .. } => 15 + 256 + 128 * kind.chips as usize,
            Item::BrokenOffset(_) | Item::BrokenSequence => 15 + 32,
            Item::OtherOffset(..) => 15 + 320,
            Item::WrongMagic => 1,
            Item::Arm(_) | Item::Profile => self.bytes().len(),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    frames: u64,
    duplicates: u64,
    unplaced: u64,
    rejected: u64,
    garbage: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Expected {
    frames: BTreeMap<u64, Vec<u8>>,
    gaps: BTreeMap<u64, GapReason>,
    next: u64,
    announced: u64,
    kind: Kind,
    reason: Option<EndReason>,
}

impl Expected {
    fn advance(&mut self, frame: u64) {
        for gap in self.next..frame {
            self.gaps.insert(gap, GapReason::NeverArrived);
        }
        self.next = frame + 1;
    }

    fn reject(&mut self, frame: u64) {
        if frame >= self.next && frame < self.announced {
            self.advance(frame);
            self.gaps.insert(frame, GapReason::Rejected);
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.reason = Some(if self.next >= self.announced { EndReason::Complete } else { reason });
        let announced = self.announced;
        for gap in self.next..announced {
            self.gaps.insert(gap, GapReason::NeverArrived);
        }
    }
}

#[derive(Default)]
struct Model {
    series: Vec<Expected>,
    armed: Option<u64>,
    hunting: bool,
    refused_count: usize,
    tally: Tally,
}

impl Model {
    fn current(&mut self) -> Option<&mut Expected> {
        self.series.last_mut().filter(|series| series.reason.is_none())
    }

    /// Takes an item of which `count` bytes came; `false` when the connection ends.
    fn take(&mut self, item: &Item, count: usize) -> bool {
        if count < item.head_bytes() {
            return true;
        }
        if self.hunting {
            if let Item::Arm(announced) = item {
                (self.hunting, self.armed) = (false, Some(*announced));
            }
            return true;
        }
        match item {
            Item::Arm(announced) => {
                if let Some(series) = self.current() {
                    series.end(EndReason::Stopped);
                }
                self.armed = Some(*announced);
            }
            Item::Frame { sequence, kind, seed } => {
                self.frame(*sequence - 1, *kind, *seed, count == item.bytes().len())
            }
            Item::BrokenOffset(sequence) if self.current().is_some() => self.reject(*sequence - 1),
            Item::OtherOffset(sequence, _) if self.current().is_some() => self.reject(*sequence - 1),
            Item::OtherOffset(..) if self.armed.take().is_some() => self.refused_count += 1,
            Item::OtherOffset(..) => self.tally.unplaced += 1,
            Item::BrokenOffset(_) | Item::BrokenSequence | Item::Profile => self.tally.garbage += 1,
            Item::WrongMagic => {
                if let Some(series) = self.current() {
                    series.end(EndReason::Disconnected);
                    if series.reason == Some(EndReason::Disconnected) {
                        return false;
                    }
                }
                self.hunting = true;
                self.tally.garbage += 1;
            }
        }
        true
    }

    fn reject(&mut self, frame: u64) {
        self.tally.rejected += 1;
        self.current().expect("in a series").reject(frame);
    }

    fn frame(&mut self, frame: u64, kind: Kind, seed: u64, is_whole: bool) {
        if self.current().is_none() {
            let Some(announced) = self.armed.take() else {
                self.tally.unplaced += 1;
                return;
            };
            let (frames, gaps) = Default::default();
            self.series.push(Expected { frames, gaps, next: 0, announced, kind, reason: None });
        }
        let series = self.current().expect("begun");
        if series.kind != kind {
            return self.reject(frame);
        }
        if frame < series.next && !series.gaps.contains_key(&frame) {
            self.tally.duplicates += 1;
        } else if frame >= series.announced {
            self.tally.unplaced += 1;
        } else if !is_whole {
            let mut before = series.clone();
            before.end(EndReason::Disconnected); // What was seen before this frame decides how the series ends.
            series.reject(frame);
            series.end(EndReason::Disconnected);
            series.reason = before.reason;
            self.tally.rejected += 1;
        } else {
            if frame >= series.next {
                series.advance(frame);
            }
            series.gaps.remove(&frame);
            series.frames.insert(frame, kind.payload(seed).1);
            if series.frames.len() as u64 == series.announced {
                series.end(EndReason::Complete);
            }
            self.tally.frames += 1;
        }
    }
}

/// What happens to each frame of a run.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Drop,
    Twice,
    Swap,
    OtherKind,
    BrokenOffset,
    BrokenSequence,
    OtherOffset,
    Profile,
    Rearm,
    WrongMagic,
    Beyond,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::None), 2 => Just(Fault::Drop), 1 => Just(Fault::Twice), 2 => Just(Fault::Swap),
        1 => Just(Fault::OtherKind), 1 => Just(Fault::BrokenOffset), 1 => Just(Fault::BrokenSequence),
        1 => Just(Fault::OtherOffset), 1 => Just(Fault::Profile), 1 => Just(Fault::Rearm), 1 => Just(Fault::Beyond),
    ]
}

fn script(kind: Kind, other: Kind, faults: &[Fault], is_armed: bool) -> Vec<Item> {
    let count = faults.len() as u64;
    let mut items = if is_armed { vec![Item::Arm(count)] } else { vec![] };
    let mut delayed = None;
    for (index, fault) in faults.iter().enumerate() {
        let sequence = index as u64 + 1;
        let frame = |kind| Item::Frame { sequence, kind, seed: sequence * 1000 + items.len() as u64 };
        match fault {
            Fault::None => items.push(frame(kind)),
            Fault::Drop => {}
            Fault::Twice => items.extend([frame(kind), frame(kind)]),
            Fault::Swap => {
                let swapped = delayed.replace(frame(kind));
                items.extend(swapped);
                continue;
            }
            Fault::OtherKind => items.push(frame(other)),
            Fault::BrokenOffset => items.push(Item::BrokenOffset(sequence)),
            Fault::BrokenSequence => items.push(Item::BrokenSequence),
            Fault::OtherOffset => items.push(Item::OtherOffset(sequence, kind)),
            Fault::Profile => items.extend([Item::Profile, frame(kind)]),
            Fault::Rearm => items.extend([Item::Arm(count), frame(kind)]),
            Fault::WrongMagic => items.extend([Item::WrongMagic, frame(kind)]),
            Fault::Beyond => items.push(Item::Frame { sequence: count + 3, kind, seed: 5 }),
        }
        items.extend(delayed.take());
    }
    items.extend(delayed);
    items
}

/// Cuts a stream into parts of the given lengths, in turn; a length of 0 is a pause.
fn parts(stream: &[u8], lengths: &[usize]) -> Vec<Part> {
    let (mut parts, mut rest, mut turn) = (Vec::new(), stream, 0);
    while !rest.is_empty() {
        let length = lengths[turn % lengths.len()];
        turn += 1;
        if length == 0 {
            parts.push(Part::Nothing);
            continue;
        }
        let (part, tail) = rest.split_at(length.min(rest.len()));
        parts.push(Part::Bytes(part.to_vec()));
        rest = tail;
    }
    parts
}

fn tally(counters: &LinkCounters) -> Tally {
    Tally {
        frames: LinkCounters::read(&counters.frames),
        duplicates: LinkCounters::read(&counters.duplicate_frames),
        unplaced: LinkCounters::read(&counters.unplaced_frames),
        rejected: LinkCounters::read(&counters.rejected_frames),
        garbage: LinkCounters::read(&counters.garbage_messages),
    }
}

fn check(run: &Run, expected: &Expected) {
    assert_eq!(Some(run.reason), expected.reason);
    assert_eq!(run.frames.keys().collect::<Vec<_>>(), expected.frames.keys().collect::<Vec<_>>());
    for (frame, (bytes, record)) in &run.frames {
        assert_eq!(Some(bytes), expected.frames.get(frame), "pixels of frame {frame}");
        assert_eq!(record.counter, frame + 1);
        assert_eq!(record.time_ns, SECOND * 1_000_000_000 + (frame + 1) * 1000 + 7);
    }
    let gaps: BTreeMap<u64, GapReason> =
        run.gaps.iter().flat_map(|gap| (gap.first..gap.first + gap.count).map(move |f| (f, gap.reason))).collect();
    assert_eq!(gaps, expected.gaps);
    assert_eq!(run.frame_count, run.received_count + run.gaps.frame_count(), "every frame is accounted for");
}

fn compare(items: &[Item], cut: usize, lengths: &[usize], manner: Manner, read_bytes: usize) {
    let stream: Vec<u8> = items.iter().flat_map(Item::bytes).collect();
    let cut = cut.min(stream.len());
    let mut model = Model::default();
    let (mut at, mut is_lost) = (0, false);
    for item in items {
        let count = item.bytes().len().min(cut - at);
        if !model.take(item, count) {
            is_lost = true;
            break;
        }
        at += count;
    }
    if let Some(series) = model.current() {
        series.end(EndReason::Disconnected);
    }
    let counters = Arc::new(LinkCounters::default());
    let hour = Duration::from_secs(3600);
    let options =
        MerlinOptions { read_bytes, linger: hour, silence: hour, backoff: Duration::ZERO, message_bytes: 1 << 20 };
    let dial = ScriptDial::boxed([parts(&stream[..cut], lengths)]);
    let mut source = MerlinSource::over(dial, options, Arc::clone(&counters));
    let pool = Driver::pool(manner.block_bytes);
    let mut driver = Driver::new(&mut source, &pool, Arc::clone(&counters), manner);
    driver.manner.wait_count_max = usize::MAX;
    let runs = driver.play(usize::MAX);
    assert_eq!(runs.len(), model.series.len());
    for (run, expected) in runs.iter().zip(&model.series) {
        check(run, expected);
    }
    assert_eq!(tally(&counters), model.tally);
    let is_protocol = |error: &SourceError| matches!(error, SourceError::Protocol { .. });
    assert_eq!(
        driver.errors.iter().filter(|error| is_protocol(error)).count(),
        usize::from(is_lost) + model.refused_count
    );
    if !is_lost {
        assert_eq!(LinkCounters::read(&counters.bytes), cut as u64);
    }
    assert_eq!(LinkCounters::read(&counters.connected), 0);
}

fn kinds() -> impl Strategy<Value = (Kind, Kind)> {
    prop_oneof![
        3 => Just((Kind::U16, Kind::U32)),
        1 => Just((Kind::U32, Kind::RAW1)),
        2 => Just((Kind::RAW1, Kind::U16)),
        1 => Just((Kind::RAW12, Kind::RAW1)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any faults, cut anywhere, read in any pieces, with any blocks and pauses: pixels, gaps, ends and counters are
    /// those of the reference.
    #[test]
    fn faults_like_the_reference(
        (kind, other) in kinds(),
        faults in proptest::collection::vec(fault(), 1..40),
        second in proptest::collection::vec(prop_oneof![6 => fault(), 1 => Just(Fault::WrongMagic)], 0..12),
        is_armed in prop::bool::weighted(0.95),
        cut in prop_oneof![2 => Just(usize::MAX), 1 => 0_usize..30_000],
        lengths in proptest::collection::vec(prop_oneof![1 => 0_usize..3, 2 => 1_usize..900, 2 => 900_usize..20_000], 1..8),
        seed in any::<u64>(),
        block_bytes in prop_oneof![Just(2048_u64), Just(4096), Just(65_536)],
        read_bytes in prop_oneof![Just(1_usize), Just(1500), Just(1 << 20)],
    ) {
        prop_assume!(lengths.iter().any(|&length| length > 0));
        let mut items = script(kind, other, &faults, is_armed);
        if !second.is_empty() {
            items.extend(script(kind, other, &second, true));
        }
        compare(&items, cut, &lengths, Manner { block_bytes, seed, ..Manner::default() }, read_bytes);
    }
}

/// One byte per receive, through every state of the source.
#[test]
fn one_byte_at_a_time() {
    let faults = [Fault::None, Fault::Swap, Fault::Drop, Fault::Profile, Fault::OtherKind, Fault::Twice, Fault::None];
    for kind in [Kind::U16, Kind::RAW1] {
        let mut items = script(kind, Kind::U32, &faults, true);
        items.extend(script(kind, Kind::U32, &[Fault::None; 3], true));
        compare(&items, usize::MAX, &[1], Manner { block_bytes: 2048, ..Manner::default() }, 1 << 20);
    }
}

/// The stream ends after every single byte of a short acquisition.
#[test]
fn the_end_anywhere() {
    let items = script(Kind::U16, Kind::U32, &[Fault::None, Fault::Swap, Fault::None, Fault::None], true);
    let length: usize = items.iter().map(|item| item.bytes().len()).sum();
    for cut in 0..=length {
        compare(&items, cut, &[700], Manner { block_bytes: 4096, seed: cut as u64, ..Manner::default() }, 1 << 20);
    }
}
