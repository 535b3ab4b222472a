//! Sums, squares and extremes over frames of integer pixels, sixteen frames at a time.
//!
//! # Why this way
//! A piece of sixteen frames lies in the first-level cache, so that the sums of some pixels stay in registers over all of them. Where
//! pixels are as small as counts mostly are, sums of sixteen fit 16 bits; squares of two frames are one instruction.

use super::kernel::Pixel;
use super::patterns::{Patterns, SquaresPattern, SumPattern};
use super::stage::{FRAMES, Feeder, PIECE_PIXELS, Piece};
use super::vector::{Multiply, cast};

/// Sixteen pixels below make a sum of 16 bits, and sixteen squares one of 32.
const SMALL: u16 = 4096;
/// Pixels of a register.
const LANES: usize = 16;

/// What is added over frames, until it is moved to where it has 64 bits.
#[derive(Debug)]
pub(super) struct PatternSums<P: Pixel> {
    low: Vec<P::Low>,
    low_frames: u64,
}

/// Adds a piece of so many frames, which begins at pixel `first`, to patterns.
pub(super) struct Add<'a, 'b, V, P: Pixel> {
    pub(super) sums: &'a mut PatternSums<P>,
    pub(super) vector: V,
    pub(super) piece: &'a Piece,
    pub(super) frame_count: usize,
    pub(super) first: usize,
    pub(super) patterns: &'a mut Patterns,
    pub(super) feeder: &'a mut Feeder<'b, V>,
}

impl<V: Multiply, P: Pixel> pulp::NullaryFnOnce for Add<'_, '_, V, P> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { sums, vector, piece, frame_count, first, patterns, feeder } = self;
        sums.add(vector, piece, frame_count, first, patterns, feeder);
    }
}

impl<P: Pixel> PatternSums<P> {
    pub(super) fn new(patterns: &Patterns) -> Self {
        let count = if patterns.sum.is_some() { patterns.region().pixel_count() as usize } else { 0 };
        Self { low: vec![P::Low::default(); count], low_frames: 0 }
    }

    /// Makes room for so many frames more.
    pub(super) fn begin(&mut self, frame_count: usize, patterns: &mut Patterns) {
        if self.low_frames + frame_count as u64 > P::LOW_FRAMES {
            self.flush(patterns);
        }
        self.low_frames += frame_count as u64;
    }

    /// Moves the sums over frames to where they have 64 bits.
    pub(super) fn flush(&mut self, patterns: &mut Patterns) {
        if let Some(SumPattern::Integer(sums)) = &mut patterns.sum {
            for (sum, low) in sums.iter_mut().zip(&mut self.low) {
                *sum = sum.wrapping_add(std::mem::take(low).into());
            }
        }
        self.low_frames = 0;
    }

    /// Adds a piece of so many frames, which begins at pixel `first`.
    #[inline(always)]
    fn add<V: Multiply>(
        &mut self,
        vector: V,
        piece: &Piece,
        frame_count: usize,
        first: usize,
        patterns: &mut Patterns,
        feeder: &mut Feeder<'_, V>,
    ) {
        if patterns.min.is_some() {
            add_min::<P>(piece, frame_count, first, patterns);
        }
        let is_whole = first + PIECE_PIXELS <= patterns.region().pixel_count() as usize;
        if P::COUNT > 1 || piece.largest[0] >= SMALL || !is_whole {
            self.add_large(piece, frame_count, first, patterns);
            feeder.tick(2000);
        } else if patterns.squares.is_some() {
            self.add_small::<V, 2, true>(vector, piece, first, patterns, feeder);
        } else {
            self.add_small::<V, 4, false>(vector, piece, first, patterns, feeder);
        }
    }

