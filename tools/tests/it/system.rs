//! The whole receiver, wired as `ronchi` wires it, between a simulated detector and a data set on disk.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ronchi::receiver::{Options, Receiver};
use ronchi::simulate::fault::Fault;
use ronchi::simulate::merlin::{
    ChipLayout, FAULTS, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, TriggerMode,
};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi::simulate::tiles::{TileFaults, TileSender, TileStream};
use ronchi::summary::Summary;
use ronchi_config::{
    DataPlan, Limits, LinkPlan, LivePlan, MerlinControlPlan, MerlinTrigger, Plan, ScanPlan, SourcePlan,
};
use ronchi_ingest::merlin::mpx_prefix;
use ronchi_pipeline::reduce::{Conditions, Correction, Flaws, Reduction, Roi, VirtualDetector};
use ronchi_pipeline::{LinkCounters, NavShape, Region, SigShape};
use ronchi_sinks::storage::{Depth, Reader, StorageError, verify};

const SCAN: NavShape = NavShape { height: 12, width: 16 };
const DETECTOR: SigShape = SigShape { height: 48, width: 48 };

fn specimen() -> SynthPlan {
    SynthPlan { scan: SCAN, detector: DETECTOR, dose: 300.0, specimen: Specimen::Crystal, seed: 5 }
}

pub(super) fn simulation(faults: &[&str]) -> MerlinSimulation {
    let source = FrameSource::Synthetic { plan: specimen(), pixels: MerlinPixels::U16, layout: ChipLayout::Single };
    let faults: Vec<Fault> = faults.iter().map(|text| Fault::parse(text, &FAULTS).expect("fault")).collect();
    MerlinSimulation { trigger: TriggerMode::Now, runs: 1, faults, seed: 3, ..MerlinSimulation::new(source) }
}

/// Frame `frame` as counts, computed from the specimen and not through any wire format.
fn counts(synthesis: &Synthesis, frame: u64) -> Vec<u32> {
    let mut counts = vec![0; DETECTOR.pixel_count() as usize];
    synthesis.draw(frame, &mut counts);
    counts
}

pub(super) fn plan(directory: &Path, links: Vec<LinkPlan>) -> Plan {
    let ring = VirtualDetector::Ring { cy: 24.0, cx: 23.5, inner: 9.0, outer: 20.0 };
    let disk = VirtualDetector::Disk { cy: 24.0, cx: 24.0, radius: 8.0 };
    Plan {
        data: DataPlan { directory: directory.to_owned(), volumes: Vec::new(), name: "scan".into(), record: true },
        links,
        detector: None,
        scan: ScanPlan::default(),
        conditions: Conditions::default(),
        reductions: vec![
            Reduction::virtual_detector("adf", ring),
            Reduction::virtual_detector("bf", disk),
            Reduction::total(),
            Reduction::centre_of_mass(),
            Reduction::sum(),
            Reduction::max(),
        ],
        live: LivePlan::default(),
        limits: Limits { block_bytes: 64 << 10, reducer_count: 2, reserve_bytes: Some(0), ..Limits::default() },
    }
}

pub(super) fn merlin(address: std::net::SocketAddr) -> LinkPlan {
    let (host, data_port) = (address.ip().to_string(), address.port());
    LinkPlan { source: SourcePlan::Merlin { host, data_port, control: None }, region: None }
}

fn options(series_max: u64) -> Options {
    Options { series_max: Some(series_max), exact_name: true, stop: Arc::new(AtomicBool::new(false)) }
}

/// Runs a receiver to its end and returns its one summary.
pub(super) fn record(plan: Plan) -> Summary {
    let receiver = Receiver::start(plan, options(1)).expect("receiver starts");
    let summaries: Vec<Summary> = receiver.summaries().collect();
    receiver.join().expect("receiver ends well");
    let [summary] = <[Summary; 1]>::try_from(summaries).expect("one summary");
    summary
}

