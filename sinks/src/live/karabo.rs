//! karabo-bridge 2.2: whoever asks gets all images of the newest acquisition, for programs made for that bridge.
//!
//! # Place in the path
//! A REP socket. A request waits until the board is newer than at the last answer; then the present images go out
//! together, as HTTP would answer them one by one. Nothing is made that nobody asked for.
//!
//! # Units
//! An answer is a *train* of sources, one per result: `RONCHI/LIVE/<result>:output`, in the order of their names. Its
//! number (`timestamp.tid`) grows with every answer that may show something new, from 1. Values are the numbers of HTTP,
//! NaN = not measured.
//!
//! # Limits
//! An answer has at most [`ANSWER_BYTES_MAX`] of values and their bytes; results that find no room in it are left out, and
//! counted as discarded. Rests are so many times as long as the work before (see `publisher.rs`), at most [`PATIENCE`].

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::board::{Acquisition, State, Waited};
use super::message::{Header, ImageHeader, Message};
use super::picture::Precision;
use super::publisher::{Parts, Port, REST_PER_WORK, SUBSCRIPTION_POLL, count};
use super::snapshot::{snapshot, snapshot_bytes};

/// Most bytes of the values of an answer, as they are held and as they travel.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Answers that libzmq keeps for a client: with one, it drops the second answer, as if the first were still there.
pub(super) const ANSWERS_KEPT: i32 = 2;
/// A request is answered after this time even if nothing is new: whoever comes after the scan sees it all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a client sends.
const REQUEST: &[u8] = b"next";

/// What goes before the properties of a source.
#[derive(Debug, Serialize)]
struct Source<'a> {
    source: &'a str,
    content: &'static str,
    metadata: Metadata<'a>,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    source: &'a str,
    /// Seconds since the Unix epoch.
    timestamp: f64,
    #[serde(rename = "timestamp.sec")]
    seconds: String,
    /// 18 digits: attoseconds.
    #[serde(rename = "timestamp.frac")]
    fraction: String,
    #[serde(rename = "timestamp.tid")]
    train: u64,
}

impl<'a> Source<'a> {
    fn new(source: &'a str, time: SystemTime, train: u64) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let metadata = Metadata {
            source,
            timestamp: since.as_secs_f64(),
            seconds: since.as_secs().to_string(),
            fraction: format!("{:09}000000000", since.subsec_nanos()),
            train,
        };
        Self { source, content: "msgpack", metadata }
    }
}

/// What goes before an array.
#[derive(Debug, Serialize)]
struct Array<'a> {
    source: &'a str,
    content: &'static str,
    path: &'static str,
    dtype: &'static str,
    shape: &'a [usize],
}

impl<'a> Array<'a> {
    fn new(source: &'a str, dtype: Precision, shape: &'a [usize]) -> Self {
        let dtype = match dtype {
            Precision::Double => "float64",
            Precision::Single => "float32",
        };
        Self { source, content: "array", path: "image.data", dtype, shape }
    }
}

/// What is told beside the image: the header, without what belongs to our own stream alone.
#[derive(Debug, Serialize)]
struct Properties<'a> {
    acq: &'a str,
    result: Option<&'a str>,
    state: Option<State>,
    frame_from: u64,
    frame_to: u64,
    visible: u64,
    durable: u64,
    cfg: u32,
    #[serde(rename = "quality.missing")]
    missing: u64,
    #[serde(rename = "quality.dropped")]
    dropped: u64,
    #[serde(rename = "axes.name")]
    axis_names: Vec<&'a str>,
    #[serde(rename = "axes.unit")]
    axis_units: Vec<&'a str>,
    #[serde(rename = "axes.scale")]
    axis_scales: Vec<f64>,
    #[serde(rename = "axes.offset")]
    axis_offsets: Vec<f64>,
}

impl<'a> Properties<'a> {
    fn of(header: &'a Header, image: &'a ImageHeader) -> Self {
        Self {
            acq: &header.acq,
            result: header.result.as_deref(),
            state: header.state,
            frame_from: header.frame_from,
            frame_to: header.frame_to,
            visible: header.visible,
            durable: header.durable,
            cfg: image.cfg,
            missing: image.quality.missing,
            dropped: image.quality.dropped,
            axis_names: image.axes.iter().map(|axis| axis.name.as_str()).collect(),
            axis_units: image.axes.iter().map(|axis| axis.unit.as_str()).collect(),
            axis_scales: image.axes.iter().map(|axis| axis.scale).collect(),
            axis_offsets: image.axes.iter().map(|axis| axis.offset).collect(),
        }
    }
}

fn packed(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("strings, numbers and lists of known length go into memory")
}

