//! Compressed data sets: the same frames come out, for every way of cutting, ordering and losing them; damage is found.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proptest::prelude::*;
use ronchi_pipeline::format::{DataSetState, PackedChunk, PackedPage0, packed_page1, read_packed_page1};
use ronchi_pipeline::{FrameFlag, Region, SigShape};
use ronchi_sinks::storage::{DiskChoice, ReadPlan, Reader, Repair, RepairPlan, StorageError, repair, write_companions};

use super::rig::{Feed, Rig, Written, check, cut, pixels};

const CHOICES: [(DiskChoice, bool); 4] = [
    (DiskChoice::Auto, true),
    (DiskChoice::UringUnregistered, true),
    (DiskChoice::Threads, true),
    (DiskChoice::Threads, false),
];

fn sig(height: u32, width: u32) -> SigShape {
    SigShape { height, width }
}

fn page(path: &Path, frame_bytes: u64) -> PackedPage0 {
    let bytes = fs::read(path).expect("segment");
    assert!(read_packed_page1(&bytes[4096..8192]).is_ok(), "there is an HDF5 face");
    PackedPage0::decode(&bytes, frame_bytes).expect("page 0")
}

fn chunks(written: &Written, segment: u64) -> Vec<Option<PackedChunk>> {
    let path = written.path.join(format!("frames/c/{segment}/0/0"));
    page(&path, written.series[0].layout.frame_bytes).chunks
}

/// Whole blocks over several segments, the last one incomplete, on every disk access; the files end with their chunks.
#[test]
fn every_disk() {
    for (disk, is_direct) in CHOICES {
        for (shape, pixel, k, n, count) in [
            (sig(65, 67), "<u2", 7, 3, 50),
            (sig(514, 514), ">u2", 2, 2, 9),
            (sig(64, 64), "|u1", 4, 2, 16),
            (sig(1, 100), "<f4", 5, 9, 200),
        ] {
            let mut rig = Rig::new(shape, pixel, k, n, Some(count)).packed(2);
            (rig.plan.disk, rig.plan.is_direct) = (disk, is_direct);
            let written = rig.write(&cut(0, 0..count, k, |_| false));
            written.check_clean();
            assert_eq!(written.ends[0].durable_count, count);
            let end = chunks(&written, 0).iter().flatten().map(PackedChunk::end).max();
            let bytes = fs::metadata(written.path.join("frames/c/0/0/0")).expect("segment").len();
            assert_eq!(Some(bytes), end);
        }
    }
}

/// Blocks sealed early at every single place, alone and all together.
#[test]
fn early_seals_at_every_cut() {
    let rig = || Rig::new(sig(9, 131), "<u2", 7, 2, Some(14)).packed(1);
    for at in 0..14 {
        rig().write(&cut(0, 0..14, 7, |frame| frame == at)).check_clean();
    }
    rig().write(&cut(0, 0..14, 7, |_| true)).check_clean();
}

/// Frames that come late, one by one and backwards, land in their places beside those that were there.
#[test]
fn late_frames_fill_their_gaps() {
    let mut feeds: Vec<Feed> = vec![(0, vec![0, 2, 4, 6]), (0, vec![7, 9, 13]), (0, vec![14, 15])];
    feeds.extend([12, 11, 10, 8, 5, 3, 1].map(|frame| (0, vec![frame])));
    let written = Rig::new(sig(33, 64), "<u2", 7, 2, Some(16)).packed(2).write(&feeds);
    written.check_clean();
    assert_eq!(written.ends[0].durable_count, 16);
}

/// A third chunk in pieces pushes out the first: its missing frames, should they come, are gaps of the disk's.
#[test]
fn chunks_in_pieces_are_bounded() {
    let feeds: Vec<Feed> = vec![(0, vec![0, 1]), (0, vec![4, 5]), (0, vec![8, 9]), (0, vec![2, 3]), (0, vec![6, 7])];
    let written = Rig::new(sig(9, 131), "<u2", 4, 3, Some(12)).packed(1).write(&feeds);
    written.check();
    let end = &written.ends[0];
    assert_eq!((end.durable_count, end.gaps.by_reason()[&ronchi_pipeline::GapReason::WriteFailed]), (8, 2));
    assert_eq!(end.error.as_deref(), Some("frames came too late for their chunk"));
}

