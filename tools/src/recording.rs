//! Which series are recorded, under which name: what the HTTP API can change while the receiver runs.
//!
//! # Place in the path
//! Beside it. [`Acquisitions`] asks once, when a series begins; receive loops look at [`Acquisition::is_cut`] once per
//! block.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use ronchi_config::{DataPlan, Plan, ScanPlan, SourcePlan};
use ronchi_pipeline::reduce::Reduction;
use ronchi_pipeline::{AXIS_MAX, NavShape};
use ronchi_sinks::http::{Control, ControlError, Recording, Start};

use crate::acquisitions::Acquisitions;

/// What a series is called that is shown and not recorded, while others are.
const PREVIEW: &str = "preview";

/// How the next series is taken.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    /// Whether it is recorded.
    pub is_recorded: bool,
    /// Its name, without a number.
    pub name: String,
    /// Whether the first data set must be called exactly so, and must not exist.
    pub is_exact: bool,
    /// Its scan.
    pub scan: ScanPlan,
    /// Series that have begun under this name.
    pub begun: u64,
}

impl Next {
    /// As planned.
    pub(crate) fn planned(plan: &Plan, is_exact: bool) -> Self {
        let (is_recorded, name) = (plan.data.record, plan.data.name.clone());
        Self { is_recorded, name, is_exact, scan: plan.scan, begun: 0 }
    }

    /// Shown and not recorded.
    fn preview(plan: &Plan) -> Self {
        Self { is_recorded: false, name: PREVIEW.to_owned(), ..Self::planned(plan, false) }
    }
}

impl Acquisitions {
    /// Whether the detector of this link is to be left alone: it is driven from here, and nothing is to be recorded.
    pub(crate) fn is_resting(&self, link: u32) -> bool {
        let is_driven = self.plan.links.get(link as usize).is_some_and(|link| is_driven(&link.source));
        is_driven && self.plan.data.record && !self.next().is_recorded
    }

    /// The name of a data set that is being written.
    fn being_recorded(&self) -> Option<(String, Option<NavShape>)> {
        let running = self.all_running().into_iter().rev();
        let mut recorded = running.filter(|it| it.data_set.is_some() && !it.is_cut() && !it.is_finishing());
        recorded.next().map(|it| (it.name.clone(), it.scan.map(|scan| scan.shape)))
    }

    fn why_not(&self, running: Option<&str>) -> Option<String> {
        if !self.plan.data.record {
            return Some("data.record is false: this receiver only shows".to_owned());
        }
        if let [stage, ..] = self.board.fallen()[..] {
            return Some(format!("the {stage} has panicked: the receiver begins nothing any more"));
        }
        running.map(|name| format!("{name} is being recorded: stop it first"))
    }

    /// The plan with what is wanted instead of what was planned, checked like any plan.
    fn plan_of(&self, wanted: &Start) -> Result<Next, String> {
        let links = self.link_names();
        if let Some(link) = wanted.link.as_ref().filter(|link| !links.contains(link)) {
            return Err(format!("link is {link:?}: expected one of {}", links.join(", ")));
        }
        if let Some(scan) = wanted.scan.filter(|scan| !scan.iter().all(|axis| (1..=AXIS_MAX).contains(axis))) {
            return Err(format!("scan is {scan:?}: expected [rows, positions per row], each from 1 to {AXIS_MAX}"));
        }
        let shape = wanted.scan.map(|[height, width]| NavShape { height, width });
        let is_fixed = self.plan.links.iter().any(|link| is_driven(&link.source));
        if is_fixed && shape.is_some() && shape != self.plan.scan.shape {
            return Err("scan: the detector is armed for the scan of the configuration".to_owned());
        }
        let mut plan = self.plan.clone();
        plan.data = DataPlan { name: wanted.name.clone().unwrap_or(plan.data.name), ..plan.data };
        plan.scan.shape = shape.or(plan.scan.shape);
        plan.check().map_err(|error| error.to_string())?;
        Ok(Next::planned(&plan, false))
    }

    fn link_names(&self) -> Vec<String> {
        self.board.wiring.links.iter().map(|link| link.name.clone()).collect()
    }
}

/// Whether a receiver arms this detector.
fn is_driven(source: &SourcePlan) -> bool {
    matches!(source, SourcePlan::Merlin { control: Some(_), .. } | SourcePlan::Dectris { control: Some(_), .. })
}

impl Control for Acquisitions {
    fn reductions(&self) -> serde_json::Value {
        Self::reductions(self).iter().map(Reduction::to_json).collect()
    }

    /// An entry of nothing but a name stays as it is.
    fn change_reductions(&self, list: &serde_json::Value) -> Result<(), String> {
        let Some(entries) = list.as_array() else { return Err("expected an array of reductions".into()) };
        let present = Self::reductions(self).clone();
        let reduction = |(at, entry): (usize, &serde_json::Value)| {
            let name = entry.as_object().filter(|entry| entry.len() == 1).and_then(|entry| entry.get("name"));
            let kept = name.and_then(|name| present.iter().find(|reduction| name == reduction.name()));
            let wanted = kept.cloned().map_or_else(|| Reduction::from_json(entry), Ok);
            wanted.map_err(|error| format!("[{at}]: {error}"))
        };
        let list = entries.iter().enumerate().map(reduction).collect::<Result<Vec<_>, _>>()?;
        Self::change_reductions(self, list)
    }

    fn recording(&self) -> Recording {
        let (next, running) = (self.next().clone(), self.being_recorded());
        let why_not = self.why_not(running.as_ref().map(|(name, _)| name.as_str()));
        let planned = if next.is_recorded { next.clone() } else { Next::planned(&self.plan, false) };
        let (name, scan) = running.unwrap_or((planned.name, planned.scan.shape));
        Recording {
            recording: next.is_recorded,
            can: [("start", why_not.is_none()), ("stop", next.is_recorded)]
                .into_iter()
                .filter_map(|(action, is_possible)| is_possible.then_some(action))
                .collect(),
            name,
            scan: scan.map(|shape| [shape.height, shape.width]),
            links: self.link_names(),
            why_not,
        }
    }

    fn start_recording(&self, wanted: &Start) -> Result<(), ControlError> {
        let next = self.plan_of(wanted).map_err(ControlError::Unfit)?;
        // No acquisition begins meanwhile.
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.being_recorded();
        if let Some(reason) = self.why_not(running.as_ref().map(|(name, _)| name.as_str())) {
            return Err(ControlError::NotNow(reason));
        }
        tracing::info!(name = next.name, "recording was started");
        *self.next() = next;
        Ok(())
    }

    fn stop_recording(&self) -> Result<(), ControlError> {
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.next().is_recorded {
            return Err(ControlError::NotNow("nothing is recorded".to_owned()));
        }
        *self.next() = Next::preview(&self.plan);
        for acquisition in self.all_running().iter().filter(|it| it.data_set.is_some()) {
            acquisition.cut.store(true, Ordering::Release);
        }
        tracing::info!("recording was stopped");
        Ok(())
    }
}
