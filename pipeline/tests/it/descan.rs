//! Masks that follow the beam: against frames that are moved pixel by pixel, under masks that stay.

use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{Conditions, Correction, Descan, Flaws, LiveImages, NoData, PlanError, Reduction};
use ronchi_pipeline::{NavShape, PixelKind, PixelType, Repeats, Scan, ScanPos, SigShape};
use serde_json::json;

use crate::golden::reduction;
use crate::model::{Case, Dice, kinds};
use crate::run::{Data, run_under, run_whole_under, values};

fn descan(dice: &mut Dice, shape: NavShape) -> Descan {
    let mut small = |scale: f64| [0, 1].map(|_| (dice.roll(13) as f64 - 6.0) * scale);
    if shape.width.is_multiple_of(2) {
        return Descan::linear(small(1.0), small(0.3), small(0.4)).expect("finite");
    }
    let shifts = (0..shape.position_count()).map(|_| [0, 1].map(|_| dice.roll(15) as i32 - 7)).collect();
    Descan::table(shape, shifts).expect("one for each position")
}

/// A frame moved by minus `(dy, dx)`; 0 where nothing comes to lie.
fn moved(frame: &[f64], detector: SigShape, [dy, dx]: [i32; 2]) -> Vec<f64> {
    let (height, width) = (detector.height as i32, detector.width as i32);
    let pixel = |at: i32| {
        let (y, x) = (at / width + dy, at % width + dx);
        let inside = (0..height).contains(&y) && (0..width).contains(&x);
        if inside { frame[(y * width + x) as usize] } else { 0.0 }
    };
    (0..height * width).map(pixel).collect()
}

fn moved_data(data: &Data, scan: Scan, descan: &Descan) -> Data {
    let shift = |frame: usize| scan.position(frame as u64).map_or([0, 0], |position| descan.shift(position));
    let frames = data.frames.iter().enumerate();
    Data { frames: frames.map(|(at, frame)| moved(frame, data.detector, shift(at))).collect(), ..data.clone() }
}

