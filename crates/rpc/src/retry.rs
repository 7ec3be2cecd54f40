//! When a call may be made again, and how long to wait before it.
//!
//! Every mutation of our API carries a request id, so that making it again is safe: the same id gives the same answer.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use crate::error::{ApiError, Kind};

/// Whether an idempotent call that failed so may succeed when it is made again unchanged.
pub fn retryable(error: &ApiError) -> bool {
    match error.kind {
        Kind::Unavailable | Kind::DeadlineExceeded | Kind::ResourceExhausted | Kind::Aborted => true,
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::PermissionDenied
        | Kind::Unauthenticated
        | Kind::Unimplemented
        | Kind::Unknown
        | Kind::Internal => false,
    }
}

/// Exponential back-off with full jitter in its upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// Delay before the first repetition, without jitter.
    pub first: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl BackOff {
    /// For calls between our own processes: 100 ms growing to 5 s, so that a service that came back is noticed soon.
    pub const DEFAULT: Self = Self { first: Duration::from_millis(100), max: Duration::from_secs(5) };

    /// Delay before repetition number `attempt` (0 is the first). `jitter` is drawn by the caller from 0.0 to 1.0; values outside
    /// are treated as the nearer end. The result lies between half of the exponential delay and all of it.
    pub fn delay(self, attempt: u32, jitter: f64) -> Duration {
        let factor = 1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.max);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        full.mul_f64(0.5 + jitter / 2.0)
    }
}

/// A number between 0 and 1 that differs from caller to caller; it only has to keep many from acting at the same moment.
pub fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_never_beyond() {
        let back_off = BackOff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
        let full: Vec<u128> = (0..8).map(|n| back_off.delay(n, 1.0).as_millis()).collect();
        assert_eq!(full, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off.delay(0, 0.0), Duration::from_millis(50));
        assert_eq!(back_off.delay(u32::MAX, 1.0), Duration::from_secs(5));
        assert_eq!(back_off.delay(0, f64::NAN), Duration::from_millis(100));
    }

    #[test]
    fn only_errors_that_time_can_heal_are_repeated() {
        assert!(retryable(&ApiError::unavailable("PEER_UNREACHABLE", "gone", "wait")));
        assert!(!retryable(&ApiError::invalid_argument("BAD", "bad", "fix")));
        assert!(!retryable(&ApiError::new(Kind::Internal, "INTERNAL", "bug", "report")));
    }
}
