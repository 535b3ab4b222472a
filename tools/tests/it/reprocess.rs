//! `ronchi reprocess`, as it is called: from recorded frames come the numbers that came from live ones, bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ronchi::receiver::{Options, Receiver};
use ronchi::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator};
use ronchi::simulate::synth::{Specimen, SynthPlan};
use ronchi::simulate::tiles::{TileFaults, TileSender, TileStream};
use ronchi_config::{Compress, LinkPlan, Plan, ScanPlan, SourcePlan, condition_file, parse_reduction};
use ronchi_pipeline::reduce::{Conditions, Descan, NoData};
use ronchi_pipeline::{NavShape, Region, ScanOrder, SigShape, crc32c};
use ronchi_sinks::storage::{Condition, Depth, look_at, verify};
use serde_json::Value;

use super::replay::replay;
use super::system::{merlin, record, simulation};

/// What `system::plan` asks for, and some of everything else, as options.
const ALL: [&str; 16] = [
    "--virtual",
    "adf=ring:24,23.5,9,20",
    "--virtual",
    "bf=disk:24,24,8",
    "--total",
    "--com",
    "--sum",
    "--max",
    "--reduce",
    OTHERS[0],
    "--reduce",
    OTHERS[1],
    "--reduce",
    OTHERS[2],
    "--reduce",
    OTHERS[3],
];
/// By sums per frame, by accumulators per pixel, and made of whole results.
const OTHERS: [&str; 4] = ["profile=radial:bins=12", "std", "min", "inner=com:outer=15,also=[field,phase]"];

/// The plan of the other tests, with more to compute.
fn plan(directory: &Path, links: Vec<LinkPlan>) -> Plan {
    let mut plan = super::system::plan(directory, links);
    plan.reductions.extend(OTHERS.iter().map(|text| parse_reduction(text).expect(text)));
    plan
}

fn reprocess(data_set: &Path, args: &[&str]) -> (i32, Value, String) {
    let output = command(data_set, args).output().expect("ronchi runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, errors) = (text(output.stdout), text(output.stderr));
    let json = serde_json::from_str(&out).unwrap_or(Value::Null);
    (output.status.code().expect("it ended by itself"), json, errors)
}

fn command(data_set: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronchi"));
    command.arg("reprocess").arg(data_set).args(args).arg("--json");
    command
}

/// All files below a folder.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => drop(
                    found.insert(path.strip_prefix(root).expect("inside").to_owned(), fs::read(&path).expect("file")),
                ),
            }
        }
    }
    found
}

/// The numbers of all results; what describes them says in addition where they come from.
fn numbers(data_set: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(&data_set.join("results"));
    found.retain(|path, _| !path.ends_with("zarr.json"));
    found
}

/// Everything but results.
fn recorded(data_set: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(data_set);
    found.retain(|path, _| !path.starts_with("results"));
    found
}

/// Takes the results away, computes them again, by one thread and by three, and compares all numbers; nothing else has changed.
fn check_again(data_set: &Path) {
    let (live, before) = (numbers(data_set), recorded(data_set));
    assert!(live.len() > 6, "{:?}", live.keys());
    for more in [&["--threads", "1"][..], &["--threads", "3", "--verify"], &["--read", "direct"], &["--read", "plain"]]
    {
        fs::remove_dir_all(data_set.join("results")).expect("results");
        let (code, json, errors) = reprocess(data_set, &[&ALL[..], more].concat());
        assert_eq!((code, errors.as_str()), (0, ""), "{json}");
        assert_eq!((&json["stored"], json["frames"]["damaged"].as_u64()), (&Value::Bool(true), Some(0)), "{json}");
        assert!(numbers(data_set) == live, "{more:?}: {:?}", numbers(data_set).keys());
        assert!(recorded(data_set) == before, "{more:?}: the recording has changed");
    }
    assert!(verify(data_set, Depth::Full, &mut |_, _| {}).expect("a data set").is_intact());
}

fn lossy(directory: &Path, pixels: MerlinPixels, order: ScanOrder) -> PathBuf {
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
    let mut plan = plan(directory, vec![merlin(simulator.data_address)]);
    plan.scan.order = order;
    let summary = record(plan);
    assert!(summary.frames.missing > 5, "{summary}");
    summary.dataset.expect("recorded")
}

