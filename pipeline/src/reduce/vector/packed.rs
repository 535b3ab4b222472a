//! Integers of 8, 16 and 32 bits packed in a register of 32 bytes.
//!
//! # Units
//! A register is two halves of 16 bytes: whatever joins or interleaves works on each half by itself, as x86-64 does. 8 lanes of 16
//! bits are a half.
//!
//! # Why this way
//! Registers of 32 bytes on every processor: sixteen frames side by side fill one with 16-bit lanes, and more frames than that meet in the
//! same sets of a cache when they are read ([`super::super::stage`]).

use super::{Plain, cast};

/// A register as bytes.
pub(in crate::reduce) type Bytes = [u8; 32];

/// Instructions on packed integers; sums wrap.
pub(in crate::reduce) trait Packed: Copy {
    /// A register.
    type Register: Copy;

    fn pack(self, bytes: &Bytes) -> Self::Register;
    fn unpack(self, register: Self::Register) -> Bytes;
    /// One number in all lanes of 32 bits.
    fn splat(self, number: u32) -> Self::Register;
    /// Two halves.
    fn join(self, low: &[u16; 8], high: &[u16; 8]) -> Self::Register;
    fn or(self, a: Self::Register, b: Self::Register) -> Self::Register;
    /// Lanes of 16 bits as bytes, those of `a` before those of `b`; they must be below 256.
    fn narrow(self, a: Self::Register, b: Self::Register) -> Self::Register;
    /// The low byte of each lane of 16 bits.
    fn low_bytes(self, a: Self::Register) -> Self::Register;
    /// The high byte of each lane of 16 bits.
    fn high_bytes(self, a: Self::Register) -> Self::Register;
    /// Lanes of 16 bits by turns: of the first and of the second parts of halves.
    fn interleave_16(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2];
    fn interleave_32(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2];
    fn interleave_64(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2];
    fn add_16(self, a: Self::Register, b: Self::Register) -> Self::Register;
    fn add_32(self, a: Self::Register, b: Self::Register) -> Self::Register;
    /// Of unsigned lanes.
    fn max_16(self, a: Self::Register, b: Self::Register) -> Self::Register;
    /// Unsigned bytes times signed ones, added in pairs: below 2^15 in magnitude.
    fn multiply_8(self, unsigned: Self::Register, signed: Self::Register) -> Self::Register;
    /// Signed lanes of 16 bits multiplied, products added in pairs.
    fn multiply_16(self, a: Self::Register, b: Self::Register) -> Self::Register;
}

/// Lanes `N` of halves by turns, of two registers.
fn interleave<T: Copy, const N: usize>(a: [T; N], b: [T; N]) -> [[T; N]; 2] {
    [0, 1].map(|part| {
        std::array::from_fn(|lane| {
            let (half, at) = (lane / (N / 2), lane % (N / 2));
            let from = half * (N / 2) + part * (N / 4) + at / 2;
            if at % 2 == 0 { a[from] } else { b[from] }
        })
    })
}

fn lanes<T, const N: usize>(lane: impl FnMut(usize) -> T) -> [T; N] {
    std::array::from_fn(lane)
}

impl Packed for Plain {
    type Register = Bytes;

    #[inline(always)]
    fn pack(self, bytes: &Bytes) -> Bytes {
        *bytes
    }

    #[inline(always)]
    fn unpack(self, register: Bytes) -> Bytes {
        register
    }

    #[inline(always)]
    fn splat(self, number: u32) -> Bytes {
        cast([number; 8])
    }

    #[inline(always)]
    fn join(self, low: &[u16; 8], high: &[u16; 8]) -> Bytes {
        cast([*low, *high])
    }

    #[inline(always)]
    fn or(self, a: Bytes, b: Bytes) -> Bytes {
        lanes(|at| a[at] | b[at])
    }

    #[inline(always)]
    fn narrow(self, a: Bytes, b: Bytes) -> Bytes {
        let (a, b): ([[u16; 8]; 2], [[u16; 8]; 2]) = (cast(a), cast(b));
        lanes(|at| (if at % 16 < 8 { a[at / 16][at % 8] } else { b[at / 16][at % 8] }) as u8)
    }

    #[inline(always)]
    fn low_bytes(self, a: Bytes) -> Bytes {
        let a: [u16; 16] = cast(a);
        cast(a.map(|lane| lane & 0xff))
    }

