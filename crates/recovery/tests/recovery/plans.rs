//! What plans consist of.

use std::{collections::BTreeSet, time::Duration};

use understudy_ids::{Consistency, Generation, PointChoice, PointSeq, UnixMicros};
use understudy_recovery::{
    Operation, PlanInput, RunPlan, RunSpec,
    action::{Action, AgentWork, Internal, NetworkRef, NetworkWork, PointRef},
    instant::Instant,
    item::ItemState,
    plan::{Executor, Flaw, Power, Synchronise, lint, plan},
    test_network::TestNetwork,
};

use understudy_replication::{Joint, Membership};

use crate::world::{LAB, alpha, bravo, elsewhere, input, item, on_lab, on_production, planned, spec, ways};

/// Every operation with every option that changes its plan.
fn all() -> Vec<(RunSpec, PlanInput)> {
    let mut all: Vec<_> = ways().into_iter().map(|way| (way.clone(), input(way.operation))).collect();
    let with = |op, change: &dyn Fn(&mut RunSpec, &mut PlanInput)| {
        let (mut spec, mut input) = (spec(op), input(op));
        change(&mut spec, &mut input);
        (spec, input)
    };
    all.push(with(Operation::Unprotect, &|spec, _| spec.delete_replica = true));
    all.push(with(Operation::Unprotect, &|_, facts| {
        facts.items.iter_mut().for_each(|item| item.state = ItemState::NotProtected);
    }));
    all.push(with(Operation::TestFailover, &|spec, _| spec.test_network = TestNetwork::None));
    all.extend([on_lab(), on_production()]);
    all.push(with(Operation::TestFailover, &|spec, _| {
        spec.points = [(item("web1"), PointChoice::Seq(PointSeq::new(19)))].into();
    }));
    all.push(with(Operation::PlannedFailover, &|spec, _| spec.no_reverse_replication = true));
    all.push(with(Operation::PlannedFailover, &|_, facts| facts.items[0].machine.power = Power::ShutOff));
    all.push(with(Operation::PlannedFailover, &|_, facts| facts.connections = Default::default()));
    all.push(with(Operation::UnplannedFailover, &|_, facts| facts.connections = Default::default()));
    all.push(with(Operation::UnplannedFailover, &|_, facts| {
        for item in &mut facts.items {
            item.state = ItemState::Failed;
            item.generation = Generation::new(2);
            (item.active_host, item.standby_host) = (bravo(), alpha());
        }
    }));
    all.push(with(Operation::ReverseReplicate, &|spec, _| spec.standby_host = Some(elsewhere())));
    all.push(with(Operation::Failback, &|spec, _| spec.standby_host = Some(elsewhere())));
    all.push(with(Operation::Failback, &|spec, _| {
        (spec.synchronise, spec.standby_host) = (Synchronise::During, Some(elsewhere()));
    }));
    all
}

#[test]
fn every_plan_is_in_order() {
    for (spec, input) in all() {
        let plan = plan(&spec, &input).unwrap_or_else(|problems| panic!("{spec:?}: {problems:#?}"));
        assert_eq!(lint(&plan), [], "{spec:?}");
        assert!(plan.steps.len() >= spec.items.len());
        for planned in &plan.items {
            assert!(plan.steps.iter().any(|step| step.item.as_ref() == Some(&planned.item)));
        }
    }
}

