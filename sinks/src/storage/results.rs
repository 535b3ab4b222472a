//! The results of a data set that nobody writes: read, and replaced by others as one.
//!
//! # Place in the path
//! Beside it: frames that were recorded earlier have been reduced again. The receiver stores its own results through
//! [`DataSet::write_results`](super::DataSet::write_results), while it holds the same lock.
//!
//! # Invariants
//! - I1: whoever changes results holds the lock of the data set. Frames and what describes them are never touched.
//! - I2: a reader sees all results as they were before or as they are after, also after a power cut: the new directory is
//!   complete and durable before it takes the place of the old one, by one exchange of names.
//!
//! # Limits
//! Where a file system cannot exchange names (some network ones), the name `results` is missing for a moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::group_json;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::data_set::{ResultArray, write_result};
use super::error::{Context as _, StorageError};
use super::file_system::RealFiles;
use super::files;

/// The results of a data set, held so that nobody else changes them; let go when dropped.
#[derive(Debug)]
pub struct StoredResults {
    root: PathBuf,
    _lock: File,
}

impl StoredResults {
    /// Takes the lock of the data set in this directory.
    ///
    /// # Errors
    /// [`StorageError::InUse`]: a receiver writes it, or another program its results. The directory cannot be written.
    pub fn hold(root: &Path) -> Result<Self, StorageError> {
        let path = root.join(".lock");
        let mut options = File::options();
        options.read(true).write(true).create(true);
        let lock = options.truncate(false).open(&path).context("open", &path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(StorageError::InUse { path: root.to_owned() }),
            result => result.context("lock", &path).map(|()| Self { root: root.to_owned(), _lock: lock }),
        }
    }

    /// Names of the results that are there, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let whole = entries.filter(|entry| entry.path().join("zarr.json").is_file());
        let mut names: Vec<String> = whole.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Metadata of a result, as `zarr.json` has it.
    pub fn metadata(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&files::read_text(&self.directory().join(name).join("zarr.json")).ok()?).ok()
    }

    /// Whether the result of that name has this shape and these bytes.
    pub fn holds(&self, result: &ResultArray) -> bool {
        let is_like = self.metadata(&result.name).is_some_and(|json| json["shape"] == json!(result.shape));
        let path = result.chunk_path(&self.directory());
        let length = fs::metadata(&path).map(|metadata| metadata.len());
        is_like
            && length.is_ok_and(|length| length == result.bytes.len() as u64)
            && fs::read(&path).is_ok_and(|bytes| bytes == result.bytes)
    }

    /// Replaces results by others of the same names, adds those that are new, and removes those of `dropped`; all at once
    /// (I2). The others stay as they are.
    pub fn replace(&self, results: Vec<ResultArray>, dropped: &[String]) -> Result<(), StorageError> {
        let (old, new) = (self.directory(), self.root.join("results.part"));
        remove(&new)?; // What a crash left of an earlier attempt.
        files::create_dirs(&RealFiles, &new)?;
        let is_replaced =
            |name: &str| results.iter().any(|result| result.name == name) || dropped.iter().any(|d| d == name);
        if old.is_dir() {
            carry(&old, &new, &is_replaced)?;
        }
        if !new.join("zarr.json").exists() {
            files::replace_json(&RealFiles, &new.join("zarr.json"), &group_json(json!({})))?;
        }
        for result in results {
            write_result(&RealFiles, &new, result)?;
        }
        files::sync_dir(&RealFiles, &new)?;
        exchange(&new, &old).context("replace", &old)?;
        files::sync_dir(&RealFiles, &self.root)?;
        remove(&new)
    }

    fn directory(&self) -> PathBuf {
        self.root.join("results")
    }
}

/// Puts `new` in the place of `old`, which, if it is there, has the name of `new` afterwards.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => fs::rename(new, old),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_by_turns(new, old),
        result => Ok(result?),
    }
}

/// The same where the file system cannot do it at once.
fn rename_by_turns(new: &Path, old: &Path) -> io::Result<()> {
    if !old.exists() {
        return fs::rename(new, old);
    }
    let aside = old.with_extension("old.part");
    remove(&aside).map_err(io::Error::other)?;
    fs::rename(old, &aside)?;
    fs::rename(new, old)?;
    fs::rename(&aside, new)
}

fn remove(directory: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context("remove", directory),
    }
}

/// Gives the files of a directory second names in another one, or copies them where that cannot be. What `is_left` names
/// is left out, and what is not complete.
fn carry(from: &Path, to: &Path, is_left: &dyn Fn(&str) -> bool) -> Result<(), StorageError> {
    for entry in fs::read_dir(from).context("list", from)? {
        let entry = entry.context("list", from)?;
        let (name, source) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        if name.to_str().is_some_and(|name| is_left(name) || name.ends_with(".part")) {
            continue;
        }
        if entry.file_type().context("look at", &source)?.is_dir() {
            fs::create_dir(&target).context("create", &target)?;
            carry(&source, &target, &|_| false)?;
            files::sync_dir(&RealFiles, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).context("copy", &source)?;
            File::open(&target).and_then(|file| file.sync_all()).context("sync", &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, values: &[u8]) -> ResultArray {
        ResultArray {
            name: name.into(),
            shape: vec![values.len() as u64],
            data_type: "uint8".into(),
            fill_value: json!(0),
            dimension_names: vec!["frame".into()],
            attributes: json!({}),
            bytes: values.to_vec(),
        }
    }

    /// New ones come, those of the same name are replaced, those that are dropped go, the others stay; what an earlier
    /// attempt left is in nobody's way.
    #[test]
    fn replaced_as_one() {
        let directory = tempfile::tempdir().expect("folder");
        let root = directory.path();
        let stored = StoredResults::hold(root).expect("nobody else");
        assert!(matches!(StoredResults::hold(root), Err(StorageError::InUse { .. })));
        stored.replace(vec![result("a", &[1]), result("b", &[2, 3]), result("c", &[4])], &[]).expect("stored");
        assert_eq!(stored.names(), ["a", "b", "c"]);
        fs::create_dir_all(root.join("results.part/torn")).expect("folder");
        stored.replace(vec![result("b", &[7, 8, 9]), result("d", &[5])], &["c".into()]).expect("stored");
        assert_eq!(stored.names(), ["a", "b", "d"]);
        for (name, values) in [("a", &[1][..]), ("b", &[7, 8, 9]), ("d", &[5])] {
            assert!(stored.holds(&result(name, values)), "{name}");
        }
        assert!(!stored.holds(&result("b", &[7, 8, 8])) && !stored.holds(&result("b", &[7, 8])));
        assert_eq!(stored.metadata("b").expect("metadata")["shape"], json!([3]));
        assert!(!root.join("results.part").exists() && root.join("results/zarr.json").is_file());
        drop(stored);
        StoredResults::hold(root).expect("it was let go");
    }

    /// Names change places, at once or by turns; where there is no old one, the new one takes its place.
    #[test]
    fn names_are_exchanged() {
        for exchange in [exchange, rename_by_turns] {
            let directory = tempfile::tempdir().expect("folder");
            let [old, new] = ["results", "results.part"].map(|name| directory.path().join(name));
            fs::create_dir(&new).expect("folder");
            fs::write(new.join("new"), "").expect("file");
            exchange(&new, &old).expect("nothing was there");
            assert!(old.join("new").exists() && !new.exists());
            fs::create_dir(&new).expect("folder");
            exchange(&new, &old).expect("exchanged");
            assert!(new.join("new").exists() && !old.join("new").exists());
            assert_eq!(fs::read_dir(directory.path()).expect("folder").count(), 2);
        }
    }
}
