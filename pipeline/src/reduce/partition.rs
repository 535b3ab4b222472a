//! Binary masks as a partition: every pixel belongs to one set of pixels that the same masks hold, however many masks there are.
//!
//! # Place in the path
//! Made by [`super::digits`] with a plan; [`super::lanes`] adds the pixels of every set once and gives the sums to all masks of the set.
//!
//! # Units
//! A frame is one line of pixels, cut into pieces ([`super::stage`]). A *pair* is two pixels beside each other, a *block* eight pairs.
//!
//! # Invariants
//! - I1: each pixel that any mask holds is in one set; each pixel of a set is in one quad of its piece.
//! - I2: coordinates are below 2^15, frames have at most 2^24 pixels, a piece has at most 256 sets: sums of bytes then stay in their lanes.

use std::collections::{BTreeMap, HashMap};

use super::digits::Factor;
use super::mask::Mask;
use super::stage::PIECE_PIXELS;
use crate::Region;

/// Pairs of a piece.
pub(super) const PAIRS: usize = PIECE_PIXELS / 2;
/// Pairs of a block.
pub(super) const BLOCK_PAIRS: usize = 8;
/// A pair that is 0 in all frames.
const NO_PAIR: u8 = PAIRS as u8;
/// Coordinates are lanes of 16 bits.
const COORDINATE_END: u32 = 1 << 15;
/// Sums of bytes are lanes of 32 bits.
const PIXELS_MAX: u64 = 1 << 24;
/// Pixels for each member of a set: giving sums to masks should cost less than making them.
const PIXELS_PER_MEMBER: usize = 16;
/// Members that any tile may have.
const MEMBERS_MIN: usize = 4096;

/// Which pixels of a pair belong to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Both,
    First,
    Second,
}

/// Four pairs of one set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quad {
    /// Number of the set in the piece.
    pub(super) set: u8,
    pub(super) side: Side,
    pub(super) pairs: [u8; 4],
}

/// Pixels of one row of the detector in a block, under a mask of which moments are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Number of the block in its piece.
    pub(super) block: u8,
    /// Number of the mask.
    pub(super) mask: u32,
    /// Number of its weights.
    pub(super) weights: u32,
    pub(super) y: i16,
    /// Column of the first pixel of the block, were it in this row.
    pub(super) x: i16,
}

/// Weights of a block: 1 for each pixel that counts, and its place in the block; of a pair in the lower two bytes and again
/// in the upper two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Weights {
    pub(super) ones: [u32; BLOCK_PAIRS],
    pub(super) places: [u32; BLOCK_PAIRS],
}

/// What is wanted of a piece.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Sets that it has pixels of.
    pub(super) sets: Vec<u32>,
    pub(super) quads: Vec<Quad>,
    pub(super) moments: Vec<Moment>,
    /// Bit `i` is set where block `i` is needed.
    pub(super) blocks: u16,
}

/// A column of sums.
#[derive(Debug, Clone)]
pub(super) enum ColumnSum {
    /// Of all these sets.
    Sets(Vec<u32>),
    /// Of the mask of this number, by row (0) or column (1).
    Moment(usize, usize),
}

/// The partition of a tile.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) pieces: Vec<Wanted>,
    pub(super) columns: Vec<ColumnSum>,
    pub(super) weights: Vec<Weights>,
    pub(super) set_count: usize,
    /// Masks of which moments are wanted.
    pub(super) moment_count: usize,
}

impl Partition {
    /// Of binary masks cropped to one tile; `None` where sums would not fit, or masks cut each other into too many sets.
    pub(super) fn new(columns: &[(&Mask, Factor)]) -> Option<Self> {
        let region = columns.first()?.0.region();
        let pixel_count = region.pixel_count();
        let end = (region.y + region.height).max(region.x + region.width);
        if end > COORDINATE_END || pixel_count > PIXELS_MAX {
            return None;
        }
        let masks: Vec<&Mask> =
            columns.iter().filter(|(_, factor)| *factor == Factor::One).map(|(mask, _)| *mask).collect();
        let sets = Sets::new(&masks, region)?;
        let mut moments: Vec<&Mask> = Vec::new();
        for (mask, _) in columns.iter().filter(|(_, factor)| *factor != Factor::One) {
            if !moments.contains(mask) {
                moments.push(mask);
            }
        }
        let mut numbers = 0..;
        let column = |&(mask, factor): &(&Mask, Factor)| {
            let number = |mask| moments.iter().position(|&other| other == mask).unwrap_or(0);
            match factor {
                Factor::One => ColumnSum::Sets(sets.of_mask(numbers.next().unwrap_or(0))),
                Factor::Row => ColumnSum::Moment(number(mask), 0),
                Factor::Column => ColumnSum::Moment(number(mask), 1),
            }
        };
        let mut made = Self {
            columns: columns.iter().map(column).collect(),
            pieces: sets.of_pixel.chunks(PIECE_PIXELS).map(Wanted::of_sets).collect(),
            weights: Vec::new(),
            set_count: sets.members.len(),
            moment_count: moments.len(),
        };
        let mut known = HashMap::new();
        for (number, mask) in (0..).zip(moments) {
            made.add_moments(number, mask, &mut known);
        }
        Some(made)
    }

