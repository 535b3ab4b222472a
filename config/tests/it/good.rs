//! Files that are right, the examples among them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ronchi_config::{
    Compress, DectrisStream, Error, MerlinControlPlan, MerlinTrigger, Plan, SourcePlan, parse_reduction,
};
use ronchi_pipeline::reduce::{Reduction, VirtualDetector};
use ronchi_pipeline::{NavShape, Region, Repeats, ScanOrder, SigShape};

const FULL: &str = r#"
[data]
directory = "runs"
name = "gold-01"
compress = "lz4"
reserve_gib = 1.5

[detector]
shape = [512, 513]

[[link]]
source = "merlin://192.168.1.20"
region = [0, 0, 256, 513]
[link.control]
frames = 65536
trigger = "rising_ttl"

[[link]]
source = "tiles+bind://[::1]:7001"
region = [256, 0, 256, 513]

[correct]
gain = "gain.npy"

[scan]
shape = [256, 128]
order = "serpentine"
flyback = 2
sync_offset = -3
roi = "roi.npy"
descan = { offset = [1, -2], per_row = [0.5, 0] }
frames_per_position = 4
passes = 2
repeats = "stack"

[[virtual]]
name = "bf"
kind = "disk"
radius = 20
[[virtual]]
name = "adf"
kind = "ring"
centre = [255.5, 250]
inner = 40
outer = 90.5
[[virtual]]
name = "mask"
kind = "npy"
file = "mask.npy"

[reduce]
com = true
sum = false

[live]
zmq = "tcp://127.0.0.1:7010"
karabo = "ipc:///run/ronchi/karabo"
odin = "tcp://127.0.0.1:5020"
http = "[::1]:8480"
update_interval_ms = 100

[limits]
block_mib = 2
reducers = 3
packers = 2
silence_s = 5
"#;

fn write_mask(path: &Path, height: usize, width: usize) {
    let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}), }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((text.len() as u16).to_le_bytes());
    file.extend(text.as_bytes());
    file.resize(file.len() + height * width, 1);
    std::fs::write(path, file).expect("written");
}

/// Every key arrives where it belongs, and everything that is not given has its default.
#[test]
fn every_key_arrives() {
    let dir = tempfile::tempdir().expect("directory");
    write_mask(&dir.path().join("mask.npy"), 512, 513);
    write_mask(&dir.path().join("gain.npy"), 512, 513);
    write_mask(&dir.path().join("roi.npy"), 256, 128);
    let file = dir.path().join("r.toml");
    std::fs::write(&file, FULL).expect("written");
    let plan = Plan::from_file(&file).expect("a good file");
    assert_eq!(plan.data.directory, dir.path().join("runs"));
    assert_eq!((plan.data.name.as_str(), plan.data.record), ("gold-01", true));
    assert_eq!(plan.limits.reserve_bytes, Some(3 << 29));
    assert!(plan.describe().contains("compress  bit-shuffle and LZ4, 2 threads\n"), "{plan}");
    assert_eq!((plan.limits.compress, plan.limits.packer_count), (Compress::Lz4, 2));
    assert!(plan.describe().contains("reserve   1610612736 bytes of the disk stay free\n"), "{plan}");
    assert_eq!(plan.detector, Some(SigShape { height: 512, width: 513 }));
    let control = MerlinControlPlan { port: 6341, frame_count: Some(65536), trigger: Some(MerlinTrigger::RisingTtl) };
    let merlin = SourcePlan::Merlin { host: "192.168.1.20".into(), data_port: 6342, control: Some(control) };
    assert_eq!(plan.links[0].source, merlin);
    assert_eq!(plan.links[1].source, SourcePlan::Tiles { endpoint: "tcp://[::1]:7001".into(), bind: true });
    assert_eq!(plan.links[1].region, Some(Region { y: 256, x: 0, height: 256, width: 513 }));
    let scan = plan.scan.scan(None).expect("a shape");
    assert_eq!((scan.shape, scan.order), (NavShape { height: 256, width: 128 }, ScanOrder::Serpentine));
    assert_eq!((scan.flyback, scan.sync_offset), (2, -3));
    let correction = plan.conditions.correction.as_ref().expect("gain");
    assert_eq!(correction.detector(), SigShape { height: 512, width: 513 });
    let roi = plan.conditions.roi.as_ref().expect("a file");
    assert_eq!(roi.shape(), NavShape { height: 256, width: 128 });
    let descan = plan.conditions.descan.as_ref().expect("a law");
    assert_eq!(descan.as_linear(), Some([[1.0, -2.0], [0.5, 0.0], [0.0, 0.0]]));
    let files: Vec<_> = plan.conditions.files.iter().map(|file| (file.what, file.name.as_str())).collect();
    assert_eq!(files, [("gain", "gain.npy"), ("roi", "roi.npy")]);
    assert_eq!((scan.frames_per_position, scan.passes, scan.repeats), (4, 2, Repeats::Stack));
    assert!(plan.describe().contains("repeats   4 frames per position, 2 passes, kept as stack\n"), "{plan}");
    assert!(plan.describe().contains("results   total, com, bf, adf, mask\n"), "{plan}");
    let disk = VirtualDetector::Disk { cy: 256.0, cx: 256.0, radius: 20.0 };
    assert_eq!(plan.reductions[2], Reduction::virtual_detector("bf", disk));
    assert_eq!(plan.live.zmq.as_deref(), Some("tcp://127.0.0.1:7010"));
    let others = "live karabo ipc:///run/ronchi/karabo\nlive odin tcp://127.0.0.1:5020\nlive http";
    assert!(plan.describe().contains(others), "{plan}");
    assert_eq!(plan.live.update_interval, Duration::from_millis(100));
    assert_eq!((plan.limits.block_bytes, plan.limits.reducer_count), (2 << 20, 3));
    assert_eq!((plan.limits.silence, plan.limits.write_depth), (Duration::from_secs(5), 16));
    assert_eq!(plan.check(), Ok(()));
}

