//! A sender of tile streams (`docs/tile-stream.md`), with seeded faults: for tests and for `ronchi simulate tiles`.
//!
//! # Place in the path
//! Outside it: the other end of the socket that `ronchi_ingest::tiles::TileSource` reads.
//!
//! # Limits
//! At most [`QUEUE_MESSAGES`] messages wait in the sender; then `send` blocks up to [`SEND_PATIENCE`].
//!
//! ```no_run
//! use ronchi::simulate::tiles::{TileFaults, TileSender, TileStream};
//! let sender = TileSender::connect("tcp://127.0.0.1:7001")?;
//! let stream = TileStream::whole("demo", 1000, 256, 256);
//! let sent = sender.run(&stream, &TileFaults::default(), |frame, pixels| pixels.fill(frame as u8), || false)?;
//! assert_eq!(sent.frames, 1000);
//! # Ok::<(), ronchi::simulate::tiles::SendError>(())
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use ronchi_ingest::tiles::{BeginHeader, EndHeader, Header, TileHeader};
use ronchi_pipeline::format::bslz4;
use ronchi_pipeline::{ByteOrder, Encoding, FrameIndex, NavShape, PixelKind, PixelType, Region, SigShape};

pub use super::push::{SEND_PATIENCE, SendError};

use super::push::Push;

/// Messages the sender keeps before it waits for the receiver.
pub const QUEUE_MESSAGES: i32 = 256;

/// What one sender sends.
#[derive(Debug, Clone, PartialEq)]
pub struct TileStream {
    /// Name of the run; all senders of one run use the same.
    pub series: String,
    /// Frames sent, numbered from 0.
    pub frame_count: u64,
    /// Whether `begin` announces the number of frames.
    pub announces_count: bool,
    /// Shape of the whole detector, in pixels.
    pub detector: SigShape,
    /// The part of it that is sent.
    pub region: Region,
    /// Pixel type of the payloads.
    pub pixel: PixelType,
    /// The form of the payloads.
    pub encoding: Encoding,
    /// Scan shape to announce.
    pub scan: Option<NavShape>,
    /// Text to send with `begin`.
    pub metadata: Option<String>,
    /// Form of the headers.
    pub coding: HeaderCoding,
}

/// Form of the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCoding {
    /// JSON text.
    #[default]
    Json,
    /// CBOR map.
    Cbor,
}

impl TileStream {
    /// A detector of `height` x `width` little-endian u16 pixels that sends itself whole.
    pub fn whole(series: &str, frame_count: u64, height: u32, width: u32) -> Self {
        let detector = SigShape { height, width };
        Self {
            series: series.to_owned(),
            frame_count,
            announces_count: true,
            detector,
            region: detector.region(),
            pixel: PixelType::new(PixelKind::U16, ByteOrder::Little),
            encoding: Encoding::Raw,
            scan: None,
            metadata: None,
            coding: HeaderCoding::Json,
        }
    }

    /// Bytes of the pixels of one tile.
    pub fn frame_bytes(&self) -> usize {
        self.region.pixel_count() as usize * self.pixel.bytes()
    }

    fn begin(&self) -> Header<'_> {
        Header::Begin(BeginHeader {
            series: self.series.as_str().into(),
            frame_count: self.announces_count.then_some(self.frame_count),
            detector: self.detector,
            region: self.region,
            pixel: self.pixel,
            encoding: self.encoding,
            scan: self.scan,
            metadata: self.metadata.as_deref().map(Into::into),
        })
    }

    fn tile(&self, frame: FrameIndex) -> Header<'_> {
        let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        Header::Tile(TileHeader {
            series: self.series.as_str().into(),
            frame,
            region: self.region,
            pixel: self.pixel,
            encoding: self.encoding,
            detector: None,
            counter: Some(frame),
            time_ns: time_ns.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        })
    }

    fn code(&self, header: &Header<'_>) -> Vec<u8> {
        match self.coding {
            HeaderCoding::Json => header.to_json(),
            HeaderCoding::Cbor => header.to_cbor(),
        }
    }
}

