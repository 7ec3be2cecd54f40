//! Another recovery point before the commit (R-FO-4, R-UF-3).
//!
//! ```text
//!   shut down what runs ─▶ set aside what it wrote ─▶ promote the other point ─▶ start ─┬▶ probes ─▶ screenshot
//!                                                                                       └▶ remove what lies aside
//! ```
//!
//! The sides do not change, so the generation does not: the old side stays fenced, and the target may start what it makes.
//! An error ends the item's part, as in the failover itself; what lies aside stays until another machine has been started.

use std::collections::BTreeMap;

use understudy_ids::{ItemName, PointChoice, Problem};

use super::{AmendedItem, Amending};
use crate::{
    action::{Action, AgentWork, MachineRef, NetworkRef, PointRef},
    item::{ItemState, Verb},
    plan::{
        Estimate, Operation, Part, Phase, PlannedItem, PointView, RunSpec, Step, check,
        draft::{Subject, chosen_point},
        error_policy,
    },
    run,
};

type Points = BTreeMap<ItemName, PointChoice>;

/// The choice in the form in which a failover's is checked.
fn as_spec(item: &ItemName, points: &Points) -> RunSpec {
    let points = points.iter().filter(|(of, _)| *of == item).map(|(of, choice)| (of.clone(), *choice));
    RunSpec { points: points.collect(), ..RunSpec::new(Operation::UnplannedFailover, vec![item.clone()]) }
}

pub(super) fn problems(amending: &Amending<'_>, points: &Points) -> Vec<Problem> {
    let mut found = Vec::new();
    if points.is_empty() {
        let remedy = "Name at least one item and its point.";
        found.push(Problem::new("NO_POINTS", "change.points", "no recovery point is chosen", remedy));
    }
    for item in points.keys() {
        match (amending.run.plan.item(item), amending.view(item)) {
            (Some(planned), Some(_)) => found.extend(of_item(amending, planned, points)),
            _ => {
                let message = format!("{item} is not part of the run");
                let remedy = "Name items of the run only.";
                found.push(Problem::new("ITEM_NOT_IN_RUN", check::subject(item), message, remedy));
            }
        }
    }
    found
}

fn of_item(amending: &Amending<'_>, planned: &PlannedItem, points: &Points) -> Vec<Problem> {
    let Some(view) = amending.view(&planned.item) else { return Vec::new() };
    let (source, target) = (&planned.source_host, &planned.target_host);
    let mut found: Vec<Problem> = amending.host_not_connected(planned).into_iter().collect();
    found.extend(check::of_point(&as_spec(&planned.item, points), amending.input, view, source, target));
    let chosen = chosen(amending, planned, points).map(|point| point.seq);
    if chosen.is_some() && runs(amending, planned) && chosen == amending.used(&planned.item) {
        let message = format!("{} runs from that recovery point already", planned.machine);
        let remedy = "Choose another one, or leave the item out.";
        found.push(Problem::new("POINT_IN_USE", check::subject(&planned.item), message, remedy));
    }
    found
}

/// Whether the machine was started at the target: then what it wrote must not be lost before another one runs.
fn runs(amending: &Amending<'_>, planned: &PlannedItem) -> bool {
    let progress = amending.run.items.get(&planned.item);
    progress.is_some_and(|progress| progress.state == ItemState::CommitPending)
}

fn chosen<'a>(amending: &Amending<'a>, planned: &PlannedItem, points: &Points) -> Option<&'a PointView> {
    let view = amending.view(&planned.item)?;
    chosen_point(&as_spec(&planned.item, points), view, &planned.target_host)
}