/// The lint is worth something: it finds what is taken out of a plan that was in order.
#[test]
fn the_lint_finds_what_is_wrong() {
    let broken = |change: &dyn Fn(&mut RunPlan)| {
        let mut plan = planned(Operation::PlannedFailover);
        change(&mut plan);
        lint(&plan)
    };
    let index = |plan: &RunPlan, id: &str| plan.steps.iter().position(|step| step.id.as_str() == id).unwrap();

    let flaws = broken(&|plan| plan.steps.retain(|step| step.id.as_str() != "release-addresses"));
    assert_eq!(flaws, [Flaw::NoCleanUp("reserve-addresses".parse().unwrap())]);
    let flaws = broken(&|plan| {
        let raise = index(plan, "web1.raise-generation");
        plan.steps[raise].point_of_no_return = false;
    });
    assert_eq!(flaws, [Flaw::WronglyMarked("web1.raise-generation".parse().unwrap())]);
    let flaws = broken(&|plan| {
        let first = index(plan, "web1.shut-down");
        plan.steps[first].after.push("web1.start".parse().unwrap());
    });
    assert!(flaws.iter().any(|flaw| matches!(flaw, Flaw::NotBefore { .. })), "a cycle: {flaws:?}");
    let flaws = broken(&|plan| {
        let copy = plan.steps[0].clone();
        plan.steps.push(copy);
    });
    assert_eq!(flaws, [Flaw::Twice("reserve-addresses".parse().unwrap())]);
    let flaws = broken(&|plan| plan.steps[0].executor = Executor::Operator);
    assert_eq!(flaws, [Flaw::WrongExecutor("reserve-addresses".parse().unwrap())]);
    let flaws = broken(&|plan| plan.steps[0].time_out = None);
    assert_eq!(flaws, [Flaw::NoTimeOut("reserve-addresses".parse().unwrap())]);
}

/// R-FO-2: the digest names what will be done. Time passing and points arriving do not change it; what is done does.
#[test]
fn the_digest_is_about_what_will_be_done_only() {
    for operation in Operation::ALL {
        let (spec, facts) = (spec(operation), input(operation));
        let digest = |facts: &PlanInput| plan(&spec, facts).unwrap().digest();
        let first = digest(&facts);
        assert_eq!((first.len(), &first), (64, &digest(&facts)));
        let mut later = facts.clone();
        later.now = later.now.plus(Duration::from_secs(60));
        for item in &mut later.items {
            item.highest_point = Some(PointSeq::new(40));
            if let Some(last) = item.points.last().cloned() {
                item.points.push(understudy_recovery::plan::PointView { seq: PointSeq::new(39), ..last });
            }
        }
        assert_eq!(digest(&later), first, "{operation}: points arrive all the time");
        let mut other = facts.clone();
        other.items[0].generation = other.items[0].generation.next();
        assert_ne!(digest(&other), first, "{operation}");
    }
    let operation = Operation::PlannedFailover;
    let mut moved = input(operation);
    moved.connections.nics[0].address = Some([192, 168, 50, 99].into());
    assert_ne!(plan(&spec(operation), &moved).unwrap().digest(), planned(operation).digest());
}

/// R-REP-12: each of several groups of a run has its own instant.
#[test]
fn items_of_two_groups_keep_the_instant_of_their_own() {
    for operation in [Operation::TestFailover, Operation::UnplannedFailover] {
        let (mut facts, mut asked) = (input(operation), spec(operation));
        let others: Vec<_> = facts.items.clone();
        for (mut view, name) in others.into_iter().zip(["web2", "db2"]) {
            (view.name, view.machine.name) = (item(name), name.parse().unwrap());
            asked.items.push(item(name));
            facts.items.push(view);
        }
        for (view, group) in facts.items.iter_mut().zip(["bank", "bank", "shop", "shop"]) {
            let members: std::collections::BTreeSet<_> = match group {
                "bank" => ["web1", "db1"].map(item).into(),
                _ => ["web2", "db2"].map(item).into(),
            };
            view.group = Some(Membership { group: group.parse().unwrap(), members: members.clone() });
            // The older of two points is the shared one.
            view.points[0].joint = Some(Joint {
                group: group.parse().unwrap(),
                instant: UnixMicros::new(1),
                members,
                pause: Duration::from_millis(200),
            });
        }
        let planned = plan(&asked, &facts).unwrap();
        let used: Vec<_> =
            asked.items.iter().map(|name| planned.estimates[name].point.unwrap().get()).collect();
        assert_eq!(used, [19; 4], "{operation}");
    }
}

