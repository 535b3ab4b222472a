//! The clerk: a helper thread that creates, names and removes files, so that the writer thread never waits for that.
//!
//! # Place in the path
//! The writer asks for the next segment while it fills the current one, and hands over documents to be replaced.
//! Jobs are done in order; answers come back by channel. Should the thread die, the answers are disconnected.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use ronchi_pipeline::fault::{self, Stage};
use ronchi_pipeline::format::{PackedPage0, Page0, Trailer, packed_page1, page1};
use ronchi_pipeline::{Layout, PixelType, SECTOR_BYTES, SigShape};

use super::data_set::TileFiles;
use super::disk::Page;
use super::error::{Context as _, StorageError};
use super::file_system::{Creation, FileSystem};
use super::space::Space;
use super::{files, table};

/// Something to do with files.
pub(super) enum Job {
    /// Create a segment file.
    Prepare(Box<NewSegment>),
    /// Remove a segment that was prepared and not used.
    Discard(Arc<TileFiles>, u64),
    /// Cut the unused end off a segment that is sealed.
    Trim(Arc<TileFiles>, Arc<File>, u64),
    /// Replace `progress.json`; with its number among these documents of the tile.
    Progress(Arc<TileFiles>, u64, Vec<u8>),
    /// The arrays of a tile have this many frames now.
    Resize(Arc<TileFiles>, u64),
    /// Replace a document durably and answer: the tile has ended.
    Finish(u64, Arc<TileFiles>, PathBuf, Vec<u8>),
}

/// A segment to create.
#[derive(Clone)]
pub(super) struct NewSegment {
    pub(super) tile_key: u64,
    pub(super) files: Arc<TileFiles>,
    pub(super) number: u64,
    pub(super) uuid: [u8; 16],
    pub(super) tile: u32,
    pub(super) layout: Layout,
    pub(super) shape: SigShape,
    pub(super) pixel: PixelType,
    /// Bytes that must be free beside the reserve.
    pub(super) need_bytes: u64,
    pub(super) reserve_bytes: u64,
    pub(super) is_direct: bool,
}

/// A segment file that is there, and the volume that holds it.
pub(super) struct Prepared {
    pub(super) file: File,
    pub(super) volume: usize,
}

/// What was done.
pub(super) enum Answer {
    /// A segment is there, or could not be made.
    Prepared(u64, u64, Result<Prepared, StorageError>),
    /// The last document of a tile is written.
    Finished(u64, Result<(), StorageError>),
}

/// The thread and its queues. The queues have no bound of their own: the writer asks for at most two segments and a few
/// documents per tile and publication.
pub(super) struct Clerk {
    hands: Hands,
    answers: Receiver<Answer>,
}

/// Who does the work.
enum Hands {
    Thread {
        jobs: Option<Sender<Job>>,
        thread: Option<JoinHandle<()>>,
    },
    /// The caller's thread, one job whenever it looks for answers.
    Caller {
        jobs: VecDeque<Job>,
        is_failing: bool,
    },
}

/// The thread of a clerk has died.
#[derive(Debug)]
pub(super) struct Dead;

