//! Pixels without data: those that carry the value by which their detector says so, and those that it masks.
//!
//! # Definition
//! A pixel without data counts as 0 in every sum. Extremes, means, variances and histograms do not see it, and it is not
//! saturated. A bad pixel is replaced by its neighbours, whatever it carries; among those a pixel without data counts as 0.
//!
//! # Place in the path
//! Before the kernels: a [`super::Reducer`] gives them a copy of the frames in which these pixels are 0. What 0 is not
//! neutral for is put right here, pixel by pixel: they are few.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;
use super::exact::{Exact, scale};
use super::extremes::Extremes;
use super::frames::Frames;
use super::partial::Values;
use super::patterns::{Accumulator, Patterns};
use super::spec::{Column, ColumnKind, Source, Spec, pixel_max};
use crate::{ByteOrder, PixelKind, PixelType, Region};

/// Pixels that are copied in one go, unless a frame has more, in bytes: they stay in the second cache.
const PIECE_BYTES: usize = 256 << 10;
/// Pixels that are looked at together.
const BLOCK: usize = 64;

/// The value by which a detector says that a pixel has no data. In JSON `"none"`, `"max"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Word", into = "Word")]
pub enum NoData {
    /// No value: every pixel has data, also those that a detector masks.
    None,
    /// The largest value of the pixel type.
    Max,
    /// This value.
    Value(u32),
}

/// A [`NoData`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Value(u32),
    Text(String),
}

impl From<NoData> for Word {
    fn from(nodata: NoData) -> Self {
        match nodata {
            NoData::Value(value) => Self::Value(value),
            word => Self::Text(word.to_string()),
        }
    }
}

impl TryFrom<Word> for NoData {
    type Error = String;

    fn try_from(word: Word) -> Result<Self, Self::Error> {
        match word {
            Word::Value(value) => Ok(Self::Value(value)),
            Word::Text(text) => [Self::None, Self::Max]
                .into_iter()
                .find(|nodata| nodata.to_string() == text)
                .ok_or_else(|| format!("got {text:?}, expected none, max or a number")),
        }
    }
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Max => f.write_str("max"),
            Self::Value(value) => value.fmt(f),
        }
    }
}

impl NoData {
    /// The value among pixels of a type; `None` where they cannot carry it. Floating point pixels never do: they have NaN.
    pub(super) fn value(self, kind: PixelKind) -> Option<u32> {
        let max = pixel_max(kind)?;
        match self {
            Self::None => None,
            Self::Max => Some(max),
            Self::Value(value) => (value <= max).then_some(value),
        }
    }
}

/// When a pixel has no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// Never: it is bad, and replaced.
    Never,
    /// When it carries the value that says so.
    Value,
    /// Always: it is masked.
    Always,
}

/// What a plan does with the pixels without data of a tile.
#[derive(Debug, Clone)]
pub(super) struct NoDataPlan {
    /// Bytes of a pixel.
    pixel_bytes: usize,
    /// The value as it comes, if there is one.
    encoded: Option<Vec<u8>>,
    /// Of every pixel of the tile, C order.
    pixels: Vec<Lacks>,
    /// Whether some of [`BLOCK`] pixels are masked.
    masked_blocks: Vec<bool>,
    /// Weights of the columns that count pixels without data, and what of: C order over `reach`.
    counts: Vec<(ColumnKind, Vec<f64>)>,
    tile: Region,
    /// What the pixels of the tile can come to lie on when frames are moved; else the tile.
    reach: Region,
    /// Whether extremes must be put right after every frame.
    has_extremes: bool,
}

