//! Every reason for which a plan is refused, and that all of them are told at once (R-REP-1, R-FO-2).

use std::{collections::BTreeMap, time::Duration};

use understudy_ids::{Consistency, HostName, PointChoice, PointSeq, Problem, RunId};
use understudy_netplan::SplitSubnet;
use understudy_recovery::{
    Operation, PlanInput, RunSpec,
    conflict::OpenRun,
    direction::SiteKind,
    item::ItemState,
    plan::{Power, Synchronise, plan},
    test_network::TestNetwork,
};

use crate::world::{LAB, alpha, bravo, elsewhere, input, item, on_lab, on_production, spec};

fn refusals(operation: Operation, change: impl FnOnce(&mut RunSpec, &mut PlanInput)) -> Vec<Problem> {
    let (mut spec, mut input) = (spec(operation), input(operation));
    change(&mut spec, &mut input);
    plan(&spec, &input).map(|plan| panic!("planned: {plan:#?}")).unwrap_err()
}

#[track_caller]
fn assert_refused(operation: Operation, reason: &str, change: impl FnOnce(&mut RunSpec, &mut PlanInput)) {
    let problems = refusals(operation, change);
    let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|found| *found == reason),
        "{operation}: {problems:#?}"
    );
    for problem in &problems {
        let told = [&problem.subject, &problem.message, &problem.remedy];
        assert!(told.into_iter().all(|text| !text.is_empty()), "{problem:?}");
    }
}

/// R-REP-10: an encrypted point is of no use to a host that does not have its key for long enough, and nothing is begun.
#[test]
fn encrypted_points_without_their_key() {
    use Operation::*;
    for operation in [TestFailover, PlannedFailover, UnplannedFailover] {
        let now = input(operation).now;
        let rows = [
            (None, Some("KEY_MISSING")),
            (Some(now.minus(Duration::from_secs(1))), Some("KEY_EXPIRED")),
            (Some(now.plus(Duration::from_secs(30))), Some("KEY_EXPIRED")),
            (Some(now.plus(Duration::from_secs(3600))), None),
        ];
        for (unlocked_until, reason) in rows {
            let lock = |input: &mut PlanInput| {
                for point in &mut input.items[0].points {
                    (point.encrypted, point.unlocked_until) = (true, unlocked_until);
                }
            };
            match reason {
                Some(reason) => assert_refused(operation, reason, |_, input| lock(input)),
                None => {
                    let mut input = input(operation);
                    lock(&mut input);
                    assert!(plan(&spec(operation), &input).is_ok(), "{operation}");
                }
            }
        }
    }
}

/// Of several points, the one that is chosen must be open.
#[test]
fn only_the_chosen_point_has_to_be_open() {
    let mut input = input(Operation::TestFailover);
    input.items[0].points[0].encrypted = true;
    assert!(plan(&spec(Operation::TestFailover), &input).is_ok(), "the latest is not encrypted");
    assert_refused(Operation::TestFailover, "KEY_MISSING", |spec, input| {
        input.items[0].points[0].encrypted = true;
        spec.points = [(item("web1"), PointChoice::Seq(PointSeq::new(19)))].into();
    });
}

#[test]
fn options_that_the_operation_would_ignore() {
    use Operation::*;
    type Set = fn(&mut RunSpec);
    let options: [(Set, &[Operation]); 8] = [
        (
            |spec| spec.points = [(item("web1"), PointChoice::LatestAppConsistent)].into(),
            &[TestFailover, UnplannedFailover],
        ),
        (|spec| spec.primary_down_assertion = Some("dark".to_owned()), &[UnplannedFailover]),
        (|spec| spec.test_network = TestNetwork::None, &[TestFailover]),
        (|spec| spec.no_reverse_replication = true, &[PlannedFailover, Failback]),
        (|spec| spec.standby_host = Some(elsewhere()), &[ReverseReplicate, Failback]),
        (|spec| spec.synchronise = Synchronise::During, &[Failback]),
        (|spec| spec.allow_partial_subnet = true, &[PlannedFailover, UnplannedFailover, Failback]),
        (|spec| spec.delete_replica = true, &[Unprotect]),
    ];
    for (set, used_by) in options {
        for operation in Operation::ALL {
            if used_by.contains(&operation) {
                let mut spec = spec(operation);
                set(&mut spec);
                assert!(plan(&spec, &input(operation)).is_ok(), "{operation}");
            } else {
                assert_refused(operation, "OPTION_NOT_APPLICABLE", |spec, _| set(spec));
            }
        }
    }
}

