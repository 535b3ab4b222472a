//! Frames as detectors compress them: bit-transposed blocks in LZ4, framed as HDF5 filter 32008 does it (`bslz4`).
//!
//! ```text
//! 0   u64 BE  bytes of the decoded frame
//! 8   u32 BE  bytes of a decoded block, a multiple of eight items
//! 12  blocks: u32 BE length, then one LZ4 block; the last one is shorter where the frame ends
//! ..  the last (items % 8) items, as they are
//! ```
//! There is no stored mode: what does not compress has an LZ4 block that is longer than its pixels. Twelve zeros instead of
//! the header stand for a frame of the expected length in blocks of 8192 bytes, as a simulator in the field sends it.
//!
//! # Errors
//! [`Bslz4::parse`] walks all lengths and refuses what does not add up to exactly the frame that is expected;
//! [`Bslz4::decode`] refuses LZ4 blocks that do not expand to their length. Nothing is allocated by a length that was read.

use super::{FormatError, bitshuffle, field};

/// Bytes of a decoded block where a header leaves them open.
const BLOCK_BYTES_DEFAULT: usize = 8192;
const HEADER_BYTES: usize = 12;

/// Whether frames of `frame_bytes` in blocks of the usual size can lie together in a chunk: only a chunk's last block may be
/// shorter than the others.
pub fn is_usually_joint(frame_bytes: u64, item_bytes: usize) -> bool {
    let is_one_block =
        frame_bytes <= BLOCK_BYTES_DEFAULT as u64 && bitshuffle::is_whole(frame_bytes as usize, item_bytes);
    is_one_block || frame_bytes.is_multiple_of(BLOCK_BYTES_DEFAULT as u64)
}

/// Compresses frames as detectors do; keeps its scratch between them.
#[derive(Debug)]
pub struct Compressor {
    block_bytes: usize,
    rows: Vec<u8>,
    block: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::in_blocks_of(BLOCK_BYTES_DEFAULT)
    }
}

impl Compressor {
    /// Compresses in blocks of so many bytes instead of 8192.
    ///
    /// # Panics
    /// When that is no multiple of 64, eight items of any size, or more than 1 GiB.
    pub fn in_blocks_of(block_bytes: usize) -> Self {
        assert!(
            block_bytes.is_multiple_of(64) && (64..=1 << 30).contains(&block_bytes),
            "blocks of {block_bytes} bytes"
        );
        Self { block_bytes, rows: Vec::new(), block: Vec::new() }
    }

    /// Replaces `out` by `pixels` in compressed form.
    ///
    /// # Panics
    /// When `pixels` are not whole items of 1, 2, 4 or 8 bytes.
    pub fn compress(&mut self, pixels: &[u8], item_bytes: usize, out: &mut Vec<u8>) {
        let is_whole = bitshuffle::is_item(item_bytes) && pixels.len().is_multiple_of(item_bytes);
        assert!(is_whole, "{} bytes of items of {item_bytes}", pixels.len());
        out.clear();
        out.extend((pixels.len() as u64).to_be_bytes());
        out.extend((self.block_bytes as u32).to_be_bytes());
        let (blocks, tail) = pixels.split_at(pixels.len() - pixels.len() % (bitshuffle::ITEMS_MULTIPLE * item_bytes));
        let longest = self.block_bytes.min(blocks.len());
        self.block.resize(longest + longest / 255 + 16, 0); // LZ4 never needs more.
        self.rows.resize(longest, 0);
        for block in blocks.chunks(self.block_bytes) {
            let rows = &mut self.rows[..block.len()];
            bitshuffle::shuffle(block, item_bytes, rows);
            let length = lz4::block::compress_to_buffer(rows, None, false, &mut self.block);
            let length = length.expect("the buffer is as long as LZ4 asks for");
            out.extend((length as u32).to_be_bytes());
            out.extend(&self.block[..length]);
        }
        out.extend(tail);
    }
}

/// A compressed frame whose lengths all add up.
#[derive(Debug, Clone, Copy)]
pub struct Bslz4<'a> {
    frame_bytes: usize,
    block_bytes: usize,
    item_bytes: usize,
    /// Blocks with their lengths.
    body: &'a [u8],
    tail: &'a [u8],
}

/// One compressed block.
#[derive(Debug, Clone, Copy)]
pub struct Bslz4Block<'a> {
    /// The LZ4 block.
    pub payload: &'a [u8],
    /// Bytes it must expand to, a multiple of eight items.
    pub block_bytes: usize,
}

