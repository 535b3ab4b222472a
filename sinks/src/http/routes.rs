//! What is answered where, and who is not answered at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::answer::{Budget, Refusal, held, png};
use super::frame::{Wanted, Which};
use super::server::HttpLimits;
use super::{live, page};
use crate::live::{
    Acquisition, Board, ColourMap, Component, ImageHeader, Message, Plane, Precision, Status, Stretch, is_vector, npy,
    snapshot, snapshot_bytes,
};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::time::epoch_ns;

/// Largest request body that is not refused at once; one route reads one.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// What can be changed while a receiver runs.
pub trait Control: Send + Sync {
    /// What is computed from every frame: an array of `{"name", "kind", ...parameters}`.
    fn reductions(&self) -> serde_json::Value;

    /// Computes another list from now on, in the same form. An error says what is wrong with it, and then nothing has
    /// changed.
    fn change_reductions(&self, list: &serde_json::Value) -> Result<(), String>;
}

/// What all requests share.
pub(super) struct Site {
    pub(super) board: Arc<Board>,
    control: Option<Arc<dyn Control>>,
    metrics: Metrics,
    pub(super) budget: Budget,
    /// Places for clients of the live stream.
    pub(super) live_places: Arc<Semaphore>,
    /// Room for what their connections keep.
    pub(super) live_room: Budget,
    /// Becomes true when the server ends.
    pub(super) ending: watch::Receiver<bool>,
}

impl Site {
    /// The site of this board.
    pub(super) fn new(
        board: Arc<Board>,
        control: Option<Arc<dyn Control>>,
        limits: &HttpLimits,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let metrics = Metrics::new(Arc::clone(&board));
        let live_places = Arc::new(Semaphore::new(limits.live_clients as usize));
        let (budget, live_room) = (Budget::new(limits.image_bytes), Budget::new(limits.live_bytes));
        Self { board, control, metrics, budget, live_places, live_room, ending }
    }
}

/// All routes.
pub(super) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status))
        .route("/api/v1/acq/{id}/result/{name}", get(result))
        .route("/api/v1/acq/{id}/frame/{which}", get(frame))
        .route("/api/v1/live", get(live::live))
        .route("/api/v1/reductions", get(reductions).put(change_reductions))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "nothing here: see / for what there is"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD; PUT of /api/v1/reductions")
        })
        .layer(from_fn_with_state(Arc::clone(&site), guard))
        .with_state(site)
}

/// Refuses requests that a page from elsewhere may have caused, and marks every answer.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let stream = &site.board.stream;
    let mut response = match check(request.headers()) {
        Ok(()) => {
            stream.http_requests.fetch_add(1, Ordering::Relaxed);
            next.run(request).await
        }
        Err(refusal) => {
            stream.http_refused.fetch_add(1, Ordering::Relaxed);
            refusal.into_response()
        }
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| hosts.next().is_none()) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "exactly one Host header is needed"));
    };
    if !is_loopback_name(host) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Host must be localhost, 127.0.0.1 or [::1]"));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if headers.contains_key(header::TRANSFER_ENCODING) || length.unwrap_or(0) > BODY_BYTES_MAX {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "requests have a short body of known length here, or none",
        ));
    }
    Ok(())
}

/// Whether a `Host` header names this machine; any port, so that a tunnel works.
fn is_loopback_name(host: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        let named = host.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        named && (host.len() == name.len() || host[name.len()..].strip_prefix(':').is_some_and(is_port))
    })
}

/// A page may ask for this only if it is ours: browsers say where a page comes from, programs need not.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let ours = text(header::HOST).map(|host| format!("http://{host}"));
    if ours.is_some_and(|ours| ours.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "Origin must be the address of this server"))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn metrics_text(State(site): State<Arc<Site>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], site.metrics.text())
}

async fn status(State(site): State<Arc<Site>>) -> Json<Status> {
    Json(Status::of(&site.board, SystemTime::now()))
}

async fn reductions(State(site): State<Arc<Site>>) -> Result<Json<serde_json::Value>, Refusal> {
    Ok(Json(site.control()?.reductions()))
}

