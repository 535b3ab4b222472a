//! `Reducer`: one thread's worker that reduces blocks of one link and hands over what it has.
//!
//! # Place in the path
//! A reducer thread calls [`Reducer::reduce`] for every block, takes the values of its frames with [`Reducer::take`]
//! after each (they are small), and the patterns with [`Reducer::take_patterns`] every 100 ms or so and at the end
//! (they are as large as the tile). `LiveImages` merges both.
//!
//! # Limits
//! Memory: 12 bytes per pixel of the tile for an integer sum pattern, one native pixel for the maximum, twice where the
//! caller recycles patterns.

use std::sync::Arc;

use pulp::NullaryFnOnce;

use super::corrected::CorrectedFrames;
use super::custom::Workers;
use super::descan::MovedFrames;
use super::frames::Frames;
use super::kernel::{Integers, Pixel};
use super::kernel_f32::Floats;
use super::nodata::NoDataFrames;
use super::partial::Partial;
use super::patterns::Patterns;
use super::plan::{Home, ReducePlan};
use super::vector::{Machine, Multiply};
use crate::{ByteOrder, PixelKind};

/// Frames reduced in one go: sums over frames of that many stay in 32 bits, see `Pixel::LOW_FRAMES`.
const FRAMES_MAX: usize = 65_536;

/// Reduces frames of one tile; owned by one thread.
///
/// ```
/// use std::sync::Arc;
/// use ronchi_pipeline::reduce::{Frames, LiveImages, ReducePlan, Reducer, Reduction};
/// use ronchi_pipeline::{PixelType, SigShape};
///
/// let detector = SigShape { height: 2, width: 2 };
/// let region = detector.region();
/// let pixel = PixelType::from_numpy_name("<u2").ok_or("pixel type")?;
/// let wanted = [Reduction::total(), Reduction::sum()];
/// let mut reducer = Reducer::new(Arc::new(ReducePlan::compile(&wanted, detector, region, pixel)?));
/// let mut images = LiveImages::new(&wanted, None, Some(2), detector, pixel, &[region])?;
///
/// let two_frames = [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0];
/// reducer.reduce(&Frames::new(0, &two_frames, pixel, region)?);
/// images.merge(0, &reducer.take());
/// images.merge_patterns(0, &reducer.take_patterns());
///
/// assert_eq!(images.image("total").ok_or("total")?.row_values(0..2), [10.0, 26.0]);
/// assert_eq!(images.image("sum").ok_or("sum")?.row_values(0..2), [6.0, 8.0, 10.0, 12.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reducer {
    plan: Arc<ReducePlan>,
    machine: Machine,
    kernel: Kernel,
    corrected: Option<CorrectedFrames>,
    customs: Workers,
    moved: Option<Box<MovedFrames>>,
    nodata: NoDataFrames,
    taken: Vec<usize>,
    partial: Partial,
    patterns: Patterns,
}

#[derive(Debug)]
enum Kernel {
    U8(Integers<u8>),
    U16(Integers<u16>),
    U32(Integers<u32>),
    F32(Floats),
}

/// One pass over a block. A type rather than a closure, because only this can be forced into the dispatching function
/// that has the vector instructions; anything left outside of it is compiled without them.
struct Pass<'a, P: Pixel, V, const BIG: bool> {
    kernel: &'a mut Integers<P>,
    vector: V,
    block: Work<'a>,
}

/// What a kernel is given.
struct Work<'a> {
    plan: &'a ReducePlan,
    frames: &'a Frames<'a>,
    taken: &'a [usize],
    patterns: &'a mut Patterns,
}

impl<P: Pixel, V: Multiply, const BIG: bool> NullaryFnOnce for Pass<'_, P, V, BIG> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Work { plan, frames, taken, patterns } = self.block;
        self.kernel.reduce::<BIG>(self.vector, plan, frames, taken, patterns);
    }
}

