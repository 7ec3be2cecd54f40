//! Wire messages to domain values and back. Inbound checks everything; outbound takes every value apart, so that a new field cannot
//! be forgotten.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use understudy_ids::{HostName, Uuid};
use understudy_netplan::{
    AddressPool, AddressRule, Addressing, Connection, ConnectionPlan, ExistingNetwork, Isolation,
    MachineConnections, MachineNic, Mapping, Neighbour, PlannedHook, PlannedTestNetwork, ProbePort, Purpose,
    SplitSubnet, VmNetwork,
};
use understudy_rpc::ApiError;
use understudy_types_api::{problem_from_wire, problem_to_wire, time_from_wire, time_to_wire};

use crate::{
    field::Fields,
    model::{AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkMapping, StoredNetwork},
    names, v1,
};

/// Bounds of one question (invariant 14).
const MAX_MACHINES: usize = 1000;
const MAX_NEIGHBOURS: usize = 10_000;
const MAX_NICS: usize = 64;
const MAX_ADDRESSES: usize = 64;
const MAX_TARGETS: usize = 64;
const MAX_HOSTS: usize = 1000;
/// A subnet that is taken for one by `VmNetwork::problems`.
const MAX_PREFIX_LEN: u32 = 30;

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
        logical_network,
        vlan_id,
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
        logical_network: logical_network.map(String::from).unwrap_or_default(),
        vlan_id: vlan_id.map(u32::from).unwrap_or_default(),
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
        logical_network,
        vlan_id,
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
    let logical_network = fields.parse_optional("network.logical_network", &logical_network);
    let vlan_id = u16::try_from(vlan_id).unwrap_or_else(|_| {
        fields.refuse("network.vlan_id", format!("{vlan_id} is not a VLAN id"));
        0
    });
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
            logical_network,
            vlan_id: Some(vlan_id).filter(|id| *id != 0),
        })
    })();
    fields.finish(network)
}

/// The client's side: what a server of ours answers is valid, so anything else is an error of the answer.
pub(crate) fn stored_network_from_wire(wire: v1::VmNetwork) -> Result<StoredNetwork, ApiError> {
    let created = created_from_wire(wire.create_time)?;
    Ok(StoredNetwork { network: network_from_wire(wire)?, created })
}

pub(crate) fn created_from_wire(
    time: Option<prost_types::Timestamp>,
) -> Result<understudy_ids::UnixMicros, ApiError> {
    let mut fields = Fields::default();
    let time = fields.require("create_time", time).and_then(|t| time_from_wire(t).ok());
    fields.finish(time)
}

pub(crate) fn mapping_to_wire(mapping: NetworkMapping) -> v1::NetworkMapping {
    let NetworkMapping { id, mapping: Mapping { a, b, addresses }, created } = mapping;
    v1::NetworkMapping {
        name: mapping_name(id),
        network_a: a.to_string(),
        network_b: b.to_string(),
        create_time: Some(time_to_wire(created)),
        addresses: rule_to_wire(addresses).into(),
    }
}

pub(crate) fn mapping_from_wire(wire: v1::NetworkMapping) -> Result<NetworkMapping, ApiError> {
    let v1::NetworkMapping { name, network_a, network_b, create_time, addresses } = wire;
    let id = mapping_id(&name)?;
    Ok(NetworkMapping {
        id,
        mapping: new_mapping_from_wire(&network_a, &network_b, addresses)?,
        created: created_from_wire(create_time)?,
    })
}

pub(crate) fn new_mapping_from_wire(a: &str, b: &str, addresses: i32) -> Result<Mapping, ApiError> {
    let mut fields = Fields::default();
    let a = fields.parse("network_a", a);
    let b = fields.parse("network_b", b);
    let addresses = match v1::AddressRule::try_from(addresses) {
        Ok(v1::AddressRule::Unspecified | v1::AddressRule::KeepIfPossible) => {
            Some(AddressRule::KeepIfPossible)
        }
        Ok(v1::AddressRule::Retain) => Some(AddressRule::Retain),
        Ok(v1::AddressRule::Change) => Some(AddressRule::Change),
        Err(_) => {
            fields.refuse("addresses", format!("{addresses} is no rule for addresses"));
            None
        }
    };
    fields.finish((|| Some(Mapping { a: a?, b: b?, addresses: addresses? }))())
}

