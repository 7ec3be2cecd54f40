//! When a replica is read again (R-REP-5).
//!
//! ```text
//!   a pass is under way          now: it goes on behind where it was
//!   a pass has ended             a period after it began
//!   none yet, points are there   within a period after the first of them came, each item at a time of its own
//!   no points                    never
//! ```

use std::time::Duration;

use understudy_ids::{ItemName, UnixMicros};

/// What is known of one item's replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubFacts {
    /// When the oldest point came.
    pub first_received: Option<UnixMicros>,
    /// When the last pass that came to its end began.
    pub last_began: Option<UnixMicros>,
    pub under_way: bool,
}

/// When the next pass is due; `None`: not as things are. Items that were protected together are spread over the period by their
/// names, so that they are not all read in the same night.
pub fn due(item: &ItemName, facts: ScrubFacts, period: Duration) -> Option<UnixMicros> {
    let first = facts.first_received?;
    if facts.under_way {
        return Some(first);
    }
    Some(match facts.last_began {
        Some(began) => began.plus(period),
        None => first.plus(period.mul_f64(place(item))),
    })
}

/// A number in `0.0..1.0` that is always the same for a name.
fn place(item: &ItemName) -> f64 {
    let [a, b, ..] = *blake3::hash(item.as_str().as_bytes()).as_bytes();
    f64::from(u16::from_le_bytes([a, b])) / 65_536.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn r_rep_5_passes_come_once_a_period_and_are_spread_over_it() {
        let period = 7 * DAY;
        let item = |n: u32| -> ItemName { format!("web{n}").parse().unwrap() };
        let at = |days: u32| UnixMicros::new(0).plus(days * DAY);
        let fresh = ScrubFacts { first_received: Some(at(10)), ..ScrubFacts::default() };
        assert_eq!(due(&item(1), ScrubFacts::default(), period), None);
        let first: Vec<UnixMicros> = (0..64).filter_map(|n| due(&item(n), fresh, period)).collect();
        assert!(first.iter().all(|due| (at(10)..at(17)).contains(due)));
        for day in 10..17 {
            let that_day = first.iter().filter(|due| (at(day)..at(day + 1)).contains(due)).count();
            assert!((1..32).contains(&that_day), "{that_day} of 64 on day {day}");
        }
        let once = ScrubFacts { last_began: Some(at(12)), ..fresh };
        assert_eq!(due(&item(1), once, period), Some(at(19)));
        assert!(due(&item(1), ScrubFacts { under_way: true, ..once }, period) <= Some(at(12)));
    }
}
