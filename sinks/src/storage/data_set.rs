//! A data set directory: created exclusively, given its arrays tile by tile, and its manifest at the end.
//!
//! # Place in the path
//! The caller creates it when a series begins; the writer thread and its clerk add tiles and segments; the caller writes
//! results and finishes it. Nothing here is on the block path.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use ronchi_pipeline::format::{
    DataSetState, DetectorInfo, FramesArray, GAPS_LISTED_MAX, LAYOUT_VERSION, Law, Manifest, PlainArray, TileGaps,
    group_json, uuid_text,
};
use ronchi_pipeline::{Encoding, Gaps, Layout, Region, Scan, Series, SigShape, Watermarks};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::error::{Context as _, StorageError};
use super::file_system::{Creation, FileSystem, RealFiles};
use super::volumes::Volumes;
use super::{companion, files, sensor, table};

const NAME_BYTES_MAX: usize = 128;

/// What a new data set is created from.
#[derive(Debug, Clone)]
pub struct NewDataSet<'a> {
    /// The series whose beginning makes the data set: gives name, identity, sizes, pixel type and vendor header.
    pub series: &'a Series,
    /// Regions of all links, in the order of their numbers.
    pub regions: &'a [Region],
    /// Scan geometry in force.
    pub scan: Option<Scan>,
    /// Wall time, RFC 3339, UTC.
    pub created: String,
    /// Program and version.
    pub software: String,
    /// The user's own notes; `Null` for none.
    pub user: Value,
    /// Directories on other disks over which the segments are spread; empty = they lie in the data set.
    pub volumes: &'a [PathBuf],
}

/// A finished picture or table, to be kept with the frames.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultArray {
    /// Name, as a data set's.
    pub name: String,
    /// Extent of every axis, slow first; empty for one number.
    pub shape: Vec<u64>,
    /// Zarr data type, e.g. `float64`.
    pub data_type: String,
    /// Value that stands for "nothing here", e.g. `"NaN"`.
    pub fill_value: Value,
    /// Name of every axis.
    pub dimension_names: Vec<String>,
    /// Units, coverage, parameters.
    pub attributes: Value,
    /// Elements in C order, little-endian.
    pub bytes: Vec<u8>,
}

/// How one tile ended, for the manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct TileOutcome {
    /// Tile id: the number of its link.
    pub tile: u32,
    /// Frames of the series.
    pub frame_count: u64,
    /// Frames that are not there.
    pub gaps: Gaps,
    /// Whether every frame is accounted for.
    pub law: Law,
}

/// An open data set; `flock` on its lock file tells others that somebody writes.
#[derive(Debug)]
pub struct DataSet {
    system: Arc<dyn FileSystem>,
    root: PathBuf,
    manifest: Mutex<Manifest>,
    regions: Vec<Region>,
    watermarks: Vec<Arc<Watermarks>>,
    extents: Arc<Mutex<Vec<u64>>>,
    grid: Option<Grid>,
    volumes: Arc<Volumes>,
    _lock: File,
}

/// The array of whole frames over the tiles of a regular detector.
#[derive(Debug, Clone, Copy)]
struct Grid {
    detector: SigShape,
    tile: SigShape,
    layout: Layout,
}

/// Where the files of one tile lie.
#[derive(Debug, Clone)]
pub(super) struct TileFiles {
    /// Where they are made.
    pub(super) system: Arc<dyn FileSystem>,
    /// Directory of the array: `zarr.json` and `c/`.
    pub(super) array: PathBuf,
    /// Directory of `progress.json`, `chunks.log` and `frame_table/`.
    pub(super) base: PathBuf,
    /// For a tile of a regular grid: directory of the whole array, and `(ty, tx)`.
    pub(super) whole: Option<(PathBuf, u32, u32)>,
    /// The array as written in `zarr.json`; `frame_count` may grow.
    pub(super) metadata: FramesArray,
    /// Metadata of the whole array, if there is one.
    pub(super) whole_metadata: Option<FramesArray>,
    /// Frames of every tile's array: the whole array is as long as the longest. Locked while its metadata is replaced.
    pub(super) extents: Arc<Mutex<Vec<u64>>>,
    /// Which of them is this tile's.
    pub(super) tile: usize,
    /// Progress, as `progress.json` has it.
    pub(super) watermarks: Arc<Watermarks>,
    /// Where its segments lie, if not here.
    pub(super) volumes: Arc<Volumes>,
    /// How often the clerk was asked to replace `progress.json`.
    pub(super) progress_count: Arc<AtomicU64>,
    /// The frame table holds the checksum of every frame.
    pub(super) has_checksums: bool,
}