/// A page from elsewhere cannot send this: JSON and PUT need its consent asked first, which nothing here answers.
async fn change_reductions(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    list: Result<Json<serde_json::Value>, JsonRejection>,
) -> Result<Json<serde_json::Value>, Refusal> {
    check_origin(&headers)?;
    let Json(list) = list.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    let control = site.control()?;
    control.change_reductions(&list).map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error))?;
    Ok(Json(control.reductions()))
}

impl Site {
    fn control(&self) -> Result<Arc<dyn Control>, Refusal> {
        self.control.clone().ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "nothing can be changed here"))
    }
}

#[derive(Debug, Default, Deserialize)]
struct ImageQuery {
    map: Option<String>,
    scale: Option<String>,
    component: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Npy,
    Png,
}

impl Form {
    /// A name without the suffix that says the form, if it has one.
    fn suffixed(name: &str) -> Option<(&str, Self)> {
        let forms = [(".npy", Self::Npy), (".png", Self::Png)];
        forms.iter().find_map(|&(suffix, form)| Some((name.strip_suffix(suffix)?, form)))
    }

    fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
        if accept.contains("application/x-npy") {
            Self::Npy
        } else if accept.contains("image/png") {
            Self::Png
        } else {
            Self::Raw
        }
    }
}

async fn result(
    State(site): State<Arc<Site>>,
    Path((id, name)): Path<(String, String)>,
    query: Result<Query<ImageQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the query cannot be read"))?;
    let view = View::parse(&query)?;
    let accepted = Form::accepted(&headers);
    let bytes = site.board.look(|all| find(all, &id, &name, accepted, |a, name, _| snapshot_bytes(a, name)))?;
    // A copy of the values, and at most twice as much again while they are encoded.
    let room = site.budget.take(bytes.unwrap_or(0).saturating_mul(2))?;
    let (mut message, form) = site
        .board
        .look(|all| find(all, &id, &name, accepted, |a, name, form| Some((snapshot(a, name)?, form))))?
        .ok_or_else(unknown_result)?;
    message.header.time_ns = epoch_ns(SystemTime::now());
    view.answer(message, form, room)
}

/// A recorded frame; read where waiting for the disk holds nobody up.
async fn frame(
    State(site): State<Arc<Site>>,
    Path((id, which)): Path<(String, String)>,
    query: Result<Query<ImageQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the query cannot be read"))?;
    let view = View::parse(&query)?;
    let (which, form) = Form::suffixed(&which).unwrap_or((which.as_str(), Form::accepted(&headers)));
    let which = Which::parse(which).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "a frame is called latest, by its number, or by y,x of the scan")
    })?;
    let wanted = site.board.look(|all| acquisition(all, &id).and_then(|acquisition| Wanted::of(acquisition, which)))?;
    let room = site.budget.take(wanted.bytes)?;
    let read = tokio::task::spawn_blocking(move || wanted.read()).await;
    let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the frame cannot be read");
    let mut message = read.map_err(failed)??;
    message.header.time_ns = epoch_ns(SystemTime::now());
    view.answer(message, form, room)
}

fn unknown_result() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such result: /api/v1/status lists them")
}

/// The newest acquisition, or the one of this UUID.
fn acquisition<'a>(
    all: impl IntoIterator<Item = &'a Acquisition, IntoIter: DoubleEndedIterator>,
    id: &str,
) -> Result<&'a Acquisition, Refusal> {
    let mut newest_first = all.into_iter().rev();
    let found = newest_first.find(|acquisition| id == "latest" || acquisition.id_text() == id);
    let unknown = "no such acquisition: /api/v1/status lists those that are remembered";
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, unknown))
}

/// Finds acquisition and result; a name that is not a result may have a suffix that says the form.
fn find<'a, T>(
    all: impl IntoIterator<Item = &'a Acquisition, IntoIter: DoubleEndedIterator>,
    id: &str,
    name: &str,
    accepted: Form,
    read: impl Fn(&Acquisition, &str, Form) -> T,
) -> Result<T, Refusal> {
    let acquisition = acquisition(all, id)?;
    std::iter::once((name, accepted))
        .chain(Form::suffixed(name))
        .find(|(name, _)| snapshot_bytes(acquisition, name).is_some())
        .map(|(name, form)| read(acquisition, name, form))
        .ok_or_else(unknown_result)
}

