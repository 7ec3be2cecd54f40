//! What an agent tells about the health of replication (R-REP-9).

use std::time::{Duration, Instant};

use understudy_replication_api::{ReplicationFacts, ReplicationState};

use crate::harness::{BLOCK, World, disk, machine, wait};

const SHORT: Duration = Duration::from_millis(150);

fn told(world: &World, what: &str, is: impl Fn(&ReplicationFacts) -> bool) -> ReplicationFacts {
    wait(what, || world.alpha.item_facts()?.replication.filter(&is))
}

/// R-REP-9: while the target is away, what piles up is counted by the hypervisor's tracking, the error is told with its beginning and what to do, and
/// the age of the latest point goes into a history that outlives the agent.
#[test]
fn an_outage_is_told_while_it_lasts_and_remembered_when_it_is_over() {
    let mut world = World::new(8);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let healthy = told(&world, "health", |r| r.cycles > 1 && r.last_hour.is_some());
    assert_eq!((healthy.failures, healthy.failing_since, healthy.last_error), (0, None, None));

    let began = Instant::now();
    world.bravo.link.cut_after(0);
    told(&world, "the failure", |r| r.failures > 0);
    for block in 0..20 {
        world.alpha.hypervisor.guest_write(&machine(), &disk("vda"), 2 * block * BLOCK, &[7; 512]).unwrap();
    }
    let failing =
        told(&world, "the backlog", |r| r.backlog_bytes.is_some_and(|b| b >= 20 * BLOCK) && r.failures > 2);
    assert_eq!(failing.state, ReplicationState::Error);
    let error = failing.last_error.unwrap();
    assert!(!error.remedy.is_empty(), "{error:?}");
    let since = failing.failing_since.unwrap();
    let later = told(&world, "another failure", |r| r.failures > failing.failures);
    assert_eq!(later.failing_since, Some(since), "the beginning moves with each failure");

    let outage = began.elapsed();
    world.bravo.link.mend();
    let healed = told(&world, "a point after the outage", |r| r.failures == 0);
    assert_eq!((healed.last_error, healed.failing_since), (None, None));
    let remembered = |r: &ReplicationFacts| r.last_hour.is_some_and(|hour| hour.worst >= outage);
    told(&world, "the outage in the history", remembered);
    world.alpha.kill_agent();
    world.alpha.start_agent();
    let hour = told(&world, "the history after a restart", remembered).last_hour.unwrap();
    assert!(hour.p50 <= hour.p95 && hour.p95 <= hour.p99 && hour.p99 <= hour.worst, "{hour:?}");
    // Another item of the same name begins with a clean slate.
    world.alpha.twice(1, world.run, understudy_replication_api::Action::StopReplication { forget: true });
    assert!(!world.alpha.dir.join("state/history/web1.json").exists());
}
