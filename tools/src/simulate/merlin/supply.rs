//! Where the frames come from: held in memory, drawn as they are sent, or read from files.
//!
//! # Invariants
//! - I1: a frame has the same bytes however it is supplied (sequence and time stamps aside).
//! - I2: memory for frames never exceeds the limit of the plan.
//!
//! # Limits
//! A scan that does not fit the memory limit is drawn frame by frame when it is sent slowly enough; otherwise as many
//! whole scan rows as fit are held and repeat.

use std::io;
use std::thread;

use anyhow::{Context, Result};
use ronchi_pipeline::NavShape;

use super::encode::encode;
use super::format::{CHIP_PX, ChipLayout, FrameFormat, PREFIX_BYTES};
use super::header::{
    Announced, Fields, acquisition_header, announce, announce_depth, announced_counts, frame_header, prefix,
};
use super::mib::MibSet;
use super::stamp::Stamps;
use super::{FrameSource, MerlinSimulation};
use crate::simulate::pace::unix_ns_now;
use crate::simulate::synth::Synthesis;

/// Time one electron and one pixel take to draw and encode, generously; decides what can be drawn while sending.
const ELECTRON_NS: f64 = 60.0;
const PIXEL_NS: f64 = 1.5;
const SHUTTER_NS: u64 = 1_000_000;

enum Store {
    /// Frames back to back, as in a `.mib` file.
    Held(Vec<u8>),
    Drawn(Box<Synthesis>),
    Files(MibSet),
}

/// One message being put together: prefix, header and, unless frames are held, pixels.
pub(super) struct Slot {
    bytes: Vec<u8>,
    counts: Vec<u32>,
}

/// The frames of an acquisition.
pub(super) struct Supply {
    store: Store,
    /// One per held frame of a recording, otherwise one for all.
    fields: Vec<Fields>,
    template: Vec<u8>,
    format: Option<FrameFormat>,
    recorded_header: Option<Vec<u8>>,
    scan: Option<NavShape>,
    restamp: bool,
    first_sequence: u64,
    held_count: u64,
    pub(super) frame_count: u64,
    pub(super) header_bytes: usize,
    pub(super) frame_bytes: usize,
    /// Values of the variables that follow from the frames.
    pub(super) properties: Vec<(&'static str, u64)>,
}

impl Supply {
    /// Prepares the frames a plan asks for.
    pub(super) fn prepare(plan: &MerlinSimulation) -> Result<Self> {
        match &plan.frames {
            FrameSource::Files(paths) => Self::replay(MibSet::open(paths)?, plan),
            FrameSource::Synthetic { plan: synth, pixels, layout } => {
                let format = FrameFormat::new(*pixels, *layout, synth.detector)?;
                Self::synthesise(Synthesis::new(*synth)?, format, plan)
            }
        }
    }

    fn synthesise(synthesis: Synthesis, format: FrameFormat, plan: &MerlinSimulation) -> Result<Self> {
        let scan = synthesis.plan().scan;
        let frame_count = synthesis.frame_count();
        let frame_bytes = format.frame_bytes() as u64;
        let fit = (plan.memory_max_bytes as u64 / frame_bytes).max(1);
        let draw_ns = synthesis.plan().dose * ELECTRON_NS + format.shape().pixel_count() as f64 * PIXEL_NS;
        let is_slow = plan.rate_hz > 0.0 && plan.rate_hz * draw_ns < 0.5e9;
        let template = frame_header(&format, 1, SHUTTER_NS, 0);
        let rows = |fit: u64| if fit > u64::from(scan.width) { fit - fit % u64::from(scan.width) } else { fit };
        let (store, held_count) = if frame_count > fit && is_slow {
            (Store::Drawn(Box::new(synthesis)), frame_count)
        } else {
            let count = if frame_count > fit { rows(fit) } else { frame_count };
            (Store::Held(draw_all(&synthesis, &format, &template, count)?), count)
        };
        let mut properties = super::control::Variables::of_format(&format).to_vec();
        properties.push(("NUMFRAMESTOACQUIRE", frame_count));
        properties.push(("NUMFRAMESPERTRIGGER", u64::from(scan.width)));
        Ok(Self {
            store,
            fields: vec![Fields::locate(&template)?],
            template,
            format: Some(format),
            recorded_header: None,
            scan: Some(scan),
            restamp: true,
            first_sequence: 1,
            held_count,
            frame_count,
            header_bytes: format.header_bytes(),
            frame_bytes: format.frame_bytes(),
            properties,
        })
    }

