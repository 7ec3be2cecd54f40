use proptest::prelude::*;

use super::*;
use crate::network::{AddressPool, tests::network};

const ALPHA: &str = "sites/alpha/networks/prod";
const BRAVO: &str = "sites/bravo/networks/prod";

fn machine(item: &str, last: u8, addresses: &[&str]) -> MachineConnections {
    MachineConnections {
        item: item.parse().unwrap(),
        source_site: "alpha".parse().unwrap(),
        target_site: "bravo".parse().unwrap(),
        nics: vec![MachineNic {
            mac: MacAddress::new([0x52, 0x54, 0, 0, 0x50, last]),
            hypervisor_network: Some("prod".parse().unwrap()),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }],
    }
}

fn mapped() -> Vec<Mapping> {
    vec![Mapping { a: ALPHA.parse().unwrap(), b: BRAVO.parse().unwrap() }]
}

fn networks(isolation: Isolation, addressing: Addressing, pool: Option<(&str, &str)>) -> Vec<VmNetwork> {
    let mut target = network(BRAVO, isolation, addressing);
    target.pool =
        pool.map(|(first, last)| AddressPool { first: first.parse().unwrap(), last: last.parse().unwrap() });
    vec![network(ALPHA, Isolation::None, Addressing::Dhcp), target]
}

fn held(addresses: &[&str]) -> BTreeSet<HeldAddress> {
    addresses
        .iter()
        .map(|a| HeldAddress { network: BRAVO.parse().unwrap(), address: a.parse().unwrap() })
        .collect()
}

fn reasons(result: Result<ConnectionPlan, Vec<Problem>>) -> Vec<String> {
    result.unwrap_err().into_iter().map(|p| p.reason).collect()
}

#[test]
fn r_net_3_every_pair_of_isolation_and_addressing_has_one_row() {
    for isolation in [Isolation::None, Isolation::Vlan, Isolation::Virtualized] {
        for addressing in [Addressing::Dhcp, Addressing::Static] {
            let rows = ADDRESS_SOURCES.iter().filter(|(i, a, _)| (*i, *a) == (isolation, addressing)).count();
            assert_eq!(rows, 1, "{isolation:?} {addressing:?}");
        }
    }
}

/// The first pair of which the table does not say what R-NET-3 says.
fn wrong_source(table: &[(Isolation, Addressing, AddressSource)]) -> Option<(Isolation, Addressing)> {
    let source = |pair| table.iter().find(|(i, a, _)| (*i, *a) == pair).map(|(_, _, source)| *source);
    let right = |(isolation, addressing): (Isolation, Addressing)| match source((isolation, addressing)) {
        None => false,
        Some(AddressSource::NetworkDhcp) => {
            addressing == Addressing::Dhcp && isolation != Isolation::Virtualized
        }
        Some(AddressSource::Pool) => addressing == Addressing::Static,
        Some(AddressSource::PlatformDhcp) => {
            addressing == Addressing::Dhcp && isolation == Isolation::Virtualized
        }
    };
    let kinds = [Isolation::None, Isolation::Vlan, Isolation::Virtualized];
    let pairs = kinds.into_iter().flat_map(|i| [Addressing::Dhcp, Addressing::Static].map(|a| (i, a)));
    pairs.into_iter().find(|pair| !right(*pair))
}

#[test]
fn r_net_3_no_row_can_be_removed_or_changed_unnoticed() {
    assert_eq!(wrong_source(ADDRESS_SOURCES), None);
    for (index, row) in ADDRESS_SOURCES.iter().enumerate() {
        let mut table = ADDRESS_SOURCES.to_vec();
        let all = [AddressSource::NetworkDhcp, AddressSource::Pool, AddressSource::PlatformDhcp];
        for other in all.into_iter().filter(|source| *source != row.2) {
            table[index].2 = other;
            assert!(wrong_source(&table).is_some(), "{row:?} may be {other:?}");
        }
        table.remove(index);
        assert!(wrong_source(&table).is_some(), "nobody misses {row:?}");
    }
}

/// Each row: a machine whose address is outside the target's subnet, with and without a pool there.
#[test]
fn r_net_3_rows() {
    use Addressing::{Dhcp, Static};
    use Isolation::{None as Plain, Virtualized, Vlan};
    let pool = Some(("192.168.50.100", "192.168.50.110"));
    let first = Some("192.168.50.100".parse().unwrap());
    let rows: [(Isolation, Addressing, Option<Ipv4Addr>, Option<&str>); 6] = [
        // isolation, addressing, address with a pool, problem without one
        (Plain, Dhcp, None, None),
        (Plain, Static, first, Some("POOL_MISSING")),
        (Vlan, Dhcp, None, None),
        (Vlan, Static, first, Some("POOL_MISSING")),
        (Virtualized, Dhcp, first, Some("POOL_MISSING")),
        (Virtualized, Static, first, Some("POOL_MISSING")),
    ];
    let machines = [machine("web1", 1, &["10.0.0.7"])];
    for (isolation, addressing, with_pool, without_pool) in rows {
        let run = |pool| {
            plan(
                Purpose::Failover,
                &machines,
                &networks(isolation, addressing, pool),
                &mapped(),
                &BTreeSet::new(),
            )
        };
        assert_eq!(run(pool).unwrap().nics[0].address, with_pool, "{isolation:?} {addressing:?}");
        match without_pool {
            None => assert_eq!(run(None).unwrap().nics[0].address, None, "{isolation:?} {addressing:?}"),
            Some(reason) => assert_eq!(reasons(run(None)), [reason], "{isolation:?} {addressing:?}"),
        }
    }
}

