//! How a task that did not succeed ends: failed, unknown, or worth another try.
//!
//! | what happened | outcome |
//! |---|---|
//! | a lower generation, a wrong role, a missing object, a refused argument | failed: trying again changes nothing |
//! | the hypervisor gave no answer to a change | unknown: it may have happened |
//! | link, libvirt or disk in trouble; the agent shuts down | retry |

use understudy_hypervisor as hypervisor;
use understudy_ids::Problem;
use understudy_jobs_api::Outcome;
use understudy_replica_store::StoreError;
use understudy_replication_api::{AgentTaskResult, STALE_GENERATION};

use crate::{ledger::LedgerError, source::CycleError};

/// Why a task did not succeed. The subject is filled in by the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskError {
    Failed(Problem),
    Unknown(Problem),
    Retry(Problem),
}

impl TaskError {
    pub fn failed(reason: &str, message: impl Into<String>, remedy: &str) -> Self {
        Self::Failed(Problem::new(reason, "", message, remedy))
    }

    pub fn retry(reason: &str, message: impl Into<String>, remedy: &str) -> Self {
        Self::Retry(Problem::new(reason, "", message, remedy))
    }

    /// An error of a call that only asked. No answer is no harm.
    pub fn of_question(error: hypervisor::Error) -> Self {
        match Self::from(error) {
            Self::Unknown(problem) => Self::Retry(problem),
            other => other,
        }
    }
}

/// What job-tracker is told.
pub fn outcome(result: Result<AgentTaskResult, TaskError>, subject: &str) -> Outcome {
    let about = |mut problem: Problem| {
        subject.clone_into(&mut problem.subject);
        problem
    };
    match result {
        Ok(result) => Outcome::Succeeded(result.to_any()),
        Err(TaskError::Failed(problem)) => Outcome::Failed(about(problem)),
        Err(TaskError::Unknown(problem)) => Outcome::Unknown(about(problem)),
        Err(TaskError::Retry(problem)) => Outcome::Retry(about(problem)),
    }
}

impl From<hypervisor::Error> for TaskError {
    fn from(error: hypervisor::Error) -> Self {
        use hypervisor::Error as E;
        let text = error.to_string();
        let problem = |reason: &str, remedy: &str| Problem::new(reason, "", text.clone(), remedy);
        match error {
            E::NotFound { .. } => Self::Failed(problem(
                "NOT_FOUND",
                "Look at what the host has; it may have been removed by hand.",
            )),
            E::Conflict { .. } => Self::Failed(problem("CONFLICT", "Rename or remove what is in the way.")),
            E::WrongState { .. } => Self::Retry(problem(
                "WRONG_STATE",
                "It is tried again; bring the machine into the state that is needed.",
            )),
            E::Tracking { .. } | E::Failed { .. } => {
                Self::Retry(problem("HYPERVISOR_FAILED", "It is tried again; look at the hypervisor's log."))
            }
            E::Unknown { .. } => Self::Unknown(problem(
                "HYPERVISOR_SILENT",
                "Look at the machine on its host, then try the step again.",
            )),
        }
    }
}

impl From<LedgerError> for TaskError {
    fn from(error: LedgerError) -> Self {
        let text = error.to_string();
        match error {
            LedgerError::Stale { .. } => {
                Self::failed(STALE_GENERATION, text, "Nothing: a later run has taken over.")
            }
            LedgerError::ActiveHere { .. } => {
                Self::failed("ACTIVE_HERE", text, "Fence this side first, at a higher generation.")
            }
            LedgerError::Fenced { .. } => {
                Self::failed("FENCED", text, "Raise the generation to make this side active.")
            }
            LedgerError::Unknown(_) => Self::failed("UNKNOWN_ITEM", text, "Protect the item first."),
            LedgerError::Io { .. } => Self::retry("STATE_NOT_WRITTEN", text, "Look at the agent's disk."),
            LedgerError::Record { .. } => {
                Self::failed("STATE_NOT_READABLE", text, "Restore the agent's state directory.")
            }
        }
    }
}

impl From<StoreError> for TaskError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::StaleGeneration { .. } => {
                Self::failed(STALE_GENERATION, text, "Nothing: a later run has taken over.")
            }
            StoreError::Io { .. } => Self::retry("STORE_FAILED", text, "Look at the replica store's disk."),
            StoreError::Busy(_) => {
                Self::retry("BUSY", text, "It is tried again when the transfer has ended.")
            }
            StoreError::Pinned { .. } => Self::failed("IN_USE", text, "Complete the test that uses it."),
            StoreError::NoItem(_) | StoreError::NoPoint { .. } => {
                Self::failed("NO_POINT", text, "Choose one of the item's recovery points.")
            }
            StoreError::Damaged { .. } => Self::failed(
                "DAMAGED",
                text,
                "Choose another recovery point; replication repairs this one if it can.",
            ),
            StoreError::Sealed { .. } => {
                Self::failed("KEY_MISSING", text, "Unlock it with a recipient's private key.")
            }
            StoreError::NoBranch { .. } => {
                Self::failed("TEST_GONE", text, "Fail over without it, from a recovery point.")
            }
            StoreError::OtherBranch { .. } => Self::failed("OTHER_BRANCH", text, "Complete the test first."),
            StoreError::OtherPromotion { .. } => {
                Self::failed("OTHER_PROMOTION", text, "Stop the promoted machine first.")
            }
            _ => Self::failed("STORE_REFUSED", text, "Look at the agent's log."),
        }
    }
}

impl From<CycleError> for TaskError {
    fn from(error: CycleError) -> Self {
        let problem = error.problem("");
        match error {
            CycleError::Superseded(_) => Self::failed(
                STALE_GENERATION,
                problem.message,
                "Nothing: the other side has taken over. Reverse replicate when this one is to be the stand-by.",
            ),
            CycleError::Changed(_) | CycleError::NotOff(_) => Self::Failed(problem),
            CycleError::Hypervisor(error) => Self::of_question(error),
            CycleError::Peer(_)
            | CycleError::Stopped
            | CycleError::NeedsFullCopy
            | CycleError::Protocol(_)
            | CycleError::Outdated(_)
            | CycleError::Keys(_) => Self::Retry(problem),
        }
    }
}
