//! How many bytes a second may be sent, now (R-REP-11).
//!
//! ```text
//!   limit + schedule ── at(time) ──▶ Rate ──▶ Bucket::admit(bytes) ──▶ go, or wait and ask again
//! ```
//! A schedule is a list of windows of the week on a clock that stands at a fixed distance from UTC. It knows no daylight saving time: where people
//! change their clocks, windows move by that hour against them, and no window is ever passed twice or not at all.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;

use crate::settings::BadSetting;

/// What the items of a policy may send together, from one host to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// Outside of all windows.
    pub otherwise: Rate,
    /// The first one that a moment lies in counts.
    pub windows: Vec<Window>,
    /// The schedule's clock is so many minutes ahead of UTC.
    pub utc_offset_minutes: i32,
}

/// Bytes a second, or no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(pub Option<u64>);

/// A span of the week, each week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The days on which it begins.
    pub days: Vec<Weekday>,
    /// Minute of the day at which it begins.
    pub from_minute: u32,
    /// And ends; one that is not after the beginning is on the next day.
    pub to_minute: u32,
    pub rate: Rate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

const DAY_MINUTES: u32 = 24 * 60;
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;

impl Bandwidth {
    pub const MAX_WINDOWS: usize = 64;
    /// Slower than that a single piece of a disk takes more than a minute.
    const RATES: RangeInclusive<u64> = 16 << 10..=1 << 40;
    /// The clocks of the world.
    const OFFSETS: RangeInclusive<i32> = -12 * 60..=14 * 60;

    /// What may be sent at this moment.
    pub fn at(&self, now: UnixMicros) -> Rate {
        let minute = self.minute_of_week(now);
        let window = self.windows.iter().find(|window| window.holds(minute));
        window.map_or(self.otherwise, |window| window.rate)
    }

    /// Whether there is never a limit.
    pub fn is_unlimited(&self) -> bool {
        self.otherwise.0.is_none() && self.windows.iter().all(|window| window.rate.0.is_none())
    }

    /// Minutes since Monday 00:00 by the schedule's clock.
    fn minute_of_week(&self, now: UnixMicros) -> u32 {
        let minutes = now.get().div_euclid(60_000_000) + i64::from(self.utc_offset_minutes);
        // 1970 began on a Thursday.
        let since_monday = minutes + 3 * i64::from(DAY_MINUTES);
        u32::try_from(since_monday.rem_euclid(i64::from(WEEK_MINUTES))).unwrap_or(0)
    }

    /// Everything that lies outside its bounds.
    pub fn problems(&self) -> Vec<BadSetting> {
        let mut found = Vec::new();
        found.extend(rate_problem("otherwise", self.otherwise));
        if !Self::OFFSETS.contains(&self.utc_offset_minutes) {
            let why =
                format!("is {}, clocks lie between -720 and 840 minutes from UTC", self.utc_offset_minutes);
            found.push(BadSetting::new("utc_offset_minutes", why));
        }
        if self.windows.len() > Self::MAX_WINDOWS {
            let why = format!("has {} entries, the most is {}", self.windows.len(), Self::MAX_WINDOWS);
            found.push(BadSetting::new("windows", why));
        }
        for (n, window) in self.windows.iter().take(Self::MAX_WINDOWS).enumerate() {
            let within = |bad: BadSetting| BadSetting::new(format!("windows[{n}].{}", bad.field), bad.why);
            found.extend(window.problems().into_iter().map(within));
        }
        found
    }
}

fn rate_problem(field: &str, Rate(rate): Rate) -> Option<BadSetting> {
    let (least, most) = (Bandwidth::RATES.start(), Bandwidth::RATES.end());
    rate.filter(|rate| !Bandwidth::RATES.contains(rate)).map(|rate| {
        BadSetting::new(field, format!("is {rate} bytes a second, it must lie between {least} and {most}"))
    })
}

impl Window {
    fn holds(&self, minute: u32) -> bool {
        let end =
            if self.to_minute > self.from_minute { self.to_minute } else { self.to_minute + DAY_MINUTES };
        let length = end - self.from_minute;
        self.days.iter().any(|day| {
            let begins = *day as u32 * DAY_MINUTES + self.from_minute;
            (minute + WEEK_MINUTES - begins) % WEEK_MINUTES < length
        })
    }

    fn problems(&self) -> Vec<BadSetting> {
        let mut found = Vec::new();
        if self.days.is_empty() || self.days.len() > 7 {
            found.push(BadSetting::new("days", "must name one day to seven"));
        }
        for (field, minute) in [("from_minute", self.from_minute), ("to_minute", self.to_minute)] {
            if minute > DAY_MINUTES || (field == "from_minute" && minute == DAY_MINUTES) {
                found.push(BadSetting::new(field, format!("is {minute}, a day has {DAY_MINUTES} minutes")));
            }
        }
        found.extend(rate_problem("rate", self.rate));
        found
    }
}

