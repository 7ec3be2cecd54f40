//! The driver whose machines are tasks of this process: no root, no QEMU, no network.
//!
//! ```text
//!   SimulatedHypervisor ── Host (one lock) ── machine ─┬─ disk ─┬─ qcow2 file with its chain, read only while running
//!                                 │                    │        ├─ clusters written since the start: memory + overlay file
//!                                 └─ test networks     │        └─ one set of clusters per checkpoint
//!                                                      └─ journal task: numbered, checksummed records
//! ```
//!
//! A write is in the overlay file before it counts as done, so a process that is killed loses nothing that it has
//! acknowledged; when a machine stops, or is found after such a death, its overlay goes into its qcow2 file. Change
//! tracking is persisted at an orderly stop only, and forgotten after any other, as it is with QEMU.
//!
//! Networks are bookkeeping: a simulated machine is reachable when it runs and its network knows its address. A host that is
//! opened for the first time has the machines that its configuration lists, running.

mod disk;
mod first_machines;
mod joint;
pub mod journal;
mod machine;
mod network;
mod record;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, MachineName, NetworkName, Uuid};
use understudy_sealing::Passphrase;

use crate::{
    Answer, CheckpointName, Console, DiskHardware, Error, ExistingNetworkProbe, HostInventory, Hypervisor,
    IsolationEvidence, Machine, MachineDefinition, MachineTag, PreparedSnapshot, Question, Reservation,
    Snapshot, SnapshotRequest, TestNetworkDefinition,
};
pub use first_machines::FirstMachine;
use machine::SimulatedMachine;
pub use record::disk_files;

/// A simulated machine reads and writes its files itself, and knows no keys.
const NO_ENCRYPTION: &str = "simulated machines have no encrypted disks; use the libvirt driver";

/// What the simulated host is like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub state_dir: PathBuf,
    /// Networks that a machine can be connected to, without test networks.
    #[serde(default)]
    pub networks: Vec<NetworkName>,
    /// The addresses that these networks give to Ethernet addresses.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// What the host has when it is opened for the first time.
    #[serde(default)]
    pub machines: Vec<FirstMachine>,
    /// Every call takes this long more.
    #[serde(default)]
    pub call_delay_ms: u64,
    /// A guest takes this long to shut down.
    #[serde(default)]
    pub shut_down_ms: u64,
    /// TCP ports that no guest has open, although it answers at all others.
    #[serde(default)]
    pub closed_ports: Vec<u16>,
    /// Between two records that a running guest writes; 0: it writes none.
    #[serde(default)]
    pub write_interval_ms: u64,
}

impl Config {
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            networks: Vec::new(),
            reservations: Vec::new(),
            machines: Vec::new(),
            call_delay_ms: 0,
            shut_down_ms: 0,
            closed_ports: Vec::new(),
            write_interval_ms: 0,
        }
    }
}

/// A simulated host. Cheap to clone; clones are the same host.
#[derive(Clone)]
pub struct SimulatedHypervisor {
    config: Arc<Config>,
    host: Arc<Mutex<Host>>,
}

#[derive(Default)]
struct Host {
    machines: BTreeMap<MachineName, SimulatedMachine>,
    /// Those of the networks that are no test networks.
    reservations: Vec<Reservation>,
    test_networks: BTreeMap<NetworkName, TestNetworkDefinition>,
}

impl SimulatedHypervisor {
    /// Finds again what the host had when its process ended; no machine runs. A host that was never opened before gets the
    /// machines of its configuration, which run; for them to write, this must be called inside a tokio runtime.
    pub fn open(config: Config) -> Result<Self, Error> {
        let first_time = !record::exists(&config.state_dir);
        let machines = record::load_machines(&config.state_dir)?;
        let test_networks = record::load_networks(&config.state_dir)?;
        let reservations = config.reservations.clone();
        let host = Arc::new(Mutex::new(Host { machines, reservations, test_networks }));
        let this = Self { config: Arc::new(config), host };
        if first_time {
            this.install()?;
        }
        Ok(this)
    }

    fn install(&self) -> Result<(), Error> {
        for machine in &self.config.machines {
            let installed = first_machines::install(machine, &self.config.state_dir)?;
            self.host().machines.insert(machine.name.clone(), installed);
            let runtime = tokio::runtime::Handle::try_current()
                .map_err(|error| failed(format!("starting machine {}", machine.name), error))?;
            self.switch_on(&machine.name, &runtime)?;
        }
        Ok(())
    }

