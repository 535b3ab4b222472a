//! Masks against their definitions, pixel by pixel.

use proptest::prelude::*;
use ronchi_pipeline::SigShape;
use ronchi_pipeline::reduce::{MaskError, VirtualDetector};

const DETECTOR: SigShape = SigShape { height: 17, width: 23 };

fn image(detector: &VirtualDetector) -> Vec<f64> {
    let Ok(mask) = detector.mask(DETECTOR) else { return vec![0.0; 17 * 23] };
    assert!(mask.is_binary());
    for y in 0..DETECTOR.height {
        let runs = mask.runs(y);
        assert!(runs.iter().all(|&(x0, x1)| x0 < x1 && x1 <= DETECTOR.width));
        assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "runs touch: {runs:?}");
    }
    mask.to_image()
}

fn sum(images: &[Vec<f64>]) -> Vec<f64> {
    (0..17 * 23).map(|pixel| images.iter().map(|image| image[pixel]).sum()).collect()
}

/// Coordinates that often meet pixel centres and edges exactly.
fn coordinate() -> impl Strategy<Value = f64> {
    (-8_i32..100).prop_map(|quarter| f64::from(quarter) / 4.0)
}

fn radius() -> impl Strategy<Value = f64> {
    (0_i32..60).prop_map(|quarter| f64::from(quarter) / 4.0)
}

proptest! {
    /// A disk and the rings around it share no pixel and leave none out.
    #[test]
    fn rings_partition(cy in coordinate(), cx in coordinate(), a in radius(), b in radius()) {
        prop_assume!(a < b);
        let inner = image(&VirtualDetector::Disk { cy, cx, radius: a });
        let ring = image(&VirtualDetector::Ring { cy, cx, inner: a, outer: b });
        prop_assert_eq!(sum(&[inner, ring]), image(&VirtualDetector::Disk { cy, cx, radius: b }));
    }

    /// Sectors that share their ends share no pixel and leave none of the ring out.
    #[test]
    fn sectors_partition(cy in coordinate(), cx in coordinate(), start in -800_i32..800, cuts in prop::collection::vec(1_i32..359, 1..5)) {
        let mut ends: Vec<i32> = cuts.iter().map(|cut| start + cut).collect();
        ends.extend([start, start + 360]);
        ends.sort_unstable();
        ends.dedup();
        let sector = |from: i32, to: i32| image(&VirtualDetector::Sector {
            cy, cx, inner: 1.0, outer: 9.0, from_deg: f64::from(from), to_deg: f64::from(to),
        });
        let sectors: Vec<Vec<f64>> = ends.windows(2).map(|pair| sector(pair[0], pair[1])).collect();
        prop_assert_eq!(sum(&sectors), image(&VirtualDetector::Ring { cy, cx, inner: 1.0, outer: 9.0 }));
    }

    /// A polygon holds the pixels whose centre has an odd number of edges to its right.
    #[test]
    fn polygon_is_even_odd(vertices in prop::collection::vec((coordinate(), coordinate()), 3..9)) {
        let got = image(&VirtualDetector::Polygon { vertices: vertices.iter().map(|&(y, x)| [y, x]).collect() });
        for pixel in 0..17 * 23 {
            let (y, x) = (f64::from(pixel / 23), f64::from(pixel % 23));
            let mut inside = false;
            for i in 0..vertices.len() {
                let ((y1, x1), (y0, x0)) = (vertices[i], vertices[(i + vertices.len() - 1) % vertices.len()]);
                inside ^= (y0 > y) != (y1 > y) && x < x0 + (y - y0) / (y1 - y0) * (x1 - x0);
            }
            prop_assert_eq!(got[pixel as usize], f64::from(inside), "y {} x {}", y, x);
        }
    }

    /// A tile of a mask is that part of its image.
    #[test]
    fn crops(y in 0_u32..17, x in 0_u32..23, height in 1_u32..17, width in 1_u32..23, real in any::<bool>()) {
        let region = ronchi_pipeline::Region { y, x, height, width };
        let weights = (0..17 * 23).map(|i| if real { f64::from(i) / 7.0 } else { f64::from(i % 3 / 2) }).collect();
        let mask = VirtualDetector::Image { height: 17, width: 23, weights }.mask(DETECTOR).expect("valid");
        let crop = mask.crop(region);
        prop_assert_eq!(crop.is_some(), region.fits(DETECTOR));
        let Some(crop) = crop else { return Ok(()) };
        let whole = mask.to_image();
        let expected: Vec<f64> =
            (y..y + height).flat_map(|y| whole[(y * 23 + x) as usize..(y * 23 + x + width) as usize].to_vec()).collect();
        prop_assert_eq!(crop.to_image(), expected);
        prop_assert_eq!(crop.region(), region);
    }
}

