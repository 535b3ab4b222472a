//! Who may do what: roles by token, tickets for WebSockets, and who has the control.
//!
//! # Limits
//! [`TICKETS_MAX`] tickets wait to be used; older ones go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::{Extension, Json};
use ronchi_config::LivePlan;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::answer::Refusal;
use super::asked::Asked;
use super::routes::Site;
use super::tokens::{Role, TokenError, TokenFile, hash, secret};

/// Most tickets at once.
const TICKETS_MAX: usize = 256;
/// How long a ticket is good.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// How long the control is kept without use.
const LEASE: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// What they may do; `None` = nobody knows them.
    pub(super) role: Option<Role>,
    /// Name of their token.
    label: String,
}

/// Decides who may do what.
#[derive(Debug)]
pub(super) struct Access {
    /// `None` = everybody may do everything.
    tokens: Option<TokenFile>,
    metrics_public: bool,
    /// Hashes of tickets, until when they are good, oldest first.
    tickets: Mutex<VecDeque<([u8; 32], Instant)>>,
    /// Who has the control, and until when.
    lease: Mutex<Option<(String, Instant)>>,
}

impl Access {
    /// As planned. Errors: the file of tokens.
    pub(super) fn new(plan: &LivePlan) -> Result<Self, TokenError> {
        let tokens = plan.auth.as_ref().map(|auth| TokenFile::open(&auth.tokens)).transpose()?;
        let metrics_public = plan.auth.as_ref().is_none_or(|auth| auth.metrics_public);
        Ok(Self { tokens, metrics_public, tickets: Mutex::default(), lease: Mutex::default() })
    }

    /// Who sends these headers. Errors: a token that does not exist.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let Some(tokens) = &self.tokens else {
            return Ok(Caller { role: Some(Role::Control), label: String::new() });
        };
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(Caller { role: None, label: String::new() });
        };
        let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
        let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let (role, label) = token.and_then(|token| tokens.find(token)).ok_or_else(unknown)?;
        Ok(Caller { role: Some(role), label })
    }

    /// Whether this token lets its holder see the live stream.
    pub(super) fn knows(&self, token: &str) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| tokens.find(token).is_some())
    }

    /// What this request needs; `None` = nothing.
    fn needed(&self, method: &Method, path: &str) -> Option<Role> {
        match path {
            "/api/v1/me" | "/api/v1/openapi.json" => None,
            "/api/v1/live" => None, // By ticket or first message.
            "/api/v1/ticket" => Some(Role::Read),
            "/metrics" if self.metrics_public => None,
            "/metrics" => Some(Role::Read),
            _ if !path.starts_with("/api/") => None,
            _ if method.is_safe() => Some(Role::Read),
            _ => Some(Role::Control),
        }
    }

    /// Lets a request pass, and takes the control for it when it changes something.
    pub(super) fn admit(&self, caller: &Caller, method: &Method, path: &str) -> Result<(), Refusal> {
        let Some(needed) = self.needed(method, path) else { return Ok(()) };
        match caller.role {
            None => return Err(unknown()),
            Some(role) if role < needed => {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "this token may only look: role control is needed"));
            }
            Some(_) => {}
        }
        let is_change = needed == Role::Control && path != "/api/v1/control";
        if is_change { self.take(caller, Instant::now()) } else { Ok(()) }
    }

    fn lease(&self, now: Instant) -> std::sync::MutexGuard<'_, Option<(String, Instant)>> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.as_ref().is_some_and(|(_, until)| *until <= now) {
            *lease = None;
        }
        lease
    }

    /// Takes the control, or keeps it. Errors: somebody else has it.
    fn take(&self, caller: &Caller, now: Instant) -> Result<(), Refusal> {
        let mut lease = self.lease(now);
        if let Some((label, _)) = lease.as_ref().filter(|(label, _)| *label != caller.label) {
            let error = format!("{label} has the control, until 30 s after the last change");
            return Err(Refusal::new(StatusCode::CONFLICT, error));
        }
        *lease = Some((caller.label.clone(), now + LEASE));
        Ok(())
    }

    /// Gives the control back. Errors: somebody else has it.
    fn release(&self, caller: &Caller, now: Instant) -> Result<(), Refusal> {
        self.take(caller, now)?;
        *self.lease(now) = None;
        Ok(())
    }

    fn has_control(&self, caller: &Caller, now: Instant) -> bool {
        self.tokens.is_none() || self.lease(now).as_ref().is_some_and(|(label, _)| *label == caller.label)
    }

    fn new_ticket(&self, now: Instant) -> std::io::Result<String> {
        let ticket = secret()?;
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|(_, until)| *until > now);
        if tickets.len() >= TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back((hash(&ticket), now + TICKET_LIFE));
        Ok(ticket)
    }

    /// Whether this ticket is good; it is not any more.
    pub(super) fn use_ticket(&self, ticket: &str, now: Instant) -> bool {
        let hash = hash(ticket);
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tickets.iter().position(|(known, until)| bool::from(known.ct_eq(&hash)) && *until > now);
        found.and_then(|at| tickets.remove(at)).is_some()
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "a token is needed, as `Authorization: Bearer TOKEN`; this is none, or a wrong one",
    )
}