/// R-TF-2: production only with a reason on record, a reason only for production, and only what the kind of site allows.
#[test]
fn networks_that_a_test_may_not_use() {
    let reasons = |(spec, facts): (RunSpec, PlanInput)| -> Vec<String> {
        plan(&spec, &facts).err().unwrap_or_default().into_iter().map(|p| p.reason).collect()
    };
    let because = |why: Option<&str>| TestNetwork::Existing {
        network: LAB.parse().unwrap(),
        connect_to_production: why.map(str::to_owned),
    };
    assert_eq!(reasons(on_lab()), [""; 0]);
    let with = |(asked, facts): (RunSpec, PlanInput), why: Option<&str>| {
        reasons((RunSpec { test_network: because(why), ..asked }, facts))
    };
    assert_eq!(with(on_lab(), Some("I may")), ["NOT_A_PRODUCTION_NETWORK"]);
    assert_eq!(with(on_production(), None), ["PRODUCTION_NETWORK"]);
    assert_eq!(with(on_production(), Some(" ")), ["INVALID_REASON"]);

    let at_a_cloud = |(spec, mut facts): (RunSpec, PlanInput)| {
        facts.hosts.get_mut(&bravo()).unwrap().site_kind = SiteKind::PublicCloud;
        reasons((spec, facts))
    };
    let automatic = (spec(Operation::TestFailover), input(Operation::TestFailover));
    assert_eq!(at_a_cloud(automatic), ["NETWORK_CHOICE_NOT_SUPPORTED"; 2]);
    assert_eq!(at_a_cloud(on_lab()), [""; 0]);
}

/// R-NET-4: a subnet whose addresses are retained goes as a whole, unless somebody says otherwise, which is shown.
#[test]
fn subnets_of_which_machines_stay_behind() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover] {
        let mut facts = input(operation);
        facts.connections.split_subnets = vec![SplitSubnet {
            network: "sites/alpha/networks/prod".parse().unwrap(),
            staying: [item("mail1"), item("mail2")].into(),
        }];
        let problems = plan(&spec(operation), &facts).unwrap_err();
        let found: Vec<_> = problems.iter().map(|p| (p.reason.as_str(), p.subject.as_str())).collect();
        assert_eq!(found, [("PARTIAL_SUBNET", "sites/alpha/networks/prod")]);
        assert!(problems[0].message.contains("mail1, mail2"), "{}", problems[0]);
        let allowed = RunSpec { allow_partial_subnet: true, ..spec(operation) };
        let notices = plan(&allowed, &facts).unwrap().notices;
        assert!(notices[0].contains("stay behind: mail1, mail2"), "{notices:?}");
    }
}

/// R-NET-7: every operation that connects machines to a network that has to be there looks whether it is. Not being told is no *no*.
#[test]
fn networks_that_the_host_does_not_have() {
    use Operation::*;
    let with = |networks: Option<&[&str]>, (spec, mut facts): (RunSpec, PlanInput)| {
        let told = networks.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
        facts.hosts.get_mut(&bravo()).unwrap().networks = told;
        plan(&spec, &facts)
    };
    let of = |operation| (spec(operation), input(operation));
    for asked in [of(PlannedFailover), of(UnplannedFailover), on_lab()] {
        let refused = with(Some(&["other"]), asked.clone()).unwrap_err();
        let found: Vec<_> = refused.iter().map(|p| (p.reason.as_str(), p.subject.as_str())).collect();
        assert_eq!(found, [("NETWORK_NOT_ON_HOST", "sites/bravo/hosts/bravo-h1")], "{}", asked.0.operation);
        let notices = with(None, asked).unwrap().notices;
        assert!(notices[0].starts_with("whether bravo/bravo-h1 has network "), "{notices:?}");
    }
    for asked in [of(TestFailover), of(Protect), of(ReverseReplicate)] {
        let plan = with(Some(&[]), asked).unwrap();
        assert_eq!(plan.notices, [""; 0], "a network that the run makes, or none, has to be nowhere");
    }
}

