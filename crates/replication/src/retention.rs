//! Which recovery points are too many or too old (R-REP-4).
//!
//! ```text
//!   oldest ───────────────────────────────────────────────────────────────── latest
//!   .    o      .     o     .     o  .  o  .  o  .  o  o o o o o o o o o o o o o
//!        └ tier: one a day ─┘        └ one an hour ─┘  └ count and age: all ───┘
//! ```
//! Near the latest point all are kept, as count and age say; further back one in each period of a tier. Ages are counted back from
//! the latest point, or from now where that is earlier: while nothing new comes nothing leaves, and one clock that goes wrong
//! costs nothing.
//! A point leaves by being merged into its successor, so the newest point and everything that a pinned point is stacked on
//! stay: the files below a running test must not change under it.
//!
//! Points of a consistency group's instants are of use together, so all its items have to keep the same of them (R-REP-12). An item may
//! have points of its own between them, which others have not; so the shared ones are decided among themselves, as if there were
//! no others.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use understudy_ids::{PointSeq, UnixMicros};

use crate::settings::{BadSetting, outside, seconds};

/// How long points are kept. A point leaves when count or age says so and no tier keeps it; a missing limit never says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// Recovery points to keep, the latest included. Zero is read as one.
    pub keep_count: Option<u32>,
    /// Age beyond which a point leaves.
    pub keep_age: Option<Duration>,
    #[serde(default)]
    pub tiers: Vec<Tier>,
}

/// Keeps one point in each period for a time. Periods are those of the calendar in UTC, so what is kept does not move as time goes
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// The period.
    #[serde(with = "seconds")]
    pub every: Duration,
    /// Age beyond which the tier keeps nothing.
    #[serde(with = "seconds")]
    pub age: Duration,
}

/// What retention has to know about a point of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointFacts {
    pub seq: PointSeq,
    /// The point whose files this one's are stacked on.
    pub parent: Option<PointSeq>,
    /// The source's instant that the point shows.
    pub instant: UnixMicros,
    /// False for a base: it is no recovery point, does not count, and leaves as soon as its successor may absorb it.
    pub recovery: bool,
    /// A test, a promoted machine or an operator holds it.
    pub pinned: bool,
    /// Applications start from it without recovering anything.
    pub app_consistent: bool,
    /// It shares its instant with points of other items.
    pub joint: bool,
}

impl RetentionPolicy {
    /// The longest age that a policy may keep points for.
    pub const MAX_AGE: Duration = Duration::from_secs(10 * 366 * 86_400);
    /// The most points that a policy may keep, in all its ways together. Each is a file that the next one stands on.
    pub const MAX_POINTS: u32 = 1000;
    pub const MAX_TIERS: usize = 8;
    const PERIODS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);

    /// Everything that lies outside its bounds.
    pub fn problems(&self) -> Vec<BadSetting> {
        let mut found = Vec::new();
        let second = Duration::from_secs(1);
        if let Some(count) = self.keep_count.filter(|count| !(1..=Self::MAX_POINTS).contains(count)) {
            let why = format!("is {count}, it must lie between 1 and {}", Self::MAX_POINTS);
            found.push(BadSetting::new("keep_count", why));
        }
        found.extend(self.keep_age.and_then(|age| outside("keep_age", age, second..=Self::MAX_AGE)));
        if self.tiers.len() > Self::MAX_TIERS {
            let why = format!("has {} entries, the most is {}", self.tiers.len(), Self::MAX_TIERS);
            found.push(BadSetting::new("keep_tiers", why));
        }
        for (n, Tier { every, age }) in self.tiers.iter().take(Self::MAX_TIERS).enumerate() {
            found.extend(outside(&format!("keep_tiers[{n}].every"), *every, Self::PERIODS));
            found.extend(outside(&format!("keep_tiers[{n}].age"), *age, *every..=Self::MAX_AGE));
        }
        if found.is_empty() && self.most_points() > u128::from(Self::MAX_POINTS) {
            let (points, most) = (self.most_points(), Self::MAX_POINTS);
            let why = format!("keep {points} points together with keep_count, the most is {most}");
            found.push(BadSetting::new("keep_tiers", why));
        }
        found
    }

    /// How many points there are when all are kept that may be.
    fn most_points(&self) -> u128 {
        let periods = |tier: &Tier| tier.age.as_millis().div_ceil(tier.every.as_millis().max(1)) + 1;
        u128::from(self.keep_count.unwrap_or(0)) + self.tiers.iter().map(periods).sum::<u128>()
    }

    /// The age up to which a point can be kept at all; nothing: for ever.
    fn longest_age(&self) -> Option<Duration> {
        self.keep_age.map(|age| self.tiers.iter().map(|tier| tier.age).fold(age, Duration::max))
    }
}

