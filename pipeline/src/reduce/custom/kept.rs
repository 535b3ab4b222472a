//! Partials of custom reductions for every place of the results, tile by tile: they meet when they are finished, so that
//! nothing of a lab's own runs for every frame while results are locked.

use std::sync::Arc;

use super::{Planned, Tally};
use crate::reduce::spec::Spec;

/// Partials of one reduction over the scan.
#[derive(Debug)]
pub(in crate::reduce) struct Kept {
    pub(in crate::reduce) of: Arc<Planned>,
    /// For every tile, a partial for every slot.
    pub(super) tiles: Vec<Vec<f64>>,
}

impl Kept {
    /// One for every reduction of a list over the scan; those that were kept `before` stay.
    pub(in crate::reduce) fn all(spec: &Spec, before: Vec<Self>, tile_count: usize, length: usize) -> Vec<Self> {
        let mut before: Vec<Option<Self>> = before.into_iter().map(Some).collect();
        let mut known = |of: &Arc<Planned>| {
            let same = before.iter_mut().find(|kept| kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.of, of)));
            same.and_then(Option::take)
        };
        let mut kept = |of: &Arc<Planned>| {
            let empty = || Self { of: Arc::clone(of), tiles: vec![Vec::new(); tile_count] };
            let mut kept = known(of).unwrap_or_else(empty);
            kept.grow(length);
            kept
        };
        spec.customs.iter().filter(|of| of.is_per_frame()).map(&mut kept).collect()
    }

    /// Makes room for so many slots.
    pub(in crate::reduce) fn grow(&mut self, length: usize) {
        let width = self.of.description.empty.len();
        self.tiles.iter_mut().for_each(|tile| tile.resize(length * width, f64::NAN));
    }

    /// Takes in what a tile has of a frame.
    pub(in crate::reduce) fn put(&mut self, tile: usize, slot: usize, from: &[Tally], at: usize) {
        let Some(tally) = from.iter().find(|tally| Arc::ptr_eq(&tally.of, &self.of)) else { return };
        let width = self.of.description.empty.len();
        self.tiles[tile][slot * width..][..width].copy_from_slice(tally.row(at));
    }
}
