//! Wire messages to domain values and back. Inbound checks everything; outbound takes every value apart, so that a new field cannot
//! be forgotten.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use understudy_ids::Uuid;
use understudy_netplan::{
    AddressPool, Addressing, Connection, ConnectionPlan, Isolation, MachineConnections, MachineNic, Mapping,
    PlannedTestNetwork, Purpose, VmNetwork,
};
use understudy_rpc::ApiError;
use understudy_types_api::{problem_from_wire, problem_to_wire, time_from_wire, time_to_wire};

use crate::{
    field::Fields,
    model::{AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkMapping, StoredNetwork},
    v1,
};

/// Bounds of one question (invariant 14).
const MAX_MACHINES: usize = 1000;
const MAX_NICS: usize = 64;
const MAX_ADDRESSES: usize = 64;
const MAX_TARGETS: usize = 64;

pub(crate) fn network_to_wire(stored: StoredNetwork) -> v1::VmNetwork {
    let StoredNetwork { network, created } = stored;
    v1::VmNetwork { create_time: Some(time_to_wire(created)), ..new_network_to_wire(network) }
}

pub(crate) fn new_network_to_wire(network: VmNetwork) -> v1::VmNetwork {
    let VmNetwork {
        name,
        isolation,
        addressing,
        subnet,
        gateway,
        pool,
        hypervisor_network,
        isolation_targets,
    } = network;
    let text = |address: Option<Ipv4Addr>| address.map(|a| a.to_string()).unwrap_or_default();
    v1::VmNetwork {
        name: name.to_string(),
        isolation: isolation_to_wire(isolation).into(),
        addressing: match addressing {
            Addressing::Dhcp => v1::Addressing::Dhcp,
            Addressing::Static => v1::Addressing::Static,
        }
        .into(),
        subnet: subnet.to_string(),
        gateway: text(gateway),
        pool_start: text(pool.map(|p| p.first)),
        pool_end: text(pool.map(|p| p.last)),
        hypervisor_network: hypervisor_network.into(),
        isolation_targets: isolation_targets.iter().map(ToString::to_string).collect(),
        create_time: None,
    }
}

fn isolation_to_wire(isolation: Isolation) -> v1::Isolation {
    match isolation {
        Isolation::None => v1::Isolation::None,
        Isolation::Vlan => v1::Isolation::Vlan,
        Isolation::Virtualized => v1::Isolation::Virtualized,
    }
}

/// Only what can be told from the fields alone; what the network as a whole must be like is `VmNetwork::problems`.
pub(crate) fn network_from_wire(wire: v1::VmNetwork) -> Result<VmNetwork, ApiError> {
    let v1::VmNetwork {
        name,
        isolation,
        addressing,
        subnet,
        gateway,
        pool_start,
        pool_end,
        hypervisor_network,
        isolation_targets,
        create_time: _,
    } = wire;
    let mut fields = Fields::default();
    let name = fields.parse("network.name", &name);
    let isolation = match v1::Isolation::try_from(isolation) {
        Ok(v1::Isolation::None) => Some(Isolation::None),
        Ok(v1::Isolation::Vlan) => Some(Isolation::Vlan),
        Ok(v1::Isolation::Virtualized) => Some(Isolation::Virtualized),
        Ok(v1::Isolation::Unspecified) | Err(_) => fields.require("network.isolation", None),
    };
    let addressing = match v1::Addressing::try_from(addressing) {
        Ok(v1::Addressing::Dhcp) => Some(Addressing::Dhcp),
        Ok(v1::Addressing::Static) => Some(Addressing::Static),
        Ok(v1::Addressing::Unspecified) | Err(_) => fields.require("network.addressing", None),
    };
    let subnet = fields.parse::<Ipv4Net>("network.subnet", &subnet).map(|s| s.trunc());
    let gateway = fields.parse_optional("network.gateway", &gateway);
    let first = fields.parse_optional("network.pool_start", &pool_start);
    let last = fields.parse_optional("network.pool_end", &pool_end);
    if pool_start.is_empty() != pool_end.is_empty() {
        fields.refuse("network.pool_end", "a pool needs its first and its last address".to_owned());
    }
    let hypervisor_network = fields.parse("network.hypervisor_network", &hypervisor_network);
    fields.at_most("network.isolation_targets", isolation_targets.len(), MAX_TARGETS);
    let targets = isolation_targets
        .iter()
        .take(MAX_TARGETS)
        .filter_map(|t| fields.parse("network.isolation_targets", t))
        .collect();
    let network = (|| {
        Some(VmNetwork {
            name: name?,
            isolation: isolation?,
            addressing: addressing?,
            subnet: subnet?,
            gateway,
            pool: first.zip(last).map(|(first, last)| AddressPool { first, last }),
            hypervisor_network: hypervisor_network?,
            isolation_targets: targets,
        })
    })();
    fields.finish(network)
}

