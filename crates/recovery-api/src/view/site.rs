//! Sites, hosts and machines.

use serde::Serialize;
use understudy_ids::{DiskName, HostName, ItemName, MacAddress, RunId, SiteName, UnixMicros};
use understudy_types_api::time_to_wire;

use crate::{
    MachineRef, Power, Resource, SiteKind,
    check::{Checks, Invalid},
    encode, v1,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    pub name: SiteName,
    pub kind: SiteKind,
    pub description: String,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
}

impl Site {
    pub fn into_wire(self) -> v1::Site {
        let Self { name, kind, description, create_time } = self;
        v1::Site {
            name: name.to_resource(),
            kind: kind.to_wire().into(),
            description,
            create_time: Some(time_to_wire(create_time)),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::Site) -> Result<Self, Invalid> {
        let v1::Site { name, kind, description, create_time } = wire;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let kind = checks.word("kind", SiteKind::from_wire(kind));
        let create_time = checks.time("create_time", create_time);
        let whole = (|| Some(Self { name: name?, kind: kind?, description, create_time: create_time? }))();
        checks.finish(whole)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    pub name: HostName,
    pub facts_endpoint: String,
    pub sink_endpoint: String,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
    /// Nothing until the agent has been heard once; then so are the fields after it.
    #[serde(serialize_with = "encode::maybe_when")]
    pub last_heard: Option<UnixMicros>,
    pub connected: bool,
    pub hypervisor: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub store_free_bytes: u64,
}

impl Host {
    pub fn into_wire(self) -> v1::Host {
        let Self {
            name,
            facts_endpoint,
            sink_endpoint,
            create_time,
            last_heard,
            connected,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
        } = self;
        v1::Host {
            name: name.to_resource(),
            facts_endpoint,
            sink_endpoint,
            create_time: Some(time_to_wire(create_time)),
            last_heard: last_heard.map(time_to_wire),
            connected,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::Host) -> Result<Self, Invalid> {
        let v1::Host {
            name,
            facts_endpoint,
            sink_endpoint,
            create_time,
            last_heard,
            connected,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
        } = wire;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let create_time = checks.time("create_time", create_time);
        let last_heard = checks.optional_time("last_heard", last_heard);
        let whole = (|| {
            Some(Self {
                name: name?,
                facts_endpoint,
                sink_endpoint,
                create_time: create_time?,
                last_heard,
                connected,
                hypervisor,
                cpus,
                memory_bytes,
                store_free_bytes,
            })
        })();
        checks.finish(whole)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub name: MachineRef,
    pub uuid: String,
    pub power: Power,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<MachineDisk>,
    pub nics: Vec<MachineNic>,
    /// The protected item that it belongs to.
    pub item: Option<ItemName>,
    /// The test run that made it.
    pub test_run: Option<RunId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineDisk {
    pub name: DiskName,
    pub size_bytes: u64,
    pub serial: String,
    pub replicable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineNic {
    pub mac: MacAddress,
    pub network: String,
    pub addresses: Vec<String>,
}

impl Machine {
    pub fn into_wire(self) -> v1::Machine {
        let Self { name, uuid, power, vcpus, memory_bytes, disks, nics, item, test_run } = self;
        v1::Machine {
            name: name.to_resource(),
            uuid,
            power: power.to_wire().into(),
            vcpus,
            memory_bytes,
            disks: disks.into_iter().map(MachineDisk::into_wire).collect(),
            nics: nics.into_iter().map(MachineNic::into_wire).collect(),
            item: item.map(|i| i.to_resource()).unwrap_or_default(),
            test_run: test_run.map(|r| r.to_resource()).unwrap_or_default(),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::Machine) -> Result<Self, Invalid> {
        let v1::Machine { name, uuid, power, vcpus, memory_bytes, disks, nics, item, test_run } = wire;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let power = checks.word("power", Power::from_wire(power));
        let disks = disks.into_iter().map(|d| MachineDisk::from_wire(&mut checks, d)).collect::<Option<_>>();
        let nics = nics.into_iter().map(|n| MachineNic::from_wire(&mut checks, n)).collect::<Option<_>>();
        let item = checks.optional_resource("item", &item);
        let test_run = checks.optional_resource("test_run", &test_run);
        let whole = (|| {
            Some(Self {
                name: name?,
                uuid,
                power: power?,
                vcpus,
                memory_bytes,
                disks: disks?,
                nics: nics?,
                item: item?,
                test_run: test_run?,
            })
        })();
        checks.finish(whole)
    }
}

impl MachineDisk {
    fn into_wire(self) -> v1::MachineDisk {
        let Self { name, size_bytes, serial, replicable } = self;
        v1::MachineDisk { name: name.to_string(), size_bytes, serial, replicable }
    }

    fn from_wire(checks: &mut Checks, wire: v1::MachineDisk) -> Option<Self> {
        let v1::MachineDisk { name, size_bytes, serial, replicable } = wire;
        Some(Self { name: checks.parse("disks.name", &name)?, size_bytes, serial, replicable })
    }
}

impl MachineNic {
    fn into_wire(self) -> v1::MachineNic {
        let Self { mac, network, addresses } = self;
        v1::MachineNic { mac: mac.to_string(), network, addresses }
    }

    fn from_wire(checks: &mut Checks, wire: v1::MachineNic) -> Option<Self> {
        let v1::MachineNic { mac, network, addresses } = wire;
        Some(Self { mac: checks.parse("nics.mac", &mac)?, network, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_go_out_and_come_in_alike() {
        let machine = Machine {
            name: MachineRef::from_resource("sites/alpha/hosts/h1/machines/db1").unwrap(),
            uuid: "00000000-0000-0000-0000-0000000000d1".into(),
            power: Power::Running,
            vcpus: 2,
            memory_bytes: 1 << 30,
            disks: vec![MachineDisk {
                name: "vda".parse().unwrap(),
                size_bytes: 1,
                serial: "s".into(),
                replicable: true,
            }],
            nics: vec![MachineNic {
                mac: "52:54:00:00:00:01".parse().unwrap(),
                network: "prod".into(),
                addresses: vec!["192.168.50.11".into()],
            }],
            item: Some("db1".parse().unwrap()),
            test_run: None,
        };
        assert_eq!(Machine::from_wire(machine.clone().into_wire()), Ok(machine.clone()));
        let json = serde_json::to_value(&machine).unwrap();
        assert_eq!(json["name"], "alpha/h1/db1");
        assert_eq!(json["power"], "running");
    }

    #[test]
    fn a_host_that_was_never_heard_is_one_all_the_same() {
        let host = Host {
            name: "alpha/h1".parse().unwrap(),
            facts_endpoint: "https://a:1".into(),
            sink_endpoint: "https://a:2".into(),
            create_time: UnixMicros::new(1),
            last_heard: None,
            connected: false,
            hypervisor: String::new(),
            cpus: 0,
            memory_bytes: 0,
            store_free_bytes: 0,
        };
        assert_eq!(Host::from_wire(host.clone().into_wire()), Ok(host));
        assert!(Host::from_wire(v1::Host::default()).is_err());
    }
}
