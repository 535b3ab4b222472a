//! What is answered where, and who is not answered at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::access::{self, Access};
use super::answer::{Budget, Refusal, held, png};
use super::asked::BODY_BYTES_MAX;
use super::control::Control;
use super::frame::{Wanted, Which};
use super::rates::{Kind, Rates};
use super::server::HttpLimits;
use super::{control, datasets, live, openapi, page};
use crate::live::{
    Acquisition, Board, ColourMap, Component, ImageHeader, Message, Plane, Precision, Status, Stretch, is_vector, npy,
    snapshot, snapshot_bytes,
};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::time::epoch_ns;

/// What all requests share.
pub(super) struct Site {
    pub(super) board: Arc<Board>,
    pub(super) control: Option<Arc<dyn Control>>,
    metrics: Metrics,
    pub(super) access: Access,
    rates: Rates,
    /// Names of this machine, beside the usual ones.
    hosts: Vec<String>,
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
        (access, hosts): (Access, Vec<String>),
        limits: &HttpLimits,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let metrics = Metrics::new(Arc::clone(&board));
        let live_places = Arc::new(Semaphore::new(limits.live_clients as usize));
        let (budget, live_room) = (Budget::new(limits.image_bytes), Budget::new(limits.live_bytes));
        let rates = Rates::default();
        Self { board, control, metrics, access, rates, hosts, budget, live_places, live_room, ending }
    }

    /// Lets a request pass, with who sent it; a page from elsewhere may have caused it.
    fn pass(&self, request: &mut Request) -> Result<(), Refusal> {
        let hop = request.extensions().get::<Hop>().copied().unwrap_or(Hop::HERE);
        let now = Instant::now();
        let allow = |kind| match self.rates.allow(hop.peer, kind, now) {
            true => Ok(()),
            false => Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests: wait a moment")),
        };
        allow(Kind::Request)?;
        check_host(request.headers(), hop.local, &self.hosts)?;
        check_length(request.headers())?;
        let is_change = !request.method().is_safe();
        if is_change {
            check_origin(request.headers())?;
            allow(Kind::Change)?;
        }
        let stranger = |refusal: Refusal| match refusal.status {
            StatusCode::UNAUTHORIZED => allow(Kind::Stranger).err().unwrap_or(refusal),
            _ => refusal,
        };
        let caller = self.access.identify(request.headers()).map_err(stranger)?;
        self.access.admit(&caller, request.method(), request.uri().path()).map_err(stranger)?;
        request.extensions_mut().insert(caller);
        Ok(())
    }
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop {
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
}

impl Hop {
    const HERE: Self =
        Self { peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), local: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) };
}

/// All routes.
pub(super) fn router(site: Arc<Site>) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routes
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "nothing here: see /api/v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not have this method")
        })
        .layer(from_fn_with_state(Arc::clone(&site), guard))
        .with_state(site)
}

/// Every path with what it answers to; the OpenAPI document has the same.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Site>>)> {
    vec![
        ("/", get(page::index)),
        ("/{file}", get(page::file)),
        ("/healthz", get(healthz)),
        ("/metrics", get(metrics_text)),
        ("/api/v1/status", get(status)),
        ("/api/v1/acq/{id}/result/{name}", get(result)),
        ("/api/v1/acq/{id}/frame/{which}", get(frame)),
        ("/api/v1/live", get(live::live)),
        ("/api/v1/reductions", get(control::reductions).put(control::change_reductions)),
        ("/api/v1/recording", get(control::recording).post(control::change_recording)),
        ("/api/v1/datasets", get(datasets::list)),
        ("/api/v1/datasets/{name}", get(datasets::one)),
        ("/api/v1/me", get(access::me)),
        ("/api/v1/control", post(access::control)),
        ("/api/v1/ticket", post(access::ticket)),
        (openapi::PATH, get(openapi::document)),
    ]
}

/// Refuses who may not, counts, and marks every answer.
async fn guard(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    let stream = &site.board.stream;
    let mut response = match site.pass(&mut request) {
        Ok(()) => {
            stream.http_requests.fetch_add(1, Ordering::Relaxed);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    if is_refusal(response.status()) {
        stream.http_refused.fetch_add(1, Ordering::Relaxed);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        stream.http_strangers.fetch_add(1, Ordering::Relaxed);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
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

/// Whether this answer turns somebody away, and does not only tell that something is not there, or not now.
fn is_refusal(status: StatusCode) -> bool {
    use StatusCode as S;
    let refusals = [S::BAD_REQUEST, S::UNAUTHORIZED, S::FORBIDDEN, S::REQUEST_TIMEOUT, S::PAYLOAD_TOO_LARGE];
    refusals.contains(&status) || [S::UNSUPPORTED_MEDIA_TYPE, S::TOO_MANY_REQUESTS].contains(&status)
}

/// A name that leads here by somebody else's will does not pass: a page may have brought it about.
fn check_host(headers: &HeaderMap, local: IpAddr, hosts: &[String]) -> Result<(), Refusal> {
    let mut all = headers.get_all(header::HOST).iter();
    let host = all.next().and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| all.next().is_none()) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "exactly one Host header is needed"));
    };
    if is_own_name(host, local, hosts) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "Host must be localhost, the address of this server, or one of [live] hosts",
    ))
}

fn check_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if headers.contains_key(header::TRANSFER_ENCODING) || length.unwrap_or(0) > BODY_BYTES_MAX as u64 {
        let error = "requests have a short body of known length here, or none";
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    Ok(())
}

/// Whether a `Host` header names this machine; any port, so that a tunnel works.
fn is_own_name(host: &str, local: IpAddr, hosts: &[String]) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let (name, port) = match host.rfind(']') {
        Some(end) if host.starts_with('[') => host.split_at(end + 1),
        _ => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
        return false;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_address = address.parse().is_ok_and(|address: IpAddr| {
        (address.is_ipv6() == name.starts_with('[')) && (address == local.to_canonical() || is_usual(address))
    });
    is_address || name.eq_ignore_ascii_case("localhost") || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

fn is_usual(address: IpAddr) -> bool {
    address == IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) || address == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
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
    fn own_names() {
        let (here, there) = (Hop::HERE.local, IpAddr::from([10, 0, 0, 7]));
        let hosts = ["microscope.lab".to_owned()];
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8600", "[::1]", "[::1]:1", "Microscope.LAB:8600"] {
            assert!(is_own_name(host, here, &hosts) && is_own_name(host, there, &hosts), "{host}");
        }
        assert!(is_own_name("10.0.0.7:8600", there, &hosts) && !is_own_name("10.0.0.7:8600", here, &hosts));
        let mapped: IpAddr = "::ffff:10.0.0.7".parse().expect("an address");
        assert!(is_own_name("10.0.0.7", mapped, &[]));
        for host in [
            "",
            "localhost.evil.org",
            "127.0.0.1.nip.io",
            "evil.org:80",
            "localhost:",
            "localhost:x",
            "[::1",
            "::1",
            "microscope.lab.evil.org",
            "[localhost]",
            "[127.0.0.1]",
            "127.0.0.1:80:80",
            "0x7f000001",
            "[::1]x",
            ":80",
        ] {
            assert!(!is_own_name(host, here, &hosts), "{host}");
        }
    }
}
