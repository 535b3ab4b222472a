//! Messages of the live stream: headers, blobs, and how they are framed in one piece; the format is `docs/live-stream.md`.
//!
//! # Invariants
//! - I1: blobs are little-endian and C order; their length is the product of `shape` times the size of `dtype`.
//! - I2: unknown header fields are ignored by readers, so fields may be added without a new version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::board::State;
use super::picture::{Axis, Precision, Quality};
use super::status::AcquisitionStatus;

/// Version of the header; grows only when a reader of the old one would be misled.
pub const VERSION: u32 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole image: replaces everything known of it.
    Array,
    /// Some rows of an image: replaces these rows.
    Rows,
    /// The state of an acquisition.
    State,
    /// A sign of life, once per second.
    Heartbeat,
    /// No more frames will come.
    End,
}

/// A rectangle of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRegion {
    /// First index along every axis.
    pub origin: Vec<usize>,
    /// Extent along every axis.
    pub shape: Vec<usize>,
}

/// The part of a header that describes a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageHeader {
    /// NumPy type of the blob.
    pub dtype: Precision,
    /// Shape of the blob.
    pub shape: Vec<usize>,
    /// Number of the blob among the parts after the header, from 0.
    pub blob: usize,
    /// Rows of the image the blob holds, one below the other: half-open ranges, ascending.
    pub rows: Vec<[usize; 2]>,
    /// The same as a rectangle, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<ImageRegion>,
    /// Shape of the whole image.
    pub full_shape: Vec<usize>,
    /// One entry per axis of `full_shape`.
    pub axes: Vec<Axis>,
    /// What a value that was not measured looks like: always `nan`.
    pub fill: String,
    /// Generation of the detector geometry.
    pub cfg: u32,
    /// What the image lacks.
    pub quality: Quality,
    /// What made the image.
    #[serde(default)]
    pub params: serde_json::Value,
}

/// The JSON part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the header.
    pub v: u32,
    /// What follows.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// UUID of the acquisition, or `none`.
    pub acq: String,
    /// Name of the result, for messages about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Counts the messages of this topic from 0, without holes.
    pub seq: u64,
    /// Wall clock when the message was made, ns since the Unix epoch, UTC.
    pub time_ns: u64,
    /// First frame covered.
    pub frame_from: u64,
    /// Frame after the last covered.
    pub frame_to: u64,
    /// Frames below this one are in the images or known to be missing.
    pub visible: u64,
    /// Frames below this one are durable on disk or known to be missing.
    pub durable: u64,
    /// State of the acquisition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Everything known of the acquisition (`state` messages).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<AcquisitionStatus>>,
    /// Newest `seq` of every result (`heartbeat` messages): tells a subscriber that it lost the last message of a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seqs: Option<BTreeMap<String, u64>>,
    /// Describes the blob.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageHeader>,
}

impl Header {
    /// The header as JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a header has only string keys and finite or null numbers, so it serialises")
    }
}

/// A message ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `v1/<acq>/<result>`, `v1/<acq>/state` or `v1/<acq>/heartbeat`.
    pub topic: String,
    /// Its header.
    pub header: Header,
    /// Values of its blob, C order; `None` when it has none.
    pub values: Option<Vec<f64>>,
}

impl Message {
    /// The blob as it travels.
    pub fn blob(&self) -> Option<Vec<u8>> {
        let precision = self.header.image.as_ref()?.dtype;
        self.values.as_ref().map(|values| precision.encode(values))
    }

    /// Header and blob in one piece: `u32` little-endian header length, header, zeros up to a multiple of 8, blob.
    pub fn framed(&self) -> Vec<u8> {
        frame(&self.header.to_json(), &self.blob().unwrap_or_default())
    }
}

/// `u32` little-endian header length, header, zeros up to a multiple of 8 bytes, blob.
pub fn frame(header: &[u8], blob: &[u8]) -> Vec<u8> {
    let header_bytes = u32::try_from(header.len()).expect("headers are a few kB");
    let start = (4 + header.len()).next_multiple_of(8);
    let mut framed = Vec::with_capacity(start + blob.len());
    framed.extend_from_slice(&header_bytes.to_le_bytes());
    framed.extend_from_slice(header);
    framed.resize(start, 0);
    framed.extend_from_slice(blob);
    framed
}

/// Takes apart what [`frame`] made: header and blob; `None` when it is cut short or the header is not one.
pub fn unframe(framed: &[u8]) -> Option<(Header, &[u8])> {
    let (length, rest) = framed.split_first_chunk::<4>()?;
    let header_bytes = u32::from_le_bytes(*length) as usize;
    let header = serde_json::from_slice(rest.get(..header_bytes)?).ok()?;
    Some((header, framed.get((4 + header_bytes).next_multiple_of(8)..)?))
}

