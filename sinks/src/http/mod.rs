//! A small HTTP server for people, scripts and scrapers on this machine; the API is `docs/http-api.md`, the page
//! `docs/live-view.md`.
//!
//! # Place in the path
//! One thread with a current-thread runtime. Requests copy what they need from the board and leave; nothing here can
//! wait for, or be waited for by, the receive path.
//!
//! # Limits
//! [`HttpLimits`]: connections (WebSockets among them), header bytes and time, age of a connection, and bytes of images
//! under way to clients that read slowly. Everything beyond is refused with a status code, or by closing the connection.
//!
//! # Errors
//! [`HttpError`] leaves [`HttpServer::spawn`]. Requests end in JSON errors that never contain a path of this machine.

mod answer;
mod asked;
mod control;
mod datasets;
mod frame;
mod live;
mod page;
mod routes;
mod server;

pub use control::{Control, ControlError, Recording, Start};
pub use server::{HttpError, HttpLimits, HttpServer};
