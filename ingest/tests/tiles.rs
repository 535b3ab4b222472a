//! Tile streams over a real socket on this machine: whatever is sent, frames land once and everything is counted.

mod tiles_driver;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use ronchi_ingest::Begin;
use ronchi_ingest::tiles::{Header, TileSettings, TileSource};
use ronchi_pipeline::{Encoding, EndReason, Gap, GapReason, LinkCounters, PixelKind, PixelType, Region, SigShape};
use tiles_driver::*;

const LONG: Duration = Duration::from_secs(20);

/// One message, as a careless sender might send it.
#[derive(Debug, Clone)]
enum Op {
    Tile(u64),
    WrongRegion(u64),
    WrongPixel(u64),
    WrongSize(u64, usize),
    NoPayload(u64),
    Encoded(u64),
    Stale(u64),
    Unknown(u64),
    Garbage(Vec<Vec<u8>>),
    BeginAgain,
    OldEnd,
}

fn op() -> impl Strategy<Value = Op> {
    let frame = || 0_u64..150;
    let size = prop_oneof![Just(0), Just(FRAME_BYTES - 1), Just(FRAME_BYTES + 1), Just(500)];
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5);
    prop_oneof![
        12 => frame().prop_map(Op::Tile),
        1 => frame().prop_map(Op::WrongRegion),
        1 => frame().prop_map(Op::WrongPixel),
        1 => (frame(), size).prop_map(|(frame, size)| Op::WrongSize(frame, size)),
        1 => frame().prop_map(Op::NoPayload),
        1 => frame().prop_map(Op::Encoded),
        1 => frame().prop_map(Op::Stale),
        1 => frame().prop_map(Op::Unknown),
        1 => parts.prop_map(Op::Garbage),
        1 => Just(Op::BeginAgain),
        1 => Just(Op::OldEnd),
    ]
}

/// The slow reference: sets instead of ranges, one rule per line.
#[derive(Debug, Default)]
struct Model {
    announced: Option<u64>,
    next: u64,
    seen: BTreeSet<u64>,
    reasons: BTreeMap<u64, GapReason>,
    rejected: u64,
    duplicates: u64,
    unplaced: u64,
    garbage: u64,
}

impl Model {
    fn is_beyond(&self, frame: u64) -> bool {
        self.announced.is_some_and(|count| frame >= count)
    }

    fn advance(&mut self, frame: u64) {
        for missing in self.next..frame {
            self.reasons.entry(missing).or_insert(GapReason::NeverArrived);
        }
        self.next = self.next.max(frame + 1);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Tile(frame) if self.seen.contains(&frame) => self.duplicates += 1,
            Op::Tile(frame) if self.is_beyond(frame) || frame + 64 < self.next => self.unplaced += 1,
            Op::Tile(frame) => {
                self.advance(frame);
                self.reasons.remove(&frame);
                self.seen.insert(frame);
            }
            Op::WrongRegion(frame) | Op::WrongPixel(frame) | Op::WrongSize(frame, _) | Op::NoPayload(frame) => {
                self.rejected += 1;
                // A broken frame far ahead is not believed to carry its number.
                if (self.next..self.next + 64).contains(&frame) && !self.is_beyond(frame) {
                    self.advance(frame);
                    self.reasons.insert(frame, GapReason::Rejected);
                }
            }
            Op::Stale(_) => self.unplaced += 1,
            Op::Encoded(_) | Op::Unknown(_) | Op::Garbage(_) => self.garbage += 1,
            Op::BeginAgain | Op::OldEnd => {}
        }
    }

    fn is_complete(&self) -> bool {
        self.announced == Some(self.seen.len() as u64)
    }

    fn gaps(&mut self) -> Vec<(u64, GapReason)> {
        self.advance(self.announced.unwrap_or(self.next));
        self.reasons.iter().map(|(&frame, &reason)| (frame, reason)).filter(|(f, _)| !self.seen.contains(f)).collect()
    }
}

struct Rig {
    driver: Driver,
    push: zmq::Socket,
    run: u64,
}

