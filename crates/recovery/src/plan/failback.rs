//! Failback (R-FB): replication in reverse and a planned failover behind it, as one run.
//!
//! ```text
//!   before:  per item that is not protected: reverse replication, while the machine runs ─▶ first point
//!            all of them ─▶ wait: complete failover, while ordinary cycles keep the copies current
//!            completed ─▶ the steps of a planned failover, planned from the facts of that moment
//!   during:  per item: (another host takes the place) fence @ target ─▶ shut down ─▶ copy everything ─▶ as a planned failover from its last
//!            changes on
//! ```
//!
//! Until the switch of the sides the machine can go on where it is: cancelling during the first phase leaves an item as it was, or protected in
//! reverse where its copy is whole, and so does cancelling from then on. What the old side has is a base below what is copied, or is not touched.

use understudy_ids::StepName;

use super::{
    Operation, PlanInput, RunSpec, Stage, Step, Synchronise,
    draft::{self, Subject, step_name},
    planned, reverse,
};
use crate::{action::OperatorWait, item::ItemState};

/// Of the steps that copy: replication in reverse after the commit has steps of the same kinds.
const COPY: &str = "copy-";

pub(super) fn steps(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    match spec.synchronise {
        Synchronise::Before => before(spec, input, items),
        Synchronise::During => planned::steps(spec, input, items, &[]),
    }
}

fn before(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    let copied = items.iter().filter(|item| item.view.state != ItemState::Protected);
    let mut steps: Vec<Step> =
        copied.flat_map(|item| reverse::of_item(spec, input, &item.prefixed(COPY))).collect();
    let main = steps.iter().filter(|step| step.stage == Stage::Main);
    let whole: Vec<StepName> = main.map(|step| step.id.clone()).collect();
    let title = "Wait until somebody completes the failover";
    steps.push(draft::wait_for(waits_at(), title, OperatorWait::CompleteFailover).after(whole));
    steps
}

fn waits_at() -> StepName {
    step_name("complete-failover")
}

/// What the run gets when it is completed.
pub(super) fn completed(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    planned::steps(spec, input, items, &[waits_at()])
}

/// With the machine still running, after `begun`: the target is the standby side, and what the shut-down comes after.
pub(super) fn standing_by(
    spec: &RunSpec,
    input: &PlanInput,
    item: &Subject<'_>,
    begun: &[StepName],
) -> (Vec<Step>, Vec<StepName>) {
    let (mut steps, after) = reverse::standing_by(spec, input, &item.prefixed(COPY));
    for step in steps.iter_mut().filter(|step| step.after.is_empty()) {
        step.after = begun.to_vec();
    }
    (steps, after)
}

/// Of a machine that is off, after its shut-down.
pub(super) fn copy(spec: &RunSpec, item: &Subject<'_>, shut_down: &StepName) -> Vec<Step> {
    reverse::copy(spec.operation, &item.prefixed(COPY), std::slice::from_ref(shut_down), false)
}

/// What whoever looks at the plan of a failback has to know of what comes behind it.
pub(super) fn notices(spec: &RunSpec, input: &PlanInput) -> Vec<String> {
    if spec.operation != Operation::Failback || spec.copies_while_off() {
        return Vec::new();
    }
    let asked = input.items.iter().filter(|item| spec.items.contains(&item.name));
    let protected = asked.filter(|item| item.state == ItemState::Protected);
    let protected: Vec<&str> = protected.map(|item| item.name.as_str()).collect();
    let waits = "with whole copies the run waits until somebody completes the failover, which is planned then: it shuts the machines down, ships the \
                 rest and starts them at the target. Until it has, cancelling leaves them running where they are, protected in reverse";
    let there = (!protected.is_empty()).then(|| {
        format!("{} is protected in that direction already, and is not copied again", protected.join(", "))
    });
    there.into_iter().chain([waits.to_owned()]).collect()
}