#[test]
fn requests_that_name_the_wrong_things() {
    use Operation::*;
    assert_refused(TestFailover, "INVALID_ITEM_COUNT", |spec, _| spec.items.clear());
    assert_refused(TestFailover, "DUPLICATE_ITEM", |spec, _| spec.items.push(item("web1")));
    assert_refused(TestFailover, "ITEM_NOT_FOUND", |spec, _| spec.items.push(item("ghost")));
    assert_refused(TestFailover, "POINT_WITHOUT_ITEM", |spec, _| {
        spec.points.insert(item("other"), PointChoice::Seq(PointSeq::new(1)));
    });
    assert_refused(UnplannedFailover, "INVALID_ASSERTION", |spec, _| {
        spec.primary_down_assertion = Some("  ".to_owned());
    });
}

/// R-TF-7: what stands against promoting the machines of a test, all at once.
#[test]
fn a_test_that_cannot_be_promoted() {
    use Operation::{TestFailover, UnplannedFailover};
    let test = RunId::from_u128(7);
    let open = |rehearsed: &[&str]| OpenRun {
        id: test,
        operation: TestFailover,
        items: vec![item("web1"), item("db1")],
        rolls_back: false,
        rehearsed: rehearsed.iter().map(|name| (item(name), PointSeq::new(19))).collect(),
    };
    assert_refused(UnplannedFailover, "TEST_NOT_FOUND", |spec, _| spec.promote_test = Some(test));
    assert_refused(UnplannedFailover, "TEST_NOT_FOUND", |spec, facts| {
        spec.promote_test = Some(test);
        facts.open_runs = vec![open(&[])];
    });
    assert_refused(UnplannedFailover, "ITEM_NOT_IN_TEST", |spec, facts| {
        spec.promote_test = Some(test);
        facts.open_runs = vec![open(&["web1"])];
    });
    let problems = refusals(UnplannedFailover, |spec, facts| {
        spec.promote_test = Some(test);
        spec.points = [(item("web1"), PointChoice::Seq(PointSeq::new(20)))].into();
        spec.synchronise_within = Some(Duration::from_secs(60));
        facts.open_runs = vec![open(&["web1"])];
    });
    let told: Vec<(&str, &str)> = problems.iter().map(|p| (p.reason.as_str(), p.subject.as_str())).collect();
    let expected = [
        ("OPTION_NOT_APPLICABLE", "spec.points"),
        ("OPTION_NOT_APPLICABLE", "spec.synchronise_within"),
        ("ITEM_NOT_IN_TEST", "protectedItems/db1"),
    ];
    assert_eq!(told, expected);
}

/// R-FB-3: all that another host needs to become the standby side.
#[test]
fn another_standby_host_that_will_not_do() {
    use Operation::ReverseReplicate;
    let towards =
        |host: HostName| move |spec: &mut RunSpec, _: &mut PlanInput| spec.standby_host = Some(host.clone());
    assert_refused(ReverseReplicate, "SAME_HOST", towards(bravo()));
    assert_refused(ReverseReplicate, "HOST_NOT_FOUND", towards("alpha/ghost".parse().unwrap()));
    assert_refused(ReverseReplicate, "HOST_NOT_CONNECTED", |spec, input| {
        spec.standby_host = Some(elsewhere());
        input.hosts.get_mut(&elsewhere()).unwrap().connected = false;
    });
    assert_refused(ReverseReplicate, "NOT_ENOUGH_SPACE", |spec, input| {
        spec.standby_host = Some(elsewhere());
        input.hosts.get_mut(&elsewhere()).unwrap().store_free_bytes = 1;
    });
    assert_refused(ReverseReplicate, "NAME_IN_USE", |spec, input| {
        spec.standby_host = Some(elsewhere());
        let machines = &mut input.hosts.get_mut(&elsewhere()).unwrap().machines;
        machines.insert("web1".parse().unwrap(), None);
    });
}

