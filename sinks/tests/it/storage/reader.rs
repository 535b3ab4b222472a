//! What was written is read back, on every access; what was damaged, lost or never came is a gap and nothing else.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ronchi_pipeline::format::Progress;
use ronchi_pipeline::{FrameFlag, GapReason, Gaps, Region, SigShape};
use ronchi_sinks::storage::{Access, Condition, ReadPlan, Reader, RunGap, StorageError};

use super::rig::{Feed, Rig, cut, pixels, tempdir};

const ALL: [Access; 4] = [Access::Auto, Access::Mapped, Access::Direct, Access::Plain];
const POLL: Duration = Duration::from_millis(1);

/// What came of going through a range.
#[derive(Debug, Default)]
struct Seen {
    /// Frames that are there.
    present: Vec<u64>,
    gaps: Vec<RunGap>,
    errors: Vec<String>,
    verified: u64,
}

/// Goes through frames of a tile; every frame that is said to be there must have its pixels.
fn read(reader: &Reader, tile: u32, frames: Range<u64>, plan: &ReadPlan) -> Seen {
    let layout = reader.tile(tile).expect("tile").array.layout;
    let frame_bytes = layout.frame_bytes as usize;
    let mut runs = reader.runs(tile, frames.clone(), plan).expect("runs");
    let mut seen = Seen::default();
    let mut next = frames.start;
    while let Some(run) = runs.next_run().expect("memory") {
        assert_eq!(run.frames.start, next, "I1: in order, without holes");
        assert!(run.frames.end > next && run.frames.end <= layout.chunk_end(next), "I1: {:?}", run.frames);
        next = run.frames.end;
        assert_eq!(run.flags.len() as u64, run.frames.end - run.frames.start);
        let mut by_gaps: Vec<u64> = run.gaps.iter().flat_map(|gap| gap.frames.clone()).collect();
        for ((position, frame), &flag) in run.frames.clone().enumerate().zip(run.flags) {
            if flag == FrameFlag::Ok {
                let found = &run.bytes[position * frame_bytes..][..frame_bytes];
                assert!(found == pixels(tile, frame, layout.frame_bytes), "frame {frame} of tile {tile}");
                seen.present.push(frame);
                by_gaps.push(frame);
            }
        }
        by_gaps.sort_unstable();
        assert_eq!(by_gaps, run.frames.clone().collect::<Vec<_>>(), "each frame is there or in one gap");
        seen.gaps.extend(run.gaps.iter().cloned());
        seen.errors.extend(run.error.map(|error| error.to_string()));
        seen.verified += u64::from(run.is_verified);
    }
    assert_eq!(next, frames.end, "I1: covered");
    assert!(runs.current_run().is_none());
    assert_eq!(runs.position(), frames.end);
    seen
}

fn plan(access: Access) -> ReadPlan {
    ReadPlan { access, ..ReadPlan::default() }
}

fn gap(frames: Range<u64>, flag: FrameFlag, reason: Option<GapReason>) -> RunGap {
    RunGap { frames, flag, reason }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any frame size, any losses, any part of it, on every access: frames and gaps are those that were written.
    #[test]
    fn what_was_written_is_read(
        width in 1_u32..9000, k in 1_u32..9, n in 1_u32..4, count in 1_u64..60, fates in any::<u64>(),
        start in 0_u64..60, len in 0_u64..60, announced in any::<bool>(), verify in any::<bool>(),
    ) {
        let is_lost = |frame: u64| fates >> frame & fates >> (frame / 2) & 1 == 1;
        let feeds = cut(0, 0..count, k, |_| false).into_iter().filter_map(|(link, mut frames)| {
            frames.retain(|&frame| !is_lost(frame));
            (!frames.is_empty()).then_some((link, frames))
        });
        let written = Rig::new(SigShape { height: 1, width }, "|u1", k, n, announced.then_some(count)).write(&feeds.collect::<Vec<_>>());
        let mut reader = Reader::open(&written.path).expect("data set");
        let extent = reader.extent(0).expect("extent");
        prop_assert_eq!((extent.end, extent.condition), (written.ends[0].frame_count, Condition::Complete));
        let frames = start..start + len;
        let end = extent.end;
        let expected: Vec<u64> = frames.clone().filter(|&frame| frame < end && !is_lost(frame)).collect();
        for access in ALL {
            let seen = read(&reader, 0, frames.clone(), &ReadPlan { access, verify, gaps: None });
            prop_assert_eq!(&seen.present, &expected, "{:?}", access);
            prop_assert!(seen.errors.is_empty());
            let reason = |gap: &RunGap| gap.frames.start >= end || gap.reason == Some(GapReason::NeverArrived);
            prop_assert!(seen.gaps.iter().all(reason), "{:?}", seen.gaps);
        }
    }
}

