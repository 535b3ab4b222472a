//! Rows of weights over a tile, sorted by how they are multiplied.

use super::super::digits::Weighted;
use super::{BLOCK_PIXELS, CHUNK_BLOCKS, CHUNK_PIXELS, GROUP_ROWS};
use crate::Region;

/// How a row is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Single,
    Double,
    Listed,
}

/// Pixels of a list that are multiplied in one step. Lists of as many steps follow each other, so that where they end comes as no surprise.
pub(super) const LISTED_STEP: usize = 4;

/// Aligned like a register, so that none is loaded from two cache lines.
#[repr(align(32))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Aligned<T>(pub(super) T);

/// Rows multiplied together over some blocks of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) way: Way,
    pub(super) rows: [u32; GROUP_ROWS],
    pub(super) count: usize,
    /// Blocks, or listed pixels.
    pub(super) entries: (u32, u32),
    /// Number of the first weights: one for every block, of all rows, or for every pixel.
    pub(super) weights: u32,
}

/// Rows of weights over a tile; pixels or blocks without weights are left out.
#[derive(Debug, Clone)]
pub(in super::super) struct FloatRows {
    pub(super) ways: Vec<Way>,
    pub(super) single: Vec<Aligned<[f32; BLOCK_PIXELS]>>,
    pub(super) four_singles: Vec<Aligned<[[f32; BLOCK_PIXELS]; GROUP_ROWS]>>,
    /// By half of a block: so many pixels are as wide a register as a block in single precision.
    pub(super) double: Vec<Aligned<[[f64; 4]; 2]>>,
    pub(super) four_doubles: Vec<Aligned<[[[f64; 4]; GROUP_ROWS]; 2]>>,
    /// Weights of listed pixels.
    pub(super) listed: Vec<f64>,
    /// Numbers of blocks or pixels in their chunk.
    entries: Vec<u16>,
    groups: Vec<Group>,
    /// Groups of chunk `i` are `groups[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
}

/// Weights of one row in a chunk.
type Weights = [f64; CHUNK_PIXELS];

