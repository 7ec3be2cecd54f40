//! Terms that change while a loop runs, and pauses (R-REP-8).

use std::time::Duration;

use understudy_replication::{Bandwidth, ReplicationSettings, RetentionPolicy, bandwidth::Rate};
use understudy_replication_api::{Action, ReplicationFacts, ReplicationState, StartReplication};

use crate::harness::{World, wait};

const SHORT: Duration = Duration::from_millis(150);
const HOUR: Duration = Duration::from_secs(3600);

fn assignment(world: &World, interval: Duration) -> StartReplication {
    let Action::StartReplication(asked) = world.replicate(&world.bravo, interval) else { unreachable!() };
    asked
}

fn assign(world: &World, asked: StartReplication) {
    world.alpha.twice(1, world.run, Action::StartReplication(asked));
}

fn prepare(world: &World, retention: RetentionPolicy) {
    world.bravo.twice(1, world.run, Action::PrepareReplica { disks: world.sizes(), retention });
}

fn told(world: &World, what: &str, is: impl Fn(&ReplicationFacts) -> bool) -> ReplicationFacts {
    wait(what, || world.alpha.item_facts()?.replication.filter(&is))
}

fn slowly(rate: u64) -> ReplicationSettings {
    let bandwidth = Bandwidth { otherwise: Rate(Some(rate)), ..Bandwidth::default() };
    ReplicationSettings { bandwidth, ..ReplicationSettings::default() }
}

/// A first copy that would take a minute goes on under other terms, and takes the new limit over in its middle.
#[test]
fn a_running_copy_takes_other_terms_over_and_is_not_broken_off() {
    let world = World::new(16);
    prepare(&world, RetentionPolicy::default());
    assign(&world, StartReplication { settings: slowly(256 << 10), ..assignment(&world, HOUR) });
    told(&world, "some of the copy", |r| r.sent_bytes > 0);
    let revision = "2".to_owned();
    assign(&world, StartReplication { revision: revision.clone(), ..assignment(&world, HOUR) });
    let done = told(&world, "the copy", |r| r.last_seq.is_some());
    assert!(world.model.is_at(&world.bravo, 1), "point 1 is not the machine");
    // One that was broken off would be a resumed one.
    assert!(done.last_cycle_kind.starts_with("full:"), "{}", done.last_cycle_kind);
    assert_eq!((done.revision, done.failures), (Some(revision), 0));
    // It rests by the new interval: more come.
    assign(&world, assignment(&world, SHORT));
    world.next_point();
}

/// A loop that rests for an hour hears of its new interval, and its record is what the next agent follows.
#[test]
fn a_resting_loop_takes_another_interval_over() {
    let mut world = World::new(1);
    world.protect(HOUR);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() == 1));
    assign(&world, assignment(&world, SHORT));
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
    assert_eq!(world.alpha.record().unwrap().assignment.unwrap().terms.interval, SHORT);
}

/// Nothing is sent, also not by the next agent; retention works; what was written meanwhile is a delta.
#[test]
fn a_paused_item_sends_nothing_and_resumes_with_a_delta() {
    let mut world = World::new(16);
    world.protect(SHORT);
    wait("points", || Some(()).filter(|()| world.bravo.latest() >= 4));
    let paused = StartReplication { paused: true, revision: "p".into(), ..assignment(&world, SHORT) };
    assign(&world, paused);
    let state = told(&world, "the pause", |r| r.state == ReplicationState::Paused);
    assert_eq!((state.revision.as_deref(), state.failures, state.covered), (Some("p"), 0, false));
    let (points, passed) = (world.bravo.latest(), world.bravo.link.passed());
    world.model.write(&world.alpha, 20);
    told(&world, "what is written meanwhile", |r| r.backlog_bytes.is_some_and(|bytes| bytes > 0));
    prepare(&world, RetentionPolicy { keep_count: Some(2), ..RetentionPolicy::default() });
    wait("the changed retention", || Some(()).filter(|()| world.bravo.points().len() == 2));

    world.alpha.kill_agent();
    world.alpha.start_agent();
    told(&world, "the pause after a restart", |r| r.state == ReplicationState::Paused);
    world.model.write(&world.alpha, 20);
    told(&world, "what is still to be shipped", |r| {
        r.state == ReplicationState::Paused && r.last_seq.is_none()
    });
    assert_eq!((world.bravo.latest(), world.bravo.link.passed()), (points, passed), "something was sent");

    assign(&world, assignment(&world, SHORT));
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
    let state = told(&world, "replication to go on", |r| r.cycles > 0);
    assert!(state.last_cycle_kind.starts_with("incremental"), "{}", state.last_cycle_kind);
    let wire = world.bravo.link.passed() - passed;
    assert!(wire < 12 << 20, "{wire} bytes were sent for 40 small writes");
}

/// A pause breaks a cycle off like a stop: nothing that it had begun to ship is lost.
#[test]
fn a_pause_breaks_a_cycle_off_and_loses_no_change() {
    let mut world = World::new(16);
    prepare(&world, RetentionPolicy::default());
    let slow = StartReplication { settings: slowly(256 << 10), ..assignment(&world, SHORT) };
    assign(&world, slow.clone());
    for round in 0..2 {
        told(&world, "some of the copy", |r| r.sent_bytes > 0);
        world.model.write(&world.alpha, 10);
        assign(&world, StartReplication { paused: true, ..slow.clone() });
        told(&world, "the pause", |r| r.state == ReplicationState::Paused && r.sent_bytes == 0);
        assert_eq!(world.bravo.latest(), 0, "round {round}");
        world.model.write(&world.alpha, 10);
        assign(&world, slow.clone());
    }
    assign(&world, assignment(&world, SHORT));
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}