/// A mask of another shape than the detector, or with a part missing, is refused with its key.
#[test]
fn mask_of_the_wrong_shape() {
    let dir = tempfile::tempdir().expect("directory");
    write_mask(&dir.path().join("mask.npy"), 512, 512);
    let problems = Plan::from_toml(FULL, "r.toml", dir.path()).expect_err("a wrong mask").to_string();
    assert!(
        problems.contains("virtual[2].kind = \"npy\": mask of 512 x 512 for a detector of 512 x 513"),
        "{problems}"
    );
}

/// What is printed at start holds every limit as a number.
#[test]
fn description() {
    let data = "[data]\ndirectory = '/d'\n";
    let rest = "[[link]]\nsource = 'tiles://h:5'\n[limits]\nreducers = 1\npackers = 2\nblock_mib = 4\n";
    let describe = |compress: &str| {
        let text = format!("{data}{compress}{rest}");
        Plan::from_toml(&text, "r.toml", Path::new("/")).expect("a good file").describe()
    };
    let want = "\
record    /d/scan.ronchi
reserve   5 % of the disk, at least 2 GiB, at most a quarter, stay free
compress  what comes compressed stays so, 2 threads
link 0    tiles, connecting to tcp://h:5
scan      as the detector announces it
results   total, sum
live zmq  off
live http off, update every 4 ms
pool      74 slots of 4198400 bytes = 297 MiB
blocks    up to 4194304 bytes, sealed after 2 ms
queues    16 blocks raw, 16 writes in flight, 16 blocks live, 1 reducers
times     series end after 30 s of silence, data sync every 500 ms
network   messages up to 67108864 bytes, 1024 subscribers per endpoint
";
    assert_eq!(describe(""), want);
    // Pixels alone need no threads, and less memory.
    let pixels = want.replace("compress  what comes compressed stays so, 2 threads\n", "");
    let pixels = pixels
        .replace("pool      74 slots of 4198400 bytes = 297 MiB", "pool      52 slots of 4198400 bytes = 209 MiB");
    assert_eq!(describe("compress = 'none'\n"), pixels);
}

/// The examples are right, so a user can start from any of them.
#[test]
fn examples() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(folder).expect("examples").map(|entry| entry.expect("entry").path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let plan = Plan::from_file(&file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(plan.check(), Ok(()), "{}", file.display());
    }
}

/// Plans made by hand are held to the same rules.
#[test]
fn plans_made_by_hand() {
    let text = "[data]\ndirectory = '/d'\n[[link]]\nsource = 'tiles://h:5'\n";
    let mut plan = Plan::from_toml(text, "r.toml", Path::new("/")).expect("a good file");
    plan.data.name = "a/b".into();
    plan.limits.write_depth = 0;
    plan.links.push(plan.links[0].clone());
    let problems = plan.check().expect_err("wrong").to_string();
    for key in ["data.name: ", "limits.write_depth: ", "link[1].source: ", "detector.shape: ", "link[0].region: "] {
        assert!(problems.contains(key), "{key} in {problems}");
    }
}

/// A missing, overlong or binary file is an error, not a plan.
#[test]
fn unreadable_files() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("r.toml");
    assert!(matches!(Plan::from_file(&file), Err(Error::Read { .. })));
    std::fs::write(&file, vec![b'#'; (1 << 20) + 1]).expect("written");
    assert!(matches!(Plan::from_file(&file), Err(Error::TooLong { .. })));
    std::fs::write(&file, [0xff, 0xfe]).expect("written");
    assert!(matches!(Plan::from_file(&file), Err(Error::Read { .. })));
}

