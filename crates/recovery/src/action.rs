//! What one step asks for: the domain form of agent tasks, network tasks, the orchestrator's own steps and people's.
//!
//! ```text
//!   plan:  CreateTestMachine { name: Test(web1), nics: [Test(0)] }      the run has no identifier yet
//!   start: resolve(action, facts of the run)
//!   task:  CreateTestMachine { name: web1-test-0a1b2c3d, nics: [ust-0a1b2c3d-0] }
//! ```
//!
//! A plan is made, shown and digested before its run exists, so it names what depends on the run by reference. [`resolve`]
//! fills the references in when a step is sent; what it returns holds none any more.

mod resolve;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

pub use resolve::{
    KnownPoints, TEST_SUFFIX_CHARS, Unresolved, is_test_network_of, resolve, test_machine_name,
    test_network_name,
};
use serde::{Deserialize, Serialize};
use understudy_ids::{
    DiskName, Generation, HostName, ItemName, MacAddress, MachineName, NetworkName, PlanPartName, PointSeq,
    PolicyName, RunId, ScriptName, SeedName, StepName, UnixMicros, Uuid,
};
use understudy_netplan::{DnsName, TrafficChange, ZonePurpose};
use understudy_probe::Probe;
use understudy_replication::{Membership, ReplicationSettings, RetentionPolicy};

/// What a step asks for, and of whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Of a replication agent: one thing about one item, at one generation. What is done for a whole run (a test network)
    /// is sent in the name of one of its items.
    Agent { item: ItemName, generation: Generation, work: AgentWork },
    /// Of network-mapper.
    Network(NetworkWork),
    /// Of the orchestrator itself; done by [`advance`](crate::run::advance) or by waiting for facts.
    Internal(Internal),
    /// Of a person.
    Operator(OperatorWait),
}

/// What must be true afterwards on an agent's host. `replication/v1/tasks.proto` says what each promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentWork {
    PrepareReplica {
        disks: Vec<DiskSize>,
        retention: RetentionPolicy,
    },
    /// The disks as they are at one instant, on a medium at this host (R-REP-11).
    ExportSeed {
        machine: MachineName,
        disks: Vec<DiskName>,
        seed: SeedName,
    },
    /// What a medium at this host has of the disks is the base of the first copy.
    ImportSeed {
        disks: Vec<DiskSize>,
        seed: SeedName,
    },
    RemoveSeed {
        seed: SeedName,
    },
    StartReplication(Box<StartReplication>),
    StopReplication {
        forget: bool,
    },
    RemoveReplica,
    Fence {
        power_off: bool,
    },
    ShutDownMachine {
        machine: MachineName,
        grace: Duration,
        then_power_off: bool,
    },
    SyncFinal {
        machine: MachineName,
    },
    DigestDisks {
        machine: MachineName,
    },
    VerifyPoint {
        point: PointRef,
    },
    CreateTestMachine {
        point: PointRef,
        name: MachineRef,
        nics: Vec<NetworkRef>,
    },
    PromotePoint {
        point: PointRef,
        nics: Vec<NetworkRef>,
    },
    /// As [`Self::PromotePoint`], with what the machine of that test has written on top of the point. The machine is asked to shut down first, and
    /// powered off when it has not within `grace`; nothing of it is left.
    PromoteTest {
        run: RunId,
        test_machine: MachineName,
        grace: Duration,
        point: PointRef,
        nics: Vec<NetworkRef>,
    },
    /// As [`Self::StartMachine`], in this boot of the host only.
    StartInBoot {
        machine: MachineRef,
        boot_id: String,
    },
    StartMachine {
        machine: MachineRef,
    },
    /// The machine is asked until it gives the answer that is wanted, or time is up (R-TF-8).
    ProbeMachine {
        machine: MachineRef,
        network: NetworkRef,
        /// None for a probe that goes through no network.
        address: Option<IpAddr>,
        /// Runs that were begun before there was a choice ping.
        #[serde(default = "ping")]
        probe: Box<Probe>,
    },
    /// What the machine's console shows is kept with the run (R-TF-8).
    TakeScreenshot {
        machine: MachineRef,
    },
    RemoveTestMachine {
        machine: MachineRef,
    },
    EnsureTestNetwork {
        name: NetworkRef,
        gateway: Ipv4Addr,
        prefix_len: u8,
        reservations: Vec<DhcpReservation>,
    },
    ProbeIsolation {
        network: NetworkRef,
        targets: Vec<IpAddr>,
    },
    RemoveTestNetwork {
        name: NetworkRef,
    },
    /// The run has a port on a network that was there before it, and from there nothing of production answers (R-TF-2, R-TF-9).
    ProbeExistingNetwork(Box<ExistingNetworkProbe>),
    /// The run has no port on that network any more.
    RemoveProbePort {
        network: NetworkName,
    },
    AdoptDisks {
        machine: MachineName,
        point: PointRef,
    },
    /// What the machine made from `point` wrote lies aside, so that it can be had back; the machine is not defined.
    SetAside {
        machine: MachineName,
        point: PointSeq,
    },
    /// Nothing lies aside.
    DropAside,
    /// The machine that was made at this generation is not there any more, nor is anything that it wrote.
    DiscardPromotion {
        machine: MachineName,
        generation: Generation,
    },
    CommitItem,
    /// Points were read again and compared with their digests: all of them, or one.
    ScrubItem {
        point: Option<PointSeq>,
    },
    /// The script has run to its end (R-RP-2). It acts for the whole run; the item is only the one in whose name it is sent.
    RunScript(Box<RunScript>),
}

