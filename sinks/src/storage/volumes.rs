//! Volumes: directories on other disks over which the segments of a data set are spread.
//!
//! # Invariants
//! - I1: a segment lies in one volume, under `<name>-<uuid>.segments/<tile>-<number>`; the data set has a symbolic link where the
//!   segment would be, made after the file is complete and named. Readers need to know nothing of it.
//! - I2: a volume that failed gets no further segment of this data set; what it holds is its only loss.
//! - I3: a volume is never made: one that is not there is a disk that is not mounted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ronchi_pipeline::Series;
use ronchi_pipeline::format::uuid_text;

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
        let uuid = uuid_text(&series.acquisition);
        let home = format!("{}-{}.segments", series.name, uuid.split('-').next().unwrap_or(&uuid));
        let volume = |directory: &PathBuf| Volume { home: directory.join(&home), has_failed: AtomicBool::new(false) };
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

#[cfg(test)]
mod tests {
    use super::*;

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