    /// The machine runs, and writes if it is configured to.
    fn switch_on(&self, name: &MachineName, runtime: &tokio::runtime::Handle) -> Result<(), Error> {
        let interval = Duration::from_millis(self.config.write_interval_ms);
        let mut host = self.host();
        let machine = host.machine_mut(name)?;
        if machine.start()? && !interval.is_zero() {
            let next = machine.last_record()?.map_or(0, |last| last + 1);
            machine.guest = Some(runtime.spawn(journal::keep(self.clone(), name.clone(), next, interval)));
        }
        Ok(())
    }

    /// Writes to a running machine's disk as its guest would. The bytes are durable when this returns.
    pub fn guest_write(
        &self,
        name: &MachineName,
        disk: &DiskName,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.host().machine_mut(name)?.guest_write(disk, offset, bytes)
    }

    /// Makes a disk larger or smaller, as an administrator would under the running machine.
    pub fn resize_disk(&self, name: &MachineName, disk: &DiskName, size: u64) -> Result<(), Error> {
        self.host().machine_mut(name)?.resize_disk(disk, size)
    }

    /// Plugs a disk into the machine, whose file exists.
    pub fn attach_disk(&self, name: &MachineName, disk: DiskHardware) -> Result<(), Error> {
        self.host().machine_mut(name)?.attach_disk(disk)
    }

    pub fn detach_disk(&self, name: &MachineName, disk: &DiskName) -> Result<(), Error> {
        self.host().machine_mut(name)?.detach_disk(disk)
    }

    /// Whether the agent in the machine's guest answers from now on. It does until told otherwise.
    pub fn set_guest_agent(&self, name: &MachineName, answers: bool) -> Result<(), Error> {
        self.host().machine_mut(name)?.agent_is_silent = !answers;
        Ok(())
    }

    /// Whether the machine's guest executes nothing for now, because of a snapshot that is of one instant with others'.
    pub fn is_held(&self, name: &MachineName) -> bool {
        self.host().machine(name).is_ok_and(SimulatedMachine::is_held)
    }

    /// What one call does to the host.
    async fn act<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Host, &Config) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        self.wait(move || work(&mut this.host(), &this.config)).await
    }

    /// What one call does, after the configured delay, on a thread that may wait for files.
    async fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::time::sleep(Duration::from_millis(self.config.call_delay_ms)).await;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Error::Unknown { what: "a simulated call".to_owned(), why: error.to_string() })?
    }

    /// After a panic in another call the host is as that call left it, which is what a real host would be, too.
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn machine(&self, name: &MachineName) -> Result<&SimulatedMachine, Error> {
        self.machines.get(name).ok_or_else(|| missing(name))
    }

    fn machine_mut(&mut self, name: &MachineName) -> Result<&mut SimulatedMachine, Error> {
        self.machines.get_mut(name).ok_or_else(|| missing(name))
    }
}

fn missing(name: &MachineName) -> Error {
    Error::NotFound { what: format!("machine {name}") }
}

