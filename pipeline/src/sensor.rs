//! What a detector says of its pixels when a series begins: how they tell that they have no data, which of them are masked,
//! and its flat field.
//!
//! # Units
//! Tables have one number per pixel of the whole detector, C order.

use std::sync::Arc;

use crate::reduce::NoData;
use crate::{Region, SigShape};

/// Bits of a pixel mask that say that a pixel counts nothing; those above tell of pixels whose values are to be used, as
/// interpolated ones (NeXus, `NXdetector/pixel_mask`).
const DEFECTS: u32 = 0xffff;

/// What a detector says of its pixels; by default nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sensor {
    /// How a pixel says that it has no data.
    pub nodata: Option<NoData>,
    /// What is wrong with every pixel, in bits as of `NXdetector/pixel_mask`: 0 gap, 1 dead, 2 under-responding,
    /// 3 over-responding, 4 noisy, 8 masked by the user, 31 interpolated.
    pub pixel_mask: Option<PixelTable<u32>>,
    /// By what the counts of every pixel are multiplied.
    pub flatfield: Option<PixelTable<f32>>,
}

/// One number per pixel.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelTable<T> {
    shape: SigShape,
    values: Arc<[T]>,
    /// Whether the detector has applied it to what it sends; `None` when it does not say.
    pub is_applied: Option<bool>,
}

impl<T> PixelTable<T> {
    /// Of a detector of this shape; `None` unless there is one value per pixel.
    pub fn new(shape: SigShape, values: Vec<T>, is_applied: Option<bool>) -> Option<Self> {
        (values.len() as u64 == shape.pixel_count()).then(|| Self { shape, values: values.into(), is_applied })
    }

    /// Of the detector.
    pub fn shape(&self) -> SigShape {
        self.shape
    }

    /// One per pixel, C order.
    pub fn values(&self) -> &[T] {
        &self.values
    }
}

impl PixelTable<u32> {
    /// Pixels that count nothing.
    pub fn masked_count(&self) -> usize {
        self.values.iter().filter(|&&bits| is_masked(bits)).count()
    }

    /// Whether the pixels of a part of the detector count nothing, C order over that part.
    pub(crate) fn masked_in(&self, region: Region) -> Vec<bool> {
        let width = self.shape.width as usize;
        let (first, end) = (region.x as usize, (region.x + region.width) as usize);
        let rows = self.values.chunks(width).skip(region.y as usize).take(region.height as usize);
        rows.flat_map(|row| &row[first..end]).map(|&bits| is_masked(bits)).collect()
    }
}

fn is_masked(bits: u32) -> bool {
    bits & DEFECTS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Defects mask a pixel, remarks do not; parts of the detector are cut out row by row.
    #[test]
    fn masked_pixels() {
        let shape = SigShape { height: 2, width: 3 };
        assert_eq!(PixelTable::new(shape, vec![0; 5], None), None);
        let mask = PixelTable::new(shape, vec![0, 1, 1 << 31, 1 << 8, 0, 1 << 31 | 2], Some(true)).expect("six pixels");
        assert_eq!(mask.masked_count(), 3);
        let right = Region { y: 0, x: 1, height: 2, width: 2 };
        assert_eq!(mask.masked_in(right), [true, false, false, true]);
        assert_eq!(mask.masked_in(Region { y: 1, height: 1, ..right }), [false, true]);
    }
}
