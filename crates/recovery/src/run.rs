//! Runs: a plan being carried out, and how it goes on after each event.
//!
//! ```text
//!               ┌──────────────── retry ───────────────┐
//!               ▼                                      │
//!   start ─▶ RUNNING ◀──▶ WAITING (complete test, complete failover, commit)
//!               │  └──── error that stops the run ──▶ FAILED ── cancel ──┐
//!               ▲  WAITING ── another point, complete failover ──▶ RUNNING, further steps, WAITING
//!               │  WAITING ── roll back ──▶ RUNNING ──▶ … ──▶ ROLLED BACK
//!               ▼                                                        ▼
//!           CLEANING UP ◀────────────────────────────────────────── CLEANING UP
//!               ▼                    a clean-up step fails: FAILED, "clean-up incomplete", with retry
//!   SUCCEEDED · COMPLETED WITH ERRORS · FAILED · CANCELLED
//! ```
//!
//! [`advance`] is the only thing that changes a run. It awaits nothing: what has to be done comes out as [`Effect`]s, to be stored in
//! the transaction that stores the run and carried out after it. Events may come late, twice or in any order; one that tells
//! nothing new changes nothing (invariant 3). An outcome that nobody knows counts as failed and never as done (invariant 16);
//! retrying repeats the step, which is idempotent.

mod advance;
mod change;
mod deadline;
mod effect;
mod event;
mod outcome;
mod report;
mod settle;
mod view;

use std::{collections::BTreeMap, fmt, time::Duration};

pub use advance::{
    advance, advance_all, awaited_leases, awaited_tests, delays_over, ends_lease, overdue, start,
};
pub use change::change_in_words;
pub use deadline::{Deadline, DeadlineAction, Due, SetDeadline, ends_test, time_left};
pub use effect::{Effect, ItemChange, JobState, JobView};
pub use event::{Event, Refusal, RunVerb};
pub(crate) use outcome::last_probes;
pub use outcome::{DiskComparison, ItemOutcome, lost_until, outcomes, rehearsed, runs_since};
pub use report::{IsolationEvidence, ProbeEvidence, Report, StepReport, report};
use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, PointSeq, Problem, RunId, StepName, UnixMicros};
use understudy_replication::watched::Watched;
pub(crate) use view::why_not;
pub use view::{
    allowed_actions, job_view, phase, problems, progress_percent, state, step_outcome, step_output,
    waiting_for,
};

use crate::{
    action::StepResult,
    item::ItemState,
    plan::{ChangeKind, Operation, RunPlan, RunSpec, Step},
    seconds,
};

/// One execution of a plan. Stored as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub spec: RunSpec,
    pub plan: RunPlan,
    pub steps: BTreeMap<StepName, StepStatus>,
    /// The items as this run has moved them.
    pub items: BTreeMap<ItemName, ItemProgress>,
    pub course: Course,
    /// The operator's identity.
    pub created_by: String,
    pub started: UnixMicros,
    /// Set when nothing can happen to the run any more.
    pub ended: Option<Ended>,
    /// Who completed the test or committed, and when.
    pub approved: Option<Approval>,
    /// Rises with every change that `advance` makes; numbers the job updates.
    pub sequence: u64,
    /// The further steps that the run was given while it waited, oldest first.
    #[serde(default)]
    pub changes: Vec<MadeChange>,
    /// Steps that are not tried again, with the change that has put others in their place.
    #[serde(default)]
    pub superseded: BTreeMap<StepName, u32>,
    /// Since a wait for a person began.
    #[serde(default)]
    pub waited: Option<Watched>,
    /// What happens when it has waited for its commit for too long.
    #[serde(default)]
    pub deadline: Option<SetDeadline>,
}

/// Further steps that the run was given (R-FO-4, R-FB-2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeChange {
    pub number: u32,
    pub kind: ChangeKind,
    pub by: String,
    #[serde(rename = "at_us")]
    pub at: UnixMicros,
    pub items: Vec<ChangedItem>,
    /// A roll-back that was taken back before it had switched the sides.
    pub withdrawn: bool,
}

/// What a change meant for one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedItem {
    pub item: ItemName,
    /// The machine was made from another point than before.
    pub from: Option<PointSeq>,
    pub to: Option<PointSeq>,
    /// For how long the machine had run at the target; what it wrote in that time is gone.
    #[serde(rename = "gives_up_seconds", with = "seconds")]
    pub gives_up: Option<Duration>,
    /// The run had failed in the item before.
    pub had_failed: bool,
}

/// Where a run is heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// Through its main steps.
    Forward,
    /// Stopped at an error; waits for retry or cancel.
    Halted,
    /// Through clean-up, to the end that belongs to why.
    Ending(EndReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// All main steps have ended.
    Finished,
    /// A test that stopped at an error.
    Failed,
    Cancelled,
    /// Reverse replication after commit was given up.
    GivenUp,
}

/// How and when a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub state: RunState,
    pub at: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub by: String,
    pub at: UnixMicros,
}

/// As the API shows it. FAILED with `ended` unset waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Running,
    Waiting,
    CleaningUp,
    Succeeded,
    CompletedWithErrors,
    Failed,
    Cancelled,
    /// The machines run where they ran before the failover.
    RolledBack,
}

impl RunState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::CleaningUp => "cleaning-up",
            Self::Succeeded => "succeeded",
            Self::CompletedWithErrors => "completed-with-errors",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled-back",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One step of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    pub state: StepState,
    /// How often it was sent: 1 from the first time on.
    pub tries: u32,
    pub started: Option<UnixMicros>,
    pub ended: Option<UnixMicros>,
    pub result: Option<StepResult>,
    pub error: Option<StepError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Pending,
    Running,
    Succeeded,
    Failed,
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    pub problem: Problem,
    /// The effect may have happened.
    pub unknown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemProgress {
    pub state: ItemState,
    /// An error ended this item's part of the run.
    pub skipped: bool,
    /// When the run first stopped the source machine.
    pub stopped: Option<UnixMicros>,
}

impl Run {
    /// The key of the step's present try in job-tracker. A retry has another key, because a job keeps every task it ever had.
    pub fn task_key(&self, step: &StepName) -> Option<String> {
        let status = self.steps.get(step)?;
        Some(task_key(step, status.tries))
    }

    /// The step that a task of the run was sent for.
    pub fn step_of_task(&self, key: &str) -> Option<&Step> {
        self.plan.steps.iter().find(|step| {
            let tries = self.steps.get(&step.id).map_or(0, |status| status.tries);
            (1..=tries).any(|number| task_key(&step.id, number) == key)
        })
    }

    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// The number of the run's next change.
    pub fn next_change(&self) -> u32 {
        self.changes.last().map_or(1, |last| last.number + 1)
    }

    /// A failback that synchronises before, and has not been completed.
    pub(crate) fn copies(&self) -> bool {
        let completed = self.changes.iter().any(|made| made.kind == ChangeKind::CompleteFailover);
        self.plan.operation == Operation::Failback && !self.spec.copies_while_off() && !completed
    }

    /// The run is on its way back, or has come back.
    pub fn is_rolling_back(&self) -> bool {
        self.changes.last().is_some_and(|last| last.kind == ChangeKind::RollBack && !last.withdrawn)
    }
}

fn task_key(step: &StepName, tries: u32) -> String {
    if tries <= 1 { step.to_string() } else { format!("{step}.try-{tries}") }
}
