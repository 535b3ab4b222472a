//! Where the results of `ronchi reprocess` go: into the data set, into files, or both.
//!
//! # Invariants
//! - I1: what cannot be kept is known before anything is read, as far as it can be.
//! - I2: `results/valid` always belongs to every result that has no `NAME.valid` of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ronchi_sinks::storage::{Condition, ResultArray, StorageError, StoredResults};
use rustix::fs::Access;
use serde_json::{Value, json};

use crate::export::results::{ResultFormat, Stored};

/// Name of the array that tells which frames are in the results.
const VALID: &str = "valid";
/// What follows the name of a result whose frames are others than those of the results beside it.
const OWN: &str = ".valid";
/// Longest name of a result, in bytes, that leaves room for [`OWN`].
const NAME_BYTES_MAX: usize = 128 - OWN.len();
/// A receiver that has ended a series lets go of it within this time.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Where results go.
#[derive(Debug)]
pub(super) struct Keep {
    /// The data set, if they go into it.
    pub store: Option<PathBuf>,
    /// Why they do not, though nobody said that they should not.
    pub unstored: Option<String>,
    /// Directory for files.
    pub out: Option<PathBuf>,
    /// Their formats.
    pub formats: Vec<ResultFormat>,
}

/// What was kept where.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// They are in the data set.
    pub is_stored: bool,
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// Files that were not, because the format cannot hold the result.
    pub left_out: Vec<String>,
}

impl Keep {
    /// Finds out whether results of these names can be kept where they are to go. Errors: they cannot.
    pub(super) fn check(&mut self, names: &[&str], condition: Condition, follows: bool) -> Result<()> {
        for name in names {
            let is_good = name.len() <= NAME_BYTES_MAX && !name.ends_with(OWN);
            ensure!(
                is_good,
                "{name:?}: a name of at most {NAME_BYTES_MAX} bytes that does not end in {OWN:?} is needed"
            );
        }
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
            for name in names.iter().chain([&VALID]) {
                let taken = self.formats.iter().map(|&format| file(out, name, format)).find(|path| path.exists());
                if let Some(path) = taken {
                    bail!("{} exists already", path.display());
                }
            }
        }
        let Some(root) = &self.store else { return Ok(()) };
        match (can_store(root, condition, follows), &self.out) {
            (Ok(()), _) => {}
            (Err(error), None) => {
                let what = "results cannot be stored in the data set (--out DIR writes them elsewhere)";
                return Err(anyhow::Error::from(error).context(what));
            }
            (Err(error), Some(_)) => {
                self.unstored = Some(error.to_string());
                self.store = None;
            }
        }
        Ok(())
    }

    /// Writes files, then stores; `may_store` is no for results of frames that are not all that were asked for. `about`
    /// goes into the metadata of every result.
    pub(super) fn keep(&self, results: Vec<ResultArray>, about: &Value, may_store: bool) -> Result<Kept> {
        let mut kept = Kept::default();
        if let Some(out) = &self.out {
            for result in &results {
                let stored = Stored::from(result.clone());
                for &format in &self.formats {
                    let path = file(out, &result.name, format);
                    if stored.fits(format) {
                        stored.write(&path, format)?;
                        kept.files.push(path);
                    } else {
                        kept.left_out.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
                    }
                }
            }
        }
        if let Some(root) = self.store.as_ref().filter(|_| may_store) {
            let held = hold(root).context("results cannot be stored in the data set")?;
            let (results, dropped) = with_validity(&held, results, about);
            held.replace(results, &dropped)?;
            kept.is_stored = true;
        }
        Ok(kept)
    }
}

fn file(out: &Path, name: &str, format: ResultFormat) -> PathBuf {
    out.join(format!("{name}.{}", format.extension()))
}

/// Whether results can be stored once they are there: nobody writes the data set, or will by then, and we may.
fn can_store(root: &Path, condition: Condition, follows: bool) -> Result<(), StorageError> {
    let results = root.join("results");
    for path in [root, &results].into_iter().filter(|path| path.exists()) {
        rustix::fs::access(path, Access::WRITE_OK).map_err(|errno| StorageError::Io {
            action: "write in",
            path: path.to_owned(),
            source: errno.into(),
        })?;
    }
    match condition {
        Condition::Running if follows => Ok(()),
        Condition::Running => Err(StorageError::InUse { path: root.to_owned() }),
        _ => StoredResults::hold(root).map(drop),
    }
}

