//! `repair` keeps every frame that can be proved, makes gaps of all others, and leaves what `verify` finds intact.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{DataSetState, Manifest, Progress};
use ronchi_pipeline::{GapReason, Region, SigShape};
use ronchi_sinks::storage::{Condition, DataSet, NewDataSet, Reader, Repair, RepairPlan, StorageError, repair};
use tempfile::TempDir;

use super::rig::{Feed, Rig, check, cut, pixels, tempdir};
use super::verify::{copy, wait_durable};

/// 130 bytes per frame, 3 frames per chunk, 4 chunks per segment.
const SHAPE: SigShape = SigShape { height: 5, width: 13 };
const FRAME_BYTES: u64 = 130;
const SEGMENT: &str = "frames/c/0/0/0";

fn plan() -> RepairPlan {
    RepairPlan { time: "2026-01-02T00:00:00Z".into(), software: "test".into(), ..RepairPlan::default() }
}

fn run(path: &Path) -> Repair {
    repair(path, &plan(), &mut |_, _| {}).expect("repaired")
}

/// Repairs, and sees that nothing is left to find or to do.
fn run_and_check(path: &Path) -> Repair {
    let done = run(path);
    let found = check(path);
    assert!(found.is_intact() && found.unknown == 0 && found.doubtful == 0, "{found:?}\nafter {done:?}");
    assert!(found.condition.is_finished());
    let again = run(path);
    assert_eq!((again.change_count, again.changes), (0, Vec::new()), "after {done:?}");
    assert_eq!((again.present, again.frames), (done.present, done.frames));
    done
}

fn manifest(path: &Path) -> Manifest {
    Manifest::from_json(&fs::read_to_string(path.join("zarr.json")).expect("manifest")).expect("manifest")
}

/// Frames that are there, every one of them with the bytes and the number it was sent with.
fn present(path: &Path, tile: u32, has_numbers: bool) -> Vec<u64> {
    let reader = Reader::open(path).expect("data set");
    let array = &reader.tile(tile).expect("tile").array;
    let (count, frame_bytes) = (array.frame_count, array.layout.frame_bytes);
    let (mut bytes, flags) = (Vec::new(), reader.flags(tile, 0..count).expect("flags"));
    reader.read_frames(tile, 0..count, &mut bytes).expect("frames");
    let counters = reader.counters(tile, 0..count).expect("counters");
    let is_there = |frame: &u64| flags[*frame as usize] == 0;
    for frame in 0..count {
        let got = &bytes[(frame * frame_bytes) as usize..((frame + 1) * frame_bytes) as usize];
        match is_there(&frame) {
            true => assert!(got == pixels(tile, frame, frame_bytes), "frame {frame} of tile {tile} is another"),
            false => assert!(got.iter().all(|&byte| byte == 0), "frame {frame} of tile {tile} is missing, not zero"),
        }
        let number = counters[frame as usize];
        assert!(!is_there(&frame) || number == frame + 1000 || !has_numbers && number == 0, "{frame}: {number}");
    }
    (0..count).filter(is_there).collect()
}

/// A data set as its receiver left it when it was killed with at least so many frames durable.
fn killed(rig: Rig, feeds: &[Feed], durable: u64) -> (PathBuf, TempDir) {
    let (mut rig, dir) = (rig, tempdir());
    let path = dir.path().join("scan.ronchi");
    let to = path.clone();
    rig.during = Some(Box::new(move |from| {
        wait_durable(from, durable);
        copy(from, &to);
    }));
    rig.write(feeds).check_clean();
    (path, dir)
}

/// 17 of 24 announced frames, frame 4 never came: segment 0 is full but for it, segment 1 ends inside chunk 1.
fn died() -> (PathBuf, TempDir) {
    let feeds: Vec<Feed> = cut(0, 0..17, 3, |_| false).into_iter().map(|(link, f)| (link, without(f, 4))).collect();
    let mut rig = Rig::new(SHAPE, "<u2", 3, 4, Some(24));
    rig.plan.late_frames = 2;
    killed(rig, &feeds, 17)
}

