//! The API of network-mapper in the terms of `understudy-netplan`: client, server and task payloads.
//!
//! ```text
//!   caller ─▶ NetworkClient ── wire ──▶ generated server ─▶ Adapter ─ validated ─▶ trait NetworkApi (network-mapper)
//!   orchestrator ─▶ NetworkTask ── Any ──▶ job-tracker ── Any ──▶ NetworkTask ─▶ network-mapper
//! ```
//!
//! Everything that comes in is checked and bounded, with all problems told at once. Generated types stay in here.

mod client;
mod convert;
mod field;
mod model;
mod names;
mod server;
mod task;

/// Generated from `understudy/network/v1`.
mod v1 {
    tonic::include_proto!("understudy.network.v1");
}

/// The file descriptors of this package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
/// The service as reflection and access tables call it.
pub const NETWORK_SERVICE: &str = "understudy.network.v1.NetworkService";

pub use client::NetworkClient;
pub use model::{
    AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkMapping, Page, PageRequest, StoredNetwork,
    StoredRecord, StoredZone,
};
pub use server::{NetworkApi, service};
pub use task::{
    NetworkAction, NetworkTask, NetworkTaskResult, RecordAddress, RecordDone, ReservedNic,
    ReservedTestNetwork, TaskError,
};