/// Open-ended with gaps, one longer than a segment; two tiles; nothing at all; a receiver that is cut off.
#[test]
fn other_series() {
    let mut feeds = cut(0, 0..9, 4, |_| false);
    feeds.extend(cut(0, 41..46, 4, |_| false));
    let written = Rig::new(sig(30, 31), ">u2", 4, 2, None).packed(2).write(&feeds);
    written.check_clean();
    assert_eq!((written.ends[0].frame_count, written.ends[0].gaps.frame_count()), (46, 32));
    let mut rig = Rig::new(sig(20, 62), "<u2", 4, 2, Some(19)).packed(2);
    rig.regions = vec![Region { y: 0, x: 0, height: 20, width: 31 }, Region { y: 0, x: 31, height: 20, width: 31 }];
    let (left, right) = (cut(0, 0..19, 4, |_| false), cut(1, 0..17, 4, |frame| frame == 9));
    rig.write(&left.into_iter().zip(right).flat_map(|(l, r)| [l, r]).collect::<Vec<_>>()).check();
    Rig::new(sig(30, 31), ">u2", 4, 2, Some(20)).packed(2).write(&[]).check_clean();
    let mut rig = Rig::new(sig(30, 31), "<u2", 4, 2, Some(40)).packed(2);
    rig.is_cut_off = true;
    let written = rig.write(&cut(0, 0..22, 4, |_| false));
    written.check_clean();
    assert_eq!((written.ends[0].durable_count, written.ends[0].state), (22, DataSetState::Interrupted));
}

/// While a series runs, what progress calls durable is readable and right, also of a chunk that is not complete; when the
/// rest of it comes it gets a new place.
#[test]
fn frames_are_visible_while_running() {
    let mut rig = Rig::new(sig(30, 31), ">u2", 4, 8, Some(100)).packed(1);
    rig.during = Some(Box::new(|path| {
        let start = std::time::Instant::now();
        let mut reader = Reader::open(path).expect("data set");
        while reader.refresh().is_err() || reader.progress(0).map_or(0, |progress| progress.durable_frames) < 22 {
            assert!(start.elapsed().as_secs() < 30, "{:?}", reader.progress(0));
            std::thread::yield_now();
        }
        let mut bytes = Vec::new();
        for (first, end) in [(0, 22), (3, 9), (5, 6), (21, 22)] {
            reader.read_frames(0, first..end, &mut bytes).expect("frames");
            let expected: Vec<u8> = (first..end).flat_map(|frame| pixels(0, frame, 30 * 31 * 2)).collect();
            assert!(bytes == expected, "{first}..{end}");
        }
        let found = check(path);
        assert_eq!((found.good, found.unknown, found.flaws), (6, 0, vec![]));
    }));
    rig.write(&cut(0, 0..22, 4, |frame| frame == 20)).check_clean();
}

/// Pixels that compress take less room than they are.
#[test]
fn zeros_take_no_room() {
    let written = Rig::new(sig(256, 256), "<u2", 8, 4, Some(32)).packed(2);
    let raw_bytes = 32 * 256 * 256 * 2;
    let written = written.write(&cut(0, 0..32, 8, |_| false));
    written.check_clean();
    let bytes = fs::metadata(written.path.join("frames/c/0/0/0")).expect("segment").len();
    assert!(bytes < raw_bytes, "{bytes} of {raw_bytes}");
}

/// Every byte of a stored chunk, of its log record and of page 0 counts; the reader refuses what it would misread.
#[test]
fn damage_is_found() {
    let feeds: Vec<Feed> = vec![(0, vec![0, 1, 2]), (0, vec![3, 5]), (0, vec![6, 7, 8])];
    let written = Rig::new(sig(5, 13), "<u2", 3, 4, Some(12)).packed(1).write(&feeds);
    written.check_clean();
    let segment = written.path.join("frames/c/0/0/0");
    let chunk = chunks(&written, 0)[1].expect("present");
    let file = File::options().read(true).write(true).open(&segment).expect("segment");
    let flips = (chunk.offset..chunk.offset + chunk.stored_bytes).step_by(7).chain([0, 40, 65, 73, 4040, 4100]);
    for at in flips {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("byte");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("flip");
        assert!(!check(&written.path).is_intact(), "byte {at}");
        let mut bytes = Vec::new();
        let read = Reader::open(&written.path).expect("data set").read_frames(0, 3..6, &mut bytes);
        assert_eq!(read.is_err(), !(4096..8192).contains(&at), "byte {at}");
        file.write_all_at(&byte, at).expect("back");
    }
    assert!(check(&written.path).is_intact());
    let log = written.path.join("chunks.log");
    let good = fs::read(&log).expect("log");
    for at in [17, 24, 31] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&log, &bad).expect("log");
        assert!(!check(&written.path).is_intact(), "byte {at} of the log");
    }
    fs::write(&log, &good).expect("log");
    file.set_len(chunk.offset).expect("cut");
    assert!(!check(&written.path).is_intact(), "cut off");
    let read = Reader::open(&written.path).expect("data set").read_frames(0, 3..6, &mut Vec::new());
    assert!(matches!(read, Err(StorageError::Format { .. })), "{read:?}");
}

