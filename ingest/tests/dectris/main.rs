//! DECTRIS streams over a real socket on this machine: recorded and made ones.

mod sockets;
#[path = "../tiles_driver/mod.rs"]
mod tiles_driver;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ronchi_config::DectrisStream;
use ronchi_ingest::dectris::{DectrisSettings, DectrisSource};
use ronchi_pipeline::format::bslz4::{Bslz4, Compressor};
use ronchi_pipeline::reduce::NoData;
use ronchi_pipeline::{Encoding, EndReason, Gap, GapReason, Sensor, SigShape};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tiles_driver::{Driver, Outcome};

type Messages = Vec<Vec<Vec<u8>>>;

/// A detector that has bound its socket, and a driver whose source has connected to it.
fn connected(stream: DectrisStream, is_decoding: bool, frame_bytes: u64) -> (zmq::Context, zmq::Socket, Driver) {
    let context = zmq::Context::new();
    let push = context.socket(zmq::PUSH).expect("socket");
    push.set_linger(1000).expect("linger");
    push.bind("tcp://127.0.0.1:*").expect("bound");
    let endpoint = push.get_last_endpoint().expect("address").expect("text");
    let driver = driver(DectrisSettings {
        stream,
        endpoint,
        sockets: 1,
        detector: None,
        message_bytes: 128 << 20,
        frame_bytes,
        is_decoding,
    });
    (context, push, driver)
}

/// A driver whose source has connected.
fn driver(settings: DectrisSettings) -> Driver {
    let frame_bytes = settings.frame_bytes;
    let mut source = DectrisSource::new(settings);
    source.open().expect("connects");
    let mut driver = Driver::with(source, frame_bytes);
    driver.checks_records = false;
    driver
}

fn send(push: &zmq::Socket, messages: &[Vec<Vec<u8>>]) {
    for message in messages {
        push.send_multipart(message, 0).expect("sent");
    }
}

/// Receives one series of these messages.
fn receive(stream: DectrisStream, is_decoding: bool, frame_bytes: u64, messages: &[Vec<Vec<u8>>]) -> Outcome {
    let (_context, push, mut driver) = connected(stream, is_decoding, frame_bytes);
    std::thread::scope(|scope| {
        scope.spawn(move || send(&push, messages));
        driver.series().expect("a series")
    })
}

/// A frame as pixels.
fn decoded(outcome: &Outcome, frame: u64) -> Vec<u8> {
    let bytes = &outcome.frames[&frame];
    let frame_bytes = outcome.announced.region.pixel_count() as usize * outcome.announced.pixel.bytes();
    match outcome.announced.encoding {
        Encoding::Raw => bytes.clone(),
        Encoding::Bslz4 => {
            let mut pixels = vec![0; frame_bytes];
            let frame = Bslz4::parse(bytes, frame_bytes, outcome.announced.pixel.bytes()).expect("framed");
            frame.decode(&mut Vec::new(), &mut pixels).expect("decodes");
            pixels
        }
    }
}

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/dectris");
    path.join("index.json").exists().then_some(path)
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Every golden and recorded series is received with the pixels that reference decoders find, decoded and kept compressed.
#[test]
fn golden_series() {
    let Some(folder) = shared() else { return println!("skipped: ../shared is not here") };
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).expect("index")).expect("json");
    let mut count = 0;
    for series in index["series"].as_array().expect("series") {
        let name = series["name"].as_str().expect("name");
        let stream = if series["stream"] == 1 { DectrisStream::Legacy } else { DectrisStream::Cbor };
        let part = |part: &Value| std::fs::read(folder.join(part["file"].as_str().expect("file"))).expect("a part");
        let messages = series["messages"].as_array().expect("messages").iter();
        let messages: Messages =
            messages.map(|parts| parts.as_array().expect("parts").iter().map(part).collect()).collect();
        if series["expected_frames"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        count += 1;
        for is_decoding in [true, false] {
            let outcome = receive(stream, is_decoding, 128 << 20, &messages);
            check(name, &outcome, series["expected_frames"].as_array().expect("frames"));
        }
    }
    println!("{count} series received");
}

