//! For how long something has lasted, as far as somebody watched.
//!
//! Counted is time that was observed to pass, by a clock that cannot jump, and never more than lies between two observations by the
//! clock that all observers share. So no jump of a clock and no second observer makes a span longer than it was. Time that nobody watched
//! is not counted: whatever waits for a span comes later, never earlier (ADR 0023).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;

/// The span, and when it was looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Watched {
    pub span: Duration,
    /// By the clock that all observers share.
    pub seen: UnixMicros,
}

impl Watched {
    pub const fn since(now: UnixMicros) -> Self {
        Self { span: Duration::ZERO, seen: now }
    }

    /// `elapsed` has passed for an observer since he looked last, and `at` is the time by the shared clock.
    #[must_use]
    pub fn and(self, elapsed: Duration, at: UnixMicros) -> Self {
        Self { span: self.span + elapsed.min(at.since(self.seen)), seen: at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(86_400);

    /// R-FO-4, R-FO-7, R-TF-6: clocks that jump, observers that are many or come back late, never make a span longer.
    #[test]
    fn only_time_that_was_watched_counts() {
        let t = UnixMicros::new(1_000_000_000);
        let waited = Watched::since(t).and(SECOND, t.plus(SECOND));
        assert_eq!(waited.span, SECOND);
        let jumped = waited.and(SECOND, t.plus(DAY));
        assert_eq!(jumped.span, 2 * SECOND, "the shared clock has jumped forward");
        let back = jumped.and(SECOND, t);
        assert_eq!(back.span, 2 * SECOND, "and back, which counts for nothing");
        assert_eq!(back.and(SECOND, t.plus(SECOND)).span, 3 * SECOND, "from there on it goes on");
        let two = waited.and(SECOND, t.plus(2 * SECOND)).and(SECOND, t.plus(2 * SECOND));
        assert_eq!(two.span, 2 * SECOND, "two observers saw the same second");
        let late = waited.and(Duration::ZERO, t.plus(DAY)).and(SECOND, t.plus(DAY + SECOND));
        assert_eq!(late.span, 2 * SECOND, "nobody watched for a day");
        assert_eq!(waited.and(DAY, t.plus(2 * SECOND)).span, 2 * SECOND, "an observer that slept");
    }
}
