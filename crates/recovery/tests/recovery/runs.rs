//! Whole runs without faults, and what is told of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use understudy_ids::{Generation, PointSeq, Problem, RunId};
use understudy_recovery::{
    Effect, Event, ItemState, Operation, RunSpec,
    action::{DiskRoot, StepResult},
    advance,
    conflict::OpenRun,
    plan::{PointView, SideView, plan},
    run::{self, RunState, RunVerb, StepState},
    test_network::TestNetwork,
};

use crate::{
    theatre::{Act, Theatre},
    world::{alpha, bravo, elsewhere, input, item, on_lab, on_production, planned, planned_as, spec, ways},
};

pub fn theatre(operation: Operation) -> Theatre {
    theatre_of(spec(operation))
}

pub fn theatre_of(spec: RunSpec) -> Theatre {
    Theatre::new(planned_as(&spec), spec)
}

fn ended(theatre: &Theatre) -> RunState {
    assert!(!theatre.run.is_open(), "{:#?}", theatre.run.steps);
    run::state(&theatre.run)
}

fn position(theatre: &Theatre, step: &str) -> usize {
    theatre
        .done
        .iter()
        .position(|done| done.as_str() == step)
        .unwrap_or_else(|| panic!("{step} was not done"))
}

/// R-REP-1: protected when the first point is there, not before.
#[test]
fn protecting_ends_with_the_first_point() {
    let mut theatre = theatre(Operation::Protect);
    for _ in 0..4 {
        theatre.perform(Act::Succeed);
    }
    assert_eq!(run::state(&theatre.run), RunState::Running);
    assert_eq!(run::waiting_for(&theatre.run), "The first recovery point of web1 at bravo/bravo-h1.");
    assert_eq!(theatre.records[&item("web1")].state, ItemState::InitialReplication);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert_eq!(theatre.records[&item("web1")].state, ItemState::Protected);
    theatre.assert_clean();
}

#[test]
fn a_first_point_of_another_generation_or_item_tells_nothing() {
    let mut theatre = theatre(Operation::Protect);
    for _ in 0..4 {
        theatre.perform(Act::Succeed);
    }
    for (name, generation) in [("web1", 2), ("other", 1)] {
        let event = Event::FirstPoint {
            item: item(name),
            seq: PointSeq::new(1),
            generation: Generation::new(generation),
            at: theatre.now,
        };
        let (after, effects) = advance(&theatre.run, &event).unwrap();
        assert_eq!((after, effects.len()), (theatre.run.clone(), 0));
    }
}

/// R-REP-8
#[test]
fn unprotecting_removes_the_item_and_the_replica_only_where_asked() {
    for delete_replica in [false, true] {
        let spec = RunSpec { delete_replica, ..spec(Operation::Unprotect) };
        let mut theatre = Theatre::new(plan(&spec, &input(Operation::Unprotect)).unwrap(), spec);
        theatre.until_quiet();
        assert_eq!(ended(&theatre), RunState::Succeeded);
        assert_eq!(theatre.records[&item("db1")].state, ItemState::Removed);
        assert_eq!(theatre.hosts[&bravo()].replicas.is_empty(), delete_replica);
        assert!(theatre.hosts[&alpha()].replicating.is_empty());
        assert_eq!(theatre.hosts[&alpha()].running.len(), 2, "the machines run on");
    }
}

/// R-TF-1, R-TF-5, R-TF-9, invariants 5 and 6
#[test]
fn a_test_proves_isolation_first_waits_for_people_and_leaves_nothing() {
    let mut theatre = theatre(Operation::TestFailover);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::CompleteTest, RunVerb::Cancel]);
    assert_eq!(theatre.hosts[&bravo()].test_machines.len(), 2);
    assert!(position(&theatre, "prove-isolation-0-0") < position(&theatre, "web1.create-machine"));
    assert_eq!(theatre.hosts[&alpha()].replicating.len(), 2, "replication goes on");
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.tested && !r.held));

    theatre.ask(RunVerb::CompleteTest);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert!(position(&theatre, "db1.remove-machine") < position(&theatre, "remove-network-0-0"));
    assert!(position(&theatre, "remove-network-0-0") < position(&theatre, "release-addresses"));
    theatre.assert_clean();

    let report = run::report(&theatre.run);
    assert_eq!(report.isolation.len(), 1);
    assert_eq!(report.isolation[0].tried.len(), 1);
    assert_eq!(report.approved_by.as_deref(), Some("ann"));
    assert_eq!(report.items[0].machine.as_str(), "web1-test-0a1b2c3d");
    assert_eq!(report.items[0].address.as_deref(), Some("192.168.50.11"));
    assert_eq!(report.rpo, None);
}

