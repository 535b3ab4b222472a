//! The fused kernel for integer pixels: one pass over the pixels of a block for all reductions.
//!
//! # Place in the path
//! Called once per block by [`super::Reducer`], inside one dispatch on what the processor can do; everything here is
//! inlined there, so that plain loops become vector code.
//!
//! # Why this way
//! The part of a row that anything wants is brought into native order in a buffer that stays in the first-level cache,
//! and cut into segments ([`super::segments`]). A frame is read from its first to its last byte, because only reading in
//! order runs at the speed of memory. Where patterns are wanted, a few frames are read side by side, row by row, so that
//! the pattern, which lies in the second-level cache, is loaded and stored once for all of them.

use super::frames::Frames;
use super::patterns::{ExtremePattern, Patterns, SquaresPattern, SumPattern};
use super::plan::{Place, ReducePlan};
use super::segments::Segment;
use super::spec::ColumnKind;
use super::weights::{LIMBS, join};

/// Frames read side by side where patterns are wanted.
const ABREAST: usize = 4;
/// Columns over which a column-weighted sum of u8 or u16 pixels fits 32 bits: 255 * 256 / 2 * 32768 < 2^31.
const MOMENT_COLUMNS: usize = 256;
/// Their numbers.
const COLUMNS: [i16; MOMENT_COLUMNS] = {
    let mut columns = [0; MOMENT_COLUMNS];
    let mut column = 0;
    while column < MOMENT_COLUMNS {
        columns[column] = column as i16;
        column += 1;
    }
    columns
};

/// An integer pixel and how sums of it stay in range; rows have at most 65536 pixels.
pub(super) trait Pixel: Copy + Default + Ord {
    /// Sum over frames of one pixel, until it is flushed.
    type Low: Copy + Default + Into<u64>;
    /// Frames after which `Low` must be flushed.
    const LOW_FRAMES: u64;

