use super::super::digits::Factor;
use super::super::mask::Mask;
use super::super::vector::Machine;
use super::*;
use crate::reduce::VirtualDetector;
use crate::{Region, SigShape};
use proptest::prelude::*;

struct Work<'a, P, V> {
    vector: V,
    partition: &'a Partition,
    stack: Stack<'a>,
    totals: &'a mut Vec<i128>,
    pixel: std::marker::PhantomData<P>,
}

impl<P: Pixel, V: Multiply> pulp::NullaryFnOnce for Work<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let pixel_count = self.stack.frame_bytes / P::BYTES;
        let rows = FloatRows::of(&[], Region { y: 0, x: 0, height: 1, width: 1 });
        let columns = Columns { partition: Some(self.partition), rows: &rows };
        let (mut lanes, mut dots) = (Lanes::new::<P>(pixel_count, columns), FloatDots::new());
        for positions in self.stack.positions.chunks(FRAMES) {
            lanes.add::<P, true>(self.vector, Stack { positions, ..self.stack }, None, Some(columns));
            lanes.finish::<P>(columns, (0, positions.len()), self.totals, &mut dots);
        }
    }
}

fn run<P: Pixel>(machine: Machine, partition: &Partition, stack: Stack<'_>) -> Vec<i128> {
    let (mut made, pixel) = (Vec::new(), std::marker::PhantomData::<P>);
    let totals = &mut made;
    match machine {
        Machine::Plain(vector) => vector.run(Work { vector, partition, stack, totals, pixel }),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx2(vector) => vector.run(Work { vector, partition, stack, totals, pixel }),
        #[cfg(target_arch = "x86_64")]
        Machine::Vnni(vector) => vector.run(Work { vector, partition, stack, totals, pixel }),
    }
    made
}

/// A mask of the tile `region`, also as a picture.
fn mask(region: Region, is_in: impl Fn(u32, u32) -> bool) -> (Mask, Vec<f64>) {
    let detector = SigShape { height: region.y + region.height, width: region.x + region.width };
    let (height, width) = (detector.height, detector.width);
    let weights = (0..height * width).map(|at| f64::from(u8::from(is_in(at / width, at % width)))).collect();
    let mask = VirtualDetector::Image { height, width, weights }.mask(detector).expect("a valid mask");
    let mask = mask.crop(region).expect("inside");
    let image = mask.to_image();
    (mask, image)
}

/// Compares with sums made one by one.
fn check<P: Pixel>(region: Region, seed: u32, frame_count: usize, pixel: impl Fn(usize) -> u32) {
    let (some, of_some) = mask(region, |y, x| (y * 7 + x + seed) % 5 < 2 || x == 0);
    let (ring, of_ring) = mask(region, |y, x| y + x == 0 || (300..9000).contains(&(y * y + x * x * (seed % 3))));
    let columns = [
        (&some, Factor::One),
        (&some, Factor::Row),
        (&ring, Factor::One),
        (&ring, Factor::Column),
        (&some, Factor::Column),
    ];
    let images = [&of_some, &of_some, &of_ring, &of_ring, &of_some];
    let partition = Partition::new(&columns).expect("few sets");
    let pixel_count = region.pixel_count() as usize;
    let pixels: Vec<u32> = (0..frame_count * pixel_count).map(pixel).collect();
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_be_bytes()[4 - P::BYTES..].to_vec()).collect();
    let positions: Vec<usize> = (0..frame_count).filter(|at| at % 7 != 3).collect();
    let stack = Stack { bytes: &bytes, frame_bytes: pixel_count * P::BYTES, positions: &positions };
    let mut want = Vec::new();
    for &position in &positions {
        let frame = &pixels[position * pixel_count..][..pixel_count];
        for ((_, factor), image) in columns.iter().zip(images) {
            let weight = |at: usize| match factor {
                Factor::One => 1,
                Factor::Row => at as u32 / region.width + region.y,
                Factor::Column => at as u32 % region.width + region.x,
            };
            let held = frame.iter().enumerate().filter(|&(at, _)| image[at] != 0.0);
            want.push(held.map(|(at, &pixel)| i128::from(pixel) * i128::from(weight(at))).sum());
        }
    }
    for machine in Machine::all() {
        assert_eq!(run::<P>(machine, &partition, stack), want, "{machine:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any tile, any number of frames, small and large pixels of all types, on everything the processor can do.
    #[test]
    fn as_one_by_one(
        (y, x) in (0_u32..700, 0_u32..60),
        (height, width) in (1_u32..30, 1_u32..90),
        frame_count in 1_usize..40,
        seed in 0_u32..1000,
        bits in 1_u32..32,
    ) {
        let region = Region { y, x, height, width };
        let number = move |at: usize| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> (32 - bits);
        check::<u8>(region, seed, frame_count, |at| number(at) & 0xff);
        check::<u16>(region, seed, frame_count, |at| number(at) & 0xffff);
        check::<u32>(region, seed, frame_count, number);
    }
}

/// The largest pixels everywhere, at the largest coordinates; and pixels whose low bytes are 0.
#[test]
fn extremes() {
    for (y, x, width) in [(0, 0, 600), (32_700, 0, 40), (0, 32_100, 600)] {
        let region = Region { y, x, height: 5, width };
        for pixel in [u32::MAX, 0, 0x0100_0100] {
            check::<u8>(region, 0, 5, |_| pixel & 0xff);
            check::<u16>(region, 0, 5, |_| pixel & 0xffff);
            check::<u32>(region, 0, 5, |_| pixel);
        }
    }
}

/// Masks that cut each other into more sets than there are pixels to add are not made a partition; nor are coordinates that lanes
/// do not hold.
#[test]
fn not_worth_it() {
    let region = Region { y: 0, x: 0, height: 64, width: 64 };
    let masks: Vec<Mask> = (0..12).map(|bit| mask(region, |y, x| (y * 64 + x) >> bit & 1 == 1).0).collect();
    let columns: Vec<(&Mask, Factor)> = masks.iter().map(|mask| (mask, Factor::One)).collect();
    assert!(Partition::new(&columns).is_none());
    let (far, _) = mask(Region { y: 0, x: 32_760, height: 1, width: 9 }, |_, _| true);
    assert!(Partition::new(&[(&far, Factor::Column)]).is_none());
}
