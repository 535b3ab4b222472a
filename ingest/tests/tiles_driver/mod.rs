//! A receive loop reduced to what a source can see of it: gives blocks, keeps what was put into them.
#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, each of which uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ronchi_ingest::tiles::{BeginHeader, EndHeader, Header, TileHeader, TileSettings, TileSource};
use ronchi_ingest::{Arrivals, Begin, Fill, Filling, Source};
use ronchi_pipeline::format::bslz4;
use ronchi_pipeline::{
    Announcement, BlockMut, ByteOrder, Encoding, EndReason, FrameFlag, Gaps, Layout, LinkCounters, Payload, PixelKind,
    PixelType, Pool, Region, Series, SigShape,
};

pub const DETECTOR: SigShape = SigShape { height: 8, width: 8 };
pub const REGION: Region = Region { y: 4, x: 0, height: 4, width: 8 };
pub const FRAME_BYTES: usize = 64;
const BLOCK_BYTES: u64 = 1 << 10; // 16 frames: sequences cross many blocks.

pub fn pixel() -> PixelType {
    PixelType::new(PixelKind::U16, ByteOrder::Big)
}

pub fn settings(silence: Duration) -> TileSettings {
    TileSettings {
        endpoint: "tcp://127.0.0.1:*".into(),
        bind: true,
        region: Some(REGION),
        detector: Some(DETECTOR),
        message_bytes: 1 << 20,
        silence,
        is_decoding: false,
    }
}

pub fn begin(series: &str, frame_count: Option<u64>) -> Header<'_> {
    let (detector, region) = (DETECTOR, REGION);
    let metadata = Some("kept".into());
    Header::Begin(BeginHeader {
        series: series.into(),
        frame_count,
        detector,
        region,
        pixel: pixel(),
        encoding: Encoding::Raw,
        scan: None,
        metadata,
    })
}

pub fn tile(series: &str, frame: u64) -> TileHeader<'_> {
    let (counter, time_ns) = (Some(frame + 1), Some(1000 + frame));
    let (region, pixel, encoding) = (REGION, pixel(), Encoding::Raw);
    TileHeader { series: series.into(), frame, region, pixel, encoding, detector: None, counter, time_ns }
}

pub fn end(series: &str, frame_count: Option<u64>) -> Header<'_> {
    Header::End(EndHeader { series: series.into(), frame_count })
}

/// The pixels of a frame.
pub fn pixels(frame: u64) -> Vec<u8> {
    (0..FRAME_BYTES as u64).map(|i| (frame * 31 + i) as u8).collect()
}

/// The same, as a detector compresses them.
pub fn compressed(frame: u64) -> Vec<u8> {
    let mut out = Vec::new();
    bslz4::Compressor::default().compress(&pixels(frame), 2, &mut out);
    out
}

/// A PUSH socket connected to `address`.
pub fn push(context: &zmq::Context, address: &str) -> zmq::Socket {
    let push = context.socket(zmq::PUSH).expect("socket");
    push.set_linger(1000).expect("linger");
    push.connect(address).expect("connected");
    push
}

pub fn send(push: &zmq::Socket, header: &Header<'_>, blob: Option<&[u8]>) {
    let header = header.to_json();
    let parts = [Some(header.as_slice()), blob];
    push.send_multipart(parts.into_iter().flatten(), 0).expect("sent");
}

pub fn send_tile(push: &zmq::Socket, series: &str, frame: u64) {
    send(push, &Header::Tile(tile(series, frame)), Some(&pixels(frame)));
}

/// What came of one series.
#[derive(Debug)]
pub struct Outcome {
    pub announced: Announcement,
    pub frames: BTreeMap<u64, Vec<u8>>,
    pub reason: EndReason,
    pub frame_count: u64,
    pub received_count: u64,
    pub gaps: Gaps,
    pub counters: LinkCounters,
}

impl Outcome {
    pub fn count(&self, counter: fn(&LinkCounters) -> &AtomicU64) -> u64 {
        LinkCounters::read(counter(&self.counters))
    }
}

