//! Sites in memory: what the orchestrator meets when no agent and no network-mapper is there, only players who know their parts.
//!
//! ```text
//!   orchestrator ─▶ job-tracker ─▶ Hand, MapperHand ─▶ Estate (a model of all hosts) ─▶ Teller ─▶ orchestrator
//!        └────────────────────────▶ Mapper (the rules of `netplan`, for one mapped network)
//! ```
//! Orchestrator, job-tracker, Postgres, certificates and every connection are real. For tests of what is decided, and for measuring what that
//! costs; it never shows that a machine comes up. It panics where a player is asked for what its model does not allow.

mod agents;
mod mapper;
mod stage;

pub use agents::{Done, Estate, Hand, MapperHand, PICTURE, Teller, now};
pub use mapper::Mapper;
pub use stage::Players;
