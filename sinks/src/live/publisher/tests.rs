use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::live::message::{Header, Kind};
use crate::live::picture::Precision;
use crate::live::testing::{Canvas, FakePicture, acquisition, images, same};
use crate::live::{State, Wiring};

const PATIENCE_MS: i32 = 20_000;

fn plan() -> StreamPlan {
    StreamPlan {
        form: Form::Native,
        endpoint: "tcp://127.0.0.1:*".to_owned(),
        pace: Pace::default(),
        result_count: 1,
        subscriber_count: 64,
    }
}

fn subscriber(context: &zmq::Context, endpoint: &str, prefix: &str) -> zmq::Socket {
    let socket = context.socket(zmq::SUB).expect("socket");
    socket.set_rcvtimeo(PATIENCE_MS).expect("timeout");
    socket.set_linger(0).expect("linger");
    socket.set_subscribe(prefix.as_bytes()).expect("subscribe");
    socket.connect(endpoint).expect("connect");
    socket
}

fn receive(socket: &zmq::Socket) -> (String, Header, Option<Vec<f64>>) {
    let parts = socket.recv_multipart(0).expect("a message in time");
    let header: Header = serde_json::from_slice(&parts[1]).expect("header");
    let values = parts.get(2).map(|blob| Precision::Double.decode(blob));
    (String::from_utf8(parts[0].clone()).expect("ASCII"), header, values)
}

/// Messages until one of this kind comes; heartbeats alone do not go on for ever.
fn receive_until(socket: &zmq::Socket, kind: Kind) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while receive(socket).1.kind != kind {
        assert!(Instant::now() < deadline, "no message of kind {kind:?} among others");
    }
}

/// A subscriber that comes late gets the whole image at once, then rows, then the end; and holds the image exactly.
#[test]
fn a_subscriber_follows_the_image() {
    let board = Board::new(Wiring::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[64, 16])]));
    board.update(|a| images(a)[0].set_row(3, 5.0)).expect("current");
    let publisher = Publisher::spawn(Arc::clone(&board), &plan()).expect("publisher");
    let context = zmq::Context::new();
    let socket = subscriber(&context, publisher.endpoint(), "v1/01010101-0101-0101-0101-010101010101/ring");
    let mut canvas = Canvas::default();
    let (topic, header, values) = receive(&socket);
    assert_eq!(topic, "v1/01010101-0101-0101-0101-010101010101/ring");
    assert_eq!((header.kind, header.frame_to), (Kind::Array, 16));
    assert!(header.time_ns > 1_600_000_000_000_000_000);
    canvas.take(&header, values.as_deref());
    for row in 0..64 {
        board.update(|a| images(a)[0].set_row(row, row as f64)).expect("current");
        let covered = 16 * (row as u64 + 2);
        loop {
            let (_, header, values) = receive(&socket);
            canvas.take(&header, values.as_deref());
            if header.frame_to >= covered {
                break;
            }
        }
    }
    board.update(|a| a.end(State::Complete, SystemTime::now())).expect("current");
    while !canvas.is_ended {
        let (_, header, values) = receive(&socket);
        canvas.take(&header, values.as_deref());
    }
    assert!(board.look(|all| same(&canvas.values, &all[0].pictures.picture(0).row_values(0..64))));
    assert!(canvas.next_seq.is_some(), "no message lost");
}

/// The receiver ends together with the acquisition: subscribers still get the last image, the state and every end.
#[test]
fn the_end_is_heard_when_the_board_closes() {
    let board = Board::new(Wiring::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[64, 16])]));
    let publisher = Publisher::spawn(Arc::clone(&board), &plan()).expect("publisher");
    let context = zmq::Context::new();
    let socket = subscriber(&context, publisher.endpoint(), "v1/");
    receive_until(&socket, Kind::State);
    for row in 0..8 {
        board.update(|a| images(a)[0].set_row(row, row as f64)).expect("current");
    }
    // Right after an update its topic pauses.
    receive_until(&socket, Kind::Rows);
    board.update(|a| images(a)[0].set_row(9, 9.0)).expect("current");
    board.update(|a| a.end(State::Complete, SystemTime::now())).expect("current");
    board.close();
    let mut is_complete = false;
    let mut ended = Vec::new();
    let mut canvas = Canvas::default();
    while ended.len() < 2 || !is_complete {
        let (topic, header, values) = receive(&socket);
        is_complete |= header.kind == Kind::State && header.state == Some(State::Complete);
        if topic.ends_with("/ring") {
            canvas.take(&header, values.as_deref());
        }
        if header.kind == Kind::End {
            ended.push(topic);
        }
    }
    assert!(ended[0].ends_with("/ring") && ended[1].ends_with("/state"), "{ended:?}");
    assert!(board.look(|all| same(&canvas.values, &all[0].pictures.picture(0).row_values(0..64))));
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
    pages * rustix::param::page_size() as u64
}

