//! SIMPLON, the REST interface of DECTRIS detectors: one request, one answer (`docs/detectors/dectris.md`).
//!
//! # Limits
//! An answer has at most [`ANSWER_BYTES_MAX`] bytes and comes within the time of its request; a connection within 5 s.
//!
//! # Errors
//! [`RestError`] names the request with what was sent, and what came back. What the detector refuses is told from what did not
//! reach it ([`RestError::is_refusal`]).
//!
//! # Why this way
//! Every request has a connection of its own: there are a few dozen in a series, and a control unit may close idle ones at any time.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body, Timeout};

/// Longest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What of a text that came is repeated in messages, in characters.
const SHOWN_CHARS_MAX: usize = 300;
/// How long a connection may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long an answer to a question may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a setting may take: energies and regions load tables.
const SET_TIME_MAX: Duration = Duration::from_secs(30);
/// Version of the interface where the detector does not tell.
const VERSION: &str = "1.8.0";

/// Part of the control unit that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// The detector.
    Detector,
    /// Its ZeroMQ stream.
    Stream,
}

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// How something is set.
    Config,
    /// How something is.
    Status,
}

/// What a detector can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Get ready after power-on; takes minutes.
    Initialize,
    /// Take the settings, send the start of a series and wait for triggers.
    Arm,
    /// Start images now; answered when they are done, at most this long from now.
    Trigger(Duration),
    /// End the series.
    Disarm,
    /// End everything at once.
    Abort,
}

impl Command {
    fn word(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Arm => "arm",
            Self::Trigger(_) => "trigger",
            Self::Disarm => "disarm",
            Self::Abort => "abort",
        }
    }

    /// How long its answer is waited for.
    pub fn time_max(self) -> Duration {
        match self {
            Self::Initialize => Duration::from_secs(240),
            Self::Arm => Duration::from_secs(120),
            Self::Trigger(time) => time,
            Self::Disarm | Self::Abort => Duration::from_secs(20),
        }
    }
}

/// What a detector is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Switched on, not initialised.
    Na,
    /// Ready to be armed.
    Idle,
    /// Armed.
    Ready,
    /// Taking images.
    Acquire,
    /// Nothing can be asked of it.
    Error,
    /// Anything else, in its own word.
    Other(String),
}

impl State {
    fn of(word: &str) -> Self {
        match word {
            "na" => Self::Na,
            "idle" => Self::Idle,
            "ready" => Self::Ready,
            "acquire" => Self::Acquire,
            "error" => Self::Error,
            other => Self::Other(shown(other)),
        }
    }
}

/// A request that did not bring what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {failure}")]
pub struct RestError {
    /// Method, address and what was sent.
    pub request: String,
    /// What came of it.
    pub failure: Failure,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nobody answers there.
    #[error("not answered: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The answer did not come, or not to its end.
    #[error("not answered within {} s", time_max.as_secs_f64())]
    Silence {
        /// How long it was waited for.
        time_max: Duration,
    },
    /// The detector will not do it.
    #[error("answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it says.
        text: String,
    },
    /// The answer cannot be understood.
    #[error("answered {got}, expected {expected}")]
    Unreadable {
        /// What came.
        got: String,
        /// What should have come.
        expected: &'static str,
    },
}

impl RestError {
    /// Whether the detector answered and will not do it: asking again does not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self.failure, Failure::Refused { .. } | Failure::Unreadable { .. })
    }

    /// Whether the detector may still be doing what it was told.
    pub fn is_silence(&self) -> bool {
        matches!(self.failure, Failure::Silence { .. })
    }
}

/// The REST interface of one control unit.
#[derive(Debug, Clone)]
pub struct Simplon {
    agent: Agent,
    /// `http://HOST:PORT`.
    base: String,
    version: String,
}

