//! Data sets made by the writer that receivers have, from frames that lie in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::bounded;
use ronchi_pipeline::format::DataSetState;
use ronchi_pipeline::{
    Announcement, BlockMut, Encoding, End, EndReason, Event, FrameIndex, Gaps, Layout, PixelType, Pool, Sensor, Series,
    SigShape,
};
use ronchi_sinks::storage::{DataSet, NewDataSet, TileEnd, Writer, WriterPlan};
use serde_json::Value;

/// Bytes of a chunk: what one write, and one read, takes.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// Operations in flight.
pub const DEPTH: u32 = 16;
const SEGMENT_CHUNKS: u32 = 64;
/// Bytes of pixels of a segment: 256 MiB.
pub const SEGMENT_BYTES: u64 = SEGMENT_CHUNKS as u64 * CHUNK_BYTES;

/// What is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Recording {
    /// Shape of a frame; [`CHUNK_BYTES`] are whole frames.
    pub detector: SigShape,
    /// Type of a pixel.
    pub pixel: PixelType,
    /// Number of frames.
    pub frame_count: u64,
    /// With checksums, as always; without, to compare.
    pub has_checksums: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Recorded {
    /// The data set.
    pub path: PathBuf,
    /// From the beginning of the series until its last frame was durable, s.
    pub seconds: f64,
    /// Until its last block was handed to the writer, s.
    pub handed_s: f64,
}

impl Recording {
    /// Frames of one detector that fill so many segments.
    pub fn of_segments(detector: SigShape, pixel: PixelType, segments: u32) -> Self {
        let frame_bytes = detector.pixel_count() * pixel.bytes() as u64;
        let frame_count = u64::from(segments) * SEGMENT_BYTES / frame_bytes;
        Self { detector, pixel, frame_count, has_checksums: true }
    }

    /// Records into a directory; `fill` puts pixels of the frames from one on into their place, block by block.
    ///
    /// # Errors
    /// Those of `fill`; frames do not fill a chunk evenly; the writer failed.
    pub fn make(
        &self,
        directory: &Path,
        mut fill: impl FnMut(FrameIndex, &mut [u8]) -> Result<()>,
    ) -> Result<Recorded> {
        let series = Arc::new(self.series()?);
        let frames_per_chunk = u64::from(series.layout.frames_per_chunk);
        let region = series.announced.region;
        let new = NewDataSet {
            series: &series,
            regions: &[region],
            scan: None,
            created: String::new(),
            software: "ronchi-benches".into(),
            user: Value::Null,
            volumes: &[],
        };
        let data_set = Arc::new(DataSet::create(directory, &new)?);
        let pool = Pool::new(2 * DEPTH + 4, Layout::slot_bytes(CHUNK_BYTES) as usize)?;
        let plan = WriterPlan { depth: DEPTH, pool: Some(pool.clone()), ..WriterPlan::new(directory.to_owned()) };
        let (events, queue) = bounded(DEPTH as usize);
        let (opened, outcomes) = (Arc::clone(&data_set), Arc::new(Mutex::new(Vec::new())));
        let ended = Arc::clone(&outcomes);
        let writer = Writer::spawn(
            plan,
            queue,
            Box::new(move |_| Ok(Arc::clone(&opened))),
            Box::new(move |end| ended.lock().unwrap_or_else(PoisonError::into_inner).push(end)),
        )?;
        let frame_count = self.frame_count;
        let started = Instant::now();
        events.send(Event::Begin(Arc::clone(&series)))?;
        for first in (0..frame_count).step_by(frames_per_chunk as usize) {
            let count = frames_per_chunk.min(frame_count - first);
            let slot = pool.take(Duration::from_secs(60)).context("the writer gives no slot back")?;
            let mut block = BlockMut::new(slot, Arc::clone(&series), first);
            fill(first, &mut block.payload_mut(0)[..(count * series.layout.frame_bytes) as usize])?;
            (0..count).for_each(|position| block.commit(position as usize, first + position, 0));
            events.send(Event::Block(block.seal().context("a full block")?))?;
        }
        let handed_s = started.elapsed().as_secs_f64();
        let (reason, gaps) = (EndReason::Complete, Gaps::default());
        let end = End { series, reason, frame_count, received_count: frame_count, gaps };
        events.send(Event::End(Arc::new(end)))?;
        drop(events);
        writer.join().map_err(anyhow::Error::msg)?;
        let seconds = started.elapsed().as_secs_f64();
        let ends = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(ends.iter().all(|end| end.error.is_none() && end.durable_count == frame_count), "{ends:?}");
        let outcomes: Vec<_> = ends.iter().map(TileEnd::outcome).collect();
        data_set.finish(DataSetState::Complete, &outcomes)?;
        Ok(Recorded { path: data_set.path().to_owned(), seconds, handed_s })
    }

    fn series(&self) -> Result<Series> {
        let frame_bytes = self.detector.pixel_count() * self.pixel.bytes() as u64;
        ensure!(CHUNK_BYTES.is_multiple_of(frame_bytes), "frames of {frame_bytes} bytes do not fill 4 MiB");
        let frames_per_chunk = (CHUNK_BYTES / frame_bytes) as u32;
        Ok(Series {
            acquisition: *b"ronchi-benches..",
            name: "bench".into(),
            link: 0,
            link_count: 1,
            announced: Announcement {
                series_id: "bench".into(),
                frame_count: Some(self.frame_count),
                scan: None,
                detector: self.detector,
                region: self.detector.region(),
                pixel: self.pixel,
                encoding: Encoding::Raw,
                vendor_header: String::new(),
                sensor: Sensor::default(),
            },
            scan: None,
            layout: Layout { frame_bytes, frames_per_chunk, chunks_per_segment: SEGMENT_CHUNKS },
            is_recorded: self.has_checksums,
        })
    }
}

/// Files of the first segments of a data set.
pub fn segment_files(data_set: &Path, count: u32) -> Vec<PathBuf> {
    (0..count).map(|number| data_set.join(format!("frames/c/{number}/0/0"))).collect()
}