pub struct Driver {
    pub source: Box<dyn Source>,
    /// Whether frames carry the counter and time stamp that [`tile`] gives them.
    pub checks_records: bool,
    block_bytes: u64,
    pool: Pool,
}

impl Driver {
    /// A driver and the address its source listens at.
    pub fn new(settings: TileSettings) -> (Self, String) {
        let mut source = TileSource::new(settings);
        let address = source.open().expect("a free port");
        (Self::with(source, BLOCK_BYTES), address)
    }

    pub fn with(source: impl Source + 'static, block_bytes: u64) -> Self {
        let pool = Pool::new(2, Layout::slot_bytes(block_bytes) as usize).expect("pool");
        Self { source: Box::new(source), checks_records: true, block_bytes, pool }
    }

    /// Receives the next series to its end; `None` when none begins for five seconds.
    pub fn series(&mut self) -> Option<Outcome> {
        let Ok(Begin::Series(announced)) = self.source.begin(Instant::now() + Duration::from_secs(5)) else {
            return None;
        };
        let announced = *announced;
        let frame_bytes = announced.region.pixel_count() * announced.pixel.bytes() as u64;
        let (pixel, count) = (announced.pixel, announced.frame_count);
        let layout = announced.encoding.layout(frame_bytes, pixel, self.block_bytes, None, count).expect("fits");
        let (acquisition, name, link_count) = ([0; 16], "t".to_owned(), 1);
        let series =
            Series { acquisition, name, link: 0, link_count, announced, scan: None, layout, is_recorded: true };
        let outcome = self.fill(&Arc::new(series));
        assert_eq!(self.pool.free_count(), self.pool.slot_count(), "a block leaked");
        Some(outcome)
    }

    fn fill(&mut self, series: &Arc<Series>) -> Outcome {
        let counters = LinkCounters::default();
        let mut arrivals = Arrivals::new(series.announced.frame_count);
        let mut frames = BTreeMap::new();
        let take = || BlockMut::new(self.pool.take(Duration::ZERO).expect("a slot"), Arc::clone(series), 0);
        let mut block = take();
        let reason = loop {
            let deadline = Instant::now() + Duration::from_millis(5);
            let mut filling = Filling { block: &mut block, arrivals: &mut arrivals, counters: &counters };
            let fill = self.source.fill(&mut filling, deadline).expect("a working socket");
            let first = match fill {
                Fill::Elsewhere(frame) => frame,
                Fill::Paused if block.present_count() == 0 => continue,
                Fill::Full | Fill::Paused | Fill::End(_) => arrivals.next(),
            };
            self.keep(block, &mut frames);
            block = BlockMut::new(self.pool.take(Duration::ZERO).expect("a slot"), Arc::clone(series), first);
            if let Fill::End(reason) = fill {
                break reason;
            }
        };
        drop(block);
        let announced = series.announced.clone();
        let (frame_count, received_count, gaps) = arrivals.finish();
        Outcome { announced, frames, reason, frame_count, received_count, gaps, counters }
    }

    fn keep(&self, block: BlockMut, frames: &mut BTreeMap<u64, Vec<u8>>) {
        let Some(block) = block.seal() else { return };
        let frame_bytes = block.series().layout.frame_bytes as usize;
        for (i, (frame, record)) in block.frames().zip(block.records()).enumerate() {
            if record.flag == FrameFlag::Ok {
                let is_as_sent = (record.counter, record.time_ns) == (frame + 1, 1000 + frame);
                assert!(!self.checks_records || is_as_sent, "{record:?} of frame {frame}");
                let bytes = match block.payload() {
                    Payload::Pixels(pixels) => &pixels[i * frame_bytes..(i + 1) * frame_bytes],
                    Payload::Bslz4(frames) => frames.frame(i).expect("it is there"),
                };
                assert!(frames.insert(frame, bytes.to_vec()).is_none(), "frame {frame} came out twice");
            }
        }
    }
}