/// Runs a kernel with what the processor can do.
fn dispatch<P: Pixel, const BIG: bool>(machine: Machine, kernel: &mut Integers<P>, block: Work<'_>) {
    match machine {
        Machine::Plain(vector) => vector.run(Pass::<P, _, BIG> { kernel, vector, block }),
        #[cfg(target_arch = "x86_64")]
        Machine::Avx2(vector) => vector.run(Pass::<P, _, BIG> { kernel, vector, block }),
        #[cfg(target_arch = "x86_64")]
        Machine::Vnni(vector) => vector.run(Pass::<P, _, BIG> { kernel, vector, block }),
    }
}

impl Reducer {
    /// A reducer with its own scratch.
    pub fn new(plan: Arc<ReducePlan>) -> Self {
        let (partial, patterns) = (Partial::new(&plan), Patterns::new(&plan));
        let kernel = match plan.pixel.kind {
            PixelKind::U8 => Kernel::U8(Integers::new(&plan, &patterns)),
            PixelKind::U16 => Kernel::U16(Integers::new(&plan, &patterns)),
            PixelKind::U32 => Kernel::U32(Integers::new(&plan, &patterns)),
            PixelKind::F32 => Kernel::F32(Floats::new(&plan)),
        };
        let corrected = plan.corrected.as_ref().map(|corrected| CorrectedFrames::new(corrected));
        let moved = plan.moved.as_ref().map(|moved| Box::new(MovedFrames::new(moved)));
        let customs = Workers::new(&plan.customs);
        let (nodata, taken) = (NoDataFrames::default(), Vec::new());
        Self { plan, machine: Machine::best(), kernel, corrected, customs, moved, nodata, taken, partial, patterns }
    }

    /// The plan it follows.
    pub fn plan(&self) -> &Arc<ReducePlan> {
        &self.plan
    }

    /// Reduces all present frames that the plan wants; returns how many. Each frame must come once.
    ///
    /// # Panics
    /// When the frames are of another region or pixel type than the plan, or not as many bytes as they say.
    pub fn reduce(&mut self, frames: &Frames<'_>) -> u64 {
        let plan = &self.plan;
        assert_eq!((frames.region, frames.pixel), (plan.region, plan.pixel), "frames of another series than the plan");
        assert_eq!(frames.bytes.len(), frames.count * frames.frame_bytes(), "bytes of {} frames", frames.count);
        let plan = Arc::clone(plan);
        let at_once = plan.nodata.as_ref().map_or(FRAMES_MAX, |nodata| nodata.frames_at_once(frames.frame_bytes()));
        let mut reduced = 0;
        for first in (0..frames.count).step_by(at_once) {
            let part = frames.part(first..frames.count.min(first + at_once));
            let wanted = |&at: &usize| frames.is_present(first + at) && plan.wants(part.first + at as u64);
            self.taken.clear();
            self.taken.extend((0..part.count).filter(wanted));
            self.reduce_part(&plan, part);
            reduced += self.taken.len() as u64;
        }
        self.patterns.frame_count += reduced;
        reduced
    }

    /// Reduces the frames at positions `taken`.
    fn reduce_part(&mut self, plan: &ReducePlan, part: Frames<'_>) {
        // What a lab computes itself is of the pixels as they came.
        self.customs.reduce(&plan.customs, &part, &self.taken, &mut self.patterns);
        let mut nodata = std::mem::take(&mut self.nodata);
        let part = match &plan.nodata {
            Some(of) => {
                nodata.find(of, &part, &self.taken, |frame| plan.shift(frame));
                nodata.before(of, &self.patterns);
                part.with_bytes(nodata.bytes())
            }
            None => part,
        };
        let corrected = plan.corrected.is_some().then(|| self.patterns.take_corrected(plan.is_corrected));
        self.run(&part);
        if let Some(patterns) = corrected {
            self.run_corrected(&part, patterns);
        }
        if let (Some(of), Some(moved)) = (&plan.moved, &mut self.moved) {
            moved.reduce(of, &part, &self.taken, |frame| plan.shift(frame));
        }
        if let Some(of) = &plan.nodata {
            nodata.after(of, &mut self.patterns);
        }
        self.keep_values(&part, &nodata);
        self.nodata = nodata;
    }

