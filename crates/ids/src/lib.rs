//! Typed names and numbers that every other crate speaks in.
//!
//! A value of one of these types is valid by construction: parsing is the only way in, so that code behind the API never
//! has to ask again whether a name may be used as a path component, a libvirt domain name or a database key.
//! Nothing here does I/O, reads a clock or draws a random number.

mod choice;
mod consistency;
mod name;
mod number;
mod problem;
mod time;

pub use choice::{InvalidChoice, PointChoice};
pub use consistency::Consistency;
pub use name::{
    DiskName, DnsServerName, GroupName, HostName, InvalidName, ItemName, MachineName, NetworkName,
    PlanPartName, PolicyName, ProbeName, RecoveryPlanName, ScriptName, SeedName, SiteName, StepName,
    TrafficHookName,
};
pub use number::{ByteRange, Generation, InvalidMac, MacAddress, PointSeq};
pub use problem::Problem;
pub use time::UnixMicros;

pub use uuid::Uuid;

/// Name of a failover run. A run is a job: orchestrator and job-tracker use the same identifier.
pub type RunId = Uuid;
/// Name of one leased piece of work in job-tracker.
pub type TaskId = Uuid;
