//! The kernel for weighted sums in floating point: real weights on any pixels, and any weights on floating point pixels.
//!
//! # Place in the path
//! Called once per block by [`super::kernel`] and [`super::kernel_f32`], inside one dispatch on what the
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

mod rows;

use super::dot::{LINE, OCTET, Stack};
use super::exact::Exact;
use super::vector::Multiply;
pub(super) use rows::FloatRows;
use rows::{Group, Way};

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
mod tests;
