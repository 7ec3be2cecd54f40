//! Planned failover (R-PF): no write is lost, and nothing irreversible happens before the first possible error (invariant 7).
//!
//! ```text
//!   (tests end ─▶) reserve ─▶ per item: shut down ─▶ last changes ─┬▶ digest @ source ─┐
//!                                                   └▶ verify @ target ─┴▶ compare
//!   all items equal ─▶ per item: stop replicating
//!   all stopped ══ point of no return ═▶ per item: raise generation ─▶ fence @ source ─▶ promote ─▶ start ─▶ probes ─▶ screenshot ─▶ names, hooks
//!   commit ─▶ per item: commit ─▶ reverse replication
//!   cancelled before: start the source machine again, replicate again · always: release
//! ```
//!
//! A failback ends so, too. One that copies during the failover only begins so: what is between shut-down and last changes then is the whole copy.

use understudy_ids::StepName;

use super::{
    Part, Phase, PlanInput, Power, RunSpec, Stage, Step,
    draft::{self, Subject},
    errors::error_policy,
    failback,
    reverse::{self, Sides},
};
use crate::{
    action::{AgentWork, Internal, MachineRef, PointRef},
    item::Verb,
};

/// Everything comes after `waited`.
pub(super) fn steps(
    spec: &RunSpec,
    input: &PlanInput,
    items: &[Subject<'_>],
    waited: &[StepName],
) -> Vec<Step> {
    let end_tests = draft::end_tests(spec, input).map(|step| step.after(waited.iter().cloned()));
    let mut steps: Vec<Step> = end_tests.into_iter().collect();
    let mut begun: Vec<StepName> = waited.to_vec();
    begun.extend(steps.iter().map(|step| step.id.clone()));
    let reserve = draft::reserve(input, false, Vec::new()).map(|step| step.after(begun.clone()));
    let reserved: Vec<StepName> = reserve.iter().map(|step| step.id.clone()).collect();
    begun.extend(reserved.iter().cloned());
    steps.extend(reserve);
    for item in items {
        steps.extend(synchronise(spec, input, item, &begun));
    }
    let compared: Vec<StepName> = items.iter().map(|item| item.id("compare-digests")).collect();
    steps.extend(items.iter().map(|item| stop_replication(item).after(compared.clone())));
    let stopped: Vec<StepName> = items.iter().map(|item| item.id("stop-replication")).collect();
    let mut running = Vec::new();
    for item in items {
        let switch = switch(spec, input, item, &stopped);
        running.extend(switch.iter().map(|step| step.id.clone()));
        steps.extend(switch);
    }
    let commit = draft::commit(running);
    let commit_id = commit.id.clone();
    steps.push(commit);
    for item in items {
        steps.extend(after_commit(spec, item, &commit_id));
    }
    // What was not replicated before is not replicated again: the copy takes itself back.
    let ended: &[&str] = if spec.copies_while_off() { &[] } else { &["sync-final", "stop-replication"] };
    steps.extend(items.iter().flat_map(|item| undo(item, ended)));
    steps.extend(reserved.first().map(|reserve| draft::release(reserve, Vec::new())));
    steps
}

fn synchronise(spec: &RunSpec, input: &PlanInput, item: &Subject<'_>, begun: &[StepName]) -> Vec<Step> {
    let machine = || item.view.machine.name.clone();
    let generation = item.view.generation;
    let shut_down = AgentWork::ShutDownMachine {
        machine: machine(),
        grace: item.view.policy.shutdown_grace,
        then_power_off: item.view.policy.power_off_after_grace,
    };
    // What may fail while the machine runs comes before it is shut down.
    let (mut steps, ready) = if spec.copies_while_off() {
        failback::standing_by(spec, input, item, begun)
    } else {
        (Vec::new(), begun.to_vec())
    };
    let shut_down = item.agent("shut-down", item.source, generation, Phase::ShutDown, shut_down).after(ready);
    let copied = if spec.copies_while_off() { failback::copy(spec, item, &shut_down.id) } else { Vec::new() };
    let whole = copied.iter().rfind(|step| step.stage == Stage::Main).unwrap_or(&shut_down).id.clone();
    let sync = AgentWork::SyncFinal { machine: machine() };
    let sync = item.agent("sync-final", item.source, generation, Phase::Synchronise, sync).after([whole]);
    let digest = AgentWork::DigestDisks { machine: machine() };
    let digest =
        item.agent("digest", item.source, generation, Phase::Verify, digest).after([sync.id.clone()]);
    let verify = AgentWork::VerifyPoint { point: PointRef::FinalOf(sync.id.clone()) };
    let verify =
        item.agent("verify", item.target, generation, Phase::Verify, verify).after([sync.id.clone()]);
    let compare = Internal::CompareDigests {
        item: item.name().clone(),
        source: digest.id.clone(),
        target: verify.id.clone(),
    };
    let title = format!("Compare both sides of {}", item.name());
    let compare = item
        .internal("compare-digests", title, Phase::Verify, compare)
        .after([digest.id.clone(), verify.id.clone()]);
    steps.push(shut_down);
    steps.extend(copied);
    steps.extend([sync, digest, verify, compare]);
    steps
}

fn stop_replication(item: &Subject<'_>) -> Step {
    let stop = AgentWork::StopReplication { forget: false };
    item.agent("stop-replication", item.source, item.view.generation, Phase::Synchronise, stop)
}

fn switch(spec: &RunSpec, input: &PlanInput, item: &Subject<'_>, stopped: &[StepName]) -> Vec<Step> {
    let generation = item.view.generation.next();
    let raise = item.raise_generation().after(stopped.iter().cloned());
    let fence = item
        .agent("fence", item.source, generation, Phase::Switch, AgentWork::Fence { power_off: true })
        .after([raise.id.clone()])
        .on_error(error_policy(spec.operation, Part::Fence));
    let promote = AgentWork::PromotePoint {
        point: PointRef::FinalOf(item.id("sync-final")),
        nics: item.networks(input),
    };
    let promote =
        item.agent("promote", item.target, generation, Phase::Switch, promote).after([fence.id.clone()]);
    let machine = MachineRef::Named(item.view.machine.name.clone());
    let start = AgentWork::StartMachine { machine: machine.clone() };
    let start = item
        .agent("start", item.target, generation, Phase::Start, start)
        .after([promote.id.clone()])
        .records([Verb::FailedOver]);
    let proof = item.proof(spec, input, generation, &machine, &start);
    let routing = item.route(spec, input, &proof.last().unwrap_or(&start).id);
    [raise, fence, promote, start].into_iter().chain(proof).chain(routing).collect()
}

fn after_commit(spec: &RunSpec, item: &Subject<'_>, commit: &StepName) -> Vec<Step> {
    let generation = item.view.generation.next();
    let reverses = !spec.no_reverse_replication;
    let records = if reverses { vec![Verb::Commit, Verb::ReverseReplicate] } else { vec![Verb::Commit] };
    let make_final = item
        .agent("make-final", item.target, generation, Phase::Commit, AgentWork::CommitItem)
        .stage(Stage::AfterCommit)
        .after([commit.clone()])
        .records(records);
    let last = make_final.id.clone();
    let mut steps = vec![make_final];
    if reverses {
        let sides =
            Sides { active: item.target, standby: item.source, endpoint: &item.source_endpoint, generation };
        let on_error = error_policy(spec.operation, Part::Reverse);
        steps.extend(reverse::reverse(item, &sides, &[last], true, Stage::AfterCommit, on_error));
    }
    steps
}

/// A cancelled run leaves the source as it was: running, if it ran, and replicated, where steps may have ended that: `ended`.
pub(super) fn undo(item: &Subject<'_>, ended: &[&str]) -> Vec<Step> {
    let generation = item.view.generation;
    let mut steps = Vec::new();
    if item.view.machine.power == Power::Running {
        let machine = MachineRef::Named(item.view.machine.name.clone());
        let restart = AgentWork::StartMachine { machine };
        let restart = item.agent("restart", item.source, generation, Phase::CleanUp, restart);
        steps.push(restart.cleans_up(Stage::Undo, [item.id("shut-down")]));
    }
    if ended.is_empty() {
        return steps;
    }
    let resume = item.start_replication(item.target, &item.target_endpoint);
    let resume = item.agent("resume-replication", item.source, generation, Phase::CleanUp, resume);
    // Shipping the final point may have ended the regular cycles, so replication is assigned again from there on.
    steps.push(resume.cleans_up(Stage::Undo, ended.iter().map(|what| item.id(what))));
    steps
}
