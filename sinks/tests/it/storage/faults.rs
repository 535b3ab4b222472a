//! A disk that refuses, cuts short, reorders or dies at the N-th operation, for every N of a small run.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ronchi_pipeline::format::DataSetState;
use ronchi_pipeline::{GapReason, LinkCounters, SigShape};
use ronchi_sinks::storage::{Action, Bytes, Disk, DiskChoice, DiskFile, Done, Flaw, Op, Purpose};

use super::rig::{Feed, Rig, Written, check, cut, pixels};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The operation fails; nothing is written.
    Refuse,
    /// A write reports one sector, or one byte of a small one.
    Short,
    /// This and all later operations fail.
    Die,
    /// Only syncs count; this one fails.
    Sync,
}

/// Wraps a disk: injects the fault, returns completions in another order, and checks that no two writes in flight
/// overlap.
struct FaultyDisk {
    inner: Box<dyn Disk>,
    fault: Fault,
    at: usize,
    count: usize,
    fired: Arc<AtomicUsize>,
    refused: VecDeque<Done>,
    flying: Vec<(i32, u64, u64)>,
}

impl FaultyDisk {
    fn is_hit(&mut self, op: &Op) -> bool {
        let is_sync = matches!(op.action, Action::Sync);
        if is_sync && self.fault == Fault::Short || !is_sync && self.fault == Fault::Sync {
            return false;
        }
        self.count += 1;
        let is_hit = self.count == self.at || self.fault == Fault::Die && self.count > self.at;
        self.fired.fetch_add(usize::from(is_hit), Ordering::Relaxed);
        is_hit
    }
}

fn span(op: &Op) -> Option<(i32, u64, u64)> {
    match &op.action {
        Action::Write(offset, bytes) => {
            Some((op.file.file.as_raw_fd(), *offset, offset + bytes.as_slice().len() as u64))
        }
        Action::Sync => None,
    }
}

impl Disk for FaultyDisk {
    fn describe(&self) -> String {
        "faulty".to_owned()
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
        if let Some((file, start, end)) = span(&op) {
            let overlaps = |&(f, s, e): &(i32, u64, u64)| f == file && s < end && start < e;
            assert!(!self.flying.iter().any(overlaps), "two writes of the same bytes in flight: {op:?}");
            self.flying.push((file, start, end));
        }
        if !self.is_hit(&op) {
            return self.inner.submit(op);
        }
        let result = match (self.fault, &op.action) {
            (Fault::Short, Action::Write(offset, bytes)) => {
                let bytes = bytes.as_slice();
                let len =
                    if matches!(op.action, Action::Write(_, Bytes::Small(_))) { 1 } else { bytes.len().min(4096) };
                let written = rustix::io::pwrite(&op.file.file, &bytes[..len], *offset);
                written.map_err(io::Error::from)
            }
            _ => Err(io::Error::from_raw_os_error(5)),
        };
        self.refused.push_back(Done { op, result });
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        let before = done.len();
        done.extend(self.refused.drain(..));
        let patience = if done.len() > before { Duration::ZERO } else { patience };
        self.inner.reap(patience, done);
        done[before..].reverse();
        for finished in &done[before..] {
            if let Some(span) = span(&finished.op) {
                let at = self.flying.iter().position(|flying| *flying == span).expect("was submitted");
                self.flying.swap_remove(at);
            }
        }
    }
}

/// Two segments and a bit of odd frames, early seals, a gap and late frames.
fn run(fault: Fault, at: usize, disk: DiskChoice, is_packed: bool) -> (Written, usize) {
    let mut rig = Rig::new(SigShape { height: 5, width: 1003 }, "<u2", 3, 2, Some(15));
    if is_packed {
        rig = rig.packed(2);
    }
    rig.plan.disk = disk;
    rig.plan.piece_bytes = 8192;
    let fired = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&fired);
    rig.wrap = Some(Box::new(move |inner| {
        let (refused, flying) = (VecDeque::new(), Vec::new());
        Box::new(FaultyDisk { inner, fault, at, count: 0, fired, refused, flying })
    }));
    let mut feeds: Vec<Feed> = cut(0, 0..15, 3, |frame| frame % 5 == 0);
    // Of chunk 6..9 the middle frame comes late and the last one never.
    feeds.retain(|feed| !(6..9).contains(&feed.1[0]));
    feeds.insert(feeds.len() / 2, (0, vec![6]));
    feeds.insert(feeds.len() - 1, (0, vec![7]));
    let written = rig.write(&feeds);
    (written, seen.load(Ordering::Relaxed))
}

/// Whatever fails, whenever: every frame is durable and right, or a gap; a fault that loses frames is reported.
#[test]
fn every_operation_fails_once() {
    fail_every_operation(false);
}

/// So it is when chunks are compressed.
#[test]
fn every_operation_of_packed_segments_fails_once() {
    fail_every_operation(true);
}

/// No segment is shorter than its HDF5 superblock says: the library would refuse it.
fn check_ends(path: &Path) {
    for number in 0.. {
        let Ok(bytes) = std::fs::read(path.join(format!("frames/c/{number}/0/0"))) else { return };
        let end = u64::from_le_bytes(bytes[4096 + 28..4096 + 36].try_into().expect("8 bytes"));
        assert!((8192..=bytes.len() as u64).contains(&end), "segment {number}: {end} of {}", bytes.len());
    }
}

