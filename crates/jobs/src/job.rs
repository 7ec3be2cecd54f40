//! The life of a job as a table. Its owner moves it; job-tracker only refuses what is not listed.
//!
//! ```text
//!   QUEUED ──▶ RUNNING ◀──▶ WAITING ──▶ SUCCEEDED · COMPLETED_WITH_ERRORS · FAILED
//!      │          │            │
//!      └──────────┴────────────┴──────▶ CANCELLING ──▶ CANCELLED · or one of the other ends
//! ```

use std::fmt;

/// Where a job stands (R-JOB-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    Queued,
    Running,
    /// Waits for a person or an event.
    Waiting,
    Succeeded,
    CompletedWithErrors,
    Failed,
    Cancelling,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Succeeded,
        Self::CompletedWithErrors,
        Self::Failed,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// Whether the job has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::CompletedWithErrors | Self::Failed | Self::Cancelled)
    }

    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::CompletedWithErrors => "completed_with_errors",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that [`JobState::as_str`] writes so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

use JobState::{Cancelled, Cancelling, CompletedWithErrors, Failed, Queued, Running, Succeeded, Waiting};

/// Every state that an owner may set, by the state that the job is in. A job that has ended keeps its end: its owner may
/// still complete the report, which is why the state itself is listed.
#[rustfmt::skip]
pub const JOB_TRANSITIONS: &[(JobState, &[JobState])] = &[
    (Queued,     &[Queued, Running, Waiting, Cancelling, Succeeded, CompletedWithErrors, Failed, Cancelled]),
    (Running,    &[Running, Waiting, Cancelling, Succeeded, CompletedWithErrors, Failed]),
    (Waiting,    &[Waiting, Running, Cancelling, Succeeded, CompletedWithErrors, Failed]),
    // Cancelling can come too late, can fail, and can itself have to wait for a person.
    (Cancelling, &[Cancelling, Waiting, Cancelled, Succeeded, CompletedWithErrors, Failed]),
    (Succeeded,           &[Succeeded]),
    (CompletedWithErrors, &[CompletedWithErrors]),
    (Failed,              &[Failed]),
    (Cancelled,           &[Cancelled]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} cannot become {to}")]
pub struct JobTransitionError {
    pub from: JobState,
    pub to: JobState,
}

/// # Errors
/// When the table does not list `to` for `from`.
pub fn next_job_state(from: JobState, to: JobState) -> Result<JobState, JobTransitionError> {
    let allowed = JOB_TRANSITIONS.iter().any(|(state, next)| *state == from && next.contains(&to));
    if allowed { Ok(to) } else { Err(JobTransitionError { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_transitions_happen() {
        for from in JobState::ALL {
            let rows: Vec<_> = JOB_TRANSITIONS.iter().filter(|(state, _)| *state == from).collect();
            assert_eq!(rows.len(), 1, "{from} has one row");
            for to in JobState::ALL {
                assert_eq!(next_job_state(from, to).is_ok(), rows[0].1.contains(&to), "{from} → {to}");
            }
        }
    }

    /// R-JOB-1: what has ended stays as it ended; what has not can be reported again and can be cancelled and failed.
    #[test]
    fn ends_are_final_and_every_other_state_has_a_way_out() {
        for (from, next) in JOB_TRANSITIONS {
            assert!(next.contains(from), "{from} can be reported again");
            if from.is_final() {
                assert_eq!(*next, [*from]);
            } else {
                assert!(next.contains(&Failed) && next.contains(&Cancelling), "{from}");
            }
        }
    }

    #[test]
    fn nobody_goes_back_to_the_queue_and_no_running_job_is_cancelled_without_cancelling() {
        for from in JobState::ALL.into_iter().filter(|s| *s != Queued) {
            assert!(next_job_state(from, Queued).is_err(), "{from}");
        }
        assert!(next_job_state(Running, Cancelled).is_err());
        assert!(next_job_state(Waiting, Cancelled).is_err());
    }

    #[test]
    fn states_are_written_and_read_alike() {
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
        }
    }
}
