//! Turning replication on and off.
//!
//! ```text
//!   protect:    prepare replica @ target ─▶ replicate @ source ─▶ first point
//!               cancelled: stop replicating ─▶ remove replica
//!   unprotect:  stop replicating @ source ─▶ (remove replica @ target) ─▶ forget the item
//!               cancelled before that: replicate again
//! ```

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

pub(super) fn unprotect(spec: &RunSpec, items: &[Subject<'_>]) -> Vec<Step> {
    items.iter().flat_map(|item| unprotect_item(spec, item)).collect()
}

fn unprotect_item(spec: &RunSpec, item: &Subject<'_>) -> Vec<Step> {
    let generation = item.view.generation;
    let stop = AgentWork::StopReplication { forget: true };
    let stop = item.agent("stop-replication", item.source, generation, Phase::Replicate, stop);
    let mut last = stop.id.clone();
    let mut steps = vec![stop.clone()];
    if spec.delete_replica {
        let remove = item
            .agent("remove-replica", item.target, generation, Phase::Commit, AgentWork::RemoveReplica)
            .after([last]);
        last = remove.id.clone();
        steps.push(remove);
    }
    let title = format!("Forget {}", item.name());
    let forget = item
        .internal("forget", title, Phase::Commit, Internal::Record { item: item.name().clone() })
        .after([last])
        .records([Verb::Unprotected]);
    steps.push(forget);
    if item.view.state == ItemState::Protected {
        let again = item.start_replication(item.target, &item.target_endpoint);
        let again = item
            .agent("resume-replication", item.source, generation, Phase::CleanUp, again)
            .cleans_up(Stage::Undo, [stop.id]);
        steps.push(again);
    }
    steps
}
