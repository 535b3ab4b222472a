//! NumPy `.npy` files: any array out, mask images in. Pure byte functions.
//!
//! # Byte layout (version 1.0; 2.0 and 3.0 have a four-byte length)
//! ```text
//! 0        6       8         10
//! \x93NUMPY 01 00   length u16  {'descr': '<f8', 'fortran_order': False, 'shape': (16, 18), }  spaces \n | data
//! ```
//! The data begin at a multiple of 64 bytes; the header is a Python dictionary of exactly these three keys.
//!
//! # Limits
//! Headers up to [`HEADER_BYTES_MAX`]; images up to [`DETECTOR_PIXELS_MAX`] pixels, [`AXIS_MAX`] along an axis. The
//! shape is checked against both and against the bytes that are there before anything is allocated.
//!
//! # Why this way
//! General readers of the format parse arbitrary nested Python literals by recursion and multiply shapes unchecked;
//! a mask may come from anywhere, so three keys are read by hand.

use crate::AXIS_MAX;
use crate::reduce::{DETECTOR_PIXELS_MAX, LIST_FRAMES_MAX, VirtualDetector};

/// Longest header that is read, in bytes; NumPy's own limit.
pub const HEADER_BYTES_MAX: usize = 10_000;
const MAGIC: &[u8] = b"\x93NUMPY";
const ALIGNMENT: usize = 64;

/// A file that is not a mask image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The first bytes are not those of the format, or a version that is not known.
    #[error("not an .npy file of version 1, 2 or 3")]
    Magic,
    /// The file ends too early, or the header is longer than allowed.
    #[error("header of {bytes} bytes is cut short or longer than {HEADER_BYTES_MAX}")]
    HeaderLength {
        /// Its length as stated.
        bytes: u64,
    },
    /// The header is not the dictionary it must be.
    #[error("header is not a dictionary of descr, fortran_order and shape")]
    Header,
    /// A type that masks cannot have.
    #[error("data type {descr:?}, expected one of b1, u1, u2, u4, u8, i1, i2, i4, i8, f4, f8")]
    Type {
        /// The type as stated, cut to 32 characters.
        descr: String,
    },
    /// Columns first.
    #[error("array is in Fortran order: save it with numpy.ascontiguousarray")]
    FortranOrder,
    /// Not two axes, or too large.
    #[error("shape {shape:?}, expected (rows, columns), each 1 to {AXIS_MAX}, at most {DETECTOR_PIXELS_MAX} pixels")]
    Shape {
        /// The shape as stated, the first axes of it.
        shape: Vec<u64>,
    },
    /// No array of vectors, or too large.
    #[error("shape {shape:?}, expected (rows, columns, 2), rows and columns each 1 to {AXIS_MAX}")]
    Vectors {
        /// The shape as stated, the first axes of it.
        shape: Vec<u64>,
    },
    /// No list, or a longer one.
    #[error("shape {shape:?}, expected (frames) or (frames, 2), at most {LIST_FRAMES_MAX} frames")]
    List {
        /// The shape as stated, the first axes of it.
        shape: Vec<u64>,
    },
    /// More or fewer bytes than the shape needs.
    #[error("{got_bytes} bytes of data, expected {expected_bytes}")]
    DataLength {
        /// Bytes there.
        got_bytes: u64,
        /// Bytes needed.
        expected_bytes: u64,
    },
    /// A 64-bit integer without exact double.
    #[error("weight {value} has no exact double precision value")]
    Inexact {
        /// The weight.
        value: i128,
    },
}

/// A whole `.npy` file: `numpy` is a type string such as `<f8` or `|u1`, `data` the numbers in C order.
///
/// # Panics
/// When `data` are not as many bytes as type and shape say: the caller made both.
pub fn write(numpy: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let item_bytes: usize = numpy.get(2..).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let expected = shape.iter().product::<usize>() * item_bytes;
    assert_eq!(data.len(), expected, "bytes of a {numpy} array of shape {shape:?}");
    let mut file = header(numpy, shape);
    file.extend_from_slice(data);
    file
}

