//! What goes in comes out, for every way of cutting, ordering and losing frames, on every disk access.

use proptest::prelude::*;
use ronchi_pipeline::format::{DataSetState, FramesArray, Progress};
use ronchi_pipeline::{Region, SigShape};
use ronchi_sinks::storage::{DiskChoice, Reader, ResultArray, StorageError};

use super::rig::{Feed, Rig, check, cut, pixels, tempdir};

const CHOICES: [(DiskChoice, bool); 4] = [
    (DiskChoice::Auto, true),
    (DiskChoice::UringUnregistered, true),
    (DiskChoice::Threads, true),
    (DiskChoice::Threads, false),
];

fn sig(height: u32, width: u32) -> SigShape {
    SigShape { height, width }
}

/// Whole blocks of odd frames over several segments, the last one incomplete, on every disk access.
#[test]
fn odd_frames_on_every_disk() {
    for (disk, is_direct) in CHOICES {
        for (shape, pixel, k, n, count) in [
            (sig(65, 67), "<u2", 7, 3, 50),
            (sig(514, 514), ">u2", 2, 2, 9),
            (sig(64, 64), "|u1", 4, 2, 16),
            (sig(1, 100), "<f4", 5, 9, 200),
        ] {
            let mut rig = Rig::new(shape, pixel, k, n, Some(count));
            (rig.plan.disk, rig.plan.is_direct, rig.plan.piece_bytes) = (disk, is_direct, 64 << 10);
            let written = rig.write(&cut(0, 0..count, k, |_| false));
            written.check_clean();
            assert_eq!(written.ends[0].durable_count, count);
        }
    }
}

/// The report names what is used.
#[test]
fn report_says_what_is_used() {
    let rig = Rig::new(sig(8, 8), "<u2", 1, 1, None);
    let mut plan = rig.plan.clone();
    let (_, report) = plan.choose_disk().expect("disk");
    assert_eq!(report.to_string(), "io_uring, registered buffers, O_DIRECT, depth 16");
    (plan.disk, plan.is_direct) = (DiskChoice::Threads, false);
    let (_, report) = plan.choose_disk().expect("disk");
    assert_eq!(report.to_string(), "8 pwrite threads, page cache, depth 16");
}

/// Blocks sealed early at every single place, alone and all together.
#[test]
fn early_seals_at_every_cut() {
    for at in 0..14 {
        Rig::new(sig(9, 131), "<u2", 7, 2, Some(14)).write(&cut(0, 0..14, 7, |frame| frame == at)).check_clean();
    }
    Rig::new(sig(9, 131), "<u2", 7, 2, Some(14)).write(&cut(0, 0..14, 7, |_| true)).check_clean();
}

/// Frames that come late, one by one and backwards, land in their places beside those that were there.
#[test]
fn late_frames_fill_their_gaps() {
    let mut feeds: Vec<Feed> = vec![(0, vec![0, 2, 4, 6]), (0, vec![7, 9, 13]), (0, vec![14, 15])];
    feeds.extend([12, 11, 10, 8, 5, 3, 1].map(|frame| (0, vec![frame])));
    for height in [1, 33, 64] {
        let written = Rig::new(sig(height, 64), "<u2", 7, 2, Some(16)).write(&feeds);
        written.check_clean();
        assert_eq!(written.ends[0].durable_count, 16);
    }
}

/// An open-ended run with gaps, one of them longer than a segment: the arrays end with the length that was reached.
#[test]
fn open_ended_with_gaps() {
    let mut feeds = cut(0, 0..9, 4, |_| false);
    feeds.extend(cut(0, 41..46, 4, |_| false));
    let written = Rig::new(sig(30, 31), ">u2", 4, 2, None).write(&feeds);
    written.check_clean();
    assert_eq!((written.ends[0].frame_count, written.ends[0].gaps.frame_count()), (46, 32));
    let reader = Reader::open(&written.path).expect("data set");
    assert_eq!(reader.tiles()[0].array.frame_count, 46);
    assert_eq!(reader.manifest().frame_count, Some(46));
    assert_eq!(reader.manifest().gaps[0].frame_count, 32);
    assert!(!written.path.join("frames/c/6").exists(), "the segment prepared ahead is removed");
    assert!(written.path.join("frames/c/5/0/0").exists());
}