impl Weekday {
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    pub const fn short(self) -> &'static str {
        match self {
            Self::Monday => "mon",
            Self::Tuesday => "tue",
            Self::Wednesday => "wed",
            Self::Thursday => "thu",
            Self::Friday => "fri",
            Self::Saturday => "sat",
            Self::Sunday => "sun",
        }
    }
}

/// Units of rates, bytes a second in each; the first that a text ends in counts.
const UNITS: [(&str, f64); 10] = [
    ("kbit", 125.0),
    ("Mbit", 125e3),
    ("Gbit", 125e6),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

/// `unlimited`, `20MiB`, `100Mbit`; a second each.
impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self(None));
        }
        let bad = || format!("{text:?} is no rate; write unlimited, 20MiB or 100Mbit, a second each");
        let unit = UNITS.iter().find_map(|(name, bytes)| Some((text.strip_suffix(name)?, bytes)));
        let (number, bytes) = unit.ok_or_else(bad)?;
        let rate = number.trim().parse::<f64>().map_err(|_| bad())? * bytes;
        // Beyond that the bounds refuse it.
        if !(1.0..1e15).contains(&rate) {
            return Err(bad());
        }
        Ok(Self(Some(rate as u64)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(rate) = self.0 else { return f.write_str("unlimited") };
        let exact = |unit: &&(&str, f64)| rate as f64 % unit.1 == 0.0;
        let largest = UNITS.iter().filter(exact).max_by(|a, b| a.1.total_cmp(&b.1));
        let (name, bytes) = largest.copied().unwrap_or(("B", 1.0));
        write!(f, "{}{name}", rate as f64 / bytes)
    }
}

/// `mon-fri 08:00-18:00 5MiB`, `sat,sun 00:00-24:00 unlimited`, `daily 22:00-06:00 50MiB`.
impl FromStr for Window {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is no window; write days, times and a rate: \"mon-fri 08:00-18:00 5MiB\"");
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [days, times, rate] = parts[..] else { return Err(bad()) };
        let (from, to) = times.split_once('-').ok_or_else(bad)?;
        let (from_minute, to_minute) = (minute(from).ok_or_else(bad)?, minute(to).ok_or_else(bad)?);
        Ok(Self { days: read_days(days).ok_or_else(bad)?, from_minute, to_minute, rate: rate.parse()? })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = self.days.iter().map(|day| day.short()).collect();
        let days = if self.days == Weekday::ALL { "daily".to_owned() } else { days.join(",") };
        let time = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{days} {}-{} {}", time(self.from_minute), time(self.to_minute), self.rate)
    }
}

fn minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let minutes: u32 = minutes.parse().ok().filter(|m| *m < 60)?;
    Some(hours.parse::<u32>().ok().filter(|h| *h <= 24)? * 60 + minutes)
}

fn read_days(text: &str) -> Option<Vec<Weekday>> {
    let day = |text: &str| Weekday::ALL.iter().position(|day| day.short() == text);
    let mut days: Vec<Weekday> = Vec::new();
    for part in text.split(',') {
        let range = match part.split_once('-') {
            _ if part == "daily" => 0..=6,
            Some((first, last)) => day(first)?..=day(last)?,
            None => day(part)?..=day(part)?,
        };
        // From Saturday to Monday is no more than Saturday, Sunday, Monday.
        let wrapped = range.end() + if range.start() > range.end() { 7 } else { 0 };
        days.extend((*range.start()..=wrapped).map(|n| Weekday::ALL[n % 7]));
    }
    days.sort_unstable();
    days.dedup();
    Some(days)
}

/// What may be sent now. Sending is allowed while nothing is owed, and owes what it sends; so no more than one piece goes ahead of its time.
///
/// In any span of time T at a rate R, at most R·T + R·[`Bucket::SAVED`] + one piece are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes that may be sent, below zero: that are owed. In millionths, so that short spans at low rates count.
    micros: i128,
    /// When it was last looked at.
    seen: UnixMicros,
}

impl Bucket {
    /// What is not used is saved up for so long.
    pub const SAVED: Duration = Duration::from_millis(100);
    /// Whoever waits asks again after this at the latest, so that another limit counts at once.
    const PATIENCE: Duration = Duration::from_millis(250);

    pub const fn new(now: UnixMicros) -> Self {
        Self { micros: 0, seen: now }
    }

