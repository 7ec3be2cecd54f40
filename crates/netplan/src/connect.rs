//! Connection and address of every NIC of a run (R-NET-3, R-TF-4).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};
use understudy_ids::{HostName, ItemName, MacAddress, NetworkName, Problem, SiteName};

use crate::{
    mapping::{Mapping, between},
    network::{Addressing, Isolation, NetworkRef, VmNetwork},
    records::PlannedRecord,
    rehearsal,
    retain::{AddressRule, SplitSubnet},
    traffic::PlannedHook,
};

/// What the connections are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    Failover,
    /// Into isolated networks, each standing for the one that a failover would use.
    Test,
    /// Onto one network that the target site has already (R-TF-2).
    TestOn {
        network: NetworkRef,
        /// Where the test's machines will run.
        hosts: BTreeSet<HostName>,
    },
}

/// One machine of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConnections {
    pub item: ItemName,
    pub source_site: SiteName,
    pub target_site: SiteName,
    pub nics: Vec<MachineNic>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineNic {
    pub mac: MacAddress,
    /// As the source host's hypervisor calls it; `None` for a NIC that is not connected.
    pub hypervisor_network: Option<NetworkName>,
    pub addresses: Vec<IpAddr>,
    /// Somebody has chosen the address that it is to have (R-NET-5).
    pub chosen: Option<Ipv4Addr>,
}

/// An address that another run holds on a network that was there before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeldAddress {
    pub network: NetworkRef,
    pub address: Ipv4Addr,
}

/// Everything that was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPlan {
    /// In the order of the machines and of their NICs.
    pub nics: Vec<Connection>,
    /// For a test; in the order of the networks that they stand for.
    pub test_networks: Vec<PlannedTestNetwork>,
    /// For a test on a network that is there already, unless nothing of it is connected.
    pub existing: Option<ExistingNetwork>,
    /// For a failover: subnets whose addresses are retained and of which machines stay behind.
    pub split_subnets: Vec<SplitSubnet>,
    /// What the machines' names in DNS are to say; filled in from [`records::plan`](crate::records::plan).
    pub records: Vec<PlannedRecord>,
    /// Who is called when a machine is elsewhere; filled in from [`traffic::plan`](crate::traffic::plan).
    pub hooks: Vec<PlannedHook>,
}

/// Where one NIC goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub item: ItemName,
    /// Position among the machine's NICs, which guests depend on (R-FO-6).
    pub index: u32,
    pub mac: MacAddress,
    /// The network of the target site, also when a test network stands for it; `None` leaves the NIC unconnected.
    pub network: Option<NetworkRef>,
    pub hypervisor_network: Option<NetworkName>,
    /// Index into [`ConnectionPlan::test_networks`].
    pub test_network: Option<u32>,
    /// `None` where only the network's DHCP server knows.
    pub address: Option<Ipv4Addr>,
    pub reason: String,
}

/// An isolated network to be made for a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTestNetwork {
    pub stands_for: NetworkRef,
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    /// Addresses of production that must not answer from inside it.
    pub isolation_targets: Vec<Ipv4Addr>,
}

/// A network that a test is connected to and that was there before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExistingNetwork {
    pub network: NetworkRef,
    pub hypervisor_network: NetworkName,
    /// Machines of production are on it, or would be after a failover.
    pub production: bool,
    /// One on each host that runs machines of the test; none where the network is production.
    pub probe_ports: Vec<ProbePort>,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    /// Addresses on the networks that a failover would use, which must not answer from inside it.
    pub isolation_targets: Vec<Ipv4Addr>,
}

/// From where a host looks into a network that it has no address on: for production before the test, and for the machines afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePort {
    pub host: HostName,
    pub mac: MacAddress,
    /// Held by the run like those of its machines.
    pub address: Ipv4Addr,
}

/// Who gives the address on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// The DHCP server that is there already; no pool is needed.
    NetworkDhcp,
    /// The pool; it is written into the guest.
    Pool,
    /// The pool; the platform's own DHCP hands it out.
    PlatformDhcp,
}

