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
use super::partial::Values;
use super::patterns::{MaxPattern, Patterns, SumPattern};
use super::plan::{ReducePlan, Slot};
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
    fn max_of(max: &mut MaxPattern) -> Option<&mut [Self]>;
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
            fn max_of(max: &mut MaxPattern) -> Option<&mut [Self]> {
                if let MaxPattern::$variant(max) = max { Some(max) } else { None }
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
    fn max_of(max: &mut MaxPattern) -> Option<&mut [Self]> {
        if let MaxPattern::U32(max) = max { Some(max) } else { None }
    }
}

/// Scratch of one reducer for one pixel type.
#[derive(Debug)]
pub(super) struct Integers<P: Pixel> {
    /// One row of each frame read side by side.
    rows: Vec<P>,
    low: Vec<P::Low>,
    low_frames: u64,
    /// Per frame of the block: sums by slot, moments (y, x), digits by real mask.
    sums: Vec<u64>,
    moments: Vec<[u128; 2]>,
    limbs: Vec<i128>,
}

impl<P: Pixel> Integers<P> {
    pub(super) fn new(plan: &ReducePlan) -> Self {
        let low = if plan.sum { plan.region.pixel_count() as usize } else { 0 };
        Self {
            rows: vec![P::default(); ABREAST * plan.region.width as usize],
            low: vec![P::Low::default(); low],
            low_frames: 0,
            sums: Vec::new(),
            moments: Vec::new(),
            limbs: Vec::new(),
        }
    }

    /// Reduces the frames at positions `taken` of `frames`: patterns go to `patterns`, values stay here for [`value`].
    #[inline(always)]
    pub(super) fn reduce<const BIG: bool>(
        &mut self,
        plan: &ReducePlan,
        frames: &Frames<'_>,
        taken: &[usize],
        patterns: &mut Patterns,
    ) {
        self.clear(plan, taken.len());
        if self.low_frames + taken.len() as u64 > P::LOW_FRAMES {
            self.flush(patterns);
        }
        self.low_frames += taken.len() as u64;
        let frame_bytes = plan.region.pixel_count() as usize * size_of::<P>();
        let has_patterns = plan.sum || plan.max;
        let mut max = patterns.max.as_mut().and_then(P::max_of);
        let abreast = if has_patterns { ABREAST } else { 1 };
        for (group, positions) in taken.chunks(abreast).enumerate() {
            for y in 0..plan.region.height as usize {
                for (lane, &position) in positions.iter().enumerate() {
                    let frame = &frames.bytes[position * frame_bytes..][..frame_bytes];
                    self.decode_row::<BIG>(plan, lane, frame, y);
                    self.reduce_row(plan, group * abreast + lane, lane, y);
                }
                if has_patterns {
                    self.add_to_patterns(plan, positions.len(), y, &mut max);
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
    fn add_to_patterns(&mut self, plan: &ReducePlan, count: usize, y: usize, max: &mut Option<&mut [P]>) {
        let width = plan.region.width as usize;
        self.rows[count * width..].fill(P::default()); // Zero is neutral for both patterns.
        let rows: [&[P]; ABREAST] = std::array::from_fn(|lane| &self.rows[lane * width..][..width]);
        if plan.sum {
            P::add(&mut self.low[y * width..][..width], rows);
        }
        if let Some(max) = max {
            let [a, b, c, d] = rows;
            let max = &mut max[y * width..][..width];
            for ((((max, &a), &b), &c), &d) in max.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *max = (*max).max(a.max(b)).max(c.max(d));
            }
        }
    }

    fn clear(&mut self, plan: &ReducePlan, frame_count: usize) {
        self.sums.clear();
        self.sums.resize(frame_count * plan.slot_count, 0);
        self.moments.clear();
        self.moments.resize(if plan.moments { frame_count } else { 0 }, [0; 2]);
        self.limbs.clear();
        self.limbs.resize(frame_count * plan.fixed.len() * LIMBS, 0);
    }

    #[inline(always)]
    fn reduce_row(&mut self, plan: &ReducePlan, frame: usize, lane: usize, y: usize) {
        let width = plan.region.width as usize;
        let row = &self.rows[lane * width..][..width];
        let sums = &mut self.sums[frame * plan.slot_count..][..plan.slot_count];
        let mut row_sum = 0;
        for segment in plan.segments.row(y) {
            let sum = P::sum(&row[segment.x0 as usize..segment.x1 as usize]);
            row_sum += sum;
            for &slot in plan.segments.members(segment) {
                sums[slot as usize] += sum;
            }
        }
        if plan.moments {
            // The total is a slot of every segment when moments are wanted, so row_sum is that of the whole row.
            let [moment_y, moment_x] = &mut self.moments[frame];
            *moment_y += u128::from(u64::from(plan.region.y) + y as u64) * u128::from(row_sum);
            *moment_x += u128::from(P::moment(row)) + u128::from(plan.region.x) * u128::from(row_sum);
        }
        for (mask, limbs) in plan.fixed.iter().zip(self.limbs[frame * plan.fixed.len() * LIMBS..].chunks_mut(LIMBS)) {
            let (columns, digits) = mask.row(y);
            for (limb, digits) in digits {
                limbs[limb] += P::dot(digits, &row[columns.clone()]);
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
    pub(super) fn append(&self, plan: &ReducePlan, slot: Slot, kind: ColumnKind, frame_count: usize, out: &mut Values) {
        debug_assert!(kind == ColumnKind::Exact || !matches!(slot, Slot::Real(_)));
        for frame in 0..frame_count {
            match slot {
                Slot::Segments(slot) => out.push_integer(u128::from(self.sums[frame * plan.slot_count + slot])),
                Slot::MomentY => out.push_integer(self.moments[frame][0]),
                Slot::MomentX => out.push_integer(self.moments[frame][1]),
                Slot::Real(mask) => {
                    out.push_exact(join(&self.limbs[(frame * plan.fixed.len() + mask) * LIMBS..][..LIMBS]))
                }
            }
        }
    }
}
