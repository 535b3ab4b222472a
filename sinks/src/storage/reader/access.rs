//! How pixels come from the disk: what may be asked for, and what is chosen when nothing is.
//!
//! # Why this way
//! A mapping of what lies in the page cache costs no copy and leaves it to others. A set that is larger than the memory
//! that is free pushes everything else out of it, for nothing: it is gone before it is looked at again. That one is read
//! around the cache.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::ops::RangeInclusive;
use std::path::Path;

use rustix::io::{ReadWriteFlags, preadv2};

use super::ReaderTile;

/// Places of a tile that are asked whether they lie in the page cache.
const SAMPLES: u64 = 16;
/// Most of the memory that is free, one part in so many, that a mapped tile may fill.
const MEMORY_SHARE: u64 = 2;

/// How pixels come from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Mapped when the tile lies in the page cache or fits in half of the memory that is free, else direct.
    #[default]
    Auto,
    /// Mappings of the page cache; segments that are still written are read as with `Plain`.
    Mapped,
    /// O_DIRECT and io_uring, some reads in flight; the next best where the system refuses one of them.
    Direct,
    /// Plain reads through the page cache, one after the other; what was read is dropped from the cache.
    Plain,
}

impl Access {
    /// What [`Self::Auto`] means for this tile, of which `bytes` are wanted from these segments; anything else is itself.
    pub(super) fn choose(self, tile: &ReaderTile, bytes: u64, segments: RangeInclusive<u64>) -> Self {
        let fits = || available_bytes().is_some_and(|available| bytes <= available / MEMORY_SHARE);
        match self {
            Self::Auto if fits() || is_resident(tile, segments) => Self::Mapped,
            Self::Auto => Self::Direct,
            chosen => chosen,
        }
    }
}

/// Memory that this process may fill without pushing out others, in bytes: what the kernel estimates, and no more than its
/// control groups allow, whose page cache is counted as theirs.
fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(free.min(group_limit_bytes(&groups, Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX)))
}

/// The least limit on memory of control groups, in bytes; `None` without one. `groups` is /proc/self/cgroup: number,
/// controllers (none in version 2) and path of a group per line, cgroups(7). The path is not seen from within a container,
/// only its end.
fn group_limit_bytes(groups: &str, mount: &Path) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers.split(',').any(|controller| controller == "memory") {
            true => Some((path, mount.join("memory"), "memory.limit_in_bytes")),
            false if controllers.is_empty() => Some((path, mount.to_owned(), "memory.max")),
            false => None,
        }
    });
    let limits = files.flat_map(|(path, root, name)| {
        let limit = move |group: &Path| {
            let text = fs::read_to_string(root.join(group).join(name)).ok()?;
            text.trim().parse::<u64>().ok() // "max" is none.
        };
        Path::new(path.trim_start_matches('/')).ancestors().filter_map(limit).collect::<Vec<_>>()
    });
    limits.min()
}

/// Whether most places of a tile that are tried lie in the page cache.
fn is_resident(tile: &ReaderTile, segments: RangeInclusive<u64>) -> bool {
    let (first, count) = (*segments.start(), (segments.end() - segments.start()).saturating_add(1));
    let bytes = tile.array.layout.segment_bytes();
    let cached = (0..SAMPLES).filter(|sample| {
        let number = first + (u128::from(count) * u128::from(*sample) / u128::from(SAMPLES)) as u64;
        let offset = (bytes / SAMPLES).saturating_mul(*sample) / 4096 * 4096;
        is_cached(&tile.segment_path(number), offset)
    });
    cached.count() as u64 * 2 > SAMPLES
}

/// Whether a page of a file can be had without the disk.
fn is_cached(path: &Path, offset: u64) -> bool {
    let mut page = [0; 4096];
    let Ok(file) = File::open(path) else { return false };
    preadv2(&file, &mut [IoSliceMut::new(&mut page)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least limit counts, of the group and those above it, in both versions of control groups.
    #[test]
    fn groups_limit_memory() {
        let mount = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, text).expect("file");
        };
        write("a/memory.max", "4096\n");
        write("a/b/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "8192\n");
        let limit = |groups: &str| group_limit_bytes(groups, mount.path());
        assert_eq!(limit("0::/a/b\n"), Some(4096));
        assert_eq!(limit("4:cpu,memory:/c\n0::/\n"), Some(8192));
        assert_eq!(limit("4:memory:/not/seen/from/here\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(limit("2:cpu:/c\n0::/\nnonsense\n"), None);
    }

    /// The kernel tells what is free, and what has just been written lies in the cache.
    #[test]
    fn the_system_tells() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 8192]).expect("file");
        assert!(is_cached(&path, 4096));
        assert!(!is_cached(&path, 8192) && !is_cached(&dir.path().join("none"), 0));
    }
}
