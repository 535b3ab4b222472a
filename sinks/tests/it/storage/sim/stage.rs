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
    /// What the directory looks like after somebody else has worked on it. It is not shown anything afterwards.
    pub(crate) fn load(&self) -> Image {
        let mut image = Image::new();
        self.load_below(Path::new(""), &mut image);
        image
    }

    fn load_below(&self, directory: &Path, image: &mut Image) {
        for entry in fs::read_dir(self.dir.path().join(directory)).expect("listed").flatten() {
            let path = directory.join(entry.file_name());
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                image.insert(path.clone(), Entry::Dir);
                self.load_below(&path, image);
            } else if kind.is_symlink() {
                image.insert(path, Entry::Link(fs::read_link(entry.path()).expect("a link")));
            } else {
                image.insert(path, Entry::File(fs::read(entry.path()).expect("read")));
            }
        }
    }
}
