use minicbor::Encoder;
use proptest::prelude::*;
use ronchi_pipeline::{ByteOrder, PixelKind};

use super::*;

fn legacy(parts: &[&str]) -> Result<String, Refusal> {
    let bytes: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    Stream1::default().parse(&bytes).map(|message| format!("{message:?}"))
}

fn started(parts: &[&str]) -> Start {
    let bytes: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    match Stream1::default().parse(&bytes) {
        Ok(Message::Start(start, _)) => start,
        other => panic!("{other:?}"),
    }
}

const HEADER: &str = r#"{"htype":"dheader-1.0","series":34,"header_detail":"basic"}"#;

/// Modes in which every trigger makes one image, and those in which it makes several: rows of a scan.
#[test]
fn numbers_of_images() {
    let of = |configuration: &str| {
        let start = started(&[HEADER, configuration]);
        (start.frame_count, start.scan.map(|scan| (scan.height, scan.width)))
    };
    assert_eq!(of(r#"{"trigger_mode":"exte","nimages":7,"ntrigger":12}"#), (Some(12), None));
    assert_eq!(of(r#"{"trigger_mode":"exts","nimages":7,"ntrigger":12}"#), (Some(84), Some((12, 7))));
    assert_eq!(of(r#"{"trigger_mode":"ints","nimages":100,"ntrigger":1}"#), (Some(100), None));
    assert_eq!(of(r#"{"trigger_mode":"exts","nimages":1,"ntrigger":2000000000}"#), (None, None));
    assert_eq!(of(r#"{"trigger_mode":"exts","nimages":18446744073709551615,"ntrigger":2}"#), (None, None));
    assert_eq!(of("{}"), (None, None));
    let bare = started(&[r#"{"htype":"dheader-1.0","series":34,"header_detail":"none"}"#]);
    assert_eq!((bare.name.as_str(), bare.frame_count), ("34", None));
}

/// A header in two messages; what comes between is not taken for the configuration.
#[test]
fn headers_in_two_messages() {
    let mut stream = Stream1::default();
    let configuration: &[u8] = br#"{"trigger_mode":"exte","ntrigger":5}"#;
    assert!(matches!(stream.parse(&[HEADER.as_bytes()]), Ok(Message::Nothing)));
    let Ok(Message::Start(start, _)) = stream.parse(&[configuration]) else { panic!("a start") };
    assert_eq!((start.name.as_str(), start.frame_count), ("34", Some(5)));
    assert!(matches!(stream.parse(&[configuration]), Err(Refusal::Kind { .. })));
    assert!(matches!(stream.parse(&[HEADER.as_bytes()]), Ok(Message::Nothing)));
    let end: &[u8] = br#"{"htype":"dseries_end-1.0","series":33}"#;
    assert!(matches!(stream.parse(&[end]), Ok(Message::End { number: 33, name: None })));
    assert!(matches!(stream.parse(&[configuration]), Err(Refusal::Kind { .. })));
}

/// The shape of STREAM is columns, then rows; every encoding of the specification is known, and no other.
#[test]
fn images_of_the_legacy_stream() {
    let image = |shape: &str, kind: &str, encoding: &str| {
        let head = r#"{"htype":"dimage-1.0","series":34,"frame":3,"hash":""}"#;
        let form = format!(r#"{{"htype":"dimage_d-1.0","shape":{shape},"type":"{kind}","encoding":"{encoding}"}}"#);
        let times = r#"{"htype":"dconfig-1.0","start_time":77}"#;
        let parts = [head.as_bytes(), form.as_bytes(), b"pixels", times.as_bytes()];
        let Ok(Message::Image(image)) = Stream1::default().parse(&parts) else { panic!("an image") };
        assert_eq!((image.number, image.frame), (34, 3));
        image.pictures.map(|pictures| {
            assert_eq!(image.time_ns, 77);
            pictures.iter().next().expect("one").coded
        })
    };
    let shape = SigShape { height: 2, width: 5 };
    let pixel = |kind| PixelType::new(kind, ByteOrder::Little);
    let known = [
        ("uint16", "<", PixelKind::U16, Codec::None),
        ("uint8", "lz4<", PixelKind::U8, Codec::Lz4),
        ("uint8", "bs8-lz4<", PixelKind::U8, Codec::Bslz4 { item_bytes: 1 }),
        ("uint32", "bs16-lz4<", PixelKind::U32, Codec::Bslz4 { item_bytes: 2 }),
        ("uint32", "bs32-lz4\\u003c", PixelKind::U32, Codec::Bslz4 { item_bytes: 4 }),
    ];
    for (kind, encoding, want, codec) in known {
        assert_eq!(image("[5,2]", kind, encoding), Ok(Coded { shape, pixel: pixel(want), codec }), "{encoding}");
    }
    assert_eq!(image("[5,2,1]", "uint8", "<").map(|coded| coded.shape), Ok(shape));
    for encoding in [">", "lz4>", "bs16<", "bs64-lz4<", "bs-lz4<", "bs16-lz4", "gzip<", ""] {
        assert!(matches!(image("[5,2]", "uint16", encoding), Err(Refusal::Encoding { .. })), "{encoding}");
    }
    for shape in ["[5]", "[]", "[0,4]", "[65537,4]"] {
        assert!(matches!(image(shape, "uint16", "<"), Err(Refusal::Shape { .. })), "{shape}");
    }
    assert!(matches!(image("[5,2]", "float32", "<"), Err(Refusal::Pixel { .. })));
    assert!(matches!(image("{}", "uint16", "<"), Err(Refusal::Syntax { .. })));
}

/// An unknown coding is told with the number of images that had it, and with what to set.
#[test]
fn unread_codings_are_counted() {
    let mut protocol = DectrisProtocol::new(DectrisSettings {
        stream: DectrisStream::Legacy,
        endpoint: "tcp://127.0.0.1:9999".into(),
        sockets: 1,
        detector: None,
        message_bytes: 1 << 20,
        frame_bytes: 1 << 20,
        is_decoding: false,
    });
    let mut told = |encoding: &str| {
        let head = r#"{"htype":"dimage-1.0","series":34,"frame":3}"#;
        let form = format!(r#"{{"shape":[5,2],"type":"uint16","encoding":"{encoding}"}}"#);
        let parts = [head.as_bytes(), form.as_bytes(), b"pixels"];
        let Ok(Message::Image(mut image)) = Stream1::default().parse(&parts) else { panic!("an image") };
        protocol.count_unread(&mut image);
        image.pictures.err().map(|refusal| refusal.to_string())
    };
    assert_eq!(told("lz4<"), None);
    for (encoding, count) in [("bs16-zstd<", 1), ("bs16-zstd<", 2), ("lz4>", 1), ("bs16-zstd<", 1)] {
        let text = told(encoding).expect("refused");
        assert!(
            text.contains(&format!("coded as {encoding}, {count} of them")) && text.contains("`compression`"),
            "{text}"
        );
    }
}

#[test]
fn refused_legacy_messages() {
    for (parts, want) in [
        (&["nonsense"][..], "the first part that cannot be read"),
        (&[], "the first part that cannot be read"),
        (&[r#"{"htype":"dother-1.0","series":1}"#], "a message of kind dother-1.0"),
        (&[r#"{"htype":"dimage-1.0","series":1}"#], "a message without frame"),
        (&[r#"{"htype":"dseries_end-1.0"}"#], "a message without series"),
        (&[r#"{"htype":"dseries_end-1.0","series":-1}"#], "the first part that cannot be read"),
        (&[HEADER, "[]x"], "the configuration that cannot be read"),
    ] {
        let error = legacy(parts).expect_err("refused").to_string();
        assert!(error.contains(want), "{error}");
    }
}

/// Any legal CBOR is read: keys in any order, tags, lengths left open, other numbers, unknown keys.
#[test]
fn odd_but_legal_cbor() {
    let mut encoder = Encoder::new(Vec::new());
    let written = (|| {
        encoder.tag(minicbor::data::Tag::new(55799))?.begin_map()?;
        encoder.str("unknown")?.begin_array()?.f32(1.5)?.null()?.begin_map()?.str("a")?.bytes(b"x")?.end()?.end()?;
        encoder.str("data")?.begin_map()?.str("threshold_1")?;
        encoder.tag(minicbor::data::Tag::new(40))?.begin_array()?;
        encoder.begin_array()?.u8(2)?.u64(3)?.end()?;
        encoder.tag(minicbor::data::Tag::new(69))?.tag(minicbor::data::Tag::new(56500))?;
        encoder.array(3)?.str("bslz4")?.u8(2)?.bytes(b"abcdef")?.end()?.end()?;
        encoder.str("user_data")?.array(2)?.u8(1)?.str("text")?;
        encoder.str("start_time")?.array(2)?.u64(3)?.u64(50_000_000)?;
        encoder.str("image_id")?.u64(9)?.str("series_id")?.u16(300)?.str("series_unique_id")?.null()?;
        encoder.str("type")?.str("image")?.end()?;
        Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
    })();
    assert!(written.is_ok());
    let bytes = encoder.into_writer();
    let Ok(Message::Image(image)) = stream2::parse(&bytes) else { panic!("an image") };
    assert_eq!((image.number, image.name, image.frame, image.time_ns), (300, None, 9, 60));
    let pictures = image.pictures.expect("pictures");
    let picture = pictures.iter().next().expect("one");
    let coded = Coded {
        shape: SigShape { height: 2, width: 3 },
        pixel: PixelType::new(PixelKind::U16, ByteOrder::Little),
        codec: Codec::Bslz4 { item_bytes: 2 },
    };
    assert_eq!((picture.channel, picture.coded), ("threshold_1", coded));
    assert_eq!(&bytes[picture.place.start..picture.place.end], b"abcdef");
    for length in 0..bytes.len() {
        assert!(stream2::parse(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
}

/// A real end message.
#[test]
fn documented_end() {
    let mut bytes = vec![0xd9, 0xd9, 0xf7, 0xa3, 0x64];
    bytes.extend(b"type\x63end\x69series_id\x19\x3c\xfe\x70series_unique_id\x78\x1a01HBV3JPF9T4ZDPADX6EMK6XMZ");
    let message = stream2::parse(&bytes).expect("an end");
    assert!(matches!(message, Message::End { number: 15614, name: Some("01HBV3JPF9T4ZDPADX6EMK6XMZ") }), "{message:?}");
}

proptest! {
    /// No bytes make either parser panic, or log much.
    #[test]
    fn any_bytes(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6)) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        for stream in [DectrisStream::Legacy, DectrisStream::Cbor] {
            if let Err(text) = decode_message(stream, &parts, 1 << 16) {
                prop_assert!(text.len() < 1000, "{text}");
            }
        }
    }
}