impl NoDataPlan {
    /// For these columns and patterns; `None` where all pixels have data.
    pub(super) fn new(
        spec: &Spec,
        tile: Region,
        reach: Region,
        columns: &[&Column],
        accumulators: &[Accumulator],
    ) -> Option<Self> {
        let Conditions { nodata, pixel_mask, .. } = &spec.conditions;
        let value = nodata.and_then(|nodata| nodata.value(spec.pixel.kind));
        if value.is_none() && pixel_mask.is_none() {
            return None;
        }
        let good = spec.correction().good_of_tile(tile);
        let masked = pixel_mask.as_ref().map_or_else(|| vec![false; good.len()], |mask| mask.masked_in(tile));
        let lacks = |(good, masked)| match (good, masked) {
            (false, _) => Lacks::Never,
            (true, false) => Lacks::Value,
            (true, true) => Lacks::Always,
        };
        let pixels: Vec<Lacks> = good.into_iter().zip(masked).map(lacks).collect();
        let weights = |column: &&Column| {
            let Source::NoData(mask) = column.source else { return None };
            let mut weights = spec.masks[mask].crop(reach)?.to_image();
            weights.iter_mut().for_each(|weight| *weight = scale(*weight, -column.exponent));
            Some((column.kind, weights))
        };
        let is_corrected = spec.conditions.correction.is_some();
        let is_extreme = |accumulator: &Accumulator| match accumulator {
            Accumulator::Min => true,
            Accumulator::Max => is_corrected, // Else 0 is neutral.
            _ => false,
        };
        Some(Self {
            pixel_bytes: spec.pixel.bytes(),
            encoded: value.map(|value| encoded(value, spec.pixel)),
            masked_blocks: pixels.chunks(BLOCK).map(|block| block.contains(&Lacks::Always)).collect(),
            pixels,
            counts: columns.iter().filter_map(weights).collect(),
            tile,
            reach,
            has_extremes: accumulators.iter().any(is_extreme),
        })
    }

    /// Where a pixel of the tile comes to lie in [`Self::reach`] when the frame is moved by minus `shift`; `None` outside.
    fn moved(&self, place: u32, [dy, dx]: [i32; 2]) -> Option<usize> {
        let (y, x) = (self.tile.y + place / self.tile.width, self.tile.x + place % self.tile.width);
        let local = |at: u32, shift: i32, first: u32, length: u32| {
            let at = i64::from(at) - i64::from(shift) - i64::from(first);
            (0..i64::from(length)).contains(&at).then_some(at as usize)
        };
        let y = local(y, dy, self.reach.y, self.reach.height)?;
        Some(y * self.reach.width as usize + local(x, dx, self.reach.x, self.reach.width)?)
    }

    fn count(&self, kind: ColumnKind, weights: &[f64], places: &[u32], shift: [i32; 2]) -> Count {
        let weights = places.iter().filter_map(|&place| Some(weights[self.moved(place, shift)?]));
        if kind != ColumnKind::Exact {
            return Count::Pixels(weights.filter(|&weight| weight != 0.0).count() as u64);
        }
        let mut sum = Exact::default();
        weights.for_each(|weight| sum.add_f64(weight)); // A tile has less than 2^30 pixels.
        sum.settle();
        Count::Weights(sum)
    }

    /// How many frames of a tile are taken at once.
    pub(super) fn frames_at_once(&self, frame_bytes: usize) -> usize {
        if self.has_extremes { 1 } else { (PIECE_BYTES / frame_bytes.max(1)).max(1) }
    }
}

fn encoded(value: u32, pixel: PixelType) -> Vec<u8> {
    let mut bytes = value.to_le_bytes()[..pixel.bytes()].to_vec();
    if pixel.order == ByteOrder::Big {
        bytes.reverse();
    }
    bytes
}

/// Frames whose pixels without data are 0, and what is known of those pixels; scratch of one reducer.
#[derive(Debug, Default)]
pub(super) struct NoDataFrames {
    bytes: Vec<u8>,
    /// Places in the tile, frame by frame, ascending.
    places: Vec<u32>,
    /// What the frame before had, and what was counted of it: most detectors have the same gaps in every frame.
    last: (Vec<u32>, [i32; 2], Vec<Count>),
    extremes: Extremes,
    /// Values of the columns that count, of the last frames.
    pub(super) columns: Vec<Values>,
}

