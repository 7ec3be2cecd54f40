//! One simulated machine, and what the host's calls do to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use understudy_ids::{DiskName, MachineName, Uuid};
use understudy_replica_store::qcow2::CLUSTER;

use super::{Config, Host, disk::SimulatedDisk, failed, record};
use crate::{
    CheckpointName, DiskHardware, Error, Hardware, Machine, MachineDefinition, MachineTag, PowerState,
};

pub struct SimulatedMachine {
    pub record: MachineRecord,
    pub disks: BTreeMap<DiskName, SimulatedDisk>,
    /// Writes the journal while the machine runs.
    pub guest: Option<JoinHandle<()>>,
    /// Its guest's agent does not answer for now.
    pub agent_is_silent: bool,
    /// Its guest executes nothing until then, or until it is let go.
    pub held_until: Option<Instant>,
    pub state_dir: PathBuf,
}

/// What is kept of a machine on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineRecord {
    pub name: MachineName,
    pub uuid: Uuid,
    /// With this host's disk files and networks.
    pub hardware: Hardware,
    pub tag: Option<MachineTag>,
    pub is_running: bool,
    /// It is off because its guest has shut itself down.
    #[serde(default)]
    pub shut_itself_down: bool,
    /// Oldest first. As of the last orderly stop.
    pub checkpoints: Vec<Checkpoint>,
}

/// Clusters written since the checkpoint, per disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    pub name: CheckpointName,
    pub changed: BTreeMap<DiskName, BTreeSet<u64>>,
}

impl SimulatedMachine {
    /// A machine that was running when its process died is off, and its change tracking is lost.
    pub fn open(mut record: MachineRecord, state_dir: PathBuf) -> Result<Self, Error> {
        let mut disks = BTreeMap::new();
        for disk in &record.hardware.disks {
            let file =
                disk.file.as_ref().ok_or_else(|| failed(format!("disk {}", disk.name), "it has no file"))?;
            let overlay = record::overlay(&state_dir, &record.name, &disk.name);
            disks.insert(disk.name.clone(), SimulatedDisk::open(file, &overlay)?);
        }
        let died = std::mem::take(&mut record.is_running);
        if died {
            record.checkpoints.clear();
        }
        let mut machine =
            Self { record, disks, guest: None, agent_is_silent: false, held_until: None, state_dir };
        if died {
            machine.settle()?;
            machine.save()?;
        }
        Ok(machine)
    }

    pub fn is_running(&self) -> bool {
        self.record.is_running
    }

    pub fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    pub fn save(&self) -> Result<(), Error> {
        record::save_machine(&self.state_dir, &self.record)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.disks.values_mut().try_for_each(SimulatedDisk::settle)
    }

    /// Whether it was off before.
    pub fn start(&mut self) -> Result<bool, Error> {
        if self.is_running() {
            return Ok(false);
        }
        // Who held it while it was off finds out.
        self.held_until = None;
        self.record.is_running = true;
        self.record.shut_itself_down = false;
        self.save()?;
        Ok(true)
    }

    pub fn stop(&mut self, by_guest: bool) -> Result<(), Error> {
        if let Some(guest) = self.guest.take() {
            guest.abort();
        }
        if !self.is_running() {
            return Ok(());
        }
        self.held_until = None;
        self.settle()?;
        self.record.is_running = false;
        self.record.shut_itself_down = by_guest;
        self.save()
    }

    pub fn set_tag(&mut self, tag: Option<MachineTag>) -> Result<(), Error> {
        self.record.tag = tag;
        self.save()
    }

    pub fn guest_write(&mut self, disk: &DiskName, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let what = format!("a guest's write to machine {}", self.record.name);
        if !self.is_running() {
            return Err(Error::WrongState { what, why: "it does not run".to_owned() });
        }
        if self.is_held() {
            return Err(Error::WrongState { what, why: "it is held".to_owned() });
        }
        let found =
            self.disks.get_mut(disk).ok_or_else(|| Error::NotFound { what: format!("disk {disk}") })?;
        let touched = found.write(offset, bytes)?;
        for checkpoint in &mut self.record.checkpoints {
            checkpoint.changed.entry(disk.clone()).or_default().extend(&touched);
        }
        Ok(())
    }

    pub fn resize_disk(&mut self, disk: &DiskName, size: u64) -> Result<(), Error> {
        let found =
            self.disks.get_mut(disk).ok_or_else(|| Error::NotFound { what: format!("disk {disk}") })?;
        found.resize(size)
    }

    /// Older checkpoints do not know the disk.
    pub fn attach_disk(&mut self, disk: DiskHardware) -> Result<(), Error> {
        let file =
            disk.file.clone().ok_or_else(|| failed(format!("disk {}", disk.name), "it has no file"))?;
        let overlay = record::overlay(&self.state_dir, &self.record.name, &disk.name);
        self.disks.insert(disk.name.clone(), SimulatedDisk::open(&file, &overlay)?);
        self.record.hardware.disks.push(disk);
        self.save()
    }

    /// Its file stays, with what was written.
    pub fn detach_disk(&mut self, disk: &DiskName) -> Result<(), Error> {
        if let Some(mut gone) = self.disks.remove(disk) {
            gone.settle()?;
            gone.forget();
        }
        self.record.hardware.disks.retain(|found| found.name != *disk);
        self.save()
    }

