//! The product on simulated drivers: real services, real agents and a real Postgres on this machine's loopback address, with
//! machines and networks that exist in the agents only. It needs no root and no hypervisor.
//!
//! ```text
//!   one temporary directory, one mark in every process's environment
//!     control    Postgres (socket only) · job-tracker · orchestrator · network-mapper
//!     alpha-h1   replication-agent ── web1, db1: tasks of the agent that write numbered records to qcow2 files
//!     bravo-h1   replication-agent ── nothing yet
//! ```
//!
//! An agent's process is its host: killing it kills the machines on it, as a power failure would. So this shows how a failover goes
//! and that no record is lost on its way; it does not show that machines come up. Its promise: when it has ended, or was
//! interrupted, nothing is left of it.

mod failover;
mod journal;
mod rehearse;
mod remains;
mod stack;
mod story;

pub use remains::remove;
pub use stack::SimulatedStack;
pub use story::{NOTICE, SimulatedStory};
