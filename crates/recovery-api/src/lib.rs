//! The orchestrator's API: `understudy.recovery.v1` as Rust.
//!
//! ```text
//!   wire (v1, generated)  ── from_wire: all problems at once, everything bounded ──▶  request::*   (orchestrator)
//!   wire                  ◀── into_wire: every field named ───────────────────────   request::*   (RecoveryClient)
//!   wire                  ◀── into_wire ───────────────────────────────────────────   view::*      (orchestrator)
//!   wire                  ── from_wire ────────────────────────────────────────────▶  view::*      (RecoveryClient → tables, JSON)
//! ```
//!
//! Nothing that comes in is trusted to be short, complete or well-formed. Generated types are for the service's `rpc` modules, which
//! only convert; everybody else speaks in `request` and `view`.

mod check;
mod client;
mod encode;
mod enums;
mod names;
pub mod request;
pub mod view;

/// Generated from `understudy/recovery/v1/recovery.proto`.
pub mod v1 {
    tonic::include_proto!("understudy.recovery.v1");
}

/// The file descriptors of this package and of what it imports, for gRPC reflection and access tables.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The services of the package, for access tables.
pub const SERVICES: [&str; 5] = [
    "understudy.recovery.v1.SiteService",
    "understudy.recovery.v1.ProtectionService",
    "understudy.recovery.v1.FailoverService",
    "understudy.recovery.v1.RecoveryPlanService",
    "understudy.recovery.v1.AuditService",
];

pub use check::Invalid;
pub use client::RecoveryClient;
pub use enums::{
    DeadlineAction, Decision, HealthLevel, ItemState, Operation, Power, RunState, SiteKind, StepState,
    Synchronise,
};
pub use names::{MachineRef, PointRef, RequestId, Resource, host, item, machine, policy, run, site};