    /// `None`: `bytes` may be sent and are accounted for. Otherwise ask again after the span.
    pub fn admit(&mut self, bytes: u64, rate: Rate, now: UnixMicros) -> Option<Duration> {
        let passed = now.since(self.seen);
        self.seen = now;
        let Rate(Some(rate)) = rate else {
            self.micros = 0;
            return None;
        };
        let rate = i128::from(rate.max(1));
        let most = rate * micros_of(Self::SAVED);
        self.micros = self.micros.saturating_add(rate.saturating_mul(micros_of(passed))).min(most);
        if self.micros >= 0 {
            self.micros -= i128::from(bytes) * 1_000_000;
            return None;
        }
        let wait = u64::try_from(-self.micros / rate + 1).unwrap_or(u64::MAX);
        Some(Duration::from_micros(wait).min(Self::PATIENCE))
    }
}

fn micros_of(span: Duration) -> i128 {
    i128::try_from(span.as_micros()).unwrap_or(i128::MAX / (1 << 60))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Monday, 2024-01-01 00:00 UTC.
    const MONDAY: i64 = 1_704_067_200;
    const PIECE: u64 = 1 << 20;
    const OFFICE: &str = "mon-fri 08:00-18:00 5MiB";
    const NIGHT: &str = "daily 22:00-06:00 unlimited";

    fn at(day: i64, hour: i64, minute: i64) -> UnixMicros {
        UnixMicros::new((MONDAY + (day * 24 + hour) * 3600 + minute * 60) * 1_000_000)
    }

    fn schedule(windows: &[&str], utc_offset_minutes: i32) -> Bandwidth {
        let windows = windows.iter().map(|w| w.parse().unwrap()).collect();
        Bandwidth { otherwise: "50MiB".parse().unwrap(), windows, utc_offset_minutes }
    }

    #[test]
    fn r_rep_11_the_table_of_moments() {
        // windows, offset in minutes, day, hour, minute, rate
        type Row = (&'static [&'static str], i32, i64, i64, i64, &'static str);
        let table: &[Row] = &[
            (&[], 0, 0, 12, 0, "50MiB"),
            (&[OFFICE], 0, 0, 7, 59, "50MiB"),
            (&[OFFICE], 0, 0, 8, 0, "5MiB"),
            (&[OFFICE], 0, 4, 17, 59, "5MiB"),
            (&[OFFICE], 0, 4, 18, 0, "50MiB"),
            (&[OFFICE], 0, 5, 12, 0, "50MiB"),
            // A window that ends before it begins ends on the next day; also from Sunday to Monday.
            (&[NIGHT], 0, 6, 22, 0, "unlimited"),
            (&[NIGHT], 0, 7, 5, 59, "unlimited"),
            (&[NIGHT], 0, 7, 6, 0, "50MiB"),
            (&["sun 22:00-06:00 1MiB"], 0, 0, 5, 0, "1MiB"),
            (&["sun 22:00-06:00 1MiB"], 0, 1, 5, 0, "50MiB"),
            // The schedule's clock is ahead: 08:00 there is 06:00 UTC, and Monday begins on Sunday.
            (&[OFFICE], 120, 0, 6, 0, "5MiB"),
            (&[OFFICE], 120, 0, 16, 0, "50MiB"),
            (&["mon 00:00-01:00 1MiB"], 120, 6, 22, 30, "1MiB"),
            (&["sun 23:00-24:00 1MiB"], -60, 0, 0, 30, "1MiB"),
            // The first that holds counts.
            (&["mon 12:00-13:00 1MiB", OFFICE], 0, 0, 12, 30, "1MiB"),
            (&[OFFICE, "mon 12:00-13:00 1MiB"], 0, 0, 12, 30, "5MiB"),
            (&["sat-mon 10:00-10:00 1MiB"], 0, 1, 9, 59, "1MiB"),
            (&["sat-mon 10:00-10:00 1MiB"], 0, 1, 10, 0, "50MiB"),
        ];
        for (windows, offset, day, hour, minute, rate) in table {
            let found = schedule(windows, *offset).at(at(*day, *hour, *minute));
            assert_eq!(found, rate.parse().unwrap(), "{windows:?} {offset} day {day} {hour}:{minute}");
        }
        assert!(Bandwidth::default().is_unlimited() && !schedule(&[], 0).is_unlimited());
    }

    #[test]
    fn rates_and_windows_are_read_and_written_as_people_write_them() {
        for text in ["unlimited", "20MiB", "100Mbit", "16KiB", "1GB", "1000001B"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["mon,tue,wed,thu,fri 08:00-18:00 5MiB", "sat,sun 00:00-24:00 unlimited"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!("daily 1:00-2:00 1MiB".parse::<Window>().unwrap().to_string(), "daily 01:00-02:00 1MiB");
        for bad in
            ["", "mon", "mon 8-9 5MiB", "mon 08:60-09:00 5MiB", "so 08:00-09:00 5MiB", "mon 08:00-09:00 5"]
        {
            assert!(bad.parse::<Window>().is_err(), "{bad:?}");
        }
        for bad in ["5", "fastMiB", "-1MiB", "0B", "NaNMiB", "1e40GB"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn everything_outside_its_bounds_is_told_at_once() {
        let bad = Bandwidth {
            otherwise: Rate(Some(1)),
            utc_offset_minutes: 9999,
            windows: vec![Window { days: vec![], from_minute: 1440, to_minute: 1441, rate: Rate(Some(1)) }],
        };
        let fields: Vec<_> = bad.problems().into_iter().map(|b| b.field).collect();
        assert_eq!(
            fields,
            [
                "otherwise",
                "utc_offset_minutes",
                "windows[0].days",
                "windows[0].from_minute",
                "windows[0].to_minute",
                "windows[0].rate"
            ]
        );
        assert_eq!(schedule(&["mon-fri 08:00-18:00 5MiB"], 120).problems(), []);
        let many = Bandwidth { windows: vec!["daily 00:00-24:00 1MiB".parse().unwrap(); 65], ..bad.clone() };
        assert!(many.problems().iter().any(|b| b.field == "windows"));
    }

    /// Sends pieces as fast as the bucket lets it, for `micros`. Returns the bytes, and the longest time between two questions.
    fn send(
        bucket: &mut Bucket,
        rates: impl Fn(i64) -> Rate,
        pieces: &[u64],
        micros: i64,
    ) -> (u64, Duration) {
        let (mut now, mut sent, mut longest) = (0, 0, Duration::ZERO);
        let mut pieces = pieces.iter().cycle();
        let mut next = *pieces.next().unwrap();
        while now < micros {
            match bucket.admit(next, rates(now), UnixMicros::new(now)) {
                None => {
                    sent += next;
                    next = *pieces.next().unwrap();
                    // Sending takes a moment, or a loop without a limit would have no end.
                    now += 1000;
                }
                Some(wait) => {
                    longest = longest.max(wait);
                    now += i64::try_from(wait.as_micros()).unwrap();
                }
            }
        }
        (sent, longest)
    }

    proptest! {
        /// R-REP-11: never more than the limit, what was saved and one piece; and not much less either.
        #[test]
        fn r_rep_11_no_more_is_sent_than_the_limit_allows(
            rate in (16u64 << 10)..(64 << 20), pieces in vec(1..PIECE, 1..20), seconds in 1i64..60,
        ) {
            let mut bucket = Bucket::new(UnixMicros::new(0));
            let (sent, _) = send(&mut bucket, |_| Rate(Some(rate)), &pieces, seconds * 1_000_000);
            let fair = rate * seconds as u64;
            prop_assert!(sent <= fair + rate / 10 + PIECE, "{sent} of {fair}");
            // Sending a piece takes a millisecond here, which is a limit of its own.
            let possible = fair.min(pieces.iter().sum::<u64>() / pieces.len() as u64 * 1000 * seconds as u64);
            prop_assert!(sent + PIECE + rate / 4 >= possible / 2, "only {sent} of {possible}");
        }

        /// R-REP-11: another limit counts within a quarter of a second, however much is owed under the old one.
        #[test]
        fn r_rep_11_a_change_in_the_middle_counts_at_once(
            slow in (16u64 << 10)..(1 << 20), fast in (8u64 << 20)..(64 << 20), pieces in vec(PIECE / 2..PIECE, 1..20),
        ) {
            let mut bucket = Bucket::new(UnixMicros::new(0));
            let second = 1_000_000;
            let rates = |now: i64| Rate(Some(if now < 5 * second { slow } else { fast }));
            let (sent, longest) = send(&mut bucket, rates, &pieces, 6 * second);
            prop_assert!(longest <= Duration::from_millis(250), "{longest:?}");
            // The time between two questions counts by the limit of the second.
            prop_assert!(sent <= slow * 5 + fast + fast / 4 + fast / 10 + PIECE);
            prop_assert!(sent >= fast / 2, "only {sent} in the second of {fast}");
        }

        /// A clock that jumps neither lets more through nor stops anything.
        #[test]
        fn jumps_of_the_clock_do_no_harm(jumps in vec(-1_000_000_000i64..1_000_000_000, 1..50)) {
            let mut bucket = Bucket::new(UnixMicros::new(0));
            let (mut now, rate) = (0i64, Rate(Some(1 << 20)));
            for jump in jumps {
                now += jump;
                let mut sent = 0;
                while bucket.admit(PIECE, rate, UnixMicros::new(now)).is_none() {
                    sent += PIECE;
                }
                prop_assert!(sent <= 2 * PIECE);
                let mut asked = 0;
                while let Some(wait) = bucket.admit(1, rate, UnixMicros::new(now)) {
                    now += i64::try_from(wait.as_micros()).unwrap();
                    asked += 1;
                    prop_assert!(asked < 20, "stopped for good");
                }
            }
        }
    }
}
