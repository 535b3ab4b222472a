//! What to send, and when: turns the state of the board into messages, without sockets, clocks or locks of its own.
//!
//! # Place in the path
//! A publisher owns a feed and calls [`Feed::collect`] under the board's lock, sends what comes back, and sleeps until
//! the board changes or the returned time. Any transport can own a feed: one per ZMQ socket, one per browser.
//!
//! # Invariants
//! - I1: a subscriber that got an `array` and every later message of that topic holds, after each message, exactly the
//!   image as it was when that message was made.
//! - I2: `seq` grows by one per message of a topic, so a lost message shows as a hole, and the next `array` heals it.
//! - I3: a result gets an `array` when it begins, when its geometry changes, at least every `keyframe_interval` while it
//!   changes, and at the end, before `end`.
//! - I4: nothing is copied for topics nobody subscribes to.
//!
//! # Limits
//! One result takes at most [`Pace::bytes_per_second`] for its changes: a picture of which every row changes with every
//! block (a sum over frames) is sent less often than one that grows row by row. Where more than [`FEW`] subscribers share
//! a feed, that is what so many of them would take, for all of them together: each is sent less often what changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::board::Acquisition;
use super::interest::Interest;
use super::lens::Lens;
use super::message::{Header, Kind, Message, VERSION};
use super::picture::Picture;
use super::snapshot::{header, image_header};
use super::status::AcquisitionStatus;

/// Most row ranges in one message; closer ones are joined, which sends some unchanged rows.
const RANGES_MAX: usize = 32;
/// So many subscribers are served as if each were alone.
const FEW: u64 = 4;
/// What a message costs a crowd beside its bytes, as bytes: a system call for each subscriber.
const MESSAGE_BYTES: u64 = 4096;
/// Topic part and `acq` while there is no acquisition.
const NO_ACQUISITION: &str = "none";
/// Beyond every pause that a feed keeps.
const LONGER_THAN_ANY_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// How often to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Shortest time between two updates of one result.
    pub update_interval: Duration,
    /// Longest time without a whole image while it changes.
    pub keyframe_interval: Duration,
    /// Shortest time between two whole images of one result for new subscribers, however many come.
    pub keyframe_pause: Duration,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Most bytes per second for the changes of one result.
    pub bytes_per_second: u64,
    /// Every change is sent as a whole image: for subscribers that know nothing of rows.
    pub is_whole: bool,
    /// Subscribers who get every message of the feed.
    pub audience: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            update_interval: Duration::from_millis(4),
            keyframe_interval: Duration::from_secs(2),
            keyframe_pause: Duration::from_millis(50),
            heartbeat_interval: Duration::from_secs(1),
            bytes_per_second: 8 << 20,
            is_whole: false,
            audience: 1,
        }
    }
}

impl Pace {
    /// How long a message of so many bytes keeps the next one of its result waiting.
    fn rest(&self, bytes: usize) -> Duration {
        let (bytes, rate) = match self.is_crowded() {
            false => (bytes as u64, self.bytes_per_second),
            true => (
                (bytes as u64).saturating_add(MESSAGE_BYTES).saturating_mul(self.audience),
                self.bytes_per_second.saturating_mul(FEW),
            ),
        };
        Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
    }

    fn is_crowded(&self) -> bool {
        self.audience > FEW
    }
}

/// What is known of one topic's past.
#[derive(Debug)]
struct Topic {
    name: String,
    seq: u64,
    wanted: bool,
    /// A new subscriber waits for the present state.
    asked: bool,
}

impl Topic {
    fn new(name: String, interest: &Interest) -> Self {
        Self { wanted: interest.wants(&name), name, seq: 0, asked: false }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }
}

#[derive(Debug)]
struct ResultTrack {
    topic: Topic,
    version: u64,
    config: u32,
    resume_at: Option<Instant>,
    keyframe_at: Option<Instant>,
    keyframe_version: u64,
    keyframe_resume_at: Option<Instant>,
    ended: bool,
}

/// What to do with a result.
enum Due {
    Now(Kind),
    At(Instant),
    Nothing,
}