/// Points to merge away at `now`, oldest first. Never the latest recovery point, nor a newer base, nor a pinned point or one
/// below it. The latest application-consistent point stays for as long as age or any tier would let it, whatever the count says: such
/// points are made less often than others, and one is to be there when it is chosen (R-UF-3).
pub fn expired(points: &[PointFacts], policy: &RetentionPolicy, now: UnixMicros) -> Vec<PointSeq> {
    let mut ordered: Vec<&PointFacts> = points.iter().collect();
    ordered.sort_unstable_by_key(|p| p.seq);
    let Some(newest) = ordered.iter().rposition(|p| p.recovery) else { return Vec::new() };
    let recovery: Vec<&PointFacts> = ordered.iter().filter(|p| p.recovery).copied().collect();
    let mut kept = kept(&recovery, policy, now.min(ordered[newest].instant));
    kept.extend(kept_for_others(&recovery, policy, &kept));
    let held = held_by_pins(points);
    let leaves = |p: &&&PointFacts| !kept.contains(&p.seq) && !held.contains(&p.seq);
    ordered[..=newest].iter().filter(leaves).map(|p| p.seq).collect()
}

/// What the policy keeps of these recovery points, oldest first. Ages are counted back from `seen_from`.
fn kept(recovery: &[&PointFacts], policy: &RetentionPolicy, seen_from: UnixMicros) -> HashSet<PointSeq> {
    let age = |p: &PointFacts| seen_from.since(p.instant);
    let count = policy.keep_count.map_or(usize::MAX, |n| usize::try_from(n.max(1)).unwrap_or(usize::MAX));
    let young = |p: &&&PointFacts| policy.keep_age.is_none_or(|most| age(p) <= most);
    let mut kept: HashSet<PointSeq> =
        recovery.iter().rev().take(count).filter(young).map(|p| p.seq).collect();
    kept.extend(recovery.last().map(|p| p.seq));
    for tier in &policy.tiers {
        kept.extend(of_tier(recovery, *tier, seen_from));
    }
    let longest = policy.longest_age();
    let frozen = recovery.iter().rfind(|p| p.app_consistent);
    kept.extend(frozen.filter(|p| longest.is_none_or(|most| age(p) <= most)).map(|p| p.seq));
    kept
}

/// What is kept of the instants that are shared with other items, decided by nothing but these instants. Where none has come for so long that
/// the last one is let go itself, they are points like any other.
fn kept_for_others(
    recovery: &[&PointFacts],
    policy: &RetentionPolicy,
    kept: &HashSet<PointSeq>,
) -> HashSet<PointSeq> {
    // How each guest stood is its own matter.
    let alike = |p: &&PointFacts| PointFacts { app_consistent: false, ..**p };
    let joint: Vec<PointFacts> = recovery.iter().filter(|p| p.joint).map(alike).collect();
    match joint.last() {
        Some(last) if kept.contains(&last.seq) => {
            self::kept(&joint.iter().collect::<Vec<_>>(), policy, last.instant)
        }
        _ => HashSet::new(),
    }
}

