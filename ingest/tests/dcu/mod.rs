//! A detector control unit made up for tests: a REST server that remembers what it was asked and can go wrong, and a stream.
#![allow(unreachable_pub, reason = "a module of a test binary")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

pub const COLUMNS: u32 = 16;
pub const ROWS: u32 = 3;

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// These bytes, and nothing else, are the answer.
    Bytes(Vec<u8>),
    /// Refused, with this text.
    Status(u16, &'static str),
    /// Answered, but another value was taken.
    Take(Value),
    /// Answered when the detector is aborted, or the gate is opened.
    Wait,
}

#[derive(Debug, Default)]
pub struct Desk {
    /// `detector/nimages` and so on.
    pub config: BTreeMap<String, Value>,
    pub state: Option<&'static str>,
    pub dropped: u64,
    /// What is dropped while a series is taken.
    pub drops: u64,
    pub series: u64,
    /// The number that commands answer with; that of the series unless set.
    pub sequence: Option<u64>,
    /// Requests, as `PUT detector/config/nimages 5`.
    pub log: Vec<String>,
    /// By request, as `PUT detector/config/nimages`.
    pub faults: BTreeMap<&'static str, Fault>,
    /// Pulses come at once, all of them.
    pub is_pulsed: bool,
    sent: u64,
    is_open: bool,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    push: Mutex<zmq::Socket>,
}

pub struct Dcu {
    pub port: u16,
    pub endpoint: String,
    shared: Arc<Shared>,
    _context: zmq::Context,
}

