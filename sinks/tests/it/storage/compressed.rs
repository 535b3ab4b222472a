//! Frames that come compressed: stored without being compressed again, the same pixels come out, and those that do not
//! decode are gaps.

use std::fs;

use proptest::prelude::*;
use ronchi_pipeline::format::{DataSetState, PackedChunk, PackedPage0, bslz4};
use ronchi_pipeline::{Gap, GapReason, SigShape};
use ronchi_sinks::storage::{DiskChoice, Reader, Repair, RepairPlan, repair};

use super::rig::{Feed, Rig, Written, check, cut, pixels};

fn sig(height: u32, width: u32) -> SigShape {
    SigShape { height, width }
}

fn usual(_: u64) -> usize {
    8192
}

/// Blocks of frames in turn 1 KiB and 8 KiB long.
fn unlike(frame: u64) -> usize {
    if frame.is_multiple_of(3) { 1024 } else { 8192 }
}

fn chunks(written: &Written, segment: u64) -> Vec<(PackedChunk, Vec<u8>)> {
    let file = fs::read(written.path.join(format!("frames/c/{segment}/0/0"))).expect("segment");
    let page = PackedPage0::decode(file[..4096].try_into().expect("page"), written.series[0].layout.frame_bytes);
    let places = page.expect("page 0").chunks.into_iter().flatten();
    places.map(|place| (place, file[place.offset as usize..][..place.stored_bytes as usize].to_vec())).collect()
}

/// Whether every compressed block of a frame lies in a chunk as it was sent: all but the last one of a frame with odd pixels.
fn holds(chunk: &[u8], written: &Written, frame: u64) -> bool {
    let (layout, pixel) = (written.series[0].layout, written.series[0].announced.pixel);
    let mut sent = Vec::new();
    let frame_bytes = layout.frame_bytes;
    bslz4::Compressor::default().compress(&pixels(0, frame, frame_bytes), pixel.bytes(), &mut sent);
    let sent = bslz4::Bslz4::parse(&sent, frame_bytes as usize, pixel.bytes()).expect("a frame");
    let is_there = |block: &[u8]| chunk.windows(block.len()).any(|window| window == block);
    let blocks: Vec<_> = sent.blocks().collect();
    let even = &blocks[..blocks.len() - usize::from(!sent.tail().is_empty())];
    even.iter().filter(|block| block.payload.len() < block.block_bytes).all(|block| is_there(block.payload))
}

/// Whole chunks over several segments, the last one incomplete, on every disk access; no block is compressed again, and the
/// table has no checksums of frames.
#[test]
fn every_disk() {
    for (disk, is_direct) in [(DiskChoice::Auto, true), (DiskChoice::Threads, true), (DiskChoice::Threads, false)] {
        for (shape, pixel, k, n, count) in [
            (sig(64, 64), "<u2", 4, 3, 30),
            (sig(65, 67), ">u2", 1, 3, 7),
            (sig(64, 64), "|u1", 4, 2, 16),
            (sig(128, 64), "<f4", 2, 4, 21),
        ] {
            let mut rig = Rig::new(shape, pixel, k, n, Some(count)).compressed(2, usual);
            (rig.plan.disk, rig.plan.is_direct) = (disk, is_direct);
            let written = rig.write(&cut(0, 0..count, k, |_| false));
            written.check_clean();
            assert_eq!(written.ends[0].durable_count, count);
            let stored = chunks(&written, 0);
            assert!(stored.iter().all(|(_, chunk)| chunk[2] == 0x34), "bit-transposed LZ4");
            let k = k as usize;
            assert!((0..n as usize * k).all(|frame| holds(&stored[frame / k].1, &written, frame as u64)));
            assert!(!written.path.join("frame_table/crc32c").exists());
            assert!(written.path.join("frame_table/flags/c/0").exists());
        }
    }
}

/// Blocks sealed early at every single place, late frames, chunks in pieces: joined as if they had come in one piece.
#[test]
fn pieces() {
    let rig = || Rig::new(sig(32, 64), "<u2", 7, 2, Some(14)).compressed(1, usual);
    for at in 0..14 {
        rig().write(&cut(0, 0..14, 7, |frame| frame == at)).check_clean();
    }
    let written = rig().write(&cut(0, 0..14, 7, |_| true));
    written.check_clean();
    assert!((0..14).all(|frame| holds(&chunks(&written, 0)[frame as usize / 7].1, &written, frame)));
    let mut feeds: Vec<Feed> = vec![(0, vec![0, 2, 4, 6]), (0, vec![7, 9, 13])];
    feeds.extend([12, 11, 10, 8, 5, 3, 1].map(|frame| (0, vec![frame])));
    let written = rig().write(&feeds);
    written.check_clean();
    assert_eq!(written.ends[0].durable_count, 14);
}

/// Frames whose blocks do not go together in a chunk are decoded and packed: none is lost, in pieces or not.
#[test]
fn unlike_blocks() {
    for cuts in [|_: u64| false, |frame: u64| frame.is_multiple_of(2)] {
        let written = Rig::new(sig(64, 64), "<u2", 4, 3, Some(30)).compressed(2, unlike).write(&cut(0, 0..30, 4, cuts));
        written.check_clean();
        assert_eq!(written.ends[0].durable_count, 30);
    }
    let odd = Rig::new(sig(65, 67), "<u2", 3, 3, Some(12)).compressed(1, usual); // Several odd frames in a chunk.
    odd.write(&cut(0, 0..12, 3, |frame| frame == 4)).check_clean();
}

