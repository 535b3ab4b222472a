//! Chunks of compressed segments: Blosc-1 frames of bit-transposed LZ4 blocks, as every Zarr v3 `blosc` codec reads them.
//!
//! ```text
//! 0   u8 2, u8 1, u8 flags, u8 bytes per item
//! 4   u32 bytes of the decoded chunk
//! 8   u32 bytes of a decoded block
//! 12  u32 bytes of this frame
//! 16  flags 0x34 (bits transposed, LZ4, blocks not split): u32 start of every block, counted from byte 0, then
//!     per block u32 length + LZ4; a length equal to the block's: rows as they are
//!     flags 0x36: the pixels as they are
//! ```
//! Everything is little-endian. A last block that is no multiple of eight items holds its pixels untransposed.
//!
//! Frames of a detector ([`Bslz4`]) become such a chunk without being compressed again: [`reframe`] copies their LZ4 blocks.
//! A chunk holds several of them when a frame is a whole number of blocks, because only the last block may be shorter.
//!
//! # Errors
//! Whatever does not expand to exactly the chunk that is expected is refused. Nothing is allocated by a length that was
//! read; [`decode`] takes one block of scratch, which is not longer than the chunk.

use super::bslz4::{Bslz4, expand};
use super::{FormatError, bitshuffle, field, u32_at};

/// Bytes of a decoded block of our own: the detectors' choice, which stays in a core's first cache.
pub const BLOCK_BYTES: usize = 8192;
/// Smallest block a detector may choose: eight items of one byte.
pub const BLOCK_BYTES_MIN: usize = 8;
const HEADER_BYTES: usize = 16;
const VERSION: u8 = 2;
const LZ4_VERSION: u8 = 1;
const FLAGS_LZ4: u8 = 0x34;
const FLAG_PLAIN: u8 = 0x02;
const FLAGS_PLAIN: u8 = FLAGS_LZ4 | FLAG_PLAIN;
/// Most bytes of a decoded chunk: lengths are signed 32-bit numbers for Blosc.
pub const CHUNK_BYTES_MAX: usize = (1 << 30) - 1;

/// Most bytes a frame takes whose blocks decode to `block_bytes` each: nothing is ever longer than stored.
pub fn bytes_max(chunk_bytes: usize, block_bytes: usize) -> usize {
    let blocks = chunk_bytes.div_ceil(block_bytes.max(1));
    blocks.saturating_mul(8).saturating_add(chunk_bytes).saturating_add(HEADER_BYTES)
}

/// Bytes of the frame that starts with these bytes, as its header has it; `None` when it is too short for one.
pub fn stored_bytes(bytes: &[u8]) -> Option<u32> {
    bytes.get(..HEADER_BYTES).map(|header| u32_at(header, 12))
}

/// Compresses chunks; keeps its scratch between them.
#[derive(Debug, Default)]
pub struct Compressor {
    rows: Vec<u8>,
}

impl Compressor {
    /// Compresses `pixels` into `out` and returns the length of the frame; what does not get shorter is stored.
    ///
    /// # Panics
    /// When `out` is shorter than [`bytes_max`], or `pixels` are not 1 byte to 1 GiB of whole items of 1, 2, 4 or 8 bytes:
    /// `Layout` sees to all that.
    pub fn compress(&mut self, pixels: &[u8], item_bytes: usize, out: &mut [u8]) -> usize {
        let blocks = pixels.chunks(BLOCK_BYTES);
        let mut at = HEADER_BYTES + 4 * blocks.len();
        self.rows.resize(BLOCK_BYTES.min(pixels.len()), 0);
        for (i, block) in blocks.enumerate() {
            put(out, HEADER_BYTES + 4 * i, at);
            let rows = if bitshuffle::is_whole(block.len(), item_bytes) {
                let rows = &mut self.rows[..block.len()];
                bitshuffle::shuffle(block, item_bytes, rows);
                &*rows
            } else {
                block
            };
            let room = &mut out[at + 4..at + 3 + rows.len()]; // Shorter than the block, or stored.
            let length = match lz4::block::compress_to_buffer(rows, None, false, room) {
                Ok(length) => length,
                Err(_) => {
                    out[at + 4..at + 4 + rows.len()].copy_from_slice(rows);
                    rows.len()
                }
            };
            put(out, at, length);
            at += 4 + length;
        }
        if at >= HEADER_BYTES + pixels.len() {
            return store(pixels, item_bytes, out);
        }
        put_header(out, FLAGS_LZ4, item_bytes, (pixels.len(), BLOCK_BYTES.min(pixels.len()), at));
        at
    }
}

