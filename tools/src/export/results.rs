//! Results as files: `.npy`, TIFF for ImageJ, PNG for eyes; stored ones, and those that `reprocess` has just made.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use ronchi_pipeline::format::npy;
use ronchi_sinks::storage::ResultArray;
use serde_json::Value;
use tiff::encoder::{TiffEncoder, colortype};
use tiff::tags::Tag;

use super::part::PartFile;

/// Largest result that is read, in bytes.
const BYTES_MAX: u64 = 4 << 30;
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// Format of a file that holds one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormat {
    /// NumPy array, any shape.
    Npy,
    /// TIFF of 32 or 64 bit, one page per component, for ImageJ.
    #[value(alias = "tiff")]
    Tif,
    /// Grey from minimum to maximum.
    Png,
}

impl ResultFormat {
    /// What names of such files end in.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Tif => "tif",
            Self::Png => "png",
        }
    }
}

/// A result as stored: little-endian, C order.
pub(crate) struct Stored {
    name: String,
    shape: Vec<usize>,
    data_type: String,
    unit: String,
    bytes: Vec<u8>,
}

/// Exports one result of a data set.
pub(super) fn export(dataset: &Path, name: &str, to: &Path, format: ResultFormat) -> Result<()> {
    Stored::read(dataset, name)?.write(to, format)
}

impl From<ResultArray> for Stored {
    fn from(array: ResultArray) -> Self {
        Self {
            name: array.name,
            shape: array.shape.iter().map(|&extent| extent as usize).collect(),
            data_type: array.data_type,
            unit: array.attributes["unit"].as_str().unwrap_or_default().to_owned(),
            bytes: array.bytes,
        }
    }
}

impl Stored {
    /// Writes it as a new file. Errors: it is there already, the format cannot hold it, the disk refuses.
    pub(crate) fn write(&self, to: &Path, format: ResultFormat) -> Result<()> {
        let bytes = match format {
            ResultFormat::Npy => npy::write(self.numpy()?, &self.shape, &self.bytes),
            ResultFormat::Tif => self.tiff()?,
            ResultFormat::Png => self.png()?,
        };
        let file = PartFile::create(to, 0)?;
        file.write(0, &bytes)?;
        file.finish()
    }

    /// Whether files of this format can hold it.
    pub(crate) fn fits(&self, format: ResultFormat) -> bool {
        match format {
            ResultFormat::Npy => true,
            ResultFormat::Tif => self.planes().is_ok(),
            ResultFormat::Png => self.planes().is_ok_and(|(.., components)| components == 1),
        }
    }

    fn read(dataset: &Path, name: &str) -> Result<Self> {
        let names = names(dataset);
        if !names.iter().any(|known| known == name) {
            bail!("{}: no result {name:?}; there are: {}", dataset.display(), names.join(", "));
        }
        let directory = dataset.join("results").join(name);
        let path = directory.join("zarr.json");
        let what = || format!("cannot read {}", path.display());
        ensure!(fs::metadata(&path).with_context(what)?.len() <= METADATA_BYTES_MAX, "{} is too large", path.display());
        let json: Value = serde_json::from_str(&fs::read_to_string(&path).with_context(what)?).with_context(what)?;
        let axes = json["shape"].as_array().with_context(|| format!("{} has no shape", path.display()))?;
        let shape: Option<Vec<usize>> = axes.iter().map(|extent| usize::try_from(extent.as_u64()?).ok()).collect();
        let shape = shape.with_context(what)?;
        let path = directory.join((0..shape.len()).fold("c".to_owned(), |chunk, _| chunk + "/0"));
        let data_type = json["data_type"].as_str().unwrap_or_default().to_owned();
        let unit = json["attributes"]["unit"].as_str().unwrap_or_default().to_owned();
        let mut stored = Self { name: name.to_owned(), shape, data_type, unit, bytes: Vec::new() };
        let element = stored.numpy()?[2..].parse::<usize>().unwrap_or(0);
        let want = stored.shape.iter().try_fold(element, |bytes, &extent| bytes.checked_mul(extent));
        let found = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let is_right = want.is_some_and(|want| want as u64 == found) && found <= BYTES_MAX;
        ensure!(is_right, "{}: {found} bytes do not fit its shape", path.display());
        stored.bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(stored)
    }

