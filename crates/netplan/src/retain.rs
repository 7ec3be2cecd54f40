//! Whether machines keep their addresses, and which subnets a run would split by that (R-NET-4).
//!
//! A subnet is at one site. Where addresses are retained and some of its machines stay behind, either those or the ones that went can not
//! be reached any more by whoever knows only one of the two places.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, SiteName};

use crate::{
    connect::{MachineConnections, MachineNic},
    mapping::{Mapping, between},
    network::{NetworkRef, VmNetwork},
};

/// What a mapping says about the addresses of machines that go from one of its networks to the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressRule {
    /// A machine keeps its address where the target has it and it is free, and otherwise gets another one.
    #[default]
    KeepIfPossible,
    /// It keeps its address, or the run is refused.
    Retain,
    /// It gets another one.
    Change,
}

/// A machine that the run leaves where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub item: ItemName,
    /// Where it runs.
    pub site: SiteName,
    pub nics: Vec<MachineNic>,
}

/// A subnet whose addresses are retained, and of which machines stay behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitSubnet {
    /// That machines of the run leave.
    pub network: NetworkRef,
    /// What is known to stay on it; never empty.
    pub staying: BTreeSet<ItemName>,
}

/// The subnets that a failover of `machines` would split, each once.
pub fn split_subnets(
    machines: &[MachineConnections],
    neighbours: &[Neighbour],
    networks: &[VmNetwork],
    mappings: &[Mapping],
) -> Vec<SplitSubnet> {
    let mut split: BTreeMap<&NetworkRef, BTreeSet<ItemName>> = BTreeMap::new();
    for machine in machines {
        for nic in &machine.nics {
            let Some(left) = on(networks, &machine.source_site, nic) else { continue };
            let rule = between(mappings, &left.name, &machine.target_site).map(|(_, rule)| rule);
            if rule != Some(AddressRule::Retain) {
                continue;
            }
            let stays = neighbours.iter().filter(|neighbour| {
                let goes = machines.iter().any(|machine| machine.item == neighbour.item);
                !goes && has_address_on(left, &neighbour.site, &neighbour.nics, networks)
            });
            split.entry(&left.name).or_default().extend(stays.map(|neighbour| neighbour.item.clone()));
        }
    }
    let split = split.into_iter().filter(|(_, staying)| !staying.is_empty());
    split.map(|(network, staying)| SplitSubnet { network: network.clone(), staying }).collect()
}

fn on<'a>(networks: &'a [VmNetwork], site: &SiteName, nic: &MachineNic) -> Option<&'a VmNetwork> {
    let name = nic.hypervisor_network.as_ref()?;
    networks.iter().find(|network| network.name.site == *site && network.hypervisor_network == *name)
}

fn has_address_on(network: &VmNetwork, site: &SiteName, nics: &[MachineNic], networks: &[VmNetwork]) -> bool {
    nics.iter().any(|nic| {
        let there = on(networks, site, nic).is_some_and(|found| found.name == network.name);
        there
            && nic
                .addresses
                .iter()
                .any(|address| matches!(address, IpAddr::V4(v4) if network.subnet.contains(v4)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Addressing, Isolation, tests::network};

    fn nic(network: Option<&str>, address: &str) -> MachineNic {
        MachineNic {
            mac: "52:54:00:00:50:11".parse().unwrap(),
            hypervisor_network: network.map(|name| name.parse().unwrap()),
            addresses: vec![address.parse().unwrap()],
            chosen: None,
        }
    }

    fn neighbour(item: &str, site: &str, nic: MachineNic) -> Neighbour {
        Neighbour { item: item.parse().unwrap(), site: site.parse().unwrap(), nics: vec![nic] }
    }

    /// R-NET-4: only machines that are known to have an address of the subnet there, and are not part of the run, split it; and only where
    /// addresses are retained.
    #[test]
    fn a_subnet_is_split_by_what_stays_on_it() {
        let networks = ["sites/alpha/networks/prod", "sites/bravo/networks/prod"]
            .map(|name| network(name, Isolation::None, Addressing::Dhcp));
        let machine = |item: &str| MachineConnections {
            item: item.parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![nic(Some("prod"), "192.168.50.11")],
        };
        let neighbours = [
            neighbour("stays", "alpha", nic(Some("prod"), "192.168.50.21")),
            neighbour("goes", "alpha", nic(Some("prod"), "192.168.50.22")),
            neighbour("elsewhere", "bravo", nic(Some("prod"), "192.168.50.23")),
            neighbour("other-subnet", "alpha", nic(Some("prod"), "10.0.0.7")),
            neighbour("unconnected", "alpha", nic(None, "192.168.50.24")),
            neighbour("other-network", "alpha", nic(Some("lab"), "192.168.50.25")),
        ];
        for (addresses, expected) in [
            (AddressRule::Retain, vec!["stays"]),
            (AddressRule::KeepIfPossible, vec![]),
            (AddressRule::Change, vec![]),
        ] {
            let mappings =
                [Mapping { addresses, ..Mapping::new(networks[0].name.clone(), networks[1].name.clone()) }];
            let split = split_subnets(&[machine("web1"), machine("goes")], &neighbours, &networks, &mappings);
            let names: Vec<&str> =
                split.iter().flat_map(|split| &split.staying).map(ItemName::as_str).collect();
            assert_eq!(names, expected, "{addresses:?}");
            assert!(split.iter().all(|split| split.network == networks[0].name));
        }
    }
}
