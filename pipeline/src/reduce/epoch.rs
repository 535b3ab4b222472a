//! Epochs: what each change of the list of reductions brought, and which frames it has seen.

use super::custom::CustomPart;
use super::patterns::Patterns;
use super::spec::Spec;
use super::versions::RowVersions;
use crate::Region;

/// What one change of the list of reductions brought, and which frames it has seen.
#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) number: u32,
    pub(super) tiles: Vec<Seen>,
    pub(super) value_versions: RowVersions,
    pub(super) pattern_versions: RowVersions,
}

/// What is known of one tile.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) patterns: Patterns,
    covered: Vec<u64>,
    pub(super) frame_count: u64,
}

impl Epoch {
    /// An epoch that has seen no frame; `step` rows share a version.
    pub(super) fn new(number: u32, spec: &Spec, regions: &[Region], length: usize, step: usize) -> Self {
        let accumulators = spec.accumulators(number);
        let kinds = [spec.pixel.kind, spec.pattern_kind()];
        let seen = |&region: &Region| {
            let mut patterns = Patterns::zero(region, kinds, &accumulators, spec.conditions.can_lack_data());
            patterns.customs = CustomPart::of(spec, region, &[number]).over_frames();
            Seen { patterns, covered: vec![0; length.div_ceil(64)], frame_count: 0 }
        };
        Self {
            number,
            tiles: regions.iter().map(seen).collect(),
            value_versions: RowVersions::new(step),
            pattern_versions: RowVersions::new(1),
        }
    }

    /// A bit for each of 64 places of which all tiles are in.
    pub(super) fn complete_word(&self, word: usize) -> u64 {
        self.tiles.iter().fold(!0, |all, tile| all & tile.covered.get(word).copied().unwrap_or(0))
    }

    /// Whether all tiles of a place are in.
    pub(super) fn is_complete(&self, index: usize) -> bool {
        self.complete_word(index / 64) >> (index % 64) & 1 == 1
    }
}

impl Seen {
    /// Makes room for so many places.
    pub(super) fn grow(&mut self, length: usize) {
        self.covered.resize(length.div_ceil(64), 0);
    }

    /// Whether a place is reduced.
    pub(super) fn is_covered(&self, index: usize) -> bool {
        self.covered.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Notes a place as reduced; `false` when it was.
    pub(super) fn cover(&mut self, index: usize) -> bool {
        let (word, bit) = (&mut self.covered[index / 64], 1 << (index % 64));
        let new = *word & bit == 0;
        *word |= bit;
        self.frame_count += u64::from(new);
        new
    }
}
