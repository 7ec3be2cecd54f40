//! A run at one instant, as a choice of points (R-UF-3).

use std::collections::BTreeMap;

use understudy_ids::{PointChoice, Problem};

use super::{
    PlanInput, RunSpec, check,
    draft::{ends, usable_points},
};
use crate::instant::{Instant, at_or_before};

/// The request with a point for each item that it names none for, and a problem for each that has none so old.
pub(super) fn resolved(spec: &RunSpec, input: &PlanInput) -> (RunSpec, Vec<Problem>) {
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