impl<'a> Bslz4<'a> {
    /// Reads the framing of a frame that must decode to `frame_bytes`; bits were transposed in items of `item_bytes`.
    pub fn parse(bytes: &'a [u8], frame_bytes: usize, item_bytes: usize) -> Result<Self, FormatError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(short("header of a bslz4 frame", bytes.len(), HEADER_BYTES));
        };
        let [a, b, c, d, e, f, g, h, rest_of_header @ ..] = *header;
        let (total, block) = (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes(rest_of_header));
        let (total, block) = if (total, block) == (0, 0) {
            (frame_bytes as u64, BLOCK_BYTES_DEFAULT)
        } else {
            (total, usize::try_from(block).unwrap_or(usize::MAX))
        };
        if !bitshuffle::is_item(item_bytes) {
            return Err(field("bytes of a bslz4 item", item_bytes, "1, 2, 4, 8"));
        }
        if total != frame_bytes as u64 || !frame_bytes.is_multiple_of(item_bytes) {
            return Err(field("bytes of a bslz4 frame", total, "those of a frame of the series"));
        }
        if block == 0 || !bitshuffle::is_whole(block, item_bytes) {
            return Err(field("bytes of a bslz4 block", block, "a multiple of eight items"));
        }
        let tail_bytes = frame_bytes % (bitshuffle::ITEMS_MULTIPLE * item_bytes);
        let mut frame = Self { frame_bytes, block_bytes: block, item_bytes, body: rest, tail: &[] };
        let mut walk = Walk { rest, left: frame_bytes - tail_bytes, block_bytes: block };
        for block in walk.by_ref() {
            block?;
        }
        if walk.rest.len() != tail_bytes {
            return Err(short("end of a bslz4 frame", walk.rest.len(), tail_bytes));
        }
        (frame.body, frame.tail) = rest.split_at(rest.len() - tail_bytes);
        Ok(frame)
    }

    /// Bytes of the decoded frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Bytes of a decoded block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Bytes of the items whose bits were transposed: usually a pixel's.
    pub fn item_bytes(&self) -> usize {
        self.item_bytes
    }

    /// The compressed blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Bslz4Block<'a>> + use<'a> {
        let left = self.frame_bytes - self.tail.len();
        Walk { rest: self.body, left, block_bytes: self.block_bytes }.map_while(Result::ok) // All were walked in `parse`.
    }

    /// The last items of the frame, fewer than eight, as they are.
    pub fn tail(&self) -> &'a [u8] {
        self.tail
    }

    /// Whether every block expands to its length: all that can be wrong with a frame whose lengths add up.
    pub fn check(&self, scratch: &mut Vec<u8>) -> Result<(), FormatError> {
        let longest = self.block_bytes.min(self.frame_bytes);
        if scratch.len() < longest {
            scratch.resize(longest, 0);
        }
        self.blocks().try_for_each(|block| expand(block.payload, &mut scratch[..block.block_bytes]))
    }

    /// Decodes the frame into `out`; `scratch` is reused between frames, and grows to the length of a block.
    ///
    /// # Panics
    /// When `out` is not as long as the frame.
    pub fn decode(&self, scratch: &mut Vec<u8>, out: &mut [u8]) -> Result<(), FormatError> {
        assert_eq!(out.len(), self.frame_bytes, "the frame was checked against this length");
        let (blocks, tail) = out.split_at_mut(self.frame_bytes - self.tail.len());
        let longest = self.block_bytes.min(blocks.len());
        if scratch.len() < longest {
            scratch.resize(longest, 0);
        }
        for (block, out) in self.blocks().zip(blocks.chunks_mut(self.block_bytes)) {
            let rows = &mut scratch[..block.block_bytes];
            expand(block.payload, rows)?;
            bitshuffle::unshuffle(rows, self.item_bytes, out);
        }
        tail.copy_from_slice(self.tail);
        Ok(())
    }
}

/// Steps over blocks; stops after an error.
struct Walk<'a> {
    rest: &'a [u8],
    left: usize,
    block_bytes: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Bslz4Block<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let block_bytes = self.block_bytes.min(self.left);
        self.left -= block_bytes;
        let split = self.rest.split_first_chunk::<4>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
        });
        let Some((payload, rest)) = split else {
            self.left = 0;
            return Some(Err(short("block of a bslz4 frame", self.rest.len(), block_bytes)));
        };
        self.rest = rest;
        Some(Ok(Bslz4Block { payload, block_bytes }))
    }
}

/// Expands one LZ4 block to exactly the length of `out`.
pub(super) fn expand(payload: &[u8], out: &mut [u8]) -> Result<(), FormatError> {
    let want_bytes = out.len();
    let limit = i32::try_from(want_bytes).map_err(|_| field("bytes of a block", want_bytes, "below 2 GiB"))?;
    match lz4::block::decompress_to_buffer(payload, Some(limit), out) {
        Ok(got_bytes) if got_bytes == want_bytes => Ok(()),
        Ok(got_bytes) => Err(short("LZ4 block", got_bytes, want_bytes)),
        Err(_) => Err(field("LZ4 block", format!("{} bytes", payload.len()), "one that expands to its block")),
    }
}

fn short(what: &'static str, got_bytes: usize, want_bytes: usize) -> FormatError {
    FormatError::Short { what, got_bytes, want_bytes }
}

#[cfg(test)]
pub(in crate::format) mod tests;
