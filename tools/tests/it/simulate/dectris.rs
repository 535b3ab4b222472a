//! The DECTRIS simulator: every pixel arrives, every fault leaves the gaps it should and nothing else, and its REST
//! interface leads a client through a series.

use std::path::Path;
use std::time::Duration;

use ronchi::simulate::SimulatorReport;
use ronchi::simulate::dectris::{
    Compression, DectrisSimulation, DectrisSimulator, Dtype, HeaderDetail, ImageForm, Running, StreamFormat,
};
use ronchi::simulate::fault::{Fault, FaultKind};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi::summary::Summary;
use ronchi_config::{DectrisStream, LinkPlan, Plan, SourcePlan};
use ronchi_pipeline::{GapReason, NavShape, SigShape};
use ronchi_sinks::storage::{Depth, Reader, verify};
use serde_json::{Value, json};

use crate::system::{plan, record};

const FRAMES: u64 = 200;
const DETECTOR: SigShape = SigShape { height: 31, width: 48 };

fn images() -> SynthPlan {
    let scan = NavShape { height: 10, width: 20 };
    SynthPlan { scan, detector: DETECTOR, dose: 200.0, specimen: Specimen::Crystal, seed: 3 }
}

fn form(dtype: Dtype, compression: Compression) -> ImageForm {
    ImageForm { dtype, compression, channels: vec!["threshold_1".to_owned()] }
}

fn simulation(format: StreamFormat) -> DectrisSimulation {
    DectrisSimulation { format, ..DectrisSimulation::new(images(), form(Dtype::U16, Compression::Bslz4)) }
}

/// A receiver of one stream that computes nothing.
fn receiver(directory: &Path, running: &Running) -> Plan {
    let (stream, endpoint) = match (&running.stream1, &running.stream2) {
        (_, Some(endpoint)) => (DectrisStream::Cbor, endpoint.clone()),
        (endpoint, None) => (DectrisStream::Legacy, endpoint.clone().expect("one of both")),
    };
    let link = LinkPlan { source: SourcePlan::Dectris { stream, endpoint, sockets: 1, control: None }, region: None };
    Plan { reductions: Vec::new(), ..plan(directory, vec![link]) }
}

/// Runs a simulation into a receiver; checks that what is not a gap is exactly what was drawn, and what is one is zero.
fn receive(simulation: DectrisSimulation) -> (Summary, SimulatorReport) {
    let directory = tempfile::tempdir().expect("folder");
    let form = simulation.form.clone();
    let running = DectrisSimulator::start(simulation).expect("simulator");
    let summary = record(receiver(directory.path(), &running));
    running.stop();
    let data_set = summary.dataset.clone().expect("recorded");
    assert_eq!(verify(&data_set, Depth::Full, &mut |_, _| {}).expect("verification").flaws, []);
    let missing: Vec<u64> = summary.gaps.iter().flat_map(|gap| gap.first..gap.first + gap.count).collect();
    check_frames(&data_set, &form, &missing);
    (summary, running.wait())
}

fn check_frames(data_set: &Path, form: &ImageForm, missing: &[u64]) {
    let synthesis = Synthesis::new(images()).expect("specimen");
    let reader = Reader::open(data_set).expect("data set opens");
    let (mut counts, mut bytes) = (vec![0; DETECTOR.pixel_count() as usize], Vec::new());
    for frame in 0..reader.tiles()[0].array.frame_count {
        reader.read_frames(0, frame..frame + 1, &mut bytes).expect("frame");
        synthesis.draw(frame, &mut counts);
        let drawn: Vec<u8> = form.channels.iter().flat_map(|name| pixels(name, &counts, form.dtype)).collect();
        let is_missing = missing.contains(&frame);
        let expected = if is_missing { vec![0; drawn.len()] } else { drawn };
        assert!(bytes == expected, "frame {frame}, missing: {is_missing}");
    }
}

