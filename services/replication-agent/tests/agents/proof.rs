//! What a started machine is asked, and what its console shows (R-TF-8).

use std::time::Duration;

use understudy_hypervisor::Hypervisor;
use understudy_ids::{MachineName, NetworkName};
use understudy_replication_api::{Action, AgentTaskResult, DhcpReservation};

use crate::harness::{CLOSED_PORT, World, machine};

const ADDRESS: &str = "10.77.3.40";

/// A test machine that runs on a test network where it has an address.
fn rehearsed() -> (World, MachineName, NetworkName) {
    let world = World::new(1);
    world.protect(Duration::from_millis(150));
    world.next_point();
    let (name, network): (MachineName, NetworkName) =
        ("web1-test-1".parse().unwrap(), "ust-1-0".parse().unwrap());
    let nic = world
        .alpha
        .block_on(world.alpha.hypervisor.machine(&machine()))
        .unwrap()
        .unwrap()
        .hardware
        .nics
        .remove(0);
    let reservations = vec![DhcpReservation {
        mac: nic.mac,
        address: ADDRESS.parse().unwrap(),
        host_name: "web1".to_owned(),
    }];
    let gateway = "10.77.3.1".parse().unwrap();
    let ensure = Action::EnsureTestNetwork { name: network.clone(), gateway, prefix_len: 24, reservations };
    world.bravo.twice(1, world.run, ensure);
    let nics = vec![Some(network.clone())];
    world.bravo.twice(1, world.run, Action::CreateTestMachine { seq: None, name: name.clone(), nics });
    world.bravo.twice(1, world.run, Action::StartMachine { machine: name.clone() });
    (world, name, network)
}

/// Whether it passed, after how long, and what was seen.
fn ask(world: &World, machine: &MachineName, network: &NetworkName, probe: &str) -> (bool, Duration, String) {
    let probe: understudy_probe::Probe = probe.parse().unwrap();
    let at = (probe.name.as_str() != "guest-agent").then(|| (network.clone(), ADDRESS.parse().unwrap()));
    let ask = Action::ProbeMachine { machine: machine.clone(), at, probe };
    match world.bravo.perform(1, world.run, ask).unwrap() {
        AgentTaskResult::ProbeResult { reachable, after, seen } => (reachable, after, seen),
        other => panic!("{other:?}"),
    }
}

/// R-TF-8: every kind has its answer; one that is not the wanted one is asked for again until the time is up.
#[test]
fn a_machine_is_asked_until_it_answers_or_time_is_up() {
    let (world, name, network) = rehearsed();
    for (probe, expected) in [
        ("guest-agent", (true, "")),
        ("ping", (true, "")),
        ("tcp:80", (true, "connected")),
        ("http:80/,contains=simulated", (true, "HTTP status 200, with the text that is wanted")),
        ("http:80/,within=1s,status=500-599", (false, "HTTP status 200")),
    ] {
        let (passed, _, seen) = ask(&world, &name, &network, probe);
        assert_eq!((passed, seen.as_str()), expected, "{probe}");
    }
    let (passed, after, seen) = ask(&world, &name, &network, &format!("tcp:{CLOSED_PORT},within=3s"));
    assert_eq!((passed, seen.as_str()), (false, "connection refused"));
    assert!(after >= Duration::from_secs(1), "it was asked once only: {after:?}");
    assert!(after <= Duration::from_secs(3), "{after:?}");

    // A machine that is off will not answer later either.
    world.bravo.block_on(world.bravo.hypervisor.power_off(&name)).unwrap();
    let (passed, after, _) = ask(&world, &name, &network, "tcp:80,within=60s");
    assert!(!passed && after < Duration::from_secs(10), "{after:?}");
}

/// A picture that cannot be had says why, and is no error.
#[test]
fn a_console_that_shows_nothing_says_why() {
    let (world, name, _) = rehearsed();
    let look = |machine: &MachineName| {
        world.bravo.perform(1, world.run, Action::TakeScreenshot { machine: machine.clone() }).unwrap()
    };
    assert_eq!(look(&name), AgentTaskResult::NoScreenshot("the machine has no display".to_owned()));
    world.bravo.block_on(world.bravo.hypervisor.power_off(&name)).unwrap();
    assert_eq!(look(&name), AgentTaskResult::NoScreenshot("the machine does not run".to_owned()));
    let nothing = look(&"nothing".parse().unwrap());
    let AgentTaskResult::NoScreenshot(why) = nothing else { panic!("{nothing:?}") };
    assert!(why.contains("does not exist"), "{why}");
}
