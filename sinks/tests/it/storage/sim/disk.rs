//! The simulated machine: a disk, a file system and a clock that do as they are told, one step at a time, and write down
//! every step. What they do is really done, in a directory, so that the writer finds it there.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ronchi_sinks::storage::{Action, Clock, Creation, Disk, DiskFile, Done, FileSystem, Op, Purpose, RealFiles};

use super::dice::Dice;
use super::record::{Kind, Record};

/// What goes wrong during the run itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Nothing,
    /// The sync of a segment with this number among them is refused.
    Sync(u32),
    /// So is one of table or log.
    SmallSync(u32),
    /// A write with this number among those of pixels and shared sectors is refused.
    Write(u32),
    /// A rewrite of page 0.
    Page(u32),
    /// There is room for so many segments.
    Full(u32),
}

/// A record that disk, file system and test write together.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Record>>);

impl Shared {
    pub(crate) fn new(record: Record) -> Self {
        Self(Arc::new(Mutex::new(record)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record, once nobody writes to it any more.
    pub(crate) fn take(&self) -> Record {
        std::mem::take(&mut *self.lock())
    }
}

/// A clock that stands still until it is moved. Wall time jumps with every look, if it is told to.
#[derive(Debug)]
pub(crate) struct SimClock {
    start: Instant,
    micros: AtomicU64,
    looks: AtomicU64,
    is_jumping: bool,
}

impl SimClock {
    pub(crate) fn new(is_jumping: bool) -> Self {
        Self { start: Instant::now(), micros: AtomicU64::new(0), looks: AtomicU64::new(0), is_jumping }
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        match (self.is_jumping, look % 3) {
            (false, _) | (true, 0) => noon,
            (true, 1) => noon + Duration::from_secs(100_000),
            _ => SystemTime::UNIX_EPOCH - Duration::from_secs(look),
        }
    }
}

/// Operations in flight end in any order, some of them at every look.
pub(crate) struct SimDisk {
    pub(crate) record: Shared,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) dice: Dice,
    pub(crate) trouble: Trouble,
    flying: Vec<(Op, usize)>,
    counts: [u32; 4],
}

impl SimDisk {
    pub(crate) fn new(record: Shared, clock: Arc<SimClock>, dice: Dice, trouble: Trouble) -> Self {
        Self { record, clock, dice, trouble, flying: Vec::new(), counts: [0; 4] }
    }

    fn is_refused(&mut self, op: &Op) -> bool {
        let (kind, at) = match (op.tag.purpose, self.trouble) {
            (Purpose::Sync, Trouble::Sync(at)) => (0, at),
            (Purpose::SyncSmall, Trouble::SmallSync(at)) => (1, at),
            (Purpose::Part(_) | Purpose::Seam(..), Trouble::Write(at)) => (2, at),
            (Purpose::Page, Trouble::Page(at)) => (3, at),
            _ => return false,
        };
        self.counts[kind] += 1;
        self.counts[kind] == at
    }

    fn end(&mut self, op: Op, number: usize) -> Done {
        let is_refused = self.is_refused(&op);
        let mut record = self.record.lock();
        let refusal = || io::Error::from_raw_os_error(5);
        let result = match &op.action {
            Action::Sync => {
                record.end_sync(number, !is_refused);
                if is_refused { Err(refusal()) } else { Ok(0) }
            }
            Action::Write(..) if is_refused => Err(refusal()),
            Action::Write(offset, bytes) => {
                record.end_write(number);
                RealFiles.write(&op.file.file, *offset, bytes.as_slice()).map(|()| bytes.as_slice().len())
            }
        };
        drop(record);
        Done { op, result }
    }
}

impl Disk for SimDisk {
    fn describe(&self) -> String {
        "simulated".to_owned()
    }
    fn capacity(&self) -> usize {
        16
    }
    fn in_flight(&self) -> usize {
        self.flying.len()
    }
    fn attach(&mut self, file: File) -> DiskFile {
        self.attach_plain(file)
    }
    fn detach(&mut self, _: DiskFile) {}
    fn submit(&mut self, op: Op) {
        let mut record = self.record.lock();
        let node = record.node_of(&op.file.file);
        let number = match &op.action {
            Action::Sync => record.begin_sync(node),
            Action::Write(offset, bytes) => record.begin_write(node, *offset, bytes.as_slice()),
        };
        drop(record);
        self.flying.push((op, number));
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        if !patience.is_zero() {
            self.clock.advance(Duration::from_micros(self.dice.below(500)));
        }
        while !self.flying.is_empty() && self.dice.below(3) > 0 {
            let at = self.dice.below(self.flying.len() as u64) as usize;
            let (op, number) = self.flying.swap_remove(at);
            done.push(self.end(op, number));
        }
    }
}

/// The file system of the machine without its syncs, written down.
#[derive(Debug)]
pub(crate) struct SimFiles {
    record: Shared,
    trouble: Trouble,
    segments: AtomicU64,
}

impl SimFiles {
    pub(crate) fn new(record: Shared, trouble: Trouble) -> Self {
        Self { record, trouble, segments: AtomicU64::new(0) }
    }
}

impl FileSystem for SimFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir(path)?;
        self.record.lock().add(path, Kind::Dir);
        Ok(())
    }
    fn create(&self, path: &Path, creation: Creation) -> io::Result<File> {
        if creation != Creation::New && path.exists() {
            self.remove(path)?; // What it held is gone in either case.
        }
        let creation = if creation == Creation::Direct { Creation::Empty } else { creation };
        let file = RealFiles.create(path, creation)?;
        self.record.lock().add(path, Kind::File);
        Ok(file)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        RealFiles.open(path)
    }
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        let count = self.segments.fetch_add(1, Ordering::Relaxed);
        if matches!(self.trouble, Trouble::Full(room) if count >= u64::from(room)) {
            return Err(io::Error::from_raw_os_error(28));
        }
        file.set_len(bytes)?;
        let mut record = self.record.lock();
        let node = record.node_of(file);
        record.set_length(node, bytes);
        Ok(())
    }
    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut record = self.record.lock();
        let node = record.node_of(file);
        let number = record.begin_write(node, offset, bytes);
        RealFiles.write(file, offset, bytes)?;
        record.end_write(number);
        Ok(())
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        let mut record = self.record.lock();
        let node = record.node_of(file);
        let number = record.begin_sync(node);
        record.end_sync(number, true);
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.record.lock().sync_dir(path);
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)?;
        self.record.lock().rename(from, to);
        Ok(())
    }
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        RealFiles.link(target, path)?;
        self.record.lock().add(path, Kind::Link(target.to_owned()));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)?;
        self.record.lock().remove(path);
        Ok(())
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove_dir(path)?;
        self.record.lock().remove(path);
        Ok(())
    }
}
