//! Names of log and span fields, so that one search finds an object in the logs of all services.

/// Protected item.
pub const ITEM: &str = "item";
/// Run of a plan or of a single failover; equal to the job's identifier.
pub const RUN: &str = "run";
/// Step of a run.
pub const STEP: &str = "step";
/// Task in job-tracker.
pub const TASK: &str = "task";
/// How often a task has been leased.
pub const ATTEMPT: &str = "attempt";
/// Generation of an item.
pub const GENERATION: &str = "generation";
/// Sequence number of a recovery point.
pub const POINT: &str = "point";
/// Host with its site, such as `alpha/alpha-h1`.
pub const HOST: &str = "host";
/// Identity of the peer that made a call.
pub const PEER: &str = "peer";
/// Request id of a mutation.
pub const REQUEST_ID: &str = "request_id";
/// Stable reason of an error.
pub const REASON: &str = "reason";
/// Amounts of data, in bytes.
pub const BYTES: &str = "bytes";
/// Durations, in milliseconds.
pub const DURATION_MS: &str = "duration_ms";
