//! Acquisitions: gives every series its data set and its live images, and brings its links together.
//!
//! # Place in the path
//! Beside it. Receive loops ask here when a series begins and tell when it ends; the writer reports when a tile is on
//! disk; reducers look up how to reduce a block. When every link has ended, the acquisition goes to the finisher.
//!
//! # Invariants
//! - I1: a link takes part in at most one running acquisition.
//! - I2: an acquisition goes to the finisher exactly once, and stays known until that is done with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;
use ronchi_config::{Compress, Plan};
use ronchi_ingest::{Refused, Register};
use ronchi_pipeline::reduce::{Conditions, Footprint, LiveImages, PlanError, ReducePlan, Reduction};
use ronchi_pipeline::{Announcement, Encoding, End, Layout, LinkCounters, Region, Scan, Series};
use ronchi_sinks::live::{self, Board, StageGuard};
use ronchi_sinks::storage::{DataSet, NewDataSet, Space, StorageError, TileEnd, Wanted, tile_bytes};

use crate::pictures::Images;
use crate::recording::Next;
use crate::summary::Counts;

/// Links of one detector begin together; one that has not joined so long after another has ended will not come.
const JOIN_GRACE: Duration = Duration::from_secs(5);
/// Most memory for the live images of one acquisition, in bytes.
pub(crate) const IMAGES_BYTES_MAX: u64 = 256 << 20;
/// Names tried when data sets with the same name are there already.
const NUMBERS_TRIED: u64 = 100_000;

/// One acquisition while it runs and until it is finished.
pub(crate) struct Acquisition {
    /// UUID, big-endian bytes.
    pub id: [u8; 16],
    /// Name of the data set.
    pub name: String,
    /// Where it is recorded; `None` for a preview.
    pub data_set: Option<Arc<DataSet>>,
    /// Scan in force.
    pub scan: Option<Scan>,
    /// When its first series began.
    pub began: Instant,
    first: Announcement,
    /// The plan's, for pixels of which the detector says what it says.
    conditions: Conditions,
    finishing: AtomicBool,
    /// Set to end its series: nothing more of it is received.
    pub cut: AtomicBool,
    /// Held by whoever reduces frames from disk: nobody else may reduce the same ones.
    pub filling: Mutex<()>,
    parts: Mutex<Vec<Option<Part>>>,
}

/// What one link contributes.
#[derive(Clone)]
pub(crate) struct Part {
    /// Its series.
    pub series: Arc<Series>,
    /// How its blocks are reduced.
    pub reduce: Arc<ReducePlan>,
    /// Set when the receive loop is done.
    pub end: Option<Arc<End>>,
    /// Set when the writer is done.
    pub tile: Option<Arc<TileEnd>>,
    /// When that was.
    pub stored: Option<Instant>,
    /// When the receive loop was done.
    pub ended: Option<Instant>,
    /// Counters of the link when the series began, and when it had ended: they are totals of the receiver.
    pub counts: (Counts, Option<Counts>),
}

impl Acquisition {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Part>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of links that should take part.
    pub(crate) fn link_count(&self) -> usize {
        self.lock().len()
    }

    /// The parts that have joined, in order of their links.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.lock().iter().flatten().cloned().collect()
    }

    /// How blocks of this link are reduced.
    pub(crate) fn reduce_plan(&self, link: u32) -> Option<Arc<ReducePlan>> {
        self.lock().get(link as usize)?.as_ref().map(|part| Arc::clone(&part.reduce))
    }

    /// Whether somebody has stopped it.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Whether the finisher has it.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    fn change(&self, link: u32, change: impl FnOnce(&mut Part)) {
        if let Some(Some(part)) = self.lock().get_mut(link as usize) {
            change(part);
        }
    }

    /// Whether no link that could still join will: the first one ended too long ago for that.
    fn is_stale(&self) -> bool {
        let (over, _) = self.progress();
        let first_end = self.lock().iter().flatten().filter_map(|part| part.ended).min();
        over && first_end.is_some_and(|ended| ended.elapsed() > JOIN_GRACE)
    }

    /// Whether every link that joined has ended, and whether all have joined.
    fn progress(&self) -> (bool, bool) {
        let parts = self.lock();
        let over = |part: &Part| part.end.is_some() && (self.data_set.is_none() || part.tile.is_some());
        (parts.iter().flatten().all(over), parts.iter().all(Option::is_some))
    }
}