/// Puts `pixels` into a frame as they are and returns its length; conditions as for [`Compressor::compress`].
pub fn store(pixels: &[u8], item_bytes: usize, out: &mut [u8]) -> usize {
    let end = HEADER_BYTES + pixels.len();
    put_header(out, FLAGS_PLAIN, item_bytes, (pixels.len(), BLOCK_BYTES.min(pixels.len()), end));
    out[HEADER_BYTES..end].copy_from_slice(pixels);
    end
}

fn put(out: &mut [u8], at: usize, value: usize) {
    out[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()); // Below 2 GiB: see `CHUNK_BYTES_MAX`.
}

fn put_header(out: &mut [u8], flags: u8, item_bytes: usize, (chunk, block, end): (usize, usize, usize)) {
    assert!((1..=CHUNK_BYTES_MAX).contains(&chunk), "a chunk of {chunk} bytes");
    out[..4].copy_from_slice(&[VERSION, LZ4_VERSION, flags, item_bytes as u8]); // 8 at most: `bitshuffle` checks.
    put(out, 4, chunk);
    put(out, 8, block);
    put(out, 12, end);
}

/// What [`reframe`] made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reframed {
    /// Length of the chunk.
    pub stored_bytes: usize,
    /// Blocks that were decoded because their LZ4 form is not shorter, or because they hold the frame's odd last items.
    pub stored_blocks: usize,
}

/// Makes a chunk of a detector's frames at the start of `out`; `None` stands for a frame that is not there and reads as
/// zeros.
///
/// # Errors
/// All frames are missing, frames differ in length, blocks or items, several frames are not whole blocks each, the chunk is
/// longer than `out`, or an LZ4 block that has to be decoded is damaged. Blocks that are copied are not decoded: see
/// [`Bslz4::check`].
pub fn reframe(frames: &[Option<Bslz4<'_>>], out: &mut [u8]) -> Result<Reframed, FormatError> {
    let Some(like) = frames.iter().flatten().next().copied() else {
        return Err(field("frames of a chunk", "none", "one at least that is there"));
    };
    let sizes = |f: &Bslz4<'_>| (f.frame_bytes(), f.block_bytes().min(f.frame_bytes()), f.item_bytes());
    let (frame, block, item) = sizes(&like);
    let is_like = |f: &Bslz4<'_>| sizes(f) == (frame, block, item);
    let is_whole = |frame: usize| frame.is_multiple_of(block) && bitshuffle::is_whole(block, item);
    if !frames.iter().flatten().all(is_like) || frames.len() > 1 && !is_whole(frame) {
        return Err(field("frames of a chunk", "unlike blocks", "whole blocks of the same size"));
    }
    let chunk = frame.checked_mul(frames.len()).filter(|bytes| (1..=CHUNK_BYTES_MAX).contains(bytes));
    let chunk = chunk.ok_or_else(|| field("bytes of a chunk", frame, "1 to 2^30 - 1"))?;
    let zeros = if frames.iter().any(Option::is_none) { zero_block(block) } else { Vec::new() };
    let mut parts = Parts::new(out, chunk.div_ceil(block))?;
    let mut reframed = Reframed::default();
    for frame_in in frames {
        match frame_in {
            Some(frame_in) => copy_blocks(frame_in, &mut parts, &mut reframed)?,
            None => (0..frame / block).try_for_each(|_| parts.push(&[&zeros]))?,
        }
    }
    reframed.stored_bytes = parts.end;
    put_header(out, FLAGS_LZ4, item, (chunk, block, reframed.stored_bytes));
    Ok(reframed)
}

/// A frame under construction: header and starts, then blocks.
struct Parts<'a> {
    out: &'a mut [u8],
    count: usize,
    end: usize,
}

impl<'a> Parts<'a> {
    fn new(out: &'a mut [u8], block_count: usize) -> Result<Self, FormatError> {
        let end = HEADER_BYTES + 4 * block_count;
        if end > out.len() {
            return Err(FormatError::Short { what: "room for a chunk", got_bytes: out.len(), want_bytes: end });
        }
        Ok(Self { out, count: 0, end })
    }

    fn push(&mut self, pieces: &[&[u8]]) -> Result<(), FormatError> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let (start, end) = (self.end, self.end + 4 + length);
        if end > self.out.len() {
            return Err(FormatError::Short { what: "room for a chunk", got_bytes: self.out.len(), want_bytes: end });
        }
        put(self.out, HEADER_BYTES + 4 * self.count, start);
        put(self.out, start, length);
        let mut rest = &mut self.out[start + 4..end];
        for piece in pieces {
            let (place, after) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            rest = after;
        }
        (self.count, self.end) = (self.count + 1, end);
        Ok(())
    }
}

