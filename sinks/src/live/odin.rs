//! The live view of odin-data: every changed image as a JSON header and its pixels, for viewers made for that stream.
//!
//! # Place in the path
//! A [`Feed`] of whole images, each told in other words. What a header is, the format says
//! (`LiveViewPlugin.cpp` and `live_view_adapter.py` of odin-data): `shape` is a list of decimal strings, rows first.
//!
//! # Units
//! Single precision, two axes only: a line is one row, a vector result is two images, `NAME_y` and `NAME_x`, and what has
//! more axes is not sent. The format knows no holes, and one NaN leaves its viewer without a picture: a pixel that was not
//! measured comes as the lowest one that was, `filled` counts them, and an image without any measured pixel is not sent.
//!
//! # Limits
//! An image is at most [`EXTENT_MAX_PX`] high and wide: larger ones come as means of `k x k` pixels.

use std::time::Duration;

use serde::Serialize;

use super::colour::{Component, Plane, is_vector};
use super::feed::{Feed, Pace};
use super::interest::Interest;
use super::lens::Lens;
use super::message::{Header, Message};
use super::picture::Precision;
use super::publisher::Parts;

const EXTENT_MAX_PX: usize = 512;
/// Shortest time between two images of one result: as often as an eye follows.
const UPDATE_INTERVAL: Duration = Duration::from_millis(50);
/// Messages that libzmq keeps of each result for a viewer: one image, or both of a vector.
pub(super) const MESSAGES_PER_RESULT: i32 = 2;
/// Most bytes of a message: its pixels and a header.
pub(super) const MESSAGE_BYTES_MAX: u64 = (EXTENT_MAX_PX * EXTENT_MAX_PX * 4) as u64 + 1024;

/// What goes before the pixels; the order of the fields is that of odin-data.
#[derive(Debug, Serialize)]
struct OdinHeader<'a> {
    /// Last frame in the image; the format has 32 bits for it.
    frame_num: u32,
    acquisition_id: &'a str,
    dtype: &'static str,
    dsize: usize,
    dataset: String,
    compression: &'static str,
    shape: [String; 2],
    /// Pixels that were not measured: a field of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<usize>,
}

/// The images that viewers get, as often as they get them.
pub(super) fn feed(pace: Pace) -> Feed {
    let lens = Lens { extent_max_px: Some(EXTENT_MAX_PX), precision: Some(Precision::Single) };
    let update_interval = pace.update_interval.max(UPDATE_INTERVAL);
    Feed::through(lens, Pace { update_interval, is_whole: true, ..pace }, Interest::default())
}

/// The images of a message: none where it has none, or one of more than two axes.
pub(super) fn messages(message: &Message) -> Vec<Parts> {
    let Message { header, values, .. } = message;
    let (Some(image), Some(values), Some(name)) = (&header.image, values, &header.result) else { return Vec::new() };
    let plane = |dataset, component| parts(header, dataset, Plane::of(image, values.clone(), component)?);
    let planes = match is_vector(image) {
        true => vec![plane(format!("{name}_y"), Component::Y), plane(format!("{name}_x"), Component::X)],
        false => vec![plane(name.clone(), Component::default())],
    };
    planes.into_iter().flatten().collect()
}

/// One image; `None` when nothing of it was measured.
fn parts(header: &Header, dataset: String, mut plane: Plane) -> Option<Parts> {
    let lowest = plane.values.iter().copied().filter(|value| !value.is_nan()).reduce(f64::min)?;
    let mut filled = 0;
    for hole in plane.values.iter_mut().filter(|value| value.is_nan()) {
        *hole = lowest;
        filled += 1;
    }
    let pixels = Precision::Single.encode(&plane.values);
    let told = OdinHeader {
        frame_num: header.frame_to.saturating_sub(1) as u32,
        acquisition_id: &header.acq,
        dtype: "float",
        dsize: pixels.len(),
        dataset,
        compression: "none",
        shape: [plane.height.to_string(), plane.width.to_string()],
        filled: (filled > 0).then_some(filled),
    };
    let told = serde_json::to_vec(&told).expect("a header has only strings and numbers, so it serialises");
    Some(vec![told, pixels])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::message::{ImageHeader, Kind};
    use crate::live::picture::Axis;
    use crate::live::snapshot::header;
    use crate::live::testing::acquisition;

    fn message(result: &str, axes: &[&str], shape: &[usize], values: Vec<f64>) -> Message {
        let image = ImageHeader {
            dtype: Precision::Single,
            shape: shape.to_vec(),
            blob: 0,
            rows: vec![[0, shape[0]]],
            region: None,
            full_shape: shape.to_vec(),
            axes: axes.iter().map(|name| Axis::pixels(name)).collect(),
            fill: "nan".to_owned(),
            cfg: 0,
            quality: crate::live::Quality::default(),
            params: serde_json::Value::Null,
        };
        let mut header = header(Kind::Array, &acquisition(1, Vec::new()), 0..8);
        (header.acq, header.result, header.image) = ("scan42".to_owned(), Some(result.to_owned()), Some(image));
        Message { topic: String::new(), header, values: Some(values) }
    }

    fn texts(messages: &[Parts]) -> Vec<&str> {
        messages.iter().map(|parts| std::str::from_utf8(&parts[0]).expect("UTF-8")).collect()
    }

    /// The header as odin-data writes it, byte for byte, and the pixels in rows.
    #[test]
    fn golden_message() {
        let sent = messages(&message("vbf", &["scan_y", "scan_x"], &[2, 3], (0..6).map(f64::from).collect()));
        let expected = concat!(
            r#"{"frame_num":7,"acquisition_id":"scan42","dtype":"float","dsize":24,"#,
            r#""dataset":"vbf","compression":"none","shape":["2","3"]}"#
        );
        assert_eq!(texts(&sent), [expected]);
        let pixels: Vec<u8> = (0_u8..6).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        assert_eq!(sent[0][1], pixels);
    }

    /// A vector is two images, a line one row; holes are filled and counted; what has more axes, no measured pixel or no
    /// image is not sent.
    #[test]
    fn every_image_is_flat() {
        let vector =
            message("com", &["scan_y", "scan_x", "component"], &[1, 2, 2], vec![-1.0, f64::NAN, f64::NAN, 4.0]);
        let sent = messages(&vector);
        let (y, x) = (texts(&sent)[0], texts(&sent)[1]);
        assert!(y.contains(r#""dataset":"com_y""#) && y.ends_with(r#""shape":["1","2"],"filled":1}"#), "{y}");
        assert!(x.contains(r#""dataset":"com_x""#), "{x}");
        let values = |index: usize| Precision::Single.decode(&sent[index][1]);
        assert_eq!((values(0), values(1)), (vec![-1.0, -1.0], vec![4.0, 4.0]));
        let line = messages(&message("sum", &["frame"], &[3], vec![1.0, 2.0, 3.0]));
        assert!(texts(&line)[0].ends_with(r#""shape":["1","3"]}"#));
        assert!(messages(&message("cube", &["y", "x", "bin"], &[1, 1, 3], vec![0.0; 3])).is_empty());
        assert!(messages(&message("bf", &["y", "x"], &[1, 2], vec![f64::NAN; 2])).is_empty());
        let end = Message { values: None, ..message("vbf", &["y", "x"], &[1, 1], vec![0.0]) };
        assert!(messages(&end).is_empty());
    }
}
