//! VM networks and what makes one valid.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use understudy_ids::{InvalidName, NetworkName, Problem, SiteName};

/// A VM network by its site and name, written `sites/alpha/networks/prod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkRef {
    pub site: SiteName,
    pub network: NetworkName,
}

impl fmt::Display for NetworkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sites/{}/networks/{}", self.site, self.network)
    }
}

impl FromStr for NetworkRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parts: Vec<&str> = text.split('/').collect();
        let ["sites", site, "networks", network] = parts[..] else {
            return Err(InvalidName {
                what: "network (sites/<site>/networks/<network>)",
                text: text.chars().take(80).collect(),
                max: 120,
            });
        };
        Ok(Self { site: site.parse()?, network: network.parse()? })
    }
}

impl TryFrom<String> for NetworkRef {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<NetworkRef> for String {
    fn from(network: NetworkRef) -> String {
        network.to_string()
    }
}

/// How a network keeps its traffic apart from others (R-NET-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Isolation {
    None,
    Vlan,
    Virtualized,
}

/// Where machines on a network get their address from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Addressing {
    Dhcp,
    Static,
}

/// First and last address that may be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

impl AddressPool {
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from_bits)
    }
}

/// A network of one site that machines are connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNetwork {
    pub name: NetworkRef,
    pub isolation: Isolation,
    pub addressing: Addressing,
    pub subnet: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
    pub pool: Option<AddressPool>,
    /// The name by which the hosts' hypervisors know it.
    pub hypervisor_network: NetworkName,
    /// Addresses on it that must never answer to a test.
    pub isolation_targets: Vec<Ipv4Addr>,
    /// Of the site: the cables and switches that networks with different VLANs share (R-NET-1).
    #[serde(default)]
    pub logical_network: Option<NetworkName>,
    /// With isolation by VLAN only.
    #[serde(default)]
    pub vlan_id: Option<u16>,
}

/// What 802.1Q leaves to its users.
const VLAN_IDS: RangeInclusive<u16> = 1..=4094;

