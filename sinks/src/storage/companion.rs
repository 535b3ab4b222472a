//! Companions: `scan.nxs` (NeXus), `scan.emd` (EMD 1.0) and `frames4d/` (Zarr), other faces of the same segments.
//!
//! # Place in the path
//! [`DataSet`](super::DataSet) has them written when an array begins and when the data set ends; [`write_companions`]
//! makes them again at any time from what the data set says of itself. They hold no pixels and nothing that is not
//! elsewhere: whoever deletes them loses nothing.
//!
//! # Invariants
//! - I1: a frame lies where [`Scan`] says; there is no other arithmetic of positions.
//! - I2: names of segments are relative to the data set, so that it can be moved.
//!
//! # Limits
//! [`MAPPINGS_MAX`] pieces of a virtual array; what needs more is left out, and positions are listed instead.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use ronchi_pipeline::format::Manifest;
use ronchi_pipeline::format::hdf5::Written;
use ronchi_pipeline::{AXIS_MAX, Layout, NavShape, PixelType, Region, SECTOR_BYTES, Scan, ScanOrder, SigShape};
use serde_json::{Value as Json, json};

use super::error::{Context as _, StorageError};
use super::file_system::{FileSystem, RealFiles};
use super::files;
use super::reader::{Reader, open_if_there};
use content::Content;
pub use content::MAPPINGS_MAX;
use content::Pixels;

mod content;

/// Links of the 4-D array that are made while frames may be waiting; the end makes all.
const EARLY_LINKS_MAX: u64 = 1000;

/// Which companions were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Companions {
    /// `scan.nxs`: whatever can be described; of an open-ended run that goes on an array that grows with its segments.
    pub nexus: bool,
    /// `scan.emd`: with a scan.
    pub emd: bool,
    /// `frames4d/`: with a raster scan whose rows fall in with chunks and segments.
    pub zarr4d: bool,
}

/// Writes the companions of a data set, replacing those that are there.
///
/// # Errors
/// It is no data set, the disk refuses, or a compressed segment has no HDF5 face: frames in it would read as zeros.
pub fn write_companions(root: &Path) -> Result<Companions, StorageError> {
    for tile in Reader::open(root)?.tiles().iter().filter(|tile| tile.array.is_packed) {
        tile.segments()?.into_iter().try_for_each(|number| require_face(&tile.segment_file(number)?))?;
    }
    write(&RealFiles, root, u64::MAX)
}

