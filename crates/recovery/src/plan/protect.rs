//! Turning replication on and off.
//!
//! ```text
//!   protect:    prepare replica @ target ─▶ replicate @ source ─▶ first point
//!               cancelled: stop replicating ─▶ remove replica
//!   unprotect:  stop replicating @ source ─▶ (remove replica @ target) ─▶ forget the item
//!               cancelled before that: replicate again
//! ```

use understudy_ids::StepName;

use super::{Phase, RunSpec, Stage, Step, draft::Subject};
use crate::{
    action::{AgentWork, Internal},
    item::{ItemState, Verb},
};

pub(super) fn protect(items: &[Subject<'_>]) -> Vec<Step> {
    items.iter().flat_map(protect_item).collect()
}

fn protect_item(item: &Subject<'_>) -> Vec<Step> {
    let generation = item.view.generation;
    let prepare =
        item.agent("prepare-replica", item.target, generation, Phase::Prepare, item.prepare_replica());
    let start = item.start_replication(item.target, &item.target_endpoint);
    let start = item
        .agent("start-replication", item.source, generation, Phase::Replicate, start)
        .after([prepare.id.clone()]);
    let wait = item.await_first_point(item.target, generation, Phase::Replicate).after([start.id.clone()]);

    let stop = AgentWork::StopReplication { forget: true };
    let stop = item
        .agent("stop-replication", item.source, generation, Phase::CleanUp, stop)
        .cleans_up(Stage::Undo, [start.id.clone()]);
    let remove = item
        .agent("remove-replica", item.target, generation, Phase::CleanUp, AgentWork::RemoveReplica)
        .after([stop.id.clone()])
        .cleans_up(Stage::Undo, [prepare.id.clone()]);
    vec![prepare, start, wait, stop, remove]
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
