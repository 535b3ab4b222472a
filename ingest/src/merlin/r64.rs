//! Raw frames (`R64`): 64-bit big-endian words with the pixel of the lowest index in the least significant bits.
//!
//! # Place in the path
//! The source decodes each raw payload once, from its scratch into the block; simulators and tests encode.
//!
//! # Invariants
//! - I1: one chip row is 256 pixels: 4, 32 or 64 words at 1, 6 or 12 bit. 24 bit is two 12-bit half frames, high first.
//! - I2: a quad row r carries the chip rows Q4, Q3, Q2, Q1; Q1 and Q2 are row r of the image, Q3 and Q4 are row
//!   `last - r`, both turned by 180 degrees.
//!
//! # Units
//! Decoded pixels are little-endian: u8 at 1 and 6 bit, u16 at 12 bit, u32 at 24 bit; rows first, dense.

use std::fmt;

use ronchi_pipeline::{ByteOrder, PixelKind, PixelType, SigShape};

/// Pixels of a chip along one axis.
pub const CHIP_PX: usize = 256;
/// Columns and rows of zeros between the chips of `2x2G`.
const GAP_PX: usize = 2;
const WORD_BYTES: usize = 8;
const LOWEST_BITS: u64 = 0x0101_0101_0101_0101;

/// Counter depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// 1 bit, decoded to u8.
    Bits1,
    /// 6 bit, decoded to u8.
    Bits6,
    /// 12 bit, decoded to u16.
    Bits12,
    /// 24 bit, decoded to u32; single chips only.
    Bits24,
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bits1 => "1 bit",
            Self::Bits6 => "6 bit",
            Self::Bits12 => "12 bit",
            Self::Bits24 => "24 bit",
        })
    }
}

/// How the chips lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChipLayout {
    /// One chip with this many rows read out (1 to 256).
    Single {
        /// Rows sent.
        rows: u32,
    },
    /// Four chips, 512 x 512.
    Quad,
    /// Four chips with two columns and rows of zeros between them, 514 x 514.
    QuadGap,
}

/// A raw format: depth and layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFormat {
    /// Counter depth.
    pub depth: Depth,
    /// How the chips lie.
    pub layout: ChipLayout,
}

impl RawFormat {
    /// The combinations of width and height that frame headers may state, for messages.
    pub const ALLOWED: &'static str = "256 x (1 to 256) for 1x1 at 1, 6 or 12 bit; 512 x (1 to 256) for 1x1 at 24 bit \
        in one message; 1024 x 256 for 2x2 and 2x2G at 1, 6 or 12 bit";

    /// Width and height that the frame header states; `None` when the combination is not supported.
    pub fn sent_width_height(&self) -> Option<(u32, u32)> {
        match (self.layout, self.depth) {
            (ChipLayout::Single { rows }, _) if rows == 0 || rows as usize > CHIP_PX => None,
            (ChipLayout::Single { rows }, Depth::Bits24) => Some((512, rows)),
            (ChipLayout::Single { rows }, _) => Some((256, rows)),
            (_, Depth::Bits24) => None,
            _ => Some((1024, 256)),
        }
    }

    /// Shape of the decoded frame, in pixels.
    pub fn shape(&self) -> SigShape {
        match self.layout {
            ChipLayout::Single { rows } => SigShape { height: rows, width: CHIP_PX as u32 },
            ChipLayout::Quad => SigShape { height: 512, width: 512 },
            ChipLayout::QuadGap => SigShape { height: 514, width: 514 },
        }
    }

    /// Pixel type of the decoded frame.
    pub fn pixel(&self) -> PixelType {
        let kind = match self.depth {
            Depth::Bits1 | Depth::Bits6 => PixelKind::U8,
            Depth::Bits12 => PixelKind::U16,
            Depth::Bits24 => PixelKind::U32,
        };
        PixelType::new(kind, ByteOrder::Little)
    }

    /// Bytes of a raw frame.
    pub fn payload_bytes(&self) -> usize {
        match self.layout {
            ChipLayout::Single { rows } => rows as usize * self.row_bytes() * self.pass_count(),
            _ => CHIP_PX * 4 * self.row_bytes(),
        }
    }

    /// Bytes of a decoded frame.
    pub fn frame_bytes(&self) -> usize {
        self.shape().pixel_count() as usize * self.pixel().bytes()
    }

    /// Bytes of one chip row in one pass (I1).
    fn row_bytes(&self) -> usize {
        match self.depth {
            Depth::Bits1 => 32,
            Depth::Bits6 => 256,
            Depth::Bits12 | Depth::Bits24 => 512,
        }
    }

    fn pass_count(&self) -> usize {
        if self.depth == Depth::Bits24 { 2 } else { 1 }
    }