/// The client's side: what a server of ours answers is valid, so anything else is an error of the answer.
pub(crate) fn stored_network_from_wire(wire: v1::VmNetwork) -> Result<StoredNetwork, ApiError> {
    let created = created_from_wire(wire.create_time)?;
    Ok(StoredNetwork { network: network_from_wire(wire)?, created })
}

fn created_from_wire(time: Option<prost_types::Timestamp>) -> Result<understudy_ids::UnixMicros, ApiError> {
    let mut fields = Fields::default();
    let time = fields.require("create_time", time).and_then(|t| time_from_wire(t).ok());
    fields.finish(time)
}

pub(crate) fn mapping_to_wire(mapping: NetworkMapping) -> v1::NetworkMapping {
    let NetworkMapping { id, mapping: Mapping { a, b }, created } = mapping;
    v1::NetworkMapping {
        name: mapping_name(id),
        network_a: a.to_string(),
        network_b: b.to_string(),
        create_time: Some(time_to_wire(created)),
    }
}

pub(crate) fn mapping_from_wire(wire: v1::NetworkMapping) -> Result<NetworkMapping, ApiError> {
    let v1::NetworkMapping { name, network_a, network_b, create_time } = wire;
    let id = mapping_id(&name)?;
    Ok(NetworkMapping {
        id,
        mapping: ends_from_wire(&network_a, &network_b)?,
        created: created_from_wire(create_time)?,
    })
}

pub(crate) fn ends_from_wire(a: &str, b: &str) -> Result<Mapping, ApiError> {
    let mut fields = Fields::default();
    let a = fields.parse("network_a", a);
    let b = fields.parse("network_b", b);
    fields.finish(a.zip(b).map(|(a, b)| Mapping { a, b }))
}

pub(crate) fn mapping_name(id: Uuid) -> String {
    format!("networkMappings/{id}")
}

pub(crate) fn mapping_id(name: &str) -> Result<Uuid, ApiError> {
    let mut fields = Fields::default();
    let id = match name.strip_prefix("networkMappings/") {
        Some(id) => fields.parse("name", id),
        None => {
            fields.refuse("name", format!("{name:?} is not networkMappings/<id>"));
            None
        }
    };
    fields.finish(id)
}

pub(crate) fn lease_to_wire(lease: AddressLease) -> v1::AddressLease {
    let AddressLease { network, address, mac, item, run, created, test } = lease;
    v1::AddressLease {
        network: network.to_string(),
        address: address.to_string(),
        mac: mac.to_string(),
        item: item.into(),
        run: run.to_string(),
        create_time: Some(time_to_wire(created)),
        test,
    }
}

