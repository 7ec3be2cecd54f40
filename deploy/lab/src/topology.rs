//! The lab on paper: names and addresses. Nothing here touches the machine.
//!
//! | namespace `uslab-<id>-…` | management | production |
//! |---|---|---|
//! | `wan` | 10.77.1.1, 10.77.2.1 (router) | |
//! | `alpha-h1` | 10.77.1.11 | 192.168.50.1 (`br-prod`) |
//! | `bravo-h1` | 10.77.2.11 | 192.168.50.1 (`br-prod`) |
//! | `control` | 10.77.2.10 | |
//! | `alpha-prod`, `bravo-prod` | | 192.168.50.5 (witness) |

use std::{fmt, net::Ipv4Addr, str::FromStr};

use anyhow::{Error, ensure};

/// Address of a host's own end of its production network.
pub const PROD_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// Address of the witness: a neighbour on each production network that answers ping and HTTP on port 80.
pub const WITNESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 5);
/// Bridge of the production network, in each host's namespace.
pub const PROD_BRIDGE: &str = "br-prod";
/// Name of the production network in each host's libvirt.
pub const PROD_NETWORK: &str = "prod";
/// Address of the control plane on the management network.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 10);

/// Tells labs on one machine apart: 1 to 12 of `a-z`, `0-9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabId(String);

impl FromStr for LabId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = (1..=12).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(fits, "{text:?} is no id for a lab: it takes 1 to 12 of a-z, 0-9");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A place that can be lost as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Site {
    Alpha,
    Bravo,
}

impl Site {
    /// Both, in the order in which they are listed everywhere.
    pub const ALL: [Self; 2] = [Self::Alpha, Self::Bravo];

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Bravo => "bravo",
        }
    }

    /// The host that it has in every lab.
    pub fn host(self) -> HostName {
        match self {
            Self::Alpha => HostName::AlphaH1,
            Self::Bravo => HostName::BravoH1,
        }
    }

    /// The router's address on its management network, which is a /24.
    pub fn router(self) -> Ipv4Addr {
        let [a, b, c, _] = self.host().address().octets();
        Ipv4Addr::new(a, b, c, 1)
    }

    /// Its bridge in the router.
    pub fn wan_bridge(self) -> &'static str {
        match self {
            Self::Alpha => "br-alpha",
            Self::Bravo => "br-bravo",
        }
    }
}

/// A hypervisor host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HostName {
    AlphaH1,
    BravoH1,
    /// Only where it is added: a lab of its own size for what needs no third host.
    AlphaH2,
}

impl HostName {
    /// Every host that a lab can have.
    pub const ALL: [Self; 3] = [Self::AlphaH1, Self::BravoH1, Self::AlphaH2];
    /// Those that it has from the beginning: one at each site.
    pub const FIRST: [Self; 2] = [Self::AlphaH1, Self::BravoH1];

    /// Its name, which is also the short name of its namespace.
    pub fn name(self) -> &'static str {
        match self {
            Self::AlphaH1 => "alpha-h1",
            Self::BravoH1 => "bravo-h1",
            Self::AlphaH2 => "alpha-h2",
        }
    }

    /// Short name of the namespace of the witness on its production network.
    pub fn witness(self) -> &'static str {
        match self {
            Self::AlphaH1 => "alpha-prod",
            Self::BravoH1 => "bravo-prod",
            Self::AlphaH2 => "alpha-h2-prod",
        }
    }

    /// Where it stands.
    pub fn site(self) -> Site {
        match self {
            Self::AlphaH1 | Self::AlphaH2 => Site::Alpha,
            Self::BravoH1 => Site::Bravo,
        }
    }

    /// Its address on the management network.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::AlphaH1 => Ipv4Addr::new(10, 77, 1, 11),
            Self::BravoH1 => Ipv4Addr::new(10, 77, 2, 11),
            Self::AlphaH2 => Ipv4Addr::new(10, 77, 1, 12),
        }
    }

    /// What its libvirtd gives as the UUID of the host; two libvirtd on one machine would otherwise have the same.
    pub fn uuid(self) -> &'static str {
        match self {
            Self::AlphaH1 => "5c0f6a10-77a1-4b11-9d00-0000000077a1",
            Self::BravoH1 => "5c0f6a10-77a2-4b11-9d00-0000000077a2",
            Self::AlphaH2 => "5c0f6a10-77a3-4b11-9d00-0000000077a3",
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A machine that the lab knows an address for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Name of the machine.
    pub name: &'static str,
    /// Its network card, which is its identity on the network.
    pub mac: &'static str,
    /// The address that both sites' DHCP gives to this card.
    pub address: Ipv4Addr,
}

/// The reservations of both production networks.
pub const RESERVATIONS: [Reservation; 8] = [
    Reservation { name: "web1", mac: "52:54:00:00:50:11", address: Ipv4Addr::new(192, 168, 50, 11) },
    Reservation { name: "db1", mac: "52:54:00:00:50:12", address: Ipv4Addr::new(192, 168, 50, 12) },
    Reservation { name: "db2", mac: "52:54:00:00:50:13", address: Ipv4Addr::new(192, 168, 50, 13) },
    Reservation { name: "db3", mac: "52:54:00:00:50:14", address: Ipv4Addr::new(192, 168, 50, 14) },
    Reservation { name: "app1", mac: "52:54:00:00:50:15", address: Ipv4Addr::new(192, 168, 50, 15) },
    Reservation { name: "app2", mac: "52:54:00:00:50:16", address: Ipv4Addr::new(192, 168, 50, 16) },
    Reservation { name: "app3", mac: "52:54:00:00:50:17", address: Ipv4Addr::new(192, 168, 50, 17) },
    Reservation { name: "web2", mac: "52:54:00:00:50:18", address: Ipv4Addr::new(192, 168, 50, 18) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_short_plain_word() {
        assert!("demo".parse::<LabId>().is_ok());
        for wrong in ["", "Demo", "a-b", "../x", "abcdefghijklm"] {
            assert!(wrong.parse::<LabId>().is_err(), "{wrong}");
        }
    }
}
