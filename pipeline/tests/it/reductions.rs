//! Behaviour of partials and live images that users and publishers rely on.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{
    Conditions, Correction, Flaws, Footprint, Frames, LINE_FRAMES_MAX, LiveImages, MergeCounts, MergeError, Partial,
    PlanError, ReducePlan, Reducer, Reduction, VirtualDetector,
};
use ronchi_pipeline::{
    Announcement, BlockMut, ByteOrder, Encoding, Layout, NavShape, PixelKind, PixelType, Pool, Region, Repeats, Scan,
    Sensor, Series, SigShape,
};
use serde_json::json;

use crate::run::{Data, Piece, run, run_whole, values};

const U16: PixelType = PixelType { kind: PixelKind::U16, order: ByteOrder::Big };
const SMALL: SigShape = SigShape { height: 2, width: 3 };
fn all() -> [Reduction; 4] {
    [Reduction::total(), Reduction::centre_of_mass(), Reduction::sum(), Reduction::max()]
}

fn disk(name: &str, radius: f64) -> Reduction {
    Reduction::virtual_detector(name, VirtualDetector::Disk { cy: 1.0, cx: 2.0, radius })
}

/// The worked example of `docs/reductions.md`.
fn worked_example(kind: PixelKind) -> Data {
    let frame = |rows: [[u8; 4]; 3]| rows.concat().into_iter().map(f64::from).collect();
    let frames = vec![
        frame([[0, 1, 0, 0], [0, 5, 2, 0], [0, 0, 0, 0]]),
        frame([[0, 0, 0, 0], [0, 2, 6, 1], [0, 0, 1, 0]]),
        frame([[0; 4]; 3]),
        frame([[1, 0, 0, 0], [0, 4, 0, 0], [0, 3, 0, 8]]),
    ];
    Data { detector: SigShape { height: 3, width: 4 }, pixel: PixelType::new(kind, ByteOrder::Little), frames }
}

/// Disk, ring, total, centre of mass, sum and maximum of four small frames, whole and split at column 2.
#[test]
fn the_worked_example() {
    let mut reductions = all().to_vec();
    let ring = VirtualDetector::Ring { cy: 1.0, cx: 2.0, inner: 1.0, outer: 2.5 };
    reductions.extend([disk("disk", 1.0), Reduction::virtual_detector("ring", ring)]);
    let scan = Some(Scan::raster(NavShape { height: 2, width: 2 }));
    for kind in [PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32] {
        let data = worked_example(kind);
        let halves = [0, 2].map(|x| Region { y: 0, x, height: 3, width: 2 });
        let flags = vec![ronchi_pipeline::FrameFlag::Ok; 4];
        let work = [0, 1].map(|link| Piece { link, reducer: 0, first: 0, flags: flags.clone() });
        for images in [run_whole(&data, &reductions, scan), run(&data, &reductions, scan, &halves, &work)] {
            assert_eq!(values(&images, "disk"), [7.0, 10.0, 0.0, 4.0]);
            assert_eq!(values(&images, "ring"), [1.0, 0.0, 0.0, 12.0]);
            assert_eq!(values(&images, "total"), [8.0, 10.0, 0.0, 16.0]);
            assert_eq!(values(&images, "sum"), [1.0, 1.0, 0.0, 0.0, 0.0, 11.0, 8.0, 1.0, 0.0, 3.0, 1.0, 8.0]);
            assert_eq!(values(&images, "max"), [1.0, 1.0, 0.0, 0.0, 0.0, 5.0, 6.0, 1.0, 0.0, 3.0, 1.0, 8.0]);
            let com = values(&images, "com");
            assert_eq!([&com[..4], &com[6..]].concat(), [0.875, 1.25, 1.1, 1.9, 1.625, 1.9375]);
            assert!(com[4].is_nan() && com[5].is_nan(), "a frame without counts has no centre");
        }
    }
}

fn reducer(reductions: &[Reduction]) -> Reducer {
    let plan = ReducePlan::compile(reductions, SMALL, SMALL.region(), U16).expect("valid");
    Reducer::new(Arc::new(plan))
}

