//! Items from rows of bits, with the vector instructions of x86-64.
//!
//! # Why this way
//! Eight rows of one byte of the items are eight registers. Rows and bits change places between registers, all 32 bytes at once,
//! so that register `e` then holds whole bytes, those of items `8 * i + e`; what is left is to interleave, as unpacking does.
//! Nothing here is a closure or a call that may stay one: those would be compiled without AVX2.

use core::arch::x86_64::__m256i;
use pulp::{NullaryFnOnce, cast};

/// Bytes of a row that are transposed together.
const PIECE_BYTES: usize = size_of::<__m256i>();

pulp::simd_type! {
    /// AVX2.
    pub(super) struct Avx2 {
        pub avx: "avx",
        pub avx2: "avx2",
    }
}

impl Avx2 {
    /// Rebuilds the items of all whole pieces of the rows; how many bytes of a row that were.
    pub(super) fn unshuffle<const E: usize>(self, rows: &[u8], items: &mut [u8]) -> usize {
        self.vectorize(Unshuffle::<E> { simd: self, rows, items })
    }

    /// The items of one piece of every row.
    #[inline(always)]
    fn unshuffle_piece<const E: usize>(self, rows: &[u8], at: usize, items: &mut [[u8; PIECE_BYTES]]) {
        let zero = self.avx._mm256_setzero_si256();
        let row_bytes = rows.len() / (8 * E);
        let mut planes = [[zero; 8]; E];
        for (byte, plane) in planes.iter_mut().enumerate() {
            for (bit, word) in plane.iter_mut().enumerate() {
                *word = cast(rows[(8 * byte + bit) * row_bytes..].as_chunks::<PIECE_BYTES>().0[at]);
            }
            *plane = self.bytes_of(*plane);
        }
        let mut words = [[zero; E]; 8];
        for (place, word) in words.iter_mut().enumerate() {
            for (byte, plane) in planes.iter().enumerate() {
                word[byte] = plane[place];
            }
            *word = self.interleave(*word);
        }
        // Interleaving keeps the halves of registers apart: the lower ones have the first half of the items.
        let (low, high) = items.split_at_mut(4 * E);
        for ((low, high), [a, b]) in low.iter_mut().zip(high).zip(words.as_flattened().as_chunks().0) {
            *low = cast(self.avx2._mm256_permute2x128_si256::<0x20>(*a, *b));
            *high = cast(self.avx2._mm256_permute2x128_si256::<0x31>(*a, *b));
        }
    }

    /// From eight rows, one byte of every item, in order within each half.
    #[inline(always)]
    fn bytes_of(self, mut rows: [__m256i; 8]) -> [__m256i; 8] {
        let mut any = rows[0];
        for &row in &rows {
            any = self.avx2._mm256_or_si256(any, row);
        }
        if self.avx._mm256_testz_si256(any, any) == 1 {
            return rows;
        }
        self.swap::<1>(&mut rows, 1, 0x5555_5555_5555_5555);
        self.swap::<2>(&mut rows, 2, 0x3333_3333_3333_3333);
        self.swap::<4>(&mut rows, 4, 0x0f0f_0f0f_0f0f_0f0f);
        self.interleave(rows)
    }

    /// One bit of the rows' numbers changes places with the same of the bits' numbers.
    #[inline(always)]
    fn swap<const SHIFT: i32>(self, rows: &mut [__m256i; 8], distance: usize, mask: u64) {
        let (avx2, mask) = (self.avx2, cast([mask; 4]));
        for low in 0..8 {
            if low & distance == 0 {
                let (a, b) = (rows[low], rows[low | distance]);
                let differ = avx2._mm256_xor_si256(avx2._mm256_srli_epi64::<SHIFT>(a), b);
                let swapped = avx2._mm256_and_si256(differ, mask);
                rows[low | distance] = avx2._mm256_xor_si256(b, swapped);
                rows[low] = avx2._mm256_xor_si256(a, avx2._mm256_slli_epi64::<SHIFT>(swapped));
            }
        }
    }

    /// Takes a byte from each of `N` registers (1, 2, 4 or 8) in turn, within each half.
    #[inline(always)]
    fn interleave<const N: usize>(self, mut words: [__m256i; N]) -> [__m256i; N] {
        let avx2 = self.avx2;
        // Runs of so many registers are in order, in elements of as many bytes; two runs become one.
        let mut run = 1;
        while run < N {
            let mut merged = words;
            for at in 0..N / 2 {
                let first = at / run * 2 * run + at % run;
                let (a, b) = (words[first], words[first + run]);
                let (low, high) = match run {
                    1 => (avx2._mm256_unpacklo_epi8(a, b), avx2._mm256_unpackhi_epi8(a, b)),
                    2 => (avx2._mm256_unpacklo_epi16(a, b), avx2._mm256_unpackhi_epi16(a, b)),
                    _ => (avx2._mm256_unpacklo_epi32(a, b), avx2._mm256_unpackhi_epi32(a, b)),
                };
                (merged[2 * at], merged[2 * at + 1]) = (low, high);
            }
            words = merged;
            run *= 2;
        }
        words
    }
}

struct Unshuffle<'a, const E: usize> {
    simd: Avx2,
    rows: &'a [u8],
    items: &'a mut [u8],
}

impl<const E: usize> NullaryFnOnce for Unshuffle<'_, E> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let pieces = self.items.as_chunks_mut::<PIECE_BYTES>().0.chunks_exact_mut(8 * E);
        let count = pieces.len();
        for (at, items) in pieces.enumerate() {
            self.simd.unshuffle_piece::<E>(self.rows, at, items);
        }
        count * PIECE_BYTES
    }
}
