//! The whole receiver on a disk that has no room, or loses it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ronchi::receiver::{Options, Receiver};
use ronchi::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, TriggerMode};
use ronchi::simulate::synth::{Specimen, SynthPlan};
use ronchi::simulate::tiles::{TileFaults, TileSender, TileStream};
use ronchi::summary::Summary;
use ronchi_config::{DataPlan, Limits, LinkPlan, LivePlan, Plan, ScanPlan, SourcePlan};
use ronchi_pipeline::reduce::Reduction;
use ronchi_pipeline::{Gap, GapReason, NavShape, SigShape};
use ronchi_sinks::storage::{Depth, Reader, verify};

const DETECTOR: SigShape = SigShape { height: 48, width: 48 };

fn simulation() -> MerlinSimulation {
    let scan = NavShape { height: 12, width: 16 };
    let plan = SynthPlan { scan, detector: DETECTOR, dose: 300.0, specimen: Specimen::Crystal, seed: 5 };
    let source = FrameSource::Synthetic { plan, pixels: MerlinPixels::U16, layout: ChipLayout::Single };
    MerlinSimulation { trigger: TriggerMode::Now, runs: 1, ..MerlinSimulation::new(source) }
}

fn plan(directory: &Path, source: SourcePlan, reserve_bytes: u64) -> Plan {
    Plan {
        data: DataPlan { directory: directory.to_owned(), volumes: Vec::new(), name: "scan".into(), record: true },
        links: vec![LinkPlan { source, region: None }],
        detector: None,
        scan: ScanPlan { shape: Some(NavShape { height: 12, width: 16 }), ..ScanPlan::default() },
        conditions: ronchi_pipeline::reduce::Conditions::default(),
        reductions: vec![Reduction::total()],
        live: LivePlan::default(),
        limits: Limits {
            block_bytes: 64 << 10,
            live_queue_blocks: 64,
            reserve_bytes: Some(reserve_bytes),
            ..Limits::default()
        },
    }
}

fn start(plan: Plan) -> Receiver {
    let options = Options { series_max: Some(1), exact_name: true, stop: Arc::new(AtomicBool::new(false)) };
    Receiver::start(plan, options).expect("receiver starts")
}

/// A series that does not fit is refused with every number that explains it, and leaves nothing behind.
#[test]
fn a_series_without_room_is_refused() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation()).expect("simulator");
    let (host, data_port) = (simulator.data_address.ip().to_string(), simulator.data_address.port());
    let source = SourcePlan::Merlin { host, data_port, control: None };
    let receiver = start(plan(directory.path(), source, u64::MAX / 2));
    assert!(receiver.describe().contains("reserve   9223372036854775807 bytes of the disk stay free\n"));
    assert_eq!(receiver.summaries().count(), 0);
    let error = receiver.join().expect_err("refused").to_string();
    assert!(error.contains("no room for 192 frames: ") && error.contains(" bytes needed, "), "{error}");
    assert!(error.contains(" free, 9223372036854775807 kept in reserve; 0 frames (0 scan rows) would fit"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("folder").count(), 0);
}

/// A file-size limit refuses writes; it must not kill: the run ends with its summary, and every frame is a gap.
#[test]
fn a_file_size_limit_is_a_refused_write() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation()).expect("simulator");
    let mut command = Command::new("prlimit");
    let address = format!("merlin://{}", simulator.data_address);
    command.args(["--fsize=262144", env!("CARGO_BIN_EXE_ronchi"), "record", &address, "--json", "--out"]);
    let output = match command.arg(directory.path().join("scan.ronchi")).output() {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: no prlimit here: {error}"),
    };
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!((&summary["state"], &summary["frames"]["durable"]), (&"failed".into(), &0.into()));
    assert_eq!((&summary["law"][0]["holds"], &summary["unsound"]), (&true.into(), &false.into()));
    assert_eq!(summary["law"][0]["gaps"]["write_failed"], 192);
    assert_eq!(shown.matches("frames are not recorded from here").count(), 1, "{shown}");
}

/// A disk of 12 MiB; needs root. Unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount a small file system");
            return None;
        }
        let disk = Self(tempfile::tempdir().expect("folder"));
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(disk.0.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(disk),
            other => {
                eprintln!("skipped: no tmpfs here: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output(); // Not mounted when mounting failed.
    }
}

/// An open-ended run fills the disk half-way: what fits is durable, the rest are gaps, and the picture goes on.
#[test]
fn the_picture_goes_on_when_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount() else { return };
    let sender = TileSender::bind("tcp://127.0.0.1:*").expect("bind");
    let source = SourcePlan::Tiles { endpoint: sender.endpoint().to_owned(), bind: false };
    let scan = NavShape { height: 60, width: 50 };
    let mut plan = plan(disk.0.path(), source, 3 << 20);
    plan.scan.shape = Some(scan);
    plan.limits.block_bytes = 4608; // One frame: 200 of them in a segment.
    let summary: Summary = std::thread::scope(|scope| {
        scope.spawn(move || {
            let whole = TileStream::whole("full", scan.position_count(), DETECTOR.height, DETECTOR.width);
            let stream = TileStream { announces_count: false, scan: Some(scan), ..whole };
            let paint = |frame, pixels: &mut [u8]| pixels.fill(frame as u8 | 1);
            sender.run(&stream, &TileFaults::default(), paint, || false).expect("sent");
        });
        let receiver = start(plan);
        let summary = receiver.summaries().next().expect("a summary");
        receiver.join().expect("receiver ends well");
        summary
    });
    let durable = summary.frames.durable;
    assert_eq!((summary.state, summary.frames.received, summary.is_whole()), ("failed", 3000, false), "{summary}");
    assert!(durable >= 1000 && durable.is_multiple_of(200) && durable < 3000, "{summary}");
    let rest = Gap { first: durable, count: 3000 - durable, reason: GapReason::WriteFailed };
    assert_eq!(summary.gaps, [rest]);
    assert!(
        summary.law[0].law.holds && summary.errors.iter().all(|error| error.contains("the disk is full")),
        "{summary}"
    );
    let data_set = summary.dataset.expect("recorded");
    let valid = std::fs::read(data_set.join("results/valid/c/0/0")).expect("valid");
    let shown = valid.iter().filter(|&&valid| valid == 1).count() as u64;
    assert!(shown > durable, "{shown} positions shown, {durable} frames durable");
    let reader = Reader::open(&data_set).expect("data set opens");
    assert_eq!(verify(&data_set, Depth::Full, &mut |_, _| {}).expect("verification").flaws, []);
    let mut bytes = Vec::new();
    for frame in 0..durable {
        reader.read_frames(0, frame..frame + 1, &mut bytes).expect("frame");
        assert!(bytes.iter().all(|&byte| byte == frame as u8 | 1), "frame {frame}");
    }
}
