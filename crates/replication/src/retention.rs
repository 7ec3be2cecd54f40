//! Which recovery points are too many or too old (R-REP-4).
//!
//! A point leaves by being merged into its successor, so the newest point and everything that a pinned point is stacked on
//! stay: the files below a running test must not change under it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_ids::{PointSeq, UnixMicros};

/// How long points are kept. A point leaves when *either* limit says so; a missing limit never says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// Recovery points to keep, the latest included. Zero is read as one.
    pub keep_count: Option<u32>,
    /// Age beyond which a point leaves.
    pub keep_age: Option<Duration>,
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
}

/// Points to merge away at `now`, oldest first. Never the latest recovery point, nor a newer base, nor a pinned point or one
/// below it. The latest app-consistent point does not go for being one too many: such points are made less often than others, and one
/// is to be there when it is chosen (R-UF-3).
pub fn expired(points: &[PointFacts], policy: RetentionPolicy, now: UnixMicros) -> Vec<PointSeq> {
    let mut ordered: Vec<&PointFacts> = points.iter().collect();
    ordered.sort_unstable_by_key(|p| std::cmp::Reverse(p.seq));
    let Some(newest) = ordered.iter().position(|p| p.recovery) else { return Vec::new() };
    let held = held_by_pins(points);
    let at_rest = ordered.iter().find(|p| p.recovery && p.app_consistent).map(|p| p.seq);
    let mut rank = 0;
    let mut leaving = Vec::new();
    for point in &ordered[newest..] {
        rank += u32::from(point.recovery);
        let counted = RetentionPolicy {
            keep_count: policy.keep_count.filter(|_| at_rest != Some(point.seq)),
            ..policy
        };
        if leaves(point, rank, counted, now) && !held.contains(&point.seq) {
            leaving.push(point.seq);
        }
    }
    leaving.reverse();
    leaving
}

/// `rank` counts recovery points from the latest, which is 1, down to `point`.
fn leaves(point: &PointFacts, rank: u32, policy: RetentionPolicy, now: UnixMicros) -> bool {
    if !point.recovery {
        return true;
    }
    let too_many = policy.keep_count.is_some_and(|keep| rank > keep.max(1));
    let too_old = policy.keep_age.is_some_and(|age| now.since(point.instant) > age);
    rank > 1 && (too_many || too_old)
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
    use super::*;

    /// `r` recovery point, `R` pinned recovery point, `b` base, `B` pinned base, `a` app-consistent recovery point; oldest first, one second apart.
    fn chain(kinds: &str) -> Vec<PointFacts> {
        (1..)
            .zip(kinds.chars())
            .map(|(seq, kind)| PointFacts {
                seq: PointSeq::new(seq),
                parent: (seq > 1).then(|| PointSeq::new(seq - 1)),
                instant: UnixMicros::new(seq as i64 * 1_000_000),
                recovery: !kind.eq_ignore_ascii_case(&'b'),
                pinned: kind.is_ascii_uppercase(),
                app_consistent: kind == 'a',
            })
            .collect()
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
            ("rrrr", None, Some(2), 5, &[1, 2]),
            ("rrrr", Some(3), Some(2), 5, &[1, 2]),
            ("rrrr", None, Some(1), 1000, &[1, 2, 3]),
            // A clock that went backwards removes nothing.
            ("rrrr", None, Some(1), 0, &[]),
            // A pin holds its point and everything below it, and nothing above.
            ("rrRrr", Some(1), None, 10, &[4]),
            ("Rrrr", Some(1), None, 10, &[2, 3]),
            ("rrrR", Some(1), None, 10, &[]),
            // The latest app-consistent point is not counted out, but it grows old; older ones are like any other.
            ("aarrr", Some(1), None, 10, &[1, 3, 4]),
            ("arrr", Some(2), None, 10, &[2]),
            ("arrr", Some(2), Some(2), 10, &[1, 2, 3]),
            ("rrra", Some(1), None, 10, &[1, 2, 3]),
            // A base does not count and goes once a recovery point stands on it.
            ("b", Some(1), None, 10, &[]),
            ("brr", Some(2), None, 10, &[1]),
            ("Brr", Some(1), None, 10, &[2]),
            ("rrb", Some(1), None, 10, &[1]),
        ];
        for (kinds, keep_count, age, now, expected) in table {
            let policy = RetentionPolicy { keep_count: *keep_count, keep_age: age.map(Duration::from_secs) };
            let leaving = expired(&chain(kinds), policy, UnixMicros::new(now * 1_000_000));
            let leaving: Vec<u64> = leaving.into_iter().map(PointSeq::get).collect();
            assert_eq!(leaving, *expected, "{kinds} keep {keep_count:?} {age:?} at {now}");
        }
    }

    #[test]
    fn r_rep_4_a_pin_on_one_branch_does_not_hold_the_other() {
        let mut points = chain("rrrrr");
        points[3].parent = Some(PointSeq::new(1));
        points[2].pinned = true;
        let policy = RetentionPolicy { keep_count: Some(1), keep_age: None };
        assert_eq!(expired(&points, policy, UnixMicros::new(0)), [PointSeq::new(4)]);
    }
}