/// From where and for what a network that a test is connected to is searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExistingNetworkProbe {
    /// As the host's hypervisor calls it.
    pub network: NetworkName,
    /// Of the run's port.
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// Through which what is outside of the network's subnet would be reached.
    pub gateway: Option<Ipv4Addr>,
    /// Must not answer.
    pub targets: Vec<IpAddr>,
    /// That the machines will have; nobody may have them yet.
    pub planned: Vec<IpAddr>,
}

/// A script of the host's library. Each time this is sent it runs, also when an attempt before came to no answer, so the scripts
/// are told which attempt it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunScript {
    pub script: ScriptName,
    /// SHA-256 of the file, as 64 lower-case hexadecimal digits. A file with another one does not run.
    pub sha256: String,
    /// After this it is killed.
    pub time_out: Duration,
    /// A JSON object of at most 64 KiB, which the script reads from its standard input.
    pub context: String,
}

/// A machine's replication, until told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReplication {
    pub machine: MachineName,
    pub disks: Vec<DiskName>,
    pub peer_host: HostName,
    pub peer_endpoint: String,
    pub interval: Duration,
    #[serde(default)]
    pub settings: ReplicationSettings,
    #[serde(default)]
    pub policy: Option<PolicyName>,
    /// Nothing is sent until this is taken back.
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub rpo_objective: Option<Duration>,
    /// With which other items it shares its instants. Left out where there are none, as a revision of before has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Membership>,
}

impl StartReplication {
    /// A short name of exactly this assignment. The agent tells it back, so that what it follows can be compared with what it is to follow.
    pub fn revision(&self) -> String {
        let mut whole = self.clone();
        whole.disks.sort();
        let json = serde_json::to_vec(&whole)
            .unwrap_or_else(|error| unreachable!("assignments hold no maps: {error}"));
        Uuid::new_v5(&Uuid::nil(), &json).simple().to_string()
    }
}

/// One replicated disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSize {
    pub name: DiskName,
    pub size_bytes: u64,
}

fn ping() -> Box<Probe> {
    Box::new(Probe::ping())
}

/// An address that a test network's DHCP gives to one Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpReservation {
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub host_name: String,
}

/// A machine, possibly one that is named after the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineRef {
    Named(MachineName),
    /// The machine that this run's test makes of that one.
    Test(MachineName),
}

/// Where a NIC is connected, as the host's hypervisor calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkRef {
    Unconnected,
    Named(NetworkName),
    /// The run's test network with this index.
    Test(u32),
}

/// A recovery point, possibly one that the run itself makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointRef {
    Seq(PointSeq),
    /// The latest that the agent has when it does it (tests).
    Latest,
    /// The one that the plan announced for the item (invariant 8: the loss that is shown is the loss).
    Announced,
    /// The one that this step of the run shipped.
    FinalOf(StepName),
    /// The same if it did, and otherwise the announced one.
    FinalElseAnnounced(StepName),
    /// A number above every point of the item, for the base of reverse replication.
    NewBase,
}