/// Invariant 10: an operation in a state whose row does not exist.
#[test]
fn items_in_the_wrong_state() {
    for operation in Operation::ALL {
        for state in ItemState::ALL {
            let fits = match operation.verb() {
                Some(verb) => understudy_recovery::item::next(state, verb).is_ok(),
                None => state == ItemState::InitialReplication,
            };
            if !fits {
                let problems = refusals(operation, |_, facts| facts.items[0].state = state);
                assert!(problems.iter().any(|p| p.reason == "WRONG_ITEM_STATE"), "{operation} of {state}");
            }
        }
    }
}

/// Invariant 11, R-TF-7: the run in the way is named.
#[test]
fn runs_in_the_way_are_named() {
    let id = RunId::from_u128(7);
    for running in Operation::ALL {
        let real = [Operation::PlannedFailover, Operation::UnplannedFailover];
        let gives_way = |to: &Operation| running == Operation::TestFailover && real.contains(to);
        for operation in Operation::ALL.into_iter().filter(|to| !gives_way(to)) {
            let problems = refusals(operation, |_, facts| {
                facts.open_runs = vec![OpenRun {
                    id,
                    operation: running,
                    items: vec![item("db1")],
                    rolls_back: false,
                    rehearsed: BTreeMap::new(),
                }];
            });
            assert_eq!(problems.len(), 1);
            assert_eq!(
                (problems[0].reason.as_str(), problems[0].subject.as_str()),
                ("RUN_IN_THE_WAY", "protectedItems/db1")
            );
            assert!(problems[0].remedy.contains(&format!("jobs/{id}")), "{}", problems[0]);
        }
    }
}

/// R-UF-1: an unplanned failover and a test need the standby side only; invariant 16 for the rest.
#[test]
fn hosts_that_are_needed_and_cannot_be_heard() {
    use Operation::*;
    for (operation, at_alpha, at_bravo) in [
        (Protect, true, true),
        (Unprotect, true, false),
        (TestFailover, false, true),
        (PlannedFailover, true, true),
        (UnplannedFailover, false, true),
        (ReverseReplicate, true, true),
        (Failback, true, true),
    ] {
        for (host, needed) in [(alpha(), at_alpha), (bravo(), at_bravo)] {
            let mut facts = input(operation);
            facts.hosts.get_mut(&host).unwrap().connected = false;
            let refused = plan(&spec(operation), &facts).err().unwrap_or_default();
            let silent = refused.iter().any(|problem| problem.reason == "HOST_NOT_CONNECTED");
            assert_eq!(silent, needed, "{operation} without {host}: {refused:?}");
        }
    }
    let problems = refusals(Protect, |_, facts| _ = facts.hosts.remove(&bravo()));
    assert!(problems.iter().any(|problem| problem.reason == "HOST_NOT_FOUND"));
}

#[test]
fn directions_that_do_not_exist() {
    let kinds = |source, target| {
        move |_: &mut RunSpec, facts: &mut PlanInput| {
            facts.hosts.get_mut(&alpha()).unwrap().site_kind = source;
            facts.hosts.get_mut(&bravo()).unwrap().site_kind = target;
        }
    };
    let reason = "DIRECTION_NOT_SUPPORTED";
    assert_refused(Operation::PlannedFailover, reason, kinds(SiteKind::Vmware, SiteKind::PublicCloud));
    assert_refused(Operation::TestFailover, reason, kinds(SiteKind::PublicCloud, SiteKind::Hypervisor));
    assert_refused(Operation::Protect, reason, kinds(SiteKind::Hypervisor, SiteKind::Physical));
    assert_refused(Operation::TestFailover, "MIXED_DIRECTIONS", |_, facts| {
        let view = &mut facts.items[0];
        (view.active_host, view.standby_host) = (bravo(), alpha());
        view.points.iter_mut().for_each(|point| point.host = alpha());
    });
    assert_refused(Operation::Protect, "SAME_HOST", |_, facts| facts.items[0].standby_host = alpha());
}

