//! Where frames and results go: segment files, the live stream, the HTTP API and the metrics of a receiver.

pub mod http;
pub mod live;
pub mod metrics;
pub mod priority;
pub mod storage;
mod time;
