//! The driver for disks that are files or block devices of this host and that no hypervisor runs here: exported disks, disks
//! of appliances without change tracking, images under test.
//!
//! ```text
//!   configuration ── machine ─┬─ raw file or block device ──▶ raw.rs: pread, holes by SEEK_DATA
//!                             └─ qcow2 file ────────────────▶ qemu-storage-daemon ─▶ NBD
//! ```
//!
//! Its machines are off and stay off: this driver starts and defines nothing, so a host that has it can be the source of an
//! item and never the target. Nothing tracks what is written to a file, so each cycle compares digests with the target's
//! (R-REP-7) and ships what differs.
//!
//! **Promise.** What is read is one instant: QEMU cannot open the disks for writing meanwhile (its own locks are respected and
//! taken), and a raw file that somebody else writes to is noticed before the read that follows counts.

mod config;
mod raw;

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc, time::Duration, time::SystemTime};

use async_trait::async_trait;
use understudy_ids::{DiskName, MachineName, NetworkName, UnixMicros, Uuid};
use understudy_sealing::Passphrase;

pub use config::{Config, DiskFormat, FileDisk, FileMachine};

use crate::{
    Answer, CheckpointName, Console, DiskHardware, Error, ExistingNetworkProbe, Firmware, GuestState,
    Hardware, HostInventory, Hypervisor, IsolationEvidence, Machine, MachineDefinition, MachineTag,
    PowerState, PreparedSnapshot, Question, Snapshot, SnapshotDisk, SnapshotRequest, Still,
    TestNetworkDefinition,
    libvirt::{Place, TrackedDisk, end_server, open_reader, serve},
};

/// A host whose machines are lists of files. Cheap to clone.
#[derive(Clone)]
pub struct FilesHypervisor {
    config: Arc<Config>,
}

impl FilesHypervisor {
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config) }
    }

    fn find(&self, name: &MachineName) -> Result<&FileMachine, Error> {
        let found = self.config.machines.iter().find(|machine| machine.name == *name);
        found.ok_or_else(|| Error::NotFound { what: format!("machine {name}") })
    }

    async fn describe(&self, machine: &FileMachine) -> Result<Machine, Error> {
        let mut disks = Vec::new();
        for disk in &machine.disks {
            disks.push(DiskHardware {
                name: disk.name.clone(),
                bus: disk.bus,
                serial: disk.serial.clone(),
                size_bytes: size(machine, disk).await?,
                file: Some(disk.path.clone()),
                format: disk.format.name().to_owned(),
                encrypted: false,
            });
        }
        Ok(Machine {
            name: machine.name.clone(),
            uuid: machine.uuid,
            power: PowerState::ShutOff,
            hardware: Hardware {
                vcpus: machine.vcpus,
                memory_bytes: machine.memory_bytes,
                machine_type: machine.machine_type.clone(),
                firmware: Firmware::Bios,
                disks,
                nics: Vec::new(),
                guest_agent: false,
                video: None,
            },
            tag: None,
            autostart: false,
        })
    }

    /// A disk as it is now, with what has to be ended after reading it.
    async fn open_disks(&self, request: &SnapshotRequest) -> Result<FilesSnapshot, Error> {
        let machine = self.find(&request.machine)?;
        let place = Place::new(&self.config.state_dir, &request.machine);
        end_server(&place).await?;
        place.remove().await?;
        let mut wanted = Vec::new();
        for name in &request.disks {
            let disk = machine.disks.iter().find(|disk| disk.name == *name);
            let what = || format!("disk {name} of machine {}", request.machine);
            wanted.push(disk.ok_or_else(|| Error::NotFound { what: what() })?);
        }
        let served: Vec<(TrackedDisk, Option<Vec<String>>)> = wanted
            .iter()
            .filter(|disk| disk.format == DiskFormat::Qcow2)
            .map(|disk| (TrackedDisk::new(disk.name.clone(), disk.path.clone(), disk.format.name()), None))
            .collect();
        let mut snapshot =
            FilesSnapshot { instant: UnixMicros::from(SystemTime::now()), disks: Vec::new(), place };
        if !served.is_empty() {
            snapshot.place.make().await?;
            serve(&request.machine, &served, None, &snapshot.place).await?;
        }
        for disk in wanted {
            let opened = open_disk(machine, disk, &snapshot.place).await;
            match opened {
                Ok(disk) => snapshot.disks.push(disk),
                Err(error) => {
                    snapshot.end().await?;
                    return Err(error);
                }
            }
        }
        Ok(snapshot)
    }
}

async fn open_disk(machine: &FileMachine, disk: &FileDisk, place: &Place) -> Result<SnapshotDisk, Error> {
    match disk.format {
        DiskFormat::Raw => {
            let what = format!("reading disk {} of machine {}", disk.name, machine.name);
            let reader = blocking(&what, {
                let (path, what) = (disk.path.clone(), what.clone());
                move || raw::RawReader::open(&path, what)
            })
            .await?;
            Ok(SnapshotDisk {
                name: disk.name.clone(),
                size: reader.size(),
                changes_known: false,
                reader: Arc::new(reader),
            })
        }
        DiskFormat::Qcow2 => open_reader(&machine.name, &disk.name, &place.socket, None).await,
    }
}