/// An image as a NumPy `.npy` file, version 1.0.
pub fn npy(shape: &[usize], precision: Precision, values: &[f64]) -> Vec<u8> {
    ronchi_pipeline::format::npy::write(precision.numpy_name(), shape, &precision.encode(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of every optional part survives JSON and framing, and the blob starts at a multiple of 8.
    #[test]
    fn framing_round_trips() {
        let image = ImageHeader {
            dtype: Precision::Double,
            shape: vec![1, 3],
            blob: 0,
            rows: vec![[4, 5]],
            region: Some(ImageRegion { origin: vec![4, 0], shape: vec![1, 3] }),
            full_shape: vec![8, 3],
            axes: vec![Axis::pixels("scan_y"), Axis::pixels("scan_x")],
            fill: "nan".to_owned(),
            cfg: 3,
            quality: Quality { missing: 1, dropped: 2 },
            params: serde_json::json!({"kind": "ring"}),
        };
        for name_length in 0..9 {
            let header = Header {
                v: VERSION,
                kind: Kind::Rows,
                acq: "x".repeat(name_length),
                result: Some("ring".to_owned()),
                seq: 7,
                time_ns: u64::MAX,
                frame_from: 0,
                frame_to: 99,
                visible: 98,
                durable: 97,
                state: None,
                status: None,
                seqs: None,
                image: Some(image.clone()),
            };
            let message =
                Message { topic: String::new(), header: header.clone(), values: Some(vec![1.5, f64::NAN, -2.0]) };
            let framed = message.framed();
            let (read, blob) = unframe(&framed).expect("whole");
            assert_eq!(read, header);
            assert_eq!((framed.len() - blob.len()) % 8, 0);
            let values = Precision::Double.decode(blob);
            assert!(values[0] == 1.5 && values[1].is_nan() && values[2] == -2.0);
            assert!(unframe(&framed[..20]).is_none());
        }
    }

    /// The messages that the page's tests read are those that are made here, byte for byte.
    #[test]
    fn golden_messages() {
        let header = |kind, seq, image| Header {
            v: VERSION,
            kind,
            acq: "01010101-0101-0101-0101-010101010101".to_owned(),
            result: Some("ring".to_owned()),
            seq,
            time_ns: 1_700_000_000_000_000_000,
            frame_from: 0,
            frame_to: 6,
            visible: 6,
            durable: 4,
            state: (kind == Kind::End).then_some(State::Complete),
            status: None,
            seqs: None,
            image,
        };
        let image = |dtype, rows: &[[usize; 2]], region| {
            Some(ImageHeader {
                dtype,
                shape: vec![rows.iter().map(|[first, end]| end - first).sum(), 3],
                blob: 0,
                rows: rows.to_vec(),
                region,
                full_shape: vec![4, 3],
                axes: vec![Axis::pixels("scan_y"), Axis::pixels("scan_x")],
                fill: "nan".to_owned(),
                cfg: 2,
                quality: Quality { missing: 1, dropped: 2 },
                params: serde_json::Value::Null,
            })
        };
        let whole = Some(ImageRegion { origin: vec![0, 0], shape: vec![4, 3] });
        let mut values = vec![f64::NAN; 12];
        values[..6].copy_from_slice(&[0.0, 1.5, -2.0, 3.25, f64::NAN, 5.0]);
        let message = |header, values| Message { topic: String::new(), header, values };
        let array = message(header(Kind::Array, 4, image(Precision::Single, &[[0, 4]], whole)), Some(values));
        let rows = image(Precision::Double, &[[1, 2], [3, 4]], None);
        let rows = message(header(Kind::Rows, 5, rows), Some([[4.5; 3], [7.5; 3]].concat()));
        let end = message(header(Kind::End, 6, None), None);
        assert_eq!(array.framed(), include_bytes!("../../../web/tests/golden/array.bin"));
        assert_eq!(rows.framed(), include_bytes!("../../../web/tests/golden/rows.bin"));
        assert_eq!(end.framed(), include_bytes!("../../../web/tests/golden/end.bin"));
    }

    /// Headers without an image do not get one by reading them back.
    #[test]
    fn a_heartbeat_has_no_image() {
        let text = r#"{"v":1,"type":"heartbeat","acq":"none","seq":0,"time_ns":1,"frame_from":0,"frame_to":0,
            "visible":0,"durable":0,"later":"ignored"}"#;
        let header: Header = serde_json::from_str(text).expect("header");
        assert_eq!((header.kind, &header.image), (Kind::Heartbeat, &None));
    }
}
