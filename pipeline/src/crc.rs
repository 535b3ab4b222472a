//! CRC-32C (Castagnoli) of chunks, put together from the checksums of their frames.
//!
//! # Why this way
//! A frame's checksum is taken once, while its bytes are hot from the socket. A chunk may be filled by several blocks,
//! in any order, so its checksum is computed from those of its frames without touching the pixels again.

/// Reversed Castagnoli polynomial (RFC 3720, appendix B.4).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// CRC-32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Appends checksums of equally long pieces: a linear map over GF(2), computed once per frame size.
#[derive(Debug, Clone)]
pub struct CrcJoin {
    shift: [u32; 32],
    zeros: u32,
}

impl CrcJoin {
    /// Joins pieces of `piece_bytes` bytes each.
    pub fn new(piece_bytes: u64) -> Self {
        let mut shift = identity();
        let mut power = one_zero_byte();
        let mut rest = piece_bytes;
        while rest > 0 {
            if rest & 1 == 1 {
                shift = compose(&power, &shift);
            }
            power = compose(&power, &power);
            rest >>= 1;
        }
        // crc(zeros) = !shift(!0): start value and final inversion of the standard CRC.
        Self { zeros: !apply(&shift, !0), shift }
    }

    /// Checksum of a piece of zeros: what a missing frame contributes.
    pub fn zeros(&self) -> u32 {
        self.zeros
    }

    /// Checksum of everything so far followed by one more piece.
    pub fn join(&self, so_far: u32, piece: u32) -> u32 {
        apply(&self.shift, so_far) ^ piece
    }

    /// Checksum of the concatenation of pieces with these checksums; 0 for none.
    pub fn join_all(&self, pieces: impl IntoIterator<Item = u32>) -> u32 {
        pieces.into_iter().fold(0, |so_far, piece| self.join(so_far, piece))
    }
}

fn apply(map: &[u32; 32], value: u32) -> u32 {
    (0..32).fold(0, |sum, bit| if value >> bit & 1 == 1 { sum ^ map[bit] } else { sum })
}

fn compose(outer: &[u32; 32], inner: &[u32; 32]) -> [u32; 32] {
    inner.map(|column| apply(outer, column))
}

fn identity() -> [u32; 32] {
    std::array::from_fn(|bit| 1 << bit)
}

/// The map that feeds eight zero bits through the shift register.
fn one_zero_byte() -> [u32; 32] {
    identity().map(|mut value: u32| {
        for _ in 0..8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
        }
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Joining checksums of pieces equals the checksum of the joined bytes, for any piece length and content.
        #[test]
        fn joins_like_concatenation(piece_bytes in 1_usize..300, count in 0_usize..6, seed in any::<u64>()) {
            let bytes: Vec<u8> = (0..piece_bytes * count).map(|i| (seed.wrapping_mul(i as u64 + 1) >> 17) as u8).collect();
            let join = CrcJoin::new(piece_bytes as u64);
            prop_assert_eq!(join.join_all(bytes.chunks(piece_bytes).map(crc32c)), crc32c(&bytes));
            prop_assert_eq!(join.zeros(), crc32c(&vec![0; piece_bytes]));
        }
    }
}
