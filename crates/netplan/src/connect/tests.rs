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
            chosen: None,
        }],
    }
}

fn mapped() -> Vec<Mapping> {
    vec![Mapping::new(ALPHA.parse().unwrap(), BRAVO.parse().unwrap())]
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
                &Purpose::Failover,
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
    let real = plan(&Purpose::Failover, &machines, &networks, &mapped(), &BTreeSet::new()).unwrap();
    // Runs in production hold both addresses; the test network is another one.
    let busy = held(&["192.168.50.11", "192.168.50.12"]);
    let test = plan(&Purpose::Test, &machines, &networks, &mapped(), &busy).unwrap();
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
        &Purpose::Test,
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
    let other = plan(&Purpose::Failover, &machines, &networks, &mapped(), &held(&["192.168.50.11"])).unwrap();
    assert_eq!(other.nics[0].address, Some("192.168.50.10".parse().unwrap()));
    let all = held(&["192.168.50.10", "192.168.50.11", "192.168.50.12"]);
    assert_eq!(reasons(plan(&Purpose::Failover, &machines, &networks, &mapped(), &all)), ["POOL_EXHAUSTED"]);
}

#[test]
fn all_problems_of_all_machines_are_told_at_once() {
    let mut lost = machine("web1", 1, &[]);
    lost.nics[0].hypervisor_network = Some("nowhere".parse().unwrap());
    let mut unmapped = machine("db1", 2, &[]);
    unmapped.target_site = "charlie".parse().unwrap();
    let networks = networks(Isolation::None, Addressing::Dhcp, None);
    assert_eq!(
        reasons(plan(&Purpose::Failover, &[lost, unmapped], &networks, &mapped(), &BTreeSet::new())),
        ["NETWORK_NOT_KNOWN", "NETWORK_NOT_MAPPED"]
    );
}

#[test]
fn a_nic_that_is_not_connected_stays_so() {
    let mut offline = machine("web1", 1, &[]);
    offline.nics[0].hypervisor_network = None;
    let networks = networks(Isolation::None, Addressing::Static, None);
    let plan = plan(&Purpose::Test, &[offline], &networks, &mapped(), &BTreeSet::new()).unwrap();
    assert_eq!((plan.nics[0].network.clone(), plan.test_networks.len()), (None, 0));
}

fn mapped_with(addresses: AddressRule) -> Vec<Mapping> {
    mapped().into_iter().map(|mapping| Mapping { addresses, ..mapping }).collect()
}

/// R-NET-4, rule by rule: an own address that the pool has, one that it does not have, and one that another run holds.
#[test]
fn what_a_mapping_says_about_addresses_is_done() {
    use AddressRule::{Change, KeepIfPossible, Retain};
    let networks = networks(Isolation::None, Addressing::Static, Some(("192.168.50.10", "192.168.50.12")));
    type Row<'a> = (AddressRule, &'a str, &'a [&'a str], Result<&'a str, &'a str>);
    let rows: [Row<'_>; 10] = [
        (KeepIfPossible, "192.168.50.11", &[], Ok("192.168.50.11")),
        (KeepIfPossible, "10.0.0.7", &[], Ok("192.168.50.10")),
        (KeepIfPossible, "192.168.50.11", &["192.168.50.11"], Ok("192.168.50.10")),
        (Retain, "192.168.50.11", &[], Ok("192.168.50.11")),
        (Retain, "10.0.0.7", &[], Err("ADDRESS_NOT_RETAINABLE")),
        (Retain, "192.168.50.11", &["192.168.50.11"], Err("ADDRESS_NOT_RETAINABLE")),
        (Change, "192.168.50.11", &[], Ok("192.168.50.10")),
        (Change, "192.168.50.10", &[], Ok("192.168.50.11")),
        (Change, "10.0.0.7", &["192.168.50.10"], Ok("192.168.50.11")),
        (Change, "192.168.50.12", &["192.168.50.10", "192.168.50.11"], Err("POOL_EXHAUSTED")),
    ];
    for (rule, own, busy, expected) in rows {
        let machines = [machine("web1", 1, &[own])];
        let found = plan(&Purpose::Failover, &machines, &networks, &mapped_with(rule), &held(busy));
        let found = found.map(|plan| plan.nics[0].clone());
        match expected {
            Ok(address) => {
                let nic = found.unwrap();
                assert_eq!(nic.address, Some(address.parse().unwrap()), "{rule:?} {own} {busy:?}");
                assert_eq!(
                    nic.reason.ends_with("it does not keep its own"),
                    rule == Change,
                    "{}",
                    nic.reason
                );
            }
            Err(reason) => assert_eq!(found.unwrap_err()[0].reason, reason, "{rule:?} {own} {busy:?}"),
        }
    }
    let unknown = plan(
        &Purpose::Failover,
        &[machine("web1", 1, &[])],
        &networks,
        &mapped_with(Retain),
        &BTreeSet::new(),
    );
    assert!(unknown.unwrap_err()[0].message.contains("none is known"), "what is not known cannot be kept");
}

