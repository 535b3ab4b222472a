//! Whoever connects to a tile port without being a detector: browsers, scanners, liars. A binary of its own, because
//! it counts the descriptors of its process.

mod tiles_driver;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ronchi_ingest::Begin;
use ronchi_pipeline::EndReason;
use tiles_driver::*;

fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address.trim_start_matches("tcp://")).expect("connected")
}

/// Whether the receiver closes the connection within four seconds.
fn is_closed(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(4))).expect("timeout");
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Greeting and READY of a PUSH socket as the ZMTP 3.0 specification (rfc.zeromq.org/spec/23) draws them.
fn shake_hands(stream: &mut TcpStream) {
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend(b"NULL");
    greeting.resize(64, 0);
    stream.write_all(&greeting).expect("greeting");
    let mut ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH".to_vec();
    ready.splice(0..0, [0x04, ready.len() as u8]);
    stream.write_all(&ready).expect("ready");
}

/// Strangers are closed within the handshake time, their descriptors come back, and a series is received meanwhile; another one after
/// ten thousand that only connect.
#[test]
fn strangers() {
    let (mut driver, address) = Driver::new(settings(Duration::from_secs(20)));
    let descriptors = descriptor_count();
    let mut strangers: Vec<TcpStream> = (0..150).map(|_| connect(&address)).collect();
    for (i, stream) in strangers.iter_mut().enumerate() {
        let _ = match i % 5 {
            0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            2 => stream.write_all(&[0xff; 10]),
            3 => stream.write_all(&[0; 64]),
            _ => Ok(()), // Silence.
        };
    }
    let push = push(&zmq::Context::new(), &address);
    send(&push, &begin("a", Some(2)), None);
    send_tile(&push, "a", 0);
    send_tile(&push, "a", 1);
    let a = driver.series().expect("a");
    assert_eq!((a.reason, a.frames.len()), (EndReason::Complete, 2));
    assert!(is_closed(strangers.swap_remove(4)), "a silent connection stays open");
    assert!(is_closed(strangers.swap_remove(2)), "a broken greeting stays open");
    drop((strangers, push));
    let patience = Instant::now() + Duration::from_secs(5);
    while descriptor_count() > descriptors + 3 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(descriptor_count() <= descriptors + 3, "{} descriptors, {descriptors} at start", descriptor_count());

    // A receiver that waits. No more come at once than wait to be accepted, as others try again after a second: the last one of a
    // wave has been greeted before the next comes.
    let receiver = std::thread::spawn(move || {
        let mut looks = std::iter::repeat_with(|| driver.source.begin(Instant::now() + Duration::from_millis(50)));
        let begun = looks.find(|begun| !matches!(begun, Ok(Begin::Waiting)));
        (begun, driver)
    });
    for _ in 0..125 {
        let mut wave: Vec<TcpStream> = (0..80).map(|_| connect(&address)).collect();
        wave[79].read_exact(&mut [0]).expect("a greeting");
    }
    let push = tiles_driver::push(&zmq::Context::new(), &address);
    send(&push, &begin("b", Some(1)), None);
    let (begun, _driver) = receiver.join().expect("no panic");
    assert!(matches!(begun, Some(Ok(Begin::Series(announced))) if announced.series_id == "b"));

    // Lengths that nobody has memory for are refused by the length alone.
    for length in [1_u64 << 40, (1 << 63) - 1, u64::MAX, (1 << 20) + 1] {
        let mut liar = connect(&address);
        shake_hands(&mut liar);
        liar.write_all(&[[0x02].as_slice(), &length.to_be_bytes()].concat()).expect("frame header");
        assert!(is_closed(liar), "a frame of {length} bytes was believed");
    }
}
