//! R-NET-12: clients find the machine where it is.

use understudy_ids::StepName;
use understudy_recovery::{
    Operation, RunSpec,
    action::{Action, NetworkWork},
    plan::{Change, ErrorPolicy, Flaw, Phase, Stage, Step, Synchronise, lint, plan},
    run::{self, RunState, RunVerb},
};

use crate::{
    runs::theatre,
    theatre::{Act, OLD_ADDRESS},
    world::{alpha, bravo, input, planned, spec},
};

const FAILOVERS: [Operation; 2] = [Operation::PlannedFailover, Operation::UnplannedFailover];

fn step(steps: &[Step], id: &str) -> Step {
    steps.iter().find(|step| step.id.as_str() == id).unwrap_or_else(|| panic!("{id}")).clone()
}

#[test]
fn names_are_switched_behind_the_start_and_what_was_asked_of_the_machine() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover, Operation::TestFailover] {
        let plan = planned(operation);
        let set = step(&plan.steps, "web1.set-records");
        assert_eq!(set.after, ["web1.screenshot".parse::<StepName>().unwrap()], "{operation}");
        assert_eq!((set.phase, set.on_error), (Phase::Route, ErrorPolicy::GoOn));
        let Action::Network(NetworkWork::SetRecords { records, .. }) = &set.action else { panic!() };
        let said = format!("See to it that {} has 192.168.50.11", records[0].name);
        assert_eq!(set.title, said, "what the preview shows");
        let wait = if operation == Operation::TestFailover { "complete-test" } else { "commit" };
        assert!(step(&plan.steps, wait).after.contains(&set.id), "{operation}");
    }
    let restore = step(&planned(Operation::TestFailover).steps, "web1.restore-records");
    assert_eq!((restore.stage, restore.undoes[0].as_str()), (Stage::Cleanup, "web1.set-records"));
}

#[test]
fn an_item_without_a_name_has_no_step_and_an_address_that_is_not_known_is_said() {
    for operation in FAILOVERS {
        let mut facts = input(operation);
        facts.connections.records.remove(1);
        facts.connections.hooks.clear();
        let record = &mut facts.connections.records[0];
        (record.address, record.reason) = (None, "only the DHCP server knows".to_owned());
        let plan = plan(&spec(operation), &facts).unwrap();
        assert!(plan.steps.iter().all(|step| step.phase != Phase::Route));
        assert_eq!(plan.notices, ["web1.shop.example. is left as it is: only the DHCP server knows"]);
    }
}

/// "A test never touches production": no plan that does leaves the planner, and none of a failover that writes to a zone for tests.
#[test]
fn r_net_12_a_plan_that_writes_to_zones_of_another_purpose_is_none() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover, Operation::TestFailover] {
        let of_other = if operation == Operation::TestFailover {
            Operation::PlannedFailover
        } else {
            Operation::TestFailover
        };
        let mut facts = input(operation);
        facts.connections.records = input(of_other).connections.records;
        let problems = plan(&spec(operation), &facts).unwrap_err();
        assert!(problems.iter().all(|problem| problem.reason == "PLAN_NOT_IN_ORDER"), "{problems:?}");
        let mut plan = planned(operation);
        let set = plan.steps.iter_mut().find(|step| step.phase == Phase::Route).unwrap();
        let Action::Network(NetworkWork::SetRecords { test, .. }) = &mut set.action else { panic!() };
        *test = !*test;
        let id = set.id.clone();
        assert!(lint(&plan).contains(&Flaw::WrongZone(id)), "{operation}");
    }
}

#[test]
fn a_failover_switches_names_and_a_roll_back_restores_them() {
    for operation in FAILOVERS {
        let mut theatre = theatre(operation);
        theatre.until_quiet();
        assert_eq!(theatre.name_says("web1"), Some([192, 168, 50, 11].into()), "{operation}");
        theatre.ask(RunVerb::RollBack);
        let restore = step(&theatre.run.plan.steps, "web1.change-1-restore-records");
        assert!(
            restore.after.iter().any(|id| id.as_str() == "web1.change-1-start"),
            "not before it runs there"
        );
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::RolledBack, "{operation}");
        assert_eq!(
            (theatre.name_says("web1"), theatre.name_says("db1")),
            (Some(OLD_ADDRESS), None),
            "{operation}"
        );
    }
}