#[test]
fn a_test_without_network_connects_nothing() {
    let spec = RunSpec { test_network: TestNetwork::None, ..spec(Operation::TestFailover) };
    let mut theatre = Theatre::new(plan(&spec, &input(Operation::TestFailover)).unwrap(), spec);
    theatre.until_quiet();
    assert!(!theatre.leases && theatre.hosts[&bravo()].test_networks.is_empty());
    theatre.ask(RunVerb::CompleteTest);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    theatre.assert_clean();
}

/// R-TF-2, R-TF-5: a test on an existing network leaves nothing on it.
#[test]
fn a_test_on_an_existing_network_leaves_it_as_it_was() {
    let (spec, facts) = on_lab();
    let mut theatre = Theatre::new(plan(&spec, &facts).unwrap(), spec);
    theatre.until_quiet();
    assert!(theatre.leases && theatre.hosts[&bravo()].probe_ports.len() == 1);
    assert!(position(&theatre, "prove-isolation-0") < position(&theatre, "web1.create-machine"));
    theatre.ask(RunVerb::CompleteTest);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert!(position(&theatre, "db1.remove-machine") < position(&theatre, "remove-port-0"));
    theatre.assert_clean();
    assert_eq!(run::report(&theatre.run).isolation[0].tried.len(), 1);
}

/// R-TF-2: the record of a test on production says so.
#[test]
fn the_report_of_a_test_on_production_says_why() {
    let (spec, facts) = on_production();
    let mut theatre = Theatre::new(plan(&spec, &facts).unwrap(), spec);
    theatre.until_quiet();
    let report = run::report(&theatre.run);
    assert!(report.connected_to_production.unwrap().ends_with("which production uses: the shop is closed"));
    assert_eq!(report.isolation, []);
}

/// R-TF-9: something outside answered, so no machine is started, and the test is cleaned up.
#[test]
fn a_test_network_that_is_not_isolated_ends_the_test() {
    let mut theatre = theatre(Operation::TestFailover);
    theatre.perform(Act::Succeed);
    theatre.perform(Act::Succeed);
    let key = theatre.queue.pop_front().unwrap().key;
    let result = StepResult::Isolation {
        ports: vec![],
        tried: vec![[192, 168, 50, 1].into()],
        answered: vec![[192, 168, 50, 1].into()],
        method: "ping".to_owned(),
    };
    theatre.tell(&Event::StepSucceeded { key, result, at: theatre.now });
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Failed);
    assert_eq!(run::problems(&theatre.run)[0].reason, "NOT_ISOLATED");
    assert!(!theatre.done.iter().any(|step| step.as_str().ends_with("create-machine")));
    theatre.assert_clean();
}

/// R-PF-2, R-PF-4, R-FO-4, R-FO-5, invariant 7
#[test]
fn a_planned_failover_loses_nothing_and_ends_protected_in_reverse() {
    let mut theatre = theatre(Operation::PlannedFailover);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(
        run::allowed_actions(&theatre.run),
        [RunVerb::Commit, RunVerb::RollBack, RunVerb::SetDeadline]
    );
    assert!(theatre.records.values().all(|r| r.state == ItemState::CommitPending && r.active == bravo()));
    for last in ["web1.stop-replication", "db1.stop-replication"] {
        for first in ["web1.fence", "db1.fence", "web1.promote", "db1.promote"] {
            assert!(position(&theatre, last) < position(&theatre, first), "{first} before {last}");
        }
    }
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    for record in theatre.records.values() {
        assert_eq!((record.state, record.generation.get()), (ItemState::Protected, 2));
        assert_eq!(record.active, bravo());
    }
    assert_eq!(theatre.hosts[&bravo()].replicating.len(), 2);
    theatre.assert_clean();

    let report = run::report(&theatre.run);
    assert_eq!(report.rpo, Some(Duration::ZERO));
    assert!(
        report.items.iter().all(|item| item.disks.iter().all(|disk| disk.equal) && !item.disks.is_empty())
    );
    let downtime = report.items[0].downtime.unwrap();
    assert!(downtime > Duration::ZERO && report.rto.unwrap() >= downtime);
    assert_eq!(report.items[0].point, Some(PointSeq::new(22)));
    assert_eq!(report.items[0].loss_span, None);
    assert_eq!(run::job_view(&theatre.run).progress_percent, 100);
}

