//! Zarr v3 metadata of groups, of the frames (sharded) and of small arrays (one chunk file each).
//!
//! # Units
//! Shapes are slow axis first; frames have the axes `(frame, y, x)`.

use serde_json::{Value, json};

use super::{FormatError, field};
use crate::layout::CHUNKS_MAX;
use crate::{AXIS_MAX, ByteOrder, Layout, PixelKind, PixelType, SigShape};

/// Largest segment whose metadata is believed, in bytes.
const SEGMENT_BYTES_MAX: u64 = 1 << 50;
/// Largest chunk that is decompressed, in bytes: the largest block a receiver can be configured for.
const PACKED_CHUNK_BYTES_MAX: u64 = 256 << 20;

/// Metadata of a group.
pub fn group_json(attributes: Value) -> Value {
    json!({ "zarr_format": 3, "node_type": "group", "attributes": attributes })
}

/// Metadata of an array of frames: every segment file is one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramesArray {
    /// NF: frames of the array.
    pub frame_count: u64,
    /// Pixels of a whole frame of the array.
    pub shape: SigShape,
    /// Pixels of the part that one segment file holds; equal to `shape` unless the array joins tiles.
    pub tile: SigShape,
    /// Pixel type as stored.
    pub pixel: PixelType,
    /// Sizes of frames (of one tile), chunks and segments.
    pub layout: Layout,
    /// Segments are packed: every chunk is a Blosc frame of bit-transposed LZ4 blocks.
    pub is_packed: bool,
}

impl FramesArray {
    /// The text of `zarr.json`.
    pub fn to_json(&self) -> Value {
        let (tile_y, tile_x) = (self.tile.height, self.tile.width);
        let pixels = match self.pixel.zarr_endian() {
            Some(endian) => json!({ "name": "bytes", "configuration": { "endian": endian } }),
            None => json!({ "name": "bytes" }),
        };
        let mut codecs = vec![pixels];
        codecs.extend(self.is_packed.then(|| blosc_codec(self.pixel)));
        let shard = json!({
            "chunk_shape": [self.layout.frames_per_chunk, tile_y, tile_x],
            "codecs": codecs,
            "index_codecs": [{ "name": "bytes", "configuration": { "endian": "little" } }, { "name": "crc32c" }],
            "index_location": "start",
        });
        json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.frame_count, self.shape.height, self.shape.width],
            "data_type": self.pixel.zarr_name(),
            "chunk_grid": {
                "name": "regular",
                "configuration": { "chunk_shape": [self.layout.frames_per_segment(), tile_y, tile_x] },
            },
            "chunk_key_encoding": { "name": "default", "configuration": { "separator": "/" } },
            "fill_value": 0,
            "codecs": [{ "name": "sharding_indexed", "configuration": shard }],
            "dimension_names": ["frame", "y", "x"],
            "attributes": {},
        })
    }

    /// Reads the `zarr.json` of an array of frames that follows `docs/format.md`; refuses any other array.
    pub fn from_json(text: &str) -> Result<Self, FormatError> {
        let json: Value = serde_json::from_str(text)
            .map_err(|error| FormatError::Json { what: "zarr.json of frames", message: error.to_string() })?;
        require(&json, "/node_type", "array")?;
        require(&json, "/codecs/0/name", "sharding_indexed")?;
        require(&json, "/codecs/0/configuration/index_location", "start")?;
        require(&json, "/codecs/0/configuration/codecs/0/name", "bytes")?;
        let is_packed = json.pointer("/codecs/0/configuration/codecs/1").is_some();
        let [frame_count, height, width] = triple(&json, "/shape")?;
        let [frames_per_segment, tile_y, tile_x] = triple(&json, "/chunk_grid/configuration/chunk_shape")?;
        let inner = triple(&json, "/codecs/0/configuration/chunk_shape")?;
        if inner[1..] != [tile_y, tile_x] {
            return Err(field("chunk_shape", format!("{inner:?}"), "the signal shape of its shard"));
        }
        let pixel = pixel_type(&json)?;
        let codecs = json.pointer("/codecs/0/configuration/codecs").and_then(Value::as_array);
        if is_packed && codecs.is_none_or(|codecs| codecs[1..] != [blosc_codec(pixel)]) {
            return Err(field("codecs", "others", "bytes, or bytes and blosc (lz4, bitshuffle)"));
        }
        let tile = sig_shape(tile_y, tile_x)?;
        let layout = layout(inner[0], frames_per_segment, tile.pixel_count() * pixel.bytes() as u64)?;
        if is_packed && layout.chunk_bytes() > PACKED_CHUNK_BYTES_MAX {
            return Err(field("chunk_shape", format!("{} bytes", layout.chunk_bytes()), "256 MiB where compressed"));
        }
        Ok(Self { frame_count, shape: sig_shape(height, width)?, tile, pixel, layout, is_packed })
    }
}