impl Simplon {
    /// Asks a control unit which version of the interface it speaks. `host` is a name, an address, or an IPv6 address in brackets.
    pub fn discover(host: &str, port: u16) -> Result<Self, RestError> {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .http_status_as_error(false)
            .max_redirects(1) // Some servers want a slash behind `version`.
            .max_idle_connections(0)
            .proxy(None)
            .build();
        let base = format!("http://{host}:{port}");
        let mut simplon = Self { agent: config.new_agent(), base, version: VERSION.to_owned() };
        match simplon.value_at("/detector/api/version") {
            Ok(version) => simplon.version = simplon.version_of(&version)?,
            // A simulator has no such question, and speaks the usual version.
            Err(RestError { failure: Failure::Refused { status: 404, .. }, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(simplon)
    }

    /// It becomes part of addresses: digits and dots only.
    fn version_of(&self, value: &Value) -> Result<String, RestError> {
        let is_version = |text: &&str| {
            (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        value.as_str().filter(is_version).map(str::to_owned).ok_or_else(|| RestError {
            request: format!("GET {}/detector/api/version", self.base),
            failure: Failure::Unreadable { got: shown(&value.to_string()), expected: "a version such as 1.8.0" },
        })
    }

    /// Where it is, for messages.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// A value of the configuration or of the status.
    pub fn value(&self, module: Module, task: Task, key: &str) -> Result<Value, RestError> {
        self.value_at(&self.path(module, task, key))
    }

    /// Sets a value of the configuration; the names of all values that changed with it.
    pub fn set(&self, module: Module, key: &str, value: &Value) -> Result<Vec<String>, RestError> {
        let path = self.path(module, Task::Config, key);
        let answer = self.put(&path, Some(&json!({ "value": value })), SET_TIME_MAX)?;
        // Nothing depends on this list, and not every server sends one.
        let changed: Value = serde_json::from_str(&answer).unwrap_or_default();
        let names = changed.as_array().map(Vec::as_slice).unwrap_or_default().iter();
        Ok(names.filter_map(Value::as_str).map(shown).collect())
    }

    /// What the detector is doing.
    pub fn state(&self) -> Result<State, RestError> {
        let value = self.value(Module::Detector, Task::Status, "state")?;
        Ok(value.as_str().map_or_else(|| State::Other(shown(&value.to_string())), State::of))
    }

    /// Runs a command; the number of the series it belongs to, where the detector says one.
    pub fn command(&self, command: Command) -> Result<Option<u64>, RestError> {
        let path = format!("/detector/api/{}/command/{}", self.version, command.word());
        let answer = self.put(&path, None, command.time_max())?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        Ok(["sequence id", "series id"].iter().find_map(|key| answer.get(key)?.as_u64()))
    }

    fn path(&self, module: Module, task: Task, key: &str) -> String {
        let module = match module {
            Module::Detector => "detector",
            Module::Stream => "stream",
        };
        let task = match task {
            Task::Config => "config",
            Task::Status => "status",
        };
        format!("/{module}/api/{}/{task}/{key}", self.version)
    }

    fn value_at(&self, path: &str) -> Result<Value, RestError> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let result = request.config().timeout_global(Some(READ_TIME_MAX)).build().call();
        let failed = |failure| RestError { request: format!("GET {}{path}", self.base), failure };
        let text = answer(result, READ_TIME_MAX).map_err(failed)?;
        let value =
            serde_json::from_str(&text).ok().and_then(|mut answer: Value| Some(answer.get_mut("value")?.take()));
        let unreadable = || Failure::Unreadable { got: shown(&text), expected: "{\"value\": ...}" };
        value.ok_or_else(|| failed(unreadable()))
    }

    fn put(&self, path: &str, body: Option<&Value>, time_max: Duration) -> Result<String, RestError> {
        let body = body.map(Value::to_string);
        let request = self.agent.put(format!("{}{path}", self.base));
        let request = request.config().timeout_global(Some(time_max)).build();
        let result = match &body {
            Some(body) => request.header("Content-Type", "application/json").send(body),
            None => request.send_empty(),
        };
        let sent = body.map(|body| format!(" {}", shown(&body))).unwrap_or_default();
        answer(result, time_max)
            .map_err(|failure| RestError { request: format!("PUT {}{path}{sent}", self.base), failure })
    }
}

/// The text of an answer.
fn answer(result: Result<Response<Body>, ureq::Error>, time_max: Duration) -> Result<String, Failure> {
    let failure = |error| match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Failure::Unreachable { reason: format!("no connection within {} s", CONNECT_TIME_MAX.as_secs()) }
        }
        ureq::Error::Timeout(_) => Failure::Silence { time_max },
        ureq::Error::BodyExceedsLimit(bytes) => {
            Failure::Unreadable { got: format!("more than {bytes} bytes"), expected: "a short answer" }
        }
        error => Failure::Unreachable { reason: shown(&error.to_string()) },
    };
    let mut response = result.map_err(failure)?;
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true);
    let text = body.read_to_string().map_err(failure)?;
    match response.status() {
        status if status.is_success() => Ok(text),
        status => Err(Failure::Refused { status: status.as_u16(), text: shown(&text) }),
    }
}

/// The beginning of a text that came, safe to print.
fn shown(text: &str) -> String {
    let printable = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(SHOWN_CHARS_MAX).collect()
}
