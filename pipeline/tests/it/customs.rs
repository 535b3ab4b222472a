//! Reductions of a lab's own: numbers against plain loops for any tiling, and failures that end one result only.

use proptest::prelude::*;
use ronchi_pipeline::reduce::{
    Custom, CustomKind, Description, LiveImages, Over, PlanError, Reduction, RegisterError, TileFrame,
};
use ronchi_pipeline::{ByteOrder, FrameFlag, NavShape, PixelKind, PixelType, Region, Repeats, Scan, SigShape};
use serde::{Deserialize, Serialize};

use crate::run::{Data, Piece, run, run_whole, values};

/// Largest pixel of a frame above a floor, and how many pixels lie above it: maxima and sums merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Brightest {
    floor: f64,
    /// The frame that is refused, and whether by a panic.
    bad: Option<(u64, bool)>,
}

impl Custom for Brightest {
    const WORD: &'static str = "brightest";
    const ABOUT: &'static str = "largest pixel, per frame";

    fn describe(&mut self, detector: SigShape) -> Result<Description, String> {
        if self.floor < 0.0 {
            return Err(format!("a floor of {} on {} rows", self.floor, detector.height));
        }
        let empty = vec![f64::NEG_INFINITY, 0.0];
        Ok(Description { over: Over::Scan, axes: vec![("number".into(), 2)], unit: "counts".into(), empty })
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        match self.bad {
            Some((bad, true)) if bad == frame.index => panic!("frame {bad} makes it panic"),
            Some((bad, false)) if bad == frame.index => return Err("no such luck".into()),
            _ => {}
        }
        partial[0] = frame.pixels.iter().copied().fold(partial[0], f64::max);
        partial[1] += frame.pixels.iter().filter(|&&pixel| pixel > self.floor).count() as f64;
        Ok(())
    }

    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        partial[0] = partial[0].max(other[0]);
        partial[1] += other[1];
        Ok(())
    }
}

/// In how many frames each detector pixel is lit, in per cent: knows where its tile lies, and divides at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lit {
    #[serde(skip)]
    detector: Option<SigShape>,
}

impl Custom for Lit {
    const WORD: &'static str = "lit";
    const ABOUT: &'static str = "per cent of frames in which a pixel is lit, per detector pixel";

    fn describe(&mut self, detector: SigShape) -> Result<Description, String> {
        self.detector = Some(detector);
        let empty = vec![0.0; 2 * detector.pixel_count() as usize];
        Ok(Description { over: Over::Detector, axes: vec![], unit: "%".into(), empty })
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        let Region { y, x, width, .. } = frame.region;
        let across = self.detector.ok_or("not described")?.width;
        for (at, &pixel) in (0..).zip(frame.pixels) {
            let place = ((y + at / width) * across + x + at % width) as usize;
            partial[2 * place] += f64::from(u8::from(pixel > 0.0));
            partial[2 * place + 1] += 1.0;
        }
        Ok(())
    }

    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        partial.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        Ok(())
    }

    fn finish(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        for (result, counts) in result.iter_mut().zip(partial.chunks_exact(2)) {
            *result = 100.0 * counts[0] / counts[1];
        }
        Ok(())
    }
}

/// First and second moment of all pixels of the acquisition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Moments {}

impl Custom for Moments {
    const WORD: &'static str = "moments";
    const ABOUT: &'static str = "moments of all pixels";

    fn describe(&mut self, _detector: SigShape) -> Result<Description, String> {
        Ok(Description { over: Over::All, axes: vec![("moment".into(), 2)], unit: "1".into(), empty: vec![0.0; 2] })
    }

    fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        partial[0] += frame.pixels.iter().sum::<f64>();
        partial[1] += frame.pixels.iter().map(|pixel| pixel * pixel).sum::<f64>();
        Ok(())
    }

    fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        partial.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        Ok(())
    }
}

const SHAPE: SigShape = SigShape { height: 4, width: 6 };
const SCAN: NavShape = NavShape { height: 2, width: 3 };

fn all(bad: Option<(u64, bool)>) -> [Reduction; 4] {
    [
        Reduction::custom("brightest", Brightest { floor: 100.0, bad }),
        Reduction::custom("lit", Lit { detector: None }),
        Reduction::custom("moments", Moments {}),
        Reduction::total(),
    ]
}