/// Nothing at all was sent.
#[test]
fn empty_series() {
    for announced in [None, Some(20)] {
        let written = Rig::new(sig(30, 31), ">u2", 4, 2, announced).write(&[]);
        written.check_clean();
        assert_eq!(written.ends[0].frame_count, announced.unwrap_or(0));
    }
}

/// Two tiles of a grid, interleaved: each is whole, and the links of the whole array lead to the same segments.
#[test]
fn two_tiles_and_the_whole() {
    let mut rig = Rig::new(sig(20, 62), "<u2", 4, 2, Some(19));
    rig.regions = vec![Region { y: 0, x: 0, height: 20, width: 31 }, Region { y: 0, x: 31, height: 20, width: 31 }];
    let (left, right) = (cut(0, 0..19, 4, |_| false), cut(1, 0..17, 4, |frame| frame == 9));
    let feeds: Vec<Feed> = left.into_iter().zip(right).flat_map(|(l, r)| [l, r]).collect();
    let written = rig.write(&feeds);
    written.check();
    let text = std::fs::read_to_string(written.path.join("frames/zarr.json")).expect("whole array");
    let whole = FramesArray::from_json(&text).expect("whole array");
    assert_eq!((whole.shape, whole.tile, whole.frame_count), (sig(20, 62), sig(20, 31), 19));
    for (link, tile) in [("frames/c/1/0/0", "tiles/0/c/1/0/0"), ("frames/c/1/0/1", "tiles/1/c/1/0/0")] {
        let resolved = written.path.join(link).canonicalize().expect("link");
        assert_eq!(resolved, written.path.join(tile).canonicalize().expect("segment"));
    }
}

/// Two tiles of unknown length, one slower than the other: the whole array is as long as the longer tile, whichever
/// comes first and whichever ends last, also while they run.
#[test]
fn the_whole_is_as_long_as_the_longest_tile() {
    let whole_count = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path.join("frames/zarr.json")).expect("whole array");
        FramesArray::from_json(&text).expect("whole array").frame_count
    };
    for counts in [[19, 3], [3, 19]] {
        let mut rig = Rig::new(sig(20, 62), "<u2", 4, 2, None);
        rig.regions = vec![Region { y: 0, x: 0, height: 20, width: 31 }, Region { y: 0, x: 31, height: 20, width: 31 }];
        let tiles = (0..2).map(|tile: u32| cut(tile, 0..counts[tile as usize], 4, |_| false));
        let mut feeds: Vec<Feed> = tiles.flatten().collect();
        feeds.sort_by_key(|feed| feed.0 != if counts[0] > counts[1] { 0 } else { 1 }); // The longer tile first.
        rig.during = Some(Box::new(move |path| {
            let start = std::time::Instant::now();
            let durable = |tile: usize| {
                let text = std::fs::read_to_string(path.join(format!("tiles/{tile}/progress.json"))).ok()?;
                Some(Progress::from_json(&text).ok()?.durable_frames)
            };
            while (0..2).any(|tile| durable(tile) != Some(counts[tile])) {
                assert!(start.elapsed().as_secs() < 30, "{:?}", [durable(0), durable(1)]);
                std::thread::yield_now();
            }
            assert_eq!(whole_count(path), 24, "whole segments while running");
        }));
        let written = rig.write(&feeds);
        written.check_clean();
        assert_eq!(whole_count(&written.path), 19);
    }
}

/// A receiver that is cut off leaves what came as durable, and the rest as known to be missing.
#[test]
fn cut_off() {
    for announced in [Some(40), None] {
        let mut rig = Rig::new(sig(30, 31), "<u2", 4, 2, announced);
        rig.is_cut_off = true;
        let written = rig.write(&cut(0, 0..22, 4, |_| false));
        written.check_clean();
        let end = &written.ends[0];
        assert_eq!((end.frame_count, end.durable_count), (announced.unwrap_or(22), 22));
        assert_eq!(end.state, DataSetState::Interrupted);
    }
}

