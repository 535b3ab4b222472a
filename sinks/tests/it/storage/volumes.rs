//! Segments on several volumes: spread in turn, found through links, and each volume's failure its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ronchi_pipeline::format::DataSetState;
use ronchi_pipeline::{GapReason, Region, SigShape};
use ronchi_sinks::storage::{
    Action, Bytes, Condition, Depth, Disk, DiskFile, Done, Op, ReadPlan, Reader, Repair, RepairPlan, StorageError,
    repair, verify,
};
use tempfile::TempDir;

use super::rig::{Feed, Rig, Written, check, cut, tempdir};
use super::verify::wait_durable;

/// 130 bytes per frame, 3 frames per chunk, 2 chunks per segment: a segment every 6 frames.
const SHAPE: SigShape = SigShape { height: 5, width: 13 };
const PER_SEGMENT: u64 = 6;

/// A rig whose segments go to so many volumes, and where these are.
fn striped(volume_count: usize, announced: Option<u64>) -> (Rig, Vec<TempDir>) {
    let volumes: Vec<TempDir> = (0..volume_count).map(|_| tempdir()).collect();
    let mut rig = Rig::new(SHAPE, "<u2", 3, 2, announced);
    rig.volumes = volumes.iter().map(|volume| volume.path().to_owned()).collect();
    (rig.plan.volume_count, rig.plan.stripe_blocks) = (volume_count, 4);
    (rig, volumes)
}

/// Segments that lie in each volume, by their names.
fn held(volumes: &[TempDir]) -> Vec<Vec<String>> {
    let names = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).map(|list| list.map(|entry| entry.expect("entry").path()).collect()).unwrap_or_default()
    };
    let name = |path: &PathBuf| path.file_name().expect("name").to_string_lossy().into_owned();
    let held = |volume: &TempDir| {
        let mut held: Vec<String> =
            names(volume.path()).iter().flat_map(|home| names(home)).map(|p| name(&p)).collect();
        held.sort();
        held
    };
    volumes.iter().map(held).collect()
}

fn feeds(count: u64) -> Vec<Feed> {
    cut(0, 0..count, 3, |_| false)
}

/// Every segment goes to the next volume, and everything reads as if it lay in the data set.
#[test]
fn segments_go_round() {
    let (rig, volumes) = striped(3, Some(31));
    let written = rig.write(&feeds(31));
    written.check_clean();
    assert_eq!(held(&volumes), [vec!["0-0", "0-3"], vec!["0-1", "0-4"], vec!["0-2", "0-5"]]);
    let link = fs::read_link(written.path.join("frames/c/4/0/0")).expect("a link");
    assert!(link.is_absolute() && link.ends_with("scan-30313233.segments/0-4"), "{}", link.display());
}

/// Open-ended, tiled, and with late frames: the segment made ahead is removed with its link.
#[test]
fn tiles_and_open_ends() {
    let (mut rig, volumes) = striped(2, None);
    rig.detector = SigShape { height: 5, width: 26 };
    rig.regions = vec![Region { y: 0, x: 0, height: 5, width: 13 }, Region { y: 0, x: 13, height: 5, width: 13 }];
    let mut all = feeds(14);
    all.extend(cut(1, 0..12, 3, |_| false));
    rig.write(&all).check_clean();
    assert_eq!(held(&volumes), [vec!["0-0", "0-2", "1-1"], vec!["0-1", "1-0"]]);
}

/// Fails every write to one volume from the N-th on.
struct DeadVolume {
    inner: Box<dyn Disk>,
    volume: u8,
    left: Arc<AtomicUsize>,
    fired: Arc<AtomicUsize>,
    refused: Vec<Done>,
}

impl Disk for DeadVolume {
    fn describe(&self) -> String {
        "one volume dies".to_owned()
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.refused.len()
    }
    fn attach(&mut self, file: File) -> DiskFile {
        self.inner.attach(file)
    }
    fn detach(&mut self, file: DiskFile) {
        self.inner.detach(file);
    }
    fn submit(&mut self, op: Op) {
        let is_data = matches!(op.action, Action::Write(_, Bytes::Block(..) | Bytes::Page(_)));
        let is_here = is_data && op.tag.volume == self.volume;
        if is_here && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            self.fired.fetch_add(1, Ordering::Relaxed);
            let result = Err(io::Error::other("the disk is gone"));
            self.refused.push(Done { op, result });
        } else {
            self.inner.submit(op);
        }
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        if self.refused.is_empty() {
            self.inner.reap(patience, done);
        } else {
            done.append(&mut self.refused);
            self.inner.reap(Duration::ZERO, done);
        }
    }
}

