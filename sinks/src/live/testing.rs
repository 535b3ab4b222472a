//! A live image made by hand, and a subscriber's picture of it, for tests.

use std::ops::Range;
use std::time::SystemTime;

use super::message::{Header, Kind};
use super::picture::{Axis, Picture, Pictures};
use super::{Acquisition, State};

/// An image that remembers at which version each row changed.
#[derive(Debug, Clone)]
pub(crate) struct FakePicture {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
    row_versions: Vec<u64>,
    version: u64,
    frames: u64,
}

impl FakePicture {
    pub(crate) fn new(name: &str, shape: &[usize]) -> Self {
        let count = shape.iter().product();
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values: vec![f64::NAN; count],
            row_versions: vec![0; shape[0]],
            version: 0,
            frames: 0,
        }
    }

    /// Sets every value of a row.
    pub(crate) fn set_row(&mut self, row: usize, value: f64) {
        let length = self.values.len() / self.shape[0];
        self.values[row * length..(row + 1) * length].fill(value);
        self.version += 1;
        self.row_versions[row] = self.version;
        self.frames += length as u64;
    }
}

impl FakePicture {
    /// Says that a row changed, whatever is in it.
    pub(crate) fn touch_row(&mut self, row: usize) {
        self.version += 1;
        self.row_versions[row] = self.version;
    }
}

impl Picture for FakePicture {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn axes(&self) -> Vec<Axis> {
        ["scan_y", "scan_x", "component"].iter().take(self.shape.len()).map(|name| Axis::pixels(name)).collect()
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>> {
        let changed = self.row_versions.iter().enumerate().filter(|(_, at)| **at > version);
        changed.map(|(row, _)| row..row + 1).collect()
    }

    fn row_values(&self, rows: Range<usize>) -> Vec<f64> {
        let length = self.values.len() / self.shape[0];
        self.values[rows.start * length..rows.end * length].to_vec()
    }

    fn frames(&self) -> Range<u64> {
        0..self.frames
    }
}

/// Several images.
#[derive(Debug, Clone)]
pub(crate) struct FakePictures(pub(crate) Vec<FakePicture>);

impl Pictures for FakePictures {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn picture(&self, index: usize) -> Box<dyn Picture + '_> {
        Box::new(self.0[index].clone())
    }
}

/// A running acquisition with these images.
pub(crate) fn acquisition(id: u8, pictures: Vec<FakePicture>) -> Acquisition {
    let mut acquisition = Acquisition::new([id; 16], format!("scan_{id}"), SystemTime::UNIX_EPOCH);
    acquisition.state = State::Running;
    acquisition.pictures = Box::new(FakePictures(pictures));
    acquisition
}

/// The images of an acquisition made by [`acquisition`].
pub(crate) fn images(acquisition: &mut Acquisition) -> &mut Vec<FakePicture> {
    &mut acquisition.pictures_mut::<FakePictures>().expect("made by acquisition()").0
}

/// Same values, where NaN equals NaN.
pub(crate) fn same(left: &[f64], right: &[f64]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

/// What a subscriber of one topic makes of its messages, by the rules of `docs/live-stream.md`.
#[derive(Debug, Default)]
pub(crate) struct Canvas {
    pub(crate) values: Vec<f64>,
    pub(crate) next_seq: Option<u64>,
    pub(crate) is_ended: bool,
    pub(crate) arrays: usize,
}

impl Canvas {
    /// Takes a message in; afterwards `next_seq` is `None` while a whole image is waited for.
    pub(crate) fn take(&mut self, header: &Header, values: Option<&[f64]>) {
        let in_order = self.next_seq == Some(header.seq);
        match (header.kind, &header.image, values) {
            (Kind::Array, _, Some(values)) => {
                self.values = values.to_vec();
                self.next_seq = Some(header.seq + 1);
                self.arrays += 1;
            }
            (Kind::Rows, Some(image), Some(values)) if in_order => {
                let length: usize = image.full_shape[1..].iter().product();
                let mut rest = values;
                for &[first, end] in &image.rows {
                    let (now, later) = rest.split_at((end - first) * length);
                    self.values[first * length..end * length].copy_from_slice(now);
                    rest = later;
                }
                assert!(rest.is_empty());
                self.next_seq = Some(header.seq + 1);
            }
            (Kind::End, ..) => {
                self.is_ended = true;
                self.next_seq = in_order.then_some(header.seq + 1);
            }
            _ => self.next_seq = None,
        }
    }
}