/// All running acquisitions of a receiver.
pub(crate) struct Acquisitions {
    pub(crate) plan: Plan,
    /// What is computed from every frame; at first what is planned.
    reductions: Mutex<Vec<Reduction>>,
    /// How often that list has changed.
    changes: AtomicU64,
    /// How the next series is taken; changed only while `beginning` is held.
    next: Mutex<Next>,
    pub(crate) board: Arc<Board>,
    counters: Vec<Arc<LinkCounters>>,
    running: Mutex<Vec<Arc<Acquisition>>>,
    /// `None` once no more can be finished.
    finish: Mutex<Option<Sender<Arc<Acquisition>>>>,
    /// Held while an acquisition begins, so that two links cannot both create it.
    pub(crate) beginning: Mutex<()>,
}

impl Acquisitions {
    /// No acquisition yet; finished ones are sent to `finish`.
    pub(crate) fn new(
        plan: Plan,
        exact_name: bool,
        board: Arc<Board>,
        counters: Vec<Arc<LinkCounters>>,
        finish: Sender<Arc<Acquisition>>,
    ) -> Self {
        let (running, finish) = (Mutex::default(), Mutex::new(Some(finish)));
        let (reductions, changes) = (Mutex::new(plan.reductions.clone()), AtomicU64::new(0));
        let (next, beginning) = (Mutex::new(Next::planned(&plan, exact_name)), Mutex::default());
        Self { plan, reductions, changes, next, board, counters, running, finish, beginning }
    }

    /// How the next series is taken.
    pub(crate) fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Acquisition>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running acquisition with this UUID.
    pub(crate) fn find(&self, id: &[u8; 16]) -> Option<Arc<Acquisition>> {
        self.running().iter().find(|acquisition| acquisition.id == *id).cloned()
    }

    /// All running acquisitions.
    pub(crate) fn all_running(&self) -> Vec<Arc<Acquisition>> {
        self.running().clone()
    }