/// The pixels of a channel where so many electrons came: the second threshold counts half of them, the difference the rest.
fn pixels(channel: &str, electrons: &[u32], dtype: Dtype) -> Vec<u8> {
    let count = |electrons: u32| match channel {
        "threshold_2" => electrons / 2,
        "difference" => electrons - electrons / 2,
        _ => electrons,
    };
    electrons.iter().flat_map(|&n| count(n).to_le_bytes().into_iter().take(dtype.bytes())).collect()
}

/// Every pixel type and compression by both streams.
#[test]
fn images_arrive_as_drawn() {
    for format in [StreamFormat::Legacy, StreamFormat::Cbor] {
        for compression in [Compression::None, Compression::Lz4, Compression::Bslz4] {
            for dtype in [Dtype::U8, Dtype::U16, Dtype::U32] {
                let what = format!("{format:?} {compression:?} {dtype:?}");
                let (summary, report) =
                    receive(DectrisSimulation { form: form(dtype, compression), ..simulation(format) });
                assert!(summary.is_whole(), "{what}: {summary}");
                assert_eq!((summary.frames.durable, summary.frames.unplaced), (FRAMES, 0), "{what}");
                assert_eq!(
                    (report.frames_sent, report.acquisitions, report.messages_dropped),
                    (FRAMES, 1, 0),
                    "{what}"
                );
            }
        }
    }
}

/// Channels lie below each other; headers with all tables, without any, and appendices do not disturb.
#[test]
fn headers_appendices_and_channels() {
    for format in [StreamFormat::Legacy, StreamFormat::Cbor] {
        for header_detail in [HeaderDetail::None, HeaderDetail::Basic, HeaderDetail::All] {
            let mut simulation = simulation(format);
            simulation.header_detail = header_detail;
            (simulation.header_appendix, simulation.image_appendix) = (json!({ "sample": 7 }), "text".into());
            if format == StreamFormat::Cbor {
                simulation.form.channels = ["difference", "threshold_2", "threshold_1"].map(str::to_owned).to_vec();
            }
            let (summary, _) = receive(simulation);
            assert!(summary.is_whole(), "{format:?}, {header_detail:?}: {summary}");
        }
    }
}

/// What a receiver should find of a fault, and what the simulator counted.
struct Found {
    summary: Summary,
    count: u64,
}

fn found(format: StreamFormat, kind: FaultKind) -> Found {
    let probability = if kind.is_of_series() { 1.0 } else { 0.1 };
    let faults = vec![Fault { kind, probability }];
    let (summary, report) =
        receive(DectrisSimulation { faults, stall: Duration::from_millis(1), ..simulation(format) });
    let count = report.faults.get(kind.name()).copied().unwrap_or(0);
    assert!(count >= if kind.is_of_series() { 1 } else { 5 }, "{kind}: {count}");
    Found { summary, count }
}

impl Found {
    fn gaps(&self, reason: GapReason) -> u64 {
        self.summary.gaps.iter().filter(|gap| gap.reason == reason).map(|gap| gap.count).sum()
    }
}

const BOTH: [StreamFormat; 2] = [StreamFormat::Legacy, StreamFormat::Cbor];

/// Images that do not come as they should are gaps, exactly as many as the simulator says; all others arrive.
#[test]
fn faults_that_cost_images() {
    for format in BOTH {
        let lost = found(format, FaultKind::Lose);
        assert_eq!(lost.gaps(GapReason::NeverArrived), lost.count, "{}", lost.summary);
        let other = found(format, FaultKind::WrongSeries);
        assert_eq!(other.gaps(GapReason::NeverArrived), other.count, "{}", other.summary);
        assert_eq!(other.summary.frames.unplaced, other.count);
        for kind in [FaultKind::Truncate, FaultKind::BigEndian] {
            let broken = found(format, kind);
            assert_eq!(broken.gaps(GapReason::Rejected), broken.count, "{kind}: {}", broken.summary);
        }
        let cut = found(format, FaultKind::Abort);
        assert_eq!(cut.gaps(GapReason::NeverArrived), FRAMES - cut.summary.frames.durable, "{}", cut.summary);
    }
}

