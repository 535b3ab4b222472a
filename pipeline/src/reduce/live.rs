//! `LiveImages`: the results of an acquisition while it grows: partials of all links come in, pictures go out.
//!
//! # Place in the path
//! Reducers hand over [`Partial`]s and [`Patterns`]; publishers and file writers look at [`LiveImage`]s. One owner; it
//! takes no locks.
//!
//! # Invariants
//! - I1: a frame of a tile counts once in values, however often it is merged.
//! - I2: a value is shown only when every tile of its frame is in; division and rounding happen only then, so the
//!   finished picture does not depend on tiling, order or threads, bit for bit.
//!
//! # Limits
//! Scans up to [`SCAN_POSITIONS_MAX`] positions; without a scan, the first [`LINE_FRAMES_MAX`] frames are kept and later
//! ones are counted as beyond. Memory per position: 8 bytes per virtual detector and total of integer pixels on one
//! link, 16 more for the centre of mass (32 where 128 bits are needed); 104 per sum of floating point pixels when there
//! are several tiles.

use std::ops::Range;

use super::Reduction;
use super::exact::{Exact, scale};
use super::image::LiveImage;
use super::partial::{Partial, Values};
use super::patterns::Patterns;
use super::spec::{ColumnKind, Made, PlanError, Spec};
use super::versions::RowVersions;
use crate::{FrameIndex, PixelType, Region, Scan, SigShape};

/// Most positions of a scan.
pub const SCAN_POSITIONS_MAX: u64 = 1 << 26;
/// Most frames that are kept when there is no scan.
pub const LINE_FRAMES_MAX: u64 = 1 << 24;
/// Frames of a line that share a version.
const LINE_STEP: usize = 256;

/// Results of one acquisition, live and finished.
#[derive(Debug)]
pub struct LiveImages {
    pub(super) spec: Spec,
    pub(super) detector: SigShape,
    pub(super) pixel: PixelType,
    pub(super) place: Place,
    pub(super) tiles: Vec<Tile>,
    tile_of_link: Vec<usize>,
    /// One per column of the spec; all `length` long.
    pub(super) stores: Vec<Store>,
    length: usize,
    pub(super) value_versions: RowVersions,
    pub(super) pattern_versions: RowVersions,
    version: u64,
    merged: MergeCounts,
}

/// How frames become places in the results.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Scan(Scan),
    /// One after the other; the number of frames, where it is known.
    Line(Option<usize>),
}

/// One distinct region and what is known of it.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) region: Region,
    pub(super) patterns: Patterns,
    covered: Vec<u64>,
    frame_count: u64,
}

/// Sums per place, over all tiles so far.
#[derive(Debug)]
pub(super) enum Store {
    U64(Vec<u64>),
    U128(Vec<u128>),
    /// Finished at once, because there is only one tile.
    Float(Vec<f64>),
    Exact(Vec<Exact>),
}

/// What became of merged frames; totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeCounts {
    /// Frames of a tile that count.
    pub taken: u64,
    /// Frames of a tile that were there already.
    pub duplicate: u64,
    /// Frames that belong to no position: flyback, skipped, beyond the scan or beyond what is kept.
    pub beyond: u64,
}

impl LiveImages {
    /// Empty results. `regions_of_links[link]` is what link number `link` delivers: links of the same region share the
    /// frames of one tile, others must not overlap. Errors: as [`super::ReducePlan::compile`], overlaps, sizes.
    pub fn new(
        reductions: &[Reduction],
        scan: Option<Scan>,
        frame_count: Option<u64>,
        detector: SigShape,
        pixel: PixelType,
        regions_of_links: &[Region],
    ) -> Result<Self, PlanError> {
        let spec = Spec::new(reductions, detector, pixel)?;
        let (place, length, rows) = match scan {
            Some(scan) => {
                let positions = scan.shape.position_count();
                if positions > SCAN_POSITIONS_MAX {
                    return Err(PlanError::ScanTooLarge { positions, positions_max: SCAN_POSITIONS_MAX });
                }
                (Place::Scan(scan), positions as usize, RowVersions::new(1))
            }
            None => {
                let count = frame_count.map(|count| count.min(LINE_FRAMES_MAX) as usize);
                (Place::Line(count), 0, RowVersions::new(LINE_STEP))
            }
        };
        let (tiles, tile_of_link) = tiles(&spec, detector, pixel, regions_of_links)?;
        let store = |kind| Store::new(kind, tiles.len());
        let mut images = Self {
            stores: spec.columns.iter().map(|column| store(column.kind)).collect(),
            spec,
            detector,
            pixel,
            place,
            tiles,
            tile_of_link,
            length: 0,
            value_versions: rows,
            pattern_versions: RowVersions::new(1),
            version: 0,
            merged: MergeCounts::default(),
        };
        images.grow(length);
        Ok(images)
    }

