//! `Room`: how much memory an instance has taken, and how much it may.

use wasmtime::{Error, ResourceLimiter, Result};

/// Most entries of all its tables: functions that it calls through pointers.
const TABLE_ENTRIES_MAX: usize = 100_000;
/// Most instances, memories and tables: a component of one module has up to three of each.
const PARTS_MAX: usize = 16;

/// What one instance has taken, all memories and all tables together.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    bytes_max: usize,
    entries: usize,
}

impl Room {
    /// Nothing yet, of so many MiB.
    pub(super) fn of(memory_mib: u32) -> Self {
        Self { bytes: 0, bytes_max: (memory_mib as usize) << 20, entries: 0 }
    }
}

impl ResourceLimiter for Room {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if self.bytes > self.bytes_max {
            let mib = self.bytes_max >> 20;
            return Err(Error::msg(format!("it asked for more than the {mib} MiB that it has (`memory_mib`)")));
        }
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.entries = self.entries.saturating_add(desired.saturating_sub(current));
        if self.entries > TABLE_ENTRIES_MAX {
            return Err(Error::msg(format!("it asked for more than {TABLE_ENTRIES_MAX} entries in tables")));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }
}
