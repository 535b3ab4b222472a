use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::live::State;
use crate::live::testing::{Canvas, FakePicture, acquisition, images, same};

fn board_of(acquisition: Acquisition) -> VecDeque<Acquisition> {
    VecDeque::from([acquisition])
}

fn kinds(messages: &[Message]) -> Vec<(&str, Kind)> {
    let last = |topic: &'_ str| topic.rfind('/').map_or(0, |at| at + 1);
    messages.iter().map(|m| (&m.topic[last(&m.topic)..], m.header.kind)).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Row(usize),
    Wait(u64),
    Subscribe,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..100).prop_map(Step::Row),
        3 => (0_u64..3000).prop_map(Step::Wait),
        1 => Just(Step::Subscribe),
    ]
}

proptest! {
    /// Rows in any order, with any waiting, losses and late subscribers: whoever saw no hole since an array holds the
    /// image exactly, and after the end everybody does who got the last array.
    #[test]
    fn rows_reassemble_to_the_image(
        steps in proptest::collection::vec(step(), 1..120),
        lost in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[100, 3])]));
        let mut feed = Feed::new(Pace::default(), Interest::everything());
        let (mut faithful, mut lossy) = (Canvas::default(), Canvas::default());
        let mut now = Instant::now();
        let mut losses = lost.iter().cycle();
        let mut value = 0.0;
        for (number, step) in steps.iter().chain([&Step::Row(99), &Step::Wait(5000)]).enumerate() {
            match step {
                Step::Row(row) => {
                    value += 1.0;
                    images(&mut board[0])[0].set_row(*row, value);
                }
                Step::Wait(ms) => now += Duration::from_millis(*ms),
                Step::Subscribe => feed.subscribed(b"v1/"),
            }
            if number == steps.len() {
                board[0].end(State::Complete, SystemTime::UNIX_EPOCH);
            }
            let collected = feed.collect(&board, now);
            let current = images(&mut board[0])[0].values.clone();
            for message in collected.messages.iter().filter(|m| m.topic.ends_with("/ring")) {
                faithful.take(&message.header, message.values.as_deref());
                prop_assert_eq!(faithful.next_seq, Some(message.header.seq + 1));
                prop_assert!(same(&faithful.values, &current), "after {:?}", message.header);
                if number >= steps.len() || !losses.next().expect("cycle") {
                    lossy.take(&message.header, message.values.as_deref());
                    prop_assert!(lossy.next_seq.is_none() || same(&lossy.values, &current));
                }
            }
        }
        let current = &images(&mut board[0])[0].values;
        prop_assert!(faithful.is_ended && same(&faithful.values, current));
        prop_assert!(lossy.is_ended && same(&lossy.values, current));
    }

    /// Joined ranges cover all that was given, in order, and are few.
    #[test]
    fn ranges_are_joined(rows in proptest::collection::btree_set(0_usize..2000, 0..300)) {
        let ranges = joined(rows.iter().map(|&row| row..row + 1));
        prop_assert!(ranges.len() <= RANGES_MAX);
        prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
        prop_assert!(rows.iter().all(|row| ranges.iter().any(|range| range.contains(row))));
        prop_assert!(rows.is_empty() == ranges.is_empty());
        let bounds = |f: Option<usize>| f.unwrap_or_default();
        prop_assert_eq!(bounds(ranges.first().map(|r| r.start)), bounds(rows.first().copied()));
    }
}

/// Updates of one result keep their interval, however often the board changes; nothing is lost by it.
#[test]
fn updates_keep_their_interval() {
    let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[100, 3])]));
    let mut feed = Feed::new(Pace::default(), Interest::everything());
    let start = Instant::now();
    let (mut sent, mut rows) = (0, 0);
    for tenth_ms in 0..1000 {
        images(&mut board[0])[0].set_row(tenth_ms / 10, 1.0);
        let collected = feed.collect(&board, start + Duration::from_micros(100 * tenth_ms as u64));
        for message in collected.messages.iter().filter(|m| m.header.kind == Kind::Rows) {
            sent += 1;
            rows += message.header.image.as_ref().expect("image").shape[0];
        }
    }
    assert!((20..=25).contains(&sent), "{sent} messages in 100 ms");
    assert!(rows < 200, "{rows} rows sent for 100 changed ones");
}

