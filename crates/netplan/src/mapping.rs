//! Which network stands for which at the other site (R-NET-2).

use serde::{Deserialize, Serialize};
use understudy_ids::{Problem, SiteName};

use crate::{
    network::{NetworkRef, VmNetwork},
    retain::AddressRule,
};

/// Two networks that stand for each other, in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mapping {
    pub a: NetworkRef,
    pub b: NetworkRef,
    /// In both directions.
    #[serde(default)]
    pub addresses: AddressRule,
}

impl Mapping {
    /// With the rule for addresses that holds where nothing is said.
    pub fn new(a: NetworkRef, b: NetworkRef) -> Self {
        Self { a, b, addresses: AddressRule::default() }
    }

    /// The other end, when `network` is one of the two.
    pub fn other(&self, network: &NetworkRef) -> Option<&NetworkRef> {
        match network {
            n if *n == self.a => Some(&self.b),
            n if *n == self.b => Some(&self.a),
            _ => None,
        }
    }
}

/// The network that stands for `network` at `site`.
pub fn counterpart<'a>(
    mappings: &'a [Mapping],
    network: &NetworkRef,
    site: &SiteName,
) -> Option<&'a NetworkRef> {
    between(mappings, network, site).map(|(other, _)| other)
}

/// The same, with what becomes of addresses on the way.
pub fn between<'a>(
    mappings: &'a [Mapping],
    network: &NetworkRef,
    site: &SiteName,
) -> Option<(&'a NetworkRef, AddressRule)> {
    let others = mappings.iter().filter_map(|m| Some((m.other(network)?, m.addresses)));
    others.into_iter().find(|(other, _)| other.site == *site)
}

/// Every reason why `new` cannot be added to `existing`.
///
/// A network has one counterpart per site: with two, a failover would have to guess.
pub fn problems(new: &Mapping, existing: &[Mapping], networks: &[VmNetwork]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if new.a == new.b {
        problems.push(Problem::new(
            "MAPPED_TO_ITSELF",
            new.a.to_string(),
            "a network cannot stand for itself",
            "Name two networks.",
        ));
        return problems;
    }
    for end in [&new.a, &new.b] {
        if !networks.iter().any(|n| n.name == *end) {
            problems.push(Problem::new(
                "NETWORK_NOT_FOUND",
                end.to_string(),
                "there is no such network",
                "Create the network first.",
            ));
        }
    }
    for (from, to) in [(&new.a, &new.b), (&new.b, &new.a)] {
        if let Some(taken) = counterpart(existing, from, &to.site).filter(|taken| *taken != to) {
            problems.push(Problem::new(
                "ALREADY_MAPPED",
                from.to_string(),
                format!("it is mapped to {taken} already, and can have one counterpart at site {}", to.site),
                "Delete that mapping first.",
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Addressing, Isolation, tests::network};

    fn mapping(a: &str, b: &str) -> Mapping {
        Mapping::new(a.parse().unwrap(), b.parse().unwrap())
    }

    #[test]
    fn r_net_2_a_mapping_holds_in_both_directions_and_per_site() {
        let all = [
            mapping("sites/alpha/networks/prod", "sites/bravo/networks/prod"),
            mapping("sites/alpha/networks/prod", "sites/charlie/networks/prod"),
        ];
        let find = |from: &str, site: &str| {
            counterpart(&all, &from.parse().unwrap(), &site.parse().unwrap()).map(ToString::to_string)
        };
        assert_eq!(find("sites/alpha/networks/prod", "bravo").as_deref(), Some("sites/bravo/networks/prod"));
        assert_eq!(find("sites/bravo/networks/prod", "alpha").as_deref(), Some("sites/alpha/networks/prod"));
        assert_eq!(
            find("sites/alpha/networks/prod", "charlie").as_deref(),
            Some("sites/charlie/networks/prod")
        );
        assert_eq!(find("sites/bravo/networks/prod", "charlie"), None);
    }

    #[test]
    fn r_net_2_a_mapping_is_checked_when_it_is_made() {
        let networks = ["sites/alpha/networks/prod", "sites/bravo/networks/prod", "sites/bravo/networks/lab"]
            .map(|n| network(n, Isolation::None, Addressing::Dhcp));
        let first = mapping("sites/alpha/networks/prod", "sites/bravo/networks/prod");
        let reasons = |new: &Mapping| {
            problems(new, std::slice::from_ref(&first), &networks)
                .into_iter()
                .map(|p| p.reason)
                .collect::<Vec<_>>()
        };
        assert_eq!(reasons(&first), [""; 0], "the same mapping again is no conflict");
        assert_eq!(
            reasons(&mapping("sites/alpha/networks/prod", "sites/bravo/networks/lab")),
            ["ALREADY_MAPPED"]
        );
        assert_eq!(
            reasons(&mapping("sites/alpha/networks/x", "sites/bravo/networks/y")),
            ["NETWORK_NOT_FOUND", "NETWORK_NOT_FOUND"]
        );
        assert_eq!(
            reasons(&mapping("sites/alpha/networks/prod", "sites/alpha/networks/prod")),
            ["MAPPED_TO_ITSELF"]
        );
    }
}
