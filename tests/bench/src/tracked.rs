//! A host of files whose changes are known: what QEMU's bitmaps are to a running machine, the benchmark's own list is to a file
//! that it changed itself. So a delta is measured without a guest, and without reading what did not change.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use understudy_hypervisor::{
    Answer, BlockingReader, CheckpointName, Console, DiskReader, Error, ExistingNetworkProbe, Extent,
    GuestState, HostInventory, Hypervisor, IsolationEvidence, Machine, MachineDefinition, MachineTag,
    PreparedSnapshot, Question, Snapshot, SnapshotDisk, SnapshotRequest, Still, TestNetworkDefinition,
    files::{self, DiskFormat, FileDisk, FileMachine, FilesHypervisor},
};
use understudy_ids::{ByteRange, MachineName, NetworkName, UnixMicros, Uuid};
use understudy_replication::RangeSet;
use understudy_sealing::Passphrase;

use crate::fleet::Fleet;

/// One machine with one disk, whose file can be exchanged; and, where there is one, a fleet beside it.
pub struct Tracked {
    state_dir: PathBuf,
    now: Mutex<Now>,
    fleet: OnceLock<Arc<Fleet>>,
}

#[derive(Clone)]
struct Now {
    host: FilesHypervisor,
    /// What has changed since the last snapshot; `None`: not known.
    changed: Option<RangeSet>,
    checkpoints: Vec<CheckpointName>,
}

pub fn machine() -> MachineName {
    // A constant that is a valid name.
    "bench".parse().unwrap_or_else(|_| unreachable!("it is a name"))
}

impl Tracked {
    pub fn new(state_dir: &Path, file: &Path) -> Self {
        let host = host(state_dir, file);
        let now = Now { host, changed: None, checkpoints: Vec::new() };
        Self { state_dir: state_dir.to_owned(), now: Mutex::new(now), fleet: OnceLock::new() }
    }

    /// These machines are on the host as well, from now on.
    pub fn join(&self, fleet: Arc<Fleet>) -> anyhow::Result<()> {
        self.fleet.set(fleet).map_err(|_| anyhow::anyhow!("there is a fleet already"))
    }

    /// The fleet, if the machine is of it.
    fn fleet_of(&self, machine: &MachineName) -> Option<&Fleet> {
        self.fleet.get().map(Arc::as_ref).filter(|fleet| fleet.machine(machine).is_some())
    }

    /// The disk is this file from now on, which differs from the one before in `changed`.
    pub fn exchange(&self, file: &Path, changed: Option<RangeSet>) {
        let mut now = self.lock();
        now.host = host(&self.state_dir, file);
        now.changed = changed;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> FilesHypervisor {
        self.lock().host.clone()
    }
}

fn host(state_dir: &Path, file: &Path) -> FilesHypervisor {
    let disk = FileDisk {
        name: "vda".parse().unwrap_or_else(|_| unreachable!("it is a name")),
        path: file.to_owned(),
        format: DiskFormat::Raw,
        bus: understudy_hypervisor::Bus::Virtio,
        serial: None,
    };
    let machine = FileMachine {
        name: machine(),
        uuid: Uuid::from_u128(1),
        vcpus: 1,
        memory_bytes: 1 << 30,
        machine_type: "pc".to_owned(),
        disks: vec![disk],
    };
    FilesHypervisor::new(files::Config { state_dir: state_dir.to_owned(), machines: vec![machine] })
}

struct TrackedSnapshot {
    inner: Box<dyn Snapshot>,
    disks: Vec<SnapshotDisk>,
}

#[async_trait]
impl Snapshot for TrackedSnapshot {
    fn instant(&self) -> UnixMicros {
        self.inner.instant()
    }
    fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }
    fn checkpoint_made(&self) -> bool {
        true
    }
    fn guest(&self) -> &GuestState {
        self.inner.guest()
    }
    async fn close(self: Box<Self>) -> Result<(), Error> {
        self.inner.close().await
    }
}

struct TrackedReader {
    inner: Arc<dyn DiskReader>,
    changed: RangeSet,
}

#[async_trait]
impl DiskReader for TrackedReader {
    /// Only what changed is looked at in the file, as a bitmap would have it.
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let all = RangeSet::span(range.start, range.end);
        let mut extents: Vec<Extent> = Vec::new();
        for (set, changed) in
            [(all.intersection(&self.changed), true), (all.difference(&self.changed), false)]
        {
            extents.extend(set.iter().map(|range| Extent { range, changed, zero: false }));
        }
        extents.sort_unstable_by_key(|extent| extent.range);
        Ok(extents)
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        self.inner.read(offset, length).await
    }

    fn blocking(&self) -> Option<&dyn BlockingReader> {
        self.inner.blocking()
    }
}

