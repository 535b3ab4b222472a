//! One stream by several sockets: whatever message comes by which of them, and however late, every frame comes out once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use proptest::prelude::*;
use ronchi_config::DectrisStream;
use ronchi_ingest::dectris::DectrisSettings;
use ronchi_pipeline::EndReason;

use super::tiles_driver::{Driver, Outcome};
use super::{decoded, end, image, pixels, raw, start};

/// Splitmix: the same seed, the same run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % sides
    }
}

/// A detector whose socket `i` is a PUSH of its own behind a relay that delays what it sends: so a test says which message comes
/// by which socket.
struct Spread {
    pushes: Vec<zmq::Socket>,
    _context: zmq::Context,
}

/// A spread detector of `count` sockets and a driver that is connected to all of them; nothing is late by more than some 50 ms.
fn spread(count: usize, seed: u64) -> (Spread, Driver) {
    let context = zmq::Context::new();
    let push = |_| {
        let push = context.socket(zmq::PUSH).expect("socket");
        push.set_linger(5000).expect("linger");
        push.set_sndhwm(100_000).expect("limit");
        push.bind("tcp://127.0.0.1:*").expect("bound");
        push
    };
    let pushes: Vec<zmq::Socket> = (0..count).map(push).collect();
    let address = |push: &zmq::Socket| push.get_last_endpoint().expect("address").expect("text").replace("tcp://", "");
    let targets: Vec<String> = pushes.iter().map(address).collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for (target, number) in targets.into_iter().zip(0..) {
            let (client, _) = listener.accept().expect("a socket");
            let server = TcpStream::connect(target).expect("a push");
            let (back, forth) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
            std::thread::spawn(move || relay(client, server, None));
            std::thread::spawn(move || relay(back, forth, Some(Dice(seed ^ number << 32))));
        }
    });
    let settings = DectrisSettings {
        stream: DectrisStream::Legacy,
        endpoint,
        sockets: count,
        detector: None,
        message_bytes: 1 << 20,
        frame_bytes: 1 << 12,
        is_decoding: true,
    };
    (Spread { pushes, _context: context }, super::driver(settings))
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut dice: Option<Dice>) {
    let mut bytes = [0; 1 << 12];
    let _ = to.set_nodelay(true);
    loop {
        let most = dice.as_mut().map_or(bytes.len(), |dice| 1 + dice.roll(bytes.len() as u64) as usize);
        match from.read(&mut bytes[..most]) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if let Some(dice) = dice.as_mut().filter(|dice| dice.0 % 4 == 0) {
                    let longest_us = if dice.roll(12) == 0 { 50_000 } else { 2_000 };
                    std::thread::sleep(Duration::from_micros(dice.roll(longest_us)));
                }
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Spread {
    /// Sends messages in this order, each by a socket that the dice choose; runs of them by the same.
    fn send(&self, messages: &[Vec<Vec<u8>>], dice: &mut Dice) {
        let mut at = 0;
        for message in messages {
            if dice.roll(3) > 0 {
                at = dice.roll(self.pushes.len() as u64) as usize;
            }
            self.pushes[at].send_multipart(message, 0).expect("sent");
        }
    }
}

fn series(number: u64, frames: u64) -> Vec<Vec<Vec<u8>>> {
    let images = (0..frames).map(|frame| raw(number, frame));
    [start(number, frames)].into_iter().chain(images).chain([end(number)]).collect()
}

fn check_whole(got: &Outcome, number: u64, frames: u64) {
    assert_eq!((got.announced.series_id.as_str(), got.reason), (number.to_string().as_str(), EndReason::Complete));
    assert_eq!(got.frames.len() as u64, frames, "series {number}: {:?}", got.gaps);
    assert!(got.frames.keys().all(|&frame| decoded(got, frame) == pixels(frame)), "series {number}");
    assert_eq!((got.count(|c| &c.duplicate_frames), got.count(|c| &c.unplaced_frames)), (0, 0), "series {number}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Series after series without a pause, by two to five sockets, spread and delayed by seed: every frame once, in its series.
    #[test]
    fn every_frame_once(seed in any::<u64>(), sockets in 2_usize..6, lengths in prop::collection::vec(1_u64..400, 1..4)) {
        let (detector, mut driver) = spread(sockets, seed);
        let mut dice = Dice(seed ^ 1);
        let messages: Vec<_> = lengths.iter().zip(7..).flat_map(|(&frames, number)| series(number, frames)).collect();
        detector.send(&messages, &mut dice);
        for (&frames, number) in lengths.iter().zip(7..) {
            check_whole(&driver.series().expect("a series"), number, frames);
        }
    }
}

/// Sends each message by the socket that is named beside it.
fn send_by(detector: &Spread, messages: &[(usize, Vec<Vec<u8>>)]) {
    for (socket, message) in messages {
        detector.pushes[*socket].send_multipart(message, 0).expect("sent");
    }
}

/// Images come before their start, and those of the next series before the last of the one before.
#[test]
fn starts_come_late() {
    let (detector, mut driver) = spread(2, 1);
    send_by(&detector, &[(0, raw(7, 0)), (0, raw(7, 1))]);
    std::thread::sleep(Duration::from_millis(200));
    send_by(&detector, &[(1, start(7, 4)), (0, raw(8, 1)), (0, raw(8, 2)), (1, raw(7, 2))]);
    std::thread::sleep(Duration::from_millis(200));
    send_by(&detector, &[(1, raw(7, 3)), (1, end(7)), (1, start(8, 3)), (1, raw(8, 0)), (1, end(8))]);
    check_whole(&driver.series().expect("the first"), 7, 4);
    check_whole(&driver.series().expect("the second"), 8, 3);
}

/// All frames come by one socket, or almost: the idle one holds the others up once, not with every block.
#[test]
fn one_socket_is_idle() {
    let (detector, mut driver) = spread(3, 2);
    let mut messages: Vec<_> = series(7, 3000).into_iter().map(|message| (0, message)).collect();
    messages[2000].0 = 1;
    send_by(&detector, &messages);
    check_whole(&driver.series().expect("a series"), 7, 3000);
}

/// An end that comes early ends the series when nothing more can come; what a series before left behind, broken images and lost ones
/// hold up nothing for long.
#[test]
fn ends_leftovers_and_losses() {
    let (detector, mut driver) = spread(2, 3);
    let mut messages = vec![(0, raw(5, 17)), (1, raw(5, 18)), (0, raw(5, 19)), (0, end(5))];
    messages.push((1, start(7, 1000)));
    for frame in (0..500).filter(|frame| frame % 50 != 3) {
        let message = if frame % 50 == 4 { image(7, frame, "<", vec![0; 95]) } else { raw(7, frame) };
        messages.push(((frame % 2) as usize, message));
    }
    messages.push((0, end(7)));
    send_by(&detector, &messages);
    let got = driver.series().expect("a series");
    assert_eq!((got.announced.series_id.as_str(), got.reason), ("7", EndReason::Stopped));
    let want: Vec<u64> = (0..500).filter(|frame| ![3, 4].contains(&(frame % 50))).collect();
    assert_eq!(got.frames.keys().copied().collect::<Vec<_>>(), want);
    assert_eq!((got.count(|c| &c.rejected_frames), got.gaps.frame_count()), (10, 1000 - 480));
    send_by(&detector, &series(9, 10).into_iter().map(|message| (1, message)).collect::<Vec<_>>());
    check_whole(&driver.series().expect("the next"), 9, 10);
}
