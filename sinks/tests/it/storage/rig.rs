//! A receiver in miniature: feeds frames of known content to a writer and checks what is on disk afterwards.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crossbeam_channel::bounded;
use ronchi_pipeline::format::{DataSetState, bslz4};
use ronchi_pipeline::{
    Announcement, Block, BlockMut, Encoding, End, EndReason, Event, FrameFlag, GapReason, Gaps, Layout, LinkCounters,
    PixelType, Pool, Region, Sensor, Series, SigShape,
};
use ronchi_sinks::storage::{
    Access, DataSet, Depth, Disk, NewDataSet, PackPlan, ReadPlan, Reader, TileEnd, Verification, Writer, WriterPlan,
    verify,
};
use tempfile::TempDir;

/// A disk wrapped around the plan's own.
pub(super) type Wrap = Box<dyn FnOnce(Box<dyn Disk>) -> Box<dyn Disk>>;

/// A look at the data set's directory.
pub(super) type Look = Box<dyn FnOnce(&Path)>;

/// What to write and how.
pub(super) struct Rig {
    pub(super) detector: SigShape,
    pub(super) regions: Vec<Region>,
    pub(super) pixel: PixelType,
    pub(super) k: u32,
    pub(super) n: u32,
    pub(super) announced: Option<u64>,
    pub(super) plan: WriterPlan,
    pub(super) wrap: Option<Wrap>,
    /// Looks at the data set before the series ends.
    pub(super) during: Option<Look>,
    /// The receiver dies: no series is ended.
    pub(super) is_cut_off: bool,
    /// Frames the receiver says it received beside those it did: a bug to be noticed.
    pub(super) invented_count: u64,
    pub(super) pool: Pool,
    /// The form in which frames come.
    pub(super) encoding: Encoding,
    pub(super) sending: Sending,
    /// Directories of the segments, if they are not to lie in the data set.
    pub(super) volumes: Vec<PathBuf>,
    pub(super) dir: TempDir,
}

/// How compressed frames are sent.
pub(super) struct Sending {
    /// Bytes of the blocks in which a frame is compressed.
    pub(super) block_bytes: fn(u64) -> usize,
    /// Frames that do not decode.
    pub(super) spoilt: BTreeSet<u64>,
}

/// What came of it.
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) ends: Vec<TileEnd>,
    pub(super) series: Vec<Arc<Series>>,
    pub(super) _dir: TempDir,
}

/// Frames of one block of one link: the block begins at the first frame; frames not listed are missing in it.
pub(super) type Feed = (u32, Vec<u64>);

pub(super) fn tempdir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory")
}

impl Rig {
    /// One link with frames of this shape.
    pub(super) fn new(detector: SigShape, pixel: &str, k: u32, n: u32, announced: Option<u64>) -> Self {
        Self::new_in(tempdir(), detector, pixel, k, n, announced)
    }

    /// As [`Self::new`], with the data set in this directory.
    pub(super) fn new_in(
        dir: TempDir,
        detector: SigShape,
        pixel: &str,
        k: u32,
        n: u32,
        announced: Option<u64>,
    ) -> Self {
        let pixel = PixelType::from_numpy_name(pixel).expect("pixel type");
        let chunk_bytes = detector.pixel_count() * pixel.bytes() as u64 * u64::from(k);
        let pool = Pool::new(24, Layout::slot_bytes(chunk_bytes) as usize).expect("pool");
        let mut plan = WriterPlan::new(dir.path().to_owned());
        plan.pool = Some(pool.clone());
        plan.publish_interval = Duration::from_millis(2);
        plan.sync_interval = Duration::from_millis(5);
        plan.counters = vec![Arc::default(), Arc::default()];
        Self {
            detector,
            regions: vec![detector.region()],
            pixel,
            k,
            n,
            announced,
            plan,
            wrap: None,
            during: None,
            is_cut_off: false,
            invented_count: 0,
            pool,
            encoding: Encoding::Raw,
            sending: Sending { block_bytes: |_| 8192, spoilt: BTreeSet::new() },
            volumes: Vec::new(),
            dir,
        }
    }

