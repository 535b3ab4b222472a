//! A ZeroMQ PUSH socket, as detectors send by: it never drops a message that it has taken.
//!
//! # Limits
//! As many messages as its owner says wait in it; then sending waits up to [`SEND_PATIENCE`].

use std::time::Duration;

/// Longest wait for a receiver that does not read.
pub const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for unsent messages when the sender goes away: as long as for a receiver that does not read, so that one on
/// a busy machine gets all of them.
const LINGER: Duration = SEND_PATIENCE;

/// Sending failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The socket cannot be opened.
    #[error("cannot open {endpoint}: {source}")]
    Open {
        /// Where.
        endpoint: String,
        /// Why.
        source: zmq::Error,
    },
    /// Nobody took the message in time, or the socket failed.
    #[error("cannot send to {endpoint}: {source}")]
    Send {
        /// Where.
        endpoint: String,
        /// Why; `EAGAIN` when nobody reads.
        source: zmq::Error,
    },
}

/// An open socket.
pub(super) struct Push {
    socket: zmq::Socket,
    endpoint: String,
}

impl Push {
    /// Connects to a receiver that listens; keeps up to so many messages.
    pub(super) fn connect(endpoint: &str, queue_messages: i32) -> Result<Self, SendError> {
        Self::open(endpoint, queue_messages, |socket| socket.connect(endpoint))
    }

    /// Listens for a receiver that connects; keeps up to so many messages.
    pub(super) fn bind(endpoint: &str, queue_messages: i32) -> Result<Self, SendError> {
        Self::open(endpoint, queue_messages, |socket| socket.bind(endpoint))
    }

    fn open(
        endpoint: &str,
        queue_messages: i32,
        attach: impl FnOnce(&zmq::Socket) -> zmq::Result<()>,
    ) -> Result<Self, SendError> {
        let open = || -> zmq::Result<Self> {
            let socket = zmq::Context::new().socket(zmq::PUSH)?;
            socket.set_sndhwm(queue_messages)?;
            socket.set_sndtimeo(SEND_PATIENCE.as_millis() as i32)?;
            socket.set_linger(LINGER.as_millis() as i32)?;
            socket.set_ipv6(endpoint.contains('['))?;
            attach(&socket)?;
            let endpoint = socket.get_last_endpoint()?.unwrap_or_else(|_| endpoint.to_owned());
            Ok(Self { socket, endpoint })
        };
        open().map_err(|source| SendError::Open { endpoint: endpoint.to_owned(), source })
    }

    /// Where the socket listens or connects to, with the port that the system chose.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends the parts of one message, whatever they are.
    pub(super) fn send<T: Into<zmq::Message>>(&self, parts: impl IntoIterator<Item = T>) -> Result<(), SendError> {
        self.socket.send_multipart(parts, 0).map_err(|source| self.failed(source))
    }

    /// Whether there is room for a message to somebody, now or within a time.
    pub(super) fn has_room(&self, wait: Duration) -> Result<bool, SendError> {
        let milliseconds = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let ready = self.socket.poll(zmq::POLLOUT, milliseconds).map_err(|source| self.failed(source))?;
        Ok(ready != 0)
    }

    fn failed(&self, source: zmq::Error) -> SendError {
        SendError::Send { endpoint: self.endpoint.clone(), source }
    }
}
