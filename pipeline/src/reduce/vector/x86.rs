//! [`Multiply`] with the vector instructions of x86-64.

use super::*;
use core::arch::x86_64::{__m128, __m128i, __m256, __m256d, __m256i, __m512, __m512d, __m512i};

pulp::simd_type! {
    /// AVX2.
    pub(in super::super) struct Avx2 {
        pub sse: "sse",
        pub sse2: "sse2",
        pub ssse3: "ssse3",
        pub sse4_1: "sse4.1",
        pub sse4_2: "sse4.2",
        pub avx: "avx",
        pub avx2: "avx2",
        pub bmi1: "bmi1",
        pub bmi2: "bmi2",
        pub fma: "fma",
    }
    /// AVX-512 with VNNI: Ice Lake, Zen 4 and later.
    pub(in super::super) struct Vnni {
        pub sse: "sse",
        pub sse2: "sse2",
        pub ssse3: "ssse3",
        pub sse4_1: "sse4.1",
        pub sse4_2: "sse4.2",
        pub avx: "avx",
        pub avx2: "avx2",
        pub bmi1: "bmi1",
        pub bmi2: "bmi2",
        pub fma: "fma",
        pub avx512f: "avx512f",
        pub avx512bw: "avx512bw",
        pub avx512cd: "avx512cd",
        pub avx512dq: "avx512dq",
        pub avx512vl: "avx512vl",
        pub avx512vnni: "avx512vnni",
    }
}

/// Rows to columns: pairs of rows, then pairs of pairs, then halves.
#[inline(always)]
fn transpose(avx: pulp::core_arch::x86::Avx, rows: &[__m256; 8]) -> [__m256; 8] {
    let [a, b] = [fours(avx, [rows[0], rows[1], rows[2], rows[3]]), fours(avx, [rows[4], rows[5], rows[6], rows[7]])];
    [
        avx._mm256_permute2f128_ps::<0x20>(a[0], b[0]),
        avx._mm256_permute2f128_ps::<0x20>(a[1], b[1]),
        avx._mm256_permute2f128_ps::<0x20>(a[2], b[2]),
        avx._mm256_permute2f128_ps::<0x20>(a[3], b[3]),
        avx._mm256_permute2f128_ps::<0x31>(a[0], b[0]),
        avx._mm256_permute2f128_ps::<0x31>(a[1], b[1]),
        avx._mm256_permute2f128_ps::<0x31>(a[2], b[2]),
        avx._mm256_permute2f128_ps::<0x31>(a[3], b[3]),
    ]
}

