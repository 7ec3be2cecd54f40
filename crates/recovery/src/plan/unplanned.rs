//! Unplanned failover (R-UF): works with the other side dead, unreachable or half alive, and says nothing to it, unless that is asked for.
//!
//! ```text
//!   (for a limited time, where the other side is heard: per item: shut down ─▶ last changes, and fence behind the switch)
//!   (where nobody knows or states that the machine is off: per item: its activation lease has certainly ended)
//!   (tests end ─▶) reserve ─▶ per item: raise generation (point of no return) ─▶ promote ─▶ start ─▶ probes ─▶ screenshot ─▶ names, hooks
//!   commit ─▶ per item: commit                                                            always: release
//! ```
//!
//! Instead of a point, the machines of a test can be promoted: they shut down, and go on with what they have written as production; then that test ends.
//!
//! What is tried first never stops the run: its end, good or bad or not known in time, is what the rest comes after (R-UF-2).
//! An error ends the item in which it happened; the others go on (R-UF-4). The old side is fenced when it is heard again.

use std::time::Duration;

use understudy_ids::StepName;

use super::{
    ErrorPolicy, ItemView, Operation, Part, Phase, PlanInput, Power, RunSpec, Stage, Step,
    draft::{self, Subject},
    errors::error_policy,
    planned,
};
use crate::{
    action::{AgentWork, Internal, MachineRef, PointRef, test_machine_name},
    item::Verb,
};

/// How long a side that was spoken to is waited for until it is known to be fenced.
pub(super) const FENCE_LIMIT: Duration = Duration::from_secs(10);

/// Why it is certain that the machine does not run at the other side any more (R-UF-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// A person has stated so, on record.
    Asserted,
    /// Its host says so at this moment.
    KnownOff,
    /// It stops by itself, and the run waits for that.
    Lease,
    None,
}

pub(super) fn certainty(spec: &RunSpec, input: &PlanInput, item: &ItemView) -> Certainty {
    if spec.primary_down_assertion.is_some() {
        return Certainty::Asserted;
    }
    // What is told, and what is held, is so of the active side.
    if draft::ends(spec, item).0 != &item.active_host {
        return Certainty::None;
    }
    if input.hears(&item.active_host) && item.machine.power == Power::ShutOff {
        return Certainty::KnownOff;
    }
    if item.lease_over_in.is_some() { Certainty::Lease } else { Certainty::None }
}

pub(super) fn rests_on_lease(spec: &RunSpec, input: &PlanInput, item: &ItemView) -> bool {
    certainty(spec, input, item) == Certainty::Lease
}

fn on_error(part: Part) -> ErrorPolicy {
    error_policy(Operation::UnplannedFailover, part)
}

pub(super) fn steps(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    let mut steps: Vec<Step> = draft::end_tests(spec, input).into_iter().collect();
    let mut begun: Vec<StepName> = steps.iter().map(|step| step.id.clone()).collect();
    let reserve = draft::reserve(input, false, Vec::new());
    let reserve = reserve.map(|step| step.on_error(on_error(Part::Addresses)).after(begun.clone()));
    let reserved: Vec<StepName> = reserve.iter().map(|step| step.id.clone()).collect();
    begun.extend(reserved.iter().cloned());
    steps.extend(reserve);
    let mut running = Vec::new();
    let mut undo = Vec::new();
    for item in items {
        let tried = match spec.synchronise_within {
            Some(limit) if is_heard(input, item) => synchronise(item, limit, &begun),
            _ => Vec::new(),
        };
        if !tried.is_empty() {
            undo.extend(planned::undo(item, &["sync-final"]));
        }
        let synchronised = tried.last().map(|step| step.id.clone());
        steps.extend(tried);
        let waits = rests_on_lease(spec, input, item.view).then(|| await_lease(item, &begun));
        let awaited: Vec<StepName> = begun.iter().chain(waits.iter().map(|wait| &wait.id)).cloned().collect();
        steps.extend(waits);
        let switch = switch(spec, input, item, &awaited, synchronised);
        running.extend(switch.iter().map(|step| step.id.clone()));
        steps.extend(switch);
    }
    if let Some(run) = spec.promote_test {
        steps.push(draft::end_promoted_test(run, items.iter().map(|item| item.id("promote")).collect()));
    }
    let commit = draft::commit(running);
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
        .on_error(on_error(Part::Final))
        .after([commit_id.clone()])
        .records([Verb::Commit])
    }));
    steps.extend(undo);
    steps.extend(reserved.first().map(|reserve| draft::release(reserve, Vec::new())));
    steps
}

