//! `[live]`: where results go, and who may have them.

use std::path::Path;
use std::time::Duration;

use super::{Reader, parsed, path};
use crate::document::{Section, Value};
use crate::plan::{AuthPlan, LivePlan};
use crate::value::{parse_http, parse_live_endpoint};

/// What `live.hosts` expects, and most of them.
const HOSTS_RULE: &str = "names by which this machine is reached, [\"microscope.lab\"], at most 16";
const HOSTS_MAX: usize = 16;

impl Reader<'_> {
    pub(super) fn live(&self) -> LivePlan {
        let mut plan = LivePlan::default();
        let keys = ["zmq", "karabo", "odin", "http", "update_interval_ms", "hosts", "insecure_listen", "auth"];
        let Some(section) = self.root.section("live", &keys) else { return plan };
        let endpoint = |key| section.get(key).and_then(|value| parsed(&value, "an endpoint", parse_live_endpoint));
        (plan.zmq, plan.karabo, plan.odin) = (endpoint("zmq"), endpoint("karabo"), endpoint("odin"));
        plan.http = section.get("http").and_then(|value| parsed(&value, "an address and port", parse_http));
        let interval_ms = section.int_or("update_interval_ms", plan.update_interval.as_millis() as u64, 1..=10_000);
        plan.update_interval = Duration::from_millis(interval_ms);
        plan.hosts = section.get("hosts").and_then(|value| hosts(&value)).unwrap_or_default();
        plan.insecure_listen = section.boolean_or("insecure_listen", false);
        plan.auth = auth(&section, self.base_dir);
        plan
    }
}

fn auth(live: &Section<'_>, base_dir: &Path) -> Option<AuthPlan> {
    let section = live.section("auth", &["tokens", "metrics_public"])?;
    let expected = "the file of tokens that `ronchi token new` writes";
    let tokens = path(&section.need("tokens", expected)?, expected)?;
    Some(AuthPlan { tokens: base_dir.join(tokens), metrics_public: section.boolean_or("metrics_public", false) })
}

fn hosts(value: &Value<'_>) -> Option<Vec<String>> {
    let is_name =
        |text: &&str| text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
    let names = value.texts(HOSTS_RULE)?;
    let is_good = names.len() <= HOSTS_MAX && names.iter().all(is_name);
    value.checked(is_good.then_some(()).ok_or_else(|| format!("expected {HOSTS_RULE}")))?;
    Some(names.into_iter().map(str::to_ascii_lowercase).collect())
}
