//! The fast path against a slow, obvious model, over random shapes, tilings, orders, gaps and pixel types.

use std::sync::Arc;

use proptest::prelude::*;
use ronchi_pipeline::reduce::{Frames, LiveImages, Reducer, Reduction, VirtualDetector};
use ronchi_pipeline::{
    ByteOrder, FrameFlag, NavShape, PixelKind, PixelType, Region, Repeats, Scan, ScanOrder, SigShape,
};

use crate::run::{Data, Piece, run, run_whole, values};

/// Small random numbers from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pixel(&mut self, kind: PixelKind) -> f64 {
        let extreme = self.roll(4) == 0;
        match kind {
            PixelKind::U8 => (if extreme { 255 } else { self.roll(256) }) as f64,
            PixelKind::U16 => (if extreme { 65535 } else { self.roll(65536) }) as f64,
            PixelKind::U32 => (if extreme { u64::from(u32::MAX) } else { self.roll(1 << 32) }) as f64,
            PixelKind::F32 if extreme => f64::from((self.roll(2000) as f32 - 1000.0) * 1e20),
            PixelKind::F32 => f64::from((self.roll(2000) as f32 - 900.0) * 0.37),
        }
    }
}

/// A random experiment.
pub(crate) struct Case {
    pub(crate) data: Data,
    pub(crate) scan: Option<Scan>,
    pub(crate) regions: Vec<Region>,
    pub(crate) work: Vec<Piece>,
    /// `[link][frame]`
    pub(crate) present: Vec<Vec<bool>>,
    pub(crate) masks: Vec<Vec<f64>>,
}

pub(crate) fn kinds() -> impl Strategy<Value = PixelType> {
    let kinds = [PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32];
    let orders = [ByteOrder::Little, ByteOrder::Big];
    (prop::sample::select(kinds.to_vec()), prop::sample::select(orders.to_vec()))
        .prop_map(|(kind, order)| PixelType::new(kind, order))
}

impl Case {
    pub(crate) fn new(pixel: PixelType, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let detector = SigShape { height: 1 + dice.roll(9) as u32, width: 1 + dice.roll(40) as u32 };
        let nav = NavShape { height: 1 + dice.roll(4) as u32, width: 1 + dice.roll(4) as u32 };
        let scan = (dice.roll(3) > 0).then(|| Scan {
            shape: nav,
            order: if dice.roll(2) == 0 { ScanOrder::Raster } else { ScanOrder::Serpentine },
            flyback: dice.roll(3) as u32,
            sync_offset: dice.roll(5) as i64 - 2,
            frames_per_position: [1, 1, 1, 2, 3][dice.roll(5) as usize],
            passes: [1, 1, 1, 2, 3][dice.roll(5) as usize],
            repeats: [Repeats::Sum, Repeats::Mean, Repeats::Last, Repeats::Stack][dice.roll(4) as usize],
        });
        let frame_count = dice.roll(40) as usize;
        let pixels = detector.pixel_count() as usize;
        let frame = |dice: &mut Dice| (0..pixels).map(|_| dice.pixel(pixel.kind)).collect();
        let frames = (0..frame_count).map(|_| frame(&mut dice)).collect();
        let rows = cuts(&mut dice, detector.height);
        let columns = cuts(&mut dice, detector.width);
        let regions: Vec<Region> = rows
            .windows(2)
            .flat_map(|y| columns.windows(2).map(move |x| (y[0], y[1], x[0], x[1])))
            .map(|(y0, y1, x0, x1)| Region { y: y0, x: x0, height: y1 - y0, width: x1 - x0 })
            .collect();
        let present: Vec<Vec<bool>> =
            regions.iter().map(|_| (0..frame_count).map(|_| dice.roll(10) > 0).collect()).collect();
        let work = pieces(&mut dice, &present);
        let masks = (0..1 + dice.roll(4)).map(|_| mask(&mut dice, pixels)).collect();
        Self { data: Data { detector, pixel, frames }, scan, regions, work, present, masks }
    }