/// R-FO-5: reverse replication can be declined.
#[test]
fn reverse_replication_can_be_declined() {
    let spec = RunSpec { no_reverse_replication: true, ..spec(Operation::PlannedFailover) };
    let mut theatre = Theatre::new(plan(&spec, &input(Operation::PlannedFailover)).unwrap(), spec);
    theatre.until_quiet();
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert!(theatre.records.values().all(|r| r.state == ItemState::NotProtected));
    assert!(theatre.hosts.values().all(|host| host.replicating.is_empty()));
}

/// R-PF-2: one bit of difference stops the run before anything irreversible, and cancelling puts everything back.
#[test]
fn unequal_digests_stop_a_planned_failover_before_its_point_of_no_return() {
    let mut theatre = theatre(Operation::PlannedFailover);
    while theatre.queue.front().is_none_or(|task| task.step.as_str() != "web1.verify") {
        theatre.perform(Act::Succeed);
    }
    let key = theatre.queue.pop_front().unwrap().key;
    let root = format!("{}ac", "ab".repeat(31));
    let result = StepResult::DiskDigests(vec![DiskRoot { disk: "vda".parse().unwrap(), root }]);
    theatre.tell(&Event::StepSucceeded { key, result, at: theatre.now });
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Failed);
    assert_eq!(run::problems(&theatre.run)[0].reason, "DIGESTS_DIFFER");
    assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::Cancel, RunVerb::Retry]);
    assert!(!run::outcomes(&theatre.run)[0].disks[0].equal);
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Cancelled);
    assert_eq!(theatre.hosts[&alpha()].running.len(), 2);
    assert_eq!(theatre.hosts[&alpha()].replicating.len(), 2);
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.generation.get() == 1));
    theatre.assert_clean();
}

/// R-UF-1, R-UF-2, R-FO-5, invariant 8. The theatre refuses every step that is sent to the dead side.
#[test]
fn an_unplanned_failover_speaks_to_the_living_side_only_and_loses_what_it_announced() {
    let operation = Operation::UnplannedFailover;
    let announced = planned(operation).estimates[&item("web1")].clone();
    assert_eq!(announced.point, Some(PointSeq::new(20)));
    assert_eq!(announced.expected_loss, Some(Duration::from_secs(10)));
    let mut theatre = theatre(operation);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert!(theatre.records.values().all(|r| r.state == ItemState::NotProtected && r.active == bravo()));
    let report = run::report(&theatre.run);
    assert_eq!(report.items[0].point, announced.point);
    assert_eq!(report.items[0].loss_span, announced.expected_loss);
    assert_eq!(report.rpo, announced.expected_loss);
    assert_eq!(report.primary_down_assertion.as_deref(), Some("the building is dark"));
    theatre.assert_clean();
}

/// R-UF-4: the item with the error is shown and the others go on; it can be tried again before the commit.
#[test]
fn an_unplanned_failover_goes_on_with_the_other_items() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    theatre.play(|step, _| if step.as_str() == "web1.promote" { Act::Fail } else { Act::Succeed });
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    let decisions = [RunVerb::Commit, RunVerb::ChangePoint, RunVerb::RollBack];
    let failed = [&decisions[..], &[RunVerb::Retry, RunVerb::SetDeadline]].concat();
    assert_eq!(run::allowed_actions(&theatre.run), failed);
    assert_eq!(theatre.records[&item("web1")].state, ItemState::Failed);
    assert_eq!(theatre.records[&item("db1")].state, ItemState::CommitPending);

    theatre.ask(RunVerb::Retry);
    theatre.until_quiet();
    assert_eq!(theatre.records[&item("web1")].state, ItemState::CommitPending);
    assert_eq!(run::allowed_actions(&theatre.run), [&decisions[..], &[RunVerb::SetDeadline]].concat());
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
}

