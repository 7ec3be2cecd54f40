//! How far a transfer is: never further than what the target has made durable (R-REP-9).
//!
//! ```text
//!   pieces in order ──▶ passed: read, and sent or found there ──┐
//!   target's watermarks ──▶ durable ────────────────────────────┴─▶ done = the work below the lower of both
//! ```
//! Bytes count when they need not be looked at again, whatever breaks. What lies between the last part that had to be sent and the piece that was
//! passed last was found equal at the target, so it counts as soon as that part is durable.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use understudy_replication::RangeSet;

/// Throughput is told over the last so long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// And noted at most so often.
const RATE_EVERY: Duration = Duration::from_millis(250);

/// A place in the transfer's order: disks one after the other, each from its start on.
pub type Place = (usize, u64);

/// What a transfer tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All up to here was read; `payload` of it was handed to the connection, and `parts` says whether anything was.
    Passed { place: Place, payload: u64, parts: bool },
    /// The target has made all durable that it was sent up to here.
    Durable(Place),
}

/// One disk's work, for counting what lies below an offset.
#[derive(Debug)]
struct Ruler {
    /// Ranges in order with the bytes of all ranges before.
    ranges: Vec<(u64, u64, u64)>,
    total: u64,
}

impl Ruler {
    fn new(work: &RangeSet) -> Self {
        let mut total = 0;
        let mut ranges = Vec::new();
        for range in work.iter() {
            ranges.push((range.start, range.end, total));
            total += range.len();
        }
        Self { ranges, total }
    }

    fn below(&self, offset: u64) -> u64 {
        let index = self.ranges.partition_point(|(start, ..)| *start < offset);
        let last = index.checked_sub(1).map(|last| self.ranges[last]);
        last.map_or(0, |(start, end, before)| before + offset.min(end) - start)
    }
}

/// Follows one transfer.
#[derive(Debug)]
pub struct Progress {
    disks: Vec<Ruler>,
    passed: Place,
    /// The end of the last piece of which anything was sent.
    sent: Option<Place>,
    durable: Place,
    rate: Rate,
}

impl Progress {
    /// `work` is what has to be read of each disk, in the order of the transfer.
    pub fn new<'a>(work: impl IntoIterator<Item = &'a RangeSet>, now: Instant) -> Self {
        let disks = work.into_iter().map(Ruler::new).collect();
        Self { disks, passed: (0, 0), sent: None, durable: (0, 0), rate: Rate::new(now) }
    }

    pub fn total(&self) -> u64 {
        self.disks.iter().map(|disk| disk.total).sum()
    }

    pub fn take(&mut self, step: Step, now: Instant) {
        match step {
            Step::Passed { place, payload, parts } => {
                self.passed = self.passed.max(place);
                if parts {
                    self.sent = self.sent.max(Some(place));
                }
                self.rate.add(payload, now);
            }
            // A peer that claims more than it was sent gains nothing by it.
            Step::Durable(place) => self.durable = self.durable.max(place.min(self.passed)),
        }
    }

    /// Bytes of the work that are done with.
    pub fn done(&self) -> u64 {
        let all_durable = self.sent.is_none_or(|sent| sent <= self.durable);
        let (disk, offset) = if all_durable { self.passed } else { self.durable };
        let before: u64 = self.disks.iter().take(disk).map(|disk| disk.total).sum();
        before + self.disks.get(disk).map_or(0, |disk| disk.below(offset))
    }

    /// Payload per second, over the last seconds.
    pub fn bytes_per_second(&self, now: Instant) -> u64 {
        self.rate.per_second(now)
    }
}

/// Bytes within a sliding window.
#[derive(Debug)]
struct Rate {
    total: u64,
    /// When how many bytes had passed, oldest first; one of them lies before the window.
    notes: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { total: 0, notes: VecDeque::from([(now, 0)]) }
    }

    fn add(&mut self, bytes: u64, now: Instant) {
        self.total += bytes;
        if self.notes.back().is_none_or(|(at, _)| now.duration_since(*at) >= RATE_EVERY) {
            self.notes.push_back((now, self.total));
        }
        while self.notes.get(1).is_some_and(|(at, _)| now.duration_since(*at) > RATE_OVER) {
            self.notes.pop_front();
        }
    }

    fn per_second(&self, now: Instant) -> u64 {
        let Some((at, bytes)) = self.notes.front() else { return 0 };
        let span = now.duration_since(*at).as_secs_f64();
        if span > 0.0 { ((self.total - bytes) as f64 / span) as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::ByteRange;

    use super::*;

    const M: u64 = 1 << 20;

    fn passed(place: Place, payload: u64) -> Step {
        Step::Passed { place, payload, parts: payload > 0 }
    }

    /// R-REP-9: what the connection has swallowed is not progress.
    #[test]
    fn progress_follows_the_watermark_and_not_the_connection() {
        let now = Instant::now();
        let first: RangeSet =
            [ByteRange::new(0, 4 * M), ByteRange::new(10 * M, 12 * M)].into_iter().collect();
        let second = RangeSet::span(0, 3 * M);
        let mut progress = Progress::new([&first, &second], now);
        assert_eq!((progress.total(), progress.done()), (9 * M, 0));
        for end in 1..=4 {
            progress.take(passed((0, end * M), M), now);
        }
        assert_eq!(progress.done(), 0, "nothing is durable yet");
        progress.take(Step::Durable((0, 2 * M)), now);
        assert_eq!(progress.done(), 2 * M);
        progress.take(passed((0, 11 * M), M), now);
        progress.take(Step::Durable((0, 11 * M)), now);
        assert_eq!(progress.done(), 5 * M);
        // Found equal: counts at once, because all that was sent before is durable.
        progress.take(passed((0, 12 * M), 0), now);
        progress.take(passed((1, M), 0), now);
        assert_eq!(progress.done(), 7 * M);
        progress.take(passed((1, 2 * M), 5), now);
        assert_eq!(progress.done(), 5 * M, "back to what is durable for certain");
        progress.take(Step::Durable((7, 0)), now);
        assert_eq!(progress.done(), 8 * M, "a watermark beyond what was sent counts up to it");
    }

    #[test]
    fn throughput_is_that_of_the_last_seconds() {
        let began = Instant::now();
        let mut rate = Rate::new(began);
        let at = |ms: u64| began + Duration::from_millis(ms);
        for ms in (100..=10_000).step_by(100) {
            rate.add(1000, at(ms));
        }
        let steady = rate.per_second(at(10_000));
        assert!((9_000..=11_000).contains(&steady), "{steady}");
        for ms in (10_100..=20_000).step_by(100) {
            rate.add(0, at(ms));
        }
        assert_eq!(rate.per_second(at(20_000)), 0);
        assert!(rate.notes.len() < 30, "{}", rate.notes.len());
    }
}
