//! Why a list of reductions, or what holds for it, is refused.

use super::mask::{DETECTOR_PIXELS_MAX, MaskError};
use super::nodata::NoData;
use super::spec::{COLUMNS_MAX, RESULTS_MAX};
use crate::{NavShape, PixelKind, Region, SigShape};

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
    /// A parameter that does not fit the detector, the pixel type or another parameter.
    #[error("{name:?}: `{key}` is {value}, must be {expected}")]
    Parameter {
        /// Name of the result.
        name: String,
        /// Name of the parameter.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// A reduction of a lab's own that cannot be computed on this detector.
    #[error("{name:?}: {why}")]
    Custom {
        /// Name of the result.
        name: String,
        /// What it says.
        why: String,
    },
    /// Too many results.
    #[error("{count} results, at most {RESULTS_MAX} are computed")]
    TooManyResults {
        /// Results asked for.
        count: usize,
    },
    /// Two accumulators of which a plan keeps one: histograms with other bins, or counts of electrons with other thresholds.
    #[error("two different {what} are asked for, and only one is kept: leave one out")]
    OneOnly {
        /// What there are two of.
        what: &'static str,
    },
    /// Too many numbers per scan position.
    #[error("{count} numbers per scan position, at most {COLUMNS_MAX} are kept")]
    TooManyColumns {
        /// Numbers asked for.
        count: usize,
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
    /// A correction of another detector.
    #[error("the correction is for a detector of {correction:?}, this one is {detector:?}")]
    Correction {
        /// What the correction is for.
        correction: SigShape,
        /// The detector.
        detector: SigShape,
    },
    /// A value for pixels without data that no pixel can carry.
    #[error("pixels of type {kind:?} never carry the value that says `no data`, which is {nodata}")]
    NoData {
        /// The value.
        nodata: NoData,
        /// The pixels.
        kind: PixelKind,
    },
    /// A pixel mask of another detector, or for floating point numbers.
    #[error("a pixel mask of {mask:?} is not one for integer pixels of a detector of {detector:?}")]
    PixelMask {
        /// What the mask is for.
        mask: SigShape,
        /// The detector.
        detector: SigShape,
    },
    /// Pixels without data, of which nobody knows the dark counts.
    #[error("dark counts and a value for pixels without data exclude each other: list these pixels as bad instead")]
    NoDataDark,
    /// Chosen positions of another scan, or of none.
    #[error("positions are chosen of a scan of {roi:?} (a rectangle: or more), this one is {scan:?}")]
    Roi {
        /// What they are chosen of.
        roi: NavShape,
        /// The scan, if there is one.
        scan: Option<NavShape>,
    },
    /// A list of positions, and no scan that they are in.
    #[error("a list of positions needs the shape of the scan that they are in")]
    Positions,
    /// A position that the scan has not.
    #[error("frame {frame} belongs to position {index} of a scan of {positions} positions")]
    Position {
        /// The frame.
        frame: u64,
        /// Its position in the list.
        index: u64,
        /// Positions of the scan.
        positions: u64,
    },
    /// Masks that follow the beam over another scan, or over none.
    #[error("descan is for a scan of {table:?}, this one is {scan:?}")]
    Descan {
        /// The scan of the table; a linear law has none.
        table: Option<NavShape>,
        /// The scan, if there is one.
        scan: Option<NavShape>,
    },
    /// Real masks that would fill memory.
    #[error("masks of real weights would take {bytes} bytes, at most {bytes_max} are used: ask for fewer")]
    MasksTooLarge {
        /// Bytes they would take.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
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
