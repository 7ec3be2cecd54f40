//! What an agent tells about its host, as domain types: facts, never decisions.
//!
//! ```text
//!   agent: Facts ── GetFacts, WatchFacts ──▶ orchestrator
//! ```

mod wire;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use understudy_ids::{
    Consistency, DiskName, Generation, GroupName, HostName, ItemName, MacAddress, MachineName, NetworkName,
    PointSeq, Problem, RunId, UnixMicros, Uuid,
};
use understudy_replication::{BlockDigest, Joint, RetentionPolicy, history::Percentiles};

/// One host as its agent sees it at `time`.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub host: HostName,
    pub time: UnixMicros,
    /// Driver and versions; "simulated" says so.
    pub hypervisor: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Free space of the file system that holds the replica store.
    pub store_free_bytes: u64,
    pub machines: Vec<Machine>,
    pub networks: Vec<NetworkName>,
    pub items: Vec<ItemFacts>,
    pub test_networks: Vec<NetworkName>,
    /// Changes when the host was started anew.
    pub boot_id: String,
}

/// Whether a machine runs. [`PowerState::Unknown`] is never taken for off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    Running,
    Paused,
    ShutOff,
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub name: MachineName,
    pub uuid: Uuid,
    pub power: PowerState,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    /// The protected item it belongs to and at which generation; `None` for a machine that is not protected.
    pub item: Option<(ItemName, Generation)>,
    /// Set for a machine made by a test.
    pub test_run: Option<RunId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub name: DiskName,
    pub size: u64,
    /// `qcow2` or `raw`.
    pub format: String,
    pub serial: Option<String>,
    /// False where it is not a file: such a disk must be excluded (R-REP-1).
    pub replicable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub mac: MacAddress,
    pub network: Option<NetworkName>,
    pub addresses: Vec<IpAddr>,
}

/// The agent's place in the protection of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemRole {
    /// Holds the machine that production uses.
    Source,
    /// Receives recovery points.
    Target,
    /// Was active at a lower generation: starts, sends and accepts nothing.
    Fenced,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ItemFacts {
    pub item: ItemName,
    /// The highest that this agent has seen.
    pub generation: Generation,
    pub role: ItemRole,
    /// As source: what replication does.
    pub replication: Option<ReplicationFacts>,
    /// As target: the points that are whole and were verified on arrival, oldest first; damaged ones too.
    pub points: Vec<RecoveryPoint>,
    /// As target: how its replica was read again (R-REP-5).
    pub scrub: ScrubFacts,
    /// As target: how points are kept; `None` from versions that do not say.
    pub retention: Option<RetentionPolicy>,
    /// By which activation lease its machine runs here; `None` where it is bound by none.
    pub lease: Option<LeaseFacts>,
}

/// An activation lease, as its holder counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFacts {
    pub length: Duration,
    /// It was not renewed in time: the machine must not run here until it is.
    pub ended: bool,
    /// When the machine was stopped for that; `None` again when it runs.
    pub stopped: Option<UnixMicros>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubFacts {
    /// When the last pass over all points ended.
    pub last_end: Option<UnixMicros>,
    /// Blocks that it compared with their digests.
    pub checked_blocks: u64,
    /// While a pass is under way: since when.
    pub under_way_since: Option<UnixMicros>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPoint {
    pub seq: PointSeq,
    /// Every write that the guest was told is durable before this time is in the point.
    pub instant: UnixMicros,
    pub received: UnixMicros,
    pub generation: Generation,
    pub disks: Vec<PointDisk>,
    /// A base for reverse replication; not a recovery point that can be failed over to.
    pub is_base: bool,
    /// A running test or machine uses it.
    pub pinned: bool,
    pub consistency: Consistency,
    /// For how long the guest's file systems were frozen for it.
    pub frozen: Option<Duration>,
    /// Blocks that a scrub found damaged; such a point is not to be failed over to.
    pub damaged_blocks: u64,
    /// It can be opened only with a key.
    pub encrypted: bool,
    /// Until when the host has that key.
    pub unlocked_until: Option<UnixMicros>,
    /// When the instant is that of a consistency group.
    pub joint: Option<Joint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointDisk {
    pub name: DiskName,
    pub size: u64,
    /// Bytes that this point changed against the one before it.
    pub changed_bytes: u64,
    pub root: BlockDigest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationState {
    Initial,
    Steady,
    Resync,
    /// The last cycle failed; it goes on trying.
    Error,
    Stopped,
    /// Sends nothing, as it was asked to, and tracks what is written.
    Paused,
    /// A cycle is due and waits for its turn.
    Queued,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReplicationFacts {
    pub state: ReplicationState,
    pub last_seq: Option<PointSeq>,
    pub last_instant: Option<UnixMicros>,
    /// Of the cycle that runs: durable at the target or found there, of what has to be looked at.
    pub sent_bytes: u64,
    pub total_bytes: u64,
    /// Of the last finished cycle: payload bytes on the wire.
    pub last_cycle_bytes: u64,
    pub last_cycle: Duration,
    /// How the last cycle found its changes, with the reason.
    pub last_cycle_kind: String,
    pub cycles: u64,
    /// What the last cycle failed with; nothing once one has completed.
    pub last_error: Option<Problem>,
    /// Cycles that have failed in a row.
    pub failures: u32,
    pub failing_since: Option<UnixMicros>,
    /// Still to be shipped, as far as change tracking tells.
    pub backlog_bytes: Option<u64>,
    /// Of the cycle that runs, over its last seconds.
    pub throughput_bytes_per_second: u64,
    /// The machine is off and everything that it wrote is at the target.
    pub covered: bool,
    /// Why the guest was not brought to rest the last time that it was asked to.
    pub not_at_rest: Option<Problem>,
    /// Age of the latest point over the last hour and day (R-REP-9).
    pub last_hour: Option<Percentiles>,
    pub last_day: Option<Percentiles>,
    /// The disks that are replicated.
    pub disks: Vec<DiskName>,
    /// Of the assignment that is followed, empty where it was given none; `None` from versions that do not say.
    pub revision: Option<String>,
    /// Of an item of a consistency group.
    pub group: Option<GroupFacts>,
}

/// How the rounds of an item's consistency group go (R-REP-12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFacts {
    pub group: GroupName,
    /// Of the last round that this item took part in.
    pub last_instant: Option<UnixMicros>,
    pub members: BTreeSet<ItemName>,
    /// From when the first guest was asked to stand still until the last one went on.
    pub last_pause: Option<Duration>,
    /// Why the last round came to nothing, so that this item's point is of its own instant.
    pub missed: Option<Problem>,
}

impl GroupFacts {
    /// Before its first round.
    pub fn new(group: GroupName) -> Self {
        Self { group, last_instant: None, members: BTreeSet::new(), last_pause: None, missed: None }
    }
}