/// Refuses a packed segment of an early receiver.
fn require_face(path: &Path) -> Result<(), StorageError> {
    let mut page = [0; SECTOR_BYTES];
    let Some(file) = open_if_there(path)? else { return Ok(()) }; // Made ahead, and not used.
    file.read_exact_at(&mut page, SECTOR_BYTES as u64).context("read", path)?;
    match page == [0; SECTOR_BYTES] {
        true => Err(StorageError::NoFace { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// Writes the companions of a data set that begins or ends. That they cannot be written is said, and harms nothing.
pub(super) fn refresh(system: &dyn FileSystem, root: &Path, is_beginning: bool) {
    let links_max = if is_beginning { EARLY_LINKS_MAX } else { u64::MAX };
    if let Err(error) = write(system, root, links_max) {
        tracing::warn!(%error, "a companion of the data set could not be written");
    }
}

/// What a data set says of itself as the head of one HDF5 file: behind it follow, where [`Written::behind`] says, all
/// frames in order, or the index of their compressed chunks ([`ChunkIndex`](ronchi_pipeline::format::hdf5::ChunkIndex)), and one
/// flag for each.
pub struct Description(Content);

impl Description {
    /// Describes an open data set; `None` while nobody knows how many frames there are.
    pub fn of(reader: &Reader) -> Option<Self> {
        Content::of(reader).filter(|content| content.frame_count > 0).map(Self)
    }

    /// Frames of the whole data set.
    pub fn frame_count(&self) -> u64 {
        self.0.frame_count
    }

    /// The scan, if its geometry can be told.
    pub fn scan(&self) -> Option<Scan> {
        self.0.scan
    }

    /// The whole detector.
    pub fn detector(&self) -> SigShape {
        self.0.detector
    }

    /// Type of a pixel, as stored.
    pub fn pixel(&self) -> PixelType {
        self.0.pixel
    }

    /// As NeXus, with frames compressed or not.
    pub fn nexus(&self, is_compressed: bool) -> Option<Written> {
        self.0.nexus(Pixels::behind(is_compressed))
    }

    /// As EMD, with frames compressed or not; `None` without a scan.
    pub fn emd(&self, is_compressed: bool) -> Option<Written> {
        self.0.emd(Pixels::behind(is_compressed))
    }
}

fn write(system: &dyn FileSystem, root: &Path, links_max: u64) -> Result<Companions, StorageError> {
    let reader = Reader::open(root)?;
    let mut made = Companions::default();
    let Some(content) = Content::of(&reader) else { return Ok(made) };
    if let Some(file) = content.nexus(Pixels::Segments) {
        replace(system, &root.join("scan.nxs"), &file.bytes)?;
        made.nexus = true;
    }
    if let Some(file) = content.emd(Pixels::Segments) {
        replace(system, &root.join("scan.emd"), &file.bytes)?;
        made.emd = true;
    }
    made.zarr4d = write_zarr4d(system, root, &reader, &content, links_max)?;
    Ok(made)
}

/// Replaces a companion by a file that nobody may write: HDF5 opens segments in the way in which it opened the companion,
/// and would cut off their padding.
fn replace(system: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    files::replace(system, path, bytes, false)?;
    fs::set_permissions(path, Permissions::from_mode(0o444)).context("protect", path)
}

/// The 4-D array of Zarr: its own metadata, and a link to the directory of every segment. Possible where a segment is
/// whole scan rows and a row is whole chunks: then the same bytes are the shards of a `(ny, nx, y, x)` array.
fn write_zarr4d(
    system: &dyn FileSystem,
    root: &Path,
    reader: &Reader,
    content: &Content,
    links_max: u64,
) -> Result<bool, StorageError> {
    let Some(scan) = content.scan.filter(is_plain) else { return Ok(false) };
    let Some(tile) = reader.tiles().first() else { return Ok(false) };
    let layout = tile.array.layout;
    let nx = u64::from(scan.shape.width);
    let falls_in = layout.frames_per_segment().is_multiple_of(nx) && nx.is_multiple_of(layout.frames_per_chunk.into());
    let whole = root.join("frames/zarr.json"); // Tiles that form no grid have none.
    if !falls_in || !whole.exists() {
        return Ok(false);
    }
    let text = files::read_text(&whole)?;
    let mut json: Json = serde_json::from_str(&text).unwrap_or_default();
    let Some(extents) = json.pointer("/shape").and_then(Json::as_array).filter(|shape| shape.len() == 3) else {
        return Ok(false);
    };
    let [height, width] = [extents[1].clone(), extents[2].clone()];
    let tile = json.pointer("/codecs/0/configuration/chunk_shape").cloned().unwrap_or_default();
    let rows = layout.frames_per_segment() / nx;
    json["shape"] = json!([scan.shape.height, scan.shape.width, height, width]);
    json["chunk_grid"]["configuration"]["chunk_shape"] = json!([rows, nx, tile[1], tile[2]]);
    json["codecs"][0]["configuration"]["chunk_shape"] = json!([1, layout.frames_per_chunk, tile[1], tile[2]]);
    json["dimension_names"] = json!(["scan_y", "scan_x", "y", "x"]);
    let array = root.join("frames4d");
    files::create_dirs(system, &array.join("c"))?;
    let segments = u64::from(scan.shape.height).div_ceil(rows);
    for segment in 0..segments.min(links_max) {
        link(system, &array, segment)?;
    }
    files::replace(system, &array.join("zarr.json"), format!("{json:#}\n").as_bytes(), false)?;
    Ok(true)
}

/// `frames4d/c/<b>/0` leads to `frames/c/<b>`, also before that is there: a link that leads nowhere is an absent chunk.
fn link(system: &dyn FileSystem, array: &Path, segment: u64) -> Result<(), StorageError> {
    let directory = array.join("c").join(segment.to_string());
    let link = directory.join("0");
    match system.create_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.context("create", &directory)?,
    }
    match system.link(&Path::new("../../../frames/c").join(segment.to_string()), &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.context("link", &link),
    }
}

/// Whether frame and position are the same number.
fn is_plain(scan: &Scan) -> bool {
    let is_one_to_one = scan.repeat_count() == 1 && scan.flyback == 0 && scan.sync_offset == 0;
    scan.order == ScanOrder::Raster && is_one_to_one
}
