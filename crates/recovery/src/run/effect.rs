//! What has to be done because of an event. Stored with the run, carried out afterwards.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, HostName, ItemName, Problem, RunId, StepName};

use super::{Report, RunVerb};
use crate::{
    action::Action,
    item::{ItemState, Verb},
    plan::Executor,
};

/// One thing to do. Those on items belong into the same transaction as the run; the others are sent after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Put a task into the executor's queue. The action holds no reference to the run any more, except that a test from the latest point
    /// leaves the choice to the agent.
    Enqueue {
        key: String,
        step: StepName,
        title: String,
        executor: Executor,
        action: Action,
        max_attempts: u32,
    },
    /// Nobody needs these tasks any more. Each still answers with success, failure or cancellation.
    CancelTasks {
        keys: Vec<String>,
    },
    Item {
        item: ItemName,
        change: ItemChange,
    },
    /// Tell the run with [`Event::FirstPoint`](super::Event::FirstPoint) when `standby` has a point of this generation.
    AwaitFirstPoint {
        item: ItemName,
        standby: HostName,
        generation: Generation,
    },
    /// Tests that are to end now: completed where they wait for that, and cancelled otherwise.
    EndTests {
        runs: BTreeSet<RunId>,
    },
    /// The run's job as people see it.
    Job(Box<JobView>),
}

/// What changes about an item's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemChange {
    /// `from` is what the run takes the item to be in. `to` [`ItemState::Removed`]: delete it.
    Verb {
        verb: Verb,
        from: ItemState,
        to: ItemState,
    },
    /// The generation rises and the active side changes, in one.
    SwitchSides {
        generation: Generation,
        active: HostName,
        standby: HostName,
    },
    /// Another host is the side that does not run it, as long as the generation is this one.
    SetStandby {
        generation: Generation,
        standby: HostName,
    },
    /// The run holds the item from now on.
    HoldRun(RunId),
    ReleaseRun(RunId),
    /// The test runs beside whatever the item does.
    HoldTest(RunId),
    ReleaseTest(RunId),
}

/// Mirrors job-tracker's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    Waiting,
    Cancelling,
    Succeeded,
    CompletedWithErrors,
    Failed,
    Cancelled,
}

/// The run's job as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// For `owner_sequence`.
    pub sequence: u64,
    pub state: JobState,
    pub phase: String,
    pub waiting_for: String,
    pub allowed_actions: Vec<RunVerb>,
    pub problems: Vec<Problem>,
    pub progress_percent: u32,
    /// When the run has ended.
    pub report: Option<Report>,
}
