//! The ZMQ publisher: one thread that owns an XPUB socket and a [`Feed`]. For programs that were made for other streams
//! there are [`Form`]s of theirs: a feed of whole images in other words (`odin.rs`), a socket that answers (`karabo.rs`).
//!
//! # Place in the path
//! Sleeps on the board's condition variable, so that a merge is on its way to subscribers in well under a millisecond
//! unless every result that is wanted was sent just before: then it rests until the first may be sent again;
//! looks for new subscriptions at least every [`SUBSCRIPTION_POLL`], because a ZMQ socket cannot wake that variable.
//!
//! # Limits
//! libzmq keeps at most four messages per topic for each subscriber and then drops new ones for that subscriber alone:
//! sends never block, and the thread never waits for anybody. The drop is silent in libzmq, so it is the subscriber who
//! sees it, as a hole in `seq`; only messages that the socket refuses altogether are counted here. Messages *from*
//! subscribers are subscriptions, at most [`SUBSCRIPTION_BYTES_MAX`] long; a longer one closes the connection.
//! Connections beyond [`StreamPlan::subscriber_count`] are turned away (see `gate.rs`). What libzmq does not bound is the
//! number of different subscriptions of one peer, and of parts of one message.
//!
//! # Errors
//! [`StreamError`] leaves `spawn`. A send that fails is counted and the next whole image is sent early.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use ronchi_pipeline::fault::{self, Stage};

use super::board::{Acquisition, Board, Waited};
use super::feed::{Collected, Feed, Pace};
use super::gate::Gate;
use super::interest::Interest;
use super::message::Message;
use super::{karabo, odin};
use crate::priority::stand_back;
use crate::time::epoch_ns;

/// Most clients of a stream in another form than our own: viewers, of which a microscope has a few.
pub const GUESTS_MAX: u32 = 8;

/// Longest time until a subscription is answered.
pub(super) const SUBSCRIPTION_POLL: Duration = Duration::from_millis(10);
/// Shortest time between two looks at a board that keeps changing: leaves the lock to the reducers.
const LOOK_PAUSE: Duration = Duration::from_micros(500);
/// Rests after a look are at least so many times as long as it took: nobody who listens can make publishing take more
/// than about a sixteenth of a processor.
pub(super) const REST_PER_WORK: u32 = 16;
/// Longest subscription or request: topics are shorter than 200 bytes.
const SUBSCRIPTION_BYTES_MAX: i64 = 1024;
/// Most subscriptions handled before the next look at the board.
const SUBSCRIPTIONS_AT_ONCE: usize = 1024;
/// Messages per topic that libzmq keeps for a subscriber.
const MESSAGES_PER_TOPIC: i32 = 4;
/// A peer that has not finished the ZMTP greeting by then is disconnected, in ms.
const HANDSHAKE_MS: i32 = 2000;
/// Kernel buffer per subscriber, in bytes: a slow one sees old images for no longer than this takes to drain.
const SEND_BUFFER_BYTES: i32 = 1 << 20;

/// Which programs a stream is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Those that read `docs/live-stream.md`.
    Native,
    /// Viewers of odin-data: whole images, smaller than they are and in single precision.
    Odin,
    /// Clients of karabo-bridge, which ask for all whole images at once.
    Karabo,
}

impl Form {
    /// Name of the thread.
    fn thread(self) -> &'static str {
        match self {
            Self::Native => "live-zmq",
            Self::Odin => "live-odin",
            Self::Karabo => "live-karabo",
        }
    }

    /// The stage, as it is called when it has panicked.
    fn stage(self) -> &'static str {
        match self {
            Self::Native => "live stream",
            Self::Odin => "live stream for odin",
            Self::Karabo => "live stream for karabo-bridge",
        }
    }
}

/// Where and how to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// Who listens.
    pub form: Form,
    /// ZMQ endpoint to bind: `tcp://127.0.0.1:PORT` (`*` = any free port), `tcp://[::1]:PORT` or `ipc://PATH`.
    pub endpoint: String,
    /// How often to send.
    pub pace: Pace,
    /// Number of results of one acquisition: sizes the queue of a subscriber.
    pub result_count: u32,
    /// Most subscribers; further ones are turned away.
    pub subscriber_count: u32,
}

