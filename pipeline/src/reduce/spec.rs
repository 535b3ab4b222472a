//! What a list of reductions asks for, checked: names, masks, and the columns of numbers every result is made of.
//!
//! # Invariants
//! - I1: columns and their kinds follow from reductions, detector and pixel type alone, never from a tile, so that
//!   partials of all tiles of a detector fit together.

use super::Reduction;
use super::mask::{DETECTOR_PIXELS_MAX, Mask, MaskError};
use crate::{PixelKind, PixelType, Region, SigShape};

/// Names that virtual detectors may not have: they belong to other results.
pub const RESERVED_NAMES: [&str; 5] = ["total", "com", "sum", "max", "valid"];
/// Longest name of a result, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a list of reductions cannot be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A name that cannot be a file or key name.
    #[error("result name {name:?} must be 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit")]
    Name {
        /// The name, cut to its first characters.
        name: String,
    },
    /// A name that belongs to another result.
    #[error("result name {name:?} is reserved (total, com, sum, max and valid are)")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Two results of the same name.
    #[error("two results are called {name:?}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A virtual detector without a mask.
    #[error("virtual detector {name:?}: {source}")]
    Mask {
        /// Its name.
        name: String,
        /// Why.
        source: MaskError,
    },
    /// A tile that is empty or reaches beyond the detector.
    #[error("region {region:?} is empty or not inside detector {detector:?}")]
    Region {
        /// The tile.
        region: Region,
        /// The detector.
        detector: SigShape,
    },
    /// Two tiles that share pixels, which would count twice.
    #[error("regions {a:?} and {b:?} overlap")]
    Overlap {
        /// One tile.
        a: Region,
        /// Another.
        b: Region,
    },
    /// No link at all.
    #[error("no link delivers any region")]
    NoRegion,
    /// A detector beyond the limit for patterns.
    #[error("detector {detector:?} has more than {DETECTOR_PIXELS_MAX} pixels")]
    DetectorTooLarge {
        /// The detector.
        detector: SigShape,
    },
    /// A scan beyond the limit for images.
    #[error("scan of {positions} positions, at most {positions_max} can be shown")]
    ScanTooLarge {
        /// Positions of the scan.
        positions: u64,
        /// The limit.
        positions_max: u64,
    },
}

/// How the numbers of a column are kept until they are finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// Proven to stay below 2^63.
    U64,
    /// Integers that may be larger.
    U128,
    /// Sums of floating point numbers.
    Exact,
}

/// What one column counts, per frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Sum over a binary mask; index of the mask.
    Binary(usize),
    /// Weighted sum over a real mask; index of the mask.
    Real(usize),
    /// Sum over all pixels.
    Total,
    /// Sum of row times pixel.
    MomentY,
    /// Sum of column times pixel.
    MomentX,
}

/// One number per frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) source: Source,
    pub(super) kind: ColumnKind,
    /// The value is the column times two to this power.
    pub(super) exponent: i32,
}

/// How a result is made of columns or patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Value { column: usize },
    Com { total: usize, y: usize, x: usize },
    Sum,
    Max,
}

/// A list of reductions, checked against a detector.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) masks: Vec<Mask>,
    pub(super) columns: Vec<Column>,
    pub(super) results: Vec<(String, Made)>,
}

impl Spec {
    pub(super) fn new(reductions: &[Reduction], detector: SigShape, pixel: PixelType) -> Result<Self, PlanError> {
        if detector.pixel_count() > DETECTOR_PIXELS_MAX {
            return Err(PlanError::DetectorTooLarge { detector });
        }
        let mut spec = Self { masks: Vec::new(), columns: Vec::new(), results: Vec::new() };
        for reduction in reductions {
            let (name, made) = match reduction {
                Reduction::Virtual { name, detector: shape } => {
                    check_name(name)?;
                    let mask = shape.mask(detector);
                    let mask = mask.map_err(|source| PlanError::Mask { name: name.clone(), source })?;
                    (name.as_str(), Made::Value { column: spec.mask_column(mask, pixel) })
                }
                Reduction::Total => ("total", Made::Value { column: spec.column(Source::Total, detector, pixel) }),
                Reduction::CentreOfMass => {
                    let total = spec.column(Source::Total, detector, pixel);
                    let y = spec.column(Source::MomentY, detector, pixel);
                    ("com", Made::Com { total, y, x: spec.column(Source::MomentX, detector, pixel) })
                }
                Reduction::Sum => ("sum", Made::Sum),
                Reduction::Max => ("max", Made::Max),
            };
            if spec.results.iter().any(|(other, _)| other == name) {
                return Err(PlanError::Duplicate { name: name.into() });
            }
            spec.results.push((name.into(), made));
        }
        Ok(spec)
    }

