//! Masks from `.npy` files.
//!
//! # Limits
//! Files up to 512 MiB; what is in them is checked by [`ronchi_pipeline::format::npy`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::npy::{NpyError, read_mask};
use ronchi_pipeline::reduce::VirtualDetector;

/// Longest file that is read: 64 Mi pixels of 8 bytes, and a header.
const FILE_BYTES_MAX: u64 = (512 << 20) + (64 << 10);

/// Why a file is not a mask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long, or no file at all.
    #[error("{}: is not a file of at most {FILE_BYTES_MAX} bytes", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
    },
    /// It is not an array of the right kind.
    #[error("{}: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what is expected.
        source: NpyError,
    },
}

impl MaskError {
    /// Which file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Length { path } | Self::Content { path, .. } => path,
        }
    }
}

/// Reads a mask: `bool`, integer or float, two axes `(height, width)`, C order.
pub fn read(path: &Path) -> Result<VirtualDetector, MaskError> {
    read_mask(&read_bytes(path)?).map_err(|source| MaskError::Content { path: path.to_owned(), source })
}

/// The bytes of a file, if it is one and not too long.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, MaskError> {
    let unreadable = |source| MaskError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(MaskError::Length { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_pipeline::format::npy;

    /// A mask comes back with its shape and weights; what is no mask is refused with the file's name.
    #[test]
    fn masks_are_read_from_files() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("mask.npy");
        std::fs::write(&path, npy::write("|u1", &[2, 3], &[1, 0, 1, 0, 1, 0])).expect("write");
        let weights = vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        assert_eq!(read(&path).expect("a mask"), VirtualDetector::Image { height: 2, width: 3, weights });
        std::fs::write(&path, b"\x93NUMPY\x01\x00").expect("write");
        assert!(read(&path).expect_err("cut short").to_string().contains("mask.npy: "));
        assert!(matches!(read(folder.path()), Err(MaskError::Length { .. })));
        assert!(matches!(read(&folder.path().join("none")), Err(MaskError::Read { .. })));
    }
}
