//! The facts that a plan is made from, as the caller has gathered them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use understudy_ids::{
    Consistency, DiskName, Generation, HostName, ItemName, MacAddress, MachineName, NetworkName, PointSeq,
    PolicyName, Problem, UnixMicros,
};
use understudy_netplan::{ChosenAddress, ExistingNetwork, PlannedHook, PlannedRecord, SplitSubnet};
use understudy_probe::Probe;
use understudy_replication::{Joint, Membership, ReplicationSettings, RetentionPolicy};

use crate::{action::StartReplication, conflict::OpenRun, direction::SiteKind, item::ItemState};

/// Everything that matters to one plan, as of `now`.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanInput {
    pub now: UnixMicros,
    /// The items that the spec names, as far as they exist. Protect: the item as it would be made.
    pub items: Vec<ItemView>,
    /// Both sides of every item.
    pub hosts: BTreeMap<HostName, HostView>,
    /// From network-mapper's PlanConnections. Empty where the operation needs none, or for a test without network.
    pub connections: Connections,
    /// Runs that have not ended.
    pub open_runs: Vec<OpenRun>,
}

impl PlanInput {
    /// Whether the host's facts arrive at this moment.
    pub(crate) fn hears(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|host| host.connected)
    }
}

/// One item with all that is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemView {
    pub name: ItemName,
    /// As the active host last told.
    pub machine: MachineView,
    pub active_host: HostName,
    pub standby_host: HostName,
    /// What hosts other than the active one tell at this moment; one that cannot be heard, or tells nothing of the item, is not there
    /// (invariant 16).
    pub sides: BTreeMap<HostName, SideView>,
    /// The disks that are replicated.
    pub disks: Vec<DiskName>,
    pub policy: PolicyView,
    pub state: ItemState,
    /// Replication is paused.
    pub paused: bool,
    /// What its machine is asked when it has been started, in this order; none: whether its first address answers (R-TF-8).
    pub probes: Vec<Probe>,
    /// That somebody has chosen for its NICs (R-NET-5).
    pub addresses: Vec<ChosenAddress>,
    pub generation: Generation,
    /// Whole points at either side.
    pub points: Vec<PointView>,
    /// The highest number that either side has told of, whole or not.
    pub highest_point: Option<PointSeq>,
    pub health: HealthLevel,
    /// The consistency group that it belongs to, with all of its items, whatever is asked for.
    pub group: Option<Membership>,
    /// The point at the newest instant that the items of its group that are asked for share. Found when it is planned.
    pub common_point: Option<PointSeq>,
    /// Its active side holds an activation lease at this generation: how long it takes until that has certainly ended, if it is not renewed
    /// from now on (R-FO-7).
    pub lease_over_in: Option<Duration>,
}

/// A side that is not the active one.
#[derive(Debug, Clone, PartialEq)]
pub struct SideView {
    /// The highest generation that its agent has seen.
    pub generation: Generation,
    /// It starts, sends and accepts nothing.
    pub fenced: bool,
    /// The machine that is defined there for the item.
    pub machine: Option<MachineView>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MachineView {
    pub name: MachineName,
    pub uuid: String,
    /// `Unknown` also when its host cannot be heard (invariant 16).
    pub power: Power,
    pub disks: Vec<DiskView>,
    pub nics: Vec<NicView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    Running,
    Paused,
    ShutOff,
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DiskView {
    pub name: DiskName,
    pub size_bytes: u64,
    pub replicable: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NicView {
    pub mac: MacAddress,
    pub network: Option<NetworkName>,
    pub addresses: Vec<IpAddr>,
}

/// What the planner needs of a replication policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyView {
    pub name: PolicyName,
    pub interval: Duration,
    pub rpo_objective: Duration,
    pub settings: ReplicationSettings,
    pub retention: RetentionPolicy,
    pub shutdown_grace: Duration,
    pub power_off_after_grace: bool,
}

impl PolicyView {
    /// What the side of `machine` is to follow: the same for the run that begins replication and for whoever looks after it.
    pub fn assignment(
        &self,
        machine: &MachineName,
        disks: &[DiskName],
        peer_host: &HostName,
        peer_endpoint: &str,
        paused: bool,
    ) -> StartReplication {
        StartReplication {
            machine: machine.clone(),
            disks: disks.to_vec(),
            peer_host: peer_host.clone(),
            peer_endpoint: peer_endpoint.to_owned(),
            interval: self.interval,
            settings: self.settings.clone(),
            policy: Some(self.name.clone()),
            paused,
            rpo_objective: Some(self.rpo_objective),
            // Who else is in its group is decided when it is protected, and again whenever that changes; a plan would freeze it.
            group: None,
        }
    }
}

/// A point that is whole and was verified on arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointView {
    /// Where it is kept.
    pub host: HostName,
    pub seq: PointSeq,
    pub instant: UnixMicros,
    /// A base for reverse replication cannot be failed over to.
    pub is_base: bool,
    pub consistency: Consistency,
    /// Blocks that a scrub found damaged since (R-REP-5).
    pub damaged_blocks: u64,
    /// It can be opened only with a key, which its host has until then (R-REP-10).
    pub encrypted: bool,
    pub unlocked_until: Option<UnixMicros>,
    /// When its instant is that of a consistency group.
    pub joint: Option<Joint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthLevel {
    Ok,
    Warning,
    Critical,
    Unknown,
}

/// One host as its agent last told.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    pub site_kind: SiteKind,
    /// Its facts arrive at this moment.
    pub connected: bool,
    /// `https://address:port` of its sink, as its peers reach it.
    pub sink_endpoint: String,
    pub store_free_bytes: u64,
    /// Names in use, with the item each machine belongs to.
    pub machines: BTreeMap<MachineName, Option<ItemName>>,
    /// Names of machines that were made by tests.
    pub test_machines: BTreeSet<MachineName>,
    /// Networks that machines can be connected to, as its hypervisor calls them. `None` while it does not tell them (invariant 16).
    pub networks: Option<BTreeSet<NetworkName>>,
}

/// Where network-mapper would connect what, and every reason why it cannot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Connections {
    pub nics: Vec<PlannedNic>,
    /// For tests, in a stable order.
    pub test_networks: Vec<PlannedTestNetwork>,
    /// For a test on a network that is there already.
    pub existing: Option<ExistingNetwork>,
    /// For failovers: subnets whose addresses are retained and of which machines stay behind.
    pub split_subnets: Vec<SplitSubnet>,
    /// What names of the items in DNS are to say.
    pub records: Vec<PlannedRecord>,
    /// Whom to call for which items.
    pub hooks: Vec<PlannedHook>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlannedNic {
    pub item: ItemName,
    /// Index of the NIC in the machine.
    pub index: u32,
    pub mac: MacAddress,
    /// `sites/<site>/networks/<network>`; `None`: not connected.
    pub network: Option<String>,
    /// What the target's hypervisor calls it; not of a network that is made for the test.
    pub hypervisor_network: Option<NetworkName>,
    /// Index into `test_networks` (tests).
    pub test_network: Option<u32>,
    /// `None` where only the network's DHCP server knows.
    pub address: Option<IpAddr>,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTestNetwork {
    /// `sites/<site>/networks/<network>`
    pub stands_for: String,
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    pub isolation_targets: Vec<IpAddr>,
}
