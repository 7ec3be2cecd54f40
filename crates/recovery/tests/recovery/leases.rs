//! Unplanned failover that rests on an activation lease: nobody has to state that the other side is down, because its machine stops by itself (R-FO-7, R-UF-1).

use std::time::Duration;

use understudy_ids::{Generation, ItemName};
use understudy_recovery::{
    Event, Operation, PlanInput, RunSpec,
    plan::{Power, plan},
    run::{self, RunState, RunVerb, awaited_leases, ends_lease},
};

use crate::{
    theatre::Theatre,
    world::{alpha, input, item, spec},
};

const OPERATION: Operation = Operation::UnplannedFailover;
const LEASE: Duration = Duration::from_secs(45);

fn unstated() -> RunSpec {
    RunSpec { primary_down_assertion: None, ..spec(OPERATION) }
}

fn leased() -> PlanInput {
    let mut facts = input(OPERATION);
    facts.items.iter_mut().for_each(|item| item.lease_over_in = Some(LEASE));
    facts
}

fn theatre() -> Theatre {
    Theatre::new(plan(&unstated(), &leased()).unwrap(), unstated())
}

fn over(theatre: &Theatre, name: &str, generation: Generation) -> Event {
    Event::LeaseOver { item: item(name), generation, at: theatre.now }
}

/// R-UF-1, row by row: why it is certain that the old side is off, and what the run does about it.
#[test]
fn what_a_failover_rests_on() {
    let rows = [
        // stated, heard, power, lease; problem, waits for the lease
        (false, false, Power::Unknown, false, true, false),
        (false, false, Power::Unknown, true, false, true),
        (true, false, Power::Unknown, false, false, false),
        (true, false, Power::Unknown, true, false, false),
        (false, true, Power::ShutOff, false, false, false),
        (false, true, Power::ShutOff, true, false, false),
        (false, true, Power::Running, false, true, false),
        (false, true, Power::Running, true, false, true),
        // What was told before the host fell silent is worth nothing (invariant 16).
        (false, false, Power::ShutOff, false, true, false),
        (false, false, Power::ShutOff, true, false, true),
    ];
    for row @ (stated, heard, power, lease, problem, waits) in rows {
        let mut facts = input(OPERATION);
        facts.hosts.get_mut(&alpha()).unwrap().connected = heard;
        for item in &mut facts.items {
            item.machine.power = power;
            item.lease_over_in = lease.then_some(LEASE);
        }
        let wish = if stated { spec(OPERATION) } else { unstated() };
        match plan(&wish, &facts) {
            Err(problems) => {
                assert!(problem, "{row:?}: {problems:#?}");
                assert!(problems.iter().all(|p| p.reason == "PRIMARY_DOWN_ASSERTION_REQUIRED"), "{row:?}");
            }
            Ok(plan) => {
                assert!(!problem, "{row:?}");
                let waiting =
                    plan.steps.iter().filter(|step| step.id.as_str().ends_with("lease-over")).count();
                assert_eq!(waiting, if waits { 2 } else { 0 }, "{row:?}");
                let estimates = plan.estimates.values().map(|e| e.lease_over_in);
                assert!(estimates.into_iter().all(|e| e == waits.then_some(LEASE)), "{row:?}");
            }
        }
    }
}

/// R-FO-2: a lease ends sooner with every second, and the preview that somebody has seen stays the plan.
#[test]
fn how_long_it_takes_is_no_part_of_the_plan() {
    let mut later = leased();
    later.items.iter_mut().for_each(|item| item.lease_over_in = Some(Duration::ZERO));
    let (seen, then) = (plan(&unstated(), &leased()).unwrap(), plan(&unstated(), &later).unwrap());
    assert_eq!(seen.digest(), then.digest());
    assert_ne!(seen.digest(), plan(&spec(OPERATION), &leased()).unwrap().digest());
}

/// R-FO-7: each item goes on when its own lease is over, and not before; the same, told again or of something else, changes nothing.
#[test]
fn nothing_is_promoted_before_the_lease_has_ended() {
    let mut theatre = theatre();
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Running);
    assert!(
        run::waiting_for(&theatre.run).contains("activation lease"),
        "{}",
        run::waiting_for(&theatre.run)
    );
    let first = Generation::FIRST;
    let both: Vec<(ItemName, Generation)> = vec![(item("web1"), first), (item("db1"), first)];
    let mut awaited = awaited_leases(&theatre.run);
    awaited.sort_by(|a, b| b.cmp(a));
    assert_eq!(awaited, both);
    assert!(theatre.records.values().all(|record| record.generation == first), "switched too early");

    for event in [over(&theatre, "web1", first.next()), over(&theatre, "mail1", first)] {
        theatre.tell(&event);
        assert_eq!(awaited_leases(&theatre.run).len(), 2);
    }
    for _ in 0..2 {
        theatre.tell(&over(&theatre, "web1", first));
        theatre.until_quiet();
        assert_eq!(awaited_leases(&theatre.run), [(item("db1"), first)]);
        assert_eq!(theatre.records[&item("web1")].generation, first.next());
        assert_eq!(theatre.records[&item("db1")].generation, first);
    }
    theatre.tell(&over(&theatre, "db1", first));
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert!(run::outcomes(&theatre.run).iter().all(|outcome| outcome.error.is_none()));
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
}

/// R-FO-7: while a run rests on the end of a lease nobody gets it any more, also behind the wait; the new side's is another one.
#[test]
fn what_a_run_rests_on_is_not_granted() {
    let mut theatre = theatre();
    let (first, web1) = (Generation::FIRST, item("web1"));
    theatre.until_quiet();
    assert!(ends_lease(&theatre.run, &web1, first) && !ends_lease(&theatre.run, &web1, first.next()));
    assert!(!ends_lease(&theatre.run, &item("mail1"), first));
    for name in ["web1", "db1"] {
        theatre.tell(&over(&theatre, name, first));
    }
    theatre.until_quiet();
    assert!(ends_lease(&theatre.run, &web1, first), "the run goes on");
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert!(!ends_lease(&theatre.run, &web1, first), "the run has ended");
}

/// R-FO-4: until the switch it is nothing but waiting: cancelled, it has done nothing, and the lease may be granted again.
#[test]
fn a_run_that_is_cancelled_while_it_waits_has_done_nothing() {
    let mut theatre = theatre();
    theatre.until_quiet();
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Cancelled);
    assert!(theatre.records.values().all(|record| record.generation == Generation::FIRST));
    assert!(
        awaited_leases(&theatre.run).is_empty()
            && !ends_lease(&theatre.run, &item("web1"), Generation::FIRST)
    );
    theatre.tell(&over(&theatre, "web1", Generation::FIRST));
    assert_eq!(run::state(&theatre.run), RunState::Cancelled);
}
