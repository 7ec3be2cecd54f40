//! What the orchestrator asks of an agent, as domain types.
//!
//! ```text
//!   orchestrator: AgentTask ──to_any──▶ payload of a job-tracker task ──from_any──▶ agent
//! ```
//!
//! Each action says what must be true afterwards. The shape and the bounds of a task are checked on the way in, so that
//! nothing behind [`AgentTask::from_any`] asks again.

#[cfg(test)]
mod tests;
mod wire;

pub(crate) use wire::{retention_of, retention_to_wire};

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use understudy_ids::{
    DiskName, Generation, HostName, ItemName, MacAddress, MachineName, NetworkName, PointSeq, PolicyName,
    RunId, ScriptName, SeedName,
};
use understudy_probe::Probe;
use understudy_replication::{Membership, ReplicationSettings, RetentionPolicy};
use understudy_types_api::{Any, pack, unpack};

use crate::{field::Invalid, v1};

/// One thing to be done to one item, at one generation, on behalf of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTask {
    pub item: ItemName,
    /// An agent that has seen a higher one refuses with [`STALE_GENERATION`](crate::STALE_GENERATION).
    pub generation: Generation,
    pub run: RunId,
    pub action: Action,
}

/// What must be true afterwards. See `tasks.proto` for what each promises.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "tasks come one at a time, and none is kept")]
pub enum Action {
    PrepareReplica {
        disks: Vec<DiskSize>,
        retention: RetentionPolicy,
    },
    StartReplication(StartReplication),
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
        seq: PointSeq,
    },
    /// `seq: None` is the latest point.
    CreateTestMachine {
        seq: Option<PointSeq>,
        name: MachineName,
        nics: Vec<Option<NetworkName>>,
    },
    PromotePoint {
        seq: PointSeq,
        nics: Vec<Option<NetworkName>>,
    },
    /// As [`Self::PromotePoint`], with what the machine of the test `run` has written on top of it.
    PromoteTest {
        run: RunId,
        test_machine: MachineName,
        grace: Duration,
        seq: PointSeq,
        nics: Vec<Option<NetworkName>>,
    },
    /// As [`Self::StartMachine`], in this boot of the host only.
    StartInBoot {
        machine: MachineName,
        boot_id: String,
    },
    StartMachine {
        machine: MachineName,
    },
    ProbeMachine {
        machine: MachineName,
        /// Where it is asked; none for a probe that goes through no network.
        at: Option<(NetworkName, IpAddr)>,
        probe: Probe,
    },
    TakeScreenshot {
        machine: MachineName,
    },
    RemoveTestMachine {
        machine: MachineName,
    },
    EnsureTestNetwork {
        name: NetworkName,
        gateway: Ipv4Addr,
        prefix_len: u8,
        reservations: Vec<DhcpReservation>,
    },
    ProbeIsolation {
        network: NetworkName,
        targets: Vec<IpAddr>,
    },
    RemoveTestNetwork {
        name: NetworkName,
    },
    ProbeExistingNetwork(ExistingNetworkProbe),
    RemoveProbePort {
        network: NetworkName,
    },
    AdoptDisks {
        machine: MachineName,
        seq: PointSeq,
    },
    SetAside {
        machine: MachineName,
        seq: PointSeq,
    },
    DropAside,
    DiscardPromotion {
        machine: MachineName,
        /// At which the machine was made.
        generation: Generation,
    },
    CommitItem,
    /// `seq: None` is all points.
    ScrubItem {
        seq: Option<PointSeq>,
    },
    ExportSeed {
        machine: MachineName,
        disks: Vec<DiskName>,
        seed: SeedName,
    },
    ImportSeed {
        disks: Vec<DiskSize>,
        seed: SeedName,
    },
    RemoveSeed {
        seed: SeedName,
    },
    RunScript(RunScript),
}

