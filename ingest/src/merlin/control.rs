//! The control port: one ASCII request, one response.
//!
//! # Limits
//! A response has at most [`RESPONSE_BYTES_MAX`] bytes and must come within the time given, however it trickles.
//!
//! # Errors
//! Any error number other than 0 is [`SourceError::Control`]; after any other error the connection is of no use.
//!
//! # Why this way
//! Some simulators leave the comma behind the length out of the length of their responses, so that the last byte, the
//! error number, lies beyond it. A response without its last field is therefore given one more byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use ronchi_config::MerlinControlPlan;

use super::header::{PREFIX_BYTES, digits, mpx_body_bytes, mpx_prefix};
use crate::SourceError;

/// Longest response accepted, in bytes.
pub const RESPONSE_BYTES_MAX: u64 = 64 << 10;
/// Responses to something else that are passed over before giving up.
const STRAY_RESPONSES_MAX: usize = 8;
/// How long the byte beyond a response that lacks its error number is waited for.
const LAST_BYTE_TIME_MAX: Duration = Duration::from_millis(100);

/// A stream of requests and responses whose reads can be limited in time.
pub trait ControlStream: Read + Write {
    /// Reads and writes fail when they take longer.
    fn set_patience(&mut self, patience: Duration) -> io::Result<()>;
}

impl ControlStream for TcpStream {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience.max(Duration::from_millis(1))); // Zero would mean forever.
        self.set_read_timeout(patience)?;
        self.set_write_timeout(patience)
    }
}

/// A response, split at its commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// `GET`, `SET` or `CMD`.
    pub kind: &'a [u8],
    /// Of what.
    pub name: &'a [u8],
    /// What a `GET` asked for; may hold commas. Empty otherwise.
    pub value: &'a [u8],
    /// Error number, 0 = done.
    pub code: i64,
}

/// Splits the body of a response; `None` when a field is missing or the last is not a number.
pub fn parse_response(body: &[u8]) -> Option<Response<'_>> {
    let mut fields = body.splitn(3, |&byte| byte == b',');
    let (kind, name, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let last_comma = rest.iter().rposition(|&byte| byte == b',');
    let (value, code) = match (kind, last_comma) {
        (b"GET", None) => return None,
        (_, Some(at)) => (&rest[..at], &rest[at + 1..]),
        (_, None) => (&rest[..0], rest),
    };
    let code = i64::try_from(digits(code)?).ok()?;
    Some(Response { kind, name, value, code })
}

/// A connection to a Merlin's control port.
#[derive(Debug)]
pub struct MerlinControl<S = TcpStream> {
    stream: S,
    address: String,
    time_max: Duration,
}

impl MerlinControl<TcpStream> {
    /// Connects within `time_max`, which then limits each request with its response.
    pub fn connect(host: &str, port: u16, time_max: Duration) -> Result<Self, SourceError> {
        let address = format!("{host}:{port}");
        let connect = || {
            let mut result = Err(io::Error::new(ErrorKind::NotFound, "host name has no address"));
            for address in (host, port).to_socket_addrs()? {
                result = TcpStream::connect_timeout(&address, time_max);
                if result.is_ok() {
                    break;
                }
            }
            result.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        };
        match connect() {
            Ok(stream) => Ok(Self::over(stream, address, time_max)),
            Err(source) => Err(SourceError::Connect { address, source }),
        }
    }
}

impl<S: ControlStream> MerlinControl<S> {
    /// Speaks the protocol over any stream; `address` is for messages.
    pub fn over(stream: S, address: String, time_max: Duration) -> Self {
        Self { stream, address, time_max }
    }

    /// The stream spoken over.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Value of a variable.
    pub fn get(&mut self, name: &str) -> Result<String, SourceError> {
        self.exchange("GET", name, None)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SourceError> {
        self.exchange("SET", name, Some(value)).map(drop)
    }

    /// Runs a command.
    pub fn command(&mut self, name: &str) -> Result<(), SourceError> {
        self.exchange("CMD", name, None).map(drop)
    }

    /// Sets what the plan names and starts the acquisition; the detector answers with `HDR` on the data socket.
    pub fn arm(&mut self, plan: &MerlinControlPlan) -> Result<(), SourceError> {
        if let Some(count) = plan.frame_count {
            self.set("NUMFRAMESTOACQUIRE", &count.to_string())?;
        }
        if let Some(trigger) = plan.trigger {
            self.set("TRIGGERSTART", &(trigger as u8).to_string())?;
        }
        self.command("STARTACQUISITION")
    }

    /// Starts an armed acquisition whose start trigger is the soft one.
    pub fn soft_trigger(&mut self) -> Result<(), SourceError> {
        self.command("SOFTTRIGGER")
    }

    /// Stops the acquisition after the current frame.
    pub fn stop(&mut self) -> Result<(), SourceError> {
        self.command("STOPACQUISITION")
    }

    fn exchange(&mut self, kind: &str, name: &str, value: Option<&str>) -> Result<String, SourceError> {
        let request = value.map_or_else(|| format!("{kind},{name}"), |value| format!("{kind},{name},{value}"));
        let until = Instant::now() + self.time_max;
        let body = self.send(&request).and_then(|()| self.answer(kind, name, until));
        let body = body.map_err(|source| SourceError::Lost { address: self.address.clone(), source })?;
        match parse_response(&body) {
            Some(response) if response.code == 0 => Ok(response.value.iter().map(|&byte| char::from(byte)).collect()),
            Some(Response { code, .. }) => Err(SourceError::Control { address: self.address.clone(), request, code }),
            None => Err(SourceError::Protocol {
                address: self.address.clone(),
                got: body.escape_ascii().to_string(),
                expected: format!("an answer to {request} that ends with an error number"),
            }),
        }
    }

    fn send(&mut self, request: &str) -> io::Result<()> {
        self.stream.set_patience(self.time_max)?;
        let prefix = mpx_prefix(request.len() as u64);
        self.stream.write_all(&[&prefix[..], request.as_bytes()].concat())
    }

    /// The response that echoes this kind and name; others are left-overs of earlier requests.
    fn answer(&mut self, kind: &str, name: &str, until: Instant) -> io::Result<Vec<u8>> {
        for _ in 0..STRAY_RESPONSES_MAX {
            let body = self.read_response(until)?;
            let mut fields = body.split(|&byte| byte == b',');
            if fields.next() == Some(kind.as_bytes()) && fields.next() == Some(name.as_bytes()) {
                return Ok(body);
            }
        }
        Err(io::Error::new(ErrorKind::InvalidData, format!("no answer to {kind} {name} among {STRAY_RESPONSES_MAX}")))
    }

    fn read_response(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        let mut prefix = [0; PREFIX_BYTES];
        self.read(&mut prefix, until)?;
        let bytes = mpx_body_bytes(&prefix).filter(|&bytes| bytes <= RESPONSE_BYTES_MAX).ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, format!("{} is no MPX prefix", prefix.escape_ascii()))
        })?;
        let mut body = vec![0; bytes as usize];
        self.read(&mut body, until)?;
        if parse_response(&body).is_none() {
            let mut last = [0];
            if self.read(&mut last, until.min(Instant::now() + LAST_BYTE_TIME_MAX)).is_ok() {
                body.push(last[0]);
            }
        }
        Ok(body)
    }

    fn read(&mut self, mut place: &mut [u8], until: Instant) -> io::Result<()> {
        while !place.is_empty() {
            let patience = until.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_patience(patience)?;
            match self.stream.read(place) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => place = &mut place[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