impl Rig {
    fn send(&self, op: &Op, announced: Option<u64>, as_cbor: bool) {
        let (now, old) = (format!("run {}", self.run), format!("run {}", self.run - 1));
        let blob = |frame| Some(pixels(frame));
        let (header, blob) = match *op {
            Op::Tile(frame) => (Header::Tile(tile(&now, frame)), blob(frame)),
            Op::WrongRegion(frame) => {
                let mut header = tile(&now, frame);
                header.region = Region { y: 0, ..REGION };
                (Header::Tile(header), blob(frame))
            }
            Op::WrongPixel(frame) => {
                let mut header = tile(&now, frame);
                header.pixel = PixelType::new(PixelKind::U16, ronchi_pipeline::ByteOrder::Little);
                (Header::Tile(header), blob(frame))
            }
            Op::WrongSize(frame, size) => (Header::Tile(tile(&now, frame)), Some(vec![1; size])),
            Op::NoPayload(frame) => (Header::Tile(tile(&now, frame)), None),
            Op::Stale(frame) => (Header::Tile(tile(&old, frame)), blob(frame)),
            Op::Unknown(frame) => (Header::Tile(tile("nobody", frame)), blob(frame)),
            Op::BeginAgain => (begin(&now, announced), None),
            Op::OldEnd => (end(&old, Some(5)), None),
            Op::Encoded(frame) => {
                let header = String::from_utf8(Header::Tile(tile(&now, frame)).to_json()).expect("text");
                let header = header.replace("\"raw\"", "\"lz4\"");
                return self.push.send_multipart([header.into_bytes(), pixels(frame)], 0).expect("sent");
            }
            Op::Garbage(ref parts) => return self.push.send_multipart(parts, 0).expect("sent"),
        };
        let header = if as_cbor { header.to_cbor() } else { header.to_json() };
        self.push.send_multipart([Some(header), blob].into_iter().flatten(), 0).expect("sent");
    }

    /// Sends one series made of `ops` and compares what came out with the model.
    fn check(&mut self, ops: &[Op], announced: Option<u64>) -> Result<(), TestCaseError> {
        self.run += 1;
        let mut model = Model { announced, ..Model::default() };
        self.send(&Op::BeginAgain, announced, false);
        for (i, op) in ops.iter().enumerate() {
            self.send(op, announced, i % 2 == 0);
            model.apply(op);
            if model.is_complete() {
                break;
            }
        }
        if !model.is_complete() {
            let sent = Some(model.seen.len() as u64);
            send(&self.push, &end(&format!("run {}", self.run), sent), None);
        }
        let got = self.driver.series().expect("a series");
        prop_assert_eq!(&got.announced.series_id, &format!("run {}", self.run));
        prop_assert_eq!(got.frames.keys().copied().collect::<BTreeSet<_>>(), model.seen.clone());
        prop_assert!(got.frames.iter().all(|(&frame, bytes)| *bytes == pixels(frame)));
        let is_whole = model.is_complete() || announced.is_none();
        prop_assert_eq!(got.reason, if is_whole { EndReason::Complete } else { EndReason::Stopped });
        let gaps = got.gaps.iter().flat_map(|g| (g.first..g.first + g.count).map(move |frame| (frame, g.reason)));
        prop_assert_eq!(gaps.collect::<Vec<_>>(), model.gaps());
        prop_assert_eq!(got.frame_count, got.received_count + got.gaps.frame_count());
        prop_assert_eq!(got.count(|c| &c.frames), model.seen.len() as u64);
        prop_assert_eq!(got.count(|c| &c.rejected_frames), model.rejected);
        prop_assert_eq!(got.count(|c| &c.duplicate_frames), model.duplicates);
        prop_assert_eq!(got.count(|c| &c.unplaced_frames), model.unplaced);
        prop_assert_eq!(got.count(|c| &c.garbage_messages), model.garbage);
        Ok(())
    }
}

/// Any sequence of good, lost, repeated, swapped, late, broken and foreign messages gives what the reference gives.
/// Method: one socket and one source for all sequences, so that nothing may leak from one series into the next.
#[test]
fn any_sequence() {
    let (driver, address) = Driver::new(settings(LONG));
    let push = push(&zmq::Context::new(), &address);
    let rig = RefCell::new(Rig { driver, push, run: 0 });
    rig.borrow_mut().check(&[Op::Tile(0)], Some(1)).expect("the first series");
    let sequence = (prop::collection::vec(op(), 0..80), prop::option::of(1_u64..120));
    TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() })
        .run(&sequence, |(ops, announced)| rig.borrow_mut().check(&ops, announced))
        .unwrap_or_else(|e| panic!("{e}"));
}