/// A picture that changes everywhere is held to its share of bytes, also for many new subscribers.
#[test]
fn whole_images_keep_to_their_rate() {
    let pace = Pace { bytes_per_second: 1 << 20, ..Pace::default() };
    let mut board = board_of(acquisition(1, vec![FakePicture::new("sum", &[64, 64])])); // 32 KiB
    let mut feed = Feed::new(pace, Interest::everything());
    let start = Instant::now();
    let mut arrays = 0;
    for ms in 0..1000 {
        (0..64).for_each(|row| images(&mut board[0])[0].set_row(row, f64::from(ms)));
        let collected = feed.collect(&board, start + Duration::from_millis(ms as u64));
        arrays += collected.messages.iter().filter(|m| m.header.kind == Kind::Array).count();
    }
    assert!((28..=34).contains(&arrays), "{arrays} arrays of 32 KiB in a second");
    let mut for_subscribers = 0;
    for ms in 1000..2000 {
        feed.subscribed(b"v1/");
        let collected = feed.collect(&board, start + Duration::from_millis(ms));
        for_subscribers += collected.messages.iter().filter(|m| m.header.kind == Kind::Array).count();
    }
    assert!((15..=25).contains(&for_subscribers), "{for_subscribers} arrays for 1000 subscribers in a second");
}

/// After everything that is wanted was sent, no look is worth while until the first image may be sent again; while
/// something may be sent, or nobody wants anything, there is no such time.
#[test]
fn a_feed_says_how_long_it_rests() {
    let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[10, 3])]));
    let mut feed = Feed::new(Pace::default(), Interest::default());
    let start = Instant::now();
    assert_eq!(feed.collect(&board, start).rest_until, None, "nobody wants anything");
    feed.subscribed(b"v1/");
    images(&mut board[0])[0].set_row(4, 1.0);
    let sent = feed.collect(&board, start);
    assert!(sent.messages.iter().any(|message| message.header.kind == Kind::Array));
    assert_eq!(sent.rest_until, Some(start + Pace::default().update_interval));
    let later = start + Duration::from_millis(50);
    assert!(feed.collect(&board, later).rest_until <= Some(later), "a change would be sent at once");
    board[0].end(State::Complete, SystemTime::UNIX_EPOCH);
    assert_eq!(feed.collect(&board, later + Duration::from_secs(1)).rest_until, None, "it has ended");
}

/// Nothing is made for topics nobody wants; a subscriber gets the present state, the end included, and only for the
/// newest acquisition unless it names another.
#[test]
fn subscribers_get_the_present_state() {
    let mut board = VecDeque::new();
    let mut feed = Feed::new(Pace::default(), Interest::default());
    for id in 1..=3 {
        board.push_back(acquisition(id, vec![FakePicture::new("ring", &[10, 3])]));
        images(&mut board[usize::from(id) - 1])[0].set_row(4, 1.0);
        assert!(feed.collect(&board, Instant::now()).messages.is_empty());
        board[usize::from(id) - 1].end(State::Interrupted, SystemTime::UNIX_EPOCH);
    }
    let now = Instant::now() + Duration::from_secs(10);
    assert!(feed.collect(&board, now).messages.is_empty());
    feed.subscribed(b"v1/");
    let messages = feed.collect(&board, now + Duration::from_millis(900)).messages;
    let expected = [("ring", Kind::Array), ("ring", Kind::End), ("state", Kind::State), ("state", Kind::End)];
    assert_eq!(kinds(&messages), expected);
    assert!(messages.iter().all(|m| m.header.acq == board[2].id_text()));
    assert_eq!(messages[2].header.status.as_ref().expect("status").results[0].shape, [10, 3]);

    let named = format!("v1/{}/ring", board[0].id_text());
    feed.subscribed(named.as_bytes());
    let messages = feed.collect(&board, now + Duration::from_millis(950)).messages;
    assert_eq!(kinds(&messages), [("ring", Kind::Array), ("ring", Kind::End)]);
    assert_eq!(messages[0].header.acq, board[0].id_text());
    feed.unsubscribed(b"v1/");
    let messages = feed.collect(&board, now + Duration::from_secs(100)).messages;
    assert!(messages.is_empty(), "{:?}", kinds(&messages));
}

