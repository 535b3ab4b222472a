//! Bit transposition of blocks of items: small counts gather in few rows, and the rows of zeros compress to nothing.
//!
//! A block of m items (m a multiple of 8) of e bytes becomes 8·e rows of m/8 bytes. Row `8*b + k` holds bit k of byte b
//! of every item, b = 0 being the first byte in memory; bit j of byte i of the row is that of item `8*i + j`. The order is
//! that of HDF5 filter 32008 and of Blosc-1.
//!
//! # Why this way
//! Eight rows meet in one 64-bit word, and three swaps transpose it: safe code on any machine. Frames are decoded far more often
//! than made, and this is what decoding costs: AVX2 rebuilds the items of 256 positions at a time, 15 times as fast, through the
//! safe tokens of `pulp`. What small counts leave empty, their high bytes, is only looked at.

#[cfg(target_arch = "x86_64")]
mod avx2;

/// Items per byte of a row: blocks hold a multiple of it.
pub(super) const ITEMS_MULTIPLE: usize = 8;

/// Whether items of this size can be transposed.
pub(super) fn is_item(item_bytes: usize) -> bool {
    matches!(item_bytes, 1 | 2 | 4 | 8)
}

/// Whether a block of this length is transposed whole.
pub(super) fn is_whole(block_bytes: usize, item_bytes: usize) -> bool {
    block_bytes.is_multiple_of(ITEMS_MULTIPLE * item_bytes)
}

/// Transposes whole items into rows.
///
/// # Panics
/// When the lengths differ, are no multiple of eight items, or [`is_item`] denies the size: callers have checked them.
pub(super) fn shuffle(items: &[u8], item_bytes: usize, rows: &mut [u8]) {
    check(items, item_bytes, rows);
    match item_bytes {
        1 => shuffle_items::<1>(items, rows),
        2 => shuffle_items::<2>(items, rows),
        4 => shuffle_items::<4>(items, rows),
        _ => shuffle_items::<8>(items, rows),
    }
}

/// The inverse of [`shuffle`], with its conditions.
pub(super) fn unshuffle(rows: &[u8], item_bytes: usize, items: &mut [u8]) {
    check(items, item_bytes, rows);
    match item_bytes {
        1 => unshuffle_items::<1>(rows, items),
        2 => unshuffle_items::<2>(rows, items),
        4 => unshuffle_items::<4>(rows, items),
        _ => unshuffle_items::<8>(rows, items),
    }
}

fn check(items: &[u8], item_bytes: usize, rows: &[u8]) {
    assert!(is_item(item_bytes), "items of {item_bytes} bytes");
    assert!(items.len() == rows.len() && is_whole(items.len(), item_bytes), "{} and {}", items.len(), rows.len());
}

fn shuffle_items<const E: usize>(items: &[u8], rows: &mut [u8]) {
    let row_bytes = rows.len() / (8 * E);
    for (at, eight) in items.as_chunks::<E>().0.as_chunks::<8>().0.iter().enumerate() {
        for byte in 0..E {
            let word = transpose(u64::from_le_bytes(eight.map(|item| item[byte])));
            for (bit, value) in word.to_le_bytes().into_iter().enumerate() {
                rows[(8 * byte + bit) * row_bytes + at] = value;
            }
        }
    }
}

fn unshuffle_items<const E: usize>(rows: &[u8], items: &mut [u8]) {
    let done = unshuffle_pieces::<E>(rows, items);
    unshuffle_eights::<E>(rows, items, done);
}

/// Rebuilds items with the vector instructions of this machine, as far as they go; how many bytes of a row were used.
fn unshuffle_pieces<const E: usize>(rows: &[u8], items: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = avx2::Avx2::try_new() {
        return avx2.unshuffle::<E>(rows, items);
    }
    let _ = (rows, items);
    0
}

/// Rebuilds the items of bytes `first..` of all rows.
fn unshuffle_eights<const E: usize>(rows: &[u8], items: &mut [u8], first: usize) {
    let row_bytes = rows.len() / (8 * E);
    let eights = items.as_chunks_mut::<E>().0.as_chunks_mut::<8>().0;
    for (at, eight) in eights.iter_mut().enumerate().skip(first) {
        for byte in 0..E {
            let row = |bit: usize| rows[(8 * byte + bit) * row_bytes + at];
            let word = transpose(u64::from_le_bytes(std::array::from_fn(row)));
            for (item, value) in eight.iter_mut().zip(word.to_le_bytes()) {
                item[byte] = value;
            }
        }
    }
}

/// Transposes eight by eight bits: bit c of byte r changes places with bit r of byte c.
fn transpose(mut word: u64) -> u64 {
    for (shift, mask) in [(7, 0x00aa_00aa_00aa_00aa), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)] {
        let swapped = (word ^ word >> shift) & mask;
        word ^= swapped ^ swapped << shift;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One bit after the other, as the format's description says it.
    fn model(items: &[u8], item_bytes: usize) -> Vec<u8> {
        let count = items.len() / item_bytes;
        let mut rows = vec![0; items.len()];
        for item in 0..count {
            for bit in 0..8 * item_bytes {
                let value = items[item * item_bytes + bit / 8] >> (bit % 8) & 1;
                rows[bit * (count / 8) + item / 8] |= value << (item % 8);
            }
        }
        rows
    }

    proptest! {
        /// Both directions against the model, with and without the vectors of this machine; most often some rows are empty.
        #[test]
        fn like_the_model(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
            exponent in 0_u32..4,
            mask in prop_oneof![Just(u64::MAX), 0_u64..8, any::<u64>(), (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b)],
        ) {
            let item_bytes = 1 << exponent;
            let mask = mask.to_le_bytes();
            let bytes: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte & mask[at % item_bytes]).collect();
            let items = &bytes[..bytes.len() - bytes.len() % (8 * item_bytes)];
            let mut rows = vec![0; items.len()];
            shuffle(items, item_bytes, &mut rows);
            prop_assert_eq!(&rows, &model(items, item_bytes));
            let mut back = vec![0xee; items.len()];
            unshuffle(&rows, item_bytes, &mut back);
            prop_assert_eq!(&back, items);
            back.fill(0xee);
            match item_bytes {
                1 => unshuffle_eights::<1>(&rows, &mut back, 0),
                2 => unshuffle_eights::<2>(&rows, &mut back, 0),
                4 => unshuffle_eights::<4>(&rows, &mut back, 0),
                _ => unshuffle_eights::<8>(&rows, &mut back, 0),
            }
            prop_assert_eq!(&back, items);
        }
    }
}