/// A stored result as unsigned integers.
fn stored(data_set: &Path, name: &str) -> Vec<u64> {
    let chunk = ["c/0/0", "c/0"].map(|chunk| data_set.join("results").join(name).join(chunk));
    let bytes = chunk.iter().find_map(|path| std::fs::read(path).ok()).expect("a stored result");
    match name {
        "valid" => bytes.iter().map(|&byte| u64::from(byte)).collect(),
        _ => bytes.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect(),
    }
}

/// What the stored results must be, from whole frames by nested loops; frames of `missing` count as not measured.
fn check_results(data_set: &Path, missing: &[u64]) {
    let synthesis = Synthesis::new(specimen()).expect("specimen");
    let frames: Vec<Option<Vec<u32>>> =
        (0..SCAN.position_count()).map(|f| (!missing.contains(&f)).then(|| counts(&synthesis, f))).collect();
    let sum_where = |inside: &dyn Fn(f64) -> bool, cy: f64, cx: f64| -> Vec<u64> {
        let of = |frame: &Option<Vec<u32>>| {
            let Some(frame) = frame else { return 0 };
            let pixels = frame.iter().enumerate();
            let wanted = pixels.filter(|(at, _)| {
                let (y, x) = ((at / 48) as f64, (at % 48) as f64);
                inside((y - cy).powi(2) + (x - cx).powi(2))
            });
            wanted.map(|(_, &count)| u64::from(count)).sum()
        };
        frames.iter().map(of).collect()
    };
    assert_eq!(stored(data_set, "adf"), sum_where(&|r2| r2 > 81.0 && r2 <= 400.0, 24.0, 23.5));
    assert_eq!(stored(data_set, "bf"), sum_where(&|r2| r2 <= 64.0, 24.0, 24.0));
    assert_eq!(stored(data_set, "total"), sum_where(&|_| true, 0.0, 0.0));
    let valid: Vec<u64> = frames.iter().map(|frame| u64::from(frame.is_some())).collect();
    assert_eq!(stored(data_set, "valid"), valid);
    let sum: Vec<u64> = (0..48 * 48).map(|at| frames.iter().flatten().map(|f| u64::from(f[at])).sum()).collect();
    assert_eq!(stored(data_set, "sum"), sum);
}

/// Every present frame on disk equals the specimen, big-endian as Merlin sends it; every other is zero and flagged.
fn check_frames(data_set: &Path, missing: &[u64]) {
    let synthesis = Synthesis::new(specimen()).expect("specimen");
    let reader = Reader::open(data_set).expect("data set opens");
    assert_eq!(verify(data_set, Depth::Full, &mut |_, _| {}).expect("verification").flaws, []);
    let flags = reader.flags(0, 0..SCAN.position_count()).expect("flags");
    let mut bytes = Vec::new();
    for frame in 0..SCAN.position_count() {
        reader.read_frames(0, frame..frame + 1, &mut bytes).expect("frame");
        let pixels: Vec<u32> = bytes.as_chunks().0.iter().map(|&b| u32::from(u16::from_be_bytes(b))).collect();
        let is_missing = missing.contains(&frame);
        let expected = if is_missing { vec![0; pixels.len()] } else { counts(&synthesis, frame) };
        assert_eq!(pixels, expected, "frame {frame}");
        assert_eq!(flags[frame as usize] != 0, is_missing, "flag of frame {frame}");
    }
}

#[test]
fn a_series_is_recorded_and_reduced_exactly() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let summary = record(plan(directory.path(), vec![merlin(simulator.data_address)]));
    assert!(summary.is_whole(), "{summary}");
    assert_eq!((summary.frames.announced, summary.frames.durable), (192, 192));
    let data_set = summary.dataset.expect("recorded");
    check_frames(&data_set, &[]);
    check_results(&data_set, &[]);
}

