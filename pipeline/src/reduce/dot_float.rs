//! The kernel for weighted sums in floating point: real weights on any pixels, and any weights on floating point pixels.
//!
//! # Place in the path
//! Called for every eight frames of a block by [`super::kernel`] and [`super::kernel_f32`], inside one dispatch on what the
//! processor can do.
//!
//! # Invariants
//! - I1: the sum of a row over a frame is added in one fixed order, whatever the processor, and whatever frames come with it.
//!   Sums of tiles are added exactly afterwards, so that results depend on how frames are cut into tiles, and on nothing else.
//! - I2: a pixel without weight counts for nothing, also where it is not a number.
//!
//! # Precision
//! Masks given in single precision are multiplied in single precision: a lane adds at most [`CHUNK_BLOCKS`] products, then
//! lanes are added in double precision. The error is below 2e-6 of the sum of the products' magnitudes, usually 1e-7, or below
//! 2^-126 of the largest weight. All others are multiplied in double precision: 1e-13.
//!
//! # Why this way
//! Rows that have weights in most pixels of their blocks are multiplied along pixels, four rows with a few frames at a time, so
//! that loads do not limit. Of rows with few (rings of a radial profile), single pixels are listed, and eight
//! frames lie side by side in a register: every listed pixel costs one multiplication for eight frames. More frames would meet in
//! the same sets of the first-level cache, because frames of common sizes are multiples of 4 KiB apart.

use super::digits::Weighted;
use super::dot::{LINE, OCTET, Stack};
use super::exact::Exact;
use super::vector::Multiply;
use crate::Region;

/// Pixels of a block.
const BLOCK_PIXELS: usize = 8;
/// Blocks in a chunk: what is decoded of eight frames at a time, and the weights of some rows, stay in the first-level cache.
const CHUNK_BLOCKS: usize = 32;
const CHUNK_PIXELS: usize = CHUNK_BLOCKS * BLOCK_PIXELS;
/// Frames multiplied with the weights of a chunk before the next chunk has its turn: weights of many rows come from afar.
const FRAMES: usize = 32;
/// Rows multiplied together.
const GROUP_ROWS: usize = 4;
/// Frames multiplied with four rows at a time: as many sums as there are registers for.
const ABREAST: usize = 2;
/// Sums of single precision do not overflow below: larger pixels are added one by one.
const LARGEST: f32 = 1.2e30;

/// A pixel as one or two numbers in single precision, lowest first, that make it up exactly.
pub(super) trait Singles {
    /// Bytes of a pixel.
    const BYTES: usize;
    /// Number of planes.
    const PLANES: usize;
    /// What a pixel's number in the second plane counts.
    const SCALE: f64;

    fn decode_singles<const BIG: bool>(bytes: &[u8], plane: usize, singles: &mut [f32]);

    /// Whether pixels may be something that sums cannot take.
    const IS_ODD: bool = false;
}

macro_rules! integer_singles {
    ($pixel:ty, $planes:expr, |$value:ident, $plane:ident| $single:expr) => {
        impl Singles for $pixel {
            const BYTES: usize = size_of::<$pixel>();
            const PLANES: usize = $planes;
            const SCALE: f64 = 65_536.0;

            #[inline(always)]
            fn decode_singles<const BIG: bool>(bytes: &[u8], $plane: usize, singles: &mut [f32]) {
                const BYTES: usize = size_of::<$pixel>();
                for (single, &bytes) in singles.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
                    let $value = if BIG { <$pixel>::from_be_bytes(bytes) } else { <$pixel>::from_le_bytes(bytes) };
                    *single = $single;
                }
            }
        }
    };
}

integer_singles!(u8, 1, |value, _plane| f32::from(value));
integer_singles!(u16, 1, |value, _plane| f32::from(value));
integer_singles!(u32, 2, |value, plane| f32::from((value >> (16 * plane as u32)) as u16));

impl Singles for f32 {
    const BYTES: usize = 4;
    const PLANES: usize = 1;
    const SCALE: f64 = 0.0;
    const IS_ODD: bool = true;