/// What looks wrong and is not costs nothing.
#[test]
fn faults_that_cost_nothing() {
    let both = [
        FaultKind::Repeat,
        FaultKind::Swap,
        FaultKind::Stall,
        FaultKind::Garbage,
        FaultKind::ZeroHeader,
        FaultKind::Stale,
        FaultKind::LateEnd,
        FaultKind::NoEnd,
        FaultKind::SecondEnd,
    ];
    let legacy = [FaultKind::WrongHash, FaultKind::SplitHeader].map(|kind| (StreamFormat::Legacy, kind));
    for (format, kind) in both.into_iter().flat_map(|kind| BOTH.map(|format| (format, kind))).chain(legacy) {
        let Found { summary, count } = found(format, kind);
        let what = format!("{format:?}, {kind}: {summary}");
        assert_eq!((summary.frames.durable, summary.frames.missing), (FRAMES, 0), "{what}");
        assert_eq!(summary.frames.duplicate, if kind == FaultKind::Repeat { count } else { 0 }, "{what}");
        assert_eq!(summary.frames.unplaced, if kind == FaultKind::Stale { 2 } else { 0 }, "{what}");
    }
}

/// A client of the REST interface.
struct Client(String);

impl Client {
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent = ureq::Agent::new_with_config(config);
        let url = format!("{}/{path}", self.0);
        let answer = match method {
            "GET" => agent.get(&url).call(),
            _ if body.is_null() => agent.put(&url).send_empty(),
            _ => agent.put(&url).send_json(body),
        };
        let mut answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    }

    fn value(&self, path: &str) -> Value {
        let (status, text) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).expect("JSON")["value"].clone()
    }

    fn set(&self, path: &str, value: impl Into<Value>) {
        let (status, text) = self.ask("PUT", path, &json!({ "value": value.into() }));
        assert_eq!(status, 200, "{text}");
    }

    fn command(&self, name: &str) -> Value {
        let (status, text) = self.ask("PUT", &format!("detector/api/1.8.0/command/{name}"), &Value::Null);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn state(&self) -> Value {
        self.value("detector/api/1.8.0/status/state")
    }
}

/// A simulator that waits for commands, a client that has switched STREAM on, and a plain socket that reads it.
fn commanded(rate_hz: f64) -> (Running, Client, zmq::Socket) {
    let rest = Some(([127, 0, 0, 1], 0).into());
    let running =
        DectrisSimulator::start(DectrisSimulation { rest, rate_hz, runs: 0, ..simulation(StreamFormat::Cbor) });
    let running = running.expect("simulator");
    let client = Client(format!("http://{}", running.rest.expect("address")));
    client.command("initialize");
    client.set("stream/api/1.8.0/config/mode", "enabled");
    client.set("stream/api/1.8.0/config/format", "legacy");
    let pull = zmq::Context::new().socket(zmq::PULL).expect("socket");
    pull.set_rcvtimeo(20_000).expect("timeout");
    pull.connect(running.stream1.as_ref().expect("bound")).expect("connects");
    (running, client, pull)
}

/// The first part of the next message.
fn head(pull: &zmq::Socket) -> Value {
    serde_json::from_slice(&pull.recv_multipart(0).expect("a message")[0]).expect("JSON")
}

fn heads(pull: &zmq::Socket, frames: std::ops::Range<u64>, series: u64) {
    for frame in frames {
        let head = head(pull);
        assert_eq!(
            (&head["htype"], &head["frame"], &head["series"]),
            (&"dimage-1.0".into(), &frame.into(), &series.into())
        );
    }
}

