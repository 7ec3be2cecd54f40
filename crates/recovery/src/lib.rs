//! Everything that is decided about failover, and nothing that is done about it.
//!
//! ```text
//!   RunSpec + facts ──plan──▶ RunPlan (frozen graph of steps) | every problem at once
//!   RunPlan ──start──▶ Run + effects
//!   Run + Event ──advance──▶ Run' + effects            (a late or repeated event changes nothing)
//!   items + facts + open runs ──corrections──▶ what has to be put right without being asked
//! ```
//!
//! The orchestrator stores what comes out, in one transaction with the effects, and then carries the effects out. No
//! clock, randomness or I/O in here: times, identifiers and facts are parameters.
//!
//! | module | reads as |
//! |---|---|
//! | [`item`] | the life of a protected item, as one table |
//! | [`direction`] | which failover is possible from which kind of site to which, as one table |
//! | [`plan`] | what each operation consists of |
//! | [`action`] | what one step asks for, with references that are filled in when it is sent |
//! | [`run`] | how a run goes on after each event |
//! | [`conflict`] | which run is in the way of another |
//! | [`instant`] | which points show a whole run at one instant |
//! | [`recovery_plan`] | which machines come up before which others, and what is done in between |
//! | [`test_network`] | where the machines of a test are connected, and what can be chosen where, as one table |
//! | [`reconcile`] | what is put right without a run |

pub mod action;
pub mod conflict;
pub mod direction;
pub mod disks;
pub mod group;
pub mod instant;
pub mod item;
pub mod plan;
pub mod reconcile;
pub mod recovery_plan;
pub mod run;
mod seconds;
pub mod test_network;

pub use item::{ItemState, Verb};
pub use plan::{Operation, PlanInput, RunPlan, RunSpec, plan};
pub use run::{Effect, Event, Run, advance, start};