/// R-REP-12, R-UF-3: where nobody chose a point, items of a group go by the newest instant that all of them have; who is left out is said.
#[test]
fn items_of_a_group_fail_over_to_an_instant_that_they_share() {
    let shop = |members: &[&str]| Membership {
        group: "shop".parse().unwrap(),
        members: members.iter().map(|name| item(name)).collect(),
    };
    let joint = |instant: i64| Joint {
        group: "shop".parse().unwrap(),
        instant: UnixMicros::new(instant),
        members: ["db1", "web1"].map(item).into(),
        pause: Duration::from_millis(200),
    };
    // Points 19 and 20 of web1, 19 and 20 of db1; `None`: of its own instant.
    let scene = |operation, web1: [Option<i64>; 2], db1: [Option<i64>; 2], members: &[&str]| {
        let mut facts = input(operation);
        for (view, instants) in facts.items.iter_mut().zip([web1, db1]) {
            view.group = Some(shop(members));
            for (point, instant) in view.points.iter_mut().zip(instants) {
                point.joint = instant.map(joint);
            }
        }
        facts
    };
    type Row = ([Option<i64>; 2], [Option<i64>; 2], [u64; 2], usize);
    let table: [Row; 4] = [
        // The newest of db1 has no counterpart; neither has a point of web1's own.
        ([Some(1), None], [Some(1), Some(2)], [19, 19], 0),
        ([Some(1), Some(2)], [Some(1), Some(2)], [20, 20], 0),
        ([None, Some(2)], [Some(2), None], [20, 19], 0),
        // Nothing in common: the latest of each, and that is said.
        ([Some(1), None], [None, Some(2)], [20, 20], 1),
    ];
    for operation in [Operation::TestFailover, Operation::UnplannedFailover] {
        for (web1, db1, expected, notices) in table {
            let facts = scene(operation, web1, db1, &["db1", "web1"]);
            let planned = plan(&spec(operation), &facts).unwrap();
            let used = ["web1", "db1"].map(|name| planned.estimates[&item(name)].point.unwrap().get());
            assert_eq!(used, expected, "{operation} {web1:?} {db1:?}");
            assert_eq!(planned.notices.len(), notices, "{:?}", planned.notices);
        }
        // A point that was chosen is the one that is used.
        let facts = scene(operation, [Some(1), None], [Some(1), Some(2)], &["db1", "web1"]);
        let mut chosen = spec(operation);
        chosen.points.insert(item("web1"), PointChoice::Seq(PointSeq::new(20)));
        let planned = plan(&chosen, &facts).unwrap();
        assert_eq!(planned.estimates[&item("web1")].point, Some(PointSeq::new(20)));
        // Points that arrive are no other plan, although another instant is used by then.
        let before = plan(&spec(operation), &facts).unwrap();
        let later = scene(operation, [Some(1), Some(2)], [Some(1), Some(2)], &["db1", "web1"]);
        assert_eq!(plan(&spec(operation), &later).unwrap().digest(), before.digest(), "{operation}");
        // Who is not asked for is named, and refused is nothing.
        let facts = scene(operation, [Some(1), None], [Some(1), Some(2)], &["db1", "mail1", "web1"]);
        let planned = plan(&spec(operation), &facts).unwrap();
        assert!(planned.notices[0].contains("mail1") && planned.notices.len() == 1, "{:?}", planned.notices);
    }
    let facts = scene(Operation::PlannedFailover, [Some(1), None], [Some(1), None], &["mail1"]);
    assert!(plan(&spec(Operation::PlannedFailover), &facts).unwrap().notices.is_empty());
}

/// Invariant 7: every source is off, shipped and compared before the first generation is raised.
#[test]
fn nothing_irreversible_comes_before_the_last_possible_error_of_any_item() {
    let plan = planned(Operation::PlannedFailover);
    let raises: Vec<_> = plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::Internal(Internal::RaiseGeneration { .. })))
        .collect();
    assert_eq!(raises.len(), 2);
    for raise in raises {
        let mut before = BTreeSet::new();
        let mut open = vec![raise.id.clone()];
        while let Some(id) = open.pop() {
            if before.insert(id.clone()) {
                open.extend(plan.step(&id).unwrap().after.iter().cloned());
            }
        }
        for item in ["web1", "db1"] {
            for what in ["shut-down", "sync-final", "digest", "verify", "compare-digests", "stop-replication"]
            {
                assert!(
                    before.contains(&format!("{item}.{what}").parse().unwrap()),
                    "{} before {what}",
                    raise.id
                );
            }
        }
    }
}

