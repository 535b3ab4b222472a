//! A client as plain as possible: blocking reads, one message at a time, parsers written for reading.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ronchi::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation};
use ronchi::simulate::synth::{Specimen, SynthPlan};
use ronchi_pipeline::{NavShape, SigShape};

/// A small synthetic scan.
pub(super) fn synth_plan(scan: (u32, u32), detector: (u32, u32)) -> SynthPlan {
    SynthPlan {
        scan: NavShape { height: scan.0, width: scan.1 },
        detector: SigShape { height: detector.0, width: detector.1 },
        dose: 60.0,
        specimen: Specimen::Crystal,
        seed: 11,
    }
}

/// A simulation of 64x64 pixels of 16 bits.
pub(super) fn small(scan: (u32, u32)) -> MerlinSimulation {
    let plan = synth_plan(scan, (64, 64));
    MerlinSimulation::new(FrameSource::Synthetic { plan, pixels: MerlinPixels::U16, layout: ChipLayout::Single })
}

/// A connection that fails a test instead of hanging it.
pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream
}

/// Reads one message and returns its body; `None` at the end of the stream.
pub(super) fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 15];
    // `read_exact`, which goes on after an interruption, unlike `read`.
    match stream.read_exact(&mut head[..1]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        result => result.expect("read"),
    }
    stream.read_exact(&mut head[1..]).expect("prefix");
    assert!(head.starts_with(b"MPX,") && head.ends_with(b","), "{}", head.escape_ascii());
    let length: usize = std::str::from_utf8(&head[4..14]).expect("digits").parse().expect("number");
    let mut body = vec![0; length - 1];
    stream.read_exact(&mut body).expect("body");
    Some(body)
}

/// Everything up to the end of the stream.
pub(super) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read");
    bytes
}

/// A control client.
pub(super) struct Control(pub(super) TcpStream);

impl Control {
    pub(super) fn connect(address: SocketAddr) -> Self {
        Self(connect(address))
    }

    /// Sends a body with a correct prefix and returns the body of the response.
    pub(super) fn ask(&mut self, body: &str) -> String {
        write!(self.0, "MPX,{:010},{body}", body.len() + 1).expect("send");
        String::from_utf8(message(&mut self.0).expect("response")).expect("text")
    }

    /// Asks until the detector is idle.
    pub(super) fn wait_until_idle(&mut self) {
        while self.ask("GET,DETECTORSTATUS") != "GET,DETECTORSTATUS,0,0" {
            std::thread::yield_now();
        }
    }
}

/// A frame taken apart at its commas.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) fields: Vec<String>,
    pub(super) pixels: Vec<u8>,
}

impl Frame {
    pub(super) fn parse(body: &[u8]) -> Self {
        let offset: usize = std::str::from_utf8(&body[11..16]).expect("digits").parse().expect("offset");
        let text = body[..offset].split(|&byte| byte == 0).next().expect("text");
        let text = String::from_utf8(text.to_vec()).expect("ascii");
        assert!(text.ends_with(','), "the text ends with a comma");
        assert!(body[text.len()..offset].iter().all(|&byte| byte == 0), "and is padded with NUL");
        let fields = text.trim_end_matches(',').split(',').map(str::to_owned).collect();
        Self { fields, pixels: body[offset..].to_vec() }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.fields[1].parse().expect("sequence")
    }

    /// The `MQ1A` time in ns since midnight.
    pub(super) fn utc_ns(&self) -> u64 {
        let at = self.fields.iter().position(|field| field == "MQ1A").expect("extension");
        let time = &self.fields[at + 1];
        let number = |range: std::ops::Range<usize>| time[range].parse::<u64>().expect("digits");
        (number(11..13) * 3600 + number(14..16) * 60 + number(17..19)) * 1_000_000_000 + number(20..29)
    }
}

/// All frames of a stream that follows an acquisition header.
pub(super) fn frames(stream: &mut TcpStream) -> Vec<Frame> {
    std::iter::from_fn(|| message(stream)).map(|body| Frame::parse(&body)).collect()
}
