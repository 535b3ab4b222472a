//! Pieces of frames as the kernel reads them: pixels as they come, made numbers where they are multiplied.
//!
//! # Why this way
//! Numbers made of pixels beforehand would be written and read once more. Frames of common sizes are multiples of
//! 4 KiB apart, so that the same pixels of more than a few frames meet in the same sets of a cache: few are read at a time, and
//! memory is asked for few.

use super::super::dot::{LINE, OCTET, Stack};
use super::super::vector::Multiply;
use super::rows::FloatRows;
use super::{BLOCK_PIXELS, CHUNK_BLOCKS, CHUNK_PIXELS, STEP};

/// A pixel as one or two numbers in single precision, lowest first, that make it up exactly.
pub(in crate::reduce) trait Singles: Sized {
    /// A pixel as it comes.
    type Bytes: Copy + Default;
    /// Number of planes.
    const PLANES: usize;
    /// What a pixel's number in the second plane counts.
    const SCALE: f64;
    /// Whether pixels may be something that sums cannot take.
    const IS_ODD: bool = false;

    /// Whole blocks of pixels.
    fn blocks(bytes: &[u8]) -> &[Block<Self>];
    /// Number of a pixel in one plane.
    fn single<const BIG: bool>(bytes: Self::Bytes, plane: usize) -> f32;
}

/// Pixels that are multiplied with one instruction.
pub(super) type Block<P> = [<P as Singles>::Bytes; BLOCK_PIXELS];
/// A chunk of one frame.
pub(super) type Piece<P> = [Block<P>; CHUNK_BLOCKS];

macro_rules! singles {
    ($pixel:ty, $planes:expr, |$value:ident, $plane:ident| $single:expr $(, $is_odd:expr)?) => {
        impl Singles for $pixel {
            type Bytes = [u8; size_of::<$pixel>()];
            const PLANES: usize = $planes;
            const SCALE: f64 = 65_536.0;
            $(const IS_ODD: bool = $is_odd;)?

            #[inline(always)]
            fn blocks(bytes: &[u8]) -> &[Block<Self>] {
                bytes.as_chunks().0.as_chunks().0
            }

            #[inline(always)]
            fn single<const BIG: bool>(bytes: Self::Bytes, $plane: usize) -> f32 {
                let $value = if BIG { <$pixel>::from_be_bytes(bytes) } else { <$pixel>::from_le_bytes(bytes) };
                $single
            }
        }
    };
}

singles!(u8, 1, |value, _plane| f32::from(value));
singles!(u16, 1, |value, _plane| f32::from(value));
singles!(u32, 2, |value, plane| f32::from((value >> (16 * plane as u32)) as u16));
singles!(f32, 1, |value, _plane| value, true);

/// Room for a chunk that cannot be used as it came.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Room(pub(super) [u8; CHUNK_PIXELS * size_of::<f32>()]);

impl Room {
    /// What was copied.
    #[inline(always)]
    pub(super) fn piece<P: Singles>(&self) -> &Piece<P> {
        P::blocks(&self.0).first_chunk().expect("pixels are at most as large as f32")
    }
}

/// Eight frames and a chunk of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) octet: usize,
    pub(super) chunk: usize,
}