    /// Number of the last record that its guest has written.
    pub fn last_record(&mut self) -> Result<Option<u64>, Error> {
        self.disks.values_mut().try_fold(None, |last, disk| Ok(last.max(disk.last_record()?)))
    }

    pub fn checkpoints(&self) -> Vec<CheckpointName> {
        self.record.checkpoints.iter().map(|checkpoint| checkpoint.name.clone()).collect()
    }

    /// Counted in whole clusters, as the bitmaps of qcow2 do.
    pub fn changed_bytes(&self, since: &CheckpointName) -> Option<u64> {
        let checkpoint = self.record.checkpoints.iter().find(|checkpoint| checkpoint.name == *since)?;
        Some(checkpoint.changed.values().map(|clusters| clusters.len() as u64 * CLUSTER).sum())
    }

    /// Every checkpoint holds all that was written since it was made, so none has to inherit from another.
    pub fn delete_checkpoints(&mut self, names: &BTreeSet<CheckpointName>) -> Result<(), Error> {
        self.record.checkpoints.retain(|checkpoint| !names.contains(&checkpoint.name));
        self.save()
    }
}

impl Host {
    pub(super) fn describe(&self, machine: &SimulatedMachine) -> Machine {
        let record = &machine.record;
        let mut hardware = record.hardware.clone();
        for disk in &mut hardware.disks {
            disk.size_bytes = machine.disks.get(&disk.name).map_or(0, SimulatedDisk::size);
        }
        for nic in hardware.nics.iter_mut().filter(|_| machine.is_running()) {
            let reserved = match &nic.network {
                Some(name) => self.test_networks.get(name).map_or(&self.reservations, |n| &n.reservations),
                None => continue,
            };
            let given = reserved.iter().filter(|given| given.mac == nic.mac);
            nic.addresses.extend(given.map(|given| IpAddr::V4(given.address)));
        }
        let power = if machine.is_running() { PowerState::Running } else { PowerState::ShutOff };
        let (name, uuid, tag) = (record.name.clone(), record.uuid, record.tag.clone());
        Machine { name, uuid, power, hardware, tag, autostart: false }
    }

    pub(super) fn define(&mut self, definition: &MachineDefinition, config: &Config) -> Result<(), Error> {
        let what = format!("machine {}", definition.name);
        let conflict = |why: &str| Error::Conflict { what: what.clone(), why: why.to_owned() };
        let same_uuid = |machine: &&SimulatedMachine| machine.record.uuid == definition.uuid;
        if self.machines.values().find(same_uuid).is_some_and(|other| other.record.name != definition.name) {
            return Err(conflict("another machine has its UUID"));
        }
        let hardware = placed(definition)?;
        if let Some(existing) = self.machines.get(&definition.name) {
            let tag = existing.record.tag.as_ref().ok_or_else(|| conflict("it carries no Understudy tag"))?;
            if !definition.tag.may_replace(tag) {
                return Err(conflict("it carries another tag"));
            }
            if existing.is_running() {
                return Err(Error::WrongState { what, why: "it is running; power it off first".to_owned() });
            }
            if existing.record.hardware == hardware
                && *tag == definition.tag
                && existing.record.uuid == definition.uuid
            {
                return Ok(());
            }
            existing.disks.values().for_each(SimulatedDisk::forget);
        }
        let record = MachineRecord {
            name: definition.name.clone(),
            uuid: definition.uuid,
            hardware,
            tag: Some(definition.tag.clone()),
            is_running: false,
            shut_itself_down: false,
            checkpoints: Vec::new(),
        };
        let machine = SimulatedMachine::open(record, config.state_dir.clone())?;
        machine.save()?;
        self.machines.insert(definition.name.clone(), machine);
        Ok(())
    }

    pub(super) fn undefine(&mut self, name: &MachineName, config: &Config) -> Result<(), Error> {
        let Some(machine) = self.machines.get(name) else { return Ok(()) };
        if machine.is_running() {
            let why = "it is running; power it off first".to_owned();
            return Err(Error::WrongState { what: format!("undefining machine {name}"), why });
        }
        machine.disks.values().for_each(SimulatedDisk::forget);
        record::remove_machine(&config.state_dir, name)?;
        self.machines.remove(name);
        Ok(())
    }
}

/// The definition's hardware with this host's files and networks in it.
fn placed(definition: &MachineDefinition) -> Result<Hardware, Error> {
    let what = format!("defining machine {}", definition.name);
    if !definition.encrypted.is_empty() {
        return Err(failed(what, super::NO_ENCRYPTION));
    }
    let mut hardware = definition.hardware.clone();
    if definition.nic_networks.len() != hardware.nics.len() {
        return Err(failed(what, "it needs as many networks as NICs"));
    }
    for disk in &mut hardware.disks {
        let file = definition.disk_files.get(&disk.name);
        let file =
            file.ok_or_else(|| failed(what.clone(), format!("there is no file for disk {}", disk.name)))?;
        disk.file = Some(file.clone());
        disk.format = "qcow2".to_owned();
        disk.encrypted = false;
    }
    for (nic, network) in hardware.nics.iter_mut().zip(&definition.nic_networks) {
        nic.network = network.clone();
        nic.addresses.clear();
    }
    Ok(hardware)
}
