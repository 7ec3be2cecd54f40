//! A job read as a `google.longrunning.Operation`, as a table (why so: `docs/adr/0031-jobs-are-operations.md`).

use crate::JobState::{
    self, Cancelled, Cancelling, CompletedWithErrors, Failed, Queued, Running, Succeeded, Waiting,
};

/// What an operation says of its end. All but `Pending` are `done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationOutcome {
    Pending,
    /// `response`: all that was asked for was done.
    Response,
    /// `error` with `FAILED_PRECONDITION`: to be looked at before it is asked for again.
    FailedPrecondition,
    /// `error` with `CANCELLED`, as the standard wants it.
    Cancelled,
}

use OperationOutcome as Outcome;

/// The outcome of each state. A program that knows nothing of jobs looks at `error` only, so whatever is not whole is one.
#[rustfmt::skip]
pub const OPERATION_OUTCOMES: &[(JobState, OperationOutcome)] = &[
    (Queued,              Outcome::Pending),
    (Running,             Outcome::Pending),
    // For a person or an event: the metadata say for what.
    (Waiting,             Outcome::Pending),
    (Cancelling,          Outcome::Pending),
    (Succeeded,           Outcome::Response),
    (CompletedWithErrors, Outcome::FailedPrecondition),
    (Failed,              Outcome::FailedPrecondition),
    (Cancelled,           Outcome::Cancelled),
];

/// What the table says of this state.
pub fn operation_outcome(state: JobState) -> OperationOutcome {
    let row = OPERATION_OUTCOMES.iter().find(|(of, _)| *of == state);
    row.map_or(Outcome::Pending, |(_, outcome)| *outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-JOB-1: every state has one row, and an operation is done exactly when its job has ended.
    #[test]
    fn every_state_reads_as_one_outcome_and_ends_are_done() {
        for state in JobState::ALL {
            assert_eq!(OPERATION_OUTCOMES.iter().filter(|(of, _)| *of == state).count(), 1, "{state}");
            assert_eq!(operation_outcome(state) != Outcome::Pending, state.is_final(), "{state}");
        }
    }

    /// R-UF-4: what went through with errors is no success to a program that looks at `error` only.
    #[test]
    fn only_success_is_a_response() {
        let responses = OPERATION_OUTCOMES.iter().filter(|(_, outcome)| *outcome == Outcome::Response);
        assert_eq!(responses.map(|(state, _)| *state).collect::<Vec<_>>(), [Succeeded]);
        assert_eq!(operation_outcome(Cancelled), Outcome::Cancelled);
    }
}