fn partial(frames: &[u64]) -> Partial {
    let mut reducer = reducer(&[Reduction::total(), Reduction::centre_of_mass(), disk("bf", 0.5)]);
    for &frame in frames {
        let bytes: Vec<u8> = (0..12).map(|i| (frame * 31 + i * 7) as u8).collect();
        reducer.reduce(&Frames::new(frame, &bytes, U16, SMALL.region()).expect("one frame"));
    }
    reducer.take()
}

fn merged(parts: &[&Partial]) -> Partial {
    let mut all = partial(&[]);
    parts.iter().for_each(|part| all.merge(part).expect("same plan"));
    all
}

proptest! {
    /// Merging partials: identity, order, grouping, repetition.
    #[test]
    fn partials_merge_like_sets(frames in prop::collection::vec(0_u64..30, 0..20), cuts in (0_usize..20, 0_usize..20)) {
        let (a, b) = (cuts.0.min(frames.len()), cuts.1.min(frames.len()));
        let (a, b) = (a.min(b), a.max(b));
        let parts = [&frames[..a], &frames[a..b], &frames[b..]].map(partial);
        let [x, y, z] = [&parts[0], &parts[1], &parts[2]];
        let all = merged(&[x, y, z]);
        prop_assert_eq!(&merged(&[&merged(&[z, y]), x]), &all);
        prop_assert_eq!(&merged(&[&all, y, &partial(&[])]), &all);
        prop_assert!(all.frames().windows(2).all(|pair| pair[0] < pair[1]));
    }
}

/// Partials of other tiles or other reductions are refused.
#[test]
fn partials_of_other_plans_do_not_merge() {
    let mut total = Partial::new(reducer(&[Reduction::total()]).plan());
    assert_eq!(total.merge(&partial(&[1])), Err(MergeError::Reductions));
    let region = Region { y: 0, x: 0, height: 1, width: 3 };
    let tile = ReducePlan::compile(&[Reduction::total()], SMALL, region, U16).expect("valid");
    assert!(matches!(total.merge(&Partial::new(&tile)), Err(MergeError::Region { .. })));
}

fn line(frame_count: Option<u64>) -> LiveImages {
    LiveImages::new(&all(), None, frame_count, SMALL, U16, &[SMALL.region()]).expect("valid")
}

fn reduced(frames: &[u64]) -> Partial {
    let mut reducer = reducer(&all());
    for &frame in frames {
        reducer.reduce(&Frames::new(frame, &[0, 1].repeat(6), U16, SMALL.region()).expect("one frame"));
    }
    reducer.take()
}

/// Without a scan results are a line that grows with the frames, up to a limit; with a known count it is that long.
#[test]
fn a_line_grows_and_is_bounded() {
    let mut images = line(None);
    assert_eq!(images.image("total").expect("total").shape(), [0]);
    images.merge(0, &reduced(&[2]));
    assert_eq!(images.image("com").expect("com").shape(), [3, 2]);
    assert_eq!(images.image("com").expect("com").axes(), ["frame", "component"]);
    let total = values(&images, "total");
    assert!(total[0].is_nan() && total[1].is_nan() && total[2] == 6.0);
    images.merge(0, &reduced(&[2, LINE_FRAMES_MAX, u64::MAX]));
    assert_eq!(images.merged(), MergeCounts { taken: 1, duplicate: 1, beyond: 2 });
    assert_eq!(images.scan_shape(), [3]);
    assert_eq!(images.holes(0, 0..5)[0].frames, [0..2, 3..5]);

    let known = line(Some(5));
    assert_eq!(known.image("total").expect("total").shape(), [5]);
    assert_eq!(known.image("total").expect("total").stored().bytes, [0; 40]);
    assert_eq!(known.valid(), [0; 5]);
    assert_eq!(line(Some(u64::MAX)).scan_shape(), [LINE_FRAMES_MAX as usize]);
}

