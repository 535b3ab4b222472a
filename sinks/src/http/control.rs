//! What can be changed while a receiver runs: what is computed, and what is recorded.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::asked::Asked;
use super::routes::Site;

/// What can be changed while a receiver runs.
pub trait Control: Send + Sync {
    /// What is computed from every frame: an array of `{"name", "kind", ...parameters}`.
    fn reductions(&self) -> serde_json::Value;

    /// Computes another list from now on, in the same form. An error says what is wrong with it, and then nothing has
    /// changed.
    fn change_reductions(&self, list: &serde_json::Value) -> Result<(), String>;

    /// Whether series are recorded, and under which name.
    fn recording(&self) -> Recording;

    /// Records the next series and those after it.
    fn start_recording(&self, wanted: &Start) -> Result<(), ControlError>;

    /// Ends a series that is being recorded, and records none of the following.
    fn stop_recording(&self) -> Result<(), ControlError>;
}

/// Whether series are recorded, and under which name: what `/api/v1/recording` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recording {
    /// A series is being recorded, or the next one will be.
    pub recording: bool,
    /// What is possible now: `start`, `stop`.
    pub can: Vec<&'static str>,
    /// Name of the data set that is being written, or that the next one gets.
    pub name: String,
    /// Its scan, `[rows, positions per row]`; `None` = as the detector announces it.
    pub scan: Option<[u32; 2]>,
    /// The links, in order of their numbers.
    pub links: Vec<String>,
    /// Why recording cannot start now.
    pub why_not: Option<String>,
}

/// How to record: what is left out is as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// One of the links; all of them record together.
    pub link: Option<String>,
    /// Name of the data set.
    pub name: Option<String>,
    /// Scan shape, `[rows, positions per row]`.
    pub scan: Option<[u32; 2]>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not in the present state.
    #[error("{0}")]
    NotNow(String),
    /// Never: what is asked for does not fit.
    #[error("{0}")]
    Unfit(String),
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotNow(reason) => Self::new(StatusCode::CONFLICT, reason),
            ControlError::Unfit(reason) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason),
        }
    }
}

/// What `POST /api/v1/recording` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Change {
    Start { link: Option<String>, name: Option<String>, scan: Option<[u32; 2]> },
    Stop {},
}

impl Site {
    fn control(&self) -> Result<Arc<dyn Control>, Refusal> {
        self.control.clone().ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "nothing can be changed here"))
    }
}

pub(super) async fn reductions(State(site): State<Arc<Site>>) -> Result<Json<serde_json::Value>, Refusal> {
    Ok(Json(site.control()?.reductions()))
}

pub(super) async fn change_reductions(
    State(site): State<Arc<Site>>,
    Asked(list): Asked<serde_json::Value>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let control = site.control()?;
    control.change_reductions(&list).map_err(ControlError::Unfit)?;
    Ok(Json(control.reductions()))
}

pub(super) async fn recording(State(site): State<Arc<Site>>) -> Result<Json<Recording>, Refusal> {
    Ok(Json(site.control()?.recording()))
}

pub(super) async fn change_recording(
    State(site): State<Arc<Site>>,
    Asked(change): Asked<Change>,
) -> Result<Json<Recording>, Refusal> {
    let control = site.control()?;
    match change {
        Change::Start { link, name, scan } => control.start_recording(&Start { link, name, scan })?,
        Change::Stop {} => control.stop_recording()?,
    }
    Ok(Json(control.recording()))
}