/// The newest images, as many as have room, in the order of their names; and how many have none.
fn images(acquisition: &Acquisition) -> (Vec<Message>, u64) {
    let pictures = &acquisition.pictures;
    let mut names: Vec<String> = (0..pictures.count()).map(|index| pictures.picture(index).name().to_owned()).collect();
    names.sort_unstable();
    let (mut room, mut left_out) = (ANSWER_BYTES_MAX, 0);
    let taken = names.iter().filter_map(|name| {
        let bytes = snapshot_bytes(acquisition, name)?.saturating_mul(2); // As numbers, and as they travel.
        let rest = room.checked_sub(bytes);
        left_out += u64::from(rest.is_none());
        room = rest.unwrap_or(room);
        rest.and_then(|_| snapshot(acquisition, name))
    });
    (taken.collect(), left_out)
}

/// All images as the parts of one message.
fn train(images: Vec<Message>, time: SystemTime, number: u64) -> Parts {
    let mut parts = Parts::new();
    for message in images {
        let (Some(image), Some(blob)) = (&message.header.image, message.blob()) else { continue };
        let source = format!("RONCHI/LIVE/{}:output", message.header.result.as_deref().unwrap_or_default());
        parts.push(packed(&Source::new(&source, time, number)));
        parts.push(packed(&Properties::of(&message.header, image)));
        parts.push(packed(&Array::new(&source, image.dtype, &image.shape)));
        parts.push(blob);
    }
    parts
}

/// Answers requests until the board closes; who waits then still gets the last images.
pub(super) fn answer(port: &mut Port, update_interval: Duration) {
    let (mut seen, mut number, mut is_asked) = (0, 0, false);
    let (mut rest_until, mut repeat_at) = (Instant::now(), Instant::now());
    while port.attend() {
        let rest = rest_until.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            std::thread::sleep(rest.min(SUBSCRIPTION_POLL));
            continue;
        }
        is_asked = is_asked || take_request(port);
        if !is_asked {
            // Whatever became of waiting, the next round looks.
            let _ = port.socket.poll(zmq::POLLIN, SUBSCRIPTION_POLL.as_millis() as i64);
            continue;
        }
        match port.board.wait(seen, SUBSCRIPTION_POLL) {
            Waited::Changed(version) => (seen, number) = (version, number + 1),
            Waited::Unchanged if Instant::now() < repeat_at => continue,
            Waited::Unchanged => {}
            Waited::Closed => break,
        }
        let began = Instant::now();
        is_asked = !send_train(port, number);
        rest_until = Instant::now() + update_interval.max((began.elapsed() * REST_PER_WORK).min(PATIENCE));
        repeat_at = Instant::now() + PATIENCE;
    }
    if is_asked {
        send_train(port, number + 1);
    }
}

/// Answers with what there is now; `false` when there is nothing yet.
fn send_train(port: &Port, number: u64) -> bool {
    let (images, left_out) = port.board.look(|all| all.back().map(images)).unwrap_or_default();
    count(&port.board.stream.discarded, left_out);
    let parts = train(images, SystemTime::now(), number);
    // A socket that answers has room for the answer: nobody asks again before it came.
    !parts.is_empty() && port.send(parts)
}