/// A new `begin` ends the running series, and its own frames are not lost; a repeated `end` means nothing.
#[test]
fn a_series_follows_a_series() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let push = push(&zmq::Context::new(), &address);
    send(&push, &begin("a", Some(9)), None);
    send_tile(&push, "a", 0);
    send(&push, &begin("b", Some(2)), None);
    send_tile(&push, "a", 1);
    send_tile(&push, "b", 0);
    send_tile(&push, "b", 1);
    send(&push, &end("b", Some(2)), None);
    send(&push, &end("b", Some(2)), None);
    let mut opens = tile("c", 3);
    opens.detector = Some(DETECTOR);
    send(&push, &Header::Tile(opens), Some(&pixels(3)));
    send(&push, &end("c", Some(1)), None);
    let a = driver.series().expect("a");
    assert_eq!((a.reason, a.frames.len(), a.frame_count), (EndReason::Stopped, 1, 9));
    assert_eq!(a.announced.vendor_header, "kept");
    let b = driver.series().expect("b");
    assert_eq!((b.reason, b.frames.len()), (EndReason::Complete, 2));
    assert_eq!((b.count(|c| &c.unplaced_frames), b.count(|c| &c.garbage_messages)), (1, 0));
    let c = driver.series().expect("c");
    assert_eq!((c.reason, c.received_count, c.frame_count), (EndReason::Complete, 1, 4));
    assert_eq!(c.gaps.iter().next(), Some(Gap { first: 0, count: 3, reason: GapReason::NeverArrived }));
    assert_eq!((c.count(|c| &c.garbage_messages), c.announced.series_id.as_str()), (0, "c"));
}

/// The frames that an open-ended run lost at its end are gaps when the sender says how many it sent; a number beyond
/// belief, or one that is too small, changes nothing.
#[test]
fn an_end_tells_what_is_missing() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let push = push(&zmq::Context::new(), &address);
    for (series, sent, expected) in [("short", 5, 5), ("wild", 1 << 39, 2), ("small", 1, 2)] {
        send(&push, &begin(series, None), None);
        send_tile(&push, series, 0);
        send_tile(&push, series, 1);
        send(&push, &end(series, Some(sent)), None);
        let got = driver.series().expect("a series");
        assert_eq!((got.frame_count, got.received_count), (expected, 2), "{series}");
        assert_eq!(got.gaps.frame_count(), expected - 2, "{series}");
    }
}

/// The same series id with another shape is another series: shapes never mix.
#[test]
fn a_changed_shape_is_another_series() {
    let (mut driver, address) = Driver::new(TileSettings { region: None, detector: None, ..settings(LONG) });
    let push = push(&zmq::Context::new(), &address);
    send(&push, &begin("a", None), None);
    send_tile(&push, "a", 0);
    let Header::Begin(mut wide) = begin("a", None) else { panic!("a begin") };
    wide.detector = SigShape { height: 8, width: 16 };
    wide.region = Region { y: 0, x: 0, height: 8, width: 16 };
    send(&push, &Header::Begin(wide), None);
    send_tile(&push, "a", 1);
    send(&push, &end("a", Some(0)), None);
    let first = driver.series().expect("the first");
    assert_eq!((first.reason, first.frames.len()), (EndReason::Stopped, 1));
    let second = driver.series().expect("the second");
    assert_eq!((second.count(|c| &c.rejected_frames), second.frames.len()), (1, 0));
    assert_eq!(second.announced.region.width, 16);
}

/// A compressed tile of a series that has begun so.
fn send_compressed(push: &zmq::Socket, series: &str, frame: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = compressed(frame);
    change(&mut payload);
    let header = ronchi_ingest::tiles::TileHeader { encoding: Encoding::Bslz4, ..tile(series, frame) };
    send(push, &Header::Tile(header), Some(&payload));
}

fn begin_compressed(push: &zmq::Socket, series: &str, frame_count: Option<u64>) {
    let Header::Begin(mut header) = begin(series, frame_count) else { panic!("a begin") };
    header.encoding = Encoding::Bslz4;
    send(push, &Header::Begin(header), None);
}

