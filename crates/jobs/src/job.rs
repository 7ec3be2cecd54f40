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

    type Table<'a> = &'a [(JobState, &'a [JobState])];

    /// R-JOB-1: what has ended stays as it ended; every state can be reported again; nobody goes back to the queue; no running job is cancelled
    /// without cancelling, which does not turn back to running. Everything else may follow.
    fn may_become(from: JobState, to: JobState) -> bool {
        match (from, to) {
            (from, to) if from == to => true,
            (from, _) if from.is_final() => false,
            (_, Queued) => false,
            (from, Cancelled) => matches!(from, Queued | Cancelling),
            (from, Running) => from != Cancelling,
            _ => true,
        }
    }

    fn is_right(table: Table<'_>) -> bool {
        JobState::ALL.into_iter().all(|from| {
            let rows: Vec<_> = table.iter().filter(|(state, _)| *state == from).collect();
            let [(_, next)] = rows.as_slice() else { return false };
            JobState::ALL.into_iter().all(|to| {
                let listed = next.iter().filter(|state| **state == to).count();
                listed == usize::from(may_become(from, to))
            })
        })
    }

    #[test]
    fn the_table_is_right_and_no_part_of_it_can_be_removed_or_changed_unnoticed() {
        assert!(is_right(JOB_TRANSITIONS));
        for (index, (from, next)) in JOB_TRANSITIONS.iter().enumerate() {
            for other in JobState::ALL {
                let mut flipped: Vec<JobState> = next.iter().copied().filter(|to| *to != other).collect();
                if flipped.len() == next.len() {
                    flipped.push(other);
                }
                let mut table = JOB_TRANSITIONS.to_vec();
                table[index].1 = &flipped;
                assert!(!is_right(&table), "{from} → {other} may be either");
            }
            let twice = [JOB_TRANSITIONS, &JOB_TRANSITIONS[index..=index]].concat();
            assert!(!is_right(&twice), "nobody notices {from} twice");
            let mut table = JOB_TRANSITIONS.to_vec();
            table.remove(index);
            assert!(!is_right(&table), "nobody misses {from}");
        }
    }

    #[test]
    fn only_listed_transitions_happen() {
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert_eq!(next_job_state(from, to).is_ok(), may_become(from, to), "{from} → {to}");
            }
        }
    }

    #[test]
    fn states_are_written_and_read_alike() {
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
        }
    }
}