/// Lost, repeated and swapped frames: gaps are exactly what the simulator lost, the rest is right.
#[test]
fn faults_become_gaps_and_nothing_else() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&["lose=0.1", "repeat=0.1", "swap=0.1"])).expect("simulator");
    let summary = record(plan(directory.path(), vec![merlin(simulator.data_address)]));
    let faults = simulator.wait().faults;
    assert!(faults["lose"] > 5 && faults["repeat"] > 5 && faults["swap"] > 5, "{faults:?}");
    assert_eq!(summary.state, "complete");
    assert_eq!((summary.frames.missing, summary.frames.duplicate), (faults["lose"], faults["repeat"]));
    assert_eq!(summary.frames.durable + summary.frames.missing, 192);
    let missing: Vec<u64> = summary.gaps.iter().flat_map(|gap| gap.first..gap.first + gap.count).collect();
    let data_set = summary.dataset.expect("recorded");
    check_frames(&data_set, &missing);
    check_results(&data_set, &missing);
}

/// A live queue of one block and slow reducers skip; the finished results are complete all the same.
#[test]
fn what_the_live_queue_skips_is_reduced_from_disk() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let mut plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    plan.limits = Limits { live_queue_blocks: 1, reducer_count: 1, block_bytes: 4608, ..plan.limits };
    let polygon = (0..2000).map(|i| f64::from(i) * std::f64::consts::TAU / 2000.0);
    let vertices = polygon.map(|a| [24.0 + 20.0 * a.sin(), 24.0 + 20.0 * a.cos()]).collect();
    let slow = VirtualDetector::Polygon { vertices };
    plan.reductions.extend((0..200).map(|i| Reduction::virtual_detector(&format!("p{i}"), slow.clone())));
    let summary = record(plan);
    assert!(summary.is_whole(), "{summary}");
    assert!(summary.frames.live_skipped > 0, "nothing was skipped: the test shows nothing");
    assert_eq!(summary.frames.backfilled, summary.frames.live_skipped);
    check_results(&summary.dataset.expect("recorded"), &[]);
}

/// Two frames per position, dark counts and chosen positions: results on disk are those of frames corrected one by one, also
/// of those that the live queue skipped; positions with two frames have no 4-D view.
#[test]
fn repeats_and_conditions_reach_the_disk() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let mut plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    let shape = NavShape { height: 12, width: 8 };
    plan.scan = ScanPlan { shape: Some(shape), frames_per_position: 2, ..ScanPlan::default() };
    let is_chosen = |position: usize| !position.is_multiple_of(3);
    let flaws = Flaws { dark: Some(vec![0.25; 48 * 48]), ..Flaws::default() };
    plan.conditions = Conditions {
        correction: Some(Arc::new(Correction::new(DETECTOR, flaws).expect("valid"))),
        roi: Roi::new(shape, (0..96).map(is_chosen).collect()).map(Arc::new),
        ..Conditions::default()
    };
    plan.limits = Limits { live_queue_blocks: 1, reducer_count: 1, block_bytes: 4608, ..plan.limits };
    let summary = record(plan);
    assert!(summary.is_whole(), "{summary}");
    let data_set = summary.dataset.expect("recorded");
    check_frames(&data_set, &[]);
    let synthesis = Synthesis::new(specimen()).expect("specimen");
    let total = |frame| counts(&synthesis, frame).into_iter().map(f64::from).sum::<f64>();
    let got: Vec<f64> = stored(&data_set, "total").into_iter().map(f64::from_bits).collect();
    for (position, got) in got.iter().enumerate() {
        let first = 2 * position as u64;
        let want = total(first) + total(first + 1) - 2.0 * 0.25 * 48.0 * 48.0;
        assert!(if is_chosen(position) { *got == want } else { got.is_nan() }, "{position}: {got} is not {want}");
    }
    assert_eq!(stored(&data_set, "valid"), (0..96).map(|position| u64::from(is_chosen(position))).collect::<Vec<_>>());
    let scan = Reader::open(&data_set).expect("data set opens").manifest().scan.expect("a scan");
    assert_eq!((scan.shape, scan.frames_per_position, scan.passes), ([12, 8], 2, 1));
    assert!(data_set.join("scan.nxs").exists());
    assert!(!data_set.join("scan.emd").exists() && !data_set.join("frames4d").exists());
}