/// Whenever a volume dies: frames are lost in its segments only, and segments begun later lie elsewhere.
#[test]
fn a_dead_volume_costs_its_own_segments() {
    let mut losses = 0;
    for writes in 0..14 {
        let (mut rig, volumes) = striped(2, Some(60));
        let (left, fired) = (Arc::new(AtomicUsize::new(writes)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&fired);
        rig.wrap = Some(Box::new(move |inner| {
            Box::new(DeadVolume { inner, volume: 1, left, fired: counted, refused: Vec::new() })
        }));
        let written = rig.write(&feeds(60));
        written.check();
        let end = &written.ends[0];
        let has_fired = fired.load(Ordering::Relaxed) > 0; // Fewer writes are enough when publication is rare.
        assert!(has_fired || writes > 4, "only {writes} writes to a volume of five segments");
        assert_eq!(end.state == DataSetState::Failed, has_fired, "{end:?}");
        assert!(end.law.holds, "{}", end.law);
        losses += u64::from(end.gaps.frame_count() > 0);
        let is_on_dead = |gap: &ronchi_pipeline::Gap| {
            (gap.first / PER_SEGMENT..=(gap.first + gap.count - 1) / PER_SEGMENT).all(|segment| {
                fs::read_link(written.path.join(format!("frames/c/{segment}/0/0")))
                    .is_ok_and(|target| target.starts_with(volumes[1].path()))
            })
        };
        assert!(end.gaps.iter().all(|gap| gap.reason == GapReason::WriteFailed && is_on_dead(&gap)), "{:?}", end.gaps);
        let held = held(&volumes);
        assert!(held[0].len() >= 5 && held[0].len() + held[1].len() == 10, "{held:?}");
        assert!(check(&written.path).is_intact());
    }
    assert!(losses > 4, "{losses} of 14 runs lost frames");
}

/// A volume that is not mounted is passed over from the first segment on, and is not made; without any, all is lost.
#[test]
fn volumes_that_are_not_there() {
    let (mut rig, volumes) = striped(2, Some(24));
    rig.volumes[0] = volumes[0].path().join("not/mounted");
    let written = rig.write(&feeds(24));
    written.check_clean();
    assert_eq!((held(&volumes)[1].len(), volumes[0].path().join("not").exists()), (4, false));

    let (mut rig, volumes) = striped(1, Some(24));
    rig.volumes[0] = volumes[0].path().join("not/mounted");
    let written = rig.write(&feeds(24));
    written.check();
    assert_eq!((written.ends[0].gaps.frame_count(), written.ends[0].law.holds), (24, true));
}

/// A volume that is no longer mounted is an error for readers, never zeros.
#[test]
fn a_missing_volume_is_an_error_for_readers() {
    let (rig, volumes) = striped(2, Some(12));
    let written: Written = rig.write(&feeds(12));
    fs::rename(volumes[1].path(), volumes[1].path().with_extension("away")).expect("unmounted");
    let reader = Reader::open(&written.path).expect("data set");
    let mut bytes = Vec::new();
    reader.read_frames(0, 0..6, &mut bytes).expect("on the volume that is there");
    let refused = reader.read_frames(0, 0..12, &mut bytes).expect_err("on the other");
    assert!(refused.to_string().contains("frames/c/1/0/0"), "{refused}");
    assert!(!check(&written.path).is_intact());
    fs::rename(volumes[1].path().with_extension("away"), volumes[1].path()).expect("mounted again");
}

/// A data set on two volumes as its receiver left it when it was killed: open-ended, 14 frames in three segments, and the
/// next one made ahead.
fn killed() -> (PathBuf, Vec<TempDir>, TempDir) {
    let (mut rig, volumes) = striped(2, None);
    let (kept, dir) = ([tempdir(), tempdir()], tempdir());
    let (from, path) = (rig.volumes.clone(), dir.path().join("scan.ronchi"));
    let to: Vec<PathBuf> = kept.iter().map(|volume| volume.path().to_owned()).collect();
    let moved = path.clone();
    rig.during = Some(Box::new(move |data_set| {
        wait_durable(data_set, 14);
        while !data_set.join("frames/c/3/0/0").is_symlink() {
            std::thread::yield_now(); // The clerk makes it ahead.
        }
        copy_with_links(data_set, &moved, &from, &to);
        from.iter().zip(&to).for_each(|(from, to)| copy_files(from, to));
    }));
    rig.write(&feeds(14)).check_clean();
    drop(volumes);
    (path, kept.into(), dir)
}

/// Copies files and directories below `from` into `to`, which is there.
fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("directory").map(|entry| entry.expect("entry")) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).expect("directory");
            copy_files(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copy");
        }
    }
}

