//! What an agent needs from the hypervisor of its host, and nothing else.
//!
//! ```text
//!   replication-agent ──▶ trait Hypervisor ──┬── libvirt/    KVM/QEMU through libvirtd
//!                                            ├── simulated/  machines that are tasks of this process
//!                                            └── files/      disks that nothing runs here; a source, never a target
//! ```
//!
//! The first two pass one conformance suite (`tests/conformance`), so that what is shown on the simulated one about an agent holds
//! on the real one. Every call says what must be true afterwards; calling it again when that is already so succeeds and
//! changes nothing. A call that cannot tell what happened answers [`Error::Unknown`], never "off" or "done".

mod http;
mod joint;
mod model;
mod screenshot;

pub mod files;
pub mod libvirt;
pub mod simulated;

use std::{collections::BTreeSet, path::Path, time::Duration};

use async_trait::async_trait;
use understudy_ids::{ByteRange, Consistency, DiskName, MachineName, NetworkName, UnixMicros, Uuid};
use understudy_probe::ProbeKind;
use understudy_sealing::Passphrase;

pub use joint::{PreparedSnapshot, Still};
pub use model::{
    Bus, DiskHardware, ExistingNetworkProbe, Firmware, Hardware, HostInventory, Machine, MachineDefinition,
    MachineTag, NicHardware, PowerState, Reservation, TagRole, TestNetworkDefinition,
};
pub use screenshot::{Console, MAX_SCREENSHOT};

/// Drives the machines, snapshots and networks of one host.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// Everything that the host has, as it is now.
    async fn inventory(&self) -> Result<HostInventory, Error>;

    /// One machine, or `None` when the host does not have it.
    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>, Error>;

    /// Makes all `disks` of a machine readable as they are at one instant, while the machine goes on running and writing
    /// (R-REP-3), and begins to track changes from that instant on under the name `request.checkpoint`.
    ///
    /// With `request.quiesce` the guest is brought to rest first and goes on right after; where that cannot be had, the snapshot is
    /// made all the same and [`Snapshot::guest`] says why. No guest stays frozen for longer than it says there, also when this
    /// process dies.
    ///
    /// Works for running and for shut-off machines. At most one snapshot per machine is open; an older one left behind by
    /// a process that died is closed first.
    async fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error>;

    /// Makes everything ready for a snapshot that shall be of one instant with those of other machines (R-REP-12). Nothing is asked
    /// of the guest before [`PreparedSnapshot::hold`]; `request.quiesce` is not heard.
    async fn prepare_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn PreparedSnapshot>, Error>;

    /// Thaws every guest that an earlier process of ours left frozen. For the start of an agent.
    async fn thaw_left_frozen(&self) -> Result<(), Error>;

    /// Lets every guest go on that an earlier process of ours left held. For the start of an agent.
    async fn resume_left_held(&self) -> Result<(), Error>;

    /// Names of the checkpoints that the machine's change tracking still knows, oldest first.
    async fn checkpoints(&self, machine: &MachineName) -> Result<Vec<CheckpointName>, Error>;

    /// Bytes that the machine has written since the checkpoint, as its change tracking counts them; `None` where that cannot
    /// be told without opening a snapshot. Cheap enough to be asked every few seconds, and never disturbs a snapshot.
    async fn changed_bytes(
        &self,
        machine: &MachineName,
        since: &CheckpointName,
    ) -> Result<Option<u64>, Error>;

    /// Forgets checkpoints without losing track of a change: what only they knew goes to the next older one.
    async fn delete_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error>;

    /// The machine is defined, shut off, does not start with the host, and looks as `definition` says.
    /// Refused with [`Error::Conflict`] when another machine has its UUID, or when the machine of its name carries no tag
    /// or one that [`MachineTag::may_replace`] does not allow; with [`Error::WrongState`] when that one is not shut off.
    /// When the description changes, checkpoints are forgotten: they are of the old disks.
    async fn define(&self, definition: &MachineDefinition) -> Result<(), Error>;

    /// The machine's encrypted disks can be opened with `key`, until the host or its hypervisor starts anew. The key is kept in memory only
    /// (R-REP-10).
    async fn unlock(&self, name: &MachineName, key: &Passphrase) -> Result<(), Error>;

    /// The machine runs. The caller has made sure that it may (generation, fencing).
    async fn start(&self, name: &MachineName) -> Result<(), Error>;

    /// Asks the guest to shut down and waits for it up to `grace`. `Ok(false)`: it still runs.
    async fn shut_down(&self, name: &MachineName, grace: Duration) -> Result<bool, Error>;

    /// The machine does not run. Its disks are flushed by the hypervisor, its guest is not asked.
    async fn power_off(&self, name: &MachineName) -> Result<(), Error>;

    /// The machine with this name and UUID does not run any more, and before that none of its NICs has a link, whatever else on the host hangs:
    /// for a host whose time as the active side is over (R-FO-7). Whether it was running.
    async fn cut_off(&self, name: &MachineName, uuid: Uuid) -> Result<bool, Error>;

    /// Whether [`Self::cut_off`] can be relied upon.
    fn can_cut_off(&self) -> bool;

    /// The machine is not defined, with all metadata that belongs to it. Its disk files stay. A running one is refused.
    async fn undefine(&self, name: &MachineName) -> Result<(), Error>;

    /// Sets what is written on the machine about who protects it, or removes it.
    async fn set_tag(&self, name: &MachineName, tag: Option<&MachineTag>) -> Result<(), Error>;

    /// The isolated network exists on this host: a segment that nothing but its own machines and services is on, with
    /// its own DHCP and DNS and the reservations of the definition (R-NET-9, R-NET-11).
    async fn ensure_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error>;

    /// The network is gone with everything that was made for it. Refused while a machine is connected.
    async fn remove_test_network(&self, name: &NetworkName) -> Result<(), Error>;

    /// Names of the test networks that this host has, by whomever they were made.
    async fn test_networks(&self) -> Result<Vec<NetworkName>, Error>;

    /// Tries, from inside the test network, to reach each of `targets` outside it, and returns those that answered:
    /// empty means isolated (R-TF-9). Fails when the probe itself could not run, and when something is connected to the
    /// segment that is not of the network's run. Meant to be done before machines with production's addresses start there.
    async fn probe_isolation(
        &self,
        network: &NetworkName,
        targets: &[std::net::IpAddr],
    ) -> Result<IsolationEvidence, Error>;

    /// The run has a port on a network that we did not make, and what of `targets` answers there is told as by [`Self::probe_isolation`]:
    /// on the segment, and through the gateway where there is one. Fails when the probe could not run, and with [`Error::Conflict`] when
    /// somebody has an address that the run is about to use. The port stays, so that machines can be asked from it.
    async fn probe_existing_network(&self, probe: &ExistingNetworkProbe) -> Result<IsolationEvidence, Error>;

    /// The run has no port on the network any more.
    async fn remove_probe_port(&self, network: &NetworkName, run: Uuid) -> Result<(), Error>;

    /// Asks a machine once, for at most `limit`: over a test network from inside of it, over one on which its run has a port from there,
    /// over any other from this host. An answer that is not the one that is wanted, or none, is a result; it fails when the question could
    /// not be asked.
    async fn ask(&self, question: &Question, limit: Duration) -> Result<Answer, Error>;

    /// What the machine's console shows now. A machine that has none, or does not run, is an answer too.
    async fn screenshot(&self, machine: &MachineName) -> Result<Console, Error>;

    /// Where the test network's jump namespace is, for operators (`ip netns exec …`); empty where there is none.
    fn jump_hint(&self, network: &NetworkName) -> String;

    /// Directory for files that the driver needs to outlive this process.
    fn state_dir(&self) -> &Path;
}

