//! Messages, byte by byte, as their description has them.

use std::time::{Duration, SystemTime};

use ronchi_pipeline::{ByteOrder, SigShape};
use serde_json::{Map, json};

use super::images::Image;
use super::series::{Exposure, Series, SeriesId};
use super::*;

fn series(detail: HeaderDetail) -> Series {
    let form =
        ImageForm { dtype: Dtype::U16, compression: Compression::Bslz4, channels: vec!["threshold_1".to_owned()] };
    let configuration = Map::from_iter([("nimages".to_owned(), json!(7)), ("ntrigger".to_owned(), json!(3))]);
    Series {
        number: 15614,
        name: "01HBV3JPF9T4ZDPADX6EMK6XMZ".to_owned(),
        armed: SystemTime::UNIX_EPOCH + Duration::from_millis(1_676_040_545_281),
        shape: SigShape { height: 7, width: 11 },
        form,
        format: Some(StreamFormat::Both),
        triggers: 3,
        images_per_trigger: 7,
        is_triggered: false,
        count_ns: 8200,
        frame_ns: 8340,
        detail,
        header_appendix: Value::Null,
        image_appendix: Value::Null,
        configuration,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(parts: &[zmq::Message]) -> Vec<&str> {
    parts.iter().map(|part| part.as_str().expect("text")).collect()
}

/// A real end message; the other stream's is that of its description.
#[test]
fn documented_ends() {
    let id = SeriesId { number: 15614, name: "01HBV3JPF9T4ZDPADX6EMK6XMZ" };
    let mut real = vec![0xd9, 0xd9, 0xf7, 0xa3, 0x64];
    real.extend(b"type\x63end\x69series_id\x19\x3c\xfe\x70series_unique_id\x78\x1a01HBV3JPF9T4ZDPADX6EMK6XMZ");
    assert_eq!((stream2::end(id), real.len()), (real.clone(), 71));
    assert_eq!(texts(&stream1::end(id)), [r#"{"htype":"dseries_end-1.0","series":15614}"#]);
}

/// The tail of a recorded image of this shape, up to its 56 bytes, and the keys before it in the recorded order.
#[test]
fn documented_images_of_stream2() {
    let series = series(HeaderDetail::Basic);
    let image = Image::of(vec![0xaa; 56], ByteOrder::Little);
    let exposure = Exposure { id: series.id(), frame: 300, start_ns: 8340 * 300, count_ns: 8200, image: &image };
    let message = hex(&stream2::image(&series, &exposure));
    let tail = "6464617461a16b7468726573686f6c645f31d82882 82070b d845d9dcb483 6562736c7a34 02 5838";
    let tail = tail.replace(' ', "") + &"aa".repeat(56);
    assert!(message.ends_with(&tail), "{message}");
    let keys =
        ["type", "series_id", "series_unique_id", "image_id", "real_time", "series_date", "start_time", "stop_time"];
    let mut rest = message.strip_prefix("d9d9f7a9").expect("nine entries");
    for key in keys {
        rest = &rest[rest.find(&hex(key.as_bytes())).expect("in this order")..];
    }
    // image_id 300; 2 502 000 ns are 125 100 ticks of 20 ns, of which a second has 50 000 000.
    assert!(message.contains(&format!("{}19012c", hex(b"image_id"))));
    assert!(message.contains(&format!("{}821a0001e8ac1a02faf080", hex(b"start_time"))), "{message}");
    assert!(
        message.contains(&format!("{}c07818{}", hex(b"series_date"), hex(b"2023-02-10T14:49:05.281Z"))),
        "{message}"
    );
    let big = Image::of(vec![0xaa; 56], ByteOrder::Big);
    let message = hex(&stream2::image(&series, &Exposure { image: &big, ..exposure }));
    assert!(message.contains("82070bd841d9dcb4"), "an array of big-endian u16 has tag 65");
}

/// Parts of an image of STREAM: columns before rows, encoding and size as they are; appendices come last.
#[test]
fn documented_images_of_stream() {
    let series = series(HeaderDetail::Basic);
    let image = Image::of(vec![0xaa; 56], ByteOrder::Little);
    let exposure = Exposure { id: series.id(), frame: 3, start_ns: 25020, count_ns: 8200, image: &image };
    let parts = stream1::image(&series, &exposure);
    let zeros = "0".repeat(32);
    assert_eq!(&*parts[2], [0xaa; 56]);
    let want = [
        format!(r#"{{"htype":"dimage-1.0","series":15614,"frame":3,"hash":"{zeros}"}}"#),
        r#"{"htype":"dimage_d-1.0","shape":[11,7],"type":"uint16","encoding":"bs16-lz4<","size":56}"#.to_owned(),
        r#"{"htype":"dconfig-1.0","start_time":25020,"stop_time":33220,"real_time":8200}"#.to_owned(),
    ];
    assert_eq!([0, 1, 3].map(|part| parts[part].as_str().expect("text")), want);
    let image = Image::of(vec![0xaa; 56], ByteOrder::Big);
    for (compression, encoding) in
        [(Compression::None, ">"), (Compression::Lz4, "lz4>"), (Compression::Bslz4, "bs16-lz4>")]
    {
        let mut series = series.clone();
        series.form.compression = compression;
        let parts = stream1::image(&series, &Exposure { image: &image, ..exposure });
        assert!(parts[1].as_str().expect("text").contains(&format!(r#""encoding":"{encoding}""#)));
    }
    let with_appendix = Series { image_appendix: json!([1, "text"]), ..series.clone() };
    assert_eq!(stream1::image(&with_appendix, &exposure)[4].as_str(), Some(r#"[1,"text"]"#));
}

/// Headers have as many parts as their detail asks for, each table with its shape in front; one may be split.
#[test]
fn headers_of_stream() {
    let counts = [HeaderDetail::None, HeaderDetail::Basic, HeaderDetail::All].map(|detail| {
        let messages = stream1::header(&series(detail), false);
        let [parts] = messages.as_slice() else { panic!("one message") };
        parts.len()
    });
    assert_eq!(counts, [1, 2, 8]);
    let mut series = series(HeaderDetail::All);
    series.header_appendix = "run 7".into();
    let parts = stream1::header(&series, false).remove(0);
    assert_eq!(parts[8].as_str(), Some("run 7"));
    for (at, text, bytes) in [
        (2, r#"{"htype":"dflatfield-1.0","shape":[11,7],"type":"float32"}"#, 4 * 77),
        (4, r#"{"htype":"dpixelmask-1.0","shape":[11,7],"type":"uint32"}"#, 4 * 77),
        (6, r#"{"htype":"dcountrate_table-1.0","shape":[2,1001],"type":"float32"}"#, 8 * 1001),
    ] {
        let (got, want): (Value, Value) =
            (serde_json::from_slice(&parts[at]).expect("JSON"), serde_json::from_str(text).expect("JSON"));
        assert_eq!((got, parts[at + 1].len()), (want, bytes));
    }
    let split = stream1::header(&series, true);
    assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), [1, 8]);
}

/// Plans that cannot be are refused with the name of what is wrong.
#[test]
fn impossible_plans() {
    let scan = ronchi_pipeline::NavShape { height: 2, width: 2 };
    let detector = SigShape { height: 4, width: 4 };
    let images = SynthPlan { scan, detector, dose: 1.0, specimen: Default::default(), seed: 1 };
    let form = |dtype, compression| ImageForm { dtype, compression, channels: vec!["threshold_1".to_owned()] };
    let plan = |form| DectrisSimulation::new(images, form);
    let fault = |kind| vec![Fault { kind, probability: 0.5 }];
    let good = form(Dtype::U16, Compression::Bslz4);
    let both = DectrisSimulation {
        rest: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        format: StreamFormat::Both,
        ..plan(good.clone())
    };
    let channels = ImageForm { channels: vec!["threshold_1".to_owned(), "threshold_9".to_owned()], ..good.clone() };
    for (plan, want) in [
        (DectrisSimulation { rate_hz: -1.0, ..plan(good.clone()) }, "a rate of -1"),
        (both, "both streams"),
        (DectrisSimulation { faults: fault(FaultKind::Disconnect), ..plan(good.clone()) }, "disconnect"),
        (DectrisSimulation { faults: fault(FaultKind::WrongHash), ..plan(good) }, "wrong-hash"),
        (
            DectrisSimulation { faults: fault(FaultKind::BigEndian), ..plan(form(Dtype::U8, Compression::Bslz4)) },
            "big-endian",
        ),
        (
            DectrisSimulation { faults: fault(FaultKind::ZeroHeader), ..plan(form(Dtype::U16, Compression::Lz4)) },
            "zero-header",
        ),
        (plan(channels), "threshold_9"),
    ] {
        let error = DectrisSimulator::start(plan).map(drop).expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
}