    /// Chunks are compressed, by so many threads.
    pub(super) fn packed(mut self, threads: u32) -> Self {
        let frame_bytes = self.detector.pixel_count() * self.pixel.bytes() as u64;
        let chunk_bytes_max = self.encoding.place_bytes(frame_bytes) * u64::from(self.k);
        let on_start = Arc::new(|| {});
        self.plan.pack = Some(PackPlan { threads, chunk_bytes_max, link_count: 2, takes_pixels: true, on_start });
        self
    }

    /// Frames come compressed, in blocks of so many bytes for each frame number, and are packed by so many threads.
    pub(super) fn compressed(mut self, threads: u32, block_bytes: fn(u64) -> usize) -> Self {
        (self.encoding, self.sending.block_bytes) = (Encoding::Bslz4, block_bytes);
        let frame_bytes = self.detector.pixel_count() * self.pixel.bytes() as u64;
        let slot_bytes = Layout::slot_bytes(self.encoding.place_bytes(frame_bytes) * u64::from(self.k));
        self.pool = Pool::new(24, slot_bytes as usize).expect("pool");
        self.plan.pool = Some(self.pool.clone());
        self.packed(threads)
    }

    pub(super) fn series(&self, link: usize) -> Arc<Series> {
        let region = self.regions[link];
        let frame_bytes = region.pixel_count() * self.pixel.bytes() as u64;
        Arc::new(Series {
            acquisition: *b"0123456789abcdef",
            name: "scan".into(),
            link: link as u32,
            link_count: self.regions.len() as u32,
            announced: Announcement {
                series_id: "1".into(),
                frame_count: self.announced,
                scan: None,
                detector: self.detector,
                region,
                pixel: self.pixel,
                encoding: self.encoding,
                vendor_header: "HDR".into(),
                sensor: Sensor::default(),
            },
            scan: None,
            layout: Layout { frame_bytes, frames_per_chunk: self.k, chunks_per_segment: self.n },
            is_recorded: true,
        })
    }

    pub(super) fn new_data_set<'a>(&'a self, series: &'a [Arc<Series>]) -> NewDataSet<'a> {
        NewDataSet {
            series: &series[0],
            regions: &self.regions,
            scan: None,
            created: "2026-01-01T00:00:00Z".into(),
            software: "test".into(),
            user: serde_json::Value::Null,
            volumes: &self.volumes,
        }
    }

    /// Writes these blocks in this order and ends every link regularly.
    pub(super) fn write(mut self, feeds: &[Feed]) -> Written {
        let series: Vec<_> = (0..self.regions.len()).map(|link| self.series(link)).collect();
        let new = self.new_data_set(&series);
        let data_set = Arc::new(DataSet::create(self.dir.path(), &new).expect("new data set"));
        let (events, queue) = bounded(4);
        let (ended, ends) = mpsc::channel();
        let (disk, report) = self.plan.choose_disk().expect("disk");
        let disk = match self.wrap.take() {
            Some(wrap) => wrap(disk),
            None => disk,
        };
        let opened = Arc::clone(&data_set);
        let open = Box::new(move |_: &Arc<Series>| Ok(Arc::clone(&opened)));
        let report_end = Box::new(move |end| ended.send(end).expect("test waits"));
        let counters = self.plan.counters.clone();
        let writer = Writer::spawn_on(disk, report, self.plan.clone(), queue, open, report_end).expect("writer");
        for series in &series {
            events.send(Event::Begin(Arc::clone(series))).expect("writer lives");
        }
        for (link, frames) in feeds {
            let block = block(&self.pool, &series[*link as usize], frames, &self.sending);
            events.send(Event::Block(block)).expect("writer lives");
        }
        if let Some(during) = self.during.take() {
            during(data_set.path());
        }
        for (link, series) in series.iter().enumerate().filter(|_| !self.is_cut_off) {
            let mut end = end(series, self.announced, link as u32, feeds);
            end.received_count += self.invented_count;
            events.send(Event::End(Arc::new(end))).expect("writer lives");
        }
        drop(events);
        writer.join().expect("no panic");
        self.plan.pool = None;
        assert_eq!(self.pool.free_count(), self.pool.slot_count(), "a slot is lost");
        let mut ends: Vec<TileEnd> = ends.try_iter().collect();
        ends.sort_by_key(|end| end.series.link);
        assert_eq!(ends.len(), series.len());
        for end in &ends {
            let counters = &counters[end.series.link as usize];
            assert_eq!(LinkCounters::read(&counters.durable_frames), end.durable_count);
            assert_eq!(LinkCounters::read(&counters.written_frames), end.written_count);
            let marks = &data_set.watermarks()[end.series.link as usize];
            assert_eq!((marks.visible(), marks.durable()), (end.frame_count, end.frame_count));
        }
        let outcomes: Vec<_> = ends.iter().map(TileEnd::outcome).collect();
        let worst = |a: DataSetState, b: DataSetState| if a == DataSetState::Complete { b } else { a };
        let state = ends.iter().map(|end| end.state).fold(DataSetState::Complete, worst);
        data_set.finish(state, &outcomes).expect("manifest");
        Written { path: data_set.path().to_owned(), ends, series, _dir: self.dir }
    }
}

