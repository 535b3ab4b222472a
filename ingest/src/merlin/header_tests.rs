use super::*;
use proptest::prelude::*;

fn padded(text: &str, data_offset: usize) -> Vec<u8> {
    let mut header = text.as_bytes().to_vec();
    header.resize(data_offset, 0);
    header
}

fn single_chip(sequence: &str, extension: &str) -> Vec<u8> {
    let dacs = ["3RX".to_string()].into_iter().chain((0..27).map(|n| format!("{n:03}"))).collect::<Vec<_>>().join(",");
    let text = format!(
        "MQ1,{sequence},00384,01,0256,0256,U16,   1x1,01,2021-04-15 14:43:47.008505,0.001000,0,0,0,2.000000E+0,{dacs},{extension}"
    );
    padded(&text, 384)
}

/// The prefix counts the comma behind the length; anything else is refused.
#[test]
fn prefixes() {
    assert_eq!(mpx_prefix(65_920), *b"MPX,0000065921,");
    assert_eq!(mpx_body_bytes(b"MPX,0000002049,"), Some(2048));
    for wrong in [b"MPX,0000000000,", b"MPX,00000020 9,", b"MPX,0000002049;", b"mPX,0000002049,"] {
        assert_eq!(mpx_body_bytes(wrong), None);
    }
}

/// A head is asked for in growing pieces, and messages of other sizes or magic are refused at the first byte that shows it.
#[test]
fn progress_of_heads() {
    let header = single_chip("000001", "MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,12,");
    let mut stream = mpx_prefix(384 + 131_072).to_vec();
    stream.extend(&header);
    let limit = 1 << 20;
    assert_eq!(read_progress(&stream[..3], limit), Progress::More(15));
    assert_eq!(read_progress(&stream[..15], limit), Progress::More(15 + 32));
    assert_eq!(read_progress(&stream[..47], limit), Progress::More(15 + 384));
    let head = MessageHead { kind: MessageKind::Frame, head_bytes: 399, rest_bytes: 131_072 };
    assert_eq!(read_progress(&stream, limit), Progress::Head(head));
    assert_eq!(read_progress(&stream[..15], 1000), Progress::OutOfSync);
    assert_eq!(read_progress(b"MPY", limit), Progress::OutOfSync);
    assert_eq!(read_progress(b"MPX,0000000003,", limit), Progress::OutOfSync);
    let profile = MessageHead { kind: MessageKind::Other, head_bytes: 19, rest_bytes: 0 };
    assert_eq!(read_progress(b"MPX,0000000005,PR1,", limit), Progress::Head(profile));
    let broken = [&mpx_prefix(100)[..], b"MQ1,000004,00101,01,0256,0256,U16"].concat();
    assert!(matches!(read_progress(&broken, limit), Progress::Head(head) if head.kind == MessageKind::BrokenFrame));
    assert_eq!(frame_sequence(&broken[15..]), Some(4));
}

/// Values of an acquisition header: first colon, first occurrence, LF or CR LF, nothing behind `End`.
#[test]
fn acquisition_headers() {
    let text = b"HDR,\t\r\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t15/04/2021 14:43:45\r\n\
        no colon here\nDead Time:\tC:\\x\xb5\nDead Time:\tlater\nFrames in Acquisition (Number):\t65536\r\n\
        Frames per Trigger (Number):\t256\r\nEnd\t    \r\nScanX:\t7\r\nScanY:\t7";
    let header = AcquisitionHeader::parse(text);
    assert_eq!(header.time_stamp(), Some("15/04/2021 14:43:45"));
    assert_eq!(header.value("Dead Time"), Some("C:\\x\u{b5}"));
    assert_eq!(header.frame_count(), Some(65_536));
    assert_eq!(header.scan(), Some(NavShape { height: 256, width: 256 }));
    assert_eq!(header.value("ScanX"), None);
}

/// The rules of the scan shape.
#[test]
fn scan_shapes() {
    let scan = |lines: &str| AcquisitionHeader::parse(lines.as_bytes()).scan().map(|shape| (shape.height, shape.width));
    let with = |total: u64, per_trigger: u64| {
        scan(&format!("Frames in Acquisition (Number):{total}\nFrames per Trigger (Number):{per_trigger}"))
    };
    assert_eq!(with(12, 4), Some((3, 4)));
    for (total, per_trigger) in [(12, 1), (12, 0), (12, 12), (12, 5), (0, 4)] {
        assert_eq!(with(total, per_trigger), None);
    }
    assert_eq!(scan("ScanX:4\nScanY:2\nFrames in Acquisition (Number):8"), Some((2, 4)));
    assert_eq!(scan("ScanX:70000\nScanY:2"), None);
    assert_eq!(AcquisitionHeader::parse(b"Frames in Acquisition (Number):0").frame_count(), None);
}

