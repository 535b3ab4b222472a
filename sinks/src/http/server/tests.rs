use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::SystemTime;

mod access;

use super::super::openapi;
use super::*;
use crate::http::{ControlError, Recording, Start};
use crate::live::testing::{FakePicture, acquisition, images, same};
use crate::live::{Kind, Precision, Status, Wiring, unframe};

fn site(limits: HttpLimits) -> (Arc<Board>, HttpServer) {
    let board = Board::new(Wiring::default());
    let server = HttpServer::spawn(Arc::clone(&board), None, ([127, 0, 0, 1], 0).into(), &LivePlan::default(), limits)
        .expect("server");
    (board, server)
}

/// Status, headers in lower case, and body of the answer to these bytes.
fn raw(server: &HttpServer, request: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let _ = stream.write_all(request); // The server may answer and close before it has everything.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // A reset after the answer is as good as an end.
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("headers");
    let head = String::from_utf8(answer[..end].to_vec()).expect("ASCII").to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    (status, head, answer[end + 4..].to_vec())
}

fn get(server: &HttpServer, target: &str) -> (u16, String, Vec<u8>) {
    raw(server, format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
}

fn error_of(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).expect("JSON error");
    json["error"].as_str().expect("text").to_owned()
}

/// An image comes in all three forms, under its id and as the latest, exactly as it is on the board.
#[test]
fn images_in_every_form() {
    let (board, server) = site(HttpLimits::default());
    assert_eq!(get(&server, "/api/v1/acq/latest/result/ring").0, 404);
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[6, 5]), FakePicture::new("com", &[6, 5, 2])]));
    board.update(|a| {
        (0..4).for_each(|row| images(a)[0].set_row(row, row as f64 * 1.5));
        images(a)[1].set_row(0, 3.0);
    });
    let wanted = board.look(|all| all[0].pictures.picture(0).row_values(0..6));

    let (status, head, body) = get(&server, "/api/v1/acq/01010101-0101-0101-0101-010101010101/result/ring");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: application/octet-stream") && head.contains("x-content-type-options: nosniff")
    );
    assert!(head.contains("content-security-policy: default-src 'self'") && head.contains("cache-control: no-store"));
    let (header, blob) = unframe(&body).expect("framed");
    assert_eq!((header.kind, header.result.as_deref()), (Kind::Array, Some("ring")));
    assert!(header.time_ns > 0);
    assert!(same(&Precision::Double.decode(blob), &wanted));

    let (status, _, body) = get(&server, "/api/v1/acq/latest/result/ring.npy");
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&body[..128]).contains("'shape': (6, 5)"));
    assert!(same(&Precision::Double.decode(&body[128..]), &wanted));
    let (_, _, body) = get(&server, "/api/v1/acq/latest/result/com.npy?component=magnitude");
    assert!(String::from_utf8_lossy(&body[..128]).contains("'shape': (6, 5)"));
    assert_eq!(Precision::Double.decode(&body[128..136]), [0.0], "all positions are alike");
    let (_, _, body) = get(&server, "/api/v1/acq/latest/result/com.npy?component=x");
    assert_eq!(Precision::Double.decode(&body[128..136]), [3.0]);

    for (target, row_0, row_3) in [
        ("/api/v1/acq/latest/result/ring.png", [0, 0, 0, 255], [255, 255, 255, 255]),
        ("/api/v1/acq/latest/result/ring.png?map=viridis&scale=sqrt", [71, 1, 85, 255], [252, 231, 33, 255]),
    ] {
        let (_, head, body) = get(&server, target);
        assert!(head.contains("content-type: image/png"));
        let mut reader = png::Decoder::new(std::io::Cursor::new(body)).read_info().expect("png");
        let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
        let info = reader.next_frame(&mut pixels).expect("frame");
        assert_eq!((info.width, info.height, info.color_type), (5, 6, png::ColorType::Rgba));
        let pixel = |y: usize, x: usize| &pixels[(y * 5 + x) * 4..][..4];
        assert_eq!(pixel(0, 0), row_0);
        assert_eq!(pixel(3, 2), row_3);
        assert_eq!(pixel(5, 0), [0, 0, 0, 0], "not measured is transparent");
        assert_eq!(pixel(4, 0), [128, 128, 128, 255], "with a hatch");
    }
    assert_eq!(get(&server, "/api/v1/acq/latest/result/com.png?component=angle").0, 200);
}

