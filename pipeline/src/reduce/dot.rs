//! The kernel for weighted sums of integer pixels: rows of small integer weights times many frames at a time.
//!
//! # Place in the path
//! Called by [`super::kernel`], inside one dispatch on what the processor can do, for the frames that [`super::lanes`] does not take:
//! a few that are left over, and all where masks are no partition.
//!
//! # Invariants
//! - I1: everything is an integer and in range, so sums are exact, in whatever order they are made.
//!
//! # Units
//! Pixels are taken as 16-bit signed numbers: unsigned ones minus [`Planes::BIAS`], which the sums of weights make up for in
//! the end; pixels of 32 bits as two planes of 16.
//!
//! # Why this way
//! Weights of many masks are more bytes than pixels, so every block of weights that is loaded is multiplied with eight
//! frames. Reading a piece of each frame and then computing on it would leave memory idle meanwhile and the processor
//! after, so the next piece is asked for while this one is computed on.

use crate::PixelKind;

use super::rows::{CHUNK_PIXELS, Entry, GROUP_ROWS, Group, Rows};
use super::vector::{BLOCK_PIXELS, Block64, Lanes, Multiply, Wide, widen};

/// Frames multiplied with each block of weights.
pub(super) const OCTET: usize = 8;
/// Chunks of one frame before the next frames have their turn: weights of as many should fit the second-level cache, and
/// memory is read best in pieces of some KiB.
const CHUNKS: usize = 8;
/// Frames whose sums are kept at a time.
const FRAMES: usize = 32;
/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// A chunk of one frame, decoded.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
struct Piece([i16; CHUNK_PIXELS]);

/// An unsigned pixel as one or two planes of signed 16-bit numbers.
pub(super) trait Planes {
    /// Bytes of a pixel.
    const BYTES: usize;
    /// Number of planes.
    const COUNT: usize;
    /// What is taken from every plane of a pixel.
    const BIAS: i64;
    /// Largest magnitude of what remains.
    const MAGNITUDE_MAX: u32;

    /// Decodes pixels of plane `plane`, lowest first; what the bytes do not reach is left as it is.
    fn decode_shorts<const BIG: bool>(bytes: &[u8], plane: usize, pixels: &mut [u16]);
    /// The same, [`Self::BIAS`] taken away.
    fn decode_plane<const BIG: bool>(bytes: &[u8], plane: usize, pixels: &mut [i16]);
}

impl Planes for u8 {
    const BYTES: usize = 1;
    const COUNT: usize = 1;
    const BIAS: i64 = 0;
    const MAGNITUDE_MAX: u32 = 255;

    #[inline(always)]
    fn decode_shorts<const BIG: bool>(bytes: &[u8], _: usize, pixels: &mut [u16]) {
        for (pixel, &byte) in pixels.iter_mut().zip(bytes) {
            *pixel = u16::from(byte);
        }
    }

    #[inline(always)]
    fn decode_plane<const BIG: bool>(bytes: &[u8], _: usize, pixels: &mut [i16]) {
        for (pixel, &byte) in pixels.iter_mut().zip(bytes) {
            *pixel = i16::from(byte);
        }
    }
}

impl Planes for u16 {
    const BYTES: usize = 2;
    const COUNT: usize = 1;
    const BIAS: i64 = 1 << 15;
    const MAGNITUDE_MAX: u32 = 1 << 15;

    #[inline(always)]
    fn decode_shorts<const BIG: bool>(bytes: &[u8], _: usize, pixels: &mut [u16]) {
        for (pixel, &bytes) in pixels.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *pixel = if BIG { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
        }
    }

    #[inline(always)]
    fn decode_plane<const BIG: bool>(bytes: &[u8], _: usize, pixels: &mut [i16]) {
        for (pixel, &bytes) in pixels.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let value = if BIG { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
            *pixel = (value ^ 1 << 15) as i16;
        }
    }
}