/// A whole header, one with few fields, and one of software without the extension.
#[test]
fn frame_headers() {
    let header = single_chip("000001", "MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,12,");
    let parsed = FrameHeader::parse(&header).expect("good header");
    assert_eq!((parsed.sequence, parsed.data_offset, parsed.chip_count), (1, 384, 1));
    assert_eq!((parsed.width, parsed.height, parsed.pixel_code, parsed.layout), (256, 256, "U16", "1x1"));
    assert_eq!(parsed.time_ns, Some(1_618_494_227_008_505_401));
    assert_eq!((parsed.shutter_ns, parsed.depth), (Some(1_000_000), Some(12)));
    let short =
        "MQ1,000001,00384,01,0256,0256,R64,   1x1,01,,0.001000,0,0,0,,MQ1A,2021-04-15T13:43:47.5Z,1000000ns,6,\n";
    let short = padded(short, 384);
    let parsed = FrameHeader::parse(&short).expect("few fields");
    assert_eq!((parsed.depth, parsed.time_ns), (Some(6), Some(1_618_494_227_500_000_000)));
    let old = single_chip("000001", "");
    let parsed = FrameHeader::parse(&old).expect("no extension");
    assert_eq!((parsed.depth, parsed.time_ns), (None, None));
    let error = FrameHeader::parse(b"MQ1,000001,00384,01").expect_err("cut");
    assert_eq!(error.field, "MQ1 and data offset");
}

/// A sequence of more than six digits shifts every field and is read all the same.
#[test]
fn long_sequences() {
    let extension = "MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,12,";
    let head = |sequence| [&mpx_prefix(384 + 131_072)[..], &single_chip(sequence, extension)].concat();
    let signature = Signature::of(&head("000001")).expect("a frame");
    let time_ns = 1_618_494_227_008_505_401;
    assert_eq!(signature.check(&head("1234567")), Some(Arrival { sequence: 1_234_567, time_ns }));
    assert_eq!(signature.check(&head("000000")), None);
    assert_eq!(signature.check(&head("000002")[..398]), None);
}

/// A head of another length, offset or shape does not pass for one of the series.
#[test]
fn signatures_tell_frames_apart() {
    let extension = "MQ1A,2021-04-15T13:43:47.008505401Z,1000000ns,6,";
    let body = String::from_utf8(single_chip("000002", extension)).expect("ASCII");
    let head = |body: &str, payload_bytes: u64| [&mpx_prefix(384 + payload_bytes)[..], body.as_bytes()].concat();
    let signature = Signature::of(&head(&body, 131_072)).expect("a frame");
    assert!(signature.check(&head(&body, 131_072)).is_some());
    assert!(signature.check(&head(&body, 131_071)).is_none());
    for (from, to) in [("00384", "00383"), ("U16", "R64"), ("0256,U16", "0128,U16"), ("1x1", "2x2"), ("MQ1,", "HDR,")] {
        assert!(signature.check(&head(&body.replace(from, to), 131_072)).is_none(), "{to}");
    }
}

/// Dates around leap days, fractions of any length, and text that is no time.
#[test]
fn times() {
    assert_eq!(utc_ns(b"1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(utc_ns(b"2000-02-29T12:00:00.000000001Z"), Some(951_825_600_000_000_001));
    assert_eq!(utc_ns(b"2024-12-31T23:59:59.1"), Some(1_735_689_599_100_000_000));
    for wrong in
        ["", "2021-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "2021-04-15 13:43:47Z", "2021-04-15T13:43:47.0123456789Z"]
    {
        assert_eq!(utc_ns(wrong.as_bytes()), None, "{wrong}");
    }
    assert_eq!(utc_ns(b"9999-12-31T23:59:59Z"), None); // Beyond 64 bits of nanoseconds.
}

proptest! {
    /// Any bytes are parsed without a panic, and heads never claim more than the message.
    #[test]
    fn any_bytes(
        start in prop_oneof![Just(""), Just("MPX,0000000300,MQ1,000001,00256,"), Just("MPX,0000000090,HDR")],
        tail in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let bytes = [start.as_bytes(), &tail].concat();
        match read_progress(&bytes, 500) {
            Progress::Head(head) => prop_assert!(head.head_bytes <= bytes.len() && head.rest_bytes <= 500),
            Progress::More(wanted) => prop_assert!(wanted > bytes.len() && wanted <= 515),
            Progress::OutOfSync => {}
        }
        let _ = (FrameHeader::parse(&bytes), AcquisitionHeader::parse(&bytes).scan());
        let _ = Signature::of(&bytes).and_then(|signature| signature.check(&bytes));
    }
}