impl DataSet {
    /// Creates `<parent>/<name>.ronchi` with its manifest; fails if it is there already.
    pub fn create(parent: &Path, new: &NewDataSet<'_>) -> Result<Self, StorageError> {
        Self::create_on(Arc::new(RealFiles), parent, new)
    }

    /// As [`Self::create`], in this file system: everything that belongs to the data set is made there.
    pub fn create_on(system: Arc<dyn FileSystem>, parent: &Path, new: &NewDataSet<'_>) -> Result<Self, StorageError> {
        let series = new.series;
        check_name(&series.name)?;
        let root = parent.join(format!("{}.ronchi", series.name));
        match system.create_dir(&root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StorageError::Exists { path: root });
            }
            result => result.context("create", &root)?,
        }
        files::sync_dir(&*system, parent)?;
        let lock_path = root.join(".lock");
        let lock = system.create(&lock_path, Creation::Empty).context("create", &lock_path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("lock", &lock_path)?;
        let announced = &series.announced;
        let manifest = Manifest {
            layout_version: LAYOUT_VERSION,
            uuid: uuid_text(&series.acquisition),
            name: series.name.clone(),
            created: new.created.clone(),
            state: DataSetState::Running,
            scan: new.scan.map(Into::into),
            frame_count: announced.frame_count,
            detector: DetectorInfo {
                nodata: announced.sensor.nodata,
                ..DetectorInfo::new(announced.detector, announced.pixel, new.regions)
            },
            block: series.layout.into(),
            gaps: Vec::new(),
            unsound: false,
            software: new.software.clone(),
            repairs: Vec::new(),
            vendor_header: announced.vendor_header.clone(),
            user: new.user.clone(),
        };
        if new.regions.len() > 1 {
            files::create_dirs(&*system, &root.join("tiles"))?;
            files::replace_json(&*system, &root.join("tiles/zarr.json"), &group_json(json!({})))?;
        }
        sensor::write(&*system, &root, &announced.sensor)?;
        // Last: with it the directory is a data set.
        files::replace_json(&*system, &root.join("zarr.json"), &manifest.to_json())?;
        let grid = regular_grid(announced.detector, new.regions).filter(|_| new.regions.len() > 1).map(|tile| Grid {
            detector: announced.detector,
            tile,
            layout: series.layout,
        });
        let (regions, manifest) = (new.regions.to_vec(), Mutex::new(manifest));
        let watermarks = regions.iter().map(|_| Arc::default()).collect();
        let extents = Arc::new(Mutex::new(vec![0; regions.len()]));
        let volumes = Arc::new(Volumes::new(new.volumes, series));
        Ok(Self { system, root, manifest, regions, watermarks, extents, grid, volumes, _lock: lock })
    }

    /// Progress of every tile, in the order of the links; raised by the writer.
    pub fn watermarks(&self) -> &[Arc<Watermarks>] {
        &self.watermarks
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Creates the arrays of one link; in packed ones chunks are compressed.
    pub(super) fn create_tile(&self, series: &Series, is_packed: bool) -> Result<TileFiles, StorageError> {
        let is_alone = self.regions.len() <= 1;
        let base = if is_alone { self.root.clone() } else { self.root.join("tiles").join(series.link.to_string()) };
        let array = if is_alone { self.root.join("frames") } else { base.clone() };
        let announced = &series.announced;
        let tile = SigShape { height: announced.region.height, width: announced.region.width };
        let metadata = FramesArray {
            frame_count: announced.frame_count.unwrap_or(0),
            shape: tile,
            tile,
            pixel: announced.pixel,
            layout: series.layout,
            is_packed,
        };
        let fits = |grid: &Grid| grid.tile == tile && grid.layout == series.layout;
        let grid = self.grid.filter(fits);
        let whole = grid.map(|grid| {
            let Region { y, x, .. } = announced.region;
            (self.root.join("frames"), y / grid.tile.height, x / grid.tile.width)
        });
        let whole_metadata = grid.map(|grid| FramesArray { shape: grid.detector, ..metadata.clone() });
        files::create_dirs(&*self.system, &array.join("c"))?;
        let table = base.join("frame_table");
        // The pixels of compressed frames were not seen: their chunks are what has checksums.
        let has_checksums = announced.encoding == Encoding::Raw;
        let sizes = (table::rows_per_file(announced.frame_count), table::columns(has_checksums));
        table::write_metadata(&*self.system, &table, metadata.frame_count, sizes)?;
        files::replace_json(&*self.system, &table.join("zarr.json"), &group_json(json!({})))?;
        let tile = series.link as usize;
        let watermarks = self.watermarks.get(tile).cloned().unwrap_or_default();
        let extents = Arc::clone(&self.extents);
        let system = Arc::clone(&self.system);
        let progress_count = Arc::default();
        let files = TileFiles {
            system,
            array,
            base,
            whole,
            metadata,
            whole_metadata,
            extents,
            tile,
            watermarks,
            volumes: Arc::clone(&self.volumes),
            progress_count,
            has_checksums,
        };
        files.write_metadata(files.metadata.frame_count)?;
        companion::refresh(&*self.system, &self.root, true);
        Ok(files)
    }

    /// Keeps finished results under `results/<name>/`, replacing earlier ones of the same name.
    pub fn write_results(&self, results: impl IntoIterator<Item = ResultArray>) -> Result<(), StorageError> {
        let root = self.root.join("results");
        files::create_dirs(&*self.system, &root)?;
        files::replace_json(&*self.system, &root.join("zarr.json"), &group_json(json!({})))?;
        results.into_iter().try_for_each(|result| write_result(&*self.system, &root, result))
    }

    /// Writes the final manifest: state, length, what is missing, and whether that adds up.
    pub fn finish(&self, state: DataSetState, tiles: &[TileOutcome]) -> Result<(), StorageError> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        manifest.state = state;
        manifest.frame_count = tiles.iter().map(|tile| tile.frame_count).max().or(manifest.frame_count);
        let gaps = |tile: &TileOutcome| TileGaps { law: Some(tile.law.clone()), ..listed_gaps(tile.tile, &tile.gaps) };
        manifest.gaps = tiles.iter().map(gaps).collect();
        manifest.unsound = tiles.iter().any(|tile| !tile.law.holds);
        files::replace_json(&*self.system, &self.root.join("zarr.json"), &manifest.to_json())?;
        companion::refresh(&*self.system, &self.root, false);
        Ok(())
    }
}

