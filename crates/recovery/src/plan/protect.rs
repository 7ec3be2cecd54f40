//! Turning replication on and off.
//!
//! ```text
//!   protect:    prepare replica @ target ─▶ replicate @ source ─▶ first point
//!               cancelled: stop replicating ─▶ remove replica
//!   … seeded:   (write to a medium @ source ─▶ wait: it is carried over) ─▶ prepare ─▶ read it @ target ─▶ replicate, what differs
//!               cancelled: as above, and what the medium got is removed
//!   unprotect:  stop replicating @ source ─▶ (remove replica @ target) ─▶ forget the item
//!               cancelled before that: replicate again
//! ```

use understudy_ids::StepName;

use super::{
    Phase, RunSpec, Seed, Stage, Step,
    draft::{self, Subject, step_name},
};
use crate::{
    action::{AgentWork, Internal, OperatorWait},
    item::{ItemState, Verb},
};

pub(super) fn protect(spec: &RunSpec, items: &[Subject<'_>]) -> Vec<Step> {
    let exports: Vec<Step> = match spec.seed.as_ref().filter(|seed| seed.export) {
        Some(seed) => items.iter().flat_map(|item| export(item, seed)).collect(),
        None => Vec::new(),
    };
    let written = exports.iter().filter(|step| step.stage == Stage::Main).map(|step| step.id.clone());
    let title = "Wait until the medium is at the target's host";
    let wait = || draft::wait_for(step_name("deliver-seed"), title, OperatorWait::DeliverSeed);
    let delivered = (!exports.is_empty()).then(|| wait().after(written));
    let after: Vec<StepName> = delivered.iter().map(|step| step.id.clone()).collect();
    let protected = items.iter().flat_map(|item| protect_item(item, spec.seed.as_ref(), &after));
    let protected: Vec<Step> = protected.collect();
    exports.into_iter().chain(delivered).chain(protected).collect()
}

/// Written at one instant, whatever the medium then takes to arrive; what changes meanwhile is shipped by the first cycle.
fn export(item: &Subject<'_>, seed: &Seed) -> [Step; 2] {
    let generation = item.view.generation;
    let machine = item.view.machine.name.clone();
    let write = AgentWork::ExportSeed { machine, disks: item.view.disks.clone(), seed: seed.name.clone() };
    let write = item.agent("export-seed", item.source, generation, Phase::Prepare, write);
    let remove = AgentWork::RemoveSeed { seed: seed.name.clone() };
    let remove = item
        .agent("remove-seed", item.source, generation, Phase::CleanUp, remove)
        .cleans_up(Stage::Undo, [write.id.clone()]);
    [write, remove]
}

fn protect_item(item: &Subject<'_>, seed: Option<&Seed>, after: &[StepName]) -> Vec<Step> {
    let generation = item.view.generation;
    let prepare = item
        .agent("prepare-replica", item.target, generation, Phase::Prepare, item.prepare_replica())
        .after(after.iter().cloned());
    let import = seed.map(|seed| {
        let read = AgentWork::ImportSeed { disks: item.sizes(), seed: seed.name.clone() };
        let read = item.agent("import-seed", item.target, generation, Phase::Prepare, read);
        read.after([prepare.id.clone()])
    });
    let ready = import.as_ref().unwrap_or(&prepare).id.clone();
    let start = item.start_replication(item.target, &item.target_endpoint);
    let start =
        item.agent("start-replication", item.source, generation, Phase::Replicate, start).after([ready]);
    let wait = item.await_first_point(item.target, generation, Phase::Replicate).after([start.id.clone()]);

    let stop = AgentWork::StopReplication { forget: true };
    let stop = item
        .agent("stop-replication", item.source, generation, Phase::CleanUp, stop)
        .cleans_up(Stage::Undo, [start.id.clone()]);
    let remove = item
        .agent("remove-replica", item.target, generation, Phase::CleanUp, AgentWork::RemoveReplica)
        .after([stop.id.clone()])
        .cleans_up(Stage::Undo, [prepare.id.clone()]);
    [Some(prepare), import, Some(start), Some(wait), Some(stop), Some(remove)].into_iter().flatten().collect()
}

/// Nothing is deleted before every item has let go of its replication, so that until then all of it can be taken back.
pub(super) fn unprotect(spec: &RunSpec, items: &[Subject<'_>]) -> Vec<Step> {
    let mut steps: Vec<Step> = items.iter().map(stop).collect();
    let stopped: Vec<StepName> = steps.iter().map(|step| step.id.clone()).collect();
    for item in items {
        steps.extend(forget(spec, item, &stopped));
    }
    steps.extend(items.iter().filter(|item| item.view.state == ItemState::Protected).map(resume));
    steps
}

fn stop(item: &Subject<'_>) -> Step {
    let stop = AgentWork::StopReplication { forget: true };
    item.agent("stop-replication", item.source, item.view.generation, Phase::Replicate, stop)
}

fn forget(spec: &RunSpec, item: &Subject<'_>, stopped: &[StepName]) -> Vec<Step> {
    let record = Internal::Record { item: item.name().clone() };
    let forget = item.internal("forget", format!("Forget {}", item.name()), Phase::Commit, record);
    let forget = forget.records([Verb::Unprotected]);
    if !spec.delete_replica {
        return vec![forget.after(stopped.iter().cloned())];
    }
    let remove = item
        .agent("remove-replica", item.target, item.view.generation, Phase::Commit, AgentWork::RemoveReplica)
        .after(stopped.iter().cloned());
    let forget = forget.after([remove.id.clone()]);
    vec![remove, forget]
}

fn resume(item: &Subject<'_>) -> Step {
    let again = item.start_replication(item.target, &item.target_endpoint);
    item.agent("resume-replication", item.source, item.view.generation, Phase::CleanUp, again)
        .cleans_up(Stage::Undo, [item.id("stop-replication")])
}