/// R-FO-7: every step behind the switch carries the new generation, every step before it the old one.
#[test]
fn steps_carry_the_generation_of_their_side_of_the_switch() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover] {
        for step in planned(operation).steps {
            if let Action::Agent { generation, .. } = step.action {
                let expected = if step.point_of_no_return { 2 } else { 1 };
                assert_eq!(generation.get(), expected, "{}", step.id);
            }
        }
    }
}

/// R-UF-1
#[test]
fn an_unplanned_failover_has_no_step_at_the_old_side() {
    for step in planned(Operation::UnplannedFailover).steps {
        assert_ne!(step.executor, Executor::Host(alpha()), "{}", step.id);
    }
}

/// R-TF-1, R-TF-3, R-TF-4, invariant 5: at the replica's host only, on a network of its own, from the chosen point.
#[test]
fn a_test_touches_the_standby_side_only() {
    let mut spec = spec(Operation::TestFailover);
    spec.points = [(item("web1"), PointChoice::Seq(PointSeq::new(19)))].into();
    let plan = plan(&spec, &input(Operation::TestFailover)).unwrap();
    let mut created = 0;
    for step in &plan.steps {
        assert_ne!(step.executor, Executor::Host(alpha()), "{}", step.id);
        let Action::Agent { item: of, work, .. } = &step.action else { continue };
        match work {
            AgentWork::CreateTestMachine { point, nics, .. } => {
                let chosen = PointRef::Seq(PointSeq::new(19));
                let expected = if *of == item("web1") { chosen } else { PointRef::Latest };
                assert_eq!((point, nics.as_slice()), (&expected, [NetworkRef::Test(0)].as_slice()));
                created += 1;
            }
            AgentWork::EnsureTestNetwork { reservations, .. } => {
                let addresses: Vec<String> = reservations.iter().map(|r| r.address.to_string()).collect();
                assert_eq!(addresses, ["192.168.50.11", "192.168.50.12"], "as a real failover would give");
            }
            _ => {}
        }
    }
    assert_eq!(created, 2);
    assert_eq!(plan.items[0].connections[0].network, "test network standing for sites/bravo/networks/prod");
}

/// R-TF-2, R-TF-4, R-TF-9: on an existing network nothing is made; a port on it looks for production first, from an address that the run
/// holds as it would in production, and is taken away whatever becomes of the test.
#[test]
fn a_test_on_an_existing_network_looks_for_production_from_it() {
    let (spec, facts) = on_lab();
    let plan = plan(&spec, &facts).unwrap();
    let mut machines = 0;
    for step in &plan.steps {
        match &step.action {
            Action::Network(NetworkWork::ReserveAddresses { test, nics, test_networks }) => {
                let held: Vec<String> =
                    nics.iter().map(|nic| format!("{} {}", nic.network, nic.address)).collect();
                let expected = [11, 12, 254].map(|last| format!("{LAB} 192.168.50.{last}"));
                assert_eq!((test, held.as_slice(), test_networks.len()), (&false, expected.as_slice(), 0));
            }
            Action::Agent { work: AgentWork::ProbeExistingNetwork(probe), .. } => {
                assert_eq!(probe.targets, [std::net::IpAddr::from([192, 168, 50, 5])]);
                assert_eq!((probe.planned.len(), probe.network.as_str()), (2, "lab"));
                assert_eq!(step.after[0].as_str(), "reserve-addresses");
            }
            Action::Agent { work: AgentWork::CreateTestMachine { nics, .. }, .. } => {
                assert_eq!(nics.as_slice(), [NetworkRef::Named("lab".parse().unwrap())]);
                assert!(step.after.iter().any(|id| id.as_str() == "prove-isolation-0"), "{:?}", step.after);
                machines += 1;
            }
            Action::Agent { work: AgentWork::EnsureTestNetwork { .. }, .. } => panic!("a network is made"),
            _ => {}
        }
    }
    assert_eq!(machines, 2);
    let remove = plan.steps.iter().find(|step| step.id.as_str() == "remove-port-0").unwrap();
    assert_eq!(remove.undoes[0].as_str(), "prove-isolation-0");
    assert!(remove.after.iter().any(|id| id.as_str() == "web1.remove-machine"), "{:?}", remove.after);
    assert_eq!((plan.items[0].connections[0].network.as_str(), plan.notices.len()), (LAB, 0));
}

