//! The machine as it travels with every recovery point: identity and hardware, so that the stand-by can be the same one
//! (R-FO-6).

use serde::{Deserialize, Serialize};
use understudy_hypervisor::{Hardware, Machine};
use understudy_ids::{MachineName, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDescriptor {
    pub name: MachineName,
    pub uuid: Uuid,
    pub hardware: Hardware,
}

impl MachineDescriptor {
    /// The machine with the given disks only; those that are not replicated stay behind.
    pub fn of(machine: &Machine, disks: &[understudy_ids::DiskName]) -> Self {
        let mut hardware = machine.hardware.clone();
        hardware.disks.retain(|d| disks.contains(&d.name));
        Self { name: machine.name.clone(), uuid: machine.uuid, hardware }
    }
}
