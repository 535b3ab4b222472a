//! Small files: always whole, by temporary name, sync and rename.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{Context as _, StorageError};
use super::file_system::{Creation, FileSystem};

/// Largest metadata file that is read, in bytes.
pub(super) const METADATA_BYTES_MAX: u64 = 64 << 20;

/// Replaces `path` by a file with these bytes: a reader sees the old or the new one, never a part, also after a power cut.
/// With `is_durable` that is the new one.
pub(super) fn replace(
    system: &dyn FileSystem,
    path: &Path,
    bytes: &[u8],
    is_durable: bool,
) -> Result<(), StorageError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let file = system.create(&part, Creation::Empty).context("create", &part)?;
    system.write(&file, 0, bytes).context("write", &part)?;
    system.sync(&file).context("sync", &part)?;
    system.rename(&part, path).context("rename", &part)?;
    match path.parent() {
        Some(parent) if is_durable => sync_dir(system, parent),
        _ => Ok(()),
    }
}

/// Replaces `path` durably by this document.
pub(super) fn replace_json(system: &dyn FileSystem, path: &Path, json: &Value) -> Result<(), StorageError> {
    replace(system, path, format!("{json:#}\n").as_bytes(), true)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(system: &dyn FileSystem, path: &Path) -> Result<(), StorageError> {
    system.sync_dir(path).context("sync directory", path)
}

/// Creates a directory and those above it, each with its name durable in its parent.
pub(super) fn create_dirs(system: &dyn FileSystem, path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dirs(system, parent)?;
    }
    match system.create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).context("create", path),
        _ => {}
    }
    path.parent().map_or(Ok(()), |parent| sync_dir(system, parent))
}

/// Reads a metadata file, refusing one of unlikely size, or one that is no file.
pub(super) fn read_text(path: &Path) -> Result<String, StorageError> {
    let metadata = fs::metadata(path).context("read", path)?;
    let refuse = |why: String| Err(std::io::Error::other(why)).context("read", path);
    if !metadata.is_file() {
        return refuse("not a regular file".to_owned());
    }
    let mut text = String::new();
    let file = File::open(path).context("read", path)?;
    file.take(METADATA_BYTES_MAX + 1).read_to_string(&mut text).context("read", path)?;
    if text.len() as u64 > METADATA_BYTES_MAX {
        return refuse(format!("more than {METADATA_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// Entries of a directory whose names are plain numbers, in order.
pub(super) fn numbered(path: &Path) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path).context("list", path)? {
        let name = entry.context("list", path)?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|number| name.to_str() == Some(number.to_string().as_str())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
