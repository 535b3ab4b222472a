//! Faults: seeded, counted, and each of them as described.

use std::time::Duration;

use ronchi::simulate::SimulatorReport;
use ronchi::simulate::fault::{Fault, FaultKind};
use ronchi::simulate::merlin::{FAULTS, MerlinSimulation, MerlinSimulator, TriggerMode};

use super::client::{Frame, connect, frames, message, rest, small};

fn faulty(seed: u64, faults: &[(FaultKind, f64)]) -> MerlinSimulation {
    MerlinSimulation {
        trigger: TriggerMode::Now,
        runs: 1,
        seed,
        faults: faults.iter().map(|&(kind, probability)| Fault { kind, probability }).collect(),
        stall: Duration::from_millis(1),
        ..small((10, 30))
    }
}

/// Everything one client gets, with time stamps blanked.
fn receive(plan: MerlinSimulation) -> (Vec<u8>, SimulatorReport) {
    let running = MerlinSimulator::start(plan).expect("start");
    let mut data = connect(running.data_address);
    let mut bytes = rest(&mut data);
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(4).position(|window| window == b"MQ1,") {
        let start = at + found;
        at = (start + 384).min(bytes.len());
        let (local, utc) = (start + 44..(start + 70).min(at), (start + 299).min(at)..(start + 329).min(at));
        bytes[local].fill(b'_');
        bytes[utc].fill(b'_');
    }
    // The header carries the date of arming.
    let date = bytes.windows(8).position(|window| window == b"hr, min,").expect("date line");
    bytes[date + 13..date + 32].fill(b'_');
    (bytes, running.wait())
}

/// Equal seeds give equal bytes and reports, other seeds others.
#[test]
fn seeds_decide() {
    let kinds: Vec<(FaultKind, f64)> =
        FAULTS.into_iter().filter(|&kind| kind != FaultKind::Disconnect).map(|kind| (kind, 0.03)).collect();
    let (first, report) = receive(faulty(5, &kinds));
    let (again, report_again) = receive(faulty(5, &kinds));
    let (other, _) = receive(faulty(6, &kinds));
    assert!(first == again, "the same seed gives the same bytes");
    assert!(first != other, "another seed gives other bytes");
    assert_eq!((&report.faults, report.frames_sent), (&report_again.faults, report_again.frames_sent));
    assert_eq!(report.faults.len(), 6, "{:?}", report.faults);
}

/// Lost, repeated and swapped frames show in the order of sequence numbers, and the report counts them.
#[test]
fn order_faults() {
    let plan = faulty(3, &[(FaultKind::Lose, 0.1), (FaultKind::Repeat, 0.1), (FaultKind::Swap, 0.1)]);
    let running = MerlinSimulator::start(plan).expect("start");
    let mut data = connect(running.data_address);
    assert!(message(&mut data).expect("header").starts_with(b"HDR"));
    let sequences: Vec<u64> = frames(&mut data).iter().map(Frame::sequence).collect();
    let report = running.wait();
    let count = |name: &str| report.faults[name] as usize;
    let mut distinct = sequences.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 300 - count("lose"));
    assert_eq!(sequences.len(), distinct.len() + count("repeat"));
    assert_eq!(sequences.windows(2).filter(|pair| pair[1] < pair[0]).count(), count("swap"));
    assert_eq!(sequences.len() as u64, report.frames_sent);
}

/// Truncated messages are framed correctly and carry half of their pixels.
#[test]
fn truncated_frames() {
    let running = MerlinSimulator::start(faulty(1, &[(FaultKind::Truncate, 0.2)])).expect("start");
    let mut data = connect(running.data_address);
    message(&mut data).expect("header");
    let received = frames(&mut data);
    let report = running.wait();
    let halves = received.iter().filter(|frame| frame.pixels.len() == 64 * 64).count();
    assert_eq!(received.len(), 300);
    assert_eq!(halves as u64, report.faults["truncate"]);
    assert!(received.iter().all(|frame| [64 * 64, 64 * 64 * 2].contains(&frame.pixels.len())));
}

/// A disconnect ends the stream inside a frame; a client that comes back gets the next acquisition.
#[test]
fn disconnects() {
    let plan = MerlinSimulation { runs: 2, ..faulty(2, &[(FaultKind::Disconnect, 0.05)]) };
    let running = MerlinSimulator::start(plan).expect("start");
    let message_bytes = running.message_bytes();
    for _ in 0..2 {
        let mut data = connect(running.data_address);
        assert!(message(&mut data).expect("header").starts_with(b"HDR"));
        let rest = rest(&mut data);
        assert_eq!(rest.len() % message_bytes, 15 + 384 + 64 * 64);
    }
    assert_eq!(running.wait().faults["disconnect"], 2);
}

/// Garbage on connect comes first, has the wanted length, and the acquisition follows untouched.
#[test]
fn garbage_on_connect() {
    let plan = MerlinSimulation { garbage_on_connect_bytes: 21_504, ..faulty(4, &[]) };
    let running = MerlinSimulator::start(plan).expect("start");
    let mut data = connect(running.data_address);
    let mut garbage = vec![0; 21_504];
    std::io::Read::read_exact(&mut data, &mut garbage).expect("garbage");
    assert!(message(&mut data).expect("header").starts_with(b"HDR"));
    assert_eq!(frames(&mut data).len(), 300);
}