fn check(name: &str, outcome: &Outcome, expected: &[Value]) {
    check_tables(name, &outcome.announced.sensor, outcome.announced.detector);
    let mut frames: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for want in expected {
        let frame = number(if want["frame"].is_null() { &want["image_id"] } else { &want["frame"] });
        frames.entry(frame).or_default().push(want);
    }
    assert_eq!(
        outcome.frames.keys().copied().collect::<Vec<_>>(),
        frames.keys().copied().collect::<Vec<_>>(),
        "{name}"
    );
    for (&frame, channels) in &frames {
        let pixels = decoded(outcome, frame);
        let bytes = pixels.len() / channels.len();
        for (want, pixels) in channels.iter().zip(pixels.chunks(bytes)) {
            let got: String = Sha256::digest(pixels).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(Some(got.as_str()), want["sha256_le_bytes"].as_str(), "{name}, frame {frame}");
            let shape = [outcome.announced.detector.height / channels.len() as u32, outcome.announced.detector.width];
            assert_eq!(json!(shape), want["shape"], "{name}");
        }
    }
}

/// Sums of the pixel mask and the flat field of the golden series that has them, by a reference decoder.
const MASK_SUM: u64 = 98;
const FLATFIELD_SUM: f64 = 9215.99999988079;

/// The tables of the one golden series that has some: those of the first threshold, above channels without.
fn check_tables(name: &str, sensor: &Sensor, detector: SigShape) {
    assert_eq!(sensor.nodata, Some(NoData::Max), "{name}");
    let (mask, flatfield) = match (&sensor.pixel_mask, &sensor.flatfield) {
        (None, None) if name != "v2_96x96_uint16_multichannel_all" => return,
        (Some(mask), Some(flatfield)) => (mask, flatfield),
        (mask, flatfield) => panic!("{name}: mask {}, flat field {}", mask.is_some(), flatfield.is_some()),
    };
    assert_eq!((mask.shape(), mask.is_applied, flatfield.is_applied), (detector, Some(true), Some(true)), "{name}");
    let own = 96 * 96;
    assert_eq!(mask.values()[..own].iter().map(|&bits| u64::from(bits)).sum::<u64>(), MASK_SUM, "{name}");
    let sum = flatfield.values()[..own].iter().map(|&factor| f64::from(factor)).sum::<f64>();
    assert_eq!(sum.to_bits(), FLATFIELD_SUM.to_bits(), "{name}");
    assert!(
        mask.values()[own..].iter().all(|&bits| bits == 0) && flatfield.values()[own..].iter().all(|&it| it == 1.0)
    );
}

const SHAPE: SigShape = SigShape { height: 3, width: 16 };

fn pixels(frame: u64) -> Vec<u8> {
    (0..48_u16).flat_map(|i| (i * 3 + frame as u16).to_le_bytes()).collect()
}

fn start(series: u64, images: u64) -> Vec<Vec<u8>> {
    let head = json!({ "htype": "dheader-1.0", "series": series, "header_detail": "basic" });
    let configuration = json!({ "ntrigger": images, "nimages": 1, "trigger_mode": "exte", "x_pixels_in_detector": 16 });
    vec![head.to_string().into(), configuration.to_string().into()]
}

fn image(series: u64, frame: u64, encoding: &str, payload: Vec<u8>) -> Vec<Vec<u8>> {
    let head = json!({ "htype": "dimage-1.0", "series": series, "frame": frame, "hash": "" });
    let form = json!({ "htype": "dimage_d-1.0", "shape": [SHAPE.width, SHAPE.height], "type": "uint16", "encoding": encoding });
    let times = json!({ "htype": "dconfig-1.0", "start_time": 1000 * frame });
    vec![head.to_string().into(), form.to_string().into(), payload, times.to_string().into()]
}

fn raw(series: u64, frame: u64) -> Vec<Vec<u8>> {
    image(series, frame, "<", pixels(frame))
}

fn compressed(series: u64, frame: u64) -> Vec<Vec<u8>> {
    let mut payload = Vec::new();
    Compressor::default().compress(&pixels(frame), 2, &mut payload);
    image(series, frame, "bs16-lz4<", payload)
}

fn end(series: u64) -> Vec<Vec<u8>> {
    vec![json!({ "htype": "dseries_end-1.0", "series": series }).to_string().into()]
}

