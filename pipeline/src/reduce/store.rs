//! Stores: one column of sums for every place of the results.

use super::exact::{Exact, scale};
use super::partial::Values;
use super::spec::ColumnKind;

/// Sums per place, over all tiles so far.
#[derive(Debug)]
pub(super) enum Store {
    U64(Vec<u64>),
    U128(Vec<u128>),
    /// Finished at once, because there is only one tile.
    Float(Vec<f64>),
    Exact(Vec<Exact>),
}

impl Store {
    /// An empty store.
    pub(super) fn new(kind: ColumnKind, tile_count: usize) -> Self {
        match kind {
            ColumnKind::U64 => Self::U64(Vec::new()),
            ColumnKind::U128 => Self::U128(Vec::new()),
            ColumnKind::Exact if tile_count == 1 => Self::Float(Vec::new()),
            ColumnKind::Exact => Self::Exact(Vec::new()),
        }
    }

    /// The same with room for so many places.
    pub(super) fn grown(mut self, length: usize) -> Self {
        self.grow(length);
        self
    }

    /// Makes room for so many places.
    pub(super) fn grow(&mut self, length: usize) {
        match self {
            Self::U64(values) => values.resize(length, 0),
            Self::U128(values) => values.resize(length, 0),
            Self::Float(values) => values.resize(length, 0.0),
            Self::Exact(values) => values.resize(length, Exact::default()),
        }
    }

    /// Adds what one tile has of one frame.
    pub(super) fn add(&mut self, index: usize, values: &Values, at: usize, exponent: i32) {
        match (self, values) {
            (Self::U64(store), Values::U64(values)) => store[index] += values[at],
            (Self::U128(store), Values::U128(values)) => store[index] += values[at],
            (Self::Float(store), Values::Exact(values)) => store[index] = scale(values[at].to_f64(), exponent),
            (Self::Exact(store), Values::Exact(values)) => store[index] += &values[at],
            _ => debug_assert!(false, "columns of different kinds"), // Looked up by kind.
        }
    }
}
