//! The same piece of sixteen frames side by side, brought from memory while the piece before is computed on.
//!
//! # Place in the path
//! [`super::lanes`] computes on a [`Piece`], says every now and then how much of that it has done ([`Feeder::tick`]), and finds
//! the next one ready at the end.
//!
//! # Units
//! Pixels are one or two planes of unsigned 16-bit numbers, lowest first. A frame is one line of pixels, without rows and columns.
//!
//! # Why this way
//! Frames of common sizes lie multiples of 4 KiB apart, so that the same pixels of more than eight of them do not fit the ways of a
//! cache at once. So a piece of one frame after the other is copied to where frames lie close together, all of it stays in the first-level
//! cache, and memory is asked for no more than [`AHEAD`] frames. Copying a piece at a time and then computing on it would
//! take the sum of both times; a frame between two steps of computing takes hardly more than the longer one. With 32 frames, or
//! pieces twice as long, reading alone takes half as much time again: lines that the processor fetches by itself, beyond
//! a piece, are gone when their turn comes.

use super::dot::{LINE, Planes, Stack};
use super::vector::{Multiply, cast};

/// Frames side by side.
pub(super) const FRAMES: usize = 16;
/// Pixels of a piece.
pub(super) const PIECE_PIXELS: usize = 256;
/// Frames that memory is asked for before they are copied.
const AHEAD: usize = 8;
/// Pixels from one frame to the next: not a multiple of 4 KiB, and whole cache lines.
const STRIDE: usize = PIECE_PIXELS + 32;

/// One plane of the same pixels of all frames; 0 beyond the end of a frame, and where there is no frame.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Plane([[u16; STRIDE]; FRAMES]);

impl Plane {
    #[inline(always)]
    fn row(&self, frame: usize) -> &[u16; PIECE_PIXELS] {
        self.0[frame].first_chunk().unwrap_or(&[0; PIECE_PIXELS]) // A row is longer.
    }

    /// Eight pixels of a frame.
    #[inline(always)]
    pub(super) fn eight(&self, frame: usize, at: usize) -> &[u16; 8] {
        &self.0[frame].as_chunks().0[at % (STRIDE / 8)]
    }
}

/// Planes of a piece.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    pub(super) planes: Vec<Plane>,
    /// No pixel of a plane is above.
    pub(super) largest: Vec<u16>,
}

impl Piece {
    pub(super) fn new<P: Planes>() -> Self {
        Self { planes: vec![Plane([[0; STRIDE]; FRAMES]); P::COUNT], largest: vec![0; P::COUNT] }
    }

    /// The pixels of a frame, by plane; of the only plane twice.
    #[inline(always)]
    pub(super) fn rows(&self, frame: usize) -> [&[u16; PIECE_PIXELS]; 2] {
        let (Some(low), Some(high)) = (self.planes.first(), self.planes.last()) else { return [&[0; PIECE_PIXELS]; 2] };
        [low.row(frame), high.row(frame)]
    }

    /// Sixteen pixels of a frame in the lowest plane.
    #[inline(always)]
    pub(super) fn sixteen(&self, frame: usize, at: usize) -> &[u16; 16] {
        &self.planes[0].0[frame].as_chunks().0[at]
    }
}

/// Copies a frame's bytes of a piece into its row, and asks memory for those of a later frame.
type Copier<V> = fn(V, [&[u8]; 2], usize, &mut Piece);

/// Copies pieces of up to sixteen frames, in the order of a list of their numbers: one is computed on while the next is copied.
pub(super) struct Feeder<'a, V> {
    vector: V,
    stack: Stack<'a>,
    piece_bytes: usize,
    copier: Copier<V>,
    numbers: &'a [u32],
    next: &'a mut Piece,
    /// Place in `numbers` of the piece that is being copied.
    number: usize,
    /// Frame that is copied next.
    frame: usize,
    /// Work on a whole piece, by the piece before.
    whole: u32,
    done: u32,
}