/// R-PF-1, R-UF-3
#[test]
fn points_that_are_not_there_or_are_no_recovery_points() {
    use Operation::*;
    for operation in [TestFailover, PlannedFailover, UnplannedFailover] {
        assert_refused(operation, "NO_RECOVERY_POINT", |_, facts| facts.items[0].points.clear());
        assert_refused(operation, "NO_RECOVERY_POINT", |_, facts| {
            facts.items[0].points.iter_mut().for_each(|point| point.is_base = true);
        });
    }
    for operation in [TestFailover, UnplannedFailover] {
        assert_refused(operation, "POINT_NOT_FOUND", |spec, _| {
            spec.points.insert(item("web1"), PointChoice::Seq(PointSeq::new(7)));
        });
        assert_refused(operation, "NO_APP_CONSISTENT_POINT", |spec, facts| {
            spec.points.insert(item("web1"), PointChoice::LatestAppConsistent);
            facts.items[0].points.iter_mut().for_each(|point| point.consistency = Consistency::Crash);
        });
    }
}

/// Invariant 16: silence is not *off*. Only a host that is heard and says so, or a person on record, will do.
#[test]
fn an_unplanned_failover_needs_to_know_that_the_primary_is_down() {
    let operation = Operation::UnplannedFailover;
    for (connected, power) in
        [(false, Power::ShutOff), (true, Power::Running), (true, Power::Unknown), (true, Power::Paused)]
    {
        assert_refused(operation, "PRIMARY_DOWN_ASSERTION_REQUIRED", |spec, facts| {
            spec.primary_down_assertion = None;
            facts.hosts.get_mut(&alpha()).unwrap().connected = connected;
            facts.items.iter_mut().for_each(|item| item.machine.power = power);
        });
    }
    let (mut spec, mut facts) = (spec(operation), input(operation));
    spec.primary_down_assertion = None;
    facts.hosts.get_mut(&alpha()).unwrap().connected = true;
    facts.items.iter_mut().for_each(|item| item.machine.power = Power::ShutOff);
    assert!(plan(&spec, &facts).is_ok());
}

#[test]
fn machines_disks_and_targets_that_do_not_fit() {
    use Operation::*;
    for power in [Power::Paused, Power::Unknown] {
        assert_refused(PlannedFailover, "MACHINE_STATE_UNSUITABLE", |_, facts| {
            facts.items[1].machine.power = power
        });
    }
    assert_refused(Protect, "NO_DISKS", |_, facts| facts.items[0].disks.clear());
    assert_refused(Protect, "DISK_NOT_FOUND", |_, facts| facts.items[0].disks.push("vdz".parse().unwrap()));
    assert_refused(Protect, "DISK_NOT_REPLICABLE", |_, facts| {
        facts.items[1].machine.disks[1].replicable = false
    });
    assert_refused(Protect, "NOT_ENOUGH_SPACE", |_, facts| {
        facts.hosts.get_mut(&bravo()).unwrap().store_free_bytes = (1 << 30) - 1;
    });
    for operation in [Protect, PlannedFailover, UnplannedFailover] {
        assert_refused(operation, "NAME_IN_USE", |_, facts| {
            let machines = &mut facts.hosts.get_mut(&bravo()).unwrap().machines;
            machines.insert("web1".parse().unwrap(), None);
            machines.insert("db1".parse().unwrap(), Some(item("db1")));
        });
    }
    assert_refused(TestFailover, "NAME_TOO_LONG", |_, facts| {
        facts.items[0].machine.name = "x".repeat(60).parse().unwrap();
    });
}

