//! The two kinds of connection we have, and the numbers that tune HTTP/2 for each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest message on a control connection: 4 MiB, which is also what generated code accepts by itself.
pub const CONTROL_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Largest message on a bulk connection: 16 MiB. A service passes it to `max_decoding_message_size` of its generated server.
pub const BULK_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// What a connection is for. Bulk and control traffic never share one, so that a recovery point does not delay a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Small messages, many callers.
    #[default]
    Control,
    /// A few long streams. Windows cover 1.3 GB/s at 50 ms round trip; larger frames halve the cost per byte, and hold whole
    /// blocks of replication.
    Bulk,
}

/// A dead link is noticed after at most interval + time-out; without it, a partition is invisible for minutes.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest header list that a client accepts: the details of an error travel in it.
pub(crate) const ANSWER_HEADER_BYTES: u32 = 64 * 1024;
/// Largest header list that a server accepts.
pub(crate) const REQUEST_HEADER_BYTES: u32 = 16 * 1024;

impl Profile {
    /// Bytes that one stream may have under way without being acknowledged.
    pub(crate) const fn stream_window(self) -> u32 {
        match self {
            Self::Control => 1024 * 1024,
            Self::Bulk => 64 * 1024 * 1024,
        }
    }

    /// The same for all streams of a connection together.
    pub(crate) const fn connection_window(self) -> u32 {
        2 * self.stream_window()
    }

    pub(crate) const fn max_frame_size(self) -> u32 {
        match self {
            Self::Control => 16 * 1024,
            Self::Bulk => 256 * 1024,
        }
    }

    /// How long streams of a connection that has reached its age may go on before it is cut. A full copy may take a day.
    pub(crate) const fn connection_age_grace(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(10 * 60),
            Self::Bulk => Duration::from_secs(24 * 60 * 60),
        }
    }
}
