//! What a machine finds after the power went: for every sector, length and name that no sync covered, something else.
//!
//! The model, with sectors of 512 bytes:
//! - Synced content, lengths and names are there.
//! - Of a sector with unsynced writes there is the newest content (*kept*), that of the last sync (*dropped*), or one in
//!   between (*stale*). If it held nothing durable, it may also hold anything (*garbage*), or what some other write put
//!   on the disk before (stale, too).
//! - A sector that held durable content when it was written again is old or new, never garbage: disks promise that much
//!   for one logical block. [`Mode::Torn`] takes this promise away.
//! - A length is that of the last sync or any later one. Changes of one name are lost from the newest on; those of other
//!   names independently; a rename as a whole.
//! - With [`Mode::Lie`] syncs do nothing at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::record::{Change, Kind, Length, NEVER, Naming, Node, Record, Write};

const SECTOR: usize = 512;

/// How far disks can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Syncs are honoured, sectors are written whole.
    Honest,
    /// Syncs are honoured, but any sector that was being written may be garbage.
    Torn,
    /// Syncs do nothing.
    Lie,
}

/// A file system found after a crash: paths relative to its root.
pub(crate) type Image = BTreeMap<PathBuf, Entry>;

/// What has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Dir,
    File(Vec<u8>),
    Link(PathBuf),
}

/// How often each fate came to pass where it made a difference.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fates {
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
    pub(crate) stale: u64,
    pub(crate) garbage: u64,
    pub(crate) cut_lengths: u64,
    pub(crate) lost_names: u64,
    pub(crate) lost_renames: u64,
    pub(crate) lost_removals: u64,
    pub(crate) lies: u64,
}

impl Fates {
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.all_mut().into_iter().zip(other.clone().all_mut()) {
            *sum += *more;
        }
    }

    fn all_mut(&mut self) -> [&mut u64; 9] {
        let Self { kept, dropped, stale, garbage, cut_lengths, lost_names, lost_renames, lost_removals, lies } = self;
        [kept, dropped, stale, garbage, cut_lengths, lost_names, lost_renames, lost_removals, lies]
    }

    /// Whether every kind of fate came to pass.
    pub(crate) fn are_all_seen(&self) -> bool {
        self.clone().all_mut().iter().all(|count| **count > 0)
    }
}

/// Weights of kept, dropped, stale and garbage.
type Mood = [u64; 4];

const MOODS: [Mood; 7] =
    [[1, 1, 1, 1], [20, 1, 1, 1], [1, 20, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]];

/// A crash of a recorded run: after the steps below `at`.
pub(crate) struct Crash<'a> {
    record: &'a Record,
    mode: Mode,
    at: usize,
    dice: Dice,
    mood: Mood,
    /// Files with this in their path are as new as can be, and all others as old.
    kept: Option<&'static str>,
    pub(crate) fates: Fates,
}

const KEEP: Mood = [1, 0, 0, 0];
const DROP: Mood = [0, 1, 0, 0];

impl<'a> Crash<'a> {
    /// Everything that is left open is decided by the seed.
    pub(crate) fn new(record: &'a Record, mode: Mode, at: usize, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mood = MOODS[dice.below(MOODS.len() as u64) as usize];
        Self { record, mode, at, dice, mood, kept: None, fates: Fates::default() }
    }

    /// As [`Self::new`], with nothing left open: all that is not durable is lost, but for files like this one.
    pub(crate) fn keeping(record: &'a Record, at: usize, kept: &'static str) -> Self {
        Self { kept: Some(kept), mood: DROP, dice: Dice::new(0), ..Self::new(record, Mode::Honest, at, 0) }
    }

    /// As [`Self::new`], with nothing left open: all that is not durable is lost.
    pub(crate) fn losing_all(record: &'a Record, at: usize) -> Self {
        Self { mood: DROP, dice: Dice::new(0), ..Self::new(record, Mode::Honest, at, 0) }
    }

