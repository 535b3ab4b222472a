//! The fused kernel for integer pixels: one pass over the pixels of a block for all reductions.
//!
//! # Place in the path
//! Called once per block by [`super::Reducer`], inside one dispatch on what the processor can do; everything here is
//! inlined there, so that plain loops become vector code.
//!
//! # Why this way
//! Weighted sums have their own kernels ([`super::dot`], [`super::dot_float`]). Where patterns or segments
//! ([`super::segments`]) are wanted too, those take some rows of eight frames, and weighted sums then find them in
//! the second-level cache and ask memory for the next ones meanwhile. The part of a row that anything wants is
//! brought into native order in a buffer that stays in the first-level cache. Where patterns are wanted, a few frames
//! are read side by side, row by row, so that a piece of the pattern is loaded and stored once for all of them, and
//! stays near for the next few.

use std::ops::Range;

use super::dot::{CHUNKS, Dots, LINE, OCTET, Planes, Stack};
use super::dot_float::{FloatDots, Singles};
use super::extremes::ExtremePattern;
use super::frames::Frames;
use super::patterns::{Patterns, SquaresPattern, SumPattern};
use super::plan::{Place, ReducePlan};
use super::rows::CHUNK_PIXELS;
use super::vector::Multiply;

/// Frames read side by side where patterns are wanted.
const ABREAST: usize = 4;
/// Pixels of patterns that stay in the first-level cache while several groups of frames are added to them.
const NEAR_PIXELS: usize = 2048;
/// How far ahead of a row memory is asked for.
const AHEAD_BYTES: usize = 4096;

/// An integer pixel and how sums of it stay in range; rows have at most 65536 pixels.
pub(super) trait Pixel: Copy + Default + Ord + Planes + Singles {
    /// Sum over frames of one pixel, until it is flushed.
    type Low: Copy + Default + Into<u64>;
    /// Frames after which `Low` must be flushed.
    const LOW_FRAMES: u64;

    fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]);
    /// Adds the same row of several frames to their sum over frames.
    fn add(low: &mut [Self::Low], rows: [&[Self]; ABREAST]);
    fn extremes(pattern: &mut ExtremePattern) -> Option<&mut [Self]>;
    fn squares(row: &[Self]) -> u128;
    /// Adds squares of the same row of several frames to their sum over frames.
    fn add_squares(squares: &mut SquaresPattern, at: usize, rows: [&[Self]; ABREAST]);
    /// The value as a number.
    fn number(self) -> f64;
    /// The least pixel that is not below a number, `None` when there is none.
    fn least_from(number: f64) -> Option<Self>;
}

/// The least integer pixel that is not below a number.
macro_rules! least_from {
    ($number:expr) => {{
        let least = $number.ceil().max(0.0);
        (least <= f64::from(Self::MAX)).then_some(least as Self)
    }};
}

macro_rules! narrow_pixel {
    ($pixel:ty, $variant:ident) => {
        impl Pixel for $pixel {
            type Low = u32;
            const LOW_FRAMES: u64 = 65_536; // 65536 * 65535 < 2^32

            #[inline(always)]
            fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]) {
                const BYTES: usize = size_of::<$pixel>();
                for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
                    *pixel = if BIG { Self::from_be_bytes(*bytes) } else { Self::from_le_bytes(*bytes) };
                }
            }

            #[inline(always)]
            fn add(low: &mut [u32], rows: [&[Self]; ABREAST]) {
                let [a, b, c, d] = rows;
                for ((((low, &a), &b), &c), &d) in low.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    let sum = [a, b, c, d].map(u32::from).into_iter().sum::<u32>(); // < 4 * 2^16
                    *low = low.wrapping_add(sum);
                }
            }

            #[inline(always)]
            fn extremes(pattern: &mut ExtremePattern) -> Option<&mut [Self]> {
                if let ExtremePattern::$variant(values) = pattern { Some(values) } else { None }
            }

            #[inline(always)]
            fn squares(row: &[Self]) -> u128 {
                // 2^32 * 2^16 pixels.
                u128::from(row.iter().fold(0_u64, |sum, &pixel| sum + u64::from(u32::from(pixel) * u32::from(pixel))))
            }

            #[inline(always)]
            fn add_squares(squares: &mut SquaresPattern, at: usize, rows: [&[Self]; ABREAST]) {
                let SquaresPattern::U64(squares) = squares else { return };
                let [a, b, c, d] = rows;
                let squares = &mut squares[at..][..a.len()];
                for ((((sum, &a), &b), &c), &d) in squares.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    let [a, b, c, d] = [a, b, c, d].map(|pixel| u32::from(pixel) * u32::from(pixel));
                    *sum += u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d);
                }
            }

            #[inline(always)]
            fn number(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn least_from(number: f64) -> Option<Self> {
                least_from!(number)
            }
        }
    };
}