/// R-UF-4: committed with an item that failed; that item can be failed over by another run, at the side that is active by now.
#[test]
fn an_item_that_failed_for_good_can_be_failed_over_anew() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    theatre.play(|step, _| if step.as_str() == "web1.promote" { Act::Fail } else { Act::Succeed });
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::CompletedWithErrors);
    assert_eq!(run::outcomes(&theatre.run)[0].error.as_ref().unwrap().reason, "BROKEN");
    assert_eq!(theatre.records[&item("db1")].state, ItemState::NotProtected);
    let record = theatre.records[&item("web1")].clone();
    assert_eq!(record.state, ItemState::Failed);

    let mut facts = input(Operation::UnplannedFailover);
    facts.items[0].state = record.state;
    facts.items[0].generation = record.generation;
    (facts.items[0].active_host, facts.items[0].standby_host) = (bravo(), alpha());
    let again = RunSpec { items: vec![item("web1")], ..spec(Operation::UnplannedFailover) };
    let plan = plan(&again, &facts).unwrap();
    assert_eq!((plan.items[0].target_host.clone(), plan.items[0].generation.get()), (bravo(), 3));
}

#[test]
fn an_unplanned_failover_in_which_every_item_fails_ends_by_itself() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    theatre.play(|step, _| if step.as_str().ends_with(".promote") { Act::Fail } else { Act::Succeed });
    assert_eq!(ended(&theatre), RunState::CompletedWithErrors);
    assert!(theatre.records.values().all(|r| r.state == ItemState::Failed));
    theatre.assert_clean();
}

/// R-UF-5
#[test]
fn reverse_replication_fences_the_old_side_before_it_takes_its_disks() {
    let mut theatre = theatre(Operation::ReverseReplicate);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
    assert!(position(&theatre, "web1.fence") < position(&theatre, "web1.adopt-disks"));
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.generation.get() == 2));
}

/// R-FB-3: another host than the old one, which is told its place where it is heard, and is not waited for where it is not.
#[test]
fn another_host_can_become_the_standby_side() {
    let operation = Operation::ReverseReplicate;
    let spec = RunSpec { standby_host: Some(elsewhere()), ..spec(operation) };
    for heard in [true, false] {
        let mut facts = input(operation);
        facts.hosts.get_mut(&alpha()).unwrap().connected = heard;
        let mut theatre = Theatre::new(plan(&spec, &facts).unwrap(), spec.clone());
        theatre.host(&alpha()).dead = !heard;
        theatre.until_quiet();
        assert_eq!(ended(&theatre), RunState::Succeeded);
        for name in ["web1", "db1"] {
            let done = |what: &str| theatre.done.contains(&format!("{name}.{what}").parse().unwrap());
            assert_eq!(done("fence-old-side"), heard);
            assert!(!done("adopt-disks") && !done("fence"), "there is nothing of it at {}", elsewhere());
            let record = &theatre.records[&item(name)];
            assert_eq!((record.state, record.generation.get()), (ItemState::Protected, 2));
            assert_eq!((&record.active, &record.standby), (&bravo(), &elsewhere()));
            assert!(theatre.hosts[&elsewhere()].replicas.contains(&item(name)));
        }
    }
}

