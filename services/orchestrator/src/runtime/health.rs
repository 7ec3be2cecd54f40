//! Replication health of an item, from what both its hosts told (R-REP-9).

use understudy_ids::{Consistency, DiskName, UnixMicros};
use understudy_recovery::{ItemState, plan};
use understudy_recovery_api::{
    HealthLevel,
    view::{Alert, Policy, ReplicationHealth, RpoPercentiles},
};
use understudy_replication::{
    alert::{self, Alerts},
    history::Percentiles,
    rpo::{self, Assessment, Health, RpoFacts},
};

use super::{
    gather::{SILENCE, is_connected, points_at},
    inventory::{Activity, Replication},
};
use crate::store::{hosts::HostRecord, items::ItemRecord};

/// An item with everything that its health follows from.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    pub record: &'a ItemRecord,
    pub policy: &'a Policy,
    pub active: Option<&'a HostRecord>,
    pub standby: Option<&'a HostRecord>,
}

impl<'a> Observed<'a> {
    /// What the active side tells about replication.
    fn replication(&self) -> Option<&'a Replication> {
        let inventory = &self.active?.heard.as_ref()?.inventory;
        inventory.item(&self.record.name)?.replication.as_ref()
    }

    /// Instant of the latest point at the target of a wanted kind.
    fn latest(&self, is_wanted: impl Fn(Consistency) -> bool) -> Option<UnixMicros> {
        let inventory = self.standby.and_then(|h| h.heard.as_ref()).map(|h| &h.inventory);
        let points = points_at(inventory, self.record).iter();
        points
            .filter(|point| point.is_offered() && is_wanted(point.consistency))
            .map(|point| point.instant)
            .next_back()
    }

    /// Every reason why the item is not simply healthy; nothing where replication is not meant to go on.
    pub fn assess(&self, now: UnixMicros) -> Option<Assessment> {
        if !replicates(self.record.state) {
            return None;
        }
        let both =
            self.active.zip(self.standby).is_some_and(|(a, s)| is_connected(a, now) && is_connected(s, now));
        let heard = |host: Option<&HostRecord>| host.and_then(|h| h.heard.as_ref()).map(|h| h.at);
        let oldest = [heard(self.active), heard(self.standby)].into_iter().min().flatten();
        let replication = self.replication();
        Some(rpo::assess(&RpoFacts {
            now,
            heard: oldest.filter(|_| both),
            silence: SILENCE,
            latest: self.latest(|_| true),
            objective: self.policy.settings.rpo_objective,
            initial_copy: replication.is_some_and(|r| r.activity == Activity::Initial)
                || self.record.state == ItemState::InitialReplication,
            paused: self.record.paused.clone(),
            stopped: replication.is_some_and(|r| r.activity == Activity::Stopped),
            covered: both && replication.is_some_and(|r| r.covered),
            failures: replication.map_or(0, |r| r.failures),
            last_error: replication.and_then(|r| r.last_error.clone()),
            unprotected: self.unprotected(),
            not_at_rest: replication.and_then(|r| r.not_at_rest.clone()),
            not_joint: replication.and_then(|r| r.not_joint.clone()).filter(|_| self.record.group.is_some()),
            damaged_points: self.damaged_points(),
        }))
    }

    /// Recovery points that a scrub has found damaged (R-REP-5).
    fn damaged_points(&self) -> u32 {
        let inventory = self.standby.and_then(|h| h.heard.as_ref()).map(|h| &h.inventory);
        let points = points_at(inventory, self.record).iter();
        let damaged = points.filter(|point| !point.is_base && point.damaged_blocks > 0).count();
        u32::try_from(damaged).unwrap_or(u32::MAX)
    }

    /// Disks that the machine has now and that are neither protected nor excluded (R-REP-8).
    fn unprotected(&self) -> Vec<DiskName> {
        let decided =
            |disk: &DiskName| self.record.disks.contains(disk) || self.record.excluded.contains(disk);
        let disks = self.record.machine.disks.iter().map(|disk| &disk.name);
        disks.filter(|disk| !decided(disk)).cloned().collect()
    }
}

