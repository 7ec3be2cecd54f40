//! What a run did to each item, derived from its steps (R-PF-2, R-UF-2, R-JOB-4).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, Generation, ItemName, MachineName, PointSeq, Problem, UnixMicros};

use super::{Run, RunState, RunVerb, ends_test, settle};
use crate::{
    action::{Action, AgentWork, Internal, StepResult},
    plan::{Operation, Phase, PlannedItem, Stage, Step},
    seconds,
};

/// What came of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemOutcome {
    pub item: ItemName,
    pub generation: Generation,
    /// The point that was used.
    pub point: Option<PointSeq>,
    #[serde(rename = "point_instant_us")]
    pub point_instant: Option<UnixMicros>,
    /// Planned: from the source's stop until the machine was back at the target: answered, or ran where nobody asked it.
    #[serde(rename = "downtime_seconds", with = "seconds")]
    pub downtime: Option<Duration>,
    /// Unplanned: from the point's instant to the start of the run, or to the switch of the sides where the run tried to synchronise
    /// first. At most this much is lost (invariant 8).
    #[serde(rename = "loss_span_seconds", with = "seconds")]
    pub loss_span: Option<Duration>,
    /// Planned: both sides, disk by disk.
    pub disks: Vec<DiskComparison>,
    /// The machine's name at the target.
    pub machine: MachineName,
    /// The first address that the plan gave it.
    pub address: Option<String>,
    pub error: Option<Problem>,
}

/// Roots of one disk as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskComparison {
    pub disk: DiskName,
    pub source_root: String,
    pub target_root: String,
    pub equal: bool,
}

/// One outcome per item, in the plan's order.
pub fn outcomes(run: &Run) -> Vec<ItemOutcome> {
    run.plan.items.iter().map(|item| outcome(run, item)).collect()
}

/// Of a test that waits for its completion: the items whose machines it has, and from which points. Empty for every other run.
pub fn rehearsed(run: &Run) -> BTreeMap<ItemName, PointSeq> {
    if ends_test(run) != Some(RunVerb::CompleteTest) {
        return BTreeMap::new();
    }
    let made = |item: &ItemName| Some((item.clone(), used_point(run, item)?.seq));
    run.plan.items.iter().filter_map(|planned| made(&planned.item)).collect()
}

fn outcome(run: &Run, planned: &PlannedItem) -> ItemOutcome {
    let used = used_point(run, &planned.item);
    let back = machine_back(run, &planned.item);
    let stopped = run.items.get(&planned.item).and_then(|progress| progress.stopped);
    let error = of_item(run, &planned.item).find_map(|step| run.steps[&step.id].error.as_ref());
    let unplanned = run.plan.operation == Operation::UnplannedFailover && !has_come_back(run);
    let address = planned.connections.iter().map(|c| &c.address).find(|address| !address.is_empty());
    ItemOutcome {
        item: planned.item.clone(),
        generation: if has_come_back(run) { planned.generation.next() } else { planned.generation },
        point: used.as_ref().map(|used| used.seq),
        point_instant: used.as_ref().map(|used| used.instant),
        downtime: back.zip(stopped).map(|(back, stopped)| back.since(stopped)),
        loss_span: used.as_ref().filter(|_| unplanned).map(|used| loss(run, &planned.item, used)),
        disks: comparisons(run, &planned.item),
        machine: used.map_or_else(|| planned.machine.clone(), |used| used.machine),
        address: address.cloned(),
        error: error.map(|error| error.problem.clone()),
    }
}

/// The machines run where they ran before: nothing of theirs is lost, but what was written at the target since.
fn has_come_back(run: &Run) -> bool {
    run.ended.is_some_and(|ended| ended.state == RunState::RolledBack)
}

fn of_item<'a>(run: &'a Run, item: &'a ItemName) -> impl Iterator<Item = &'a Step> {
    run.plan.steps.iter().filter(move |step| step.item.as_ref() == Some(item))
}

/// What the machine at the target was made from.
struct Used {
    machine: MachineName,
    seq: PointSeq,
    instant: UnixMicros,
}

fn used_point(run: &Run, item: &ItemName) -> Option<Used> {
    // Of several, the last: another point was chosen before the commit.
    let made = of_item(run, item).filter_map(|step| match run.steps[&step.id].result.as_ref()? {
        StepResult::MachineCreated { machine, seq, instant } => {
            Some(Used { machine: machine.clone(), seq: *seq, instant: *instant })
        }
        _ => None,
    });
    made.last()
}