/// Takes the lock; a receiver that has just ended gets its time to let go.
fn hold(root: &Path) -> Result<StoredResults, StorageError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match StoredResults::hold(root) {
            Err(StorageError::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(POLL),
            result => return result,
        }
    }
}

/// The results with their part of the metadata, and with what tells which of their frames are there: `valid`, or, where
/// that belongs to results that stay (I2) and says something else, a `NAME.valid` for each. Also names that are to go.
fn with_validity(held: &StoredResults, results: Vec<ResultArray>, about: &Value) -> (Vec<ResultArray>, Vec<String>) {
    let (valid, mut results): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| result.name == VALID);
    let there = held.names();
    let is_ours = |name: &str| results.iter().any(|result| result.name == name);
    let needs_shared = |name: &String| {
        let metadata = held.metadata(name).unwrap_or_default();
        let own = &metadata["attributes"][VALID];
        name != VALID
            && !name.ends_with(OWN)
            && !is_ours(name)
            && is_per_frame(&metadata["dimension_names"][0])
            && (own.is_null() || own == VALID)
    };
    let is_shared = valid.iter().all(|valid| held.holds(valid)) || !there.iter().any(needs_shared);
    let mut own = Vec::new();
    let mut dropped = Vec::new();
    for result in &mut results {
        result.attributes["reprocessed"] = about.clone();
        if !is_per_frame(&json!(result.dimension_names.first())) {
            continue;
        }
        let name = format!("{}{OWN}", result.name);
        result.attributes[VALID] = json!(if is_shared { VALID } else { &name });
        match is_shared {
            true => dropped.extend(there.contains(&name).then_some(name)),
            false => own.extend(valid.iter().map(|valid| ResultArray { name: name.clone(), ..valid.clone() })),
        }
    }
    results.extend(own);
    if is_shared {
        results.extend(valid);
    }
    (results, dropped)
}

/// Whether an array whose first axis is this has a place for every frame.
fn is_per_frame(axis: &Value) -> bool {
    axis == "scan_y" || axis == "frame"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(name: &str, axis: &str, values: &[u8]) -> ResultArray {
        ResultArray {
            name: name.into(),
            shape: vec![values.len() as u64],
            data_type: "uint8".into(),
            fill_value: json!(0),
            dimension_names: vec![axis.into()],
            attributes: json!({ "unit": "counts" }),
            bytes: values.to_vec(),
        }
    }

    fn names((results, dropped): (Vec<ResultArray>, Vec<String>)) -> (Vec<String>, Vec<String>) {
        (results.into_iter().map(|result| result.name).collect(), dropped)
    }

    /// `valid` is shared while it says the same, or nothing else needs the old one; else results get their own, which goes
    /// again when it is not needed any more.
    #[test]
    fn what_is_valid() {
        let directory = tempfile::tempdir().expect("folder");
        let held = StoredResults::hold(directory.path()).expect("lock");
        let set = |name: &str, valid: &[u8]| {
            vec![array(name, "frame", &[1, 2]), array("sum", "sig_y", &[3]), array(VALID, "frame", valid)]
        };
        let about = json!({ "frames": [0, 2] });
        let store = |results| {
            let (results, dropped) = with_validity(&held, results, &about);
            held.replace(results, &dropped).expect("stored");
        };
        store(set("a", &[1, 1]));
        assert_eq!(held.names(), ["a", "sum", "valid"]);
        assert_eq!(held.metadata("a").expect("metadata")["attributes"]["reprocessed"], about);
        store(set("b", &[1, 1]));
        assert_eq!(held.names(), ["a", "b", "sum", "valid"]);
        store(set("b", &[1, 0]));
        assert_eq!(held.names(), ["a", "b", "b.valid", "sum", "valid"]);
        assert_eq!(held.metadata("b").expect("metadata")["attributes"]["valid"], "b.valid");
        // `b` has its own: only `a` needs the shared one.
        assert_eq!(
            names(with_validity(&held, set("a", &[0, 1]), &about)),
            (vec!["a".into(), "sum".into(), VALID.into()], vec![])
        );
        store(set("b", &[1, 1]));
        assert_eq!(held.names(), ["a", "b", "sum", "valid"]);
    }
}
