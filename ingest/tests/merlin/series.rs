//! Beginnings and ends of series, over scripted streams.

use std::sync::Arc;
use std::time::Duration;

use ronchi_ingest::SourceError;
use ronchi_ingest::merlin::{MerlinOptions, MerlinSource};
use ronchi_pipeline::{EndReason, LinkCounters, NavShape, SigShape};

use crate::driver::{Driver, Manner, Part, Run, ScriptDial};
use crate::stream::{Kind, acquisition, message};

const HOUR: Duration = Duration::from_secs(3600);

fn options() -> MerlinOptions {
    MerlinOptions { linger: HOUR, silence: HOUR, backoff: Duration::ZERO, ..MerlinOptions::default() }
}

struct Played {
    runs: Vec<Run>,
    errors: Vec<SourceError>,
    counters: Arc<LinkCounters>,
}

fn play(connections: Vec<Vec<Part>>, options: MerlinOptions) -> Played {
    let counters = Arc::new(LinkCounters::default());
    let mut source = MerlinSource::over(ScriptDial::boxed(connections), options, Arc::clone(&counters));
    let manner = Manner::default();
    let pool = Driver::pool(manner.block_bytes);
    let mut driver = Driver::new(&mut source, &pool, Arc::clone(&counters), manner);
    let runs = driver.play(100);
    Played { runs, errors: driver.errors, counters }
}

fn bytes(messages: &[Vec<u8>]) -> Part {
    Part::Bytes(messages.concat())
}

/// The announcement says what the headers say, however late the first frame comes.
#[test]
fn announcement() {
    let kind = Kind::QUAD_GAP_1;
    let head = bytes(&[acquisition(6, "ScanX:\t3\r\nScanY:\t2\r\n")]);
    let played = play(vec![vec![head, Part::Nothing, Part::Nothing, bytes(&[kind.message(1, 5)])]], options());
    let run = &played.runs[0];
    assert_eq!(run.announcement.series_id, "15/04/2021 14:43:45 #1");
    assert_eq!(run.announcement.frame_count, Some(6));
    assert_eq!(run.announcement.scan, Some(NavShape { height: 2, width: 3 }));
    assert_eq!(run.announcement.detector, SigShape { height: 514, width: 514 });
    assert_eq!(run.announcement.pixel.numpy_name(), "|u1");
    assert!(run.announcement.vendor_header.starts_with("HDR,\t\r\nTime and Date"));
    assert_eq!(run.frames[&0].0, kind.payload(5).1);
    assert_eq!((run.reason, run.received_count), (EndReason::Disconnected, 1));
}

/// Processed pixels stay big-endian.
#[test]
fn processed_pixels_stay_as_they_are() {
    let played = play(vec![vec![bytes(&[acquisition(1, ""), Kind::U16.message(1, 9)])]], options());
    let run = &played.runs[0];
    assert_eq!((run.announcement.pixel.numpy_name(), run.reason), (">u2", EndReason::Complete));
    assert_eq!(run.frames[&0].0, Kind::U16.payload(9).0);
}

/// An acquisition header followed by another one is an empty series: nothing is said of it.
#[test]
fn empty_series_are_passed_over() {
    let stream = bytes(&[acquisition(5, ""), acquisition(7, ""), acquisition(1, ""), Kind::U16.message(1, 1)]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs.len(), 1);
    assert_eq!(played.runs[0].announcement.frame_count, Some(1));
}

/// An acquisition header shorter than the head of a frame ends a series at once, not when more bytes come.
#[test]
fn short_headers_end_a_series() {
    let short = message(b"HDR,\nFrames in Acquisition (Number):\t1\nEnd\t");
    let stream = bytes(&[acquisition(3, ""), Kind::U16.message(1, 1), short]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs[0].reason, EndReason::Stopped);
}

/// Frames without an acquisition header, left over from an earlier run, are skipped and counted.
#[test]
fn frames_before_the_header_are_skipped() {
    let stream =
        bytes(&[Kind::U16.message(7, 1), Kind::U16.message(8, 1), acquisition(1, ""), Kind::U16.message(1, 1)]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs[0].reason, EndReason::Complete);
    assert_eq!(LinkCounters::read(&played.counters.unplaced_frames), 2);
}

/// Garbage on connecting is searched for the next acquisition header, also when that is cut in two.
#[test]
fn garbage_on_connecting() {
    let good = [acquisition(2, ""), Kind::U16.message(1, 1), Kind::U16.message(2, 2)].concat();
    let mut stream = b"MPX,00000zz".repeat(2000);
    stream.extend(b"MPX,0000000099,MQ1");
    let cut = stream.len() + 9;
    stream.extend(good);
    let parts = vec![Part::Bytes(stream[..cut].to_vec()), Part::Nothing, Part::Bytes(stream[cut..].to_vec())];
    let played = play(vec![parts], options());
    assert_eq!((played.runs[0].reason, played.runs[0].received_count), (EndReason::Complete, 2));
    assert_eq!(LinkCounters::read(&played.counters.garbage_messages), 1);
}

