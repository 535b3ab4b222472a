//! `/api/v1/live`: the live stream for browsers, over WebSocket.
//!
//! # Place in the path
//! Every client has a [`Feed`] of its own and looks at the board at its own pace. What it sends is under way before it
//! looks again: a client that reads slowly gets newer images later, never a queue of old ones.
//!
//! # Limits
//! - [`HttpLimits::live_clients`](super::HttpLimits) clients, each of which also holds its place among the connections of
//!   the server, and takes about [`CLIENT_BYTES`] beside its images.
//! - Messages of a client: [`ASK_BYTES_MAX`]; only the newest one counts, and is read once per look.
//! - Images under way: the budget that all answers of the server share. What finds no room is counted as discarded, and
//!   sent as a whole later.
//! - A connection keeps a buffer of the largest message it was sent: all of them together
//!   [`HttpLimits::live_bytes`](super::HttpLimits). Whoever finds no room gets nothing before others leave; that is counted
//!   as discarded, too.
//! - All clients together use about a sixteenth of a processor: rests are so many times as long as the work before.
//!
//! # Errors
//! What a client asks for in a wrong way is answered with a text message `{"error": ...}`, and nothing changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Packet, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::access::Caller;
use super::answer::Refusal;
use super::routes::{Site, check_origin};
use super::server::Place;
use crate::live::{Collected, Feed, Interest, Lens, Message, Pace, Precision};
use crate::time::epoch_ns;

/// Bytes of a client beside its images: its task, its topics, and what was read and not taken yet.
pub(super) const CLIENT_BYTES: u64 = 64 << 10;
/// Bytes read from a client at once: its messages are short.
const READ_BYTES: usize = 4 << 10;
/// Longest message of a client.
const ASK_BYTES_MAX: usize = 16 << 10;
/// Most topics of one client, and the longest of them.
const TOPICS_MAX: usize = 64;
const TOPIC_BYTES_MAX: usize = 256;
/// Looks per second: fewest, usual and most.
const RATE_HZ: (f64, f64, f64) = (0.1, 20.0, 60.0);
/// Extent that a client may ask images to have: least and most.
const EXTENT_PX: (usize, usize) = (8, 8192);
/// Most bytes per second for the changes of one result.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Rests are at least so many times as long as the work before them, times the number of clients.
const REST_PER_WORK: u32 = 16;
/// Longest rest, however long a look took.
const REST_MAX: Duration = Duration::from_secs(5);
/// A client that has not taken a message by then is gone.
const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is there, and how long one that says nothing is believed to be.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A client without a ticket shows its token by then.
const AUTH_PATIENCE: Duration = Duration::from_secs(2);

/// The first message of a client without a ticket.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum First {
    Auth { token: String },
}

/// The ticket of a client, part of the address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    ticket: Option<String>,
}

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    #[serde(rename = "op")]
    _op: Op,
    topics: Vec<String>,
    max_hz: Option<f64>,
    max_px: Option<usize>,
    dtype: Option<Precision>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Sub,
}

/// What a client wants, checked.
#[derive(Debug, PartialEq)]
struct Subscription {
    topics: Vec<String>,
    interval: Duration,
    lens: Lens,
}

impl Subscription {
    fn parse(text: &str) -> Result<Self, String> {
        let form = r#"{"op": "sub", "topics": ["v1/..."], "max_hz": 20, "max_px": 512, "dtype": "<f4"}"#;
        let ask: Ask = serde_json::from_str(text).map_err(|error| format!("{error}; expected {form}"))?;
        if ask.topics.len() > TOPICS_MAX || ask.topics.iter().any(|topic| topic.len() > TOPIC_BYTES_MAX) {
            return Err(format!("topics: at most {TOPICS_MAX}, each of at most {TOPIC_BYTES_MAX} bytes"));
        }
        let (least, usual, most) = RATE_HZ;
        let rate_hz = ask.max_hz.unwrap_or(usual);
        if !(least..=most).contains(&rate_hz) {
            return Err(format!("max_hz is {rate_hz}: expected {least} to {most}"));
        }
        let (least, most) = EXTENT_PX;
        if let Some(extent) = ask.max_px.filter(|extent| !(least..=most).contains(extent)) {
            return Err(format!("max_px is {extent}: expected {least} to {most}"));
        }
        Ok(Self {
            topics: ask.topics,
            interval: Duration::from_secs_f64(1.0 / rate_hz),
            lens: Lens { extent_max_px: ask.max_px, precision: ask.dtype },
        })
    }
}