/// Compressed frames arrive as they were sent; those whose lengths do not add up, that are too long, or in another form are
/// rejected; the same `begin` in another form is another series.
#[test]
fn compressed_frames() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let push = push(&zmq::Context::new(), &address);
    begin_compressed(&push, "a", Some(30));
    begin_compressed(&push, "a", Some(30));
    for frame in 0..20 {
        send_compressed(&push, "a", frame, |_| {});
    }
    send_tile(&push, "a", 20);
    send_compressed(&push, "a", 21, |payload| payload.truncate(30));
    send_compressed(&push, "a", 22, |payload| payload[7] ^= 1);
    send_compressed(&push, "a", 23, |payload| payload.resize(FRAME_BYTES + FRAME_BYTES / 32 + 65, 0));
    send_compressed(&push, "a", 24, Vec::clear);
    send_compressed(&push, "a", 25, |payload| payload[16..].fill(0xff)); // Only decoding tells.
    send_compressed(&push, "a", 26, |_| {});
    send(&push, &begin("a", Some(30)), None);
    send_tile(&push, "a", 0);
    send(&push, &end("a", Some(1)), None);
    let a = driver.series().expect("a");
    assert_eq!((a.announced.encoding, a.reason), (Encoding::Bslz4, EndReason::Stopped));
    assert_eq!(a.frames.keys().copied().collect::<Vec<_>>(), (0..20).chain([25, 26]).collect::<Vec<_>>());
    assert!(a.frames.iter().filter(|(frame, _)| **frame != 25).all(|(&frame, bytes)| *bytes == compressed(frame)));
    assert_eq!((a.count(|c| &c.rejected_frames), a.count(|c| &c.garbage_messages)), (5, 0));
    assert_eq!(a.gaps.iter().next(), Some(Gap { first: 20, count: 5, reason: GapReason::Rejected }));
    let again = driver.series().expect("the second");
    assert_eq!((again.announced.encoding, again.frames.len()), (Encoding::Raw, 1));
}

/// A source that decodes gives pixels, announces them as such, and rejects what does not decode. A tile alone opens a
/// compressed series as well.
#[test]
fn compressed_frames_become_pixels() {
    let (mut driver, address) = Driver::new(TileSettings { is_decoding: true, ..settings(LONG) });
    let push = push(&zmq::Context::new(), &address);
    let mut opens = tile("a", 0);
    (opens.detector, opens.encoding) = (Some(DETECTOR), Encoding::Bslz4);
    send(&push, &Header::Tile(opens), Some(&compressed(0)));
    for frame in 1..40 {
        send_compressed(&push, "a", frame, |payload| {
            if frame == 7 {
                payload[16..].fill(0xff);
            }
        });
    }
    send(&push, &end("a", Some(39)), None);
    let a = driver.series().expect("a");
    assert_eq!((a.announced.encoding, a.reason, a.received_count), (Encoding::Raw, EndReason::Complete, 39));
    assert!(a.frames.iter().all(|(&frame, bytes)| *bytes == pixels(frame)));
    assert_eq!(a.gaps.iter().collect::<Vec<_>>(), [Gap { first: 7, count: 1, reason: GapReason::Rejected }]);
    assert_eq!(a.count(|c| &c.rejected_frames), 1);
}

/// What does not fit the configuration never becomes a series.
#[test]
fn foreign_regions_are_refused() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let push = push(&zmq::Context::new(), &address);
    let Header::Begin(mut other) = begin("a", None) else { panic!("a begin") };
    other.region = Region { y: 0, ..REGION };
    send(&push, &Header::Begin(other), None);
    let begun = driver.source.begin(Instant::now() + Duration::from_millis(300)).expect("a working socket");
    assert_eq!(begun, Begin::Waiting);
    send(&push, &begin("b", Some(1)), None);
    send_tile(&push, "b", 0);
    let b = driver.series().expect("b");
    assert_eq!((b.reason, b.count(|c| &c.garbage_messages)), (EndReason::Complete, 1));
}

