//! From what drivers and store know to what is told.

use understudy_hypervisor::{self as hypervisor, TagRole};
use understudy_ids::ItemName;
use understudy_replica_store::{PointInfo, PointKind, ScrubRecord, Seal};
use understudy_replication_api::{Disk, Machine, Nic, PointDisk, PowerState, RecoveryPoint, ScrubFacts};

use crate::keyring::Keyring;

pub fn machine(machine: &hypervisor::Machine) -> Machine {
    let hypervisor::Machine { name, uuid, power, hardware, tag, autostart: _ } = machine;
    Machine {
        name: name.clone(),
        uuid: *uuid,
        power: match power {
            hypervisor::PowerState::Running => PowerState::Running,
            hypervisor::PowerState::Paused => PowerState::Paused,
            hypervisor::PowerState::ShutOff => PowerState::ShutOff,
            hypervisor::PowerState::Unknown => PowerState::Unknown,
        },
        vcpus: hardware.vcpus,
        memory_bytes: hardware.memory_bytes,
        disks: hardware.disks.iter().map(disk).collect(),
        nics: hardware.nics.iter().map(nic).collect(),
        item: tag.as_ref().map(|tag| (tag.item.clone(), tag.generation)),
        test_run: tag.as_ref().and_then(|tag| match tag.role {
            TagRole::Test { run } => Some(run),
            TagRole::Active => None,
        }),
    }
}

fn disk(disk: &hypervisor::DiskHardware) -> Disk {
    let hypervisor::DiskHardware { name, bus: _, serial, size_bytes, file, format, encrypted: _ } = disk;
    Disk {
        name: name.clone(),
        size: *size_bytes,
        format: format.clone(),
        serial: serial.clone(),
        replicable: file.is_some(),
    }
}

fn nic(nic: &hypervisor::NicHardware) -> Nic {
    let hypervisor::NicHardware { mac, model: _, network, addresses } = nic;
    Nic { mac: *mac, network: network.clone(), addresses: addresses.clone() }
}

pub fn scrub(record: &ScrubRecord) -> ScrubFacts {
    ScrubFacts {
        last_end: record.last.as_ref().map(|last| last.ended),
        checked_blocks: record.last.as_ref().map_or(0, |last| last.checked_blocks),
        under_way_since: record.under_way_since(),
    }
}

/// Whether it is unlocked is asked anew each time the facts are told.
pub fn point(point: PointInfo) -> Point {
    let PointInfo { manifest, pins, damaged_blocks } = point;
    let seal = manifest.seal;
    let told = RecoveryPoint {
        seq: manifest.seq,
        instant: manifest.instant,
        received: manifest.received,
        generation: manifest.generation,
        disks: manifest
            .disks
            .into_iter()
            .map(|d| PointDisk { name: d.name, size: d.size, changed_bytes: d.changed_bytes, root: d.root })
            .collect(),
        is_base: manifest.kind == PointKind::Base,
        pinned: !pins.is_empty(),
        consistency: manifest.consistency,
        frozen: manifest.frozen,
        damaged_blocks,
        encrypted: seal.is_some(),
        unlocked_until: None,
        joint: manifest.joint,
    };
    Point { told, seal }
}

/// A point, and how it is encrypted.
#[derive(Debug, Clone)]
pub struct Point {
    told: RecoveryPoint,
    seal: Option<Seal>,
}

impl Point {
    pub fn told(&self, item: &ItemName, keyring: &Keyring) -> RecoveryPoint {
        let unlocked_until = self.seal.as_ref().and_then(|seal| keyring.unlocked_until(item, seal));
        RecoveryPoint { unlocked_until, ..self.told.clone() }
    }
}