fn data(kind: PixelKind, order: ByteOrder, seed: u64) -> Data {
    let pixel = |frame: u64, at: u64| ((((frame * 131 + at * 29 + seed * 7) * 2_654_435_761) >> 7) & 0xff) as f64;
    let frame = |frame| (0..24).map(|at| if (at + frame) % 3 == 0 { 0.0 } else { pixel(frame, at) }).collect();
    Data { detector: SHAPE, pixel: PixelType::new(kind, order), frames: (0..6).map(frame).collect() }
}

fn derived(mut images: LiveImages) -> LiveImages {
    images.derive_all();
    images
}

/// What plain loops make of the frames that `flags` has.
fn check(images: &LiveImages, data: &Data, present: &[bool]) {
    let frames: Vec<&Vec<f64>> =
        data.frames.iter().zip(present).filter(|&(_, &is)| is).map(|(frame, _)| frame).collect();
    let brightest = values(images, "brightest");
    for ((frame, got), &is_present) in data.frames.iter().zip(brightest.chunks_exact(2)).zip(present) {
        let largest = frame.iter().copied().fold(0.0, f64::max);
        let above = frame.iter().filter(|&&pixel| pixel > 100.0).count() as f64;
        let is_right = if is_present { got == [largest, above] } else { got.iter().all(|number| number.is_nan()) };
        assert!(is_right, "{got:?} of {largest} and {above}");
    }
    for (at, got) in values(images, "lit").into_iter().enumerate() {
        let lit = frames.iter().filter(|frame| frame[at] > 0.0).count();
        assert!(got == 100.0 * lit as f64 / frames.len() as f64 || frames.is_empty() && got.is_nan());
    }
    let sum = |power: i32| frames.iter().copied().flatten().map(|pixel| pixel.powi(power)).sum::<f64>();
    if !frames.is_empty() {
        assert_eq!(values(images, "moments"), [sum(1), sum(2)]);
    }
    assert_eq!(images.endings().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any pixel type, tiling, order and loss: the same numbers as plain loops, live and offline.
    #[test]
    fn as_plain_loops(
        seed in 0_u64..1000,
        kind in prop::sample::select(vec![PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32]),
        big in any::<bool>(),
        column in 1_u32..6,
        present in prop::collection::vec(any::<bool>(), 6),
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let data = data(kind, if big { ByteOrder::Big } else { ByteOrder::Little }, seed);
        let scan = Some(Scan::raster(SCAN));
        let tiles = [(0, column), (column, 6 - column)].map(|(x, width)| Region { y: 0, x, height: 4, width });
        let flag = |first: usize| if present[first] { FrameFlag::Ok } else { FrameFlag::Missing };
        let piece = |&at: &usize| {
            Piece { link: at / 6, reducer: at % 2, first: at % 6, flags: vec![flag(at % 6)] }
        };
        let work: Vec<Piece> = order.iter().map(piece).collect();
        check(&derived(run(&data, &all(None), scan, &tiles, &work)), &data, &present);
        check(&derived(run_whole(&data, &all(None), scan)), &data, &[true; 6]);
    }
}

/// What fails, by an error or by a panic, ends with its reason; the results beside it are whole.
#[test]
fn a_failure_ends_its_own_result() {
    let data = data(PixelKind::U16, ByteOrder::Little, 3);
    for (panics, reason) in [(false, "frame 4: no such luck"), (true, "frame 4: it panicked: frame 4 makes it panic")] {
        let scan = Some(Scan::raster(SCAN));
        let images = derived(run_whole(&data, &all(Some((4, panics))), scan));
        assert_eq!(images.endings().collect::<Vec<_>>(), [("brightest", reason)]);
        let ended = images.image("brightest").expect("listed");
        assert_eq!(ended.ended(), Some(reason));
        assert!(ended.all_values().iter().all(|number| number.is_nan()) && ended.shape() == [2, 3, 2]);
        let whole = derived(run_whole(&data, &all(None), scan));
        for name in ["lit", "moments", "total"] {
            assert_eq!(values(&images, name), values(&whole, name));
        }
    }
}

/// Frames of one position: merged and then finished, finished and then averaged, the last one, or each.
#[test]
fn repeats() {
    let data = data(PixelKind::U16, ByteOrder::Little, 5);
    let of_frame = |frame: usize| {
        let pixels = &data.frames[frame];
        [pixels.iter().copied().fold(0.0, f64::max), pixels.iter().filter(|&&pixel| pixel > 100.0).count() as f64]
    };
    let pairs: Vec<[[f64; 2]; 2]> = (0..3).map(|place| [of_frame(2 * place), of_frame(2 * place + 1)]).collect();
    let of = |repeats, expected: &dyn Fn(&[[f64; 2]; 2]) -> Vec<f64>| {
        let scan = Scan { frames_per_position: 2, repeats, ..Scan::raster(NavShape { height: 1, width: 3 }) };
        let images = derived(run_whole(&data, &all(None), Some(scan)));
        assert_eq!(values(&images, "brightest"), pairs.iter().flat_map(expected).collect::<Vec<_>>());
    };
    of(Repeats::Sum, &|[a, b]| vec![a[0].max(b[0]), a[1] + b[1]]);
    of(Repeats::Mean, &|[a, b]| vec![(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0]);
    of(Repeats::Last, &|[_, b]| b.to_vec());
    of(Repeats::Stack, &|[a, b]| [*a, *b].concat());
}

/// A list that changes keeps what it shares with the one before; what is new has seen nothing.
#[test]
fn changes() {
    let data = data(PixelKind::U16, ByteOrder::Little, 9);
    let mut images = run_whole(&data, &all(None), Some(Scan::raster(SCAN)));
    let other = Reduction::custom("other", Brightest { floor: 7.0, bad: None });
    let list = [Reduction::custom("brightest", Brightest { floor: 100.0, bad: None }), other];
    images.change(&list).expect("valid");
    images.derive_all();
    let before = derived(run_whole(&data, &all(None), Some(Scan::raster(SCAN))));
    assert_eq!(values(&images, "brightest"), values(&before, "brightest"));
    assert!(values(&images, "other").iter().all(|number| number.is_nan()));
    assert_eq!(images.missing_count(0, 6), 6);
}

/// Kinds are registered once, under words of their own, and then parsed like all others; their own errors are told.
#[test]
fn registering() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Total(Moments);
    impl Custom for Total {
        const WORD: &'static str = "total";
        const ABOUT: &'static str = "a word that is taken";

        fn describe(&mut self, detector: SigShape) -> Result<Description, String> {
            self.0.describe(detector)
        }

        fn reduce(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
            self.0.reduce(frame, partial)
        }

        fn merge(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
            self.0.merge(partial, other)
        }
    }
    let taken = Reduction::register(&[CustomKind::of::<Total>()]);
    assert_eq!(taken, Err(RegisterError::Taken { word: "total" }));
    Reduction::register(&[CustomKind::of::<Brightest>()]).expect("the only call of this process");
    assert_eq!(Reduction::register(&[]), Err(RegisterError::Again));

    let parse = |json: serde_json::Value| Reduction::from_json(&json);
    let parsed = parse(serde_json::json!({ "kind": "brightest", "name": "spots", "floor": 3 })).expect("known");
    assert_eq!((parsed.name(), parsed.kind()), ("spots", "brightest"));
    assert_eq!(parsed, Reduction::custom("spots", Brightest { floor: 3.0, bad: None }));
    assert!(Reduction::kinds().any(|kind| kind == ("brightest", "largest pixel, per frame")));
    let wrong = parse(serde_json::json!({ "kind": "brightest", "flor": 3 })).expect_err("no such parameter");
    assert!(wrong.to_string().contains("unknown field `flor`"), "{wrong}");

    let negative = [Reduction::custom("spots", Brightest { floor: -1.0, bad: None })];
    let region = [SHAPE.region()];
    let pixel = PixelType::new(PixelKind::U8, ByteOrder::Little);
    let refused = LiveImages::new(&negative, None, None, SHAPE, pixel, &region).expect_err("refused");
    let why = "a floor of -1 on 4 rows".into();
    assert_eq!(refused, PlanError::Custom { name: "spots".into(), why });
}