/// Without recording the live queue waits: nothing is skipped, and no data set appears.
#[test]
fn a_preview_is_complete_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let mut plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    plan.data.record = false;
    plan.limits = Limits { live_queue_blocks: 1, reducer_count: 1, block_bytes: 4608, ..plan.limits };
    let summary = record(plan);
    assert!(summary.is_whole(), "{summary}");
    assert_eq!((summary.frames.received, summary.frames.live_skipped), (192, 0));
    assert_eq!(std::fs::read_dir(directory.path()).expect("folder").count(), 0);
}

/// Stopping in the middle seals what has come; the rest is one gap, and the data set says it was interrupted.
#[test]
fn stopping_seals_what_has_come() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(MerlinSimulation { rate_hz: 400.0, ..simulation(&[]) }).expect("simulator");
    let receiver = Receiver::start(plan(directory.path(), vec![merlin(simulator.data_address)]), options(1));
    let receiver = receiver.expect("receiver starts");
    let link = &receiver.board().wiring.links[0];
    while LinkCounters::read(&link.counters.frames) < 20 {
        std::thread::sleep(Duration::from_millis(1)); // The frames come at their own pace: there is nothing to wait on.
    }
    receiver.stop();
    let summary = receiver.summaries().next().expect("a summary");
    receiver.join().expect("receiver ends well");
    assert_eq!(summary.state, "interrupted");
    assert!(summary.frames.durable >= 20 && summary.frames.missing > 0, "{summary}");
    let missing: Vec<u64> = summary.gaps.iter().flat_map(|gap| gap.first..gap.first + gap.count).collect();
    check_frames(&summary.dataset.expect("recorded"), &missing);
}

/// A Merlin's control port that agrees to everything and keeps what it was told.
fn agreeable_control_port() -> (u16, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a control client");
        let (mut told, mut prefix) = (Vec::new(), [0; 15]);
        while client.read_exact(&mut prefix).is_ok() {
            let length: usize = std::str::from_utf8(&prefix[4..14]).expect("digits").parse().expect("a length");
            let mut body = vec![0; length - 1]; // The comma after the length counts.
            client.read_exact(&mut body).expect("a whole request");
            let body = String::from_utf8(body).expect("text");
            let answer = body.splitn(3, ',').take(2).chain(["0"]).collect::<Vec<_>>().join(",");
            client.write_all(&mpx_prefix(answer.len() as u64)).expect("answered");
            client.write_all(answer.as_bytes()).expect("answered");
            told.push(body);
        }
        told
    });
    (port, thread)
}

/// A detector that ronchi armed is told to stop when ronchi is stopped in the middle of a series, not after a whole one.
#[test]
fn stopping_stops_the_detector_it_armed() {
    for is_stopped in [true, false] {
        let directory = tempfile::tempdir().expect("folder");
        let sending = MerlinSimulation { rate_hz: 400.0, ..simulation(&[]) };
        let simulator = MerlinSimulator::start(sending).expect("simulator");
        let (port, control) = agreeable_control_port();
        let mut link = merlin(simulator.data_address);
        let SourcePlan::Merlin { control: planned, .. } = &mut link.source else { panic!("a Merlin link") };
        *planned = Some(MerlinControlPlan { port, frame_count: None, trigger: Some(MerlinTrigger::Soft) });
        let receiver = Receiver::start(plan(directory.path(), vec![link]), options(1)).expect("receiver starts");
        let counters = Arc::clone(&receiver.board().wiring.links[0].counters);
        while is_stopped && LinkCounters::read(&counters.frames) < 20 {
            std::thread::sleep(Duration::from_millis(1)); // The frames come at their own pace.
        }
        if is_stopped {
            receiver.stop();
        }
        assert_eq!(receiver.summaries().count(), 1);
        receiver.join().expect("receiver ends well");
        let told = control.join().expect("control port");
        assert!(told.contains(&"CMD,STARTACQUISITION".to_owned()), "{told:?}");
        assert_eq!(told.last().is_some_and(|last| last == "CMD,STOPACQUISITION"), is_stopped, "{told:?}");
    }
}

