//! `FileSystem`: the few operations on directories and small files that the writer needs, so that a crash after any of
//! them, or the refusal of any of them, is a unit test. Writes and syncs of open segments go to `Disk`.
//!
//! # Invariants
//! - I1: nothing is durable by itself: content is after [`FileSystem::sync`], a name after [`FileSystem::sync_dir`] of the
//!   directory that holds it.
//! - I2: what is only read is read from the system itself; it is the same below every implementation.
//! - I3: no file is made or opened through a link at its own name: it could lead to anybody's file.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// What a new file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// Made empty if it is there already.
    Empty,
    /// Refused if it is there already.
    New,
    /// As `Empty`, for reading and direct I/O; buffered where the file system knows no other.
    Direct,
}

/// Where files and directories are made, named and removed.
pub trait FileSystem: Debug + Send + Sync {
    /// Makes a directory; an error when it is there already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file and opens it for writing.
    fn create(&self, path: &Path, creation: Creation) -> io::Result<File>;

    /// Opens a file that is there, for writing.
    fn open(&self, path: &Path) -> io::Result<File>;

    /// Gives a file this length, in bytes, and room on the disk for all of it where that is possible; it reads as zeros.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;

    /// Cuts a file to this length, in bytes, and gives back its room behind it.
    fn trim(&self, file: &File, bytes: u64) -> io::Result<()>;

    /// Writes all bytes at this offset, in bytes.
    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes content and length of a file durable.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name in its directory, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a symbolic link at `path` that leads to `target`.
    fn link(&self, target: &Path, path: &Path) -> io::Result<()>;

    /// Removes a file or a link.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

impl FileSystem for RealFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path, creation: Creation) -> io::Result<File> {
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_NOFOLLOW); // I3
        match creation {
            Creation::Empty => options.create(true).truncate(true).open(path),
            Creation::New => options.create_new(true).open(path),
            Creation::Direct => {
                options.read(true).create(true).truncate(true);
                match options.clone().custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW).open(path) {
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.open(path),
                    result => result,
                }
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
            result => Ok(result?),
        }
    }

    fn trim(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}