    pub(crate) fn reductions(&self) -> Vec<Reduction> {
        let SigShape { height, width } = self.data.detector;
        let image = |weights: &Vec<f64>| VirtualDetector::Image { height, width, weights: weights.clone() };
        let masks = self.masks.iter().enumerate();
        masks
            .map(|(i, weights)| Reduction::virtual_detector(&format!("m{i}"), image(weights)))
            .chain([Reduction::total(), Reduction::centre_of_mass(), Reduction::sum(), Reduction::max()])
            .collect()
    }

    /// What becomes of frames that share a place, and how many do.
    fn repeats(&self) -> (Repeats, usize) {
        match self.scan {
            Some(scan) if scan.repeats != Repeats::Stack => (scan.repeats, scan.repeat_count() as usize),
            _ => (Repeats::Stack, 1),
        }
    }

    /// Frames of a place whose tiles are all there, in the order of acquisition.
    pub(crate) fn frames_at(&self, index: usize) -> Vec<usize> {
        let shown = |&frame: &usize| match self.scan {
            None => frame == index,
            Some(scan) => scan.place(frame as u64).is_some_and(|(position, repeat)| {
                let place = position.y as usize * scan.shape.width as usize + position.x as usize;
                let stacked = place * scan.repeat_count() as usize + repeat as usize;
                index == if scan.repeats == Repeats::Stack { stacked } else { place }
            }),
        };
        (0..self.data.frames.len()).filter(shown).filter(|&frame| self.present.iter().all(|link| link[frame])).collect()
    }

    /// The picture that a place shows: with repeats their sum, mean or the last one.
    fn shown_at(&self, index: usize) -> Option<Vec<f64>> {
        let frames: Vec<&Vec<f64>> = self.frames_at(index).into_iter().map(|frame| &self.data.frames[frame]).collect();
        let last = (*frames.last()?).clone();
        let sum = |pixel: usize| frames.iter().map(|frame| frame[pixel]).sum::<f64>();
        let all = 0..last.len();
        Some(match self.repeats().0 {
            Repeats::Sum => all.map(sum).collect(),
            Repeats::Mean => all.map(|pixel| sum(pixel) / frames.len() as f64).collect(),
            Repeats::Last | Repeats::Stack => last,
        })
    }

    /// Sum of magnitudes of the pixels behind [`Self::shown_at`].
    fn sizes_at(&self, index: usize) -> Vec<f64> {
        let mut sizes = vec![0.0; self.data.detector.pixel_count() as usize];
        for frame in self.frames_at(index) {
            sizes.iter_mut().zip(&self.data.frames[frame]).for_each(|(size, pixel)| *size += pixel.abs());
        }
        sizes
    }

    pub(crate) fn place_count(&self) -> usize {
        let all = |scan: Scan| scan.placed_count() as usize / self.repeats().1;
        self.scan.map_or(self.data.frames.len(), all)
    }
}

/// Ascending borders from 0 to `end`.
pub(crate) fn cuts(dice: &mut Dice, end: u32) -> Vec<u32> {
    let mut cuts = vec![0, end];
    cuts.extend((0..dice.roll(3)).map(|_| dice.roll(u64::from(end)) as u32));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Every frame of every link once, in pieces of random length and random order.
pub(crate) fn pieces(dice: &mut Dice, present: &[Vec<bool>]) -> Vec<Piece> {
    let mut work = Vec::new();
    for (link, present) in present.iter().enumerate() {
        let mut first = 0;
        while first < present.len() {
            let count = (1 + dice.roll(6) as usize).min(present.len() - first);
            let flag = |&present: &bool| if present { FrameFlag::Ok } else { FrameFlag::Missing };
            let flags = present[first..first + count].iter().map(flag).collect();
            work.push(Piece { link, reducer: dice.roll(2) as usize, first, flags });
            first += count;
        }
    }
    for i in (1..work.len()).rev() {
        work.swap(i, dice.roll(i as u64 + 1) as usize);
    }
    work
}

fn mask(dice: &mut Dice, pixels: usize) -> Vec<f64> {
    let real = dice.roll(2) == 0;
    let mut mask: Vec<f64> = (0..pixels)
        .map(|_| match (dice.roll(3) > 0, real) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => (dice.roll(2001) as f64 - 1000.0) / 3.0 * 2.0_f64.powi(dice.roll(40) as i32 - 20),
        })
        .collect();
    mask[dice.roll(pixels as u64) as usize] = 1.0;
    mask
}

