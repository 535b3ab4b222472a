//! The manifest (attribute `ronchi` of the data set's group) and `progress.json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FormatError, group_json};
use crate::layout::DATA_OFFSET;
use crate::reduce::NoData;
use crate::{Gap, GapReason, Gaps, Layout, NavShape, Region, Repeats, Scan, SigShape};

/// Version of everything in `docs/format.md`; readers refuse larger numbers.
pub const LAYOUT_VERSION: u32 = 1;
/// Most gaps listed per tile; the frame table holds all.
pub const GAPS_LISTED_MAX: usize = 10_000;

/// State of a data set, and of each of its tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSetState {
    /// Being written; with nobody writing it, a crash.
    Running,
    /// All announced frames were seen.
    Complete,
    /// Ended early.
    Interrupted,
    /// A stage failed; what is durable is good.
    Failed,
}

/// Everything known of the acquisition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`LAYOUT_VERSION`].
    pub layout_version: u32,
    /// Identity of the acquisition, as text.
    pub uuid: String,
    /// Name of the data set, without `.ronchi`.
    pub name: String,
    /// Wall time of the beginning, RFC 3339, UTC.
    pub created: String,
    /// State.
    pub state: DataSetState,
    /// Scan geometry in force.
    pub scan: Option<ScanInfo>,
    /// Frames of the acquisition; `None` while an open-ended run is running.
    pub frame_count: Option<u64>,
    /// The detector and its tiles.
    pub detector: DetectorInfo,
    /// Sizes on disk, of the first tile.
    pub block: BlockSizes,
    /// Frames that are not there, per tile; empty while running.
    #[serde(default)]
    pub gaps: Vec<TileGaps>,
    /// The law of some tile is violated: a bug of the receiver, and no count of this data set is to be believed.
    #[serde(default)]
    pub unsound: bool,
    /// Program and version that wrote this.
    pub software: String,
    /// What was done to it after its receiver had died, or it was damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<RepairNote>,
    /// The vendor's header, as received.
    #[serde(default)]
    pub vendor_header: String,
    /// The user's own notes.
    #[serde(default)]
    pub user: Value,
}

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairNote {
    /// Wall time, RFC 3339, UTC.
    pub time: String,
    /// Program and version.
    pub software: String,
    /// Writing session of the records in `chunks.log`, from 2; the receiver's is 1.
    pub epoch: u32,
    /// Frames, of all tiles, that could be proved.
    pub present: u64,
    /// Frames, of all tiles, that had been there and were found damaged or unproved.
    pub lost: u64,
}

/// Scan geometry, as [`Scan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanInfo {
    /// `(ny, nx)`.
    pub shape: [u32; 2],
    /// Direction of rows.
    pub order: crate::ScanOrder,
    /// Frames after each row that belong to no position.
    pub flyback: u32,
    /// `o > 0` skips the first `o` frames.
    pub sync_offset: i64,
    /// Frames at each position before the beam moves on.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub frames_per_position: u32,
    /// How often the whole scan was run.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub passes: u32,
    /// What became of the frames of one position in the results.
    #[serde(default, skip_serializing_if = "is_sum")]
    pub repeats: Repeats,
}

fn one() -> u32 {
    1
}

fn is_one(count: &u32) -> bool {
    *count == 1
}

fn is_sum(repeats: &Repeats) -> bool {
    *repeats == Repeats::Sum
}

/// The detector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorInfo {
    /// `(height, width)` in pixels.
    pub shape: [u32; 2],
    /// NumPy name of the pixel type as stored.
    pub pixel: String,
    /// The value by which a pixel says that it has no data, where the detector announced one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodata: Option<NoData>,
    /// The parts that are recorded.
    pub tiles: Vec<TileInfo>,
}

/// One tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileInfo {
    /// Number, from 0: the directory `tiles/<id>`.
    pub id: u32,
    /// `(y, x)` of its first pixel on the detector.
    pub origin: [u32; 2],
    /// `(height, width)` in pixels.
    pub shape: [u32; 2],
}

/// Sizes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(non_snake_case, reason = "the letters of the format description")]
pub struct BlockSizes {
    /// Frames per segment.
    pub N: u64,
    /// Frames per chunk.
    pub k: u32,
    /// Byte offset of the first frame.
    pub D: u64,
}