    fn grow(&mut self, length: usize) {
        if length <= self.length {
            return;
        }
        self.length = length;
        self.stores.iter_mut().for_each(|store| store.grow(length));
        self.tiles.iter_mut().for_each(|tile| tile.covered.resize(length.div_ceil(64), 0));
    }

    /// Index in the stores of a frame, if it has one.
    fn index_of(&self, frame: FrameIndex) -> Option<usize> {
        match self.place {
            Place::Scan(scan) => {
                let position = scan.position(frame)?;
                Some(position.y as usize * scan.shape.width as usize + position.x as usize)
            }
            Place::Line(count) => {
                let limit = count.map_or(LINE_FRAMES_MAX, |count| count as u64);
                (frame < limit).then_some(frame as usize)
            }
        }
    }

    /// Merges values of link number `link`. Frames merged before do not count again.
    ///
    /// # Panics
    /// When there is no such link, or the partial is of another region or other reductions.
    pub fn merge(&mut self, link: u32, partial: &Partial) {
        let tile = self.tile_of_link[link as usize];
        assert_eq!(partial.region(), self.tiles[tile].region, "partial of another region than link {link}");
        let kinds: Vec<ColumnKind> = self.spec.columns.iter().map(|column| column.kind).collect();
        assert!(partial.is_like(&kinds), "partial of other reductions");
        self.version += 1;
        for (at, &frame) in partial.frames().iter().enumerate() {
            let Some(index) = self.index_of(frame) else {
                self.merged.beyond += 1;
                continue;
            };
            self.grow(index + 1); // Only a line grows; by doubling inside.
            if !self.tiles[tile].cover(index) {
                self.merged.duplicate += 1;
                continue;
            }
            self.merged.taken += 1;
            for ((store, values), column) in self.stores.iter_mut().zip(&partial.columns).zip(&self.spec.columns) {
                store.add(index, values, at, column.exponent);
            }
            let row = index / self.row_length();
            self.value_versions.set(row..row + 1, self.version);
        }
    }

    /// Merges patterns of link number `link`: of frames that were in no patterns before. (Which frames were reduced is
    /// known from their values: take both from the same reducers.)
    ///
    /// # Panics
    /// When there is no such link, or the patterns are of another region or other reductions.
    pub fn merge_patterns(&mut self, link: u32, patterns: &Patterns) {
        let tile = &mut self.tiles[self.tile_of_link[link as usize]];
        let merged = tile.patterns.merge(patterns);
        assert!(merged.is_ok(), "patterns of link {link}: {merged:?}");
        if patterns.frame_count() > 0 {
            self.version += 1;
            let region = tile.region;
            self.pattern_versions.set(region.y as usize..(region.y + region.height) as usize, self.version);
        }
    }

    /// Counts up with every merge.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What became of the frames merged so far.
    pub fn merged(&self) -> MergeCounts {
        self.merged
    }

    /// Frames of the tile of this link that are reduced, each counted once; frames without position do not count.
    pub fn frames_reduced(&self, link: u32) -> u64 {
        self.tiles[self.tile_of_link[link as usize]].frame_count
    }

    /// Scan positions (or frames of the line) of which all tiles are in.
    pub fn complete_count(&self) -> u64 {
        (0..self.length.div_ceil(64)).map(|word| u64::from(self.complete_word(word).count_ones())).sum()
    }

    /// Frames in `frames` that have a place in the results and are not reduced on the tile of this link, ascending.
    /// Take away those that never arrived, and reduce the rest from disk. What is beyond the results is not listed.
    pub fn not_reduced(&self, link: u32, frames: Range<FrameIndex>) -> Vec<Range<FrameIndex>> {
        let tile = &self.tiles[self.tile_of_link[link as usize]];
        let end = match self.place {
            Place::Scan(scan) => {
                let last = i128::from(scan.frame_count()) + i128::from(scan.sync_offset);
                u64::try_from(last.max(0)).unwrap_or(u64::MAX)
            }
            Place::Line(count) => count.map_or(LINE_FRAMES_MAX, |count| count as u64),
        };
        let mut open: Vec<Range<FrameIndex>> = Vec::new();
        for frame in frames.start..frames.end.min(end) {
            if self.index_of(frame).is_none_or(|index| tile.is_covered(index)) {
                continue;
            }
            match open.last_mut() {
                Some(last) if last.end == frame => last.end += 1,
                _ => open.push(frame..frame + 1),
            }
        }
        open
    }

    /// 1 for every scan position (C order; or frame of the line) of which all tiles are in, else 0.
    pub fn valid(&self) -> Vec<u8> {
        (0..self.place_count()).map(|index| u8::from(self.is_complete(index))).collect()
    }

    /// Shape of [`Self::valid`]: `[ny, nx]`, or `[frames]` without a scan.
    pub fn scan_shape(&self) -> Vec<usize> {
        match self.place {
            Place::Scan(scan) => vec![scan.shape.height as usize, scan.shape.width as usize],
            Place::Line(_) => vec![self.place_count()],
        }
    }

