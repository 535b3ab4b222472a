//! Plays the receive loop over a `MerlinSource`, and streams without sockets. Shared with the fuzz targets.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ronchi_ingest::merlin::{Dial, Received, Wire};
use ronchi_ingest::{Arrivals, Begin, Fill, Filling, Source, SourceError};
use ronchi_pipeline::{
    Announcement, BlockMut, EndReason, FrameFlag, FrameRecord, Gaps, Layout, LinkCounters, Pool, Series,
};

/// One receive of a scripted stream.
#[derive(Debug, Clone)]
pub enum Part {
    /// These bytes, or as many as there is room for; the rest comes with the next receives.
    Bytes(Vec<u8>),
    /// Nothing until the deadline.
    Nothing,
}

/// A stream that plays its parts, then ends.
pub struct ScriptWire(VecDeque<Part>);

impl Wire for ScriptWire {
    fn receive(&mut self, places: &mut [IoSliceMut<'_>], _deadline: Instant) -> io::Result<Received> {
        let Some(part) = self.0.pop_front() else { return Ok(Received::End) };
        let Part::Bytes(bytes) = part else { return Ok(Received::Nothing) };
        let mut rest = bytes.as_slice();
        for place in places {
            let count = rest.len().min(place.len());
            place[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
        }
        let count = bytes.len() - rest.len();
        if !rest.is_empty() {
            self.0.push_front(Part::Bytes(rest.to_vec()));
        }
        Ok(if count > 0 { Received::Bytes(count) } else { Received::Nothing })
    }
}

/// Connects to scripted streams, one after the other.
pub struct ScriptDial(VecDeque<ScriptWire>);

impl ScriptDial {
    /// Will play these connections.
    pub fn boxed(connections: impl IntoIterator<Item = Vec<Part>>) -> Box<dyn Dial> {
        Box::new(Self(connections.into_iter().map(|parts| ScriptWire(parts.into())).collect()))
    }
}

impl Dial for ScriptDial {
    fn address(&self) -> &str {
        "script"
    }

    fn dial(&mut self, _deadline: Instant) -> Result<Option<Box<dyn Wire>>, SourceError> {
        match self.0.pop_front() {
            Some(wire) => Ok(Some(Box::new(wire))),
            None => {
                Err(SourceError::Connect { address: "script".into(), source: io::ErrorKind::ConnectionRefused.into() })
            }
        }
    }
}

/// What the loop saw of one series.
#[derive(Debug)]
pub struct Run {
    pub announcement: Announcement,
    pub frames: BTreeMap<u64, (Vec<u8>, FrameRecord)>,
    pub reason: EndReason,
    pub frame_count: u64,
    pub received_count: u64,
    pub gaps: Gaps,
}

/// How the loop behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Most bytes of a block.
    pub block_bytes: u64,
    /// Seed of its choices: short or long deadlines, sealing or keeping a block at a pause.
    pub seed: u64,
    /// Longest deadline.
    pub patience: Duration,
    /// Calls of `begin` that bring nothing before the loop gives up.
    pub wait_count_max: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self { block_bytes: 1 << 20, seed: 1, patience: Duration::from_secs(3600), wait_count_max: 1000 }
    }
}

/// Plays the receive loop until connecting fails or nothing comes any more.
pub struct Driver<'a> {
    pub source: &'a mut dyn Source,
    pub pool: &'a Pool,
    pub counters: Arc<LinkCounters>,
    pub manner: Manner,
    pub errors: Vec<SourceError>,
}

impl<'a> Driver<'a> {
    pub fn new(source: &'a mut dyn Source, pool: &'a Pool, counters: Arc<LinkCounters>, manner: Manner) -> Self {
        Self { source, pool, counters, manner, errors: Vec::new() }
    }

    /// A pool for blocks of this size.
    pub fn pool(block_bytes: u64) -> Pool {
        Pool::new(2, Layout::slot_bytes(block_bytes) as usize).expect("memory for two blocks")
    }

