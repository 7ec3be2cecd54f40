//! The life of a task as a table. Whatever is not listed does not happen (invariant 10).

use std::fmt;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskState {
    Queued,
    /// A worker holds it; its attempt number fences the workers that held it before.
    Leased,
    Succeeded,
    Failed,
    /// The effect may or may not have happened. Never taken for failed or done (invariant 16).
    Unknown,
    Cancelled,
}

impl TaskState {
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Leased, Self::Succeeded, Self::Failed, Self::Unknown, Self::Cancelled];

    /// Whether the task has ended.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Leased)
    }

    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that [`TaskState::as_str`] writes so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskEvent {
    /// A worker takes it; its attempt number rises.
    Lease,
    Succeed,
    Fail,
    /// The worker says that it cannot tell.
    LoseTrack,
    /// The worker says that nothing happened and that it may be tried again; attempts are left.
    Retry,
    /// The same, of the last attempt.
    RetryLast,
    /// The same, after the owner has asked for the task to end.
    RetryUnwanted,
    /// No heartbeat within the lease; attempts are left.
    Expire,
    /// The same, of the last attempt.
    ExpireLast,
    /// The same, after the owner has asked for the task to end.
    ExpireUnwanted,
    /// The owner wants the task to end.
    Cancel,
}

impl TaskEvent {
    pub const ALL: [Self; 11] = [
        Self::Lease,
        Self::Succeed,
        Self::Fail,
        Self::LoseTrack,
        Self::Retry,
        Self::RetryLast,
        Self::RetryUnwanted,
        Self::Expire,
        Self::ExpireLast,
        Self::ExpireUnwanted,
        Self::Cancel,
    ];
}