/// Two tiles of one detector over two links: recorded side by side, reduced to the same numbers as whole frames.
#[test]
fn two_tiles_make_one_image() {
    let directory = tempfile::tempdir().expect("folder");
    let halves = [Region { y: 0, x: 0, height: 48, width: 24 }, Region { y: 0, x: 24, height: 48, width: 24 }];
    let synthesis = Synthesis::new(specimen()).expect("specimen");
    let senders: Vec<TileSender> =
        halves.iter().map(|_| TileSender::bind("tcp://127.0.0.1:*").expect("bind")).collect();
    let links = senders.iter().zip(halves).map(|(sender, region)| {
        let source = SourcePlan::Tiles { endpoint: sender.endpoint().to_owned(), bind: false };
        LinkPlan { source, region: Some(region) }
    });
    let plan = Plan { detector: Some(DETECTOR), ..plan(directory.path(), links.collect()) };
    let summary = std::thread::scope(|scope| {
        for (sender, region) in senders.into_iter().zip(halves) {
            let synthesis = &synthesis;
            scope.spawn(move || {
                let whole = TileStream::whole("tiles", SCAN.position_count(), DETECTOR.height, DETECTOR.width);
                let stream = TileStream { region, scan: Some(SCAN), ..whole };
                let paint = |frame, pixels: &mut [u8]| cut(&counts(synthesis, frame), region, pixels);
                sender.run(&stream, &TileFaults::default(), paint, || false).expect("sent");
            });
        }
        record(plan)
    });
    assert!(summary.is_whole(), "{summary}");
    let data_set = summary.dataset.expect("recorded");
    check_results(&data_set, &[]);
    let reader = Reader::open(&data_set).expect("data set opens");
    assert_eq!(verify(&data_set, Depth::Full, &mut |_, _| {}).expect("verification").flaws, []);
    for (tile, region) in (0..).zip(halves) {
        let (mut bytes, mut expected) = (Vec::new(), vec![0; region.pixel_count() as usize * 2]);
        for frame in 0..SCAN.position_count() {
            reader.read_frames(tile, frame..frame + 1, &mut bytes).expect("frame");
            cut(&counts(&synthesis, frame), region, &mut expected);
            assert_eq!(bytes, expected, "tile {tile} of frame {frame}");
        }
    }
}

/// The pixels of one region, little-endian u16.
fn cut(counts: &[u32], region: Region, pixels: &mut [u8]) {
    let mut out = pixels.as_chunks_mut().0.iter_mut();
    for row in counts.chunks_exact(DETECTOR.width as usize) {
        for &count in &row[region.x as usize..(region.x + region.width) as usize] {
            if let Some(pixel) = out.next() {
                *pixel = (count as u16).to_le_bytes();
            }
        }
    }
}

/// An existing data set is never written over: refused before the detector is asked for anything.
#[test]
fn an_existing_data_set_is_left_alone() {
    let directory = tempfile::tempdir().expect("folder");
    std::fs::create_dir(directory.path().join("scan.ronchi")).expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    let error = Receiver::start(plan, options(1)).err().expect("refused");
    assert!(matches!(error.downcast_ref(), Some(StorageError::Exists { .. })), "{error}");
    assert_eq!(std::fs::read_dir(directory.path().join("scan.ronchi")).expect("folder").count(), 0);
}

/// Frames lie on the volume and read as if they lay in the data set; a volume that is not mounted is refused at start.
#[test]
fn frames_on_another_volume() {
    let (directory, volume) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let mut plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    plan.data.volumes = vec![volume.path().to_owned(), volume.path().join("not/mounted")];
    let refused = Receiver::start(plan.clone(), options(1)).err().expect("refused");
    assert!(refused.to_string().ends_with("not/mounted is not there: is its disk mounted?"), "{refused}");
    plan.data.volumes.pop();
    let summary = record(plan);
    assert!(summary.is_whole(), "{summary}");
    let path = summary.dataset.expect("recorded");
    let segment = std::fs::read_link(path.join("frames/c/0/0/0")).expect("a link");
    assert!(segment.starts_with(volume.path()) && segment.ends_with("0-0"), "{}", segment.display());
    check_results(&path, &[]);
    assert!(verify(&path, Depth::Full, &mut |_, _| {}).expect("a data set").is_intact());
}
