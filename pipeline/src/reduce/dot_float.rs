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
//! the same sets of the first-level cache, because frames of common sizes are multiples of 4 KiB apart. Integer pixels of sixteen frames
//! are copied together first, for all that [`super::lanes`] makes of them ([`ListedSums`]).

mod listed;
mod pieces;
mod rows;

use super::dot::{OCTET, Stack};
use super::exact::Exact;
use super::vector::Multiply;
pub(super) use listed::ListedSums;
pub(super) use pieces::Singles;
use pieces::{Ahead, Piece, Pieces, Place, Room, largest_bits};
pub(super) use rows::FloatRows;
use rows::{Aligned, Group, LISTED_STEP, Way};

/// Pixels of a block.
const BLOCK_PIXELS: usize = 8;
/// Blocks in a chunk: what is read of eight frames at a time, and the weights of some rows, stay in the first-level cache.
const CHUNK_BLOCKS: usize = 32;
const CHUNK_PIXELS: usize = CHUNK_BLOCKS * BLOCK_PIXELS;
/// Frames multiplied with the weights of a chunk before the next chunk has its turn: weights of many rows come from afar.
const FRAMES: usize = 32;
/// Rows multiplied together.
const GROUP_ROWS: usize = 4;
/// Frames multiplied with four rows at a time: as many sums as it takes that none waits for the one before.
const ABREAST: usize = 2;
/// Groups whose weights stay in the first-level cache.
const NEAR_GROUPS: usize = 4;
/// Blocks multiplied between two requests to memory.
const STEP: usize = 8;
/// Sums of single precision do not overflow below: larger pixels are added one by one.
const LARGEST: f32 = 1.2e30;

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
    rooms: Box<[Room; OCTET]>,
    singles: Box<[[[f32; BLOCK_PIXELS]; CHUNK_BLOCKS]; OCTET]>,
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
            rooms: Box::new([Room([0; CHUNK_PIXELS * size_of::<f32>()]); OCTET]),
            singles: Box::new([[[0.0; BLOCK_PIXELS]; CHUNK_BLOCKS]; OCTET]),
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

    /// Sets the sum of a listed row over a frame.
    fn set_total(&mut self, frame: usize, row: usize, total: f64) {
        self.totals[frame * self.row_count + row] = total;
    }

    /// Multiplies all rows, or all but the listed ones, with all frames of a stack, which come after those multiplied before.
    #[inline(always)]
    pub(super) fn multiply<P: Singles, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &FloatRows,
        stack: &Stack<'_>,
        with_listed: bool,
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
                    let place = Place { octet, chunk };
                    let listed = if with_listed { rows.listed_groups(chunk) } else { &[] };
                    self.multiply_chunk::<P, BIG>(vector, rows, &stack, place, listed);
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
        place: Place,
        listed: &[Group],
    ) {
        let Place { octet, chunk } = place;
        let groups = rows.groups(chunk);
        let along = &groups[..groups.len() - rows.listed_groups(chunk).len()];
        if along.is_empty() && listed.is_empty() {
            return;
        }
        let (has_fours, has_ones) =
            (along.iter().any(|group| group.count > 1), along.iter().any(|group| group.count == 1));
        let count = stack.positions.len() - octet * OCTET;
        let first_row = |plane: usize| (octet * P::PLANES + plane) * rows.len();
        let mut used = 0;
        for batch in 0..along.len().div_ceil(NEAR_GROUPS).max(1) {
            let groups = &along[batch * NEAR_GROUPS..along.len().min((batch + 1) * NEAR_GROUPS)];
            for first in (0..OCTET).step_by(ABREAST) {
                if batch == 0 && (P::IS_ODD || !place.is_whole::<P>(stack)) {
                    used |= self.take_rooms::<P, BIG>(stack, place, first);
                }
                if first >= count || !has_fours {
                    continue;
                }
                let pieces = Pieces::<P, BIG, ABREAST>::new(stack, place, first, (&self.rooms, used));
                // Only half of an octet: more would meet in the same sets of a cache.
                let mut ahead =
                    if batch == 0 { place.ahead::<P, _>(rows, stack, first + OCTET / 2) } else { Default::default() };
                for group in groups.iter().filter(|group| group.count > 1) {
                    for plane in 0..P::PLANES {
                        let along = &mut self.along[first_row(plane) * OCTET + first..];
                        pieces.multiply_four(vector, rows, (group, plane), std::mem::take(&mut ahead), along);
                    }
                }
            }
        }
        if has_ones || !listed.is_empty() {
            let ahead = if has_fours { Ahead::default() } else { place.ahead::<P, _>(rows, stack, OCTET) };
            self.multiply_octet::<P, BIG>(vector, rows, stack, (place, used), (along, listed), ahead);
        }
        if !self.odd.is_empty() {
            self.add_odd(rows, groups, first_row(0));
        }
    }

    /// Rows that are multiplied with eight frames at a time.
    #[inline(always)]
    fn multiply_octet<P: Singles, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &FloatRows,
        stack: &Stack<'_>,
        (place, used): (Place, u32),
        (along, listed): (&[Group], &[Group]),
        mut ahead: Ahead<'_, OCTET>,
    ) {
        let first_row = |plane: usize| (place.octet * P::PLANES + plane) * rows.len();
        let pieces = Pieces::<P, BIG, OCTET>::new(stack, place, 0, (&self.rooms, used));
        for plane in 0..P::PLANES {
            for group in along.iter().filter(|group| group.count == 1) {
                let sums = &mut self.along[(first_row(plane) + group.rows[0] as usize) * OCTET..][..OCTET];
                pieces.multiply_one(vector, rows, (group, plane), std::mem::take(&mut ahead), sums);
            }
            if !listed.is_empty() {
                pieces.transpose(vector, plane, std::mem::take(&mut ahead), (&mut self.singles, &mut self.lanes));
                for group in listed {
                    let sums = &mut self.listed[first_row(plane) + group.rows[0] as usize];
                    let weights = &rows.listed[group.weights as usize..];
                    multiply_listed(vector, rows.entries(group), weights, &self.lanes, sums);
                }
            }
        }
    }

    /// Copies the pieces of [`ABREAST`] lanes that are shorter than a chunk, or have pixels that cannot be added with others, and takes
    /// those out (I2). Bit `i` of what it returns says whether that of lane `i` was copied.
    #[inline(always)]
    fn take_rooms<P: Singles, const BIG: bool>(&mut self, stack: &Stack<'_>, place: Place, first: usize) -> u32 {
        let mut used = 0;
        for lane in first..first + ABREAST {
            let piece = place.whole_piece::<P>(stack, lane);
            if piece.is_some_and(|piece| !P::IS_ODD || largest_bits::<P, BIG>(piece) < LARGEST.to_bits()) {
                continue;
            }
            used |= 1 << lane;
            let bytes = place.piece::<P>(stack, lane);
            let room = &mut self.rooms[lane].0;
            room[bytes.len()..].fill(0);
            room[..bytes.len()].copy_from_slice(bytes);
            if P::IS_ODD {
                self.set_odd_apart::<P, BIG>(lane);
            }
        }
        used
    }

    #[cold]
    fn set_odd_apart<P: Singles, const BIG: bool>(&mut self, lane: usize) {
        let bytes = size_of::<P::Bytes>();
        let piece: Piece<P> = *self.rooms[lane].piece::<P>();
        for (pixel, &of_pixel) in piece.as_flattened().iter().enumerate() {
            let value = P::single::<BIG>(of_pixel, 0);
            let is_plain = value.abs() < LARGEST; // NaN is not.
            if !is_plain {
                self.odd.push(Odd { lane, pixel, value });
                self.rooms[lane].0[pixel * bytes..][..bytes].fill(0);
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

impl<P: Singles, const BIG: bool> Pieces<'_, P, BIG, ABREAST> {
    /// Adds products of four rows to sums by row, frame of eight.
    #[inline(always)]
    fn multiply_four(
        &self,
        vector: impl Multiply,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, ABREAST>,
        along: &mut [[f64; 4]],
    ) {
        let mut sums = [[[0.0; 4]; GROUP_ROWS]; ABREAST];
        match group.way {
            Way::Single => self.multiply_four_singles(vector, rows, (group, plane), ahead, &mut sums),
            _ => self.multiply_four_doubles(vector, rows, (group, plane), ahead, &mut sums),
        }
        for (number, &row) in group.rows[..group.count].iter().enumerate() {
            for (frame, sums) in sums.iter().enumerate() {
                let into = &mut along[row as usize * OCTET + frame];
                for (into, sum) in into.iter_mut().zip(sums[number]) {
                    *into += sum;
                }
            }
        }
    }

    #[inline(always)]
    fn multiply_four_singles<V: Multiply>(
        &self,
        vector: V,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, ABREAST>,
        sums: &mut [[[f64; 4]; GROUP_ROWS]; ABREAST],
    ) {
        let mut lanes = [vector.no_four_singles(); ABREAST];
        let entries = rows.entries(group);
        let weights = &rows.four_singles[group.weights as usize..][..entries.len()];
        if let Some(weights) = weights.first_chunk::<CHUNK_BLOCKS>() {
            // The same without the list of blocks is faster.
            for (step, weights) in weights.as_chunks::<STEP>().0.iter().enumerate() {
                ahead.ask::<P>(vector, step);
                for (at, weights) in weights.iter().enumerate() {
                    self.add_four_singles(vector, &mut lanes, (step * STEP + at, plane), weights);
                }
            }
        } else {
            ahead.ask_all::<P>(vector);
            for (&block, weights) in entries.iter().zip(weights) {
                self.add_four_singles(vector, &mut lanes, (block.into(), plane), weights);
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            *sums = vector.fold_four_singles(lanes);
        }
    }

    #[inline(always)]
    fn add_four_singles<V: Multiply>(
        &self,
        vector: V,
        lanes: &mut [V::FourSingles; ABREAST],
        (block, plane): (usize, usize),
        Aligned(weights): &Aligned<[[f32; BLOCK_PIXELS]; GROUP_ROWS]>,
    ) {
        for (frame, lanes) in lanes.iter_mut().enumerate() {
            *lanes = vector.add_four_singles(*lanes, &self.block(frame, block, plane), weights);
        }
    }

    #[inline(always)]
    fn multiply_four_doubles<V: Multiply>(
        &self,
        vector: V,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, ABREAST>,
        sums: &mut [[[f64; 4]; GROUP_ROWS]; ABREAST],
    ) {
        let mut lanes = [vector.no_four_doubles(); ABREAST];
        let entries = rows.entries(group);
        let weights = &rows.four_doubles[group.weights as usize..][..entries.len()];
        ahead.ask_all::<P>(vector);
        for (&block, Aligned(weights)) in entries.iter().zip(weights) {
            for (frame, lanes) in lanes.iter_mut().enumerate() {
                let pixels = self.block(frame, block.into(), plane);
                for (pixels, weights) in pixels.as_chunks::<4>().0.iter().zip(weights) {
                    *lanes = vector.add_four_doubles(*lanes, pixels, weights);
                }
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            *sums = vector.fold_four_doubles(lanes);
        }
    }
}

impl<P: Singles, const BIG: bool> Pieces<'_, P, BIG, OCTET> {
    /// Adds products of one row to the sums of the frames.
    #[inline(always)]
    fn multiply_one<V: Multiply>(
        &self,
        vector: V,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, OCTET>,
        sums: &mut [[f64; 4]],
    ) {
        match group.way {
            Way::Single => self.multiply_single(vector, rows, (group, plane), ahead, sums),
            _ => self.multiply_double(vector, rows, (group, plane), ahead, sums),
        }
    }

    #[inline(always)]
    fn multiply_single<V: Multiply>(
        &self,
        vector: V,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, OCTET>,
        sums: &mut [[f64; 4]],
    ) {
        let mut lanes = [vector.no_single(); OCTET];
        let weights = &rows.single[group.weights as usize..];
        ahead.ask_all::<P>(vector);
        for (&block, Aligned(weights)) in rows.entries(group).iter().zip(weights) {
            for (frame, lanes) in lanes.iter_mut().enumerate() {
                *lanes = vector.add_single(*lanes, &self.block(frame, block.into(), plane), weights);
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            for (sum, lane) in sums.iter_mut().zip(vector.fold_single(lanes)) {
                *sum += lane;
            }
        }
    }

    #[inline(always)]
    fn multiply_double<V: Multiply>(
        &self,
        vector: V,
        rows: &FloatRows,
        (group, plane): (&Group, usize),
        ahead: Ahead<'_, OCTET>,
        sums: &mut [[f64; 4]],
    ) {
        let mut lanes = [vector.no_double(); OCTET];
        let weights = &rows.double[group.weights as usize..];
        ahead.ask_all::<P>(vector);
        for (&block, Aligned(weights)) in rows.entries(group).iter().zip(weights) {
            for (frame, lanes) in lanes.iter_mut().enumerate() {
                let pixels = self.block(frame, block.into(), plane);
                for (pixels, weights) in pixels.as_chunks::<4>().0.iter().zip(weights) {
                    *lanes = vector.add_double(*lanes, pixels, weights);
                }
            }
        }
        for (lanes, sums) in lanes.into_iter().zip(sums) {
            for (sum, lane) in sums.iter_mut().zip(vector.fold_double(lanes)) {
                *sum += lane;
            }
        }
    }

    /// Lays the frames side by side.
    #[inline(always)]
    fn transpose(
        &self,
        vector: impl Multiply,
        plane: usize,
        ahead: Ahead<'_, OCTET>,
        (singles, lanes): (&mut [[[f32; BLOCK_PIXELS]; CHUNK_BLOCKS]; OCTET], &mut Lanes),
    ) {
        ahead.ask_all::<P>(vector);
        // One frame after the other: the same pixels of eight frames meet in the same sets of a cache.
        for (piece, singles) in self.0.iter().zip(&mut *singles) {
            for (single, &bytes) in singles.as_flattened_mut().iter_mut().zip(piece.as_flattened()) {
                *single = P::single::<BIG>(bytes, plane);
            }
        }
        for (block, columns) in lanes.0.as_chunks_mut::<OCTET>().0.iter_mut().enumerate() {
            // A loop: a closure might be left out of the function that has the vector instructions.
            let mut rows = [&singles[0][block]; OCTET];
            for (row, singles) in rows.iter_mut().zip(&*singles) {
                *row = &singles[block];
            }
            vector.transpose(rows, columns);
        }
    }
}

/// Adds products of single pixels of eight frames: those at even and odd places of the list apart, so that no addition waits for
/// the last one.
#[inline(always)]
fn multiply_listed<V: Multiply>(vector: V, entries: &[u16], weights: &[f64], lanes: &Lanes, sums: &mut [f64; OCTET]) {
    let (mut even, mut odd) = (vector.eight(&[0.0; OCTET]), vector.eight(&[0.0; OCTET]));
    let weights = weights.as_chunks::<LISTED_STEP>().0;
    for (&[a, b, c, d], &[first, second, third, fourth]) in entries.as_chunks::<LISTED_STEP>().0.iter().zip(weights) {
        even = vector.add_eight(even, lanes.of(a), first);
        odd = vector.add_eight(odd, lanes.of(b), second);
        even = vector.add_eight(even, lanes.of(c), third);
        odd = vector.add_eight(odd, lanes.of(d), fourth);
    }
    vector.fold_eight(even, sums);
    vector.fold_eight(odd, sums);
}

#[cfg(test)]
mod tests;
