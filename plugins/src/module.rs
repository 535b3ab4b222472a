//! The file of a plug-in: read when a list of reductions is, so that a wrong one is told at once, and a changed one is another.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ronchi_pipeline::crc32c;
use ronchi_pipeline::reduce::ConditionFile;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::host::Compiled;

/// Longest file of a plug-in.
pub const MODULE_BYTES_MAX: u64 = 8 << 20;

/// A plug-in in a file, compiled; in configurations its path.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    path: PathBuf,
    crc32c: u32,
    pub(crate) compiled: Compiled,
}

impl Module {
    fn read(path: PathBuf) -> Result<Self, String> {
        let told = |why: String| format!("{}: {why}", path.display());
        let bytes = read_bytes(&path).map_err(told)?;
        let compiled = Compiled::new(&bytes).map_err(told)?;
        Ok(Self { crc32c: crc32c(&bytes), path, compiled })
    }

    /// How results name it.
    pub(crate) fn file(&self) -> ConditionFile {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ConditionFile { what: "plugin", name, crc32c: self.crc32c }
    }
}

/// The bytes of a file, if it is one and not too long.
fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Before it is opened: a pipe would wait for who writes.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MODULE_BYTES_MAX {
        return Err(format!("is not a file of at most {MODULE_BYTES_MAX} bytes"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MODULE_BYTES_MAX).read_to_end(&mut bytes)).map_err(unreadable)?;
    Ok(bytes)
}

/// The same bytes in the same place.
impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.crc32c) == (&other.path, other.crc32c)
    }
}

impl Serialize for Module {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.path.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Module {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(PathBuf::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is no file of a plug-in is found before it is read whole, and told with its path.
    #[test]
    fn files_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let large = folder.path().join("large.wasm");
        File::create(&large).and_then(|file| file.set_len(MODULE_BYTES_MAX + 1)).expect("a sparse file");
        let garbage = folder.path().join("garbage.wasm");
        std::fs::write(&garbage, b"\0asm and nothing that follows from it").expect("written");
        let content = if cfg!(feature = "wasm") { "is no plug-in" } else { "was built without plug-ins" };
        for (path, part) in [
            (&large, "is not a file of at most 8388608 bytes"),
            (&folder.path().to_owned(), "is not a file"),
            (&folder.path().join("missing.wasm"), "cannot be read"),
            (&garbage, content),
        ] {
            let read: Result<Module, _> = serde_json::from_value(path.to_string_lossy().into());
            let error = read.expect_err("no plug-in").to_string();
            assert!(error.starts_with(&*path.to_string_lossy()) && error.contains(part), "{error}");
        }
    }
}