    fn numpy(&self) -> Result<&'static str> {
        Ok(match self.data_type.as_str() {
            "uint8" => "|u1",
            "uint16" => "<u2",
            "uint32" => "<u4",
            "uint64" => "<u8",
            "int32" => "<i4",
            "int64" => "<i8",
            "float32" => "<f4",
            "float64" => "<f8",
            other => bail!("result {}: numbers of type {other:?} cannot be exported", self.name),
        })
    }

    /// All numbers, as floating point.
    fn values(&self) -> Result<Vec<f64>> {
        let bytes = &self.bytes;
        Ok(match self.data_type.as_str() {
            "uint8" => bytes.iter().map(|&byte| f64::from(byte)).collect(),
            "uint16" => bytes.as_chunks().0.iter().map(|&b| f64::from(u16::from_le_bytes(b))).collect(),
            "uint32" => bytes.as_chunks().0.iter().map(|&b| f64::from(u32::from_le_bytes(b))).collect(),
            "uint64" => bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b) as f64).collect(),
            "int32" => bytes.as_chunks().0.iter().map(|&b| f64::from(i32::from_le_bytes(b))).collect(),
            "int64" => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
            "float32" => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
            "float64" => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            other => bail!("numbers of type {other:?} cannot be exported"),
        })
    }

    /// Height, width, and components of every pixel (the two of a vector, or one).
    fn planes(&self) -> Result<(u32, u32, usize)> {
        let axis = |extent: usize| u32::try_from(extent).context("too many pixels along an axis");
        match *self.shape.as_slice() {
            [height, width] => Ok((axis(height)?, axis(width)?, 1)),
            [height, width, components] if components > 0 => Ok((axis(height)?, axis(width)?, components)),
            _ => bail!("result {} of shape {:?} is no picture: export it as npy", self.name, self.shape),
        }
    }

    /// One page per component; 32 bit where that is exact, else 64 bit.
    fn tiff(&self) -> Result<Vec<u8>> {
        let (height, width, components) = self.planes()?;
        let values = self.values()?;
        let is_single = values.iter().all(|&value| value.is_nan() || f64::from(value as f32) == value);
        let mut file = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file)?;
        let (unit, name) = (&self.unit, &self.name);
        // Of several pages in a file of its own, ImageJ reads the first and takes what follows its pixels for the others;
        // as those of any TIFF it reads them all.
        let about = match components {
            1 => format!("ImageJ=1.53t\nimages=1\nslices=1\nunit=pixel\nvalue unit={unit}\ntitle={name}\n"),
            _ => format!("value unit={unit}\ntitle={name}\n"),
        };
        for component in 0..components {
            let plane = values.iter().skip(component).step_by(components);
            if is_single {
                let plane: Vec<f32> = plane.map(|&value| value as f32).collect();
                let mut image = encoder.new_image::<colortype::Gray32Float>(width, height)?;
                image.encoder().write_tag(Tag::ImageDescription, about.as_str())?;
                image.write_data(&plane)?;
            } else {
                let plane: Vec<f64> = plane.copied().collect();
                let mut image = encoder.new_image::<colortype::Gray64Float>(width, height)?;
                image.encoder().write_tag(Tag::ImageDescription, about.as_str())?;
                image.write_data(&plane)?;
            }
        }
        Ok(file.into_inner())
    }

    /// 16 bit grey from the smallest to the largest number, which the text chunks name; what is no number is black.
    fn png(&self) -> Result<Vec<u8>> {
        let (height, width, components) = self.planes()?;
        ensure!(components == 1, "result {} has {components} numbers per pixel: export it as tiff or npy", self.name);
        let values = self.values()?;
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let span = if high > low { high - low } else { 1.0 };
        let grey = |&value: &f64| if value.is_finite() { ((value - low) / span * 65_535.0).round() as u16 } else { 0 };
        let pixels: Vec<u8> = values.iter().map(grey).flat_map(u16::to_be_bytes).collect();
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
        for (key, value) in [("black", low), ("white", high)] {
            encoder.add_text_chunk(key.to_owned(), format!("{value} {}", self.unit))?;
        }
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(file)
    }
}

/// Names of the results that are there.
fn names(dataset: &Path) -> Vec<String> {
    let entries = fs::read_dir(dataset.join("results")).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().join("zarr.json").is_file());
    let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
