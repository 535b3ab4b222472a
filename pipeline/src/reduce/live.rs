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
//! - I3: after a change of the list of reductions, what is new has seen only frames that were reduced by a plan that
//!   knows it. Each change is an *epoch* with its own record of frames; numbers of two epochs never mix in one result.
//! - I4: every frame that has a position has a *slot* of its own: `place * frames of each position + number of the
//!   frame there`. Slots are what is stored and recorded as seen; a place combines its slots when somebody looks.
//!
//! # Limits
//! Scans up to [`SCAN_POSITIONS_MAX`] positions, where each frame of a position counts as one; without a scan, the first
//! [`LINE_FRAMES_MAX`] frames are kept and later ones are counted as beyond. Memory per position: 8 bytes per virtual
//! detector and total of integer pixels on one link, 16 more for the centre of mass (32 where 128 bits are needed); 104
//! per sum of floating point pixels when there are several tiles.

use std::ops::Range;

use super::conditions::Conditions;
use super::custom::Kept;
use super::epoch::Epoch;
use super::error::PlanError;
use super::exact::scale;
use super::frame_map::FrameMap;
use super::image::LiveImage;
use super::kinds::Reduction;
use super::output::Output;
use super::partial::Partial;
use super::patterns::Patterns;
use super::plan::ReducePlan;
use super::spec::{Column, Spec};
use super::store::Store;
use super::whole::Derived;
use crate::{FrameIndex, PixelType, Region, Repeats, Scan, SigShape};

/// Most positions of a scan, those with several frames counted once for each.
pub const SCAN_POSITIONS_MAX: u64 = 1 << 26;
/// Most frames that are kept when there is no scan.
pub const LINE_FRAMES_MAX: u64 = 1 << 24;
/// Frames of a line that share a version.
const LINE_STEP: usize = 256;

/// Results of one acquisition, live and finished.
#[derive(Debug)]
pub struct LiveImages {
    pub(super) spec: Spec,
    pub(super) place: ScanPlace,
    map: Option<FrameMap>,
    pub(super) regions: Vec<Region>,
    tile_of_link: Vec<usize>,
    pub(super) epochs: Vec<Epoch>,
    /// One per column of the spec; all `length` long.
    pub(super) stores: Vec<Store>,
    /// Partials of a lab's own reductions over the scan.
    pub(super) customs: Vec<Kept>,
    /// What was made of whole results, by number of the result.
    pub(super) derived: Vec<Option<Derived>>,
    length: usize,
    pub(super) version: u64,
    merged: MergeCounts,
}