pub(crate) fn lease_from_wire(wire: v1::AddressLease) -> Result<AddressLease, ApiError> {
    let v1::AddressLease { network, address, mac, item, run, create_time, test } = wire;
    let created = created_from_wire(create_time)?;
    let mut fields = Fields::default();
    let network = fields.parse("network", &network);
    let address = fields.parse("address", &address);
    let mac = fields.parse("mac", &mac);
    let item = fields.parse("item", &item);
    let run = fields.parse("run", &run);
    let lease = (|| {
        Some(AddressLease {
            network: network?,
            address: address?,
            mac: mac?,
            item: item?,
            run: run?,
            created,
            test,
        })
    })();
    fields.finish(lease)
}

pub(crate) fn question_to_wire(question: &ConnectionQuestion) -> v1::PlanConnectionsRequest {
    let ConnectionQuestion { purpose, machines } = question;
    v1::PlanConnectionsRequest {
        purpose: match purpose {
            Purpose::Failover => v1::Purpose::Failover,
            Purpose::Test => v1::Purpose::Test,
        }
        .into(),
        machines: machines.iter().map(machine_to_wire).collect(),
    }
}

fn machine_to_wire(machine: &MachineConnections) -> v1::MachineConnections {
    let MachineConnections { item, source_site, target_site, nics } = machine;
    v1::MachineConnections {
        item: item.to_string(),
        source_site: source_site.to_string(),
        target_site: target_site.to_string(),
        nics: nics
            .iter()
            .map(|MachineNic { mac, hypervisor_network, addresses }| v1::MachineNic {
                mac: mac.to_string(),
                hypervisor_network: hypervisor_network.as_ref().map(ToString::to_string).unwrap_or_default(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

pub(crate) fn question_from_wire(wire: v1::PlanConnectionsRequest) -> Result<ConnectionQuestion, ApiError> {
    let v1::PlanConnectionsRequest { purpose, machines } = wire;
    let mut fields = Fields::default();
    let purpose = match v1::Purpose::try_from(purpose) {
        Ok(v1::Purpose::Failover) => Some(Purpose::Failover),
        Ok(v1::Purpose::Test) => Some(Purpose::Test),
        Ok(v1::Purpose::Unspecified) | Err(_) => fields.require("purpose", None),
    };
    fields.at_most("machines", machines.len(), MAX_MACHINES);
    let machines = machines
        .into_iter()
        .take(MAX_MACHINES)
        .enumerate()
        .filter_map(|(at, machine)| machine_from_wire(&mut fields, at, machine))
        .collect();
    fields.finish(purpose.map(|purpose| ConnectionQuestion { purpose, machines }))
}

fn machine_from_wire(
    fields: &mut Fields,
    at: usize,
    wire: v1::MachineConnections,
) -> Option<MachineConnections> {
    let v1::MachineConnections { item, source_site, target_site, nics } = wire;
    let path = |field: &str| format!("machines[{at}].{field}");
    let item = fields.parse(&path("item"), &item);
    let source_site = fields.parse(&path("source_site"), &source_site);
    let target_site = fields.parse(&path("target_site"), &target_site);
    fields.at_most(&path("nics"), nics.len(), MAX_NICS);
    let mut read = Vec::with_capacity(nics.len().min(MAX_NICS));
    for (index, nic) in nics.into_iter().take(MAX_NICS).enumerate() {
        let v1::MachineNic { mac, hypervisor_network, addresses } = nic;
        let nic_path = |field: &str| path(&format!("nics[{index}].{field}"));
        fields.at_most(&nic_path("addresses"), addresses.len(), MAX_ADDRESSES);
        let mac = fields.parse(&nic_path("mac"), &mac);
        let hypervisor_network = fields.parse_optional(&nic_path("hypervisor_network"), &hypervisor_network);
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .take(MAX_ADDRESSES)
            .filter_map(|a| fields.parse(&nic_path("addresses"), a))
            .collect();
        if let Some(mac) = mac {
            read.push(MachineNic { mac, hypervisor_network, addresses });
        }
    }
    Some(MachineConnections { item: item?, source_site: source_site?, target_site: target_site?, nics: read })
}

pub(crate) fn answer_to_wire(answer: ConnectionAnswer) -> v1::PlanConnectionsResponse {
    match answer {
        Ok(ConnectionPlan { nics, test_networks }) => v1::PlanConnectionsResponse {
            nics: nics.into_iter().map(connection_to_wire).collect(),
            test_networks: test_networks.into_iter().map(test_network_to_wire).collect(),
            problems: vec![],
        },
        Err(problems) => v1::PlanConnectionsResponse {
            problems: problems.into_iter().map(problem_to_wire).collect(),
            ..v1::PlanConnectionsResponse::default()
        },
    }
}

fn connection_to_wire(connection: Connection) -> v1::PlannedNic {
    let Connection { item, index, mac, network, hypervisor_network, test_network, address, reason } =
        connection;
    v1::PlannedNic {
        item: item.into(),
        index,
        mac: mac.to_string(),
        network: network.map(|n| n.to_string()).unwrap_or_default(),
        hypervisor_network: hypervisor_network.map(String::from).unwrap_or_default(),
        test_network,
        address: address.map(|a| a.to_string()).unwrap_or_default(),
        reason,
    }
}

fn test_network_to_wire(network: PlannedTestNetwork) -> v1::PlannedTestNetwork {
    let PlannedTestNetwork { stands_for, gateway, prefix_len, isolation_targets } = network;
    v1::PlannedTestNetwork {
        stands_for: stands_for.to_string(),
        gateway: format!("{gateway}/{prefix_len}"),
        isolation_targets: isolation_targets.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn answer_from_wire(wire: v1::PlanConnectionsResponse) -> Result<ConnectionAnswer, ApiError> {
    let v1::PlanConnectionsResponse { nics, test_networks, problems } = wire;
    let mut fields = Fields::default();
    if !problems.is_empty() {
        let problems = problems
            .into_iter()
            .filter_map(|p| problem_from_wire(p).map_err(|f| fields.refuse(f, "is too long".to_owned())).ok())
            .collect();
        return fields.finish(Some(Err(problems)));
    }
    let nics: Vec<Connection> =
        nics.into_iter().filter_map(|nic| connection_from_wire(&mut fields, nic)).collect();
    let test_networks: Vec<PlannedTestNetwork> =
        test_networks.into_iter().filter_map(|n| test_network_from_wire(&mut fields, n)).collect();
    fields.finish(Some(Ok(ConnectionPlan { nics, test_networks })))
}

fn connection_from_wire(fields: &mut Fields, wire: v1::PlannedNic) -> Option<Connection> {
    let v1::PlannedNic { item, index, mac, network, hypervisor_network, test_network, address, reason } =
        wire;
    let item = fields.parse("nics.item", &item);
    let mac = fields.parse("nics.mac", &mac);
    let network = fields.parse_optional("nics.network", &network);
    let hypervisor_network = fields.parse_optional("nics.hypervisor_network", &hypervisor_network);
    let address = fields.parse_optional("nics.address", &address);
    Some(Connection {
        item: item?,
        index,
        mac: mac?,
        network,
        hypervisor_network,
        test_network,
        address,
        reason,
    })
}

fn test_network_from_wire(fields: &mut Fields, wire: v1::PlannedTestNetwork) -> Option<PlannedTestNetwork> {
    let v1::PlannedTestNetwork { stands_for, gateway, isolation_targets } = wire;
    let stands_for = fields.parse("test_networks.stands_for", &stands_for);
    let gateway = fields.parse::<Ipv4Net>("test_networks.gateway", &gateway);
    let isolation_targets =
        isolation_targets.iter().filter_map(|t| fields.parse("test_networks.isolation_targets", t)).collect();
    let gateway = gateway?;
    Some(PlannedTestNetwork {
        stands_for: stands_for?,
        gateway: gateway.addr(),
        prefix_len: gateway.prefix_len(),
        isolation_targets,
    })
}
