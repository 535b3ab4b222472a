//! What is no detector at the address of a DECTRIS stream, and a detector that sends bombs. A binary of its own, because it looks at
//! the memory of its process.

mod tiles_driver;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ronchi_config::DectrisStream;
use ronchi_ingest::dectris::{DectrisSettings, DectrisSource};
use ronchi_pipeline::EndReason;
use serde_json::json;
use tiles_driver::Driver;

const MESSAGE_BYTES: u64 = 8 << 20;
/// What sockets, queues and messages may take beside what was there, in bytes.
const CEILING_BYTES: u64 = 256 << 20;

/// Most memory that this process has had, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

fn driver(stream: DectrisStream, endpoint: String, sockets: usize) -> Driver {
    let mut source = DectrisSource::new(DectrisSettings {
        stream,
        endpoint,
        sockets,
        detector: None,
        message_bytes: MESSAGE_BYTES,
        frame_bytes: 1 << 16,
        is_decoding: true,
    });
    source.open().expect("connects");
    let mut driver = Driver::with(source, 1 << 16);
    driver.checks_records = false;
    driver
}

/// Compares the peak with what it was; the kernel's count may be a few pages behind.
fn check_memory(before: u64) {
    let more = peak_bytes().saturating_sub(before);
    assert!(more < CEILING_BYTES, "{more} bytes more");
}

/// Greeting and READY of a PUSH socket as the ZMTP 3.0 specification (rfc.zeromq.org/spec/23) draws them.
fn shake_hands(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend(b"NULL");
    greeting.resize(64, 0);
    stream.write_all(&greeting)?;
    let mut ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH".to_vec();
    ready.splice(0..0, [0x04, ready.len() as u8]);
    stream.write_all(&ready)
}

/// Plays a stranger: what it says, and whether the receiver closes the connection.
fn is_closed(mut stream: TcpStream, says: impl FnOnce(&mut TcpStream) -> std::io::Result<()>) -> bool {
    let _ = says(&mut stream);
    stream.set_read_timeout(Some(Duration::from_secs(6))).expect("timeout");
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// The next connection of the receiver, which comes again whatever came of the one before.
fn accepted(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("option");
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("option");
                return stream;
            }
            Err(_) => assert!(Instant::now() < patience, "the receiver does not come again"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

fn start(frames: u64) -> Vec<Vec<u8>> {
    let head = json!({ "htype": "dheader-1.0", "series": 1, "header_detail": "basic" });
    vec![head.to_string().into(), json!({ "ntrigger": frames, "nimages": 1 }).to_string().into()]
}

/// An image of 4 x 8 pixels of u16.
fn image(frame: u64, encoding: &str, payload: Vec<u8>) -> Vec<Vec<u8>> {
    let head = json!({ "htype": "dimage-1.0", "series": 1, "frame": frame, "hash": "" });
    let form = json!({ "htype": "dimage_d-1.0", "shape": [8, 4], "type": "uint16", "encoding": encoding });
    vec![head.to_string().into(), form.to_string().into(), payload]
}

/// Whoever listens where a detector should be is left within the time of a handshake, lengths that nobody has memory for are refused by
/// the length alone, and the detector that comes after all is received; by one socket and by three.
#[test]
fn strangers() {
    for sockets in [1, 3] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("address"));
        let mut driver = driver(DectrisStream::Legacy, endpoint, sockets);
        let receiver = std::thread::spawn(move || (0..20).find_map(|_| driver.series()).expect("a series"));
        let before = peak_bytes();
        let accept = || accepted(&listener);
        let liar = |length: u64| {
            move |stream: &mut TcpStream| {
                shake_hands(stream)?;
                stream.write_all(&[[0x02].as_slice(), &length.to_be_bytes()].concat())
            }
        };
        assert!(is_closed(accept(), |_| Ok(())), "silence");
        assert!(
            is_closed(accept(), |stream| stream.write_all(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f])),
            "half a greeting"
        );
        assert!(
            is_closed(accept(), |stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html></>")),
            "HTTP"
        );
        let lengths: &[u64] = &[1 << 40, (1 << 63) - 1, u64::MAX, MESSAGE_BYTES + 1];
        for &length in &lengths[..if sockets > 1 { 1 } else { lengths.len() }] {
            assert!(is_closed(accept(), liar(length)), "a frame of {length} bytes was believed");
        }
        check_memory(before);

        let context = zmq::Context::new();
        let push = context.socket(zmq::PUSH).expect("socket");
        push.set_linger(1000).expect("linger");
        push.bind("tcp://127.0.0.1:*").expect("bound");
        let target = push.get_last_endpoint().expect("address").expect("text").replace("tcp://", "");
        listener.set_nonblocking(false).expect("option");
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(&target) else { break };
                let (back, forth) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
                std::thread::spawn(move || relay(client, server));
                std::thread::spawn(move || relay(back, forth));
            }
        });
        push.send_multipart(start(2), 0).expect("sent");
        (0..2).for_each(|frame| push.send_multipart(image(frame, "<", vec![7; 64]), 0).expect("sent"));
        let got = receiver.join().expect("a series");
        assert_eq!((got.reason, got.frames.len()), (EndReason::Complete, 2));
    }
}

/// A bslz4 or framed LZ4 payload with this header.
fn framed(total: u64, block: u32, body: &[u8]) -> Vec<u8> {
    [&total.to_be_bytes()[..], &block.to_be_bytes(), body].concat()
}