pub(super) fn block(pool: &Pool, series: &Arc<Series>, frames: &[u64], sending: &Sending) -> Block {
    let mut slot = pool.take(Duration::from_secs(20)).expect("blocks come back");
    slot.bytes_mut().fill(0xa5); // Whatever the last user left.
    let mut block = BlockMut::new(slot, Arc::clone(series), frames[0]);
    for &frame in frames {
        let position = block.position(frame).expect("frame of this block");
        let pixels = pixels(series.link, frame, series.layout.frame_bytes);
        let sent = match series.announced.encoding {
            Encoding::Raw => pixels,
            Encoding::Bslz4 => sending.compress(frame, &pixels, series.announced.pixel),
        };
        block.put(position, &sent, frame + 1000, frame + 7);
    }
    block.seal().expect("at least one frame")
}

impl Sending {
    fn compress(&self, frame: u64, pixels: &[u8], pixel: PixelType) -> Vec<u8> {
        let mut out = Vec::new();
        bslz4::Compressor::in_blocks_of((self.block_bytes)(frame)).compress(pixels, pixel.bytes(), &mut out);
        if self.spoilt.contains(&frame) {
            out[16..20].copy_from_slice(&[0x00, 0xff, 0xff, 0x00]); // Refers to what lies before the block.
        }
        out
    }
}

pub(super) fn end(series: &Arc<Series>, announced: Option<u64>, link: u32, feeds: &[Feed]) -> End {
    let present: BTreeSet<u64> = feeds.iter().filter(|feed| feed.0 == link).flat_map(|feed| feed.1.clone()).collect();
    let frame_count = announced.unwrap_or_else(|| present.last().map_or(0, |last| last + 1));
    let mut gaps = Gaps::default();
    for frame in (0..frame_count).filter(|frame| !present.contains(frame)) {
        gaps.insert(frame..frame + 1, GapReason::NeverArrived);
    }
    let received_count = present.len() as u64;
    End { series: Arc::clone(series), reason: EndReason::Complete, frame_count, received_count, gaps }
}

