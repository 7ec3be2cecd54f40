//! Gathers what a plan is made from: items, both their hosts, points, health, open runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::PgConnection;
use understudy_ids::{GroupName, HostName, ItemName, PointSeq, UnixMicros};
use understudy_recovery::{
    RunSpec,
    plan::{
        Connections, DiskView, HostView, ItemView, MachineView, NicView, PlanInput, PointView, PolicyView,
        Power, SideView,
    },
};
use understudy_recovery_api::{SiteKind, view::Policy};
use understudy_replication::{Membership, RetentionPolicy, activation::Granted};

use super::{
    health::{self, Observed},
    inventory::{Inventory, Machine, Point, Role},
};
use crate::store::{
    self, Failure,
    hosts::{self, HostRecord},
    items::{self, ItemRecord},
    policies, runs, sites,
};

/// A host that was silent for longer is not connected, whatever its stream says.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Whether the host's facts arrive at this moment.
pub fn is_connected(host: &HostRecord, now: UnixMicros) -> bool {
    host.heard.as_ref().is_some_and(|heard| heard.connected && now.since(heard.at) <= SILENCE)
}

/// Everything for the items of `spec`, without connections.
pub async fn input(conn: &mut PgConnection, spec: &RunSpec, now: UnixMicros) -> Result<PlanInput, Failure> {
    let mut items = Vec::new();
    for record in items::get(conn, &spec.items).await? {
        // The foreign key keeps the policy.
        if let Some(policy) = policies::get(conn, &record.policy).await? {
            items.push((record, policy));
        }
    }
    let plan = spec.recovery_plan.iter();
    let scripts = plan.flat_map(|plan| {
        let sites = [&plan.source_site, &plan.target_site];
        sites.into_iter().flat_map(|site| plan.scripts(spec.operation, site))
    });
    let script_hosts = scripts.map(|(_, script)| script.host.clone());
    let also: Vec<HostName> = script_hosts.chain(spec.standby_host.clone()).collect();
    of_items(conn, &items, &also, now).await
}

/// Everything for these items and hosts, without connections.
pub async fn of_items(
    conn: &mut PgConnection,
    items: &[(ItemRecord, Policy)],
    also: &[HostName],
    now: UnixMicros,
) -> Result<PlanInput, Failure> {
    let mut hosts = BTreeMap::new();
    let of_items = items.iter().flat_map(|(item, _)| [&item.active_host, &item.standby_host]);
    for name in of_items.chain(also) {
        if !hosts.contains_key(name)
            && let Some(host) = hosts::get(conn, name).await?
        {
            hosts.insert(name.clone(), host);
        }
    }
    let mut groups: BTreeMap<GroupName, BTreeSet<ItemName>> = BTreeMap::new();
    for group in items.iter().filter_map(|(item, _)| item.group.as_ref()) {
        if !groups.contains_key(group) {
            let members = store::groups::items(conn, group).await?;
            groups.insert(group.clone(), members.into_iter().collect());
        }
    }
    let items =
        items.iter().map(|(record, policy)| item_view(record, policy, &hosts, &groups, now)).collect();
    let mut views = BTreeMap::new();
    for (name, host) in &hosts {
        if let Some(site) = sites::get(conn, name.site()).await? {
            views.insert(name.clone(), host_view(host, site.kind, now));
        }
    }
    let open_runs = runs::as_open(&runs::open(conn).await?);
    Ok(PlanInput { now, items, hosts: views, connections: Connections::default(), open_runs })
}

fn item_view(
    record: &ItemRecord,
    policy: &Policy,
    hosts: &BTreeMap<HostName, HostRecord>,
    groups: &BTreeMap<GroupName, BTreeSet<ItemName>>,
    now: UnixMicros,
) -> ItemView {
    let active = hosts.get(&record.active_host);
    let standby = hosts.get(&record.standby_host);
    let at_active = active.and_then(|host| host.heard.as_ref()).map(|heard| &heard.inventory);
    let told = hosts.iter().filter_map(|(name, host)| Some((name, &host.heard.as_ref()?.inventory)));
    let points = told.clone().flat_map(|(host, inventory)| {
        points_at(Some(inventory), record).iter().map(|point| PointView {
            host: host.clone(),
            seq: point.seq,
            instant: point.instant,
            is_base: point.is_base,
            consistency: point.consistency,
            damaged_blocks: point.damaged_blocks,
            encrypted: point.encrypted,
            unlocked_until: point.unlocked_until,
            joint: point.joint.clone(),
        })
    });
    let heard_now = active.is_some_and(|host| is_connected(host, now));
    let others = hosts.iter().filter(|(name, host)| **name != record.active_host && is_connected(host, now));
    ItemView {
        name: record.name.clone(),
        machine: machine_of(record, at_active, heard_now),
        active_host: record.active_host.clone(),
        standby_host: record.standby_host.clone(),
        sides: others.filter_map(|(name, host)| Some((name.clone(), side_of(record, host)?))).collect(),
        disks: record.disks.clone(),
        policy: policy_view(policy),
        state: record.state,
        paused: record.paused.is_some(),
        probes: record.probes.clone(),
        addresses: record.addresses.clone(),
        generation: record.generation,
        points: points.collect(),
        highest_point: highest_point(record, told.map(|(_, inventory)| inventory)),
        health: health::level(&health::health(&Observed { record, policy, active, standby }, now)),
        group: record.group.clone().map(|group| {
            let members = groups.get(&group).cloned().unwrap_or_default();
            Membership { group, members }
        }),
        common_point: None,
        lease_over_in: record.binding_lease().map(Granted::over_in),
    }
}

