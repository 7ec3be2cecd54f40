//! What stands for a choice of points: one instant for the whole run (R-UF-3), or the machines of a test (R-TF-7).

use std::collections::BTreeMap;

use understudy_ids::{PointChoice, Problem, RunId};

use super::{
    Operation, PlanInput, RunSpec, check,
    draft::{ends, usable_points},
};
use crate::instant::{Instant, at_or_before};

/// The request with a point for each item that it names none for, and a problem for each that has none so old.
pub(super) fn resolved(spec: &RunSpec, input: &PlanInput) -> (RunSpec, Vec<Problem>) {
    match spec.promote_test {
        Some(run) => of_test(spec, input, run),
        None => of_instant(spec, input),
    }
}

/// The points are those that the test's machines were made from.
fn of_test(spec: &RunSpec, input: &PlanInput, run: RunId) -> (RunSpec, Vec<Problem>) {
    let mut problems = Vec::new();
    let others = [
        ("points", !spec.points.is_empty()),
        ("instant", spec.instant.is_some()),
        // What would be shipped then comes behind the point that the test stands on.
        ("synchronise_within", spec.synchronise_within.is_some()),
    ];
    for (option, _) in others.into_iter().filter(|(_, given)| *given) {
        let message = "the machines of a test are made already, and of one point each";
        let remedy = "Leave it out, or fail over without promoting the test.";
        problems.push(Problem::new("OPTION_NOT_APPLICABLE", format!("spec.{option}"), message, remedy));
    }
    let mut resolved = RunSpec { instant: None, synchronise_within: None, ..spec.clone() };
    let test =
        input.open_runs.iter().find(|open| open.id == run && open.operation == Operation::TestFailover);
    let Some(test) = test.filter(|test| !test.rehearsed.is_empty()) else {
        let message = format!("jobs/{run} is no test that waits for its completion");
        let remedy = "Name a test whose machines run: understudy run list.";
        problems.push(Problem::new("TEST_NOT_FOUND", "spec.promote_test", message, remedy));
        return (resolved, problems);
    };
    for item in &spec.items {
        match test.rehearsed.get(item) {
            Some(seq) => {
                resolved.points.insert(item.clone(), PointChoice::Seq(*seq));
            }
            None => {
                let message = format!("the test jobs/{run} has no machine of it");
                let remedy = "Name items of the test only, and fail the others over in a run of their own.";
                problems.push(Problem::new("ITEM_NOT_IN_TEST", check::subject(item), message, remedy));
            }
        }
    }
    (resolved, problems)
}

fn of_instant(spec: &RunSpec, input: &PlanInput) -> (RunSpec, Vec<Problem>) {
    let Some(wanted) = spec.instant else { return (spec.clone(), Vec::new()) };
    let of_run = |name| spec.items.contains(name) && !spec.points.contains_key(name);
    let points: BTreeMap<_, _> = input
        .items
        .iter()
        .filter(|item| of_run(&item.name))
        .map(|item| {
            let usable = usable_points(item, ends(spec, item).1);
            (item.name.clone(), usable.iter().map(|point| (point.seq, point.instant)).collect())
        })
        .collect();
    let (mut spec, mut problems) = (spec.clone(), Vec::new());
    for (item, seq) in at_or_before(&points, wanted) {
        match (seq, wanted) {
            (Some(seq), _) => {
                spec.points.insert(item, PointChoice::Seq(seq));
            }
            // That it has no point at all is told by the rules about points.
            (None, Instant::Latest) => {}
            (None, Instant::AtOrBefore(_)) => {
                let message = "none of its recovery points is so old".to_owned();
                let remedy = "Choose a later instant, or a point of its own for this item.";
                problems.push(Problem::new("NO_POINT_AT_INSTANT", check::subject(&item), message, remedy));
            }
        }
    }
    (spec, problems)
}
