//! What is known of a data set without looking at its frames: a line of `ronchi ls`, an entry of `/api/v1/datasets`.

use std::fs;
use std::path::{Path, PathBuf};

use ronchi_pipeline::Gaps;
use ronchi_pipeline::format::{Manifest, Progress};
use serde::Serialize;

use super::error::{Context as _, StorageError};
use super::reader::{Condition, Reader, look_at};

/// A data set, from its small files alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Its name, as the manifest has it.
    pub name: String,
    /// Identity of the acquisition.
    pub uuid: String,
    /// What it is doing.
    pub state: Condition,
    /// `(ny, nx)`.
    pub scan: Option<[u32; 2]>,
    /// `(height, width)` in pixels.
    pub detector: [u32; 2],
    /// NumPy name of the pixel type.
    pub pixel: String,
    /// Tiles that should be there.
    pub tiles: usize,
    /// Frames of which every tile is durable, at most.
    pub durable: u64,
    /// Frames of the acquisition; `None` while an open-ended run goes on.
    pub announced: Option<u64>,
    /// Frames of which some tile is not there, as far as is known.
    pub missing: u64,
    /// Bytes of durable pixels.
    pub bytes: u64,
    /// Wall time of the beginning, RFC 3339, UTC.
    pub created: String,
}

impl Facts {
    /// Reads what was written about the data set in this directory. Errors: it cannot be read.
    pub fn of(path: &Path) -> Result<Self, StorageError> {
        let (manifest, state) = look_at(path)?;
        let reader = Reader::open(path)?;
        let mut durable = Vec::new();
        let (mut bytes, mut missing) = (0_u64, 0);
        for tile in reader.tiles() {
            let progress = match reader.progress(tile.id) {
                Err(_) if !state.is_finished() => None, // It has only just begun.
                progress => Some(progress?),
            };
            let count = progress.as_ref().map_or(0, |progress: &Progress| progress.durable_count);
            bytes = bytes.saturating_add(count.saturating_mul(tile.array.layout.frame_bytes));
            missing = progress.map_or(0, |progress| progress.missing).max(missing);
            durable.push(count);
        }
        let tiles = manifest.detector.tiles.len();
        let is_whole = durable.len() == tiles;
        Ok(Self {
            state,
            scan: manifest.scan.map(|scan| scan.shape),
            detector: manifest.detector.shape,
            tiles,
            durable: durable.into_iter().min().filter(|_| is_whole).unwrap_or(0),
            announced: manifest.frame_count,
            missing: if state.is_finished() { listed(&manifest) } else { missing },
            bytes,
            uuid: manifest.uuid,
            name: manifest.name,
            pixel: manifest.detector.pixel,
            created: manifest.created,
        })
    }
}

/// Frames that lack a tile, by the manifest's lists; where they are cut, those of the worst tile at least.
fn listed(manifest: &Manifest) -> u64 {
    let mut all = Gaps::default();
    for gap in manifest.gaps.iter().flat_map(|gaps| &gaps.ranges) {
        all.insert(gap.first..gap.first.saturating_add(gap.count), gap.reason);
    }
    let worst = manifest.gaps.iter().map(|gaps| gaps.frame_count).max().unwrap_or(0);
    worst.max(all.frame_count())
}

/// Whether this path is called like a data set, and is a directory.
pub fn is_data_set(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ronchi") && path.is_dir()
}

/// The data sets of a directory, in no order. Errors: it cannot be listed.
pub fn data_sets_in(directory: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).context("list", directory)? {
        let path = entry.context("list", directory)?.path();
        paths.extend(Some(path).filter(|path| is_data_set(path)));
    }
    Ok(paths)
}