/// Copies a data set, with links to the same places of other volumes.
fn copy_with_links(from: &Path, to: &Path, old: &[PathBuf], new: &[PathBuf]) {
    fs::create_dir(to).expect("directory");
    for entry in fs::read_dir(from).expect("directory").map(|entry| entry.expect("entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_symlink() {
            let target = fs::read_link(&from).expect("link");
            let place = old.iter().position(|volume| target.starts_with(volume)).expect("in a volume");
            let target = new[place].join(target.strip_prefix(&old[place]).expect("in a volume"));
            std::os::unix::fs::symlink(target, to).expect("link");
        } else if from.is_dir() {
            copy_with_links(&from, &to, old, new);
        } else if from.extension().is_none_or(|extension| extension != "part") {
            fs::copy(&from, &to).expect("copy");
        }
    }
}

fn mend(path: &Path) -> Result<Repair, StorageError> {
    repair(path, &RepairPlan::default(), &mut |_, _| {})
}

fn relink(path: &Path, segment: u64, target: &Path) {
    let link = path.join(format!("frames/c/{segment}/0/0"));
    fs::remove_file(&link).expect("link");
    std::os::unix::fs::symlink(target, link).expect("link");
}

/// A segment that was made ahead goes with its link and its file; what is left is intact.
#[test]
fn repair_removes_what_was_made_ahead() {
    let (path, volumes, _dir) = killed();
    assert_eq!(held(&volumes), [vec!["0-0", "0-2"], vec!["0-1", "0-3"]]);
    let done = mend(&path).expect("repaired");
    assert_eq!((done.before, done.present, done.lost), (Condition::Died, 14, 0), "{done:?}");
    assert_eq!(held(&volumes), [vec!["0-0", "0-2"], vec!["0-1"]]);
    assert!(!path.join("frames/c/3").exists());
    assert!(check(&path).is_intact());
    assert_eq!(mend(&path).expect("again").change_count, 0);
}

/// A volume that is not mounted: nothing is decided of its frames, and nothing is changed.
#[test]
fn repair_waits_for_volumes() {
    let (path, volumes, _dir) = killed();
    let away = volumes[1].path().with_extension("away");
    fs::rename(volumes[1].path(), &away).expect("unmounted");
    let refused = mend(&path).expect_err("not mounted").to_string();
    assert!(refused.contains("frames/c/1/0/0") && refused.contains("is its disk mounted"), "{refused}");
    fs::rename(&away, volumes[1].path()).expect("mounted again");
    assert_eq!(mend(&path).expect("repaired").present, 14);
}

/// A receiver that dies while it discards a segment leaves a link that leads nowhere in a volume that is there.
#[test]
fn repair_removes_links_to_what_was_discarded() {
    let (path, volumes, _dir) = killed();
    fs::remove_file(volumes[1].path().join("scan-30313233.segments/0-3")).expect("segment");
    assert_eq!(mend(&path).expect("repaired").present, 14);
    assert!(!path.join("frames/c/3/0/0").is_symlink() && check(&path).is_intact());
}

