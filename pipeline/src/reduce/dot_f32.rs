//! The kernel for weighted sums of floating point pixels: exact ([`super::exact`]), at the speed of plain sums where it can.
//!
//! # Place in the path
//! Called once per block by [`super::Reducer`], inside one dispatch on what the processor can do.
//!
//! # Invariants
//! - I1: sums are those that [`Exact`] makes of the same products, bit for bit, whichever way was taken.
//!
//! # Why this way
//! A double holds 53 bits. Products are cut at a power of two `2^k`: what is above goes to one sum, what is below to
//! another, and neither rounds as long as the largest product is below `2^(k + 42)` and no product has a bit below
//! `2^(k - 45)`. The cut costs no more than additions: a sum that starts at `1.5 * 2^(52 + k)` takes only multiples of `2^k`,
//! and what it did not take is found by subtracting again. So sums are exact where pixels and weights of a chunk span less
//! than 87 bits, which all but odd data do; the others, NaN and infinities go the slow way.

use std::collections::HashMap;
use std::ops::Range;

use pulp::Simd;

use super::digits::Weighted;
use super::exact::Exact;
use super::vector::Block64;
use crate::{ByteOrder, Region};

/// Pixels of a block.
const BLOCK_PIXELS: usize = 8;
/// Blocks in a chunk: what is decoded of a frame at a time.
const CHUNK_BLOCKS: usize = 64;
const CHUNK_PIXELS: usize = CHUNK_BLOCKS * BLOCK_PIXELS;
/// Chunks of some frames before the next frames have their turn: weights of as many should fit the second-level cache.
const CHUNKS: usize = 16;
/// Frames multiplied with each block of weights.
const ABREAST: usize = 4;
/// Binary logarithm of the additions to one sum, at most.
const ADDITIONS_BITS: i32 = CHUNK_PIXELS.ilog2() as i32;
/// Bits below a cut that sums keep.
const LOW_BITS: i32 = 54 - ADDITIONS_BITS;
/// Cuts are multiples of this where they can.
const CUTS: i32 = 16;

/// Powers of two that bound numbers other than 0.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    /// All are below `2^top`.
    top: i32,
    /// None is below `2^least`.
    least: i32,
    /// All are multiples of `2^unit`.
    unit: i32,
}

impl Span {
    /// Of no number.
    const NONE: Self = Self { top: i32::MIN / 4, least: i32::MAX / 4, unit: i32::MAX / 4 };

    fn of(value: f64) -> Self {
        let bits = value.to_bits();
        let (biased, mantissa) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        match (biased, mantissa) {
            (0, 0) => Self::NONE,
            // Far below what is kept: the least exact bounds do.
            (0, _) => Self { top: -1022, least: -1074, unit: -1074 },
            _ => {
                let zeros = (mantissa | 1 << 52).trailing_zeros() as i32;
                Self { top: biased - 1022, least: biased - 1023, unit: biased - 1075 + zeros }
            }
        }
    }

    fn and(self, other: Self) -> Self {
        Self { top: self.top.max(other.top), least: self.least.min(other.least), unit: self.unit.min(other.unit) }
    }

    /// Where to cut sums of products of such weights and such pixels, if there is a place: the same for many pieces of a frame
    /// where that can be.
    #[inline(always)]
    fn cut(self, pixels: Self) -> Option<i32> {
        // A product, rounded to a double, is a multiple of its own lowest bit and of that of its factors.
        let unit = (self.unit + pixels.unit).max(self.least + pixels.least - 52);
        let lowest = self.top + pixels.top + ADDITIONS_BITS - 51;
        let highest = unit + LOW_BITS;
        let even = (lowest + CUTS - 1).div_euclid(CUTS) * CUTS;
        let cut = if even <= highest { even } else { highest };
        (lowest <= highest && cut - LOW_BITS >= super::exact::UNIT).then_some(cut)
    }
}

/// Blocks of one row in one chunk.
#[derive(Debug, Clone)]
struct Part {
    row: u32,
    entries: Range<u32>,
    weights: Span,
}