/// The oldest point of each period, because it stays the oldest when more come; one that is application-consistent is preferred.
fn of_tier(recovery: &[&PointFacts], tier: Tier, seen_from: UnixMicros) -> impl Iterator<Item = PointSeq> {
    let period = i64::try_from(tier.every.as_micros()).unwrap_or(i64::MAX).max(1);
    let frozen = |p: &PointFacts| p.app_consistent;
    let mut chosen: BTreeMap<i64, &PointFacts> = BTreeMap::new();
    for point in recovery.iter().filter(|p| seen_from.since(p.instant) <= tier.age) {
        let best = chosen.entry(point.instant.get().div_euclid(period)).or_insert(point);
        if frozen(point) && !frozen(best) {
            *best = point;
        }
    }
    chosen.into_values().map(|p| p.seq)
}

/// Pinned points and all that lies below them.
fn held_by_pins(points: &[PointFacts]) -> Vec<PointSeq> {
    let mut held: Vec<PointSeq> = Vec::new();
    for pinned in points.iter().filter(|p| p.pinned) {
        let mut next = Some(pinned);
        while let Some(point) = next {
            if held.contains(&point.seq) {
                break;
            }
            held.push(point.seq);
            next = points.iter().find(|p| Some(p.seq) == point.parent);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const fn second(s: i64) -> UnixMicros {
        UnixMicros::new(s * 1_000_000)
    }

    /// `r` recovery point, `R` pinned recovery point, `a` application-consistent recovery point, `j` recovery point at an instant that others
    /// share, `b` base, `B` pinned base; oldest first, one second apart.
    fn chain(kinds: &str) -> Vec<PointFacts> {
        (1..)
            .zip(kinds.chars())
            .map(|(seq, kind)| PointFacts {
                seq: PointSeq::new(seq),
                parent: (seq > 1).then(|| PointSeq::new(seq - 1)),
                instant: second(seq as i64),
                recovery: !kind.eq_ignore_ascii_case(&'b'),
                pinned: kind.is_ascii_uppercase(),
                app_consistent: kind == 'a',
                joint: kind == 'j',
            })
            .collect()
    }

    fn tiers(tiers: &[(u64, u64)]) -> Vec<Tier> {
        let seconds = Duration::from_secs;
        tiers.iter().map(|(every, age)| Tier { every: seconds(*every), age: seconds(*age) }).collect()
    }

    fn leaving(kinds: &str, policy: &RetentionPolicy, now: i64) -> Vec<u64> {
        expired(&chain(kinds), policy, second(now)).into_iter().map(PointSeq::get).collect()
    }

    #[test]
    fn r_rep_4_the_table_of_what_leaves() {
        // chain, keep count, keep age in s, now in s, leaving
        type Row = (&'static str, Option<u32>, Option<u64>, i64, &'static [u64]);
        let table: &[Row] = &[
            ("", Some(1), None, 10, &[]),
            ("r", Some(0), Some(0), 1000, &[]),
            ("rrrr", Some(2), None, 10, &[1, 2]),
            ("rrrr", Some(9), None, 10, &[]),
            ("rrrr", None, None, 10_000, &[]),
            ("rrrr", None, Some(2), 5, &[1]),
            ("rrrr", Some(3), Some(1), 5, &[1, 2]),
            ("rrrr", None, Some(0), 5, &[1, 2, 3]),
            // While nothing new comes nothing leaves, however long that is.
            ("rrrr", None, Some(2), 100_000, &[1]),
            // A clock that went backwards removes nothing.
            ("rrrr", None, Some(1), 0, &[]),
            // A pin holds its point and everything below it, and nothing above.
            ("rrRrr", Some(1), None, 10, &[4]),
            ("Rrrr", Some(1), None, 10, &[2, 3]),
            ("rrrR", Some(1), None, 10, &[]),
            // The latest app-consistent point is not counted out, but it grows old; older ones are like any other.
            ("aarrr", Some(1), None, 10, &[1, 3, 4]),
            ("arrr", Some(2), None, 10, &[2]),
            ("arrr", Some(2), Some(2), 10, &[1, 2]),
            ("rrra", Some(1), None, 10, &[1, 2, 3]),
            // A base does not count and goes once a recovery point stands on it.
            ("b", Some(1), None, 10, &[]),
            ("brr", Some(2), None, 10, &[1]),
            ("Brr", Some(1), None, 10, &[2]),
            ("rrb", Some(1), None, 10, &[1]),
            // The latest application-consistent point outlives the count, but not the age.
            ("arar", Some(1), None, 10, &[1, 2]),
            ("arar", Some(1), Some(0), 10, &[1, 2, 3]),
            ("arar", None, Some(1), 10, &[1, 2]),
        ];
        for (kinds, keep_count, age, now, expected) in table {
            let keep_age = age.map(Duration::from_secs);
            let policy = RetentionPolicy { keep_count: *keep_count, keep_age, tiers: Vec::new() };
            assert_eq!(leaving(kinds, &policy, *now), *expected, "{kinds} {keep_count:?} {age:?} at {now}");
        }
    }

    #[test]
    fn r_rep_4_tiers_keep_the_oldest_of_each_period_and_prefer_application_consistent_ones() {
        // chain, tiers of (every, age), leaving; periods of 4 s are 1–3, 4–7, 8–11, 12
        type Row = (&'static str, &'static [(u64, u64)], &'static [u64]);
        let table: &[Row] = &[
            ("rrrrrrrrrrrr", &[(4, 100)], &[2, 3, 5, 6, 7, 9, 10, 11]),
            ("rrrrrrrrrrrr", &[(4, 5)], &[1, 2, 3, 4, 5, 6, 9, 10, 11]),
            ("rrrrrrrrrrrr", &[(2, 4), (4, 100)], &[2, 3, 5, 6, 7, 9, 11]),
            ("rrrrrrrrarrr", &[(4, 100)], &[2, 3, 5, 6, 7, 8, 10, 11]),
            ("rrrrrrraaarr", &[(4, 100)], &[2, 3, 5, 6, 7, 9, 11]),
            ("rrRrrrrrrrrr", &[(4, 100)], &[5, 6, 7, 9, 10, 11]),
            ("brrrrrrrrrrr", &[(4, 100)], &[1, 3, 5, 6, 7, 9, 10, 11]),
        ];
        for (kinds, of, expected) in table {
            let policy = RetentionPolicy { keep_count: Some(1), keep_age: None, tiers: tiers(of) };
            assert_eq!(leaving(kinds, &policy, 13), *expected, "{kinds} {of:?}");
        }
        // Within the tier's age the latest application-consistent point stays, although neither count nor age would keep it.
        let keep_age = Some(Duration::from_secs(1));
        let policy = RetentionPolicy { keep_count: Some(1), keep_age, tiers: tiers(&[(1000, 6)]) };
        assert_eq!(leaving("rrrrrraarrrr", &policy, 13), [1, 2, 3, 4, 5, 6, 9, 10, 11]);
        assert_eq!(leaving("rrraarrrrrrr", &policy, 13), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn r_rep_12_shared_instants_are_kept_as_if_there_were_no_others() {
        // chain, keep count, leaving
        type Row = (&'static str, u32, &'static [u64]);
        let table: &[Row] = &[
            ("jjjj", 2, &[1, 2]),
            ("jrjrjr", 2, &[1, 2, 4]),
            ("rjrjrj", 2, &[1, 2, 3]),
            ("jjjrr", 3, &[]),
            ("jjrrr", 4, &[]),
            ("jjjrrr", 4, &[]),
            // The group has ended, or its rounds come to nothing: they leave in the end.
            ("jjrrr", 2, &[1, 2, 3]),
            ("jjarr", 2, &[1, 2]),
        ];
        for (kinds, count, expected) in table {
            let policy = RetentionPolicy { keep_count: Some(*count), ..RetentionPolicy::default() };
            assert_eq!(leaving(kinds, &policy, 13), *expected, "{kinds} {count}");
        }
    }

    #[test]
    fn r_rep_4_a_pin_on_one_branch_does_not_hold_the_other() {
        let mut points = chain("rrrrr");
        points[3].parent = Some(PointSeq::new(1));
        points[2].pinned = true;
        let policy = RetentionPolicy { keep_count: Some(1), ..RetentionPolicy::default() };
        assert_eq!(expired(&points, &policy, UnixMicros::new(0)), [PointSeq::new(4)]);
    }

    #[test]
    fn bounds_are_told_all_at_once_and_a_chain_stays_short() {
        let fields = |p: &RetentionPolicy| p.problems().into_iter().map(|b| b.field).collect::<Vec<_>>();
        let good = RetentionPolicy {
            keep_count: Some(24),
            keep_age: Some(Duration::from_secs(86_400)),
            tiers: tiers(&[(3600, 7 * 86_400), (86_400, 90 * 86_400)]),
        };
        assert_eq!(fields(&good), [""; 0]);
        let none = RetentionPolicy {
            keep_count: Some(0),
            keep_age: Some(Duration::ZERO),
            tiers: tiers(&[(0, 10), (60, 30)]),
        };
        assert_eq!(fields(&none), ["keep_count", "keep_age", "keep_tiers[0].every", "keep_tiers[1].age"]);
        let many = RetentionPolicy { tiers: tiers(&[(60, 86_400)]), ..good.clone() };
        assert_eq!(fields(&many), ["keep_tiers"]);
        let tiers = vec![good.tiers[0]; RetentionPolicy::MAX_TIERS + 1];
        assert_eq!(fields(&RetentionPolicy { tiers, ..good }), ["keep_tiers"]);
    }

    /// A store that is tidied.
    fn tidied(points: &mut Vec<PointFacts>, policy: &RetentionPolicy, now: UnixMicros) -> Vec<PointSeq> {
        let leaving = expired(points, policy, now);
        for seq in &leaving {
            let gone = points.iter().position(|p| p.seq == *seq).unwrap();
            let gone = points.remove(gone);
            points.iter_mut().filter(|p| p.parent == Some(*seq)).for_each(|p| p.parent = gone.parent);
        }
        leaving
    }

    fn point(seq: u64, parent: Option<PointSeq>, at: i64) -> PointFacts {
        PointFacts { seq: PointSeq::new(seq), parent, instant: second(at), ..chain("r")[0] }
    }

    proptest! {
        /// R-REP-4: whatever the clocks and the policy do, the newest stays, pinned points and what lies below them stay, and
        /// tidying again finds nothing.
        #[test]
        fn r_rep_4_nothing_that_is_needed_ever_leaves(
            steps in vec((-50i64..500, -100_000i64..100_000, 0u8..8, 0u8..8), 1..120),
            keep_count in 0u32..10,
            keep_age in 0u64..3000,
            of in vec((1u64..400, 1u64..5000), 0..4),
        ) {
            let age = Duration::from_secs(keep_age);
            let policy =
                RetentionPolicy { keep_count: Some(keep_count), keep_age: Some(age), tiers: tiers(&of) };
            let (mut points, mut clock): (Vec<PointFacts>, i64) = (Vec::new(), 1_000_000);
            for (n, (step, skew, pin, kind)) in steps.into_iter().enumerate() {
                clock += step;
                let next = point(n as u64 + 1, points.last().map(|p| p.seq), clock);
                points.push(PointFacts { recovery: kind != 1, pinned: pin == 0, app_consistent: kind == 0, ..next });
                let before = points.clone();
                // The target's clock may be anywhere.
                let leaving = tidied(&mut points, &policy, second(clock + skew));
                let newest = before.iter().rev().find(|p| p.recovery);
                prop_assert!(newest.is_none_or(|newest| !leaving.contains(&newest.seq)));
                prop_assert!(held_by_pins(&before).iter().all(|held| !leaving.contains(held)));
                let frozen = before.iter().rev().find(|p| p.recovery && p.app_consistent);
                if let (Some(frozen), Some(newest)) = (frozen, newest)
                    && newest.instant.since(frozen.instant) <= age
                {
                    prop_assert!(!leaving.contains(&frozen.seq), "the latest application-consistent point left");
                }
                prop_assert_eq!(expired(&points, &policy, second(clock + skew)), []);
            }
        }

        /// R-REP-12: items of a group keep the same of its instants, whatever points of their own they have between them and
        /// whenever each is tidied, as long as their own do not outlast the group's.
        #[test]
        fn r_rep_12_items_of_a_group_keep_the_same_instants(
            rounds in vec((1i64..90, 0u8..4, 0u8..4, any::<bool>()), 1..80),
            keep_count in 5u32..10,
            keep_age in 300u64..3000,
            of in vec((1u64..400, 1u64..5000), 0..4),
        ) {
            let age = Duration::from_secs(keep_age);
            let policy =
                RetentionPolicy { keep_count: Some(keep_count), keep_age: Some(age), tiers: tiers(&of) };
            let (mut chains, mut clock): ([Vec<PointFacts>; 2], i64) = (Default::default(), 1_000_000);
            let mut next = 0;
            for (gap, own_of_a, own_of_b, tidy_between) in rounds {
                clock += gap * 10;
                for (points, own) in chains.iter_mut().zip([own_of_a, own_of_b]) {
                    for n in 0..=own {
                        next += 1;
                        let at = clock + i64::from(n);
                        let made = point(next, points.last().map(|p| p.seq), at);
                        points.push(PointFacts { joint: n == 0, app_consistent: n == 2, ..made });
                    }
                    if tidy_between {
                        tidied(points, &policy, second(clock));
                    }
                }
            }
            let shared = chains.each_mut().map(|points| {
                tidied(points, &policy, second(clock));
                points.iter().filter(|p| p.joint).map(|p| p.instant).collect::<Vec<_>>()
            });
            prop_assert_eq!(&shared[0], &shared[1]);
        }

        /// R-REP-4: after months of replication each period that a tier covers has a point, and there are not more points than
        /// the bounds were checked for.
        #[test]
        fn r_rep_4_each_tier_has_a_point_for_each_period(
            gaps in vec(1i64..90, 200..400),
            keep_count in 1u32..10,
            of in vec((20u64..300, 300u64..5000), 1..4),
        ) {
            let policy = RetentionPolicy { keep_count: Some(keep_count), keep_age: None, tiers: tiers(&of) };
            let (mut points, mut made, mut clock): (Vec<PointFacts>, Vec<i64>, i64) = (Vec::new(), Vec::new(), 1_000_000);
            for (n, gap) in gaps.into_iter().enumerate() {
                clock += gap;
                points.push(point(n as u64 + 1, points.last().map(|p| p.seq), clock));
                made.push(clock);
                tidied(&mut points, &policy, second(clock));
            }
            prop_assert!(points.len() as u128 <= policy.most_points(), "{} points", points.len());
            let kept: Vec<i64> = points.iter().map(|p| p.instant.get() / 1_000_000).collect();
            for (every, age) in of {
                let period = |at: &i64| at.div_euclid(every as i64);
                // A period that began before the tier's reach may have lost its oldest.
                for at in made.iter().filter(|at| period(at) * every as i64 >= clock - age as i64) {
                    prop_assert!(kept.iter().any(|k| period(k) == period(at)), "{at} of {every}/{age} in {kept:?}");
                }
            }
        }
    }
}
