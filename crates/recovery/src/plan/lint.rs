//! What holds for every plan, whatever planned it. No plan that breaks a rule of these leaves the planner.

use std::collections::{BTreeMap, BTreeSet};

use understudy_ids::{Problem, StepName};
use understudy_netplan::ZonePurpose;

use super::{Executor, Operation, Phase, RunPlan, Stage, Step};
use crate::action::{Action, AgentWork, Internal, NetworkWork};

/// Something about a plan that must not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("step {0} is there twice")]
    Twice(StepName),
    #[error("step {step} refers to {other}, which is not there or comes later")]
    NotBefore { step: StepName, other: StepName },
    #[error("step {step} belongs to the way forward and waits for clean-up step {other}")]
    WaitsForCleanUp { step: StepName, other: StepName },
    #[error("step {0} makes something that no step takes back")]
    NoCleanUp(StepName),
    #[error("step {0} is marked for the point of no return and lies before it, or the other way round")]
    WronglyMarked(StepName),
    #[error("step {0} is done by another executor than its action needs")]
    WrongExecutor(StepName),
    #[error("step {0} of a host or of network-mapper has no time-out")]
    NoTimeOut(StepName),
    #[error("step {0} of a test writes to a zone of production, or one of a failover to a zone for tests")]
    WrongZone(StepName),
    #[error("step {0} of a test leads clients elsewhere")]
    HookInTest(StepName),
}

/// # Errors
/// With every flaw, as whoever asked for the plan is told of it.
pub(super) fn in_order(plan: &RunPlan) -> Result<(), Vec<Problem>> {
    let remedy = "This is a defect of the planner: report it with the request.";
    let problem = |flaw: Flaw| Problem::new("PLAN_NOT_IN_ORDER", "plan", flaw.to_string(), remedy);
    let flaws: Vec<Problem> = lint(plan).into_iter().map(problem).collect();
    if flaws.is_empty() { Ok(()) } else { Err(flaws) }
}

/// Every flaw of a plan; none in a plan that may be started.
pub fn lint(plan: &RunPlan) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut before: BTreeMap<&StepName, &Step> = BTreeMap::new();
    for step in &plan.steps {
        flaws.extend(references(step, &before));
        flaws.extend(executor(step));
        flaws.extend(clients(plan.operation, step));
        if before.insert(&step.id, step).is_some() {
            flaws.push(Flaw::Twice(step.id.clone()));
        }
    }
    let taken_back: BTreeSet<&StepName> = plan.steps.iter().flat_map(|step| &step.undoes).collect();
    let made = plan.steps.iter().filter(|step| needs_clean_up(step) && !taken_back.contains(&step.id));
    flaws.extend(made.map(|step| Flaw::NoCleanUp(step.id.clone())));
    let behind = behind_point_of_no_return(&plan.steps);
    let wrong = plan.steps.iter().filter(|step| step.point_of_no_return != behind.contains(&step.id));
    flaws.extend(wrong.map(|step| Flaw::WronglyMarked(step.id.clone())));
    flaws
}

/// A plan lists every step after those it refers to. That makes it acyclic, too.
fn references(step: &Step, before: &BTreeMap<&StepName, &Step>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for other in step.after.iter().chain(&step.undoes) {
        if !before.contains_key(other) {
            flaws.push(Flaw::NotBefore { step: step.id.clone(), other: other.clone() });
        }
    }
    let forward = matches!(step.stage, Stage::Main | Stage::AfterCommit);
    for other in step.after.iter().filter_map(|id| before.get(id)) {
        let other_forward = matches!(other.stage, Stage::Main | Stage::AfterCommit);
        if forward != other_forward {
            flaws.push(Flaw::WaitsForCleanUp { step: step.id.clone(), other: other.id.clone() });
        }
    }
    flaws
}

fn executor(step: &Step) -> Vec<Flaw> {
    let fits = matches!(
        (&step.action, &step.executor),
        (Action::Agent { .. }, Executor::Host(_))
            | (Action::Network(_), Executor::NetworkMapper)
            | (Action::Internal(_), Executor::Orchestrator)
            | (Action::Operator(_), Executor::Operator)
    );
    let mut flaws = Vec::new();
    if !fits {
        flaws.push(Flaw::WrongExecutor(step.id.clone()));
    }
    let remote = matches!(step.executor, Executor::Host(_) | Executor::NetworkMapper);
    if remote && step.time_out.is_none() {
        flaws.push(Flaw::NoTimeOut(step.id.clone()));
    }
    flaws
}

/// R-NET-12: clients of production are never led to the machine of a test.
fn clients(operation: Operation, step: &Step) -> Option<Flaw> {
    let of_test = operation == Operation::TestFailover;
    match &step.action {
        Action::Network(NetworkWork::SetRecords { test, records, .. }) => {
            let fits = records.iter().all(|record| record.purpose == ZonePurpose::of_run(of_test));
            (*test != of_test || !fits).then(|| Flaw::WrongZone(step.id.clone()))
        }
        Action::Network(NetworkWork::CallHook(_)) => of_test.then(|| Flaw::HookInTest(step.id.clone())),
        _ => None,
    }
}

/// Whether the step leaves something behind that only its own run can want. A promoted machine is wanted for good, the replica
/// that reverse replication prepares holds the base for the next attempt, and a roll-back leaves what was there before the run.
fn needs_clean_up(step: &Step) -> bool {
    if matches!(step.stage, Stage::Undo | Stage::Cleanup) || step.phase == Phase::RollBack {
        return false;
    }
    match &step.action {
        Action::Network(
            NetworkWork::ReserveAddresses { .. } | NetworkWork::SetRecords { test: true, .. },
        ) => true,
        Action::Agent { work, .. } => match work {
            AgentWork::CreateTestMachine { .. }
            | AgentWork::EnsureTestNetwork { .. }
            | AgentWork::ProbeExistingNetwork(_)
            | AgentWork::ExportSeed { .. }
            | AgentWork::StartReplication(_) => true,
            AgentWork::PrepareReplica { .. } => step.phase != Phase::Reverse,
            _ => false,
        },
        _ => false,
    }
}

/// Whether nothing can be taken back once the step has begun.
fn is_irreversible(step: &Step) -> bool {
    if matches!(step.stage, Stage::Undo | Stage::Cleanup) {
        return false;
    }
    match &step.action {
        Action::Internal(Internal::RaiseGeneration { .. } | Internal::Record { .. }) => true,
        Action::Agent { work, .. } => matches!(work, AgentWork::RemoveReplica),
        _ => false,
    }
}

/// Irreversible steps, what builds on them, and what takes that back.
fn behind_point_of_no_return(steps: &[Step]) -> BTreeSet<StepName> {
    let mut behind = BTreeSet::new();
    for step in steps {
        let builds_on = step.after.iter().any(|id| behind.contains(id));
        let takes_back = step.stage == Stage::Undo && step.undoes.iter().any(|id| behind.contains(id));
        if is_irreversible(step) || takes_back || (builds_on && step.stage != Stage::Cleanup) {
            behind.insert(step.id.clone());
        }
    }
    behind
}

pub(super) fn mark_point_of_no_return(steps: Vec<Step>) -> Vec<Step> {
    let behind = behind_point_of_no_return(&steps);
    let mark = |step: Step| Step { point_of_no_return: behind.contains(&step.id), ..step };
    steps.into_iter().map(mark).collect()
}
