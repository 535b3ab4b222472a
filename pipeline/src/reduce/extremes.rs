//! Largest and smallest values per pixel, over frames.

use crate::PixelKind;

/// Native pixels; floating point ones as integers of the same order ([`key_of`]).
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExtremePattern {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    F32(Vec<i32>),
}

/// Extremes of some pixels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Extremes {
    pub(super) max: Option<ExtremePattern>,
    pub(super) min: Option<ExtremePattern>,
}

impl ExtremePattern {
    /// What it has of some pixels.
    pub(super) fn at(&self, places: &[u32]) -> Self {
        fn pick<T: Copy>(values: &[T], places: &[u32]) -> Vec<T> {
            places.iter().map(|&place| values[place as usize]).collect()
        }
        match self {
            Self::U8(values) => Self::U8(pick(values, places)),
            Self::U16(values) => Self::U16(pick(values, places)),
            Self::U32(values) => Self::U32(pick(values, places)),
            Self::F32(values) => Self::F32(pick(values, places)),
        }
    }

    /// Sets some pixels to what [`Self::at`] had of them.
    pub(super) fn put(&mut self, places: &[u32], known: &Self) {
        fn set<T: Copy>(values: &mut [T], places: &[u32], known: &[T]) {
            places.iter().zip(known).for_each(|(&place, &known)| values[place as usize] = known);
        }
        match (self, known) {
            (Self::U8(values), Self::U8(known)) => set(values, places, known),
            (Self::U16(values), Self::U16(known)) => set(values, places, known),
            (Self::U32(values), Self::U32(known)) => set(values, places, known),
            (Self::F32(values), Self::F32(known)) => set(values, places, known),
            _ => debug_assert!(false, "extremes of different pixel types"), // Both are of this pattern.
        }
    }

    /// The value that any pixel replaces: of a minimum the largest, else the smallest.
    pub(super) fn none(kind: PixelKind, count: usize, is_min: bool) -> Self {
        let mut pattern = match kind {
            PixelKind::U8 => Self::U8(vec![0; count]),
            PixelKind::U16 => Self::U16(vec![0; count]),
            PixelKind::U32 => Self::U32(vec![0; count]),
            PixelKind::F32 => Self::F32(vec![0; count]),
        };
        pattern.clear(is_min);
        pattern
    }

    pub(super) fn clear(&mut self, is_min: bool) {
        match self {
            Self::U8(values) => values.fill(if is_min { u8::MAX } else { 0 }),
            Self::U16(values) => values.fill(if is_min { u16::MAX } else { 0 }),
            Self::U32(values) => values.fill(if is_min { u32::MAX } else { 0 }),
            Self::F32(values) => values.fill(if is_min { i32::MAX } else { NO_KEY }),
        }
    }

    pub(super) fn merge(
        &mut self,
        other: &Self,
        u8s: fn(u8, u8) -> u8,
        u16s: fn(u16, u16) -> u16,
        u32s: fn(u32, u32) -> u32,
        keys: fn(i32, i32) -> i32,
    ) {
        match (self, other) {
            (Self::U8(own), Self::U8(other)) => pick(own, other, u8s),
            (Self::U16(own), Self::U16(other)) => pick(own, other, u16s),
            (Self::U32(own), Self::U32(other)) => pick(own, other, u32s),
            (Self::F32(own), Self::F32(other)) => pick(own, other, keys),
            _ => debug_assert!(false, "extremes of different pixel types"), // Checked by the caller.
        }
    }

    /// The value of one pixel as a number; NaN where no number was seen.
    pub(super) fn value(&self, pixel: usize) -> f64 {
        match self {
            Self::U8(values) => f64::from(values[pixel]),
            Self::U16(values) => f64::from(values[pixel]),
            Self::U32(values) => f64::from(values[pixel]),
            Self::F32(values) => f64::from(number_of(values[pixel])),
        }
    }
}

fn pick<T: Copy>(own: &mut [T], other: &[T], best: fn(T, T) -> T) {
    own.iter_mut().zip(other).for_each(|(own, &other)| *own = best(*own, other));
}

/// The key of no number: smaller than that of any.
pub(super) const NO_KEY: i32 = i32::MIN;

/// An integer whose order is that of the numbers (-0 below +0); NaN is no number.
#[inline(always)]
pub(super) fn key_of(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    let key = bits ^ ((bits >> 31) as u32 >> 1) as i32;
    if value.is_nan() { NO_KEY } else { key }
}

/// The number of a key; NaN for none, and for the key above that of all numbers.
pub(super) fn number_of(key: i32) -> f32 {
    if key == NO_KEY { f32::NAN } else { f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Keys order as numbers do and give them back.
        #[test]
        fn keys(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(number_of(key_of(a)).to_bits(), a.to_bits());
            prop_assert_eq!(key_of(a).cmp(&key_of(b)), a.total_cmp(&b));
        }
    }

    /// NaN is no number: below minus infinity.
    #[test]
    fn nan_is_no_number() {
        assert_eq!(key_of(f32::NAN), NO_KEY);
        assert!(key_of(f32::NEG_INFINITY) > NO_KEY && number_of(NO_KEY).is_nan());
    }
}
