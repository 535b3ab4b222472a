//! The REST interface of a control unit (SIMPLON 1.8.0), as far as acquisitions need it.
//!
//! ```text
//!   GET  /<module>/api/version
//!   GET  /<module>/api/1.8.0/<config|status|command>/keys
//!   GET  /<module>/api/1.8.0/<config|status>/<key>
//!   PUT  /<module>/api/1.8.0/config/<key>       {"value": v}               answers the names of settings that changed
//!   PUT  /<module>/api/1.8.0/config             {"key": {"value": v}, ...}
//!   PUT  /<module>/api/1.8.0/command/<name>     nothing, or {"value": v}
//! ```
//!
//! # Limits
//! Bodies of at most [`BODY_BYTES_MAX`].
//!
//! # Errors
//! What does not exist answers 404, what is wrong or comes at the wrong moment 400, both with a sentence as text.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine as _;
use ronchi_pipeline::SigShape;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Server;
use super::desk::{Desk, DeskError, Module};
use super::settings::SettingError;

/// Version of the interface.
pub(super) const VERSION: &str = "1.8.0";
/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What serves requests: one thread, and one more for each that waits.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().thread_name("dectris-sim-wait").build()
}

/// Serves requests until the simulator ends.
pub(super) fn serve(runtime: Runtime, listener: TcpListener, server: Arc<Server>) {
    let served = runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let limit = DefaultBodyLimit::max(BODY_BYTES_MAX);
        let router = Router::new().fallback(respond).layer(limit).with_state(Arc::clone(&server));
        tokio::select! {
            served = axum::serve(listener, router).into_future() => served,
            () = server.ended.notified() => Ok(()),
        }
    });
    if let Err(error) = served {
        tracing::error!(%error, "the REST interface ends");
    }
}

async fn respond(State(server): State<Arc<Server>>, method: Method, uri: Uri, body: Bytes) -> Response {
    // On a thread of its own: arming and triggering wait.
    let answered = tokio::task::spawn_blocking(move || answer(&server.desk, &method, uri.path(), &body)).await;
    match answered {
        Ok(Ok(json)) => Json(json).into_response(),
        Ok(Err(refused)) => (refused.status, refused.text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(), // A panic, which has been printed.
    }
}

/// A request that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn unknown(what: &str, names: &[&str]) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: format!("there is no {what}: expected {}", names.join(", ")) }
    }

    fn wrong(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }
}

impl From<DeskError> for Refused {
    fn from(error: DeskError) -> Self {
        let is_unknown = matches!(error, DeskError::Setting(SettingError::Unknown { .. }));
        let status = if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
        Self { status, text: error.to_string() }
    }
}

const MODULES: [(&str, Module); 5] = [
    ("detector", Module::Detector),
    ("stream", Module::Stream),
    ("monitor", Module::Monitor),
    ("filewriter", Module::Filewriter),
    ("system", Module::System),
];

/// Answers one request.
fn answer(desk: &Desk, method: &Method, path: &str, body: &[u8]) -> Result<Value, Refused> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let [name, "api", rest @ ..] = parts.as_slice() else {
        return Err(Refused::unknown("such path", &["/<module>/api/version", "/<module>/api/1.8.0/..."]));
    };
    let module = MODULES.iter().find(|(known, _)| known == name).map(|&(_, module)| module);
    let module = module.ok_or_else(|| Refused::unknown("such module", &MODULES.map(|(name, _)| name)))?;
    let is_put = match *method {
        Method::GET => false,
        Method::PUT => true,
        _ => return Err(Refused { status: StatusCode::METHOD_NOT_ALLOWED, text: "only GET and PUT".to_owned() }),
    };
    match *rest {
        ["version"] if !is_put => Ok(json!({ "value": VERSION, "value_type": "string" })),
        [VERSION, "config", ref key @ ..] if is_put => put_config(desk, module, &key.join("/"), body),
        [VERSION, "config", ref key @ ..] => get_config(desk, module, &key.join("/")),
        [VERSION, "status", ref key @ ..] if !is_put => get_status(desk, module, &key.join("/")),
        [VERSION, "command", "keys"] if !is_put => Ok(commands(module).into()),
        [VERSION, "command", name] if is_put => command(desk, module, name, body),
        [VERSION, ..] => {
            Err(Refused::unknown("such task", &["GET and PUT of config", "GET of status", "PUT of command"]))
        }
        _ => Err(Refused::unknown("such version", &[VERSION])),
    }
}