/// The codec that reads packed chunks. What it says of block size and level matters to who would write with it.
fn blosc_codec(pixel: PixelType) -> Value {
    json!({
        "name": "blosc",
        "configuration": {
            "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": pixel.bytes(), "blocksize": 0,
        },
    })
}

fn require(json: &Value, pointer: &'static str, want: &'static str) -> Result<(), FormatError> {
    match json.pointer(pointer).and_then(Value::as_str) {
        Some(got) if got == want => Ok(()),
        other => Err(field(pointer, format!("{other:?}"), want)),
    }
}

fn triple(json: &Value, pointer: &'static str) -> Result<[u64; 3], FormatError> {
    let numbers = json.pointer(pointer).and_then(Value::as_array).filter(|numbers| numbers.len() == 3);
    let numbers: Option<Vec<u64>> = numbers.and_then(|numbers| numbers.iter().map(Value::as_u64).collect());
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| field(pointer, "something else", "three whole numbers"))
}

fn sig_shape(height: u64, width: u64) -> Result<SigShape, FormatError> {
    let axis = |pixels: u64| u32::try_from(pixels).ok().filter(|pixels| (1..=AXIS_MAX).contains(pixels));
    match (axis(height), axis(width)) {
        (Some(height), Some(width)) => Ok(SigShape { height, width }),
        _ => Err(field("signal shape", format!("({height}, {width})"), "1 to 65536 pixels per axis")),
    }
}

fn pixel_type(json: &Value) -> Result<PixelType, FormatError> {
    let kind = match json.pointer("/data_type").and_then(Value::as_str) {
        Some("uint8") => PixelKind::U8,
        Some("uint16") => PixelKind::U16,
        Some("uint32") => PixelKind::U32,
        Some("float32") => PixelKind::F32,
        other => return Err(field("data_type", format!("{other:?}"), "uint8, uint16, uint32, float32")),
    };
    let endian = json.pointer("/codecs/0/configuration/codecs/0/configuration/endian").and_then(Value::as_str);
    let order = match endian {
        Some("little") => ByteOrder::Little,
        Some("big") => ByteOrder::Big,
        None if kind == PixelKind::U8 => ByteOrder::Little,
        other => return Err(field("endian", format!("{other:?}"), "little, big")),
    };
    Ok(PixelType::new(kind, order))
}

fn layout(k: u64, frames_per_segment: u64, frame_bytes: u64) -> Result<Layout, FormatError> {
    let bad = || field("chunk_shape", format!("{k} of {frames_per_segment}"), "1 to 200 whole chunks per segment");
    if k == 0 || frames_per_segment == 0 || !frames_per_segment.is_multiple_of(k) {
        return Err(bad());
    }
    let n = frames_per_segment / k;
    let is_small = frames_per_segment.checked_mul(frame_bytes).is_some_and(|bytes| bytes <= SEGMENT_BYTES_MAX);
    let frames_per_chunk = u32::try_from(k).ok().filter(|_| is_small && n <= u64::from(CHUNKS_MAX)).ok_or_else(bad)?;
    Ok(Layout { frame_bytes, frames_per_chunk, chunks_per_segment: n as u32 })
}

/// Metadata of a small array, uncompressed and little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainArray {
    /// Extent of every axis, slow first.
    pub shape: Vec<u64>,
    /// Extent of a chunk along every axis; one chunk is one file.
    pub chunk_shape: Vec<u64>,
    /// Zarr name of the data type, e.g. `float64`.
    pub data_type: String,
    /// Value of elements that are in no chunk file.
    pub fill_value: Value,
    /// Name of every axis.
    pub dimension_names: Vec<String>,
    /// Attributes, e.g. units.
    pub attributes: Value,
}