/// How often a sender misbehaves: each is the probability per frame, 0 to 1. The same seed gives the same faults.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TileFaults {
    /// Seed of all choices.
    pub seed: u64,
    /// The frame is not sent.
    pub lose: f64,
    /// The frame is sent twice.
    pub repeat: f64,
    /// The frame is sent after the next one.
    pub swap: f64,
    /// A message of random bytes is sent before the frame.
    pub garbage: f64,
    /// The frame is sent with a region that is not the stream's.
    pub wrong_region: f64,
    /// A compressed frame is sent with a block that does not expand: nothing in its header or lengths tells.
    pub spoil: f64,
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames sent at least once, correctly.
    pub frames: u64,
    /// Frames left out, in order.
    pub lost: Vec<FrameIndex>,
    /// Frames sent with a wrong region only, in order.
    pub broken: Vec<FrameIndex>,
    /// Frames sent that cannot be decoded, in order.
    pub spoilt: Vec<FrameIndex>,
    /// Frames sent a second time.
    pub repeated: u64,
    /// Pairs of frames that changed places.
    pub swapped: u64,
    /// Messages of random bytes.
    pub garbage: u64,
}

/// A PUSH socket that speaks the tile protocol.
pub struct TileSender(Push);

impl TileSender {
    /// Connects to a receiver that listens.
    pub fn connect(endpoint: &str) -> Result<Self, SendError> {
        Push::connect(endpoint, QUEUE_MESSAGES).map(Self)
    }

    /// Listens for a receiver that connects.
    pub fn bind(endpoint: &str) -> Result<Self, SendError> {
        Push::bind(endpoint, QUEUE_MESSAGES).map(Self)
    }

    /// Where the socket listens or connects to, with the port that the system chose.
    pub fn endpoint(&self) -> &str {
        self.0.endpoint()
    }

    /// Sends the parts of one message, whatever they are.
    pub fn send_parts<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(), SendError> {
        self.0.send(parts)
    }

    /// Announces the series.
    pub fn begin(&self, stream: &TileStream) -> Result<(), SendError> {
        self.send_parts([stream.code(&stream.begin()).as_slice()])
    }

    /// Sends one tile; `payload` should be [`TileStream::frame_bytes`] of pixels, compressed if the stream says so.
    pub fn tile(&self, stream: &TileStream, frame: FrameIndex, payload: &[u8]) -> Result<(), SendError> {
        self.send_parts([stream.code(&stream.tile(frame)).as_slice(), payload])
    }

    /// Says that all tiles have been sent, and how many frames they were.
    pub fn end(&self, stream: &TileStream, frame_count: Option<u64>) -> Result<(), SendError> {
        let end = Header::End(EndHeader { series: stream.series.as_str().into(), frame_count });
        self.send_parts([stream.code(&end).as_slice()])
    }

    /// Sends a whole series: `begin`, every frame with the faults asked for, `end`. `paint` writes the pixels of a frame;
    /// `is_stopped` is asked before each frame and may pace the stream by sleeping.
    pub fn run(
        &self,
        stream: &TileStream,
        faults: &TileFaults,
        mut paint: impl FnMut(FrameIndex, &mut [u8]),
        mut is_stopped: impl FnMut() -> bool,
    ) -> Result<Sent, SendError> {
        let mut chance = Chance(faults.seed);
        let mut sent = Sent::default();
        let mut pixels = vec![0; stream.frame_bytes()];
        let (mut compressor, mut compressed) = (bslz4::Compressor::default(), Vec::new());
        let mut held = None;
        self.begin(stream)?;
        for frame in 0..stream.frame_count {
            if is_stopped() {
                break;
            }
            if held.is_none() && frame + 1 < stream.frame_count && chance.is(faults.swap) {
                held = Some(frame);
                sent.swapped += 1;
                continue;
            }
            for frame in [Some(frame), held.take()].into_iter().flatten() {
                paint(frame, &mut pixels);
                let payload = match stream.encoding {
                    Encoding::Raw => &mut pixels,
                    Encoding::Bslz4 => {
                        compressor.compress(&pixels, stream.pixel.bytes(), &mut compressed);
                        &mut compressed
                    }
                };
                self.send_frame(stream, faults, frame, payload, &mut chance, &mut sent)?;
            }
        }
        self.end(stream, Some(sent.frames))?;
        Ok(sent)
    }

