use std::sync::Arc;
use std::time::SystemTime;

use ronchi_config::LivePlan;
use ronchi_pipeline::{GapReason, LinkCounters};
use ronchi_sinks::http::{HttpLimits, HttpServer};
use ronchi_sinks::live::{Acquisition, Board, Link, Queue, State, VolumeStatus, Wiring};

use super::*;

fn board() -> (Arc<Board>, Arc<LinkCounters>) {
    let counters: Arc<LinkCounters> = Arc::default();
    let wiring = Wiring {
        links: vec![Link { name: "merlin 127.0.0.1:6342".to_owned(), counters: Arc::clone(&counters) }],
        queues: vec![Queue { name: "raw".to_owned(), depth: Box::new(|| 2), capacity: 16 }],
        pool_free: Some(Box::new(|| 10)),
        pool_slots: 40,
        slot_bytes: 1 << 20,
        directory: Some("/".into()),
        volumes: Vec::new(),
        reserve_bytes: 0,
        write_method: "memory".to_owned(),
    };
    (Board::new(wiring), counters)
}

/// Readings one second apart give the rates, the time left and the losses in words.
#[test]
fn the_page_says_what_happens() {
    let (board, counters) = board();
    let mut first = Status::of(&board, SystemTime::UNIX_EPOCH);
    let mut acquisition = Acquisition::new([1; 16], "gold\x1b[2J", SystemTime::UNIX_EPOCH);
    acquisition.state = State::Running;
    acquisition.frame_count = Some(10_000);
    acquisition.watermarks[0].raise_visible(2500);
    acquisition.gaps.insert(GapReason::NeverArrived, 3);
    acquisition.watermarks[0].count(5, 2400);
    board.begin(acquisition);
    LinkCounters::add(&counters.frames, 2500);
    LinkCounters::add(&counters.bytes, 2_000_000_000);
    LinkCounters::add(&counters.written_bytes, 1_000_000_000);
    LinkCounters::add(&counters.waited_ns, 250_000_000);
    let mut last = Status::of(&board, SystemTime::UNIX_EPOCH);
    first.uptime_ns = 5_000_000_000;
    last.uptime_ns = 6_000_000_000;
    last.disk.free_bytes = Some(7_200_000_000_000);
    let mut striped = last.clone();
    let now = Instant::now();
    let readings = [Reading::new(first, now), Reading::new(last, now)];
    let page = screen::page(&readings, 120);
    for wanted in [
        "> gold?[2J  running, NOT RECORDING",
        "[##########..............................] 25 %, 2500 of 10000 frames, 3 s left",
        "lost      5 frames: 3 never arrived",
        "in        2500 frames/s, 2.00 GB/s",
        "backlog   2 blocks, at most 1 ms (raw 2/16; pool 30/40); receiver waits 25 % of the time",
        "disk      7.20 TB free, 2 h 0 min at 1.00 GB/s",
        "link 0    merlin 127.0.0.1:6342  NOT CONNECTED, 2500 frames/s, 2.00 GB/s",
    ] {
        assert!(page.contains(wanted), "{wanted:?} not in\n{page}");
    }
    assert!(!page.contains('\x1b'));
    let volume = |free_bytes| VolumeStatus { directory: "/nvme".to_owned(), free_bytes };
    striped.disk.volumes = vec![volume(Some(3_000_000_000_000)), volume(Some(2_000_000_000_000))];
    let page = screen::page(&[Reading::new(striped.clone(), now)], 120);
    assert!(page.contains("disk      2.00 TB free on the fullest of 2 volumes"), "{page}");
    striped.disk.volumes.push(volume(None));
    let page = screen::page(&[Reading::new(striped, now)], 120);
    assert!(page.contains("disk      2.00 TB free on the fullest of 3 volumes, 1 NOT THERE"), "{page}");
    let narrow = screen::fit(&page, 3, 20);
    assert!(narrow.lines().count() == 3 && narrow.lines().all(|line| line.chars().count() <= 20));
}

/// Colour sequences take no room, and are kept when their line is cut.
#[test]
fn fitting_keeps_colours() {
    assert_eq!(screen::fit("\x1b[38;2;1;2;3mabcdef\x1b[0m\n", 9, 3), "\x1b[38;2;1;2;3mabc\x1b[0m\n");
    assert_eq!(screen::over("a\nb\n", 3), "\x1b[3A\ra\x1b[K\nb\x1b[K\n\x1b[J");
}

/// Against a real server: one page of text; when it is gone, words that say so.
#[test]
fn a_receiver_is_watched_until_it_is_gone() {
    let (board, _) = board();
    board.begin(Acquisition::new([2; 16], "gold", SystemTime::UNIX_EPOCH));
    let server =
        HttpServer::spawn(board, None, ([127, 0, 0, 1], 0).into(), &LivePlan::default(), HttpLimits::default())
            .expect("server");
    let url = server.address().to_string();
    let watch = Watch { url: url.clone(), image: None, once: true, json: false };
    let receiver = Receiver::new(&url).expect("address");
    let mut out = Vec::new();
    watch.print_once(&receiver, &mut out).expect("page");
    let page = String::from_utf8(out).expect("UTF-8");
    assert!(page.starts_with("o gold  waiting"), "{page}");
    let error = receiver.image("ring").expect_err("no images");
    assert!(error.to_string().contains("no such result"), "{error:#}");
    assert!(receiver.image("../status").is_err());
    drop(server);
    let error = receiver.status().expect_err("gone");
    let page = screen::unreachable(&url, &error, None, Instant::now());
    assert!(page.contains("no answer") && page.contains("ronchi serve"), "{page}");
    assert!(Receiver::new("ftp://x").is_err());
}
