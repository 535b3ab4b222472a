//! Multiply-and-add of sixteen-bit integers with the widest instructions the processor has.
//!
//! # Place in the path
//! [`super::dot`] is written once over [`Multiply`] and compiled for each of its implementations; [`Machine`] picks one
//! when a reducer is made.
//!
//! # Why this way
//! `pmaddwd` multiplies pairs of 16-bit integers and adds each pair: four times as many products per instruction as in
//! double precision, and exact. Compilers find it in some loops and not in others, so it is named here, through the safe
//! tokens of `pulp`. AVX-512 with VNNI multiplies, adds the pair and adds to the sum in one instruction: the compiler
//! makes that of the two where the token allows it.

use pulp::cast;

/// Pixels in a block: one register of the widest kind.
pub(super) const BLOCK_PIXELS: usize = 32;

/// Weights of the pixels of a block.
#[repr(align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Weights(pub(super) [i16; BLOCK_PIXELS]);

/// Partial sums of one row of weights and one frame; where they begin and how they are dealt out is the processor's.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes(pub(super) [i32; 16]);

/// Eight numbers of 64 bits, aligned like a register.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Block64<T>(pub(super) [T; 8]);

/// Sums of [`Lanes`] where they have 64 bits.
pub(super) type Wide = Block64<i64>;

/// Vector instructions of one kind of processor.
///
/// A lane takes at most four products per block, so sums stay in range while `4 * blocks * |pixel| * |weight| <= 2^31`.
pub(super) trait Multiply: Copy {
    /// Sums in a register.
    type Sums: Copy;
    /// Whether there are registers for the sums of two rows and eight frames; half as many frames otherwise.
    const IS_WIDE: bool;

    fn load(self, lanes: &Lanes) -> Self::Sums;
    fn store(self, sums: Self::Sums, lanes: &mut Lanes);
    /// Adds the products of a block to the sums.
    fn add(self, sums: Self::Sums, pixels: &[i16; BLOCK_PIXELS], weights: &Weights) -> Self::Sums;
    /// Asks for the cache line of a byte.
    fn prefetch(self, byte: &u8);
    /// Runs `work` with the instructions of this processor.
    fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>);
}

/// Moves sums to where they have 64 bits, and starts again from 0.
#[inline(always)]
pub(super) fn widen(lanes: &mut Lanes, into: &mut Wide) {
    // Two lanes read as one 64-bit number: shifts are cheaper than moving lanes between registers.
    let pairs: [i64; 8] = cast(lanes.0);
    for (wide, pair) in into.0.iter_mut().zip(pairs) {
        *wide += (pair << 32 >> 32) + (pair >> 32);
    }
    lanes.0 = [0; 16];
}

/// What every processor can do; compilers make vector code of it where they can.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Multiply for Plain {
    type Sums = [i32; 16];
    const IS_WIDE: bool = false;

    #[inline(always)]
    fn load(self, lanes: &Lanes) -> [i32; 16] {
        lanes.0
    }

    #[inline(always)]
    fn store(self, sums: [i32; 16], lanes: &mut Lanes) {
        lanes.0 = sums;
    }

    #[inline(always)]
    fn add(self, mut sums: [i32; 16], pixels: &[i16; BLOCK_PIXELS], weights: &Weights) -> [i32; 16] {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let product = |at: usize| i32::from(pixels[at]) * i32::from(weights.0[at]);
            *sum = sum.wrapping_add(product(lane)).wrapping_add(product(lane + 16));
        }
        sums
    }

    #[inline(always)]
    fn prefetch(self, _: &u8) {}

    fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>) {
        work.call();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use core::arch::x86_64::{__m256i, __m512i};

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

        #[inline(always)]
        fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>) {
            self.vectorize(work);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Vnni};

/// The processor this program runs on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Machine {
    Plain(Plain),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
}

impl Machine {
    /// Everything this processor can do, the best first.
    pub(super) fn all() -> Vec<Self> {
        let mut machines = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            machines.extend(Vnni::try_new().map(Self::Vnni));
            machines.extend(Avx2::try_new().map(Self::Avx2));
        }
        machines.push(Self::Plain(Plain));
        machines
    }

    /// The best this processor can do.
    pub(super) fn best() -> Self {
        Self::all().first().copied().unwrap_or(Self::Plain(Plain))
    }
}