    /// As [`Self::new`], with everything kept: the process died, not the machine.
    pub(crate) fn keeping_all(record: &'a Record) -> Self {
        Self { mood: KEEP, dice: Dice::new(0), ..Self::new(record, Mode::Honest, record.steps, 0) }
    }

    /// After how many steps.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What is found.
    pub(crate) fn image(&mut self) -> Image {
        let mut image = Image::new();
        self.find(0, Path::new(""), &mut image);
        image
    }

    fn is_durable(&mut self, at: usize) -> bool {
        let is_durable = at < self.at;
        if is_durable && self.mode == Mode::Lie {
            self.fates.lies += 1;
            return false;
        }
        is_durable
    }

    /// How many of `all` changes, of which the first `durable` stay, are there.
    fn reach(&mut self, durable: usize, all: usize) -> usize {
        match self.mood {
            _ if durable == all => all,
            [_, 0, 0, 0] => all,
            [0, _, 0, 0] => durable,
            _ => durable + self.dice.below((all - durable) as u64 + 1) as usize,
        }
    }

    fn find(&mut self, node: Node, path: &Path, image: &mut Image) {
        for (name, child) in self.names(node, path) {
            let path = path.join(name);
            let (whole, own) = (self.mood, self.dice.below(MOODS.len() as u64 * 2) as usize);
            if let Some(&mood) = MOODS.get(own).filter(|_| whole.iter().filter(|&&weight| weight > 0).count() > 1) {
                self.mood = mood; // Some files fare differently.
            }
            self.mood = self.mood_of(&path);
            match &self.record.kinds[child] {
                Kind::Dir => {
                    image.insert(path.clone(), Entry::Dir);
                    self.find(child, &path, image);
                }
                Kind::File => {
                    let content = self.content(child);
                    image.insert(path, Entry::File(content));
                }
                Kind::Link(target) => {
                    image.insert(path, Entry::Link(target.clone()));
                }
            }
            self.mood = whole;
        }
    }

    /// How a file fares.
    fn mood_of(&self, path: &Path) -> Mood {
        match self.kept {
            Some(kept) if path.to_string_lossy().contains(kept) => KEEP,
            Some(_) => DROP,
            None => self.mood,
        }
    }

    fn names(&mut self, directory: Node, path: &Path) -> BTreeMap<String, Node> {
        let record = self.record;
        let all = record.changes.get(&directory).map_or(&[][..], Vec::as_slice);
        let mut groups: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
        for change in all.iter().filter(|change| change.at < self.at) {
            groups.entry(change.what.group()).or_default().push(change);
        }
        let mut names = BTreeMap::new();
        for (group, changes) in groups {
            self.mood = self.mood_of(&path.join(group));
            let durable = changes.iter().filter(|change| self.is_durable(change.durable)).count();
            let reach = self.reach(durable, changes.len());
            for (at, change) in changes.iter().enumerate() {
                match (&change.what, at < reach) {
                    (Naming::Add(name, node), true) => drop(names.insert(name.clone(), *node)),
                    (Naming::Remove(name), true) => drop(names.remove(name)),
                    (Naming::Rename(from, to, node), true) => {
                        names.remove(from);
                        names.insert(to.clone(), *node);
                    }
                    (Naming::Add(..), false) => self.fates.lost_names += 1,
                    (Naming::Remove(_), false) => self.fates.lost_removals += 1,
                    (Naming::Rename(..), false) => self.fates.lost_renames += 1,
                }
            }
        }
        names
    }

    fn length(&mut self, node: Node) -> usize {
        let record = self.record;
        let all = record.lengths.get(&node).map_or(&[][..], Vec::as_slice);
        let all: Vec<&Length> = all.iter().filter(|length| length.at < self.at).collect();
        let durable = all.iter().filter(|length| self.is_durable(length.durable)).count();
        let reach = self.reach(durable, all.len());
        self.fates.cut_lengths += u64::from(reach < all.len());
        reach.checked_sub(1).map_or(0, |last| all[last].bytes as usize)
    }

