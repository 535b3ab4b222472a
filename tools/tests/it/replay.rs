//! Recorded data sets played again: what is recorded from a replay is what was recorded at first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ronchi::receiver::{Options, Receiver};
use ronchi::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator};
use ronchi::simulate::synth::{Specimen, SynthPlan};
use ronchi::simulate::tiles::{TileFaults, TileSender, TileStream};
use ronchi_config::{LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::{NavShape, Region, ScanOrder, SigShape};
use ronchi_sinks::storage::{Condition, Depth, Reader, look_at, verify};

use super::system::{merlin, plan, record, simulation};

pub(super) fn replay(path: &Path, tile: Option<u32>) -> LinkPlan {
    LinkPlan { source: SourcePlan::Replay { path: path.to_owned(), interval: None, tile }, region: None }
}

/// All files of all results.
fn results(data_set: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![data_set.join("results")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let name = path.strip_prefix(data_set).expect("inside").display().to_string();
                    found.insert(name, std::fs::read(path).expect("file"));
                }
            }
        }
    }
    found
}

/// Frames, flags, numbers, times, gaps, geometry and results are the same in both; both are sound.
fn check_same(first: &Path, second: &Path) {
    let [a, b] = [first, second].map(|path| {
        assert_eq!(verify(path, Depth::Full, &mut |_, _| {}).expect("verification").flaws, []);
        Reader::open(path).expect("data set")
    });
    let (was, is) = (a.manifest(), b.manifest());
    assert_eq!((&was.scan, was.frame_count, &was.detector), (&is.scan, is.frame_count, &is.detector));
    assert_eq!((was.state, &was.vendor_header), (is.state, &is.vendor_header));
    assert_eq!(
        was.gaps.iter().map(|g| &g.ranges).collect::<Vec<_>>(),
        is.gaps.iter().map(|g| &g.ranges).collect::<Vec<_>>()
    );
    let count = was.frame_count.expect("finished");
    for tile in a.tiles() {
        let read = |reader: &Reader| {
            let mut bytes = Vec::new();
            reader.read_frames(tile.id, 0..count, &mut bytes).expect("frames");
            let flags = reader.flags(tile.id, 0..count).expect("flags");
            let (counters, times) = (reader.counters(tile.id, 0..count), reader.times_ns(tile.id, 0..count));
            (bytes, flags, counters.expect("counters"), times.expect("times"))
        };
        assert!(read(&a) == read(&b), "tile {}", tile.id);
    }
    let (before, after) = (results(first), results(second));
    assert!(before.len() > 10 && before == after, "{:?} {:?}", before.keys(), after.keys());
}

/// Frames of one, two and four bytes, some lost, from Merlin; the replayed data set has other chunks than the first.
#[test]
fn a_replay_is_recorded_as_the_first() {
    for pixels in [MerlinPixels::U8, MerlinPixels::U16, MerlinPixels::U32] {
        let directory = tempfile::tempdir().expect("folder");
        let specimen = SynthPlan {
            scan: NavShape { height: 12, width: 16 },
            detector: SigShape { height: 48, width: 48 },
            dose: 300.0,
            specimen: Specimen::Crystal,
            seed: 5,
        };
        let frames = FrameSource::Synthetic { plan: specimen, pixels, layout: ChipLayout::Single };
        let sending = MerlinSimulation { frames, ..simulation(&["lose=0.1", "swap=0.1"]) };
        let simulator = MerlinSimulator::start(sending).expect("simulator");
        let mut first_plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
        first_plan.scan.order = ScanOrder::Serpentine;
        let first = record(first_plan);
        assert!(first.frames.missing > 5, "{first}");
        let first = first.dataset.expect("recorded");
        let other = tempfile::tempdir().expect("folder");
        let mut again = plan(other.path(), vec![replay(&first, None)]);
        again.limits.block_bytes = 100_000;
        let again = record(again).dataset.expect("recorded");
        check_same(&first, &again);
    }
}