impl Action {
    /// The action's name for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PrepareReplica { .. } => "prepare-replica",
            Self::StartReplication(_) => "start-replication",
            Self::StopReplication { .. } => "stop-replication",
            Self::RemoveReplica => "remove-replica",
            Self::Fence { .. } => "fence",
            Self::ShutDownMachine { .. } => "shut-down-machine",
            Self::SyncFinal { .. } => "sync-final",
            Self::DigestDisks { .. } => "digest-disks",
            Self::VerifyPoint { .. } => "verify-point",
            Self::CreateTestMachine { .. } => "create-test-machine",
            Self::PromotePoint { .. } => "promote-point",
            Self::PromoteTest { .. } => "promote-test",
            Self::StartInBoot { .. } => "start-in-boot",
            Self::StartMachine { .. } => "start-machine",
            Self::ProbeMachine { .. } => "probe-machine",
            Self::RemoveTestMachine { .. } => "remove-test-machine",
            Self::EnsureTestNetwork { .. } => "ensure-test-network",
            Self::TakeScreenshot { .. } => "take-screenshot",
            Self::ProbeIsolation { .. } => "probe-isolation",
            Self::RemoveTestNetwork { .. } => "remove-test-network",
            Self::ProbeExistingNetwork(_) => "probe-existing-network",
            Self::RemoveProbePort { .. } => "remove-probe-port",
            Self::AdoptDisks { .. } => "adopt-disks",
            Self::SetAside { .. } => "set-aside",
            Self::DropAside => "drop-aside",
            Self::DiscardPromotion { .. } => "discard-promotion",
            Self::CommitItem => "commit-item",
            Self::ScrubItem { .. } => "scrub-item",
            Self::ExportSeed { .. } => "export-seed",
            Self::ImportSeed { .. } => "import-seed",
            Self::RemoveSeed { .. } => "remove-seed",
            Self::RunScript(_) => "run-script",
        }
    }
}

/// From where and for what a network that was there before the run is searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingNetworkProbe {
    pub network: NetworkName,
    /// Of the run's port.
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    /// Must not answer.
    pub targets: Vec<IpAddr>,
    /// Nobody may have them yet.
    pub planned: Vec<IpAddr>,
}

/// One disk of the machine to be replicated, size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSize {
    pub name: DiskName,
    pub size: u64,
}

/// An assignment that holds until told otherwise, also while the control plane is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartReplication {
    pub machine: MachineName,
    pub disks: Vec<DiskName>,
    /// Whose certificate the peer must show.
    pub peer_host: HostName,
    /// `https://address:port`.
    pub peer_endpoint: String,
    pub interval: Duration,
    pub settings: ReplicationSettings,
    /// Which policy it follows; its items share what may be sent.
    pub policy: Option<PolicyName>,
    /// Nothing is sent until this is taken back.
    pub paused: bool,
    /// How old the latest point may become; `None`: three intervals.
    pub rpo_objective: Option<Duration>,
    /// Names this assignment for whoever gave it.
    pub revision: String,
    /// For an item of a consistency group.
    pub group: Option<Membership>,
}

/// A script of the host's library (R-RP-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunScript {
    pub script: ScriptName,
    /// Of the file's content, as 64 lower-case hexadecimal digits.
    pub sha256: String,
    pub time_out: Duration,
    /// A JSON object for the script's standard input, at most [`MAX_SCRIPT_CONTEXT`](crate::MAX_SCRIPT_CONTEXT) bytes.
    pub context: String,
}

/// An address that the test network's DHCP gives to one Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpReservation {
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub host_name: String,
}

impl AgentTask {
    /// The task as the payload of a job-tracker task.
    pub fn to_any(&self) -> Any {
        pack(&v1::AgentTask::from(self.clone()))
    }

    /// # Errors
    /// When the payload is of another type, too large, malformed or breaks a bound.
    pub fn from_any(any: &Any) -> Result<Self, Invalid> {
        let wire: v1::AgentTask = unpack(any).map_err(|e| Invalid::new("payload", e))?;
        Self::try_from(wire)
    }
}