/// What the caller may do.
#[derive(Debug, Serialize)]
pub(super) struct Me {
    role: Option<&'static str>,
    auth: bool,
    controller: bool,
}

/// What `POST /api/v1/control` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Hold {
    Take {},
    Release {},
}

/// A ticket for one WebSocket.
#[derive(Debug, Serialize)]
pub(super) struct Ticket {
    ticket: String,
    seconds: u64,
}

pub(super) async fn me(State(site): State<Arc<Site>>, Extension(caller): Extension<Caller>) -> Json<Me> {
    Json(Me {
        role: caller.role.map(Role::word),
        auth: site.access.tokens.is_some(),
        controller: site.access.has_control(&caller, Instant::now()),
    })
}

pub(super) async fn control(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Asked(hold): Asked<Hold>,
) -> Result<Json<Me>, Refusal> {
    match hold {
        Hold::Take {} => site.access.take(&caller, Instant::now())?,
        Hold::Release {} => site.access.release(&caller, Instant::now())?,
    }
    Ok(me(State(site), Extension(caller)).await)
}

pub(super) async fn ticket(State(site): State<Arc<Site>>) -> Result<Json<Ticket>, Refusal> {
    let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this machine gives no random numbers");
    let ticket = site.access.new_ticket(Instant::now()).map_err(failed)?;
    Ok(Json(Ticket { ticket, seconds: TICKET_LIFE.as_secs() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(label: &str) -> Caller {
        Caller { role: Some(Role::Control), label: label.to_owned() }
    }

    /// The control is kept by use, runs out without, and is refused to others by name meanwhile.
    #[test]
    fn one_has_the_control() {
        let access = Access::new(&LivePlan::default()).expect("no file");
        let (alice, bob, start) = (caller("alice"), caller("bob"), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(access.take(&alice, start).is_ok());
        let refused = access.take(&bob, after(29)).expect_err("alice has it");
        assert!(refused.status == StatusCode::CONFLICT && refused.error.starts_with("alice has the control"));
        assert!(access.release(&bob, after(29)).is_err());
        assert!(access.take(&alice, after(29)).is_ok());
        assert!(access.take(&bob, after(58)).is_err() && access.take(&bob, after(59)).is_ok());
        assert!(access.release(&bob, after(60)).is_ok() && access.take(&alice, after(60)).is_ok());
    }

    /// A ticket is good once, for 30 s, and there are only so many.
    #[test]
    fn tickets_are_good_once() {
        let (access, start) = (Access::new(&LivePlan::default()).expect("no file"), Instant::now());
        let ticket = access.new_ticket(start).expect("a ticket");
        assert!(!access.use_ticket("", start) && !access.use_ticket(&ticket[1..], start));
        assert!(access.use_ticket(&ticket, start) && !access.use_ticket(&ticket, start));
        let late = access.new_ticket(start).expect("a ticket");
        assert!(!access.use_ticket(&late, start + TICKET_LIFE));
        let first = access.new_ticket(start).expect("a ticket");
        for _ in 0..TICKETS_MAX {
            access.new_ticket(start).expect("a ticket");
        }
        assert!(!access.use_ticket(&first, start), "it had to go");
        assert_eq!(access.tickets.lock().expect("not poisoned").len(), TICKETS_MAX);
    }
}