impl ResultTrack {
    /// Who wants it already asks for it as it is: a subscription may come before the first look at the acquisition.
    fn new(topic: Topic) -> Self {
        Self {
            topic: Topic { asked: topic.wanted, ..topic },
            version: 0,
            config: 0,
            resume_at: None,
            keyframe_at: None,
            keyframe_version: 0,
            keyframe_resume_at: None,
            ended: false,
        }
    }

    /// Name of the result: the last part of its topic.
    fn name(&self) -> &str {
        self.topic.name.rsplit('/').next().unwrap_or_default()
    }

    fn due(&self, picture: &dyn Picture, is_over: bool, now: Instant, pace: &Pace) -> Due {
        let at = |time: Option<Instant>, kind| match time {
            Some(time) if time > now => Due::At(time),
            _ => Due::Now(kind),
        };
        let version = picture.version();
        if is_over && !self.ended && (self.topic.asked || version != self.keyframe_version) {
            return Due::Now(Kind::Array); // Once: no pause holds back the end.
        }
        if self.topic.asked {
            return at(self.keyframe_resume_at, Kind::Array);
        }
        let Some(keyframe_at) = self.keyframe_at else {
            return if version == self.version { Due::Nothing } else { Due::Now(Kind::Array) };
        };
        let keyframe_due = keyframe_at + pace.keyframe_interval;
        if version != self.keyframe_version && keyframe_due <= now {
            return at(self.resume_at, Kind::Array);
        }
        if version != self.version {
            let kind = if picture.config() == self.config { Kind::Rows } else { Kind::Array };
            return at(self.resume_at, kind);
        }
        if version == self.keyframe_version { Due::Nothing } else { Due::At(keyframe_due) }
    }

    /// Nobody wants this result: whoever subscribes later asks for the whole image then.
    fn skip(&mut self, picture: &dyn Picture, is_over: bool) {
        self.version = picture.version();
        self.keyframe_version = self.version;
        self.keyframe_at = None;
        self.ended = is_over;
    }

    /// The rows to send, and whether they are the whole image.
    fn rows(&self, picture: &dyn Picture, kind: Kind, pace: &Pace) -> (Vec<Range<usize>>, bool) {
        let row_count = picture.shape().first().copied().unwrap_or(0);
        if kind == Kind::Rows && !pace.is_whole {
            let changed = picture.rows_changed_since(self.version);
            let changed = joined(changed.into_iter().map(|r| r.start..r.end.min(row_count)));
            let changed_count: usize = changed.iter().map(ExactSizeIterator::len).sum();
            if 2 * changed_count < row_count.max(1) {
                return (changed, false);
            }
        }
        (std::iter::once(0..row_count).collect(), true)
    }

    /// Makes the message and notes what it contains; `None` when no row changed after all.
    fn send(
        &mut self,
        acquisition: &Acquisition,
        picture: &dyn Picture,
        kind: Kind,
        now: Instant,
        pace: &Pace,
    ) -> Option<Message> {
        let (rows, is_whole) = self.rows(picture, kind, pace);
        let is_paced = kind == Kind::Rows || pace.is_crowded();
        self.version = picture.version();
        self.config = picture.config();
        if rows.is_empty() {
            return None;
        }
        let values: Vec<f64> = rows.iter().flat_map(|rows| picture.row_values(rows.clone())).collect();
        let rest = pace.rest(values.len() * picture.precision().bytes());
        self.resume_at = Some(now + if is_paced { rest.max(pace.update_interval) } else { pace.update_interval });
        if is_whole {
            self.topic.asked = false;
            self.keyframe_at = Some(now);
            self.keyframe_version = self.version;
            self.keyframe_resume_at = Some(now + rest.max(pace.keyframe_pause));
        }
        let kind = if is_whole { Kind::Array } else { Kind::Rows };
        let frames = picture.frames();
        let mut header = header(kind, acquisition, frames);
        header.seq = self.topic.next_seq();
        header.result = Some(picture.name().to_owned());
        header.image = Some(image_header(picture, acquisition, &rows));
        Some(Message { topic: self.topic.name.clone(), header, values: Some(values) })
    }

    fn end(&mut self, acquisition: &Acquisition, picture: &dyn Picture) -> Message {
        self.ended = true;
        let mut header = header(Kind::End, acquisition, picture.frames());
        header.seq = self.topic.next_seq();
        header.result = Some(picture.name().to_owned());
        header.state = Some(acquisition.state);
        Message { topic: self.topic.name.clone(), header, values: None }
    }
}