narrow_pixel!(u8, U8);
narrow_pixel!(u16, U16);

impl Pixel for u32 {
    type Low = u64;
    const LOW_FRAMES: u64 = 1 << 31;

    #[inline(always)]
    fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]) {
        for (pixel, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *pixel = if BIG { Self::from_be_bytes(*bytes) } else { Self::from_le_bytes(*bytes) };
        }
    }

    #[inline(always)]
    fn add(low: &mut [u64], rows: [&[Self]; ABREAST]) {
        let [a, b, c, d] = rows;
        for ((((low, &a), &b), &c), &d) in low.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            let sum = [a, b, c, d].map(u64::from).into_iter().sum::<u64>(); // < 4 * 2^32
            *low = low.wrapping_add(sum);
        }
    }

    #[inline(always)]
    fn extremes(pattern: &mut ExtremePattern) -> Option<&mut [Self]> {
        if let ExtremePattern::U32(values) = pattern { Some(values) } else { None }
    }

    #[inline(always)]
    fn squares(row: &[Self]) -> u128 {
        row.iter().fold(0_u128, |sum, &pixel| sum + u128::from(u64::from(pixel) * u64::from(pixel)))
    }

    #[inline(always)]
    fn add_squares(squares: &mut SquaresPattern, at: usize, rows: [&[Self]; ABREAST]) {
        let SquaresPattern::U128(squares) = squares else { return };
        for row in rows {
            for (sum, &pixel) in squares[at..].iter_mut().zip(row) {
                *sum += u128::from(u64::from(pixel) * u64::from(pixel));
            }
        }
    }

    #[inline(always)]
    fn number(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn least_from(number: f64) -> Option<Self> {
        least_from!(number)
    }
}

/// Scratch of one reducer for one pixel type.
#[derive(Debug)]
pub(super) struct Integers<P: Pixel> {
    /// One row of each frame read side by side.
    rows: Vec<P>,
    low: Vec<P::Low>,
    low_frames: u64,
    /// The least pixel that counts, by number of the threshold.
    thresholds: Vec<Option<P>>,
    values: Values,
    dots: Dots,
    floats: FloatDots,
}

/// What was found in the frames of a block, frame by frame.
#[derive(Debug, Default)]
struct Values {
    squares: Vec<u128>,
    counts: Vec<u64>,
}

impl<P: Pixel> Integers<P> {
    pub(super) fn new(plan: &ReducePlan, patterns: &Patterns) -> Self {
        let low = if patterns.sum.is_some() { plan.region.pixel_count() as usize } else { 0 };
        Self {
            rows: vec![P::default(); ABREAST * plan.region.width as usize],
            low: vec![P::Low::default(); low],
            low_frames: 0,
            thresholds: plan.extras.thresholds.iter().map(|&threshold| P::least_from(threshold)).collect(),
            values: Values::default(),
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
        self.dots.clear(plan.fixed.rows());
        self.floats.clear(&plan.floats);
        if self.low_frames + taken.len() as u64 > P::LOW_FRAMES {
            self.flush(patterns);
        }
        self.low_frames += taken.len() as u64;
        let rows = plan.fixed.rows();
        let stack = |positions| Stack { bytes: frames.bytes, frame_bytes: frames.frame_bytes(), positions };
        if plan.accumulators.is_empty() && plan.segments.is_empty() {
            self.dots.multiply::<P, BIG>(vector, rows, &stack(taken));
            self.floats.multiply::<P, BIG>(vector, &plan.floats, &stack(taken));
            return;
        }
        let (pixel_count, width) = (plan.region.pixel_count() as usize, plan.region.width as usize);
        for (number, positions) in taken.chunks(OCTET).enumerate() {
            self.dots.begin::<P>(rows, positions.len());
            for (span, start) in (0..pixel_count).step_by(CHUNKS * CHUNK_PIXELS).enumerate() {
                let end = pixel_count.min(start + CHUNKS * CHUNK_PIXELS);
                let lines = start.div_ceil(width)..end.div_ceil(width);
                self.reduce_rows::<BIG>(vector, plan, frames, (number * OCTET, positions), lines, patterns);
                self.dots.multiply_span::<P, BIG>(vector, rows, &stack(positions), span * CHUNKS, true);
            }
            self.dots.finish::<P>(rows, positions.len());
        }
        self.floats.multiply::<P, BIG>(vector, &plan.floats, &stack(taken));
    }

    /// Everything that is not a weighted sum, of rows `lines` of frames numbered from `first` on.
    #[inline(always)]
    fn reduce_rows<const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        (first, positions): (usize, &[usize]),
        lines: Range<usize>,
        patterns: &mut Patterns,
    ) {
        let frame_bytes = frames.frame_bytes();
        let has_patterns = !plan.accumulators.is_empty();
        let abreast = if has_patterns { ABREAST } else { 1 };
        let width = plan.region.width as usize;
        let some = (NEAR_PIXELS / width).max(1);
        for start in lines.clone().step_by(some) {
            for (group, positions) in positions.chunks(abreast).enumerate() {
                for y in start..lines.end.min(start + some) {
                    for (lane, &position) in positions.iter().enumerate() {
                        let frame = &frames.bytes[position * frame_bytes..][..frame_bytes];
                        ask_ahead(vector, frame, y * width * size_of::<P>(), width * size_of::<P>());
                        self.decode_row::<BIG>(plan, lane, frame, y);
                        let row = &self.rows[lane * width..][..width];
                        self.values.reduce_row(plan, &self.thresholds, first + group * abreast + lane, row, y);
                    }
                    if has_patterns {
                        self.add_to_patterns(plan, positions.len(), y, patterns);
                    }
                }
            }
        }
    }