/// An acquisition header of a length out of limits is garbage like any other: the search goes on behind it.
#[test]
fn oversized_acquisition_headers() {
    let stream = bytes(&[b"MPX,9999999999,HDR,".to_vec(), acquisition(1, ""), Kind::U16.message(1, 1)]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs[0].reason, EndReason::Complete);
    assert_eq!(LinkCounters::read(&played.counters.garbage_messages), 1);
}

/// Formats that are not supported end in a message with field, value and what is allowed; the next series is received.
#[test]
fn unsupported_formats() {
    let cases = [
        (Kind { code: "U01", ..Kind::U16 }, "pixel depth", "U08, U16, U32, R64"),
        (Kind { depth: 24, ..Kind::RAW12 }, "width x height", "512 x (1 to 256) for 1x1 at 24 bit"),
        (Kind { layout: "2x2", depth: 24, ..Kind::QUAD_GAP_1 }, "width x height", "1024 x 256"),
        (Kind { depth: 3, ..Kind::RAW1 }, "counter depth", "1, 6, 12, 24"),
        (Kind { layout: "Nx1", ..Kind::RAW1 }, "layout of raw frames", "2x2G"),
        (Kind { height: 5, ..Kind::U16 }, "payload bytes", "one whole frame per message"),
    ];
    for (kind, field, allowed) in cases {
        let body = [kind.header(1), Kind::U16.payload(1).0].concat();
        let stream = [acquisition(1, ""), message(&body), acquisition(1, ""), Kind::U16.message(1, 1)];
        let played = play(vec![vec![bytes(&stream)]], options());
        assert_eq!(played.runs.len(), 1, "{kind:?}");
        match &played.errors[0] {
            SourceError::Protocol { got, expected, .. } => {
                assert!(got.contains(field) && expected.contains(allowed), "{got} / {expected}");
            }
            other => panic!("{other}"),
        }
    }
}

/// A series that loses its last frames ends complete after lingering, with a gap.
#[test]
fn lingering_ends() {
    let stream = vec![bytes(&[acquisition(3, ""), Kind::U16.message(1, 1), Kind::U16.message(3, 3)]), Part::Nothing];
    let played = play(vec![stream], MerlinOptions { linger: Duration::ZERO, ..options() });
    let run = &played.runs[0];
    assert_eq!((run.reason, run.received_count, run.gaps.frame_count()), (EndReason::Complete, 2, 1));
}

/// Silence ends an endless series as stopped, and one that still expects frames as disconnected.
#[test]
fn silence_ends() {
    for (announced, reason) in [(0, EndReason::Stopped), (9, EndReason::Disconnected)] {
        let first = vec![bytes(&[acquisition(announced, ""), Kind::U16.message(1, 1)]), Part::Nothing, Part::Nothing];
        let played = play(vec![first], MerlinOptions { silence: Duration::ZERO, ..options() });
        assert_eq!((played.runs[0].reason, played.runs[0].received_count), (reason, 1));
    }
}

/// After a lost connection the source connects again and goes on with the next acquisition.
#[test]
fn reconnects() {
    let half = Kind::U16.message(2, 2)[..420].to_vec();
    let first = vec![bytes(&[acquisition(3, ""), Kind::U16.message(1, 1), half])];
    let second = vec![bytes(&[acquisition(1, ""), Kind::U16.message(1, 1)])];
    let played = play(vec![first, vec![], second], options());
    assert_eq!(
        played.runs.iter().map(|run| run.reason).collect::<Vec<_>>(),
        [EndReason::Disconnected, EndReason::Complete]
    );
    assert_eq!(played.runs[1].announcement.series_id, "15/04/2021 14:43:45 #2");
    assert_eq!(LinkCounters::read(&played.counters.rejected_frames), 1);
    // Three connections were lost, and a fourth refused.
    assert_eq!(LinkCounters::read(&played.counters.reconnects), 4);
    assert_eq!(LinkCounters::read(&played.counters.connected), 0);
}

/// An oversized message is loss of sync, and nothing of its size is allocated.
#[test]
fn oversized_messages() {
    let stream = bytes(&[acquisition(3, ""), Kind::U16.message(1, 1), b"MPX,9999999999,MQ1,000002".to_vec()]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs[0].reason, EndReason::Disconnected);
    assert!(matches!(played.errors[0], SourceError::Protocol { .. }));
}

/// A broken header with a wild sequence costs its frame only, not all frames up to that number.
#[test]
fn wild_sequences_of_broken_frames() {
    let wild = message(b"MQ1,000900,00000,01,0008,0004,U16,   1x1,01");
    let stream = bytes(&[acquisition(1000, ""), Kind::U16.message(1, 1), wild, Kind::U16.message(3, 3)]);
    let played = play(vec![vec![stream]], options());
    assert_eq!(played.runs[0].frames.keys().copied().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(LinkCounters::read(&played.counters.garbage_messages), 1);
}