/// Rows of weights over a tile; blocks without weights are left out, equal ones are kept once.
#[derive(Debug, Clone)]
pub(super) struct FloatRows {
    pool: Vec<Block64<f64>>,
    /// Number of the block in its chunk, and of its weights.
    entries: Vec<(u32, u32)>,
    parts: Vec<Part>,
    /// Parts of chunk `i` are `parts[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    row_count: usize,
}

impl FloatRows {
    /// Of masks of the tile `region`. Real weights are divided by the power of two above the largest of their mask.
    pub(super) fn of(weighted: &[Weighted<'_>], region: Region) -> Self {
        let pixel_count = if weighted.is_empty() { 0 } else { region.pixel_count() as usize };
        Self::new(pixel_count, weighted.len(), |row, first, block| weighted[row].write_numbers(first, block))
    }

    /// `weights(row, first, block)` writes the weights of the pixels from `first` on, as far as there are pixels; their
    /// magnitude is below 2^20.
    pub(super) fn new(pixel_count: usize, row_count: usize, mut weights: impl FnMut(usize, usize, &mut [f64])) -> Self {
        let (pool, entries, parts) = (Vec::new(), Vec::new(), Vec::new());
        let mut made = Self { pool, entries, parts, starts: vec![0], row_count };
        let mut known: HashMap<[u64; BLOCK_PIXELS], u32> = HashMap::new();
        for start in (0..pixel_count).step_by(CHUNK_PIXELS) {
            for row in 0..row_count {
                let (begin, mut span) = (made.entries.len() as u32, Span::NONE);
                let firsts = (start..pixel_count.min(start + CHUNK_PIXELS)).step_by(BLOCK_PIXELS);
                for (block, first) in (0..).zip(firsts) {
                    let mut values = [0.0; BLOCK_PIXELS];
                    weights(row, first, &mut values);
                    values.iter_mut().skip(pixel_count - first).for_each(|weight| *weight = 0.0);
                    if values == [0.0; BLOCK_PIXELS] {
                        continue;
                    }
                    span = values.iter().fold(span, |span, &weight| span.and(Span::of(weight)));
                    let at = *known.entry(values.map(f64::to_bits)).or_insert_with(|| {
                        made.pool.push(Block64(values));
                        made.pool.len() as u32 - 1
                    });
                    made.entries.push((block, at));
                }
                let entries = begin..made.entries.len() as u32;
                if !entries.is_empty() {
                    made.parts.push(Part { row: row as u32, entries, weights: span });
                }
            }
            made.starts.push(made.parts.len());
        }
        made
    }

    fn parts(&self, chunk: usize) -> &[Part] {
        &self.parts[self.starts[chunk]..self.starts[chunk + 1]]
    }

    fn entries(&self, part: &Part) -> &[(u32, u32)] {
        &self.entries[part.entries.start as usize..part.entries.end as usize]
    }
}

/// A chunk of one frame in double precision.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Piece([f64; CHUNK_PIXELS]);

impl Piece {
    #[inline(always)]
    fn block(&self, block: u32) -> &[f64; BLOCK_PIXELS] {
        &self.0.as_chunks().0[block as usize % CHUNK_BLOCKS]
    }
}

/// Sums of rows of weights over frames; scratch of one reducer.
#[derive(Debug)]
pub(super) struct FloatDots {
    singles: Box<[f32; CHUNK_PIXELS]>,
    pieces: Box<[Piece; ABREAST]>,
    /// By frame, row.
    totals: Vec<Exact>,
    pending: Vec<Pending>,
    row_count: usize,
}

impl FloatDots {
    pub(super) fn new() -> Self {
        let pieces = Box::new([Piece([0.0; CHUNK_PIXELS]); ABREAST]);
        Self { singles: Box::new([0.0; CHUNK_PIXELS]), pieces, totals: Vec::new(), pending: Vec::new(), row_count: 0 }
    }

    /// Sums of all rows over a frame of the last call.
    pub(super) fn totals(&self, frame: usize) -> &[Exact] {
        &self.totals[frame * self.row_count..][..self.row_count]
    }