/// R-TF-2: production is looked for by nobody where it is meant, and whoever reads the plan is told.
#[test]
fn a_test_on_production_is_marked_as_one() {
    let (spec, facts) = on_production();
    let plan = plan(&spec, &facts).unwrap();
    assert!(plan.steps.iter().all(|step| !step.id.as_str().starts_with("prove-isolation")));
    let expected = "connected to sites/bravo/networks/prod, which production uses: the shop is closed";
    assert_eq!(plan.notices, [expected]);
}

/// R-UF-3: the latest app-consistent point is the newest of those, announced with its loss, and the one that is used.
#[test]
fn the_latest_app_consistent_point_can_be_chosen() {
    for operation in [Operation::TestFailover, Operation::UnplannedFailover] {
        let mut spec = spec(operation);
        let latest = plan(&spec, &input(operation)).unwrap().estimates[&item("web1")].clone();
        assert_eq!(
            (latest.point, latest.point_consistency),
            (Some(PointSeq::new(20)), Some(Consistency::Crash))
        );
        spec.points = [(item("web1"), PointChoice::LatestAppConsistent)].into();
        let mut facts = input(operation);
        let chosen = plan(&spec, &facts).unwrap();
        let estimate = chosen.estimates[&item("web1")].clone();
        assert_eq!(estimate.point, Some(PointSeq::new(19)));
        assert_eq!(estimate.point_consistency, Some(Consistency::Application));
        assert!(estimate.expected_loss >= latest.expected_loss);
        let used = chosen.steps.iter().find_map(|step| match &step.action {
            Action::Agent {
                item: of,
                work: AgentWork::CreateTestMachine { point, .. } | AgentWork::PromotePoint { point, .. },
                ..
            } if *of == item("web1") => Some(point.clone()),
            _ => None,
        });
        assert_eq!(used, Some(PointRef::Announced));
        // A machine that has shut itself down has nothing to recover either; and a newer point makes no other plan.
        facts.items[0].points[1].consistency = Consistency::Clean;
        let newer = plan(&spec, &facts).unwrap();
        assert_eq!(newer.estimates[&item("web1")].point, Some(PointSeq::new(20)));
        assert_eq!(newer.digest(), chosen.digest());
    }
}

/// R-FO-6: NICs keep their order, and one that nothing is planned for stays unconnected instead of shifting the others.
#[test]
fn nics_keep_their_order() {
    let mut facts = input(Operation::PlannedFailover);
    let nic = facts.items[0].machine.nics[0].clone();
    facts.items[0].machine.nics.push(nic);
    facts.connections.nics[0].index = 1;
    let plan = plan(&spec(Operation::PlannedFailover), &facts).unwrap();
    let promote = plan.step(&"web1.promote".parse().unwrap()).unwrap();
    let Action::Agent { work: AgentWork::PromotePoint { nics, .. }, .. } = &promote.action else { panic!() };
    assert_eq!(*nics, [NetworkRef::Unconnected, NetworkRef::Named("prod".parse().unwrap())]);
}