    fn chance(&mut self) -> bool {
        self.manner.seed =
            self.manner.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.manner.seed >> 62 == 0
    }

    fn deadline(&mut self) -> Instant {
        let now = Instant::now();
        if self.chance() { now } else { now + self.manner.patience }
    }

    /// All series, in order.
    pub fn play(&mut self, run_count_max: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut wait_count = 0;
        while runs.len() < run_count_max && wait_count < self.manner.wait_count_max {
            let deadline = self.deadline();
            match self.source.begin(deadline) {
                Ok(Begin::Waiting) => wait_count += 1,
                Ok(Begin::Series(announcement)) => runs.extend(self.play_series(*announcement)),
                Err(SourceError::Connect { .. }) => break,
                Err(error) => self.errors.push(error),
            }
        }
        assert_eq!(self.pool.free_count(), self.pool.slot_count(), "leaked slots");
        runs
    }

    fn block(&self, series: &Arc<Series>, first: u64) -> BlockMut {
        let mut slot = self.pool.take(Duration::ZERO).expect("only one block is held");
        slot.bytes_mut().fill(0xcc); // What an earlier user may have left.
        BlockMut::new(slot, Arc::clone(series), first)
    }

    fn play_series(&mut self, announcement: Announcement) -> Option<Run> {
        let frame_bytes = announcement.region.pixel_count() * announcement.pixel.bytes() as u64;
        let row = announcement.scan.map(|scan| scan.width);
        let layout = Layout::choose(frame_bytes, self.manner.block_bytes, row, announcement.frame_count)?;
        let series = Arc::new(Series {
            acquisition: [7; 16],
            name: "test".into(),
            link: 0,
            link_count: 1,
            scan: announcement.scan,
            announced: announcement.clone(),
            layout,
            is_recorded: true,
        });
        let mut arrivals = Arrivals::new(announcement.frame_count);
        let mut frames = BTreeMap::new();
        let mut block = self.block(&series, 0);
        let reason = loop {
            let deadline = self.deadline();
            let counters = Arc::clone(&self.counters);
            let mut filling = Filling { block: &mut block, arrivals: &mut arrivals, counters: &counters };
            let fill = self.source.fill(&mut filling, deadline);
            let next = match fill {
                Ok(Fill::Full) => arrivals.next(),
                Ok(Fill::Elsewhere(frame)) => {
                    assert_eq!(block.position(frame), None, "frame {frame} lies in this block");
                    frame
                }
                Ok(Fill::Paused) if self.chance() => arrivals.next(),
                Ok(Fill::Paused) => continue,
                Ok(Fill::End(reason)) => break reason,
                Err(error) => {
                    self.errors.push(error);
                    break EndReason::Disconnected;
                }
            };
            keep(block, &mut frames);
            block = self.block(&series, next);
        };
        keep(block, &mut frames);
        let (frame_count, received_count, gaps) = arrivals.finish();
        Some(Run { announcement, frames, reason, frame_count, received_count, gaps })
    }
}

/// Seals a block and keeps its frames; none may come twice, and each must match its checksum.
fn keep(block: BlockMut, frames: &mut BTreeMap<u64, (Vec<u8>, FrameRecord)>) {
    let Some(block) = block.seal() else { return };
    let frame_bytes = block.series().layout.frame_bytes as usize;
    let records = block.records().iter().zip(block.pixels().expect("pixels").chunks_exact(frame_bytes));
    for (frame, (record, bytes)) in block.frames().zip(records) {
        if record.flag == FrameFlag::Ok {
            assert_eq!(record.crc32c, ronchi_pipeline::crc32c(bytes), "checksum of frame {frame}");
            assert!(frames.insert(frame, (bytes.to_vec(), *record)).is_none(), "frame {frame} came twice");
        } else {
            assert!(bytes.iter().all(|&byte| byte == 0), "missing frame {frame} is not zero");
        }
    }
}
