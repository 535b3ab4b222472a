//! Corrected pixels and chosen positions: against LiberTEM's results, and against a slow, obvious model.

use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{
    Conditions, Correction, Flaws, Footprint, LiveImages, PlanError, Reduction, Roi, VirtualDetector,
};
use ronchi_pipeline::{NavShape, PixelKind, Region, Repeats, Scan, SigShape};
use serde_json::json;

use crate::golden::{DETECTOR, NAV, array, data, folder, masks, npz, reduction};
use crate::model::{Case, Dice, kinds};
use crate::run::{Data, run_under, run_whole, run_whole_under, values};
use crate::zip::members;

fn image(detector: SigShape, weights: &[f64]) -> VirtualDetector {
    VirtualDetector::Image { height: detector.height, width: detector.width, weights: weights.to_vec() }
}

fn named_masks(detector: SigShape, masks: &[Vec<f64>]) -> Vec<Reduction> {
    let named =
        |(m, weights): (usize, &Vec<f64>)| Reduction::virtual_detector(&format!("m{m}"), image(detector, weights));
    masks.iter().enumerate().map(named).collect()
}

/// LiberTEM's dark, gain and bad pixels.
fn golden_correction(folder: &std::path::Path) -> Conditions {
    let numbers = |name: &str| std::fs::read(folder.join(name)).expect("readable");
    // The array of flags is read byte by byte, behind its header.
    let bad = numbers("corr_bad.npy");
    let flaws = Flaws {
        dark: Some(array(&numbers("corr_dark.npy"))),
        gain: Some(array(&numbers("corr_gain.npy"))),
        bad: Some(bad[bad.len() - 16 * 18..].iter().map(|&flag| flag != 0).collect()),
    };
    let correction = Correction::new(DETECTOR, flaws).expect("valid");
    assert_eq!(correction.bad_count(), 5);
    Conditions { correction: Some(Arc::new(correction)), ..Conditions::default() }
}

/// Virtual images, centres of mass and whole frames, with dark, gain and bad pixels.
#[test]
fn corrected_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let (masks, data) = (masks(&folder), data(&folder, "u16", PixelKind::U16));
    let conditions = golden_correction(&folder);
    let mut list = named_masks(DETECTOR, &masks);
    list.push(reduction("com", "com", json!({ "centre": [7.5, 8.6], "outer": 6.0, "fill_centre": true })));
    let images = run_whole_under(&data, &list, Some(Scan::raster(NAV)), &conditions);
    for (m, weights) in masks.iter().enumerate() {
        let golden = &expected["u16_corr_vimg_f64"][m * 80..(m + 1) * 80];
        for ((got, want), frame) in values(&images, &format!("m{m}")).iter().zip(golden).zip(&data.frames) {
            let size: f64 = weights.iter().zip(frame).map(|(w, v)| (w * v).abs()).sum();
            assert!((got - want).abs() <= 1e-12 * size.max(1.0), "mask {m}: {got} is not {want}");
        }
    }
    // Frame (2, 3) is empty: less dark counts its sum is negative, which we take for no signal, and LiberTEM divides by.
    let empty = 2 * 23..2 * 24;
    for (at, (got, want)) in values(&images, "com").iter().zip(&expected["u16_corr_com_disk_raw_com"]).enumerate() {
        let is_close = (got - want).abs() <= 1e-5;
        assert!(is_close || empty.contains(&at) && *got == [7.5, 8.6][at % 2], "{at}: {got} is not {want}");
    }
    for (name, frame) in [("u16_corr_frame_0_0", 0), ("u16_corr_frame_5_7", 57)] {
        let one = Data { frames: vec![data.frames[frame].clone()], ..data.clone() };
        let list = [Reduction::sum(), Reduction::max(), reduction("mean", "mean", json!({}))];
        let images = run_whole_under(&one, &list, None, &conditions);
        // These frames are in single precision.
        for result in ["sum", "mean", "max"] {
            for (got, want) in values(&images, result).iter().zip(&expected[name]) {
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{name} {result}: {got} is not {want}");
            }
        }
    }
}