/// A publisher that asks for rows changed since its last version gets all of them and no others.
#[test]
fn rows_that_changed() {
    let scan = Scan::raster(NavShape { height: 4, width: 3 });
    let mut images = LiveImages::new(&all(), Some(scan), None, SMALL, U16, &[SMALL.region()]).expect("valid");
    let changed = |images: &LiveImages, name: &str, since| -> Vec<usize> {
        images.image(name).expect("name").rows_changed_since(since).into_iter().flatten().collect()
    };
    assert!(changed(&images, "total", 0).is_empty());
    images.merge(0, &reduced(&[1, 10]));
    let first = images.image("total").expect("total").version();
    assert_eq!(changed(&images, "total", 0), [0, 3]);
    images.merge(0, &reduced(&[4, 7]));
    assert_eq!(changed(&images, "com", first), [1, 2]);
    assert_eq!(changed(&images, "com", 0), [0, 1, 2, 3]);
    assert_eq!(changed(&images, "com", images.version()), [0; 0]);
    assert!(changed(&images, "sum", 0).is_empty());
    let mut reducer = reducer(&all());
    reducer.reduce(&Frames::new(5, &[0; 12], U16, SMALL.region()).expect("one frame"));
    images.merge_patterns(0, &reducer.take_patterns());
    assert_eq!(changed(&images, "sum", 0), [0, 1]);
    assert_eq!(images.frames_reduced(0), 4);
    // Merging the same again changes nothing.
    let before = images.version();
    images.merge(0, &reduced(&[4, 7]));
    assert!(changed(&images, "total", before).is_empty());
}

/// Links of the same region share its frames; other regions must not overlap, and must fit.
#[test]
fn links_and_regions() {
    let images = |regions: &[Region]| LiveImages::new(&all(), None, None, SMALL, U16, regions);
    let region = |y, height| Region { y, x: 0, height, width: 3 };
    let mut shared = images(&[SMALL.region(), SMALL.region()]).expect("shares");
    shared.merge(0, &reduced(&[0]));
    shared.merge(1, &reduced(&[1]));
    assert_eq!((shared.complete_count(), shared.frames_reduced(0)), (2, 2));
    assert!(matches!(images(&[region(0, 2), region(1, 1)]), Err(PlanError::Overlap { .. })));
    assert!(matches!(images(&[region(1, 2)]), Err(PlanError::Region { .. })));
    assert!(matches!(images(&[]), Err(PlanError::NoRegion)));
    let scan = Scan::raster(NavShape { height: u32::MAX, width: u32::MAX });
    let huge = LiveImages::new(&all(), Some(scan), None, SMALL, U16, &[SMALL.region()]);
    assert!(matches!(huge, Err(PlanError::ScanTooLarge { .. })));
}

/// Largest u32 pixels everywhere on a wide detector: nothing overflows, moments included.
#[test]
fn largest_pixels() {
    let detector = SigShape { height: 4, width: 65_536 };
    let pixel = PixelType::new(PixelKind::U32, ByteOrder::Little);
    let plan = ReducePlan::compile(&all(), detector, detector.region(), pixel).expect("valid");
    let mut reducer = Reducer::new(Arc::new(plan));
    let bytes = vec![0xff; detector.pixel_count() as usize * 4];
    reducer.reduce(&Frames::new(0, &bytes, pixel, detector.region()).expect("one frame"));
    let mut images = LiveImages::new(&all(), None, Some(1), detector, pixel, &[detector.region()]).expect("valid");
    images.merge(0, &reducer.take());
    assert_eq!(values(&images, "total"), [f64::from(u32::MAX) * 262_144.0]);
    assert_eq!(values(&images, "com"), [1.5, 32_767.5]);
}

/// Many full u16 frames of few pixels in one call: the 32-bit sums over frames are flushed in time.
#[test]
fn many_frames() {
    let detector = SigShape { height: 1, width: 2 };
    let plan = ReducePlan::compile(&[Reduction::sum()], detector, detector.region(), U16).expect("valid");
    let mut reducer = Reducer::new(Arc::new(plan));
    let bytes = vec![0xff; 4 * 150_000];
    let frames = Frames::new(0, &bytes, U16, detector.region()).expect("frames");
    reducer.reduce(&frames);
    reducer.reduce(&frames);
    let mut images =
        LiveImages::new(&[Reduction::sum()], None, None, detector, U16, &[detector.region()]).expect("valid");
    images.merge_patterns(0, &reducer.take_patterns());
    assert_eq!(values(&images, "sum"), [300_000.0 * 65_535.0; 2]);
    assert_eq!(reducer.pattern_frame_count(), 0);
}