/// Frames of one tile that are not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileGaps {
    /// Tile id.
    pub tile: u32,
    /// Frames that are not there, in all.
    pub frame_count: u64,
    /// Ranges with reasons, at most [`GAPS_LISTED_MAX`].
    pub ranges: Vec<Gap>,
    /// More ranges exist than are listed.
    pub is_cut: bool,
    /// Whether every frame is accounted for; not in data sets of early receivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub law: Option<Law>,
}

/// The conservation law of one tile: every frame of the series is durable or a gap, and every frame received is durable
/// or was refused by the disk. The terms are counted apart from each other; the verdict compares them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Law {
    /// Frames of the series.
    pub frame_count: u64,
    /// Frames received whole; `None` when the receiver was cut off before it could tell.
    pub received: Option<u64>,
    /// Frames that data syncs have covered.
    pub durable: u64,
    /// Frames that are not there, by reason.
    pub gaps: BTreeMap<GapReason, u64>,
    /// The verdict.
    pub holds: bool,
    /// In which ways it does not hold, in words.
    pub violations: Vec<String>,
}

impl From<Scan> for ScanInfo {
    fn from(scan: Scan) -> Self {
        let Scan { shape, order, flyback, sync_offset, frames_per_position, passes, repeats } = scan;
        let shape = [shape.height, shape.width];
        Self { shape, order, flyback, sync_offset, frames_per_position, passes, repeats }
    }
}

impl From<ScanInfo> for Scan {
    fn from(info: ScanInfo) -> Self {
        let ScanInfo { shape: [height, width], order, flyback, sync_offset, frames_per_position, passes, repeats } =
            info;
        let shape = NavShape { height, width };
        Self { shape, order, flyback, sync_offset, frames_per_position, passes, repeats }
    }
}

impl DetectorInfo {
    /// A detector of which `regions` are recorded; the tile id is the position in the list.
    pub fn new(shape: SigShape, pixel: crate::PixelType, regions: &[Region]) -> Self {
        let tile = |(id, region): (u32, &Region)| TileInfo {
            id,
            origin: [region.y, region.x],
            shape: [region.height, region.width],
        };
        Self {
            shape: [shape.height, shape.width],
            pixel: pixel.numpy_name().to_owned(),
            nodata: None,
            tiles: (0..).zip(regions).map(tile).collect(),
        }
    }
}

impl From<Layout> for BlockSizes {
    fn from(layout: Layout) -> Self {
        Self { N: layout.frames_per_segment(), k: layout.frames_per_chunk, D: DATA_OFFSET }
    }
}

impl Law {
    /// Compares the terms.
    pub fn check(frame_count: u64, received: Option<u64>, durable: u64, gaps: &Gaps) -> Self {
        let by_reason = gaps.by_reason();
        let reason = |reason| by_reason.get(&reason).copied().unwrap_or(0);
        // A frame that the receiver lost was never received whole; what came after it lost the frame here.
        let lost = [GapReason::WriteFailed, GapReason::LostInCrash, GapReason::Damaged].map(reason);
        let kept = lost.into_iter().fold(durable, u64::saturating_add);
        let accounted = by_reason.values().fold(durable, |sum, &count| sum.saturating_add(count));
        let end = gaps.iter().map(|gap| gap.first.saturating_add(gap.count)).max().unwrap_or(0);
        let received_or_kept = received.unwrap_or(kept);
        let excess = [
            (frame_count.saturating_sub(accounted), "frames are not accounted for"),
            (accounted.saturating_sub(frame_count), "frames are accounted for twice"),
            (end.saturating_sub(frame_count), "frames of gaps lie beyond the end"),
            (received_or_kept.saturating_sub(kept), "frames were received and are neither durable nor refused"),
            (kept.saturating_sub(received_or_kept), "frames are durable or refused and were never received"),
        ];
        let violations = excess.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let violations: Vec<String> = violations.collect();
        Self { frame_count, received, durable, gaps: by_reason, holds: violations.is_empty(), violations }
    }
}