/// The page comes whole from the binary: everything it names is there, with the type that browsers insist on.
#[test]
fn the_page_is_whole() {
    let (_board, server) = site(HttpLimits::default());
    let (status, head, body) = get(&server, "/");
    assert!(status == 200 && head.contains("content-type: text/html; charset=utf-8"));
    let page = String::from_utf8(body).expect("UTF-8");
    for (name, content_type) in [
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        assert!(page.contains(&format!("\"/{name}\"")), "{name} is named");
        let (status, head, body) = get(&server, &format!("/{name}"));
        assert!(status == 200 && head.contains(&format!("content-type: {content_type}")) && !body.is_empty(), "{name}");
    }
    assert!(!page.contains("style=") && !page.contains("://"), "nothing that its policy forbids");
    assert_eq!(get(&server, "/app.js.map").0, 404);
}

/// The status can be read back by the type that wrote it, and metrics and health answer.
#[test]
fn status_and_metrics() {
    let (board, server) = site(HttpLimits::default());
    let mut begun = acquisition(2, vec![FakePicture::new("<ring>", &[6, 5])]);
    begun.gaps.insert(ronchi_pipeline::GapReason::NeverArrived, 3);
    begun.watermarks[0].raise_visible(12);
    board.begin(begun);
    let status: Status = serde_json::from_slice(&get(&server, "/api/v1/status").2).expect("status");
    let wanted = Status::of(&board, SystemTime::UNIX_EPOCH);
    assert_eq!(status.acquisitions, wanted.acquisitions);
    assert_eq!((status.acquisitions[0].visible, status.v), (12, 1));
    let (status, head, body) = get(&server, "/metrics");
    assert!(status == 200 && head.contains("openmetrics-text"));
    assert!(String::from_utf8_lossy(&body).contains("ronchi_acquisition_visible_frames 12"));
    assert_eq!(get(&server, "/healthz").2, b"ok\n");
    let head_only = raw(&server, b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!((head_only.0, head_only.2.len()), (200, 0));
}

/// Foreign hosts, bodies, wrong methods, strange names and wrong queries are refused in JSON, and nothing breaks.
#[test]
fn hostile_requests_are_refused() {
    let (board, server) = site(HttpLimits::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[6, 5])]));
    let send = |text: &str| raw(&server, text.replace('\n', "\r\n").as_bytes());
    assert_eq!(send("GET / HTTP/1.1\nhost: evil.example\nconnection: close\n\n").0, 403);
    assert_eq!(send("GET / HTTP/1.1\nconnection: close\n\n").0, 400);
    assert_eq!(send("GET / HTTP/1.1\nhost: localhost\nhost: evil.example\nconnection: close\n\n").0, 400);
    let (status, _, body) = send("POST /api/v1/status HTTP/1.1\nhost: localhost\nconnection: close\n\n");
    assert_eq!((status, error_of(&body).as_str()), (405, "this route does not have this method"));
    // A page from elsewhere can send plain text without asking; JSON it cannot.
    let put = |kind: &str| {
        send(&format!(
            "PUT /api/v1/reductions HTTP/1.1\nhost: localhost\ncontent-type: {kind}\ncontent-length: 2\n\
             connection: close\n\n[]"
        ))
    };
    assert_eq!((put("text/plain").0, put("application/json").0), (415, 404));
    assert_eq!(put("application/json\norigin: http://evil.example").0, 403);
    assert_eq!(put("application/json\norigin: http://localhost").0, 404, "our own page gets as far as a program");
    assert_eq!(send("GET / HTTP/1.1\nhost: localhost\ncontent-length: 1073741824\n\n").0, 413);
    assert_eq!(send("GET / HTTP/1.1\nhost: localhost\ntransfer-encoding: chunked\n\n").0, 413);
    assert_eq!(send(&format!("GET / HTTP/1.1\nhost: localhost\nx: {}\n\n", "a".repeat(1 << 20))).0, 431);
    assert_eq!(send(&format!("GET /{} HTTP/1.1\nhost: localhost\n\n", "a".repeat(1 << 20))).0, 431);
    assert_eq!(send("\u{16}\u{3}\u{1} not http\n\n").0, 400);
    for name in
        ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "ring%00.npy", "ring.exe", ".npy", "", "%ff", "ring/x"]
    {
        for id in ["latest", "..", "%2e%2e%2f", "01010101-0101-0101-0101-010101010102"] {
            let (status, _, body) = get(&server, &format!("/api/v1/acq/{id}/result/{name}"));
            assert!(status == 404 || status == 400, "{id}/{name}: {status}");
            assert!(!String::from_utf8_lossy(&body).contains("/src/"));
        }
    }
    let (status, _, body) = get(&server, "/api/v1/acq/latest/result/ring.png?map=rainbow");
    assert_eq!((status, error_of(&body).as_str()), (400, "map must be one of gray, viridis, cyclic"));
    assert_eq!(get(&server, "/api/v1/acq/latest/result/ring.png?component=z").0, 400);
    assert_eq!(get(&server, "/nowhere").0, 404);
    assert_eq!(get(&server, "/healthz").0, 200);
    assert!(board.stream.http_refused.load(Ordering::Relaxed) >= 5);
}