impl StreamPlan {
    /// Messages that libzmq keeps for a subscriber.
    fn messages_max(&self) -> i32 {
        let results = i32::try_from(self.result_count.min(1 << 16)).unwrap_or(1 << 16);
        match self.form {
            Form::Native => MESSAGES_PER_TOPIC * (results + 2),
            Form::Odin => odin::MESSAGES_PER_RESULT * results.max(1),
            Form::Karabo => karabo::ANSWERS_KEPT,
        }
    }

    /// Most bytes that guests who do not read make the stream keep; 0 for our own form, whose images may have any size
    /// and are kept once for all subscribers that are equally late.
    pub fn guest_bytes(&self) -> u64 {
        let guests = u64::from(self.subscriber_count);
        match self.form {
            Form::Native => 0,
            Form::Odin => guests * self.messages_max() as u64 * odin::MESSAGE_BYTES_MAX,
            // Half of an answer's bytes travel; the one that is being made is there with its values.
            Form::Karabo => {
                let kept = guests * self.messages_max() as u64;
                (kept + 2) * karabo::ANSWER_BYTES_MAX as u64 / 2
            }
        }
    }
}

/// Why the stream cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Not a loopback address.
    #[error(
        "live stream endpoint {endpoint} is not on this machine: use tcp://127.0.0.1:PORT, tcp://[::1]:PORT or \
         ipc://PATH (the stream has no access control)"
    )]
    NotLoopback {
        /// As configured.
        endpoint: String,
    },
    /// libzmq refused.
    #[error("cannot publish on {endpoint}: {source}")]
    Zmq {
        /// As configured.
        endpoint: String,
        /// Why.
        source: zmq::Error,
    },
    /// No thread.
    #[error("cannot start the publisher thread: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