/// Virtual images and the standard deviation over chosen positions.
#[test]
fn chosen_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let flags = std::fs::read(folder.join("roi.npy")).expect("readable");
    let chosen = flags[flags.len() - 80..].iter().map(|&flag| flag != 0).collect();
    let roi = Arc::new(Roi::new(NAV, chosen).expect("one flag per position"));
    assert_eq!(roi.position_count(), 21);
    let conditions = Conditions { roi: Some(roi), ..Conditions::default() };
    let mut list = named_masks(DETECTOR, &masks(&folder));
    list.push(reduction("std", "std", json!({})));
    let data = data(&folder, "u16", PixelKind::U16);
    let images = run_whole_under(&data, &list, Some(Scan::raster(NAV)), &conditions);
    let golden = &expected["u16_roi_vimg_f64"];
    for m in 0..2 {
        for (got, want) in values(&images, &format!("m{m}")).iter().zip(&golden[m * 80..]) {
            let close = (got - want).abs() <= 1e-12 * want.abs();
            assert!(close || got.is_nan() && want.is_nan(), "mask {m}: {got} is not {want}");
        }
    }
    for (got, want) in values(&images, "std").iter().zip(&expected["u16_roi_pix_std"]) {
        assert!((got - want).abs() <= 1e-12 * want.abs(), "{got} is not {want}");
    }
    assert_eq!((images.complete_count(), images.merged().beyond, images.missing_count(0, 80)), (21, 0, 0));
    assert!(images.holes(0, 0..80).is_empty());
}

/// Random flaws; a bad pixel has a good one beside it.
fn flaws(dice: &mut Dice, detector: SigShape) -> Option<Flaws> {
    let pixels = detector.pixel_count() as usize;
    let numbers =
        |dice: &mut Dice, of: fn(u64) -> f64| -> Vec<f64> { (0..pixels).map(|_| of(dice.roll(100))).collect() };
    let dark = (dice.roll(3) > 0).then(|| numbers(dice, |roll| roll as f64 / 8.0));
    let gain = (dice.roll(3) > 0).then(|| numbers(dice, |roll| 0.5 + roll as f64 / 100.0));
    let bad = (dice.roll(3) > 0).then(|| (0..pixels).map(|_| dice.roll(8) == 0).collect());
    let flaws = Flaws { dark, gain, bad };
    Correction::new(detector, flaws.clone()).is_ok().then_some(flaws)
}

/// A frame corrected pixel by pixel, with neighbours inside a rectangle only.
fn corrected(flaws: &Flaws, frame: &[f64], detector: SigShape, inside: Region) -> Vec<f64> {
    let width = detector.width as usize;
    let is_bad = |pixel: usize| flaws.bad.as_ref().is_some_and(|bad| bad[pixel]);
    let dark = |pixel: usize| flaws.dark.as_ref().map_or(0.0, |dark| dark[pixel]);
    let gain = |pixel: usize| flaws.gain.as_ref().map_or(1.0, |gain| gain[pixel]);
    let good = |pixel: usize| (frame[pixel] - dark(pixel)) * gain(pixel);
    let near = |a: usize, b: usize| (a / width).abs_diff(b / width) <= 1 && (a % width).abs_diff(b % width) <= 1;
    let holds = |pixel: usize| {
        let (y, x) = ((pixel / width) as u32, (pixel % width) as u32);
        (inside.y..inside.y + inside.height).contains(&y) && (inside.x..inside.x + inside.width).contains(&x)
    };
    let pixel = |pixel: usize| {
        if !is_bad(pixel) {
            return good(pixel);
        }
        let around = (0..frame.len()).filter(|&other| near(pixel, other) && !is_bad(other) && holds(other));
        let around: Vec<f64> = around.map(good).collect();
        around.iter().sum::<f64>() / around.len() as f64
    };
    (0..frame.len()).map(pixel).collect()
}

