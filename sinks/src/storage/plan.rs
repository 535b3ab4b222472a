//! How to write: what was asked for, what the system allows, and one line that says what came of it.

use std::fmt;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ronchi_pipeline::{LinkCounters, Pool};

use super::clock::{Clock, RealClock};
use super::disk::Disk;
use super::packer::PackPlan;
use super::pwrite::Threads;
use super::uring::Uring;

/// Operations beside data writes that may be in flight: shared sectors, page 0, table, log, syncs.
const SMALL_OPS: usize = 64;
const THREADS_MAX: usize = 8;

/// Which disk access to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskChoice {
    /// The best the system allows.
    #[default]
    Auto,
    /// io_uring without registered buffers.
    UringUnregistered,
    /// Threads with `pwrite`.
    Threads,
}

/// Sizes and choices of a writer, fixed at start.
#[derive(Debug, Clone)]
pub struct WriterPlan {
    /// Directory of the data sets: asked whether it takes direct I/O.
    pub directory: PathBuf,
    /// Data writes in flight.
    pub depth: u32,
    /// Disks over which segments are spread, at least 1; each has its own depth.
    pub volume_count: usize,
    /// Data writes that may wait for one volume while others are written.
    pub stripe_blocks: usize,
    /// Largest single data write, in bytes, a multiple of 4096.
    pub piece_bytes: usize,
    /// Readers hear of new frames about this often.
    pub publish_interval: Duration,
    /// New frames become durable about this often.
    pub sync_interval: Duration,
    /// A missing frame this far behind the newest counts as lost for the watermarks.
    pub late_frames: u64,
    /// Disk access.
    pub disk: DiskChoice,
    /// Free space that segments leave alone, in bytes.
    pub reserve_bytes: u64,
    /// Use O_DIRECT where the file system takes it.
    pub is_direct: bool,
    /// The pool whose memory is registered; `None` registers nothing.
    pub pool: Option<Pool>,
    /// Counters by link number.
    pub counters: Vec<Arc<LinkCounters>>,
    /// How to compress; `None` stores pixels as received.
    pub pack: Option<PackPlan>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl WriterPlan {
    /// The defaults, for data sets in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            depth: 16,
            volume_count: 1,
            stripe_blocks: 0,
            piece_bytes: 4 << 20,
            publish_interval: Duration::from_millis(100),
            sync_interval: Duration::from_millis(500),
            late_frames: 128,
            disk: DiskChoice::Auto,
            reserve_bytes: 0,
            is_direct: true,
            pool: None,
            counters: Vec::new(),
            pack: None,
            clock: Arc::new(RealClock),
        }
    }

    /// Opens the disk access chosen, or the next best the system allows.
    pub fn choose_disk(&self) -> io::Result<(Box<dyn Disk>, WriterReport)> {
        let mut notes = Vec::new();
        let is_direct = self.is_direct && takes_direct(&self.directory, &mut notes)?;
        let capacity = self.volume_count.max(1) * self.depth.max(1) as usize + SMALL_OPS;
        let pool = self.pool.as_ref().filter(|_| self.disk == DiskChoice::Auto);
        let ring = match self.disk {
            DiskChoice::Threads => None,
            _ => match Uring::new(capacity, pool) {
                Ok(ring) => Some(Box::new(ring) as Box<dyn Disk>),
                Err(error) => {
                    notes.push(format!("no io_uring: {error}"));
                    None
                }
            },
        };
        let disk = match ring {
            Some(ring) => ring,
            None => Box::new(Threads::new(capacity, (self.depth.max(1) as usize).min(THREADS_MAX))?),
        };
        let report = WriterReport { access: disk.describe(), is_direct, depth: self.depth.max(1), notes };
        Ok((disk, report))
    }
}

/// Whether files in this directory can be opened with O_DIRECT.
fn takes_direct(directory: &Path, notes: &mut Vec<String>) -> io::Result<bool> {
    let path = directory.join(format!(".ronchi-probe-{}", std::process::id()));
    let result = std::fs::File::options().write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
    let _ = std::fs::remove_file(&path); // It may not have come into being.
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            notes.push("the file system has no direct I/O: writes go through the page cache".to_owned());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// How the writer writes; prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterReport {
    /// Disk access and buffers.
    pub access: String,
    /// Whether pixels bypass the page cache.
    pub is_direct: bool,
    /// Data writes in flight.
    pub depth: u32,
    /// Why something better is not used.
    pub notes: Vec<String>,
}

impl WriterReport {
    /// Whether nothing was refused: registered buffers of io_uring, past the page cache.
    pub fn is_best(&self) -> bool {
        self.is_direct && self.notes.is_empty() && self.access == "io_uring, registered buffers"
    }
}

impl fmt::Display for WriterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = if self.is_direct { "O_DIRECT" } else { "page cache" };
        write!(f, "{}, {cache}, depth {}", self.access, self.depth)?;
        self.notes.iter().try_for_each(|note| write!(f, " ({note})"))
    }
}