    /// All results, in the order of the reductions.
    pub fn images(&self) -> impl ExactSizeIterator<Item = LiveImage<'_>> {
        self.spec.results.iter().map(|(name, made)| LiveImage::new(self, name, *made))
    }

    /// The result of that name.
    pub fn image(&self, name: &str) -> Option<LiveImage<'_>> {
        self.images().find(|image| image.name() == name)
    }

    /// Number of places: scan positions, or frames of the line, the announced ones or else those seen.
    fn place_count(&self) -> usize {
        match self.place {
            Place::Scan(_) => self.length,
            Place::Line(count) => count.unwrap_or(self.length),
        }
    }

    /// Places per row.
    pub(super) fn row_length(&self) -> usize {
        match self.place {
            Place::Scan(scan) => scan.shape.width as usize,
            Place::Line(_) => 1,
        }
    }

    fn complete_word(&self, word: usize) -> u64 {
        self.tiles.iter().fold(!0, |all, tile| all & tile.covered.get(word).copied().unwrap_or(0))
    }

    /// Whether all tiles of a place are in.
    pub(super) fn is_complete(&self, index: usize) -> bool {
        self.complete_word(index / 64) >> (index % 64) & 1 == 1
    }

    /// Value of a column at a complete place.
    pub(super) fn value(&self, column: usize, index: usize) -> f64 {
        match &self.stores[column] {
            Store::U64(values) => values[index] as f64,
            Store::U128(values) => values[index] as f64,
            Store::Float(values) => values[index],
            Store::Exact(values) => scale(values[index].to_f64(), self.spec.columns[column].exponent),
        }
    }
}

/// Distinct regions, and which of them each link delivers.
fn tiles(
    spec: &Spec,
    detector: SigShape,
    pixel: PixelType,
    regions_of_links: &[Region],
) -> Result<(Vec<Tile>, Vec<usize>), PlanError> {
    let mut tiles: Vec<Tile> = Vec::new();
    let mut tile_of_link = Vec::new();
    for &region in regions_of_links {
        if !region.fits(detector) {
            return Err(PlanError::Region { region, detector });
        }
        if let Some(tile) = tiles.iter().position(|tile| tile.region == region) {
            tile_of_link.push(tile);
            continue;
        }
        if let Some(other) = tiles.iter().find(|tile| overlap(tile.region, region)) {
            return Err(PlanError::Overlap { a: other.region, b: region });
        }
        let patterns = Patterns::zero(region, pixel.kind, spec.makes(Made::Sum), spec.makes(Made::Max));
        tile_of_link.push(tiles.len());
        tiles.push(Tile { region, patterns, covered: Vec::new(), frame_count: 0 });
    }
    if tiles.is_empty() { Err(PlanError::NoRegion) } else { Ok((tiles, tile_of_link)) }
}

/// Whether two regions inside a detector share a pixel.
fn overlap(a: Region, b: Region) -> bool {
    let apart = |a0: u32, a_count: u32, b0: u32, b_count: u32| a0 + a_count <= b0 || b0 + b_count <= a0;
    !apart(a.y, a.height, b.y, b.height) && !apart(a.x, a.width, b.x, b.width)
}

impl Tile {
    fn is_covered(&self, index: usize) -> bool {
        self.covered.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Notes a place as reduced; `false` when it was.
    fn cover(&mut self, index: usize) -> bool {
        let (word, bit) = (&mut self.covered[index / 64], 1 << (index % 64));
        let new = *word & bit == 0;
        *word |= bit;
        self.frame_count += u64::from(new);
        new
    }
}

impl Store {
    fn new(kind: ColumnKind, tile_count: usize) -> Self {
        match kind {
            ColumnKind::U64 => Self::U64(Vec::new()),
            ColumnKind::U128 => Self::U128(Vec::new()),
            ColumnKind::Exact if tile_count == 1 => Self::Float(Vec::new()),
            ColumnKind::Exact => Self::Exact(Vec::new()),
        }
    }

    fn grow(&mut self, length: usize) {
        match self {
            Self::U64(values) => values.resize(length, 0),
            Self::U128(values) => values.resize(length, 0),
            Self::Float(values) => values.resize(length, 0.0),
            Self::Exact(values) => values.resize(length, Exact::default()),
        }
    }

    /// Adds what one tile has of one frame.
    fn add(&mut self, index: usize, values: &Values, at: usize, exponent: i32) {
        match (self, values) {
            (Self::U64(store), Values::U64(values)) => store[index] += values[at],
            (Self::U128(store), Values::U128(values)) => store[index] += values[at],
            (Self::Float(store), Values::Exact(values)) => store[index] = scale(values[at].to_f64(), exponent),
            (Self::Exact(store), Values::Exact(values)) => store[index] += &values[at],
            _ => debug_assert!(false, "columns of different kinds"), // Checked for the whole partial.
        }
    }
}
