//! Conversations on the control socket and what they do to the data socket.

use std::io::{Read, Write};

use ronchi::simulate::merlin::{MerlinSimulator, TriggerMode};

use super::client::{Control, Frame, connect, message, rest, small};

/// A scripted acquisition: set up, arm, see the header, trigger, see the frames; then another of other length.
#[test]
fn armed_and_triggered() {
    let running = MerlinSimulator::start(small((4, 6))).expect("start");
    let mut data = connect(running.data_address);
    let mut control = Control::connect(running.control_address);
    assert_eq!(control.ask("GET,NUMFRAMESTOACQUIRE"), "GET,NUMFRAMESTOACQUIRE,24,0");
    assert_eq!(control.ask("GET,IMAGEX,0"), "GET,IMAGEX,64,0");
    assert_eq!(control.ask("GET,COUNTERDEPTH"), "GET,COUNTERDEPTH,12,0");
    assert_eq!(control.ask("SET,TRIGGERSTART,5"), "SET,TRIGGERSTART,0");
    assert_eq!(control.ask("CMD,SOFTTRIGGER"), "CMD,SOFTTRIGGER,1");
    assert_eq!(control.ask("CMD,STARTACQUISITION,0"), "CMD,STARTACQUISITION,0");
    assert_eq!(control.ask("GET,DETECTORSTATUS"), "GET,DETECTORSTATUS,1,0");
    assert_eq!(control.ask("CMD,STARTACQUISITION"), "CMD,STARTACQUISITION,1");
    let header = message(&mut data).expect("header");
    assert_eq!(header.len(), 2048);
    let text = String::from_utf8(header).expect("text");
    assert!(text.starts_with("HDR,\t\r\n") && text.trim_end_matches(' ').ends_with("\r\nEnd\t"));
    for line in ["Frames in Acquisition (Number):\t24", "Frames per Trigger (Number):\t6", "ScanX:\t6", "ScanY:\t4"] {
        assert!(text.split("\r\n").any(|have| have == line), "{line}");
    }
    assert_eq!(running.report().frames_sent, 0, "nothing before the trigger");
    assert_eq!(control.ask("CMD,SOFTTRIGGER"), "CMD,SOFTTRIGGER,0");
    for sequence in 1..=24 {
        assert_eq!(Frame::parse(&message(&mut data).expect("frame")).sequence(), sequence);
    }
    control.wait_until_idle();

    assert_eq!(control.ask("SET,TRIGGERSTART,0"), "SET,TRIGGERSTART,0");
    assert_eq!(control.ask("SET,NUMFRAMESTOACQUIRE,30"), "SET,NUMFRAMESTOACQUIRE,0");
    assert_eq!(control.ask("CMD,STARTACQUISITION"), "CMD,STARTACQUISITION,0");
    let text = String::from_utf8(message(&mut data).expect("header")).expect("text");
    assert!(text.contains("Frames in Acquisition (Number):\t30\r\n") && text.contains("ScanY:\t5\r\n"));
    let last = (0..30).map(|_| message(&mut data).expect("frame")).last().expect("30 frames");
    assert_eq!(Frame::parse(&last).sequence(), 30);
    control.wait_until_idle();
    running.stop();
    assert_eq!(rest(&mut data), b"");
    assert_eq!(running.wait().frames_sent, 54);
}

/// Endless acquisitions run until stopped; only whole frames arrive, and the next header follows directly.
#[test]
fn endless_until_stopped() {
    let running = MerlinSimulator::start(small((2, 3))).expect("start");
    let mut data = connect(running.data_address);
    let mut control = Control::connect(running.control_address);
    control.ask("SET,NUMFRAMESTOACQUIRE,0");
    control.ask("CMD,STARTACQUISITION");
    let header = String::from_utf8(message(&mut data).expect("header")).expect("text");
    assert!(header.contains("Frames in Acquisition (Number):\t0\r\n") && !header.contains("ScanX"));
    let mut sequence = 0;
    while sequence < 2000 {
        sequence = Frame::parse(&message(&mut data).expect("frame")).sequence();
    }
    // The client does not read while it asks: the sender is stuck in a write until the kernel gets room again.
    assert_eq!(control.ask("CMD,STOPACQUISITION"), "CMD,STOPACQUISITION,0");
    let mut control_side = Control::connect(running.control_address);
    let asking = std::thread::Builder::new().name("asking".to_owned()).spawn(move || {
        control_side.wait_until_idle();
        control_side.ask("SET,NUMFRAMESTOACQUIRE,1");
        control_side.ask("CMD,STARTACQUISITION")
    });
    let mut body = message(&mut data).expect("more");
    while body.starts_with(b"MQ1") {
        assert_eq!(Frame::parse(&body).sequence(), sequence + 1, "no frame is left out");
        sequence += 1;
        body = message(&mut data).expect("more");
    }
    assert!(body.starts_with(b"HDR"));
    assert_eq!(Frame::parse(&message(&mut data).expect("frame")).sequence(), 1);
    assert_eq!(asking.expect("thread").join().expect("answer"), "CMD,STARTACQUISITION,0");
}

