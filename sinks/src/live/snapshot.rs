//! Headers of messages, and the newest whole image for readers that come once.

use std::ops::Range;

use super::board::Acquisition;
use super::message::{Header, ImageHeader, ImageRegion, Kind, Message, VERSION};
use super::picture::{Picture, picture_named, row_length};

/// The header of a message about these frames of an acquisition; `seq` and `time_ns` are 0.
pub(crate) fn header(kind: Kind, acquisition: &Acquisition, frames: Range<u64>) -> Header {
    Header {
        v: VERSION,
        kind,
        acq: acquisition.id_text(),
        result: None,
        seq: 0,
        time_ns: 0,
        frame_from: frames.start,
        frame_to: frames.end,
        visible: acquisition.visible(),
        durable: acquisition.durable(),
        state: None,
        status: None,
        seqs: None,
        image: None,
    }
}

/// What describes a blob of these rows.
pub(super) fn image_header(picture: &dyn Picture, acquisition: &Acquisition, rows: &[Range<usize>]) -> ImageHeader {
    let full_shape = picture.shape();
    let part_shape = |row_count: usize| {
        let mut shape = full_shape.clone();
        shape[0] = row_count;
        shape
    };
    let origin = |first: usize| {
        let mut origin = vec![0; full_shape.len()];
        origin[0] = first;
        origin
    };
    let region = match rows {
        [rows] => Some(ImageRegion { origin: origin(rows.start), shape: part_shape(rows.len()) }),
        _ => None,
    };
    ImageHeader {
        dtype: picture.precision(),
        shape: part_shape(rows.iter().map(ExactSizeIterator::len).sum()),
        blob: 0,
        rows: rows.iter().map(|rows| [rows.start, rows.end]).collect(),
        region,
        axes: picture.axes(),
        fill: "nan".to_owned(),
        cfg: picture.config(),
        quality: acquisition.quality,
        params: picture.params(),
        full_shape,
    }
}

/// The newest whole image as a message, for readers that come once: what the HTTP API answers.
///
/// `seq` is 0, and `time_ns` is left to the caller. `None` when there is no such result, or it has no axes.
pub fn snapshot(acquisition: &Acquisition, name: &str) -> Option<Message> {
    let picture = picture_named(acquisition.pictures.as_ref(), name)?;
    let row_count = *picture.shape().first()?;
    let rows = std::iter::once(0..row_count).collect::<Vec<_>>();
    let mut header = header(Kind::Array, acquisition, picture.frames());
    header.result = Some(name.to_owned());
    header.state = Some(acquisition.state);
    header.image = Some(image_header(&*picture, acquisition, &rows));
    let topic = format!("v1/{}/{name}", acquisition.id_text());
    Some(Message { topic, header, values: Some(picture.row_values(0..row_count)) })
}

/// Bytes that a snapshot of this result will take; `None` when there is no such result.
pub fn snapshot_bytes(acquisition: &Acquisition, name: &str) -> Option<usize> {
    let shape = picture_named(acquisition.pictures.as_ref(), name)?.shape();
    Some(shape.first()?.saturating_mul(row_length(&shape)).saturating_mul(size_of::<f64>()))
}
