//! Conformance with LiberTEM's results on the same frames, where the golden data are at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ronchi_pipeline::reduce::{LiveImages, Reduction, VirtualDetector};
use ronchi_pipeline::{ByteOrder, NavShape, PixelKind, PixelType, Scan, ScanOrder, SigShape};
use serde_json::json;

use crate::run::{Data, run_whole, values};
use crate::zip::members;

pub(crate) const DETECTOR: SigShape = SigShape { height: 16, width: 18 };
pub(crate) const NAV: NavShape = NavShape { height: 8, width: 10 };
pub(crate) const CENTRE: (f64, f64) = (7.5, 8.6);

/// Folder of the golden data, or `None` with a line that says so.
pub(crate) fn folder() -> Option<PathBuf> {
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
pub(crate) fn array(bytes: &[u8]) -> Vec<f64> {
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

pub(crate) fn npz(folder: &std::path::Path, name: &str) -> BTreeMap<String, Vec<f64>> {
    let file = std::fs::read(folder.join(name)).expect("readable");
    let members = members(&file).into_iter().filter(|(name, _)| !name.starts_with("count_")); // Booleans.
    members.map(|(name, bytes)| (name.trim_end_matches(".npy").to_owned(), array(&bytes))).collect()
}

const KINDS: [(&str, PixelKind); 4] =
    [("u8", PixelKind::U8), ("u16", PixelKind::U16), ("u32", PixelKind::U32), ("f32", PixelKind::F32)];

pub(crate) fn data(folder: &std::path::Path, name: &str, kind: PixelKind) -> Data {
    let pixels = array(&std::fs::read(folder.join(format!("frames_{name}.npy"))).expect("frames"));
    let frames = pixels.chunks(16 * 18).map(<[f64]>::to_vec).collect();
    Data { detector: DETECTOR, pixel: PixelType::new(kind, ByteOrder::Big), frames }
}

pub(crate) fn masks(folder: &std::path::Path) -> Vec<Vec<f64>> {
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
    let mut reductions = vec![Reduction::total(), Reduction::centre_of_mass(), Reduction::sum(), Reduction::max()];
    for (m, weights) in masks.iter().enumerate() {
        let detector = VirtualDetector::Image { height: 16, width: 18, weights: weights.clone() };
        reductions.push(Reduction::virtual_detector(&format!("m{m}"), detector));
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

/// A reduction by its kind and parameters.
pub(crate) fn reduction(kind: &str, name: &str, parameters: serde_json::Value) -> Reduction {
    Reduction::parse(kind, Some(name), parameters.as_object().cloned().unwrap_or_default()).expect("known parameters")
}

/// Centre of mass inside a disk, to 1e-12 px of the reference in double precision.
#[test]
fn com_like_the_reference() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let parameters = json!({ "centre": [7.5, 8.6], "outer": 6.0, "fill_centre": true });
    for (name, kind) in KINDS {
        let data = data(&folder, name, kind);
        let images = run_whole(&data, &[reduction("com", "com", parameters.clone())], Some(Scan::raster(NAV)));
        let reference = &expected[&format!("{name}_com_disk_raw_com_f64ref")];
        for (i, (&got, want)) in values(&images, "com").iter().zip(reference).enumerate() {
            assert!((got - want).abs() <= 1e-12 || want.is_nan(), "{name} {i}: {got} is not {want}");
        }
    }
}

/// Shift, field, divergence, curl, regression of all of LiberTEM's cases: selection, rotation, flip, regression.
#[test]
fn fields_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let disk = json!({ "centre": [7.5, 8.6], "outer": 6.0 });
    let with = |more: serde_json::Value| {
        let mut all = disk.clone();
        let more = more.as_object().cloned().unwrap_or_default();
        all.as_object_mut().expect("an object").extend(more);
        all
    };
    let cases = [
        ("default", json!({})),
        ("disk", disk.clone()),
        ("ring", json!({ "centre": [7.5, 8.6], "inner": 2.5, "outer": 7.5 })),
        ("rot30", with(json!({ "rotation_deg": 30.0 }))),
        ("flip_rot30", with(json!({ "rotation_deg": 30.0, "flip_y": true }))),
        ("reg0", with(json!({ "regression": 0 }))),
        ("reg1", with(json!({ "regression": 1 }))),
    ];
    let results = ["shift", "field", "divergence", "curl", "regression", "magnitude"];
    let mut compared = 0;
    for (dtype, kind) in KINDS {
        let data = data(&folder, dtype, kind);
        for (case, parameters) in &cases {
            let mut parameters = parameters.clone();
            parameters["also"] = json!(results);
            parameters["fill_centre"] = json!(true);
            let mut images = run_whole(&data, &[reduction("com", "c", parameters)], Some(Scan::raster(NAV)));
            images.derive_all();
            for (ours, theirs) in
                results.iter().zip(["raw_shifts", "field", "divergence", "curl", "regression", "magnitude"])
            {
                let Some(golden) = expected.get(&format!("{dtype}_com_{case}_{theirs}")) else { continue };
                let got = values(&images, &format!("c_{ours}"));
                assert_eq!(got.len(), golden.len());
                // LiberTEM's centres of mass of f32 frames are off by 5e-6 px, and a derivative is made of four of them.
                let is_derivative = ["divergence", "curl"].contains(ours);
                let tolerance = if is_derivative && kind == PixelKind::F32 { 4.0 * 5e-6 } else { 1e-5 };
                for (at, (got, want)) in got.iter().zip(golden).enumerate() {
                    assert!((got - want).abs() <= tolerance, "{dtype} {case} {ours} {at}: {got} is not {want}");
                }
                compared += golden.len();
            }
        }
    }
    assert_eq!(compared, 18 * 486 + 4 * 80); // Eighteen cases; four of them with magnitudes.
}

/// Radial profiles, standard deviation in a ring, mean, variance and standard deviation over frames.
#[test]
fn statistics_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let radial = json!({ "centre": [7.5, 8.6], "outer": 8.0, "bins": 8, "libertem": true, "sum": true });
    let fem = json!({ "centre": [7.0, 9.0], "inner": 3.0, "outer": 7.0 });
    let list = [
        reduction("radial", "radial", radial),
        reduction("fluctuation", "fem", fem),
        reduction("mean", "mean", json!({})),
        reduction("variance", "var", json!({})),
        reduction("std", "std", json!({})),
        reduction("min", "min", json!({})),
    ];
    for (dtype, kind) in KINDS {
        let data = data(&folder, dtype, kind);
        let images = run_whole(&data, &list, Some(Scan::raster(NAV)));
        compare(&values(&images, "radial_sum"), &expected[&format!("{dtype}_radial_sum")], 1e-12, "radial sum");
        compare(&values(&images, "radial"), &expected[&format!("{dtype}_radial_mean")], 1e-12, "radial mean");
        compare(&values(&images, "fem"), &expected[&format!("{dtype}_fem")], 1e-6, "fluctuation");
        compare(&values(&images, "mean"), &expected[&format!("{dtype}_pix_mean")], 1e-12, "mean");
        compare(&values(&images, "var"), &expected[&format!("{dtype}_pix_var")], 1e-11, "variance");
        compare(&values(&images, "std"), &expected[&format!("{dtype}_pix_std")], 1e-12, "standard deviation");
        let least = |pixel: usize| data.frames.iter().map(|frame| frame[pixel]).fold(f64::INFINITY, f64::min);
        let least: Vec<f64> = (0..16 * 18).map(least).collect();
        assert_eq!(values(&images, "min"), least);
    }
}

/// LiberTEM's anti-aliased disk and ring, and the four quadrants through `dpc`.
#[test]
fn soft_edges_and_quadrants_like_libertem() {
    let Some(folder) = folder() else { return };
    let masks = masks(&folder);
    let (cy, cx) = CENTRE;
    let image = |detector: VirtualDetector| detector.mask(DETECTOR).expect("valid").to_image();
    let close = |got: Vec<f64>, want: &[f64]| got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-15);
    assert!(close(image(VirtualDetector::DiskAa { cy, cx, radius: 4.3 }), &masks[1]));
    assert!(close(image(VirtualDetector::RingAa { cy, cx, inner: 4.3, outer: 7.5 }), &masks[3]));
    let data = data(&folder, "u16", PixelKind::U16);
    let expected = npz(&folder, "expected.npz");
    let images = run_whole(
        &data,
        &[reduction("dpc", "dpc", json!({ "centre": [7.5, 8.6], "outer": 7.5 }))],
        Some(Scan::raster(NAV)),
    );
    let sum = |mask: usize, frame: usize| expected["u16_vimg_f64"][mask * 80 + frame];
    for (frame, got) in values(&images, "dpc").chunks(2).enumerate() {
        let [top, bottom, left, right] = [8, 9, 10, 11].map(|mask| sum(mask, frame));
        let want = [(bottom - top) / (bottom + top), (right - left) / (right + left)];
        assert!(
            got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-15 || want.is_nan()),
            "{got:?} {want:?}"
        );
    }
}