/// R-FB-3: given up on the way, the item is not protected, and the next attempt goes to the same host; what lies there already is taken.
#[test]
fn an_attempt_at_another_host_can_be_given_up_and_taken_up_again() {
    let operation = Operation::ReverseReplicate;
    let elsewhere_spec = RunSpec { standby_host: Some(elsewhere()), ..spec(operation) };
    let mut theatre = Theatre::new(plan(&elsewhere_spec, &input(operation)).unwrap(), elsewhere_spec);
    theatre.play(|step, _| if step.as_str() == "web1.start-reverse" { Act::Fail } else { Act::Succeed });
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Cancelled);
    let record = &theatre.records[&item("web1")];
    assert_eq!((record.state, &record.standby), (ItemState::NotProtected, &elsewhere()));

    let mut facts = input(operation);
    for view in &mut facts.items {
        view.standby_host = elsewhere();
        let side = SideView { generation: view.generation, fenced: false, machine: None };
        view.sides = [(elsewhere(), side)].into();
    }
    let again = plan(&spec(operation), &facts).unwrap();
    let has = |what: &str| again.steps.iter().any(|step| step.id.as_str() == format!("web1.{what}"));
    assert!(has("fence") && !has("adopt-disks") && !has("set-standby"), "there is no machine to adopt");
    let base = PointView { host: elsewhere(), is_base: true, ..facts.items[0].points[0].clone() };
    facts.items[0].points.push(base);
    let again = plan(&spec(operation), &facts).unwrap();
    assert!(
        again.steps.iter().any(|step| step.id.as_str() == "web1.adopt-disks"),
        "a base is taken up again"
    );
}

/// R-FO-5: the failover is final, and its reverse replication fails or is given up: the item is not protected, and says so.
#[test]
fn reverse_replication_that_fails_or_is_given_up_leaves_the_item_unprotected() {
    let mut theatre = theatre(Operation::PlannedFailover);
    theatre.until_quiet();
    theatre.ask(RunVerb::Commit);
    theatre
        .play(|step, _| if step.as_str() == "web1.start-reverse" { Act::UnknownDone } else { Act::Succeed });
    assert_eq!(ended(&theatre), RunState::CompletedWithErrors);
    assert_eq!(theatre.records[&item("web1")].state, ItemState::NotProtected);
    assert!(!theatre.hosts[&bravo()].replicating.contains(&item("web1")), "nobody knows of this replication");
    assert_eq!(theatre.records[&item("db1")].state, ItemState::Protected);

    let mut theatre = self::theatre(Operation::PlannedFailover);
    theatre.until_quiet();
    theatre.ask(RunVerb::Commit);
    while theatre.queue.front().is_some() {
        theatre.perform(Act::Succeed);
    }
    assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::Cancel]);
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::CompletedWithErrors);
    assert!(theatre.records.values().all(|r| r.state == ItemState::NotProtected));
    assert!(theatre.hosts[&bravo()].replicating.is_empty());
}

/// Every verb that is not allowed is refused with the reason, and changes nothing.
#[test]
fn verbs_that_are_not_allowed_are_refused_with_what_is() {
    for way in ways() {
        let mut theatre = theatre_of(way);
        theatre.until_quiet();
        let allowed = run::allowed_actions(&theatre.run);
        for verb in RunVerb::ALL.into_iter().filter(|verb| !allowed.contains(verb)) {
            let event = Event::Operator { verb, by: "eve".to_owned(), at: theatre.now };
            let refusal = advance(&theatre.run, &event).unwrap_err();
            assert_eq!(refusal.allowed, allowed);
            assert!(!refusal.reason.is_empty());
        }
    }
}

/// Plan and run survive being stored, at every step of every operation.
#[test]
fn a_run_that_was_stored_goes_on_as_if_it_had_not_been() {
    for way in ways() {
        let mut theatre = theatre_of(way);
        while theatre.queue.front().is_some() {
            let text = serde_json::to_string(&theatre.run).unwrap();
            let stored: understudy_recovery::Run = serde_json::from_str(&text).unwrap();
            assert_eq!(stored, theatre.run);
            theatre.run = stored;
            theatre.perform(Act::Succeed);
        }
        let report = run::report(&theatre.run);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<run::Report>(&text).unwrap(), report);
    }
}

