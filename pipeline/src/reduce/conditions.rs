//! Conditions: what holds for a whole acquisition beside its list of reductions: how pixels are corrected, and which
//! scan positions count.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::correction::Correction;
use super::descan::Descan;
use super::error::PlanError;
use super::frame_map::{FrameMap, Positions};
use super::nodata::NoData;
use crate::{FrameIndex, NavShape, PixelKind, PixelTable, Scan, ScanPos, Sensor, SigShape};

/// What holds for a whole acquisition; nothing of it unless told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// How pixels are corrected before anything is computed of them.
    pub correction: Option<Arc<Correction>>,
    /// How a pixel says that it has no data; where not given, as the detector announces it ([`Self::with_sensor`]).
    pub nodata: Option<NoData>,
    /// Pixels that never have data, whatever they carry.
    pub pixel_mask: Option<PixelTable<u32>>,
    /// The files that say so.
    pub files: Vec<ConditionFile>,
    /// How masks follow the beam; they stay where they are where not given.
    pub descan: Option<Arc<Descan>>,
    /// Where frames belong in a scan that is no raster.
    pub positions: Option<Arc<Positions>>,
    /// The scan positions that are reduced; all where not given.
    pub roi: Option<Arc<Roi>>,
}

/// A file that says what holds: results name it, so that they can be told from those of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionFile {
    /// What it says, in a word: `dark`, `gain`, `bad`, `roi`, `descan`, `positions`; `plugin` computes.
    pub what: &'static str,
    /// Its name, without directories.
    pub name: String,
    /// CRC-32C of its bytes.
    pub crc32c: u32,
}

impl ConditionFile {
    /// Name and checksum, for those who read results.
    pub fn to_json(&self) -> Value {
        json!({ "file": self.name, "crc32c": format!("{:08x}", self.crc32c) })
    }
}

impl Conditions {
    /// The same for pixels of which a detector says this: its mask holds, and its value for pixels without data where none was
    /// given. Neither does where all pixels are said to have data, where dark counts are corrected, which exclude it, and for
    /// floating point numbers.
    pub fn with_sensor(&self, sensor: &Sensor, kind: PixelKind) -> Self {
        let mut told = self.clone();
        if kind != PixelKind::F32 && !self.has_dark() && self.nodata != Some(NoData::None) {
            told.nodata = self.nodata.or(sensor.nodata);
            told.pixel_mask.clone_from(&sensor.pixel_mask);
        }
        told
    }

    /// Whether some pixels may have no data.
    pub(super) fn can_lack_data(&self) -> bool {
        self.pixel_mask.is_some() || self.nodata.is_some_and(|nodata| nodata != NoData::None)
    }

    fn has_dark(&self) -> bool {
        self.correction.as_ref().is_some_and(|correction| correction.has_dark())
    }

    /// Whether what says `no data` fits the pixels of a detector.
    pub(super) fn check_nodata(&self, detector: SigShape, kind: PixelKind) -> Result<(), PlanError> {
        if let Some(nodata) = self.nodata.filter(|&nodata| nodata != NoData::None) {
            nodata.value(kind).ok_or(PlanError::NoData { nodata, kind })?;
        }
        let mask = self.pixel_mask.as_ref().map(PixelTable::shape);
        if let Some(mask) = mask.filter(|&mask| mask != detector || kind == PixelKind::F32) {
            return Err(PlanError::PixelMask { mask, detector });
        }
        if self.can_lack_data() && self.has_dark() { Err(PlanError::NoDataDark) } else { Ok(()) }
    }

    /// The scan of results: a list of positions gives each of them room for as many frames as it has. Errors: a position that the
    /// scan has not.
    pub fn scan_of(&self, scan: Option<Scan>) -> Result<Option<Scan>, PlanError> {
        scan.map(|scan| FrameMap::new(scan, self).map(|map| map.scan)).transpose()
    }