/// A receiver that can only be started.
#[derive(Default)]
struct Fake(std::sync::Mutex<Option<Start>>);

impl Control for Fake {
    fn reductions(&self) -> serde_json::Value {
        serde_json::json!([])
    }

    fn change_reductions(&self, list: &serde_json::Value) -> Result<(), String> {
        list.is_array().then_some(()).ok_or_else(|| "expected an array".to_owned())
    }

    fn recording(&self) -> Recording {
        let name = self.0.lock().expect("not poisoned").as_ref().and_then(|start| start.name.clone());
        Recording {
            recording: name.is_some(),
            can: vec!["start"],
            name: name.unwrap_or_default(),
            scan: None,
            links: Vec::new(),
            why_not: None,
        }
    }

    fn start_recording(&self, wanted: &Start) -> Result<(), ControlError> {
        *self.0.lock().expect("not poisoned") = Some(wanted.clone());
        Ok(())
    }

    fn stop_recording(&self) -> Result<(), ControlError> {
        Err(ControlError::NotNow("nothing is recorded".to_owned()))
    }
}

/// Bodies are JSON of a bounded depth with known fields; what fits is done, and what does not says why.
#[test]
fn bodies_are_checked() {
    let (board, control) = (Board::new(Wiring::default()), Arc::new(Fake::default()));
    let server = HttpServer::spawn(
        board,
        Some(control),
        ([127, 0, 0, 1], 0).into(),
        &LivePlan::default(),
        HttpLimits::default(),
    );
    let server = server.expect("server");
    let post = |body: &str| {
        let length = body.len();
        let head = format!(
            "POST /api/v1/recording HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json; charset=utf-8\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let (status, _, body) = raw(&server, head.as_bytes());
        (status, serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"))
    };
    let (status, state) = post(r#"{"action": "start", "name": "gold", "scan": [4, 5]}"#);
    assert_eq!((status, &state["name"], &state["recording"]), (200, &"gold".into(), &true.into()));
    assert_eq!(post(r#"{"action": "stop"}"#).0, 409);
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 422),
        (r#"{"action": "pause"}"#, 422),
        (r#"{"action": "stop", "now": true}"#, 422),
        (r#"{"action": "start", "scan": [4]}"#, 422),
        (r#"{"action": "start", "scan": [-4, 4]}"#, 422),
        (r#"{"action": "start", "scan": [4, 1e99]}"#, 422),
    ] {
        assert_eq!(post(body).0, status, "{body}");
    }
    let bomb = "[".repeat(60_000);
    assert_eq!(post(&bomb), (400, serde_json::json!({"status": 400, "error": "JSON nested deeper than 32"})));
    assert_eq!(get(&server, "/api/v1/datasets").2, b"[]");
}

/// A client that sends its headers too slowly, or none, is disconnected.
#[test]
fn slow_headers_are_cut() {
    let limits = HttpLimits { header_timeout: Duration::from_millis(50), ..HttpLimits::default() };
    let (_board, server) = site(limits);
    for start in ["", "GET / HTTP/1.1\r\nhost: loc"] {
        let mut stream = TcpStream::connect(server.address()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream.write_all(start.as_bytes()).expect("write");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closed by the server, not by our timeout");
    }
}

/// Connections beyond the limit are turned away with 503, and places come back.
#[test]
fn connections_are_limited() {
    let (_board, server) = site(HttpLimits { connections: 2, ..HttpLimits::default() });
    let holders: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("connect");
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("write");
            stream.read_exact(&mut [0; 12]).expect("an answer: the place is taken");
            stream
        })
        .collect();
    let mut third = TcpStream::connect(server.address()).expect("connect");
    third.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut answer = String::new();
    third.read_to_string(&mut answer).expect("closed");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    drop(holders);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while get(&server, "/healthz").0 != 200 {
        assert!(std::time::Instant::now() < deadline, "places come back");
        std::thread::yield_now();
    }
}

/// Clients that ask for large images and do not read them cannot make the server hold more than its budget.
#[test]
fn slow_readers_are_bounded() {
    let (board, server) = site(HttpLimits { image_bytes: 40 << 20, ..HttpLimits::default() });
    board.begin(acquisition(1, vec![FakePicture::new("big", &[1024, 1024])])); // 8 MiB, 16 of budget
    let request = b"GET /api/v1/acq/latest/result/big HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let statuses: Vec<(String, TcpStream)> = (0..5)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("connect");
            stream.write_all(request).expect("write");
            let mut status = [0; 12];
            stream.read_exact(&mut status).expect("status line");
            (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
        })
        .collect();
    let codes: Vec<&str> = statuses.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["200", "200", "503", "503", "503"]);
    drop(statuses);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while get(&server, "/api/v1/acq/latest/result/big").0 != 200 {
        assert!(std::time::Instant::now() < deadline, "room comes back");
        std::thread::yield_now();
    }
}

/// The OpenAPI document has every path of the router, with the methods that it answers to, and no others.
#[test]
fn the_document_has_every_route() {
    let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut served: Vec<&str> = routes::routes().into_iter().map(|(path, _)| path).collect();
    served.sort_unstable();
    let mut described: Vec<&str> = paths.keys().map(String::as_str).collect();
    described.sort_unstable();
    assert_eq!(described, served);
    let (_board, server) = site(HttpLimits::default());
    for (path, methods) in paths {
        let target = path.replace("{file}", "app.js").replace(['{', '}'], "");
        for method in ["get", "put", "post", "patch", "delete"] {
            let request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let (status, ..) = raw(&server, request.replacen(method, &method.to_uppercase(), 1).as_bytes());
            assert_eq!(status != 405, methods.get(method).is_some(), "{method} {path}: {status}");
        }
    }
    let (status, head, body) = get(&server, openapi::PATH);
    assert!(status == 200 && head.contains("content-type: application/json"));
    assert_eq!(body, openapi::DOCUMENT.as_bytes());
}

/// Only this machine is served.
#[test]
fn other_machines_are_refused() {
    for address in ["0.0.0.0:0", "[::]:0", "192.168.1.1:80"] {
        let board = Board::new(Wiring::default());
        let address: SocketAddr = address.parse().expect("address");
        let error =
            HttpServer::spawn(board, None, address, &LivePlan::default(), HttpLimits::default()).expect_err("refused");
        assert!(matches!(error, HttpError::NotLoopback { .. }), "{error}");
    }
}