/// R-NET-3, row by row: isolation and addressing of the target network, and where the address comes from.
pub const ADDRESS_SOURCES: &[(Isolation, Addressing, AddressSource)] = &[
    (Isolation::None, Addressing::Dhcp, AddressSource::NetworkDhcp),
    (Isolation::None, Addressing::Static, AddressSource::Pool),
    (Isolation::Vlan, Addressing::Dhcp, AddressSource::NetworkDhcp),
    (Isolation::Vlan, Addressing::Static, AddressSource::Pool),
    (Isolation::Virtualized, Addressing::Dhcp, AddressSource::PlatformDhcp),
    (Isolation::Virtualized, Addressing::Static, AddressSource::Pool),
];

/// # Panics
/// Never: the table has a row for every pair, which a test checks.
pub fn address_source(isolation: Isolation, addressing: Addressing) -> AddressSource {
    ADDRESS_SOURCES
        .iter()
        .find(|(i, a, _)| (*i, *a) == (isolation, addressing))
        .map(|(_, _, source)| *source)
        .expect("the table has a row for every pair")
}

/// Plans the connections of all machines of a run together, so that no address is given twice.
///
/// # Errors
/// Every problem of every NIC.
pub fn plan(
    purpose: &Purpose,
    machines: &[MachineConnections],
    networks: &[VmNetwork],
    mappings: &[Mapping],
    held: &BTreeSet<HeldAddress>,
) -> Result<ConnectionPlan, Vec<Problem>> {
    let mut planner = Planner {
        purpose,
        networks,
        mappings,
        taken: taken_at_start(purpose, held),
        isolation_targets: BTreeSet::new(),
        problems: vec![],
    };
    let chosen = planner.chosen(machines);
    let (mut nics, rules) = planner.place(machines, chosen);
    planner.give_addresses(&mut nics, &rules, machines);
    let existing = chosen.and_then(|network| planner.existing(network, &nics));
    if !planner.problems.is_empty() {
        return Err(planner.problems);
    }
    let test_networks = match purpose {
        Purpose::Failover | Purpose::TestOn { .. } => vec![],
        Purpose::Test => planner.test_networks(&mut nics),
    };
    Ok(ConnectionPlan {
        nics,
        test_networks,
        existing,
        split_subnets: vec![],
        records: vec![],
        hooks: vec![],
    })
}

/// A test network is new and holds nothing but the test, so what runs hold in production does not count there (R-TF-4). On a network that
/// was there before, it does.
fn taken_at_start(purpose: &Purpose, held: &BTreeSet<HeldAddress>) -> BTreeSet<HeldAddress> {
    match purpose {
        Purpose::Failover | Purpose::TestOn { .. } => held.clone(),
        Purpose::Test => BTreeSet::new(),
    }
}

struct Planner<'a> {
    purpose: &'a Purpose,
    networks: &'a [VmNetwork],
    mappings: &'a [Mapping],
    taken: BTreeSet<HeldAddress>,
    /// Of the networks that a failover would use.
    isolation_targets: BTreeSet<Ipv4Addr>,
    problems: Vec<Problem>,
}

