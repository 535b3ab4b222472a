//! `verify` finds whatever is damaged, and nothing where nothing is.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ronchi_pipeline::format::Progress;
use ronchi_pipeline::{GapReason, Region, SigShape};
use ronchi_sinks::storage::{Condition, Depth, Verification, verify};

use super::rig::{Feed, Rig, Written, check, cut, tempdir};

/// 130 bytes per frame, 3 frames per chunk, 4 chunks per segment: one segment has 12,288 bytes.
const SHAPE: SigShape = SigShape { height: 5, width: 13 };
const FRAME_BYTES: u64 = 130;
const SEGMENT_BYTES: u64 = 12_288;
const NOWHERE: [u64; 0] = [];
const SEGMENT: &str = "frames/c/0/0/0";

fn quick(path: &Path) -> Verification {
    verify(path, Depth::Quick, &mut |_, _| {}).expect("a data set")
}

/// One segment: chunk 1 lacks a frame, chunk 3 is absent.
fn small() -> Written {
    let feeds: Vec<Feed> = vec![(0, vec![0, 1, 2]), (0, vec![3, 5]), (0, vec![6, 7, 8])];
    Rig::new(SHAPE, "<u2", 3, 4, Some(12)).write(&feeds)
}

/// Two tiles of a grid, the right one with a gap.
fn tiled() -> Written {
    let mut rig = Rig::new(SigShape { height: 5, width: 26 }, "<u2", 3, 2, Some(14));
    rig.regions = vec![Region { y: 0, x: 0, height: 5, width: 13 }, Region { y: 0, x: 13, height: 5, width: 13 }];
    let mut feeds = cut(0, 0..14, 3, |_| false);
    feeds.extend(cut(1, 0..14, 3, |_| false).into_iter().filter(|feed| feed.1[0] != 3));
    rig.write(&feeds)
}

/// A copy of a data set that was being written: chunk 0 complete, chunk 1 begun, five frames durable. Nobody locks it.
fn died() -> (PathBuf, tempfile::TempDir) {
    let dir = tempdir();
    let path = dir.path().join("scan.ronchi");
    let mut rig = Rig::new(SHAPE, "<u2", 3, 4, Some(12));
    let to = path.clone();
    rig.during = Some(Box::new(move |from| {
        wait_durable(from, 5);
        copy(from, &to);
    }));
    rig.write(&[(0, vec![0, 1, 2]), (0, vec![3, 4])]).check_clean();
    (path, dir)
}