fn run_repair(path: &Path) -> Repair {
    let plan = RepairPlan { time: "2026-01-01T00:00:00Z".into(), ..RepairPlan::default() };
    let done = repair(path, &plan, &mut |_, _| {}).expect("repaired");
    let found = check(path);
    assert!(found.is_intact(), "{found:?}\nafter {done:?}");
    assert_eq!(repair(path, &plan, &mut |_, _| {}).expect("again").change_count, 0, "after {done:?}");
    done
}

/// Page 0, log, table, metadata and manifest of a compressed data set are rebuilt, one at a time.
#[test]
fn repair_rebuilds_what_describes_chunks() {
    let write = || Rig::new(sig(9, 131), "<u2", 4, 3, Some(30)).packed(1).write(&cut(0, 0..27, 4, |_| false));
    assert_eq!(run_repair(&write().path).change_count, 0);
    for lost in ["frames/zarr.json", "chunks.log", "progress.json", "zarr.json", "frame_table"] {
        let written = write();
        let path = written.path.join(lost);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        let done = run_repair(&written.path);
        assert_eq!((done.present, done.lost), (27, 0), "without {lost}");
        let mut bytes = Vec::new();
        Reader::open(&written.path).expect("data set").read_frames(0, 0..27, &mut bytes).expect("frames");
        for (frame, got) in (0..).zip(bytes.chunks(2 * 9 * 131)) {
            assert!(got == pixels(0, frame, 2 * 9 * 131), "frame {frame} without {lost}");
        }
    }
    let written = write();
    let file = File::options().write(true).open(written.path.join("frames/c/0/0/0")).expect("segment");
    file.write_all_at(&[0xee; 4096], 0).expect("torn");
    let done = run_repair(&written.path);
    assert_eq!((done.present, done.lost), (27, 0), "page 0 is torn");
}

/// Both what tells the shape of frames may be lost at once: page 1 has it as well. What it says goes with page 0, from the
/// first version of the page on, and any other byte in it is found and put right.
#[test]
fn page_1_tells_the_shape_and_the_chunks() {
    let shape = sig(9, 131);
    let rig = || Rig::new(shape, ">u2", 4, 3, Some(30)).packed(1);
    let written = rig().write(&cut(0, 0..27, 4, |_| false));
    let path = written.path.join("frames/c/0/0/0");
    let good = fs::read(&path).expect("segment");
    let (layout, pixel) = (written.series[0].layout, written.series[0].announced.pixel);
    let expected = packed_page1(&layout, (shape, pixel), &chunks(&written, 0), true);
    assert_eq!(good[4096..8192], expected[..]);
    for lost in ["zarr.json", "frames/zarr.json"] {
        fs::remove_file(written.path.join(lost)).expect("removed");
    }
    assert_eq!(run_repair(&written.path).present, 27);
    let file = File::options().write(true).open(&path).expect("segment");
    for at in (4096..8192).step_by(13) {
        file.write_all_at(&[good[at] ^ 0x40], at as u64).expect("flipped");
        assert!(!check(&written.path).is_intact(), "byte {at}");
        assert_eq!(run_repair(&written.path).present, 27);
        assert_eq!(fs::read(&path).expect("segment"), good);
    }
    let mut rig = rig();
    rig.during = Some(Box::new(|path| {
        let start = std::time::Instant::now();
        let first = path.join("frames/c/0/0/0");
        let told = || fs::read(&first).ok().and_then(|bytes| read_packed_page1(&bytes[4096..8192]).ok());
        while told().is_none() {
            assert!(start.elapsed().as_secs() < 30, "no segment has been made");
            std::thread::yield_now();
        }
        assert_eq!(told().map(|(frames, shape, _)| (frames, shape)), Some((12, sig(9, 131))));
    }));
    rig.write(&cut(0, 0..27, 4, |_| false)).check_clean();
}