    /// Decodes one frame.
    ///
    /// # Panics
    /// When `payload` is not [`Self::payload_bytes`] or `frame` not [`Self::frame_bytes`] long.
    pub fn decode(&self, payload: &[u8], frame: &mut [u8]) {
        assert_eq!((payload.len(), frame.len()), (self.payload_bytes(), self.frame_bytes()), "sizes of {self:?}");
        match (self.layout, self.depth) {
            (ChipLayout::Single { .. }, Depth::Bits1) => decode_1(payload, frame),
            (ChipLayout::Single { .. }, Depth::Bits24) => decode_24(payload, frame),
            (ChipLayout::Single { .. }, _) => reverse_words(payload, frame),
            (_, Depth::Bits1) => self.decode_quad(payload, frame, decode_1, decode_1_turned),
            (_, Depth::Bits6) => self.decode_quad(payload, frame, reverse_words, turn_words_6),
            (_, _) => self.decode_quad(payload, frame, reverse_words, turn_words_12),
        }
    }

    fn decode_quad(&self, payload: &[u8], frame: &mut [u8], upright: RowCoder, turned: RowCoder) {
        let (row_bytes, quad) = (self.row_bytes(), QuadPlaces::of(self));
        for (r, rows) in payload.chunks_exact(4 * row_bytes).enumerate() {
            for (slot, row) in rows.chunks_exact(row_bytes).enumerate() {
                let decode = if slot < 2 { turned } else { upright };
                decode(row, &mut frame[quad.chip_row(r, slot)]);
            }
        }
        quad.clear_gap(frame);
    }

    /// Encodes one frame, the inverse of [`Self::decode`]: pixel bits beyond the depth are lost, gaps are not sent.
    ///
    /// # Panics
    /// When `frame` is not [`Self::frame_bytes`] or `payload` not [`Self::payload_bytes`] long.
    pub fn encode(&self, frame: &[u8], payload: &mut [u8]) {
        assert_eq!((payload.len(), frame.len()), (self.payload_bytes(), self.frame_bytes()), "sizes of {self:?}");
        match (self.layout, self.depth) {
            (ChipLayout::Single { .. }, Depth::Bits1) => encode_1(frame, payload),
            (ChipLayout::Single { .. }, Depth::Bits24) => encode_24(frame, payload),
            (ChipLayout::Single { .. }, Depth::Bits6) => reverse_words(frame, payload),
            (ChipLayout::Single { .. }, Depth::Bits12) => reverse_words(frame, payload),
            (_, Depth::Bits1) => self.encode_quad(frame, payload, encode_1, encode_1_turned),
            (_, Depth::Bits6) => self.encode_quad(frame, payload, reverse_words, turn_words_6),
            (_, _) => self.encode_quad(frame, payload, reverse_words, turn_words_12),
        }
        let mask = match self.depth {
            Depth::Bits1 => return,
            Depth::Bits6 => 0x3f * LOWEST_BITS,
            Depth::Bits12 | Depth::Bits24 => 0x0fff_0fff_0fff_0fff_u64,
        };
        for word in payload.as_chunks_mut::<WORD_BYTES>().0 {
            *word = (u64::from_be_bytes(*word) & mask).to_be_bytes();
        }
    }

    fn encode_quad(&self, frame: &[u8], payload: &mut [u8], upright: RowCoder, turned: RowCoder) {
        let (row_bytes, quad) = (self.row_bytes(), QuadPlaces::of(self));
        for (r, rows) in payload.chunks_exact_mut(4 * row_bytes).enumerate() {
            for (slot, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                let encode = if slot < 2 { turned } else { upright };
                encode(&frame[quad.chip_row(r, slot)], row);
            }
        }
    }
}

/// Converts chip rows from the first slice into the second.
type RowCoder = fn(&[u8], &mut [u8]);

/// Where chip rows lie in the assembled image of a quad.
struct QuadPlaces {
    pixel_bytes: usize,
    gap_px: usize,
}

impl QuadPlaces {
    fn of(format: &RawFormat) -> Self {
        let gap_px = if format.layout == ChipLayout::QuadGap { GAP_PX } else { 0 };
        Self { pixel_bytes: format.pixel().bytes(), gap_px }
    }

    fn side_px(&self) -> usize {
        2 * CHIP_PX + self.gap_px
    }

    /// Bytes of the image that chip row `slot` (Q4, Q3, Q2, Q1) of transmitted row `r` fills (I2).
    fn chip_row(&self, r: usize, slot: usize) -> std::ops::Range<usize> {
        let right = CHIP_PX + self.gap_px;
        let (y, x) = match slot {
            0 => (self.side_px() - 1 - r, right),
            1 => (self.side_px() - 1 - r, 0),
            2 => (r, right),
            _ => (r, 0),
        };
        let start = (y * self.side_px() + x) * self.pixel_bytes;
        start..start + CHIP_PX * self.pixel_bytes
    }

    fn clear_gap(&self, frame: &mut [u8]) {
        if self.gap_px == 0 {
            return;
        }
        let row_bytes = self.side_px() * self.pixel_bytes;
        let columns = CHIP_PX * self.pixel_bytes..(CHIP_PX + self.gap_px) * self.pixel_bytes;
        for (y, row) in frame.chunks_exact_mut(row_bytes).enumerate() {
            if (CHIP_PX..CHIP_PX + self.gap_px).contains(&y) {
                row.fill(0);
            } else {
                row[columns.clone()].fill(0);
            }
        }
    }
}