impl Planes for u32 {
    const BYTES: usize = 4;
    const COUNT: usize = 2;
    const BIAS: i64 = 1 << 15;
    const MAGNITUDE_MAX: u32 = 1 << 15;

    #[inline(always)]
    fn decode_shorts<const BIG: bool>(bytes: &[u8], plane: usize, pixels: &mut [u16]) {
        let shift = 16 * plane as u32;
        for (pixel, &bytes) in pixels.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let value = if BIG { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            *pixel = (value >> shift) as u16;
        }
    }

    #[inline(always)]
    fn decode_plane<const BIG: bool>(bytes: &[u8], plane: usize, pixels: &mut [i16]) {
        let shift = 16 * plane as u32;
        for (pixel, &bytes) in pixels.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let value = if BIG { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            *pixel = ((value >> shift) as u16 ^ 1 << 15) as i16;
        }
    }
}

/// Largest magnitude of what is multiplied of such pixels.
pub(super) fn magnitude_max(kind: PixelKind) -> u32 {
    match kind {
        PixelKind::U8 => u8::MAGNITUDE_MAX,
        PixelKind::U16 => u16::MAGNITUDE_MAX,
        PixelKind::U32 | PixelKind::F32 => u32::MAGNITUDE_MAX,
    }
}

/// Frames to be multiplied: those at `positions` of `bytes`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) frame_bytes: usize,
    pub(super) positions: &'a [usize],
}

impl<'a> Stack<'a> {
    /// Bytes of chunk `chunk` of the frame of a lane; the last frame again where there are none left.
    #[inline(always)]
    fn chunk(&self, lane: usize, chunk: usize, pixel_bytes: usize) -> &'a [u8] {
        self.piece(lane, chunk * CHUNK_PIXELS * pixel_bytes, CHUNK_PIXELS * pixel_bytes)
    }

    /// Up to so many bytes from `start` on of the frame of a lane.
    #[inline(always)]
    pub(super) fn piece(&self, lane: usize, start: usize, bytes: usize) -> &'a [u8] {
        let Some(&position) = self.positions.get(lane).or(self.positions.last()) else { return &[] };
        let frame = &self.bytes[position * self.frame_bytes..][..self.frame_bytes];
        &frame[start..self.frame_bytes.min(start + bytes)]
    }
}

/// Sums of rows of weights over frames; scratch of one reducer.
#[derive(Debug)]
pub(super) struct Dots {
    pieces: Box<[Piece; OCTET]>,
    /// By octet, plane, row, frame.
    lanes: Vec<Lanes>,
    wide: Vec<Wide>,
    /// By frame, row.
    totals: Vec<i128>,
    row_count: usize,
}

impl Dots {
    pub(super) fn new() -> Self {
        let pieces = Box::new([Piece([0; CHUNK_PIXELS]); OCTET]);
        Self { pieces, lanes: Vec::new(), wide: Vec::new(), totals: Vec::new(), row_count: 0 }
    }

    /// Sums of all rows over a frame, exact; frames count from the last [`Self::clear`].
    pub(super) fn totals(&self, frame: usize) -> &[i128] {
        &self.totals[frame * self.row_count..][..self.row_count]
    }

    /// Forgets all frames; the next ones are multiplied with such rows.
    pub(super) fn clear(&mut self, rows: &Rows) {
        self.row_count = rows.len();
        self.totals.clear();
    }

