//! One instant for a whole run (R-UF-3): each item gets its newest point that is not newer.
//!
//! ```text
//!   web1   ●────────●────────●            asked: the newest instant at which all have a point: t
//!   db1        ●────────●──────────       web1 and db1 get their newest points at or before t
//!                       t
//! ```
//!
//! Points of different items are of different moments: *one instant* means that none of them knows of anything later than that. Machines that
//! must be of exactly the same moment belong into a consistency group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, PointSeq, UnixMicros};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instant {
    /// Nothing later than this.
    AtOrBefore(UnixMicros),
    /// The latest to which all items reach: the oldest of their latest points, so that none knows of anything that another one has not
    /// come to. Where an item has nothing so old, the first instant at which it has a point.
    Latest,
}

/// The points of one item that may be used.
pub type Points = Vec<(PointSeq, UnixMicros)>;

/// Each item's newest point at or before the instant; `None` for an item that has none so old. Of points of the same instant, the one
/// that was made last.
pub fn at_or_before(
    points: &BTreeMap<ItemName, Points>,
    wanted: Instant,
) -> BTreeMap<ItemName, Option<PointSeq>> {
    let limit = match wanted {
        Instant::AtOrBefore(instant) => Some(instant),
        Instant::Latest => latest_of_all(points),
    };
    let newest = |points: &Points| {
        let not_newer = points.iter().filter(|(_, at)| limit.is_some_and(|limit| *at <= limit));
        not_newer.max_by_key(|(seq, at)| (*at, *seq)).map(|(seq, _)| *seq)
    };
    points.iter().map(|(item, points)| (item.clone(), newest(points))).collect()
}

/// An item without points has no say: it is refused for that.
fn latest_of_all(points: &BTreeMap<ItemName, Points>) -> Option<UnixMicros> {
    let instants = |points: &Points| points.iter().map(|(_, at)| *at).collect::<Vec<_>>();
    let reached = points.values().filter_map(|points| instants(points).into_iter().max()).min();
    let begun = points.values().filter_map(|points| instants(points).into_iter().min()).max();
    reached.max(begun)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(name: &str) -> ItemName {
        name.parse().unwrap()
    }

    fn points(all: &[(u64, i64)]) -> Points {
        all.iter().map(|(seq, at)| (PointSeq::new(*seq), UnixMicros::new(*at))).collect()
    }

    fn chosen(items: &[(&str, &[(u64, i64)])], wanted: Instant) -> Vec<Option<u64>> {
        let items = items.iter().map(|(name, all)| (item(name), points(all))).collect();
        at_or_before(&items, wanted).into_values().map(|seq| seq.map(PointSeq::get)).collect()
    }

    /// R-UF-3, row by row. Items are told in the order of their names.
    #[test]
    fn the_newest_points_that_are_not_newer() {
        let at = |instant| Instant::AtOrBefore(UnixMicros::new(instant));
        let two: &[(&str, &[(u64, i64)])] =
            &[("a", &[(1, 10), (2, 20), (3, 30)]), ("b", &[(1, 14), (2, 24)])];
        let rows = [
            ("before all", at(9), vec![None, None]),
            ("one has none", at(12), vec![Some(1), None]),
            ("between", at(22), vec![Some(2), Some(1)]),
            ("exactly", at(24), vec![Some(2), Some(2)]),
            ("after all", at(99), vec![Some(3), Some(2)]),
            ("the latest of all is that of b", Instant::Latest, vec![Some(2), Some(2)]),
        ];
        for (name, wanted, expected) in rows {
            assert_eq!(chosen(two, wanted), expected, "{name}");
        }
        assert_eq!(chosen(&[("a", &[(2, 20), (1, 20)])], at(20)), [Some(2)], "two of one instant");
        assert_eq!(chosen(&[("a", &[(1, 10)]), ("b", &[])], Instant::Latest), [Some(1), None]);
        assert_eq!(chosen(&[("a", &[])], Instant::Latest), [None]);
        assert_eq!(
            chosen(&[("a", &[(1, 10)]), ("b", &[(7, 20), (8, 30)])], Instant::Latest),
            [Some(1), Some(7)]
        );
    }

    proptest! {
        /// Nothing later than the instant is chosen, nothing between the chosen one and the instant is left out, and with the latest instant
        /// every item that has a point gets one.
        #[test]
        fn nothing_newer_and_nothing_better(
            all in prop::collection::vec(prop::collection::vec(0i64..50, 0..8), 1..5),
            limit in prop::option::of(0i64..50),
        ) {
            let items: BTreeMap<ItemName, Points> = (0..)
                .zip(&all)
                .map(|(n, instants)| {
                    let points = (1..).zip(instants).map(|(s, at)| (PointSeq::new(s), UnixMicros::new(*at)));
                    (item(&format!("i{n}")), points.collect())
                })
                .collect();
            let wanted = limit.map_or(Instant::Latest, |limit| Instant::AtOrBefore(UnixMicros::new(limit)));
            let limit = limit.map(UnixMicros::new).or_else(|| latest_of_all(&items));
            for (name, seq) in at_or_before(&items, wanted) {
                let allowed = items[&name].iter().filter(|(_, at)| limit.is_some_and(|limit| *at <= limit));
                let best = allowed.map(|(_, at)| *at).max();
                let chosen = seq.and_then(|seq| items[&name].iter().find(|(s, _)| *s == seq));
                prop_assert_eq!(chosen.map(|(_, at)| *at), best);
                prop_assert!(wanted != Instant::Latest || items[&name].is_empty() || seq.is_some());
            }
        }
    }
}
