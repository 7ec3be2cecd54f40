//! Points of several items at one instant (R-REP-12): what each of them carries, and which instants are whole.
//!
//! ```text
//!   point of web1 ── joint: shop, 10:00:05, {db1, web1} ──┐
//!   point of db1  ── joint: shop, 10:00:05, {db1, web1} ──┴─▶ both are there: the instant is complete
//! ```
//! Each point names all that took part, so that whoever has only the points – a store on a disk, nothing else alive – can tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use understudy_ids::{GroupName, ItemName, UnixMicros};

/// The most items of a group: each of its points names them all, and all their guests wait for the slowest.
pub const MAX_MEMBERS: usize = 32;

/// What a point shares with points of other items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joint {
    pub group: GroupName,
    /// The same in all of them. All guests were held then.
    pub instant: UnixMicros,
    /// The items that took part, this one among them.
    pub members: BTreeSet<ItemName>,
    /// From when the first guest was asked to stand still until the last one went on.
    pub pause: Duration,
}

/// The group that an item belongs to, and with whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub group: GroupName,
    /// All items of the group that are replicated in the same direction, this one among them.
    pub members: BTreeSet<ItemName>,
}

/// The instants at which every item that took part has a point, in ascending order. `points` are those that may be used, per item.
pub fn complete(points: &BTreeMap<ItemName, Vec<&Joint>>, group: &GroupName) -> Vec<UnixMicros> {
    let has = |item: &ItemName, joint: &Joint| {
        let of_item = points.get(item).into_iter().flatten();
        of_item.into_iter().any(|other| other.group == *group && other.instant == joint.instant)
    };
    let of_group = points.values().flatten().filter(|joint| joint.group == *group);
    let whole = of_group.filter(|joint| joint.members.iter().all(|member| has(member, joint)));
    whole.map(|joint| joint.instant).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The newest instant of one group at which each of these items has a point, with its number among the item's. `None` where there is none, or
/// where there are no items.
pub fn newest_shared(items: &[Vec<Option<&Joint>>]) -> Option<(UnixMicros, Vec<usize>)> {
    let (first, _) = items.split_first()?;
    let candidates = first.iter().flatten().map(|joint| (joint.instant, &joint.group));
    let candidates: BTreeSet<(UnixMicros, &GroupName)> = candidates.collect();
    candidates.into_iter().rev().find_map(|(instant, group)| {
        let of_instant =
            |joint: &Option<&Joint>| joint.is_some_and(|j| j.instant == instant && j.group == *group);
        // Of two points of one instant the later is as good.
        let found = items.iter().map(|points| points.iter().rposition(of_instant));
        found.collect::<Option<Vec<usize>>>().map(|found| (instant, found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> ItemName {
        name.parse().unwrap()
    }

    fn joint(group: &str, instant: i64, members: &[&str]) -> Joint {
        Joint {
            group: group.parse().unwrap(),
            instant: UnixMicros::new(instant),
            members: members.iter().map(|name| item(name)).collect(),
            pause: Duration::from_millis(200),
        }
    }

    #[test]
    fn r_rep_12_an_instant_is_complete_when_all_that_took_part_have_it() {
        let [ab1, ab2, ab3] = [1, 2, 3].map(|instant| joint("shop", instant, &["a", "b"]));
        let (alone, other) = (joint("shop", 4, &["b"]), joint("hall", 2, &["a"]));
        // points of a, points of b, complete instants of the group "shop"
        type Row<'a> = (Vec<&'a Joint>, Vec<&'a Joint>, &'a [i64]);
        let table: Vec<Row<'_>> = vec![
            (vec![], vec![], &[]),
            (vec![&ab1, &ab2], vec![&ab1, &ab2], &[1, 2]),
            // A point that was lost, or has not come yet.
            (vec![&ab1, &ab2], vec![&ab2, &ab3], &[2]),
            (vec![&ab1], vec![&ab2], &[]),
            // A member that did not take part is not waited for.
            (vec![&ab1], vec![&ab1, &alone], &[1, 4]),
            // Another group's instant is another one, also at the same time.
            (vec![&other], vec![&ab2], &[]),
        ];
        for (a, b, expected) in table {
            let points = BTreeMap::from([(item("a"), a), (item("b"), b)]);
            let found: Vec<i64> =
                complete(&points, &"shop".parse().unwrap()).into_iter().map(UnixMicros::get).collect();
            assert_eq!(found, expected, "{points:?}");
        }
    }

    #[test]
    fn r_rep_12_the_newest_instant_that_items_share() {
        let [one, two, three] = [1, 2, 3].map(|instant| joint("shop", instant, &["a", "b", "c"]));
        let other = joint("hall", 3, &["a"]);
        type Row<'a> = (Vec<Vec<Option<&'a Joint>>>, Option<(i64, Vec<usize>)>);
        let table: Vec<Row<'_>> = vec![
            (vec![], None),
            (vec![vec![]], None),
            (vec![vec![None, Some(&one), Some(&two)]], Some((2, vec![2]))),
            // The newest of one has not come to the other yet; points of their own lie between.
            (
                vec![vec![Some(&one), Some(&two), None, Some(&three)], vec![Some(&one), None, Some(&two)]],
                Some((2, vec![1, 2])),
            ),
            (vec![vec![Some(&one)], vec![Some(&two)]], None),
            (vec![vec![Some(&one), None], vec![None]], None),
            // The same time in another group is nothing that they share.
            (vec![vec![Some(&other)], vec![Some(&three)]], None),
        ];
        for (items, expected) in table {
            let found = newest_shared(&items).map(|(instant, found)| (instant.get(), found));
            assert_eq!(found, expected, "{items:?}");
        }
    }
}