/// Joins touching ranges, and the closest ones until at most [`RANGES_MAX`] are left; empty ranges vanish.
fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut touching: Vec<Range<usize>> = Vec::new();
    for range in ranges.filter(|range| !range.is_empty()) {
        match touching.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => touching.push(range),
        }
    }
    if touching.len() <= RANGES_MAX {
        return touching;
    }
    let mut by_gap: Vec<usize> = (1..touching.len()).collect();
    by_gap.sort_by_key(|&i| std::cmp::Reverse(touching[i].start - touching[i - 1].end));
    by_gap.truncate(RANGES_MAX - 1);
    by_gap.sort_unstable();
    let starts = std::iter::once(0).chain(by_gap.iter().copied());
    let ends = by_gap.iter().copied().chain(std::iter::once(touching.len()));
    starts.zip(ends).map(|(first, end)| touching[first].start..touching[end - 1].end).collect()
}

/// One acquisition's topics.
#[derive(Debug)]
struct Track {
    id: [u8; 16],
    id_text: String,
    results: Vec<ResultTrack>,
    state: Topic,
    heartbeat: Topic,
    /// State and gaps as last sent, to send them again when they change.
    sent_state: Option<AcquisitionStatus>,
    state_resume_at: Option<Instant>,
}

impl Track {
    fn new(acquisition: &Acquisition, interest: &Interest) -> Self {
        let id_text = acquisition.id_text();
        let topic = |last: &str| Topic::new(format!("v1/{id_text}/{last}"), interest);
        let names =
            (0..acquisition.pictures.count()).map(|index| acquisition.pictures.picture(index).name().to_owned());
        Self {
            id: acquisition.id,
            results: names.map(|name| ResultTrack::new(topic(&name))).collect(),
            state: topic("state"),
            heartbeat: topic("heartbeat"),
            sent_state: None,
            state_resume_at: None,
            id_text,
        }
    }

    /// Keeps one track per image, in the order of the images: the list of reductions may have changed.
    fn follow(&mut self, acquisition: &Acquisition, interest: &Interest) {
        let pictures = || (0..acquisition.pictures.count()).map(|index| acquisition.pictures.picture(index));
        let same = self.results.len() == acquisition.pictures.count()
            && self.results.iter().zip(pictures()).all(|(result, picture)| result.name() == picture.name());
        if same {
            return;
        }
        let mut old: Vec<ResultTrack> = self.results.drain(..).collect();
        self.results.extend(pictures().map(|picture| {
            let known = old.iter().position(|result| result.name() == picture.name());
            let topic = || Topic::new(format!("v1/{}/{}", self.id_text, picture.name()), interest);
            known.map_or_else(|| ResultTrack::new(topic()), |index| old.swap_remove(index))
        }));
    }

    fn topics(&mut self) -> impl Iterator<Item = &mut Topic> {
        self.results.iter_mut().map(|result| &mut result.topic).chain([&mut self.state, &mut self.heartbeat])
    }

    fn collect(&mut self, acquisition: &Acquisition, now: Instant, (pace, lens): (&Pace, Lens), out: &mut Collected) {
        let is_over = acquisition.state.is_over();
        let mut ends = Vec::new();
        let pictures = (0..acquisition.pictures.count()).map(|index| lens.view(acquisition.pictures.picture(index)));
        for (result, picture) in self.results.iter_mut().zip(pictures) {
            let asked = result.topic.asked;
            if !result.topic.wanted || picture.shape().is_empty() {
                result.skip(&*picture, is_over);
                continue;
            }
            match result.due(&*picture, is_over, now, pace) {
                Due::Now(kind) => {
                    let sent = result.send(acquisition, &*picture, kind, now, pace);
                    out.messages.extend(sent);
                    out.wake_by(result.resume_at);
                }
                Due::At(time) => {
                    out.wake_by(Some(time));
                    out.rest_until(time);
                    continue;
                }
                Due::Nothing => {}
            }
            if !is_over {
                out.rest_until(result.resume_at.unwrap_or(now));
            }
            if is_over && (!result.ended || asked) {
                ends.push(result.end(acquisition, &*picture));
            }
        }
        out.messages.append(&mut ends);
        self.collect_state(acquisition, now, pace, out);
    }