/// 130 bytes per frame, 3 frames per chunk, 4 chunks per segment, three segments and a bit; frame 4 is missing.
fn small() -> super::rig::Written {
    let mut feeds = cut(0, 0..38, 3, |_| false);
    feeds[1].1.retain(|&frame| frame != 4);
    Rig::new(SigShape { height: 5, width: 13 }, "<u2", 3, 4, Some(38)).write(&feeds)
}

fn change(path: &Path, at: u64, change: impl Fn(u8) -> u8) {
    let file = File::options().read(true).write(true).open(path).expect("file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("byte");
    file.write_all_at(&[change(byte[0])], at).expect("byte");
}

/// A flipped bit is found, by the checksum of the chunk in page 0, or in the log where page 0 is damaged too, and by that of
/// the frame where there is one: that frame, or else its chunk, is a gap, the error names segment and chunk, and everything else
/// is read.
#[test]
fn damage_is_a_gap() {
    for (is_page_damaged, has_checksums) in [(false, false), (true, false), (false, true), (true, true)] {
        let written = small();
        let segment = written.path.join("frames/c/1/0/0");
        change(&segment, 8192 + 2 * 390 + 200, |byte| byte ^ 16); // Frame 19, of chunk 2.
        if is_page_damaged {
            change(&segment, 3, |byte| byte ^ 1);
        }
        if !has_checksums {
            fs::remove_dir_all(written.path.join("frame_table/crc32c")).expect("as early receivers wrote");
        }
        let damaged = if has_checksums { 19..20 } else { 18..21 };
        let reader = Reader::open(&written.path).expect("data set");
        for access in ALL {
            let seen = read(&reader, 0, 0..38, &plan(access));
            let missing = gap(4..5, FrameFlag::Missing, Some(GapReason::NeverArrived));
            assert_eq!(seen.gaps, [missing.clone(), gap(damaged.clone(), FrameFlag::Corrupt, None)], "{access:?}");
            assert_eq!(seen.present.len() as u64, 37 - damaged.clone().count() as u64);
            assert_eq!(seen.errors.len(), 1);
            let error = &seen.errors[0];
            assert!(error.contains("frames/c/1/0/0") && error.contains("chunk 2 (frames 18 to 20)"), "{error}");
            // Of 13 chunks one is damaged and one holds but two announced frames: without checksums of frames both prove nothing.
            assert_eq!(seen.verified, if has_checksums { 13 } else { 11 });
            let part = read(&reader, 0, 17..19, &plan(access));
            assert_eq!((part.present.len(), part.errors.len()), (2, 0));
            assert_eq!(part.verified, if has_checksums { 2 } else { 0 });
        }
    }
}

/// A segment that was cut short, and one that cannot be opened as a file: what is left is read, the rest is a gap with a
/// reason, and nothing is a signal.
#[test]
fn what_is_left_of_files() {
    let written = small();
    let short = written.path.join("frames/c/0/0/0");
    File::options().write(true).open(&short).expect("file").set_len(8192 + 2 * 390).expect("shorter");
    let gone = written.path.join("frames/c/1/0/0");
    fs::remove_file(&gone).expect("removed");
    fs::create_dir(&gone).expect("in its place");
    fs::remove_file(written.path.join("frames/c/2/0/0")).expect("removed");
    let reader = Reader::open(&written.path).expect("data set");
    for access in ALL {
        let seen = read(&reader, 0, 0..38, &plan(access));
        assert_eq!(seen.present, [0, 1, 2, 3, 5, 36, 37], "{access:?}");
        assert_eq!(seen.errors.len(), 2 + 4, "two chunks cut off, four not to be opened: {:?}", seen.errors);
    }
}

/// Gaps that the caller knows replace table and manifest.
#[test]
fn told_gaps() {
    let written = small();
    fs::remove_dir_all(written.path.join("frame_table/flags/c")).expect("removed");
    let reader = Reader::open(&written.path).expect("data set");
    let mut gaps = Gaps::default();
    gaps.insert(4..7, GapReason::WriteFailed);
    let seen = read(&reader, 0, 0..37, &ReadPlan { access: Access::Direct, verify: false, gaps: Some(gaps) });
    let expected = [4..6, 6..7].map(|frames| gap(frames, FrameFlag::Missing, Some(GapReason::WriteFailed)));
    assert_eq!((seen.gaps.as_slice(), seen.present.len()), (expected.as_slice(), 34));
}

/// Without its frame table, a finished data set is read by its manifest and its checksums.
#[test]
fn a_lost_table() {
    let written = small();
    fs::remove_dir_all(written.path.join("frame_table/flags/c")).expect("removed");
    let reader = Reader::open(&written.path).expect("data set");
    for access in ALL {
        let seen = read(&reader, 0, 0..36, &plan(access));
        assert_eq!(seen.gaps, [gap(4..5, FrameFlag::Missing, Some(GapReason::NeverArrived))], "{access:?}");
    }
}

fn progress(path: &Path) -> Option<Progress> {
    Progress::from_json(&fs::read_to_string(path.join("progress.json")).ok()?).ok()
}

fn wait_durable(path: &Path, frames: u64) {
    let start = Instant::now();
    while progress(path).is_none_or(|progress| progress.durable_frames < frames) {
        assert!(start.elapsed().as_secs() < 30, "{:?}", progress(path));
        std::thread::yield_now();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("directory");
    for entry in fs::read_dir(from).expect("directory") {
        let from = entry.expect("entry").path();
        let to = to.join(from.file_name().expect("name"));
        if from.is_dir() {
            copy(&from, &to);
        } else if from.extension().is_none_or(|extension| extension != "part") {
            fs::copy(&from, &to).expect("copy");
        }
    }
}

/// A copy of a data set that was being written: 13 frames durable, in five chunks of two segments. Nobody locks it.
fn died() -> (PathBuf, tempfile::TempDir) {
    let dir = tempdir();
    let path = dir.path().join("scan.ronchi");
    let mut rig = Rig::new(SigShape { height: 5, width: 13 }, "<u2", 3, 4, None);
    let to = path.clone();
    rig.during = Some(Box::new(move |from| {
        wait_durable(from, 13);
        copy(from, &to);
    }));
    rig.write(&cut(0, 0..13, 3, |_| false)).check_clean();
    (path, dir)
}

/// What a dead receiver promised is read, whatever is lost beside it; what it did not promise only if it can be proven.
#[test]
fn a_dead_receiver_needs_no_repair() {
    for (access, has_checksums) in ALL.into_iter().flat_map(|access| [(access, true), (access, false)]) {
        let (path, _dir) = died();
        if !has_checksums {
            fs::remove_dir_all(path.join("frame_table/crc32c")).expect("as early receivers wrote");
        }
        let mut reader = Reader::open(&path).expect("data set");
        let extent = reader.extent(0).expect("extent");
        assert_eq!((extent.end, extent.condition), (13, Condition::Died));
        assert_eq!(read(&reader, 0, 0..13, &plan(access)).present.len(), 13);
        // Lost flags of frames in whole chunks are made good by the chunks.
        let flags = path.join("frame_table/flags/c/0");
        (0..12).for_each(|frame| change(&flags, frame, |_| 1));
        assert_eq!(read(&reader, 0, 0..13, &plan(access)).present.len(), 13, "{access:?}");
        // Without a promise the last frame, alone in its chunk, has its own checksum or none.
        let lost = gap(12..13, FrameFlag::Missing, Some(GapReason::LostInCrash));
        let lost = if has_checksums { vec![] } else { vec![lost] };
        let text = fs::read_to_string(path.join("progress.json")).expect("text");
        for torn in [Some(&text[..text.len() / 2]), Some(""), None] {
            match torn {
                Some(text) => fs::write(path.join("progress.json"), text).expect("torn"),
                None => fs::remove_file(path.join("progress.json")).expect("removed"),
            }
            let extent = reader.extent(0).expect("extent");
            assert_eq!((extent.end, extent.condition), (13, Condition::Died));
            let seen = read(&reader, 0, 0..13, &ReadPlan { access, verify: false, gaps: None });
            assert_eq!((&seen.gaps, seen.errors.len()), (&lost, 0), "{access:?}");
        }
        // Page 0 torn as well: the log proves the same.
        change(&path.join("frames/c/0/0/0"), 4033, |byte| byte ^ 255);
        change(&path.join("frames/c/1/0/0"), 4033, |byte| byte ^ 255);
        assert_eq!(reader.extent(0).expect("extent").end, 13);
        assert_eq!(read(&reader, 0, 0..13, &plan(access)).gaps, lost, "{access:?}");
        // What is not as it was written, and was not promised, was lost with the receiver.
        change(&path.join("frames/c/0/0/0"), 8192 + 3 * 390, |byte| byte ^ 1);
        change(&path.join("frames/c/1/0/0"), 8192, |byte| byte ^ 1);
        let seen = read(&reader, 0, 0..13, &plan(access));
        let corrupt = |frames| gap(frames, FrameFlag::Corrupt, Some(GapReason::LostInCrash));
        let expected =
            if has_checksums { vec![corrupt(9..10), corrupt(12..13)] } else { [vec![corrupt(9..12)], lost].concat() };
        assert_eq!(seen.gaps, expected, "{access:?}");
        assert_eq!(seen.errors.len(), 1 + usize::from(has_checksums));
    }
}

/// A reader that follows sees every frame once, with its pixels, while it is written, and hears of the end.
#[test]
fn following_a_growing_data_set() {
    for (access, announced) in [(Access::Auto, Some(64)), (Access::Direct, None), (Access::Plain, None)] {
        let mut rig = Rig::new(SigShape { height: 30, width: 31 }, ">u2", 4, 3, announced);
        let (to_reader, opened) = mpsc::channel::<PathBuf>();
        let (halfway, is_halfway) = mpsc::channel();
        rig.during = Some(Box::new(move |path| {
            to_reader.send(path.to_owned()).expect("reader waits");
            let come: u64 = is_halfway.recv().expect("reader follows"); // The series goes on only when it has come so far.
            assert_eq!(come, 50);
        }));
        let follower = std::thread::spawn(move || {
            let path = opened.recv().expect("data set");
            let mut reader = Reader::open(&path).expect("data set");
            let mut runs = None;
            let mut present = Vec::new();
            loop {
                let beyond = present.len() as u64;
                let deadline = Instant::now() + Duration::from_secs(30);
                let extent = reader.follow(0, beyond, POLL, deadline).expect("extent");
                assert!(Instant::now() < deadline, "nothing comes: {extent:?}");
                if extent.end > 0 {
                    let runs = match &mut runs {
                        None => runs.insert(reader.runs(0, 0..extent.end, &plan(access)).expect("runs")),
                        Some(runs) => {
                            runs.extend(&reader, extent.end).expect("the same tile");
                            runs
                        }
                    };
                    while let Some(run) = runs.next_run().expect("memory") {
                        assert!(run.error.is_none(), "{:?}", run.error);
                        for ((position, frame), flag) in run.frames.clone().enumerate().zip(run.flags) {
                            assert_eq!((*flag, frame), (FrameFlag::Ok, present.len() as u64));
                            assert!(run.bytes[position * 1860..][..1860] == pixels(0, frame, 1860));
                            present.push(frame);
                            if frame == 49 {
                                halfway.send(50).expect("writer waits");
                            }
                        }
                    }
                }
                if extent.condition != Condition::Running {
                    return (present.len(), extent);
                }
                if present.len() == 50 && extent.end == 50 && announced.is_some() {
                    // The writer seals now: frames 50 to 63 never come.
                    break (50, reader.extent(0).expect("extent"));
                }
            }
        });
        let feeds: Vec<Feed> = cut(0, 0..50, 4, |frame| frame == 20);
        rig.write(&feeds).check();
        let (count, extent) = follower.join().expect("no panic");
        assert_eq!(count, 50, "{access:?}");
        assert!(announced.is_some() || (extent.end, extent.condition) == (50, Condition::Complete), "{extent:?}");
    }
}

/// A tile that has not begun has no frames; one that is not in the manifest is an error, as is a range without end.
#[test]
fn what_is_refused() {
    let written = small();
    let mut reader = Reader::open(&written.path).expect("data set");
    assert!(matches!(reader.extent(7), Err(StorageError::NoTile { tile: 7, .. })));
    assert!(matches!(reader.runs(7, 0..1, &ReadPlan::default()), Err(StorageError::NoTile { tile: 7, .. })));
    assert!(matches!(reader.runs(0, 0..u64::MAX, &ReadPlan::default()), Err(StorageError::Range { .. })));
    let mut rig = Rig::new(SigShape { height: 5, width: 26 }, "<u2", 3, 2, Some(6));
    rig.regions = vec![Region { y: 0, x: 0, height: 5, width: 13 }, Region { y: 0, x: 13, height: 5, width: 13 }];
    let tiled = rig.write(&cut(1, 0..6, 3, |_| false));
    let reader = Reader::open(&tiled.path).expect("data set");
    for access in ALL {
        assert_eq!(read(&reader, 1, 0..6, &plan(access)).present.len(), 6);
        assert_eq!(read(&reader, 0, 0..6, &plan(access)).present.len(), 0);
    }
}
