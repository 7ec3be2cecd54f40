//! Reverse replication: the side that was active before becomes the standby side (R-UF-5, R-FO-5).
//!
//! ```text
//!   (fence @ old side ─▶) keep its disks as a base ─▶ prepare replica @ old side ─▶ replicate @ active side ─▶ first point
//! ```
//!
//! Nothing here is past a point of no return: the machine runs on whatever happens. The base stays when reverse replication is given up,
//! because it is what makes the next attempt ship differences only.

use understudy_ids::{Generation, HostName, StepName};

use super::{ErrorPolicy, Operation, Part, Phase, Stage, Step, draft::Subject, errors::error_policy};
use crate::action::{AgentWork, PointRef};

pub(super) fn steps(items: &[Subject<'_>]) -> Vec<Step> {
    items.iter().flat_map(of_item).collect()
}

fn of_item(item: &Subject<'_>) -> Vec<Step> {
    let generation = item.view.generation;
    let fence = AgentWork::Fence { power_off: true };
    let fence = item.agent("fence", item.target, generation, Phase::Switch, fence);
    let sides =
        Sides { active: item.source, standby: item.target, endpoint: &item.target_endpoint, generation };
    let mut steps = vec![fence.clone()];
    let on_error = error_policy(Operation::ReverseReplicate, Part::Reverse);
    steps.extend(reverse(item, &sides, fence.id, Stage::Main, on_error));
    steps
}

/// Who replicates to whom.
pub(super) struct Sides<'a> {
    pub active: &'a HostName,
    pub standby: &'a HostName,
    /// Of the standby side's sink.
    pub endpoint: &'a str,
    pub generation: Generation,
}

/// The steps after `after`, with what undoes them.
pub(super) fn reverse(
    item: &Subject<'_>,
    sides: &Sides<'_>,
    after: StepName,
    stage: Stage,
    on_error: ErrorPolicy,
) -> Vec<Step> {
    let Sides { active, standby, endpoint, generation } = *sides;
    let on = |what: &str, host: &HostName, work| {
        item.agent(what, host, generation, Phase::Reverse, work).stage(stage).on_error(on_error)
    };
    let adopt = AgentWork::AdoptDisks { machine: item.view.machine.name.clone(), point: PointRef::NewBase };
    let adopt = on("adopt-disks", standby, adopt).after([after]);
    let prepare = on("prepare-reverse", standby, item.prepare_replica()).after([adopt.id.clone()]);
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
    vec![adopt, prepare, start, wait, stop]
}