/// Sum and sum of magnitudes, in f64.
fn dot(weights: impl Iterator<Item = f64>, frame: &[f64]) -> (f64, f64) {
    weights
        .zip(frame)
        .filter(|(w, _)| *w != 0.0)
        .fold((0.0, 0.0), |(sum, size), (w, &v)| (sum + w * v, size + (w * v).abs()))
}

/// Whether a mask may be multiplied in single precision: real, and given in it.
fn is_single(weights: &[f64]) -> bool {
    !is_binary(weights) && weights.iter().all(|&weight| f64::from(weight as f32) == weight)
}

fn is_binary(weights: &[f64]) -> bool {
    weights.iter().all(|&weight| weight == 0.0 || weight == 1.0)
}

/// Exact for integers of any size, to 1e-12 of the magnitudes otherwise.
fn close(got: f64, (expected, size): (f64, f64)) -> bool {
    (got - expected).abs() <= 1e-12 * size
}

fn check_values(case: &Case, images: &LiveImages) {
    let width = case.data.detector.width as usize;
    for index in 0..case.place_count() {
        let frame = case.shown_at(index);
        let sizes = case.sizes_at(index);
        // Frames that are added up may cancel: the size of a sum is that of all of them.
        let dot = |weights: &mut dyn Iterator<Item = f64>, frame: &[f64]| {
            let weights: Vec<f64> = weights.collect();
            (dot(weights.iter().copied(), frame).0, dot(weights.iter().copied(), &sizes).1)
        };
        for (m, weights) in case.masks.iter().enumerate() {
            let got = values(images, &format!("m{m}"))[index];
            match &frame {
                Some(frame) => {
                    let (want, size) = dot(&mut weights.iter().copied(), frame);
                    let size = if is_single(weights) { 2e6 * size } else { size };
                    assert!(close(got, (want, size)), "{got} at {index}");
                }
                None => assert!(got.is_nan()),
            }
        }
        let com = &values(images, "com")[2 * index..2 * index + 2];
        let total = values(images, "total")[index];
        let Some(frame) = frame else {
            assert!(com[0].is_nan() && com[1].is_nan() && total.is_nan());
            continue;
        };
        let frame = &frame;
        let pixels = 0..frame.len();
        let sum = dot(&mut pixels.clone().map(|_| 1.0), frame);
        assert!(close(total, sum), "{total} is not {sum:?}");
        assert!(total > 0.0 || com[0].is_nan() && com[1].is_nan());
        // Where positive and negative pixels cancel, the quotient of the model is no better than the numbers in it.
        if sum.0 > 1e-3 * sum.1 {
            let y = dot(&mut pixels.clone().map(|p| (p / width) as f64), frame);
            let x = dot(&mut pixels.map(|p| (p % width) as f64), frame);
            assert!((com[0] - y.0 / sum.0).abs() <= 1e-9 * (1.0 + y.1 / sum.0), "{com:?}");
            assert!((com[1] - x.0 / sum.0).abs() <= 1e-9 * (1.0 + x.1 / sum.0), "{com:?}");
        }
    }
}