/// Of four rows, columns `i` and `i + 4` in one register.
#[inline(always)]
fn fours(avx: pulp::core_arch::x86::Avx, [a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    let (low_ab, high_ab): (__m256d, __m256d) =
        (cast(avx._mm256_unpacklo_ps(a, b)), cast(avx._mm256_unpackhi_ps(a, b)));
    let (low_cd, high_cd): (__m256d, __m256d) =
        (cast(avx._mm256_unpacklo_ps(c, d)), cast(avx._mm256_unpackhi_ps(c, d)));
    [
        cast(avx._mm256_unpacklo_pd(low_ab, low_cd)),
        cast(avx._mm256_unpackhi_pd(low_ab, low_cd)),
        cast(avx._mm256_unpacklo_pd(high_ab, high_cd)),
        cast(avx._mm256_unpackhi_pd(high_ab, high_cd)),
    ]
}

impl Multiply for Avx2 {
    type Sums = __m256i;
    const IS_WIDE: bool = false;

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> __m256i {
        let [low, _]: [__m256i; 2] = cast(lanes.0);
        low
    }

    #[inline(always)]
    fn store(self, sums: __m256i, lanes: &mut Lanes) {
        lanes.0 = cast([sums, self.avx._mm256_setzero_si256()]);
    }

    #[inline(always)]
    fn add(self, sums: __m256i, pixels: &[i16; BLOCK_PIXELS], weights: &Weights) -> __m256i {
        let (pixels, weights): ([__m256i; 2], [__m256i; 2]) = (cast(*pixels), cast(weights.0));
        let sums = self.avx2._mm256_add_epi32(sums, self.avx2._mm256_madd_epi16(pixels[0], weights[0]));
        self.avx2._mm256_add_epi32(sums, self.avx2._mm256_madd_epi16(pixels[1], weights[1]))
    }

    #[inline(always)]
    fn prefetch(self, byte: &u8) {
        self.sse._mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(core::ptr::from_ref(byte).cast());
    }

    type Single = __m256;

    #[inline(always)]
    fn no_single(self) -> __m256 {
        self.avx._mm256_setzero_ps()
    }

    #[inline(always)]
    fn add_single(self, sums: __m256, pixels: &[f32; 8], weights: &[f32; 8]) -> __m256 {
        self.fma._mm256_fmadd_ps(cast(*pixels), cast(*weights), sums)
    }

    #[inline(always)]
    fn fold_single(self, sums: __m256) -> [f64; 4] {
        let [low, high]: [__m128; 2] = cast(sums);
        cast(self.avx._mm256_add_pd(self.avx._mm256_cvtps_pd(low), self.avx._mm256_cvtps_pd(high)))
    }

    type FourSingles = [__m256; 4];

    #[inline(always)]
    fn no_four_singles(self) -> [__m256; 4] {
        [self.no_single(); 4]
    }

    #[inline(always)]
    fn add_four_singles(self, sums: [__m256; 4], pixels: &[f32; 8], rows: &[[f32; 8]; 4]) -> [__m256; 4] {
        let ([a, b, c, d], [e, f, g, h]) = (sums, rows);
        [
            self.add_single(a, pixels, e),
            self.add_single(b, pixels, f),
            self.add_single(c, pixels, g),
            self.add_single(d, pixels, h),
        ]
    }

    #[inline(always)]
    fn fold_four_singles(self, sums: [__m256; 4]) -> [[f64; 4]; 4] {
        let [a, b, c, d] = sums;
        [self.fold_single(a), self.fold_single(b), self.fold_single(c), self.fold_single(d)]
    }

    type Double = __m256d;

    #[inline(always)]
    fn no_double(self) -> __m256d {
        self.avx._mm256_setzero_pd()
    }

    #[inline(always)]
    fn add_double(self, sums: __m256d, pixels: &[f32; 4], weights: &[f64; 4]) -> __m256d {
        self.fma._mm256_fmadd_pd(self.avx._mm256_cvtps_pd(cast(*pixels)), cast(*weights), sums)
    }

    #[inline(always)]
    fn fold_double(self, sums: __m256d) -> [f64; 4] {
        cast(sums)
    }

    type FourDoubles = [__m256d; 4];

    #[inline(always)]
    fn no_four_doubles(self) -> [__m256d; 4] {
        [self.no_double(); 4]
    }

    #[inline(always)]
    fn add_four_doubles(self, sums: [__m256d; 4], pixels: &[f32; 4], rows: &[[f64; 4]; 4]) -> [__m256d; 4] {
        let ([a, b, c, d], [e, f, g, h]) = (sums, rows);
        [
            self.add_double(a, pixels, e),
            self.add_double(b, pixels, f),
            self.add_double(c, pixels, g),
            self.add_double(d, pixels, h),
        ]
    }

    #[inline(always)]
    fn fold_four_doubles(self, sums: [__m256d; 4]) -> [[f64; 4]; 4] {
        let [a, b, c, d] = sums;
        [self.fold_double(a), self.fold_double(b), self.fold_double(c), self.fold_double(d)]
    }

    type Eight = [__m256d; 2];

    #[inline(always)]
    fn eight(self, numbers: &[f64; 8]) -> [__m256d; 2] {
        cast(*numbers)
    }

    #[inline(always)]
    fn add_eight(self, sums: [__m256d; 2], numbers: &[f32; 8], weight: f64) -> [__m256d; 2] {
        let ([low, high], weight) = (cast::<_, [__m128; 2]>(*numbers), self.avx._mm256_set1_pd(weight));
        [
            self.fma._mm256_fmadd_pd(self.avx._mm256_cvtps_pd(low), weight, sums[0]),
            self.fma._mm256_fmadd_pd(self.avx._mm256_cvtps_pd(high), weight, sums[1]),
        ]
    }

    #[inline(always)]
    fn add_eight_shorts(self, sums: [__m256d; 2], numbers: &[u16; 8], weight: f64) -> [__m256d; 2] {
        let [low, high]: [__m128i; 2] = cast(self.avx2._mm256_cvtepu16_epi32(cast(*numbers)));
        let weight = self.avx._mm256_set1_pd(weight);
        [
            self.fma._mm256_fmadd_pd(self.avx._mm256_cvtepi32_pd(low), weight, sums[0]),
            self.fma._mm256_fmadd_pd(self.avx._mm256_cvtepi32_pd(high), weight, sums[1]),
        ]
    }

    #[inline(always)]
    fn fold_eight(self, [low, high]: [__m256d; 2], into: &mut [f64; 8]) {
        let [a, b]: [__m256d; 2] = cast(*into);
        *into = cast([self.avx._mm256_add_pd(a, low), self.avx._mm256_add_pd(b, high)]);
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; 8]; 8], columns: &mut [[f32; 8]; 8]) {
        let [a, b, c, d, e, f, g, h] = rows;
        *columns = cast(transpose(self.avx, &cast([*a, *b, *c, *d, *e, *f, *g, *h])));
    }

    #[inline(always)]
    fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>) {
        self.vectorize(work);
    }
}

impl Multiply for Vnni {
    type Sums = __m512i;
    const IS_WIDE: bool = true;

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> __m512i {
        cast(lanes.0)
    }

    #[inline(always)]
    fn store(self, sums: __m512i, lanes: &mut Lanes) {
        lanes.0 = cast(sums);
    }

    #[inline(always)]
    fn add(self, sums: __m512i, pixels: &[i16; BLOCK_PIXELS], weights: &Weights) -> __m512i {
        let products = self.avx512bw._mm512_madd_epi16(cast(*pixels), cast(weights.0));
        self.avx512f._mm512_add_epi32(sums, products)
    }

