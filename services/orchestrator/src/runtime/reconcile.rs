//! Asks for what crate `recovery` finds to be put right, each thing once.
//!
//! ```text
//!   items + facts of connected hosts + open runs ── corrections (pure) ──▶ one job with one task each, by key
//!                                                └─ none for a host ─▶ its boot id is settled
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::PgConnection;
use understudy_ids::{HostName, UnixMicros, Uuid};
use understudy_recovery::{
    action::{Action, DiskSize},
    plan::Executor,
    reconcile::{self, Correction, HostFacts, ItemFact, MachineFact},
};
use understudy_recovery_api::Resource;

use super::{
    Runtime,
    gather::{is_connected, policy_view},
    inventory::{Activity, ItemFacts, Role},
    message::Message,
    now,
    outbox::single_task_job,
};
use crate::store::{
    Failure, corrections,
    hosts::{self, HostRecord},
    items, outbox, policies, runs,
};

/// Leases that a correction may lose before it counts as failed; it is asked for again later.
const MAX_ATTEMPTS: u32 = 5;
/// An agent tells of a change within a second; facts that come later than this after it know of it.
const FACTS_DELAY: Duration = Duration::from_secs(2);

pub async fn round(runtime: &Runtime) -> Result<(), Failure> {
    runtime.write(|tx| Box::pin(correct(tx))).await
}

async fn correct(tx: &mut PgConnection) -> Result<(), Failure> {
    let now = now();
    let hosts = hosts::list(tx, "", "", i64::MAX).await?;
    let ended = runs::recently_ended(tx).await?;
    let facts: BTreeMap<HostName, HostFacts> = hosts
        .iter()
        .filter(|host| is_connected(host, now) && knows_of(host, ended.get(&host.name)))
        .filter_map(|host| Some((host.name.clone(), host_facts(host)?)))
        .collect();
    let items = item_records(tx, &hosts).await?;
    let open = runs::as_open(&runs::open(tx).await?);
    let found = reconcile::corrections(&items, &facts, &open);
    let unsettled: BTreeSet<&HostName> = found.iter().map(|correction| &correction.host).collect();
    for correction in &found {
        ask(tx, correction).await?;
    }
    let hosts: Vec<String> = facts.keys().map(ToString::to_string).collect();
    let wanted: Vec<String> = found.iter().map(|correction| correction.key.clone()).collect();
    corrections::forget_others(tx, &hosts, &wanted).await?;
    for (host, told) in facts.iter().filter(|(host, _)| !unsettled.contains(host)) {
        hosts::settled(tx, host, &told.boot_id).await?;
    }
    Ok(())
}

/// Whether the host's facts are younger than the end of the last run there. Older ones tell of a role that the run has changed since,
/// and correcting by them would undo the run's work.
fn knows_of(host: &HostRecord, ended: Option<&UnixMicros>) -> bool {
    let heard = host.heard.as_ref().map(|heard| heard.at);
    ended.is_none_or(|ended| heard.is_some_and(|heard| heard.since(*ended) >= FACTS_DELAY))
}

async fn ask(tx: &mut PgConnection, correction: &Correction) -> Result<(), Failure> {
    let job = Uuid::now_v7();
    if !corrections::insert(tx, &correction.key, &correction.host, job, &correction.reason).await? {
        return Ok(());
    }
    tracing::info!(key = correction.key, host = %correction.host, reason = correction.reason, "correcting");
    metrics::counter!("understudy_orchestrator_corrections_total").increment(1);
    let about = match &correction.action {
        Action::Agent { item, .. } => Some(item.to_resource()),
        _ => None,
    };
    let targets = about.into_iter().chain([correction.host.to_resource()]).collect();
    let create = single_task_job("reconcile", targets, correction.reason.clone());
    let task = Message::Enqueue {
        key: correction.key.clone(),
        title: correction.reason.clone(),
        executor: Executor::Host(correction.host.clone()),
        action: correction.action.clone(),
        max_attempts: MAX_ATTEMPTS,
        traceparent: None,
    };
    outbox::insert(tx, job, &[create, task]).await
}

async fn item_records(
    tx: &mut PgConnection,
    hosts: &[HostRecord],
) -> Result<Vec<reconcile::ItemRecord>, Failure> {
    let mut records = Vec::new();
    for item in items::list(tx, "", i64::MAX).await? {
        let Some(policy) = policies::get(tx, &item.policy).await? else { continue };
        let Some(standby) = hosts.iter().find(|host| host.name == item.standby_host) else { continue };
        records.push(reconcile::ItemRecord {
            name: item.name.clone(),
            sizes: sizes(&item),
            state: item.state,
            generation: item.generation,
            active_host: item.active_host.clone(),
            standby_host: item.standby_host.clone(),
            machine: item.machine.name,
            disks: item.disks,
            policy: policy_view(&policy),
            paused: item.paused.is_some(),
            peer_endpoint: standby.sink_endpoint.clone(),
            group: item.group,
        });
    }
    Ok(records)
}

/// Of the protected disks, as the machine was last told of.
fn sizes(item: &items::ItemRecord) -> Vec<DiskSize> {
    let disks = item.machine.disks.iter().filter(|disk| item.disks.contains(&disk.name));
    disks.map(|disk| DiskSize { name: disk.name.clone(), size_bytes: disk.size_bytes }).collect()
}

fn host_facts(host: &HostRecord) -> Option<HostFacts> {
    let heard = host.heard.as_ref()?;
    let inventory = &heard.inventory;
    Some(HostFacts {
        host: host.name.clone(),
        boot_id: inventory.boot_id.clone(),
        settled_boot_id: heard.settled_boot_id.clone(),
        machines: inventory
            .machines
            .iter()
            .map(|machine| MachineFact {
                name: machine.name.clone(),
                power: machine.power,
                item: machine.item.as_ref().map(|(item, _)| item.clone()),
                generation: machine.item.as_ref().map(|(_, generation)| *generation),
                test_run: machine.test_run,
            })
            .collect(),
        items: inventory.items.iter().map(item_fact).collect(),
        test_networks: inventory.test_networks.clone(),
    })
}

fn item_fact(facts: &ItemFacts) -> ItemFact {
    ItemFact {
        item: facts.item.clone(),
        generation: facts.generation,
        role: match facts.role {
            Role::Source => reconcile::Role::Source,
            Role::Target => reconcile::Role::Target,
            Role::Fenced => reconcile::Role::Fenced,
        },
        disks: facts.replication.as_ref().map(|r| r.disks.clone()).unwrap_or_default(),
        replicating: facts.replication.as_ref().is_some_and(|r| r.activity != Activity::Stopped),
        revision: facts.replication.as_ref().and_then(|r| r.revision.clone()),
        retention: facts.retention.clone(),
        latest_point: facts.points.iter().map(|p| p.seq).max(),
        stopped_by_lease: facts.lease.filter(|lease| !lease.ended).and_then(|lease| lease.stopped),
    }
}
