//! What makes a recovery plan one that can be followed: found when it is written, all at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use understudy_ids::{ItemName, Problem};

use super::{ActionKind, PlanAction, PlanGroup, RecoveryPlan, ScriptAction};
use crate::plan::{MAX_ITEMS, Operation};

const MAX_GROUPS: usize = 50;
/// Before or after one group.
const MAX_ACTIONS: usize = 20;
const MAX_INSTRUCTIONS_BYTES: usize = 4096;
const MAX_SCRIPT: Duration = Duration::from_secs(6 * 3600);
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

impl RecoveryPlan {
    /// Every reason why the plan cannot be followed, whatever the items are doing.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Found::default();
        if self.source_site == self.target_site {
            found.add("target_site", "is the source site as well", "Name the two sites of the plan.");
        }
        if self.groups.is_empty() || self.groups.len() > MAX_GROUPS {
            let message = format!("has {} groups; a plan has 1 to {MAX_GROUPS}", self.groups.len());
            found.add("groups", message, "Put the items into groups in the order in which they come up.");
        }
        let items = self.items().count();
        if items == 0 || items > MAX_ITEMS {
            let message = format!("name {items} items; a plan has 1 to {MAX_ITEMS}");
            found.add("groups", message, "Name each item in the group that it comes up with.");
        }
        found.twice("groups", self.groups.iter().map(|group| &group.name), "group name");
        found.twice("groups", self.items(), "item");
        for (index, group) in self.groups.iter().enumerate() {
            self.group(&mut found, index, group);
        }
        found.0
    }

    fn group(&self, found: &mut Found, index: usize, group: &PlanGroup) {
        let at = format!("groups[{index}]");
        if group.at_once == Some(0) {
            found.add(format!("{at}.at_once"), "is 0, which starts nothing", "Leave it out to start all.");
        }
        if group.delay.is_some_and(|delay| delay > MAX_DELAY) {
            let message = format!("is longer than {} s", MAX_DELAY.as_secs());
            found.add(format!("{at}.delay_seconds"), message, "Use a manual action to wait for something.");
        }
        let actions = group.before.iter().chain(&group.after);
        found.twice(&at, actions.map(|action| &action.name), "action name");
        for (place, actions) in [("before", &group.before), ("after", &group.after)] {
            if actions.len() > MAX_ACTIONS {
                let message = format!("has {} actions, the most is {MAX_ACTIONS}", actions.len());
                found.add(format!("{at}.{place}"), message, "Put what belongs together into one script.");
            }
            for (index, action) in actions.iter().enumerate() {
                self.action(found, &format!("{at}.{place}[{index}]"), action);
            }
        }
        self.dependencies(found, index, group);
    }

    fn action(&self, found: &mut Found, at: &str, action: &PlanAction) {
        let failover = |operation: &Operation| operation.is_failover();
        for operation in action.operations.iter().filter(|operation| !failover(operation)) {
            let message = format!("names {operation}, which is no failover");
            found.add(format!("{at}.operations"), message, "Name test, planned or unplanned failover.");
        }
        let sites = [&self.source_site, &self.target_site];
        if let Some(site) = action.towards.as_ref().filter(|site| !sites.contains(site)) {
            let message = format!("is {site}, which is no site of the plan");
            found.add(format!("{at}.towards"), message, "Name one of its two sites, or leave it out.");
        }
        match &action.what {
            ActionKind::Manual { instructions } => {
                let length = instructions.trim().len();
                if length == 0 || length > MAX_INSTRUCTIONS_BYTES {
                    let message = format!("has {length} bytes; 1 to {MAX_INSTRUCTIONS_BYTES} are needed");
                    let remedy = "Say what has to be done before somebody confirms it.";
                    found.add(format!("{at}.do.manual.instructions"), message, remedy);
                }
            }
            ActionKind::Script(ScriptAction { host: _, name: _, sha256, time_out }) => {
                // R-NET-12: what moves production would do so in every rehearsal.
                if action.operations.is_empty() {
                    let message = "is empty, and a script has to say in which failovers it runs";
                    let remedy =
                        "Name them; test-failover only where it is meant to run in a rehearsal, too.";
                    found.add(format!("{at}.operations"), message, remedy);
                }
                let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
                if sha256.len() != 64 || !sha256.bytes().all(digit) {
                    let message = "is not 64 lower-case hexadecimal digits";
                    let remedy = "Take what sha256sum says of the file on the host that is to run it.";
                    found.add(format!("{at}.do.script.sha256"), message, remedy);
                }
                if time_out.is_zero() || *time_out > MAX_SCRIPT {
                    let message =
                        format!("is {} s; 1 to {} s are possible", time_out.as_secs(), MAX_SCRIPT.as_secs());
                    let remedy = "Give it the time that it needs when everything is slow.";
                    found.add(format!("{at}.do.script.time_out_seconds"), message, remedy);
                }
            }
        }
    }

    /// What an item waits for comes up before it.
    fn dependencies(&self, found: &mut Found, index: usize, group: &PlanGroup) {
        let earlier: BTreeSet<&ItemName> =
            self.groups[..index].iter().flat_map(|group| &group.items).map(|entry| &entry.item).collect();
        let own: BTreeSet<&ItemName> = group.items.iter().map(|entry| &entry.item).collect();
        for (place, entry) in group.items.iter().enumerate() {
            let late = entry.after.iter().filter(|item| !earlier.contains(item) && !own.contains(item));
            for item in late {
                let message = format!("names {item}, which does not come up in this or an earlier group");
                let remedy = "Move one of the two, or drop the dependency.";
                found.add(format!("groups[{index}].items[{place}].after"), message, remedy);
            }
        }
        if let Some(round) = in_a_round(group) {
            let names: Vec<String> = round.iter().map(ToString::to_string).collect();
            let message = format!("wait for each other: {}", names.join(", "));
            found.add(format!("groups[{index}].items"), message, "Drop one of the dependencies.");
        }
    }
}

/// Items of the group that wait for each other, in the end for themselves.
fn in_a_round(group: &PlanGroup) -> Option<Vec<&ItemName>> {
    let mut left: BTreeMap<&ItemName, &BTreeSet<ItemName>> =
        group.items.iter().map(|entry| (&entry.item, &entry.after)).collect();
    loop {
        let free: Vec<&ItemName> = left
            .iter()
            .filter(|(_, after)| !after.iter().any(|item| left.contains_key(item)))
            .map(|(item, _)| *item)
            .collect();
        if free.is_empty() {
            return (!left.is_empty()).then(|| left.into_keys().collect());
        }
        left.retain(|item, _| !free.contains(item));
    }
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>, remedy: &str) {
        self.0.push(Problem::new("INVALID_RECOVERY_PLAN", field, message, remedy));
    }

    fn twice<'a, T: Ord + ToString + 'a>(
        &mut self,
        field: &str,
        names: impl Iterator<Item = &'a T>,
        what: &str,
    ) {
        let mut seen = BTreeSet::new();
        let again: BTreeSet<&T> = names.filter(|name| !seen.insert(*name)).collect();
        for name in again {
            self.add(field, format!("have the {what} {} more than once", name.to_string()), "Name it once.");
        }
    }
}
