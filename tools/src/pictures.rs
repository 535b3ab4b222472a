//! Live images as the publishers and the data set want them.

use std::collections::BTreeSet;
use std::ops::Range;

use ronchi_pipeline::FrameIndex;
use ronchi_pipeline::format::ScanInfo;
use ronchi_pipeline::reduce::{
    Derivation, Derived, LiveImage, LiveImages, Partial, Patterns, PlanError, ReducePlan, Reduction,
};
use ronchi_sinks::live::{Axis, Picture, Pictures};
use ronchi_sinks::storage::ResultArray;
use serde::Serialize;
use serde_json::json;

/// A result of a lab's own that has ended before the acquisition did: all its numbers are NaN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// Name of the result.
    pub name: String,
    /// What went wrong, and where.
    pub reason: String,
}

/// The images of one acquisition on the board.
pub(crate) struct Images {
    images: LiveImages,
    frames: Range<FrameIndex>,
    /// Results of which it was told that they have ended.
    told: BTreeSet<String>,
}

impl Pictures for Images {
    fn count(&self) -> usize {
        self.images.images().len()
    }

    fn picture(&self, index: usize) -> Box<dyn Picture + '_> {
        let image = self.images.images().nth(index).expect("index is below `count`, as the trait demands");
        Box::new(Shown { image, frames: self.frames.clone() })
    }
}

struct Shown<'a> {
    image: LiveImage<'a>,
    frames: Range<FrameIndex>,
}

impl Picture for Shown<'_> {
    fn name(&self) -> &str {
        self.image.name()
    }

    fn shape(&self) -> Vec<usize> {
        self.image.shape()
    }

    fn axes(&self) -> Vec<Axis> {
        self.image.axes().into_iter().map(Axis::pixels).collect()
    }

    fn version(&self) -> u64 {
        self.image.version()
    }

    fn rows_changed_since(&self, version: u64) -> Vec<Range<usize>> {
        self.image.rows_changed_since(version)
    }

    fn row_values(&self, rows: Range<usize>) -> Vec<f64> {
        self.image.row_values(rows)
    }

    fn frames(&self) -> Range<FrameIndex> {
        self.frames.clone()
    }

    fn config(&self) -> u32 {
        self.image.epoch()
    }

    fn params(&self) -> serde_json::Value {
        self.image.ended().map_or(serde_json::Value::Null, |reason| json!({ "ended": reason }))
    }
}

impl Images {
    /// Images without a frame in them.
    pub(crate) fn new(images: LiveImages) -> Self {
        Self { images, frames: 0..0, told: BTreeSet::new() }
    }

    /// Takes in values of frames of one link.
    pub(crate) fn merge(&mut self, link: u32, partial: &Partial) {
        if let (Some(&first), Some(&last)) = (partial.frames().first(), partial.frames().last()) {
            let start = if self.frames.is_empty() { first } else { self.frames.start.min(first) };
            self.frames = start..self.frames.end.max(last + 1);
        }
        self.images.merge(link, partial);
    }

    /// Takes in patterns of one link.
    pub(crate) fn merge_patterns(&mut self, link: u32, patterns: &Patterns) {
        self.images.merge_patterns(link, patterns);
    }

    /// Computes another list of reductions from now on.
    pub(crate) fn change(&mut self, reductions: &[Reduction]) -> Result<(), PlanError> {
        self.images.change(reductions)
    }

    /// How blocks of this link are reduced from now on.
    pub(crate) fn plan(&self, link: u32) -> Result<ReducePlan, PlanError> {
        self.images.plan(link)
    }

    /// Number of changes of the list so far.
    pub(crate) fn generation(&self) -> u32 {
        self.images.generation()
    }

    /// Number of those frames, each counted once.
    pub(crate) fn missing_count(&self, link: u32, frame_count: u64) -> u64 {
        self.images.missing_count(link, frame_count)
    }

    /// Frames below `frame_count` that have a place in the images and are not in all of them, on this link, and how to
    /// reduce them.
    pub(crate) fn holes(&self, link: u32, frame_count: u64) -> Vec<(Vec<Range<FrameIndex>>, ReducePlan)> {
        let holes = self.images.holes(link, 0..frame_count).into_iter();
        let planned = holes.map(|hole| {
            let plan = self.images.plan_for(link, &hole).expect("the list of reductions was planned before");
            (hole.frames, plan)
        });
        planned.collect()
    }

    /// What is to be computed from whole images, beside the board.
    pub(crate) fn derivations(&self) -> Vec<Derivation> {
        self.images.derivations()
    }

    /// Takes in what was computed.
    pub(crate) fn put(&mut self, derived: Derived) {
        self.images.put(derived);
    }

    /// Names of all results, in the order of the reductions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.images.images().map(|image| image.name())
    }

    /// Scan positions, or frames of the line, of which all tiles are in.
    pub(crate) fn complete_count(&self) -> u64 {
        self.images.complete_count()
    }

    /// Results of a lab's own that have ended, and why.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        let ending = |(name, reason): (&str, &str)| Ending { name: name.into(), reason: reason.into() };
        self.images.endings().map(ending).collect()
    }

    /// Those that nobody was told of.
    pub(crate) fn new_endings(&mut self) -> Vec<Ending> {
        let endings = self.endings().into_iter();
        endings.filter(|ending| self.told.insert(ending.name.clone())).collect()
    }

    /// Computes what needs whole images now.
    pub(crate) fn derive_all(&mut self) {
        self.images.derive_all();
    }

    /// Every result with exact numbers, and which scan positions are measured.
    pub(crate) fn stored(&self) -> Vec<ResultArray> {
        let valid = ResultArray {
            name: "valid".into(),
            shape: self.images.scan_shape().iter().map(|&extent| extent as u64).collect(),
            data_type: "uint8".into(),
            fill_value: json!(0),
            dimension_names: self.scan_axes(),
            attributes: json!({ "meaning": "1 where every tile of the frame was reduced, else 0" }),
            bytes: self.images.valid(),
        };
        let results = self.images.images().map(|image| {
            let stored = image.stored();
            let is_float = stored.zarr.starts_with("float");
            ResultArray {
                name: image.name().into(),
                shape: stored.shape.iter().map(|&extent| extent as u64).collect(),
                data_type: stored.zarr.into(),
                fill_value: if is_float { json!("NaN") } else { json!(0) },
                dimension_names: image.axes().into_iter().map(Into::into).collect(),
                attributes: self.attributes(&image),
                bytes: stored.bytes,
            }
        });
        results.chain([valid]).collect()
    }

    /// Unit, why it has ended if it has, the file of a plug-in, and what holds for all results.
    fn attributes(&self, image: &LiveImage<'_>) -> serde_json::Value {
        let mut attributes = json!({ "unit": image.unit() });
        if let Some(reason) = image.ended() {
            attributes["ended"] = reason.into();
        }
        if let Some(file) = image.file() {
            attributes[file.what] = file.to_json();
        }
        let conditions = self.images.conditions();
        if let Some(correction) = &conditions.correction {
            attributes["corrected"] = json!({ "bad_pixels": correction.bad_count() });
        }
        if let Some(roi) = &conditions.roi {
            attributes["roi_positions"] = json!(roi.position_count());
        }
        let told = conditions.to_json();
        if !told.is_empty() {
            attributes["conditions"] = told.into();
        }
        if let Some(scan) = self.images.scan().filter(|_| conditions.positions.is_none()) {
            attributes["scan"] = json!(ScanInfo::from(scan));
        }
        attributes
    }

    fn scan_axes(&self) -> Vec<String> {
        self.images.scan_axes().into_iter().map(Into::into).collect()
    }
}
