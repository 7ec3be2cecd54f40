//! Which network that a site has already a test may be connected to (R-TF-2, R-NET-6, R-NET-7).
//!
//! ```text
//!   end of a mapping ─▶ production: the planner of the run wants a reason
//!   otherwise ─▶ fits what the machines would go to (table)? a VLAN of its own? ─▶ every problem
//! ```

use understudy_ids::Problem;

use crate::{
    mapping::Mapping,
    network::{Addressing, Isolation, NetworkRef, VmNetwork},
};

/// Whether a test network can stand for the network that a failover would use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Where its addresses come from is R-NET-3's to say.
    Fits,
    /// Machines that ask a DHCP server of their VLAN have no pool to be given an address from.
    NoPool,
    /// A network without isolation tells no subnets that a virtualized one could be made of.
    NoSubnets,
}

/// R-NET-6, row by row: isolation and addressing of the network that a failover would use, isolation of the test network.
#[rustfmt::skip]
pub const FITS: &[(Isolation, Addressing, Isolation, Fit)] = &[
    (Isolation::None,        Addressing::Dhcp,   Isolation::None,        Fit::Fits),
    (Isolation::None,        Addressing::Dhcp,   Isolation::Vlan,        Fit::Fits),
    (Isolation::None,        Addressing::Dhcp,   Isolation::Virtualized, Fit::NoSubnets),
    (Isolation::None,        Addressing::Static, Isolation::None,        Fit::Fits),
    (Isolation::None,        Addressing::Static, Isolation::Vlan,        Fit::Fits),
    (Isolation::None,        Addressing::Static, Isolation::Virtualized, Fit::NoSubnets),
    (Isolation::Vlan,        Addressing::Dhcp,   Isolation::None,        Fit::Fits),
    (Isolation::Vlan,        Addressing::Dhcp,   Isolation::Vlan,        Fit::Fits),
    (Isolation::Vlan,        Addressing::Dhcp,   Isolation::Virtualized, Fit::NoPool),
    (Isolation::Vlan,        Addressing::Static, Isolation::None,        Fit::Fits),
    (Isolation::Vlan,        Addressing::Static, Isolation::Vlan,        Fit::Fits),
    (Isolation::Vlan,        Addressing::Static, Isolation::Virtualized, Fit::Fits),
    (Isolation::Virtualized, Addressing::Dhcp,   Isolation::None,        Fit::Fits),
    (Isolation::Virtualized, Addressing::Dhcp,   Isolation::Vlan,        Fit::Fits),
    (Isolation::Virtualized, Addressing::Dhcp,   Isolation::Virtualized, Fit::Fits),
    (Isolation::Virtualized, Addressing::Static, Isolation::None,        Fit::Fits),
    (Isolation::Virtualized, Addressing::Static, Isolation::Vlan,        Fit::Fits),
    (Isolation::Virtualized, Addressing::Static, Isolation::Virtualized, Fit::Fits),
];

/// # Panics
/// Never: the table has a row for every combination, which a test checks.
pub fn fit(replica: &VmNetwork, test: &VmNetwork) -> Fit {
    let key = (replica.isolation, replica.addressing, test.isolation);
    FITS.iter()
        .find(|(isolation, addressing, test, _)| (*isolation, *addressing, *test) == key)
        .map(|(.., fit)| *fit)
        .expect("the table has a row for every combination")
}

/// Whether machines of production are on the network, or would be after a failover.
pub fn is_production(network: &NetworkRef, mappings: &[Mapping]) -> bool {
    mappings.iter().any(|mapping| mapping.other(network).is_some())
}

/// Why machines that would go to `replica` cannot be tested on `test` instead (R-NET-6).
pub fn unfit(replica: &VmNetwork, test: &VmNetwork) -> Option<Problem> {
    let why = match fit(replica, test) {
        Fit::Fits => return None,
        Fit::NoPool => "machines of a VLAN whose DHCP server gives the addresses have no pool there",
        Fit::NoSubnets => "a network without isolation has no subnets that could be virtualized",
    };
    let message = format!("it is virtualized and cannot stand for {}: {why}", replica.name);
    let remedy = "Choose a test network without isolation or with a VLAN of its own, or let one be made.";
    Some(Problem::new("TEST_NETWORK_UNFIT", test.name.to_string(), message, remedy))
}