    fn send_frame(
        &self,
        stream: &TileStream,
        faults: &TileFaults,
        frame: FrameIndex,
        payload: &mut [u8],
        chance: &mut Chance,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        if chance.is(faults.garbage) {
            self.send_parts([chance.next().to_le_bytes().as_slice(), b"garbage"])?;
            sent.garbage += 1;
        }
        if chance.is(faults.lose) {
            sent.lost.push(frame);
            return Ok(());
        }
        if chance.is(faults.wrong_region) {
            let Region { y, x, height, width } = stream.region;
            let wrong = TileStream { region: Region { y: y + 1, x, height, width }, ..stream.clone() };
            self.send_parts([wrong.code(&wrong.tile(frame)).as_slice(), payload])?;
            sent.broken.push(frame);
            return Ok(());
        }
        if chance.is(faults.spoil) && spoil(payload) {
            sent.spoilt.push(frame);
        }
        self.tile(stream, frame, payload)?;
        sent.frames += 1;
        if chance.is(faults.repeat) {
            self.tile(stream, frame, payload)?;
            sent.repeated += 1;
        }
        Ok(())
    }
}

/// Makes the first LZ4 block of a compressed frame one that does not expand; `false` when it has none. It then begins with
/// a reference to what lies before it.
fn spoil(payload: &mut [u8]) -> bool {
    let block = payload.get_mut(16..20);
    block.map(|block| block.copy_from_slice(&[0x00, 0xff, 0xff, 0x00])).is_some()
}

/// SplitMix64: small, seeded, the same on every machine.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn is(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.next() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronchi_ingest::tiles::parse_header;

    /// Everything a faulty sender says it did is what a plain PULL socket sees; the same seed does the same again.
    #[test]
    fn faults_are_reported_as_sent() {
        let run = |coding| {
            let pull = zmq::Context::new().socket(zmq::PULL).expect("socket");
            pull.set_rcvtimeo(5000).expect("timeout");
            pull.bind("tcp://127.0.0.1:*").expect("bound");
            let sender = TileSender::connect(&pull.get_last_endpoint().expect("address").expect("text")).expect("open");
            let stream = TileStream { coding, ..TileStream::whole("s", 200, 4, 4) };
            let faults =
                TileFaults { seed: 7, lose: 0.1, repeat: 0.1, swap: 0.1, garbage: 0.1, wrong_region: 0.1, spoil: 0.0 };
            let sent = sender.run(&stream, &faults, |f, pixels| pixels.fill(f as u8), || false).expect("sent");
            let (mut good, mut bad, mut garbage) = (Vec::new(), Vec::new(), 0);
            loop {
                let parts = pull.recv_multipart(0).expect("a message");
                match parse_header(&parts[0]) {
                    Ok(Header::Begin(begin)) => assert_eq!(begin.frame_count, Some(200)),
                    Ok(Header::Tile(tile)) if tile.region == stream.region => {
                        assert_eq!(parts[1], vec![tile.frame as u8; 32]);
                        good.push(tile.frame);
                    }
                    Ok(Header::Tile(tile)) => bad.push(tile.frame),
                    Ok(Header::End(end)) => break assert_eq!(end.frame_count, Some(sent.frames)),
                    Err(_) => garbage += 1,
                }
            }
            let swapped = good.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
            assert_eq!(good.len() as u64, sent.frames + sent.repeated);
            assert_eq!((bad, garbage), (sent.broken.clone(), sent.garbage));
            assert!(swapped > 0 && swapped <= sent.swapped);
            assert_eq!(sent.frames + (sent.lost.len() + sent.broken.len()) as u64, 200);
            sent
        };
        assert_eq!(run(HeaderCoding::Json), run(HeaderCoding::Cbor));
    }
}
