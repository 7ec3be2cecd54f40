//! What a host has, as its agent last told: the stored form of facts.
//!
//! Kept apart from the wire's types, because rows outlive versions of the API, and from the planner's, because facts say more than
//! any one decision needs.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{
    Consistency, DiskName, Generation, ItemName, MacAddress, MachineName, NetworkName, PointSeq, Problem,
    RunId, UnixMicros, Uuid,
};
use understudy_recovery::plan::Power;
use understudy_replication::{Joint, RetentionPolicy, history::Percentiles};
use understudy_replication_api as facts;

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The agent's clock.
    pub time: UnixMicros,
    pub hypervisor: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub store_free_bytes: u64,
    pub machines: Vec<Machine>,
    pub networks: Vec<NetworkName>,
    pub items: Vec<ItemFacts>,
    pub test_networks: Vec<NetworkName>,
    pub boot_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub name: MachineName,
    pub uuid: Uuid,
    pub power: Power,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub item: Option<(ItemName, Generation)>,
    pub test_run: Option<RunId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub name: DiskName,
    pub size_bytes: u64,
    pub serial: Option<String>,
    pub replicable: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    pub mac: MacAddress,
    pub network: Option<NetworkName>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Source,
    Target,
    Fenced,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemFacts {
    pub item: ItemName,
    pub generation: Generation,
    pub role: Role,
    pub replication: Option<Replication>,
    /// Oldest first.
    pub points: Vec<Point>,
    /// Inventories that were written down before there were scrubs have none.
    #[serde(default)]
    pub scrub: Scrub,
    /// How a target keeps points.
    #[serde(default)]
    pub retention: Option<RetentionPolicy>,
    /// By which activation lease its machine runs here.
    #[serde(default)]
    pub lease: Option<Lease>,
}

/// An activation lease, as its holder counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub ended: bool,
    /// When the machine was stopped for that; until it runs again.
    pub stopped: Option<UnixMicros>,
}

/// How a replica was read again (R-REP-5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    pub last_end: Option<UnixMicros>,
    pub checked_blocks: u64,
    pub under_way_since: Option<UnixMicros>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    Initial,
    Steady,
    Resync,
    Error,
    Stopped,
    Paused,
    Queued,
}

impl Activity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Steady => "steady",
            Self::Resync => "resync",
            Self::Error => "error",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Queued => "queued",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    pub activity: Activity,
    pub last_seq: Option<PointSeq>,
    pub last_instant: Option<UnixMicros>,
    pub sent_bytes: u64,
    pub total_bytes: u64,
    pub last_cycle_bytes: u64,
    pub last_cycle: Duration,
    pub last_cycle_kind: String,
    pub last_error: Option<Problem>,
    // Rows of an earlier version do not have what follows.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub failing_since: Option<UnixMicros>,
    #[serde(default)]
    pub backlog_bytes: Option<u64>,
    #[serde(default)]
    pub throughput_bytes_per_second: u64,
    #[serde(default)]
    pub covered: bool,
    #[serde(default)]
    pub not_at_rest: Option<Problem>,
    #[serde(default)]
    pub last_hour: Option<Percentiles>,
    #[serde(default)]
    pub last_day: Option<Percentiles>,
    /// The disks that are replicated.
    #[serde(default)]
    pub disks: Vec<DiskName>,
    /// Of the assignment that is followed.
    #[serde(default)]
    pub revision: Option<String>,
    /// Why the last round of its consistency group came to nothing.
    #[serde(default)]
    pub not_joint: Option<Problem>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub seq: PointSeq,
    pub instant: UnixMicros,
    pub received: UnixMicros,
    pub generation: Generation,
    pub changed_bytes: u64,
    pub is_base: bool,
    pub pinned: bool,
    /// Inventories that were written down before points had one.
    #[serde(default = "crash")]
    pub consistency: Consistency,
    #[serde(default)]
    pub frozen: Option<Duration>,
    #[serde(default)]
    pub damaged_blocks: u64,
    #[serde(default)]
    pub encrypted: bool,
    #[serde(default)]
    pub unlocked_until: Option<UnixMicros>,
    /// When its instant is that of a consistency group.
    #[serde(default)]
    pub joint: Option<Joint>,
}

impl Point {
    /// Whether it may be failed over to.
    pub const fn is_offered(&self) -> bool {
        !self.is_base && self.damaged_blocks == 0
    }
}

