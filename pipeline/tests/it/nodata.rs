//! Pixels without data: against frames in which they are 0, and against a slow, obvious model of what 0 would spoil.

use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{Conditions, Correction, Flaws, LiveImages, NoData, PlanError, Reduction};
use ronchi_pipeline::{PixelKind, PixelTable, PixelType, Repeats, Scan, Sensor, SigShape};
use serde_json::json;

use crate::golden::reduction;
use crate::model::{Case, Dice, kinds};
use crate::run::{Data, run_under, run_whole_under, values};

/// A case of integer pixels, the value that says `no data`, and the same frames with 0 in its place.
fn emptied(pixel: PixelType, seed: u64) -> (Case, NoData, f64, Data) {
    let mut case = Case::new(pixel, seed);
    case.scan = case.scan.map(|scan| Scan { repeats: Repeats::Stack, ..scan });
    let (nodata, value) = match (seed % 2, case.data.frames.first()) {
        (0, Some(frame)) => (NoData::Value(frame[0] as u32), frame[0]),
        _ => (
            NoData::Max,
            [255.0, 65535.0, f64::from(u32::MAX)]
                [[1, 2, 4].iter().position(|&n| n == pixel.bytes()).expect("integers")],
        ),
    };
    let mut data = case.data.clone();
    data.frames.iter_mut().flatten().filter(|pixel| **pixel == value).for_each(|pixel| *pixel = 0.0);
    (case, nodata, value, data)
}

fn list(case: &Case) -> Vec<Reduction> {
    let mut list = case.reductions();
    for kind in ["min", "mean", "variance", "saturated"] {
        list.push(reduction(kind, kind, json!({})));
    }
    list.push(reduction("histogram", "histogram", json!({ "bins": 7 })));
    list.push(reduction("fluctuation", "fluctuation", json!({ "outer": 3.0 })));
    list.push(reduction("radial", "radial", json!({ "centre": [0.0, 0.0], "outer": 4.0, "bins": 3, "sum": true })));
    list
}

/// Bins of [`list`] of a value.
fn bin(value: f64, pixel: PixelType) -> usize {
    (value * 7.0 / 256_f64.powi(pixel.bytes() as i32)) as usize
}

fn close(got: f64, want: f64, size: f64) {
    assert!((got - want).abs() <= 1e-9 * size || got.is_nan() && want.is_nan(), "{got} is not {want}");
}

fn check_frames(case: &Case, value: f64, images: &LiveImages) {
    let SigShape { height, width } = case.data.detector;
    let (nodata, std, radial) = (values(images, "nodata"), values(images, "fluctuation"), values(images, "radial"));
    let ring = |pixel: usize, ring: f64| {
        let radius = f64::hypot((pixel / width as usize) as f64, (pixel % width as usize) as f64);
        let weight = (4.0 / 6.0 + 0.5 - (radius - (ring + 0.5) * 4.0 / 3.0).abs()).clamp(0.0, 1.0);
        if pixel == 0 && ring == 0.0 { 1.0 } else { weight }
    };
    for place in 0..case.place_count() {
        let Some(&frame) = case.frames_at(place).last() else { continue };
        let frame = &case.data.frames[frame];
        assert_eq!(nodata[place], frame.iter().filter(|&&pixel| pixel == value).count() as f64);
        let [cy, cx] = [height / 2, width / 2].map(f64::from);
        let near = |pixel: usize| {
            f64::hypot((pixel / width as usize) as f64 - cy, (pixel % width as usize) as f64 - cx) <= 3.0
        };
        let disk: Vec<f64> = (0..frame.len()).filter(|&p| near(p) && frame[p] != value).map(|p| frame[p]).collect();
        let mean = disk.iter().sum::<f64>() / disk.len() as f64;
        let variance = disk.iter().map(|pixel| (pixel - mean).powi(2)).sum::<f64>() / disk.len() as f64;
        close(std[place], variance.sqrt(), mean + 1.0);
        for (at, got) in radial[3 * place..3 * place + 3].iter().enumerate() {
            let there = |p: &usize| frame[*p] != value;
            let weights: Vec<f64> = (0..frame.len()).map(|pixel| ring(pixel, at as f64)).collect();
            let area: f64 = (0..frame.len()).filter(there).map(|p| weights[p]).sum();
            let sum: f64 = (0..frame.len()).filter(there).map(|p| weights[p] * frame[p]).sum();
            close(*got, if area > 1e-9 { sum / area } else { f64::NAN }, sum / area + 1.0);
        }
    }
}

