//! What to compute and on which scan, as a command line says it: options that `record` and `reprocess` share.

use clap::Args;
use ronchi_config::{ScanPlan, ValueError, parse_reduction, parse_scan, parse_virtual};
use ronchi_pipeline::reduce::Reduction;
use ronchi_pipeline::{NavShape, Scan, ScanOrder};

use crate::repeats::RepeatArgs;

/// Which results.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReductionArgs {
    /// Virtual detector, repeatable: NAME=disk:CY,CX,R | ring:CY,CX,RI,RO | rect:Y0,X0,Y1,X1 | sector:CY,CX,RI,RO,A0,A1 |
    /// polygon:Y,X;Y,X;... | npy:FILE (pixels, degrees)
    #[arg(long = "virtual", value_name = "NAME=KIND:...", value_parser = virtual_detector)]
    virtuals: Vec<Reduction>,
    /// Any other reduction, repeatable: KIND or NAME=KIND, with parameters :KEY=VALUE,...; docs/reductions.md has them all
    #[arg(long = "reduce", value_name = "NAME=KIND:...", value_parser = reduction)]
    others: Vec<Reduction>,
    /// Total counts per frame
    #[arg(long)]
    total: bool,
    /// Centre of mass per frame
    #[arg(long)]
    com: bool,
    /// Sum of all frames
    #[arg(long)]
    sum: bool,
    /// Maximum over all frames
    #[arg(long)]
    max: bool,
}

/// Which scan.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScanArgs {
    /// Scan shape, rows x positions per row; default is what the detector or the data set says
    #[arg(long, value_name = "NYxNX", value_parser = scan)]
    scan: Option<NavShape>,
    /// Odd scan rows run from right to left
    #[arg(long)]
    serpentine: bool,
    /// Frames after each row that belong to no position
    #[arg(long, value_name = "N")]
    flyback: Option<u32>,
    /// Skip so many frames at the start (positive), or leave so many positions empty (negative)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    sync_offset: Option<i64>,
    #[command(flatten)]
    repeats: RepeatArgs,
}

fn scan(text: &str) -> Result<NavShape, ValueError> {
    parse_scan(text)
}

fn reduction(text: &str) -> Result<Reduction, ValueError> {
    parse_reduction(text)
}

fn virtual_detector(text: &str) -> Result<Reduction, ValueError> {
    parse_virtual(text)
}

impl ReductionArgs {
    /// The results asked for: virtual detectors in their order, then the others in theirs.
    pub(crate) fn reductions(self) -> Vec<Reduction> {
        let whole = [
            (self.total, Reduction::total()),
            (self.com, Reduction::centre_of_mass()),
            (self.sum, Reduction::sum()),
            (self.max, Reduction::max()),
        ];
        let whole = whole.into_iter().filter_map(|(is_wanted, reduction)| is_wanted.then_some(reduction));
        self.virtuals.into_iter().chain(whole).chain(self.others).collect()
    }
}

impl ScanArgs {
    /// The scan of a series that announces its shape, or not.
    pub(crate) fn plan(&self) -> ScanPlan {
        let scan = Scan {
            order: if self.serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster },
            flyback: self.flyback.unwrap_or(0),
            sync_offset: self.sync_offset.unwrap_or(0),
            ..Scan::raster(self.scan.unwrap_or(NavShape { height: 0, width: 0 }))
        };
        ScanPlan { shape: self.scan, ..ScanPlan::from(self.repeats.apply(scan)) }
    }

    /// The scan of recorded frames: with a shape, it is what is said here; without, what is said here instead of what
    /// was recorded. `Err`: there is no shape to go with what is said.
    pub(crate) fn instead_of(&self, recorded: Option<Scan>) -> Result<Option<Scan>, &'static str> {
        let is_silent = !self.serpentine && self.flyback.is_none() && self.sync_offset.is_none();
        let is_silent = is_silent && self.repeats == RepeatArgs::default();
        let base = match (self.scan, recorded) {
            (Some(shape), _) => Scan::raster(shape),
            (None, Some(recorded)) => recorded,
            (None, None) if is_silent => return Ok(None),
            (None, None) => return Err("the data set has no scan: --scan NYxNX gives it one"),
        };
        let base = self.repeats.apply(base);
        Ok(Some(Scan {
            order: if self.serpentine { ScanOrder::Serpentine } else { base.order },
            flyback: self.flyback.unwrap_or(base.flyback),
            sync_offset: self.sync_offset.unwrap_or(base.sync_offset),
            ..base
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shape begins anew; without one the other options change what was recorded, and need something to change.
    #[test]
    fn scans_instead_of_recorded_ones() {
        let (shape, other) = (NavShape { height: 3, width: 4 }, NavShape { height: 2, width: 6 });
        let plain = Scan::raster(shape);
        let recorded = Scan { order: ScanOrder::Serpentine, flyback: 2, sync_offset: -1, passes: 2, ..plain };
        let repeats = RepeatArgs::default();
        let args =
            |scan, serpentine, flyback, sync_offset| ScanArgs { scan, serpentine, flyback, sync_offset, repeats };
        let silent = args(None, false, None, None);
        assert_eq!(silent.instead_of(Some(recorded)), Ok(Some(recorded)));
        assert_eq!(silent.instead_of(None), Ok(None));
        let shaped = args(Some(other), false, None, Some(1));
        let expected = Scan { sync_offset: 1, ..Scan::raster(other) };
        assert_eq!(shaped.instead_of(Some(recorded)), Ok(Some(expected)));
        assert_eq!(shaped.instead_of(None), Ok(Some(expected)));
        let shifted = args(None, false, None, Some(5));
        assert_eq!(shifted.instead_of(Some(recorded)), Ok(Some(Scan { sync_offset: 5, ..recorded })));
        assert!(shifted.instead_of(None).is_err());
    }
}