/// Virtual size of a disk in bytes.
async fn size(machine: &FileMachine, disk: &FileDisk) -> Result<u64, Error> {
    let what = format!("reading the size of disk {} of machine {}", disk.name, machine.name);
    let (path, format, told) = (disk.path.clone(), disk.format, what.clone());
    blocking(&what, move || match format {
        DiskFormat::Raw => raw::size(&path, &told),
        DiskFormat::Qcow2 => understudy_replica_store::qcow2::virtual_size(&path)
            .map_err(|error| Error::Failed { what: told, why: error.to_string() }),
    })
    .await
}

/// Work with files, on a thread that may wait for them.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Unknown { what: what.to_owned(), why: error.to_string() })?
}

struct FilesSnapshot {
    instant: UnixMicros,
    disks: Vec<SnapshotDisk>,
    place: Place,
}

impl FilesSnapshot {
    async fn end(self) -> Result<(), Error> {
        drop(self.disks);
        end_server(&self.place).await?;
        self.place.remove().await
    }
}

#[async_trait]
impl Snapshot for FilesSnapshot {
    fn instant(&self) -> UnixMicros {
        self.instant
    }

    fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }

    fn checkpoint_made(&self) -> bool {
        false
    }

    /// Nothing tells how the last one who wrote to the files has left them.
    fn guest(&self) -> &GuestState {
        &GuestState::CRASH
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        self.end().await
    }
}

fn not_here(what: impl std::fmt::Display) -> Error {
    Error::WrongState {
        what: what.to_string(),
        why: "this host only has files to copy from; choose a host with a hypervisor".to_owned(),
    }
}

#[async_trait]
impl Hypervisor for FilesHypervisor {
    async fn inventory(&self) -> Result<HostInventory, Error> {
        let mut machines = Vec::new();
        for machine in &self.config.machines {
            match self.describe(machine).await {
                Ok(machine) => machines.push(machine),
                // One file that is away does not hide the other machines.
                Err(error) => tracing::warn!(machine = %machine.name, %error, "machine is not listed"),
            }
        }
        Ok(HostInventory {
            hypervisor: "files".to_owned(),
            machines,
            networks: Vec::new(),
            cpus: 0,
            memory_bytes: 0,
        })
    }

    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>, Error> {
        match self.find(name) {
            Ok(machine) => self.describe(machine).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        Ok(Box::new(self.open_disks(request).await?))
    }

    /// Its machines never run.
    async fn prepare_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn PreparedSnapshot>, Error> {
        Ok(Box::new(Still(Box::new(self.open_disks(request).await?))))
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

    async fn checkpoints(&self, _: &MachineName) -> Result<Vec<CheckpointName>, Error> {
        Ok(Vec::new())
    }

    async fn delete_checkpoints(&self, _: &MachineName, _: &BTreeSet<CheckpointName>) -> Result<(), Error> {
        Ok(())
    }

    async fn define(&self, definition: &MachineDefinition) -> Result<(), Error> {
        Err(not_here(format!("defining machine {}", definition.name)))
    }

    async fn start(&self, name: &MachineName) -> Result<(), Error> {
        Err(not_here(format!("starting machine {name}")))
    }

    async fn unlock(&self, name: &MachineName, _: &Passphrase) -> Result<(), Error> {
        Err(not_here(format!("unlocking machine {name}")))
    }

    async fn shut_down(&self, name: &MachineName, _: Duration) -> Result<bool, Error> {
        self.find(name).map(|_| true)
    }

    async fn power_off(&self, name: &MachineName) -> Result<(), Error> {
        self.find(name).map(drop)
    }

    async fn cut_off(&self, name: &MachineName, _: Uuid) -> Result<bool, Error> {
        Err(not_here(format!("cutting off machine {name}")))
    }

    /// Who runs the machine is not known here.
    fn can_cut_off(&self) -> bool {
        false
    }

    async fn undefine(&self, name: &MachineName) -> Result<(), Error> {
        match self.find(name) {
            Ok(_) => Err(not_here(format!("removing machine {name}"))),
            Err(_) => Ok(()),
        }
    }

    /// There is nothing to write on: whose the machine is stands in the agent's own records.
    async fn set_tag(&self, name: &MachineName, _: Option<&MachineTag>) -> Result<(), Error> {
        self.find(name).map(drop)
    }

    async fn ensure_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error> {
        Err(not_here(format!("making test network {}", definition.name)))
    }

    async fn remove_test_network(&self, _: &NetworkName) -> Result<(), Error> {
        Ok(())
    }

    async fn test_networks(&self) -> Result<Vec<NetworkName>, Error> {
        Ok(Vec::new())
    }

    async fn probe_isolation(&self, network: &NetworkName, _: &[IpAddr]) -> Result<IsolationEvidence, Error> {
        Err(not_here(format!("probing network {network}")))
    }

    async fn probe_existing_network(&self, probe: &ExistingNetworkProbe) -> Result<IsolationEvidence, Error> {
        Err(not_here(format!("probing network {}", probe.network)))
    }

    async fn remove_probe_port(&self, _: &NetworkName, _: Uuid) -> Result<(), Error> {
        Ok(())
    }

    async fn ask(&self, question: &Question, _: Duration) -> Result<Answer, Error> {
        Err(not_here(format!("asking machine {}", question.machine)))
    }

    async fn screenshot(&self, _: &MachineName) -> Result<Console, Error> {
        Ok(Console::Dark("this host runs no machines".to_owned()))
    }

    fn jump_hint(&self, _: &NetworkName) -> String {
        String::new()
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }
}

/// The disks of a machine by name, for whoever checks a configuration.
impl FileMachine {
    pub fn disk(&self, name: &DiskName) -> Option<&FileDisk> {
        self.disks.iter().find(|disk| disk.name == *name)
    }
}