/// How somebody wants to see an image.
struct View {
    map: Option<ColourMap>,
    stretch: Stretch,
    component: Option<Component>,
}

fn choice<T>(
    key: &str,
    value: Option<&str>,
    names: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let wrong = || Refusal::new(StatusCode::BAD_REQUEST, format!("{key} must be one of {names}"));
    parse(value).map(Some).ok_or_else(wrong)
}

impl View {
    fn parse(query: &ImageQuery) -> Result<Self, Refusal> {
        Ok(Self {
            map: choice("map", query.map.as_deref(), ColourMap::NAMES, ColourMap::parse)?,
            stretch: choice("scale", query.scale.as_deref(), Stretch::NAMES, Stretch::parse)?.unwrap_or_default(),
            component: choice("component", query.component.as_deref(), Component::NAMES, Component::parse)?,
        })
    }

    fn answer(&self, message: Message, form: Form, room: OwnedSemaphorePermit) -> Result<Response, Refusal> {
        match form {
            Form::Raw => Ok(held(message.framed(), "application/octet-stream", room)),
            Form::Npy => Ok(held(self.npy(message)?, "application/x-npy", room)),
            Form::Png => Ok(held(self.png(message)?, "image/png", room)),
        }
    }

    /// The whole image, or one component of it.
    fn npy(&self, message: Message) -> Result<Vec<u8>, Refusal> {
        let (image, values) = parts(message)?;
        match self.component.filter(|_| is_vector(&image)) {
            None => Ok(npy(&image.full_shape, image.dtype, &values)),
            Some(component) => {
                let plane = Plane::of(&image, values, component).ok_or_else(not_flat)?;
                let shape = &image.full_shape[..image.full_shape.len() - 1];
                Ok(npy(shape, Precision::Double, &plane.values))
            }
        }
    }

    fn png(&self, message: Message) -> Result<Vec<u8>, Refusal> {
        let (image, values) = parts(message)?;
        let component = self.component.unwrap_or_default();
        let is_angle = component == Component::Angle && is_vector(&image);
        let plane = Plane::of(&image, values, component).filter(|plane| plane.height * plane.width > 0);
        let plane = plane.ok_or_else(not_flat)?;
        let circle = (-std::f64::consts::PI, std::f64::consts::PI);
        let limits = if is_angle { circle } else { plane.limits().unwrap_or((0.0, 1.0)) };
        let map = self.map.unwrap_or(if is_angle { ColourMap::Cyclic } else { ColourMap::default() });
        png(&plane, limits, map, self.stretch).map_err(|_| not_flat())
    }
}

fn parts(message: Message) -> Result<(ImageHeader, Vec<f64>), Refusal> {
    message.header.image.zip(message.values).ok_or_else(unknown_result)
}

fn not_flat() -> Refusal {
    Refusal::new(StatusCode::NOT_ACCEPTABLE, "this result cannot be shown as a picture: ask for .npy")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of this server passes, and a program that is none; pages from elsewhere do not, whatever their port.
    #[test]
    fn origins() {
        let headers = |origin: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost:8600"))]);
            let origin = origin.map(|origin| HeaderValue::from_str(origin).expect("a header"));
            headers.extend(origin.map(|origin| (header::ORIGIN, origin)));
            headers
        };
        assert!(check_origin(&headers(None)).is_ok());
        assert!(check_origin(&headers(Some("http://localhost:8600"))).is_ok());
        for origin in ["null", "", "http://localhost", "https://localhost:8600", "http://localhost:8601", "http://evil"]
        {
            assert!(check_origin(&headers(Some(origin))).is_err(), "{origin}");
        }
    }

    /// Only names of this machine pass, with any port, in any case.
    #[test]
    fn loopback_names() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8600", "[::1]", "[::1]:1"] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in
            ["", "localhost.evil.org", "127.0.0.1.nip.io", "evil.org:80", "localhost:", "localhost:x", "[::1", "::1"]
        {
            assert!(!is_loopback_name(host), "{host}");
        }
    }
}