fn check_patterns(case: &Case, images: &LiveImages) {
    let width = case.data.detector.width as usize;
    let (sum, max) = (values(images, "sum"), values(images, "max"));
    for (link, region) in case.regions.iter().enumerate() {
        let wanted = |&frame: &usize| {
            case.present[link][frame] && case.scan.is_none_or(|scan| scan.position(frame as u64).is_some())
        };
        let frames: Vec<usize> = (0..case.data.frames.len()).filter(wanted).collect();
        for y in region.y..region.y + region.height {
            for x in region.x..region.x + region.width {
                let pixel = y as usize * width + x as usize;
                let column: Vec<f64> = frames.iter().map(|&frame| case.data.frames[frame][pixel]).collect();
                if column.is_empty() {
                    assert!(sum[pixel].is_nan() && max[pixel].is_nan());
                    continue;
                }
                assert!(close(sum[pixel], dot(column.iter().map(|_| 1.0), &column)));
                assert_eq!(max[pixel], column.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            }
        }
    }
}

/// Stored integers against u128.
fn check_stored(case: &Case, images: &LiveImages) {
    if !case.data.pixel.is_integer() {
        return;
    }
    let stored = images.image("total").expect("total").stored();
    if case.repeats().0 == Repeats::Mean && case.repeats().1 > 1 {
        assert_eq!((stored.numpy, stored.zarr), ("<f8", "float64"));
        return;
    }
    assert_eq!((stored.numpy, stored.zarr), ("<u8", "uint64"));
    for (index, bytes) in stored.bytes.as_chunks::<8>().0.iter().enumerate() {
        let exact: u128 = case.shown_at(index).map_or(0, |frame| frame.iter().map(|&pixel| pixel as u128).sum());
        assert_eq!(u128::from(u64::from_le_bytes(*bytes)), exact);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any experiment gives what the model says, and bit for bit what one reducer gives that sees whole frames in order.
    #[test]
    fn like_the_model(pixel in kinds(), seed in any::<u64>()) {
        let case = Case::new(pixel, seed);
        let images = run(&case.data, &case.reductions(), case.scan, &case.regions, &case.work);
        check_values(&case, &images);
        check_patterns(&case, &images);
        check_stored(&case, &images);
        let seen: Vec<usize> = (0..case.place_count()).map(|index| case.frames_at(index).len()).collect();
        let valid: Vec<u8> = seen.iter().map(|&count| u8::from(count == case.repeats().1)).collect();
        prop_assert_eq!(images.complete_count(), seen.iter().sum::<usize>() as u64);
        prop_assert_eq!(images.valid(), valid);
    }

    /// With nothing missing, order and threads leave no trace: files are equal byte for byte. Nor do tiles where all that is
    /// added are integers, or patterns.
    #[test]
    fn independent_of_tiling_and_order(pixel in kinds(), seed in any::<u64>()) {
        let mut case = Case::new(pixel, seed);
        case.work.iter_mut().for_each(|piece| piece.flags.fill(FrameFlag::Ok));
        let tiled = run(&case.data, &case.reductions(), case.scan, &case.regions, &case.work);
        let backwards: Vec<Piece> = case.work.iter().rev().cloned().collect();
        let backwards = run(&case.data, &case.reductions(), case.scan, &case.regions, &backwards);
        for (tiled, backwards) in tiled.images().zip(backwards.images()) {
            prop_assert_eq!(tiled.stored(), backwards.stored(), "{}", tiled.name());
        }
        let whole = run_whole(&case.data, &case.reductions(), case.scan);
        let real = |name: &str| (0..).zip(&case.masks).any(|(m, mask)| name == format!("m{m}") && !is_binary(mask));
        for (tiled, whole) in tiled.images().zip(whole.images()) {
            prop_assert_eq!(tiled.shape(), whole.shape());
            let is_exact = case.data.pixel.is_integer() && !real(tiled.name());
            if is_exact || ["sum", "max"].contains(&tiled.name()) {
                prop_assert_eq!(tiled.stored(), whole.stored(), "{}", tiled.name());
            }
        }
    }

    /// What is listed as not reduced is exactly what is missing on that link and has a place.
    #[test]
    fn lists_what_is_missing(pixel in kinds(), seed in any::<u64>()) {
        let case = Case::new(pixel, seed);
        let images = run(&case.data, &case.reductions(), case.scan, &case.regions, &case.work);
        for (link, present) in case.present.iter().enumerate() {
            let frames = 0..case.data.frames.len() as u64;
            let listed: Vec<u64> = images.holes(link as u32, frames.clone()).into_iter().flat_map(|hole| hole.frames).flatten().collect();
            let has_place = |frame: u64| case.scan.is_none_or(|scan| scan.position(frame).is_some());
            let open: Vec<u64> = frames.filter(|&frame| !present[frame as usize] && has_place(frame)).collect();
            prop_assert_eq!(&listed, &open);
        }
    }
}

/// The list of reductions changes in the middle, twice; late partials of old plans come in; holes are filled at the end:
/// every result is what it would have been from the start, bit for bit, and no image ever holds a value of another list.
fn change_twice(case: &Case) {
    let data = &case.data;
    let first = case.reductions();
    let mut second = first.clone();
    second.remove(0);
    second.push(Reduction::parse("min", None, serde_json::Map::new()).expect("no parameters"));
    let lists = [first.clone(), second, first];
    let count = Some(data.frames.len() as u64);
    let new = |list: &[Reduction]| LiveImages::new(list, case.scan, count, data.detector, data.pixel, &case.regions);
    let mut images = new(&lists[0]).expect("valid");
    let mut late = Vec::new();
    let reduce = |images: &LiveImages, piece: &Piece| {
        let plan = images.plan(piece.link as u32).expect("valid");
        let mut reducer = Reducer::new(Arc::new(plan));
        let bytes = data.tile(case.regions[piece.link], piece.first, piece.flags.len());
        let frames =
            Frames::new(piece.first as u64, &bytes, data.pixel, case.regions[piece.link]).expect("whole frames");
        reducer.reduce(&frames.with_flags(&piece.flags).expect("one flag per frame"));
        (piece.link as u32, reducer.take(), reducer.take_patterns())
    };
    for (step, piece) in case.work.iter().enumerate() {
        let list = (3 * step / case.work.len().max(1)).min(2);
        if list as u32 > images.generation() {
            images.change(&lists[list]).expect("valid");
        }
        late.push(reduce(&images, piece));
        if step % 4 == 3 {
            for (link, partial, patterns) in late.drain(..) {
                images.merge(link, &partial);
                images.merge_patterns(link, &patterns);
            }
        }
    }
    while images.generation() < 2 {
        images.change(&lists[images.generation() as usize + 1]).expect("valid");
    }
    for (link, partial, patterns) in late {
        images.merge(link, &partial);
        images.merge_patterns(link, &patterns);
    }
    for link in 0..case.regions.len() {
        fill(case, &mut images, link);
    }
    let whole = run(data, &lists[2], case.scan, &case.regions, &case.work);
    for (changed, whole) in images.images().zip(whole.images()) {
        assert_eq!(changed.stored(), whole.stored(), "{}", changed.name());
    }
    assert_eq!(images.valid(), whole.valid());
}

/// Reduces what is missing on a link again, as far as it is there.
fn fill(case: &Case, images: &mut LiveImages, link: usize) {
    let region = case.regions[link];
    for hole in images.holes(link as u32, 0..case.data.frames.len() as u64) {
        let mut reducer = Reducer::new(Arc::new(images.plan_for(link as u32, &hole).expect("valid")));
        for range in &hole.frames {
            let (first, count) = (range.start as usize, (range.end - range.start) as usize);
            let bytes = case.data.tile(region, first, count);
            let flag = |frame: usize| if case.present[link][frame] { FrameFlag::Ok } else { FrameFlag::Missing };
            let flags: Vec<FrameFlag> = (first..first + count).map(flag).collect();
            let frames = Frames::new(range.start, &bytes, case.data.pixel, region).expect("whole frames");
            reducer.reduce(&frames.with_flags(&flags).expect("one flag per frame"));
        }
        images.merge(link as u32, &reducer.take());
        images.merge_patterns(link as u32, &reducer.take_patterns());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Changing the list of reductions on the way leaves no trace in the end.
    #[test]
    fn changes_leave_no_trace(pixel in kinds(), seed in any::<u64>()) {
        change_twice(&Case::new(pixel, seed));
    }
}