/// What every frame has one number of, and what it has not.
fn list(case: &Case) -> (Vec<Reduction>, Vec<Reduction>) {
    let is_pattern = |reduction: &Reduction| ["sum", "max"].contains(&reduction.name());
    let (patterns, mut masked): (Vec<_>, Vec<_>) = case.reductions().into_iter().partition(is_pattern);
    masked.push(reduction("fluctuation", "fluctuation", json!({ "outer": 3.0 })));
    masked.push(reduction("radial", "radial", json!({ "centre": [0.0, 0.0], "outer": 4.0, "bins": 3 })));
    (masked, [patterns, vec![reduction("saturated", "saturated", json!({ "value": 200.0 }))]].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Values are those of moved frames for any tiling, order and gap, bit for bit where they are
    /// sums of integers; patterns and saturated pixels are those of frames as they come. So with pixels without data.
    #[test]
    fn like_moved_frames(pixel in kinds(), seed in any::<u64>()) {
        let mut case = Case::new(pixel, seed);
        let Some(scan) = case.scan.map(|scan| Scan { repeats: Repeats::Sum, ..scan }) else { return Ok(()) };
        case.scan = Some(scan);
        let mut dice = Dice(seed ^ 5);
        let descan = descan(&mut dice, scan.shape);
        let (masked, others) = list(&case);
        let all = [&masked[..], &others[..]].concat();
        let nodata = (pixel.kind != PixelKind::F32 && dice.roll(2) == 0).then_some(NoData::Max);
        let still = Conditions { nodata, ..Conditions::default() };
        let conditions = Conditions { descan: Some(Arc::new(descan.clone())), ..still.clone() };
        let images = run_under(&case.data, &all, case.scan, &case.regions, &case.work, &conditions);
        let of_moved = run_under(&moved_data(&case.data, scan, &descan), &masked, case.scan, &case.regions, &case.work, &still);
        let of_still = run_under(&case.data, &others, case.scan, &case.regions, &case.work, &still);
        for want in of_moved.images().chain(of_still.images()) {
            let is_sum = pixel.is_integer() && ["total", "com"].contains(&want.name());
            let is_exact = is_sum || others.iter().any(|other| other.name() == want.name());
            if is_exact {
                prop_assert_eq!(images.image(want.name()).expect("same list").stored(), want.stored(), "{}", want.name());
                continue;
            }
            let (got, want) = (values(&images, want.name()), values(&of_moved, want.name()));
            let largest = want.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            let near = |(got, want): (&f64, &f64)| (got - want).abs() <= 1e-4 * largest || got.is_nan() && want.is_nan();
            prop_assert!(got.iter().zip(&want).all(near), "{:?} is not {:?}", got, want);
        }
    }

    /// With a correction, frames are corrected, then moved: in single precision.
    #[test]
    fn corrected_before_moved(seed in any::<u64>()) {
        let mut case = Case::new(PixelType::from_numpy_name("<u2").expect("a type"), seed);
        let Some(scan) = case.scan.map(|scan| Scan { repeats: Repeats::Stack, ..scan }) else { return Ok(()) };
        case.scan = Some(scan);
        let mut dice = Dice(seed ^ 6);
        let descan = descan(&mut dice, scan.shape);
        let gain: Vec<f64> = (0..case.data.detector.pixel_count()).map(|_| 0.5 + dice.roll(100) as f64 / 100.0).collect();
        let flaws = Flaws { gain: Some(gain.clone()), dark: Some(vec![0.5; gain.len()]), bad: None };
        let correction = Some(Arc::new(Correction::new(case.data.detector, flaws).expect("valid")));
        let conditions = Conditions { correction, descan: Some(Arc::new(descan.clone())), ..Conditions::default() };
        let images = run_under(&case.data, &list(&case).0, case.scan, &case.regions, &case.work, &conditions);
        for (at, weights) in case.masks.iter().enumerate() {
            let got = values(&images, &format!("m{at}"));
            for (place, &got) in got.iter().enumerate() {
                let Some(&frame) = case.frames_at(place).last() else { continue };
                let shift = descan.shift(scan.position(frame as u64).expect("it has a place"));
                let good: Vec<f64> = case.data.frames[frame].iter().zip(&gain).map(|(x, gain)| (x - 0.5) * gain).collect();
                let good = moved(&good, case.data.detector, shift);
                let (sum, size) = weights.iter().zip(&good).fold((0.0, 0.0), |(s, m), (w, x)| (s + w * x, m + (w * x).abs()));
                prop_assert!((got - sum).abs() <= 1e-6 * size, "{} is not {sum}", got);
            }
        }
    }
}

/// A disk that follows a spot from row to row finds all of it; halves are rounded away from 0; a mask that has left the
/// detector finds nothing; centres of mass are those of the moved frame.
#[test]
fn follows_a_spot() {
    let detector = SigShape { height: 4, width: 5 };
    let scan = Scan::raster(NavShape { height: 3, width: 1 });
    let spot = |row: usize| (0..20).map(|at| if at == row * 5 + 2 { 7.0 } else { 0.0 }).collect();
    let pixel = PixelType::from_numpy_name("|u1").expect("a type");
    let data = Data { detector, pixel, frames: (0..3).map(spot).collect() };
    let disk = ronchi_pipeline::reduce::VirtualDetector::Disk { cy: 0.0, cx: 2.0, radius: 0.5 };
    let list = [Reduction::virtual_detector("spot", disk), Reduction::centre_of_mass()];
    let run = |per_row: [f64; 2]| {
        let descan = Descan::linear([0.0; 2], per_row, [0.0; 2]).map(Arc::new);
        run_whole_under(&data, &list, Some(scan), &Conditions { descan, ..Conditions::default() })
    };
    let images = run([1.0, 0.0]);
    assert_eq!(values(&images, "spot"), [7.0; 3]);
    assert_eq!(values(&images, "com"), [0.0, 2.0, 0.0, 2.0, 0.0, 2.0]);
    assert_eq!(values(&run([-1000.0, 0.0]), "spot"), [7.0, 0.0, 0.0]);
    let halves = Descan::linear([0.5, -0.5], [0.0; 2], [0.0; 2]).expect("finite");
    assert_eq!(halves.shift(ScanPos { y: 0, x: 0 }), [1, -1]);
}

/// Numbers that are none, tables of another scan, and a line of frames are refused.
#[test]
fn refused() {
    assert_eq!(Descan::linear([f64::NAN, 0.0], [0.0; 2], [0.0; 2]), None);
    let shape = NavShape { height: 1, width: 2 };
    assert_eq!(Descan::table(shape, vec![[0, 0]]), None);
    let table = Conditions { descan: Descan::table(shape, vec![[0, 0]; 2]).map(Arc::new), ..Conditions::default() };
    let detector = SigShape { height: 2, width: 2 };
    let pixel = PixelType::from_numpy_name("|u1").expect("a type");
    let new = |scan| {
        LiveImages::with_conditions(&[Reduction::total()], scan, None, detector, pixel, &[detector.region()], &table)
            .map(drop)
    };
    assert_eq!(new(Some(Scan::raster(shape))), Ok(()));
    for scan in [None, Some(Scan::raster(NavShape { height: 2, width: 1 }))] {
        assert!(matches!(new(scan), Err(PlanError::Descan { .. })));
    }
}