    /// Brings what is wanted of row `y` of a frame into `rows`.
    #[inline(always)]
    fn decode_row<const BIG: bool>(&mut self, plan: &ReducePlan, lane: usize, frame: &[u8], y: usize) {
        let (width, columns) = (plan.region.width as usize, plan.columns_of_row(y));
        let bytes = &frame[(y * width + columns.start) * size_of::<P>()..][..columns.len() * size_of::<P>()];
        P::decode::<BIG>(bytes, &mut self.rows[lane * width..][columns]);
    }

    /// Adds row `y` of the first `count` lanes to the patterns.
    #[inline(always)]
    fn add_to_patterns(&mut self, plan: &ReducePlan, count: usize, y: usize, patterns: &mut Patterns) {
        let width = plan.region.width as usize;
        let at = y * width;
        if let Some((bins, counts)) = &mut patterns.histogram {
            for pixel in &self.rows[..count * width] {
                if let Some(bin) = bins.of(pixel.number()) {
                    counts[bin] += 1;
                }
            }
        }
        if let Some(min) = patterns.min.as_mut().and_then(P::extremes) {
            for row in self.rows[..count * width].chunks_exact(width) {
                for (min, &pixel) in min[at..][..width].iter_mut().zip(row) {
                    *min = (*min).min(pixel);
                }
            }
        }
        self.rows[count * width..].fill(P::default()); // Zero is neutral for sums, squares and maxima.
        let rows: [&[P]; ABREAST] = std::array::from_fn(|lane| &self.rows[lane * width..][..width]);
        if patterns.sum.is_some() {
            P::add(&mut self.low[at..][..width], rows);
        }
        if let Some(squares) = &mut patterns.squares {
            P::add_squares(squares, at, rows);
        }
        if let Some(max) = patterns.max.as_mut().and_then(P::extremes) {
            let [a, b, c, d] = rows;
            for ((((max, &a), &b), &c), &d) in max[at..][..width].iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *max = (*max).max(a.max(b)).max(c.max(d));
            }
        }
    }

    /// Moves the sums over frames to where they have 64 bits.
    pub(super) fn flush(&mut self, patterns: &mut Patterns) {
        if let Some(SumPattern::Integer(sums)) = &mut patterns.sum {
            for (sum, low) in sums.iter_mut().zip(&mut self.low) {
                *sum = sum.wrapping_add(std::mem::take(low).into());
            }
        }
        self.low_frames = 0;
    }

    /// Appends the values of all frames of the last block to a column.
    pub(super) fn append(&self, plan: &ReducePlan, place: Place, frame_count: usize, out: &mut super::partial::Values) {
        let (values, extras) = (&self.values, &plan.extras);
        for frame in 0..frame_count {
            match place {
                Place::FloatDot(number) => out.push_exact(self.floats.total(frame, number)),
                // Integers under weights of 0 and 1, or coordinates: never negative.
                Place::Dot(number) => out.push_integer(plan.fixed.integer(number, self.dots.totals(frame)) as u128),
                Place::Squares(number) => out.push_integer(values.squares[frame * extras.squares.count + number]),
                Place::AtLeast(number) => {
                    out.push_integer(u128::from(values.counts[frame * extras.at_least.count + number]));
                }
            }
        }
    }
}

/// Asks memory for what is wanted of a frame some rows later.
#[inline(always)]
fn ask_ahead(vector: impl Multiply, frame: &[u8], start: usize, row_bytes: usize) {
    for at in (0..row_bytes).step_by(LINE) {
        if let Some(byte) = frame.get(start + AHEAD_BYTES + at) {
            vector.prefetch(byte);
        }
    }
}

impl Values {
    fn clear(&mut self, plan: &ReducePlan, frame_count: usize) {
        self.squares.clear();
        self.squares.resize(frame_count * plan.extras.squares.count, 0);
        self.counts.clear();
        self.counts.resize(frame_count * plan.extras.at_least.count, 0);
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