    #[inline(always)]
    fn high_bytes(self, a: Bytes) -> Bytes {
        let a: [u16; 16] = cast(a);
        cast(a.map(|lane| lane >> 8))
    }

    #[inline(always)]
    fn interleave_16(self, a: Bytes, b: Bytes) -> [Bytes; 2] {
        interleave::<u16, 16>(cast(a), cast(b)).map(cast)
    }

    #[inline(always)]
    fn interleave_32(self, a: Bytes, b: Bytes) -> [Bytes; 2] {
        interleave::<u32, 8>(cast(a), cast(b)).map(cast)
    }

    #[inline(always)]
    fn interleave_64(self, a: Bytes, b: Bytes) -> [Bytes; 2] {
        interleave::<u64, 4>(cast(a), cast(b)).map(cast)
    }

    #[inline(always)]
    fn add_16(self, a: Bytes, b: Bytes) -> Bytes {
        let (a, b): ([u16; 16], [u16; 16]) = (cast(a), cast(b));
        cast(lanes::<u16, 16>(|at| a[at].wrapping_add(b[at])))
    }

    #[inline(always)]
    fn add_32(self, a: Bytes, b: Bytes) -> Bytes {
        let (a, b): ([u32; 8], [u32; 8]) = (cast(a), cast(b));
        cast(lanes::<u32, 8>(|at| a[at].wrapping_add(b[at])))
    }

    #[inline(always)]
    fn max_16(self, a: Bytes, b: Bytes) -> Bytes {
        let (a, b): ([u16; 16], [u16; 16]) = (cast(a), cast(b));
        cast(lanes::<u16, 16>(|at| a[at].max(b[at])))
    }

    #[inline(always)]
    fn multiply_8(self, unsigned: Bytes, signed: Bytes) -> Bytes {
        let product = |at: usize| i16::from(unsigned[at]) * i16::from(signed[at] as i8);
        cast(lanes::<i16, 16>(|at| product(2 * at) + product(2 * at + 1)))
    }

    #[inline(always)]
    fn multiply_16(self, a: Bytes, b: Bytes) -> Bytes {
        let (a, b): ([i16; 16], [i16; 16]) = (cast(a), cast(b));
        let product = |at: usize| i32::from(a[at]) * i32::from(b[at]);
        cast(lanes::<i32, 8>(|at| product(2 * at).wrapping_add(product(2 * at + 1))))
    }
}