/// Lets a page of ours, or a program, in.
pub(super) async fn live(
    State(site): State<Arc<Site>>,
    Extension(place): Extension<Place>,
    Extension(caller): Extension<Caller>,
    entry: Result<Query<Entry>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    check_origin(&headers)?;
    let upgrade = upgrade.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    let Query(entry) = entry.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the query cannot be read"))?;
    let is_known = match (caller.role, entry.ticket) {
        (Some(_), _) => true,
        (None, None) => false,
        (None, Some(ticket)) if site.access.use_ticket(&ticket, Instant::now().into_std()) => true,
        (None, Some(_)) => return Err(Refusal::new(StatusCode::UNAUTHORIZED, "this ticket is not good, or was used")),
    };
    let client = Client::admit(site, place, is_known)?;
    let upgrade = upgrade.max_message_size(ASK_BYTES_MAX).max_frame_size(ASK_BYTES_MAX).read_buffer_size(READ_BYTES);
    Ok(upgrade.on_upgrade(move |socket| client.serve(socket)))
}

/// One client, with the places it holds.
struct Client {
    site: Arc<Site>,
    ending: watch::Receiver<bool>,
    /// Whether it may look.
    is_known: bool,
    /// Room for the largest message so far.
    kept: OwnedSemaphorePermit,
    _places: (OwnedSemaphorePermit, Place),
}

/// The client is not there any more, or asks for nothing sensible; there is nobody to tell.
struct Gone;

impl Drop for Client {
    fn drop(&mut self) {
        self.site.board.stream.web_clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    fn admit(site: Arc<Site>, place: Place, is_known: bool) -> Result<Self, Refusal> {
        let Ok(permit) = Arc::clone(&site.live_places).try_acquire_owned() else {
            site.board.stream.web_refused.fetch_add(1, Ordering::Relaxed);
            let error = "as many clients as may are looking already: close one of them, or raise limits.subscribers";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error));
        };
        let kept = site.live_room.take(0)?;
        site.board.stream.web_clients.fetch_add(1, Ordering::Relaxed);
        let ending = site.ending.clone();
        Ok(Self { site, ending, is_known, kept, _places: (permit, place) })
    }

    async fn serve(mut self, mut socket: WebSocket) {
        if !self.is_known && !self.is_introduced(&mut socket).await {
            self.site.board.stream.web_refused.fetch_add(1, Ordering::Relaxed);
            let close = CloseFrame { code: close_code::POLICY, reason: "a token is needed".into() };
            let _ = send(&mut socket, Packet::Close(Some(close))).await; // Whether it hears so or not.
            return;
        }
        // How it ended, the client knows; `Gone` or not, its places are free now.
        let _ = self.converse(&mut socket).await;
    }

    /// Waits for the first message, with a token that is good.
    async fn is_introduced(&self, socket: &mut WebSocket) -> bool {
        let Ok(Some(Ok(Packet::Text(text)))) = timeout(AUTH_PATIENCE, socket.recv()).await else { return false };
        serde_json::from_str(&text).is_ok_and(|First::Auth { token }| self.site.access.knows(&token))
    }

    /// Until the client leaves, or the server ends.
    async fn converse(&mut self, socket: &mut WebSocket) -> Result<(), Gone> {
        let mut view = View::blind();
        let mut asked = None;
        let (mut look_at, mut heard_at) = (Instant::now(), Instant::now());
        let mut ping_at = heard_at + PING_INTERVAL;
        loop {
            tokio::select! {
                () = sleep_until(look_at) => {}
                _ = self.ending.changed() => {
                    let _ = self.show(&mut view, socket, true).await?;
                    let _ = socket.send(Packet::Close(None)).await; // Whether it hears so or not, it is over.
                    return Ok(());
                }
                packet = socket.recv() => {
                    heard_at = Instant::now();
                    match packet {
                        Some(Ok(Packet::Text(text))) => asked = Some(text),
                        Some(Ok(Packet::Ping(_) | Packet::Pong(_))) => {} // Answered by the library.
                        Some(Ok(Packet::Binary(_) | Packet::Close(_)) | Err(_)) | None => return Err(Gone),
                    }
                    continue;
                }
            }
            if let Some(text) = asked.take() {
                match Subscription::parse(&text) {
                    Ok(subscription) => {
                        self.site.board.stream.subscriptions.fetch_add(1, Ordering::Relaxed);
                        view = self.site.board.look(|all| View::new(&subscription, all));
                    }
                    Err(error) => send(socket, Packet::text(serde_json::json!({ "error": error }).to_string())).await?,
                }
            }
            let worked = self.show(&mut view, socket, false).await?;
            let clients = self.site.board.stream.web_clients.load(Ordering::Relaxed);
            let rest = worked * REST_PER_WORK * u32::try_from(clients).unwrap_or(u32::MAX);
            let now = Instant::now();
            look_at = now + view.interval.max(rest.min(REST_MAX));
            if now > heard_at + SILENCE_MAX {
                return Err(Gone);
            }
            if now > ping_at {
                ping_at = now + PING_INTERVAL;
                send(socket, Packet::Ping(Bytes::new())).await?;
            }
        }
    }

    /// Sends what is new; the time that it took to make it.
    async fn show(&mut self, view: &mut View, socket: &mut WebSocket, is_last: bool) -> Result<Duration, Gone> {
        let began = Instant::now();
        let now = began.into_std();
        let collected = self.site.board.look(|all| match is_last {
            true => view.feed.collect_last(all, now),
            false => view.feed.collect(all, now),
        });
        let room = self.site.budget.take(bytes_of(&collected)).ok().filter(|_| self.keeps(&collected));
        let stream = &self.site.board.stream;
        let Some(_room) = room else {
            stream.discarded.fetch_add(collected.messages.len() as u64, Ordering::Relaxed);
            collected.messages.iter().for_each(|message| view.feed.lost(&message.topic));
            return Ok(began.elapsed());
        };
        let packets: Vec<Vec<u8>> = collected.messages.into_iter().map(framed).collect();
        let worked = began.elapsed();
        for packet in packets {
            stream.web_bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
            send(socket, Packet::binary(packet)).await?;
            stream.web_messages.fetch_add(1, Ordering::Relaxed);
        }
        Ok(worked)
    }

    /// Whether there is room for the largest of these messages, in what the connection keeps.
    fn keeps(&mut self, collected: &Collected) -> bool {
        let bytes =
            |message: &Message| Some(message.values.as_ref()?.len() * message.header.image.as_ref()?.dtype.bytes());
        let largest = collected.messages.iter().filter_map(bytes).max().unwrap_or(0);
        self.site.live_room.grow(&mut self.kept, largest)
    }
}

