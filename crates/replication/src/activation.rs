//! Activation leases: an active side that is not heard by the control plane stops its machine by itself, and whoever has waited for long
//! enough knows that it has (R-FO-7).
//!
//! ```text
//!   active side          sends facts at s ──────────────▶                    its lease ends at s + length, by its own clock
//!                             ◀──────────── renewal ─── control plane        granted, on record, before it is sent
//!   nothing arrives any more                                                 it has certainly ended when no grant was made for
//!                                                                            length + drift + margin, as far as somebody watched
//! ```
//! A lease is counted from when its holder *sent* what was answered: that is before it was granted, however long either message took. So
//! the holder's end lies before the end that the other side waits for, with no clock in common.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, UnixMicros};

use crate::watched::Watched;

/// How long a lease may be.
pub const LENGTHS: RangeInclusive<Duration> = Duration::from_secs(15)..=Duration::from_secs(3600);

/// What a holder may take to stop a machine whose lease has ended.
pub const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Two clocks that count the same time differ by less than one part in so many.
const DRIFT: u32 = 100;

/// For how long nothing must have been granted until a lease of this length has ended everywhere, and its machine has stopped.
pub fn certainly_over(length: Duration) -> Duration {
    length + length / DRIFT + STOP_WITHIN
}

/// A lease as its holder counts it. Times are spans since the host's boot, by a clock that counts sleep and cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    pub generation: Generation,
    /// When the holder sent what the renewal answers.
    pub counted_from: Duration,
    pub length: Duration,
}

/// Why a renewal changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    #[error("it answers what was not sent yet, or by another boot of the host")]
    FromTheFuture,
    #[error("it had ended before it came")]
    TooLate,
    #[error("a later one came before it")]
    Overtaken,
}

impl Held {
    /// When it ends, as a span since the host's boot.
    pub fn end(&self) -> Duration {
        self.counted_from + self.length
    }

    pub fn has_ended(&self, now: Duration) -> bool {
        now >= self.end()
    }

    /// What is held when `renewal` arrives at `now`.
    ///
    /// # Errors
    /// When what was held before stays.
    pub fn renewed(before: Option<Self>, renewal: Self, now: Duration) -> Result<Self, NotRenewed> {
        if renewal.counted_from > now {
            return Err(NotRenewed::FromTheFuture);
        }
        if renewal.has_ended(now) {
            return Err(NotRenewed::TooLate);
        }
        let of_same = before.filter(|held| held.generation == renewal.generation);
        match of_same {
            Some(held) if held.counted_from > renewal.counted_from => Err(NotRenewed::Overtaken),
            _ => Ok(renewal),
        }
    }
}

/// What was granted to the active side of an item, on record before the holder is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Granted {
    /// Of the item when it was granted.
    pub generation: Generation,
    /// The holder has told that it holds a lease, and stands by to stop the machine. From its silence nothing follows before that.
    pub held: bool,
    /// Each length that may be in force somewhere, with how long it was not granted again; the one that is granted now is last.
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Term {
    length: Duration,
    renewed: UnixMicros,
    unrenewed: Watched,
}

impl Term {
    fn left(&self) -> Duration {
        certainly_over(self.length).saturating_sub(self.unrenewed.span)
    }
}

impl Granted {
    /// On record after another grant at `now`.
    #[must_use]
    pub fn again(before: Option<Self>, generation: Generation, length: Duration, now: UnixMicros) -> Self {
        let before = before.filter(|granted| granted.generation == generation);
        let held = before.as_ref().is_some_and(|granted| granted.held);
        // A longer one of before may be what the holder still goes by.
        let mut terms = before.map(|granted| granted.terms).unwrap_or_default();
        terms.retain(|term| term.length != length && !term.left().is_zero());
        terms.push(Term { length, renewed: now, unrenewed: Watched::since(now) });
        Self { generation, held, terms }
    }

    /// `elapsed` has passed for an observer since he looked last, and `at` is the time by the clock that all observers share.
    #[must_use]
    pub fn and(mut self, elapsed: Duration, at: UnixMicros) -> Self {
        for term in &mut self.terms {
            term.unrenewed = term.unrenewed.and(elapsed, at);
        }
        self
    }

    /// What is granted now.
    pub fn length(&self) -> Duration {
        self.terms.last().map_or(Duration::ZERO, |term| term.length)
    }

    /// How long it takes until the lease has certainly ended and the machine has stopped, if nothing is granted any more.
    pub fn over_in(&self) -> Duration {
        self.terms.iter().map(Term::left).max().unwrap_or_default()
    }

