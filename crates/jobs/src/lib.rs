//! The life of a job and of its tasks, and the arithmetic of leases and retries.
//!
//! ```text
//!              lease              succeeded
//!   ┌─ QUEUED ───────▶ LEASED ──┬───────────▶ SUCCEEDED
//!   │    ▲               │      ├───────────▶ FAILED      (will not succeed, or the last retry)
//!   │    └───────────────┘      ├───────────▶ UNKNOWN     (no answer, or the worker cannot tell)
//!   │      retry · expiry       └───────────▶ CANCELLED   (did not happen, and nobody wants it any more)
//!   └──▶ CANCELLED
//! ```
//!
//! Nothing here knows a clock or a database: the caller hands in times and random numbers, and stores what comes out
//! with a compare-and-set on the state that it handed in (R-JOB-3, invariants 3, 10 and 16).

mod backoff;
mod job;
mod lease;
mod operation;
mod progress;
mod task;

pub use backoff::{BackOff, RETRY_TASK};
pub use job::{JOB_TRANSITIONS, JobState, JobTransitionError, next_job_state};
pub use lease::{LeaseError, LeaseTerm};
pub use operation::{OPERATION_OUTCOMES, OperationOutcome, operation_outcome};
pub use progress::job_progress;
pub use task::{
    TASK_TRANSITIONS, TaskEvent, TaskState, TaskTransitionError, expired, next_task_state, retried,
};