/// Frames of one, two and four bytes, some lost, in both orders of rows.
#[test]
fn the_numbers_are_those_of_the_recording() {
    for (pixels, order) in [
        (MerlinPixels::U8, ScanOrder::Raster),
        (MerlinPixels::U16, ScanOrder::Serpentine),
        (MerlinPixels::U32, ScanOrder::Raster),
    ] {
        let directory = tempfile::tempdir().expect("folder");
        check_again(&lossy(directory.path(), pixels, order));
    }
}

/// Frames of a list of positions, with pixels without data and masks that follow the beam: the same numbers live and again,
/// and results that say what made them. The data set itself is a line.
#[test]
fn under_conditions() {
    let directory = tempfile::tempdir().expect("folder");
    let list = directory.path().join("list.txt");
    let position = |frame: i32| if frame % 7 == 0 { -1 } else { 191 - frame / 2 };
    fs::write(&list, (0..192).map(|frame| format!("{}\n", position(frame))).collect::<String>()).expect("file");
    let simulator = MerlinSimulator::start(simulation(&["lose=0.1"])).expect("simulator");
    let mut live = plan(directory.path(), vec![merlin(simulator.data_address)]);
    live.scan.shape = Some(NavShape { height: 12, width: 16 });
    let (positions, file) = condition_file::positions(&list).expect("a list");
    live.conditions = Conditions {
        positions: Some(Arc::new(positions)),
        files: vec![file],
        descan: Descan::linear([0.0, 1.0], [0.25, 0.0], [0.0, -0.25]).map(Arc::new),
        nodata: Some(NoData::Value(3)),
        ..Conditions::default()
    };
    let data_set = record(live).dataset.expect("recorded");
    let before = numbers(&data_set);
    assert!(before[Path::new("valid/c/0/0")].contains(&1));
    let path = list.to_str().expect("UTF-8");
    let conditions = ["--scan", "12x16", "--positions", path, "--descan", "0,1,0.25,0,0,-0.25", "--nodata", "3"];
    let about = || {
        let text = fs::read(data_set.join("results/total/zarr.json")).expect("metadata");
        serde_json::from_slice::<Value>(&text).expect("JSON")["attributes"].clone()
    };
    let told = about()["conditions"].clone();
    let crc32c = format!("{:08x}", crc32c(&fs::read(&list).expect("file")));
    assert_eq!(told["positions"], serde_json::json!({ "file": "list.txt", "crc32c": crc32c }));
    assert_eq!((&told["nodata"], &told["descan"]["per_row"]), (&"3".into(), &serde_json::json!([0.25, 0.0])));
    fs::remove_dir_all(data_set.join("results")).expect("results");
    let (code, json, errors) = reprocess(&data_set, &[&ALL[..], &conditions].concat());
    assert_eq!((code, errors.as_str()), (0, ""), "{json}");
    assert!(numbers(&data_set) == before, "{:?}", numbers(&data_set).keys());
    assert_eq!(about()["conditions"], told);
    // Without the list it is a line; part of a raster is chosen by a rectangle.
    let (code, json, errors) = reprocess(&data_set, &["--total", "--scan", "12x16", "--roi", "0..3,2..9"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{json}");
    let about = about();
    assert_eq!(about["conditions"], serde_json::json!({ "roi": { "y": [0, 3], "x": [2, 9] } }));
    assert_eq!((&about["scan"]["shape"], about["roi_positions"].as_u64()), (&serde_json::json!([12, 16]), Some(21)));
    let (code, _, errors) = reprocess(&data_set, &["--total", "--roi", "0..3,2..9"]);
    assert_eq!((code, errors.contains("positions are chosen of a scan")), (2, true), "{errors}");
}

/// Chunks that were compressed.
#[test]
fn compressed_frames() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&["lose=0.1"])).expect("simulator");
    let mut plan = plan(directory.path(), vec![merlin(simulator.data_address)]);
    plan.limits.compress = Compress::Lz4;
    check_again(&record(plan).dataset.expect("recorded"));
}