#[test]
fn a_machine_that_was_off_is_not_started_by_a_cancel() {
    let mut facts = input(Operation::PlannedFailover);
    facts.items[0].machine.power = Power::ShutOff;
    let plan = plan(&spec(Operation::PlannedFailover), &facts).unwrap();
    assert!(plan.step(&"web1.restart".parse().unwrap()).is_none());
    assert!(plan.step(&"db1.restart".parse().unwrap()).is_some());
}

/// R-PF-3, R-UF-4: a planned failover stops at every error before the switch; an unplanned one stops at none.
#[test]
fn error_policies_are_those_of_the_operation() {
    use understudy_recovery::plan::ErrorPolicy::*;
    let policies = |operation| {
        let steps = planned(operation).steps.into_iter();
        steps.filter(|step| step.undoes.is_empty()).map(|step| (step.id.to_string(), step))
    };
    for (id, step) in policies(Operation::PlannedFailover).filter(|(_, step)| !step.point_of_no_return) {
        assert_eq!(step.on_error, StopRun, "{id}");
    }
    let remote = |step: &understudy_recovery::plan::Step| {
        matches!(step.executor, Executor::Host(_) | Executor::NetworkMapper)
    };
    for (id, step) in policies(Operation::UnplannedFailover).filter(|(_, step)| remote(step)) {
        let ends_item = id.ends_with(".promote") || id.ends_with(".start");
        assert_eq!(step.on_error, if ends_item { SkipItem } else { GoOn }, "{id}");
    }
    for (id, step) in policies(Operation::TestFailover) {
        let goes_on = [".probe", ".screenshot", ".set-records"].iter().any(|what| id.ends_with(what));
        assert_eq!(step.on_error, if goes_on { GoOn } else { StopRun }, "{id}");
    }
}

/// A source goes on replicating until every item of the run has proved to be equal at both sides.
#[test]
fn no_replication_is_stopped_before_all_are_compared() {
    let plan = planned(Operation::PlannedFailover);
    for item in ["web1", "db1"] {
        let stop = plan.step(&format!("{item}.stop-replication").parse().unwrap()).unwrap();
        let compared: Vec<String> = stop.after.iter().map(ToString::to_string).collect();
        assert_eq!(compared, ["web1.compare-digests", "db1.compare-digests"]);
    }
}

/// R-UF-3: one instant for the whole run, with an item that has a point of its own; what has none so old is named.
#[test]
fn a_run_at_one_instant_uses_nothing_newer() {
    let operation = Operation::UnplannedFailover;
    let mut facts = input(operation);
    // db1 got its latest point half a second before web1 did.
    facts.items[1].points[1].instant = facts.items[0].points[1].instant.minus(Duration::from_millis(500));
    let chosen = |spec: &RunSpec| {
        let plan = plan(spec, &facts).unwrap_or_else(|problems| panic!("{problems:#?}"));
        plan.estimates.values().map(|estimate| estimate.point.unwrap().get()).collect::<Vec<_>>()
    };
    // In the order of their names: db1, web1.
    let at = |instant| RunSpec { instant: Some(instant), ..spec(operation) };
    assert_eq!(chosen(&spec(operation)), [20, 20], "each its latest");
    assert_eq!(chosen(&at(Instant::Latest)), [20, 19]);
    let early = Instant::AtOrBefore(facts.items[0].points[0].instant);
    assert_eq!(chosen(&at(early)), [19, 19]);
    let own = RunSpec { points: [(item("web1"), PointChoice::Seq(PointSeq::new(20)))].into(), ..at(early) };
    assert_eq!(chosen(&own), [19, 20]);
    let problems = plan(&at(Instant::AtOrBefore(UnixMicros::new(1))), &facts).unwrap_err();
    let reasons: Vec<_> = problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(reasons, ["NO_POINT_AT_INSTANT", "NO_POINT_AT_INSTANT"]);
    let planned = RunSpec { instant: Some(Instant::Latest), ..spec(Operation::PlannedFailover) };
    let problems = plan(&planned, &input(Operation::PlannedFailover)).unwrap_err();
    assert_eq!(problems[0].reason, "OPTION_NOT_APPLICABLE");
}
