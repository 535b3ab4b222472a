//! Multiply-and-add with the widest instructions the processor has: of sixteen-bit integers, and in floating point.
//!
//! # Place in the path
//! [`super::dot`] and [`super::dot_float`] are written once over [`Multiply`] and compiled for each of its
//! implementations; [`Machine`] picks one when a reducer is made.
//!
//! # Why this way
//! `pmaddwd` multiplies pairs of 16-bit integers and adds each pair: four times as many products per instruction as in
//! double precision, and exact. Compilers find it in some loops and not in others, so it is named here, through the safe
//! tokens of `pulp`. AVX-512 with VNNI multiplies, adds the pair and adds to the sum in one instruction: the compiler
//! makes that of the two where the token allows it.

pub(super) use pulp::cast;

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
pub(super) trait Multiply: Packed {
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

    /// Sums of one row in single precision: eight lanes.
    type Single: Copy;
    fn no_single(self) -> Self::Single;
    /// Adds products of eight pixels, each rounded once with its sum.
    fn add_single(self, sums: Self::Single, pixels: &[f32; 8], weights: &[f32; 8]) -> Self::Single;
    /// Lanes `i` and `i + 4` added in double precision.
    fn fold_single(self, sums: Self::Single) -> [f64; 4];

    /// The same of four rows.
    type FourSingles: Copy;
    fn no_four_singles(self) -> Self::FourSingles;
    fn add_four_singles(self, sums: Self::FourSingles, pixels: &[f32; 8], rows: &[[f32; 8]; 4]) -> Self::FourSingles;
    fn fold_four_singles(self, sums: Self::FourSingles) -> [[f64; 4]; 4];

    /// Sums of one row in double precision: four lanes.
    type Double: Copy;
    fn no_double(self) -> Self::Double;
    /// Adds products of four pixels, each rounded once with its sum.
    fn add_double(self, sums: Self::Double, pixels: &[f32; 4], weights: &[f64; 4]) -> Self::Double;
    fn fold_double(self, sums: Self::Double) -> [f64; 4];

    /// The same of four rows.
    type FourDoubles: Copy;
    fn no_four_doubles(self) -> Self::FourDoubles;
    fn add_four_doubles(self, sums: Self::FourDoubles, pixels: &[f32; 4], rows: &[[f64; 4]; 4]) -> Self::FourDoubles;
    fn fold_four_doubles(self, sums: Self::FourDoubles) -> [[f64; 4]; 4];

    /// Eight numbers in double precision.
    type Eight: Copy;
    fn eight(self, numbers: &[f64; 8]) -> Self::Eight;
    /// Adds eight numbers times one, each product rounded once with its sum.
    fn add_eight(self, sums: Self::Eight, numbers: &[f32; 8], weight: f64) -> Self::Eight;
    /// The same of eight unsigned integers.
    fn add_eight_shorts(self, sums: Self::Eight, numbers: &[u16; 8], weight: f64) -> Self::Eight;
    /// Adds to eight sums.
    fn fold_eight(self, numbers: Self::Eight, into: &mut [f64; 8]);
    /// Turns rows into columns.
    fn transpose(self, rows: [&[f32; 8]; 8], columns: &mut [[f32; 8]; 8]);

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

    type Single = [f32; 8];

    #[inline(always)]
    fn no_single(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    fn add_single(self, sums: [f32; 8], pixels: &[f32; 8], weights: &[f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| pixels[lane].mul_add(weights[lane], sums[lane]))
    }

    #[inline(always)]
    fn fold_single(self, sums: [f32; 8]) -> [f64; 4] {
        std::array::from_fn(|lane| f64::from(sums[lane]) + f64::from(sums[lane + 4]))
    }

    type FourSingles = [[f32; 8]; 4];

    #[inline(always)]
    fn no_four_singles(self) -> [[f32; 8]; 4] {
        [self.no_single(); 4]
    }

    #[inline(always)]
    fn add_four_singles(self, sums: [[f32; 8]; 4], pixels: &[f32; 8], rows: &[[f32; 8]; 4]) -> [[f32; 8]; 4] {
        let ([a, b, c, d], [e, f, g, h]) = (sums, rows);
        [
            self.add_single(a, pixels, e),
            self.add_single(b, pixels, f),
            self.add_single(c, pixels, g),
            self.add_single(d, pixels, h),
        ]
    }

    #[inline(always)]
    fn fold_four_singles(self, sums: [[f32; 8]; 4]) -> [[f64; 4]; 4] {
        let [a, b, c, d] = sums;
        [self.fold_single(a), self.fold_single(b), self.fold_single(c), self.fold_single(d)]
    }

    type Double = [f64; 4];

    #[inline(always)]
    fn no_double(self) -> [f64; 4] {
        [0.0; 4]
    }

    #[inline(always)]
    fn add_double(self, sums: [f64; 4], pixels: &[f32; 4], weights: &[f64; 4]) -> [f64; 4] {
        std::array::from_fn(|lane| f64::from(pixels[lane]).mul_add(weights[lane], sums[lane]))
    }

    #[inline(always)]
    fn fold_double(self, sums: [f64; 4]) -> [f64; 4] {
        sums
    }

    type FourDoubles = [[f64; 4]; 4];

    #[inline(always)]
    fn no_four_doubles(self) -> [[f64; 4]; 4] {
        [self.no_double(); 4]
    }

    #[inline(always)]
    fn add_four_doubles(self, sums: [[f64; 4]; 4], pixels: &[f32; 4], rows: &[[f64; 4]; 4]) -> [[f64; 4]; 4] {
        let ([a, b, c, d], [e, f, g, h]) = (sums, rows);
        [
            self.add_double(a, pixels, e),
            self.add_double(b, pixels, f),
            self.add_double(c, pixels, g),
            self.add_double(d, pixels, h),
        ]
    }

    #[inline(always)]
    fn fold_four_doubles(self, sums: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
        let [a, b, c, d] = sums;
        [self.fold_double(a), self.fold_double(b), self.fold_double(c), self.fold_double(d)]
    }

    type Eight = [f64; 8];

    #[inline(always)]
    fn eight(self, numbers: &[f64; 8]) -> [f64; 8] {
        *numbers
    }

    #[inline(always)]
    fn add_eight(self, sums: [f64; 8], numbers: &[f32; 8], weight: f64) -> [f64; 8] {
        std::array::from_fn(|lane| f64::from(numbers[lane]).mul_add(weight, sums[lane]))
    }

    #[inline(always)]
    fn add_eight_shorts(self, sums: [f64; 8], numbers: &[u16; 8], weight: f64) -> [f64; 8] {
        std::array::from_fn(|lane| f64::from(numbers[lane]).mul_add(weight, sums[lane]))
    }

    #[inline(always)]
    fn fold_eight(self, numbers: [f64; 8], into: &mut [f64; 8]) {
        into.iter_mut().zip(numbers).for_each(|(into, number)| *into += number);
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; 8]; 8], columns: &mut [[f32; 8]; 8]) {
        for (x, column) in columns.iter_mut().enumerate() {
            *column = rows.map(|row| row[x]);
        }
    }

    fn run(self, work: impl pulp::NullaryFnOnce<Output = ()>) {
        work.call();
    }
}

mod packed;
#[cfg(target_arch = "x86_64")]
mod x86;
pub(super) use packed::{Bytes, Packed, place_of, transpose};
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
