//! Detectors that are driven: settings, arming, triggers and ends over REST and the stream, and what can go wrong.

mod dcu;
mod tiles_driver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dcu::{Dcu, Fault, pixels};
use ronchi_config::{DectrisStream, parse_control};
use ronchi_ingest::dectris::simplon::{Command, Failure, Module, Simplon, State, Task};
use ronchi_ingest::dectris::{DectrisSettings, DectrisSource, DriveSettings, DrivenSource};
use ronchi_ingest::{Begin, SourceError};
use ronchi_pipeline::{EndReason, LinkCounters};
use serde_json::json;
use tiles_driver::{Driver, Outcome};

const BLOCK_BYTES: u64 = 1 << 12;

struct Drive {
    dcu: Dcu,
    driver: Driver,
    counters: Arc<LinkCounters>,
}

/// A receiver of a detector that is set to these `KEY=VALUE` pairs, for a scan of so many frames.
fn drive(dcu: Dcu, pairs: &[&str], frame_count: Option<u64>) -> Drive {
    let port = format!("port={}", dcu.port);
    let control = parse_control(&[pairs, &[&port]].concat()).expect("good pairs");
    let counts = (control.ntrigger, control.nimages);
    let stream = DectrisStream::Legacy;
    let drive = DriveSettings { host: "127.0.0.1".into(), control, stream, counts, frame_count };
    let settings = DectrisSettings {
        stream,
        endpoint: dcu.endpoint.clone(),
        sockets: 1,
        detector: None,
        message_bytes: 1 << 20,
        frame_bytes: BLOCK_BYTES,
        is_decoding: true,
    };
    let counters: Arc<LinkCounters> = Arc::default();
    let mut source = DectrisSource::new(settings);
    source.open().expect("connects");
    let mut driver = Driver::with(DrivenSource::new(source, drive, Arc::clone(&counters)), BLOCK_BYTES);
    driver.checks_records = false;
    Drive { dcu, driver, counters }
}

impl Drive {
    /// The next series.
    fn series(&mut self) -> Outcome {
        self.driver.series().expect("a series")
    }

    /// What beginning comes to within five seconds.
    fn begin(&mut self) -> Result<Begin, SourceError> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            match self.driver.source.begin(Instant::now() + Duration::from_millis(20)) {
                Ok(Begin::Waiting) if Instant::now() < until => {}
                result => return result,
            }
        }
    }

    fn refusal(&mut self) -> String {
        let error = self.begin().expect_err("a refusal");
        assert!(error.is_refusal(), "{error}");
        assert!(!self.dcu.orders().contains(&"detector/command/arm".to_owned()), "armed all the same");
        error.to_string()
    }

    /// Lets go of the detector as the end of a receiver does.
    fn finish(self) -> Dcu {
        drop(self.driver);
        self.dcu
    }
}

fn check(outcome: &Outcome, series: u64, frames: u64) {
    assert_eq!((outcome.reason, outcome.received_count), (EndReason::Complete, frames));
    for (&frame, bytes) in &outcome.frames {
        assert_eq!(*bytes, pixels(series, frame), "frame {frame}");
    }
}

/// A whole scan after one command: what is set, in which order, and that nothing stays armed.
#[test]
fn a_scan_by_command() {
    let dcu = Dcu::new();
    dcu.desk().dropped = 5;
    dcu.desk().drops = 2;
    let pairs =
        ["trigger=ints", "ntrigger=1", "nimages=12", "count_time_s=1e-4", "frame_time_s=0.0002", "compression=bslz4"];
    let more = ["roi=lines", "header_detail=all", "detector.threshold/1/energy=9000.0"];
    let mut drive = drive(dcu, &[&pairs[..], &more].concat(), Some(12));
    check(&drive.series(), 1, 12);
    assert_eq!(LinkCounters::read(&drive.counters.dropped_frames), 2, "only those of this series");
    let expected = [
        "detector/config/roi_mode \"lines\"",
        "detector/config/threshold/1/energy 9000.0",
        "detector/config/count_time 0.0001",
        "detector/config/frame_time 0.0002",
        "detector/config/compression \"bslz4\"",
        "detector/config/trigger_mode \"ints\"",
        "detector/config/ntrigger 1",
        "detector/config/nimages 12",
        "stream/config/format \"legacy\"",
        "stream/config/header_detail \"all\"",
        "stream/config/mode \"enabled\"",
        "detector/command/arm",
        "detector/command/trigger",
        "detector/command/disarm",
    ];
    assert_eq!(drive.finish().orders(), expected);
}

/// Rows by pulses: no commands while frames come; the next series is armed only after the last was disarmed.
#[test]
fn series_after_series_by_pulses() {
    let mut drive = drive(Dcu::new(), &["trigger=exts", "ntrigger=3", "nimages=4"], Some(12));
    for series in 1..=3 {
        check(&drive.series(), series, 12);
    }
    let orders = drive.finish().orders();
    let commands: Vec<_> = orders.iter().filter_map(|order| order.strip_prefix("detector/command/")).collect();
    assert_eq!(commands, ["arm", "disarm", "arm", "disarm", "arm", "disarm"]);
}

