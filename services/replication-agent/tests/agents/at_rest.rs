//! App-consistent points at their own interval (R-REP-3).

use std::time::Duration;

use understudy_ids::Consistency;
use understudy_replication::{AppConsistency, ReplicationSettings};
use understudy_replication_api::{Action, ReplicationFacts, StartReplication};

use crate::harness::{World, machine, wait};

const SHORT: Duration = Duration::from_millis(150);
const EVERY: Duration = Duration::from_secs(1);

/// Protects with app-consistent points.
fn protect(world: &World) {
    world.protect(SHORT);
    let Action::StartReplication(assigned) = world.replicate(&world.bravo, SHORT) else { unreachable!() };
    let app_consistency = Some(AppConsistency { every: EVERY, freeze_limit: Duration::from_secs(5) });
    let settings = ReplicationSettings { app_consistency, ..assigned.settings.clone() };
    world.alpha.twice(1, world.run, Action::StartReplication(StartReplication { settings, ..assigned }));
}

/// Instants of the points of that kind, oldest first.
fn instants(world: &World, kind: Consistency) -> Vec<i64> {
    let points = world.bravo.item_facts().map(|facts| facts.points).unwrap_or_default();
    points.iter().filter(|p| p.consistency == kind).map(|p| p.instant.get()).collect()
}

fn replication(world: &World) -> Option<ReplicationFacts> {
    world.alpha.item_facts()?.replication
}

/// R-REP-3: they come at their own interval, between crash-consistent ones, and say for how long the guest was frozen.
#[test]
fn app_consistent_points_have_an_interval_of_their_own() {
    let world = World::new(2);
    protect(&world);
    let rested = wait("three app-consistent points", || {
        Some(instants(&world, Consistency::Application)).filter(|found| found.len() >= 3)
    });
    for pair in rested.windows(2) {
        let apart = Duration::from_micros((pair[1] - pair[0]) as u64);
        assert!(apart >= EVERY * 9 / 10, "two freezes are {apart:?} apart");
    }
    let others = instants(&world, Consistency::Crash);
    assert!(
        others.iter().any(|other| rested[0] < *other && *other < rested[1]),
        "no point lies between them"
    );
    let facts = world.bravo.item_facts().unwrap();
    for point in facts.points {
        assert_eq!(point.frozen.is_some(), point.consistency == Consistency::Application, "{}", point.seq);
    }
}

/// R-REP-3: a guest that cannot be brought to rest keeps its points, and the reason and what to do about it are told until it can.
#[test]
fn an_agent_that_does_not_answer_costs_the_consistency_and_not_the_point() {
    let mut world = World::new(2);
    protect(&world);
    wait("an app-consistent point", || instants(&world, Consistency::Application).pop());
    world.alpha.hypervisor.set_guest_agent(&machine(), false).unwrap();
    let problem = wait("the reason", || replication(&world)?.not_at_rest);
    assert_eq!(problem.reason, "GUEST_AGENT_SILENT");
    assert!(!problem.remedy.is_empty());
    assert_eq!(replication(&world).unwrap().last_error, None, "the cycle failed because of it");
    world.model.write(&world.alpha, 3);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");

    world.alpha.hypervisor.set_guest_agent(&machine(), true).unwrap();
    let before = instants(&world, Consistency::Application).len();
    wait("it to come to rest again", || {
        Some(()).filter(|()| replication(&world).unwrap().not_at_rest.is_none())
    });
    wait("a point of that", || {
        Some(()).filter(|()| instants(&world, Consistency::Application).len() > before)
    });
}
