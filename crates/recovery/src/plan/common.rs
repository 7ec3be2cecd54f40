//! One instant for the items of a consistency group (R-REP-12, R-UF-3).
//!
//! ```text
//!   items of a group that no point was chosen for ─▶ newest instant at which each has a point that can be used ─▶ their default
//!                                                     └ none: the latest of each, and a notice
//!   items of the group that are not asked for ─▶ a notice
//! ```
//! It settles what "the latest point" means before anything is planned, and changes nothing else.

use std::collections::BTreeMap;

use understudy_ids::{GroupName, ItemName, PointSeq};
use understudy_replication::joint::newest_shared;

use super::{
    ItemView, Operation, PlanInput, PointView, RunSpec,
    draft::{ends, usable_points},
};

/// The input with the common points of its groups' items, and what there is to say about them.
pub(super) fn settle(spec: &RunSpec, input: &PlanInput) -> (PlanInput, Vec<String>) {
    let (mut settled, mut notices) = (input.clone(), Vec::new());
    if !matches!(spec.operation, Operation::TestFailover | Operation::UnplannedFailover) {
        return (settled, notices);
    }
    for (group, items) in by_group(&input.items) {
        notices.extend(left_out(group, &items));
        let free: Vec<&ItemView> =
            items.into_iter().filter(|item| !spec.points.contains_key(&item.name)).collect();
        if free.len() < 2 {
            continue;
        }
        match common(spec, &free) {
            Some(points) => {
                // Items of another group of the run keep what was found for theirs.
                for item in &mut settled.items {
                    item.common_point = points.get(&item.name).copied().or(item.common_point);
                }
            }
            None => {
                let names = names(free.iter().map(|item| &item.name));
                notices.push(format!("{names} of consistency group {group} have no instant in common; the latest point of each is used"));
            }
        }
    }
    (settled, notices)
}

fn by_group(items: &[ItemView]) -> BTreeMap<&GroupName, Vec<&ItemView>> {
    let mut groups: BTreeMap<&GroupName, Vec<&ItemView>> = BTreeMap::new();
    for item in items {
        if let Some(membership) = &item.group {
            groups.entry(&membership.group).or_default().push(item);
        }
    }
    groups
}

/// The point of each of these items at the newest instant that they share.
fn common(spec: &RunSpec, items: &[&ItemView]) -> Option<BTreeMap<ItemName, PointSeq>> {
    let usable: Vec<Vec<&PointView>> =
        items.iter().map(|item| usable_points(item, ends(spec, item).1)).collect();
    let joints: Vec<Vec<_>> =
        usable.iter().map(|points| points.iter().map(|point| point.joint.as_ref()).collect()).collect();
    let (_, found) = newest_shared(&joints)?;
    let of_items = items.iter().zip(&usable).zip(found);
    Some(of_items.map(|((item, points), index)| (item.name.clone(), points[index].seq)).collect())
}

fn left_out(group: &GroupName, items: &[&ItemView]) -> Option<String> {
    let all = items.iter().filter_map(|item| item.group.as_ref()).flat_map(|membership| &membership.members);
    let missing = names(all.filter(|member| !items.iter().any(|item| item.name == **member)));
    (!missing.is_empty()).then(|| {
        format!("{missing} of consistency group {group} stays where it is; its points are consistent with the others' only together")
    })
}

fn names<'a>(names: impl Iterator<Item = &'a ItemName>) -> String {
    let names: std::collections::BTreeSet<&ItemName> = names.collect();
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