    fn replay(set: MibSet, plan: &MerlinSimulation) -> Result<Self> {
        let recorded = set.recorded.clone();
        let frame_count = set.frame_count();
        let (header_bytes, frame_bytes) = (recorded.header_bytes, recorded.frame_bytes());
        let header = match &set.header {
            Some(header) => header.clone(),
            None => minimal_header(&set)?,
        };
        let (_, per_trigger) = announced_counts(&header);
        let shape = recorded.shape();
        let properties = vec![
            ("COUNTERDEPTH", recorded.counter_depth),
            ("FILEFORMAT", if recorded.is_raw { 2 } else { 0 }),
            ("IMAGEX", u64::from(shape.width)),
            ("IMAGEY", u64::from(shape.height)),
            ("NUMFRAMESTOACQUIRE", frame_count),
            ("NUMFRAMESPERTRIGGER", per_trigger.unwrap_or(1)),
        ];
        let mut template = vec![0; frame_bytes];
        set.read(0, &mut template)?;
        template.truncate(header_bytes);
        let mut fields = vec![Fields::locate(&template)?];
        let total = frame_count * frame_bytes as u64;
        let store = if total <= plan.memory_max_bytes as u64 {
            let mut bytes = vec![0; total as usize]; // I2: at most the limit of the plan.
            fields.clear();
            for (frame, out) in bytes.chunks_exact_mut(frame_bytes).enumerate() {
                set.read(frame as u64, out)?;
                fields.push(Fields::locate(&out[..header_bytes]).with_context(|| format!("frame {frame}"))?);
            }
            Store::Held(bytes)
        } else {
            Store::Files(set)
        };
        Ok(Self {
            store,
            fields,
            template,
            format: None,
            recorded_header: Some(header),
            scan: None,
            restamp: plan.restamp,
            first_sequence: recorded.sequence,
            held_count: frame_count,
            frame_count,
            header_bytes,
            frame_bytes,
            properties,
        })
    }

    /// How many different frames there are before they repeat.
    pub(super) fn distinct_count(&self) -> u64 {
        self.held_count
    }

    /// Whether frames are drawn while they are sent.
    pub(super) fn is_drawn(&self) -> bool {
        matches!(self.store, Store::Drawn(_))
    }

    /// The acquisition header for these announced numbers.
    pub(super) fn acquisition_header(&self, frames: u64, per_trigger: u64, trigger_start: u32) -> Vec<u8> {
        match (&self.recorded_header, &self.format) {
            (Some(recorded), _) => {
                let mut header = recorded.clone();
                let property = |name| self.properties.iter().find(|p| p.0 == name).map(|p| p.1);
                let is_changed = property("NUMFRAMESTOACQUIRE") != Some(frames)
                    || property("NUMFRAMESPERTRIGGER") != Some(per_trigger);
                if is_changed {
                    announce(&mut header, frames, per_trigger);
                }
                header
            }
            (None, Some(format)) => {
                let width = self.scan.map_or(0, |scan| u64::from(scan.width));
                let is_whole = width > 0 && frames > 0 && frames.is_multiple_of(width);
                let scan = self
                    .scan
                    .filter(|_| is_whole)
                    .and_then(|scan| Some(NavShape { height: u32::try_from(frames / width).ok()?, width: scan.width }));
                let unix_ns = unix_ns_now();
                acquisition_header(
                    format,
                    &Announced { frames, frames_per_trigger: per_trigger, scan, trigger_start, unix_ns },
                )
            }
            (None, None) => Vec::new(),
        }
    }

    /// A slot for the messages of this supply.
    pub(super) fn slot(&self) -> Slot {
        let is_held = matches!(self.store, Store::Held(_));
        let mut bytes = vec![0; PREFIX_BYTES + if is_held { self.header_bytes } else { self.frame_bytes }];
        bytes[..PREFIX_BYTES].copy_from_slice(&prefix(self.frame_bytes));
        let pixels = match &self.store {
            Store::Drawn(synthesis) => synthesis.plan().detector.pixel_count() as usize,
            _ => 0,
        };
        Slot { bytes, counts: vec![0; pixels] }
    }

