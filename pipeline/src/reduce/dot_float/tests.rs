use super::super::vector::Machine;
use super::*;
use proptest::prelude::*;

struct Work<'a, P, V> {
    dots: &'a mut FloatDots,
    vector: V,
    rows: &'a FloatRows,
    stack: Stack<'a>,
    pixel: std::marker::PhantomData<P>,
}

impl<P: Singles, V: Multiply> pulp::NullaryFnOnce for Work<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.dots.clear(self.rows);
        self.dots.multiply::<P, true>(self.vector, self.rows, &self.stack, true);
    }
}

fn run<P: Singles>(machine: Machine, rows: &FloatRows, stack: Stack<'_>) -> Vec<f64> {
    let (mut made, pixel) = (FloatDots::new(), std::marker::PhantomData::<P>);
    let dots = &mut made;
    match machine {
        Machine::Plain(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx2(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
        #[cfg(target_arch = "x86_64")]
        Machine::Vnni(vector) => vector.run(Work { dots, vector, rows, stack, pixel }),
    }
    made.totals
}

/// Rows of all kinds: so many in single precision, in double, and of which few pixels have weights.
fn weights(pixel_count: usize, seed: u64, (singles, doubles, listed): (usize, usize, usize)) -> Vec<Vec<f64>> {
    let mut state = seed | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / 2.0_f64.powi(52) - 1.0
    };
    let mut rows: Vec<Vec<f64>> = Vec::new();
    rows.extend((0..singles).map(|_| (0..pixel_count).map(|_| f64::from(next() as f32)).collect()));
    rows.extend((0..doubles).map(|row| {
        let is_in = |at: usize| row % 2 == 0 || (300..700).contains(&at);
        (0..pixel_count).map(|at| if is_in(at) { next() / 3.0 } else { 0.0 }).collect()
    }));
    rows.extend((0..listed).map(|_| (0..pixel_count).map(|at| if at % 11 == 3 { next() } else { 0.0 }).collect()));
    rows
}

/// Compares with sums made one by one, in double precision; the same bits on everything the processor can do, and for every
/// frame by itself.
fn check<P: Singles>(frames: &[Vec<f64>], counts: (usize, usize, usize), seed: u64, bytes_of: impl Fn(f64) -> Vec<u8>) {
    let pixel_count = frames[0].len();
    let weights = weights(pixel_count, seed, counts);
    let rows = FloatRows::new(
        pixel_count,
        weights.len(),
        |row| row < counts.0,
        |row, first, part| {
            part.copy_from_slice(&weights[row][first..][..part.len()]);
        },
    );
    assert_eq!(rows.ways.iter().filter(|&&way| way == Way::Single).count(), counts.0);
    let bytes: Vec<u8> = frames.iter().flatten().flat_map(|&pixel| bytes_of(pixel)).collect();
    let (frame_bytes, positions) = (pixel_count * size_of::<P::Bytes>(), (0..frames.len()).collect::<Vec<_>>());
    let stack = Stack { bytes: &bytes, frame_bytes, positions: &positions };
    let best = run::<P>(Machine::best(), &rows, stack);
    for machine in Machine::all() {
        let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(&run::<P>(machine, &rows, stack), &best), "{machine:?}");
        for frame in [0, frames.len() / 2] {
            let alone = run::<P>(machine, &rows, Stack { positions: &positions[frame..=frame], ..stack });
            assert!(same(&alone, &best[frame * weights.len()..][..weights.len()]), "{machine:?}, frame {frame}");
        }
    }
    for (frame, totals) in frames.iter().zip(best.chunks(weights.len())) {
        for (row, (weights, &total)) in weights.iter().zip(totals).enumerate() {
            let products = || weights.iter().zip(frame).filter(|&(&w, _)| w != 0.0).map(|(w, pixel)| w * pixel);
            let (want, magnitude): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
            let tolerance = if row < counts.0 { 2e-6 } else { 1e-12 };
            // Single precision has no numbers below.
            let least = if row < counts.0 { f64::from(f32::MIN_POSITIVE) } else { 0.0 };
            let is_near = (want - total).abs() <= tolerance * magnitude + least;
            assert!(
                is_near || total.to_bits() == want.to_bits() || total.is_nan() && want.is_nan(),
                "row {row}: {total}, not {want}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Any number of frames, pixels and rows, all pixel types.
    #[test]
    fn as_one_by_one(
        pixel_count in 1_usize..1200,
        frame_count in 1_usize..40,
        singles in 0_usize..7,
        doubles in 0_usize..7,
        listed in 0_usize..3,
        seed in any::<u64>(),
    ) {
        let number = |frame: usize, at: usize| ((frame * 1009 + at) as u32).wrapping_mul(2_654_435_761) ^ seed as u32;
        let frames = |bits: u32| -> Vec<Vec<f64>> {
            let frame = |frame| (0..pixel_count).map(|at| f64::from(number(frame, at) >> (32 - bits))).collect();
            (0..frame_count).map(frame).collect()
        };
        // So small a row may be listed, whatever its weights are.
        prop_assume!(singles == 0 || pixel_count >= 8);
        prop_assume!(singles + doubles + listed > 0);
        check::<u8>(&frames(8), (singles, doubles, listed), seed, |pixel| vec![pixel as u8]);
        check::<u16>(&frames(16), (singles, doubles, listed), seed, |pixel| (pixel as u16).to_be_bytes().to_vec());
        check::<u32>(&frames(32), (singles, doubles, listed), seed, |pixel| (pixel as u32).to_be_bytes().to_vec());
        check::<f32>(&frames(24), (singles, doubles, listed), seed, |pixel| (pixel as f32).to_be_bytes().to_vec());
    }
}

/// What is not a number spoils the sums that it has a weight in, and no others; the largest numbers add up.
#[test]
fn odd_numbers() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::from_bits(1), -0.0] {
        let mut frames = vec![vec![1.5; 900]; 11];
        for at in [3, 301, 699, 850] {
            frames[2][at] = f64::from(odd);
        }
        frames[10] = vec![f64::from(odd); 900];
        check::<f32>(&frames, (5, 4, 1), 7, |pixel| (pixel as f32).to_be_bytes().to_vec());
    }
}