/// A start with tables; those parts that are given replace the usual ones.
fn start_with_tables(configuration: Value, mask: (&[u64], &[u32]), flatfield: &[f32]) -> Vec<Vec<u8>> {
    let head = json!({ "htype": "dheader-1.0", "series": 1, "header_detail": "all" });
    let form =
        |htype: &str, shape: &[u64], kind: &str| json!({ "htype": htype, "shape": shape, "type": kind }).to_string();
    let mut parts = vec![head.to_string().into(), configuration.to_string().into_bytes()];
    parts.push(form("dflatfield-1.0", &[SHAPE.width.into(), SHAPE.height.into()], "float32").into());
    parts.push(flatfield.iter().flat_map(|factor| factor.to_le_bytes()).collect());
    parts.push(form("dpixelmask-1.0", mask.0, "uint32").into());
    parts.push(mask.1.iter().flat_map(|bits| bits.to_le_bytes()).collect());
    parts.push(form("dcountrate_table-1.0", &[2, 1], "float32").into());
    parts.push(vec![0; 8]);
    parts.push(b"an appendix of the user's".to_vec());
    parts
}

fn sensor_of(start: Vec<Vec<u8>>) -> Sensor {
    receive(DectrisStream::Legacy, true, 1 << 12, &[start, raw(1, 0), end(1)]).announced.sensor
}

/// Pixel mask and flat field of a start are announced, with what the detector says of them; tables of another size are not.
#[test]
fn tables_of_the_legacy_start() {
    let configuration = json!({
        "ntrigger": 1, "nimages": 1, "x_pixels_in_detector": 16, "y_pixels_in_detector": 3,
        "pixel_mask_applied": 1, "flatfield_correction_applied": false,
    });
    let size: [u64; 2] = [SHAPE.width.into(), SHAPE.height.into()];
    let bits: Vec<u32> = (0..48).map(|i| u32::from(i % 7 == 0) << (i % 32)).collect();
    let factors: Vec<f32> = (0..48).map(|i| 1.0 + i as f32 / 64.0).collect();
    let sensor = sensor_of(start_with_tables(configuration.clone(), (&size, &bits), &factors));
    let (mask, flatfield) = (sensor.pixel_mask.expect("a mask"), sensor.flatfield.expect("a flat field"));
    assert_eq!((sensor.nodata, mask.values(), mask.is_applied), (Some(NoData::Max), &bits[..], Some(true)));
    assert_eq!((flatfield.values(), flatfield.is_applied), (&factors[..], Some(false)));

    let mut zeroed = configuration.clone();
    zeroed["mask_to_zero"] = true.into();
    for (configuration, shape, bits) in [
        (zeroed, [15, 3], vec![1; 45]),             // Not what the configuration announces.
        (json!({}), [15, 3], vec![1; 45]),          // Not what images have.
        (json!({}), size, vec![1; 47]),             // A pixel is missing.
        (json!({}), [65_536, 65_536], vec![1; 48]), // More than any frame.
        (json!({}), [0, 0], vec![1; 48]),
    ] {
        let is_zeroed = !configuration["mask_to_zero"].is_null();
        let sensor = sensor_of(start_with_tables(configuration, (&shape, &bits), &factors));
        assert_eq!((sensor.pixel_mask, sensor.nodata.is_none()), (None, is_zeroed), "{shape:?}");
        assert_eq!(sensor.flatfield.expect("a flat field").values(), factors);
    }
    assert_eq!(sensor_of(start(1, 1)), Sensor { nodata: Some(NoData::Max), ..Sensor::default() });
}

fn gaps(outcome: &Outcome) -> Vec<Gap> {
    outcome.gaps.iter().collect()
}