    /// Multiplies all rows with all frames at `positions`.
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(
        &mut self,
        simd: S,
        rows: &FloatRows,
        (bytes, frame_bytes): (&[u8], usize),
        order: ByteOrder,
        positions: &[usize],
    ) {
        self.row_count = rows.row_count;
        self.totals.clear();
        self.totals.resize(positions.len() * rows.row_count, Exact::default());
        self.pending.clear();
        self.pending.resize(positions.len() * rows.row_count, Pending::default());
        let chunk_count = rows.starts.len() - 1;
        for first in (0..chunk_count).step_by(CHUNKS) {
            for (group, positions) in positions.chunks(ABREAST).enumerate() {
                for chunk in first..chunk_count.min(first + CHUNKS) {
                    let start = chunk * CHUNK_PIXELS * 4;
                    let chunks = positions.iter().map(|position| {
                        let frame = &bytes[position * frame_bytes..][..frame_bytes];
                        &frame[start..frame_bytes.min(start + CHUNK_PIXELS * 4)]
                    });
                    self.add_chunk(simd, rows, rows.parts(chunk), group * ABREAST, chunks, order);
                }
            }
        }
        for (total, pending) in self.totals.iter_mut().zip(&mut self.pending) {
            pending.give(total);
            total.settle();
        }
    }

    /// Multiplies a chunk of at most [`ABREAST`] frames from `first_frame` on.
    #[inline(always)]
    fn add_chunk<'a, S: Simd>(
        &mut self,
        simd: S,
        rows: &FloatRows,
        parts: &[Part],
        first_frame: usize,
        chunks: impl ExactSizeIterator<Item = &'a [u8]>,
        order: ByteOrder,
    ) {
        if parts.is_empty() {
            return;
        }
        let frame_count = chunks.len();
        let mut pixels = Some(Span::NONE);
        for (lane, bytes) in chunks.enumerate() {
            let span = self.decode(lane, bytes, order);
            pixels = pixels.zip(span).map(|(all, span)| all.and(span));
        }
        for part in parts {
            self.add_part(simd, rows, part, first_frame, frame_count, pixels);
        }
    }

    /// Decodes a chunk of a frame; returns the span of its pixels, `None` where one is not finite.
    #[inline(always)]
    fn decode(&mut self, lane: usize, bytes: &[u8], order: ByteOrder) -> Option<Span> {
        let (mut largest, mut least) = (0_u32, u32::MAX);
        let singles = &mut self.singles[..bytes.len() / 4];
        for (single, &bytes) in singles.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let bits = if order == ByteOrder::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            let magnitude = bits & 0x7fff_ffff;
            largest = largest.max(magnitude);
            least = least.min(magnitude.wrapping_sub(1)); // 0 becomes the largest.
            *single = f32::from_bits(bits);
        }
        for (double, &single) in self.pieces[lane].0.iter_mut().zip(&self.singles[..]) {
            *double = f64::from(single);
        }
        if largest >= 0x7f80_0000 {
            return None;
        }
        if largest == 0 {
            return Some(Span::NONE);
        }
        let exponents = [largest, least + 1].map(|bits| (bits >> 23) as i32);
        let least = if exponents[1] == 0 { -149 } else { exponents[1] - 127 };
        Some(Span { top: exponents[0].max(1) - 126, least, unit: exponents[1].max(1) - 150 })
    }

    #[inline(always)]
    fn add_part<S: Simd>(
        &mut self,
        simd: S,
        rows: &FloatRows,
        part: &Part,
        first_frame: usize,
        frame_count: usize,
        pixels: Option<Span>,
    ) {
        let entries = rows.entries(part);
        if pixels == Some(Span::NONE) {
            return; // Nothing but zeros, which have no span.
        }
        let at = |frame: usize| (first_frame + frame) * rows.row_count + part.row as usize;
        let Some(cut) = pixels.and_then(|pixels| part.weights.cut(pixels)) else {
            for (frame, piece) in self.pieces.iter().enumerate().take(frame_count) {
                add_slowly(rows, entries, piece, &mut self.totals[at(frame)]);
            }
            return;
        };
        let sums = sum_pieces(simd, rows, entries, &self.pieces, cut);
        for (frame, sums) in sums.into_iter().enumerate().take(frame_count) {
            self.pending[at(frame)].add(sums, cut, &mut self.totals[at(frame)]);
        }
    }
}

