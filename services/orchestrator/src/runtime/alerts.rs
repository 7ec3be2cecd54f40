//! Raises and clears the alerts of items, and shows all items' health to dashboards (R-REP-9).
//!
//! ```text
//!   every tick: items, hosts, policies ─▶ findings (pure) ─▶ alerts as they were ─▶ next (pure) ─▶ changed: one transaction, one line in the log
//!                                              └─▶ gauges
//! ```
//! Any number of instances may look: each computes the same from the same rows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use understudy_ids::{HostName, ItemName, UnixMicros};
use understudy_replication::{
    alert::Alerts,
    rpo::{Finding, Health},
};

use super::{Runtime, health::Observed};
use crate::store::{Failure, alerts, hosts, items, policies};

/// What this process shows to dashboards: a gauge of something that is over has to be told so.
#[derive(Default)]
pub struct Shown(BTreeMap<(ItemName, String), f64>);

pub async fn round(runtime: &Runtime, shown: &mut Shown, now: UnixMicros) -> Result<(), Failure> {
    let mut gauges = BTreeMap::new();
    let mut conn = runtime.reader().await?;
    let mut known: BTreeMap<HostName, Option<hosts::HostRecord>> = BTreeMap::new();
    for record in items::list(&mut conn, "", i64::MAX).await? {
        for name in [&record.active_host, &record.standby_host] {
            if !known.contains_key(name) {
                known.insert(name.clone(), hosts::get(&mut conn, name).await?);
            }
        }
        // The foreign key keeps the policy.
        let Some(policy) = policies::get(&mut conn, &record.policy).await? else { continue };
        let host = |name: &HostName| known.get(name).and_then(Option::as_ref);
        let (active, standby) = (host(&record.active_host), host(&record.standby_host));
        let observed = Observed { record: &record, policy: &policy, active, standby };
        let assessment = observed.assess(now);
        let (findings, level) = assessment
            .as_ref()
            .map_or((&[][..], Health::Warning), |found| (found.findings.as_slice(), found.health));
        let before = alerts::get(&mut conn, &record.name).await?;
        let after = before.next(findings, now);
        if after != before {
            change(runtime, &record.name, findings.to_vec(), now).await?;
        }
        let age = assessment.as_ref().and_then(|found| found.rpo);
        show(&record.name, level, age, policy.settings.rpo_objective);
        for (code, alert) in after.raised() {
            gauges.insert((record.name.clone(), code.to_owned()), rank(alert.level));
        }
    }
    shown.replace(gauges);
    Ok(())
}

/// From the alerts as they are in the transaction, so that two instances never raise one twice.
async fn change(
    runtime: &Runtime,
    item: &ItemName,
    findings: Vec<Finding>,
    now: UnixMicros,
) -> Result<(), Failure> {
    let what = Arc::new((item.clone(), findings));
    let (before, after) = runtime
        .write(move |tx| {
            let what = what.clone();
            Box::pin(async move {
                let (item, findings) = &*what;
                items::lock(&mut *tx, std::slice::from_ref(item)).await?;
                let before = alerts::get(&mut *tx, item).await?;
                let after = before.next(findings, now);
                if after != before {
                    alerts::set(tx, item, &after).await?;
                }
                Ok((before, after))
            })
        })
        .await?;
    tell(item, &before, &after);
    Ok(())
}

fn tell(item: &ItemName, before: &Alerts, after: &Alerts) {
    let was = |alerts: &Alerts, code: &str| alerts.raised().any(|(other, _)| other == code);
    for (code, alert) in after.raised().filter(|(code, _)| !was(before, code)) {
        tracing::warn!(%item, alert = code, level = ?alert.level, message = alert.message, remedy = alert.remedy, "alert raised");
    }
    for (code, alert) in before.raised().filter(|(code, _)| !was(after, code)) {
        tracing::info!(%item, alert = code, message = alert.message, "alert cleared");
    }
}

fn show(item: &ItemName, level: Health, age: Option<Duration>, objective: Duration) {
    let gauge = |metric: &'static str, value: f64| {
        metrics::gauge!(metric, "item" => item.to_string()).set(value);
    };
    gauge("understudy_item_health", rank(level));
    gauge("understudy_item_rpo_objective_seconds", objective.as_secs_f64());
    if let Some(age) = age {
        gauge("understudy_item_rpo_seconds", age.as_secs_f64());
    }
}

fn rank(level: Health) -> f64 {
    match level {
        Health::Ok => 0.0,
        Health::Warning => 1.0,
        Health::Unknown => 2.0,
        Health::Critical => 3.0,
    }
}

impl Shown {
    fn replace(&mut self, gauges: BTreeMap<(ItemName, String), f64>) {
        let over = self.0.keys().filter(|key| !gauges.contains_key(*key)).map(|key| (key, 0.0));
        for ((item, code), value) in over.chain(gauges.iter().map(|(key, value)| (key, *value))) {
            let labels = [("item", item.to_string()), ("alert", code.clone())];
            metrics::gauge!("understudy_item_alert", &labels).set(value);
        }
        self.0 = gauges;
    }
}