impl<'a, V: Multiply> Feeder<'a, V> {
    /// Of a stack of at most sixteen frames.
    pub(super) fn new<P: Planes, const BIG: bool>(
        vector: V,
        stack: Stack<'a>,
        numbers: &'a [u32],
        next: &'a mut Piece,
    ) -> Self {
        let (piece_bytes, copier) = (PIECE_PIXELS * P::BYTES, copy::<V, P, BIG> as Copier<V>);
        Self { vector, stack, piece_bytes, copier, numbers, next, number: 0, frame: 0, whole: u32::MAX, done: 0 }
    }

    /// Copies the frames that are left of the next piece, which is then to be computed on.
    pub(super) fn complete(&mut self, ready: &mut &'a mut Piece) {
        while self.frame < FRAMES {
            self.copy();
        }
        if self.number > 0 {
            self.whole = self.done.max(1);
        }
        (self.number, self.done) = (self.number + 1, 0);
        self.frame = if self.number < self.numbers.len() { 0 } else { FRAMES };
        std::mem::swap(ready, &mut self.next);
    }

    /// Takes note of some work (about as many cycles), and copies frames as far as the work has come.
    #[inline(always)]
    pub(super) fn tick(&mut self, work: u32) {
        self.done += work;
        while self.frame < FRAMES && u64::from(self.done) * FRAMES as u64 > u64::from(self.whole) * self.frame as u64 {
            self.copy();
        }
    }

    /// Copies one frame.
    fn copy(&mut self) {
        let frame = self.frame + AHEAD;
        let later = if frame < FRAMES { (frame, self.number) } else { (frame - FRAMES, self.number + 1) };
        let bytes = [self.bytes(self.frame, self.number), self.bytes(later.0, later.1)];
        (self.copier)(self.vector, bytes, self.frame, self.next);
        self.frame += 1;
    }

    /// Bytes of a piece of a frame; none where there is no such frame or piece.
    fn bytes(&self, frame: usize, number: usize) -> &'a [u8] {
        match self.numbers.get(number) {
            Some(&number) if frame < self.stack.positions.len() => {
                self.stack.piece(frame, number as usize * self.piece_bytes, self.piece_bytes)
            }
            _ => &[],
        }
    }
}

/// A [`Copier`]: a function of its own, because there are many places where frames are copied.
fn copy<V: Multiply, P: Planes, const BIG: bool>(vector: V, bytes: [&[u8]; 2], frame: usize, piece: &mut Piece) {
    let pixel = std::marker::PhantomData::<P>;
    vector.run(CopyFrame::<_, _, BIG> { vector, bytes, frame, piece, pixel });
}

struct CopyFrame<'a, V, P, const BIG: bool> {
    vector: V,
    bytes: [&'a [u8]; 2],
    frame: usize,
    piece: &'a mut Piece,
    pixel: std::marker::PhantomData<P>,
}

impl<V: Multiply, P: Planes, const BIG: bool> pulp::NullaryFnOnce for CopyFrame<'_, V, P, BIG> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { vector, bytes: [bytes, later], frame, piece, .. } = self;
        for line in later.chunks(LINE) {
            vector.prefetch(&line[0]);
        }
        for (plane, (Plane(rows), largest)) in piece.planes.iter_mut().zip(&mut piece.largest).enumerate() {
            let row = &mut rows[frame % FRAMES];
            row[bytes.len() / P::BYTES..].fill(0);
            P::decode_shorts::<BIG>(bytes, plane, &mut row[..PIECE_PIXELS]);
            let bits = bits(vector, row);
            *largest = if frame == 0 { bits } else { *largest | bits };
        }
    }
}

/// All bits that any pixel of a row has.
#[inline(always)]
fn bits<V: Multiply>(vector: V, row: &[u16; STRIDE]) -> u16 {
    let mut all = vector.splat(0);
    for sixteen in row.as_chunks::<16>().0 {
        all = vector.or(all, vector.pack(&cast(*sixteen)));
    }
    let all: [u64; 4] = cast(vector.unpack(all));
    let all: [u16; 4] = cast(all[0] | all[1] | all[2] | all[3]);
    all[0] | all[1] | all[2] | all[3]
}