/// The bytes before the data of an `.npy` file.
pub fn header(numpy: &str, shape: &[usize]) -> Vec<u8> {
    let axes: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let axes = if shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{numpy}', 'fortran_order': False, 'shape': ({axes}), }}");
    let bare = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', bare.next_multiple_of(ALIGNMENT) - bare));
    text.push('\n');
    let mut bytes = [MAGIC, &[1, 0]].concat();
    bytes.extend((text.len() as u16).to_le_bytes()); // Types and shapes of ours take far less than 64 KiB.
    bytes.extend(text.as_bytes());
    bytes
}

/// A mask image: two axes `(y, x)`, C order, booleans, integers or floating point numbers of either byte order.
pub fn read_mask(file: &[u8]) -> Result<VirtualDetector, NpyError> {
    let (text, data) = split(file)?;
    let header = parse(text).ok_or(NpyError::Header)?;
    let Some((height, width)) = plane(&header.shape, 1) else { return Err(NpyError::Shape { shape: header.shape }) };
    // A single column or row is the same in both orders.
    if header.fortran_order && height > 1 && width > 1 {
        return Err(NpyError::FortranOrder);
    }
    let weights = numbers(&header.descr, data, u64::from(height) * u64::from(width))?;
    Ok(VirtualDetector::Image { height, width, weights })
}

/// Vectors `(y, x)` of a plane: rows, columns, and the vectors in C order. Three axes, the last of two; types as for masks.
pub fn read_vectors(file: &[u8]) -> Result<(u32, u32, Vec<[f64; 2]>), NpyError> {
    let (text, data) = split(file)?;
    let header = parse(text).ok_or(NpyError::Header)?;
    let plane = header.shape.strip_suffix(&[2]).and_then(|shape| plane(shape, 2));
    let Some((height, width)) = plane else { return Err(NpyError::Vectors { shape: header.shape }) };
    if header.fortran_order {
        return Err(NpyError::FortranOrder);
    }
    let numbers = numbers(&header.descr, data, 2 * u64::from(height) * u64::from(width))?;
    Ok((height, width, numbers.as_chunks().0.to_vec()))
}

/// A list of numbers, one axis, or of two numbers each, two axes; types as for masks. How many each has, and all of them.
pub fn read_list(file: &[u8]) -> Result<(usize, Vec<f64>), NpyError> {
    let (text, data) = split(file)?;
    let header = parse(text).ok_or(NpyError::Header)?;
    let (count, each) = match header.shape[..] {
        [count] => (count, 1),
        [count, 2] => (count, 2),
        _ => return Err(NpyError::List { shape: header.shape }),
    };
    if count > LIST_FRAMES_MAX as u64 {
        return Err(NpyError::List { shape: header.shape });
    }
    if header.fortran_order && each > 1 && count > 1 {
        return Err(NpyError::FortranOrder);
    }
    Ok((each, numbers(&header.descr, data, count * each as u64)?))
}

/// Rows and columns, if there are these two and not too many numbers, so many for each place.
fn plane(shape: &[u64], each: u64) -> Option<(u32, u32)> {
    let &[height, width] = shape else { return None };
    let axis = |extent: u64| u32::try_from(extent).ok().filter(|extent| (1..=AXIS_MAX).contains(extent));
    let (rows, columns) = (axis(height)?, axis(width)?);
    let count = u64::from(rows) * u64::from(columns) * each; // No overflow: both fit 17 bits.
    (count <= DETECTOR_PIXELS_MAX).then_some((rows, columns))
}

/// So many numbers.
fn numbers(descr: &str, data: &[u8], count: u64) -> Result<Vec<f64>, NpyError> {
    let number = Number::of(descr).ok_or_else(|| NpyError::Type { descr: descr.chars().take(32).collect() })?;
    let expected_bytes = count * number.bytes as u64;
    if data.len() as u64 != expected_bytes {
        return Err(NpyError::DataLength { got_bytes: data.len() as u64, expected_bytes });
    }
    data.chunks_exact(number.bytes).map(|bytes| number.value(bytes)).collect()
}