/// A subscriber that never reads costs a bounded amount of memory and delays nobody: another one keeps up to the end
/// while 300 MiB of images pass. Memory is that of all tests that run beside this one, so that a growth is only believed
/// when as many images again, and once more, show it as well: what is kept for a stopped subscriber would.
#[test]
fn a_stopped_subscriber_harms_nobody() {
    let board = Board::new(Wiring::default());
    board.begin(acquisition(1, vec![FakePicture::new("sum", &[256, 512])])); // 1 MiB
    let pace = Pace { bytes_per_second: 1 << 30, ..Pace::default() };
    let publisher = Publisher::spawn(Arc::clone(&board), &StreamPlan { pace, ..plan() }).expect("publisher");
    let context = zmq::Context::new();
    let stopped = context.socket(zmq::SUB).expect("socket");
    stopped.set_rcvhwm(1).expect("hwm");
    stopped.set_linger(0).expect("linger");
    stopped.set_subscribe(b"v1/").expect("subscribe");
    stopped.connect(publisher.endpoint()).expect("connect");
    let reader = subscriber(&context, publisher.endpoint(), "v1/01010101-0101-0101-0101-010101010101/sum");
    wait_until("both subscribe", || board.stream.subscriptions.load(Ordering::Relaxed) >= 2);
    let publish = |rounds: Range<u32>| {
        for round in rounds {
            board.update(|a| (0..256).for_each(|row| images(a)[0].set_row(row, f64::from(round)))).expect("current");
            loop {
                let (_, header, values) = receive(&reader);
                if header.kind == Kind::Array && values.expect("blob")[0] >= f64::from(round) {
                    break;
                }
            }
        }
    };
    publish(0..50);
    let growths = [50..300, 300..550, 550..800].map(|rounds| {
        let before = resident_bytes();
        publish(rounds);
        resident_bytes().saturating_sub(before)
    });
    let least = growths.iter().min().expect("three");
    assert!(*least < 64 << 20, "grew by {growths:?} bytes each time 250 MiB were published");
}

/// Garbage on the port, silence, lengths that nobody has memory for, and ten thousand connections that say nothing, close those
/// connections and nothing else.
#[test]
fn garbage_closes_only_its_connection() {
    use std::io::{Read, Write};
    let board = Board::new(Wiring::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[8, 8])]));
    let publisher = Publisher::spawn(Arc::clone(&board), &plan()).expect("publisher");
    let address = publisher.endpoint().strip_prefix("tcp://").expect("tcp").to_owned();
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0];
    greeting.extend_from_slice(b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    greeting.resize(64, 0);
    let ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB";
    let huge =
        |length: u64| [&greeting, ready.as_slice(), [0x02].as_slice(), &length.to_be_bytes(), &[1; 100]].concat();
    let lengths = [1 << 40, (1 << 63) - 1, u64::MAX].map(huge);
    let garbage = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), greeting[..10].to_vec(), greeting.clone(), Vec::new()];
    for bytes in garbage.into_iter().chain(lengths) {
        let mut stream = std::net::TcpStream::connect(&address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream.write_all(&bytes).expect("write");
        let mut answer = Vec::new();
        // Closed by the peer, in either way, before the timeout.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    // No more at once than wait to be accepted, as others try again after a second: the last one of a wave has been greeted
    // before the next comes.
    for _ in 0..125 {
        let wave = (0..80).map(|_| std::net::TcpStream::connect(&address).expect("connect"));
        let mut wave: Vec<_> = wave.collect();
        wave[79].read_exact(&mut [0]).expect("a greeting");
    }
    let socket = subscriber(&zmq::Context::new(), publisher.endpoint(), "v1/");
    receive_until(&socket, Kind::Array);
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Subscribers beyond the limit are turned away; a place that becomes free is taken by one that tries again.
#[test]
fn subscribers_are_limited() {
    let board = Board::new(Wiring::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[8, 8])]));
    let publisher =
        Publisher::spawn(Arc::clone(&board), &StreamPlan { subscriber_count: 2, ..plan() }).expect("publisher");
    let context = zmq::Context::new();
    let mut first_two: Vec<zmq::Socket> = (0..2).map(|_| subscriber(&context, publisher.endpoint(), "v1/")).collect();
    for socket in &first_two {
        receive_until(socket, Kind::Array);
    }
    let third = subscriber(&context, publisher.endpoint(), "v1/");
    wait_until("the third is refused", || board.stream.subscribers_refused.load(Ordering::Relaxed) > 0);
    assert_eq!(third.recv_msg(zmq::DONTWAIT).err(), Some(zmq::Error::EAGAIN));
    first_two.pop();
    receive_until(&third, Kind::Array);
    drop((first_two, third));
    wait_until("everybody is gone", || board.stream.subscribers.load(Ordering::Relaxed) == 0);
}

/// Only this machine is served.
#[test]
fn other_machines_are_refused() {
    for endpoint in
        ["tcp://0.0.0.0:7000", "tcp://*:7000", "tcp://192.168.0.1:7000", "tcp://[::]:1", "pgm://x", "tcp://eth0:1"]
    {
        let board = Board::new(Wiring::default());
        let plan = StreamPlan { endpoint: endpoint.to_owned(), ..plan() };
        let error = Publisher::spawn(board, &plan).expect_err(endpoint);
        assert!(matches!(error, StreamError::NotLoopback { .. }), "{endpoint}: {error}");
    }
    assert!(is_local("tcp://[::1]:7000") && is_local("ipc:///tmp/x") && is_local("tcp://127.0.0.1:*"));
}
