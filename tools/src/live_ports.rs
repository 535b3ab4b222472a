//! Where live results of a one-shot command can be seen: the usual ports when they are free, the user's in any case.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use clap::Args;
use ronchi_config::{parse_http, parse_live_endpoint};

/// Port of the HTTP API unless told otherwise.
pub(crate) const HTTP_PORT: u16 = 8600;
/// Port of the ZMQ stream unless told otherwise.
pub(crate) const ZMQ_PORT: u16 = 8601;

/// Options shared by commands that show live results.
#[derive(Debug, Clone, Args)]
pub(crate) struct LiveArgs {
    /// ZMQ endpoint of the live stream, or `off` [default: tcp://127.0.0.1:8601 if free]
    #[arg(long, value_name = "ENDPOINT")]
    live_zmq: Option<String>,
    /// HTTP address for images, status and metrics, or `off` [default: 127.0.0.1:8600 if free]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
}

/// The addresses in force.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// ZMQ endpoint.
    pub zmq: Option<String>,
    /// HTTP listener.
    pub http: Option<SocketAddr>,
}

impl LiveArgs {
    /// Resolves options to addresses; a taken default port turns that output off with a note.
    pub(crate) fn wanted(&self) -> Result<Wanted> {
        let zmq = match self.live_zmq.as_deref() {
            Some("off") => None,
            Some(endpoint) => Some(parse_live_endpoint(endpoint).context("--live-zmq")?),
            None => free(ZMQ_PORT).map(|address| format!("tcp://{address}")),
        };
        let http = match self.http.as_deref() {
            Some("off") => None,
            Some(address) => Some(parse_http(address).context("--http")?),
            None => free(HTTP_PORT),
        };
        Ok(Wanted { zmq, http })
    }
}

fn free(port: u16) -> Option<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => Some(address),
        Err(error) => {
            tracing::warn!("{address} is not free ({error}): not used");
            None
        }
    }
}