/// Values and their encoded copy.
fn bytes_of(collected: &Collected) -> usize {
    let values = collected.messages.iter().filter_map(|message| message.values.as_ref());
    values.map(|values| values.len() * 2 * size_of::<f64>()).sum()
}

fn framed(mut message: Message) -> Vec<u8> {
    message.header.time_ns = epoch_ns(SystemTime::now());
    message.framed()
}

async fn send(socket: &mut WebSocket, packet: Packet) -> Result<(), Gone> {
    timeout(SEND_PATIENCE, socket.send(packet)).await.map_err(|_| Gone)?.map_err(|_| Gone)
}

/// What a client is shown.
struct View {
    feed: Feed,
    interval: Duration,
}

impl View {
    /// Nothing, until the client asks.
    fn blind() -> Self {
        let (_, usual, _) = RATE_HZ;
        Self { feed: Feed::new(Pace::default(), Interest::default()), interval: Duration::from_secs_f64(1.0 / usual) }
    }

    /// Every topic asked for, from its present state on; the board is looked at before, so that older acquisitions
    /// answer only to their names.
    fn new(subscription: &Subscription, acquisitions: &std::collections::VecDeque<crate::live::Acquisition>) -> Self {
        let interval = subscription.interval;
        let pace = Pace { update_interval: interval, bytes_per_second: BYTES_PER_SECOND, ..Pace::default() };
        let mut feed = Feed::through(subscription.lens, pace, Interest::default());
        feed.collect(acquisitions, Instant::now().into_std());
        subscription.topics.iter().for_each(|topic| feed.subscribed(topic.as_bytes()));
        Self { feed, interval }
    }
}

#[cfg(test)]
mod tests;