    /// When it was granted last, by the clock that all share.
    pub fn renewed(&self) -> Option<UnixMicros> {
        self.terms.last().map(|term| term.renewed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const G3: Generation = Generation::new(3);
    const T0: UnixMicros = UnixMicros::new(1_000_000_000);

    fn held(from: u32, length: u32) -> Held {
        Held { generation: G3, counted_from: from * SECOND, length: length * SECOND }
    }

    /// R-FO-7: what the holder makes of a renewal, row by row.
    #[test]
    fn renewals_are_counted_from_what_they_answer() {
        let rows = [
            ("the first", None, held(100, 30), 101, Ok(held(100, 30))),
            ("the next", Some(held(100, 30)), held(105, 30), 106, Ok(held(105, 30))),
            ("shorter", Some(held(100, 60)), held(105, 15), 106, Ok(held(105, 15))),
            ("the same once more", Some(held(100, 30)), held(100, 30), 106, Ok(held(100, 30))),
            ("overtaken", Some(held(105, 30)), held(100, 60), 106, Err(NotRenewed::Overtaken)),
            ("too late", Some(held(100, 30)), held(105, 30), 135, Err(NotRenewed::TooLate)),
            ("of another boot", None, held(900, 30), 10, Err(NotRenewed::FromTheFuture)),
        ];
        for (name, before, renewal, now, expected) in rows {
            assert_eq!(Held::renewed(before, renewal, now * SECOND), expected, "{name}");
        }
        let higher = Held { generation: G3.next(), ..held(90, 30) };
        assert_eq!(
            Held::renewed(Some(held(100, 30)), higher, 101 * SECOND),
            Ok(higher),
            "of another generation"
        );
        assert!(!held(100, 30).has_ended(129 * SECOND) && held(100, 30).has_ended(130 * SECOND));
    }

    /// R-FO-7: a policy's longer lease counts until nobody can hold it any more.
    #[test]
    fn the_longest_that_may_be_held_is_waited_for() {
        let long = Granted::again(None, G3, 600 * SECOND, T0);
        assert_eq!(long.over_in(), certainly_over(600 * SECOND));
        let short = Granted::again(Some(long), G3, 30 * SECOND, T0.plus(SECOND));
        assert_eq!((short.length(), short.over_in()), (30 * SECOND, certainly_over(600 * SECOND)));
        let mut later = short;
        for second in 2..=700 {
            later = Granted::again(
                Some(later.and(SECOND, T0.plus(second * SECOND))),
                G3,
                30 * SECOND,
                T0.plus(second * SECOND),
            );
        }
        assert_eq!(later.over_in(), certainly_over(30 * SECOND), "nobody holds the long one any more");
        let other = Granted::again(Some(Granted { held: true, ..later }), G3.next(), 30 * SECOND, T0);
        assert!(!other.held, "another generation's lease says nothing about this one's");
    }

    #[test]
    fn only_watched_silence_brings_the_end_nearer() {
        let granted = Granted::again(None, G3, 30 * SECOND, T0);
        let jumped = granted.clone().and(SECOND, T0.plus(3600 * SECOND));
        assert_eq!(jumped.over_in(), certainly_over(30 * SECOND) - SECOND);
        let over = (1..=60).fold(granted, |granted, n| granted.and(SECOND, T0.plus(n * SECOND)));
        assert_eq!(over.over_in(), Duration::ZERO);
    }

    proptest! {
        /// R-FO-7: whatever is lost, late or overtaken, and whatever lengths the policy takes on, nobody holds a lease any more when it is over
        /// for whoever granted it, and there are [`STOP_WITHIN`] left to stop the machine. The holder's clock is a percent slow.
        #[test]
        fn a_holder_is_never_later_than_the_wait(
            steps in prop::collection::vec((1u32..20, prop::option::of(0u32..40), 15u32..120), 1..60),
        ) {
            let mut now = 0;
            let mut granted: Option<Granted> = None;
            let mut holds: Option<Held> = None;
            // What is on its way: when it arrives, and what it says.
            let mut sent: Vec<(u32, Held)> = Vec::new();
            let slow = |seconds: u32| SECOND * seconds * 100 / 101;
            for (pause, delay, length) in steps {
                for _ in 0..pause {
                    now += 1;
                    granted = granted.map(|g| g.and(SECOND, T0.plus(now * SECOND)));
                    for (_, renewal) in sent.extract_if(.., |(due, _)| *due <= now) {
                        if let Ok(then) = Held::renewed(holds, renewal, slow(now)) {
                            holds = Some(then);
                        }
                    }
                    if granted.as_ref().is_some_and(|g| g.over_in() <= STOP_WITHIN) {
                        prop_assert!(holds.is_none_or(|held| held.has_ended(slow(now))), "{holds:?} at {now}");
                    }
                }
                // Facts that were sent now are answered `delay` later, or never; it is on record either way.
                granted = Some(Granted::again(granted, G3, length * SECOND, T0.plus(now * SECOND)));
                let renewal = Held { generation: G3, counted_from: slow(now), length: length * SECOND };
                sent.extend(delay.map(|delay| (now + delay, renewal)));
            }
        }
    }
}
