//! The kernel for integer pixels.
//!
//! # Place in the path
//! Called once per block by [`super::Reducer`], inside one dispatch on what the processor can do; everything here is
//! inlined there, so that plain loops become vector code.
//!
//! # Why this way
//! Sums under binary masks, patterns and lists of weighted pixels are made sixteen frames at a time ([`super::lanes`]), so that pixels are
//! read once for all of them. Other weighted sums in floating point ([`super::dot_float`]) and what is counted in segments
//! ([`super::segments`]) or histograms read them again. Where a block has only few frames, or masks cut each other too often, sums are
//! made row by row of weights ([`super::dot`]).

use super::dot::{Dots, Planes, Stack};
use super::dot_float::{FloatDots, Singles};
use super::extremes::ExtremePattern;
use super::frames::Frames;
use super::lanes::{Columns, Lanes};
use super::pattern_sums::PatternSums;
use super::patterns::Patterns;
use super::plan::{Place, ReducePlan};
use super::stage::FRAMES;
use super::vector::Multiply;

/// So few frames are not worth sixteen lanes.
const FEW: usize = 4;

/// An integer pixel and how sums of it stay in range; rows have at most 65536 pixels.
pub(super) trait Pixel: Copy + Default + Ord + Planes + Singles {
    /// Sum over frames of one pixel, until it is flushed.
    type Low: std::fmt::Debug + Copy + Default + Into<u64> + From<Self> + From<u16> + std::ops::AddAssign;
    /// Frames after which `Low` must be flushed.
    const LOW_FRAMES: u64;

    fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]);
    /// A pixel of its planes, lowest first.
    fn of_planes(planes: [u16; 2]) -> Self;
    fn extremes(pattern: &mut ExtremePattern) -> Option<&mut [Self]>;
    fn square(self) -> u64;
    fn squares(row: &[Self]) -> u128;
    /// The value as a number.
    fn number(self) -> f64;
    /// The least pixel that is not below a number, `None` when there is none.
    fn least_from(number: f64) -> Option<Self>;
}

macro_rules! pixel {
    ($pixel:ty, $variant:ident, $low:ty, $low_frames:expr, |$planes:ident| $of_planes:expr) => {
        impl Pixel for $pixel {
            type Low = $low;
            const LOW_FRAMES: u64 = $low_frames;

            #[inline(always)]
            fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]) {
                const BYTES: usize = size_of::<$pixel>();
                for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
                    *pixel = if BIG { Self::from_be_bytes(*bytes) } else { Self::from_le_bytes(*bytes) };
                }
            }

            #[inline(always)]
            fn of_planes($planes: [u16; 2]) -> Self {
                $of_planes
            }

            #[inline(always)]
            fn extremes(pattern: &mut ExtremePattern) -> Option<&mut [Self]> {
                if let ExtremePattern::$variant(values) = pattern { Some(values) } else { None }
            }

            #[inline(always)]
            fn square(self) -> u64 {
                u64::from(self) * u64::from(self)
            }

            #[inline(always)]
            fn squares(row: &[Self]) -> u128 {
                if size_of::<$pixel>() <= 2 {
                    // 2^32 * 2^16 pixels.
                    return u128::from(row.iter().fold(0_u64, |sum, &pixel| sum + pixel.square()));
                }
                row.iter().fold(0_u128, |sum, &pixel| sum + u128::from(pixel.square()))
            }

            #[inline(always)]
            fn number(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn least_from(number: f64) -> Option<Self> {
                let least = number.ceil().max(0.0);
                (least <= f64::from(Self::MAX)).then_some(least as Self)
            }
        }
    };
}

pixel!(u8, U8, u32, 65_536, |planes| planes[0] as u8);
pixel!(u16, U16, u32, 65_536, |planes| planes[0]); // 65536 * 65535 < 2^32
pixel!(u32, U32, u64, 1 << 31, |planes| u32::from(planes[1]) << 16 | u32::from(planes[0]));

/// Scratch of one reducer for one pixel type.
#[derive(Debug)]
pub(super) struct Integers<P: Pixel> {
    row: Vec<P>,
    /// The least pixel that counts, by number of the threshold.
    thresholds: Vec<Option<P>>,
    values: Values,
    sums: PatternSums<P>,
    lanes: Lanes,
    dots: Dots,
    floats: FloatDots,
}

/// What was found in the frames of a block, frame by frame.
#[derive(Debug, Default)]
struct Values {
    squares: Vec<u128>,
    counts: Vec<u64>,
    /// Sums under binary masks.
    totals: Vec<i128>,
}

impl<P: Pixel> Integers<P> {
    pub(super) fn new(plan: &ReducePlan, patterns: &Patterns) -> Self {
        Self {
            row: vec![P::default(); plan.region.width as usize],
            thresholds: plan.extras.thresholds.iter().map(|&threshold| P::least_from(threshold)).collect(),
            values: Values::default(),
            sums: PatternSums::new(patterns),
            lanes: Lanes::new::<P>(
                plan.region.pixel_count() as usize,
                Columns { partition: plan.fixed.partition(), rows: &plan.floats },
            ),
            dots: Dots::new(),
            floats: FloatDots::new(),
        }
    }

