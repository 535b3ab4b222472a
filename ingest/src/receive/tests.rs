//! The loop against scripted sources: every frame ends in a block or in a gap, and every slot comes home.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crossbeam_channel::{Receiver, bounded};
use proptest::prelude::*;
use ronchi_pipeline::{ByteOrder, Event, FrameFlag, Layout, PixelKind, PixelType, Sensor, SigShape};

use super::*;
use crate::filling::Place;
use crate::source::SourceError;

const FRAME_BYTES: u32 = 6;

/// A detector that will not do what is asked of it.
struct Unwilling;

impl Source for Unwilling {
    fn begin(&mut self, _: Instant) -> Result<Begin, SourceError> {
        Err(SourceError::Unfit { address: "detector".into(), reason: "it is taking images".into() })
    }

    fn fill(&mut self, _: &mut Filling<'_>, _: Instant) -> Result<Fill, SourceError> {
        unreachable!("no series begins")
    }
}

/// Delivers frames in a given order, one pause where the script says `None`.
struct Scripted {
    announced: Option<u64>,
    script: std::vec::IntoIter<Option<FrameIndex>>,
    pending: Option<FrameIndex>,
    began: bool,
}

impl Source for Scripted {
    fn begin(&mut self, _: Instant) -> Result<Begin, SourceError> {
        if std::mem::replace(&mut self.began, true) {
            return Ok(Begin::Waiting);
        }
        let detector = SigShape { height: 2, width: 3 };
        Ok(Begin::Series(Box::new(Announcement {
            series_id: "scripted".into(),
            frame_count: self.announced,
            scan: None,
            detector,
            region: detector.region(),
            pixel: PixelType::new(PixelKind::U8, ByteOrder::Little),
            encoding: ronchi_pipeline::Encoding::Raw,
            vendor_header: String::new(),
            sensor: Sensor::default(),
        })))
    }

    fn fill(&mut self, filling: &mut Filling<'_>, _: Instant) -> Result<Fill, SourceError> {
        loop {
            let frame = match self.pending.take() {
                Some(frame) => frame,
                None => match self.script.next() {
                    Some(Some(frame)) => frame,
                    Some(None) => return Ok(Fill::Paused),
                    None => return Ok(Fill::End(EndReason::Complete)),
                },
            };
            match filling.place(frame) {
                Place::Here(position) => {
                    filling.block.frame_mut(position).fill(frame as u8 + 1);
                    filling.commit(position, frame + 1, 0);
                    if filling.block.is_full() {
                        return Ok(Fill::Full);
                    }
                }
                Place::Elsewhere => {
                    self.pending = Some(frame);
                    return Ok(Fill::Elsewhere(frame));
                }
                place => filling.skip(place),
            }
        }
    }
}

#[derive(Default)]
struct Registrar(Mutex<Vec<Arc<End>>>);

impl Register for Registrar {
    fn begin(&self, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused> {
        let layout = Layout { frame_bytes: u64::from(FRAME_BYTES), frames_per_chunk: 4, chunks_per_segment: 3 };
        let (name, scan) = ("scripted".into(), None);
        Ok(Arc::new(Series {
            acquisition: [0; 16],
            name,
            link,
            link_count: 1,
            announced,
            scan,
            layout,
            is_recorded: true,
        }))
    }

    fn end(&self, _: u32, end: Arc<End>) {
        self.0.lock().expect("not poisoned").push(end);
    }
}

/// Runs a script through the loop; returns the frames that came out with their first byte, and the end.
fn run(
    announced: Option<u64>,
    script: Vec<Option<FrameIndex>>,
) -> (BTreeMap<FrameIndex, u8>, Arc<End>, Arc<LinkCounters>) {
    let pool = Pool::new(4, 4096 + 24).expect("pool");
    let (raw, events): (_, Receiver<Event>) = bounded(2);
    let counters = Arc::new(LinkCounters::default());
    let registrar = Registrar::default();
    let mut source = Scripted { announced, script: script.into_iter(), pending: None, began: false };
    let mut seen = BTreeMap::new();
    std::thread::scope(|scope| {
        let stop = AtomicBool::new(false);
        let fan_out = FanOut { raw: Some(raw), live: None, counters: Arc::clone(&counters) };
        let pool = pool.clone();
        let registrar = &registrar;
        let loop_ = scope.spawn(move || {
            let link = Link { id: 0, pool, fan_out, seal_after: Duration::ZERO, stop: &stop };
            receive(&mut source, &link, registrar, Some(1)).expect("no error")
        });
        for event in events {
            let Event::Block(block) = event else { continue };
            for (frame, record) in block.frames().zip(block.records()) {
                let at = (frame - block.frames().start) as usize * FRAME_BYTES as usize;
                if record.flag == FrameFlag::Ok {
                    assert_eq!(
                        seen.insert(frame, block.pixels().expect("pixels")[at]),
                        None,
                        "frame {frame} came twice"
                    );
                    assert_eq!(record.counter, frame + 1);
                }
            }
        }
        assert_eq!(loop_.join().expect("no panic"), 1);
    });
    assert_eq!(pool.free_count(), pool.slot_count());
    let end = registrar.0.lock().expect("not poisoned").pop().expect("one end");
    (seen, end, counters)
}

#[test]
fn in_order_frames_fill_blocks() {
    let (seen, end, counters) = run(Some(10), (0..10).map(Some).collect());
    assert_eq!(seen.len(), 10);
    assert_eq!((end.frame_count, end.received_count, end.gaps.frame_count()), (10, 10, 0));
    assert_eq!(LinkCounters::read(&counters.blocks), 3);
}

proptest! {
    /// Any order with losses, repeats, pauses and late frames: each distinct frame comes out once with its own bytes,
    /// every other is a gap, and repeats are counted.
    #[test]
    fn every_frame_is_received_or_a_gap(
        script in proptest::collection::vec(proptest::option::weighted(0.8, 0_u64..40), 0..120),
        open in any::<bool>(),
    ) {
        let announced = (!open).then_some(40);
        let (seen, end, counters) = run(announced, script.clone());
        let sent: std::collections::BTreeSet<u64> = script.iter().flatten().copied().collect();
        prop_assert_eq!(seen.keys().copied().collect::<Vec<_>>(), sent.iter().copied().collect::<Vec<_>>());
        prop_assert!(seen.iter().all(|(&frame, &byte)| byte == frame as u8 + 1));
        prop_assert_eq!(end.received_count, sent.len() as u64);
        let total = announced.unwrap_or(sent.last().map_or(0, |last| last + 1));
        prop_assert_eq!(end.frame_count, total);
        prop_assert!((0..total).all(|frame| end.gaps.contains(frame) != sent.contains(&frame)));
        let repeats = script.iter().flatten().count() - sent.len();
        prop_assert_eq!(LinkCounters::read(&counters.duplicate_frames), repeats as u64);
    }
}

/// Refuses the first series, stops the loop after the second.
struct Choosy<'a>(Registrar, Mutex<u32>, &'a AtomicBool);

