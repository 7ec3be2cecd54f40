//! How long to wait before the next try. Randomness is handed in.

use std::time::Duration;

/// Delays that double from `first` up to `most`, each spread over its upper half so that many who failed together
/// do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    pub first: Duration,
    pub most: Duration,
}

/// Between two attempts of a task whose worker answered `retry`.
pub const RETRY_TASK: BackOff = BackOff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

impl BackOff {
    /// The delay after `failures` failures in a row (1 is the first; 0 means none and no delay), with `jitter` evenly
    /// drawn from the whole range of `u32`. Lies between half of the full delay and the full delay.
    pub fn delay(self, failures: u32, jitter: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.most);
        let half = full / 2;
        half + half.mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most() {
        let full: Vec<_> = (0..9).map(|n| RETRY_TASK.delay(n, u32::MAX).as_secs()).collect();
        assert_eq!(full, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(RETRY_TASK.delay(u32::MAX, u32::MAX), RETRY_TASK.most);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for failures in 1..50 {
            let (least, most) = (RETRY_TASK.delay(failures, 0), RETRY_TASK.delay(failures, u32::MAX));
            assert_eq!(least * 2, most);
            let some = RETRY_TASK.delay(failures, u32::MAX / 3);
            assert!(least < some && some < most);
        }
    }
}
