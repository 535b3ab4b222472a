//! A small HTTP server for people, scripts and scrapers; the API is `docs/http-api.md`, the page
//! `docs/live-view.md`.
//!
//! # Place in the path
//! One thread with a current-thread runtime. Requests copy what they need from the board and leave; nothing here can
//! wait for, or be waited for by, the receive path.
//!
//! # Who is let in
//! Every request passes `Site::pass` first: how much its address may ask for, the name it came by, where the page is from
//! that sent it, and what its token allows.
//!
//! # Limits
//! [`HttpLimits`]: connections (WebSockets among them), header bytes and time, age of a connection, and bytes of images
//! under way to clients that read slowly. Everything beyond is refused with a status code, or by closing the connection.
//!
//! # Errors
//! [`HttpError`] leaves [`HttpServer::spawn`]. Requests end in JSON errors that never contain a path of this machine.

mod access;
mod answer;
mod asked;
mod control;
mod datasets;
mod frame;
mod live;
mod openapi;
mod page;
mod rates;
mod routes;
mod server;
mod tokens;

pub use control::{Control, ControlError, Recording, Start};
pub use server::{HttpError, HttpLimits, HttpServer};
pub use tokens::{Role, TokenError, new_token};