    /// What is computed from every frame.
    pub(crate) fn reductions(&self) -> MutexGuard<'_, Vec<Reduction>> {
        self.reductions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the list of reductions has changed. Reducers look at it once per block.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Computes another list of reductions from now on, also of the acquisitions that run: what was not computed before
    /// is computed of earlier frames from disk, as soon as there is time. Errors: a list that does not fit a running
    /// acquisition; then nothing has changed anywhere, or what did has its old list again.
    pub(crate) fn change_reductions(&self, reductions: Vec<Reduction>) -> Result<(), String> {
        // No acquisition begins meanwhile.
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.reductions().clone();
        let running = self.all_running();
        for (at, acquisition) in running.iter().enumerate() {
            if let Err(error) = self.change_one(acquisition, &reductions) {
                for changed in &running[..at] {
                    self.change_one(changed, &before)?;
                }
                return Err(error);
            }
        }
        *self.reductions() = reductions;
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn change_one(&self, acquisition: &Acquisition, reductions: &[Reduction]) -> Result<(), String> {
        if acquisition.is_finishing() {
            return Ok(());
        }
        let Announcement { frame_count, detector, pixel, .. } = acquisition.first;
        let positions = acquisition.scan.map_or(frame_count.unwrap_or(0), |scan| scan.placed_count());
        let footprint = Footprint::with_conditions(
            reductions,
            detector,
            pixel,
            positions,
            acquisition.link_count(),
            &acquisition.conditions,
        );
        let footprint = footprint.map_err(|error| error.to_string())?;
        self.check_images(positions, footprint).map_err(|error| error.to_string())?;
        let links: Vec<u32> = acquisition.parts().iter().map(|part| part.series.link).collect();
        let plans = self.board.update_id(&acquisition.id, |shown| {
            let images = shown.pictures_mut::<Images>()?;
            let changed = images.change(reductions);
            Some(changed.and_then(|()| links.iter().map(|&link| images.plan(link)).collect::<Result<Vec<_>, _>>()))
        });
        let plans = plans.flatten().transpose().map_err(|error: PlanError| error.to_string())?;
        for (link, plan) in links.into_iter().zip(plans.unwrap_or_default()) {
            acquisition.change(link, |part| part.reduce = Arc::new(plan));
        }
        Ok(())
    }

    /// Where this series is recorded.
    pub(crate) fn data_set_of(&self, series: &Series) -> Result<Arc<DataSet>, StorageError> {
        let acquisition = self.find(&series.acquisition);
        // A preview has no writer that could ask, and an acquisition is known until it is finished.
        acquisition
            .and_then(|acquisition| acquisition.data_set.clone())
            .ok_or_else(|| StorageError::Name { name: series.name.clone() })
    }

    /// The writer has finished a tile.
    pub(crate) fn stored(&self, tile: TileEnd) {
        let id = tile.series.acquisition;
        let Some(acquisition) = self.find(&id) else { return };
        acquisition.change(tile.series.link, |part| {
            part.stored = Some(Instant::now());
            part.tile = Some(Arc::new(tile));
        });
        self.finish_when_whole(&id);
    }

    /// Sends all acquisitions to the finisher: the receive loops and the writer have ended.
    pub(crate) fn finish_all(&self) {
        self.finish_where(|_| true);
    }

    /// Lets the finisher end once it has finished what it was sent.
    pub(crate) fn close(&self) {
        *self.finish.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// For a thread to keep as long as it runs, as [`Board::watch`].
    pub(crate) fn watch(&self, stage: &'static str) -> StageGuard {
        self.board.watch(stage)
    }

    /// Whether nothing is being received, written or finished.
    pub(crate) fn is_idle(&self) -> bool {
        self.running().is_empty()
    }

    /// Forgets an acquisition: the finisher is done with it.
    pub(crate) fn forget(&self, id: &[u8; 16]) {
        self.running().retain(|acquisition| acquisition.id != *id);
    }

    /// Sends acquisitions to the finisher whose missing links have had their time to join.
    pub(crate) fn finish_stale(&self) {
        self.finish_where(Acquisition::is_stale);
    }

    /// Sends the acquisition to the finisher once all its links have joined and ended.
    fn finish_when_whole(&self, id: &[u8; 16]) {
        self.finish_where(|acquisition| acquisition.id == *id && acquisition.progress() == (true, true));
    }

    fn finish_where(&self, ready: impl Fn(&Acquisition) -> bool) {
        let claim =
            |acquisition: &&Arc<Acquisition>| ready(acquisition) && !acquisition.finishing.swap(true, Ordering::AcqRel);
        let claimed: Vec<_> = self.running().iter().filter(claim).cloned().collect();
        // The lock is released: the finisher needs it to make room.
        let finish = self.finish.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for acquisition in claimed {
            if let Some(finish) = &finish {
                let _ = finish.send(acquisition); // The finisher outlives all callers.
            }
        }
    }

    fn counts(&self, link: u32) -> Counts {
        self.counters.get(link as usize).map_or_else(Counts::default, |counters| Counts::of(counters))
    }

    fn check(&self, link: u32, announced: &Announcement) -> Result<(), Refused> {
        let planned = self.plan.links.get(link as usize).and_then(|plan| plan.region);
        if let Some(region) = planned.filter(|&region| region != announced.region) {
            return Err(refused(format!("link {link} delivers {:?}, the plan says {region:?}", announced.region)));
        }
        match self.plan.detector.filter(|&shape| shape != announced.detector) {
            Some(shape) => Err(refused(format!("the detector is {:?}, the plan says {shape:?}", announced.detector))),
            None => Ok(()),
        }
    }

    /// Regions of all links; a single link brings its own.
    fn regions(&self, announced: &Announcement) -> Vec<Region> {
        if self.plan.links.len() == 1 {
            return vec![announced.region];
        }
        self.plan.links.iter().map(|link| link.region.unwrap_or(announced.region)).collect()
    }

    fn create(&self, next: &Next, link: u32, announced: &Announcement) -> Result<Arc<Acquisition>, Refused> {
        if let [stage, ..] = self.board.fallen()[..] {
            return Err(refused(format!("the {stage} has panicked: the receiver begins nothing any more")));
        }
        let id = *uuid::Uuid::new_v4().as_bytes();
        let scan = self.plan.conditions.scan_of(next.scan.scan(announced.scan));
        let scan = scan.map_err(|error| refused(error.to_string()))?;
        let regions = self.regions(announced);
        let Announcement { frame_count, detector, pixel, .. } = *announced;
        let positions = scan.map_or(frame_count.unwrap_or(0), |scan| scan.placed_count());
        let conditions = self.plan.conditions.with_sensor(&announced.sensor, pixel.kind);
        let reductions = self.reductions().clone();
        let footprint = Footprint::with_conditions(&reductions, detector, pixel, positions, regions.len(), &conditions);
        let footprint = footprint.map_err(|error| refused(error.to_string()))?;
        self.check_images(positions, footprint)?;
        if next.is_recorded {
            self.check_space(announced, scan, &regions, footprint.stored_bytes)?;
        }
        let images =
            LiveImages::with_conditions(&reductions, scan, frame_count, detector, pixel, &regions, &conditions)
                .map_err(|error| refused(error.to_string()))?;
        let mut series = self.series((id, next.is_recorded), link, announced.clone(), self.recorded(scan))?;
        let data_set = self.data_set(next, &mut series, self.recorded(scan), &regions)?;
        let acquisition = Arc::new(Acquisition {
            id,
            name: series.name,
            data_set: data_set.map(Arc::new),
            scan,
            began: Instant::now(),
            first: announced.clone(),
            conditions,
            finishing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            filling: Mutex::new(()),
            parts: Mutex::new(vec![None; self.plan.links.len()]),
        });
        self.show(&acquisition, images);
        Ok(acquisition)
    }

    /// The scan that a data set is told of: frames that a list places are a line to it.
    fn recorded(&self, scan: Option<Scan>) -> Option<Scan> {
        scan.filter(|_| self.plan.conditions.positions.is_none())
    }

    /// Refuses images that would take more memory than was promised at start.
    fn check_images(&self, positions: u64, footprint: Footprint) -> Result<(), Refused> {
        let bytes = footprint.memory_bytes;
        if bytes > IMAGES_BYTES_MAX {
            return Err(refused(format!(
                "results over {positions} scan positions need {bytes} bytes, at most {IMAGES_BYTES_MAX} are kept: \
                 ask for fewer results"
            )));
        }
        Ok(())
    }

    /// Refuses a series that does not fit on the disk beside the reserve; an open-ended one, when it cannot even begin.
    fn check_space(
        &self,
        announced: &Announcement,
        scan: Option<Scan>,
        regions: &[Region],
        results_bytes: u64,
    ) -> Result<(), Refused> {
        let (data, limits) = (&self.plan.data, &self.plan.limits);
        let reserve_bytes = limits.reserve_bytes.unwrap_or(0); // Resolved when the receiver started.
        let disks = if data.volumes.is_empty() { std::slice::from_ref(&data.directory) } else { &data.volumes[..] };
        let Some(space) = Space::over(disks, reserve_bytes) else { return Ok(()) };
        let row = scan.map(|scan| scan.shape.width);
        let is_packed = limits.compress == Compress::Lz4 || announced.encoding != Encoding::Raw;
        let bytes_of = |frame_count: Option<u64>| {
            let tile = |region: &Region| {
                let frame_bytes = region.pixel_count() * announced.pixel.bytes() as u64;
                // A frame that fits no block is refused elsewhere.
                let layout = self.layout(announced, frame_bytes, row, frame_count);
                // Nobody knows how much room compressed frames take: enough to begin with is asked for.
                let frame_count = frame_count.filter(|_| !is_packed);
                layout.map_or(0, |layout| tile_bytes(&layout, frame_count))
            };
            regions.iter().map(tile).fold(results_bytes, u64::saturating_add)
        };
        let row_frames = scan.map(|scan| scan.row_frames());
        let wanted = Wanted { frame_count: announced.frame_count, row_frames, bytes_of: &bytes_of };
        space.admit(&wanted).map_err(|error| refused(error.to_string()))
    }

    /// Sizes on disk of frames of `frame_bytes`; `None` when they fit no block.
    fn layout(
        &self,
        announced: &Announcement,
        frame_bytes: u64,
        row: Option<u32>,
        frame_count: Option<u64>,
    ) -> Option<Layout> {
        let Announcement { pixel, encoding, .. } = *announced;
        let layout = encoding.layout(frame_bytes, pixel, self.plan.limits.block_bytes, row, frame_count)?;
        Some(layout.in_segments_of(self.plan.segment_bytes_max()))
    }

    fn show(&self, acquisition: &Acquisition, images: LiveImages) {
        let announced = &acquisition.first;
        let mut shown = live::Acquisition::new(acquisition.id, &acquisition.name, SystemTime::now());
        shown.path = acquisition.data_set.as_ref().map(|data_set| data_set.path().to_owned());
        shown.recording = acquisition.data_set.is_some();
        if let Some(data_set) = &acquisition.data_set {
            shown.watermarks = data_set.watermarks().to_vec();
        }
        shown.state = live::State::Running;
        shown.scan = acquisition.scan.map(|scan| scan.shape);
        shown.frame_count = announced.frame_count;
        shown.frame_bytes = announced.detector.pixel_count() * announced.pixel.bytes() as u64;
        shown.pictures = Box::new(Images::new(images));
        self.board.begin(shown);
    }

    /// Names the series and creates its data set: the name as it is, or the next free one with a number.
    fn data_set(
        &self,
        next: &Next,
        series: &mut Series,
        scan: Option<Scan>,
        regions: &[Region],
    ) -> Result<Option<DataSet>, Refused> {
        let (planned, name, begun) = (&self.plan.data, &next.name, next.begun);
        for number in begun..begun + NUMBERS_TRIED {
            series.name = if number == 0 { name.clone() } else { format!("{name}_{number:04}") };
            if !next.is_recorded {
                return Ok(None);
            }
            let new = NewDataSet {
                series,
                regions,
                scan,
                created: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
                software: concat!("ronchi ", env!("CARGO_PKG_VERSION")).into(),
                user: serde_json::Value::Null,
                volumes: &planned.volumes,
            };
            match DataSet::create(&planned.directory, &new) {
                Ok(data_set) => return Ok(Some(data_set)),
                Err(StorageError::Exists { .. }) if !(next.is_exact && begun == 0) => {}
                Err(error) => {
                    let is_taken = matches!(error, StorageError::Exists { .. });
                    return Err(Refused { is_taken, ..refused(error.to_string()) });
                }
            }
        }
        Err(refused(format!("no free name like {name}_0001 in {}", planned.directory.display())))
    }

    fn series(
        &self,
        (acquisition, is_recorded): ([u8; 16], bool),
        link: u32,
        announced: Announcement,
        scan: Option<Scan>,
    ) -> Result<Series, Refused> {
        let frame_bytes = announced.region.pixel_count() * announced.pixel.bytes() as u64;
        let block_bytes = self.plan.limits.block_bytes;
        let row = scan.map(|scan| scan.shape.width);
        let place_bytes = announced.encoding.place_bytes(frame_bytes);
        let layout = self.layout(&announced, frame_bytes, row, announced.frame_count).ok_or_else(|| {
            refused(format!(
                "a frame of {place_bytes} bytes does not fit a block of {block_bytes}: raise limits.block_mib"
            ))
        })?;
        let link_count = self.plan.links.len() as u32;
        let (name, scan) = (String::new(), scan.map(|scan| scan.shape));
        Ok(Series { acquisition, name, link, link_count, announced, scan, layout, is_recorded })
    }

    fn join(&self, acquisition: &Acquisition, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused> {
        let first = &acquisition.first;
        let terms = |it: &Announcement| (it.pixel, it.frame_count, it.encoding);
        if terms(&announced) != terms(first) {
            return Err(refused(format!("link {link} announces {announced:?}, the first link announced {first:?}")));
        }
        let images = |shown: &mut live::Acquisition| shown.pictures_mut::<Images>().map(|images| images.plan(link));
        let reduce = self.board.update_id(&acquisition.id, images).flatten();
        let reduce = reduce.ok_or_else(|| refused("too many series began at once".to_owned()))?;
        let reduce = reduce.map_err(|error| refused(error.to_string()))?;
        let identity = (acquisition.id, acquisition.data_set.is_some());
        let mut series = self.series(identity, link, announced, self.recorded(acquisition.scan))?;
        series.name.clone_from(&acquisition.name);
        let series = Arc::new(series);
        let part = Part {
            series: Arc::clone(&series),
            reduce: Arc::new(reduce),
            end: None,
            tile: None,
            stored: None,
            ended: None,
            counts: (self.counts(link), None),
        };
        acquisition.lock()[link as usize] = Some(part);
        Ok(series)
    }
}

impl Register for Acquisitions {
    fn begin(&self, link: u32, announced: Announcement) -> Result<Arc<Series>, Refused> {
        let joinable = |acquisition: &&Arc<Acquisition>| {
            !acquisition.finishing.load(Ordering::Acquire)
                && !acquisition.is_stale()
                && acquisition.first.series_id == announced.series_id
                && acquisition.lock().get(link as usize).is_some_and(Option::is_none)
        };
        self.check(link, &announced)?;
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.running().iter().find(joinable).cloned();
        let acquisition = match known {
            Some(acquisition) => acquisition,
            None => {
                let next = self.next().clone();
                let acquisition = self.create(&next, link, &announced)?;
                self.next().begun += 1;
                self.running().push(Arc::clone(&acquisition));
                acquisition
            }
        };
        self.join(&acquisition, link, announced)
    }

    fn end(&self, link: u32, end: Arc<End>) {
        let id = end.series.acquisition;
        if let Some(acquisition) = self.find(&id) {
            let counts = self.counts(link);
            acquisition.change(link, |part| {
                part.end = Some(end);
                part.ended = Some(Instant::now());
                part.counts.1 = Some(counts);
            });
        }
        self.finish_when_whole(&id);
    }

    fn is_cut(&self, series: &Series) -> bool {
        self.find(&series.acquisition).is_some_and(|acquisition| acquisition.is_cut())
    }

    fn is_resting(&self, link: u32) -> bool {
        Self::is_resting(self, link)
    }
}

fn refused(reason: String) -> Refused {
    Refused { reason, is_taken: false }
}