/// R-TF-7: a real failover does not wait for anybody to complete a test. It ends it, says so beforehand, and goes on whatever becomes of it.
#[test]
fn a_real_failover_ends_the_tests_of_its_items() {
    let test = RunId::from_u128(7);
    let open = OpenRun {
        id: test,
        operation: Operation::TestFailover,
        items: vec![item("web1"), item("other")],
        rolls_back: false,
        rehearsed: BTreeMap::new(),
    };
    for (operation, in_time) in [
        (Operation::PlannedFailover, true),
        (Operation::PlannedFailover, false),
        (Operation::UnplannedFailover, true),
        (Operation::UnplannedFailover, false),
    ] {
        let mut facts = input(operation);
        facts.open_runs = vec![open.clone()];
        let with_test = plan(&spec(operation), &facts).unwrap();
        assert!(with_test.notices[0].contains("of web1, other is ended first"), "{:?}", with_test.notices);
        let mut theatre = Theatre::new(with_test, spec(operation));
        theatre.until_quiet();
        assert!(theatre.done.is_empty(), "{operation}: begun before the test was over");
        assert_eq!(theatre.ended_tests, [test].into());
        let [(step, tests)] = &run::awaited_tests(&theatre.run)[..] else { panic!("it waits for nothing") };
        assert_eq!((step.as_str(), *tests), ("end-tests", &[test].into()));
        let step = step.clone();
        let event = if in_time {
            Event::TestsEnded { step, at: theatre.now }
        } else {
            theatre.tick(3600);
            assert!(run::overdue(&theatre.run, theatre.now).contains(&step));
            Event::StepTimedOut { step, at: theatre.now }
        };
        theatre.tell(&event);
        theatre.until_quiet();
        theatre.ask(RunVerb::Commit);
        theatre.until_quiet();
        let state = if in_time { RunState::Succeeded } else { RunState::CompletedWithErrors };
        assert_eq!(ended(&theatre), state, "{operation}");
        let told = run::problems(&theatre.run).into_iter().map(|problem| problem.reason).collect::<Vec<_>>();
        assert_eq!(told, if in_time { vec![] } else { vec!["TESTS_NOT_ENDED".to_owned()] });
        let before = position(&theatre, "web1.start");
        assert!(theatre.done.len() > before && theatre.records.values().all(|r| r.active == bravo()));
    }
}

/// R-TF-7: the machines of a test go on as production, then the test ends. Where one of them could not be had, the test is kept with what it has.
#[test]
fn the_machines_of_a_test_can_be_promoted() {
    let (operation, test) = (Operation::UnplannedFailover, RunId::from_u128(7));
    let mut facts = input(operation);
    let items = vec![item("web1"), item("db1")];
    let rehearsed = items.iter().map(|item| (item.clone(), PointSeq::new(19))).collect();
    facts.open_runs =
        vec![OpenRun { id: test, operation: Operation::TestFailover, items, rolls_back: false, rehearsed }];
    let spec = RunSpec { promote_test: Some(test), ..spec(operation) };
    let promoted = plan(&spec, &facts).unwrap();
    assert!(promoted.notices[0].contains("go on as production"), "{:?}", promoted.notices);
    assert!(promoted.estimates.values().all(|estimate| estimate.point == Some(PointSeq::new(19))));
    assert!(
        !promoted.steps.iter().any(|step| step.id.as_str() == "end-tests"),
        "it would end before it is promoted"
    );
    for fails in [false, true] {
        let mut theatre = Theatre::new(promoted.clone(), spec.clone());
        theatre
            .play(|step, _| if fails && step.as_str() == "db1.promote" { Act::Fail } else { Act::Succeed });
        assert_eq!(theatre.ended_tests, if fails { BTreeSet::new() } else { [test].into() });
        let told = |theatre: &Theatre| {
            run::problems(&theatre.run).into_iter().map(|problem| problem.reason).collect::<Vec<_>>()
        };
        assert_eq!(told(&theatre).contains(&"TEST_KEPT".to_owned()), fails);
        if fails {
            theatre.ask(RunVerb::Retry);
            theatre.until_quiet();
            assert_eq!(theatre.ended_tests, [test].into(), "all are promoted, and the test is kept still");
        }
        theatre.tell(&Event::TestsEnded { step: "end-promoted-test".parse().unwrap(), at: theatre.now });
        theatre.until_quiet();
        theatre.ask(RunVerb::Commit);
        theatre.until_quiet();
        let told = told(&theatre);
        assert_eq!((ended(&theatre), told), (RunState::Succeeded, Vec::new()));
        let web1 =
            run::outcomes(&theatre.run).into_iter().find(|outcome| outcome.item == item("web1")).unwrap();
        assert_eq!(web1.point, Some(PointSeq::new(19)));
    }
}