impl PlainArray {
    /// The text of `zarr.json`.
    pub fn to_json(&self) -> Value {
        let has_order = !matches!(self.data_type.as_str(), "uint8" | "int8" | "bool");
        let codec = match has_order {
            true => json!({ "name": "bytes", "configuration": { "endian": "little" } }),
            false => json!({ "name": "bytes" }),
        };
        json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": self.data_type,
            "chunk_grid": { "name": "regular", "configuration": { "chunk_shape": self.chunk_shape } },
            "chunk_key_encoding": { "name": "default", "configuration": { "separator": "/" } },
            "fill_value": self.fill_value,
            "codecs": [codec],
            "dimension_names": self.dimension_names,
            "attributes": self.attributes,
        })
    }

    /// Path of a chunk file below the array's directory, e.g. `c/0/3`; `c` for an array without axes.
    pub fn chunk_path(indices: &[u64]) -> String {
        indices.iter().fold("c".to_owned(), |path, index| format!("{path}/{index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn array(k: u32, n: u32, kind: PixelKind, order: ByteOrder) -> FramesArray {
        let tile = SigShape { height: 65, width: 67 };
        let pixel = PixelType::new(kind, order);
        let layout = Layout {
            frame_bytes: tile.pixel_count() * pixel.bytes() as u64,
            frames_per_chunk: k,
            chunks_per_segment: n,
        };
        FramesArray {
            frame_count: 1000,
            shape: SigShape { height: 130, width: 67 },
            tile,
            pixel,
            layout,
            is_packed: false,
        }
    }

    proptest! {
        /// Metadata survives the way through text.
        #[test]
        fn frames_round_trip(k in 1_u32..5000, n in 1_u32..=200, kind in 0_usize..4, big in any::<bool>(), is_packed in any::<bool>()) {
            let kind = [PixelKind::U8, PixelKind::U16, PixelKind::U32, PixelKind::F32][kind];
            let array = FramesArray { is_packed, ..array(k, n, kind, if big { ByteOrder::Big } else { ByteOrder::Little }) };
            prop_assert_eq!(FramesArray::from_json(&array.to_json().to_string()), Ok(array));
        }

        /// Neither text nor numbers of any size panic.
        #[test]
        fn arbitrary_metadata(text in ".{0,200}", numbers in proptest::collection::vec(any::<u64>(), 9)) {
            let _ = FramesArray::from_json(&text);
            let mut json = array(2, 3, PixelKind::U16, ByteOrder::Big).to_json();
            json["shape"] = json!(numbers[..3]);
            json["chunk_grid"]["configuration"]["chunk_shape"] = json!(numbers[3..6]);
            json["codecs"][0]["configuration"]["chunk_shape"] = json!(numbers[6..]);
            let _ = FramesArray::from_json(&json.to_string());
        }
    }

    /// What a reader of another layout needs to know is refused by name, not misread.
    #[test]
    fn other_arrays_are_refused() {
        let good = array(2, 3, PixelKind::U16, ByteOrder::Big).to_json();
        for (pointer, value) in [
            ("/codecs/0/configuration/index_location", json!("end")),
            ("/data_type", json!("complex64")),
            ("/codecs/0/configuration/chunk_shape", json!([4, 65, 67])),
            ("/chunk_grid/configuration/chunk_shape", json!([402, 65, 67])),
            (
                "/codecs/0/configuration/codecs",
                json!([good.pointer("/codecs/0/configuration/codecs/0"), { "name": "gzip" }]),
            ),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).expect("present") = value;
            assert!(FramesArray::from_json(&bad.to_string()).is_err(), "{pointer}");
        }
    }

    /// Chunk files of arrays of any rank.
    #[test]
    fn chunk_paths() {
        assert_eq!(PlainArray::chunk_path(&[]), "c");
        assert_eq!(PlainArray::chunk_path(&[0, 3]), "c/0/3");
    }
}