/// R-NET-12: at a failback clients are led home when the machine is there, in either form, and not while it is copied.
#[test]
fn a_failback_leads_clients_home_when_it_is_completed() {
    for synchronise in [Synchronise::Before, Synchronise::During] {
        let spec = RunSpec { synchronise, ..spec(Operation::Failback) };
        let plan = plan(&spec, &input(Operation::Failback)).unwrap();
        let mut theatre = crate::theatre::Theatre::new(plan, spec);
        theatre.until_quiet();
        if synchronise == Synchronise::Before {
            assert!(
                !theatre.done.iter().any(|step| step.as_str().contains("set-records")),
                "led away too early"
            );
            theatre.ask(RunVerb::CompleteFailover);
            theatre.until_quiet();
        }
        assert_eq!(run::allowed_actions(&theatre.run).first(), Some(&RunVerb::Commit), "{synchronise:?}");
        let place = |what: &str| theatre.done.iter().position(|step| step.as_str().ends_with(what));
        assert!(
            place("set-records").is_some() && place("set-records") > place("start"),
            "{:?}",
            theatre.done
        );
        assert_eq!(theatre.name_says("web1"), Some([192, 168, 50, 11].into()), "{synchronise:?}");
    }
}

/// A way back is not planned for names that the run never had.
#[test]
fn a_roll_back_restores_nothing_where_nothing_was_set() {
    let mut facts = input(Operation::PlannedFailover);
    facts.connections.records.clear();
    let spec = spec(Operation::PlannedFailover);
    let mut theatre = crate::theatre::Theatre::new(plan(&spec, &facts).unwrap(), spec);
    theatre.until_quiet();
    theatre.old_side_returns();
    theatre.change(&Change::RollBack { give_up_writes: true }).unwrap();
    assert!(theatre.run.plan.steps.iter().all(|step| !step.id.as_str().ends_with("restore-records")));
}

/// ADR 0033: a DNS server that is broken keeps no machine off and no failover from its commit, and it is told.
#[test]
fn a_name_that_cannot_be_switched_keeps_nothing_from_going_on() {
    for operation in FAILOVERS {
        for act in [Act::Fail, Act::Silence] {
            let mut theatre = theatre(operation);
            let reached =
                theatre.play_to_the_end_with(&"web1.set-records".parse().unwrap(), act, RunVerb::Retry);
            assert!(reached);
            assert_eq!(run::state(&theatre.run), RunState::CompletedWithErrors, "{operation} {act:?}");
            assert_eq!(
                theatre.name_says("db1"),
                Some([192, 168, 50, 12].into()),
                "the other item's is switched"
            );
        }
    }
}

/// Whoever is called is told where the machine is, is told again when it goes back, and is never told of a test.
#[test]
fn hooks_are_called_behind_the_start_and_again_on_the_way_back() {
    let (mut lb, mut web1) = ("lb".parse().unwrap(), crate::world::item("web1"));
    for operation in FAILOVERS {
        let plan = planned(operation);
        let call = step(&plan.steps, "web1.call-lb");
        assert_eq!(call.after, ["web1.screenshot".parse::<StepName>().unwrap()], "beside the names");
        let Action::Network(NetworkWork::CallHook(change)) = &call.action else { panic!() };
        assert_eq!(
            (&change.to, change.generation, change.roll_back),
            (&bravo(), plan.items[0].generation, false)
        );
        assert_eq!(change.addresses, [std::net::Ipv4Addr::new(192, 168, 50, 11)]);
        let mut theatre = theatre(operation);
        theatre.until_quiet();
        let key = (lb, web1);
        assert_eq!(theatre.hooks.get(&key), Some(&bravo()));
        theatre.ask(RunVerb::RollBack);
        let back = step(&theatre.run.plan.steps, "web1.change-1-call-lb");
        let Action::Network(NetworkWork::CallHook(change)) = &back.action else { panic!() };
        assert!(change.roll_back && change.generation > plan.items[0].generation && change.step == back.id);
        theatre.until_quiet();
        assert_eq!(theatre.hooks.get(&key), Some(&alpha()), "{operation}");
        (lb, web1) = key;
    }
    let mut facts = input(Operation::TestFailover);
    facts.connections.hooks = input(Operation::PlannedFailover).connections.hooks;
    let problems = plan(&spec(Operation::TestFailover), &facts).unwrap_err();
    assert!(problems.iter().all(|problem| problem.reason == "PLAN_NOT_IN_ORDER"), "{problems:?}");
}