/// What a host tells of the item, and of the machine that it has for it.
fn side_of(record: &ItemRecord, host: &HostRecord) -> Option<SideView> {
    let inventory = &host.heard.as_ref()?.inventory;
    let facts = inventory.item(&record.name)?;
    let found = inventory.machine(&record.machine.name).filter(|machine| {
        let of_item = machine.item.as_ref().is_some_and(|(item, _)| *item == record.name);
        of_item && machine.uuid == record.machine.uuid
    });
    Some(SideView {
        generation: facts.generation,
        fenced: facts.role == Role::Fenced,
        machine: found.map(machine_view),
    })
}

/// The item's points at one side, oldest first.
pub fn points_at<'a>(inventory: Option<&'a Inventory>, record: &ItemRecord) -> &'a [Point] {
    inventory.and_then(|i| i.item(&record.name)).map_or(&[], |facts| facts.points.as_slice())
}

fn highest_point<'a>(record: &ItemRecord, told: impl Iterator<Item = &'a Inventory>) -> Option<PointSeq> {
    told.filter_map(|inventory| inventory.item(&record.name))
        .flat_map(|facts| {
            let sent = facts.replication.as_ref().and_then(|r| r.last_seq);
            facts.points.iter().map(|p| p.seq).chain(sent)
        })
        .max()
}

/// The machine as its host tells of it now, or else as it was last told of, with unknown power (invariant 16).
pub fn machine_of(record: &ItemRecord, active: Option<&Inventory>, heard_now: bool) -> MachineView {
    // Another machine that has taken the name is not the item's (R-REP-8).
    let found = active.and_then(|inventory| inventory.machine(&record.machine.name));
    let found = found.filter(|machine| machine.uuid == record.machine.uuid);
    let mut view = machine_view(found.unwrap_or(&record.machine));
    if found.is_none() || !heard_now {
        view.power = Power::Unknown;
    }
    view
}

fn machine_view(machine: &Machine) -> MachineView {
    MachineView {
        name: machine.name.clone(),
        uuid: machine.uuid.to_string(),
        power: machine.power,
        disks: machine
            .disks
            .iter()
            .map(|disk| DiskView {
                name: disk.name.clone(),
                size_bytes: disk.size_bytes,
                replicable: disk.replicable,
            })
            .collect(),
        nics: machine
            .nics
            .iter()
            .map(|nic| NicView {
                mac: nic.mac,
                network: nic.network.clone(),
                addresses: nic.addresses.clone(),
            })
            .collect(),
    }
}

/// What a policy asks for.
pub fn policy_view(Policy { name, settings, .. }: &Policy) -> PolicyView {
    PolicyView {
        name: name.clone(),
        interval: settings.interval,
        rpo_objective: settings.rpo_objective,
        settings: settings.replication.clone(),
        retention: RetentionPolicy {
            keep_count: Some(settings.keep_count),
            keep_age: Some(settings.keep_age),
            tiers: settings.keep_tiers.clone(),
        },
        shutdown_grace: settings.shutdown_grace,
        power_off_after_grace: settings.power_off_after_grace,
    }
}

fn host_view(host: &HostRecord, kind: SiteKind, now: UnixMicros) -> HostView {
    let inventory = host.heard.as_ref().map(|heard| &heard.inventory);
    let machines = inventory.map(|i| i.machines.as_slice()).unwrap_or_default();
    let (tests, real): (Vec<_>, Vec<_>) = machines.iter().partition(|m| m.test_run.is_some());
    HostView {
        site_kind: site_kind(kind),
        connected: is_connected(host, now),
        sink_endpoint: host.sink_endpoint.clone(),
        store_free_bytes: inventory.map_or(0, |i| i.store_free_bytes),
        machines: real.into_iter().map(|m| (m.name.clone(), m.item.clone().map(|(item, _)| item))).collect(),
        test_machines: tests.into_iter().map(|m| m.name.clone()).collect(),
        // A hypervisor that was not asked yet, or does not answer, has none to tell.
        networks: inventory
            .map(|i| i.networks.iter().cloned().collect())
            .filter(|n: &BTreeSet<_>| !n.is_empty()),
    }
}

fn site_kind(kind: SiteKind) -> understudy_recovery::direction::SiteKind {
    use understudy_recovery::direction::SiteKind as Domain;
    match kind {
        SiteKind::PrivateCloud => Domain::PrivateCloud,
        SiteKind::Hypervisor => Domain::Hypervisor,
        SiteKind::Vmware => Domain::Vmware,
        SiteKind::Physical => Domain::Physical,
        SiteKind::PublicCloud => Domain::PublicCloud,
    }
}
