//! Conformance with LiberTEM's results on the same frames, where the golden data are at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ronchi_pipeline::reduce::{LiveImages, Reduction, VirtualDetector};
use ronchi_pipeline::{ByteOrder, NavShape, PixelKind, PixelType, Scan, ScanOrder, SigShape};

use crate::run::{Data, run_whole, values};
use crate::zip::members;

const DETECTOR: SigShape = SigShape { height: 16, width: 18 };
const NAV: NavShape = NavShape { height: 8, width: 10 };
const CENTRE: (f64, f64) = (7.5, 8.6);

/// Folder of the golden data, or `None` with a line that says so.
fn folder() -> Option<PathBuf> {
    let shared = std::env::var_os("RONCHI_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let folder = shared.join("data/reductions");
    if !folder.is_dir() {
        println!("skipped: no golden data in {}", folder.display());
        return None;
    }
    Some(folder)
}

/// An array of any type as doubles.
fn array(bytes: &[u8]) -> Vec<f64> {
    macro_rules! first_that_fits {
        ($($number:ty),*) => {{
            $(if let Ok(reader) = npyz::NpyFile::new(bytes).expect("npy").try_data::<$number>() {
                return reader.map(|value| value.expect("whole") as f64).collect();
            })*
            panic!("array of unknown type");
        }};
    }
    first_that_fits!(f64, f32, u64, i64, u32, i32, u16, i16, u8, i8)
}

fn npz(folder: &std::path::Path, name: &str) -> BTreeMap<String, Vec<f64>> {
    let file = std::fs::read(folder.join(name)).expect("readable");
    let members = members(&file).into_iter().filter(|(name, _)| !name.starts_with("count_")); // Booleans.
    members.map(|(name, bytes)| (name.trim_end_matches(".npy").to_owned(), array(&bytes))).collect()
}

const KINDS: [(&str, PixelKind); 4] =
    [("u8", PixelKind::U8), ("u16", PixelKind::U16), ("u32", PixelKind::U32), ("f32", PixelKind::F32)];

fn data(folder: &std::path::Path, name: &str, kind: PixelKind) -> Data {
    let pixels = array(&std::fs::read(folder.join(format!("frames_{name}.npy"))).expect("frames"));
    let frames = pixels.chunks(16 * 18).map(<[f64]>::to_vec).collect();
    Data { detector: DETECTOR, pixel: PixelType::new(kind, ByteOrder::Big), frames }
}

fn masks(folder: &std::path::Path) -> Vec<Vec<f64>> {
    let stack = array(&std::fs::read(folder.join("masks.npy")).expect("masks"));
    stack.chunks(16 * 18).map(<[f64]>::to_vec).collect()
}

/// Our shapes give LiberTEM's masks, where the definitions agree.
#[test]
fn shapes_like_libertem() {
    let Some(folder) = folder() else { return };
    let masks = masks(&folder);
    let (cy, cx) = CENTRE;
    let image = |detector: VirtualDetector| detector.mask(DETECTOR).expect("valid").to_image();
    assert_eq!(image(VirtualDetector::Disk { cy, cx, radius: 4.3 }), masks[0]);
    assert_eq!(image(VirtualDetector::Ring { cy, cx, inner: 4.3, outer: 7.5 }), masks[2]);
    // LiberTEM's rectangle includes its last row and column.
    assert_eq!(image(VirtualDetector::Rectangle { y0: 2, x0: 3, y1: 7, x1: 9 }), masks[4]);
}

/// Virtual images, totals, patterns and centres of mass of all pixel types.
#[test]
fn results_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let masks = masks(&folder);
    let mut reductions = vec![Reduction::Total, Reduction::CentreOfMass, Reduction::Sum, Reduction::Max];
    for (m, weights) in masks.iter().enumerate() {
        let detector = VirtualDetector::Image { height: 16, width: 18, weights: weights.clone() };
        reductions.push(Reduction::Virtual { name: format!("m{m}"), detector });
    }
    for (name, kind) in KINDS {
        let data = data(&folder, name, kind);
        let images = run_whole(&data, &reductions, Some(Scan::raster(NAV)));
        for (m, weights) in masks.iter().enumerate() {
            let golden = &expected[&format!("{name}_vimg_f64")][m * 80..(m + 1) * 80];
            let binary = weights.iter().all(|&weight| weight == 0.0 || weight == 1.0);
            for ((got, want), frame) in values(&images, &format!("m{m}")).iter().zip(golden).zip(&data.frames) {
                let size: f64 = weights.iter().zip(frame).map(|(w, v)| (w * v).abs()).sum();
                let tolerance = if binary && kind != PixelKind::F32 { 0.0 } else { 1e-12 * size };
                assert!((got - want).abs() <= tolerance, "{name} mask {m}: {got} is not {want}");
            }
        }
        compare(&values(&images, "sum"), &expected[&format!("{name}_pix_sum")], 1e-12, "sum");
        compare(&values(&images, "max"), &expected[&format!("{name}_pix_max")], 0.0, "max");
        let total = if kind == PixelKind::F32 { 1e-6 } else { 0.0 };
        compare(&values(&images, "total"), &expected[&format!("{name}_sumsig")], total, "total");
        check_com(&values(&images, "com"), &expected, name);
    }
}