/// R-NET-5: what was chosen comes before what others keep, whatever the mapping says, and is checked against network, pool and leases.
#[test]
fn a_chosen_address_is_given_or_refused() {
    let pool = Some(("192.168.50.10", "192.168.50.12"));
    for (addressing, address, busy, expected) in [
        (Addressing::Static, "192.168.50.11", None, true),
        (Addressing::Static, "192.168.50.11", Some("192.168.50.11"), false),
        (Addressing::Static, "192.168.50.40", None, false),
        (Addressing::Dhcp, "192.168.50.40", None, true),
        (Addressing::Dhcp, "192.168.50.1", None, false),
        (Addressing::Dhcp, "10.0.0.9", None, false),
    ] {
        for rule in [AddressRule::KeepIfPossible, AddressRule::Retain, AddressRule::Change] {
            let networks = networks(Isolation::None, addressing, pool);
            // The other machine has the very address.
            let mut machines = [machine("db1", 2, &[address]), machine("web1", 1, &["192.168.50.10"])];
            machines[1].nics[0].chosen = Some(address.parse().unwrap());
            let busy: Vec<&str> = busy.into_iter().collect();
            let found = plan(&Purpose::Failover, &machines[1..], &networks, &mapped_with(rule), &held(&busy));
            match found {
                Ok(plan) => {
                    assert!(expected, "{addressing:?} {address} {rule:?}");
                    assert_eq!(plan.nics[0].address, machines[1].nics[0].chosen);
                    assert!(plan.nics[0].reason.starts_with("chosen for it"), "{}", plan.nics[0].reason);
                }
                Err(problems) => {
                    assert!(!expected, "{addressing:?} {address} {rule:?}: {problems:?}");
                    assert_eq!(problems[0].reason, "CHOSEN_ADDRESS_UNUSABLE");
                }
            }
            if expected && rule == AddressRule::KeepIfPossible {
                let both = plan(&Purpose::Failover, &machines, &networks, &mapped_with(rule), &held(&busy));
                let both = both.unwrap();
                assert_eq!(both.nics[1].address, machines[1].nics[0].chosen);
                assert_ne!(both.nics[0].address, both.nics[1].address);
            }
        }
    }
}

/// R-NET-4, R-TF-4: a test gets what the failover would get, also where the mapping says which; a network that was chosen for the test has
/// other addresses.
#[test]
fn a_test_follows_the_mapping_where_its_network_stands_for_one() {
    let networks = with_lab(Addressing::Dhcp, None);
    let plan_for = |purpose: &Purpose, rule, own: &str| {
        plan(purpose, &[machine("web1", 1, &[own])], &networks, &mapped_with(rule), &BTreeSet::new())
    };
    let changed = plan_for(&Purpose::Test, AddressRule::Change, "192.168.50.11").unwrap();
    assert_ne!(changed.nics[0].address, Some("192.168.50.11".parse().unwrap()));
    assert_eq!(
        reasons(plan_for(&Purpose::Test, AddressRule::Retain, "10.0.0.7")),
        ["ADDRESS_NOT_RETAINABLE"]
    );
    assert!(plan_for(&on_lab(&["bravo/h1"]), AddressRule::Retain, "192.168.50.11").is_ok());
}

