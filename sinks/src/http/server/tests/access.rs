//! Who is let in, as what, and who has the control.

use ronchi_config::AuthPlan;
use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message as Packet, WebSocket, client};

use super::*;
use crate::http::{Role, new_token};

struct House {
    _folder: tempfile::TempDir,
    board: Arc<Board>,
    server: HttpServer,
    screen: String,
    alice: String,
    bob: String,
}

fn house() -> House {
    let folder = tempfile::tempdir().expect("folder");
    let tokens = folder.path().join("tokens");
    let token = |role, label| new_token(&tokens, role, label).expect("a token");
    let (screen, alice) = (token(Role::Read, "screen"), token(Role::Control, "alice"));
    let bob = token(Role::Control, "bob");
    let plan = LivePlan { auth: Some(AuthPlan { tokens, metrics_public: false }), ..LivePlan::default() };
    let (board, control) = (Board::new(Wiring::default()), Arc::new(Fake::default()));
    let address = ([127, 0, 0, 1], 0).into();
    let server = HttpServer::spawn(Arc::clone(&board), Some(control), address, &plan, HttpLimits::default());
    House { _folder: folder, board, server: server.expect("server"), screen, alice, bob }
}

impl House {
    /// Status and JSON of the answer; null where it is none.
    fn ask(&self, method: &str, target: &str, token: &str, body: &str) -> (u16, Value) {
        let token = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{token}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, body) = raw(&self.server, request.as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn me(&self, token: &str) -> Value {
        self.ask("GET", "/api/v1/me", token, "").1
    }

    /// A WebSocket, or the status of the refusal.
    fn look(&self, query: &str) -> Result<WebSocket<TcpStream>, u16> {
        let stream = TcpStream::connect(self.server.address()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        match client(format!("ws://{}/api/v1/live{query}", self.server.address()), stream) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// What every role may do, and what nobody may without a token.
#[test]
fn roles() {
    let house = house();
    let (stop, take) = (r#"{"action": "stop"}"#, r#"{"action": "take"}"#);
    for (method, target, body, nobody, reader, controller) in [
        ("GET", "/", "", 200, 200, 200),
        ("GET", "/healthz", "", 200, 200, 200),
        ("GET", "/api/v1/openapi.json", "", 200, 200, 200),
        ("GET", "/metrics", "", 401, 200, 200),
        ("GET", "/api/v1/status", "", 401, 200, 200),
        ("GET", "/api/v1/nowhere", "", 401, 404, 404),
        ("PUT", "/api/v1/reductions", "[]", 401, 403, 200),
        ("POST", "/api/v1/recording", stop, 401, 403, 409),
        ("POST", "/api/v1/control", take, 401, 403, 200),
        ("POST", "/api/v1/ticket", "", 401, 200, 200),
    ] {
        for (token, status) in [("", nobody), (&house.screen, reader), (&house.alice, controller)] {
            assert_eq!(house.ask(method, target, token, body).0, status, "{method} {target}");
        }
    }
    assert_eq!(house.me(""), json!({"role": null, "auth": true, "controller": false}));
    assert_eq!(house.me(&house.screen), json!({"role": "read", "auth": true, "controller": false}));
    assert_eq!(house.me(&house.alice), json!({"role": "control", "auth": true, "controller": true}));
    let (_, without) = site(HttpLimits::default());
    let me: Value = serde_json::from_slice(&get(&without, "/api/v1/me").2).expect("JSON");
    assert_eq!(me, json!({"role": "control", "auth": false, "controller": true}));
}

/// Wrong tokens are refused alike, in whatever form, and whoever tries many is told to wait; others are not.
#[test]
fn wrong_tokens() {
    let house = house();
    let basic = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: ";
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", &house.screen, &format!("Bearer {}x", house.screen)] {
        let (status, head, body) = raw(&house.server, format!("{basic}{value}\r\n\r\n").as_bytes());
        assert_eq!(status, 401, "{value}");
        assert!(head.contains("www-authenticate: bearer"));
        assert!(!String::from_utf8_lossy(&body).contains(&house.screen));
    }
    let statuses: Vec<u16> = (0..40).map(|_| house.ask("GET", "/api/v1/status", "0000", "").0).collect();
    assert!(statuses.contains(&429) && statuses.iter().all(|&status| status == 401 || status == 429), "{statuses:?}");
    assert_eq!(house.ask("GET", "/api/v1/status", &house.screen, "").0, 200);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert!(count(&house.board.stream.http_strangers) >= 6 && count(&house.board.stream.http_refused) >= 46);
}

/// One holder of the role has the control, by use; others hear whose it is, until it is given back.
#[test]
fn one_controller_at_a_time() {
    let house = house();
    let start = r#"{"action": "start"}"#;
    assert_eq!(house.ask("POST", "/api/v1/recording", &house.alice, start).0, 200);
    let (status, refused) = house.ask("POST", "/api/v1/recording", &house.bob, start);
    assert_eq!((status, &refused["error"]), (409, &"alice has the control, until 30 s after the last change".into()));
    for body in [r#"{"action": "take"}"#, r#"{"action": "release"}"#] {
        assert_eq!(house.ask("POST", "/api/v1/control", &house.bob, body).0, 409, "{body}");
    }
    assert_eq!(house.me(&house.bob)["controller"], json!(false));
    let (status, me) = house.ask("POST", "/api/v1/control", &house.alice, r#"{"action": "release"}"#);
    assert_eq!((status, me), (200, json!({"role": "control", "auth": true, "controller": false})));
    assert_eq!(house.ask("POST", "/api/v1/control", &house.bob, r#"{"action": "take"}"#).0, 200);
    assert_eq!(house.ask("PUT", "/api/v1/reductions", &house.alice, "[]").0, 409);
}

/// A WebSocket is opened with a ticket, once, or with a token as its first message; nothing else shows anything.
#[test]
fn websockets() {
    let house = house();
    let sub = r#"{"op": "sub", "topics": ["v1/"], "max_hz": 60}"#;
    let sees = |socket: &mut WebSocket<TcpStream>| {
        socket.send(Packet::text(sub)).expect("sent");
        matches!(socket.read(), Ok(Packet::Binary(_)))
    };
    let ticket = house.ask("POST", "/api/v1/ticket", &house.screen, "").1["ticket"].as_str().expect("one").to_owned();
    let query = format!("?ticket={ticket}");
    assert!(sees(&mut house.look(&query).expect("let in")));
    assert_eq!(house.look(&query).err(), Some(401), "it was used");
    assert_eq!(house.look("?ticket=").err(), Some(401));
    assert_eq!(house.look("?token=x").err(), Some(400));

    let mut socket = house.look("").expect("may introduce itself");
    socket.send(Packet::text(json!({"op": "auth", "token": house.screen}).to_string())).expect("sent");
    assert!(sees(&mut socket));
    for first in [sub, r#"{"op": "auth", "token": "0"}"#, r#"{"op": "auth"}"#, ""] {
        let mut socket = house.look("").expect("may introduce itself");
        if !first.is_empty() {
            socket.send(Packet::text(first)).expect("sent");
        }
        let Ok(Packet::Close(Some(close))) = socket.read() else { panic!("not closed: {first}") };
        assert_eq!(close.code, CloseCode::Policy);
    }
    assert!(house.board.stream.web_refused.load(Ordering::Relaxed) == 4);
}
