//! The driver for KVM/QEMU through libvirtd.
//!
//! ```text
//!   LibvirtHypervisor ─┬─ machines       domain_xml ─▶ libvirt ─▶ describe, tag
//!                      ├─ snapshot/      backup jobs and qemu-storage-daemon, read over NBD; checkpoints; guests at rest
//!                      ├─ guard          a process that thaws a guest, or lets it go on, when this one cannot
//!                      ├─ console       what its screen shows
//!                      ├─ question      what a started machine is asked
//!                      ├─ test_network/  bridge, services namespace, dnsmasq, probes
//!                      └─ session ─▶ ffi one connection, bounded calls
//! ```
//!
//! Keeps nothing in memory, keys of encrypted disks apart, that it would need after a restart: what exists is read from libvirt, the kernel and QEMU's
//! files, and what it leaves on the host has names that follow from its machine's or network's. It has to run in the
//! network namespace of the host whose libvirtd it drives, and with the right to make others.

mod command;
mod config;
mod console;
mod cut_off;
mod describe;
mod disk_key;
mod domain_xml;
mod ffi;
mod guard;
mod machines;
mod process;
mod question;
mod session;
mod snapshot;
mod tag;
mod test_network;
mod xml;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use understudy_ids::{MachineName, NetworkName, Uuid};
use understudy_sealing::Passphrase;

use crate::{
    Answer, CheckpointName, Console, Error, ExistingNetworkProbe, HostInventory, Hypervisor,
    IsolationEvidence, Machine, MachineDefinition, MachineTag, PreparedSnapshot, Question, Snapshot,
    SnapshotRequest, TestNetworkDefinition,
};
pub use config::{Config, Emulation};
pub use guard::{READY, stand as thaw_guard, stand_by_held as hold_guard, stay_alive};
use session::Session;
pub use snapshot::start_guard;
// Image files are served and read in one way, whatever driver they belong to.
pub(crate) use snapshot::{Place, TrackedDisk, end_server, open_reader, serve};

/// A host with libvirtd. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct LibvirtHypervisor {
    config: Arc<Config>,
    session: Arc<Session>,
    /// Keys of encrypted disks; see [`disk_key`].
    keys: Arc<Mutex<HashMap<MachineName, Passphrase>>>,
}

impl LibvirtHypervisor {
    /// Does not connect yet; see [`Session`].
    pub fn new(config: Config) -> Self {
        let session = Session::new(config.uri.clone(), config.call_timeout);
        Self { config: Arc::new(config), session: Arc::new(session), keys: Arc::default() }
    }
}

#[async_trait]
impl Hypervisor for LibvirtHypervisor {
    async fn inventory(&self) -> Result<HostInventory, Error> {
        self.read_inventory().await
    }

    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>, Error> {
        self.read_machine(name).await
    }

    async fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        self.make_snapshot(request).await
    }

    async fn prepare_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn PreparedSnapshot>, Error> {
        self.prepare_joint(request).await
    }

    async fn thaw_left_frozen(&self) -> Result<(), Error> {
        self.thaw_all_left_frozen().await
    }

    async fn resume_left_held(&self) -> Result<(), Error> {
        self.resume_all_left_held().await
    }

    async fn checkpoints(&self, machine: &MachineName) -> Result<Vec<CheckpointName>, Error> {
        self.list_checkpoints(machine).await
    }

    async fn changed_bytes(
        &self,
        machine: &MachineName,
        since: &CheckpointName,
    ) -> Result<Option<u64>, Error> {
        self.count_changes(machine, since).await
    }

    async fn delete_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error> {
        self.remove_checkpoints(machine, names).await
    }

    async fn define(&self, definition: &MachineDefinition) -> Result<(), Error> {
        self.define_machine(definition).await
    }

    async fn unlock(&self, name: &MachineName, key: &Passphrase) -> Result<(), Error> {
        self.give_key(name, key).await
    }

    async fn start(&self, name: &MachineName) -> Result<(), Error> {
        self.start_machine(name).await
    }

    async fn shut_down(&self, name: &MachineName, grace: Duration) -> Result<bool, Error> {
        self.shut_down_machine(name, grace).await
    }

    async fn power_off(&self, name: &MachineName) -> Result<(), Error> {
        self.power_off_machine(name).await
    }

    async fn cut_off(&self, name: &MachineName, uuid: Uuid) -> Result<bool, Error> {
        self.cut_off_machine(name, uuid).await
    }

    fn can_cut_off(&self) -> bool {
        true
    }

    async fn undefine(&self, name: &MachineName) -> Result<(), Error> {
        self.undefine_machine(name).await
    }

    async fn set_tag(&self, name: &MachineName, tag: Option<&MachineTag>) -> Result<(), Error> {
        self.write_tag(name, tag).await
    }

    async fn ensure_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error> {
        self.make_test_network(definition).await
    }

    async fn remove_test_network(&self, name: &NetworkName) -> Result<(), Error> {
        self.unmake_test_network(name).await
    }

    async fn test_networks(&self) -> Result<Vec<NetworkName>, Error> {
        self.list_test_networks().await
    }

    async fn probe_isolation(
        &self,
        network: &NetworkName,
        targets: &[IpAddr],
    ) -> Result<IsolationEvidence, Error> {
        self.prove_isolation(network, targets).await
    }

    async fn probe_existing_network(&self, probe: &ExistingNetworkProbe) -> Result<IsolationEvidence, Error> {
        self.prove_existing(probe).await
    }

    async fn remove_probe_port(&self, network: &NetworkName, run: Uuid) -> Result<(), Error> {
        self.remove_port(network, run).await
    }

    async fn ask(&self, question: &Question, limit: Duration) -> Result<Answer, Error> {
        self.put(question, limit).await
    }

    async fn screenshot(&self, machine: &MachineName) -> Result<Console, Error> {
        self.look(machine).await
    }

    fn jump_hint(&self, network: &NetworkName) -> String {
        self.jump_command(network)
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }
}

/// What Understudy wrote on the machine of a domain description, for libvirt's hooks: those get the description on standard
/// input and must not ask libvirt, which waits for them. `Ok(None)`: the machine is not ours.
///
/// # Errors
/// When the description or the tag in it cannot be read.
pub fn tag_in_description(description: &str) -> Result<Option<MachineTag>, String> {
    tag::read_machine(&xml::Element::parse(description)?)
}