fn compare(got: &[f64], golden: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), golden.len());
    for (got, want) in got.iter().zip(golden) {
        assert!((got - want).abs() <= relative * want.abs(), "{what}: {got} is not {want}");
    }
}

/// The frame without counts has no centre for us; LiberTEM puts it at the default centre.
fn check_com(com: &[f64], expected: &BTreeMap<String, Vec<f64>>, name: &str) {
    let raw = &expected[&format!("{name}_com_default_raw_com")];
    let shifts = &expected[&format!("{name}_com_default_raw_shifts")];
    for (i, &got) in com.iter().enumerate() {
        let centre = [8.0, 9.0][i % 2];
        let got = if got.is_nan() { centre } else { got };
        assert!((got - raw[i]).abs() <= 1e-5, "{name} raw_com {i}: {got} is not {}", raw[i]);
        assert!((got - centre - shifts[i]).abs() <= 1e-5, "{name} raw_shifts {i}");
    }
}

/// Centre of mass inside a disk, from frames that are 0 outside of it, to 1e-12 px of the reference in double precision.
#[test]
fn com_like_the_reference() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let disk = VirtualDetector::Disk { cy: CENTRE.0, cx: CENTRE.1, radius: 6.0 };
    let disk = disk.mask(DETECTOR).expect("valid").to_image();
    for (name, kind) in KINDS {
        let mut data = data(&folder, name, kind);
        for frame in &mut data.frames {
            frame.iter_mut().zip(&disk).for_each(|(pixel, weight)| *pixel *= weight);
        }
        let images = run_whole(&data, &[Reduction::CentreOfMass], Some(Scan::raster(NAV)));
        let reference = &expected[&format!("{name}_com_disk_raw_com_f64ref")];
        for (i, (&got, want)) in values(&images, "com").iter().zip(reference).enumerate() {
            let got = if got.is_nan() { [CENTRE.0, CENTRE.1][i % 2] } else { got };
            assert!((got - want).abs() <= 1e-12 || want.is_nan(), "{name} {i}: {got} is not {want}");
        }
    }
}

/// A synchronisation offset shifts as LiberTEM's does; it leaves 0 where no frame is, we say so in `valid`.
#[test]
fn sync_offset_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let data = data(&folder, "u16", PixelKind::U16);
    let disk = VirtualDetector::Disk { cy: CENTRE.0, cx: CENTRE.1, radius: 4.3 };
    let disk = [Reduction::Virtual { name: "bf".into(), detector: disk }];
    for (name, sync_offset) in [("u16_sync_p3_disk", 3), ("u16_sync_m3_disk", -3)] {
        let images: LiveImages = run_whole(&data, &disk, Some(Scan { sync_offset, ..Scan::raster(NAV) }));
        let stored = images.image("bf").expect("bf").stored();
        let got: Vec<f64> = stored.bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as f64).collect();
        assert_eq!(got, expected[name]);
        assert_eq!(images.valid().iter().filter(|&&valid| valid == 0).count(), 3);
    }
}

/// Scan maps: position of every frame, -1 for none.
#[test]
fn scan_maps() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected_extra.npz");
    let raster = Scan::raster(NavShape { height: 3, width: 4 });
    let scans = [
        ("map_raster_3x4", raster),
        ("map_raster_3x4_fly2", Scan { flyback: 2, ..raster }),
        ("map_snake_3x4", Scan { order: ScanOrder::Serpentine, ..raster }),
        ("map_raster_3x4_sync_p3", Scan { sync_offset: 3, ..raster }),
        ("map_raster_3x4_sync_m3", Scan { sync_offset: -3, ..raster }),
    ];
    for (name, scan) in scans {
        let index = |frame: usize| scan.position(frame as u64).map_or(-1.0, |p| f64::from(p.y * 4 + p.x));
        let map: Vec<f64> = (0..expected[name].len()).map(index).collect();
        assert_eq!(map, expected[name], "{name}");
    }
}