/// Content of a frame: differs between frames, links and places, never all zero.
pub(super) fn pixels(link: u32, frame: u64, bytes: u64) -> Vec<u8> {
    let seed = (frame + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(link).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (0..bytes).map(|i| (seed.wrapping_mul(i | 1).wrapping_add(i) >> 29) as u8 | 1).collect()
}

/// Frames `range` cut into blocks at chunk ends and wherever `cut` says so.
pub(super) fn cut(link: u32, range: Range<u64>, k: u32, mut cut: impl FnMut(u64) -> bool) -> Vec<Feed> {
    let mut feeds: Vec<Feed> = Vec::new();
    let mut is_new = true;
    for frame in range {
        if is_new || frame % u64::from(k) == 0 {
            feeds.push((link, Vec::new()));
        }
        feeds.last_mut().expect("pushed first").1.push(frame);
        is_new = cut(frame);
    }
    feeds
}

impl Written {
    /// Every frame of every tile is right or listed, flags agree, checksums match, and nothing else lies about.
    pub(super) fn check(&self) {
        let reader = Reader::open(&self.path).expect("data set");
        for (end, series) in self.ends.iter().zip(&self.series) {
            let frame_bytes = series.layout.frame_bytes;
            assert_eq!(end.durable_count + end.gaps.frame_count(), end.frame_count, "law: {end:?}");
            assert!(end.law.holds, "{}", end.law);
            let mut bytes = Vec::new();
            reader.read_frames(series.link, 0..end.frame_count, &mut bytes).expect("frames");
            let flags = reader.flags(series.link, 0..end.frame_count).expect("flags");
            let counters = reader.counters(series.link, 0..end.frame_count).expect("counters");
            for (frame, got) in (0..).zip(bytes.chunks(frame_bytes as usize)) {
                let flag = flags[frame as usize];
                if end.gaps.contains(frame) {
                    assert!(flag != 0 || end.error.is_some(), "frame {frame} is a gap, flag {flag}");
                } else {
                    // A disk that has refused the table keeps the pixels.
                    let is_row_lost = end.error.is_some() && flag == 1;
                    assert!(is_row_lost || (flag, counters[frame as usize]) == (0, frame + 1000), "frame {frame}");
                    assert!(got == pixels(series.link, frame, frame_bytes), "frame {frame} of link {}", series.link);
                }
            }
            for access in [Access::Mapped, Access::Direct] {
                check_runs(&reader, end, access);
            }
            let progress = reader.progress(series.link).expect("progress");
            assert_eq!((progress.visible_frames, progress.durable_frames), (end.frame_count, end.frame_count));
            assert_eq!(progress.missing, end.gaps.frame_count());
            assert_eq!(progress.durable_count, end.durable_count);
        }
        let found = check(&self.path);
        if self.ends.iter().all(|end| end.error.is_none()) {
            assert!(found.is_intact() && found.unknown == 0, "{found:?}");
            assert_eq!(leftovers(&self.path), Vec::<PathBuf>::new());
        }
    }

    /// As [`Self::check`], and nothing failed: missing frames read as zeros.
    pub(super) fn check_clean(&self) {
        self.check();
        let reader = Reader::open(&self.path).expect("data set");
        for (end, series) in self.ends.iter().zip(&self.series) {
            assert_eq!(end.error, None);
            assert!(end.gaps.iter().all(|gap| gap.reason == GapReason::NeverArrived), "{:?}", end.gaps);
            for gap in end.gaps.iter() {
                let mut bytes = Vec::new();
                reader.read_frames(series.link, gap.first..gap.first + gap.count, &mut bytes).expect("frames");
                assert!(bytes.iter().all(|&byte| byte == 0));
            }
        }
    }
}

/// Runs give every frame that was not lost, none that was, and find nothing damaged.
fn check_runs(reader: &Reader, end: &TileEnd, access: Access) {
    let frame_bytes = end.series.layout.frame_bytes;
    let plan = ReadPlan { access, ..ReadPlan::default() };
    let mut runs = reader.runs(end.series.link, 0..end.frame_count, &plan).expect("runs");
    while let Some(run) = runs.next_run().expect("memory") {
        assert!(run.error.is_none(), "{access:?}: {:?}", run.error);
        for ((position, frame), flag) in run.frames.clone().enumerate().zip(run.flags) {
            let is_lost = end.gaps.contains(frame);
            let is_there = *flag == FrameFlag::Ok;
            assert!(if end.error.is_none() { is_there != is_lost } else { !(is_there && is_lost) }, "frame {frame}");
            let at = position * frame_bytes as usize;
            let is_right = || run.bytes[at..][..frame_bytes as usize] == pixels(end.series.link, frame, frame_bytes);
            assert!(!is_there || is_right(), "{access:?}: frame {frame}");
        }
    }
}

/// Everything the format promises of the data set in this directory.
pub(super) fn check(path: &Path) -> Verification {
    verify(path, Depth::Full, &mut |_, _| {}).expect("a data set")
}

/// Temporary files, and segments beyond the end.
fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(leftovers(&path));
        } else if path.extension().is_some_and(|extension| extension == "part") {
            found.push(path);
        }
    }
    found
}
