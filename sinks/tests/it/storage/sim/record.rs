//! What a writer did, step by step: every write, sync and change of a name, with its place in one sequence.
//!
//! Files and directories are *nodes*, numbered in the order of their making, so that a name that is given again, or an
//! inode number that is used again, is another node.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ronchi_pipeline::Watermarks;

/// Never within the run.
pub(crate) const NEVER: usize = usize::MAX;

/// Number of a file, directory or link.
pub(crate) type Node = usize;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File,
    Link(PathBuf),
}

/// Bytes on their way to a file. Places are numbers of steps.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) node: Node,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) begin: usize,
    /// Its completion was seen.
    pub(crate) end: usize,
    /// A sync that was begun after that has ended well, and none failed in between.
    pub(crate) durable: usize,
}

/// A length that a file was given, or that a write gave it.
#[derive(Debug)]
pub(crate) struct Length {
    pub(crate) bytes: u64,
    pub(crate) at: usize,
    pub(crate) durable: usize,
}

/// A change in a directory.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) at: usize,
    pub(crate) durable: usize,
    pub(crate) what: Naming,
}

/// How names change.
#[derive(Debug, Clone)]
pub(crate) enum Naming {
    Add(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

impl Naming {
    /// Changes of one name, with or without `.part`, keep their order; others need not.
    pub(crate) fn group(&self) -> &str {
        let (Self::Add(name, _) | Self::Remove(name) | Self::Rename(name, ..)) = self;
        name.strip_suffix(".part").unwrap_or(name)
    }
}

/// A sync of a file.
#[derive(Debug)]
struct Sync {
    node: Node,
    begin: usize,
    end: usize,
    is_ok: bool,
}

/// What the test and the outside world know of the run, by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// The writer was handed these frames of a tile.
    Fed(u32, Vec<u64>),
    /// Frames of a tile below this one were called durable: by the watermark or by `progress.json`.
    Durable(u32, u64),
    /// A tile ended, and these frames of it are gaps.
    Ended(u32, Vec<u64>),
}

/// The whole run.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) writes: Vec<Write>,
    pub(crate) lengths: HashMap<Node, Vec<Length>>,
    pub(crate) changes: BTreeMap<Node, Vec<Change>>,
    pub(crate) words: Vec<(usize, Word)>,
    /// Steps so far: a crash at step `p` comes after steps below `p`.
    pub(crate) steps: usize,
    /// Operations of disk and file system, and times a named step was passed.
    pub(crate) operations: u32,
    pub(crate) passed: u32,
    /// What went wrong because it was told to.
    pub(crate) hit: Option<String>,
    syncs: Vec<Sync>,
    names: BTreeMap<PathBuf, Node>,
    inodes: HashMap<u64, Node>,
    marks: Vec<Arc<Watermarks>>,
    seen: Vec<u64>,
}

impl Record {
    /// Of what happens below `root`, which is node 0 and always there.
    pub(crate) fn new(root: &Path) -> Self {
        let names = BTreeMap::from([(root.to_owned(), 0)]);
        Self { kinds: vec![Kind::Dir], names, ..Self::default() }
    }

    /// Watermarks whose values count as told to the world.
    pub(crate) fn watch(&mut self, marks: &[Arc<Watermarks>]) {
        (self.marks, self.seen) = (marks.to_vec(), vec![0; marks.len()]);
    }

    /// The next step; what was told before it is written down first.
    pub(crate) fn step(&mut self) -> usize {
        for tile in 0..self.marks.len() {
            let durable = self.marks[tile].durable();
            if durable > self.seen[tile] {
                self.seen[tile] = durable;
                self.say(Word::Durable(tile as u32, durable));
            }
        }
        self.steps += 1;
        self.steps - 1
    }

    /// Something that happened before the next step.
    pub(crate) fn say(&mut self, word: Word) {
        self.words.push((self.steps, word));
    }

    pub(crate) fn node_of(&self, file: &File) -> Node {
        self.inodes[&file.metadata().expect("an open file").ino()]
    }

    fn change(&mut self, path: &Path, what: impl FnOnce(String) -> Naming) {
        let parent = self.names[path.parent().expect("below the root")];
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let at = self.step();
        self.changes.entry(parent).or_default().push(Change { at, durable: NEVER, what: what(name) });
    }

