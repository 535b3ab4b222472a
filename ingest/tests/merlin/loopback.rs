//! The source over real loopback sockets, with a scripted detector.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ronchi_config::{MerlinControlPlan, MerlinTrigger};
use ronchi_ingest::merlin::{MerlinOptions, MerlinSource};
use ronchi_pipeline::{EndReason, LinkCounters};

use crate::driver::{Driver, Manner, Run};
use crate::stream::{Kind, acquisition, message};

/// A listener on a port that the system chooses.
pub fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// Receives `run_count` series from a detector on this port.
pub fn receive(port: u16, control: Option<MerlinControlPlan>, run_count: usize, block_bytes: u64) -> (Vec<Run>, u64) {
    let counters = Arc::new(LinkCounters::default());
    let options = MerlinOptions { backoff: Duration::from_millis(1), ..MerlinOptions::default() };
    let mut source = MerlinSource::new("127.0.0.1", port, control, options, Arc::clone(&counters));
    let manner = Manner { block_bytes, patience: Duration::from_millis(50), ..Manner::default() };
    let pool = Driver::pool(block_bytes);
    let runs = Driver::new(&mut source, &pool, Arc::clone(&counters), manner).play(run_count);
    (runs, LinkCounters::read(&counters.bytes))
}

/// Sends a stream to the first client in pieces of `piece_bytes`, then closes.
pub fn serve(listener: TcpListener, stream: Vec<u8>, piece_bytes: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.set_nodelay(true).expect("TCP");
        for piece in stream.chunks(piece_bytes) {
            if client.write_all(piece).is_err() {
                return; // The receiver has all it wanted.
            }
        }
    })
}

/// Frames of several kinds arrive whole through a socket, in pieces of one byte and of many messages.
#[test]
fn frames_through_a_socket() {
    for (kind, piece_bytes, count) in [(Kind::U16, 1, 8), (Kind::U16, 100_000, 3000), (Kind::RAW12, 5001, 300)] {
        let mut stream = acquisition(count, "");
        (1..=count).for_each(|sequence| stream.extend(kind.message(sequence, sequence)));
        let length = stream.len() as u64;
        let (listener, port) = listen();
        let detector = serve(listener, stream, piece_bytes);
        let (runs, bytes) = receive(port, None, 1, 1 << 16);
        detector.join().expect("detector");
        assert_eq!((runs[0].reason, runs[0].received_count, bytes), (EndReason::Complete, count, length));
        for (frame, (bytes, _)) in &runs[0].frames {
            assert_eq!(*bytes, kind.payload(frame + 1).1, "frame {frame}");
        }
    }
}

/// Reads one request of the control port.
fn request(client: &mut TcpStream) -> String {
    let mut prefix = [0; 15];
    client.read_exact(&mut prefix).expect("a prefix");
    let length: usize = std::str::from_utf8(&prefix[4..14]).expect("digits").parse().expect("a number");
    let mut body = vec![0; length - 1];
    client.read_exact(&mut body).expect("a body");
    String::from_utf8(body).expect("ASCII")
}

/// The detector is armed after the data connection stands, and triggered after its header has come.
#[test]
fn arming_and_soft_trigger() {
    let (data, data_port) = listen();
    let (control, control_port) = listen();
    let detector = thread::spawn(move || {
        let (mut data, _) = data.accept().expect("data connection first");
        let (mut control, _) = control.accept().expect("then control");
        let mut requests = Vec::new();
        loop {
            let request = request(&mut control);
            let fields: Vec<&str> = request.split(',').collect();
            let answer = format!("{},{},0", fields[0], fields[1]);
            control.write_all(&message(answer.as_bytes())).expect("answered");
            match fields[1] {
                "STARTACQUISITION" => data.write_all(&acquisition(2, "")).expect("armed"),
                "SOFTTRIGGER" => {
                    data.write_all(&[Kind::U16.message(1, 1), Kind::U16.message(2, 2)].concat()).expect("sent");
                    requests.push(request);
                    return requests;
                }
                _ => {}
            }
            requests.push(request);
        }
    });
    let plan = MerlinControlPlan { port: control_port, frame_count: Some(2), trigger: Some(MerlinTrigger::Soft) };
    let (runs, _) = receive(data_port, Some(plan), 1, 1 << 16);
    assert_eq!((runs[0].reason, runs[0].received_count), (EndReason::Complete, 2));
    let requests = detector.join().expect("detector");
    let expected = ["SET,NUMFRAMESTOACQUIRE,2", "SET,TRIGGERSTART,5", "CMD,STARTACQUISITION", "CMD,SOFTTRIGGER"];
    assert_eq!(requests, expected);
}

/// A detector that somebody armed who has gone, and that takes no other arming, is triggered and received all the same.
#[test]
fn a_detector_that_is_armed_already() {
    let (data, data_port) = listen();
    let (control, control_port) = listen();
    let detector = thread::spawn(move || {
        let (mut data, _) = data.accept().expect("data connection first");
        data.write_all(&acquisition(2, "")).expect("armed before");
        let (mut last, mut asked) = (String::new(), 0);
        while last != "SOFTTRIGGER" {
            let (mut control, _) = control.accept().expect("then control");
            for name in ["NUMFRAMESTOACQUIRE", "TRIGGERSTART", "STARTACQUISITION", "SOFTTRIGGER"] {
                let request = request(&mut control);
                let fields: Vec<&str> = request.split(',').collect();
                last = fields[1].to_owned();
                let is_busy = last == "STARTACQUISITION";
                let answer = format!("{},{last},{}", fields[0], u8::from(is_busy));
                control.write_all(&message(answer.as_bytes())).expect("answered");
                asked += u32::from(is_busy);
                assert!(last == "SOFTTRIGGER" || last == name, "{request}");
                if is_busy || last == "SOFTTRIGGER" {
                    break;
                }
            }
        }
        data.write_all(&[Kind::U16.message(1, 1), Kind::U16.message(2, 2)].concat()).expect("sent");
        asked
    });
    let plan = MerlinControlPlan { port: control_port, frame_count: Some(2), trigger: Some(MerlinTrigger::Soft) };
    let (runs, _) = receive(data_port, Some(plan), 1, 1 << 16);
    assert_eq!((runs[0].reason, runs[0].received_count), (EndReason::Complete, 2));
    assert!(detector.join().expect("detector") > 0);
}

/// A detector that hangs up in the middle of a frame and comes back is received again.
#[test]
fn a_detector_that_comes_back() {
    let (listener, port) = listen();
    let detector = thread::spawn(move || {
        let whole = [acquisition(3, ""), Kind::U16.message(1, 1), Kind::U16.message(2, 2)].concat();
        for length in [whole.len() - 10, whole.len()] {
            let (mut client, _) = listener.accept().expect("a client");
            client.write_all(&whole[..length]).expect("sent");
        }
    });
    let (runs, _) = receive(port, None, 2, 1 << 16);
    detector.join().expect("detector");
    assert_eq!(runs.iter().map(|run| run.received_count).collect::<Vec<_>>(), [1, 2]);
    assert!(runs.iter().all(|run| run.reason == EndReason::Disconnected));
}
