//! Why a connection or a request failed.

/// Cloned to every request in flight when a connection ends, so the causes are kept as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to the NBD server: {0}")]
    Connect(String),
    #[error("the NBD server refused {what}: {why}")]
    Refused { what: &'static str, why: String },
    /// The server sent something that the protocol does not allow. The connection is closed.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(String),
    #[error("the connection to the NBD server ended: {0}")]
    Closed(String),
    #[error("no answer from the NBD server to {what} within {seconds} s")]
    TimedOut { what: &'static str, seconds: u64 },
    /// The server could not do this request. The connection goes on.
    #[error("the NBD server failed {what}: errno {errno}{text}")]
    Request { what: &'static str, errno: u32, text: String },
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }

    pub(crate) fn closed(error: &std::io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}