fn is_local(endpoint: &str) -> bool {
    let Some(address) = endpoint.strip_prefix("tcp://") else {
        return endpoint.starts_with("ipc://") || endpoint.starts_with("inproc://");
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A running publisher; stops when the board closes or when it is dropped, which waits for it.
#[derive(Debug)]
pub struct Publisher {
    endpoint: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Binds and starts the thread.
    pub fn spawn(board: Arc<Board>, plan: &StreamPlan) -> Result<Self, StreamError> {
        if !is_local(&plan.endpoint) {
            return Err(StreamError::NotLoopback { endpoint: plan.endpoint.clone() });
        }
        let refused = |source| StreamError::Zmq { endpoint: plan.endpoint.clone(), source };
        let no_thread = |source| StreamError::Thread { source };
        // The threads of libzmq stand back as the one does that makes their first socket.
        let (socket, gate, endpoint) = std::thread::scope(|scope| {
            let bind = || {
                stand_back();
                bind(plan)
            };
            let bound = std::thread::Builder::new().spawn_scoped(scope, bind).map_err(no_thread)?;
            bound.join().expect("binding does not panic").map_err(refused)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let guard = board.watch(plan.form.stage());
        let mut port = Port { socket, gate, board, stop: Arc::clone(&stop) };
        let (form, pace) = (plan.form, plan.pace);
        let work = move || {
            let _guard = guard;
            stand_back();
            match form {
                Form::Native => publish(&mut port, Feed::new(pace, Interest::default()), native),
                Form::Odin => publish(&mut port, odin::feed(pace), odin::messages),
                Form::Karabo => karabo::answer(&mut port, pace.update_interval),
            }
        };
        let thread = std::thread::Builder::new().name(form.thread().to_owned()).spawn(work).map_err(no_thread)?;
        Ok(Self { endpoint, stop, thread: Some(thread) })
    }

    /// The endpoint that subscribers connect to, with its port.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed); // Seen within SUBSCRIPTION_POLL.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic there has been reported by the panic hook.
        }
    }
}

fn bind(plan: &StreamPlan) -> Result<(zmq::Socket, Gate, String), zmq::Error> {
    let context = zmq::Context::new();
    let socket = context.socket(if plan.form == Form::Karabo { zmq::REP } else { zmq::XPUB })?;
    if plan.form != Form::Karabo {
        socket.set_xpub_verbose(true)?;
    }
    socket.set_ipv6(plan.endpoint.starts_with("tcp://["))?;
    socket.set_sndhwm(plan.messages_max())?;
    socket.set_sndbuf(SEND_BUFFER_BYTES)?;
    socket.set_maxmsgsize(SUBSCRIPTION_BYTES_MAX)?;
    socket.set_handshake_ivl(HANDSHAKE_MS)?;
    socket.set_linger(100)?; // The last images and `end` may still leave, a stuck subscriber does not hold us up.
    let gate = Gate::new(&context, &socket, plan.subscriber_count as usize)?;
    socket.bind(&plan.endpoint)?;
    let endpoint = socket.get_last_endpoint()?.unwrap_or_else(|_| plan.endpoint.clone());
    Ok((socket, gate, endpoint))
}

/// What a thread that publishes has in its hands.
pub(super) struct Port {
    pub(super) socket: zmq::Socket,
    pub(super) board: Arc<Board>,
    gate: Gate,
    stop: Arc<AtomicBool>,
}

impl Port {
    /// Takes note of who comes and goes; whether to go on.
    pub(super) fn attend(&mut self) -> bool {
        fault::pass(Stage::Publish);
        self.gate.step(&self.board.stream);
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sends a message of these parts without waiting; whether there was room for it.
    pub(super) fn send(&self, parts: Parts) -> bool {
        let stream = &self.board.stream;
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let is_sent = self.socket.send_multipart(parts, zmq::DONTWAIT).is_ok();
        if is_sent {
            count(&stream.messages, 1);
            count(&stream.bytes, bytes);
        } else {
            count(&stream.discarded, 1);
        }
        is_sent
    }
}

/// One message of several parts.
pub(super) type Parts = Vec<Vec<u8>>;
/// A message in the words of a form: none, one, or several.
type Encode = fn(&Message) -> Vec<Parts>;

fn native(message: &Message) -> Vec<Parts> {
    let mut header = message.header.clone();
    header.time_ns = epoch_ns(SystemTime::now());
    let mut parts = vec![message.topic.clone().into_bytes(), header.to_json()];
    parts.extend(message.blob());
    vec![parts]
}

fn publish(port: &mut Port, mut feed: Feed, encode: Encode) {
    let mut seen = 0;
    while port.attend() {
        let more_subscriptions = take_subscriptions(port, &mut feed);
        feed.share(port.gate.connection_count());
        let looked_at = Instant::now();
        let collected = port.board.look(|acquisitions: &VecDeque<Acquisition>| feed.collect(acquisitions, looked_at));
        send_all(port, &mut feed, &collected, encode);
        std::thread::sleep(rest(&collected, looked_at, looked_at.elapsed()));
        let patience = collected.wake_at.map_or(SUBSCRIPTION_POLL, |at| at.saturating_duration_since(Instant::now()));
        let patience = if more_subscriptions { Duration::ZERO } else { patience.min(SUBSCRIPTION_POLL) };
        match port.board.wait(seen, patience) {
            Waited::Changed(version) => seen = version,
            Waited::Unchanged => {}
            Waited::Closed => break,
        }
    }
    // The last state of everything, for who is still there.
    take_subscriptions(port, &mut feed);
    let collected = port.board.look(|acquisitions| feed.collect_last(acquisitions, Instant::now()));
    send_all(port, &mut feed, &collected, encode);
}

/// How long to rest after a look that took `worked`: until a change could be sent, and long enough that publishing takes
/// only a small part of a processor; not past the next poll for subscriptions.
fn rest(collected: &Collected, looked_at: Instant, worked: Duration) -> Duration {
    let until = collected.rest_until.map_or(SUBSCRIPTION_POLL, |time| time.saturating_duration_since(looked_at));
    let until = until.max(LOOK_PAUSE).saturating_sub(worked);
    until.max(worked * REST_PER_WORK).min(SUBSCRIPTION_POLL)
}

/// Hands new subscriptions to the feed; `true` when there may be more.
fn take_subscriptions(port: &Port, feed: &mut Feed) -> bool {
    let mut message = zmq::Message::new();
    for _ in 0..SUBSCRIPTIONS_AT_ONCE {
        if port.socket.recv(&mut message, zmq::DONTWAIT).is_err() {
            return false;
        }
        match message.split_first() {
            Some((1, prefix)) => {
                count(&port.board.stream.subscriptions, 1);
                feed.subscribed(prefix);
            }
            Some((0, prefix)) => feed.unsubscribed(prefix),
            _ => {} // Anything else a peer may send means nothing to us.
        }
    }
    true
}

pub(super) fn count(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn send_all(port: &Port, feed: &mut Feed, collected: &Collected, encode: Encode) {
    for message in &collected.messages {
        let sent: Vec<bool> = encode(message).into_iter().map(|parts| port.send(parts)).collect();
        if sent.contains(&false) {
            feed.lost(&message.topic);
        }
    }
}

#[cfg(test)]
mod tests;
