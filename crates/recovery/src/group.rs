//! Consistency groups (R-REP-12): which items may be in one, and with whom an item shares its instants at this moment.
//!
//! ```text
//!   items that are to be in it ──▶ problems     one direction, one interval, in no other group, all told at once
//!   items of the group as they are ──▶ members  those that are protected from the same host now
//! ```
//! A group may come to be of several directions, when one of its items is failed over alone. Then each side has the instants of its own items.

use std::{collections::BTreeSet, time::Duration};

use understudy_ids::{GroupName, HostName, ItemName, Problem};
use understudy_replication::{Membership, joint::MAX_MEMBERS};

use crate::{item::ItemState, reconcile::ItemRecord};

/// An item that is to be in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub item: ItemName,
    pub active_host: HostName,
    pub standby_host: HostName,
    pub interval: Duration,
    /// The group that it is in already.
    pub group: Option<GroupName>,
}

/// Everything that stands against these items being the group's.
pub fn problems(group: &GroupName, items: &[Candidate]) -> Vec<Problem> {
    let mut found = Vec::new();
    if items.len() > MAX_MEMBERS {
        let message = format!("it would have {} items, the most is {MAX_MEMBERS}", items.len());
        let remedy = "Make several groups of it.";
        found.push(Problem::new("GROUP_TOO_LARGE", format!("consistencyGroups/{group}"), message, remedy));
    }
    for candidate in items {
        if let Some(other) = candidate.group.as_ref().filter(|other| *other != group) {
            let message = format!("it belongs to the consistency group {other}");
            let remedy = "Take it out of that group first.";
            found.push(problem("ITEM_IN_OTHER_GROUP", candidate, message, remedy));
        }
    }
    let Some((first, others)) = items.split_first() else { return found };
    for candidate in others {
        found.extend(against_each_other(first, candidate));
    }
    found
}

/// What stands against these items of one group following the policies that they are to follow: of all rules the one that is about policies.
pub fn against_policies(items: &[Candidate]) -> Vec<Problem> {
    let Some((first, others)) = items.split_first() else { return Vec::new() };
    others.iter().filter_map(|other| another_interval(first, other)).collect()
}

fn against_each_other(first: &Candidate, other: &Candidate) -> Vec<Problem> {
    let mut found = Vec::new();
    if other.active_host != first.active_host {
        let message =
            format!("it runs at {}, and {} at {}", other.active_host, first.item, first.active_host);
        let remedy = "Group items that run on one host: their guests are stopped for a moment by its agent.";
        found.push(problem("MEMBERS_ON_SEVERAL_HOSTS", other, message, remedy));
    }
    let (ours, theirs) = (other.standby_host.site(), first.standby_host.site());
    if ours != theirs {
        let message = format!("it is replicated to site {ours}, and {} to {theirs}", first.item);
        let remedy = "Group items that are replicated to the same site.";
        found.push(problem("DIRECTIONS_DIFFER", other, message, remedy));
    }
    found.extend(another_interval(first, other));
    found
}

fn another_interval(first: &Candidate, other: &Candidate) -> Option<Problem> {
    (other.interval != first.interval).then(|| {
        let message = format!(
            "its policy's interval is {:?}, that of {} {:?}",
            other.interval, first.item, first.interval
        );
        let remedy = "Give all items of the group policies with the same interval.";
        problem("INTERVALS_DIFFER", other, message, remedy)
    })
}

fn problem(reason: &str, candidate: &Candidate, message: String, remedy: &str) -> Problem {
    Problem::new(reason, format!("protectedItems/{}", candidate.item), message, remedy)
}

/// With whom the item is to share its instants: the items of its group that are protected from the same host at this moment.
pub fn membership(item: &ItemRecord, items: &[ItemRecord]) -> Option<Membership> {
    let group = item.group.as_ref()?;
    let together = |other: &&ItemRecord| {
        other.group.as_ref() == Some(group)
            && other.active_host == item.active_host
            && other.state == ItemState::Protected
    };
    let members: BTreeSet<ItemName> = items.iter().filter(together).map(|other| other.name.clone()).collect();
    Some(Membership { group: group.clone(), members }).filter(|found| found.members.contains(&item.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(item: &str, active: &str, standby: &str, interval: u64, group: Option<&str>) -> Candidate {
        Candidate {
            item: item.parse().unwrap(),
            active_host: active.parse().unwrap(),
            standby_host: standby.parse().unwrap(),
            interval: Duration::from_secs(interval),
            group: group.map(|group| group.parse().unwrap()),
        }
    }

    #[test]
    fn r_rep_12_everything_against_a_group_is_told_at_once() {
        let shop: GroupName = "shop".parse().unwrap();
        let told = |items: &[Candidate]| -> Vec<(String, String)> {
            problems(&shop, items).into_iter().map(|p| (p.reason, p.subject)).collect()
        };
        let db = candidate("db1", "alpha/h1", "bravo/h1", 5, Some("shop"));
        assert_eq!(told(&[]), []);
        assert_eq!(told(&[db.clone(), candidate("web1", "alpha/h1", "bravo/h2", 5, None)]), []);
        let expected = |reasons: &[(&str, &str)]| -> Vec<(String, String)> {
            reasons.iter().map(|(r, i)| ((*r).to_owned(), format!("protectedItems/{i}"))).collect()
        };
        assert_eq!(
            told(&[
                db.clone(),
                candidate("a", "alpha/h2", "bravo/h1", 5, Some("hall")),
                candidate("b", "bravo/h1", "alpha/h1", 6, None),
            ]),
            expected(&[
                ("ITEM_IN_OTHER_GROUP", "a"),
                ("MEMBERS_ON_SEVERAL_HOSTS", "a"),
                ("MEMBERS_ON_SEVERAL_HOSTS", "b"),
                ("DIRECTIONS_DIFFER", "b"),
                ("INTERVALS_DIFFER", "b"),
            ])
        );
        let many: Vec<Candidate> =
            (0..=MAX_MEMBERS).map(|n| candidate(&format!("i{n}"), "alpha/h1", "bravo/h1", 5, None)).collect();
        assert_eq!(told(&many), [("GROUP_TOO_LARGE".to_owned(), "consistencyGroups/shop".to_owned())]);
    }
}
