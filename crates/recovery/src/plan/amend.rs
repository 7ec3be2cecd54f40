//! What a run gets to do beside its plan while it waits: another recovery point or the way back before its commit (R-FO-4), or the failover that a
//! failback has prepared (R-FB-2).
//!
//! ```text
//!   run that waits + Change + facts ──check everything──▶ problems? all of them, and no amendment
//!                                        │
//!                                        ▼
//!                          Amendment: steps that the commit will wait for, or that take its place
//! ```
//!
//! All of it depends on what is so at that moment, so they are no part of the plan that was started. They are planned, shown and
//! digested like one, and the run's record keeps them beside what was done before.

mod complete;
mod order;
mod points;
mod roll_back;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, PointChoice, PointSeq, Problem, StepName};

use super::{
    Estimate, HostView, ItemView, PlanInput, PlannedConnection, PlannedItem, RunPlan, Step, check, digest,
    draft::Subject, lint,
};
use crate::{
    action::{Action, AgentWork, Internal, OperatorWait},
    run::{self, Run, RunVerb},
};

/// What an operator asks of a run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Other recovery points for these items.
    Points(BTreeMap<ItemName, PointChoice>),
    /// All items go back. The operator says that what their machines have written since the failover is given up.
    RollBack { give_up_writes: bool },
    /// The copies of a failback are whole: the failover is done.
    CompleteFailover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    Points,
    RollBack,
    CompleteFailover,
}

impl ChangeKind {
    /// What the run must take at that moment.
    pub const fn verb(self) -> RunVerb {
        match self {
            Self::Points => RunVerb::ChangePoint,
            Self::RollBack => RunVerb::RollBack,
            Self::CompleteFailover => RunVerb::CompleteFailover,
        }
    }
}

impl Change {
    pub const fn kind(&self) -> ChangeKind {
        match self {
            Self::Points(_) => ChangeKind::Points,
            Self::RollBack { .. } => ChangeKind::RollBack,
            Self::CompleteFailover => ChangeKind::CompleteFailover,
        }
    }
}

/// Further steps of a run, whole and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// 1 for a run's first.
    pub number: u32,
    pub kind: ChangeKind,
    pub items: Vec<AmendedItem>,
    pub steps: Vec<Step>,
}

/// What is so of one item as of now: not part of the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmendedItem {
    pub item: ItemName,
    /// The new point, and what is lost with it.
    pub estimate: Option<Estimate>,
    /// For how long the machine has run at the target: what it wrote in that time is given up.
    pub gives_up: Option<Duration>,
    /// Where its machine will be connected, where that is planned anew.
    #[serde(default)]
    pub connections: Option<Vec<PlannedConnection>>,
}

impl Amendment {
    /// Identifies what would be done: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        digest::of_amendment(self.number, self.kind, &self.steps)
    }
}

