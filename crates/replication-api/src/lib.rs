//! The contract between orchestrator, agent and peer agent: `understudy.replication.v1` as Rust types.
//!
//! ```text
//!   wire (prost, private)        domain (public)
//!   AgentTask        ◀──────────▶ AgentTask, Action        orchestrator → agent, through job-tracker
//!   AgentTaskResult  ◀──────────▶ AgentTaskResult          agent → orchestrator, through job-tracker
//!   Facts            ◀──────────▶ Facts                    FactsClient ◀─ facts_service
//!   RenewLeases      ◀──────────▶ activation::Renewal      ActivationClient ─▶ activation_service
//!   Unlock           ◀──────────▶ keys::Unlock             KeyClient ─▶ key_service
//!   PushPoint …      ◀──────────▶ sink::Begin, Part …      SinkClient ─▶ sink_service
//! ```
//!
//! Every way in is checked against the bounds of the contract and names the field that breaks one; every way out cannot
//! fail. Generated types do not leave this crate.

pub mod activation;
mod facts;
mod field;
pub mod keys;
mod result;
pub mod sink;
mod task;

mod client;
mod server;

/// Generated from `understudy/replication/v1/*.proto`.
#[allow(clippy::large_enum_variant, reason = "tasks come one at a time, and none is kept")]
mod v1 {
    tonic::include_proto!("understudy.replication.v1");
}

/// The file descriptors of this package, for gRPC reflection and access tables.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Reason of the refusal that tells an agent that it was superseded; the metadata's [`GENERATION_KEY`] says by which.
pub const STALE_GENERATION: &str = "STALE_GENERATION";
/// Key of the error metadata that carries the higher generation.
pub const GENERATION_KEY: &str = "generation";

/// Paths of the methods, for access tables.
pub mod method {
    pub const GET_FACTS: &str = "/understudy.replication.v1.FactsService/GetFacts";
    pub const WATCH_FACTS: &str = "/understudy.replication.v1.FactsService/WatchFacts";
    pub const GET_PULSE: &str = "/understudy.replication.v1.ActivationService/GetPulse";
    pub const RENEW_LEASES: &str = "/understudy.replication.v1.ActivationService/RenewLeases";
    pub const GET_SEAL: &str = "/understudy.replication.v1.KeyService/GetSeal";
    pub const UNLOCK: &str = "/understudy.replication.v1.KeyService/Unlock";
    pub const LOCK: &str = "/understudy.replication.v1.KeyService/Lock";
    pub const NEGOTIATE: &str = "/understudy.replication.v1.SinkService/Negotiate";
    pub const PUSH_POINT: &str = "/understudy.replication.v1.SinkService/PushPoint";
    pub const READ_DIGESTS: &str = "/understudy.replication.v1.SinkService/ReadDigests";
}

/// The most disks of one machine.
pub const MAX_DISKS: usize = 64;
/// The most NICs of one machine.
pub const MAX_NICS: usize = 64;
/// The longest name of a host's boot, in bytes.
pub const MAX_BOOT_ID: usize = 64;
/// The longest name of an assignment, in bytes.
pub const MAX_REVISION: usize = 64;
/// The longest context of a script, in bytes.
pub const MAX_SCRIPT_CONTEXT: usize = 64 << 10;
/// The largest picture of a console, in bytes.
pub const MAX_SCREENSHOT: usize = 512 << 10;
/// The most that is kept of a script's output, in bytes.
pub const MAX_SCRIPT_OUTPUT: usize = 64 << 10;

pub use client::{ActivationClient, FactsClient, KeyClient, SinkClient};
pub use facts::{
    Disk, Facts, GroupFacts, ItemFacts, ItemRole, LeaseFacts, Machine, Nic, PointDisk, PowerState,
    RecoveryPoint, ReplicationFacts, ReplicationState, ScrubFacts,
};
pub use field::Invalid;
pub use result::{AgentTaskResult, DiskRoot, IsolationResult};
pub use server::{
    ActivationHandler, FactsSource, KeyHandler, PartStream, SinkHandler, activation_service, facts_service,
    key_service, sink_service,
};
pub use task::{
    Action, AgentTask, DhcpReservation, DiskSize, ExistingNetworkProbe, RunScript, StartReplication,
};