    /// Adds a whole piece of pixels below [`SMALL`], so many registers of them at a time.
    #[inline(always)]
    fn add_small<V: Multiply, const REGISTERS: usize, const SQUARES: bool>(
        &mut self,
        vector: V,
        piece: &Piece,
        first: usize,
        patterns: &mut Patterns,
        feeder: &mut Feeder<'_, V>,
    ) {
        let zero = vector.splat(0);
        for at in (0..PIECE_PIXELS / LANES).step_by(REGISTERS) {
            let (mut sums, mut largest) = ([zero; REGISTERS], [zero; REGISTERS]);
            let mut squares = [[zero; 2]; REGISTERS];
            for frame in (0..FRAMES).step_by(2) {
                for register in 0..REGISTERS {
                    let a = vector.pack(&cast(*piece.sixteen(frame, at + register)));
                    let b = vector.pack(&cast(*piece.sixteen(frame + 1, at + register)));
                    sums[register] = vector.add_16(sums[register], vector.add_16(a, b));
                    largest[register] = vector.max_16(largest[register], vector.max_16(a, b));
                    if SQUARES {
                        let parts = vector.interleave_16(a, b);
                        for (squares, part) in squares[register].iter_mut().zip(parts) {
                            *squares = vector.add_32(*squares, vector.multiply_16(part, part));
                        }
                    }
                }
            }
            for register in 0..REGISTERS {
                let first = first + (at + register) * LANES;
                self.keep_sums(first, cast(vector.unpack(sums[register])));
                keep_max::<P>(first, cast(vector.unpack(largest[register])), patterns);
                if SQUARES {
                    let [low, high] = squares[register];
                    keep_squares(first, cast([vector.unpack(low), vector.unpack(high)]), patterns);
                }
            }
            feeder.tick(if SQUARES { 110 } else { 100 });
        }
    }

    #[inline(always)]
    fn keep_sums(&mut self, first: usize, sums: [u16; LANES]) {
        if !self.low.is_empty() {
            for (low, sum) in self.low[first..][..LANES].iter_mut().zip(sums) {
                *low += sum.into();
            }
        }
    }

    /// Adds pixels of any size.
    #[inline(always)]
    fn add_large(&mut self, piece: &Piece, frame_count: usize, first: usize, patterns: &mut Patterns) {
        for frame in 0..frame_count {
            let [low, high] = piece.rows(frame);
            if !self.low.is_empty() {
                for ((sum, &low), &high) in self.low[first..].iter_mut().zip(low).zip(high) {
                    *sum += P::of_planes([low, high]).into();
                }
            }
            if let Some(max) = patterns.max.as_mut().and_then(P::extremes) {
                for ((max, &low), &high) in max[first..].iter_mut().zip(low).zip(high) {
                    *max = (*max).max(P::of_planes([low, high]));
                }
            }
            match &mut patterns.squares {
                Some(SquaresPattern::U64(squares)) => {
                    for ((sum, &low), &high) in squares[first..].iter_mut().zip(low).zip(high) {
                        *sum += P::of_planes([low, high]).square();
                    }
                }
                Some(SquaresPattern::U128(squares)) => {
                    for ((sum, &low), &high) in squares[first..].iter_mut().zip(low).zip(high) {
                        *sum += u128::from(P::of_planes([low, high]).square());
                    }
                }
                _ => {}
            }
        }
    }
}

#[inline(always)]
fn add_min<P: Pixel>(piece: &Piece, frame_count: usize, first: usize, patterns: &mut Patterns) {
    let Some(min) = patterns.min.as_mut().and_then(P::extremes) else { return };
    for frame in 0..frame_count {
        let [low, high] = piece.rows(frame);
        for ((min, &low), &high) in min[first..].iter_mut().zip(low).zip(high) {
            *min = (*min).min(P::of_planes([low, high]));
        }
    }
}

#[inline(always)]
fn keep_max<P: Pixel>(first: usize, largest: [u16; LANES], patterns: &mut Patterns) {
    let Some(max) = patterns.max.as_mut().and_then(P::extremes) else { return };
    for (max, largest) in max[first..][..LANES].iter_mut().zip(largest) {
        *max = (*max).max(P::of_planes([largest, 0]));
    }
}

/// Squares of pixels 0 to 3 and 8 to 11, then of the others.
#[inline(always)]
fn keep_squares(first: usize, [[a, c], [b, d]]: [[[u32; 4]; 2]; 2], patterns: &mut Patterns) {
    let Some(SquaresPattern::U64(sums)) = &mut patterns.squares else { return };
    let squares: [u32; LANES] = cast([a, b, c, d]);
    for (sum, square) in sums[first..][..LANES].iter_mut().zip(squares) {
        *sum += u64::from(square);
    }
}