/// NaN pixels make the sums they belong to NaN, are ignored by the maximum, and leave other masks alone.
#[test]
fn nan_pixels() {
    let pixel = PixelType::new(PixelKind::F32, ByteOrder::Little);
    let frames = vec![vec![f64::NAN, 1.0, 2.0, 3.0, 4.0, -5.0], vec![7.0, f64::INFINITY, 0.0, 0.0, 0.0, 0.0]];
    let data = Data { detector: SMALL, pixel, frames };
    let mut reductions = all().to_vec();
    let corner = VirtualDetector::Rectangle { y0: 1, x0: 0, y1: 2, x1: 3 };
    reductions.push(Reduction::virtual_detector("corner", corner));
    let images = run_whole(&data, &reductions, None);
    let total = values(&images, "total");
    assert!(total[0].is_nan() && total[1] == f64::INFINITY);
    assert_eq!(values(&images, "corner"), [2.0, 0.0]);
    assert!(values(&images, "com").iter().all(|value| value.is_nan()));
    assert_eq!(values(&images, "max"), [7.0, f64::INFINITY, 2.0, 3.0, 4.0, 0.0]);
    let sum = values(&images, "sum");
    assert!(sum[0].is_nan() && sum[1] == f64::INFINITY && sum[2..] == [2.0, 3.0, 4.0, -5.0]);
}

/// A live block gives what the same bytes give from elsewhere; frames missing inside it are skipped.
#[test]
fn frames_of_a_block() {
    let announced = Announcement {
        series_id: "test".into(),
        frame_count: None,
        scan: None,
        detector: SMALL,
        region: SMALL.region(),
        pixel: U16,
        encoding: Encoding::Raw,
        vendor_header: String::new(),
        sensor: Sensor::default(),
    };
    let layout = Layout { frame_bytes: 12, frames_per_chunk: 4, chunks_per_segment: 8 };
    let (name, acquisition) = ("test".into(), [1; 16]);
    let series = Series { acquisition, name, link: 0, link_count: 1, announced, scan: None, layout, is_recorded: true };
    let pool = Pool::new(1, 4096 + 48).expect("pool");
    let mut block = BlockMut::new(pool.take(Duration::ZERO).expect("slot"), Arc::new(series), 4);
    for position in [0, 2] {
        block.frame_mut(position).fill(position as u8 + 1);
        block.commit(position, 0, 0);
    }
    let block = block.seal().expect("two frames");
    let mut reducer = reducer(&all());
    assert_eq!(reducer.reduce(&Frames::of_block(&block).expect("pixels")), 2);
    assert_eq!(reducer.take().frames(), [4, 6]);
    assert_eq!(reducer.take_patterns().frame_count(), 2);
    drop(block);
    assert_eq!(pool.free_count(), pool.slot_count());
}

