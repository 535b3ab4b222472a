//! Partials: what has been computed from some frames of one tile; they merge in any order and grouping.

use std::ops::Range;
use std::sync::Arc;

use super::custom::Tally;
use super::exact::Exact;
use super::plan::{Part, ReducePlan};
use super::spec::ColumnKind;
use crate::{FrameIndex, Region};

/// Numbers of one column, one per frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    U64(Vec<u64>),
    U128(Vec<u128>),
    Exact(Vec<Exact>),
}

impl Values {
    pub(super) fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::U64 => Self::U64(Vec::new()),
            ColumnKind::U128 => Self::U128(Vec::new()),
            ColumnKind::Exact => Self::Exact(Vec::new()),
        }
    }

    /// Appends an integer that the overflow proof covers.
    pub(super) fn push_integer(&mut self, value: u128) {
        match self {
            Self::U64(values) => values.push(value as u64),
            Self::U128(values) => values.push(value),
            Self::Exact(_) => debug_assert!(false, "an integer for a column of sums"),
        }
    }

    pub(super) fn push_exact(&mut self, value: Exact) {
        match self {
            Self::Exact(values) => values.push(value),
            _ => debug_assert!(false, "a sum for a column of integers"),
        }
    }

    /// Appends all of another column of the same kind.
    pub(super) fn extend(&mut self, from: &Self) {
        let (own, count) = match (&*self, from) {
            (Self::U64(own), Self::U64(from)) => (own.len(), from.len()),
            (Self::U128(own), Self::U128(from)) => (own.len(), from.len()),
            (Self::Exact(own), Self::Exact(from)) => (own.len(), from.len()),
            _ => (0, 0), // Said below.
        };
        self.insert(own, from, 0..count);
    }

    fn insert(&mut self, at: usize, from: &Self, range: Range<usize>) {
        match (self, from) {
            (Self::U64(into), Self::U64(from)) => drop(into.splice(at..at, from[range].iter().copied())),
            (Self::U128(into), Self::U128(from)) => drop(into.splice(at..at, from[range].iter().copied())),
            (Self::Exact(into), Self::Exact(from)) => drop(into.splice(at..at, from[range].iter().copied())),
            _ => debug_assert!(false, "columns of different kinds"), // Same reductions, checked by the caller.
        }
    }
}

/// Values of some frames of one tile: sums over masks, totals and moments (in coordinates of the whole detector), not
/// yet divided by anything.
///
/// Merging is the union over frames: associative and commutative, with the empty partial as identity; merging the same
/// frame twice counts it once.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    region: Region,
    pub(super) part: Arc<Part>,
    /// Ascending, without repeats.
    pub(super) frames: Vec<FrameIndex>,
    pub(super) columns: Vec<Values>,
    pub(super) customs: Vec<Tally>,
}

/// Partials or patterns that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// They cover different tiles; tiles meet in `LiveImages`.
    #[error("results of region {other:?} do not merge into those of region {own:?}")]
    Region {
        /// The tile merged into.
        own: Region,
        /// The tile of the other.
        other: Region,
    },
    /// They come from different reductions or pixel types.
    #[error("results of different reductions or pixel types do not merge")]
    Reductions,
}

impl Partial {
    /// The empty partial of a plan.
    pub fn new(plan: &ReducePlan) -> Self {
        let columns = plan.part.columns.iter().map(|&(_, kind)| Values::new(kind)).collect();
        let customs = plan.customs.per_frame();
        Self { region: plan.region, part: Arc::clone(&plan.part), frames: Vec::new(), columns, customs }
    }

    /// The tile it belongs to.
    pub fn region(&self) -> Region {
        self.region
    }

    /// Frames it holds values of, ascending.
    pub fn frames(&self) -> &[FrameIndex] {
        &self.frames
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes over the frames of `other` that this one does not hold yet.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.region != other.region {
            return Err(MergeError::Region { own: self.region, other: other.region });
        }
        if self.part != other.part {
            return Err(MergeError::Reductions);
        }
        let mut from = 0;
        while from < other.frames.len() {
            let at = self.frames.partition_point(|&frame| frame < other.frames[from]);
            let next = self.frames.get(at).copied();
            if next == Some(other.frames[from]) {
                from += 1;
                continue;
            }
            // Everything up to our next frame goes in at once: blocks are contiguous, so this is one step per block.
            let rest = &other.frames[from..];
            let until = from + next.map_or(rest.len(), |next| rest.partition_point(|&frame| frame < next));
            self.frames.splice(at..at, other.frames[from..until].iter().copied());
            for (into, values) in self.columns.iter_mut().zip(&other.columns) {
                into.insert(at, values, from..until);
            }
            for (into, tally) in self.customs.iter_mut().zip(&other.customs) {
                into.insert(at, tally, from..until);
            }
            from = until;
        }
        Ok(())
    }
}