/// What a snapshot is to hold.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    pub machine: MachineName,
    pub disks: Vec<DiskName>,
    /// Under this name changes are tracked from the snapshot's instant on.
    pub checkpoint: CheckpointName,
    /// Changes since this checkpoint are wanted. Where the driver does not know it any more, or cannot trust it, the
    /// disk says so by [`SnapshotDisk::changes_known`] and the caller compares digests or copies in full.
    pub base: Option<CheckpointName>,
    /// Whether the guest's file systems are to be frozen at the instant, if it runs.
    pub quiesce: Option<Quiesce>,
}

/// How a guest is to be brought to rest: through its agent, which runs the guest's own scripts before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiesce {
    /// The file systems are thawed after this long at the latest, whatever has become of the snapshot.
    pub limit: Duration,
}

/// An open snapshot. Dropping it without [`Snapshot::close`] leaves it to the next `open_snapshot` to clean up.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Every write that the guest was told is durable before this time is in the snapshot.
    fn instant(&self) -> UnixMicros;
    fn disks(&self) -> &[SnapshotDisk];
    /// Whether the request's checkpoint was made, so that it can be a later snapshot's base. When not – the machine has
    /// no disk whose changes can be tracked – the caller keeps the base that it has.
    fn checkpoint_made(&self) -> bool;
    /// How the guest stood at the instant.
    fn guest(&self) -> &GuestState;
    /// Ends the snapshot and frees what it holds. Change tracking goes on.
    async fn close(self: Box<Self>) -> Result<(), Error>;
}

/// How the guest stood at a snapshot's instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It was running, or had been switched off: as after a power cut. With the reason why it is no more than that, where more was
    /// asked for.
    Crash { not_quiesced: Option<NotQuiesced> },
    /// Its file systems were frozen, and were so for this long.
    Application { frozen: Duration },
    /// It had shut itself down.
    Clean,
}

impl GuestState {
    /// As after a power cut, and nobody asked for more.
    pub const CRASH: Self = Self::Crash { not_quiesced: None };

