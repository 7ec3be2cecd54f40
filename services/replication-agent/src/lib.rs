//! The agent of one host: reads changed blocks, receives recovery points, drives the hypervisor, tells facts.
//!
//! ```text
//!   job-tracker ──tasks──▶ tasks/ ──┬─▶ ledger/    what this host is to each item, at which generation
//!                                   ├─▶ source/    replication loops ══ points ══▶ peer agent
//!                                   ├─▶ replica    points, branches, promotions on disk ◀══ sink/ ◀══ peer agent
//!                                   ├─▶ hypervisor machines, snapshots, test networks
//!                                   └─▶ scripts/   programs of the host's library, for recovery plans
//!   orchestrator ──leases──▶ activation/ ── its guard process, for when this one cannot ──▶ machines stopped
//!   orchestrator ◀──facts── facts/ ◀── all of them
//!   libvirtd ──may it start?──▶ guard/ ◀── ledger's and leases' files
//! ```
//!
//! Promises: goes on replicating, fenced and correct, when the control plane is gone (invariant 13); does nothing at a
//! generation lower than one it has seen (invariant 4); every task may be done again at any time (invariant 3).

pub mod activation;
pub mod agent;
mod codec;
pub mod command;
pub mod config;
mod descriptor;
pub mod facts;
pub mod guard;
pub mod keyring;
pub mod ledger;
mod medium;
pub mod memory;
pub mod replica;
pub mod scripts;
pub mod scrub;
pub mod sink;
pub mod source;
pub mod tasks;