/// 6 and 12 bit: reversing the bytes of each word gives little-endian pixels in order, and back.
fn reverse_words(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.as_chunks::<WORD_BYTES>().0.iter().zip(to.as_chunks_mut().0) {
        *to = u64::from_be_bytes(*from).to_le_bytes();
    }
}

/// 6 bit turned by 180 degrees: words in reverse order, whose bytes already run backwards.
fn turn_words_6(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.as_chunks::<WORD_BYTES>().0.iter().zip(to.as_chunks_mut().0.iter_mut().rev()) {
        *to = *from;
    }
}

/// 12 bit turned by 180 degrees: words in reverse order, the two bytes of each pixel swapped.
fn turn_words_12(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.as_chunks::<WORD_BYTES>().0.iter().zip(to.as_chunks_mut::<WORD_BYTES>().0.iter_mut().rev()) {
        let word = u64::from_be_bytes(*from);
        let (high, low) = (word >> 8 & 0x00ff_00ff_00ff_00ff, (word & 0x00ff_00ff_00ff_00ff) << 8);
        *to = (high | low).to_be_bytes();
    }
}

/// One bit per pixel to one byte: bit p of the word to byte p.
fn spread(bits: u8) -> [u8; 8] {
    let selected = (u64::from(bits) * LOWEST_BITS) & 0x8040_2010_0804_0201;
    // Byte p holds 2^p or 0; adding 127 carries into its highest bit exactly when it is not 0.
    ((selected + 0x7f * LOWEST_BITS) >> 7 & LOWEST_BITS).to_le_bytes()
}

/// The lowest bits of eight bytes, byte p to bit p.
fn gather(pixels: [u8; 8]) -> u8 {
    let bits = u64::from_le_bytes(pixels) & LOWEST_BITS;
    // The products 2^(8p) * 2^(56-7p) meet in the highest byte as bit p, without carries.
    (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

fn decode_1(from: &[u8], to: &mut [u8]) {
    for (word, pixels) in from.as_chunks::<WORD_BYTES>().0.iter().zip(to.as_chunks_mut::<64>().0) {
        for (bits, pixels) in word.iter().rev().zip(pixels.as_chunks_mut::<8>().0) {
            *pixels = spread(*bits);
        }
    }
}

fn decode_1_turned(from: &[u8], to: &mut [u8]) {
    for (word, pixels) in from.as_chunks::<WORD_BYTES>().0.iter().zip(to.as_chunks_mut::<64>().0.iter_mut().rev()) {
        for (bits, pixels) in word.iter().zip(pixels.as_chunks_mut::<8>().0) {
            *pixels = spread(bits.reverse_bits());
        }
    }
}

fn encode_1(from: &[u8], to: &mut [u8]) {
    for (pixels, word) in from.as_chunks::<64>().0.iter().zip(to.as_chunks_mut::<WORD_BYTES>().0) {
        for (pixels, bits) in pixels.as_chunks::<8>().0.iter().zip(word.iter_mut().rev()) {
            *bits = gather(*pixels);
        }
    }
}

fn encode_1_turned(from: &[u8], to: &mut [u8]) {
    for (pixels, word) in from.as_chunks::<64>().0.iter().rev().zip(to.as_chunks_mut::<WORD_BYTES>().0) {
        for (pixels, bits) in pixels.as_chunks::<8>().0.iter().zip(word.iter_mut()) {
            *bits = gather(*pixels).reverse_bits();
        }
    }
}

/// 24 bit: all rows of the high 12 bits, then all rows of the low ones.
fn decode_24(from: &[u8], to: &mut [u8]) {
    let (high, low) = from.split_at(from.len() / 2);
    let words = high.as_chunks::<WORD_BYTES>().0.iter().zip(low.as_chunks::<WORD_BYTES>().0);
    for ((high, low), pixels) in words.zip(to.as_chunks_mut::<16>().0) {
        let (high, low) = (u64::from_be_bytes(*high), u64::from_be_bytes(*low));
        for (p, pixel) in pixels.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let part = |word: u64| (word >> (16 * p)) as u32 & 0xffff;
            *pixel = (part(high) << 12).wrapping_add(part(low)).to_le_bytes();
        }
    }
}

fn encode_24(from: &[u8], to: &mut [u8]) {
    let (high, low) = to.split_at_mut(to.len() / 2);
    let words = high.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(low.as_chunks_mut::<WORD_BYTES>().0);
    for ((high, low), pixels) in words.zip(from.as_chunks::<16>().0) {
        let (mut high_word, mut low_word) = (0, 0);
        for (p, pixel) in pixels.as_chunks::<4>().0.iter().enumerate() {
            let value = u64::from(u32::from_le_bytes(*pixel));
            high_word |= (value >> 12 & 0xfff) << (16 * p);
            low_word |= (value & 0xfff) << (16 * p);
        }
        (*high, *low) = (high_word.to_be_bytes(), low_word.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "r64_tests.rs"]
mod tests;