/// Sums of chunks that were cut at the same place.
#[derive(Debug, Clone, Copy, Default)]
struct Pending {
    cut: i32,
    count: u32,
    /// In units of `2^cut`.
    high: i64,
    /// In units of `2^(cut - LOW_BITS)`.
    low: i64,
}

impl Pending {
    #[inline(always)]
    fn add(&mut self, [high, low]: [f64; 2], cut: i32, total: &mut Exact) {
        // A chunk adds less than 2^53 to each.
        if self.cut != cut || self.count == 512 {
            self.give(total);
            self.cut = cut;
        }
        self.high += (high * power_of_two(-cut)) as i64;
        self.low += (low * power_of_two(LOW_BITS - cut)) as i64;
        self.count += 1;
    }

    /// Adds what there is to a total, exactly.
    #[inline(never)]
    fn give(&mut self, total: &mut Exact) {
        for (sum, exponent) in [(self.high, self.cut), (self.low, self.cut - LOW_BITS)] {
            total.add_f64((sum >> 32) as f64 * power_of_two(exponent + 32));
            total.add_f64((sum & 0xffff_ffff) as f64 * power_of_two(exponent));
        }
        total.settle();
        *self = Self::default();
    }
}

/// Two to a power that a normal double has.
#[inline(always)]
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// Sums of the blocks of one row over a piece of each frame: multiples of `2^cut`, and what is below. Both are exact.
#[inline(always)]
fn sum_pieces<S: Simd>(
    simd: S,
    rows: &FloatRows,
    entries: &[(u32, u32)],
    pieces: &[Piece; ABREAST],
    cut: i32,
) -> [[f64; 2]; ABREAST] {
    // 1.5 * 2^(52 + cut): numbers near it are multiples of 2^cut.
    let anchor = simd.splat_f64s(f64::from_bits((1023 + 52 + cut) as u64 * (1 << 52) + (1 << 51)));
    let none = Parts { high: anchor, low: simd.splat_f64s(0.0) };
    // By name: compilers leave an array of as many registers in memory.
    let [mut sum_a, mut sum_b, mut sum_c, mut sum_d] = [none; ABREAST];
    for &(block, weights) in entries {
        let weights = S::as_simd_f64s(&rows.pool[weights as usize].0).0;
        let [a, b, c, d] = pieces.each_ref().map(|piece| S::as_simd_f64s(piece.block(block)).0);
        for ((((&weight, &a), &b), &c), &d) in weights.iter().zip(a).zip(b).zip(c).zip(d) {
            sum_a = sum_a.add(simd, simd.mul_f64s(weight, a));
            sum_b = sum_b.add(simd, simd.mul_f64s(weight, b));
            sum_c = sum_c.add(simd, simd.mul_f64s(weight, c));
            sum_d = sum_d.add(simd, simd.mul_f64s(weight, d));
        }
    }
    [sum_a.totals(simd, anchor), sum_b.totals(simd, anchor), sum_c.totals(simd, anchor), sum_d.totals(simd, anchor)]
}

/// A sum in two parts.
#[derive(Clone, Copy)]
struct Parts<F> {
    high: F,
    low: F,
}

impl<F: Copy> Parts<F> {
    #[inline(always)]
    fn add<S: Simd<f64s = F>>(self, simd: S, product: F) -> Self {
        let high = simd.add_f64s(self.high, product);
        let taken = simd.sub_f64s(high, self.high);
        Self { high, low: simd.add_f64s(self.low, simd.sub_f64s(product, taken)) }
    }

    /// Both parts, over all lanes.
    #[inline(always)]
    fn totals<S: Simd<f64s = F>>(self, simd: S, anchor: F) -> [f64; 2] {
        [simd.reduce_sum_f64s(simd.sub_f64s(self.high, anchor)), simd.reduce_sum_f64s(self.low)]
    }
}