/// `192 frames = 190 durable + 2 never arrived`, and what is wrong with that.
impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.holds { "=" } else { "!=" };
        write!(f, "{} frames {sign} {} durable", self.frame_count, self.durable)?;
        for (reason, count) in &self.gaps {
            let word = serde_json::to_value(reason).unwrap_or_default(); // A word always serialises.
            write!(f, " + {count} {}", word.as_str().unwrap_or_default().replace('_', " "))?;
        }
        if let Some(received) = self.received.filter(|_| !self.holds) {
            write!(f, ", {received} received")?;
        }
        self.violations.iter().try_for_each(|violation| write!(f, ": {violation}"))
    }
}

impl Manifest {
    /// The text of the data set's group `zarr.json`.
    pub fn to_json(&self) -> Value {
        group_json(serde_json::json!({ "ronchi": self }))
    }

    /// Reads the manifest from the group's `zarr.json`.
    pub fn from_json(text: &str) -> Result<Self, FormatError> {
        let json_error = |message: String| FormatError::Json { what: "manifest", message };
        let mut json: Value = serde_json::from_str(text).map_err(|error| json_error(error.to_string()))?;
        let manifest = json.pointer_mut("/attributes/ronchi").map(Value::take);
        let manifest = manifest.ok_or_else(|| json_error("no attribute ronchi".to_owned()))?;
        // The version comes first: a newer manifest may have other fields.
        if let Some(got) = manifest.get("layout_version").and_then(Value::as_u64)
            && got > u64::from(LAYOUT_VERSION)
        {
            return Err(FormatError::Newer { got: u32::try_from(got).unwrap_or(u32::MAX) });
        }
        serde_json::from_value(manifest).map_err(|error| json_error(error.to_string()))
    }
}

/// `progress.json` of one tile: replaced by rename, so always whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Identity of the acquisition, as text.
    pub uuid: String,
    /// Tile id.
    pub tile: u32,
    /// Frames below this are final: readable, or not there and flagged so.
    pub visible_frames: u64,
    /// Frames below this are durable or not there: never taken back.
    pub durable_frames: u64,
    /// Frames that are readable, in all, also above `visible_frames`.
    pub written_count: u64,
    /// Frames that are durable, in all.
    pub durable_count: u64,
    /// Segments that are final.
    pub segments_sealed: u64,
    /// Frames below `visible_frames` that are not there.
    pub missing: u64,
    /// Wall time of this publication, ns since the Unix epoch.
    pub time_ns: u64,
    /// State of the tile.
    pub state: DataSetState,
}

impl Progress {
    /// Reads `progress.json`.
    pub fn from_json(text: &str) -> Result<Self, FormatError> {
        serde_json::from_str(text)
            .map_err(|error| FormatError::Json { what: "progress.json", message: error.to_string() })
    }
}