    fn add_moments(&mut self, number: u32, mask: &Mask, known: &mut HashMap<Weights, u32>) {
        const BLOCK: u32 = 2 * BLOCK_PAIRS as u32;
        let region = mask.region();
        for y in 0..region.height {
            let line = y * region.width;
            let mut blocks: BTreeMap<u32, Weights> = BTreeMap::new();
            for at in mask.runs(y).iter().flat_map(|&(x0, x1)| line + x0..line + x1) {
                let weights = blocks.entry(at / BLOCK).or_insert(Weights { ones: [0; 8], places: [0; 8] });
                let (pair, place) = (at as usize % 16 / 2, at % BLOCK);
                let lane = 0x0001_0001 << (8 * (at % 2));
                weights.ones[pair] |= lane;
                weights.places[pair] |= place * lane;
            }
            for (block, weights) in blocks {
                let weights = *known.entry(weights).or_insert_with(|| {
                    self.weights.push(weights);
                    self.weights.len() as u32 - 1
                });
                let piece = &mut self.pieces[(block * BLOCK) as usize / PIECE_PIXELS];
                let block_of_piece = (block % (PIECE_PIXELS as u32 / BLOCK)) as u8;
                piece.blocks |= 1 << block_of_piece;
                // Both fit: coordinates are below 2^15, and a block begins less than 16 pixels before its row (I2).
                let x = (i64::from(region.x) + i64::from(block * BLOCK) - i64::from(line)) as i16;
                let y = (region.y + y) as i16;
                piece.moments.push(Moment { block: block_of_piece, mask: number, weights, y, x });
            }
        }
    }
}

impl Wanted {
    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// What sums of sets need of a piece.
    fn of_sets(of_pixel: &[u32]) -> Self {
        let mut pairs: BTreeMap<(u32, Side), Vec<u8>> = BTreeMap::new();
        let mut blocks = 0;
        for (pair, pixels) in (0..).zip(of_pixel.chunks(2)) {
            let [first, second] = [pixels[0], pixels.get(1).copied().unwrap_or(Sets::NONE)];
            let (both, apart) = ([(first, Side::Both)], [(first, Side::First), (second, Side::Second)]);
            let sides = if first == second { &both[..] } else { &apart[..] };
            for &(set, side) in sides.iter().filter(|(set, _)| *set != Sets::NONE) {
                pairs.entry((set, side)).or_default().push(pair);
                blocks |= 1 << (pair as usize / BLOCK_PAIRS);
            }
        }
        let mut sets: Vec<u32> = pairs.keys().map(|&(set, _)| set).collect();
        sets.dedup();
        let mut quads = Vec::new();
        for ((set, side), pairs) in pairs {
            let set = sets.partition_point(|&other| other < set) as u8; // At most 256 pixels, so as many sets.
            for four in pairs.chunks(4) {
                let mut pairs = [NO_PAIR; 4];
                pairs[..four.len()].copy_from_slice(four);
                quads.push(Quad { set, side, pairs });
            }
        }
        Self { sets, quads, moments: Vec::new(), blocks }
    }
}

/// New numbers of sets.
#[derive(Default)]
struct Names {
    known: HashMap<u32, u32>,
    /// Old and new number of the set asked for last: that of the next pixel mostly is the same.
    last: Option<(u32, u32)>,
}

impl Names {
    fn of(&mut self, set: u32, make: impl FnOnce(u32) -> u32) -> u32 {
        match self.last {
            Some((old, new)) if old == set => new,
            _ => {
                let new = *self.known.entry(set).or_insert_with(|| make(set));
                self.last = Some((set, new));
                new
            }
        }
    }
}

/// Sets of pixels that the same masks hold.
struct Sets {
    of_pixel: Vec<u32>,
    /// Masks that hold the pixels of a set.
    members: Vec<Vec<usize>>,
}

impl Sets {
    /// The set of pixels that no mask holds.
    const NONE: u32 = u32::MAX;

    /// `None` where there would be too many members.
    fn new(masks: &[&Mask], region: Region) -> Option<Self> {
        let pixel_count = region.pixel_count() as usize;
        let (mut of_pixel, mut members) = (vec![Self::NONE; pixel_count], Vec::<Vec<usize>>::new());
        let mut member_count = 0;
        for (number, mask) in masks.iter().enumerate() {
            let mut names = Names::default();
            for y in 0..region.height {
                let line = &mut of_pixel[(y * region.width) as usize..][..region.width as usize];
                for set in mask.runs(y).iter().flat_map(|&(x0, x1)| x0..x1).map(|x| x as usize) {
                    let set = &mut line[set];
                    *set = names.of(*set, |set| {
                        let mut with = members.get(set as usize).cloned().unwrap_or_default();
                        with.push(number);
                        member_count += with.len();
                        members.push(with);
                        members.len() as u32 - 1
                    });
                }
                if member_count > MEMBERS_MIN.max(pixel_count / PIXELS_PER_MEMBER) {
                    return None;
                }
            }
        }
        Some(Self { of_pixel, members }.compact())
    }

    /// Leaves out sets that have no pixels any more.
    fn compact(mut self) -> Self {
        let (mut names, mut members) = (Names::default(), Vec::new());
        for set in self.of_pixel.iter_mut().filter(|set| **set != Self::NONE) {
            *set = names.of(*set, |set| {
                members.push(std::mem::take(&mut self.members[set as usize]));
                members.len() as u32 - 1
            });
        }
        Self { members, ..self }
    }

    fn of_mask(&self, mask: usize) -> Vec<u32> {
        (0..).zip(&self.members).filter(|(_, members)| members.contains(&mask)).map(|(set, _)| set).collect()
    }
}
