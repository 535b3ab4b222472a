//! A whole reduction in a few lines: frames in, finished images out, any tiling, any order.

use std::sync::Arc;

use ronchi_pipeline::reduce::{Conditions, Frames, LiveImages, Reducer, Reduction};
use ronchi_pipeline::{ByteOrder, FrameFlag, PixelKind, PixelType, Region, Scan, SigShape};

/// Frames of a whole detector; pixel values as numbers, which every pixel type holds exactly.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) detector: SigShape,
    pub(crate) pixel: PixelType,
    /// Frame by frame, C order.
    pub(crate) frames: Vec<Vec<f64>>,
}

impl Data {
    /// Bytes of one tile of frames `first .. first + count`, as a detector would send them.
    pub(crate) fn tile(&self, region: Region, first: usize, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in &self.frames[first..first + count] {
            for y in region.y..region.y + region.height {
                for x in region.x..region.x + region.width {
                    push(&mut bytes, self.pixel, frame[(y * self.detector.width + x) as usize]);
                }
            }
        }
        bytes
    }
}

fn push(bytes: &mut Vec<u8>, pixel: PixelType, value: f64) {
    let mut one = match pixel.kind {
        PixelKind::U8 => vec![value as u8],
        PixelKind::U16 => (value as u16).to_le_bytes().to_vec(),
        PixelKind::U32 => (value as u32).to_le_bytes().to_vec(),
        PixelKind::F32 => (value as f32).to_le_bytes().to_vec(),
    };
    if pixel.order == ByteOrder::Big {
        one.reverse();
    }
    bytes.extend(one);
}

/// One piece of work: frames of one link, and which of them are there.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) link: usize,
    pub(crate) reducer: usize,
    pub(crate) first: usize,
    pub(crate) flags: Vec<FrameFlag>,
}

/// Reduces all pieces in order; each link has two reducers, and hands over after every third piece and at the end.
pub(crate) fn run(
    data: &Data,
    reductions: &[Reduction],
    scan: Option<Scan>,
    regions: &[Region],
    work: &[Piece],
) -> LiveImages {
    run_under(data, reductions, scan, regions, work, &Conditions::default())
}

/// As [`run`], under some conditions.
pub(crate) fn run_under(
    data: &Data,
    reductions: &[Reduction],
    scan: Option<Scan>,
    regions: &[Region],
    work: &[Piece],
    conditions: &Conditions,
) -> LiveImages {
    let Data { detector, pixel, ref frames } = *data;
    let count = Some(frames.len() as u64);
    let images = LiveImages::with_conditions(reductions, scan, count, detector, pixel, regions, conditions);
    let mut images = images.expect("valid");
    let mut reducers: Vec<[Reducer; 2]> = Vec::new();
    for link in 0..regions.len() as u32 {
        let plan = Arc::new(images.plan(link).expect("valid"));
        reducers.push([Reducer::new(plan.clone()), Reducer::new(plan)]);
    }
    for (step, piece) in work.iter().enumerate() {
        let region = regions[piece.link];
        let bytes = data.tile(region, piece.first, piece.flags.len());
        let frames = Frames::new(piece.first as u64, &bytes, data.pixel, region).expect("whole frames");
        let reducer = &mut reducers[piece.link][piece.reducer];
        reducer.reduce(&frames.with_flags(&piece.flags).expect("one flag per frame"));
        if step % 3 == 2 {
            images.merge(piece.link as u32, &reducer.take());
            images.merge_patterns(piece.link as u32, &reducer.take_patterns());
        }
    }
    for (link, reducers) in (0..).zip(&mut reducers) {
        for reducer in reducers {
            images.merge(link, &reducer.take());
            images.merge_patterns(link, &reducer.take_patterns());
        }
    }
    images
}

/// All frames at once, one tile, one reducer: what offline reprocessing does.
pub(crate) fn run_whole(data: &Data, reductions: &[Reduction], scan: Option<Scan>) -> LiveImages {
    run_whole_under(data, reductions, scan, &Conditions::default())
}

/// As [`run_whole`], under some conditions.
pub(crate) fn run_whole_under(
    data: &Data,
    reductions: &[Reduction],
    scan: Option<Scan>,
    conditions: &Conditions,
) -> LiveImages {
    let flags = vec![FrameFlag::Ok; data.frames.len()];
    let work = [Piece { link: 0, reducer: 0, first: 0, flags }];
    run_under(data, reductions, scan, &[data.detector.region()], &work, conditions)
}

/// Numbers of a whole result.
pub(crate) fn values(images: &LiveImages, name: &str) -> Vec<f64> {
    let image = images.image(name).expect("a result of that name");
    image.row_values(0..image.shape()[0])
}
