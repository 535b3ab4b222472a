//! Segments: rows of a tile cut where any binary mask begins or ends, so that every pixel is looked at once however many
//! masks hold it. For what is not a weighted sum of pixels; those are made by [`super::dot`].

use std::collections::HashMap;

use super::mask::Mask;
use crate::Region;

/// A run of pixels of one row that belongs to the same set of masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// First column, relative to the tile.
    pub(super) x0: u32,
    /// Column after the last.
    pub(super) x1: u32,
    /// What any of its masks wants.
    pub(super) extra: Extra,
    /// Where its masks are listed.
    members: (u32, u32),
}

/// What is wanted of a slot, or of any slot of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extra {
    /// Sum of squares.
    pub(super) squares: bool,
    /// How many pixels reach a threshold.
    pub(super) at_least: bool,
}

/// All segments of a tile, row by row.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    starts: Vec<usize>,
    segments: Vec<Segment>,
    members: Vec<u32>,
}

impl Segments {
    /// Segments of binary masks that are cropped to `region`; slot `i` is `masks[i]`.
    pub(super) fn new(masks: &[Mask], region: Region, extra_of: impl Fn(u32) -> Extra) -> Self {
        let mut made = Self { starts: vec![0], segments: Vec::new(), members: Vec::new() };
        let extras: Vec<Extra> = (0..masks.len() as u32).map(extra_of).collect();
        let mut sets: HashMap<Vec<u32>, (u32, u32)> = HashMap::new();
        let mut edges: Vec<(u32, u32)> = Vec::new();
        let mut inside = vec![false; masks.len()];
        for y in 0..region.height {
            edges.clear();
            for (slot, mask) in masks.iter().enumerate() {
                edges.extend(mask.runs(y).iter().flat_map(|&(x0, x1)| [(x0, slot as u32), (x1, slot as u32)]));
            }
            edges.sort_unstable();
            let mut from = 0;
            for &(x, slot) in &edges {
                made.push((from, x), &inside, &extras, &mut sets);
                from = x;
                inside[slot as usize] ^= true;
            }
            made.starts.push(made.segments.len());
        }
        made
    }

    fn push(
        &mut self,
        (x0, x1): (u32, u32),
        inside: &[bool],
        extras: &[Extra],
        sets: &mut HashMap<Vec<u32>, (u32, u32)>,
    ) {
        if x0 == x1 {
            return;
        }
        let set: Vec<u32> = (0..inside.len() as u32).filter(|&slot| inside[slot as usize]).collect();
        if set.is_empty() {
            return;
        }
        let mut extra = Extra::default();
        for &slot in &set {
            extra.squares |= extras[slot as usize].squares;
            extra.at_least |= extras[slot as usize].at_least;
        }
        let members = *sets.entry(set).or_insert_with_key(|set| {
            let start = self.members.len() as u32;
            self.members.extend(set);
            (start, self.members.len() as u32)
        });
        self.segments.push(Segment { x0, x1, extra, members });
    }

    /// Whether no pixel belongs to any mask.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Segments of row `y` of the tile, left to right.
    #[inline(always)]
    pub(super) fn row(&self, y: usize) -> &[Segment] {
        &self.segments[self.starts[y]..self.starts[y + 1]]
    }

    /// Columns `[x0, x1)` from the first to the last segment of row `y`; empty when it has none.
    pub(super) fn span(&self, y: usize) -> (u32, u32) {
        match self.row(y) {
            [first, .., last] => (first.x0, last.x1),
            [only] => (only.x0, only.x1),
            [] => (0, 0),
        }
    }

    /// Slots that get what is found in a segment.
    #[inline(always)]
    pub(super) fn members(&self, segment: &Segment) -> &[u32] {
        &self.members[segment.members.0 as usize..segment.members.1 as usize]
    }
}
