//! Rows of small integer weights over a tile, cut into blocks of pixels of which those with no weight are left out.
//!
//! # Place in the path
//! [`super::digits`] makes rows of masks; [`super::dot`] multiplies them with frames. A frame is one line of pixels here,
//! without rows and columns.
//!
//! # Invariants
//! - I1: a chunk lists each of its rows once; blocks that are not listed have no weight.
//! - I2: blocks of a row between two of its flushes keep a lane of 32 bits in range, whatever the pixels are.
//!
//! # Why this way
//! Rows that touch nearly the same blocks are multiplied together, two at a time, so that pixels are loaded once for two
//! products; three would need more registers than there are. Equal blocks of weights are kept once: the inside of every
//! binary mask is the same block of ones, which then stays in the first-level cache.

use std::collections::HashMap;

use super::vector::{BLOCK_PIXELS, Weights};

/// Blocks in a chunk: what is decoded of a frame at a time, so that eight frames of it stay in the first-level cache.
pub(super) const CHUNK_BLOCKS: usize = 32;
/// Pixels of a chunk.
pub(super) const CHUNK_PIXELS: usize = CHUNK_BLOCKS * BLOCK_PIXELS;
/// Rows multiplied together.
pub(super) const GROUP_ROWS: usize = 2;
/// Bits of an entry that number the block in its chunk; the others number its weights.
const BLOCK_BITS: u32 = CHUNK_BLOCKS.ilog2();

/// Rows multiplied together over one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Their numbers; `count` of them.
    pub(super) rows: [u32; GROUP_ROWS],
    pub(super) count: usize,
    /// Whether their sums must be moved to 64 bits after this chunk (I2).
    pub(super) flush: bool,
    entries: (u32, u32),
}

/// Where the weights of a block lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry(u32);

impl Entry {
    /// Number of the block in its chunk.
    #[inline(always)]
    pub(super) fn block(self) -> usize {
        (self.0 % (1 << BLOCK_BITS)) as usize
    }
}

/// All rows of a tile.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pool: Vec<Weights>,
    /// Per block of a group: one entry for each of its rows.
    entries: Vec<Entry>,
    groups: Vec<Group>,
    /// Groups of chunk `i` are `groups[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    /// Sum of the weights of each row.
    sums: Vec<i64>,
}

/// One row of a chunk while it is being sorted into groups.
struct Wanted {
    row: u32,
    /// Bit `i` is set where block `i` has weights.
    blocks: u32,
    weights: [Weights; CHUNK_BLOCKS],
}

/// What making rows needs.
struct Maker {
    made: Rows,
    known: HashMap<Weights, u32>,
    /// Blocks a row may still take before a lane could leave its range, and how many it may take at once.
    budgets: Vec<(u64, u64)>,
}