/// The usual text of a UUID: 8-4-4-4-12 hexadecimal digits.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteOrder, GapReason, PixelKind, PixelType};
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let shape = SigShape { height: 4, width: 6 };
        Manifest {
            layout_version: LAYOUT_VERSION,
            uuid: uuid_text(b"0123456789abcdef"),
            name: "a".into(),
            created: "2026-01-01T00:00:00Z".into(),
            state: DataSetState::Complete,
            scan: Some(Scan::raster(NavShape { height: 2, width: 3 }).into()),
            frame_count: Some(6),
            detector: DetectorInfo::new(shape, PixelType::new(PixelKind::U16, ByteOrder::Big), &[shape.region()]),
            block: Layout { frame_bytes: 48, frames_per_chunk: 3, chunks_per_segment: 2 }.into(),
            gaps: vec![TileGaps {
                tile: 0,
                frame_count: 2,
                ranges: vec![Gap { first: 1, count: 2, reason: GapReason::NeverArrived }],
                is_cut: false,
                law: Some(law(6, Some(4), 4, &[(1, 2, GapReason::NeverArrived)])),
            }],
            unsound: false,
            software: "ronchi 0.1.0".into(),
            repairs: Vec::new(),
            vendor_header: "HDR,".into(),
            user: Value::Null,
        }
    }

    fn law(frame_count: u64, received: Option<u64>, durable: u64, gaps: &[(u64, u64, GapReason)]) -> Law {
        let mut listed = Gaps::default();
        gaps.iter().for_each(|&(first, count, reason)| listed.insert(first..first + count, reason));
        Law::check(frame_count, received, durable, &listed)
    }

    /// The law holds when every frame has one place, whatever the reasons, and also when the receiver was cut off.
    #[test]
    fn the_law_holds() {
        use GapReason::{DroppedBackpressure, LostInCrash, NeverArrived, Rejected, WriteFailed};
        assert!(law(0, Some(0), 0, &[]).holds && law(10, Some(10), 10, &[]).holds);
        let mixed = [(0, 1, NeverArrived), (2, 1, Rejected), (4, 1, DroppedBackpressure), (6, 3, WriteFailed)];
        assert!(law(10, Some(7), 4, &mixed).holds);
        assert!(law(10, None, 4, &mixed).holds);
        assert!(law(3, Some(3), 1, &[(0, 1, WriteFailed), (1, 1, LostInCrash)]).holds);
        let shown = law(10, Some(7), 4, &mixed).to_string();
        assert_eq!(
            shown,
            "10 frames = 4 durable + 1 never arrived + 1 rejected + 1 dropped backpressure + 3 write failed"
        );
    }

    /// Each way in which the law can be violated is found, with its number, and no other.
    #[test]
    fn the_law_is_violated() {
        use GapReason::{NeverArrived, WriteFailed};
        let cases = [
            (law(10, None, 8, &[(8, 1, NeverArrived)]), "1 frames are not accounted for"),
            (law(10, None, 9, &[(7, 3, NeverArrived)]), "2 frames are accounted for twice"),
            (law(10, Some(9), 9, &[(12, 1, NeverArrived)]), "3 frames of gaps lie beyond the end"),
            (
                law(10, Some(9), 8, &[(8, 2, NeverArrived)]),
                "1 frames were received and are neither durable nor refused",
            ),
            (law(10, Some(4), 8, &[(8, 2, WriteFailed)]), "6 frames are durable or refused and were never received"),
        ];
        for (law, violation) in cases {
            assert_eq!((law.holds, law.violations.as_slice()), (false, [violation.to_owned()].as_slice()));
            assert!(law.to_string().ends_with(violation) && law.to_string().contains("10 frames != "), "{law}");
        }
        let worst = law(u64::MAX, Some(u64::MAX), u64::MAX, &[(0, u64::MAX - 1, WriteFailed)]);
        assert!(!law(1, Some(3), 3, &[]).holds && worst.frame_count == u64::MAX, "{worst}");
    }

    /// A manifest without the law, as early receivers wrote it, is read; nothing is claimed of it.
    #[test]
    fn manifest_without_a_law() {
        let mut json = manifest().to_json();
        let ronchi = json["attributes"]["ronchi"].as_object_mut().expect("manifest");
        assert_eq!(ronchi.remove("unsound"), Some(false.into()));
        let gaps = ronchi["gaps"][0].as_object_mut().expect("entry");
        assert_eq!(gaps.remove("law").expect("law")["holds"], true);
        let read = Manifest::from_json(&json.to_string()).expect("a manifest");
        assert_eq!((read.gaps[0].law.as_ref(), read.unsound), (None, false));
    }

    /// A manifest survives its text; a newer version is refused by its number.
    #[test]
    fn manifest_round_trip() {
        let mut json = manifest().to_json();
        assert_eq!(Manifest::from_json(&json.to_string()), Ok(manifest()));
        assert_eq!(json["attributes"]["ronchi"]["block"], serde_json::json!({ "N": 6, "k": 3, "D": 8192 }));
        assert_eq!(json["attributes"]["ronchi"]["uuid"], "30313233-3435-3637-3839-616263646566");
        json["attributes"]["ronchi"]["layout_version"] = 2.into();
        assert_eq!(Manifest::from_json(&json.to_string()), Err(FormatError::Newer { got: 2 }));
    }

    proptest! {
        /// Arbitrary text is an error, not a panic.
        #[test]
        fn arbitrary_text(text in ".{0,200}") {
            prop_assert!(Manifest::from_json(&text).is_err());
            prop_assert!(Progress::from_json(&text).is_err());
        }
    }
}
