//! Recording started and stopped over HTTP, between a simulated detector and data sets on disk.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ronchi::receiver::{Options, Receiver};
use ronchi::simulate::merlin::{MerlinSimulation, MerlinSimulator, Running};
use ronchi_config::{LivePlan, Plan};
use ronchi_sinks::storage::{Depth, verify};
use serde_json::{Value, json};

use crate::system::{merlin, plan, simulation};

/// Between two looks: fewer requests than are allowed.
const POLL: Duration = Duration::from_millis(10);

/// Status and body of the answer.
fn ask(address: SocketAddr, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    (status, serde_json::from_str(body).expect("JSON"))
}

fn get(address: SocketAddr, target: &str) -> Value {
    let (status, body) = ask(address, "GET", target, &Value::Null);
    assert_eq!(status, 200, "{target}: {body}");
    body
}

fn post(address: SocketAddr, body: Value) -> (u16, Value) {
    ask(address, "POST", "/api/v1/recording", &body)
}

fn start(plan: Plan) -> (Receiver, SocketAddr) {
    let live = LivePlan { http: Some(([127, 0, 0, 1], 0).into()), ..LivePlan::default() };
    let options = Options { series_max: None, exact_name: false, stop: Arc::new(AtomicBool::new(false)) };
    let receiver = Receiver::start(Plan { live, ..plan }, options).expect("receiver starts");
    let address = receiver.http_address().expect("http");
    (receiver, address)
}

/// 192 frames in two seconds, again and again.
fn detector(runs: u64) -> Running {
    let plan = MerlinSimulation { rate_hz: 100.0, pause: Duration::from_millis(500), ..simulation(&[]) };
    MerlinSimulator::start(MerlinSimulation { runs, ..plan }).expect("simulator")
}

fn is_sound(path: &Path) -> bool {
    verify(path, Depth::Full, &mut |_, _| {}).expect("verification").flaws.is_empty()
}

/// The data sets `gold`, whole, and `scan`, which lacks frames, as the API tells of them; and names that are none.
fn check_data_sets(address: SocketAddr, missing: u64) {
    let list = get(address, "/api/v1/datasets");
    let created: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|it| it["created"].as_str()).collect();
    assert!(created.len() >= 2 && created.is_sorted_by(|newer, older| newer >= older), "{created:?}");
    assert_eq!(get(address, "/api/v1/datasets?limit=1").as_array().map(Vec::len), Some(1));
    let gold = get(address, "/api/v1/datasets/gold");
    assert_eq!((&gold["state"], &gold["frames"], &gold["gaps"]), (&json!("complete"), &json!(192), &json!(0)));
    assert_eq!(
        (&gold["scan"], &gold["open"], &gold["bytes"]),
        (&json!([8, 24]), &json!(false), &json!(192 * 48 * 48 * 2))
    );
    assert_eq!(get(address, "/api/v1/datasets/scan")["gaps"], json!(missing));
    for name in ["..", "%2e%2e", "..%2f..%2fetc", "none", "gold.ronchi", "%00"] {
        assert_eq!(ask(address, "GET", &format!("/api/v1/datasets/{name}"), &Value::Null).0, 404, "{name}");
    }
    for limit in ["0", "1001", "x", "-1"] {
        let target = format!("/api/v1/datasets?limit={limit}");
        assert_eq!(ask(address, "GET", &target, &Value::Null).0, 400, "{limit}");
    }
}

/// A series that is stopped is a whole data set with its rest as a gap; what follows is shown and not written, until it is
/// started again under another name and with another scan.
#[test]
fn recording_is_stopped_and_started_again() {
    let folder = tempfile::tempdir().expect("folder");
    let simulator = detector(12);
    let (receiver, address) = start(plan(folder.path(), vec![merlin(simulator.data_address)]));
    let state = get(address, "/api/v1/recording");
    assert_eq!((&state["recording"], &state["name"], &state["why_not"]), (&json!(true), &json!("scan"), &Value::Null));
    while get(address, "/api/v1/status")["acquisitions"][0]["visible"].as_u64().unwrap_or(0) < 5 {
        std::thread::sleep(POLL);
    }
    let state = get(address, "/api/v1/recording");
    let scan = &get(address, "/api/v1/status")["acquisitions"][0]["scan"];
    assert_eq!((&state["can"], &state["scan"]), (&json!(["stop"]), scan));
    let (status, answer) = post(address, json!({"action": "start", "name": "other"}));
    assert_eq!((status, &answer["error"]), (409, &json!("scan is being recorded: stop it first")));
    let (status, state) = post(address, json!({"action": "stop"}));
    assert_eq!((status, &state["recording"], &state["can"]), (200, &json!(false), &json!(["start"])));
    assert_eq!(post(address, json!({"action": "stop"})).0, 409);

    let newest = || get(address, "/api/v1/status")["acquisitions"][0]["name"].as_str().unwrap_or("").to_owned();
    while !newest().starts_with("preview") {
        std::thread::sleep(POLL);
    }

    for (body, status) in [
        (json!({"action": "start", "name": "../up"}), 422),
        (json!({"action": "start", "scan": [0, 4]}), 422),
        (json!({"action": "start", "link": "another"}), 422),
        (json!({"action": "start", "frames": 4}), 422),
    ] {
        assert_eq!(post(address, body.clone()).0, status, "{body}");
    }
    let link = &state["links"][0];
    let wanted = json!({"action": "start", "name": "gold", "scan": [8, 24], "link": link});
    let (status, state) = post(address, wanted);
    assert_eq!((status, &state["name"], &state["scan"]), (200, &json!("gold"), &json!([8, 24])));

    let mut summaries = receiver.summaries();
    let stopped = summaries.next().expect("a summary");
    assert_eq!((stopped.name.as_str(), stopped.state), ("scan", "interrupted"), "{:?}", stopped.errors);
    let frames = &stopped.frames;
    assert!(frames.durable >= 5 && frames.durable + frames.missing == 192, "{frames:?}");
    let preview = summaries.next().expect("a summary");
    assert_eq!((preview.name.as_str(), preview.dataset.is_some()), ("preview", false));
    let recorded = summaries.find(|summary| summary.dataset.is_some()).expect("one is recorded");
    assert_eq!((recorded.name.as_str(), recorded.state), ("gold", "complete"), "{:?}", recorded.errors);
    assert_eq!(recorded.frames.durable, 192);
    drop(summaries);

    check_data_sets(address, frames.missing);
    receiver.stop();
    receiver.join().expect("receiver ends well");
    simulator.stop();
    let made: Vec<_> =
        std::fs::read_dir(folder.path()).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    assert!(made.iter().all(|path| is_sound(path)), "{made:?}");
    assert!(!made.iter().any(|path| path.ends_with("preview.ronchi")));
}

/// A receiver that only shows says so, and lists nothing.
#[test]
fn a_preview_cannot_record() {
    let folder = tempfile::tempdir().expect("folder");
    let simulator = detector(1);
    let mut plan = plan(folder.path(), vec![merlin(simulator.data_address)]);
    plan.data.record = false;
    let (receiver, address) = start(plan);
    let state = get(address, "/api/v1/recording");
    let why_not = "data.record is false: this receiver only shows";
    assert_eq!((&state["can"], &state["why_not"]), (&json!([]), &json!(why_not)));
    assert_eq!(post(address, json!({"action": "start"})), (409, json!({"status": 409, "error": why_not})));
    assert_eq!(post(address, json!({"action": "stop"})).0, 409);
    assert_eq!(get(address, "/api/v1/datasets"), json!([]));
    receiver.stop();
    receiver.join().expect("receiver ends well");
    simulator.stop();
}