/// Everything that keeps a VLAN from being one that only tests use (R-NET-7). That the hosts have it, their facts say; that nothing of
/// production answers from inside it, a step of the run proves.
pub fn vlan_problems(test: &VmNetwork, networks: &[VmNetwork], mappings: &[Mapping]) -> Vec<Problem> {
    if test.isolation != Isolation::Vlan {
        return vec![];
    }
    let problem = |reason: &str, message: String, remedy: &str| {
        Problem::new(reason, test.name.to_string(), message, remedy)
    };
    let Some(logical) = &test.logical_network else {
        return vec![problem(
            "LOGICAL_NETWORK_MISSING",
            "it is isolated by VLAN, and on which logical network is not known".to_owned(),
            "Make it anew with its logical network, which must be one of its own.",
        )];
    };
    let beside = networks.iter().filter(|network| {
        network.name != test.name
            && network.name.site == test.name.site
            && network.logical_network.as_ref() == Some(logical)
            && is_production(&network.name, mappings)
    });
    beside
        .map(|network| match (network.vlan_id, test.vlan_id) {
            (Some(theirs), Some(ours)) if theirs == ours => problem(
                "VLAN_IN_PRODUCTION",
                format!("its VLAN {ours} on {logical} is that of {}, which production uses", network.name),
                "Give the test network a VLAN of its own, on a logical network of its own.",
            ),
            _ => problem(
                "LOGICAL_NETWORK_IN_PRODUCTION",
                format!(
                    "its logical network {logical} is that of {} as well, which production uses",
                    network.name
                ),
                "Put the test network on a logical network of its own.",
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::network;

    const LAB: &str = "sites/bravo/networks/lab";
    const PROD: &str = "sites/bravo/networks/prod";

    fn mapped() -> Vec<Mapping> {
        vec![Mapping::new("sites/alpha/networks/prod".parse().unwrap(), PROD.parse().unwrap())]
    }

    /// R-NET-6: what the requirement names is refused with its reason, and everything else fits.
    #[test]
    fn every_combination_has_one_row_and_exactly_these_are_refused() {
        use Addressing::{Dhcp, Static};
        use Isolation::{None as Plain, Virtualized, Vlan};
        for isolation in [Plain, Vlan, Virtualized] {
            for addressing in [Dhcp, Static] {
                for test in [Plain, Vlan, Virtualized] {
                    let rows: Vec<Fit> = FITS
                        .iter()
                        .filter(|(i, a, t, _)| (*i, *a, *t) == (isolation, addressing, test))
                        .map(|row| row.3)
                        .collect();
                    let expected = match (isolation, addressing, test) {
                        (Vlan, Dhcp, Virtualized) => Fit::NoPool,
                        (Plain, _, Virtualized) => Fit::NoSubnets,
                        _ => Fit::Fits,
                    };
                    assert_eq!(rows, [expected], "{isolation:?} {addressing:?} {test:?}");
                    let refused = unfit(&network(PROD, isolation, addressing), &network(LAB, test, Dhcp));
                    assert_eq!(refused.is_some(), expected != Fit::Fits);
                }
            }
        }
    }

    /// R-TF-2: either end of a mapping is production.
    #[test]
    fn both_ends_of_a_mapping_are_production() {
        for (name, expected) in [(PROD, true), ("sites/alpha/networks/prod", true), (LAB, false)] {
            assert_eq!(is_production(&name.parse().unwrap(), &mapped()), expected, "{name}");
        }
    }

    /// R-NET-7
    #[test]
    fn a_vlan_for_tests_is_on_a_logical_network_of_its_own() {
        let mut lab = network(LAB, Isolation::Vlan, Addressing::Dhcp);
        let mut prod = network(PROD, Isolation::Vlan, Addressing::Dhcp);
        prod.logical_network = Some("trunk".parse().unwrap());
        let reasons = |lab: &VmNetwork, prod: &VmNetwork| -> Vec<String> {
            let all = [lab.clone(), prod.clone()];
            vlan_problems(lab, &all, &mapped()).into_iter().map(|p| p.reason).collect()
        };
        assert_eq!(reasons(&lab, &prod), ["LOGICAL_NETWORK_MISSING"]);
        lab.logical_network = Some("trunk".parse().unwrap());
        assert_eq!(reasons(&lab, &prod), ["VLAN_IN_PRODUCTION"]);
        lab.vlan_id = Some(8);
        assert_eq!(reasons(&lab, &prod), ["LOGICAL_NETWORK_IN_PRODUCTION"]);
        lab.logical_network = Some("tests".parse().unwrap());
        lab.vlan_id = prod.vlan_id;
        assert_eq!(reasons(&lab, &prod), [""; 0], "the same number on other switches is another VLAN");
        lab.logical_network = prod.logical_network.clone();
        prod.name = "sites/bravo/networks/unused".parse().unwrap();
        assert_eq!(reasons(&lab, &prod), [""; 0], "a network that nothing is mapped to is not production");
        prod.name = "sites/alpha/networks/prod".parse().unwrap();
        assert_eq!(reasons(&lab, &prod), [""; 0], "another site has other switches");
        lab.isolation = Isolation::None;
        lab.logical_network = None;
        assert_eq!(reasons(&lab, &prod), [""; 0]);
    }
}