    /// `state`, when something but the images changed; `end` on the same topic, once, and to who asks later.
    fn collect_state(&mut self, acquisition: &Acquisition, now: Instant, pace: &Pace, out: &mut Collected) {
        // Comparing states takes some microseconds of the lock: not with every merge. News of the end never waits: the
        // board may close right after it.
        let ends = acquisition.state.is_over() && !self.sent_state.as_ref().is_some_and(|sent| sent.state.is_over());
        if !ends && let Some(time) = self.state_resume_at.filter(|&time| time > now) {
            out.wake_by(Some(time));
            return;
        }
        self.state_resume_at = Some(now + pace.keyframe_pause);
        let summary = AcquisitionStatus { visible: 0, durable: 0, ..AcquisitionStatus::summary(acquisition) };
        let asked = std::mem::take(&mut self.state.asked);
        let sent = self.sent_state.as_ref();
        let was_over = sent.is_some_and(|sent| sent.state.is_over());
        let is_due = self.state.wanted && (asked || sent != Some(&summary));
        self.sent_state = Some(summary);
        if !is_due {
            return;
        }
        let mut message = self.state_message(Kind::State, acquisition);
        message.header.status = Some(Box::new(AcquisitionStatus::of(acquisition)));
        out.messages.push(message);
        if acquisition.state.is_over() && (!was_over || asked) {
            out.messages.push(self.state_message(Kind::End, acquisition));
        }
    }

    fn state_message(&mut self, kind: Kind, acquisition: &Acquisition) -> Message {
        let mut header = header(kind, acquisition, 0..acquisition.visible());
        header.seq = self.state.next_seq();
        header.state = Some(acquisition.state);
        Message { topic: self.state.name.clone(), header, values: None }
    }

    fn heartbeat(&mut self, acquisition: &Acquisition) -> Message {
        let mut header = header(Kind::Heartbeat, acquisition, 0..acquisition.visible());
        header.seq = self.heartbeat.next_seq();
        header.state = Some(acquisition.state);
        let names =
            (0..acquisition.pictures.count()).map(|index| acquisition.pictures.picture(index).name().to_owned());
        let sent = self.results.iter().zip(names).filter(|(result, _)| result.topic.seq > 0);
        header.seqs = Some(sent.map(|(result, name)| (name, result.topic.seq - 1)).collect());
        Message { topic: self.heartbeat.name.clone(), header, values: None }
    }
}

/// What a feed wants done.
#[derive(Debug, Default)]
pub struct Collected {
    /// Messages to send, in this order; `time_ns` is not yet filled in.
    pub messages: Vec<Message>,
    /// Call again at this time, even if the board does not change.
    pub wake_at: Option<Instant>,
    /// No change of an image that anybody wants can be sent before this time; `None` when nobody wants any.
    pub rest_until: Option<Instant>,
}

impl Collected {
    fn wake_by(&mut self, time: Option<Instant>) {
        self.wake_at = [self.wake_at, time].into_iter().flatten().min();
    }

    fn rest_until(&mut self, time: Instant) {
        self.rest_until = Some(self.rest_until.map_or(time, |other| other.min(time)));
    }
}

/// One transport's view of the board; see the module's documentation.
#[derive(Debug)]
pub struct Feed {
    pace: Pace,
    lens: Lens,
    interest: Interest,
    tracks: Vec<Track>,
    heartbeat_at: Option<Instant>,
    idle_heartbeat: Topic,
}

impl Feed {
    /// A feed of images as they are, which has sent nothing yet.
    pub fn new(pace: Pace, interest: Interest) -> Self {
        Self::through(Lens::default(), pace, interest)
    }

    /// A feed of images as this lens shows them.
    pub fn through(lens: Lens, pace: Pace, interest: Interest) -> Self {
        let idle_heartbeat = Topic::new(format!("v1/{NO_ACQUISITION}/heartbeat"), &interest);
        Self { pace, lens, interest, tracks: Vec::new(), heartbeat_at: None, idle_heartbeat }
    }

