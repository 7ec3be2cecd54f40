//! Which items of a plan a run is about, and in which direction it goes (R-FO-3).
//!
//! ```text
//!   all active at one site ─▶ all of them, from there      active at both ─▶ from_site says from where; the others stay
//! ```

use std::collections::{BTreeMap, BTreeSet};

use understudy_ids::{ItemName, Problem, SiteName};

use super::RecoveryPlan;
use crate::{item::ItemState, plan::Operation};

/// Where an item stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub state: ItemState,
    pub active_site: SiteName,
    pub standby_site: SiteName,
}

impl Standing {
    /// An unplanned failover that failed has switched the sides already, and is tried again towards the one that is active now.
    fn from(&self, operation: Operation) -> &SiteName {
        let switched = operation == Operation::UnplannedFailover && self.state == ItemState::Failed;
        if switched { &self.standby_site } else { &self.active_site }
    }
}

/// The items of the plan that a run takes, in the plan's order, and what there is to say about the others.
///
/// # Errors
/// Every reason why it cannot be said which they are.
pub fn chosen(
    plan: &RecoveryPlan,
    operation: Operation,
    from_site: Option<&SiteName>,
    standing: &BTreeMap<ItemName, Standing>,
) -> Result<(Vec<ItemName>, Vec<String>), Vec<Problem>> {
    let mut problems = unsuitable(plan, standing);
    let known = plan.items().filter_map(|item| Some((item, standing.get(item)?.from(operation))));
    let known: Vec<(&ItemName, &SiteName)> = known.collect();
    let sites: BTreeSet<&SiteName> = known.iter().map(|(_, site)| *site).collect();
    if let Some(site) = from_site.filter(|site| !sites.contains(site)) {
        let message = format!("no item of the plan would go from {site}");
        let remedy = "Name the site where the items are active, or none where they are all at one.";
        problems.push(Problem::new("NOTHING_AT_SITE", "spec.from_site", message, remedy));
    }
    if from_site.is_none() && sites.len() > 1 {
        let at = |site: &SiteName| {
            let items: Vec<&str> =
                known.iter().filter(|(_, s)| *s == site).map(|(item, _)| item.as_str()).collect();
            format!("{} at {site}", items.join(", "))
        };
        let split: Vec<String> = sites.iter().map(|site| at(site)).collect();
        let message = format!("items of the plan are active at both sites: {}", split.join("; "));
        let remedy = "Say from which site it goes; the items of the other one stay where they are.";
        problems.push(Problem::new("DIRECTION_NEEDED", "spec.from_site", message, remedy));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let from = from_site.or(sites.first().copied());
    let (going, staying): (Vec<_>, Vec<_>) = known.iter().partition(|(_, site)| Some(*site) == from);
    let notices = staying.iter().map(|(item, site)| format!("{item} is active at {site}, and stays there"));
    Ok((going.iter().map(|(item, _)| (*item).clone()).collect(), notices.collect()))
}

/// Items that have gone, or that have never been between the plan's two sites (R-RP-1).
fn unsuitable(plan: &RecoveryPlan, standing: &BTreeMap<ItemName, Standing>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let sites = BTreeSet::from([&plan.source_site, &plan.target_site]);
    for item in plan.items() {
        let subject = crate::plan::subject(item);
        match standing.get(item) {
            None => {
                let message = format!("plan {} names it, and there is no such item", plan.name);
                let remedy = "Protect the machine, or take the item out of the plan.";
                problems.push(Problem::new("ITEM_NOT_FOUND", subject, message, remedy));
            }
            Some(standing) if BTreeSet::from([&standing.active_site, &standing.standby_site]) != sites => {
                let Standing { active_site, standby_site, .. } = standing;
                let message = format!(
                    "it is between {active_site} and {standby_site}, and plan {} between {} and {}",
                    plan.name, plan.source_site, plan.target_site
                );
                let remedy =
                    "Take the item out of the plan, or protect the machine to the plan's other site.";
                problems.push(Problem::new("ITEM_OF_OTHER_SITES", subject, message, remedy));
            }
            Some(_) => {}
        }
    }
    problems
}

impl RecoveryPlan {
    /// What stands against the plan now: items that have gone, or that are between other sites.
    pub fn standing_problems(&self, standing: &BTreeMap<ItemName, Standing>) -> Vec<Problem> {
        unsuitable(self, standing)
    }
}