/// Two tiles, one that loses frames: a position counts when both are there, as it did live.
#[test]
fn tiles() {
    let directory = tempfile::tempdir().expect("folder");
    let detector = SigShape { height: 48, width: 48 };
    let halves = [Region { y: 0, x: 0, height: 48, width: 20 }, Region { y: 0, x: 20, height: 48, width: 28 }];
    let senders: Vec<TileSender> =
        halves.iter().map(|_| TileSender::bind("tcp://127.0.0.1:*").expect("bind")).collect();
    let links = senders.iter().zip(halves).map(|(sender, region)| {
        let source = SourcePlan::Tiles { endpoint: sender.endpoint().to_owned(), bind: false };
        LinkPlan { source, region: Some(region) }
    });
    let plan = Plan { detector: Some(detector), ..plan(directory.path(), links.collect()) };
    let summary = std::thread::scope(|scope| {
        for ((tile, sender), region) in (0..).zip(senders).zip(halves) {
            scope.spawn(move || {
                let whole = TileStream::whole("tiles", 192, 48, 48);
                let stream = TileStream { region, scan: Some(NavShape { height: 12, width: 16 }), ..whole };
                let paint = |frame: u64, pixels: &mut [u8]| {
                    pixels.iter_mut().zip(0_u64..).for_each(|(pixel, i)| *pixel = (frame * 7 + i * (tile + 3)) as u8);
                };
                let lose = if tile == 1 { 0.1 } else { 0.0 };
                let faults = TileFaults { lose, ..TileFaults::default() };
                sender.run(&stream, &faults, paint, || false).expect("sent");
            });
        }
        record(plan)
    });
    assert!(summary.frames.missing > 5, "{summary}");
    check_again(&summary.dataset.expect("recorded"));
}

/// Frames that were recorded as a line get a scan: the numbers are those of a replay with that scan, gaps, flyback, shifted
/// rows and all; and those that need one cannot be had without a shape.
#[test]
fn a_scan_for_frames_that_have_none() {
    let directory = tempfile::tempdir().expect("folder");
    let sender = TileSender::bind("tcp://127.0.0.1:*").expect("bind");
    let source = SourcePlan::Tiles { endpoint: sender.endpoint().to_owned(), bind: false };
    let first = plan(directory.path(), vec![LinkPlan { source, region: None }]);
    let first = std::thread::scope(|scope| {
        scope.spawn(move || {
            let stream = TileStream { scan: None, ..TileStream::whole("line", 150, 48, 48) };
            let paint = |frame: u64, pixels: &mut [u8]| {
                pixels.iter_mut().zip(0_u64..).for_each(|(pixel, i)| *pixel = (frame * 11 + i * 3) as u8);
            };
            let faults = TileFaults { lose: 0.1, ..TileFaults::default() };
            sender.run(&stream, &faults, paint, || false).expect("sent");
        });
        record(first).dataset.expect("recorded")
    });
    check_again(&first);
    let (code, _, errors) = reprocess(&first, &["--total", "--sync-offset", "3"]);
    assert_eq!((code, errors.contains("--scan NYxNX")), (2, true), "{errors}");
    let other = tempfile::tempdir().expect("folder");
    let mut again = plan(other.path(), vec![replay(&first, None)]);
    let shape = NavShape { height: 9, width: 14 };
    again.scan = ScanPlan {
        shape: Some(shape),
        order: ScanOrder::Serpentine,
        flyback: 2,
        sync_offset: 3,
        ..ScanPlan::default()
    };
    let again = record(again).dataset.expect("recorded");
    let scan = ["--scan", "9x14", "--serpentine", "--flyback", "2", "--sync-offset", "3"];
    let (code, json, errors) = reprocess(&first, &[&ALL[..], &scan].concat());
    assert_eq!(code, 0, "{errors}");
    assert!(json["frames"]["reduced"].as_u64().is_some_and(|count| count > 90), "{json}");
    assert_eq!(numbers(&first), numbers(&again));
    // A negative offset leaves places empty at the beginning.
    let (code, json, errors) = reprocess(&first, &["--total", "--scan", "9x14", "--sync-offset", "-5"]);
    assert_eq!(code, 0, "{errors} {json}");
    let valid = fs::read(first.join("results/total.valid/c/0/0")).expect("of other frames than those of `bf`");
    assert_eq!(valid[..5], [0; 5]);
}