/// Every transition of a task. A cancelled lease stays with its worker, which hears of it at its next heartbeat: only the
/// worker knows whether the effect can still be kept from happening.
#[rustfmt::skip]
pub const TASK_TRANSITIONS: &[(TaskState, TaskEvent, TaskState)] = &[
    (TaskState::Queued, TaskEvent::Lease,          TaskState::Leased),
    (TaskState::Queued, TaskEvent::Cancel,         TaskState::Cancelled),
    (TaskState::Leased, TaskEvent::Cancel,         TaskState::Leased),
    (TaskState::Leased, TaskEvent::Succeed,        TaskState::Succeeded),
    (TaskState::Leased, TaskEvent::Fail,           TaskState::Failed),
    (TaskState::Leased, TaskEvent::LoseTrack,      TaskState::Unknown),
    (TaskState::Leased, TaskEvent::Retry,          TaskState::Queued),
    (TaskState::Leased, TaskEvent::RetryLast,      TaskState::Failed),
    (TaskState::Leased, TaskEvent::RetryUnwanted,  TaskState::Cancelled),
    (TaskState::Leased, TaskEvent::Expire,         TaskState::Queued),
    (TaskState::Leased, TaskEvent::ExpireLast,     TaskState::Unknown),
    (TaskState::Leased, TaskEvent::ExpireUnwanted, TaskState::Unknown),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot {event:?}")]
pub struct TaskTransitionError {
    pub state: TaskState,
    pub event: TaskEvent,
}

/// # Errors
/// When the table does not list the event for this state.
pub fn next_task_state(state: TaskState, event: TaskEvent) -> Result<TaskState, TaskTransitionError> {
    TASK_TRANSITIONS
        .iter()
        .find(|(from, on, _)| (*from, *on) == (state, event))
        .map(|(_, _, to)| *to)
        .ok_or(TaskTransitionError { state, event })
}

/// What a `retry` answer means for this attempt (1 is the first).
pub const fn retried(attempt: u32, max_attempts: u32, cancel_requested: bool) -> TaskEvent {
    match (cancel_requested, attempt < max_attempts) {
        (true, _) => TaskEvent::RetryUnwanted,
        (false, true) => TaskEvent::Retry,
        (false, false) => TaskEvent::RetryLast,
    }
}

/// What the end of a lease without an answer means for this attempt (1 is the first).
pub const fn expired(attempt: u32, max_attempts: u32, cancel_requested: bool) -> TaskEvent {
    match (cancel_requested, attempt < max_attempts) {
        (true, _) => TaskEvent::ExpireUnwanted,
        (false, true) => TaskEvent::Expire,
        (false, false) => TaskEvent::ExpireLast,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (TaskState, TaskEvent, TaskState);

    /// Invariants 3, 10, 16.
    fn is_right(table: &[Row]) -> bool {
        use TaskEvent::*;
        let becomes = |state: TaskState, event: TaskEvent| -> Result<Option<TaskState>, ()> {
            let mut rows = table.iter().filter(|(from, on, _)| (*from, *on) == (state, event));
            match (rows.next(), rows.next()) {
                (None, _) => Ok(None),
                (Some((_, _, to)), None) => Ok(Some(*to)),
                (Some(_), Some(_)) => Err(()),
            }
        };
        let is_right = |state: TaskState, event: TaskEvent| {
            let Ok(to) = becomes(state, event) else { return false };
            match (state, event) {
                (state, _) if state.is_final() => to.is_none(),
                // Only what nobody has can be taken, and only somebody who has it can say what became of it.
                (TaskState::Queued, Lease) => to == Some(TaskState::Leased),
                (TaskState::Queued, Cancel) => to == Some(TaskState::Cancelled),
                (TaskState::Queued, _) | (_, Lease) => to.is_none(),
                // Only the worker knows whether the effect can still be kept from happening.
                (_, Cancel) => to == Some(TaskState::Leased),
                (_, Succeed) => to == Some(TaskState::Succeeded),
                (_, Fail) => to == Some(TaskState::Failed),
                (_, LoseTrack) => to == Some(TaskState::Unknown),
                (_, Retry | Expire) => to == Some(TaskState::Queued),
                // Nothing happened, and nothing will.
                (_, RetryLast) => to == Some(TaskState::Failed),
                (_, RetryUnwanted) => to == Some(TaskState::Cancelled),
                // Silence is never success, failure or "did not happen".
                (_, ExpireLast | ExpireUnwanted) => to == Some(TaskState::Unknown),
            }
        };
        TaskState::ALL.into_iter().all(|state| TaskEvent::ALL.into_iter().all(|event| is_right(state, event)))
    }

    #[test]
    fn the_table_is_right_and_no_row_can_be_removed_added_or_changed_unnoticed() {
        assert!(is_right(TASK_TRANSITIONS));
        for (index, row) in TASK_TRANSITIONS.iter().enumerate() {
            let mut table = TASK_TRANSITIONS.to_vec();
            for other in TaskState::ALL.into_iter().filter(|to| *to != row.2) {
                table[index].2 = other;
                assert!(!is_right(&table), "{row:?} may lead to {other}");
            }
            table.remove(index);
            assert!(!is_right(&table), "nobody misses {row:?}");
        }
        for state in TaskState::ALL {
            for event in TaskEvent::ALL {
                let row = (state, event, TaskState::Queued);
                let table = [TASK_TRANSITIONS, &[row]].concat();
                assert!(!is_right(&table), "{row:?} may be added");
            }
        }
    }

    #[test]
    fn only_listed_transitions_happen() {
        for state in TaskState::ALL {
            for event in TaskEvent::ALL {
                let listed = TASK_TRANSITIONS.iter().find(|(s, e, _)| (*s, *e) == (state, event));
                assert_eq!(next_task_state(state, event).ok(), listed.map(|(_, _, to)| *to));
            }
        }
    }

    /// Invariant 16: silence is never success, failure or "did not happen" once attempts or the wish for them have ended.
    #[test]
    fn a_worker_that_falls_silent_leaves_the_task_queued_or_unknown() {
        for attempt in 1..4 {
            for cancel in [false, true] {
                let to = next_task_state(TaskState::Leased, expired(attempt, 3, cancel)).unwrap();
                let expected = if attempt < 3 && !cancel { TaskState::Queued } else { TaskState::Unknown };
                assert_eq!(to, expected, "attempt {attempt}, cancel {cancel}");
            }
        }
    }

    #[test]
    fn a_task_that_did_not_happen_is_tried_again_or_failed_or_cancelled() {
        let after =
            |attempt, cancel| next_task_state(TaskState::Leased, retried(attempt, 3, cancel)).unwrap();
        assert_eq!(after(2, false), TaskState::Queued);
        assert_eq!(after(3, false), TaskState::Failed);
        assert_eq!(after(4, false), TaskState::Failed);
        assert_eq!(after(1, true), TaskState::Cancelled);
        assert_eq!(after(3, true), TaskState::Cancelled);
    }

    #[test]
    fn states_are_written_and_read_alike() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
        }
        assert_eq!(TaskState::parse("Queued"), None);
    }
}
