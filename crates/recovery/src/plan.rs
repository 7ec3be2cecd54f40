//! Plans: what a run will do, whole and frozen before its first effect.
//!
//! ```text
//!   RunSpec + PlanInput ──check everything──▶ problems? all of them, and no plan
//!                          │
//!                          ▼
//!                       RunPlan: steps with executor, order, error policy, stage, point of no return
//! ```
//!
//! A preview shows the plan, a start carries its digest and is refused when the plan would be another one by now (R-FO-2). A run that
//! waits for its commit may get further steps, which are planned in the same way; see [`amend`].

mod amend;
mod at_instant;
mod check;
mod common;
mod connect;
mod digest;
mod draft;
mod errors;
mod failback;
mod input;
mod lint;
mod order;
mod planned;
mod protect;
mod reverse;
mod spec;
mod test_failover;
mod unplanned;

use std::{collections::BTreeMap, fmt, time::Duration};

pub(crate) use amend::amended;
pub use amend::{AmendedItem, Amendment, Change, ChangeKind, amend};
pub(crate) use check::MAX_ITEMS;
pub(crate) use check::subject;
pub use draft::ends;
pub use errors::{ERROR_POLICIES, Part, error_policy};
pub use input::{
    Connections, DiskView, HealthLevel, HostView, ItemView, MachineView, NicView, PlanInput, PlannedNic,
    PlannedTestNetwork, PointView, PolicyView, Power, SideView,
};
pub use lint::{Flaw, lint};
use serde::{Deserialize, Serialize};
pub use spec::{Operation, RunSpec, Seed, Synchronise};
use understudy_ids::{
    Consistency, Generation, HostName, ItemName, MachineName, PointSeq, Problem, StepName, UnixMicros,
};

use crate::{
    action::Action,
    item::{ItemState, Verb},
};

/// A frozen graph of steps. The order of `steps` is one in which they could be done one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    pub operation: Operation,
    pub items: Vec<PlannedItem>,
    pub steps: Vec<Step>,
    /// What was true when the plan was made and may be another by now: not part of the digest.
    pub estimates: BTreeMap<ItemName, Estimate>,
    /// What whoever asked may want to know, and nothing that stands against it: not part of the digest.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// What happens to one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedItem {
    pub item: ItemName,
    /// Before the run.
    pub state: ItemState,
    /// The generation that the item will have: one more than now where its active side changes.
    pub generation: Generation,
    /// Where the machine runs (or ran) before the run.
    pub source_host: HostName,
    /// The other side: where it will run, or be replicated to.
    pub target_host: HostName,
    pub machine: MachineName,
    pub connections: Vec<PlannedConnection>,
}

/// Where one NIC will be connected, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedConnection {
    pub mac: String,
    /// The network's resource name, or "test network standing for …"; empty: not connected.
    pub network: String,
    /// Empty where it is not known.
    pub address: String,
    pub reason: String,
}

/// What the plan expects of an item as of now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The point to be used. Planned failover: none, it is still to be made.
    pub point: Option<PointSeq>,
    pub point_instant: Option<UnixMicros>,
    /// Of runs that were planned before points had one, nothing.
    #[serde(default)]
    pub point_consistency: Option<Consistency>,
    /// From the point to now; `None` when nothing can be lost.
    pub expected_loss: Option<Duration>,
    /// The highest number that a point of the item has at either side.
    pub highest_point: Option<PointSeq>,
    /// For how long the run waits until the item's activation lease has certainly ended; `None` where it does not wait for that.
    #[serde(default)]
    pub lease_over_in: Option<Duration>,
}

/// One step: one idempotent thing done to one object by one executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub id: StepName,
    /// `None`: of the whole run.
    pub item: Option<ItemName>,
    pub title: String,
    pub action: Action,
    pub executor: Executor,
    /// Steps that must have ended before. One that failed counts where its policy is to go on.
    pub after: Vec<StepName>,
    pub on_error: ErrorPolicy,
    pub phase: Phase,
    pub stage: Stage,
    /// From this step on the run cannot be cancelled.
    pub point_of_no_return: bool,
    /// Clean-up and undo: done when one of these was begun.
    pub undoes: Vec<StepName>,
    /// What the item goes through when the step has succeeded, or has failed where the run goes on.
    pub records: Vec<Verb>,
    /// Leases that may be lost before the outcome counts as unknown.
    pub max_attempts: u32,
    /// After this time from when it was sent, an outcome that is still missing counts as unknown. `None`: waits for ever.
    pub time_out: Option<Duration>,
}

/// Who does a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Executor {
    Host(HostName),
    NetworkMapper,
    Orchestrator,
    Operator,
}

impl fmt::Display for Executor {
    /// As the API and job-tracker's queues call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "hosts/{host}"),
            Self::NetworkMapper => f.write_str("network-mapper"),
            Self::Orchestrator => f.write_str("orchestrator"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// What an error in a step does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorPolicy {
    /// No new step is begun (R-PF-3).
    StopRun,
    /// The rest of the item's steps is skipped; other items go on (R-UF-4).
    SkipItem,
    /// It is shown, and the run goes on.
    GoOn,
}

/// What a step is part of, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Prepare,
    Replicate,
    ShutDown,
    Synchronise,
    Verify,
    Switch,
    Start,
    Probe,
    Route,
    Wait,
    Commit,
    Reverse,
    RollBack,
    CleanUp,
}

/// When a step comes into question at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Main,
    /// Behind the operator's commit.
    AfterCommit,
    /// Before the run ends by itself or by being cancelled, for what did not come to its end and was begun.
    Undo,
    /// Before the run ends, however it ends, for what was begun.
    Cleanup,
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal,)* }) => {
        impl $type {
            /// The word for it in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(ErrorPolicy { StopRun => "stop-run", SkipItem => "skip-item", GoOn => "go-on", });
words!(Phase {
    Prepare => "prepare",
    Replicate => "replicate",
    ShutDown => "shut-down",
    Synchronise => "synchronise",
    Verify => "verify",
    Switch => "switch",
    Start => "start",
    Probe => "probe",
    Route => "route",
    Wait => "wait",
    Commit => "commit",
    Reverse => "reverse-replicate",
    RollBack => "roll-back",
    CleanUp => "clean-up",
});

impl RunPlan {
    /// Identifies what the plan will do: 64 hexadecimal digits over everything but the estimates. Two plans with the same digest
    /// consist of the same steps.
    pub fn digest(&self) -> String {
        digest::digest(self)
    }

    pub fn step(&self, id: &StepName) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    pub fn item(&self, name: &ItemName) -> Option<&PlannedItem> {
        self.items.iter().find(|item| item.item == *name)
    }
}

/// The plan for `spec` under the facts of `input`.
///
/// # Errors
/// Every reason why there is none, at once (R-REP-1, R-FO-2).
pub fn plan(spec: &RunSpec, input: &PlanInput) -> Result<RunPlan, Vec<Problem>> {
    let (spec, mut problems) = at_instant::resolved(spec, input);
    let (input, notices) = common::settle(&spec, input);
    problems.extend(check::problems(&spec, &input));
    if !problems.is_empty() {
        return Err(problems);
    }
    let plan = draft::draft(&spec, &input)?;
    let left_out = order::left_out(&spec, &input).into_iter().chain(draft::not_asked(&spec, &input));
    let tests = draft::ended_tests(&spec, &input);
    let of_failback = failback::notices(&spec, &input);
    let of_networks = connect::notices(&spec, &input);
    let notices =
        notices.into_iter().chain(left_out).chain(of_networks).chain(tests).chain(of_failback).collect();
    Ok(RunPlan { notices, ..plan })
}