impl Rows {
    /// Rows over `pixel_count` pixels of magnitude up to `pixel_max`. `weights(row, first, block)` writes the weights of the
    /// pixels from `first` on; it may leave pixels beyond the end as they are. `largest[row]` bounds their magnitude,
    /// and `4 * CHUNK_BLOCKS * pixel_max * largest <= 2^31`.
    pub(super) fn new(
        pixel_count: usize,
        pixel_max: u32,
        largest: &[u16],
        mut weights: impl FnMut(usize, usize, &mut [i16; BLOCK_PIXELS]),
    ) -> Self {
        let budget = |&largest: &u16| (1_u64 << 29) / (u64::from(pixel_max) * u64::from(largest).max(1)).max(1);
        let budgets: Vec<(u64, u64)> = largest.iter().map(budget).map(|budget| (budget, budget)).collect();
        debug_assert!(budgets.iter().all(|&(budget, _)| budget >= CHUNK_BLOCKS as u64), "a chunk overflows");
        let made = Self {
            pool: Vec::new(),
            entries: Vec::new(),
            groups: Vec::new(),
            starts: vec![0],
            sums: vec![0; largest.len()],
        };
        let mut maker = Maker { made, known: HashMap::new(), budgets };
        for first in (0..pixel_count).step_by(CHUNK_PIXELS) {
            let mut wanted = Vec::new();
            for row in 0..largest.len() {
                let mut blocks = [Weights([0; BLOCK_PIXELS]); CHUNK_BLOCKS];
                let starts = (first..pixel_count).step_by(BLOCK_PIXELS);
                for (block, first) in blocks.iter_mut().zip(starts) {
                    weights(row, first, &mut block.0);
                    block.0.iter_mut().skip(pixel_count - first).for_each(|weight| *weight = 0);
                }
                wanted.extend(Wanted::new(row as u32, blocks));
            }
            maker.add_chunk(wanted);
        }
        maker.made
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Sum of the weights of a row.
    pub(super) fn sum(&self, row: usize) -> i64 {
        self.sums[row]
    }

    /// Number of chunks.
    pub(super) fn chunk_count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Groups of a chunk.
    #[inline(always)]
    pub(super) fn groups(&self, chunk: usize) -> &[Group] {
        &self.groups[self.starts[chunk]..self.starts[chunk + 1]]
    }

    /// Blocks of a group: entries of its `ROWS` rows.
    #[inline(always)]
    pub(super) fn entries<const ROWS: usize>(&self, group: &Group) -> &[[Entry; ROWS]] {
        self.entries[group.entries.0 as usize..group.entries.1 as usize].as_chunks().0
    }

    /// Weights of an entry.
    #[inline(always)]
    pub(super) fn weights(&self, entry: Entry) -> &Weights {
        &self.pool[(entry.0 >> BLOCK_BITS) as usize]
    }
}

impl Wanted {
    fn new(row: u32, weights: [Weights; CHUNK_BLOCKS]) -> Option<Self> {
        let has_weight = |weights: &Weights| weights.0.iter().any(|&weight| weight != 0);
        let blocks = (0..CHUNK_BLOCKS).filter(|&at| has_weight(&weights[at])).fold(0, |bits, at| bits | 1 << at);
        (blocks != 0).then_some(Self { row, blocks, weights })
    }
}

impl Maker {
    fn add_chunk(&mut self, mut wanted: Vec<Wanted>) {
        for one in &wanted {
            let weights = one.weights.iter().flat_map(|weights| weights.0);
            self.made.sums[one.row as usize] += weights.map(i64::from).sum::<i64>();
        }
        wanted.sort_by_key(|wanted| (wanted.blocks, wanted.row));
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let (group, others) = rest.split_at(together(rest));
            self.add_group(group);
            rest = others;
        }
        self.made.starts.push(self.made.groups.len());
    }

    fn add_group(&mut self, wanted: &[Wanted]) {
        let blocks = union(wanted);
        let start = self.made.entries.len() as u32;
        for block in (0..CHUNK_BLOCKS).filter(|block| blocks >> block & 1 == 1) {
            for one in wanted {
                let entry = self.entry(block, &one.weights[block]);
                self.made.entries.push(entry);
            }
        }
        let mut rows = [0; GROUP_ROWS];
        rows.iter_mut().zip(wanted).for_each(|(row, one)| *row = one.row);
        let count = u64::from(blocks.count_ones());
        let mut flush = false;
        for one in wanted {
            let (left, _) = &mut self.budgets[one.row as usize];
            *left -= count; // Never below 0: a chunk more always fits, see below.
            flush |= *left < CHUNK_BLOCKS as u64;
        }
        if flush {
            for one in wanted {
                let (left, budget) = &mut self.budgets[one.row as usize];
                *left = *budget;
            }
        }
        let entries = (start, self.made.entries.len() as u32);
        self.made.groups.push(Group { rows, count: wanted.len(), flush, entries });
    }

    fn entry(&mut self, block: usize, weights: &Weights) -> Entry {
        let pool = &mut self.made.pool;
        let at = *self.known.entry(*weights).or_insert_with(|| {
            pool.push(*weights);
            pool.len() as u32 - 1
        });
        Entry(at << BLOCK_BITS | block as u32)
    }
}

fn union(wanted: &[Wanted]) -> u32 {
    wanted.iter().fold(0, |blocks, one| blocks | one.blocks)
}

/// How many of the first rows to multiply together: as long as at least three of four blocks have weights.
fn together(wanted: &[Wanted]) -> usize {
    let fits = |&count: &usize| {
        let used: u32 = wanted[..count].iter().map(|one| one.blocks.count_ones()).sum();
        used * 4 >= union(&wanted[..count]).count_ones() * count as u32 * 3
    };
    (1..=wanted.len().min(GROUP_ROWS)).rev().find(fits).unwrap_or(1)
}
