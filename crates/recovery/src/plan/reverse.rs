//! Reverse replication, of its own or as the first phase of a failback: the side that was active before becomes the standby side (R-UF-5,
//! R-FO-5), or another host does (R-FB-3).
//!
//! ```text
//!   old side:      fence ─▶ keep its disks as a base ─┬▶ prepare replica @ new standby ─▶ replicate @ active side ─▶ first point
//!   another host:  (fence @ old side ─▶) take it ─────┘
//! ```
//!
//! Nothing here is past a point of no return: the machine runs on whatever happens. The base stays when reverse replication is given up,
//! because it is what makes the next attempt ship differences only; so does the choice of another host. What the old side has stays where it is:
//! it may be the only copy of something that nobody has looked at yet.

use understudy_ids::{Generation, HostName, StepName};

use super::{
    ErrorPolicy, Operation, Part, Phase, PlanInput, RunSpec, Stage, Step, draft::Subject,
    errors::error_policy, unplanned::FENCE_LIMIT,
};
use crate::action::{AgentWork, Internal, PointRef};

pub(super) fn steps(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    items.iter().flat_map(|item| of_item(spec, input, item)).collect()
}

pub(super) fn of_item(spec: &RunSpec, input: &PlanInput, item: &Subject<'_>) -> Vec<Step> {
    let (mut steps, after) = standing_by(spec, input, item);
    let adopts = has_disks(item, is_other(item));
    steps.extend(copy(spec.operation, item, &after, adopts));
    steps
}

fn is_other(item: &Subject<'_>) -> bool {
    *item.target != item.view.standby_host
}

/// The target is the item's standby side and knows it, and what comes after that.
pub(super) fn standing_by(
    spec: &RunSpec,
    input: &PlanInput,
    item: &Subject<'_>,
) -> (Vec<Step>, Vec<StepName>) {
    let generation = item.view.generation;
    let fence = |what: &str, host: &HostName| {
        item.agent(what, host, generation, Phase::Switch, AgentWork::Fence { power_off: true })
    };
    let is_other = is_other(item);
    let mut steps = Vec::new();
    let mut after = Vec::new();
    if is_other {
        let old = &item.view.standby_host;
        if input.hears(old) {
            let step = fence("fence-old-side", old);
            let step = step.on_error(error_policy(spec.operation, Part::OldSide));
            after.push(step.id.clone());
            steps.push(Step { time_out: Some(FENCE_LIMIT), ..step });
        }
        let take = take(item).after(after.iter().cloned());
        after.push(take.id.clone());
        steps.push(take);
    }
    // A host that never had the item has nothing that could start or be sent.
    if !is_other || item.view.sides.contains_key(item.target) {
        let fence = fence("fence", item.target).after(after.iter().cloned());
        after = vec![fence.id.clone()];
        steps.push(fence);
    }
    (steps, after)
}

/// The active side replicates to the target, which has a point.
pub(super) fn copy(operation: Operation, item: &Subject<'_>, after: &[StepName], adopts: bool) -> Vec<Step> {
    let generation = item.view.generation;
    let sides =
        Sides { active: item.source, standby: item.target, endpoint: &item.target_endpoint, generation };
    reverse(item, &sides, after, adopts, Stage::Main, error_policy(operation, Part::Copy))
}

fn take(item: &Subject<'_>) -> Step {
    let title = format!("Make {} the standby side of {}", item.target, item.name());
    let take = Internal::SetStandby {
        item: item.name().clone(),
        generation: item.view.generation,
        standby: item.target.clone(),
    };
    item.internal("set-standby", title, Phase::Reverse, take)
}

/// Whether the target has disks of the item, as a machine or as a base from an earlier attempt. One that was active and does not tell is taken
/// to have them: if it has none, that is an error and no reason for a full copy.
fn has_disks(item: &Subject<'_>, is_other: bool) -> bool {
    let has_base = item.view.points.iter().any(|point| point.host == *item.target && point.is_base);
    match item.view.sides.get(item.target) {
        Some(side) => side.machine.is_some() || has_base,
        None => !is_other,
    }
}

/// Who replicates to whom.
pub(super) struct Sides<'a> {
    pub active: &'a HostName,
    pub standby: &'a HostName,
    /// Of the standby side's sink.
    pub endpoint: &'a str,
    pub generation: Generation,
}

/// The steps after `after`, with what undoes them. `adopts`: the standby side has disks that become a base, so that only what differs is sent.
pub(super) fn reverse(
    item: &Subject<'_>,
    sides: &Sides<'_>,
    after: &[StepName],
    adopts: bool,
    stage: Stage,
    on_error: ErrorPolicy,
) -> Vec<Step> {
    let Sides { active, standby, endpoint, generation } = *sides;
    let on = |what: &str, host: &HostName, work| {
        item.agent(what, host, generation, Phase::Reverse, work).stage(stage).on_error(on_error)
    };
    let adopt = adopts.then(|| {
        let work =
            AgentWork::AdoptDisks { machine: item.view.machine.name.clone(), point: PointRef::NewBase };
        on("adopt-disks", standby, work).after(after.iter().cloned())
    });
    let ready: Vec<StepName> = adopt.as_ref().map_or(after.to_vec(), |adopt| vec![adopt.id.clone()]);
    let prepare = on("prepare-reverse", standby, item.prepare_replica()).after(ready);
    let start =
        on("start-reverse", active, item.start_replication(standby, endpoint)).after([prepare.id.clone()]);
    let wait = item
        .await_first_point(standby, generation, Phase::Reverse)
        .stage(stage)
        .on_error(on_error)
        .after([start.id.clone()]);
    // The machine goes on here: what guards it against starting in two places must stay.
    let stop = AgentWork::StopReplication { forget: false };
    let stop = item
        .agent("stop-reverse", active, generation, Phase::CleanUp, stop)
        .cleans_up(Stage::Undo, [start.id.clone()]);
    adopt.into_iter().chain([prepare, start, wait, stop]).collect()
}