/// Tiles of a second sender may come after the first sender's `end`.
#[test]
fn late_tiles_of_another_sender() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let context = zmq::Context::new();
    let (one, two) = (push(&context, &address), push(&context, &address));
    send(&one, &begin("a", Some(7)), None);
    send_tile(&one, "a", 0);
    send_tile(&one, "a", 6);
    send(&one, &end("a", Some(7)), None);
    let late = std::thread::spawn(move || {
        for frame in 1..6 {
            std::thread::sleep(Duration::from_millis(80)); // In all longer than the receiver waits after one frame.
            send_tile(&two, "a", frame);
        }
    });
    let a = driver.series().expect("a");
    late.join().expect("sent");
    assert_eq!((a.reason, a.frames.len()), (EndReason::Complete, 7));
}

/// Without `end`, silence ends a series: as stopped while the sender is connected, as disconnected when it is gone.
#[test]
fn silence_ends_a_series() {
    let (mut driver, address) = Driver::new(settings(Duration::from_millis(200)));
    let context = zmq::Context::new();
    let sender = push(&context, &address);
    send(&sender, &begin("a", Some(4)), None);
    send_tile(&sender, "a", 0);
    let a = driver.series().expect("a");
    assert_eq!((a.reason, a.frames.len(), a.count(|c| &c.connected)), (EndReason::Stopped, 1, 1));
    send(&sender, &begin("b", None), None);
    send_tile(&sender, "b", 0);
    drop(sender);
    let b = driver.series().expect("b");
    assert_eq!((b.reason, b.frames.len(), b.count(|c| &c.connected)), (EndReason::Disconnected, 1, 0));
    let sender = push(&context, &address);
    send(&sender, &begin("c", None), None);
    drop(sender); // Before its first frame: the series must not block the port for ever.
    assert_eq!(driver.series().expect("c").reason, EndReason::Disconnected);
}

/// A payload above the limit costs the sender its connection, not the receiver its memory; the next one is served.
#[test]
fn oversized_messages() {
    let (mut driver, address) = Driver::new(settings(LONG));
    let context = zmq::Context::new();
    let bad = push(&context, &address);
    send(&bad, &begin("a", Some(2)), None);
    send(&bad, &Header::Tile(tile("a", 0)), Some(&vec![0; (1 << 20) + 1]));
    let good = push(&context, &address);
    std::thread::sleep(Duration::from_millis(100));
    send(&good, &begin("b", Some(1)), None);
    send_tile(&good, "b", 0);
    let first = driver.series().expect("a series");
    let last = if first.announced.series_id == "a" { driver.series().expect("b") } else { first };
    assert_eq!((last.announced.series_id.as_str(), last.reason), ("b", EndReason::Complete));
    assert_eq!(LinkCounters::read(&last.counters.frames), 1);
}

/// The sender of `docs/tile-stream.md` is received. Needs a Python with pyzmq and numpy: `RONCHI_PYTHON` or `python3`.
#[test]
fn documented_sender() {
    let python = std::env::var("RONCHI_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_modules = std::process::Command::new(&python).args(["-c", "import zmq, numpy"]).output();
    if !has_modules.is_ok_and(|output| output.status.success()) {
        return println!("skipped: {python} has no zmq or numpy");
    }
    let region = Region { y: 0, x: 0, height: 256, width: 256 };
    let (region, detector) = (Some(region), Some(SigShape { height: 256, width: 256 }));
    let mut source = TileSource::new(TileSettings { region, detector, message_bytes: 1 << 20, ..settings(LONG) });
    let address = source.open().expect("a free port");
    let page = include_str!("../../docs/tile-stream.md");
    let program = page.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```")).expect("a program").0;
    let program = program.replace("tcp://127.0.0.1:7001", &address).replace("[64, 64], [0, 0", "[3, 2], [0, 0");
    let sender = std::process::Command::new(&python).args(["-c", &program]).spawn().expect("started");
    let (mut driver, want) = (Driver::with(source, 1 << 20), 6);
    driver.checks_records = false;
    let got = driver.series().expect("a series");
    assert!(sender.wait_with_output().expect("ended").status.success());
    assert_eq!((got.reason, got.received_count, got.frame_count), (EndReason::Complete, want, want));
    assert_eq!(got.announced.scan.map(|scan| (scan.height, scan.width)), Some((3, 2)));
    assert_eq!(got.count(|c| &c.garbage_messages) + got.count(|c| &c.rejected_frames), 0);
}
