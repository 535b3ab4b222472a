//! Documents that are lost or unreadable: rebuilt from the segments alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ronchi_pipeline::format::{
    BlockSizes, DataSetState, DetectorInfo, FormatError, FramesArray, LAYOUT_VERSION, Manifest, PackedPage0, Page0,
    TileInfo, Trailer, group_json, read_packed_page1, read_page1, uuid_text,
};
use ronchi_pipeline::{Layout, PixelType, SECTOR_BYTES, SigShape};
use serde_json::{Value, json};

use super::Job;
use crate::storage::error::{Context as _, StorageError};
use crate::storage::file_system::FileSystem as _;
use crate::storage::reader::tile_dirs;
use crate::storage::verify::folder::{is_grid, plain_size};
use crate::storage::verify::{CHUNK_BYTES_MAX, FRAMES_PER_CHUNK_MAX, TILES_MAX};
use crate::storage::volumes::Home;
use crate::storage::{files, table};

/// What a segment says of its tile.
#[derive(Debug, Clone, Copy)]
struct Face {
    trailer: Trailer,
    shape: SigShape,
    pixel: PixelType,
    layout: Layout,
    is_packed: bool,
}

impl Job<'_> {
    /// The manifest; one that is lost is made from what segments say.
    pub(super) fn manifest(&mut self) -> Result<Manifest, StorageError> {
        let path = self.root.join("zarr.json");
        let read = files::read_text(&path).and_then(|text| {
            Manifest::from_json(&text).map_err(|source| StorageError::Format { path: path.clone(), source })
        });
        let manifest = match read {
            Ok(manifest) => manifest,
            Err(error @ StorageError::Format { source: FormatError::Newer { .. }, .. }) => return Err(error),
            Err(error) => self.manifest_from_segments(error)?,
        };
        let tiles = &manifest.detector.tiles;
        let is_known = uuid_text(&uuid_bytes(&manifest.uuid)) == manifest.uuid;
        if tiles.is_empty() || tiles.len() > TILES_MAX || !is_known {
            let (got, allowed) = (format!("{} tiles of {}", tiles.len(), manifest.uuid), "1 to 4096 tiles of a UUID");
            let source = FormatError::Field { field: "manifest", got, allowed };
            return Err(StorageError::Format { path, source });
        }
        Ok(manifest)
    }

    fn manifest_from_segments(&mut self, error: StorageError) -> Result<Manifest, StorageError> {
        let faces = self.faces()?;
        let Some(first) = faces.values().next().copied() else { return Err(error) };
        let path = self.root.join("zarr.json");
        self.change(&path, format_args!("made from the segments ({error}): scan, names and notes are lost"));
        let whole = read_array(&self.root.join("frames"));
        let frame_count = whole.as_ref().map(|array| array.frame_count).filter(|&count| count > 0);
        let tiles = self.tile_infos(&faces);
        let shape = match (&whole, faces.len()) {
            (Some(array), 2..) => array.shape,
            _ => extent(&tiles),
        };
        let detector = DetectorInfo { tiles, ..DetectorInfo::new(shape, first.pixel, &[]) };
        let uuid = uuid_text(&first.trailer.uuid);
        let own = || self.root.file_stem().and_then(|name| name.to_str()).unwrap_or("recovered").to_owned();
        let name = self.linked_name(&uuid).unwrap_or_else(own);
        Ok(Manifest {
            layout_version: LAYOUT_VERSION,
            uuid,
            name,
            created: self.plan.time.clone(),
            state: DataSetState::Running, // Its end is not known: as when its receiver had died.
            scan: None,
            frame_count,
            detector,
            block: BlockSizes::from(first.layout),
            gaps: Vec::new(),
            unsound: false,
            software: String::new(),
            repairs: Vec::new(),
            vendor_header: String::new(),
            user: Value::Null,
        })
    }

    /// A segment of every tile, by tile id.
    fn faces(&self) -> Result<BTreeMap<u32, Face>, StorageError> {
        let mut faces = BTreeMap::new();
        let tiles = self.root.join("tiles");
        if tiles.is_dir() {
            for id in files::numbered(&tiles)?.into_iter().take(TILES_MAX) {
                faces.extend(face(&tiles.join(id.to_string()))?.map(|face| (face.trailer.tile, face)));
            }
        } else if self.root.join("frames/c").is_dir() {
            faces.extend(face(&self.root.join("frames"))?.map(|face| (face.trailer.tile, face)));
        }
        Ok(faces)
    }

    /// The name of the data set by the link of its first segment, if that lies in a volume: the directory may have been
    /// renamed.
    fn linked_name(&self, uuid: &str) -> Option<String> {
        let tiles = self.root.join("tiles");
        let first = files::numbered(&tiles).ok().and_then(|ids| ids.first().map(|id| tiles.join(id.to_string())));
        let c = first.unwrap_or_else(|| self.root.join("frames")).join("c");
        let number = *files::numbered(&c).ok()?.first()?;
        Home::name_of(&c.join(number.to_string()).join("0/0"), uuid)
    }

    /// Places of tiles by the links of the array of whole frames; without them side by side.
    fn tile_infos(&self, faces: &BTreeMap<u32, Face>) -> Vec<TileInfo> {
        let mut next_x = 0_u32;
        let info = |(&id, face): (&u32, &Face)| {
            let SigShape { height, width } = face.shape;
            let linked = self.linked_place(id).map(|[ty, tx]| [ty.saturating_mul(height), tx.saturating_mul(width)]);
            let origin: [u32; 2] = linked.unwrap_or([0, next_x]);
            next_x = next_x.saturating_add(width);
            TileInfo { id, origin, shape: [height, width] }
        };
        faces.iter().map(info).collect()
    }

    /// `(ty, tx)` of a tile in the grid, from any link to one of its segments.
    fn linked_place(&self, id: u32) -> Option<[u32; 2]> {
        let whole = self.root.join("frames/c");
        let first = *files::numbered(&whole).ok()?.first()?;
        let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        for row in fs::read_dir(whole.join(first.to_string())).ok()?.flatten() {
            for link in fs::read_dir(row.path()).ok()?.flatten() {
                let target = fs::read_link(link.path()).ok()?;
                if target.components().any(|part| part.as_os_str() == "tiles")
                    && target.strip_prefix("../../../../tiles").ok()?.starts_with(id.to_string())
                {
                    return Some([number(&row)?, number(&link)?]);
                }
            }
        }
        None
    }

    /// Metadata of a tile's frames: as it is, or as its segments say. `None`: the tile has never begun.
    pub(super) fn array(&mut self, manifest: &Manifest, info: &TileInfo) -> Result<Option<FramesArray>, StorageError> {
        let (dir, base) = tile_dirs(self.root, manifest, info.id);
        let shape = SigShape { height: info.shape[0], width: info.shape[1] };
        if let Some(array) = read_array(&dir).filter(|array| (array.shape, array.tile) == (shape, shape)) {
            return is_moderate(&array.layout).then_some(Some(array)).ok_or_else(|| too_large(&dir));
        }
        let Some(face) = face(&dir)?.map_or_else(|| packed_face(manifest, shape, &dir), |face| Ok(Some(face)))? else {
            let has_begun = dir.join("zarr.json").exists() || base.join("chunks.log").exists();
            let source = FormatError::Magic { what: "every segment" };
            return if has_begun { Err(StorageError::Format { path: dir, source }) } else { Ok(None) };
        };
        let frame_count = manifest.frame_count.unwrap_or(0);
        let array = FramesArray {
            frame_count,
            shape,
            tile: face.shape,
            pixel: face.pixel,
            layout: face.layout,
            is_packed: face.is_packed,
        };
        if face.shape == shape { Ok(Some(array)) } else { Err(too_large(&dir)) }
    }

    /// Rows per file of the frame table: as written down, or as long as its files are.
    pub(super) fn rows_per_file(&self, manifest: &Manifest, tile: u32) -> Result<u64, StorageError> {
        let dir = tile_dirs(self.root, manifest, tile).1.join("frame_table");
        if let Ok(rows) = table::read_rows_per_file(&dir) {
            return Ok(rows);
        }
        let lengths = table::ARRAYS.iter().filter_map(|(name, _, row_bytes, _)| {
            let file = fs::metadata(dir.join(name).join("c/0")).ok()?;
            Some(file.len() / row_bytes).filter(|rows| (1..=table::ROWS_MAX).contains(rows))
        });
        Ok(lengths.max().unwrap_or_else(|| table::rows_per_file(manifest.frame_count)))
    }

    /// Groups, the array of whole frames and its links, for tiles that form a grid.
    pub(super) fn restore_whole(&mut self, manifest: &Manifest, frame_count: u64) -> Result<(), StorageError> {
        let tiles = &manifest.detector.tiles;
        if tiles.len() < 2 {
            return Ok(());
        }
        self.put_json(&self.root.join("tiles/zarr.json"), &group_json(json!({})))?;
        let arrays: Vec<Option<FramesArray>> =
            tiles.iter().map(|tile| read_array(&tile_dirs(self.root, manifest, tile.id).0)).collect();
        let Some(first) = arrays.iter().flatten().next().cloned() else { return Ok(()) };
        let is_alike = arrays.iter().flatten().all(|array| array.layout == first.layout);
        if !is_grid(&manifest.detector) || !is_alike {
            return Ok(());
        }
        let [height, width] = manifest.detector.shape;
        let whole = FramesArray { shape: SigShape { height, width }, frame_count, ..first };
        self.put_json(&self.root.join("frames/zarr.json"), &whole.to_json())?;
        tiles.iter().try_for_each(|tile| self.restore_links(tile))
    }

    fn restore_links(&mut self, tile: &TileInfo) -> Result<(), StorageError> {
        let c = self.root.join("tiles").join(tile.id.to_string()).join("c");
        let numbers = if c.is_dir() { files::numbered(&c)? } else { Vec::new() };
        let [y, x] = [tile.origin[0] / tile.shape[0].max(1), tile.origin[1] / tile.shape[1].max(1)];
        let link_of = |number: u64| self.root.join(format!("frames/c/{number}/{y}/{x}"));
        let dangling = files::numbered(&self.root.join("frames/c")).unwrap_or_default();
        let dangling: Vec<PathBuf> = dangling.into_iter().filter(|n| !numbers.contains(n)).map(link_of).collect();
        let links: Vec<(PathBuf, PathBuf)> = numbers
            .iter()
            .filter(|number| c.join(number.to_string()).join("0/0").exists())
            .map(|&number| {
                (link_of(number), Path::new("../../../..").join(format!("tiles/{}/c/{number}/0/0", tile.id)))
            })
            .collect();
        for link in dangling.into_iter().filter(|link| link.is_symlink()) {
            self.remove(&link, "removed: it led nowhere")?;
        }
        for (link, target) in links {
            if fs::read_link(&link).is_ok_and(|found| found == target) || !self.change(&link, "link made") {
                continue;
            }
            let directory = link.parent().unwrap_or(self.root);
            files::create_dirs(&self.system, directory)?;
            if link.is_symlink() {
                self.system.remove(&link).context("remove", &link)?;
            }
            self.system.link(&target, &link).context("link", &link)?;
            files::sync_dir(&self.system, directory)?;
        }
        Ok(())
    }

    /// Pictures that were being stored when the receiver died: they can be computed again.
    pub(super) fn remove_broken_results(&mut self) -> Result<(), StorageError> {
        let root = self.root.join("results");
        if !root.is_dir() {
            return Ok(());
        }
        self.put_json(&root.join("zarr.json"), &group_json(json!({})))?;
        for entry in fs::read_dir(&root).context("list", &root)?.flatten() {
            let path = entry.path();
            if path.is_dir() && !is_whole_result(&path) && self.change(&path, "removed: it was not whole") {
                fs::remove_dir_all(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Pixels of all tiles, in bytes, for progress.
    pub(super) fn pixel_bytes(&self, manifest: &Manifest) -> u64 {
        let bytes = |tile: &TileInfo| {
            let dir = tile_dirs(self.root, manifest, tile.id).0;
            let count = files::numbered(&dir.join("c")).map_or(0, |numbers| numbers.len() as u64);
            count.saturating_mul(read_array(&dir).map_or(0, |array| array.layout.segment_bytes()))
        };
        manifest.detector.tiles.iter().map(bytes).fold(0, u64::saturating_add)
    }
}

/// The bytes of a UUID in its usual text; other text gives bytes of another text.
pub(super) fn uuid_bytes(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let digits = text.bytes().filter(|&byte| byte != b'-').filter_map(|byte| char::from(byte).to_digit(16));
    for (place, digit) in digits.take(32).enumerate() {
        bytes[place / 2] = bytes[place / 2] << 4 | digit as u8;
    }
    bytes
}

fn is_whole_result(directory: &Path) -> bool {
    let json = files::read_text(&directory.join("zarr.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
    let Some((bytes, rank)) = json.as_ref().and_then(plain_size) else { return false };
    let chunk = (0..rank).fold("c".to_owned(), |chunk, _| chunk + "/0");
    fs::metadata(directory.join(chunk)).is_ok_and(|file| file.is_file() && file.len() == bytes)
}

fn is_moderate(layout: &Layout) -> bool {
    layout.chunk_bytes() <= CHUNK_BYTES_MAX && layout.frames_per_chunk <= FRAMES_PER_CHUNK_MAX
}

fn too_large(dir: &Path) -> StorageError {
    let (got, allowed) = ("another".to_owned(), "that of the manifest, in chunks of 256 MiB at most");
    let source = FormatError::Field { field: "shape of frames or chunks", got, allowed };
    StorageError::Format { path: dir.join("zarr.json"), source }
}

fn read_array(dir: &Path) -> Option<FramesArray> {
    FramesArray::from_json(&files::read_text(&dir.join("zarr.json")).ok()?).ok()
}

/// The first segment below an array's directory whose pages hold together.
fn face(dir: &Path) -> Result<Option<Face>, StorageError> {
    let c = dir.join("c");
    let numbers = if c.is_dir() { files::numbered(&c)? } else { Vec::new() };
    // Packed segments of early receivers do not tell their shape; their array does.
    let packed = read_array(dir).filter(|array| array.is_packed);
    Ok(numbers.into_iter().map(|number| c.join(number.to_string()).join("0/0")).find_map(|path| match &packed {
        Some(array) => read_packed_face(&path, array.tile, array.pixel),
        None => read_face(&path),
    }))
}

fn read_face(path: &Path) -> Option<Face> {
    let mut pages = [0; 2 * SECTOR_BYTES];
    File::open(path).ok()?.read_exact_at(&mut pages, 0).ok()?;
    let (page0, page1) = pages.split_at(SECTOR_BYTES);
    if let Ok((frames, shape, pixel)) = read_packed_page1(page1) {
        return read_packed_face(path, shape, pixel).filter(|face| face.layout.frames_per_segment() == frames);
    }
    let (frames, shape, pixel) = read_page1(page1).ok()?;
    let frame_bytes = shape.pixel_count() * pixel.bytes() as u64;
    let page = Page0::decode(page0, frame_bytes).ok()?;
    let (frames_per_chunk, chunks_per_segment) = (page.trailer.frames_per_chunk, page.chunks.len() as u32);
    let layout = Layout { frame_bytes, frames_per_chunk, chunks_per_segment };
    let is_consistent = layout.frames_per_segment() == frames && is_moderate(&layout);
    is_consistent.then_some(Face { trailer: page.trailer, shape, pixel, layout, is_packed: false })
}

/// As [`face`], of a tile with packed segments: those of early receivers do not tell their shape, the manifest does.
fn packed_face(manifest: &Manifest, shape: SigShape, dir: &Path) -> Result<Option<Face>, StorageError> {
    let Some(pixel) = PixelType::from_numpy_name(&manifest.detector.pixel) else { return Ok(None) };
    let c = dir.join("c");
    let numbers = if c.is_dir() { files::numbered(&c)? } else { Vec::new() };
    let paths = numbers.into_iter().map(|number| c.join(number.to_string()).join("0/0"));
    Ok(paths.filter_map(|path| read_packed_face(&path, shape, pixel)).next())
}

fn read_packed_face(path: &Path, shape: SigShape, pixel: PixelType) -> Option<Face> {
    let mut page = [0; SECTOR_BYTES];
    File::open(path).ok()?.read_exact_at(&mut page, 0).ok()?;
    let frame_bytes = shape.pixel_count() * pixel.bytes() as u64;
    let PackedPage0 { trailer, chunks } = PackedPage0::decode(&page, frame_bytes).ok()?;
    let (frames_per_chunk, chunks_per_segment) = (trailer.frames_per_chunk, chunks.len() as u32);
    let layout = Layout { frame_bytes, frames_per_chunk, chunks_per_segment };
    is_moderate(&layout).then_some(Face { trailer, shape, pixel, layout, is_packed: true })
}

/// The smallest detector that holds all tiles.
fn extent(tiles: &[TileInfo]) -> SigShape {
    let end =
        |axis: usize| tiles.iter().map(|tile| tile.origin[axis].saturating_add(tile.shape[axis])).max().unwrap_or(0);
    SigShape { height: end(0), width: end(1) }
}