/// Part of the frames: a mask of its own says which, results beside it keep theirs; the same from a configuration file.
#[test]
fn some_frames_of_a_configuration() {
    let directory = tempfile::tempdir().expect("folder");
    let path = lossy(directory.path(), MerlinPixels::U16, ScanOrder::Raster);
    let before = numbers(&path);
    let config = directory.path().join("some.toml");
    let text = "[[virtual]]\nname = 'some'\nkind = 'ring'\ncentre = [24, 23.5]\ninner = 9\nouter = 20\n\
        [reduce]\ntotal = false\nsum = false\n";
    fs::write(&config, text).expect("file");
    let config = config.to_str().expect("UTF-8");
    let (code, json, errors) = reprocess(&path, &["--config", config, "--frames", "40..90", "--max"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        (&json["range"], &json["results"]),
        (&serde_json::json!([40, 90]), &serde_json::json!(["some", "max", "valid"]))
    );
    let after = numbers(&path);
    for (name, bytes) in before.iter().filter(|(name, _)| !name.starts_with("max")) {
        assert!(after.get(name) == Some(bytes), "{}", name.display());
    }
    let read = |name: &str| after[&PathBuf::from(name).join("c/0/0")].as_slice();
    let expected: Vec<u8> = (0..192).map(|at| if (40..90).contains(&at) { read("valid")[at] } else { 0 }).collect();
    assert_eq!(read("some.valid"), expected);
    let words = |name| read(name).as_chunks::<8>().0.iter();
    for (at, (some, all)) in words("some").zip(words("adf")).enumerate() {
        assert_eq!(*some, if (40..90).contains(&at) { *all } else { [0; 8] }, "place {at}");
    }
    // All frames: `valid` holds for it as well, and the mask of its own is gone.
    assert_eq!(reprocess(&path, &["--config", config]).0, 0);
    assert!(!path.join("results/some.valid").exists() && numbers(&path).len() == before.len() + 1);
    for (args, message) in [
        (&["--frames", "400..", "--total"][..], "no frame is there from 400 on"),
        (&[], "nothing to compute"),
        (&["--virtual", "bf=disk:500,500,2"], "bf"),
        (&["--virtual", "a.valid=disk:5,5,2"], "does not end in"),
        (&["--config", "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let (code, _, errors) = reprocess(&path, args);
        assert_eq!((code, errors.contains(message)), (2, true), "{args:?}: {errors}");
    }
    assert_eq!(reprocess(&directory.path().join("none.ronchi"), &["--total"]).0, 2);
}

/// Damage is found where checksums are compared, left out and told; the rest of the chunk's frames are reduced.
#[test]
fn damaged_frames_are_left_out() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let path = record(plan(directory.path(), vec![merlin(simulator.data_address)])).dataset.expect("recorded");
    let before = numbers(&path);
    let segment = path.join("frames/c/0/0/0");
    let mut bytes = fs::read(&segment).expect("segment");
    bytes[8192 + 30 * 48 * 48 * 2 + 77] ^= 1; // Of frame 30.
    fs::write(&segment, bytes).expect("segment");
    let (code, json, errors) = reprocess(&path, &["--virtual", "all=rect:0,0,48,48", "--verify"]);
    assert_eq!((code, json["frames"]["damaged"].as_u64()), (1, Some(1)), "{errors} {json}");
    assert!(json["errors"][0].as_str().is_some_and(|error| error.contains("chunk 2 (frames 28 to 41)")), "{json}");
    let after = numbers(&path);
    let [was, is] =
        [&before[Path::new("total/c/0/0")], &after[Path::new("all/c/0/0")]].map(|bytes| bytes.as_chunks::<8>().0);
    for (frame, (was, is)) in was.iter().zip(is).enumerate() {
        assert_eq!(*is, if frame == 30 { [0; 8] } else { *was }, "frame {frame}");
    }
    let valid: Vec<u8> = (0..192).map(|frame| u8::from(frame != 30)).collect();
    assert_eq!(after[Path::new("all.valid/c/0/0")], valid, "the other results know frame 30 as it was");
}

fn start(plan: Plan) -> Receiver {
    let options = Options { series_max: Some(1), exact_name: true, stop: Arc::new(AtomicBool::new(false)) };
    Receiver::start(plan, options).expect("receiver starts")
}

/// While a receiver writes: results may go into files, as far as it has come or to its end, and into the data set only
/// after that end; what the receiver stores is the same and stays.
#[test]
fn a_growing_data_set() {
    let directory = tempfile::tempdir().expect("folder");
    let sending = MerlinSimulation { rate_hz: 150.0, ..simulation(&["lose=0.05"]) };
    let simulator = MerlinSimulator::start(sending).expect("simulator");
    let receiver = start(plan(directory.path(), vec![merlin(simulator.data_address)]));
    let path = directory.path().join("scan.ronchi");
    while !path.join("progress.json").exists() {
        std::thread::sleep(Duration::from_millis(1)); // The series begins at its own pace.
    }
    let (stored, files_only) = (["--virtual", "mine=rect:0,0,48,48", "--follow"], directory.path().join("out"));
    let out = files_only.to_str().expect("UTF-8");
    let follow = [&ALL[..], &["--follow", "--no-store", "--out", out]].concat();
    let spawn = |args: &[&str]| command(&path, args).stdout(Stdio::piped()).spawn().expect("ronchi runs");
    let followers = [spawn(&stored), spawn(&follow)];
    let (code, _, errors) = reprocess(&path, &["--total"]);
    assert_eq!(look_at(&path).expect("data set").1, Condition::Running, "it was over too soon: the test shows nothing");
    assert_eq!((code, errors.contains("being written by another process")), (3, true), "{errors}");
    assert!(errors.contains("--out DIR"), "{errors}");
    let summary = receiver.summaries().next().expect("a summary");
    receiver.join().expect("ends well");
    assert_eq!(summary.state, "complete", "{summary}");
    for follower in followers {
        let output = follower.wait_with_output().expect("it ends");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), &json["condition"]), (Some(0), &"complete".into()), "{json}");
        assert_eq!(json["range"], serde_json::json!([0, 192]));
        assert_eq!(
            json["frames"]["reduced"].as_u64().zip(json["frames"]["missing"].as_u64()).map(|(a, b)| a + b),
            Some(192)
        );
    }
    let numbers = numbers(&path);
    for name in ["adf", "bf", "total", "com", "sum", "max", "valid"] {
        let chunk = numbers.iter().find(|(path, _)| path.starts_with(name)).expect("stored by the receiver").1;
        let file = fs::read(files_only.join(format!("{name}.npy"))).expect("file");
        assert!(file.ends_with(chunk) && file.len() < chunk.len() + 200, "{name}");
    }
    assert_eq!(numbers[Path::new("mine/c/0/0")], numbers[Path::new("total/c/0/0")]);
    assert!(verify(&path, Depth::Full, &mut |_, _| {}).expect("a data set").is_intact());
}