fn fail_every_operation(is_packed: bool) {
    for fault in [Fault::Refuse, Fault::Short, Fault::Die, Fault::Sync] {
        let mut fired_count = 0;
        for at in 1.. {
            let (written, fired) = run(fault, at, DiskChoice::Threads, is_packed);
            written.check();
            check_ends(&written.path);
            let end = &written.ends[0];
            assert!(
                end.gaps.iter().all(|gap| gap.reason == GapReason::WriteFailed || gap.first == 8),
                "{:?}",
                end.gaps
            );
            // Frames the disk refused are gaps, not flaws; what it refused of table and log is missing there.
            let flaws = check(&written.path).flaws;
            let is_log = |flaw: &Flaw| fault == Fault::Sync && flaw.to_string().contains("chunks.log");
            if matches!(fault, Fault::Short | Fault::Sync) {
                assert!(flaws.iter().all(is_log), "{fault:?} at {at}: {flaws:?}");
            }
            // Short writes go on, refused table rows are tried again: whatever is lost has an error.
            if fault == Fault::Short || fired == 0 || end.error.is_none() {
                assert_eq!((end.error.as_deref(), end.durable_count), (None, 14), "{fault:?} at {at}");
            }
            if fault == Fault::Die || fault == Fault::Sync {
                assert_eq!(end.error.is_some(), fired > 0, "{fault:?} at {at}");
            }
            if fired == 0 {
                break;
            }
            fired_count += 1;
        }
        assert!(fired_count > 5, "{fault:?} was tried {fired_count} times only");
    }
}

/// Without room for files of the frame table, pixels are recorded on and the tile ends as failed.
#[test]
fn pixels_outlive_the_frame_table() {
    let mut rig = Rig::new(SigShape { height: 5, width: 1003 }, "<u2", 3, 2, Some(15));
    let parent = rig.dir.path().to_owned();
    rig.wrap = Some(Box::new(move |disk| {
        // The data set is there; its table is made with the series, its files with the first rows.
        Box::new(NoTable { disk, chunks: parent.join("scan.ronchi/frame_table/time_ns/c") })
    }));
    let written = rig.write(&cut(0, 0..15, 3, |_| false));
    let end = &written.ends[0];
    assert_eq!((end.state, end.durable_count, end.gaps.frame_count()), (DataSetState::Failed, 15, 0));
    assert!(end.error.as_ref().is_some_and(|error| error.contains("time_ns")), "{:?}", end.error);
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    ronchi_sinks::storage::Reader::open(&written.path)
        .expect("data set")
        .read_frames(0, 0..15, &mut bytes)
        .expect("frames");
    (0..15).for_each(|frame| expected.extend(pixels(0, frame, 5 * 1003 * 2)));
    assert!(bytes == expected);
}

/// Makes it impossible to create files of the frame table, from the first segment on.
struct NoTable {
    disk: Box<dyn Disk>,
    chunks: std::path::PathBuf,
}

impl Disk for NoTable {
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
        if self.chunks.is_dir() {
            std::fs::remove_dir(&self.chunks).expect("no chunk file yet");
            std::fs::write(&self.chunks, "in the way").expect("file");
        }
        self.disk.attach(file)
    }
    fn detach(&mut self, file: DiskFile) {
        self.disk.detach(file);
    }
    fn submit(&mut self, op: Op) {
        self.disk.submit(op);
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        self.disk.reap(patience, done);
    }
}

/// Where no table tells durably of frames that are synced, they count as durable only once their segment is sealed.
#[test]
fn frames_that_no_table_proves_are_not_counted_durable() {
    let mut rig = Rig::new(SigShape { height: 5, width: 1003 }, "<u2", 3, 2, Some(6));
    let (counters, refused) = (Arc::clone(&rig.plan.counters[0]), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&refused);
    rig.wrap = Some(Box::new(move |disk| Box::new(NoSmallSync { disk, refused, done: Vec::new() })));
    rig.during = Some(Box::new(move |_| {
        // The segment is synced in the cycle in which the table is refused, and the segment has no other news.
        while count.load(Ordering::Relaxed) == 0 || LinkCounters::read(&counters.written_frames) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(LinkCounters::read(&counters.durable_frames), 0);
    }));
    let written = rig.write(&cut(0, 0..3, 3, |_| false));
    let end = &written.ends[0];
    assert_eq!((end.state, end.durable_count, end.gaps.frame_count()), (DataSetState::Failed, 3, 3));
}

/// Refuses to sync the frame table and the log.
struct NoSmallSync {
    disk: Box<dyn Disk>,
    refused: Arc<AtomicUsize>,
    done: Vec<Done>,
}

impl Disk for NoSmallSync {
    fn describe(&self) -> String {
        self.disk.describe()
    }
    fn capacity(&self) -> usize {
        self.disk.capacity()
    }
    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.done.len()
    }
    fn attach(&mut self, file: File) -> DiskFile {
        self.disk.attach(file)
    }
    fn detach(&mut self, file: DiskFile) {
        self.disk.detach(file);
    }
    fn submit(&mut self, op: Op) {
        if op.tag.purpose == Purpose::SyncSmall {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return self.done.push(Done { op, result: Err(io::Error::from_raw_os_error(5)) });
        }
        self.disk.submit(op);
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        done.append(&mut self.done);
        self.disk.reap(if done.is_empty() { patience } else { Duration::ZERO }, done);
    }
}

/// The order of completions does not matter, with io_uring either.
#[test]
fn completions_in_any_order() {
    for is_packed in [false, true] {
        run(Fault::Refuse, usize::MAX, DiskChoice::Auto, is_packed).0.check_clean();
    }
}