    /// What holds, for those who read results; empty where nothing does.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for file in &self.files {
            object.insert(file.what.to_owned(), file.to_json());
        }
        if let Some(correction) = &self.correction {
            object.insert("bad_pixels".into(), json!(correction.bad_count()));
        }
        if let Some(nodata) = self.nodata {
            object.insert("nodata".into(), json!(nodata.to_string()));
        }
        if let Some(mask) = &self.pixel_mask {
            object.insert("masked_pixels".into(), json!(mask.masked_count()));
        }
        if let Some((rows, columns)) = self.roi.as_ref().and_then(|roi| roi.as_rectangle()) {
            let rectangle = json!({ "y": [rows.start, rows.end], "x": [columns.start, columns.end] });
            object.insert("roi".into(), rectangle);
        }
        if let Some([offset, per_row, per_column]) = self.descan.as_ref().and_then(|descan| descan.as_linear()) {
            let law = json!({ "offset": offset, "per_row": per_row, "per_column": per_column });
            object.insert("descan".into(), law);
        }
        object
    }

    /// Whether they fit a scan.
    pub(super) fn check_scan(&self, scan: Option<NavShape>) -> Result<(), PlanError> {
        if self.positions.is_some() && scan.is_none() {
            return Err(PlanError::Positions);
        }
        if let Some(roi) = self.roi.as_ref().filter(|roi| !scan.is_some_and(|scan| roi.fits(scan))) {
            return Err(PlanError::Roi { roi: roi.shape(), scan });
        }
        match &self.descan {
            Some(descan) if scan.is_none() || descan.shape().is_some_and(|shape| Some(shape) != scan) => {
                Err(PlanError::Descan { table: descan.shape(), scan })
            }
            _ => Ok(()),
        }
    }
}

/// Scan positions that are reduced; frames of others enter no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roi {
    chosen: Chosen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chosen {
    /// Of one scan: a flag for every position, C order; chosen positions in the rows before each row, and in all.
    Flags { shape: NavShape, flags: Vec<bool>, before: Vec<u64> },
    /// Of every scan that holds them.
    Rectangle { rows: Range<u32>, columns: Range<u32> },
}

impl Roi {
    /// Of one flag per position, C order; `None` when there are more or fewer than positions.
    pub fn new(shape: NavShape, flags: Vec<bool>) -> Option<Self> {
        if flags.len() as u64 != shape.position_count() {
            return None;
        }
        let mut before = vec![0];
        let mut count = 0;
        for row in flags.chunks(shape.width.max(1) as usize) {
            count += row.iter().filter(|&&is_chosen| is_chosen).count() as u64;
            before.push(count);
        }
        Some(Self { chosen: Chosen::Flags { shape, flags, before } })
    }

    /// Rows and positions in each of them, half-open; `None` when empty.
    pub fn rectangle(rows: Range<u32>, columns: Range<u32>) -> Option<Self> {
        (!rows.is_empty() && !columns.is_empty()).then_some(Self { chosen: Chosen::Rectangle { rows, columns } })
    }

    /// The scan it is for; of a rectangle the smallest one.
    pub fn shape(&self) -> NavShape {
        match &self.chosen {
            Chosen::Flags { shape, .. } => *shape,
            Chosen::Rectangle { rows, columns } => NavShape { height: rows.end, width: columns.end },
        }
    }

    /// Whether it can be chosen of a scan.
    pub fn fits(&self, scan: NavShape) -> bool {
        let NavShape { height, width } = self.shape();
        let is_inside = height <= scan.height && width <= scan.width;
        is_inside && (self.as_rectangle().is_some() || self.shape() == scan)
    }

    /// Rows and positions in each of them, if it is a rectangle.
    pub fn as_rectangle(&self) -> Option<(Range<u32>, Range<u32>)> {
        if let Chosen::Rectangle { rows, columns } = &self.chosen {
            Some((rows.clone(), columns.clone()))
        } else {
            None
        }
    }

