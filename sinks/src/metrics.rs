//! Prometheus metrics: everything countable of a receiver, read when somebody scrapes and never before.
//!
//! # Place in the path
//! `/metrics` calls [`Metrics::text`], which reads the board's atomics. Nothing here runs per frame or per block.
//!
//! # Invariants
//! - I1: names are `ronchi_<what>_<unit>`, counters end in `_total`; once published they keep their meaning.
//! - I2: labels are `link` and `volume` (as many as configured), `queue`, `reason` and `state` (fixed lists): the number of series is
//!   known at start. Names of acquisitions are not labels, because they never repeat.
//! - I3: counters never fall while the receiver runs; what belongs to the current acquisition is a gauge.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, info::Info};
use prometheus_client::registry::{Registry, Unit};
use ronchi_pipeline::{GapReason, LinkCounters};

use crate::live::{AcquisitionStatus, Board, State, disk_free_bytes};

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const REASONS: [(GapReason, &str); 8] = [
    (GapReason::NeverArrived, "never_arrived"),
    (GapReason::IncompleteTiles, "incomplete_tiles"),
    (GapReason::Rejected, "rejected"),
    (GapReason::DroppedBackpressure, "dropped_backpressure"),
    (GapReason::WriteFailed, "write_failed"),
    (GapReason::LostInCrash, "lost_in_crash"),
    (GapReason::Damaged, "damaged"),
    (GapReason::Unknown, "unknown"),
];

const STATES: [State; 5] = [State::Waiting, State::Running, State::Complete, State::Interrupted, State::Failed];

/// The metrics of one receiver.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics read from this board.
    pub fn new(board: Arc<Board>) -> Self {
        let mut registry = Registry::with_prefix("ronchi");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "Version of the receiver", Info::new(version));
        registry.register_collector(Box::new(BoardCollector { board }));
        Self { registry }
    }

    /// The metrics in OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail, and no encoder of ours makes up an error.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

struct BoardCollector {
    board: Arc<Board>,
}

impl fmt::Debug for BoardCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoardCollector")
    }
}

/// One counter per link: name, help, unit and where to read it.
type LinkMetric = (&'static str, &'static str, Option<Unit>, fn(&LinkCounters) -> &AtomicU64);

const LINK_COUNTERS: [LinkMetric; 16] = [
    ("reconnects", "Connections to the detector lost or refused after the first", None, |c| &c.reconnects),
    ("series", "Series begun", None, |c| &c.series),
    ("frames", "Frames received whole", None, |c| &c.frames),
    ("received", "Bytes off the wire, headers included", Some(Unit::Bytes), |c| &c.bytes),
    ("blocks", "Blocks sealed", None, |c| &c.blocks),
    ("duplicate_frames", "Frames that arrived again", None, |c| &c.duplicate_frames),
    ("unplaced_frames", "Frames too late or beyond the announced number", None, |c| &c.unplaced_frames),
    ("garbage_messages", "Messages that were not frames", None, |c| &c.garbage_messages),
    ("live_skipped_frames", "Frames the live queue skipped", None, |c| &c.live_skipped_frames),
    ("live_backfilled_frames", "Skipped frames reduced later from disk", None, |c| &c.backfilled_frames),
    ("reduced_frames", "Frames reduced, live or later", None, |c| &c.reduced_frames),
    ("written_frames", "Frames written", None, |c| &c.written_frames),
    ("durable_frames", "Frames durable on disk", None, |c| &c.durable_frames),
    ("written", "Bytes handed to the disk, headers included", Some(Unit::Bytes), |c| &c.written_bytes),
    ("missing_frames", "Frames that never arrived", None, |c| &c.missing_frames),
    ("dropped_frames", "Frames the detector dropped as nobody fetched them", None, |c| &c.dropped_frames),
];

impl Collector for BoardCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.links(&mut encoder)?;
        self.gaps(&mut encoder)?;
        self.receiver(&mut encoder)?;
        self.queues(&mut encoder)?;
        self.stream(&mut encoder)?;
        self.acquisition(&mut encoder)
    }
}

