//! Addresses that somebody has chosen for the NICs of a machine (R-NET-5).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use understudy_ids::{Problem, SiteName};

use crate::connect::Purpose;

/// What one NIC has at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenAddress {
    /// Position among the machine's NICs.
    pub nic: u32,
    /// Where it is failed over to, or tested.
    pub site: SiteName,
    pub failover: Option<Ipv4Addr>,
    /// Where it is to be another one in a test.
    pub test: Option<Ipv4Addr>,
}

impl ChosenAddress {
    /// Everything that can be told without knowing the network.
    pub fn problems(&self) -> Vec<Problem> {
        let given = [("failover", self.failover), ("test", self.test)];
        let wrong = given.into_iter().filter_map(|(field, address)| {
            let address = address?;
            let of_a_machine = !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && !address.is_broadcast()
                && !address.is_link_local();
            (!of_a_machine).then(|| {
                let message = format!("{address} is not an address that a machine can have");
                Problem::new(
                    "ADDRESS_NOT_OF_A_MACHINE",
                    field,
                    message,
                    "Give an address of the target's network.",
                )
            })
        });
        wrong.collect()
    }
}

/// What is chosen for a NIC that goes to `site`. A test has what the failover would have, unless another one is chosen for it; a network that a test
/// was told to use has other addresses, so that only the latter counts there.
pub fn chosen(all: &[ChosenAddress], purpose: &Purpose, nic: u32, site: &SiteName) -> Option<Ipv4Addr> {
    let found = all.iter().find(|chosen| chosen.nic == nic && chosen.site == *site)?;
    match purpose {
        Purpose::Failover => found.failover,
        Purpose::Test => found.test.or(found.failover),
        Purpose::TestOn { .. } => found.test,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// R-NET-5, R-TF-4: for each purpose, with one, the other and both chosen.
    #[test]
    fn a_test_has_what_the_failover_would_have_unless_another_is_chosen_for_it() {
        let (one, other): (Ipv4Addr, Ipv4Addr) = ([10, 0, 0, 9].into(), [10, 0, 0, 10].into());
        let on =
            Purpose::TestOn { network: "sites/bravo/networks/lab".parse().unwrap(), hosts: BTreeSet::new() };
        let rows = [
            // chosen for failover, for test; used by failover, by a test, by one on an existing network
            (None, None, [None, None, None]),
            (Some(one), None, [Some(one), Some(one), None]),
            (None, Some(other), [None, Some(other), Some(other)]),
            (Some(one), Some(other), [Some(one), Some(other), Some(other)]),
        ];
        let bravo: SiteName = "bravo".parse().unwrap();
        for (failover, test, expected) in rows {
            let all = [ChosenAddress { nic: 1, site: bravo.clone(), failover, test }];
            let used =
                [&Purpose::Failover, &Purpose::Test, &on].map(|purpose| chosen(&all, purpose, 1, &bravo));
            assert_eq!(used, expected);
            assert_eq!(chosen(&all, &Purpose::Test, 0, &bravo), None, "of another NIC");
            assert_eq!(chosen(&all, &Purpose::Test, 1, &"alpha".parse().unwrap()), None, "the way back");
        }
    }

    #[test]
    fn addresses_that_no_machine_can_have_are_all_named() {
        let all = |failover: [u8; 4], test: [u8; 4]| {
            let (failover, test) = (Some(failover.into()), Some(test.into()));
            let chosen = ChosenAddress { nic: 0, site: "bravo".parse().unwrap(), failover, test };
            chosen.problems().into_iter().map(|problem| problem.subject).collect::<Vec<_>>()
        };
        assert_eq!(all([0, 0, 0, 0], [127, 0, 0, 1]), ["failover", "test"]);
        assert_eq!(all([224, 0, 0, 1], [255; 4]), ["failover", "test"]);
        assert_eq!(all([10, 0, 0, 9], [169, 254, 0, 1]), ["test"]);
    }
}