/// Every image by its own command, and rows by commands.
#[test]
fn many_commands() {
    for (pairs, count) in [(&["trigger=inte", "ntrigger=5"][..], 5), (&["trigger=ints", "ntrigger=3", "nimages=4"], 3)]
    {
        let images = if count == 5 { 5 } else { 12 };
        let mut drive = drive(Dcu::new(), pairs, Some(images));
        check(&drive.series(), 1, images);
        let orders = drive.finish().orders();
        assert_eq!(orders.iter().filter(|order| order.ends_with("trigger")).count(), count);
    }
}

/// What is not given stays as the detector has it; what the detector changes, or does not tell, stops nobody.
#[test]
fn a_detector_of_few_words() {
    let dcu = Dcu::new();
    {
        let mut desk = dcu.desk();
        (desk.state, desk.sequence) = (None, Some(77));
        desk.config.retain(|key, _| key != "stream/format" && key != "detector/frame_time");
        desk.config.insert("detector/nimages".into(), json!(6));
        desk.faults.insert("GET stream/status/dropped", Fault::Status(404, "unknown"));
        desk.faults.insert("GET detector/api/version", Fault::Status(404, "unknown"));
        desk.faults.insert("PUT detector/config/count_time", Fault::Take(json!(0.0011)));
    }
    let mut drive = drive(dcu, &["count_time_s=0.001"], Some(6));
    check(&drive.series(), 1, 6);
    let dcu = drive.finish();
    assert_eq!(dcu.desk().config["detector/count_time"], json!(0.0011));
    assert!(!dcu.orders().iter().any(|order| order.starts_with("detector/config/n")), "{:?}", dcu.orders());
}

/// A detector set for another number of images than the scan has is not armed, and both numbers are told.
#[test]
fn disagreement() {
    let mut drive = drive(Dcu::new(), &["trigger=exts", "ntrigger=3"], Some(12));
    let message = drive.refusal();
    assert!(message.contains("ntrigger = 3 times nimages = 1 are 3 images, the scan has 12 frames"), "{message}");
}