fn check_patterns(case: &Case, value: f64, images: &LiveImages) {
    let width = case.data.detector.width as usize;
    let result = |name: &str| values(images, name);
    let (min, max, mean, variance) = (result("min"), result("max"), result("mean"), result("variance"));
    let mut histogram = vec![0.0; 7];
    for (link, region) in case.regions.iter().enumerate() {
        let is_seen = |&frame: &usize| {
            case.present[link][frame] && case.scan.is_none_or(|scan| scan.position(frame as u64).is_some())
        };
        let frames: Vec<usize> = (0..case.data.frames.len()).filter(is_seen).collect();
        for pixel in (0..case.data.detector.pixel_count() as usize)
            .filter(|&p| region.y as usize <= p / width && p / width < (region.y + region.height) as usize)
            .filter(|&p| region.x as usize <= p % width && p % width < (region.x + region.width) as usize)
        {
            let pixels: Vec<f64> =
                frames.iter().map(|&frame| case.data.frames[frame][pixel]).filter(|&p| p != value).collect();
            pixels.iter().for_each(|&pixel| histogram[bin(pixel, case.data.pixel)] += 1.0);
            let average = pixels.iter().sum::<f64>() / pixels.len() as f64;
            close(min[pixel], pixels.iter().copied().fold(f64::NAN, f64::min), 0.0);
            close(max[pixel], pixels.iter().copied().fold(f64::NAN, f64::max), 0.0);
            close(mean[pixel], average, average);
            let spread = pixels.iter().map(|pixel| (pixel - average).powi(2)).sum::<f64>() / pixels.len() as f64;
            close(variance[pixel], spread, average * average + 1.0);
        }
    }
    assert_eq!(values(images, "histogram"), histogram);
}

