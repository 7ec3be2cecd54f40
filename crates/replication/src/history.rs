//! How old the latest recovery point was, over the last hour and the last day (R-REP-9): a percentile for each, in bounded memory.
//!
//! ```text
//!   age │      ╱│      ╱│            what counts is the time that was spent at each age, not the cycles:
//!       │    ╱  │    ╱  │    ╱       a failover at any moment would have lost what the line says then
//!       │  ╱    │  ╱    │  ╱
//!       └──────────────────────▶ now
//!          a point is durable
//! ```
//! Each stretch between two points is counted into classes of age, an eighth of a doubling wide, in slots of five minutes for the hour and of
//! one hour for the day. So an item costs a few kilobytes whatever its interval, a percentile is at most 9 % off, and the worst is exact.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;

/// Microseconds of the youngest class's end.
const FIRST_EDGE: f64 = 1000.0;
/// Classes per doubling.
const STEPS: f64 = 8.0;
/// The oldest class begins at about 45 days.
const LAST_CLASS: u16 = 8 * 32;

/// Over which time percentiles are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
}

impl Window {
    pub const ALL: [Self; 2] = [Self::Hour, Self::Day];

    pub const fn span(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 3600,
            Self::Day => 24 * 3600,
        })
    }

    const fn slot(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 300,
            Self::Day => 3600,
        })
    }
}

/// Of the age of the latest point within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub worst: Duration,
    /// How much of the window is known: less than all of it after the first copy.
    pub covered: Duration,
}

/// The time spent at each age within one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    /// Microseconds by class.
    spent: BTreeMap<u16, u64>,
    worst: u64,
}

/// The ages of one item's latest point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpoHistory {
    /// Instant of the latest point that is durable; nothing is counted before there is one.
    latest: Option<UnixMicros>,
    /// Counted up to here.
    until: UnixMicros,
    /// By the slot's number since 1970.
    hour: BTreeMap<i64, Slot>,
    day: BTreeMap<i64, Slot>,
}

impl RpoHistory {
    pub const fn new(now: UnixMicros) -> Self {
        Self { latest: None, until: now, hour: BTreeMap::new(), day: BTreeMap::new() }
    }

    /// Instant of the latest point that is durable.
    pub const fn latest(&self) -> Option<UnixMicros> {
        self.latest
    }

    /// A point of `instant` is durable since `now`.
    pub fn point(&mut self, instant: UnixMicros, now: UnixMicros) {
        self.count(now);
        self.latest = self.latest.max(Some(instant.min(now)));
    }

    /// The machine is off and has been since it was last counted: nothing that it wrote is missing at the target.
    pub fn covered(&mut self, now: UnixMicros) {
        if self.latest.is_some() {
            self.latest = Some(self.until);
            let (from, span) = (self.until, now.since(self.until));
            self.each_slot(from, span, |slot, _, part| slot.add(0, part));
            self.until = self.until.max(now);
            self.latest = Some(self.until);
            self.forget(now);
        }
    }

    /// Counts the time up to now.
    pub fn count(&mut self, now: UnixMicros) {
        let oldest = now.minus(Window::Day.span() + Window::Day.slot());
        self.until = self.until.max(oldest);
        if let Some(latest) = self.latest {
            let (from, span) = (self.until, now.since(self.until));
            self.each_slot(from, span, |slot, begin, part| {
                let age = u64::try_from(begin.since(latest).as_micros()).unwrap_or(u64::MAX);
                slot.add_rising(age, part);
            });
        }
        self.until = self.until.max(now);
        self.forget(now);
    }

