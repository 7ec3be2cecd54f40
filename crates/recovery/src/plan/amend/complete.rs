//! Completing a failback whose copies are whole (R-FB-2): a planned failover, planned from what is so at that moment.
//!
//! The machine may have got another NIC, a disk or another place to be connected to since the run was started, so nothing of this was decided then.

use understudy_ids::Problem;

use super::{AmendedItem, Amending};
use crate::plan::{PlanInput, RunSpec, Step, check, draft::Subject, failback};

pub(super) fn problems(amending: &Amending<'_>) -> Vec<Problem> {
    check::problems(&asked(amending), &alone(amending))
}

pub(super) fn draft(amending: &Amending<'_>) -> (Vec<AmendedItem>, Vec<Step>) {
    let spec = asked(amending);
    let subjects: Vec<Subject<'_>> =
        spec.items.iter().filter_map(|name| Subject::of(&spec, amending.input, name)).collect();
    let item = |subject: &Subject<'_>| AmendedItem {
        item: subject.name().clone(),
        estimate: None,
        gives_up: None,
        connections: Some(subject.connections(amending.input)),
    };
    let items = subjects.iter().map(item).collect();
    (items, failback::completed(&spec, amending.input, &subjects))
}

/// The host that was chosen is the standby side by now.
fn asked(amending: &Amending<'_>) -> RunSpec {
    RunSpec { standby_host: None, ..amending.run.spec.clone() }
}

/// The run is not in its own way.
fn alone(amending: &Amending<'_>) -> PlanInput {
    let mut input = amending.input.clone();
    input.open_runs.retain(|open| open.id != amending.run.id);
    input
}
