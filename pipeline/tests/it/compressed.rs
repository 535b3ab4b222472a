//! Blocks of compressed frames are reduced as their pixels are, and what does not decode is left out and counted.

use std::sync::Arc;
use std::time::Duration;

use ronchi_pipeline::format::bslz4;
use ronchi_pipeline::reduce::{Decoder, Frames, ReducePlan, Reducer, Reduction};
use ronchi_pipeline::{
    Announcement, Block, BlockMut, ByteOrder, Encoding, FrameFlag, PixelKind, PixelType, Pool, Sensor, Series, SigShape,
};

const DETECTOR: SigShape = SigShape { height: 160, width: 150 };
const FRAME_BYTES: usize = 160 * 150 * 2;
const COUNT: usize = 12;

fn series(encoding: Encoding) -> Arc<Series> {
    let pixel = PixelType::new(PixelKind::U16, ByteOrder::Little);
    let layout = encoding.layout(FRAME_BYTES as u64, pixel, 1 << 20, None, None).expect("fits");
    let announced = Announcement {
        series_id: "test".into(),
        frame_count: None,
        scan: None,
        detector: DETECTOR,
        region: DETECTOR.region(),
        pixel,
        encoding,
        vendor_header: String::new(),
        sensor: Sensor::default(),
    };
    let layout = ronchi_pipeline::Layout { frames_per_chunk: COUNT as u32, ..layout };
    let (name, acquisition) = ("test".into(), [1; 16]);
    Arc::new(Series { acquisition, name, link: 0, link_count: 1, announced, scan: None, layout, is_recorded: false })
}

fn pixels(frame: usize) -> Vec<u8> {
    (0..FRAME_BYTES).map(|i| if (i * 31 + frame).is_multiple_of(7) { (i % 251) as u8 & 3 } else { 0 }).collect()
}

/// A block of all frames but those in `missing`; `damage` gets every frame as it was sent.
fn block(pool: &Pool, encoding: Encoding, missing: &[usize], damage: impl Fn(usize, &mut Vec<u8>)) -> Block {
    let mut block = BlockMut::new(pool.take(Duration::ZERO).expect("slot"), series(encoding), 24);
    let mut compressor = bslz4::Compressor::default();
    for position in (0..COUNT).filter(|position| !missing.contains(position)) {
        let mut frame = pixels(position);
        if encoding == Encoding::Bslz4 {
            compressor.compress(&pixels(position), 2, &mut frame);
        }
        damage(position, &mut frame);
        block.put(position, &frame, 0, 0);
    }
    block.reject(3, FrameFlag::Truncated);
    block.seal().expect("frames")
}

fn reducer() -> Reducer {
    let wanted = [Reduction::total(), Reduction::centre_of_mass(), Reduction::sum(), Reduction::max()];
    let (announced, detector) = (&series(Encoding::Raw).announced, DETECTOR);
    Reducer::new(Arc::new(ReducePlan::compile(&wanted, detector, announced.region, announced.pixel).expect("plan")))
}

/// Several pieces, missing frames, and frames whose blocks do not expand: the rest is as if it had come as pixels.
#[test]
fn compressed_blocks_are_reduced_as_pixels() {
    let pool = Pool::new(2, 1 << 20).expect("pool");
    let mut decoder = Decoder::default();
    for broken in [&[][..], &[0], &[5, 11], &[1, 2, 4, 5, 6, 7, 8, 9, 10, 11]] {
        let raw = block(&pool, Encoding::Raw, &[&[3, 7][..], broken].concat(), |_, _| {});
        let compressed = block(&pool, Encoding::Bslz4, &[3, 7], |position, frame| {
            if broken.contains(&position) {
                frame[16..24].fill(0xff); // The first LZ4 block: its length is right, its content is not.
            }
        });
        assert!(Frames::of_block(&compressed).is_none());
        let (mut want, mut got) = (reducer(), reducer());
        assert_eq!(
            decoder.each(&raw, |frames| {
                want.reduce(frames);
            }),
            0
        );
        let (mut calls, mut count) = (0, 0);
        let damaged = decoder.each(&compressed, |frames| {
            calls += 1;
            count += frames.count;
            assert!(broken.iter().chain(&[3, 7]).all(|&position| {
                let at = (24 + position as u64).checked_sub(frames.first);
                at.is_none_or(|at| !frames.is_present(at as usize))
            }));
            got.reduce(frames);
        });
        let is_missing = |position: &&usize| [3, 7].contains(*position);
        assert_eq!(damaged as usize, broken.len() - broken.iter().filter(is_missing).count());
        assert_eq!((calls, count), (COUNT.div_ceil((256 << 10) / FRAME_BYTES), COUNT));
        assert_eq!(format!("{:?}", got.take()), format!("{:?}", want.take()));
        assert_eq!(format!("{:?}", got.take_patterns()), format!("{:?}", want.take_patterns()));
    }
}
