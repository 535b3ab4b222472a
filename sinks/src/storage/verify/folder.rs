//! The directory around the segments: metadata that must agree, lists of gaps, links of tiled detectors, results.

use std::fs;
use std::path::{Path, PathBuf};

use ronchi_pipeline::SigShape;
use ronchi_pipeline::format::{BlockSizes, DetectorInfo, FramesArray, Law, Progress, TileInfo};
use serde_json::Value;

use super::report::relative;
use super::{Audit, CHUNK_BYTES_MAX, FRAMES_PER_CHUNK_MAX, GapList, Subject};
use crate::storage::error::{Context as _, StorageError};
use crate::storage::files;
use crate::storage::reader::ReaderTile;

const MANIFEST: &str = "zarr.json";

impl Audit<'_> {
    pub(super) fn check_lock(&mut self) {
        if !self.root.join(".lock").is_file() {
            self.report.flaw(Path::new(".lock"), "file", "not there", "an empty file, locked while a receiver writes");
        }
    }

    /// The manifest's lists of gaps: one per tile once finished, none before; sorted, inside the series, adding up.
    pub(super) fn check_gap_entries(&mut self) {
        let (manifest, file) = (self.manifest, Path::new(MANIFEST));
        let want = usize::from(self.condition.is_finished());
        for tile in &manifest.detector.tiles {
            let count = manifest.gaps.iter().filter(|gaps| gaps.tile == tile.id).count();
            if count != want {
                self.report.flaw(file, format_args!("lists of gaps of tile {}", tile.id), count, want);
            }
        }
        let is_known = |id: u32| manifest.detector.tiles.iter().any(|tile| tile.id == id);
        for gaps in &manifest.gaps {
            let what = format!("gaps of tile {}", gaps.tile);
            if !is_known(gaps.tile) {
                self.report.flaw(file, what, "listed", "a tile of the detector");
                continue;
            }
            let (mut end, mut sum) = (0, 0_u64);
            for gap in &gaps.ranges {
                let next = gap.first.checked_add(gap.count).filter(|_| gap.count > 0 && gap.first >= end);
                let Some(next) = next else {
                    let found = format!("{} frames from {}", gap.count, gap.first);
                    self.report.flaw(file, &what, found, format_args!("a range that begins at {end} or later"));
                    break;
                };
                end = next;
                sum += gap.count; // At most `end`: the ranges do not overlap.
                let counted = self.report.gaps.entry(gap.reason).or_default();
                *counted = counted.saturating_add(gap.count);
            }
            if sum > gaps.frame_count || sum < gaps.frame_count && !gaps.is_cut {
                self.report.flaw(file, what, format_args!("{sum} frames in ranges"), gaps.frame_count);
            }
            gaps.law.iter().for_each(|law| self.check_stored_law(gaps.tile, law));
        }
    }

    /// The verdict that the receiver stored, and its terms.
    fn check_stored_law(&mut self, tile: u32, law: &Law) {
        let missing = law.gaps.values().fold(0, |sum: u64, &count| sum.saturating_add(count));
        let adds_up = law.durable.saturating_add(missing) == law.frame_count;
        if adds_up && law.holds && !self.manifest.unsound {
            return;
        }
        let Law { frame_count, durable, violations, .. } = law;
        let found = format!("{frame_count} frames, {durable} durable, {missing} missing; {}", violations.join("; "));
        let what = format_args!("conservation law of tile {tile}");
        self.report.flaw(Path::new(MANIFEST), what, found, "every frame once: durable or missing");
    }

    /// The gaps of one tile of so many frames.
    pub(super) fn gap_list(&mut self, tile: u32, frame_count: u64) -> GapList {
        let gaps = self.manifest.gaps.iter().find(|gaps| gaps.tile == tile).map(GapList::new).unwrap_or_default();
        if let Some(gap) = gaps.ranges.iter().find(|gap| gap.first.saturating_add(gap.count) > frame_count) {
            let found = format!("{} frames from {}", gap.count, gap.first);
            let expected = format_args!("none beyond frame {frame_count}");
            self.report.flaw(Path::new(MANIFEST), format_args!("gaps of tile {tile}"), found, expected);
        }
        gaps
    }

    /// A tile without an array: nothing of it was ever recorded.
    pub(super) fn check_unbegun(&mut self, tile: u32, progress: Option<&Progress>) {
        let is_alone = self.manifest.detector.tiles.len() <= 1;
        let base = if is_alone { PathBuf::new() } else { Path::new("tiles").join(tile.to_string()) };
        let array = if is_alone { Path::new("frames").join(MANIFEST) } else { base.join(MANIFEST) };
        let has_begun = progress.is_some() || self.root.join(base.join("chunks.log")).exists();
        // Metadata comes before the log: a tile that has begun just now has both.
        if has_begun && !self.root.join(&array).exists() {
            self.report.flaw(&array, "file", "not there", "metadata of the frames: the tile has begun");
        }
        if self.condition.is_finished() {
            let frame_count = self.manifest.frame_count.unwrap_or(0);
            let gaps = self.gap_list(tile, frame_count);
            self.report.count_frames(frame_count, gaps.frame_count);
            if gaps.frame_count != frame_count || gaps.first_unlisted(&(0..frame_count)).is_some() {
                let expected = format_args!("metadata of the frames, or all {frame_count} frames in gaps");
                self.report.flaw(&array, "file", "not there", expected);
            }
        }
    }

    /// The array against the manifest. Whether its segments can be read: no chunk is larger than any receiver's.
    pub(super) fn check_array(&mut self, tile: &ReaderTile) -> bool {
        self.report.tiles += 1;
        let path = tile.array_dir().join(MANIFEST);
        let (file, manifest, array) = (relative(self.root, &path), self.manifest, &tile.array);
        let shape = SigShape { height: tile.region.height, width: tile.region.width };
        let detector = SigShape { height: manifest.detector.shape[0], width: manifest.detector.shape[1] };
        if (array.shape, array.tile) != (shape, shape) {
            let found = format!("{:?} in chunks of {:?}", shape_of(array.shape), shape_of(array.tile));
            self.report.flaw(file, "shape of a frame", found, format_args!("{:?} in both", shape_of(shape)));
        }
        if !tile.region.fits(detector) {
            let what = format!("place of tile {}", tile.id);
            self.report.flaw(Path::new(MANIFEST), what, format!("{:?}", tile.region), "a part of the detector");
        }
        if array.pixel.numpy_name() != manifest.detector.pixel {
            self.report.flaw(file, "pixel type", array.pixel.numpy_name(), &manifest.detector.pixel);
        }
        let is_first = manifest.detector.tiles.first().is_some_and(|first| first.id == tile.id);
        let block = BlockSizes::from(array.layout);
        if is_first && block != manifest.block {
            self.report.flaw(file, "chunk shapes", format!("{block:?}"), format!("{:?}", manifest.block));
        }
        let chunk_bytes = array.layout.chunk_bytes();
        if chunk_bytes > CHUNK_BYTES_MAX {
            let expected = format_args!("{CHUNK_BYTES_MAX} at most: segments are not read");
            self.report.flaw(file, "bytes of a chunk", chunk_bytes, expected);
        }
        let frames = array.layout.frames_per_chunk;
        if frames > FRAMES_PER_CHUNK_MAX {
            let expected = format_args!("{FRAMES_PER_CHUNK_MAX} at most: segments are not read");
            self.report.flaw(file, "frames of a chunk", frames, expected);
        }
        chunk_bytes <= CHUNK_BYTES_MAX && frames <= FRAMES_PER_CHUNK_MAX
    }

    /// What all tiles make together: the length of the acquisition, and the array of whole frames.
    pub(super) fn check_whole(&mut self, tiles: &[&ReaderTile]) {
        let longest = tiles.iter().map(|tile| tile.array.frame_count).max();
        let is_finished = self.condition.is_finished();
        if let (Some(longest), true) = (longest, is_finished)
            && self.manifest.frame_count != Some(longest)
        {
            let found = self.manifest.frame_count.map_or("none".to_owned(), |count| count.to_string());
            self.report.flaw(Path::new(MANIFEST), "frame_count", found, format_args!("{longest}, as the frames have"));
        }
        let [first, ..] = tiles else { return };
        if !self.has_whole || tiles.iter().any(|tile| tile.array.layout != first.array.layout) {
            return;
        }
        // While a tile begins, the metadata of the whole comes after its own and before its log.
        if !is_finished && !tiles.iter().any(|tile| tile.base_dir().join("chunks.log").exists()) {
            return;
        }
        let path = self.root.join("frames").join(MANIFEST);
        let text = files::read_text(&path);
        let Some(text) = self.report.tell(self.root, text, "metadata of whole frames") else { return };
        let whole = FramesArray::from_json(&text).map_err(|source| StorageError::Format { path, source });
        let Some(whole) = self.report.tell(self.root, whole, "metadata of whole frames") else { return };
        let [height, width] = self.manifest.detector.shape;
        let frame_count = if is_finished { longest.unwrap_or(0) } else { whole.frame_count };
        let expected = FramesArray { shape: SigShape { height, width }, frame_count, ..first.array.clone() };
        if whole != expected {
            let file = Path::new("frames/zarr.json");
            self.report.flaw(file, "array of whole frames", format!("{whole:?}"), format!("{expected:?}"));
        }
    }

    /// For a tile of a grid: the link that puts this segment into the array of whole frames.
    pub(super) fn check_link(&mut self, subject: &Subject, number: u64, is_used: bool) {
        let region = subject.tile.region;
        let whole = self.root.join("frames");
        if !self.has_whole || !whole.join(MANIFEST).exists() {
            return;
        }
        let (y, x) = (region.y / region.height.max(1), region.x / region.width.max(1));
        let name = format!("frames/c/{number}/{y}/{x}");
        let segment = relative(self.root, &subject.tile.segment_path(number)).to_owned();
        let expected = Path::new("../../../..").join(segment);
        let found = match fs::read_link(self.root.join(&name)) {
            Ok(target) if target == expected => return,
            Ok(target) => target.display().to_string(),
            // The link comes after its segment and before the first frame.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_used => return,
            Err(error) => error.to_string(),
        };
        self.report.flaw(Path::new(&name), "link", found, expected.display());
    }

    /// Links without a segment, and groups without metadata.
    pub(super) fn check_groups(&mut self) {
        let is_tiled = self.manifest.detector.tiles.len() > 1;
        if is_tiled {
            self.check_group(Path::new("tiles"));
        }
        for tile in &self.manifest.detector.tiles {
            let base = if is_tiled { Path::new("tiles").join(tile.id.to_string()) } else { PathBuf::new() };
            // While a tile begins, its table comes first.
            if self.condition.is_finished() && self.root.join(&base).join("chunks.log").exists() {
                self.check_group(&base.join("frame_table"));
            }
        }
        if is_tiled && self.condition.is_finished() && self.root.join("frames/c").is_dir() {
            let links = self.dangling(&self.root.join("frames/c"), 3);
            let links = self.report.tell(self.root, links, "links to segments of tiles").unwrap_or_default();
            for link in links {
                self.report.flaw(relative(self.root, &link), "link", "leads nowhere", "a segment of a tile");
            }
        }
    }

    fn check_group(&mut self, group: &Path) {
        let text = files::read_text(&self.root.join(group).join(MANIFEST));
        let Some(text) = self.report.tell(self.root, text, "metadata of a group") else { return };
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        if json.get("node_type").and_then(Value::as_str) != Some("group") || json.get("zarr_format") != Some(&3.into())
        {
            self.report.flaw(&group.join(MANIFEST), "content", "something else", "a group of Zarr version 3");
        }
    }

    /// Links below `directory`, at this depth, whose target is not there.
    fn dangling(&self, directory: &Path, depth: u32) -> Result<Vec<PathBuf>, StorageError> {
        let mut found = Vec::new();
        for number in files::numbered(directory)? {
            let path = directory.join(number.to_string());
            let kind = fs::symlink_metadata(&path).context("read", &path)?.file_type();
            if kind.is_symlink() && !path.exists() {
                found.push(path);
            } else if kind.is_dir() && depth > 1 {
                found.extend(self.dangling(&path, depth - 1)?);
            }
        }
        Ok(found)
    }

    /// Finished pictures, and tables of the detector's pixels.
    pub(super) fn check_results(&mut self) {
        if self.condition.is_finished() {
            self.check_small_arrays("results"); // They are stored just before the end.
        }
        self.check_small_arrays("detector");
    }

    /// Of every array of a group: metadata that can be read, and as many bytes as it says.
    fn check_small_arrays(&mut self, group: &str) {
        let root = self.root.join(group);
        if !root.exists() {
            return;
        }
        self.check_group(Path::new(group));
        let listed = fs::read_dir(&root).context("list", &root);
        let Some(listed) = self.report.tell(self.root, listed, "a directory of small arrays") else { return };
        for entry in listed.flatten() {
            if entry.path().is_dir() {
                self.check_small_array(&entry.path());
            }
        }
    }

    fn check_small_array(&mut self, directory: &Path) {
        let path = directory.join(MANIFEST);
        let text = files::read_text(&path);
        let Some(text) = self.report.tell(self.root, text, "metadata of a small array") else { return };
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let Some((bytes, rank)) = plain_size(&json) else {
            self.report.flaw(relative(self.root, &path), "content", "no shape or type", "metadata of a small array");
            return;
        };
        let chunk = (0..rank).fold("c".to_owned(), |chunk, _| chunk + "/0");
        let path = directory.join(chunk);
        let found = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == bytes => return,
            Ok(metadata) => format!("{} bytes", metadata.len()),
            Err(error) => error.to_string(),
        };
        self.report.flaw(relative(self.root, &path), "length", found, format_args!("{bytes} bytes"));
    }
}