/// R-TF-7: nobody waits for a test whose clean-up has come to a standstill, and nobody ends it a second time.
#[test]
fn a_test_that_cannot_be_cleaned_up_is_not_on_its_way() {
    let mut theatre = theatre(Operation::TestFailover);
    theatre.until_quiet();
    assert!(theatre.run.is_on_its_way());
    assert_eq!(run::ends_test(&theatre.run), Some(RunVerb::CompleteTest));
    theatre.ask(RunVerb::CompleteTest);
    assert!(theatre.run.is_on_its_way() && run::ends_test(&theatre.run).is_none());
    theatre.play(|step, _| if step.as_str() == "web1.remove-machine" { Act::Fail } else { Act::Succeed });
    assert!(theatre.run.is_open() && !theatre.run.is_on_its_way());
    theatre.ask(RunVerb::Retry);
    assert!(theatre.run.is_on_its_way());
    theatre.until_quiet();
    assert_eq!(ended(&theatre), RunState::Succeeded);
}

/// What many machines do at the same time is told together, and comes to the same end in fewer steps.
#[test]
fn what_is_told_together_comes_to_the_same_end() {
    for operation in Operation::ALL {
        let (mut one_by_one, mut together) = (theatre(operation), theatre(operation));
        one_by_one.until_quiet();
        while !together.queue.is_empty() {
            together.perform_together();
        }
        together.until_quiet();
        let done = |theatre: &Theatre| BTreeSet::from_iter(theatre.done.clone());
        assert_eq!(done(&together), done(&one_by_one), "{operation}");
        assert_eq!(together.done.len(), one_by_one.done.len(), "{operation}: done twice");
        assert_eq!(run::state(&together.run), run::state(&one_by_one.run), "{operation}");
        let states = |theatre: &Theatre| theatre.records.values().map(|r| r.state).collect::<Vec<_>>();
        assert_eq!(states(&together), states(&one_by_one), "{operation}");
        if one_by_one.records.len() > 1 {
            assert!(together.run.sequence < one_by_one.run.sequence, "{operation} was gone through as often");
        }
    }
}

/// R-PF-3: what has come home with the first error is kept, and nothing is begun because of it.
#[test]
fn an_error_among_what_is_told_together_stops_the_run_before_the_next_step() {
    let mut theatre = theatre(Operation::PlannedFailover);
    while !theatre.queue.iter().all(|task| task.step.as_str().ends_with(".shut-down")) {
        theatre.perform(Act::Succeed);
    }
    let tasks = Vec::from(theatre.queue.clone());
    assert_eq!(tasks.len(), 2, "{tasks:?}");
    let problem = Problem::new("BROKEN", "web1", "it broke", "Try again.");
    let at = theatre.now;
    let stopped = StepResult::MachineStopped { by_guest: true, time: at };
    let failed = Event::StepFailed { key: tasks[0].key.clone(), problem, unknown: false, at };
    let succeeded = Event::StepSucceeded { key: tasks[1].key.clone(), result: stopped, at };
    for events in [[failed.clone(), succeeded.clone()], [succeeded, failed]] {
        let (run, effects) = run::advance_all(&theatre.run, &events).unwrap();
        assert_eq!(run::state(&run), RunState::Failed);
        assert_eq!(run.steps[&tasks[1].step].state, StepState::Succeeded);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Enqueue { .. })), "{effects:?}");
    }
}

/// A decision among what happened is about the run as it is then: the commit is admitted because the last machine has started before.
#[test]
fn a_decision_is_taken_where_it_stands_among_what_happened() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    while let Some(task) = theatre.queue.front().cloned() {
        theatre.tick(1);
        let commit = Event::Operator { verb: RunVerb::Commit, by: "ann".to_owned(), at: theatre.now };
        let result = theatre.work(&task).unwrap();
        let done = Event::StepSucceeded { key: task.key, result, at: theatre.now };
        let (after, _) = advance(&theatre.run, &done).unwrap();
        let admitted = run::allowed_actions(&after).contains(&RunVerb::Commit);
        assert_eq!(run::advance_all(&theatre.run, &[done.clone(), commit.clone()]).is_ok(), admitted);
        if admitted {
            assert!(run::advance_all(&theatre.run, &[commit, done]).is_err(), "committed too early");
            return;
        }
        theatre.perform(Act::Succeed);
    }
    panic!("the run never waits for its commit");
}