/// Left over images of an earlier run are not taken for the next one; an end that comes early leaves gaps; late ones are
/// nothing; the same number may come again.
#[test]
fn series_after_series() {
    let (_context, push, mut driver) = connected(DectrisStream::Legacy, true, 1 << 12);
    send(&push, &[raw(6, 41), raw(6, 42), end(6)]);
    send(&push, &[start(7, 4), raw(7, 0), raw(7, 2), end(7)]);
    let first = driver.series().expect("a series");
    assert_eq!((first.announced.series_id.as_str(), first.reason), ("7", EndReason::Stopped));
    assert_eq!(first.count(|c| &c.unplaced_frames), 2);
    let missing = |first, count| Gap { first, count, reason: GapReason::NeverArrived };
    assert_eq!(gaps(&first), [missing(1, 1), missing(3, 1)]);
    send(&push, &[end(7), raw(7, 3), start(7, 2), raw(7, 0), raw(7, 1), end(7), end(7), start(8, 1), end(8)]);
    let again = driver.series().expect("the number again");
    assert_eq!((again.announced.series_id.as_str(), again.reason, again.frames.len()), ("7", EndReason::Complete, 2));
    send(&push, &[start(9, 5), raw(9, 0), start(10, 1), raw(10, 0)]);
    let cut = driver.series().expect("a series that another one ends");
    assert_eq!((cut.announced.series_id.as_str(), cut.reason, cut.frames.len()), ("9", EndReason::Stopped, 1));
    let last = driver.series().expect("the other one");
    assert_eq!((last.announced.series_id.as_str(), last.reason, last.frames.len()), ("10", EndReason::Complete, 1));
    assert_eq!(decoded(&last, 0), pixels(0));
}

/// Images that are not of their series are gaps, rubbish is counted, and everything else arrives.
#[test]
fn broken_images() {
    let other_shape = image(1, 1, "<", vec![0; 95]);
    let mut cut = compressed(1, 3);
    cut[2].truncate(30);
    let mut head_only = raw(1, 5);
    head_only.truncate(1);
    let messages = [
        start(1, 8),
        vec![b"rubbish".to_vec()],
        raw(1, 0),
        other_shape,
        raw(1, 2),
        cut,
        image(1, 4, "zstd<", vec![1, 2, 3]),
        head_only,
        raw(1, 2),
        compressed(1, 6),
        vec![Vec::new(); 20],
        raw(1, 7),
        end(1),
    ];
    let got = receive(DectrisStream::Legacy, true, 1 << 12, &messages);
    assert_eq!(got.frames.keys().copied().collect::<Vec<_>>(), [0, 2, 6, 7]);
    assert!(got.frames.keys().all(|&frame| decoded(&got, frame) == pixels(frame)));
    let rejected: Vec<u64> =
        gaps(&got).iter().filter(|gap| gap.reason == GapReason::Rejected).map(|gap| gap.count).collect();
    assert_eq!(rejected.iter().sum::<u64>(), 4, "{:?}", gaps(&got));
    assert_eq!((got.count(|c| &c.garbage_messages), got.count(|c| &c.duplicate_frames)), (2, 1));
    assert_eq!(got.reason, EndReason::Stopped);
}

/// What a detector compresses is kept as it came unless pixels are wanted; a raw image among compressed ones is then a gap.
#[test]
fn compressed_images_are_kept() {
    let messages = [start(1, 3), compressed(1, 0), raw(1, 1), compressed(1, 2), end(1)];
    let kept = receive(DectrisStream::Legacy, false, 1 << 12, &messages);
    assert_eq!((kept.announced.encoding, kept.frames.len()), (Encoding::Bslz4, 2));
    assert_eq!(kept.frames[&2], messages[3][2]);
    assert_eq!(decoded(&kept, 2), pixels(2));
    let pixel = receive(DectrisStream::Legacy, true, 1 << 12, &messages);
    assert_eq!((pixel.announced.encoding, pixel.frames.len(), pixel.reason), (Encoding::Raw, 3, EndReason::Complete));
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(vec![0xd9, 0xd9, 0xf7]);
    fn write(encoder: &mut minicbor::Encoder<Vec<u8>>, value: &Value) {
        let done = match value {
            Value::Object(map) => {
                let done = encoder.map(map.len() as u64).is_ok();
                map.iter().for_each(|(key, value)| {
                    encoder.str(key).expect("memory");
                    write(encoder, value);
                });
                done
            }
            Value::Array(list) => {
                let done = encoder.array(list.len() as u64).is_ok();
                list.iter().for_each(|value| write(encoder, value));
                done
            }
            Value::Number(number) => encoder.u64(number.as_u64().unwrap_or(0)).is_ok(),
            Value::String(text) => encoder.str(text).is_ok(),
            Value::Bool(is) => encoder.bool(*is).is_ok(),
            Value::Null => encoder.null().is_ok(),
        };
        assert!(done);
    }
    write(&mut encoder, value);
    encoder.into_writer()
}

