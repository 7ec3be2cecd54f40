//! A small NBD client: reads one export and asks which parts of it are allocated, zero or dirty.
//!
//! ```text
//!   Client::read ─────────┐                     ┌──────────────┐
//!   Client::block_status ─┼─▶ request (cookie) ─▶ writer task  ├──▶ server
//!                         │                     └──────────────┘      │
//!                         │      pending: cookie → buffer, oneshot    │
//!                         │                     ┌──────────────┐      │
//!                         └──◀── answer ────────┤ reader task  │◀─────┘
//!                                               └──────────────┘
//! ```
//!
//! Speaks the fixed newstyle handshake with structured replies, `NBD_OPT_SET_META_CONTEXT` and `NBD_OPT_GO`, which is what
//! QEMU serves. Many requests are in flight at once and are answered in any order.
//!
//! The server is not trusted: every length it sends is checked against what was asked before anything is allocated, a
//! read succeeds only when each of its bytes was sent exactly once, and the first violation ends the connection. When the
//! connection ends, for whatever reason, every request in flight fails with that reason.

mod client;
mod error;
mod handshake;
mod pending;
mod reply;
mod wire;

pub use client::{Client, Options};
pub use error::Error;
pub use pending::{ContextStatus, StatusExtent};
pub use wire::{MAX_READ, STATE_DIRTY, STATE_HOLE, STATE_ZERO};
