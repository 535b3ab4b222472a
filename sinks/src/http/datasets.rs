//! `/api/v1/datasets`: the data sets of the receiver's directory, as `ronchi ls` sees them. Nothing here changes one.
//!
//! # Limits
//! [`LISTED_MAX`] data sets in one answer; their small files are read on the threads that may wait for the disk.

use std::cmp::Reverse;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use ronchi_config::check_name;
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::routes::Site;
use crate::storage::{Condition, Facts, data_sets_in, is_data_set};

/// Most data sets of one answer, and how many it has unless told.
const LISTED_MAX: usize = 1000;
const LISTED: usize = 100;

/// What a client wants to see.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
}

/// One data set of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    path: String,
    uuid: Option<String>,
    state: &'static str,
    created: Option<String>,
    frames: u64,
    bytes: u64,
    gaps: u64,
    open: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// One data set by itself.
#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    entry: Entry,
    #[serde(flatten)]
    more: Option<More>,
}

#[derive(Debug, Serialize)]
struct More {
    scan: Option<[u32; 2]>,
    detector: [u32; 2],
    pixel: String,
    tiles: usize,
    announced: Option<u64>,
}

/// The newest data sets.
pub(super) async fn list(
    State(site): State<Arc<Site>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let wrong = || Refusal::new(StatusCode::BAD_REQUEST, format!("limit must be a number from 1 to {LISTED_MAX}"));
    let Query(query) = query.map_err(|_| wrong())?;
    let limit = Some(query.limit.unwrap_or(LISTED)).filter(|limit| (1..=LISTED_MAX).contains(limit));
    let limit = limit.ok_or_else(wrong)?;
    let directory = site.board.wiring.directory.clone();
    read(move || {
        let paths = directory.map_or(Ok(Vec::new()), |directory| newest(&directory, limit))?;
        let mut entries: Vec<Entry> = paths.iter().map(|path| described(path).entry).collect();
        entries.sort_by(|a, b| b.created.cmp(&a.created)); // What cannot be read comes last.
        Ok(serde_json::json!(entries))
    })
    .await
}

/// One data set by its name.
pub(super) async fn one(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no such data set: /api/v1/datasets lists them");
    check_name(&name).map_err(|_| unknown())?;
    let directory = site.board.wiring.directory.clone().ok_or_else(unknown)?;
    read(move || {
        let path = directory.join(format!("{name}.ronchi"));
        if !is_own(&path) {
            return Err(unknown());
        }
        Ok(serde_json::json!(described(&path)))
    })
    .await
}

/// Reads where waiting for the disk holds nobody up.
async fn read(
    work: impl FnOnce() -> Result<serde_json::Value, Refusal> + Send + 'static,
) -> Result<Json<serde_json::Value>, Refusal> {
    let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the data sets cannot be read");
    tokio::task::spawn_blocking(work).await.map_err(failed)?.map(Json)
}

/// A data set that lies here, and is not a link to one elsewhere.
fn is_own(path: &FilePath) -> bool {
    is_data_set(path) && !path.is_symlink()
}

/// The data sets that were made last, by their directories: only their manifests are read.
fn newest(directory: &FilePath, limit: usize) -> Result<Vec<PathBuf>, Refusal> {
    let mut paths = data_sets_in(directory).map_err(|error| {
        tracing::error!(%error, "the list of data sets cannot be read");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the directory cannot be listed: the receiver's log says why")
    })?;
    paths.retain(|path| is_own(path));
    let made = |path: &PathBuf| path.metadata().and_then(|it| it.created().or_else(|_| it.modified())).ok();
    paths.sort_by_cached_key(|path| Reverse(made(path).unwrap_or(SystemTime::UNIX_EPOCH)));
    paths.truncate(limit);
    Ok(paths)
}

fn described(path: &FilePath) -> Described {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let facts = match Facts::of(path) {
        Ok(facts) => facts,
        Err(error) => {
            let error = error.to_string().replace(&format!("{}/", path.display()), "");
            return Described { entry: Entry::unreadable(name, whole, error), more: None };
        }
    };
    let Facts { uuid, state, scan, detector, pixel, tiles, durable, announced, missing, bytes, created, .. } = facts;
    let entry = Entry {
        name,
        path: whole,
        uuid: Some(uuid),
        state: state.word(),
        created: Some(created),
        frames: durable,
        bytes,
        gaps: missing,
        open: state == Condition::Running,
        error: None,
    };
    Described { entry, more: Some(More { scan, detector, pixel, tiles, announced }) }
}

impl Entry {
    fn unreadable(name: String, path: String, error: String) -> Self {
        let (uuid, created, error) = (None, None, Some(error));
        Self { name, path, uuid, state: "unreadable", created, frames: 0, bytes: 0, gaps: 0, open: false, error }
    }
}