/// Hardware triggers: the owner's line starts an acquisition that waits for it, and only such a one.
#[test]
fn hardware_trigger() {
    let running = MerlinSimulator::start(small((1, 2))).expect("start");
    let mut data = connect(running.data_address);
    let mut control = Control::connect(running.control_address);
    assert!(!running.trigger());
    control.ask("SET,TRIGGERSTART,1");
    control.ask("CMD,STARTACQUISITION");
    assert!(message(&mut data).expect("header").starts_with(b"HDR"));
    assert_eq!(control.ask("CMD,SOFTTRIGGER"), "CMD,SOFTTRIGGER,1");
    assert!(running.trigger());
    assert!(message(&mut data).expect("frame").starts_with(b"MQ1"));
}

/// An abort before the trigger ends the acquisition without a frame; arming without a client waits for one.
#[test]
fn aborted_and_armed_early() {
    let running = MerlinSimulator::start(small((1, 2))).expect("start");
    let mut control = Control::connect(running.control_address);
    control.ask("SET,TRIGGERSTART,5");
    control.ask("CMD,STARTACQUISITION");
    assert_eq!(control.ask("CMD,ABORT"), "CMD,ABORT,0");
    assert_eq!(control.ask("GET,DETECTORSTATUS"), "GET,DETECTORSTATUS,0,0");
    control.ask("CMD,STARTACQUISITION");
    control.ask("CMD,SOFTTRIGGER");
    let mut data = connect(running.data_address);
    assert!(message(&mut data).expect("header").starts_with(b"HDR"));
    assert_eq!(Frame::parse(&message(&mut data).expect("frame")).sequence(), 1);
    assert_eq!(Frame::parse(&message(&mut data).expect("frame")).sequence(), 2);
    control.wait_until_idle();
    control.ask("CMD,STARTACQUISITION");
    assert!(message(&mut data).expect("header").starts_with(b"HDR"));
    assert_eq!(control.ask("CMD,ABORT"), "CMD,ABORT,0");
    control.wait_until_idle();
    running.stop();
    assert_eq!(rest(&mut data), b"");
}

/// Requests cut into single bytes, two in one segment, and rubbish that costs only its own connection.
#[test]
fn requests_in_odd_cuts() {
    let running = MerlinSimulator::start(small((1, 1))).expect("start");
    let mut control = Control::connect(running.control_address);
    for byte in b"MPX,0000000023,GET,NUMFRAMESTOACQUIRE" {
        control.0.write_all(&[*byte]).expect("send");
    }
    assert_eq!(message(&mut control.0).expect("response"), b"GET,NUMFRAMESTOACQUIRE,1,0");
    control.0.write_all(b"MPX,0000000011,GET,IMAGEXMPX,0000000011,GET,IMAGEY").expect("send");
    assert_eq!(message(&mut control.0).expect("response"), b"GET,IMAGEX,64,0");
    assert_eq!(message(&mut control.0).expect("response"), b"GET,IMAGEY,64,0");
    for rubbish in [&b"XPM,0000000011,GET,IMAGEX"[..], b"MPX,0000000000,", b"MPX,9999999999,", b"MPX,-000000001,"] {
        let mut other = connect(running.control_address);
        other.write_all(rubbish).expect("send");
        // Unread bytes turn the end of the stream into a reset: both mean closed.
        assert_eq!(other.read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(control.ask("GET,GAIN"), "GET,GAIN,0,0");
}

/// A simulator asked for short lengths counts one less, and nothing else changes.
#[test]
fn short_lengths() {
    let mut plan = small((1, 1));
    plan.short_response_lengths = true;
    let running = MerlinSimulator::start(plan).expect("start");
    let mut control = connect(running.control_address);
    control.write_all(b"MPX,0000000011,GET,IMAGEX").expect("send");
    let mut response = [0; 30];
    control.read_exact(&mut response).expect("response");
    assert_eq!(&response, b"MPX,0000000015,GET,IMAGEX,64,0");
}

/// A client that leaves ends its acquisition; the next one is served; dropping the simulator frees a blocked client.
#[test]
fn clients_come_and_go() {
    let mut plan = small((8, 8));
    plan.trigger = TriggerMode::Now;
    let running = MerlinSimulator::start(plan).expect("start");
    let mut control = Control::connect(running.control_address);
    for _ in 0..3 {
        let mut data = connect(running.data_address);
        assert!(message(&mut data).expect("header").starts_with(b"HDR"));
        assert_eq!(Frame::parse(&message(&mut data).expect("frame")).sequence(), 1);
    }
    control.ask("CMD,STOPACQUISITION");
    control.wait_until_idle();
    let mut waiting = connect(running.data_address);
    drop(running);
    // A client that was still in the kernel's queue sees a reset, one that was served the end of the stream.
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0);
}
