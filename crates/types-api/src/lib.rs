//! Messages that all areas share, as Rust types, with their conversions.
//!
//! ```text
//!   wire (prost)              domain
//!   Timestamp  ── TryFrom ──▶ UnixMicros      refused outside years 1 … 9999 and with nanos outside 0 … 999 999 999
//!   Duration   ── TryFrom ──▶ std Duration    refused when negative
//!   ReplicationSettings ───▶ replication's    refused with every setting that is out of its range
//!   Probe      ────────────▶ probe::Probe     refused with every field that has no form; ranges are for `probe::problems`
//!   Problem    ── TryFrom ──▶ ids::Problem    refused when a text is too long
//!   Any        ── unpack  ──▶ T               refused when the type URL names another message
//! ```
//! Every way in is checked, every way out cannot fail.

mod any;
mod consistency;
pub mod cursor;
mod joint;
mod probe;
mod problem;
mod settings;
mod time;

/// Generated from `understudy/types/v1/types.proto`.
pub mod v1 {
    tonic::include_proto!("understudy.types.v1");
}

/// The file descriptors of this package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

pub use any::{AnyError, MAX_ANY_BYTES, check_any, pack, unpack};
pub use consistency::{consistency_from_wire, consistency_to_wire};
pub use joint::{joint_from_wire, joint_to_wire, members_from_wire};
pub use probe::{probe_from_wire, probe_to_wire};
pub use problem::{MAX_PROBLEM_TEXT, MAX_PROBLEMS, problem_from_wire, problem_to_wire};
pub use prost_types::Any;
pub use settings::{settings_from_wire, settings_to_wire, tiers_from_wire, tiers_to_wire};
pub use time::{InvalidTime, duration_from_wire, duration_to_wire, time_from_wire, time_to_wire};