    #[inline(always)]
    fn decode_singles<const BIG: bool>(bytes: &[u8], _: usize, singles: &mut [f32]) {
        for (single, &bytes) in singles.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *single = if BIG { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) };
        }
    }
}

/// How a row is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Single,
    Double,
    Listed,
}

/// Rows multiplied together over some blocks of a chunk.
#[derive(Debug, Clone, Copy)]
struct Group {
    way: Way,
    rows: [u32; GROUP_ROWS],
    count: usize,
    /// Blocks, or listed pixels.
    entries: (u32, u32),
    /// Number of the first weights: one for every block, of all rows, or for every pixel.
    weights: u32,
}

/// Rows of weights over a tile; pixels or blocks without weights are left out.
#[derive(Debug, Clone)]
pub(super) struct FloatRows {
    ways: Vec<Way>,
    single: Vec<[f32; BLOCK_PIXELS]>,
    four_singles: Vec<[[f32; BLOCK_PIXELS]; GROUP_ROWS]>,
    /// By half of a block: so many pixels are as wide a register as a block in single precision.
    double: Vec<[[f64; 4]; 2]>,
    four_doubles: Vec<[[[f64; 4]; GROUP_ROWS]; 2]>,
    /// Weights of listed pixels.
    listed: Vec<f64>,
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
    pub(super) fn of(weighted: &[Weighted<'_>], region: Region) -> Self {
        let pixel_count = if weighted.is_empty() { 0 } else { region.pixel_count() as usize };
        let is_single = |row: usize| weighted[row].is_single();
        Self::new(pixel_count, weighted.len(), is_single, |row, first, part| weighted[row].write_numbers(first, part))
    }

    /// `weights(row, first, part)` writes the weights of the pixels from `first` on, as far as there are pixels.
    fn new(
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
                let rows: Vec<(u32, Weights)> = rows.filter_map(with_weights).collect();
                let together = if way == Way::Listed { 1 } else { GROUP_ROWS };
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
            for (at, &weight) in (0..).zip(&rows[0].1).filter(|&(_, &weight)| weight != 0.0) {
                self.entries.push(at);
                self.listed.push(weight);
            }
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

    fn add_block(&mut self, way: Way, count: usize, four: &[[f64; BLOCK_PIXELS]; GROUP_ROWS]) {
        let singles = four.map(|row| row.map(|weight| weight as f32));
        let halves = [0, 1].map(|half| four.map(|row| row.as_chunks::<4>().0[half]));
        match (way, count) {
            (Way::Single, 1) => self.single.push(singles[0]),
            (Way::Single, _) => self.four_singles.push(singles),
            (_, 1) => self.double.push(halves.map(|[row, ..]| row)),
            _ => self.four_doubles.push(halves),
        }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.ways.len()
    }

    fn chunk_count(&self) -> usize {
        self.starts.len() - 1
    }

    #[inline(always)]
    fn groups(&self, chunk: usize) -> &[Group] {
        &self.groups[self.starts[chunk]..self.starts[chunk + 1]]
    }

    #[inline(always)]
    fn entries(&self, group: &Group) -> &[u16] {
        &self.entries[group.entries.0 as usize..group.entries.1 as usize]
    }

    /// Weight of a pixel of a chunk in the `number`-th row of a group.
    fn weight(&self, group: &Group, number: usize, pixel: usize) -> f64 {
        let (wanted, lane) =
            if group.way == Way::Listed { (pixel, 0) } else { (pixel / BLOCK_PIXELS, pixel % BLOCK_PIXELS) };
        let Ok(at) = self.entries(group).binary_search(&(wanted as u16)) else { return 0.0 };
        let at = group.weights as usize + at;
        match (group.way, group.count) {
            (Way::Single, 1) => f64::from(self.single[at][lane]),
            (Way::Single, _) => f64::from(self.four_singles[at][number][lane]),
            (Way::Double, 1) => self.double[at][lane / 4][lane % 4],
            (Way::Double, _) => self.four_doubles[at][lane / 4][number][lane % 4],
            (Way::Listed, _) => self.listed[at],
        }
    }
}

fn has_weights(part: &[f64]) -> bool {
    part.iter().any(|&weight| weight != 0.0)
}

/// Pixels of a chunk that have weights, and those of all blocks that have any.
fn fill_of(part: &Weights) -> (usize, usize) {
    let blocks = part.as_chunks::<BLOCK_PIXELS>().0.iter().filter(|block| has_weights(&block[..]));
    let used = part.iter().filter(|&&weight| weight != 0.0).count();
    (used, blocks.count() * BLOCK_PIXELS)
}

/// A chunk of one frame, decoded.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Piece([f32; CHUNK_PIXELS]);

impl Piece {
    #[inline(always)]
    fn block(&self, number: usize) -> &[f32; BLOCK_PIXELS] {
        &self.0.as_chunks().0[number % CHUNK_BLOCKS]
    }
}

/// The same chunk of eight frames, pixel by pixel.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Lanes([[f32; OCTET]; CHUNK_PIXELS]);

impl Lanes {
    #[inline(always)]
    fn of(&self, pixel: u16) -> &[f32; OCTET] {
        &self.0[pixel as usize % CHUNK_PIXELS]
    }
}

/// A pixel that cannot be added with others.
#[derive(Debug, Clone, Copy)]
struct Odd {
    lane: usize,
    pixel: usize,
    value: f32,
}

/// Sums of rows of weights over frames; scratch of one reducer.
#[derive(Debug)]
pub(super) struct FloatDots {
    pieces: Box<[Piece; OCTET]>,
    lanes: Box<Lanes>,
    odd: Vec<Odd>,
    /// Of rows that are multiplied along pixels, by octet, plane, row, frame.
    along: Vec<[f64; 4]>,
    /// Of listed rows, by octet, plane, row.
    listed: Vec<[f64; OCTET]>,
    /// By frame, row.
    totals: Vec<f64>,
    row_count: usize,
}

impl FloatDots {
    pub(super) fn new() -> Self {
        Self {
            pieces: Box::new([Piece([0.0; CHUNK_PIXELS]); OCTET]),
            lanes: Box::new(Lanes([[0.0; OCTET]; CHUNK_PIXELS])),
            odd: Vec::new(),
            along: Vec::new(),
            listed: Vec::new(),
            totals: Vec::new(),
            row_count: 0,
        }
    }

    /// Sum of a row over a frame; frames count from the last [`Self::clear`].
    pub(super) fn total(&self, frame: usize, row: usize) -> Exact {
        Exact::of(self.totals[frame * self.row_count + row])
    }

    /// Forgets all frames; the next ones are multiplied with such rows.
    pub(super) fn clear(&mut self, rows: &FloatRows) {
        self.row_count = rows.len();
        self.totals.clear();
    }

    /// Multiplies all rows with all frames of a stack, which come after those multiplied before.
    #[inline(always)]
    pub(super) fn multiply<P: Singles, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &FloatRows,
        stack: &Stack<'_>,
    ) {
        if rows.len() == 0 {
            return;
        }
        for positions in stack.positions.chunks(FRAMES) {
            let (stack, octets) = (Stack { positions, ..*stack }, positions.len().div_ceil(OCTET));
            self.along.clear();
            self.along.resize(octets * P::PLANES * rows.len() * OCTET, [0.0; 4]);
            self.listed.clear();
            self.listed.resize(octets * P::PLANES * rows.len(), [0.0; OCTET]);
            for chunk in 0..rows.chunk_count() {
                for octet in 0..octets {
                    self.multiply_chunk::<P, BIG>(vector, rows, &stack, (octet, chunk));
                }
            }
            self.finish::<P>(rows, positions.len());
        }
    }

    #[inline(always)]
    fn multiply_chunk<P: Singles, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &FloatRows,
        stack: &Stack<'_>,
        (octet, chunk): (usize, usize),
    ) {
        let groups = rows.groups(chunk);
        let Some(last) = groups.last() else { return };
        ask_for_next::<P>(vector, rows, stack, (octet, chunk));
        for plane in 0..P::PLANES {
            for lane in 0..OCTET {
                let start = chunk * CHUNK_PIXELS * P::BYTES;
                let bytes = stack.piece(octet * OCTET + lane, start, CHUNK_PIXELS * P::BYTES);
                P::decode_singles::<BIG>(bytes, plane, &mut self.pieces[lane].0);
            }
            if P::IS_ODD {
                self.set_odd_apart();
            }
            if last.way == Way::Listed {
                self.transpose(vector);
            }
            let first_row = (octet * P::PLANES + plane) * rows.len();
            for group in groups {
                self.multiply_group(vector, rows, group, first_row);
            }
            if !self.odd.is_empty() {
                self.add_odd(rows, groups, first_row);
            }
        }
    }

