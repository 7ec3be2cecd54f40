//! When a guest is brought to rest for a point (R-REP-3).

use std::time::Duration;

/// The last time that a guest was asked to come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRest {
    pub ago: Duration,
    /// A point of that instant is at the target.
    pub succeeded: bool,
}

/// After a failure it is tried again sooner than at the interval: by this part of it.
const RETRY_PART: u32 = 10;
/// But no sooner than this, as every attempt costs the guest something, and the cycle its time.
const RETRY_LEAST: Duration = Duration::from_secs(10);

/// For how long nothing is due yet; zero: now. `every` lies between two app-consistent points.
pub fn due_in(every: Duration, last: Option<LastRest>) -> Duration {
    let Some(LastRest { ago, succeeded }) = last else { return Duration::ZERO };
    let pause = if succeeded { every } else { (every / RETRY_PART).max(RETRY_LEAST).min(every) };
    pause.saturating_sub(ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_after_success_and_a_part_of_it_after_failure() {
        let s = Duration::from_secs;
        let (ok, failed) = (true, false);
        assert_eq!(due_in(s(3600), None), s(0));
        let rows = [
            (3600, 0, ok, 3600),
            (3600, 3599, ok, 1),
            (3600, 9999, ok, 0),
            (3600, 0, failed, 360),
            (3600, 361, failed, 0),
            (60, 0, failed, 10),
            (5, 0, failed, 5),
        ];
        for (every, ago, succeeded, due) in rows {
            let last = LastRest { ago: s(ago), succeeded };
            assert_eq!(due_in(s(every), Some(last)), s(due), "{every} s, {last:?}");
        }
    }
}