    /// Reduces the frames at positions `taken` of `frames`: patterns go to `patterns`, values stay for [`Self::append`].
    #[inline(always)]
    pub(super) fn reduce<const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        self.values.clear(plan, taken.len());
        let stack = |positions| Stack { bytes: frames.bytes, frame_bytes: frames.frame_bytes(), positions };
        if patterns.histogram.is_some() || !plan.segments.is_empty() {
            self.reduce_rows::<BIG>(plan, frames, taken, patterns);
        }
        let has_patterns = patterns.has_pixels();
        if has_patterns {
            self.sums.begin(taken.len(), patterns);
        }
        let columns = Columns { partition: plan.fixed.partition(), rows: &plan.floats };
        let in_lanes = in_lanes(taken.len());
        self.floats.clear(&plan.floats);
        self.floats.multiply::<P, BIG>(vector, &plan.floats, &stack(&taken[..in_lanes]), false);
        self.floats.multiply::<P, BIG>(vector, &plan.floats, &stack(&taken[in_lanes..]), true);
        for (number, positions) in taken.chunks(FRAMES).enumerate() {
            let over = has_patterns.then_some((&mut self.sums, &mut *patterns));
            let columns = (number * FRAMES < in_lanes).then_some(columns);
            self.lanes.add::<P, BIG>(vector, stack(positions), over, columns);
            if let Some(columns) = columns {
                let frames = (number * FRAMES, positions.len());
                self.lanes.finish::<P>(columns, frames, &mut self.values.totals, &mut self.floats);
            }
        }
        let row_by_row = if columns.partition.is_some() { &taken[in_lanes..] } else { taken };
        self.dots.clear(plan.fixed.rows());
        self.dots.multiply::<P, BIG>(vector, plan.fixed.rows(), &stack(row_by_row));
        for frame in 0..row_by_row.len() {
            for column in 0..plan.fixed.len() {
                self.values.totals.push(plan.fixed.integer(column, self.dots.totals(frame)));
            }
        }
    }

    /// What is counted in segments of rows, and how often which values occur.
    #[inline(always)]
    fn reduce_rows<const BIG: bool>(
        &mut self,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        let (frame_bytes, width) = (frames.frame_bytes(), plan.region.width as usize);
        for (number, &position) in taken.iter().enumerate() {
            let frame = &frames.bytes[position * frame_bytes..][..frame_bytes];
            for y in 0..plan.region.height as usize {
                let columns = plan.columns_of_row(y);
                let bytes = &frame[(y * width + columns.start) * P::BYTES..][..columns.len() * P::BYTES];
                P::decode::<BIG>(bytes, &mut self.row[columns]);
                self.values.reduce_row(plan, &self.thresholds, number, &self.row, y);
                if let Some((bins, counts)) = &mut patterns.histogram {
                    for bin in self.row.iter().filter_map(|pixel| bins.of(pixel.number())) {
                        counts[bin] += 1;
                    }
                }
            }
        }
    }

    /// Moves the sums over frames to where they have 64 bits.
    pub(super) fn flush(&mut self, patterns: &mut Patterns) {
        self.sums.flush(patterns);
    }

    /// Appends the values of all frames of the last block to a column.
    pub(super) fn append(&self, plan: &ReducePlan, place: Place, frame_count: usize, out: &mut super::partial::Values) {
        let (values, extras) = (&self.values, &plan.extras);
        for frame in 0..frame_count {
            match place {
                Place::FloatDot(number) => out.push_exact(self.floats.total(frame, number)),
                // Integers under weights of 0 and 1, or coordinates: never negative.
                Place::Dot(number) => out.push_integer(values.totals[frame * plan.fixed.len() + number] as u128),
                Place::Squares(number) => out.push_integer(values.squares[frame * extras.squares.count + number]),
                Place::AtLeast(number) => {
                    out.push_integer(u128::from(values.counts[frame * extras.at_least.count + number]));
                }
            }
        }
    }
}

/// How many of so many frames are reduced in lanes: all but a few at the end.
fn in_lanes(frame_count: usize) -> usize {
    let rest = frame_count % FRAMES;
    if rest <= FEW { frame_count - rest } else { frame_count }
}

impl Values {
    fn clear(&mut self, plan: &ReducePlan, frame_count: usize) {
        self.squares.clear();
        self.squares.resize(frame_count * plan.extras.squares.count, 0);
        self.counts.clear();
        self.counts.resize(frame_count * plan.extras.at_least.count, 0);
        self.totals.clear();
    }

    /// What is wanted of the segments of row `y` of a frame.
    #[inline(always)]
    fn reduce_row<P: Pixel>(&mut self, plan: &ReducePlan, thresholds: &[Option<P>], frame: usize, row: &[P], y: usize) {
        let extras = &plan.extras;
        for segment in plan.segments.row(y) {
            let pixels = &row[segment.x0 as usize..segment.x1 as usize];
            if segment.extra.squares {
                let squares = P::squares(pixels);
                for number in plan.segments.members(segment).iter().filter_map(|&slot| extras.squares.of(slot)) {
                    self.squares[frame * extras.squares.count + number] += squares;
                }
            }
            if segment.extra.at_least {
                for number in plan.segments.members(segment).iter().filter_map(|&slot| extras.at_least.of(slot)) {
                    let Some(least) = thresholds[number] else { continue };
                    let count = pixels.iter().fold(0_u32, |count, &pixel| count + u32::from(pixel >= least));
                    self.counts[frame * extras.at_least.count + number] += u64::from(count);
                }
            }
        }
    }
}