fn failed(what: impl Into<String>, why: impl std::fmt::Display) -> Error {
    Error::Failed { what: what.into(), why: why.to_string() }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    async fn inventory(&self) -> Result<HostInventory, Error> {
        self.act(|host, config| {
            Ok(HostInventory {
                hypervisor: "simulated".to_owned(),
                machines: host.machines.values().map(|machine| host.describe(machine)).collect(),
                networks: config.networks.clone(),
                cpus: 1,
                memory_bytes: 1 << 40,
            })
        })
        .await
    }

    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>, Error> {
        let name = name.clone();
        self.act(move |host, _| Ok(host.machines.get(&name).map(|machine| host.describe(machine)))).await
    }

    async fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        let request = request.clone();
        let snapshot =
            self.act(move |host, _| host.machine_mut(&request.machine)?.snapshot(&request)).await?;
        Ok(Box::new(snapshot))
    }

    async fn prepare_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn PreparedSnapshot>, Error> {
        self.prepare_joint(request).await
    }

    /// Nothing outlives the process of a simulated host.
    async fn resume_left_held(&self) -> Result<(), Error> {
        Ok(())
    }

    /// As above.
    async fn thaw_left_frozen(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn checkpoints(&self, machine: &MachineName) -> Result<Vec<CheckpointName>, Error> {
        let name = machine.clone();
        self.act(move |host, _| Ok(host.machine(&name)?.checkpoints())).await
    }

    async fn changed_bytes(
        &self,
        machine: &MachineName,
        since: &CheckpointName,
    ) -> Result<Option<u64>, Error> {
        let (name, since) = (machine.clone(), since.clone());
        self.act(move |host, _| Ok(host.machine(&name)?.changed_bytes(&since))).await
    }

    async fn delete_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error> {
        let (name, names) = (machine.clone(), names.clone());
        self.act(move |host, _| host.machine_mut(&name)?.delete_checkpoints(&names)).await
    }

    async fn define(&self, definition: &MachineDefinition) -> Result<(), Error> {
        let definition = definition.clone();
        self.act(move |host, config| host.define(&definition, config)).await
    }

    async fn unlock(&self, name: &MachineName, _: &Passphrase) -> Result<(), Error> {
        Err(Error::Failed { what: format!("unlocking machine {name}"), why: NO_ENCRYPTION.to_owned() })
    }

    async fn start(&self, name: &MachineName) -> Result<(), Error> {
        let (name, this) = (name.clone(), self.clone());
        let runtime = tokio::runtime::Handle::current();
        self.wait(move || this.switch_on(&name, &runtime)).await
    }

    async fn shut_down(&self, name: &MachineName, grace: Duration) -> Result<bool, Error> {
        let takes = Duration::from_millis(self.config.shut_down_ms);
        let running = {
            let name = name.clone();
            self.act(move |host, _| Ok(host.machine(&name)?.is_running())).await?
        };
        if running {
            tokio::time::sleep(takes.min(grace)).await;
            if takes > grace {
                return Ok(false);
            }
        }
        let name = name.clone();
        self.act(move |host, _| host.machine_mut(&name)?.stop(true)).await.map(|()| true)
    }

    async fn power_off(&self, name: &MachineName) -> Result<(), Error> {
        let name = name.clone();
        self.act(move |host, _| host.machine_mut(&name)?.stop(false)).await
    }

    async fn cut_off(&self, name: &MachineName, uuid: Uuid) -> Result<bool, Error> {
        let name = name.clone();
        let cut = self.act(move |host, _| match host.machine_mut(&name) {
            Ok(machine) if machine.record.uuid == uuid && machine.is_running() => {
                machine.stop(false).map(|()| true)
            }
            Ok(_) | Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        });
        cut.await
    }

    fn can_cut_off(&self) -> bool {
        true
    }

    async fn undefine(&self, name: &MachineName) -> Result<(), Error> {
        let name = name.clone();
        self.act(move |host, config| host.undefine(&name, config)).await
    }

    async fn set_tag(&self, name: &MachineName, tag: Option<&MachineTag>) -> Result<(), Error> {
        let (name, tag) = (name.clone(), tag.cloned());
        self.act(move |host, _| host.machine_mut(&name)?.set_tag(tag)).await
    }

    async fn ensure_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error> {
        let definition = definition.clone();
        self.act(move |host, config| host.ensure_network(&definition, config)).await
    }

    async fn remove_test_network(&self, name: &NetworkName) -> Result<(), Error> {
        let name = name.clone();
        self.act(move |host, config| host.remove_network(&name, config)).await
    }

    async fn test_networks(&self) -> Result<Vec<NetworkName>, Error> {
        self.act(|host, _| Ok(host.test_networks.keys().cloned().collect())).await
    }

    async fn probe_isolation(
        &self,
        network: &NetworkName,
        targets: &[IpAddr],
    ) -> Result<IsolationEvidence, Error> {
        let (network, targets) = (network.clone(), targets.to_vec());
        self.act(move |host, _| host.prove_isolation(&network, &targets)).await
    }

    async fn probe_existing_network(&self, probe: &ExistingNetworkProbe) -> Result<IsolationEvidence, Error> {
        let probe = probe.clone();
        self.act(move |host, config| host.probe_existing(&probe, config)).await
    }

    /// Nothing is left of one that was simulated.
    async fn remove_probe_port(&self, _: &NetworkName, _: Uuid) -> Result<(), Error> {
        Ok(())
    }

    async fn ask(&self, question: &Question, _limit: Duration) -> Result<Answer, Error> {
        let question = question.clone();
        self.act(move |host, config| Ok(host.answer(&question, config))).await
    }

    async fn screenshot(&self, machine: &MachineName) -> Result<Console, Error> {
        let machine = machine.clone();
        self.act(move |host, _| host.screenshot(&machine)).await
    }

    fn jump_hint(&self, _network: &NetworkName) -> String {
        String::new()
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }
}
