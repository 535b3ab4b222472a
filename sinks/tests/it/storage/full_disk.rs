//! Disks that fill up: file systems of a few MiB, mounted where the tests run as root, and reserves that leave nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use ronchi_pipeline::format::{DataSetState, Progress};
use ronchi_pipeline::{Gap, GapReason, Layout, SigShape};
use ronchi_sinks::storage::{Depth, Disk, DiskFile, Done, Op, Reader, Space, StorageError, Wanted, tile_bytes, verify};
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

use super::rig::{Rig, Written, cut, tempdir};

const MIB: u64 = 1 << 20;
/// The log and the columns of the frame table.
const SMALL_FILES: usize = 5;
const DISK_BYTES: u64 = 12 * MIB;
/// Frames of 8 KiB, 64 in a segment.
const DETECTOR: SigShape = SigShape { height: 64, width: 64 };
const LAYOUT: Layout = Layout { frame_bytes: 8192, frames_per_chunk: 4, chunks_per_segment: 16 };

/// A file system of 12 MiB, unmounted when dropped.
struct SmallDisk {
    name: &'static str,
    dir: TempDir,
    _image: TempDir,
}

impl SmallDisk {
    /// One in memory and one on a loop device; none where the system does not let us, which is said.
    fn all() -> Vec<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount a small file system");
            return Vec::new();
        }
        ["tmpfs", "ext4"].into_iter().filter_map(Self::mount).collect()
    }

    fn mount(name: &'static str) -> Option<Self> {
        let disk = Self { name, dir: tempdir(), _image: tempdir() };
        let mut mount = Command::new("mount");
        if name == "tmpfs" {
            mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"]);
        } else {
            let image = disk._image.path().join("disk");
            File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("image");
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image), name)?;
            mount.args(["-t", "ext4", "-o", "loop"]).arg(&image);
        }
        run(mount.arg(disk.dir.path()), name)?;
        Some(disk)
    }

    fn free_bytes(&self) -> u64 {
        Space::of(self.dir.path(), 0).expect("statvfs").free_bytes
    }

    fn rig(&self, announced: Option<u64>, reserve_bytes: u64) -> Rig {
        let dir = tempfile::tempdir_in(self.dir.path()).expect("directory");
        let mut rig = Rig::new_in(dir, DETECTOR, "<u2", 4, 16, announced);
        rig.plan.reserve_bytes = reserve_bytes;
        rig
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).output(); // Not mounted when mounting failed.
    }
}

fn run(command: &mut Command, name: &str) -> Option<()> {
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            eprintln!("skipped: no {name} here: {}", String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) => {
            eprintln!("skipped: no {name} here: {error}");
            None
        }
    }
}