const LAB: &str = "sites/bravo/networks/lab";

/// The lab beside what [`networks`] has: 192.168.60.0/24, with addresses of production that must not answer.
fn with_lab(addressing: Addressing, pool: Option<(&str, &str)>) -> Vec<VmNetwork> {
    let mut all = networks(Isolation::None, Addressing::Dhcp, None);
    all[1].isolation_targets = vec!["192.168.50.5".parse().unwrap()];
    let mut lab = network(LAB, Isolation::None, addressing);
    lab.hypervisor_network = "lab".parse().unwrap();
    lab.subnet = "192.168.60.0/24".parse().unwrap();
    lab.gateway = Some("192.168.60.1".parse().unwrap());
    lab.pool =
        pool.map(|(first, last)| AddressPool { first: first.parse().unwrap(), last: last.parse().unwrap() });
    all.push(lab);
    all
}

fn on_lab(hosts: &[&str]) -> Purpose {
    Purpose::TestOn {
        network: LAB.parse().unwrap(),
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
    }
}

fn held_at(network: &str, addresses: &[&str]) -> BTreeSet<HeldAddress> {
    held(addresses)
        .into_iter()
        .map(|held| HeldAddress { network: network.parse().unwrap(), ..held })
        .collect()
}

/// R-TF-2, R-TF-9: all NICs that are connected go there, nothing is made, and each host gets an address to look from.
#[test]
fn a_test_on_an_existing_network_makes_none_and_looks_from_it() {
    let networks = with_lab(Addressing::Static, Some(("192.168.60.10", "192.168.60.20")));
    let mut machines = [machine("web1", 1, &["192.168.50.11"]), machine("db1", 2, &[])];
    machines[1].nics.push(MachineNic { hypervisor_network: None, ..machines[1].nics[0].clone() });
    let purpose = on_lab(&["bravo/h1", "bravo/h2"]);
    let plan = plan(&purpose, &machines, &networks, &mapped(), &BTreeSet::new()).unwrap();
    assert_eq!(plan.test_networks, []);
    let places: Vec<Option<String>> =
        plan.nics.iter().map(|nic| nic.hypervisor_network.as_ref().map(ToString::to_string)).collect();
    assert_eq!(places, [Some("lab".to_owned()), Some("lab".to_owned()), None]);
    let existing = plan.existing.unwrap();
    assert!(!existing.production);
    assert_eq!(existing.isolation_targets, ["192.168.50.5".parse::<Ipv4Addr>().unwrap()]);
    let ports: Vec<String> =
        existing.probe_ports.iter().map(|p| format!("{} {}", p.host, p.address)).collect();
    assert_eq!(ports, ["bravo/h1 192.168.60.12", "bravo/h2 192.168.60.13"]);
    assert_eq!(existing.probe_ports[0].mac.to_string(), "02:75:c0:a8:3c:0c");
}

