//! A directory that shows one image after the other, changed only where they differ.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::crash::{Entry, Image};

/// A directory in memory, where there is such a place: thousands of runs and images come and go.
pub(crate) fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| super::super::rig::tempdir())
}

/// Where images are shown.
pub(crate) struct Stage {
    dir: TempDir,
    shown: Image,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { dir: memory_dir(), shown: Image::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes the directory look like this.
    pub(crate) fn show(&mut self, image: Image) {
        let root = self.dir.path();
        for (path, entry) in self.shown.iter().rev() {
            let stays = match (entry, image.get(path)) {
                (Entry::Dir, Some(Entry::Dir)) | (Entry::File(_), Some(Entry::File(_))) => true,
                (Entry::Link(old), Some(Entry::Link(new))) => old == new,
                _ => false,
            };
            match entry {
                _ if stays => {}
                Entry::Dir => fs::remove_dir(root.join(path)).expect("removed"),
                _ => fs::remove_file(root.join(path)).expect("removed"),
            }
        }
        for (path, entry) in &image {
            match (entry, self.shown.get(path)) {
                (new, Some(old)) if new == old => {}
                (Entry::Dir, _) => fs::create_dir(root.join(path)).expect("made"),
                (Entry::File(bytes), _) => fs::write(root.join(path), bytes).expect("written"),
                (Entry::Link(target), _) => std::os::unix::fs::symlink(target, root.join(path)).expect("linked"),
            }
        }
        self.shown = image;
    }
}
