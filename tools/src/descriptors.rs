//! File descriptors: what a receiver needs, what the system allows, and what of it viewers may have.
//!
//! # Invariants
//! - I1: what recording needs is set aside before any viewer is admitted, so that no number of viewers can keep a segment
//!   from being created.
//!
//! # Limits
//! The soft limit of the process is raised to the hard one; nothing is started that needs more than that.

use anyhow::{Result, bail};
use ronchi_config::{LinkPlan, Plan, SourcePlan};
use ronchi_sinks::http::HttpLimits;
use ronchi_sinks::live::GUESTS_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Standard streams, signal pipe, ring, directory probes, and what libraries open for a moment.
const BASE: u64 = 20;
/// Of one link: sockets, lock, log, frame table, two open segments and those being sealed, files replaced by name.
const PER_LINK: u64 = 16;
/// Of a context of libzmq: event queues of its threads, mailboxes and timers of sockets, listener.
const ZMQ: u64 = 16;
/// Of the HTTP server: event queue, waker, listener, files of frames that are looked at.
const HTTP: u64 = 16;

/// Descriptors for everything but viewers.
fn needed(plan: &Plan) -> u64 {
    let contexts = |link: &LinkPlan| match link.source {
        SourcePlan::Dectris { sockets, .. } => sockets.into(),
        SourcePlan::Tiles { .. } => 1,
        SourcePlan::Merlin { .. } | SourcePlan::Replay { .. } => 0,
    };
    let guests = |&(key, _): &(&str, &str)| key != "zmq"; // Subscribers of our own stream get what is left.
    let guests = u64::from(GUESTS_MAX) * plan.live.endpoints().filter(guests).count() as u64;
    let zmq = ZMQ * (plan.live.endpoints().count() as u64 + plan.links.iter().map(contexts).sum::<u64>()) + guests;
    let http = if plan.live.http.is_some() { HTTP } else { 0 };
    BASE + PER_LINK * plan.links.len() as u64 + zmq + http
}

/// Raises the limit as far as is allowed and cuts the number of subscribers to what is left; returns that of HTTP clients.
///
/// # Errors
/// The limit is below what the receiver needs for itself.
pub(crate) fn share_out(plan: &mut Plan) -> Result<usize> {
    let allowed = raised_limit();
    let Some((http, subscribers)) = shares(plan, allowed) else {
        let need = needed(plan);
        bail!("{need} file descriptors are needed, {allowed} are allowed: raise the limit (LimitNOFILE, ulimit -n)");
    };
    if plan.live.zmq.is_some() && subscribers < plan.limits.subscriber_count {
        tracing::warn!(
            "{allowed} file descriptors are allowed: at most {subscribers} subscribers, {http} HTTP clients"
        );
        plan.limits.subscriber_count = subscribers;
    }
    Ok(http)
}

/// HTTP clients and subscribers that fit beside recording (I1); `None` when not even that fits.
fn shares(plan: &Plan, allowed: u64) -> Option<(usize, u32)> {
    let spare = allowed.checked_sub(needed(plan))?;
    let http_max = HttpLimits::default().connections as u64 + u64::from(plan.limits.subscriber_count);
    let http = if plan.live.http.is_some() { http_max.min(spare / 2) } else { 0 };
    let subscribers = u64::from(plan.limits.subscriber_count).min(spare - http);
    Some((http as usize, subscribers as u32)) // At most what it was.
}

/// The soft limit, after it was raised to the hard one.
fn raised_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // What it was then counts.
    getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Viewers get what recording leaves, and a limit that is too low is told with both numbers.
    #[test]
    fn recording_comes_first() {
        let plan = |zmq: &str| {
            let links = "[data]\nrecord = false\n[[link]]\nsource = \"merlin://127.0.0.1\"\n";
            let text = format!("{links}[live]\nhttp = \"127.0.0.1:0\"\n{zmq}");
            Plan::from_toml(&text, "test.toml", Path::new(".")).expect("valid")
        };
        let alone = plan("");
        let need = needed(&alone);
        assert_eq!(need, BASE + PER_LINK + HTTP);
        assert_eq!(shares(&alone, need), Some((0, 0)));
        assert_eq!(shares(&alone, need - 1), None);
        let live = plan("zmq = \"tcp://127.0.0.1:9000\"\n");
        assert_eq!(needed(&live), need + ZMQ);
        let guests = plan("odin = \"tcp://127.0.0.1:9001\"\n");
        assert_eq!(needed(&guests), need + ZMQ + u64::from(GUESTS_MAX));
        assert_eq!(shares(&live, needed(&live) + 100), Some((50, 50)));
        assert_eq!(shares(&live, 1 << 20), Some((1280, 1024)));
    }
}