/// Gaps of a tile as the manifest lists them; the law is added by who knows its terms.
pub(super) fn listed_gaps(tile: u32, gaps: &Gaps) -> TileGaps {
    let mut ranges: Vec<_> = gaps.iter().take(GAPS_LISTED_MAX + 1).collect();
    let is_cut = ranges.len() > GAPS_LISTED_MAX;
    ranges.truncate(GAPS_LISTED_MAX);
    TileGaps { tile, frame_count: gaps.frame_count(), ranges, is_cut, law: None }
}

impl TileFiles {
    /// Writes the metadata of the arrays for this many frames of the tile.
    pub(super) fn write_metadata(&self, frame_count: u64) -> Result<(), StorageError> {
        let array = FramesArray { frame_count, ..self.metadata.clone() };
        files::replace_json(&*self.system, &self.array.join("zarr.json"), &array.to_json())?;
        if let (Some((directory, ..)), Some(metadata)) = (&self.whole, &self.whole_metadata) {
            files::create_dirs(&*self.system, &directory.join("c"))?;
            let mut extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(extent) = extents.get_mut(self.tile) {
                *extent = frame_count;
            }
            let frame_count = extents.iter().copied().max().unwrap_or(frame_count);
            let array = FramesArray { frame_count, ..metadata.clone() };
            files::replace_json(&*self.system, &directory.join("zarr.json"), &array.to_json())?;
        }
        Ok(())
    }
}

