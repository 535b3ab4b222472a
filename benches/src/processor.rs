//! What the processor allows: reading memory and multiplying, with the widest instructions it has.
//!
//! # Units
//! Seconds are those a thread computes: other programs on the machine take turns with it and do not count, though what
//! they take of the memory does.

use pulp::{Arch, Simd, WithSimd};
use rustix::time::ClockId;

/// Sums kept apart while multiplying, so that none waits for the one before.
const CHAINS: usize = 12;
/// Multiply-and-adds of each chain.
const STEPS: usize = 1 << 20;

/// Time this thread has computed, s.
pub(crate) fn seconds() -> f64 {
    seconds_of(ClockId::ThreadCPUTime)
}

/// Time all threads of this process have computed, s.
pub(crate) fn process_seconds() -> f64 {
    seconds_of(ClockId::ProcessCPUTime)
}

fn seconds_of(clock: ClockId) -> f64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Adds all 64-bit words of a slice: the least that can be done with memory that is read.
pub(crate) fn read(bytes: &[u8]) -> u64 {
    Arch::new().dispatch(Read(bytes))
}

struct Read<'a>(&'a [u8]);

impl WithSimd for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u64 {
        let mut sums = [0_u64; 64];
        for line in self.0.as_chunks::<512>().0 {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        sums.iter().fold(0, |sum, &part| sum.wrapping_add(part))
    }
}

/// Multiply-and-adds per second of one thread, in single and in double precision.
pub(crate) fn multiply_adds() -> [f64; 2] {
    [Arch::new().dispatch(Single), Arch::new().dispatch(Double)]
}

struct Single;
struct Double;

impl WithSimd for Single {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (factor, term) = (simd.splat_f32s(0.999), simd.splat_f32s(1e-9));
        let mut sums = [simd.splat_f32s(1.0); CHAINS];
        let started = seconds();
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        let elapsed = seconds() - started;
        std::hint::black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        (STEPS * CHAINS * S::F32_LANES) as f64 / elapsed
    }
}

impl WithSimd for Double {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (factor, term) = (simd.splat_f64s(0.999), simd.splat_f64s(1e-9));
        let mut sums = [simd.splat_f64s(1.0); CHAINS];
        let started = seconds();
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_f64s(*sum, factor, term);
            }
        }
        let elapsed = seconds() - started;
        std::hint::black_box(sums.map(|sum| simd.reduce_sum_f64s(sum)));
        (STEPS * CHAINS * S::F64_LANES) as f64 / elapsed
    }
}