/// Whether the tiles cover the detector once, as a regular grid.
pub(in crate::storage) fn is_grid(detector: &DetectorInfo) -> bool {
    let [height, width] = detector.tiles.first().map_or([0, 0], |tile| tile.shape);
    if detector.tiles.len() < 2 || height == 0 || width == 0 {
        return false;
    }
    let area = |[height, width]: [u32; 2]| u64::from(height) * u64::from(width);
    let mut origins: Vec<[u32; 2]> = detector.tiles.iter().map(|tile| tile.origin).collect();
    origins.sort_unstable();
    origins.dedup();
    let fits = |tile: &TileInfo, axis: usize, extent: u32| {
        let end = u64::from(tile.origin[axis]) + u64::from(extent);
        tile.origin[axis].is_multiple_of(extent) && end <= u64::from(detector.shape[axis])
    };
    let is_in_grid = |tile: &TileInfo| tile.shape == [height, width] && fits(tile, 0, height) && fits(tile, 1, width);
    origins.len() == detector.tiles.len()
        && detector.tiles.iter().all(is_in_grid)
        && area([height, width]).checked_mul(origins.len() as u64) == Some(area(detector.shape))
}

/// Bytes and rank of a small array in one chunk; `None` when its metadata is not that of one.
pub(in crate::storage) fn plain_size(json: &Value) -> Option<(u64, usize)> {
    let shape = json.get("shape")?.as_array().filter(|shape| shape.len() <= 32)?;
    let element_bytes = match json.get("data_type")?.as_str()? {
        "bool" | "int8" | "uint8" => 1,
        "int16" | "uint16" | "float16" => 2,
        "int32" | "uint32" | "float32" => 4,
        "int64" | "uint64" | "float64" | "complex64" => 8,
        "complex128" => 16,
        _ => return None,
    };
    let bytes = shape.iter().try_fold(element_bytes, |bytes: u64, extent| bytes.checked_mul(extent.as_u64()?))?;
    Some((bytes, shape.len()))
}

fn shape_of(shape: SigShape) -> [u32; 2] {
    [shape.height, shape.width]
}
