//! Volumes: directories on other disks over which the segments of a data set are spread.
//!
//! # Invariants
//! - I1: a segment lies in one volume, under `<name>-<uuid>.segments/<tile>-<number>`; the data set has a symbolic link where the
//!   segment would be, made after the file is complete and named. Readers need to know nothing of it.
//! - I2: a volume that failed gets no further segment of this data set; what it holds is its only loss.
//! - I3: a volume is never made: one that is not there is a disk that is not mounted.
//! - I4: a link is followed only where I1 allows it to lead: by absolute path to a file that is itself no link.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ronchi_pipeline::Series;
use ronchi_pipeline::format::uuid_text;

use super::error::{Context as _, StorageError};

/// The volumes of one data set; none when its segments lie in it.
#[derive(Debug, Default)]
pub(super) struct Volumes(Vec<Volume>);

#[derive(Debug)]
struct Volume {
    /// The directory of this data set's segments; its parent is the volume.
    home: PathBuf,
    has_failed: AtomicBool,
}

impl Volumes {
    /// The volumes in these directories, for the data set that this series begins.
    pub(super) fn new(directories: &[PathBuf], series: &Series) -> Self {
        let home = Home::new(&series.name, &uuid_text(&series.acquisition));
        let volume = |directory: &PathBuf| Volume { home: directory.join(&home.0), has_failed: AtomicBool::new(false) };
        Self(directories.iter().map(volume).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, failed ones included.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Volumes for a segment, in the order in which they are to be tried: each in its turn, so that all write at once.
    pub(super) fn turns(&self, tile: u32, segment: u64) -> impl Iterator<Item = usize> + '_ {
        let count = self.0.len().max(1) as u64;
        let first = (segment % count + u64::from(tile)) % count;
        let in_turn = (first..first + self.0.len() as u64).map(move |volume| (volume % count) as usize);
        in_turn.filter(|&volume| !self.0[volume].has_failed.load(Ordering::Relaxed))
    }

    /// Where a volume keeps the segments of this data set.
    pub(super) fn home(&self, volume: usize) -> &Path {
        &self.0[volume].home
    }

    /// The place of a segment in a volume.
    pub(super) fn path(&self, volume: usize, tile: u32, segment: u64) -> PathBuf {
        self.0[volume].home.join(format!("{tile}-{segment}"))
    }

    /// The disk refused something there (I2).
    pub(super) fn fail(&self, volume: usize) {
        let Some(failed) = self.0.get(volume) else { return };
        if !failed.has_failed.swap(true, Ordering::Relaxed) {
            tracing::error!(volume = %failed.home.display(), "this volume has failed: it gets no further segments");
        }
    }
}

/// Name of the directory that holds a data set's segments in every volume: what tells its links from any others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home(String);

impl Home {
    /// Of a data set with this name and UUID, as its manifest has them.
    pub(super) fn new(name: &str, uuid: &str) -> Self {
        Self(format!("{name}-{}.segments", uuid.split('-').next().unwrap_or(uuid)))
    }

    /// The file of a segment that the data set has at `path`: that, or the one in a volume to which a link leads.
    ///
    /// # Errors
    /// The link leads to anything but this segment in a volume (I4), or cannot be read.
    pub(super) fn locate(&self, path: &Path, tile: u32, segment: u64) -> Result<PathBuf, StorageError> {
        let target = match std::fs::read_link(path) {
            Ok(target) => target,
            // No link, or nothing: whoever opens it will see.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path.to_owned());
            }
            Err(error) => return Err(error).context("read link", path),
        };
        let expected = Path::new(&self.0).join(format!("{tile}-{segment}"));
        let is_plain = target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if target.is_absolute() && is_plain && target.ends_with(&expected) && !target.is_symlink() {
            return Ok(target);
        }
        Err(StorageError::Elsewhere { path: path.to_owned(), target, expected })
    }

    /// The name of the data set whose segments a link at `path` leads to, if it leads to any of this UUID.
    pub(super) fn name_of(path: &Path, uuid: &str) -> Option<String> {
        let target = std::fs::read_link(path).ok()?;
        let home = target.parent()?.file_name()?.to_str()?;
        let name = home.strip_suffix(&Self::new("", uuid).0)?;
        (!name.is_empty()).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links are followed to the one file they may lead to, by whatever path to a volume; nothing else is.
    #[test]
    fn links_lead_to_one_place() {
        let dir = tempfile::tempdir().expect("folder");
        let (link, uuid) = (dir.path().join("link"), "30313233-3435");
        let home = Home::new("scan", uuid);
        let locate = |target: &Path| {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).expect("link");
            home.locate(&link, 2, 7)
        };
        assert_eq!(home.locate(&link, 2, 7).expect("nothing there"), link);
        let volume = dir.path().join("volume/scan-30313233.segments");
        assert_eq!(locate(&volume.join("2-7")).expect("not mounted"), volume.join("2-7"));
        assert_eq!(Home::name_of(&link, uuid).as_deref(), Some("scan"));
        for wrong in ["2-8", "2-7/..", "../scan-30313233.segments/../2-7", "x/2-7"] {
            let refused = locate(&volume.join(wrong)).expect_err("elsewhere").to_string();
            assert!(refused.contains("scan-30313233.segments/2-7"), "{refused}");
        }
        for wrong in ["/etc/passwd", "scan-30313233.segments/2-7", "/scan2-30313233.segments/2-7"] {
            assert!(locate(Path::new(wrong)).is_err(), "{wrong}");
        }
        std::fs::create_dir_all(&volume).expect("volume");
        std::os::unix::fs::symlink("/etc/passwd", volume.join("2-7")).expect("link");
        assert!(locate(&volume.join("2-7")).is_err(), "a link behind the link");
        std::fs::remove_file(&link).expect("remove");
        std::fs::write(&link, "a segment").expect("file");
        assert_eq!(home.locate(&link, 2, 7).expect("no link"), link);
    }

    /// Segments go round, tiles begin at different volumes, and a failed volume is left out.
    #[test]
    fn turns() {
        let volume = |name: &str| Volume { home: name.into(), has_failed: AtomicBool::new(false) };
        let volumes = Volumes(["a", "b", "c"].map(volume).into());
        let turns = |tile, segment| volumes.turns(tile, segment).collect::<Vec<_>>();
        assert_eq!((turns(0, 0), turns(0, 4), turns(1, u64::MAX)), (vec![0, 1, 2], vec![1, 2, 0], vec![1, 2, 0]));
        volumes.fail(1);
        assert_eq!((turns(0, 0), turns(0, 4)), (vec![0, 2], vec![2, 0]));
        assert_eq!(Volumes::default().turns(3, 7).count(), 0);
    }
}