fn copy_blocks(frame: &Bslz4<'_>, parts: &mut Parts<'_>, reframed: &mut Reframed) -> Result<(), FormatError> {
    let is_odd = !frame.tail().is_empty();
    let last_bytes = (frame.frame_bytes() - frame.tail().len()) % frame.block_bytes();
    for block in frame.blocks() {
        let is_odd = is_odd && block.block_bytes == last_bytes;
        if !is_odd && block.payload.len() < block.block_bytes {
            parts.push(&[block.payload])?;
            continue;
        }
        let mut rows = vec![0; block.block_bytes];
        expand(block.payload, &mut rows)?;
        reframed.stored_blocks += 1;
        if is_odd {
            let mut items = vec![0; rows.len()];
            bitshuffle::unshuffle(&rows, frame.item_bytes(), &mut items);
            parts.push(&[&items, frame.tail()])?;
        } else {
            parts.push(&[&rows])?;
        }
    }
    if is_odd && last_bytes == 0 {
        reframed.stored_blocks += 1;
        parts.push(&[frame.tail()])?;
    }
    Ok(())
}

fn zero_block(block_bytes: usize) -> Vec<u8> {
    let zeros = vec![0; block_bytes];
    match lz4::block::compress(&zeros, None, false) {
        Ok(short) if short.len() < block_bytes => short,
        _ => zeros,
    }
}

/// Decodes a chunk into `out`, which has the length that the chunk must expand to.
pub fn decode(chunk: &[u8], scratch: &mut Vec<u8>, out: &mut [u8]) -> Result<(), FormatError> {
    let Some((header, _)) = chunk.split_first_chunk::<HEADER_BYTES>() else {
        return Err(FormatError::Short { what: "Blosc chunk", got_bytes: chunk.len(), want_bytes: HEADER_BYTES });
    };
    let [version, lz4_version, flags, item_bytes, ..] = *header;
    let (decoded, block, end) = (u32_at(header, 4) as usize, u32_at(header, 8) as usize, u32_at(header, 12) as usize);
    if (version, lz4_version) != (VERSION, LZ4_VERSION) || !matches!(flags, FLAGS_LZ4 | FLAGS_PLAIN) {
        let got = format!("version {version}.{lz4_version}, flags {flags:#04x}");
        return Err(field("Blosc chunk", got, "bit-transposed LZ4 of Blosc-1, in blocks that are not split"));
    }
    if decoded != out.len() || end != chunk.len() {
        let got = format!("{decoded} bytes in {end}");
        return Err(field("length of a Blosc chunk", got, "the decoded and the stored length of its entry"));
    }
    if flags & FLAG_PLAIN != 0 {
        let pixels = &chunk[HEADER_BYTES..];
        if pixels.len() != decoded {
            return Err(FormatError::Short { what: "Blosc chunk", got_bytes: pixels.len(), want_bytes: decoded });
        }
        out.copy_from_slice(pixels);
        return Ok(());
    }
    let item_bytes = usize::from(item_bytes);
    let is_sound = bitshuffle::is_item(item_bytes) && (1..=decoded).contains(&block);
    if !is_sound || !block.is_multiple_of(item_bytes) || !decoded.is_multiple_of(item_bytes) {
        let got = format!("{block} bytes, items of {item_bytes}");
        return Err(field(
            "block of a Blosc chunk",
            got,
            "whole items of 1, 2, 4 or 8 bytes, not longer than the chunk",
        ));
    }
    scratch.resize(block, 0);
    for (i, out) in out.chunks_mut(block).enumerate() {
        decode_block(block_at(chunk, i)?, item_bytes, scratch, out)?;
    }
    Ok(())
}

/// The stored bytes of block `i`.
fn block_at(chunk: &[u8], i: usize) -> Result<&[u8], FormatError> {
    let number = |at: usize| Some(u32_at(chunk.get(at..at.checked_add(4)?)?, 0) as usize);
    let stored = || {
        let start = number(HEADER_BYTES.checked_add(i.checked_mul(4)?)?)?;
        chunk.get(start.checked_add(4)?..)?.get(..number(start)?)
    };
    stored().ok_or_else(|| field("start or length of a Blosc block", i, "inside the chunk"))
}

fn decode_block(stored: &[u8], item_bytes: usize, scratch: &mut [u8], out: &mut [u8]) -> Result<(), FormatError> {
    let is_shuffled = bitshuffle::is_whole(out.len(), item_bytes);
    match (stored.len() == out.len(), is_shuffled) {
        (true, true) => bitshuffle::unshuffle(stored, item_bytes, out),
        (true, false) => out.copy_from_slice(stored),
        (false, false) => expand(stored, out)?,
        (false, true) => {
            let rows = &mut scratch[..out.len()];
            expand(stored, rows)?;
            bitshuffle::unshuffle(rows, item_bytes, out);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