pub(crate) fn rule_to_wire(rule: AddressRule) -> v1::AddressRule {
    match rule {
        AddressRule::KeepIfPossible => v1::AddressRule::KeepIfPossible,
        AddressRule::Retain => v1::AddressRule::Retain,
        AddressRule::Change => v1::AddressRule::Change,
    }
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
    let ConnectionQuestion { purpose, machines, neighbours } = question;
    let (purpose, existing_network, hosts) = match purpose {
        Purpose::Failover => (v1::Purpose::Failover, String::new(), vec![]),
        Purpose::Test => (v1::Purpose::Test, String::new(), vec![]),
        Purpose::TestOn { network, hosts } => {
            (v1::Purpose::TestOnExisting, network.to_string(), hosts.iter().map(host_to_wire).collect())
        }
    };
    v1::PlanConnectionsRequest {
        purpose: purpose.into(),
        machines: machines.iter().map(machine_to_wire).collect(),
        existing_network,
        hosts,
        neighbours: neighbours.iter().map(neighbour_to_wire).collect(),
    }
}

fn neighbour_to_wire(Neighbour { item, site, nics }: &Neighbour) -> v1::Neighbour {
    v1::Neighbour {
        item: item.to_string(),
        site: site.to_string(),
        nics: nics.iter().map(nic_to_wire).collect(),
    }
}

