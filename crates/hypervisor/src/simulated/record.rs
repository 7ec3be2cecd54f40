//! The simulated host's files: one per machine, one for the networks, and the overlays of the disks.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use understudy_ids::{DiskName, MachineName, NetworkName};

use super::{
    failed,
    machine::{MachineRecord, SimulatedMachine},
};
use crate::{Error, TestNetworkDefinition};

/// Where the disks of a machine are, for whoever looks at a host from outside its process; empty when it does not have the
/// machine. What a running machine writes is not in these files before it stops.
pub fn disk_files(state_dir: &Path, machine: &MachineName) -> Result<Vec<PathBuf>, Error> {
    let record: Option<MachineRecord> = read(&machine_file(state_dir, machine))?;
    let disks = record.map(|record| record.hardware.disks).unwrap_or_default();
    Ok(disks.into_iter().filter_map(|disk| disk.file).collect())
}

/// Whether a host was ever opened there.
pub fn exists(state_dir: &Path) -> bool {
    machines_dir(state_dir).is_dir()
}

pub fn load_machines(state_dir: &Path) -> Result<BTreeMap<MachineName, SimulatedMachine>, Error> {
    let dir = machines_dir(state_dir);
    let overlays = state_dir.join("overlays");
    for dir in [&dir, &overlays] {
        fs::create_dir_all(dir).map_err(|error| failed(format!("making {}", dir.display()), error))?;
    }
    let what = || format!("reading {}", dir.display());
    let mut machines = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(|error| failed(what(), error))? {
        let path = entry.map_err(|error| failed(what(), error))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Some(record) = read::<MachineRecord>(&path)? else { continue };
        let name = record.name.clone();
        match SimulatedMachine::open(record, state_dir.to_owned()) {
            Ok(machine) => drop(machines.insert(name, machine)),
            // As with a real host, a machine whose disks are gone does not keep the others from being there.
            Err(error) => {
                tracing::warn!(machine = %name, %error, "a simulated machine cannot be found again")
            }
        }
    }
    Ok(machines)
}

pub fn save_machine(state_dir: &Path, record: &MachineRecord) -> Result<(), Error> {
    write(&machine_file(state_dir, &record.name), record)
}

pub fn remove_machine(state_dir: &Path, name: &MachineName) -> Result<(), Error> {
    let path = machine_file(state_dir, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

pub fn load_networks(state_dir: &Path) -> Result<BTreeMap<NetworkName, TestNetworkDefinition>, Error> {
    let networks: Vec<TestNetworkDefinition> = read(&networks_file(state_dir))?.unwrap_or_default();
    Ok(networks.into_iter().map(|network| (network.name.clone(), network)).collect())
}

pub fn save_networks(
    state_dir: &Path,
    networks: &BTreeMap<NetworkName, TestNetworkDefinition>,
) -> Result<(), Error> {
    write(&networks_file(state_dir), &networks.values().collect::<Vec<_>>())
}

/// Where a disk's overlay is; its two files have extensions of their own.
pub fn overlay(state_dir: &Path, machine: &MachineName, disk: &DiskName) -> PathBuf {
    state_dir.join("overlays").join(format!("{machine}_{disk}.overlay"))
}

fn machines_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("machines")
}

fn machine_file(state_dir: &Path, name: &MachineName) -> PathBuf {
    machines_dir(state_dir).join(format!("{name}.json"))
}

fn networks_file(state_dir: &Path) -> PathBuf {
    state_dir.join("networks.json")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let what = || format!("reading {}", path.display());
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed(what(), error))?,
    };
    serde_json::from_str(&text).map(Some).map_err(|error| failed(what(), error))
}

/// Whole or not at all.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let what = || format!("writing {}", path.display());
    let text = serde_json::to_vec(value).map_err(|error| failed(what(), error))?;
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).map_err(|error| failed(what(), error))
}