impl Dcu {
    pub fn new() -> Self {
        let context = zmq::Context::new();
        let push = context.socket(zmq::PUSH).expect("socket");
        push.set_linger(1000).expect("linger");
        push.set_sndtimeo(500).expect("a time"); // Nobody listens any more when a test ends.
        push.bind("tcp://127.0.0.1:*").expect("bound");
        let endpoint = push.get_last_endpoint().expect("address").expect("text");
        let config = [
            ("detector/trigger_mode", json!("ints")),
            ("detector/ntrigger", json!(1)),
            ("detector/nimages", json!(1)),
            ("detector/count_time", json!(0.001)),
            ("detector/frame_time", json!(0.001)),
            ("detector/compression", json!("lz4")),
            ("detector/roi_mode", json!("disabled")),
            ("detector/threshold/1/energy", json!(5000.0)),
            ("stream/mode", json!("disabled")),
            ("stream/format", json!("cbor")),
            ("stream/header_detail", json!("basic")),
        ];
        let config = config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let desk = Desk { config, state: Some("idle"), is_pulsed: true, ..Desk::default() };
        let shared = Arc::new(Shared { desk: Mutex::new(desk), changed: Condvar::new(), push: Mutex::new(push) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, endpoint, shared, _context: context }
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.shared.desk.lock().expect("no panic")
    }

    /// Answers what waits.
    pub fn open_gate(&self) {
        self.desk().is_open = true;
        self.shared.changed.notify_all();
    }

    pub fn send_series(&self, series: u64, images: u64) {
        self.shared.send_start(series, images);
        (0..images).for_each(|frame| self.shared.send_image(series, frame));
        self.shared.send_end(series);
    }

    /// What was set and commanded, without what was only read.
    pub fn orders(&self) -> Vec<String> {
        let desk = self.desk();
        desk.log.iter().filter_map(|line| line.strip_prefix("PUT ")).map(str::to_owned).collect()
    }

    /// Waits until this was asked.
    pub fn wait_for(&self, line: &str) {
        let limit = std::time::Duration::from_secs(10);
        let waited =
            self.shared.changed.wait_timeout_while(self.desk(), limit, |desk| !desk.log.iter().any(|l| l == line));
        let (desk, waited) = waited.expect("no panic");
        assert!(!waited.timed_out(), "no {line} in {:?}", desk.log);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let Some((method, path, body)) = read_request(&stream) else { return };
        let path = path.trim_end_matches('/').replace("/api/1.8.0/", "/").trim_start_matches('/').to_owned();
        let request = format!("{method} {path}");
        let value = body.get("value").cloned();
        let mut desk = self.desk.lock().expect("no panic");
        desk.log.push(value.as_ref().map_or_else(|| request.clone(), |value| format!("{request} {value}")));
        self.changed.notify_all();
        let fault = desk.faults.get(request.as_str()).cloned();
        if let Some(Fault::Wait) = fault {
            desk = self.changed.wait_while(desk, |desk| !desk.is_open).expect("no panic");
        }
        let (status, text) = match fault {
            Some(Fault::Bytes(bytes)) => return drop(stream.write_all(&bytes)),
            Some(Fault::Status(status, text)) => (status, text.to_owned()),
            Some(Fault::Take(taken)) => self.answer(&mut desk, &request, Some(taken)),
            Some(Fault::Wait) | None => self.answer(&mut desk, &request, value),
        };
        drop(desk);
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        let _ = stream.write_all(format!("{head}{text}").as_bytes()); // The client may have gone.
    }

    fn answer(&self, desk: &mut Desk, request: &str, value: Option<Value>) -> (u16, String) {
        let told = |value: Option<Value>| match value {
            Some(value) => (200, json!({ "value": value }).to_string()),
            None => (404, "unknown key".to_owned()),
        };
        if let Some(command) = request.strip_prefix("PUT detector/command/") {
            let series = self.command(desk, command);
            return (200, json!({ "sequence id": desk.sequence.unwrap_or(series) }).to_string());
        }
        match request {
            "GET detector/api/version" => return told(Some(json!("1.8.0"))),
            "GET detector/status/state" => return told(desk.state.map(Value::from)),
            "GET stream/status/dropped" => return told(Some(desk.dropped.into())),
            _ => {}
        }
        let Some((method, path)) = request.split_once(' ') else { return (400, String::new()) };
        let key = path.replacen("/config/", "/", 1);
        match (method, value) {
            ("GET", _) => told(desk.config.get(&key).cloned()),
            (_, Some(value)) if desk.config.contains_key(&key) => {
                desk.config.insert(key.clone(), value);
                (200, json!([key]).to_string())
            }
            _ => (404, "unknown key".to_owned()),
        }
    }

    fn command(&self, desk: &mut Desk, command: &str) -> u64 {
        let number = |key: &str| desk.config[key].as_u64().expect("a number");
        let (mode, ntrigger) = (desk.config["detector/trigger_mode"].clone(), number("detector/ntrigger"));
        let nimages = if mode == "exte" || mode == "inte" { 1 } else { number("detector/nimages") };
        match command {
            "arm" => {
                desk.series += 1;
                (desk.sent, desk.state) = (0, Some("ready"));
                self.send_start(desk.series, ntrigger * nimages);
                if desk.is_pulsed && (mode == "exte" || mode == "exts") {
                    self.expose(desk, ntrigger * nimages, ntrigger * nimages);
                }
            }
            "trigger" => self.expose(desk, nimages, ntrigger * nimages),
            "initialize" => desk.state = Some("idle"),
            "disarm" | "abort" => {
                (desk.state, desk.is_open) = (Some("idle"), true);
                self.changed.notify_all();
                self.send_end(desk.series);
            }
            other => panic!("{other} is no command"),
        }
        desk.series
    }

    fn expose(&self, desk: &mut Desk, images: u64, all: u64) {
        (desk.sent..desk.sent + images).for_each(|frame| self.send_image(desk.series, frame));
        desk.sent += images;
        if desk.sent == all {
            desk.dropped += desk.drops;
            desk.state = Some("idle");
            self.send_end(desk.series);
        }
    }

    fn send(&self, parts: &[Vec<u8>]) {
        let _ = self.push.lock().expect("no panic").send_multipart(parts, 0);
    }

    fn send_start(&self, series: u64, images: u64) {
        let head = json!({ "htype": "dheader-1.0", "series": series, "header_detail": "basic" });
        let configuration = json!({ "ntrigger": images, "nimages": 1, "trigger_mode": "exte" });
        self.send(&[head.to_string().into(), configuration.to_string().into()]);
    }

    fn send_image(&self, series: u64, frame: u64) {
        let head = json!({ "htype": "dimage-1.0", "series": series, "frame": frame, "hash": "" });
        let form = json!({ "htype": "dimage_d-1.0", "shape": [COLUMNS, ROWS], "type": "uint16", "encoding": "<" });
        let times = json!({ "htype": "dconfig-1.0", "start_time": 1000 * frame });
        self.send(&[head.to_string().into(), form.to_string().into(), pixels(series, frame), times.to_string().into()]);
    }

    fn send_end(&self, series: u64) {
        self.send(&[json!({ "htype": "dseries_end-1.0", "series": series }).to_string().into()]);
    }
}

/// Pixels that tell their series and frame.
pub fn pixels(series: u64, frame: u64) -> Vec<u8> {
    (0..ROWS * COLUMNS).flat_map(|i| ((i as u64 + 100 * series + frame) as u16).to_le_bytes()).collect()
}

/// Method, path and body.
fn read_request(stream: &TcpStream) -> Option<(String, String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => bytes = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, serde_json::from_slice(&body).unwrap_or_default()))
}
