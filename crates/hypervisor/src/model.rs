//! What machines look like to Understudy: the identity that must survive a failover (R-FO-6), and where they are connected.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, Generation, ItemName, MacAddress, MachineName, NetworkName, Uuid};

/// What one host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInventory {
    /// Driver and versions, `libvirt 9.0.0, QEMU 7.2.0`.
    pub hypervisor: String,
    pub machines: Vec<Machine>,
    /// Networks that a machine can be connected to, without test networks.
    pub networks: Vec<NetworkName>,
    pub cpus: u32,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub name: MachineName,
    pub uuid: Uuid,
    pub power: PowerState,
    pub hardware: Hardware,
    /// What Understudy wrote on it.
    pub tag: Option<MachineTag>,
    pub autostart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerState {
    Running,
    Paused,
    ShutOff,
    /// The hypervisor did not say. Never taken for [`PowerState::ShutOff`].
    Unknown,
}

/// The shape of a machine: what its guest can see, in an order that it depends on. Travels with every recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// `pc-i440fx-7.2`, `pc-q35-7.2`; kept so that the guest finds its devices where they were.
    pub machine_type: String,
    pub firmware: Firmware,
    /// In boot order, then device order.
    pub disks: Vec<DiskHardware>,
    pub nics: Vec<NicHardware>,
    /// Whether there is a channel to an agent in the guest.
    #[serde(default)]
    pub guest_agent: bool,
    /// Its display adapter, `vga`; none: it has no console to look at.
    #[serde(default)]
    pub video: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    Bios,
    Uefi,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHardware {
    /// Target device, `vda`.
    pub name: DiskName,
    pub bus: Bus,
    pub serial: Option<String>,
    /// Virtual size.
    pub size_bytes: u64,
    /// Where it is on its present host; `None` when it is not a file (R-REP-1: such a disk must be excluded).
    pub file: Option<PathBuf>,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Its file is encrypted: the machine starts only after [`crate::Hypervisor::unlock`].
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bus {
    Virtio,
    Scsi,
    Sata,
    Ide,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicHardware {
    pub mac: MacAddress,
    /// `virtio`, `e1000`.
    pub model: String,
    /// The network it is connected to on its present host.
    pub network: Option<NetworkName>,
    /// Addresses that the host has seen it use, as far as known.
    pub addresses: Vec<IpAddr>,
}

/// A machine to be made.
#[derive(Debug, Clone)]
pub struct MachineDefinition {
    pub name: MachineName,
    pub uuid: Uuid,
    pub hardware: Hardware,
    /// One existing qcow2 file per disk of `hardware`.
    pub disk_files: BTreeMap<DiskName, PathBuf>,
    /// Disks whose files are encrypted, with the files that each is stacked on, the nearest first. One passphrase opens them all.
    pub encrypted: BTreeMap<DiskName, Vec<PathBuf>>,
    /// One entry per NIC of `hardware`; `None` leaves it unconnected.
    pub nic_networks: Vec<Option<NetworkName>>,
    pub tag: MachineTag,
}

/// What Understudy writes on a machine, so that whoever finds it knows whose it is without any of our databases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineTag {
    pub item: ItemName,
    pub generation: Generation,
    pub role: TagRole,
}

impl MachineTag {
    /// Whether a machine tagged so may take the place of one tagged `existing`: made for the same item and the same
    /// purpose, and not of an older generation.
    pub fn may_replace(&self, existing: &Self) -> bool {
        self.item == existing.item && self.role == existing.role && existing.generation <= self.generation
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TagRole {
    /// The machine that production uses, at this generation.
    Active,
    /// Made for the test run of that id.
    Test { run: Uuid },
}

/// An isolated network to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestNetworkDefinition {
    pub name: NetworkName,
    pub run: Uuid,
    /// Address and prefix length of the gateway inside the segment; it is also the DHCP and DNS server.
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    pub reservations: Vec<Reservation>,
}

/// From where and for what a network that we did not make is searched (R-TF-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingNetworkProbe {
    pub network: NetworkName,
    pub run: Uuid,
    /// Of the run's port.
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// Through which what is outside of the subnet would be reached.
    pub gateway: Option<Ipv4Addr>,
    /// Must not answer.
    pub targets: Vec<IpAddr>,
    /// That the run's machines will have: nobody may have them yet.
    pub planned: Vec<IpAddr>,
}

/// An address that DHCP gives to one Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    /// Name for the segment's own DNS.
    pub host_name: String,
}