/// What network-mapper is asked for in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkWork {
    /// All or nothing.
    ReserveAddresses { test: bool, nics: Vec<ReservedNic>, test_networks: Vec<ReservedTestNetwork> },
    /// The run holds nothing any more.
    ReleaseRun,
    /// The item's names in DNS have these addresses (R-NET-12). `test`: only zones for tests are written to, otherwise only zones of production.
    SetRecords { item: ItemName, test: bool, records: Vec<RecordAddress> },
    /// The item's names that the run has set have again what they had before.
    RestoreRecords { item: ItemName },
    /// Whoever leads clients to the item's machine otherwise knows where it is (R-NET-12). Never in a test.
    CallHook(Box<TrafficChange>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAddress {
    pub name: DnsName,
    pub zone: DnsName,
    pub purpose: ZonePurpose,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedNic {
    pub item: ItemName,
    pub mac: MacAddress,
    /// `sites/<site>/networks/<network>`
    pub network: String,
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedTestNetwork {
    pub name: NetworkRef,
    /// `sites/<site>/networks/<network>`
    pub stands_for: String,
    pub hosts: Vec<HostName>,
}

/// What the orchestrator does itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Internal {
    /// From here on `active` is the item's only side. Committed before anyone is told to promote (R-FO-7).
    RaiseGeneration { item: ItemName, generation: Generation, active: HostName, standby: HostName },
    /// From here on `standby` is the item's other side, if its generation is still this one. The old one may not come up whether it hears of that or
    /// not: it is not the active side.
    SetStandby { item: ItemName, generation: Generation, standby: HostName },
    /// These tests have ended, or are at least asked to (R-TF-7). Ends with [`Event::TestsEnded`](crate::run::Event::TestsEnded).
    EndTests { runs: BTreeSet<RunId> },
    /// The roots that the two steps reported are equal, disk by disk (R-PF-2).
    CompareDigests { item: ItemName, source: StepName, target: StepName },
    /// Ends with [`Event::FirstPoint`](crate::run::Event::FirstPoint).
    AwaitFirstPoint { item: ItemName, standby: HostName, generation: Generation },
    /// The item's activation lease at this generation, which its active side holds, has certainly ended. Nothing is granted meanwhile. Ends with
    /// [`Event::LeaseOver`](crate::run::Event::LeaseOver).
    AwaitLease { item: ItemName, generation: Generation },
    /// Only the step's records: see [`Step::records`](crate::plan::Step::records).
    Record { item: ItemName },
    /// Nothing, for so long from when it begins. By the clock that all share, whose jumps make it shorter or longer.
    Delay { span: Duration },
}

/// What a person is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorWait {
    CompleteTest,
    /// The copies of a failback are whole and kept current (R-FB-2).
    CompleteFailover,
    Commit,
    /// The medium with the first copy is on its way (R-REP-11).
    DeliverSeed,
    /// Somebody does what a recovery plan says (R-RP-2).
    Manual {
        name: PlanPartName,
        instructions: String,
    },
    /// Somebody says that the run goes on, although not all of these steps of a group have succeeded (R-RP-3).
    Gate {
        group: PlanPartName,
        watched: BTreeSet<StepName>,
    },
}

impl OperatorWait {
    /// Whether it is answered by confirming it, and not by a verb of its own.
    pub const fn is_confirmed(&self) -> bool {
        matches!(self, Self::DeliverSeed | Self::Manual { .. } | Self::Gate { .. })
    }

    /// Whether it may be answered by *no*.
    pub const fn may_be_rejected(&self) -> bool {
        matches!(self, Self::Manual { .. } | Self::Gate { .. })
    }
}

/// What came of a step, as workers report it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    Done,
    MachineStopped {
        by_guest: bool,
        time: UnixMicros,
    },
    FinalPoint {
        seq: PointSeq,
        instant: UnixMicros,
        sent_bytes: u64,
    },
    DiskDigests(Vec<DiskRoot>),
    MachineCreated {
        machine: MachineName,
        seq: PointSeq,
        instant: UnixMicros,
    },
    MachineStarted {
        time: UnixMicros,
    },
    /// What came of asking a machine.
    Probe {
        /// It gave the answer that was wanted.
        reachable: bool,
        /// From the first question on.
        after: Duration,
        /// What was seen last, in words; at most [`MAX_SEEN`](understudy_probe::MAX_SEEN) bytes.
        #[serde(default)]
        seen: String,
    },
    /// A picture of the machine's console was taken, and is kept beside the run.
    Screenshot {
        bytes: u64,
    },
    /// There is nothing to see of the machine, and why.
    NoScreenshot {
        why: String,
    },
    Isolation {
        ports: Vec<String>,
        tried: Vec<IpAddr>,
        answered: Vec<IpAddr>,
        method: String,
    },
    Adopted {
        seq: PointSeq,
        bytes_read: u64,
    },
    /// A first copy was written to a medium, or read from one.
    Seeded {
        bytes: u64,
    },
    /// The orchestrator saw it in the standby side's facts.
    FirstPoint {
        seq: PointSeq,
    },
    /// Somebody says that it was done.
    Confirmed {
        by: String,
    },
    Released {
        addresses: u32,
        test_networks: u32,
    },
    Records(Vec<RecordDone>),
    /// A traffic hook has understood, with this status of HTTP.
    HookCalled {
        status: u16,
    },
    /// A script ran to its end; it was told to succeed only when `exit_code` is 0.
    Script {
        exit_code: i32,
        /// What it wrote, made printable; at most 64 KiB.
        output: String,
        /// Whether it wrote more than is in `output`.
        truncated: bool,
    },
}

/// The addresses of a name before and after; the same where nothing was to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordDone {
    pub name: DnsName,
    pub before: Vec<Ipv4Addr>,
    pub after: Vec<Ipv4Addr>,
}

/// Root of the digest tree over one whole disk, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRoot {
    pub disk: DiskName,
    pub root: String,
}
