//! Which files are the disks of which machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, MachineName, Uuid};

use crate::Bus;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Sockets and process ids of servers, while disks are read.
    pub state_dir: PathBuf,
    #[serde(default)]
    pub machines: Vec<FileMachine>,
}

/// A machine as the stand-by is to be made: its hardware is described here, because nothing else knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMachine {
    pub name: MachineName,
    pub uuid: Uuid,
    #[serde(default = "defaults::vcpus")]
    pub vcpus: u32,
    #[serde(default = "defaults::memory_bytes")]
    pub memory_bytes: u64,
    #[serde(default = "defaults::machine_type")]
    pub machine_type: String,
    pub disks: Vec<FileDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDisk {
    /// Target device, `vda`.
    pub name: DiskName,
    /// A file or, for `raw`, a block device.
    pub path: PathBuf,
    pub format: DiskFormat,
    #[serde(default = "defaults::bus")]
    pub bus: Bus,
    #[serde(default)]
    pub serial: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

mod defaults {
    use crate::Bus;

    pub const fn vcpus() -> u32 {
        1
    }
    pub const fn memory_bytes() -> u64 {
        1 << 30
    }
    pub fn machine_type() -> String {
        "pc".to_owned()
    }
    pub const fn bus() -> Bus {
        Bus::Virtio
    }
}

impl Config {
    /// Everything that is wrong with it, in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, machine) in self.machines.iter().enumerate() {
            let earlier = &self.machines[..index];
            if earlier.iter().any(|other| other.name == machine.name) {
                problems.push(format!("machines: {} is there twice", machine.name));
            }
            if earlier.iter().any(|other| other.uuid == machine.uuid) {
                problems.push(format!("machines: {} has the UUID of another", machine.name));
            }
            if machine.disks.is_empty() {
                problems.push(format!("machines: {} has no disks", machine.name));
            }
            for (at, disk) in machine.disks.iter().enumerate() {
                if machine.disks[..at].iter().any(|other| other.name == disk.name) {
                    problems.push(format!("machines: {} has disk {} twice", machine.name, disk.name));
                }
                if !disk.path.is_absolute() {
                    problems
                        .push(format!("machines: {}/{}: write an absolute path", machine.name, disk.name));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let disk = |name: &str, path: &str| FileDisk {
            name: name.parse().unwrap(),
            path: path.into(),
            format: DiskFormat::Raw,
            bus: Bus::Virtio,
            serial: None,
        };
        let machine = |name: &str, uuid: u128, disks: Vec<FileDisk>| FileMachine {
            name: name.parse().unwrap(),
            uuid: Uuid::from_u128(uuid),
            vcpus: 1,
            memory_bytes: 1 << 30,
            machine_type: "pc".to_owned(),
            disks,
        };
        let config = Config {
            state_dir: "/tmp/x".into(),
            machines: vec![
                machine("a", 1, vec![disk("vda", "/dev/vg/a"), disk("vda", "b.img")]),
                machine("a", 1, vec![]),
            ],
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        let whole = Config { machines: vec![machine("a", 1, vec![disk("vda", "/dev/vg/a")])], ..config };
        assert_eq!(whole.problems(), Vec::<String>::new());
    }
}