impl Place {
    /// Bytes of the frame of a lane.
    #[inline(always)]
    pub(super) fn piece<'a, P: Singles>(self, stack: &Stack<'a>, lane: usize) -> &'a [u8] {
        let bytes = size_of::<Piece<P>>();
        stack.piece(self.octet * OCTET + lane, self.chunk * bytes, bytes)
    }

    /// The same, unless the frame ends before the chunk does.
    #[inline(always)]
    pub(super) fn whole_piece<'a, P: Singles>(self, stack: &Stack<'a>, lane: usize) -> Option<&'a Piece<P>> {
        P::blocks(self.piece::<P>(stack, lane)).first_chunk()
    }

    /// Whether no frame ends before the chunk does.
    #[inline(always)]
    pub(super) fn is_whole<P: Singles>(self, stack: &Stack<'_>) -> bool {
        (self.chunk + 1) * size_of::<Piece<P>>() <= stack.frame_bytes
    }

    /// What comes so many frames after the first: then the next chunk.
    #[inline(always)]
    pub(super) fn ahead<'a, P: Singles, const COUNT: usize>(
        self,
        rows: &FloatRows,
        stack: &Stack<'a>,
        distance: usize,
    ) -> Ahead<'a, COUNT> {
        let (at, count) = (self.octet * OCTET + distance, stack.positions.len().next_multiple_of(OCTET));
        let (first, chunk) = if at < count { (at, self.chunk) } else { (at - count, self.chunk + 1) };
        let is_wanted = chunk < rows.chunk_count() && !rows.groups(chunk).is_empty();
        let mut ahead = Ahead::default();
        for (lane, piece) in (first..).zip(&mut ahead.0).filter(|_| is_wanted) {
            *piece = Self { octet: 0, chunk }.piece::<P>(stack, lane);
        }
        ahead
    }
}

/// The largest magnitude of a piece, as bits: those of infinity and NaN are larger than those of numbers.
#[inline(always)]
pub(super) fn largest_bits<P: Singles, const BIG: bool>(piece: &Piece<P>) -> u32 {
    let singles = piece.as_flattened().iter().map(|&bytes| P::single::<BIG>(bytes, 0));
    singles.fold(0, |largest, single| largest.max(single.abs().to_bits()))
}

/// A chunk of some frames.
pub(super) struct Pieces<'a, P: Singles, const BIG: bool, const COUNT: usize>(pub(super) [&'a Piece<P>; COUNT]);

impl<'a, P: Singles, const BIG: bool, const COUNT: usize> Pieces<'a, P, BIG, COUNT> {
    /// Of the lanes from `first` on; those that bits are set for were copied.
    #[inline(always)]
    pub(super) fn new(stack: &Stack<'a>, place: Place, first: usize, (rooms, used): (&'a [Room; OCTET], u32)) -> Self {
        // A loop: a closure might be left out of the function that has the vector instructions.
        let mut pieces = [rooms[0].piece::<P>(); COUNT];
        for (lane, piece) in (first..).zip(&mut pieces) {
            let room = rooms[lane].piece::<P>();
            *piece = if used >> lane & 1 == 1 { room } else { place.whole_piece::<P>(stack, lane).unwrap_or(room) };
        }
        Self(pieces)
    }

    /// Numbers of a block of a frame.
    #[inline(always)]
    pub(super) fn block(&self, frame: usize, number: usize, plane: usize) -> [f32; BLOCK_PIXELS] {
        let mut singles = [0.0; BLOCK_PIXELS];
        for (single, &bytes) in singles.iter_mut().zip(&self.0[frame][number % CHUNK_BLOCKS]) {
            *single = P::single::<BIG>(bytes, plane);
        }
        singles
    }
}

/// Pieces of frames that come later, asked of memory while others are computed on.
pub(super) struct Ahead<'a, const COUNT: usize>([&'a [u8]; COUNT]);

impl<const COUNT: usize> Default for Ahead<'_, COUNT> {
    fn default() -> Self {
        Self([&[]; COUNT])
    }
}

impl<const COUNT: usize> Ahead<'_, COUNT> {
    /// Asks for all blocks.
    #[inline(always)]
    pub(super) fn ask_all<P: Singles>(&self, vector: impl Multiply) {
        for piece in &self.0 {
            piece.iter().step_by(LINE).for_each(|byte| vector.prefetch(byte));
        }
    }

    /// Asks for the `step`-th [`STEP`] blocks.
    #[inline(always)]
    pub(super) fn ask<P: Singles>(&self, vector: impl Multiply, step: usize) {
        let lines = STEP * size_of::<Block<P>>() / LINE;
        for piece in &self.0 {
            for line in step * lines..(step + 1) * lines {
                if let Some(byte) = piece.get(line * LINE) {
                    vector.prefetch(byte);
                }
            }
        }
    }
}