impl BoardCollector {
    fn links(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let links = &self.board.wiring.links;
        for (name, help, unit, counter) in &LINK_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for link in links {
                let total = LinkCounters::read(counter(&link.counters));
                ConstCounter::new(total).encode(family.encode_family(&[("link", link.name.as_str())])?)?;
            }
        }
        let help = "Time the receive thread waited for room in the raw queue or pool";
        let mut family = encoder.encode_descriptor("wait", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for link in links {
            let seconds = LinkCounters::read(&link.counters.waited_ns) as f64 / 1e9;
            ConstCounter::new(seconds).encode(family.encode_family(&[("link", link.name.as_str())])?)?;
        }
        let help = "1 while connected to the detector";
        let mut family = encoder.encode_descriptor("connected", help, None, MetricType::Gauge)?;
        for link in links {
            let connected = LinkCounters::read(&link.counters.connected) as i64;
            ConstGauge::new(connected).encode(family.encode_family(&[("link", link.name.as_str())])?)?;
        }
        Ok(())
    }

    /// What the links know of gaps while they receive; the reasons that later stages add are in the gauge below.
    fn gaps(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Frames of a link that are not there, by reason";
        let mut family = encoder.encode_descriptor("gap_frames", help, None, MetricType::Counter)?;
        for link in &self.board.wiring.links {
            let read = LinkCounters::read;
            let missing = ("never_arrived", read(&link.counters.missing_frames));
            let rejected = ("rejected", read(&link.counters.rejected_frames));
            let damaged = ("damaged", read(&link.counters.damaged_frames));
            for (reason, total) in [missing, rejected, damaged] {
                let labels = [("link", link.name.as_str()), ("reason", reason)];
                ConstCounter::new(total).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn receiver(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let wiring = &self.board.wiring;
        let age = self.board.age().as_secs_f64();
        gauge(encoder, "uptime", "Age of the receiver", Some(&Unit::Seconds), age)?;
        let free = wiring.pool_free.as_ref().map_or(0, |free| free());
        gauge(encoder, "pool_free_slots", "Pool slots nobody holds", None, free as f64)?;
        gauge(encoder, "pool_slots", "All pool slots", None, wiring.pool_slots as f64)?;
        let bytes = (wiring.pool_slots as f64) * wiring.slot_bytes as f64;
        gauge(encoder, "pool", "Memory of the pool", Some(&Unit::Bytes), bytes)?;
        let help = "How frames are written, always 1";
        let mut family = encoder.encode_descriptor("write_method", help, None, MetricType::Gauge)?;
        let method = [("method", wiring.write_method.as_str())];
        ConstGauge::new(1_i64).encode(family.encode_family(&method)?)?;
        if let Some(free) = wiring.directory.as_deref().and_then(disk_free_bytes) {
            gauge(encoder, "disk_free", "Free space where data sets go", Some(&Unit::Bytes), free as f64)?;
            let reserve = wiring.reserve_bytes as f64;
            gauge(encoder, "disk_reserve", "Free space that recording leaves alone", Some(&Unit::Bytes), reserve)?;
        }
        self.volumes(encoder)?;
        let help = "Tiles whose frames were not all accounted for: anything but 0 is a bug";
        let metric = encoder.encode_descriptor("violated_laws", help, None, MetricType::Counter)?;
        ConstCounter::new(self.board.violated_laws.load(Ordering::Relaxed)).encode(metric)?;
        let fallen = self.board.fallen().len() as f64;
        gauge(encoder, "fallen_stages", "Threads that panicked: anything but 0 is a bug", None, fallen)
    }

    /// Free space of the disks that receive segments, where these go to others; one that is not mounted has none to tell.
    fn volumes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let volumes = &self.board.wiring.volumes;
        if volumes.is_empty() {
            return Ok(());
        }
        let help = "Free space of a volume that segments go to";
        let mut family = encoder.encode_descriptor("volume_free", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for volume in volumes {
            let Some(free) = disk_free_bytes(volume) else { continue };
            let directory = volume.display().to_string();
            ConstGauge::new(free as f64).encode(family.encode_family(&[("volume", directory.as_str())])?)?;
        }
        Ok(())
    }

    fn queues(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let queues = &self.board.wiring.queues;
        let mut family = encoder.encode_descriptor("queue_blocks", "Blocks in a queue", None, MetricType::Gauge)?;
        for queue in queues {
            let labels = [("queue", queue.name.as_str())];
            ConstGauge::new((queue.depth)() as i64).encode(family.encode_family(&labels)?)?;
        }
        let help = "Most blocks a queue holds";
        let mut family = encoder.encode_descriptor("queue_capacity_blocks", help, None, MetricType::Gauge)?;
        for queue in queues {
            let labels = [("queue", queue.name.as_str())];
            ConstGauge::new(queue.capacity as i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn stream(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let stream = &self.board.stream;
        let counters: [(&str, &str, Option<&Unit>, &AtomicU64); 11] = [
            ("live_updates", "Live messages handed to the transport", None, &stream.messages),
            ("live_updates_discarded", "Live messages a transport had no room for", None, &stream.discarded),
            ("live_sent", "Bytes of live messages", Some(&Unit::Bytes), &stream.bytes),
            ("live_subscriptions", "Subscriptions received", None, &stream.subscriptions),
            ("live_subscribers_refused", "Subscribers turned away", None, &stream.subscribers_refused),
            ("live_web_updates", "Live messages sent over WebSocket", None, &stream.web_messages),
            ("live_web_sent", "Bytes of live messages sent over WebSocket", Some(&Unit::Bytes), &stream.web_bytes),
            ("live_web_clients_refused", "Clients over WebSocket turned away", None, &stream.web_refused),
            ("http_requests", "HTTP requests answered", None, &stream.http_requests),
            ("http_refused", "HTTP requests and connections refused", None, &stream.http_refused),
            ("http_unauthorized", "HTTP requests without a right token", None, &stream.http_strangers),
        ];
        for (name, help, unit, counter) in counters {
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(metric)?;
        }
        let subscribers = stream.subscribers.load(Ordering::Relaxed) as f64;
        gauge(encoder, "live_subscribers", "Subscribers connected", None, subscribers)?;
        let insecure = stream.insecure_listens.load(Ordering::Relaxed) as f64;
        let help = "1 while other machines reach the HTTP server unencrypted";
        gauge(encoder, "insecure_listen", help, None, insecure)?;
        let clients = stream.web_clients.load(Ordering::Relaxed) as f64;
        gauge(encoder, "live_web_clients", "Clients connected over WebSocket", None, clients)
    }

    /// Gauges of the current acquisition; absent while there is none.
    fn acquisition(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let current = self.board.look(|all| all.back().map(AcquisitionStatus::summary));
        let Some(current) = current else { return Ok(()) };
        let mut family =
            encoder.encode_descriptor("acquisition_state", "1 for the present state", None, MetricType::Gauge)?;
        for state in STATES {
            let labels = [("state", state.word())];
            ConstGauge::new(i64::from(state == current.state)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Frames of the current acquisition that are not there";
        let mut family = encoder.encode_descriptor("acquisition_gap_frames", help, None, MetricType::Gauge)?;
        for (reason, word) in REASONS {
            let frames = current.gaps.get(&reason).copied().unwrap_or(0);
            ConstGauge::new(frames as i64).encode(family.encode_family(&[("reason", word)])?)?;
        }
        let recording = f64::from(u8::from(current.recording));
        gauge(encoder, "acquisition_recording", "1 while frames are written", None, recording)?;
        let visible = current.visible as f64;
        gauge(
            encoder,
            "acquisition_visible_frames",
            "Every frame below this can be read from disk (without recording: was reduced), or is known to be missing",
            None,
            visible,
        )?;
        let durable = current.durable as f64;
        gauge(
            encoder,
            "acquisition_durable_frames",
            "Every frame below this is durable, or is known to be missing",
            None,
            durable,
        )?;
        let help = "Frames below the visible watermark that are known to be missing, of the tile that lacks most";
        gauge(encoder, "acquisition_missing_frames", help, None, current.missing as f64)?;
        let help = "Frames of the slowest tile that are durable, wherever they lie";
        gauge(encoder, "acquisition_kept_frames", help, None, current.durable_count as f64)?;
        match current.frame_count {
            Some(count) => gauge(encoder, "acquisition_frames", "Announced frames", None, count as f64),
            None => Ok(()),
        }
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::testing::{FakePicture, acquisition};
    use crate::live::{Link, Queue, Wiring};
    use std::collections::BTreeMap;

    /// A small reader of the text format: every sample by its name and labels; panics on anything malformed.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let mut described = BTreeMap::new();
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                if let (Some("TYPE"), Some(name), Some(kind)) = (words.next(), words.next(), words.next()) {
                    assert_eq!(described.insert(name.to_owned(), kind.to_owned()), None, "{name} described twice");
                }
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect("sample and value");
            let name = sample.split('{').next().expect("name");
            assert!(name.starts_with("ronchi_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            let base = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name);
            assert_eq!(described[base] == "counter", name.ends_with("_total"), "{name}");
            assert_eq!(samples.insert(sample.to_owned(), value.parse().expect("number")), None, "{sample} twice");
        }
        samples
    }

    /// The text can be read back, and every total is the one of the counters behind it.
    #[test]
    fn totals_match() {
        let counters: Arc<LinkCounters> = Arc::default();
        for (number, (.., counter)) in LINK_COUNTERS.iter().enumerate() {
            LinkCounters::add(counter(&counters), 1000 + number as u64);
        }
        LinkCounters::add(&counters.rejected_frames, 5);
        LinkCounters::add(&counters.connected, 1);
        LinkCounters::add(&counters.waited_ns, 1_500_000_000);
        let board = Board::new(Wiring {
            links: vec![Link { name: "tile \"0\"".to_owned(), counters }],
            queues: vec![Queue { name: "raw".to_owned(), depth: Box::new(|| 3), capacity: 16 }],
            pool_free: Some(Box::new(|| 7)),
            pool_slots: 9,
            slot_bytes: 4096,
            directory: Some("/".into()),
            volumes: vec!["/".into(), "/not/mounted".into()],
            reserve_bytes: 4_000_000_000,
            write_method: "4 pwrite threads".to_owned(),
        });
        board.stream.discarded.store(11, Ordering::Relaxed);
        LinkCounters::add(&board.violated_laws, 2);
        let metrics = Metrics::new(Arc::clone(&board));
        let idle = samples(&metrics.text());
        let link = |name: &str| idle[&format!("ronchi_{name}_total{{link=\"tile \\\"0\\\"\"}}")];
        for (number, (name, _, unit, _)) in LINK_COUNTERS.iter().enumerate() {
            let unit = unit.as_ref().map_or(String::new(), |unit| format!("_{}", unit.as_str()));
            assert_eq!(link(&format!("{name}{unit}")), 1000.0 + number as f64);
        }
        assert_eq!(link("wait_seconds"), 1.5);
        assert_eq!(idle["ronchi_gap_frames_total{link=\"tile \\\"0\\\"\",reason=\"rejected\"}"], 5.0);
        assert_eq!(idle["ronchi_connected{link=\"tile \\\"0\\\"\"}"], 1.0);
        assert_eq!(idle["ronchi_queue_blocks{queue=\"raw\"}"], 3.0);
        assert_eq!(idle["ronchi_write_method{method=\"4 pwrite threads\"}"], 1.0);
        assert_eq!(idle["ronchi_pool_free_slots"], 7.0);
        assert_eq!(idle["ronchi_pool_bytes"], 9.0 * 4096.0);
        assert_eq!(idle["ronchi_live_updates_discarded_total"], 11.0);
        assert!(idle["ronchi_disk_free_bytes"] > 0.0);
        assert!(idle["ronchi_volume_free_bytes{volume=\"/\"}"] > 0.0);
        assert!(!idle.contains_key("ronchi_volume_free_bytes{volume=\"/not/mounted\"}"));
        assert_eq!((idle["ronchi_disk_reserve_bytes"], idle["ronchi_violated_laws_total"]), (4e9, 2.0));
        assert!(!idle.keys().any(|name| name.starts_with("ronchi_acquisition")));

        let mut running = acquisition(1, vec![FakePicture::new("ring", &[4, 4])]);
        running.gaps.insert(GapReason::WriteFailed, 17);
        running.watermarks[0].raise_visible(100);
        running.watermarks[0].raise_durable(90);
        running.watermarks[0].count(17, 75);
        board.begin(running);
        let now = samples(&metrics.text());
        assert_eq!(now["ronchi_acquisition_state{state=\"running\"}"], 1.0);
        assert_eq!(now["ronchi_acquisition_state{state=\"failed\"}"], 0.0);
        assert_eq!(now["ronchi_acquisition_gap_frames{reason=\"write_failed\"}"], 17.0);
        assert_eq!(now["ronchi_acquisition_visible_frames"], 100.0);
        assert_eq!(now["ronchi_acquisition_durable_frames"], 90.0);
        assert_eq!((now["ronchi_acquisition_missing_frames"], now["ronchi_acquisition_kept_frames"]), (17.0, 75.0));
        assert_eq!(now["ronchi_fallen_stages"], 0.0);
        assert!(!now.contains_key("ronchi_acquisition_frames"), "nothing was announced");
    }
}
