//! Alerts of an item: reasons that have lasted, until they have been gone for a while (R-REP-9).
//!
//! ```text
//!   a reason is found ──▶ pending ── for `raise_after` ──▶ raised ──▶ gone ── for `clear_after` ──▶ forgotten
//!                            │ gone before: forgotten         ▲          │
//!                            ▼                                └──────────┘ found again: the same alert, never lowered
//! ```
//! So a link that comes and goes is one alert and not a hundred. The state is a value that is handed in and out; whoever keeps it decides
//! where.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;

use crate::rpo::{Finding, Health};

/// How long a reason must last to be raised, and be gone to be forgotten, in seconds.
fn patience(code: &str) -> (u64, u64) {
    match code {
        // Sawtooth: near or beyond the objective at the end of each cycle is one alert.
        "RPO_EXCEEDED" => (5, 60),
        "RPO_NEAR" | "CLOCK_AHEAD" => (30, 60),
        // One lost connection is repeated within a second and is nobody's business.
        "CYCLES_FAILING" => (10, 120),
        // A correction puts it right, mostly.
        "STOPPED" => (30, 0),
        // Silence has been waited for before it is a reason.
        "NO_ANSWER" => (0, 30),
        _ => (0, 0),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub level: Health,
    /// What was wrong when it began, or when it became worse.
    pub message: String,
    pub remedy: String,
    /// First found.
    pub since: UnixMicros,
    /// It has lasted long enough to be told.
    pub raised: bool,
    /// Not found any more, since then.
    pub gone: Option<UnixMicros>,
}

/// All of one item, by code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alerts(BTreeMap<String, Alert>);

impl Alerts {
    /// What has become of the alerts with what was found now.
    #[must_use]
    pub fn next(&self, findings: &[Finding], now: UnixMicros) -> Self {
        let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
        for finding in findings {
            let code = finding.reason.code();
            let (raise_after, _) = patience(code);
            let fresh = || Alert {
                level: finding.health,
                message: finding.reason.to_string(),
                remedy: finding.reason.remedy().to_owned(),
                since: now,
                raised: false,
                gone: None,
            };
            let mut alert = match self.0.get(code) {
                Some(alert) if alert.level >= finding.health => alert.clone(),
                Some(alert) => Alert { since: alert.since, raised: alert.raised, ..fresh() },
                None => fresh(),
            };
            alert.gone = None;
            alert.raised |= now.since(alert.since) >= Duration::from_secs(raise_after);
            alerts.insert(code.to_owned(), alert);
        }
        for (code, alert) in self.0.iter().filter(|(_, alert)| alert.raised) {
            let gone = alert.gone.unwrap_or(now);
            let (_, clear_after) = patience(code);
            if now.since(gone) < Duration::from_secs(clear_after) {
                alerts.entry(code.clone()).or_insert_with(|| Alert { gone: Some(gone), ..alert.clone() });
            }
        }
        Self(alerts)
    }

    /// Those that are to be told, by code.
    pub fn raised(&self) -> impl Iterator<Item = (&str, &Alert)> {
        self.0.iter().filter(|(_, alert)| alert.raised).map(|(code, alert)| (code.as_str(), alert))
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::Problem;

    use super::*;
    use crate::rpo::Reason;

    fn at(seconds: i64) -> UnixMicros {
        UnixMicros::new(seconds * 1_000_000)
    }

    fn failing(failures: u32) -> Finding {
        let error = Problem::new("UNAVAILABLE", "protectedItems/web1", "no link", "Look at the link.");
        let health = if failures < 3 { Health::Warning } else { Health::Critical };
        Finding { health, reason: Reason::Failing { failures, error } }
    }

    fn codes(alerts: &Alerts) -> Vec<&str> {
        alerts.raised().map(|(code, _)| code).collect()
    }

    #[test]
    fn r_rep_9_a_hiccup_is_no_alert_and_an_outage_is_one() {
        let quiet = Alerts::default().next(&[failing(1)], at(0)).next(&[], at(2));
        assert_eq!(quiet, Alerts::default());
        let mut alerts = Alerts::default();
        for second in 0..10 {
            alerts = alerts.next(&[failing(1)], at(second));
            assert_eq!(codes(&alerts), [""; 0], "raised after {second} s");
        }
        alerts = alerts.next(&[failing(4)], at(10));
        let (code, alert) = alerts.raised().next().unwrap();
        assert_eq!((code, alert.level, alert.since), ("CYCLES_FAILING", Health::Critical, at(0)));
        assert_eq!(alert.remedy, "Look at the link.");
    }

    #[test]
    fn r_rep_9_a_link_that_comes_and_goes_is_one_alert() {
        let mut alerts = Alerts::default();
        let mut changes = 0;
        for second in 0..600 {
            let findings = if second % 60 < 30 { vec![failing(1)] } else { Vec::new() };
            let next = alerts.next(&findings, at(second));
            changes += u32::from(codes(&next) != codes(&alerts));
            alerts = next;
        }
        assert_eq!((changes, codes(&alerts)), (1, vec!["CYCLES_FAILING"]));
        // Gone since second 570.
        assert_eq!(codes(&alerts.next(&[], at(689))), ["CYCLES_FAILING"]);
        assert_eq!(alerts.next(&[], at(690)), Alerts::default());
    }

    /// What only a person can heal is told at once, and is over at once when it is healed.
    #[test]
    fn r_rep_8_what_has_changed_under_protection_is_told_at_once() {
        let disks = vec!["vd".parse().unwrap()];
        let finding = Finding { health: Health::Warning, reason: Reason::DiskNotProtected { disks } };
        let alerts = Alerts::default().next(std::slice::from_ref(&finding), at(0));
        assert_eq!(codes(&alerts), ["DISK_NOT_PROTECTED"]);
        assert_eq!(alerts.next(&[], at(1)), Alerts::default());
    }
}