/// The same for any numbers, without limits.
#[cold]
fn add_slowly(rows: &FloatRows, entries: &[(u32, u32)], piece: &Piece, total: &mut Exact) {
    let mut sum = Exact::default();
    for &(block, weights) in entries {
        let weights = &rows.pool[weights as usize].0;
        for (&weight, &pixel) in weights.iter().zip(piece.block(block)) {
            if weight != 0.0 {
                sum.add_f64(weight * pixel);
            }
        }
    }
    sum.settle();
    *total += &sum;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulp::{Arch, WithSimd};

    struct Work<'a> {
        dots: &'a mut FloatDots,
        rows: &'a FloatRows,
        bytes: &'a [u8],
        positions: &'a [usize],
    }

    impl WithSimd for Work<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let frame_bytes = self.bytes.len() / self.positions.len();
            self.dots.multiply(simd, self.rows, (self.bytes, frame_bytes), ByteOrder::Big, self.positions);
        }
    }

    /// Compares with sums made one by one.
    fn check(pixels: &[Vec<f32>], weights: &[Vec<f64>]) {
        let pixel_count = pixels[0].len();
        let rows = FloatRows::new(pixel_count, weights.len(), |row, first, block| {
            block.iter_mut().zip(&weights[row][first..]).for_each(|(to, &weight)| *to = weight);
        });
        let bytes: Vec<u8> = pixels.iter().flatten().flat_map(|pixel| pixel.to_be_bytes()).collect();
        let positions: Vec<usize> = (0..pixels.len()).collect();
        for arch in [Arch::new(), Arch::Scalar] {
            let mut dots = FloatDots::new();
            arch.dispatch(Work { dots: &mut dots, rows: &rows, bytes: &bytes, positions: &positions });
            for (frame, pixels) in pixels.iter().enumerate() {
                for (row, weights) in weights.iter().enumerate() {
                    let mut want = Exact::default();
                    for (&weight, &pixel) in weights.iter().zip(pixels).filter(|&(&weight, _)| weight != 0.0) {
                        want.add_f64(weight * f64::from(pixel));
                    }
                    want.settle();
                    assert_eq!(dots.totals(frame)[row], want, "frame {frame}, row {row}");
                }
            }
        }
    }

    /// Numbers whose exponents spread over so many bits around 0, both signs, some of them 0.
    fn spread(count: usize, seed: u64, bits: i32) -> impl Iterator<Item = f64> {
        let mut state = seed | 1;
        (0..count).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let exponent = (state >> 20) as i32 % (bits + 1).max(1);
            let mantissa = (state >> 33) as i32 - (1 << 30);
            if state >> 60 == 0 { 0.0 } else { f64::from(mantissa) * 2.0_f64.powi(exponent - bits / 2 - 30) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Any spread of pixels and weights: where the fast way ends must not show.
        #[test]
        fn as_one_by_one(
            pixel_count in 1_usize..1500,
            frame_count in 1_usize..6,
            seed in any::<u64>(),
            pixel_bits in 0_i32..90,
            weight_bits in 0_i32..60,
        ) {
            let frames = (0..frame_count as u64).map(|frame| {
                spread(pixel_count, seed ^ frame, pixel_bits).map(|pixel| pixel as f32).collect()
            });
            let frames: Vec<Vec<f32>> = frames.collect();
            let singles = spread(pixel_count, !seed, weight_bits).map(|weight| f64::from(weight as f32)).collect();
            let doubles = spread(pixel_count, seed / 3, weight_bits).map(|weight| weight / 3.0).collect();
            let binary = (0..pixel_count).map(|at| f64::from(u8::from(at % 3 == 0 || at > 900))).collect();
            let coordinates = (0..pixel_count).map(|at| at as f64).collect();
            check(&frames, &[singles, doubles, binary, coordinates]);
        }
    }

    /// Numbers that are none, the largest, the smallest, and weights that are next to nothing.
    #[test]
    fn odd_numbers() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::from_bits(1), -1.0, -0.0, 0.0];
        for (first, &one) in odd.iter().enumerate() {
            for &other in &odd[first..] {
                let mut pixels = vec![1.5_f32; 700];
                (pixels[3], pixels[300], pixels[650]) = (one, other, one);
                let mut some = vec![1.0; 700];
                (some[300], some[301]) = (0.0, 1e-200);
                let (all, small) = (vec![1.0; 700], vec![2.0_f64.powi(-190); 700]);
                let mut zeros = vec![0.0; 700];
                zeros[..512].fill(other);
                check(&[pixels, vec![one; 700], vec![other; 700], zeros], &[all, some, small]);
            }
        }
    }
}
