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
    /// The operation with this number among all of disk and file system is refused.
    Any(u32),
    /// Something happens at a named step, the so-manieth time that it is passed.
    At(Step, u32, Act),
}

/// What every durable step is made of, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    BeforeWrite,
    AfterWrite,
    BeforeSync,
    AfterSync,
    BeforeRename,
    AfterRename,
    BeforeDirsync,
    AfterDirsync,
    BeforeAck,
    AfterAck,
}

impl Step {
    pub(crate) const ALL: [Self; 10] = [
        Self::BeforeWrite,
        Self::AfterWrite,
        Self::BeforeSync,
        Self::AfterSync,
        Self::BeforeRename,
        Self::AfterRename,
        Self::BeforeDirsync,
        Self::AfterDirsync,
        Self::BeforeAck,
        Self::AfterAck,
    ];
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It is refused; after the step: it is called refused although it was done.
    Error,
    /// The thread panics.
    Panic,
    /// The operation does not end for a long time.
    Hang,
}

/// Looks at the disk during which a hanging operation does not end.
const HANG_LOOKS: u32 = 400;

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

    /// Another operation is to be done, on what this says.
    fn count(&self, trouble: Trouble, what: &str) -> io::Result<()> {
        let mut record = self.lock();
        record.operations += 1;
        if trouble != Trouble::Any(record.operations) {
            return Ok(());
        }
        record.hit = Some(what.to_owned());
        Err(io::Error::from_raw_os_error(5))
    }

    /// A named step is passed. Whether it hangs.
    fn pass(&self, trouble: Trouble, step: Step, what: &str) -> io::Result<bool> {
        let Trouble::At(at, nth, act) = trouble else { return Ok(false) };
        let mut record = self.lock();
        record.passed += u32::from(step == at);
        if step != at || record.passed != nth {
            return Ok(false);
        }
        record.hit = Some(what.to_owned());
        drop(record);
        match act {
            Act::Error => Err(io::Error::from_raw_os_error(5)),
            Act::Panic => panic!("told to, at {step:?} of {what}"),
            Act::Hang => Ok(true),
        }
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
    hanging: Option<(Op, usize, u32)>,
}

impl SimDisk {
    pub(crate) fn new(record: Shared, clock: Arc<SimClock>, dice: Dice, trouble: Trouble) -> Self {
        Self { record, clock, dice, trouble, flying: Vec::new(), counts: [0; 4], hanging: None }
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

    /// An operation ends; `None` when it hangs instead.
    fn end(&mut self, op: Op, number: usize, may_hang: bool) -> Option<Done> {
        let (before, after) = match op.action {
            Action::Sync => (Step::BeforeSync, Step::AfterSync),
            Action::Write(..) => (Step::BeforeWrite, Step::AfterWrite),
        };
        let what = format!("{:?}", op.tag.purpose);
        let mut refused = self.is_refused(&op).then(|| io::Error::from_raw_os_error(5));
        if may_hang {
            refused = refused.or(self.record.count(self.trouble, &what).err());
            match self.record.pass(self.trouble, before, &what) {
                Ok(false) => {}
                Ok(true) => {
                    self.hanging = Some((op, number, HANG_LOOKS));
                    return None;
                }
                Err(error) => refused = Some(error),
            }
        }
        let result = match (&op.action, refused) {
            (Action::Sync, refused) => {
                self.record.lock().end_sync(number, refused.is_none());
                refused.map_or(Ok(0), Err)
            }
            (Action::Write(..), Some(error)) => Err(error),
            (Action::Write(offset, bytes), None) => {
                self.record.lock().end_write(number);
                RealFiles.write(&op.file.file, *offset, bytes.as_slice()).map(|()| bytes.as_slice().len())
            }
        };
        let result = result.and_then(|count| self.record.pass(self.trouble, after, &what).map(|_| count));
        Some(Done { op, result })
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
        self.flying.len() + usize::from(self.hanging.is_some())
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
        if let Some((op, number, looks)) = self.hanging.take() {
            match looks {
                0 => done.extend(self.end(op, number, false)),
                _ => self.hanging = Some((op, number, looks - 1)),
            }
        }
        while !self.flying.is_empty() && self.dice.below(3) > 0 {
            let at = self.dice.below(self.flying.len() as u64) as usize;
            let (op, number) = self.flying.swap_remove(at);
            done.extend(self.end(op, number, true));
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
        self.record.count(self.trouble, &format!("make {}", path.display()))?;
        RealFiles.create_dir(path)?;
        self.record.lock().add(path, Kind::Dir);
        Ok(())
    }
    fn create(&self, path: &Path, creation: Creation) -> io::Result<File> {
        self.record.count(self.trouble, &format!("create {}", path.display()))?;
        if creation != Creation::New && path.exists() {
            RealFiles.remove(path)?; // What it held is gone in either case.
            self.record.lock().remove(path);
        }
        let creation = if creation == Creation::Direct { Creation::Empty } else { creation };
        let file = RealFiles.create(path, creation)?;
        self.record.lock().add(path, Kind::File);
        Ok(file)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.record.count(self.trouble, &format!("open {}", path.display()))?;
        RealFiles.open(path)
    }
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.record.count(self.trouble, "allocate")?;
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
    fn trim(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.record.count(self.trouble, "trim")?;
        file.set_len(bytes)?;
        let mut record = self.record.lock();
        let node = record.node_of(file);
        record.set_length(node, bytes);
        Ok(())
    }
    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.record.count(self.trouble, "write")?;
        self.record.pass(self.trouble, Step::BeforeWrite, "write")?;
        let (node, number) = {
            let mut record = self.record.lock();
            let node = record.node_of(file);
            (node, record.begin_write(node, offset, bytes))
        };
        RealFiles.write(file, offset, bytes)?;
        self.record.lock().end_write(number);
        self.record.pass(self.trouble, Step::AfterWrite, &format!("node {node}")).map(drop)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        let refused = self.record.count(self.trouble, "sync a small file").err();
        let refused = refused.or(self.record.pass(self.trouble, Step::BeforeSync, "sync a small file").err());
        {
            let mut record = self.record.lock();
            let node = record.node_of(file);
            let number = record.begin_sync(node);
            record.end_sync(number, refused.is_none());
        }
        refused.map_or(Ok(()), Err)?;
        self.record.pass(self.trouble, Step::AfterSync, "sync a small file").map(drop)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let what = format!("sync {}", path.display());
        self.record.count(self.trouble, &what)?;
        self.record.pass(self.trouble, Step::BeforeDirsync, &what)?;
        self.record.lock().sync_dir(path);
        self.record.pass(self.trouble, Step::AfterDirsync, &what).map(drop)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format!("name {}", to.display());
        let is_ack = to.ends_with("progress.json");
        let (before, after) = match is_ack {
            true => (Step::BeforeAck, Step::AfterAck),
            false => (Step::BeforeRename, Step::AfterRename),
        };
        self.record.count(self.trouble, &what)?;
        self.record.pass(self.trouble, before, &what)?;
        RealFiles.rename(from, to)?;
        self.record.lock().rename(from, to);
        self.record.pass(self.trouble, after, &what).map(drop)
    }
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.record.count(self.trouble, "link")?;
        RealFiles.link(target, path)?;
        self.record.lock().add(path, Kind::Link(target.to_owned()));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.record.count(self.trouble, &format!("remove {}", path.display()))?;
        RealFiles.remove(path)?;
        self.record.lock().remove(path);
        Ok(())
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.record.count(self.trouble, &format!("remove {}", path.display()))?;
        RealFiles.remove_dir(path)?;
        self.record.lock().remove(path);
        Ok(())
    }
}