/// Who subscribes before the first look at an acquisition gets its image, although nothing has changed in it.
#[test]
fn an_early_subscriber_gets_the_image() {
    let board = board_of(acquisition(1, vec![FakePicture::new("ring", &[10, 3])]));
    let mut feed = Feed::new(Pace::default(), Interest::default());
    feed.subscribed(b"v1/");
    let messages = feed.collect(&board, Instant::now()).messages;
    let expected = [("ring", Kind::Array), ("state", Kind::State), ("heartbeat", Kind::Heartbeat)];
    assert_eq!(kinds(&messages), expected);
}

/// Heartbeats come once per second, name the newest messages, and also come while there is nothing to show.
#[test]
fn heartbeats() {
    let mut feed = Feed::new(Pace::default(), Interest::everything());
    let start = Instant::now();
    let first = feed.collect(&VecDeque::new(), start);
    assert_eq!(first.messages[0].topic, "v1/none/heartbeat");
    assert_eq!(first.wake_at, Some(start + Duration::from_secs(1)));
    assert!(feed.collect(&VecDeque::new(), start + Duration::from_millis(999)).messages.is_empty());

    let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[10, 3])]));
    images(&mut board[0])[0].set_row(0, 1.0);
    let messages = feed.collect(&board, start + Duration::from_secs(1)).messages;
    assert_eq!(kinds(&messages), [("ring", Kind::Array), ("state", Kind::State), ("heartbeat", Kind::Heartbeat)]);
    assert_eq!(messages[2].header.seqs, Some(BTreeMap::from([("ring".to_owned(), 0)])));
    assert_eq!(messages[2].header.state, Some(State::Running));
}

/// No pause holds back the end: whatever was sent or asked for just before, the next `collect` has the last array,
/// the state and both ends; later subscribers are paced again.
#[test]
fn the_end_never_waits() {
    for is_asked in [false, true] {
        let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[100, 3])]));
        let mut feed = Feed::new(Pace::default(), Interest::everything());
        let now = Instant::now();
        images(&mut board[0])[0].set_row(0, 1.0);
        assert!(!feed.collect(&board, now).messages.is_empty());
        if is_asked {
            feed.subscribed(b"v1/");
        } else {
            images(&mut board[0])[0].set_row(1, 1.0);
        }
        assert!(feed.collect(&board, now).messages.is_empty(), "all topics pause");
        board[0].end(State::Complete, SystemTime::UNIX_EPOCH);
        let messages = feed.collect(&board, now).messages;
        let last = [("ring", Kind::Array), ("ring", Kind::End), ("state", Kind::State), ("state", Kind::End)];
        assert_eq!(kinds(&messages), last);
        assert_eq!(messages[2].header.state, Some(State::Complete));
        feed.subscribed(b"v1/");
        assert!(feed.collect(&board, now).messages.is_empty());
        assert_eq!(kinds(&feed.collect_last(&board, now).messages)[..4], last);
    }
}