#[test]
fn r_tf_4_a_test_gets_the_address_that_a_failover_would_give() {
    let machines = [machine("web1", 1, &["192.168.50.11"]), machine("db1", 2, &["192.168.50.12"])];
    let networks = networks(Isolation::None, Addressing::Dhcp, None);
    let real = plan(Purpose::Failover, &machines, &networks, &mapped(), &BTreeSet::new()).unwrap();
    // Runs in production hold both addresses; the test network is another one.
    let busy = held(&["192.168.50.11", "192.168.50.12"]);
    let test = plan(Purpose::Test, &machines, &networks, &mapped(), &busy).unwrap();
    let addresses = |plan: &ConnectionPlan| plan.nics.iter().map(|n| n.address).collect::<Vec<_>>();
    assert_eq!(addresses(&test), addresses(&real));
    assert_eq!(test.test_networks.len(), 1, "one network for both machines");
    assert!(test.nics.iter().all(|n| n.test_network == Some(0) && n.hypervisor_network.is_none()));
    assert!(real.nics.iter().all(|n| n.hypervisor_network.as_ref().is_some_and(|h| h.as_str() == "prod")));
}

#[test]
fn r_tf_9_only_addresses_that_the_test_does_not_use_itself_are_probed() {
    let mut networks = networks(Isolation::None, Addressing::Dhcp, None);
    networks[1].isolation_targets =
        ["192.168.50.1", "192.168.50.5", "192.168.50.11"].map(|a| a.parse().unwrap()).to_vec();
    let test = plan(
        Purpose::Test,
        &[machine("web1", 1, &["192.168.50.11"])],
        &networks,
        &mapped(),
        &BTreeSet::new(),
    )
    .unwrap();
    assert_eq!(test.test_networks[0].isolation_targets, ["192.168.50.5".parse::<Ipv4Addr>().unwrap()]);
}

#[test]
fn r_net_10_an_address_that_another_run_holds_is_not_planned() {
    let networks = networks(Isolation::None, Addressing::Static, Some(("192.168.50.10", "192.168.50.12")));
    let machines = [machine("web1", 1, &["192.168.50.11"])];
    let other = plan(Purpose::Failover, &machines, &networks, &mapped(), &held(&["192.168.50.11"])).unwrap();
    assert_eq!(other.nics[0].address, Some("192.168.50.10".parse().unwrap()));
    let all = held(&["192.168.50.10", "192.168.50.11", "192.168.50.12"]);
    assert_eq!(reasons(plan(Purpose::Failover, &machines, &networks, &mapped(), &all)), ["POOL_EXHAUSTED"]);
}

#[test]
fn all_problems_of_all_machines_are_told_at_once() {
    let mut lost = machine("web1", 1, &[]);
    lost.nics[0].hypervisor_network = Some("nowhere".parse().unwrap());
    let mut unmapped = machine("db1", 2, &[]);
    unmapped.target_site = "charlie".parse().unwrap();
    let networks = networks(Isolation::None, Addressing::Dhcp, None);
    assert_eq!(
        reasons(plan(Purpose::Failover, &[lost, unmapped], &networks, &mapped(), &BTreeSet::new())),
        ["NETWORK_NOT_KNOWN", "NETWORK_NOT_MAPPED"]
    );
}

#[test]
fn a_nic_that_is_not_connected_stays_so() {
    let mut offline = machine("web1", 1, &[]);
    offline.nics[0].hypervisor_network = None;
    let networks = networks(Isolation::None, Addressing::Static, None);
    let plan = plan(Purpose::Test, &[offline], &networks, &mapped(), &BTreeSet::new()).unwrap();
    assert_eq!((plan.nics[0].network.clone(), plan.test_networks.len()), (None, 0));
}

proptest! {
    /// R-NET-10: whatever machines want and others hold, no address is planned twice, none is the gateway's, none is held, and all
    /// lie in the pool.
    #[test]
    fn no_address_is_planned_twice(
        wants in proptest::collection::vec(proptest::option::of(90u8..130), 1..20),
        busy in proptest::collection::btree_set(90u8..130, 0..20),
        test in any::<bool>(),
    ) {
        let networks = networks(Isolation::Virtualized, Addressing::Dhcp, Some(("192.168.50.95", "192.168.50.125")));
        let pool = networks[1].pool.unwrap();
        let machines: Vec<_> = wants
            .iter()
            .enumerate()
            .map(|(i, want)| {
                let address = want.map(|w| format!("192.168.50.{w}"));
                machine(&format!("m{i}"), u8::try_from(i).unwrap(), &address.iter().map(String::as_str).collect::<Vec<_>>())
            })
            .collect();
        let busy = held(&busy.iter().map(|b| format!("192.168.50.{b}")).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
        let purpose = if test { Purpose::Test } else { Purpose::Failover };
        if let Ok(plan) = plan(purpose, &machines, &networks, &mapped(), &busy) {
            let given: Vec<Ipv4Addr> = plan.nics.iter().map(|n| n.address.unwrap()).collect();
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), machines.len());
            prop_assert!(given.iter().all(|a| pool.contains(*a)));
            if !test {
                prop_assert!(busy.iter().all(|h| !given.contains(&h.address)));
            }
        }
    }
}