fn check_corrected_values(case: &Case, flaws: &Flaws, images: &LiveImages) {
    let detector = case.data.detector;
    let width = detector.width as usize;
    for place in 0..case.place_count() {
        let Some(&frame) = case.frames_at(place).last() else { continue };
        let frame = &case.data.frames[frame];
        let pixels = corrected(flaws, frame, detector, detector.region());
        // Dark counts and pixels may cancel, and a bad pixel's weight goes to its neighbours.
        let largest = frame.iter().fold(0.0_f64, |most, pixel| most.max(pixel.abs() + 100.0 / 8.0));
        let dot = |weight: &dyn Fn(usize) -> f64| (0..pixels.len()).map(|p| weight(p) * pixels[p]).sum::<f64>();
        let size =
            |weight: &dyn Fn(usize) -> f64| (0..pixels.len()).map(|p| weight(p).abs()).sum::<f64>() * 2.0 * largest;
        for (m, weights) in case.masks.iter().enumerate() {
            let (got, want) = (values(images, &format!("m{m}"))[place], dot(&|p| weights[p]));
            assert!((got - want).abs() <= 1e-12 * size(&|p| weights[p]), "mask {m}: {got} is not {want}");
        }
        let (got, want) = (values(images, "total")[place], dot(&|_| 1.0));
        assert!((got - want).abs() <= 1e-12 * size(&|_| 1.0), "{got} is not {want}");
        let (y, x) = (dot(&|p| (p / width) as f64), dot(&|p| (p % width) as f64));
        let com = &values(images, "com")[2 * place..2 * place + 2];
        if want > 1e-3 * size(&|_| 1.0) {
            assert!((com[0] - y / want).abs() < 1e-6 && (com[1] - x / want).abs() < 1e-6, "{com:?}");
        }
    }
}