/// What is known about the item's replication at this moment, with the worst of it first.
pub fn health(observed: &Observed<'_>, now: UnixMicros) -> ReplicationHealth {
    let mut health = shape(observed, now);
    let Some(assessment) = observed.assess(now) else {
        health.level = HealthLevel::Warning;
        health.reason = format!("the item is {}", observed.record.state);
        return health;
    };
    health.rpo = assessment.rpo;
    health.level = wire_level(assessment.health);
    if let Some(worst) = assessment.findings.first() {
        health.reason = worst.reason.to_string();
        health.remedy = worst.reason.remedy().to_owned();
    }
    health
}

/// The alerts as they are kept, in the words of this moment where what they are about is found still.
pub fn alerts(kept: &Alerts, observed: &Observed<'_>, now: UnixMicros) -> Vec<Alert> {
    let findings = observed.assess(now).map(|a| a.findings).unwrap_or_default();
    let told = |(code, alert): (&str, &alert::Alert)| {
        let found = findings.iter().find(|f| f.reason.code() == code);
        let (message, remedy) = match found {
            Some(found) => (found.reason.to_string(), found.reason.remedy().to_owned()),
            None => (alert.message.clone(), alert.remedy.clone()),
        };
        Alert {
            code: code.to_owned(),
            level: wire_level(alert.level),
            message,
            remedy,
            since: alert.since,
            gone_since: alert.gone,
        }
    };
    kept.raised().map(told).collect()
}

/// When the active host stopped the machine because its lease had ended; until it runs again.
pub fn stopped_by_lease(observed: &Observed<'_>) -> Option<UnixMicros> {
    let inventory = &observed.active?.heard.as_ref()?.inventory;
    inventory.item(&observed.record.name)?.lease?.stopped
}

fn wire_level(health: Health) -> HealthLevel {
    match health {
        Health::Ok => HealthLevel::Ok,
        Health::Warning => HealthLevel::Warning,
        Health::Critical => HealthLevel::Critical,
        Health::Unknown => HealthLevel::Unknown,
    }
}

/// Whether replication is meant to go on in this state.
fn replicates(state: ItemState) -> bool {
    match state {
        ItemState::InitialReplication | ItemState::Protected | ItemState::ReverseReplication => true,
        ItemState::PlannedFailover
        | ItemState::UnplannedFailover
        | ItemState::CommitPending
        | ItemState::RollingBack
        | ItemState::NotProtected
        | ItemState::Unprotecting
        | ItemState::Failed
        | ItemState::Removed => false,
    }
}

fn shape(observed: &Observed<'_>, now: UnixMicros) -> ReplicationHealth {
    let (latest, replication) = (observed.latest(|_| true), observed.replication());
    let ages = |ages: Percentiles| {
        let Percentiles { p50, p95, p99, worst, covered } = ages;
        RpoPercentiles { p50, p95, p99, worst, covered }
    };
    ReplicationHealth {
        level: HealthLevel::Unknown,
        reason: String::new(),
        remedy: String::new(),
        last_point: latest,
        last_application_point: observed.latest(|c| c == Consistency::Application),
        rpo: latest.map(|latest| now.since(latest)),
        rpo_objective: Some(observed.policy.settings.rpo_objective),
        activity: replication.map(|r| r.activity.as_str().to_owned()).unwrap_or_default(),
        sent_bytes: replication.map_or(0, |r| r.sent_bytes),
        total_bytes: replication.map_or(0, |r| r.total_bytes),
        last_cycle_bytes: replication.map_or(0, |r| r.last_cycle_bytes),
        last_cycle: replication.map(|r| r.last_cycle),
        last_cycle_kind: replication.map(|r| r.last_cycle_kind.clone()).unwrap_or_default(),
        last_error: replication.and_then(|r| r.last_error.clone()),
        failures: replication.map_or(0, |r| r.failures),
        failing_since: replication.and_then(|r| r.failing_since),
        backlog_bytes: replication.and_then(|r| r.backlog_bytes),
        throughput_bytes_per_second: replication.map_or(0, |r| r.throughput_bytes_per_second),
        last_hour: replication.and_then(|r| r.last_hour).map(ages),
        last_day: replication.and_then(|r| r.last_day).map(ages),
        alerts: Vec::new(),
    }
}

/// As the planner knows it.
pub fn level(health: &ReplicationHealth) -> plan::HealthLevel {
    match health.level {
        HealthLevel::Ok => plan::HealthLevel::Ok,
        HealthLevel::Warning => plan::HealthLevel::Warning,
        HealthLevel::Critical => plan::HealthLevel::Critical,
        HealthLevel::Unknown => plan::HealthLevel::Unknown,
    }
}