    fn decode<const BIG: bool>(bytes: &[u8], row: &mut [Self]);
    fn sum(row: &[Self]) -> u64;
    /// Sum of column times pixel, columns from 0.
    fn moment(row: &[Self]) -> u64;
    /// Adds the same row of several frames to their sum over frames.
    fn add(low: &mut [Self::Low], rows: [&[Self]; ABREAST]);
    /// Sum of weight digit (30 bits) times pixel.
    fn dot(digits: &[i32], row: &[Self]) -> i128;
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
    ($pixel:ty, $variant:ident, $bias:expr) => {
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
            fn sum(row: &[Self]) -> u64 {
                u64::from(row.iter().fold(0_u32, |sum, &pixel| sum.wrapping_add(u32::from(pixel))))
            }

            #[inline(always)]
            fn moment(row: &[Self]) -> u64 {
                // Signed 16-bit factors and 32-bit sums: processors multiply and add those in one instruction.
                let bias = i64::from($bias);
                let mut moment = 0_i64;
                for (part, row) in row.chunks(MOMENT_COLUMNS).enumerate() {
                    let mut local = 0_i32;
                    for (&column, &pixel) in COLUMNS.iter().zip(row) {
                        let pixel = i32::from((i32::from(pixel) - $bias) as i16);
                        local = local.wrapping_add(i32::from(column).wrapping_mul(pixel));
                    }
                    let columns = (row.len() * (row.len() - 1) / 2) as i64; // 0 + 1 + ...; a part is not empty.
                    moment += i64::from(local) + bias * columns;
                    if part > 0 {
                        moment += (part * MOMENT_COLUMNS) as i64 * Self::sum(row) as i64;
                    }
                }
                moment as u64
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
            fn dot(digits: &[i32], row: &[Self]) -> i128 {
                // 2^30 * 2^16 * 2^16 pixels < 2^63.
                let products = digits.iter().zip(row).map(|(&digit, &pixel)| i64::from(digit) * i64::from(pixel));
                i128::from(products.fold(0_i64, i64::wrapping_add))
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

narrow_pixel!(u8, U8, 0_i32);
narrow_pixel!(u16, U16, 32_768_i32);

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
    fn sum(row: &[Self]) -> u64 {
        row.iter().fold(0_u64, |sum, &pixel| sum.wrapping_add(u64::from(pixel)))
    }

    #[inline(always)]
    fn moment(row: &[Self]) -> u64 {
        // 2^31 (sum of columns) * 2^32 < 2^64.
        (0_u32..).zip(row).fold(0_u64, |sum, (column, &pixel)| sum.wrapping_add(u64::from(column) * u64::from(pixel)))
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
    fn dot(digits: &[i32], row: &[Self]) -> i128 {
        // In halves of 16 bits, each as for u16.
        let half = |shift: u32| {
            let products = digits.iter().zip(row);
            let products = products.map(|(&digit, &pixel)| i64::from(digit) * i64::from(pixel >> shift & 0xffff));
            i128::from(products.fold(0_i64, i64::wrapping_add))
        };
        half(0) + (half(16) << 16)
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
    values: Values<P>,
}

/// What was found in the frames of a block, frame by frame.
#[derive(Debug)]
struct Values<P> {
    /// Sums by slot.
    sums: Vec<u64>,
    /// (y, x), by number.
    moments: Vec<[u128; 2]>,
    squares: Vec<u128>,
    counts: Vec<u64>,
    /// Digits by real mask.
    limbs: Vec<i128>,
    pixel: std::marker::PhantomData<P>,
}

impl<P: Pixel> Integers<P> {
    pub(super) fn new(plan: &ReducePlan, patterns: &Patterns) -> Self {
        let low = if patterns.sum.is_some() { plan.region.pixel_count() as usize } else { 0 };
        Self {
            rows: vec![P::default(); ABREAST * plan.region.width as usize],
            low: vec![P::Low::default(); low],
            low_frames: 0,
            thresholds: plan.extras.thresholds.iter().map(|&threshold| P::least_from(threshold)).collect(),
            values: Values {
                sums: Vec::new(),
                moments: Vec::new(),
                squares: Vec::new(),
                counts: Vec::new(),
                limbs: Vec::new(),
                pixel: std::marker::PhantomData,
            },
        }
    }

    /// Reduces the frames at positions `taken` of `frames`: patterns go to `patterns`, values stay for [`Self::append`].
    #[inline(always)]
    pub(super) fn reduce<const BIG: bool>(
        &mut self,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        self.values.clear(plan, taken.len());
        if self.low_frames + taken.len() as u64 > P::LOW_FRAMES {
            self.flush(patterns);
        }
        self.low_frames += taken.len() as u64;
        let frame_bytes = plan.region.pixel_count() as usize * size_of::<P>();
        let has_patterns = !plan.accumulators.is_empty();
        let abreast = if has_patterns { ABREAST } else { 1 };
        let width = plan.region.width as usize;
        for (group, positions) in taken.chunks(abreast).enumerate() {
            for y in 0..plan.region.height as usize {
                for (lane, &position) in positions.iter().enumerate() {
                    let frame = &frames.bytes[position * frame_bytes..][..frame_bytes];
                    self.decode_row::<BIG>(plan, lane, frame, y);
                    let row = &self.rows[lane * width..][..width];
                    self.values.reduce_row(plan, &self.thresholds, group * abreast + lane, row, y);
                }
                if has_patterns {
                    self.add_to_patterns(plan, positions.len(), y, patterns);
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
                min[at..][..width].iter_mut().zip(row).for_each(|(min, &pixel)| *min = (*min).min(pixel));
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
    pub(super) fn append(
        &self,
        plan: &ReducePlan,
        place: Place,
        kind: ColumnKind,
        frame_count: usize,
        out: &mut super::partial::Values,
    ) {
        debug_assert!(kind == ColumnKind::Exact || !matches!(place, Place::Real(_)));
        let (values, extras) = (&self.values, &plan.extras);
        for frame in 0..frame_count {
            match place {
                Place::Sum(slot) => out.push_integer(u128::from(values.sums[frame * plan.slot_count + slot])),
                Place::MomentY(number) => out.push_integer(values.moments[frame * extras.moments.count + number][0]),
                Place::MomentX(number) => out.push_integer(values.moments[frame * extras.moments.count + number][1]),
                Place::Squares(number) => out.push_integer(values.squares[frame * extras.squares.count + number]),
                Place::AtLeast(number) => {
                    out.push_integer(u128::from(values.counts[frame * extras.at_least.count + number]));
                }
                Place::Real(mask) => {
                    out.push_exact(join(&values.limbs[(frame * plan.fixed.len() + mask) * LIMBS..][..LIMBS]));
                }
            }
        }
    }
}

impl<P: Pixel> Values<P> {
    fn clear(&mut self, plan: &ReducePlan, frame_count: usize) {
        fn zeros<T: Default + Clone>(values: &mut Vec<T>, count: usize) {
            values.clear();
            values.resize(count, T::default());
        }
        zeros(&mut self.sums, frame_count * plan.slot_count);
        zeros(&mut self.moments, frame_count * plan.extras.moments.count);
        zeros(&mut self.squares, frame_count * plan.extras.squares.count);
        zeros(&mut self.counts, frame_count * plan.extras.at_least.count);
        zeros(&mut self.limbs, frame_count * plan.fixed.len() * LIMBS);
    }

    #[inline(always)]
    fn reduce_row(&mut self, plan: &ReducePlan, thresholds: &[Option<P>], frame: usize, row: &[P], y: usize) {
        let sums = &mut self.sums[frame * plan.slot_count..][..plan.slot_count];
        let mut row_sum = 0;
        for segment in plan.segments.row(y) {
            let sum = P::sum(&row[segment.x0 as usize..segment.x1 as usize]);
            row_sum += sum;
            for &slot in plan.segments.members(segment) {
                sums[slot as usize] += sum;
            }
        }
        if let Some(number) = plan.whole_moments.and_then(|slot| plan.extras.moments.of(slot)) {
            // That mask is in every segment, so row_sum is the sum of the whole row.
            let moments = &mut self.moments[frame * plan.extras.moments.count + number];
            add_moments(moments, (plan.region.y + y as u32, plan.region.x), row_sum, P::moment(row));
        }
        if plan.has_extras {
            for segment in plan.segments.row(y) {
                self.add_extras(plan, thresholds, frame, segment, row, y);
            }
        }
        for (mask, limbs) in plan.fixed.iter().zip(self.limbs[frame * plan.fixed.len() * LIMBS..].chunks_mut(LIMBS)) {
            let (columns, digits) = mask.row(y);
            for (limb, digits) in digits {
                limbs[limb] += P::dot(digits, &row[columns.clone()]);
            }
        }
    }

    /// What is wanted of a segment beside its sum.
    #[inline(always)]
    fn add_extras(
        &mut self,
        plan: &ReducePlan,
        thresholds: &[Option<P>],
        frame: usize,
        segment: &Segment,
        row: &[P],
        y: usize,
    ) {
        let pixels = &row[segment.x0 as usize..segment.x1 as usize];
        let (extra, extras) = (segment.extra, &plan.extras);
        if extra.moments {
            let (sum, moment) = (P::sum(pixels), P::moment(pixels));
            let at = (plan.region.y + y as u32, plan.region.x + segment.x0);
            let slots = plan.segments.members(segment).iter().filter(|&&slot| plan.whole_moments != Some(slot));
            for number in slots.filter_map(|&slot| extras.moments.of(slot)) {
                add_moments(&mut self.moments[frame * extras.moments.count + number], at, sum, moment);
            }
        }
        if extra.squares {
            let squares = P::squares(pixels);
            for number in plan.segments.members(segment).iter().filter_map(|&slot| extras.squares.of(slot)) {
                self.squares[frame * extras.squares.count + number] += squares;
            }
        }
        if extra.at_least {
            for number in plan.segments.members(segment).iter().filter_map(|&slot| extras.at_least.of(slot)) {
                let Some(least) = thresholds[number] else { continue };
                let count = pixels.iter().fold(0_u32, |count, &pixel| count + u32::from(pixel >= least));
                self.counts[frame * extras.at_least.count + number] += u64::from(count);
            }
        }
    }
}

/// Adds the moments of pixels of row `y` from column `x` on, whose sum is `sum` and whose moment about `x` is `moment`.
#[inline(always)]
fn add_moments(moments: &mut [u128; 2], (y, x): (u32, u32), sum: u64, moment: u64) {
    moments[0] += u128::from(y) * u128::from(sum);
    moments[1] += u128::from(moment) + u128::from(x) * u128::from(sum);
}