/// An image of STREAM2: channels of u16 pixels, uncompressed, in this order.
fn cbor_image(name: &str, frame: u64, channels: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut encoder = minicbor::Encoder::new(vec![0xd9, 0xd9, 0xf7]);
    let tag = minicbor::data::Tag::new;
    let written = (|| {
        encoder.map(6)?.str("type")?.str("image")?.str("series_id")?.u64(5)?.str("series_unique_id")?.str(name)?;
        encoder.str("image_id")?.u64(frame)?.str("start_time")?.array(2)?.u64(frame)?.u64(1000)?;
        encoder.str("data")?.map(channels.len() as u64)?;
        for (channel, pixels) in channels {
            encoder.str(channel)?.tag(tag(40))?.array(2)?.array(2)?.u64(3)?.u64(16)?.tag(tag(69))?.bytes(pixels)?;
        }
        Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
    })();
    written.expect("memory");
    vec![encoder.into_writer()]
}

/// Channels that together have more rows than a detector may have open no series.
#[test]
fn too_many_rows() {
    let (_context, push, mut driver) = connected(DectrisStream::Cbor, true, 1 << 22);
    let image = |rows: u64, count: usize| {
        let mut encoder = minicbor::Encoder::new(Vec::new());
        let (tag, pixels) = (minicbor::data::Tag::new, vec![1; rows as usize]);
        let written = (|| {
            encoder.map(4)?.str("type")?.str("image")?.str("series_id")?.u64(5)?.str("image_id")?.u64(0)?;
            encoder.str("data")?.map(count as u64)?;
            for channel in ["a", "b"].iter().take(count) {
                encoder
                    .str(channel)?
                    .tag(tag(40))?
                    .array(2)?
                    .array(2)?
                    .u64(rows)?
                    .u64(1)?
                    .tag(tag(64))?
                    .bytes(&pixels)?;
            }
            Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
        })();
        written.expect("memory");
        vec![encoder.into_writer()]
    };
    let start = vec![cbor(&json!({ "type": "start", "series_id": 5, "number_of_images": 1 }))];
    send(&push, &[start, image(65_536, 2), image(32_768, 2)]);
    let got = driver.series().expect("the second image opens it");
    assert_eq!((got.announced.detector.height, got.reason), (65_536, EndReason::Complete));
}

/// Channels lie below each other in the order of the start, in whatever order images bring them; one that lacks is a gap.
/// A start and the first image in one message are two messages.
#[test]
fn channels_of_stream2() {
    let start = json!({
        "type": "start", "series_id": 5, "series_unique_id": "01ABC", "number_of_images": 3,
        "channels": ["threshold_1", "difference"], "detector_description": "a test",
    });
    let a = |frame: u64| ("threshold_1", pixels(frame));
    let b = |frame: u64| ("difference", pixels(frame + 50));
    let first = vec![cbor(&start), cbor_image("01ABC", 0, &[b(0), a(0)]).remove(0)];
    let end = cbor(&json!({ "type": "end", "series_id": 5, "series_unique_id": "01ABC" }));
    let messages = [
        first,
        cbor_image("01ABC", 1, &[a(1)]),
        cbor_image("01OLD", 1, &[a(9), b(9)]),
        cbor_image("01ABC", 2, &[a(2), b(2)]),
        vec![end],
    ];
    let got = receive(DectrisStream::Cbor, false, 1 << 12, &messages);
    assert_eq!((got.announced.detector.height, got.announced.detector.width), (6, 16));
    assert_eq!(got.announced.series_id, "01ABC");
    let text: Value = serde_json::from_str(&got.announced.vendor_header).expect("json");
    assert_eq!(text["detector_description"], "a test");
    for frame in [0, 2] {
        assert_eq!(got.frames[&frame], [pixels(frame), pixels(frame + 50)].concat());
    }
    assert_eq!((gaps(&got).len(), got.count(|c| &c.unplaced_frames), got.reason), (1, 1, EndReason::Stopped));
}
