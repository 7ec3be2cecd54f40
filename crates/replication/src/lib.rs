//! What replication decides, without doing any of it: which bytes a cycle ships, how digests are compared, which points
//! retention merges and how healthy an item is.
//!
//! ```text
//!   facts ──▶ cycle::plan ──▶ CyclePlan ──▶ DiskPlan::work(bitmap) ──▶ extents to ship, extents to compare
//!   digests of shipped blocks ──▶ digest::DigestTree ──▶ root ──▶ equal on both sides, or no point
//!   points + policy ──▶ retention::expired ──▶ points to merge away
//!   points of a group's items ──▶ joint::complete ──▶ instants that all of them have
//!   who waits + limits ──▶ admission::Admission ──▶ whose cycle is next
//!   machine as protected, as it is ──▶ change::changes ──▶ go on, or a state that a person ends
//!   rate of a stream ──▶ encoding::Chooser ──▶ what blocks travel as
//!   clock + last point ──▶ rpo::assess ──▶ health and its reasons ──▶ alert::Alerts ──▶ what is raised, without flapping
//!   clock + last freeze ──▶ at_rest::due_in ──▶ when the guest is brought to rest next
//!   silence of a host ──▶ activation::Granted ──▶ when its machine has certainly stopped
//!   receipts ──▶ history::RpoHistory ──▶ percentiles of the last hour and day
//!   policy ──▶ settings::ReplicationSettings ──▶ how each cycle is made and sent; bandwidth::Bucket ──▶ when
//! ```
//!
//! Everything here is a pure function of its arguments: no clock, no randomness, no I/O, no logging. The promise that
//! matters most is [`cycle`]'s: whatever is interrupted when, the point that is finally complete equals the source at
//! one instant.

pub mod activation;
pub mod admission;
pub mod alert;
pub mod at_rest;
pub mod bandwidth;
pub mod change;
pub mod cycle;
pub mod digest;
pub mod encoding;
pub mod extents;
pub mod history;
pub mod joint;
pub mod retention;
pub mod rpo;
pub mod scrub;
pub mod settings;
pub mod watched;

pub use bandwidth::Bandwidth;
pub use cycle::{CheckpointName, CycleKind, CyclePlan, DiskPlan};
pub use digest::{BlockDigest, DigestTree};
pub use encoding::Encoding;
pub use extents::{BLOCK_SIZE, RangeSet};
pub use joint::{Joint, Membership};
pub use retention::{RetentionPolicy, Tier};
pub use settings::{AppConsistency, Compression, ReplicationSettings};