/// A series of software triggers, as a client leads it: states, header, images of each trigger, end; then the next.
#[test]
fn software_triggers() {
    let (running, client, pull) = commanded(5000.0);
    for (key, value) in [("trigger_mode", json!("ints")), ("nimages", json!(5)), ("ntrigger", json!(2))] {
        client.set(&format!("detector/api/1.8.0/config/{key}"), value);
    }
    assert_eq!(client.state(), "idle");
    assert_eq!(client.command("arm"), json!({ "sequence id": 1 }));
    assert_eq!(client.state(), "ready");
    let header = pull.recv_multipart(0).expect("a header");
    let configuration: Value = serde_json::from_slice(&header[1]).expect("JSON");
    assert_eq!((header.len(), &configuration["nimages"], &configuration["ntrigger"]), (2, &json!(5), &json!(2)));
    assert_eq!(client.ask("PUT", "detector/api/1.8.0/config/nimages", &json!({ "value": 1 })).0, 400);
    client.command("trigger");
    heads(&pull, 0..5, 1);
    assert_eq!(client.state(), "ready");
    client.command("trigger");
    heads(&pull, 5..10, 1);
    assert_eq!(head(&pull)["htype"], "dseries_end-1.0");
    while client.state() != "idle" {
        std::thread::yield_now();
    }
    assert_eq!(client.ask("PUT", "detector/api/1.8.0/command/trigger", &Value::Null).0, 400);
    client.set("detector/api/1.8.0/config/trigger_mode", "inte");
    assert_eq!(client.command("arm"), json!({ "sequence id": 2 }));
    assert_eq!(head(&pull)["series"], 2);
    let (status, _) = client.ask("PUT", "detector/api/1.8.0/command/trigger", &json!({ "value": 0.5 }));
    let image = pull.recv_multipart(0).expect("an image");
    let times: Value = serde_json::from_slice(&image[3]).expect("JSON");
    assert_eq!((status, &times["real_time"]), (200, &json!(500_000_000)));
    assert_eq!(client.command("disarm"), json!({ "sequence id": 2 }));
    assert_eq!((head(&pull)["htype"].clone(), client.state()), (json!("dseries_end-1.0"), json!("idle")));
    client.command("initialize");
    assert_eq!(client.command("arm"), json!({ "sequence id": 1 }), "series count anew");
    running.stop();
    assert_eq!(running.wait().messages_dropped, 0);
}

/// Pulses from outside come by themselves; an endless series of them is aborted, and the end follows the last image.
#[test]
fn endless_series_is_aborted() {
    let (_running, client, pull) = commanded(2000.0);
    client.set("detector/api/1.8.0/config/trigger_mode", "exte");
    client.set("detector/api/1.8.0/config/ntrigger", 2_000_000_000_u64);
    assert_eq!(client.command("arm"), json!({ "sequence id": 1 }));
    assert_eq!(head(&pull)["htype"], "dheader-1.0");
    heads(&pull, 0..500, 1);
    assert_eq!(client.state(), "acquire");
    assert_eq!(client.value("stream/api/1.8.0/status/state"), "acquire");
    assert_eq!(client.command("abort"), json!({ "sequence id": 1 }));
    assert_eq!(client.state(), "idle");
    let mut last = 499;
    loop {
        let head = head(&pull);
        if head["htype"] == "dseries_end-1.0" {
            break;
        }
        last += 1;
        assert_eq!(head["frame"], last);
    }
    assert_eq!(client.value("stream/api/1.8.0/status/dropped"), 0);
}

/// Both streams carry the same images; the owner can end a simulator whose receivers never came.
#[test]
fn both_streams_at_once() {
    let running = DectrisSimulator::start(simulation(StreamFormat::Both)).expect("simulator");
    let endpoints = [running.stream1.clone(), running.stream2.clone()].map(|endpoint| endpoint.expect("bound"));
    let pulls = endpoints.map(|endpoint| {
        let pull = zmq::Context::new().socket(zmq::PULL).expect("socket");
        pull.set_rcvtimeo(20_000).expect("timeout");
        pull.connect(&endpoint).expect("connects");
        pull
    });
    let [legacy, cbor] =
        pulls.map(|pull| (0..FRAMES + 2).map(|_| pull.recv_multipart(0).expect("a message")).collect::<Vec<_>>());
    for (parts, message) in legacy[1..=FRAMES as usize].iter().zip(&cbor[1..]) {
        assert!(message[0].ends_with(&parts[2]), "the payload stands last");
    }
    assert_eq!(running.wait().frames_sent, FRAMES);
    let lonely = DectrisSimulator::start(simulation(StreamFormat::Both)).expect("simulator");
    lonely.stop();
    assert_eq!(lonely.wait().acquisitions, 0);
}
