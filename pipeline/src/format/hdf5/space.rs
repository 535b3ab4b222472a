//! Virtual arrays: which elements of which other data set make up which elements of this one.

use super::lookup3;

/// Evenly spaced runs of elements along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slab {
    /// First element.
    pub start: u64,
    /// From the first element of a run to that of the next; at least `block`.
    pub stride: u64,
    /// Runs.
    pub count: u64,
    /// Elements of a run.
    pub block: u64,
}

/// Runs without end: as many as there are files.
const ENDLESS: u64 = u64::MAX;

impl Slab {
    /// Runs of `count` neighbours one after the other, as many as there are files of a [`Mapping`] with `%b` in its name.
    pub fn endless(count: u64) -> Self {
        Self { start: 0, stride: count.max(1), count: ENDLESS, block: count }
    }

    /// Whether there is no last run.
    pub fn is_endless(&self) -> bool {
        self.count == ENDLESS
    }

    /// `count` neighbours from `start` on.
    pub fn run(start: u64, count: u64) -> Self {
        Self { start, stride: count.max(1), count: 1, block: count }
    }

    /// `count` single elements, `stride` apart.
    pub fn every(start: u64, stride: u64, count: u64) -> Self {
        Self { start, stride: if count == 1 { 1 } else { stride }, count, block: 1 }
    }

    /// Elements in all.
    pub fn len(&self) -> u64 {
        self.count.saturating_mul(self.block)
    }

    /// Whether it selects nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, in order.
    pub fn elements(self) -> impl Iterator<Item = u64> {
        (0..self.count).flat_map(move |run| (0..self.block).map(move |at| self.start + run * self.stride + at))
    }
}

/// One piece of a virtual array; both selections have the same number of elements and are matched in C order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// File, relative to the directory of the virtual array's; `.` for the same file. With `%b` in its name there is one for
    /// every run of an endless slab, numbered from 0.
    pub file: String,
    /// Data set in it.
    pub array: &'static str,
    /// What is taken, axis by axis; empty for everything.
    pub source: Vec<Slab>,
    /// Where it goes, axis by axis.
    pub target: Vec<Slab>,
}

/// The object of the global heap that a virtual layout points at: version, number of mappings, mappings, checksum.
pub(super) fn mapping_list(mappings: &[Mapping]) -> Vec<u8> {
    let mut out = vec![0]; // version
    out.extend((mappings.len() as u64).to_le_bytes());
    for mapping in mappings {
        out.extend(mapping.file.as_bytes());
        out.push(0);
        out.extend(mapping.array.as_bytes());
        out.push(0);
        selection(&mut out, &mapping.source);
        selection(&mut out, &mapping.target);
    }
    let sum = lookup3(&out);
    out.extend(sum.to_le_bytes());
    out
}

/// Everything, or a regular hyperslab, version 2: start, stride, count and block of every axis.
fn selection(out: &mut Vec<u8>, axes: &[Slab]) {
    if axes.is_empty() {
        out.extend(3_u32.to_le_bytes()); // everything
        out.extend(1_u32.to_le_bytes()); // version
        out.extend([0; 8]);
        return;
    }
    out.extend(2_u32.to_le_bytes()); // hyperslab
    out.extend(2_u32.to_le_bytes()); // version
    out.push(1); // regular
    out.extend((4 + 32 * axes.len() as u32).to_le_bytes()); // bytes that follow
    out.extend((axes.len() as u32).to_le_bytes());
    for Slab { start, stride, count, block } in axes {
        for number in [start, stride, count, block] {
            out.extend(number.to_le_bytes());
        }
    }
}