/// LZ4 that expands to 16 MiB of zeros.
fn bomb() -> Vec<u8> {
    let mut bytes = vec![0x1f, 0, 1, 0]; // One literal, then a match at distance 1 whose length goes on.
    bytes.extend(vec![0xff; 65_536]);
    bytes.push(0);
    bytes
}

fn receives(stream: DectrisStream, messages: Vec<Vec<Vec<u8>>>) -> tiles_driver::Outcome {
    let context = zmq::Context::new();
    let push = context.socket(zmq::PUSH).expect("socket");
    push.set_linger(1000).expect("linger");
    push.bind("tcp://127.0.0.1:*").expect("bound");
    let mut driver = driver(stream, push.get_last_endpoint().expect("address").expect("text"), 1);
    std::thread::scope(|scope| {
        scope.spawn(move || messages.iter().for_each(|message| push.send_multipart(message, 0).expect("sent")));
        driver.series().expect("a series")
    })
}

/// Images that expand to more than they say, that end in the middle, or whose lengths are absurd are gaps; text that nests a million
/// deep is garbage. All are counted, and memory stays where it was.
#[test]
fn bombs_of_the_legacy_stream() {
    let before = peak_bytes();
    let length = (bomb().len() as u32).to_be_bytes();
    let with_length = [&length[..], &bomb()].concat();
    let bombs = [
        ("lz4<", bomb()),
        ("lz4<", bomb()[..1000].to_vec()),
        ("bs16-lz4<", framed(64, 64, &with_length)),
        ("bs16-lz4<", framed(1 << 60, 1 << 31, &with_length)),
        ("bs16-lz4<", framed(64, u32::MAX - 15, &with_length)),
        ("bs16-lz4<", framed(64, 64, &with_length[..100])),
        ("bs16-lz4<", framed(64, 64, &u32::MAX.to_be_bytes())),
        ("bs16-lz4<", framed(0, 0, &[])),
        ("bs16-lz4<", vec![0; 11]),
    ];
    let deep = |open: &str| vec![open.repeat(1 << 20).into_bytes()];
    let mut messages = vec![start(10), deep("["), deep("{\"a\":"), image(0, "<", vec![7; 64])];
    let mut head = image(9, "<", vec![7; 64]);
    head[1] = format!("{{\"shape\":{}", "[".repeat(1 << 19)).into_bytes();
    messages.push(head);
    messages.extend((1..).zip(bombs.clone()).map(|(frame, (encoding, payload))| image(frame, encoding, payload)));
    messages.push(deep("["));
    messages.push(vec![json!({ "htype": "dseries_end-1.0", "series": 1 }).to_string().into()]);
    let got = receives(DectrisStream::Legacy, messages);
    assert_eq!((got.frames.len(), got.reason), (1, EndReason::Stopped));
    assert_eq!(got.count(|c| &c.rejected_frames), bombs.len() as u64 + 1);
    assert_eq!((got.count(|c| &c.garbage_messages), got.gaps.frame_count()), (3, 9));
    check_memory(before);
}

/// A CBOR map of one series' message; `more` is one key and its value, encoded.
fn cbor(kind: &str, more: &[u8]) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(vec![0xd9, 0xd9, 0xf7]);
    let written =
        encoder.map(4).and_then(|it| it.str("type")?.str(kind)?.str("series_id")?.u64(1)?.str("image_id")?.u64(0));
    written.expect("memory");
    [encoder.into_writer(), more.to_vec()].concat()
}

/// CBOR that nests a million deep, or announces more bytes, entries or items than there are, is garbage or skipped, and counted.
#[test]
fn bombs_of_stream2() {
    let before = peak_bytes();
    let deep = |open: u8| [b"\x61x".to_vec(), vec![open; 1 << 20]].concat();
    let long = |head: u8| [b"\x61x".to_vec(), vec![head], u64::MAX.to_be_bytes().to_vec()].concat();
    let channels = |head: u8| [b"\x68channels".to_vec(), vec![head], u64::MAX.to_be_bytes().to_vec()].concat();
    let mut garbage = Vec::new();
    for more in
        [deep(0x81), deep(0x9f), deep(0xa1), deep(0xbf), deep(0xc1), long(0x5b), long(0x7b), long(0x9b), long(0xbb)]
    {
        garbage.extend(["start", "image"].map(|kind| cbor(kind, &more)));
    }
    garbage.extend([channels(0x9b), channels(0xbb)].map(|more| cbor("start", &more)));
    let count = garbage.len() as u64;
    let pixels = {
        let mut encoder = minicbor::Encoder::new(Vec::new());
        let tag = minicbor::data::Tag::new;
        let written = (|| {
            encoder.str("data")?.map(1)?.str("a")?.tag(tag(40))?.array(2)?.array(2)?.u64(4)?.u64(8)?;
            encoder.tag(tag(69))?.bytes(&[7; 64])?;
            Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
        })();
        written.expect("memory");
        encoder.into_writer()
    };
    let mut messages = vec![vec![cbor("start", b"\x61x\xf6")]];
    messages.extend(garbage.into_iter().map(|message| vec![message]));
    messages.push(vec![cbor("image", &pixels)]);
    messages.push(vec![cbor("end", b"\x61x\xf6")]);
    let got = receives(DectrisStream::Cbor, messages);
    assert_eq!((got.frames.len(), got.count(|c| &c.garbage_messages)), (1, count));
    check_memory(before);
}
