//! Where counts come from: drawn electron by electron, or read from a recorded data set.
//!
//! # Limits
//! [`FRAMES_MAX`] frames of a recording; each thread that reads holds a frame of it, and of a compressed one a chunk.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ronchi_pipeline::{ByteOrder, FrameFlag, NavShape, PixelKind, PixelType, Scan, SigShape};
use ronchi_sinks::storage::Reader;

use super::Dtype;
use crate::simulate::synth::Synthesis;

/// Most frames of a recording: one byte each is looked at.
const FRAMES_MAX: u64 = 1 << 24;

/// Counts of any image of a scan.
pub(super) enum Supply {
    Drawn(Synthesis),
    Recorded(Box<Recording>),
}

impl Supply {
    pub(super) fn scan(&self) -> NavShape {
        match self {
            Self::Drawn(synthesis) => synthesis.plan().scan,
            Self::Recorded(recording) => recording.scan,
        }
    }

    pub(super) fn detector(&self) -> SigShape {
        match self {
            Self::Drawn(synthesis) => synthesis.plan().detector,
            Self::Recorded(recording) => recording.detector,
        }
    }

    /// Replaces `counts` by those of a frame; `scratch` is reused between frames.
    pub(super) fn counts(&self, frame: u64, scratch: &mut Vec<u8>, counts: &mut [u32]) -> Result<()> {
        match self {
            Self::Drawn(synthesis) => {
                synthesis.draw(frame, counts);
                Ok(())
            }
            Self::Recorded(recording) => recording.counts(frame, scratch, counts),
        }
    }
}

/// A data set whose frames are all there, of one tile.
pub(super) struct Recording {
    reader: Reader,
    tile: u32,
    pixel: PixelType,
    pub(super) dtype: Dtype,
    pub(super) scan: NavShape,
    pub(super) detector: SigShape,
}

impl Recording {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        let reader = Reader::open(path).with_context(|| format!("cannot replay {name}"))?;
        let [tile] = reader.tiles() else {
            bail!("{name} has {} tiles: only one that is the whole detector can be replayed", reader.tiles().len())
        };
        let (tile, array) = (tile.id, &tile.array);
        let (count, pixel, detector) = (array.frame_count, array.pixel, array.shape);
        let dtype = match pixel.kind {
            PixelKind::U8 => Dtype::U8,
            PixelKind::U16 => Dtype::U16,
            PixelKind::U32 => Dtype::U32,
            PixelKind::F32 => bail!("{name} has pixels of type {}: detectors send counts", pixel.numpy_name()),
        };
        ensure!((1..=FRAMES_MAX).contains(&count), "{name} has {count} frames: 1 to {FRAMES_MAX} can be replayed");
        let flags = reader.flags(tile, 0..count)?;
        let missing = flags.iter().filter(|&&flag| flag != FrameFlag::Ok as u8).count();
        ensure!(missing == 0, "{name}: {missing} of {count} frames are not there; only whole scans can be replayed");
        let scan = reader.manifest().scan.map(|scan| Scan::from(scan).shape);
        let row = NavShape { height: 1, width: count as u32 }; // At most `FRAMES_MAX`.
        let scan = scan.filter(|scan| scan.position_count() == count).unwrap_or(row);
        Ok(Self { reader, tile, pixel, dtype, scan, detector })
    }

    fn counts(&self, frame: u64, scratch: &mut Vec<u8>, counts: &mut [u32]) -> Result<()> {
        self.reader.read_frames(self.tile, frame..frame + 1, scratch)?;
        let add = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        for (count, item) in counts.iter_mut().zip(scratch.chunks_exact(self.pixel.bytes())) {
            *count = match self.pixel.order {
                ByteOrder::Little => item.iter().rev().fold(0, add),
                ByteOrder::Big => item.iter().fold(0, add),
            };
        }
        Ok(())
    }
}
