//! Unplanned failover (R-UF): works with the other side dead, unreachable or half alive, and says nothing to it.
//!
//! ```text
//!   reserve ─▶ per item: raise generation (point of no return) ─▶ promote ─▶ start ─▶ probe
//!   commit ─▶ per item: commit                                                            always: release
//! ```
//!
//! An error ends the item in which it happened; the others go on (R-UF-4). The old side is fenced when it is heard again.

use understudy_ids::StepName;

use super::{
    ErrorPolicy, Phase, PlanInput, Stage, Step,
    draft::{self, Subject},
};
use crate::{
    action::{AgentWork, MachineRef, OperatorWait, PointRef},
    item::Verb,
};

pub(super) fn steps(input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    // An address that cannot be had is no reason to leave machines off.
    let reserve = draft::reserve(input, false, Vec::new()).map(|step| step.on_error(ErrorPolicy::GoOn));
    let reserved: Vec<StepName> = reserve.iter().map(|step| step.id.clone()).collect();
    let mut steps: Vec<Step> = reserve.into_iter().collect();
    let mut running = Vec::new();
    for item in items {
        let switch = switch(input, item, &reserved);
        running.extend(switch.iter().map(|step| step.id.clone()));
        steps.extend(switch);
    }
    let commit = draft::wait_for(OperatorWait::Commit, running);
    let commit_id = commit.id.clone();
    steps.push(commit);
    steps.extend(items.iter().map(|item| {
        item.agent(
            "make-final",
            item.target,
            item.view.generation.next(),
            Phase::Commit,
            AgentWork::CommitItem,
        )
        .stage(Stage::AfterCommit)
        .on_error(ErrorPolicy::GoOn)
        .after([commit_id.clone()])
        .records([Verb::Commit])
    }));
    steps.extend(reserved.first().map(|reserve| draft::release(reserve, Vec::new())));
    steps
}

fn switch(input: &PlanInput, item: &Subject<'_>, reserved: &[StepName]) -> Vec<Step> {
    let generation = item.view.generation.next();
    let raise = item.raise_generation().after(reserved.iter().cloned());
    let promote = AgentWork::PromotePoint { point: PointRef::Announced, nics: item.networks(input) };
    let promote = item
        .agent("promote", item.target, generation, Phase::Switch, promote)
        .after([raise.id.clone()])
        .on_error(ErrorPolicy::SkipItem);
    let machine = MachineRef::Named(item.view.machine.name.clone());
    let start = AgentWork::StartMachine { machine: machine.clone() };
    let start = item
        .agent("start", item.target, generation, Phase::Start, start)
        .after([promote.id.clone()])
        .on_error(ErrorPolicy::SkipItem)
        .records([Verb::FailedOver]);
    let probe = item.probe(input, generation, machine).map(|step| step.after([start.id.clone()]));
    [raise, promote, start].into_iter().chain(probe).collect()
}