/// The network's problems are those of the run, where the run connects anything.
#[test]
fn problems_of_the_network_count_where_it_is_used() {
    let problem = Problem::new("NO_MAPPING", "sites/alpha/networks/prod", "not mapped", "Map it.");
    for operation in [Operation::TestFailover, Operation::PlannedFailover, Operation::UnplannedFailover] {
        assert_refused(operation, "NO_MAPPING", |_, facts| facts.connections.problems.push(problem.clone()));
    }
    let mut facts = input(Operation::TestFailover);
    facts.connections.problems.push(problem);
    let unconnected = RunSpec { test_network: TestNetwork::None, ..spec(Operation::TestFailover) };
    assert!(plan(&unconnected, &facts).is_ok());
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let problems = refusals(Operation::PlannedFailover, |spec, facts| {
        spec.test_network = TestNetwork::None;
        spec.items.push(item("ghost"));
        facts.items[0].points.clear();
        facts.items[1].machine.power = Power::Unknown;
        facts.hosts.get_mut(&bravo()).unwrap().connected = false;
        facts.open_runs = vec![OpenRun {
            id: RunId::nil(),
            operation: Operation::ReverseReplicate,
            items: vec![item("web1")],
            rolls_back: false,
            rehearsed: BTreeMap::new(),
        }];
    });
    let mut reasons: Vec<&str> = problems.iter().map(|problem| problem.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let expected = [
        "HOST_NOT_CONNECTED",
        "ITEM_NOT_FOUND",
        "MACHINE_STATE_UNSUITABLE",
        "NO_RECOVERY_POINT",
        "OPTION_NOT_APPLICABLE",
        "RUN_IN_THE_WAY",
    ];
    assert_eq!(reasons, expected);
}

/// R-REP-5: a point that a scrub has found damaged is refused in the preview, with the next older whole one as the way out.
#[test]
fn r_rep_5_damaged_points_are_refused_and_the_latest_whole_one_is_the_default() {
    use Operation::*;
    fn damage(input: &mut PlanInput, seqs: &[u64]) {
        for point in input.items.iter_mut().flat_map(|item| &mut item.points) {
            if seqs.contains(&point.seq.get()) {
                point.damaged_blocks = 3;
            }
        }
    }
    for operation in [TestFailover, UnplannedFailover] {
        let problems = refusals(operation, |spec, input| {
            spec.items = vec![item("web1")];
            spec.points = [(item("web1"), PointChoice::Seq(PointSeq::new(20)))].into();
            damage(input, &[20]);
        });
        assert_eq!(problems[0].reason, "POINT_DAMAGED", "{problems:#?}");
        assert!(problems[0].remedy.contains("Choose point 19"), "{problems:#?}");
        let (spec, mut input) = (spec(operation), input(operation));
        damage(&mut input, &[20]);
        let plan = plan(&spec, &input).unwrap();
        let shown = plan.estimates.values().map(|estimate| estimate.point);
        assert!(shown.clone().count() > 0 && shown.clone().all(|point| point == Some(PointSeq::new(19))));
        // The number of the next point still follows the damaged one's.
        assert!(plan.estimates.values().all(|e| e.highest_point >= Some(PointSeq::new(20))));
    }
    for operation in [TestFailover, PlannedFailover, UnplannedFailover] {
        assert_refused(operation, "POINT_DAMAGED", |_, input| damage(input, &[19, 20]));
    }
}

/// R-REP-8: a paused item has no last delta; a test uses a point that is there, and an unplanned failover does without one.
#[test]
fn a_planned_failover_of_a_paused_item() {
    assert_refused(Operation::PlannedFailover, "REPLICATION_PAUSED", |_, input| input.items[0].paused = true);
    for operation in [Operation::TestFailover, Operation::UnplannedFailover, Operation::Unprotect] {
        let mut input = input(operation);
        input.items.iter_mut().for_each(|item| item.paused = true);
        assert!(plan(&spec(operation), &input).is_ok(), "{operation}");
    }
}
