//! Accepts connections, within limits, on one thread.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ronchi_config::LivePlan;
use ronchi_pipeline::fault::{self, Stage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::access::Access;
use super::control::Control;
use super::live::CLIENT_BYTES;
use super::routes::{self, Hop, Site};
use super::tokens::TokenError;
use crate::live::Board;
use crate::priority::stand_back;

/// Bounds of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; further ones are answered 503 and closed.
    pub connections: usize,
    /// Of these, how many may follow the live stream.
    pub live_clients: u32,
    /// Bytes of the largest messages that the connections of these keep.
    pub live_bytes: u32,
    /// Bytes of a request's line and headers.
    pub header_bytes: usize,
    /// Longest time for a client to send its headers, also between two requests.
    pub header_timeout: Duration,
    /// A connection is closed after its present answer at this age, and cut 10 s later.
    pub connection_age: Duration,
    /// Bytes of images under way to all clients together.
    pub image_bytes: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            live_clients: 64,
            live_bytes: 256 << 20,
            header_bytes: 16 << 10,
            header_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(60),
            image_bytes: 256 << 20,
        }
    }
}

impl HttpLimits {
    /// For so many connections, of which up to `live_clients` may follow the live stream: half of them, or as many as
    /// usual, are left to requests.
    pub fn sharing(connections: usize, live_clients: u32) -> Self {
        let usual = Self::default();
        let spare = connections - usual.connections.min(connections / 2);
        Self { connections, live_clients: live_clients.min(spare as u32), ..usual }
    }

    /// Most memory for answers and for who follows the live stream, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.image_bytes) + u64::from(self.live_bytes) + u64::from(self.live_clients) * CLIENT_BYTES
    }
}

/// Time between asking a connection to end and cutting it.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// Time for clients of the live stream to take the end of it.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Threads that wait for the disk.
const DISK_THREADS: usize = 2;
/// Pause after a failed accept: most likely too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Not a loopback address.
    #[error(
        "http address {address} can be reached from other machines, and nothing is encrypted: use 127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// As configured.
        address: SocketAddr,
    },
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The address cannot be bound.
    #[error("cannot listen on http address {address}: {source}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No thread or runtime.
    #[error("cannot start the http thread: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

/// A running server; dropping it stops it and waits for its thread.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// The place of a connection, given back when the last who holds it is gone: what follows an upgrade holds it on.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

impl HttpServer {
    /// Binds `address` (port 0 = any free one) and starts the thread `http`; `plan` says who is let in.
    pub fn spawn(
        board: Arc<Board>,
        control: Option<Arc<dyn Control>>,
        address: SocketAddr,
        plan: &LivePlan,
        limits: HttpLimits,
    ) -> Result<Self, HttpError> {
        if !plan.may_listen_on(address) {
            return Err(HttpError::NotLoopback { address });
        }
        if !address.ip().is_loopback() {
            tracing::warn!("INSECURE: {address} can be reached from other machines, and nothing is encrypted");
            board.stream.insecure_listens.store(1, Ordering::Relaxed);
        }
        let access = (Access::new(plan)?, plan.hosts.clone());
        let refused = |source| HttpError::Bind { address, source };
        let listener = StdListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let no_thread = |source| HttpError::Thread { source };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(DISK_THREADS).build().map_err(no_thread)?;
        let (stop, stopped) = watch::channel(false);
        let site = Arc::new(Site::new(Arc::clone(&board), control, access, &limits, stopped));
        let guard = board.watch("http server");
        let work = move || {
            let _guard = guard;
            stand_back();
            runtime.block_on(serve(listener, &site, limits));
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(work).map_err(no_thread)?;
        Ok(Self { address: bound, stop, thread: Some(thread) })
    }

    /// Where it listens, with its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true); // Nobody hears it: the thread has ended.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic there has been reported by the panic hook.
        }
    }
}

async fn serve(listener: StdListener, site: &Arc<Site>, limits: HttpLimits) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "http server cannot use its listener and is off");
            return;
        }
    };
    let (router, mut ending) = (routes::router(Arc::clone(site)), site.ending.clone());
    let connections = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            _ = ending.changed() => break,
            accepted = listener.accept() => accepted,
        };
        fault::pass(Stage::Http);
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            site.board.stream.http_refused.fetch_add(1, Ordering::Relaxed);
            refuse(stream);
            continue;
        };
        tokio::spawn(converse(stream, router.clone(), Arc::new(permit), Arc::clone(site), limits));
    }
    // A client that does not take it in time misses the end.
    let _ = tokio::time::timeout(LAST_WORDS, site.live_places.acquire_many(limits.live_clients)).await;
}

/// One line for who comes when every place is taken; no waiting for it to be read.
fn refuse(stream: TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(FULL); // The peer is turned away whether it hears why or not.
    }
}

async fn converse(stream: TcpStream, router: Router, place: Place, site: Arc<Site>, limits: HttpLimits) {
    let _ = stream.set_nodelay(true); // Only costs latency when refused.
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return }; // It has gone already.
    let hop = Hop { peer: peer.ip().to_canonical(), local: local.ip() };
    let router = TowerToHyperService::new(router);
    let was_asked = AtomicBool::new(false);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        was_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Arc::clone(&place));
        request.extensions_mut().insert(hop);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8192))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(limits.connection_age) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    // How a connection ends, the peer has seen itself; what it sent before a request could be read is counted.
    let is_idle = was_asked.load(Ordering::Relaxed); // A client that asks nothing more is none to be refused.
    if ended.is_err_and(|error| error.is_parse() || (error.is_timeout() && !is_idle)) {
        site.board.stream.http_refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
