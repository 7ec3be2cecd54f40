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
    outcome_in(OPERATION_OUTCOMES, state)
}

fn outcome_in(table: &[(JobState, OperationOutcome)], state: JobState) -> OperationOutcome {
    let row = table.iter().find(|(of, _)| *of == state);
    row.map_or(Outcome::Pending, |(_, outcome)| *outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table<'a> = &'a [(JobState, OperationOutcome)];

    /// R-JOB-1, R-UF-4: every state has one row; an operation is done exactly when its job has ended; what went through with errors is no
    /// success to a program that looks at `error` only; the standard wants `CANCELLED` of what was cancelled and of nothing else.
    fn is_right(table: Table<'_>) -> bool {
        JobState::ALL.into_iter().all(|state| {
            let outcome = outcome_in(table, state);
            table.iter().filter(|(of, _)| *of == state).count() == 1
                && (outcome != Outcome::Pending) == state.is_final()
                && (outcome == Outcome::Response) == (state == Succeeded)
                && (outcome == Outcome::Cancelled) == (state == Cancelled)
        })
    }

    #[test]
    fn the_table_is_right_and_no_row_can_be_removed_or_changed_unnoticed() {
        assert!(is_right(OPERATION_OUTCOMES));
        let all = [Outcome::Pending, Outcome::Response, Outcome::FailedPrecondition, Outcome::Cancelled];
        for (index, row) in OPERATION_OUTCOMES.iter().enumerate() {
            let mut table = OPERATION_OUTCOMES.to_vec();
            for other in all.into_iter().filter(|outcome| *outcome != row.1) {
                table[index].1 = other;
                assert!(!is_right(&table), "{row:?} may be {other:?}");
            }
            table.remove(index);
            assert!(!is_right(&table), "nobody misses {row:?}");
        }
    }
}