fn nic_to_wire(nic: &MachineNic) -> v1::MachineNic {
    let MachineNic { mac, hypervisor_network, addresses, chosen } = nic;
    v1::MachineNic {
        mac: mac.to_string(),
        hypervisor_network: hypervisor_network.as_ref().map(ToString::to_string).unwrap_or_default(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        chosen: chosen.map(|address| address.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn host_to_wire(host: &HostName) -> String {
    format!("sites/{}/hosts/{}", host.site(), host.host())
}

fn machine_to_wire(machine: &MachineConnections) -> v1::MachineConnections {
    let MachineConnections { item, source_site, target_site, nics } = machine;
    v1::MachineConnections {
        item: item.to_string(),
        source_site: source_site.to_string(),
        target_site: target_site.to_string(),
        nics: nics.iter().map(nic_to_wire).collect(),
    }
}

pub(crate) fn question_from_wire(wire: v1::PlanConnectionsRequest) -> Result<ConnectionQuestion, ApiError> {
    let v1::PlanConnectionsRequest { purpose, machines, existing_network, hosts, neighbours } = wire;
    let mut fields = Fields::default();
    let purpose = match v1::Purpose::try_from(purpose) {
        Ok(v1::Purpose::Failover) => Some(Purpose::Failover),
        Ok(v1::Purpose::Test) => Some(Purpose::Test),
        Ok(v1::Purpose::TestOnExisting) => on_existing(&mut fields, &existing_network, &hosts),
        Ok(v1::Purpose::Unspecified) | Err(_) => fields.require("purpose", None),
    };
    if !matches!(purpose, None | Some(Purpose::TestOn { .. })) {
        for (field, given) in
            [("existing_network", !existing_network.is_empty()), ("hosts", !hosts.is_empty())]
        {
            if given {
                fields.refuse(field, "has no meaning for this purpose; leave it out".to_owned());
            }
        }
    }
    if !neighbours.is_empty() && purpose.as_ref().is_some_and(|purpose| *purpose != Purpose::Failover) {
        fields.refuse("neighbours", "has no meaning for this purpose; leave it out".to_owned());
    }
    let neighbours = each(&mut fields, "neighbours", neighbours, MAX_NEIGHBOURS, neighbour_from_wire);
    let machines = each(&mut fields, "machines", machines, MAX_MACHINES, machine_from_wire);
    fields.finish(purpose.map(|purpose| ConnectionQuestion { purpose, machines, neighbours }))
}

/// Reads the first `most` entries; that there are more is refused.
fn each<W, T>(
    fields: &mut Fields,
    field: &str,
    entries: Vec<W>,
    most: usize,
    read: impl Fn(&mut Fields, usize, W) -> Option<T>,
) -> Vec<T> {
    fields.at_most(field, entries.len(), most);
    entries.into_iter().take(most).enumerate().filter_map(|(at, entry)| read(fields, at, entry)).collect()
}

fn neighbour_from_wire(fields: &mut Fields, at: usize, wire: v1::Neighbour) -> Option<Neighbour> {
    let v1::Neighbour { item, site, nics } = wire;
    let path = |field: &str| format!("neighbours[{at}].{field}");
    let item = fields.parse(&path("item"), &item);
    let site = fields.parse(&path("site"), &site);
    let nics = nics_from_wire(fields, path, nics);
    Some(Neighbour { item: item?, site: site?, nics })
}

fn on_existing(fields: &mut Fields, network: &str, hosts: &[String]) -> Option<Purpose> {
    let network = fields.parse("existing_network", network);
    fields.at_most("hosts", hosts.len(), MAX_HOSTS);
    if hosts.is_empty() {
        fields.refuse("hosts", "is empty: name the hosts that the test's machines will run on".to_owned());
    }
    let hosts = hosts.iter().take(MAX_HOSTS).filter_map(|host| fields.host("hosts", host)).collect();
    Some(Purpose::TestOn { network: network?, hosts })
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
    let nics = nics_from_wire(fields, path, nics);
    Some(MachineConnections { item: item?, source_site: source_site?, target_site: target_site?, nics })
}

fn nics_from_wire(
    fields: &mut Fields,
    path: impl Fn(&str) -> String,
    nics: Vec<v1::MachineNic>,
) -> Vec<MachineNic> {
    fields.at_most(&path("nics"), nics.len(), MAX_NICS);
    let mut read = Vec::with_capacity(nics.len().min(MAX_NICS));
    for (index, nic) in nics.into_iter().take(MAX_NICS).enumerate() {
        let v1::MachineNic { mac, hypervisor_network, addresses, chosen } = nic;
        let nic_path = |field: &str| path(&format!("nics[{index}].{field}"));
        fields.at_most(&nic_path("addresses"), addresses.len(), MAX_ADDRESSES);
        let mac = fields.parse(&nic_path("mac"), &mac);
        let hypervisor_network = fields.parse_optional(&nic_path("hypervisor_network"), &hypervisor_network);
        let chosen = fields.parse_optional(&nic_path("chosen"), &chosen);
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .take(MAX_ADDRESSES)
            .filter_map(|a| fields.parse(&nic_path("addresses"), a))
            .collect();
        if let Some(mac) = mac {
            read.push(MachineNic { mac, hypervisor_network, addresses, chosen });
        }
    }
    read
}

pub(crate) fn answer_to_wire(answer: ConnectionAnswer) -> v1::PlanConnectionsResponse {
    match answer {
        Ok(ConnectionPlan { nics, test_networks, existing, split_subnets, records, hooks }) => {
            v1::PlanConnectionsResponse {
                nics: nics.into_iter().map(connection_to_wire).collect(),
                test_networks: test_networks.into_iter().map(test_network_to_wire).collect(),
                problems: vec![],
                existing: existing.map(existing_to_wire),
                split_subnets: split_subnets.into_iter().map(split_subnet_to_wire).collect(),
                records: records.into_iter().map(names::planned_to_wire).collect(),
                hooks: hooks.into_iter().map(hook_to_wire).collect(),
            }
        }
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

fn split_subnet_to_wire(SplitSubnet { network, staying }: SplitSubnet) -> v1::SplitSubnet {
    v1::SplitSubnet { network: network.to_string(), staying: staying.into_iter().map(String::from).collect() }
}

fn split_subnet_from_wire(fields: &mut Fields, wire: v1::SplitSubnet) -> Option<SplitSubnet> {
    let v1::SplitSubnet { network, staying } = wire;
    let network = fields.parse("split_subnets.network", &network);
    let staying = staying.iter().filter_map(|item| fields.parse("split_subnets.staying", item)).collect();
    Some(SplitSubnet { network: network?, staying })
}

fn hook_to_wire(PlannedHook { item, hook }: PlannedHook) -> v1::PlannedHook {
    v1::PlannedHook { item: item.into(), hook: hook.into() }
}

fn hook_from_wire(fields: &mut Fields, wire: v1::PlannedHook) -> Option<PlannedHook> {
    let v1::PlannedHook { item, hook } = wire;
    let item = fields.parse("hooks.item", &item);
    let hook = fields.parse("hooks.hook", &hook);
    Some(PlannedHook { item: item?, hook: hook? })
}

fn existing_to_wire(existing: ExistingNetwork) -> v1::ExistingNetwork {
    let ExistingNetwork {
        network,
        hypervisor_network,
        production,
        probe_ports,
        prefix_len,
        gateway,
        isolation_targets,
    } = existing;
    let port_to_wire = |ProbePort { host, mac, address }: &ProbePort| v1::ProbePort {
        host: host_to_wire(host),
        mac: mac.to_string(),
        address: address.to_string(),
    };
    v1::ExistingNetwork {
        network: network.to_string(),
        hypervisor_network: hypervisor_network.into(),
        production,
        probe_ports: probe_ports.iter().map(port_to_wire).collect(),
        prefix_len: prefix_len.into(),
        gateway: gateway.map(|g| g.to_string()).unwrap_or_default(),
        isolation_targets: isolation_targets.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn answer_from_wire(wire: v1::PlanConnectionsResponse) -> Result<ConnectionAnswer, ApiError> {
    let v1::PlanConnectionsResponse {
        nics,
        test_networks,
        problems,
        existing,
        split_subnets,
        records,
        hooks,
    } = wire;
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
    let existing = existing.and_then(|existing| existing_from_wire(&mut fields, existing));
    let split_subnets =
        split_subnets.into_iter().filter_map(|split| split_subnet_from_wire(&mut fields, split)).collect();
    let records = records.into_iter().filter_map(|r| names::planned_from_wire(&mut fields, r)).collect();
    let hooks = hooks.into_iter().filter_map(|hook| hook_from_wire(&mut fields, hook)).collect();
    fields.finish(Some(Ok(ConnectionPlan { nics, test_networks, existing, split_subnets, records, hooks })))
}

fn existing_from_wire(fields: &mut Fields, wire: v1::ExistingNetwork) -> Option<ExistingNetwork> {
    let v1::ExistingNetwork {
        network,
        hypervisor_network,
        production,
        probe_ports,
        prefix_len,
        gateway,
        isolation_targets,
    } = wire;
    let network = fields.parse("existing.network", &network);
    let hypervisor_network = fields.parse("existing.hypervisor_network", &hypervisor_network);
    let probe_ports = probe_ports
        .into_iter()
        .filter_map(|v1::ProbePort { host, mac, address }| {
            let host = fields.host("existing.probe_ports.host", &host);
            let mac = fields.parse("existing.probe_ports.mac", &mac);
            let address = fields.parse("existing.probe_ports.address", &address);
            Some(ProbePort { host: host?, mac: mac?, address: address? })
        })
        .collect();
    if prefix_len > MAX_PREFIX_LEN {
        fields.refuse("existing.prefix_len", format!("{prefix_len} leaves no room for machines"));
    }
    let gateway = fields.parse_optional("existing.gateway", &gateway);
    let isolation_targets =
        isolation_targets.iter().filter_map(|t| fields.parse("existing.isolation_targets", t)).collect();
    Some(ExistingNetwork {
        network: network?,
        hypervisor_network: hypervisor_network?,
        production,
        probe_ports,
        prefix_len: u8::try_from(prefix_len).ok()?,
        gateway,
        isolation_targets,
    })
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

#[cfg(test)]
mod tests {
    use understudy_ids::MacAddress;
    use understudy_netplan::{PlannedRecord, ZonePurpose};

    use super::*;

    fn lab() -> VmNetwork {
        VmNetwork {
            name: "sites/bravo/networks/lab".parse().unwrap(),
            isolation: Isolation::Vlan,
            addressing: Addressing::Static,
            subnet: "192.168.60.0/24".parse().unwrap(),
            gateway: Some([192, 168, 60, 1].into()),
            pool: Some(AddressPool { first: [192, 168, 60, 10].into(), last: [192, 168, 60, 20].into() }),
            hypervisor_network: "lab".parse().unwrap(),
            isolation_targets: vec![],
            logical_network: Some("tests".parse().unwrap()),
            vlan_id: Some(4094),
        }
    }

    /// R-NET-7
    #[test]
    fn networks_travel_unchanged_and_no_number_is_taken_for_another() {
        for network in [lab(), VmNetwork { logical_network: None, vlan_id: None, ..lab() }] {
            assert_eq!(network_from_wire(new_network_to_wire(network.clone())).unwrap(), network);
        }
        let wire = v1::VmNetwork { vlan_id: 65_543, ..new_network_to_wire(lab()) };
        assert_eq!(network_from_wire(wire).unwrap_err().problems[0].subject, "network.vlan_id");
    }

    fn neighbour() -> Neighbour {
        Neighbour {
            item: "db1".parse().unwrap(),
            site: "alpha".parse().unwrap(),
            nics: vec![MachineNic {
                mac: "52:54:00:00:50:12".parse().unwrap(),
                hypervisor_network: Some("prod".parse().unwrap()),
                addresses: vec!["192.168.50.12".parse().unwrap()],
                chosen: Some([10, 0, 0, 9].into()),
            }],
        }
    }

    /// R-NET-4
    #[test]
    fn mappings_travel_unchanged_and_an_unknown_rule_is_none() {
        for addresses in [AddressRule::KeepIfPossible, AddressRule::Retain, AddressRule::Change] {
            let mapping = Mapping { addresses, ..Mapping::new(lab().name, lab().name) };
            let created = understudy_ids::UnixMicros::new(1_000_000);
            let stored = NetworkMapping { id: Uuid::from_u128(7), mapping, created };
            assert_eq!(mapping_from_wire(mapping_to_wire(stored.clone())).unwrap(), stored);
        }
        let name = lab().name.to_string();
        assert_eq!(new_mapping_from_wire(&name, &name, 9).unwrap_err().problems[0].subject, "addresses");
    }

    /// R-TF-2, R-NET-4
    #[test]
    fn questions_and_answers_travel_unchanged() {
        let on_lab = Purpose::TestOn { network: lab().name, hosts: ["bravo/h1".parse().unwrap()].into() };
        for purpose in [Purpose::Failover, Purpose::Test, on_lab] {
            let neighbours = if purpose == Purpose::Failover { vec![neighbour()] } else { vec![] };
            let question = ConnectionQuestion { purpose, machines: vec![], neighbours };
            assert_eq!(question_from_wire(question_to_wire(&question)).unwrap(), question);
        }
        let port = ProbePort {
            host: "bravo/h1".parse().unwrap(),
            mac: MacAddress::new([2, 0x75, 192, 168, 60, 12]),
            address: [192, 168, 60, 12].into(),
        };
        let existing = ExistingNetwork {
            network: lab().name,
            hypervisor_network: lab().hypervisor_network,
            production: false,
            probe_ports: vec![port],
            prefix_len: 24,
            gateway: lab().gateway,
            isolation_targets: vec![[192, 168, 50, 5].into()],
        };
        for existing in [None, Some(existing.clone()), Some(ExistingNetwork { gateway: None, ..existing })] {
            let split = SplitSubnet { network: lab().name, staying: ["db1".parse().unwrap()].into() };
            let planned = |address| PlannedRecord {
                name: "web1.shop.example".parse().unwrap(),
                item: "web1".parse().unwrap(),
                zone: "shop.example".parse().unwrap(),
                purpose: ZonePurpose::Production,
                address,
                reason: "NIC 0 of web1 gets this address".to_owned(),
            };
            let answer = Ok(ConnectionPlan {
                existing,
                split_subnets: vec![split],
                records: vec![planned(Some([10, 0, 0, 9].into())), planned(None)],
                hooks: vec![PlannedHook { item: "web1".parse().unwrap(), hook: "lb".parse().unwrap() }],
                ..ConnectionPlan::default()
            });
            assert_eq!(answer_from_wire(answer_to_wire(answer.clone())).unwrap(), answer);
        }
    }

    /// Invariant 14
    #[test]
    fn everything_wrong_with_a_question_is_named_at_once() {
        let refused = |wire: v1::PlanConnectionsRequest| {
            let error = question_from_wire(wire).unwrap_err();
            error.problems.into_iter().map(|p| p.subject).collect::<Vec<_>>()
        };
        let lost = v1::PlanConnectionsRequest {
            purpose: v1::Purpose::TestOnExisting.into(),
            ..v1::PlanConnectionsRequest::default()
        };
        assert_eq!(refused(lost), ["existing_network", "hosts"]);
        let ignored = v1::PlanConnectionsRequest {
            purpose: v1::Purpose::Test.into(),
            existing_network: lab().name.to_string(),
            hosts: vec!["x".to_owned()],
            neighbours: vec![v1::Neighbour { site: "alpha".to_owned(), ..v1::Neighbour::default() }],
            ..v1::PlanConnectionsRequest::default()
        };
        assert_eq!(refused(ignored), ["existing_network", "hosts", "neighbours", "neighbours[0].item"]);
    }
}