/// AVX2, which every token here has.
#[cfg(target_arch = "x86_64")]
macro_rules! with_avx2 {
    ($token:ty) => {
        impl Packed for $token {
            type Register = core::arch::x86_64::__m256i;

            #[inline(always)]
            fn pack(self, bytes: &Bytes) -> Self::Register {
                cast(*bytes)
            }

            #[inline(always)]
            fn unpack(self, register: Self::Register) -> Bytes {
                cast(register)
            }

            #[inline(always)]
            fn splat(self, number: u32) -> Self::Register {
                self.avx._mm256_set1_epi32(number as i32)
            }

            #[inline(always)]
            fn join(self, low: &[u16; 8], high: &[u16; 8]) -> Self::Register {
                let low = self.avx._mm256_castsi128_si256(cast(*low));
                self.avx2._mm256_inserti128_si256::<1>(low, cast(*high))
            }

            #[inline(always)]
            fn or(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_or_si256(a, b)
            }

            #[inline(always)]
            fn narrow(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_packus_epi16(a, b)
            }

            #[inline(always)]
            fn low_bytes(self, a: Self::Register) -> Self::Register {
                self.avx2._mm256_and_si256(a, self.avx._mm256_set1_epi16(0xff))
            }

            #[inline(always)]
            fn high_bytes(self, a: Self::Register) -> Self::Register {
                self.avx2._mm256_srli_epi16::<8>(a)
            }

            #[inline(always)]
            fn interleave_16(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2] {
                [self.avx2._mm256_unpacklo_epi16(a, b), self.avx2._mm256_unpackhi_epi16(a, b)]
            }

            #[inline(always)]
            fn interleave_32(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2] {
                [self.avx2._mm256_unpacklo_epi32(a, b), self.avx2._mm256_unpackhi_epi32(a, b)]
            }

            #[inline(always)]
            fn interleave_64(self, a: Self::Register, b: Self::Register) -> [Self::Register; 2] {
                [self.avx2._mm256_unpacklo_epi64(a, b), self.avx2._mm256_unpackhi_epi64(a, b)]
            }

            #[inline(always)]
            fn add_16(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_add_epi16(a, b)
            }

            #[inline(always)]
            fn add_32(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_add_epi32(a, b)
            }

            #[inline(always)]
            fn max_16(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_max_epu16(a, b)
            }

            #[inline(always)]
            fn multiply_8(self, unsigned: Self::Register, signed: Self::Register) -> Self::Register {
                self.avx2._mm256_maddubs_epi16(unsigned, signed)
            }

            #[inline(always)]
            fn multiply_16(self, a: Self::Register, b: Self::Register) -> Self::Register {
                self.avx2._mm256_madd_epi16(a, b)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
with_avx2!(super::Avx2);
#[cfg(target_arch = "x86_64")]
with_avx2!(super::Vnni);

/// Sixteen rows of eight lanes of 16 bits, two of them in each register (`i` and `i + 8`), as eight columns of sixteen.
#[inline(always)]
pub(in crate::reduce) fn transpose<V: Packed>(vector: V, rows: [V::Register; 8]) -> [V::Register; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let ([ab, ab_high], [cd, cd_high]) = (vector.interleave_16(a, b), vector.interleave_16(c, d));
    let ([ef, ef_high], [gh, gh_high]) = (vector.interleave_16(e, f), vector.interleave_16(g, h));
    let ([p, q], [r, s]) = (vector.interleave_32(ab, cd), vector.interleave_32(ab_high, cd_high));
    let ([t, u], [v, w]) = (vector.interleave_32(ef, gh), vector.interleave_32(ef_high, gh_high));
    let ([i, j], [k, l]) = (vector.interleave_64(p, t), vector.interleave_64(q, u));
    let ([m, n], [o, x]) = (vector.interleave_64(r, v), vector.interleave_64(s, w));
    [i, j, k, l, m, n, o, x]
}

/// Where the numbers of sixteen frames lie after lanes of 16 bits became lanes of 32 by [`Packed::interleave_16`]: those of frames 0 to 3
/// and 8 to 11 are in the first register, the others in the second.
pub(in crate::reduce) fn place_of(frame: usize) -> usize {
    (frame / 4 % 2) * 8 + frame / 8 * 4 + frame % 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::vector::Machine;
    use proptest::prelude::*;

    fn all<V: Packed>(vector: V, a: &Bytes, b: &Bytes) -> Vec<Bytes> {
        let (x, y) = (vector.pack(a), vector.pack(b));
        let small: Bytes = a.map(|byte| byte & 63);
        let halves: [[u16; 8]; 2] = cast(*a);
        let mut made = vec![
            vector.splat(0x0102_0304),
            vector.join(&halves[1], &halves[0]),
            vector.or(x, y),
            vector.narrow(vector.low_bytes(x), vector.high_bytes(y)),
            vector.add_16(x, y),
            vector.add_32(x, y),
            vector.max_16(x, y),
            vector.multiply_8(y, vector.pack(&small)),
            vector.multiply_16(x, y),
        ];
        let pairs = [vector.interleave_16(x, y), vector.interleave_32(x, y), vector.interleave_64(x, y)];
        made.extend(pairs.into_iter().flatten());
        made.into_iter().map(|register| vector.unpack(register)).collect()
    }

    proptest! {
        /// Every processor does what plain code does.
        #[test]
        fn as_plain_code(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let want = all(Plain, &a, &b);
            for machine in Machine::all() {
                let got = match machine {
                    Machine::Plain(vector) => all(vector, &a, &b),
                    #[cfg(target_arch = "x86_64")]
                    Machine::Avx2(vector) => all(vector, &a, &b),
                    #[cfg(target_arch = "x86_64")]
                    Machine::Vnni(vector) => all(vector, &a, &b),
                };
                prop_assert_eq!(&got, &want, "{:?}", machine);
            }
        }
    }

    /// Columns are columns.
    #[test]
    fn columns() {
        let row = |row: usize| -> [u16; 8] { lanes(|column| (row * 8 + column) as u16) };
        let rows: [Bytes; 8] = lanes(|at| Plain.join(&row(at), &row(at + 8)));
        for (column, register) in transpose(Plain, rows).into_iter().enumerate() {
            let got: [u16; 16] = cast(register);
            assert_eq!(got, lanes(|row| (row * 8 + column) as u16));
        }
    }
}