fn get_config(desk: &Desk, module: Module, key: &str) -> Result<Value, Refused> {
    match (module, key) {
        (_, "" | "keys") => Ok(desk.names(module).into()),
        (Module::Detector, "pixel_mask") => Ok(table(desk.shape(), "<u4", 0_u32.to_le_bytes())),
        (Module::Detector, "flatfield") => Ok(table(desk.shape(), "<f4", 1_f32.to_le_bytes())),
        _ => desk.describe(module, key).ok_or_else(|| Refused::unknown(&format!("`{key}`"), &desk.names(module))),
    }
}

/// A table of equal values, one for each pixel; columns before rows.
fn table(shape: SigShape, kind: &str, value: [u8; 4]) -> Value {
    let bytes: Vec<u8> = (0..shape.pixel_count()).flat_map(|_| value).collect();
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    let array = json!({
        "__darray__": [1, 0, 0], "type": kind, "shape": [shape.width, shape.height], "filters": ["base64"], "data": data,
    });
    json!({ "value": array, "value_type": "darray", "access_mode": "r" })
}

fn get_status(desk: &Desk, module: Module, key: &str) -> Result<Value, Refused> {
    let status = desk.status(module);
    if matches!(key, "" | "keys") {
        return Ok(status.names().into());
    }
    let mut described = status.describe(key).ok_or_else(|| Refused::unknown(&format!("`{key}`"), &status.names()))?;
    (described["time"], described["state"]) = (desk.status(Module::Detector).get("time").clone(), "normal".into());
    Ok(described)
}

fn put_config(desk: &Desk, module: Module, key: &str, body: &[u8]) -> Result<Value, Refused> {
    let body = json_of(body)?;
    let value_of = |body: &Value| {
        body.get("value").cloned().ok_or_else(|| Refused::wrong(r#"the body has no "value": expected {"value": ...}"#))
    };
    let changes = if key.is_empty() {
        let all = body.as_object().ok_or_else(|| Refused::wrong(r#"expected {"KEY": {"value": ...}, ...}"#))?;
        all.iter().map(|(key, body)| Ok((key.clone(), value_of(body)?))).collect::<Result<_, Refused>>()?
    } else {
        vec![(key.to_owned(), value_of(&body)?)]
    };
    Ok(desk.change(module, &changes)?.into())
}

fn json_of(body: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::wrong(format!("the body is no JSON: {error}")))
}

/// Names of commands.
fn commands(module: Module) -> &'static [&'static str] {
    match module {
        Module::Detector => &[
            "abort",
            "arm",
            "cancel",
            "check_connection",
            "disarm",
            "hv_reset",
            "initialize",
            "status_update",
            "trigger",
        ],
        Module::Stream => &["initialize", "status_update"],
        Module::Monitor | Module::Filewriter => &["clear", "initialize"],
        Module::System => &["restart"],
    }
}

fn command(desk: &Desk, module: Module, name: &str, body: &[u8]) -> Result<Value, Refused> {
    if !commands(module).contains(&name) {
        return Err(Refused::unknown(&format!("command `{name}`"), commands(module)));
    }
    let numbered = |number: u64| json!({ "sequence id": number });
    match (module, name) {
        (Module::Detector, "arm") => return Ok(numbered(desk.arm()?)),
        (Module::Detector, "disarm" | "cancel" | "abort") => return Ok(numbered(desk.stop())),
        (Module::Detector, "trigger") => desk.trigger(exposure_s(body)?)?,
        (Module::Detector, "initialize") => desk.initialize(),
        (_, "initialize") => desk.initialize_module(module)?,
        (Module::System, _) => desk.restart(),
        // Nothing is stored, and links and voltage are always as they should be.
        _ => {}
    }
    Ok(json!({}))
}

/// The exposure time that a trigger came with, in s.
fn exposure_s(body: &[u8]) -> Result<Option<f64>, Refused> {
    if body.is_empty() {
        return Ok(None);
    }
    let body = json_of(body)?;
    let Some(value) = body.get("value") else { return Ok(None) };
    let time_s = value.as_f64().filter(|time_s| (0.0..=1800.0).contains(time_s));
    let time_s = time_s.ok_or_else(|| Refused::wrong(format!("an exposure of {value}: expected 0 to 1800 s")))?;
    Ok(Some(time_s))
}

#[cfg(test)]
mod tests;