    /// Takes pixels out that cannot be added with others (I2).
    #[inline(always)]
    fn set_odd_apart(&mut self) {
        for (lane, piece) in self.pieces.iter_mut().enumerate() {
            let is_plain = |single: &f32| single.abs() < LARGEST;
            if piece.0.iter().fold(true, |all, single| all & is_plain(single)) {
                continue;
            }
            for (pixel, single) in piece.0.iter_mut().enumerate().filter(|(_, single)| !is_plain(single)) {
                self.odd.push(Odd { lane, pixel, value: std::mem::take(single) });
            }
        }
    }

    #[cold]
    fn add_odd(&mut self, rows: &FloatRows, groups: &[Group], first_row: usize) {
        for Odd { lane, pixel, value } in self.odd.drain(..) {
            for group in groups {
                for number in 0..group.count {
                    let row = first_row + group.rows[number] as usize;
                    let weight = rows.weight(group, number, pixel);
                    if weight == 0.0 {
                        continue;
                    }
                    match group.way {
                        Way::Listed => self.listed[row][lane] += weight * f64::from(value),
                        _ => self.along[row * OCTET + lane][0] += weight * f64::from(value),
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn transpose(&mut self, vector: impl Multiply) {
        for block in 0..CHUNK_PIXELS / OCTET {
            // One by one: a closure might be left out of the function that has the vector instructions.
            let pieces = &*self.pieces;
            let mut rows = [pieces[0].block(block); OCTET];
            for (row, piece) in rows.iter_mut().zip(pieces) {
                *row = piece.block(block);
            }
            vector.transpose(rows, &mut self.lanes.0.as_chunks_mut::<OCTET>().0[block]);
        }
    }

    #[inline(always)]
    fn multiply_group<V: Multiply>(&mut self, vector: V, rows: &FloatRows, group: &Group, first_row: usize) {
        if group.way == Way::Listed {
            let sums = &mut self.listed[first_row + group.rows[0] as usize];
            let weights = &rows.listed[group.weights as usize..];
            return multiply_listed(vector, rows.entries(group), weights, &self.lanes, sums);
        }
        let at = first_row + group.rows[0] as usize;
        let (entries, first) = (rows.entries(group), group.weights as usize);
        if group.count == 1 {
            let sums = &mut self.along[at * OCTET..][..OCTET];
            match group.way {
                Way::Single => multiply_single(vector, entries, &rows.single[first..], &self.pieces, sums),
                _ => multiply_double(vector, entries, &rows.double[first..], &self.pieces, sums),
            }
            return;
        }
        let mut sums = [[[0.0; 4]; GROUP_ROWS]; OCTET];
        match group.way {
            Way::Single => multiply_four_singles(vector, entries, &rows.four_singles[first..], &self.pieces, &mut sums),
            _ => multiply_four_doubles(vector, entries, &rows.four_doubles[first..], &self.pieces, &mut sums),
        }
        for (number, &row) in group.rows[..group.count].iter().enumerate() {
            let at = (first_row + row as usize) * OCTET;
            for (into, sums) in self.along[at..][..OCTET].iter_mut().zip(&sums) {
                for (into, sum) in into.iter_mut().zip(sums[number]) {
                    *into += sum;
                }
            }
        }
    }

    /// Joins lanes and planes of the sums of so many frames.
    fn finish<P: Singles>(&mut self, rows: &FloatRows, frame_count: usize) {
        for frame in 0..frame_count {
            for (row, &way) in rows.ways.iter().enumerate() {
                let of_plane = |plane: usize| {
                    let row = (frame / OCTET * P::PLANES + plane) * rows.len() + row;
                    let [a, b, c, d] = self.along[row * OCTET + frame % OCTET];
                    if way == Way::Listed { self.listed[row][frame % OCTET] } else { (a + b) + (c + d) }
                };
                let total = if P::PLANES == 1 { of_plane(0) } else { of_plane(1).mul_add(P::SCALE, of_plane(0)) };
                self.totals.push(total);
            }
        }
    }
}

/// Asks memory for the chunk of eight frames that comes next.
#[inline(always)]
fn ask_for_next<P: Singles>(
    vector: impl Multiply,
    rows: &FloatRows,
    stack: &Stack<'_>,
    (octet, chunk): (usize, usize),
) {
    let is_last = (octet + 1) * OCTET >= stack.positions.len();
    let (octet, chunk) = if is_last { (0, chunk + 1) } else { (octet + 1, chunk) };
    if chunk == rows.chunk_count() {
        return;
    }
    for lane in 0..OCTET {
        let start = chunk * CHUNK_PIXELS * P::BYTES;
        let bytes = stack.piece(octet * OCTET + lane, start, CHUNK_PIXELS * P::BYTES);
        bytes.iter().step_by(LINE).for_each(|byte| vector.prefetch(byte));
    }
}

/// Adds products of the blocks of one row with eight frames, in single precision.
#[inline(always)]
fn multiply_single<V: Multiply>(
    vector: V,
    entries: &[u16],
    weights: &[[f32; BLOCK_PIXELS]],
    pieces: &[Piece; OCTET],
    sums: &mut [[f64; 4]],
) {
    for (pieces, sums) in pieces.as_chunks::<OCTET>().0.iter().zip(sums.as_chunks_mut::<OCTET>().0) {
        let mut lanes = [vector.no_single(); OCTET];
        for (&block, weights) in entries.iter().zip(weights) {
            for (frame, piece) in pieces.iter().enumerate() {
                let pixels = piece.block(block as usize);
                lanes[frame] = vector.add_single(lanes[frame], pixels, weights);
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            for (sum, lane) in sums.iter_mut().zip(vector.fold_single(lanes)) {
                *sum += lane;
            }
        }
    }
}

/// The same of four rows.
#[inline(always)]
fn multiply_four_singles<V: Multiply>(
    vector: V,
    entries: &[u16],
    weights: &[[[f32; BLOCK_PIXELS]; GROUP_ROWS]],
    pieces: &[Piece; OCTET],
    sums: &mut [[[f64; 4]; GROUP_ROWS]; OCTET],
) {
    for (pieces, sums) in pieces.as_chunks::<ABREAST>().0.iter().zip(sums.as_chunks_mut::<ABREAST>().0) {
        let mut lanes = [vector.no_four_singles(); ABREAST];
        for (&block, weights) in entries.iter().zip(weights) {
            for (frame, piece) in pieces.iter().enumerate() {
                let pixels = piece.block(block as usize);
                lanes[frame] = vector.add_four_singles(lanes[frame], pixels, weights);
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            *sums = vector.fold_four_singles(lanes);
        }
    }
}

/// Adds products of the blocks of one row with eight frames, in double precision.
#[inline(always)]
fn multiply_double<V: Multiply>(
    vector: V,
    entries: &[u16],
    weights: &[[[f64; 4]; 2]],
    pieces: &[Piece; OCTET],
    sums: &mut [[f64; 4]],
) {
    for (pieces, sums) in pieces.as_chunks::<OCTET>().0.iter().zip(sums.as_chunks_mut::<OCTET>().0) {
        let mut lanes = [vector.no_double(); OCTET];
        for (&block, weights) in entries.iter().zip(weights) {
            for (half, weights) in weights.iter().enumerate() {
                for (frame, piece) in pieces.iter().enumerate() {
                    let pixels = piece.block(block as usize);
                    lanes[frame] = vector.add_double(lanes[frame], &pixels.as_chunks::<4>().0[half], weights);
                }
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            for (sum, lane) in sums.iter_mut().zip(vector.fold_double(lanes)) {
                *sum += lane;
            }
        }
    }
}

/// The same of four rows.
#[inline(always)]
fn multiply_four_doubles<V: Multiply>(
    vector: V,
    entries: &[u16],
    weights: &[[[[f64; 4]; GROUP_ROWS]; 2]],
    pieces: &[Piece; OCTET],
    sums: &mut [[[f64; 4]; GROUP_ROWS]; OCTET],
) {
    for (pieces, sums) in pieces.as_chunks::<ABREAST>().0.iter().zip(sums.as_chunks_mut::<ABREAST>().0) {
        let mut lanes = [vector.no_four_doubles(); ABREAST];
        for (&block, weights) in entries.iter().zip(weights) {
            for (half, weights) in weights.iter().enumerate() {
                for (frame, piece) in pieces.iter().enumerate() {
                    let pixels = piece.block(block as usize);
                    lanes[frame] = vector.add_four_doubles(lanes[frame], &pixels.as_chunks::<4>().0[half], weights);
                }
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            *sums = vector.fold_four_doubles(lanes);
        }
    }
}

/// Adds products of single pixels of eight frames: those at even and odd places of the list apart, so that no addition waits for
/// the last one.
#[inline(always)]
fn multiply_listed<V: Multiply>(vector: V, entries: &[u16], weights: &[f64], lanes: &Lanes, sums: &mut [f64; OCTET]) {
    let (mut even, mut odd) = (vector.eight(&[0.0; OCTET]), vector.eight(&[0.0; OCTET]));
    let (pairs, rest) = entries.as_chunks::<2>();
    let weight_pairs = weights.as_chunks::<2>().0;
    for (&[a, b], &[first, second]) in pairs.iter().zip(weight_pairs) {
        even = vector.add_eight(even, lanes.of(a), first);
        odd = vector.add_eight(odd, lanes.of(b), second);
    }
    for (&a, &weight) in rest.iter().zip(&weights[2 * pairs.len()..]) {
        even = vector.add_eight(even, lanes.of(a), weight);
    }
    vector.fold_eight(even, sums);
    vector.fold_eight(odd, sums);
}

#[cfg(test)]
mod tests {
    use super::super::vector::Machine;
    use super::*;
    use proptest::prelude::*;

    struct Work<'a, P, V> {
        dots: &'a mut FloatDots,
        vector: V,
        rows: &'a FloatRows,
        stack: Stack<'a>,
        pixel: std::marker::PhantomData<P>,
    }

    impl<P: Singles, V: Multiply> pulp::NullaryFnOnce for Work<'_, P, V> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.dots.clear(self.rows);
            self.dots.multiply::<P, true>(self.vector, self.rows, &self.stack);
        }
    }

    fn run<P: Singles>(machine: Machine, rows: &FloatRows, stack: Stack<'_>) -> Vec<f64> {
        let (mut made, pixel) = (FloatDots::new(), std::marker::PhantomData::<P>);
        let dots = &mut made;
        match machine {
            Machine::Plain(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
            #[cfg(target_arch = "x86_64")]
            Machine::Vnni(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
        }
        made.totals
    }

    /// Rows of all kinds: so many in single precision, so many in double, and one of which few pixels have weights.
    fn weights(pixel_count: usize, seed: u64, (singles, doubles): (usize, usize)) -> Vec<Vec<f64>> {
        let mut state = seed | 1;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / 2.0_f64.powi(52) - 1.0
        };
        let mut rows: Vec<Vec<f64>> = Vec::new();
        rows.extend((0..singles).map(|_| (0..pixel_count).map(|_| f64::from(next() as f32)).collect()));
        rows.extend((0..doubles).map(|row| {
            let is_in = |at: usize| row % 2 == 0 || (300..700).contains(&at);
            (0..pixel_count).map(|at| if is_in(at) { next() / 3.0 } else { 0.0 }).collect()
        }));
        rows.push((0..pixel_count).map(|at| if at % 11 == 3 { next() } else { 0.0 }).collect());
        rows
    }

    /// Compares with sums made one by one, in double precision; the same bits on everything the processor can do, and for every
    /// frame by itself.
    fn check<P: Singles>(frames: &[Vec<f64>], counts: (usize, usize), seed: u64, bytes_of: impl Fn(f64) -> Vec<u8>) {
        let pixel_count = frames[0].len();
        let weights = weights(pixel_count, seed, counts);
        let rows = FloatRows::new(
            pixel_count,
            weights.len(),
            |row| row < counts.0,
            |row, first, part| {
                part.copy_from_slice(&weights[row][first..][..part.len()]);
            },
        );
        assert_eq!(rows.ways.iter().filter(|&&way| way == Way::Single).count(), counts.0);
        let bytes: Vec<u8> = frames.iter().flatten().flat_map(|&pixel| bytes_of(pixel)).collect();
        let (frame_bytes, positions) = (pixel_count * P::BYTES, (0..frames.len()).collect::<Vec<_>>());
        let stack = Stack { bytes: &bytes, frame_bytes, positions: &positions };
        let best = run::<P>(Machine::best(), &rows, stack);
        for machine in Machine::all() {
            let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same(&run::<P>(machine, &rows, stack), &best), "{machine:?}");
            for frame in [0, frames.len() / 2] {
                let alone = run::<P>(machine, &rows, Stack { positions: &positions[frame..=frame], ..stack });
                assert!(same(&alone, &best[frame * weights.len()..][..weights.len()]), "{machine:?}, frame {frame}");
            }
        }
        for (frame, totals) in frames.iter().zip(best.chunks(weights.len())) {
            for (row, (weights, &total)) in weights.iter().zip(totals).enumerate() {
                let products = || weights.iter().zip(frame).filter(|&(&w, _)| w != 0.0).map(|(w, pixel)| w * pixel);
                let (want, magnitude): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                let tolerance = if row < counts.0 { 2e-6 } else { 1e-12 };
                // Single precision has no numbers below.
                let least = if row < counts.0 { f64::from(f32::MIN_POSITIVE) } else { 0.0 };
                let is_near = (want - total).abs() <= tolerance * magnitude + least;
                assert!(
                    is_near || total.to_bits() == want.to_bits() || total.is_nan() && want.is_nan(),
                    "row {row}: {total}, not {want}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Any number of frames, pixels and rows, all pixel types.
        #[test]
        fn as_one_by_one(
            pixel_count in 1_usize..1200,
            frame_count in 1_usize..40,
            singles in 0_usize..7,
            doubles in 0_usize..7,
            seed in any::<u64>(),
        ) {
            let number = |frame: usize, at: usize| ((frame * 1009 + at) as u32).wrapping_mul(2_654_435_761) ^ seed as u32;
            let frames = |bits: u32| -> Vec<Vec<f64>> {
                let frame = |frame| (0..pixel_count).map(|at| f64::from(number(frame, at) >> (32 - bits))).collect();
                (0..frame_count).map(frame).collect()
            };
            // So small a row may be listed, whatever its weights are.
            prop_assume!(singles == 0 || pixel_count >= 8);
            check::<u8>(&frames(8), (singles, doubles), seed, |pixel| vec![pixel as u8]);
            check::<u16>(&frames(16), (singles, doubles), seed, |pixel| (pixel as u16).to_be_bytes().to_vec());
            check::<u32>(&frames(32), (singles, doubles), seed, |pixel| (pixel as u32).to_be_bytes().to_vec());
            check::<f32>(&frames(24), (singles, doubles), seed, |pixel| (pixel as f32).to_be_bytes().to_vec());
        }
    }

    /// What is not a number spoils the sums that it has a weight in, and no others; the largest numbers add up.
    #[test]
    fn odd_numbers() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::from_bits(1), -0.0] {
            let mut frames = vec![vec![1.5; 900]; 11];
            for at in [3, 301, 699, 850] {
                frames[2][at] = f64::from(odd);
            }
            frames[10] = vec![f64::from(odd); 900];
            check::<f32>(&frames, (5, 4), 7, |pixel| (pixel as f32).to_be_bytes().to_vec());
        }
    }
}
