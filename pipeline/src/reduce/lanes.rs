//! The kernel for sums under binary masks and for patterns, of integer pixels: sixteen frames side by side in the lanes of a register.
//!
//! # Place in the path
//! Called by [`super::kernel`] for sixteen frames at a time, inside one dispatch on what the processor can do. [`super::stage`] brings the
//! frames; [`super::partition`] says which pixels are added, [`super::pattern_sums`] what is accumulated over frames.
//!
//! # Invariants
//! - I1: everything is an integer and in range, so sums are exact, in whatever order they are made.
//!
//! # Units
//! Pixels are taken byte by byte: bytes that are 0 in all pixels of a piece, as the high ones of counts mostly are, cost nothing. Pairs of
//! pixels beside each other are bytes of one 16-bit lane, a lane is a frame.
//!
//! # Why this way
//! With frames in lanes a pixel goes to its sum by an addition, wherever it lies and however short the runs of a mask are; masks
//! that cut each other are a partition, and each pixel is added once for all of them. Two pixels of sixteen frames are one multiplication
//! of bytes (by 0 and 1) and one addition: turning frames into lanes ends one step early, so that pairs stay together. Loops that depend
//! on the masks have four pairs in each step, because an end that comes as a surprise costs as much as twenty additions.

use std::collections::BTreeSet;

use super::dot::Stack;
use super::dot_float::{FloatDots, FloatRows, ListedSums};
use super::kernel::Pixel;
use super::partition::{BLOCK_PAIRS, ColumnSum, PAIRS, Partition, Wanted};
use super::pattern_sums::{Add, PatternSums};
use super::patterns::Patterns;
use super::stage::{FRAMES, Feeder, PIECE_PIXELS, Piece, Plane};
use super::vector::{Bytes, Multiply, cast, place_of, transpose};

/// Aligned like registers.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Aligned<T>(T);

/// What is summed frame by frame: a partition, if masks have one, and rows of real weights that are listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) partition: Option<&'a Partition>,
    pub(super) rows: &'a FloatRows,
}

/// Sums of sixteen frames; scratch of one reducer.
#[derive(Debug)]
pub(super) struct Lanes {
    pieces: [Piece; 2],
    /// Numbers of all pieces of a frame, and of those that any column has pixels of.
    every: Vec<u32>,
    wanted: Vec<u32>,
    /// Pairs of a piece; the one after the last is 0.
    pairs: Box<Aligned<[Bytes; 2 * PAIRS]>>,
    /// By set of the piece: lanes of 16 bits.
    near: Box<Aligned<[Bytes; PIECE_PIXELS]>>,
    /// By byte, set: lanes of 32 bits, at the places of [`place_of`].
    sums: Vec<[Bytes; 2]>,
    /// The same of the moments of a piece, by mask, row and column.
    near_moments: Vec<[[Bytes; 2]; 2]>,
    /// By byte, mask, row and column.
    moments: Vec<[[i64; FRAMES]; 2]>,
    listed: ListedSums,
}

/// Which bytes of 16-bit pixels: the low ones where all others are 0, the low ones, the high ones.
const ONLY: u8 = 0;
const LOW: u8 = 1;
const HIGH: u8 = 2;

impl Lanes {
    pub(super) fn new<P: Pixel>(pixel_count: usize, Columns { partition, rows }: Columns<'_>) -> Self {
        let pieces = partition.map_or(&[][..], |partition| &partition.pieces);
        let of_sets = (0..).zip(pieces).filter(|(_, wanted)| !wanted.is_empty()).map(|(number, _)| number);
        let wanted: BTreeSet<u32> = of_sets.chain(rows.listed_chunks()).collect();
        let (set_count, moment_count) =
            partition.map_or((0, 0), |partition| (partition.set_count, partition.moment_count));
        Self {
            pieces: [Piece::new::<P>(), Piece::new::<P>()],
            every: (0..pixel_count.div_ceil(PIECE_PIXELS) as u32).collect(),
            wanted: wanted.into_iter().collect(),
            pairs: Box::new(Aligned([[0; 32]; 2 * PAIRS])),
            near: Box::new(Aligned([[0; 32]; PIECE_PIXELS])),
            sums: vec![[[0; 32]; 2]; P::BYTES * set_count],
            near_moments: vec![[[[0; 32]; 2]; 2]; moment_count],
            moments: vec![[[0; FRAMES]; 2]; P::BYTES * moment_count],
            listed: ListedSums::new::<P>(rows),
        }
    }