    /// Brings a frame into a slot, all but its time stamps.
    pub(super) fn load(&self, frame: u64, slot: &mut Slot) -> io::Result<()> {
        let index = frame % self.held_count;
        let body = &mut slot.bytes[PREFIX_BYTES..];
        match (&self.store, &self.format) {
            (Store::Held(bytes), _) => {
                body.copy_from_slice(&bytes[index as usize * self.frame_bytes..][..self.header_bytes]);
            }
            (Store::Files(set), _) => set.read(index, body)?,
            (Store::Drawn(synthesis), Some(format)) => {
                body[..self.header_bytes].copy_from_slice(&self.template);
                draw_one(synthesis, format, index, &mut slot.counts, &mut body[self.header_bytes..]);
            }
            (Store::Drawn(_), None) => {}
        }
        Ok(())
    }

    /// Writes sequence number and time stamps of a loaded frame.
    pub(super) fn stamp(&self, frame: u64, slot: &mut Slot, stamps: &Stamps) -> io::Result<()> {
        let is_replay = self.recorded_header.is_some();
        if is_replay && !self.restamp && frame < self.frame_count {
            return Ok(()); // As recorded, byte for byte.
        }
        let header = &mut slot.bytes[PREFIX_BYTES..][..self.header_bytes];
        let index = (frame % self.held_count) as usize;
        let fields = match &self.store {
            // Frames in files have not been looked at before.
            Store::Files(_) => Fields::locate(header).map_err(io::Error::other)?,
            _ => self.fields[if self.fields.len() > 1 { index } else { 0 }],
        };
        fields.patch(header, self.first_sequence + frame, self.restamp.then_some(stamps));
        Ok(())
    }

    /// Prefix and header of a loaded slot, and its pixels.
    pub(super) fn parts<'a>(&'a self, frame: u64, slot: &'a Slot) -> (&'a [u8], &'a [u8]) {
        let (head, pixels) = slot.bytes.split_at(PREFIX_BYTES + self.header_bytes);
        match &self.store {
            Store::Held(bytes) => {
                let index = (frame % self.held_count) as usize;
                (head, &bytes[index * self.frame_bytes..][self.header_bytes..self.frame_bytes])
            }
            _ => (head, pixels),
        }
    }
}

/// An acquisition header for recorded frames that have none beside them.
fn minimal_header(set: &MibSet) -> Result<Vec<u8>> {
    let format = set.recorded.format()?;
    let announced = Announced {
        frames: set.frame_count(),
        frames_per_trigger: 1,
        scan: None,
        trigger_start: 0,
        unix_ns: unix_ns_now(),
    };
    let mut header = acquisition_header(&format, &announced);
    announce_depth(&mut header, set.recorded.counter_depth);
    Ok(header)
}

/// Draws and encodes the first `count` frames of a scan, on all cores.
fn draw_all(synthesis: &Synthesis, format: &FrameFormat, template: &[u8], count: u64) -> Result<Vec<u8>> {
    let frame_bytes = format.frame_bytes();
    let mut bytes = vec![0; count as usize * frame_bytes]; // I2: the caller divided the limit by the frame size.
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = (count as usize).div_ceil(workers).max(1);
    thread::scope(|scope| -> io::Result<()> {
        for (worker, part) in bytes.chunks_mut(share * frame_bytes).enumerate() {
            thread::Builder::new().name(format!("synth-{worker}")).spawn_scoped(scope, move || {
                let mut counts = vec![0; format.shape().pixel_count() as usize];
                for (index, frame) in part.chunks_exact_mut(frame_bytes).enumerate() {
                    let (header, payload) = frame.split_at_mut(template.len());
                    header.copy_from_slice(template);
                    draw_one(synthesis, format, (worker * share + index) as u64, &mut counts, payload);
                }
            })?;
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn draw_one(synthesis: &Synthesis, format: &FrameFormat, position: u64, counts: &mut [u32], payload: &mut [u8]) {
    synthesis.draw(position, counts);
    if format.layout() == ChipLayout::QuadGap && format.shape() == format.layout().full_shape() {
        // Nothing is measured between the chips; raw frames do not even transmit it.
        let (edge, chip) = (format.shape().width as usize, CHIP_PX as usize);
        counts[chip * edge..(chip + 2) * edge].fill(0);
        counts.chunks_exact_mut(edge).for_each(|row| row[chip..chip + 2].fill(0));
    }
    encode(format, counts, payload);
}