/// Frames that do not decode, in whole chunks, in pieces, in the last one, and all of a chunk: gaps `damaged`, flagged as
/// corrupt, accounted for; their neighbours are there.
#[test]
fn frames_that_do_not_decode() {
    for threads in [0, 2] {
        for cuts in [|_: u64| false, |_: u64| true, |frame: u64| frame % 3 == 1] {
            let mut rig = Rig::new(sig(64, 64), "<u2", 4, 3, Some(30)).compressed(threads, usual);
            rig.sending.spoilt = [1, 8, 9, 10, 11, 14, 15, 29].into();
            let counters = std::sync::Arc::clone(&rig.plan.counters[0]);
            let written = rig.write(&cut(0, 0..30, 4, cuts));
            written.check();
            let end = &written.ends[0];
            assert_eq!((end.durable_count, end.written_count, end.error.as_deref()), (22, 22, None));
            let gap = |first, count| Gap { first, count, reason: GapReason::Damaged };
            assert_eq!(end.gaps.iter().collect::<Vec<_>>(), [gap(1, 1), gap(8, 4), gap(14, 2), gap(29, 1)]);
            assert!(end.law.holds && end.state == DataSetState::Complete, "{}", end.law);
            assert_eq!(ronchi_pipeline::LinkCounters::read(&counters.damaged_frames), 8);
            let flags = Reader::open(&written.path).expect("data set").flags(0, 0..30).expect("flags");
            let corrupt: Vec<u64> = (0..).zip(&flags).filter(|(_, flag)| **flag == 2).map(|(frame, _)| frame).collect();
            assert_eq!(corrupt, [1, 8, 9, 10, 11, 14, 15, 29]);
            assert!(flags.iter().all(|flag| [0, 2].contains(flag)));
            let found = check(&written.path);
            assert!(found.is_intact(), "{found:?}");
            let done = run_repair(&written.path);
            assert_eq!((done.present, done.lost, done.change_count), (22, 0, 0));
        }
    }
}

/// A receiver that is cut off leaves what repair makes whole again, with and without what describes the chunks.
#[test]
fn repair_knows_what_is_there() {
    let cut_off = |count| {
        let mut rig = Rig::new(sig(32, 64), "<u2", 4, 3, Some(40)).compressed(1, usual);
        rig.is_cut_off = true;
        rig.sending.spoilt = [5].into();
        rig.write(&cut(0, 0..count, 4, |frame| frame % 4 == 1))
    };
    let written = cut_off(22);
    written.check();
    assert_eq!((written.ends[0].durable_count, written.ends[0].state), (21, DataSetState::Interrupted));
    for lost in ["chunks.log", "progress.json", "zarr.json", "frames/zarr.json", "frame_table"] {
        let written = cut_off(22);
        let path = written.path.join(lost);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        let done = run_repair(&written.path);
        assert_eq!((done.present, done.lost), (21, 0), "without {lost}");
        let mut bytes = Vec::new();
        Reader::open(&written.path).expect("data set").read_frames(0, 0..22, &mut bytes).expect("frames");
        for (frame, got) in (0..).zip(bytes.chunks(2 * 32 * 64)) {
            let want = if frame == 5 { vec![0; got.len()] } else { pixels(0, frame, 2 * 32 * 64) };
            assert!(got == want, "frame {frame} without {lost}");
        }
    }
}

fn run_repair(path: &std::path::Path) -> Repair {
    let plan = RepairPlan { time: "2026-01-01T00:00:00Z".into(), ..RepairPlan::default() };
    let done = repair(path, &plan, &mut |_, _| {}).expect("repaired");
    let found = check(path);
    assert!(found.is_intact(), "{found:?}\nafter {done:?}");
    assert_eq!(repair(path, &plan, &mut |_, _| {}).expect("again").change_count, 0, "after {done:?}");
    done
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any frame size, blocks alike or not, any cuts, losses, late arrivals and frames that do not decode.
    #[test]
    fn any_stream(
        width in 8_u32..9000, k in 1_u32..9, n in 1_u32..4, count in 1_u64..60,
        fates in proptest::collection::vec(0_u8..9, 60), cuts in any::<u64>(), announced in any::<bool>(),
        threads in 0_u32..3, is_unlike in any::<bool>(),
    ) {
        let blocks = if is_unlike { unlike } else { usual };
        let mut rig = Rig::new(sig(1, width), "|u1", k, n, announced.then_some(count)).compressed(threads, blocks);
        let mut feeds: Vec<Feed> = Vec::new();
        let mut late: Vec<Feed> = Vec::new();
        for chunk in cut(0, 0..count, k, |frame| cuts >> (frame % 64) & 1 == 1) {
            let fate = |frame: &u64| fates[*frame as usize];
            let frames: Vec<u64> = chunk.1.iter().copied().filter(|frame| fate(frame) > 1).collect();
            let sent_late: Vec<u64> = chunk.1.iter().copied().filter(|frame| fate(frame) == 1).collect();
            rig.sending.spoilt.extend(chunk.1.iter().copied().filter(|frame| fate(frame) == 8));
            if !frames.is_empty() { feeds.push((0, frames)); }
            feeds.append(&mut late);
            if !sent_late.is_empty() { late.push((0, sent_late)); }
        }
        feeds.append(&mut late);
        let is_good = |frame: &&u64| !rig.sending.spoilt.contains(*frame);
        let present = feeds.iter().map(|feed| feed.1.iter().filter(is_good).count() as u64).sum::<u64>();
        let written = rig.write(&feeds);
        written.check();
        prop_assert_eq!(&written.ends[0].error, &None);
        prop_assert_eq!(written.ends[0].durable_count, present);
    }
}
