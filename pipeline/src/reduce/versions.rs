//! Versions of rows: what a publisher must send again.

use std::ops::Range;

/// When rows last changed; several rows may share one version.
#[derive(Debug, Clone)]
pub(super) struct RowVersions {
    step: usize,
    versions: Vec<u64>,
}

impl RowVersions {
    /// Rows that never changed; `step` neighbouring rows share a version.
    pub(super) fn new(step: usize) -> Self {
        Self { step, versions: Vec::new() }
    }

    /// These rows changed; versions never decrease.
    pub(super) fn set(&mut self, rows: Range<usize>, version: u64) {
        let steps = rows.start / self.step..rows.end.div_ceil(self.step);
        if steps.end > self.versions.len() {
            self.versions.resize(steps.end, 0);
        }
        self.versions[steps].fill(version);
    }

    /// When any row last changed; 0 = never.
    pub(super) fn newest(&self) -> u64 {
        self.versions.iter().copied().max().unwrap_or(0)
    }

    /// Rows of `row_count` that changed after `version` in any of `all` (of the same step), as ranges that do not touch.
    pub(super) fn changed_since(all: &[&Self], version: u64, row_count: usize) -> Vec<Range<usize>> {
        let mut changed: Vec<Range<usize>> = Vec::new();
        let step = all.first().map_or(1, |versions| versions.step);
        let steps = all.iter().map(|versions| versions.versions.len()).max().unwrap_or(0);
        let is_newer = |at: usize| all.iter().any(|rows| rows.versions.get(at).is_some_and(|&row| row > version));
        for at in (0..steps).filter(|&at| is_newer(at)) {
            let rows = at * step..((at + 1) * step).min(row_count);
            match changed.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => changed.push(rows),
            }
        }
        changed
    }
}
