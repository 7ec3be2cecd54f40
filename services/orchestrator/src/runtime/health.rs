//! Replication health of an item, from what both its hosts told (R-REP-9).

use understudy_ids::UnixMicros;
use understudy_recovery::{ItemState, plan};
use understudy_recovery_api::{
    HealthLevel,
    view::{Policy, ReplicationHealth},
};
use understudy_replication::rpo::{self, Health, RpoFacts};

use super::{
    gather::{SILENCE, is_connected, points_at},
    inventory::{Activity, Replication},
};
use crate::store::{hosts::HostRecord, items::ItemRecord};

/// What is known about the item's replication at this moment, with the worst of it first.
pub fn assess(
    record: &ItemRecord,
    policy: &Policy,
    active: Option<&HostRecord>,
    standby: Option<&HostRecord>,
    now: UnixMicros,
) -> ReplicationHealth {
    let heard = |host: Option<&HostRecord>| host.and_then(|h| h.heard.clone());
    let (at_active, at_standby) = (heard(active), heard(standby));
    let replication = at_active
        .as_ref()
        .and_then(|h| h.inventory.item(&record.name))
        .and_then(|facts| facts.replication.clone());
    let latest = points_at(at_standby.as_ref().map(|h| &h.inventory), record)
        .iter()
        .rfind(|point| !point.is_base)
        .map(|point| point.instant);
    let mut health = shape(policy, replication.as_ref(), latest, now);
    if !replicates(record.state) {
        health.level = HealthLevel::Warning;
        health.reason = format!("the item is {}", record.state);
        return health;
    }
    let both = active.zip(standby).is_some_and(|(a, s)| is_connected(a, now) && is_connected(s, now));
    let heard_both = [at_active.as_ref().map(|h| h.at), at_standby.as_ref().map(|h| h.at)];
    let oldest = heard_both.into_iter().min().flatten();
    let failing = replication.as_ref().filter(|r| r.activity == Activity::Error);
    let assessment = rpo::assess(&RpoFacts {
        now,
        heard: oldest.filter(|_| both),
        silence: SILENCE,
        latest,
        objective: policy.rpo_objective,
        initial_copy: replication.as_ref().is_some_and(|r| r.activity == Activity::Initial)
            || record.state == ItemState::InitialReplication,
        paused: replication.as_ref().is_some_and(|r| r.activity == Activity::Stopped),
        failures: u32::from(failing.is_some()),
        last_error: failing.and_then(|r| r.last_error.as_ref()).map(|e| e.message.clone()),
        damaged_points: 0,
    });
    health.level = match assessment.health {
        Health::Ok => HealthLevel::Ok,
        Health::Warning => HealthLevel::Warning,
        Health::Critical => HealthLevel::Critical,
        Health::Unknown => HealthLevel::Unknown,
    };
    health.reason = assessment.reasons.first().map(ToString::to_string).unwrap_or_default();
    health
}

/// Whether replication is meant to go on in this state.
fn replicates(state: ItemState) -> bool {
    match state {
        ItemState::InitialReplication | ItemState::Protected | ItemState::ReverseReplication => true,
        ItemState::PlannedFailover
        | ItemState::UnplannedFailover
        | ItemState::CommitPending
        | ItemState::NotProtected
        | ItemState::Unprotecting
        | ItemState::Failed
        | ItemState::Removed => false,
    }
}

fn shape(
    policy: &Policy,
    replication: Option<&Replication>,
    latest: Option<UnixMicros>,
    now: UnixMicros,
) -> ReplicationHealth {
    ReplicationHealth {
        level: HealthLevel::Unknown,
        reason: String::new(),
        last_point: latest,
        rpo: latest.map(|latest| now.since(latest)),
        rpo_objective: Some(policy.rpo_objective),
        activity: replication.map(|r| r.activity.as_str().to_owned()).unwrap_or_default(),
        sent_bytes: replication.map_or(0, |r| r.sent_bytes),
        total_bytes: replication.map_or(0, |r| r.total_bytes),
        last_cycle_bytes: replication.map_or(0, |r| r.last_cycle_bytes),
        last_cycle: replication.map(|r| r.last_cycle),
        last_cycle_kind: replication.map(|r| r.last_cycle_kind.clone()).unwrap_or_default(),
        last_error: replication.and_then(|r| r.last_error.clone()),
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