fn without(mut frames: Vec<u64>, frame: u64) -> Vec<u64> {
    frames.retain(|&f| f != frame);
    frames
}

const DIED_PRESENT: [u64; 16] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).expect("file").write_all_at(bytes, offset).expect("write");
}

/// A receiver died: what was durable stays, the rest is listed, the data set is finished.
#[test]
fn a_dead_receiver() {
    let (path, _dir) = died();
    let done = run_and_check(&path);
    assert_eq!((done.before, done.frames, done.present, done.lost), (Condition::Died, 24, 16, 0));
    assert_eq!(present(&path, 0, true), DIED_PRESENT);
    let manifest = manifest(&path);
    assert_eq!((manifest.state, manifest.repairs.len()), (DataSetState::Interrupted, 1));
    assert_eq!((manifest.repairs[0].epoch, manifest.repairs[0].present), (2, 16));
    let reasons: Vec<_> = manifest.gaps[0].ranges.iter().map(|gap| (gap.first, gap.count, gap.reason)).collect();
    assert_eq!(reasons, [(4, 1, GapReason::Unknown), (17, 7, GapReason::LostInCrash)]);
    assert!(manifest.gaps[0].law.as_ref().is_some_and(|law| law.holds && law.durable == 16 && law.received.is_none()));
}

/// Everything but the segments is lost, one file after the other and all together: the same frames are there.
#[test]
fn documents_are_rebuilt_from_segments_alone() {
    let names = [
        "frames/zarr.json",
        "frame_table",
        "frame_table/flags/zarr.json",
        "frame_table/crc32c",
        "chunks.log",
        "progress.json",
        "zarr.json",
        ".lock",
    ];
    let complete = Rig::new(SHAPE, "<u2", 3, 4, Some(20)).write(&cut(0, 0..20, 3, |_| false));
    for lost in names.iter().map(|name| vec![*name]).chain([names.to_vec()]) {
        let dir = tempdir();
        let path = dir.path().join("scan.ronchi");
        copy(&complete.path, &path);
        for name in &lost {
            let path = path.join(name);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                .or_else(|error| if lost.len() > 1 { Ok(()) } else { Err(error) }) // Gone with what held it.
                .expect("removed");
        }
        let has_numbers = !lost.contains(&"frame_table");
        let done = run_and_check(&path);
        assert_eq!(present(&path, 0, has_numbers), (0..20).collect::<Vec<u64>>(), "without {lost:?}: {done:?}");
        assert_eq!(done.lost, 0, "without {lost:?}");
    }
}