    /// Adds up to sixteen frames to patterns, if there are any, and to the sums of columns, if there are any, which
    /// [`Self::finish`] then takes.
    pub(super) fn add<P: Pixel, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        stack: Stack<'_>,
        mut over: Option<(&mut PatternSums<P>, &mut Patterns)>,
        columns: Option<Columns<'_>>,
    ) {
        if over.is_none() && columns.is_none() {
            return;
        }
        let numbers = std::mem::take(if over.is_some() { &mut self.every } else { &mut self.wanted });
        let mut pieces = std::mem::take(&mut self.pieces);
        let [ready, next] = &mut pieces;
        let (mut ready, frame_count) = (ready, stack.positions.len());
        let mut feeder = Feeder::new::<P, BIG>(vector, stack, &numbers, next);
        for &number in &numbers {
            let number = number as usize;
            feeder.complete(&mut ready);
            if let Some((sums, patterns)) = &mut over {
                let (first, feeder) = (number * PIECE_PIXELS, &mut feeder);
                vector.run(Add { sums, vector, piece: ready, frame_count, first, patterns, feeder });
            }
            if let Some(columns) = columns {
                vector.run(Sums { lanes: self, vector, piece: ready, number, columns, feeder: &mut feeder });
            }
        }
        self.pieces = pieces;
        *(if over.is_some() { &mut self.every } else { &mut self.wanted }) = numbers;
    }

    /// Adds a piece to all sums.
    #[inline(always)]
    fn add_piece<V: Multiply>(
        &mut self,
        vector: V,
        piece: &Piece,
        (partition, wanted): (&Partition, &Wanted),
        feeder: &mut Feeder<'_, V>,
    ) {
        for (number, (plane, &largest)) in piece.planes.iter().zip(&piece.largest).enumerate() {
            let byte = 2 * number;
            if largest >= 256 {
                self.turn::<V, LOW>(vector, plane, wanted, feeder);
                self.add_byte(vector, (partition, wanted), byte, feeder);
                self.turn::<V, HIGH>(vector, plane, wanted, feeder);
                self.add_byte(vector, (partition, wanted), byte + 1, feeder);
            } else if largest > 0 {
                self.turn::<V, ONLY>(vector, plane, wanted, feeder);
                self.add_byte(vector, (partition, wanted), byte, feeder);
            }
        }
    }

    /// Makes one byte of pixels pairs of sixteen frames, where any are wanted.
    #[inline(always)]
    fn turn<V: Multiply, const WHICH: u8>(
        &mut self,
        vector: V,
        plane: &Plane,
        wanted: &Wanted,
        feeder: &mut Feeder<'_, V>,
    ) {
        for (block, pairs) in self.pairs.0[..PAIRS].as_chunks_mut::<BLOCK_PAIRS>().0.iter_mut().enumerate() {
            if wanted.blocks >> block & 1 == 0 {
                continue;
            }
            let mut rows = [vector.splat(0); FRAMES / 2];
            for (frame, row) in rows.iter_mut().enumerate() {
                // A loop: a closure might be left out of the function that has the vector instructions.
                let mut halves = [vector.splat(0); 2];
                for (at, half) in (2 * block..).zip(&mut halves) {
                    *half = vector.join(plane.eight(frame, at), plane.eight(frame + FRAMES / 2, at));
                }
                let [first, second] = halves;
                *row = match WHICH {
                    ONLY => vector.narrow(first, second),
                    LOW => vector.narrow(vector.low_bytes(first), vector.low_bytes(second)),
                    _ => vector.narrow(vector.high_bytes(first), vector.high_bytes(second)),
                };
            }
            for (pair, turned) in pairs.iter_mut().zip(transpose(vector, rows)) {
                *pair = vector.unpack(turned);
            }
            feeder.tick(40);
        }
    }

    /// Adds the pairs of one byte to sums and moments.
    #[inline(always)]
    fn add_byte<V: Multiply>(
        &mut self,
        vector: V,
        (partition, wanted): (&Partition, &Wanted),
        byte: usize,
        feeder: &mut Feeder<'_, V>,
    ) {
        let [both, first, second] = &SIDES;
        let sides = [vector.pack(both), vector.pack(first), vector.pack(second)];
        for quads in wanted.quads.chunks(8) {
            for quad in quads {
                let mut sum = vector.splat(0);
                for pair in quad.pairs {
                    let pixels = vector.pack(&self.pairs.0[pair as usize]);
                    sum = vector.add_16(sum, vector.multiply_8(pixels, sides[quad.side as usize]));
                }
                let near = &mut self.near.0[quad.set as usize];
                *near = vector.unpack(vector.add_16(vector.pack(near), sum));
            }
            feeder.tick(6 * quads.len() as u32);
        }
        for (near, &set) in self.near.0.iter_mut().zip(&wanted.sets) {
            let parts = vector.interleave_16(vector.pack(near), vector.splat(0));
            for (sum, part) in self.sums[byte * partition.set_count + set as usize].iter_mut().zip(parts) {
                *sum = vector.unpack(vector.add_32(vector.pack(sum), part));
            }
            *near = [0; 32];
        }
        if !wanted.moments.is_empty() {
            self.add_moments(vector, (partition, wanted), byte, feeder);
        }
    }

    #[inline(always)]
    fn add_moments<V: Multiply>(
        &mut self,
        vector: V,
        (partition, wanted): (&Partition, &Wanted),
        byte: usize,
        feeder: &mut Feeder<'_, V>,
    ) {
        for moment in &wanted.moments {
            let weights = &partition.weights[moment.weights as usize];
            let pairs = &self.pairs.0.as_chunks::<BLOCK_PAIRS>().0[moment.block as usize];
            let (mut ones, mut places) = (vector.splat(0), vector.splat(0));
            for (pair, pixels) in pairs.iter().enumerate() {
                let pixels = vector.pack(pixels);
                ones = vector.add_16(ones, vector.multiply_8(pixels, vector.splat(weights.ones[pair])));
                places = vector.add_16(places, vector.multiply_8(pixels, vector.splat(weights.places[pair])));
            }
            // Lanes by turns: sum and sum of places, times coordinate and 0, or coordinate of the first pixel and 1.
            let parts = vector.interleave_16(ones, places);
            let by = [u32::from(moment.y as u16), u32::from(moment.x as u16) | 1 << 16];
            let moments = &mut self.near_moments[moment.mask as usize];
            for (moments, by) in moments.iter_mut().zip(by) {
                for (sum, part) in moments.iter_mut().zip(parts) {
                    let product = vector.multiply_16(part, vector.splat(by));
                    *sum = vector.unpack(vector.add_32(vector.pack(sum), product));
                }
            }
            feeder.tick(16);
        }
        let wide = &mut self.moments[byte * partition.moment_count..][..partition.moment_count];
        for (near, wide) in self.near_moments.iter_mut().flatten().zip(wide.iter_mut().flatten()) {
            let lanes: [i32; FRAMES] = cast(*near);
            for (wide, lane) in wide.iter_mut().zip(lanes) {
                *wide += i64::from(lane);
            }
            *near = [[0; 32]; 2];
        }
    }

    /// Appends the sums of so many frames under a partition to `totals`, by frame, column, and gives those of listed rows to `dots`, whose
    /// frames from `first` on they are. Starts again from 0.
    pub(super) fn finish<P: Pixel>(
        &mut self,
        Columns { partition, rows }: Columns<'_>,
        (first, frame_count): (usize, usize),
        totals: &mut Vec<i128>,
        dots: &mut FloatDots,
    ) {
        self.listed.finish::<P>(rows, (first, frame_count), dots);
        let Some(partition) = partition else { return };
        let (start, column_count) = (totals.len(), partition.columns.len());
        totals.resize(start + frame_count * column_count, 0);
        for (number, column) in partition.columns.iter().enumerate() {
            for byte in 0..P::BYTES {
                let sums = match column {
                    ColumnSum::Sets(sets) => self.sum_of(sets, byte * partition.set_count),
                    &ColumnSum::Moment(mask, axis) => self.moments[byte * partition.moment_count + mask][axis],
                };
                for frame in 0..frame_count {
                    totals[start + frame * column_count + number] += i128::from(sums[place_of(frame)]) << (8 * byte);
                }
            }
        }
        self.sums.fill([[0; 32]; 2]);
        self.moments.fill([[0; FRAMES]; 2]);
    }

    /// Sums of some sets, whose own begin at `first`.
    fn sum_of(&self, sets: &[u32], first: usize) -> [i64; FRAMES] {
        let mut sums = [0; FRAMES];
        for &set in sets {
            let lanes: [u32; FRAMES] = cast(self.sums[first + set as usize]);
            for (sum, lane) in sums.iter_mut().zip(lanes) {
                *sum += i64::from(lane);
            }
        }
        sums
    }
}

/// Adds a piece to the sums of all columns. Types of pixels do not matter here: one function serves them all.
struct Sums<'a, 'b, V> {
    lanes: &'a mut Lanes,
    vector: V,
    piece: &'a Piece,
    number: usize,
    columns: Columns<'a>,
    feeder: &'a mut Feeder<'b, V>,
}

impl<V: Multiply> pulp::NullaryFnOnce for Sums<'_, '_, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { lanes, vector, piece, number, columns: Columns { partition, rows }, feeder } = self;
        if let Some(partition) = partition {
            lanes.add_piece(vector, piece, (partition, &partition.pieces[number]), feeder);
        }
        lanes.listed.add(vector, rows, (piece, number), feeder);
    }
}

/// What the pixels of a pair count, by [`super::partition::Side`].
const SIDES: [Bytes; 3] = [every_other(1, 1), every_other(1, 0), every_other(0, 1)];

const fn every_other(first: u8, second: u8) -> Bytes {
    let mut bytes = [first; 32];
    let mut at = 1;
    while at < 32 {
        bytes[at] = second;
        at += 2;
    }
    bytes
}

#[cfg(test)]
mod tests;