/// While a series runs, what progress calls visible and durable is readable and right, with the segment unsealed.
#[test]
fn frames_are_visible_while_running() {
    let mut rig = Rig::new(sig(30, 31), ">u2", 4, 8, Some(100));
    rig.during = Some(Box::new(|path| {
        let start = std::time::Instant::now();
        let mut reader = Reader::open(path).expect("data set");
        // 22 frames were sent, in the middle of a chunk; nothing more comes.
        while reader.refresh().is_err() || reader.progress(0).map_or(0, |progress| progress.durable_frames) < 22 {
            assert!(start.elapsed().as_secs() < 30, "{:?}", reader.progress(0));
            std::thread::yield_now();
        }
        assert_eq!(reader.progress(0).expect("progress").visible_frames, 22);
        let mut bytes = Vec::new();
        reader.read_frames(0, 0..22, &mut bytes).expect("frames");
        let expected: Vec<u8> = (0..22).flat_map(|frame| pixels(0, frame, 30 * 31 * 2)).collect();
        assert!(bytes == expected);
        let flags = reader.flags(0, 0..24).expect("flags");
        assert_eq!((&flags[..22], &flags[22..]), (&[0; 22][..], &[1; 2][..]));
        let found = check(path);
        assert_eq!((found.good, found.unknown, found.flaws), (5, 1, vec![]));
    }));
    rig.write(&cut(0, 0..22, 4, |frame| frame == 20)).check_clean();
}

/// Results keep their bytes and refuse wrong sizes and names; a data set is never opened twice for writing.
#[test]
fn results_and_names() {
    let rig = Rig::new(sig(2, 2), "|u1", 1, 1, Some(1));
    let written = rig.write(&[(0, vec![0])]);
    let path = written.path.join("results");
    let dir = tempdir();
    let series = &written.series[0];
    let new = ronchi_sinks::storage::NewDataSet {
        series,
        regions: &[series.announced.region],
        scan: None,
        created: String::new(),
        software: String::new(),
        user: serde_json::Value::Null,
        volumes: &[],
    };
    let set = ronchi_sinks::storage::DataSet::create(dir.path(), &new).expect("new");
    assert!(matches!(ronchi_sinks::storage::DataSet::create(dir.path(), &new), Err(StorageError::Exists { .. })));
    let result = ResultArray {
        name: "adf".into(),
        shape: vec![2, 3],
        data_type: "float32".into(),
        fill_value: "NaN".into(),
        dimension_names: vec!["scan_y".into(), "scan_x".into()],
        attributes: serde_json::json!({ "unit": "counts" }),
        bytes: vec![0; 24],
    };
    set.write_results([
        result.clone(),
        ResultArray { name: "one".into(), shape: vec![], dimension_names: vec![], bytes: vec![0; 4], ..result.clone() },
    ])
    .expect("results");
    assert_eq!(std::fs::read(set.path().join("results/adf/c/0/0")).expect("chunk"), vec![0; 24]);
    assert_eq!(std::fs::read(set.path().join("results/one/c")).expect("chunk"), vec![0; 4]);
    assert!(matches!(
        set.write_results([ResultArray { bytes: vec![0; 23], ..result.clone() }]),
        Err(StorageError::ResultSize { want_bytes: 24, .. })
    ));
    assert!(matches!(
        set.write_results([ResultArray { name: "../x".into(), ..result }]),
        Err(StorageError::Name { .. })
    ));
    assert!(!path.exists());
}

/// The reader refuses ranges that would take memory without bound, and tiles that are not there.
#[test]
fn reader_refuses() {
    let written = Rig::new(sig(2, 2), "|u1", 1, 1, Some(1)).write(&[(0, vec![0])]);
    let reader = Reader::open(&written.path).expect("data set");
    let mut bytes = Vec::new();
    assert!(matches!(reader.read_frames(0, 0..u64::MAX, &mut bytes), Err(StorageError::Range { .. })));
    assert!(matches!(reader.flags(0, 0..u64::MAX), Err(StorageError::Range { .. })));
    assert!(matches!(reader.read_frames(1, 0..1, &mut bytes), Err(StorageError::NoTile { tile: 1, .. })));
    assert!(Progress::from_json(&std::fs::read_to_string(written.path.join("progress.json")).expect("file")).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any frame size, any cuts, any losses, any late arrivals within the last two segments.
    #[test]
    fn any_stream(
        width in 1_u32..9000, k in 1_u32..9, n in 1_u32..4, count in 1_u64..60,
        fates in proptest::collection::vec(0_u8..8, 60), cuts in any::<u64>(), choice in 0_usize..4, announced in any::<bool>(),
        piece_sectors in 1_usize..5,
    ) {
        // Fate 0: lost. Fate 1: late, sent after the chunk that follows. Else in order.
        let mut rig = Rig::new(sig(1, width), "|u1", k, n, announced.then_some(count));
        (rig.plan.disk, rig.plan.is_direct) = CHOICES[choice];
        rig.plan.piece_bytes = piece_sectors * 4096;
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