fn check_corrected_patterns(case: &Case, flaws: &Flaws, images: &LiveImages) {
    let (detector, width) = (case.data.detector, case.data.detector.width as usize);
    let (sum, max) = (values(images, "sum"), values(images, "max"));
    let frames: Vec<usize> = (0..case.place_count()).flat_map(|place| case.frames_at(place)).collect();
    if frames.is_empty() {
        return;
    }
    for region in &case.regions {
        let whole: Vec<_> =
            frames.iter().map(|&f| corrected(flaws, &case.data.frames[f], detector, detector.region())).collect();
        let tile: Vec<_> = frames.iter().map(|&f| corrected(flaws, &case.data.frames[f], detector, *region)).collect();
        for y in region.y..region.y + region.height {
            for x in region.x..region.x + region.width {
                let pixel = y as usize * width + x as usize;
                let largest =
                    frames.iter().flat_map(|&f| &case.data.frames[f]).fold(0.0_f64, |most, p| most.max(p.abs()));
                let want: f64 = whole.iter().map(|frame| frame[pixel]).sum();
                let tolerance = 1e-11 * (largest + 13.0) * frames.len() as f64;
                assert!((sum[pixel] - want).abs() <= tolerance, "{} is not {want}", sum[pixel]);
                let want = tile.iter().map(|frame| frame[pixel] as f32).fold(f32::NAN, f32::max);
                let close = (max[pixel] - f64::from(want)).abs() <= 2e-7 * (largest + 13.0);
                assert!(close || max[pixel].is_nan() && want.is_nan(), "{} is not {want}", max[pixel]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Corrected values and patterns are those of frames corrected pixel by pixel, for any tiling, order and gap; summed
    /// patterns do not depend on the tiling.
    #[test]
    fn corrected_like_the_model(pixel in kinds(), seed in any::<u64>()) {
        let mut case = Case::new(pixel, seed);
        case.scan = case.scan.map(|scan| Scan { repeats: Repeats::Stack, ..scan });
        let Some(flaws) = flaws(&mut Dice(seed ^ 1), case.data.detector) else { return Ok(()) };
        let correction = Correction::new(case.data.detector, flaws.clone()).expect("tried before");
        let conditions = Conditions { correction: Some(Arc::new(correction)), ..Conditions::default() };
        let images = run_under(&case.data, &case.reductions(), case.scan, &case.regions, &case.work, &conditions);
        check_corrected_values(&case, &flaws, &images);
        case.work.iter_mut().for_each(|piece| piece.flags.fill(ronchi_pipeline::FrameFlag::Ok));
        case.present.iter_mut().for_each(|link| link.fill(true));
        let images = run_under(&case.data, &case.reductions(), case.scan, &case.regions, &case.work, &conditions);
        check_corrected_patterns(&case, &flaws, &images);
        let whole = run_whole_under(&case.data, &case.reductions(), case.scan, &conditions);
        for (tiled, whole) in images.images().zip(whole.images()).filter(|(image, _)| image.name() == "sum") {
            prop_assert_eq!(tiled.stored(), whole.stored(), "{}", tiled.name());
        }
    }

    /// What is chosen is as without a choice, and nothing else is there; what is missing is found.
    #[test]
    fn chosen_positions(pixel in kinds(), seed in any::<u64>()) {
        let case = Case::new(pixel, seed);
        let Some(scan) = case.scan else { return Ok(()) };
        let mut dice = Dice(seed ^ 2);
        let chosen: Vec<bool> = (0..scan.shape.position_count()).map(|_| dice.roll(2) == 0).collect();
        let roi = Arc::new(Roi::new(scan.shape, chosen.clone()).expect("one flag per position"));
        let conditions = Conditions { roi: Some(roi), ..Conditions::default() };
        let list = [Reduction::total(), Reduction::sum()];
        let images = run_under(&case.data, &list, Some(scan), &case.regions, &case.work, &conditions);
        let all = crate::run::run(&case.data, &list, Some(scan), &case.regions, &case.work);
        let each = case.place_count() / chosen.len();
        for ((place, got), want) in values(&images, "total").into_iter().enumerate().zip(values(&all, "total")) {
            let want = if chosen[place / each] { want } else { f64::NAN };
            prop_assert!(got == want || got.is_nan() && want.is_nan(), "{} is not {}", got, want);
        }
        let frames = 0..case.data.frames.len() as u64;
        for (link, present) in case.present.iter().enumerate() {
            let is_chosen = |frame: u64| scan.position(frame).is_some_and(|p| chosen[(p.y * scan.shape.width + p.x) as usize]);
            let open: Vec<u64> = frames.clone().filter(|&frame| !present[frame as usize] && is_chosen(frame)).collect();
            let listed: Vec<u64> = images.holes(link as u32, frames.clone()).into_iter().flat_map(|hole| hole.frames).flatten().collect();
            prop_assert_eq!(images.missing_count(link as u32, frames.end), open.len() as u64);
            prop_assert_eq!(listed, open);
        }
    }
}

/// A correction of gain 1 and no bad pixel leaves sums integers, minus dark counts; counts of saturated pixels are raw.
#[test]
fn what_stays_exact() {
    let detector = SigShape { height: 1, width: 3 };
    let pixel = ronchi_pipeline::PixelType::from_numpy_name("<u2").expect("a type");
    let data = Data { detector, pixel, frames: vec![vec![65535.0, 2.0, 3.0]] };
    let flaws = Flaws { dark: Some(vec![0.5, 0.0, 0.0]), ..Flaws::default() };
    let correction = Some(Arc::new(Correction::new(detector, flaws).expect("valid")));
    let conditions = Conditions { correction, ..Conditions::default() };
    let right = Reduction::virtual_detector("right", image(detector, &[0.0, 1.0, 1.0]));
    let list = [Reduction::total(), right, reduction("saturated", "saturated", json!({})), Reduction::max()];
    let images = run_whole_under(&data, &list, None, &conditions);
    let stored = |name: &str| images.image(name).expect("a result").stored().zarr;
    assert_eq!((values(&images, "total"), stored("total")), (vec![65539.5], "float64"));
    assert_eq!((values(&images, "right"), stored("right")), (vec![5.0], "uint64"));
    assert_eq!((values(&images, "saturated"), stored("saturated")), (vec![1.0], "uint64"));
    assert_eq!((values(&images, "max"), stored("max")), (vec![65534.5, 2.0, 3.0], "float32"));
    assert_eq!(values(&run_whole(&data, &list, None), "total"), [65540.0]);
}

/// Conditions of another detector or scan are refused.
#[test]
fn conditions_that_do_not_fit() {
    let pixel = ronchi_pipeline::PixelType::from_numpy_name("<u2").expect("a type");
    let other = SigShape { height: 2, width: 2 };
    let correction = Some(Arc::new(Correction::new(other, Flaws::default()).expect("nothing to correct")));
    let roi = Roi::new(NavShape { height: 1, width: 2 }, vec![true; 2]).map(Arc::new);
    let list = [Reduction::total()];
    let made = |conditions: &Conditions, scan| {
        LiveImages::with_conditions(&list, scan, None, DETECTOR, pixel, &[DETECTOR.region()], conditions).map(drop)
    };
    let corrected = Conditions { correction, ..Conditions::default() };
    assert!(matches!(made(&corrected, None), Err(PlanError::Correction { .. })));
    assert!(Footprint::with_conditions(&list, DETECTOR, pixel, 1, 1, &corrected).is_err());
    let chosen = Conditions { roi, ..Conditions::default() };
    assert!(matches!(made(&chosen, None), Err(PlanError::Roi { .. })));
    assert!(matches!(made(&chosen, Some(Scan::raster(NAV))), Err(PlanError::Roi { .. })));
}

/// Events of one frame as the reference counts them: a brighter neighbour, and one pixel that is too bright.
#[test]
fn events_like_the_reference() {
    let Some(folder) = folder() else { return };
    let file = std::fs::read(folder.join("expected_extra.npz")).expect("readable");
    let member = |name: &str| members(&file).into_iter().find(|(known, _)| known == name).expect("a member").1;
    let detector = SigShape { height: 12, width: 14 };
    let frame = array(&member("count_frame.npy"));
    let flags = member("count_events.npy");
    let events: Vec<f64> = flags[flags.len() - 12 * 14..].iter().map(|&flag| f64::from(flag)).collect();
    // Dark counts are about 20, with a standard deviation of 3: left where they are, and taken away.
    let flaws = Flaws { dark: Some(vec![20.0; frame.len()]), ..Flaws::default() };
    let correction = Some(Arc::new(Correction::new(detector, flaws).expect("valid")));
    let dark = Conditions { correction, ..Conditions::default() };
    let none = Conditions::default();
    for (kind, conditions, above) in [("<u2", &none, 40), ("<f4", &none, 40), ("<u2", &dark, 20), ("<f4", &dark, 20)] {
        let counted = reduction("counted", "counted", json!({ "above": above, "below": 200 }));
        let pixel = ronchi_pipeline::PixelType::from_numpy_name(kind).expect("a type");
        let data = Data { detector, pixel, frames: vec![frame.clone()] };
        let images = run_whole_under(&data, &[counted], None, conditions);
        assert_eq!(values(&images, "counted"), [3.0]);
        assert_eq!(values(&images, "counted_pattern"), events);
        let stored = images.image("counted_pattern").expect("a pattern").stored();
        let got: Vec<f64> = stored.bytes.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes) as f64).collect();
        assert_eq!(got, events);
    }
}

/// Whether a pixel is an event, looking at all others.
fn is_event(frame: &[f64], width: usize, pixel: usize, window: std::ops::Range<f64>) -> bool {
    let (y, x, height) = (pixel / width, pixel % width, frame.len() / width);
    let counts = |value: f64| window.start < value && value < window.end;
    let is_around =
        |other: usize| other != pixel && (other / width).abs_diff(y) <= 1 && (other % width).abs_diff(x) <= 1;
    let inside = y > 0 && x > 0 && y + 1 < height && x + 1 < width;
    let mut others = (0..frame.len()).filter(|&other| is_around(other) && counts(frame[other]));
    inside && counts(frame[pixel]) && others.all(|other| frame[other] < frame[pixel])
}

proptest! {
    /// Events of frames as they come, in pieces of any order and with gaps, next to other reductions.
    #[test]
    fn events_like_the_model(seed in any::<u64>()) {
        let pixel = ronchi_pipeline::PixelType::from_numpy_name("|u1").expect("a type");
        let mut case = Case::new(pixel, seed);
        case.scan = None;
        case.regions.truncate(1);
        case.regions[0] = case.data.detector.region();
        case.present.truncate(1);
        case.work.retain(|piece| piece.link == 0);
        let mut list = case.reductions();
        list.push(reduction("counted", "counted", json!({ "above": 40, "below": 230 })));
        list.push(reduction("counted", "most", json!({ "above": 100, "pattern": false })));
        let images = run_under(&case.data, &list, None, &case.regions, &case.work, &Conditions::default());
        let (width, pixels) = (case.data.detector.width as usize, case.data.detector.pixel_count() as usize);
        let mut pattern = vec![0.0; pixels];
        let (counted, most) = (values(&images, "counted"), values(&images, "most"));
        for (at, frame) in case.data.frames.iter().enumerate() {
            if !case.present[0][at] {
                prop_assert!(counted[at].is_nan());
                continue;
            }
            let events = |window: std::ops::Range<f64>| (0..pixels).filter(move |&p| is_event(frame, width, p, window.clone()));
            prop_assert_eq!(counted[at], events(40.0..230.0).count() as f64);
            prop_assert_eq!(most[at], events(100.0..f64::INFINITY).count() as f64);
            events(40.0..230.0).for_each(|pixel| pattern[pixel] += 1.0);
        }
        if case.present[0].contains(&true) {
            prop_assert_eq!(values(&images, "counted_pattern"), pattern);
        }
    }
}