impl FloatRows {
    /// Of masks of the tile `region`. Real weights are divided by the power of two above the largest of their mask.
    pub(in super::super) fn of(weighted: &[Weighted<'_>], region: Region) -> Self {
        let pixel_count = if weighted.is_empty() { 0 } else { region.pixel_count() as usize };
        let is_single = |row: usize| weighted[row].is_single();
        Self::new(pixel_count, weighted.len(), is_single, |row, first, part| weighted[row].write_numbers(first, part))
    }

    /// `weights(row, first, part)` writes the weights of the pixels from `first` on, as far as there are pixels.
    pub(super) fn new(
        pixel_count: usize,
        row_count: usize,
        is_single: impl Fn(usize) -> bool,
        weights: impl Fn(usize, usize, &mut [f64]),
    ) -> Self {
        let chunk_of = |row: usize, first: usize| {
            let mut part = [0.0; CHUNK_PIXELS];
            weights(row, first, &mut part[..CHUNK_PIXELS.min(pixel_count - first)]);
            part
        };
        let firsts = || (0..pixel_count).step_by(CHUNK_PIXELS);
        let way_of = |row: usize| {
            let counts = firsts().map(|first| fill_of(&chunk_of(row, first)));
            let (used, room) = counts.fold((0, 0), |(used, room), (a, b)| (used + a, room + b));
            match is_single(row) {
                _ if 2 * used < room => Way::Listed,
                true => Way::Single,
                false => Way::Double,
            }
        };
        let mut made = Self {
            ways: (0..row_count).map(way_of).collect(),
            single: Vec::new(),
            four_singles: Vec::new(),
            double: Vec::new(),
            four_doubles: Vec::new(),
            listed: Vec::new(),
            entries: Vec::new(),
            groups: Vec::new(),
            starts: vec![0],
        };
        for first in firsts() {
            for way in [Way::Single, Way::Double, Way::Listed] {
                let rows = (0..row_count).filter(|&row| made.ways[row] == way);
                let with_weights = |row| Some((row as u32, chunk_of(row, first))).filter(|(_, part)| has_weights(part));
                let mut rows: Vec<(u32, Weights)> = rows.filter_map(with_weights).collect();
                let together = if way == Way::Listed { 1 } else { GROUP_ROWS };
                if way == Way::Listed {
                    rows.sort_by_key(|(_, part)| listed_count(part).div_ceil(LISTED_STEP));
                }
                rows.chunks(together).for_each(|rows| made.add_group(way, rows));
            }
            made.starts.push(made.groups.len());
        }
        made
    }

    fn add_group(&mut self, way: Way, rows: &[(u32, Weights)]) {
        let first = self.entries.len() as u32;
        let weights = match (way, rows.len()) {
            (Way::Single, 1) => self.single.len(),
            (Way::Single, _) => self.four_singles.len(),
            (Way::Double, 1) => self.double.len(),
            (Way::Double, _) => self.four_doubles.len(),
            (Way::Listed, _) => self.listed.len(),
        };
        if way == Way::Listed {
            self.list(&rows[0].1);
        } else {
            for block in 0..CHUNK_BLOCKS {
                let mut four = [[0.0; BLOCK_PIXELS]; GROUP_ROWS];
                let blocks = rows.iter().map(|(_, part)| part.as_chunks::<BLOCK_PIXELS>().0[block]);
                four.iter_mut().zip(blocks).for_each(|(row, block)| *row = block);
                if has_weights(four.as_flattened()) {
                    self.entries.push(block as u16);
                    self.add_block(way, rows.len(), &four);
                }
            }
        }
        let mut numbers = [0; GROUP_ROWS];
        numbers.iter_mut().zip(rows).for_each(|(number, &(row, _))| *number = row);
        let entries = (first, self.entries.len() as u32);
        self.groups.push(Group { way, rows: numbers, count: rows.len(), entries, weights: weights as u32 });
    }

    /// Lists pixels with weights; the last one again, without weight, to whole steps.
    fn list(&mut self, part: &Weights) {
        let mut last = 0;
        for (at, &weight) in (0..).zip(part).filter(|&(_, &weight)| weight != 0.0) {
            self.entries.push(at);
            self.listed.push(weight);
            last = at;
        }
        let missing = listed_count(part).next_multiple_of(LISTED_STEP) - listed_count(part);
        self.entries.extend(std::iter::repeat_n(last, missing));
        self.listed.extend(std::iter::repeat_n(0.0, missing));
    }

    fn add_block(&mut self, way: Way, count: usize, four: &[[f64; BLOCK_PIXELS]; GROUP_ROWS]) {
        let singles = four.map(|row| row.map(|weight| weight as f32));
        let halves = [0, 1].map(|half| four.map(|row| row.as_chunks::<4>().0[half]));
        match (way, count) {
            (Way::Single, 1) => self.single.push(Aligned(singles[0])),
            (Way::Single, _) => self.four_singles.push(Aligned(singles)),
            (_, 1) => self.double.push(Aligned(halves.map(|[row, ..]| row))),
            _ => self.four_doubles.push(Aligned(halves)),
        }
    }

    /// Number of rows.
    pub(in super::super) fn len(&self) -> usize {
        self.ways.len()
    }

    pub(super) fn chunk_count(&self) -> usize {
        self.starts.len() - 1
    }

    #[inline(always)]
    pub(super) fn groups(&self, chunk: usize) -> &[Group] {
        &self.groups[self.starts[chunk]..self.starts[chunk + 1]]
    }

    /// Those of listed rows.
    #[inline(always)]
    pub(super) fn listed_groups(&self, chunk: usize) -> &[Group] {
        let groups = self.groups(chunk);
        &groups[groups.partition_point(|group| group.way != Way::Listed)..]
    }

    /// Numbers of the chunks that listed rows have pixels of.
    pub(in super::super) fn listed_chunks(&self) -> impl Iterator<Item = u32> {
        (0..self.chunk_count()).filter(|&chunk| !self.listed_groups(chunk).is_empty()).map(|chunk| chunk as u32)
    }

    #[inline(always)]
    pub(super) fn entries(&self, group: &Group) -> &[u16] {
        &self.entries[group.entries.0 as usize..group.entries.1 as usize]
    }

    /// Weight of a pixel of a chunk in the `number`-th row of a group.
    pub(super) fn weight(&self, group: &Group, number: usize, pixel: usize) -> f64 {
        let (wanted, lane) =
            if group.way == Way::Listed { (pixel, 0) } else { (pixel / BLOCK_PIXELS, pixel % BLOCK_PIXELS) };
        let entries = self.entries(group);
        let at = entries.partition_point(|&entry| usize::from(entry) < wanted);
        if entries.get(at) != Some(&(wanted as u16)) {
            return 0.0;
        }
        let at = group.weights as usize + at;
        match (group.way, group.count) {
            (Way::Single, 1) => f64::from(self.single[at].0[lane]),
            (Way::Single, _) => f64::from(self.four_singles[at].0[number][lane]),
            (Way::Double, 1) => self.double[at].0[lane / 4][lane % 4],
            (Way::Double, _) => self.four_doubles[at].0[lane / 4][number][lane % 4],
            (Way::Listed, _) => self.listed[at],
        }
    }
}

fn listed_count(part: &Weights) -> usize {
    part.iter().filter(|&&weight| weight != 0.0).count()
}

fn has_weights(part: &[f64]) -> bool {
    part.iter().any(|&weight| weight != 0.0)
}

/// Pixels of a chunk that have weights, and those of all blocks that have any.
fn fill_of(part: &Weights) -> (usize, usize) {
    let blocks = part.as_chunks::<BLOCK_PIXELS>().0.iter().filter(|block| has_weights(&block[..]));
    (listed_count(part), blocks.count() * BLOCK_PIXELS)
}