/// R-TF-4, R-NET-10: its own address where that is in the network and free, another one of it otherwise.
#[test]
fn on_an_existing_network_what_other_runs_hold_counts() {
    let networks = with_lab(Addressing::Static, Some(("192.168.60.10", "192.168.60.20")));
    let machines = [machine("web1", 1, &["192.168.60.11"]), machine("db1", 2, &["192.168.50.12"])];
    let addresses = |busy: &[&str]| {
        let busy = held_at(LAB, busy);
        let plan = plan(&on_lab(&["bravo/h1"]), &machines, &networks, &mapped(), &busy).unwrap();
        let nics = plan.nics.iter().map(|nic| nic.address);
        let ports = plan.existing.unwrap().probe_ports.into_iter().map(|port| Some(port.address));
        nics.chain(ports).map(|address| address.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&[]), ["192.168.60.11", "192.168.60.10", "192.168.60.12"]);
    assert_eq!(addresses(&["192.168.60.11"]), ["192.168.60.10", "192.168.60.12", "192.168.60.13"]);
    let without_pool = with_lab(Addressing::Dhcp, None);
    let plan = plan(&on_lab(&["bravo/h1"]), &machines, &without_pool, &mapped(), &BTreeSet::new()).unwrap();
    let given: Vec<_> = plan.nics.iter().map(|nic| nic.address.map(|a| a.to_string())).collect();
    assert_eq!(given, [Some("192.168.60.11".to_owned()), None], "only its DHCP server knows the other one");
    assert_eq!(plan.existing.unwrap().probe_ports[0].address.to_string(), "192.168.60.254");
}

/// R-TF-9: a port that had an address of production itself would never hear anybody else answer for it.
#[test]
fn a_port_has_no_address_that_must_not_answer() {
    let mut networks = with_lab(Addressing::Static, Some(("192.168.60.10", "192.168.60.20")));
    networks[1].subnet = "192.168.0.0/16".parse().unwrap();
    networks[1].isolation_targets = vec!["192.168.60.11".parse().unwrap()];
    let machines = [machine("web1", 1, &["192.168.60.10"])];
    let plan = plan(&on_lab(&["bravo/h1"]), &machines, &networks, &mapped(), &BTreeSet::new()).unwrap();
    assert_eq!(plan.existing.unwrap().probe_ports[0].address.to_string(), "192.168.60.12");
}

/// R-TF-2: production is told as such, and there is nothing to prove about it.
#[test]
fn production_is_told_as_such() {
    let networks = with_lab(Addressing::Dhcp, None);
    let purpose =
        Purpose::TestOn { network: BRAVO.parse().unwrap(), hosts: ["bravo/h1".parse().unwrap()].into() };
    let machines = [machine("web1", 1, &["192.168.50.11"])];
    let plan = plan(&purpose, &machines, &networks, &mapped(), &BTreeSet::new()).unwrap();
    let existing = plan.existing.unwrap();
    assert!(existing.production);
    assert_eq!(existing.probe_ports, []);
}

/// R-TF-2, R-NET-6, R-NET-7: everything that stands against the network, beside everything that stands against the machines.
#[test]
fn all_problems_of_an_existing_network_are_told_at_once() {
    let mut networks = with_lab(Addressing::Static, None);
    networks[2].isolation = Isolation::Virtualized;
    networks[1].isolation_targets.clear();
    let machines = [machine("web1", 1, &["10.0.0.7"]), machine("db1", 2, &[])];
    let refused = |purpose: &Purpose, networks: &[VmNetwork]| {
        reasons(plan(purpose, &machines, networks, &mapped(), &BTreeSet::new()))
    };
    assert_eq!(
        refused(&on_lab(&["bravo/h1"]), &networks),
        ["TEST_NETWORK_UNFIT", "POOL_MISSING", "POOL_MISSING", "ISOLATION_NOT_PROVABLE"]
    );
    networks[2].isolation = Isolation::Vlan;
    networks[2].addressing = Addressing::Dhcp;
    assert_eq!(
        refused(&on_lab(&["bravo/h1"]), &networks),
        ["LOGICAL_NETWORK_MISSING", "ISOLATION_NOT_PROVABLE"]
    );
    let elsewhere =
        Purpose::TestOn { network: ALPHA.parse().unwrap(), hosts: ["bravo/h1".parse().unwrap()].into() };
    assert_eq!(refused(&elsewhere, &networks), ["NETWORK_AT_OTHER_SITE"]);
    networks.pop();
    assert_eq!(refused(&on_lab(&["bravo/h1"]), &networks), ["NETWORK_NOT_FOUND"]);
}