/// One number of a column.
#[derive(Debug, Clone, Copy)]
enum Count {
    Pixels(u64),
    Weights(Exact),
}

impl NoDataFrames {
    /// Finds the pixels without data of the frames at positions `taken`; other frames stay as they are.
    /// `shift` is that of a frame's masks.
    pub(super) fn find(
        &mut self,
        plan: &NoDataPlan,
        frames: &Frames<'_>,
        taken: &[usize],
        shift: impl Fn(u64) -> [i32; 2],
    ) {
        self.bytes.clear();
        self.bytes.extend_from_slice(frames.bytes);
        self.places.clear();
        self.columns = plan.counts.iter().map(|&(kind, _)| Values::new(kind)).collect();
        let (frame_bytes, pixel_bytes) = (frames.frame_bytes(), plan.pixel_bytes);
        for &position in taken {
            let first = self.places.len();
            let frame = &mut self.bytes[position * frame_bytes..][..frame_bytes];
            find(frame, plan, &mut self.places);
            for &place in &self.places[first..] {
                frame[place as usize * pixel_bytes..][..pixel_bytes].fill(0);
            }
            self.count(plan, first, shift(frames.first + position as u64));
        }
    }

    /// The frames without what says that there are no data.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends what is counted of the frame whose places begin at `first`.
    fn count(&mut self, plan: &NoDataPlan, first: usize, shift: [i32; 2]) {
        let places = &self.places[first..];
        let (known, known_shift, counts) = &mut self.last;
        if known != places || *known_shift != shift || counts.len() != plan.counts.len() {
            *known_shift = shift;
            known.clear();
            known.extend_from_slice(places);
            *counts = plan.counts.iter().map(|(kind, weights)| plan.count(*kind, weights, places, shift)).collect();
        }
        for (column, count) in self.columns.iter_mut().zip(counts) {
            match *count {
                Count::Pixels(count) => column.push_integer(count.into()),
                Count::Weights(sum) => column.push_exact(sum),
            }
        }
    }

    /// Remembers what patterns must not lose to the pixels of the last frame that are only there for the kernels.
    pub(super) fn before(&mut self, plan: &NoDataPlan, patterns: &Patterns) {
        if plan.has_extremes {
            patterns.extremes_at(&self.places, &mut self.extremes);
        }
    }

    /// Puts patterns right that have seen the last frames.
    pub(super) fn after(&self, plan: &NoDataPlan, patterns: &mut Patterns) {
        if plan.has_extremes {
            patterns.put_extremes(&self.places, &self.extremes);
        }
        patterns.count_nodata(&self.places);
    }
}

/// Appends the places of pixels that have no data, but bad ones.
fn find(frame: &[u8], plan: &NoDataPlan, places: &mut Vec<u32>) {
    fn pixels<const BYTES: usize>(frame: &[u8], plan: &NoDataPlan, places: &mut Vec<u32>) {
        let value = plan.encoded.as_deref().and_then(|value| <[u8; BYTES]>::try_from(value).ok());
        for (block, pixels) in frame.as_chunks::<BYTES>().0.chunks(BLOCK).enumerate() {
            // Without a branch, so that this is vector code: most blocks have none.
            let any = |value| pixels.iter().fold(false, |any, &pixel| any | (pixel == value));
            if plan.masked_blocks[block] || value.is_some_and(any) {
                let lacks = |&(place, &pixel): &(usize, &[u8; BYTES])| match plan.pixels[place] {
                    Lacks::Never => false,
                    Lacks::Value => Some(pixel) == value,
                    Lacks::Always => true,
                };
                let found = (block * BLOCK..).zip(pixels).filter(lacks);
                places.extend(found.map(|(place, _)| place as u32));
            }
        }
    }
    match plan.pixel_bytes {
        1 => pixels::<1>(frame, plan, places),
        2 => pixels::<2>(frame, plan, places),
        _ => pixels::<4>(frame, plan, places),
    }
}
