//! What a policy says about making and sending points, and the bounds of it.
//!
//! ```text
//!   policy ─▶ plan, correction ─▶ task ─▶ agent's file ─▶ each cycle
//! ```
//! One type travels the whole way, so that a new setting is a field here, a field on the wire and a flag of the command line. Whoever
//! reads an older form gets the defaults for what it does not say.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;

/// How points of an item are made and sent, beside how often.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationSettings {
    pub compression: Compression,
    /// `None`: all points are crash-consistent.
    pub app_consistency: Option<AppConsistency>,
    pub bandwidth: Bandwidth,
    /// Certificates (PEM) of those for whom replicas are encrypted; none: they are not (R-REP-10).
    pub encrypt_for: Vec<String>,
}

/// Whether blocks are compressed on the wire (R-REP-11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Tried, and dropped where it does not pay.
    #[default]
    Auto,
    Off,
}

/// Points for which the guest's file systems are frozen through its agent (R-REP-3), which runs the guest's own scripts before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppConsistency {
    /// Between two such points; the others are crash-consistent.
    #[serde(with = "seconds")]
    pub every: Duration,
    /// The guest is thawed after this long, whatever has become of the point.
    #[serde(with = "seconds")]
    pub freeze_limit: Duration,
}

impl AppConsistency {
    pub const FREEZE_LIMIT: Duration = Duration::from_secs(10);
    const MOST: Duration = Duration::from_secs(30 * 86_400);
    /// What is written while file systems are frozen waits, so a guest is not to be frozen for longer.
    const FREEZE_LIMITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
}

/// Each of them costs a target up to 2 KiB per point.
const MAX_RECIPIENTS: usize = 16;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct BadSetting {
    /// Path within [`ReplicationSettings`].
    pub field: String,
    pub why: String,
}

impl BadSetting {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

impl ReplicationSettings {
    /// Everything that lies outside its bounds, for points that are made every `interval`.
    pub fn problems(&self, interval: Duration) -> Vec<BadSetting> {
        let mut found = Vec::new();
        if let Some(AppConsistency { every, freeze_limit }) = self.app_consistency {
            found.extend(outside("app_consistency.every", every, interval..=AppConsistency::MOST));
            found.extend(outside(
                "app_consistency.freeze_limit",
                freeze_limit,
                AppConsistency::FREEZE_LIMITS,
            ));
        }
        let within = |bad: BadSetting| BadSetting::new(format!("bandwidth.{}", bad.field), bad.why);
        found.extend(self.bandwidth.problems().into_iter().map(within));
        if self.encrypt_for.len() > MAX_RECIPIENTS {
            let why = format!("names {} certificates, the most is {MAX_RECIPIENTS}", self.encrypt_for.len());
            found.push(BadSetting::new("encrypt_for", why));
        }
        found
    }
}

pub(crate) fn outside(field: &str, span: Duration, range: RangeInclusive<Duration>) -> Option<BadSetting> {
    let seconds = |d: &Duration| d.as_secs_f64();
    (!range.contains(&span)).then(|| {
        let (least, most) = (seconds(range.start()), seconds(range.end()));
        BadSetting::new(field, format!("is {} s, it must lie between {least} s and {most} s", seconds(&span)))
    })
}

impl Compression {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl FromStr for Compression {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Auto, Self::Off];
        let found = known.into_iter().find(|c| c.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no way of compressing; write auto or off"))
    }
}

/// Spans as seconds, which is how everything else that people read in JSON has them.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(span.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let read = Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)?;
        // Settings are whole milliseconds; what a float makes of long ones is put right.
        let millis = read.saturating_add(Duration::from_micros(500)).as_millis();
        Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn app(every_s: u64, freeze_s: u64) -> ReplicationSettings {
        let app_consistency = Some(AppConsistency {
            every: Duration::from_secs(every_s),
            freeze_limit: Duration::from_secs(freeze_s),
        });
        ReplicationSettings { app_consistency, ..ReplicationSettings::default() }
    }

    #[test]
    fn every_setting_has_its_bounds_and_all_problems_are_told_at_once() {
        assert_eq!(ReplicationSettings::default().problems(MINUTE), []);
        assert_eq!(app(3600, 10).problems(MINUTE), []);
        let fields =
            |s: ReplicationSettings| s.problems(MINUTE).into_iter().map(|p| p.field).collect::<Vec<_>>();
        assert_eq!(fields(app(59, 10)), ["app_consistency.every"]);
        assert_eq!(fields(app(31 * 86_400, 10)), ["app_consistency.every"]);
        assert_eq!(fields(app(60, 61)), ["app_consistency.freeze_limit"]);
        assert_eq!(fields(app(59, 0)), ["app_consistency.every", "app_consistency.freeze_limit"]);
    }

    #[test]
    fn what_an_older_version_wrote_is_read_with_the_defaults() {
        assert_eq!(
            serde_json::from_str::<ReplicationSettings>("{}").unwrap(),
            ReplicationSettings::default()
        );
    }

    proptest! {
        /// An assignment that is read back must equal the one that is running, or its loop would be ended for nothing.
        #[test]
        fn settings_come_back_from_a_file_as_they_were(
            every_ms in 0u64..3_660 * 86_400_000, freeze_ms in 0u64..100_000, off: bool,
        ) {
            let settings = ReplicationSettings {
                compression: if off { Compression::Off } else { Compression::Auto },
                app_consistency: Some(AppConsistency {
                    every: Duration::from_millis(every_ms),
                    freeze_limit: Duration::from_millis(freeze_ms),
                }),
                bandwidth: Bandwidth {
                    otherwise: "5MiB".parse().unwrap(),
                    windows: vec!["mon-fri 08:00-18:00 unlimited".parse().unwrap()],
                    utc_offset_minutes: -60,
                },
                encrypt_for: vec!["-----BEGIN".to_owned()],
            };
            let text = serde_json::to_string(&settings).unwrap();
            prop_assert_eq!(serde_json::from_str::<ReplicationSettings>(&text).unwrap(), settings);
        }
    }
}