/// The phase of a gradient, as `icom_gy, icom_gx -> icom_phase`: the vectors are put into centres of mass of two pixels.
#[test]
fn phase_like_the_reference() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected_extra.npz");
    let (gy, gx, phase) = (&expected["icom_gy"], &expected["icom_gx"], &expected["icom_phase"]);
    // A frame of 2 x 2 with weights whose centre of mass is (0.5 + gy s, 0.5 + gx s).
    let scale = 0.2 / gy.iter().chain(gx).fold(0.0_f64, |most, value| most.max(value.abs()));
    let frame = |(gy, gx): (&f64, &f64)| {
        let (y, x) = (0.5 + gy * scale, 0.5 + gx * scale);
        [(1.0 - y) * (1.0 - x), (1.0 - y) * x, y * (1.0 - x), y * x].map(|w| f64::from((w * 4e9) as u32)).to_vec()
    };
    let data = Data {
        detector: SigShape { height: 2, width: 2 },
        pixel: PixelType::new(PixelKind::U32, ByteOrder::Little),
        frames: gy.iter().zip(gx).map(frame).collect(),
    };
    let parameters = json!({ "centre": [0.5, 0.5], "rad_per_px": 1.0 / scale, "also": ["phase"] });
    let scan = Scan::raster(NavShape { height: 12, width: 16 });
    let mut images = run_whole(&data, &[reduction("com", "com", parameters)], Some(scan));
    images.derive_all();
    let largest = phase.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (got, want) in values(&images, "com_phase").iter().zip(phase) {
        assert!((got - want).abs() <= 1e-6 * largest, "{got} is not {want}"); // Rounded to 4e9 counts.
    }
}

/// A synchronisation offset shifts as LiberTEM's does; it leaves 0 where no frame is, we say so in `valid`.
#[test]
fn sync_offset_like_libertem() {
    let Some(folder) = folder() else { return };
    let expected = npz(&folder, "expected.npz");
    let data = data(&folder, "u16", PixelKind::U16);
    let disk = VirtualDetector::Disk { cy: CENTRE.0, cx: CENTRE.1, radius: 4.3 };
    let disk = [Reduction::virtual_detector("bf", disk)];
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
        ("map_raster_3x4_2passes", Scan { passes: 2, ..raster }),
        ("map_3fpp_2x2", Scan { frames_per_position: 3, ..Scan::raster(NavShape { height: 2, width: 2 }) }),
    ];
    for (name, scan) in scans {
        let width = scan.shape.width;
        let index = |frame: usize| scan.position(frame as u64).map_or(-1.0, |p| f64::from(p.y * width + p.x));
        let map: Vec<f64> = (0..expected[name].len()).map(index).collect();
        assert_eq!(map, expected[name], "{name}");
    }
}