fn crash() -> Consistency {
    Consistency::Crash
}

impl Inventory {
    pub fn machine(&self, name: &MachineName) -> Option<&Machine> {
        self.machines.iter().find(|m| m.name == *name)
    }

    pub fn item(&self, name: &ItemName) -> Option<&ItemFacts> {
        self.items.iter().find(|i| i.item == *name)
    }
}

impl From<facts::Facts> for Inventory {
    fn from(told: facts::Facts) -> Self {
        let facts::Facts {
            host: _,
            time,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines,
            networks,
            items,
            test_networks,
            boot_id,
        } = told;
        Self {
            time,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines: machines.into_iter().map(Machine::from).collect(),
            networks,
            items: items.into_iter().map(ItemFacts::from).collect(),
            test_networks,
            boot_id,
        }
    }
}

impl From<facts::Machine> for Machine {
    fn from(machine: facts::Machine) -> Self {
        let facts::Machine { name, uuid, power, vcpus, memory_bytes, disks, nics, item, test_run } = machine;
        let power = match power {
            facts::PowerState::Running => Power::Running,
            facts::PowerState::Paused => Power::Paused,
            facts::PowerState::ShutOff => Power::ShutOff,
            facts::PowerState::Unknown => Power::Unknown,
        };
        let disks = disks.into_iter().map(|disk| {
            let facts::Disk { name, size, format: _, serial, replicable } = disk;
            Disk { name, size_bytes: size, serial, replicable }
        });
        let nics = nics.into_iter().map(|nic| {
            let facts::Nic { mac, network, addresses } = nic;
            Nic { mac, network, addresses }
        });
        Self {
            name,
            uuid,
            power,
            vcpus,
            memory_bytes,
            disks: disks.collect(),
            nics: nics.collect(),
            item,
            test_run,
        }
    }
}

impl From<facts::ItemFacts> for ItemFacts {
    fn from(told: facts::ItemFacts) -> Self {
        let facts::ItemFacts { item, generation, role, replication, points, scrub, retention, lease } = told;
        let facts::ScrubFacts { last_end, checked_blocks, under_way_since } = scrub;
        let role = match role {
            facts::ItemRole::Source => Role::Source,
            facts::ItemRole::Target => Role::Target,
            facts::ItemRole::Fenced => Role::Fenced,
        };
        Self {
            item,
            generation,
            role,
            replication: replication.map(Replication::from),
            points: points.into_iter().map(Point::from).collect(),
            scrub: Scrub { last_end, checked_blocks, under_way_since },
            retention,
            lease: lease.map(|facts::LeaseFacts { length: _, ended, stopped }| Lease { ended, stopped }),
        }
    }
}

impl From<facts::ReplicationFacts> for Replication {
    fn from(told: facts::ReplicationFacts) -> Self {
        let facts::ReplicationFacts {
            state,
            last_seq,
            last_instant,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            cycles: _,
            last_error,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest,
            last_hour,
            last_day,
            disks,
            revision,
            group,
        } = told;
        let activity = match state {
            facts::ReplicationState::Initial => Activity::Initial,
            facts::ReplicationState::Steady => Activity::Steady,
            facts::ReplicationState::Resync => Activity::Resync,
            facts::ReplicationState::Error => Activity::Error,
            facts::ReplicationState::Stopped => Activity::Stopped,
            facts::ReplicationState::Paused => Activity::Paused,
            facts::ReplicationState::Queued => Activity::Queued,
        };
        Self {
            activity,
            last_seq,
            last_instant,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            last_error,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest,
            last_hour,
            last_day,
            disks,
            revision,
            not_joint: group.and_then(|group| group.missed),
        }
    }
}

impl From<facts::RecoveryPoint> for Point {
    fn from(told: facts::RecoveryPoint) -> Self {
        let facts::RecoveryPoint {
            seq,
            instant,
            received,
            generation,
            disks,
            is_base,
            pinned,
            consistency,
            frozen,
            damaged_blocks,
            encrypted,
            unlocked_until,
            joint,
        } = told;
        let changed_bytes = disks.iter().map(|d| d.changed_bytes).sum();
        Self {
            seq,
            instant,
            received,
            generation,
            changed_bytes,
            is_base,
            pinned,
            consistency,
            frozen,
            damaged_blocks,
            encrypted,
            unlocked_until,
            joint,
        }
    }
}