    /// Multiplies all rows with all frames of a stack, which come after those multiplied before.
    #[inline(always)]
    pub(super) fn multiply<P: Planes, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &Rows,
        stack: &Stack<'_>,
    ) {
        for positions in stack.positions.chunks(FRAMES) {
            let stack = Stack { positions, ..*stack };
            self.begin::<P>(rows, positions.len());
            for first in (0..rows.chunk_count()).step_by(CHUNKS) {
                self.multiply_span::<P, BIG>(vector, rows, &stack, first);
            }
            self.finish::<P>(rows, positions.len());
        }
    }

    /// Begins with at most [`FRAMES`] frames.
    fn begin<P: Planes>(&mut self, rows: &Rows, frame_count: usize) {
        let count = frame_count.div_ceil(OCTET) * P::COUNT * rows.len() * OCTET;
        self.lanes.clear();
        self.lanes.resize(count, Lanes([0; 16]));
        self.wide.clear();
        self.wide.resize(count, Block64([0; 8]));
    }

    /// Multiplies [`CHUNKS`] chunks from `first` on with the frames that were begun with.
    #[inline(always)]
    fn multiply_span<P: Planes, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &Rows,
        stack: &Stack<'_>,
        first: usize,
    ) {
        let chunks = first..rows.chunk_count().min(first + CHUNKS);
        let octets = stack.positions.len().div_ceil(OCTET);
        for octet in 0..octets {
            for chunk in chunks.clone() {
                let next = match chunk + 1 < chunks.end {
                    true => (octet, chunk + 1),
                    false if octet + 1 < octets => (octet + 1, first),
                    false => (0, first + CHUNKS),
                };
                self.multiply_chunk::<P, BIG>(vector, rows, stack, (octet, chunk), next);
            }
        }
    }

    #[inline(always)]
    fn multiply_chunk<P: Planes, const BIG: bool>(
        &mut self,
        vector: impl Multiply,
        rows: &Rows,
        stack: &Stack<'_>,
        (octet, chunk): (usize, usize),
        next: (usize, usize),
    ) {
        let groups = rows.groups(chunk);
        if groups.is_empty() {
            return;
        }
        let mut ahead = Ahead::new::<P>(stack, rows, next, groups.len());
        for plane in 0..P::COUNT {
            for (lane, piece) in self.pieces.iter_mut().enumerate() {
                P::decode_plane::<BIG>(stack.chunk(octet * OCTET + lane, chunk, P::BYTES), plane, &mut piece.0);
            }
            let sums = (octet * P::COUNT + plane) * rows.len() * OCTET;
            for group in groups {
                ahead.ask(vector);
                self.multiply_group(vector, rows, group, sums);
            }
        }
    }

    #[inline(always)]
    fn multiply_group(&mut self, vector: impl Multiply, rows: &Rows, group: &Group, sums: usize) {
        match group.count {
            1 => self.multiply_rows::<_, 1>(vector, rows, group, sums),
            _ => self.multiply_rows::<_, GROUP_ROWS>(vector, rows, group, sums),
        }
        if group.flush {
            for &row in &group.rows[..group.count] {
                let at = sums + row as usize * OCTET;
                let (lanes, wide) = (&mut self.lanes[at..][..OCTET], &mut self.wide[at..][..OCTET]);
                // A loop: a closure might be left out of the function that has the vector instructions.
                for (lanes, wide) in lanes.iter_mut().zip(wide) {
                    widen(lanes, wide);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply_rows<V: Multiply, const ROWS: usize>(&mut self, vector: V, rows: &Rows, group: &Group, sums: usize) {
        let entries = rows.entries::<ROWS>(group);
        let at: [usize; ROWS] = std::array::from_fn(|row| sums + group.rows[row] as usize * OCTET);
        let pieces = &*self.pieces;
        if V::IS_WIDE {
            multiply::<V, ROWS, OCTET>(vector, rows, entries, pieces, &mut self.lanes, at);
        } else {
            let ([low @ .., _, _, _, _], [_, _, _, _, high @ ..]) = (pieces, pieces);
            multiply::<V, ROWS, 4>(vector, rows, entries, low, &mut self.lanes, at);
            multiply::<V, ROWS, 4>(vector, rows, entries, high, &mut self.lanes, at.map(|at| at + 4));
        }
    }

    /// Adds what is left in lanes, joins planes, and makes up for the bias.
    fn finish<P: Planes>(&mut self, rows: &Rows, frame_count: usize) {
        for frame in 0..frame_count {
            for row in 0..rows.len() {
                let total = (0..P::COUNT).map(|plane| {
                    let at = ((frame / OCTET * P::COUNT + plane) * rows.len() + row) * OCTET + frame % OCTET;
                    let lanes: i64 = self.lanes[at].0.iter().map(|&lane| i64::from(lane)).sum();
                    let sum = lanes + self.wide[at].0.iter().sum::<i64>() + P::BIAS * rows.sum(row);
                    i128::from(sum) << (16 * plane)
                });
                self.totals.push(total.sum());
            }
        }
    }
}

/// Multiplies the blocks of `ROWS` rows with `FRAMES` frames; sums of row `i` begin at `lanes[at[i]]`.
#[inline(always)]
fn multiply<V: Multiply, const ROWS: usize, const FRAMES: usize>(
    vector: V,
    rows: &Rows,
    entries: &[[Entry; ROWS]],
    pieces: &[Piece; FRAMES],
    lanes: &mut [Lanes],
    at: [usize; ROWS],
) {
    let mut sums: [[V::Sums; FRAMES]; ROWS] = at.map(|at| {
        let lanes = &lanes[at..][..FRAMES];
        std::array::from_fn(|frame| vector.load(&lanes[frame]))
    });
    for entries in entries {
        let weights: [_; ROWS] = std::array::from_fn(|row| rows.weights(entries[row]));
        let block = entries[0].block();
        for frame in 0..FRAMES {
            let pixels = &pieces[frame].0.as_chunks::<BLOCK_PIXELS>().0[block];
            for row in 0..ROWS {
                sums[row][frame] = vector.add(sums[row][frame], pixels, weights[row]);
            }
        }
    }
    for (sums, at) in sums.into_iter().zip(at) {
        let lanes = &mut lanes[at..][..FRAMES];
        for (sums, lanes) in sums.into_iter().zip(lanes) {
            vector.store(sums, lanes);
        }
    }
}

/// The chunk of eight frames that comes next, asked of memory line by line while this one is computed on.
struct Ahead<'a> {
    chunks: [&'a [u8]; OCTET],
    line: usize,
    lines_per_group: usize,
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new<P: Planes>(stack: &Stack<'a>, rows: &Rows, (octet, chunk): (usize, usize), groups: usize) -> Self {
        let exists = chunk < rows.chunk_count();
        let chunks =
            std::array::from_fn(|lane| if exists { stack.chunk(octet * OCTET + lane, chunk, P::BYTES) } else { &[] });
        let lines = OCTET * (CHUNK_PIXELS * P::BYTES).div_ceil(LINE);
        // Few groups take less time than memory does; then reading in order serves best.
        let lines_per_group = if groups * P::COUNT < 2 { 0 } else { lines.div_ceil(groups * P::COUNT) };
        Self { chunks, line: 0, lines_per_group }
    }

    #[inline(always)]
    fn ask(&mut self, vector: impl Multiply) {
        for line in self.line..self.line + self.lines_per_group {
            if let Some(byte) = self.chunks[line % OCTET].get(line / OCTET * LINE) {
                vector.prefetch(byte);
            }
        }
        self.line += self.lines_per_group;
    }
}

#[cfg(test)]
mod tests {
    use super::super::digits::{Factor, FixedMasks};
    use super::super::mask::Mask;
    use super::super::vector::Machine;
    use super::*;
    use crate::reduce::VirtualDetector;
    use crate::{Region, SigShape};
    use proptest::prelude::*;

    struct Work<'a, P, V> {
        dots: &'a mut Dots,
        vector: V,
        masks: &'a FixedMasks,
        stack: Stack<'a>,
        pixel: std::marker::PhantomData<P>,
    }

    impl<P: Planes, V: Multiply> pulp::NullaryFnOnce for Work<'_, P, V> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.dots.clear(self.masks.rows());
            self.dots.multiply::<P, true>(self.vector, self.masks.rows(), &self.stack);
        }
    }

    fn run<P: Planes>(machine: Machine, dots: &mut Dots, masks: &FixedMasks, stack: Stack<'_>) {
        let pixel = std::marker::PhantomData::<P>;
        match machine {
            Machine::Plain(vector) => vector.run(Work { dots, vector, masks, stack, pixel }),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(vector) => vector.run(Work { dots, vector, masks, stack, pixel }),
            #[cfg(target_arch = "x86_64")]
            Machine::Vnni(vector) => vector.run(Work { dots, vector, masks, stack, pixel }),
        }
    }

    fn mask(detector: SigShape, region: Region, weight: impl Fn(u32, u32) -> f64) -> Mask {
        let (height, width) = (detector.height, detector.width);
        let weights = (0..height * width).map(|at| weight(at / width, at % width)).collect();
        let mask = VirtualDetector::Image { height, width, weights }.mask(detector).expect("a valid mask");
        mask.crop(region).expect("inside")
    }

    /// Compares with sums made one by one.
    fn check<P: Planes>(region: Region, seed: u32, frame_count: usize, pixel: impl Fn(usize) -> u32) {
        let detector = SigShape { height: region.y + region.height, width: region.x + region.width };
        let some = mask(detector, region, |y, x| f64::from(u8::from((y * 7 + x + seed) % 5 < 2 || x == 0)));
        let masks = FixedMasks::new(
            &[(&some, Factor::One), (&some, Factor::Row), (&some, Factor::Column)],
            P::MAGNITUDE_MAX,
            false,
        );
        let pixel_count = region.pixel_count() as usize;
        let pixels: Vec<u32> = (0..frame_count * pixel_count).map(pixel).collect();
        let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_be_bytes()[4 - P::BYTES..].to_vec()).collect();
        let positions: Vec<usize> = (0..frame_count).filter(|at| at % 7 != 3).collect();
        let stack = Stack { bytes: &bytes, frame_bytes: pixel_count * P::BYTES, positions: &positions };
        let inside = some.to_image();
        for machine in Machine::all() {
            let mut dots = Dots::new();
            run::<P>(machine, &mut dots, &masks, stack);
            for (frame, &position) in positions.iter().enumerate() {
                let (totals, mut want) = (dots.totals(frame), [0_i128; 3]);
                for (at, &pixel) in pixels[position * pixel_count..][..pixel_count].iter().enumerate() {
                    let (y, x) = (at as u32 / region.width + region.y, at as u32 % region.width + region.x);
                    let selected = i128::from(pixel) * inside[at] as i128;
                    want[0] += selected;
                    want[1] += selected * i128::from(y);
                    want[2] += selected * i128::from(x);
                }
                assert_eq!([0, 1, 2].map(|column| masks.integer(column, totals)), want, "{machine:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Any tile, any number of frames, all pixel types, on everything the processor can do.
        #[test]
        fn as_one_by_one(
            (y, x) in (0_u32..2000, 0_u32..60),
            (height, width) in (1_u32..30, 1_u32..90),
            frame_count in 1_usize..40,
            seed in any::<u32>(),
        ) {
            let region = Region { y: y % 700, x, height, width };
            let seed = seed % 1000;
            let number = move |at: usize| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
            check::<u8>(region, seed, frame_count, |at| number(at) >> 24);
            check::<u16>(region, seed, frame_count, |at| number(at) >> 16);
            check::<u32>(region, seed, frame_count, number);
        }
    }

    /// The largest and the smallest pixels everywhere, in frames long enough to fill every lane.
    #[test]
    fn extremes() {
        let region = Region { y: 0, x: 0, height: 65, width: 600 };
        for pixel in [u32::MAX, 0, 1 << 31] {
            check::<u8>(region, 0, 9, |_| pixel >> 24);
            check::<u16>(region, 0, 9, |_| pixel >> 16);
            check::<u32>(region, 0, 9, |_| pixel);
        }
    }
}