/// Boundaries: a disk includes its edge, a ring its outer edge only, a rectangle its first row and column only.
#[test]
fn boundaries() {
    let count = |detector: VirtualDetector| detector.mask(DETECTOR).map(|mask| mask.pixel_count());
    assert_eq!(count(VirtualDetector::Disk { cy: 8.0, cx: 8.0, radius: 1.0 }), Ok(5));
    assert_eq!(count(VirtualDetector::Disk { cy: 8.0, cx: 8.0, radius: 0.0 }), Ok(1));
    assert_eq!(count(VirtualDetector::Ring { cy: 8.0, cx: 8.0, inner: 0.0, outer: 1.0 }), Ok(4));
    assert_eq!(count(VirtualDetector::Rectangle { y0: 2, x0: 3, y1: 6, x1: 8 }), Ok(20));
    let quarter = VirtualDetector::Sector { cy: 8.0, cx: 8.0, inner: 0.0, outer: 2.0, from_deg: 0.0, to_deg: 90.0 };
    // (y, x) - centre: (0,1), (0,2), (1,1); (1,0) lies at 90 degrees and is out.
    assert_eq!(count(quarter), Ok(3));
}

/// Numbers that make no mask are refused with the reason.
#[test]
fn refusals() {
    let refuse = |detector: VirtualDetector| detector.mask(DETECTOR).expect_err("not a mask");
    let nan = f64::NAN;
    assert!(matches!(
        refuse(VirtualDetector::Disk { cy: nan, cx: 1.0, radius: 1.0 }),
        MaskError::NotFinite { what: "cy", .. }
    ));
    assert!(matches!(refuse(VirtualDetector::Disk { cy: 1.0, cx: 1.0, radius: -1.0 }), MaskError::Radius { .. }));
    assert!(matches!(
        refuse(VirtualDetector::Ring { cy: 1.0, cx: 1.0, inner: 2.0, outer: 2.0 }),
        MaskError::Radii { .. }
    ));
    assert!(matches!(
        refuse(VirtualDetector::Ring { cy: 99.0, cx: 1.0, inner: 0.0, outer: 2.0 }),
        MaskError::Empty { .. }
    ));
    assert!(matches!(refuse(VirtualDetector::Rectangle { y0: 0, x0: 0, y1: 18, x1: 2 }), MaskError::Rectangle { .. }));
    assert!(matches!(
        refuse(VirtualDetector::Polygon { vertices: vec![[0.0; 2]; 2] }),
        MaskError::Vertices { count: 2 }
    ));
    let image = |weights| VirtualDetector::Image { height: 17, width: 23, weights };
    assert!(matches!(refuse(image(vec![0.0; 5])), MaskError::Image { count: 5, .. }));
    let mut weights = vec![0.5; 17 * 23];
    weights[24] = f64::INFINITY;
    assert!(matches!(refuse(image(weights)), MaskError::Weight { y: 1, x: 1, .. }));
    let huge = SigShape { height: 65_536, width: 65_536 };
    let disk = VirtualDetector::Disk { cy: 1.0, cx: 1.0, radius: 1.0 };
    assert!(matches!(disk.mask(huge), Err(MaskError::DetectorTooLarge { .. })));
}