    /// How many positions are chosen.
    pub fn position_count(&self) -> u64 {
        self.before(self.shape().height as usize)
    }

    /// How many positions are chosen in the rows before one.
    fn before(&self, row: usize) -> u64 {
        match &self.chosen {
            Chosen::Flags { before, .. } => before.get(row).copied().unwrap_or(0),
            Chosen::Rectangle { rows, columns } => {
                (row.min(rows.end as usize).saturating_sub(rows.start as usize) * columns.len()) as u64
            }
        }
    }

    /// Whether a position is reduced.
    pub fn contains(&self, position: ScanPos) -> bool {
        match &self.chosen {
            Chosen::Flags { shape, flags, .. } => {
                let is_inside = position.y < shape.height && position.x < shape.width;
                is_inside && flags[position.y as usize * shape.width as usize + position.x as usize]
            }
            Chosen::Rectangle { rows, columns } => rows.contains(&position.y) && columns.contains(&position.x),
        }
    }

    /// How many frames below `frame` belong to a chosen position.
    pub(super) fn placed_before(&self, scan: &Scan, frame: FrameIndex) -> u64 {
        self.placed(scan, frame) - self.placed(scan, 0)
    }

    /// As [`Self::placed_before`], from the first step of the scan on, which may lie before frame 0.
    fn placed(&self, scan: &Scan, frame: FrameIndex) -> u64 {
        let each = u64::from(scan.frames_per_position.max(1));
        let (rows, in_row) = scan.rows_before(frame);
        let height = u64::from(scan.shape.height).max(1);
        let (passes, row) = (rows / height, (rows % height) as usize);
        let whole = passes * self.position_count() + self.before(row);
        let width = u64::from(scan.shape.width);
        let count = |step: u64| {
            let x = scan.column(row as u32, step as u32);
            let is_chosen = self.contains(ScanPos { y: row as u32, x });
            if is_chosen { each.min(in_row - step * each) } else { 0 }
        };
        whole * each + (0..in_row.div_ceil(each).min(width)).map(count).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScanOrder;
    use proptest::prelude::*;

    proptest! {
        /// Counting frames of chosen positions is as good as looking at each.
        #[test]
        fn counts(
            chosen in prop::collection::vec(any::<bool>(), 12), flyback in 0_u32..3, sync_offset in -30_i64..30,
            serpentine in any::<bool>(), frames_per_position in 1_u32..4, passes in 1_u32..4
        ) {
            let order = if serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster };
            let plain = Scan::raster(NavShape { height: 3, width: 4 });
            let scan = Scan { order, flyback, sync_offset, frames_per_position, passes, ..plain };
            let roi = Roi::new(scan.shape, chosen.clone()).expect("one flag per position");
            let mut count = 0;
            for frame in 0..scan.frame_count() + 40 {
                prop_assert_eq!(roi.placed_before(&scan, frame), count);
                count += u64::from(scan.position(frame).is_some_and(|position| roi.contains(position)));
            }
            prop_assert_eq!(roi.position_count(), chosen.iter().filter(|&&chosen| chosen).count() as u64);
            prop_assert_eq!(Roi::new(scan.shape, chosen[1..].to_vec()), None);
            let rectangle = Roi::rectangle(1..3, 0..2).expect("not empty");
            let inside = (0..12).map(|at| at / 4 >= 1 && at % 4 < 2).collect();
            let flags = Roi::new(scan.shape, inside).expect("one flag per position");
            for frame in 0..scan.frame_count() + 40 {
                prop_assert_eq!(rectangle.placed_before(&scan, frame), flags.placed_before(&scan, frame));
            }
            prop_assert_eq!(rectangle.position_count(), flags.position_count());
            let narrow = NavShape { height: 3, width: 1 };
            prop_assert!(rectangle.fits(scan.shape) && !rectangle.fits(narrow));
        }
    }
}