    /// `None` when nothing is known of the window.
    pub fn percentiles(&self, window: Window, now: UnixMicros) -> Option<Percentiles> {
        let first = slot_number(now.minus(window.span()), window);
        let slots = match window {
            Window::Hour => &self.hour,
            Window::Day => &self.day,
        };
        let mut all = Slot::default();
        for slot in slots.range(first..).map(|(_, slot)| slot) {
            slot.spent.iter().for_each(|(class, spent)| *all.spent.entry(*class).or_default() += spent);
            all.worst = all.worst.max(slot.worst);
        }
        let covered: u64 = all.spent.values().sum();
        (covered > 0).then(|| Percentiles {
            p50: all.at(covered, 0.50),
            p95: all.at(covered, 0.95),
            p99: all.at(covered, 0.99),
            worst: Duration::from_micros(all.worst),
            covered: Duration::from_micros(covered).min(window.span()),
        })
    }

    /// Tells `add` each slot of both windows that the span touches, with where it begins there and for how many microseconds.
    fn each_slot(&mut self, from: UnixMicros, span: Duration, add: impl Fn(&mut Slot, UnixMicros, u64)) {
        let end = from.plus(span);
        for (window, slots) in [(Window::Hour, &mut self.hour), (Window::Day, &mut self.day)] {
            let kept = end.minus(window.span() + window.slot());
            let mut begin = from.max(kept);
            while begin < end {
                let number = slot_number(begin, window);
                let next = UnixMicros::new((number + 1) * micros(window.slot())).min(end);
                let part = u64::try_from(next.since(begin).as_micros()).unwrap_or(u64::MAX);
                add(slots.entry(number).or_default(), begin, part);
                begin = next;
            }
        }
    }