fn integers() -> impl Strategy<Value = PixelType> {
    kinds().prop_filter("integers", |pixel| pixel.kind != PixelKind::F32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Sums are those of frames with 0 where there are no data, bit for bit; what 0 would spoil is that of the other pixels, for
    /// any tiling, order and gap.
    #[test]
    fn like_the_model(pixel in integers(), seed in any::<u64>()) {
        let (case, nodata, value, zeroed) = emptied(pixel, seed);
        let conditions = Conditions { nodata: Some(nodata), ..Conditions::default() };
        let mut wanted = list(&case);
        wanted.push(reduction("nodata", "nodata", json!({})));
        let images = run_under(&case.data, &wanted, case.scan, &case.regions, &case.work, &conditions);
        let of_zeros = run_under(&zeroed, &list(&case), case.scan, &case.regions, &case.work, &Conditions::default());
        let spoilt = ["min", "mean", "variance", "histogram", "fluctuation", "radial"];
        for zeros in of_zeros.images().filter(|image| !spoilt.contains(&image.name())) {
            prop_assert_eq!(images.image(zeros.name()).expect("same list").stored(), zeros.stored(), "{}", zeros.name());
        }
        check_frames(&case, value, &images);
        check_patterns(&case, value, &images);
    }

    /// A masked pixel is one that carries the value in every frame, whatever it carries: results are the same, bit for bit.
    #[test]
    fn masked_pixels(pixel in integers(), seed in any::<u64>(), has_value in any::<bool>()) {
        let (mut case, nodata, value, _) = emptied(pixel, seed);
        let mut dice = Dice(seed ^ 5);
        let bits: Vec<u32> = (0..case.data.detector.pixel_count()).map(|_| [0, 1, 1 << 31, 6][dice.roll(4) as usize]).collect();
        if !has_value {
            // Another value in place of the one that says so, so that only masked pixels have no data.
            let other = if value > 1.0 { value - 1.0 } else { 2.0 };
            case.data.frames.iter_mut().flatten().filter(|pixel| **pixel == value).for_each(|pixel| *pixel = other);
        }
        let mut marked = case.data.clone();
        for frame in &mut marked.frames {
            frame.iter_mut().zip(&bits).filter(|&(_, bits)| bits & 0xffff != 0).for_each(|(pixel, _)| *pixel = value);
        }
        let pixel_mask = PixelTable::new(case.data.detector, bits, Some(false));
        let sensor = Sensor { nodata: has_value.then_some(nodata), pixel_mask, flatfield: None };
        let conditions = Conditions::default().with_sensor(&sensor, pixel.kind);
        let by_value = Conditions { nodata: Some(nodata), ..Conditions::default() };
        let mut wanted = list(&case);
        wanted.push(reduction("nodata", "nodata", json!({})));
        let images = run_under(&case.data, &wanted, case.scan, &case.regions, &case.work, &conditions);
        let want = run_under(&marked, &wanted, case.scan, &case.regions, &case.work, &by_value);
        for want in want.images() {
            prop_assert_eq!(images.image(want.name()).expect("same list").stored(), want.stored(), "{}", want.name());
        }
    }

    /// The same with a gain and bad pixels: a bad pixel is replaced whatever it carries, gain multiplies the others.
    #[test]
    fn with_gain_and_bad_pixels(pixel in integers(), seed in any::<u64>()) {
        let (case, nodata, value, zeroed) = emptied(pixel, seed);
        let mut dice = Dice(seed ^ 3);
        let pixels = case.data.detector.pixel_count() as usize;
        let gain: Vec<f64> = (0..pixels).map(|_| 0.5 + dice.roll(100) as f64 / 100.0).collect();
        let bad: Vec<bool> = (0..pixels).map(|_| dice.roll(8) == 0).collect();
        let flaws = Flaws { gain: Some(gain.clone()), bad: Some(bad.clone()), dark: None };
        let Ok(correction) = Correction::new(case.data.detector, flaws) else { return Ok(()) };
        let corrected = Conditions { correction: Some(Arc::new(correction)), ..Conditions::default() };
        let conditions = Conditions { nodata: Some(nodata), ..corrected.clone() };
        let wanted = [&case.reductions()[..], &[Reduction::parse("min", None, Default::default()).expect("a kind"),
            reduction("variance", "variance", json!({})), reduction("mean", "mean", json!({}))]].concat();
        let images = run_under(&case.data, &wanted, case.scan, &case.regions, &case.work, &conditions);
        let of_zeros = run_under(&zeroed, &wanted, case.scan, &case.regions, &case.work, &corrected);
        for zeros in of_zeros.images().filter(|image| !["min", "max", "mean", "variance", "sum"].contains(&image.name())) {
            prop_assert_eq!(images.image(zeros.name()).expect("same list").stored(), zeros.stored(), "{}", zeros.name());
        }
        let shown = |name| values(&images, name);
        let (min, max, mean, variance) = (shown("min"), shown("max"), shown("mean"), shown("variance"));
        let Some(link) = (0..case.regions.len()).find(|&link| case.regions[link].pixel_count() == pixels as u64) else { return Ok(()) };
        let is_seen = |&frame: &usize| case.present[link][frame] && case.scan.is_none_or(|scan| scan.position(frame as u64).is_some());
        let frames: Vec<usize> = (0..case.data.frames.len()).filter(is_seen).collect();
        for pixel in (0..pixels).filter(|&pixel| !bad[pixel]) {
            let raw = frames.iter().map(|&frame| case.data.frames[frame][pixel]).filter(|&p| p != value);
            let numbers: Vec<f64> = raw.map(|p| p * gain[pixel]).collect();
            let average = numbers.iter().sum::<f64>() / numbers.len() as f64;
            let spread = numbers.iter().map(|p| (p - average).powi(2)).sum::<f64>() / numbers.len() as f64;
            let single = |value: f64, want: f64| prop_assert_close(value, want, average);
            single(min[pixel], numbers.iter().copied().fold(f64::NAN, f64::min));
            single(max[pixel], numbers.iter().copied().fold(f64::NAN, f64::max));
            single(mean[pixel], average);
            prop_assert_close(variance[pixel], spread, average * average);
        }
    }
}

/// Equal to single precision.
fn prop_assert_close(got: f64, want: f64, size: f64) {
    assert!((got - want).abs() <= 1e-5 * size.abs() || got.is_nan() && want.is_nan(), "{got} is not {want}");
}

/// What a detector announces holds unless something else is said, dark counts exclude it, or pixels are no integers.
#[test]
fn announced() {
    let detector = SigShape { height: 1, width: 2 };
    let pixel_mask = PixelTable::new(detector, vec![0, 1], None);
    let sensor = Sensor { nodata: Some(NoData::Max), pixel_mask: pixel_mask.clone(), flatfield: None };
    let said = |nodata| Conditions { nodata, ..Conditions::default() };
    let told = |conditions: Conditions, kind| {
        let told = conditions.with_sensor(&sensor, kind);
        (told.nodata, told.pixel_mask == pixel_mask)
    };
    assert_eq!(told(said(None), PixelKind::U16), (Some(NoData::Max), true));
    assert_eq!(told(said(Some(NoData::Value(7))), PixelKind::U16), (Some(NoData::Value(7)), true));
    assert_eq!(told(said(Some(NoData::None)), PixelKind::U16), (Some(NoData::None), false));
    assert_eq!(told(said(None), PixelKind::F32), (None, false));
    let dark = Flaws { dark: Some(vec![1.0, 2.0]), ..Flaws::default() };
    let correction = Some(Arc::new(Correction::new(detector, dark).expect("valid")));
    assert_eq!(told(Conditions { correction, ..said(None) }, PixelKind::U16), (None, false));
    for (nodata, text) in [(NoData::Max, "\"max\""), (NoData::None, "\"none\""), (NoData::Value(3), "3")] {
        assert_eq!(serde_json::to_string(&nodata).expect("json"), text);
        assert_eq!(serde_json::from_str::<NoData>(text).expect("one of them"), nodata);
    }
    assert!(serde_json::from_str::<NoData>("\"min\"").is_err());
}

/// Values that pixels cannot carry, dark counts, and counting what nobody says are refused.
#[test]
fn refused() {
    let detector = SigShape { height: 2, width: 2 };
    let new = |list: &[Reduction], pixel: &str, conditions: &Conditions| {
        let pixel = PixelType::from_numpy_name(pixel).expect("a type");
        LiveImages::with_conditions(list, None, None, detector, pixel, &[detector.region()], conditions).map(drop)
    };
    let of = |nodata| Conditions { nodata: Some(nodata), ..Conditions::default() };
    let total = [Reduction::total()];
    assert!(matches!(new(&total, "<f4", &of(NoData::Max)), Err(PlanError::NoData { .. })));
    assert!(matches!(new(&total, "|u1", &of(NoData::Value(256))), Err(PlanError::NoData { .. })));
    assert_eq!(new(&total, "|u1", &of(NoData::Value(255))), Ok(()));
    let dark = Flaws { dark: Some(vec![1.0; 4]), ..Flaws::default() };
    let correction = Some(Arc::new(Correction::new(detector, dark).expect("valid")));
    assert_eq!(new(&total, "<u2", &Conditions { correction, ..of(NoData::Max) }), Err(PlanError::NoDataDark));
    let other = PixelTable::new(SigShape { height: 1, width: 4 }, vec![0; 4], None);
    let masked = Conditions { pixel_mask: other, ..Conditions::default() };
    assert!(matches!(new(&total, "<u2", &masked), Err(PlanError::PixelMask { .. })));
    let counts = [reduction("nodata", "nodata", json!({}))];
    assert!(matches!(new(&counts, "<u2", &Conditions::default()), Err(PlanError::Parameter { key: "kind", .. })));
    let one = Data {
        detector,
        pixel: PixelType::from_numpy_name(">u2").expect("a type"),
        frames: vec![vec![65535.0, 2.0, 3.0, 65535.0]],
    };
    let images = run_whole_under(&one, &[counts[0].clone(), Reduction::total()], None, &of(NoData::Max));
    assert_eq!((values(&images, "nodata"), values(&images, "total")), (vec![2.0], vec![5.0]));
}