/// How frames become places in the results.
#[derive(Debug, Clone, Copy)]
pub(super) enum ScanPlace {
    Scan(Scan),
    /// One after the other; the number of frames, where it is known.
    Line(Option<usize>),
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

/// Frames of one tile that the same part of the results has not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    epochs: Vec<u32>,
    /// The frames, ascending.
    pub frames: Vec<Range<FrameIndex>>,
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
        let conditions = Conditions::default();
        Self::with_conditions(reductions, scan, frame_count, detector, pixel, regions_of_links, &conditions)
    }

    /// As [`Self::new`], under some conditions. Errors: also conditions of another detector or scan.
    pub fn with_conditions(
        reductions: &[Reduction],
        scan: Option<Scan>,
        frame_count: Option<u64>,
        detector: SigShape,
        pixel: PixelType,
        regions_of_links: &[Region],
        conditions: &Conditions,
    ) -> Result<Self, PlanError> {
        let spec = Spec::new(reductions, detector, pixel, conditions)?;
        conditions.check_scan(scan.map(|scan| scan.shape))?;
        let map = scan.map(|scan| FrameMap::new(scan, conditions)).transpose()?;
        let (place, length) = match map.as_ref().map(|map| map.scan) {
            Some(scan) => {
                let positions = scan.placed_count();
                if positions > SCAN_POSITIONS_MAX {
                    return Err(PlanError::ScanTooLarge { positions, positions_max: SCAN_POSITIONS_MAX });
                }
                (ScanPlace::Scan(scan), positions as usize)
            }
            None => (ScanPlace::Line(frame_count.map(|count| count.min(LINE_FRAMES_MAX) as usize)), 0),
        };
        let (regions, tile_of_link) = tiles(detector, regions_of_links)?;
        let mut images = Self {
            stores: spec.columns.iter().map(|column| Store::new(column.kind, regions.len())).collect(),
            customs: Kept::all(&spec, Vec::new(), regions.len(), 0),
            derived: vec![None; spec.results.len()],
            spec,
            place,
            map,
            regions,
            tile_of_link,
            epochs: Vec::new(),
            length: 0,
            version: 0,
            merged: MergeCounts::default(),
        };
        images.begin_epochs();
        images.grow(length);
        Ok(images)
    }

    /// Computes another list of reductions from now on. What both lists hold goes on as it was; what is new is empty and
    /// sees the frames that are reduced by a later [`Self::plan`], and those of [`Self::holes`] when they are reduced again.
    /// Errors: as [`Self::new`]; then nothing has changed.
    pub fn change(&mut self, reductions: &[Reduction]) -> Result<(), PlanError> {
        let spec = self.spec.changed(reductions)?;
        let mut before: Vec<(u64, Option<Store>)> =
            self.spec.columns.iter().map(|column| column.id).zip(self.stores.drain(..).map(Some)).collect();
        let mut kept = |column: &Column| {
            let known = before.iter_mut().find(|(id, _)| *id == column.id);
            known.and_then(|(_, store)| store.take())
        };
        let (tile_count, length) = (self.regions.len(), self.length);
        self.stores = spec
            .columns
            .iter()
            .map(|column| kept(column).unwrap_or_else(|| Store::new(column.kind, tile_count).grown(length)))
            .collect();
        self.customs = Kept::all(&spec, std::mem::take(&mut self.customs), tile_count, length);
        let mut derived = vec![None; spec.results.len()];
        for (at, output) in spec.results.iter().enumerate() {
            let old = self.spec.results.iter().position(|old| old.name == output.name);
            let same = old.filter(|&old| self.spec.epochs_of(&self.spec.results[old]) == spec.epochs_of(output));
            derived[at] = same.and_then(|old| self.derived[old].take());
        }
        self.derived = derived;
        self.spec = spec;
        self.begin_epochs();
        self.version += 1;
        Ok(())
    }

    /// Keeps the epochs that something is left of, and begins those that are new.
    fn begin_epochs(&mut self) {
        let mut before = std::mem::take(&mut self.epochs);
        for number in self.spec.epochs() {
            let known = before.iter().position(|epoch| epoch.number == number);
            let epoch = known.map(|at| before.swap_remove(at));
            let is_scan = matches!(self.place, ScanPlace::Scan(_));
            let step = if is_scan { 1 } else { LINE_STEP };
            let epoch = epoch.unwrap_or_else(|| Epoch::new(number, &self.spec, &self.regions, self.length, step));
            self.epochs.push(epoch);
        }
    }

    /// The plan that computes all that is wanted now, for the tile of link number `link`.
    ///
    /// # Panics
    /// When there is no such link.
    pub fn plan(&self, link: u32) -> Result<ReducePlan, PlanError> {
        self.plan_of(link, &self.spec.epochs())
    }

    /// The plan that computes what a hole lacks.
    ///
    /// # Panics
    /// When there is no such link.
    pub fn plan_for(&self, link: u32, hole: &Hole) -> Result<ReducePlan, PlanError> {
        let alive: Vec<u32> = self.spec.epochs().into_iter().filter(|epoch| hole.epochs.contains(epoch)).collect();
        self.plan_of(link, &alive)
    }

    fn plan_of(&self, link: u32, epochs: &[u32]) -> Result<ReducePlan, PlanError> {
        let region = self.regions[self.tile_of_link[link as usize]];
        ReducePlan::of(&self.spec, region, epochs, self.map.clone())
    }

    /// The scan, if there is one.
    pub fn scan(&self) -> Option<Scan> {
        if let ScanPlace::Scan(scan) = self.place { Some(scan) } else { None }
    }

    fn grow(&mut self, length: usize) {
        if length <= self.length {
            return;
        }
        self.length = length;
        self.stores.iter_mut().for_each(|store| store.grow(length));
        self.customs.iter_mut().for_each(|kept| kept.grow(length));
        self.epochs.iter_mut().flat_map(|epoch| &mut epoch.tiles).for_each(|seen| seen.grow(length));
    }

    /// Slot of a frame, if it has one.
    fn index_of(&self, frame: FrameIndex) -> Option<usize> {
        match self.place {
            ScanPlace::Scan(scan) => {
                let (position, repeat) = self.map.as_ref()?.place(frame)?;
                let place = position.y as usize * scan.shape.width as usize + position.x as usize;
                Some(place * scan.repeat_count() as usize + repeat as usize)
            }
            ScanPlace::Line(count) => {
                let limit = count.map_or(LINE_FRAMES_MAX, |count| count as u64);
                (frame < limit).then_some(frame as usize)
            }
        }
    }

    /// Merges values of link number `link`. Frames merged before do not count again. A partial made by the plan of an
    /// earlier list enters what that list and the present one share.
    ///
    /// # Panics
    /// When there is no such link, or the partial is of another region.
    pub fn merge(&mut self, link: u32, partial: &Partial) {
        let tile = self.tile_of_link[link as usize];
        assert_eq!(partial.region(), self.regions[tile], "partial of another region than link {link}");
        self.version += 1;
        let columns = self.columns_in(partial);
        for (at, &frame) in partial.frames().iter().enumerate() {
            let Some(index) = self.index_of(frame) else {
                self.merged.beyond += 1;
                continue;
            };
            self.grow(index + 1); // Only a line grows; by doubling inside.
            let row = index / self.combined() / self.row_length();
            let mut is_new = false;
            for (epoch, columns) in self.epochs.iter_mut().zip(&columns) {
                let Some(columns) = columns else { continue };
                if !epoch.tiles[tile].cover(index) {
                    continue;
                }
                is_new = true;
                for &(store, from) in columns {
                    self.stores[store].add(index, &partial.columns[from], at, self.spec.columns[store].exponent);
                }
                let customs = self.customs.iter_mut().filter(|kept| kept.of.epoch == epoch.number);
                customs.for_each(|kept| kept.put(tile, index, &partial.customs, at));
                epoch.value_versions.set(row..row + 1, self.version);
            }
            let count = if is_new { &mut self.merged.taken } else { &mut self.merged.duplicate };
            *count += 1;
        }
    }

    /// For every epoch, unless the partial knows nothing of it: where its columns are in the stores and in the partial.
    fn columns_in(&self, partial: &Partial) -> Vec<Option<Vec<(usize, usize)>>> {
        let of_epoch = |epoch: &Epoch| {
            partial.part.epochs.binary_search(&epoch.number).ok()?;
            let own = self.spec.columns.iter().enumerate().filter(|(_, column)| column.epoch == epoch.number);
            own.map(|(store, column)| {
                let from = partial.part.columns.iter().position(|&wanted| wanted == (column.id, column.kind));
                from.map(|from| (store, from))
            })
            .collect()
        };
        self.epochs.iter().map(of_epoch).collect()
    }

    /// Merges patterns of link number `link`: of frames that were in no patterns before. (Which frames were reduced is
    /// known from their values: take both from the same reducers.)
    ///
    /// # Panics
    /// When there is no such link, or the patterns are of another region.
    pub fn merge_patterns(&mut self, link: u32, patterns: &Patterns) {
        let tile = self.tile_of_link[link as usize];
        let region = self.regions[tile];
        assert_eq!(patterns.region(), region, "patterns of another region than link {link}");
        if patterns.frame_count() == 0 {
            return;
        }
        self.version += 1;
        for epoch in self.epochs.iter_mut().filter(|epoch| patterns.knows(epoch.number)) {
            if epoch.tiles[tile].patterns.merge_part(patterns).is_ok() {
                epoch.pattern_versions.set(region.y as usize..(region.y + region.height) as usize, self.version);
            }
        }
    }

    /// What holds for all results.
    pub fn conditions(&self) -> &Conditions {
        &self.spec.conditions
    }

    /// Counts up with every merge.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of changes of the list of reductions so far.
    pub fn generation(&self) -> u32 {
        self.spec.generation
    }

    /// What became of the frames merged so far.
    pub fn merged(&self) -> MergeCounts {
        self.merged
    }

    /// Frames of the tile of this link that all results have seen, each counted once; frames without position do not
    /// count.
    pub fn frames_reduced(&self, link: u32) -> u64 {
        let tile = self.tile_of_link[link as usize];
        self.epochs.iter().map(|epoch| epoch.tiles[tile].frame_count).min().unwrap_or(0)
    }

    /// Frames that have a place and of which all tiles are in all results.
    pub fn complete_count(&self) -> u64 {
        (0..self.length.div_ceil(64)).map(|word| u64::from(self.complete_word(word).count_ones())).sum()
    }

    /// Frames in `frames` that have a place in the results and are not in all of them, on the tile of this link, by what
    /// lacks them. Take away those that never arrived, and reduce the rest from disk by [`Self::plan_for`]. What is beyond
    /// the results is not listed.
    pub fn holes(&self, link: u32, frames: Range<FrameIndex>) -> Vec<Hole> {
        let tile = self.tile_of_link[link as usize];
        let mut holes: Vec<Hole> = Vec::new();
        for frame in frames.start..frames.end.min(self.frames_end()) {
            let Some(index) = self.index_of(frame) else { continue };
            let lacking = || self.epochs.iter().filter(|epoch| !epoch.tiles[tile].is_covered(index));
            if lacking().next().is_none() {
                continue;
            }
            let is_same = |hole: &Hole| hole.epochs.iter().copied().eq(lacking().map(|epoch| epoch.number));
            let hole = match holes.iter().position(is_same) {
                Some(at) => &mut holes[at],
                None => {
                    holes.push(Hole { epochs: lacking().map(|epoch| epoch.number).collect(), frames: Vec::new() });
                    holes.last_mut().expect("pushed a line above")
                }
            };
            match hole.frames.last_mut() {
                Some(last) if last.end == frame => last.end += 1,
                _ => hole.frames.push(frame..frame + 1),
            }
        }
        holes
    }

    /// How many frames below `end` have a place in the results and are not in all of them, on the tile of this link; fewer,
    /// where later ones are. In no time, as opposed to [`Self::holes`].
    pub fn missing_count(&self, link: u32, end: FrameIndex) -> u64 {
        let line = || end.min(self.frames_end());
        let placed = self.map.as_ref().map_or_else(line, |map| map.placed_before(end));
        if self.epochs.is_empty() { 0 } else { placed.saturating_sub(self.frames_reduced(link)) }
    }

    /// Frame after the last one that has a place.
    fn frames_end(&self) -> FrameIndex {
        match self.place {
            ScanPlace::Scan(_) => self.map.as_ref().map_or(0, FrameMap::end),
            ScanPlace::Line(count) => count.map_or(LINE_FRAMES_MAX, |count| count as u64),
        }
    }

    /// 1 for every scan position (C order; or frame of the line) of which all tiles of all frames are in all results,
    /// else 0. Where repeats are stacked, every frame of a position has its own.
    pub fn valid(&self) -> Vec<u8> {
        let is_complete = |slot: usize| self.complete_word(slot / 64) >> (slot % 64) & 1 == 1;
        let is_used = |&slot: &usize| self.map.as_ref().is_none_or(|map| map.is_used(slot));
        let is_valid = |place: usize| {
            let mut slots = self.slots_of(place).filter(is_used).peekable();
            slots.peek().is_some() && slots.all(is_complete)
        };
        (0..self.place_count()).map(|place| u8::from(is_valid(place))).collect()
    }

    /// Shape of [`Self::valid`]: `[ny, nx]`, `[ny, nx, repeat]` where repeats are stacked, `[frames]` without a scan.
    pub fn scan_shape(&self) -> Vec<usize> {
        match self.place {
            ScanPlace::Scan(scan) => {
                let shape = [scan.shape.height as usize, scan.shape.width as usize];
                shape.into_iter().chain(self.stacked()).collect()
            }
            ScanPlace::Line(_) => vec![self.place_count()],
        }
    }

    /// Name of each axis of [`Self::scan_shape`].
    pub fn scan_axes(&self) -> Vec<&'static str> {
        match self.place {
            ScanPlace::Scan(_) => ["scan_y", "scan_x"].into_iter().chain(self.stacked().map(|_| "repeat")).collect(),
            ScanPlace::Line(_) => vec!["frame"],
        }
    }

    /// Frames of each position, where they are stacked.
    pub(super) fn stacked(&self) -> Option<usize> {
        match self.place {
            ScanPlace::Scan(scan) if scan.repeats == Repeats::Stack => Some(scan.repeat_count() as usize),
            _ => None,
        }
    }

    /// Slots that one place combines.
    pub(super) fn combined(&self) -> usize {
        match self.place {
            ScanPlace::Scan(scan) if scan.repeats != Repeats::Stack => scan.repeat_count() as usize,
            _ => 1,
        }
    }

    /// What becomes of the slots of a place.
    pub(super) fn repeats(&self) -> Repeats {
        match self.place {
            ScanPlace::Scan(scan) if scan.repeat_count() > 1 => scan.repeats,
            _ => Repeats::Stack,
        }
    }

    /// Slots of a place.
    pub(super) fn slots_of(&self, place: usize) -> Range<usize> {
        place * self.combined()..(place + 1) * self.combined()
    }

    /// All results, in the order of the reductions.
    pub fn images(&self) -> impl ExactSizeIterator<Item = LiveImage<'_>> {
        (0..self.spec.results.len()).map(|number| LiveImage::new(self, number))
    }

    /// The result of that name.
    pub fn image(&self, name: &str) -> Option<LiveImage<'_>> {
        self.images().find(|image| image.name() == name)
    }

    /// `[ny, nx]`, of a line one row.
    pub(super) fn nav(&self) -> [usize; 2] {
        match self.place {
            ScanPlace::Scan(scan) => [scan.shape.height as usize, scan.shape.width as usize],
            ScanPlace::Line(_) => [1, self.place_count()],
        }
    }

    /// Number of places: scan positions (stacked: times frames of each), or frames of the line, the announced ones or
    /// else those seen.
    pub(super) fn place_count(&self) -> usize {
        match self.place {
            ScanPlace::Scan(_) => self.length / self.combined(),
            ScanPlace::Line(count) => count.unwrap_or(self.length),
        }
    }

    /// Places per row.
    pub(super) fn row_length(&self) -> usize {
        match self.place {
            ScanPlace::Scan(scan) => scan.shape.width as usize * self.stacked().unwrap_or(1),
            ScanPlace::Line(_) => 1,
        }
    }

    fn complete_word(&self, word: usize) -> u64 {
        if self.epochs.is_empty() {
            return 0;
        }
        self.epochs.iter().fold(!0, |all, epoch| all & epoch.complete_word(word))
    }

    /// The epochs of a result.
    pub(super) fn epochs_of(&self, output: &Output) -> Vec<&Epoch> {
        let numbers = self.spec.epochs_of(output);
        self.epochs.iter().filter(|epoch| numbers.contains(&epoch.number)).collect()
    }

    /// Exact sum of an integer column over complete slots; `None` where it is not an integer, or corrected.
    pub(super) fn integer(&self, column: usize, slots: &[usize]) -> Option<u128> {
        if self.spec.columns[column].offset != 0.0 {
            return None;
        }
        match &self.stores[column] {
            Store::U64(values) => Some(slots.iter().map(|&slot| u128::from(values[slot])).sum()),
            Store::U128(values) => slots.iter().try_fold(0_u128, |sum, &slot| sum.checked_add(values[slot])),
            Store::Float(_) | Store::Exact(_) => None,
        }
    }

    /// Value of a column over the complete slots of one place: their sum, or their mean.
    pub(super) fn value(&self, column: usize, slots: &[usize]) -> f64 {
        if let &[slot] = slots {
            return self.slot_value(column, slot);
        }
        // Numbers that are no integers are rounded slot by slot, and added in their order: the same for any tiling.
        let one_by_one = || slots.iter().map(|&slot| self.slot_value(column, slot)).sum();
        let sum = self.integer(column, slots).map_or_else(one_by_one, |sum| sum as f64);
        if self.repeats() == Repeats::Mean { sum / slots.len() as f64 } else { sum }
    }

    fn slot_value(&self, column: usize, slot: usize) -> f64 {
        let value = match &self.stores[column] {
            Store::U64(values) => values[slot] as f64,
            Store::U128(values) => values[slot] as f64,
            Store::Float(values) => values[slot],
            Store::Exact(values) => scale(values[slot].to_f64(), self.spec.columns[column].exponent),
        };
        value - self.spec.columns[column].offset
    }
}

/// Distinct regions, and which of them each link delivers.
fn tiles(detector: SigShape, regions_of_links: &[Region]) -> Result<(Vec<Region>, Vec<usize>), PlanError> {
    let mut tiles: Vec<Region> = Vec::new();
    let mut tile_of_link = Vec::new();
    for &region in regions_of_links {
        if !region.fits(detector) {
            return Err(PlanError::Region { region, detector });
        }
        if let Some(tile) = tiles.iter().position(|&tile| tile == region) {
            tile_of_link.push(tile);
            continue;
        }
        if let Some(&other) = tiles.iter().find(|&&tile| overlap(tile, region)) {
            return Err(PlanError::Overlap { a: other, b: region });
        }
        tile_of_link.push(tiles.len());
        tiles.push(region);
    }
    if tiles.is_empty() { Err(PlanError::NoRegion) } else { Ok((tiles, tile_of_link)) }
}

/// Whether two regions inside a detector share a pixel.
fn overlap(a: Region, b: Region) -> bool {
    let apart = |a0: u32, a_count: u32, b0: u32, b_count: u32| a0 + a_count <= b0 || b0 + b_count <= a0;
    !apart(a.y, a.height, b.y, b.height) && !apart(a.x, a.width, b.x, b.width)
}