impl Register for Choosy<'_> {
    fn begin(&self, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused> {
        let mut begun = self.1.lock().expect("not poisoned");
        *begun += 1;
        match *begun {
            1 => Err(Refused { reason: "too large".into(), is_taken: false }),
            _ => self.0.begin(link, announced),
        }
    }

    fn end(&self, link: u32, end: Arc<End>) {
        self.2.store(true, Ordering::Relaxed);
        self.0.end(link, end);
    }
}

/// One series after the other, one frame each.
struct Endless(Scripted);

impl Source for Endless {
    fn begin(&mut self, deadline: Instant) -> Result<Begin, SourceError> {
        let script = vec![Some(0)].into_iter();
        self.0 = Scripted { announced: Some(1), script, pending: None, began: false };
        self.0.begin(deadline)
    }

    fn fill(&mut self, filling: &mut Filling<'_>, deadline: Instant) -> Result<Fill, SourceError> {
        self.0.fill(filling, deadline)
    }
}

/// A receiver that runs all day skips a series it cannot take and receives the next; one that waits for a number of
/// series ends with the reason.
#[test]
fn a_refused_series_does_not_end_a_long_run() {
    for series_max in [None, Some(1)] {
        let stop = AtomicBool::new(false);
        let register = Choosy(Registrar::default(), Mutex::new(0), &stop);
        let fan_out = FanOut { raw: None, live: None, counters: Arc::default() };
        let pool = Pool::new(2, 4096 + 24).expect("pool");
        let link = Link { id: 0, pool, fan_out, seal_after: Duration::ZERO, stop: &stop };
        let mut source = Endless(Scripted { announced: None, script: vec![].into_iter(), pending: None, began: false });
        match (series_max, receive(&mut source, &link, &register, series_max)) {
            (None, Ok(count)) => assert_eq!((count, *register.1.lock().expect("not poisoned")), (1, 2)),
            (Some(_), Err(ReceiveError::Refused(refused))) => assert_eq!(refused.reason, "too large"),
            (_, result) => panic!("{result:?}"),
        }
    }
}

/// A detector that refuses is asked again all day, and ends a receiver that waits for a number of series.
#[test]
fn an_unwilling_detector() {
    let stop = AtomicBool::new(false);
    let fan_out = FanOut { raw: None, live: None, counters: Arc::default() };
    let pool = Pool::new(1, 4096 + 24).expect("pool");
    let link = Link { id: 0, pool, fan_out, seal_after: Duration::ZERO, stop: &stop };
    let error = receive(&mut Unwilling, &link, &Registrar::default(), Some(1)).expect_err("a refusal");
    assert_eq!(error.to_string(), "detector: it is taking images");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| receive(&mut Unwilling, &link, &Registrar::default(), None));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(running.join().expect("no panic").expect("no error"), 0);
    });
}

/// Cuts every series after its first block.
#[derive(Default)]
struct Cutting(Registrar);

impl Register for Cutting {
    fn begin(&self, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused> {
        self.0.begin(link, announced)
    }

    fn end(&self, link: u32, end: Arc<End>) {
        self.0.end(link, end);
    }

    fn is_cut(&self, _: &Series) -> bool {
        true
    }
}

/// A series that is cut ends with what has come, its rest is a gap, and the loop goes on.
#[test]
fn a_series_can_be_cut() {
    let pool = Pool::new(4, 4096 + 24).expect("pool");
    let (registrar, stop) = (Cutting::default(), AtomicBool::new(false));
    let fan_out = FanOut { raw: None, live: None, counters: Arc::default() };
    let link = Link { id: 0, pool, fan_out, seal_after: Duration::ZERO, stop: &stop };
    let script: Vec<Option<FrameIndex>> = (0..10).map(Some).collect();
    let mut source = Scripted { announced: Some(10), script: script.into_iter(), pending: None, began: false };
    assert_eq!(receive(&mut source, &link, &registrar, Some(1)).expect("no error"), 1);
    let end = registrar.0.0.lock().expect("not poisoned").pop().expect("one end");
    assert_eq!((end.reason, end.received_count, end.gaps.frame_count()), (EndReason::Interrupted, 4, 6));
}