/// What was shipped by the run itself, from a machine that was off, is everything.
fn loss(run: &Run, item: &ItemName, used: &Used) -> Duration {
    let shipped = of_item(run, item).any(|step| {
        let status = &run.steps[&step.id];
        matches!(&status.result, Some(StepResult::FinalPoint { seq, .. }) if *seq == used.seq)
    });
    if shipped { Duration::ZERO } else { lost_until(run, item).since(used.instant) }
}

/// Until when the item's source counts as having written: until the run was started, or, where the run spoke to it first, until the sides
/// switched.
pub fn lost_until(run: &Run, item: &ItemName) -> UnixMicros {
    let tried = of_item(run, item).any(|step| {
        step.stage == Stage::Main
            && matches!(step.action, Action::Agent { work: AgentWork::SyncFinal { .. }, .. })
    });
    let raised = of_item(run, item).find_map(|step| match &step.action {
        Action::Internal(Internal::RaiseGeneration { .. }) => run.steps[&step.id].ended,
        _ => None,
    });
    raised.filter(|_| tried).unwrap_or(run.started)
}

/// Since when the machine has run at the target: the one that was made there last.
pub fn runs_since(run: &Run, item: &ItemName) -> Option<UnixMicros> {
    let started = of_item(run, item).filter_map(|step| match run.steps[&step.id].result.as_ref()? {
        StepResult::MachineStarted { time } if step.phase == Phase::Start => Some(*time),
        _ => None,
    });
    started.last()
}

/// When the machine had answered everything at the target; where it was not asked, or did not answer all of it, when it ran there.
pub(super) fn machine_back(run: &Run, item: &ItemName) -> Option<UnixMicros> {
    let answered = probes(run, item).iter().find_map(|asked| {
        let answers = asked.iter().map(|step| {
            let status = &run.steps[&step.id];
            let passed = matches!(status.result, Some(StepResult::Probe { reachable: true, .. }));
            status.ended.filter(|_| passed)
        });
        let answers: Option<Vec<UnixMicros>> = answers.collect();
        answers?.into_iter().max()
    });
    answered.or_else(|| machine_started(run, item))
}

/// What the machine that was started last was asked.
pub(crate) fn last_probes<'a>(run: &'a Run, item: &'a ItemName) -> Vec<&'a Step> {
    probes(run, item).pop().unwrap_or_default()
}

/// What the item's machine is asked after each of its starts.
fn probes<'a>(run: &'a Run, item: &'a ItemName) -> Vec<Vec<&'a Step>> {
    let steps: Vec<&Step> = of_item(run, item).collect();
    let works = |step: &Step, is: fn(&AgentWork) -> bool| matches!(&step.action, Action::Agent { work, .. } if is(work));
    let asks = |step: &&Step| works(step, |work| matches!(work, AgentWork::ProbeMachine { .. }));
    let after_starts = steps.split(|step| works(step, |work| matches!(work, AgentWork::StartMachine { .. })));
    let asked = after_starts.map(|steps| steps.iter().copied().filter(asks).collect::<Vec<_>>());
    asked.filter(|asked| !asked.is_empty()).collect()
}

/// When the machine ran at the target. A source machine that an undo step started again is none of that.
fn machine_started(run: &Run, item: &ItemName) -> Option<UnixMicros> {
    of_item(run, item).filter(|step| step.stage == Stage::Main).find_map(|step| {
        match run.steps[&step.id].result.as_ref()? {
            StepResult::MachineStarted { time } => Some(*time),
            _ => None,
        }
    })
}

fn comparisons(run: &Run, item: &ItemName) -> Vec<DiskComparison> {
    let compared = of_item(run, item).find_map(|step| match &step.action {
        Action::Internal(Internal::CompareDigests { source, target, .. }) => Some((source, target)),
        _ => None,
    });
    let Some((source, target)) = compared else { return Vec::new() };
    let at_target = settle::roots(run, target);
    let sources = settle::roots(run, source).iter();
    sources
        .filter_map(|disk| {
            let other = at_target.iter().find(|other| other.disk == disk.disk)?;
            Some(DiskComparison {
                disk: disk.disk.clone(),
                source_root: disk.root.clone(),
                target_root: other.root.clone(),
                equal: disk.root == other.root,
            })
        })
        .collect()
}