impl Clerk {
    pub(super) fn spawn() -> io::Result<Self> {
        let (jobs, queue) = unbounded();
        let (answer, answers) = unbounded();
        let work = move || {
            let mut is_failing = false;
            for job in queue {
                fault::pass(Stage::Clerk);
                if let Some(done) = perform(job, &mut is_failing)
                    && answer.send(done).is_err()
                {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ronchi-clerk".to_owned()).spawn(work)?;
        Ok(Self { hands: Hands::Thread { jobs: Some(jobs), thread: Some(thread) }, answers })
    }

    /// A clerk without a thread of its own.
    pub(super) fn inline() -> Self {
        Self { hands: Hands::Caller { jobs: VecDeque::new(), is_failing: false }, answers: unbounded().1 }
    }

    /// A clerk whose thread has died.
    #[cfg(test)]
    pub(super) fn dead() -> Self {
        Self { hands: Hands::Thread { jobs: Some(unbounded().0), thread: None }, answers: unbounded().1 }
    }

    pub(super) fn ask(&mut self, job: Job) {
        match &mut self.hands {
            Hands::Caller { jobs, .. } => jobs.push_back(job),
            Hands::Thread { jobs: Some(jobs), .. } => {
                let _ = jobs.send(job); // A thread that died is noticed by who waits for its answers.
            }
            Hands::Thread { jobs: None, .. } => {}
        }
    }

    /// The next answer, waiting for it if need be; `None` when there is none yet.
    pub(super) fn answer(&mut self, patience: Duration) -> Result<Option<Answer>, Dead> {
        match &mut self.hands {
            Hands::Caller { jobs, is_failing } => Ok(jobs.pop_front().and_then(|job| perform(job, is_failing))),
            Hands::Thread { .. } => match self.answers.recv_timeout(patience) {
                Ok(answer) => Ok(Some(answer)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(Dead),
            },
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        if let Hands::Thread { jobs, thread } = &mut self.hands {
            *jobs = None;
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Does a job. `is_failing`: the last document could not be replaced, so that of the next one, 100 ms later, nothing is
/// said.
fn perform(job: Job, is_failing: &mut bool) -> Option<Answer> {
    let result = match job {
        Job::Prepare(new) => return Some(Answer::Prepared(new.tile_key, new.number, prepare(&new))),
        Job::Finish(key, files, path, bytes) => {
            return Some(Answer::Finished(key, files::replace(&*files.system, &path, &bytes, true)));
        }
        Job::Discard(files, number) => {
            discard(&files, number);
            Ok(())
        }
        Job::Trim(files, file, bytes) => files.system.trim(&file, bytes).context("trim a segment below", &files.array),
        Job::Progress(files, number, bytes) => replace_progress(&files, number, &bytes),
        Job::Resize(files, frame_count) => {
            let table = files.base.join("frame_table");
            let sizes = (table::rows_per_file(None), table::columns(files.has_checksums));
            files
                .write_metadata(frame_count)
                .and_then(|()| table::write_metadata(&*files.system, &table, frame_count, sizes))
        }
    };
    match result {
        Err(error) if !*is_failing => {
            *is_failing = true;
            tracing::error!(%error, "a document of the data set could not be replaced");
        }
        Err(_) => {}
        Ok(()) => *is_failing = false,
    }
    None
}

/// Replaces `progress.json`, unless a newer one waits already. After a power cut it is an earlier one, but whole: its content
/// is synced before it gets its name, and the name once.
fn replace_progress(files: &TileFiles, number: u64, bytes: &[u8]) -> Result<(), StorageError> {
    if number < files.progress_count.load(Ordering::Relaxed) {
        return Ok(()); // Slow syncs do not pile up.
    }
    let path = files.base.join("progress.json");
    let is_new = !path.exists();
    files::replace(&*files.system, &path, bytes, is_new)
}

fn segment_path(array: &Path, number: u64) -> PathBuf {
    array.join("c").join(number.to_string()).join("0").join("0")
}

/// Creates a segment in the data set, or in the first volume in its turn that takes it, with a link to it here.
fn prepare(new: &NewSegment) -> Result<Prepared, StorageError> {
    let (path, volumes) = (segment_path(&new.files.array, new.number), &new.files.volumes);
    let prepared = match volumes.is_empty() {
        true => create(new, &path, &new.files.array).map(|file| Prepared { file, volume: 0 }),
        false => prepare_elsewhere(new, &path),
    };
    match prepared {
        Err(error) => {
            remove_dirs(&*new.files.system, &path);
            Err(error)
        }
        Ok(prepared) => link_whole(new, &path).map(|()| prepared),
    }
}

/// Tries one volume after the other. A full one is passed over, one that refuses otherwise has failed.
fn prepare_elsewhere(new: &NewSegment, path: &Path) -> Result<Prepared, StorageError> {
    let (system, volumes) = (&*new.files.system, &new.files.volumes);
    let mut refusal = None;
    for volume in volumes.turns(new.tile, new.number) {
        let target = volumes.path(volume, new.tile, new.number);
        match create_home(system, volumes.home(volume)).and_then(|()| create(new, &target, volumes.home(volume))) {
            Ok(file) => {
                let linked = link_volume(system, &target, path);
                if linked.is_err() {
                    let _ = system.remove(&target); // Best effort: without a link nobody reads it.
                }
                return linked.map(|()| Prepared { file, volume });
            }
            Err(error) => {
                if !error.is_full() {
                    volumes.fail(volume);
                }
                refusal.get_or_insert(error);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| StorageError::NoVolume { count: volumes.count() }))
}

/// The link to a segment on another disk; absolute, because the disks are mounted where they are.
fn link_volume(system: &dyn FileSystem, target: &Path, path: &Path) -> Result<(), StorageError> {
    let parent = path.parent().unwrap_or(path);
    files::create_dirs(system, parent)?;
    let target = std::path::absolute(target).context("resolve", target)?;
    system.link(&target, path).context("link", path)?;
    files::sync_dir(system, parent)
}

/// Makes the directory of a data set's segments in a volume that is there.
fn create_home(system: &dyn FileSystem, home: &Path) -> Result<(), StorageError> {
    match system.create_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.context("create", home).and_then(|()| files::sync_dir(system, home.parent().unwrap_or(home))),
    }
}

/// Creates a segment file: preallocated, pages 0 and 1 with every chunk absent, synced, named, and its name durable.
/// Where the reserve would suffer, nothing is created. `disk`: a directory of the file system that takes it.
fn create(new: &NewSegment, path: &Path, disk: &Path) -> Result<File, StorageError> {
    if let Some(space) = Space::of(disk, new.reserve_bytes) {
        space.spare(new.need_bytes)?;
    }
    let (system, part) = (&*new.files.system, path.with_extension("part"));
    files::create_dirs(system, path.parent().unwrap_or(path))?;
    let creation = if new.is_direct { Creation::Direct } else { Creation::Empty };
    let file = system.create(&part, creation).context("create", &part)?;
    let result = fill(system, &file, new).context("prepare", &part).and_then(|()| {
        system.rename(&part, path).context("rename", &part)?;
        files::sync_dir(system, path.parent().unwrap_or(path))
    });
    if result.is_err() {
        let _ = system.remove(&part); // Best effort: a `.part` is ignored by every reader.
    }
    result.map(|()| file)
}

fn fill(system: &dyn FileSystem, file: &File, new: &NewSegment) -> io::Result<()> {
    system.allocate(file, new.layout.segment_bytes())?;
    let trailer = Trailer {
        uuid: new.uuid,
        tile: new.tile,
        is_sealed: false,
        has_gaps: false,
        segment: new.number,
        first_frame: new.number * new.layout.frames_per_segment(),
        frames_written: 0,
        frames_per_chunk: new.layout.frames_per_chunk,
    };
    let (layout, chunk_count) = (&new.layout, new.layout.chunks_per_segment as usize);
    let [page0, page1] = if new.files.metadata.is_packed {
        let page0 = PackedPage0 { trailer, chunks: vec![None; chunk_count] };
        let page1 = packed_page1(layout, (new.shape, new.pixel), &page0.chunks, false);
        [page0.encode(), page1]
    } else {
        let page0 = Page0 { trailer, chunks: vec![None; chunk_count] };
        [page0.encode(layout.frame_bytes), page1(layout.frames_per_segment(), new.shape, new.pixel)]
    };
    system.write(file, SECTOR_BYTES as u64, &Page(*page1).0)?;
    system.write(file, 0, &Page(*page0).0)?;
    system.sync(file)
}

/// For a tile of a regular grid: the link that puts this segment into the array of whole frames.
fn link_whole(new: &NewSegment, path: &Path) -> Result<(), StorageError> {
    let Some((whole, ty, tx)) = &new.files.whole else { return Ok(()) };
    let directory = whole.join("c").join(new.number.to_string()).join(ty.to_string());
    let system = &*new.files.system;
    files::create_dirs(system, &directory)?;
    let Some(root) = whole.parent() else { return Ok(()) };
    let target = Path::new("../../../..").join(path.strip_prefix(root).unwrap_or(path));
    let link = directory.join(tx.to_string());
    match system.link(&target, &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.context("link", &link)?,
    }
    files::sync_dir(system, &directory)
}

/// Removes an unused segment, its link, and the directories that held nothing else.
fn discard(files: &TileFiles, number: u64) {
    let system = &*files.system;
    let path = segment_path(&files.array, number);
    // Best effort: what is left over reads as fill.
    if let Ok(target) = fs::read_link(&path) {
        let _ = system.remove(&target);
    }
    let _ = system.remove(&path);
    remove_dirs(system, &path);
    if let Some((whole, ty, tx)) = &files.whole {
        let directory = whole.join("c").join(number.to_string());
        let _ = system.remove(&directory.join(ty.to_string()).join(tx.to_string()));
        let _ = system.remove_dir(&directory.join(ty.to_string()));
        let _ = system.remove_dir(&directory);
    }
}

/// Removes the two directories above a segment if they hold nothing.
fn remove_dirs(system: &dyn FileSystem, path: &Path) {
    for directory in path.ancestors().skip(1).take(2) {
        let _ = system.remove_dir(directory); // Best effort, as in `discard`.
    }
}