pub(super) fn wait_durable(path: &Path, frames: u64) {
    let start = Instant::now();
    let durable = || Progress::from_json(&fs::read_to_string(path.join("progress.json")).ok()?).ok();
    while durable().is_none_or(|progress| progress.durable_frames < frames) {
        assert!(start.elapsed().as_secs() < 30, "{:?}", durable());
        std::thread::yield_now();
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("directory");
    for entry in fs::read_dir(from).expect("directory") {
        let (from, to) = (entry.as_ref().expect("entry").path(), to.join(entry.expect("entry").file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else if from.extension().is_none_or(|extension| extension != "part") {
            fs::copy(&from, &to).expect("copy");
        }
    }
}

/// A power cut may take what progress said: no flaw where a receiver died, and what has a checksum is still checked.
#[test]
fn progress_lost_with_its_receiver_is_no_flaw() {
    let (path, _dir) = died();
    let progress = path.join("progress.json");
    for content in [Some(&b""[..]), Some(&[0; 200]), None] {
        match content {
            Some(bytes) => fs::write(&progress, bytes).expect("write"),
            None => fs::remove_file(&progress).expect("remove"),
        }
        let found = check(&path);
        assert_eq!(found.flaws, []);
        assert_eq!((found.condition, found.progress_lost, found.frames_promised), (Condition::Died, 1, 0));
        assert_eq!((found.good, found.unknown, found.doubtful), (1, 1, 0));
    }
}

/// All files below a directory, links too.
pub(super) fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() && !path.is_symlink() { found.extend(all_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Flips bits of a file one after the other and returns the bytes where `verify` found nothing.
fn undetected(root: &Path, name: &str, bits: impl Fn(u64) -> u8) -> Vec<u64> {
    undetected_in(root, name, 0..u64::MAX, bits)
}

fn undetected_in(root: &Path, name: &str, range: Range<u64>, bits: impl Fn(u64) -> u8) -> Vec<u64> {
    let path = root.join(name);
    let file = File::options().read(true).write(true).open(&path).expect("file");
    let mut silent = Vec::new();
    for at in range.start..file.metadata().expect("length").len().min(range.end) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        for bit in (0..8).filter(|bit| bits(at) >> bit & 1 == 1) {
            file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("write");
            let found = check(root);
            let is_named = !name.starts_with("frames/") || found.flaws.iter().any(|flaw| flaw.file == Path::new(name));
            assert!(is_named || found.is_intact(), "byte {at}, bit {bit}: {found:?}");
            if found.is_intact() && silent.last() != Some(&at) {
                silent.push(at);
            }
        }
        file.write_all_at(&byte, at).expect("write");
    }
    assert!(check(root).is_intact());
    silent
}

/// One bit per byte, another one in each.
fn one_bit(at: u64) -> u8 {
    1 << (at % 8)
}

/// Every byte of a segment of a finished data set carries something: also padding, absent chunks and places of missing
/// frames, which must be zero. All bits of page 0 and page 1, one of every other byte.
#[test]
fn every_flipped_bit_is_found() {
    let written = small();
    assert_eq!(fs::metadata(written.path.join(SEGMENT)).expect("segment").len(), SEGMENT_BYTES);
    std::thread::scope(|scope| {
        for share in 0..4 {
            scope.spawn(move || {
                let (bytes, written) = (SEGMENT_BYTES / 4, small());
                let bits = |at| if at < 8192 { 0xff } else { one_bit(at) };
                let range = share * bytes..(share + 1) * bytes;
                assert_eq!(undetected_in(&written.path, SEGMENT, range, bits), NOWHERE);
            });
        }
    });
    assert_eq!(undetected(&written.path, "chunks.log", |_| 0xff), NOWHERE);
    // A missing frame may as well be called truncated: 1 and 3 are one bit apart, and neither is there.
    assert_eq!(undetected(&written.path, "frame_table/flags/c/0", |_| !2), NOWHERE);
    assert_eq!(undetected(&written.path, "frame_table/flags/c/0", |_| 2), [4, 9, 10, 11]);
    // Of missing frames the checksum means nothing.
    let missing: Vec<u64> = [4, 9, 10, 11].iter().flat_map(|row| 4 * row..4 * row + 4).collect();
    assert_eq!(undetected(&written.path, "frame_table/crc32c/c/0", |_| 0xff), missing);
    // Numbers and times of frames that are there have no checksum; those of missing frames must be 0.
    for name in ["frame_table/counter/c/0", "frame_table/time_ns/c/0"] {
        let there = (0..12 * 8).filter(|at| ![4, 9, 10, 11].contains(&(at / 8))).collect::<Vec<u64>>();
        assert_eq!(undetected(&written.path, name, one_bit), there);
    }
}

/// Where a receiver died, frames that were not durable promise nothing: they may have been on their way. The durable
/// ones of a chunk that was not complete are known by their own checksums.
#[test]
fn only_frames_of_a_dead_receiver_that_were_not_durable_promise_nothing() {
    let (path, _dir) = died();
    let found = check(&path);
    assert_eq!((found.condition, found.good, found.unknown), (Condition::Died, 1, 1));
    let data_end = 8192 + 12 * FRAME_BYTES;
    let silent: Vec<u64> = (8192 + 5 * FRAME_BYTES..data_end).collect();
    assert_eq!(undetected(&path, SEGMENT, one_bit), silent);
}

/// Data sets of receivers that kept no checksums of frames are as good as their chunks.
#[test]
fn tables_without_checksums_are_read() {
    let written = small();
    fs::remove_dir_all(written.path.join("frame_table/crc32c")).expect("removed");
    let found = check(&written.path);
    assert!(found.is_intact() && found.unknown == 0, "{found:?}");
    assert_eq!(undetected_in(&written.path, SEGMENT, 8192..9000, one_bit), NOWHERE);
}

/// A segment that is cut, or grew, wherever.
#[test]
fn other_lengths_are_found() {
    let written = small();
    let path = written.path.join(SEGMENT);
    let whole = fs::read(&path).expect("segment");
    let odd = [1, 63, 4095, 4097, 8191, 8193, 8192 + 129, 9001, 12_287, 12_289];
    for bytes in (0..SEGMENT_BYTES).step_by(512).chain(odd) {
        let file = File::options().write(true).open(&path).expect("segment");
        file.set_len(bytes).expect("cut");
        for found in [check(&written.path), quick(&written.path)] {
            let length = found.flaws.iter().find(|flaw| flaw.what == "length").expect("a flaw");
            assert_eq!(length.file, Path::new(SEGMENT));
            assert_eq!((length.found.as_str(), length.expected.as_str()), (&*format!("{bytes} bytes"), "12288 bytes"));
        }
        file.write_all_at(&whole, 0).expect("whole again");
        file.set_len(SEGMENT_BYTES).expect("whole again");
    }
    assert!(check(&written.path).is_intact());
}

/// Without any one of its files a data set is flawed, or, without its manifest, none; with a directory or an empty file
/// in its place just as well.
#[test]
fn every_file_is_missed() {
    for written in [small(), tiled()] {
        // Companions say nothing that is not said elsewhere: without them it is as good.
        fs::remove_file(written.path.join("scan.nxs")).expect("a companion");
        assert!(check(&written.path).is_intact());
        let files = all_files(&written.path);
        assert!(files.len() > 10, "{files:?}");
        for path in files {
            let away = written.path.with_extension("away");
            fs::rename(&path, &away).expect("rename");
            let expect_found = || match verify(&written.path, Depth::Full, &mut |_, _| {}) {
                Ok(found) => assert!(!found.is_intact(), "{} is not missed", path.display()),
                Err(error) => {
                    assert_eq!(path, written.path.join("zarr.json"));
                    assert!(error.to_string().contains("zarr.json"), "{error}");
                }
            };
            expect_found();
            fs::create_dir(&path).expect("directory");
            expect_found();
            fs::remove_dir(&path).expect("directory");
            if !path.ends_with(".lock") {
                fs::write(&path, "").expect("file");
                expect_found();
                fs::remove_file(&path).expect("file");
            }
            fs::rename(&away, &path).expect("rename back");
        }
        assert!(check(&written.path).is_intact());
    }
}

/// A link of the whole image that leads to another tile, or to a segment that is gone.
#[test]
fn wrong_links_are_found() {
    let written = tiled();
    let link = written.path.join("frames/c/1/0/1");
    let target = fs::read_link(&link).expect("a link");
    for wrong in ["../../../../tiles/0/c/1/0/0", "../../../../tiles/1/c/9/0/0", "/etc/passwd"] {
        fs::remove_file(&link).expect("link");
        std::os::unix::fs::symlink(wrong, &link).expect("link");
        let found = check(&written.path);
        assert_eq!(found.flaws[0].file, Path::new("frames/c/1/0/1"), "{found:?}");
    }
    fs::remove_file(&link).expect("link");
    std::os::unix::fs::symlink(target, &link).expect("link");
    assert!(check(&written.path).is_intact());
}

/// What is whole is called whole, quickly or not, and counted right.
#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let whole = Rig::new(SHAPE, "<u2", 3, 4, Some(30)).write(&cut(0, 0..30, 3, |_| false));
    let empty = Rig::new(SHAPE, "<u2", 3, 4, None).write(&[]);
    for (written, frames, missing, segments, good) in
        [(whole, 30, 0, 3, 10), (small(), 12, 4, 1, 3), (tiled(), 28, 3, 6, 9), (empty, 0, 0, 0, 0)]
    {
        for found in [check(&written.path), quick(&written.path)] {
            assert_eq!(found.flaws, []);
            assert_eq!((found.frames_promised, found.frames_missing), (frames, missing));
            assert_eq!(found.frames_present, frames - missing);
            let never: Vec<_> = (missing > 0).then_some((GapReason::NeverArrived, missing)).into_iter().collect();
            assert_eq!(found.gaps.into_iter().collect::<Vec<_>>(), never);
            let sealed = (found.segments_sealed, found.unknown, found.doubtful);
            assert_eq!((found.segments, sealed, found.good), (segments, (segments, 0, 0), good));
        }
    }
}

/// Never a flaw in a data set that is being written, whenever one looks; and progress is reported to its end.
#[test]
fn a_growing_data_set_is_intact_all_the_time() {
    for announced in [Some(600), None] {
        let rig = Rig::new(SigShape { height: 16, width: 67 }, "<u2", 5, 4, announced);
        let path = rig.dir.path().join("scan.ronchi");
        let is_over = AtomicBool::new(false);
        let mut feeds = cut(0, 0..600, 5, |frame| frame % 7 == 0);
        feeds.retain(|feed| feed.1[0] % 31 != 0);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut looks = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let (mut last, mut total) = (0, 0);
                    let Ok(found) = verify(&path, Depth::Full, &mut |done, all| (last, total) = (done, all)) else {
                        continue; // It is not there yet.
                    };
                    assert!(found.is_intact(), "{found:?}");
                    assert_eq!(last, total);
                    looks += usize::from(found.condition == Condition::Running);
                }
                looks
            });
            let written = rig.write(&feeds);
            written.check();
            is_over.store(true, Ordering::Relaxed);
            assert!(looking.join().expect("no flaw") > 0, "never seen while it grew");
        });
    }
}