/// Two tiles of a grid, one that loses frames: one address replays both, each on a link of its own.
#[test]
fn tiles_are_replayed_side_by_side() {
    let directory = tempfile::tempdir().expect("folder");
    let detector = SigShape { height: 48, width: 48 };
    let halves = [Region { y: 0, x: 0, height: 48, width: 24 }, Region { y: 0, x: 24, height: 48, width: 24 }];
    let senders: Vec<TileSender> =
        halves.iter().map(|_| TileSender::bind("tcp://127.0.0.1:*").expect("bind")).collect();
    let links = senders.iter().zip(halves).map(|(sender, region)| {
        let source = SourcePlan::Tiles { endpoint: sender.endpoint().to_owned(), bind: false };
        LinkPlan { source, region: Some(region) }
    });
    let first_plan = Plan { detector: Some(detector), ..plan(directory.path(), links.collect()) };
    let first = std::thread::scope(|scope| {
        for ((tile, sender), region) in (0..).zip(senders).zip(halves) {
            scope.spawn(move || {
                let whole = TileStream::whole("tiles", 192, 48, 48);
                let stream = TileStream { region, scan: Some(NavShape { height: 12, width: 16 }), ..whole };
                let paint = |frame: u64, pixels: &mut [u8]| {
                    pixels.iter_mut().zip(0_u64..).for_each(|(pixel, i)| *pixel = (frame * 7 + i * (tile + 3)) as u8);
                };
                let faults =
                    if tile == 1 { TileFaults { lose: 0.1, ..TileFaults::default() } } else { TileFaults::default() };
                sender.run(&stream, &faults, paint, || false).expect("sent");
            });
        }
        record(first_plan)
    });
    assert!(first.frames.missing > 5, "{first}");
    let first = first.dataset.expect("recorded");
    let other = tempfile::tempdir().expect("folder");
    let again = record(plan(other.path(), vec![replay(&first, None)])).dataset.expect("recorded");
    check_same(&first, &again);
    // One tile alone is a detector of which a part is recorded.
    let alone = tempfile::tempdir().expect("folder");
    let alone = record(plan(alone.path(), vec![replay(&first, Some(1))]));
    assert_eq!(alone.frames.durable + alone.frames.missing, 192);
    assert!(alone.frames.missing > 5, "{alone}");
}

/// A data set is replayed while it is recorded: the replay ends when it does, with the same frames.
#[test]
fn a_growing_data_set_is_replayed() {
    let [directory, other] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    let sending = MerlinSimulation { rate_hz: 400.0, ..simulation(&["lose=0.05"]) };
    let simulator = MerlinSimulator::start(sending).expect("simulator");
    let start = |plan: Plan| {
        let options = Options { series_max: Some(1), exact_name: true, stop: Arc::new(AtomicBool::new(false)) };
        Receiver::start(plan, options).expect("receiver starts")
    };
    let recording = start(plan(directory.path(), vec![merlin(simulator.data_address)]));
    let path = directory.path().join("scan.ronchi");
    while !path.join("zarr.json").exists() {
        std::thread::sleep(Duration::from_millis(1)); // The series begins at its own pace.
    }
    assert_eq!(look_at(&path).expect("data set").1, Condition::Running, "it was over before it was replayed");
    let replaying = start(plan(other.path(), vec![replay(&path, None)]));
    let [first, again] = [recording, replaying].map(|receiver| {
        let summary = receiver.summaries().next().expect("a summary");
        receiver.join().expect("ends well");
        summary
    });
    assert_eq!((first.state, again.state), ("complete", "complete"), "{first} {again}");
    check_same(&first.dataset.expect("recorded"), &again.dataset.expect("recorded"));
}

/// What is no data set is refused when the receiver starts, not tried for ever.
#[test]
fn nothing_to_replay() {
    let directory = tempfile::tempdir().expect("folder");
    let options = Options { series_max: Some(1), exact_name: true, stop: Arc::new(AtomicBool::new(false)) };
    let refused =
        Receiver::start(plan(directory.path(), vec![replay(&directory.path().join("none.ronchi"), None)]), options);
    let error = refused.err().expect("refused");
    assert!(format!("{error:#}").contains("none.ronchi"), "{error:#}");
}