/// Of a dead receiver's data set any one of the documents may be lost as well. Frames that were durable in a chunk that
/// was not complete have one witness, the table.
#[test]
fn one_more_loss_after_a_crash() {
    for name in ["frames/zarr.json", "chunks.log", "progress.json", "zarr.json", "frame_table/counter/zarr.json"] {
        let (path, _dir) = died();
        fs::remove_file(path.join(name)).expect("removed");
        run_and_check(&path);
        let mut got = present(&path, 0, true);
        got.retain(|&frame| frame < 24);
        assert_eq!(got, DIED_PRESENT, "without {name}");
    }
    let (path, _dir) = died();
    fs::remove_dir_all(path.join("frame_table")).expect("removed");
    run_and_check(&path);
    let got = present(&path, 0, false);
    // Chunks that were complete when page 0 was written last.
    let complete = [0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    assert!(complete.iter().all(|frame| got.contains(frame)), "{got:?}");
}

/// Page 0 torn, as by a power cut while it was rewritten: the log and the table have what it said.
#[test]
fn torn_pages() {
    for (name, bytes) in [(SEGMENT, 4096), (SEGMENT, 512), ("frames/c/1/0/0", 4096), ("frames/c/1/0/0", 8192)] {
        let (path, _dir) = died();
        overwrite(&path.join(name), 0, &vec![0xee; bytes]);
        run_and_check(&path);
        assert_eq!(present(&path, 0, true), DIED_PRESENT, "{name}, {bytes} bytes");
    }
}

/// A segment cut short loses the frames behind the cut, and no other.
#[test]
fn a_torn_tail() {
    let (path, _dir) = died();
    let file = File::options().write(true).open(path.join(SEGMENT)).expect("segment");
    file.set_len(8192 + 7 * FRAME_BYTES + 1).expect("cut");
    let done = run_and_check(&path);
    let left: Vec<u64> = DIED_PRESENT.into_iter().filter(|frame| !(7..12).contains(frame)).collect();
    assert_eq!((present(&path, 0, true), done.lost), (left, 5));
}

/// A bit that flipped in a finished data set costs its frame, which is listed as damaged, and no neighbour.
#[test]
fn rotten_bits_cost_their_frame_alone() {
    let written = Rig::new(SHAPE, "<u2", 3, 4, Some(12)).write(&cut(0, 0..12, 3, |_| false));
    overwrite(&written.path.join(SEGMENT), 8192 + 4 * FRAME_BYTES + 9, &[0]);
    assert!(!check(&written.path).is_intact());
    let plan = RepairPlan { keeps_torn: true, ..plan() };
    let done = repair(&written.path, &plan, &mut |_, _| {}).expect("repaired");
    assert_eq!((done.before, done.lost, done.present), (Condition::Complete, 1, 11));
    let torn = fs::read(written.path.join("torn/0/4.bin")).expect("kept");
    assert_eq!((torn.len() as u64, torn[9]), (FRAME_BYTES, 0));
    run_and_check(&written.path);
    assert_eq!(present(&written.path, 0, true), without((0..12).collect(), 4));
    overwrite(&written.path.join(SEGMENT), 8192 + 6 * FRAME_BYTES, &[0xee; 2 * FRAME_BYTES as usize]);
    let done = run(&written.path);
    let told = |what: &str| done.changes.iter().any(|change| change.what == what);
    assert!(told("frames 6 to 7 cannot be proved: zeroed") && done.lost == 2, "{done:?}");
    let gaps = manifest(&written.path).gaps[0].ranges.clone();
    let gaps: Vec<_> = gaps.iter().map(|gap| (gap.first, gap.count, gap.reason)).collect();
    assert_eq!(gaps, [(4, 1, GapReason::Damaged), (6, 2, GapReason::Damaged)]);
    assert!(manifest(&written.path).gaps[0].law.as_ref().is_some_and(|law| law.holds));
}

/// Nothing is done to a data set in which nothing is wrong: finished with gaps, in several segments, tiled.
#[test]
fn nothing_to_repair() {
    let gaps: Vec<Feed> = vec![(0, vec![0, 1, 2]), (0, vec![3, 5]), (0, vec![9, 10])];
    let tiled = cut(0, 0..14, 3, |_| false).into_iter().chain(cut(1, 0..14, 3, |frame| frame == 4));
    for written in [
        Rig::new(SHAPE, "<u2", 3, 4, Some(12)).write(&gaps),
        Rig::new(SHAPE, ">u2", 3, 2, None).write(&cut(0, 0..17, 3, |_| false)),
        two_tiles().write(&tiled.collect::<Vec<_>>()),
    ] {
        let before = contents(&written.path);
        assert_eq!(run(&written.path).change_count, 0, "{:?}", run(&written.path));
        assert!(before == contents(&written.path));
    }
}

fn two_tiles() -> Rig {
    let mut rig = Rig::new(SigShape { height: 5, width: 26 }, "<u2", 3, 2, Some(14));
    rig.regions = vec![Region { y: 0, x: 0, height: 5, width: 13 }, Region { y: 0, x: 13, height: 5, width: 13 }];
    rig
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    super::verify::all_files(dir).into_iter().map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}

/// Tiles of a grid get their links, their places and their common array back.
#[test]
fn tiles_are_put_together_again() {
    let written = two_tiles()
        .write(&cut(0, 0..14, 3, |_| false).into_iter().chain(cut(1, 0..11, 3, |_| false)).collect::<Vec<_>>());
    let dir = tempdir();
    let path = dir.path().join("scan.ronchi");
    for lost in [
        vec!["zarr.json"],
        vec!["frames/zarr.json", "tiles/zarr.json", "frames/c/1/0/1"],
        vec!["tiles/1/zarr.json", "tiles/0/chunks.log"],
    ] {
        let _ = fs::remove_dir_all(&path);
        copy(&written.path, &path);
        relink(&written.path, &path);
        lost.iter().for_each(|name| fs::remove_file(path.join(name)).expect("removed"));
        run_and_check(&path);
        assert_eq!(present(&path, 0, true), (0..14).collect::<Vec<u64>>(), "{lost:?}");
        assert_eq!(present(&path, 1, true), (0..11).collect::<Vec<u64>>(), "{lost:?}");
    }
}

/// Copies of links lead where the links led.
fn relink(from: &Path, to: &Path) {
    for link in super::verify::all_files(from).into_iter().filter(|path| path.is_symlink()) {
        let copy = to.join(link.strip_prefix(from).expect("inside"));
        fs::remove_file(&copy).expect("copied");
        std::os::unix::fs::symlink(fs::read_link(&link).expect("link"), copy).expect("link");
    }
}

/// A segment of another data set is moved out of the way; its frames are missing here.
#[test]
fn strangers_are_moved_aside() {
    let (path, _dir) = died();
    let other = Rig::new(SHAPE, "<u2", 3, 4, Some(24)).write(&cut(0, 0..24, 3, |_| false));
    fs::copy(other.path.join(SEGMENT), path.join("frames/c/1/0/0")).expect("copied");
    let done = run_and_check(&path);
    assert!(path.join("orphans/0-1").exists());
    assert_eq!((present(&path, 0, true), done.lost), (DIED_PRESENT[..11].to_vec(), 5));
}

/// A dry run tells the same and changes nothing.
#[test]
fn a_dry_run_changes_nothing() {
    let (path, _dir) = died();
    overwrite(&path.join(SEGMENT), 0, &[0xee; 4096]);
    fs::remove_file(path.join("chunks.log")).expect("removed");
    let before = contents(&path);
    let dry = repair(&path, &RepairPlan { is_dry: true, ..plan() }, &mut |_, _| {}).expect("told");
    assert!(before == contents(&path));
    let done = run_and_check(&path);
    assert_eq!((dry.present, dry.lost, dry.change_count > 0), (done.present, done.lost, true));
}

/// A data set that somebody writes, and a directory that is none, are left alone.
#[test]
fn refusals() {
    let dir = tempdir();
    let rig = Rig::new(SHAPE, "<u2", 3, 4, Some(24));
    let series = rig.series(0);
    let new = NewDataSet {
        series: &series,
        regions: &[SHAPE.region()],
        scan: None,
        created: "2026-01-01T00:00:00Z".into(),
        software: "test".into(),
        user: serde_json::Value::Null,
        volumes: &[],
    };
    let data_set = DataSet::create(dir.path(), &new).expect("data set");
    let refused = repair(data_set.path(), &plan(), &mut |_, _| {});
    assert!(matches!(refused, Err(StorageError::InUse { .. })), "{refused:?}");
    fs::create_dir(dir.path().join("photos")).expect("directory");
    let refused = repair(&dir.path().join("photos"), &plan(), &mut |_, _| {});
    assert!(matches!(refused, Err(StorageError::NoDataSet { .. })), "{refused:?}");
    assert!(contents(&dir.path().join("photos")).is_empty());
}

/// Progress is replaced without a sync: after a power cut it may be empty.
#[test]
fn an_empty_progress_is_no_progress() {
    let (path, _dir) = died();
    fs::write(path.join("progress.json"), b"").expect("emptied");
    run_and_check(&path);
    assert_eq!(present(&path, 0, true), DIED_PRESENT);
    let progress =
        Progress::from_json(&fs::read_to_string(path.join("progress.json")).expect("progress")).expect("progress");
    assert_eq!((progress.durable_frames, progress.durable_count, progress.missing), (24, 16, 8));
}
