//! Listed rows over integer pixels, sixteen frames at a time.
//!
//! # Place in the path
//! [`super::super::lanes`] brings pieces of sixteen frames, of as many pixels as a chunk. Sums are those of eight frames at a time, bit
//! for bit: every lane adds the same products in the same order.
//!
//! # Why this way
//! Pixels are turned as 16-bit numbers, half as many registers as in single precision, and made double precision where they are
//! multiplied. Sixteen frames for every weight that is loaded, instead of eight.

use super::super::stage::{FRAMES, Feeder, Piece, Plane};
use super::super::vector::{Multiply, cast, transpose};
use super::rows::{FloatRows, LISTED_STEP, Way};
use super::{CHUNK_PIXELS, FloatDots, OCTET, Singles};

const _: () = assert!(CHUNK_PIXELS == super::super::stage::PIECE_PIXELS);

/// The pixels of a chunk, sixteen frames each.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Turned([[[u16; OCTET]; 2]; CHUNK_PIXELS]);

/// Sums of sixteen frames, two halves; scratch of one reducer.
#[derive(Debug)]
pub(in super::super) struct ListedSums {
    turned: Box<Turned>,
    /// By plane, row.
    sums: Vec<[[f64; OCTET]; 2]>,
}

impl ListedSums {
    pub(in super::super) fn new<P: Singles>(rows: &FloatRows) -> Self {
        let is_any = rows.listed_chunks().next().is_some();
        let count = if is_any { P::PLANES * rows.len() } else { 0 };
        Self { turned: Box::new(Turned([[[0; OCTET]; 2]; CHUNK_PIXELS])), sums: vec![[[0.0; OCTET]; 2]; count] }
    }

    /// Adds a chunk.
    #[inline(always)]
    pub(in super::super) fn add<V: Multiply>(
        &mut self,
        vector: V,
        rows: &FloatRows,
        (piece, chunk): (&Piece, usize),
        feeder: &mut Feeder<'_, V>,
    ) {
        if self.sums.is_empty() {
            return;
        }
        let groups = rows.listed_groups(chunk);
        if groups.is_empty() {
            return;
        }
        for (number, (plane, &largest)) in piece.planes.iter().zip(&piece.largest).enumerate() {
            if largest == 0 {
                continue;
            }
            self.turn(vector, plane, feeder);
            for group in groups {
                let (entries, weights) = (rows.entries(group), &rows.listed[group.weights as usize..]);
                let sums = &mut self.sums[number * rows.len() + group.rows[0] as usize];
                multiply(vector, entries, weights, &self.turned, sums);
                feeder.tick(8 * entries.len() as u32);
            }
        }
    }

    /// Frames become lanes.
    #[inline(always)]
    fn turn<V: Multiply>(&mut self, vector: V, plane: &Plane, feeder: &mut Feeder<'_, V>) {
        for (eight, turned) in self.turned.0.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut rows = [vector.splat(0); FRAMES / 2];
            for (frame, row) in rows.iter_mut().enumerate() {
                *row = vector.join(plane.eight(frame, eight), plane.eight(frame + FRAMES / 2, eight));
            }
            for (turned, register) in turned.iter_mut().zip(transpose(vector, rows)) {
                *turned = cast(vector.unpack(register));
            }
            feeder.tick(30);
        }
    }

    /// Gives the sums of frames from `first` on to `dots`, and starts again from 0.
    pub(in super::super) fn finish<P: Singles>(
        &mut self,
        rows: &FloatRows,
        (first, count): (usize, usize),
        dots: &mut FloatDots,
    ) {
        if self.sums.is_empty() {
            return;
        }
        for (row, _) in rows.ways.iter().enumerate().filter(|&(_, &way)| way == Way::Listed) {
            for frame in 0..count {
                let of_plane = |plane: usize| self.sums[plane * rows.len() + row][frame / OCTET][frame % OCTET];
                let total = if P::PLANES == 1 { of_plane(0) } else { of_plane(1).mul_add(P::SCALE, of_plane(0)) };
                dots.set_total(first + frame, row, total);
            }
        }
        self.sums.fill([[0.0; OCTET]; 2]);
    }
}

/// Adds products of single pixels: those at even and odd places of the list apart.
#[inline(always)]
fn multiply<V: Multiply>(vector: V, entries: &[u16], weights: &[f64], turned: &Turned, sums: &mut [[f64; OCTET]; 2]) {
    let zero = vector.eight(&[0.0; OCTET]);
    let (mut even, mut odd) = ([zero; 2], [zero; 2]);
    let weights = weights.as_chunks::<LISTED_STEP>().0;
    for (entries, weights) in entries.as_chunks::<LISTED_STEP>().0.iter().zip(weights) {
        for (&[a, b], &[first, second]) in entries.as_chunks::<2>().0.iter().zip(weights.as_chunks::<2>().0) {
            let (a, b) = (&turned.0[a as usize % CHUNK_PIXELS], &turned.0[b as usize % CHUNK_PIXELS]);
            for half in 0..2 {
                even[half] = vector.add_eight_shorts(even[half], &a[half], first);
                odd[half] = vector.add_eight_shorts(odd[half], &b[half], second);
            }
        }
    }
    for (half, sums) in sums.iter_mut().enumerate() {
        vector.fold_eight(even[half], sums);
        vector.fold_eight(odd[half], sums);
    }
}