/// Whether somebody asks for a train; whoever asks for anything else is told so.
fn take_request(port: &Port) -> bool {
    let Ok(request) = port.socket.recv_bytes(zmq::DONTWAIT) else { return false };
    let mut is_one_part = true;
    while port.socket.get_rcvmore().is_ok_and(|more| more) {
        is_one_part = false;
        if port.socket.recv_bytes(zmq::DONTWAIT).is_err() {
            break;
        }
    }
    if is_one_part && request == REQUEST {
        count(&port.board.stream.subscriptions, 1);
        return true;
    }
    // A peer that is gone needs no answer.
    let _ = port.socket.send("Error: bad request, expected `next`", zmq::DONTWAIT);
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::live::testing::{FakePicture, acquisition, images as images_of};
    use crate::live::{Board, Form, Pace, Publisher, StreamPlan, Wiring};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Made by `karabo_bridge.serializer.serialize` 0.7.0 from a source with `image.data`, `frame` and `label`.
    #[test]
    fn golden_train() {
        #[derive(Serialize)]
        struct Told {
            frame: u64,
            label: &'static str,
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        assert_eq!(
            hex(&packed(&Source::new("RONCHI/live/vbf", time, 42))),
            "83a6736f75726365af524f4e4348492f6c6976652f766266a7636f6e74656e74a76d73677061636ba86d6574616461746185a6736f\
             75726365af524f4e4348492f6c6976652f766266a974696d657374616d70cb41d954fc40200000ad74696d657374616d702e736563\
             aa31373030303030303030ae74696d657374616d702e66726163b2353030303030303030303030303030303030ad74696d65737461\
             6d702e7469642a"
        );
        assert_eq!(hex(&packed(&Told { frame: 7, label: "vbf" })), "82a56672616d6507a56c6162656ca3766266");
        assert_eq!(
            hex(&packed(&Array::new("RONCHI/live/vbf", Precision::Single, &[2, 3]))),
            "85a6736f75726365af524f4e4348492f6c6976652f766266a7636f6e74656e74a56172726179a470617468aa696d6167652e646174\
             61a56474797065a7666c6f61743332a57368617065920203"
        );
    }

    fn board(pictures: Vec<FakePicture>) -> Arc<Board> {
        let board = Board::new(Wiring::default());
        board.begin(acquisition(1, pictures));
        board
    }

    fn server(board: &Arc<Board>) -> Publisher {
        let plan = StreamPlan {
            form: Form::Karabo,
            endpoint: "tcp://127.0.0.1:*".to_owned(),
            pace: Pace::default(),
            result_count: 1,
            subscriber_count: 2,
        };
        Publisher::spawn(Arc::clone(board), &plan).expect("server")
    }

    fn client(context: &zmq::Context, server: &Publisher) -> zmq::Socket {
        let socket = context.socket(zmq::REQ).expect("socket");
        socket.set_rcvtimeo(20_000).expect("timeout");
        socket.set_linger(0).expect("linger");
        socket.connect(server.endpoint()).expect("connect");
        socket
    }

    fn asked(socket: &zmq::Socket, request: &[u8]) -> Vec<Vec<u8>> {
        socket.send(request, 0).expect("sent");
        socket.recv_multipart(0).expect("an answer in time")
    }

    /// The first of two images by name, and the numbers of its train.
    fn first(parts: &[Vec<u8>]) -> (u64, Vec<f64>) {
        let source: serde_json::Value = rmp_serde::from_slice(&parts[0]).expect("a map");
        assert_eq!(source["source"], "RONCHI/LIVE/bf:output");
        (source["metadata"]["timestamp.tid"].as_u64().expect("a number"), Precision::Double.decode(&parts[3]))
    }

    /// Every answer holds all images in the order of their names as they are then: at once when something is new, else
    /// after a while, under the same number; also for a client that comes later. The last request is answered at the end.
    #[test]
    fn requests_are_answered_with_the_newest() {
        let board = board(vec![FakePicture::new("ring", &[4, 4]), FakePicture::new("bf", &[8, 2])]);
        let server = server(&board);
        let context = zmq::Context::new();
        let socket = client(&context, &server);
        let (number, values) = first(&asked(&socket, b"next"));
        assert!(number == 1 && values.len() == 16 && values.iter().all(|value| value.is_nan()));
        board.update(|a| images_of(a)[1].set_row(3, 5.0)).expect("current");
        let parts = asked(&socket, b"next");
        let (number, values) = first(&parts);
        assert_eq!((number, parts.len(), &values[6..8]), (2, 8, &[5.0, 5.0][..]));
        let later = client(&context, &server);
        assert_eq!(first(&asked(&later, b"next")).0, 2);
        assert_eq!(asked(&later, b"all"), [b"Error: bad request, expected `next`".to_vec()]);
        assert_eq!(first(&asked(&later, b"next")).0, 2);
        socket.send("next", 0).expect("sent");
        board.update(|a| images_of(a)[1].set_row(0, 1.0)).expect("current");
        board.close();
        assert!(first(&socket.recv_multipart(0).expect("the last answer")).0 > 2);
    }

    /// What has no room in an answer is left out and counted; the others come.
    #[test]
    fn an_answer_is_bounded() {
        let wide = ANSWER_BYTES_MAX / 16 / 4;
        let board = board(vec![FakePicture::new("bf", &[4, 4]), FakePicture::new("whole", &[4, wide])]);
        let (taken, left_out) = board.look(|all| images(&all[0]));
        assert_eq!((taken.len(), left_out), (1, 1));
        assert_eq!(taken[0].header.result.as_deref(), Some("bf"));
    }

    /// Header and properties say the same.
    #[test]
    fn properties_are_those_of_the_header() {
        let board = board(vec![FakePicture::new("bf", &[4, 4])]);
        let (taken, _) = board.look(|all| images(&all[0]));
        let header = &taken[0].header;
        let told = packed(&Properties::of(header, header.image.as_ref().expect("an image")));
        let told: serde_json::Value = rmp_serde::from_slice(&told).expect("a map");
        assert_eq!((told["result"].as_str(), told["state"].as_str()), (Some("bf"), Some("running")));
        assert_eq!(told["axes.name"], serde_json::json!(["scan_y", "scan_x"]));
        assert_eq!(told["axes.scale"], serde_json::json!([1.0, 1.0]));
    }
}