#[async_trait]
impl Hypervisor for Tracked {
    async fn inventory(&self) -> Result<HostInventory, Error> {
        let mut inventory = self.host().inventory().await?;
        inventory.machines.extend(self.fleet.get().map(|fleet| fleet.machines()).unwrap_or_default());
        Ok(inventory)
    }
    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>, Error> {
        if let Some(fleet) = self.fleet_of(name) {
            return Ok(fleet.machine(name));
        }
        self.host().machine(name).await
    }
    async fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        if let Some(fleet) = self.fleet_of(&request.machine) {
            return fleet.open_snapshot(request);
        }
        let (host, changed) = {
            let mut now = self.lock();
            let known = request.base.as_ref().is_some_and(|base| now.checkpoints.contains(base));
            now.checkpoints.push(request.checkpoint.clone());
            (now.host.clone(), now.changed.take().filter(|_| known))
        };
        let inner = host.open_snapshot(request).await?;
        let disks = inner.disks().iter().map(|disk| SnapshotDisk {
            name: disk.name.clone(),
            size: disk.size,
            changes_known: changed.is_some(),
            reader: match &changed {
                Some(changed) => {
                    Arc::new(TrackedReader { inner: disk.reader.clone(), changed: changed.clone() })
                }
                None => disk.reader.clone(),
            },
        });
        let disks = disks.collect();
        Ok(Box::new(TrackedSnapshot { inner, disks }))
    }
    async fn prepare_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn PreparedSnapshot>, Error> {
        Ok(Box::new(Still(self.open_snapshot(request).await?)))
    }
    async fn thaw_left_frozen(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn resume_left_held(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn changed_bytes(&self, _: &MachineName, _: &CheckpointName) -> Result<Option<u64>, Error> {
        Ok(None)
    }
    async fn checkpoints(&self, machine: &MachineName) -> Result<Vec<CheckpointName>, Error> {
        if let Some(fleet) = self.fleet_of(machine) {
            return fleet.checkpoints(machine);
        }
        Ok(self.lock().checkpoints.clone())
    }
    async fn delete_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error> {
        if let Some(fleet) = self.fleet_of(machine) {
            return fleet.delete_checkpoints(machine, names);
        }
        self.lock().checkpoints.retain(|name| !names.contains(name));
        Ok(())
    }
    async fn define(&self, definition: &MachineDefinition) -> Result<(), Error> {
        self.host().define(definition).await
    }
    async fn start(&self, name: &MachineName) -> Result<(), Error> {
        self.host().start(name).await
    }
    async fn unlock(&self, name: &MachineName, key: &Passphrase) -> Result<(), Error> {
        self.host().unlock(name, key).await
    }
    async fn shut_down(&self, name: &MachineName, grace: Duration) -> Result<bool, Error> {
        self.host().shut_down(name, grace).await
    }
    async fn power_off(&self, name: &MachineName) -> Result<(), Error> {
        self.host().power_off(name).await
    }
    async fn cut_off(&self, name: &MachineName, uuid: Uuid) -> Result<bool, Error> {
        self.host().cut_off(name, uuid).await
    }
    fn can_cut_off(&self) -> bool {
        self.host().can_cut_off()
    }
    async fn undefine(&self, name: &MachineName) -> Result<(), Error> {
        self.host().undefine(name).await
    }
    async fn set_tag(&self, name: &MachineName, tag: Option<&MachineTag>) -> Result<(), Error> {
        if self.fleet_of(name).is_some() {
            return Ok(());
        }
        self.host().set_tag(name, tag).await
    }
    async fn ensure_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error> {
        self.host().ensure_test_network(definition).await
    }
    async fn remove_test_network(&self, name: &NetworkName) -> Result<(), Error> {
        self.host().remove_test_network(name).await
    }
    async fn test_networks(&self) -> Result<Vec<NetworkName>, Error> {
        self.host().test_networks().await
    }
    async fn probe_isolation(
        &self,
        network: &NetworkName,
        targets: &[IpAddr],
    ) -> Result<IsolationEvidence, Error> {
        self.host().probe_isolation(network, targets).await
    }
    async fn probe_existing_network(&self, probe: &ExistingNetworkProbe) -> Result<IsolationEvidence, Error> {
        self.host().probe_existing_network(probe).await
    }
    async fn remove_probe_port(&self, network: &NetworkName, run: Uuid) -> Result<(), Error> {
        self.host().remove_probe_port(network, run).await
    }
    async fn ask(&self, question: &Question, limit: Duration) -> Result<Answer, Error> {
        self.host().ask(question, limit).await
    }
    async fn screenshot(&self, machine: &MachineName) -> Result<Console, Error> {
        self.host().screenshot(machine).await
    }
    fn jump_hint(&self, _: &NetworkName) -> String {
        String::new()
    }
    fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}
