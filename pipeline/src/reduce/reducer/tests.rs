use super::*;
use crate::reduce::{Reduction, VirtualDetector};
use crate::{PixelType, SigShape};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn kind(word: &str, parameters: Value) -> Reduction {
    let parameters: Map<String, Value> = serde_json::from_value(parameters).expect("an object");
    Reduction::parse(word, None, parameters).expect("a kind")
}

/// Sums under all kinds of masks, and all patterns.
fn everything(detector: SigShape) -> Vec<Reduction> {
    let SigShape { height, width } = detector;
    let (cy, cx) = (f64::from(height) / 2.0 - 0.7, f64::from(width) / 2.0 - 0.4);
    let radius = cy.min(cx).max(1.0);
    let weights = (0..height * width).map(|at| f64::from((at * 7919 % 101) as f32 / 101.0 - 0.4)).collect();
    let mut all = vec![
        Reduction::virtual_detector("ring", VirtualDetector::Ring { cy, cx, inner: radius / 3.0, outer: radius }),
        Reduction::virtual_detector("disk", VirtualDetector::Disk { cy: cy + 1.0, cx, radius: radius / 2.0 }),
        Reduction::virtual_detector("real", VirtualDetector::Image { height, width, weights }),
        Reduction::total(),
        Reduction::centre_of_mass(),
        Reduction::sum(),
        Reduction::max(),
    ];
    all.extend(["min", "variance"].map(|word| kind(word, json!({}))));
    all.push(kind("radial", json!({ "bins": 5, "outer": radius })));
    all.push(kind("histogram", json!({ "bins": 7, "from": 0, "to": 300 })));
    all
}

/// What a machine makes of frames that come so many at a time.
fn reduced(plan: &Arc<ReducePlan>, machine: Machine, bytes: &[u8], at_once: usize) -> (Partial, Patterns) {
    let mut reducer = Reducer { machine, ..Reducer::new(Arc::clone(plan)) };
    let frame_bytes = plan.region.pixel_count() as usize * plan.pixel.bytes();
    for (number, bytes) in (0..).zip(bytes.chunks(at_once * frame_bytes)) {
        let first = number * at_once as u64;
        reducer.reduce(&Frames::new(first, bytes, plan.pixel, plan.region).expect("whole frames"));
    }
    (reducer.take(), reducer.take_patterns())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Frames that come one by one, a few, or many at a time give the same, to the last bit, on everything the processor can do,
    /// though they go through other kernels; patterns are what they are pixel by pixel.
    #[test]
    fn alone_or_together(
        (height, width) in (2_u32..24, 2_u32..70),
        frame_count in 1_usize..40,
        name in prop::sample::select(vec!["|u1", "<u2", ">u2", "<u4", ">u4"]),
        bits in 1_u32..33,
        seed in any::<u32>(),
    ) {
        let (detector, pixel) = (SigShape { height, width }, PixelType::from_numpy_name(name).expect("a type"));
        let plan = ReducePlan::compile(&everything(detector), detector, detector.region(), pixel).expect("a plan");
        let (plan, pixel_count) = (Arc::new(plan), (height * width) as usize);
        let value = |at: usize| {
            let number = (at as u32 ^ seed).wrapping_mul(2_654_435_761).rotate_left(11).wrapping_mul(0x9e37_79b1);
            number >> (32 - bits.min(8 * pixel.bytes() as u32))
        };
        let mut bytes: Vec<u8> = Vec::new();
        for at in 0..frame_count * pixel_count {
            match pixel.order {
                ByteOrder::Little => bytes.extend(&value(at).to_le_bytes()[..pixel.bytes()]),
                ByteOrder::Big => bytes.extend(&value(at).to_be_bytes()[4 - pixel.bytes()..]),
            }
        }
        let (values, patterns) = reduced(&plan, Machine::best(), &bytes, frame_count);
        for machine in Machine::all() {
            for at_once in [1, 7, 18, frame_count] {
                let (same_values, same_patterns) = reduced(&plan, machine, &bytes, at_once);
                prop_assert!(same_values == values, "{:?}, {} at a time", machine, at_once);
                prop_assert!(same_patterns == patterns, "{:?}, {} at a time", machine, at_once);
            }
        }
        for at in 0..pixel_count {
            let of_frames = || (0..frame_count).map(|frame| u128::from(value(frame * pixel_count + at)));
            let (sum, squares) = (of_frames().sum::<u128>(), of_frames().map(|value| value * value).sum::<u128>());
            let (n, number) = (frame_count as u128, |value: Option<u128>| value.expect("a frame") as f64);
            prop_assert_eq!(patterns.sum_at(at), Some(sum as f64));
            prop_assert_eq!(patterns.variance_at(at), Some((n * squares - sum * sum) as f64 / (n * n) as f64));
            prop_assert_eq!(patterns.max.as_ref().map(|max| max.value(at)), Some(number(of_frames().max())));
            prop_assert_eq!(patterns.min.as_ref().map(|min| min.value(at)), Some(number(of_frames().min())));
        }
    }
}