/// Also while the other side is spoken to: its answers are no proof that it stays off.
fn await_lease(item: &Subject<'_>, begun: &[StepName]) -> Step {
    let (name, generation) = (item.name(), item.view.generation);
    let title = format!("Wait until the activation lease of {name} at {} has ended", item.source);
    let wait = Internal::AwaitLease { item: name.clone(), generation };
    item.internal("lease-over", title, Phase::Switch, wait).after(begun.iter().cloned())
}

/// A side that cannot be heard is not waited for.
fn is_heard(input: &PlanInput, item: &Subject<'_>) -> bool {
    input.hears(item.source)
        && item.view.active_host == *item.source
        && item.view.machine.power != Power::Unknown
}

/// Half of the time for each: a guest that takes all of it has nothing shipped, which is found out at once.
fn synchronise(item: &Subject<'_>, limit: Duration, begun: &[StepName]) -> Vec<Step> {
    let (machine, generation) = (item.view.machine.name.clone(), item.view.generation);
    let shut_down = AgentWork::ShutDownMachine {
        machine: machine.clone(),
        // So that there is time left to power it off, where the policy says so.
        grace: item.view.policy.shutdown_grace.min(limit / 4),
        then_power_off: item.view.policy.power_off_after_grace,
    };
    let shut_down = item.agent("shut-down", item.source, generation, Phase::ShutDown, shut_down);
    let sync = AgentWork::SyncFinal { machine };
    let sync = item.agent("sync-final", item.source, generation, Phase::Synchronise, sync);
    let within =
        |step: Step| Step { time_out: Some(limit / 2), ..step.on_error(on_error(Part::LastChanges)) };
    let shut_down = within(shut_down).after(begun.iter().cloned());
    let sync = within(sync).after([shut_down.id.clone()]);
    vec![shut_down, sync]
}

fn switch(
    spec: &RunSpec,
    input: &PlanInput,
    item: &Subject<'_>,
    awaited: &[StepName],
    synchronised: Option<StepName>,
) -> Vec<Step> {
    let generation = item.view.generation.next();
    let raise = item.raise_generation().after(awaited.iter().chain(&synchronised).cloned());
    // A side that was spoken to, and may not have shut down, is told its place before another machine is started (R-FO-7).
    let fence = synchronised.as_ref().map(|_| {
        let work = AgentWork::Fence { power_off: true };
        let step = item.agent("fence", item.source, generation, Phase::Switch, work);
        Step { time_out: Some(FENCE_LIMIT), ..step.on_error(on_error(Part::Fence)).after([raise.id.clone()]) }
    });
    let switched = fence.as_ref().unwrap_or(&raise).id.clone();
    let point = synchronised.map_or(PointRef::Announced, PointRef::FinalElseAnnounced);
    let nics = item.networks(input);
    let promote = match spec
        .promote_test
        .and_then(|run| Some((run, test_machine_name(run, &item.view.machine.name).ok()?)))
    {
        // A test that could be started has a machine whose name was not too long.
        Some((run, test_machine)) => {
            AgentWork::PromoteTest { run, test_machine, grace: item.view.policy.shutdown_grace, point, nics }
        }
        None => AgentWork::PromotePoint { point, nics },
    };
    let promote = item
        .agent("promote", item.target, generation, Phase::Switch, promote)
        .after([switched])
        .on_error(on_error(Part::Machine));
    let machine = MachineRef::Named(item.view.machine.name.clone());
    let start = AgentWork::StartMachine { machine: machine.clone() };
    let start = item
        .agent("start", item.target, generation, Phase::Start, start)
        .after([promote.id.clone()])
        .on_error(on_error(Part::Machine))
        .records([Verb::FailedOver]);
    let proof = item.proof(spec, input, generation, &machine, &start);
    let routing = item.route(spec, input, &proof.last().unwrap_or(&start).id);
    let started = [Some(raise), fence, Some(promote), Some(start)].into_iter().flatten();
    started.chain(proof).chain(routing).collect()
}