    fn content(&mut self, node: Node) -> Vec<u8> {
        let record = self.record;
        let mut content = vec![0; self.length(node)];
        let mut sectors: Vec<Vec<&Write>> = vec![Vec::new(); content.len().div_ceil(SECTOR)];
        for write in record.writes.iter().filter(|write| write.node == node && write.begin < self.at) {
            let (start, end) = (write.offset as usize, write.offset as usize + write.bytes.len());
            for sector in start / SECTOR..end.div_ceil(SECTOR).min(sectors.len()) {
                sectors[sector].push(write);
            }
        }
        for (number, writes) in sectors.iter().enumerate().filter(|(_, writes)| !writes.is_empty()) {
            let mut sector = [0; SECTOR];
            self.sector(writes, number * SECTOR, &mut sector);
            let rest = &mut content[number * SECTOR..];
            let count = rest.len().min(SECTOR);
            rest[..count].copy_from_slice(&sector[..count]);
        }
        content
    }

    /// What is found where these writes went, in the order in which they were begun.
    fn sector(&mut self, writes: &[&Write], offset: usize, sector: &mut [u8; SECTOR]) {
        let is_durable: Vec<bool> = writes.iter().map(|write| self.is_durable(write.durable)).collect();
        let synced = is_durable.iter().rposition(|&is_durable| is_durable).map_or(0, |last| last + 1);
        for (write, &is_durable) in writes[..synced].iter().zip(&is_durable) {
            // One that was not covered when a later one was: still in flight, or given up by a failed sync.
            if is_durable || self.dice.coin() {
                apply(write, offset, sector);
            }
        }
        let open = &writes[synced..];
        if open.is_empty() {
            return;
        }
        let may_be_anything = synced == 0 || self.mode != Mode::Honest;
        let old = *sector;
        open.iter().for_each(|write| apply(write, offset, sector));
        let new = *sector;
        let mut fate = self.dice.pick(&self.mood);
        if fate >= 2 && !may_be_anything && (fate == 3 || open.len() < 2) {
            fate = self.dice.below(2) as usize;
        }
        match fate {
            0 => {}
            1 => *sector = old,
            2 if open.len() >= 2 => {
                *sector = old;
                let some = 1 + self.dice.below(open.len() as u64 - 1) as usize;
                open[..some].iter().for_each(|write| apply(write, offset, sector));
            }
            2 => self.elsewhere(sector),
            _ => self.dice.fill(sector),
        }
        if old != new {
            let counts =
                [&mut self.fates.kept, &mut self.fates.dropped, &mut self.fates.stale, &mut self.fates.garbage];
            *counts.into_iter().nth(fate).expect("four fates") += 1;
        }
    }

    /// A sector that some write put on the disk, wherever that was.
    fn elsewhere(&mut self, sector: &mut [u8; SECTOR]) {
        let count = self.record.writes.partition_point(|write| write.begin < self.at);
        let write = &self.record.writes[self.dice.below(count as u64) as usize];
        let start = self.dice.below(write.bytes.len().div_ceil(SECTOR) as u64) as usize * SECTOR;
        let bytes = &write.bytes[start..write.bytes.len().min(start + SECTOR)];
        sector.fill(0);
        sector[..bytes.len()].copy_from_slice(bytes);
    }
}

fn apply(write: &Write, offset: usize, sector: &mut [u8; SECTOR]) {
    debug_assert!(write.begin != NEVER);
    let (start, end) = (write.offset as usize, write.offset as usize + write.bytes.len());
    let (from, to) = (start.max(offset), end.min(offset + SECTOR));
    if from < to {
        sector[from - offset..to - offset].copy_from_slice(&write.bytes[from - start..to - start]);
    }
}
