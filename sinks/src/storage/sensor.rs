//! What a detector says of its pixels, beside its frames: `detector/` of a data set.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use ronchi_pipeline::format::{FormatError, group_json};
use ronchi_pipeline::{PixelTable, Sensor, SigShape};
use serde_json::{Value, json};

use super::data_set::{ResultArray, write_result};
use super::error::{Context as _, StorageError};
use super::file_system::FileSystem;
use super::files;

const DIRECTORY: &str = "detector";
const PIXEL_MASK: &str = "pixel_mask";
const FLATFIELD: &str = "flatfield";
/// Bytes of a number of either table.
const NUMBER_BYTES: u64 = 4;

/// Keeps the tables that there are.
pub(super) fn write(system: &dyn FileSystem, root: &Path, sensor: &Sensor) -> Result<(), StorageError> {
    let mask = sensor.pixel_mask.as_ref().map(|mask| array(PIXEL_MASK, "uint32", mask, |bits| bits.to_le_bytes()));
    let flatfield = sensor.flatfield.as_ref();
    let flatfield = flatfield.map(|table| array(FLATFIELD, "float32", table, |factor| factor.to_le_bytes()));
    if mask.is_none() && flatfield.is_none() {
        return Ok(());
    }
    let root = root.join(DIRECTORY);
    files::create_dirs(system, &root)?;
    files::replace_json(system, &root.join("zarr.json"), &group_json(json!({})))?;
    mask.into_iter().chain(flatfield).try_for_each(|array| write_result(system, &root, array))
}

fn array<T: Copy>(name: &str, data_type: &str, table: &PixelTable<T>, bytes: fn(T) -> [u8; 4]) -> ResultArray {
    ResultArray {
        name: name.to_owned(),
        shape: extents(table.shape()).to_vec(),
        data_type: data_type.to_owned(),
        fill_value: json!(0),
        dimension_names: vec!["y".to_owned(), "x".to_owned()],
        attributes: json!({ "applied": table.is_applied }),
        bytes: table.values().iter().flat_map(|&value| bytes(value)).collect(),
    }
}

fn extents(shape: SigShape) -> [u64; 2] {
    [shape.height.into(), shape.width.into()]
}

/// The pixel mask and the flat field of a detector of this shape, as far as they were kept. Errors: one of another shape, or one
/// that cannot be read.
pub(super) fn read(root: &Path, shape: SigShape) -> Result<Sensor, StorageError> {
    let root = root.join(DIRECTORY);
    Ok(Sensor {
        nodata: None,
        pixel_mask: table(&root.join(PIXEL_MASK), ("uint32", shape), u32::from_le_bytes)?,
        flatfield: table(&root.join(FLATFIELD), ("float32", shape), f32::from_le_bytes)?,
    })
}

fn table<T>(
    directory: &Path,
    (data_type, shape): (&str, SigShape),
    number: fn([u8; 4]) -> T,
) -> Result<Option<PixelTable<T>>, StorageError> {
    let path = directory.join("zarr.json");
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |got: String| {
        let source = FormatError::Field { field: "table of pixels", got, allowed: "one number per pixel" };
        StorageError::Format { path: path.clone(), source }
    };
    let told: Value = serde_json::from_str(&files::read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
    if (&told["shape"], &told["data_type"]) != (&json!(extents(shape)), &json!(data_type)) {
        return Err(wrong(format!("{} of shape {}", told["data_type"], told["shape"])));
    }
    let want_bytes = shape.pixel_count() * NUMBER_BYTES;
    let chunk = directory.join("c/0/0");
    let file = File::open(&chunk).context("open", &chunk)?;
    let got_bytes = file.metadata().context("read", &chunk)?.len();
    if got_bytes != want_bytes {
        return Err(wrong(format!("{got_bytes} bytes, expected {want_bytes}")));
    }
    let mut bytes = Vec::new();
    file.take(want_bytes).read_to_end(&mut bytes).context("read", &chunk)?;
    let values = bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect();
    Ok(PixelTable::new(shape, values, told["attributes"]["applied"].as_bool()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealFiles;

    /// Tables come back as they were; those of another detector, cut ones and garbage are refused, none are nothing.
    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().expect("folder");
        let shape = SigShape { height: 2, width: 3 };
        assert_eq!(read(folder.path(), shape).expect("nothing"), Sensor::default());
        let pixel_mask = PixelTable::new(shape, vec![0, 1, 2, 1 << 31, 4, 5], Some(true));
        let flatfield = PixelTable::new(shape, vec![1.0, 0.5, 2.0, 1.5, 0.0, 1.25], None);
        let sensor = Sensor { nodata: None, pixel_mask, flatfield };
        write(&RealFiles, folder.path(), &sensor).expect("kept");
        assert_eq!(read(folder.path(), shape).expect("there"), sensor);
        assert!(read(folder.path(), SigShape { height: 3, width: 2 }).is_err());
        let chunk = folder.path().join("detector/pixel_mask/c/0/0");
        let bytes = std::fs::read(&chunk).expect("bytes");
        std::fs::write(&chunk, &bytes[..23]).expect("cut");
        assert!(read(folder.path(), shape).is_err());
        std::fs::write(folder.path().join("detector/pixel_mask/zarr.json"), "[]").expect("garbage");
        assert!(read(folder.path(), shape).is_err());
    }
}