/// What a detector refuses is told with the address, what was sent and what came back.
#[test]
fn refusals() {
    let cases = [
        (
            "PUT detector/config/ntrigger",
            Fault::Status(400, "value out of range"),
            "{\"value\":3}: answered 400: value out of range",
        ),
        ("PUT stream/config/mode", Fault::Status(404, "no such key"), "answered 404: no such key"),
        ("PUT stream/config/mode", Fault::Status(500, "broken"), "{\"value\":\"enabled\"}: answered 500: broken"),
        (
            "GET detector/api/version",
            Fault::Bytes(b"HTTP/1.1 200 x\r\nContent-Length: 3\r\n\r\n{{{".into()),
            "answered {{{, expected",
        ),
        ("GET detector/api/version", Fault::Bytes(version("../..").into()), "answered \"../..\", expected a version"),
        ("GET detector/api/version", Fault::Bytes(long()), "answered more than 1048576 bytes"),
    ];
    for (request, fault, expected) in cases {
        let dcu = Dcu::new();
        dcu.desk().faults.insert(request, fault);
        let mut drive = drive(dcu, &["trigger=exts", "ntrigger=3"], None);
        let message = drive.refusal();
        let method = request.split(' ').next().expect("a word");
        assert!(message.starts_with(&format!("{method} http://127.0.0.1:{}/", drive.dcu.port)), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

fn version(text: &str) -> String {
    let body = json!({ "value": text }).to_string();
    format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An answer that would never end.
fn long() -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 x\r\nContent-Length: 99999999999\r\n\r\n".to_vec();
    bytes.resize(3 << 20, b' ');
    bytes
}

/// What is no HTTP, or nobody, is no refusal: it is tried again.
#[test]
fn nobody_there() {
    let dcu = Dcu::new();
    dcu.desk().faults.insert("GET detector/api/version", Fault::Bytes(b"MPX,0000000005,GARBAGE".into()));
    let error = Simplon::discover("127.0.0.1", dcu.port).expect_err("no HTTP");
    assert!(matches!(error.failure, Failure::Unreachable { .. }) && !error.is_refusal(), "{error}");
    dcu.desk().faults.clear();
    let mut drive = drive(dcu, &["trigger=exts"], None);
    drive.dcu.desk().faults.insert("GET detector/api/version", Fault::Bytes(Vec::new()));
    let error = drive.begin().expect_err("nobody");
    assert!(!error.is_refusal(), "{error}");
    drive.dcu.desk().faults.clear();
    check(&drive.series(), 1, 1);
}

/// The state decides: what was switched on is initialised, what was left armed is disarmed, what is busy is left alone.
#[test]
fn states() {
    for (state, first) in [("na", "initialize"), ("ready", "disarm"), ("idle", "arm"), ("test", "arm")] {
        let dcu = Dcu::new();
        dcu.desk().state = Some(state);
        let mut drive = drive(dcu, &[], None);
        check(&drive.series(), 1, 1);
        let orders = drive.finish().orders();
        let command = orders.iter().find_map(|order| order.strip_prefix("detector/command/"));
        assert_eq!(command, Some(first), "{state}");
    }
    for (state, why) in [("acquire", "it is taking images"), ("error", "its state is `error`")] {
        let dcu = Dcu::new();
        dcu.desk().state = Some(state);
        assert!(drive(dcu, &[], None).refusal().contains(why), "{state}");
    }
}

/// Stopped or dropped while the detector waits for a pulse: it is aborted.
#[test]
fn nothing_stays_armed() {
    for is_stopped in [true, false] {
        let dcu = Dcu::new();
        dcu.desk().is_pulsed = false;
        let mut drive = drive(dcu, &["trigger=exts"], None);
        let begun = drive.driver.source.begin(Instant::now() + Duration::from_millis(10));
        assert!(matches!(begun, Ok(Begin::Waiting)), "{begun:?}");
        drive.dcu.wait_for("PUT detector/command/arm");
        if is_stopped {
            drive.driver.source.stop().expect("aborted");
        }
        let dcu = drive.finish();
        assert!(dcu.orders().iter().any(|order| order == "detector/command/abort"), "{:?}", dcu.orders());
        assert_eq!(dcu.desk().state, Some("idle"));
    }
}

/// A command that takes as long as its exposures does not stand in the way of stopping.
#[test]
fn a_long_trigger_is_aborted() {
    let dcu = Dcu::new();
    dcu.desk().faults.insert("PUT detector/command/trigger", Fault::Wait);
    let mut drive = drive(dcu, &["trigger=ints"], None);
    let begun = drive.driver.source.begin(Instant::now() + Duration::from_millis(10));
    assert!(matches!(begun, Ok(Begin::Waiting)), "{begun:?}");
    drive.dcu.wait_for("PUT detector/command/trigger");
    drive.driver.source.stop().expect("aborted");
    assert!(drive.finish().orders().iter().any(|order| order == "detector/command/abort"));
}

/// Given up while it is being set: the detector is never armed.
#[test]
fn given_up_before_arming() {
    let dcu = Dcu::new();
    dcu.desk().faults.insert("GET detector/status/state", Fault::Wait);
    let mut drive = drive(dcu, &[], None);
    let begun = drive.driver.source.begin(Instant::now() + Duration::from_millis(300));
    assert!(matches!(begun, Ok(Begin::Waiting)), "{begun:?}");
    drive.driver.source.stop().expect("nothing to stop");
    drive.dcu.open_gate();
    drive.dcu.wait_for("GET detector/config/nimages"); // The last thing before arming.
    let dcu = drive.finish();
    let orders = dcu.orders();
    assert!(!orders.iter().any(|order| order.starts_with("detector/command")), "{orders:?}");
}

/// A series that comes before the detector was armed is the rest of somebody's, and is not taken for the one asked for.
#[test]
fn earlier_series_are_left_alone() {
    let dcu = Dcu::new();
    dcu.desk().faults.insert("GET detector/status/state", Fault::Wait);
    let mut drive = drive(dcu, &["trigger=exts", "ntrigger=4"], None);
    drive.dcu.send_series(99, 3);
    for _ in 0..10 {
        let begun = drive.driver.source.begin(Instant::now() + Duration::from_millis(50));
        assert!(matches!(begun, Ok(Begin::Waiting)), "{begun:?}");
    }
    drive.dcu.open_gate();
    check(&drive.series(), 1, 4);
}

/// A trigger that is refused ends the series that waits for it.
#[test]
fn refused_triggers() {
    let dcu = Dcu::new();
    dcu.desk().faults.insert("PUT detector/command/trigger", Fault::Status(400, "not now"));
    let mut drive = drive(dcu, &["trigger=ints"], None);
    let error = drive.begin().expect_err("a refusal");
    assert!(error.is_refusal() && error.to_string().contains("command/trigger: answered 400: not now"), "{error}");
    assert!(drive.finish().orders().iter().any(|order| order == "detector/command/abort"));
}

/// The client by itself: values, states, and a command that is not answered in its time.
#[test]
fn requests() {
    let dcu = Dcu::new();
    let simplon = Simplon::discover("127.0.0.1", dcu.port).expect("it answers");
    assert_eq!(simplon.state().expect("a state"), State::Idle);
    assert_eq!(simplon.value(Module::Stream, Task::Status, "dropped").expect("a number"), json!(0));
    let changed = simplon.set(Module::Detector, "nimages", &json!(5)).expect("set");
    assert_eq!(changed, ["detector/nimages"]);
    assert_eq!(simplon.value(Module::Detector, Task::Config, "nimages").expect("a number"), json!(5));
    let error = simplon.value(Module::Detector, Task::Config, "nonsense").expect_err("unknown");
    assert!(matches!(error.failure, Failure::Refused { status: 404, .. }), "{error}");
    dcu.desk().faults.insert("PUT detector/command/trigger", Fault::Wait);
    let error = simplon.command(Command::Trigger(Duration::from_millis(200))).expect_err("no answer");
    assert!(error.is_silence() && error.to_string().ends_with("not answered within 0.2 s"), "{error}");
}