/// Links that lead to other files, by whatever name, or to this name of another's: nothing behind them is changed or given
/// out as pixels, everybody says so, and `repair` puts them aside.
#[test]
fn links_that_lead_elsewhere() {
    let elsewhere = tempdir();
    let home = elsewhere.path().join("scan-30313233.segments");
    fs::create_dir(&home).expect("directory");
    for (name, is_found) in
        [("scan-30313233.segments/0-2", true), ("scan-30313233.segments/0-1", false), ("letters", true)]
    {
        let (path, volumes, _dir) = killed();
        let victim = elsewhere.path().join(name);
        // Of this data set and its own name only in one case, and then of another place.
        fs::copy(volumes[0].path().join("scan-30313233.segments/0-2"), &victim).expect("copy");
        let before = fs::read(&victim).expect("file");
        relink(&path, 1, &victim);
        if is_found {
            let reader = Reader::open(&path).expect("data set");
            let refused = reader.read_frames(0, 6..7, &mut Vec::new()).expect_err("elsewhere").to_string();
            assert!(refused.contains(name) && refused.contains("<volume>/scan-30313233.segments/0-1"), "{refused}");
            let mut runs = reader.runs(0, 6..7, &ReadPlan::default()).expect("runs");
            let run = runs.next_run().expect("memory").expect("a run");
            assert!(run.error.expect("elsewhere").to_string().contains(name));
        }
        let flaws = verify(&path, Depth::Quick, &mut |_, _| {}).expect("a data set").flaws;
        assert!(flaws.iter().any(|flaw| flaw.file.ends_with("frames/c/1/0/0")), "{name}: {flaws:?}");
        let dry = RepairPlan { is_dry: true, ..RepairPlan::default() };
        let told = repair(&path, &dry, &mut |_, _| {}).expect("told");
        assert!((told.present, told.lost) == (8, 6) && path.join("frames/c/1/0/0").is_symlink(), "{name}: {told:?}");
        let done = mend(&path).expect("repaired");
        assert_eq!((done.present, done.lost), (8, 6), "{name}: {done:?}");
        assert!(path.join("orphans/0-1").is_symlink() && check(&path).is_intact());
        assert_eq!(fs::read(&victim).expect("file"), before, "{name} was changed");
    }
}

/// A segment in a volume that does not say whose it is, is not written to; a copy in place of the link is repaired.
#[test]
fn repair_writes_only_to_what_it_knows() {
    let (path, volumes, _dir) = killed();
    let segment = volumes[1].path().join("scan-30313233.segments/0-1");
    let mut bytes = fs::read(&segment).expect("segment");
    bytes[4032..4096].fill(0);
    fs::write(&segment, &bytes).expect("write");
    let refused = mend(&path).expect_err("whose is it").to_string();
    assert!(refused.contains("put a copy of the file in place of the link"), "{refused}");
    assert_eq!(fs::read(&segment).expect("segment"), bytes);
    let link = path.join("frames/c/1/0/0");
    fs::remove_file(&link).expect("link");
    fs::copy(&segment, &link).expect("copy");
    assert_eq!(mend(&path).expect("repaired").present, 14);
    assert!(check(&path).is_intact());
}

/// Of a lost manifest the links still tell the name, whatever the directory is called now.
#[test]
fn a_renamed_data_set_keeps_its_volumes() {
    let (path, _volumes, dir) = killed();
    let renamed = dir.path().join("other.ronchi");
    fs::rename(&path, &renamed).expect("rename");
    fs::remove_file(renamed.join("zarr.json")).expect("manifest");
    assert_eq!(mend(&renamed).expect("repaired").present, 14);
    assert_eq!(Reader::open(&renamed).expect("data set").manifest().name, "scan");
}

/// Links in the place of anything else: no file that they lead to is made, emptied or written.
#[test]
fn repair_goes_through_no_other_link() {
    let victims = tempdir();
    let victim = victims.path().join("victim");
    let is_untouched = || fs::read(&victim).expect("victim") == b"precious" && !victims.path().join("new").exists();
    fs::write(&victim, "precious").expect("victim");
    for place in [".lock", "frame_table", "frame_table/flags/c/0", "frames/c", "frames/zarr.json", "results"] {
        let (path, _volumes, _dir) = killed();
        let place = path.join(place);
        if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place).or(Ok(())) }.expect("remove");
        for target in [&victim, victims.path(), &victims.path().join("new")] {
            std::os::unix::fs::symlink(target, &place).expect("link");
            let refused = mend(&path).expect_err("a link").to_string();
            assert!(refused.contains(&place.display().to_string()), "{refused}");
            fs::remove_file(&place).expect("link");
        }
        assert!(is_untouched(), "{}", place.display());
    }
    // What is replaced as a whole is, and a temporary name is removed.
    let (path, _volumes, _dir) = killed();
    for place in ["progress.json", "chunks.log", "scan.nxs.part", "zarr.json.part", "frames/zarr.json.part"] {
        let _ = fs::remove_file(path.join(place));
        std::os::unix::fs::symlink(&victim, path.join(place)).expect("link");
    }
    let _ = mend(&path);
    assert!(is_untouched());
}
