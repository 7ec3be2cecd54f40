//! The machines that a simulated host has when it is opened for the first time, as if somebody had installed them: disks that
//! are filled in part, a NIC on a network, running, and nobody's but their owner's.
//!
//! Later the host has what it had when its process ended, whatever the configuration says.

use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, MacAddress, MachineName, NetworkName, Uuid};
use understudy_replica_store::qcow2::{CLUSTER, Writer};

use super::{
    failed,
    machine::{MachineRecord, SimulatedMachine},
};
use crate::{Bus, DiskHardware, Error, Firmware, Hardware, NicHardware};

/// How much of each disk, from its start, holds data that never changes: an eighth. Journals lie in the second half.
const INSTALLED: u64 = 8;
/// Disks are named `vda` to `vdz`.
const MOST_DISKS: u32 = 26;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstMachine {
    pub name: MachineName,
    /// Its one NIC and the network that it is connected to.
    pub mac: MacAddress,
    pub network: NetworkName,
    /// 1 to 26.
    pub disks: u32,
    /// Size of each disk in MiB.
    pub disk_mib: u64,
}

/// Makes the machine's files below `state_dir`; it is found off.
pub fn install(machine: &FirstMachine, state_dir: &Path) -> Result<SimulatedMachine, Error> {
    let what = || format!("installing machine {}", machine.name);
    if !(1..=MOST_DISKS).contains(&machine.disks) {
        return Err(failed(
            what(),
            format!("it has {} disks; 1 to {MOST_DISKS} are possible", machine.disks),
        ));
    }
    let images = state_dir.join("images");
    std::fs::create_dir_all(&images).map_err(|error| failed(what(), error))?;
    let mut disks = Vec::new();
    for letter in ('a'..='z').take(machine.disks as usize) {
        let name: DiskName = format!("vd{letter}").parse().map_err(|error| failed(what(), error))?;
        let serial = format!("{}-{name}", machine.name);
        let file = images.join(format!("{serial}.qcow2"));
        write_image(&file, machine.disk_mib << 20, &serial).map_err(|error| failed(what(), error))?;
        disks.push(DiskHardware {
            name,
            bus: Bus::Virtio,
            serial: Some(serial),
            size_bytes: machine.disk_mib << 20,
            file: Some(file),
            format: "qcow2".to_owned(),
            encrypted: false,
        });
    }
    let nic = NicHardware {
        mac: machine.mac,
        model: "virtio".to_owned(),
        network: Some(machine.network.clone()),
        addresses: Vec::new(),
    };
    let record = MachineRecord {
        name: machine.name.clone(),
        uuid: Uuid::new_v5(&Uuid::NAMESPACE_OID, machine.name.as_str().as_bytes()),
        hardware: Hardware {
            vcpus: 1,
            memory_bytes: 64 << 20,
            machine_type: "simulated".to_owned(),
            firmware: Firmware::Bios,
            disks,
            nics: vec![nic],
            guest_agent: true,
            video: Some("vga".to_owned()),
        },
        tag: None,
        is_running: false,
        shut_itself_down: false,
        checkpoints: Vec::new(),
    };
    let installed = SimulatedMachine::open(record, state_dir.to_owned())?;
    installed.save()?;
    Ok(installed)
}

/// No two clusters of any two disks are alike, so that nothing comes out right by mistake.
fn write_image(file: &Path, size: u64, serial: &str) -> Result<(), understudy_replica_store::StoreError> {
    let mut writer = Writer::create(file, size, None)?;
    let mut content = vec![0; CLUSTER as usize];
    for cluster in 0..size / INSTALLED / CLUSTER {
        let mut hasher = blake3::Hasher::new();
        hasher.update(serial.as_bytes()).update(&cluster.to_be_bytes());
        hasher.finalize_xof().fill(&mut content);
        writer.write(cluster, &content)?;
    }
    writer.finish().map(drop)
}