impl<'a> Planner<'a> {
    /// The network that a test was told to use, as far as nothing but the network itself stands against it.
    fn chosen(&mut self, machines: &[MachineConnections]) -> Option<&'a VmNetwork> {
        let Purpose::TestOn { network, .. } = self.purpose else { return None };
        let elsewhere = machines.iter().find(|machine| machine.target_site != network.site);
        let Some(found) = self.network(network).filter(|_| elsewhere.is_none()) else {
            let (reason, message) = match elsewhere {
                Some(machine) => {
                    ("NETWORK_AT_OTHER_SITE", format!("the test runs at site {}", machine.target_site))
                }
                None => ("NETWORK_NOT_FOUND", "there is no such network".to_owned()),
            };
            let remedy = "Name a VM network of the site that the test runs at.";
            self.problems.push(Problem::new(reason, network.to_string(), message, remedy));
            return None;
        };
        if !rehearsal::is_production(network, self.mappings) {
            self.problems.extend(rehearsal::vlan_problems(found, self.networks, self.mappings));
        }
        Some(found)
    }

    /// First pass: the network of every NIC, and what becomes of its address on the way there.
    fn place(
        &mut self,
        machines: &[MachineConnections],
        chosen: Option<&'a VmNetwork>,
    ) -> (Vec<Connection>, Vec<AddressRule>) {
        let mut rules = Vec::new();
        let mut unfit = BTreeSet::new();
        let mut connections = Vec::new();
        for machine in machines {
            for (nic, index) in machine.nics.iter().zip(0u32..) {
                let mut connection = Connection {
                    item: machine.item.clone(),
                    index,
                    mac: nic.mac,
                    network: None,
                    hypervisor_network: None,
                    test_network: None,
                    address: None,
                    reason: "not connected at the source".to_owned(),
                };
                let mut rule = AddressRule::default();
                if let Some(source) = &nic.hypervisor_network {
                    match self.target_network(machine, source) {
                        Ok((target, mapped)) => {
                            // Which addresses a network has that was chosen for a test, no mapping says.
                            rule = if chosen.is_some() { rule } else { mapped };
                            self.isolation_targets.extend(&target.isolation_targets);
                            if let Some(test) = chosen.filter(|_| unfit.insert(&target.name)) {
                                self.problems.extend(rehearsal::unfit(target, test));
                            }
                            let target = chosen.unwrap_or(target);
                            connection.network = Some(target.name.clone());
                            connection.hypervisor_network = Some(target.hypervisor_network.clone());
                        }
                        Err(problem) => self.problems.push(problem),
                    }
                }
                connections.push(connection);
                rules.push(rule);
            }
        }
        (connections, rules)
    }

    fn target_network(
        &self,
        machine: &MachineConnections,
        source: &NetworkName,
    ) -> Result<(&'a VmNetwork, AddressRule), Problem> {
        let subject = format!("protectedItems/{}", machine.item);
        let site = &machine.source_site;
        let source = self
            .networks
            .iter()
            .find(|n| n.name.site == *site && n.hypervisor_network == *source)
            .ok_or_else(|| {
            Problem::new(
                "NETWORK_NOT_KNOWN",
                &subject,
                format!("it is connected to {source:?} at site {site}, which is not a known VM network"),
                "Create a VM network with that hypervisor network, then map it.",
            )
        })?;
        let mapped = between(self.mappings, &source.name, &machine.target_site);
        let (target, rule) = mapped.ok_or_else(|| {
            Problem::new(
                "NETWORK_NOT_MAPPED",
                &subject,
                format!("{} has no counterpart at site {}", source.name, machine.target_site),
                "Create a network mapping between the two sites.",
            )
        })?;
        let found = self.network(target).ok_or_else(|| {
            Problem::new(
                "NETWORK_NOT_FOUND",
                &subject,
                format!("{} is mapped to {target}, which does not exist any more", source.name),
                "Delete the mapping and make a new one.",
            )
        })?;
        Ok((found, rule))
    }

    fn network(&self, name: &NetworkRef) -> Option<&'a VmNetwork> {
        self.networks.iter().find(|n| n.name == *name)
    }

    /// Second pass. Addresses that were chosen come first, then machines that can keep theirs, so that none of them finds it given to
    /// another.
    fn give_addresses(
        &mut self,
        connections: &mut [Connection],
        rules: &[AddressRule],
        machines: &[MachineConnections],
    ) {
        let nics = || machines.iter().flat_map(|m| &m.nics);
        for (connection, nic) in connections.iter_mut().zip(nics()) {
            let network = connection.network.as_ref().and_then(|n| self.network(n));
            if let Some((network, address)) = network.zip(nic.chosen) {
                self.chosen_address(connection, network, address);
            }
        }
        let mut homeless = Vec::new();
        for ((connection, rule), nic) in connections.iter_mut().zip(rules).zip(nics()) {
            let Some(network) = connection.network.as_ref().and_then(|n| self.network(n)) else { continue };
            if nic.chosen.is_some() {
                continue;
            }
            let own = ipv4(&nic.addresses);
            if *rule != AddressRule::Change && self.keep_address(connection, network, &own) {
                continue;
            }
            match rule {
                AddressRule::KeepIfPossible => homeless.push((connection, network, vec![])),
                AddressRule::Change => homeless.push((connection, network, own)),
                AddressRule::Retain => self.problems.push(not_retainable(connection, network, &own)),
            }
        }
        for (connection, network, unwanted) in homeless {
            self.new_address(connection, network, &unwanted);
            if !unwanted.is_empty() {
                connection.reason.push_str("; by its mapping it does not keep its own");
            }
        }
    }

    fn chosen_address(&mut self, connection: &mut Connection, network: &VmNetwork, address: Ipv4Addr) {
        if can_give(network, address) && self.take(network, address) {
            connection.address = Some(address);
            connection.reason = match (address_source(network.isolation, network.addressing), self.purpose) {
                (_, Purpose::Test) => "chosen for it, by the test network's DHCP".to_owned(),
                (AddressSource::NetworkDhcp, _) => {
                    "chosen for it; the DHCP server there is asked for it by MAC".to_owned()
                }
                _ => "chosen for it".to_owned(),
            };
            return;
        }
        self.problems.push(Problem::new(
            "CHOSEN_ADDRESS_UNUSABLE",
            format!("protectedItems/{}", connection.item),
            format!(
                "{address} was chosen for NIC {}, and cannot be had on {}: it is not in the network or pool, or is held",
                connection.index, network.name,
            ),
            "Choose another one, or none: understudy item address.",
        ));
    }

    /// The address that the machine has is used when the network there can give it.
    fn keep_address(&mut self, connection: &mut Connection, network: &VmNetwork, own: &[Ipv4Addr]) -> bool {
        let source = address_source(network.isolation, network.addressing);
        let Some(&address) = own.iter().find(|address| can_give(network, **address)) else { return false };
        if !self.take(network, address) {
            return false;
        }
        connection.address = Some(address);
        connection.reason = match (source, self.purpose) {
            (_, Purpose::Test) => "the address that a failover would give it, by the test network's DHCP".to_owned(),
            (AddressSource::NetworkDhcp, _) => {
                "its present address lies in the target's subnet; the DHCP server there is asked for it by MAC".to_owned()
            }
            (AddressSource::Pool, _) => "its present address lies in the target's pool and is free".to_owned(),
            (AddressSource::PlatformDhcp, _) => {
                "its present address lies in the target's pool and is free; the platform's DHCP serves it".to_owned()
            }
        };
        true
    }

    /// One that is none of `unwanted`.
    fn new_address(&mut self, connection: &mut Connection, network: &VmNetwork, unwanted: &[Ipv4Addr]) {
        let wanted = |address: &Ipv4Addr| !unwanted.contains(address);
        let source = address_source(network.isolation, network.addressing);
        match (source, network.pool, self.purpose) {
            (AddressSource::NetworkDhcp, _, Purpose::Failover | Purpose::TestOn { .. }) => {
                connection.reason = "by the DHCP server of the target network".to_owned();
            }
            (AddressSource::NetworkDhcp, None, Purpose::Test) => {
                let hosts = network.subnet.hosts().filter(wanted);
                self.first_free(connection, network, hosts, "free in the test network's subnet");
            }
            (_, Some(pool), _) => self.first_free(
                connection,
                network,
                pool.addresses().filter(wanted),
                "first free of the pool",
            ),
            (AddressSource::Pool | AddressSource::PlatformDhcp, None, _) => self.problems.push(Problem::new(
                "POOL_MISSING",
                format!("protectedItems/{}", connection.item),
                format!("{} gives addresses from a pool, and has none", network.name),
                "Add an address pool to the network, or change its addressing to DHCP.",
            )),
        }
    }

    fn first_free(
        &mut self,
        connection: &mut Connection,
        network: &VmNetwork,
        mut candidates: impl Iterator<Item = Ipv4Addr>,
        reason: &str,
    ) {
        match candidates.find(|address| self.take(network, *address)) {
            Some(address) => {
                connection.address = Some(address);
                connection.reason = reason.to_owned();
            }
            None => self.exhausted(network, format!("protectedItems/{}", connection.item)),
        }
    }

    fn exhausted(&mut self, network: &VmNetwork, subject: String) {
        self.problems.push(Problem::new(
            "POOL_EXHAUSTED",
            subject,
            format!("{} has no free address left for this run", network.name),
            "Enlarge the pool, or end runs that hold addresses of it.",
        ));
    }

    /// What is to be known of the chosen network, with an address on it for each host that has to prove that it is isolated (R-TF-9).
    fn existing(&mut self, network: &VmNetwork, connections: &[Connection]) -> Option<ExistingNetwork> {
        connections.iter().find(|connection| connection.network.is_some())?;
        let production = rehearsal::is_production(&network.name, self.mappings);
        let inside: BTreeSet<Ipv4Addr> =
            connections.iter().filter_map(|connection| connection.address).chain(network.gateway).collect();
        let isolation_targets: Vec<Ipv4Addr> =
            self.isolation_targets.iter().copied().filter(|target| !inside.contains(target)).collect();
        let mut probe_ports = vec![];
        if !production {
            if isolation_targets.is_empty() {
                self.problems.push(Problem::new(
                    "ISOLATION_NOT_PROVABLE",
                    network.name.to_string(),
                    "no address of production is known that must not answer from inside it",
                    "Make the networks that the machines would go to anew with addresses that must never answer to a test.",
                ));
            }
            let Purpose::TestOn { hosts, .. } = self.purpose else { return None };
            for host in hosts {
                probe_ports.extend(self.probe_port(network, host, &isolation_targets));
            }
        }
        Some(ExistingNetwork {
            network: network.name.clone(),
            hypervisor_network: network.hypervisor_network.clone(),
            production,
            probe_ports,
            prefix_len: network.subnet.prefix_len(),
            gateway: network.gateway,
            isolation_targets,
        })
    }

    /// Out of the pool, or, where there is none, from the end of the subnet, where DHCP servers come last.
    fn probe_port(
        &mut self,
        network: &VmNetwork,
        host: &HostName,
        targets: &[Ipv4Addr],
    ) -> Option<ProbePort> {
        let mut candidates: Box<dyn Iterator<Item = Ipv4Addr>> = match network.pool {
            Some(pool) => Box::new(pool.addresses()),
            None => {
                let hosts = network.subnet.network().to_bits() + 1..network.subnet.broadcast().to_bits();
                Box::new(hosts.rev().map(Ipv4Addr::from_bits))
            }
        };
        // One that is asked for would never be answered by somebody else.
        let address = candidates.find(|address| !targets.contains(address) && self.take(network, *address));
        let Some(address) = address else {
            self.exhausted(network, network.name.to_string());
            return None;
        };
        let [a, b, c, d] = address.octets();
        // Locally administered, and of nobody else as long as the address is not.
        Some(ProbePort { host: host.clone(), mac: MacAddress::new([0x02, 0x75, a, b, c, d]), address })
    }

    /// Marks an address as used; false when it is, or is the gateway's.
    fn take(&mut self, network: &VmNetwork, address: Ipv4Addr) -> bool {
        address != network.gateway_or_first()
            && self.taken.insert(HeldAddress { network: network.name.clone(), address })
    }

    fn test_networks(&self, connections: &mut [Connection]) -> Vec<PlannedTestNetwork> {
        let used: BTreeSet<NetworkRef> = connections.iter().filter_map(|c| c.network.clone()).collect();
        let index: BTreeMap<&NetworkRef, u32> = used.iter().zip(0..).collect();
        for connection in connections.iter_mut() {
            connection.test_network = connection.network.as_ref().and_then(|n| index.get(n).copied());
            connection.hypervisor_network = None;
        }
        used.iter()
            .filter_map(|name| self.network(name))
            .map(|network| {
                let gateway = network.gateway_or_first();
                // The test network's own gateway and machines have addresses of production; only others prove anything.
                let inside: BTreeSet<Ipv4Addr> = connections
                    .iter()
                    .filter(|c| c.network.as_ref() == Some(&network.name))
                    .filter_map(|c| c.address)
                    .chain([gateway])
                    .collect();
                PlannedTestNetwork {
                    stands_for: network.name.clone(),
                    gateway,
                    prefix_len: network.subnet.prefix_len(),
                    isolation_targets: network
                        .isolation_targets
                        .iter()
                        .copied()
                        .filter(|target| !inside.contains(target))
                        .collect(),
                }
            })
            .collect()
    }
}

/// Whether a machine on the network can have the address.
fn can_give(network: &VmNetwork, address: Ipv4Addr) -> bool {
    match address_source(network.isolation, network.addressing) {
        AddressSource::NetworkDhcp => network.is_host_address(address),
        AddressSource::Pool | AddressSource::PlatformDhcp => {
            network.pool.is_some_and(|pool| pool.contains(address))
        }
    }
}

fn not_retainable(connection: &Connection, network: &VmNetwork, own: &[Ipv4Addr]) -> Problem {
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let message = match own.as_slice() {
        [] => format!("its mapping retains addresses, and none is known of {}", connection.mac),
        own => format!(
            "its mapping retains addresses, and {} cannot be had on {}: it is not in the network or pool, or is held",
            own.join(", "),
            network.name,
        ),
    };
    Problem::new(
        "ADDRESS_NOT_RETAINABLE",
        format!("protectedItems/{}", connection.item),
        message,
        "Give the target network the subnet and pool of the source, or make the mapping anew without retaining addresses.",
    )
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