/// Header text and data.
fn split(file: &[u8]) -> Result<(&[u8], &[u8]), NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (u32::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        _ => return Err(NpyError::Magic),
    };
    let length = length as usize;
    if length > HEADER_BYTES_MAX || length > rest.len() {
        return Err(NpyError::HeaderLength { bytes: length as u64 });
    }
    Ok(rest.split_at(length))
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// The dictionary, keys in any order; `None` when it is anything else.
fn parse(text: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = string(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let after = match key {
            "descr" => {
                let (value, after) = string(value)?;
                descr = Some(value.to_owned());
                after
            }
            "fortran_order" => {
                let (value, after) = match value.strip_prefix("True") {
                    Some(after) => (true, after),
                    None => (false, value.strip_prefix("False")?),
                };
                fortran_order = Some(value);
                after
            }
            "shape" => {
                let (inside, after) = value.strip_prefix('(')?.split_once(')')?;
                let axes = inside.trim().strip_suffix(',').unwrap_or(inside.trim());
                let axes = axes.split(',').map(str::trim).filter(|axis| !axis.is_empty());
                shape = Some(axes.map(|axis| axis.parse().ok()).collect::<Option<Vec<u64>>>()?);
                after
            }
            _ => return None,
        };
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
}

/// A quoted string without escapes, and what follows.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| "'\"".contains(*quote))?;
    text[1..].split_once(quote).filter(|(inside, _)| !inside.contains('\\'))
}

/// How one weight is stored.
#[derive(Debug, Clone, Copy)]
struct Number {
    kind: u8,
    bytes: usize,
    big: bool,
}

impl Number {
    fn of(descr: &str) -> Option<Self> {
        let (big, name) = match descr.as_bytes() {
            [b'<' | b'|' | b'=', name @ ..] => (false, name),
            [b'>', name @ ..] => (true, name),
            name => (false, name),
        };
        let bytes = match name {
            b"b1" | b"u1" | b"i1" => 1,
            b"u2" | b"i2" => 2,
            b"u4" | b"i4" | b"f4" => 4,
            b"u8" | b"i8" | b"f8" => 8,
            _ => return None,
        };
        Some(Self { kind: name[0], bytes, big })
    }