/// A message that could not be sent is made good by a whole image.
#[test]
fn a_lost_message_is_followed_by_an_array() {
    let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[100, 3])]));
    let mut feed = Feed::new(Pace::default(), Interest::everything());
    let start = Instant::now();
    images(&mut board[0])[0].set_row(0, 1.0);
    feed.collect(&board, start);
    images(&mut board[0])[0].set_row(1, 1.0);
    let rows = feed.collect(&board, start + Duration::from_millis(10)).messages;
    assert_eq!(kinds(&rows), [("ring", Kind::Rows)]);
    feed.lost(&rows[0].topic);
    let soon = feed.collect(&board, start + Duration::from_millis(20));
    assert!(soon.messages.is_empty());
    let again = feed.collect(&board, soon.wake_at.expect("pause")).messages;
    assert_eq!(kinds(&again), [("ring", Kind::Array)]);
}

/// The list of reductions changes: what stays goes on with its numbers, what is new comes whole under its own name, and
/// what is gone says nothing more.
#[test]
fn images_come_and_go() {
    let fakes = |names: [&str; 2]| names.map(|name| FakePicture::new(name, &[4, 3]));
    let mut board = board_of(acquisition(1, fakes(["adf", "bf"]).to_vec()));
    let mut feed = Feed::new(Pace::default(), Interest::everything());
    let mut now = Instant::now();
    images(&mut board[0]).iter_mut().for_each(|image| image.set_row(0, 1.0));
    let named = |collected: &Collected| -> Vec<(String, u64, Kind)> {
        let of_results = collected.messages.iter().filter(|message| message.header.result.is_some());
        of_results.map(|m| (m.header.result.clone().unwrap_or_default(), m.header.seq, m.header.kind)).collect()
    };
    let first = feed.collect(&board, now);
    assert_eq!(named(&first), [("adf".into(), 0, Kind::Array), ("bf".into(), 0, Kind::Array)]);
    now += Duration::from_millis(100);
    let kept = images(&mut board[0]).remove(1);
    *images(&mut board[0]) = vec![kept, FakePicture::new("com", &[4, 3])];
    images(&mut board[0]).iter_mut().for_each(|image| image.set_row(1, 2.0));
    let second = feed.collect(&board, now);
    assert_eq!(named(&second), [("bf".into(), 1, Kind::Rows), ("com".into(), 0, Kind::Array)]);
    assert!(second.messages[1].topic.ends_with("/com"));
}

/// A crowd takes no more bytes than a few subscribers, so that each gets less often what changes; whoever wants whole images
/// gets nothing else; and the end is never held back.
#[test]
fn a_crowd_shares_what_a_few_would_take() {
    let messages = |audience, is_whole| {
        let mut board = board_of(acquisition(1, vec![FakePicture::new("ring", &[1000, 4])])); // 32 bytes a row.
        let mut feed = Feed::new(Pace { is_whole, ..Pace::default() }, Interest::everything());
        feed.share(audience);
        let start = Instant::now();
        let mut sent = Vec::new();
        for ms in 0..1000 {
            images(&mut board[0])[0].set_row(ms, 1.0);
            sent.extend(feed.collect(&board, start + Duration::from_millis(ms as u64)).messages);
        }
        board[0].end(State::Complete, SystemTime::UNIX_EPOCH);
        sent.extend(feed.collect(&board, start + Duration::from_secs(1)).messages);
        let kinds: Vec<Kind> = sent.iter().filter(|m| m.topic.ends_with("ring")).map(|m| m.header.kind).collect();
        assert_eq!(kinds[kinds.len() - 2..], [Kind::Array, Kind::End]);
        kinds
    };
    let alone = messages(FEW as usize, false);
    assert!(alone.len() > 200 && alone.contains(&Kind::Rows), "{} messages for a few", alone.len());
    let many = messages(200, false);
    assert!((15..=45).contains(&many.len()), "{} messages for 200", many.len());
    // The first array is what a thousand get in a second.
    assert_eq!(messages(1000, false).len(), 3);
    let whole = messages(1, true);
    assert!(whole.len() > 10 && !whole.contains(&Kind::Rows));
}