proptest! {
    /// R-NET-4, R-NET-10: no address is given twice, every retained one is the machine's own and lies in the target's subnet, and none that
    /// is to change stays.
    #[test]
    fn retained_addresses_are_their_own_and_changed_ones_are_not(
        own in proptest::collection::vec(0u8..=255, 1..12),
        busy in proptest::collection::btree_set(0u8..=255, 0..12),
        retain in any::<bool>(),
        dhcp in any::<bool>(),
    ) {
        let text = |last: &u8| format!("192.168.50.{last}");
        let rule = if retain { AddressRule::Retain } else { AddressRule::Change };
        let addressing = if dhcp { Addressing::Dhcp } else { Addressing::Static };
        let networks = networks(Isolation::Virtualized, addressing, Some(("192.168.50.2", "192.168.50.254")));
        let machines: Vec<_> = own
            .iter()
            .zip(0u8..)
            .map(|(own, i)| machine(&format!("m{i}"), i, &[&text(own)]))
            .collect();
        let busy: Vec<String> = busy.iter().map(text).collect();
        let busy = held(&busy.iter().map(String::as_str).collect::<Vec<_>>());
        if let Ok(plan) = plan(&Purpose::Failover, &machines, &networks, &mapped_with(rule), &busy) {
            let given: Vec<Ipv4Addr> = plan.nics.iter().map(|nic| nic.address.unwrap()).collect();
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), machines.len());
            prop_assert!(given.iter().all(|address| networks[1].is_host_address(*address)));
            prop_assert!(busy.iter().all(|held| !given.contains(&held.address)));
            for (own, given) in own.iter().zip(&given) {
                prop_assert_eq!(text(own) == given.to_string(), retain);
            }
        }
    }

    /// R-NET-10, R-TF-4: on a network that others are on too, no address is given twice, to a machine or to a port, none that is held, none
    /// that must not answer, and an own address is kept exactly where the pool has it.
    #[test]
    fn on_an_existing_network_no_address_is_planned_twice(
        wants in proptest::collection::vec(proptest::option::of(90u8..130), 1..12),
        busy in proptest::collection::btree_set(90u8..130, 0..12),
        ports in 1usize..4,
    ) {
        let text = |last: &u8| format!("192.168.60.{last}");
        let networks = with_lab(Addressing::Static, Some(("192.168.60.95", "192.168.60.125")));
        let pool = networks[2].pool.unwrap();
        let machines: Vec<_> = wants.iter().zip(0u8..).map(|(want, i)| {
            let address: Vec<String> = want.iter().map(text).collect();
            machine(&format!("m{i}"), i, &address.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        let busy: Vec<String> = busy.iter().map(text).collect();
        let busy = held_at(LAB, &busy.iter().map(String::as_str).collect::<Vec<_>>());
        let hosts: Vec<String> = (0..ports).map(|n| format!("bravo/h{n}")).collect();
        let purpose = on_lab(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
        if let Ok(plan) = plan(&purpose, &machines, &networks, &mapped(), &busy) {
            let ports_given = plan.existing.unwrap().probe_ports.into_iter().map(|port| port.address);
            let given: Vec<Ipv4Addr> = plan.nics.iter().map(|n| n.address.unwrap()).chain(ports_given).collect();
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), machines.len() + ports);
            prop_assert!(given.iter().all(|a| pool.contains(*a)));
            prop_assert!(busy.iter().all(|h| !given.contains(&h.address)));
        }
    }


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
        if let Ok(plan) = plan(&purpose, &machines, &networks, &mapped(), &busy) {
            let given: Vec<Ipv4Addr> = plan.nics.iter().map(|n| n.address.unwrap()).collect();
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), machines.len());
            prop_assert!(given.iter().all(|a| pool.contains(*a)));
            if !test {
                prop_assert!(busy.iter().all(|h| !given.contains(&h.address)));
            }
        }
    }
}