/// A DECTRIS stream by one socket or several.
#[test]
fn dectris_streams() {
    let of = |stream, endpoint: &str, sockets| {
        let control = None;
        SourcePlan::Dectris { stream, endpoint: endpoint.into(), sockets, control }
    };
    let good = [
        ("dectris1://10.0.0.2", of(DectrisStream::Legacy, "tcp://10.0.0.2:9999", 1)),
        ("dectris2://dcu?sockets=4", of(DectrisStream::Cbor, "tcp://dcu:31001", 4)),
        ("dectris2://[::1]:7?sockets=16", of(DectrisStream::Cbor, "tcp://[::1]:7", 16)),
    ];
    for (text, expected) in good {
        assert_eq!(ronchi_config::parse_source(text), Ok(expected), "{text}");
    }
    let bad = ["dectris2://h?sockets=0", "dectris2://h?sockets=17", "dectris2://h?sockets=", "dectris2://h?rate=1"];
    for text in bad.into_iter().chain(["merlin://h?sockets=2", "dectris1://h?sockets=2:9999"]) {
        assert!(ronchi_config::parse_source(text).is_err(), "{text:?}");
    }
}

/// A recorded data set as a link: path, rate and tile, relative to the file.
#[test]
fn replays() {
    let replay = |path: &str, interval_ns: Option<u64>, tile| SourcePlan::Replay {
        path: path.into(),
        interval: interval_ns.map(Duration::from_nanos),
        tile,
    };
    let good = [
        ("replay:a.ronchi", replay("a.ronchi", None, None)),
        ("replay:///data/a.ronchi", replay("/data/a.ronchi", None, None)),
        ("replay:/d/a.ronchi?rate=2000", replay("/d/a.ronchi", Some(500_000), None)),
        ("replay:a b?c.ronchi?tile=3&rate=0.5", replay("a b?c.ronchi", Some(2_000_000_000), Some(3))),
    ];
    for (text, expected) in good {
        assert_eq!(ronchi_config::parse_source(text), Ok(expected), "{text}");
    }
    let bad =
        ["replay:", "replay:?rate=1", "replay:a?rate=0", "replay:a?rate=1e8", "replay:a?rate=nan", "replay:a?x=1"];
    for text in bad.into_iter().chain(["replay:a?tile=-1", "replay:a?rate", "replay:a?rate=1&rate=2", "replay:a\0b"]) {
        assert!(ronchi_config::parse_source(text).is_err(), "{text:?}");
    }
    let text = "[data]\ndirectory = '.'\n[[link]]\nsource = 'replay:old/a.ronchi?rate=10'\n";
    let plan = Plan::from_toml(text, "r.toml", "/runs".as_ref()).expect("good");
    assert_eq!(plan.links[0].source, replay("/runs/old/a.ronchi", Some(100_000_000), None));
    assert!(plan.describe().contains("replay of /runs/old/a.ronchi, 10.000 frames/s"), "{plan}");
}

/// Reductions of every kind come through with name and parameters, from files and from the command line.
#[test]
fn reductions() {
    let text = "[data]\ndirectory = '/d'\n[[link]]\nsource = 'tiles://h:5'\n[reduce]\ntotal = false\nsum = false\n\
                [[reduction]]\nkind = 'radial'\nname = 'profile'\nbins = 64\ncentre = [127.5, 128]\n\
                [[reduction]]\nkind = 'com'\nouter = 40.0\nalso = ['field', 'phase']\n[[reduction]]\nkind = 'min'\n";
    let plan = Plan::from_toml(text, "r.toml", Path::new("")).expect("valid");
    let typed = ["profile=radial:bins=64,centre=[127.5,128]", "com:outer=40,also=[field, phase]", "min"];
    let typed: Vec<Reduction> = typed.iter().map(|text| parse_reduction(text).expect(text)).collect();
    assert_eq!(plan.reductions, typed);
    assert!(plan.describe().contains("results   profile, com, min\n"), "{plan}");
    for (text, wrong) in [
        ("radial:bins", "KEY=VALUE"),
        ("sum=max", "belong to"),
        ("radial:bins=-1", "`bins`"),
        ("spiral", "expected one of `total`, `com`, `sum`"),
        ("com:also=[fields]", "unknown variant `fields`"),
    ] {
        let error = parse_reduction(text).expect_err(text).to_string();
        assert!(error.contains(wrong), "{text}: {error}");
    }
}