    fn value(self, bytes: &[u8]) -> Result<f64, NpyError> {
        let mut little = [0_u8; 8];
        for (to, from) in little.iter_mut().zip(bytes) {
            *to = *from;
        }
        if self.big {
            little[..self.bytes].reverse();
        }
        let bits = u64::from_le_bytes(little);
        let unused = 64 - 8 * self.bytes as u32;
        let integer = match self.kind {
            b'f' if self.bytes == 4 => return Ok(f64::from(f32::from_bits(bits as u32))),
            b'f' => return Ok(f64::from_bits(bits)),
            b'b' => i128::from(bits != 0),
            b'i' => i128::from((bits << unused) as i64 >> unused),
            _ => i128::from(bits),
        };
        let value = integer as f64;
        if value as i128 == integer { Ok(value) } else { Err(NpyError::Inexact { value: integer }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(file: &[u8]) -> Result<Vec<f64>, NpyError> {
        match read_mask(file)? {
            VirtualDetector::Image { weights, .. } => Ok(weights),
            other => panic!("not an image: {other:?}"),
        }
    }

    /// Files of ours are what another implementation of the format reads, and headers end at 64 bytes.
    #[test]
    fn written_files_are_numpy_files() {
        for shape in [vec![3], vec![2, 3], vec![1, 2, 2], vec![]] {
            let numbers: Vec<f64> = (0..shape.iter().product::<usize>()).map(|i| i as f64 / 3.0).collect();
            let data: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
            let file = write("<f8", &shape, &data);
            assert_eq!((file.len() - data.len()) % 64, 0);
            let read = npyz::NpyFile::new(&file[..]).expect("a valid file");
            assert_eq!(read.shape().iter().map(|&n| n as usize).collect::<Vec<_>>(), shape);
            assert_eq!(read.into_vec::<f64>().expect("doubles"), numbers);
        }
    }

    /// Every type and byte order gives the numbers NumPy would.
    #[test]
    fn types() {
        let file = |numpy: &str, data: &[u8]| write(numpy, &[1, 2], data);
        assert_eq!(weights(&file("|b1", &[0, 1])), Ok(vec![0.0, 1.0]));
        assert_eq!(weights(&file("|u1", &[255, 1])), Ok(vec![255.0, 1.0]));
        assert_eq!(weights(&file("|i1", &[255, 1])), Ok(vec![-1.0, 1.0]));
        assert_eq!(weights(&file(">u2", &[1, 2, 0, 3])), Ok(vec![258.0, 3.0]));
        assert_eq!(weights(&file("<i2", &[254, 255, 3, 0])), Ok(vec![-2.0, 3.0]));
        assert_eq!(weights(&file(">f4", &[0xbf, 0, 0, 0, 0, 0, 0, 0])), Ok(vec![-0.5, 0.0]));
        assert_eq!(weights(&file("<i8", &[255; 16])), Ok(vec![-1.0, -1.0]));
        assert_eq!(weights(&file("<u8", &[255; 16])), Err(NpyError::Inexact { value: i128::from(u64::MAX) }));
        assert!(matches!(weights(&file("<c8", &[0; 16])), Err(NpyError::Type { .. })));
    }

    fn with_header(text: &str, data: &[u8]) -> Vec<u8> {
        [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes(), data].concat()
    }

    /// Hostile and odd headers are refused without allocating what they claim.
    #[test]
    fn hostile_headers() {
        let shape =
            |shape: &str| with_header(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"), &[]);
        for huge in ["(4611686018427387904, 1)", "(65536, 65536)", "(0, 4)", "(4,)", "()", "(1, 2, 3)"] {
            assert!(matches!(weights(&shape(huge)), Err(NpyError::Shape { .. })), "{huge}");
        }
        for odd in ["(-1, 2)", "(99999999999999999999, 1)", "((1, 2)", "[1, 2]", "(1, 2"] {
            assert_eq!(weights(&shape(odd)), Err(NpyError::Header), "{odd}");
        }
        assert_eq!(weights(&shape("(4, 4)")), Err(NpyError::DataLength { got_bytes: 0, expected_bytes: 128 }));
        let fortran = with_header("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2)}", &[0; 4]);
        assert_eq!(weights(&fortran), Err(NpyError::FortranOrder));
        let nested = with_header(&"(".repeat(9000), &[]);
        assert_eq!(weights(&nested), Err(NpyError::Header));
        let long = [MAGIC, &[2, 0], &[255; 4]].concat();
        assert_eq!(weights(&long), Err(NpyError::HeaderLength { bytes: u64::from(u32::MAX) }));
        assert_eq!(weights(b"\x93NUMPY"), Err(NpyError::Magic));
    }

    /// Vectors come in C order; other shapes are refused.
    #[test]
    fn vectors() {
        let file = |shape: &[usize]| write("|i1", shape, &[1, 0xff, 2, 3]);
        assert_eq!(read_vectors(&file(&[1, 2, 2])), Ok((1, 2, vec![[1.0, -1.0], [2.0, 3.0]])));
        for shape in [&[2, 2][..], &[2, 1, 2, 1], &[2, 2, 1], &[4]] {
            assert!(matches!(read_vectors(&file(shape)), Err(NpyError::Vectors { .. })), "{shape:?}");
        }
        assert_eq!(read_list(&file(&[4])), Ok((1, vec![1.0, -1.0, 2.0, 3.0])));
        assert_eq!(read_list(&file(&[2, 2])), Ok((2, vec![1.0, -1.0, 2.0, 3.0])));
        assert!(matches!(read_list(&file(&[1, 4])), Err(NpyError::List { .. })));
    }

    proptest! {
        /// No file makes the reader panic.
        #[test]
        fn any_bytes(text in "[{}()', :a-z0-9<|]{0,60}", cut in 0_usize..80) {
            let file = with_header(&text, &[0; 8]);
            let _ = read_mask(&file[..cut.min(file.len())]);
            let _ = (read_mask(&file), read_vectors(&file), read_list(&file));
        }
    }
}