    /// One dispatch per block on pixel type, byte order and processor.
    fn run(&mut self, frames: &Frames<'_>) {
        let Self { plan, machine, kernel, taken, patterns, .. } = self;
        let (machine, big) = (*machine, plan.pixel.order == ByteOrder::Big);
        if let Kernel::F32(kernel) = kernel {
            kernel.run(machine, plan, frames, taken, patterns);
            return;
        }
        let block = Work { plan, frames, taken, patterns };
        match kernel {
            Kernel::U8(kernel) => dispatch::<_, false>(machine, kernel, block),
            Kernel::U16(kernel) if big => dispatch::<_, true>(machine, kernel, block),
            Kernel::U16(kernel) => dispatch::<_, false>(machine, kernel, block),
            Kernel::U32(kernel) if big => dispatch::<_, true>(machine, kernel, block),
            Kernel::U32(kernel) => dispatch::<_, false>(machine, kernel, block),
            Kernel::F32(_) => {} // Above.
        }
    }

    fn run_corrected(&mut self, frames: &Frames<'_>, mut patterns: Patterns) {
        if let (Some(of), Some(corrected)) = (&self.plan.corrected, &mut self.corrected) {
            corrected.reduce(of, frames, &self.taken, &mut patterns);
        }
        self.patterns.put_corrected(patterns);
    }

    fn keep_values(&mut self, frames: &Frames<'_>, nodata: &NoDataFrames) {
        let Some(&first) = self.taken.first() else { return };
        let in_order = self.partial.frames.last().is_none_or(|&last| last < frames.first + first as u64);
        let mut separate = None;
        let into = if in_order { &mut self.partial } else { separate.insert(Partial::new(&self.plan)) };
        into.frames.extend(self.taken.iter().map(|&position| frames.first + position as u64));
        let count = self.taken.len();
        let mut corrected = self.corrected.iter().flat_map(|corrected| &corrected.columns);
        let mut moved = self.moved.iter().flat_map(|moved| &moved.columns);
        let mut nodata = nodata.columns.iter();
        for (&home, out) in self.plan.homes.iter().zip(&mut into.columns) {
            let (place, beside) = match home {
                Home::Kernel(place) => (Some(place), None),
                Home::Corrected => (None, corrected.next()),
                Home::Moved => (None, moved.next()),
                Home::NoData => (None, nodata.next()),
            };
            beside.into_iter().for_each(|column| out.extend(column));
            let Some(place) = place else { continue };
            match &self.kernel {
                Kernel::U8(kernel) => kernel.append(&self.plan, place, count, out),
                Kernel::U16(kernel) => kernel.append(&self.plan, place, count, out),
                Kernel::U32(kernel) => kernel.append(&self.plan, place, count, out),
                Kernel::F32(kernel) => kernel.append(&self.plan, place, count, out),
            }
        }
        self.customs.append(into);
        if let Some(separate) = separate {
            let merged = self.partial.merge(&separate);
            debug_assert_eq!(merged, Ok(()), "both are of this plan");
        }
    }

    /// Hands over the values of all frames reduced since the last call.
    pub fn take(&mut self) -> Partial {
        std::mem::replace(&mut self.partial, Partial::new(&self.plan))
    }

    /// Hands over the patterns of all frames reduced since the last call.
    pub fn take_patterns(&mut self) -> Patterns {
        let mut patterns = Patterns::new(&self.plan);
        self.swap_patterns(&mut patterns);
        patterns
    }

    /// As [`Self::take_patterns`], into patterns whose memory is used again; what they held is dropped.
    ///
    /// # Panics
    /// When `patterns` are those of another plan.
    pub fn swap_patterns(&mut self, patterns: &mut Patterns) {
        assert!(patterns.is_like(&self.patterns), "patterns of another plan");
        match &mut self.kernel {
            Kernel::U8(kernel) => kernel.flush(&mut self.patterns),
            Kernel::U16(kernel) => kernel.flush(&mut self.patterns),
            Kernel::U32(kernel) => kernel.flush(&mut self.patterns),
            Kernel::F32(_) => {}
        }
        patterns.clear();
        std::mem::swap(patterns, &mut self.patterns);
    }

    /// Frames in the patterns that have not been handed over.
    pub fn pattern_frame_count(&self) -> u64 {
        self.patterns.frame_count
    }
}

#[cfg(test)]
mod tests;
