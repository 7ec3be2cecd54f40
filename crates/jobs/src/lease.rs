//! How long a worker holds a task, and how often it must say that it lives.

use std::time::Duration;

/// Heartbeats that fit into one lease: two may be lost before the task is given to another worker.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// The span for which a task is leased, counted anew from each heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerm(Duration);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lease of {0:?} is not between {min:?} and {max:?}", min = LeaseTerm::MIN, max = LeaseTerm::MAX)]
pub struct LeaseError(pub Duration);

impl LeaseTerm {
    /// Below this, a busy machine's pauses look like a dead worker.
    pub const MIN: Duration = Duration::from_millis(200);
    /// Above this, a dead worker's task lies for too long.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// # Errors
    /// When the span is outside [`LeaseTerm::MIN`] … [`LeaseTerm::MAX`].
    pub fn new(span: Duration) -> Result<Self, LeaseError> {
        if (Self::MIN..=Self::MAX).contains(&span) { Ok(Self(span)) } else { Err(LeaseError(span)) }
    }

    pub const fn span(self) -> Duration {
        self.0
    }

    /// The time between two heartbeats.
    pub fn heartbeat_interval(self) -> Duration {
        self.0 / HEARTBEATS_PER_LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_heartbeats_may_be_lost() {
        let term = LeaseTerm::new(Duration::from_secs(30)).unwrap();
        assert_eq!(term.heartbeat_interval(), Duration::from_secs(10));
        assert_eq!(term.heartbeat_interval() * 3, term.span());
    }

    #[test]
    fn terms_that_no_worker_could_keep_are_refused() {
        for span in [Duration::ZERO, Duration::from_millis(199), Duration::from_secs(3601), Duration::MAX] {
            assert_eq!(LeaseTerm::new(span), Err(LeaseError(span)));
        }
    }
}
