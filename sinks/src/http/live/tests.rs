use std::net::TcpStream;

use ronchi_config::LivePlan;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message as Packet, WebSocket, client};

use super::*;
use crate::http::{HttpLimits, HttpServer};
use crate::live::testing::{Canvas, FakePicture, acquisition, images, same};
use crate::live::{Board, Header, Kind, State, Wiring, unframe};

type Socket = WebSocket<TcpStream>;

fn site(limits: HttpLimits) -> (Arc<Board>, HttpServer) {
    let board = Board::new(Wiring::default());
    let server = HttpServer::spawn(Arc::clone(&board), None, ([127, 0, 0, 1], 0).into(), &LivePlan::default(), limits)
        .expect("server");
    (board, server)
}

fn connect_as(server: &HttpServer, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let address = server.address();
    let mut request = format!("ws://{address}/api/v1/live").into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    match client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn connect(server: &HttpServer) -> Socket {
    connect_as(server, &[]).expect("let in")
}

fn ask(socket: &mut Socket, text: &str) {
    socket.send(Packet::text(text)).expect("sent");
}

/// The next message with its values; `None` when the server has said goodbye.
fn next(socket: &mut Socket) -> Option<(Header, Vec<f64>)> {
    loop {
        match socket.read() {
            Ok(Packet::Binary(bytes)) => {
                let (header, blob) = unframe(&bytes).expect("framed");
                let values = header.image.as_ref().map_or(Vec::new(), |image| image.dtype.decode(blob));
                return Some((header, values));
            }
            Ok(Packet::Text(text)) => panic!("refused: {text}"),
            Ok(Packet::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return None,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

const ALL: &str = r#"{"op": "sub", "topics": ["v1/"], "max_hz": 60}"#;

/// Whoever asks gets every image as it is, then its rows, then the end, in order and without holes; and the server that
/// ends says the last of it before it closes.
#[test]
fn images_rows_and_the_end() {
    let (board, server) = site(HttpLimits::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[40, 5])]));
    board.update(|a| images(a)[0].set_row(0, 7.0));
    let mut socket = connect(&server);
    ask(&mut socket, ALL);
    let mut canvas = Canvas::default();
    let mut row = 1;
    while row < 40 {
        let (header, values) = next(&mut socket).expect("a message");
        if header.result.is_none() {
            continue;
        }
        assert!(header.time_ns > 0 && canvas.next_seq.is_none_or(|seq| seq == header.seq));
        canvas.take(&header, Some(&values));
        board.update(|a| images(a)[0].set_row(row, row as f64));
        row += 1;
    }
    board.update(|a| a.end(State::Complete, SystemTime::UNIX_EPOCH));
    drop(server);
    while let Some((header, values)) = next(&mut socket) {
        if header.result.is_some() {
            let has_values = header.kind != Kind::End;
            canvas.take(&header, has_values.then_some(&values[..]));
        }
    }
    let wanted = board.look(|all| all[0].pictures.picture(0).row_values(0..40));
    assert!(canvas.is_ended && same(&canvas.values, &wanted));
    assert_eq!(board.stream.web_clients.load(Ordering::Relaxed), 0, "the place is free again");
    assert!(board.stream.web_messages.load(Ordering::Relaxed) > 3);
}

/// Images come no larger and no more exact than asked for, and only those asked for.
#[test]
fn smaller_images_of_chosen_topics() {
    let (board, server) = site(HttpLimits::default());
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[40, 6]), FakePicture::new("disk", &[40, 6])]));
    board.update(|a| (0..40).for_each(|row| images(a)[0].set_row(row, row as f64)));
    let mut socket = connect(&server);
    let id = "01010101-0101-0101-0101-010101010101";
    ask(&mut socket, &format!(r#"{{"op":"sub","topics":["v1/{id}/ring"],"max_px":10,"max_hz":60,"dtype":"<f4"}}"#));
    let (header, values) = next(&mut socket).expect("an image");
    let image = header.image.expect("described");
    assert_eq!((header.kind, header.result.as_deref()), (Kind::Array, Some("ring")));
    assert_eq!((image.full_shape, image.dtype), (vec![10, 2], Precision::Single));
    assert_eq!((image.axes[0].scale, values[0], values[19]), (4.0, 1.5, 37.5));
    ask(&mut socket, &format!(r#"{{"op":"sub","topics":["v1/{id}/disk"],"max_hz":60}}"#));
    board.update(|a| images(a)[1].set_row(3, 2.0));
    let (header, values) = next(&mut socket).expect("an image");
    assert_eq!((header.result.as_deref(), values.len()), (Some("disk"), 240));
}

/// Pages from elsewhere, requests that are none and clients beyond the limit are refused; places come back.
#[test]
fn who_is_let_in() {
    let limits = HttpLimits::default();
    let (board, server) = site(limits);
    assert_eq!(connect_as(&server, &[("origin", "http://evil.example")]).err(), Some(403));
    assert_eq!(connect_as(&server, &[("host", "evil.example")]).err(), Some(403));
    assert_eq!(connect_as(&server, &[("upgrade", "h2c")]).err(), Some(400));
    let own = format!("http://{}", server.address());
    drop(connect_as(&server, &[("origin", &own)]).expect("our own page"));
    let wait_for = |count: u64| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while board.stream.web_clients.load(Ordering::Relaxed) != count {
            assert!(std::time::Instant::now() < deadline, "not {count} clients");
            std::thread::yield_now();
        }
    };
    wait_for(0);
    let mut clients: Vec<Socket> = (0..limits.live_clients).map(|_| connect(&server)).collect();
    assert_eq!(connect_as(&server, &[]).err(), Some(503));
    assert_eq!(board.stream.web_refused.load(Ordering::Relaxed), 1);
    clients.pop();
    wait_for(u64::from(limits.live_clients) - 1);
    drop(connect(&server));
}

/// A client keeps its connection's place: it counts among the connections of the server.
#[test]
fn clients_are_connections() {
    let (_board, server) = site(HttpLimits { connections: 1, ..HttpLimits::default() });
    let mut socket = connect(&server);
    let mut second = TcpStream::connect(server.address()).expect("connect");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut second, &mut answer).expect("closed");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    ask(&mut socket, ALL);
    assert_eq!(next(&mut socket).expect("it goes on").0.kind, Kind::Heartbeat);
}

/// What is asked for in a wrong way is answered with what is wrong, and what was asked for before goes on.
#[test]
fn wrong_asks_are_answered() {
    let wrong = [
        ("", "EOF"),
        ("[]", "expected"),
        (r#"{"op":"stop","topics":[]}"#, "unknown variant `stop`"),
        (r#"{"op":"sub"}"#, "topics"),
        (r#"{"op":"sub","topics":[],"max_hz":0}"#, "max_hz is 0: expected 0.1 to 60"),
        (r#"{"op":"sub","topics":[],"max_hz":1e999}"#, "number out of range"),
        (r#"{"op":"sub","topics":[],"max_px":7}"#, "max_px is 7: expected 8 to 8192"),
        (r#"{"op":"sub","topics":[],"dtype":"<f2"}"#, "unknown variant `<f2`"),
        (r#"{"op":"sub","topics":[],"colour":1}"#, "unknown field `colour`"),
    ];
    for (text, said) in wrong {
        let error = Subscription::parse(text).expect_err(text);
        assert!(error.contains(said), "{error}");
    }
    let many = format!(r#"{{"op":"sub","topics":[{}"a"]}}"#, r#""a","#.repeat(TOPICS_MAX));
    assert!(Subscription::parse(&many).is_err());
    let (_board, server) = site(HttpLimits::default());
    let mut socket = connect(&server);
    ask(&mut socket, r#"{"op":"sub","topics":[],"max_hz":1000}"#);
    let Packet::Text(text) = socket.read().expect("an answer") else { panic!("no text") };
    assert_eq!(text.as_str(), r#"{"error":"max_hz is 1000: expected 0.1 to 60"}"#);
    ask(&mut socket, ALL);
    assert!(next(&mut socket).is_some());
    ask(&mut socket, &"x".repeat(ASK_BYTES_MAX + 1));
    assert!(socket.read().is_err() || socket.read().is_err(), "a long message ends it");
}

/// Clients that never read hold nobody up: others get the newest image, the board is free, and what the slow ones hold
/// is bounded by the budget.
#[test]
fn slow_clients_hold_nobody_up() {
    let (board, server) = site(HttpLimits { image_bytes: 48 << 20, ..HttpLimits::default() });
    board.begin(acquisition(1, vec![FakePicture::new("big", &[1024, 1024])])); // 8 MiB, 16 of budget
    let mut slow: Vec<Socket> = (0..8).map(|_| connect(&server)).collect();
    slow.iter_mut().for_each(|socket| ask(socket, ALL));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while board.stream.discarded.load(Ordering::Relaxed) == 0 {
        assert!(std::time::Instant::now() < deadline, "they would hold more than the budget");
        std::thread::yield_now();
    }
    board.begin(acquisition(2, vec![FakePicture::new("ring", &[4, 4])]));
    board.update(|a| images(a)[0].set_row(1, 3.0));
    let mut quick = connect(&server);
    ask(&mut quick, r#"{"op":"sub","topics":["v1/02020202-0202-0202-0202-020202020202/ring"],"max_hz":60}"#);
    let (_, values) = next(&mut quick).expect("an image");
    assert_eq!(values[4], 3.0);
}

/// The connection of a client keeps room for the largest message it was sent: who finds none gets images when others have
/// left.
#[test]
fn what_connections_keep_is_bounded() {
    let (board, server) = site(HttpLimits { live_bytes: 48 << 10, ..HttpLimits::default() });
    board.begin(acquisition(1, vec![FakePicture::new("ring", &[64, 64])])); // 32 KiB
    let shown = |socket: &mut Socket| while next(socket).expect("goes on").0.kind != Kind::Array {};
    let mut first = connect(&server);
    ask(&mut first, ALL);
    shown(&mut first);
    let mut second = connect(&server);
    ask(&mut second, ALL);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while board.stream.discarded.load(Ordering::Relaxed) == 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was discarded");
        std::thread::yield_now();
    }
    drop(first);
    shown(&mut second);
}