    pub fn consistency(&self) -> Consistency {
        match self {
            Self::Crash { .. } => Consistency::Crash,
            Self::Application { .. } => Consistency::Application,
            Self::Clean => Consistency::Clean,
        }
    }

    /// For how long its file systems were frozen.
    pub fn frozen(&self) -> Option<Duration> {
        match self {
            Self::Application { frozen } => Some(*frozen),
            Self::Crash { .. } | Self::Clean => None,
        }
    }
}

/// Why a guest was not brought to rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}: {why}")]
pub struct NotQuiesced {
    pub failure: QuiesceFailure,
    pub why: String,
}

impl NotQuiesced {
    pub fn new(failure: QuiesceFailure, why: impl Into<String>) -> Self {
        Self { failure, why: why.into() }
    }
}

/// What stood in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QuiesceFailure {
    #[error("the machine has no channel to a guest agent")]
    NoAgent,
    #[error("the guest's agent does not answer")]
    NoAnswer,
    #[error("the guest's agent refused to freeze")]
    Refused,
    #[error("the guest has nothing that can be frozen")]
    NothingToFreeze,
    #[error("the guest was thawed too early")]
    TooLong,
    #[error("nothing stood ready to thaw the guest")]
    NoGuard,
}

/// One disk of an open snapshot.
pub struct SnapshotDisk {
    pub name: DiskName,
    /// Virtual size in bytes, a multiple of 512.
    pub size: u64,
    /// Whether [`Extent::changed`] tells what changed since the base checkpoint. When false it is true everywhere.
    pub changes_known: bool,
    pub reader: std::sync::Arc<dyn DiskReader>,
}

/// Reads one frozen disk. Calls may be made from many tasks at once and are answered in any order.
#[async_trait]
pub trait DiskReader: Send + Sync {
    /// What the driver knows about `range`, in ascending order, without gaps or overlaps, covering `range` from its start.
    /// May cover less than asked for, but at least one byte: call again from the end of the last extent.
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error>;

    /// The bytes at `[offset, offset + length)`. `length` is at most 32 MiB.
    async fn read(&self, offset: u64, length: u32) -> Result<bytes::Bytes, Error>;

    /// Where reading means waiting for a file: the same for a caller on a thread that may block, so that whoever works on the
    /// bytes afterwards spares a change of threads.
    fn blocking(&self) -> Option<&dyn BlockingReader> {
        None
    }
}

/// Reads one frozen disk on the caller's thread.
pub trait BlockingReader {
    /// As [`DiskReader::read`].
    fn read(&self, offset: u64, length: u32) -> Result<bytes::Bytes, Error>;
}

/// One run of a disk that is alike throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub range: ByteRange,
    /// Written since the base checkpoint, as far as the driver can tell (it may err towards true).
    pub changed: bool,
    /// Reads as zeros for certain, so that it need not be read.
    pub zero: bool,
}

/// Name of a checkpoint, `understudy-<item>-<generation>-<seq>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct CheckpointName(pub String);

/// One question to a machine (R-TF-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub machine: MachineName,
    /// Where the machine is asked; only the guest's agent is asked elsewhere.
    pub at: Option<(NetworkName, std::net::IpAddr)>,
    pub kind: ProbeKind,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// It is the answer that is wanted.
    pub passed: bool,
    /// What was seen, in words of ours and printable; at most [`MAX_SEEN`](understudy_probe::MAX_SEEN) bytes.
    pub seen: String,
}

impl Answer {
    fn yes(seen: impl Into<String>) -> Self {
        Self { passed: true, seen: seen.into() }
    }

    fn no(seen: impl std::fmt::Display) -> Self {
        let printable = seen.to_string().replace(char::is_control, " ");
        let end = printable.floor_char_boundary(understudy_probe::MAX_SEEN);
        Self { passed: false, seen: printable[..end].to_owned() }
    }
}

/// What an isolation probe did and saw.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IsolationEvidence {
    /// Ports of the segment, each of which belongs to the test: interface name and owner.
    pub ports: Vec<String>,
    pub tried: Vec<std::net::IpAddr>,
    /// Those of `tried` that answered. A test starts only when this is empty.
    pub answered: Vec<std::net::IpAddr>,
    /// How it was tried, in words for the report.
    pub method: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} does not exist on this host")]
    NotFound { what: String },
    #[error("{what} exists already and is not ours: {why}")]
    Conflict { what: String, why: String },
    #[error("{what} cannot be done now: {why}")]
    WrongState { what: String, why: String },
    /// The change tracking or snapshot that was asked for cannot be had; the disk's content is not affected.
    #[error("change tracking of {machine} is not usable: {why}")]
    Tracking { machine: MachineName, why: String },
    #[error("{what} failed: {why}")]
    Failed { what: String, why: String },
    /// No answer: the effect may or may not have happened.
    #[error("no answer from the hypervisor about {what}: {why}")]
    Unknown { what: String, why: String },
}