    #[inline(always)]
    fn prefetch(self, byte: &u8) {
        self.sse._mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(core::ptr::from_ref(byte).cast());
    }

    type Single = __m256;

    #[inline(always)]
    fn no_single(self) -> __m256 {
        self.avx._mm256_setzero_ps()
    }

    #[inline(always)]
    fn add_single(self, sums: __m256, pixels: &[f32; 8], weights: &[f32; 8]) -> __m256 {
        self.fma._mm256_fmadd_ps(cast(*pixels), cast(*weights), sums)
    }

    #[inline(always)]
    fn fold_single(self, sums: __m256) -> [f64; 4] {
        let [low, high]: [__m128; 2] = cast(sums);
        cast(self.avx._mm256_add_pd(self.avx._mm256_cvtps_pd(low), self.avx._mm256_cvtps_pd(high)))
    }

    /// Two rows in each register.
    type FourSingles = [__m512; 2];

    #[inline(always)]
    fn no_four_singles(self) -> [__m512; 2] {
        [self.avx512f._mm512_setzero_ps(); 2]
    }

    #[inline(always)]
    fn add_four_singles(self, sums: [__m512; 2], pixels: &[f32; 8], rows: &[[f32; 8]; 4]) -> [__m512; 2] {
        let (pixels, rows): (__m512, [__m512; 2]) = (cast([*pixels; 2]), cast(*rows));
        let ([a, b], [c, d]) = (sums, rows);
        [self.avx512f._mm512_fmadd_ps(pixels, c, a), self.avx512f._mm512_fmadd_ps(pixels, d, b)]
    }

    #[inline(always)]
    fn fold_four_singles(self, sums: [__m512; 2]) -> [[f64; 4]; 4] {
        let [a, b, c, d]: [__m256; 4] = cast(sums);
        [self.fold_single(a), self.fold_single(b), self.fold_single(c), self.fold_single(d)]
    }

    type Double = __m256d;

    #[inline(always)]
    fn no_double(self) -> __m256d {
        self.avx._mm256_setzero_pd()
    }

    #[inline(always)]
    fn add_double(self, sums: __m256d, pixels: &[f32; 4], weights: &[f64; 4]) -> __m256d {
        self.fma._mm256_fmadd_pd(self.avx._mm256_cvtps_pd(cast(*pixels)), cast(*weights), sums)
    }

    #[inline(always)]
    fn fold_double(self, sums: __m256d) -> [f64; 4] {
        cast(sums)
    }

    /// Two rows in each register.
    type FourDoubles = [__m512d; 2];

    #[inline(always)]
    fn no_four_doubles(self) -> [__m512d; 2] {
        [self.avx512f._mm512_setzero_pd(); 2]
    }

    #[inline(always)]
    fn add_four_doubles(self, sums: [__m512d; 2], pixels: &[f32; 4], rows: &[[f64; 4]; 4]) -> [__m512d; 2] {
        let (pixels, rows): (__m256, [__m512d; 2]) = (cast([*pixels; 2]), cast(*rows));
        let pixels = self.avx512f._mm512_cvtps_pd(pixels);
        let ([a, b], [c, d]) = (sums, rows);
        [self.avx512f._mm512_fmadd_pd(pixels, c, a), self.avx512f._mm512_fmadd_pd(pixels, d, b)]
    }

    #[inline(always)]
    fn fold_four_doubles(self, sums: [__m512d; 2]) -> [[f64; 4]; 4] {
        cast(sums)
    }

    type Eight = __m512d;

    #[inline(always)]
    fn eight(self, numbers: &[f64; 8]) -> __m512d {
        cast(*numbers)
    }

    #[inline(always)]
    fn add_eight(self, sums: __m512d, numbers: &[f32; 8], weight: f64) -> __m512d {
        let numbers = self.avx512f._mm512_cvtps_pd(cast(*numbers));
        self.avx512f._mm512_fmadd_pd(numbers, self.avx512f._mm512_set1_pd(weight), sums)
    }

    #[inline(always)]
    fn add_eight_shorts(self, sums: __m512d, numbers: &[u16; 8], weight: f64) -> __m512d {
        let numbers = self.avx512f._mm512_cvtepi32_pd(self.avx2._mm256_cvtepu16_epi32(cast(*numbers)));
        self.avx512f._mm512_fmadd_pd(numbers, self.avx512f._mm512_set1_pd(weight), sums)
    }

    #[inline(always)]
    fn fold_eight(self, numbers: __m512d, into: &mut [f64; 8]) {
        *into = cast(self.avx512f._mm512_add_pd(cast(*into), numbers));
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; 8]; 8], columns: &mut [[f32; 8]; 8]) {
        let [a, b, c, d, e, f, g, h] = rows;
        *columns = cast(transpose(self.avx, &cast([*a, *b, *c, *d, *e, *f, *g, *h])));
    }

    #[inline(always)]
    fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>) {
        self.vectorize(work);
    }
}