    fn mask_column(&mut self, mask: Mask, pixel: PixelType) -> usize {
        let index = self.masks.len();
        let column = match mask.is_binary() {
            true if pixel.is_integer() => Column { source: Source::Binary(index), kind: ColumnKind::U64, exponent: 0 },
            true => Column { source: Source::Binary(index), kind: ColumnKind::Exact, exponent: 0 },
            false => Column { source: Source::Real(index), kind: ColumnKind::Exact, exponent: mask.exponent() },
        };
        self.masks.push(mask);
        self.columns.push(column);
        self.columns.len() - 1
    }

    /// The column of a source that is not a mask, shared by all results that need it.
    fn column(&mut self, source: Source, detector: SigShape, pixel: PixelType) -> usize {
        if let Some(index) = self.columns.iter().position(|column| column.source == source) {
            return index;
        }
        let weight_max = match source {
            Source::MomentY => detector.height.saturating_sub(1),
            Source::MomentX => detector.width.saturating_sub(1),
            _ => 1,
        };
        let kind = match pixel_max(pixel) {
            None => ColumnKind::Exact,
            Some(pixel_max) if fits_u64(pixel_max, detector, weight_max) => ColumnKind::U64,
            Some(_) => ColumnKind::U128,
        };
        self.columns.push(Column { source, kind, exponent: 0 });
        self.columns.len() - 1
    }

    /// Whether a result is made that way.
    pub(super) fn makes(&self, wanted: Made) -> bool {
        self.results.iter().any(|&(_, made)| made == wanted)
    }
}

/// Largest value of an integer pixel.
fn pixel_max(pixel: PixelType) -> Option<u32> {
    match pixel.kind {
        PixelKind::U8 => Some(u32::from(u8::MAX)),
        PixelKind::U16 => Some(u32::from(u16::MAX)),
        PixelKind::U32 => Some(u32::MAX),
        PixelKind::F32 => None,
    }
}

/// The overflow proof: a whole frame of the largest pixels under the largest weight stays below 2^63.
fn fits_u64(pixel_max: u32, detector: SigShape, weight_max: u32) -> bool {
    u128::from(pixel_max) * u128::from(detector.pixel_count()) * u128::from(weight_max) < 1 << 63
}

fn check_name(name: &str) -> Result<(), PlanError> {
    let valid = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !valid {
        return Err(PlanError::Name { name: name.chars().take(NAME_BYTES_MAX).collect() });
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(PlanError::Reserved { name: name.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;
    use crate::reduce::VirtualDetector;

    fn disk(name: &str) -> Reduction {
        Reduction::Virtual { name: name.into(), detector: VirtualDetector::Disk { cy: 1.0, cx: 1.0, radius: 1.0 } }
    }

    fn spec(reductions: &[Reduction], side: u32, kind: PixelKind) -> Result<Spec, PlanError> {
        Spec::new(reductions, SigShape { height: side, width: side }, PixelType::new(kind, ByteOrder::Little))
    }

    /// Names are those of the rule, unique, and not those of other results.
    #[test]
    fn names() {
        for bad in ["", ".bf", "-bf", "b f", "b/f", "bé", &"a".repeat(129)] {
            assert!(matches!(spec(&[disk(bad)], 8, PixelKind::U16), Err(PlanError::Name { .. })), "{bad:?}");
        }
        for reserved in RESERVED_NAMES {
            assert!(matches!(spec(&[disk(reserved)], 8, PixelKind::U16), Err(PlanError::Reserved { .. })));
        }
        assert!(matches!(spec(&[disk("a"), disk("a")], 8, PixelKind::U16), Err(PlanError::Duplicate { .. })));
        assert!(matches!(spec(&[Reduction::Sum, Reduction::Sum], 8, PixelKind::U16), Err(PlanError::Duplicate { .. })));
        assert!(spec(&[disk("0.B_f-2"), disk(&"a".repeat(128))], 8, PixelKind::U16).is_ok());
    }

    /// The proof allows 64 bits exactly where section 8 of the definitions does: u32 moments of 4096 x 4096 need more.
    #[test]
    fn overflow_proof() {
        let all = [Reduction::Total, Reduction::CentreOfMass];
        let kinds = |side, kind| -> Vec<ColumnKind> {
            spec(&all, side, kind).expect("valid").columns.iter().map(|column| column.kind).collect()
        };
        assert_eq!(kinds(4096, PixelKind::U32), [ColumnKind::U64, ColumnKind::U128, ColumnKind::U128]);
        assert_eq!(kinds(1024, PixelKind::U32), [ColumnKind::U64; 3]);
        assert_eq!(kinds(16384, PixelKind::U16), [ColumnKind::U64; 3]);
        assert_eq!(kinds(16, PixelKind::F32), [ColumnKind::Exact; 3]);
        assert!(spec(&all, 16385, PixelKind::U8).is_err());
    }
}