/// Where nothing can be written: refused with a reason, unless results go elsewhere. As root by a mount that forbids it.
#[test]
fn a_data_set_that_cannot_be_written() {
    let directory = tempfile::tempdir().expect("folder");
    let simulator = MerlinSimulator::start(simulation(&[])).expect("simulator");
    let path = record(plan(directory.path(), vec![merlin(simulator.data_address)])).dataset.expect("recorded");
    let before = files(&path);
    let out = directory.path().join("out");
    let run = |args: &[&str]| {
        let mut wrapped = Command::new("unshare");
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
        wrapped.args(["--mount", "sh", "-c", script]).arg(&path);
        let plain = command(&path, args);
        wrapped.arg(plain.get_program()).args(plain.get_args());
        let output = wrapped.output().expect("unshare runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, _, errors) = run(&["--total"]);
    if errors.contains("unshare") || errors.contains("mount:") {
        eprintln!("skipped: only root may mount, {errors}");
        return;
    }
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("--out DIR") && errors.contains("Read-only file system"), "{errors}");
    let (code, json, errors) = run(&[&ALL[..], &["--out", out.to_str().expect("UTF-8")]].concat());
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{json}");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["stored"], false);
    assert!(json["not_stored_because"].as_str().is_some_and(|reason| reason.contains("Read-only")), "{json}");
    let names: Vec<&Value> = json["results"].as_array().expect("names").iter().collect();
    assert!(names.len() >= 12 && fs::read_dir(&out).expect("folder").count() == names.len(), "{names:?}");
    assert!(files(&path) == before);
    let (code, _, errors) = run(&["--total", "--out", out.to_str().expect("UTF-8")]);
    assert_eq!((code, errors.contains("total.npy exists already")), (Some(2), true), "{errors}");
}
