//! A file that has its name only when it is complete.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// `NAME.part`, removed again unless it is finished.
pub(super) struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    is_done: bool,
}

/// `path` with something behind its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl PartFile {
    /// Creates it with this length: what is not written reads as zeros.
    pub(super) fn create(path: &Path, bytes: u64) -> Result<Self> {
        ensure!(!path.exists(), "{} exists already", path.display());
        let part = with_suffix(path, ".part");
        let what = || format!("cannot create {}", part.display());
        let file = File::options().write(true).create_new(true).open(&part).with_context(what)?;
        let new = Self { file, part: part.clone(), path: path.to_owned(), is_done: false };
        new.file.set_len(bytes).with_context(what)?;
        Ok(new)
    }

    /// Writes all of it at this offset, in bytes.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).with_context(|| format!("cannot write {}", self.part.display()))
    }

    /// Makes it durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot sync {}", self.part.display()))?;
        ensure!(!self.path.exists(), "{} exists already", self.path.display());
        fs::rename(&self.part, &self.path).with_context(|| format!("cannot name {}", self.path.display()))?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.part); // Best effort: its name says what it is.
        }
    }
}