/// Numbers of the segments in a data set of one tile.
fn segments(data_set: &Path) -> Vec<u64> {
    let entries = fs::read_dir(data_set.join("frames/c")).expect("segments").flatten();
    let mut numbers: Vec<u64> = entries.map(|e| e.file_name().to_string_lossy().parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

fn part_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("directory").flatten().map(|entry| entry.path());
    let found = entries.flat_map(|path| if path.is_dir() { part_files(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "part")).collect()
}

/// Recorded up to a whole segment, sealed, the rest one gap `write_failed`; the law holds in the manifest too.
fn check_cut_short(written: &Written, name: &str) {
    written.check();
    let end = &written.ends[0];
    let durable = end.durable_count;
    assert!(durable > 0 && durable < end.frame_count && durable.is_multiple_of(64), "{name}: {durable}");
    let rest = Gap { first: durable, count: end.frame_count - durable, reason: GapReason::WriteFailed };
    assert_eq!(end.gaps.iter().collect::<Vec<_>>(), [rest], "{name}");
    assert_eq!(end.state, DataSetState::Failed, "{name}");
    assert!(end.error.as_ref().is_some_and(|error| error.contains("the disk is full")), "{name}: {:?}", end.error);
    assert_eq!(segments(&written.path), (0..durable / 64).collect::<Vec<_>>(), "{name}");
    assert_eq!(part_files(&written.path), Vec::<PathBuf>::new(), "{name}");
    let reader = Reader::open(&written.path).expect("data set");
    let found = verify(&written.path, Depth::Full, &mut |_, _| {}).expect("verify");
    assert_eq!((found.good, found.unknown, found.flaws), (durable / 4, 0, vec![]), "{name}");
    let manifest = reader.manifest();
    assert_eq!((manifest.gaps[0].law.as_ref(), manifest.unsound), (Some(&end.law), false), "{name}");
    let progress = fs::read_to_string(written.path.join("progress.json")).expect("progress");
    assert_eq!(Progress::from_json(&progress).expect("progress").state, DataSetState::Failed, "{name}");
}

/// What is said to fit does fit, to the last segment, and takes no more than was foreseen; one segment more is refused.
#[test]
fn what_is_said_to_fit_fits() {
    for disk in SmallDisk::all() {
        let free_bytes = disk.free_bytes();
        let space = Space { free_bytes, reserve_bytes: 2 * MIB };
        let bytes_of = |count: Option<u64>| tile_bytes(&LAYOUT, count);
        let wanted = |count| Wanted { frame_count: Some(count), row_frames: Some(32), bytes_of: &bytes_of };
        let Err(StorageError::NoRoom { need_bytes, frames_fit, rows_fit, .. }) = space.admit(&wanted(2560)) else {
            panic!("{}: 20 MiB were admitted", disk.name);
        };
        assert!(need_bytes > 20 * MIB && frames_fit >= 12 * 64, "{}: {frames_fit}", disk.name);
        assert_eq!(rows_fit, Some(frames_fit / 32));
        assert!(space.admit(&wanted(frames_fit)).is_ok() && space.admit(&wanted(frames_fit + 64)).is_err());
        let written = disk.rig(Some(frames_fit), 2 * MIB).write(&cut(0, 0..frames_fit, 4, |_| false));
        written.check_clean();
        assert_eq!(written.ends[0].durable_count, frames_fit);
        let taken = free_bytes - disk.free_bytes();
        assert!(taken <= bytes_of(Some(frames_fit)) && disk.free_bytes() >= 2 * MIB, "{}: {taken} taken", disk.name);
    }
}

/// A series that somebody else leaves no room for stops at the reserve, and an open-ended run too, without any reserve.
#[test]
fn recording_stops_at_the_reserve() {
    for disk in SmallDisk::all() {
        for (announced, reserve_bytes) in [(Some(2560), 3 * MIB), (None, 3 * MIB), (Some(2560), 0), (None, 0)] {
            let written = disk.rig(announced, reserve_bytes).write(&cut(0, 0..2560, 4, |_| false));
            check_cut_short(&written, disk.name);
            let free_bytes = disk.free_bytes();
            assert!(free_bytes >= reserve_bytes, "{}: {free_bytes} bytes left", disk.name);
            assert!(free_bytes < reserve_bytes + 3 * MIB, "{}: stopped early, {free_bytes} bytes left", disk.name);
        }
    }
}

/// Takes all space that is left once three segments and the files of the frame table are there.
struct Crowded {
    disk: Box<dyn Disk>,
    ballast: PathBuf,
    segments: usize,
    small_files: usize,
    is_crowded: bool,
}

impl Crowded {
    fn crowd(&self) {
        let ballast = File::create(&self.ballast).expect("ballast");
        let (mut size, mut step) = (0, MIB);
        while step >= 1024 {
            match fallocate(&ballast, FallocateFlags::empty(), size, step) {
                Ok(()) => size += step,
                Err(_) => step /= 2,
            }
        }
    }
}

impl Disk for Crowded {
    fn describe(&self) -> String {
        self.disk.describe()
    }
    fn capacity(&self) -> usize {
        self.disk.capacity()
    }
    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
    fn attach(&mut self, file: File) -> DiskFile {
        self.segments += 1;
        self.disk.attach(file)
    }
    fn attach_plain(&mut self, file: File) -> DiskFile {
        self.small_files += 1;
        self.disk.attach_plain(file)
    }
    fn detach(&mut self, file: DiskFile) {
        self.disk.detach(file);
    }
    fn submit(&mut self, op: Op) {
        if !self.is_crowded && self.segments >= 3 && self.small_files >= SMALL_FILES {
            self.is_crowded = true;
            self.crowd();
        }
        self.disk.submit(op);
    }
    fn reap(&mut self, patience: std::time::Duration, done: &mut Vec<Done>) {
        self.disk.reap(patience, done);
    }
}

/// Another program takes the very last byte: neither segments nor documents can be written until it leaves. What was
/// durable stays, the rest are gaps, and the end is told.
#[test]
fn a_disk_without_a_byte() {
    for disk in SmallDisk::all() {
        let mut rig = disk.rig(Some(1024), 0);
        let ballast = disk.dir.path().join("ballast");
        let path = ballast.clone();
        rig.wrap = Some(Box::new(move |disk| {
            Box::new(Crowded { disk, ballast: path, segments: 0, small_files: 0, is_crowded: false })
        }));
        let before_the_end = ballast.clone();
        rig.during = Some(Box::new(move |_| fs::remove_file(before_the_end).expect("ballast")));
        let written = rig.write(&cut(0, 0..1024, 4, |_| false));
        written.check();
        let end = &written.ends[0];
        assert!((1..=1024 - 64).contains(&end.durable_count), "{}: {}", disk.name, end.durable_count);
        assert!(end.gaps.iter().all(|gap| gap.reason == GapReason::WriteFailed));
        assert_eq!(end.state, DataSetState::Failed);
    }
}

/// With nothing to spare not one segment is created, and no panic either; needs no root.
#[test]
fn no_segment_at_all() {
    for announced in [Some(300), None] {
        let mut rig = Rig::new(DETECTOR, "<u2", 4, 16, announced);
        rig.plan.reserve_bytes = u64::MAX;
        let written = rig.write(&cut(0, 0..300, 4, |_| false));
        written.check();
        let end = &written.ends[0];
        assert_eq!((end.durable_count, end.gaps.by_reason()[&GapReason::WriteFailed]), (0, 300));
        assert_eq!(segments(&written.path), Vec::<u64>::new());
        assert!(end.error.as_ref().is_some_and(|error| error.contains(&u64::MAX.to_string())), "{:?}", end.error);
    }
}

/// A receiver whose counts do not add up: the tile fails, and the manifest says that nothing in it is to be believed.
#[test]
fn a_violated_law_is_stored() {
    let mut rig = Rig::new(DETECTOR, "<u2", 4, 16, Some(100));
    rig.invented_count = 3;
    let written = rig.write(&cut(0, 0..90, 4, |_| false));
    let end = &written.ends[0];
    assert_eq!((end.durable_count, end.gaps.frame_count(), end.law.received), (90, 10, Some(93)));
    assert_eq!(end.law.violations, ["3 frames were received and are neither durable nor refused"]);
    assert_eq!(end.state, DataSetState::Failed);
    assert!(end.error.as_ref().is_some_and(|error| error.starts_with("unsound: 100 frames != 90")), "{:?}", end.error);
    let reader = Reader::open(&written.path).expect("data set");
    assert_eq!((reader.manifest().unsound, reader.manifest().gaps[0].law.as_ref()), (true, Some(&end.law)));
}