/// Segments of early receivers have an empty page 1: intact, but no companion shows their frames as zeros. Repair
/// gives them the page.
#[test]
fn an_empty_page_1_is_no_damage() {
    let written = Rig::new(sig(9, 131), "<u2", 4, 3, Some(30)).packed(1).write(&cut(0, 0..30, 4, |_| false));
    let segments: Vec<_> = (0..3).map(|number| written.path.join(format!("frames/c/{number}/0/0"))).collect();
    let good: Vec<_> = segments.iter().map(|path| fs::read(path).expect("segment")).collect();
    for path in &segments {
        let file = File::options().write(true).open(path).expect("segment");
        file.write_all_at(&[0; 4096], 4096).expect("emptied");
    }
    assert!(check(&written.path).is_intact());
    let refused = write_companions(&written.path).expect_err("refused").to_string();
    assert!(refused.contains("frames/c/0/0/0 has no HDF5 face"), "{refused}");
    assert_eq!(run_repair(&written.path).present, 30);
    for (path, good) in segments.iter().zip(&good) {
        assert_eq!(&fs::read(path).expect("segment"), good);
    }
    assert!(write_companions(&written.path).expect("companions").nexus);
}

/// Runs need no page 0: where it is torn, the log names the chunks; a damaged one costs its frames.
#[test]
fn runs_go_by_the_log() {
    let written = Rig::new(sig(9, 131), "<u2", 4, 3, Some(30)).packed(1).write(&cut(0, 0..27, 4, |_| false));
    let damaged = chunks(&written, 0)[1].expect("a chunk");
    let file = File::options().write(true).open(written.path.join("frames/c/0/0/0")).expect("segment");
    file.write_all_at(&[0xee; 4096], 0).expect("torn");
    file.write_all_at(&[0x11; 4], damaged.offset + 40).expect("damaged");
    let reader = Reader::open(&written.path).expect("data set");
    let mut runs = reader.runs(0, 0..30, &ReadPlan::default()).expect("runs");
    let (mut there, mut errors) = (Vec::new(), 0);
    while let Some(run) = runs.next_run().expect("memory") {
        errors += usize::from(run.error.is_some());
        for (at, frame) in run.frames.clone().enumerate().filter(|(at, _)| run.flags[*at] == FrameFlag::Ok) {
            assert!(run.bytes[at * 2 * 9 * 131..][..2 * 9 * 131] == pixels(0, frame, 2 * 9 * 131), "frame {frame}");
            there.push(frame);
        }
    }
    assert_eq!((there, errors), ((0..4).chain(8..27).collect(), 1));
}

/// A damaged chunk costs its frames, and no others.
#[test]
fn repair_gives_up_damaged_chunks_alone() {
    let written = Rig::new(sig(9, 131), "<u2", 4, 3, Some(24)).packed(1).write(&cut(0, 0..24, 4, |_| false));
    let chunk = chunks(&written, 0)[1].expect("a chunk");
    let file = File::options().write(true).open(written.path.join("frames/c/0/0/0")).expect("segment");
    file.write_all_at(&[0x11; 4], chunk.offset + 40).expect("damaged");
    let done = run_repair(&written.path);
    assert_eq!((done.present, done.lost), (20, 4));
    let flags = Reader::open(&written.path).expect("data set").flags(0, 0..24).expect("flags");
    assert_eq!(
        flags.iter().enumerate().filter(|(_, flag)| **flag != 0).map(|(f, _)| f).collect::<Vec<_>>(),
        [4, 5, 6, 7]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any frame size, any cuts, any losses, late arrivals one chunk behind, few or many threads.
    #[test]
    fn any_stream(
        width in 1_u32..9000, k in 1_u32..9, n in 1_u32..4, count in 1_u64..60,
        fates in proptest::collection::vec(0_u8..8, 60), cuts in any::<u64>(), choice in 0_usize..4, announced in any::<bool>(),
        threads in 1_u32..4,
    ) {
        let mut rig = Rig::new(sig(1, width), "|u1", k, n, announced.then_some(count)).packed(threads);
        (rig.plan.disk, rig.plan.is_direct) = CHOICES[choice];
        let mut feeds: Vec<Feed> = Vec::new();
        let mut late: Vec<Feed> = Vec::new();
        for chunk in cut(0, 0..count, k, |frame| cuts >> (frame % 64) & 1 == 1) {
            let fate = |frame: &u64| fates[*frame as usize];
            let frames: Vec<u64> = chunk.1.iter().copied().filter(|frame| fate(frame) > 1).collect();
            let sent_late: Vec<u64> = chunk.1.iter().copied().filter(|frame| fate(frame) == 1).collect();
            if !frames.is_empty() { feeds.push((0, frames)); }
            feeds.append(&mut late);
            if !sent_late.is_empty() { late.push((0, sent_late)); }
        }
        feeds.append(&mut late);
        let present = feeds.iter().map(|feed| feed.1.len() as u64).sum::<u64>();
        let written = rig.write(&feeds);
        written.check_clean();
        prop_assert_eq!(written.ends[0].durable_count, present);
    }
}