    fn forget(&mut self, now: UnixMicros) {
        for (window, slots) in [(Window::Hour, &mut self.hour), (Window::Day, &mut self.day)] {
            let first = slot_number(now.minus(window.span()), window);
            slots.retain(|number, _| *number >= first);
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn slot_number(at: UnixMicros, window: Window) -> i64 {
    at.get().div_euclid(micros(window.slot()))
}

impl Slot {
    fn add(&mut self, age: u64, spent: u64) {
        *self.spent.entry(class(age)).or_default() += spent;
        self.worst = self.worst.max(age);
    }

    /// A stretch during which the age rises from `age` on.
    fn add_rising(&mut self, age: u64, span: u64) {
        let end = age.saturating_add(span);
        let mut from = age;
        while from < end {
            let class = class(from);
            // At least one microsecond, whatever rounding says.
            let to = if class == LAST_CLASS { end } else { edge(class).clamp(from + 1, end) };
            *self.spent.entry(class).or_default() += to - from;
            from = to;
        }
        self.worst = self.worst.max(end);
    }

    /// The age below which the share of the time lies; within its class as if time were spread evenly.
    fn at(&self, total: u64, share: f64) -> Duration {
        let wanted = total as f64 * share;
        let mut before = 0.0;
        for (class, spent) in &self.spent {
            let spent = *spent as f64;
            if before + spent >= wanted {
                let low = class.checked_sub(1).map_or(0, edge) as f64;
                let age = low + (edge(*class) as f64 - low) * (wanted - before) / spent;
                return Duration::from_micros((age as u64).min(self.worst));
            }
            before += spent;
        }
        Duration::from_micros(self.worst)
    }
}

/// The class of an age in microseconds.
fn class(age: u64) -> u16 {
    let age = age as f64;
    if age < FIRST_EDGE {
        return 0;
    }
    let class = ((age / FIRST_EDGE).log2() * STEPS).floor() + 1.0;
    if class >= f64::from(LAST_CLASS) { LAST_CLASS } else { class as u16 }
}

/// The end of a class, microseconds.
fn edge(class: u16) -> u64 {
    (FIRST_EDGE * (f64::from(class) / STEPS).exp2()).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> UnixMicros {
        UnixMicros::new(1_700_000_000_000_000 + (seconds * 1e6) as i64)
    }

    fn near(found: Duration, expected: f64) {
        let found = found.as_secs_f64();
        assert!(
            (found - expected).abs() <= 0.1 * expected.max(0.01),
            "{found} s, expected about {expected} s"
        );
    }

    /// Points every `interval`, durable one second after their instants.
    fn regular(interval: f64, from: f64, to: f64, history: &mut RpoHistory) {
        let mut instant = from;
        while instant + 1.0 <= to {
            history.point(at(instant), at(instant + 1.0));
            instant += interval;
        }
        history.count(at(to));
    }

    #[test]
    fn r_rep_9_percentiles_are_of_the_time_and_not_of_the_cycles() {
        let mut history = RpoHistory::new(at(0.0));
        assert_eq!(history.percentiles(Window::Hour, at(0.0)), None);
        regular(10.0, 0.0, 3000.0, &mut history);
        let hour = history.percentiles(Window::Hour, at(3000.0)).unwrap();
        // The age runs evenly from 1 s to 11 s.
        near(hour.p50, 6.0);
        near(hour.p95, 10.5);
        near(hour.worst, 11.0);
        assert!(hour.worst <= Duration::from_secs(11), "{hour:?}");
        near(hour.covered, 2999.0);
    }

    /// One outage is in the worst and the p99 of both windows, and leaves the hour before it leaves the day.
    #[test]
    fn r_rep_9_an_outage_is_seen_and_leaves_each_window_in_its_time() {
        let mut history = RpoHistory::new(at(0.0));
        regular(10.0, 0.0, 1800.0, &mut history);
        // Nothing arrives for ten minutes.
        regular(10.0, 2400.0, 3600.0, &mut history);
        let hour = history.percentiles(Window::Hour, at(3600.0)).unwrap();
        near(hour.worst, 610.0);
        near(hour.p50, 7.0);
        assert!(hour.p99 > Duration::from_secs(500), "{hour:?}");
        regular(10.0, 3600.0, 3.0 * 3600.0, &mut history);
        let (hour, day) = (
            history.percentiles(Window::Hour, at(10800.0)).unwrap(),
            history.percentiles(Window::Day, at(10800.0)).unwrap(),
        );
        assert!(hour.worst <= Duration::from_secs(12), "{hour:?}");
        near(day.worst, 610.0);
    }

    /// Bounded, also when nobody counted for a year, and the same after having been written down.
    #[test]
    fn r_rep_9_the_history_stays_small_and_survives_being_stored() {
        let mut history = RpoHistory::new(at(0.0));
        regular(1.0, 0.0, 90_000.0, &mut history);
        let text = serde_json::to_string(&history).unwrap();
        assert!(text.len() < 32 << 10, "{} bytes", text.len());
        let read: RpoHistory = serde_json::from_str(&text).unwrap();
        assert_eq!(read, history);
        let year = 365.0 * 86_400.0;
        history.count(at(year));
        assert!(history.hour.len() <= 13 && history.day.len() <= 25);
        let day = history.percentiles(Window::Day, at(year)).unwrap();
        assert_eq!(day.worst, at(year).since(at(89_999.0)));
        assert_eq!(day.covered, Window::Day.span());
    }

    /// A machine that is off writes nothing: its latest point does not age.
    #[test]
    fn r_rep_9_a_machine_that_is_off_is_not_behind() {
        let mut history = RpoHistory::new(at(0.0));
        history.covered(at(5.0));
        assert_eq!(history.percentiles(Window::Hour, at(5.0)), None, "there is no point yet");
        history.point(at(9.0), at(10.0));
        for minute in 1..30 {
            history.covered(at(f64::from(minute) * 60.0));
        }
        history.count(at(1745.0));
        let hour = history.percentiles(Window::Hour, at(1745.0)).unwrap();
        assert!(hour.p95 <= Duration::from_millis(1), "{hour:?}");
        near(hour.worst, 5.0);
    }

    /// A clock that went back costs nothing and counts nothing twice.
    #[test]
    fn a_clock_that_goes_back_counts_nothing() {
        let mut history = RpoHistory::new(at(100.0));
        history.point(at(100.0), at(101.0));
        history.count(at(50.0));
        history.count(at(111.0));
        near(history.percentiles(Window::Hour, at(111.0)).unwrap().covered, 10.0);
    }
}
