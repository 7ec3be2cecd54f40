//! How our gRPC is carried. The only crate that knows about TLS, deadlines, metadata and status codes.
//!
//! ```text
//!   typed client ─▶ Channel ── traceparent, deadline ──▶ TLS 1.3, both ends with certificate ──┐
//!                                                                                             ▼
//!   handler ◀─ tonic routes ◀─ gate: certificate still valid? method known? peer allowed? ◀─ accept loop
//!                               room left? deadline, span, metrics, panic → INTERNAL
//! ```
//!
//! Promises:
//! * Plain text does not exist. Both ends show a certificate of our authority and are known by the one URI in it (R-OPS-1).
//! * No method is reachable without a rule that says who may call it; a server with such a method does not start.
//! * Every unary call ends: the server enforces a deadline whatever the caller says. Connections, streams, headers and requests
//!   in flight are bounded.
//! * A caller sees an [`ApiError`] whatever went wrong, and can tell *refused* from *unknown*.
//! * A certificate that is renewed on disk is used for the next connection; nothing is restarted.

pub mod access;
mod client;
mod deadline;
mod error;
mod expected;
mod profile;
pub mod retry;
mod server;
mod tls;
pub mod trace;

pub use access::AccessRule;
pub use client::{Channel, ClientConfig, ConnectError, connect};
pub use error::{ApiError, Kind, Problem};
pub use expected::ExpectedPeer;
pub use profile::{BULK_MESSAGE_BYTES, CONTROL_MESSAGE_BYTES, Profile};
pub use server::{Health, ServeError, Server, ServerConfig, answer_by, peer};
pub use tls::{TlsError, TlsFiles};
pub use understudy_pki::{Identity, PeerKind, ServiceKind, UserName};