impl VmNetwork {
    /// Every reason why this network cannot be as it is written.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |reason: &str, message: String, remedy: &str| {
            problems.push(Problem::new(reason, self.name.to_string(), message, remedy));
        };
        if self.subnet.prefix_len() < 8 || self.subnet.prefix_len() > 30 {
            add(
                "SUBNET_SIZE",
                format!("the subnet {} has no room for machines or is larger than a /8", self.subnet),
                "Give a subnet between /8 and /30.",
            );
        }
        if let Some(gateway) = self.gateway.filter(|g| !self.is_host_address(*g)) {
            add(
                "GATEWAY_OUTSIDE_SUBNET",
                format!("the gateway {gateway} is not a host address of {}", self.subnet),
                "Give the gateway's address inside the subnet, or none.",
            );
        }
        if let Some(pool) = self.pool {
            if !self.is_host_address(pool.first) || !self.is_host_address(pool.last) {
                add(
                    "POOL_OUTSIDE_SUBNET",
                    format!("the pool {}-{} is not inside {}", pool.first, pool.last, self.subnet),
                    "Give a first and last address inside the subnet.",
                );
            }
            if pool.first > pool.last {
                add(
                    "POOL_REVERSED",
                    format!("the pool's first address {} lies after its last one {}", pool.first, pool.last),
                    "Swap them.",
                );
            }
        }
        for target in self.isolation_targets.iter().filter(|t| !self.subnet.contains(*t)) {
            add(
                "ISOLATION_TARGET_OUTSIDE_SUBNET",
                format!(
                    "{target} is not on {}, so a test could never reach it and proves nothing",
                    self.subnet
                ),
                "Name addresses of this network: its gateway, its DNS server, another machine.",
            );
        }
        match (self.isolation, self.vlan_id) {
            (Isolation::Vlan, None) => add(
                "VLAN_ID_MISSING",
                "it is isolated by VLAN, and its VLAN is not named".to_owned(),
                "Give the VLAN id.",
            ),
            (Isolation::Vlan, Some(id)) if !VLAN_IDS.contains(&id) => add(
                "VLAN_ID_OUT_OF_RANGE",
                format!("{id} is not a VLAN id"),
                "Give a VLAN id between 1 and 4094.",
            ),
            (Isolation::None | Isolation::Virtualized, Some(id)) => add(
                "VLAN_ID_NOT_USED",
                format!("VLAN id {id} is given, and it is not isolated by VLAN"),
                "Leave the VLAN id out, or choose isolation by VLAN.",
            ),
            (Isolation::Vlan, Some(_)) | (_, None) => {}
        }
        problems
    }

    /// Inside the subnet and neither its network nor its broadcast address.
    pub fn is_host_address(&self, address: Ipv4Addr) -> bool {
        self.subnet.contains(&address)
            && address != self.subnet.network()
            && address != self.subnet.broadcast()
    }

    /// The gateway, or the first host address where none was given: the address that a test network's services take.
    pub fn gateway_or_first(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from_bits(self.subnet.network().to_bits() + 1))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn network(name: &str, isolation: Isolation, addressing: Addressing) -> VmNetwork {
        VmNetwork {
            name: name.parse().unwrap(),
            isolation,
            addressing,
            subnet: "192.168.50.0/24".parse().unwrap(),
            gateway: Some("192.168.50.1".parse().unwrap()),
            pool: None,
            hypervisor_network: "prod".parse().unwrap(),
            isolation_targets: vec![],
            logical_network: None,
            vlan_id: (isolation == Isolation::Vlan).then_some(7),
        }
    }

    /// R-NET-1, R-NET-7: a VLAN is named exactly where there is one.
    #[test]
    fn a_vlan_id_belongs_to_isolation_by_vlan() {
        for (isolation, vlan_id, expected) in [
            (Isolation::None, None, None),
            (Isolation::None, Some(7), Some("VLAN_ID_NOT_USED")),
            (Isolation::Virtualized, Some(7), Some("VLAN_ID_NOT_USED")),
            (Isolation::Vlan, None, Some("VLAN_ID_MISSING")),
            (Isolation::Vlan, Some(0), Some("VLAN_ID_OUT_OF_RANGE")),
            (Isolation::Vlan, Some(1), None),
            (Isolation::Vlan, Some(4094), None),
            (Isolation::Vlan, Some(4095), Some("VLAN_ID_OUT_OF_RANGE")),
        ] {
            let network =
                VmNetwork { vlan_id, ..network("sites/alpha/networks/prod", isolation, Addressing::Dhcp) };
            let found: Vec<String> = network.problems().into_iter().map(|p| p.reason).collect();
            assert_eq!(found, Vec::from_iter(expected), "{isolation:?} {vlan_id:?}");
        }
    }

    #[test]
    fn a_network_tells_all_its_problems_at_once() {
        let mut bad = network("sites/alpha/networks/prod", Isolation::None, Addressing::Static);
        assert_eq!(bad.problems(), vec![]);
        bad.gateway = Some("10.0.0.1".parse().unwrap());
        bad.pool = Some(AddressPool {
            first: "192.168.50.255".parse().unwrap(),
            last: "192.168.50.10".parse().unwrap(),
        });
        bad.isolation_targets = vec!["10.0.0.9".parse().unwrap()];
        let reasons: Vec<_> = bad.problems().into_iter().map(|p| p.reason).collect();
        assert_eq!(
            reasons,
            [
                "GATEWAY_OUTSIDE_SUBNET",
                "POOL_OUTSIDE_SUBNET",
                "POOL_REVERSED",
                "ISOLATION_TARGET_OUTSIDE_SUBNET"
            ]
        );
    }

    #[test]
    fn network_references_are_resource_names() {
        let name: NetworkRef = "sites/alpha/networks/prod".parse().unwrap();
        assert_eq!(name.to_string(), "sites/alpha/networks/prod");
        for bad in
            ["", "prod", "sites/alpha", "sites/alpha/networks/", "sites/a/networks/b/c", "hosts/a/networks/b"]
        {
            assert!(bad.parse::<NetworkRef>().is_err(), "{bad}");
        }
    }
}
