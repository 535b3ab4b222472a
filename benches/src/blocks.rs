//! Frames in memory, in blocks as a running receiver has them.

use std::time::Duration;

use anyhow::Result;
use ronchi_pipeline::{ByteOrder, PixelType, Pool, Slot};

/// Bytes of a block, as in a running receiver.
pub const BLOCK_BYTES: usize = 4 << 20;
/// Pixels are at most this, so that sums are like those of counts.
const COUNTS_MAX: u32 = 32;

/// Blocks on the kind of memory that a receiver has them on.
pub struct Blocks {
    blocks: Vec<Slot>,
}

impl Blocks {
    /// So many blocks of pixels that look like counts: small numbers, the same on every run; floating point ones as after a
    /// correction. Errors: no memory.
    pub fn counts(count: usize, pixel: PixelType) -> Result<Self> {
        let pool = Pool::new(count as u32, BLOCK_BYTES)?;
        let mut blocks = Self { blocks: (0..count).filter_map(|_| pool.take(Duration::ZERO)).collect() };
        blocks.fill(pixel);
        Ok(blocks)
    }

    fn fill(&mut self, pixel: PixelType) {
        let mut state = 1_u64;
        let counts = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % COUNTS_MAX
        });
        let places = self.blocks.iter_mut().flat_map(|block| block.bytes_mut().chunks_exact_mut(pixel.bytes()));
        for (place, count) in places.zip(counts) {
            let number = if pixel.is_integer() { count } else { (count as f32 * 1.37 - 0.4).to_bits() };
            place.copy_from_slice(&number.to_le_bytes()[..place.len()]);
            if pixel.order == ByteOrder::Big {
                place.reverse();
            }
        }
    }

    /// The blocks, of [`BLOCK_BYTES`] or a little more each.
    pub fn as_slice(&self) -> &[Slot] {
        &self.blocks
    }
}