    /// Somebody subscribed to this prefix: the topics it matches get their present state with the next `collect`.
    /// Acquisitions that are not the newest answer only to a prefix that names them.
    pub fn subscribed(&mut self, prefix: &[u8]) {
        self.interest.add(prefix);
        self.refresh_interest();
        let newest = self.tracks.len().saturating_sub(1);
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let is_named = prefix.len() >= "v1/".len() + track.id_text.len();
            if index == newest || is_named {
                track.topics().filter(|t| t.name.as_bytes().starts_with(prefix)).for_each(|t| t.asked = true);
            }
        }
    }

    /// The last subscription to this prefix is gone.
    pub fn unsubscribed(&mut self, prefix: &[u8]) {
        self.interest.remove(prefix);
        self.refresh_interest();
    }

    fn refresh_interest(&mut self) {
        let interest = &self.interest;
        let topics = self.tracks.iter_mut().flat_map(Track::topics).chain([&mut self.idle_heartbeat]);
        topics.for_each(|topic| topic.wanted = interest.wants(&topic.name));
    }

    /// A message of this topic could not be sent: its subscribers need the whole state.
    pub fn lost(&mut self, topic: &str) {
        let topics = self.tracks.iter_mut().flat_map(Track::topics);
        topics.filter(|t| t.name == topic).for_each(|t| t.asked = true);
    }

    /// What to send now. Call under the board's lock: it copies the rows that changed.
    pub fn collect(&mut self, acquisitions: &VecDeque<Acquisition>, now: Instant) -> Collected {
        self.follow(acquisitions);
        let mut out = Collected::default();
        for (track, acquisition) in self.tracks.iter_mut().zip(acquisitions) {
            track.collect(acquisition, now, (&self.pace, self.lens), &mut out);
        }
        if self.heartbeat_at.is_none_or(|time| time <= now) {
            self.heartbeat_at = Some(now + self.pace.heartbeat_interval);
            out.messages.extend(self.heartbeat(acquisitions));
        }
        out.wake_by(self.heartbeat_at);
        out
    }

    /// So many subscribers get every message from now on.
    pub fn share(&mut self, audience: usize) {
        self.pace.audience = audience as u64;
    }

    /// What is still to be sent when the transport ends: as [`Self::collect`] once every pause is over.
    pub fn collect_last(&mut self, acquisitions: &VecDeque<Acquisition>, now: Instant) -> Collected {
        self.collect(acquisitions, now + LONGER_THAN_ANY_PAUSE)
    }

    /// Keeps one track per acquisition, in the board's order; those that left the board are forgotten.
    fn follow(&mut self, acquisitions: &VecDeque<Acquisition>) {
        let same = self.tracks.len() == acquisitions.len()
            && self.tracks.iter().zip(acquisitions).all(|(track, acquisition)| track.id == acquisition.id);
        if same {
            let tracks = self.tracks.iter_mut().zip(acquisitions);
            tracks.for_each(|(track, acquisition)| track.follow(acquisition, &self.interest));
            return;
        }
        let mut old: BTreeMap<[u8; 16], Track> = self.tracks.drain(..).map(|track| (track.id, track)).collect();
        let track = |acquisition: &Acquisition| {
            old.remove(&acquisition.id).unwrap_or_else(|| Track::new(acquisition, &self.interest))
        };
        self.tracks = acquisitions.iter().map(track).collect();
    }

    fn heartbeat(&mut self, acquisitions: &VecDeque<Acquisition>) -> Option<Message> {
        if let (Some(track), Some(acquisition)) = (self.tracks.last_mut(), acquisitions.back()) {
            return track.heartbeat.wanted.then(|| track.heartbeat(acquisition));
        }
        if !self.idle_heartbeat.wanted {
            return None;
        }
        let header = Header {
            v: VERSION,
            kind: Kind::Heartbeat,
            acq: NO_ACQUISITION.to_owned(),
            result: None,
            seq: self.idle_heartbeat.next_seq(),
            time_ns: 0,
            frame_from: 0,
            frame_to: 0,
            visible: 0,
            durable: 0,
            state: None,
            status: None,
            seqs: None,
            image: None,
        };
        Some(Message { topic: self.idle_heartbeat.name.clone(), header, values: None })
    }
}

#[cfg(test)]
mod tests;