pub(super) fn draft(amending: &Amending<'_>, points: &Points) -> (Vec<AmendedItem>, Vec<Step>) {
    let (mut items, mut steps) = (Vec::new(), Vec::new());
    for planned in amending.run.plan.items.iter().filter(|planned| points.contains_key(&planned.item)) {
        let (Some(subject), Some(point)) = (amending.subject(planned), chosen(amending, planned, points))
        else {
            continue;
        };
        let before = amending.run.plan.estimates.get(&planned.item).cloned().unwrap_or_default();
        let estimate = Estimate {
            point: Some(point.seq),
            point_instant: Some(point.instant),
            point_consistency: Some(point.consistency),
            // What was written until the failover, which is when the other side was given up.
            expected_loss: Some(run::lost_until(amending.run, &planned.item).since(point.instant)),
            ..before
        };
        let gives_up = amending.gives_up(&planned.item);
        let item = planned.item.clone();
        items.push(AmendedItem { item, estimate: Some(estimate), gives_up, connections: None });
        steps.extend(steps_of(amending, planned, &subject, point));
    }
    (items, steps)
}

fn steps_of(
    amending: &Amending<'_>,
    planned: &PlannedItem,
    subject: &Subject<'_>,
    point: &PointView,
) -> Vec<Step> {
    let on_error = |part| error_policy(amending.run.plan.operation, part);
    let step = |what: &str, phase, work| {
        subject
            .agent(&amending.what(what), subject.target, planned.generation, phase, work)
            .on_error(on_error(Part::Machine))
    };
    let mut steps: Vec<Step> = Vec::new();
    let mut last = amending.switched(&planned.item);
    let mut push = |next: Step| {
        let next = next.after(last.clone());
        last = vec![next.id.clone()];
        steps.push(next);
    };
    if amending.is_defined(planned) {
        push(step("stop", Phase::Switch, stop(planned, subject)));
    }
    let used = amending.used(&planned.item).filter(|_| runs(amending, planned));
    if let Some(used) = used {
        let work = AgentWork::SetAside { machine: planned.machine.clone(), point: used };
        push(step("set-aside", Phase::Switch, work));
    }
    let nics = nics(amending, planned);
    push(step("promote", Phase::Switch, AgentWork::PromotePoint { point: PointRef::Seq(point.seq), nics }));
    let machine = MachineRef::Named(planned.machine.clone());
    let start = step("start", Phase::Start, AgentWork::StartMachine { machine }).records([Verb::FailedOver]);
    push(start);
    let drop = step("drop-aside", Phase::Start, AgentWork::DropAside).after(last.clone());
    // As it was asked before: what its run was told to ask is what proves the other point, too.
    for (probe, n) in run::last_probes(amending.run, &planned.item).into_iter().zip(1..) {
        let Action::Agent { work, .. } = &probe.action else { continue };
        let next = step(&format!("probe-{n}"), Phase::Probe, work.clone()).after(last);
        last = vec![next.id.clone()];
        steps.push(next.on_error(on_error(Part::Proof)));
    }
    let machine = MachineRef::Named(planned.machine.clone());
    let look = step("screenshot", Phase::Probe, AgentWork::TakeScreenshot { machine }).after(last);
    steps.push(look.on_error(on_error(Part::Proof)));
    steps.push(drop.on_error(on_error(Part::Final)));
    steps
}

/// What runs at the target is asked to end, and powered off if it does not: what it wrote is given up in either case.
pub(super) fn stop(planned: &PlannedItem, subject: &Subject<'_>) -> AgentWork {
    AgentWork::ShutDownMachine {
        machine: planned.machine.clone(),
        grace: subject.view.policy.shutdown_grace,
        then_power_off: true,
    }
}

/// The run's own: its addresses are reserved.
fn nics(amending: &Amending<'_>, planned: &PlannedItem) -> Vec<NetworkRef> {
    let promoted =
        |work: &AgentWork| matches!(work, AgentWork::PromotePoint { .. } | AgentWork::PromoteTest { .. });
    match amending.last_work(&planned.item, promoted) {
        Some(AgentWork::PromotePoint { nics, .. } | AgentWork::PromoteTest { nics, .. }) => nics,
        _ => Vec::new(),
    }
}