/// Frames of one position: added up before anything is divided, averaged, the last one, or all kept.
#[test]
fn repeats() {
    let scan = Scan { passes: 2, ..Scan::raster(NavShape { height: 1, width: 2 }) };
    let parameters = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
    let com = parameters(serde_json::json!({ "centre": [1, 2], "also": ["field", "regression"] }));
    let list = [
        Reduction::total(),
        Reduction::parse("com", None, com).expect("parameters"),
        Reduction::parse("fluctuation", None, parameters(serde_json::json!({}))).expect("parameters"),
    ];
    let images = |repeats| {
        let mut images = run_whole(&worked_example(PixelKind::U16), &list, Some(Scan { repeats, ..scan }));
        images.derive_all();
        images
    };
    let sum = images(Repeats::Sum);
    assert_eq!(values(&sum, "total"), [8.0, 26.0]);
    // The empty frame changes no centre; the other two share theirs as their counts do.
    assert_eq!(values(&sum, "com"), [0.875, 1.25, 37.0 / 26.0, 50.0 / 26.0]);
    let mean = images(Repeats::Mean);
    assert_eq!(
        (values(&mean, "total"), mean.image("total").expect("total").stored().zarr),
        (vec![4.0, 13.0], "float64")
    );
    assert_eq!(values(&mean, "com"), values(&sum, "com"));
    // 24 pixels of both frames: their variance is 30 / 24 - (8 / 24)^2.
    let spread = (30.0_f64 / 24.0 - 1.0 / 9.0).sqrt();
    assert!((values(&mean, "fluctuation")[0] - spread).abs() < 1e-15);
    assert!((values(&sum, "fluctuation")[0] - 2.0 * spread).abs() < 1e-15);
    assert_eq!(values(&images(Repeats::Last), "total"), [0.0, 16.0]);
    let stack = images(Repeats::Stack);
    assert_eq!(values(&stack, "total"), [8.0, 0.0, 10.0, 16.0]);
    let field = stack.image("com_field").expect("a field");
    assert_eq!((field.shape(), field.axes()), (vec![1, 2, 2, 2], vec!["scan_y", "scan_x", "repeat", "component"]));
    let got = values(&stack, "com_field");
    assert_eq!([&got[..2], &got[6..]].concat(), [-0.125, -0.75, 0.625, -0.0625]);
    assert!(got[2].is_nan() && (got[4] - 0.1).abs() < 1e-15 && (got[5] + 0.1).abs() < 1e-15);
    assert_eq!(stack.image("com_regression").expect("coefficients").shape(), [2, 3, 2]);
    assert_eq!((stack.scan_shape(), stack.valid()), (vec![1, 2, 2], vec![1; 4]));
}

/// Lists whose real masks would fill memory are refused before the masks are made, and memory is counted for those that do not.
#[test]
fn real_masks_are_bounded() {
    let detector = SigShape { height: 4096, width: 4096 }; // 128 MiB for each mask: at most eight.
    let pixel = PixelType::from_numpy_name("<u2").expect("a type");
    let footprint = |list: &[Reduction], conditions: &Conditions| {
        Footprint::with_conditions(list, detector, pixel, 1, 1, conditions)
    };
    let of = |kind: &str, parameters: serde_json::Value| {
        Reduction::parse(kind, None, parameters.as_object().cloned().unwrap_or_default()).expect("a kind")
    };
    let none = Conditions::default();
    let too_large = |list: &[Reduction], conditions: &Conditions| {
        matches!(footprint(list, conditions), Err(PlanError::MasksTooLarge { .. }))
    };
    assert!(too_large(&[of("fourier", json!({ "bins": 1, "orders": 4 }))], &none));
    let binned = [of("binned", json!({ "factor": 1024 }))];
    let segments = [of("segments", json!({ "radii": [0, 10, 20], "sectors": 8 }))];
    assert!(footprint(&binned, &none).is_ok());
    let small = SigShape { height: 256, width: 256 };
    let gain = Flaws { gain: Some(vec![2.0; 65_536]), ..Flaws::default() };
    let correction = Some(Arc::new(Correction::new(small, gain).expect("valid")));
    let gain = Conditions { correction, ..Conditions::default() };
    let memory = |conditions: &Conditions| {
        let footprint = Footprint::with_conditions(&segments, small, pixel, 1, 1, conditions).expect("small");
        footprint.memory_bytes
    };
    // 16 masks of 8 bytes a pixel, as many for the digits of kernels, and once more on the way.
    assert!(memory(&gain) >= memory(&none) + 16 * 65_536 * 24);
    let many = [of("binned", json!({ "factor": 4 }))]; // 64 x 64 masks of 512 KiB.
    assert!(Footprint::with_conditions(&many, small, pixel, 1, 1, &none).is_ok());
    let refused = Footprint::with_conditions(&many, small, pixel, 1, 1, &gain);
    assert!(matches!(refused, Err(PlanError::MasksTooLarge { .. })));
}