    /// A new node with this name.
    pub(crate) fn add(&mut self, path: &Path, kind: Kind) {
        let node = self.kinds.len();
        if kind == Kind::File {
            let inode = std::fs::symlink_metadata(path).expect("was made").ino();
            self.inodes.insert(inode, node);
        }
        self.kinds.push(kind);
        self.change(path, |name| Naming::Add(name, node));
        self.names.insert(path.to_owned(), node);
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.change(path, Naming::Remove);
        self.names.remove(path);
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        assert_eq!(from.parent(), to.parent(), "renamed within a directory");
        let node = self.names.remove(from).expect("was made");
        let name = to.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        self.change(from, |from| Naming::Rename(from, name, node));
        self.names.insert(to.to_owned(), node);
        if to.ends_with("progress.json") {
            self.say_progress(node);
        }
    }

    /// What a reader finds in a `progress.json` that has just got its name.
    fn say_progress(&mut self, node: Node) {
        let bytes = &self.writes.iter().rfind(|write| write.node == node).expect("has content").bytes;
        let json: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        let (tile, durable) = (json["tile"].as_u64(), json["durable_frames"].as_u64());
        self.say(Word::Durable(tile.expect("a tile") as u32, durable.expect("a number")));
    }

    pub(crate) fn set_length(&mut self, node: Node, bytes: u64) {
        let at = self.step();
        self.lengths.entry(node).or_default().push(Length { bytes, at, durable: NEVER });
    }

    /// Bytes are on their way; returns the number of the write.
    pub(crate) fn begin_write(&mut self, node: Node, offset: u64, bytes: &[u8]) -> usize {
        let begin = self.step();
        let length = offset + bytes.len() as u64;
        let lengths = self.lengths.entry(node).or_default();
        if lengths.last().is_none_or(|last| last.bytes < length) {
            lengths.push(Length { bytes: length, at: begin, durable: NEVER });
        }
        self.writes.push(Write { node, offset, bytes: bytes.to_vec(), begin, end: NEVER, durable: NEVER });
        self.writes.len() - 1
    }

    pub(crate) fn end_write(&mut self, write: usize) {
        self.writes[write].end = self.step();
    }

    pub(crate) fn begin_sync(&mut self, node: Node) -> usize {
        let begin = self.step();
        self.syncs.push(Sync { node, begin, end: NEVER, is_ok: false });
        self.syncs.len() - 1
    }

    /// A sync has ended: what was complete before it began is durable, unless a sync failed in between. A failed sync
    /// leaves what it was to cover marked as clean: no later one brings it to the disk.
    pub(crate) fn end_sync(&mut self, sync: usize, is_ok: bool) {
        let end = self.step();
        (self.syncs[sync].end, self.syncs[sync].is_ok) = (end, is_ok);
        if !is_ok {
            return;
        }
        let Sync { node, begin, .. } = self.syncs[sync];
        let is_cursed = |done: usize| {
            let failed = self.syncs.iter().filter(|other| other.node == node && !other.is_ok && other.end != NEVER);
            failed.clone().any(|failed| failed.end > done)
        };
        for write in self.writes.iter_mut().filter(|write| write.node == node) {
            if write.durable == NEVER && write.end < begin && !is_cursed(write.end) {
                write.durable = end;
            }
        }
        for length in self.lengths.entry(node).or_default() {
            if length.durable == NEVER && length.at < begin && !is_cursed(length.at) {
                length.durable = end;
            }
        }
    }

    pub(crate) fn sync_dir(&mut self, path: &Path) {
        let at = self.step();
        let directory = self.names[path];
        for change in self.changes.entry(directory).or_default().iter_mut().filter(|change| change.durable == NEVER) {
            change.durable = at;
        }
    }

    /// Whether the same was done in the same order; content may differ.
    pub(crate) fn has_same_steps(&self, other: &Self) -> bool {
        let writes = |record: &Self| -> Vec<_> {
            let place = |write: &Write| (write.node, write.offset, write.begin, write.end, write.durable);
            record.writes.iter().map(place).collect()
        };
        let names =
            |record: &Self| -> Vec<_> { record.changes.values().flatten().map(|c| (c.at, c.durable)).collect() };
        self.steps == other.steps && writes(self) == writes(other) && names(self) == names(other)
    }
}