/// The further steps that `change` means for `run`, under the facts of `input`.
///
/// # Errors
/// Every reason why there are none, at once.
pub fn amend(run: &Run, change: &Change, input: &PlanInput) -> Result<Amendment, Vec<Problem>> {
    let amending = Amending { run, input, number: run.next_change() };
    let mut problems = amending.not_taken(change.kind()).into_iter().collect::<Vec<_>>();
    problems.extend(match change {
        Change::Points(points) => points::problems(&amending, points),
        Change::RollBack { give_up_writes } => roll_back::problems(&amending, *give_up_writes),
        // What stands against it can be said only where the run is a failback that waits for it.
        Change::CompleteFailover if problems.is_empty() => complete::problems(&amending),
        Change::CompleteFailover => Vec::new(),
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let (items, steps) = match change {
        Change::Points(points) => points::draft(&amending, points),
        Change::RollBack { .. } => roll_back::draft(&amending),
        Change::CompleteFailover => complete::draft(&amending),
    };
    let steps = order::in_order_of(&run.plan, steps);
    let plan = amended(&run.plan, steps.clone());
    lint::in_order(&plan)?;
    // With its marks, which say what lies behind the switch of the sides.
    let is_new = |step: &&Step| steps.iter().any(|new| new.id == step.id);
    let steps = plan.steps.iter().filter(is_new).cloned().collect();
    Ok(Amendment { number: amending.number, kind: change.kind(), items, steps })
}

/// The plan with further steps, for which its commit waits.
pub(crate) fn amended(plan: &RunPlan, steps: Vec<Step>) -> RunPlan {
    let mut plan = plan.clone();
    let commit = |step: &Step| step.action == Action::Operator(OperatorWait::Commit);
    let place = plan.steps.iter().position(commit).unwrap_or(plan.steps.len());
    if let Some(commit) = plan.steps.get_mut(place) {
        commit.after.extend(steps.iter().map(|step| step.id.clone()));
    }
    plan.steps.splice(place..place, steps);
    plan.steps = lint::mark_point_of_no_return(plan.steps);
    plan
}

/// A run with the facts under which it is changed.
struct Amending<'a> {
    run: &'a Run,
    input: &'a PlanInput,
    number: u32,
}

impl<'a> Amending<'a> {
    fn not_taken(&self, kind: ChangeKind) -> Option<Problem> {
        let verb = kind.verb();
        let allowed = run::allowed_actions(self.run);
        if allowed.contains(&verb) {
            return None;
        }
        let message = format!("the run does not take {verb} now: {}", run::why_not(self.run, verb));
        let words: Vec<&str> = allowed.into_iter().map(RunVerb::as_str).collect();
        let remedy = match words.as_slice() {
            [] => "Nothing can be asked of this run now; watch it.".to_owned(),
            some => format!("What the run takes now: {}.", some.join(", ")),
        };
        Some(Problem::new("VERB_NOT_ALLOWED", format!("jobs/{}", self.run.id), message, remedy))
    }

    fn view(&self, item: &ItemName) -> Option<&'a ItemView> {
        self.input.items.iter().find(|view| view.name == *item)
    }

    /// The item with the hosts that the run took it from and to.
    fn subject(&self, planned: &'a PlannedItem) -> Option<Subject<'a>> {
        let view = self.view(&planned.item)?;
        Some(Subject::between(view, &planned.source_host, &planned.target_host, self.input))
    }

    /// `web1.change-2-promote`: the second change of the run has other steps than the first.
    fn what(&self, what: &str) -> String {
        format!("change-{}-{what}", self.number)
    }

    /// What the item's steps come after: the switch of the sides, which was done before the run began to wait.
    fn switched(&self, item: &ItemName) -> Vec<StepName> {
        let raised = |step: &&Step| {
            step.item.as_ref() == Some(item)
                && matches!(step.action, Action::Internal(Internal::RaiseGeneration { .. }))
        };
        self.run.plan.steps.iter().filter(raised).map(|step| step.id.clone()).collect()
    }

    fn host_not_connected(&self, planned: &PlannedItem) -> Option<Problem> {
        let host = &planned.target_host;
        (!self.input.hears(host)).then(|| {
            let message = format!("its agent cannot be heard, and {} runs there", planned.item);
            let remedy = "Start the agent or repair its connection to the control plane.";
            Problem::new("HOST_NOT_CONNECTED", check::host_subject(host), message, remedy)
        })
    }

    /// Whether the target has the item's machine, so that it can be asked to shut down.
    fn is_defined(&self, planned: &PlannedItem) -> bool {
        let host: Option<&HostView> = self.input.hosts.get(&planned.target_host);
        let owner = host.and_then(|host| host.machines.get(&planned.machine));
        owner.is_some_and(|owner| owner.as_ref() == Some(&planned.item))
    }

    /// For how long the machine has run at the target.
    fn gives_up(&self, item: &ItemName) -> Option<Duration> {
        run::runs_since(self.run, item).map(|since| self.input.now.since(since))
    }

    /// The point that the machine at the target was made from last.
    fn used(&self, item: &ItemName) -> Option<PointSeq> {
        run::outcomes(self.run).into_iter().find(|outcome| outcome.item == *item).and_then(|o| o.point)
    }

    /// The agents' work of the run's last step of this kind for the item.
    fn last_work(&self, item: &ItemName, is: impl Fn(&AgentWork) -> bool) -> Option<AgentWork> {
        self.run.plan.steps.iter().rev().find_map(|step| match &step.action {
            Action::Agent { item: of, work, .. } if of == item && is(work) => Some(work.clone()),
            _ => None,
        })
    }
}
