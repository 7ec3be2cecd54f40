//! What a run is told.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, ItemName, PointSeq, Problem, StepName, UnixMicros};

use super::Deadline;
use crate::{action::StepResult, plan::Amendment};

/// Something that happened. Times are those of the one who tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The task with this key was completed.
    StepSucceeded {
        key: String,
        result: StepResult,
        at: UnixMicros,
    },
    /// The task with this key failed, was cancelled, or (`unknown`) nobody can tell what became of it.
    StepFailed {
        key: String,
        problem: Problem,
        unknown: bool,
        at: UnixMicros,
    },
    /// A step that [`overdue`](super::overdue) named is given up on.
    StepTimedOut {
        step: StepName,
        at: UnixMicros,
    },
    /// The standby side has a point of the item that was made at this generation and is no base.
    FirstPoint {
        item: ItemName,
        seq: PointSeq,
        generation: Generation,
        at: UnixMicros,
    },
    Operator {
        verb: RunVerb,
        by: String,
        at: UnixMicros,
    },
    /// Somebody says of what the run waits for at this step that it was done, or that it was not.
    Answered {
        step: StepName,
        confirmed: bool,
        by: String,
        at: UnixMicros,
    },
    /// A delay that [`delays_over`](super::delays_over) named has lasted long enough.
    DelayOver {
        step: StepName,
        at: UnixMicros,
    },
    /// The item's activation lease at this generation has certainly ended, and its machine has stopped.
    LeaseOver {
        item: ItemName,
        generation: Generation,
        at: UnixMicros,
    },
    /// The tests that a step of [`awaited_tests`](super::awaited_tests) waits for have ended.
    TestsEnded {
        step: StepName,
        at: UnixMicros,
    },
    /// An observer has looked at the run, and `elapsed` has passed since he looked last, by a clock that cannot jump.
    TimePassed {
        elapsed: Duration,
        at: UnixMicros,
    },
    /// Another deadline, or none.
    DeadlineSet {
        deadline: Option<Deadline>,
        by: String,
        at: UnixMicros,
    },
    /// What was due could not be done.
    DeadlineFailed {
        problems: Vec<Problem>,
        at: UnixMicros,
    },
    /// An operator gives the run further steps, which were planned for it as it is (R-FO-4).
    Changed {
        amendment: Box<Amendment>,
        by: String,
        at: UnixMicros,
    },
}

impl Event {
    /// When it happened.
    pub const fn at(&self) -> UnixMicros {
        match self {
            Self::StepSucceeded { at, .. }
            | Self::StepFailed { at, .. }
            | Self::StepTimedOut { at, .. }
            | Self::FirstPoint { at, .. }
            | Self::Answered { at, .. }
            | Self::DelayOver { at, .. }
            | Self::LeaseOver { at, .. }
            | Self::TestsEnded { at, .. }
            | Self::Operator { at, .. }
            | Self::TimePassed { at, .. }
            | Self::DeadlineSet { at, .. }
            | Self::DeadlineFailed { at, .. }
            | Self::Changed { at, .. } => *at,
        }
    }

    /// Whether somebody decided it, so that the run may refuse it.
    pub const fn is_decision(&self) -> bool {
        matches!(
            self,
            Self::Operator { .. } | Self::Changed { .. } | Self::DeadlineSet { .. } | Self::Answered { .. }
        )
    }
}

/// What an operator may ask of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunVerb {
    CompleteTest,
    /// Comes with an amendment; see [`Event::Changed`].
    CompleteFailover,
    Commit,
    /// What the run waits for somebody to do outside of it has been done. Comes with the step; see [`Event::Answered`].
    Confirm,
    /// It has not, and will not be. Comes with the step; see [`Event::Answered`].
    Reject,
    /// Comes with an amendment; see [`Event::Changed`].
    ChangePoint,
    /// Comes with an amendment; see [`Event::Changed`].
    RollBack,
    Cancel,
    Retry,
    /// Comes with a deadline, or with none; see [`Event::DeadlineSet`].
    SetDeadline,
}

impl RunVerb {
    pub const ALL: [Self; 10] = [
        Self::CompleteTest,
        Self::CompleteFailover,
        Self::Commit,
        Self::Confirm,
        Self::Reject,
        Self::ChangePoint,
        Self::RollBack,
        Self::Cancel,
        Self::Retry,
        Self::SetDeadline,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CompleteTest => "complete-test",
            Self::CompleteFailover => "complete-failover",
            Self::Commit => "commit",
            Self::Confirm => "confirm",
            Self::Reject => "reject",
            Self::ChangePoint => "change-point",
            Self::RollBack => "roll-back",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::SetDeadline => "set-deadline",
        }
    }
}

impl fmt::Display for RunVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An operator's verb that the run does not take now. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the run does not take {verb} now: {reason}")]
pub struct Refusal {
    pub verb: RunVerb,
    pub reason: String,
    pub allowed: Vec<RunVerb>,
}
