//! Where the machines of a test are connected (R-TF-2): what can be chosen, and for which kind of site, as a table.

use serde::{Deserialize, Serialize};
use understudy_netplan::NetworkRef;

use crate::direction::SiteKind;

/// What was chosen for the machines of one test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestNetwork {
    /// They stay unconnected.
    None,
    /// For each network that a failover would use, one is made (R-NET-9).
    #[default]
    Automatic,
    /// All NICs that are connected at the source go onto this network of the target site.
    Existing {
        network: NetworkRef,
        /// It is one that production uses, and somebody says why that is right. On record.
        connect_to_production: Option<String>,
    },
}

/// A [`TestNetwork`] without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestNetworkChoice {
    None,
    Automatic,
    Existing,
}

impl TestNetworkChoice {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Automatic => "automatic",
            Self::Existing => "an existing network",
        }
    }
}

/// R-TF-2, row by row: what can be chosen for a test at a site of this kind. Machines are failed over to none of the kinds that have
/// nothing.
#[rustfmt::skip]
pub const TEST_NETWORK_CHOICES: &[(SiteKind, &[TestNetworkChoice])] = &[
    (SiteKind::PrivateCloud, &[TestNetworkChoice::None, TestNetworkChoice::Automatic, TestNetworkChoice::Existing]),
    (SiteKind::Hypervisor,   &[TestNetworkChoice::None, TestNetworkChoice::Automatic, TestNetworkChoice::Existing]),
    (SiteKind::Vmware,       &[]),
    (SiteKind::Physical,     &[]),
    (SiteKind::PublicCloud,  &[TestNetworkChoice::None, TestNetworkChoice::Existing]),
];

/// What can be chosen for a test at a site of this kind.
pub fn choices(target: SiteKind) -> &'static [TestNetworkChoice] {
    TEST_NETWORK_CHOICES.iter().find(|(kind, _)| *kind == target).map_or(&[], |(_, choices)| choices)
}

impl TestNetwork {
    pub const fn choice(&self) -> TestNetworkChoice {
        match self {
            Self::None => TestNetworkChoice::None,
            Self::Automatic => TestNetworkChoice::Automatic,
            Self::Existing { .. } => TestNetworkChoice::Existing,
        }
    }

    /// Why the test may be connected to production.
    pub fn production_reason(&self) -> Option<&str> {
        match self {
            Self::Existing { connect_to_production, .. } => connect_to_production.as_deref(),
            Self::None | Self::Automatic => None,
        }
    }

    /// For whoever reads of the run: to which network of production it is connected, and why.
    pub fn production_notice(&self) -> Option<String> {
        match self {
            Self::Existing { network, connect_to_production: Some(why) } => {
                Some(format!("connected to {network}, which production uses: {why}"))
            }
            Self::Existing { connect_to_production: None, .. } | Self::None | Self::Automatic => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-TF-2
    #[test]
    fn every_kind_of_site_has_one_row_that_says_what_the_requirement_says() {
        use TestNetworkChoice::{Automatic, Existing, None};
        for kind in SiteKind::ALL {
            let expected: &[TestNetworkChoice] = match kind {
                SiteKind::PrivateCloud | SiteKind::Hypervisor => &[None, Automatic, Existing],
                SiteKind::PublicCloud => &[None, Existing],
                SiteKind::Vmware | SiteKind::Physical => &[],
            };
            assert_eq!(choices(kind), expected, "{kind}");
            assert_eq!(TEST_NETWORK_CHOICES.iter().filter(|(row, _)| *row == kind).count(), 1, "{kind}");
        }
    }
}
