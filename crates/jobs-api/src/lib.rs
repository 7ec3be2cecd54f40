//! Talking to job-tracker: its messages, their conversions, and typed clients for both of its sides.
//!
//! ```text
//!   owner  (orchestrator, network-mapper) ── JobsClient ──▶ JobService      create · enqueue · update · watch
//!   worker (agent, network-mapper)        ── Worker ──────▶ WorkerService   lease · heartbeat · complete
//!   job-tracker                           ── convert ─────▶ domain types
//! ```
//!
//! Callers see domain types only; of the generated types, `Any` alone crosses. job-tracker's `rpc/` implements the generated
//! server traits in [`v1`] and converts with [`convert`].

mod check;
mod client;
pub mod convert;
mod model;
mod name;
mod watch;
mod worker;

/// Generated from `understudy/jobs/v1/jobs.proto`. For job-tracker's `rpc/` only.
pub mod v1 {
    tonic::include_proto!("understudy.jobs.v1");
}

/// Generated from `google/longrunning/operations.proto`. For job-tracker's `rpc/` only.
pub mod longrunning {
    tonic::include_proto!("google.longrunning");
}

/// The file descriptors of this package and of those it imports, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

pub use check::Invalid;
pub use client::JobsClient;
pub use model::{
    CancelRequest, Change, Event, Job, JobFilter, JobUpdate, JobWait, LeasedTask, NewJob, NewNote, NewTask,
    Note, Outcome, Page, Progress, Task, WatchFilter, WatchFrom,
};
pub use name::{InvalidRef, JobName, Queue, TaskName};
pub use understudy_jobs::{JobState, TaskState};
pub use understudy_types_api::{Any, pack, unpack};
pub use worker::{Handler, Stop, TaskContext, Worker};

/// Stable reasons of errors that callers decide by.
pub mod reason {
    /// The attempt is not the current one: another worker has the task, or it has ended.
    pub const LEASE_LOST: &str = "LEASE_LOST";
    /// Events after this resume token are no longer kept: read the jobs anew and watch from now.
    pub const RESUME_TOKEN_TOO_OLD: &str = "RESUME_TOKEN_TOO_OLD";
    /// The resume token is ahead of the event log, whose database was restored from a backup.
    pub const RESUME_TOKEN_UNKNOWN: &str = "RESUME_TOKEN_UNKNOWN";
    /// An answer that this version cannot read.
    pub const NOT_UNDERSTOOD: &str = "NOT_UNDERSTOOD";
    /// A job with this id exists and was made from another request.
    pub const JOB_EXISTS: &str = "JOB_EXISTS";
    /// The job has ended and takes no more tasks, or cannot go to the state that was asked for.
    pub const JOB_STATE: &str = "JOB_STATE";
    /// The job does not allow to be cancelled now.
    pub const CANCEL_NOT_ALLOWED: &str = "CANCEL_NOT_ALLOWED";
}