impl ResultArray {
    /// Where its elements lie, below the directory of all results.
    pub(super) fn chunk_path(&self, root: &Path) -> PathBuf {
        root.join(&self.name).join(PlainArray::chunk_path(&vec![0; self.shape.len()]))
    }
}

/// Keeps one result below the directory of all results.
pub(super) fn write_result(system: &dyn FileSystem, root: &Path, result: ResultArray) -> Result<(), StorageError> {
    check_name(&result.name)?;
    let element_bytes = match result.data_type.as_str() {
        "bool" | "int8" | "uint8" => 1,
        "int16" | "uint16" | "float16" => 2,
        "int32" | "uint32" | "float32" => 4,
        "complex128" => 16,
        _ => 8,
    };
    let want_bytes = result.shape.iter().try_fold(element_bytes, |bytes: u64, &extent| bytes.checked_mul(extent));
    let (want_bytes, got_bytes) = (want_bytes.unwrap_or(u64::MAX), result.bytes.len() as u64);
    if want_bytes != got_bytes {
        return Err(StorageError::ResultSize { name: result.name, got_bytes, want_bytes });
    }
    let dir = root.join(&result.name);
    let chunk = result.chunk_path(root);
    files::create_dirs(system, chunk.parent().unwrap_or(&dir))?;
    files::replace(system, &chunk, &result.bytes, true)?;
    let array = PlainArray {
        chunk_shape: result.shape.iter().map(|&extent| extent.max(1)).collect(),
        shape: result.shape,
        data_type: result.data_type,
        fill_value: result.fill_value,
        dimension_names: result.dimension_names,
        attributes: result.attributes,
    };
    files::replace_json(system, &dir.join("zarr.json"), &array.to_json())
}

/// Names are `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`: they become directories and appear in URLs.
fn check_name(name: &str) -> Result<(), StorageError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts_well && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(StorageError::Name { name: name.to_owned() })
    }
}

/// The common shape of tiles that cover the detector as a regular grid without gaps or overlap.
fn regular_grid(detector: SigShape, regions: &[Region]) -> Option<SigShape> {
    let Region { height, width, .. } = *regions.first()?;
    if height == 0 || width == 0 || !detector.height.is_multiple_of(height) || !detector.width.is_multiple_of(width) {
        return None;
    }
    let is_in_grid = |r: &Region| {
        (r.height, r.width) == (height, width)
            && r.y.is_multiple_of(height)
            && r.x.is_multiple_of(width)
            && r.fits(detector)
    };
    let mut origins: Vec<(u32, u32)> = regions.iter().map(|r| (r.y, r.x)).collect();
    origins.sort_unstable();
    origins.dedup();
    let count = u64::from(detector.height / height) * u64::from(detector.width / width);
    let is_regular = regions.iter().all(is_in_grid) && origins.len() == regions.len() && count == regions.len() as u64;
    is_regular.then_some(SigShape { height, width })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that could leave the directory, hide, or confuse a shell are refused.
    #[test]
    fn names() {
        for good in ["a", "scan_0001", "2026-07-01.x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    /// Only equal tiles that cover the detector once make a grid.
    #[test]
    fn grids() {
        let detector = SigShape { height: 4, width: 6 };
        let tile = |y, x| Region { y, x, height: 4, width: 3 };
        assert_eq!(regular_grid(detector, &[tile(0, 0), tile(0, 3)]), Some(SigShape { height: 4, width: 3 }));
        assert_eq!(regular_grid(detector, &[tile(0, 0), tile(0, 0)]), None);
        assert_eq!(regular_grid(detector, &[tile(0, 0)]), None);
        assert_eq!(regular_grid(detector, &[tile(0, 0), tile(0, 2)]), None);
    }
}
