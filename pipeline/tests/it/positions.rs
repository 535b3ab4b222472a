//! Frames that belong to the positions of a list: against a slow, obvious model.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{Conditions, Descan, LiveImages, PlanError, Positions, Reduction, Roi};
use ronchi_pipeline::{NavShape, Repeats, Scan};

use crate::model::{Case, Dice, kinds};
use crate::run::{run_under, run_whole_under, values};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A list that says what a scan says gives the same results, bit for bit, also with chosen positions and moved masks.
    #[test]
    fn like_the_scan(pixel in kinds(), seed in any::<u64>()) {
        let case = Case::new(pixel, seed);
        // With an offset the first frames of a list are those that are there, and not all of a position.
        let Some(scan) = case.scan.map(|scan| Scan { sync_offset: scan.sync_offset.max(0), ..scan }) else { return Ok(()) };
        let index = |frame| scan.position(frame).map(|p| u64::from(p.y) * u64::from(scan.shape.width) + u64::from(p.x));
        let frames = scan.frame_count() + scan.sync_offset as u64;
        let list = Positions::of_indices((0..frames).map(index).collect()).map(Arc::new);
        let mut dice = Dice(seed ^ 7);
        let chosen = (0..scan.shape.position_count()).map(|_| dice.roll(3) > 0).collect();
        let roi = (dice.roll(2) == 0).then(|| Arc::new(Roi::new(scan.shape, chosen).expect("one flag per position")));
        let descan = Descan::linear([1.0, 0.0], [0.5, -0.7], [0.0, 0.4]).filter(|_| dice.roll(2) == 0).map(Arc::new);
        let by_scan = Conditions { roi, descan, ..Conditions::default() };
        let by_list = Conditions { positions: list, ..by_scan.clone() };
        // Where nothing is chosen a list has no room for repeats.
        let nothing = by_scan.roi.as_ref().is_some_and(|roi| roi.position_count() == 0);
        if nothing { return Ok(()) }
        let run = |conditions, scan| run_under(&case.data, &case.reductions(), Some(scan), &case.regions, &case.work, conditions);
        let (want, got) = (run(&by_scan, scan), run(&by_list, Scan { repeats: scan.repeats, ..Scan::raster(scan.shape) }));
        for (got, want) in got.images().zip(want.images()) {
            prop_assert_eq!(got.stored(), want.stored(), "{}", got.name());
        }
        prop_assert_eq!(got.valid(), want.valid());
        for link in 0..case.regions.len() as u32 {
            let frames = case.data.frames.len() as u64;
            prop_assert_eq!(got.missing_count(link, frames), want.missing_count(link, frames));
            let listed = |images: &LiveImages| images.holes(link, 0..frames).into_iter().flat_map(|hole| hole.frames).collect::<Vec<_>>();
            prop_assert_eq!(listed(&got), listed(&want));
        }
    }

    /// Any list: totals are those of the frames that are listed for a position and are there; a position is valid when all of
    /// them are.
    #[test]
    fn any_list(pixel in kinds(), seed in any::<u64>()) {
        let case = Case::new(pixel, seed);
        let mut dice = Dice(seed ^ 8);
        let shape = NavShape { height: 3, width: 4 };
        let frames = case.data.frames.len();
        let list: Vec<Option<u64>> = (0..frames + 3).map(|_| Some(dice.roll(14)).filter(|&index| index < 12)).collect();
        let points = list.iter().map(|index| index.map_or([-1.0, 9.0], |index| [(index / 4) as f64 - 0.5, (index % 4) as f64 + 0.4]));
        let by_points = Positions::of_points(points.collect()).map(Arc::new);
        let positions = Positions::of_indices(list.clone()).map(Arc::new);
        let scan = Some(Scan { repeats: Repeats::Last, ..Scan::raster(shape) });
        let run = |positions| {
            let conditions = Conditions { positions, ..Conditions::default() };
            run_under(&case.data, &[Reduction::total()], scan, &case.regions, &case.work, &conditions)
        };
        let images = run(positions);
        let mut last: HashMap<u64, (f64, f64)> = HashMap::new();
        let mut lacking = [false; 12];
        for (frame, index) in list.iter().enumerate().filter_map(|(frame, index)| Some((frame, (*index)?))) {
            let is_there = frame < frames && case.present.iter().all(|link| link[frame]);
            lacking[index as usize] |= !is_there;
            if is_there {
                let size = case.data.frames[frame].iter().map(|pixel| pixel.abs()).sum();
                last.insert(index, (case.data.frames[frame].iter().sum(), size));
            }
        }
        let (totals, valid) = (values(&images, "total"), images.valid());
        for index in 0..12_u64 {
            let got = totals[index as usize];
            match last.get(&index) {
                Some((want, size)) => prop_assert!((got - want).abs() <= 1e-12 * size, "{} is not {}", got, want),
                None => prop_assert!(got.is_nan()),
            }
            let is_listed = list.contains(&Some(index));
            prop_assert_eq!(valid[index as usize] == 1, is_listed && !lacking[index as usize]);
        }
        let other = run(by_points);
        prop_assert_eq!(images.image("total").expect("total").stored(), other.image("total").expect("total").stored());
    }
}

/// A list without a scan, and positions that the scan has not, are refused.
#[test]
fn refused() {
    let case = Case::new(ronchi_pipeline::PixelType::from_numpy_name("|u1").expect("a type"), 1);
    let positions = Positions::of_indices(vec![None, Some(6)]).map(Arc::new);
    let conditions = Conditions { positions, ..Conditions::default() };
    let (detector, pixel) = (case.data.detector, case.data.pixel);
    let new = |scan| {
        let regions = [detector.region()];
        LiveImages::with_conditions(&[Reduction::total()], scan, None, detector, pixel, &regions, &conditions).map(drop)
    };
    assert_eq!(new(None), Err(PlanError::Positions));
    let scan = |width| Some(Scan::raster(NavShape { height: 2, width }));
    assert_eq!(new(scan(3)), Err(PlanError::Position { frame: 1, index: 6, positions: 6 }));
    assert_eq!(new(scan(4)), Ok(()));
    let _ = run_whole_under(&case.data, &[Reduction::total()], scan(4), &conditions);
}