/// Numbers in metadata are believed only as far as memory and time allow.
#[test]
fn wild_numbers_neither_panic_nor_hang() {
    let (done, finished) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        for written in [small(), tiled()] {
            for path in all_files(&written.path).into_iter().filter(|path| path.extension().is_some()) {
                let Ok(text) = fs::read_to_string(&path) else { continue };
                for wild in ["18446744073709551615", "9223372036854775808", "4294967295", "0", "-1", "1e300", "null"] {
                    for (at, number) in numbers(&text) {
                        let changed = [&text[..at], wild, &text[at + number..]].concat();
                        fs::write(&path, changed).expect("write");
                        let _ = verify(&written.path, Depth::Full, &mut |_, _| {});
                    }
                }
                fs::write(&path, &text).expect("write");
            }
            assert!(check(&written.path).is_intact());
        }
        let _ = done.send(());
    });
    let result = finished.recv_timeout(Duration::from_secs(120));
    assert!(result.is_ok(), "it hangs, or: {:?}", worker.is_finished().then(|| worker.join().is_err()));
}

/// Where whole numbers stand in a JSON text, and how long they are.
fn numbers(text: &str) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match found.last_mut() {
            _ if !byte.is_ascii_digit() => {}
            Some((first, count)) if *first + *count == at => *count += 1,
            _ if at > 0 && b" ,[:\n".contains(&text.as_bytes()[at - 1]) => found.push((at, 1)),
            _ => {}
        }
    }
    found
}

/// A data set whose receiver found that its frames do not add up is never called intact, nor one that says they do.
#[test]
fn a_violated_law_is_a_flaw() {
    let written = small();
    let path = written.path.join("zarr.json");
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("manifest")).expect("JSON");
    let edits: [(&str, serde_json::Value); 3] = [
        ("/attributes/ronchi/gaps/0/law/holds", false.into()),
        ("/attributes/ronchi/gaps/0/law/durable", 9.into()),
        ("/attributes/ronchi/unsound", true.into()),
    ];
    assert_eq!(quick(&written.path).flaws, []);
    for (pointer, value) in edits {
        let mut edited = manifest.clone();
        let place = edited.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} in {manifest}"));
        *place = value;
        fs::write(&path, edited.to_string()).expect("written");
        let found = quick(&written.path);
        assert!(found.flaws.iter().any(|flaw| flaw.what.contains("conservation law")), "{pointer}: {:?}", found.flaws);
    }
}
